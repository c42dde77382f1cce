import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

from unseen.measures import mask_overlap
from unseen.methods import DictionaryUpdate, SparsePrompt, lasso, step_mask

KEY = jax.random.key(0)
WIDTH, FEATURES = 40, 24
solve = jax.jit(lasso, static_argnums=3)
prompted = jax.jit(jax.vmap(SparsePrompt.code, (None, 0)))
learn = jax.jit(lambda prompt, update, code, sentence: update(prompt, code, sentence, KEY))  # one program for all


def unit(key, *shape):
    drawn = jax.random.normal(key, shape)
    return drawn / jnp.linalg.norm(drawn, axis=-1, keepdims=True)


@pytest.mark.parametrize(("atoms", "penalty"), [(20, 0.02), (60, 0.02), (60, 0.001)])
def test_the_code_is_scikit_learn_s(atoms, penalty):
    """Also where there are more atoms than features."""
    dictionary, target = unit(KEY, atoms, 30), unit(jax.random.key(1), 30)
    ours = solve(dictionary, target, penalty, 3_000)
    theirs = Lasso(alpha=penalty / 30, fit_intercept=False, max_iter=100_000, tol=1e-10)
    theirs.fit(np.asarray(dictionary, np.float64).T, np.asarray(target, np.float64))
    np.testing.assert_allclose(ours, theirs.coef_, atol=2e-4)
    assert np.array_equal(np.asarray(ours) == 0, theirs.coef_ == 0) and (theirs.coef_ == 0).any()


def test_atoms_at_right_angles_have_a_closed_form():
    target = jnp.array([0.5, -0.3, 0.05, 0.0])
    np.testing.assert_allclose(lasso(jnp.eye(4), target, 0.1), [0.4, -0.2, 0, 0], atol=1e-6)


def test_a_mask_is_a_step_whose_slope_is_one_inside():
    code = jnp.array([-1.0, 0.0, 0.3, 0.7, 1.0, 2.0])
    assert step_mask(code).tolist() == [0, 0, 1, 1, 1, 1]
    assert jax.grad(lambda c: (step_mask(c) * jnp.arange(6.0)).sum())(code).tolist() == [0, 0, 2, 3, 0, 0]


def test_a_larger_penalty_leaves_fewer_neurons_and_near_sentences_share_more():
    prompt = SparsePrompt.random(KEY, layers=2, width=64, features=96, penalty=0.03)
    np.testing.assert_allclose(jnp.linalg.norm(prompt.dictionaries, axis=-1), 1, rtol=1e-5)
    sentences = unit(jax.random.key(2), 12, 96)
    near = sentences + 0.5 * unit(jax.random.key(3), 12, 96)
    codes, others = (prompted(prompt, x) for x in (sentences, near))
    few = prompted(SparsePrompt(prompt.dictionaries, 0.06), sentences)
    assert 0 < step_mask(few).mean() < 0.8 * step_mask(codes).mean()
    similar, different = (
        np.mean([mask_overlap(a, b) for a, b in zip(codes, x, strict=True)]) for x in (others, jnp.roll(codes, 1, 0))
    )
    assert similar > 1.5 * different


def objective(atoms, codes, sentences):
    return float(jnp.square(sentences - codes @ atoms).sum())


def test_one_atom_alone_becomes_its_part_of_the_sentence():
    prompt = SparsePrompt.random(KEY, layers=1, width=WIDTH, features=FEATURES)
    code, sentence = jnp.zeros((1, WIDTH)).at[0, 1].set(2.0), unit(jax.random.key(4), FEATURES)
    start = DictionaryUpdate.start(1, WIDTH, FEATURES)
    after, known = learn(prompt, start, code, sentence)
    np.testing.assert_allclose(after.dictionaries[0, 1], sentence / 2, atol=1e-6)
    # Atoms without use stay, as does the penalty; an atom that would have to be longer is cut to length 1.
    others = np.delete(np.arange(WIDTH), 1)
    np.testing.assert_allclose(after.dictionaries[0, others], prompt.dictionaries[0, others], rtol=1e-6)
    assert np.isclose(after.penalty, prompt.penalty)
    short, _ = learn(prompt, start, code / 8, sentence)
    np.testing.assert_allclose(short.dictionaries[0, 1], sentence, atol=1e-6)
    # The sums go on.
    _, twice = learn(after, known, code, sentence)
    np.testing.assert_allclose(twice.gram, 2 * code[:, :, None] * code[:, None, :], rtol=1e-6)


def test_every_update_rebuilds_what_was_seen_better():
    """All tasks so far, with codes that training has changed."""
    sentences, update = unit(jax.random.key(5), 4, FEATURES), DictionaryUpdate.start(1, WIDTH, FEATURES)
    prompt, codes = SparsePrompt.random(KEY, layers=1, width=WIDTH, features=FEATURES, penalty=0.01), []
    for i in range(4):
        code = prompted(prompt, sentences)[i]
        codes.append(code[0] + 0.05 * (code[0] != 0) * jax.random.normal(jax.random.key(i), (WIDTH,)))

        def objective(prompt, i=i):
            return float(jnp.square(sentences[: i + 1] - jnp.stack(codes) @ prompt.dictionaries[0]).sum())

        before = objective(prompt)
        prompt, update = learn(prompt, update, codes[-1][None], sentences[i])
        assert objective(prompt) < 0.9 * before
        assert float(jnp.linalg.norm(prompt.dictionaries, axis=-1).max()) <= 1 + 1e-5


def test_atoms_without_use_can_be_drawn_around_the_sentence():
    prompt = SparsePrompt.random(KEY, layers=1, width=WIDTH, features=FEATURES)
    code, sentence = jnp.zeros((1, WIDTH)).at[0, 0].set(0.5), unit(jax.random.key(6), FEATURES)
    after, _ = learn(prompt, DictionaryUpdate.start(1, WIDTH, FEATURES, resample=True), code, sentence)
    # The sentence and as much noise: a cosine of 1 / sqrt(2).
    cosines = after.dictionaries[0, 1:] @ sentence
    assert abs(float(cosines.mean()) - 2**-0.5) < 0.05
    assert abs(float((prompt.dictionaries[0, 1:] @ sentence).mean())) < 0.2
