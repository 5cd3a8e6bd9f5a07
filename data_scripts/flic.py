"Frames Labeled In Cinema: download 5,003 frames of films, check them, convert them to train.json and val.json."
from __future__ import annotations

import sys
import time
from pathlib import Path

from download import Part, Remote, add_sources, parser, run, save

PAGE = "https://bensapp.github.io/flic-dataset.html"
ANNOT = "princeton-vl/pose-hg-train/9442c50a97e15dc450c6c1f42032abcddf79b2d4/data/flic/annot"   # the original hourglass's, as it first came
# Length and SHA-256 of the archive are those in TensorFlow Datasets' url_checksums/flic.txt.
ARCHIVE = Remote("FLIC.zip", "https://drive.usercontent.google.com/download?id=0B4K3PZp8xXDJN0Fpb0piVjQ3Y3M&export=download&confirm=t",
                 PAGE, 300_257_553, "778a4847f068592af40e959381c153838e4f68bb1d798e3824a9d88e5b881955")
IMAGES = Part("images", ARCHIVE, r"[^/]+\.jpg", folder=r"(?:FLIC/)?images/", limit=2_000_000_000, count=None,
              unpacked=("images", "*/images", "."))


def _annotations(name: str, size: int, sha256: str) -> Part:
    "One of the h5 files, hashed from the published ones."
    page = "https://github.com/" + ANNOT.replace("/9442c50a", "/tree/9442c50a")
    return Part(f"annotations/{name}", Remote(name, f"https://raw.githubusercontent.com/{ANNOT}/{name}", page, size, sha256))


PARTS = {   # by --sides
    "person": (
        _annotations("train_personcentric.h5", 1_419_577, "31b4573c89c7c0d42de8a1aab3824eb8ff1337197212d2f342f6ac17d2e5544c"),
        _annotations("valid_personcentric.h5", 364_872, "1922f83ab61b6f4de8e5b520af2687edea8f3a686d8ce567b46e6ad7be2b355d"), IMAGES),
    "observer": (
        _annotations("train.h5", 1_419_577, "b736543395c47120efefdb5d3230d07d1a5d32c834892a74249b4b4f9be891fe"),
        _annotations("valid.h5", 364_872, "0c4d4c20bb5a69cf22e2c68adebe0cb8ce6686bdcb50d7a7180680616d9e4fec"), IMAGES)}
TERMS = f"""
FLIC was made by Ben Sapp and Ben Taskar, who publish it under the MIT licence and ask you to cite "MODEC: Multimodal Decomposable Models
for Human Pose Estimation", CVPR 2013. Its pictures are frames of films, and the rights in those stay with their owners: use them for
research, and do not pass them on.
The data set's own words: {PAGE}
"""


def convert(found: dict[str, Path], arguments) -> dict:
    "The usual split: 3,987 people train, 1,016 are the test set."
    from msspose.data import load_flic
    train, val = (path for place, path in found.items() if place.startswith("annotations"))
    return save({split: load_flic(file, split, found["images"], arguments.sides) for split, file in (("train", train), ("val", val))},
                arguments.out)


def main(argv: list[str] | None = None, parts: dict[str, tuple[Part, ...]] = PARTS, wait=time.sleep) -> int:
    made = add_sources(parser("flic", __doc__))
    made.add_argument("--sides", choices=sorted(PARTS, reverse=True), default="person",
                      help="whose left and right: the person's, or the observer's, as in most papers (default: %(default)s)")
    arguments = made.parse_args(argv)
    return run(arguments, parts[arguments.sides], convert, TERMS, ("sides",), wait)


if __name__ == "__main__": sys.exit(main())
