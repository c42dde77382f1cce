"""Settings, conditions and parts; the sentences that a wrong one gets."""

import dataclasses
from typing import Literal

import pytest

from unseen import Learner, Study, UserError, claim, judge, part
from unseen.lab import engine
from unseen.lab.interval import Interval


class Sample(Study):
    """A sample."""

    width: int = 8  # units
    rate: float = 0.1  # of descent
    name: str = "x"
    flag: bool = False
    mode: Literal["a", "b"] = "a"
    limit: int | None = None
    few: int = 2

    varies = dict(decay=(0, 1.0), kind=("u", "v"))
    traced = ("decay",)
    smoke = dict(width=2, decay=(1.0,))

    def includes(self, decay, kind):
        return decay == 1.0 or kind == "u"

    def learner(self, decay, kind):
        return Learner.once(lambda key: {"x": decay})

    @part(varies=dict(size=(1, 2)), seeds="few")
    def other(self, size):
        return Learner.once(lambda key: {"y": size})

    @claim("one", says="s", supported_if="a", refuted_if="b")
    def one(self, e):
        return e


def test_a_study_is_a_frozen_dataclass_with_its_conditions_as_fields():
    study = Sample(width=3)
    assert study.decay == (0.0, 1.0) and study.kind == ("u", "v") and study.size == (1, 2)
    assert study.settings()["decay"] == [0.0, 1.0] and study.key == "test-study"
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.width = 4
    assert Sample.claims == {"one": "one"}


def test_a_claim_is_judged_on_any_evidence_by_its_id():
    judgement = judge(Interval(1.0, 0.5, 1.5, 3, 0, "t"), supported=True, refuted=False)
    assert Sample().judgement("one", judgement) is judgement
    with pytest.raises(UserError, match="did you mean 'one'"):
        Sample().judgement("onne", judgement)
    with pytest.raises(TypeError, match=r"Sample\.one must return a Judgement"):
        Sample().judgement("one", None)


def test_scales_replace_defaults_and_changes_replace_scales():
    assert Sample.at_scale("smoke").decay == (1.0,)
    assert Sample.at_scale("smoke", decay=3, width=5) == Sample(decay=(3.0,), width=5)


def test_cells_are_the_crossing_that_includes_lets_through():
    study = Sample()
    assert list(study.cells(study.parts["learner"])) == [
        {"decay": 0.0, "kind": "u"},
        {"decay": 1.0, "kind": "u"},
        {"decay": 1.0, "kind": "v"},
    ]


def test_a_part_has_its_own_number_of_seeds_but_never_more_than_the_study():
    study = Sample(seeds=5, first_seed=7)
    assert study.seeds_of(study.parts["learner"]) == [7, 8, 9, 10, 11]
    assert study.seeds_of(study.parts["other"]) == [7, 8]
    assert Sample(seeds=1).seeds_of(study.parts["other"]) == [100]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (dict(width="a"), "width takes a whole number, got 'a'."),
        (dict(width=2.5), "width takes a whole number, got 2.5."),
        (dict(width=True), "width takes a whole number, got True."),
        (dict(rate="fast"), "rate takes a number, got 'fast'."),
        (dict(rate=float("nan")), "rate takes a number, got nan."),
        (dict(flag=1), "flag takes a true or false value, got 1."),
        (dict(mode="c"), "mode takes one of a, b, got 'c'."),
        (dict(limit="z"), "limit takes a whole number, got 'z'."),
        (dict(seeds=0), "seeds takes a whole number from 1 on, got 0."),
        (dict(first_seed=-1), "first_seed takes a whole number from 0 on, got -1."),
        (dict(decay=()), "decay takes one value or more, got none."),
        (dict(kind=("u", "u")), "kind takes different values, got 'u' twice."),
        (dict(widht=3), "test-study has no setting 'widht'; did you mean 'width'?"),
        (dict(decay=("x",)), "decay takes a number, got 'x'."),
    ],
)
def test_a_wrong_setting_gets_one_sentence(wrong, sentence):
    with pytest.raises(UserError) as caught:
        Sample.at_scale(**wrong)
    assert str(caught.value) == sentence


def test_no_condition_left_to_run_is_said():
    with pytest.raises(UserError, match="no condition to run"):

        class Nothing(Study):
            """Nothing."""

            varies = dict(a=(1,))

            def includes(self, a):
                return False

            def learner(self, a): ...

        engine.plan(Nothing())


def test_a_traced_name_that_is_no_condition_is_refused():
    with pytest.raises(TypeError, match="not among its conditions"):

        class Wrong(Study):
            """Wrong."""

            varies = dict(a=(1,))
            traced = ("b",)

            def learner(self, a): ...


def test_two_judges_of_one_claim_are_refused():
    with pytest.raises(TypeError, match="two judges"):

        class Two(Study):
            """Two."""

            @claim("c")
            def first(self, e): ...

            @claim("c")
            def second(self, e): ...


def test_a_learner_says_what_is_wrong_with_its_steps():
    with pytest.raises(ValueError, match="multiple of the 3 updates"):
        Learner(init=lambda key: key, steps=10, every=3)


def test_a_name_that_the_laboratory_uses_itself_is_refused():
    with pytest.raises(TypeError, match="'scale' cannot be the name of a setting"):
        type("Clash", (Study,), {"__annotations__": {"scale": int}, "scale": 1})
    with pytest.raises(TypeError, match="'method' cannot be the name of a setting"):
        type("Clash", (Study,), {"varies": {"method": ("a",)}, "learner": lambda self, method: None})
