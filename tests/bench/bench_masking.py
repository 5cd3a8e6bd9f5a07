"""What keypoint masking costs: against a loop over pictures, against copying and against painting the batch; and who sees its edges.

    python tests/bench/bench_masking.py            one core, about half a minute
    python tests/bench/bench_masking.py --edges    also trains detectors of pasted patches on hard and soft edges, about two minutes
"""
import argparse
import time

import torch
import torch.nn.functional as F
from torch import nn

from msspose.masking import free_background, mask_keypoints, pick
from msspose.people import Batch, People


def best_ms(call, repeats: int) -> float:
    "The fastest of many runs; the others were disturbed."
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter(); call(); times.append(time.perf_counter() - start)
    return 1000 * min(times)


def masked(batch: Batch, **options):
    options |= dict(others=batch.others, others_visible=batch.others_visible, generator=torch.Generator().manual_seed(0))
    return mask_keypoints(batch.images, batch.joints, batch.visible, batch.reference, **options)


def by_hand(batch: Batch, generator: torch.Generator) -> torch.Tensor:
    "The same task with loops: trials for a place until one is far from everybody, then slices; gives up after 200, stays off the border."
    images, size = batch.images.clone(), batch.images.shape[-1]
    def roll(): return torch.rand((), generator=generator).item()
    for b in range(len(images)):
        if roll() >= 0.5: continue
        hide, number = roll() < 0.5, 1 + (roll() < 0.5)
        everybody = torch.cat([batch.joints[b, batch.visible[b] > 0], batch.others[b][batch.others_visible[b] > 0]])
        seen = (batch.visible[b] == 2).nonzero()[:, 0]
        for joint in seen[torch.randperm(len(seen), generator=generator)[:number]]:
            side = max(1, round((0.5 + 0.5 * roll()) * batch.reference[b].item()))
            x, y = (batch.joints[b, joint] - (side - 1) / 2 + 0.5).floor().long().clamp(0, size - side).tolist()
            for _ in range(200):
                u, v = (int(roll() * (size - side + 1)) for _ in range(2))
                middle = torch.tensor([u, v]) + (side - 1) / 2
                if ((everybody - middle).abs().amax(1) >= 1.5 * side).all(): break
            else: continue
            (u, v), (x, y) = ((u, v), (x, y)) if hide else ((x, y), (u, v))
            images[b, :, y:y + side, x:x + side] = batch.images[b, :, v:v + side, u:u + side]
    return images


def speed() -> None:
    print(f"{'':48}{'ms':>8}{'reference ms':>14}{'ratio':>8}")
    for name, size, number, wanted in (("crowd", 256, 64, "; wanted: under 100 ms"), ("standard", 64, 32, "")):
        people = People(name, size=size)
        batch = people.batch(range(number))
        generator = torch.Generator().manual_seed(0)
        rows = {"": {}, ", soft edges": dict(soft=0.25), ", onto keypoints": dict(onto="keypoint"), ", every picture": dict(probability=1)}
        loop = best_ms(lambda batch=batch, generator=generator: by_hand(batch, generator), 5)
        for what, options in rows.items():
            fast = best_ms(lambda batch=batch, options=options: masked(batch, **options), 15)
            against = f"{fast:8.2f}{loop:14.2f}{loop / fast:8.1f}   against loops{wanted}"
            print(f"{f'{number} pictures of {size}x{size}{what}':48}{against}", flush=True)
        fast = best_ms(lambda batch=batch: masked(batch), 15)
        copy = best_ms(lambda batch=batch: batch.images.clone(), 15)
        paint = best_ms(lambda people=people, number=number: people.batch(range(number)), 2)
        print(f"{'  of which a copy of the pictures':48}{copy:8.2f}{fast:14.2f}{copy / fast:8.2f}   of masking")
        print(f"{'  beside painting the batch':48}{fast:8.2f}{paint:14.2f}{paint / fast:8.1f}   times masking", flush=True)


def cut_outs(people: Batch, soft: float, generator: torch.Generator, width: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    "Background, in half of the cases covered by other background: an invented joint, far from everybody, is hidden. As in the chapter."
    size, side = people.images.shape[-1], people.reference.round()[:, None]
    free = free_background(people.joints, side, (size, size))
    index, _ = pick(free.flatten(2), torch.rand(side.shape, generator=generator))
    step = -(-size // 64)
    joints = torch.stack([index % free.shape[-1], index // free.shape[-1]], -1) * step + side[..., None] / 2
    done = mask_keypoints(people.images, joints, torch.full(joints.shape[:2], 2), people.reference, people.joints[:, None], generator,
                          hide=1, count=(1, 1), soft=soft)
    middle = joints[:, 0] + 8 * torch.rand(len(joints), 2, generator=generator) - 4
    corner = (middle.round().long() - width // 2).clamp(0, size - width)
    y, x = ((corner[:, axis, None] + torch.arange(width)) for axis in (1, 0))
    cuts = done.images[torch.arange(len(joints))[:, None, None], :, y[:, :, None], x[:, None]].permute(0, 3, 1, 2)
    return cuts, (done.outcome[:, 0] == 1).float()


def edges(steps: int = 600, lr: float = 4e-3) -> None:
    def layer(inputs, outputs): return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())
    train, unseen = People("plain", size=128).batch(range(640)), People("plain", split="val", size=128).batch(range(400))
    print(f"right answers in per cent after {steps} steps; guessing has 50")
    for soft in (0.0, 0.25, 0.5):
        torch.manual_seed(0)
        model = nn.Sequential(layer(3, 16), layer(16, 16), nn.MaxPool2d(2), layer(16, 32), nn.MaxPool2d(2), layer(32, 32),
                              nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 1)).to(memory_format=torch.channels_last)
        optimiser, generator = torch.optim.AdamW(model.parameters(), lr=lr), torch.Generator().manual_seed(0)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
        for step in range(steps):
            if step % 10 == 0: cuts, labels = cut_outs(train, soft, generator)
            part = slice(64 * (step % 10), 64 * (step % 10) + 64)
            answers = model(cuts[part].contiguous(memory_format=torch.channels_last))[:, 0]
            loss = F.binary_cross_entropy_with_logits(answers, labels[part])
            optimiser.zero_grad(); loss.backward(); optimiser.step(); schedule.step()
        model.eval()
        shares = []
        for tried in (0.0, 0.25, 0.5):
            cuts, labels = cut_outs(unseen, tried, torch.Generator().manual_seed(9))
            with torch.no_grad(): shares.append(100 * ((model(cuts)[:, 0] > 0) == (labels > 0)).float().mean().item())
        print(f"trained on soft={soft:<5} tried on soft=0, 0.25, 0.5: " + ", ".join(f"{share:.0f}" for share in shares), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    speed()
    if chosen.edges: edges()


if __name__ == "__main__": main()
