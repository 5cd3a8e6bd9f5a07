"Evaluation: the rules from their definitions, strata, errors, intervals, bad input, and the published numbers of decisions.md."
import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from remembered import as_remembered

from msspose.data import load_flic, load_mpii
from msspose.evaluation import (
    FEW,
    GROUPS,
    KINDS,
    PARTS,
    PIECE,
    RULES,
    PCKMetric,
    Report,
    Truth,
    company_of,
    compare,
    count_joints,
    errors,
    evaluate,
    first_threshold,
    intervals,
    kinds,
    pckh,
    reliability,
    resampled,
    strata,
    torso_length,
)
from msspose.people import People
from msspose.predictions import load_predictions, matched
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


def by_hand(predictions, people, threshold, strict=False):
    "Right and annotated by joint, in heads, with nothing but loops."
    right, counted = dict.fromkeys(MPII.joints, 0), dict.fromkeys(MPII.joints, 0)
    for m in range(len(people.reference)):
        for n, name in enumerate(MPII.joints):
            if not people.visible[m, n]: continue
            d = math.dist(predictions[m, n], people.joints[m, n]) / people.reference[m]
            right[name] += d < threshold if strict else d <= threshold
            counted[name] += 1
    return right, counted


def on_the_line(seed, m=7):
    "Predictions of which many are at exactly 0.1, 0.11 or 0.5 heads; heads are powers of two, so that this is exact."
    dice = np.random.default_rng(seed)
    _, people = someone(m, seed=seed)
    people.joints, people.reference = np.round(people.joints), 2.0 ** dice.integers(3, 6, m)
    off = dice.choice([0, 0.1, 0.11, 0.3, 0.5, 0.75], (m, 16)) * people.reference[:, None]
    found = people.joints.copy()
    found[np.arange(m)[:, None], np.arange(16), dice.integers(0, 2, (m, 16))] += off
    return found, people


@settings(max_examples=40)
@given(seed=st.integers(0, 10 ** 6), rule=st.sampled_from(["official", "hrnet", "bearpaw", "princeton"]))
def test_each_rule_of_mpii_is_its_definition(seed, rule):
    predictions, people = on_the_line(seed)
    report, strict = evaluate(predictions, people, rule), rule in ("bearpaw", "princeton")
    right, counted = by_hand(predictions, people, 0.5, strict)
    same(report.joints, {name: 100 * right[name] / counted[name] for name in counted if counted[name]})
    chosen = [name for name in MPII.joints if counted[name] and (rule == "princeton" or name not in ("pelvis", "thorax"))]
    def total(right):
        if rule == "bearpaw": return sum(100 * right[name] / counted[name] for name in chosen) / len(chosen)
        return 100 * sum(right[name] for name in chosen) / sum(counted[name] for name in chosen)
    assert report.total == pytest.approx(total(right))
    assert report.precise == pytest.approx(total(by_hand(predictions, people, 0.11 if rule == "hrnet" else 0.1, strict)[0]))
    top = ["head_top"] if rule != "official" else ["head_top", "upper_neck"]
    known = [100 * right[name] / counted[name] for name in top if counted[name]]
    if known: assert report.groups["Head"] == pytest.approx(np.mean(known))
    both = [name for name in ("left_knee", "right_knee") if counted[name]]
    if rule == "princeton" and both:
        assert report.groups["Knee"] == pytest.approx(100 * sum(right[n] for n in both) / sum(counted[n] for n in both))
    assert ("Pelvis" in report.groups) == (rule == "princeton")


def test_strict_rules_part_from_the_others_on_the_line_only():
    predictions, people = on_the_line(3, 60)
    gap = evaluate(predictions, people, "official").total - evaluate(predictions, people, "princeton").total
    assert gap > 5
    moved = people.joints + (predictions - people.joints) * 0.999
    loose, strict = (replace(RULES["official"], strict=flag) for flag in (False, True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RULES, "loose", loose); patch.setitem(RULES, "strict", strict)
        assert evaluate(moved, people, "loose").total == evaluate(moved, people, "strict").total
        assert evaluate(predictions, people, "loose").total > evaluate(predictions, people, "strict").total


@pytest.mark.parametrize("skeleton", [MPII, LSP, FLIC, COCO], ids=lambda s: s.name)
@pytest.mark.parametrize("rule", RULES)
def test_perfect_predictions_score_100_under_every_rule(rule, skeleton):
    _, people = someone(9, skeleton, unseen=0.1)
    report = evaluate(people.joints, people, rule)
    assert report.total == report.precise == 100
    assert all(math.isnan(value) or value == 100 for value in [*report.joints.values(), *report.groups.values()])
    assert report.auc == pytest.approx(99 if RULES[rule].strict else 100)       # nothing is nearer than 0


def test_flic_counts_elbows_and_wrists_and_pck_all():
    _, people = someone(30, FLIC, unseen=0)
    found = people.joints.copy(); found[:, FLIC.index("nose")] += 1e4; found[:10, FLIC.index("left_wrist")] += 1e4
    assert evaluate(found, people, "flic").total == pytest.approx(100 * (1 - 10 / 120))
    assert evaluate(found, people, "pck").total == pytest.approx(100 * (1 - 40 / 330))
    assert evaluate(found, people, "flic").joints["nose"] == 0
    assert evaluate(found, people, "flic").groups["Wrist"] == pytest.approx(100 - 50 / 3)


@settings(max_examples=60)
@given(seed=st.integers(0, 10 ** 6), strict=st.booleans(), even=st.booleans(), m=st.sampled_from([1, 3, 40]))
def test_the_histogram_is_what_comparing_with_every_threshold_finds(seed, strict, even, m):
    dice = np.random.default_rng(seed)
    thresholds = np.arange(51) / 100 if even else np.unique(dice.uniform(0, 1, dice.integers(1, 9)))
    joints, reference, annotated = dice.uniform(-9, 300, (m, 5, 2)), 2.0 ** dice.integers(0, 6, m), dice.random((m, 5)) < 0.8
    predictions = joints.copy()
    predictions[..., 0] += dice.choice([*thresholds, *dice.uniform(0, 1, 20), 1e300, math.inf, math.nan], (m, 5)) * reference[:, None]
    counts = count_joints(predictions, joints, annotated, reference, thresholds, strict)
    with np.errstate(over="ignore", invalid="ignore"): distance = np.linalg.norm(predictions - joints, axis=-1) / reference[:, None]
    expected = np.stack([((distance < t if strict else distance <= t) & annotated).sum(0) for t in thresholds], 1)
    assert np.array_equal(counts[:, :-2].cumsum(1), expected)
    assert np.array_equal(counts[:, -1], (np.isnan(distance) & annotated).sum(0)) and np.array_equal(counts.sum(1), annotated.sum(0))


def test_every_threshold_meets_itself_and_its_neighbours_do_not():
    for thresholds in (np.arange(51) / 100, np.arange(21) / 100, np.linspace(0.1, 0.7, 37), np.array([0.25]), np.array([0.1, 0.2, 0.9])):
        k = np.arange(len(thresholds))
        assert np.array_equal(first_threshold(thresholds, thresholds), k)
        assert np.array_equal(first_threshold(np.nextafter(thresholds, 9), thresholds), k + 1)
        assert np.array_equal(first_threshold(thresholds, thresholds, True), k + 1)
        assert np.array_equal(first_threshold(np.array([math.inf, 1e308, math.nan]), thresholds), len(k) + np.array([0, 0, 1]))


def test_many_people_are_counted_piece_by_piece():
    predictions, people = someone(PIECE + 3)
    def counts(rows):
        return count_joints(predictions[rows], people.joints[rows], people.visible[rows] > 0, people.reference[rows], np.arange(51) / 100)
    parts = [slice(0, 5), slice(5, PIECE - 1), slice(PIECE - 1, None)]
    assert np.array_equal(counts(slice(None)), sum(map(counts, parts))) and len(predictions) > PIECE


@settings(max_examples=30)
@given(seed=st.integers(0, 10 ** 6), skeleton=st.sampled_from([MPII, LSP, FLIC, COCO]))
def test_pck_is_its_definition(seed, skeleton):
    predictions, people = someone(6, skeleton, seed)
    torso = torso_length(people.joints, people.visible, skeleton, people.reference)
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
def test_noise_that_is_added_to_the_truth_never_raises_the_curve(seed):
    "The same noise, more and more of it: every joint goes farther away, so no score rises, at any threshold."
    _, people = someone(12, seed=seed)
    noise = np.random.default_rng(seed).normal(size=people.joints.shape)
    reports = [evaluate(people.joints + sigma * noise, people) for sigma in (0, 1, 2, 5, 20)]
    for a, b in zip(reports, reports[1:], strict=False): assert (np.array(a.curve) >= b.curve).all() and a.auc >= b.auc


def test_noise_lowers_the_expected_score_of_whoever_errs_less_often_the_larger_the_error():
    "Independent noise on Gaussian errors: by Anderson's inequality never up, and here down by what the formula says."
    dice, m = np.random.default_rng(0), 20_000
    people = SimpleNamespace(joints=np.zeros((m, 16, 2)), visible=np.ones((m, 16)), reference=np.ones(m), skeleton=MPII)
    found, scores = dice.normal(0, 0.2, (m, 16, 2)), []
    for step in range(4):
        scores.append(evaluate(found, people))
        variance = 0.2 ** 2 + step * 0.1 ** 2
        expected = 100 * (1 - np.exp(-np.array(scores[-1].thresholds) ** 2 / (2 * variance)))
        assert np.abs(np.array(scores[-1].curve) - expected).max() < 4 * 50 / math.sqrt(14 * m)
        found = found + dice.normal(0, 0.1, found.shape)
    for a, b in zip(scores, scores[1:], strict=False): assert a.total > b.total and a.auc > b.auc
    beyond = np.zeros((m, 16, 2)); beyond[..., 0] = 0.51                        # and it can help who is just outside the line
    assert evaluate(beyond, people).total == 0 and evaluate(beyond + dice.normal(0, 0.1, beyond.shape), people).total > 40


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


def test_torso_takes_the_diagonal_that_is_stored_as_the_reference():
    rs, ls, rh, lh = (FLIC.index(n) for n in ("right_shoulder", "left_shoulder", "right_hip", "left_hip"))
    joints = np.zeros((4, 11, 2)); joints[:, lh] = (3, 4); joints[:, rh] = (6, 8)
    for stored, length in ((5, 5), (10, 10), (7, 5), (math.nan, 5), (10 * (1 + 1e-6), 10)):
        assert torso_length(joints, np.ones((4, 11)), FLIC, np.full(4, stored)).tolist() == [length] * 4
    people = SimpleNamespace(joints=joints, visible=np.ones((4, 11)), reference=np.full(4, 10.0), skeleton=FLIC)
    off = joints.copy(); off[:, FLIC.index("left_wrist"), 0] = 1.5                # 0.15 of the stored length, 0.3 of the other
    assert evaluate(off, people, "flic").total == 100


def test_torso_takes_the_other_diagonal_only_where_it_has_to():
    rs, ls, rh, lh = (LSP.index(n) for n in ("right_shoulder", "left_shoulder", "right_hip", "left_hip"))
    joints = np.zeros((4, 14, 2)); joints[:, lh] = (3, 4); joints[:, rh] = (6, 8)
    visible = np.ones((4, 14)); visible[1, rs] = 0; visible[2, lh] = 0; visible[3, [rs, rh]] = 0
    np.testing.assert_equal(torso_length(joints, visible, LSP), [5, 10, 10, np.nan])
    np.testing.assert_equal(torso_length(np.full((1, 14, 2), np.nan), np.zeros((1, 14)), LSP), [np.nan])


@pytest.mark.parametrize("rule", RULES)
def test_what_is_reported_as_left_out_stands_in_every_form(rule):
    predictions, people = someone(5, unseen=0)
    people.visible[3] = 0
    people.visible[3, 0], people.reference[[1, 4]] = 2, math.nan
    for name in ("left_hip", "right_hip"): people.visible[[1, 4], MPII.index(name)] = 0
    predictions[0, MPII.index("left_elbow")] = math.nan
    report = evaluate(predictions, people, rule)
    assert report.left_out == (3 if RULES[rule].torso else 2) and report.missing == 1 and report.n + report.left_out == 5
    for told in (report.to_markdown(), report.to_markdown(True), json.dumps(report.to_dict(True), allow_nan=False)):
        assert f"{report.left_out} more without a reference length: left out." in told
        assert "1 joints without a prediction: counted as wrong." in told
        assert ("taken at 0.11" in told) == (rule == "hrnet")


def test_nothing_that_the_rule_counts_is_an_error_also_where_other_joints_are_annotated():
    predictions, people = someone(3)
    people.visible[:] = 0; people.visible[:, MPII.index("pelvis")] = 2
    assert evaluate(predictions, people, "princeton").n == 3
    with pytest.raises(ValueError, match="none of 3 people has both a reference length and an annotated joint that official counts"):
        evaluate(predictions, people)


def test_a_report_stays_what_it_was():
    predictions, people = someone(20)
    report = evaluate(predictions, people)
    before = report.to_markdown(True)
    predictions[:], people.joints[:], people.visible[:] = 0, 1, 0
    assert report.to_markdown(True) == before


# strata ---------------------------------------------------------------------------------------------------------------------------

def in_company(m=60, seed=0):
    "People with others in their pictures: how many, and where."
    predictions, people = someone(m, seed=seed)
    dice = np.random.default_rng(seed + 1)
    count = dice.integers(0, 7, m)
    whose = np.repeat(np.arange(m), count)
    theirs = dice.uniform(-20, 300, (len(whose), 16, 2))
    people.company, people.side = (whose, theirs, dice.integers(0, 3, (len(whose), 16))), dice.uniform(50, 500, m)
    return predictions, people, count


@settings(max_examples=20)
@given(seed=st.integers(0, 10 ** 6))
def test_strata_are_what_loops_find(seed):
    predictions, people, count = in_company(seed=seed)
    found = strata(evaluate(predictions, people))
    def share(joints): return pytest.approx(100 * np.mean([hit for hit in joints])) if len(joints) else pytest.approx(math.nan, nan_ok=True)
    def hit(m, n): return math.dist(predictions[m, n], people.joints[m, n]) <= 0.5 * people.reference[m]
    limbs = [n for n, side in enumerate(MPII.sides) if side != "centre"]
    for label, code in (("visible", 2), ("occluded", 1)):
        joints = [hit(m, n) for m in range(60) for n in limbs if people.visible[m, n] == code]
        assert found["occlusion"][label].percent == share(joints) and found["occlusion"][label].joints == len(joints)
    counted = [n for n, name in enumerate(MPII.joints) if name not in ("pelvis", "thorax")]
    for label, inside in (("alone", count == 0), ("1 other", count == 1), ("2 or 3 others", (count == 2) | (count == 3)),
                          ("4 or more others", count >= 4)):
        joints = [hit(m, n) for m in np.flatnonzero(inside) for n in counted if people.visible[m, n]]
        assert found["others"][label].percent == share(joints) and found["others"][label].joints == len(joints)
    assert sum(s.joints for s in found["size"].values()) == sum(s.joints for s in found["others"].values())
    small, *_ = found["size"].values()
    third = np.sort(people.side)[19]                                          # of 60
    assert small.people <= 20 and small.percent == share([hit(m, n) for m in np.flatnonzero(people.side <= third)
                                                         for n in counted if people.visible[m, n]])


@pytest.mark.parametrize("angle, label", [(0, "within 15"), (14, "within 15"), (-14, "within 15"), (16, "at 15"), (-44, "at 15"),
                                          (46, "beyond"), (90, "beyond"), (180, "beyond"), (-120, "beyond")])
def test_tilt_is_the_angle_of_the_trunk_from_upright(angle, label):
    turn = math.radians(angle)
    _, people = someone(12, unseen=0)
    for side in ("left", "right"):
        people.joints[:, MPII.index(f"{side}_hip")] = (100, 100)
        people.joints[:, MPII.index(f"{side}_shoulder")] = (100 + 50 * math.sin(turn), 100 - 50 * math.cos(turn))
    people.visible[0, MPII.index("left_hip")] = 0
    tilt = strata(evaluate(people.joints, people))["tilt"]
    assert {name: s.people for name, s in tilt.items() if s.people} == {next(name for name in tilt if label in name): 11}


def test_what_cannot_be_told_is_said():
    predictions, people = someone(12)
    people.visible[people.visible == 1], people.reference[:] = 2, 20
    report = evaluate(predictions, people)
    assert [axis for axis, found in strata(report).items() if isinstance(found, str)] == ["occlusion", "others", "size"]
    for told in (report.to_markdown(True), json.dumps(report.to_dict(True))):
        for words in ("no joint is marked as occluded", "do not say who else", "all people have the same size"): assert words in told
    wrists = replace_skeleton(people, ("left_wrist", "right_wrist"))
    assert strata(evaluate(wrists.joints, wrists))["tilt"] == "the skeleton has no trunk"


def replace_skeleton(people, names):
    "The same people with some of their joints only."
    from msspose.skeleton import Skeleton, mirror_pairs
    kept, alone = [MPII.index(name) for name in names], tuple((j,) for j in range(len(names)))
    return SimpleNamespace(joints=people.joints[:, kept], visible=people.visible[:, kept], reference=people.reference,
                           skeleton=Skeleton("own", names, (), mirror_pairs(names), alone))


def test_people_who_are_left_out_take_their_company_along():
    predictions, people, count = in_company()
    people.reference[count == 2] = math.nan
    report = evaluate(predictions, people)
    others = strata(report)["others"]
    assert [s.people for s in others.values()] == [(count == 0).sum(), (count == 1).sum(), (count == 3).sum(), (count >= 4).sum()]
    kept = count != 2
    alone = SimpleNamespace(**{name: getattr(people, name)[kept] for name in ("joints", "visible", "reference", "side")}, skeleton=MPII)
    place = np.cumsum(kept) - 1
    whose, theirs, seen = people.company
    alone.company = place[whose[kept[whose]]], theirs[kept[whose]], seen[kept[whose]]
    again = evaluate(predictions[kept], alone)
    assert errors(again) == errors(report) and strata(again) == strata(report)


@pytest.mark.parametrize("change", [lambda w, j, v: (w + 60, j, v), lambda w, j, v: (w, j[:, :14], v), lambda w, j, v: (w[:-1], j, v),
                                    lambda w, j, v: (w, j, v[:, :3])])
def test_company_that_does_not_fit_is_refused(change):
    predictions, people, _ = in_company()
    people.company = change(*people.company)
    with pytest.raises(ValueError, match="company: whose"): strata(evaluate(predictions, people))


def test_generated_people_know_their_company_as_their_batches_do():
    people = People("crowd", split="val")
    batch = people.batch(range(120))
    whose, theirs, seen = company_of(batch.others, batch.others_visible)
    first = people.company[0] < 120
    for a, b in zip((whose, theirs, seen), people.company, strict=True): torch.testing.assert_close(a, b[first])
    report = evaluate(people.joints, people)
    assert sum(s.people for s in strata(report)["others"].values()) == 1000 and strata(report)["others"]["1 other"].people > 200


# kinds of error -------------------------------------------------------------------------------------------------------------------

def errs(*, joint="left_wrist", spot, strangers=(), visible=2, known=2):
    "What kind it is to predict a joint of one person at a spot; head of 10, joints 40 apart in a row, strangers at other places."
    joints = np.stack([40.0 * np.arange(16), np.zeros(16)], -1)[None]
    found = joints.copy(); found[0, MPII.index(joint)] = spot
    seen = np.full((1, 16), 2); seen[0, MPII.index("right_wrist")] = visible
    theirs = np.array([joints[0] + place for place in strangers]).reshape(-1, 16, 2)
    company = np.zeros(len(theirs), int), theirs, np.full(theirs.shape[:2], known)
    kind = kinds(evaluate(found, Truth(joints, seen, [10.0], MPII, company)).evidence)[0, MPII.index(joint)]
    return ("correct", *KINDS)[kind]


LW, RW = 40.0 * MPII.index("left_wrist"), 40.0 * MPII.index("right_wrist")


@pytest.mark.parametrize("expected, given", [
    ("correct", dict(spot=(LW + 5, 0))), ("near", dict(spot=(LW + 5.01, 0))), ("near", dict(spot=(LW, 10))),
    ("far", dict(spot=(LW, 10.01))),
    ("swap", dict(spot=(RW + 3, 4))), ("far", dict(spot=(RW + 3.01, 4))), ("far", dict(spot=(RW, 0), visible=0)),
    ("missing", dict(spot=(math.nan, 0))), ("far", dict(spot=(math.inf, 0))), ("far", dict(spot=(40 * MPII.index("left_elbow"), 0))),
    ("other", dict(spot=(LW + 100, 90), strangers=[(100, 90)])), ("far", dict(spot=(LW + 100, 96), strangers=[(100, 90)])),
    ("far", dict(spot=(LW + 100, 90), strangers=[(100, 90)], known=0)),                   # nobody knows that it is a stranger's
    ("other", dict(spot=(LW + 100, 90), strangers=[(100, 90)], known=1)),
    ("other", dict(spot=(LW + 9, 0), strangers=[(500, 0), (9, 0)])),                     # a stranger's before a near miss
    ("swap", dict(spot=(RW, 0), strangers=[(RW - LW, 0)])),                               # a swap before a stranger's
    ("correct", dict(spot=(LW, 0), strangers=[(0, 0)])),
    ("far", dict(spot=(40 * MPII.index("pelvis"), 30), joint="pelvis"))])                # its mirror image is itself
def test_kinds_of_error_in_their_order(expected, given):
    assert errs(**given) == expected


def test_a_swap_may_be_a_near_miss_and_is_called_a_swap():
    joints = np.zeros((1, 16, 2)); joints[0, MPII.index("left_knee"), 0] = 8
    found = joints.copy(); found[0, MPII.index("left_knee"), 0] = 0
    report = evaluate(found, Truth(joints, np.full((1, 16), 2), [10.0], MPII))
    assert KINDS[kinds(report.evidence)[0, MPII.index("left_knee")] - 1] == "swap"


@settings(max_examples=20)
@given(seed=st.integers(0, 10 ** 6))
def test_shares_of_errors_are_of_all_wrong_limb_joints(seed):
    predictions, people, _ = in_company(seed=seed)
    predictions[::7, 10] = math.nan
    report = evaluate(predictions, people)
    found, kind = errors(report), kinds(report.evidence)
    limbs = [n for n, side in enumerate(MPII.sides) if side != "centre"]
    assert found["wrong"] == (kind[:, limbs] > 0).sum() and sum(found[name] for name in KINDS) == pytest.approx(100)
    for k, name in enumerate(KINDS): assert found[name] == pytest.approx(100 * (kind[:, limbs] == k + 1).sum() / found["wrong"])
    assert np.array_equal(kind == -1, people.visible == 0)
    correct = sum(report.joints[name] / 100 * (people.visible[:, n] > 0).sum() for n, name in enumerate(MPII.joints)
                  if not math.isnan(report.joints[name]))
    assert (kind == 0).sum() == pytest.approx(correct)


def test_without_an_error_there_are_no_shares():
    _, people = someone(12)
    assert errors(evaluate(people.joints, people)) == {"wrong": 0, **dict.fromkeys(KINDS, 0.0)}


# intervals ------------------------------------------------------------------------------------------------------------------------

def test_drawn_sums_are_those_of_a_loop():
    columns = np.random.default_rng(0).integers(0, 9, (7, 4)).astype(np.float32)
    drawn = np.random.default_rng(5).integers(0, 7, (50, 7))
    assert np.array_equal(resampled(columns, 50, 5), [columns[rows].sum(0) for rows in drawn])
    assert np.array_equal(resampled(columns, 50, 5), resampled(columns, 50, 5))
    assert not np.array_equal(resampled(columns, 50, 5), resampled(columns, 50, 6))


def test_sets_of_many_people_are_drawn_in_parts():
    columns = np.ones((3_000_000, 1), np.float32)
    assert resampled(columns, 3).ravel().tolist() == [3e6] * 3


def test_intervals_are_quantiles_of_scores_of_drawn_people():
    predictions, people, _ = in_company(80)
    report = evaluate(predictions, people)
    drawn, scores = np.random.default_rng(3).integers(0, 80, (400, 80)), []
    for rows in drawn:
        some = SimpleNamespace(joints=people.joints[rows], visible=people.visible[rows], reference=people.reference[rows], skeleton=MPII)
        again = evaluate(predictions[rows], some)
        scores.append((again.total, again.auc, again.precise, again.groups["Wrist"], again.joints["left_knee"],
                       strata(again)["occlusion"]["occluded"].percent))
    found = intervals(report, 400, seed=3)
    ours = (found["total"], found["auc"], found["precise"], found["groups"]["Wrist"], found["joints"]["left_knee"],
            found["strata"]["occlusion"]["occluded"])
    np.testing.assert_allclose(ours, np.quantile(scores, (0.025, 0.975), axis=0).T, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_every_number_has_an_interval_that_holds_it(rule):
    predictions, people, _ = in_company(150)
    report = evaluate(predictions, people, rule)
    found = intervals(report, 500)
    assert found["joints"].keys() == report.joints.keys() and found["groups"].keys() == report.groups.keys()
    pairs = [(report.total, found["total"]), (report.auc, found["auc"]), (report.precise, found["precise"])]
    pairs += [(value, found["groups"][name]) for name, value in report.groups.items()]
    pairs += [(value, found["joints"][name]) for name, value in report.joints.items()]
    large = [(axis, label, s) for axis, some in strata(report).items() for label, s in some.items() if s.people >= FEW]
    pairs += [(s.percent, found["strata"][axis][label]) for axis, label, s in large]
    assert len(large) >= 10
    for value, (low, high) in pairs: assert low <= value <= high and high - low > 0.5


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    "People whose joints share their luck: an interval that drew joints would be far too small."
    dice, inside, joints_only = np.random.default_rng(1), 0, 0
    for seed in range(200):
        luck = dice.beta(2, 1, (120, 1))                                      # a person's chance, the mean over people is 2/3
        wrong = dice.random((120, 16)) > luck
        people = Truth(np.zeros((120, 16, 2)), np.ones((120, 16)), np.ones(120), MPII)
        found = np.zeros((120, 16, 2)); found[..., 0] = np.where(wrong, 9, 0)
        report = evaluate(found, people)
        low, high = intervals(report, 200, seed)["total"]
        inside += low <= 200 / 3 <= high
        joints_only += abs(report.total - 200 / 3) < 1.96 * 100 * math.sqrt(2 / 9 / (120 * 14))
    assert 180 <= inside <= 199 and joints_only < 150


def test_a_handful_of_people_has_no_interval():
    for m, known in ((FEW - 1, False), (FEW, True)):
        predictions, people = someone(m, unseen=0)
        report = evaluate(predictions, people)
        assert math.isfinite(intervals(report, 50)["total"][0]) == known
    predictions, people, count = in_company()
    count[:] = 0
    people.company = np.arange(3), people.joints[:3] + 500, people.visible[:3]
    found = intervals(evaluate(predictions, people), 50)["strata"]["others"]
    assert math.isnan(found["1 other"][0]) and math.isfinite(found["alone"][0])
    people.visible[5:, 0] = 0
    found = intervals(evaluate(predictions, people), 50)
    assert math.isnan(found["joints"]["right_ankle"][0]) and math.isfinite(found["groups"]["Ankle"][0])


# comparison -----------------------------------------------------------------------------------------------------------------------

def pair(m=200, gain=0.3, seed=0):
    "Two reports of the same people, of which the second errs less, everywhere."
    predictions, people, _ = in_company(m, seed)
    return evaluate(predictions, people), evaluate(people.joints + (predictions - people.joints) * (1 - gain), people), predictions, people


def test_who_is_better_is_said_with_interval_and_where():
    a, b, _, _ = pair()
    found = compare(a, b, names=("old", "new"))
    points, low, high = found.differences["total",]
    assert points == pytest.approx(b.total - a.total) and 0 < low < points < high
    said = f"new is better than old: {points:+.2f} [{low:.2f}, {high:.2f}] points of PCKh@0.5, 200 people; better on "
    assert str(found).startswith(said)
    assert "\n" not in str(found) and "; better on alone +" in str(found) and "worse" not in str(found)
    back = compare(b, a, names=("new", "old"))
    assert str(back).startswith(f"old is worse than new: {-points:+.2f}") and "better on" not in str(back)
    for name, values in found.differences.items(): assert back.differences[name][0] == pytest.approx(-values[0])
    assert found.to_markdown().splitlines()[0] == str(found) and "| **Total** |" in found.to_markdown()
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["total"] == [round(v, 3) for v in (points, low, high)] and told["line"] == str(found) and told["a"] == "old"
    assert told["strata"]["others"]["alone"][1] > 0 and told["groups"].keys() == a.groups.keys()


def test_the_same_predictions_cannot_be_told_apart():
    a, _, predictions, people = pair()
    found = compare(a, evaluate(predictions, people))
    assert set(found.differences.values()) == {(0.0, 0.0, 0.0)} and str(found).startswith("a and b cannot be told apart: +0.00")


def test_a_difference_that_chance_may_have_made_is_no_difference():
    a, _, predictions, people = pair(200)
    b = evaluate(people.joints + np.random.default_rng(9).permutation(predictions - people.joints, axis=0), people)
    a, b = sorted((a, b), key=lambda report: report.total)
    points, low, high = compare(a, b).differences["total",]
    assert low < 0 < points < high and str(compare(a, b)).startswith(f"a and b cannot be told apart: {points:+.2f} [{low:.2f}, {high:.2f}]")


def test_pairing_sees_what_two_intervals_do_not():
    "A hundredth of the joints, and everything else shared: the difference is small, and certain."
    a, _, predictions, people = pair(400)
    better = predictions.copy(); better[:, 3] = people.joints[:, 3]
    b = evaluate(better, people)
    (_, high), (low, _) = intervals(a)["total"], intervals(b)["total"]
    assert low < high and compare(a, b).differences["total",][1] > 0
    apart = np.hypot(*(np.diff(intervals(r)["total"])[0] for r in (a, b)))
    assert np.diff(compare(a, b).differences["total",][1:])[0] < 0.5 * apart


def test_a_difference_is_that_of_a_loop_over_the_same_drawn_people():
    a, b, _, people = pair(60)
    def counts(report): return (kinds(report.evidence)[:, [n for n in range(16) if n not in (6, 7)]] == 0).sum(1)
    of = (people.visible[:, [n for n in range(16) if n not in (6, 7)]] > 0).sum(1)
    drawn = np.random.default_rng(4).integers(0, 60, (300, 60))
    differences = [100 * (counts(b)[rows].sum() - counts(a)[rows].sum()) / of[rows].sum() for rows in drawn]
    np.testing.assert_allclose(compare(a, b, 300, 4).differences["total",][1:], np.quantile(differences, (0.025, 0.975)), rtol=1e-5)


def test_too_few_people_are_said_to_be_too_few():
    a, b, _, _ = pair(FEW - 1)
    assert str(compare(a, b)).endswith(f"but {FEW - 1} people are too few to tell") and "too few people" in compare(a, b).to_markdown()


@pytest.mark.parametrize("change, words", [
    (lambda p, t: evaluate(p, t, "hrnet"), "official up to 0.5 against hrnet up to 0.5"),
    (lambda p, t: evaluate(p, t, thresholds=[0, 0.3]), "official up to 0.3"),
    (lambda p, t: evaluate(p[:-1], Truth(t.joints[:-1], t.visible[:-1], t.reference[:-1], MPII)), "200 people against 199"),
    (lambda p, t: evaluate(p, SimpleNamespace(**vars(t) | {"reference": t.reference * 2})), "reference of person 0 differs"),
    (lambda p, t: evaluate(p, SimpleNamespace(**vars(t) | {"joints": t.joints + (np.arange(200) == 7)[:, None, None]})),
     "joints of person 7 differs"),
    (lambda p, t: evaluate(p, SimpleNamespace(**vars(t) | {"visible": np.where(np.arange(200)[:, None] == 9, 0, t.visible)})),
     "visible of person 9 differs")])
def test_what_cannot_be_compared_is_refused(change, words):
    a, _, predictions, people = pair()
    with pytest.raises(ValueError) as error: compare(a, change(predictions, people))
    assert words in str(error.value)


# confidence -----------------------------------------------------------------------------------------------------------------------

def test_a_network_that_knows_what_it_knows_has_no_gap():
    dice, m = np.random.default_rng(0), 4000
    people = Truth(np.zeros((m, 16, 2)), np.ones((m, 16)), np.ones(m), MPII)
    sure, found = dice.random((m, 16)), np.zeros((m, 16, 2))
    found[..., 1] = np.where(dice.random((m, 16)) < sure, 0, 9)
    told = reliability(evaluate(SimpleNamespace(joints=found, confidence=sure), people))
    assert len(told.joints) == 10 and sum(told.joints) == 16 * m and told.gap < 1
    np.testing.assert_allclose(told.confidence, np.arange(10) / 10 + 0.05, atol=0.01)
    np.testing.assert_allclose(told.correct, 100 * np.array(told.confidence), atol=2)
    boast = reliability(evaluate(SimpleNamespace(joints=found, confidence=0.5 + sure / 2), people))
    assert boast.gap == pytest.approx(25, abs=1) and boast.correct == told.correct


def test_confidence_counts_where_there_is_a_joint_and_a_prediction():
    predictions, people = someone(30)
    sure = np.random.default_rng(0).random((30, 16))
    assert reliability(evaluate(predictions, people)) is None
    predictions[0, :8], sure[1, :3] = math.nan, math.nan
    told = reliability(evaluate(SimpleNamespace(joints=predictions, confidence=sure), people), 4)
    known = (people.visible > 0) & np.isfinite(predictions).all(-1) & np.isfinite(sure)
    assert sum(told.joints) == known.sum() and len(told.joints) == 4 and list(told.confidence) == sorted(told.confidence)
    right = np.linalg.norm(predictions - people.joints, axis=-1) <= 0.5 * people.reference[:, None]
    assert np.average(told.correct, weights=told.joints) == pytest.approx(100 * right[known].mean())
    assert len(reliability(evaluate(SimpleNamespace(joints=predictions, confidence=sure), people), 1000).joints) == known.sum()
    with pytest.raises(ValueError, match=r"confidence: expected \(30, 16\), got \(30, 14\)"):
        evaluate(SimpleNamespace(joints=predictions, confidence=sure[:, :14]), people)


# the metric -----------------------------------------------------------------------------------------------------------------------

@settings(max_examples=25)
@given(seed=st.integers(0, 10 ** 6), rule=st.sampled_from(list(RULES)), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_batches_add_up_to_the_whole(seed, rule, cuts):
    predictions, people = someone(40, seed=seed)
    people.reference[::9] = math.nan
    expected, metric, first = evaluate(predictions, people, rule), PCKMetric(rule), PCKMetric(rule)
    edges = sorted({0, *cuts, 40})
    for k, (start, stop) in enumerate(zip(edges, edges[1:], strict=False)):
        part = slice(start, stop)
        (first if k == 0 else metric).update(*(torch.from_numpy(v[part]) for v in (
            predictions, people.joints, people.visible, people.reference)))
    metric.merge_state(first)
    assert metric.report() == expected or math.isnan(expected.precise)
    told = metric.compute()
    assert {name: value.item() for name, value in told.items()} == pytest.approx(
        {"total": expected.total, "auc": expected.auc, "precise": expected.precise, **expected.groups}, nan_ok=True, abs=1e-4)
    metric.reset()
    with pytest.raises(ValueError, match="none of 0 people"): metric.compute()


def test_forward_gives_the_batch_and_keeps_the_sum():
    predictions, people = someone(20)
    arguments = [(predictions[p], people.joints[p], people.visible[p], people.reference[p]) for p in (slice(0, 5), slice(5, 20))]
    metric = PCKMetric()
    for batch in arguments: assert metric(*batch)["total"].item() == pytest.approx(pckh(*batch), abs=1e-4)
    assert metric.report() == evaluate(predictions, people) and metric.report().evidence is None
    for ask in (strata, errors, intervals, reliability):
        with pytest.raises(ValueError, match="counts and no people"): ask(metric.report())
    with pytest.raises(ValueError, match="do not add up"): metric.merge_state(PCKMetric("bearpaw"))
    with pytest.raises(ValueError, match="do not add up"): metric.merge_state(PCKMetric(thresholds=[0, 0.3]))
    with pytest.raises(ValueError, match="nearest is 'official'"): PCKMetric("offical")


PROCESS = """
import json, sys
import numpy as np, torch.distributed as dist
from msspose.evaluation import PCKMetric
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2)
found, joints, visible, reference = np.load(file + ".npz").values()
metric = PCKMetric("bearpaw")
if rank == 0:
    for start in range(0, 23, 10): metric.update(*(v[start:min(start + 10, 23)] for v in (found, joints, visible, reference)))
elif sys.argv[3] == "some": metric.update(found[23:], joints[23:], visible[23:], reference[23:])
before = metric.counts.clone()
report, again = metric.report(), metric.report()
assert report == again and (metric.counts == before).all()      # asking changes nothing
print(json.dumps([report.total, report.auc, report.n, report.left_out, report.missing]))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("second", ["some", "none"])
def test_two_processes_report_all_people(tmp_path, second):
    predictions, people = someone(40)
    people.reference[[3, 30]], predictions[1, :4] = math.nan, math.nan
    np.savez(tmp_path / "meet.npz", predictions, people.joints, people.visible, people.reference)
    command = [sys.executable, "-c", PROCESS]
    running = [subprocess.Popen([*command, rank, str(tmp_path / "meet"), second], stdout=subprocess.PIPE, text=True) for rank in "01"]
    told = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    kept = slice(None) if second == "some" else slice(23)
    some = SimpleNamespace(joints=people.joints[kept], visible=people.visible[kept], reference=people.reference[kept], skeleton=MPII)
    expected = evaluate(predictions[kept], some, "bearpaw")
    assert told[0] == told[1] == [expected.total, expected.auc, expected.n, expected.left_out, expected.missing]


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
    assert len(tables) == 2 and head.splitlines()[0] == \
        "| PCKh@0.5 | Head | Shoulder | Elbow | Wrist | Hip | Knee | Ankle | Total | AUC | @0.1 |"
    assert f"| {report.total:.1f} | {report.auc:.1f} | {report.precise:.1f} |" in head and "| right ankle | - |" in tables[1]
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
    folder = real_data / "mpii_val"
    if not folder.is_dir(): pytest.skip("no MPII annotations: mpii_val is not there")
    return load_mpii(folder, "val")


@pytest.fixture(scope="module")
def published(real_data, mpii_validation):
    "Prediction files of others by their short names, as `matched` puts them into the order of the annotations."
    names = {"hg_s2": "bearpaw-hg_s2_b1.mat", "hg_s8": "bearpaw-hg_s8_b1.mat", "newell": "newell_valid-ours.h5"}
    files = {name: real_data / "preds_mpii_val" / file for name, file in names.items()}
    if not all(file.exists() for file in files.values()): pytest.skip("no prediction files: preds_mpii_val lacks some")
    return {name: matched(load_predictions(file), mpii_validation) for name, file in files.items()}


BEARPAW = {   # decisions.md, rule bearpaw: Head, Shoulder, Elbow, Wrist, Hip, Knee, Ankle, mean
    "hg_s2": (95.80, 94.57, 88.12, 83.31, 86.24, 80.88, 77.44, 86.76), "hg_s8": (96.79, 95.19, 90.08, 85.32, 87.48, 84.26, 80.73, 88.64),
    "newell": (95.94, 94.68, 88.53, 83.38, 87.48, 83.09, 79.05, 87.56)}
OFFICIAL = {"hg_s2": (87.299, 57.38), "hg_s8": (89.092, 58.72), "newell": (88.035, 58.81)}


@pytest.mark.parametrize("name", BEARPAW)
def test_published_numbers_come_out_to_the_last_digit(published, mpii_validation, name):
    report = evaluate(published[name], mpii_validation, "bearpaw")
    assert tuple(round(value, 2) for value in (*report.groups.values(), report.total)) == BEARPAW[name]
    report = evaluate(published[name], mpii_validation)
    assert (round(report.total, 3), round(report.auc, 2)) == OFFICIAL[name]
    assert (report.n, report.left_out, report.missing) == (2958, 0, 0) and report.to_dict()["total"] == OFFICIAL[name][0]


def test_one_file_by_every_rule(published, mpii_validation):
    "The three totals of row 27, and what chapter 08 says of the differences."
    found = {rule: evaluate(published["newell"], mpii_validation, rule) for rule in RULES}
    assert [round(found[rule].total, 2) for rule in RULES] == [88.04, 88.04, 87.56, 88.96, 84.89, 87.41]
    assert [round(found[rule].precise, 2) for rule in ("official", "hrnet", "bearpaw", "princeton")] == [28.65, 32.81, 28.32, 28.80]
    assert round(found["official"].groups["Head"], 2) == 96.71 and round(found["hrnet"].groups["Head"], 2) == 95.94


def test_strata_and_errors_of_the_decisions(published, mpii_validation):
    report = evaluate(published["hg_s8"], mpii_validation)
    found = strata(report)
    assert [round(found["occlusion"][label].percent, 1) for label in ("visible", "occluded")] == [92.8, 70.8]
    assert [round(s.percent, 1) for s in found["others"].values()] == [90.3, 89.2, 88.6, 86.7]
    assert [round(errors(report)[name], 1) for name in ("swap", "other", "near", "far")] == [23.3, 3.5, 46.0, 27.2]


def test_paired_interval_of_the_decisions(published, mpii_validation):
    reports = [evaluate(published[name], mpii_validation) for name in ("hg_s2", "hg_s8")]
    found = compare(*reports, names=("hg_s2", "hg_s8"))
    assert found.differences["total",] == pytest.approx((1.79, 1.42, 2.17), abs=0.05)
    assert str(found).startswith("hg_s8 is better than hg_s2: +1.79")
    for seed in (1, 2): assert compare(*reports, seed=seed).differences["total",] == pytest.approx((1.79, 1.42, 2.17), abs=0.05)


def test_sides_that_company_counts_are_those_of_the_annotations(mpii_validation):
    whose, theirs, seen = mpii_validation.company
    assert np.array_equal(np.bincount(whose, minlength=2958), mpii_validation.n_others)
    for i in (0, 17, 2957):
        rows = mpii_validation.others(i)
        assert np.array_equal(theirs[whose == i], mpii_validation.crowd.joints[rows])
        assert np.array_equal(seen[whose == i], mpii_validation.crowd.visible[rows])


@pytest.fixture(scope="module", params=["person", "observer"])
def flic(request, real_data):
    if not (real_data / "flic" / "valid.h5").exists(): pytest.skip("no FLIC annotations: valid.h5 is not there")
    return load_flic(real_data / "flic", "val", sides=request.param)


def test_noise_on_flic_scores_what_the_formula_says(flic):
    "Truth plus Gaussian noise of a known part of the torso: the distance has Rayleigh's distribution."
    dice, truth, torso, total = np.random.default_rng(0), flic.joints.astype(float), flic.reference.astype(float)[:, None, None], []
    for sigma in (0.05, 0.1, 0.2):
        curves = [evaluate(truth + sigma * torso * dice.normal(size=truth.shape), flic, "flic") for _ in range(8)]
        expected = 100 * (1 - np.exp(-np.array(curves[0].thresholds) ** 2 / (2 * sigma ** 2)))
        mean, n = np.mean([r.curve for r in curves], 0), 8 * 4 * len(flic)
        assert (np.abs(mean - expected) <= 4.5 * np.sqrt(expected * (100 - expected) / n) + 1e-9).all()
        for part in ("Elbow", "Wrist"):
            assert np.mean([r.groups[part] for r in curves]) == pytest.approx(expected[-1], abs=4.5 * 50 / math.sqrt(n / 2))
        total.append(curves[0].total)
        pixels = 8.0                                                        # the same for all: a mean over their torsos
        report = evaluate(truth + pixels * dice.normal(size=truth.shape), flic, "flic")
        assert report.total == pytest.approx(100 * (1 - np.exp(-(0.2 * torso) ** 2 / (2 * pixels ** 2))).mean(), abs=2.5)
    assert total[0] > 99.9 and total == sorted(total, reverse=True)


def test_predictions_with_the_sides_of_the_other_convention_score_what_the_formula_says(real_data, flic):
    "Of whoever is seen from behind, left and right are exchanged: Rice's distribution around the other side."
    other = load_flic(real_data / "flic", "val", sides="observer" if "person" in flic.name else "person")
    dice, sigma, torso = np.random.default_rng(1), 0.1, flic.reference.astype(float)[:, None]
    found = other.joints.astype(float) + sigma * torso[..., None] * dice.normal(size=other.joints.shape)
    chosen = [FLIC.index(name) for name in PARTS["Elbow"] + PARTS["Wrist"]]
    apart = np.linalg.norm(flic.joints.astype(float) - other.joints, axis=-1)[:, chosen] / torso
    expected = 100 * scipy.stats.ncx2.cdf((0.2 / sigma) ** 2, 2, (apart / sigma) ** 2).mean()
    assert evaluate(found, flic, "flic").total == pytest.approx(expected, abs=4.5 * 50 / math.sqrt(4 * len(flic)))
    assert expected < 100 * (1 - math.exp(-2)) - 2 and 20 < (apart.max(1) > 0.2).sum() < 80


def test_the_torso_of_flic_is_its_stored_normaliser_in_both_conventions(real_data, flic):
    ours = torso_length(flic.joints.astype(float), flic.visible, FLIC, flic.reference)
    np.testing.assert_allclose(ours, flic.reference, rtol=1e-4)
    path = real_data / "flic" / "valid_personcentric.h5"
    with h5py.File(path) as file: joints, stored = file["part"][:], file["normalize"][:]
    assert np.abs(torso_length(joints, np.ones(joints.shape[:2]), FLIC) - stored).max() < 1e-3


# --- all together -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rule", RULES)
def test_a_report_says_what_it_said(rule):
    predictions, people, _ = in_company(80, 3)
    predictions[:3, 5], people.reference[7] = math.nan, 0
    report = evaluate(SimpleNamespace(joints=predictions, confidence=np.random.default_rng(0).random((80, 16))), people, rule)
    as_remembered(f"{rule}, as text", report.to_markdown(True, 60).splitlines())
    as_remembered(f"{rule}, as numbers", report.to_dict(True, 60))


def test_a_comparison_says_what_it_said():
    a, b, _, _ = pair(90)
    for name, other in (("better", b), ("the same", a)):
        found = compare(a, other, 60, names=("old", "new"))
        as_remembered(f"comparison, {name}, as text", found.to_markdown().splitlines())
        as_remembered(f"comparison, {name}, as numbers", found.to_dict())
