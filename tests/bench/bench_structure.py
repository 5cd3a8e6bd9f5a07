"""Speed of eq. 2 against a plain loop over groups in the same run, and what alpha does to a short training.

    python tests/bench/bench_structure.py            8 stacks, 4 scales, batch 8, there and back: time and operations
    python tests/bench/bench_structure.py --train    also the experiment of the chapter, three seeds and several alpha, a few minutes
"""
import argparse

import torch
from timing import best_ms
from torch.utils._python_dispatch import TorchDispatchMode

from msspose.heatmaps import decode, pyramid, to_image, to_map
from msspose.people import People
from msspose.skeleton import MPII
from msspose.structure import multiscale_structure_loss
from msspose.supervision import MSSNet, multiscale_loss

SIZES = (64, 32, 16, 8)


class Count(TorchDispatchMode):
    "How many operations PyTorch dispatches, views included."
    def __init__(self): super().__init__(); self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


def combined(maps: torch.Tensor, group: tuple[int, ...], combine: str) -> torch.Tensor:
    maps = maps[:, list(group)]
    return maps.sum(1) if combine == "sum" else maps.amax(1) if combine == "max" else maps.flatten(1, 2)


def loops(pred, target, groups, combine, visible):
    "What one would write: all persons at once, groups one by one."
    total, weight = 0, (visible > 0)[..., None, None].float()
    for scales in pred:
        for p, t in zip(scales, target, strict=True):
            p, t = p.float() * weight, t * weight
            total = total + (p - t).square().sum((-2, -1)).mean()
            for group in groups:
                total = total + (combined(p, group, combine) - combined(t, group, combine)).square().sum((-2, -1)).mean() / len(groups)
    return total


def step(pred, loss):
    leaves = [maps for scales in pred for maps in scales]
    return lambda: torch.autograd.grad(loss(pred), leaves)


def speed() -> None:
    generator = torch.Generator().manual_seed(0)
    target = [torch.rand(8, 16, s, s, generator=generator) for s in SIZES]
    visible = torch.randint(0, 3, (8, 16), generator=generator)
    for dtype in (torch.float32, torch.bfloat16):
        pred = [[torch.randn(8, 16, s, s, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
                 for s in SIZES] for _ in range(8)]
        for combine in ("sum", "concat", "max"):
            ours = step(pred, lambda p, c=combine: multiscale_structure_loss(p, target, MPII.groups, combine=c, visible=visible))
            plain = step(pred, lambda p, c=combine: loops(p, target, MPII.groups, c, visible))
            first = step(pred, lambda p: multiscale_loss(p, target, visible))
            with Count() as few: ours()
            with Count() as many: plain()
            fast, slow, eq1 = best_ms(ours, plain, first)
            print(f"{combine:<7} {str(dtype)[6:]:<9} ours {fast:6.1f} ms, {few.operations:>5} operations   "
                  f"loops {slow:6.1f} ms ({slow / fast:4.1f}), {many.operations:>6} operations   "
                  f"eq. 1 alone {eq1:6.1f} ms ({eq1 / fast:.1f})", flush=True)


def train(steps: int = 100) -> None:
    "The experiment of the chapter: joints within half a head after a short training, by loss and seed."
    batches = [People("plain").batch(range(16 * i, 16 * i + 16)) for i in range(steps)]
    unseen = People("plain", split="val").batch(range(256))

    def score(loss, seed: int) -> float:
        model = MSSNet(n_stacks=1, width=16, depth=3, seed=seed)
        optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps, pct_start=0.15)
        for batch in batches:
            target = pyramid(to_map(batch.joints, 4), batch.visible, 16, n_scales=3)
            optimiser.zero_grad(); loss(model(batch.images), target, batch.visible).backward(); optimiser.step(); schedule.step()
        with torch.no_grad(): found = to_image(decode(model.eval()(unseen.images)[0][0])[0], 4)
        near = (found - unseen.joints).norm(dim=-1) <= 0.5 * unseen.reference[:, None]
        return 100 * float((near & (unseen.visible > 0)).sum() / (unseen.visible > 0).sum())

    def structure(alpha, combine="sum", groups=MPII.groups):
        return lambda pred, target, visible: multiscale_structure_loss(pred, target, groups, alpha, combine, visible)

    losses = {"eq. 1": multiscale_loss, "sum, 1/(16 N)": structure(1 / 256), "sum, 1/(4 N)": structure(1 / 64),
              "sum, 1/N": structure(1 / 16), "sum, 4/N": structure(1 / 4),
              "sum, 1/N, all limbs": structure(1 / 16, groups=MPII.neighbourhoods),
              "max, 1/N": structure(1 / 16, "max"), "concat, 1/N": structure(1 / 16, "concat")}
    baseline = []
    for name, loss in losses.items():
        scores = [score(loss, seed) for seed in range(3)]
        baseline = baseline or scores
        print(f"{name:<22} {sum(scores) / 3:5.1f} %   difference from eq. 1 by seed:",
              "  ".join(f"{a - b:+5.1f}" for a, b in zip(scores, baseline, strict=True)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true")
    chosen = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; 8 stacks, 4 scales, batch 8, forward and backward; in brackets: relative to ours")
    speed()
    if chosen.train: train()


if __name__ == "__main__": main()
