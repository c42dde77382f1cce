import itertools

import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.contrastive_generalization import DELTAS, STRENGTHS, TRANSFORMS, ContrastiveGeneralization

STUDY = ContrastiveGeneralization(seeds=4)
JITTER = np.array([-0.02, -0.01, 0.01, 0.02])


def evidence(slope=1.0, met=True, kept=0.97, collapse=0.9, relative=1.0) -> xr.Dataset:
    """Every policy has its own concentration (sigma rises with delta, later for the weaker), and an error that
    follows it by `slope`."""
    objectives = list(STUDY.objective)
    shape = (len(objectives), *(len(v) for v in STRENGTHS.values()), 4)
    names = ("bound_met", "bound", "direct_bound", "view_error", "kept", "relative_distance")
    out = {name: np.full(shape, np.nan) for name in names}
    stepped = {name: np.full((*shape, 2), np.nan) for name in ("centre_error", "positive_distance", "centre_cosine")}
    sigma = np.full((*shape, len(DELTAS)), np.nan)
    for at in itertools.product(*(range(n) for n in shape[:-1])):
        strengths = {name: STRENGTHS[name][i] for name, i in zip(TRANSFORMS, at[1:], strict=True)}
        if not STUDY.includes(objectives[at[0]], **strengths):
            continue
        weak = 1.5 + sum(strengths.values())
        sigma[at] = np.clip((DELTAS - weak) / 1.0, 0, 1) + 0 * JITTER[:, None]
        error = 0.1 + 0.1 * slope * (weak - 1.5) + 0.001 * JITTER
        stepped["centre_error"][at] = np.stack([error + 0.2, error], -1)
        distance = 0.3 + JITTER
        stepped["positive_distance"][at] = np.stack([distance + 0.3, distance], -1)
        cosine = (collapse if objectives[at[0]] == "alignment" else 0.1) + JITTER
        stepped["centre_cosine"][at] = np.stack([cosine, cosine], -1)
        out["kept"][at], out["relative_distance"][at] = kept, relative * weak + np.array([0, 0.5, 0, 0.5]) * at[1]
        out["bound_met"][at], out["bound"][at] = float(met), 0.6 if met else 1.0
        out["direct_bound"][at], out["view_error"][at] = 0.7, error
    axes = {"objective": objectives} | {name: list(v) for name, v in STRENGTHS.items()} | {"seed": range(4)}
    dims = list(axes)
    data = {name: (dims, values) for name, values in out.items()}
    data |= {name: ([*dims, "step"], values) for name, values in stepped.items()}
    data["sigma"] = ([*dims, "delta"], sigma)
    return xr.Dataset(data, axes | {"step": [0, 300], "delta": DELTAS})


def test_policies_are_singles_at_three_strengths_and_nested_sets():
    cells = list(STUDY.cells(STUDY.parts["learner"]))
    assert sum(c["objective"] == "infonce" for c in cells) == 15
    assert sum(c["objective"] == "alignment" for c in cells) == 1
    assert {"objective": "alignment", **STUDY.lowest} in cells


def test_claims_on_what_the_paper_predicts():
    e = evidence()
    assert STUDY.concentration_orders(e).outcome == "supported"
    assert STUDY.bound_holds(e).outcome == "supported"
    assert STUDY.losses_do_both(e).outcome == "supported"
    STUDY.figure(e)


def test_claims_on_the_opposite():
    e = evidence(slope=-1.0, collapse=0.1)
    assert STUDY.concentration_orders(e).outcome == "refuted"
    assert STUDY.losses_do_both(e).outcome == "refuted"
    assert STUDY.relative_concentration(e).outcome in ("refuted", "inconclusive")


def test_a_condition_that_is_never_met_decides_nothing():
    judgement = STUDY.bound_holds(evidence(met=False))
    assert judgement.outcome == "inconclusive" and "0 of" in judgement.note
    broken = evidence().assign(view_error=lambda e: e.view_error + 0.9)
    assert STUDY.bound_holds(broken).outcome == "refuted"


def test_delta_is_where_the_least_concentrated_policy_has_half():
    rows = STUDY.policies(evidence(), ["sigma"])
    assert float(STUDY.unconcentrated(rows).max()) == pytest.approx(0.5, abs=0.02)


def test_policies_that_lose_labels_do_not_count():
    with pytest.raises(UserError, match="95%"):
        STUDY.concentration_orders(evidence(kept=0.9))
    few = ContrastiveGeneralization(seeds=2, shift=(0.0, 0.3), pixel_drop=(0.0,), occlude=(0.0,), noise=(0.0,))
    e = evidence().sel(shift=[0.0, 0.6], pixel_drop=[0.0], occlude=[0.0], noise=[0.0], seed=[0, 1])
    few.figure(e)


def test_bad_settings():
    with pytest.raises(UserError, match="strengths from 0 to 1"):
        ContrastiveGeneralization(noise=(0.0, 2.0))
    with pytest.raises(UserError, match="objective"):
        ContrastiveGeneralization(objective=("simclr",))
