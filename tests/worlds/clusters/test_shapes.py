import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.clusters.shapes import ATTRIBUTES, CAPTION_LENGTH, SYNONYMS, VOCABULARY, ShapeScenes, said

WORDS = {w: v for v, w in SYNONYMS.items()}  # synonym -> value


def test_there_are_sixty_words():
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 60


def test_pictures_are_a_function_of_their_attributes():
    world = ShapeScenes()
    images, _, attributes = world.sample(jax.random.key(0), 12)
    assert images.shape == (12, 16, 16, 3) and float(images.min()) >= 0 and float(images.max()) <= 1
    # To rounding: compiled in another program, sines and products may differ in the last digit.
    assert np.allclose(world.render(attributes), images, atol=1e-5)
    one = {name: values[3:4] for name, values in attributes.items()}
    assert np.allclose(world.render(one)[0], images[3], atol=1e-5)
    assert ShapeScenes(resolution=32).render(attributes).shape == (12, 32, 32, 3)


def test_every_attribute_can_be_seen():
    world = ShapeScenes()
    base = {name: jnp.zeros(1, jnp.int32) for name in ATTRIBUTES} | {"size": jnp.full(1, 2, jnp.int32)}
    base |= {"dx": jnp.zeros(1), "dy": jnp.zeros(1), "grain": jnp.zeros(1, jnp.int32)}
    for name, values in ATTRIBUTES.items():
        pictures = [np.asarray(world.render(base | {name: jnp.full(1, i, jnp.int32)})) for i in range(len(values))]
        for a, b in itertools.combinations(pictures, 2):
            assert np.abs(a - b).mean() > 0.003, name


def test_a_look_up_of_the_attributes_answers_every_question():
    # What a scene is called can be read from its picture's nearest neighbour among pictures of all combinations.
    world = ShapeScenes()
    factors = {"style": ("flat",), "texture": ("plain",), "background": ("dark",), "size": ("large",)}
    table = world.combinations(factors)
    assert len(table) == 6 * 6 * 4
    rows = {name: jnp.asarray(table[:, i]) for i, name in enumerate(ATTRIBUTES)}
    still = {"dx": jnp.zeros(len(table)), "dy": jnp.zeros(len(table)), "grain": jnp.zeros(len(table), jnp.int32)}
    known = np.asarray(world.render(rows | still)).reshape(len(table), -1)
    _, _, asked = world.sample(jax.random.key(1), 50, factors)
    images = np.asarray(world.render(asked | {"dx": jnp.zeros(50), "dy": jnp.zeros(50)}))
    nearest = ((images.reshape(50, 1, -1) - known) ** 2).sum(-1).argmin(1)
    for i, name in enumerate(ATTRIBUTES):
        assert np.array_equal(table[nearest, i], asked[name])


def test_held_out_combinations_never_come_up():
    rule = {"shape": ("circle", "ring"), "colour": ("red",)}
    world = ShapeScenes(held_out=(rule,))
    everything = ShapeScenes().combinations()
    train, out = world.combinations(), world.combinations(split="held_out")
    assert len(train) + len(out) == len(everything) == len(world.combinations(split="all"))
    assert len(out) == len(everything) * 2 // 36
    for split, expected in (("train", False), ("held_out", True)):
        _, _, a = world.sample(jax.random.key(2), 500, split=split)
        red = (a["colour"] == 0) & ((a["shape"] == 0) | (a["shape"] == 5))
        assert bool(red.all() if expected else ~red.any())


def test_captions_say_what_is_true_as_often_as_asked():
    world = ShapeScenes()
    _, words, attributes = world.sample(jax.random.key(3), 400, mention={"shape": 1.0, "size": 0.0})
    assert words.shape == (400, CAPTION_LENGTH)
    named = dict.fromkeys(ATTRIBUTES, 0)
    for i in range(400):
        text = said(words[i]).split()
        # Nothing but padding after the end.
        assert np.array_equal(np.asarray(words[i]) != 0, np.arange(CAPTION_LENGTH) < len(text))
        plain = " ".join(WORDS.get(word, word) for word in text)
        for name, values in ATTRIBUTES.items():
            true = values[int(attributes[name][i])]
            assert not any(f" {other} " in f" {plain} " for other in values if other != true)
            named[name] += f" {true} " in f" {plain} "
    assert named["shape"] == 400 and named["size"] == 0
    assert all(140 < named[name] < 260 for name in ("colour", "position", "texture", "background", "style"))


def test_prompts_name_one_attribute_only():
    prompts = ShapeScenes().prompts(jax.random.key(4), "position", 5)
    assert prompts.shape == (4, 5, CAPTION_LENGTH)
    for value, wordings in zip(ATTRIBUTES["position"], prompts, strict=True):
        assert all(said(words).endswith(value) for words in wordings)


def test_clips_move():
    world = ShapeScenes()
    _, _, a = world.sample(jax.random.key(5), 4, {"background": ("dark",), "style": ("flat",), "texture": ("plain",)})
    film = world.clip(a, jnp.array([0, 1, 2, 3]))
    assert film.shape == (4, 3, 16, 16, 3) and np.allclose(film[:, 1], world.render(a), atol=1e-5)
    ink = np.asarray(film).sum(-1) - 0.15
    across, down = ((ink.sum(axis) * np.arange(16)).sum(-1) / ink.sum((2, 3)) for axis in (2, 3))
    assert across[0, 2] < across[0, 0] and across[1, 2] > across[1, 0]
    assert down[2, 2] < down[2, 0] and down[3, 2] > down[3, 0]


def test_bad_input_is_refused():
    with pytest.raises(UserError, match="resolution"):
        ShapeScenes(resolution=20)
    with pytest.raises(UserError, match="shape"):
        ShapeScenes(held_out=({"shape": ("star",)},))
    with pytest.raises(UserError, match="factors"):
        ShapeScenes(held_out=({"colour": ("red",)},)).combinations({"colour": ("red",)})
    with pytest.raises(UserError, match="mention"):
        ShapeScenes().sample(jax.random.key(0), 2, mention={"weight": 0.5})
