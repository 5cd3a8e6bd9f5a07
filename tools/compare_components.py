"""Each component of the paper alone on top of the hourglass, and all together: the table of chapter 07.

    make components                                              all of it: 21 trainings, about an hour on two idle cores
    python tools/compare_components.py --pictures 4096 --seeds 1 --out components.json       a quick look

Every network sees the same generated people of the set `standard` in the same order, and as many of them; what differs between seeds
are the first weights and the patches of masking. It is measured on the 2,000 people of the test split. A training that is done is not
done again: remove runs/components to start afresh.
"""
from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from msspose.ablation import PaintedPeople, joints_found
from msspose.crops import Loader
from msspose.data import replacing
from msspose.people import People
from msspose.regression import LADDER, PoseNet
from msspose.training import NETWORK, PRESETS, TrainConfig, has_bf16, masked, predict_people

ROOT = Path(__file__).resolve().parent.parent
PLAIN = LADDER["hourglass"]
ARMS = {   # what is changed against the settings of the demo
    "hourglass": PLAIN,
    "multi-scale supervision": PLAIN | {"multi_scale": True},
    "regression": PLAIN | {"regression": True},
    "structure-aware loss": PLAIN | {"structure": True},
    "keypoint masking": PLAIN | {"masking": True},
    "all four": LADDER["masking"],
    "hourglass of two stacks": PLAIN | {"n_stacks": 2},
}
BASE = "hourglass"
SETTINGS = replace(PRESETS["demo"], regression_width=0, correct=False, end_to_end=True, structure_weight=1.0, sigma=1.0, weight_decay=1e-4)


class StoredPeople(PaintedPeople):
    "The first people of a training split, in the same order for every seed."

    def _order(self, seed: int) -> torch.Tensor: return torch.arange(self.count)


def rate(progress: float, highest: float = 6e-3, warm_up: float = 0.05) -> float:
    "Up in a straight line, down along a cosine; `progress` from 0 to 1."
    if progress < warm_up: return highest * (progress + 1e-3) / (warm_up + 1e-3)
    return highest * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def learn(config: TrainConfig, people: StoredPeople, pictures: int) -> PoseNet:
    "One stage for all, so that arms differ in nothing but the component: all learns from the start, masking comes in the last quarter."
    model = PoseNet(people.skeleton, **{name: getattr(config, name) for name in NETWORK}).train()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay, fused=True)
    loader, half = Loader(people, config.batch_size, config.seed, pictures), has_bf16(torch.device("cpu"))
    for step, batch in enumerate(loader.epoch(0)):
        for group in optimiser.param_groups: group["lr"] = rate(step / len(loader))
        last_quarter = step >= 0.75 * len(loader)
        if config.masking and last_quarter: batch = masked(batch, people.skeleton, config.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16, enabled=half): outputs = model(batch.images)
        optimiser.zero_grad()
        model.loss(outputs, batch.joints, batch.visible, alpha=config.structure_weight / people.skeleton.n_joints).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimiser.step()
    return model.eval()


def train(arm: str, seed: int, pictures: int, work: Path) -> Path:
    "One training; what each test person scored goes into a file."
    file = work / f"{arm.replace(' ', '_')}-{pictures}-{seed}.npz"
    if file.exists(): return file
    torch.set_num_threads(1)
    people, began = StoredPeople(People("standard", "train", SETTINGS.size), work / "people", pictures // 2), time.process_time()
    model = learn(replace(SETTINGS, **ARMS[arm], seed=seed), people, pictures)
    seconds = time.process_time() - began
    test = People("standard", "test", SETTINGS.size)
    found, count = joints_found(*predict_people(model, test, range(len(test))), "official")
    with replacing(file) as aside, aside.open("wb") as stream:
        np.savez(stream, found=found, count=count, seconds=seconds, parameters=sum(p.numel() for p in model.parameters()))
    return file


def summary(files: dict[str, list[Path]], pictures: int, samples: int = 4000) -> dict:
    "Mean, spread and paired difference of each arm; the interval draws people and seeds anew, pairs kept together."
    stored = {arm: [np.load(file) for file in some] for arm, some in files.items()}
    found = {arm: np.stack([s["found"] for s in some]) for arm, some in stored.items()}      # (seeds, M)
    count = stored[BASE][0]["count"]
    (seeds, m), rng = found[BASE].shape, np.random.default_rng(0)
    people = rng.multinomial(m, np.full(m, 1 / m), samples)                                 # how often each person is drawn
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), samples) / seeds
    arms = {}
    for arm, hits in found.items():
        scores, change = 100 * hits.sum(1) / count.sum(), hits - found[BASE]
        per_seed = 100 * change.sum(1) / count.sum()
        drawn = 100 * np.einsum("sp,kp,sk->s", people, change, chosen, optimize=True) / (people @ count)
        seconds = float(np.mean([s["seconds"] for s in stored[arm]]))
        arms[arm] = {
            "parameters": int(stored[arm][0]["parameters"]), "processor_seconds": round(seconds), "pckh": scores.round(2).tolist(),
            "mean": round(scores.mean(), 2), "spread": round(scores.std(ddof=1), 2) if seeds > 1 else None,
            "difference": round(per_seed.mean(), 2), "difference_per_seed": per_seed.round(2).tolist(),
            "interval": np.percentile(drawn, [2.5, 97.5]).round(2).tolist()}
    return {"command": "make components", "set": "standard", "split": "test", "people": m, "seeds": seeds,
            "pictures": pictures, "metric": "PCKh@0.5", "base": BASE, "torch": torch.__version__.partition("+")[0], "arms": arms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=65536, help="that each network sees; half of them are mirror images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, one processor core each")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "components", help="folder for pictures and models")
    parser.add_argument("--out", type=Path, default=ROOT / "nbs" / "results" / "components.json")
    chosen = parser.parse_args()
    StoredPeople(People("standard", "train", SETTINGS.size), chosen.work / "people", chosen.pictures // 2)     # before others ask
    jobs = [(arm, seed) for seed in range(chosen.seeds) for arm in ARMS]
    with ProcessPoolExecutor(chosen.workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(train, arm, seed, chosen.pictures, chosen.work): (arm, seed) for arm, seed in jobs}
        files = {}
        for done in as_completed(running):      # an error ends the whole
            files[running[done]] = done.result()
            print(f"{len(files)} of {len(jobs)}: {running[done][0]}, seed {running[done][1]}", flush=True)
    result = summary({arm: [files[arm, seed] for seed in range(chosen.seeds)] for arm in ARMS}, chosen.pictures)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    for arm, row in result["arms"].items():
        print(f"{arm:26s} {row['mean']:6.2f} +- {row['spread'] or 0:.2f}   {row['difference']:+.2f} {row['interval']}")


if __name__ == "__main__": main()
