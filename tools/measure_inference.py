"""What conditional testing is worth, on all test people: the table of chapter 12, nbs/results/inference.json.

    python tools/measure_inference.py            about ten minutes on one core
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from msspose.evaluation import RULES, Truth
from msspose.inference import PoseEstimator, calibrate, near, photographs, testing_schemes
from msspose.people import SPLITS

ROOT = Path(__file__).resolve().parent.parent
SETS = ("scale", "standard", "plain")
AT_ONCE = 250   # people whose heatmaps are held


def counts(joints: torch.Tensor, truth: Truth) -> np.ndarray:
    "(M, 2) joints of each person that are found, and that there are, as the official rule pools them."
    pooled = [j for j, joint in enumerate(truth.skeleton.joints) if joint not in RULES["official"].left_out]
    known = (truth.visible > 0)[:, pooled]
    return torch.stack([(near(joints, truth)[:, pooled] & known).sum(1), known.sum(1)], 1).numpy()


def interval(found: np.ndarray, base: np.ndarray, draws: int = 1000) -> list[float]:
    "Percent more joints found than by one look: the difference, and the ends of its 95 % interval over people."
    def difference(rows): return 100 * ((found[rows, 0] - base[rows, 0]).sum(-1) / found[rows, 1].sum(-1))
    who = np.random.default_rng(0).integers(0, len(found), (draws, len(found)))
    return [float(difference(slice(None))), *np.quantile(difference(who), [0.025, 0.975]).tolist()]


def measure(estimator: PoseEstimator, name: str, people: int) -> dict:
    "Every way of looking at the people of a set, with thresholds that were calibrated on its validation people."
    pictures, boxes, truth = photographs(name, "val", min(500, SPLITS["val"]))
    thresholds = calibrate(estimator, pictures, boxes, truth)
    parts = {}
    pictures, boxes, truth = photographs(name, "test", people)
    for start in range(0, people, AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        some = Truth(truth.joints[rows], truth.visible[rows], truth.reference[rows], truth.skeleton)
        for way, (joints, looks) in testing_schemes(estimator, thresholds, pictures[rows], boxes[rows]).items():
            parts.setdefault(way, []).append((counts(joints, some), looks * len(joints)))
    found = {way: np.concatenate([rows for rows, _ in several]) for way, several in parts.items()}
    looks = {way: sum(number for _, number in several) / people for way, several in parts.items()}
    table = {way: {"pckh": round(100 * rows[:, 0].sum() / rows[:, 1].sum(), 2), "looks": round(looks[way], 2),
                   "gain": [round(value, 2) for value in interval(rows, found["one look"])]} for way, rows in found.items()}
    return {"people": people, "thresholds": thresholds.to_dict(), "ways": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="people", help="its name, or a run's folder")
    parser.add_argument("--people", type=int, default=SPLITS["test"], help="of each set")
    parser.add_argument("--out", type=Path, default=ROOT / "nbs" / "results" / "inference.json")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    estimator = PoseEstimator.from_pretrained(chosen.model)
    result = {"model": Path(chosen.model).name, "sets": {name: measure(estimator, name, chosen.people) for name in SETS}}
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in result["sets"].items():
        print(f"{name}, tau_s {row['thresholds']['tau_s']}")
        for way, value in row["ways"].items():
            print(f"  {way:26s} {value['looks']:5.2f} looks  PCKh@0.5 {value['pckh']:5.2f}  {value['gain'][0]:+.2f} {value['gain'][1:]}")


if __name__ == "__main__": main()
