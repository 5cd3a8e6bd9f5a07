"What a training picture costs: from the store, against decoding the photograph again; the picture is matplotlib's portrait."
import time

import torch
import torch.nn.functional as F
from matplotlib.cbook import get_sample_data

from msspose.crops import CropStore, augment, crop, read_image
from msspose.data import Annotations
from msspose.skeleton import LSP


def best(run, times=15):
    "Least milliseconds of several runs."
    took = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        took.append(1000 * (time.perf_counter() - start))
    return min(took)


def main():
    torch.set_num_threads(1)
    path = get_sample_data("grace_hopper.jpg", asfileobj=False)
    people, n = [(256, 220)] * 32, 32
    for size in (64, 128, 256):
        joints, visible = torch.rand(n, 14, 2) * 400, torch.full((n, 14), 2)
        table = Annotations("portrait", LSP, joints, visible, people, [300] * n, [50] * n, [0] * n, (path,))
        store, g = CropStore.from_annotations(table, size, progress=False), torch.Generator().manual_seed(0)
        wide = store.wide(range(n))
        turn = torch.eye(2, 3).repeat(n, 1, 1)
        decode = best(lambda size=size: crop(read_image(path), people[0], 300, size), 5)
        stored = best(lambda store=store, g=g: store.batch(range(n), g)) / n
        plain = best(lambda store=store: store.batch(range(n))) / n
        grid = best(lambda turn=turn, size=size: F.affine_grid(turn, (n, 3, size, size), align_corners=False)) / n
        whole = best(lambda wide=wide, g=g, size=size: augment(wide, size, g, skeleton=LSP)) / n
        print(f"{size:4}: decode and crop {decode:6.2f} ms, augmented from the store {stored:5.2f} ms "
              f"({decode / stored:.1f} times faster), "
              f"plain {plain:5.3f} ms; augment alone {whole:5.2f} ms, affine_grid alone would take {grid:5.2f} ms")


if __name__ == "__main__": main()
