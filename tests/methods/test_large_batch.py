import doctest

import numpy as np
import pytest

from unseen.lab import UserError
from unseen.methods import large_batch
from unseen.methods.large_batch import Regime, regime_adaptation, sqrt_lr_scaling


def test_a_regime_drops_after_its_epochs():
    schedule = Regime(0.1, 4, (1, 3)).schedule(5)
    rates = [float(schedule(update)) for update in range(20)]
    np.testing.assert_allclose(rates, [0.1] * 5 + [0.01] * 10 + [0.001] * 5, rtol=1e-6)


def test_adaptation_keeps_the_rate_at_every_update():
    small = Regime(0.1, 40, (16, 24))
    large = regime_adaptation(small, 800, 32)
    updates_an_epoch = {32: 25, 800: 1}
    assert large.epochs * updates_an_epoch[800] == small.epochs * updates_an_epoch[32]
    a, b = small.schedule(25), large.schedule(1)
    assert all(float(a(update)) == float(b(update)) for update in range(0, 1_000, 7))


def test_scaled_steps_have_the_covariance_of_the_reference():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(20_000, 100))
    rate = sqrt_lr_scaling(0.1, 100, 25)
    spread = np.var(rate * gradients.mean(1)), np.var(0.1 * gradients[:, :25].mean(1))
    assert rate == pytest.approx(0.2)
    assert spread[0] == pytest.approx(spread[1], rel=0.05)


def test_examples_and_bad_settings():
    assert doctest.testmod(large_batch).failed == 0
    with pytest.raises(UserError, match="drops takes increasing"):
        Regime(0.1, 4, (3, 1))
    with pytest.raises(UserError, match="epochs takes"):
        Regime(0.1, 0)
    with pytest.raises(UserError, match="batch_size takes a number from the reference's 32"):
        regime_adaptation(Regime(0.1, 4), 16, 32)
