"The comparison of components: one component at a time, the same people for all, paired intervals."
import importlib.util

import numpy as np
import pytest
import torch
from conftest import ROOT

from msspose.crops import Loader
from msspose.people import People


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("compare_components", ROOT / "tools" / "compare_components.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_component_is_alone_on_top_of_the_hourglass(tool):
    changed = {arm: {name for name, value in switches.items() if value != tool.PLAIN.get(name, 1)} for arm, switches in tool.ARMS.items()}
    assert changed["hourglass"] == set() and all(len(changed[arm]) == 1 for arm in list(tool.ARMS)[1:5])
    assert changed["all four"] == {"multi_scale", "regression", "structure", "masking"}


def files_of(folder, found: dict, count) -> dict:
    files = {}
    for arm, seeds in found.items():
        for seed, hits in enumerate(seeds):
            file = folder / f"{arm}-{seed}.npz"
            np.savez(file, found=hits, count=count, seconds=10.0, parameters=5)
            files.setdefault(arm, []).append(file)
    return files


def test_intervals_are_paired(tool, tmp_path):
    rng, count = np.random.default_rng(1), np.full(500, 14)
    base = [rng.integers(0, 14, 500) for _ in range(3)]
    found = {"hourglass": base, "one more": [hits + 1 for hits in base], "noise": [hits + rng.integers(-1, 2, 500) for hits in base]}
    arms = tool.summary(files_of(tmp_path, found, count), 64)["arms"]
    assert arms["hourglass"]["difference"] == 0 and arms["hourglass"]["interval"] == [0, 0]
    assert arms["one more"]["difference"] == pytest.approx(100 / 14, abs=0.01)
    assert arms["one more"]["interval"] == pytest.approx([100 / 14] * 2, abs=0.01)      # the same for everybody: nothing left to chance
    low, high = arms["noise"]["interval"]
    assert low < arms["noise"]["difference"] < high and high - low < 1.5
    assert arms["hourglass"]["spread"] == pytest.approx(np.std([100 * hits.mean() / 14 for hits in base], ddof=1), abs=0.01)


def test_every_seed_sees_the_same_people_in_the_same_order(tool, tmp_path):
    stored = tool.StoredPeople(People("standard"), tmp_path / "people", 24)
    first, *others = (torch.cat([b.joints for b in Loader(stored, 4, seed, epoch_size=48).epoch(0)]) for seed in (0, 1, 2))
    assert len(first) == 48 and all(torch.equal(first, other) for other in others)
