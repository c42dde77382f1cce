"""Networks as Equinox modules."""

from unseen.models.decision_transformer import DecisionTransformer
from unseen.models.feature_net import FeatureNet, layer_inputs, torch_layer_inputs
from unseen.models.policy import CategoricalPolicy, GaussianPolicy
from unseen.models.quadratic import EmbeddingMLP, PairTransformer, QuadraticMLP

__all__ = [
    "CategoricalPolicy",
    "DecisionTransformer",
    "EmbeddingMLP",
    "FeatureNet",
    "GaussianPolicy",
    "PairTransformer",
    "QuadraticMLP",
    "layer_inputs",
    "torch_layer_inputs",
]
