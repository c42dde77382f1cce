"""Interventions in the field's own shapes: optimizers as optax transformations, losses and merges as functions."""

from unseen.methods.merging import (
    activation_gram,
    average,
    fisher_diagonal,
    fisher_weighted,
    regmean,
    regmean_plus_plus,
    sequential_merge,
    task_arithmetic,
)

__all__ = [
    "activation_gram",
    "average",
    "fisher_diagonal",
    "fisher_weighted",
    "regmean",
    "regmean_plus_plus",
    "sequential_merge",
    "task_arithmetic",
]
