"""Make a run's model one that comes with the package: msspose/models/NAME.safetensors, and its card beside it.

    python tools/ship_model.py runs/laptop               as "people"; about two minutes

Only models of generated people are taken: weights that were trained on photographs are not ours to give away.
"""
from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from msspose.data import box_in, load_annotations
from msspose.evaluation import evaluate
from msspose.inference import PoseEstimator, Thresholds, calibrate, photographs
from msspose.people import SETS, SPLITS, People
from msspose.runs import MODEL, MODELS, load_model, load_tensors, save_tensors
from msspose.skeleton import MPII, convert
from msspose.training import PRESETS, evaluate_source, read_config

LARGEST = 4_000_000   # bytes
LOST = 0.1            # percent of PCKh that half precision may cost


class Refused(Exception):
    "Why a model cannot be shipped, in a sentence."


def source_of(file: Path) -> tuple[dict, dict]:
    "Tensors and description of a model that may be given away."
    tensors, about = load_tensors(file)
    data = str(about.get("data", ""))
    if not data.startswith("people:"):
        raise Refused(f"{file}: was trained on {data or 'nobody knows what'}; only models of generated people (people:NAME) are shipped")
    if not (file.parent / "result.json").is_file():
        raise Refused(f"{file}: its training has not finished: there is no result.json beside it")
    return tensors, about


def halved(tensors: dict) -> dict:
    "Filters in half precision; whatever is one number per channel, the statistics of BatchNorm among them, stays as it is."
    return {name: value.half() if value.is_floating_point() and value.ndim > 1 else value for name, value in tensors.items()}


def score(file: Path, name: str, split: str) -> float:
    "PCKh@0.5 by the official rule, averaged with the mirror image."
    network, _, about = load_model(file)
    network.to(memory_format=torch.channels_last)
    return evaluate_source(network, People(name, split, about["size"])).total


def card(name: str, about: dict, made: str, halves: tuple, tested: dict, shown: str, more: str, weights: int, size: int) -> str:
    "What somebody should know before using it."
    network = about["network"]
    parts = [text for key, text in (("multi_scale", "multi-scale supervision"), ("regression", "a regression network"),
                                    ("structure", "the structure-aware loss")) if network[key]]
    rows = [f"| `{data}` | {value:.1f} |" for data, value in tested.items()]
    return "\n".join([
        f"# The model `{name}`", "",
        "**For teaching and for trying things out, not for photographs.** It has only ever seen people that a program has painted. "
        f"{shown}Do not use it to judge, count or watch anybody.", "",
        "| | |", "|---|---|",
        f"| finds | the {len(about['skeleton']['joints'])} joints of {about['skeleton']['name'].upper()}, of one person in a square of "
        f"{about['size']} x {about['size']} pixels |",
        f"| is | {network['n_stacks']} hourglass{'es' * (network['n_stacks'] > 1)} of {network['width']} channels, with "
        f"{', '.join(parts) or 'nothing on top'}; {weights:,} weights |",
        f"| was trained on | {about['pictures']:,} pictures of generated people, `{about['data']}`: no photograph, no person |",
        f"| was made with | {made} |",
        f"| is stored | in {size:,} bytes, filters in half precision: PCKh@0.5 {halves[1]:.2f} instead of {halves[0]:.2f} |",
        "| license | that of msspose, Apache 2.0 |", "",
        f"PCKh@0.5 of {SPLITS['test']:,} generated people it has not seen, averaged with the mirror image:", "",
        "| set | % |", "|---|---:|", *rows, "",
        "What the sets are: <https://msspose.github.io/msspose/people.html>. " + more, ""])


def made_with(run: Path) -> str:
    "Version, preset, time and machine."
    stored, machine = (json.loads((run / file).read_text(encoding="utf-8")) for file in ("config.json", "environment.json"))
    config, _ = read_config({key: value for key, value in stored.items() if key not in ("source", "versions")})
    preset = next((f"`msspose train --preset {name}`" for name in PRESETS if PRESETS[name] == config), "settings of its own")
    rows = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return (f"msspose {machine['versions']['msspose']}, {preset}, {json.loads(rows[-1])['seconds'] / 60:.0f} minutes on "
            f"{machine['cores']} processor cores")


def told(thresholds: Thresholds) -> str:
    "A sentence on conditional testing."
    if math.isinf(thresholds.tau_s): return "Calibration has found no threshold with which a second look at a person would help."
    return f"Its thresholds for conditional testing are in its file; tau_s is {thresholds.tau_s:.2f}."


def on_photographs(model: Path, data: str) -> str:
    "A sentence on what it does on photographs, where there are any: an LSPET folder, or another of those 14 joints."
    if not data: return "On photographs most of what it says is wrong. "
    people, estimator = load_annotations(data, "val"), PoseEstimator.from_pretrained(model)
    found = [pose for pose, in estimator([people.paths[i] for i in people.image], list(box_in(people.center, people.side)[:, None]))]
    joints, *_ = convert(np.stack([pose.joints for pose in found]), np.full((len(found), 16), 2), MPII, people.skeleton)
    report = evaluate(joints, people, "pck")
    return (f"Of {report.n} photographs ({people.name}) it finds {report.total:.0f} % of the joints ({report.metric} of the torso), with a "
            f"mean peak of {np.mean([pose.score for pose in found]):.2f}. ")


def ship(run: Path, name: str, folder: Path = MODELS, people: int = 0, data: str = "") -> Path:
    "Check, convert, measure, write. `people`: so many per set instead of all, for tests; `data`: photographs to try it on."
    file = run / MODEL if run.is_dir() else run
    tensors, about = source_of(file)
    if people: SPLITS.update(val=people, test=people)
    with tempfile.TemporaryDirectory() as scratch:
        draft = save_tensors(Path(scratch) / file.name, halved(tensors), about)
        before, after = score(file, "standard", "val"), score(draft, "standard", "val")
        if abs(before - after) > LOST: raise Refused(f"{file}: PCKh is {after:.2f} in half precision, {before:.2f} in full: too far apart")
        few = photographs("scale", "val", min(500, SPLITS["val"]))
        thresholds = calibrate(PoseEstimator.from_pretrained(draft), *few)
        tested = {kind: score(draft, kind, "test") for kind in SETS}
        about |= {"thresholds": thresholds.to_dict()}
        draft = save_tensors(draft, halved(tensors), about)
        size = draft.stat().st_size
        if size > LARGEST: raise Refused(f"{file}: takes {size:,} bytes, more than {LARGEST:,}; train a smaller one")
        weights = sum(value.numel() for key, value in tensors.items() if value.is_floating_point() and "running" not in key)
        shown, made = on_photographs(draft, data), made_with(file.parent)
        text = card(name, about, made, (before, after), tested, shown, told(thresholds), weights, size)
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.safetensors").write_bytes(draft.read_bytes())
        (folder / f"{name}.md").write_text(text, encoding="utf-8", newline="\n")
    return folder / f"{name}.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder, or a model in it")
    parser.add_argument("--name", default="people", help="what it is called from then on")
    parser.add_argument("--photographs", default="", help="a folder of LSPET, for a sentence on what the model does on photographs")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    try: file = ship(chosen.run, chosen.name, data=chosen.photographs)
    except (Refused, OSError, ValueError) as error: sys.exit(f"nothing was written: {error}")
    print(f"{file.name}: {file.stat().st_size:,} bytes\n\n{file.with_suffix('.md').read_text(encoding='utf-8')}")


if __name__ == "__main__": main()
