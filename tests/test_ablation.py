"Ablation: the same people for all arms, counts as `evaluate` has them, intervals that hold what they promise, runs that go on."
import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from multiprocessing import active_children
from threading import Thread

import numpy as np
import pytest
import torch
from remembered import as_remembered

from conftest import ROOT

from msspose import cli
from msspose.ablation import (
    ABLATION,
    STUDIES,
    Ablation,
    Difference,
    Job,
    PaintedPeople,
    ablate,
    difference,
    joints_found,
    scheduled,
    smallest_seen,
    sources_of,
    _seen,
)
from msspose.checks import EXERCISES, judge
from msspose.crops import Loader
from msspose.data import write_people
from msspose.evaluation import RULES, Truth, evaluate
from msspose.people import SETS, SPLITS, Batch, People
from msspose.regression import LADDER
from msspose.runs import CHECKPOINT
from msspose.skeleton import MPII
from msspose.training import check_config

# ---------------------------------------------------------------------------------------------------------------- people


def test_painted_people_are_the_generated_ones(tmp_path):
    painted, people = PaintedPeople(People("standard"), tmp_path, 150), People("standard")
    order = painted._order(0)
    for rows in ([126, 3, 149], range(60, 70)):
        kept, made = painted.batch(rows), people.batch(order[list(rows)].tolist())
        assert (kept.images - made.images).abs().max() <= 0.5 / 255 + 1e-6
        others = made.others.shape[1]
        for name in ("joints", "visible", "reference"): torch.testing.assert_close(getattr(kept, name), getattr(made, name))
        torch.testing.assert_close(kept.others[:, :others], made.others)
        torch.testing.assert_close(kept.boxes[:, :1 + others], made.boxes)
        assert not kept.others_visible[:, others:].any()


def test_people_are_painted_once(tmp_path, monkeypatch):
    first = PaintedPeople(People("standard"), tmp_path, 20).batch([7]).images
    monkeypatch.setattr(People, "batch", lambda *_: pytest.fail("painted again"))
    assert torch.equal(PaintedPeople(People("standard"), tmp_path, 20).batch([7]).images, first)


def test_every_seed_sees_the_same_people_in_its_own_order(tmp_path):
    painted = PaintedPeople(People("plain"), tmp_path, 24)
    seen = [torch.cat([b.joints for b in Loader(painted, 4, seed, epoch_size=48).epoch(0)]) for seed in (0, 1)]
    assert len(seen[0]) == 48 and not torch.equal(*seen)
    assert torch.equal(*(x.flatten(1).sum(1).sort().values for x in seen))


def test_people_of_a_test_split_stay_in_their_order(tmp_path):
    val = PaintedPeople(People("plain", "val", 16), tmp_path)
    assert len(val) == 1000
    torch.testing.assert_close(val.batch([5, 900]).joints, People("plain", "val", 16).batch([5, 900]).joints)


# ---------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("rule", RULES)
def test_joints_are_counted_as_evaluate_does(rule):
    generator = torch.Generator().manual_seed(0)
    people = People("standard", "val").batch(range(60))
    truth = Truth(people.joints, people.visible * torch.randint(0, 2, people.visible.shape, generator=generator), people.reference, MPII)
    predicted = people.joints + 3 * torch.randn(people.joints.shape, generator=generator)
    found, count = joints_found(predicted, truth, rule)
    report = evaluate(predicted, truth, rule)
    assert len(found) == report.n
    if RULES[rule].pooled: assert 100 * found.sum() / count.sum() == pytest.approx(report.total)
    else: assert (found <= count).all() and 0 < found.sum() < count.sum()


# ------------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("arm, changes", list(STUDIES["ladder"].items()) + list(STUDIES["structure"].items()))
def test_every_arm_has_as_many_epochs_and_is_sound(arm, changes):
    config = scheduled(replace(ABLATION, **changes), 8)
    check_config(config)
    assert [config.stage1.epochs, config.stage2.epochs, config.stage3.epochs] == ([4, 2, 2] if config.regression else [6, 0, 2])


def test_the_ladder_takes_one_step_at_a_time():
    rungs = list(LADDER.values())
    for before, after in zip(rungs, rungs[1:], strict=False): assert sum(before[name] != after[name] for name in after) == 1
    assert list(STUDIES["ladder"])[:5] == list(LADDER)


def test_too_few_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="3 epochs.*more pictures"): scheduled(ABLATION, 3)


# ------------------------------------------------------------------------------------------------------------ statistics


def drawn(dice, seeds, people, effect, seed_sd, person_sd, rest_sd):
    "Changes of a made-up study, in joints of ten each: 10 joints are 100 points of a person."
    points = (effect + seed_sd * dice.normal(size=(seeds, 1)) + person_sd * dice.normal(size=people)
              + rest_sd * dice.normal(size=(seeds, people)))
    return points / 10, np.full(people, 10)


def test_what_is_the_same_for_everybody_has_no_interval():
    found = difference(np.ones((3, 50)), np.full(50, 10))
    assert (found.points, found.low, found.high) == pytest.approx((10, 10, 10)) and found.per_seed == pytest.approx((10, 10, 10))


def test_the_parts_of_the_variance_are_found():
    dice = np.random.default_rng(0)
    parts = np.array([[f.seed_sd, f.person_sd, f.rest_sd] for f in (difference(*drawn(dice, 20, 400, 1, 2, 8, 15)) for _ in range(100))])
    assert np.sqrt((parts ** 2).mean(0)) == pytest.approx([2, 8, 15], rel=0.1)


@pytest.mark.parametrize("seed_sd, person_sd, rest_sd", [(1, 0, 20), (0, 10, 20), (0.3, 5, 20), (2, 10, 10), (0, 0, 20)])
@pytest.mark.parametrize("seeds", [3, 8])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds, seed_sd, person_sd, rest_sd):
    dice, held = np.random.default_rng(1), []
    for _ in range(600):
        found = difference(*drawn(dice, seeds, 300, 0.7, seed_sd, person_sd, rest_sd))
        held.append(found.low <= 0.7 <= found.high)
    assert np.mean(held) > 0.925


def test_an_interval_without_seeds_is_too_narrow():
    "The lesson of the chapter: people alone promise 95 % and hold far less, when seeds differ."
    dice, held = np.random.default_rng(2), []
    for _ in range(300):
        found = difference(*drawn(dice, 1, 300, 0.7, 2, 0, 20))
        held.append(found.low <= 0.7 <= found.high)
    assert np.mean(held) < 0.8


def test_a_total_is_a_ratio():
    "People with more joints count for more, and an arm that finds a tenth more of everybody's joints has no spread."
    count = np.array([2, 14, 10, 4])
    found = difference(np.stack([count / 10, count / 10]), count)
    assert found.points == pytest.approx(10) and found.high - found.low == pytest.approx(0, abs=1e-6)
    one = difference(np.array([[0, 7, 0, 0]] * 2), count)
    assert one.points == pytest.approx(100 * 7 / 30)


@pytest.mark.parametrize("seeds, people", [(3, 500), (10, 200), (1, 800)])
def test_the_smallest_difference_is_seen_as_often_as_it_says(seeds, people):
    spread = Difference(0, 0, 0, (), 0, seed_sd=0.0 if seeds == 1 else 0.8, person_sd=6, rest_sd=15)
    effect, dice, seen = smallest_seen(spread, people, seeds), np.random.default_rng(3), []
    for _ in range(600):
        seen.append(difference(*drawn(dice, seeds, people, effect, spread.seed_sd, spread.person_sd, spread.rest_sd)).low > 0)
    assert np.mean(seen) == pytest.approx(0.8, abs=0.06)


def test_more_people_and_more_seeds_show_less():
    spread = Difference(0, 0, 0, (), 0, seed_sd=0.3, person_sd=6, rest_sd=15)
    seen = np.array([[smallest_seen(spread, people, seeds) for people in (200, 2000, 20000)] for seeds in (3, 10, 30)])
    assert (np.diff(seen, axis=0) < 0).all() and (np.diff(seen, axis=1) < 0).all()
    assert smallest_seen(spread, 10 ** 9, 10) > 0.2      # people without end do not make up for few seeds


# --------------------------------------------------------------------------------------------------------------- results


def made_up(seeds=3, people=200):
    dice = np.random.default_rng(4)
    base = dice.integers(4, 12, (seeds, people))
    found = {name: np.stack([base, base + 1, base + dice.integers(-1, 2, base.shape)]) for name in ("plain", "standard")}
    about = {"study": "test", "data": "people:standard", "pictures": 64, "rule": "official"}
    arms = {name: {"changes": {}, "parameters": 5, "seconds": 1.0} for name in ("first", "one more", "noise")}
    return Ablation(about, arms, found, {name: np.full(people, 14) for name in found})


def test_results_come_back_as_they_were_saved(tmp_path):
    study = made_up()
    back = Ablation.load(study.save(tmp_path / "study.json"))
    assert back.to_dict() == study.to_dict() and repr(back) == repr(study) == "Ablation(test: 3 arms, 3 seeds, plain, standard)"
    for other in ("[]", "{", '{"about": {}}', (tmp_path / "study.json").read_text().replace('"found"', '"lost"')):
        (tmp_path / "other.json").write_text(other)
        with pytest.raises(ValueError, match="other.json: not what msspose ablate has saved"): Ablation.load(tmp_path / "other.json")


def test_differences_are_paired_and_tables_say_against_what():
    study = made_up()
    assert str(study.difference("first", "one more", "plain")) == "+7.14 [+7.14, +7.14]"
    assert study.difference("one more", "first", "plain").points == pytest.approx(-100 / 14)
    table = study.to_markdown()
    assert "| *against first* | +7.14 [+7.14, +7.14] | +7.14 [+7.14, +7.14] |" in table
    assert "*against one more*" in study.to_markdown("before") and "*against one more*" not in table
    told = json.loads(json.dumps(study.to_dict()))["tests"]["plain"]
    assert told["one more"]["against first"]["points"] == pytest.approx(100 / 14)
    assert told["noise"]["against before"]["points"] == pytest.approx(study.difference("one more", "noise", "plain").points)
    with pytest.raises(ValueError, match="no arm is called 'third': there are first, one more, noise"):
        study.difference("first", "third", "plain")


# ------------------------------------------------------------------------------------------------------------------ runs

SMALL = replace(ABLATION, size=32, width=8, depth=2, data="people:plain")
ARMS = {name: LADDER[name] for name in ("hourglass", "masking")}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    return folder, ablate(folder, ARMS, SMALL, pictures=256, seeds=1, tests=("plain",), study="small", progress=False)


def test_every_arm_is_trained_and_measured(done):
    folder, study = done
    assert study.found["plain"].shape == (2, 1, 2000) and study.count["plain"].shape == (2000,)
    assert study.arms["masking"]["parameters"] > study.arms["hourglass"]["parameters"]
    for arm in ARMS:
        rows = [json.loads(row) for row in (folder / f"{arm}-0" / "metrics.jsonl").read_text().splitlines()]
        assert rows[-1]["pictures"] == 256 and len(rows) == 8
    assert "hourglass" in (folder / "ablation.md").read_text()
    assert Ablation.load(folder / "ablation.json").to_dict() == study.to_dict()
    assert study.about == {"study": "small", "data": "people:plain", "pictures": 256, "rule": "official",
                           "torch": torch.__version__.partition("+")[0]}
    seconds = {name: json.loads(str(np.load(folder / f"{name}-0" / "found.npz")["about"]))["seconds"] for name in ARMS}
    told = {name: {key: value for key, value in arm.items() if key != "seconds"} for name, arm in study.arms.items()}
    as_remembered("arms", told | {"of all": json.loads((folder / "study.json").read_text())})
    assert {name: arm["seconds"] for name, arm in study.arms.items()} == seconds


def test_how_far_a_training_is_can_be_seen_from_outside(done, tmp_path):
    folder, _ = done
    job = Job("masking", SMALL, tmp_path, tmp_path, 999)
    assert _seen(job) == 0                                          # not begun
    (tmp_path / "metrics.jsonl").write_text("")
    assert _seen(job) == 0
    shutil.copy(folder / "masking-0" / "metrics.jsonl", tmp_path)
    assert _seen(job) == 256                                        # the last row of its log
    job.scores.touch()
    assert _seen(job) == 999                                        # done


def test_what_is_done_is_not_done_again(done, monkeypatch):
    folder, study = done
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*/found.npz")}
    monkeypatch.setattr("msspose.ablation._answer", None)
    again = ablate(folder, ARMS, SMALL, pictures=256, seeds=1, tests=("plain",), study="small", progress=False)
    assert again.to_dict() == study.to_dict() and before == {file: file.stat().st_mtime_ns for file in before}


@pytest.mark.parametrize("change, message", [
    (dict(pictures=512), "other pictures"), (dict(config=replace(SMALL, sigma=2.0)), "other settings"),
    (dict(tests=("plain", "crowd")), "other tests"), (dict(tests=("people",)), "no set of people is called 'people'"),
    (dict(arms=ARMS | {"masking": LADDER["structure"]}), "masking-0: holds a training with masking=True, not False"),
    (dict(arms={"one": {}}), "1 arms"), (dict(seeds=0), "seeds=0"), (dict(arms=ARMS | {"x": {"alpha": 1}}), "alpha is no setting")])
def test_what_does_not_fit_is_said(done, change, message):
    given = dict(arms=ARMS, config=SMALL, pictures=256, seeds=1, tests=("plain",), progress=False) | change
    with pytest.raises(ValueError, match=message): ablate(done[0], **given)


def test_an_arm_is_measured_on_all_sets_of_people_or_on_those_that_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(SPLITS, "test", 3)
    for asked, found in (((), list(SETS)), (("crowd", "plain"), ["crowd", "plain"])):
        painted, sets = sources_of("people:standard", 16, tmp_path, 5, asked)
        assert len(painted.batch(range(5))) == 5 and list(sets) == found and all(len(people) == 3 for people in sets.values())


def test_any_data_set_will_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MSSPOSE_STORES", str(tmp_path / "stores"))
    monkeypatch.setenv("MSSPOSE_DATA", str(tmp_path))             # where every process, also an older one, finds the data
    for split, count in (("train", 40), ("val", 12)): write_people(tmp_path / "few_people", "plain", split, count, size=32)
    config = replace(SMALL, data="few_people")
    study = ablate(tmp_path / "runs", ARMS, config, pictures=160, seeds=1, progress=False)
    assert list(study.found) == ["val"] and study.found["val"].shape == (2, 1, 12)
    rows = [json.loads(row) for row in (tmp_path / "runs" / "masking-0" / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == [1, 1, 2, 3] and rows[-1]["pictures"] == 160
    assert study.about["study"] == "ablation" and study.about["data"] == "few_people"
    with pytest.raises(ValueError, match="sets of generated people"):
        ablate(tmp_path / "more", ARMS, config, 160, 1, ("plain",), progress=False)


def test_an_arm_that_fails_is_named(done, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)      # processes start as they do beside a GPU, or on Windows
    (tmp_path / "hourglass-0").write_text("a file where a folder should be")
    with pytest.raises(RuntimeError, match="hourglass, seed 0: .*hourglass-0"):
        ablate(tmp_path, ARMS, SMALL, pictures=256, seeds=1, tests=("plain",), progress=False)
    assert not active_children()


def test_a_study_that_is_stopped_goes_on(done, tmp_path, capsys, monkeypatch):
    "SIGTERM while two trainings run: both save, nothing is left running, and the same command ends with a table."
    monkeypatch.setattr(cli, "STUDIES", {"ladder": ARMS})
    monkeypatch.setattr(cli, "ABLATION", SMALL)
    shutil.copytree(done[0] / "people", tmp_path / "people")      # two thousand of them need not be painted again
    words = ["ablate", "ladder", "--out", str(tmp_path), "--data", "people:plain", "--seeds", "1", "--pictures", "1024", "--on", "plain"]

    def stop():
        deadline = time.monotonic() + 120
        while not (begun := list(tmp_path.glob("*/metrics.jsonl"))) and time.monotonic() < deadline: time.sleep(0.02)
        if begun: os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=stop).start()
    with pytest.raises(SystemExit) as ended: cli.main(words)
    assert ended.value.code == 130 and "goes on from there" in capsys.readouterr().err and not active_children()
    half = [arm for arm in ARMS if (tmp_path / f"{arm}-0" / CHECKPOINT).exists() and not (tmp_path / f"{arm}-0" / "found.npz").exists()]
    assert half and not (tmp_path / "ablation.json").exists()
    with pytest.raises(SystemExit) as ended: cli.main(words)
    assert ended.value.code == 0 and "*against hourglass*" in capsys.readouterr().out
    for arm in ARMS:
        rows = [json.loads(row) for row in (tmp_path / f"{arm}-0" / "metrics.jsonl").read_text().splitlines()]
        assert [row["pictures"] for row in rows] == list(range(128, 1025, 128))      # no epoch is lost, none is there twice


def test_the_command_prints_its_table(done, capsys, monkeypatch):
    folder, study = done
    monkeypatch.setattr(cli, "STUDIES", {"ladder": ARMS})
    monkeypatch.setattr(cli, "ABLATION", SMALL)
    words = ["ablate", "ladder", "--out", str(folder), "--data", "people:plain", "--seeds", "1", "--pictures", "256", "--on", "plain"]
    with pytest.raises(SystemExit) as ended: cli.main(words)
    assert ended.value.code == 0 and study.to_markdown() in capsys.readouterr().out
    with pytest.raises(SystemExit): cli.main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["tests"]["plain"]["hourglass"]["scores"] == study.scores("hourglass", "plain").tolist()
    with pytest.raises(SystemExit) as ended: cli.main([*words, "sigm=1"])
    assert ended.value.code == 2 and "the nearest is sigma" in capsys.readouterr().err


def test_batches_have_every_column(tmp_path):
    batch = PaintedPeople(People("crowd"), tmp_path, 8).batch(range(8))
    assert isinstance(batch, Batch) and len(batch) == 8


def test_answers_to_the_exercises_are_told_apart():
    ladder, error = EXERCISES["four_times_people"], EXERCISES["standard_error"]
    assert judge(ladder, 0.6) == "right"
    for wrong in (1.2, 0.3, 2.4, "0.6"): assert judge(ladder, wrong).startswith("not yet")
    assert judge(error, lambda a, b, e, s, m: np.sqrt(a * a / s + b * b / m + e * e / s / m)) == "right"
    assert judge(error, lambda a, b, e, s, m: a / s ** 0.5 + b / m ** 0.5 + e / (s * m) ** 0.5).startswith("not yet")    # deviations added
    assert judge(error, lambda a, b, e, s, m: np.sqrt(a * a / s + b * b / m + e * e / m)).startswith("not yet")           # rest over people


def test_index_reports_the_study_that_is_stored():
    "Each rung against the one before, with its interval, as the file has it."
    study = Ablation.load(ROOT / "nbs" / "results" / "ladder.json")
    rungs = list(study.arms)
    steps = [*zip(rungs[:4], rungs[1:5], strict=True), ("hourglass", "two stacks")]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    said = re.findall(r"[+-]\d\.\d\d \[[+-]\d\.\d\d, [+-]\d\.\d\d\]", text.partition("the paper's ladder")[2].partition("\n")[0])
    assert said == [str(study.difference(before, after, "standard")) for before, after in steps]


def test_tables_say_what_they_said():
    study = made_up()
    as_remembered("study", study.to_markdown().splitlines())
    as_remembered("study, one step at a time", study.to_markdown("before").splitlines())
    as_remembered("study, as numbers", study.to_dict())
    spread = study.difference("first", "noise", "plain")
    as_remembered("smallest difference", {f"{seeds} seeds": [smallest_seen(spread, people, seeds) for people in (4, 100, 2000)]
                                          for seeds in (1, 3, 10)})
