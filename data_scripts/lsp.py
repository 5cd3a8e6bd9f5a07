"Leeds Sports Pose: download 2,000 pictures of one person each, check them, convert them to train.json and val.json."
from __future__ import annotations

import sys
import time
from pathlib import Path

from download import Part, Remote, add_sources, parser, run, save

PAGE = "http://sam.johnson.io/research/lsp.html"


def _parts(name: str) -> tuple[Part, ...]:
    "The two parts of one of the archives, of which nobody has published length or SHA-256."
    archive = Remote(f"{name}.zip", f"http://sam.johnson.io/research/{name}.zip", PAGE)
    return (Part("images", archive, r"im\d{4}\.jpg", folder=rf"(?:{name}/)?images/", limit=1_000_000_000, count=2000,
                 unpacked=("images", f"{name}/images", "*/images", ".")),
            Part("annotations/joints.mat", archive, r"joints\.mat", folder=rf"(?:{name}/)?", limit=20_000_000))


PARTS = {False: _parts("lsp_dataset_original"), True: _parts("lsp_dataset")}   # by --small
TERMS = f"""
Leeds Sports Pose was made by Sam Johnson and Mark Everingham for research. They ask you to cite "Clustered Pose and Nonlinear Appearance
Models for Human Pose Estimation", BMVC 2010. The pictures are from Flickr and belong to those who took them: do not pass them on.
The data set's own words: {PAGE}
"""


def convert(found: dict[str, Path], arguments) -> dict:
    "The authors' split: the first half trains, the second is the test set."
    from msspose.data import load_lsp
    return save({split: load_lsp(found["annotations/joints.mat"], split, found["images"]) for split in ("train", "val")}, arguments.out)


def main(argv: list[str] | None = None, parts: dict[bool, tuple[Part, ...]] = PARTS, wait=time.sleep) -> int:
    made = add_sources(parser("lsp", __doc__))
    made.add_argument("--small", action="store_true", help="pictures in which a person is about 150 pixels tall, as most papers used them")
    arguments = made.parse_args(argv)
    return run(arguments, parts[arguments.small], convert, TERMS, ("small",), wait)


if __name__ == "__main__": sys.exit(main())
