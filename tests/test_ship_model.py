"The tool that makes a run's model one that comes with the package."
import json
from dataclasses import asdict

import pytest
import torch
from test_repository import tool

from msspose.people import SPLITS
from msspose.regression import PoseNet
from msspose.runs import load_model, load_tensors, save_model
from msspose.training import PRESETS

ship_model = tool("ship_model")


@pytest.fixture
def run(tmp_path, monkeypatch):
    "What a finished training leaves, with a network that has learnt nothing."
    for split in ("val", "test"): monkeypatch.setitem(SPLITS, split, SPLITS[split])
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(PoseNet(n_stacks=1, width=8, depth=2), folder, size=64, data="people:plain", pictures=1234)
    for name, content in (("config.json", asdict(PRESETS["laptop"]) | {"source": {}}), ("result.json", {}),
                          ("environment.json", {"versions": {"msspose": "0.1.0"}, "cores": 2})):
        (folder / name).write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text(json.dumps({"seconds": 3600.4}) + "\n")
    return folder


def test_a_model_is_halved_measured_and_described(run, tmp_path):
    file = ship_model.ship(run, "tiny", tmp_path / "models", people=12)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["tiny.md", "tiny.safetensors"]
    tensors, about = load_tensors(file, sealed=True)
    assert {value.dtype for value in tensors.values() if value.ndim > 1} == {torch.float16}
    assert {value.dtype for value in tensors.values() if value.ndim == 1} == {torch.float32}
    assert about["data"] == "people:plain" and len(about["thresholds"]["tau_c"]) == 16
    (model, _, _), (before, _, _) = load_model(file), load_model(run)
    for p, q in zip(model.parameters(), before.parameters(), strict=True): assert torch.allclose(p, q, atol=1e-3)
    card = file.with_suffix(".md").read_text()
    for text in ("For teaching", "`people:plain`", "1,234 pictures", "`msspose train --preset laptop`, 60 minutes on 2", "| `crowd` |",
                 f"{file.stat().st_size:,} bytes", "On photographs most of what it says is wrong"): assert text in card


@pytest.mark.parametrize("change, said", [
    (lambda run: save_model(PoseNet(n_stacks=1, width=8, depth=2), run, size=64, data="photos/lspet"), "trained on photos/lspet"),
    (lambda run: save_model(PoseNet(n_stacks=1, width=8, depth=2), run, size=64), "nobody knows what"),
    (lambda run: (run / "result.json").unlink(), "has not finished")])
def test_models_that_are_not_to_be_given_away_are_refused(run, tmp_path, change, said):
    change(run)
    with pytest.raises(ship_model.Refused, match=said): ship_model.ship(run, "tiny", tmp_path / "models", people=12)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name, value, said", [("LARGEST", 1000, "more than 1,000"), ("LOST", -1.0, "too far apart")])
def test_models_that_are_too_large_or_lose_too_much_are_refused(run, tmp_path, monkeypatch, name, value, said):
    monkeypatch.setattr(ship_model, name, value)
    with pytest.raises(ship_model.Refused, match=said): ship_model.ship(run, "tiny", tmp_path / "models", people=12)
    assert not (tmp_path / "models").exists()
