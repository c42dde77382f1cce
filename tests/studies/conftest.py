import pytest

from unseen.lab import statistics


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch):
    """What is tested here is what claims make of an interval; its coverage is tested with the statistics."""
    monkeypatch.setattr(statistics, "SEED_RESAMPLES", 200)
