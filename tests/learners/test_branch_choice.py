import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import binom

from unseen.learners.branch_choice import BranchChoice, BranchGame, branch_policy
from unseen.measures.world_model import extract_transitions
from unseen.models.goal_counter import GoalConditionedCounter
from unseen.worlds.control.composite_goals import CompositeGoal

PROCESS = jnp.array([[[0.8, 0.2], [0.35, 0.65]], [[0.1, 0.9], [0.5, 0.5]]])
TRIPLES = jnp.array([[0, 0, 0], [0, 1, 1], [1, 0, 0]])


def test_the_game_is_the_binomial_distribution():
    game = BranchGame.of(PROCESS, TRIPLES, (1, 4))
    assert np.allclose(game.at_most[:, 1], binom.cdf(np.arange(5), 4, [[0.8], [0.65], [0.1]]), atol=1e-4)


def test_bets_are_learned_from_success_alone_and_reveal_the_process():
    choice = BranchChoice((1, 2, 4, 8), 128, optax.adam(5e-3))
    game = BranchGame.of(PROCESS, TRIPLES, choice.depths)
    model = GoalConditionedCounter(2, 2, width=32, most=8, key=jax.random.key(0))
    run = choice.init(model, jax.random.key(1))
    learned = choice.advance(run, game, 400, 8)
    estimate = extract_transitions(branch_policy(learned.model), TRIPLES, 8)
    assert np.all(np.abs(np.asarray(estimate) - [0.8, 0.65, 0.1]) < 0.13)
    before = extract_transitions(branch_policy(model), TRIPLES, 8)
    assert np.abs(np.asarray(before) - [0.8, 0.65, 0.1]).max() > 0.3


def test_depth_one_learners_only_meet_depth_one():
    # With the goals of larger depths made a trap, a learner of depth one does not notice.
    choice = BranchChoice((1, 8), 64, optax.adam(5e-3))
    game = BranchGame.of(PROCESS, TRIPLES, choice.depths)
    trap = game._replace(at_most=game.at_most.at[:, 1].set(0.5))
    model = GoalConditionedCounter(2, 2, width=16, most=8, key=jax.random.key(0))
    nets = [choice.advance(choice.init(model, jax.random.key(1)), g, 50, 1).model for g in (game, trap)]
    logits = [n(*(f.reshape(-1) for f in jax.tree.leaves(CompositeGoal.families(TRIPLES, 1)))) for n in nets]
    assert np.array_equal(logits[0], logits[1])
