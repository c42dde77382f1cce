"""What turns a model, a world and an objective into a Learner."""

from typing import TYPE_CHECKING

from unseen.lab.on_demand import on_demand
from unseen.learners.average_return import average_return_policy
from unseen.learners.branch_choice import BranchChoice, BranchGame, branch_policy
from unseen.learners.classifier import classifier
from unseen.learners.contrastive import alignment_loss, contrastive, cross_correlation, info_nce
from unseen.learners.distil import demonstrate, distil
from unseen.learners.edge_estimator import Decided, EdgeEstimator
from unseen.learners.ensemble import ensemble
from unseen.learners.episodic import UCBVI, PolicyCollectionElimination
from unseen.learners.gfucb import FiniteGFUCB, NeuralGFUCB, per_task_regret
from unseen.learners.imagination import ActorCritic, Imagination, Imagined, fit_world_model
from unseen.learners.language_modelling import language_modelling
from unseen.learners.mixup_benchmark import MixupBenchmark
from unseen.learners.offline_td import OfflineTD
from unseen.learners.outcome_bc import OutcomeBC
from unseen.learners.pad_ppo import PADPPO, PADAgent, PADTraining, Played
from unseen.learners.projection_ensemble import ProjectionEnsemble, UncertaintyHead, grid_disagreement
from unseen.learners.q_learning import Interaction, QLearner, QNetwork, QState, q_learning
from unseen.learners.remedied_q import RemediedQLearner, RemedySet
from unseen.learners.replay import GoalObservation, Hindsight, Replay, Rows, Transition
from unseen.learners.rig import (
    RIG,
    GoalPractice,
    Perception,
    Prior,
    fit_prior,
    imagined_goals,
    latent_reward,
    pixel_reward,
    practise,
)
from unseen.learners.sgqn import SGQN
from unseen.learners.skill_ppo import Episodes, SkillAgent, SkillPPO, SkillState
from unseen.learners.successor_features import SuccessorFeatures
from unseen.learners.tabular_agents import ModelBased, SuccessorRepresentation, TabularQ, revaluation_protocol
from unseen.learners.thompson import GaussianBelief, TypeBelief, regret_ratio, thompson_regret
from unseen.learners.ungrokking import UngrokkingProtocol

if TYPE_CHECKING:
    from unseen.learners.continual_ppo import ContinualPPO, ContinualState
    from unseen.learners.groove import Groove
    from unseen.learners.level_scores import AlgorithmicRegret, ValueTable, score_vs_true_regret
    from unseen.learners.lifetimes import DriftRule, Lives, LPGRule, UpdateRule, horizon_sweep, lifetime_fitness
    from unseen.learners.meta_training import LifetimeEvolution, TruncatedDescent
    from unseen.learners.smerl import DIAYN, SMERL, LatentAgent, LatentEpisodes, LatentState

__all__ = [
    "DIAYN",
    "PADPPO",
    "RIG",
    "SGQN",
    "SMERL",
    "UCBVI",
    "ActorCritic",
    "AlgorithmicRegret",
    "BranchChoice",
    "BranchGame",
    "ContinualPPO",
    "ContinualState",
    "Decided",
    "DriftRule",
    "EdgeEstimator",
    "Episodes",
    "FiniteGFUCB",
    "GaussianBelief",
    "GoalObservation",
    "GoalPractice",
    "Groove",
    "Hindsight",
    "Imagination",
    "Imagined",
    "Interaction",
    "LPGRule",
    "LatentAgent",
    "LatentEpisodes",
    "LatentState",
    "LifetimeEvolution",
    "Lives",
    "MixupBenchmark",
    "ModelBased",
    "NeuralGFUCB",
    "OfflineTD",
    "OutcomeBC",
    "PADAgent",
    "PADTraining",
    "Perception",
    "Played",
    "PolicyCollectionElimination",
    "Prior",
    "ProjectionEnsemble",
    "QLearner",
    "QNetwork",
    "QState",
    "RemediedQLearner",
    "RemedySet",
    "Replay",
    "Rows",
    "SkillAgent",
    "SkillPPO",
    "SkillState",
    "SuccessorFeatures",
    "SuccessorRepresentation",
    "TabularQ",
    "Transition",
    "TruncatedDescent",
    "TypeBelief",
    "UncertaintyHead",
    "UngrokkingProtocol",
    "UpdateRule",
    "ValueTable",
    "alignment_loss",
    "average_return_policy",
    "branch_policy",
    "classifier",
    "contrastive",
    "cross_correlation",
    "demonstrate",
    "distil",
    "ensemble",
    "fit_prior",
    "fit_world_model",
    "grid_disagreement",
    "horizon_sweep",
    "imagined_goals",
    "info_nce",
    "language_modelling",
    "latent_reward",
    "lifetime_fitness",
    "per_task_regret",
    "pixel_reward",
    "practise",
    "q_learning",
    "regret_ratio",
    "revaluation_protocol",
    "score_vs_true_regret",
    "thompson_regret",
]

# Needs the extra `control`: imported when asked for, so that all else works without it.
_ON_DEMAND = {
    "continual_ppo": ("ContinualPPO", "ContinualState"),
    "groove": ("Groove",),
    "level_scores": ("AlgorithmicRegret", "ValueTable", "score_vs_true_regret"),
    "lifetimes": ("DriftRule", "Lives", "LPGRule", "UpdateRule", "horizon_sweep", "lifetime_fitness"),
    "meta_training": ("LifetimeEvolution", "TruncatedDescent"),
    "smerl": ("DIAYN", "SMERL", "LatentAgent", "LatentEpisodes", "LatentState"),
}

__getattr__ = on_demand(__name__, _ON_DEMAND)
