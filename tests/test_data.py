"Reading annotations: the table, the reader of LSPET on generated folders and on the real one, and what bad input says."
import os
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from msspose.data import LSPET_SPLITS, Annotations, load_annotations, load_lspet, square_around
from msspose.evaluation import torso_length
from msspose.skeleton import LSP, MPII

REAL = Path(os.environ.get("MSSPOSE_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / "lspet"
real = pytest.mark.skipif(not (REAL / "joints.mat").is_file(), reason="no LSPET photographs; set MSSPOSE_DATA to the folder above lspet")


def table_of(m: int = 4, seed: int = 0, **changes) -> Annotations:
    rng = np.random.default_rng(seed)
    columns = dict(joints=rng.uniform(0, 100, (m, 14, 2)), visible=rng.integers(0, 3, (m, 14)), center=rng.uniform(0, 100, (m, 2)),
                   side=rng.uniform(10, 90, m), reference=rng.uniform(5, 20, m), image=np.arange(m) // 2,
                   paths=tuple(f"{i}.jpg" for i in range(m)))
    return Annotations("made", LSP, **(columns | changes))


def matrix(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    table = np.zeros((14, 3, 10000))
    table[:, :2], table[:, 2] = rng.uniform(1, 200, (14, 2, 10000)), rng.random((14, 10000)) > 0.1
    table[:3, 2] = 1
    return table


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    "joints.mat and the 500 pictures of val, as empty files: the reader looks at their names only."
    folder = tmp_path_factory.mktemp("made") / "lspet"
    (folder / "images").mkdir(parents=True)
    for number in range(9001, 9501): (folder / "images" / f"im{number:05d}.jpg").touch()
    scipy.io.savemat(folder / "joints.mat", {"joints": matrix()})
    return folder


def written(path: Path, table: np.ndarray, pictures: bool = True, name: str = "joints") -> Path:
    path.mkdir()
    scipy.io.savemat(path / "joints.mat", {name: table})
    if pictures:
        (path / "images").mkdir()
        for number in range(9001, 9501): (path / "images" / f"im{number:05d}.jpg").touch()
    return path


# the table

@settings(max_examples=40, deadline=None)
@given(hnp.arrays(bool, 7))
def test_a_mask_selects_the_same_rows_of_every_column(mask):
    whole = table_of(7)
    part = whole[mask]
    assert len(part) == mask.sum()
    for field in ("joints", "visible", "center", "side", "reference", "image"):
        np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[mask])
    assert part.paths == whole.paths


@pytest.mark.parametrize("which, rows", [
    (slice(1, 3), [1, 2]), (2, [2]), (-1, [3]), ([3, 0], [3, 0]), ([], []), (np.array([1, 1]), [1, 1])])
def test_indices_slices_and_lists(which, rows):
    whole = table_of()
    np.testing.assert_array_equal(whole[which].joints, whole.joints[rows])


def test_tensors_select_too():
    import torch
    whole = table_of()
    assert len(whole[torch.tensor([True, False, True, True])]) == 3
    np.testing.assert_array_equal(whole[torch.tensor([2, 0])].side, whole.side[[2, 0]])


def test_an_index_beyond_the_end_is_an_error_and_so_ends_a_loop():
    with pytest.raises(IndexError): table_of()[4]
    assert [len(person) for person in table_of()] == [1] * 4


def test_types_are_fixed_and_unannotated_joints_lie_at_zero():
    made = table_of(visible=[[0] + [1] * 13] * 4, joints=np.full((4, 14, 2), 5))
    assert (made.joints.dtype, made.visible.dtype, made.image.dtype) == (np.float32, np.uint8, np.int64)
    assert (made.joints[:, 0] == 0).all() and (made.joints[:, 1:] == 5).all()
    joints = made.joints.copy(); joints[:, 0] = np.nan
    assert np.isfinite(replace(made, joints=joints).joints).all()


def test_others_are_those_in_the_same_picture():
    made = table_of(5, image=[0, 1, 0, 0, 2])
    assert [made.others(i).tolist() for i in range(5)] == [[2, 3], [], [0, 3], [0, 2], []]
    assert made.others(-5).tolist() == [2, 3]


@pytest.mark.parametrize("change, message", [
    (dict(joints=np.zeros((4, 16, 2))), r"expected \(people, 14, 2\) for lsp, got \(4, 16, 2\); pass skeleton=MPII"),
    (dict(joints=np.zeros((4, 13, 2))), r"got \(4, 13, 2\)$"),
    (dict(joints=np.zeros((14, 2))), r"expected \(people, 14, 2\)"),
    (dict(visible=np.zeros((3, 14))), r"visible: expected \(4, 14\) as joints has it, got \(3, 14\)"),
    (dict(center=np.zeros(4)), r"center: expected \(4, 2\)"),
    (dict(visible=np.array([[1] * 14, [1] * 13 + [3], [1] * 14, [1] * 14])), "person 1, head_top: visible is 3"),
    (dict(side=[1, 2, 0, 3]), "person 2: side is 0"),
    (dict(side=[1, 2, np.nan, 3]), "person 2: side is nan"),
    (dict(reference=[1, -2, 2, 3]), "person 1: reference is -2.*NaN where"),
    (dict(center=[[1, 2], [1, 2], [1, 2], [np.inf, 2]]), "person 3: center"),
    (dict(image=[0, 1, 2, 4]), "person 3: image is 4; there are 4 paths"),
    (dict(joints=np.full((4, 14, 2), np.nan), visible=np.ones((4, 14))), "person 0, right_ankle: coordinates"),
])
def test_a_wrong_table_says_who_and_what(change, message):
    with pytest.raises(ValueError, match="^labels.mat: .*" + message): table_of(**change, source="labels.mat")


# lengths and squares

def slow_torso(joints, visible):
    index = LSP.index
    for a, b in (("right_shoulder", "left_hip"), ("left_shoulder", "right_hip")):
        a, b = index(a), index(b)
        if visible[a] and visible[b]: return float(np.hypot(*(joints[a] - joints[b])))
    return np.nan


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10 ** 6))
def test_torso_agrees_with_a_loop(seed):
    made = table_of(6, seed)
    expected = [slow_torso(j, v) for j, v in zip(made.joints, made.visible, strict=True)]
    np.testing.assert_allclose(torso_length(made.joints, made.visible, LSP), expected, rtol=1e-5)


def test_torso_of_zero_length_is_unknown_and_mpii_has_one():
    assert np.isnan(torso_length(np.zeros((1, 14, 2)), np.ones((1, 14)), LSP)).all()
    assert torso_length(np.random.default_rng(0).normal(size=(3, 16, 2)), np.ones((3, 16)), MPII).shape == (3,)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10 ** 6), st.floats(1, 3))
def test_the_square_holds_every_annotated_joint_and_ignores_the_others(seed, margin):
    made = table_of(6, seed, visible=np.random.default_rng(seed).integers(0, 2, (6, 14)) | (np.arange(14) < 2))
    center, side = square_around(made.joints, made.visible, margin)
    reach = np.where(made.visible > 0, abs(made.joints - center[:, None]).max(-1), 0)
    assert (reach <= side[:, None] / 2 * (1 + 1e-5)).all()
    np.testing.assert_allclose(reach.max(1), side / 2 / margin, rtol=1e-4)


# LSPET

def test_a_folder_and_its_file_read_the_same(folder):
    a, b = load_lspet(folder, "val"), load_lspet(folder / "joints.mat", "val")
    np.testing.assert_array_equal(a.joints, b.joints)
    assert len(a) == 500 and a.paths == b.paths and a.notes == () and a.skeleton is LSP


def test_the_numbers_are_those_of_the_file_minus_one(folder):
    table, read = matrix()[:, :, 9000:9500].transpose(2, 0, 1), load_lspet(folder, "val")
    labelled = table[..., 2] == 1
    np.testing.assert_allclose(read.joints[labelled], table[..., :2][labelled] - 1, rtol=1e-6)
    assert (read.joints[~labelled] == 0).all()
    np.testing.assert_array_equal(read.visible, np.where(labelled, 2, 0))
    assert [Path(p).name for p in read.paths] == [f"im{n:05d}.jpg" for n in range(9001, 9501)]


def test_the_splits_do_not_overlap():
    assert LSPET_SPLITS == {"train": (1, 9000), "val": (9001, 9500), "all": (1, 10000)}


def test_missing_pictures_are_counted_named_and_can_be_left_out(folder):
    named = r"9,500 of 10,000 pictures are missing: im00001.jpg, im00002.jpg, im00003.jpg, \.\.\., im10000.jpg; .* pass missing='drop'"
    with pytest.raises(FileNotFoundError, match=named): load_lspet(folder)
    with pytest.warns(UserWarning, match="9,500 of 10,000 people left out: their picture is missing"):
        read = load_lspet(folder, missing="drop")
    assert len(read) == 500 and len(read.notes) == 1
    np.testing.assert_array_equal(read.joints, load_lspet(folder, "val").joints)
    with pytest.raises(FileNotFoundError, match="9,000 of 9,000 pictures are missing"): load_lspet(folder, "train", missing="drop")


def test_one_missing_picture_is_named_alone(folder, tmp_path):
    other = written(tmp_path / "x", matrix())
    (other / "images" / "im09017.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 500 pictures are missing: im09017.jpg; "): load_lspet(other, "val")


def test_people_with_one_label_are_left_out_and_counted(tmp_path):
    table = matrix()
    table[:, 2, 9000:9003] = 0
    table[0, 2, 9001] = table[:2, 2, 9002] = 1       # 0, 1 and 2 labels
    with pytest.warns(UserWarning, match="2 of 500 people left out: fewer than 2"): read = load_lspet(written(tmp_path / "x", table), "val")
    assert len(read) == 498 and Path(read.paths[0]).name == "im09003.jpg" and np.isnan(read.reference[0])


@pytest.mark.parametrize("shape, message", [
    ((3, 14, 2000), "original Leeds Sports Pose.*flag 1 means occluded.*Leeds Sports Pose Extended"),
    ((14, 3, 2000), r"shape \(14, 3, 2000\); Leeds Sports Pose Extended has \(14, 3, 10000\)"), ((5, 5), r"shape \(5, 5\)")])
def test_another_shape_says_which_it_is(tmp_path, shape, message):
    with pytest.raises(ValueError, match=message): load_lspet(written(tmp_path / "x", np.zeros(shape)), "val")


def changed(j, k, i, value):
    table = matrix(); table[j, k, i] = value
    return table


@pytest.mark.parametrize("table, message", [
    (changed(4, 2, 7, 2), "im00008.jpg, left_knee: flag 2.0"),
    (changed(2, 1, 0, np.nan), "im00001.jpg, right_hip: labelled, but its coordinates")])
def test_wrong_entries_are_found_by_picture_and_joint(tmp_path, table, message):
    with pytest.raises(ValueError, match=message): load_lspet(written(tmp_path / "x", table), "val")


def test_files_that_are_none(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"): load_lspet(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no joints.mat in it; give the folder"): load_lspet(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"there is one in {re.escape(str(folder))}"): load_lspet(folder.parent)
    (tmp_path / "text.mat").write_text("these are words, and not what MATLAB writes " * 9)
    (tmp_path / "empty.mat").touch()
    (tmp_path / "half.mat").write_bytes((folder / "joints.mat").read_bytes()[:1000])
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(500))
    for name in ("text", "empty", "half"):
        with pytest.raises(ValueError, match=rf"{name}.mat: not a MATLAB file, or damaged"): load_lspet(tmp_path / f"{name}.mat")
    with pytest.raises(ValueError, match="new.mat: MATLAB's format 7.3"): load_lspet(tmp_path / "new.mat")
    other, bare = written(tmp_path / "y", matrix(), name="poses"), written(tmp_path / "z", matrix(), pictures=False)
    with pytest.raises(ValueError, match="no variable 'joints' in it; it holds poses"): load_lspet(other)
    with pytest.raises(FileNotFoundError, match="images: no such folder"): load_lspet(bare)
    with pytest.raises(ValueError, match="split 'test' of LSPET; known are train, val, all"): load_lspet(folder, "test")
    with pytest.raises(ValueError, match="missing is 'ignore'"): load_lspet(folder, missing="ignore")


def test_a_source_finds_its_reader(folder, tmp_path):
    for source in (folder, str(folder), folder / "joints.mat"): assert len(load_annotations(source, "val")) == 500
    with pytest.raises(FileNotFoundError, match="no such file or folder"): load_annotations(tmp_path / "x")
    with pytest.raises(ValueError, match="a folder without annotations known here; looked for joints.mat"): load_annotations(tmp_path)
    (tmp_path / "labels.csv").write_text("x,y")
    with pytest.raises(ValueError, match="not a file of annotations known here; looked for"): load_annotations(tmp_path / "labels.csv")
    with pytest.raises(FileNotFoundError, match="give that folder"): load_annotations(folder.parent)


# the real one

@real
def test_the_photographs_are_what_the_chapter_says():
    train, val = load_lspet(REAL, "train"), load_lspet(REAL, "val")
    assert (len(train), len(val)) == (9000, 500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = load_lspet(REAL, missing="drop")
    assert len(both) == 9500 and both.notes == ("500 of 10,000 people left out: their picture is missing",)
    assert (both.visible > 0).sum() == 117002 and np.isnan(both.reference).sum() == 1623 and np.isnan(val.reference).sum() == 84
    seen = both.visible > 0
    assert (~(seen[:, 8] & seen[:, 3])).sum() == 2714                                  # without the other diagonal
    assert (seen[:, 8] != seen[:, 9]).sum() == 2278 and (~seen[:, 8] & ~seen[:, 9]).sum() == 129
    np.testing.assert_allclose(np.median(both.side) / 1.4, 118.2, atol=0.1)


@real
def test_hands_heads_and_feet_fit_into_the_square():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a = load_lspet(REAL, missing="drop")
    joints = np.where(a.visible[..., None] > 0, a.joints, np.nan)
    def beyond(end, start, share): return joints[:, end] + share * (joints[:, end] - joints[:, start])
    def inside(places):
        far = abs(places - a.center[:, None]).max(-1)
        return (far <= a.side[:, None] / 2)[np.isfinite(far)].mean()
    assert round(inside(beyond([6, 11], [7, 10], 0.75)), 2) == 0.94
    assert round(inside(beyond([0, 5], [1, 4], 0.3)), 3) == 0.999
    assert inside(beyond([13], [12], 0.15)) == 1
