"""Interventions in the field's own shapes: optimizers as optax transformations, losses and merges as functions."""

from unseen.methods.again import AGAIN, AGAINState, Classroom, Expert
from unseen.methods.alpha_stable import AlphaStableNoise, AlphaStableState, alpha_stable, isotropic_alpha_stable
from unseen.methods.augment import Augment, label_preservation
from unseen.methods.average_return import average_return_policy
from unseen.methods.curriculum import (
    ALPGMM,
    DomainRandomisation,
    DynamicFiltering,
    GaussianMixture,
    LevelCurriculum,
    LevelPool,
    PrioritisedReplay,
    algorithmic_regret,
    fit_mixture,
    l1_value_loss,
    positive_value_loss,
    true_regret,
)
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
from unseen.methods.population_diversity import (
    BanditState,
    BehaviorEmbedding,
    DvD,
    NoveltySearchES,
    ThompsonWeight,
    behaviour_kernel,
    log_volume,
    mean_distance,
)
from unseen.methods.robust_gradients import (
    median_of_three,
    median_of_three_gradient,
    winsorized_gradient,
    winsorized_mean,
)
from unseen.methods.sharpness import SAM, LabelNoiseSGD, memorising_flat_solution
from unseen.methods.successor_features import SuccessorFeatures
from unseen.methods.temporal_augmentation import TemporalAugmentation
from unseen.methods.value_heads import (
    CategoricalHead,
    Distribution,
    Head,
    QuantileHead,
    ValueHead,
    mixture,
    project_categorical,
    quantile_huber_loss,
    wasserstein1,
)
from unseen.methods.zero_shot import TwoStageZeroShot, supervised_average

__all__ = [
    "AGAIN",
    "ALPGMM",
    "MAT",
    "SAM",
    "SGLD",
    "AGAINState",
    "AlphaStableNoise",
    "AlphaStableState",
    "Augment",
    "Axis",
    "BanditState",
    "BehaviorEmbedding",
    "CategoricalHead",
    "ClaimMap",
    "Classroom",
    "CrossRiskHeldOut",
    "DissipativeLoss",
    "Distribution",
    "DomainRandomisation",
    "DvD",
    "DynamicFiltering",
    "ESState",
    "EvolutionStrategies",
    "Expert",
    "ExplorationDesign",
    "FullBatchRecipe",
    "GPSurrogate",
    "GaussianMixture",
    "GrokfastEMA",
    "GrokfastMA",
    "Head",
    "HeldOut",
    "LabelNoiseSGD",
    "LevelCurriculum",
    "LevelPool",
    "Multiverse",
    "NoveltySearchES",
    "PGDAttack",
    "PrioritisedReplay",
    "QuantileHead",
    "Regime",
    "SGLDState",
    "SuccessorFeatures",
    "TemporalAugmentation",
    "ThompsonWeight",
    "TwoStageZeroShot",
    "Unshifted",
    "ValueHead",
    "activation_gram",
    "algorithmic_regret",
    "alpha_stable",
    "amplify_fast",
    "average",
    "average_return_policy",
    "behaviour_kernel",
    "centred_ranks",
    "claim_over_multiverse",
    "fisher_diagonal",
    "fisher_weighted",
    "fit_mixture",
    "gradient_norm_penalty",
    "isotropic_alpha_stable",
    "l1_value_loss",
    "label_preservation",
    "log_volume",
    "logit_shift",
    "mean_distance",
    "median_of_three",
    "median_of_three_gradient",
    "memorising_flat_solution",
    "mixture",
    "positive_value_loss",
    "project_categorical",
    "quantile_huber_loss",
    "regime_adaptation",
    "regmean",
    "regmean_plus_plus",
    "sequential_merge",
    "sqrt_lr_scaling",
    "standardised",
    "supervised_average",
    "task_arithmetic",
    "true_regret",
    "wasserstein1",
    "winsorized_gradient",
    "winsorized_mean",
]
