"Write README.md from nbs/index.ipynb, without Quarto: `--check` only says whether it is up to date."
from __future__ import annotations

import argparse
import configparser
import json
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?P<head>!?\[(?:[^\[\]]|!?\[[^\]]*\]\([^)]*\))*\]\()(?P<target>[^)\s]+)(?P<tail>(?:\s+\"[^\"]*\")?\))")
ATTRIBUTE = re.compile(r"(?P<head>\b(?:src|href)=\")(?P<target>[^\"]+)(?P<tail>\")")
FENCE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)[ \t]*$|`[^`\n]+`)", re.M | re.S)
NOTE = "<!-- Made from nbs/index.ipynb by `make prepare`: edit that notebook. -->\n"


def page(target: str, site: str) -> str:
    "The address on the site of a notebook named as in nbs/: `00_skeleton.ipynb#joints` -> `SITE/skeleton.html#joints`."
    path, _, anchor = target.partition("#")
    name = re.sub(r"^\d+[a-zA-Z0-9]*_", "", posixpath.basename(path).lower()).removesuffix(".ipynb") + ".html"
    return "/".join(part for part in (site, posixpath.dirname(path), name) if part) + ("#" + anchor if anchor else "")


def moved(target: str, site: str) -> str:
    "A link of nbs/index.ipynb as README.md has to write it: notebooks go to the site, other files stay relative, addresses stay."
    if re.match(r"[a-z][a-z0-9+.-]*:|#|//", target, re.I): return target
    if target.partition("#")[0].endswith(".ipynb"): return page(posixpath.normpath(target), site)
    return posixpath.normpath(posixpath.join("nbs", target))


def relink(text: str, site: str) -> str:
    "Markdown with its links moved, code left alone."
    def one(match): return match["head"] + moved(match["target"], site) + match["tail"]

    def links(part):   # a badge is a picture inside a link: the inner one first
        inner = re.sub(r"(!\[[^\]]*\]\()([^)\s]+)(\))", lambda m: m[1] + "\0" + moved(m[2], site) + m[3], part)
        outer = LINK.sub(lambda m: m[0] if m["target"].startswith("\0") else one(m), inner)
        return ATTRIBUTE.sub(one, outer).replace("\0", "")
    return "".join(part if i % 2 else links(part) for i, part in enumerate(FENCE.split(text)))


def shown(cell: dict) -> str:
    "A code cell as Markdown: its source and what it printed. Hidden cells vanish."
    source = "".join(cell["source"])
    directives = dict(re.findall(r"^#\|\s*([\w-]+):?[ \t]*(.*)$", source, re.M))
    if directives.keys() & {"hide", "default_exp", "export", "exporti"} or "nbdev_export(" in source or not source.strip(): return ""
    printed = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if any(kind.startswith("image/") for kind in data):
            raise SystemExit("nbs/index.ipynb: README.md cannot hold the picture a cell shows; save it in nbs/images and link it")
        printed.append("".join(output.get("text", data.get("text/plain", ""))))
    code = "\n".join(line for line in source.splitlines() if not line.startswith("#|")).strip()
    blocks = [] if directives.get("echo") == "false" else [f"```python\n{code}\n```"]
    return "\n\n".join(blocks + [f"```\n{text.rstrip()}\n```" for text in printed if text.strip()])


def readme(root: Path = ROOT) -> str:
    "The text of README.md."
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(root / "settings.ini", encoding="utf-8")
    site = settings["DEFAULT"]["doc_host"] + settings["DEFAULT"]["doc_baseurl"]
    cells = json.loads((root / "nbs" / "index.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = [NOTE]
    for cell in cells:
        if cell["cell_type"] == "raw": continue   # front matter
        text = "".join(cell["source"]).strip()
        if cell["cell_type"] == "code": text = shown(cell)
        else: text = relink(re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S), site)
        if text: parts.append(text + "\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 when README.md is out of date")
    target, text = ROOT / "README.md", readme()
    if not parser.parse_args().check: target.write_text(text, encoding="utf-8", newline="\n")
    elif not target.exists() or target.read_text(encoding="utf-8") != text:
        sys.exit("README.md is not what nbs/index.ipynb makes: run `make prepare`")


if __name__ == "__main__": main()
