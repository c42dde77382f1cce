"""Documents: what they say is so, both sides differ, their probability is right."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unseen.lab import UserError
from unseen.worlds.language import Language, LanguageCorpus, ShuffledWindows, decode, encode, language
from unseen.worlds.language.corpus import SHARES
from unseen.worlds.language.lexicon import BOS, EOS, group

CORPUS = LanguageCorpus(Language(5))
PARSERS = {
    "facts": language.statements,
    "dialect": language.statements,
    "two_hop": language.two_hop_statements,
    "questions": language.questions,
    "passages": language.passages,
    "tasks": language.tasks,
    "role_free": language.role_free,
}


def only(kind, side="train", tokens=3_000, seed=0):
    found = LanguageCorpus(CORPUS.language, {kind: 1.0}).documents(jax.random.key(seed), tokens, side)
    return [row[row >= 0] for row in found.tokens], found.log_prob


def read(kind, text):
    """The only reading of a document: template and slots."""
    text = text[1:-1] if kind in ("facts", "dialect", "two_hop") else text
    (found,) = PARSERS[kind]().parse(text)
    return found


@pytest.mark.parametrize("kind", SHARES)
@pytest.mark.parametrize("side", ["train", "validation"])
def test_every_document_reads_back_to_one_latent(kind, side):
    texts, log_prob = only(kind, side)
    seen = {}
    for text, p in zip(texts, log_prob, strict=True):
        assert text[0] == BOS and text[-1] == EOS
        number, slots = read(kind, text)
        values = np.zeros((1, len(PARSERS[kind]().slots)), np.int32)
        for name, token in slots.items():
            values[0, PARSERS[kind]().slots.index(name)] = token
        again = PARSERS[kind]().fill(np.array([number]), values)[0]
        assert decode(again[again >= 0]) in decode(text)
        assert seen.setdefault(decode(text), p) == pytest.approx(p)  # one text, one probability
    assert len(seen) > 20


def entity(token):
    return next((d, int(np.nonzero(group(d) == token)[0][0])) for d in language.DOMAINS if token in group(d))


@pytest.mark.parametrize("kind, forms", [("facts", range(10)), ("dialect", range(10, 13))])
def test_sentences_state_facts(kind, forms):
    for text in only(kind)[0]:
        number, slots = read(kind, text)
        relation, form = divmod(number, len(language.STATEMENTS))
        domain, who = entity(slots["e"])
        assert slots["v"] == CORPUS.language.value(language.NAMES[relation], who)
        assert form in forms and form not in language.HELD_STATEMENTS
        assert CORPUS.language.known(domain)[who]


def test_two_hop_sentences_state_what_follows():
    for text in only("two_hop")[0]:
        number, slots = read("two_hop", text)
        pair = language.TWO_HOPS[number // len(language.TWO_HOP)]
        _, who = entity(slots["e"])
        assert CORPUS.language.two_hop_stated[pair][who]
        assert slots["v"] == CORPUS.language.two_hop_value(*pair, who)


def test_answers_are_right():
    forms = []
    for text in only("questions", tokens=20_000)[0]:
        number, slots = read("questions", text)
        relation, form = divmod(number, 6)
        _, who = entity(slots["e"])
        true = CORPUS.language.value(language.NAMES[relation], who)
        forms.append(form)
        if form < 4:
            assert slots["v"] == true
        elif form == 4:
            assert decode([slots["a"]]) == ("yes" if slots["v"] == true else "no")
        else:
            offered = [slots[f"o{i}"] for i in range(1, 5)]
            assert offered[int(decode([slots["a"]])) - 1] == true and len(set(offered)) == 4
    shares = np.bincount(forms, minlength=6) / len(forms)
    assert shares[language.HELD_OPEN] == 0
    np.testing.assert_allclose(shares[[4, 5]], 0.25, atol=0.04)


def test_passages_win_over_memory():
    agrees = {True: [], False: []}
    for text in only("passages", tokens=20_000)[0]:
        number, slots = read("passages", text)
        relation = language.NAMES[number // (len(language.FORWARD) * len(language.OPEN))]
        domain, who = entity(slots["e"])
        new = not CORPUS.language.known(domain)[who]
        agrees[new].append(slots["v"] == CORPUS.language.value(relation, who))
        answer = CORPUS.language.bayes_answer(relation, who, passage=slots["v"])
        assert answer[text[-2]] == 1
    assert abs(np.mean(agrees[False]) - 0.5) < 0.05
    assert len(agrees[True]) > 50 and np.mean(agrees[True]) < 0.3


def test_tasks_are_done():
    for text in only("tasks")[0]:
        words = decode(text[1:-1]).split()
        given, answer = " ".join(words[1:]).split(" <bot> ")
        (number, slots) = read("tasks", text)
        items = [decode([slots[f"x{i}"]]) for i in range(len(answer.split()))]
        assert len(set(items)) == len(items) and all(item in given.split() for item in items)
        done = (items, items[::-1], sorted(items))[number // (3 * 3 * 4)]
        assert answer.split() == done
        assert number % 4 != language.HELD_WORDING


def test_every_word_comes_up_without_a_role():
    texts, _ = only("role_free", tokens=60_000)
    assert set(np.concatenate(texts)) == set(range(16, 512)) | {BOS, EOS, *encode("<sep>")}


@pytest.mark.parametrize("kind", SHARES)
def test_the_sides_share_no_latent(kind):
    train, validation = ({decode(t) for t in only(kind, side, 20_000)[0]} for side in ("train", "validation"))
    assert train and validation
    assert not train & validation


@pytest.mark.parametrize("kind", ["facts", "dialect", "two_hop"])
def test_probabilities_sum_to_one(kind):
    """So many documents that nearly all possible ones are there: their probabilities must add up to nearly 1."""
    texts, log_prob = only(kind, tokens=500_000)
    probability = {text.tobytes(): np.exp(p) for text, p in zip(texts, log_prob, strict=True)}
    assert 0.999 < sum(probability.values()) < 1 + 1e-6


def test_probabilities_of_questions_sum_to_one():
    texts, log_prob = only("questions", tokens=500_000)
    options, (no,) = max(map(len, texts)), encode("no")
    probability = {
        t.tobytes(): np.exp(p) for t, p in zip(texts, log_prob, strict=True) if len(t) < options and t[-2] != no
    }
    # A half is open, an eighth yes; there are too many wrong values and sets of options to see all of them.
    np.testing.assert_allclose(sum(probability.values()), 0.625, rtol=0.002)


@pytest.mark.parametrize("kind", SHARES)
def test_probability_is_frequency(kind):
    """The mean of -log p is the entropy; with n documents the most frequent ones come up n p times."""
    texts, log_prob = only(kind, tokens=200_000, seed=3)
    count, probability = {}, {}
    for text, p in zip(map(decode, texts), log_prob, strict=True):
        count[text] = count.get(text, 0) + 1
        probability[text] = np.exp(p)
    top = sorted(count, key=count.get, reverse=True)[:200]
    expected = np.array([probability[t] for t in top]) * len(texts)
    if expected.min() > 20:
        observed = np.array([count[t] for t in top])
        z = (observed - expected) / np.sqrt(expected)
        assert np.abs(z).max() < 6
    else:  # lists hardly ever come up twice: as many pairs as the probabilities say
        pairs = sum(n * (n - 1) / 2 for n in count.values())
        collision = np.mean([np.exp(p) for p in log_prob]) * len(texts) * (len(texts) - 1) / 2
        assert abs(pairs - collision) < 6 * np.sqrt(collision + 1)


def test_shares_are_shares_of_tokens():
    found = CORPUS.documents(jax.random.key(1), 100_000)
    total = sum(SHARES.values())
    for i, kind in enumerate(found.kinds):
        mine = found.length[found.kind == i].sum() / found.length.sum()
        np.testing.assert_allclose(mine, SHARES[kind] / total, atol=0.001)
    assert 0.9 < found.floor() < 1.4 and found.floor("role_free") > found.floor("two_hop")


def test_windows_are_the_stream():
    key = jax.random.key(2)
    windows = CORPUS.windows(key, 50, 33)
    assert windows.shape == (50, 33)
    np.testing.assert_array_equal(windows.ravel(), CORPUS.documents(key, 50 * 33).stream[: 50 * 33])
    np.testing.assert_array_equal(windows, LanguageCorpus(Language(5)).windows(key, 50, 33))
    assert (windows != CORPUS.windows(jax.random.key(3), 50, 33)).any()


def test_shuffling_keeps_the_tokens_of_each_window():
    text = ShuffledWindows(CORPUS.windows(jax.random.key(0), 40, 20), jax.random.key(1))
    rows = jnp.arange(40)
    np.testing.assert_array_equal(text.read(rows), text.plain)
    mixed = text.read(rows, 1.0)
    np.testing.assert_array_equal(np.sort(mixed, 1), np.sort(text.plain, 1))
    assert (mixed != text.plain).mean() > 0.5
    half = (np.asarray(text.read(rows, 0.5)) == np.asarray(mixed)).all(1).sum()
    assert half == 20


def test_no_two_sentences_of_different_relations_read_alike():
    for (i, a), (j, b) in itertools.combinations(enumerate(language.statements().patterns), 2):
        assert a != b, (i, j)


@pytest.mark.parametrize("bad", [dict(shares={"poems": 1.0}), dict(shares={}), dict(validation=0.0)])
def test_bad_settings_are_named(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        LanguageCorpus(**bad)
