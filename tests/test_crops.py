"From photograph to batch and back: one geometry on every path, every kind of picture, stores that survive, batches that no thread changes."
import contextlib
import copy
import errno
import io
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from remembered import as_remembered
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from msspose import crops
from msspose.checks import EXERCISES, judge
from msspose.crops import CropStore, Loader, augment, browse, crop, fingerprint, mirror, read_image, stored_size, to_crop, to_photo
from msspose.data import Annotations, Crowd, load_lspet, load_mpii, write_people
from msspose.people import People
from msspose.skeleton import LSP, MPII

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
PHOTO = st.tuples(st.floats(-50, 400), st.floats(-50, 400)), st.floats(5, 500), st.sampled_from([16, 64, 100, 256])
NONE = dict(rotation=0, scale=0, flip=0, colour=0)
FILES = ["crops.u8", "labels.safetensors", "store.json"]


def dots(places, width=320, height=240, sigma=3.0):
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    light = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma ** 2)) for px, py in places)
    return np.repeat((light.clip(0, 1) * 255).round().astype(np.uint8)[..., None], 3, -1)


def measured(picture, near, radius):
    light, found = np.asarray(picture)[0].astype(float), []
    y, x = np.mgrid[:light.shape[0], :light.shape[1]]
    for px, py in np.asarray(near):
        w = light * ((x - px) ** 2 + (y - py) ** 2 <= radius ** 2)
        found.append([(w * x).sum() / w.sum(), (w * y).sum() / w.sum()])
    return np.array(found)


def spread(seed=0):
    "14 places, at least 22 pixels apart."
    grid = np.stack(np.meshgrid([110, 140, 170, 200], [75, 105, 135, 165]), -1).reshape(16, 2)[:14]
    return grid + np.random.default_rng(seed).uniform(-4, 4, (14, 2))


def annotations(folder, pictures=3, people=1, visible=2, **changes):
    "Noise pictures of different sizes with some people each; every fourth joint is not annotated."
    rng, m = np.random.default_rng(0), pictures * people
    for i in range(pictures):
        noise = rng.integers(0, 256, (100 + 10 * i, 150, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((300, 200 + 20 * i), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    columns = dict(joints=rng.uniform(20, 180, (m, 14, 2)), visible=np.where(np.arange(14) % 4, visible, 0) * np.ones((m, 1), int),
                   center=rng.uniform(90, 130, (m, 2)), side=rng.uniform(90, 220, m), reference=rng.uniform(20, 40, m),
                   image=np.arange(m) // people, paths=tuple(folder / f"{i}.png" for i in range(pictures)))
    return Annotations("noise", LSP, **(columns | changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory): return annotations(tmp_path_factory.mktemp("made"), pictures=3, people=3)


@pytest.fixture(scope="module")
def store(made): return CropStore.from_annotations(made, 64, progress=False)


# coordinates

@settings(max_examples=60, deadline=None)
@given(*PHOTO, st.integers(0, 99))
def test_there_and_back(center, side, size, seed):
    places = np.random.default_rng(seed).uniform(0, 300, (5, 2))
    np.testing.assert_allclose(to_photo(to_crop(places, center, side, size), center, side, size), places, atol=1e-6)


def test_corners_and_middle_by_hand():
    np.testing.assert_allclose(to_photo([[-0.5, -0.5], [31.5, 31.5], [63.5, 63.5]], (100, 50), 20, 64), [[90, 40], [100, 50], [110, 60]])
    np.testing.assert_allclose(to_photo([[0, 0]], (127.5, 127.5), 256, 64), [[1.5, 1.5]])     # image = (map + 0.5) * stride - 0.5


@pytest.mark.parametrize("move", [to_photo, to_crop])
def test_batches_of_tensors_and_arrays_agree(move):
    joints, center, side = torch.rand(4, 3, 2) * 64, torch.rand(4, 2) * 100, torch.rand(4) * 100 + 10
    moved = move(joints, center, side, 64)
    assert isinstance(moved, torch.Tensor) and moved.dtype == torch.float32
    np.testing.assert_allclose(moved, move(joints.numpy(), center.numpy(), side.numpy(), 64), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(moved[2], move(joints[2].numpy(), center[2], side[2], 64), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(move(joints.double(), center.numpy(), side.tolist(), 64), moved, rtol=1e-4, atol=1e-4)


@settings(max_examples=60)
@given(st.tuples(st.floats(0, 4000), st.floats(0, 4000)), st.floats(20, 3000), st.sampled_from([64, 128, 256]), st.integers(0, 99))
def test_in_single_precision_no_joint_moves_by_a_thousandth(center, side, size, seed):
    places = (np.array(center) + np.random.default_rng(seed).uniform(-1, 1, (9, 2)) * side).astype(np.float32)
    back = to_photo(to_crop(places, center, side, size), center, side, size)
    assert back.dtype == np.float32 and abs(back - places).max() < 1e-3
    tensor = torch.from_numpy(places)
    assert (to_photo(to_crop(tensor, center, side, size), center, side, size) - tensor).abs().max() < 1e-3


# crop

def slow_crop(image, center, side, size):
    "Triangle filter from its definition, in float: each pixel of the crop is the mean of what lies within one step of its middle."
    step = side / size
    def weights(c, length):
        middles = c - side / 2 + (np.arange(size) + 0.5) * step                      # in pixels of the image
        pad = int(2 * side + 5)
        pixels = np.arange(-pad, length + pad)
        w = np.maximum(0, 1 - abs(pixels - middles[:, None]) / max(1, step))
        return (w / w.sum(1, keepdims=True))[:, pad:pad + length]                  # outside is black
    across, down = weights(center[0], image.shape[1]), weights(center[1], image.shape[0])
    return np.einsum("yi,xj,ijc->cyx", down, across, image / 255)


@pytest.mark.parametrize("center, side, size", [
    ((70.3, 41.8), 60.0, 32), ((70.3, 41.8), 20.5, 32), ((5, 90), 80, 16), ((60, 50), 400, 32), ((-10, -10), 25, 16),
    ((119.4, 99.4), 3, 8)])
def test_a_crop_is_what_its_definition_says(center, side, size):
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    np.testing.assert_allclose(crop(image, center, side, size), slow_crop(image, center, side, size), atol=1.6 / 255)


def test_the_whole_picture_at_its_own_size_is_itself():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    assert (crop(image, (23.5, 23.5), 48, 48) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8).tolist() == image.tolist()


def test_outside_is_black_and_a_huge_box_is_cheap():
    white = np.full((40, 60, 3), 255, np.uint8)
    square = crop(white, (0, 0), 80, 40)
    assert square[:, :19, :19].max() == 0 and square[:, 21:39, 21:].min() == 1
    assert 0 < crop(white, (30, 20), 3000, 64).sum() / 3 * (3000 / 64) ** 2 / 2400 < 1.3


@pytest.mark.parametrize("center, side, message", [
    ((400, 50), 100, r"box x 350.0 to 450.0, y 0.0 to 100.0: wholly outside the picture of 320 x 240"),
    ((-51, 50), 100, "wholly outside"), ((100, 300), 100, "wholly outside"), ((100, -80), 100, "wholly outside"),
    ((100, 100), 0, "side 0: expected"), ((100, 100), -5, "side -5"), ((np.nan, 100), 5, "center .nan, 100."),
    ((100, 100), np.inf, "side inf"),
    ((100, 100), 1e7, "too large for the picture of 320 x 240")])
def test_wrong_boxes_name_box_and_picture(center, side, message):
    with pytest.raises(ValueError, match=message): crop(np.zeros((240, 320, 3), np.uint8), center, side, 64)


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"expected \(height, width, 3\) uint8, got"): crop(image, (4, 4), 5, 8)


# one geometry

@pytest.mark.parametrize("size, side", [(64, 140.3), (128, 130.5), (128, 200.0)])
def test_dots_lie_where_the_labels_say_on_every_path(tmp_path, size, side):
    places, center = spread(), np.array([155.2, 118.9])
    image, radius = dots(places), 12 * size / side
    Image.fromarray(image).save(tmp_path / "dots.png")
    marked = Annotations("dots", LSP, places[None], np.full((1, 14), 2), center[None], [side], [40], [0], (tmp_path / "dots.png",))
    store = CropStore.from_annotations(marked, size, progress=False)
    expected = to_crop(places, center, side, size)
    views = [(crop(image, center, side, size), expected), (store.batch([0]).images[0], store.joints[0]),
             (store.wide([0]).images[0], store.wide([0]).joints[0])]
    for seed in range(12):
        b = augment(store.wide([0]), size, torch.Generator().manual_seed(seed), flip=seed % 2, skeleton=LSP)
        views.append((b.images[0], b.joints[0]))
    for picture, joints in views:
        inside = ((joints > radius * 1.4) & (joints < len(picture[0]) - 1 - radius * 1.4)).all(-1)
        assert inside.sum() >= 3
        error = measured(picture, joints[inside], radius) - np.asarray(joints[inside])
        assert abs(error).max() < 0.1, error
        assert abs(error.mean(0)).max() < 0.03      # and none of them is shifted as a whole
    np.testing.assert_allclose(to_photo(store.joints[0], center, side, size), places, atol=1e-3)


def test_a_mirror_renames_the_joints():
    "One dot, the left wrist. Mirrored it is a right wrist, on the other side."
    j = LSP.index("left_wrist")
    wide = one_dot((40.0, 60.0), j)
    flipped = augment(wide, 64, torch.Generator(), **NONE | dict(flip=1), skeleton=LSP)
    plain = augment(wide, 64, torch.Generator(), **NONE, skeleton=LSP)
    assert flipped.visible[0].nonzero().item() == LSP.index("right_wrist") and plain.visible[0].nonzero().item() == j
    torch.testing.assert_close(flipped.joints[0, LSP.index("right_wrist")], torch.tensor([63 - 16.0, 36.0]))
    torch.testing.assert_close(flipped.images, plain.images.flip(-1), atol=1 / 255, rtol=0)
    assert flipped.others_visible[0, 0].nonzero().item() == LSP.index("right_wrist")
    torch.testing.assert_close(flipped.boxes, torch.tensor([[[63 - 26.0, 26, 63 - 6, 56], [0, 0, 0, 0]]]))


def one_dot(place, joint):
    joints, visible = torch.zeros(1, 14, 2), torch.zeros(1, 14, dtype=torch.uint8)
    joints[0, joint], visible[0, joint] = torch.tensor(place), 2
    images = torch.from_numpy(dots([place], 112, 112)).permute(2, 0, 1)[None] / 255
    return crops.Batch(images=images, joints=joints, visible=visible, reference=torch.tensor([10.0]),
                       others=joints[:, None].clone(), others_visible=visible[:, None].clone(),
                       boxes=torch.tensor([[[30.0, 50, 50, 80], [0, 0, 0, 0]]]))


# augmentation

def test_nothing_asked_is_the_middle(store):
    indices = list(range(len(store)))
    same, plain = augment(store.wide(indices), 64, torch.Generator(), **NONE, skeleton=LSP), store.batch(indices)
    assert (same.images - plain.images).abs().max() <= 1 / 255
    for field in ("joints", "others", "reference", "boxes"):
        torch.testing.assert_close(getattr(same, field), getattr(plain, field), atol=1e-3, rtol=1e-5)
    for field in ("visible", "others_visible"): assert torch.equal(getattr(same, field), getattr(plain, field))


def slow_place(place, u, size, wide, rotation=30, scale=0.25, flip=0.5, translation=0):
    "Where one joint goes, step by step: translation undone first, mirror last."
    x, y = (float(v) - (wide - 1) / 2 - translation * size * (2 * float(w) - 1) for v, w in zip(place, u[6:], strict=True))
    angle, factor = np.radians(rotation) * (2 * float(u[0]) - 1), 1 + scale * (2 * float(u[1]) - 1)
    x, y = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    if float(u[2]) < flip: x = -x
    return x / factor + (size - 1) / 2, y / factor + (size - 1) / 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10 ** 6), st.sampled_from([0, 0.15]))
def test_joints_follow_a_slow_reference(store, seed, translation):
    wide = store.wide(range(9))
    got = augment(wide, 64, torch.Generator().manual_seed(seed), translation=translation, skeleton=LSP)
    u = torch.rand(9, 8, generator=torch.Generator().manual_seed(seed))
    for b in range(9):
        names = LSP.flip if u[b, 2] < 0.5 else range(14)
        for j, k in enumerate(names):
            if not wide.visible[b, k]: assert got.visible[b, j] == 0 and (got.joints[b, j] == 0).all()
            else:
                expected = slow_place(wide.joints[b, k], u[b], 64, 112, translation=translation)
                np.testing.assert_allclose(got.joints[b, j], expected, atol=2e-3)
    torch.testing.assert_close(got.reference, wide.reference / (1 + 0.25 * (2 * u[:, 1] - 1)))


def slow_return(place, u, size, wide, rotation=30, scale=0.25, flip=0.5, translation=0):
    "The way back, in double precision: from the augmented sample to the stored crop."
    x, y = (np.asarray(place, float) - (size - 1) / 2).T
    angle, factor = np.radians(rotation) * (2 * float(u[0]) - 1), 1 + scale * (2 * float(u[1]) - 1)
    if float(u[2]) < flip: x = -x
    x, y = factor * (np.cos(angle) * x - np.sin(angle) * y), factor * (np.sin(angle) * x + np.cos(angle) * y)
    return np.stack([x, y], -1) + (wide - 1) / 2 + translation * size * (2 * u[6:].double().numpy() - 1)


@settings(max_examples=30)
@given(st.integers(0, 10 ** 6), st.floats(50, 1200), st.sampled_from([64, 256]))
def test_photograph_crop_sample_and_back_moves_no_joint_by_a_thousandth(seed, side, size):
    rng, wide = np.random.default_rng(seed), stored_size(size)
    center, dials = rng.uniform(100, 1000, 2).astype(np.float32), dict(rotation=30, scale=0.25, flip=0.5, translation=0.1)
    places = (center + rng.uniform(-0.5, 0.5, (16, 2)) * side).astype(np.float32)
    batch = blank(1, 2, wide, joints=torch.from_numpy(to_crop(places, center, side, size) + (wide - size) / 2)[None], visible=2)
    moved = augment(batch, size, torch.Generator().manual_seed(seed), **dials)
    u = torch.rand(1, 8, generator=torch.Generator().manual_seed(seed))[0]
    names = list(MPII.flip) if u[2] < 0.5 else range(16)
    back = to_photo(slow_return(moved.joints[0], u, size, wide, **dials) - (wide - size) / 2, center, side, size)
    assert abs(back - places[names]).max() < 1e-3


def blank(b, k, wide, skeleton=MPII, joints=None, visible=0):
    n = skeleton.n_joints
    joints = torch.zeros(b, n, 2) if joints is None else joints
    return crops.Batch(torch.zeros(b, 3, wide, wide), joints, torch.full((b, n), visible, dtype=torch.uint8), torch.ones(b),
                       torch.zeros(b, k, n, 2), torch.zeros(b, k, n, dtype=torch.uint8), torch.zeros(b, 1 + k, 4))


@settings(max_examples=60)
@given(st.integers(0, 10 ** 6), st.floats(0, 180), st.floats(0, 0.5), st.floats(0, 1), st.floats(0, 0.8), st.floats(0, 0.4))
def test_a_landmark_is_found_under_its_joint_after_any_augmentation(seed, rotation, scale, flip, colour, translation):
    rng, b = np.random.default_rng(seed), 6
    places, j = rng.uniform(20, 92, (b, 2)), int(rng.integers(14))
    batch = blank(b, 0, 112, LSP)
    batch = replace(batch, images=torch.stack([torch.from_numpy(dots([p], 112, 112)).permute(2, 0, 1) for p in places]))
    batch.joints[:, j], batch.visible[:, j] = torch.from_numpy(places).float(), 2
    moved = augment(batch, 64, torch.Generator().manual_seed(seed), rotation, scale, flip, colour, translation, LSP)
    mirrored = torch.rand(b, 8, generator=torch.Generator().manual_seed(seed))[:, 2] < flip
    for i in range(b):
        name = LSP.flip[j] if mirrored[i] else j
        assert moved.visible[i].nonzero().flatten().tolist() == [name]
        place = moved.joints[i, name]
        if ((place < 9) | (place > 54)).any(): continue                                 # cut off, the dot has its middle elsewhere
        assert abs(measured(moved.images[i], [place], 20)[0] - place.numpy()).max() < 0.5


def test_translation_moves_the_square_by_a_share_of_its_side():
    batch = blank(2000, 0, 112, joints=torch.full((2000, 16, 2), 55.5), visible=2)
    moved = augment(batch, 64, torch.Generator().manual_seed(0), **NONE, translation=0.25).joints[:, 0] - 31.5
    assert 15.8 < moved.amax() <= 16 and -16 <= moved.amin() < -15.8 and moved.mean(0).abs().max() < 0.5
    assert abs(np.corrcoef(moved.T.numpy())[0, 1]) < 0.1                                # along x and along y on their own


@pytest.mark.parametrize("scale", [-0.1, 1])
def test_a_scale_that_turns_squares_inside_out_is_refused(scale):
    with pytest.raises(ValueError, match=f"scale={scale}: a square grows and shrinks by a share"):
        augment(blank(1, 0, 112), 64, torch.Generator(), scale=scale)


def test_the_store_reaches_as_far_as_the_paper_turns():
    "White to its edge, the store gives white whatever the dials, and would not at 1.65 times the square."
    def darkest(wide):
        n = 400
        batch = replace(blank(n, 0, wide, LSP), images=torch.ones(n, 3, wide, wide))
        return augment(batch, 64, torch.Generator().manual_seed(0), colour=0, skeleton=LSP).images.min()
    assert darkest(stored_size(64)) > 0.999 and darkest(104) < 0.9


def test_joints_outside_stay_annotated_as_occluded(store):
    b = store.batch(range(9), torch.Generator().manual_seed(0))
    outside = ((b.joints < -0.5) | (b.joints > 63.5)).any(-1) & (b.visible > 0)
    assert outside.any() and (b.visible[outside] == 1).all()
    assert (store.visible > 0).sum() == (b.visible > 0).sum()
    assert (b.visible[~outside & (b.visible > 0)] == 2).all()


def test_colour_stays_in_range_and_keeps_black(store):
    b = augment(store.wide(range(9)), 64, torch.Generator().manual_seed(0), **NONE | dict(colour=0.4), skeleton=LSP)
    plain = store.batch(range(9)).images
    assert b.images.min() >= 0 and b.images.max() <= 1
    ratio = b.images / plain.clamp(min=1e-3)
    middle = (plain > 0.2) & (plain < 0.6)
    for image, inside in zip(ratio.flatten(0, 1), middle.flatten(0, 1), strict=True):
        assert 0.59 < image[inside].min() and image[inside].max() < 1.41 and image[inside].std() < 0.02


def test_bytes_and_numbers_give_the_same(store):
    a = store.batch(range(9), torch.Generator().manual_seed(4))
    b = augment(store.wide(range(9)), 64, torch.Generator().manual_seed(4), skeleton=LSP)
    torch.testing.assert_close(a.images, b.images, atol=1e-5, rtol=0)
    many = store.batch(list(range(9)) * 30, torch.Generator().manual_seed(4)).images       # more than are sampled at a time
    assert len(many) == 270 and (many.flatten(1).std(1) > 0.01).all()


def test_the_same_seed_gives_the_same_and_the_next_call_another(store):
    def batches(seed):
        g = torch.Generator().manual_seed(seed)
        return store.batch([0, 1], g).images, store.batch([0, 1], g).images
    (a, b), (c, d), (e, _) = batches(1), batches(1), batches(2)
    assert torch.equal(a, c) and torch.equal(b, d) and not torch.equal(a, b) and not torch.equal(a, e)


def test_dials_are_used_to_their_ends(store):
    b = augment(store.wide([0] * 2000), 16, torch.Generator().manual_seed(0), colour=0, skeleton=LSP)
    factor = store.reference[0] / b.reference
    assert 0.75 <= factor.min() < 0.76 and 1.24 < factor.max() <= 1.25 and abs(factor.mean() - 1) < 0.02


def test_the_wrong_skeleton_is_told(store):
    with pytest.raises(ValueError, match="batch has 14 joints, skeleton mpii has 16"): augment(store.wide([0]), 64, torch.Generator())


# the store

def test_the_store_and_crop_see_the_same(made, store):
    plain = store.batch(range(9))
    for i in range(9):
        alone = crop(read_image(made.paths[made.image[i]]), made.center[i], made.side[i], 64)
        assert (alone - plain.images[i]).abs().max() <= 1 / 255 + 1e-6
    torch.testing.assert_close(plain.reference, torch.from_numpy(made.reference * 64 / made.side))


def test_labels_are_in_pixels_of_the_plain_crop(made, store):
    back = to_photo(store.joints, store.center, store.side, store.size).numpy()
    np.testing.assert_allclose(back[made.visible > 0], made.joints[made.visible > 0], atol=1e-3)
    assert (store.joints[store.visible == 0] == 0).all() and len(store) == 9 and store.skeleton is LSP


def test_the_others_of_a_picture_come_along(made, store):
    b = store.batch([4])
    assert b.others.shape == (1, 2, 14, 2)
    back = to_photo(b.others[0], made.center[4], made.side[4], 64).numpy()
    seen = made.visible[[3, 5]] > 0
    np.testing.assert_allclose(back[seen], made.joints[[3, 5]][seen], atol=1e-3)


def test_whoever_the_table_has_dropped_is_still_in_the_picture(tmp_path):
    b = CropStore.from_annotations(annotations(tmp_path, pictures=2, people=2)[[0, 1, 2]], 16, progress=False).batch(range(3))
    assert b.others.shape[1] == 1 and (b.others_visible > 0).any(-1).all()


def test_bystanders_are_others_and_who_has_no_joint_is_not(tmp_path):
    a = annotations(tmp_path, pictures=2)
    who = a.crowd
    extra = [np.concatenate([getattr(who, f.name), np.repeat(getattr(who, f.name)[1:], 3, 0)]) for f in fields(Crowd)]
    crowd = Crowd(*extra)
    crowd.ids[:], crowd.visible[2] = np.arange(5), 0
    crowd.joints[3:] += [[[5, 7]]] * 2
    b = CropStore.from_annotations(replace(a, crowd=crowd), 16, progress=False).batch([0, 1])
    assert b.others.shape == (2, 2, 14, 2) and (b.others_visible[0] == 0).all() and (b.others[0] == 0).all()     # padded
    back = to_photo(b.others[1], a.center[1], a.side[1], 16).numpy()
    seen = a.visible[1] > 0
    np.testing.assert_allclose(back[:, seen], (a.joints[1] + [5, 7])[None].repeat(2, 0)[:, seen], atol=1e-3)
    assert b.boxes.shape == (2, 3, 4)


def test_people_alone_have_no_others(tmp_path):
    b = CropStore.from_annotations(annotations(tmp_path), 16, progress=False).batch([0, 2], torch.Generator())
    assert b.others.shape == (2, 0, 14, 2) and b.others_visible.shape == (2, 0, 14)


@pytest.mark.parametrize("indices, rows", [
    (slice(1, 4), [1, 2, 3]), (range(2), [0, 1]), ([3, 0], [3, 0]), (torch.tensor([5]), [5]), (np.array([1, 1]), [1, 1]),
    (np.arange(9) > 6, [7, 8]), ([-1], [8]), ([], [])])
def test_every_kind_of_index(store, indices, rows):
    torch.testing.assert_close(store.batch(indices).joints, store.batch(rows).joints)
    assert len(store.batch(indices).images) == len(store.batch(indices, torch.Generator()).images) == len(rows)


def test_batches_have_the_agreed_types(store):
    for b in (store.batch([0, 1]), store.batch([0, 1], torch.Generator())):
        assert b.images.dtype == b.joints.dtype == b.reference.dtype == torch.float32 and b.visible.dtype == torch.uint8
        assert b.images.shape == (2, 3, 64, 64) and 0 <= b.images.min() and b.images.max() <= 1
        assert {f.name for f in fields(b)} >= {"images", "joints", "visible", "reference", "others", "others_visible"}
    assert store.crops.dtype == torch.uint8 and tuple(store.crops.shape) == (9, 112, 112, 3)


@pytest.mark.parametrize("size, wide", [(64, 112), (128, 224), (256, 448), (96, 168), (100, 176)])
def test_the_stored_size_is_even_and_holds_enough(size, wide):
    assert stored_size(size) == wide and (stored_size(size) - size) % 2 == 0


def test_batches_do_not_alias_the_store(store):
    before = store.joints.clone(), store.crops.clone()
    b = store.batch([0]); b.images.zero_(); b.joints.zero_(); b.visible.zero_()
    assert torch.equal(store.joints, before[0]) and torch.equal(store.crops, before[1])


def test_a_size_that_is_odd_is_refused(made):
    with pytest.raises(ValueError, match="size 63: it has to be even"): CropStore.from_annotations(made, 63)


def test_a_picture_with_several_people_is_read_once(made, monkeypatch):
    opened = []
    monkeypatch.setattr(crops, "_open", lambda path, was=crops._open: opened.append(path) or was(path))
    CropStore.from_annotations(made, 16, progress=False)
    assert sorted(opened) == sorted(made.paths)


def test_an_empty_table_and_the_bar(made, capsys):
    assert len(CropStore.from_annotations(made[[]], 16, progress=False)) == 0
    assert capsys.readouterr().err == ""
    CropStore.from_annotations(made[:3], 16)
    assert "1/1" in capsys.readouterr().err


# pictures

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.mark.parametrize("mode, name", [("RGB", "a.png"), ("L", "a.png"), ("P", "a.png"), ("RGBA", "a.png"), ("LA", "a.png"),
                                        ("1", "a.png"), ("CMYK", "a.jpg"), ("L", "a.jpg"), ("P", "a.gif"), ("RGB", "a.bmp"),
                                        ("RGB", "a.webp")])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, name):
    Image.fromarray(IMAGE).convert(mode).save(tmp_path / name)
    read = read_image(tmp_path / name)
    assert read.shape == (32, 48, 3) and read.dtype == np.uint8
    expected = np.asarray(Image.fromarray(IMAGE).convert(mode).convert("RGB"))
    if name == "a.png": np.testing.assert_array_equal(read, expected)
    else: assert abs(read.astype(int) - expected).mean() < 12


def test_sixteen_bits_of_grey(tmp_path):
    Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[..., 0].ravel().tolist() == list(range(256))


def test_transparency_is_black(tmp_path):
    rgba = np.full((8, 8, 4), 200, np.uint8); rgba[:4, :, 3], rgba[4:, :, 3] = 0, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png")[:4] == 0).all() and (read_image(tmp_path / "a.png")[4:] == 200).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(tmp_path, orientation):
    undo = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
            6: lambda a: np.rot90(a, -1), 7: lambda a: a.swapaxes(0, 1)[::-1, ::-1], 8: lambda a: np.rot90(a)}[orientation]
    exif = Image.Exif(); exif[274] = orientation
    Image.fromarray(IMAGE).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), undo(IMAGE))


def test_what_is_no_picture_says_which_file(tmp_path):
    data = io.BytesIO(); Image.fromarray(IMAGE.repeat(9, 0)).save(data, "jpeg")
    (tmp_path / "half.jpg").write_bytes(data.getvalue()[:len(data.getvalue()) // 2])
    (tmp_path / "words.jpg").write_text("words")
    (tmp_path / "empty.jpg").touch()
    for name, message in (("half.jpg", "damaged or truncated picture"), ("words.jpg", "not a picture"), ("empty.jpg", "not a picture"),
                          ("none.jpg", "no such picture")):
        with pytest.raises(ValueError, match=f"{name}: {message}"): read_image(tmp_path / name)
    with pytest.raises(ValueError, match="a folder, not a picture|permission"): read_image(tmp_path)


# pictures that are unusual, in a store

def tell_apart(picture, name, tmp_path, **options):
    "One person in one picture, saved as asked: the store, and what crop makes of it."
    picture.save(tmp_path / name, **options)
    center, side = ((picture.width - 1) / 2, (picture.height - 1) / 2), max(picture.size) * 0.7
    a = Annotations(name, LSP, np.full((1, 14, 2), 3.0), np.full((1, 14), 2), [center], [side], [5], [0], (tmp_path / name,))
    s = CropStore.from_annotations(a, 16, tmp_path / "store", progress=False)
    return s.batch([0]).images[0], crop(read_image(tmp_path / name), center, side, 16)


def turned(orientation):
    exif = Image.Exif(); exif[274] = orientation
    return exif


@pytest.mark.parametrize("picture, name, options", [
    (Image.fromarray(IMAGE).convert("L"), "grey.jpg", {}), (Image.fromarray(IMAGE).convert("RGBA"), "alpha.png", {}),
    (Image.fromarray(IMAGE).convert("CMYK"), "print.jpg", {}), (Image.fromarray(IMAGE), "turned.jpg", dict(exif=turned(3))),
    (Image.fromarray(np.arange(0, 65536, 16, np.uint16).reshape(64, 64)), "deep.png", {}),
    (Image.fromarray(IMAGE[:, :1].copy()), "narrow.png", {}), (Image.fromarray(IMAGE[:1].copy()), "flat.png", {})],
    ids=["grey", "alpha", "print", "turned", "deep", "narrow", "flat"])
def test_unusual_pictures_arrive_in_the_store_as_they_are_read(tmp_path, picture, name, options):
    stored, alone = tell_apart(picture, name, tmp_path, **options)
    assert stored.max() > 0 and (stored - alone).abs().max() <= 1 / 255 + 1e-6


def test_joints_far_outside_stay_and_count_as_occluded(tmp_path):
    a = annotations(tmp_path, pictures=1)
    a.joints[0, 1] = a.center[0] + 8 * a.side[0]
    s = CropStore.from_annotations(a, 16, tmp_path / "store", progress=False)
    b = s.batch([0])
    assert b.visible[0, 1] == 1 and abs(b.joints[0, 1] - (7.5 + 8 * 16)).max() < 1e-3
    assert np.allclose(to_photo(s.joints, s.center, s.side, 16)[0, 1], a.joints[0, 1], atol=1e-3)


def test_a_box_without_size_is_no_annotation(tmp_path):
    with pytest.raises(ValueError, match=r"person 1 \(1.png\): side is 0.0; it has to be a positive number"):
        annotations(tmp_path, side=np.array([100, 0, 100.0]))


# a store on the disk

@pytest.fixture(scope="module")
def many(tmp_path_factory): return annotations(tmp_path_factory.mktemp("many"), pictures=12, people=2)


@pytest.fixture(scope="module")
def undisturbed(many, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "store"
    CropStore.from_annotations(many, 16, folder, progress=False)
    return folder


def make(a, folder, **more): return CropStore.from_annotations(a, 16, folder, progress=False, **more)
def content(folder): return {file.name: file.read_bytes() for file in folder.iterdir()}
def partial_of(folder): return folder.with_name(folder.name + ".partial")


def test_company_is_everybody_else_in_pixels_of_the_crop(tmp_path):
    people = write_people(tmp_path, "crowd", "val", 12, size=16)
    store = CropStore.from_annotations(people, 24, progress=False)
    whose, joints, visible = store.company
    batch, count = store.batch(range(12)), [len(people.others(i)) for i in range(12)]
    assert torch.bincount(whose, minlength=12).tolist() == count and len(set(count)) > 2
    for i in range(12):
        there = (batch.others_visible[i] > 0).any(-1)
        torch.testing.assert_close(joints[whose == i], batch.others[i][there])
        torch.testing.assert_close((visible[whose == i] > 0), batch.others_visible[i][there] > 0)


def same_batches(a, b):
    for indices, number in (([0, 3, 1], 0), (slice(None), 1), ([], 2)):
        for x, y in ((a.batch(indices), b.batch(indices)), (a.wide(indices), b.wide(indices)),
                     *[tuple(s.batch(indices, torch.Generator().manual_seed(number)) for s in (a, b))]):
            assert all(torch.equal(getattr(x, f.name), getattr(y, f.name)) for f in fields(x))


@pytest.mark.parametrize("workers", [1, 3])
def test_memory_and_disk_hold_the_same(many, undisturbed, tmp_path, workers):
    on_disk, in_memory = make(many, tmp_path / "deep" / "store", workers=workers), CropStore.from_annotations(many, 16, progress=False)
    assert content(tmp_path / "deep" / "store") == content(undisturbed) and sorted(content(undisturbed)) == FILES
    assert not partial_of(tmp_path / "deep" / "store").exists()
    same_batches(on_disk, in_memory)
    assert on_disk.fingerprint == in_memory.fingerprint == fingerprint(many, 16)
    assert on_disk.skeleton == LSP and repr(on_disk) == repr(in_memory).replace("in memory", "on disk")
    assert repr(on_disk) == "CropStore(noise: 24 people, input 16, 28 stored, 0.1 MB on disk)"


def test_the_files_are_what_the_chapter_says(many, undisturbed):
    about = json.loads((undisturbed / "store.json").read_text())
    assert (about["format"], about["people"], about["size"], about["shape"], about["bad"]) == (1, 24, 16, [24, 28, 28, 3], [])
    assert about["fingerprint"] == fingerprint(many, 16) and about["skeleton"]["name"] == "lsp"
    raw = np.fromfile(undisturbed / "crops.u8", np.uint8).reshape(about["shape"])
    expected = crop(read_image(many.paths[many.image[7]]), many.center[7], many.side[7] * 1.75, 28) * 255
    np.testing.assert_array_equal(raw[7], expected.permute(1, 2, 0).round().numpy())


def test_it_opens_without_a_warning_where_nobody_may_write(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "store")
    for file in (tmp_path / "store").iterdir(): file.chmod(0o444)
    (tmp_path / "store").chmod(0o555)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            opened = CropStore.open(str(tmp_path / "store"))
            opened.batch([0, 1], torch.Generator())
    finally: (tmp_path / "store").chmod(0o755)


def test_what_is_written_into_it_stays_with_the_writer(undisturbed):
    before = content(undisturbed)
    opened, other = CropStore.open(undisturbed), CropStore.open(undisturbed)
    was = other.crops.clone()
    opened.crops[:] = 7; opened.joints[:] = 7
    assert torch.equal(other.crops, was) and content(undisturbed) == before


@pytest.mark.skipif(sys.platform != "linux", reason="the amount of memory is asked in the way of Linux")
def test_a_file_larger_than_memory_is_mapped(tmp_path):
    size = 3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with (tmp_path / "crops.u8").open("wb") as file:
        try: file.truncate(size)
        except OSError: pytest.skip("this file system has no files of that length")
    mapped = crops._map(tmp_path / "crops.u8", [size])
    mapped[size // 2] = 9
    assert mapped[size // 2] == 9 and mapped[-1] == 0


def test_a_store_and_its_pictures_may_be_moved(many, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "elsewhere")
    same_batches(CropStore.open(tmp_path / "elsewhere"), CropStore.open(undisturbed))
    shutil.copytree(Path(many.paths[0]).parent, tmp_path / "photos", ignore=shutil.ignore_patterns("store*"))
    moved = replace(many, paths=tuple(tmp_path / "photos" / Path(path).name for path in many.paths), name="another name")
    assert fingerprint(moved, 16) == fingerprint(many, 16)
    assert make(moved, tmp_path / "elsewhere").name == "noise"             # opened, not made anew


def test_is_store(undisturbed, tmp_path):
    assert CropStore.is_store(undisturbed) and CropStore.is_store(str(undisturbed))
    assert not any(CropStore.is_store(path) for path in (tmp_path, tmp_path / "nowhere", undisturbed / "crops.u8"))


def test_an_empty_folder_may_become_a_store_and_nobody_none(many, tmp_path):
    (tmp_path / "store").mkdir()
    assert len(make(many[:2], tmp_path / "store")) == 2
    with pytest.raises(ValueError, match="noise: nobody in it"): make(many[[]], tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]


# what it was made from

CHANGES = {
    "joints": lambda a: replace(a, joints=a.joints + 0.01 * (a.visible > 0)[..., None]),
    "visible": lambda a: replace(a, visible=a.visible // 2),
    "center": lambda a: replace(a, center=a.center + 0.01),
    "side": lambda a: replace(a, side=np.nextafter(a.side, np.float32(1e9))),
    "reference": lambda a: replace(a, reference=np.where(np.arange(24) == 3, np.nan, a.reference)),
    "picture": lambda a: replace(a, paths=(a.paths[1], a.paths[0], *a.paths[2:])),
    "order": lambda a: a[::-1],
    "fewer": lambda a: a[1:],
    "skeleton": lambda a: replace(a, skeleton=replace(LSP, name="other")),
    "crowd": lambda a: replace(a, crowd=replace(a.crowd, joints=a.crowd.joints + 1)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_of_the_annotations_changes_the_fingerprint(many, what):
    assert fingerprint(CHANGES[what](many), 16) != fingerprint(many, 16)


def test_so_do_the_size_and_the_pictures_but_not_what_nobody_is_in(tmp_path):
    a = annotations(tmp_path, pictures=4)
    before = fingerprint(a, 16)
    assert before != fingerprint(a, 32) and len(before) == 64
    assert fingerprint(a[:3], 16) == fingerprint(a[:3].trimmed(), 16)
    of_three = fingerprint(a[:3], 16)
    with Path(a.paths[3]).open("ab") as file: file.write(b"more")
    assert fingerprint(a, 16) != before and fingerprint(a[:3], 16) == of_three
    Path(a.paths[0]).unlink()
    assert fingerprint(a[:3], 16) != of_three


def test_a_store_of_something_else_is_neither_used_nor_touched(many, undisturbed):
    before = content(undisturbed)
    for a, size in ((many[:5], 16), (many, 32)):
        with pytest.raises(ValueError, match="holds 24 people of noise, input 16, made from other .*; delete it, or choose another folder"):
            CropStore.from_annotations(a, size, undisturbed, progress=False)
    assert content(undisturbed) == before and not partial_of(undisturbed).exists()


def test_the_same_again_opens_it_and_decodes_nothing(many, undisturbed, monkeypatch):
    monkeypatch.setattr(crops, "_open", None)
    same_batches(make(many, undisturbed), CropStore.open(undisturbed))


@pytest.mark.parametrize("begin", [lambda f: f.write_text("mine"), lambda f: (f.mkdir(), (f / "letter.txt").write_text("mine"))])
def test_what_is_no_store_is_left_alone(many, tmp_path, begin):
    begin(tmp_path / "mine")
    with pytest.raises(ValueError, match="mine: exists, and is no store; choose another folder"): make(many, tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_what_was_begun_with_something_else_is_begun_anew_and_that_is_said(many, undisturbed, tmp_path, capsys, monkeypatch):
    interrupted(replace(many, center=many.center + 1), tmp_path / "store", monkeypatch, after=3)
    assert capsys.readouterr().err == ""
    make(many, tmp_path / "store")
    assert "store.partial: was begun with other annotations or another size; begun anew" in capsys.readouterr().err
    assert content(tmp_path / "store") == content(undisturbed)


# killed, and continued

def interrupted(a, folder, monkeypatch, after, error=KeyboardInterrupt):
    "A run that stops when it is about to read one picture more."
    opened = []
    def read(path, was=crops._open):
        if len(opened) == after: raise error
        opened.append(path)
        return was(path)
    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(crops, "_open", read)
        make(a, folder, workers=1)


def test_after_ctrl_c_what_is_done_is_not_done_again(many, undisturbed, tmp_path, monkeypatch):
    interrupted(many, tmp_path / "store", monkeypatch, after=5)
    assert np.count_nonzero(np.fromfile(partial_of(tmp_path / "store") / "done", np.int64)) == 5
    with pytest.raises(FileNotFoundError, match="not finished; the command that began it goes on where it was"):
        CropStore.open(tmp_path / "store")
    opened = []
    monkeypatch.setattr(crops, "_open", lambda path, was=crops._open: opened.append(path) or was(path))
    make(many, tmp_path / "store")
    assert sorted(opened) == sorted(many.paths[5:]) and content(tmp_path / "store") == content(undisturbed)


def test_a_store_that_only_lacks_its_name_is_given_it(many, undisturbed, tmp_path, monkeypatch):
    shutil.copytree(undisturbed, partial_of(tmp_path / "store"))
    monkeypatch.setattr(crops, "_open", None)                                    # nothing is decoded
    make(many, tmp_path / "store")
    assert content(tmp_path / "store") == content(undisturbed) and not partial_of(tmp_path / "store").exists()


def test_a_picture_that_has_changed_since_is_done_again(tmp_path, monkeypatch):
    a = annotations(tmp_path, pictures=6)
    interrupted(a, tmp_path / "store", monkeypatch, after=4)
    Image.open(a.paths[5]).save(a.paths[1])
    make(a, tmp_path / "store"); make(a, tmp_path / "other")
    assert content(tmp_path / "store") == content(tmp_path / "other")


def test_ctrl_c_before_anything_is_done_leaves_nothing(many, tmp_path, monkeypatch):
    interrupted(many, tmp_path / "store", monkeypatch, after=0)
    assert not list(tmp_path.iterdir())


def test_the_bar_begins_where_the_work_does(many, tmp_path, monkeypatch, capsys):
    interrupted(many, tmp_path / "store", monkeypatch, after=5)
    CropStore.from_annotations(many, 16, tmp_path / "store")
    assert "5/12" in (shown := capsys.readouterr().err) and "12/12" in shown


def child(function, *arguments, wait=True):
    "In a process of its own, which starts as a copy of this one."
    def run():
        tqdm.set_lock(threading.RLock())    # the copy would share ours, and nobody can open a lock that a killed process holds
        function(*arguments)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)     # of forking beside threads: the child starts its own
        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
    if wait: process.join(120)
    return process


def slow(a, folder, seconds=0.02):
    "Make a store from a slow disk, and note each picture at once."
    read = crops._open
    crops._open, crops.SAVE_EVERY = lambda path: time.sleep(seconds) or read(path), 0
    make(a, folder, workers=2)


@forks
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_it_goes_on_and_ends_the_same(many, undisturbed, tmp_path, seed):
    rng, kills, done = np.random.default_rng(seed), 0, [0]
    while kills < 60 and not (tmp_path / "store").exists():
        process = child(slow, many, tmp_path / "store", wait=False)
        process.join(rng.uniform(0, 0.1))                                       # the work takes 0.12 at least
        process.kill(); process.join()
        kills += process.exitcode == -signal.SIGKILL
        marks = partial_of(tmp_path / "store") / "done"
        if marks.exists(): done.append(np.count_nonzero(np.fromfile(marks, np.int64)))
    make(many, tmp_path / "store")
    assert kills and done == sorted(done)                                       # never less than before
    assert content(tmp_path / "store") == content(undisturbed) and not partial_of(tmp_path / "store").exists()


STEPS = {"_prepare", "_alone", "_begin", "_reserve", "_write", "_fill", "save_marks", "_finish"}


def dies(a, folder, number):
    "The process is killed before the `number`th line of the functions that make a store, in whatever thread."
    left = [number]
    def line(frame, event, argument):
        left[0] -= event == "line"
        if not left[0]: os.kill(os.getpid(), signal.SIGKILL)
        return line
    def call(frame, event, argument):
        return line if frame.f_code.co_name in STEPS and frame.f_code.co_filename == crops.__file__ else None
    sys.settrace(call); threading.settrace(call)
    crops.SAVE_EVERY = 0
    make(a, folder, workers=1)


@forks
def test_killed_before_each_of_its_lines_it_goes_on_and_ends_the_same(tmp_path):
    a = annotations(tmp_path, pictures=2)
    make(a, tmp_path / "whole")
    for number in range(1, 1000):
        folder = tmp_path / f"store{number}"
        code = child(dies, a, folder, number).exitcode
        make(a, folder)
        assert content(folder) == content(tmp_path / "whole"), f"killed before line {number}"
        assert not partial_of(folder).exists()
        if code == 0: break
        assert code == -signal.SIGKILL
        shutil.rmtree(folder)
    assert 60 < number < 999


COMMAND = """
import sys, time
from msspose import crops
from msspose.data import load_coco
read, crops.SAVE_EVERY = crops._open, 0
crops._open = lambda path: time.sleep(0.05) or read(path)
crops.CropStore.from_annotations(load_coco(sys.argv[1]), 16, sys.argv[2], workers=1, progress=False)
"""


def test_killed_as_a_program_of_its_own(tmp_path):
    a = write_people(tmp_path / "people", "crowd", "train", 12, 32)
    program = subprocess.Popen([sys.executable, "-c", COMMAND, tmp_path / "people" / "train.json", tmp_path / "store"])
    marks = partial_of(tmp_path / "store") / "done"
    while program.poll() is None and not (marks.is_file() and np.fromfile(marks, np.int64).any()): time.sleep(0.01)
    program.kill(); program.wait()
    assert 0 < np.count_nonzero(np.fromfile(marks, np.int64)) < 12
    make(a, tmp_path / "store"); make(a, tmp_path / "other")
    assert content(tmp_path / "store") == content(tmp_path / "other")


# pictures that cannot be used

def spoil(path, how):
    "Make a picture unusable."
    data = path.read_bytes()
    if how == "missing": path.unlink()
    if how == "empty": path.write_bytes(b"")
    if how == "truncated": path.write_bytes(data[:len(data) // 2])
    if how == "words": path.write_text("words")
    if how == "folder": path.unlink(); path.mkdir()


SPOILT = {"missing": "no such picture", "empty": "not a picture that Pillow can read", "truncated": r"damaged or truncated picture \(.*\)",
          "words": "not a picture that Pillow can read", "folder": "a folder, not a picture|.*permission denied"}


@pytest.mark.parametrize("how", SPOILT)
def test_a_picture_that_cannot_be_used_is_named_and_left_out_only_if_asked(tmp_path, how):
    a = annotations(tmp_path, pictures=4, people=2)
    whole = CropStore.from_annotations(a, 16, progress=False)
    spoil(tmp_path / "2.png", how)
    for folder, stays in ((None, ""), (tmp_path / "store", r" \(what is done stays done\)")):
        remedy = f"Repair them and run this again{stays}, or leave 2 of 8 people out: skip_bad=True, on the command line --skip-bad"
        with pytest.raises(ValueError, match=f"^1 of 4 pictures cannot be used: .*2.png: ({SPOILT[how]}). {remedy}$"): make(a, folder)
    assert not (tmp_path / "store").exists()
    on_disk, in_memory = make(a, tmp_path / "store", skip_bad=True), make(a, None, skip_bad=True)
    for s in (on_disk, in_memory, CropStore.open(tmp_path / "store")):
        assert len(s) == 6 and s.row.tolist() == [0, 1, 2, 3, 6, 7] and len(s.bad) == 1
        assert s.bad[0].startswith("2.png: ") and s.bad[0].endswith("(2 people)") and f"; 2 left out: {s.bad[0]})" in repr(s)
        assert torch.equal(s.batch(range(6)).images, whole.batch([0, 1, 2, 3, 6, 7]).images)
        assert torch.equal(s.batch(range(6)).others, whole.batch([0, 1, 2, 3, 6, 7]).others)
    assert not on_disk.crops[4:6].any()
    assert json.loads((tmp_path / "store" / "store.json").read_text())["bad"] == list(on_disk.bad)


def test_all_of_them_are_counted_and_some_are_named(tmp_path):
    a = annotations(tmp_path, pictures=9)
    for i in (0, 2, 3, 5, 8): spoil(tmp_path / f"{i}.png", ("missing", "truncated")[i % 2])
    with pytest.raises(ValueError, match="5 of 9 pictures .*0.png: no .*2.png: no .*3.png: damaged .*; and 2 more. .* leave 5 of 9 people"):
        make(a, tmp_path / "store")
    s = make(a, tmp_path / "store", skip_bad=True)
    assert len(s.bad) == 5 and "5 left out: 0.png: no such picture (1 person); 2.png" in repr(s) and repr(s).endswith("; and 2 more)")


def test_a_repaired_picture_is_all_that_is_read_the_next_time(many, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    shutil.copytree(Path(many.paths[0]).parent, folder, ignore=shutil.ignore_patterns("store*"))
    a = replace(many, paths=tuple(folder / Path(path).name for path in many.paths))
    spoil(folder / "4.png", "truncated")
    with pytest.raises(ValueError, match="what is done stays done"): make(a, tmp_path / "store")
    shutil.copy(many.paths[4], folder)
    opened = []
    monkeypatch.setattr(crops, "_open", lambda path, was=crops._open: opened.append(Path(path).name) or was(path))
    make(a, tmp_path / "store")
    assert opened == ["4.png"] and content(tmp_path / "store") == content(undisturbed)


def test_where_nothing_can_be_used_nothing_is_left_and_nobody_is_skipped(tmp_path):
    a = annotations(tmp_path, pictures=3)
    for i in range(3): spoil(tmp_path / f"{i}.png", "missing")
    for skip_bad in (False, True):
        for folder in (None, tmp_path / "store"):
            with pytest.raises(ValueError, match="3 of 3 pictures cannot be used"): make(a, folder, skip_bad=skip_bad)
    assert not list(tmp_path.iterdir())


def test_a_box_outside_costs_its_person_only(tmp_path):
    a = annotations(tmp_path, pictures=2, people=2, center=np.array([[100, 100], [1500, 100], [100, 100], [90, 90]]))
    for folder in (None, tmp_path / "store"):
        with pytest.raises(ValueError, match="1 of 2 pictures .*0.png: person 1: box x .* wholly outside the picture of 300 x 200"):
            make(a, folder)
        s = make(a, folder, skip_bad=True)
        assert s.row.tolist() == [0, 2, 3] and "0.png: person 1: box" in s.bad[0] and s.bad[0].endswith("(1 person)")
        assert (s.batch([0]).others_visible > 0).any()                          # who is left out is still in the picture


def test_what_was_left_out_is_black_in_the_file_even_if_it_was_done_before(tmp_path, monkeypatch):
    a = annotations(tmp_path, pictures=4)
    interrupted(a, tmp_path / "store", monkeypatch, after=3)
    spoil(tmp_path / "1.png", "truncated")
    make(a, tmp_path / "store", skip_bad=True); make(a, tmp_path / "other", skip_bad=True)
    assert content(tmp_path / "store") == content(tmp_path / "other")


# disks and neighbours

def full(*_): raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_found_out_before_the_work(many, tmp_path, monkeypatch):
    monkeypatch.setattr(crops, "_open", None)                                    # nothing is decoded
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match=r"store: the store takes 0.1 MB, and .*B are free \(No space left on device\); make room, or choose"):
        make(many, tmp_path / "store")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_where_room_cannot_be_reserved_zeros_are_written(many, undisturbed, tmp_path, monkeypatch, number):
    def cannot(*_): raise OSError(number, "cannot")
    if number: monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
    else: monkeypatch.delattr(os, "posix_fallocate", raising=False)
    reserved = []
    def look(partial, *rest, was=crops._fill):
        reserved.append((partial / "crops.u8").stat())
        return was(partial, *rest)
    monkeypatch.setattr(crops, "_fill", look)
    make(many, tmp_path / "store")
    assert reserved[0].st_size == 24 * 28 * 28 * 3 and content(tmp_path / "store") == content(undisturbed)
    if hasattr(reserved[0], "st_blocks"): assert reserved[0].st_blocks * 512 >= reserved[0].st_size             # no holes


@forks
@pytest.mark.parametrize("reserves", [True, False])
def test_a_limit_on_the_size_of_files_is_a_sentence(many, tmp_path, reserves):
    resource = pytest.importorskip("resource")
    def limited(ends):
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        if not reserves and hasattr(os, "posix_fallocate"): del os.posix_fallocate
        try: make(many, tmp_path / "store")
        except OSError as error: ends.send(str(error))
    ours, theirs = multiprocessing.Pipe()
    assert child(limited, theirs).exitcode == 0
    assert "the store takes 0.1 MB" in (said := ours.recv()) and "make room, or choose another folder or a smaller size" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["labels.safetensors", "store.json"])
def test_a_disk_that_fills_up_at_the_end_costs_nothing_that_is_done(many, undisturbed, tmp_path, monkeypatch, name):
    def write(file, data, was=crops._write): return full() if file.name == name else was(file, data)
    with monkeypatch.context() as patched:
        patched.setattr(crops, "_write", write)
        with pytest.raises(OSError, match="No space left on device"): make(many, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    monkeypatch.setattr(crops, "_open", None)                                    # nothing is decoded again
    make(many, tmp_path / "store")
    assert content(tmp_path / "store") == content(undisturbed)


def test_a_folder_that_cannot_be_written_is_a_sentence(many, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"store: the store cannot be written \(.*\); choose another folder"):
        make(many, tmp_path / "file" / "store")
    assert (tmp_path / "file").read_text() == "mine"


def test_two_cannot_make_the_same_store_at_once(many, undisturbed, tmp_path):
    with crops._alone(partial_of(tmp_path / "store"), tmp_path / "store"):
        with pytest.raises(BlockingIOError, match="store: another process is making this store; wait for it, or choose another folder"):
            make(many, tmp_path / "store")
    make(many, tmp_path / "store")
    assert content(tmp_path / "store") == content(undisturbed)


@forks
def test_of_several_processes_one_makes_it_and_the_others_say_so_or_open_it(many, undisturbed, tmp_path):
    def attempt(ends):
        try: slow(many, tmp_path / "store"); ends.send("there")
        except BlockingIOError: ends.send("busy")
    pipes = [multiprocessing.Pipe() for _ in range(4)]
    processes = [child(attempt, theirs, wait=False) for _, theirs in pipes]
    said = [ours.recv() for ours, _ in pipes]
    for process in processes: process.join(60)
    assert "there" in said and content(tmp_path / "store") == content(undisturbed) and not partial_of(tmp_path / "store").exists()


def test_a_store_that_appears_meanwhile_is_opened(many, undisturbed, tmp_path, monkeypatch):
    "Another process finishes between the first look and the lock."
    @contextlib.contextmanager
    def late(partial, folder, was=crops._alone):
        shutil.copytree(undisturbed, folder)
        with was(partial, folder) as lock: yield lock
    monkeypatch.setattr(crops, "_alone", late)
    monkeypatch.setattr(crops, "_open", None)
    assert len(make(many, tmp_path / "store")) == 24 and not partial_of(tmp_path / "store").exists()


def test_no_locks_no_refusal(many, undisturbed, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    def unknown(*_): raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", unknown)
    make(many, tmp_path / "store")
    assert content(tmp_path / "store") == content(undisturbed)


# damaged stores

def change(folder, **values):
    about = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps({key: value for key, value in (about | values).items() if value is not None}))


def cut(file, by): file.write_bytes(file.read_bytes()[:by])


def relabel(folder, **columns):
    labels = {name: columns.get(name, column) for name, column in load_file(folder / "labels.safetensors").items()}
    save_file({name: column for name, column in labels.items() if column is not None}, folder / "labels.safetensors")


@pytest.mark.parametrize("damage, message", [
    (lambda f: cut(f / "crops.u8", -1), "crops.u8: 56,447 bytes, and 24 crops take 56,448: cut off or damaged"),
    (lambda f: (f / "crops.u8").write_bytes((f / "crops.u8").read_bytes() + b"x"), "crops.u8: 56,449 bytes"),
    (lambda f: (f / "crops.u8").unlink(), "crops.u8: 0 bytes"),
    (lambda f: cut(f / "store.json", -10), "store.json: damaged or cut off"),
    (lambda f: (f / "store.json").write_bytes(b"\xff\xfe{"), "store.json: damaged or cut off"),
    (lambda f: (f / "store.json").write_text("[1]"), "store.json: a store of format None, this version of msspose reads 1"),
    (lambda f: change(f, format=2), "store.json: a store of format 2, this version of msspose reads 1"),
    (lambda f: change(f, people=None), "store.json: has no 'people'"),
    (lambda f: change(f, people=23), r"labels.safetensors: row: expected \(23,\) as store.json has it, got \(24,\)"),
    (lambda f: cut(f / "labels.safetensors", 200), "labels.safetensors: missing, damaged or cut off"),
    (lambda f: cut(f / "labels.safetensors", -1), "labels.safetensors: missing, damaged or cut off"),
    (lambda f: (f / "labels.safetensors").unlink(), "labels.safetensors: missing, damaged or cut off"),
    (lambda f: relabel(f, joints=None), r"labels.safetensors: joints: expected \(24, 14, 2\) as store.json has it, got nothing"),
    (lambda f: relabel(f, row=np.arange(1, 25)), "labels.safetensors: does not belong to the crops beside it"),
    (lambda f: relabel(f, first=np.arange(25) * 2), "labels.safetensors: does not belong to the crops beside it"),
], ids=range(15))
def test_a_damaged_store_is_a_sentence(undisturbed, tmp_path, damage, message):
    shutil.copytree(undisturbed, tmp_path / "store")
    damage(tmp_path / "store")
    with pytest.raises(ValueError, match=message + ".*; delete (the store|it) and make it again"): CropStore.open(tmp_path / "store")


def test_no_store_is_a_sentence(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"{folder.name}: no store here \(store.json is missing\); msspose prepare makes one"):
            CropStore.open(folder)


# travelling, and on devices

def test_a_store_on_disk_travels_as_the_name_of_its_folder(undisturbed, monkeypatch, tmp_path):
    monkeypatch.chdir(undisturbed.parent)
    opened = CropStore.open("store", hold=True)
    monkeypatch.chdir(tmp_path)
    assert len(data := pickle.dumps(opened)) < 1000
    for other in (pickle.loads(data), copy.deepcopy(opened)):
        same_batches(other, opened)
        assert (other.folder, other.hold, other.device) == (str(undisturbed), True, "cpu")


def test_a_store_in_memory_travels_with_its_crops(store): same_batches(pickle.loads(pickle.dumps(store)), store)


@forks
def test_processes_read_the_same_store(undisturbed):
    opened = CropStore.open(undisturbed)
    def read(ends): ends.send([int(opened.crops.sum()), int(CropStore.open(undisturbed).crops.sum())])
    pipes = [multiprocessing.Pipe() for _ in range(2)]
    processes = [child(read, theirs, wait=False) for _, theirs in pipes]
    assert [ours.recv() for ours, _ in pipes] == [[int(opened.crops.sum())] * 2] * 2
    for process in processes: process.join(60)


def test_another_program_unpickles_it(undisturbed, tmp_path):
    opened = CropStore.open(undisturbed)
    (tmp_path / "store.pickle").write_bytes(pickle.dumps(opened))
    code = "import pickle, sys; print(int(pickle.load(open(sys.argv[1], 'rb')).wide(range(24)).images.mul(255).round().sum()))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "store.pickle"], capture_output=True, text=True, check=True)
    assert int(done.stdout) == int(opened.crops.sum())


def test_held_in_memory_it_needs_its_file_no_longer(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "store")
    held = CropStore.open(tmp_path / "store", hold=True)
    (tmp_path / "store" / "crops.u8").write_bytes(bytes(56_448))
    same_batches(held, CropStore.open(undisturbed))


@pytest.mark.parametrize("device, free, hold, held", [
    ("meta", 56_448 / 0.29, None, True), ("meta", 56_448 / 0.31, None, False), ("meta", 0, True, True), ("meta", 1e9, False, False),
    ("cpu", 1e9, None, False)])
def test_it_is_held_on_an_accelerator_with_room_for_it(undisturbed, monkeypatch, device, free, hold, held):
    "The device meta stands for any: it knows shapes, not values."
    monkeypatch.setattr(crops, "accelerator_memory", lambda device: free)
    opened = CropStore.open(undisturbed, device, hold)
    assert opened.crops.device.type == (device if held else "cpu") and opened.crops.shape == (24, 28, 28, 3)
    b = opened.batch([1, 2])
    assert {getattr(b, f.name).device.type for f in fields(b)} == {device} and b.images.shape == (2, 3, 16, 16)


def test_what_nobody_can_tell_is_no_room(): assert crops.accelerator_memory(torch.device("meta")) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_the_same_variations(undisturbed):
    here = CropStore.open(undisturbed)
    for hold in (True, False):
        there = CropStore.open(undisturbed, "cuda", hold)
        assert there.crops.is_cuda is hold
        a, b = (s.batch(range(24), torch.Generator().manual_seed(3)) for s in (here, there))
        torch.testing.assert_close(b.images.cpu(), a.images, atol=1 / 255, rtol=0)
        torch.testing.assert_close(b.joints.cpu(), a.joints, atol=1e-3, rtol=0)


# the loader

def alike(a, b): return len(a) == len(b) and all(torch.equal(getattr(x, f.name), getattr(y, f.name))
                                                 for x, y in zip(a, b, strict=True) for f in fields(x))


SOURCES = [pytest.param(lambda store: store, id="store"), pytest.param(lambda store: People("standard", size=32), id="people")]


@pytest.fixture(params=SOURCES)
def source(request, store): return request.param(store)


@pytest.mark.parametrize("workers, ahead", [(1, 1), (3, 16), (4, 2)])
def test_threads_do_not_change_what_comes(source, workers, ahead):
    one = list(Loader(source, 4, seed=5, epoch_size=80).epoch(3))
    assert alike(list(Loader(source, 4, seed=5, epoch_size=80, workers=workers, ahead=ahead).epoch(3)), one)


@settings(max_examples=20)
@given(start=st.integers(0, 20), workers=st.sampled_from([1, 3]), number=st.integers(0, 3))
def test_it_goes_on_in_the_middle_of_an_epoch(store, start, workers, number):
    for source, size in ((store, 2), (People(size=16), 5)):
        loader = Loader(source, size, seed=1, epoch_size=104, workers=workers)
        begin = min(start, len(loader))
        assert alike(list(loader.epoch(number, begin)), list(loader.epoch(number))[begin:])


def test_seeds_epochs_and_batches_differ(source):
    found = [b.images for seed in (0, 1) for number in (0, 1) for b in Loader(source, 4, seed, 32).epoch(number)]
    assert not any(a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


def test_no_two_batches_are_varied_alike(made):
    "One person, eight times: whoever has another size has been varied on their own."
    store = CropStore.from_annotations(made[[0] * 8], 16, progress=False)
    sizes = [b.reference for seed in (0, 1) for number in (0, 1) for b in Loader(store, 2, seed).epoch(number)]
    assert len(torch.cat(sizes).unique()) == 32


@pytest.mark.parametrize("people, size, sizes", [
    (9, 4, [3, 3, 3]), (9, 3, [3, 3, 3]), (8, 3, [2, 3, 3]), (9, 8, [4, 5]), (2, 5, [2]), (3, 2, [3]), (5, 2, [2, 3])])
def test_an_epoch_of_a_store_shows_everybody_once_in_batches_of_one_size(made, monkeypatch, people, size, sizes):
    store, asked = CropStore.from_annotations(made[:people], 16, progress=False), []
    def batch(self, rows, *more, was=CropStore.batch):
        asked.append(rows.tolist())
        return was(self, rows, *more)
    monkeypatch.setattr(CropStore, "batch", batch)
    loader, orders = Loader(store, size), set()
    for number in range(6):
        asked.clear()
        assert [len(b) for b in loader.epoch(number)] == [len(rows) for rows in asked] == sizes and len(loader) == len(sizes)
        assert [loader.people_of(number, batch) for batch in range(len(loader))] == asked
        assert sorted(order := sum(asked, [])) == list(range(people))
        orders.add(tuple(order))
    assert len(orders) > 1                                                      # two people have two orders


@pytest.mark.parametrize("epoch_size, size, sizes", [
    (64, 4, [4] * 16), (40, 8, [6, 6, 7, 7, 7, 7]), (42, 5, [4] * 8 + [5] * 2), (66, 8, [6, 6, 7, 7, 6, 6, 7, 7, 7, 7]), (6, 4, [3, 3])])
def test_an_epoch_of_people_shows_new_ones_each_as_made_and_mirrored(epoch_size, size, sizes):
    people = People("standard", size=16)
    loader = Loader(people, size, epoch_size=epoch_size)
    for number in range(2):
        batches, once = list(loader.epoch(number)), range(number * (epoch_size // 2), (number + 1) * (epoch_size // 2))
        assert [len(b) for b in batches] == sizes and len(loader) == len(sizes) and sum(sizes) == epoch_size
        painted = people.batch(once)
        torch.testing.assert_close(torch.cat([b.images for b in batches[::2]]), painted.images)
        assert all(alike([mirror(a, MPII)], [b]) for a, b in zip(batches[::2], batches[1::2], strict=True))
        assert sum((loader.people_of(number, batch) for batch in range(0, len(loader), 2)), []) == list(once)


@given(st.integers(2, 3000), st.integers(2, 70), st.integers(1, 4))
def test_batches_and_parts_differ_by_one_person_at_most(people, size, processes):
    source, more = People(size=16), dict(epoch_size=2 * people)
    loader = Loader(source, size, **more)
    whole = [rows.stop - rows.start for rows, _ in map(loader.rows, range(0, len(loader), 2))]
    assert sum(whole) == people and max(whole) - min(whole) <= 1 and min(whole) >= 2 and (max(whole) <= size or size == 2)
    if processes > min(whole): return
    parts = [Loader(source, size, **more, share=(i, processes)) for i in range(processes)]
    for batch, count in enumerate(whole):
        rows, skips = zip(*(part.rows(2 * batch) for part in parts), strict=True)
        lengths = [some.stop - some.start for some in rows]
        assert sum(lengths) == count and max(lengths) - min(lengths) <= 1 and list(skips) == [sum(lengths[:i]) for i in range(processes)]


# several processes

def joined(batches):
    "Parts of a batch, as one; whoever has fewer bystanders gets some who are not there."
    most = max(b.others.shape[1] for b in batches)
    def widen(value, dim):
        missing = list(value.shape)
        missing[dim] = most - value.shape[dim]
        return torch.cat([value, value.new_zeros(missing)], dim)
    batches = [replace(b, others=widen(b.others, 1), others_visible=widen(b.others_visible, 1), boxes=b.boxes[:, :1]) for b in batches]
    return {f.name: torch.cat([getattr(b, f.name) for b in batches]) for f in fields(batches[0])}


@pytest.mark.parametrize("size, processes", [(4, 2), (6, 2), (8, 3), (5, 1)])
def test_the_parts_of_all_processes_are_the_whole_batch(source, size, processes):
    "Nine people of a store and 21 that are generated: batches that cannot be divided evenly, too."
    whole = Loader(source, size, seed=2, epoch_size=42)
    parts = [Loader(source, size, seed=2, epoch_size=42, share=(i, processes)) for i in range(processes)]
    assert {len(part) for part in parts} == {len(whole)}
    uneven = 0
    for number in range(2):
        for batch, (expected, *found) in enumerate(zip(whole.epoch(number), *(part.epoch(number) for part in parts), strict=True)):
            for name, value in joined(found).items():
                torch.testing.assert_close(value, joined([expected])[name], atol=2e-6, rtol=0, msg=name)
            assert sum((part.people_of(number, batch) for part in parts), []) == whole.people_of(number, batch)
            uneven += len({len(b) for b in found}) > 1
    assert uneven or processes == 1 or (size, processes) == (4, 2) and not isinstance(source, People)


def test_more_processes_than_people_in_a_batch_are_refused(store):
    with pytest.raises(ValueError, match=r"share=\(0, 4\): batches of 3 for 4 processes; each needs a person"):
        Loader(store, 4, share=(0, 4))
    with pytest.raises(ValueError, match=r"share=\(2, 2\)"): Loader(store, 4, share=(2, 2))


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(0, 7))
def test_whoever_comes_later_in_a_batch_is_varied_as_in_the_whole_batch(store, seed, skip):
    wide, dice = store.wide(range(9)), lambda: torch.Generator().manual_seed(seed)
    whole, rest = augment(wide, 64, dice(), skeleton=store.skeleton), store.wide(range(skip, 9))
    later = augment(rest, 64, dice(), skeleton=store.skeleton, skip=skip)
    for f in ("images", "joints", "visible", "reference"):
        torch.testing.assert_close(getattr(later, f), getattr(whole, f)[skip:], atol=1e-5, rtol=1e-6, msg=f)
    if skip: assert not torch.equal(augment(rest, 64, dice(), skeleton=store.skeleton).reference, later.reference)
    torch.testing.assert_close(store.batch(range(skip, 9), dice(), skip).images, later.images, atol=1e-2, rtol=0)   # one from bytes


def test_what_a_thread_raises_arrives_and_no_thread_is_left(source, monkeypatch):
    before, calls = threading.active_count(), []
    def batch(self, *arguments, was=type(source).batch):
        calls.append(arguments)
        if len(calls) == 2: raise RuntimeError("this one")
        return was(self, *arguments)
    monkeypatch.setattr(type(source), "batch", batch)
    got = []
    with pytest.raises(RuntimeError, match="this one"): got.extend(Loader(source, 2, epoch_size=64, workers=2).epoch(0))
    assert threading.active_count() == before


@pytest.mark.parametrize("leave", [lambda batches: batches.close(), lambda batches: None, list], ids=["closed", "let go", "to the end"])
def test_no_thread_is_left(source, leave):
    before = threading.active_count()
    batches = Loader(source, 2, epoch_size=64, workers=3).epoch(0)
    next(batches)
    assert threading.active_count() > before
    leave(batches); del batches
    assert threading.active_count() == before


def test_an_epoch_that_is_never_asked_for_starts_nothing(source):
    before = threading.active_count()
    Loader(source, 2, epoch_size=64).epoch(0)
    assert threading.active_count() == before


def test_it_is_ahead_but_not_further(store, monkeypatch):
    made, asked = [], threading.Semaphore(0)
    def batch(self, rows, *more, was=CropStore.batch):
        made.append(len(rows)); asked.release()
        return was(self, rows, *more)
    monkeypatch.setattr(CropStore, "batch", batch)
    batches = Loader(store, 2, ahead=2).epoch(0)
    next(batches)
    for _ in range(3): assert asked.acquire(timeout=60)                         # the one that was taken, and two more, unasked
    assert not asked.acquire(timeout=0.3)
    batches.close()
    assert len(made) == 3


def test_it_measures_how_long_it_was_waited_for(source, monkeypatch):
    "By a clock that goes on by a second whenever somebody looks at it."
    monkeypatch.setattr(crops, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    loader = Loader(source, 3, epoch_size=48)
    assert loader.waited == 0
    parts = len(list(loader.epoch(0))) // loader.together
    assert loader.waited == parts + 1                                           # one look before each part and one after, at the end, too
    list(loader.epoch(1))
    assert loader.waited == 2 * (parts + 1)


def test_the_threads_of_the_network_stay(store):
    was = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        inside = []
        def batch(self, *arguments, was=CropStore.batch):
            inside.append(torch.get_num_threads())
            return was(self, *arguments)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(CropStore, "batch", batch)
            list(Loader(store, 4).epoch(0))
        assert torch.get_num_threads() == 2 and set(inside) == {1}
    finally: torch.set_num_threads(was)


@pytest.mark.parametrize("options, message", [
    (dict(batch_size=1), "batches of 1 from 9 people: one needs two people at least"), (dict(workers=0), "workers=0, ahead=16, seed=0"),
    (dict(ahead=0), "ahead=0"), (dict(seed=-1), "seed=-1: expected at least 1, 1 and 0")])
def test_options_that_make_no_batches_are_refused(store, options, message):
    with pytest.raises(ValueError, match=message): Loader(store, **dict(batch_size=4) | options)


def test_sources_that_make_no_batches_are_refused(made, store):
    alone = CropStore.from_annotations(made[:1], 16, progress=False)
    with pytest.raises(ValueError, match="batches of 4 from 1 people"): Loader(alone, 4)
    with pytest.raises(ValueError, match="batches of 4 from 1 people"): Loader(People(size=16), 4, epoch_size=3)
    with pytest.raises(ValueError, match="people of the val split are for measuring; train on split='train'"):
        Loader(People(split="val"), 4)
    for start in (-1, 4):
        with pytest.raises(ValueError, match=f"start={start}: an epoch has 3 batches"): Loader(store, 3).epoch(0, start)


def test_batches_go_where_the_source_says(undisturbed):
    b = next(Loader(CropStore.open(undisturbed, "meta", hold=False), 4).epoch(0))
    assert b.images.device.type == "meta" and b.images.shape == (4, 3, 16, 16)


# the mirror

def test_the_mirror_is_exact_and_undoes_itself():
    people = People("crowd", size=48)
    b = people.batch(range(12))
    m = mirror(b, MPII)
    assert torch.equal(m.images, b.images.flip(-1)) and torch.equal(m.reference, b.reference)
    wrist, other = MPII.index("left_wrist"), MPII.index("right_wrist")
    assert torch.equal(m.joints[:, other, 0], 47 - b.joints[:, wrist, 0]) and torch.equal(m.joints[:, other, 1], b.joints[:, wrist, 1])
    assert torch.equal(m.visible[:, other], b.visible[:, wrist])
    nobody = (b.others_visible == 0).all(-1)
    assert nobody.any() and not m.others[nobody].any() and not m.boxes[:, 1:][nobody].any()
    back = mirror(m, MPII)
    for f in fields(b): torch.testing.assert_close(getattr(back, f.name), getattr(b, f.name), atol=1e-4, rtol=0)


def test_the_mirror_and_augment_agree(store):
    wide = store.wide(range(9))
    for got, expected in zip(*([getattr(b, name) for name in ("images", "joints", "visible", "others", "others_visible")] for b in (
            mirror(store.batch(range(9)), LSP), augment(wide, 64, torch.Generator(), **NONE | dict(flip=1), skeleton=LSP))), strict=True):
        torch.testing.assert_close(got, expected, atol=1 / 255, rtol=0)


# browse

def titles(figure): return [ax.get_title() for ax in figure.axes if ax.get_title()]
def shown(figure): return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


@pytest.mark.parametrize("make_source, size", [(lambda store: store, 64), (lambda store: People("standard", size=48), 48),
                                               (lambda store: People("plain", "val", 32), 32)], ids=["store", "train", "val"])
def test_browse_shows_people_with_their_numbers(store, make_source, size):
    source = make_source(store)
    figure = browse(source, count=5, seed=3, cols=3)
    assert len(titles(figure)) == 5 and all(title.startswith("person ") for title in titles(figure))
    assert len({title for title in titles(figure)}) == 5
    assert all(image.shape[:2] == (size, size) for image in shown(figure))
    assert all(ax.lines or ax.collections for ax in figure.axes if ax.images)
    again, other = browse(source, 5, seed=3), browse(source, 5, seed=4)
    assert titles(again) == titles(figure) != titles(other)
    assert all((a == b).all() for a, b in zip(shown(again), shown(figure), strict=True))


def test_browse_shows_all_where_there_are_fewer(store): assert len(titles(browse(store, 100))) == 9


def test_browsed_people_are_those_of_a_training():
    figure, people = browse(People("plain", size=32), 3, seed=2), People("plain", size=32)
    painted = people.batch([int(title.split()[1]) for title in titles(figure)]).images.permute(0, 2, 3, 1)
    np.testing.assert_allclose(np.stack(shown(figure)), painted, atol=1e-6)


# real photographs

def test_photographs_go_through_every_path(real_data):
    if not (real_data / "lspet" / "joints.mat").is_file(): pytest.skip("no photographs of LSPET in MSSPOSE_DATA")
    a = load_lspet(real_data / "lspet", "val")[:40]
    store = CropStore.from_annotations(a, 64, progress=False)
    plain = store.batch(range(40))
    for i in (0, 17, 39):
        assert (crop(read_image(a.paths[a.image[i]]), a.center[i], a.side[i], 64) - plain.images[i]).abs().max() <= 1 / 255 + 1e-6
    inside = ((store.joints >= -0.5) & (store.joints <= 63.5)).all(-1)
    assert inside[store.visible > 0].all()       # the square holds all labelled joints
    assert plain.images.std() > 0.1
    b = store.batch(range(40), torch.Generator().manual_seed(0))
    assert torch.isfinite(b.images).all() and torch.isfinite(b.joints).all()


@pytest.fixture
def mpii_forms(real_data):
    "The three validation people whose photographs are there, as three files have them."
    photos, val = real_data / "mpii_images", real_data / "mpii_val"
    needed = [photos / "hrnet_format.json", val / "valid.h5", val / "mpii_annotations.json.gz"]
    missing = [file.name for file in needed if not file.is_file()]
    if missing: pytest.skip(f"no photographs of MPII in MSSPOSE_DATA: {', '.join(missing)} is not there")
    forms = {}
    for file in needed:
        a = load_mpii(file, "val" if file.parent == val else "all", images=photos)
        a = a[[i for i in range(len(a)) if os.path.exists(a.paths[a.image[i]])]]
        forms[file.name] = a[np.argsort([a.paths[i] for i in a.image])]
    return forms


def test_mpii_from_json_and_from_h5_gives_the_same_crops_to_a_pixel(mpii_forms, tmp_path):
    stores = {name: CropStore.from_annotations(a, 256, tmp_path / name, progress=False) for name, a in mpii_forms.items()}
    hrnet, h5, raw = stores.values()
    assert len(hrnet) == len(h5) == len(raw) == 3
    difference = (hrnet.crops.int() - h5.crops.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() < 0.01      # the same squares, up to rounding
    assert (raw.crops.int() - h5.crops.int()).abs().float().mean() < 1           # here they are 0.1 pixels larger or smaller
    both = ((hrnet.visible > 0) & (h5.visible > 0))
    assert both.sum() >= 46 and (hrnet.joints - h5.joints)[both].abs().max() < 1
    assert (raw.joints - h5.joints)[(raw.visible > 0) & (h5.visible > 0)].abs().max() < 1
    assert ((raw.reference - h5.reference).abs() < 0.1).all() and torch.equal(raw.visible > 0, h5.visible > 0)


def test_labels_on_the_disk_do_not_depend_on_how_a_table_lies_in_memory(tmp_path, made):
    "As read from MATLAB, whose arrays are transposed."
    joints = np.asfortranarray(made.joints.transpose(1, 0, 2)).transpose(1, 0, 2)
    turned = replace(made, joints=joints, visible=np.asfortranarray(made.visible))
    assert not turned.joints.flags.c_contiguous
    stored, held = (CropStore.from_annotations(turned, 16, folder, progress=False) for folder in (tmp_path / "store", None))
    for name in ("joints", "visible", "center", "reference", "others", "others_visible", "first", "row"):
        torch.testing.assert_close(getattr(stored, name), getattr(held, name), rtol=0, atol=0, equal_nan=True, msg=name)


# the exercise of the chapter

def turned(joints, wide, size, angle, factor, half=0.5, transpose=False, enlarge=False):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = (np.asarray(joints) - (wide / 2 - half)) @ (turn.T if transpose else turn)
    return (offset * factor if enlarge else offset / factor) + size / 2 - half


@pytest.mark.parametrize("change", [dict(transpose=True), dict(enlarge=True), dict(half=0)], ids=lambda change: "-".join(change))
def test_turned_joints_are_told_from_the_usual_mistakes(change):
    assert judge(EXERCISES["turned_joints"], turned) == "right"
    assert judge(EXERCISES["turned_joints"], lambda *given: turned(*given, **change)).startswith("not yet")


def test_the_formula_of_the_exercise_is_that_of_augment(made):
    store = CropStore.from_annotations(made, 64, progress=False)
    wide = store.wide([0])
    varied = augment(wide, 64, torch.Generator().manual_seed(1), rotation=30, scale=0.25, flip=0, skeleton=LSP)
    chance = torch.rand(1, 8, generator=torch.Generator().manual_seed(1))
    angle, factor = np.radians(30) * (2 * chance[0, 0].item() - 1), 1 + 0.25 * (2 * chance[0, 1].item() - 1)
    seen = wide.visible[0] > 0
    np.testing.assert_allclose(turned(wide.joints[0], 112, 64, angle, factor)[seen], varied.joints[0][seen], atol=1e-3)


# all together

def test_crops_and_their_variations_are_what_they_were(made, store):
    as_remembered("crops", store.batch([0, 4, 8]))
    wide = store.wide(range(9))
    as_remembered("variations", {f"{options}": augment(wide, 64, torch.Generator().manual_seed(1), skeleton=LSP, **options)
                                 for options in ({}, dict(rotation=90, scale=0.1, flip=1, colour=1, translation=0.2))})
    as_remembered("mirrored", mirror(store.batch([1, 2]), LSP))
    as_remembered("company", store.company)
    image, square = read_image(made.paths[0]), ((80.25, 61.5), 97.5)
    as_remembered("a square of a photograph", {size: crop(image, *square, size) for size in (16, 97, 200)})
    figure = browse(store, 4)
    as_remembered("browsed", figure)
