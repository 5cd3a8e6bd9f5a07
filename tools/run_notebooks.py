"Run notebooks in place and store their outputs, as a reader will see them."
from __future__ import annotations

import argparse
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent / "nbs"


def outputs_of(cell, result, count: int) -> list[dict]:
    "What a cell printed and showed, in notebook format. An interactive widget has no life on a page: its static twin stands beside it."
    outputs = []
    if result.stderr.strip(): raise RuntimeError(f"a cell wrote to stderr, which a reader would see:\n{result.stderr}")
    if result.stdout: outputs.append({"name": "stdout", "output_type": "stream", "text": result.stdout.splitlines(True)})
    shown = [(o.data, o.metadata or {}, "display_data") for o in result.display_objects]
    for data, metadata, kind in shown:
        if "application/vnd.jupyter.widget-view+json" in data or data.get("text/plain", "").startswith("interactive("): continue
        data = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in data.items()}
        data = {k: v if k.startswith("image/") and k != "image/svg+xml" else v.splitlines(True)
                for k, v in data.items() if isinstance(v, str)}
        if any(k.startswith("image/") for k in data): data["text/plain"] = ["<picture>"]
        outputs.append({"data": data, "metadata": metadata, "output_type": kind})
    return outputs


def run(path: Path) -> None:
    "Execute one notebook from its own folder and write it back with its outputs."
    from execnb.shell import CaptureShell

    os.chdir(path.parent)
    os.environ["MSSPOSE_PROGRESS"] = os.devnull   # what a page solves is not what the one who runs it has solved
    notebook = json.loads(path.read_text(encoding="utf-8"))
    shell = CaptureShell(path.parent, mpl_format="png")
    shell._run("import matplotlib; matplotlib.rcParams['figure.dpi'] = 110")
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code": continue
        source = "".join(cell["source"])
        cell["execution_count"], cell["outputs"] = None, []
        if re.search(r"^#\|\s*eval:\s*false", source, re.M) or not source.strip(): continue
        result = shell._run(source)
        if result.exception:
            raise SystemExit(f"{path.name}, cell {number}:\n{source}\n{type(result.exception).__name__}: {result.exception}")
        value = result.result.result
        cell["outputs"] = outputs_of(cell, result, number)
        if value is not None and not result.quiet and "nbdev_export" not in source:
            data, metadata = shell.display_formatter.format(value)
            widget = "application/vnd.jupyter.widget-view+json" in data
            if data and not widget and not data.get("text/plain", "").startswith(("interactive(", "<function")):
                holder = type("Shown", (), {"data": data, "metadata": metadata})
                fake = type("Result", (), {"stderr": "", "stdout": "", "display_objects": [holder]})
                cell["outputs"] += outputs_of(cell, fake, number)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of nbs/")
    names = parser.parse_args().notebooks or sorted(p for p in NBS.rglob("*.ipynb") if "checkpoints" not in str(p))
    if len(names) == 1: return run(names[0].resolve())
    for name in names:   # a process each: no chapter lives off another's state
        print(name.name, flush=True)
        subprocess.run([sys.executable, __file__, str(name)], check=True)


if __name__ == "__main__": main()
