"""Memorization-aware training: what a model would say of an example without having seen it shifts its logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from unseen.lab import UserError


def logit_shift(
    held_out: Float[Array, "example classes"],
    labels: Int[Array, " example"],
    *,
    temperature: float | Float[Array, ""] = 0.1,
) -> Float[Array, "example classes"]:
    """Log-probabilities of the labels given what was predicted without having seen the example.

    p = softmax(held_out / temperature) is calibrated by how often a prediction goes with a label on these examples:
    log(p C + 1e-6) with C[k, y] the share of label y among examples predicted as k. Added to the logits in training
    and left out afterwards, so that only what held-out predictions do not explain is left to learn.

    Args:
        held_out: logits of a model that was not trained on the example.
        labels: what is trained towards.
        temperature: above 0; the smaller, the closer to hard predictions.

    Source: Bayat et al. (2024, arXiv 2412.07684), section 4, and `get_shift` of the official code.
    """
    if isinstance(temperature, int | float) and temperature <= 0:
        raise UserError(f"temperature takes a number above 0, got {temperature}.")
    predicted = jax.nn.softmax(held_out / temperature)
    joint = predicted.T @ jax.nn.one_hot(labels, held_out.shape[1], dtype=predicted.dtype)
    total = joint.sum(1, keepdims=True)
    given = jnp.where(total > 0, joint / jnp.where(total > 0, total, 1), 0.0)  # what is never predicted has no row
    return jnp.log(predicted @ given + 1e-6)


class HeldOut(eqx.Module):
    """What two networks with crossed halves say.

    Attributes:
        logits: of the twin that was not trained on the example.
        seen: of the twin that was.
        first: whether the example belongs to the first twin's half.
        labels: what the twins were trained towards in the end, after flips.
    """

    logits: Float[Array, "example classes"]
    seen: Float[Array, "example classes"]
    first: Bool[Array, " example"]
    labels: Int[Array, " example"]


@dataclasses.dataclass(frozen=True)
class CrossRiskHeldOut:
    """Held-out predictions by two networks, each trained on a random half, whose labels follow the other's opinion.

    After every update an example's label becomes the held-out prediction with probability
    (p - 1/K) K / (K - 1), p its confidence: what only memorization could fit is given up, and both networks settle
    on what they find in each other's halves (cross-risk minimization).

    Attributes:
        model: key -> module, called as `model(*inputs)` on batches.
        optimizer: an optax transformation.
        steps: number of updates.
        batch_size: examples in an update, drawn with replacement; None for all of them.

    Source: Pezeshki et al. (2023), XRM; Bayat et al. (2024), section 4 and `interpretable_experiment.py`.
    """

    model: Callable[[PRNGKeyArray], Any]
    optimizer: optax.GradientTransformation
    steps: int
    batch_size: int | None = None

    def __call__(self, key: PRNGKeyArray, inputs: tuple[Any, ...], labels: Int[Array, " example"]) -> HeldOut:
        """Train both networks; what they say in the end.

        Args:
            inputs: the model's arguments, with one leading axis of examples.
            labels: classes.
        """
        net_key, half_key, key = jax.random.split(key, 3)
        first = jax.random.bernoulli(half_key, 0.5, labels.shape)
        nets = eqx.filter_vmap(self.model)(jax.random.split(net_key, 2))
        arrays, static = eqx.partition(nets, eqx.is_inexact_array)

        def opinions(arrays: PyTree, inputs: tuple[Any, ...], first: Array) -> tuple[Array, Array]:
            """Logits of the twin that has the example in its half, and of the other one."""
            a, b = jax.vmap(lambda twin: eqx.combine(twin, static)(*inputs))(arrays)
            mine = first[:, None]
            return jnp.where(mine, a, b), jnp.where(mine, b, a)

        def loss(arrays: PyTree, inputs: tuple[Any, ...], first: Array, labels: Array) -> tuple[Array, Array]:
            seen, held_out = opinions(arrays, inputs, first)
            return optax.softmax_cross_entropy_with_integer_labels(seen, labels).mean(), held_out

        def update(carry: tuple[PyTree, PyTree, Array], key: PRNGKeyArray) -> tuple[tuple[PyTree, PyTree, Array], None]:
            arrays, optimizer, labels = carry
            row_key, flip_key = jax.random.split(key)
            rows = None
            batch = (inputs, first, labels)
            if self.batch_size is not None:
                rows = jax.random.randint(row_key, (self.batch_size,), 0, len(labels))
                batch = jax.tree.map(lambda x: x[rows], batch)
            gradients, held_out = jax.grad(loss, has_aux=True)(arrays, *batch)
            updates, optimizer = self.optimizer.update(gradients, optimizer, arrays)
            classes = held_out.shape[1]
            confidence = jax.nn.softmax(held_out).max(1)
            flip = jax.random.bernoulli(flip_key, (confidence - 1 / classes) * classes / (classes - 1))
            new = jnp.where(flip, held_out.argmax(1), batch[2]).astype(labels.dtype)
            labels = new if rows is None else labels.at[rows].set(new)
            return (optax.apply_updates(arrays, updates), optimizer, labels), None

        start = (arrays, self.optimizer.init(arrays), labels)
        (arrays, _, flipped), _ = jax.lax.scan(update, start, jax.random.split(key, self.steps))
        seen, held_out = opinions(arrays, inputs, first)
        return HeldOut(held_out, seen, first, flipped)


@dataclasses.dataclass(frozen=True)
class MAT:
    """Memorization-aware training: held-out predictions once, then training with shifted logits.

    Example:
        >>> mat = MAT(CrossRiskHeldOut(model, optax.sgd(1e-2), steps=1_000))
        >>> shift, held_out = mat.shift(key, (x,), labels)
        >>> loss = mat.loss(net(x), labels, shift)      # train this, predict by net(x) alone

    With `classifier`, let the data's inputs be (x, shift), the model `Unshifted(net)` and `objective=mat.objective`.

    Source: Bayat et al. (2024, arXiv 2412.07684), section 4.
    """

    held_out: CrossRiskHeldOut
    temperature: float = 0.1

    def shift(
        self, key: PRNGKeyArray, inputs: tuple[Any, ...], labels: Int[Array, " example"]
    ) -> tuple[Float[Array, "example classes"], HeldOut]:
        """What is added to the logits of every example, and the predictions that it comes from."""
        found = self.held_out(key, inputs, labels)
        return logit_shift(found.logits, labels, temperature=self.temperature), found

    @staticmethod
    def loss(
        logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], shift: Float[Array, "batch classes"]
    ) -> Float[Array, " batch"]:
        """Cross-entropy of the shifted logits."""
        return optax.softmax_cross_entropy_with_integer_labels(logits + jax.lax.stop_gradient(shift), labels)

    @staticmethod
    def objective(model: Unshifted, inputs: tuple[Any, ...], targets: Array, key: PRNGKeyArray) -> Array:
        """The `objective` of `classifier` for inputs whose last one is the shift."""
        return MAT.loss(model(*inputs), targets, inputs[-1])


class Unshifted(eqx.Module):
    """A network that is handed the shift too and does not look at it: what is evaluated, and used later."""

    net: Any

    def __call__(self, *inputs: Any) -> Any:
        """Logits from all inputs but the last."""
        return self.net(*inputs[:-1])
