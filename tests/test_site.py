"""The site: what nbdev makes of every page, and, where Quarto is installed, the site itself, without a warning and in a real browser.

What the browser looks for is also tried on pages made by hand, good and broken, so that it is tested where Quarto is not."""
import contextlib
import functools
import http.server
import json
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
from lab import FLAGS, browser, lacking
from test_notebooks import NBS, PATHS, code_cells, directives, load, name_of, source_of

HEAVIEST = 3_000_000                              # bytes of a page
WIDTHS = {"phone": 390, "desk": 1280}             # of a window, in CSS pixels
SEEN = ("color-contrast", "image-alt", "link-name", "button-name", "document-title", "html-has-lang", "label")   # rules of axe-core
WITHOUT_QUARTO = "" if shutil.which("quarto") else "Quarto is not installed: https://quarto.org"
SITE = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    "The pages as Quarto gets them: nbdev has taken out what is hidden, and documented what is exported."
    copy = tmp_path_factory.mktemp("site") / "msspose"
    made = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "_docs", "_proc", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=made)
    done = subprocess.run([sys.executable, "-c", "from nbdev.serve import proc_nbs; proc_nbs('', n_workers=2, force=True)"], cwd=copy,
                          env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    return copy / "_proc"


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_page_is_ready_for_quarto(path, processed):
    page = load(processed / name_of(path))
    head = yaml.safe_load("".join(page["cells"][0]["source"]).strip().strip("-"))
    assert head["title"] and head["description"], "title and description come from the first cell"
    assert (processed / name_of(path)).stat().st_size <= HEAVIEST
    sources = [source_of(cell) for _, cell in code_cells(page)]
    assert not any("nbdev_export(" in source or "course[colab]" in source for source in sources), "what is hidden stands on the page"
    for _, cell in code_cells(page):
        pictures = any(kind.startswith("image/") for output in cell["outputs"] for kind in output.get("data", {}))
        assert not pictures or "fig-alt" in directives(cell), source_of(cell)[:80]


@pytest.mark.parametrize("path", [path for path in PATHS if re.match(r"\d\d_", path.name) and not path.name.startswith("15_")], ids=name_of)
def test_what_a_chapter_exports_is_documented_there(path, processed):
    public = {node for _, cell in code_cells(load(path)) if {"export", "exports"} & directives(cell).keys()
              for node in re.findall(r"^(?:def|class) ([A-Za-z]\w*)", source_of(cell), re.M)}
    documented = json.dumps(load(processed / name_of(path)))
    assert [name for name in sorted(public) if f"### {name}" not in documented] == []


def test_the_site_has_all_that_a_site_has():
    website, html = SITE["website"], SITE["format"]["html"]
    assert html["theme"].keys() == {"light", "dark"} and html["toc"] and (NBS / html["css"]).exists()
    assert all(website[name] for name in ("page-navigation", "search", "open-graph", "twitter-card", "image-alt"))
    assert all((NBS / website[name]).exists() for name in ("favicon", "image"))
    assert [part["section"] for part in website["sidebar"]["contents"][1:]] == ["The pieces", "The system", "Full scale", "Reference"]
    assert all((NBS / entry["href"]).exists() for entry in website["navbar"]["left"])
    head, text = (NBS / "404.qmd").read_text(encoding="utf-8").strip("-\n").split("\n---\n")
    assert yaml.safe_load(head)["title"] and all((NBS / link.lstrip("/")).exists() for link in re.findall(r"\]\(([^)]+)\)", text))


# --- in the browser --------------------------------------------------------------------------------------------------------------------

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@contextlib.contextmanager
def served(folder: Path):
    "A folder on this machine alone; its address."
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try: yield f"http://127.0.0.1:{server.server_port}"
        finally: server.shutdown()


def site_faults(folder: Path, pages: list[str]) -> list[str]:
    "What a reader would stumble over, on each page at each width."
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    faults, said = [], []
    with served(folder) as address, sync_playwright() as playwright, \
            playwright.chromium.launch(executable_path=browser(), args=FLAGS) as chromium:
        for name, width in WIDTHS.items():
            page = chromium.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message: said.append((message.type, message.text, message.location["url"])))
            page.on("pageerror", lambda error: said.append(("error", str(error), address)))
            for path in pages:
                said.clear()
                page.goto(f"{address}/{path}", wait_until="load")
                found = [text for kind, text, url in said if kind == "error" and url.startswith(address)]   # ours; elsewhere all is blocked
                if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1"):
                    found.append(f"scrolls sideways: {page.evaluate(WIDEST)}")
                result = Axe().run(page, options={"runOnly": {"type": "rule", "values": list(SEEN)}})
                found += [f"{v['id']}: {v['nodes'][0]['html'][:120]}" for v in result.response["violations"]]
                faults += [f"{path} on a {name}: {fault}" for fault in found]
            page.close()
    return faults


# The element that reaches farthest to the right.
WIDEST = """[...document.body.querySelectorAll('*')].sort((a, b) => b.getBoundingClientRect().right - a.getBoundingClientRect().right)[0]
            .outerHTML.slice(0, 120)"""

PAGE = """<!doctype html><html lang="en"><head><meta name="viewport" content="width=device-width"><title>{title}</title>
<link rel="icon" href="data:,"></head><body><main><h1>A page</h1>{body}</main></body></html>"""
BROKEN = {
    "good": ("<p>Text.</p><img src='data:,' alt='nothing'><a href='#'>a link</a>", ""),
    "script": ("<script>nothing.here()</script>", "nothing is not defined"),
    "missing": ("<img src='away.png' alt='gone'>", "404"),
    "wide": ("<div style='width: 900px'>wide</div>", "on a phone: scrolls sideways: <div"),
    "pale": ("<p style='color: #ccc'>pale</p>", "color-contrast"),
    "nameless": ("<a href='#'></a>", "link-name"),
    "unseen": ("<img src='data:,'>", "image-alt"),
    "elsewhere": ("<img src='https://example.org/one.png' alt='not ours'>", ""),
}


@pytest.mark.skipif(bool(lacking()), reason=lacking())
def test_the_browser_sees_what_is_broken(tmp_path):
    for name, (body, _) in BROKEN.items(): (tmp_path / f"{name}.html").write_text(PAGE.format(title=name, body=body), encoding="utf-8")
    faults = site_faults(tmp_path, [f"{name}.html" for name in BROKEN])
    for name, (_, words) in BROKEN.items():
        mine = [fault for fault in faults if fault.startswith(f"{name}.html")]
        assert bool(mine) == bool(words) and words in " ".join(mine), mine


@pytest.fixture(scope="module")
def rendered(processed):
    "The site, and what Quarto said."
    said = subprocess.run(["quarto", "render", "--no-cache"], cwd=processed, capture_output=True, text=True)
    return processed / "_docs", said


@pytest.mark.skipif(bool(WITHOUT_QUARTO), reason=WITHOUT_QUARTO)
def test_quarto_has_nothing_to_say(rendered):
    folder, said = rendered
    assert not said.returncode and not [line for line in (said.stdout + said.stderr).splitlines() if re.search(r"WARN|ERROR", line)]
    assert len(list(folder.rglob("*.html"))) == len(PATHS) + 1, "a page for each notebook, and 404"


@pytest.mark.skipif(bool(WITHOUT_QUARTO or lacking()), reason=WITHOUT_QUARTO or lacking())
def test_every_page_is_fit_to_read_on_a_phone_and_at_a_desk(rendered):
    folder, _ = rendered
    assert not site_faults(folder, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html")))
