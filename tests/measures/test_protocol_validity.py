import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy import stats

from unseen.lab import UserError
from unseen.measures.choice_reader import expected_rating, read_choices
from unseen.measures.protocol_validity import (
    ProtocolValidity,
    crossed_bootstrap,
    holm,
    mean_test,
    power_curve,
    smallest_detectable,
)
from unseen.worlds.minds import Question, Reply


def test_mean_test_is_scipys_one_sided_t():
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.normal(0.3, 1, 30).astype(np.float32)
        expected = stats.ttest_1samp(values, 0, alternative="greater").pvalue < 0.05
        assert bool(mean_test(jnp.asarray(values))) == expected
    assert not mean_test(jnp.zeros(10)) and mean_test(jnp.ones(10))


def test_validity_needs_all_three_bounds():
    good = dict(planted=(290, 300), null=(48, 1000), decoys={"habit": (12, 300)})
    assert ProtocolValidity.of(**good).valid and not ProtocolValidity.of(**good).invalid
    assert ProtocolValidity.of(**good).margin.low > 0
    for change in (dict(planted=(200, 300)), dict(null=(120, 1000)), dict(decoys={"a": (12, 300), "b": (60, 300)})):
        bad = ProtocolValidity.of(**{**good, **change})
        assert bad.invalid and not bad.valid and bad.margin.high < 0
    open_case = ProtocolValidity.of(**{**good, "planted": (248, 300)})  # the interval holds 0.80
    assert not open_case.valid and not open_case.invalid


def test_power_of_two_proportions_agrees_with_the_normal_formula():
    n, base, effects = 200, 0.3, (0.05, 0.1, 0.15, 0.2)

    def found(key, effect):
        a, b = jax.random.uniform(key, (2, n))
        p, q = (a < base + effect).mean(), (b < base).mean()
        pooled = (p + q) / 2
        return (p - q) / jnp.sqrt(2 * pooled * (1 - pooled) / n) > stats.norm.ppf(0.975)

    power = np.asarray(power_curve(found, effects, 4000, jax.random.key(0)))
    for effect, simulated in zip(effects, power, strict=True):
        p, middle = base + effect, base + effect / 2
        null, real = math.sqrt(2 * middle * (1 - middle) / n), math.sqrt((p * (1 - p) + base * (1 - base)) / n)
        assert abs(stats.norm.cdf((effect - 1.96 * null) / real) - simulated) < 0.03
    assert 0.1 < smallest_detectable(effects, power) < 0.15
    assert smallest_detectable(effects, power, target=1.1) == math.inf


def test_crossed_bootstrap_covers_crossed_random_effects_and_items_alone_do_not():
    rng, trials, n = np.random.default_rng(1), 300, 30
    hits = np.zeros(2)
    for trial in range(trials):
        y = rng.normal(size=(n, 1)) + rng.normal(size=(1, n)) + rng.normal(size=(n, n))
        crossed = crossed_bootstrap(xr.DataArray(y, dims=("item", "wording")), draws=500, seed=trial)
        items = crossed_bootstrap(xr.DataArray(y.mean(1), dims="item"), draws=500, seed=trial)
        hits += [crossed.low < 0 < crossed.high, items.low < 0 < items.high]
    coverage = hits / trials
    assert 0.91 < coverage[0] < 0.985 and coverage[1] < 0.9


def test_crossed_bootstrap_refuses_to_leave_out_a_factor_that_varies():
    values = xr.DataArray(np.zeros((5, 4)), dims=("item", "wording"))
    with pytest.raises(UserError, match="wording"):
        crossed_bootstrap(values, over=["item"])
    with pytest.raises(UserError, match="two levels"):
        crossed_bootstrap(values[:, :1])


def test_crossed_bootstrap_leaves_empty_cells_out():
    values = xr.DataArray(np.arange(24.0).reshape(6, 4), dims=("a", "b"))
    values[0, 0] = np.nan
    ci = crossed_bootstrap(values, draws=200)
    assert ci.estimate == pytest.approx(np.arange(1, 24).mean()) and ci.n == 23 and ci.missing == 0


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])


@pytest.mark.parametrize("habit", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("options", [2, 3])
def test_a_position_habit_without_preference_reads_even(habit, options):
    shares = np.full(options, (1 - habit) / options) + habit * np.eye(options)[0]
    with np.errstate(divide="ignore"):
        reply = Reply("", int(np.argmax(shares)), tuple(np.log(shares).tolist()))
    read = read_choices(lambda qs: [reply for _ in qs], lambda order: Question(str(order), ("a",) * options), options)
    assert read.probabilities == pytest.approx(np.full(options, 1 / options), abs=0.01)
    free = [Reply("", 0)]
    read = read_choices(lambda qs: free * len(qs), lambda order: Question("", ("a",) * options), options)
    assert read.probabilities == pytest.approx(np.full(options, 1 / options))


def test_preference_survives_a_habit_and_unparsed_replies_are_reported():
    prefers, habit = np.log([0.8, 0.2]), np.array([1.5, 0.0])

    def ask(questions):
        return [Reply("", 0, tuple((prefers[list(map(int, q.text))] + habit).tolist())) for q in questions]

    read = read_choices(ask, lambda order: Question("".join(map(str, order)), ("a", "b")), 2)
    assert read.probabilities == pytest.approx([0.8, 0.2])
    silent = read_choices(lambda qs: [Reply("?", -1) for _ in qs], lambda order: Question("", ("a", "b")), 2)
    assert silent.unparsed == 1.0


def test_both_directions_of_a_scale_agree_for_an_honest_rater():
    scores = np.log([0.1, 0.2, 0.4, 0.2, 0.1][::-1])
    scores[0] = np.log(0.3)
    assert expected_rating(scores, scores[::-1]) == pytest.approx(expected_rating(scores))
