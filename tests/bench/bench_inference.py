"""From a photograph to a pose: where the time goes, and how many frames of a film are answered in a second; the model that comes along.

    python tests/bench/bench_inference.py          about two minutes; quiet cores, or the rates say less
"""
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from timing import best_ms

from msspose.inference import PoseEstimator, Square, draw_poses, place
from msspose.video import Video, video_poses, write_video

FRAMES = 300


def portrait(width: int, height: int) -> np.ndarray:
    "Matplotlib's portrait, as large as a frame."
    with get_sample_data("grace_hopper.jpg") as file: image = Image.open(file).convert("RGB")
    return np.array(image.resize((width, height), Image.Resampling.BICUBIC))


def steps(estimator: PoseEstimator) -> None:
    photo = portrait(1280, 720)
    square = Square(photo, np.array([640.0, 360]), 700.0)
    heatmaps, (pose,) = estimator.heatmaps([square]), estimator(photo)
    print("one core, milliseconds per person, in a photograph of 1280 x 720")
    rows = {"cut out": lambda: square.cut(estimator.size), "decoded": lambda: place(heatmaps, square.center[None], [square.side], 4),
            "drawn": lambda: pose.draw(photo), "answered, one person": lambda: estimator.heatmaps([square], flip=False),
            "  with the mirror image": lambda: estimator.heatmaps([square])}
    for name, took in zip(rows, best_ms(*rows.values()), strict=True): print(f"{name:40}{took:8.2f}")
    many = [square] * 32
    for flip, name in ((False, "answered, in batches of 32"), (True, "  with the mirror image")):
        took, = best_ms(lambda flip=flip: estimator.heatmaps(many, flip=flip), repeats=5)
        print(f"{name:40}{took / 32:8.2f}   cutting out included")
    print()


def films(estimator: PoseEstimator, folder: Path) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(cores)
    print(f"{FRAMES} frames, read, answered with the mirror image, smoothed, drawn and written; {cores} cores")
    for (width, height), ending in (((320, 240), ".gif"), ((320, 240), ".mp4"), ((1280, 720), ".mp4")):
        still = portrait(width, height)
        with write_video(folder / f"in{ending}", 25) as add:
            for k in range(FRAMES): add(np.roll(still, 2 * k, 1))
        for draws in (True, False):
            used, start = [], time.perf_counter()
            video = Video.open(folder / f"in{ending}")
            answers = video_poses(estimator, video, smooth=True)
            if draws:
                with write_video(folder / f"out{ending}", 25) as add:
                    for frame, poses in answers:
                        add(draw_poses(frame, poses))
                        used.append(psutil.Process().memory_info().rss / 1e6)
            else:
                for _ in answers: used.append(psutil.Process().memory_info().rss / 1e6)
            rate, grown = FRAMES / (time.perf_counter() - start), max(used[-60:]) - max(used[60:120])
            what = "drawn and written" if draws else "joints alone"
            print(f"{f'{width} x {height} {ending}, {what}':40}{rate:8.1f} frames per second; memory grows by {max(0, grown):.0f} MB")


def main() -> None:
    torch.set_num_threads(1)
    estimator = PoseEstimator.from_pretrained("people")
    steps(estimator)
    with tempfile.TemporaryDirectory() as name: films(estimator, Path(name))


if __name__ == "__main__": main()
