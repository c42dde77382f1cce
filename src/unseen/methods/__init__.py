"""Interventions in the field's own shapes: optimizers as optax transformations, losses and merges as functions."""

from unseen.methods.alpha_stable import AlphaStableNoise, AlphaStableState, alpha_stable, isotropic_alpha_stable
from unseen.methods.augment import Augment, label_preservation
from unseen.methods.dissipative import DissipativeLoss
from unseen.methods.evolution import ESState, EvolutionStrategies, centred_ranks, standardised
from unseen.methods.full_batch import FullBatchRecipe, gradient_norm_penalty
from unseen.methods.grokfast import GrokfastEMA, GrokfastMA, amplify_fast
from unseen.methods.langevin import SGLD, SGLDState
from unseen.methods.large_batch import Regime, regime_adaptation, sqrt_lr_scaling
from unseen.methods.memorization import MAT, CrossRiskHeldOut, HeldOut, Unshifted, logit_shift
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
from unseen.methods.multiverse import Axis, ClaimMap, ExplorationDesign, GPSurrogate, Multiverse, claim_over_multiverse
from unseen.methods.pgd import PGDAttack
from unseen.methods.robust_gradients import (
    median_of_three,
    median_of_three_gradient,
    winsorized_gradient,
    winsorized_mean,
)
from unseen.methods.sharpness import SAM, LabelNoiseSGD, memorising_flat_solution
from unseen.methods.temporal_augmentation import TemporalAugmentation
from unseen.methods.zero_shot import TwoStageZeroShot, supervised_average

__all__ = [
    "MAT",
    "SAM",
    "SGLD",
    "AlphaStableNoise",
    "AlphaStableState",
    "Augment",
    "Axis",
    "ClaimMap",
    "CrossRiskHeldOut",
    "DissipativeLoss",
    "ESState",
    "EvolutionStrategies",
    "ExplorationDesign",
    "FullBatchRecipe",
    "GPSurrogate",
    "GrokfastEMA",
    "GrokfastMA",
    "HeldOut",
    "LabelNoiseSGD",
    "Multiverse",
    "PGDAttack",
    "Regime",
    "SGLDState",
    "TemporalAugmentation",
    "TwoStageZeroShot",
    "Unshifted",
    "activation_gram",
    "alpha_stable",
    "amplify_fast",
    "average",
    "centred_ranks",
    "claim_over_multiverse",
    "fisher_diagonal",
    "fisher_weighted",
    "gradient_norm_penalty",
    "isotropic_alpha_stable",
    "label_preservation",
    "logit_shift",
    "median_of_three",
    "median_of_three_gradient",
    "memorising_flat_solution",
    "regime_adaptation",
    "regmean",
    "regmean_plus_plus",
    "sequential_merge",
    "sqrt_lr_scaling",
    "standardised",
    "supervised_average",
    "task_arithmetic",
    "winsorized_gradient",
    "winsorized_mean",
]
