"""Every chapter run once, as a learner meets it: in a real JupyterLab in a real browser, where there is one, else in a kernel alone.

A chapter runs from top to bottom. Beside it run its solutions, each where it stands, and every widget at its ends; the chapter sees
nothing of that. What it shows is what the page stores. In the browser its controls are moved, and the solution of its exercise is typed.
Pictures of the browser are kept in build/lab, or in the folder that MSSPOSE_ARTEFACTS names."""
import ast
import contextlib
import itertools
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT
from lab import Lab, Visit, lacking
from stored import differences
from test_notebooks import (CHAPTERS, EXPORT, NBS, PATHS, STUB, checks_in, directives, has_solutions, has_widgets, is_last, load, name_of,
                            solutions_in, source_of)

LAST_FIRST = CHAPTERS[::-1]   # the last chapters take longest: at the end no core waits long for the other
ARTEFACTS = Path(os.environ.get("MSSPOSE_ARTEFACTS") or ROOT / "build" / "lab")

# --- what is run -----------------------------------------------------------------------------------------------------------------------

BESIDE = '''
_shadows = {}   # name: what a solution made of it, and what the page had there

def _beside(source):
    "Run a solution: it sees the page and the solutions before it; the page sees nothing of it."
    page = globals()
    names = {**page, **{name: mine for name, (mine, theirs) in _shadows.items() if page.get(name) is theirs}}
    before = dict(names)
    try: exec(compile(source, "solution", "exec"), names)
    finally: _shadows.update({name: (mine, page.get(name)) for name, mine in names.items() if before.get(name) is not mine})
'''

AT_THE_ENDS = """
def _at_the_ends():
    import ipywidgets
    import matplotlib.pyplot as plt
    from ipywidgets.widgets.widget import _instances

    def ends(widget):
        if hasattr(widget, "options"): return [value[1] if isinstance(value, tuple) else value for value in widget.options]
        if hasattr(widget, "min") and hasattr(widget, "max"): return [widget.min, widget.max]
        return [False, True] if isinstance(widget.value, bool) else [widget.value]

    shown = [w for w in list(_instances.values()) if isinstance(w, ipywidgets.interactive)]
    for w in shown:
        choices = [ends(k) for k in w.kwargs_widgets]
        for run in range(1 << len(choices).bit_length()):   # any two controls meet at each pair of their ends, in far fewer runs than all
            values = [c[-(bin(run & k).count("1") % 2)] for k, c in enumerate(choices, 1)]
            w.f(**dict(zip([k._kwarg for k in w.kwargs_widgets], values)))
            plt.close("all")
    print("WIDGETS", len(shown))

_at_the_ends()
"""


def is_run(cell: dict) -> bool: return cell["cell_type"] == "code" and not is_last(cell) and directives(cell).get("eval") != "false"


def script(notebook: dict) -> dict:
    "What is run: the page, beside it each solution where it stands and the checks that wait for it, last every widget at its ends."
    import nbformat

    cells, waiting = [], []

    def add(role: str, source: str, **more): cells.append(nbformat.v4.new_code_cell(source, metadata={"role": role, **more}))
    def beside(role: str, source: str): add(role, f"_beside({source!r})", says=source, jupyter={"source_hidden": True})

    if has_solutions(notebook): add("before", BESIDE, jupyter={"source_hidden": True})
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            if not is_run(cell): continue
            add("page", source_of(cell))
            if not EXPORT & directives(cell).keys() and "hide" not in directives(cell): waiting += checks_in(cell)
            continue
        cells.append(nbformat.v4.new_markdown_cell(source_of(cell)))
        for solution in solutions_in(source_of(cell)):
            beside("solution", solution)
            for call in waiting: beside("check", ast.unparse(call))
            waiting = []
    for call in waiting: add("check", f"print({ast.unparse(call.args[0])} + ': no solution follows')", says=ast.unparse(call))
    if has_widgets(notebook): add("ends", AT_THE_ENDS)
    kernel = {"name": "python3", "display_name": "python3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def to_type(done: dict) -> list[tuple[int, str]]:
    "For each exercise in code, the number of its cell, and what a learner who knows the solution types there."
    typed = []
    for i, cell in enumerate(done["cells"]):
        if cell["metadata"].get("role") != "page" or STUB not in cell["source"] or not checks_in(cell): continue
        wanted = {call.args[1].id for call in checks_in(cell) if isinstance(call.args[1], ast.Name)}
        for later in done["cells"][i:]:
            if later["metadata"].get("role") != "solution": continue
            solution = later["metadata"]["says"]
            if wanted & {getattr(node, "name", None) for node in ast.parse(solution).body}:
                calls = [call for call in map(ast.unparse, checks_in(cell)) if call not in ast.unparse(ast.parse(solution))]
                typed.append((i, "\n".join([solution, *calls])))
                break
    return typed


def run_in_kernel(notebook: dict, folder: Path) -> dict:
    "Execute a notebook as JupyterLab does; outputs and the state of the widgets are in the result."
    from queue import Empty

    from nbclient import NotebookClient

    def ask_often(notebook):   # nbclient answers widgets on the channel it waits on, and then can sleep through the reply
        wait = client.kc.shell_channel.get_msg

        async def often(timeout=None):
            for _ in range(int(5 * timeout)):
                with contextlib.suppress(Empty): return await wait(timeout=0.2)
            raise Empty
        client.kc.shell_channel.get_msg = often

    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"} | {"OMP_NUM_THREADS": "1", "IN_TEST": "1"}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", store_widget_state=True,
                            allow_errors=True, resources={"metadata": {"path": str(folder)}}, on_notebook_start=ask_often,
                            extra_arguments=["--IPKernelApp.log_level=40"])   # the kernel's own log is no concern of ours
    return client.execute(env=env)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "One JupyterLab for all pages, on a copy of them; None where there is no browser to drive it."
    if lacking(): yield None; return
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(NBS, home / "nbs", ignore=shutil.ignore_patterns(".*"))
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(Lab(home / "nbs", home / "server")) as server: yield server


def visit(lab, name: str, notebook: dict, folder: Path) -> Visit:
    "A notebook, run in the browser or in a kernel."
    if not lab: return Visit(done=run_in_kernel(notebook, folder))
    return lab.visit(name, notebook, to_type(notebook), ARTEFACTS / f"{Path(name).stem}.png")


@pytest.fixture(scope="module")
def visits(request, lab, tmp_path_factory):
    "The pages of the chosen tests, in their order, each run once, two at a time: with three, two cores took longer."
    chosen = [item.callspec.params["page"] for item in request.session.items if "visits" in getattr(item, "fixturenames", ())]
    folder, jobs = tmp_path_factory.mktemp("alone"), {}
    for page in dict.fromkeys(chosen):   # `script` stays in this thread: Python 3.11 must not parse in two at a time
        if page in ALONE: jobs[page] = visit, None, page, script(made_up(*ALONE[page])), folder
        elif page not in BROKEN: jobs[page] = visit, lab, name_of(page), script(load(page)), page.parent
        elif lab: jobs[page] = visit_broken, lab, page, script(made_up(*BROKEN[page][0]))
    with ThreadPoolExecutor(2) as pool: yield {page: pool.submit(*job) for page, job in jobs.items()}


# --- what may be wrong -----------------------------------------------------------------------------------------------------------------

def cells_by_role(done: dict, *roles: str) -> list[dict]: return [c for c in done["cells"] if c["metadata"].get("role") in roles]
def text_of(cell: dict) -> str: return "".join("".join(o.get("text", "")) for o in cell["outputs"])
def errors_in(outputs: list[dict]) -> list[str]: return [f"{o['ename']}: {o['evalue']}" for o in outputs if o["output_type"] == "error"]


def page_faults(done: dict) -> list[str]:
    "Errors in cells of the page, and cells that were not run."
    cells = cells_by_role(done, "page")
    wrong = [error for cell in cells for error in errors_in(cell["outputs"])]
    idle = ["".join(cell["source"]) for cell in cells if not cell["execution_count"]]
    return wrong or [f"not run: {source[:60]!r}" for source in idle if source.strip()]


def widget_faults(done: dict) -> list[str]:
    "Errors in cells, and errors and stderr inside widgets: they are seen nowhere else."
    wrong = [error for cell in cells_by_role(done, "page", "ends") for error in errors_in(cell["outputs"])]
    state = done["metadata"].get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    inside = [o for model in state.values() for o in model["state"].get("outputs", [])]
    wrong += [f"in a widget: {error}" for error in errors_in(inside)]
    wrong += [f"in a widget, on stderr: {o['text']}" for o in inside if o.get("name") == "stderr"]
    if wrong: return wrong
    if not widgets_in(done): return ["no widget was made"]
    if not any("image/png" in o.get("data", {}) for o in inside): return ["no widget shows a picture: the function ends in plt.show()"]
    return []


def widgets_in(done: dict) -> int:
    "How many widgets a page has made."
    return sum(int(count) for cell in cells_by_role(done, "ends") for count in re.findall(r"WIDGETS (\d+)", text_of(cell)))


def solution_faults(done: dict) -> list[str]:
    "Solutions that fail, and checks that do not call them right."
    said = [(cell["metadata"]["says"], text_of(cell).strip()) for cell in cells_by_role(done, "check")]
    return [f"a solution raises {error}" for cell in cells_by_role(done, "solution") for error in errors_in(cell["outputs"])] + \
        [f"{call} says {verdict!r}" for call, verdict in said if verdict != "right"]


def stored_faults(notebook: dict, done: dict) -> list[str]:
    "Where the outputs that a page stores are not those that its code makes."
    pairs = zip(filter(is_run, notebook["cells"]), cells_by_role(done, "page"), strict=True)
    return [f"cell {cell['id']} {fault}" for cell, fresh in pairs for fault in differences(cell, fresh)]


def learner_faults(seen: Visit) -> list[str]:
    "What a learner in the browser would stumble over."
    wrong = [f"the page shows {error}" for error in seen.errors]
    if seen.widgets != widgets_in(seen.done): wrong.append(f"{seen.widgets} widgets are shown, {widgets_in(seen.done)} were made")
    wrong += [f"moved, and no figure changed: {control}" for control in seen.still]
    if not seen.moved: wrong.append("nothing was moved that changed a figure")
    if not seen.answers: wrong.append("no solution was typed")
    return wrong + [f"an exercise said {before!r}, and {after!r} when solved" for before, after in seen.answers
                    if (before, after) != ("not started", "right")]


@pytest.mark.parametrize("page", LAST_FIRST, ids=name_of)
def test_chapter_runs_to_its_end(page, visits):
    assert not page_faults(visits[page].result().done)


@pytest.mark.parametrize("page", [p for p in PATHS if has_widgets(load(p))], ids=name_of)
def test_widgets_work_at_their_start_and_at_their_ends(page, visits):
    assert not widget_faults(visits[page].result().done)


@pytest.mark.parametrize("page", [p for p in PATHS if has_solutions(load(p))], ids=name_of)
def test_solutions_are_right(page, visits):
    assert not solution_faults(visits[page].result().done)


@pytest.mark.parametrize("page", LAST_FIRST, ids=name_of)
def test_a_page_stores_what_its_code_makes(page, visits):
    "Not two chapters of a run but all: they have run anyway. What fails here is made anew by make outputs, and looked at."
    assert not stored_faults(load(page), visits[page].result().done)


@pytest.mark.skipif(bool(lacking()), reason=lacking())
@pytest.mark.parametrize("page", LAST_FIRST, ids=name_of)
def test_a_learner_moves_every_slider_and_solves_an_exercise(page, visits):
    assert not learner_faults(visits[page].result())
    assert (ARTEFACTS / f"{page.stem}.png").stat().st_size > 10_000


# --- the same, on pages that are broken ------------------------------------------------------------------------------------------------

def made_up(*cells: str) -> dict:
    "A notebook of these cells: Markdown where a text starts with a solution, code otherwise."
    kinds = ["markdown" if text.startswith("<details>") else "code" for text in cells]
    return {"cells": [{"cell_type": kind, "source": text, "outputs": []} for kind, text in zip(kinds, cells, strict=True)]}


WIDGET = """
import matplotlib.pyplot as plt
from ipywidgets import interact
def view(n):
    plt.figure(figsize=(2, 2)); plt.plot([1 / (n - {bad}), {shown}]); plt.show()
interact(view, n=(0, 4));
"""
CHECK = """
def check(name, f):
    try: print("right" if f(4) == 16 else "not yet: think again")
    except NotImplementedError: print("not started")
"""
SQUARE = f"def f(x):\n    {STUB}\n\ncheck('f', f)"


def solution(code: str) -> str: return f"<details><summary>Solution</summary>\n\n```python\n{code}\n```\n\n</details>"


SOLVED = "def f(x):\n    if x:\n        y = (x)\n        return y * x\n    return 0"   # indented, with brackets: typing is no small thing
GOOD = (WIDGET.format(bad=9, shown="n"), CHECK, SQUARE, solution(SOLVED))


FIVE = "from ipywidgets import interact\ndef view(a, b, c, d, e): print(a, b, c, d, e)\ninteract(view, {}, e=[('p', 1), ('q', 2)]);"


def stub(name): return f"def {name}(x): {STUB}\n\ncheck('_twice', {name})"


ALONE = {   # in a kernel, without a browser
    "a good widget": (WIDGET.format(bad=9, shown=1),),
    "a widget that is broken at its start": (WIDGET.format(bad=2, shown=1),),
    "a widget that is broken at an end": (WIDGET.format(bad=4, shown=1),),
    "five controls": (FIVE.format("a=(0, 4), b=False, c=['x', 'y', 'z'], d=(0.0, 1.0)"),),
    "solutions of all kinds": (          # right, with two checks; wrong; one that fails; none
        "from msspose.checks import EXERCISES, Exercise, check",
        "EXERCISES['_twice'] = Exercise(lambda x: 2 * x, ((1,), (5,)), ('double it',))",
        stub("f") + "\ncheck('_twice', f)", solution("def f(x): return 2 * x"),
        stub("g"), solution("def g(x): return x + 1"),
        stub("h"), solution("unknown_name"),
        stub("i")),
    "solutions beside the page": (
        "a, b = 1, 1", solution("a, b, c = 2, 2, 2"), "a = 3", solution("print(a, b, c)"), "print(a, b)", "c"),
    "a page and a solution that raise": ("1 / 0", solution("undefined")),
}


@pytest.mark.parametrize("page, faults", list(zip(list(ALONE)[:3], (0, 1, 1), strict=True)))
def test_a_broken_widget_is_seen(page, faults, visits):
    assert len(widget_faults(visits[page].result().done)) == faults


@pytest.mark.parametrize("page", ["five controls"])
def test_any_two_ends_of_a_widget_meet(page, visits):
    *runs, said = text_of(cells_by_role(visits[page].result().done, "ends")[0]).split("\n")[:-1]
    assert said == "WIDGETS 1" and len(runs) == 8
    controls = list(zip(*(run.split() for run in runs), strict=True))
    assert [set(control) for control in controls] == [{"0", "4"}, {"False", "True"}, {"x", "z"}, {"0.0", "1.0"}, {"1", "2"}]
    for one, other in itertools.combinations(controls, 2): assert len(set(zip(one, other, strict=True))) == 4


@pytest.mark.parametrize("page", ["solutions of all kinds"])
def test_a_wrong_solution_is_seen(page, visits):
    failing, *verdicts = solution_faults(visits[page].result().done)
    assert "unknown_name" in failing
    assert [v.split(" says ")[1][1:9] for v in verdicts] == ["not yet:", "not star", "_twice: "]


@pytest.mark.parametrize("page", ["solutions beside the page"])
def test_a_solution_runs_beside_the_page(page, visits):
    "It knows the solutions before it, but what the page has made anew since; the page knows none of it."
    done = visits[page].result().done
    assert [text_of(cell).strip() for cell in cells_by_role(done, "solution")] == ["", "3 2 2"]
    assert text_of(cells_by_role(done, "page")[2]).strip() == "3 1"
    assert page_faults(done) == ["NameError: name 'c' is not defined"]


@pytest.mark.parametrize("page", ["a page and a solution that raise"])
def test_without_a_browser_a_kernel_runs_the_same(page, visits, monkeypatch):
    monkeypatch.setattr("lab.shutil.which", lambda name: None)
    assert re.search("chromium|not installed", lacking())
    done = visits[page].result().done
    assert page_faults(done) == ["ZeroDivisionError: division by zero"]
    assert solution_faults(done) == ["a solution raises NameError: name 'undefined' is not defined"]


STILL = WIDGET.format(bad=9, shown=1).replace("1 / (n - 9)", "1")
BROKEN = {
    "good": (GOOD, []),
    "a cell raises": (("print(1)", "1 / 0", "print(2)"), ["ZeroDivisionError"]),
    "a widget breaks at its start": ((WIDGET.format(bad=2, shown="n"), *GOOD[1:]), ["ZeroDivisionError"]),
    "a widget breaks when it is moved": ((WIDGET.format(bad=3, shown="n"), *GOOD[1:]), ["ZeroDivisionError"]),
    "a slider does nothing": ((STILL, *GOOD[1:]), ["no figure changed"]),
    "a solution is wrong": ((*GOOD[:3], solution("def f(x): return x + 1")), ["not yet: think again"]),
}


def visit_broken(lab, name: str, notebook: dict) -> Visit:
    return lab.visit(name.replace(" ", "_") + ".ipynb", notebook, to_type(notebook), patience=5)


@pytest.mark.skipif(bool(lacking()), reason=lacking())
@pytest.mark.parametrize("page", BROKEN)
def test_what_is_broken_is_seen_in_the_browser(page, visits):
    seen, expected = visits[page].result(), BROKEN[page][1]
    faults = page_faults(seen.done) + learner_faults(seen)
    if not expected: assert not faults + widget_faults(seen.done) + solution_faults(seen.done)
    for words in expected: assert any(words in fault for fault in faults), faults
