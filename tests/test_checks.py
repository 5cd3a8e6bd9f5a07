"The checks behind the exercises: what they say, whatever an answer is and does; what they draw; what they keep."
import _thread
import builtins
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.pool import ThreadPool

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from remembered import as_remembered
from test_notebooks import CHAPTERS, PATHS, checks_in, code_cells, load, name_of, solutions_in, texts

from msspose import checks
from msspose.checks import EXERCISES, Exercise, Verdict, check, judge, picture, progress, progress_file, same
from msspose.skeleton import MPII

LADDER = ("a nudge", "more", "nearly all")
half = Exercise(lambda x: x / 2, ((3.0,), (np.arange(12.0),), (torch.arange(12.0).reshape(3, 4),)), LADDER)


@pytest.fixture
def exercise(monkeypatch, tmp_path):
    "An exercise called half, and a file of progress, for the time of one test."
    monkeypatch.setitem(EXERCISES, "half", half)
    monkeypatch.setattr(checks, "_attempts", {})
    monkeypatch.setattr(checks, "_unkept", set())
    monkeypatch.setenv("MSSPOSE_PROGRESS", str(tmp_path / "kept" / "progress.txt"))


def said(capsys, name, answer) -> str:
    "What check prints."
    assert check(name, answer) is None
    out, err = capsys.readouterr()
    assert out.endswith("\n") and not err
    return out[:-1]


def stub(x): raise NotImplementedError
def endless(x): return endless(x)
def careless(x): x /= 2; return x
def leaves(x): sys.exit(3)
def stops(x): raise KeyboardInterrupt
def fails(x): raise RuntimeError("two\nlines, " + 500 * "long")
def nothing(x): x / 2
def a_generator(x): yield x / 2


def forever(x):
    while True: x = x + 1


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
def test_a_wrong_answer_gets_two_lines_with_a_hint_and_no_exception(answer, exercise, monkeypatch):
    printed = []
    monkeypatch.setattr("builtins.print", lambda *args, **more: printed.append(args))
    assert check("half", answer) is None
    fault, hint = str(printed[-1][0]).split("\n")
    assert fault.startswith("not yet: ") and len(fault) < 300 and hint == "hint 1 of 3: a nudge (run this cell again for hint 2)"
    assert not progress_file().exists()


@pytest.mark.parametrize("answer", [stub, None, ...])
def test_not_started(answer, exercise, capsys):
    assert said(capsys, "half", answer) == "not started"


@pytest.mark.parametrize("answer", [lambda x: x / 2, lambda x: 0.5 * x, lambda x: x * (0.5 + 1e-7), half.reference])
def test_right(answer, exercise, capsys):
    assert said(capsys, "half", answer) == "right"


@pytest.mark.parametrize("answer, wanted", [
    (lambda x: x // 2, "for 3: expected 1.5, got 1"),
    (nothing, "for 3: expected 1.5, got None: nothing is returned"),
    (endless, "for 3: it calls itself without an end"),
    (stops, "for 3: interrupted, perhaps in a loop without an end"),
    (leaves, "for 3: it raises SystemExit: 3"),
    (raises_hostile, "for 3: it raises HostileError"),
    (lambda: 1, "for 3: it raises TypeError: <lambda>() takes 0 positional arguments but 1 was given"),
    (lambda x: "1.5", "for 3: expected 1.5, got '1.5' (float wanted, str given)"),
    (lambda x: Hostile(), "for 3: expected 1.5, got a Hostile (float wanted, Hostile given)"),
    (7, "this asks for a function, and got 7; pass its name without parentheses"),
    (lambda x: x / 2 if np.ndim(x) == 0 else x * np.nan, "for array (12,) of float64: 12 of 12 values are NaN"),
    (lambda x: np.asarray(x) / 2, "for tensor (3, 4) of float32: expected tensor (3, 4) of float32, "
                                  "got array (3, 4) of float32 (Tensor wanted, ndarray given)"),
    (lambda x: torch.where(x > 10, x, x / 2) if isinstance(x, torch.Tensor) else x / 2,
     "for tensor (3, 4) of float32: 1 of 12 values differ, most at [2, 3]: expected 5.5, got 11"),
], ids=range(13))
def test_the_first_case_that_fails_is_named(answer, wanted):
    assert judge(half, answer).fault == wanted


@pytest.mark.parametrize("answer", [careless, lambda x: x.__itruediv__(2) if isinstance(x, torch.Tensor) else x / 2])
def test_changing_the_input_is_seen_though_the_result_is_right(answer):
    assert "the result is right, but argument 1 was changed on the way; work on a copy" in judge(half, answer).fault


def test_changed_containers_are_seen_too():
    first = Exercise(lambda rows: rows[0], (([1, 2, 3],),), LADDER)
    changed, right = "argument 1 was changed", Verdict("right")
    assert changed in judge(first, lambda rows: rows.pop(0)).fault and judge(first, lambda rows: rows[0]) == right
    arrays = Exercise(lambda rows: rows[0] + 1, (([np.ones(3), np.ones(2)],), ([torch.ones(3)],)), LADDER)
    assert changed in judge(arrays, lambda rows: rows[0].__iadd__(1)).fault and judge(arrays, arrays.reference) == right
    tensors = Exercise(lambda table: table["a"] + 1, (({"a": torch.ones(3)},),), LADDER)
    assert changed in judge(tensors, lambda table: table["a"].add_(1)).fault
    by_name = Exercise(lambda table: table["a"], (({"a": 1, "b": 2},),), LADDER)
    assert changed in judge(by_name, lambda table: table.pop("a")).fault


def test_an_answer_cannot_spoil_the_cases(exercise, capsys):
    for _ in range(2): assert said(capsys, "half", careless).startswith("not yet")
    assert said(capsys, "half", lambda x: x / 2) == "right"
    assert half.cases[1][0][-1] == 11 and half.cases[2][0][-1, -1] == 11


def test_the_ladder_climbs_stops_at_the_top_and_begins_again_after_right(exercise, capsys):
    first = "hint 1 of 3: a nudge (run this cell again for hint 2)"
    assert said(capsys, "half", lambda x: x).endswith(first)
    assert said(capsys, "half", stub) == "not started"                        # a stub neither climbs nor resets
    hints = [said(capsys, "half", lambda x: x).split("\n")[1] for _ in range(4)]
    last = "hint 3 of 3: nearly all (the last one; below stands the solution)"
    assert hints == ["hint 2 of 3: more (run this cell again for hint 3)", last, last, last]
    assert said(capsys, "half", lambda x: x / 2) == "right"
    assert said(capsys, "half", lambda x: x).endswith(first)


@pytest.mark.parametrize("name, wanted", [
    ("hlaf", "no exercise 'hlaf'; the nearest is 'half'"), ("HALF ", "nearest is"), ("", "nearest is"), (3, "no exercise 3"),
    (None, "no exercise None"), (["half"], "no exercise ['half']"), (Hostile(), "no exercise a Hostile")], ids=range(7))
def test_an_unknown_name_says_the_nearest(name, wanted, exercise, capsys):
    assert wanted in said(capsys, name, stub)


def test_a_value_can_be_asked_for(exercise, monkeypatch, capsys):
    monkeypatch.setitem(EXERCISES, "guess", Exercise(0.25, (), LADDER))
    assert [said(capsys, "guess", a) for a in (None, ..., 0.25, 1 / 4, np.float32(0.25))] == ["not started"] * 2 + ["right"] * 3
    for wrong in (0.26, "0.25", True, float("nan"), [0.25], (lambda: 0.25), Hostile()):
        assert said(capsys, "guess", wrong).startswith("not yet")


def test_a_function_is_no_value_and_long_answers_are_cut():
    guess = Exercise("a word", (), LADDER)
    assert judge(guess, len).fault == "this asks for a value, and got a function"
    assert judge(guess, 1000 * "word").fault.startswith("'wordword") and len(judge(guess, 1000 * "word").fault) < 120


def test_an_exercise_without_hints_or_cases_is_refused():
    with pytest.raises(ValueError, match="hints"): Exercise(len, (("a",),), ())
    with pytest.raises(ValueError, match="hints"): Exercise(len, (("a",),), "one text")
    with pytest.raises(ValueError, match="cases"): Exercise(len, (), LADDER)


def test_own_sameness_and_lazy_cases():
    made = []
    close = Exercise(lambda x: x, lambda: made.append(1) or [(1.0,)], LADDER, same=lambda got, expected: abs(got - expected) < 0.5)
    assert not made and judge(close, lambda x: x + 0.4).status == "right" and judge(close, lambda x: x + 0.6).status == "not yet" and made
    fights = Exercise(lambda x: x, ((1,),), LADDER, same=lambda *a: int("x"))
    assert judge(fights, lambda x: x).fault.startswith("it cannot be compared")


# --- answers that do not come back ------------------------------------------------------------------------------------------------

def test_a_loop_without_an_end_is_stopped_and_its_case_is_named():
    before = threading.active_count()
    verdict = judge(half, lambda x: x / 2 if np.ndim(x) == 0 else forever(x), seconds=0.3)
    assert verdict.status == "not yet" and verdict.hint.startswith("hint 1 of 3")
    assert verdict.fault == "for array (12,) of float64: no answer after 0.3 seconds, perhaps a loop without an end"
    assert threading.active_count() == before, "its thread goes on"


def test_an_answer_that_cannot_be_stopped_is_left_behind_and_that_is_said():
    enough = threading.Event()

    def stubborn(x):
        while not enough.is_set():
            try: time.sleep(0.01)
            except BaseException: pass

    try: assert judge(half, stubborn, seconds=0.2).fault.endswith("goes on in the background: restart the kernel")
    finally: enough.set()


@pytest.fixture
def interruptible():
    "As in a kernel; who runs the tests in the background of a shell has started them with Ctrl-C ignored."
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_stop_button_ends_the_waiting(interruptible):
    threading.Timer(0.3, _thread.interrupt_main).start()
    started = time.perf_counter()
    assert judge(half, forever).fault == "for 3: interrupted, perhaps in a loop without an end"
    assert time.perf_counter() - started < 15                                 # it did not wait for the 20 seconds


def test_where_no_thread_can_be_started_the_answer_runs_all_the_same(monkeypatch):
    def refuse(self): raise RuntimeError("can't start new thread")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert judge(half, half.reference).status == "right" and judge(half, lambda x: x).status == "not yet"


# --- pictures ---------------------------------------------------------------------------------------------------------------------

def shown(figure): return [image.get_array() for ax in figure.axes for image in ax.images]


def test_maps_are_drawn_as_wanted_as_they_are_and_their_difference():
    stack = Exercise(lambda x: 2 * x, ((torch.arange(40.0).reshape(2, 4, 5),),), LADDER)
    def broken(x): y = 2 * x; y[1, 2, 3] = -7; return y
    figure = picture(stack, judge(stack, broken))
    wanted, yours, difference = shown(figure)
    assert figure.get_suptitle() == "map [1]: 1 of 20 values differ, by up to 73"
    assert (wanted == 2 * torch.arange(20.0, 40).reshape(4, 5).numpy()).all() and yours[2, 3] == -7
    assert difference[2, 3] == -73 and np.count_nonzero(difference) == 1
    assert [ax.get_title() for ax in figure.axes] == ["wanted", "yours", "yours - wanted"]


def test_masks_nan_and_rows_are_drawn_too():
    mask = Exercise(lambda x: x > 3, ((np.arange(12.0).reshape(3, 4),),), LADDER)
    assert shown(picture(mask, judge(mask, lambda x: x >= 3)))[2].sum() == 1
    row = Exercise(lambda x: x + 1, ((torch.zeros(30),),), LADDER)
    assert shown(picture(row, judge(row, lambda x: x * np.nan)))[1].shape == (1, 30)
    pair = Exercise(lambda x: (x, x + 1), ((torch.zeros(4, 4),),), LADDER)
    assert (shown(picture(pair, judge(pair, lambda x: (x, x))))[0] == 1).all()   # the second part is the one that is wrong


@pytest.mark.parametrize("answer", [lambda x: x // 2, endless, forever, nothing, lambda x: Hostile(), 3, lambda x: [x]], ids=range(7))
def test_what_cannot_be_drawn_is_not(answer):
    assert picture(half, judge(half, answer, seconds=0.2)) is None


def test_check_shows_the_picture_once_and_leaves_no_figure_open(exercise, capsys, monkeypatch):
    figures = []
    monkeypatch.setattr(builtins, "display", figures.append, raising=False)
    monkeypatch.setitem(EXERCISES, "half", Exercise(lambda x: x / 2, ((torch.ones(4, 4),),), LADDER))
    for answer in (stub, lambda x: x / 2, lambda x: torch.ones(2), fails): said(capsys, "half", answer)
    assert not figures
    said(capsys, "half", lambda x: x)
    assert len(figures) == 1 and not plt.get_fignums()
    def clumsy(*miss): plt.figure(); raise ValueError
    monkeypatch.setitem(EXERCISES, "half", Exercise(lambda x: x / 2, ((torch.ones(4, 4),),), LADDER, draw=clumsy))
    assert said(capsys, "half", lambda x: x).startswith("not yet") and len(figures) == 1 and not plt.get_fignums()


# --- progress ---------------------------------------------------------------------------------------------------------------------

def shows_progress(capsys) -> str:
    assert progress() is None
    return capsys.readouterr().out


def test_what_is_right_is_kept_once_and_shown_by_chapter(exercise, capsys):
    everything = len(EXERCISES)
    assert f"together         0 of {everything}\n" in shows_progress(capsys)
    for _ in range(3): assert said(capsys, "half", half.reference) == "right"
    said(capsys, "flic_to_mpii", 10)
    said(capsys, "mirror_pose", lambda *given: None)
    assert progress_file().read_text() == "solved half\nsolved flic_to_mpii\n"
    text = shows_progress(capsys)
    assert "00 skeleton      1 of 2   open: mirror_pose\n" in text and "elsewhere        1 of 1   all solved\n" in text
    assert f"together         2 of {everything}\n" in text and "damaged" not in text
    said(capsys, "half", lambda x: x)                                         # what was solved once stays solved
    assert shows_progress(capsys) == text


@pytest.mark.parametrize("content, damaged", [
    (b"solved half\nsolv", "1 line"), (b"solved half", None), (b"\xff\xfe\x00\nsolved half\n\x00\x00", "2 lines"),
    (b"solved half\r\n\r\n", None), (b'{"solved": "half"}\nsolved half\nsolved half half', "2 lines")], ids=range(5))
def test_a_damaged_file_is_read_as_far_as_it_goes_and_added_to(content, damaged, exercise, capsys):
    progress_file().parent.mkdir()
    progress_file().write_bytes(content)
    text = shows_progress(capsys)
    assert "elsewhere        1 of 1" in text
    assert (f"{damaged} of the file of progress" in text) if damaged else "damaged" not in text
    assert said(capsys, "flic_to_mpii", 10) == "right"
    assert progress_file().read_bytes().startswith(content)                    # nothing that stood there is lost
    assert "00 skeleton      1 of 2" in shows_progress(capsys)


def test_exercises_of_another_version_are_counted(exercise, capsys):
    progress_file().parent.mkdir()
    progress_file().write_text("solved half\nsolved gone\n")
    assert "and 1 that this version of msspose does not have" in shows_progress(capsys)


def test_where_nothing_can_be_written_it_is_said_and_the_session_remembers(exercise, capsys, monkeypatch, tmp_path):
    (tmp_path / "a_file").write_text("")
    for place in (tmp_path, tmp_path / "a_file" / "progress.txt"):
        monkeypatch.setattr(checks, "_unkept", set())
        monkeypatch.setenv("MSSPOSE_PROGRESS", str(place))
        verdict, trouble = said(capsys, "half", half.reference).split("\n")
        assert verdict == "right" and "MSSPOSE_PROGRESS" in trouble
        assert trouble.startswith("(solved, but that could not be kept: it raises ")
        text = shows_progress(capsys)
        assert "elsewhere        1 of 1" in text and "cannot be read" in text


def test_many_at_once_lose_nothing(exercise):
    names = [f"exercise_{k}" for k in range(60)]
    with ThreadPool(8) as pool: assert set(pool.map(checks._keep, names)) == {""}
    assert sorted(progress_file().read_text().split("\n")) == sorted(["", *(f"solved {name}" for name in names)])


def test_the_file_is_in_the_home_folder_unless_it_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("MSSPOSE_PROGRESS")
    for name in ("HOME", "USERPROFILE"): monkeypatch.setenv(name, str(tmp_path))
    assert progress_file() == tmp_path / ".cache" / "msspose" / "progress.txt"
    monkeypatch.setenv("MSSPOSE_PROGRESS", "~/mine.txt")
    assert progress_file() == tmp_path / "mine.txt"


def test_tests_and_stored_notebooks_keep_nothing_in_a_home_folder(tmp_path):
    "The tool that stores outputs runs a page that solves an exercise; pytest itself names a file of its own."
    assert os.environ["MSSPOSE_PROGRESS"].startswith(os.environ["MSSPOSE_STORES"])
    source = "import os; from msspose.checks import check, progress; check('flic_to_mpii', 10); progress()"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": None, "outputs": [], "source": [source]}
    (tmp_path / "page.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    env = {k: v for k, v in os.environ.items() if k != "MSSPOSE_PROGRESS"}
    env |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "MPLCONFIGDIR": matplotlib.get_cachedir()}   # fonts are searched once
    subprocess.run([sys.executable, str(ROOT / "tools" / "run_notebooks.py"), str(tmp_path / "page.ipynb")], check=True, env=env)
    printed = "".join(load(tmp_path / "page.ipynb")["cells"][0]["outputs"][0]["text"])
    assert printed.startswith("right\n00 skeleton      0 of 2") and not list(tmp_path.rglob("progress.txt"))
    assert "MSSPOSE_PROGRESS" in (ROOT / "tools" / "check.py").read_text(encoding="utf-8").partition("CALM = {")[2].partition("}")[0]


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
    assert judge(exercise, exercise.reference) == Verdict("right")
    for wrong in (lambda *args: None, lambda *args: args[0] if args else 0, lambda *args: float("nan"), 1e9, "no"):
        assert judge(exercise, wrong).status == "not yet"
    assert judge(exercise, None).status == "not started"


@pytest.mark.parametrize("name", [name for name, exercise in EXERCISES.items() if callable(exercise.reference)])
def test_a_stub_is_not_started(name):
    def raises(*args): raise NotImplementedError
    assert judge(EXERCISES[name], raises).status == "not started"


def _flip(joints, visible, width, skeleton, rename=True, last=1, marks=True, copy=True):
    order = list(skeleton.flip) if rename else list(range(skeleton.n_joints))
    joints = joints[order] if copy else joints
    joints[:, 0] = width - last - joints[:, 0]
    return joints, visible[order] if marks else visible


def _nearest(pixel, z, value, size, key=lambda z: -z, background=0.0, add=False):
    image = torch.full((size,), background)
    for k in key(z).argsort().tolist(): image[pixel[k]] = value[k] + add * image[pixel[k]]
    return image


def _paint(joints, visible, size, sigma, known=lambda v: v > 0, power=2, swap=False, scale=1.0):
    gauss = torch.exp(-(torch.arange(size) - joints[..., None]).abs() ** power / (2 * sigma ** 2)) * known(visible)[..., None, None]
    x, y = (1, 0) if swap else (0, 1)
    return scale * gauss[:, :, y, :, None] * gauss[:, :, x, None, :]


def _centre(heatmaps, beta, weigh=lambda maps: maps.flatten(2).softmax(-1).view_as(maps), first=3):
    weights = weigh(beta * heatmaps)
    (h, w), total = heatmaps.shape[2:], weights.sum((2, 3))
    x, y = (weights.sum(2) * torch.arange(w)).sum(-1) / total, (weights.sum(3) * torch.arange(h)).sum(-1) / total
    return torch.stack([x, y] if first == 3 else [y, x], -1)


def _exp(maps): e = maps.exp(); return e / e.sum((2, 3), keepdim=True)


def _field(layers, late=True, distances=True):
    field, distance = 1, 1
    for kernel, stride in layers:
        if not late: distance *= stride
        field += (kernel - 1) * distance
        if late and distances: distance *= stride
    return field


def _walk(scales, order=1, keep=True, window=2):
    y, x = divmod(int(scales[-1].argmax()), scales[-1].shape[1])
    for level in reversed(scales[:-1]):
        part = level[2 * y:2 * y + window, 2 * x:2 * x + window]
        dy, dx = divmod(int(part.argmax()), part.shape[1])
        x, y = (2 * x + dx, 2 * y + dy) if keep else (x + dx, y + dy)
    return (x, y)[::order]


def _highest(scales): return tuple(reversed(divmod(int(scales[0].argmax()), scales[0].shape[1])))


def _gradient(residuals, groups, alpha, two=2, couple=lambda A: A.T @ A, first=1.0):
    A = torch.tensor([[float(m in group) for m in range(len(residuals))] for group in groups])
    return two * (first * residuals / len(residuals) + alpha * couple(A) @ residuals)


def _on_limbs(joints, visible, limbs, n, both=True, share=lambda n: torch.linspace(0, 1, n), least=1):
    first, second = torch.tensor(limbs).T
    points = torch.lerp(joints[:, first, None], joints[:, second, None], share(n)[:, None])
    one, other = visible[:, first] >= least, visible[:, second] >= least
    return points, (one & other if both else one | other)[..., None].expand(-1, -1, n).to(torch.uint8)


def _pick(places, heights, neighbour, length, spread, height=torch.log, two=2, power=2, rest=lambda d, length: d - length):
    distance = (places - neighbour).norm(dim=-1)
    return int((height(heights) - rest(distance, length) ** 2 / (two * spread ** power)).argmax())


def _ends(difference, share=0.025): return tuple(float(end) for end in np.quantile(difference, (share, 1 - share)))


def _turned(joints, wide, size, angle, factor, half=0.5, sense=1, power=-1):
    cos, sin = np.cos(angle), sense * np.sin(angle)
    offset = (joints - (wide / 2 - half)) * factor ** power
    return offset @ np.array([[cos, -sin], [sin, cos]]) + size / 2 - half


def _square(boxes, last=1, room=1.25, side=lambda size: size.max(1), middle=0.0):
    size = boxes[:, 2:] - boxes[:, :2] + last
    return (boxes[:, :2] + boxes[:, 2:]) / 2 + middle, room * side(size)


def _falls(scores, patience, better=lambda score, best: score > best, anew=True, slow=0, last=False):
    best, since, count = -1, 0, 0
    for score in scores:
        since = 0 if better(score, best) else since + 1
        best = score if last else max(best, score)
        if since >= patience + slow: count, since = count + 1, 0 if anew else since
    return count


def _typed(typed, names, fits=str.startswith, many=os.path.commonprefix, none=None):
    found = [name for name in names if fits(name, typed)]
    return many(found) if found else typed if none is None else none


def _error_of(seed_sd, person_sd, rest_sd, seeds, people, power=2, root=0.5, crossed=True, swap=False):
    if swap: seeds, people = people, seeds
    return (seed_sd ** power / seeds + person_sd ** power / people + rest_sd ** power / (seeds * people if crossed else people)) ** root


def _pooled(means, variances, counts, weigh=lambda n: n / n.sum(), between=1.0, correct=0):
    weights = weigh(counts.float())[:, None]
    mean = (weights * means).sum(0)
    total = counts.sum()
    return mean, (weights * (variances + between * (means - mean) ** 2)).sum(0) * total / (total - correct)


def but(function, **changes): return lambda *given: function(*given, **changes)


# Of every exercise what a learner typically answers instead. A function of the test that is right without its changes, or numbers.
TYPICAL = {
    "flic_to_mpii": [8, 11],                                        # without the joints that are made of others; all
    "mirror_pose": [but(_flip, rename=False), but(_flip, last=0), but(_flip, marks=False), but(_flip, copy=False, rename=False)],
    "larger_picture": [40, 42, 43],                                 # 4 x; without going back by half a pixel; the wrong way
    "nearest_wins": [but(_nearest, key=lambda z: z), but(_nearest, key=lambda z: -z.abs()), but(_nearest, key=torch.zeros_like),
                     but(_nearest, background=math.inf), but(_nearest, add=True)],
    "encode": [but(_paint, swap=True), but(_paint, known=lambda v: v == 2), but(_paint, known=torch.ones_like), but(_paint, power=1),
               but(_paint, scale=1 / (2 * math.pi)), lambda joints, *given: _paint(joints.round(), *given),
               lambda joints, visible, size, sigma: _paint(joints, visible, size, sigma ** 0.5)],
    "soft_argmax": [but(_centre, first=2), but(_centre, weigh=lambda maps: maps.softmax(-1)), but(_centre, weigh=lambda maps: maps),
                    but(_centre, weigh=_exp), lambda heatmaps, beta: _centre(heatmaps, 1.0)],
    "heatmap_size": [98, 69],
    "receptive_field": [but(_field, late=False), but(_field, distances=False), lambda layers: 1 + sum(k - 1 for k, _ in layers)],
    "cost_of_zeros": [2 * math.pi, math.pi],                        # the width counts once; not at all
    "descend": [but(_walk, order=-1), but(_walk, keep=False), but(_walk, window=3), _highest],
    "peak_of_average": [2 * math.pi / 16, 1 / 256, 0.4],            # along one axis; a peak, not a sum; the peak of a density
    "price_of_zeros": [2, 2.25, 3],                                 # a group each; the second term alone; 48 members
    "structure_gradient": [but(_gradient, two=1), but(_gradient, couple=lambda A: A @ A.T), but(_gradient, couple=lambda A: A),
                           but(_gradient, couple=lambda A: A.T), but(_gradient, first=0.0)],
    "free_share": [98.4, 85.9, 91],                                 # only the patch; of 256 places; patches that may overlap the joint's
    "along_limbs": [but(_on_limbs, both=False), but(_on_limbs, share=lambda n: torch.linspace(0, 1, n + 2)[1:-1]),
                    but(_on_limbs, share=lambda n: torch.linspace(1, 0, n)), but(_on_limbs, least=2),
                    but(_on_limbs, share=lambda n: torch.arange(n) / n)],
    "channels_read": [67, 512, 131],                                # one stack; no picture; one scale
    "choose": [but(_pick, height=lambda h: h), but(_pick, height=torch.zeros_like), but(_pick, two=1), but(_pick, power=1),
               but(_pick, rest=lambda d, length: d), lambda places, heights, *rest: int(heights.argmax())],
    "gaussian_pck": [95.4, 91.1, 68, 0.865],                        # one coordinate; two of them; one sigma; no percent
    "paired_interval": [lambda a, b, of, times: _ends(100 * (times @ (b / of) - times @ (a / of)) / times.sum(1)),   # of people
                        lambda a, b, of, times: _ends(100 * (times @ b / (times @ of) - np.roll(times @ a / (times @ of), 1))),   # no pairs
                        lambda a, b, of, times: _ends(100 * (times @ b - times @ a) / (times @ of), 0.05),
                        lambda a, b, of, times: _ends((times @ b - times @ a) / (times @ of)),
                        lambda a, b, of, times: _ends(100 * (times @ a - times @ b) / (times @ of)),
                        lambda a, b, of, times: _ends(100 * (times @ b - times @ a) / of.sum())],
    "mpii_square": [(500, 330, 500), (499, 299, 500), (499, 329, 400), (499, 314, 500)],   # origin; shift; room; shift without scale
    "square_of_corners": [but(_square, last=0), but(_square, room=1), but(_square, side=lambda size: size.min(1)), but(_square, middle=0.5),
                          but(_square, side=lambda size: size.mean(1))],
    "first_pixel": [(0, 0), (2, 2), (-0.5, -0.5), (1.5, 0)],
    "turned_joints": [but(_turned, half=0), but(_turned, sense=-1), but(_turned, power=1),
                      lambda joints, wide, size, angle, factor: _turned(joints, wide, wide, angle, factor)],
    "drops": [but(_falls, better=lambda score, best: score >= best), but(_falls, anew=False), but(_falls, slow=1), but(_falls, last=True)],
    "map_pixel": [25, 6.25, 7.8],                                   # without the room; from box to input; from square to input
    "mirrored_back": [lambda maps, order: maps.flip(-1), lambda maps, order: maps[:, list(order)],
                      lambda maps, order: maps.flip(-2)[:, list(order)], lambda maps, order: maps.flip(1).flip(-1)],
    "four_times_people": [0.3, 1.2, 2.4],                           # the variance; nothing; the wrong way
    "standard_error": [but(_error_of, root=1.0), but(_error_of, power=1, root=1.0), but(_error_of, crossed=False),
                       but(_error_of, swap=True)],
    "exit_codes": [[1, 1, 1, 130], [1, 2, 2, 143], [2, 2, 2, 130], [1, 2, 2, 1]],
    "after_tab": [but(_typed, fits=str.__contains__), but(_typed, many=min), but(_typed, none=""),
                  but(_typed, many=lambda found: found[0])],
    "roof_at_384": [2 / 3, 2.25, 0.3],                              # the side, not the area; the wrong way; the cube
    "combined": [but(_pooled, weigh=lambda n: torch.ones_like(n) / len(n)), but(_pooled, between=0.0), but(_pooled, correct=1)],
}
TYPICAL_CASES = [(name, k) for name, answers in TYPICAL.items() for k in range(len(answers))]
RIGHT = {"mirror_pose": _flip, "nearest_wins": _nearest, "encode": _paint, "soft_argmax": _centre, "receptive_field": _field,
         "descend": _walk, "structure_gradient": _gradient, "along_limbs": _on_limbs, "choose": _pick, "turned_joints": _turned,
         "square_of_corners": _square,
         "drops": _falls, "after_tab": _typed, "combined": _pooled, "standard_error": _error_of,
         "mirrored_back": lambda maps, order: maps[:, list(order)].flip(-1),
         "paired_interval": lambda a, b, of, times: _ends(100 * (times @ b - times @ a) / (times @ of))}


def test_every_exercise_has_a_typical_wrong_answer():
    assert set(TYPICAL) == set(EXERCISES), "name what a learner typically answers instead in TYPICAL"
    assert all(TYPICAL.values())
    assert set(RIGHT) == {name for name, exercise in EXERCISES.items() if callable(exercise.reference)}


@pytest.mark.parametrize("name, k", TYPICAL_CASES, ids=[f"{name}-{k}" for name, k in TYPICAL_CASES])
def test_a_typical_wrong_answer_is_told_apart(name, k):
    "By what it returns: it does not fail, and is compared."
    verdict = judge(EXERCISES[name], TYPICAL[name][k])
    assert verdict.status == "not yet" and not re.search("it raises|cannot be compared|no answer after", verdict.fault)


def test_mirror_pose_sees_the_table_of_one_data_set_typed_in():
    verdict = judge(EXERCISES["mirror_pose"], lambda joints, visible, width, skeleton: _flip(joints, visible, width, MPII))
    assert verdict.fault.startswith("for array (14, 2)")


@pytest.mark.parametrize("name", RIGHT)
def test_written_otherwise_and_right_is_right(name):
    "What the wrong answers are made of is right without the change, so it is the change that is seen."
    assert judge(EXERCISES[name], RIGHT[name]) == Verdict("right")


MAPS = ("encode", "mirrored_back", "structure_gradient", "nearest_wins")   # drawn as all arrays are
DRAWN = [case for case in TYPICAL_CASES if EXERCISES[case[0]].draw or case[0] in MAPS]


@pytest.mark.parametrize("name, k", DRAWN, ids=[f"{name}-{k}" for name, k in DRAWN])
def test_a_typical_wrong_answer_is_drawn(name, k):
    exercise, answer = EXERCISES[name], TYPICAL[name][k]
    verdict = judge(exercise, answer)
    if verdict.miss is None: return                                            # right, but its argument was changed: nothing to see
    _, wanted, got = verdict.miss
    small = name in ("structure_gradient", "nearest_wins", "mirrored_back") and np.size(checks._array(wanted)) < 9
    figure = picture(exercise, verdict)
    assert (figure is None) == small
    if small: return
    if k == 0: figure.draw_without_rendering()
    assert figure.get_suptitle() or all(ax.get_title() for ax in figure.axes)
    as_remembered(f"{name}, wrong answer {k}", figure)


@pytest.mark.parametrize("name", EXERCISES)
def test_an_exercise_asks_what_it_asked(name):
    "Cases, and what is expected of each; or the value, and how far off a guess may be."
    exercise = EXERCISES[name]
    if not callable(exercise.reference):
        value, steps = exercise.reference, np.geomspace(1e-5, 10, 61)
        near = [step for step in steps if np.ndim(value) == 0 and exercise.same(value + step, value)]
        as_remembered(name, {"value": value, "right up to": max(near, default=0)})
        return
    cases = exercise.cases() if callable(exercise.cases) else exercise.cases
    as_remembered(name, [{"case": case, "expected": exercise.reference(*case)} for case in cases])


@pytest.mark.parametrize("name", ["soft_argmax", "descend", "turned_joints", "along_limbs"])
def test_ring_and_cross_are_where_they_should_be(name):
    exercise = EXERCISES[name]
    verdict = judge(exercise, TYPICAL[name][0])
    case, wanted, got = verdict.miss
    lines = [line for line in picture(exercise, verdict).axes[0].lines if line.get_marker() in "ox"]
    ring, cross = (np.stack(line.get_data(), -1) for line in lines)
    if name == "soft_argmax": wanted, got = (values[checks._first(wanted, got)[:2]] for values in (wanted, got))
    if name == "along_limbs":
        person = next(b for b in range(len(wanted[1])) if not same(wanted[1][b], got[1][b]))
        wanted, got = (points[person][known[person] > 0] for points, known in (wanted, got))
    assert same(ring, np.asarray(wanted, float).reshape(-1, 2)) and same(cross, np.asarray(got, float).reshape(-1, 2))
    assert not same(ring, cross)


def test_squares_are_drawn_where_they_are():
    "A corner and a side: the one that is wanted, then the one that was given."
    exercise = EXERCISES["square_of_corners"]
    verdict = judge(exercise, TYPICAL["square_of_corners"][1])
    (boxes,), wanted, got = verdict.miss
    _, *squares = picture(exercise, verdict).axes[0].patches
    k = next(k for k in range(len(boxes)) if not same(got[1][k], wanted[1][k]))
    for square, (center, side) in zip(squares, (wanted, got), strict=True):
        assert same(np.add(square.get_xy(), square.get_width() / 2), center[k]) and same(square.get_width(), side[k])


@pytest.mark.parametrize("guess", [86.466, 86, 87])
def test_a_prediction_need_not_be_exact(guess):
    assert judge(EXERCISES["gaussian_pck"], guess).status == "right"


# --- the exercises on the pages ---------------------------------------------------------------------------------------------------

ASKED = {path: [call.args[0].value for _, cell in code_cells(load(path)) for call in checks_in(cell)] for path in CHAPTERS}


def test_every_exercise_is_asked_in_its_chapter_and_nowhere_else():
    for name, exercise in EXERCISES.items():
        asked = [path.stem for path, names in ASKED.items() if name in names]
        assert asked == [exercise.chapter.replace(" ", "_")], f"{name} is asked in {asked}; its chapter= says {exercise.chapter!r}"
    assert {name for names in ASKED.values() for name in names} <= set(EXERCISES), "a page asks what nobody can check"


TOLD = {("11_training", "3. Investigate")}   # trainings of minutes each: the solution tells what came out
EXERCISE = re.compile(r"^\*\*(\d)\. (\w[\w, ]*)\.\*\*", re.M)


def exercises_of(path) -> dict[str, str]:
    "Number and kind of every exercise of a page, and all that stands between it and the next."
    text = "\n".join("".join(cell["source"]) for cell in load(path)["cells"])
    _, *parts = EXERCISE.split(text)
    return {f"{number}. {kind}": body.split("\n## ")[0] for number, kind, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}


@pytest.mark.parametrize("path", [path for path in CHAPTERS if exercises_of(path)], ids=name_of)
def test_every_exercise_of_a_page_has_a_solution_that_the_tests_run(path):
    "A prediction and a function are checked; all have a solution with code, which test_notebooks executes."
    found = exercises_of(path)
    assert [key.split(",")[0] for key in found][:3] == ["1. Predict", "2. Code", "3. Investigate"]
    for key, body in found.items():
        if (path.stem, key) in TOLD: assert "<summary>Solution</summary>" in body
        else: assert solutions_in(body), f"{key} has no solution"
        if "Code" in key: assert 'check("' in body, f"{key} is not checked"
        if "Predict" in key: assert 'check("' in body or "assert" in solutions_in(body)[0], f"{key} is not checked"


def test_pages_do_not_know_who_reads_them():
    "No page but that of the checks says what is solved: it would be another thing for each reader."
    for path in PATHS:
        if path.stem == "checks": continue
        for i, cell in code_cells(load(path)): assert "progress()" not in "".join(cell["source"]), f"{name_of(path)}, cell {i}"
        assert not [text for _, text in texts(load(path)) if re.search(r"progress\.txt", text)]
