"Commands as a person types them: what they print, what they answer to wrong input."
import json
import re
import shutil
from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import msspose
from msspose.cli import main
from msspose.data import LSPET_SPLITS, write_people
from msspose.people import SPLITS, People
from msspose.regression import PoseNet
from msspose.skeleton import LSP, MPII
from msspose.training import PRESETS, load_model, save_model

COMMANDS = ("demo", "browse", "prepare", "train", "evaluate", "predict")
NETWORK = dict(n_stacks=1, width=8, depth=2)


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
    assert code in (1, 2) and len(lines) == 1 and err.rstrip().endswith(lines[0]) and "Traceback" not in err
    return lines[0]


def test_version_and_help(msspose_says):
    assert msspose_says("--version") == (0, f"msspose {msspose.__version__}\n", "")
    code, out, _ = msspose_says("--help")
    assert code == 0 and all(command in out for command in COMMANDS)
    for command in COMMANDS:
        code, out, _ = msspose_says(command, "--help")
        assert code == 0 and "Example: msspose" in out


@pytest.mark.parametrize("args, said", [
    (["demo", "--ot", "x"], "--out"), (["trian"], "train"), (["demo", "--seconds", "long"], "--seconds"),
    (["demo", "--seconds", "0"], "seconds"), (["demo", "--ladder", "hourglas"], "'supervision', 'regression', 'structure'"),
    (["train", "--preset", "lptop"], "laptop"), (["evaluate"], "model"), (["predict", "x"], "picture")])
def test_what_was_typed_wrongly_is_answered_by_what_is_right(msspose_says, args, said):
    result = msspose_says(*args)
    assert result[0] == 2 and said in error_of(result).lower()


@pytest.mark.parametrize("args, said", [
    (["train", "sede=3"], "nearest is seed"), (["train", "--data", "people:croud"], "croud"),
    (["train", "--data", "no/such/folder"], "no such file or folder")])
def test_train_refuses_what_does_not_exist(msspose_says, tmp_path, args, said):
    assert said in error_of(msspose_says(*args, "--out", tmp_path / "run"))


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
    settings = ["size=32", "width=8", "depth=2", "batch_size=4", "stage1.epochs=2", "regression_width=8", "snapshots=1"]
    code, out, err = msspose_says("train", "--data", stores, "--out", tmp_path / "run", *settings)
    assert code == 0 and re.search(r"waited for pictures \d+\.\d% of it", out), err
    code, out, _ = msspose_says("evaluate", tmp_path / "run", "--data", stores, "--json")
    assert code == 0 and json.loads(out)["n"] == 4


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
    monkeypatch.setitem(PRESETS, "demo", replace(PRESETS["demo"], width=8, depth=2, regression_width=8, regression_from=0.3))
    code, out, err = msspose_says("demo", "--seconds", 1, "--out", tmp_path, *args)
    assert code == 0, err
    assert re.search(r"^plain 0\.\d{3}$", out, re.M) and re.search(r"^standard 0\.\d{3}$", out, re.M)
    about, config = load_model(tmp_path)[2], json.loads((tmp_path / "config.json").read_text())
    assert [about["network"][name] for name in ("multi_scale", "regression", "structure")] == [components] * 3
    assert config["masking"] is components and ("regression" in (tmp_path / "report.md").read_text()) is components


def test_evaluate_prints_percentages_as_json(msspose_says, model, monkeypatch):
    monkeypatch.setitem(SPLITS, "val", 20)
    code, out, _ = msspose_says("evaluate", model, "--data", "people:standard", "--rule", "official", "--json")
    report = json.loads(out)
    assert code == 0 and 0 <= report["total"] <= 100 and {"auc", "joints", "groups", "n"} <= set(report) and report["n"] == 20
    code, out, _ = msspose_says("evaluate", model, "--data", "people:standard")
    assert code == 0 and "| Total |" in out.replace("  ", " ")


def test_evaluate_refuses_another_rule_or_skeleton(msspose_says, model, tmp_path):
    assert "official" in error_of(msspose_says("evaluate", model, "--data", "people:plain", "--rule", "offical"))
    save_model(PoseNet(LSP, **NETWORK), tmp_path, size=64)
    assert "choose data of lsp" in error_of(msspose_says("evaluate", tmp_path, "--data", "people:plain"))


def test_predict_draws_and_tells_the_joints(msspose_says, model, picture, tmp_path):
    code, out, _ = msspose_says("predict", model, picture, "--box", "10,10,100,110", "--out", tmp_path / "new" / "pose.png", "--json")
    told = json.loads(out)
    assert code == 0 and list(told["joints"]) == list(MPII.joints) and told["box"] == [10, 10, 100, 110]
    before, after = iio.imread(picture), iio.imread(tmp_path / "new" / "pose.png")
    assert before.shape == after.shape and (before != after).any()
    code, out, _ = msspose_says("predict", model, picture, "--out", tmp_path / "pose.jpg")
    assert code == 0 and "left_wrist" in out and "drawn into" in out


@pytest.mark.parametrize("box, said", [
    ("500,10,50,50", "outside"), ("-400,10,50,50", "outside"), ("1,2,3", "LEFT,TOP,WIDTH,HEIGHT"),
    ("1,2,x,4", "LEFT,TOP,WIDTH,HEIGHT"), ("1,2,0,4", "positive"), ("1,2,nan,4", "positive")])
def test_predict_refuses_a_box(msspose_says, model, picture, tmp_path, box, said):
    assert said in error_of(msspose_says("predict", model, picture, "--box", box, "--out", tmp_path / "pose.png"))
    assert not (tmp_path / "pose.png").exists()


def test_predict_refuses_pictures_that_are_none(msspose_says, model, picture, tmp_path):
    whole = picture.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "text.jpg").write_text("a letter")
    for name, said in (("cut.jpg", "truncated"), ("text.jpg", "not a picture"), ("none.jpg", "no such picture"), (".", "folder")):
        assert said in error_of(msspose_says("predict", model, tmp_path / name, "--out", tmp_path / "pose.png"))


def test_predict_refuses_an_output_it_cannot_write(msspose_says, model, picture, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_of(msspose_says("predict", model, picture, "--out", tmp_path / "file" / "pose.png"))
    assert "ends in .png" in error_of(msspose_says("predict", model, picture, "--out", tmp_path / "pose.xyz"))


def test_a_model_of_another_architecture_is_refused(msspose_says, picture, tmp_path):
    network = PoseNet(**NETWORK)
    network.settings["width"] = 16
    save_model(network, tmp_path, size=64)
    assert "another architecture" in error_of(msspose_says("predict", tmp_path, picture, "--out", tmp_path / "pose.png"))


def test_debug_shows_where_an_error_came_from(capsys, tmp_path):
    with pytest.raises(FileNotFoundError): main(["predict", str(tmp_path), "x.jpg", "--debug"])


def test_train_on_photographs_through_the_command_line(msspose_says, real_data, tmp_path, monkeypatch):
    monkeypatch.setitem(LSPET_SPLITS, "train", (1, 40))
    monkeypatch.setitem(LSPET_SPLITS, "val", (9001, 9010))
    settings = "width=8 depth=2 batch_size=8 stage1.epochs=1 seconds=0 snapshots=1 threads=1".split()
    code, out, err = msspose_says("train", "--data", real_data / "lspet", "--out", tmp_path / "run", *settings)
    assert code == 0, err
    assert "lspet 0." in out and "PCK@0.2" in out
    _, skeleton, about = load_model(tmp_path / "run")
    assert skeleton == LSP and len(about["skeleton"]["joints"]) == 14 and about["pictures"] == 40
    photograph = real_data / "lspet" / "images" / "im09001.jpg"
    code, out, _ = msspose_says("predict", tmp_path / "run", photograph, "--out", tmp_path / "pose.png")
    assert code == 0 and iio.imread(tmp_path / "pose.png").shape == iio.imread(photograph).shape
    assert torch.tensor(iio.imread(tmp_path / "pose.png") != iio.imread(photograph)).any()
