"""From replies to choice probabilities."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp

from unseen.worlds.minds import Question, Reply


class Reading(NamedTuple):
    """Choice probabilities and what they rest on.

    Attributes:
        probabilities: of each option, in the asker's own order.
        unparsed: share of replies that name no option; an outcome of its own, never dropped.
    """

    probabilities: Float[np.ndarray, " options"]
    unparsed: float


def orders(options: int) -> list[tuple[int, ...]]:
    """The orders in which to list options: all of them up to four, beyond that every rotation."""
    if options <= 4:
        return list(itertools.permutations(range(options)))
    return [tuple((i + shift) % options for i in range(options)) for shift in range(options)]


def read_choices(
    ask: Callable[[list[Question]], list[Reply]],
    word: Callable[[tuple[int, ...]], Question],
    options: int,
    *,
    content_free: Callable[[tuple[int, ...]], Question] | None = None,
) -> Reading:
    """Ask one question in every order of its options and average what comes back.

    With log-probabilities the options' shares are taken within each order and averaged over orders on the log scale:
    a habit that adds to the log-probability of a position, whatever stands there, then cancels exactly. Free answers
    count as 0 or 1 and average plainly.

    Args:
        ask: questions -> replies, such as a subject's `answer`.
        word: order -> the question with option `order[i]` listed in place i.
        options: number of options.
        content_free: order -> the same question without content; its log-probabilities are subtracted (Zhao et al.,
            2021, Calibrate Before Use).
    """
    arranged = orders(options)
    replies = ask([word(order) for order in arranged])
    unparsed = float(np.mean([reply.choice < 0 for reply in replies]))
    if all(reply.logprobs is not None for reply in replies):
        scores = _by_option(arranged, replies)
        if content_free is not None:
            scores = scores - _by_option(arranged, ask([content_free(order) for order in arranged]))
        mean = log_softmax(scores, axis=1).mean(axis=0)
        return Reading(np.exp(mean - logsumexp(mean)), unparsed)
    counts = np.zeros(options)
    for order, reply in zip(arranged, replies, strict=True):
        if reply.choice >= 0:
            counts[order[reply.choice]] += 1
    return Reading(counts / max(counts.sum(), 1), unparsed)


def _by_option(arranged: Sequence[tuple[int, ...]], replies: Sequence[Reply]) -> Float[np.ndarray, "orders options"]:
    scores = np.zeros((len(arranged), len(arranged[0])))
    for row, (order, reply) in enumerate(zip(arranged, replies, strict=True)):
        if reply.logprobs is None:
            raise ValueError("a reply without log-probabilities cannot be corrected by a content-free prompt.")
        scores[row, list(order)] = np.maximum(reply.logprobs, -100.0)  # an option of probability 0 stays a number
    return scores


def expected_rating(
    scores: Float[np.ndarray, " points"], reversed_scores: Float[np.ndarray, " points"] | None = None
) -> float:
    """Expected value on a scale 1..points from the log-probabilities of its tokens; with the scale also shown reversed
    (there token i means points + 1 - i), the mean of both."""
    value = float(np.exp(log_softmax(scores)) @ np.arange(1, len(scores) + 1))
    if reversed_scores is None:
        return value
    return (value + len(scores) + 1 - expected_rating(reversed_scores)) / 2
