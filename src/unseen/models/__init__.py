"""Networks as Equinox modules."""

from unseen.models.any_morph import (
    AnyMorphPolicy,
    GraphDescribedPolicy,
    MorphologyTokens,
    PaddedMLP,
    token_shuffle_probe,
)
from unseen.models.batch_norm import BatchNormMLP, GhostBatchNorm, settle
from unseen.models.batched import Batched
from unseen.models.boolean_nets import BooleanNets
from unseen.models.checkpoint_generator import CheckpointGenerator
from unseen.models.choice_mlp import ChoiceMLP
from unseen.models.clip import TinyCLIP
from unseen.models.conv_net import ConvNet
from unseen.models.decision_transformer import DecisionTransformer
from unseen.models.feature_net import FeatureNet, layer_inputs, torch_layer_inputs
from unseen.models.goal_counter import GoalConditionedCounter
from unseen.models.joint_attention import JointAttentionPolicy
from unseen.models.local_field import local_field
from unseen.models.matrix_conv import MatrixConvNet
from unseen.models.meta_policy import MetaPolicyNetwork
from unseen.models.multi_task import MultiTaskPolicy
from unseen.models.open_loop import DeepDynamics, OpenLoopWorldModel
from unseen.models.patch_encoder import PatchEncoder
from unseen.models.patch_vae import PatchDecoder, PatchVAE
from unseen.models.policy import CategoricalPolicy, GaussianPolicy
from unseen.models.quadratic import EmbeddingMLP, PairTransformer, QuadraticMLP
from unseen.models.recurrent import GRU, LSTM, RNN, Recurrent, StackRNN, TapeRNN, update_stack, update_tape
from unseen.models.relu_student import ReluStudent
from unseen.models.saliency_encoder import SaliencyEncoder
from unseen.models.sparse_moe import SparseMoE
from unseen.models.string_tree import StreamingRNN, TreeReader
from unseen.models.tiny_lm import TinyLM
from unseen.models.top_k_field import TopKField
from unseen.models.toy_addition import ToyAdditionNet
from unseen.models.transformer import Transformer
from unseen.models.world_model import BetaVAE, ForwardModel, InverseModel, LatentDynamics, Segment, WorldModel
from unseen.models.xor_nets import TwoLayerFixedReadout, XorNets

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AnyMorphPolicy",
    "BatchNormMLP",
    "Batched",
    "BetaVAE",
    "BooleanNets",
    "CategoricalPolicy",
    "CheckpointGenerator",
    "ChoiceMLP",
    "ConvNet",
    "DecisionTransformer",
    "DeepDynamics",
    "EmbeddingMLP",
    "FeatureNet",
    "ForwardModel",
    "GaussianPolicy",
    "GhostBatchNorm",
    "GoalConditionedCounter",
    "GraphDescribedPolicy",
    "InverseModel",
    "JointAttentionPolicy",
    "LatentDynamics",
    "MatrixConvNet",
    "MetaPolicyNetwork",
    "MorphologyTokens",
    "MultiTaskPolicy",
    "OpenLoopWorldModel",
    "PaddedMLP",
    "PairTransformer",
    "PatchDecoder",
    "PatchEncoder",
    "PatchVAE",
    "QuadraticMLP",
    "Recurrent",
    "ReluStudent",
    "SaliencyEncoder",
    "Segment",
    "SparseMoE",
    "StackRNN",
    "StreamingRNN",
    "TapeRNN",
    "TinyCLIP",
    "TinyLM",
    "TopKField",
    "ToyAdditionNet",
    "Transformer",
    "TreeReader",
    "TwoLayerFixedReadout",
    "WorldModel",
    "XorNets",
    "layer_inputs",
    "local_field",
    "settle",
    "token_shuffle_probe",
    "torch_layer_inputs",
    "update_stack",
    "update_tape",
]
