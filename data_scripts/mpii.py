"MPII Human Pose: download 25,000 pictures and their annotations, check them, convert them to train.json and val.json."
from __future__ import annotations

import sys
import time
from pathlib import Path

from download import Part, Remote, add_sources, parser, run, save

PAGE = "http://human-pose.mpi-inf.mpg.de/#download"
SITE = "https://datasets.d2.mpi-inf.mpg.de/andriluka14cvpr"
# Of the pictures an MD5 is published, in the public data loaders of A. Nibali; of the annotations nothing.
PICTURES = Remote("mpii_human_pose_v1.tar.gz", f"{SITE}/mpii_human_pose_v1.tar.gz", PAGE, md5="b6bc9c6869d3f035a5570b2e68ec84c4")
ANNOTATIONS = Remote("mpii_human_pose_v1_u12_2.zip", f"{SITE}/mpii_human_pose_v1_u12_2.zip", PAGE)
# The official file does not say who validates. This one does, as everybody has done it since Tompson et al.; hashed from a published copy.
SPLIT = Remote("mpii_annotations.json", "https://raw.githubusercontent.com/bearpaw/pytorch-pose/master/data/mpii/mpii_annotations.json",
               "https://github.com/bearpaw/pytorch-pose/tree/master/data/mpii", 33_226_856,
               "88867d6ebf898b3e1f6b94c51a83c5352b821f2ac17c86346fb2a7ffd19cc03e")
OFFICIAL = "annotations/mpii_human_pose_v1_u12_1.mat"
PARTS = (   # the small ones first: what is wrong shows before 12.9 GB have come
    Part(OFFICIAL, ANNOTATIONS, r"mpii_human_pose_v1_u12_1\.mat", folder=r"(?:[^/]+/)?", limit=500_000_000, copied=True),
    Part("annotations/mpii_annotations.json", SPLIT, copied=True),
    Part("images", PICTURES, r"\d{9}\.jpg", folder="images/", limit=20_000_000_000, count=None, unpacked=("images", "*/images", ".")),
)
TERMS = f"""
MPII Human Pose was made by Mykhaylo Andriluka, Leonid Pishchulin, Peter Gehler and Bernt Schiele. It is free for research. Commercial use
is not allowed, since the makers do not own the videos that the pictures are from. Cite "2D Human Pose Estimation: New Benchmark and State
of the Art Analysis", CVPR 2014, and do not pass the pictures on.
The data set's own words: {PAGE}
"""


def convert(found: dict[str, Path], arguments) -> dict:
    "The usual split: 22,246 people train, 2,958 validate."
    from msspose.data import load_mpii
    return save({split: load_mpii(found[OFFICIAL], split, found["images"]) for split in ("train", "val")}, arguments.out)


def main(argv: list[str] | None = None, parts: tuple[Part, ...] = PARTS, wait=time.sleep) -> int:
    return run(add_sources(parser("mpii", __doc__)).parse_args(argv), parts, convert, TERMS, wait=wait)


if __name__ == "__main__": sys.exit(main())
