"Evaluation: the rules from their definitions, bad input, and the published numbers of decisions.md."
import json
import math
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msspose.evaluation import GROUPS, RULES, Report, evaluate, pckh, torso_length
from msspose.skeleton import COCO, FLIC, LSP, MPII


def someone(m=5, skeleton=MPII, seed=0, unseen=0.2):
    "M people with some joints not annotated, and predictions near the truth."
    dice = np.random.default_rng(seed)
    joints = dice.uniform(-20, 300, (m, skeleton.n_joints, 2))
    visible = np.where(dice.random((m, skeleton.n_joints)) < unseen, 0, dice.integers(1, 3, (m, skeleton.n_joints))).astype(np.uint8)
    people = SimpleNamespace(joints=joints, visible=visible, reference=dice.uniform(10, 40, m), skeleton=skeleton)
    return joints + dice.normal(0, 8, joints.shape), people


def slow(predictions, people, threshold, left_out, reference):
    "Percent by joint, and of the pool, with nothing but loops."
    right, counted, pool = {}, {}, []
    for m, ell in enumerate(reference):
        if not ell > 0: continue
        for n, name in enumerate(people.skeleton.joints):
            if not people.visible[m, n]: continue
            hit = math.dist(predictions[m, n], people.joints[m, n]) / ell <= threshold
            right[name], counted[name] = right.get(name, 0) + hit, counted.get(name, 0) + 1
            if name not in left_out: pool.append(hit)
    return {name: 100 * right[name] / counted[name] for name in counted}, 100 * sum(pool) / len(pool)


def same(got: dict, expected: dict):
    assert {k: v for k, v in got.items() if not math.isnan(v)} == pytest.approx(expected)


# the rules ------------------------------------------------------------------------------------------------------------------------

@settings(max_examples=30)
@given(seed=st.integers(0, 10 ** 6), m=st.integers(1, 6))
def test_official_is_its_definition(seed, m):
    predictions, people = someone(m, seed=seed)
    report = evaluate(predictions, people)
    by_joint, total = slow(predictions, people, 0.5, ("pelvis", "thorax"), people.reference)
    same(report.joints, by_joint)
    assert report.total == pytest.approx(total) and report.n == m and report.threshold == 0.5
    heights = [slow(predictions, people, k / 100, ("pelvis", "thorax"), people.reference)[1] for k in range(51)]
    area = sum((a + b) / 2 * 0.01 for a, b in zip(heights, heights[1:], strict=False))
    assert report.auc == pytest.approx(area / 0.5) and list(report.curve) == pytest.approx(heights)


@settings(max_examples=30)
@given(seed=st.integers(0, 10 ** 6), skeleton=st.sampled_from([MPII, LSP, FLIC, COCO]))
def test_pck_is_its_definition(seed, skeleton):
    predictions, people = someone(6, skeleton, seed)
    torso = torso_length(people.joints, people.visible, skeleton)
    if np.isnan(torso).all(): return
    report = evaluate(predictions, people, rule="pck")
    by_joint, total = slow(predictions, people, 0.2, (), torso)
    same(report.joints, by_joint)
    assert report.total == pytest.approx(total) and (report.n, report.left_out) == (np.isfinite(torso).sum(), np.isnan(torso).sum())
    assert len(report.thresholds) == 21 and report.thresholds[-1] == 0.2


@settings(max_examples=20)
@given(seed=st.integers(0, 10 ** 6), factor=st.floats(0.01, 100), angle=st.floats(0, 7), rule=st.sampled_from(list(RULES)))
def test_scores_do_not_depend_on_size_place_or_order(seed, factor, angle, rule):
    predictions, people = someone(5, seed=seed, unseen=0)
    turn = factor * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    order = np.random.default_rng(seed).permutation(5)
    other = SimpleNamespace(joints=(people.joints @ turn + 7)[order], visible=people.visible[order],
                            reference=factor * people.reference[order], skeleton=MPII)
    a, b = evaluate(predictions, people, rule), evaluate((predictions @ turn + 7)[order], other, rule)
    assert (a.total, a.auc) == pytest.approx((b.total, b.auc), abs=1e-6) and a.joints == pytest.approx(b.joints)


@settings(max_examples=20)
@given(seed=st.integers(0, 10 ** 6))
def test_the_curve_rises_and_more_than_zero_never_hurts(seed):
    predictions, people = someone(seed=seed)
    report = evaluate(predictions, people)
    assert (np.diff(report.curve) >= 0).all() and 0 <= report.auc <= report.total <= 100
    better = evaluate((predictions + people.joints) / 2, people)
    assert better.total >= report.total and better.auc >= report.auc


def test_exactly_at_the_threshold_is_correct():
    people = SimpleNamespace(joints=np.zeros((1, 16, 2)), visible=np.ones((1, 16)), reference=np.array([8.0]), skeleton=MPII)
    for distance, total in ((4, 100), (np.nextafter(4, 5), 0)):
        assert evaluate(np.full((1, 16, 2), [distance, 0.0]), people).total == total


def test_groups_are_means_of_joints_not_pools():
    predictions, people = someone(40, seed=3)
    people.visible[5:, MPII.index("left_wrist")] = 0
    report = evaluate(predictions, people)
    assert report.groups["Wrist"] == pytest.approx((report.joints["left_wrist"] + report.joints["right_wrist"]) / 2)
    assert report.groups["Head"] == pytest.approx((report.joints["upper_neck"] + report.joints["head_top"]) / 2)
    assert list(report.groups) == ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"]
    people.visible[:, MPII.index("left_wrist")] = 0
    report = evaluate(predictions, people)
    assert math.isnan(report.joints["left_wrist"]) and report.groups["Wrist"] == report.joints["right_wrist"]


def test_every_joint_but_the_trunk_is_in_a_group():
    grouped = {name for names in GROUPS.values() for name in names}
    for skeleton in (MPII, LSP, FLIC, COCO): assert set(skeleton.joints) - grouped <= {"pelvis", "thorax"}


@pytest.mark.parametrize("thresholds, threshold, auc", [(0.3, 0.3, math.nan), ([0.1], 0.1, math.nan),
                                                        ([0, 0.25, 0.5], 0.5, 50.0), ([0.25, 0.5], 0.5, 75.0)])
def test_thresholds_may_be_chosen(thresholds, threshold, auc):
    people = SimpleNamespace(joints=np.zeros((2, 16, 2)), visible=np.ones((2, 16)), reference=np.ones(2), skeleton=MPII)
    predictions = np.zeros((2, 16, 2)); predictions[0, :, 0] = 0.4; predictions[1, :, 1] = 0.2
    report = evaluate(predictions, people, thresholds=thresholds)
    assert report.threshold == threshold and report.auc == pytest.approx(auc, nan_ok=True)


# what is left out -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reference", [math.nan, math.inf, 0.0, -3.0])
def test_people_without_a_reference_are_left_out_and_counted(reference):
    predictions, people = someone(5)
    all_but_two = SimpleNamespace(**{k: v[[0, 1, 3]] if isinstance(v, np.ndarray) else v for k, v in vars(people).items()})
    people.reference[[2, 4]] = reference
    report, expected = evaluate(predictions, people), evaluate(predictions[[0, 1, 3]], all_but_two)
    assert (report.n, report.left_out) == (3, 2) and report.total == expected.total
    assert "2 more without a reference length" in report.to_markdown() and report.to_dict()["left_out"] == 2


def test_missing_predictions_are_wrong_and_counted():
    _, people = someone(5, unseen=0)
    predictions = people.joints.copy(); predictions[1, 3] = math.nan; predictions[2, 4, 1] = math.nan; predictions[0, 0, 0] = math.inf
    report = evaluate(predictions, people)
    assert report.missing == 2 and report.total == pytest.approx(100 * (5 * 14 - 3) / (5 * 14))
    assert "2 joints without a prediction" in report.to_markdown()


def test_what_is_not_annotated_may_be_anything():
    predictions, people = someone(5, seed=1)
    expected = evaluate(predictions, people)
    absent = people.visible == 0
    people.joints[absent], predictions[absent] = math.nan, math.nan
    assert evaluate(predictions, people) == expected


def test_occluded_joints_count():
    predictions, people = someone(5)
    expected = evaluate(predictions, people)
    people.visible[people.visible == 2] = 1
    assert evaluate(predictions, people) == expected


def test_torso_takes_the_other_diagonal_only_where_it_has_to():
    rs, ls, rh, lh = (LSP.index(n) for n in ("right_shoulder", "left_shoulder", "right_hip", "left_hip"))
    joints = np.zeros((4, 14, 2)); joints[:, lh] = (3, 4); joints[:, rh] = (6, 8)
    visible = np.ones((4, 14)); visible[1, rs] = 0; visible[2, lh] = 0; visible[3, [rs, rh]] = 0
    np.testing.assert_equal(torso_length(joints, visible, LSP), [5, 10, 10, np.nan])
    np.testing.assert_equal(torso_length(np.full((1, 14, 2), np.nan), np.zeros((1, 14)), LSP), [np.nan])


# form -----------------------------------------------------------------------------------------------------------------------------

def test_tensors_arrays_and_lists_give_the_same():
    predictions, people = someone()
    tensors = SimpleNamespace(**{k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in vars(people).items()})
    expected = evaluate(predictions, people)
    assert evaluate(torch.from_numpy(predictions).requires_grad_(), tensors) == expected == evaluate(predictions.tolist(), people)
    assert pckh(torch.from_numpy(predictions), tensors.joints, tensors.visible, tensors.reference) == expected.total


def test_nothing_is_changed_on_the_way():
    predictions, people = someone()
    before = predictions.copy(), people.joints.copy(), people.visible.copy(), people.reference.copy()
    evaluate(predictions, people, "pck"); evaluate(predictions, people)
    for a, b in zip(before, (predictions, people.joints, people.visible, people.reference), strict=True): assert np.array_equal(a, b)


def test_report_as_dict_is_json_and_as_markdown_is_two_tables():
    predictions, people = someone(3)
    people.visible[:, 0] = 0
    report = evaluate(predictions, people)
    back = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert back["total"] == round(report.total, 3) and back["joints"]["right_ankle"] is None and back["metric"] == "PCKh@0.5"
    assert json.loads(json.dumps(evaluate(predictions, people, thresholds=0.5).to_dict(), allow_nan=False))["auc"] is None
    head, *_ = tables = report.to_markdown().split("\n\n")
    assert len(tables) == 2 and head.splitlines()[0] == "| PCKh@0.5 | Head | Shoulder | Elbow | Wrist | Hip | Knee | Ankle | Total | AUC |"
    assert f"| {report.total:.1f} | {report.auc:.1f} |" in head and "| right ankle | - |" in tables[1]
    for table in tables: assert len({line.count("|") for line in table.splitlines()}) == 1
    assert isinstance(report, Report)
    with pytest.raises(FrozenInstanceError): report.total = 100


def broken(**changes):
    predictions, people = someone(3)
    for name, change in changes.items():
        if name == "predictions": predictions = change(predictions)
        else: setattr(people, name, change(getattr(people, name)))
    return predictions, people


def at_nan(joints): joints = joints.copy(); joints[:] = math.nan; return joints


@pytest.mark.parametrize("given, words", [
    ((*broken(predictions=lambda p: p.transpose(2, 1, 0)), "official"),
     "expected (3, 16, 2) as the annotations have it, got (2, 16, 3); it is in MATLAB's"),
    ((*broken(predictions=lambda p: p[:2]), "official"), "got (2, 16, 2)"),
    ((*broken(joints=lambda j: j[:, :14]), "official"), "expected (M, 16, 2) for mpii, got (3, 14, 2)"),
    ((*broken(visible=lambda v: v[:, :14]), "official"), "visible is (3, 14)"),
    ((*broken(reference=lambda r: r[:2]), "official"), "reference (2,)"),
    ((*broken(joints=at_nan, visible=np.ones_like), "official"), "right_ankle of person 0 is annotated at [nan, nan]"),
    ((*broken(reference=np.zeros_like), "official"), "none of 3 people"),
    ((*broken(visible=np.zeros_like), "official"), "none of 3 people"),
    ((*broken(visible=np.zeros_like), "pck"), "none of 3 people"),
    ((*broken(), "offical"), "the nearest is 'official'"),
    ((*broken(), "official", [0.2, 0.1]), "from small to large"),
    ((*broken(), "official", [-0.1, 0.1]), "none negative"),
    ((*broken(), "official", []), "thresholds: []"),
    ((*broken(), "official", [0.1, math.nan]), "thresholds"),
])
def test_bad_input_is_named(given, words):
    with pytest.raises(ValueError) as error: evaluate(*given)
    assert words in str(error.value)


def test_no_people_is_an_error():
    empty = SimpleNamespace(joints=np.zeros((0, 16, 2)), visible=np.zeros((0, 16)), reference=np.zeros(0), skeleton=MPII)
    with pytest.raises(ValueError, match="none of 0 people"): evaluate(np.zeros((0, 16, 2)), empty)


# published numbers ----------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def mpii_validation(real_data):
    "The 2,958 people with float joints, and the head size from the head box."
    path = real_data / "mpii_val" / "detections_our_format.mat"
    if not path.exists(): pytest.skip(f"no MPII annotations: {path.name} is not there")
    file = scipy.io.loadmat(path)
    boxes = file["headboxes_src"]                                                # (2, 2, M): corner, x or y, person
    return SimpleNamespace(joints=file["pos_gt_src"].transpose(2, 0, 1), visible=2 - 2 * file["jnt_missing"].T.astype(int),
                           reference=0.6 * np.linalg.norm(boxes[1] - boxes[0], axis=0), skeleton=MPII)


@pytest.mark.parametrize("name, total, auc", [("bearpaw-hg_s2_b1.mat", 87.299, 57.38), ("bearpaw-hg_s8_b1.mat", 89.092, 58.72),
                                              ("newell_valid-ours.h5", 88.035, 58.81)])
def test_published_predictions_get_their_published_score(real_data, mpii_validation, name, total, auc):
    path = real_data / "preds_mpii_val" / name
    if not path.exists(): pytest.skip(f"no predictions: {name} is not there")
    if path.suffix == ".mat": predictions = scipy.io.loadmat(path)["preds"]
    else:
        with h5py.File(path) as file: predictions = file["preds"][:]
    report = evaluate(predictions, mpii_validation)
    assert round(report.total, 3) == total and round(report.auc, 2) == auc
    assert (report.n, report.left_out, report.missing) == (2958, 0, 0)
    assert report.to_dict()["total"] == total


def test_the_torso_of_flic_is_its_stored_normaliser(real_data):
    path = real_data / "flic" / "valid_personcentric.h5"
    if not path.exists(): pytest.skip(f"no FLIC annotations: {path.name} is not there")
    with h5py.File(path) as file: joints, stored = file["part"][:], file["normalize"][:]
    ours = torso_length(joints, np.ones(joints.shape[:2]), FLIC)
    assert np.abs(ours - stored).max() < 1e-3
