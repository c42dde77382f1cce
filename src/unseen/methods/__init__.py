"""Interventions in the field's own shapes: optimizers as optax transformations, losses and merges as functions."""

from typing import TYPE_CHECKING

from unseen.lab.on_demand import on_demand
from unseen.methods.again import AGAIN, AGAINState, Classroom, Expert
from unseen.methods.alpha_stable import AlphaStableNoise, AlphaStableState, alpha_stable, isotropic_alpha_stable
from unseen.methods.augment import Augment, label_preservation
from unseen.methods.cognitive_graph import (
    BehaviorSearch,
    CognitiveGraph,
    HarmonicCode,
    HebbianEdges,
    SearchResult,
    momentum_walk,
)
from unseen.methods.curiosity import CuriosityReward, CuriosityState, Steps
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
from unseen.methods.dreams import Dream, FeatureDream, RandomSwing, ValueDiversification
from unseen.methods.evolution import ESState, EvolutionStrategies, centred_ranks, standardised
from unseen.methods.full_batch import FullBatchRecipe, gradient_norm_penalty
from unseen.methods.grokfast import GrokfastEMA, GrokfastMA, amplify_fast
from unseen.methods.langevin import SGLD, SGLDState
from unseen.methods.large_batch import Regime, regime_adaptation, sqrt_lr_scaling
from unseen.methods.learned_objective import (
    LPG,
    LPO,
    lifetime_inputs,
    lpg_loss,
    ppo_clip_drift,
    surrogate_weight,
    truncated_meta_gradient,
)
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
from unseen.methods.overlay import RandomOverlay
from unseen.methods.pad import (
    PAD,
    Deployment,
    InverseDynamicsTask,
    Moments,
    PADPolicy,
    PADState,
    RotationTask,
    SelfSupervisedTask,
    deploy,
)
from unseen.methods.pgd import PGDAttack
from unseen.methods.policy_gradient import advantages, clipped_loss
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
from unseen.methods.projection_mixture import (
    categorical_projection,
    contraction_ratio,
    distributional_bellman,
    mixture_modulus,
    project_quantile,
    projection_mixture_operator,
    quantile_projection,
)
from unseen.methods.proxy_problem import ProxyPlan, ProxyProblem, medoids, plan_bound, proxy_bound
from unseen.methods.robust_gradients import (
    median_of_three,
    median_of_three_gradient,
    winsorized_gradient,
    winsorized_mean,
)
from unseen.methods.sharpness import SAM, LabelNoiseSGD, memorising_flat_solution
from unseen.methods.skills import SkillScheduler, SnapshotStore
from unseen.methods.sparse_prompt import DictionaryUpdate, SparsePrompt, lasso, step_mask
from unseen.methods.task_filter import DynamicTaskFilter
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

if TYPE_CHECKING:
    from unseen.methods.latent_diversity import (
        Adaptation,
        best_of_k_adaptation,
        distinguishability,
        robustness_set,
        thresholded_diversity,
    )

__all__ = [
    "AGAIN",
    "ALPGMM",
    "LPG",
    "LPO",
    "MAT",
    "PAD",
    "SAM",
    "SGLD",
    "AGAINState",
    "Adaptation",
    "AlphaStableNoise",
    "AlphaStableState",
    "Augment",
    "Axis",
    "BanditState",
    "BehaviorEmbedding",
    "BehaviorSearch",
    "CategoricalHead",
    "ClaimMap",
    "Classroom",
    "CognitiveGraph",
    "CrossRiskHeldOut",
    "CuriosityReward",
    "CuriosityState",
    "Deployment",
    "DictionaryUpdate",
    "DissipativeLoss",
    "Distribution",
    "DomainRandomisation",
    "Dream",
    "DvD",
    "DynamicFiltering",
    "DynamicTaskFilter",
    "ESState",
    "EvolutionStrategies",
    "Expert",
    "ExplorationDesign",
    "FeatureDream",
    "FullBatchRecipe",
    "GPSurrogate",
    "GaussianMixture",
    "GrokfastEMA",
    "GrokfastMA",
    "HarmonicCode",
    "Head",
    "HebbianEdges",
    "HeldOut",
    "InverseDynamicsTask",
    "LabelNoiseSGD",
    "LevelCurriculum",
    "LevelPool",
    "Moments",
    "Multiverse",
    "NoveltySearchES",
    "PADPolicy",
    "PADState",
    "PGDAttack",
    "PrioritisedReplay",
    "ProxyPlan",
    "ProxyProblem",
    "QuantileHead",
    "RandomOverlay",
    "RandomSwing",
    "Regime",
    "RotationTask",
    "SGLDState",
    "SearchResult",
    "SelfSupervisedTask",
    "SkillScheduler",
    "SnapshotStore",
    "SparsePrompt",
    "Steps",
    "TemporalAugmentation",
    "ThompsonWeight",
    "TwoStageZeroShot",
    "Unshifted",
    "ValueDiversification",
    "ValueHead",
    "activation_gram",
    "advantages",
    "algorithmic_regret",
    "alpha_stable",
    "amplify_fast",
    "average",
    "behaviour_kernel",
    "best_of_k_adaptation",
    "categorical_projection",
    "centred_ranks",
    "claim_over_multiverse",
    "clipped_loss",
    "contraction_ratio",
    "deploy",
    "distinguishability",
    "distributional_bellman",
    "fisher_diagonal",
    "fisher_weighted",
    "fit_mixture",
    "gradient_norm_penalty",
    "isotropic_alpha_stable",
    "l1_value_loss",
    "label_preservation",
    "lasso",
    "lifetime_inputs",
    "log_volume",
    "logit_shift",
    "lpg_loss",
    "mean_distance",
    "median_of_three",
    "median_of_three_gradient",
    "medoids",
    "memorising_flat_solution",
    "mixture",
    "mixture_modulus",
    "momentum_walk",
    "plan_bound",
    "positive_value_loss",
    "ppo_clip_drift",
    "project_categorical",
    "project_quantile",
    "projection_mixture_operator",
    "proxy_bound",
    "quantile_huber_loss",
    "quantile_projection",
    "regime_adaptation",
    "regmean",
    "regmean_plus_plus",
    "robustness_set",
    "sequential_merge",
    "sqrt_lr_scaling",
    "standardised",
    "step_mask",
    "supervised_average",
    "surrogate_weight",
    "task_arithmetic",
    "thresholded_diversity",
    "true_regret",
    "truncated_meta_gradient",
    "wasserstein1",
    "winsorized_gradient",
    "winsorized_mean",
]

# Needs the extra `control`: imported when asked for, so that all else works without it.
_ON_DEMAND = {
    "latent_diversity": (
        "Adaptation",
        "best_of_k_adaptation",
        "distinguishability",
        "robustness_set",
        "thresholded_diversity",
    ),
}

__getattr__ = on_demand(__name__, _ON_DEMAND)
