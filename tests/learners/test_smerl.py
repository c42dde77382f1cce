import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.learners import DIAYN, SMERL
from unseen.learners.minibatches import learn_epochs
from unseen.worlds.control import MazeTask, PointMaze

WORLD = MazeTask()
PARAMS = WORLD.params(PointMaze.preset("open", mode="force", speed=0.5, drag=0.5), (1.5, 5.0), (8.5, 5.0), max_steps=24)
SMALL = dict(environment=WORLD, params=PARAMS, horizon=24, width=16, latents=3, episodes=24, learning_rate=3e-3)


# told, task, diversity, thresholded, target: one program for all.
CONDITIONS = {
    "smerl": (1.0, 1.0, 0.1, 1.0, 0.5),
    "ppo": (0.0, 1.0, 0.0, 1.0, 0.5),
    "diayn": (1.0, 0.0, 0.1, 0.0, 0.5),
    "beyond reach": (1.0, 1.0, 5.0, 1.0, 9.9),
    "no bonus": (1.0, 1.0, 0.0, 1.0, 9.9),
}


@pytest.fixture(scope="module")
def trained():
    """Returns under each latent and how well it is recognised, after training, by condition."""

    def one(values):
        names = ("told", "task", "diversity", "thresholded", "target")
        learner = SMERL(**SMALL, guess_rate=3e-3, **dict(zip(names, values, strict=True)))
        state = learner.run(learner.init(jax.random.key(0)), 60)
        return state.returns, state.recognised

    returns, recognised = jax.jit(jax.vmap(one))(jnp.array(list(CONDITIONS.values())))
    return {name: (returns[i], float(recognised[i])) for i, name in enumerate(CONDITIONS)}


def test_it_learns_the_task_and_to_be_recognised(trained):
    assert trained["smerl"][0].min() > 0.4 and trained["smerl"][1] > 0.3
    # Without being told the latent nobody can tell it, and the task is learned alike.
    assert trained["ppo"][0].min() > 0.4 and trained["ppo"][1] < 0.1


def test_without_reward_skills_are_recognised_and_the_task_is_not_learned(trained):
    assert trained["diayn"][1] > trained["smerl"][1] and trained["diayn"][0].mean() < 0.2
    assert DIAYN(**SMALL).task == 0 and DIAYN(**SMALL).thresholded == 0


def test_a_target_beyond_reach_makes_diversity_worth_nothing(trained):
    assert np.allclose(trained["beyond reach"][0], trained["no bonus"][0], atol=1e-4)


def test_ended_episodes_stand_still_and_count_no_more():
    learner = SMERL(**SMALL, target=0.0, spread=-3.0)
    agent = learner.init(jax.random.key(1)).agent
    agent = eqx.tree_at(lambda a: a.policy.mlp.layers[-1].bias, agent, jnp.array([9.0, 0.0]))
    played = jax.jit(lambda key: learner.play(agent, jnp.arange(3), key))(jax.random.key(2))
    assert bool((~played.alive[-1]).all()) and bool((played.reward[~played.alive] == 0).all())
    assert bool((played.ends.sum(0) >= 1).all()) and bool(played.ends[-1].all())
    last = played.observation[-1]
    after = played.alive.sum(0)
    assert all(bool((played.observation[after[i] :, i] == last[i]).all()) for i in range(3))
    # Played actions have the density that the policy says.
    features = learner.features(played.observation[0], jnp.arange(3))
    assert np.allclose(jax.vmap(agent.policy.log_prob)(features, played.action[0]), played.log_prob[0], atol=1e-5)


def test_an_epoch_of_one_minibatch_is_one_step_on_all_rows():
    rows, optimizer = jnp.arange(6.0), optax.sgd(0.1)
    weight = jnp.array(1.0)

    def learned(loss, **how):
        return learn_epochs(loss, weight, optimizer, optimizer.init(weight), rows, jax.random.key(0), **how)[0]

    after = learned(lambda w, x: ((w - x) ** 2).mean(), epochs=1, minibatches=1)
    assert np.isclose(after, 1 - 0.1 * 2 * (1 - 2.5))
    # Minibatches partition the rows: with a loss linear in w their steps add up to the whole.
    after = learned(lambda w, x: (w * x).mean(), epochs=2, minibatches=3)
    assert np.isclose(after, 1 - 0.1 * 2 * 3 * 2.5)


def test_shares_that_do_not_add_up_are_named():
    for name, value in dict(latents=5, minibatches=7, episodes=0).items():
        with pytest.raises(UserError, match=name):
            SMERL(**dict(SMALL, target=0.0) | {name: value})
