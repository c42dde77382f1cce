"""Ways of mixing training images: functions of arrays, and objectives for `classifier`."""

from unseen.methods.mixing.guided import attentivemix, fine_grained_saliency, puzzlemix, saliencymix
from unseen.methods.mixing.hidden import aligned, sinkhorn
from unseen.methods.mixing.objectives import (
    AutoMixNet,
    alignmix,
    attentivemix_objective,
    automix,
    decoupled_mixup,
    decoupled_objective,
    label_smoothing,
    manifold_mixup,
    mixing_objective,
    mixup_label_entropy,
    puzzlemix_objective,
    smoothing_of_entropy,
    soft_cross_entropy,
)
from unseen.methods.mixing.static import Mixed, cutmix, fmix, gridmix, mixup, resizemix, smoothmix

__all__ = [
    "AutoMixNet",
    "Mixed",
    "aligned",
    "alignmix",
    "attentivemix",
    "attentivemix_objective",
    "automix",
    "cutmix",
    "decoupled_mixup",
    "decoupled_objective",
    "fine_grained_saliency",
    "fmix",
    "gridmix",
    "label_smoothing",
    "manifold_mixup",
    "mixing_objective",
    "mixup",
    "mixup_label_entropy",
    "puzzlemix",
    "puzzlemix_objective",
    "resizemix",
    "saliencymix",
    "sinkhorn",
    "smoothing_of_entropy",
    "smoothmix",
    "soft_cross_entropy",
]
