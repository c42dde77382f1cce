import jax.numpy as jnp
import numpy as np

from unseen.measures.residual_dependence import prompt_bias, residual_dependence


def test_residual_dependence_by_hand():
    # One caption; two inputs, two labels, P = 1/4 + c on the diagonal: contingency 4 (4 c)^2 / 4 = 16 c^2.
    c = 0.1
    joint = jnp.array([[0.25 + c, 0.25 - c], [0.25 - c, 0.25 + c]])[:, None, :]
    assert np.isclose(float(residual_dependence(joint)), 16 * c**2, atol=1e-6)
    # Counts of the same shares mean the same, and a caption that never occurs changes nothing.
    padded = jnp.concatenate([400 * joint, jnp.zeros((2, 1, 2))], axis=1)
    assert np.isclose(float(residual_dependence(padded)), 16 * c**2, atol=1e-6)
    # Inputs that determine one of two labels: the largest value, 1.
    assert np.isclose(float(residual_dependence(jnp.eye(2)[:, None, :])), 1.0, atol=1e-6)


def test_prompt_bias_by_hand():
    # Two captions that determine the label; prompts that are wrong a quarter of the time say 3/4 and 1/4.
    joint, prior = jnp.eye(2) / 2, jnp.array([0.5, 0.5])
    assert float(prompt_bias(jnp.eye(2), joint, prior)) == 0
    prompts = jnp.array([[0.75, 0.25], [0.25, 0.75]])
    assert np.isclose(float(prompt_bias(prompts, joint, prior)), 2 * 0.25**2, atol=1e-6)
    # A caption without any prompt says the prior: 1/2 instead of 0 and 1.
    unused = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    assert np.isclose(float(prompt_bias(unused, joint, prior)), 2 * 0.5**2, atol=1e-6)
