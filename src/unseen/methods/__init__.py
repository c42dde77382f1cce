"""Interventions in the field's own shapes: optimizers as optax transformations, losses and merges as functions."""

from unseen.methods.augment import Augment, label_preservation
from unseen.methods.grokfast import GrokfastEMA, GrokfastMA, amplify_fast
from unseen.methods.langevin import SGLDState, sgld
from unseen.methods.large_batch import Regime, regime_adaptation, sqrt_lr_scaling
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
    "Regime",
    "SGLDState",
    "TemporalAugmentation",
    "activation_gram",
    "amplify_fast",
    "average",
    "fisher_diagonal",
    "fisher_weighted",
    "label_preservation",
    "regime_adaptation",
    "regmean",
    "regmean_plus_plus",
    "sequential_merge",
    "sgld",
    "sqrt_lr_scaling",
    "task_arithmetic",
]
