"""The questions of the retrieval benchmark, and its measures against values by hand."""

import math

import pytest
from benchmarks import retrieval

from unseen.atlas import catalogue


def test_questions_are_many_distinct_and_about_papers_that_exist():
    asked = retrieval.questions()
    assert len(asked) >= 120 and len({question for question, _ in asked}) == len(asked)
    assert not {key for _, grades in asked for key in grades} - set(catalogue.papers())
    assert all(set(grades.values()) <= {1, 2, 3} and max(grades.values()) == 3 for _, grades in asked)
    halves = retrieval.tuning(asked), retrieval.held_out(asked)
    assert len(halves[0]) + len(halves[1]) == len(asked) and not {q for q, _ in halves[0]} & {q for q, _ in halves[1]}


def test_further_questions_are_none_of_the_first():
    asked, further = retrieval.questions(), retrieval.questions(retrieval.FURTHER)
    words = [question.casefold() for question, _ in further]
    assert len(further) >= 100 and len(set(words)) == len(further)
    assert not set(words) & {question.casefold() for question, _ in asked}
    assert not {key for _, grades in further for key in grades} - set(catalogue.papers())
    assert all(set(grades.values()) <= {1, 2, 3} and max(grades.values()) == 3 for _, grades in further)
    graded = [key for _, grades in asked + further for key, grade in grades.items() if grade == 3]
    assert len(set(graded)) >= 207


def test_measures():
    grades = {"a": 3, "b": 1}
    assert retrieval.ndcg(["a", "b"], grades) == 1
    assert retrieval.ndcg(["x", "a"], grades) == pytest.approx((7 / math.log2(3)) / (7 + 1 / math.log2(3)))
    assert retrieval.ndcg([], grades) == 0
    assert retrieval.recall(["x", "a"], {"a": 3, "c": 2, "b": 1}) == 0.5
