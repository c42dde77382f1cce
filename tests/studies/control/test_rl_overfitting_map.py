import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.rl_overfitting_map import MATCHES, MORE, REMEDIES, SHIFTS, RlOverfittingMap, ShiftTest
from unseen.worlds.control.grid_levels import levels_of
from unseen.worlds.control.shift_kinds import Elements, ShiftedLevels, ShiftKinds, TwoCoins

STUDY, LEVELS = RlOverfittingMap(), (4, 16, 64, 256)


def evidence(gap=0.1, few=0.8, ratio=2.0, many=1.1, matching=0.3, other=0.0, seeds=5, spread=0.01) -> xr.Dataset:
    """Gaps fall by `gap` with each doubling of levels from `few` at 4; TD errors are `ratio` times as large on unseen
    levels as on 4 trained on, and `many` times with 256; remedies gain `matching` or `other`."""
    rng, base = np.random.default_rng(0), 0.3
    dims = ("remedy", "levels", "shift", "seed")
    coords = dict(remedy=list(REMEDIES), levels=list(LEVELS), shift=list(SHIFTS), seed=range(seeds))
    score = xr.DataArray(np.full([len(c) for c in coords.values()], base), coords, dims)
    for i, count in enumerate(LEVELS):
        at = dict(remedy="none", levels=count)
        score.loc[at | {"shift": "usual"}] = base + few - 2 * i * gap
    for remedy in REMEDIES:
        if remedy != "none":
            score.loc[dict(remedy=remedy)] = np.nan
            for shift in SHIFTS[1:]:
                gain = matching if MATCHES.get(remedy) == shift else other
                score.loc[dict(remedy=remedy, levels=16, shift=shift)] = base + gain
    # More levels are the plain agents with 64 of them: their gains are the change of the plain rows.
    for shift in SHIFTS[1:]:
        gain = matching if shift == MATCHES[MORE] else other
        score.loc[dict(remedy="none", levels=64, shift=shift)] += gain
        if shift == "level":
            score.loc[dict(remedy="none", levels=64, shift="usual")] += gain
    score = score + spread * rng.normal(size=score.shape)
    train = xr.full_like(score.isel(shift=0, drop=True).expand_dims(step=[0, 10], axis=-1).copy(), 0.1)
    unseen_error = train * xr.DataArray(np.geomspace(ratio, many, 4), {"levels": list(LEVELS)}, ["levels"])
    unseen_error = unseen_error * np.exp(spread * rng.normal(size=unseen_error.shape))
    unseen_error[dict(step=0)] = 9.0  # what claims must not look at
    return xr.Dataset(dict(score=score, train_td_error=train, unseen_td_error=unseen_error))


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("levels", {}, -0.1, "supported"),
        ("levels", dict(gap=-0.1), 0.1, "refuted"),
        ("levels", dict(few=0.05, gap=0.05), -0.05, "refuted"),
        ("levels", dict(gap=0.02), -0.02, "inconclusive"),
        ("value-overfit", {}, np.log(2), "supported"),
        ("value-overfit", dict(ratio=1.05, many=1.0), np.log(1.05), "refuted"),
        ("value-overfit", dict(many=3.0), np.log(2), "refuted"),
        ("value-overfit", dict(ratio=1.35), np.log(1.35), "inconclusive"),
        ("matched", {}, 0.3, "supported"),
        ("matched", dict(matching=0.1, other=0.2), -0.1, "refuted"),
        ("matched", dict(matching=0.3, other=0.3), 0.0, "inconclusive"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.02) and judgement.outcome == outcome


def test_lost_runs_and_missing_cells_leave_claims_open():
    e = evidence()
    e["score"][dict(remedy=3, levels=1, seed=2)] = np.nan
    assert STUDY.judgement("matched", e).outcome == "inconclusive"
    few = evidence().sel(levels=[16, 64])
    for claim in ("levels", "value-overfit"):
        with pytest.raises(UserError, match="none and 4 for this claim"):
            STUDY.judgement(claim, few)
    with pytest.raises(UserError, match="got none for 'augmentation'"):
        STUDY.judgement("matched", evidence().drop_sel(remedy="augmentation"))


def test_the_scale_of_returns():
    """Random moves are worth 0 and the best ones 1, under every shift and however levels are weighted."""
    world, usual = ShiftedLevels(TwoCoins()), Elements.usual()
    shifts = [usual, *(shift.elements for shift in ShiftKinds.of(usual)[:3])]
    elements = jax.tree.map(lambda *leaves: jnp.stack(leaves), *shifts)
    levels = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (4, *leaf.shape)), levels_of(world.kind, 6))
    test = ShiftTest.of(world, levels, elements, 0.9, 30)
    weights = jnp.broadcast_to(jnp.array([1.0, 0, 1, 1, 0, 0]), (4, 6))
    score = jax.jit(lambda policy: test.score(policy, weights))
    random = jnp.full((4, 6, 25, 4), 0.25)
    assert np.allclose(score(random), 0, atol=1e-6) and (test.best > test.random).all()
    half = score(random.at[:, jnp.array([1, 4, 5])].set(jnp.eye(4)[0]))
    assert np.allclose(half, 0, atol=1e-6)  # levels without a weight do not count
    # Going straight for the coin that pays is best without wind: the greedy policy of the exact values.
    distance = jnp.where(test.table.ends & (test.table.reward > 0), 0.0, jnp.inf)
    blocked = ~test.table.free & ~(test.table.reward > 0)

    def spread(distance, _):
        near = jnp.take_along_axis(distance[..., None], test.table.following, 2).min(-1) + 1
        return jnp.where(blocked, jnp.inf, jnp.minimum(distance, near)), None

    far = jax.lax.scan(spread, distance, length=25)[0]
    straight = jax.nn.one_hot(jnp.take_along_axis(far[..., None], test.table.following, 2).argmin(-1), 4)
    found = np.asarray(score(straight))
    assert np.allclose(found[[0, 1, 3]], 1, atol=1e-5) and 0.5 < found[2] < 1


def test_figure_copes_with_what_is_missing():
    e = evidence(seeds=1)
    assert len(STUDY.figure(e).axes) == 3
    STUDY.figure(e.sel(levels=[16]))
    STUDY.figure(e.sel(remedy=["none", "reward"]))
    only = RlOverfittingMap(remedy=("augmentation",), levels=(16,))
    only.figure(e.sel(remedy=["augmentation"], levels=[16]))


def test_remedies_are_tried_at_one_number_of_levels():
    cells = [(r, n) for r in STUDY.remedy for n in STUDY.levels if STUDY.includes(r, n)]
    assert len(cells) == 9 and ("none", 64) in cells and ("reward", 16) in cells and ("reward", 4) not in cells


def test_bad_settings_are_named():
    wrong = dict(remedy=("prayer",), levels=(4, 64), base=5, steps=7)
    for name, value in wrong.items():
        with pytest.raises(UserError, match=name):
            RlOverfittingMap(**{name: value})


def test_smoke_scale_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("UNSEEN_HOME", str(tmp_path))
    run = unseen.run("rl-overfitting-map", scale="smoke", out=tmp_path / "run", quiet=True)
    e = run.evidence
    assert np.isfinite(e.score).all() and e.score.sizes["levels"] == 4
    assert np.isfinite(e.unseen_td_error).all() and e.sizes["step"] == 3
    assert {verdict.claim for verdict in run.verdicts} == {"levels", "value-overfit", "matched"}
