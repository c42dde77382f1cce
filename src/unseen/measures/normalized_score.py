"""Scores between a random policy and an oracle."""

from __future__ import annotations

import numpy as np
from jaxtyping import Array, Bool, Float


def normalized_score(
    score: float | Float[Array, "..."] | Float[np.ndarray, "..."],
    random: float | Float[Array, "..."] | Float[np.ndarray, "..."],
    oracle: float | Float[Array, "..."] | Float[np.ndarray, "..."],
) -> float | Float[Array, "..."] | Float[np.ndarray, "..."]:
    """(J - J_random) / (J_oracle - J_random): 0 for the random policy, 1 for the scripted oracle.

    All three are mean returns in the same world, broadcast against each other. Where oracle and random policy
    score the same the result is not finite.

    Source: Fu et al. (2020, arXiv 2004.07219), section 6, with an oracle for their expert.
    """
    return (score - random) / (oracle - random)


def success_rate(reached: Bool[Array, "episodes *batch"]) -> Float[Array, "*batch"]:
    """Share of the episodes (leading axis) that succeeded."""
    return reached.astype(float).mean(axis=0)
