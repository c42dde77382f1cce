import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.dreams import ARMS, IMAGINED, Dreams, picture

STUDY = Dreams()


def evidence(spread=0.005, **success) -> xr.Dataset:
    """Last success on unseen levels under sparse and dense reward, by arm; what claims must not read is wild."""
    usual = dict.fromkeys(ARMS, (0.6, 0.7)) | dict.fromkeys(IMAGINED[1:], (0.7, 0.7))
    usual |= {name.replace("_", " "): value for name, value in success.items()}
    rng = np.random.default_rng(0)
    names = ("train_success", "test_success", "train_greedy", "test_greedy")
    dims = ("dense", "seed", "step", "arm")
    found = {name: (dims, rng.uniform(size=(2, 5, 3, 5))) for name in names}
    found["test_success"][1][:, :, -1] = np.array([usual[arm] for arm in ARMS]).T[:, None] + spread * rng.normal(
        size=(2, 5, 5)
    )
    return xr.Dataset(
        found
        | {
            "behaviour_success": (dims[:2], np.full((2, 5), 0.5)),
            "random_success": (dims[:2], np.full((2, 5), 0.3)),
            "foreseen": ((*dims[:2], "ahead"), np.full((2, 5, 4), 0.9)),
            "frames": ((*dims[:2], "kind", "frame", "plane", "row", "column"), rng.uniform(size=(2, 5, 4, 7, 4, 5, 5))),
        },
        dict(dense=[0.0, 1.0], seed=range(5), step=[0, 1, 2], arm=list(ARMS), kind=list(IMAGINED)),
    )


@pytest.mark.parametrize(
    ("claim", "success", "estimate", "outcome"),
    [
        ("sparse-gain", {}, 0.1, "supported"),
        ("sparse-gain", dict(faithful=(0.8, 0.1)), -0.1, "refuted"),
        ("sparse-gain", dict(faithful=(0.7, 0.1)), 0.0, "inconclusive"),
        ("sparse-gain", dict(random_swing=(0.1, 0.1)), -0.1, "refuted"),  # the mean of all, not the best
        ("vs-offline", {}, 0.1, "supported"),
        ("vs-offline", dict(offline=(0.8, 0.1)), -0.1, "refuted"),
        ("sparse-specific", {}, 0.2, "supported"),
        ("sparse-specific", dict(faithful=(0.6, 0.5)), -0.1, "refuted"),
        ("sparse-specific", dict(faithful=(0.6, 0.6)), 0.0, "inconclusive"),
    ],
)
def test_claims_measure_what_was_put_in(claim, success, estimate, outcome):
    e = evidence(**(dict(faithful=(0.6, 0.8)) | success))
    judgement = STUDY.judgement(claim, e)
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.015) and judgement.outcome == outcome


def test_lost_runs_and_missing_rewards_leave_claims_open():
    e = evidence()
    e["test_success"][dict(dense=0, seed=3)] = np.nan
    claims = ("sparse-gain", "vs-offline", "sparse-specific")
    assert {STUDY.judgement(claim, e).outcome for claim in claims} == {"inconclusive"}
    with pytest.raises(KeyError):
        STUDY.judgement("sparse-specific", evidence().sel(dense=[0.0]))


def test_only_one_edit_is_made_in_each_dream():
    spread = jnp.array(3.0)
    sizes = [[float(d.size) for d in STUDY.dreamt(on, spread)] for on in jnp.eye(4)[:, 1:]]
    np.testing.assert_allclose(sizes, np.eye(4)[:, 1:] * 3.0 * STUDY.size)


def test_figure_draws_also_what_a_user_left():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 4 * 7 + 2
    assert len(Dreams(dense=(1.0,)).figure(e.sel(dense=[1.0]).isel(seed=[0])).axes) == 4 * 7 + 2
    np.testing.assert_allclose(picture(np.zeros((1, 1, 4)))[0, 0], 1.0)


def test_bad_settings_are_named():
    for name, value in dict(
        dense=(-1.0,),
        levels=0,
        transitions=10,
        updates=7,
        careless=2.0,
        chance=-0.1,
        size=-1.0,
        ascent=0,
        reward_unit=0.0,
    ).items():
        with pytest.raises(UserError, match=name):
            Dreams(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("dreams", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {"sparse-gain", "vs-offline", "sparse-specific"}
    e = run.evidence
    assert bool(((e.test_success >= 0) & (e.test_success <= 1.0001)).all())
    # All imaginations start from the same networks, and end in different ones.
    first, last = (e.test_success.isel(step=i).sel(arm=list(IMAGINED)).transpose(..., "arm").values for i in (0, -1))
    np.testing.assert_array_equal(first, np.repeat(first[..., :1], 4, -1))
    assert all(len(set(row)) == 4 for row in last.reshape(-1, 4))
