"""Double DQN with the remedies against overfitting that are known from supervised learning and from simulation."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from unseen.lab import UserError
from unseen.learners.q_learning import QLearner, QNetwork, QState
from unseen.learners.replay import Transition
from unseen.methods.pgd import PGDAttack
from unseen.methods.value_heads import Distribution


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemedySet:
    """Remedies against overfitting in reinforcement learning, by what they change; 0 leaves a remedy out.

    The first two change what is learned from, the next two how, the others what is played.

    Attributes:
        intensity, noise: augmentation. Intensities of the planes differ by up to this from 1, the same in a step's
            observation and the next; Gaussian noise of a standard deviation from 0 up to this, fresh in both.
        dropout: share of hidden units that are left out in training.
        weight_decay: decoupled, of Adam.
        radius: adversarial observations: each is moved within an L2 ball so that its loss is larger.
        sticky, wind: dynamics randomisation: every episode's probabilities are drawn from 0 up to these, the wind's
            direction too.
        values: reward randomisation: every episode's values of objects are drawn uniformly within this of 0.
        attack_steps: of gradient ascent.

    Source: the remedies that Korkmaz (2024, arXiv 2401.02349) sorts by what they transform; among them Laskin et al.
    (2020) for augmentation, Cobbe et al. (2019) for dropout and weight decay, Tobin et al. (2017) for randomisation.
    """

    intensity: float = 0.0
    noise: float = 0.0
    dropout: float = 0.0
    weight_decay: float = 0.0
    radius: float = 0.0
    sticky: float = 0.0
    wind: float = 0.0
    values: float = 0.0
    attack_steps: int = 2

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise UserError(f"{field.name} takes a number from 0 on, got {getattr(self, field.name)}.")
        if self.dropout >= 1 or self.sticky > 1 or self.wind > 0.5:
            raise UserError(
                "RemedySet takes dropout below 1, sticky up to 1 and wind up to 0.5 (in either direction), got "
                f"{self.dropout}, {self.sticky} and {self.wind}."
            )

    def optimizer(self, learning_rate: float) -> optax.GradientTransformation:
        """Adam with the weight decay."""
        return optax.adamw(learning_rate, weight_decay=self.weight_decay)

    def augmented(self, key: Key[Array, ""], batch: Transition) -> Transition:
        """A batch with other looks; the last plane of an observation (values) has noise but no intensity."""
        if not self.intensity and not self.noise:
            return batch
        gain_key, size_key, *noise_keys = jax.random.split(key, 4)
        rows, planes = len(batch.action), batch.observation.shape[-1]
        gains = 1 + self.intensity * jax.random.uniform(gain_key, (rows, 1, 1, planes), minval=-1.0)
        gains = gains.at[..., -1].set(1.0)
        sizes = self.noise * jax.random.uniform(size_key, (rows, 1, 1, 1))
        seen, following = (
            x * gains + sizes * jax.random.normal(k, x.shape)
            for x, k in zip((batch.observation, batch.next_observation), noise_keys, strict=True)
        )
        return batch._replace(observation=seen, next_observation=following)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RemediedQLearner(QLearner):
    """A `QLearner` that learns with remedies; without any it is the `QLearner` itself.

    Those of `RemedySet` that concern the batch and the network are applied in `update`; pass `remedies.optimizer` as
    the optimizer for the third; `Elements.between` makes randomised episodes of the others.

    Example:
        >>> remedies = RemedySet(dropout=0.1, weight_decay=1e-2)
        >>> learner = RemediedQLearner(actions=4, remedies=remedies, optimizer=remedies.optimizer(1e-3))

    Attributes:
        remedies: which, and how strong.
    """

    remedies: RemedySet = dataclasses.field(default_factory=RemedySet)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.share < 1 or self.prior_scale:
            raise UserError(
                f"RemediedQLearner takes share 1 and prior_scale 0, got {self.share} and {self.prior_scale}."
            )

    def loss(self, network: QNetwork, batch: Transition, target: Distribution, key: Key[Array, ""]) -> Float[Array, ""]:
        """Value loss against a target, with some hidden units left out and every observation as bad as it can be."""
        drop, key = jax.random.split(key)
        if self.remedies.radius:
            attack = PGDAttack(radius=self.remedies.radius, steps=self.remedies.attack_steps)
            fixed = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, network)

            def each(observations: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
                return self._losses(fixed, observations, batch, target, None).mean(1)

            batch = batch._replace(observation=jax.lax.stop_gradient(attack(each, batch.observation)))
        total = self._losses(network, batch.observation, batch, target, drop).mean(0).sum()
        if self.auxiliary is not None:
            total = total + self.auxiliary(network.encoder, batch, key)
        return total

    def update(self, state: QState, batch: Transition, key: Key[Array, ""]) -> tuple[QState, Float[Array, ""]]:
        """One update on a batch, augmented if that is among the remedies; its loss is that before it."""
        look, key = jax.random.split(key)
        return super().update(state, self.remedies.augmented(look, batch), key)

    def _losses(
        self,
        network: QNetwork,
        observations: Float[Array, "batch ..."],
        batch: Transition,
        target: Distribution,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "batch members"]:
        found = self._outputs(network, observations, key)
        taken = jax.nn.one_hot(batch.action, self.actions)[:, None, :, None]
        return self.head.loss((found * taken).sum(-2), target)

    def _outputs(
        self, network: QNetwork, observations: Float[Array, "batch ..."], key: Key[Array, ""] | None
    ) -> Float[Array, "batch members actions outputs"]:
        if not self.remedies.dropout or key is None:
            return jax.vmap(network)(observations)
        features = jax.vmap(network.encoder)(observations)
        keep = 1 - self.remedies.dropout

        def thinned(trunk: eqx.nn.MLP, key: Key[Array, ""]) -> Float[Array, "batch numbers"]:
            x = features
            for layer, k in zip(trunk.layers[:-1], jax.random.split(key, self.depth), strict=True):
                x = jax.nn.relu(jax.vmap(layer)(x))
                x = x * jax.random.bernoulli(k, keep, x.shape) / keep
            return jax.vmap(trunk.layers[-1])(x)

        found = eqx.filter_vmap(thinned)(network.trunks, jax.random.split(key, self.members))
        return jnp.moveaxis(found, 0, 1).reshape(len(features), self.members, self.actions, self.head.size)
