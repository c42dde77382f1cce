"""A small study for the laboratory's own tests: every kind of part that the engine knows."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from unseen import Learner, Study, claim, judge, part
from unseen.lab import figures, statistics


class Toy(Study):
    """Noisy descent on a fixed tanh layer."""

    width: int = 16  # number of units
    steps: int = 60  # updates of the noisy descent
    pause: float = 0.0  # seconds that each host round sleeps
    poison: int = -1  # the seed whose noise is NaN, for tests of divergence

    varies = dict(rate=(0.1, 0.01, 0.3), kind=("plain", "stopped"))
    traced = ("rate",)
    smoke = dict(steps=20, seeds=2)
    paper = dict(width=512, steps=100_000)
    watch = ("loss",)

    def learner(self, rate, kind):
        x = jax.random.normal(jax.random.key(0), (32, self.width))

        def init(key):
            key, k = jax.random.split(key)
            bad = (
                jax.random.key_data(key)
                == jax.random.key_data(jax.random.split(jax.random.key(max(self.poison, 0)))[0])
            ).all()
            return dict(w=jax.random.normal(k, (self.width, self.width)), key=key, bad=bad & (self.poison >= 0))

        def loss(w):
            return jnp.mean(jnp.tanh(x @ w) ** 2)

        def advance(state):
            def update(state, _):
                key, k = jax.random.split(state["key"])
                slope = jax.grad(loss)(state["w"]) + 0.01 * jax.random.normal(k, state["w"].shape)
                w = state["w"] - rate * jnp.where(state["bad"], jnp.nan, slope)
                return dict(state, w=w, key=key), None

            return jax.lax.scan(update, state, length=10)[0]

        return Learner(
            init=init,
            advance=advance,
            measure=lambda s: {"loss": loss(s["w"]), "norms": jnp.linalg.norm(s["w"], axis=0)},
            final=lambda s: {"end": loss(s["w"])},
            done=(lambda s: loss(s["w"]) < 0.76) if kind == "stopped" else None,
            steps=self.steps if kind == "plain" else self.steps // 2,
            every=10,
            dims={"norms": ("unit",)},
        )

    @part(varies=dict(amount=(1, 2)))
    def exact(self, amount):
        return Learner.once(lambda key: {"answer": amount * jax.random.uniform(key)})

    @part(varies=dict(word=("x", "y")))
    def outside(self, word):
        def advance(total):
            time.sleep(self.pause)
            return total + len(word)

        return Learner(
            init=lambda key: np.zeros(3),
            advance=advance,
            measure=lambda s: {"total": s.sum()},
            steps=4,
            host=True,
        )

    @claim(
        "falls",
        says="The loss falls.",
        statistic="final loss",
        supported_if="CI upper bound < 0.9",
        refuted_if="CI lower bound > 0.9",
    )
    def falls(self, e):
        ci = statistics.mean_interval(e.end.sel(rate=0.3, kind="plain"))
        return judge(ci, supported=ci.high < 0.9, refuted=ci.low > 0.9)

    def figure(self, e):
        figure, ax = figures.panels()
        figures.curve(ax, e.loss.isel(rate=0).sel(kind="plain"))
        return figure
