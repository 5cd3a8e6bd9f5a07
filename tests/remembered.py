"""Does it make today what it made when somebody looked? A figure, a picture, a case, a message: written down as words and numbers, which a
diff can show, in tests/remembered, a file for each file of tests. Look at what changed; then MSSPOSE_REMEMBER=1 pytest stores it."""
from __future__ import annotations

import difflib
import functools
import os
import re
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PLACES, ROOT
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

FOLDER = ROOT / "tests" / "remembered"
NUMBER = re.compile(r"(?<![\w#.])-?(?:\d+\.?\d*(?:e[-+]?\d+)?|inf)(?![\w.])")
told = []  # messages of the test that runs
FEW = 12   # values that are written one by one


def as_remembered(name: str, thing: object) -> None:
    "The same words as in the file of this file of tests, and the same numbers but for rounding."
    compared(os.environ["PYTEST_CURRENT_TEST"].partition(".py")[0].rpartition("/")[2].removeprefix("test_"), name, list(described(thing)))


def compared(title: str, name: str, new: list[str]) -> None:
    file = FOLDER / f"{title}.txt"
    parts = sections(file)
    if os.environ.get("MSSPOSE_REMEMBER"):
        FOLDER.mkdir(exist_ok=True)
        parts[name] = new
        text = "\n\n".join("\n".join([f"=== {one}", *parts[one]]) for one in sorted(parts)) + "\n"
        file.write_text(text, encoding="utf-8")
        sections.cache_clear()
    old = parts.get(name)
    assert old is not None, f"{name} is not in {file.name}"
    assert len(old) == len(new) and all(map(alike, old, new)), "\n".join([f"{name}: not as it was", *changes(old, new)])


@contextmanager
def messages_remembered(title: str, name: str) -> Iterator[None]:
    "What errors say that pytest.raises meets inside. What they repeat of an error below them is left out: its words are those of others."
    raises = pytest.raises

    @contextmanager
    def listening(*args, **kwargs):
        with raises(*args, **kwargs) as met: yield met
        if text := message_of(met.value): heard(text)

    told.clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pytest, "raises", listening)
        yield
    if told: compared(title, name, sorted(told))


def without_places(text: str) -> str:
    "A folder of a test, one of the session, and the checkout are all FOLDER."
    session, home, stores = (re.escape(str(folder)) for folder in (PLACES["session"], ROOT, os.environ["MSSPOSE_STORES"]))
    return re.sub(rf"{session}/[\w-]+|{stores}|{re.escape(tempfile.gettempdir())}/tmp\w+|{home}", "FOLDER", text)


def message_of(error: BaseException) -> str:
    text, below = without_places(str(error)), error
    while below := below.__cause__ or below.__context__:
        if not is_ours(below):
            for part in (without_places(str(below)), str(getattr(below, "strerror", ""))):
                if len(part) > 2: text = text.replace(part, "...")
    if isinstance(error, FloatingPointError): text = NUMBER.sub("#", text)   # of a training: each processor has its own
    return f"{type(error).__name__}: {text}" if text else ""


def heard(text: str) -> None:
    "A message that no pytest.raises meets: what a command says."
    text = re.sub(r"[\d.]+ GB are free", "enough GB are free", without_places(text))          # of a real disk
    text = re.sub(r"(damaged.*?) \(.*?\)+", r"\1 (...)", text)                                        # in a library's words
    text = re.sub(r"choose auto(?: or \w+)+", "choose one that is here", text)                         # a device of this machine
    told.append(re.sub(r"[0-9a-f]{64}", "a fingerprint", text).replace("\n", " / "))


def is_ours(error: BaseException) -> bool:
    "Was it raised by a line of the package?"
    *_, last = traceback.extract_tb(error.__traceback__) or [None]
    return last is not None and Path(last.filename).parent.name == "msspose" and last.line.startswith(("raise ", "else: raise ", "if "))


@functools.cache
def sections(file: Path) -> dict[str, list[str]]:
    if not file.exists(): return {}
    named = (part.split("\n") for part in file.read_text(encoding="utf-8").removeprefix("=== ").rstrip("\n").split("\n\n=== "))
    return {name: lines for name, *lines in named}


def changes(old: list[str], new: list[str]) -> list[str]:
    if len(old) != len(new): return list(difflib.unified_diff(old, new, "as it was", "now", lineterm=""))
    return [line for a, b in zip(old, new, strict=True) if not alike(a, b) for line in (f"- {a}", f"+ {b}")]


def alike(a: str, b: str) -> bool:
    if NUMBER.sub("#", a) != NUMBER.sub("#", b): return False
    pairs = zip(map(float, NUMBER.findall(a)), map(float, NUMBER.findall(b)), strict=True)
    return all(x == y or abs(x - y) <= 2e-3 * abs(x) + 2e-4 for x, y in pairs)


def described(thing: object, indent: str = "") -> Iterator[str]:
    match thing:
        case Figure(): yield from of_figure(thing)
        case Image.Image(): yield from described(np.asarray(thing), indent)
        case np.ndarray() | torch.Tensor(): yield indent + of_array(thing)
        case Mapping():
            for name, value in thing.items(): yield from named(str(name), value, indent)
        case list() | tuple() if any(isinstance(value, str) and " " in value for value in thing):   # lines of a text
            yield from (indent + word(value) for value in thing)
        case list() | tuple() if not all(isinstance(value, (int, float, str)) for value in thing):
            for k, value in enumerate(thing): yield from named(str(k), value, indent)
        case _ if is_dataclass(thing) and getattr(thing, "name", None) is None:
            for field in fields(thing): yield from named(field.name, getattr(thing, field.name), indent)
        case _: yield indent + word(thing)


def named(name: str, value: object, indent: str) -> Iterator[str]:
    lines = list(described(value, indent + "  "))
    if len(lines) == 1: yield f"{indent}{name}: {lines[0].strip()}"
    else: yield from [f"{indent}{name}:", *lines]


def word(value: object) -> str:
    match value:
        case bool() | np.bool_() | None: return str(value)
        case int() | float() | np.number(): return "0" if abs(value) < 5e-5 else f"{float(value):.5g}"
        case str(): return " / ".join(value.splitlines())
        case list() | tuple(): return ", ".join(map(word, value))
        case Callable(): return getattr(value, "__name__", "a function").strip("<>")
        case _: return str(getattr(value, "name", type(value).__name__))


def of_array(array: np.ndarray | torch.Tensor) -> str:
    "A few values one by one; of many fifths, mean, and two sums that tell places apart."
    what = f"{' x '.join(map(str, array.shape)) or 'one'} {str(array.dtype).removeprefix('torch.')}"
    values = np.asarray(array.float() if getattr(array, "dtype", None) == torch.bfloat16 else array)
    if values.dtype.kind not in "biuf": return f"{what} {word(values.tolist())}"
    values = values.astype(float).ravel()
    if len(values) <= FEW: return f"{what}: {word(values.tolist())}"
    known, gone = values[np.isfinite(values)], int((~np.isfinite(values)).sum())
    if not len(known): return f"{what}: {gone} not finite"
    ramp = np.linspace(-1, 1, len(known))
    sums = (known * ramp).mean(), (known * np.cos(37 * ramp)).mean()
    return (f"{what}: fifths {word(np.quantile(known, np.linspace(0, 1, 6)).tolist())}, mean {word(float(known.mean()))}, "
            f"sums {word(list(map(float, sums)))}" + (f", {gone} not finite" if gone else ""))


def of_figure(figure: Figure) -> Iterator[str]:
    yield f"figure of {word(figure.get_size_inches().tolist())} inches, {word(figure.dpi)} dpi"
    if title := figure._suptitle: yield f"  {title.get_text()!r} {word(title.get_fontsize())} {title.get_fontweight()}"
    for k, ax in enumerate(figure.axes): yield from (f"  {line}" for line in of_axes(k, ax))


def of_axes(k: int, ax: Axes) -> Iterator[str]:
    titles = [(title.get_text(), title.get_fontsize(), title.get_fontweight()) for title in (ax._left_title, ax.title, ax._right_title)]
    bar = {name: value for name, value in getattr(ax, "_colorbar_info", {}).items() if name in ("shrink", "aspect", "pad")}
    said = [part for title in titles if title[0] for part in title]
    yield f"axes {k}: {word(said)}; x {word(ax.get_xlabel())}; y {word(ax.get_ylabel())}"
    if bar: yield f"  bar of colours {bar}"
    yield (f"  from {word(list(map(float, ax.get_xlim())))} and {word(list(map(float, ax.get_ylim())))}, aspect {word(ax.get_aspect())}, "
           f"{'shown' if ax.axison else 'hidden'}, ticks {len(ax.get_xticks())} {len(ax.get_yticks())}")
    for line in ax.lines:
        yield (f"  line {of_array(line.get_xydata())}, {colour(line.get_color())} {line.get_linestyle()} {word(line.get_linewidth())}, "
               f"{line.get_marker()} {word(line.get_markersize())} {colour(line.get_markerfacecolor())} "
               f"{colour(line.get_markeredgecolor())} {word(line.get_markeredgewidth())}, {look(line)}")
    for patch in ax.patches:
        box = patch.get_patch_transform().transform_path(patch.get_path()).get_extents()
        yield (f"  {type(patch).__name__} {word(box.extents.tolist())}, {colour(patch.get_facecolor())} {colour(patch.get_edgecolor())} "
               f"{patch.get_linestyle()} {word(patch.get_linewidth())}, {'filled' if patch.fill else 'empty'}, {look(patch)}")
    for many in ax.collections:
        sizes = getattr(many, "get_sizes", lambda: [])()
        yield (f"  {type(many).__name__} {of_array(np.asarray(many.get_offsets()))}, sizes {of_array(np.asarray(sizes))}, "
               f"{' '.join(map(colour, many.get_facecolor()[:3]))}, {look(many)}")
    for image in ax.images:
        yield (f"  image {of_array(np.ma.getdata(image.get_array()))}, {image.get_cmap().name} {word(list(map(float, image.get_clim())))}, "
               f"at {word(list(map(float, image.get_extent())))}, {image.get_interpolation()}, {look(image)}")
    for text in ax.texts:
        at = getattr(text, "xyann", text.get_position())
        yield (f"  text {text.get_text()!r} {word(list(map(float, at)))}, {colour(text.get_color())} "
               f"{word(text.get_fontsize())} {text.get_ha()} {text.get_va()}, {look(text)}")
    if legend := ax.get_legend(): yield f"  legend {[text.get_text() for text in legend.get_texts()]}"


def look(artist) -> str:
    alpha, halo = artist.get_alpha(), [effect._gc for effect in artist.get_path_effects() or () if hasattr(effect, "_gc")]
    clear = "1" if alpha is None else of_array(np.asarray(alpha)) if np.ndim(alpha) else word(float(alpha))
    return f"alpha {clear}, order {word(artist.get_zorder())}" + "".join(
        f", halo {word(gc['linewidth'])} {colour(gc['foreground'])} {word(gc.get('alpha', 1))}" for gc in halo if gc)


def colour(value: object) -> str: return "none" if isinstance(value, str) and value == "none" else to_hex(value, keep_alpha=True)
