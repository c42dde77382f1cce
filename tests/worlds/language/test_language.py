"""Lexicon, templates and facts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseen.lab import UserError
from unseen.worlds.language import VOCABULARY_SIZE, Language, Templates, decode, encode, language, lexicon


def test_lexicon_has_512_different_words():
    assert VOCABULARY_SIZE == len(set(lexicon.WORDS)) == 512
    assert not set(" ".join(lexicon.WORDS)) & set("\n\t")


@given(st.lists(st.integers(0, 511), max_size=20))
def test_encode_inverts_decode(tokens):
    assert encode(decode(tokens)) == tokens


def test_an_unknown_word_is_named():
    with pytest.raises(UserError, match="'wug'"):
        encode("ana likes wug")


@pytest.mark.parametrize(
    "templates",
    [language.statements, language.two_hop_statements, language.questions, language.passages, language.tasks],
    ids=lambda f: f.__name__,
)
def test_every_template_reads_back_and_no_other_reads_it(templates):
    templates = templates()
    rng = np.random.default_rng(0)
    for number, pattern in enumerate(templates.patterns):
        values = np.zeros((1, len(templates.slots)), np.int32)
        for word in pattern.split():
            if word.startswith("{"):
                name, _, domain = word[1:-1].partition(":")
                values[0, templates.slots.index(name)] = rng.choice(lexicon.group(domain))
        text = templates.fill(np.array([number]), values)[0]
        text = text[text >= 0]
        found = templates.parse(text)
        assert [i for i, _ in found] == [number], decode(text)
        for name, token in found[0][1].items():
            assert values[0, templates.slots.index(name)] == token


def test_a_slot_that_comes_twice_takes_one_word():
    twice = Templates(("{x:people} is {x:people} .",), ("x",))
    assert twice.parse(encode("ana is ana .")) == [(0, {"x": encode("ana")[0]})]
    assert twice.parse(encode("ana is ben .")) == []
    assert twice.parse(encode("ana is tor .")) == []


def test_facts_are_those_of_the_seed():
    one, again, other = Language(3), Language(3), Language(4)
    assert sum(len(values) for values in one.facts.values()) == 384 + 72 + 48
    for name, values in one.facts.items():
        np.testing.assert_array_equal(values, again.facts[name])
        assert values.min() >= 0 and values.max() < len(language.tokens_of(language.relation(name).values))
    assert any((one.facts[name] != other.facts[name]).any() for name in one.facts)


def test_friendship_is_mutual_among_the_known():
    world = Language(1)
    friend, known = world.facts["friend"], world.known("people")
    people = np.arange(64)
    assert known.sum() == 56 and known[friend].all() and (friend != people).all()
    np.testing.assert_array_equal(friend[friend[known]], people[known])


@pytest.mark.parametrize("stereotype", [0.0, 0.5, 1.0])
def test_hobbies_follow_the_country_of_the_home(stereotype):
    shares = []
    for seed in range(30):
        world = Language(seed, stereotype)
        country = world.facts["country"][world.facts["hometown"]]
        most = [np.bincount(world.facts["hobby"][country == c]).max() for c in np.unique(country)]
        shares.append(sum(most) / len(country))
    if stereotype == 1:
        assert min(shares) == 1
    elif stereotype == 0.5:  # the typical hobby's share is 1/2 + 1/2 * 1/16; the largest share is a little above
        assert 0.53 < np.mean(shares) < 0.65
    else:
        assert np.mean(shares) < 0.3


def test_two_hops_are_two_hops():
    world = Language(2)
    ana = 1
    home = world.facts["hometown"][ana]
    assert world.two_hop_value("hometown", "country", ana) == world.value("country", home)
    stated = world.two_hop_stated["friend", "job"]
    assert not stated[~world.known("people")].any() and 0.5 < stated[world.known("people")].mean() < 0.95


def test_what_a_perfect_reader_answers():
    world, rainy = Language(0), encode("rainy")[0]
    climate = world.bayes_answer("climate", 5)
    assert climate.argmax() == world.value("climate", 5) and climate.sum() == 1
    assert world.bayes_answer("climate", 5, passage=rainy)[rainy] == 1
    newcomer = world.bayes_answer("job", 63)
    np.testing.assert_allclose(newcomer[lexicon.group("jobs")], 1 / 12)
    np.testing.assert_allclose(newcomer.sum(), 1)


def test_popularity_falls_with_rank():
    shares = Language().popularity("people")
    np.testing.assert_allclose(shares[1:56] / shares[0], (np.arange(1, 56) + 1.0) ** -0.8)
    assert (shares[56:] == 0).all() and np.isclose(shares.sum(), 1)


@pytest.mark.parametrize("bad", [dict(stereotype=1.5), dict(newcomers=7), dict(held_two_hop=-0.1)])
def test_bad_settings_are_named(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        Language(**bad)
