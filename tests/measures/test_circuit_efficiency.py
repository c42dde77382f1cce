import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.measures import circuit_efficiency, critical_fraction, efficiency_crossing
from unseen.measures.circuit_efficiency import logit_margin
from unseen.models import QuadraticMLP
from unseen.worlds.algorithms import ModularArithmetic


def test_margin_by_hand():
    logits = jnp.array([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0], [5.0, 5.0, 0.0]])
    assert logit_margin(logits, jnp.array([1, 0, 0])).tolist() == [2.0, -3.0, 0.0]


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_the_cosine_solution_has_its_closed_form(scale):
    """Every margin is m p / 4, every used parameter a cosine of mean square 1/2."""
    p, units = 31, 8
    width = units * (p - 1) // 2
    split = ModularArithmetic(p).split(jax.random.key(0), 0.5)
    model = jax.tree.map(lambda x: scale * x, QuadraticMLP.cosine(p, width))
    got = circuit_efficiency(model(*split.inputs), split.labels, model, degree=3)
    assert float(got) == pytest.approx(units * p / 4 / 0.5**1.5, rel=1e-4)


def test_weights_pick_the_examples_and_whole_numbers_are_no_parameters():
    logits = jnp.array([[3.0, 0.0], [0.0, 1.0]])
    parameters = {"w": jnp.full(4, 2.0), "steps": jnp.array(7)}
    labels = jnp.array([0, 0])
    assert float(circuit_efficiency(logits, labels, parameters, degree=1)) == pytest.approx((3 - 1) / 2 / 2)
    only = circuit_efficiency(logits, labels, parameters, degree=2, weights=jnp.array([1.0, 0.0]))
    assert float(only) == pytest.approx(3 / 4)
    with pytest.raises(UserError, match="parameters takes"):
        circuit_efficiency(logits, labels, {}, degree=1)


def test_critical_fraction_of_a_logistic_curve_in_the_log():
    share = xr.DataArray([0.05, 0.1, 0.15, 0.25, 0.4], dims="fraction")
    share = share.assign_coords(fraction=share.values)
    at = xr.DataArray([0.12, 0.2], dims="seed", coords={"seed": [0, 1]})
    accuracy = 1 / (1 + (at / share) ** 4)
    np.testing.assert_allclose(critical_fraction(accuracy), at, rtol=0.01)
    assert np.isnan(critical_fraction(accuracy * 0 + 0.9)).all()


def test_power_laws_cross_where_they_should():
    share = xr.DataArray([0.1, 0.3, 0.6], dims="fraction", coords={"fraction": [0.1, 0.3, 0.6]})
    memorising = 5.0 * share**-0.5
    assert float(efficiency_crossing(memorising, 5.0 * 0.04**-0.5)) == pytest.approx(0.04)
