"Prediction files: what goes in comes out, whose prediction is whose, and what is wrong with a file."
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given as over
from hypothesis import strategies as st

from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from remembered import as_remembered

from msspose.data import write_people
from msspose.drawing import CENTRE, LEFT, RIGHT
from msspose.evaluation import Truth, compare, evaluate, intervals
from msspose.people import People
from msspose.predictions import (
    Predictions,
    confusion,
    draw_confusion,
    draw_curves,
    draw_parts,
    draw_reliability,
    load_predictions,
    matched,
    save_coco_results,
    save_comparison,
    save_predictions,
    save_report,
)
from msspose.skeleton import COCO, FLIC, LSP, MPII


def some(m=5, skeleton=MPII, seed=0, **more):
    "Predictions of M people, one joint in ten lacking."
    dice = np.random.default_rng(seed)
    joints = np.round(dice.uniform(-30, 900, (m, skeleton.n_joints, 2)), 3)
    joints[dice.random(joints.shape[:2]) < 0.1] = math.nan
    return Predictions(joints, np.round(dice.random(joints.shape[:2]), 3), skeleton, **more)


def alike(a: Predictions, b: Predictions, confidence=True):
    np.testing.assert_allclose(a.joints, b.joints, atol=1e-4)
    assert a.skeleton.joints == b.skeleton.joints
    if confidence: np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-4)


# --- round trips -----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("skeleton", [MPII, LSP, FLIC, COCO], ids=lambda s: s.name)
def test_what_is_written_is_read(tmp_path, skeleton):
    given = some(7, skeleton, ids=np.arange(7) * 3 + 1, image_ids=np.arange(7) // 2, data="people:crowd", size=64)
    back = load_predictions(save_predictions(given, tmp_path / "new" / "p.json"))
    alike(given, back)
    assert back.ids.tolist() == given.ids.tolist() and back.image_ids.tolist() == given.image_ids.tolist()
    assert (back.data, back.size, back.source) == ("people:crowd", 64, "p.json")
    for name in ("p.mat", "p.h5"):
        back = load_predictions(save_predictions(given, tmp_path / name))
        alike(given, back, confidence=False)
        assert back.ids is None and back.confidence is None and back.source == name
    back = load_predictions(save_coco_results(given, tmp_path / "r.json"))
    alike(replace(given, confidence=np.where(np.isfinite(given.joints).all(-1), given.confidence, math.nan)),
          replace(back, confidence=np.where(np.isfinite(back.joints).all(-1), back.confidence, math.nan)))
    assert back.ids.tolist() == given.ids.tolist() and back.image_ids.tolist() == given.image_ids.tolist()


def test_of_nobody(tmp_path):
    nobody = Predictions(np.zeros((0, 16, 2)), np.zeros((0, 16)), ids=[], image_ids=[])
    for file in (save_predictions(nobody, tmp_path / "p.json"), save_coco_results(nobody, tmp_path / "r.json")):
        assert len(load_predictions(file)) == 0


def test_files_of_others_count_from_1_and_ours_from_0(tmp_path):
    joints = np.zeros((3, 16, 2)); joints[..., 1] = 7
    save_predictions(Predictions(joints), tmp_path / "p.mat")
    save_predictions(Predictions(joints), tmp_path / "p.h5")
    assert scipy.io.loadmat(tmp_path / "p.mat")["preds"][0, 0].tolist() == [1, 8]
    with h5py.File(tmp_path / "p.h5") as file: assert file["preds"].shape == (3, 16, 2) and file["preds"][0, 0].tolist() == [1, 8]
    assert json.loads(save_predictions(Predictions(joints), tmp_path / "p.json").read_text())["people"][0]["joints"][0] == [0, 7]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("m", [1, 2, 3, 16, 20])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int32])
def test_arrays_in_any_order_and_number_type(tmp_path, order, m, kind):
    array = np.random.default_rng(0).integers(0, 900, (m, 16, 2)).astype(kind)
    with h5py.File(tmp_path / "p.h5", "w") as file: file["preds"] = array.transpose(order)
    scipy.io.savemat(tmp_path / "a.mat", {"preds": array.transpose(order)})
    scipy.io.savemat(tmp_path / "b.mat", {"pos_pred_src": array.transpose(order), "jnt_missing": 1})
    for name in ("p.h5", "a.mat", "b.mat"):
        if m in (2, 3) and order == (2, 1, 0): continue                 # (2, 16, 2) may be either; it is taken as (people, joints, 2)
        assert np.array_equal(load_predictions(tmp_path / name).joints, array - 1.0)


def test_a_third_column_is_confidence(tmp_path):
    array = np.random.default_rng(0).random((4, 16, 3))
    scipy.io.savemat(tmp_path / "p.mat", {"preds": array})
    found = load_predictions(tmp_path / "p.mat")
    assert np.array_equal(found.confidence, array[..., 2]) and np.array_equal(found.joints, array[..., :2] - 1)


def test_coco_results_are_what_cocos_tools_ask_for(tmp_path):
    "As the format is documented: a list, a record per person, three numbers per keypoint, a score, all plain numbers."
    given = some(6, COCO, ids=np.arange(6), image_ids=np.arange(6) * 11)
    records = json.loads(save_coco_results(given, tmp_path / "r.json").read_text())
    assert isinstance(records, list) and len(records) == 6
    for record, joints in zip(records, given.joints, strict=True):
        assert {"image_id", "category_id", "keypoints", "score"} <= record.keys() and record["category_id"] == 1
        assert isinstance(record["image_id"], int) and len(record["keypoints"]) == 51 and 0 <= record["score"] <= 1
        assert [record["keypoints"][3 * n:3 * n + 3] == [0, 0, 0] for n in range(17)] == (~np.isfinite(joints).all(-1)).tolist()
    with pytest.raises(ValueError, match="no image_ids"): save_coco_results(replace(given, image_ids=None), tmp_path / "r.json")
    records = json.loads(save_coco_results(replace(given, confidence=None), tmp_path / "r.json").read_text())
    for record, joints in zip(records, given.joints, strict=True):
        sure = np.isfinite(joints).all(-1)
        assert record["keypoints"][2::3] == sure.tolist() and record["score"] == round(sure.mean(), 4)


# --- whose prediction is whose ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def annotations(tmp_path_factory): return write_people(tmp_path_factory.mktemp("set"), "crowd", "val", 12, size=32)


def perfect(annotations, rows=slice(None), **more):
    "The truth as predictions of some of the people, by number."
    ids, pictures = annotations.crowd.ids[annotations.member], annotations.image_ids[annotations.image]
    joints = annotations.joints.astype(float)[rows]
    return Predictions(joints, np.ones(joints.shape[:2]), ids=ids[rows], image_ids=pictures[rows], **more)


def test_by_number_in_any_order(annotations, tmp_path):
    order = np.random.default_rng(0).permutation(12)
    for given in (perfect(annotations, order), load_predictions(save_coco_results(perfect(annotations, order), tmp_path / "r.json"))):
        found = matched(given, annotations)
        report = evaluate(found, annotations)
        assert report.total == 100 and report.remarks() == [] and found.notes == ()
        np.testing.assert_allclose(found.joints, np.where(annotations.visible[..., None] > 0, annotations.joints, found.joints), atol=1e-4)


def test_people_without_a_prediction_are_wrong_and_said(annotations):
    found = matched(perfect(annotations, slice(3, None)), annotations)
    report = evaluate(found, annotations)
    assert report.missing == (annotations.visible[:3] > 0).sum() and report.total < 100 and report.n == 12
    assert report.remarks() == [f"{report.missing} joints without a prediction: counted as wrong.", "3 people have no prediction."]
    for told in (report.to_markdown(), report.to_markdown(True), json.dumps(report.to_dict())): assert "3 people have no prediction" in told


def test_predictions_for_other_persons_do_not_count_and_are_said(annotations):
    given = perfect(annotations)
    joints = np.concatenate([given.joints, given.joints[:2] + 99])
    more = Predictions(joints, ids=[*given.ids, 10 ** 6, 10 ** 6 + 1], image_ids=[*given.image_ids, 1, 1])
    report = evaluate(matched(more, annotations), annotations)
    assert report.total == 100 and report.remarks() == ["Predictions for 2 other persons: not counted."]
    with pytest.raises(ValueError, match="none of its 12 people is one of the 12 annotated"):
        matched(replace(given, ids=given.ids + 10 ** 6), annotations)


def test_of_two_predictions_for_a_person_the_surer_counts_and_it_is_said(annotations):
    given = perfect(annotations)
    joints, ids = np.concatenate([given.joints + 99, given.joints]), np.concatenate([given.ids, given.ids])
    for first, second, total in ((0.3, 0.6, 100), (0.6, 0.3, 0), (0.5, 0.5, 0)):          # equally sure: the first
        sure = np.repeat([first, second], 12)[:, None] * np.ones((24, 16))
        report = evaluate(matched(Predictions(joints, sure, ids=ids), annotations), annotations)
        assert (report.total == 100) == (total == 100) and "12 second predictions for the same person: set aside" in report.to_markdown()
    assert evaluate(matched(Predictions(joints[::-1], ids=ids[::-1]), annotations), annotations).total == 100


def test_a_person_who_is_annotated_twice_counts_twice(annotations):
    twice = annotations[[0, 0, 5]]
    report = evaluate(matched(perfect(annotations), twice), twice)
    assert report.n == 3 and report.total == 100 and "Predictions for 10 other persons" in report.to_markdown()


def test_a_picture_with_one_person_needs_no_number(annotations):
    given = perfect(annotations, slice(None, None, -1))
    found = matched(replace(given, ids=None), annotations)
    assert evaluate(found, annotations).total == 100 and found.ids.tolist() == annotations.crowd.ids[annotations.member].tolist()
    far = replace(given, ids=None, image_ids=np.where(np.arange(12) < 4, given.image_ids + 500, given.image_ids))
    assert "4 people have no prediction" in evaluate(matched(far, annotations), annotations).to_markdown()
    twice = replace(given, ids=None, image_ids=np.full(12, given.image_ids[0]))
    with pytest.raises(ValueError, match=rf"picture {given.image_ids[0]} has 12 predictions, and no person_id"): matched(twice, annotations)
    crowded = annotations[[0, 0, 1]]
    with pytest.raises(ValueError, match=r"has 2 annotated people, and no person_id"): matched(replace(given, ids=None), crowded)


def test_without_numbers_order_and_count_decide(annotations):
    people, joints = People("plain", "val"), np.zeros((1000, 16, 2))
    assert len(matched(Predictions(joints), people)) == 1000
    for truth in (people, annotations, Truth(np.zeros((3, 16, 2)), np.ones((3, 16)), np.ones(3), MPII)):
        with pytest.raises(ValueError, match=r"x.mat: 7 people, the annotations have \S+; without numbers"):
            matched(Predictions(joints[:7], source="x.mat"), truth)
    found = matched(Predictions(joints[:12]), annotations)
    assert found.ids.tolist() == annotations.crowd.ids[annotations.member].tolist() and found.image_ids is not None
    with pytest.raises(ValueError, match="has the 14 joints of lsp, the annotations those of mpii"): matched(some(12, LSP), annotations)


# --- what is wrong ---------------------------------------------------------------------------------------------------------------------

def test_predictions_of_wrong_shapes_are_refused():
    for given, words in ((dict(joints=np.zeros((3, 14, 2))), r"joints: expected \(3, 16, 2\) for mpii, got \(3, 14, 2\)"),
                         (dict(joints=np.zeros((3, 16, 2)), confidence=np.zeros((3, 2))), "confidence: expected"),
                         (dict(joints=np.zeros((3, 16, 2)), ids=[1, 2]), "ids: expected")):
        with pytest.raises(ValueError, match=words): Predictions(**given)
    given = Predictions(torch.zeros(3, 16, 2, requires_grad=True), torch.ones(3, 16))
    assert given.joints.dtype == given.confidence.dtype == np.float64


def write_h5(file, **arrays):
    with h5py.File(file, "w") as stored:
        for name, array in arrays.items(): stored[name] = array


OURS = {"format": "msspose predictions", "skeleton": {"name": "x", "joints": ["a"], "limbs": [], "flip_pairs": [], "groups": [[0]]}}
WRONG = [
    ("p.txt", lambda f: f.write_text(""), "read from .json, .h5 and .mat"), ("p.json", lambda f: f.write_text("{"), "not JSON, or cut off"),
    ("p.json", lambda f: f.write_text('{"images": []}'), "neither a list of COCO keypoint results nor a file that msspose wrote"),
    ("p.json", lambda f: f.write_text('[{"image_id": 3}]'), "not COCO keypoint results"),
    ("p.json", lambda f: f.write_text('[{"image_id": 3, "keypoints": [1, 2, 3, 4]}]'), "keypoints of 4 numbers"),
    ("p.json", lambda f: f.write_text('["a"]'), "not COCO keypoint results"),
    ("p.json", lambda f: f.write_text(json.dumps(OURS)), "its people cannot be read (KeyError: 'people')"),
    ("p.json", lambda f: f.write_text(json.dumps(OURS | {"people": [{"joints": [[1, 2], [3, 4]]}]})), "its people cannot be read"),
    ("p.json", lambda f: f.write_text(json.dumps(OURS | {"people": [{"joints": [[1, "x"]]}]})), "its people cannot be read"),
    ("p.h5", lambda f: f.write_bytes(b"no"), "not an HDF5 file"),
    ("p.h5", lambda f: write_h5(f, part=np.zeros((3, 16, 2))), "no preds in it; it holds part"),
    ("p.h5", lambda f: write_h5(f, preds=np.zeros((3, 15, 2))), "an array (3, 15, 2) of float64"),
    ("p.h5", lambda f: write_h5(f, preds=np.zeros((48, 2))), "an array (48, 2)"),
    ("p.h5", lambda f: write_h5(f, preds=np.zeros((3, 16, 2), "S3")), "an array (3, 16, 2) of |S3"),
    ("p.mat", lambda f: f.write_bytes(b"no"), "not a MATLAB file"),
    ("p.mat", lambda f: write_h5(f, preds=np.zeros((3, 16, 2))), "not a MATLAB file"),
    ("p.mat", lambda f: scipy.io.savemat(f, {"x": 1}), "neither preds nor pos_pred_src in it; it holds x"),
    ("p.mat", lambda f: scipy.io.savemat(f, {"preds": np.zeros((5, 5, 5))}), "an array (5, 5, 5)"),
]


@pytest.mark.parametrize("name, make, words", WRONG, ids=[f"{name}-{k}" for k, (name, _, _) in enumerate(WRONG)])
def test_what_is_wrong_with_a_file_is_said_and_the_file_named(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(ValueError) as error: load_predictions(tmp_path / name)
    assert words in str(error.value) and name in str(error.value)


def test_a_file_that_is_not_there_or_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"): load_predictions(tmp_path / "nothing.json")
    with pytest.raises(ValueError, match="written as .json, .mat or .h5"): save_predictions(some(), tmp_path / "p.txt")
    (tmp_path / "file").write_text("")
    for name in ("p.json", "p.mat", "p.h5"):
        with pytest.raises(OSError, match="cannot be written"): save_predictions(some(), tmp_path / "file" / name)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


# --- confusion and figures -------------------------------------------------------------------------------------------------------------

@over(seed=st.integers(0, 10 ** 6))
def test_confusion_has_every_annotated_joint_once(seed):
    dice = np.random.default_rng(seed)
    joints, visible = dice.uniform(0, 60, (8, 16, 2)), dice.integers(0, 3, (8, 16))
    found = joints + dice.normal(0, 8, joints.shape)
    found[0, 3:6] = math.nan
    report = evaluate(found, Truth(joints, visible, np.full(8, 12.0), MPII))
    table = confusion(report)
    assert np.array_equal(table.sum(1), (visible > 0).sum(0)) and table[:, -1].sum() == (visible[0, 3:6] > 0).sum()
    correct = np.linalg.norm(found - joints, axis=-1) <= 6
    assert np.array_equal(table.diagonal(), (correct & (visible > 0)).sum(0))
    for m, j in np.argwhere((visible > 0) & ~correct & np.isfinite(found).all(-1))[:5]:
        away = np.where(visible[m] > 0, np.linalg.norm(found[m, j] - joints[m], axis=-1), math.inf)
        column = away.argmin() if away.min() <= 6 else 17 if away[j] <= 12 else 18
        assert table[j, column] > 0


def test_a_wrist_at_the_elbow_and_one_at_a_strangers():
    joints = np.stack([40.0 * np.arange(16), np.zeros(16)], -1)[None].repeat(2, 0)
    found, wrist, elbow = joints.copy(), MPII.index("left_wrist"), MPII.index("left_elbow")
    found[0, wrist], found[1, wrist] = joints[0, elbow], joints[1, wrist] + (0, 200)
    company = np.array([1]), joints[:1] + (0, 203), np.full((1, 16), 2)
    table = confusion(evaluate(found, Truth(joints, np.full((2, 16), 2), np.full(2, 10.0), MPII, company)))
    assert table[wrist, elbow] == 1 and table[wrist, 16] == 1 and table.sum() == 32 and table.diagonal().sum() == 30


@pytest.fixture(scope="module")
def report():
    people, dice = People("crowd", "val"), np.random.default_rng(0)
    off = dice.normal(0, 0.3, (1000, 16, 2)) * people.reference.numpy()[:, None, None]
    return evaluate(SimpleNamespace(joints=people.joints.numpy() + off, confidence=dice.random((1000, 16))), people)


def test_bars_are_as_high_as_the_numbers(report):
    bars = draw_parts(report, samples=50).axes[0].patches
    assert sorted(round(bar.get_height(), 3) for bar in bars) == sorted(round(value, 3) for value in report.joints.values())
    colours = [to_hex(bar.get_facecolor()) for bar in bars]
    assert [colours.count(colour) for colour in (LEFT, RIGHT, CENTRE)] == [6, 6, 4] and colours[2:4] == [LEFT, RIGHT]
    bars = draw_parts({"a": report, "b": report}, samples=50).axes[0].patches
    assert [bar.get_height() for bar in bars] == pytest.approx([*report.groups.values(), report.total] * 2)


def test_bars_have_their_intervals_and_names(report):
    axes, found = draw_parts(report, samples=50).axes[0], intervals(report, 50, 0)["joints"]
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names[:4] == ["upper\nneck", "head\ntop", "shoulder", "shoulder"] and len(names) == 16 and "left" not in "".join(names)
    whiskers = [bars.errorbar.lines[2][0].get_segments()[0][:, 1] for bars in axes.containers if isinstance(bars, BarContainer)]
    assert sorted(map(tuple, np.round(whiskers, 6).tolist())) == sorted(map(tuple, np.round(list(found.values()), 6).tolist()))


def test_curves_and_reliability_are_what_they_show(report):
    line = draw_curves(report).axes[0].lines[0]
    assert np.array_equal(line.get_ydata(), report.curve) and np.array_equal(line.get_xdata(), report.thresholds)
    two = draw_curves({"a": report, "b": report}).axes[0]
    assert len(two.lines) == 2 and two.get_title() == "How near the predictions are"
    assert draw_curves(report).axes[0].get_title() == f"PCKh@0.5 {report.total:.1f} %"
    assert draw_curves(report).axes[0].get_xlabel() == "threshold (heads)"
    with pytest.raises(ValueError, match="say nothing of confidence"):
        draw_reliability(replace(report, evidence=replace(report.evidence, confidence=None)))
    numbers = [text.get_text() for text in draw_confusion(report).axes[0].texts]
    assert f"{report.joints['pelvis']:.0f}" in numbers


@pytest.mark.parametrize("skeleton", [LSP, FLIC, COCO], ids=lambda s: s.name)
def test_figures_of_every_skeleton_and_of_what_is_not_annotated(skeleton, tmp_path):
    dice = np.random.default_rng(0)
    joints, visible = dice.uniform(0, 99, (20, skeleton.n_joints, 2)), np.full((20, skeleton.n_joints), 2)
    visible[:, 3] = 0
    report = evaluate(joints + dice.normal(0, 5, joints.shape), Truth(joints, visible, np.full(20, 9.0), skeleton), "pck")
    files = save_report(report, tmp_path, samples=50)
    assert [file.name for file in files] == ["report.md", "report.json", "curve.png", "joints.png", "confusion.png"]


def test_a_report_is_kept_with_its_figures(report, tmp_path):
    files = save_report(report, tmp_path / "new", "demo on people:crowd", samples=50)
    text, told = files[0].read_text(), json.loads(files[1].read_text())
    assert text.startswith("# demo on people:crowd\n") and report.to_markdown(True, 50) in text
    assert told == json.loads(json.dumps(report.to_dict(True, 50))) and told["reliability"]["gap"] > 0
    for file in files[2:]: assert f"]({file.name})" in text and file.read_bytes().startswith(b"\x89PNG")
    better = compare(report, report, 50, names=("a", "b"))
    files = save_comparison(better, {"a": report, "b": report}, tmp_path / "both")
    assert files[0].read_text().startswith("# a and b\n") and json.loads(files[1].read_text())["line"] == str(better)
    assert all(file.exists() for file in files) and not list(tmp_path.rglob("*.partial"))


def test_predictions_say_how_many_they_are():
    people = some(7, data="people:crowd", size=64)
    lacking = int(np.isnan(people.joints[..., 0]).sum())
    told = f"Predictions(7 people, {{}}, 16 joints of mpii, {lacking} of them lacking; {{}} confidence)"
    assert repr(people) == told.format("in order", "with")
    assert repr(replace(people, confidence=None, ids=np.arange(7))) == told.format("by number", "without")


def test_figures_of_a_report_are_what_they_were(report, tmp_path):
    with plt.rc_context({"figure.dpi": 80}):
        as_remembered("parts", draw_parts(report, samples=50))
        as_remembered("curve", draw_curves(report))
        as_remembered("two curves", draw_curves({"a": report, "b": evaluate(report.evidence.predictions + 9, report.evidence)}))
        as_remembered("confusion", draw_confusion(report))
        as_remembered("reliability", draw_reliability(report))
    files = save_report(report, tmp_path, "demo on people:crowd", samples=50)
    as_remembered("report", files[0].read_text().splitlines())
    files = save_comparison(compare(report, report, 50, names=("a", "b")), {"a": report, "b": report}, tmp_path / "both")
    as_remembered("comparison", files[0].read_text().splitlines())
