"""How fast heatmaps are painted and read: ratios against a reference measured in the same run, 32 people x 16 joints x 64x64, one core.

Run: python tests/bench/bench_heatmaps.py
"""
import time

import torch
import torch.nn.functional as F

from msspose.heatmaps import decode, encode, pyramid


def best_ms(call, repeats: int) -> float:
    "The fastest of many runs; the others were disturbed."
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def equation(joints, visible, size=64, sigma=1.0):
    "One exponential per pixel."
    x, y = ((torch.arange(size) - joints[..., None]) ** 2).unbind(2)
    return torch.exp(-(x[..., None, :] + y[..., :, None]) / (2 * sigma ** 2)) * (visible > 0)[..., None, None]


def main() -> None:
    torch.set_num_threads(1)
    joints = torch.rand(32, 16, 2, generator=torch.Generator().manual_seed(0)) * 64 - 0.5
    visible = torch.full((32, 16), 2, dtype=torch.uint8)
    maps = encode(joints, visible)
    maps += 0.05 * torch.rand(maps.shape, generator=torch.Generator().manual_seed(1))
    last = maps.contiguous(memory_format=torch.channels_last)
    rows = [
        ("encode", "2-D exponential", lambda: equation(joints, visible), 8,
         lambda: encode(joints, visible), "at least 20 times"),
        ("pyramid, max", "pooling the maps", lambda: [F.max_pool2d(maps, 2 ** k) for k in range(1, 4)], 20,
         lambda: pyramid(joints, visible), ""),
        *((f"decode, {how}", "torch.max with indices", lambda: maps.flatten(2).max(-1), 50, lambda how=how: decode(maps, how), "under 1 ms")
          for how in ("argmax", "quarter", "subpixel")),
        ("decode, quarter, channels last", "torch.max with indices", lambda: last.flatten(2).max(-1), 50, lambda: decode(last), ""),
    ]
    print(f"{'':32}{'ms':>8}{'reference ms':>14}{'ratio':>8}")
    for name, against, reference, repeats, call, wanted in rows:
        slow, fast = best_ms(reference, repeats), best_ms(call, 5 * repeats)
        print(f"{name:32}{fast:8.2f}{slow:14.2f}{slow / fast:8.1f}   against {against}{'; wanted: ' + wanted if wanted else ''}")


if __name__ == "__main__": main()
