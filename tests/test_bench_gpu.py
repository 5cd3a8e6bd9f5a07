"The measurement on a GPU, tried without one: it says so, and a tiny version of everything has the right shape."
import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from msspose.people import People

SCRIPT = ROOT / "tests" / "bench" / "gpu.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module      # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def call(*arguments: str, **more) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, cwd=ROOT, timeout=600,
                          env=os.environ | more)


def test_without_a_gpu_it_says_so(tmp_path):
    done = call("--out", str(tmp_path / "gpu.json"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no CUDA GPU was found: nothing was measured") and done.stdout.count("\n") == 1
    assert not (tmp_path / "gpu.json").exists()


def test_a_tiny_version_measures_everything(bench, tmp_path):
    file = tmp_path / "new" / "gpu.json"
    done = call("--cpu", "--each", "0.1", "--out", str(file), TORCH_COMPILE_DISABLE="1")     # a compiler would take minutes
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text(encoding="utf-8"))
    assert {"device", "torch", "size", "goals", "bandwidth", "arithmetic", "roofs", "rows"} <= set(result)
    assert set(result["roofs"]) == {"2", "1"} and result["roofs"]["2"]["bytes"] > result["roofs"]["1"]["bytes"]
    assert [row["name"] for row in result["rows"]] == [case.name for case in bench.cases(True, [])]
    assert {(row["source"], row["stage"], row["compiled"]) for row in result["rows"]} == {("store", 1, False), ("people", 3, True)}
    for row in result["rows"]:
        assert "error" not in row, row
        assert set(row["parts"]) == set(bench.PARTS) and all(value >= 0 for value in row["parts"].values())
        assert sum(row["parts"].values()) == pytest.approx(row["seconds_per_step"], rel=0.02)
        assert min(row["parts"][part] for part in ("forward", "backward", "optimiser")) > 0
        assert row["people_per_second"] * row["seconds_per_step"] == pytest.approx(row["batch_size"], rel=1e-6)
        assert row["planned_memory"] > 0 and row["peak_memory"] is None
    assert bench.table(result) in done.stdout


def test_what_fails_becomes_a_row(bench):
    rows = [{"name": "8 stacks", "stacks": 8, "stage": 1, "error": "RuntimeError: no kernel"}]
    text = bench.table({"rows": rows})
    assert "RuntimeError: no kernel" in text and len({line.count("|") for line in text.splitlines()}) == 1
    assert bench.verdicts({"rows": rows, "device": "NVIDIA H200"})[0] == \
        "8 stacks: not measured; the goal on an H200 is 585: missed"
    assert "another GPU" in bench.verdicts({"rows": [rows[0] | {"people_per_second": 999} | {}], "device": "other"})[0]
    assert bench.one_line("it failed in /some/folder/file.cu, line 3\n  C:\\a\\b | x") == "it failed in ..., line 3 ... / x"
    asked = {"stacks": 0, "source": "store"}        # a network of no stacks cannot be made
    assert "error" in bench.answer_one(asked, True, 0.1)
    assert bench.ask(["--cpu", "--case", json.dumps({"unknown": 1})], 60)["error"].startswith("TypeError")
    assert bench.ask(["--cpu", "--case", json.dumps(asked)], 0.01) == {"error": "stopped after 0 s"}


def test_the_faster_way_serves_the_rest(bench):
    rows = [{"stacks": 8, "source": "store", "compiled": compiled, "people_per_second": 400 + 200 * compiled} for compiled in (False, True)]
    assert [case.compiled for case in bench.cases(False, rows) if case.stacks == 8] == [False, True, True, True, True, True]
    rows[1] = {"stacks": 8, "source": "store", "compiled": True, "error": "stopped after 240 s"}
    assert not any(case.compiled for case in bench.cases(False, rows)[4:])


def test_a_batch_that_does_not_fit_is_followed_by_a_smaller_one(bench, monkeypatch):
    def attempt(case, config, source, seconds):
        if config.batch_size > 48: raise torch.OutOfMemoryError("too large")
        if config.batch_size > 32: raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        if case.stacks > 1: raise RuntimeError("something else")
        return {"batch_size": config.batch_size}

    monkeypatch.setattr(bench, "attempt", attempt)
    assert bench.measure(bench.Case(1, "people"), bench.TINY, bench.SIZES, 1) == {"batch_size": 32, "too_large": [128, 96, 64, 48]}
    assert "error" in bench.measure(bench.Case(1, "people"), bench.TINY, (128, 64), 1)
    with pytest.raises(RuntimeError, match="something else"): bench.measure(bench.Case(2, "people"), bench.TINY, bench.SIZES, 1)


def test_a_step_of_the_original_network_moves_two_and_a_half_gigabytes(bench):
    (eight, operations), (two, _) = (bench.demand(k, bench.FULL) for k in (8, 2))
    assert eight == pytest.approx(2.5e9, rel=0.03) and two == pytest.approx(0.83e9, rel=0.02)     # 585 and 1,770 are 40 % of these roofs
    assert operations == pytest.approx(6 * 28.14e9, rel=0.01)


def test_the_store_holds_the_generated_people(bench):
    store = bench.store_of_people(32, torch.device("cpu"), False, 8, 24)
    people = People("standard", "train", 56, margin=56 / 32).batch(range(8))
    batch = store.batch(range(16, 24))
    assert len(store) == 24
    torch.testing.assert_close(batch.joints * 1.0, (people.joints - 12) * (batch.visible > 0)[..., None])
    assert (batch.images - people.images[:, :, 12:44, 12:44]).abs().max() <= 0.5 / 255 + 1e-6
    for mine, theirs, seen in zip(batch.others, people.others, people.others_visible, strict=True):
        there = (seen > 0).any(1)
        torch.testing.assert_close(mine[:int(there.sum())], theirs[there] - 12)
