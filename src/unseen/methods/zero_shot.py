"""Prediction of labels that were never paired with inputs."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class TwoStageZeroShot(eqx.Module):
    """Labels from inputs by way of captions: `p(y | x) = E[ g(y | Z) | X = x ]`.

    Stage one, pre-training, learns the law of captions given an input; stage two, prompting, learns the law
    `g` of labels given a caption. Either may be given exactly (a matrix of probabilities) or as counts of a
    sample: both are normalised alike. It equals the Bayes rule if X and Y are independent given Z and the
    prompts of a label follow the captions of that label.

    Example:
        >>> rule = TwoStageZeroShot.fit(pairs=world.pairs(a, 10_000), prompts=world.prompted(b, 100))
        >>> probabilities = rule()

    Attributes:
        captions: P(z | x).
        labels: g(y | z).

    Source: Mehta and Harchaoui (2025, arXiv 2507.09128), the target quantities of zero-shot prediction; the
    conditional means are plain averages here, because inputs and captions are finite.
    """

    captions: Float[Array, "inputs captions"]
    labels: Float[Array, "captions labels"]

    @classmethod
    def fit(
        cls,
        pairs: Float[Array, "inputs captions"],
        prompts: Float[Array, "labels captions"],
        prior: Float[Array, " labels"] | None = None,
    ) -> TwoStageZeroShot:
        """From pre-training pairs and prompts, as counts or as probabilities.

        Args:
            pairs: how often (or how likely) each input comes with each caption. An input without any pair gets
                the captions of an average input.
            prompts: how often each caption is a prompt of each label. A caption without any prompt gets
                the prior.
            prior: probability of each label; uniform by default.
        """
        number = prompts.shape[0]
        prior = jnp.full(number, 1 / number) if prior is None else prior
        seen = pairs.sum(1, keepdims=True)
        average = pairs.sum(0) / pairs.sum()
        captions = jnp.where(seen > 0, pairs / jnp.where(seen > 0, seen, 1), average)
        law = prompts / prompts.sum(1, keepdims=True)
        weighted = (prior[:, None] * law).T
        mass = weighted.sum(1, keepdims=True)
        labels = jnp.where(mass > 0, weighted / jnp.where(mass > 0, mass, 1), prior)
        return cls(captions, labels)

    def __call__(self) -> Float[Array, "inputs labels"]:
        """Probability of each label for each input."""
        return self.captions @ self.labels


def supervised_average(labelled: Float[Array, "inputs labels"]) -> Float[Array, "inputs labels"]:
    """The direct rule: label frequencies of each input, those of all inputs together where it was not seen.

    Args:
        labelled: how often each input came with each label.
    """
    seen = labelled.sum(1, keepdims=True)
    everyone = labelled.sum(0) / labelled.sum()
    return jnp.where(seen > 0, labelled / jnp.where(seen > 0, seen, 1), everyone)
