"""Many networks in one seed: the same data, other random starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray

from unseen.lab import Learner
from unseen.learners.classifier import Training

ABREAST = 8  # networks that are trained at the same time


def ensemble(learner: Learner, members: int, data: Callable[[PRNGKeyArray], Any]) -> Learner:
    """A `classifier` with `members` networks, which see one dataset and differ in weights and order of batches.

    For hypotheses that fit the same training data. Every measure gets a first dimension `member`.

    Args:
        learner: what `classifier` returns for one network, with a dataset that is drawn from the key.
        members: number of networks.
        data: key -> the dataset of a seed.
    """

    def init(key: PRNGKeyArray) -> Training:
        def start(key: PRNGKeyArray) -> Training:
            return _with_data(learner.init(key), None)

        return _with_data(jax.vmap(start)(jax.random.split(key, members)), data(key))

    def over(function: Callable[[Training], Any]) -> Callable[[Training], Any]:
        """The function of every member, with the one dataset closed over."""

        def all_members(state: Training) -> Any:
            # A few at a time: the activations of all of them would not stay in a processor's cache.
            return jax.lax.map(
                lambda one: function(_with_data(one, state.data)), _with_data(state, None), batch_size=ABREAST
            )

        return all_members

    def advance(state: Training) -> Training:
        after = over(lambda one: _with_data(learner.advance(one), None))(state)
        return _with_data(after, state.data)

    measured = jax.eval_shape(lambda key: _measures(learner, key), jax.random.key(0))
    dims = {name: ("member", *learner.dims.get(name, ())) for name in measured}
    return dataclasses.replace(
        learner,
        init=init,
        advance=advance,
        measure=over(learner.measure),
        final=over(learner.final) if learner.final else None,
        dims=dims,
        coords={**learner.coords, "member": list(range(members))},
    )


def _with_data(state: Training, data: Any) -> Training:
    return eqx.tree_at(lambda s: s.data, state, data, is_leaf=lambda x: x is None)


def _measures(learner: Learner, key: PRNGKeyArray) -> dict[str, Array]:
    state = learner.init(key)
    return {**learner.measure(state), **(learner.final(state) if learner.final else {})}
