"From a picture and a box to a pose: what is taken for a picture, geometry, batches, second looks, detections."
import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from conftest import ROOT
from PIL import Image
from remembered import as_remembered

from msspose.checks import EXERCISES, judge
from msspose.crops import crop
from msspose.data import square_of
from msspose.evaluation import Truth, evaluate
from msspose.heatmaps import encode
from msspose.hourglass import StackedHourglass
from msspose.inference import (
    SIX_SCALES,
    TRIALS,
    Detections,
    Pose,
    PoseEstimator,
    Square,
    Thresholds,
    as_boxes,
    as_picture,
    calibrate,
    draw_poses,
    fuse,
    load_detections,
    near,
    photographs,
    place,
    separator,
    testing_schemes,
    trial_heatmaps,
)
from msspose.people import People
from msspose.regression import PoseNet
from msspose.runs import load_model, load_tensors, model_card, model_file, save_model, save_tensors, shipped_models
from msspose.skeleton import LSP, MPII

testing_schemes.__test__ = False   # its name is no test's


@pytest.fixture(scope="module")
def estimator():
    "A network whose heatmaps are not all the same: its head is not the small one of the initialisation."
    model = StackedHourglass(1, 16, width=16, depth=3)
    with torch.no_grad(): model.stacks[0].head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return PoseEstimator(model, MPII, 64)


@pytest.fixture(scope="module")
def people_model(): return PoseEstimator.from_pretrained("people")


class Finder(torch.nn.Module):
    "A network that answers with a peak where a crop is brightest, and with nothing where it is black: its answers are known."

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        shrunk = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)
        peak = shrunk.flatten(1).argmax(1)
        joints = torch.stack([peak % shrunk.shape[-1], peak // shrunk.shape[-1]], -1)[:, None].float().expand(-1, 16, -1)
        height = shrunk.amax((1, 2, 3))[:, None, None, None] * self.scale
        return [[encode(joints, torch.ones(joints.shape[:2]), shrunk.shape[-1]) * height]]


def spot(x, y, width=200, height=150, side=9):
    "A black picture with a bright square around a place."
    image = np.zeros((height, width, 3), np.uint8)
    image[max(0, y - side // 2):y + side // 2 + 1, max(0, x - side // 2):x + side // 2 + 1] = 255
    return image


finder = PoseEstimator(Finder(), MPII, 64)


# --- what is a picture -----------------------------------------------------------------------------------------------------------------

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]
ALPHA = np.dstack([RGB, np.full((6, 8), 128, np.uint8)])
ON_BLACK = np.array(Image.alpha_composite(Image.new("RGBA", (8, 6), (0, 0, 0, 255)), Image.fromarray(ALPHA)).convert("RGB"))
tensor = torch.from_numpy


@pytest.mark.parametrize("picture, expected", [
    (RGB, RGB), (RGB.transpose(2, 0, 1), RGB), (GREY, np.dstack([GREY] * 3)), (GREY[..., None], np.dstack([GREY] * 3)),
    (GREY[None], np.dstack([GREY] * 3)), (ALPHA, ON_BLACK), (ALPHA.transpose(2, 0, 1), ON_BLACK),
    (RGB.astype(np.uint16) * 257, RGB), (GREY.astype(np.uint16) * 257 + 100, np.dstack([GREY] * 3)),
    (RGB / 255, RGB), ((RGB / 255).astype(np.float32), RGB), ((RGB / 255).astype(np.float16), RGB),
    (RGB > 127, np.where(RGB > 127, 255, 0).astype(np.uint8)), (RGB[::-1, ::-1], RGB[::-1, ::-1]),
    (tensor(RGB), RGB), (tensor(RGB).permute(2, 0, 1), RGB), (tensor(GREY), np.dstack([GREY] * 3)),
    (tensor(RGB).permute(2, 0, 1).double() / 255, RGB), ((tensor(RGB).float() / 255).requires_grad_(), RGB),
    (tensor(RGB / 255 * 1.05 - 0.02).permute(2, 0, 1), np.round((RGB / 255 * 1.05 - 0.02).clip(0, 1) * 255).astype(np.uint8)),
    (Image.fromarray(RGB), RGB), (Image.fromarray(GREY), np.dstack([GREY] * 3)), (Image.fromarray(ALPHA), ON_BLACK),
    (Image.fromarray(GREY).convert("P"), np.dstack([GREY] * 3)), (Image.fromarray(GREY.astype(np.uint16) * 257), np.dstack([GREY] * 3))],
    ids=range(25))
def test_all_kinds_of_pictures_become_one_kind(picture, expected):
    found = as_picture(picture)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_bfloat16_and_half_tensors_are_pictures():
    for kind in (torch.bfloat16, torch.float16):
        assert np.abs(as_picture(tensor(RGB / 255).to(kind)).astype(int) - RGB).max() <= 1


def test_where_both_orders_are_possible_tensors_have_channels_first_and_arrays_last():
    square = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    np.testing.assert_array_equal(as_picture(square), square)
    np.testing.assert_array_equal(as_picture(tensor(square)), square.transpose(1, 2, 0))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_pictures_lie_as_exif_says_from_a_file_and_from_pillow(tmp_path, suffix):
    image = Image.fromarray(np.repeat(np.repeat(RGB, 8, 0), 8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6                                                   # turn clockwise by 90 degrees to see it
    image.save(tmp_path / f"turned{suffix}", exif=exif, quality=100)
    for found in (as_picture(tmp_path / f"turned{suffix}"), as_picture(str(tmp_path / f"turned{suffix}")),
                  as_picture(Image.open(tmp_path / f"turned{suffix}"))):
        assert found.shape == (64, 48, 3)
        assert np.abs(found.astype(int) - np.rot90(np.array(image), -1)).mean() < 30      # jpeg


@pytest.mark.parametrize("picture, said", [
    (RGB.astype(int), "int64; expected uint8, uint16"), (RGB.astype(float), "expected 0 to 1, so divide by 255"),
    (RGB / 127.5 - 1, "so undo the normalisation"), (np.full((4, 4), np.nan), "NaN or infinity"),
    (np.full((4, 4, 3), np.inf), "NaN or inf"),
    (RGB[:0], "has no pixels"), (RGB[None], "shape (1, 6, 8, 3)"), (RGB[..., :2], "shape (6, 8, 2)"), (RGB[0, 0], "shape (3,)"),
    ([1, 2], "a list; expected a path"), (None, "a NoneType"), (7, "a int"), (RGB.astype(complex), "complex128"), (RGB.astype("U"), "<U3")])
def test_what_is_no_picture_is_refused_by_name_in_one_line(picture, said):
    with pytest.raises(ValueError) as error: as_picture(picture, "picture 12")
    assert str(error.value).startswith("picture 12: ") and said in str(error.value) and "\n" not in str(error.value)


def test_damaged_pictures_are_refused(tmp_path):
    Image.fromarray(np.tile(RGB, (40, 40, 1))).save(tmp_path / "whole.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:9000])
    for picture in (tmp_path / "half.jpg", Image.open(tmp_path / "half.jpg")):
        with pytest.raises(ValueError, match="damaged or truncated"): as_picture(picture)
    with pytest.raises(ValueError, match="no such picture"): as_picture(tmp_path / "nowhere.png")


# --- what is a box ---------------------------------------------------------------------------------------------------------------------

@given(st.floats(-500, 500), st.floats(-500, 500), st.floats(1, 500), st.floats(1, 500))
def test_the_square_has_the_middle_of_the_box_and_contains_it(left, top, width, height):
    (x, y), side = square_of((left, top, width, height))
    assert x == pytest.approx(left + (width - 1) / 2) and y == pytest.approx(top + (height - 1) / 2)
    assert side == pytest.approx(1.25 * max(width, height))


@pytest.mark.parametrize("box, said", [
    ((0, 0, 0, 5), "positive width and height"), ((0, 0, 5, -1), "positive width and height"), ((0, 0, math.nan, 5), "box 0,0,nan,5"),
    ((math.inf, 0, 5, 5), "box inf,0,5,5"), ((0, -math.inf, 5, 5), "positive"),
    ((8, 0, 5, 5), "wholly outside the picture of 8 x 6 pixels"),
    ((0, 6, 5, 5), "wholly outside"), ((-5, 0, 5, 5), "wholly outside"), ((0, -9, 5, 9), "wholly outside")])
def test_a_box_that_cannot_be_cut_out_is_refused(box, said, estimator):
    with pytest.raises(ValueError) as error: estimator([RGB, RGB], [None, [(0, 0, 3, 3), box]])
    assert str(error.value).startswith("picture 1: ") and said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("boxes, said", [
    ((0, 0, 5, 5), "a single one is [box]"), ([[1, 2, 3]], "got (1, 3)"), ([[[0, 0, 5, 5]]], "got (1, 1, 4)"), ("abcd", "expected (M, 4)"),
    ([(0, 0, 5, 5), (0, 0, 5)], "expected (M, 4)"), ([("a", 0, 1, 1)], "expected (M, 4)"), ([None], "expected (M, 4)")])
def test_boxes_of_another_shape_are_refused(boxes, said):
    with pytest.raises(ValueError) as error: as_boxes(boxes, RGB, "street.jpg")
    assert str(error.value).startswith("street.jpg: ") and said in str(error.value)


def test_boxes_may_be_arrays_tensors_or_lists_and_hang_over_the_border(estimator):
    boxes = [[-3.0, -2, 6, 5], [4, 3, 20, 20]]
    for kind in (boxes, np.array(boxes), torch.tensor(boxes), tuple(map(tuple, boxes))):
        np.testing.assert_array_equal(as_boxes(kind, RGB), boxes)
    for empty in ([], np.zeros((0, 4)), torch.zeros(0, 4)): assert as_boxes(empty, RGB).shape == (0, 4)
    np.testing.assert_array_equal(as_boxes(None, RGB), [[0, 0, 8, 6]])
    assert len(estimator(RGB, boxes)) == 2
    with pytest.raises(ValueError, match="too large"): estimator(RGB, [(0, 0, 1e7, 1e7)])


# --- the estimator ---------------------------------------------------------------------------------------------------------------------

def picture_of(indices, size=96):
    images = People("plain", "val", size=size).batch(indices).images
    return (torch.cat(list(images), -1).permute(1, 2, 0) * 255).round().byte().numpy()


def test_joints_are_where_the_heatmap_of_the_crop_says(estimator):
    image, box = picture_of([1, 2]), (100.0, 4.0, 80.0, 90.0)
    pose, = estimator(image, [box], flip=False)
    center, side = square_of(box)
    with torch.no_grad(): heatmaps = estimator.model(crop(image, center, side, 64)[None])[-1][0][0]
    for n in range(16):
        peak = int(heatmaps[n].argmax())
        cell = np.array([peak % 16, peak // 16])
        expected = center - np.array([side, side]) / 2 + (cell + 0.5) * side / 16      # the middle of that cell in the photograph
        assert np.abs(pose.joints[n] - expected).max() <= side / 16 / 2 + 1e-3
        assert pose.confidence[n] == pytest.approx(heatmaps[n].max().item(), rel=1e-4)


@settings(max_examples=40)
@given(st.integers(20, 179), st.integers(20, 129), st.floats(60, 140), st.booleans(), st.integers(-15, 15), st.integers(-15, 15))
def test_a_bright_spot_is_found_where_it_is(x, y, side, flip, right, down):
    "Half pixels, cropping, mirroring and the way back together: an error of half a heatmap pixel would be 4 to 9 pixels here."
    box = (x + right - side / 2.5 + 0.5, y + down - side / 2.5 + 0.5, side / 1.25, side / 1.25)
    pose, = finder(spot(x, y), [box], flip=flip)
    assert np.abs(pose.joints - (x, y)).max() <= side / 16 * 0.75


def test_mirroring_exchanges_left_and_right_and_is_half_of_the_answer(estimator):
    image, box = picture_of([3]), [(8, 8, 80, 80)]
    square = Square(image, *(values[0] for values in square_of(np.array(box))))
    direct, both = estimator.heatmaps([square], flip=False), estimator.heatmaps([square], flip=True)
    mirrored = estimator.heatmaps([Square(image[:, ::-1].copy(), np.array([95, 0]) + [-1, 1] * square.center, square.side)], flip=False)
    expected = (direct + mirrored.flip(-1)[:, list(MPII.flip)]) / 2
    assert (both - expected).abs().max() < 2e-2 * direct.abs().max()                     # the crop of a mirror image is rounded elsewhere
    assert (both - direct).abs().max() > 0.1 * direct.abs().max()


def test_boxes_in_one_call_are_as_one_by_one(estimator):
    image, boxes = picture_of([1, 2, 3]), [(0, 0, 90, 90), (100, 5, 60, 80)]
    for together, box in zip(estimator(image, boxes), boxes, strict=True):
        alone, = estimator(image, [box])
        np.testing.assert_allclose(together.joints, alone.joints, atol=1e-3)


def test_without_a_box_the_whole_picture_is_one_person(estimator):
    image = picture_of([5])
    np.testing.assert_allclose(estimator(image)[0].joints, estimator(image, [(0, 0, 96, 96)])[0].joints)
    assert estimator(image, []) == [] and estimator([], []) == [] and estimator([]) == []


class Counting(Finder):
    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, images):
        self.batches.append(len(images))
        return super().forward(images)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 9))
def test_batches_are_full_whatever_pictures_show_and_nothing_is_mixed_up(counts, batch_size):
    counting = PoseEstimator(Counting(), MPII, 64)
    places = [[(20 + 15 * k, 30 + 7 * i) for k in range(count)] for i, count in enumerate(counts)]
    pictures = []
    for row in places:
        image = np.zeros((150, 200, 3), np.uint8)
        for x, y in row: image = np.maximum(image, spot(x, y, side=5))
        pictures.append(image)
    boxes = [[(x - 5, y - 5, 11, 11) for x, y in row] for row in places]
    found = counting(pictures, boxes, flip=False, batch_size=batch_size)
    assert [len(poses) for poses in found] == counts
    for poses, row in zip(found, places, strict=True):
        for pose, here in zip(poses, row, strict=True): assert np.abs(pose.joints - here).max() < 2
    sizes = Counter(counting.model.batches)
    total = sum(counts)
    assert sum(size * n for size, n in sizes.items()) == total
    if all(counts): assert all(size == batch_size for size in sorted(counting.model.batches, reverse=True)[:total // batch_size])


def test_a_stream_gives_pictures_out_in_order_and_holds_no_more_than_a_batch():
    taken, held = [], []
    def pictures():
        for i in range(50):
            taken.append(i)
            yield spot(20 + i, 40)
    boxes = ([] if i % 3 == 0 else None if i % 3 == 1 else [(0, 0, 100, 100), (5, 5, 100, 100)] for i in range(50))
    for i, (image, poses) in enumerate(finder.stream(pictures(), boxes, batch_size=4)):
        assert image[40, 20 + i].all() and len(poses) == (0, 1, 2)[i % 3]
        held.append(len(taken) - i)
    assert i == 49 and max(held) <= 5
    taken.clear()
    lonely = finder.stream(pictures(), (None if i == 0 else [] for i in range(50)), batch_size=4)
    next(lonely)
    assert len(taken) <= 5                                                               # one with a person, and many with nobody behind it
    empty = finder.stream(pictures(), ([] for _ in range(50)), batch_size=4)
    taken.clear()
    next(empty)
    assert len(taken) == 1                                                               # nobody in it: given out at once


def test_a_stream_tells_of_bad_pictures_and_goes_on_or_stops():
    pictures, said = [spot(50, 50), RGB.astype(int), spot(60, 60), spot(70, 70)], []
    boxes = [None, None, [(900, 0, 5, 5)], None]
    found = [poses[0].joints[0] for _, poses in finder.stream(pictures, boxes, bad=said.append)]
    np.testing.assert_allclose(found, [(50, 50), (70, 70)], atol=8)
    assert [str(error)[:9] for error in said] == ["picture 1", "picture 2"] and "outside" in str(said[1])
    with pytest.raises(ValueError, match="picture 1: numbers of type int64"): list(finder.stream(pictures, boxes))
    with pytest.raises(ValueError, match="none left for picture 1"): list(finder.stream([spot(9, 9)] * 2, [None]))
    with pytest.raises(ValueError, match="batch_size: 0"): list(finder.stream([], batch_size=0))


def test_pictures_may_come_as_any_list_or_one_tensor(estimator, tmp_path):
    images = People("plain", "val", size=64).batch([1, 2]).images
    Image.fromarray(as_picture(images[0])).save(tmp_path / "a.png")
    expected = [pose.joints for pose, in estimator(list(images))]
    for kind in (images, images.numpy(), tuple(images), [tmp_path / "a.png", Image.fromarray(as_picture(images[1]))],
                 [str(tmp_path / "a.png"), as_picture(images[1])]):
        for (pose,), joints in zip(estimator(kind), expected, strict=True): np.testing.assert_allclose(pose.joints, joints, atol=1e-3)
    with pytest.raises(ValueError, match="boxes for each of 2 pictures, got 1"): estimator(images, [None])
    with pytest.raises(ValueError, match="a.png: box 99,0,5,5"): estimator(tmp_path / "a.png", [(99, 0, 5, 5)])


def test_a_pose_names_its_joints_and_can_be_told_and_drawn():
    pose = Pose(np.full((14, 2), 20.0), np.linspace(0, 1, 14), LSP, (0, 0, 1, 1))
    told = json.loads(json.dumps(replace(pose, joints=pose.joints + 0.126).to_dict()))
    assert told["joints"]["head_top"] == [20.13, 20.13, 1.0] and told["score"] == 0.5 and told["box"] == [0, 0, 1, 1]
    image = np.zeros((40, 40, 3), np.uint8)
    assert (draw_poses(image, [pose]) != image).any() and not image.any() and np.array_equal(draw_poses(image, []), image)
    assert (pose.draw(image, unsure=2.0)[20, 20] == 255).all() and not (pose.draw(image, unsure=0.0)[20, 20] == 255).all()


# --- models ----------------------------------------------------------------------------------------------------------------------------

def test_the_model_that_comes_along_knows_generated_people(people_model):
    people = People("standard", "test").batch(range(100))
    found = np.stack([pose.joints for pose, in people_model(people.images, [[(6.4, 6.4, 51.2, 51.2)]] * 100)])
    assert evaluate(found, Truth(people.joints, people.visible, people.reference, MPII)).total > 65
    assert people_model.thresholds is not None and len(people_model.thresholds.tau_c) == 16


def test_the_model_that_comes_along_is_small_of_generated_people_and_says_so():
    assert shipped_models() == ["people"]
    _, about = load_tensors(model_file("people"), sealed=True)
    assert about["data"].startswith("people:") and model_file("people").stat().st_size <= 4_000_000
    card, size = model_card("people"), model_file("people").stat().st_size
    for word in ("For teaching", "not for photographs", about["data"], f"{about['pictures']:,}", f"{size:,} bytes"): assert word in card
    with pytest.raises(ValueError, match="no such model"): model_card("peopel")


def test_a_name_is_a_name_and_a_folder_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people").mkdir()
    save_model(PoseNet(LSP, n_stacks=1, width=8, depth=2), tmp_path / "people", size=32)
    assert PoseEstimator.from_pretrained("people").skeleton == MPII and PoseEstimator.from_pretrained().skeleton == MPII
    assert PoseEstimator.from_pretrained("./people").skeleton == LSP and PoseEstimator.from_pretrained(tmp_path / "people").size == 32
    with pytest.raises(FileNotFoundError, match="comes with msspose: people"): PoseEstimator.from_pretrained("peopel")


def test_a_model_in_half_precision_is_read_in_full(tmp_path):
    save_model(PoseNet(n_stacks=1, width=8, depth=2), tmp_path, size=32)
    tensors, about = load_tensors(tmp_path / "model.safetensors")
    save_tensors(tmp_path / "half.safetensors", {k: v.half() if v.ndim > 1 else v for k, v in tensors.items()}, about)
    model, *_ = load_model(tmp_path / "half.safetensors")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    weight = next(name for name, value in tensors.items() if value.ndim > 1)
    assert torch.equal(model.state_dict()[weight], tensors[weight].half().float())


def test_a_device_that_is_not_there_is_an_error_in_one_line():
    for device in ("cuda:77", "abacus"):
        with pytest.raises(ValueError) as error: PoseEstimator.from_pretrained("people", device=device)
        assert device in str(error.value) and "\n" not in str(error.value) and "'cpu'" in str(error.value)


def test_thresholds_travel_with_the_model(tmp_path):
    for tau_s in (0.25, math.inf):
        thresholds = Thresholds((0.5,) * 16, tau_s)
        save_model(PoseNet(n_stacks=1, width=8, depth=2), tmp_path, size=32, thresholds=json.loads(json.dumps(thresholds.to_dict())))
        assert PoseEstimator.from_pretrained(tmp_path).thresholds == thresholds
    assert Thresholds.of(None) is None


# --- second looks ----------------------------------------------------------------------------------------------------------------------

def seen_in(trial, at, size=16, height=1.0):
    "(1, N, size, size): what a look with this shift and scale says of joints (N, 2) that are given in shares of the first square."
    shift, scale = np.array(trial[:2]), trial[2]
    joints = torch.tensor(((np.asarray(at) - shift - 0.5) / scale + 0.5) * size - 0.5)[None].float()
    return encode(joints, torch.ones(joints.shape[:2]), size) * height


@settings(max_examples=60)
@example(0.5, 0.296875, 0.0, 0.109375, 0.75)
@given(st.floats(0.15, 0.85), st.floats(0.15, 0.85), st.floats(-0.12, 0.12), st.floats(-0.12, 0.12), st.floats(0.75, 1.3))
def test_looks_are_laid_over_one_another(x, y, right, down, scale):
    "Whichever way the square was moved, its heatmap comes to lie on that of the first."
    trial, at = (right, down, scale), [(x, y)]
    assume(max(abs(x - right - 0.5), abs(y - down - 0.5)) < 0.42 * scale)   # within what it has seen
    fused = fuse(seen_in(trial, at)[None], (trial,))
    wide = fused.shape[-1]
    joints, _ = place(fused, [(0.5, 0.5)], [wide / 16], 4)          # the first square is 1 x 1, its middle at (0.5, 0.5)
    assert (joints[0, 0] - torch.tensor([x, y])).abs().max() < 0.3 / 16   # pixels: where a look was nearer its Gaussian has become narrow


def test_all_looks_that_agree_agree_after_fusing_and_no_look_is_cut_off():
    at = [(0.3, 0.4), (0.62, 0.55), (0.97, 0.02)]
    for trials in (TRIALS, SIX_SCALES):
        maps = torch.stack([seen_in(trial, at) for trial in trials], 1)
        fused = fuse(maps, trials)
        joints, peaks = place(fused, [(0.5, 0.5)], [fused.shape[-1] / 16], 4)
        assert (joints[0, :2] - torch.tensor(at[:2])).abs().max() < 0.15 / 16 and peaks[0, :2].min() > 0.7
    beyond = seen_in((0, 0, 1.25), [(1.08, 0.5)])                    # outside the first square, inside a larger one
    fused = fuse(torch.stack([seen_in((0, 0, 1), [(5.0, 5.0)]), beyond], 1), ((0, 0, 1), (0, 0, 1.25)))
    joints, peaks = place(fused, [(0.5, 0.5)], [fused.shape[-1] / 16], 4)
    assert (joints[0, 0] - torch.tensor([1.08, 0.5])).abs().max() < 0.3 / 16 and peaks.item() > 0.8      # one look alone has seen it


def test_the_first_look_alone_stays_as_it_was():
    maps = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(fuse(maps, ((0, 0, 1),)), maps[:, 0], atol=1e-5)      # bicubic, with the weights of float32


def test_looks_below_tau_s_are_left_out_and_the_first_is_kept_where_none_is_above():
    good, bad = seen_in((0, 0, 1), [(0.3, 0.3)], height=0.8), seen_in((0, 0, 1), [(0.7, 0.7)], height=0.4)
    trials = ((0, 0, 1), (0, 0, 1))
    for first, second, tau_s, expected in ((bad, good, 0.5, good), (good, bad, 0.5, good), (bad, good, 0.9, bad), (bad, good, 0.0, None)):
        fused = fuse(torch.stack([first, second], 1), trials, tau_s)
        assert torch.allclose(fused, (good + bad) / 2 if expected is None else expected, atol=1e-5)


def test_who_has_failed_is_whose_more_than_half_are_below():
    thresholds = Thresholds((0.5, 0.5, 0.5, 0.0), 0.3)
    peaks = torch.tensor([[0.4, 0.4, 0.9, 0.9], [0.4, 0.4, 0.4, 0.9], [0.9, 0.9, 0.9, 0.9]])
    assert thresholds.failed(peaks).tolist() == [False, True, False]


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=40))
def test_separator_is_as_good_as_the_best_of_all_heights(rows):
    peaks, right = torch.tensor([peak for peak, _ in rows]), torch.tensor([ok for _, ok in rows])
    found = separator(peaks, right)
    def gain(height): return (peaks[~right] < height).float().mean() - (peaks[right] < height).float().mean()
    assert found == 0 if right.all() or not right.any() else gain(found) == max(gain(height) for height in peaks)


def test_separator_finds_the_gap():
    peaks = torch.cat([torch.linspace(0.1, 0.3, 50), torch.linspace(0.6, 0.9, 50)])
    assert 0.3 < separator(peaks, torch.arange(100) >= 50) <= 0.61


def test_conditional_testing_asks_again_about_those_who_failed_alone():
    pictures = [spot(60, 60), (spot(60, 60) * 0.3).astype(np.uint8)]                     # sure, and unsure
    boxes = [[(30, 30, 60, 60)]] * 2
    sure, unsure = finder(pictures, boxes, conditional=Thresholds((0.5,) * 16, 0.0))
    assert sure[0].trials == 1 and unsure[0].trials == len(TRIALS)
    np.testing.assert_allclose(unsure[0].joints, np.full((16, 2), 60.0), atol=4)
    never, = finder(pictures[1:], boxes[1:], conditional=Thresholds((0.0,) * 16, 0.0))
    assert never[0].trials == 1
    alone, = finder(pictures[1:], boxes[1:], conditional=Thresholds((0.9,) * 16, math.inf))
    np.testing.assert_allclose(alone[0].joints, never[0].joints, atol=1e-3)               # nothing is above infinity: the first look stays


@pytest.mark.parametrize("high, wide", [(60, 30), (30, 60)])
def test_a_square_that_has_left_a_picture_sees_black(high, wide):
    "The last pixel ends half a pixel behind its centre, in each direction on its own."
    image = np.full((high, wide, 3), 255, np.uint8)
    for x, y in [(wide / 2, high + 9.6), (wide + 9.6, high / 2), (wide / 2, -10.6), (-10.6, high / 2)]:
        assert not Square(image, np.array([x, y]), 20.0).cut(64).any()
        nearer = np.array([x, y]) + np.sign([wide / 2 - x, high / 2 - y])
        assert Square(image, nearer, 20.0).cut(64).any()


def test_a_second_look_may_leave_the_picture():
    image = spot(3, 3, width=60, height=60)
    pose, = finder(image, [(-38, -38, 40, 40)], conditional=Thresholds((9.0,) * 16, 0.0))
    assert pose.trials == 7 and np.isfinite(pose.joints).all()
    assert not Square(image, np.array([-40.0, -40]), 50.0).cut(64).any() and Square(image, np.array([0.0, 0]), 50.0).cut(64).any()


@pytest.fixture(scope="module")
def wrong_boxes(): return photographs("scale", "val", 30), photographs("scale", "test", 30)


def test_photographs_are_the_same_people_with_more_around_them():
    pictures, boxes, truth = photographs("scale", "val", 3, size=64, margin=1.75)
    (x, y), side = square_of(boxes[1, 0])
    assert (x, y, side) == pytest.approx((55.5, 55.5, 64)) and pictures[1].shape == (112, 112, 3)
    inner = People("scale", "val").batch([0, 1, 2]).joints + 24
    assert torch.allclose(truth.joints, inner, atol=1e-3)


def test_calibration_and_the_ways_of_testing(people_model, wrong_boxes):
    known, test = wrong_boxes
    thresholds = calibrate(people_model, *known)
    assert len(thresholds.tau_c) == 16 and all(0 <= tau < 1.2 for tau in thresholds.tau_c)
    schemes = testing_schemes(people_model, thresholds, *test[:2])
    once = np.stack([pose.joints for pose, in people_model(*test[:2])])
    again = [pose for pose, in people_model(*test[:2], conditional=thresholds)]
    np.testing.assert_allclose(schemes["one look"][0], once, atol=1e-2)
    np.testing.assert_allclose(schemes["conditional"][0], np.stack([pose.joints for pose in again]), atol=2e-2)
    assert schemes["conditional"][1] == pytest.approx(np.mean([pose.trials for pose in again]))
    on_known = testing_schemes(people_model, thresholds, *known[:2])
    score = {name: evaluate(joints, known[2]).total for name, (joints, _) in on_known.items()}
    assert score["conditional"] >= score["one look"]                  # infinity was among the candidates
    assert score["six scales, averaged"] > score["one look"]          # boxes are wrong here


def test_calibration_of_a_network_that_is_always_sure_never_looks_again():
    pictures = [spot(60 + i, 60) for i in range(4)]
    truth = Truth(torch.tensor([[[60.0 + i, 60]] * 16 for i in range(4)]), torch.full((4, 16), 2), torch.full((4,), 50.0), MPII)
    assert calibrate(finder, pictures, [(30, 30, 60, 60)] * 4, truth) == Thresholds((0.0,) * 16, math.inf)


def test_near_measures_by_the_rule_of_the_joints():
    joints = np.zeros((1, 14, 2))
    joints[0, LSP.index("left_hip")] = (0, 30)
    joints[0, LSP.index("right_shoulder")] = (0, -70)
    truth = Truth(joints, np.full((1, 14), 2), np.array([1.0]), LSP)
    assert near(torch.from_numpy(joints) + torch.tensor([19.0, 0]), truth).all()
    assert not near(torch.from_numpy(joints) + torch.tensor([21.0, 0]), truth).any()      # a fifth of the torso, which is 100


def test_trials_of_everybody_are_one_by_one(people_model, wrong_boxes):
    (pictures, boxes, _), _ = wrong_boxes
    many, centers, sides = trial_heatmaps(people_model, pictures[:3], boxes[:3], TRIALS, batch_size=5)
    assert many.shape == (3, 7, 16, 16, 16)
    one = people_model.heatmaps([Square(pictures[2], centers[2], sides[2]).moved(*TRIALS[4])])
    assert torch.allclose(many[2, 4], one[0], atol=1e-4)


# --- detections ------------------------------------------------------------------------------------------------------------------------

def detections(tmp_path, content, **how):
    (tmp_path / "found.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return load_detections(tmp_path / "found.json", **how)


def test_a_list_of_detections_is_looked_up_by_number_or_name(tmp_path):
    rows = [{"image_id": 42, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}, {"image_id": 42, "bbox": [5, 6, 7, 8]},
            {"image_id": "street.jpg", "bbox": [9, 9, 9, 9], "score": 0.5}, {"image_id": 0, "bbox": [1, 1, 1, 1], "score": 1},
            {"image_id": 42, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}, {"image_id": 7, "bbox": [0, 0, 1, 1], "score": 0.49}]
    found = detections(tmp_path, rows)
    for name in ("000000000042.jpg", "COCO_val2014_000000000042.jpg", 42, "folder/42.png"):
        np.testing.assert_array_equal(found.of(name), [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert len(found.of("street.png")) == len(found.of(0)) == len(found.of("000.png")) == 1 and found.left_out == 2
    assert found.of("7.jpg").shape == (0, 4) and found.of("nobody.jpg").shape == (0, 4) and found.of(1).shape == (0, 4)
    assert detections(tmp_path, rows, least=0.0, category=3).left_out == 1
    assert detections(tmp_path, []) == Detections({}, 0)


def test_annotations_are_looked_up_by_file_name(tmp_path):
    found = detections(tmp_path, {"images": [{"id": 5, "file_name": "a/walk.jpg"}, {"id": 6, "file_name": "b.jpg"}],
                                  "annotations": [{"image_id": 5, "bbox": [1, 2, 3, 4], "category_id": 1}], "categories": []})
    assert len(found.of("elsewhere/walk.jpg")) == 1 and len(found.of("b.jpg")) == 0 and len(found.of("000005.jpg")) == 0


@pytest.mark.parametrize("content, said", [
    ("{", "not JSON"), ({"a": 1}, "expected a list"), (3, "expected a list"), ([{"bbox": [1, 2, 3, 4]}], "record 0: it has no 'image_id'"),
    ([{"image_id": 1, "bbox": [1, 2, 3, 4]}, {"image_id": 1}], "record 1: it has no 'bbox'"), ([{"image_id": 1, "bbox": "x"}], "record 0"),
    ([{"image_id": 1, "bbox": [1, 2, 0, 4]}], "above 0"), ([{"image_id": 1, "bbox": [1, 2, 3]}], "above 0"), ([7], "record 0"),
    ('[{"image_id": 1, "bbox": [1, 2, NaN, 4]}]', "above 0"), ([[1, 2]], "record 0")])
def test_files_that_are_no_detections_are_refused(tmp_path, content, said):
    with pytest.raises(ValueError) as error: detections(tmp_path, content)
    assert said in str(error.value) and "found.json" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError): load_detections(tmp_path / "nowhere.json")


def test_the_coco_annotations_themselves_are_boxes(real_data, people_model):
    files = sorted((real_data / "coco_mini").rglob("*.json"))
    found = load_detections(files[0])
    pictures = sorted((real_data / "coco_mini").rglob("*.jpg"))
    boxes = [found.of(picture) for picture in pictures]
    assert len(pictures) == 80 and sum(map(len, boxes)) > 80
    for (image, poses), some in zip(people_model.stream(pictures[:8], boxes[:8]), boxes[:8], strict=True):
        assert len(poses) == len(some) and all(np.isfinite(pose.joints).all() for pose in poses) and image.dtype == np.uint8


# --- exercises -------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wrong", [
    lambda maps, order: maps[:, list(order)], lambda maps, order: maps.flip(-1), lambda maps, order: maps.flip(-2)[:, list(order)],
    lambda maps, order: maps.flip(1).flip(-1), lambda maps, order: maps.flip(-1)[:, list(MPII.flip)][:, :maps.shape[1]]])
def test_mirrored_back_sees_what_was_left_undone(wrong):
    assert judge(EXERCISES["mirrored_back"], wrong).startswith("not yet")


def test_map_pixel_tells_the_square_from_the_box():
    assert judge(EXERCISES["map_pixel"], 31) == judge(EXERCISES["map_pixel"], 31.25) == "right"
    for wrong in (25, 7.8125, 39, 20, "31.25"): assert judge(EXERCISES["map_pixel"], wrong).startswith("not yet")


def test_the_playground_shows_every_scale_of_both_networks():
    "The cells of the page, as they stand: a row per answer, a pose and three scales in it, and every slider changes what is seen."
    import matplotlib.pyplot as plt
    import torch.nn.functional as F

    from msspose.drawing import figure_frame, overlay, paint_pose
    cells = {cell["id"]: "".join(cell["source"]) for cell in json.loads((ROOT / "nbs" / "12_inference.ipynb").read_text("utf-8"))["cells"]}
    def to_bytes(images): return (images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    page = dict(np=np, torch=torch, plt=plt, F=F, People=People, MPII=MPII, Square=Square, place=place, overlay=overlay,
                paint_pose=paint_pose,
                to_bytes=to_bytes, estimator=PoseEstimator.from_pretrained("people"))
    for name in ("widget01", "play0002", "play0004"): exec(cells[name], page)
    figure = page["playground"]()
    rows = [[ax.get_title() for ax in figure.axes[start:start + 4]] for start in (0, 4)]
    for name, (pose, *maps) in zip(("MSS-net", "MSR-net"), rows, strict=True):
        assert pose.startswith(f"{name}: ") and [title.split(":")[0] for title in maps] == ["16 x 16", "8 x 8", "4 x 4"]
    before = figure_frame(figure)
    for change in (dict(person=5), dict(occluder=1.5), dict(box=1.4), dict(right=0.2), dict(down=-0.2), dict(joint="left_knee"),
                   dict(occluder=1.5, hide="right_knee")):
        assert (figure_frame(page["playground"](**change)) != before).any(), change
    assert not plt.get_fignums()


# --- all together -----------------------------------------------------------------------------------------------------------------

def test_poses_are_what_they_were(people_model):
    batch = People("standard", "test", 64).batch(range(6))
    images = [(image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for image in batch.images]
    boxes = [[(8, 8, 48, 48)], [(0, 0, 64, 64)], [(-5, 3, 60, 50)]] * 2
    as_remembered("poses", [pose.to_dict() for pose, in people_model(images, boxes)])
    thresholds = Thresholds((0.95,) * 16, 0.3)
    again = people_model(images, boxes, conditional=thresholds)
    as_remembered("asked again", [pose.to_dict() | {"trials": pose.trials} for pose, in again])
    pose, = people_model(images[0], boxes[0])
    as_remembered("drawn", draw_poses(images[0], [pose, replace(pose, joints=pose.joints + 9, confidence=pose.confidence - 0.5)]))
    schemes = testing_schemes(people_model, thresholds, images, boxes)
    as_remembered("ways of testing", {name: {"joints": joints, "looks": looks} for name, (joints, looks) in schemes.items()})


def test_looks_are_fused_as_they_were():
    looks = torch.rand(2, 7, 3, 16, 16, generator=torch.Generator().manual_seed(0)) ** 3
    for name, trials in (("trials", TRIALS), ("six scales", SIX_SCALES)):
        as_remembered(f"fused, {name}", {tau: fuse(looks[:, :len(trials)], trials, tau) for tau in (0.0, 0.95)})
