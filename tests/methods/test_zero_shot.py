import jax
import jax.numpy as jnp
import numpy as np

from unseen.measures.residual_dependence import prompt_bias, residual_dependence
from unseen.methods.zero_shot import TwoStageZeroShot, supervised_average
from unseen.worlds.clusters.captions import CaptionTriples


def population(world):
    return TwoStageZeroShot.fit(world.pair_law, world.prompts, world.label_prior)()


def test_two_stages_by_hand():
    # Input 0 always comes with caption 0, input 1 with both alike; caption 0 is always the prompt of label 0.
    rule = TwoStageZeroShot.fit(jnp.array([[8.0, 0.0], [2.0, 2.0]]), jnp.array([[3.0, 0.0], [1.0, 2.0]]))
    # With equal priors caption 0 says label 0 with 1 / (1 + 1/3) = 3/4.
    assert np.allclose(rule(), [[0.75, 0.25], [0.375, 0.625]])


def test_what_was_never_seen_falls_back():
    rule = TwoStageZeroShot.fit(
        jnp.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]]),
        jnp.array([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]]),
        jnp.array([0.2, 0.8]),
    )
    assert np.allclose(rule.captions[1], [0.25, 0.75, 0.0])
    assert np.allclose(rule.labels[2], [0.2, 0.8])
    direct = supervised_average(jnp.array([[1.0, 3.0], [0.0, 0.0]]))
    assert np.allclose(direct, [[0.25, 0.75], [0.25, 0.75]])


def test_independent_worlds_with_faithful_prompts_reach_the_bayes_rule_and_others_stay_within_the_bound():
    for seed in range(5):
        world = CaptionTriples.random(jax.random.key(seed))
        assert float(world.excess_risk(population(world))) < 1e-10
        for dependence, distortion in ((0.1, 0.0), (0.3, 0.0), (0.0, 0.5), (0.2, 0.5)):
            world = CaptionTriples.random(jax.random.key(seed), dependence=dependence, distortion=distortion)
            bias = prompt_bias(world.prompts, world.joint.sum(0), world.label_prior)
            # Cauchy-Schwarz: |E[P(y|x,z) - P(y|z) | x]|^2 is at most the contingency times sum_y P(y|z).
            bound = 2 * (float(bias) + float(residual_dependence(world.joint)))
            assert 1e-4 < float(world.excess_risk(population(world))) < bound


def test_samples_lead_to_the_population_rule():
    world = CaptionTriples.random(jax.random.key(7), dependence=0.1, distortion=0.2)
    a, b = jax.random.split(jax.random.key(8))
    errors = []
    for n in (1_000, 100_000):
        rule = TwoStageZeroShot.fit(world.pairs(a, n), world.prompted(b, n), world.label_prior)
        errors.append(float(world.distance(rule(), population(world))))
    assert errors[1] < errors[0] / 30
