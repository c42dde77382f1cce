"""Networks as Equinox modules."""

from unseen.models.feature_net import FeatureNet, layer_inputs, torch_layer_inputs
from unseen.models.quadratic import EmbeddingMLP, QuadraticMLP

__all__ = ["EmbeddingMLP", "FeatureNet", "QuadraticMLP", "layer_inputs", "torch_layer_inputs"]
