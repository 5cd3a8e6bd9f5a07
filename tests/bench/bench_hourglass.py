"""Speed of the hourglass against the obvious alternative in the same run, and what its start saves.

    python tests/bench/bench_hourglass.py            memory layout and precision, about a minute
    python tests/bench/bench_hourglass.py --full     also the original 8-stack network at 256x256
    python tests/bench/bench_hourglass.py --start    also steps until the loss leaves that of an answer of zeros, by initialisation
"""
import argparse

import torch
from timing import best_ms
import torch.nn.functional as F
from torch import nn

from msspose.heatmaps import encode, to_map
from msspose.hourglass import StackedHourglass, heatmap_loss
from msspose.people import People

NCHW, NHWC = torch.contiguous_format, torch.channels_last


def report(what: str, names: list[str], times: list[float]) -> None:
    columns = (f"{name} {ms:8.2f} ms ({ms / times[0]:.2f})" for name, ms in zip(names, times, strict=True))
    print(f"{what:<48}" + "   ".join(columns), flush=True)


def operations() -> None:
    pool, enlarge = lambda x: F.max_pool2d(x, 2), lambda x: F.interpolate(x, scale_factor=2)
    for what, size, call in (("max-pooling", 32, pool), ("up-sampling", 16, enlarge)):
        x = torch.randn(8, 128, size, size)
        times = best_ms(*(lambda x=x.contiguous(memory_format=layout), call=call: call(x) for layout in (NCHW, NHWC)))
        report(f"{what} 8x128x{size}x{size}", ["NCHW", "channels_last"], times)


def plain_forward(model: StackedHourglass, images: torch.Tensor) -> list[list[torch.Tensor]]:
    "The same arithmetic without the change of layout."
    x, outputs = model.stem((images - 0.5) * 4), []
    for i, stack in enumerate(model.stacks, 1):
        _, features, heatmaps = stack(x)
        outputs.append([heatmaps])
        if i < len(model.stacks): x = x + stack.feed_features(features) + stack.feed_heatmaps(heatmaps)
    return outputs


def step(model, images, target, layout=NHWC, bf16=False):
    def run():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = model(images) if layout is NHWC else plain_forward(model, images)
        sum(heatmap_loss(scales[0], target) for scales in outputs).backward()
    return run


def networks(configurations: list[dict]) -> None:
    for config in configurations:
        size, batch, repeats = config.pop("size"), config.pop("batch"), config.pop("repeats", 7)
        images = torch.rand(batch, 3, size, size)
        model, plain = StackedHourglass(**config), StackedHourglass(**config).to(memory_format=NCHW)
        target = torch.rand(batch, 16, size // config["stride"], size // config["stride"])
        what = "{n_stacks} stacks, width {width}, depth {depth}, stride {stride}".format(**config)
        calls = step(plain, images, target, NCHW), step(model, images, target), step(model, images, target, bf16=True)
        report(f"{what}, {batch}x{size}x{size}", ["NCHW", "channels_last", "and bf16"], best_ms(*calls, repeats=repeats))


def start(steps: int = 600) -> None:
    "Batches of 16 generated people: after how many steps does the loss of the last stack, over 10 steps, fall below 0.9 of that of zeros?"
    people = People("plain")
    batches = [people.batch(range(16 * i, 16 * i + 16)) for i in range(200)]
    adam, rms = torch.optim.AdamW, torch.optim.RMSprop
    for n_stacks, width, make, lr in ((2, 64, adam, 1e-3), (8, 32, adam, 1e-3), (8, 32, rms, 2.5e-4)):
        for name in ("PyTorch's", "ours"):
            torch.manual_seed(0)
            model = StackedHourglass(n_stacks, width=width, depth=3, stride=4)
            if name != "ours":
                for module in model.modules():
                    if isinstance(module, nn.Conv2d): module.reset_parameters()
            optimiser, curve = make(model.parameters(), lr=lr), []
            for i in range(steps):
                batch = batches[i % len(batches)]
                target = encode(to_map(batch.joints, 4), batch.visible, 16)
                per_stack = [heatmap_loss(scales[0], target, batch.visible) for scales in model(batch.images)]
                optimiser.zero_grad(); sum(per_stack).backward(); optimiser.step()
                zeros = heatmap_loss(torch.zeros_like(target), target, batch.visible)
                curve.append(per_stack[-1].item() / zeros.item())
                if len(curve) > 10 and sum(curve[-10:]) < 9: break
            last = sum(curve[-10:]) / 10
            left = f"leaves zeros after {len(curve)} steps" if last < 0.9 else f"still at {last:.2f} after {steps} steps"
            what = f"{n_stacks} stacks, width {width}, {make.__name__} {lr:g}, {name:<10}"
            print(f"{what} first loss {curve[0]:6.2f} of zeros; {left}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true"); parser.add_argument("--start", action="store_true")
    chosen = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; in brackets: relative to the first of the line")
    operations()
    networks([dict(n_stacks=2, width=64, depth=3, stride=4, size=64, batch=16),
              dict(n_stacks=1, width=64, depth=4, stride=2, size=64, batch=16),
              dict(n_stacks=1, width=256, depth=4, stride=4, size=256, batch=1, repeats=3)])
    if chosen.full: networks([dict(n_stacks=8, width=256, depth=4, stride=4, size=256, batch=2, repeats=2)])
    if chosen.start: start()


if __name__ == "__main__": main()
