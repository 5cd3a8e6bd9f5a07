"""What training reaches on a GPU, against the roof of its memory; where the time of a step goes; how much memory it takes.

    python tests/bench/gpu.py                               on a machine with a CUDA GPU: a table, in less than ten minutes
    python tests/bench/gpu.py --out nbs/results/gpu.json    and the file that chapter 15 shows
    python tests/bench/gpu.py --cpu                         a tiny version of every measurement: says whether this script works, no more

Goals, on an H200 at 256 pixels in bfloat16, everything from the picture to the update: 8 stacks 585 people per second, 850 hoped for;
2 stacks 1,770. Each line of the table is a process of its own, so that one that fails, or takes too long, spoils no other.
"""
from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
if importlib.util.find_spec("msspose") is None: sys.path.insert(0, str(ROOT))     # not installed: the checkout that this file lies in

from msspose import __version__
from msspose.crops import CropStore, stored_size
from msspose.hourglass import Residual
from msspose.people import Batch, People
from msspose.regression import PoseNet
from msspose.training import PRESETS, Training, TrainConfig, accelerator_of, memory_of, time_step

GOALS = {8: 585, 2: 1770}                         # people per second on an H200; with 8 stacks 850 are hoped for
PARTS = "data", "forward", "backward", "optimiser", "rest"
SIZES = 128, 96, 64, 48, 32, 16, 8                # batches, from the largest that is tried on
FULL = replace(PRESETS["gpu"], seconds=0.0, explodes=math.inf, bad_batches="skip", val_people=4)   # speed, whatever is learned
TINY = replace(FULL, size=32, width=16, depth=2, device="cpu", workers=1)


@dataclass(frozen=True)
class Case:
    "A line of the table."
    stacks: int
    source: str          # store: prepared crops, on the GPU; host: in the computer's memory; people: generated while it trains
    compiled: bool = False
    stage: int = 1       # 1: MSS-net, which the goals are about; 3: the whole network, with masking

    @property
    def name(self) -> str:
        sources = {"store": "store on the GPU", "host": "store in memory", "people": "generated people"}
        stage = f", stage {self.stage}" if self.stage > 1 else ""
        return f"{self.stacks} stacks, {sources[self.source]}" + ", compiled" * self.compiled + stage


# --- what is measured with -------------------------------------------------------------------------------------------------------------

class Clock:
    "Where the time of a step goes. On a GPU the marks lie in its own queue, so that nothing waits because it is measured."

    def __init__(self, device: torch.device):
        self.on_gpu, self.marks = device.type == "cuda", []

    def mark(self, name: str) -> None:
        "What lies between the mark before and this one is `name`."
        if self.on_gpu: (moment := torch.cuda.Event(enable_timing=True)).record()
        else: moment = time.perf_counter()
        self.marks.append((name, moment))

    def parts(self) -> dict[str, float]:
        "Seconds by name, of all marks together."
        if self.on_gpu: torch.cuda.synchronize()
        spent = dict.fromkeys(PARTS, 0.0)
        for (_, before), (name, after) in zip(self.marks, self.marks[1:], strict=False):
            spent[name] += before.elapsed_time(after) / 1000 if self.on_gpu else after - before
        return spent


def listen(training: Training, clock: Clock) -> None:
    "Marks around forward pass, backward pass and update of the training as it is."
    backward = training.accelerator.backward

    def and_mark(loss) -> None:
        backward(loss)
        clock.mark("backward")

    training.accelerator.backward = and_mark
    training.objective.register_forward_pre_hook(lambda *_: clock.mark("rest"))
    training.objective.register_forward_hook(lambda *_: clock.mark("forward"))
    training.optimiser.register_step_pre_hook(lambda *_: clock.mark("rest"))
    training.optimiser.register_step_post_hook(lambda *_: clock.mark("optimiser"))


def best_seconds(call: Callable, device: torch.device, repeats: int = 5) -> float:
    "The fastest run, after two that do not count."
    def once() -> float:
        began = time.perf_counter()
        call()
        if device.type == "cuda": torch.cuda.synchronize()
        return time.perf_counter() - began

    return min([once() for _ in range(repeats + 2)][2:])


# --- people ----------------------------------------------------------------------------------------------------------------------------

def store_of_people(size: int, device: torch.device, hold: bool, crops: int, people: int) -> CropStore:
    "Generated people as a prepared data set has them. A crop serves many people: it is speed that counts."
    wide = stored_size(size)
    source, few = People("standard", "train", wide, device, margin=wide / size), min(crops, 16)
    batches = [source.batch(range(i, i + few)) for i in range(0, crops, few)]
    images = torch.cat([(b.images * 255).round().byte().permute(0, 2, 3, 1).cpu() for b in batches]).contiguous()
    there = [(b.others_visible > 0).any(2) for b in batches]
    times, edge = people // len(images), (wide - size) / 2

    def again(values: list[torch.Tensor], shift: float = 0) -> torch.Tensor:
        values = torch.cat(values).cpu()
        return (values - shift if shift else values).repeat(times, *[1] * (values.ndim - 1))

    joints, nowhere = again([b.joints for b in batches], edge), torch.zeros(times * len(images), 2)
    return CropStore(
        images.to(device) if hold else images, torch.arange(len(images)).repeat(times), joints, again([b.visible for b in batches]),
        again([b.reference for b in batches]), nowhere, torch.full((len(joints),), float(size)),
        others=again([b.others[k] for b, k in zip(batches, there, strict=True)], edge),
        others_visible=again([b.others_visible[k] for b, k in zip(batches, there, strict=True)]),
        first=torch.cat([torch.zeros(1), again([k.sum(1) for k in there]).cumsum(0)]).long(),
        skeleton=source.skeleton, size=size, name="generated", device=str(device), hold=hold)


def source_of(case: Case, config: TrainConfig, device: torch.device) -> People | CropStore:
    if case.source == "people": return People("standard", "train", config.size, device)
    crops, people = (512, 16_384) if device.type == "cuda" else (16, 256)
    return store_of_people(config.size, device, case.source == "store", crops, people)


# --- roofs -----------------------------------------------------------------------------------------------------------------------------

def demand(stacks: int, config: TrainConfig) -> tuple[float, float]:
    "Bytes that a training step moves per picture if kernels are fused, and floating-point operations; counted in a smaller picture."
    model = PoseNet(n_stacks=stacks, width=config.width, depth=config.depth, regression=False).eval()
    size = config.stride * 2 ** config.depth
    moved, operations = [], []

    def count(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        n = output.numel()
        if isinstance(module, nn.BatchNorm2d): moved.append(8 * n)    # statistics, normalise; the same backwards, and write
        elif isinstance(module, Residual): moved.append(6 * n)        # two are added, and the gradients of two
        else:
            moved.append(3 * (n + inputs[0].numel()))                 # forward, gradient of the input, gradient of the weights
            operations.append(6 * n * module.weight[0].numel())       # a product and a sum, three times

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | Residual): module.register_forward_hook(count)
    with torch.no_grad(): model(torch.zeros(1, 3, size, size))
    pictures = (config.size / size) ** 2
    return 2 * sum(moved) * pictures, sum(operations) * pictures      # two bytes each: bfloat16


def roofs(config: TrainConfig, stacks: list[int], device: torch.device) -> dict:
    "What memory and arithmetic of this machine reach in practice, and the people per second that they allow."
    large = torch.empty(2 ** (30 if device.type == "cuda" else 24), dtype=torch.uint8, device=device)
    other = torch.empty_like(large)
    bandwidth = 2 * large.numel() / best_seconds(lambda: other.copy_(large), device)
    n = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    arithmetic = 2 * n ** 3 / best_seconds(lambda: a @ b, device)
    allowed = {}
    for k in stacks:
        moved, operations = demand(k, config)
        by_memory, by_arithmetic = bandwidth / moved, arithmetic / operations
        allowed[str(k)] = {"bytes": round(moved), "operations": round(operations), "by_memory": by_memory, "by_arithmetic": by_arithmetic,
                           "people_per_second": min(by_memory, by_arithmetic)}
    return {"bandwidth": bandwidth, "arithmetic": arithmetic, "roofs": allowed}


# --- one line of the table ---------------------------------------------------------------------------------------------------------------

def ready(case: Case, config: TrainConfig, source: People | CropStore) -> Training:
    "A training at the beginning of a stage."
    training = Training(config, accelerator_of(config), source, None, ".")
    training.progress.stage = training.stages.index(case.stage)
    training.enter()
    return training


def train_for(training: Training, clock: Clock, seconds: float, steps: int) -> tuple[int, float]:
    "Pictures and seconds, of at least so many of both, as `train` of chapter 11 does it."
    began, p, first = time.perf_counter(), training.progress, training.progress.pictures
    clock.mark("rest")
    while True:
        if p.batch == len(training.loader): p.epoch, p.batch = p.epoch + 1, 0
        with closing(training.loader.epoch(p.epoch, p.batch)) as batches:
            for batch in batches:
                clock.mark("data")
                training.step(batch)
                clock.mark("rest")
                steps -= 1
                if steps <= 0 and time.perf_counter() - began >= seconds:
                    if clock.on_gpu: torch.cuda.synchronize()
                    return p.pictures - first, time.perf_counter() - began


def attempt(case: Case, config: TrainConfig, source: People | CropStore, seconds: float) -> dict:
    "Speed, parts and memory with one size of batches; an error where that does not fit."
    training = ready(case, replace(config, compile=False), source)        # memory is told by what runs as it is written
    people = torch.arange(max(4, config.batch_size)) % (2 ** 20 if case.source == "people" else len(source))
    batch, device = source.batch(people.tolist()), training.device
    memory = memory_of(training.objective, Batch(*(getattr(batch, f.name)[:4] for f in fields(batch))), config)
    planned = memory.step(config.batch_size)
    if planned > 1.1 * memory.free: raise torch.OutOfMemoryError(f"planned {planned}, free {memory.free}")
    if case.compiled: training = ready(case, config, source)
    began = time.perf_counter()
    time_step(training, batch)
    first = time.perf_counter() - began
    alone = best_seconds(lambda: time_step(training, batch), device)

    clock = Clock(device)
    listen(training, clock)
    train_for(training, clock, 0, 3 if device.type == "cpu" else 10)      # threads at work, queues full
    clock.marks.clear()
    if device.type == "cuda": torch.cuda.reset_peak_memory_stats()
    before, waited = training.progress.step, training.loader.waited
    pictures, spent = train_for(training, clock, seconds, 3)
    steps, parts = training.progress.step - before, clock.parts()
    return {"batch_size": config.batch_size, "steps": steps, "people_per_second": pictures / spent, "seconds_per_step": spent / steps,
            "parts": {name: value / steps for name, value in parts.items()}, "network_alone": config.batch_size / alone,
            "first_step": first, "waited": (training.loader.waited - waited) / spent, "planned_memory": planned,
            "peak_memory": torch.cuda.max_memory_allocated() if device.type == "cuda" else None}


def no_room(error: RuntimeError) -> bool:
    "PyTorch, its libraries and its compiler each say it in their own way."
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in ("out of memory", "OutOfMemory", "ALLOC_FAILED"))


def measure(case: Case, config: TrainConfig, sizes: tuple[int, ...], seconds: float) -> dict:
    "The first size of batches that fits."
    config = replace(config, n_stacks=case.stacks, compile=case.compiled)
    device, too_large = accelerator_of(config).device, []
    source = source_of(case, config, device)
    for size in sizes:
        try: return attempt(case, replace(config, batch_size=size), source, seconds) | {"too_large": too_large}
        except RuntimeError as error:
            if not no_room(error): raise
            too_large.append(size)
        gc.collect()
        if device.type == "cuda": torch.cuda.empty_cache()
    return {"error": f"not even batches of {sizes[-1]} fit"}


# --- all of them, each in a process of its own -------------------------------------------------------------------------------------------

def ask(arguments: list[str], seconds: float) -> dict:
    "What this script says when it is called for one measurement; why it says nothing, if it does not."
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        answer, told = Path(folder) / "answer.json", Path(folder) / "told.txt"
        with told.open("wb") as stream:                  # a file, not a pipe: helpers of the compiler may live longer than who is asked
            child = subprocess.Popen([sys.executable, __file__, *arguments, "--answer", str(answer)], stdout=stream, stderr=stream)
            try: child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                return {"error": f"stopped after {seconds:.0f} s"}
        if answer.is_file(): return json.loads(answer.read_text(encoding="utf-8"))
        lines = [line for line in told.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return {"error": one_line(lines[-1] if lines else f"ended with code {child.returncode}")}


def one_line(text: str) -> str:
    "An error for a table: short, and without anybody's folders."
    return re.sub(r"(?:[A-Za-z]:)?(?:[\\/][\w.+-]+){2,}", "...", " ".join(str(text).split())).replace("|", "/")[:120]


def answer_one(asked: dict, cpu: bool, seconds: float) -> dict:
    "In the process that was started for it."
    config = TINY if cpu else FULL
    torch.set_num_threads(config.threads)
    if "roofs" in asked: return roofs(config, asked["roofs"], accelerator_of(config).device)
    try: return measure(Case(**asked), config, (8,) if cpu else SIZES, seconds)
    except Exception as error: return {"error": one_line(f"{type(error).__name__}: {error}")}


def cases(cpu: bool, rows: list[dict]) -> list[Case]:
    "The most important first; what was faster, compiled or not, serves the rest."
    first, second = (2, 1) if cpu else (8, 2)

    def better(stacks: int) -> bool:
        speed = {row["compiled"]: row.get("people_per_second", 0) for row in rows if row["stacks"] == stacks and row["source"] == "store"}
        return speed.get(True, 0) > speed.get(False, 0)

    plain, compiled = [Case(k, "store") for k in (first, second)], [Case(k, "store", True) for k in (first, second)]
    if cpu: return [plain[0], Case(second, "people", True, 3)]      # a store lies in the same memory there, held or not
    more = [Case(first, "people", better(first)), Case(second, "people", better(second)), Case(first, "host", better(first)),
            Case(first, "store", better(first), 3), Case(first, "people", better(first), 3)]
    return [plain[0], compiled[0], plain[1], compiled[1], *more]


def table(result: dict) -> str:
    "As Markdown; times in milliseconds."
    lines = [f"| | batch | people/s | of the roof | network alone | {' | '.join(f'{part}, ms' for part in PARTS)} | peak memory |",
             "|---|" + "---:|" * (5 + len(PARTS))]
    for row in result["rows"]:
        if "error" in row:
            lines.append(f"| {row['name']} | {row['error']} |" + " |" * (4 + len(PARTS)))
            continue
        parts = (f"{1000 * row['parts'][part]:.1f}" for part in PARTS)
        share = f"{row['roof_share']:.0%}" if row["roof_share"] is not None else "-"
        peak = f"{row['peak_memory'] / 1e9:.1f} GB" if row["peak_memory"] else "-"
        speeds = f"{row['people_per_second']:.0f}", share, f"{row['network_alone']:.0f}"
        lines.append(f"| {' | '.join([row['name'], str(row['batch_size']), *speeds, *parts, peak])} |")
    return "\n".join(lines)


def verdicts(result: dict) -> list[str]:
    "The goals, and whether they were reached."
    lines = []
    for stacks, goal in GOALS.items():
        rows = [row for row in result["rows"] if row["stacks"] == stacks and row["stage"] == 1 and "error" not in row]
        speeds = [row["people_per_second"] for row in rows]
        found = f"{max(speeds):,.0f} people per second" if speeds else "not measured"
        verdict = ("reached" if max(speeds, default=0) >= goal else "missed") if "H200" in result["device"] else "another GPU"
        lines.append(f"{stacks} stacks: {found}; the goal on an H200 is {goal:,}: {verdict}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="also write the numbers into this file, as JSON")
    parser.add_argument("--cpu", action="store_true", help="a tiny version of everything, without a GPU")
    parser.add_argument("--seconds", type=float, default=570, help="for everything; what is left over then is named")
    parser.add_argument("--each", type=float, default=6, help="seconds of training that a line is measured for")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.case:
        chosen.answer.write_text(json.dumps(answer_one(chosen.case, chosen.cpu, chosen.each)), encoding="utf-8")
        return
    if not chosen.cpu and not torch.cuda.is_available():
        print("no CUDA GPU was found: nothing was measured (--cpu tries this script on a tiny network)")
        return

    began, flags = time.monotonic(), ["--cpu"] * chosen.cpu + ["--each", str(chosen.each)]
    def left() -> float: return chosen.seconds - (time.monotonic() - began)
    result = {"command": "python tests/bench/gpu.py" + " --cpu" * chosen.cpu,
              "device": "CPU" if chosen.cpu else torch.cuda.get_device_name(), "msspose": __version__, "torch": torch.__version__,
              "cuda": torch.version.cuda, "size": (TINY if chosen.cpu else FULL).size, "goals": {str(k): v for k, v in GOALS.items()}}
    if not chosen.cpu: result["memory"] = torch.cuda.get_device_properties(0).total_memory
    print(f"{result['device']}, PyTorch {result['torch']}, pictures of {result['size']} pixels, bfloat16", flush=True)
    result |= ask(["--case", json.dumps({"roofs": [2, 1] if chosen.cpu else [8, 2]}), *flags], 90)
    rows = result["rows"] = []
    for place in range(len(cases(chosen.cpu, rows))):
        case = cases(chosen.cpu, rows)[place]
        longest = min(left(), 240 if case.compiled else 90)
        found = {"error": "left out: no time was left"}
        if longest > 15: found = ask(["--case", json.dumps(asdict(case)), *flags], longest)
        roof = result.get("roofs", {}).get(str(case.stacks), {}).get("people_per_second")
        if "error" not in found: found["roof_share"] = found["people_per_second"] / roof if roof and case.stage == 1 else None
        rows.append({"name": case.name, **asdict(case), **found})
        print(f"{case.name}: " + (found.get("error") or f"{found['people_per_second']:.0f} people per second"), flush=True)
    print(f"\n{table(result)}\n")
    if "roofs" in result:
        print(f"memory moves {result['bandwidth'] / 1e9:,.0f} GB/s, arithmetic {result['arithmetic'] / 1e12:,.1f} TFLOP/s; at most "
              + ", ".join(f"{roof['people_per_second']:,.0f} people/s with {k} stacks" for k, roof in result["roofs"].items()))
    if not chosen.cpu: print("\n".join(verdicts(result)))
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__": main()
