import dataclasses

import equinox as eqx
import jax
import numpy as np
import pytest
import xarray as xr

from unseen.lab import UserError
from unseen.studies.composition.chomsky_hierarchy import ARCHITECTURES, ChomskyHierarchy, in_class
from unseen.worlds.algorithms.chomsky import CHOMSKY_TASKS

TASKS = ("parity_check", "reverse_string", "bucket_sort")
NETS = ("RNN", "LSTM", "StackRNN", "Transformer")
CHANCE = {"parity_check": 0.5, "reverse_string": 0.5, "bucket_sort": 0.2}


def evidence(score, within=1.0, seeds=3, loss=None):
    """Accuracy `within` up to length 16 and `score(task, net)` beyond, with a little noise over seeds."""
    lengths = np.arange(1, 65)
    noise = np.linspace(-0.01, 0.01, seeds)
    accuracy = np.zeros((3, 4, 1, seeds, 64))
    for i, task in enumerate(TASKS):
        for j, net in enumerate(NETS):
            accuracy[i, j, 0] = np.where(lengths <= 16, within, score(task, net) + noise[:, None])
    loss = np.zeros((3, 4, 1, seeds, 3)) if loss is None else loss
    dims = ("task", "architecture", "rate_factor", "seed")
    coords = {"task": list(TASKS), "architecture": list(NETS), "rate_factor": [1.0], "seed": range(seeds)}
    return xr.Dataset(
        {"accuracy": ((*dims, "length"), accuracy), "train_loss": ((*dims, "step"), loss)},
        coords={**coords, "length": lengths, "step": [0, 1500, 4000]},
    )


def as_published(task, net):
    return 0.98 if in_class(task, net) else CHANCE[task] + 0.05


def judged(e):
    study = ChomskyHierarchy()
    return {claim: study.judgement(claim, e) for claim in study.claims}


def test_the_published_pattern_supports_all_claims():
    verdicts = judged(evidence(as_published))
    assert {id: v.outcome for id, v in verdicts.items()} == dict.fromkeys(verdicts, "supported")
    assert len(verdicts) == 3
    np.testing.assert_allclose(verdicts["stack-extends-context-free"].effect.estimate, 0.43, atol=1e-6)


def test_networks_that_all_extend_refute_all_claims():
    verdicts = judged(evidence(lambda task, net: 0.98))
    assert {id: v.outcome for id, v in verdicts.items()} == dict.fromkeys(verdicts, "refuted")


def test_reversal_is_not_refuted_by_networks_that_do_not_fit_their_training_lengths():
    assert judged(evidence(lambda task, net: 0.5, within=0.7))["stack-extends-context-free"].outcome == "inconclusive"


def test_parity_takes_the_recurrent_network_with_the_lower_last_training_loss_of_each_seed():
    loss = np.full((3, 4, 1, 3, 3), np.nan)
    loss[..., :2] = 0.5
    loss[:, :3, :, :, 2] = 0.5  # recurrent networks are trained for longer than the transformer
    loss[0, 0, 0, :, 2] = [0.1, 0.1, 0.9]
    e = evidence(lambda task, net: {"RNN": 0.9, "LSTM": 0.7}.get(net, 0.5), loss=loss)
    effect = judged(e)["transformer-misses-parity"].effect
    np.testing.assert_allclose(effect.estimate, (0.4 + 0.4 + 0.2) / 3, atol=1e-6)


def test_a_diverged_pair_makes_the_mean_over_pairs_inconclusive():
    e = evidence(as_published)
    e.accuracy.loc[dict(task="bucket_sort", architecture="RNN", seed=1)] = np.nan
    assert judged(e)["class-forecasts-success"].outcome == "inconclusive"


def test_the_best_learning_rate_of_each_pair_is_kept():
    low, high = evidence(lambda task, net: 0.5), evidence(as_published).assign_coords(rate_factor=[0.3])
    both = xr.concat([low, high], dim="rate_factor")
    assert judged(both)["stack-extends-context-free"].outcome == "supported"


def test_grouping_of_the_paper():
    inside = {(t, n) for t in TASKS for n in NETS if in_class(t, n)}
    assert inside == {
        *(("parity_check", n) for n in ("RNN", "LSTM", "StackRNN")),
        ("reverse_string", "StackRNN"),
        *(("bucket_sort", n) for n in ("LSTM", "StackRNN")),
    }
    assert all(in_class(t, "TapeRNN") and not in_class(t, "Transformer") for t in CHOMSKY_TASKS)


def test_figure_of_evidence():
    figure = ChomskyHierarchy().figure(evidence(as_published))
    assert len(figure.axes) == 4 and figure.axes[0].get_title().startswith("Accuracy at 17..64")


@pytest.mark.parametrize(("setting", "value"), [("task", "parity"), ("architecture", "GRU")])
def test_unknown_names_are_refused(setting, value):
    with pytest.raises(UserError, match=f"{setting} takes some of"):
        ChomskyHierarchy.at_scale("laptop", **{setting: (value,)})
    with pytest.raises(UserError, match="tested_to takes"):
        ChomskyHierarchy(trained_to=64)


def test_paper_scale_builds_every_pair():
    study = ChomskyHierarchy.at_scale("paper")
    assert (len(study.task), study.architecture, study.tested_to, study.seeds) == (15, ARCHITECTURES, 500, 10)
    for task in study.task:
        for architecture in study.architecture:
            assert study.learner(task, architecture, 1.0).steps == 1_000_000


def test_one_small_pair_runs():
    study = dataclasses.replace(ChomskyHierarchy.at_scale("smoke"), batch=4)
    learner = study.learner("bucket_sort", "TapeRNN", 1.0)
    state = jax.jit(lambda key: eqx.filter(learner.advance(learner.init(key)), eqx.is_array))(jax.random.key(0))
    assert int(state.step) == 10 and not np.isnan(state.model.controller.head.weight).any()
