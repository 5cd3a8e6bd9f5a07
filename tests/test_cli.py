"Commands as a person types them: what they print, what they answer to wrong input."
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from remembered import as_remembered, heard

import msspose
from msspose import cli, training
from msspose.cli import complete_setting, main, uncut
from msspose.data import LSPET_SPLITS, load_annotations, write_people
from msspose.evaluation import evaluate
from msspose.people import SPLITS, People
from msspose.predictions import load_predictions, matched, save_predictions
from msspose.regression import PoseNet
from msspose.runs import BEST, CHECKPOINT, RunFolder, load_model, save_model
from msspose.skeleton import LSP, MPII
from msspose.training import PRESETS, evaluate_source, open_source, settings
from msspose.video import Video

COMMANDS = ("demo", "browse", "prepare", "train", "evaluate", "compare", "predict", "export", "ablate")
NETWORK = dict(n_stacks=1, width=8, depth=2)
TINY = ("size=32 width=8 depth=2 regression_width=8 batch_size=4 seconds=0 bf16=false "
        "stage1.epochs=2 stage2.epochs=1 stage3.epochs=1").split()


@pytest.fixture
def msspose_says(capsys):
    "Run a command: exit code, what it prints, what it says on stderr."
    def say(*args):
        with pytest.raises(SystemExit) as stopped: main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return stopped.value.code, out, err
    return say


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_model(PoseNet(**NETWORK), folder, size=64)
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("picture") / "person.jpg"
    image = People("plain", "val", size=128).batch([3]).images[0].permute(1, 2, 0).numpy()
    iio.imwrite(file, (image * 255).round().astype(np.uint8), quality=95)
    return file


def error_of(result):
    "An error is one line on stderr that starts with the program's name, and a code that is not 0."
    code, _, err = result
    lines = [line for line in err.splitlines() if line.startswith("msspose:")]
    assert code == (2 if lines[-1].endswith("--help says more") else 1)          # not understood, or not possible
    assert len(lines) == 1 and err.rstrip().endswith(lines[0]) and "Traceback" not in err
    heard(lines[0])
    return lines[0]


def test_version_and_help(msspose_says):
    assert msspose_says("--version") == (0, f"msspose {msspose.__version__}\n", "")
    code, out, _ = msspose_says("--help")
    assert code == 0 and "--install-completion" in out and "Usage: msspose " in out and "..." not in out.partition("Commands:")[2]
    assert re.findall(r"^  ([a-z]+)  ", out.partition("Commands:")[2], re.M) == list(COMMANDS)
    assert msspose_says() == (0, out, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_that_can_be_typed(msspose_says, command):
    code, out, _ = msspose_says(command, "--help")
    examples = " ".join(out.partition("Example: ")[2].split()).split(" msspose ")
    assert code == 0 and len(out) < 10_000 and examples[0].startswith(f"msspose {command}")
    for example in examples:
        words = shlex.split(example.removeprefix("msspose "))
        assert words[0] == command and msspose_says(*words, "--help") == (0, out, "")


def test_help_of_train_names_every_setting_and_preset_and_fits_a_terminal(msspose_says):
    _, out, _ = msspose_says("train", "--help")
    assert max(map(len, out.splitlines())) <= 80
    values = settings(PRESETS["demo"])
    assert re.findall(r"^    ([a-z]\w*(?:\.\w+)?)=", out, re.M) == list(values)
    for name in values: assert re.search(rf"^    {re.escape(name)}=\S+ +\S.{{5,}}$", out, re.M), f"{name} is not explained"
    about = " ".join(out.split())
    for name, config in PRESETS.items():
        row = re.search(rf" {name} (\d+) hourglass(?:es)? of (\d+) channels at (\d+) pixels, (\w+), (\d+) (minutes|epochs): ", about)
        epochs = config.stage1.epochs + config.stage2.epochs + config.stage3.epochs
        assert [int(row[i]) for i in (1, 2, 3)] == [config.n_stacks, config.width, config.size] and row[4] == config.optimiser
        assert (int(row[5]), row[6]) == ((config.seconds / 60, "minutes") if config.seconds else (epochs, "epochs"))


def test_what_help_says_of_presets_and_settings():
    as_remembered("presets", cli.about_presets().splitlines())
    as_remembered("settings", cli.about_settings().splitlines())


@pytest.mark.parametrize("args, said", [
    (["demo", "--ot", "x"], "--out"), (["trian"], "train"), (["demo", "--seconds", "long"], "--seconds"),
    (["demo", "--seconds", "0"], "seconds"), (["demo", "--ladder", "hourglas"], "'supervision', 'regression', 'structure'"),
    (["train", "--preset", "lptop"], "laptop"), (["evaluate"], "model"), (["predict"], "picture"),
    (["train", "sede=3"], "nearest is seed"), (["train", "width=wide"], "whole number"), (["train", "seed"], "key=value"),
    (["evaluate"], "msspose evaluate --help")])
def test_what_was_typed_wrongly_is_answered_by_what_is_right(msspose_says, args, said):
    result = msspose_says(*args)
    assert result[0] == 2 and said in error_of(result).lower()


@pytest.mark.parametrize("args, said", [
    (["--data", "people:croud"], "croud"), (["--data", "no/such/folder"], "no such file or folder"), (["size=30"], "multiple"),
    (["stage1.epochs=0", "stage2.epochs=0", "stage3.epochs=0"], "nothing to train")])
def test_train_refuses_what_does_not_exist(msspose_says, tmp_path, args, said):
    assert said in error_of(msspose_says("train", *args, "--out", tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    for split, count in (("train", 10), ("val", 4)): write_people(folder, "crowd", split, count, size=32)
    return folder


def test_prepare_browse_and_train_on_photographs(msspose_says, photographs, tmp_path):
    stores, sheet = tmp_path / "stores", tmp_path / "sheet.png"
    code, out, err = msspose_says("prepare", photographs, "--size", 32, "--out", stores)
    assert code == 0 and "10 people" in out and f"msspose train --data {stores} size=32" in out, err
    code, out, _ = msspose_says("prepare", photographs, "--size", 32, "--out", stores, "--json")
    made = json.loads(out)
    assert code == 0 and [made[split]["people"] for split in ("train", "val")] == [10, 4] and made["val"]["left_out"] == []
    for data in (photographs, stores, stores / "val", "people:scale"):
        sheet.unlink(missing_ok=True)
        assert msspose_says("browse", data, "--out", sheet, "--count", 4, "--size", 32)[0] == 0 and iio.imread(sheet).ndim == 3
    code, out, err = msspose_says("train", "--data", stores, "--out", tmp_path / "run", *TINY)
    assert code == 0 and re.search(r"waited for pictures \d+\.\d% of it", out), err
    for model in (tmp_path / "run", tmp_path / "run" / BEST):
        code, out, err = msspose_says("evaluate", model, "--data", stores, "--json")
        assert code == 0 and json.loads(out)["n"] == 4 and re.search(r"evaluating: 100%.*4/4 .*<.*people/s", err)


def test_prepare_names_bad_pictures_and_leaves_them_out_when_told(msspose_says, photographs, tmp_path):
    data = shutil.copytree(photographs, tmp_path / "set")
    (data / "images" / "train000003.jpg").write_bytes((data / "images" / "train000003.jpg").read_bytes()[:500])
    (data / "images" / "train000007.jpg").unlink()
    command = ("prepare", data, "--size", 32, "--split", "train", "--out", tmp_path / "stores")
    line = error_of(msspose_says(*command))
    assert "train000003.jpg" in line and "train000007.jpg" in line and "--skip-bad" in line and not (tmp_path / "stores" / "train").exists()
    code, out, _ = msspose_says(*command, "--skip-bad", "--json")
    assert code == 0 and json.loads(out)["train"]["people"] == 8 and len(json.loads(out)["train"]["left_out"]) == 2
    line = error_of(msspose_says("prepare", data, "--split", "validation", "--out", tmp_path / "x"))
    assert "holds train and val, not validation" in line


def test_a_folder_without_pictures_is_an_error_before_training(msspose_says, photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("MSSPOSE_STORES", str(tmp_path / "cache"))
    data = shutil.copytree(photographs, tmp_path / "set")
    shutil.rmtree(data / "images")
    line = error_of(msspose_says("train", "--data", data, "--out", tmp_path / "run", "size=32"))
    assert "train000000.jpg" in line and "10" in line


def test_an_output_folder_that_cannot_be_written(msspose_says, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write to this output folder" in error_of(msspose_says("demo", "--out", tmp_path / "file" / "run"))


@pytest.mark.parametrize("args, components", [([], True), (["--ladder", "hourglass"], False)])
def test_the_demo_trains_the_whole_network_or_a_rung(msspose_says, tmp_path, monkeypatch, args, components):
    monkeypatch.setitem(SPLITS, "val", 12)
    monkeypatch.setitem(PRESETS, "demo", replace(PRESETS["demo"], width=8, depth=2, regression_width=8))
    code, out, err = msspose_says("demo", "--seconds", 1, "--out", tmp_path, *args)
    assert code == 0, err
    assert re.search(r"^plain 0\.\d{3}$", out, re.M) and re.search(r"^standard 0\.\d{3}$", out, re.M)
    code, out, _ = msspose_says("demo", "--seconds", 1, "--out", tmp_path, *args, "--json")     # it is finished: only measured again
    assert code == 0 and json.loads(out) == json.loads((tmp_path / "result.json").read_text())
    assert list(json.loads(out)) == ["plain", "standard"]
    about, config = load_model(tmp_path)[2], json.loads((tmp_path / "config.json").read_text())
    assert [about["network"][name] for name in ("multi_scale", "regression", "structure")] == [components] * 3
    assert config["masking"] is components and ("regression" in (tmp_path / "report.md").read_text()) is components


@pytest.fixture(scope="module")
def stores(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    with pytest.raises(SystemExit): main(["prepare", str(photographs), "--size", "32", "--out", str(folder), "--json"])
    return folder


@pytest.fixture
def stopped(msspose_says, stores, tmp_path, monkeypatch):
    "A training that got a signal in its second step; its command, what it said."
    command, step, steps = ("train", "--data", stores, "--out", tmp_path / "run", *TINY, "save_every=0"), training.Training.step, []

    def interrupted(self, batch):
        steps.append(batch)
        if len(steps) == 2: signal.raise_signal(signal.SIGTERM)
        step(self, batch)

    monkeypatch.setattr(training.Training, "step", interrupted)
    return command, msspose_says(*command), steps


def test_a_stopped_training_goes_on_and_a_finished_one_answers_at_once(msspose_says, stopped, stores, tmp_path):
    command, (code, out, err), steps = stopped
    run = tmp_path / "run"
    assert code == 130 and f"the model so far is in {run / 'model.safetensors'}; the same command goes on" in out, err
    assert len(steps) == 2 and load_model(run)[2]["steps"] == 2
    assert "seed=0, not 3" in error_of(msspose_says(*command, "seed=3"))

    code, out, err = msspose_says(*command, "--json")
    assert code == 0 and list(json.loads(out)) == [stores.name], err
    assert len(steps) == load_model(run)[2]["steps"] > 2
    done = len(steps)
    assert msspose_says(*command)[0] == 0 and len(steps) == done
    assert msspose_says(*command, "seed=3", "--restart")[0] == 0 and len(steps) == 2 * done


def test_stopped_with_json_nothing_is_on_stdout(msspose_says, stores, tmp_path, monkeypatch):
    step = training.Training.step
    monkeypatch.setattr(training.Training, "step", lambda self, batch: (self.asked.set(), step(self, batch)))
    code, out, err = msspose_says("train", "--data", stores, "--out", tmp_path / "run", *TINY, "--json")
    assert (code, out) == (130, "") and "the same command goes on from here" in err


def test_damaged_checkpoints_are_told(msspose_says, stopped, tmp_path):
    command, _, steps = stopped
    last, before = tmp_path / "run" / CHECKPOINT, tmp_path / "run" / "checkpoint-before.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    broken = before.read_bytes()
    before.write_bytes(broken[:1000])
    assert "--restart" in error_of(msspose_says(*command)) and len(steps) == 2
    before.write_bytes(broken)
    code, _, err = msspose_says(*command)
    assert code == 0 and "going on from the checkpoint before it" in err


def test_a_folder_in_which_a_training_runs_is_left_alone(msspose_says, stores, tmp_path):
    with RunFolder(tmp_path):
        line = error_of(msspose_says("train", "--data", stores, "--out", tmp_path, *TINY))
    assert "another training is running" in line


def test_a_dry_run_prints_settings_memory_and_time_and_leaves_nothing(msspose_says, stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = msspose_says("train", "--data", stores, *TINY, "--dry-run")
    assert code == 0 and "width=8\n" in out and "multi_scale=true\n" in out and "| stage |" in out, err
    code, out, err = msspose_says("train", "--data", stores, *TINY, "--dry-run", "--json")
    told = json.loads(out)
    assert code == 0 and told["settings"]["width"] == 8 and [stage["stage"] for stage in told["stages"]] == [1, 2, 3]
    assert all(stage["memory"]["picture"] > 0 and stage["seconds"] > 0 for stage in told["stages"])
    assert list(tmp_path.iterdir()) == []


def test_two_processes_train_and_one_speaks(stores, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "msspose.cli", "train"]
    done = subprocess.run([*command, "--data", str(stores), "--out", str(tmp_path), *TINY, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [report["n"] for report in json.loads(done.stdout).values()] == [4]
    assert json.loads((tmp_path / "environment.json").read_text())["processes"] == 2


@pytest.mark.parametrize("error, said, rank", [
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "pass halve=true", 0),
    (FloatingPointError("step 3: the loss\nis nan"), "step 3: the loss is nan", 0), (ZeroDivisionError("x"), "a bug; --debug", 0),
    (RuntimeError("Connection closed by peer"), "process 1: another process has ended", 1),
    (torch.distributed.DistNetworkError("connection refused"), "process 0: another process has ended", 0)])
def test_whatever_goes_wrong_is_one_line(msspose_says, monkeypatch, error, said, rank):
    def fails(*args, **kwargs): raise error
    monkeypatch.setattr(cli, "app", fails)
    monkeypatch.setattr(cli, "RANK", rank)
    monkeypatch.setattr(cli, "PROCESSES", 2)
    assert said in error_of(msspose_says("demo"))


def test_evaluate_prints_percentages_as_json(msspose_says, model, monkeypatch):
    monkeypatch.setitem(SPLITS, "val", 20)
    code, out, _ = msspose_says("evaluate", model, "--data", "people:standard", "--rule", "official", "--json")
    report = json.loads(out)
    as_remembered("evaluate --json", report)
    assert code == 0 and 0 <= report["total"] <= 100 and {"auc", "joints", "groups", "n"} <= set(report) and report["n"] == 20
    code, out, _ = msspose_says("evaluate", model, "--data", "people:standard")
    assert code == 0 and "| Total |" in out.replace("  ", " ")
    as_remembered("evaluate", out.splitlines())


@pytest.fixture(scope="module")
def knowing(tmp_path_factory):
    "A network that is not as good as nothing: some of its weights are those of a short training."
    folder = tmp_path_factory.mktemp("knowing")
    torch.manual_seed(0)
    network = PoseNet(**NETWORK)
    with torch.no_grad():
        for parameter in network.parameters(): parameter.add_(0.1 * torch.randn_like(parameter))
    save_model(network, folder, size=32)
    return folder


def scores(result) -> dict:
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("data", ["people:crowd", "photographs", "stores"])
def test_a_model_scores_as_in_training_and_its_predictions_score_the_same(
        msspose_says, knowing, photographs, stores, tmp_path, monkeypatch, data):
    monkeypatch.setitem(SPLITS, "val", 12)
    data = {"photographs": str(photographs), "stores": str(stores)}.get(data, data)
    told = scores(msspose_says("evaluate", knowing, "--data", data, "--out", tmp_path / "new" / "report", "--json"))
    expected = evaluate_source(load_model(knowing)[0], open_source(data, "val", 32))
    for name in ("total", "auc", "n"): assert told[name] == pytest.approx(getattr(expected, name), abs=0.02)
    assert {"intervals", "strata", "errors", "reliability", "precise", "notes"} <= told.keys() and told["reliability"]["gap"] > 0
    assert sum(stratum["people"] for stratum in told["strata"]["others"].values()) == told["n"]
    files = {file.name for file in (tmp_path / "new" / "report").iterdir()}
    assert files == {"report.md", "report.json", "curve.png", "joints.png", "confusion.png", "reliability.png", "predictions.json",
                     "predictions.mat"} | ({"coco_results.json"} if data == str(photographs) else set())
    assert json.loads((tmp_path / "new" / "report" / "report.json").read_text()) == told
    for name in files & {"predictions.json", "predictions.mat", "coco_results.json"}:
        result = msspose_says("evaluate", tmp_path / "new" / "report" / name, "--data", data, "--json")
        if data == "people:crowd" and name != "predictions.json": assert "pixels only at some size" in error_of(result); continue
        again = scores(result)
        assert again["total"] == pytest.approx(told["total"], abs=0.02) and again["strata"] == told["strata"]
    file = tmp_path / "new" / "report" / "predictions.json"
    again = scores(msspose_says("evaluate", file, "--data", data, "--rule", "bearpaw", "--json"))
    assert again["rule"] == "bearpaw" and again["notes"] == []


def test_a_store_scores_as_the_photographs_it_was_made_from(msspose_says, model, photographs, tmp_path):
    "At twice their size: a head of the crop has twice the pixels of a head of the photograph."
    assert msspose_says("prepare", photographs, "--size", 64, "--split", "val", "--out", tmp_path / "stores", "--json")[0] == 0
    files = {}
    for name, data in (("photographs", photographs), ("store", tmp_path / "stores")):
        files[name] = tmp_path / name / "predictions.json"
        assert msspose_says("evaluate", model, "--data", data, "--out", tmp_path / name)[0] == 0
    a, b = (load_predictions(file) for file in files.values())
    np.testing.assert_allclose(a.joints, b.joints, atol=2e-3)
    people, truth = load_annotations(photographs, "val"), cli.truth_of(str(tmp_path / "stores"), "val", None, 0)
    np.testing.assert_allclose(truth.joints, people.joints, atol=2e-3)
    np.testing.assert_allclose(truth.reference, people.reference, rtol=1e-5)
    np.testing.assert_allclose(truth.side, people.side)
    for ours, theirs in zip(truth.company, people.company, strict=True): np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_crops_are_moved_back_into_their_photographs(msspose_says, knowing, photographs, tmp_path):
    "What is written is in pixels of the photographs, by the numbers of the annotations."
    scores(msspose_says("evaluate", knowing, "--data", photographs, "--out", tmp_path, "--json"))
    found, people = load_predictions(tmp_path / "predictions.json"), load_annotations(photographs, "val")
    assert found.ids.tolist() == people.crowd.ids[people.member].tolist() and found.size == 0
    inside = np.abs(found.joints - people.center[:, None]) <= people.side[:, None, None]
    assert inside.all() and found.joints.max() > 32
    columns = {name: getattr(found, name)[::-1] for name in ("joints", "confidence", "ids", "image_ids")}
    save_predictions(replace(found, **columns), tmp_path / "shuffled.json")
    a, b = (msspose_says("evaluate", tmp_path / f"{name}.json", "--data", photographs, "--json") for name in ("predictions", "shuffled"))
    assert scores(a) == scores(b)


def test_compare_says_who_is_better(msspose_says, knowing, model, tmp_path, monkeypatch):
    monkeypatch.setitem(SPLITS, "val", 30)
    people = People("crowd", "val", 48)
    dice = np.random.default_rng(0)
    for name, size in (("rough", 0.5), ("fine", 0.2)):
        off = size * people.reference.numpy()[:, None, None] * dice.normal(size=(30, 16, 2))
        found = cli.Predictions(people.joints.numpy() + off, data="people:crowd", size=48)
        found = load_predictions(save_predictions(found, tmp_path / f"{name}.json"))
        assert evaluate(matched(found, people), people).n == 30
    files = tmp_path / "rough.json", tmp_path / "fine.json"
    code, out, _ = msspose_says("compare", *files, "--data", "people:crowd", "--out", tmp_path / "both")
    assert code == 0 and out.startswith("fine is better than rough: +") and "points of PCKh@0.5, 30 people" in out.splitlines()[0]
    as_remembered("compare", out.splitlines())
    told = scores(msspose_says("compare", *files, "--data", "people:crowd", "--json"))
    as_remembered("compare --json", told)
    assert told["line"] == out.splitlines()[0] and told["total"][1] > 0 and told["groups"].keys() >= {"Wrist"}
    assert sorted(file.name for file in (tmp_path / "both").iterdir()) == ["curve.png", "parts.png", "report.json", "report.md"]
    assert msspose_says("compare", *files[::-1], "--data", "people:crowd")[1].startswith("rough is worse than fine: -")
    other = scores(msspose_says("compare", *files, "--data", "people:crowd", "--seed", 1, "--samples", 50, "--json"))
    assert other["total"][0] == told["total"][0] and other["total"][1:] != told["total"][1:]
    code, out, _ = msspose_says("compare", knowing, knowing / "model.safetensors", "--data", "people:plain")
    assert code == 0 and "cannot be told apart: +0.00 [0.00, 0.00]" in out
    assert "differs; evaluate both" in error_of(msspose_says("compare", knowing, model, "--data", "people:plain"))   # of other sizes


def test_a_name_is_looked_for_here_and_then_under_msspose_data(msspose_says, knowing, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSSPOSE_DATA", str(photographs.parent))
    expected = scores(msspose_says("evaluate", knowing, "--data", photographs, "--json"))
    assert scores(msspose_says("evaluate", knowing, "--data", photographs.name, "--json")) == expected
    assert msspose_says("browse", photographs.name, "--split", "val", "--count", 2, "--size", 32)[0] == 0
    assert "neither here nor under MSSPOSE_DATA" in error_of(msspose_says("evaluate", knowing, "--data", "nowhere"))
    write_people(tmp_path / photographs.name, "plain", "val", 3, size=32)
    assert scores(msspose_says("evaluate", knowing, "--data", photographs.name, "--json"))["n"] == 3
    monkeypatch.delenv("MSSPOSE_DATA")
    assert error_of(msspose_says("evaluate", knowing, "--data", "nowhere")).endswith("nowhere: no such file or folder")


def test_evaluate_refuses_files_that_are_no_predictions(msspose_says, knowing, photographs, tmp_path):
    (tmp_path / "p.json").write_text("{}")
    assert "p.json: neither a list" in error_of(msspose_says("evaluate", tmp_path / "p.json", "--data", photographs))
    assert "no such file" in error_of(msspose_says("evaluate", tmp_path / "nothing.mat", "--data", photographs))
    assert "no model here" in error_of(msspose_says("evaluate", tmp_path, "--data", photographs))
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_of(msspose_says("evaluate", knowing, "--data", photographs, "--out", tmp_path / "file"))


BEARPAW = {"bearpaw-hg_s2_b1.mat": [95.80, 94.57, 88.12, 83.31, 86.24, 80.88, 77.44, 86.76],
           "bearpaw-hg_s8_b1.mat": [96.79, 95.19, 90.08, 85.32, 87.48, 84.26, 80.73, 88.64],
           "newell_valid-ours.h5": [95.94, 94.68, 88.53, 83.38, 87.48, 83.09, 79.05, 87.56]}
OFFICIAL = {"bearpaw-hg_s2_b1.mat": [87.299, 57.38], "bearpaw-hg_s8_b1.mat": [89.092, 58.72], "newell_valid-ours.h5": [88.035, 58.81]}


read_once = functools.cache(load_annotations)      # MPII takes two seconds


@pytest.fixture
def mpii(real_data, monkeypatch):
    if not all((real_data / name).is_dir() for name in ("mpii_val", "preds_mpii_val")): pytest.skip("no MPII annotations and predictions")
    monkeypatch.setattr(cli, "load_annotations", read_once)
    monkeypatch.setenv("MSSPOSE_DATA", str(real_data))
    return real_data / "preds_mpii_val"


@pytest.mark.parametrize("name", BEARPAW)
def test_published_numbers_come_out_of_the_command_line(msspose_says, mpii, name):
    code, out, _ = msspose_says("evaluate", mpii / name, "--data", "mpii_val", "--rule", "bearpaw", "--samples", 10)
    row = next(line for line in out.splitlines() if line.startswith("| 2,958 people"))
    assert code == 0 and [float(cell) for cell in row.strip("| ").split("|")[1:9]] == BEARPAW[name]
    told = scores(msspose_says("evaluate", mpii / name, "--data", "mpii_val", "--rule", "official", "--json"))
    assert [told["total"], round(told["auc"], 2)] == OFFICIAL[name] and told["n"] == 2958
    if "s8" not in name: return
    strata, errors = told["strata"], told["errors"]
    assert [round(strata["occlusion"][label]["percent"], 1) for label in ("visible", "occluded")] == [92.8, 70.8]
    assert [round(stratum["percent"], 1) for stratum in strata["others"].values()] == [90.3, 89.2, 88.6, 86.7]
    assert [round(errors[kind], 1) for kind in ("swap", "other", "near")] == [23.3, 3.5, 46.0]


def test_the_paired_interval_of_the_decisions_comes_out_of_the_command_line(msspose_says, mpii):
    code, out, _ = msspose_says("compare", mpii / "bearpaw-hg_s2_b1.mat", mpii / "bearpaw-hg_s8_b1.mat", "--data", "mpii_val")
    found = re.match(r"bearpaw-hg_s8_b1 is better than bearpaw-hg_s2_b1: \+(\S+) \[(\S+), (\S+)\] points of PCKh@0.5, 2,958 people", out)
    assert code == 0 and [float(found[k]) for k in (1, 2, 3)] == pytest.approx([1.79, 1.42, 2.17], abs=0.05)


def test_flic_has_the_sides_that_are_asked_for(msspose_says, real_data, tmp_path, monkeypatch):
    if not (real_data / "flic" / "valid.h5").exists(): pytest.skip("no FLIC annotations: valid.h5 is not there")
    monkeypatch.setenv("MSSPOSE_DATA", str(real_data))
    people = cli.load_flic(real_data / "flic", "val", sides="observer")
    save_predictions(cli.Predictions(people.joints, skeleton=people.skeleton), tmp_path / "p.mat")
    found = [scores(msspose_says("evaluate", tmp_path / "p.mat", "--data", "flic", "--rule", "flic", *sides, "--json"))["total"]
             for sides in (["--sides", "observer"], ["--sides", "person"], [])]
    assert found[0] == 100 and found[1] == found[2] < 97


def test_evaluate_refuses_another_rule_or_skeleton(msspose_says, model, tmp_path):
    assert "choose auto" in error_of(msspose_says("evaluate", model, "--data", "people:plain", "--device", "abacus"))
    assert "official" in error_of(msspose_says("evaluate", model, "--data", "people:plain", "--rule", "offical"))
    save_model(PoseNet(LSP, **NETWORK), tmp_path, size=64)
    assert "choose data of lsp" in error_of(msspose_says("evaluate", tmp_path, "--data", "people:plain"))


def test_predict_draws_and_tells_the_joints(msspose_says, model, picture, tmp_path):
    out = tmp_path / "new" / "pose.png"
    code, told, err = msspose_says("predict", picture, "--model", model, "--box", "10,10,100,110", "--out", out, "--json")
    entry, = json.loads(told)
    assert code == 0 and (entry["picture"], entry["drawing"]) == (str(picture), str(out)) and not err
    pose, = entry["poses"]
    assert list(pose["joints"]) == list(MPII.joints) and pose["box"] == [10, 10, 100, 110]
    before, after = iio.imread(picture), iio.imread(out)
    assert before.shape == after.shape and (before != after).any() and list(out.parent.iterdir()) == [out]
    code, told, _ = msspose_says("predict", picture, "--out", tmp_path / "pose.jpg")
    assert code == 0 and told.count("left_wrist") == 1 and told.endswith(f"drawn into {tmp_path / 'pose.jpg'}\n")
    as_remembered("predict", told.splitlines()[:-1])


@pytest.fixture(scope="module")
def holiday(tmp_path_factory):
    "Three pictures and a GIF, and what a detector says of them."
    folder = tmp_path_factory.mktemp("holiday")
    people = (People("plain", "val", size=96).batch(range(4)).images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    for name, image in zip(("000001.jpg", "000002.png", "sub.000003.bmp"), people, strict=False): iio.imwrite(folder / name, image)
    iio.imwrite(folder / "turn.gif", [np.roll(people[3], k, 1) for k in range(5)], duration=40, loop=0)
    (folder / "notes.txt").write_text("no picture")
    rows = [(1, 0.9), (1, 0.8), (2, 0.2), (3, 0.7), (99, 0.9), (0, 0.9), (4, 0.9)]
    found = [{"image_id": number, "category_id": 1, "bbox": [5, 5, 80, 80], "score": score} for number, score in rows]
    (folder / "found.json").write_text(json.dumps(found))
    return folder


def test_predict_takes_a_folder(msspose_says, holiday, tmp_path):
    code, told, err = msspose_says("predict", holiday, "--out", tmp_path, "--no-flip")
    entries = json.loads((tmp_path / "poses.json").read_text())
    assert code == 0 and "8 poses in 8 pictures" in told and "8/8" in err and "pictures/s" in err
    assert {path.name for path in tmp_path.iterdir()} == {"000001.jpg", "000002.png", "sub.000003.png", "turn.gif", "poses.json"}
    assert [entry.get("frame") for entry in entries] == [None] * 3 + list(range(5)) and all(len(entry["poses"]) == 1 for entry in entries)
    assert [entry["drawing"] for entry in entries[:3]] == [str(tmp_path / name) for name in ("000001.jpg", "000002.png", "sub.000003.png")]
    assert entries[3]["film"].endswith("turn.gif") and len(list(Video.open(tmp_path / "turn.gif").frames())) == 5
    for name in ("000001.jpg", "000002.png"): assert (iio.imread(tmp_path / name) != iio.imread(holiday / name)).any()
    assert len((tmp_path / "poses.json").read_text().splitlines()) == len(entries) + 2     # a line per entry


def test_predict_takes_the_boxes_of_a_detector_and_says_what_it_did_not_use(msspose_says, holiday, tmp_path):
    names = [holiday / name for name in ("000001.jpg", "000002.png", "sub.000003.bmp", "turn.gif")]
    code, told, err = msspose_says("predict", *names, "--boxes", holiday / "found.json", "--out", tmp_path / "a", "--json")
    counts = [len(entry["poses"]) for entry in json.loads(told)]
    assert code == 0 and counts == [2, 0, 1, 1, 2, 0, 1, 1]                              # three pictures, then frames 0 to 4
    assert "left out: 1 of the boxes of" in err and err.count("left out: ") == 2 and "pictures that were not given" in err
    assert json.loads((tmp_path / "a" / "poses.json").read_text()) == json.loads(told)
    names = [*names[:2], names[1]]                                                      # one of them twice: taken once
    how = ("--boxes", holiday / "found.json", "--least", 0, "--out", tmp_path / "b", "--json")
    code, told, err = msspose_says("predict", *names, *how)
    assert [len(entry["poses"]) for entry in json.loads(told)] == [2, 1] and "--least" not in err and "4 of the boxes of" in err


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_predict_writes_films_and_smooths_them(msspose_says, holiday, tmp_path, name):
    film = holiday / "turn.gif"
    plain, smooth = (json.loads(msspose_says("predict", film, "--out", tmp_path / name, "--json", *how)[1]) for how in ((), ("--smooth",)))
    video = Video.open(tmp_path / name)
    assert len(list(video.frames())) == 5 and round(video.fps) == 25 and [path.name for path in tmp_path.iterdir()] == [name]
    first, last = (np.array([[list(e["poses"][0]["joints"].values()) for e in entries]]) for entries in (plain, smooth))
    assert np.allclose(first[0, 0], last[0, 0]) and not np.allclose(first[0, 2], last[0, 2])


def test_predict_leaves_out_what_is_bad_when_asked_and_counts_it(msspose_says, picture, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(picture, tmp_path / "in" / "a.jpg")
    shutil.copy(picture, tmp_path / "in" / "c.jpg")
    (tmp_path / "in" / "b.jpg").write_text("a letter")
    result = msspose_says("predict", tmp_path / "in", "--out", tmp_path / "out")
    assert "b.jpg: not a picture" in error_of(result) and not (tmp_path / "out" / "poses.json").exists()
    code, told, _ = msspose_says("predict", tmp_path / "in", "--out", tmp_path / "out", "--skip-bad")
    assert code == 0 and "left out: " in told and "b.jpg" in told and "2 poses in 2 pictures" in told
    assert [entry["picture"][-5:] for entry in json.loads((tmp_path / "out" / "poses.json").read_text())] == ["a.jpg", "c.jpg"]


@pytest.mark.parametrize("args, said", [
    (["{picture}", "--box", "500,10,50,50"], "outside"), (["{picture}", "--box", "-400,10,50,50"], "outside"),
    (["{picture}", "--box", "1,2,3"], "LEFT,TOP,WIDTH,HEIGHT"), (["{picture}", "--box", "1,2,x,4"], "LEFT,TOP,WIDTH,HEIGHT"),
    (["{picture}", "--box", "1,2,0,4"], "positive"), (["{picture}", "--box", "1,2,nan,4"], "positive"),
    (["{picture}", "--box", "1,2,3,4", "--boxes", "x.json"], "expected one of them"), (["{picture}", "--boxes", "x.json"], "no such file"),
    (["{picture}", "--smooth"], "none is given"), (["{picture}", "--device", "abacus"], "choose auto"),
    (["{picture}", "--model", "peopel"], "comes with msspose: people"), (["{picture}", "--batch-size", "0"], "batch-size"),
    (["{holiday}", "--out", "a.png"], "one drawing for 4 files"), (["{picture}", "--out", "a.gif"], "ends in .png"),
    (["{picture}", "--out", "pose.xyz"], "ends in .png"), (["{holiday}/turn.gif", "--out", "a.png"], "ends in .gif"),
    (["{holiday}/turn.gif", "--out", "a.avi"], "ends in .png"), (["{holiday}", "--out", "{holiday}"], "would take its place"),
    (["{holiday}/none.jpg"], "no such picture"), (["{picture}", "{holiday}/../person.jpg"], "would both be drawn"),
    (["{empty}"], "no pictures or films in this folder"), (["{picture}", "--boxes", "{holiday}/notes.txt"], "not JSON")])
def test_predict_refuses_in_one_line_and_writes_nothing(msspose_says, picture, holiday, tmp_path, monkeypatch, args, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_size for path in holiday.iterdir()}
    result = msspose_says("predict", *(arg.format(picture=picture, holiday=holiday, empty=tmp_path / "empty") for arg in args))
    assert said in error_of(result)
    assert [path.name for path in tmp_path.iterdir()] in (["empty"], ["empty", "poses"])
    assert not list(tmp_path.glob("poses/poses.json")) and before == {path: path.stat().st_size for path in holiday.iterdir()}


def test_boxes_of_frames_belong_to_one_film(msspose_says, holiday, tmp_path):
    shutil.copy(holiday / "turn.gif", tmp_path / "other.gif")
    films = holiday / "turn.gif", tmp_path / "other.gif"
    result = msspose_says("predict", *films, "--boxes", holiday / "found.json", "--out", tmp_path / "out")
    assert "one film at a time" in error_of(result)


def test_predict_refuses_pictures_that_are_none(msspose_says, model, picture, tmp_path):
    whole = picture.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "text.jpg").write_text("a letter")
    (tmp_path / "text.mp4").write_text("a letter")
    for name, said in (("cut.jpg", "truncated"), ("text.jpg", "not a picture"), ("none.jpg", "no such picture"), ("text.mp4", "no film"),
                       ("none.gif", "no such film")):
        assert said in error_of(msspose_says("predict", tmp_path / name, "--model", model, "--out", tmp_path / "out"))


def test_predict_refuses_an_output_it_cannot_write(msspose_says, model, picture, holiday, tmp_path):
    (tmp_path / "file").write_text("")
    for source in (picture, holiday / "turn.gif"):
        for out in (tmp_path / "file" / "poses", tmp_path / "file"):
            assert "cannot be written" in error_of(msspose_says("predict", source, "--model", model, "--out", out))


def test_export_writes_and_compares(msspose_says, knowing, tmp_path, monkeypatch):
    code, out, err = msspose_says("export", knowing, "--out", tmp_path / "a.onnx", "--no-flip", "--json")
    told = json.loads(out)
    assert code == 0 and told["joints"] < 1e-3 and told["count"] == 64 * 16 and told["bytes"] == (tmp_path / "a.onnx").stat().st_size
    assert not told["flip"] and not err
    megabytes = f"{told['bytes'] / 1e6:.1f} MB"
    assert "ends in .onnx" in error_of(msspose_says("export", "people", "--out", tmp_path / "b.pt"))
    assert "no model here" in error_of(msspose_says("export", tmp_path / "nowhere"))
    monkeypatch.setattr(cli, "compare_onnx", lambda *args: {"joints": 0.2, "confidence": 0, "count": 16, "ties": 0})
    monkeypatch.setattr(cli, "export_onnx", lambda model, file, *_: shutil.copy(tmp_path / "a.onnx", file))    # once is slow enough
    assert "0.2 pixels apart" in error_of(msspose_says("export", "people", "--out", tmp_path / "b.onnx"))
    monkeypatch.setattr(cli, "compare_onnx", lambda *args: {"joints": 0.001, "confidence": 0, "count": 1024, "ties": 3})
    code, out, _ = msspose_says("export", "people", "--out", tmp_path / "b.onnx")
    assert code == 0 and out == (f"{tmp_path / 'b.onnx'}: {megabytes}, squares of 64 pixels, 16 joints of mpii\n"
                                 "of 1,024 joints the farthest is 1.0e-03 pixels from PyTorch's; 3 were ties\n")
    (tmp_path / "b.onnx").unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_a_model_of_another_architecture_is_refused(msspose_says, picture, tmp_path):
    network = PoseNet(**NETWORK)
    network.settings["width"] = 16
    save_model(network, tmp_path, size=64)
    assert "another architecture" in error_of(msspose_says("predict", picture, "--model", tmp_path, "--out", tmp_path / "pose.png"))


def test_debug_shows_where_an_error_came_from(capsys, tmp_path):
    with pytest.raises(FileNotFoundError): main(["predict", "x.jpg", "--model", str(tmp_path), "--debug"])


def test_train_on_photographs_through_the_command_line(msspose_says, real_data, tmp_path, monkeypatch):
    monkeypatch.setitem(LSPET_SPLITS, "train", (1, 40))
    monkeypatch.setitem(LSPET_SPLITS, "val", (9001, 9010))
    changes = "width=8 depth=2 regression_width=8 batch_size=8 stage1.epochs=1 stage2.epochs=1 stage3.epochs=1 seconds=0".split()
    code, out, err = msspose_says("train", "--data", real_data / "lspet", "--out", tmp_path / "run", *changes)
    assert code == 0, err
    assert "lspet 0." in out and "PCK@0.2" in out
    _, skeleton, about = load_model(tmp_path / "run")
    assert skeleton == LSP and len(about["skeleton"]["joints"]) == 14 and about["pictures"] == 3 * 40
    photograph = real_data / "lspet" / "images" / "im09001.jpg"
    code, out, _ = msspose_says("predict", photograph, "--model", tmp_path / "run", "--out", tmp_path / "pose.png")
    assert code == 0 and iio.imread(tmp_path / "pose.png").shape == iio.imread(photograph).shape
    assert torch.tensor(iio.imread(tmp_path / "pose.png") != iio.imread(photograph)).any()


# --- completion ------------------------------------------------------------------------------------------------------------------------

def candidates(msspose_says, monkeypatch, *words):
    "What bash is told when TAB is pressed after the last of these words, which it has cut at : and =."
    monkeypatch.setenv("_MSSPOSE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    code, out, err = msspose_says()
    assert (code, err) == (0, "")
    return out.split()


@pytest.mark.parametrize("words, expected", [
    (["msspose", "tr"], ["train"]), (["msspose", ""], list(COMMANDS)), (["msspose", "train", "--dr"], ["--dry-run"]),
    (["msspose", "train", "--preset", ""], list(PRESETS)), (["msspose", "train", "--preset", "pa"], ["paper"]),
    (["msspose", "train", "se"], ["seconds=", "seed="]), (["msspose", "train", "sto"], []),
    (["msspose", "train", "seed", "=", "3", "stage1."], ["stage1.epochs=", "stage1.lr="]),
    (["msspose", "train", "see"], ["seed=", "seed=0"]), (["msspose", "train", "optimiser", "="], ["sgd", "rmsprop", "adamw"]),
    (["msspose", "train", "bf16", "=", "t"], ["true"]), (["msspose", "train", "--data", "peo"], [f"people:{name}" for name in (
        "plain", "scale", "occlusion", "crowd", "standard")]),
    (["msspose", "train", "--data", "people", ":", "s"], ["scale", "standard"]),
    (["msspose", "train", "--data", "=", "people", ":", "pl"], ["plain"]), (["msspose", "browse", "people", ":", "o"], ["occlusion"]),
    (["msspose", "evaluate", "runs/demo", "--data", "people", ":", "cr"], ["crowd"]),
    (["msspose", "evaluate", "runs/demo", "--rule", "o"], ["official"]), (["msspose", "predict", "--model", "pe"], ["people"]),
    (["msspose", "export", "p"], ["people"])])
def test_completion_in_bash(msspose_says, monkeypatch, words, expected):
    assert candidates(msspose_says, monkeypatch, *words) == expected


def test_completion_in_zsh(msspose_says, monkeypatch):
    monkeypatch.setenv("_MSSPOSE_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "msspose train --data people:s")
    code, out, _ = msspose_says()
    assert code == 0 and "scale" in out and "standard" in out and "plain" not in out


def test_every_setting_completes_to_itself_and_what_it_offers_can_be_typed():
    config = PRESETS["demo"]
    for name in settings(config):
        assert f"{name}=" in complete_setting(name) and complete_setting(f"{name}=")
        for choice in complete_setting(f"{name}="): training.configure(config, [choice])


def test_words_that_bash_has_cut_are_put_together():
    cut = ["msspose", "train", "seed", "=", "3", "--data", "people", ":"]
    assert uncut(cut) == (["msspose", "train", "seed=3", "--data", "people:"], "people:")
    assert uncut(["msspose", "train", ""]) == (["msspose", "train", ""], "")


@pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"), reason="needs bash")
def test_completion_is_installed_and_works_in_a_real_bash(tmp_path):
    scripts = sysconfig.get_path("scripts")
    if not shutil.which("msspose", path=scripts): pytest.skip("the package is not installed, so there is no command")
    session = """msspose --install-completion && source ~/.bash_completions/msspose.sh
                 COMP_WORDS=(msspose train --data people : s) COMP_CWORD=5; _msspose_completion msspose; echo "${COMPREPLY[*]}" """
    env = os.environ | {"HOME": str(tmp_path), "PATH": scripts + os.pathsep + os.environ["PATH"]}
    done = subprocess.run(["bash", "--norc", "-c", session], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "scale standard", done.stderr
