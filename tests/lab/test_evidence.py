"""Evidence keeps every value at its condition, seed and step, and says what was not run."""

import jax.numpy as jnp
import numpy as np
import pytest

from unseen import Learner, Study
from unseen.lab import evidence
from unseen.lab.engine import Control, plan, run_blocks


def gather(study):
    blocks, shapes = plan(study)
    return evidence.assemble(study, run_blocks(study, blocks, Control()), shapes, {"version": "v"})


class Grid(Study):
    """Values that say where they come from."""

    seeds: int = 3

    varies = dict(a=(2, 1), name=("long", "short"), extra=(False, True))
    traced = ("a",)

    def includes(self, a, name, extra):
        return not (name == "short" and extra)

    def learner(self, a, name, extra):
        steps = 4 if name == "long" else 6
        lengths = [1, 2, 3] if name == "long" else [3, 4]
        value = 100.0 * a + (10 if extra else 0)
        return Learner(
            init=lambda key: jnp.zeros(()),
            advance=lambda n: n + 2,
            measure=lambda n: {"where": value + n, "count": n.astype(int)},
            final=lambda n: {"profile": value + jnp.asarray(lengths)},
            steps=steps,
            every=2,
            dims={"profile": ("length",)},
            coords={"length": lengths},
        )


@pytest.fixture(scope="module")
def e():
    return gather(Grid())


def test_values_stand_at_their_condition_and_step(e):
    for a in (1, 2):
        for extra in (False, True):
            row = e["where"].sel(a=a, name="long", extra=extra, seed=101)
            assert row.sel(step=[0, 2, 4]).values.tolist() == [100 * a + 10 * extra + s for s in (0, 2, 4)]
            assert np.isnan(row.sel(step=6))


def test_grids_are_joined_on_the_union_and_cells_not_run_are_nan(e):
    assert list(e.step) == [0, 2, 4, 6] and list(e.length) == [1, 2, 3, 4]
    assert e.profile.sel(a=1, name="short", extra=False, seed=100).values[2:].tolist() == [103, 104]
    assert np.isnan(e.profile.sel(a=1, name="short", extra=False, seed=100).values[:2]).all()
    assert np.isnan(e["where"].sel(name="short", extra=True)).all()


def test_it_survives_netcdf(e):
    assert evidence.from_bytes(evidence.to_bytes(e)).identical(e)


class Wrong(Study):
    """A measure with more dimensions than it names."""

    def learner(self):
        return Learner.once(lambda key: {"x": jnp.zeros((2, 3))}, dims={"x": ("a",)})


def test_a_dimension_without_a_name_is_refused():
    with pytest.raises(TypeError, match=r"'x' has 2 dimensions, and `dims` names \['a'\]"):
        gather(Wrong())


class Short(Study):
    """A coordinate of another length."""

    def learner(self):
        return Learner.once(lambda key: {"x": jnp.zeros(2)}, dims={"x": ("a",)}, coords={"a": [1, 2, 3]})


def test_a_coordinate_of_another_length_is_refused():
    with pytest.raises(TypeError, match="has 2 values along 'a', its coordinate 3"):
        gather(Short())


class Placeholders(Study):
    """A state with NaN in its first looks only, from the middle on, or always."""

    seeds: int = 1

    varies = dict(kind=("placeholder", "breaks", "always", "never"))

    def learner(self, kind):
        nan = {"placeholder": lambda n: n < 4, "breaks": lambda n: n == 4, "always": lambda n: n >= 0,
               "never": lambda n: n < 0}[kind]  # fmt: skip

        def state(n):
            return n, jnp.where(nan(n), jnp.nan, 1.0)

        return Learner(
            init=lambda key: state(jnp.zeros((), int)), advance=lambda s: state(s[0] + 2),
            measure=lambda s: {"n": s[0]}, steps=6, every=2,
        )  # fmt: skip


def test_what_is_not_yet_a_number_has_not_diverged():
    found = gather(Placeholders()).diverged.isel(seed=0)
    assert {str(k): bool(found.sel(kind=k)) for k in found.kind.values} == {
        "placeholder": False, "breaks": True, "always": True, "never": False,
    }  # fmt: skip
