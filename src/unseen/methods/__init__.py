"""Interventions in the field's own shapes: optimizers as optax transformations, losses and merges as functions."""

from unseen.methods.augment import Augment, label_preservation
from unseen.methods.grokfast import GrokfastEMA, GrokfastMA, amplify_fast
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
from unseen.methods.temporal_augmentation import TemporalAugmentation

__all__ = [
    "Augment",
    "GrokfastEMA",
    "GrokfastMA",
    "TemporalAugmentation",
    "activation_gram",
    "amplify_fast",
    "average",
    "fisher_diagonal",
    "fisher_weighted",
    "label_preservation",
    "regmean",
    "regmean_plus_plus",
    "sequential_merge",
    "task_arithmetic",
]
