"What is remembered: which differences are seen, and which are none."
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import remembered
import torch
from matplotlib.figure import Figure
from remembered import FOLDER, alike, as_remembered, described, message_of, sections


@dataclass
class Pair:
    first: object
    second: object


def figure(**changes) -> Figure:
    shown, ax = plt.subplots(figsize=changes.get("size", (3, 2)))
    ax.plot([1, 2, 3], [4, 5, changes.get("end", 6)], color=changes.get("color", "#0072b2"), linewidth=changes.get("width", 2))
    ax.scatter([1], [4], s=changes.get("s", 20))
    ax.text(1, 4, changes.get("text", "here"), fontsize=9)
    ax.set_title("a title", fontsize=changes.get("fontsize", 10))
    shown.suptitle("a title above", fontsize=changes.get("larger", 12))
    plt.close(shown)
    return shown


@pytest.mark.parametrize("a, b, same", [
    (1.0, 1.0001, True), (1.0, 1.01, False), (0.0, 1e-5, True), (3, 4, False), (1000, 1001, True), (True, False, False), (None, 0, False),
    ("a 1", "a 2", False), (np.arange(3), np.arange(3.0), False), (torch.zeros(2), torch.zeros(2) + 1e-6, True),
    (torch.zeros(2), np.zeros(2), False), (np.arange(100), np.arange(100)[::-1], False), ([1, 2], [1, 2, 3], False),
    (np.zeros(100), np.append(np.zeros(99), 9), False), ({"a": [np.zeros(2)]}, {"a": [np.ones(2)]}, False), ({"a": 1}, {"b": 1}, False),
    (Pair(1, "x"), Pair(1, "y"), False), (["a line", "another"], ["a line", "one more"], False),
    (np.full(20, np.nan), np.full(20, np.inf), True), (np.append(np.zeros(20), np.nan), np.zeros(21), False), (figure(), figure(), True)])
def test_what_differs_and_what_does_not(a, b, same):
    one, other = list(described(a)), list(described(b))
    assert one and (len(one) == len(other) and all(map(alike, one, other))) == same


OTHERWISE = [{"end": 7}, {"color": "#0072b3"}, {"width": 3}, {"s": 21}, {"text": "there"}, {"fontsize": 11}, {"larger": 13},
             {"size": (3, 3)}]


@pytest.mark.parametrize("change", OTHERWISE, ids=lambda change: next(iter(change)))
def test_a_figure_that_is_drawn_otherwise_is_another(change): assert list(described(figure())) != list(described(figure(**change)))


def test_the_file_holds_what_is_stored_and_a_difference_names_both(tmp_path, monkeypatch):
    monkeypatch.setattr(remembered, "FOLDER", tmp_path / "kept")
    monkeypatch.delenv("MSSPOSE_REMEMBER", raising=False)
    with pytest.raises(AssertionError, match="numbers is not in remembered.txt"): as_remembered("numbers", [1, 2])
    monkeypatch.setenv("MSSPOSE_REMEMBER", "1")
    for name, thing in (("numbers", [1, 2]), ("a text", ["# title", "", "two words"])): as_remembered(name, thing)
    monkeypatch.delenv("MSSPOSE_REMEMBER")
    assert sections(tmp_path / "kept" / "remembered.txt") == {"numbers": ["1, 2"], "a text": ["# title", "", "two words"]}
    as_remembered("numbers", [1.0001, 2])
    with pytest.raises(AssertionError, match="numbers: not as it was\n- 1, 2\n[+] 1, 3"): as_remembered("numbers", [1, 3])
    with pytest.raises(AssertionError, match="a text: not as it was\n(.|\n)*\n[+]one more"):
        as_remembered("a text", ["# title", "", "two words", "one more"])


def test_a_message_is_kept_without_places_and_without_the_words_of_others(tmp_path):
    try:
        try: (tmp_path / "a").read_bytes()
        except OSError as error: raise ValueError(f"{tmp_path / 'a'}: cannot be read ({error.strerror})") from error
    except ValueError as error: assert message_of(error) == "ValueError: FOLDER/a: cannot be read (...)"
    assert message_of(FloatingPointError("step 5: the loss is 1.25e+07")) == "FloatingPointError: step #: the loss is #"
    assert message_of(KeyboardInterrupt()) == ""


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*_messages.txt")), ids=lambda file: file.stem)
def test_messages_of_tests_that_are_gone_are_forgotten(file):
    tests = (Path(__file__).parent / f"test_{file.stem.removesuffix('_messages')}.py").read_text(encoding="utf-8")
    assert {name.partition("[")[0] for name in sections(file)} <= set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
