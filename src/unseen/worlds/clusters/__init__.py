"""Worlds of labelled examples whose distribution shifts."""

from unseen.worlds.clusters.digits import DigitContext, DigitDomains
from unseen.worlds.clusters.teacher import (
    Lesson,
    TeacherStudent,
    descent_modes,
    expected_losses,
    marchenko_pastur,
    marchenko_pastur_density,
)

__all__ = [
    "DigitContext",
    "DigitDomains",
    "Lesson",
    "TeacherStudent",
    "descent_modes",
    "expected_losses",
    "marchenko_pastur",
    "marchenko_pastur_density",
]
