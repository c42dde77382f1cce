"""Numbers that predict or explain generalization: functions of arrays."""

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
from unseen.measures.normalized_score import normalized_score, success_rate
from unseen.measures.xor_phase import XorPhase, xor_cluster_phase

__all__ = [
    "GeneralizationMatrix",
    "XorPhase",
    "action_values",
    "best_context_blind_value",
    "best_observed",
    "best_stochastic_blind_value",
    "context_aware_value",
    "forgetting",
    "forward_transfer",
    "normalised_return",
    "normalized_score",
    "policy_evaluation",
    "regret",
    "return_range",
    "success_rate",
    "successor_matrix",
    "value_iteration",
    "xor_cluster_phase",
]
