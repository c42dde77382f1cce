"""What stands between zero-shot prediction and the best supervised predictor."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def residual_dependence(joint: Float[Array, "inputs captions labels"]) -> Float[Array, ""]:
    """Dependence of inputs and labels that captions leave: the mean-square contingency
    `sum_xy (P(x,y|z) - P(x|z) P(y|z))^2 / (P(x|z) P(y|z))`, averaged over captions.

    Zero if and only if X and Y are independent given Z; at most the smaller number of values minus 1.

    Args:
        joint: P(x, z, y), or counts of it; normalised here.

    Source: Mehta and Harchaoui (2025, arXiv 2507.09128), the residual dependence of the error decomposition.
    """
    joint = joint / joint.sum()
    caption = joint.sum((0, 2))
    inputs, labels = joint.sum(2), joint.sum(0)
    independent = inputs[:, :, None] * labels[None] / jnp.where(caption > 0, caption, 1)[None, :, None]
    terms = (joint - independent) ** 2 / jnp.where(independent > 0, independent, 1)
    return terms.sum()


def prompt_bias(
    prompts: Float[Array, "labels captions"], joint: Float[Array, "captions labels"], prior: Float[Array, " labels"]
) -> Float[Array, ""]:
    """Squared distance between what prompts and what true captions say about the label:
    `E_Z |Q(.|Z) - P(.|Z)|^2`.

    Zero for faithful prompts. It bounds what false prompts can add to the squared error, by Jensen's inequality.

    Args:
        prompts: Q(z | y), or counts of it; normalised here for each label. A caption that no prompt uses says the
            prior.
        joint: P(z, y), or counts of it.
        prior: probability of each label where prompts are turned into predictions.

    Source: Mehta and Harchaoui (2025, arXiv 2507.09128), the prompt bias of the error decomposition.
    """
    weighted = (prior[:, None] * prompts / prompts.sum(1, keepdims=True)).T
    mass = weighted.sum(1, keepdims=True)
    said = jnp.where(mass > 0, weighted / jnp.where(mass > 0, mass, 1), prior)
    joint = joint / joint.sum()
    caption = joint.sum(1)
    true = joint / jnp.where(caption > 0, caption, 1)[:, None]
    return caption @ jnp.sum((said - true) ** 2, axis=1)
