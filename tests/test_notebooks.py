"""The notebooks as documents: what a reader of the site and a learner in JupyterLab rely on, and no run of the code would show.

Every rule is a function from a notebook to a list of sentences about what is wrong; every rule is also tried on a page that breaks it."""
import ast
import json
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT

NBS = ROOT / "nbs"
PATHS = sorted(p for p in NBS.rglob("*.ipynb") if not any(part.startswith((".", "_")) for part in p.relative_to(NBS).parts))
CHAPTERS = [p for p in PATHS if re.match(r"\d\d_", p.name)]
EXPORT = {"export", "exports", "exporti"}
LONGEST = 25
STUB = "raise " + NotImplementedError.__name__   # what a reader is to replace


def name_of(path: Path) -> str: return path.relative_to(NBS).as_posix()
def load(path: Path) -> dict: return json.loads(path.read_text(encoding="utf-8"))
def source_of(cell: dict) -> str: return "".join(cell["source"])
def cells_of(notebook: dict, kind: str): return [(i, c) for i, c in enumerate(notebook["cells"]) if c["cell_type"] == kind and c["source"]]
def code_cells(notebook: dict): return cells_of(notebook, "code")
def texts(notebook: dict): return [(i, source_of(c)) for i, c in cells_of(notebook, "markdown")]
def is_last(cell: dict) -> bool: return "nbdev_export(" in source_of(cell)
def without_code(text: str) -> str: return re.sub(r"^(```|~~~).*?^\1[ \t]*$|`[^`\n]+`", "", text, flags=re.M | re.S)


def directives(cell: dict) -> dict[str, str]:
    "The `#| name: value` lines at the top of a cell; nbdev and Quarto read no others."
    found = {}
    for line in source_of(cell).lstrip().splitlines():
        match = re.match(r"#\|\s*([\w-]+):?\s*(.*)", line)
        if not match: break
        found[match[1]] = match[2].strip()
    return found


def statements(cell: dict) -> tuple[list[ast.stmt], bool]:
    "The statements of a cell, and whether it also holds a magic or a shell command."
    lines = source_of(cell).splitlines()
    if any(line.startswith("%%") for line in lines[:3] if line): return [], True
    plain = [line for line in lines if not line.lstrip().startswith(("%", "!"))]
    return ast.parse("\n".join(plain)).body, len(plain) < len(lines)


# --- rules -----------------------------------------------------------------------------------------------------------------------------

def title(notebook: dict, path: Path) -> list[str]:
    "The site takes title and description from the first cell, one line each, and drops the rest of it."
    first = source_of(notebook["cells"][0]).strip() if notebook["cells"] else ""
    if re.fullmatch(r"# \S[^\n]*\n\s*> \S[^\n]*[.?]", first) and notebook["cells"][0]["cell_type"] == "markdown": return []
    return ["the first cell has to be `# Title`, an empty line, `> one sentence.` on one line, and nothing else (the site drops it)"]


def imports_apart(notebook: dict, path: Path) -> list[str]:
    "A cell holds imports or other code, never both: building the site runs the cells that import."
    wrong = []
    for i, cell in code_cells(notebook):
        if is_last(cell): continue
        body, magic = statements(cell)
        importing = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
        inside = [] if EXPORT & directives(cell).keys() else [n for node in body for n in ast.walk(node)]
        inside = [n for n in inside if isinstance(n, (ast.Import, ast.ImportFrom))]
        if (any(importing) or inside) and (magic or not all(importing)): wrong.append(f"cell {i} holds imports and other code")
    return wrong


def short_cells(notebook: dict, path: Path) -> list[str]:
    "A cell that is read, not exported, stays within 25 lines."
    lengths = {i: sum(bool(line.strip()) and not line.startswith("#|") for line in source_of(cell).splitlines())
               for i, cell in code_cells(notebook) if not EXPORT & directives(cell).keys()}
    return [f"cell {i} has {n} lines, more than {LONGEST}" for i, n in lengths.items() if n > LONGEST]


PRIVATE = {
    "a path": r"(?<![\w.:/])/(?:home|root|work|tmp|var|usr|opt|mnt|private|Users|content)/\w|\b[A-Z]:\\\w|site-packages|ipykernel_\d",
    "an address in memory": r"\b0x[0-9a-fA-F]{6,}\b",
    "a date": r"\b20\d\d-[01]\d-[0-3]\d\b|\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?:\d\d? )?(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)",
    "a warning": r"\b[A-Z]\w*Warning\b|^WARNING\b",
    "a traceback": r"Traceback \(most recent call last\)",
    "terminal colours": r"\x1b\[",
}


def quiet_outputs(notebook: dict, path: Path) -> list[str]:
    "Outputs are the same on every machine: no path, address, date, warning or traceback."
    wrong = []
    for i, cell in code_cells(notebook):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error": wrong.append(f"cell {i} stores a traceback"); continue
            if output.get("name") == "stderr": wrong.append(f"cell {i} stores what it wrote to stderr"); continue
            kinds = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/") or k == "image/svg+xml"}
            for text in ("".join(t) for t in [output.get("text", ""), *(v for v in kinds.values() if isinstance(v, (str, list)))]):
                found = {what: re.search(pattern, text, re.M) for what, pattern in PRIVATE.items()}
                wrong += [f"cell {i} shows {what}: {match[0]!r}" for what, match in found.items() if match]
    return wrong


def pictures_described(notebook: dict, path: Path) -> list[str]:
    "Who cannot see a picture reads its alternative text."
    wrong = []
    for i, cell in code_cells(notebook):
        data = [output.get("data", {}) for output in cell.get("outputs", [])]
        pages = "".join("".join(d.get("text/html", "")) for d in data)
        pictured = any(kind.startswith("image/") for d in data for kind in d) or "<img" in pages
        alt = directives(cell).get("fig-alt")
        if alt is not None:
            try: alt = yaml.safe_load(alt)
            except yaml.YAMLError: wrong.append(f"cell {i}: fig-alt is not YAML, put it in quotes"); continue
        if (pictured or alt is not None) and not (isinstance(alt, str) and len(alt) >= 15):
            wrong.append(f'cell {i} shows a picture without `#| fig-alt: "what is to be seen"` at its top')
    for i, text in texts(notebook):
        for alt in re.findall(r"!\[([^\]]*)\]\(", without_code(text)) + re.findall(r"<img(?![^>]*\balt=\"[^\"]+\")[^>]*()>", text):
            if not alt.strip(): wrong.append(f"cell {i}: a picture without alternative text")
    return wrong


def headings(notebook: dict) -> list[tuple[int, str]]:
    "Level and text of every heading."
    plain = [re.sub(r"^(```|~~~).*?^\1[ \t]*$", "", text, flags=re.M | re.S) for _, text in texts(notebook)]
    return [(len(m[1]), m[2].strip()) for text in plain for m in re.finditer(r"^(#{1,6})\s+(.+?)\s*#*$", text, re.M)]


def headings_nest(notebook: dict, path: Path) -> list[str]:
    "One title; no level is skipped on the way down; no two headings share an anchor."
    levels, wrong = [level for level, _ in headings(notebook)], []
    if levels.count(1) != 1: wrong.append(f"{levels.count(1)} headings of level 1 instead of one")
    for (before, _), (level, text) in zip(headings(notebook), headings(notebook)[1:], strict=False):
        if level > before + 1: wrong.append(f"heading {text!r} skips a level")
    anchors = [anchor_of(text) for level, text in headings(notebook) if level > 1]   # the title is no heading on the site
    return wrong + [f"two headings lead to #{anchor}" for anchor in sorted(set(anchors)) if anchors.count(anchor) > 1]


def anchor_of(heading: str) -> str:
    "Pandoc's identifier of a heading: what `page.ipynb#identifier` means on the site."
    named = re.search(r"\{[^}]*#([\w-]+)[^}]*\}", heading)
    if named: return named[1]
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[^\w\s.-]", "", text, flags=re.U).strip().lower()
    return re.sub(r"^[\d\W_]+", "", re.sub(r"\s+", "-", text)) or "section"


LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|\b(?:href|src)=\"([^\"]+)\"")
OURS = (r"https://(?:colab\.research\.google\.com/github|github\.com)/msspose/msspose/(?:blob|tree|raw)/main/([^#?]+)",)
SITE = r"https://msspose\.github\.io/msspose/([\w/.-]*)"


def pages() -> set[str]:
    "The pages of the site; names lose their number."
    return {"", "index.html"} | {re.sub(r"(^|/)\d+[a-z0-9]*_", r"\1", name_of(p).lower()).replace(".ipynb", ".html") for p in PATHS}


def links_lead_somewhere(notebook: dict, path: Path) -> list[str]:
    "Every internal link has its target, with its anchor; so have links to the repository and to the site."
    wrong = []
    for i, text in texts(notebook):
        for target in (a or b for a, b in LINK.findall(without_code(text))):
            for pattern in OURS:
                found = re.match(pattern, target)
                if found and not (ROOT / found[1]).exists(): wrong.append(f"cell {i} links to {found[1]} of the repository, not there")
            found = re.match(SITE, target)
            if found and found[1] not in pages(): wrong.append(f"cell {i} links to {found[1]} of the site, not there")
            if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.I): continue
            file, _, anchor = target.partition("#")
            place = (path.parent / file).resolve() if file else path
            if file and not place.exists(): wrong.append(f"cell {i} links to {file}, which is not there"); continue
            if file and not place.is_relative_to(NBS): wrong.append(f"cell {i} links to {file}, not on the site: use its address on GitHub")
            if not anchor or (file and place.suffix != ".ipynb"): continue
            there = notebook if not file else load(place)
            if anchor not in {anchor_of(heading) for _, heading in headings(there)}:
                wrong.append(f"cell {i} links to #{anchor}, which is no heading of {place.name}")
    return wrong


def exports_last(notebook: dict, path: Path) -> list[str]:
    "A page with a module ends with a hidden cell that exports it."
    code = code_cells(notebook)
    if not any("default_exp" in directives(cell) for _, cell in code): return []
    i, last = code[-1]
    if i == len(notebook["cells"]) - 1 and is_last(last) and "hide" in directives(last): return []
    return ["the last cell has to be `#| hide` and `import nbdev; nbdev.nbdev_export()`"]


def not_started(notebook: dict, path: Path) -> list[str]:
    "A reader finds exercises unsolved, and without a complaint."
    wrong = []
    for i, cell in code_cells(notebook):
        if not checks_in(cell) or EXPORT & directives(cell).keys() or "hide" in directives(cell): continue
        shown = "".join("".join(o.get("text", "")) for o in cell.get("outputs", []) if o.get("name") == "stdout").split("\n")
        strange = [line for line in shown if line and line != "not started"]
        if strange and STUB in source_of(cell): wrong.append(f"cell {i}: the check of a stub says {strange[0]!r}")
    return wrong


RULES = [title, imports_apart, short_cells, quiet_outputs, pictures_described, headings_nest, links_lead_somewhere, exports_last,
         not_started]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_page(path, rule):
    wrong = rule(load(path), path)
    assert not wrong, f"{name_of(path)}: {rule.__doc__}\n" + "\n".join(wrong)


# --- the rules, on pages that break them -----------------------------------------------------------------------------------------------

def page(*cells, **changes) -> dict:
    "A small correct page; keywords replace what one of its cells says or shows."
    picture = {"output_type": "display_data", "data": {"image/png": "", "text/plain": "<picture>"}}
    good = {"first": "# Title\n\n> What you can do after this page.", "imports": "#| export\nimport math",
            "text": "## One\n\nProse.\n\n### Two of `these`\n\n[up](#one) [down](#two-of-these)",
            "code": '#| fig-alt: "A line that rises."\nplot()', "outputs": [picture],
            "last": "#| hide\nimport nbdev; nbdev.nbdev_export()", **changes}
    kinds = [("markdown", good["first"]), ("code", "#| default_exp page"), ("code", good["imports"]), ("markdown", good["text"]),
             ("code", good["code"]), ("code", good["last"])]
    made = [{"cell_type": kind, "source": text, **({"outputs": []} if kind == "code" else {})} for kind, text in kinds if text is not None]
    made[4]["outputs"] = good["outputs"]
    return {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def shows(text: str, **more) -> list[dict]: return [{"output_type": "stream", "name": "stdout", "text": [text], **more}]


BROKEN = [
    (title, {"first": "# Title"}), (title, {"first": "Title\n\n> A sentence."}), (title, {"first": "# Title\n\n> A sentence\n> goes on."}),
    (title, {"first": "# Title\n\n> A sentence.\n\n[badge](#one)"}),
    (imports_apart, {"imports": "import math\nx = math.pi"}), (imports_apart, {"imports": "#| export\nimport math\ndef f(): pass"}),
    (imports_apart, {"imports": "%matplotlib inline\nimport math"}), (imports_apart, {"imports": "!ls\nimport math"}),
    (imports_apart, {"imports": "def f():\n    import math"}), (imports_apart, {"imports": "try: import math\nexcept ImportError: pass"}),
    (short_cells, {"code": "\n".join(f"x{i} = {i}" for i in range(26)), "outputs": []}),
    (quiet_outputs, {"outputs": shows("saved in /ho" "me/you/file.png")}), (quiet_outputs, {"outputs": shows("C:\\" "Users\\you")}),
    (quiet_outputs, {"outputs": shows("<Axes at 0x7f12ab34cd56>")}), (quiet_outputs, {"outputs": shows("on 2024-05-17 we")}),
    (quiet_outputs, {"outputs": shows("UserWarning: mind")}), (quiet_outputs, {"outputs": shows("quiet", name="stderr")}),
    (quiet_outputs, {"outputs": [{"output_type": "error", "ename": "E", "evalue": "", "traceback": []}]}),
    (quiet_outputs, {"outputs": shows("Traceback (most recent call last)")}), (quiet_outputs, {"outputs": shows("\x1b[31mred")}),
    (quiet_outputs, {"outputs": [{"output_type": "display_data", "data": {"text/html": ["<b>/ro" "ot/x</b>"]}}]}),
    (pictures_described, {"code": "plot()"}), (pictures_described, {"code": '#| fig-alt: ""\nplot()'}),
    (pictures_described, {"code": '#| fig-alt: "A\nplot()'}), (pictures_described, {"code": 'plot()\n#| fig-alt: "A line that rises."'}),
    (pictures_described, {"text": "## One\n\n![](images/x.png)"}),
    (pictures_described, {"text": '<img src="images/x.png">'}),
    (headings_nest, {"text": "### Too deep"}), (headings_nest, {"text": "# Another title"}), (headings_nest, {"text": "## One\n\n## One"}),
    (links_lead_somewhere, {"text": "[there](nowhere.ipynb)"}), (links_lead_somewhere, {"text": "[there](#nowhere)"}),
    (links_lead_somewhere, {"text": "[there](index.ipynb#nowhere)"}), (links_lead_somewhere, {"text": "![there](images/nothing.png)"}),
    (links_lead_somewhere, {"text": "[[![b](https://x.y/b.svg)](https://github.com/msspose/msspose/blob/main/nbs/99_no.ipynb)"}),
    (links_lead_somewhere, {"text": "[a](https://msspose.github.io/msspose/nowhere.html)"}),
    (links_lead_somewhere, {"text": "[a](../Makefile)"}),
    (exports_last, {"last": None}), (exports_last, {"last": "import nbdev; nbdev.nbdev_export()"}),
    (not_started, {"code": f"def f(): {STUB}\ncheck('f', f)", "outputs": shows("no exercise 'f'\n")}),
]


@pytest.mark.parametrize("rule, changes", BROKEN, ids=[f"{rule.__name__}-{i}" for i, (rule, _) in enumerate(BROKEN)])
def test_rule_sees_what_is_broken(rule, changes):
    assert rule(page(**changes), NBS / "page.ipynb")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_accepts_a_good_page(rule):
    assert rule(page(), NBS / "page.ipynb") == []
    long = "#| exports\n" + "\n".join(f"x{i} = {i}" for i in range(40))
    assert rule(page(code=long, outputs=shows("not started\n")), NBS / "page.ipynb") == []


def test_anchors_are_pandocs():
    for heading, anchor in {"What the paper says, what we chose": "what-the-paper-says-what-we-chose",
                            "3. Dogs--in *my* house?": "dogs--in-my-house", "`encode` and [decode](x.ipynb)": "encode-and-decode",
                            "2.5": "section", "Named {#here}": "here"}.items():
        assert anchor_of(heading) == anchor


# --- the course as a whole -------------------------------------------------------------------------------------------------------------

def sidebar(contents: list) -> list[str]:
    "All pages named in the sidebar of _quarto.yml, in order."
    found = []
    for entry in contents:
        if isinstance(entry, str): found.append(entry)
        else: found += ([entry["href"]] if "href" in entry else []) + sidebar(entry.get("contents", []))
    return found


def test_every_page_is_in_the_sidebar_and_every_entry_exists():
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    listed = sidebar(site["sidebar"]["contents"])
    assert len(listed) == len(set(listed))
    assert set(listed) == {name_of(p) for p in PATHS}
    assert [n for n in listed if re.match(r"\d\d_", n)] == [p.name for p in CHAPTERS], "the sidebar has another order than the chapters"
    in_navbar = [item["href"] for item in site["navbar"]["left"] if "href" in item]
    assert all((NBS / href).exists() for href in in_navbar)


def test_page_names_stay_unique_without_their_numbers():
    names = [re.sub(r"^\d+[a-z0-9]*_", "", p.stem.lower()) for p in PATHS]
    assert len(set(names)) == len(names)


STATUS = {"ready", "first version", "to come"}


def table_of_chapters() -> dict[str, dict]:
    "What `index` says of every chapter, by its number or, in the reference, by its module."
    rows = {}
    for _, text in texts(load(NBS / "index.ipynb")):
        for line in text.splitlines():
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if len(cells) != 5 or not re.match(r"\[?(\d\d|reference)\b", cells[0]): continue
            link = re.search(r"\]\(([^)]+\.ipynb)\)", cells[0])
            module = cells[1].strip("`")
            number = re.match(r"\[?(\w+)", cells[0])[1]
            row = {"link": link and link[1], "module": module, "minutes": cells[3], "status": cells[4]}
            rows[number if number.isdigit() else module if module != "-" else link[1]] = row
    return rows


def test_index_lists_all_chapters():
    rows = table_of_chapters()
    assert set(rows) >= {f"{n:02}" for n in range(16)} | {"drawing", "checks"}
    assert {row["link"] for row in rows.values() if row["link"]} == {name_of(p) for p in PATHS if p.name != "index.ipynb"}
    for number, row in rows.items():
        assert row["status"] in STATUS, f"chapter {number} is {row['status']!r}"
        assert (row["status"] == "to come") == (row["link"] is None), f"chapter {number} is {row['status']}, and its page {row['link']}"


WITH_BADGE = [path for path in PATHS if "colab.research.google.com" in "".join(text for _, text in texts(load(path)))]


@pytest.mark.parametrize("path", WITH_BADGE, ids=name_of)
def test_colab_installs_what_is_missing_and_finds_its_files(path, tmp_path, monkeypatch):
    "The first cell, the same on each page but for the folder it goes to. Where msspose is there it does nothing."
    first = source_of(code_cells(load(path))[0][1])
    folder = path.parent.relative_to(ROOT).as_posix()
    assert first.replace(f"course/{folder}", "course/nbs") == source_of(code_cells(load(CHAPTERS[0]))[0][1])
    asked = []
    shell = {"get_ipython": lambda: SimpleNamespace(system=asked.append)}
    monkeypatch.chdir(tmp_path)
    exec(first, dict(shell))
    assert not asked and Path.cwd() == tmp_path
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "course" / folder).mkdir(parents=True)   # as git does
    exec(first, dict(shell))
    assert asked == ["git clone -q --depth 1 https://github.com/msspose/msspose course && pip install -q './course[colab]'"]
    assert Path.cwd() == tmp_path / "course" / folder


def test_every_chapter_opens_on_colab():
    assert set(CHAPTERS) <= set(WITH_BADGE)


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_index_knows_how_long_a_chapter_takes(path):
    said = re.search(r"\*Time:\*+ (\d+) minutes", "\n".join(text for _, text in texts(load(path))[:2]))
    assert said and said[1] == table_of_chapters()[path.name[:2]]["minutes"]


@pytest.mark.parametrize("path", [p for p in PATHS if p.name != "index.ipynb"], ids=name_of)
def test_page_has_its_module(path):
    named = [directives(cell)["default_exp"] for _, cell in code_cells(load(path)) if "default_exp" in directives(cell)]
    if name_of(path) in {row["link"] for row in table_of_chapters().values() if row["module"] == "-"}: return
    assert len(named) == 1 and (ROOT / "msspose" / f"{named[0]}.py").exists()
    assert named[0] in {row["module"] for row in table_of_chapters().values()}, "index names another module"


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_chapter_shows_a_picture_early(path):
    notebook = load(path)
    kinds = [(i, kind) for i, cell in code_cells(notebook) for output in cell["outputs"] for kind in output.get("data", {})]
    pictured = [i for i, kind in kinds if kind.startswith("image/")]
    badge = r"\[!\[[^\]]*\]\([^)]*\)\]"
    pictured += [i for i, text in texts(notebook) if "![" in re.sub(badge, "", without_code(text)) or "<img" in text]
    assert pictured, "no picture is stored: python tools/run_notebooks.py stores them"
    assert min(pictured) <= 11, "people look before they read: a picture within the first screen"


# --- exercises and widgets: what tests/test_lab.py runs ---------------------------------------------------------------------------------

def checks_in(cell: dict) -> list[ast.Call]:
    "The calls `check(name, answer)` of a cell."
    calls = [n for s in statements(cell)[0] for n in ast.walk(s) if isinstance(n, ast.Call)]
    return [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "check"]


def solutions_in(text: str) -> list[str]:
    "The python blocks inside <details>."
    hidden = "\n".join(re.findall(r"<details.*?</details>", text, re.S))
    return [textwrap.dedent(block) for block in re.findall(r"^[ ]*```python\n(.*?)^[ ]*```", hidden, re.M | re.S)]


def has_widgets(notebook: dict) -> bool:
    nodes = [n for _, cell in code_cells(notebook) for s in statements(cell)[0] for n in ast.walk(s)]
    return any(getattr(n, "id", getattr(n, "attr", None)) in ("interact", "interactive") for n in nodes)


def has_solutions(notebook: dict) -> bool: return any(solutions_in(text) for _, text in texts(notebook))


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_a_finished_chapter_has_three_exercises_and_a_widget(path):
    if table_of_chapters()[path.name[:2]]["status"] != "ready": return
    notebook = load(path)
    assert sum(text.count("<summary>Solution</summary>") for _, text in texts(notebook)) >= 3
    assert any(checks_in(cell) for _, cell in code_cells(notebook))
    assert has_widgets(notebook)
