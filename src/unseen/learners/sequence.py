"""Training of sequence models on masked tokens, and evaluation along an axis of lengths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from unseen.lab import Learner
from unseen.learners.classifier import accuracy, cross_entropy
from unseen.measures.length_profile import length_profile
from unseen.worlds.sequences import Sequences

Sampler = Callable[[PRNGKeyArray], Sequences]
LengthSampler = Callable[[PRNGKeyArray, Int[Array, ""]], Sequences]


class SequenceTraining(eqx.Module):
    """State of one seed: the model, its optimizer, the number of updates so far, the key of everything random."""

    model: PyTree
    optimizer: PyTree
    step: Int[Array, ""]
    key: PRNGKeyArray


def predict(model: Any, batch: Sequences) -> Float[Array, "batch time outputs"]:
    """Logits of `model(inputs, present, input_length)` for a batch."""
    return model(batch.inputs, batch.present, batch.input_length)


def token_loss(logits: Float[Array, "batch time outputs"], batch: Sequences) -> Float[Array, ""]:
    """Mean cross-entropy over all demanded outputs of the batch, in nats a token."""
    loss = jnp.where(batch.outputs, cross_entropy(logits, batch.targets), 0)
    return loss.sum() / batch.outputs.sum()


def token_scores(logits: Float[Array, "batch time outputs"], batch: Sequences) -> dict[str, Float[Array, ""]]:
    """`accuracy`: share of right tokens among the scored ones. `exact`: share of sequences with all of them right."""
    wrong = jnp.where(batch.scored, 1 - accuracy(logits, batch.targets), 0)
    return {
        "accuracy": 1 - wrong.sum() / batch.scored.sum(),
        "exact": jnp.where(jnp.isnan(wrong.sum()), jnp.nan, (wrong.sum(-1) == 0).mean()),
    }


def minibatches(data: Sequences, batch: int) -> Sampler:
    """A sampler from finite data: `batch` sequences drawn with replacement."""

    def sample(key: PRNGKeyArray) -> Sequences:
        rows = jax.random.randint(key, (batch,), 0, data.targets.shape[0])
        return jax.tree.map(lambda x: x[rows], data)

    return sample


def adam(
    learning_rate: Any, *, weight_decay: Any = 0.0, cosine_steps: int | None = None, clip: float = 1.0
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm.

    Args:
        learning_rate: a number, which may be traced.
        weight_decay: a number, which may be traced; 0 makes it Adam.
        cosine_steps: decay the learning rate to 0 along half a cosine over as many updates; None keeps it.
        clip: largest global norm of a gradient.
    """
    rate: Any = learning_rate
    if cosine_steps is not None:
        shape = optax.cosine_decay_schedule(1.0, cosine_steps)
        rate = lambda count: learning_rate * shape(count)  # noqa: E731  the schedule of a traced rate
    return optax.chain(optax.clip_by_global_norm(clip), optax.adamw(rate, weight_decay=weight_decay))


def sequence_learner(
    model: Callable[[PRNGKeyArray], eqx.Module],
    train: Sampler,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    every: int,
    regions: Mapping[str, Sampler] | None = None,
    profile: LengthSampler | None = None,
    lengths: Sequence[int] = (),
) -> Learner:
    """Masked token cross-entropy on any world of `Sequences`.

    Measured at every evaluation, on a fresh sample: `NAME_loss`, `NAME_accuracy` and `NAME_exact` of every region.
    At the end, on `lengths`: `accuracy` and `exact` with a dimension `length`.

    Args:
        model: key -> equinox module, called as `model(inputs, present, input_length)` on a batch. Its inexact
            arrays are trained.
        train: key -> batch of an update. Mixtures of tasks, mixtures of lengths and finite data (`minibatches`)
            are samplers.
        optimizer: an optax transformation; its numbers may be traced values.
        steps, every: number of updates in all and between two evaluations.
        regions: name -> sampler; by default the region "train" with the sampler of training.
        profile: (key, length) -> batch of this length, which is traced.
        lengths: the grid of the profile.
    """
    regions = {"train": train} if regions is None else regions

    def init(key: PRNGKeyArray) -> SequenceTraining:
        model_key, key = jax.random.split(key)
        net = model(model_key)
        return SequenceTraining(net, optimizer.init(eqx.filter(net, eqx.is_inexact_array)), jnp.array(0), key)

    def key_of(state: SequenceTraining, *use: int | Int[Array, ""]) -> PRNGKeyArray:
        """A key of its own for everything that is random, so that evaluating more does not change training."""
        key = state.key
        for number in use:
            key = jax.random.fold_in(key, number)
        return key

    def update(state: SequenceTraining) -> SequenceTraining:
        batch = train(key_of(state, 0, state.step))
        gradients = eqx.filter_grad(lambda net: token_loss(predict(net, batch), batch))(state.model)
        parameters = eqx.filter(state.model, eqx.is_inexact_array)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, parameters)
        return SequenceTraining(eqx.apply_updates(state.model, updates), optimizer_state, state.step + 1, state.key)

    def advance(state: SequenceTraining) -> SequenceTraining:
        arrays, rest = eqx.partition(state, eqx.is_array)

        def body(arrays: Any, _: None) -> tuple[Any, None]:
            return eqx.filter(update(eqx.combine(arrays, rest)), eqx.is_array), None

        return eqx.combine(jax.lax.scan(body, arrays, length=every)[0], rest)

    def measure(state: SequenceTraining) -> dict[str, Array]:
        measures = {}
        for number, (name, sample) in enumerate(regions.items()):
            batch = sample(key_of(state, 1 + number, state.step))
            logits = predict(state.model, batch)
            numbers = {"loss": token_loss(logits, batch), **token_scores(logits, batch)}
            measures |= {f"{name}_{kind}": value for kind, value in numbers.items()}
        return measures

    def final(state: SequenceTraining) -> dict[str, Array]:
        assert profile is not None

        def evaluate(key: PRNGKeyArray, length: Int[Array, ""]) -> dict[str, Array]:
            batch = profile(key, length)
            return token_scores(predict(state.model, batch), batch)

        return dict(length_profile(evaluate, lengths, key_of(state, 1 + len(regions))))

    return Learner(
        init=init,
        advance=advance,
        measure=measure,
        final=None if profile is None else final,
        steps=steps,
        every=every,
        dims={"accuracy": ("length",), "exact": ("length",)} if profile is not None else {},
        coords={"length": list(lengths)} if profile is not None else {},
    )
