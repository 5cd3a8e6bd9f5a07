"""A training step against the naive loop of chapter 11, in the same run: 2 stacks of width 256 at 256 pixels.

    python tests/bench/bench_training.py                                           about three minutes on two cores
    python tests/bench/bench_training.py --out nbs/results/training_speed.json     the table of chapter 11
"""
import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from msspose.heatmaps import encode, to_map
from msspose.hourglass import heatmap_loss
from msspose.people import People
from msspose.regression import LADDER, PoseNet
from msspose.runs import environment
from msspose.training import PRESETS, NETWORK, Stage, Training, accelerator_of

SIZE, BATCH = 256, 8


def naive(config, steps: int) -> float:
    "Seconds per step of the loop of fifteen lines: NCHW, float32, pictures and network taking turns."
    people, network = People("plain", "train", SIZE), PoseNet(**{name: getattr(config, name) for name in NETWORK}).mss
    network.to(memory_format=torch.contiguous_format)
    hourglasses, optimiser, spent = network.hourglasses, torch.optim.SGD(network.parameters(), lr=5e-6), []
    for step in range(steps + 1):
        began = time.perf_counter()
        batch = people.batch(range(step * BATCH, (step + 1) * BATCH))
        target = encode(to_map(batch.joints, 4), batch.visible, SIZE // 4)
        x, loss = hourglasses.stem((batch.images - 0.5) * 4), 0.0
        for i, stack in enumerate(hourglasses.stacks, 1):
            _, features, heatmaps = stack(x)
            loss = loss + heatmap_loss(heatmaps, target, batch.visible)
            if i < len(hourglasses.stacks): x = x + stack.feed_features(features) + stack.feed_heatmaps(heatmaps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        spent.append(time.perf_counter() - began)
    return min(spent[1:])


def ours(config, steps: int) -> tuple[float, float]:
    "Seconds per step of `Training`, with the loader beside it; and the share that is neither forward, backward nor optimiser."
    people = People("plain", "train", SIZE)
    training = Training(config, accelerator_of(config), people, People("plain", "val", SIZE), ".")
    training.enter()
    inner = {"seconds": 0.0}

    def timed(call):
        def run(*given, **named):
            began = time.perf_counter()
            result = call(*given, **named)
            inner["seconds"] += time.perf_counter() - began
            return result
        return run

    training.parallel.forward = timed(training.parallel.forward)
    training.accelerator.backward, training.optimiser.step = timed(training.accelerator.backward), timed(training.optimiser.step)
    spent, rest, batches = [], [], training.loader.epoch(0)
    for _ in range(steps + 1):
        began, inner["seconds"] = time.perf_counter(), 0.0
        training.step(next(batches))
        spent.append(time.perf_counter() - began)
        rest.append(1 - inner["seconds"] / spent[-1])
    batches.close()
    best = min(range(1, steps + 1), key=spent.__getitem__)
    return spent[best], rest[best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="of each way, after one that does not count")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    config = replace(PRESETS["demo"], **LADDER["hourglass"], size=SIZE, n_stacks=2, width=256, depth=4, batch_size=BATCH, seconds=0,
                     stage1=Stage(1, 1e-5), stage2=Stage(0), stage3=Stage(0), optimiser="sgd", bf16=False, threads=chosen.threads)
    torch.set_num_threads(chosen.threads)
    seconds = {"naive loop, NCHW, float32": (naive(config, chosen.steps), None),
               "ours, channels_last, float32": ours(config, chosen.steps),
               "ours, channels_last, bfloat16": ours(replace(config, bf16=True), chosen.steps)}
    base = seconds["naive loop, NCHW, float32"][0]
    ways = {name: {"people_per_second": round(BATCH / s, 3), "times": round(base / s, 2), "rest": None if rest is None else round(rest, 4)}
            for name, (s, rest) in seconds.items()}
    for name, row in ways.items():
        rest = "" if row["rest"] is None else f"   {row['rest']:.1%} neither network nor optimiser"
        print(f"{name:32s} {row['people_per_second']:7.2f} people/s   {row['times']:.2f} times{rest}", flush=True)
    if not chosen.out: return
    about = environment()
    result = {"command": "python tests/bench/bench_training.py --out nbs/results/training_speed.json",
              "network": "2 stacks of width 256 at 256 pixels", "batch_size": BATCH, "threads": chosen.threads,
              "processor": f"{about['processor']}, {about['cores']} cores",
              "torch": about["versions"]["torch"].partition("+")[0], "ways": ways}
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
