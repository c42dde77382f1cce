import jax
import jax.numpy as jnp
import numpy as np
import optax

from unseen.learners import UngrokkingProtocol, classifier
from unseen.learners.ungrokking import keep_training
from unseen.models import QuadraticMLP
from unseen.worlds.algorithms import ModularArithmetic

KEY = jax.random.key(5)
WORLD = ModularArithmetic(7)


def stage(steps, decay=1.0):
    optimizer = optax.adamw(3e-3, b2=0.98, weight_decay=decay)
    return classifier(
        lambda key: QuadraticMLP(7, 16, key=key), lambda key: WORLD.split(key, 0.6), optimizer, steps=steps, every=10
    )


def test_smaller_sets_are_nested_and_the_test_set_stays():
    split = WORLD.split(KEY, 0.6)
    kept = {count: keep_training(count)(split, KEY) for count in (3, 10, 29)}
    assert [int(data.train.sum()) for data in kept.values()] == [3, 10, 29]
    assert (kept[3].train <= kept[10].train).all() and (kept[10].train <= split.train).all()
    assert all((data.test == split.test).all() for data in kept.values())
    traced = jax.jit(lambda count: keep_training(count)(split, KEY).train)(jnp.array(10.0))
    assert (traced == kept[10].train).all()


def test_the_second_stage_goes_on_where_the_first_one_ended():
    first, second = stage(30), stage(20, decay=0.5)
    me = UngrokkingProtocol(first, second, keep_training(10)).learner()
    assert me.steps == 20
    state = jax.jit(me.init)(KEY)

    # The first stage by hand.
    run = first.init(jax.random.split(KEY, 3)[0])
    for _ in range(3):
        run = jax.jit(first.advance)(run)
    for a, b in zip(jax.tree.leaves(state.now.model), jax.tree.leaves(run.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    finished = first.measure(run)
    told = me.final(state)
    for name, value in finished.items():
        np.testing.assert_allclose(told[f"before_{name}"], value, rtol=1e-4)
    assert int(state.now.data.train.sum()) == 10
    assert all((x == 0).all() for x in jax.tree.leaves(state.now.optimizer) if jnp.ndim(x))  # a new start

    after = jax.jit(me.advance)(state)
    assert me.measure(after)["train_loss"] < me.measure(state)["train_loss"]
    assert told == me.final(after) or all((me.final(after)[k] == v).all() for k, v in told.items())
