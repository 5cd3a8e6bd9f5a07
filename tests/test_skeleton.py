"Skeletons: the tables as data, their mirror images, and conversion against a loop written from the definition."
import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from remembered import as_remembered

from msspose.skeleton import COCO, FLIC, LSP, MIDPOINTS, MPII, Skeleton, convert, mirror_pairs, standing

ALL = (MPII, LSP, FLIC, COCO)
skeletons = st.sampled_from(ALL)


def small(**changes) -> Skeleton:
    "Three joints, one pair; change a field to break it."
    fields = dict(name="small", joints=("nose", "left_eye", "right_eye"), limbs=((0, 1), (0, 2)), flip_pairs=((1, 2),),
                  groups=((0, 1, 2), (0, 1), (0, 2)))
    return Skeleton(**{**fields, **changes})


# --- the tables -------------------------------------------------------------------------------------------------------------------

def test_mpii_groups_are_row_6_of_the_decisions():
    "Typed from the text, not from the code."
    row = ("0:{0,1} 1:{0,1,2} 2:{2,3} 3:{2,3} 4:{3,4,5} 5:{4,5} 6:{6,7} 7:{7,9} 8:{8,9} 9:{7,9} "
           "10:{10,11} 11:{10,11,12} 12:{11,12} 13:{13,14} 14:{13,14,15} 15:{14,15}")
    for entry in row.split():
        n, group = entry.split(":")
        assert set(MPII.groups[int(n)]) == {int(k) for k in group.strip("{}").split(",")}


@pytest.mark.parametrize("skeleton, names", [
    (MPII, "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck head_top right_wrist right_elbow "
           "right_shoulder left_shoulder left_elbow left_wrist"),
    (LSP, "right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow right_shoulder left_shoulder "
          "left_elbow left_wrist upper_neck head_top"),
    (FLIC, "left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist left_hip right_hip left_eye right_eye nose"),
    (COCO, "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist "
           "left_hip right_hip left_knee right_knee left_ankle right_ankle")], ids=lambda x: getattr(x, "name", ""))
def test_joint_order_is_that_of_the_files(skeleton, names):
    assert skeleton.joints == tuple(names.split())


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_every_table_holds_up_to_a_mirror(skeleton):
    flip = skeleton.flip
    assert [flip[flip[j]] for j in range(skeleton.n_joints)] == list(range(skeleton.n_joints))
    for j, name in enumerate(skeleton.joints):
        swapped = name.replace("left_", "\0").replace("right_", "left_").replace("\0", "right_")
        assert skeleton.joints[flip[j]] == swapped
    for table in (skeleton.groups, skeleton.neighbourhoods):
        for n, group in enumerate(table):
            assert n in group and {flip[k] for k in group} == set(table[flip[n]])
    assert {frozenset((flip[i], flip[j])) for i, j in skeleton.limbs} == {frozenset(limb) for limb in skeleton.limbs}


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_groups_are_pairs_and_triplets_and_elbows_and_knees_are_triplets(skeleton):
    for name, group in zip(skeleton.joints, skeleton.groups, strict=True):
        middle = name.endswith(("elbow", "knee"))
        assert len(group) == 3 if middle else len(group) == 2 or name == "nose", name


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_neighbourhoods_follow_the_limbs_and_reach_everybody(skeleton):
    for n, group in enumerate(skeleton.neighbourhoods):
        assert set(group) - {n} == {k for limb in skeleton.limbs if n in limb for k in limb} - {n}
    reached = {0}
    for _ in range(skeleton.n_joints): reached |= {k for n in reached for k in skeleton.neighbourhoods[n]}
    assert reached == set(range(skeleton.n_joints))


def test_mpii_is_a_tree_of_fifteen_edges():
    assert len(MPII.limbs) == MPII.n_joints - 1 == 15


def test_sides_and_index():
    assert [MPII.sides[MPII.index(n)] for n in ("left_hip", "right_hip", "pelvis")] == ["left", "right", "centre"]
    with pytest.raises(KeyError, match="mpii has no joint 'left_wirst'; the nearest is 'left_wrist'"): MPII.index("left_wirst")
    with pytest.raises(KeyError, match="nearest"): LSP.index(3)


@pytest.mark.parametrize("skeleton", ALL, ids=lambda s: s.name)
def test_survives_json_and_pickle_and_can_be_a_key(skeleton):
    again = Skeleton(**json.loads(json.dumps(dataclasses.asdict(skeleton))))
    assert again == skeleton == pickle.loads(pickle.dumps(skeleton)) and {skeleton: 1}[again] == 1
    with pytest.raises(dataclasses.FrozenInstanceError): skeleton.name = "other"


# --- what is refused --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes, message", [
    (dict(joints=()), "at least one joint"),
    (dict(joints=("nose", "nose", "left_eye")), "'nose' appears twice"),
    (dict(joints=("nose", "left_eye", "right_ear")), "left_eye: its mirror image right_eye is not in the skeleton"),
    (dict(limbs=((0, 3),)), r"limbs: \(0, 3\) names joint 3; joints count from 0 to 2"),
    (dict(limbs=((0, -1),)), "names joint -1"),
    (dict(limbs=((0, 0),)), "names a joint twice"),
    (dict(limbs=((0, 1, 2),)), "is not a pair"),
    (dict(limbs=((0, 1), (1, 0), (0, 2))), "a limb appears twice"),
    (dict(limbs=((0, 1),)), r"\(0, 1\) has no mirror image; add \(0, 2\)"),
    (dict(flip_pairs=()), "does not follow the names"),
    (dict(flip_pairs=((0, 1),)), "does not follow the names"),
    (dict(flip_pairs=((1, 2), (2, 1))), "does not follow the names"),
    (dict(groups=((0, 1, 2), (0, 1))), "one group per joint, 3, got 2"),
    (dict(groups=((0, 1, 2), (0, 2), (0, 2))), r"group 1, \(0, 2\), does not hold its own joint 1 \(left_eye\)"),
    (dict(groups=((0, 1), (0, 1), (0, 2))), r"mirror image 0 has to be \(0, 2\)"),
    (dict(groups=((0, 1, 2), (0, 1), (0, 2, 1))), r"mirror image 2 has to be \(0, 2\)"),
    (dict(groups=((0, 1, 2), (0, 1), (0, 5))), "names joint 5"),
])
def test_a_broken_table_is_refused_and_says_where(changes, message):
    assert small().n_joints == 3
    with pytest.raises(ValueError, match=message): small(**changes)


def test_either_order_of_a_flip_pair_will_do():
    assert small(flip_pairs=[[2, 1]]).flip == small().flip == (0, 2, 1)


def test_no_sides_no_pairs():
    assert mirror_pairs(("head", "tail")) == ()
    assert Skeleton("fish", ("head", "tail"), ((0, 1),), (), ((0, 1), (0, 1))).flip == (0, 1)


# --- conversion -------------------------------------------------------------------------------------------------------------------

def slow_convert(joints, visible, source, target):
    "One joint of one person at a time, from the definition."
    n = target.n_joints
    moved, seen, derived = np.zeros((n, 2), joints.dtype), np.zeros(n, np.uint8), np.zeros(n, bool)
    for k, name in enumerate(target.joints):
        if name in source.joints:
            moved[k], seen[k] = joints[source.joints.index(name)], visible[source.joints.index(name)]
        elif name in ("pelvis", "thorax"):
            part = {"pelvis": "hip", "thorax": "shoulder"}[name]
            if f"left_{part}" not in source.joints: continue
            a, b = source.joints.index(f"left_{part}"), source.joints.index(f"right_{part}")
            if visible[a] == 0 or visible[b] == 0: continue
            moved[k], derived[k] = (joints[a] + joints[b]) / 2, True
            seen[k] = 2 if visible[a] == 2 and visible[b] == 2 else 1
    return moved, seen, derived


@settings(max_examples=60, deadline=None)
@given(skeletons, skeletons, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), st.integers(0, 2**32 - 1))
def test_convert_equals_the_loop_on_any_batch_shape(source, target, shape, seed):
    rng = np.random.default_rng(seed)
    joints, visible = rng.normal(0, 100, (*shape, source.n_joints, 2)), rng.integers(0, 3, (*shape, source.n_joints))
    before = joints.copy(), visible.copy()
    moved, seen, derived = convert(joints, visible, source, target)
    assert moved.shape == (*shape, target.n_joints, 2) and seen.shape == derived.shape == (*shape, target.n_joints)
    assert (moved.dtype, seen.dtype, derived.dtype) == (np.float64, np.uint8, bool)
    for place in np.ndindex(*shape):
        for got, wanted in zip((moved, seen, derived), slow_convert(joints[place], visible[place], source, target), strict=True):
            np.testing.assert_allclose(got[place], wanted, rtol=1e-12)
    assert np.array_equal(before[0], joints) and np.array_equal(before[1], visible)      # the input stays as it was


@settings(max_examples=40, deadline=None)
@given(skeletons, skeletons, st.integers(0, 2**32 - 1))
def test_converting_and_mirroring_commute(source, target, seed):
    "Left and right never trade places on the way."
    rng = np.random.default_rng(seed)
    joints, visible = rng.normal(size=(source.n_joints, 2)), rng.integers(0, 3, source.n_joints)
    first = convert(joints[list(source.flip)], visible[list(source.flip)], source, target)
    then = [part[list(target.flip)] for part in convert(joints, visible, source, target)]
    for a, b in zip(first, then, strict=True): np.testing.assert_allclose(a, b)


@given(skeletons, st.integers(0, 2**32 - 1))
def test_converting_to_itself_changes_nothing(skeleton, seed):
    rng = np.random.default_rng(seed)
    joints, visible = rng.normal(size=(2, skeleton.n_joints, 2)).astype(np.float32), rng.integers(0, 3, (2, skeleton.n_joints))
    moved, seen, derived = convert(joints, visible, skeleton, skeleton)
    assert np.array_equal(moved, joints) and np.array_equal(seen, visible) and not derived.any() and moved.dtype == np.float32


@pytest.mark.parametrize("target", (LSP, FLIC, COCO), ids=lambda s: s.name)
def test_there_and_back_keeps_what_both_have(target):
    joints = standing(MPII)
    back, seen, derived = convert(*convert(joints, np.full(16, 2), MPII, target)[:2], target, MPII)
    known = [name in target.joints for name in MPII.joints]
    assert np.allclose(back[known], joints[known]) and (seen[known] == 2).all()
    made = [MPII.joints[k] for k in np.flatnonzero(derived)]
    assert made == ["pelvis", "thorax"] and np.allclose(back[derived], joints[derived], atol=1e-5)
    assert not seen[~(np.array(known) | derived)].any() and not back[seen == 0].any()


@pytest.mark.parametrize("left, right, wanted", [(0, 0, 0), (0, 2, 0), (1, 0, 0), (1, 2, 1), (2, 1, 1), (1, 1, 1), (2, 2, 2)])
def test_a_midpoint_is_as_visible_as_the_less_visible_parent_and_never_made_from_one(left, right, wanted):
    visible = np.zeros(14, int)
    visible[[LSP.index("left_hip"), LSP.index("right_hip")]] = left, right
    moved, seen, derived = convert(standing(LSP), visible, LSP, MPII)
    pelvis = MPII.index("pelvis")
    assert seen[pelvis] == wanted and derived[pelvis] == (wanted > 0) and (wanted > 0 or not moved[pelvis].any())
    assert derived.sum() == (wanted > 0)


def test_a_joint_that_the_source_has_is_copied_never_derived():
    visible = np.full(16, 2)
    visible[MPII.index("pelvis")] = 0
    _, seen, derived = convert(standing(MPII), visible, MPII, MPII)
    assert seen[MPII.index("pelvis")] == 0 and not derived.any()


def test_deriving_can_be_left_out():
    _, seen, derived = convert(standing(LSP), np.full(14, 2), LSP, MPII, derive=False)
    assert not derived.any() and seen[MPII.index("pelvis")] == 0


def test_coco_has_no_neck_and_no_head_top():
    _, seen, _ = convert(standing(COCO), np.full(17, 2), COCO, MPII)
    assert [MPII.joints[k] for k in np.flatnonzero(seen == 0)] == ["upper_neck", "head_top"]


def test_coordinates_that_mean_nothing_do_not_spread():
    joints, visible = standing(LSP), np.full(14, 2)
    joints[LSP.index("left_hip")], visible[LSP.index("left_hip")] = np.nan, 0
    joints[LSP.index("left_shoulder")], visible[LSP.index("left_shoulder")] = np.inf, 0
    joints[LSP.index("right_shoulder")] = -np.inf
    moved, seen, _ = convert(joints, visible, LSP, MPII)
    assert np.array_equal(moved[[MPII.index("pelvis"), MPII.index("thorax")]], np.zeros((2, 2)))


def test_integers_and_tensors_are_welcome():
    whole = np.arange(28).reshape(14, 2)
    moved, _, derived = convert(whole, [2] * 14, LSP, MPII)
    assert moved.dtype == np.float32 and np.allclose(moved[MPII.index("pelvis")], [5, 6]) and derived.sum() == 2
    assert np.array_equal(convert(torch.tensor(whole), torch.full((14,), 2), LSP, MPII)[0], moved)


@pytest.mark.parametrize("joints, visible, message", [
    (np.zeros((14, 2)), np.zeros(14), r"expected \(..., 16, 2\) for mpii, got \(14, 2\); pass source=LSP"),
    (np.zeros((5, 13, 2)), np.zeros((5, 13)), r"got \(5, 13, 2\)$"),
    (np.zeros((16, 3)), np.zeros(16), r"got \(16, 3\)$"),
    (np.zeros(16), np.zeros(16), r"got \(16,\)$"),
    (np.zeros((4, 16, 2)), np.zeros((3, 16)), r"visible: expected \(4, 16\).*got \(3, 16\)"),
    (np.zeros((16, 2)), np.full(16, 3), "holds 3; 0 is not annotated"),
    (np.zeros((16, 2)), np.eye(16)[3] * 7, "holds 7.0; 0 is not annotated"),
    (np.zeros((16, 2)), np.full(16, np.nan), "holds nan"),
])
def test_arrays_that_do_not_fit_are_refused(joints, visible, message):
    with pytest.raises(ValueError, match=message): convert(joints, visible, MPII, COCO)


# --- a person to draw on ----------------------------------------------------------------------------------------------------------

@given(skeletons, st.floats(8, 1000))
def test_standing_faces_us_upright_inside_the_picture(skeleton, size):
    places = standing(skeleton, size)
    assert places.shape == (skeleton.n_joints, 2) and (places > -0.5).all() and (places < size - 0.5).all()
    for left, right in skeleton.flip_pairs:
        left, right = (left, right) if skeleton.sides[left] == "left" else (right, left)
        assert places[left, 0] > places[right, 0] and places[left, 1] == places[right, 1]
    for name, parents in MIDPOINTS.items():
        if name in skeleton.joints:
            np.testing.assert_allclose(places[skeleton.index(name)], places[[skeleton.index(p) for p in parents]].mean(0), rtol=1e-4)


def test_standing_refuses_a_joint_it_has_no_place_for():
    with pytest.raises(ValueError, match="no place known for joint 'tail'"): standing(Skeleton("dog", ("tail",), (), (), ((0,),)))


# --- what MPII's pelvis and thorax are (chapter 00 quotes it) ---------------------------------------------------------------------

def test_mpii_computed_its_pelvis_and_thorax():
    "Median distance from the midpoint of hips and shoulders: rounding; and the neck of LSP is MPII's upper neck."
    mpii, lspet = DATA / "mpii_val/detections_our_format.mat", DATA / "lspet/joints.mat"
    if not (mpii.is_file() and lspet.is_file()): pytest.skip("needs mpii_val and lspet in the folder that MSSPOSE_DATA names")
    from scipy.io import loadmat
    file = loadmat(mpii)
    joints, missing = file["pos_gt_src"].transpose(2, 0, 1).astype(float), file["jnt_missing"].T > 0
    head = 0.6 * np.linalg.norm(file["headboxes_src"][1] - file["headboxes_src"][0], axis=0)
    assert len(joints) == 2958
    middle = {name: joints[:, [MPII.index(p) for p in parents]].mean(1) for name, parents in MIDPOINTS.items()}
    for name, parents in MIDPOINTS.items():
        there = ~missing[:, [MPII.index(n) for n in (name, *parents)]].any(1)
        distance = np.linalg.norm(middle[name] - joints[:, MPII.index(name)], axis=1)[there] / head[there]
        assert 0.004 < np.median(distance) < 0.008 and np.percentile(distance, 95) < 0.03
    there = ~missing.any(1)
    torso = np.linalg.norm(middle["thorax"] - middle["pelvis"], axis=1)[there]
    neck = np.linalg.norm(joints[:, MPII.index("upper_neck")] - middle["thorax"], axis=1)[there]
    lsp = loadmat(lspet)["joints"].transpose(2, 0, 1)
    lsp = lsp[(lsp[..., 2] > 0).all(1)][..., :2]
    hips, shoulders = (lsp[:, [LSP.index(f"left_{p}"), LSP.index(f"right_{p}")]].mean(1) for p in ("hip", "shoulder"))
    length, lsp_neck = np.linalg.norm(shoulders - hips, axis=1), np.linalg.norm(lsp[:, LSP.index("upper_neck")] - shoulders, axis=1)
    assert 0.13 < np.median(neck / torso) < 0.145 and 0.145 < np.median(lsp_neck[length > 0] / length[length > 0]) < 0.165


@pytest.mark.parametrize("skeleton", [MPII, LSP, FLIC, COCO], ids=lambda s: s.name)
def test_a_skeleton_is_what_it_was(skeleton):
    names = skeleton.joints.__getitem__
    as_remembered(skeleton.name, {
        "flip": skeleton.flip, "sides": skeleton.sides, "groups": [tuple(map(names, group)) for group in skeleton.groups],
        "neighbourhoods": [tuple(map(names, group)) for group in skeleton.neighbourhoods], "standing": standing(skeleton, 100),
        "as others": {other.name: convert(standing(skeleton, 100), np.arange(skeleton.n_joints) % 3, skeleton, other)
                      for other in (MPII, LSP, FLIC, COCO)}})
