"""Break one line at a time, chosen at random, and see whether a test fails: python tools/mutate.py --lines 2 --seed 0 > mutations.md

Works on a copy. A comparison is turned round, + becomes -, `and` becomes `or`, `not` goes, a number grows by one, True becomes False. What
may see it is what make test runs, the nearest first: the tests of the module; where these see nothing its chapter, which is to show what it
stores; then the tests of other modules that import it. Before each of them is first asked it runs with nothing broken: it passes, and tells
how long it may take."""
from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPARE = {ast.Lt: ">=", ast.Gt: "<=", ast.LtE: ">", ast.GtE: "<", ast.Eq: "!=", ast.NotEq: "==",
           ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"}
CALCULATE = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "//"}


def changed(node: ast.AST, source: str) -> str | None:
    "What is written in the place of a node; None where nothing is."
    def text(part: ast.AST) -> str: return ast.get_source_segment(source, part)

    match node:
        case ast.Compare(ops=[op]): return f"{text(node.left)} {COMPARE[type(op)]} {text(node.comparators[0])}"
        case ast.BinOp() if type(node.op) in CALCULATE and not any(map(is_text, (node.left, node.right))):
            return f"({text(node.left)}) {CALCULATE[type(node.op)]} ({text(node.right)})"
        case ast.BoolOp():
            other = " or " if isinstance(node.op, ast.And) else " and "
            return "(" + other.join(f"({text(value)})" for value in node.values) + ")"
        case ast.UnaryOp(op=ast.Not()): return f"bool({text(node.operand)})"
        case ast.Constant(value=bool()): return repr(not node.value)
        case ast.Constant(value=int() | float()): return repr(node.value + 1)


def is_text(node: ast.AST) -> bool: return isinstance(node, ast.JoinedStr) or isinstance(getattr(node, "value", None), str)


def mutations(source: str) -> dict[int, list[tuple[ast.AST, str]]]:
    "For each line in a body of a function, what may become of it."
    found = {}
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    for node in {part for function in functions for statement in function.body for part in ast.walk(statement)}:
        if getattr(node, "lineno", 0) == getattr(node, "end_lineno", -1) and (new := changed(node, source)) is not None:
            found.setdefault(node.lineno, []).append((node, new))
    return {line: sorted(ways, key=lambda way: way[0].col_offset) for line, ways in sorted(found.items())}


def with_change(source: str, node: ast.AST, new: str) -> str:
    lines = source.splitlines(True)
    line = lines[node.lineno - 1].encode()
    lines[node.lineno - 1] = (line[:node.col_offset] + new.encode() + line[node.end_col_offset:]).decode()
    return "".join(lines)


def commands(module: str, copy: Path) -> dict[str, list[str]]:
    "What may see that a module is broken, by name, in its order."
    run, own, pages = ["-m", "pytest", "-x", "-p", "no:cacheprovider"], f"tests/test_{module}.py", "tests/test_lab.py"
    page = (copy / "msspose" / f"{module}.py").read_text(encoding="utf-8").partition("File to edit: ../")[2].split("\n")[0].rstrip(".")
    found = {"tests": [*run, own]} if (copy / own).exists() else {}
    is_chapter = Path(page).name[:2].isdigit() and (copy / pages).exists()
    found["chapter"] = [*run, pages, "-k", f"{Path(page).stem} and not learner"] if is_chapter else \
        ["-c", f"from nbdev.test import nbdev_test; nbdev_test({page!r}, n_workers=0)"]
    uses = re.compile(rf"\bmsspose\.{module}\b|from msspose import [^\n]*\b{module}\b")
    others = [f"tests/{file.name}" for file in sorted((copy / "tests").glob("test_*.py")) if uses.search(file.read_text(encoding="utf-8"))]
    others = [file for file in others if file not in (own, pages, "tests/test_repository.py")]   # the last looks at a whole checkout
    return found | ({"other tests": [*run, *others]} if others else {})


def passes(command: list[str], copy: Path, limit: float | None = None) -> bool | None:
    "None: it took longer than the limit."
    # No bytecode: Python tells old from new by size and second, and two broken modules may share both.
    env = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "MSSPOSE_PROGRESS": os.devnull, "PYTHONDONTWRITEBYTECODE": "1",
                        "MSSPOSE_BROWSER": "none", "MSSPOSE_DATA": os.environ.get("MSSPOSE_DATA") or str(ROOT.parent / "shared" / "data")}
    try: return not subprocess.run([sys.executable, *command], cwd=copy, env=env, capture_output=True, timeout=limit).returncode
    except subprocess.TimeoutExpired: return None


def mutate(module: str, lines: int, seed: int, copy: Path) -> list[dict]:
    "Break lines of one module; a row for each."
    path, rng, rows, limits = copy / "msspose" / f"{module}.py", random.Random(f"{seed} {module}"), [], {}
    source = path.read_text(encoding="utf-8")
    ways, what = mutations(source), commands(module, copy)

    def unbroken(name: str) -> float:
        "Seconds that its tests may take: far more than they take where nothing is broken."
        path.write_text(source, encoding="utf-8")
        started = time.monotonic()
        if not (passes(what[name], copy) or passes(what[name], copy)):   # a second time: a busy machine may be too slow for one of them
            raise SystemExit(f"{module}: its {name} fail before anything is broken: {' '.join(what[name])}")
        return 60 + 5 * (time.monotonic() - started)

    try:
        for line in sorted(rng.sample(sorted(ways), min(lines, len(ways)))):
            broken, seen = with_change(source, *rng.choice(ways[line])), ""
            for name, command in what.items():
                if name not in limits: limits[name] = unbroken(name)
                path.write_text(broken, encoding="utf-8")
                if good := passes(command, copy, limits[name]): continue
                seen = name if good is False else f"{name}: no end"
                break
            rows.append({"module": module, "line": line, "was": source.splitlines()[line - 1].strip(),
                         "became": broken.splitlines()[line - 1].strip(), "seen by": seen})
            print("|".join(["", *(f" {str(value).replace('|', chr(92) + '|')} " for value in rows[-1].values()), ""]), flush=True)
    finally: path.write_text(source, encoding="utf-8")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="modules to break; none: all that a notebook exports")
    parser.add_argument("--lines", type=int, default=2, help="of each module")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    everything = [path.stem for path in sorted((ROOT / "msspose").glob("[a-z]*.py"))]
    if unknown := set(asked.modules) - set(everything): parser.error(f"no such module: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="msspose-mutate-") as folder:
        copy = Path(folder) / "msspose"
        made = shutil.ignore_patterns(".git", ".venv", "build", "dist", "runs", "_docs", "_proc", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=made)
        print("| module | line | was | became | seen by |\n| --- | ---: | --- | --- | --- |", flush=True)
        rows = [row for module in asked.modules or everything for row in mutate(module, asked.lines, asked.seed, copy)]
    print(f"\n{sum(bool(row['seen by']) for row in rows)} of {len(rows)} are seen")


if __name__ == "__main__": main()
