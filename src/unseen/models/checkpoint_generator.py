"""Where in a layout a walker may be: a conditional variational autoencoder over cells."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from unseen.lab import UserError
from unseen.models.local_field import local_field
from unseen.models.world_model import divergence


class CheckpointGenerator(eqx.Module):
    """Imagines states of the present episode: the layout stays as it is, the body is put elsewhere.

    A latent says roughly where; every cell then scores how well it and its surroundings suit, so that latents mean the
    same and lava is avoided in layouts that were never seen.

    Example:
        >>> generator = CheckpointGenerator((8, 8), planes=3, key=key)
        >>> loss = generator.loss(planes, cell, key)             # minimise over cells that were visited
        >>> checkpoints = generator.sample(planes, 32, key=key)  # numbers of cells

    Attributes:
        encoder: cell, one-hot -> mean and log variance of the latent.
        spread: latent -> features for every cell.
        fuse: features and surroundings of one cell -> logit.
        size: rows and columns.
        beta: weight of the divergence from the prior, not learned.

    Source: Zhao et al. (2024, arXiv 2310.00229): states are split into context and body, and checkpoints fuse drawn
        bodies with the present context. Their latents are categorical.
    """

    encoder: eqx.nn.MLP
    spread: eqx.nn.Linear
    fuse: eqx.nn.MLP
    size: tuple[int, int] = eqx.field(static=True)
    field: int = eqx.field(static=True)
    beta: float = eqx.field(static=True)

    def __init__(
        self, size: tuple[int, int], planes: int, *, latent: int = 4, features: int = 8, width: int = 16,
        field: int = 3, beta: float = 0.1, key: PRNGKeyArray,
    ):  # fmt: skip
        if latent < 1:
            raise UserError(f"latent takes a whole number from 1 on, got {latent}.")
        down, out, up = jax.random.split(key, 3)
        cells = size[0] * size[1]
        self.encoder = eqx.nn.MLP(cells, 2 * latent, 2 * width, 1, key=down)
        self.spread = eqx.nn.Linear(latent, cells * features, key=out)
        self.fuse = eqx.nn.MLP(features + field * field * planes, 1, width, 1, key=up)
        self.size, self.field, self.beta = size, field, beta

    def logits(
        self, planes: Float[Array, "rows columns planes"], latent: Float[Array, " latent"]
    ) -> Float[Array, " cells"]:
        """How much each cell suits a latent."""
        return self._logits(self.surroundings(planes), latent)

    def surroundings(self, planes: Float[Array, "rows columns planes"]) -> Float[Array, "cells numbers"]:
        """What is around each cell."""
        rows, columns = self.size
        places = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij"), -1).reshape(-1, 2)
        return jax.vmap(lambda place: local_field(planes, place, self.field).ravel())(places)

    def loss(
        self, planes: Float[Array, "rows columns planes"], cell: Int[Array, ""], key: Key[Array, ""]
    ) -> Float[Array, ""]:
        """Minus the log probability of the cell after a drawn latent, plus beta times the divergence, in nats."""
        mean, log_variance = jnp.split(self.encoder(jax.nn.one_hot(cell, self.size[0] * self.size[1])), 2)
        log_variance = jnp.clip(log_variance, -10, 4)
        latent = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        again = -jax.nn.log_softmax(self.logits(planes, latent))[cell]
        return again + self.beta * divergence(mean, log_variance)

    def sample(
        self, planes: Float[Array, "rows columns planes"], count: int, *, key: Key[Array, ""]
    ) -> Int[Array, " count"]:
        """Cells, each after a latent from the prior; some may be the same."""
        around = self.surroundings(planes)
        which, where = jax.random.split(key)
        latents = jax.random.normal(which, (count, self.spread.in_features))
        logits = jax.vmap(lambda latent: self._logits(around, latent))(latents)
        return jax.random.categorical(where, logits)

    def _logits(self, around: Float[Array, "cells numbers"], latent: Float[Array, " latent"]) -> Float[Array, " cells"]:
        features = self.spread(latent).reshape(around.shape[0], -1)
        return jax.vmap(lambda *x: self.fuse(jnp.concatenate(x))[0])(features, around)
