"""The paths that samples take through the experts of a mixture, and what they say of generalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from unseen.lab.errors import UserError
from unseen.lab.statistics import EventTimes, first_step


def pathway_distance(paths: Int[Array, "samples layers"], weights: Float[Array, " samples"] | None = None) -> Array:
    """Mean edit distance between the pathways of two different samples, over the number of layers: from 0 (all take
    one path) to 1.

    For one choice a layer. A choice is a letter that names its layer too (expert 2 of layer 1 is not expert 2 of
    layer 3), as every layer has experts of its own; the edit distance is then the number of layers in which two
    samples differ, and its mean over pairs follows from counts of experts alone: no pair is ever formed.

    Source: Li et al. (2025, arXiv 2506.21551), section on pathway similarity. `edit_distance` takes paths with any
    number of experts a layer.

    Args:
        paths: index of the chosen expert, sample by layer.
        weights: 0 or 1, of the samples; by default all count.
    """
    weights = jnp.ones(paths.shape[0]) if weights is None else weights
    # Experts are compared by equality, so that their number need not be known: one matrix product a layer.
    same = jax.vmap(lambda chosen: _same(chosen, weights), in_axes=1)(paths)
    count = jnp.sum(weights)
    return 1 - jnp.mean((same - count) / (count * (count - 1)))


def _same(chosen: Int[Array, " samples"], weights: Float[Array, " samples"]) -> Float[Array, ""]:
    """Number of ordered pairs, a sample with itself included, with one choice."""
    equal = (chosen[:, None] == chosen).astype(weights.dtype)
    return weights @ equal @ weights


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Levenshtein's distance: the least number of insertions, deletions and replacements from one sequence to the
    other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def pathway_consistency(
    probabilities: Float[Array, "layers samples experts"], experts: Float[Array, "layers experts width"]
) -> Float[Array, " samples"]:
    """Mean cosine between what neighbouring layers of a sample's pathway stand for: from -1 to 1; higher is smoother.

    A layer stands for the mean of its experts' embeddings under the sample's routing weights.

    Source: Li et al. (2025, arXiv 2506.21551), section on pathway consistency; the router's own vector of an expert
    is taken as its embedding.

    Args:
        probabilities: routing weights; 0 for experts that are not used.
        experts: the experts' embeddings, e.g. the routers' rows.

    Raises:
        UserError: with fewer than two layers.
    """
    if probabilities.shape[0] < 2:
        raise UserError(f"pathway_consistency takes two layers or more, got {probabilities.shape[0]}.")
    mean = jnp.einsum("lse,lew->lsw", probabilities, experts)
    unit = mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
    return jnp.sum(unit[:-1] * unit[1:], axis=-1).mean(0)


def local_grokking_onset(score: xr.DataArray, start: EventTimes, *, share: float = 0.5, last: int = 5) -> EventTimes:
    """The step at which a score has made a share of the way from where it was when the loss settled to its end.

    Args:
        score: over `step` and other dims.
        start: steps at which the loss has settled, without `step`; a run that never settles has no onset.
        share: in (0, 1).
        last: evaluations whose mean is the end.

    Source: Li et al. (2025, arXiv 2506.21551), section on local grokking, made a rule.
    """
    begun = score.step >= start.time
    first = score.where(score.step == start.time).max("step")
    end = score.isel(step=slice(-last, None)).mean("step", skipna=False)
    way = (score - first) / (end - first).where(end != first)
    return first_step((way >= share) & begun & start.reached)


def router_pathways(
    router_logits: Sequence[Float[np.ndarray, "tokens experts"]], experts_a_token: int = 1
) -> tuple[Int[np.ndarray, "tokens layers chosen"], Float[np.ndarray, "layers tokens experts"]]:
    """Pathways of a language model's tokens, on the host: what a Hugging Face mixture of experts returns as
    `router_logits` (one array a layer) with `output_router_logits=True`, as NumPy arrays.

    Returns:
        paths: the experts of each token and layer, likeliest first; with one expert a token, `paths[..., 0]` is
            what `pathway_distance` takes.
        probabilities: routing weights of the experts that are used, 0 for the others, adding up to 1.

    Raises:
        UserError: without layers, with layers of different shapes, or with more experts a token than there are.

    Example:
        >>> out = model(**batch, output_router_logits=True)
        >>> paths, weights = router_pathways([x.float().numpy() for x in out.router_logits], 8)
    """
    shapes = {np.shape(layer) for layer in router_logits}
    if len(shapes) != 1:
        raise UserError(f"router_logits takes layers of one shape (tokens, experts), got {sorted(shapes)}.")
    logits = np.stack([np.asarray(layer, np.float64) for layer in router_logits])
    if not 1 <= experts_a_token <= logits.shape[-1]:
        raise UserError(f"experts_a_token takes a number from 1 to {logits.shape[-1]}, got {experts_a_token}.")
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :experts_a_token]
    used = np.zeros_like(logits, dtype=bool)
    np.put_along_axis(used, order, True, axis=-1)
    weights = np.where(used, np.exp(logits - logits.max(-1, keepdims=True)), 0.0)
    return np.moveaxis(order, 0, 1), weights / weights.sum(-1, keepdims=True)


def mean_edit_distance(paths: Int[np.ndarray, "samples layers chosen"], pairs: int = 2_000, seed: int = 0) -> float:
    """Mean edit distance of random pairs of pathways with any number of experts a layer, over their length; letters
    name layer and expert, each layer's experts in order of weight as in the paper."""
    samples, layers, chosen = paths.shape
    if samples < 2:
        raise UserError(f"mean_edit_distance takes two samples or more, got {samples}.")
    letters = [[(layer, int(x)) for layer in range(layers) for x in path[layer]] for path in paths]
    drawn = np.random.default_rng(seed).integers(samples, size=(pairs, 2))
    distances = [edit_distance(letters[a], letters[b]) for a, b in drawn if a != b]
    return float(np.mean(distances)) / (layers * chosen)
