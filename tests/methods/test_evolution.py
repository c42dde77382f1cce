import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unseen.lab import UserError
from unseen.methods.evolution import EvolutionStrategies, centred_ranks, standardised


def quadratic(x):
    return 1.5 * x[..., 0] - 0.5 * x[..., 0] ** 2 - x[..., 1] ** 2 + 0.3 * x[..., 0] * x[..., 1] + x[..., 2] ** 3


def test_gradient_of_a_quadratic_and_a_cubic_is_that_of_the_smoothed_function():
    # E f(x + sigma e) has the gradient of f for a quadratic; a cube gains 3 sigma^2.
    sigma, x = 0.5, jnp.array([0.4, -0.7, 0.2])
    analytic = np.array([1.5 - 0.4 + 0.3 * -0.7, 1.4 + 0.12, 3 * 0.2**2 + 3 * sigma**2])
    search = EvolutionStrategies(pairs=40, sigma=sigma, shaping=None)

    def estimate(key):
        noise, population = search.ask(key, search.init(x))
        return search.gradient(noise, quadratic(population))

    estimates = np.asarray(jax.vmap(estimate)(jax.random.split(jax.random.key(0), 2_000)))
    error = estimates.std(0) / np.sqrt(len(estimates))
    assert np.all(error < 0.03) and np.all(np.abs(estimates.mean(0) - analytic) < 4 * error)


def test_antithetic_pairs_cancel_even_terms_exactly():
    search = EvolutionStrategies(pairs=3, shaping=None)
    noise, population = search.ask(jax.random.key(1), search.init(jnp.zeros(4)))
    assert np.allclose(population[0], -population[1])
    gradient = search.gradient(noise, 7.0 + jnp.square(population).sum(-1))
    assert np.allclose(gradient, 0, atol=1e-4)


@pytest.mark.parametrize("shaping", [None, centred_ranks])
def test_updates_are_those_of_evosax(shaping):
    evosax = pytest.importorskip("evosax.algorithms")
    shape = {} if shaping else {"fitness_shaping_fn": lambda population, fitness, state, params: fitness}
    start, sigma = jnp.array([0.3, -1.0, 0.5]), 0.2
    theirs = evosax.Open_ES(16, start, optimizer=optax.adam(0.05), std_schedule=optax.constant_schedule(sigma), **shape)
    ours = EvolutionStrategies(pairs=8, sigma=sigma, optimizer=optax.adam(0.05), shaping=shaping)
    params = theirs.default_params
    their_state, our_state = theirs.init(jax.random.key(0), start, params), ours.init(start)
    for i in range(5):
        population, their_state = theirs.ask(jax.random.key(i), their_state, params)
        noise = (population[:8] - their_state.mean) / sigma
        np.testing.assert_allclose(population[8:], our_state.centre - sigma * noise, atol=1e-5)
        fitness = quadratic(population)
        their_state, _ = theirs.tell(jax.random.key(9), population, -fitness, their_state, params)
        our_state = ours.tell(our_state, noise, fitness.reshape(2, 8))
        np.testing.assert_allclose(our_state.centre, their_state.mean, rtol=2e-4)


def test_shapings():
    ranks = centred_ranks(jnp.array([3.0, -1e9, 3.0, 7.0, jnp.nan]))
    np.testing.assert_allclose(ranks, [0.125, -0.25, 0.125, 0.5, -0.5])
    values = standardised(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(values, [-1, 1])
    assert np.all(np.asarray(standardised(jnp.full(4, 2.0))) == 0)


def test_any_pytree_is_searched_and_the_rest_is_kept():
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (32, 2))
    y = x[:, :1] - x[:, 1:]
    search = EvolutionStrategies(pairs=30, sigma=0.05)

    @eqx.filter_jit
    def train(state):
        arrays, static = eqx.partition(state, eqx.is_array)

        def update(arrays, key):
            state = eqx.combine(arrays, static)
            noise, population = search.ask(key, state)
            lanes = eqx.filter_vmap(eqx.filter_vmap(lambda net: -jnp.mean((jax.vmap(net)(x) - y) ** 2)))
            state = search.tell(state, noise, lanes(population))
            return eqx.filter(state, eqx.is_array), None

        arrays, _ = jax.lax.scan(update, arrays, jax.random.split(jax.random.key(2), 150))
        return eqx.combine(arrays, static)

    def loss(net):
        return float(jnp.mean((jax.vmap(net)(x) - y) ** 2))

    end = train(search.init(model)).centre
    assert loss(end) < 0.05 * loss(model) and end.activation is model.activation


def test_centres_with_fitness_of_their_own_move_as_they_would_alone():
    joint = EvolutionStrategies(pairs=6, centres=3)
    alone = EvolutionStrategies(pairs=6)
    start = jnp.arange(6.0).reshape(3, 2)
    state = joint.init(start)
    noise, population = joint.ask(jax.random.key(0), state)
    assert population.shape == (2, 6, 3, 2)
    fitness = -jnp.square(population).sum(-1)
    moved = joint.tell(state, noise, fitness).centre
    for i in range(3):
        single = alone.tell(alone.init(start[i]), noise[:, i], fitness[..., i]).centre
        np.testing.assert_allclose(moved[i], single, rtol=1e-5)


def test_centres_may_depend_on_each_other():
    # Fitness is the squared distance of the two centres: the gradient points away from the other one.
    search = EvolutionStrategies(pairs=4_000, sigma=0.1, shaping=None, centres=2)
    start = jnp.array([[0.0], [1.0]])
    noise, population = search.ask(jax.random.key(3), search.init(start))
    apart = jnp.square(population[:, :, 0] - population[:, :, 1])
    gradient = search.gradient(noise, jnp.broadcast_to(apart, (2, 4_000, 2)))
    np.testing.assert_allclose(gradient[:, 0], [-2, 2], atol=0.15)


def test_bad_settings_are_named():
    for name, value in dict(pairs=0, sigma=0.0, centres=0).items():
        with pytest.raises(UserError, match=name):
            EvolutionStrategies(**{name: value})
    with pytest.raises(UserError, match="centres"):
        EvolutionStrategies(centres=3).init(jnp.zeros((2, 3)))
