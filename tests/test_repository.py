"The repository as a document: what belongs in it, what may import what, and the files that nobody runs until it is too late."
import ast
import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

if sys.version_info >= (3, 11): import tomllib
else: import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = sorted(p for p in (ROOT / "msspose").glob("*.py") if not p.name.startswith("_"))
ORDER = ["skeleton", "people", "heatmaps", "hourglass", "supervision", "structure", "masking", "regression", "evaluation", "data",
         "predictions", "crops", "runs", "training", "inference", "video", "export", "ablation", "cli", "checks"]
BY_ALL = {"skeleton", "drawing"}


def tool(name: str):
    "A script of tools/ as a module."
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check, make_readme, make_constraints = tool("check"), tool("make_readme"), tool("make_constraints")
FILES = [ROOT / name for name in check.files_of_checkout()]


def text_of(path: Path) -> str | None:
    "The text of a file, None where it holds none."
    try: return path.read_text(encoding="utf-8")
    except UnicodeDecodeError: return None


# --- what may import what --------------------------------------------------------------------------------------------------------------

def imports_of(source: str) -> list[tuple[str, bool]]:
    "The dotted names that a module imports, and whether on import or later, inside a function."
    tree = ast.parse(source)
    later = {id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ("msspose." * bool(node.level) + (node.module or "")).strip(".")
            names = [base] if base != "msspose" else [f"msspose.{alias.name}" for alias in node.names]
        else: continue
        found += [(name, id(node) in later) for name in names if not name.startswith("msspose.__")]   # __version__ is no module
    return found


def wrong_order(module: str, source: str) -> list[str]:
    "The modules that one imports although they do not stand above it in the table of chapters."
    ours = {name.split(".")[1] for name, _ in imports_of(source) if name.startswith("msspose.")}
    if module == "drawing": return sorted(ours - {"skeleton"})
    return sorted(name for name in ours - BY_ALL if name not in ORDER or ORDER.index(name) >= ORDER.index(module))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_modules_import_only_what_stands_above(path):
    assert path.stem in [*ORDER, "drawing"], "a module that is not in the table of chapters"
    assert not wrong_order(path.stem, path.read_text(encoding="utf-8"))


def test_wrong_order_is_seen():
    assert wrong_order("heatmaps", "from .people import People\nfrom msspose import drawing\nimport msspose.skeleton") == []
    for source in ("from .hourglass import Hourglass", "from . import training", "import msspose.cli", "def f(): from .crops import crop"):
        assert wrong_order("heatmaps", source)
    assert not wrong_order("heatmaps", "from msspose import __version__")
    assert wrong_order("drawing", "from .people import People") and wrong_order("heatmaps", "from .heatmaps import encode")


WHEELS = {"pillow": "PIL", "pyav": "av", "pyyaml": "yaml"}   # packages that are imported by another name
def import_names(requirements: list[str]) -> set[str]:
    return {WHEELS.get(name, name).replace("-", "_") for name in (re.match(r"[\w.-]+", r)[0].lower() for r in requirements)}


RUN = import_names(PROJECT["dependencies"]) | {"msspose"} | set(sys.stdlib_module_names)
EXTRA = {name for extra in ("video", "onnx", "track") for name in import_names(PROJECT["optional-dependencies"][extra])} | {"av"}


def undeclared(source: str) -> list[str]:
    "What a module imports that a user does not have: anything but the dependencies; extras only inside functions."
    return sorted(name for name, later in imports_of(source) if name.split(".")[0] not in RUN | (EXTRA if later else set()))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_modules_import_only_what_a_user_has(path):
    assert not undeclared(path.read_text(encoding="utf-8"))


def test_undeclared_imports_are_seen():
    for name in ("fastcore.all", "nbdev.showdoc", "ipywidgets", "IPython.display", "onnx", "yaml"):
        assert undeclared(f"import {name}") and undeclared(f"from {name} import thing")
    assert undeclared("def f():\n    import nbdev")
    assert not undeclared("import torch.nn as nn\nfrom PIL import Image\nimport scipy.io\ndef f():\n    import onnx")


def test_importing_the_package_and_its_commands_is_quiet_and_needs_no_development_tool():
    unwanted = {"nbdev", "fastcore", "execnb", "ipywidgets", "IPython", "pytest", "hypothesis"}
    code = f"import sys, msspose, msspose.cli; print(sorted({unwanted} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# --- what belongs in the repository ----------------------------------------------------------------------------------------------------

FOREIGN = {   # written so that this file does not hold what it looks for
    "a path of one machine": r"(?<![\w.:@-])/(?:work|root|home|farm|tmp|Users|private)/[\w.]|\b[A-Z]:\\\\?Users",
    "an address of a package registry": r"pypi\.org|pythonhosted\.org|npmjs\.(?:com|org)|deb\.debian|debian\.org/debian|"
                                        r"download\.pytorch\.org|anaconda\.org|conda-forge\.org|(?:extra-)?index-url[ =]|find-links[ =]",
    "a key": r"-----BEGIN [A-Z ]*PRIVATE KEY|\bgh[pousr]_[A-Za-z0-9]{20}|\bAKIA[0-9A-Z]{16}\b|\bhf_[A-Za-z]{20}",
}
DATA = {".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".mat", ".h5", ".hdf5", ".npz", ".npy", ".pkl", ".pt", ".pth", ".ckpt", ".onnx",
        ".tar", ".zip", ".gz", ".bz2", ".xz", ".7z", ".mp4", ".avi", ".mov", ".whl", ".parquet", ".csv"}
LARGEST = 2_500_000


def foreign(text: str) -> list[str]:
    text = re.sub(r"[A-Za-z0-9+/]{300,}={0,2}", "", text)   # a picture in a notebook may spell anything
    return [f"{what}: {match[0]!r}" for what, pattern in FOREIGN.items() if (match := re.search(pattern, text))]


def test_no_file_names_a_machine_or_a_registry():
    wrong = {path.relative_to(ROOT).as_posix(): foreign(text_of(path) or "") for path in FILES}
    assert not {name: what for name, what in wrong.items() if what}


def test_foreign_text_is_seen():
    for text in ("/wo" "rk/main", "open('/tm" "p/x')", "(/ho" "me/you)", "C:\\" "Users", "https://py" "pi.org/simple", "--index" "-url x",
                 "https://download.py" "torch.org/whl", "-----BEGIN RSA PRIVATE" " KEY"):
        assert foreign(text), text
    assert not foreign("https://github.com/msspose/msspose ../shared/data /usr/bin/env images/tmp/x.png 3/work/day")


def test_no_large_file_and_no_data():
    assert not {p.relative_to(ROOT).as_posix(): p.stat().st_size for p in FILES if p.stat().st_size > LARGEST}
    assert not [p.relative_to(ROOT).as_posix() for p in FILES if p.suffix.lower() in DATA]


def test_layout():
    for name in ("README.md", "LICENSE", "CONTRIBUTING.md", "CITATION.cff", "CHANGELOG.md", "Makefile", "constraints.txt", "settings.ini",
                 "pyproject.toml", "_quarto.yml", ".gitattributes", ".gitignore", ".ci/run", "nbs/index.ipynb"):
        assert ROOT / name in FILES, f"{name} is missing"
    assert not (ROOT / "setup.py").exists() and not (ROOT / "setup.cfg").exists()
    license = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in license and "END OF TERMS AND CONDITIONS" in license
    assert (ROOT / "nbs" / "_quarto.yml").read_text(encoding="utf-8").strip() == "metadata-files: [../_quarto.yml, nbdev.yml]"


@pytest.mark.parametrize("name", ["runs/demo/model.safetensors", ".venv/bin/python", "build/x", "msspose.egg-info/x", "_proc/x",
                                  "_docs/index.html", "nbs/.ipynb_checkpoints/x.ipynb", "msspose/__pycache__/x.pyc"])
def test_what_is_made_is_ignored(name):
    patterns = [line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split() if not line.startswith("#")]
    assert any(fnmatch.fnmatch(part, pattern) for part in name.split("/") for pattern in patterns)


def test_python_files_keep_to_the_oldest_python():
    for path in FILES:
        if path.suffix == ".py": ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


# --- files that nobody runs ------------------------------------------------------------------------------------------------------------

def version() -> str: return re.search(r'__version__ = "(.+)"', (ROOT / "msspose" / "__init__.py").read_text(encoding="utf-8"))[1]


def test_citation_names_the_software_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["type"], citation["version"], citation["license"]) == ("software", version(), PROJECT["license"])
    assert citation["repository-code"] == PROJECT["urls"]["Source"]
    paper, = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Ke", "Chang", "Qi", "Lyu"]
    assert paper["title"] == "Multi-Scale Structure-Aware Network for Human Pose Estimation" and paper["year"] == 2018


def test_changelog_begins_with_the_version():
    sections = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert sections[0].split()[0] == version()
    assert len(set(sections)) == len(sections)


def workflow(name: str) -> dict: return yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))


def test_workflows_cover_what_they_promise():
    assert {p.stem for p in (ROOT / ".github" / "workflows").glob("*.yml")} == {"test", "docs", "release"}
    matrix = workflow("test")["jobs"]["test"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    promised = [c.split(" :: ")[-1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert matrix["python"] == promised == ["3.10", "3.11", "3.12", "3.13"]
    publish = workflow("release")["jobs"]["publish"]
    assert publish["permissions"]["id-token"] == "write" and "secrets." not in str(workflow("release"))


def test_workflows_run_what_is_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for path in [*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / ".ci" / "run"]:
        text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#"))
        assert {target for target in re.findall(r"(?:^|[ :])make ([a-z]+)", text, re.M)} <= targets
        for script in re.findall(r"tools[\\/](\w+\.py)", text): assert (ROOT / "tools" / script).exists()
        for used in re.findall(r"uses: (\S+)", text): assert re.search(r"@[\w/.-]+$", used) or (ROOT / used).exists()
    assert os.name == "nt" or os.access(ROOT / ".ci" / "run", os.X_OK)


def test_documents_name_only_what_is_there():
    "Relative links, make targets and check steps of the top-level documents."
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)", re.sub(r"```.*?```", "", text, flags=re.S)):
            if not re.match(r"[a-z]+:|#", target): assert (ROOT / target.partition("#")[0]).exists(), f"{name} links to {target}"
        assert set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.M)) <= targets, name
    steps = re.findall(r"^\| `([a-z]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| step |")[2], re.M)
    assert steps == list(check.STEPS)


# --- versions --------------------------------------------------------------------------------------------------------------------------

def held() -> list[str]:
    return [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def test_constraints_are_exact_and_cover_what_is_asked_for():
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line) for line in held())
    assert "torch==2.13.0" in held()
    assert not [line for line in held() if line.startswith(make_constraints.LEFT_OUT)]
    known = {line.partition("==")[0] for line in held()}
    asked = {re.match(r"[\w-]+", r)[0].lower() for r in [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]}
    assert asked <= known, "run `make constraints`"
    assert (ROOT / "constraints.txt").read_text(encoding="utf-8").startswith(make_constraints.HEADER)


# --- README --------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("target, expected", {
    "00_skeleton.ipynb": "https://s/b/skeleton.html", "reference/drawing.ipynb": "https://s/b/reference/drawing.html",
    "03_hourglass.ipynb#what-it-costs": "https://s/b/hourglass.html#what-it-costs", "./index.ipynb": "https://s/b/index.html",
    "images/demo.gif": "nbs/images/demo.gif", "../LICENSE": "LICENSE", "https://x.y/z.ipynb": "https://x.y/z.ipynb", "#one": "#one",
    "mailto:a@b.c": "mailto:a@b.c"}.items())
def test_readme_links(target, expected):
    assert make_readme.moved(target, "https://s/b") == expected
    badge = make_readme.relink(f"[![x](images/x.png)]({target}) [y]({target}) `[z]({target})`", "https://s/b")
    assert badge == f"[![x](nbs/images/x.png)]({expected}) [y]({expected}) `[z]({target})`"


def test_readme_of_a_notebook(tmp_path):
    import json

    cells = [("raw", "---\ntitle: no\n---"), ("markdown", "# T\n\n[a](01_people.ipynb)"), ("code", "#| hide\nx"),
             ("code", "#| echo: false\nprint(1)"), ("code", "1 + 1"), ("markdown", "```\n[a](01_people.ipynb)\n```")]
    two = {"output_type": "stream", "text": ["2\n"]}
    made = [{"cell_type": kind, "source": text.splitlines(True), "outputs": [two]} for kind, text in cells]
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "index.ipynb").write_text(json.dumps({"cells": made}), encoding="utf-8")
    (tmp_path / "settings.ini").write_text("[DEFAULT]\ndoc_host = https://s\ndoc_baseurl = /b\n", encoding="utf-8")
    text = make_readme.readme(tmp_path)
    assert text.split("\n", 2)[2] == ("# T\n\n[a](https://s/b/people.html)\n\n```\n2\n```\n\n```python\n1 + 1\n```\n\n```\n2\n```\n\n"
                                      "```\n[a](01_people.ipynb)\n```\n")


# --- make, with a stand-in for uv that writes down what it is asked --------------------------------------------------------------------

UV = """#!/bin/sh
echo "$*" >> "$LOG"
case "$1 $FAIL" in
  venv*) for last; do :; done; mkdir -p "$last/bin"; ln -s "$REAL" "$last/bin/python";;
  "pip yes") echo "no network" >&2; exit 7;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    "A folder with our Makefile, and `make` in it: its exit code, what it printed, and what uv was asked."
    if os.name == "nt" or not shutil.which("make"): pytest.skip("no make here")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"): shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").write_text(UV)
    (tmp_path / "bin" / "uv").chmod(0o755)

    def make(*arguments, **env):
        log = tmp_path / "log"
        log.write_text("")
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "LOG": str(log), "REAL": sys.executable, "FAIL": "no", **env}
        for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"): env.pop(name, None)   # this test may itself run under make
        done = subprocess.run(["make", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr, log.read_text().splitlines()
    make.root = tmp_path
    return make


def age(*paths: Path) -> None:
    "As if these had been written a minute later than now."
    for path in paths: os.utime(path, (path.stat().st_mtime + 60,) * 2)


def test_make_installs_once_and_again_when_requirements_change(checkout):
    code, _, asked = checkout(".venv/.dev")
    assert code == 0 and [line.split()[0] for line in asked] == ["venv", "pip"]
    assert asked[1].endswith("--constraint constraints.txt --editable .[dev]")
    assert checkout(".venv/.dev")[2] == []
    assert checkout(".venv/.run")[2] == [], "what development needs contains what running needs"
    assert checkout(".venv/.lab")[2][0].endswith(".[dev,course]")
    age(checkout.root / "constraints.txt")
    assert [line.split()[0] for line in checkout(".venv/.run")[2]] == ["pip"]


def test_make_leaves_no_stamp_of_a_failed_installation(checkout):
    code, printed, _ = checkout(".venv/.run", FAIL="yes")
    assert code and "no network" in printed
    assert not (checkout.root / ".venv" / ".run").exists()
    code, _, asked = checkout(".venv/.run")
    assert code == 0 and [line.split()[0] for line in asked] == ["pip"]


def test_make_replaces_an_environment_whose_python_is_gone(checkout):
    checkout(".venv/.run")
    (checkout.root / ".venv" / "bin" / "python").unlink()
    (checkout.root / ".venv" / "bin" / "python").symlink_to("nowhere")
    assert [line.split()[0] for line in checkout(".venv/.run")[2]] == ["venv", "pip"]


def test_make_says_in_one_line_that_python_is_too_old(checkout):
    old = checkout.root / "old-python"
    old.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo Python 3.8.10 && exit\nexit 1\n")
    old.chmod(0o755)
    code, printed, asked = checkout("demo", f"PYTHON={old}")
    assert code and asked == [] and len(printed.splitlines()) == 1
    assert "needs Python 3.10 or newer" in printed and "Python 3.8.10" in printed


def test_make_alone_lists_every_command(checkout):
    code, printed, _ = checkout()
    public = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert code == 0 and [line.split()[1] for line in printed.splitlines()] == public
    assert {"demo", "test", "lab", "docs", "prepare", "help"} <= set(public)


# --- the checks themselves -------------------------------------------------------------------------------------------------------------

SOURCE = '{"cells": [%s], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}\n'
CELL = '{"cell_type": "code", "execution_count": null, "id": "%s", "metadata": {}, "outputs": [], "source": ["%s"]}'


@pytest.fixture
def small(tmp_path, monkeypatch):
    "A small project in sync, which tools/check.py takes for ours."
    (tmp_path / "nbs").mkdir()
    (tmp_path / "msspose").mkdir()
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "msspose" / "__init__.py").write_text(f'__version__ = "{version()}"\n')
    cells = [CELL % ("a", "#| default_exp one"), CELL % ("b", "#| export\\ndef f(): return 1")]
    (tmp_path / "nbs" / "00_one.ipynb").write_text(SOURCE % ", ".join(cells))
    monkeypatch.setattr(check, "ROOT", tmp_path)
    for command in ("nbdev_export", "nbdev_clean"): check.run(check.tool(command), cwd=tmp_path, quiet=True)
    return tmp_path


def test_sync_sees_every_difference_and_changes_nothing(small):
    module, clean = small / "msspose" / "one.py", (small / "msspose" / "one.py").read_text()
    check.sync()
    module.write_text(clean.replace("return 1", "return 2"))
    with pytest.raises(check.Failed, match="one.py is not what its notebook exports"): check.sync()
    assert "return 2" in module.read_text()
    module.unlink()
    with pytest.raises(check.Failed, match="one.py is missing"): check.sync()
    module.write_text(clean)
    (small / "msspose" / "two.py").write_text(clean)
    with pytest.raises(check.Failed, match="two.py: no notebook exports it"): check.sync()
    (small / "msspose" / "two.py").write_text("x = 1\n")
    with pytest.raises(check.Failed, match="two.py is written by hand"): check.sync()


def test_clean_sees_what_nbdev_would_change(small):
    check.clean()
    page = small / "nbs" / "00_one.ipynb"
    dirty = page.read_text().replace('"execution_count": null', '"execution_count": 3', 1)
    page.write_text(dirty)
    with pytest.raises(check.Failed, match="00_one.ipynb"): check.clean()
    assert page.read_text() == dirty


def test_settings_sees_what_parts(small):
    for name in ("pyproject.toml", "nbs/nbdev.yml"): shutil.copy(ROOT / name, small / name)
    check.settings()
    for name, old, new in (("settings.ini", "version = ", "version = 9"), ("settings.ini", "heatmaps, ", ""),
                           ("pyproject.toml", ">=3.10", ">=3.9"), ("pyproject.toml", '"nbdev==2.4.14"', '"nbdev==2.4.13"'),
                           ("pyproject.toml", 'license = "Apache', 'license = "MIT'), ("pyproject.toml", "Python :: 3.13", "Python :: 3.9"),
                           ("nbs/nbdev.yml", "github.io/msspose", "github.io/other")):
        text = (small / name).read_text(encoding="utf-8")
        assert old in text
        (small / name).write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(check.Failed): check.settings()
        (small / name).write_text(text, encoding="utf-8")


def test_every_page_runs_once(monkeypatch):
    "Chapters by tests/test_lab.py, in one step only; by nbdev_test the other pages, and no chapter."
    commands = []
    monkeypatch.setattr(check, "tool", lambda name: name)
    monkeypatch.setattr(check, "run", lambda *command, **_: commands.append([str(part) for part in command]))
    check.chapters(), check.tests()
    by_browser, by_nbdev, rest = commands
    assert check.BY_BROWSER in by_browser and (ROOT / check.BY_BROWSER).is_file()
    assert rest[rest.index("--ignore") + 1] == check.BY_BROWSER
    left_out = by_nbdev[by_nbdev.index("--skip_file_re") + 1]
    names = {path.name for path in (ROOT / "nbs").rglob("*.ipynb") if "checkpoints" not in str(path)}
    assert {name for name in names if re.search(left_out, name)} == {path.name for path in (ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")}


def test_every_step_runs_although_one_fails(monkeypatch, capsys):
    def good(): "passes"
    def bad():
        "fails"
        raise check.Failed("this is wrong")
    def worse():
        "breaks"
        raise RuntimeError("this was not thought of")

    monkeypatch.setattr(check, "STEPS", {f.__name__: f for f in (bad, worse, good)})
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert check.main() == 1
    printed = capsys.readouterr().out
    assert "this is wrong" in printed and "this was not thought of" in printed and "-- good: ok" in printed
    assert "3 of 3 steps" in printed and "failed: bad, worse" in printed
    monkeypatch.setattr(sys, "argv", ["check.py", "good"])
    assert check.main() == 0


@pytest.mark.parametrize("broken", [False, True])
def test_the_wheel_is_made_beside_the_tests_and_speaks_at_its_turn(monkeypatch, capsys, broken):
    made = threading.Event()
    def tests():
        "waits for the wheel"
        if not made.wait(10): raise check.Failed("the wheel was not begun")
        print("tested")
    def wheel():
        "is begun with the tests"
        made.set()
        if broken: raise check.Failed("no wheel")
        return "made"

    monkeypatch.setattr(check, "STEPS", {f.__name__: f for f in (tests, wheel)})
    monkeypatch.setattr(sys, "argv", ["check.py"])
    assert check.main() == broken
    printed = capsys.readouterr().out
    in_order = "== tests", "tested", "-- tests: ok", "== wheel", "no wheel" if broken else "made", "-- wheel"
    places = [printed.index(text) for text in in_order]
    assert places == sorted(places)


def test_colab_gets_what_a_clone_gets():
    extras = PROJECT["optional-dependencies"]
    assert set(extras["colab"]) <= {*extras["dev"], *extras["course"]}
