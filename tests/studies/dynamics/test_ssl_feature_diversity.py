import itertools

import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.dynamics.ssl_feature_diversity import SslFeatureDiversity

STUDY = SslFeatureDiversity(seeds=4)
JITTER = np.array([-0.02, -0.01, 0.01, 0.02])


def evidence(last=1.0, falls=1.0, wider=1.0) -> xr.Dataset:
    """Diversity rises with the layer by `last` and with log width by `wider`, and goes with the error by `falls`."""
    axes = {"width": [8, 16, 32], "depth": [2, 3, 4], "training": ["infonce", "supervised"], "seed": range(4)}
    axes |= {"step": list(range(0, 281, 35)), "layer": [1, 2, 3, 4]}
    full = xr.DataArray(np.zeros([len(v) for v in axes.values()]), axes, list(axes))
    seed = xr.DataArray(JITTER, dims="seed", coords={"seed": range(4)})
    error = (0.5 - 0.001 * full.step + seed + full).isel(layer=0, drop=True)
    diversity = full + 0.1 * last * full.layer + falls * error + 0.1 * wider * np.log2(full.width) + seed
    run = [STUDY.includes(*cell) for cell in itertools.product(*(axes[n] for n in ("width", "depth", "training")))]
    run = xr.DataArray(np.reshape(run, (3, 3, 2)), dims=("width", "depth", "training"))
    diversity = diversity.where(run & (full.layer <= full.depth))
    return xr.Dataset({"diversity": diversity, "raw_diversity": diversity - 1, "probe_error": error.where(run)})


def test_a_star_of_six_networks():
    cells = list(STUDY.cells(STUDY.parts["learner"]))
    assert len(cells) == 6 and {"width": 16, "depth": 4, "training": "supervised"} in cells


def test_claims_on_what_the_paper_predicts():
    e = evidence()
    for judge in (STUDY.last_layer, STUDY.falls_with_error, STUDY.wider):
        assert judge(e).outcome == "supported"
    STUDY.figure(e)


def test_claims_on_the_opposite():
    e = evidence(last=-1.0, falls=-1.0, wider=-1.0)
    for judge in (STUDY.last_layer, STUDY.falls_with_error, STUDY.wider):
        assert judge(e).outcome == "refuted"


def test_a_small_run_can_be_drawn():
    small = SslFeatureDiversity(width=(16,), depth=(2,), training=("supervised",), seeds=1)
    e = evidence()
    kept = e.sel(width=[16], depth=[4], training=["supervised"], layer=[1, 2], seed=[0]).assign_coords(depth=[2])
    small.figure(kept)


def test_bad_settings():
    with pytest.raises(UserError, match="training"):
        SslFeatureDiversity(training=("simclr",))
    with pytest.raises(UserError, match="width"):
        SslFeatureDiversity(width=(0,))
