"""What generated people cost: a batch of 32 on one core, and the renderer against the naive painter, in the same run.

Least milliseconds of several runs, in processor time: on one thread that is the time of an idle core, also where others work beside it."""
import time

import torch

from msspose.people import People, rasterize, shade, surface

BOUNDS = {("plain", 64): 80, ("standard", 64): 200, ("plain", 256): 16 * 80, ("standard", 256): 16 * 200}


def best(run, times: int) -> float:
    "Least milliseconds of several runs."
    took = []
    for _ in range(times):
        start = time.process_time()
        run()
        took.append(1000 * (time.process_time() - start))
    return min(took)


def paint_naively(parts, background, light):
    "What is far away first, each part on its whole picture."
    image, size = background.clone(), background.shape[-1]
    y, x = (grid.flatten().float() for grid in torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    for m in (parts.table[2] + parts.table[5] / 2).argsort(descending=True).tolist():
        which, b = torch.full_like(x, m, dtype=torch.int64), parts.picture[m]
        height, _, normal, slope = surface(parts.table, which, x, y)
        cover = (height / slope.clamp(min=1e-6) + 0.5).clamp(0, 1).view(size, size)
        colour = shade(parts.table, which, x, y, height, normal, light[b].expand(len(x), 4)).view(3, size, size)
        image[b] = torch.lerp(image[b], colour, cover)
    return image


def main() -> None:
    torch.set_num_threads(1)
    least = {}
    for (name, size), bound in BOUNDS.items():
        made = People(name, "train", size=size)
        made.batch(range(32))
        least[name, size] = took = best(lambda: made.batch(range(32)), 12 if size == 64 else 3)        # noqa: B023
        scene = best(lambda: made.scene(made.seeds(range(32))), 6)                                      # noqa: B023
        larger = f", {took / least[name, 64]:.1f} times 64x64 (at most 16)" if size > 64 else ""
        verdict = "within" if took <= bound else "ABOVE"
        print(f"{name:8} {size:3}x{size:<3}  32 people {took:7.1f} ms, {verdict} {bound} ms; without painting {scene:.1f} ms{larger}")
    for size in (64, 128):
        made = People("standard", "val", size=size)
        scene, wall = made.scene(made.seeds(range(8))), torch.full((8, 3, size, size), 0.8)
        light = torch.tensor([[0.4, -0.6, -0.7, 0.6]]).expand(8, 4)
        slow, fast = best(lambda: paint_naively(scene.parts, wall, light), 2), best(lambda: rasterize(scene.parts, wall, light), 8)  # noqa: B023
        print(f"renderer {size:3}x{size:<3}  8 people: painter {slow:.0f} ms, depth buffer {fast:.1f} ms: {slow / fast:.0f} times faster")


if __name__ == "__main__": main()
