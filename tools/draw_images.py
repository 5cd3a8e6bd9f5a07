"""Draw the pictures of README and site into nbs/images: pose.gif, card.png (what a link shows where people share it) and favicon.svg.

All of them are of generated people, the first of a split, and the poses are what the model that comes with the package finds."""
from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from msspose.drawing import CENTRE, INK, LEFT, RIGHT, gif, overlay, paint_pose
from msspose.inference import PoseEstimator, Square
from msspose.people import People

IMAGES = Path(__file__).resolve().parent.parent / "nbs" / "images"
SHOWN = (0, 1, 2, 3)   # people of the test split
SIZE = 160             # pixels of each in the animation


def found(size: int):
    "The people of SHOWN, painted at a size: pictures (P, size, size, 3) uint8, the model's heatmaps (P, N, h, h) and its poses."
    people, estimator = People("plain", "test", size=size), PoseEstimator.from_pretrained("people")
    pictures = (people.batch(list(SHOWN)).images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    middle = np.full(2, (size - 1) / 2)
    heatmaps = estimator.heatmaps([Square(picture, middle, float(size)) for picture in pictures])
    poses = [estimator(picture)[0] for picture in pictures]
    return pictures, heatmaps, poses


def pose_gif() -> bytes:
    "Joint by joint: where the network believes it to be, then the limbs that are known by then."
    pictures, heatmaps, poses = found(SIZE)
    frames = [np.concatenate(list(pictures), 1)] * 4
    for joint in range(len(poses[0].joints)):
        one = torch.zeros_like(heatmaps)
        one[:, joint] = heatmaps[:, joint]
        lit = (overlay(pictures.transpose(0, 3, 1, 2), one, top=0.8) * 255).astype(np.uint8)
        known = 2 * (np.arange(len(poses[0].joints)) <= joint)
        frames.append(np.concatenate([paint_pose(picture, pose.joints, known) for picture, pose in zip(lit, poses, strict=True)], 1))
    done = np.concatenate([pose.draw(picture) for picture, pose in zip(pictures, poses, strict=True)], 1)
    return gif(np.stack([*frames, *[done] * 12]), fps=5)


def card() -> Image.Image:
    "1200 x 630: the people with their poses above, the name below."
    pictures, _, poses = found(300)
    image = Image.new("RGB", (1200, 630), "white")
    for k, (picture, pose) in enumerate(zip(pictures, poses, strict=True)): image.paste(Image.fromarray(pose.draw(picture)), (300 * k, 0))
    figure = plt.figure(figsize=(12, 3.3), dpi=100)
    figure.text(0.04, 0.55, "msspose", fontsize=64, fontweight="bold", color=INK)
    figure.text(0.04, 0.25, "Human pose estimation, taught one idea at a time,", fontsize=26, color=INK)
    figure.text(0.04, 0.10, "in notebooks that become a tested package", fontsize=26, color=INK)
    figure.canvas.draw()
    image.paste(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3]), (0, 300))
    plt.close(figure)
    return image


# A person in 32 x 32: head and trunk in the colour of the middle, the person's left and right in theirs.
FAVICON = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"
 fill="none" stroke-width="3.4" stroke-linecap="round" stroke-linejoin="round">
<path stroke="{RIGHT}" d="M16 12 L9 13 L5 5 M16 20 L12 22 L9 30"/>
<path stroke="{LEFT}" d="M16 12 L23 13 L28 20 M16 20 L20 22 L23 30"/>
<path stroke="{CENTRE}" d="M16 9 L16 20"/><circle cx="16" cy="5" r="3.6" fill="{CENTRE}"/>
</svg>
"""


def main() -> None:
    torch.set_num_threads(1)
    (IMAGES / "pose.gif").write_bytes(pose_gif())
    card().save(IMAGES / "card.png", optimize=True)
    (IMAGES / "favicon.svg").write_text(FAVICON, encoding="utf-8")
    for name in ("pose.gif", "card.png", "favicon.svg"): print(f"nbs/images/{name}: {(IMAGES / name).stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__": main()
