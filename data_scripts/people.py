"Generated people as files: pictures with train.json and val.json, to try whatever reads photographs without downloading any."
from __future__ import annotations

import sys
from pathlib import Path

from download import parser, run


def convert(found: dict[str, Path], arguments) -> dict:
    from msspose.data import write_people
    counts = {"train": arguments.count, "val": arguments.val_count}
    return {split: write_people(arguments.out, arguments.dataset, split, count, arguments.size) for split, count in counts.items()}


def main(argv: list[str] | None = None) -> int:
    made = parser("people", __doc__, "--dataset crowd --count 5000")
    made.add_argument("--dataset", choices=["plain", "scale", "occlusion", "crowd", "standard"], default="standard",
                      help="what makes them difficult (default: %(default)s)")
    made.add_argument("--count", type=int, default=1000, help="people to train on, a picture each (default: %(default)s)")
    made.add_argument("--val-count", type=int, default=250, help="people to validate on (default: %(default)s)")
    made.add_argument("--size", type=int, default=256, help="side of a person's square in pixels (default: %(default)s)")
    return run(made.parse_args(argv), (), convert, options=("dataset", "count", "val_count", "size"))


if __name__ == "__main__": sys.exit(main())
