"Training: settings, batches, runs that can be repeated and interrupted, models that are refused."
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from msspose.crops import CropStore
from msspose.data import load_annotations, write_people
from msspose.people import People
from msspose.regression import LADDER, PoseNet
from msspose.skeleton import LSP, MPII
from msspose.training import (
    PRESETS,
    Stage,
    TrainConfig,
    configure,
    evaluate_source,
    fit,
    head_sizes,
    learning_rate,
    load_model,
    masked,
    open_source,
    predict_people,
    save_model,
    write_report,
)

TINY = TrainConfig(width=8, depth=2, batch_size=4, epoch_size=32, stage1=Stage(epochs=2), snapshots=1, threads=1, bf16=False)
NETWORK = dict(n_stacks=1, width=8, depth=2)


@pytest.fixture(scope="module", autouse=True)
def short_measurements():
    "Two hundred people per measurement are for real runs."
    import msspose.training as training
    before, training.Watcher.__init__.__defaults__ = training.Watcher.__init__.__defaults__, (4, 2)
    yield
    training.Watcher.__init__.__defaults__ = before


# settings

@given(st.integers(0, 2**31), st.integers(1, 500), st.booleans(), st.floats(1e-6, 1.0))
def test_overrides_keep_their_types(seed, epochs, bf16, lr):
    config = configure(TrainConfig(), [f"seed={seed}", f"stage1.epochs={epochs}", f"bf16={bf16}", f"stage1.lr={lr!r}"])
    assert config == TrainConfig(seed=seed, bf16=bf16, stage1=Stage(epochs=epochs, lr=lr))


@pytest.mark.parametrize("override, said", [
    ("sede=3", "nearest is seed"), ("stage1.epoch=3", "nearest is stage1.epochs"), ("epochs=3", "nearest is stage1.epochs"),
    ("stage2.epochs=1", "stage1.epochs"), ("seed", "KEY=VALUE"), ("seed=x", "whole number"), ("bf16=maybe", "true or false"),
    ("stage1=3", "stage1.FIELD"), ("seed.x=3", "has no fields"), ("batch_size=0", "positive"), ("stage1.lr=-1", "positive"),
    ("seconds=nan", "finite"), ("seconds=inf", "finite"), ("clip=-3", "positive")])
def test_wrong_override_says_what_would_be_right(override, said):
    with pytest.raises(ValueError, match=said): configure(TrainConfig(), [override])


def test_presets_are_the_papers_or_fit_their_budget():
    paper = PRESETS["paper"]
    assert (paper.n_stacks, paper.width, paper.depth, paper.size) == (8, 256, 4, 256)
    assert (paper.stage1.epochs, paper.stage1.lr, paper.sigma) == (150, 5e-4, 1.0)
    assert PRESETS["demo"].seconds == 180


@given(st.floats(0, 1), st.floats(0.01, 0.5))
def test_rate_stays_between_zero_and_the_highest(progress, warm_up):
    assert 0 <= learning_rate(progress, 3e-3, warm_up) <= 3e-3 * (1 + 1e-9)


@given(st.floats(0.05, 0.99))
def test_rate_falls_after_the_warm_up(progress):
    assert learning_rate(progress + 0.01, 1.0, 0.05) < learning_rate(progress, 1.0, 0.05)


# sources

@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    "A data set on disk with both splits."
    folder = tmp_path_factory.mktemp("set")
    for split, count in (("train", 12), ("val", 5)): write_people(folder, "standard", split, count, size=32)
    return folder


def test_a_data_set_becomes_a_store_once(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("MSSPOSE_STORES", str(tmp_path / "stores"))
    first = open_source(str(photographs), "train", 32, progress=False)
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "stores").rglob("*")}
    again = open_source(str(photographs), "train", 32, progress=False)
    assert len(first) == len(again) == 12 and made == {file: file.stat().st_mtime_ns for file in (tmp_path / "stores").rglob("*")}
    assert len(open_source(str(photographs), "val", 32, progress=False)) == 5
    assert open_source(str(photographs), "train", 64, progress=False).size == 64 and len(list((tmp_path / "stores").iterdir())) == 3


def test_prepared_stores_are_opened_by_split_and_have_a_size(photographs, tmp_path):
    for split in ("train", "val"): CropStore.from_annotations(load_annotations(photographs, split), 32, tmp_path / split, progress=False)
    assert len(open_source(str(tmp_path), "train", 32)) == 12 and len(open_source(str(tmp_path), "val", 32)) == 5
    assert len(open_source(str(tmp_path / "val"), "val", 32)) == 5
    with pytest.raises(ValueError, match="prepared for pictures of 32 pixels, and 64 are asked for; pass size=32"):
        open_source(str(tmp_path), "val", 64)
    with pytest.raises(ValueError, match="a store of one split, and training needs two"): open_source(str(tmp_path / "train"), "train", 32)


def test_a_run_on_photographs_says_how_long_it_waited(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("MSSPOSE_STORES", str(tmp_path / "stores"))
    run = fit(replace(TINY, data=str(photographs), size=32, stage1=Stage(epochs=3)), tmp_path / "run", progress=False)
    assert 0 <= run.waited <= 1 and run.waited == run.history[-1]["waited"] and run.history[-1]["pictures"] == 36
    page = write_report(run, {"set": evaluate_source(run.model, open_source(str(photographs), "val", 32))},
                        open_source(str(photographs), "val", 32).batch(range(2)), torch.zeros(2, 16, 2))
    assert f"{run.waited:.1%} of the time was spent waiting for pictures" in page.read_text()


# runs

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(TINY, tmp_path_factory.mktemp("run"), progress=False)


def test_a_run_leaves_what_it_promises(run):
    assert sorted(p.name for p in run.folder.iterdir()) == ["config.json", "heatmaps.gif", "metrics.jsonl", "model.safetensors"]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == run.history and lines[-1]["step"] == 16 and lines[-1]["pictures"] == 64
    stored = json.loads((run.folder / "config.json").read_text())
    assert {k: stored[k] for k in asdict(TINY)} == asdict(TINY)


def test_the_same_seed_gives_the_same_weights_bit_for_bit(run, tmp_path):
    again = fit(TINY, tmp_path / "again", progress=False)
    other = fit(replace(TINY, seed=1), tmp_path / "other", progress=False)
    first, same, different = (r.model.state_dict() for r in (run, again, other))
    for name in first: assert torch.equal(first[name], same[name]), name
    assert any(not torch.equal(first[name], different[name]) for name in first)


def test_training_lowers_the_loss(tmp_path):
    config = replace(TINY, **LADDER["hourglass"], width=32, depth=3, batch_size=16, epoch_size=640, stage1=Stage(epochs=1))
    run = fit(config, tmp_path, progress=False)
    first, last = run.history[0]["loss"], run.history[-1]["loss"]
    assert first == pytest.approx(math.pi, rel=0.1)      # a Gaussian of sigma 1 squared sums to pi: the loss of answering zero
    assert last < 0.9 * first


def test_the_second_network_and_the_patches_join_when_they_are_told_to(tmp_path, monkeypatch):
    import msspose.training as training
    seen = []

    def watched(model, optimiser, batch, config, whole):
        rates = [part["lr"] for part in optimiser.param_groups]
        seen.append((whole, rates, model.msr.features.weight.detach().clone()))
        return step(model, optimiser, batch, config, whole)

    step, mask, masks = training.training_step, training.masked, []
    monkeypatch.setattr(training, "training_step", watched)
    monkeypatch.setattr(training, "masked", lambda *given: masks.append(len(seen)) or mask(*given))
    fit(replace(TINY, regression_from=0.5, masking_from=0.75), tmp_path, progress=False)
    assert [whole for whole, *_ in seen] == [False] * 8 + [True] * 8 and masks == [12, 13, 14, 15]
    assert torch.equal(seen[0][2], seen[8][2]) and not torch.equal(seen[8][2], seen[15][2])
    assert seen[8][1][1] < seen[9][1][1] and seen[8][1][0] < 0.6 * TINY.stage1.lr     # its rate starts anew, the other's has fallen


@pytest.mark.parametrize("rung", LADDER)
def test_every_rung_trains_and_loads(tmp_path, rung):
    run = fit(replace(TINY, **LADDER[rung], stage1=Stage(epochs=1), regression_from=0.0, masking_from=0.0), tmp_path, progress=False)
    model, _, about = load_model(run.folder)
    assert (model.msr is not None) == about["network"]["regression"] == LADDER[rung]["regression"]
    assert len(model(torch.rand(1, 3, 64, 64))[0]) == (2 if LADDER[rung]["multi_scale"] else 1)


def test_patches_are_measured_in_heads():
    batch = People("plain").batch(range(3))
    torch.testing.assert_close(head_sizes(batch, MPII), batch.reference)
    torso = replace(batch, reference=torch.tensor([24.0, float("nan"), 300.0]))
    torch.testing.assert_close(head_sizes(torso, LSP), torch.tensor([8.0, 6.4, 32.0]))     # a third, unknown, at most half the picture


def test_masked_people_keep_their_joints():
    batch = People("plain").batch(range(16))
    hidden = masked(batch, MPII, 3)
    assert torch.equal(hidden.joints, batch.joints) and not torch.equal(hidden.images, batch.images)
    assert (hidden.visible <= batch.visible).all() and ((hidden.visible > 0) == (batch.visible > 0)).all()


def test_loaded_model_answers_as_the_saved_one(run):
    model, skeleton, about = load_model(run.folder)
    people = open_source("people:plain", "val", about["size"])
    assert skeleton == MPII and about["pictures"] == 64 and not model.training
    loaded, saved = predict_people(model, people, range(6)), predict_people(run.model, people, range(6), batch_size=4)
    torch.testing.assert_close(loaded[0], saved[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(loaded[1].joints, people.joints[:6], rtol=0, atol=1e-4)


def test_evaluation_counts_the_first_people(run):
    report = evaluate_source(run.model, People("plain", "val"), count=7)
    assert report.n == 7 and report.rule == "official"


def test_an_output_folder_below_a_file_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to this output folder"): fit(TINY, tmp_path / "file" / "run", progress=False)


def test_a_second_network_that_would_never_train_is_refused(tmp_path):
    with pytest.raises(ValueError, match="regression_from=1.0: MSR-net would never train"):
        fit(replace(TINY, regression_from=1.0), tmp_path, progress=False)


# models

@pytest.fixture
def folder(tmp_path):
    save_model(PoseNet(**NETWORK), tmp_path, size=64)
    return tmp_path


def rewrite(folder, change):
    "Store the same file with changed weights or a changed description."
    file = folder / "model.safetensors"
    with safe_open(file, "pt") as stored:
        about, weights = json.loads(stored.metadata()["msspose"]), {name: stored.get_tensor(name) for name in stored.keys()}
    change(about, weights)
    save_file(weights, file, metadata={"msspose": json.dumps(about)})


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model here"): load_model(tmp_path)


def test_a_damaged_model_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"): load_model(folder)


def test_weights_of_somebody_else_are_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="was not made by msspose"): load_model(tmp_path)


@pytest.mark.parametrize("change, said", [
    (lambda about, weights: about.update(architecture="HRNet"), "holds a HRNet"),
    (lambda about, weights: about["network"].update(width=16), r"is \(\d+.*expected \(\d+"),
    (lambda about, weights: about["network"].update(n_stacks=2), "is missing"),
    (lambda about, weights: weights.update(extra=torch.zeros(1)), "extra is not part of it")])
def test_another_architecture_is_refused_by_name(folder, change, said):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=said): load_model(folder)


# interruption

@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT that a test could send to one process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_a_usable_model_and_says_where(tmp_path, number):
    settings = "width=8 depth=2 bf16=false threads=1 seconds=600 snapshots=1".split()
    command = [sys.executable, "-c", "from msspose.cli import main; main()", "train", "--out", str(tmp_path / "run"), *settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text()): time.sleep(0.1)
    process.send_signal(number)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "the model so far is in" in said and str(tmp_path / "run" / "model.safetensors") in said
    model, *_ = load_model(tmp_path / "run")
    assert all(np.isfinite(weight.numpy()).all() for weight in model.state_dict().values())
