import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture as Peer

from unseen.lab import UserError
from unseen.methods.curriculum import (
    ALPGMM,
    DomainRandomisation,
    DynamicFiltering,
    GaussianMixture,
    PrioritisedReplay,
    algorithmic_regret,
    fit_mixture,
    l1_value_loss,
    positive_value_loss,
    sample_by_progress,
    true_regret,
)


def blobs(seed=0, n=250):
    rng = np.random.default_rng(seed)
    centres = np.array([[0.2, 0.2, 0.0], [0.8, 0.3, 0.5], [0.5, 0.9, 0.1]])
    which = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    bend = np.array([[0.05, 0.0, 0.0], [0.03, 0.04, 0.0], [0.02, -0.01, 0.03]])
    return centres[which] + rng.normal(size=(n, 3)) @ bend.T, centres


@pytest.mark.parametrize("k", [1, 3])
def test_em_ends_where_scikit_learn_ends(k):
    points, _ = blobs()
    start = points[np.random.default_rng(k).choice(len(points), k, replace=False)]
    # Our start is the hard assignment to the initial means in standardised units; give the peer the same one.
    own = np.eye(k)[(((points[:, None] - start) / points.std(0)) ** 2).sum(-1).argmin(1)]
    count = own.sum(0)
    means = own.T @ points / count[:, None]
    spread = np.stack(
        [(points - m).T @ ((points - m) * w[:, None]) / w.sum() for m, w in zip(means, own.T, strict=True)]
    )
    peer = Peer(
        k, weights_init=count / len(points), means_init=means, tol=0, max_iter=400,
        precisions_init=np.linalg.inv(spread + 1e-6 * np.eye(3)),
    )  # fmt: skip
    with pytest.warns(Warning):  # it always warns when it is told to run to the end
        peer.fit(points)
    fit = jax.jit(lambda x, mean: fit_mixture(x, jax.random.key(0), (k,), iterations=400, mean=mean))
    ours = fit(jnp.asarray(points), jnp.asarray(start))
    np.testing.assert_allclose(ours.weight, peer.weights_, atol=2e-3)
    np.testing.assert_allclose(ours.mean, peer.means_, atol=2e-3)
    np.testing.assert_allclose(ours.covariance, peer.covariances_, atol=2e-4)
    np.testing.assert_allclose(ours.log_density(jnp.asarray(points)).mean(), peer.score(points), atol=2e-3)


def test_the_seeding_and_akaike_find_the_planted_components():
    points, centres = blobs(1, 600)
    found = jax.jit(lambda x: fit_mixture(x, jax.random.key(3), tuple(range(2, 7)), iterations=60))(jnp.asarray(points))
    live = np.asarray(found.weight) > 0.05
    means = np.asarray(found.mean)[live]
    assert all(np.abs(means - c).max(1).min() < 0.03 for c in centres)
    # The peer's criterion likes a number of components with a likelihood that is no better than ours by much.
    best = min((Peer(k, random_state=0).fit(points) for k in range(2, 7)), key=lambda m: m.aic(points))
    assert found.log_density(jnp.asarray(points)).mean() > best.score(points) - 0.02


def test_candidates_beyond_the_points():
    with pytest.raises(UserError, match="components takes numbers from 1 to the 5 points"):
        fit_mixture(jnp.zeros((5, 2)), jax.random.key(0), (6,))


def planted_progress(teacher, rounds, key):
    """Reward grows with every visit in one cell of a 4 x 4 grid, is constant elsewhere."""

    def episode(carry, key):
        state, visits = carry
        task = teacher.propose(state, key)
        inside = ((task >= 0.5) & (task < 0.75)).all()
        visits = visits + inside
        reward = jnp.where(inside, 0.01 * visits, 0.3)
        return (teacher.observe(state, task, reward), visits), (task, inside)

    def block(carry, key):
        (state, visits), out = jax.lax.scan(episode, carry, jax.random.split(key, teacher.fit_every))
        return (teacher.refit(state), visits), out

    carry = teacher.init(key), jnp.zeros((), int)
    (state, _), (tasks, inside) = jax.jit(lambda c, k: jax.lax.scan(block, c, jax.random.split(k, rounds)))(carry, key)
    return state, tasks, inside


def test_alp_gmm_goes_where_progress_is_planted():
    teacher = ALPGMM(jnp.zeros(2), jnp.ones(2), explore=0.1)
    state, _, inside = planted_progress(teacher, 12, jax.random.key(0))
    assert inside[0].mean() < 0.2  # at first: its share of the box is 1/16
    assert inside[-4:].mean() > 0.5  # over half of all tasks, the uniform tenth included
    mass = jax.vmap(lambda key: sample_by_progress(state.mixture, key))(jax.random.split(jax.random.key(1), 2000))
    assert float(((mass >= 0.5) & (mass < 0.75)).all(-1).mean()) > 0.5


def test_update_is_observe_and_a_fit_when_it_is_time():
    teacher = ALPGMM(jnp.array([-1.0]), jnp.array([3.0]), fit_every=8, memory=16, components=(1, 2), iterations=3)
    state = other = teacher.init(jax.random.key(0))
    step, fit = eqx.filter_jit(teacher.update), eqx.filter_jit(teacher.refit)
    for i in range(16):
        task = jnp.array([(i % 5) - 1.0])
        state = step(state, task, jnp.float32(i))
        other = teacher.observe(other, task, jnp.float32(i))
        if i % 8 == 7:
            other = fit(other)
    for a, b in zip(jax.tree.leaves(state._replace(key=0)), jax.tree.leaves(other._replace(key=0)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    # By hand: tasks repeat every 5 episodes and rewards count them, so progress is 5; the first six have none.
    assert float(state.recent[15 % 8, 1]) == 5.0
    first = teacher.init(jax.random.key(0))
    for i in range(6):
        first = teacher.observe(first, jnp.array([0.0]), jnp.float32(i))
    assert (first.recent[:6, 1] == 0).all()


def test_alp_gmm_stays_in_the_box():
    teacher = ALPGMM(jnp.array([2.0, -1.0]), jnp.array([4.0, 0.0]), fit_every=10, components=(2,), explore=0.0)
    state = teacher.init(jax.random.key(0))
    wide = GaussianMixture(jnp.array([0.5, 0.5]), jnp.ones((2, 3)), jnp.broadcast_to(9 * jnp.eye(3), (2, 3, 3)))
    state = state._replace(mixture=wide, episode=jnp.array(10))
    tasks = jax.vmap(lambda key: teacher.propose(state, key))(jax.random.split(jax.random.key(1), 500))
    assert ((tasks >= teacher.low) & (tasks <= teacher.high)).all()
    assert (tasks.min(0) == teacher.low).all() and (tasks.max(0) == teacher.high).all()


def play(teacher, state, *seen):
    """The state after levels and their scores."""
    update = jax.jit(lambda *args: teacher.update(*args))
    for level, score in seen:
        state = update(state, {"number": jnp.array(level)}, jnp.float32(score))
    return state


def proposals(teacher, state, n=200):
    """Levels that it proposes, their numbers."""
    return jax.jit(jax.vmap(lambda key: teacher.propose(state, key)["number"]))(jax.random.split(jax.random.key(1), n))


def number(key):
    return {"number": jax.random.randint(key, (), 0, 10)}


def test_prioritised_replay_follows_its_formula():
    teacher = PrioritisedReplay(number, slots=4, replay=1.0, temperature=0.5, staleness=0.25)
    state = play(teacher, teacher.init(jax.random.key(0)), (1, 0.1), (2, 0.9), (3, 0.4))
    # Ranks 3, 1, 2 at temperature 1/2: 1/9, 1, 1/4; ages 2, 1, 0.
    by_score, by_age = np.array([1 / 9, 1, 1 / 4, 0]), np.array([2, 1, 0, 0])
    expected = 0.75 * by_score / by_score.sum() + 0.25 * by_age / by_age.sum()
    np.testing.assert_allclose(teacher.probabilities(state), expected, rtol=1e-5)
    drawn = proposals(teacher, state, 4000)
    shares = [(drawn == level).mean() for level in (1, 2, 3)]
    np.testing.assert_allclose(shares, expected[:3], atol=0.03)


def test_prioritised_replay_keeps_the_best_and_scores_anew():
    teacher = PrioritisedReplay(number, slots=2, least=2, replay=1.0)
    state = teacher.init(jax.random.key(0))
    fresh = proposals(teacher, state)
    assert len(set(fresh.tolist())) == 10  # nothing to replay yet: all levels of the distribution
    state = play(teacher, state, (1, 0.1), (2, 0.9), (3, 0.5), (4, 0.2), (2, 0.3))
    kept = dict(zip(state.levels["number"].tolist(), state.score.tolist(), strict=True))
    assert kept == pytest.approx({2: 0.3, 3: 0.5})  # 1 gave way to 3, 4 was not good enough, 2 was scored anew
    with pytest.raises(UserError, match="least"):
        PrioritisedReplay(number, slots=2, least=3)


def test_levels_may_hold_keys():
    teacher = PrioritisedReplay(lambda key: key, slots=3)
    state = teacher.init(jax.random.key(0))
    level = teacher.propose(state, jax.random.key(5))
    state = teacher.update(teacher.update(state, level, jnp.float32(1)), level, jnp.float32(2))
    assert state.filled.sum() == 1 and state.score[jnp.argmax(state.filled)] == 2


def test_dynamic_filtering_keeps_what_is_neither_easy_nor_hard():
    teacher = DynamicFiltering(number, low=0.2, high=0.8, slots=3, explore=0.0)
    state = play(teacher, teacher.init(jax.random.key(0)), (1, 0.5), (2, 0.1), (3, 0.9), (4, 0.7))
    assert set(proposals(teacher, state).tolist()) == {1, 4}
    state = play(teacher, state, (1, 0.95), (4, 0.0))  # learned, unlearned
    assert not state.filled.any()
    fresh = proposals(teacher, state)
    assert len(set(fresh.tolist())) == 10


def test_domain_randomisation_draws():
    teacher = DomainRandomisation(number)
    state = teacher.update(teacher.init(jax.random.key(0)), {"number": jnp.array(1)}, jnp.float32(1))
    assert teacher.propose(state, jax.random.key(7)) == number(jax.random.key(7))


def test_scores():
    advantages = jnp.array([1.0, -2.0, 3.0, 100.0])
    valid = jnp.array([True, True, True, False])
    assert positive_value_loss(advantages, valid) == pytest.approx(4 / 3)
    assert l1_value_loss(advantages, valid) == pytest.approx(2)
    assert algorithmic_regret(jnp.float32(1.0), jnp.float32(3.0)) == -2
    assert true_regret(jnp.float32(3.0), jnp.float32(1.0)) == 2
