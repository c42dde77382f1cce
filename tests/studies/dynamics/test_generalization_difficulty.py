import itertools
import math

import jax
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.generalization_difficulty import (
    TASKS,
    GeneralizationDifficulty,
    _frequencies,
    learning_curve,
)

STUDY = GeneralizationDifficulty.at_scale("laptop")
RANK = dict(zip(TASKS, (3, 2, 1, 6, 5, 4, 2.5, 9, 8, 0.5), strict=True))  # of difficulty


def evidence(exact=None, order=1.0, hidden=2.0, need=None, formula=None) -> xr.Dataset:
    """Difficulties by rank; examples needed that follow them, or `need`."""
    random = np.random.default_rng(0)
    m, k, n = (np.array(v, float) for v in ((1, 2, 3, 4), (1, 2, 3, 4), (2, 32)))
    bits = (exact or (lambda m, k, n: 3.0**m * k**1.5 * 40 / np.sqrt(n)))(
        *np.stack(np.meshgrid(m, k, n, indexing="ij"))
    )
    estimated = (formula or (lambda b: b**1.3))(bits)
    wobble = np.exp(0.01 * random.normal(size=10))
    difficulty = np.array([RANK[t] for t in TASKS]) ** order
    needed = 10 * difficulty if need is None else np.array(need, float)
    sizes = np.array(STUDY.sizes(), float)
    errors = np.broadcast_to((0.1 * needed[:, None] / sizes)[:, None].clip(max=0.5), (10, 10, len(sizes)))
    ranks = {name: random.permutation(10)[:, None] * np.ones(10) for name in ("input_dimension", "class_number")}
    cells = ("dimension", "cutoff", "known", "seed")
    return xr.Dataset(
        {
            "exact_bits": (cells, bits[..., None] * wobble),
            "formula_bits": (cells, estimated[..., None] * np.ones(10)),
            "bits": (("task", "seed"), 10 ** difficulty[:, None] * wobble),
            "kernel_error": (("task", "seed", "size"), errors),
            "neighbour_error": (("task", "seed", "size"), errors),
            "partial_bits": (("cartpole_frames", "seed"), 10 ** (hidden * np.arange(1, 6)[:, None]) * wobble),
            "control_bits": (("cartpole_frames", "seed"), np.ones((5, 10))),
            **{name: (("task", "seed"), values) for name, values in ranks.items()},
        },
        {
            "dimension": m.astype(int),
            "cutoff": k.astype(int),
            "known": n.astype(int),
            "task": list(TASKS),
            "seed": range(10),
            "size": STUDY.sizes(),
            "cartpole_frames": range(1, 6),
        },
    )


def test_evidence_that_follows_the_paper_supports_every_claim():
    e = evidence()
    assert {c: STUDY.judgement(c, e).outcome for c in STUDY.claims} == dict.fromkeys(STUDY.claims, "supported")


@pytest.mark.parametrize(
    ("claim", "how"),
    [
        ("dimension-over-resolution", dict(exact=lambda m, k, n: m**3 * k**1.5 + 0 * n)),
        ("dimension-over-resolution", dict(exact=lambda m, k, n: 3.0**m * 3.0**k + 0 * n)),
        ("task-order", dict(order=-1.0)),
        ("task-order", dict(hidden=-1.0)),
        ("formula-faithful", dict(formula=lambda b: 1 / b)),
        ("predicts-need", dict(need=[70, 80, 90, 40, 50, 60, 85, 10, 20, 95])),
    ],
)
def test_evidence_against_a_claim_refutes_it(claim, how):
    assert STUDY.judgement(claim, evidence(**how)).outcome == "refuted"


def test_hypotheses_are_the_waves_within_the_cutoff():
    for m, k in itertools.product((1, 2, 3), (1, 2, 3)):
        waves = _frequencies(m, k)
        inside = sum(sum(v**2 for v in w) <= k**2 for w in itertools.product(range(-k, k + 1), repeat=m))
        assert 2 * len(waves) + 1 == inside
    assert {tuple(w) for w in _frequencies(2, 1)} == {(1, 0), (0, 1)}


def test_exact_part_by_an_independent_count():
    # One dimension, cut-off 2, two points: 5 functions, 3 free directions; counted over draws of the posterior.
    study = GeneralizationDifficulty.at_scale("laptop", error=0.7)
    key = jax.random.key(0)
    found = study.learner(1, 2, 2).final(key)
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    x = random.uniform(0, 2 * math.pi, (2, 1))[:, 0]
    phi = np.stack(
        [np.ones(2), *(math.sqrt(2) * np.cos(j * x) for j in (1, 2)), *(math.sqrt(2) * np.sin(j * x) for j in (1, 2))],
        1,
    )
    truth = random.normal(size=5) / math.sqrt(5)
    free = np.eye(5) - np.linalg.pinv(phi) @ phi
    draws = random.normal(size=(200_000, 5)) / math.sqrt(5)
    share = np.mean((((draws - truth) @ free) ** 2).sum(1) <= 0.49)
    assert found["functions"] == 5
    assert found["exact_bits"] == pytest.approx(-math.log2(share), rel=0.03)


def test_learning_curves_fall_and_stop_where_the_data_stop():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2))
    errors = learning_curve(x, (x[:, 0] > 0).astype(int), [8, 64, 200, 400], 100)
    assert (errors[:, 2] < 0.1).all() and (errors[:, 2] < errors[:, 0]).all() and np.isnan(errors[:, 3]).all()


def test_figure_does_without_what_was_not_run():
    assert STUDY.figure(evidence()) is not None
    assert STUDY.figure(evidence().isel(seed=[0], task=[0, 1], cutoff=[0])) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 9}, "dimension"),
        ({"cutoff": 0}, "cutoff"),
        ({"examples": 2_000}, "examples"),
        ({"cartpole_frames": 0}, "frames"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        GeneralizationDifficulty.at_scale("laptop", **changes)
