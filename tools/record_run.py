"""What a training has reached, as a file that a chapter reads.

    msspose train --preset laptop --out runs/laptop
    python tools/record_run.py runs/laptop --out nbs/results/laptop.json

    msspose train --preset laptop --data LSPET_FOLDER --out runs/lspet
    python tools/record_run.py runs/lspet --data LSPET_FOLDER --split val --out nbs/results/lspet.json

It holds the curve and the scores, no picture, no joint and no weight.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from msspose.people import SETS
from msspose.runs import load_model
from msspose.training import evaluate_source, open_source


def record(run: Path, data: list[str], split: str, repeat: str) -> dict:
    "The scores of the run's last model, and how it got there."
    model, _, about = load_model(run)
    config, environment = (json.loads((run / name).read_text()) for name in ("config.json", "environment.json"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = [source.partition(":")[2] or Path(source).name for source in data]
    reports = {name: evaluate_source(model, open_source(source, split, about["size"])) for name, source in zip(names, data, strict=True)}
    kept = ("stage", "epoch", "pictures", "seconds", "loss", "pck", "lr")
    history = [{name: round(row[name], 6) if isinstance(row[name], float) else row[name] for name in kept} for row in rows]
    sets = {name: {"total": round(r.total, 2), "auc": round(r.auc, 2), "n": r.n, "groups": {k: round(v, 2) for k, v in r.groups.items()}}
            for name, r in reports.items()}
    return {"command": repeat, "metric": next(iter(reports.values())).metric, "split": split, "sets": sets,
            "pictures": about["pictures"], "seconds": round(rows[-1]["seconds"]), "waited": rows[-1]["waited"],
            "parameters": sum(p.numel() for p in model.parameters()), "width": config["width"],
            "processor": f"{environment['processor']}, {environment['cores']} cores",
            "torch": environment["versions"]["torch"].partition("+")[0], "history": history}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--data", nargs="+", default=[f"people:{name}" for name in SETS], help="what to measure on")
    parser.add_argument("--split", default="test")
    parser.add_argument("--command", default="msspose train --preset laptop", help="what trained it, for the record")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    result = record(chosen.run, chosen.data, chosen.split, chosen.command)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in result["sets"].items():
        print(f"{name:12s} {result['metric']} {row['total']:.2f}, AUC {row['auc']:.2f}, {row['n']} people")


if __name__ == "__main__": main()
