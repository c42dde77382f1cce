from collections.abc import Iterator

import jax
import pytest

from unseen.lab import statistics


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    """What is tested here is what claims make of an interval; its coverage is tested with the statistics."""
    monkeypatch.setattr(statistics, "SEED_RESAMPLES", 200)


@pytest.fixture(autouse=True, scope="module")
def quick_to_compile() -> Iterator[None]:
    """Smoke runs compile for half a minute and compute for seconds: XLA's optimizations do not pay here."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
