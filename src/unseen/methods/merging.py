"""Joining the weights of models that share an architecture.

Every function takes models as pytrees: Equinox modules, flat PyTorch-style state dicts
(`{"blocks.0.first.weight": array, ...}`) or nested dicts. A parameter's name is its path joined by dots, which
for a flat dict is its key, so a linear layer is called the same everywhere: `"blocks.0.first"`.
Floating-point leaves are merged in single precision at least and keep their type; all other leaves (counters,
functions) are those of the first model. Everything is pure JAX and may be jitted and vmapped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unseen.lab import UserError

Model = TypeVar("Model")
Grams = Mapping[str, Float[Array, "inputs inputs"] | Float[np.ndarray, "inputs inputs"]]
Weights = Sequence[float | int] | Float[Array, " model"]
Collect = Callable[[Any, Any], Mapping[str, Any]]


def average(models: Sequence[Model], *, weights: Weights | None = None) -> Model:
    """Mean of the parameters (model soups: Wortsman et al., 2022).

    Args:
        models: one or more with one structure.
        weights: relative importance of each model, need not sum to one; equal by default.

    Raises:
        UserError: if the models differ in structure or shapes, or `weights` in number.
    """
    shares = _shares(models, weights)
    return _merge(models, lambda name, leaves: _mean(shares, leaves))


def task_arithmetic(
    base: Model, models: Sequence[Model], *, scale: float | Float[Array, ""] | Float[Array, " model"] = 0.3
) -> Model:
    """base + sum of scale * (model - base) (Ilharco et al., 2023, section 2).

    With scale = 1/len(models) it is the average.

    Args:
        base: what the models were trained from.
        models: one or more with the base's structure.
        scale: one for all models, as in the paper, or one for each.

    Raises:
        UserError: if the models differ in structure or shapes.
    """
    scales = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), (len(models),))
    return _merge(
        [base, *models],
        lambda name, leaves: (
            leaves[0] + sum(s * (leaf - leaves[0]) for s, leaf in zip(scales, leaves[1:], strict=True))
        ),
    )


def fisher_weighted(
    models: Sequence[Model], fishers: Sequence[Model], *, weights: Weights | None = None, floor: float = 1e-6
) -> Model:
    """Each parameter averaged with its Fisher information as weight (Matena and Raffel, 2022, equation 3).

    Args:
        models: one or more with one structure.
        fishers: for each model its diagonal Fisher information, of the same structure (`fisher_diagonal`).
        weights: relative importance of each model; equal by default.
        floor: added to every Fisher value as a share of the parameter array's mean Fisher value, so that
            parameters that no model is sensitive to are averaged.

    Raises:
        UserError: if models, Fishers and weights do not fit each other.
    """
    shares = _shares(models, weights)
    if len(fishers) != len(models):
        raise UserError(f"fishers takes one for each of the {len(models)} models, got {len(fishers)}.")
    _check_alike([*models, *fishers])
    information = [_named(fisher) for fisher in fishers]

    def rule(name: str, leaves: list[Array]) -> Array:
        own = [_wide(fisher[name]) for fisher in information]
        # Far below any real value, far above what float32 rounds to zero.
        least = floor * sum(f.mean() for f in own) / len(own) + 1e-30
        own = [share * (f + least) for share, f in zip(shares, own, strict=True)]
        total = sum(own)
        return _mean([f / total for f in own], leaves)

    return _merge(models, rule)


def fisher_diagonal(
    logits: Callable[[Model, Any], Float[Array, " classes"]],
    model: Model,
    inputs: Float[Array, "example ..."],
    key: Key[Array, ""] | None = None,
) -> Model:
    """Diagonal Fisher information of a classifier on unlabelled inputs: the mean over inputs of the expected
    squared gradient of log p(class | input), classes distributed as the model believes.

    Args:
        logits: (model, one input) -> unnormalised log-probabilities.
        key: draws one class an input, an unbiased estimate at the price of one gradient an input; None takes
            the expectation over all classes exactly.

    Returns:
        A pytree like `model`; leaves that are no floating-point arrays are as they were.
    """
    leaves, treedef = jax.tree.flatten(model)
    floating = [_is_floating(leaf) for leaf in leaves]

    def rebuild(values: Sequence[Any]) -> Any:
        new = iter(values)
        return jax.tree.unflatten(treedef, [next(new) if f else x for x, f in zip(leaves, floating, strict=True)])

    parameters = [leaf for leaf, f in zip(leaves, floating, strict=True) if f]

    def log_probabilities(values: Sequence[Array], x: Array) -> Float[Array, " classes"]:
        return jax.nn.log_softmax(logits(rebuild(values), x))

    def squared_gradient(x: Array, label: Int[Array, ""]) -> list[Array]:
        gradient = jax.grad(lambda values: log_probabilities(values, x)[label])(parameters)
        return [g**2 for g in gradient]

    def of_input(x: Array, own_key: Key[Array, ""] | None) -> list[Array]:
        belief = log_probabilities(parameters, x)
        if own_key is not None:
            return squared_gradient(x, jax.random.categorical(own_key, belief))
        squares = jax.vmap(squared_gradient, (None, 0))(x, jnp.arange(len(belief)))
        return [jnp.tensordot(jnp.exp(belief), s, 1) for s in squares]

    def add(total: list[Array], example: tuple[Array, Key[Array, ""] | None]) -> tuple[list[Array], None]:
        return [t + v for t, v in zip(total, of_input(*example), strict=True)], None

    keys = None if key is None else jax.random.split(key, len(inputs))
    # One input after the other: squared gradients of all at once would need as many copies of the model.
    total, _ = jax.lax.scan(add, [jnp.zeros_like(p) for p in parameters], (inputs, keys))
    return rebuild([t / len(inputs) for t in total])


def activation_gram(
    activations: Float[Array, "*samples width"] | Float[np.ndarray, "*samples width"],
) -> Float[Array, "width width"]:
    """Mean of x x^T over all samples: what `regmean` needs to know of a layer's inputs.

    Leading axes (batch, tokens, positions) are all samples. The mean and not the sum, so that tasks with more
    samples do not count for more.
    """
    x = _wide(activations).reshape(-1, activations.shape[-1])
    return x.T @ x / len(x)


def regmean(
    models: Sequence[Model],
    grams: Sequence[Grams],
    *,
    alpha: float | Float[Array, ""] = 0.9,
    ridge: float = 1e-6,
    weights: Weights | None = None,
    parameter: str = "weight",
    input_axis: int = -1,
) -> Model:
    """Regression mean: every linear layer is the least-squares fit to all models' outputs on their own inputs.

    With G_i the Gram matrix of the inputs of a layer in model i, its merged weight solves
    (sum_i G_i) W = sum_i G_i W_i, the off-diagonal of each G_i scaled by `alpha` (Jin et al., 2023, equation 2
    and section 3.2). Biases, norms and all other parameters are averaged, as in the paper.

    Args:
        models: one or more with one structure.
        grams: for each model a Gram matrix (`activation_gram`) under each linear layer's name; a layer without
            one is averaged.
        alpha: factor on off-diagonal entries; 1 is plain least squares, 0 weights single inputs.
        ridge: pull towards the average, as a share of the mean diagonal of sum_i G_i. It decides what the data
            leave open: an input that is always zero gets the average of its weights. Raise it if alpha = 1
            gives NaN on inputs that are nearly dependent.
        weights: relative importance of each model; equal by default.
        parameter: last part of the name of a layer's matrix: "weight" in Equinox and PyTorch, "kernel" in Flax.
        input_axis: the matrix's axis that meets the input: -1 in Equinox and PyTorch, 0 in Flax. Kernels of
            convolutions (output, input, height, width) count as matrices on patches in that order.

    Raises:
        UserError: if the arguments do not fit each other, a layer of `grams` is unknown, or shapes differ.
    """
    shares = _shares(models, weights)
    _check_grams(models, grams, parameter)

    def rule(name: str, leaves: list[Array]) -> Array:
        layer, _, last = name.rpartition(".")
        mean = _mean(shares, leaves)
        if last != parameter or layer not in grams[0]:
            return mean
        own = [share * _shrunk(_wide(gram[layer]), alpha) for share, gram in zip(shares, grams, strict=True)]
        width = own[0].shape[0]
        apart = [_as_matrix(leaf - mean, width, input_axis, name) for leaf in leaves]
        total = sum(own)
        # Solved for the distance to the average: equal models merge to themselves without rounding, and what
        # the data leave open stays average.
        pull = ridge * jnp.trace(total) / width + 1e-30  # solvable also without any input
        right = sum(g @ d for g, d in zip(own, apart, strict=True))
        correction = _solve_positive(total + pull * jnp.eye(width), right)
        return mean + _from_matrix(correction, mean.shape, input_axis)

    return _merge(models, rule)


def regmean_plus_plus(
    models: Sequence[Model],
    inputs: Sequence[Any],
    collect: Collect,
    stages: Sequence[str],
    *,
    alpha: float | Float[Array, ""] = 0.9,
    ridge: float = 1e-6,
    weights: Weights | None = None,
    parameter: str = "weight",
    input_axis: int = -1,
) -> Model:
    """RegMean with inputs recorded behind the layers merged so far (Nguyen et al., 2025, algorithm 1).

    Stage by stage from the input on, each model's own stage is run on what the merged network below it emits
    for that model's inputs; the stage's linear layers are then merged by `regmean` from what they read there.
    In the paper (and its official code) a stage is a transformer block, so that within a block the inputs are
    the candidate's. Stages of single layers record everything in the merged network. What belongs to no stage
    (embeddings) is averaged first.

    Args:
        models: one or more with one structure.
        inputs: for each model a batch of unlabelled inputs of its task.
        collect: (model, batch) -> {layer: what it reads}, e.g. `layer_inputs` for a `FeatureNet`.
        stages: names of the parts in forward order, e.g. `net.stages()`; a stage holds all parameters whose
            name begins with it.
        alpha, ridge, weights, parameter, input_axis: as in `regmean`.

    Raises:
        UserError: if the arguments do not fit each other or a stage has no parameter.
    """
    if len(inputs) != len(models):
        raise UserError(f"inputs takes one batch for each of the {len(models)} models, got {len(inputs)}.")
    merged = average(models, weights=weights)
    for stage in stages:
        if not any(_within(name, stage) for name in _named(merged)):
            raise UserError(f"stages takes names of parts that have parameters, got {stage!r}.")
        grams = []
        for model, batch in zip(models, inputs, strict=True):
            read = collect(_graft(merged, model, stage), batch)
            grams.append({name: activation_gram(x) for name, x in read.items() if _within(name, stage)})
        fitted = regmean(
            models, grams, alpha=alpha, ridge=ridge, weights=weights, parameter=parameter, input_axis=input_axis
        )
        merged = _graft(merged, fitted, stage)
    return merged


def sequential_merge(
    models: Sequence[Model],
    merge: Callable[[Sequence[Model], Sequence[Any]], Model],
    inputs: Sequence[Any] | None = None,
) -> list[Model]:
    """Models that arrive one after another and are merged on arrival (Nguyen et al., 2025, sequential merging).

    The merged model so far is one candidate and the newcomer the other. As in the paper, the former's inputs
    are as many as a single task has, shared equally between the tasks merged so far.

    Args:
        models: in the order of arrival, at least two.
        merge: ([merged so far, newcomer], [its inputs, the newcomer's]) -> merged. It is traced once for all
            arrivals; if it cannot be traced, call this under `jax.disable_jit()`.
        inputs: for each model an array of samples, or a pytree of them, all of one shape; None if `merge`
            needs none (it then gets an empty list).

    Returns:
        The model after each merge: one fewer than `models`.

    Raises:
        UserError: with fewer than two models, or inputs that do not match them.
    """
    if len(models) < 2:
        raise UserError(f"models takes two or more, got {len(models)}.")
    if inputs is not None and len(inputs) != len(models):
        raise UserError(f"inputs takes one batch for each of the {len(models)} models, got {len(inputs)}.")
    _check_alike(models)
    parts = [eqx.partition(model, _is_floating) for model in models]
    rest = parts[0][1]
    batches = None if inputs is None else _stacked(inputs)

    def pooled(count: Int[Array, ""], samples: Array) -> Array:
        """As many samples as one batch has, dealt to the first `count` batches in turn."""
        slot = jnp.arange(samples.shape[1])
        return samples[slot % count, slot // count]

    def arrive(merged: Any, arrival: tuple[Int[Array, ""], Any]) -> tuple[Any, Any]:
        count, newcomer = arrival
        seen = (
            []
            if batches is None
            else [
                jax.tree.map(lambda samples: pooled(count, samples), batches),
                jax.tree.map(lambda samples: samples[count], batches),
            ]
        )
        joined = merge([eqx.combine(merged, rest), eqx.combine(newcomer, rest)], seen)
        merged = eqx.filter(joined, _is_floating)
        return merged, merged

    arrivals = (jnp.arange(1, len(models)), _stacked([arrays for arrays, _ in parts[1:]]))
    _, history = jax.lax.scan(arrive, jax.tree.map(jnp.asarray, parts[0][0]), arrivals)
    return [eqx.combine(jax.tree.map(lambda leaf, i=i: leaf[i], history), rest) for i in range(len(models) - 1)]


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _named(model: Any) -> dict[str, Any]:
    """Floating-point leaves by path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(model)
        if _is_floating(leaf)
    }


def _within(name: str, stage: str) -> bool:
    return name == stage or name.startswith(stage + ".")


def _graft(host: Model, donor: Model, stage: str) -> Model:
    """`host` with all parameters of `stage` from `donor`."""

    def pick(path: Any, ours: Any, theirs: Any) -> Any:
        return theirs if _within(jax.tree_util.keystr(path, simple=True, separator="."), stage) else ours

    return jax.tree_util.tree_map_with_path(pick, host, donor)


def _merge(models: Sequence[Model], rule: Callable[[str, list[Array]], Any]) -> Model:
    """Apply `rule` to each named floating-point leaf of all models, computed wide and cast back."""
    _check_alike(models)
    paths, treedef = jax.tree_util.tree_flatten_with_path(models[0])
    columns = zip(*(jax.tree.leaves(model) for model in models), strict=True)
    merged = []
    for (path, first), leaves in zip(paths, columns, strict=True):
        if _is_floating(first):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            merged.append(rule(name, [_wide(leaf) for leaf in leaves]).astype(first.dtype))
        else:
            merged.append(first)
    return jax.tree.unflatten(treedef, merged)


def _check_alike(models: Sequence[Any]) -> None:
    first, structure = _named(models[0]), jax.tree.structure(models[0])
    for index, model in enumerate(models[1:], start=1):
        shapes = {name: leaf.shape for name, leaf in _named(model).items()}
        for name, leaf in first.items():
            if shapes.get(name) != leaf.shape:
                raise UserError(
                    f"models takes models of one structure, but {name!r} has shape {leaf.shape} in the first and "
                    f"{shapes.get(name, 'no entry')} in number {index}."
                )
        if jax.tree.structure(model) != structure:
            raise UserError(f"models takes models of one structure, but number {index} is built differently.")


def _check_grams(models: Sequence[Any], grams: Sequence[Grams], parameter: str) -> None:
    if len(grams) != len(models):
        raise UserError(f"grams takes one mapping for each of the {len(models)} models, got {len(grams)}.")
    known = _named(models[0])
    for gram in grams:
        if set(gram) != set(grams[0]):
            raise UserError("grams takes the same layers for all models, got different ones.")
    for layer in grams[0]:
        if f"{layer}.{parameter}" not in known:
            raise UserError(f"grams takes names of linear layers, got {layer!r}: there is no '{layer}.{parameter}'.")


def _shares(models: Sequence[Any], weights: Weights | None) -> list[Any]:
    """Weights that sum to one; Python floats stay exact when they are equal."""
    if not models:
        raise UserError("models takes one or more, got none.")
    if weights is None:
        return [1 / len(models)] * len(models)
    if len(weights) != len(models):
        raise UserError(f"weights takes one for each of the {len(models)} models, got {len(weights)}.")
    total = sum(weights[i] for i in range(len(models)))
    return [weights[i] / total for i in range(len(models))]


def _mean(shares: Sequence[Any], leaves: Sequence[Array]) -> Array:
    """Weighted mean, written so that equal leaves give themselves to the last bit."""
    return leaves[0] + sum(s * (leaf - leaves[0]) for s, leaf in zip(shares[1:], leaves[1:], strict=True))


def _shrunk(gram: Float[Array, "n n"], alpha: float | Float[Array, ""]) -> Float[Array, "n n"]:
    return jnp.where(jnp.eye(len(gram), dtype=bool), gram, alpha * gram)


# One LAPACK call after the other also under vmap: batched ones are slower to compile, and on two cores XLA's
# thread pool (jaxlib 0.10) was seen to wait for itself for ever when several of them ran at once.
@jax.custom_batching.sequential_vmap
def _solve_positive(matrix: Float[Array, "n n"], right: Float[Array, "n m"]) -> Float[Array, "n m"]:
    return jax.scipy.linalg.solve(matrix, right, assume_a="pos")


def _as_matrix(leaf: Array, width: int, input_axis: int, name: str) -> Float[Array, "inputs outputs"]:
    matrix = leaf.reshape(leaf.shape[0], -1) if leaf.ndim > 2 else leaf
    matrix = jnp.moveaxis(matrix, input_axis, 0)
    if matrix.shape[0] != width:
        raise UserError(f"grams takes matrices as wide as a layer's input, got {width} for {name!r} {leaf.shape}.")
    return matrix


def _from_matrix(matrix: Array, shape: tuple[int, ...], input_axis: int) -> Array:
    return jnp.moveaxis(matrix, 0, input_axis).reshape(shape)


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _wide(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
