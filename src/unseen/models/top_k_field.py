"""A view of a few places that are chosen by what is there."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from unseen.lab import UserError
from unseen.models.local_field import local_field


class TopKField(eqx.Module):
    """Attention from a cell of a grid to the few local fields that suit it best, `k` for each head: the learned form of
    `local_field`, which picks where to look, and still sees no more than so many small fields.

    Attributes:
        look: a field and its place relative to the cell -> features.
        query, value: features of the cell's own field -> a query a head; features -> what is passed on by a head.
        size, heads, k: of a field's side, of heads, of fields that each keeps.

    Source: the top-k attention of Zhao et al. (2024, arXiv 2310.00229), after Gupta et al. (2021): all but the k
        highest scores are dropped before the softmax.
    """

    look: eqx.nn.Linear
    query: eqx.nn.Linear
    value: eqx.nn.Linear
    size: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)
    k: int = eqx.field(static=True)

    def __init__(
        self, planes: int, *, features: int = 16, heads: int = 4, k: int = 4, size: int = 3, key: PRNGKeyArray
    ):
        if k < 1 or heads < 1:
            raise UserError(f"k and heads take whole numbers from 1 on, got {k} and {heads}.")
        first, second, third = jax.random.split(key, 3)
        self.look = eqx.nn.Linear(size * size * planes + 2, features, key=first)
        self.query = eqx.nn.Linear(features, heads * features, use_bias=False, key=second)
        self.value = eqx.nn.Linear(features, heads * features, use_bias=False, key=third)
        self.size, self.heads, self.k = size, heads, k

    def __call__(self, planes: Float[Array, "rows columns planes"], cell: Int[Array, "2"]) -> Float[Array, " numbers"]:
        """heads x features numbers.

        Raises:
            UserError: if there are fewer than `k` cells.
        """
        weights, passed = self.attend(planes, cell)
        return jnp.einsum("hc,chf->hf", weights, passed).ravel()

    def attend(
        self, planes: Float[Array, "rows columns planes"], cell: Int[Array, "2"]
    ) -> tuple[Float[Array, "heads cells"], Float[Array, "cells heads features"]]:
        """Weights of the cells, at most `k` of them not 0 for each head, and what each cell passes on."""
        rows, columns = planes.shape[:2]
        if rows * columns < self.k:
            raise UserError(f"k takes at most the number of cells, {rows * columns}, got {self.k}.")
        places = jnp.stack(jnp.meshgrid(jnp.arange(rows), jnp.arange(columns), indexing="ij"), -1).reshape(-1, 2)

        def features(place: Array) -> Array:
            away = (place - cell) / max(rows, columns)
            return jax.nn.relu(self.look(jnp.concatenate([local_field(planes, place, self.size).ravel(), away])))

        found = jax.vmap(features)(places)
        query = self.query(features(cell)).reshape(self.heads, -1)
        scores = query @ found.T / jnp.sqrt(found.shape[-1])
        _, kept = jax.lax.top_k(scores, self.k)
        mask = jax.nn.one_hot(kept, scores.shape[-1], dtype=bool).any(1)
        passed = jax.vmap(self.value)(found).reshape(len(places), self.heads, -1)
        return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf)), passed
