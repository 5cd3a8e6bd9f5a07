"Reading annotations: the table, every reader on files made here and on the real ones, writing, and what bad input says."
import gc
import gzip
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mpii_file import rect, release, struct, write_release
from PIL import Image
from remembered import as_remembered

from msspose.data import (COLUMNS, LSPET_SPLITS, Annotations, box_in, load_annotations, load_coco, load_flic, load_lsp, load_lspet, located,
                          load_mpii, mpii_square, replacing, save_coco, square_around, square_of, write_people)
from msspose.evaluation import torso_length
from msspose.people import People
from msspose.skeleton import COCO, FLIC, LSP, MPII


def table_of(m: int = 4, seed: int = 0, **changes) -> Annotations:
    rng = np.random.default_rng(seed)
    columns = dict(joints=rng.uniform(0, 100, (m, 14, 2)), visible=rng.integers(0, 3, (m, 14)), center=rng.uniform(0, 100, (m, 2)),
                   side=rng.uniform(20, 90, m), reference=rng.uniform(5, 20, m), image=np.arange(m) // 2,
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
    "A folder of LSPET without its pictures, which the reader does not need."
    return written(tmp_path_factory.mktemp("made") / "lspet", matrix())


def written(path: Path, table: np.ndarray, name: str = "joints") -> Path:
    path.mkdir()
    scipy.io.savemat(path / "joints.mat", {name: table})
    return path


def same(a: Annotations, b: Annotations) -> None:
    "Two tables with the same content, whatever the order of their crowds."
    for field in COLUMNS.keys() - {"member"}: np.testing.assert_array_equal(getattr(a, field), getattr(b, field), field)
    assert (a.skeleton, a.notes) == (b.skeleton, b.notes)
    assert [Path(p).resolve() for p in a.paths] == [Path(p).resolve() for p in b.paths]
    for field in ("sizes", "image_ids"): np.testing.assert_array_equal(getattr(a, field), getattr(b, field), field)
    for field in ("ids", "box"): np.testing.assert_array_equal(getattr(a.crowd, field)[a.member], getattr(b.crowd, field)[b.member], field)
    for i in range(len(a)): assert sorted(a.crowd.ids[a.others(i)]) == sorted(b.crowd.ids[b.others(i)])


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
    assert made.n_others.tolist() == [2, 0, 2, 2, 0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 10 ** 6))
def test_company_lists_the_others_of_everybody(image, seed):
    made = table_of(len(image), image=image, paths=tuple(f"{i}.jpg" for i in range(4)))
    for table in (made, made[np.random.default_rng(seed).integers(0, len(image), 6)], made[[]]):
        whose, joints, visible = table.company
        assert whose.tolist() == [i for i in range(len(table)) for _ in table.others(i)] and len(joints) == len(visible) == len(whose)
        for i in range(len(table)):
            np.testing.assert_array_equal(joints[whose == i], table.crowd.joints[table.others(i)])
            np.testing.assert_array_equal(visible[whose == i], table.crowd.visible[table.others(i)])


def test_the_crowd_stays_when_people_are_selected_and_goes_with_its_pictures():
    made = table_of(6, image=[0, 0, 0, 1, 1, 2])
    for part in (made[[0]], made[[0, 0, 5]], made[[0]][[0]]): assert part.others(0).tolist() == [1, 2] and part.n_others[0] == 2
    trimmed = made[[4, 5]].trimmed()
    assert trimmed.paths == ("1.jpg", "2.jpg") and len(trimmed.crowd) == 3 and trimmed.image.tolist() == [0, 1]
    assert trimmed.n_others.tolist() == [1, 0] and trimmed.crowd.ids[trimmed.member].tolist() == [5, 6]
    np.testing.assert_array_equal(trimmed.crowd.joints[trimmed.others(0)], made.joints[[3]])


@pytest.mark.parametrize("change, message", [
    (dict(joints=np.zeros((4, 16, 2))), r"expected \(people, 14, 2\) for lsp, got \(4, 16, 2\); pass skeleton=MPII"),
    (dict(joints=np.zeros((4, 13, 2))), r"got \(4, 13, 2\)$"),
    (dict(joints=np.zeros((14, 2))), r"expected \(people, 14, 2\)"),
    (dict(visible=np.zeros((3, 14))), r"visible: expected \(4, 14\) as joints has it, got \(3, 14\)"),
    (dict(center=np.zeros(4)), r"center: expected \(4, 2\)"),
    (dict(visible=np.array([[1] * 14, [1] * 13 + [3], [1] * 14, [1] * 14])), r"person 1 \(0.jpg\), head_top: visible is 3"),
    (dict(side=[1, 2, 0, 3]), r"person 2 \(1.jpg\): side is 0"),
    (dict(side=[1, 2, np.nan, 3]), r"person 2 \(1.jpg\): side is nan"),
    (dict(reference=[1, -2, 2, 3]), r"person 1 \(0.jpg\): reference is -2.*NaN where"),
    (dict(center=[[1, 2], [1, 2], [1, 2], [np.inf, 2]]), r"person 3 \(1.jpg\): center"),
    (dict(image=[0, 1, 2, 4]), "person 3: image is 4; there are 4 paths"),
    (dict(joints=np.full((4, 14, 2), np.nan), visible=np.ones((4, 14))), r"person 0 \(0.jpg\), right_ankle: coordinates"),
    (dict(joints=np.full((4, 14, 2), 1e30), visible=np.ones((4, 14))), r"person 0 \(0.jpg\), right_ankle: .* sides of the person's square"),
    (dict(member=[0, 1, 2, 4]), "person 3: member is 4; there are 4 people in the crowd"),
    (dict(sizes=[[1, 2]]), r"sizes: expected \(4, 2\) as paths has it"),
    (dict(image_ids=[1, 2]), r"image_ids: expected \(4,\) as paths has it"),
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



def test_a_square_needs_a_joint():
    with pytest.raises(ValueError, match="person 1: no joint is annotated"):
        square_around(np.ones((2, 14, 2)), np.array([[1] * 14, [0] * 14]))


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(1, 1e3), st.floats(1, 3))
def test_square_and_box_are_each_other_inverse(left, top, width, margin):
    center, side = square_of(np.array([left, top, width, width]), margin)
    np.testing.assert_allclose(box_in(center, side, margin), [left, top, width, width], rtol=1e-4, atol=1e-3)
    pixels = np.arange(np.floor(width))                                                   # the pixels of a box of whole width
    if width == len(pixels): np.testing.assert_allclose(center[0], left + pixels.mean(), atol=1e-6)


# COCO

def coco_file(**changes) -> dict:
    "Two pictures, three people, one of them without joints, as others write it."
    rng = np.random.default_rng(0)

    def person(i, image, joints):
        points = [(*rng.uniform(5, 90, 2).round(2), 1 + j % 2) if j < joints else (0, 0, 0) for j in range(17)]
        return {"id": i, "image_id": image, "category_id": 1, "iscrowd": 0, "bbox": [10 * i, 20, 40, 80], "area": 9,
                "num_keypoints": joints, "keypoints": [float(value) for point in points for value in point]}

    images = [{"id": 70, "file_name": "b.jpg", "width": 100, "height": 90}, {"id": 30, "file_name": "a.jpg", "height": 50, "width": 60}]
    category = {"id": 1, "name": "person", "keypoints": list(COCO.joints), "skeleton": [[i + 1, j + 1] for i, j in COCO.limbs]}
    people = [person(5, 30, 17), person(2, 70, 17), person(9, 30, 0)]
    return {"images": images, "annotations": people, "categories": [category]} | changes


def put(path: Path, content) -> Path:
    path.write_text(json.dumps(content) if not isinstance(content, str) else content)
    return path


def test_a_coco_file_of_others(tmp_path):
    a = load_coco(put(tmp_path / "person_keypoints_val2017.json", coco_file()))
    assert a.skeleton is COCO and len(a) == 2 and len(a.crowd) == 3 and a.notes == ("1 of 3 people without annotated joints: bystanders",)
    assert [Path(p).name for p in a.paths] == ["b.jpg", "a.jpg"] and a.image.tolist() == [1, 0] and a.image_ids.tolist() == [70, 30]
    assert a.sizes.tolist() == [[100, 90], [60, 50]] and a.n_others.tolist() == [1, 0]
    center, side = square_of([50.0, 20, 40, 80])
    np.testing.assert_allclose(a.center[0], center)
    assert a.side[0] == side == 100 and (a.visible[0] == 1 + np.arange(17) % 2).all()
    np.testing.assert_allclose(a.reference, torso_length(a.joints, a.visible, COCO), rtol=1e-6)


@settings(max_examples=25)
@given(st.integers(0, 10 ** 6), st.integers(0, 6))
def test_a_table_comes_back_from_its_file_to_the_last_bit(tmp_path_factory, seed, m):
    folder = tmp_path_factory.mktemp("round")
    rng = np.random.default_rng(seed)
    k = m + 3
    everybody = table_of(k, seed, image=rng.integers(0, 4, k), paths=tuple(f"{folder}/{i}.jpg" for i in range(4)),
                         joints=rng.uniform(-20, 120, (k, 14, 2)), reference=np.where(rng.random(k) < 0.3, np.nan, rng.uniform(5, 20, k)))
    a = replace(everybody[rng.permutation(k)[:m]], notes=("a note",), name="made ü").trimmed()
    b = load_coco(save_coco(a, folder / "deep" / "all.json"), images=folder / "deep")
    same(a, b)
    assert b.name == "made ü" and not list(folder.rglob("*.partial"))


def test_pictures_are_found_where_people_put_them(tmp_path):
    for place, file in ((".", "x.json"), ("images", "x.json"), ("val2017", "person_keypoints_val2017.json"),
                        ("images/val2017", "annotations/person_keypoints_val2017.json"), ("images", "annotations/x.json")):
        root = tmp_path / re.sub(r"\W", "_", place + file)
        for name in ("a.jpg", "b.jpg"):
            (root / place).mkdir(parents=True, exist_ok=True)
            (root / place / name).touch()
        (root / file).parent.mkdir(exist_ok=True)
        a = load_coco(put(root / file, coco_file()))
        assert all(Path(path).is_file() for path in a.paths), (place, file)
    assert all(Path(p).is_file() for p in load_coco(put(tmp_path / "alone.json", coco_file()), images=root / "images").paths)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder of pictures"):
        load_coco(tmp_path / "alone.json", images=tmp_path / "nowhere")


def without(key, where="annotations"):
    content = coco_file()
    del content[where][0][key]
    return content


def edited(change, where="annotations", row=1):
    content = coco_file()
    content[where][row] |= change
    return content


@pytest.mark.parametrize("content, message", [
    ([], "not a COCO file"), ({"images": []}, "expected images, annotations and categories"), ("{", "not JSON, or cut off.*line 1"),
    (json.dumps(coco_file())[:900], "not JSON, or cut off"), ("\x00\x01", "not JSON"), ("[" * 100000, "cannot be read as JSON|not JSON"),
    (without("keypoints"), "record 0: has no 'keypoints'"), (without("image_id"), "record 0: has no 'image_id'"),
    (without("bbox"), "record 0: has no 'bbox'"),
    (edited({"keypoints": [1, 2]}), "record 1: 2 numbers for 17 keypoints, expected 51"),
    (edited({"keypoints": ["x"] * 51}), "record 1: "), (edited({"image_id": 4}), "record 1: image_id 4 is not among the images"),
    (edited({"bbox": [1, 2, 0, 5]}), "record 1: box 1,2,0,5: expected left, top, and a positive width"),
    (edited({"id": 5}), "two people have the id 5"),
    (edited({"keypoints": [float("nan")] * 2 + [2] + [0] * 48}), r"a.jpg|b.jpg\), nose: coordinates \[nan, nan\]"),
    (edited({"keypoints": [1e9, 0, 2] + [0] * 48}), "nose: .* sides of the person's square away"),
    (edited({"keypoints": [1, 2, 7] + [0] * 48}), "nose: visible is 7"),
    (edited({"id": 30}, "images", 0), "two pictures have the same id"),
    (coco_file(categories=[]), "expected one category with keypoints, found none"),
    (coco_file(categories=coco_file()["categories"] * 2), "found person and person")])
def test_a_bad_coco_file_says_what_and_where(tmp_path, content, message):
    with pytest.raises(ValueError, match="^" + re.escape(str(tmp_path / "x.json")) + "(.|\n)*(" + message + ")"):
        load_coco(put(tmp_path / "x.json", content))
    assert gc.isenabled()      # it is not, while the file is read


def test_joints_of_ones_own(tmp_path):
    category = {"id": 1, "name": "hand", "keypoints": ["Left tip", "right-tip", "root"], "skeleton": [[1, 3], [2, 3]]}
    record = {"id": 1, "image_id": 30, "category_id": 1, "keypoints": [1, 2, 2, 3, 4, 2, 5, 6, 1], "bbox": [0, 0, 9, 9]}
    other = record | {"id": 2, "category_id": 4}
    a = load_coco(put(tmp_path / "x.json", coco_file(categories=[category, {"id": 4, "name": "dog"}], annotations=[record, other])))
    assert a.skeleton.joints == ("left_tip", "right_tip", "root") and a.skeleton.flip_pairs == ((0, 1),) and len(a) == 1
    assert a.skeleton.groups == a.skeleton.neighbourhoods and a.notes == ("1 annotations of other categories: left out",)
    same(a, load_coco(save_coco(a, tmp_path / "y.json")))


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    made = table_of()
    with pytest.raises(ValueError, match="made: person 1 is in the table twice"): save_coco(made[[0, 0]], tmp_path / "x.json")
    put(tmp_path / "x.json", "old")
    def full(self, *args, **kwargs):
        Path.write_bytes(self, b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="x.json: cannot be written .No space left on device"): save_coco(made, tmp_path / "x.json")
    monkeypatch.undo()
    assert (tmp_path / "x.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x.json") as aside:
        aside.write_text("new")
        raise KeyboardInterrupt
    assert (tmp_path / "x.json").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with replacing(tmp_path / "x.json") as aside: aside.write_text("new")
    assert (tmp_path / "x.json").read_text() == "new"
    with pytest.raises(OSError, match="y.json: cannot be written"), replacing(tmp_path / "x.json" / "y.json"): pass   # x.json is a file


# MPII

@pytest.fixture(scope="module")
def mpii_folder(tmp_path_factory) -> Path:
    "The official file with 60 pictures, and the two public files of the split of its people."
    folder = tmp_path_factory.mktemp("mpii")
    people = write_release(folder / "mpii_human_pose_v1_u12_1.mat", 60)
    val = [p for p in people if p["train"] and p["posed"] and p["picture"] % 3 == 0]
    train = [p for p in people if p["train"] and p["posed"] and p["picture"] % 3]
    put(folder / "mpii_annotations.json", [json_person(p, people, p in val) for p in val + train])
    for name, part in (("valid", val), ("train", train)): write_h5(folder / f"{name}.h5", part)
    return folder


def json_person(p: dict, people: list[dict], val: bool) -> dict:
    others = [q for q in people if q["picture"] == p["picture"] and q is not p and q["posed"]]
    def points(q): return np.column_stack([np.where(q["annotated"][:, None], q["xy"], 0), q["seen"] & q["annotated"]]).tolist()
    poses = [points(q) for q in others]
    return {"isValidation": float(val), "img_paths": f"{p['picture']:09d}.jpg", "img_width": 1280.0, "img_height": 720.0,
            "objpos": list(p["objpos"]), "joint_self": points(p), "scale_provided": p["scale"],
            "annolist_index": p["picture"] + 1.0, "people_index": p["person"] + 1.0,
            "numOtherPeople": float(len(others)), "joint_others": poses[0] if len(poses) == 1 else poses or {"_ArraySize_": [0, 0]}}


def write_h5(file: Path, people: list[dict]) -> None:
    "As the original hourglass published it: truncated, adjusted."
    with h5py.File(file, "w") as stored:
        objpos, scale = np.array([p["objpos"] for p in people]), np.array([p["scale"] for p in people])
        stored["center"] = objpos + np.stack([0 * scale, 15 * scale], 1)
        stored["scale"], stored["normalize"] = scale * 1.25, [p["head"] for p in people]
        stored["part"] = np.array([np.where(p["annotated"][:, None], np.trunc(p["xy"]), 0) for p in people])
        stored["visible"] = np.array([p["seen"] & p["annotated"] for p in people], float)
        stored["imgname"] = np.array([f"{p['picture']:09d}.jpg" for p in people], "S13")
        for key, field in (("index", "picture"), ("person", "person")): stored[key] = [float(p[field]) for p in people]


def test_the_official_file(mpii_folder, tmp_path):
    file = mpii_folder / "mpii_human_pose_v1_u12_1.mat"
    people = write_release(tmp_path / "again.mat", 60)
    usable = [p for p in people if p["train"] and p["posed"]]
    a = load_mpii(file)
    shown = {p["picture"] for p in usable}
    assert len(a) == len(usable) and a.skeleton is MPII and len(a.crowd) == sum(p["picture"] in shown for p in people)
    for row, p in enumerate(usable):
        np.testing.assert_array_equal(a.visible[row], np.where(p["annotated"], 1 + p["seen"], 0))
        np.testing.assert_allclose(a.joints[row], np.where(p["annotated"][:, None], p["xy"] - 1, 0), atol=1e-4)
        center, side = mpii_square(np.array(p["objpos"]) - 1, p["scale"])
        np.testing.assert_allclose((*a.center[row], a.side[row], a.reference[row]), (*center, side, p["head"]), rtol=1e-5)
        assert len(a.others(row)) == sum(q["picture"] == p["picture"] for q in people) - 1
    single, multi = load_mpii(file, people="single"), load_mpii(file, people="multi")
    assert len(single) == sum(p["single"] for p in usable) and len(multi) == len(a) - len(single)
    test = load_mpii(file, "test")
    assert len(test) == sum(not p["train"] for p in people) and not test.visible.any() and np.isfinite(test.side).all()
    assert any("bystanders" in note for note in a.notes) == any(p["train"] and not p["posed"] for p in people)


def test_the_split_is_that_of_the_public_files_and_their_order(mpii_folder, tmp_path):
    official, read = mpii_folder / "mpii_human_pose_v1_u12_1.mat", {}
    for name, beside in (("json", ["mpii_annotations.json"]), ("h5", ["valid.h5", "train.h5"]), ("one", ["valid.h5"])):
        (tmp_path / name).mkdir()
        for file in (official.name, *beside): shutil.copy(mpii_folder / file, tmp_path / name)
        read[name] = {split: load_mpii(tmp_path / name, split) for split in ("train", "val")}
    for split in ("train", "val"):
        for name in ("h5", "one"): np.testing.assert_array_equal(read[name][split].crowd.ids[read[name][split].member].tolist(),
                                                                 read["json"][split].crowd.ids[read["json"][split].member].tolist())
    (tmp_path / "bare").mkdir()
    shutil.copy(official, tmp_path / "bare")
    with pytest.raises(FileNotFoundError, match="does not say who validates; put mpii_annotations.json or valid.h5 beside it"):
        load_mpii(tmp_path / "bare", "val")
    content = json.loads((mpii_folder / "mpii_annotations.json").read_text())
    put(tmp_path / "bare" / "mpii_annotations.json", [content[0] | {"people_index": 9.0}])
    with pytest.raises(ValueError, match=r"person 9 of picture \d+ is in the public .* split, but not annotated here"):
        load_mpii(tmp_path / "bare", "val" if content[0]["isValidation"] else "train")


def test_the_forms_of_mpii_agree(mpii_folder, tmp_path):
    "Official, JSON, h5 and HRNet's list of the same people: the same squares, joints to the truncation, heads."
    shutil.copy(mpii_folder / "mpii_annotations.json", tmp_path)
    official, listed, stored = load_mpii(mpii_folder, "val"), load_mpii(tmp_path, "val"), load_mpii(mpii_folder / "valid.h5")
    content = [p for p in json.loads((mpii_folder / "mpii_annotations.json").read_text()) if p["isValidation"]]
    points = [np.array(p["joint_self"])[:, :2] for p in content]
    hrnet = [{"joints": xy.tolist(), "joints_vis": (xy != 0).any(1).astype(int).tolist(),
              "image": p["img_paths"], "center": p["objpos"], "scale": p["scale_provided"]}
             for p, xy in zip(content, points, strict=True)]
    flat = load_mpii(put(tmp_path / "valid.json", hrnet))
    for other in (listed, stored, flat):
        np.testing.assert_allclose(other.center, official.center, atol=1e-3)
        np.testing.assert_allclose(other.side, official.side, rtol=1e-6)
        np.testing.assert_allclose(other.joints, official.joints, atol=1.0 if other is stored else 1e-3)
        np.testing.assert_array_equal(other.visible > 0, official.visible > 0)
    np.testing.assert_array_equal(listed.visible, official.visible)
    for other in (stored, listed, flat): np.testing.assert_allclose(other.reference, official.reference, rtol=1e-4)
    posed = official.crowd.visible.any(1)
    assert listed.n_others.tolist() == [int(posed[official.others(i)].sum()) for i in range(len(official))]
    assert [note for note in listed.notes if "0.75 times neck to head top" in note] and (flat.visible != 1).all()
    packed = tmp_path / "mpii_annotations.json.gz"
    packed.write_bytes(gzip.compress((tmp_path / "mpii_annotations.json").read_bytes()))
    same(load_mpii(packed, "val", images=tmp_path), load_mpii(tmp_path / "mpii_annotations.json", "val", images=tmp_path))


def test_exact_joints_and_heads_come_from_the_file_beside(mpii_folder, tmp_path):
    shutil.copy(mpii_folder / "mpii_annotations.json", tmp_path)
    a = load_mpii(tmp_path, "val")
    joints, missing = (a.joints + 1).transpose(1, 2, 0) + 0.25, (a.visible == 0).T
    joints[9, :, 0] = -3.5                                                  # a head top above the picture
    boxes = np.zeros((2, 2, len(a)))
    boxes[1] = 30 + np.arange(len(a))
    file = tmp_path / "detections_our_format.mat"
    scipy.io.savemat(file, {"pos_gt_src": joints, "jnt_missing": missing.astype(np.uint8), "headboxes_src": boxes})
    with pytest.raises(ValueError, match="joints and head boxes without pictures; give the folder"): load_mpii(file)
    exact = load_mpii(tmp_path, "val")
    np.testing.assert_allclose(exact.reference, 0.6 * np.sqrt(2) * (30 + np.arange(len(a))), rtol=1e-6)
    np.testing.assert_array_equal(exact.visible, a.visible)
    assert exact.joints[0, 9].tolist() == [-4.5, -4.5] and exact.visible[0, 9] > 0 and "1 people differ there" in exact.notes[-1]
    scipy.io.savemat(file, {"pos_gt_src": joints[..., ::-1], "jnt_missing": missing.astype(np.uint8), "headboxes_src": boxes})
    with pytest.raises(ValueError, match="are its people in another order"): load_mpii(tmp_path, "val")
    scipy.io.savemat(file, {"pos_gt_src": joints[..., 1:], "jnt_missing": missing.astype(np.uint8)[:, 1:], "headboxes_src": boxes[..., 1:]})
    with pytest.raises(ValueError, match="they do not belong together"): load_mpii(tmp_path, "val")


@pytest.mark.parametrize("often, message", [(1, None), (2, "adjusted more than once"), (0, "adjusted not at all")])
def test_adjusting_twice_or_never_is_noticed(tmp_path, often, message):
    "Row 19: 250 whole people, their squares 1.45 times their extent when adjusted once; the file holds what it should not."
    rng = np.random.default_rng(0)
    xy = rng.uniform(100, 400, (250, 16, 2)).round()
    extent = (xy.max(1) - xy.min(1)).max(-1)
    scale = 1.45 * extent / 250 * 1.25 ** often / 1.25                       # of a raw file
    people = [{"joints": p.tolist(), "joints_vis": [1] * 16, "image": "a.jpg", "center": p.mean(0).tolist(), "scale": float(s)}
              for p, s in zip(xy, scale, strict=True)]
    file = put(tmp_path / "train.json", people)
    if message is None: assert len(load_mpii(file)) == 250
    else:
        with pytest.raises(ValueError, match=message): load_mpii(file)


def test_bad_files_of_mpii(mpii_folder, tmp_path):
    official = (mpii_folder / "mpii_human_pose_v1_u12_1.mat").read_bytes()
    (tmp_path / "half.mat").write_bytes(official[:len(official) // 2])
    with pytest.raises(ValueError, match="half.mat: (damaged or cut off|not a MATLAB file)"): load_mpii(tmp_path / "half.mat")
    scipy.io.savemat(tmp_path / "other.mat", {"poses": np.ones(3)})
    with pytest.raises(ValueError, match="no variable 'RELEASE' in it, so not the annotations of MPII; it holds poses"):
        load_mpii(tmp_path / "other.mat")
    scipy.io.savemat(tmp_path / "bare.mat", {"RELEASE": struct(annolist=np.zeros((1, 2)))})
    with pytest.raises(ValueError, match="RELEASE lacks annolist, img_train or single_person"): load_mpii(tmp_path / "bare.mat")
    scipy.io.savemat(tmp_path / "lie.mat", {"RELEASE": release([struct(name="a.jpg")] * 3, [[rect()]] * 3, [1, 1], [[]] * 3)})
    with pytest.raises(ValueError, match="3 pictures in annolist, 2 in img_train, 3 in single_person"): load_mpii(tmp_path / "lie.mat")
    scipy.io.savemat(tmp_path / "lie.mat", {"RELEASE": release([struct(name="a.jpg"), struct(other=1)], [[rect()]] * 2, [1, 1], [[]] * 2)})
    with pytest.raises(ValueError, match="picture 2 of annolist: not as the data set's page describes it"): load_mpii(tmp_path / "lie.mat")
    wrong = rect()
    wrong[0, 0]["scale"] = "tall"
    scipy.io.savemat(tmp_path / "lie.mat", {"RELEASE": release([struct(name="a.jpg")], [[wrong]], [1], [[]])})
    with pytest.raises(ValueError, match="picture 1 of annolist: .*tall"): load_mpii(tmp_path / "lie.mat")
    (tmp_path / "valid.h5").write_bytes((mpii_folder / "valid.h5").read_bytes()[:3000])
    with pytest.raises(ValueError, match="valid.h5: not an HDF5 file, or cut off"): load_mpii(tmp_path / "valid.h5")
    with h5py.File(tmp_path / "few.h5", "w") as stored: stored["part"] = np.zeros((3, 16, 2))
    with pytest.raises(ValueError, match="few.h5: no center in it; it holds part"): load_mpii(tmp_path / "few.h5")
    shutil.copy(mpii_folder / "valid.h5", tmp_path / "uneven.h5")
    with h5py.File(tmp_path / "uneven.h5", "a") as stored: scale = stored["scale"][1:]; del stored["scale"]; stored["scale"] = scale
    with pytest.raises(ValueError, match="rows of scale.*each person needs one of each"): load_mpii(tmp_path / "uneven.h5")
    with pytest.raises(ValueError, match="expected a list with a record per person, got dict; load_coco"):
        load_mpii(put(tmp_path / "x.json", {"a": 1}))
    content = json.loads((mpii_folder / "mpii_annotations.json").read_text())
    del content[3]["objpos"]
    with pytest.raises(ValueError, match="record 3: has no 'objpos'"): load_mpii(put(tmp_path / "x.json", content))
    content[3] = content[2] | {"joint_self": [[1, 2, 3]]}
    with pytest.raises(ValueError, match="record 3: cannot reshape"): load_mpii(put(tmp_path / "x.json", content))
    with pytest.raises(FileNotFoundError, match="no annotations of MPII in it; looked for mpii_human.*data_scripts/mpii.py gets it"):
        load_mpii(written(tmp_path / "leeds", matrix()))
    with pytest.raises(ValueError, match="'everybody' of MPII; known are all, single, multi"): load_mpii(mpii_folder, people="everybody")
    with pytest.raises(ValueError, match="does not say who stands alone"): load_mpii(mpii_folder / "valid.h5", people="single")
    with pytest.raises(ValueError, match="holds no test pictures"): load_mpii(mpii_folder / "mpii_annotations.json", "test")


# FLIC

def flic_people(count: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    "Joints of people by their own sides, and which of them turn their backs."
    rng = np.random.default_rng(seed)
    return rng.uniform(100, 300, (count, 11, 2)), np.arange(count) % 4 == 0


def write_flic(file: Path, joints: np.ndarray, torso: np.ndarray) -> None:
    with h5py.File(file, "w") as stored:
        m = len(joints)
        stored["center"], stored["scale"], stored["part"] = np.full((m, 2), 240.0), np.full(m, 2.2), joints
        stored["visible"] = np.ones((m, 11))
        stored["imgname"], stored["normalize"] = np.array([f"film-{i}.jpg" for i in range(m)], "S43"), torso


@pytest.fixture
def flic_folder(tmp_path) -> Path:
    for stem, seed in (("train", 0), ("valid", 1)):
        joints, behind = flic_people(seed=seed)
        torso = np.linalg.norm(joints[:, FLIC.index("right_shoulder")] - joints[:, FLIC.index("left_hip")], axis=1)
        write_flic(tmp_path / f"{stem}_personcentric.h5", joints, torso)
        write_flic(tmp_path / f"{stem}.h5", np.where(behind[:, None, None], joints[:, list(FLIC.flip)], joints), torso)
    return tmp_path


def test_flic_in_both_conventions(flic_folder):
    joints, behind = flic_people()
    own, seen = load_flic(flic_folder, "train"), load_flic(flic_folder, "train", sides="observer")
    np.testing.assert_allclose(own.joints, joints - 1, rtol=1e-5)
    np.testing.assert_array_equal(own.reference, seen.reference)
    np.testing.assert_allclose(torso_length(own.joints, own.visible, FLIC), own.reference, rtol=1e-5)
    np.testing.assert_array_equal((own.joints != seen.joints).any((1, 2)), behind)
    assert len(load_flic(flic_folder)) == 24 and len(load_flic(flic_folder, "val")) == 12 and own.side[0] == 440 and own.center[0, 0] == 239
    with pytest.raises(ValueError, match=r"observer's left and right \(3 people are seen from behind\)"):
        load_flic(flic_folder / "train.h5")
    with h5py.File(flic_folder / "train.h5", "a") as stored:                                    # those of persons 0, 4, 8
        for i in (0, 4): stored["part"][i] = stored["part"][i][list(FLIC.flip)]
    with pytest.raises(ValueError, match=r"observer's left and right \(1 person is seen from behind\)"):
        load_flic(flic_folder / "train.h5")
    assert len(load_flic(flic_folder / "train.h5", sides="observer")) == 12
    with h5py.File(flic_folder / "train.h5", "a") as stored: stored["normalize"][5] = 1
    with pytest.raises(ValueError, match="person 5: normalize is 1.00, no diagonal of the torso"):
        load_flic(flic_folder / "train.h5", sides="observer")
    with pytest.raises(ValueError, match="'left' of FLIC; known are person, observer"): load_flic(flic_folder, sides="left")


def test_the_official_file_of_flic(tmp_path):
    rng = np.random.default_rng(0)
    fields = ("coords", "torsobox", "filepath", "istrain", "istest", "imgdims")
    examples = np.empty((1, 9), [(name, object) for name in fields])
    coords = rng.uniform(100, 400, (9, 2, 29))
    coords[:, :, 7] = np.nan                                                  # a knee, as in the real file
    box, size = np.array([[100, 50, 200, 300]]), np.array([[480, 720, 3]])
    for i in range(9): examples[0, i] = coords[i], box, f"{i}.jpg", float(i < 5), float(5 <= i < 8), size
    scipy.io.savemat(tmp_path / "examples.mat", {"examples": examples})
    with pytest.raises(ValueError, match="has the observer's left and right; pass sides='observer'"): load_flic(tmp_path)
    read = {split: load_flic(tmp_path, split, sides="observer") for split in ("train", "val", "all")}
    assert [len(a) for a in read.values()] == [5, 3, 8] and [Path(p).name for p in read["val"].paths] == ["5.jpg", "6.jpg", "7.jpg"]
    kept = [0, 1, 2, 3, 4, 5, 6, 9, 12, 13, 16]
    np.testing.assert_allclose(read["train"].joints, coords[:5][:, :, kept].transpose(0, 2, 1) - 1, rtol=1e-5)
    assert (read["all"].visible == 2).all() and read["all"].center[0].tolist() == [149, 239]
    examples[0, 2]["imgdims"] = np.zeros((0, 0))
    scipy.io.savemat(tmp_path / "examples.mat", {"examples": examples})
    with pytest.raises(ValueError, match="examples.mat: record 2"): load_flic(tmp_path, sides="observer")


# LSP and LSPET

def test_a_folder_and_its_file_read_the_same(folder):
    a, b = load_lspet(folder, "val"), load_lspet(folder / "joints.mat", "val")
    same(a, b)
    assert len(a) == 500 and a.notes == () and a.skeleton is LSP


def test_the_numbers_are_those_of_the_file_minus_one(folder):
    table, read = matrix()[:, :, 9000:9500].transpose(2, 0, 1), load_lspet(folder, "val")
    labelled = table[..., 2] == 1
    np.testing.assert_allclose(read.joints[labelled], table[..., :2][labelled] - 1, rtol=1e-6)
    assert (read.joints[~labelled] == 0).all()
    np.testing.assert_array_equal(read.visible, np.where(labelled, 2, 0))
    assert [Path(p).name for p in read.paths] == [f"im{n:05d}.jpg" for n in range(9001, 9501)]


def test_the_splits_do_not_overlap():
    assert LSPET_SPLITS == {"train": (1, 9000), "val": (9001, 9500), "all": (1, 10000)}


def test_the_original_set_has_other_axes_and_another_flag(tmp_path):
    table = matrix()[:, :, :2000].transpose(1, 0, 2)
    read = load_lsp(written(tmp_path / "x", table), "val")
    assert len(read) == 1000 and Path(read.paths[0]).name == "im1001.jpg" and (read.visible > 0).all()
    np.testing.assert_array_equal(read.visible == 1, table[2, :, 1000:].T == 1)
    np.testing.assert_allclose(read.joints, table[:2, :, 1000:].transpose(2, 1, 0) - 1, rtol=1e-6)
    with pytest.raises(ValueError, match="the original Leeds Sports Pose, in which flag 1 means occluded: load_lsp reads it"):
        load_lspet(tmp_path / "x")
    with pytest.raises(ValueError, match="Leeds Sports Pose Extended, in which flag 1 means labelled: load_lspet reads it"):
        load_lsp(written(tmp_path / "y", matrix()))


@pytest.mark.parametrize("labels", [0, 1])
def test_a_person_with_too_few_labels_is_named(tmp_path, labels):
    table = matrix()
    table[:, 2, 9001] = np.arange(14) < labels
    with pytest.raises(ValueError, match=f"im09002.jpg: {labels} joints are labelled; a person is located by at least two"):
        load_lspet(written(tmp_path / "x", table), "val")


@pytest.mark.parametrize("shape", [(14, 3, 2000), (5, 5)])
def test_another_shape_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=re.escape(f"shape {shape}; Leeds Sports Pose Extended has (14, 3, 10000)")):
        load_lspet(written(tmp_path / "x", np.zeros(shape)), "val")


def changed(j, k, i, value):
    table = matrix(); table[j, k, i] = value
    return table


@pytest.mark.parametrize("table, message", [
    (changed(4, 2, 7, 2), "im00008.jpg, left_knee: flag 2.0"),
    (changed(2, 1, 0, np.nan), "im00001.jpg, right_hip: labelled, but its coordinates")])
def test_wrong_entries_are_found_by_picture_and_joint(tmp_path, table, message):
    with pytest.raises(ValueError, match=message): load_lspet(written(tmp_path / "x", table))


def test_files_that_are_none(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder; data_scripts/lspet.py gets it"):
        load_lspet(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="looked for joints.mat; data_scripts/lspet.py gets it"): load_lspet(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"there is one in {re.escape(str(folder))}"): load_lspet(folder.parent)
    (tmp_path / "text.mat").write_text("these are words, and not what MATLAB writes " * 9)
    (tmp_path / "empty.mat").touch()
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(500))
    (tmp_path / "half.mat").write_bytes((folder / "joints.mat").read_bytes()[:100000])
    for name in ("text", "empty"):
        with pytest.raises(ValueError, match=rf"{name}.mat: not a MATLAB file, or damaged"): load_lspet(tmp_path / f"{name}.mat")
    with pytest.raises(ValueError, match="half.mat: (damaged or cut off|not a MATLAB file)"): load_lspet(tmp_path / "half.mat")
    with pytest.raises(ValueError, match="new.mat: MATLAB's format 7.3"): load_lspet(tmp_path / "new.mat")
    other = written(tmp_path / "y", matrix(), name="poses")
    with pytest.raises(ValueError, match="no variable 'joints' in it; it holds poses"): load_lspet(other)
    with pytest.raises(ValueError, match="split 'test' of LSPET; known are train, val, all"): load_lspet(folder, "test")


# any source

def test_a_source_finds_its_reader(folder, mpii_folder, flic_folder, tmp_path):
    for source in (folder, str(folder), folder / "joints.mat"): assert load_annotations(source, "val").name == "lspet val"
    assert load_annotations(written(tmp_path / "lsp", matrix()[:, :, :2000].transpose(1, 0, 2)), "val").name == "lsp val"
    (tmp_path / "flic").mkdir()
    for name in ("train.h5", "train_personcentric.h5", "valid_personcentric.h5"): shutil.move(flic_folder / name, tmp_path / "flic")
    (flic_folder / "valid.h5").unlink()
    assert len(load_annotations(tmp_path / "flic", "all")) == 24 and load_annotations(mpii_folder, "val").name == "mpii val"
    assert load_annotations(mpii_folder / "train.h5").name == "mpii train"
    (tmp_path / "coco").mkdir()
    put(tmp_path / "coco" / "notes.json", {"a": 1}); put(tmp_path / "coco" / "list.json", [1, 2])
    for split in ("train", "val"): put(tmp_path / "coco" / f"{split}.json", coco_file(info={"description": split[0]}))
    with pytest.raises(ValueError, match="coco: holds a file for each split; ask for one of them"): load_annotations(tmp_path / "coco")
    with pytest.raises(ValueError, match="coco: holds train and val; ask for one of these splits"): load_coco(tmp_path / "coco")
    (tmp_path / "half").mkdir()
    put(tmp_path / "half" / "person_keypoints_train2017.json", coco_file())
    with pytest.raises(ValueError, match="half: holds train, not val"): load_annotations(tmp_path / "half", "val")
    assert len(load_annotations(tmp_path / "half")) == len(load_annotations(tmp_path / "half", "train")) == 2
    shutil.copy(mpii_folder / "valid.h5", tmp_path / "half")
    with pytest.raises(ValueError, match="half: holds a file for each split"): load_annotations(tmp_path / "half")
    assert load_annotations(tmp_path / "coco", "val").name == "v" and load_annotations(tmp_path / "coco", "train").name == "t"
    with pytest.raises(FileNotFoundError, match="no such file or folder"): load_annotations(tmp_path / "x")
    with pytest.raises(FileNotFoundError, match="no annotations in it, but in .*coco: give that folder"): load_annotations(tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ValueError, match=r"no annotations in it; looked for MPII \(.mat"): load_annotations(tmp_path / "bare")
    put(tmp_path / "bare" / "list.json", [1, 2])
    with pytest.raises(ValueError, match="none of its 1 .mat, .h5 and .json files is of annotations known here"):
        load_annotations(tmp_path / "bare")
    (tmp_path / "labels.csv").write_text("x,y")
    with pytest.raises(ValueError, match="not a file of annotations known here; looked for"): load_annotations(tmp_path / "labels.csv")


# what is in it, and generated people as files

def test_a_description_counts(tmp_path):
    visible = np.zeros((4, 14), int)
    visible[:, 0], visible[1:, 3] = [1, 1, 2, 2], 2
    d = table_of(4, visible=visible, reference=[10, np.nan, 20, 30], side=[10, 20, 30, 100], notes=("two left out",)).describe()
    numbers = d.to_dict()
    assert numbers["joints"]["right_ankle"] == {"annotated": 4, "occluded": 2}
    assert numbers["joints"]["left_hip"] == {"annotated": 3, "occluded": 0}
    assert numbers["side"] == {"least": 10, "median": 25, "most": 100}
    assert numbers["without_reference"] == 1 and numbers["people_per_picture"]["2"] == 2
    text = str(d)
    assert "| right ankle | 4 | 100.0 | 2 | 50.0 |" in text and "Two left out." in text and "| pictures | 4 |" in text
    json.dumps(numbers)
    assert "not known" in str(table_of(2, reference=[np.nan] * 2).describe())
    assert "| people | 0, and 0" in str(table_of(3)[[]].trimmed().describe())


def test_a_data_set_is_where_it_is_named_or_else_under_msspose_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("here/one", "shelf/one", "shelf/two"): (tmp_path / folder).mkdir(parents=True)
    monkeypatch.delenv("MSSPOSE_DATA", raising=False)
    assert located("two") == Path("two") and located("here/one") == Path("here/one")
    monkeypatch.setenv("MSSPOSE_DATA", str(tmp_path / "shelf"))
    assert located("two") == tmp_path / "shelf" / "two" and located("here/one") == Path("here/one") and located("three") == Path("three")
    (tmp_path / "two").mkdir()
    assert located("two") == Path("two") and located(tmp_path / "nowhere") == tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match="three: no such file or folder, neither here nor under MSS"): load_annotations("three")


def test_generated_people_as_files(tmp_path):
    a = write_people(tmp_path / "set", "crowd", "val", 20, size=32)
    people = People("crowd", "val", 32).batch(range(20))
    assert len(a) == 20 and all(Path(p).is_file() for p in a.paths) and a.skeleton == MPII and set(a.side) == {32}
    np.testing.assert_allclose(a.joints - 12, people.joints.numpy(), atol=1e-3)
    np.testing.assert_allclose(a.reference, people.reference.numpy(), rtol=1e-5)
    assert a.n_others.tolist() == (people.others_visible > 0).any(-1).sum(1).tolist()
    with Image.open(a.paths[3]) as picture: assert picture.size == (56, 56)
    same(a, load_annotations(tmp_path / "set", "val"))
    whose, joints, _ = a.company
    made, theirs, _ = (t.numpy() for t in People("crowd", "val", 32).company)
    assert whose.tolist() == sorted(made[made < 20].tolist())
    np.testing.assert_allclose(np.sort(joints.ravel() - 12), np.sort(theirs[made < 20].ravel()), atol=1e-3)
    figure = a.describe().contact_sheet(5, cols=3, size=40)
    assert sum(bool(ax.images) for ax in figure.axes) == 5
    before = {p: p.read_bytes() for p in (tmp_path / "set").rglob("*.*")}
    write_people(tmp_path / "set", "crowd", "val", 20, size=32)
    assert before == {p: p.read_bytes() for p in (tmp_path / "set").rglob("*.*")}


# the real ones

@pytest.fixture(scope="module")
def val(real_data): return load_mpii(real_data / "mpii_val", "val")


def test_real_mpii(real_data, val):
    folder = real_data / "mpii_val"
    train = load_mpii(folder, "train")
    assert (len(train), len(val)) == (22246, 2958) and len(load_mpii(folder).crowd) == 28883
    with h5py.File(folder / "valid.h5") as stored: head = stored["normalize"][()]
    np.testing.assert_allclose(val.reference, head, atol=1e-3)                # made from head boxes, as stored
    assert ((val.joints[:, 9] < 0).any(1) & (val.visible[:, 9] > 0)).sum() == 48
    assert len(val.crowd) - len(val) == 3679 and len(train.crowd) == len(train)                # bystanders are in validation pictures only
    assert np.bincount(val.n_others.clip(max=4)).tolist() == [1205, 707, 303, 264, 479]
    stored = load_mpii(folder / "valid.h5")
    assert val.source == str(folder / "mpii_annotations.json.gz")             # of all files in the folder
    np.testing.assert_allclose(stored.center, val.center, atol=0.01)
    np.testing.assert_allclose(stored.side, val.side, atol=0.13)              # scale is rounded to a thousandth in the JSON
    assert [Path(p).name for p in stored.paths] == [Path(p).name for p in val.paths]
    assert round((val.visible == 1).sum() / (val.visible > 0).sum(), 2) == 0.23
    whole = (val.visible > 0).all(1)
    assert 1.42 < np.median(val.side[whole] / (val.joints[whole].max(1) - val.joints[whole].min(1)).max(-1)) < 1.46
    detections = [note for note in val.notes if "detections" in note]
    assert detections == ["joints and head sizes from detections_our_format.mat; 10 people differ there by more than 2 pixels"]


def test_real_heads_follow_from_neck_and_head_top(real_data, val, tmp_path):
    shutil.copy(real_data / "mpii_val" / "mpii_annotations.json.gz", tmp_path)
    made, exact = load_mpii(tmp_path, "val").reference, val.reference
    known = np.isfinite(made)
    assert known.sum() == 2932 and (abs(made - exact)[known] < 0.1).mean() > 0.94 and (abs(made / exact - 1)[known] > 0.05).sum() == 2


def test_real_lists_of_hrnet(real_data):
    a, b = load_mpii(real_data / "mpii_images" / "hrnet_format.json"), load_mpii(real_data / "mpii_val" / "valid.h5")
    for i, path in enumerate(a.paths):
        there = [j for j in range(len(b)) if Path(b.paths[b.image[j]]).name == Path(path).name]
        k = [j for j in there if np.abs(b.joints[j] - a.joints[i]).max() < 1.01]
        assert len(k) == 1
        np.testing.assert_allclose(a.center[i], b.center[k[0]], atol=0.01)
        np.testing.assert_allclose(a.side[i], b.side[k[0]], atol=0.13)


@pytest.mark.parametrize("sides", ["person", "observer"])
def test_real_flic(real_data, sides):
    read = {split: load_flic(real_data / "flic", split, sides=sides) for split in ("train", "val", "all")}
    assert [len(a) for a in read.values()] == [3987, 1016, 5003]
    for split, stem in (("train", "train"), ("val", "valid")):
        with h5py.File(real_data / "flic" / f"{stem}.h5") as stored: torso = stored["normalize"][()]
        np.testing.assert_allclose(read[split].reference, torso, atol=1e-3)
        measured = torso_length(read[split].joints, read[split].visible, FLIC)
        if sides == "person": np.testing.assert_allclose(measured, torso, atol=1e-3)


def test_real_coco(real_data):
    a = load_coco(real_data / "coco_mini", images=real_data / "coco_mini" / "train2017")
    assert (len(a), len(a.crowd), len(a.paths)) == (86, 147, 28) and a.notes == ("86 of 172 people without annotated joints: bystanders",)
    assert all(Path(path).is_file() for path in a.paths)
    for i, path in enumerate(a.paths):
        with Image.open(path) as picture: assert picture.size == tuple(a.sizes[i])


def test_real_tables_come_back_from_their_files(real_data, val, tmp_path):
    tables = val, load_coco(real_data / "coco_mini"), load_flic(real_data / "flic", "val")
    for i, a in enumerate(tables):
        same(a, load_coco(save_coco(a, tmp_path / f"{i}.json")))


def test_real_lspet_is_what_the_chapter_says(real_data):
    train, val, whole = (load_lspet(real_data / "lspet", split) for split in ("train", "val", "all"))
    assert (len(train), len(val), len(whole), (whole.visible > 0).sum()) == (9000, 500, 10000, 123213)
    both = whole[:9500]                                                                # those whose pictures are here
    assert all(Path(path).is_file() for path in both.trimmed().paths)
    assert (both.visible > 0).sum() == 117002 and np.isnan(both.reference).sum() == 1623 and np.isnan(val.reference).sum() == 84
    seen = both.visible > 0
    assert (~(seen[:, 8] & seen[:, 3])).sum() == 2714                                  # without the other diagonal
    np.testing.assert_allclose(np.median(both.side) / 1.4, 118.2, atol=0.1)


def test_hands_heads_and_feet_fit_into_the_square(real_data):
    a = load_lspet(real_data / "lspet")[:9500]
    joints = np.where(a.visible[..., None] > 0, a.joints, np.nan)
    def beyond(end, start, share): return joints[:, end] + share * (joints[:, end] - joints[:, start])
    def inside(places):
        far = abs(places - a.center[:, None]).max(-1)
        return (far <= a.side[:, None] / 2)[np.isfinite(far)].mean()
    assert round(inside(beyond([6, 11], [7, 10], 0.75)), 2) == 0.94
    assert round(inside(beyond([0, 5], [1, 4], 0.3)), 3) == 0.999
    assert inside(beyond([13], [12], 0.15)) == 1


# all together

def test_tables_say_what_they_said(tmp_path):
    a = table_of(5, reference=[10, np.nan, 20, 30, 40], visible=np.arange(70).reshape(5, 14) % 3)
    assert repr(a) == "Annotations(made: 5 people in 3 pictures, 14 joints of lsp, 46 annotated; reference length known for 4)"
    as_remembered("a description", str(a.describe()).splitlines())
    as_remembered("a description, as numbers", a.describe().to_dict())
    written = save_coco(replace(a, paths=tuple(tmp_path / f"{i}.jpg" for i in range(5))), tmp_path / "made.json")
    as_remembered("a file of COCO", json.loads(written.read_text()))


def test_generated_people_are_written_as_they_were(tmp_path):
    people = write_people(tmp_path, "crowd", "val", 3, size=32)
    as_remembered("people as files", replace(people, paths=("a.jpg", "b.jpg", "c.jpg")))
