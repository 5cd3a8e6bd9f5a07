"The comparison of components: its people are the generated ones, it counts as `evaluate` does, its intervals are paired."
import importlib.util

import numpy as np
import pytest
import torch
from conftest import ROOT

from msspose.crops import Loader
from msspose.evaluation import Truth, evaluate
from msspose.people import People
from msspose.skeleton import MPII


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


def test_stored_people_are_the_generated_ones(tool, tmp_path):
    stored, people = tool.StoredPeople(tmp_path / "people", "standard", 150), People("standard")
    for rows in (range(126, 132), torch.tensor([3, 149])):
        kept, made = stored.batch(rows), people.batch(rows)
        assert (kept.images - made.images).abs().max() <= 0.5 / 255 + 1e-6
        others = made.others.shape[1]
        for name in ("joints", "visible", "reference"): torch.testing.assert_close(getattr(kept, name), getattr(made, name))
        torch.testing.assert_close(kept.others[:, :others], made.others)
        assert not kept.others_visible[:, others:].any()
    again = tool.StoredPeople(tmp_path / "people", "standard", 150)     # painted once
    assert torch.equal(again.batch([7]).images, stored.batch([7]).images)


def test_it_counts_as_evaluate_does(tool):
    generator = torch.Generator().manual_seed(0)
    people = People("standard", "val").batch(range(40))
    truth = Truth(people.joints, people.visible * torch.randint(0, 2, people.visible.shape, generator=generator), people.reference, MPII)
    predicted = people.joints + 3 * torch.randn(people.joints.shape, generator=generator)
    found, count = tool.correct(predicted, truth)
    assert 100 * found.sum() / count.sum() == pytest.approx(evaluate(predicted, truth).total)


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
    stored = tool.StoredPeople(tmp_path / "people", "standard", 24)
    first, *others = (torch.cat([b.joints for b in Loader(stored, 4, seed, epoch_size=48).epoch(0)]) for seed in (0, 1, 2))
    assert len(first) == 48 and all(torch.equal(first, other) for other in others)
