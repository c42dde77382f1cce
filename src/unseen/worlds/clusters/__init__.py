"""Worlds of labelled examples whose distribution shifts."""

from unseen.worlds.clusters.digits import DigitContext, DigitDomains

__all__ = ["DigitContext", "DigitDomains"]
