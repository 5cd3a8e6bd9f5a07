"Resolve the exact versions that development and CI use, for every Python and system we support, into constraints.txt."
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "constraints.txt"
PINS = ["torch==2.13.0"]                    # held whatever --upgrade finds: moving it is a decision of its own
LEFT_OUT = ("cuda-", "nvidia-", "triton")   # PyTorch pins what belongs to its CUDA builds by itself, and the CPU builds have none of it
OPTIONS = ["--all-extras", "--universal", "--python-version", "3.10", "--no-annotate", "--no-header", "--no-python-downloads"]
HEADER = f"""\
# The exact versions that development and CI use: Python 3.10 to 3.13 on Linux, macOS and Windows.
# Not a list to install: pip and uv look here for the version of what pyproject.toml asks for.
# Made by `make constraints` (kept where possible) or `make constraints UPGRADE=1` (the newest), which run
#   uv pip compile pyproject.toml {" ".join(OPTIONS[:-2])}
# with {", ".join(PINS)} held, and leave out {", ".join(name + "*" for name in LEFT_OUT)}.
"""


def uv() -> str:
    "The uv on the PATH, or the one installed beside this Python."
    found = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".venv" / ("Scripts" if os.name == "nt" else "bin")))
    if not found: sys.exit("make constraints needs uv, which resolves for all systems at once: install it, then try again")
    return found


def resolve(upgrade: bool) -> str:
    "The resolution, starting from the versions of today unless all of them may move."
    with tempfile.TemporaryDirectory() as folder:
        held, result = Path(folder, "held.txt"), Path(folder, "constraints.txt")
        held.write_text("\n".join(PINS) + "\n", encoding="utf-8")
        if TARGET.exists() and not upgrade: shutil.copy(TARGET, result)
        files = ["--constraint", str(held), "--output-file", str(result)]
        done = subprocess.run([uv(), "pip", "compile", "pyproject.toml", *OPTIONS, "--quiet", *files], cwd=ROOT)
        if done.returncode: sys.exit("nothing was written: the requirements of pyproject.toml cannot be resolved together, see above")
        lines = result.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line and not line.startswith(LEFT_OUT)) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions, not those of today")
    TARGET.write_text(HEADER + resolve(parser.parse_args().upgrade), encoding="utf-8", newline="\n")


if __name__ == "__main__": main()
