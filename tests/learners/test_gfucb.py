import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from unseen.learners.gfucb import FiniteGFUCB, NeuralGFUCB, joint_radius, per_task_regret, play
from unseen.worlds.clusters.multitask_bandit import MultitaskBandit, random_maps

CONTEXTS = jax.random.normal(jax.random.key(0), (40, 5))
FEATURES = random_maps(jax.random.key(1), 6, CONTEXTS, dims=2)


def history(tasks, rounds=9, seed=2):
    """Chosen contexts and rewards of some rounds."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 40, (rounds, tasks)), rng.normal(size=(rounds, tasks))


def believed(agent, chosen, paid):
    belief = agent.begin(chosen.shape[1])
    for c, p in zip(chosen, paid, strict=True):
        belief = agent.update(belief, jnp.asarray(c), jnp.asarray(p, jnp.float32))
    return belief


def test_beliefs_are_ridge_regressions():
    agent = FiniteGFUCB(FEATURES, 1.0, ridge=0.3)
    chosen, paid = history(2)
    belief = believed(agent, chosen, paid)
    head = np.einsum("fmde,fme->fmd", belief.inverse, belief.moment)
    for f in range(6):
        for m in range(2):
            x = np.asarray(FEATURES)[f, chosen[:, m]]
            expected = np.linalg.solve(x.T @ x + 0.3 * np.eye(2), x.T @ paid[:, m])
            assert np.allclose(head[f, m], expected, atol=1e-4)


def most_promising(agent, belief, shown, chosen, paid):
    """Brute force over maps and all joint candidates of the largest promised sum."""
    best, found = -np.inf, None
    errors, fits = [], []
    for f in range(6):
        total, fit = 0.0, []
        for m in range(shown.shape[0]):
            x = np.asarray(FEATURES)[f, chosen[:, m]]
            gram = x.T @ x + agent.ridge * np.eye(2)
            head = np.linalg.solve(gram, x.T @ paid[:, m])
            total += ((x @ head - paid[:, m]) ** 2).sum() + agent.ridge * head @ head
            fit.append((head, np.linalg.inv(gram)))
        errors.append(total)
        fits.append(fit)
    for f in range(6):
        room = agent.radius - (errors[f] - min(errors))
        if room < 0:
            continue
        for places in np.ndindex(*shown.shape[1:] * shown.shape[0]):
            a = c = 0.0
            for m, k in enumerate(places):
                x = np.asarray(FEATURES)[f, shown[m, k]]
                a, c = a + x @ fits[f][m][0], c + x @ fits[f][m][1] @ x
            if a + np.sqrt(room * c) > best:
                best, found = a + np.sqrt(room * c), places
    return best, found


@pytest.mark.parametrize("radius", [0.05, 0.5, 5.0])
def test_choices_are_those_of_an_exhaustive_search(radius):
    agent = FiniteGFUCB(FEATURES, radius)
    agree = 0
    for seed in range(6):
        chosen, paid = history(2, seed=seed)
        shown = np.random.default_rng(100 + seed).integers(0, 40, (2, 4))
        mine = np.asarray(agent.choose(believed(agent, chosen, paid), jnp.asarray(shown)))
        _, places = most_promising(agent, None, shown, chosen, paid)
        agree += tuple(mine.tolist()) == places
    assert agree >= 5  # eight multipliers hit the best of sixteen pairs but for rare near ties


def test_the_radius_covers_a_chi_square_at_its_confidence():
    for tasks in (1, 10):
        quantile = 0.3**2 * chi2.ppf(1 - 0.05 / 256, 4 * tasks)
        assert quantile < joint_radius(tasks, 4, 256, 0.3) < 2 * quantile
    # Cheaper for each task together than alone: the class is paid once.
    assert joint_radius(10, 4, 256, 0.3) < 10 * joint_radius(1, 4, 256, 0.3)


def test_the_right_map_is_found_and_regret_flattens():
    bandit = MultitaskBandit.of_maps(jax.random.key(3), FEATURES, CONTEXTS, 3, candidates=5, noise=0.2)
    agent = FiniteGFUCB(FEATURES, joint_radius(3, 2, 6, 0.2))
    regret = per_task_regret(
        play(
            bandit,
            jax.random.key(4),
            150,
            agent.begin(3),
            lambda belief, shown, _: agent.choose(belief, shown),
            lambda belief, chosen, paid, _: agent.update(belief, chosen, paid),
        )
    )
    assert np.all(np.diff(regret) >= -1e-5)
    assert regret[-1] - regret[-50] < 0.3 * regret[49]


def test_the_neural_learner_stays_in_its_confidence_set_and_learns():
    bandit = MultitaskBandit.digits(jax.random.key(5), 2, candidates=5, noise=0.1)
    agent = NeuralGFUCB(bandit.contexts, 0.5)
    chosen, _ = history(2, rounds=30)
    belief = agent.begin(jax.random.key(6), 2, 30)
    for c in chosen:
        belief = agent.update(
            belief, jnp.asarray(c), jnp.take_along_axis(bandit.values, jnp.asarray(c)[:, None], 1)[:, 0]
        )
    assert int(belief.played) == 30

    def error(belief):
        return float(jnp.mean((agent.values(belief.net, belief.chosen.T) - belief.paid.T) ** 2))

    fitted = belief
    for i in range(20):
        fitted = agent.fit(fitted, jax.random.key(i))
    assert error(fitted) < 0.2 * error(belief)
    shown = bandit.show(jax.random.key(7))
    # Without room to be optimistic the fit decides.
    greedy = NeuralGFUCB(bandit.contexts, 0.0).choose(fitted, shown, jax.random.key(8))
    assert np.array_equal(greedy, agent.values(fitted.net, shown).argmax(1))
