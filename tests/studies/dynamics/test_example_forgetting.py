import jax
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.example_forgetting import ORDERS, ExampleForgetting, by_chance

STUDY = ExampleForgetting.at_scale("laptop")
JITTER = np.array([-0.001, 0.0, 0.0, 0.001])


def evidence(*, least=0.96, random=0.95, most=0.93, full=0.96, agree=1.0, wrong_are_forgotten=True) -> xr.Dataset:
    rng = np.random.default_rng(0)
    rank = np.arange(100.0)
    counts = np.floor(np.maximum(rank - 70, 0) / 5)  # 75 of 100 are never forgotten
    other = counts if agree > 0 else counts[::-1]
    events = np.stack([np.broadcast_to(c, (4, 2, 100)) for c in (counts, other)])
    order = np.array([{"least": least, "random": random, "most": most}[name] for name in ORDERS])
    pruned = order[None, None, None, :, None] + np.zeros((2, 4, 2, 3, 3)) + JITTER[:, None, None, None]
    wrong = rank >= 90 if wrong_are_forgotten else rank < 10
    return xr.Dataset(
        {
            "events": (("architecture", "seed", "run", "example"), events),
            "full_accuracy": (("architecture", "seed", "step"), full + np.zeros((2, 4, 2)) + JITTER[:, None]),
            "pruned_accuracy": (("architecture", "seed", "step", "order", "removed"), pruned),
            "noisy_events": (
                ("wrong", "seed", "run", "example"),
                np.broadcast_to(counts, (1, 4, 2, 100)) + rng.uniform(size=(1, 4, 2, 100)),
            ),
            "is_wrong": (("wrong", "seed", "example"), np.broadcast_to(wrong, (1, 4, 100))),
        },
        {
            "architecture": ["mlp", "conv"], "seed": range(4), "step": [0, 540], "order": list(ORDERS),
            "removed": [0.3, 0.5, 0.7], "wrong": [0.1],
        },
    )  # fmt: skip


def test_claims_on_made_up_counts():
    e = evidence()
    assert {c: STUDY.judgement(c, e).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "supported")
    assert STUDY.judgement("prunable", e).effect.estimate == pytest.approx(0)
    worse = evidence(least=0.90, agree=-1, wrong_are_forgotten=False)
    for claim in ("across-architectures", "prunable", "noise-found"):
        assert STUDY.judgement(claim, worse).outcome == "refuted", claim
    even = e.assign(events=e.events * 0 + 3.0)
    assert STUDY.judgement("uneven", even).outcome == "refuted"


def test_chance_throws_as_many_events():
    counts = evidence().events
    thrown = by_chance(counts)
    np.testing.assert_array_equal(thrown.sum("example"), counts.sum("example"))
    assert float(thrown.std()) < float(counts.std())


def test_counts_and_pruned_sets_of_one_split():
    study = ExampleForgetting.at_scale("smoke")
    me = study.learner("mlp")
    state = jax.jit(me.init)(jax.random.key(0))
    assert state.events.shape == (2, 64) and (state.events <= 3).all()
    assert state.train.sum(1).tolist() == [64, 45, 45, 45]  # all of them, then without 30%
    mean = state.events.mean(0)
    kept, gone = mean[state.train[1][:64] > 0], mean[state.train[1][:64] == 0]
    assert gone.max() <= kept.min()


def test_figures_do_without_what_was_not_run():
    e = evidence()
    assert STUDY.figure(e.isel(seed=[0], architecture=[1])) is not None
    assert STUDY.figure(e.where(e.seed < 2)) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "tree"}, "architecture takes mlp and conv"),
        ({"training": 5_000}, "training takes a number"),
        ({"batch": 601}, "batch takes a number"),
        ({"evaluations": 7}, "evaluations takes a divisor"),
        ({"removed": (0.3, 1.0)}, "removed takes different numbers"),
        ({"wrong": 0.0}, "wrong takes numbers"),
        ({"runs": 0}, "runs takes a whole number"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(UserError, match=message):
        ExampleForgetting.at_scale("laptop", **changes)
