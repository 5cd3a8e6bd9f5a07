"The tool that breaks lines: what it makes of them, and that it knows seen from unseen."
import ast
import importlib.util
import shutil

import pytest
from conftest import ROOT

spec = importlib.util.spec_from_file_location("mutate", ROOT / "tools" / "mutate.py")
mutate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutate)


@pytest.mark.parametrize("line, broken", [
    ("a < b", ["a >= b"]), ("a is not b", ["a is b"]),
    ("a + b", ["(a) - (b)"]), ("a * 3", ["(a) / (3)", "a * 4"]), ("a and b", ["((a) or (b))"]),
    ("not a", ["bool(a)"]), ("True", ["False"]), ("0.5", ["1.5"]), ("'a' + b", []), ("f(a)", []),
    ("a < b < c", []), ("'é', 1", ["'é', 2"])])
def test_what_may_become_of_a_line(line, broken):
    source = f"c = 1\ndef f(a, b):\n    return {line}\n"
    found = mutate.mutations(source)
    assert set(found) <= {3}   # what stands outside of functions is left alone
    made = [mutate.with_change(source, *way).splitlines() for way in found.get(3, [])]
    assert [lines[2] for lines in made] == [f"    return {text}" for text in broken]
    for lines in made: ast.parse("\n".join(lines))


def test_who_is_asked_and_in_which_order():
    asked = mutate.commands("structure", ROOT)
    assert list(asked) == ["tests", "chapter", "other tests"]
    assert asked["tests"][-1] == "tests/test_structure.py" and asked["chapter"][-1] == "05_structure and not learner"
    assert "tests/test_regression.py" in asked["other tests"] and "tests/test_structure.py" not in asked["other tests"]
    assert "nbs/reference/drawing.ipynb" in mutate.commands("drawing", ROOT)["chapter"][-1]      # no chapter: it runs, and that is all


def test_a_line_that_no_test_reads_is_told_from_one_that_is(tmp_path):
    for folder in ("msspose", "tests", "nbs"): (tmp_path / folder).mkdir()
    source = "# File to edit: ../nbs/00_one.ipynb.\ndef double(x):\n    return 2 * x\n\ndef unused(x):\n    return x + 1\n"
    (tmp_path / "msspose" / "one.py").write_text(source)
    (tmp_path / "msspose" / "__init__.py").write_text("")
    (tmp_path / "tests" / "test_one.py").write_text("from msspose.one import double\n\ndef test_double(): assert double(3) == 6\n")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "nbs" / "00_one.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    rows = mutate.mutate("one", 2, 0, tmp_path)
    assert [(row["line"], row["seen by"]) for row in rows] == [(3, "tests"), (6, "")]
    assert (tmp_path / "msspose" / "one.py").read_text() == source
    (tmp_path / "tests" / "test_one.py").write_text("def test(): assert False\n")
    with pytest.raises(SystemExit, match="before anything is broken"): mutate.mutate("one", 1, 0, tmp_path)
