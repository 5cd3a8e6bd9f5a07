"COCO 2017 keypoints: download pictures and annotations, check them, keep the pictures with annotated people, as train.json and val.json."
from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from download import Part, Remote, add_sources, parser, run, save

PAGE = "https://cocodataset.org/#download"
SITE = "http://images.cocodataset.org"
# Lengths and SHA-256 are those in TensorFlow Datasets' url_checksums/coco.txt, and the same in many other places.
ANNOTATIONS = Remote("annotations_trainval2017.zip", f"{SITE}/annotations/annotations_trainval2017.zip", PAGE, 252_907_541,
                     "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268")
PICTURES = {
    "train": Remote("train2017.zip", f"{SITE}/zips/train2017.zip", PAGE, 19_336_861_798,
                    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929"),
    "val": Remote("val2017.zip", f"{SITE}/zips/val2017.zip", PAGE, 815_585_330,
                  "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05")}
TERMS = """
COCO's annotations are under the Creative Commons Attribution 4.0 licence. Its pictures are from Flickr, and COCO does not own them: each is
under the terms that its owner has chosen there, and using it is your own responsibility. Cite "Microsoft COCO: Common Objects in Context",
ECCV 2014.
The data set's own words: https://cocodataset.org/#termsofuse
"""


def annotations(split: str) -> str: return f"annotations/person_keypoints_{split}2017.json"


def with_people(split: str) -> Callable[[dict[str, Path]], set[str]]:
    "Which pictures are needed: those with a person who has joints, about half."
    def names(found: dict[str, Path]) -> set[str]:
        content = json.loads(found[annotations(split)].read_bytes())
        needed = {person["image_id"] for person in content["annotations"] if person["num_keypoints"] and not person["iscrowd"]}
        return {picture["file_name"] for picture in content["images"] if picture["id"] in needed}
    return names


def _parts(split: str) -> tuple[Part, ...]:
    year = f"{split}2017"
    return (Part(annotations(split), ANNOTATIONS, rf"person_keypoints_{year}\.json", folder="annotations/", limit=1_000_000_000),
            Part(f"images/{year}", PICTURES[split], r"\d{12}\.jpg", folder=f"{year}/", limit=25_000_000_000, only=with_people(split),
                 unpacked=(year, f"images/{year}", f"*/{year}", f"*/images/{year}")))


PARTS = {split: _parts(split) for split in ("train", "val")}


def convert(found: dict[str, Path], arguments) -> dict:
    "COCO's own split."
    from msspose.data import load_coco
    return save({split: load_coco(found[annotations(split)], images=found[f"images/{split}2017"]) for split in arguments.splits},
                arguments.out)


def main(argv: list[str] | None = None, parts: dict[str, tuple[Part, ...]] = PARTS, wait=time.sleep) -> int:
    made = add_sources(parser("coco", __doc__, "--splits val --accept"))
    made.add_argument("--splits", nargs="+", choices=list(PARTS), default=list(PARTS), help="train is 19.3 GB, val 0.8 GB (default: both)")
    arguments = made.parse_args(argv)
    arguments.splits = sorted(set(arguments.splits))
    return run(arguments, sum((parts[split] for split in arguments.splits), ()), convert, TERMS, ("splits",), wait)


if __name__ == "__main__": sys.exit(main())
