"Leeds Sports Pose Extended: download 10,000 pictures of one person each, check them, convert them to train.json and val.json."
from __future__ import annotations

import sys
import time
from pathlib import Path

from download import Part, Remote, add_sources, parser, run, save

# Nobody has published length or SHA-256 of the archive; that of its joints.mat is known.
ARCHIVE = Remote("lspet_dataset.zip", "http://sam.johnson.io/research/lspet_dataset.zip", "http://sam.johnson.io/research/lspet.html")
PARTS = (
    Part("images", ARCHIVE, r"im\d{5}\.jpg", folder=r"(?:lspet_dataset/)?images/", limit=1_000_000_000, count=10_000,
         unpacked=("images", "*/images", ".")),
    Part("annotations/joints.mat", ARCHIVE, r"joints\.mat", folder=r"(?:lspet_dataset/)?", limit=20_000_000,
         sha256="cc66465117888d9f43aac78c15c4548e37df5022640a193f2002fd084cba13ef"),
)
TERMS = """
Leeds Sports Pose Extended was made by Sam Johnson and Mark Everingham for research. They ask you to cite "Learning Effective Human Pose
Estimation from Inaccurate Annotation", CVPR 2011. The pictures are from Flickr and belong to those who took them: do not pass them on.
The data set's own words: http://sam.johnson.io/research/lspet.html
"""


def convert(found: dict[str, Path], arguments) -> dict:
    "Pictures 1 to 9,000 to train, 9,001 to 9,500 to validate: there is no official split."
    from msspose.data import load_lspet
    return save({split: load_lspet(found["annotations/joints.mat"], split, found["images"]) for split in ("train", "val")}, arguments.out)


def main(argv: list[str] | None = None, parts: tuple[Part, ...] = PARTS, wait=time.sleep) -> int:
    return run(add_sources(parser("lspet", __doc__)).parse_args(argv), parts, convert, TERMS, wait=wait)


if __name__ == "__main__": sys.exit(main())
