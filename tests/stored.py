"""Is what a page shows what its code makes? A cell's stored outputs beside those of a new run: the same words, the same numbers, pictures
that look the same. What depends on the machine is left out: numbers in a line that has a unit of time or memory or says "about", and cells
that say `#| measured: true`, of which only the kinds of outputs are compared. The latter are cells, too, that show what became of a
training: that is the same each time on one processor, and another on the next, which rounds otherwise."""
from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image, ImageSequence

NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
MACHINE = re.compile(r"\babout\b|\d ?(ms|s|min|h|kB|MB|GB|fps)\b|/s\b|per second|times as (long|fast)")
INSIDE = re.compile(r'<img[^>]* src="data:image/[a-z]+;base64,([^"]+)"[^>]*>')
PICTURES = ("image/png", "image/gif", "image/jpeg")
TEXTS = ("text/markdown", "text/html", "text/plain")
WIDGET = "application/vnd.jupyter.widget-view+json"
NEAR = 0.02      # of a number
ALIKE = 10.0     # of 255, on average over the pixels of two pictures


def joined(text: str | list[str]) -> str: return "".join(text)


def shown(cell: dict) -> list[tuple[str, str]]:
    "What a reader sees of a cell, as (kind, content), what was printed first."
    printed, seen = "", []
    for output in cell["outputs"]:
        data = output.get("data", {})
        if output.get("name") == "stdout": printed += joined(output["text"])
        kind = next((kind for kind in (WIDGET, *PICTURES, *TEXTS) if kind in data), WIDGET)
        if kind == WIDGET or joined(data.get("text/plain", "")).startswith("interactive("): continue
        text = joined(data[kind])
        if kind in TEXTS: seen += [(kind, INSIDE.sub("<img>", text)), *(("picture", inside) for inside in INSIDE.findall(text))]
        else: seen.append(("picture", text))
    return [("printed", printed)] * bool(printed) + seen


def differences(
    stored: dict,   # a code cell with its outputs
    fresh: dict,    # the same cell, run anew
) -> list[str]:     # a sentence for each
    old, new = shown(stored), shown(fresh)
    if any(WIDGET in output.get("data", {}) for output in fresh["outputs"]):   # its figure stands on a page only
        old, new = ([one for one in some if one[0] != "picture"] for some in (old, new))
    kinds = [kind for kind, _ in old], [kind for kind, _ in new]
    if kinds[0] != kinds[1]: return [f"shows {kinds[0]} on the page, {kinds[1]} when run"]
    if "#| measured: true" in joined(stored["source"]): return []
    return [fault for (kind, a), (_, b) in zip(old, new, strict=True) for fault in (of_pictures if kind == "picture" else of_texts)(a, b)]


def of_texts(stored: str, fresh: str) -> list[str]:
    old, new = stored.strip().splitlines(), fresh.strip().splitlines()
    if len(old) != len(new): return [f"{len(old)} lines on the page, {len(new)} when run"]
    pairs = [(a.strip()[:150], b.strip()[:150]) for a, b in zip(old, new, strict=True) if not same_line(a, b)]
    return [f"on the page: {a!r}; when run: {b!r}" for a, b in pairs]


def same_line(a: str, b: str) -> bool:
    "The same words; numbers that are near, or any numbers in a line that depends on the machine."
    def words(line: str) -> list[str]: return NUMBER.sub("#", line).split()
    def numbers(line: str) -> list[tuple[float, float]]:   # value, and what its last digit is worth
        parts = [number.replace(",", "").partition("e") for number in NUMBER.findall(line)]
        return [(float(f"{digits}e{power or 0}"), 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))) for digits, _, power in parts]

    if words(a) != words(b): return False
    return bool(MACHINE.search(a)) or all(
        abs(x - y) <= max(NEAR * abs(x), 1.5 * last) for (x, last), (y, _) in zip(numbers(a), numbers(b), strict=True))


def of_pictures(stored: str, fresh: str) -> list[str]:
    "Of all their frames, at the size of the stored one."
    old, new = frames(stored), frames(fresh)
    if len(old) != len(new): return [f"a film of {len(old)} frames on the page, of {len(new)} when run"]
    away = max(float(np.abs(values(a) - values(b.resize(a.size))).mean()) for a, b in zip(old, new, strict=True))
    return [f"a picture that is {away:.1f} of 255 away from the stored one"] if away > ALIKE else []


def values(image: Image.Image) -> np.ndarray: return np.asarray(image, np.float32)


def frames(content: str) -> list[Image.Image]:
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
