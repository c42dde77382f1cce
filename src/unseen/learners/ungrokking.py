"""Finished networks that are trained on with less of their data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from unseen.lab import Learner
from unseen.learners.classifier import Training


class Regression(eqx.Module):
    """The state of the second stage.

    Attributes:
        now: the network in training, with the data that are left.
        before: measures of the finished network, when it still had all its data.
    """

    now: Training
    before: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class UngrokkingProtocol:
    """Train until a network generalises, take training data away, and train on.

    What is taken away is not tested on either: test accuracy is that of examples that no stage has seen, the
    same ones whatever is left. The optimizer starts anew with the second stage.

    Source: Varma et al. (2023, arXiv 2309.02390), section 5.2 (ungrokking).

    Example:
        >>> UngrokkingProtocol(before=classifier(...), after=classifier(...), shrink=keep_training(count)).learner()

    Attributes:
        before: of the first stage; its state is a `Training` whose data are each seed's own (of `classifier` with
            data drawn from a key). It is run to its end when a seed starts.
        after: of the second stage: its updates and measures are used, on the first stage's network.
        shrink: (data, key) -> data of the second stage.
    """

    before: Learner
    after: Learner
    shrink: Callable[[Any, PRNGKeyArray], Any]

    def learner(self) -> Learner:
        """Measures are those of the second stage; `before_...` at the end are the finished network's."""
        before, after = self.before, self.after

        def init(key: PRNGKeyArray) -> Regression:
            first, second, shrinking = jax.random.split(key, 3)
            arrays, static = eqx.partition(before.init(first), eqx.is_array)

            def advance(arrays: Any, _: None) -> tuple[Any, None]:
                return eqx.filter(before.advance(eqx.combine(arrays, static)), eqx.is_array), None

            state = eqx.combine(jax.lax.scan(advance, arrays, length=before.rounds)[0], static)
            fresh = after.init(second)
            start = Training(state.model, fresh.optimizer, fresh.key, self.shrink(state.data, shrinking))
            return Regression(start, {f"before_{name}": value for name, value in before.measure(state).items()})

        def final(state: Regression) -> Mapping[str, Any]:
            return state.before | (dict(after.final(state.now)) if after.final else {})

        return dataclasses.replace(
            after,
            init=init,
            advance=lambda state: Regression(after.advance(state.now), state.before),
            measure=lambda state: after.measure(state.now),
            final=final,
        )


def keep_training(count: int | float | Float[Array, ""]) -> Callable[[Any, PRNGKeyArray], Any]:
    """(data, key) -> the data with `count` of the training examples left, at random; the test set stays.

    With one key, the examples of a smaller count are among those of a larger one. `data` is an `Examples` with
    training weights of 0 and 1.
    """

    def shrink(data: Any, key: PRNGKeyArray) -> Any:
        order = jnp.where(data.train > 0, jax.random.uniform(key, data.train.shape), jnp.inf).reshape(-1)
        rank = jnp.argsort(jnp.argsort(order)).reshape(data.train.shape)
        return eqx.tree_at(lambda d: d.train, data, jnp.where(rank < count, data.train, 0.0))

    return shrink
