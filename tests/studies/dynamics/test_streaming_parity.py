import jax
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.streaming_parity import StreamingParity

STUDY = StreamingParity.at_scale("laptop")
SEEDS = 4
JITTER = np.array([-0.01, 0.0, 0.0, 0.01])


def evidence(threshold=5, large=0.5, merged=0.1, machine=2, control=1.0, fitted=1.0) -> xr.Dataset:
    """Runs that are right at any length from training length `threshold` on (small first weights only), with
    `merged` of their strings as states and a minimal machine of `machine`; the others are the tree."""
    longest, gains = np.arange(2, 7), [0.1, 0.5, 1.0]
    shape = (5, 3, SEEDS)
    general = np.zeros(shape, bool)
    general[:, 1] = (longest >= threshold)[:, None]
    general[:, 0] = True
    ran = np.ones(shape, bool)
    ran[:3, 2] = False
    accuracy = np.where(general, 1.0, 0.5 + JITTER)
    accuracy[:, 2] = large + JITTER
    share = np.where(general, merged + JITTER, 1.0)
    sizes = np.where(general, machine, 13)
    cell = ("longest", "gain", "seed")
    lengths = [1, STUDY.tested_to]
    accuracies = np.stack([np.ones(shape), accuracy], -1)
    e = xr.Dataset(
        {
            "long_accuracy": ((*cell, "length"), accuracies),
            "train_accuracy": ((*cell, "step"), np.full((*shape, 2), fitted)),
            "share_of_states": (cell, share),
            "minimal_states": (cell, sizes),
        },
        {"longest": longest, "gain": gains, "seed": range(SEEDS), "length": lengths},
    ).where(xr.DataArray(ran, dims=cell))
    e["control_share_of_states"] = (("gain", "seed"), np.full((3, SEEDS), control))
    e["control_train_accuracy"] = (("gain", "seed", "control_step"), np.ones((3, SEEDS, 2)))
    return e


def outcome(claim, e):
    return getattr(STUDY, STUDY.claims[claim])(e)


def test_a_clean_transition_supports_all_claims():
    e = evidence()
    assert {c: outcome(c, e).outcome for c in STUDY.claims if c != "automaton"} == {
        "abrupt": "supported", "small-weights": "supported", "needs-finite-machine": "supported",
    }  # fmt: skip
    assert outcome("abrupt", e).effect.estimate == pytest.approx(0.5, abs=0.02)
    assert "follows M = 4" in outcome("abrupt", e).note
    assert "at gain 0.1: share 1 " in outcome("automaton", e).note
    many = evidence(threshold=2)  # 20 runs that generalise: 8 do not make the interval of a share narrow enough
    found = outcome("automaton", evidence())
    assert (found.effect.estimate, found.effect.n) == (1.0, 8) and found.outcome == "inconclusive"
    assert outcome("automaton", many).effect.n == 20


def test_what_refutes():
    never = evidence(threshold=9)
    assert outcome("abrupt", never).outcome == "refuted"
    assert outcome("small-weights", never).outcome == "refuted"
    assert outcome("automaton", evidence(machine=5)).outcome == "refuted"
    assert outcome("needs-finite-machine", evidence(control=0.1)).outcome == "refuted"


def test_runs_that_do_not_fit_decide_nothing():
    assert outcome("small-weights", evidence(fitted=0.9)).outcome == "inconclusive"
    assert outcome("needs-finite-machine", evidence(fitted=0.9)).outcome == "inconclusive"


def test_the_learner_measures_what_its_evidence_needs():
    study = StreamingParity.at_scale("smoke")
    learner = study.learner(2, 0.5)
    state = jax.jit(learner.init)(jax.random.key(0))
    assert float(state.data.train.sum()) == 6  # strings of length 1 and 2, without the empty one
    np.testing.assert_array_equal(state.data.labels[:7], [0, 0, 1, 0, 1, 1, 0])
    final = jax.jit(learner.final)(state)
    assert final["long_accuracy"].shape == (study.tested_to,)
    assert float(final["share_of_states"]) <= 1 and int(final["minimal_states"]) >= 1
    control = study.control(0.5)
    labels = [jax.jit(control.init)(jax.random.key(k)).data.labels for k in (0, 1)]
    assert not np.array_equal(*labels)


def test_figures_do_without_what_was_not_run():
    e = evidence()
    assert STUDY.figure(e.sel(gain=[0.5], longest=[2, 3]).isel(seed=[0])) is not None
    assert STUDY.figure(e.drop_vars(["control_share_of_states", "control_train_accuracy"])) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"longest": (0, 2)}, "longest takes lengths from 1"),
        ({"longest": 13}, "longest takes lengths up to 12"),
        ({"tested_to": 6}, "tested_to takes a length above"),
        ({"steps": 7}, "steps takes a multiple of looks"),
        ({"gain": 0.0}, "gain takes numbers above 0"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        StreamingParity.at_scale("laptop", **changes)
