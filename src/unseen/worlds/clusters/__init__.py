"""Worlds of labelled examples whose distribution shifts."""

from unseen.worlds.clusters.boolean import BooleanTruth, NoisyBits, bit_strings, boolean_functions
from unseen.worlds.clusters.captions import CaptionTriples
from unseen.worlds.clusters.digit_split import Digits, DigitSplit
from unseen.worlds.clusters.digits import DigitContext, DigitDomains
from unseen.worlds.clusters.good_bad_ugly import Curve, GoodBadUgly
from unseen.worlds.clusters.graded_features import (
    CueBlock,
    FeatureSample,
    GradedFeatures,
    LinearBlock,
    NoiseBlock,
    SlabBlock,
    SlabData,
)
from unseen.worlds.clusters.labelled import LabelledImages
from unseen.worlds.clusters.multitask_bandit import MultitaskBandit, random_maps
from unseen.worlds.clusters.photographs import photographs
from unseen.worlds.clusters.shapes import ShapeScenes
from unseen.worlds.clusters.teacher import (
    Lesson,
    TeacherStudent,
    descent_modes,
    expected_losses,
    marchenko_pastur,
    marchenko_pastur_density,
)
from unseen.worlds.clusters.teacher_network import Regression, TeacherNetwork
from unseen.worlds.clusters.xor import BooleanXor, XorClusters, XorData, span_basis

__all__ = [
    "BooleanTruth",
    "BooleanXor",
    "CaptionTriples",
    "CueBlock",
    "Curve",
    "DigitContext",
    "DigitDomains",
    "DigitSplit",
    "Digits",
    "FeatureSample",
    "GoodBadUgly",
    "GradedFeatures",
    "LabelledImages",
    "Lesson",
    "LinearBlock",
    "MultitaskBandit",
    "NoiseBlock",
    "NoisyBits",
    "Regression",
    "ShapeScenes",
    "SlabBlock",
    "SlabData",
    "TeacherNetwork",
    "TeacherStudent",
    "XorClusters",
    "XorData",
    "bit_strings",
    "boolean_functions",
    "descent_modes",
    "expected_losses",
    "marchenko_pastur",
    "marchenko_pastur_density",
    "photographs",
    "random_maps",
    "span_basis",
]
