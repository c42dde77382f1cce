"""Numbers that predict or explain generalization: functions of arrays."""

from unseen.measures.circuit_efficiency import circuit_efficiency, critical_fraction, efficiency_crossing
from unseen.measures.concentration import (
    ClosestViews,
    Concentration,
    ErrorBound,
    augmentation_concentration,
    closest_views,
    contrastive_error_bound,
)
from unseen.measures.exact import (
    action_values,
    best_context_blind_value,
    best_stochastic_blind_value,
    context_aware_value,
    policy_evaluation,
    regret,
    return_range,
    successor_matrix,
    value_iteration,
)
from unseen.measures.generalization import (
    GeneralizationMatrix,
    best_observed,
    forgetting,
    forward_transfer,
    normalised_return,
)
from unseen.measures.hypersphere import (
    DiversityProfile,
    centre_cosine,
    class_centres,
    diversity_profile,
    feature_diversity,
    hyperspherical_energy,
    null_diversity,
    positive_distance,
    unit,
)
from unseen.measures.neural_collapse import (
    CollapseReport,
    StreamingClassMoments,
    collapse_report,
    decisions_agree,
    random_moments,
)
from unseen.measures.normalized_score import normalized_score, success_rate
from unseen.measures.overtraining import advani_saxe_curve, frozen_error, frozen_subspace, overtraining_penalty
from unseen.measures.readouts import LinearProbe, NearestCentre, linear_probe, nearest_neighbours
from unseen.measures.weight_distance import track_weight_distance, weight_distance
from unseen.measures.xor_phase import XorPhase, xor_cluster_phase

__all__ = [
    "ClosestViews",
    "CollapseReport",
    "Concentration",
    "DiversityProfile",
    "ErrorBound",
    "GeneralizationMatrix",
    "LinearProbe",
    "NearestCentre",
    "StreamingClassMoments",
    "XorPhase",
    "action_values",
    "advani_saxe_curve",
    "augmentation_concentration",
    "best_context_blind_value",
    "best_observed",
    "best_stochastic_blind_value",
    "centre_cosine",
    "circuit_efficiency",
    "class_centres",
    "closest_views",
    "collapse_report",
    "context_aware_value",
    "contrastive_error_bound",
    "critical_fraction",
    "decisions_agree",
    "diversity_profile",
    "efficiency_crossing",
    "feature_diversity",
    "forgetting",
    "forward_transfer",
    "frozen_error",
    "frozen_subspace",
    "hyperspherical_energy",
    "linear_probe",
    "nearest_neighbours",
    "normalised_return",
    "normalized_score",
    "null_diversity",
    "overtraining_penalty",
    "policy_evaluation",
    "positive_distance",
    "random_moments",
    "regret",
    "return_range",
    "success_rate",
    "successor_matrix",
    "track_weight_distance",
    "unit",
    "value_iteration",
    "weight_distance",
    "xor_cluster_phase",
]
