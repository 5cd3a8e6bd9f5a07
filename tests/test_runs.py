"The folder of a training: files that are whole or not there, damage that is noticed, models that are refused, a lock."
import errno
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kill_training import START
from safetensors.torch import save_file

from msspose.data import replacing
from msspose.regression import PoseNet
from msspose.runs import BEFORE, BEST, CHECKPOINT, MODEL, RunFolder, environment, load_model, load_tensors, save_model, save_tensors

NETWORK = dict(n_stacks=1, width=8, depth=2)
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def few(number: float) -> dict: return {"weights": torch.full((3, 2), float(number)), "count": torch.tensor(number)}


def flipped(content: bytes, place: int) -> bytes:
    "One bit of it is another."
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1:]


# files

@given(st.lists(st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 4), max_size=3)), max_size=5),
       st.dictionaries(st.text(), st.floats()))
def test_tensors_come_back_bit_for_bit(tmp_path_factory, kinds, about):
    tensors = {f"{i} of ä": torch.randint(0, 2, shape).to(dtype) for i, (dtype, shape) in enumerate(kinds)}
    file = tmp_path_factory.mktemp("file") / "some.safetensors"
    save_tensors(file, tensors, {"seen": about})
    found, told = load_tensors(file)
    assert found.keys() == tensors.keys() and json.dumps(told) == json.dumps({"seen": about})
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape and torch.equal(found[name], value)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    file = tmp_path_factory.mktemp("stored") / "some.safetensors"
    save_tensors(file, few(5), {"epoch": 3})
    return file, file.read_bytes()


def test_a_bit_that_flips_does_not_change_the_tensors_unnoticed(stored):
    file, content = stored
    for place in range(len(content)):
        file.write_bytes(flipped(content, place))
        try: tensors, _ = load_tensors(file)
        except ValueError as error: assert "damaged" in str(error)
        else: assert tensors.keys() == few(5).keys() and all(torch.equal(tensors[name], value) for name, value in few(5).items())


def test_a_bit_that_flips_anywhere_in_a_checkpoint_leads_to_the_one_before(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    for number in (1, 2): folder.save_checkpoint(few(number), {"number": number})
    content = (tmp_path / CHECKPOINT).read_bytes()
    for place in range(len(content)):
        (tmp_path / CHECKPOINT).write_bytes(flipped(content, place))
        assert folder.load_checkpoint()[1] == {"number": 1}, f"byte {place} of {content}"
    assert capsys.readouterr().err.count("going on from the checkpoint before it") == len(content)


@given(st.data())
def test_a_file_that_is_cut_off_is_noticed(stored, data):
    file, content = stored
    file.write_bytes(content[:data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match="damaged, or not a safetensors file"): load_tensors(file)


def test_a_file_without_a_check_sum_is_read(tmp_path):
    save_file(few(5), tmp_path / "old.safetensors", metadata={"msspose": json.dumps({"epoch": 3})})
    assert load_tensors(tmp_path / "old.safetensors")[1] == {"epoch": 3}
    with pytest.raises(FileNotFoundError, match="no such file"): load_tensors(tmp_path / "none.safetensors")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = save_tensors(tmp_path / "some.safetensors", few(1), {})
    def full(self, content):
        self.open("wb").write(content[:len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"some.safetensors: cannot be written \(No space left"): save_tensors(file, few(2), {})
    assert load_tensors(file)[0]["count"] == 1 and os.listdir(tmp_path) == ["some.safetensors"]


def on_a_small_disk(folder: Path, tell) -> None:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try: RunFolder(folder).save_checkpoint({"weights": torch.ones(10_000)}, {})
    except OSError as error: tell.send(str(error))


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot limit the size of a file")
def test_a_disk_that_is_full_leaves_the_last_checkpoint(tmp_path):
    RunFolder(tmp_path).save_checkpoint(few(1), {})
    hear, tell = START.Pipe(duplex=False)
    process = START.Process(target=on_a_small_disk, args=(tmp_path, tell))
    process.start(); tell.close()
    assert "checkpoint-next.safetensors: cannot be written (File too large)" in hear.recv()
    process.join()
    assert RunFolder(tmp_path).load_checkpoint()[0]["count"] == 1 and os.listdir(tmp_path) == [CHECKPOINT]


# models

@pytest.fixture
def folder(tmp_path):
    save_model(PoseNet(**NETWORK), tmp_path, size=64)
    return tmp_path


def rewrite(folder, change):
    "Store the same file with changed weights or a changed description."
    weights, about = load_tensors(folder / MODEL)
    change(about, weights)
    save_tensors(folder / MODEL, weights, about)


def test_a_model_comes_back_with_what_was_said_about_it(folder):
    model, skeleton, about = load_model(folder)
    expected = PoseNet(**NETWORK)
    assert skeleton == expected.skeleton and about["size"] == 64 and not model.training and model.settings == expected.settings
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model here"): load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="no model here"): load_model(tmp_path / "nowhere")


def test_a_damaged_model_is_refused(folder):
    content = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(content[:-100])
    with pytest.raises(ValueError, match="damaged"): load_model(folder)
    (folder / MODEL).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="damaged: its content does not match its check-sum"): load_model(folder)


def test_weights_of_somebody_else_are_refused(tmp_path):
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / MODEL)
    with pytest.raises(ValueError, match="was not made by msspose"): load_model(tmp_path)


@pytest.mark.parametrize("change, said", [
    (lambda about, weights: about.update(architecture="HRNet"), "holds a HRNet"),
    (lambda about, weights: about["network"].update(width=16), r"is \(\d+.*expected \(\d+"),
    (lambda about, weights: about["network"].update(n_stacks=2), "is missing"),
    (lambda about, weights: weights.update(extra=torch.zeros(1)), "extra is not part of it")])
def test_another_architecture_is_refused_by_name(folder, change, said):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=said): load_model(folder)


def test_a_model_of_another_version_is_opened_and_what_is_unknown_is_said(folder, capsys):
    rewrite(folder, lambda about, weights: about["network"].update(attention="new") or about["network"].pop("see_image"))
    model, *_ = load_model(folder)
    assert model.settings["see_image"] and "unknown here, and left out: attention" in capsys.readouterr().err


# the folder

def test_a_folder_is_open_once(tmp_path):
    with RunFolder(tmp_path / "run"):
        with pytest.raises(OSError, match="another training is running in this folder; wait for it, or pass another --out"):
            RunFolder(tmp_path / "run").__enter__()
    with RunFolder(tmp_path / "run") as again: assert sorted(os.listdir(again.path)) == [".lock"]


def keep_open(folder: Path, tell) -> None:
    with RunFolder(folder):
        tell.send("open")
        sys.stdin = None
        while True: tell.poll(60)


def test_a_process_that_is_killed_leaves_no_lock_behind(tmp_path):
    hear, tell = START.Pipe()
    process = START.Process(target=keep_open, args=(tmp_path, tell))
    process.start()
    assert hear.recv() == "open"
    with pytest.raises(OSError, match="another training is running"): RunFolder(tmp_path).__enter__()
    process.kill(); process.join()
    with RunFolder(tmp_path) as mine: assert mine.path == tmp_path


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="here everything can be written")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write to this output folder .*; pass another with --out"): RunFolder(tmp_path).__enter__()


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to this output folder"): RunFolder(tmp_path / "file" / "run").__enter__()


def test_a_folder_that_fails_without_a_reason_says_what_it_can(tmp_path, monkeypatch):
    def fails(file): raise OSError("no room in the inn")     # some file systems give no number, and so no text of the system
    monkeypatch.setattr("msspose.runs.replacing", fails)
    with pytest.raises(OSError, match="cannot write to this output folder .no room in the inn.; pass"): RunFolder(tmp_path).__enter__()


def test_a_damaged_description_is_an_error_with_a_remedy(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read("config.json") is None
    folder.write("config.json", {"seed": 3})
    assert folder.read("config.json") == {"seed": 3}
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(ValueError, match=r"config.json: damaged .*--restart"): folder.read("config.json")


def test_clearing_leaves_what_is_not_of_a_training(tmp_path):
    folder = RunFolder(tmp_path)
    made = [MODEL, BEST, CHECKPOINT, BEFORE, "config.json", "environment.json", "metrics.jsonl", "report.md", "result.json",
            "frames/0001.png"]
    for name in [*made, "notes.txt", "frames/mine.gif"]: folder.write(name, "x")
    folder.clear()
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {"notes.txt", str(Path("frames/mine.gif"))}


# checkpoints

class Killed(BaseException): "What SIGKILL would do: nobody catches it, and nobody tidies up."


def dying(monkeypatch, at: int) -> None:
    "The process ends within the so-manyth operation on a file: a file is half written, or a name is not yet changed."
    count, write, rename, unlink = iter(range(100)), Path.write_bytes, Path.replace, Path.unlink
    dead = []
    def die():
        if next(count) != at: return False
        dead.append(True)
        return True
    def write_half(self, content):
        if die():
            write(self, content[:len(content) // 2])
            raise Killed
        return write(self, content)
    def rename_not(self, to):
        if die(): raise Killed
        return rename(self, to)
    monkeypatch.setattr(Path, "write_bytes", write_half)
    monkeypatch.setattr(Path, "replace", rename_not)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None if dead else unlink(self, missing_ok))


@pytest.mark.parametrize("at", range(4))
def test_whoever_dies_during_a_save_has_one_checkpoint_that_is_whole(tmp_path, at, capsys):
    folder = RunFolder(tmp_path)
    for number in (1, 2): folder.save_checkpoint(few(number), {"number": number})
    with pytest.MonkeyPatch.context() as patched:
        dying(patched, at)
        with pytest.raises(Killed): folder.save_checkpoint(few(3), {"number": 3})
    assert folder.load_checkpoint()[1]["number"] == 2 and capsys.readouterr().err == ""
    folder.save_checkpoint(few(4), {"number": 4})
    assert folder.load_checkpoint()[1]["number"] == 4
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("checkpoint")) == [BEFORE, CHECKPOINT]


def test_the_checkpoint_before_a_damaged_one_is_used_and_that_is_said(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    assert folder.load_checkpoint() is None
    for number in (1, 2): folder.save_checkpoint(few(number), {"number": number})
    assert folder.load_checkpoint()[1]["number"] == 2 and capsys.readouterr().err == ""
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:-1])
    tensors, about = folder.load_checkpoint()
    assert about["number"] == 1 and tensors["count"] == 1
    assert f"{CHECKPOINT}: damaged" in (said := capsys.readouterr().err) and f"going on from the checkpoint before it, {BEFORE}" in said
    (tmp_path / BEFORE).write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged.*there is no other checkpoint to go on from: start anew with --restart"):
        folder.load_checkpoint()


def test_readers_see_the_old_file_or_the_new_one(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write("metrics.jsonl", "old\n")
    with pytest.raises(RuntimeError), replacing(tmp_path / "metrics.jsonl") as aside:
        aside.write_text("ne")
        assert (tmp_path / "metrics.jsonl").read_text() == "old\n"
        raise RuntimeError
    assert (tmp_path / "metrics.jsonl").read_text() == "old\n" and os.listdir(tmp_path) == ["metrics.jsonl"]


def test_the_environment_is_versions_and_hardware():
    found = environment(3)
    assert found["versions"]["torch"] == torch.__version__ and found["processes"] == 3 and found["cores"] == os.cpu_count()
    assert {"msspose", "python", "numpy", "accelerate"} <= found["versions"].keys()
    assert {"system", "machine", "processor", "gpus"} <= found.keys()
    assert json.loads(json.dumps(found)) == found
