"The checks behind the exercises: what they say, whatever an answer is and does."
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from msspose import checks
from msspose.checks import EXERCISES, Exercise, check, judge, same

LADDER = ("a nudge", "more", "nearly all")
half = Exercise(lambda x: x / 2, ((3.0,), (np.arange(12.0),), (torch.arange(12.0).reshape(3, 4),)), LADDER)


@pytest.fixture
def exercise(monkeypatch):
    "An exercise called half, for the time of one test."
    monkeypatch.setitem(EXERCISES, "half", half)
    monkeypatch.setattr(checks, "_attempts", {})


def said(capsys, name, answer) -> str:
    "The one line that check prints."
    assert check(name, answer) is None
    out, err = capsys.readouterr()
    assert out.endswith("\n") and out.count("\n") == 1 and not err
    return out[:-1]


def stub(x): raise NotImplementedError
def endless(x): return endless(x)
def careless(x): x /= 2; return x
def leaves(x): sys.exit(3)
def stops(x): raise KeyboardInterrupt
def fails(x): raise RuntimeError("two\nlines, " + 500 * "long")
def nothing(x): x / 2
def a_generator(x): yield x / 2


class Hostile:
    "Raises whatever is done with it."
    def _no(self, *args): raise ValueError("no\nno")
    __eq__ = __repr__ = __str__ = __len__ = __bool__ = __iter__ = __array__ = __float__ = __getitem__ = _no
    __hash__ = None


class HostileError(Exception):
    def __str__(self): raise ValueError


def raises_hostile(x): raise HostileError


WRONG = [lambda x: x, lambda x: x // 2, lambda x: x * np.nan, lambda x: str(x), lambda x: None, lambda x: [x / 2], lambda x: Hostile(),
         lambda: 1, lambda x, y: x, lambda x: torch.ones(3), lambda x: {"a": 1}, lambda x: type, lambda x: np.asarray(x) / 2 + 1e-2,
         endless, careless, leaves, stops, fails, nothing, a_generator, raises_hostile, int, print,
         3, "half", [], {}, np.ones(3), torch.ones(3), Hostile(), float("nan"), object()]


@pytest.mark.parametrize("answer", WRONG, ids=range(len(WRONG)))
def test_a_wrong_answer_gets_one_line_with_a_hint_and_no_exception(answer, exercise, monkeypatch):
    printed = []
    monkeypatch.setattr("builtins.print", lambda *args, **more: printed.append(args))
    assert check("half", answer) is None
    line = printed[-1][0]
    assert line.startswith("not yet: ") and line.endswith("Hint 1 of 3: a nudge") and "\n" not in line and len(line) < 400


@pytest.mark.parametrize("answer", [stub, None, ...])
def test_not_started(answer, exercise, capsys):
    assert said(capsys, "half", answer) == "not started"


@pytest.mark.parametrize("answer", [lambda x: x / 2, lambda x: 0.5 * x, lambda x: x * (0.5 + 1e-7), half.reference])
def test_right(answer, exercise, capsys):
    assert said(capsys, "half", answer) == "right"


@pytest.mark.parametrize("answer, wanted", [
    (lambda x: x // 2, "not yet: for 3: expected 1.5, got 1."),
    (nothing, "not yet: for 3: expected 1.5, got None: nothing is returned."),
    (endless, "not yet: for 3: it calls itself without an end."),
    (stops, "not yet: for 3: interrupted, perhaps in a loop without an end."),
    (leaves, "not yet: for 3: it raises SystemExit: 3."),
    (raises_hostile, "not yet: for 3: it raises HostileError."),
    (lambda: 1, "not yet: for 3: it raises TypeError: <lambda>() takes 0 positional arguments but 1 was given."),
    (lambda x: "1.5", "not yet: for 3: expected 1.5, got '1.5' (float wanted, str given)."),
    (lambda x: Hostile(), "not yet: for 3: expected 1.5, got a Hostile (float wanted, Hostile given)."),
    (7, "not yet: this asks for a function, and got 7; pass its name without parentheses."),
    (lambda x: x / 2 if np.ndim(x) == 0 else x * np.nan, "not yet: for array (12,) of float64: 12 of 12 values are NaN."),
    (lambda x: np.asarray(x) / 2, "not yet: for tensor (3, 4) of float32: expected tensor (3, 4) of float32, "
                                  "got array (3, 4) of float32 (Tensor wanted, ndarray given)."),
    (lambda x: torch.where(x > 10, x, x / 2) if isinstance(x, torch.Tensor) else x / 2,
     "not yet: for tensor (3, 4) of float32: 1 of 12 values differ; at [2, 3] expected 5.5, got 11."),
], ids=range(13))
def test_the_first_case_that_fails_is_named(answer, wanted):
    assert judge(half, answer).startswith(wanted + " Hint 1")


@pytest.mark.parametrize("answer", [careless, lambda x: x.__itruediv__(2) if isinstance(x, torch.Tensor) else x / 2])
def test_changing_the_input_is_seen_though_the_result_is_right(answer):
    assert "the result is right, but argument 1 was changed on the way; work on a copy" in judge(half, answer)


def test_changed_containers_are_seen_too():
    first = Exercise(lambda rows: rows[0], (([1, 2, 3],),), LADDER)
    assert "argument 1 was changed" in judge(first, lambda rows: rows.pop(0)) and judge(first, lambda rows: rows[0]) == "right"
    arrays = Exercise(lambda rows: rows[0] + 1, (([np.ones(3), np.ones(2)],), ([torch.ones(3)],)), LADDER)
    assert "argument 1 was changed" in judge(arrays, lambda rows: rows[0].__iadd__(1)) and judge(arrays, arrays.reference) == "right"
    tensors = Exercise(lambda table: table["a"] + 1, (({"a": torch.ones(3)},),), LADDER)
    assert "argument 1 was changed" in judge(tensors, lambda table: table["a"].add_(1))
    by_name = Exercise(lambda table: table["a"], (({"a": 1, "b": 2},),), LADDER)
    assert "argument 1 was changed" in judge(by_name, lambda table: table.pop("a"))


def test_an_answer_cannot_spoil_the_cases(exercise, capsys):
    for _ in range(2): assert said(capsys, "half", careless).startswith("not yet")
    assert said(capsys, "half", lambda x: x / 2) == "right"
    assert half.cases[1][0][-1] == 11 and half.cases[2][0][-1, -1] == 11


def test_the_ladder_climbs_stops_at_the_top_and_begins_again_after_right(exercise, capsys):
    assert said(capsys, "half", lambda x: x).endswith("Hint 1 of 3: a nudge")
    assert said(capsys, "half", stub) == "not started"                        # a stub neither climbs nor resets
    hints = [said(capsys, "half", lambda x: x).split("Hint ")[1] for _ in range(4)]
    assert hints == ["2 of 3: more", *["3 of 3: nearly all"] * 3]
    assert said(capsys, "half", lambda x: x / 2) == "right"
    assert said(capsys, "half", lambda x: x).endswith(LADDER[0])


@pytest.mark.parametrize("name, wanted", [
    ("hlaf", "no exercise 'hlaf'; the nearest is 'half'"), ("HALF ", "nearest is"), ("", "nearest is"), (3, "no exercise 3"),
    (None, "no exercise None"), (["half"], "no exercise ['half']"), (Hostile(), "no exercise a Hostile")], ids=range(7))
def test_an_unknown_name_says_the_nearest(name, wanted, exercise, capsys):
    assert wanted in said(capsys, name, stub)


def test_a_value_can_be_asked_for(monkeypatch, capsys):
    monkeypatch.setitem(EXERCISES, "guess", Exercise(0.25, (), LADDER))
    monkeypatch.setattr(checks, "_attempts", {})
    assert [said(capsys, "guess", a) for a in (None, ..., 0.25, 1 / 4, np.float32(0.25))] == ["not started"] * 2 + ["right"] * 3
    for wrong in (0.26, "0.25", True, float("nan"), [0.25], (lambda: 0.25), Hostile()):
        assert said(capsys, "guess", wrong).startswith("not yet")


def test_a_function_is_no_value_and_long_answers_are_cut():
    guess = Exercise("a word", (), LADDER)
    assert judge(guess, len).startswith("not yet: this asks for a value, and got a function")
    assert judge(guess, 1000 * "word").startswith("not yet: 'wordword") and len(judge(guess, 1000 * "word")) < 120


def test_an_exercise_without_hints_or_cases_is_refused():
    with pytest.raises(ValueError, match="hints"): Exercise(len, (("a",),), ())
    with pytest.raises(ValueError, match="hints"): Exercise(len, (("a",),), "one text")
    with pytest.raises(ValueError, match="cases"): Exercise(len, (), LADDER)


def test_own_sameness_and_lazy_cases():
    made = []
    close = Exercise(lambda x: x, lambda: made.append(1) or [(1.0,)], LADDER, same=lambda got, expected: abs(got - expected) < 0.5)
    assert not made and judge(close, lambda x: x + 0.4) == "right" and judge(close, lambda x: x + 0.6).startswith("not yet") and made
    assert judge(Exercise(lambda x: x, ((1,),), LADDER, same=lambda *a: int('x')), lambda x: x).startswith("not yet: it cannot be compared")


# --- same -------------------------------------------------------------------------------------------------------------------------

values = st.recursive(st.none() | st.booleans() | st.integers(-99, 99) | st.floats(allow_infinity=True) | st.text(max_size=3)
                      | hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=3), elements=st.floats(-9, 9, width=32)),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3), max_leaves=6)


@given(values)
def test_everything_is_the_same_as_itself(value):
    assert same(value, value)


@given(values, values)
def test_same_answers_yes_or_no_about_anything(a, b):
    assert isinstance(same(a, b), bool)


@pytest.mark.parametrize("got, expected", [
    (1.0, 1.001), (1, True), ([1], [1, 1]), ({"a": 1}, {"b": 1}), ({"a": 1}, {"a": 2}),
    (1.0, float("nan")), ("a", "b"), (None, 0.0), ([1.0], 1.0),
    (torch.ones(2), np.ones(2)), (torch.ones(2), torch.ones(3)), (torch.ones(1, 2), torch.ones(2)), ([torch.ones(1)], [torch.zeros(1)]),
    (torch.tensor([1, 0]), torch.tensor([True, False]))])
def test_different(got, expected): assert not same(got, expected)


@pytest.mark.parametrize("got, expected", [
    (1, 1.0), ((1, 2), [1, 2]), (torch.tensor(2.0), 2.0), (np.float32(0.1), 0.1), (float("inf"), float("inf")), (None, None),
    ({"a": [1]}, {"a": (1,)}), (torch.ones(2, dtype=torch.bfloat16), torch.ones(2)), (torch.ones(2, requires_grad=True), torch.ones(2)),
    (torch.tensor([float("nan")]), torch.tensor([float("nan")]))])
def test_not_different(got, expected): assert same(got, expected)


# --- the exercises of the chapters ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", EXERCISES)
def test_the_reference_is_right_and_what_is_plainly_wrong_is_not(name):
    exercise = EXERCISES[name]
    assert len(exercise.hints) >= 2
    assert judge(exercise, exercise.reference) == "right"
    for wrong in (lambda *args: None, lambda *args: args[0] if args else 0, lambda *args: float("nan"), 1e9, "no"):
        assert judge(exercise, wrong).startswith("not yet")
    assert judge(exercise, None) == "not started"


@pytest.mark.parametrize("name", [name for name, exercise in EXERCISES.items() if callable(exercise.reference)])
def test_a_stub_is_not_started(name):
    def raises(*args): raise NotImplementedError
    assert judge(EXERCISES[name], raises) == "not started"


def _flip(joints, visible, width, skeleton, rename=True, last=1, marks=True, copy=True):
    order = list(skeleton.flip) if rename else list(range(skeleton.n_joints))
    joints = joints[order] if copy else joints
    joints[:, 0] = width - last - joints[:, 0]
    return joints, visible[order] if marks else visible


@pytest.mark.parametrize("change", [dict(rename=False), dict(last=0), dict(marks=False), dict(copy=False, rename=False)],
                         ids=lambda change: "-".join(change))
def test_mirror_pose_sees_the_classical_mistakes(change):
    assert judge(EXERCISES["mirror_pose"], lambda *args: _flip(*args)) == "right"
    assert judge(EXERCISES["mirror_pose"], lambda *args: _flip(*args, **change)).startswith("not yet")


def test_mirror_pose_sees_the_table_of_one_data_set_typed_in():
    from msspose.skeleton import MPII
    assert judge(EXERCISES["mirror_pose"], lambda j, v, w, s: _flip(j, v, w, MPII)).startswith("not yet: for array (14, 2)")


def test_the_paired_interval_sees_the_usual_mistakes():
    "Percentages of people instead of sums; sets that are not paired; ends of another share; a - b instead of b - a."
    exercise = EXERCISES["paired_interval"]
    def ends(difference, share=0.025): return tuple(np.quantile(difference, (share, 1 - share)))
    def right(a, b, of, times): return ends(100 * (times @ b - times @ a) / (times @ of))
    wrong = [lambda a, b, of, times: ends(100 * (times @ (b / of) - times @ (a / of)) / times.sum(1)),
             lambda a, b, of, times: ends(100 * (times @ b) / (times @ of) - 100 * np.roll(times @ a, 1) / np.roll(times @ of, 1)),
             lambda a, b, of, times: ends(100 * (times @ b - times @ a) / (times @ of), 0.05),
             lambda a, b, of, times: ends((times @ b - times @ a) / (times @ of)),
             lambda a, b, of, times: ends(100 * (times @ a - times @ b) / (times @ of)),
             lambda a, b, of, times: ends(100 * (times @ b - times @ a) / of.sum())]
    assert judge(exercise, right) == "right"
    for answer in wrong: assert judge(exercise, answer).startswith("not yet")


@pytest.mark.parametrize("guess, verdict", [(86.466, "right"), (86, "right"), (87, "right"), (95.4, "not yet"), (91.1, "not yet"),
                                            (68, "not yet"), (0.865, "not yet")])
def test_gaussian_errors_are_not_mistaken_for_one_coordinate(guess, verdict):
    assert judge(EXERCISES["gaussian_pck"], guess).startswith(verdict)
