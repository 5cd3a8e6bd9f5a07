"""What a training picture costs from a store, and what a store costs; the photograph is matplotlib's portrait, stretched to 1280 x 720.

    python tests/bench/bench_crops.py              about a minute; quiet cores, or the ratios say less
"""
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from timing import best_ms

from msspose.crops import CropStore, Loader, _cores, crop, read_image, stored_size
from msspose.data import Annotations
from msspose.heatmaps import pyramid, to_map
from msspose.skeleton import MPII

CENTER, SIDE = (640, 360), 400


def photograph(folder: Path) -> Path:
    with get_sample_data("grace_hopper.jpg") as file: portrait = Image.open(file).convert("RGB")
    large = np.asarray(portrait.resize((1280, 1500), Image.Resampling.BICUBIC).crop((0, 300, 1280, 1020)), float)
    noise = np.random.default_rng(0).normal(0, 4, (720, 1280, 1))       # as a camera has it: 200 to 250 kB, which is what MPII's have
    Image.fromarray((large + noise).clip(0, 255).astype(np.uint8)).save(folder / "0.jpg", quality=90)
    return folder / "0.jpg"


def people(paths: list[Path]) -> Annotations:
    m = len(paths)
    joints = np.random.default_rng(0).uniform(300, 600, (m, 16, 2))
    return Annotations("bench", MPII, joints, np.full((m, 16), 2), [CENTER] * m, [SIDE] * m, [40] * m, np.arange(m), tuple(paths))


def decode(path: Path) -> None:
    with Image.open(path) as image: image.load()


def decode_and_warp(path: Path, size: int = 256) -> None:
    "The least that a store has to pay: Pillow alone, no error handling, no labels, nothing kept."
    wide, left, top = stored_size(size), *(c + 0.5 - 0.875 * SIDE for c in CENTER)
    step = 1.75 * SIDE / wide
    with Image.open(path) as image:
        image.transform((wide, wide), Image.Transform.AFFINE, (step, 0, left, 0, step, top), Image.Resampling.BILINEAR).tobytes()


def samples(path: Path) -> None:
    print("one core, per picture of a batch of 32; target at 256: 2.2 ms")
    print(f"{'':44}{'64':>8}{'128':>8}{'256':>8}")
    names = "cut from the store, plain", "cut and augmented", "  with heatmaps at four scales", "decoded and cropped anew"
    rows = {name: [] for name in names}
    for size in (64, 128, 256):
        store, g = CropStore.from_annotations(people([path] * 32), size, progress=False), torch.Generator().manual_seed(0)
        def sample(store=store, g=g, size=size):
            batch = store.batch(range(32), g)
            pyramid(to_map(batch.joints, 4), batch.visible, size // 4, n_scales=4 if size > 64 else 3)
        calls = (lambda store=store: store.batch(range(32)), lambda store=store, g=g: store.batch(range(32), g), sample)
        for name, took in zip(rows, best_ms(*calls), strict=False): rows[name].append(took / 32)
        rows["decoded and cropped anew"].append(best_ms(lambda size=size: crop(read_image(path), CENTER, SIDE, size))[0])
    for name, took in rows.items(): print(f"{name:44}" + "".join(f"{t:8.2f}" for t in took))
    alone, = best_ms(lambda: decode(path), repeats=25)
    whole = rows["  with heatmaps at four scales"][-1]
    print(f"{'Pillow decodes 1280 x 720, nothing else':44}{alone:24.2f}   {alone / whole:.1f} times the whole sample\n")


def making(path: Path, folder: Path, n: int = 600) -> None:
    cores, paths = _cores(), [folder / f"{i}.jpg" for i in range(n)]
    for copy in paths[1:]: os.link(path, copy)
    table = people(paths)

    def per_picture(call) -> float:
        start = time.perf_counter(); call()
        return 1000 * (time.perf_counter() - start) / n

    def store():
        shutil.rmtree(folder / "store", ignore_errors=True)
        CropStore.from_annotations(table, 256, folder / "store", workers=cores, progress=False)
    with ProcessPoolExecutor(cores) as pool:
        def processes(): list(pool.map(decode_and_warp, paths, chunksize=4))
        processes()
        rounds = [(best_ms(lambda: decode_and_warp(path), repeats=15)[0], per_picture(processes), per_picture(store)) for _ in range(3)]
    alone, spread, ours = (min(column) for column in zip(*rounds, strict=True))
    print(f"a store of {n} pictures of 1280 x 720, input 256, on {cores} cores, per picture; target: 80 %")
    print(f"{'decode and one warp, one core':44}{alone:8.2f} ms, divided by the cores {alone / cores:.2f}")
    print(f"{f'the same in {cores} processes, nothing kept':44}{spread:8.2f} ms: so much these cores can do now")
    shares = f"{100 * alone / cores / ours:.0f} % of the first, {100 * spread / ours:.0f} % of the second"
    print(f"{'the store on the disk, threads':44}{ours:8.2f} ms: {shares}\n")


def waiting(path: Path) -> None:
    "How fast a loader gives batches when nobody trains, and what is left to wait for when somebody does."
    store = CropStore.from_annotations(people([path] * 512), 256, progress=False)
    for workers in range(1, _cores() + 1):
        loader = Loader(store, 32, workers=workers)
        start = time.perf_counter()
        for _ in loader.epoch(0): pass
        print(f"{f'loader, {workers} threads, nobody trains':44}{512 / (time.perf_counter() - start):8.0f} samples per second")
    loader, start = Loader(store, 32), time.perf_counter()
    for _ in loader.epoch(0): time.sleep(0.08)
    share = 100 * loader.waited / (time.perf_counter() - start)
    print(f"{'loader, 1 thread, 80 ms on a GPU per batch':44}{share:8.1f} % of the time is waiting")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        path = photograph(Path(name))
        samples(path)
        making(path, Path(name))
        waiting(path)


if __name__ == "__main__": main()
