"""What turns a model, a world and an objective into a Learner."""

from unseen.learners.branch_choice import BranchChoice, BranchGame, branch_policy
from unseen.learners.classifier import classifier
from unseen.learners.contrastive import alignment_loss, contrastive, cross_correlation, info_nce
from unseen.learners.distil import demonstrate, distil
from unseen.learners.ensemble import ensemble
from unseen.learners.language_modelling import language_modelling
from unseen.learners.mixup_benchmark import MixupBenchmark
from unseen.learners.offline_td import OfflineTD
from unseen.learners.outcome_bc import OutcomeBC
from unseen.learners.tabular_agents import ModelBased, SuccessorRepresentation, TabularQ, revaluation_protocol
from unseen.learners.ungrokking import UngrokkingProtocol

__all__ = [
    "BranchChoice",
    "BranchGame",
    "MixupBenchmark",
    "ModelBased",
    "OfflineTD",
    "OutcomeBC",
    "SuccessorRepresentation",
    "TabularQ",
    "UngrokkingProtocol",
    "alignment_loss",
    "branch_policy",
    "classifier",
    "contrastive",
    "cross_correlation",
    "demonstrate",
    "distil",
    "ensemble",
    "info_nce",
    "language_modelling",
    "revaluation_protocol",
]
