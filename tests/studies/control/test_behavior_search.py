import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import unseen
from unseen.lab import UserError
from unseen.studies.control.behavior_search import SystematicSearch, detour
from unseen.worlds.control.continuous_maze import ContinuousMaze

STUDY = SystematicSearch()


def evidence(search=None, rivals=None, spread=0.01) -> xr.Dataset:
    """Shares solved of 24 mazes, by code and by rival; solved in 500 steps, else the budget of 4000."""
    search = {512: 1.0, 16: 0.6, 0: 1.0} | (search or {})
    rivals = dict(frozen=0.3, walk=0.1, ppo=0.2) | (rivals or {})
    rng = np.random.default_rng(0)

    def maze(share):
        solved = np.clip(share + spread * rng.normal(size=(6, 1)), 0, 1) * np.ones((6, 24))
        return solved, 500 * solved + 4_000 * (1 - solved)

    own, other = ([maze(share) for share in shares.values()] for shares in (search, rivals))
    dims, other_dims = ("code", "seed", "maze"), ("rival", "seed", "maze")
    walls = np.broadcast_to(np.asarray(STUDY.world.level(jax.random.key(0)).walls, float), (3, 6, 3, 17, 17))
    return xr.Dataset(
        {
            "solved": (dims, [s for s, _ in own]),
            "steps": (dims, [n for _, n in own]),
            "shortest": (dims, np.full((3, 6, 24), 200.0)),
            "rival_solved": (other_dims, [s for s, _ in other]),
            "rival_steps": (other_dims, [n for _, n in other]),
            "walls": (("code", "seed", "example", "row", "column"), walls),
            "ends": (("code", "seed", "example", "end", "axis"), rng.uniform(0, 8, (3, 6, 3, 2, 2))),
            "path": (("code", "seed", "example", "point", "axis"), rng.uniform(0, 8, (3, 6, 3, 800, 2))),
        },
        dict(code=list(search), rival=list(rivals), seed=range(6)),
    )


@pytest.mark.parametrize(
    ("claim", "effects", "estimate", "outcome"),
    [
        ("exhaustive", {}, 1.0, "supported"),
        ("exhaustive", dict(search={512: 0.8}), 0.8, "refuted"),
        ("exhaustive", dict(search={512: 0.95}, spread=0.05), 0.95, "inconclusive"),
        ("beats-chance-and-training", {}, 500 / 3650, "supported"),
        ("beats-chance-and-training", dict(rivals=dict(ppo=0.97)), 500 / 3650, "inconclusive"),
        ("beats-chance-and-training", dict(search={512: 0.1}), 1.0, "refuted"),
        ("editing-needed", {}, 0.7, "supported"),
        ("editing-needed", dict(rivals=dict(frozen=0.98)), 0.02, "refuted"),
        ("harmonic-code", {}, 0.0, "supported"),
        ("harmonic-code", dict(search={16: 1.0}), 0.0, "inconclusive"),
        ("harmonic-code", dict(search={512: 0.8}), -0.2, "refuted"),
    ],
)
def test_claims_measure_what_was_put_in(claim, effects, estimate, outcome):
    judgement = STUDY.judgement(claim, evidence(**effects))
    assert np.isclose(judgement.effect.estimate, estimate, atol=0.03) and judgement.outcome == outcome


def test_a_lost_seed_leaves_all_open():
    e = evidence()
    for name in ("solved", "steps"):
        e[name][dict(seed=2)] = np.nan
    for claim in ("exhaustive", "beats-chance-and-training", "editing-needed", "harmonic-code"):
        assert STUDY.judgement(claim, e).outcome == "inconclusive"


def test_detour_closes_a_used_passage_and_leaves_a_way():
    world = ContinuousMaze(cells=4, loops=1.0, apart=0.0)
    level = world.level(jax.random.key(0))
    level = jax.tree.map(jnp.asarray, level)
    level = type(level)(level.walls, jnp.array([0.5, 0.5]), jnp.array([3.5, 0.5]))
    path = jnp.stack([jnp.linspace(0.5, 3.5, 13), jnp.full(13, 0.5)], -1)
    closed, possible = detour(world, level, path)
    new = np.argwhere(np.asarray(closed.walls & ~level.walls))
    walls = [(row, column) for row, column in new.tolist() if (row + column) % 2]
    assert bool(possible) and len(walls) == 1 and walls[0][0] == 1 and walls[0][1] in (2, 4, 6)
    assert float(world.shortest(closed)) == 5.0 == float(world.shortest(level)) + 2
    # In a tree no passage of the way can go.
    tree = ContinuousMaze(cells=4, loops=0.0, apart=3.0)
    straight = tree.level(jax.random.key(1))
    everywhere = jnp.stack([jnp.repeat(jnp.arange(4) + 0.5, 4), jnp.tile(jnp.arange(4) + 0.5, 4)], -1)
    there = jnp.concatenate([everywhere, everywhere[:, ::-1]])
    after, possible = detour(tree, straight, there)
    assert not bool(possible) or bool(jnp.isfinite(tree.shortest(after)))


def test_figure_draws_also_what_a_user_left():
    e = evidence()
    assert len(STUDY.figure(e).axes) == 4
    few = SystematicSearch(code=(512,), rival=("walk",))
    assert len(few.figure(e.sel(code=[512], rival=["walk"]).isel(seed=[0])).axes) == 4


def test_bad_settings_are_named():
    bad = dict(code=(5,), rival=("dog",), mazes=1, budget=7, per_side=8, side=2, shortest_wave=3.0)
    for name, value in bad.items():
        with pytest.raises(UserError, match=name):
            SystematicSearch(**{name: value})


def test_smoke_through_the_engine(tmp_path):
    run = unseen.run("behavior-search", scale="smoke", out=str(tmp_path / "run"), quiet=True, first_seed=0)
    assert {verdict.claim for verdict in run.verdicts} == {
        "exhaustive", "beats-chance-and-training", "editing-needed", "harmonic-code",
    }  # fmt: skip
    e = run.evidence
    assert (
        bool((e.solved.sel(code=0) == 1).all()) and bool((e.steps <= 400).all()) and bool((e.rival_steps <= 400).all())
    )
    # All conditions meet the same mazes, and nobody beats the shortest way by more than what cut corners give.
    assert bool((e.shortest == e.shortest.isel(code=0)).all()) and bool((e.walls == e.walls.isel(code=0)).all())
    assert bool((e.steps >= 0.5 * e.shortest - 10).all())
    closed = e.again_shortest - e.shortest.isel(code=0)
    assert bool((closed.where(closed.notnull(), 0) >= 0).all())
