import jax.numpy as jnp
import pytest

from unseen.measures.schedule_index import schedule_index


def plain(ratio, advantage, fraction):
    return ratio * advantage


@pytest.mark.parametrize(
    ("over_life", "expected"),
    [
        (lambda fraction: 1.0, 0.0),
        (lambda fraction: 2.0 - fraction, (1.9 - 1.1) / (1.9 + 1.1)),
        (lambda fraction: float(fraction < 0.5), 1.0),
        (lambda fraction: 1.0 if fraction < 0.5 else -1.0, 1.0),
        (lambda fraction: 0.0, 0.0),
    ],
)
def test_index_of_rules_that_shrink_or_turn(over_life, expected):
    assert float(schedule_index(lambda r, a, f: over_life(f) * plain(r, a, f))) == pytest.approx(expected, abs=1e-6)


def test_rules_that_look_elsewhere_at_different_times():
    """Orthogonal gradients of one size: sqrt(2) / 2."""

    def gradient(ratio, advantage, fraction):
        return jnp.where((advantage > 0) == (fraction < 0.5), jnp.abs(advantage), 0.0)

    assert float(schedule_index(gradient)) == pytest.approx(2**0.5 / 2, abs=1e-6)
