"""How often does a training that is killed end with the same weights, bit for bit, as one that nobody disturbs?

    python tests/kill_training.py --times 20                  # 20 times in each stage, during a save, and while it starts
    python tests/kill_training.py --times 20 --processes 2    # two processes that train together; all are killed, or one of them

The moments are random, but for --seed. The tests run a short version of this.
"""
import argparse
import gc
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from msspose.runs import MODEL, RunFolder, load_tensors
from msspose.training import PRESETS, Stage, TrainConfig, Training, fit

TINY = replace(PRESETS["demo"], size=32, width=8, depth=2, regression_width=8, batch_size=4, epoch_size=16, stage1=Stage(3, 6e-3),
               stage2=Stage(1, 6e-3), stage3=Stage(2, 1e-3), val_people=4, seconds=0, bf16=False, warm_up=3, ema=0.9, save_every=0)
STEPS = {1: 12, 2: 4, 3: 8}
PLACES = ("stage 1", "stage 2", "stage 3", "save", "start")
PATIENCE = 60    # seconds, after which a process that should end counts as hanging

# one import of PyTorch for all trainings, where a process can be copied before it has threads
if sys.platform == "linux":
    START = multiprocessing.get_context("forkserver")
    START.set_forkserver_preload(["msspose.training", "torch._dynamo"])
else: START = multiprocessing.get_context("spawn")


def train(config: TrainConfig, folder: Path, rank: int, processes: int, port: int, news, asked: tuple[int, int] | None = None) -> None:
    "What one process does. The first says at which step it is, and when it begins and has done a save. One may be asked to stop."
    gc.freeze()   # what it was copied with is no garbage, and not looked through for it
    if processes > 1: os.environ |= {key: str(value) for key, value in {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port}.items()}
    step, save = Training.step, RunFolder.save_checkpoint

    def told_step(self, batch):
        if rank == 0: news.send((f"stage {self.stage}", self.progress.stage_step))
        step(self, batch)
        if asked == (rank, self.progress.step): os.kill(os.getpid(), signal.SIGTERM)

    def told_save(self, *content):
        news.send(("save",))
        save(self, *content)
        news.send(("saved",))

    Training.step, RunFolder.save_checkpoint = told_step, told_save
    fit(config, folder, progress=False)


class Together:
    "Processes that train together, started as torchrun would start them."

    def __init__(self, config: TrainConfig, folder: Path, processes: int = 1, asked: tuple[int, int] | None = None):
        "Whom to ask to stop, and after which step: rank, step."
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.news, tell = START.Pipe(duplex=False)
        all_get = (processes, port, tell, asked)
        self.all = [START.Process(target=train, args=(config, folder, rank, *all_get)) for rank in range(processes)]
        for process in self.all: process.start()
        tell.close()

    def hear(self, timeout: float = PATIENCE) -> tuple | None:
        "The next that the first process says; None: it has ended."
        try: return self.news.recv() if self.news.poll(timeout) else None
        except (EOFError, OSError): return None

    def heard(self) -> list[tuple]:
        "All it says until it ends."
        return list(iter(self.hear, None))

    def kill(self, which: list[int] | None = None) -> None:
        "All, or some: then the others have to end by themselves."
        for i in range(len(self.all)) if which is None else which: self.all[i].kill()

    def end(self) -> list[int | None]:
        "How each of them ended; None: it had to be killed, for it would not."
        for process in self.all: process.join(PATIENCE)
        codes = [process.exitcode for process in self.all]
        self.kill()
        for process in self.all: process.join()
        self.news.close()
        return codes


def result(folder: Path) -> tuple[dict, list[dict]]:
    "The weights at the end; and what was measured, without the clock."
    weights, about = load_tensors(folder / MODEL)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return weights | {"about": about}, [{key: value for key, value in row.items() if key not in ("seconds", "waited")} for row in rows]


def alike(a: dict, b: dict) -> bool:
    "Bit for bit."
    same = lambda x, y: torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


def killed(place: str, folder: Path, processes: int, dice: random.Random) -> bool:
    "Start, wait for a random moment at a place, kill all or one. Do all of them end?"
    config = replace(TINY, save_every=0 if place == "save" else dice.choice([0, 0.1, 60]))
    moment = dice.randrange(STEPS[int(place[-1])]) if place.startswith("stage") else dice.randrange(sum(STEPS.values()))
    together, last, number = Together(config, folder, processes), None, 0
    if place == "start": time.sleep(dice.uniform(0, 1.5))
    while place != "start" and (last := together.hear()):
        if last[0] == place and (last[1] == moment if place != "save" else number == moment): break
        number += last[0] == "save"
    time.sleep(dice.uniform(0, 0.02 if place == "save" else 0.06) * (place != "start"))
    together.kill(None if processes == 1 or dice.random() < 0.5 else [dice.randrange(processes)])
    together.heard()
    return None not in together.end()


def trial(place: str, folder: Path, processes: int, dice: random.Random, expected: tuple) -> dict[str, bool]:
    "A training that is killed at a place, sometimes a second time anywhere, and then brought to its end."
    ends = killed(place, folder, processes, dice)
    if dice.random() < 0.3: ends &= killed(dice.choice(PLACES), folder, processes, dice)
    together = Together(replace(TINY, save_every=dice.choice([0, 60])), folder, processes)
    together.heard()
    codes = together.end()
    if any(codes): return {"ended": False, "weights": False, "metrics": False, "hangs": not ends}
    weights, rows = result(folder)
    return {"ended": True, "weights": alike(weights, expected[0]), "metrics": rows == expected[1], "hangs": not ends}


GOOD = {"ended": True, "weights": True, "metrics": True, "hangs": False}


def undisturbed(folder: Path, processes: int = 1) -> tuple[dict, list[dict]]:
    together = Together(replace(TINY, save_every=60), folder, processes)
    together.heard()
    if any(codes := together.end()): raise SystemExit(f"the undisturbed training failed: {codes}")
    return result(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="kills at each place")
    parser.add_argument("--processes", type=int, default=1, help="that train together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--places", nargs="*", default=PLACES, choices=PLACES, help="where to kill")
    parser.add_argument("--keep", action="store_true", help="keep the folders of trainings that went wrong, and say where")
    options, failed = parser.parse_args(), 0
    root = Path(tempfile.mkdtemp(prefix="kill-training-"))
    expected = undisturbed(root / "undisturbed", options.processes)
    print(f"{options.processes} process(es), seed {options.seed}\n")
    print("| killed in | times | ended | same weights, bit for bit | same metrics | others hung |\n|---|---:|---:|---:|---:|---:|")
    for place in options.places:
        counts = Counter()
        for i in range(options.times):
            folder = root / f"{place.replace(' ', '')}-{i}"
            found = trial(place, folder, options.processes, random.Random(f"{options.seed} {place} {i}"), expected)
            counts.update(name for name, yes in found.items() if yes)
            failed += found != GOOD
            if found == GOOD or not options.keep: shutil.rmtree(folder, ignore_errors=True)
            else: print(f"{folder}: {found}", file=sys.stderr)
        print(f"| {place} | {options.times} | " + " | ".join(str(counts[name]) for name in GOOD) + " |", flush=True)
    if not options.keep: shutil.rmtree(root, ignore_errors=True)
    return failed > 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
