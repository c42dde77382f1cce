"""Networks as Equinox modules."""

from unseen.models.feature_net import FeatureNet, layer_inputs, torch_layer_inputs
from unseen.models.quadratic import EmbeddingMLP, PairTransformer, QuadraticMLP

__all__ = [
    "EmbeddingMLP",
    "FeatureNet",
    "PairTransformer",
    "QuadraticMLP",
    "layer_inputs",
    "torch_layer_inputs",
]
