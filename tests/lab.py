"""A JupyterLab of our own, driven in a real browser as a learner drives it: open a notebook, run it, move what moves, type a solution.

What is seen comes back as a `Visit`; whether it is good is for the tests to say."""
from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--remote-debugging-port=0", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},   # every cell is there, also those out of sight
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},     # the file then holds what the widgets show
}
LONG = 300_000   # milliseconds: a chapter takes one minute alone, and on a busy machine several; only what is broken takes as long
ERRORS = "[data-mime-type='application/vnd.jupyter.error'], .jupyter-widgets-error-widget, .jupyter-widgets-error"
STDERR = "[data-mime-type='application/vnd.jupyter.stderr']"
CONTROLS = ".noUi-handle, select, input[type=checkbox]"


def lacking() -> str:
    "Why no browser can be driven here; empty when one can."
    for name in ("jupyterlab", "ipywidgets", "playwright"):
        if not importlib.util.find_spec(name): return f"{name} is not installed: pip install -e '.[dev]' -c constraints.txt"
    return "" if browser() else f"no browser: none of {', '.join(BROWSERS)} is on the PATH"


def browser() -> str | None:
    "MSSPOSE_BROWSER=none: as if there were none, which is faster."
    if os.environ.get("MSSPOSE_BROWSER") == "none": return None
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@dataclass
class Visit:
    "What was seen of one notebook."
    done: dict = field(default_factory=dict)                       # the notebook as JupyterLab saved it after the run
    widgets: int = 0                                               # that show sliders
    still: list[str] = field(default_factory=list)                 # controls that were moved, and no figure changed
    moved: int = 0                                                 # controls that changed a figure
    answers: list[tuple[str, str]] = field(default_factory=list)   # what each exercise said before and after its solution was typed
    errors: list[str] = field(default_factory=list)                # errors and complaints on the page, in widgets too


class Browser:
    "A Chromium that stays open: a new one would read and compile JupyterLab for each page, which takes longer than some pages take to run."
    def __init__(self, home: Path):
        home.mkdir(parents=True)
        with open(home / "browser.log", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([browser(), *FLAGS, f"--user-data-dir={home}"], stdout=log, stderr=log)
        listens, end = home / "DevToolsActivePort", time.monotonic() + LONG / 1000
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError, ValueError):     # not there yet, or half written
                port, path = listens.read_text(encoding="utf-8").split()
                self.address = f"ws://127.0.0.1:{port}{path}"
                return
            time.sleep(0.1)
        ended(self.process)
        raise RuntimeError(f"the browser does not answer:\n{(home / 'browser.log').read_text(encoding='utf-8')[-2000:]}")


def ended(process: subprocess.Popen) -> None:
    process.terminate()
    try: process.wait(30)
    except subprocess.TimeoutExpired: process.kill(); process.wait()


class Lab:
    "A server on this machine alone, with a folder of notebooks, and settings that ask nobody for news."
    def __init__(self, notebooks: Path, home: Path):
        self.notebooks, self.token = notebooks, secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name, values in SETTINGS.items():
            path = home / "settings" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values), encoding="utf-8")
        own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython",
               "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
        env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
        env |= {name: str(home / folder) for name, folder in own.items()}
        env |= {"JUPYTER_TOKEN": self.token, "OMP_NUM_THREADS": "1", "IN_TEST": "1"}
        options = ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}",
                   "--ServerApp.port_retries=0", f"--ServerApp.root_dir={notebooks}", "--LabApp.extension_manager=readonly",
                   "--LabApp.expose_app_in_browser=True"]
        self.log = home / "server.log"
        self.home, self.browsers, self.idle = home, [], SimpleQueue()     # idle: who visits nothing now
        self.cleaner, self.ending = ThreadPoolExecutor(1), []             # kernels take a second to end; nobody waits for it
        with open(self.log, "w", encoding="utf-8") as log:
            self.server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env, stdout=log, stderr=log, cwd=home)
        self.wait()

    def ask(self, path: str, method: str = "GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", method=method,
                                         headers={"Authorization": f"token {self.token}"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer: return answer.read()

    def wait(self, seconds: float = LONG / 1000) -> None:
        "Until the server answers."
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.server.poll() is None:
            with contextlib.suppress(OSError):
                self.ask("api/status")
                return
            time.sleep(0.3)
        self.close()
        raise RuntimeError(f"JupyterLab does not answer:\n{self.log.read_text(encoding='utf-8')[-2000:]}")

    def end_kernels(self, name: str) -> None:
        "Those of one notebook."
        for session in json.loads(self.ask("api/sessions")):
            if session["path"] == name: self.ask(f"api/sessions/{session['id']}", "DELETE")

    def close(self) -> None:
        try:
            for job in self.ending: job.result()
        finally:
            self.cleaner.shutdown()
            for process in (*(one.process for one in self.browsers), self.server): ended(process)

    @contextlib.contextmanager
    def one_browser(self):
        "One that nobody else drives: who drives a browser is told all that happens in it."
        try: one = self.idle.get_nowait()
        except Empty:
            one = Browser(self.home / "browsers" / secrets.token_hex(4))
            self.browsers.append(one)
        try: yield one
        finally: self.idle.put(one)

    def visit(self, name: str, notebook: dict, exercises: list[tuple[int, str]], picture: Path | None = None,
              patience: float = 60) -> Visit:
        "Open a notebook, run all of it, move every control, type the solution into each (cell, text) of `exercises`."
        from playwright.sync_api import sync_playwright

        path = self.notebooks / name
        path.write_text(json.dumps(notebook), encoding="utf-8")
        with self.one_browser() as one, sync_playwright() as playwright, playwright.chromium.connect_over_cdp(one.address) as chromium:
            page = self.opened(chromium.contexts[0], name)
            whole = False
            try:
                seen = self.on(page, path, exercises, patience)
                whole = True
                return seen
            finally:
                if picture: page.screenshot(path=picture)
                if not whole: page.close()     # who comes next finds nothing half done
                self.ending.append(self.cleaner.submit(self.end_kernels, name))

    def opened(self, context, name: str):
        "The tab of the browser, with one notebook open and its kernel ready. JupyterLab is loaded once: that takes as long as many a page."
        address = f"http://127.0.0.1:{self.port}/lab"
        page = next((page for page in context.pages if page.url.startswith(address)), None)
        if not page:
            page = context.new_page()
            page.goto(f"{address}?reset&token={self.token}", timeout=LONG)
        page.set_viewport_size({"width": 1280, "height": 1000})
        page.set_default_timeout(LONG)
        page.wait_for_function("() => 'jupyterapp' in window")
        page.evaluate(OPEN, name)
        return page

    def on(self, page, path: Path, exercises: list[tuple[int, str]], patience: float) -> Visit:
        seen = Visit()
        page.locator(".lm-MenuBar-item", has_text=re.compile("^Run$")).click()      # by its role it is looked for in each cell, too
        page.locator(".lm-Menu-item", has_text=re.compile("^Run All Cells$")).click()
        page.wait_for_function(ENDED, polling=500)   # milliseconds; by default it asks with every frame
        idle(page)
        seen.done = saved(page, path)
        seen.errors += complaints(page.locator(".jp-Notebook"))
        if seen.errors: return seen     # after an error JupyterLab runs no further
        for number, solution in exercises: seen.answers.append(answered(page, number, solution))
        for widget in page.locator(".widget-interact").all():
            seen.widgets += 1
            for control in widget.locator(CONTROLS).all():
                changed = turned(page, widget, control, patience)
                seen.errors += complaints(widget)
                if changed: seen.moved += 1
                else: seen.still.append(control.evaluate(LABEL))
        seen.errors += [error for error in complaints(page.locator(".jp-Notebook")) if error not in seen.errors]
        return seen


# What was open is closed, and not saved.
OPEN = """async path => {
    await jupyterapp.restored;
    for (const open of [...jupyterapp.shell.widgets('main')]) {
        if (open.context) open.context.model.dirty = false;
        open.close();
    }
    const opened = await jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'});
    await opened.context.ready;
    await opened.sessionContext.ready;
    await opened.revealed;
}"""


# Every cell has a number, none a star; or an error has ended the run, and nothing waits any more.
ENDED = """() => {
    const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')].map(p => p.textContent);
    return cells.some(t => /\\d/.test(t)) && !cells.some(t => t.includes('*'));
}"""


# What tells one figure from another: a figure itself is a megabyte that would have to be sent.
DIGESTS = """images => images.map(image => {
    let digest = 0;
    for (const c of image.src) digest = (31 * digest + c.charCodeAt(0)) | 0;
    return `${image.src.length} ${digest}`;
})"""


# What stands beside a control.
LABEL = "e => (e.closest('.jupyter-widgets')?.querySelector('.widget-label') ?? e.parentElement).innerText.trim()"


def idle(page) -> None: page.locator("#jp-main-statusbar", has_text="Idle").wait_for()


def saved(page, path: Path) -> dict:
    "The notebook with its outputs, as JupyterLab writes it on Ctrl-S."
    before = path.stat().st_mtime_ns
    page.locator(".jp-Notebook").focus()
    page.keyboard.press("ControlOrMeta+s")
    end = time.monotonic() + LONG / 1000
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            if path.stat().st_mtime_ns != before: return json.loads(path.read_text(encoding="utf-8"))
        page.wait_for_timeout(200)
    raise TimeoutError(f"{path.name} was not saved")


def complaints(place) -> list[str]:
    "Errors and what was written to stderr, in cells and in widgets."
    return [f"{what}: {text.strip()[-300:]}" for what, where in (("an error", ERRORS), ("on stderr", STDERR))
            for text in place.locator(where).all_inner_texts()]


def answered(page, number: int, solution: str) -> tuple[str, str]:
    "What a cell printed before and after a solution was typed over it and run."
    cell = page.locator(".jp-Notebook .jp-Cell").nth(number)
    output = cell.locator(".jp-Cell-outputArea")
    before = output.inner_text().strip()
    prompt = cell.locator(".jp-InputPrompt").first.inner_text()
    cell.locator(".cm-content").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.insert_text(solution)
    page.keyboard.press("Shift+Enter")
    page.wait_for_function("([prompt, old]) => /\\d/.test(prompt.textContent) && prompt.textContent != old",
                           polling=100, arg=[cell.locator(".jp-InputPrompt").first.element_handle(), prompt])
    idle(page)
    return before, output.inner_text().strip()


def pictures(widget) -> list[str]:
    "What its figures are, all at one moment: one that is asked later may be gone, and would be waited for."
    return widget.locator("img").evaluate_all(DIGESTS)


def settled(page, widget) -> list[str]:
    "Its figures, when they have stopped changing after the control before; each is marked, so that a new one is known by its lack."
    now, before = pictures(widget), None
    while now != before:
        page.wait_for_timeout(200)
        now, before = pictures(widget), now
    widget.locator("img").evaluate_all("images => images.forEach(image => { image.dataset.old = 1; })")
    return now


def turned(page, widget, control, patience: float) -> bool:
    "Move a slider by its keys, a list by its entries, a box by a click, until the figure is another; not after an error."
    def value() -> str: return control.evaluate("e => `${e.getAttribute('aria-valuenow')} ${e.value} ${e.checked}`")

    control.scroll_into_view_if_needed()
    kind = control.evaluate("e => e.tagName")
    if kind == "INPUT": ways = [control.click]
    elif kind == "SELECT": ways = [lambda i=i: control.select_option(index=i) for i in range(control.locator("option").count())]
    else: ways = [lambda key=key: control.press(key) for key in ("ArrowRight", "ArrowLeft", "End", "Home")]
    for act in ways:
        before, stood = settled(page, widget), value()
        act()
        if value() == stood: continue    # it was at its end
        end = time.monotonic() + patience
        while time.monotonic() < end and not complaints(widget):
            if widget.locator("img:not([data-old])").count(): break    # drawn anew, though perhaps the same
            page.wait_for_timeout(50)
        if complaints(widget): return False
        if (now := pictures(widget)) and now != before: return True
    return False
