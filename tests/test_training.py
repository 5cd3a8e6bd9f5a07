"Training: settings, three stages, exact resume, several processes, bad batches, memory, and what a folder refuses."
import errno
import importlib.util
import json
import math
import os
import re
import shutil
import signal
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import kill_training
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from kill_training import GOOD, TINY, Together, alike, result, trial, undisturbed
from remembered import as_remembered

import msspose.training as training
from msspose.checks import EXERCISES, judge
from msspose.crops import CropStore
from msspose.data import load_annotations, write_people
from msspose.people import People
from msspose.regression import LADDER, PoseNet
from msspose.runs import BEFORE, BEST, CHECKPOINT, MODEL, RunFolder, load_model, load_tensors, save_tensors
from msspose.skeleton import LSP, MPII
from msspose.training import (
    PRESETS,
    Memory,
    Objective,
    Stage,
    StagePlan,
    TrainConfig,
    Training,
    Watcher,
    configure,
    evaluate_source,
    fit,
    head_sizes,
    learning_rate,
    masked,
    open_source,
    plan,
    plan_table,
    predict_people,
    read_config,
    write_report,
)

SHORT = replace(TINY, epoch_size=8, stage1=Stage(2, 6e-3), stage2=Stage(1, 6e-3), stage3=Stage(1, 1e-3), save_every=60)     # eight steps
ALONE = replace(SHORT, **LADDER["hourglass"], stage2=Stage(0), stage3=Stage(0))                                      # four, of MSS-net
several = pytest.mark.skipif(os.name == "nt", reason="on Windows PyTorch's processes find each other in another way")


def weights_of(model) -> dict: return {name: value.clone() for name, value in model.state_dict().items()}


# settings

@given(st.integers(0, 2**31), st.integers(1, 500), st.booleans(), st.floats(1e-6, 1.0))
def test_overrides_keep_their_types(seed, epochs, bf16, lr):
    config = configure(TrainConfig(), [f"seed={seed}", f"stage1.epochs={epochs}", f"bf16={bf16}", f"stage1.lr={lr!r}"])
    assert config == TrainConfig(seed=seed, bf16=bf16, stage1=Stage(epochs=epochs, lr=lr))


@pytest.mark.parametrize("text, value", [("1", True), ("0", False), ("TRUE", True), ("False", False)])
def test_yes_and_no_can_be_said_in_several_ways(text, value): assert configure(TrainConfig(), [f"bf16={text}"]).bf16 is value


@pytest.mark.parametrize("override, said", [
    ("sede=3", "nearest is seed"), ("stage1.epoch=3", "nearest is stage1.epochs"), ("epochs=3", "nearest is stage"),
    ("stage4.epochs=1", "nearest is stage"), ("seed", "KEY=VALUE"), ("seed=x", "whole number"), ("bf16=maybe", "true or false"),
    ("stage1=3", "stage1.FIELD"), ("seed.x=3", "has no fields"), ("batch_size=0", "positive"), ("stage1.lr=-1", "positive"),
    ("seconds=nan", "finite"), ("seconds=inf", "finite"), ("clip=-3", "0 or more"), ("bad_batches=ignore", "choose stop or skip"),
    ("optimiser=lion", "choose sgd, rmsprop or adamw")])
def test_wrong_override_says_what_would_be_right(override, said):
    with pytest.raises(ValueError, match=said): configure(TrainConfig(), [override])


def test_presets_are_the_papers_or_fit_their_budget():
    paper = PRESETS["paper"]
    assert (paper.n_stacks, paper.width, paper.depth, paper.size, paper.sigma) == (8, 256, 4, 256, 1.0)
    assert [paper.stage1, paper.stage2, paper.stage3] == [Stage(150, 5e-4), Stage(75, 5e-4), Stage(75, 5e-4)] and paper.seconds == 0
    assert PRESETS["demo"].seconds == 180 and PRESETS["laptop"].seconds == PRESETS["gpu"].seconds == 3600
    for preset in PRESETS.values(): training.check_config(preset)


@pytest.mark.parametrize("change, said", [
    (dict(stage1=Stage(0), stage2=Stage(0), stage3=Stage(0)), "no stage has any epochs.*stage1.epochs"),
    (dict(stage2=Stage(0), stage3=Stage(0), masking=False), "regression=true, but neither stage 2 nor stage 3.*regression=false"),
    (dict(stage3=Stage(0)), "masking=true, but stage 3.*masking=false"), (dict(size=40), "size=40.*multiple of 16"),
    (dict(ema=1.0), "ema=1.0.*0.999"), (dict(momentum=1.0), "momentum=1.0"), (dict(optimiser="lion"), "choose sgd"),
    (dict(accumulate=3), "batch_size=4 .*accumulate=3.*batch_size=6 or more"), (dict(seed=2 ** 32), "seed=4294967296: too large"),
    (dict(seed=-1), "seed=-1: expected 0 or more"), (dict(sigma=math.nan), "sigma=nan: expected a finite number"),
    (dict(width=0), "width=0: expected a positive number"), (dict(width=8.0), "width=8.0: expected a whole number"),
    (dict(stage2=Stage(1, -1e-3)), "stage2.lr=-0.001: expected a positive number"),
    (dict(masking="no"), "masking=no: expected true or false"),
    pytest.param(dict(device="cuda"), "no CUDA GPU here; pass device=auto",
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")),
    pytest.param(dict(device="mps"), "no Mac with a GPU", marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="it is one"))])
def test_what_contradicts_itself_is_refused_before_anything_is_done(tmp_path, change, said):
    with pytest.raises(ValueError, match=said): fit(replace(TINY, **change), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@given(st.floats(0, 1), st.integers(0, 50), st.integers(0, 30), st.integers(0, 4))
def test_rate_stays_between_zero_and_the_highest(progress, step, warm_up, drops):
    for schedule in ("cosine", "plateau"): assert 0 <= learning_rate(progress, step, 3e-3, schedule, warm_up, drops) <= 3e-3 * (1 + 1e-9)


@given(st.floats(0, 0.99), st.integers(5, 10**6), st.integers(0, 5))
def test_rate_falls_after_the_warm_up_along_a_cosine_or_in_fifths(progress, step, drops):
    assert learning_rate(progress + 0.01, step, 1.0, "cosine", 5) < learning_rate(progress, step, 1.0, "cosine", 5)
    assert learning_rate(progress, step, 1.0, "plateau", 5, drops) == pytest.approx(0.2 ** drops)


def test_rate_rises_in_a_straight_line():
    rates = [learning_rate(0.0, step, 1.0, "plateau", 3) for step in range(5)]
    assert rates == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1])
    assert learning_rate(1.0, 10, 1.0) == pytest.approx(0, abs=1e-12)


# settings of another version

@given(st.integers(0, 99), st.floats(1e-6, 1), st.booleans(), st.sets(st.sampled_from(sorted(asdict(TINY)))))
def test_settings_come_back_from_their_file_and_what_is_missing_has_its_default(seed, lr, bf16, missing):
    config = replace(TINY, seed=seed, bf16=bf16, stage2=Stage(3, lr))
    stored = {name: value for name, value in json.loads(json.dumps(asdict(config))).items() if name not in missing}
    found, unknown = read_config(stored)
    assert unknown == [] and found == replace(config, **{name: getattr(TrainConfig(), name) for name in missing})


def test_settings_that_are_unknown_are_named_and_left_out():
    stored = asdict(TINY) | {"lookahead": 3, "stage2": {"epochs": 5, "optimiser": "lion"}}
    found, unknown = read_config(stored)
    assert found == replace(TINY, stage2=Stage(5, TrainConfig().stage2.lr)) and unknown == ["lookahead", "stage2.optimiser"]


# sources

@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    "A data set on disk with both splits."
    folder = tmp_path_factory.mktemp("set")
    for split, people in (("train", 11), ("val", 5)): write_people(folder, "standard", split, people, size=32)
    return folder


@pytest.fixture(scope="module")
def stores(photographs, tmp_path_factory):
    "The same, prepared."
    folder = tmp_path_factory.mktemp("stores")
    for split in ("train", "val"): CropStore.from_annotations(load_annotations(photographs, split), 32, folder / split, progress=False)
    return folder


def test_a_data_set_becomes_a_store_once(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("MSSPOSE_STORES", str(tmp_path / "stores"))
    first = open_source(str(photographs), "train", 32, progress=False)
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "stores").rglob("*")}
    again = open_source(str(photographs), "train", 32, progress=False)
    assert len(first) == len(again) == 11 and made == {file: file.stat().st_mtime_ns for file in (tmp_path / "stores").rglob("*")}
    assert len(open_source(str(photographs), "val", 32, progress=False)) == 5
    assert open_source(str(photographs), "train", 64, progress=False).size == 64 and len(list((tmp_path / "stores").iterdir())) == 3


def test_prepared_stores_are_opened_by_split_and_have_a_size(stores):
    assert len(open_source(str(stores), "train", 32)) == 11 and len(open_source(str(stores), "val", 32)) == 5
    assert len(open_source(str(stores / "val"), "val", 32)) == 5
    with pytest.raises(ValueError, match="prepared for pictures of 32 pixels, and 64 are asked for; pass size=32"):
        open_source(str(stores), "val", 64)
    with pytest.raises(ValueError, match="a store of one split, and training needs two"): open_source(str(stores / "train"), "train", 32)


def test_a_run_on_photographs_has_its_report_and_notices_when_they_change(stores, tmp_path):
    config = replace(SHORT, data=str(stores))
    run = fit(config, tmp_path / "run", progress=False)
    assert 0 <= run.waited <= 1 and [row["pictures"] for row in run.history] == [11, 22, 33, 44]     # everybody once in each epoch
    val = open_source(str(stores), "val", 32)
    reports = write_report(run, {"set": val})
    page, told = (run.folder / "report.md").read_text(), json.loads((run.folder / "result.json").read_text())
    assert f"{run.waited:.1%} of the time was spent waiting for pictures" in page and f"## set: {reports['set'].metric}" in page
    assert all((run.folder / name).read_bytes()[:4] == b"\x89PNG" and f"({name})" in page
               for name in ("loss.png", "pck.png", "predictions.png", "worst.png"))
    assert told == {"set": json.loads(json.dumps(reports["set"].to_dict()))} and reports["set"].n == 5
    joints, truth = predict_people(run.model, val, range(5))
    distance = ((joints - truth.joints).norm(dim=-1) / truth.reference[:, None]).clamp(max=2)
    errors = [float(distance[i][truth.visible[i] > 0].mean()) for i in range(5)]
    assert training.person_errors(joints, truth).tolist() == pytest.approx(errors)

    with pytest.raises(ValueError, match="the data have changed since this training began.*11.*now.*10.*another --out, or --restart"):
        fit(config, tmp_path / "run", progress=False, source=replace_train(stores, tmp_path))


def replace_train(stores: Path, folder: Path) -> CropStore:
    "One person fewer."
    store = CropStore.open(stores / "train")
    return replace(store, joints=store.joints[:-1], fingerprint="another")


# a run that nobody disturbs

@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    "A run, with what was seen at each of its steps."
    steps, patches, step, mask = [], [], Training.step, training.masked

    def watched(self, batch):
        before, place = weights_of(self.model), (self.stage, self.share, self.progress.stage_step)
        step(self, batch)
        steps.append(SimpleNamespace(stage=place[0], share=place[1], stage_step=place[2], before=before, after=weights_of(self.model),
                                     lr=self.optimiser.param_groups[0]["lr"], pictures=self.progress.pictures))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Training, "step", watched)
        patched.setattr(training, "masked", lambda *given: patches.append(len(steps)) or mask(*given))
        run = fit(replace(TINY, save_every=60), tmp_path_factory.mktemp("seen"), progress=False)
    return SimpleNamespace(run=run, steps=steps, patches=patches, result=result(run.folder))


def test_a_run_leaves_what_it_promises(seen):
    folder, config = seen.run.folder, json.loads((seen.run.folder / "config.json").read_text())
    assert {p.name for p in folder.iterdir()} == {
        ".lock", "config.json", "environment.json", "metrics.jsonl", "frames", "heatmaps.gif", MODEL, BEST, CHECKPOINT}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == seen.run.history and [(row["stage"], row["step"], row["pictures"]) for row in lines] == [
        (1, 4, 16), (1, 8, 32), (1, 12, 48), (2, 16, 64), (3, 20, 80), (3, 24, 96)]
    assert {name: config[name] for name in asdict(TINY)} == asdict(replace(TINY, save_every=60)) and config["source"]["people"] == "plain"
    assert len(list((folder / "frames").iterdir())) == 6 and seen.run.progress.finished and not seen.run.interrupted
    assert json.loads((folder / "environment.json").read_text())["processes"] == 1


def test_stages_train_what_they_are_meant_to(seen):
    "Bit for bit, running statistics included."
    def changed(stage):
        mine = [step for step in seen.steps if step.stage == stage]
        return {name.partition(".")[0] for name, value in mine[0].before.items() if not torch.equal(value, mine[-1].after[name])}
    assert [step.stage for step in seen.steps] == [1] * 12 + [2] * 4 + [3] * 8
    assert [changed(stage) for stage in (1, 2, 3)] == [{"mss"}, {"msr"}, {"mss", "msr"}]


def test_joints_are_masked_in_stage_3_and_in_no_other(seen): assert seen.patches == list(range(16, 24))


def test_a_stage_begins_at_its_own_rate_which_rises_and_falls(seen):
    for stage, highest in ((1, 6e-3), (2, 6e-3), (3, 1e-3)):
        mine = [step for step in seen.steps if step.stage == stage]
        assert [step.stage_step for step in mine] == list(range(kill_training.STEPS[stage]))
        expected = [min(1, (i + 1) / 4) * highest * (1 + math.cos(math.pi * i / len(mine))) / 2 for i in range(len(mine))]
        assert [step.lr for step in mine] == pytest.approx(expected)


def test_the_moving_average_is_what_it_says(seen):
    "With the definition: a decay of 0.9, less in the beginning; a stage begins with the average."
    average = seen.steps[0].before
    for number, step in enumerate(seen.steps, 1):
        decay = min(0.9, (2 + step.stage_step) / (11 + step.stage_step))
        for name, value in step.after.items():
            follows = value.is_floating_point() and not name.endswith(("running_mean", "running_var"))
            average = average | {name: decay * average[name] + (1 - decay) * value if follows else value}
        if number in (12, 16):
            for name, value in seen.steps[number].before.items(): torch.testing.assert_close(value, average[name], atol=1e-6, rtol=1e-5)
    for name, value in seen.run.model.state_dict().items(): torch.testing.assert_close(value, average[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(value, seen.steps[-1].after[name]) for name, value in seen.run.model.state_dict().items())


def test_the_same_seed_gives_the_same_weights_bit_for_bit(tmp_path):
    first, same, other = (fit(replace(ALONE, seed=seed), tmp_path / name, progress=False).model.state_dict()
                          for name, seed in (("first", 0), ("same", 0), ("other", 1)))
    assert alike(first, same) and not alike(first, other)


def test_training_lowers_the_loss(tmp_path):
    config = replace(ALONE, width=32, batch_size=16, epoch_size=480, stage1=Stage(2, 6e-3))
    first, last = (row["loss"] for row in fit(config, tmp_path, progress=False).history)
    assert last < 0.9 * math.pi * config.sigma ** 2      # a Gaussian squared sums to pi sigma^2: the loss of answering zero
    assert last < first


@pytest.mark.parametrize("rung", [rung for rung in LADDER if rung != "masking"])
def test_every_rung_trains_and_loads(tmp_path, rung):
    run = fit(replace(SHORT, **LADDER[rung], stage1=Stage(1)), tmp_path, progress=False)
    model, _, about = load_model(run.folder)
    assert (model.msr is not None) == about["network"]["regression"] == LADDER[rung]["regression"]
    assert len(model(torch.rand(1, 3, 32, 32))[0]) == (2 if LADDER[rung]["multi_scale"] else 1)
    assert {row["stage"] for row in run.history} == ({1, 2, 3} if LADDER[rung]["regression"] else {1, 3})


@pytest.mark.parametrize("left_out", [1, 2, 3])
def test_a_stage_may_be_left_out(tmp_path, left_out):
    config = replace(SHORT, masking=left_out != 3, **{f"stage{left_out}": Stage(0)})
    before = weights_of(training.PoseNet(MPII, **{name: getattr(config, name) for name in training.NETWORK}))
    run = fit(config, tmp_path, progress=False)
    assert {row["stage"] for row in run.history} == {1, 2, 3} - {left_out}
    assert {name[:3] for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])} == {"mss", "msr"}


def test_the_best_model_is_the_best_that_was_measured(tmp_path, monkeypatch):
    told = iter([10.0, 30.0, 20.0, 30.0, 29.0, 5.0])
    monkeypatch.setattr(Watcher, "measure", lambda *given: SimpleNamespace(total=next(told), n=4))
    run = fit(replace(TINY, save_every=60), tmp_path, progress=False)
    row = max(run.history, key=lambda row: row["pck"])
    model, _, about = load_model(tmp_path / BEST)
    assert row["step"] == about["steps"] == 8 and about["stage"] == 1 and model.msr is None
    assert load_model(tmp_path)[2]["steps"] == 24 and load_model(tmp_path)[0].msr is not None


def test_rate_is_divided_by_5_when_validation_stands_still(tmp_path, monkeypatch):
    told, rates, step = iter([10, 20, 20, 19, 21, 5, 5, 5]), [], Training.step
    monkeypatch.setattr(Watcher, "measure", lambda *given: SimpleNamespace(total=float(next(told)), n=4))
    monkeypatch.setattr(Training, "step", lambda self, batch: (step(self, batch), rates.append(self.optimiser.param_groups[0]["lr"])))
    config = replace(ALONE, schedule="plateau", optimiser="sgd", patience=2, warm_up=0, stage1=Stage(8, 1e-3), epoch_size=4)
    run = fit(config, tmp_path, progress=False)
    assert rates[::len(rates) // 8] == pytest.approx([1e-3] * 4 + [2e-4] * 3 + [4e-5]) and run.history[-1]["lr"] == pytest.approx(4e-5)


def test_a_time_budget_is_shared_by_the_stages_and_kept(tmp_path, monkeypatch):
    "By a clock that goes on by a hundredth of a second whenever somebody looks at it."
    ticks = count()
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 100))
    config = replace(SHORT, seconds=1, stage1=Stage(50_000, 1e-3), stage2=Stage(25_000, 1e-3), stage3=Stage(25_000, 1e-3), epoch_size=80)
    run = fit(config, tmp_path, progress=False)
    last = {stage: max(row["step"] for row in run.history if row["stage"] == stage) for stage in (1, 2, 3)}
    steps = {1: last[1], 2: last[2] - last[1], 3: last[3] - last[2]}
    assert run.progress.finished and 0.8 < run.seconds < 1.2
    assert 0.3 < steps[2] / steps[1] < 0.8 and 0.3 < steps[3] / steps[1] < 0.8
    rates = {row["stage"]: row["lr"] for row in run.history}       # the last of each stage: there the cosine ends
    assert rates.keys() == {1, 2, 3} and max(rates.values()) < 1e-4


def test_a_budget_that_is_too_short_visits_every_stage(tmp_path):
    run = fit(replace(SHORT, seconds=1e-6, stage1=Stage(1000), stage2=Stage(1000), stage3=Stage(1000)), tmp_path, progress=False)
    assert [row["stage"] for row in run.history] == [1, 2, 3] and run.progress.step == 3 and run.progress.finished


def test_a_plan_keeps_within_the_budget_and_says_what_it_takes():
    stages = plan(replace(SHORT, seconds=60), steps=1)
    assert [stage.stage for stage in stages] == [1, 2, 3] and sum(stage.seconds for stage in stages) <= 60 * 1.001
    assert stages[2].trained == stages[0].trained + stages[1].trained and len(plan_table(stages).splitlines()) == 5
    assert all(stage.memory.picture > 0 and stage.people_per_second > 0 for stage in stages)


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


def test_loaded_model_answers_as_the_saved_one(seen):
    model, skeleton, about = load_model(seen.run.folder)
    people = open_source("people:plain", "val", about["size"])
    assert skeleton == MPII and about["pictures"] == 96 and not model.training
    loaded, saved = predict_people(model, people, range(6)), predict_people(seen.run.model, people, range(6), batch_size=4)
    torch.testing.assert_close(loaded[0], saved[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(loaded[1].joints, people.joints[:6], rtol=0, atol=1e-4)


def test_evaluation_counts_the_first_people(seen):
    report = evaluate_source(seen.run.model, People("plain", "val", 32), count=7)
    assert report.n == 7 and report.rule == "official"


# parts of a batch, and memory

def mean_of_pictures(self, images, joints, visible):
    "A loss of which everything is known: the mean over pictures of their mean, times a weight of 1."
    return images.mean() * next(p for p in self.parameters() if p.requires_grad).flatten()[0]


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_batch_in_parts_has_the_loss_and_the_gradient_of_the_whole(tmp_path, monkeypatch, parts):
    sizes = []
    forward = lambda self, images, *more: sizes.append(len(images)) or mean_of_pictures(self, images, *more)
    monkeypatch.setattr(Objective, "forward", forward)
    config = replace(SHORT, batch_size=7, epoch_size=14, accumulate=parts, clip=0.0)
    people, val = (People("plain", split, 32) for split in ("train", "val"))
    run = Training(config, training.accelerator_of(config), people, val, tmp_path)
    run.enter()
    batch = people.batch(range(7))
    loss, norm = run.backward(batch)
    first = run.trained[0]
    torch.testing.assert_close(loss, batch.images.mean() * first.flatten()[0])
    torch.testing.assert_close(first.grad.flatten()[0], batch.images.mean())
    assert sum(sizes) == 7 and len(sizes) == parts and max(sizes) - min(sizes) <= 1 and norm == pytest.approx(float(batch.images.mean()))


def pictures_at_once(monkeypatch) -> list[int]:
    sizes, forward = [], Objective.forward
    monkeypatch.setattr(Objective, "forward", lambda self, images, *more: sizes.append(len(images)) or forward(self, images, *more))
    return sizes


def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "free_memory", lambda device: 1000)
    monkeypatch.setattr(Training, "step", lambda self, batch: pytest.fail("a step was taken"))
    said = "batch_size=4: 4 pictures at once take about .* and 0.00 GB are free, enough for 0; pass halve=true"
    with pytest.raises(ValueError, match=said):
        fit(SHORT, tmp_path, progress=False)


def test_the_bar_ends_full(tmp_path, capsys):
    fit(ALONE, tmp_path / "run")
    *_, last = re.findall(r"stage \d.*?(\d+)%", capsys.readouterr().err)
    assert last == "100"


def test_a_batch_that_does_not_fit_is_cut_in_halves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "memory_of", lambda *given: Memory(fixed=1000, picture=1000, free=7000))     # enough for 4.8 pictures
    sizes = pictures_at_once(monkeypatch)
    run = fit(replace(ALONE, batch_size=16, epoch_size=32, halve=True), tmp_path, progress=False)
    assert set(sizes) == {4} and run.progress.pictures == 64 and "it is cut into 4 parts" in capsys.readouterr().err
    with pytest.raises(ValueError, match="16 pictures at once.*enough for 4"):
        fit(replace(ALONE, batch_size=16, epoch_size=32), tmp_path / "whole", progress=False)


def test_a_training_that_was_stopped_goes_on_in_halves(tmp_path, monkeypatch):
    config, step = replace(ALONE, batch_size=16, epoch_size=32), Training.step
    with monkeypatch.context() as patched:
        patched.setattr(Training, "step", lambda self, batch: (self.asked.set(), step(self, batch)))
        assert not fit(config, tmp_path, progress=False).progress.finished
    monkeypatch.setattr(training, "memory_of", lambda *given: Memory(fixed=1000, picture=1000, free=7000))
    sizes = pictures_at_once(monkeypatch)
    assert fit(replace(config, halve=True), tmp_path, progress=False).progress.finished and set(sizes) == {4}


@pytest.mark.parametrize("batch_size", [4, 6, 7, 12, 20])
def test_no_part_has_fewer_than_two_pictures(tmp_path, monkeypatch, batch_size):
    "One picture has no statistics."
    monkeypatch.setattr(training, "memory_of", lambda *given: Memory(fixed=1000, picture=1000, free=0))
    config = replace(ALONE, batch_size=batch_size, halve=True)
    run = Training(config, training.accelerator_of(config), People("plain", "train", 32), People("plain", "val", 32), tmp_path)
    with pytest.raises(ValueError, match="pictures at once"): training.fit_memory(run)
    assert run.accumulate > 1 and min(map(len, torch.arange(batch_size).tensor_split(run.accumulate))) >= 2


def test_processes_agree_on_the_worst_of_them(monkeypatch):
    "If each judged for itself, one would refuse while the others wait for it."
    other = torch.tensor([50, 20, -300])
    monkeypatch.setattr(training.dist, "all_reduce", lambda mine, kind: mine.copy_(torch.maximum(mine, other)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")       # on a CPU two processes share the memory
    run, memory = SimpleNamespace(processes=2, device=torch.device("cpu")), Memory(fixed=100, picture=10, free=1000)
    assert training.of_all(memory, run) == Memory(100, 20, 300)
    other[2] = -700
    assert training.of_all(memory, run) == Memory(100, 20, 500)
    assert training.of_all(memory, SimpleNamespace(processes=1, device=torch.device("cpu"))) == memory


@pytest.mark.parametrize("has, bf16, precision", [(True, True, "bf16"), (False, True, "no"), (True, False, "no")])
def test_a_gpu_without_bfloat16_computes_in_float32_and_says_so(monkeypatch, capsys, has, bf16, precision):
    asked = SimpleNamespace(is_main_process=True)
    monkeypatch.setattr(training.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(training.torch.cuda, "is_bf16_supported", lambda including_emulation=True: has or including_emulation)
    monkeypatch.setattr(training, "Accelerator", lambda **given: asked.__dict__.update(given) or asked)
    training.accelerator_of(replace(SHORT, bf16=bf16))
    assert asked.mixed_precision == precision and not asked.cpu
    assert ("this GPU has no bfloat16" in capsys.readouterr().err) == (bf16 and not has)


@pytest.mark.parametrize("able, precision", [
    ({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"architecture": "aarch64", "bf16": True}, "bf16"),
    ({"avx512_f": True, "avx512_bf16": False}, "no"), ({}, "no"), (None, "no")])
def test_a_processor_without_bfloat16_computes_in_float32(monkeypatch, capsys, able, precision):
    "Imitated, a step takes many times longer; the one or the other is no news. None: a PyTorch that cannot say."
    if able is None: monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else: monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert training.accelerator_of(replace(SHORT, bf16=True, device="cpu")).mixed_precision == precision
    model, images = training.PoseNet(MPII, n_stacks=1, width=8, depth=2), torch.rand(2, 3, 32, 32)
    computed = []
    model.register_forward_hook(lambda module, given, outputs: computed.append(outputs[0][0].dtype))
    training.predict_heatmaps(model, images, MPII, bf16=True)
    assert computed and set(computed) == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert capsys.readouterr().err == ""


def test_parts_are_weighed_once_whatever_a_launcher_has_set(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")      # as accelerate launch --gradient_accumulation_steps 4 does
    assert training.accelerator_of(SHORT).gradient_accumulation_steps == 1


def test_memory_is_found_in_pictures(tmp_path):
    def found(size, width):
        config = replace(ALONE, size=size, width=width)
        objective = Objective(training.PoseNet(width=width, n_stacks=1, depth=2), 1, config)
        return training.memory_of(objective, People("plain", size=size).batch(range(4)), config)
    small, large, wide = found(32, 8), found(64, 8), found(32, 16)
    assert 3.5 < large.picture / small.picture < 4.5 and 1.5 < wide.picture / small.picture < 2.5 and wide.fixed > 2 * small.fixed
    assert Memory(100, 10, 225).most == 10 and Memory(100, 10, 225).step(10) == 225


# batches that are not believed

@pytest.fixture
def broken(monkeypatch):
    "Person 5, who is in the second epoch, has a picture that is no picture."
    batch = People.batch
    def poisoned(self, indices, people=(5,)):
        made = batch(self, indices)
        for row, person in enumerate(torch.as_tensor(list(indices)).tolist()):
            if self.split == "train" and person in people: made.images[row, 0, 3, 3] = math.nan
        return made
    monkeypatch.setattr(People, "batch", poisoned)
    return poisoned


def test_a_loss_that_is_no_number_stops_and_names_whom(broken, tmp_path):
    config = replace(SHORT, batch_size=2)
    said = r"step 5 \(stage 1\): the loss is nan.*person 5: its picture holds what is no number.*bad_batches=skip"
    with pytest.raises(FloatingPointError, match=said): fit(config, tmp_path, progress=False)
    tensors, about = load_tensors(tmp_path / "bad-batch-5.safetensors")
    assert about["people"] == [4, 5] and about["stage"] == 1 and tensors["images"].isnan().flatten(1).any(1).tolist() == [False, True]
    run = fit(replace(config, bad_batches="skip"), tmp_path, progress=False)      # going on with the same training
    assert run.progress.finished and run.progress.skipped == 2 and [row["skipped"] for row in run.history] == [0, 2, 2, 2]
    assert all(value.isfinite().all() for value in run.model.state_dict().values()) and run.progress.pictures == 32


def test_a_batch_that_is_skipped_changes_nothing(broken, tmp_path, monkeypatch):
    config, kept = replace(SHORT, batch_size=2, bad_batches="skip"), []
    step = Training.step
    def watched(self, batch):
        before = weights_of(self.model), weights_of(self.ema), {i: dict(s) for i, s in enumerate(self.optimiser.state.values())}
        skipped = self.progress.skipped
        step(self, batch)
        if self.progress.skipped > skipped:
            kept.append(alike(before[0], weights_of(self.model)) and alike(before[1], weights_of(self.ema)))
    monkeypatch.setattr(Training, "step", watched)
    fit(config, tmp_path, progress=False)
    assert kept == [True, True]


def test_nothing_but_bad_batches_stops_in_the_end(broken, tmp_path, monkeypatch):
    "Four people are good, in two batches, for each is there in the mirror, too; then eleven batches are bad."
    monkeypatch.setattr(People, "batch", lambda self, indices: broken(self, indices, range(4, 10**9)))
    with pytest.raises(FloatingPointError, match="step 13 .*11 batches in a row were skipped"):
        fit(replace(ALONE, stage1=Stage(20), bad_batches="skip"), tmp_path, progress=False)


def test_a_loss_that_explodes_stops_and_names_the_largest(tmp_path, monkeypatch):
    step = Training.step
    def worse(self, batch):
        for name, value in self.model.named_parameters():
            if self.progress.step == 55 and "head" in name: value.data *= 1e4
        step(self, batch)
    monkeypatch.setattr(Training, "step", worse)
    said = r"step 56 .*where .* was usual.*the largest losses, each person alone: person \d+.*a lower stage1.lr"
    with pytest.raises(FloatingPointError, match=said):
        fit(replace(ALONE, stage1=Stage(1), epoch_size=240), tmp_path, progress=False)
    assert (tmp_path / "bad-batch-56.safetensors").exists()


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True), st.integers(0, 60))
def test_what_is_believed(loss, norm, known):
    "A number, and once fifty others are known, no more than a hundred times what is usual."
    expected = math.isfinite(loss) and math.isfinite(norm) and (known < 50 or loss <= 200)
    assert training.believed(loss, norm, [2.0] * known, TINY) == expected


# interruption and resume

def stop_at(monkeypatch, number: int, how) -> None:
    "Do something in the middle of the so-manyth step."
    step = Training.step
    def stopping(self, batch):
        if self.progress.step == number: how()
        step(self, batch)
    monkeypatch.setattr(Training, "step", stopping)


class Killed(BaseException): "Nobody catches it."


def die(*_): raise Killed


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT that a test could send to one process")
@pytest.mark.parametrize("number, step", [(signal.SIGINT, 1), (signal.SIGTERM, 11), (signal.SIGTERM, 23)])
def test_whoever_is_asked_to_stop_saves_and_goes_on_as_if_nothing_had_been(seen, tmp_path, number, step):
    "In the middle of an epoch, in the last step of a stage, in the last of all."
    before = signal.getsignal(number)
    with pytest.MonkeyPatch.context() as patched:
        stop_at(patched, step, lambda: os.kill(os.getpid(), number))
        run = fit(replace(TINY, save_every=60), tmp_path, progress=False)
    assert run.interrupted and run.progress.step == step + 1 and signal.getsignal(number) == before
    assert load_model(tmp_path)[2]["steps"] == step + 1
    fit(replace(TINY, save_every=60), tmp_path, progress=False)
    assert alike(result(tmp_path)[0], seen.result[0]) and result(tmp_path)[1] == seen.result[1]


@pytest.mark.parametrize("number", [2, 3, 6])
def test_whoever_dies_while_people_are_measured_measures_them_again(seen, tmp_path, number):
    "After an epoch, and after the last of a stage: the checkpoint was written before."
    with pytest.MonkeyPatch.context() as patched:
        counted, measure = count(1), Watcher.measure
        patched.setattr(Watcher, "measure", lambda *given: die() if next(counted) == number else measure(*given))
        with pytest.raises(Killed): fit(TINY, tmp_path, progress=False)
    fit(replace(TINY, save_every=60), tmp_path, progress=False)
    assert result(tmp_path)[1] == seen.result[1] and alike(result(tmp_path)[0], seen.result[0])
    assert alike(load_tensors(tmp_path / BEST)[0], load_tensors(seen.run.folder / BEST)[0])


@pytest.fixture(scope="module")
def died(tmp_path_factory):
    "A training that died in the third step of stage 3, with a checkpoint after each step."
    folder = tmp_path_factory.mktemp("died") / "run"
    with pytest.MonkeyPatch.context() as patched:
        stop_at(patched, 18, die)
        with pytest.raises(Killed): fit(TINY, folder, progress=False)
    return folder


@pytest.fixture
def stopped(died, tmp_path): return Path(shutil.copytree(died, tmp_path / "run"))


def test_a_damaged_checkpoint_costs_a_step_and_both_cost_the_training(stopped, seen, capsys):
    for name in (CHECKPOINT, BEFORE): (stopped / f"kept-{name}").write_bytes((stopped / name).read_bytes()[:-50])
    (stopped / f"kept-{CHECKPOINT}").replace(stopped / CHECKPOINT)
    fit(replace(TINY, save_every=60), stopped, progress=False)
    assert f"going on from the checkpoint before it, {BEFORE}" in capsys.readouterr().err
    assert alike(result(stopped)[0], seen.result[0])
    for name in (CHECKPOINT, BEFORE): (stopped / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged.*start anew with --restart"): fit(TINY, stopped, progress=False)


def test_a_checkpoint_of_another_architecture_is_refused(stopped):
    tensors, about = load_tensors(stopped / CHECKPOINT)
    save_tensors(stopped / CHECKPOINT, {name: value[None] for name, value in tensors.items()}, about)
    with pytest.raises(ValueError, match="of another architecture than is asked for: mss"): fit(TINY, stopped, progress=False)


def test_a_checkpoint_without_its_settings_is_not_thrown_away(stopped):
    checkpoint = (stopped / "checkpoint.safetensors").read_bytes()
    (stopped / "config.json").unlink()
    with pytest.raises(ValueError, match="holds a checkpoint, but no config.json"): fit(SHORT, stopped, progress=False)
    assert (stopped / "checkpoint.safetensors").read_bytes() == checkpoint


def test_settings_that_matter_may_not_change_on_the_way_and_others_may(stopped, seen):
    with pytest.raises(ValueError, match=r"holds a training with stage1.lr=0.006, not 0.001; batch_size=4, not 8; pass the same settings"):
        fit(replace(TINY, batch_size=8, stage1=Stage(3, 1e-3)), stopped, progress=False)
    stored = json.loads((stopped / "config.json").read_text())
    del stored["clip"], stored["halve"]
    with pytest.raises(ValueError, match="clip=1.0, not 10.0"):                # a field that is missing has its default
        (stopped / "config.json").write_text(json.dumps(stored))
        fit(TINY, stopped, progress=False)
    (stopped / "config.json").write_text(json.dumps(stored | {"clip": 10.0, "lookahead": 3}))
    fit(replace(TINY, save_every=30, workers=2, bad_batches="skip", explodes=50.0), stopped, progress=False)
    assert alike(result(stopped)[0], seen.result[0])


def test_a_setting_of_another_version_is_said_and_left_out(stopped, seen, capsys):
    stored = json.loads((stopped / "config.json").read_text())
    (stopped / "config.json").write_text(json.dumps(stored | {"lookahead": 3}))
    tensors, about = load_tensors(stopped / CHECKPOINT)
    about["progress"] = {name: value for name, value in about["progress"].items() if name != "skipped"} | {"mood": "good"}
    save_tensors(stopped / CHECKPOINT, tensors, about)
    fit(replace(TINY, save_every=60), stopped, progress=False)
    assert "settings of another version, left out: lookahead" in capsys.readouterr().err and alike(result(stopped)[0], seen.result[0])


def test_a_disk_that_is_full_says_so_and_loses_nothing(stopped, seen, monkeypatch):
    write = Path.write_bytes
    def full(self, content):
        if len(content) > 1000: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"cannot be written \(No space left on device\)"): fit(TINY, stopped, progress=False)
    fit(replace(TINY, save_every=60), stopped, progress=False)
    assert alike(result(stopped)[0], seen.result[0])


def test_a_report_is_not_written_into_the_folder_of_another(seen, tmp_path):
    run = replace(seen.run, folder=tmp_path)
    with RunFolder(tmp_path), pytest.raises(OSError, match="another training is running"):
        write_report(run, {"few": People("plain", "val", 32)})


def test_people_to_measure_have_the_joints_of_those_to_learn_from(stores, tmp_path):
    learn, measure = (replace(CropStore.open(stores / split), skeleton=replace(MPII, name="dogs")) for split in ("train", "val"))
    with pytest.raises(ValueError, match="have the joints of mpii, those to learn from of dogs; pass val="):
        fit(ALONE, tmp_path, progress=False, source=learn)
    run = fit(replace(ALONE, val_people=0), tmp_path, progress=False, source=learn, val=measure)
    assert run.history[-1]["count"] == len(measure)


def test_a_folder_in_use_is_refused(stopped):
    content = (stopped / CHECKPOINT).read_bytes()
    with RunFolder(stopped), pytest.raises(OSError, match="another training is running in this folder"): fit(TINY, stopped, progress=False)
    assert (stopped / CHECKPOINT).read_bytes() == content


def test_the_same_command_on_a_finished_run_trains_no_more_unless_it_is_told_to(tmp_path, monkeypatch):
    first, stepped, step = fit(ALONE, tmp_path, progress=False), [], Training.step
    monkeypatch.setattr(Training, "step", lambda self, batch: (stepped.append(1), step(self, batch)))
    again = fit(ALONE, tmp_path, progress=False)
    assert not stepped and alike(first.model.state_dict(), again.model.state_dict()) and again.history == first.history
    (tmp_path / "notes.txt").write_text("mine")
    anew = fit(replace(ALONE, seed=1), tmp_path, progress=False, restart=True)
    assert len(stepped) == 4 and not alike(first.model.state_dict(), anew.model.state_dict()) and (tmp_path / "notes.txt").exists()
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


# kills, at random moments, of one process and of two; python tests/kill_training.py does it more often

@pytest.fixture(scope="module")
def not_killed(tmp_path_factory): return undisturbed(tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize("place", ["stage 1", "stage 2", "stage 3", "save"])
def test_a_training_that_is_killed_ends_as_if_nothing_had_been(not_killed, tmp_path, place):
    assert trial(place, tmp_path / "run", 1, kill_training.random.Random(place), not_killed) == GOOD


@pytest.fixture(scope="module")
def two(tmp_path_factory): return undisturbed(tmp_path_factory.mktemp("two") / "run", 2)


@several
@pytest.mark.parametrize("place", ["save"])
def test_two_processes_that_are_killed_end_as_if_nothing_had_been(two, tmp_path, place):
    assert trial(place, tmp_path / "run", 2, kill_training.random.Random(place), two) == GOOD


@several
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_stop_together_whoever_of_them_is_asked_to(two, tmp_path, rank):
    config = replace(TINY, save_every=60)
    together = Together(config, tmp_path, 2, asked=(rank, 6))
    together.heard()
    assert together.end() == [0, 0] and load_model(tmp_path)[2]["steps"] == 7      # they agree in the next step
    if rank == 0: return      # what was saved is the same
    together = Together(config, tmp_path, 2)
    together.heard()
    assert together.end() == [0, 0] and alike(result(tmp_path)[0], two[0]) and result(tmp_path)[1] == two[1]


# several processes

EVEN = replace(TINY, optimiser="sgd", schedule="plateau", stage1=Stage(2, 5e-4), stage2=Stage(1, 5e-4), stage3=Stage(1, 5e-4), ema=0.0,
               epoch_size=22, val_people=7, save_every=60)     # eleven people: batches of 3, 4 and 4


@several
def test_two_processes_have_the_loss_of_one(tmp_path):
    "Batches of 3 as well, one of which a process has alone; and seven people to measure."
    together = Together(EVEN, tmp_path / "two", 2)
    together.heard()
    assert together.end() == [0, 0]
    fit(EVEN, tmp_path / "one", progress=False)
    (one, first), (_, second) = (result(tmp_path / name) for name in ("one", "two"))
    assert [row["stage"] for row in first] == [1, 1, 2, 3] and one["about"]["pictures"] == 88
    for a, b in zip(first, second, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)
        assert {key: a[key] for key in ("step", "pictures", "count", "lr")} == {key: b[key] for key in ("step", "pictures", "count", "lr")}
        assert b["pck"] == pytest.approx(a["pck"], abs=1.0) and a["count"] == 7
    for name in ("one", "two"):
        assert json.loads((tmp_path / name / "environment.json").read_text())["processes"] == ("one", "two").index(name) + 1


@pytest.mark.parametrize("people, processes", [(7, 2), (7, 3), (4, 3), (2, 3), (1, 2)])
def test_evaluation_in_parts_counts_everybody_once_and_in_order(seen, monkeypatch, people, processes):
    source, parts = People("plain", "val", 32), []
    expected, truth = predict_people(seen.run.model, source, range(people), batch_size=2)
    monkeypatch.setattr(training.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(training.dist, "get_world_size", lambda: processes)
    for rank in range(processes):       # each does its part, and with the last one's everything is there
        monkeypatch.setattr(training.dist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(training, "gather_object", lambda mine: parts.extend(mine) or parts)
        try: found, found_truth = predict_people(seen.run.model, source, range(people), batch_size=2)
        except IndexError: assert rank < processes - 1                                 # not all of them are there yet
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found_truth.joints, truth.joints, atol=1e-4, rtol=0)
    assert len(found) == people and torch.equal(found_truth.visible, truth.visible)


@pytest.mark.parametrize("processes", [1, 2])
def test_answers_say_how_sure_the_network_is_and_who_else_was_there(seen, monkeypatch, processes):
    source, parts = People("crowd", "val", 32), []
    if processes == 2:
        monkeypatch.setattr(training.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(training.dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(training, "gather_object", lambda mine: parts.extend(mine) or parts)
        monkeypatch.setattr(training.dist, "get_rank", lambda: 0)
        with pytest.raises(IndexError): training.answers(seen.run.model, source, range(40, 59), batch_size=3)
        monkeypatch.setattr(training.dist, "get_rank", lambda: 1)
    joints, sure, truth = training.answers(seen.run.model, source, range(40, 59), batch_size=3)
    batch = source.batch(range(40, 59))
    heatmaps = training.predict_heatmaps(seen.run.model, batch.images, MPII)
    torch.testing.assert_close(sure, heatmaps.flatten(2).amax(-1), atol=1e-4, rtol=0)
    assert len(joints) == 19 and truth.joints.equal(batch.joints) and truth.visible.dtype == torch.uint8
    whose, theirs, seen_there = source.company
    there = (whose >= 40) & (whose < 59)
    torch.testing.assert_close(truth.company[1], theirs[there])
    assert (truth.company[0] + 40).equal(whose[there]) and truth.company[2].to(torch.uint8).equal(seen_there[there])


# what else is written, and the exercises

def test_a_log_for_tensorboard_goes_on_where_the_checkpoint_was(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    config, steps = replace(SHORT, tensorboard=True, save_every=0), []
    step = Training.step

    def stopped(self, batch):
        step(self, batch)
        steps.append(self.progress.step)
        if len(steps) == 5: raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Training, "step", stopped)
        with pytest.raises(KeyboardInterrupt): fit(config, tmp_path, progress=False)
    run = fit(config, tmp_path, progress=False)
    log = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in log.Scalars("pck")] == [row["step"] for row in run.history]
    assert [event.value for event in log.Scalars("pck")] == pytest.approx([row["pck"] for row in run.history])
    monkeypatch.setattr(training.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tensorboard is not installed; pip install msspose\[track\]"):
        fit(config, tmp_path / "other", progress=False)


def test_what_a_training_has_reached_can_be_recorded(seen, tmp_path):
    spec = importlib.util.spec_from_file_location("record_run", ROOT / "tools" / "record_run.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    record = tool.record(seen.run.folder, ["people:plain"], "val", "msspose train")
    expected = evaluate_source(seen.run.model, open_source("people:plain", "val", TINY.size))
    assert record["sets"]["plain"]["total"] == pytest.approx(expected.total, abs=0.01) and record["sets"]["plain"]["n"] == expected.n
    assert [row["pck"] for row in record["history"]] == pytest.approx([row["pck"] for row in seen.run.history], abs=1e-5)
    assert json.loads(json.dumps(record)) == record and str(seen.run.folder) not in json.dumps(record)


def compared_with_the_last(scores, patience=8):
    since = count = 0
    for before, score in zip([-1, *scores], scores, strict=False):
        since = 0 if score > before else since + 1
        if since >= patience: count, since = count + 1, 0
    return count


def counted_on(scores, patience=8):
    best, since, count = -1, 0, 0
    for score in scores:
        since = 0 if score > best else since + 1
        best, count = max(best, score), count + (since >= patience)
    return count


@pytest.mark.parametrize("wrong", [compared_with_the_last, counted_on, lambda scores, patience=8: len(scores) // patience])
def test_drops_are_told_from_the_usual_mistakes(wrong):
    assert judge(EXERCISES["drops"], EXERCISES["drops"].reference) == "right" and judge(EXERCISES["drops"], wrong).startswith("not yet")


def mean_of_variances(means, variances, counts): return ((counts / counts.sum())[:, None] * means).sum(0), variances.mean(0)


def unweighted(means, variances, counts): return means.mean(0), (variances + (means - means.mean(0)) ** 2).mean(0)


@pytest.mark.parametrize("wrong", [mean_of_variances, unweighted])
def test_combined_statistics_are_told_from_the_usual_mistakes(wrong):
    exercise = EXERCISES["combined"]
    assert judge(exercise, exercise.reference) == "right" and judge(exercise, wrong).startswith("not yet")
    assert [judge(EXERCISES["roof_at_384"], value)[:5] for value in (4 / 9, 2 / 3, 2.25)] == ["right", "not y", "not y"]


# all together

def test_settings_rates_and_tables_are_what_they_were():
    as_remembered("presets", {name: training.settings(config) for name, config in PRESETS.items()})
    as_remembered("rates", {schedule: [learning_rate(p / 10, p, 3e-3, schedule, 4, p // 4) for p in range(11)]
                            for schedule in ("cosine", "plateau")})
    memory = Memory(3 * 10 ** 8, 10 ** 7, 9 * 10 ** 9)
    stages = [StagePlan(n, 10 ** 6 * n, memory, n, 32, 0.5 * n, 40.0 * n, 10_000) for n in (1, 2, 3)]
    as_remembered("a plan", [*plan_table(stages).splitlines(), f"{memory.most} fit, {memory.step(8)} bytes"])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_measures_what_it_measured(stage):
    config, batch = replace(TINY, structure_weight=2.0), People("crowd", "val", TINY.size).batch(range(5))
    network = PoseNet(MPII, **{name: getattr(config, name) for name in training.NETWORK})
    objective = Objective(network, stage, config)
    loss = objective(batch.images, batch.joints, batch.visible)
    loss.backward()
    slopes = [p.grad.norm() for p in objective.parameters() if p.grad is not None]
    told = {"loss": loss.detach(), "slopes": len(slopes), "slope": torch.stack(slopes).norm()}
    as_remembered(f"stage {stage}", told | {"heads": head_sizes(batch, MPII), "masked": masked(batch, MPII, 3)})


def test_a_report_says_what_it_said(seen, tmp_path):
    rows = [{"stage": n, "pictures": 1000 * k, "loss": 9.0 / k, "pck": None if k == 2 else 10.0 * k, "count": 50}
            for k, n in enumerate((1, 1, 3), 1)]
    progress = replace(seen.run.progress, seconds=12.0, waited=3.0, skipped=2, history=rows)
    run = replace(seen.run, folder=tmp_path, progress=progress)
    drawn = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "_store", lambda figure, file: drawn.update({file.name: figure}))
        reports = write_report(run, {"plain": open_source("people:plain", "val", TINY.size)})
    text = (tmp_path / "report.md").read_text()
    for report in reports.values(): text = text.replace(report.to_markdown(), "the table").replace(f"{report.total:.1f} %", "a number")
    as_remembered("a report", text.splitlines())
    as_remembered("curves of a run", {name: figure for name, figure in drawn.items() if name in ("loss.png", "pck.png")})
    sheets = {name: figure for name, figure in drawn.items() if name in ("predictions.png", "worst.png")}
    as_remembered("sheets of a run", {name: [*figure.get_size_inches(), len(figure.axes)] for name, figure in sheets.items()})
