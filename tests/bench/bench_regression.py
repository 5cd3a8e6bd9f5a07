"""The whole network: what its loss, its memory layout and its precision cost, against a reference in the same run.

    python tests/bench/bench_regression.py                       the 8-stack network at 256x256, batch 8; about three minutes
    python tests/bench/bench_regression.py --stacks 1 --size 128 a quick look
"""
import argparse
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch
from timing import times_ms
from torch.autograd.graph import saved_tensors_hooks

from msspose.regression import MSRNet, PoseNet

NCHW, NHWC = torch.contiguous_format, torch.channels_last


def middle(values) -> float: return sorted(values)[len(values) // 2]


def plain_forward(model: PoseNet, images: torch.Tensor) -> list[list[torch.Tensor]]:
    "The same arithmetic without the changes of layout, but for one copy of what MSR-net reads."
    network, outputs = model.mss.hourglasses, []
    x = network.stem((images - 0.5) * 4)
    for i, (stack, heads) in enumerate(zip(network.stacks, model.mss.heads, strict=True), 1):
        merged, features, heatmaps = stack(x)
        outputs.append([heatmaps, *(head(m) for head, m in zip(heads, merged[1:], strict=True))])
        if i < len(network.stacks): x = x + stack.feed_features(features) + stack.feed_heatmaps(heatmaps)
    model.msr.gather = lambda images, stacks: MSRNet.gather(model.msr, images, stacks).contiguous()
    return [*outputs, model.msr(images, outputs)]


def sample(batch: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images, joints = torch.rand(batch, 3, size, size, generator=generator), torch.rand(batch, 16, 2, generator=generator) * size
    return images, joints, torch.full((batch, 16), 2)


def step(model: PoseNet, batch: int, size: int, layout=NHWC, bf16: bool = False):
    "A training step but for the optimiser: forward, targets, loss, backward."
    images, joints, visible = sample(batch, size)
    def run():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            outputs = model(images) if layout is NHWC else plain_forward(model, images)
        model.loss(outputs, joints, visible).backward()
    return run


def loss_alone(model: PoseNet, batch: int, size: int):
    "Targets, loss and its gradient at the heatmaps, of heatmaps that no network stands behind."
    images, joints, visible = sample(batch, size)
    with torch.no_grad(): outputs = model(images)
    outputs = [[maps.detach().requires_grad_() for maps in scales] for scales in outputs]
    def run():
        for maps in (maps for scales in outputs for maps in scales): maps.grad = None
        model.loss(outputs, joints, visible).backward()
    return run


def times(stacks: int, batch: int, size: int, repeats: int) -> None:
    model = PoseNet(n_stacks=stacks)
    plain = PoseNet(n_stacks=stacks).to(memory_format=NCHW)
    with torch.no_grad():
        a, b = model.eval()(sample(1, size)[0])[-1][0], plain_forward(plain.eval(), sample(1, size)[0])[-1][0]
    assert torch.allclose(a, b, atol=1e-4), "the reference computes something else"
    model.train(), plain.train()
    calls = step(plain, batch, size, NCHW), step(model, batch, size), step(model, batch, size, bf16=True), loss_alone(model, batch, size)
    slow, fast, half, loss = times_ms(*calls, repeats=repeats)
    share = middle([100 * b / a for a, b in zip(fast, loss, strict=True)])
    print(f"the whole loss, forward and backward: {min(loss):.1f} ms of a training step of {min(fast):.0f} ms, "
          f"{100 * min(loss) / min(fast):.2f} % at best, {share:.2f} % in the middle of {repeats} pairs", flush=True)
    for name, run in (("channels_last", fast), ("channels_last and bf16", half)):
        ratio = middle([b / a for a, b in zip(slow, run, strict=True)])
        print(f"training step, NCHW {min(slow):.0f} ms, {name} {min(run):.0f} ms: {min(run) / min(slow):.2f} at best, "
              f"{ratio:.2f} in the middle of {repeats} pairs", flush=True)


def saved_bytes(model: PoseNet, batch: int, size: int, bf16: bool) -> int:
    "Of all tensors that a step keeps for its way back, each storage once, parameters left out."
    known, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}
    def remember(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known: kept[storage.data_ptr()] = storage.nbytes()
        return tensor
    images, joints, visible = sample(batch, size)
    with saved_tensors_hooks(remember, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16): outputs = model(images)
        loss = model.loss(outputs, joints, visible)
    assert loss.requires_grad          # the graph is alive to here: no storage was freed and counted twice
    return sum(kept.values())


def peak_of_this_process() -> int:
    "In bytes. On Linux the kernel's own count: what getrusage says there begins at the peak of the process that started this one."
    status = Path("/proc/self/status")
    if status.exists(): return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_bytes(stacks: int, batch: int, size: int, bf16: bool) -> int:
    "The largest resident memory of a process that makes one training step."
    options = ["--peak", f"--stacks={stacks}", f"--batch={batch}", f"--size={size}", *["--bf16"] * bf16]
    return int(subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=True).stdout)


def memory(stacks: int, size: int) -> None:
    "Per image: two images against one, so that weights, their copies in bf16 and the library itself drop out."
    model, found = PoseNet(n_stacks=stacks), {}
    for bf16 in (False, True):
        found[bf16] = saved_bytes(model, 2, size, bf16) - saved_bytes(model, 1, size, bf16)
        grown = peak_bytes(stacks, 2, size, bf16) - peak_bytes(stacks, 1, size, bf16)
        print(f"memory per image, {'bf16' if bf16 else 'fp32'}: {found[bf16] / 1e6:.0f} MB kept for backward, "
              f"resident memory grows by {grown / 1e6:.0f} MB", flush=True)
    print(f"bf16 keeps {found[True] / found[False]:.2f} of fp32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stacks", type=int, default=8); parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=256); parser.add_argument("--repeats", type=int, default=2)
    for hidden in ("--peak", "--bf16"): parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        step(PoseNet(n_stacks=chosen.stacks), chosen.batch, chosen.size, bf16=chosen.bf16)()
        print(peak_of_this_process())
        return
    what = f"{chosen.stacks} stacks and MSR-net, width 256, depth 4, {chosen.batch}x{chosen.size}x{chosen.size}"
    print(f"{torch.get_num_threads()} threads; {what}")
    memory(chosen.stacks, chosen.size)
    times(chosen.stacks, chosen.batch, chosen.size, chosen.repeats)


if __name__ == "__main__": main()
