"""A Bayesian mixture over functions with noisy labels: what it pays to learn a truth, and why."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.models.boolean_nets import BooleanNets
from unseen.worlds.clusters.boolean import bit_strings


class BayesMixture(eqx.Module):
    """Sequential prediction of labels -1 and 1 by the mixture of all functions under a prior, where labels are a
    function's values inverted with a known probability.

    Everything is exact, by enumeration. Data enter as a *tally*: for every input the number of labels 1 minus the
    number of labels -1 seen there.

    Source: Feder et al. (2025, arXiv 2506.07661).

    Attributes:
        functions: values of every function at every input, -1 or 1.
        log_prior: of each function, -inf for one that is not in the class.
        flip: probability with which a label is inverted.
    """

    functions: Float[Array, "functions inputs"]
    log_prior: Float[Array, " functions"]
    flip: float

    @property
    def log_odds(self) -> float:
        """log (1 - flip)/flip, what one label is worth."""
        return math.log((1 - self.flip) / self.flip)

    def regret(
        self, tally: Float[Array, "*batch inputs"], truth: Float[Array, "*#batch inputs"]
    ) -> Float[Array, "*batch"]:
        """Nats that the mixture lost more than the truth on all labels so far.

        Its log-loss telescopes to -log of the evidence, so that no order of the labels matters.

        Args:
            tally: of the labels seen.
            truth: the true function's values.
        """
        gain = self.log_odds / 2 * tally @ self.functions.T
        return self.log_odds / 2 * jnp.sum(tally * truth, -1) - jax.nn.logsumexp(self.log_prior + gain, axis=-1)

    def predict(self, tally: Float[Array, "*batch inputs"]) -> Float[Array, "*batch inputs"]:
        """Probability of label 1 at every input, after the labels seen."""
        posterior = jax.nn.softmax(self.log_prior + self.log_odds / 2 * tally @ self.functions.T, axis=-1)
        return (1 + (1 - 2 * self.flip) * posterior @ self.functions) / 2


def flip_divergence(flip: float) -> float:
    """Divergence in nats between the labels of two functions at an input where they differ:
    (1 - 2 flip) log (1 - flip)/flip."""
    return (1 - 2 * flip) * math.log((1 - flip) / flip)


def hypothesis_weight(
    functions: Float[Array, "functions inputs"], prior: Float[Array, " functions"], truth: Float[Array, " inputs"]
) -> Float[Array, " radii"]:
    """Prior mass of all functions that differ from the truth at no more than 0, 1, 2, ... inputs: the weight of the
    truth with growing neighbourhoods, whose radius in divergence (inputs uniform) is that number over the number of
    inputs, times `flip_divergence`.

    Source: Feder et al. (2025, arXiv 2506.07661), definition of the weight of a hypothesis.
    """
    inputs = functions.shape[1]
    distance = jnp.round((inputs - functions @ truth) / 2).astype(int)
    return jnp.cumsum(jax.ops.segment_sum(prior, distance, inputs + 1))


def regret_bound(weights: Float[Array, " radii"], samples: int, flip: float) -> Float[Array, ""]:
    """min over d of -log(mass within divergence d) + samples d: what the mixture pays in the mean at most, trading a
    bigger neighbourhood against its distance.

    Args:
        weights: as `hypothesis_weight` gives them.
        samples: number of labels.
        flip: probability with which a label is inverted.
    """
    radii = jnp.arange(weights.size) / (weights.size - 1) * flip_divergence(flip)
    return jnp.min(samples * radii - jnp.log(weights))


def count_functions(bits: int, width: int, draws: int, seed: int = 0) -> dict[str, np.ndarray]:
    """How often each Boolean function comes up among networks drawn from the prior of `BooleanNets`, for `artifact`.

    In NumPy, whose normal numbers are several times cheaper on a CPU than JAX's.

    Args:
        bits: up to 4.
        width: hidden units of the networks.
        draws: number of networks.
        seed: of the draws.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    strings = 2**bits
    counts = np.zeros(2**strings, np.int64)
    chunk = max(1, 2**16 // width)  # hidden units of a chunk stay in the processor's cache
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        *weights, read = rng.standard_normal((bits + 1, count, width), np.float32)
        read = read[None]
        for weight in weights:  # strings grow bit by bit: each begins as two that differ in the next one
            read = np.stack([read - weight, read + weight], 1).reshape(-1, count, width)
        np.maximum(read, 0, out=read)
        readout = rng.standard_normal((count, width), np.float32)
        outputs = np.einsum("pmw,mw->pm", read, readout) / math.sqrt(width)
        positive = outputs + rng.standard_normal(count, np.float32) > 0
        counts += np.bincount((1 << np.arange(strings)) @ positive, minlength=counts.size)
    return {"counts": counts}


def label_probability(outputs: Float[Array, "*shape"], flip: float, gain: float) -> Float[Array, "*shape"]:
    """P(label 1) of a network whose answer is the sign of its output, smoothed so that it has a gradient:
    flip + (1 - 2 flip) sigmoid(gain * output). With a large gain it is the flipped sign."""
    return flip + (1 - 2 * flip) * jax.nn.sigmoid(gain * outputs)


def label_divergence(p: Float[Array, "*#shape"], q: Float[Array, "*#shape"]) -> Float[Array, "*#shape"]:
    """Kullback-Leibler divergence in nats of a binary label with probability q from one with probability p."""
    return p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))


def posterior_predictive(
    key: PRNGKeyArray,
    positive: Float[Array, " strings"],
    negative: Float[Array, " strings"],
    *,
    bits: int,
    width: int,
    draws: int,
    flip: float,
    gain: float,
) -> tuple[Float[Array, " strings"], Float[Array, ""]]:
    """P(label 1) at every string under the posterior of `BooleanNets`, by draws from the prior weighted with their
    likelihood; and the effective number of draws, (sum w)^2 / sum w^2.

    Args:
        key: of the draws.
        positive, negative: number of labels 1 and -1 seen at each string.
        bits, width: of the networks.
        draws: rounded up to whole chunks.
        flip, gain: of `label_probability`.
    """
    chunk = min(draws, 20_000)
    strings = jnp.asarray(bit_strings(bits))
    labels = positive.sum() + negative.sum()

    def more(sums: tuple[Array, Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array, Array], None]:
        p = label_probability(BooleanNets(bits, width, chunk, key=key)(strings), flip, gain)
        # Relative to the largest likelihood there can be: no draw overflows, and the likely ones do not vanish.
        log_likelihood = positive @ jnp.log(p) + negative @ jnp.log1p(-p) - labels * math.log(1 - flip)
        weight = jnp.exp(log_likelihood)
        return (sums[0] + weight.sum(), sums[1] + (weight**2).sum(), sums[2] + p @ weight), None

    start = (jnp.zeros(()), jnp.zeros(()), jnp.zeros(len(strings)))
    (total, squares, ones), _ = jax.lax.scan(more, start, jax.random.split(key, -(-draws // chunk)))
    return ones / total, total**2 / squares
