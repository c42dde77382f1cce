import jax
import jax.numpy as jnp
import numpy as np

from unseen.methods import DynamicTaskFilter

FILTER = DynamicTaskFilter(sometimes=0.5, rarely=0.25, good=0.6, solved=1.0)


def test_a_task_passes_all_three_tests_or_none():
    policy = jnp.array([[0.0, 0.0, 0.2, 0.0], [0.0, 0.0, 0.2, 0.9], [0.0, 0.0, 0.2, 0.9], [0.6, 0.8, 1.0, 0.6]])
    control = jnp.array([[0.0] * 4, [0.0, 0.0, 0.0, 0.1], [0.0, 0.0, 0.1, 0.1], [0.0] * 4])
    # too hard; just right; a careless player scores too; solved
    assert FILTER.accepts(policy, control).tolist() == [False, True, False, False]


def test_thresholds_may_be_traced():
    policy, control = jnp.array([0.0, 0.3]), jnp.array([0.0, 0.1])
    passes = jax.vmap(lambda rarely: DynamicTaskFilter(rarely=rarely).accepts(policy, control))
    assert passes(jnp.array([0.4, 0.5])).tolist() == [False, True]


def test_its_teacher_keeps_what_it_accepts():
    teacher = FILTER.teacher(lambda key: jax.random.randint(key, (), 0, 1000), slots=4, explore=0.0)
    state, update = teacher.init(jax.random.key(0)), jax.jit(teacher.update)
    for task, fits in ((5, 0.0), (6, 1.0), (7, 1.0), (6, 0.0)):
        state = update(state, jnp.array(task), jnp.array(fits))
    drawn = jax.jit(jax.vmap(lambda key: teacher.propose(state, key)))(jax.random.split(jax.random.key(1), 20))
    assert set(np.asarray(drawn).tolist()) == {7}
