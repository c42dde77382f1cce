import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.learners import OutcomeBC
from unseen.learners.outcome_bc import (
    advantage_weights,
    cloned,
    goal_conditioned,
    goal_segments,
    return_conditioned,
    squared_error,
    top_fraction,
)
from unseen.methods import TemporalAugmentation
from unseen.models import CategoricalPolicy, DecisionTransformer, GaussianPolicy
from unseen.worlds.control import OfflineDataset

# A chain of four states; actions 0 (left) and 1 (right), walked at random: full coverage.
RNG = np.random.default_rng(0)


def walk(steps):
    states, actions = [int(RNG.integers(4))], []
    for _ in range(steps):
        actions.append(int(RNG.random() < [0.9, 0.6, 0.3, 0.5][states[-1]]))
        states.append(int(np.clip(states[-1] + 2 * actions[-1] - 1, 0, 3)))
    return {"observation": np.array(states, np.float32)[:, None], "action": np.array(actions)}


LOG = OfflineDataset.from_episodes([walk(6) for _ in range(400)])


def one_hot(*values):
    return jnp.concatenate([jax.nn.one_hot(jnp.squeeze(v).astype(int), 4) for v in values])


def test_goal_conditioned_cloning_learns_the_conditional_frequencies():
    bc = OutcomeBC(
        model=lambda key: CategoricalPolicy(16, 2, depth=0, key=key),  # one row a (state, goal) pair: tabular
        sample=goal_conditioned(LOG, 512, lambda s, g: jnp.outer(one_hot(s), one_hot(g)).ravel(), how="final"),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 2000)),
    )
    state = bc.train(bc.init(jax.random.key(0)), 2000)
    counts = np.zeros((4, 4, 2))
    for episode in range(len(LOG.length)):
        goal = int(LOG.achieved[episode, 6, 0])
        for time in range(6):
            counts[int(LOG.observation[episode, time, 0]), goal, int(LOG.action[episode, time])] += 1
    for s in range(4):
        for g in range(4):
            pair = jnp.outer(jax.nn.one_hot(s, 4), jax.nn.one_hot(g, 4)).ravel()
            learned = np.exp(state.model.log_probs(pair))
            assert counts[s, g].sum() > 20
            np.testing.assert_allclose(learned, counts[s, g] / counts[s, g].sum(), atol=0.02)


def test_weighted_gaussian_cloning_finds_the_weighted_mean_and_spread():
    # One state, actions -0.5 and 0.5 with weights 1 and 3: mean 0.25, standard deviation sqrt(3) / 4.
    log = OfflineDataset.from_episodes(
        [{"observation": np.zeros((2, 1)), "action": np.array([[a]])} for a in (-0.5, 0.5)]
    )
    bc = OutcomeBC(
        model=lambda key: GaussianPolicy(1, 1, depth=0, key=key),
        sample=cloned(log, 256, lambda s: s, weights=jnp.array([[1.0], [3.0]])),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.05, 1500)),
    )
    policy = bc.train(bc.init(jax.random.key(0)), 1500).model
    assert float(policy(jnp.zeros(1))[0]) == pytest.approx(0.25, abs=0.02)
    assert float(jnp.exp(policy.log_std[0])) == pytest.approx(np.sqrt(3) / 4, abs=0.02)


def test_the_gaussian_density_agrees_with_scipy():
    from scipy import stats

    policy = GaussianPolicy(3, 2, key=jax.random.key(0))
    x, a = jnp.array([0.1, -0.4, 0.3]), jnp.array([0.3, -0.2])
    expected = stats.norm(np.asarray(policy(x)), 1).logpdf(np.asarray(a)).sum()
    assert float(policy.log_prob(x, a)) == pytest.approx(expected, abs=1e-5)


def test_return_conditioned_batches_carry_the_return_to_go():
    log = OfflineDataset.from_episodes(
        [{"observation": np.arange(4.0)[:, None], "action": np.zeros((3, 1)), "reward": np.array([1.0, 0, 5])}]
    )
    batch = return_conditioned(log, 50, lambda s, r: jnp.stack([s[0], r]))(jax.random.key(0))
    assert {tuple(row) for row in batch.inputs.tolist()} == {(0, 6), (1, 5), (2, 5)}


def test_top_fraction_keeps_the_best_episodes():
    log = OfflineDataset.from_episodes(
        [{"observation": np.zeros((3, 1)), "action": np.zeros(2), "reward": np.array([0.0, r])} for r in range(10)]
    )
    assert top_fraction(log, 0.2).tolist() == [[0, 0]] * 8 + [[1, 1]] * 2


def test_advantage_weights_by_hand():
    np.testing.assert_allclose(
        advantage_weights(jnp.array([0.0, 1.0, 9.0, -1.0]), 2.0), [1, np.e**2, 100, np.e**-2], rtol=1e-6
    )


def segments(swapped):
    # Two paths that meet at 5: 0..5 and 5..10; the state names itself, the action names its state.
    paths = [np.arange(0.0, 6), np.arange(5.0, 11)]
    log = OfflineDataset.from_episodes([{"observation": p[:, None], "action": p[:-1, None]} for p in paths])
    swap = TemporalAugmentation.of(log.achieved, log.length, clusters=11, seed=0)
    batch = goal_segments(log, 2_000, 3, augmentation=swap, probability=swapped)(jax.random.key(0))
    return jax.tree.map(np.asarray, batch)


@pytest.mark.parametrize("swapped", [0.0, 1.0])
def test_segments_are_consecutive_and_their_goals_lie_ahead(swapped):
    batch = segments(swapped)
    values, valid, goal = batch.observation[..., 0], batch.valid, batch.condition[:, 0, 0]
    both = valid[:, 1:] & valid[:, :-1]
    assert (np.diff(values, axis=1)[both] == 1).all()
    np.testing.assert_array_equal(batch.action[..., 0][valid], values[valid])
    assert (goal[:, None] >= values + 1)[valid].all()
    assert valid[:, 0].mean() > 0.9 and (batch.condition == batch.condition[:, :1]).all()


def test_only_swapped_segments_cross_between_paths():
    plain, swapped = segments(0.0), segments(1.0)
    assert not ((plain.observation[:, 0, 0] < 5) & (plain.condition[:, 0, 0] > 5)).any()
    crossing = (swapped.observation[:, 0, 0] < 5) & (swapped.condition[:, 0, 0] > 5)
    assert crossing.mean() > 0.02
    # A crossing segment that starts at 4 goes on along the second path.
    near = crossing & (swapped.observation[:, 0, 0] == 4)
    assert (swapped.observation[near, 2, 0] == 6)[swapped.valid[near, 2]].all() and near.any()


def test_a_transformer_trains_on_segments_and_ignores_padding():
    batch = segments(0.0)
    model = DecisionTransformer(1, 1, 1, width=8, layers=1, heads=2, context=3, key=jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, batch)
    noisy = batch._replace(action=jnp.where(batch.valid[..., None], batch.action, 1e3))
    last = ~batch.valid  # padding comes after what is valid, so nothing valid sees it
    assert bool(last.any())
    assert float(squared_error(model, batch)) == pytest.approx(float(squared_error(model, noisy)), rel=1e-5)


def test_the_learner_counts_its_updates():
    continuous = OfflineDataset.from_episodes([{"observation": np.ones((5, 1)), "action": np.zeros((4, 1))}])
    bc = OutcomeBC(
        model=lambda key: GaussianPolicy(1, 1, width=4, key=key),
        sample=cloned(continuous, 8, lambda s: s),
    )
    learner = bc.learner(steps=20, every=5, final=lambda policy, key: {"out": policy(jnp.zeros(1))})
    assert learner.rounds == 4
    state = learner.advance(learner.init(jax.random.key(0)))
    assert int(state.optimizer[0].count) == 5 and float(learner.measure(state)["loss"]) != 0
    assert learner.final(state)["out"].shape == (1,)
