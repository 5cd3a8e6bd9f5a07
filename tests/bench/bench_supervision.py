"""What multi-scale supervision adds to the hourglass in parameters, arithmetic and time, in the same run.

    python tests/bench/bench_supervision.py            one stack of the paper's width and size, and two small ones; under a minute
    python tests/bench/bench_supervision.py --full     also the 8-stack network at 256x256
"""
import argparse

import torch
from timing import times_ms
from torch import nn

from msspose.heatmaps import pyramid
from msspose.hourglass import StackedHourglass, heatmap_loss
from msspose.supervision import MSSNet, multiscale_loss


def count(model: nn.Module) -> int: return sum(p.numel() for p in model.parameters())


def multiplications(model: nn.Module, images: torch.Tensor) -> int:
    "Of all convolutions in one pass."
    total = [0]
    def add(module, inputs, output): total[0] += output.numel() * module.weight[0].numel()
    hooks = [module.register_forward_hook(add) for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad(): model(images)
    for hook in hooks: hook.remove()
    return total[0]


def step(model, images: torch.Tensor, joints: torch.Tensor, visible: torch.Tensor, size: int, n_scales: int):
    "A training step but for the optimiser: targets, forward, loss, backward."
    def run():
        model.zero_grad()
        target = pyramid(joints, visible, size=size, n_scales=n_scales)
        outputs = model(images)
        if n_scales > 1: loss = multiscale_loss(outputs, target, visible)
        else: loss = sum(heatmap_loss(scales[0], target[0], visible) for scales in outputs)
        loss.backward()
    return run


def networks(size: int, batch: int, repeats: int, **config) -> None:
    "The hourglass of chapter 03 against the MSS-net of the same configuration."
    plain, multi = StackedHourglass(**config), MSSNet(**config)
    images, map_size = torch.rand(batch, 3, size, size), size // config["stride"]
    joints, visible = torch.rand(batch, 16, 2) * map_size, torch.full((batch, 16), 2)
    calls = (step(plain, images, joints, visible, map_size, 1), step(multi, images, joints, visible, map_size, config["depth"]))
    runs = times_ms(*calls, repeats=repeats)
    (one, every), middle = map(min, runs), sorted(b / a for a, b in zip(*runs, strict=True))[repeats // 2]
    more = count(multi) / count(plain) - 1, multiplications(multi, images[:1]) / multiplications(plain, images[:1]) - 1
    what = "{n_stacks} stacks, width {width}, depth {depth}, ".format(**config) + f"{batch}x{size}x{size}"
    print(f"{what}: {100 * more[0]:.2f} % parameters, {100 * more[1]:.2f} % multiplications; step {one:.0f} -> {every:.0f} ms: "
          f"{100 * (every / one - 1):+.1f} % at best, {100 * (middle - 1):+.1f} % in the middle of {repeats} pairs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    chosen = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; what a head and a loss at every scale add to the finest alone")
    networks(64, 8, 20, n_stacks=1, width=32, depth=4, stride=2)
    networks(64, 8, 12, n_stacks=2, width=64, depth=4, stride=2)
    networks(256, 2, 9, n_stacks=1, width=256, depth=4, stride=4)
    if chosen.full: networks(256, 1, 5, n_stacks=8, width=256, depth=4, stride=4)


if __name__ == "__main__": main()
