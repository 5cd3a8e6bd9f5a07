"From photograph to batch and back: one geometry on every path, pictures of every kind, and errors that name the file."
import io
import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from msspose import crops
from msspose.crops import CropStore, augment, crop, read_image, stored_size, to_crop, to_photo
from msspose.data import Annotations, load_lspet
from msspose.skeleton import LSP

REAL = Path(os.environ.get("MSSPOSE_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / "lspet"
real = pytest.mark.skipif(not (REAL / "joints.mat").is_file(), reason="no LSPET photographs; set MSSPOSE_DATA to the folder above lspet")
PHOTO = st.tuples(st.floats(-50, 400), st.floats(-50, 400)), st.floats(5, 500), st.sampled_from([16, 64, 100, 256])
NONE = dict(rotation=0, scale=0, flip=0, colour=0)


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


def slow_place(place, u, size, wide, rotation=30, scale=0.25, flip=0.5):
    "Where one joint goes, step by step: mirror undone last."
    x, y = (float(v) - (wide - 1) / 2 for v in place)
    angle, factor = np.radians(rotation) * (2 * float(u[0]) - 1), 1 + scale * (2 * float(u[1]) - 1)
    x, y = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    if float(u[2]) < flip: x = -x
    return x / factor + (size - 1) / 2, y / factor + (size - 1) / 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10 ** 6))
def test_joints_follow_a_slow_reference(store, seed):
    wide = store.wide(range(9))
    got = augment(wide, 64, torch.Generator().manual_seed(seed), skeleton=LSP)
    u = torch.rand(9, 6, generator=torch.Generator().manual_seed(seed))
    for b in range(9):
        names = LSP.flip if u[b, 2] < 0.5 else range(14)
        for j, k in enumerate(names):
            if not wide.visible[b, k]: assert got.visible[b, j] == 0 and (got.joints[b, j] == 0).all()
            else: np.testing.assert_allclose(got.joints[b, j], slow_place(wide.joints[b, k], u[b], 64, 112), atol=2e-3)
    torch.testing.assert_close(got.reference, wide.reference / (1 + 0.25 * (2 * u[:, 1] - 1)))


def test_the_store_reaches_as_far_as_the_paper_turns():
    "White to its edge, the store gives white whatever the dials, and would not at 1.65 times the square."
    def darkest(wide):
        n = 400
        batch = crops.Batch(images=torch.ones(n, 3, wide, wide), joints=torch.zeros(n, 14, 2), visible=torch.zeros(n, 14),
                            reference=torch.ones(n), others=torch.zeros(n, 0, 14, 2), others_visible=torch.zeros(n, 0, 14),
                            boxes=torch.zeros(n, 1, 4))
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


def test_unequal_pictures_are_padded(tmp_path):
    a = annotations(tmp_path, pictures=2, people=2)[[0, 1, 2]]
    b = CropStore.from_annotations(a, 16, progress=False).batch(range(3))
    assert b.others.shape[1] == 1 and (b.others_visible[2] == 0).all() and (b.others_visible[:2] > 0).any()


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


def test_what_goes_wrong_names_the_picture(tmp_path):
    a = annotations(tmp_path)
    with pytest.raises(ValueError, match="size 63: it has to be even"): CropStore.from_annotations(a, 63)
    data = (tmp_path / "1.png").read_bytes()
    for content, message in ((data[:3000], "1.png: damaged or truncated picture"), (b"words", "1.png: not a picture that Pillow can read")):
        (tmp_path / "1.png").write_bytes(content)
        with pytest.raises(ValueError, match=message): CropStore.from_annotations(a, 16, progress=False)
    (tmp_path / "1.png").unlink()
    with pytest.raises(ValueError, match="1.png: no such picture"): CropStore.from_annotations(a, 16, progress=False)
    (tmp_path / "1.png").write_bytes(data)
    away = annotations(tmp_path, center=np.array([[100, 100], [900, 100], [100, 100]]))
    with pytest.raises(ValueError, match=r"1.png, person 1: box x .* wholly outside the picture of 300 x 220"):
        CropStore.from_annotations(away, 16, progress=False)


def test_an_error_stops_the_other_pictures(tmp_path, monkeypatch):
    a, opened = annotations(tmp_path, pictures=40), []
    (tmp_path / "0.png").write_bytes(b"words")
    monkeypatch.setattr(crops, "_open", lambda path, was=crops._open: opened.append(path) or was(path))
    with pytest.raises(ValueError, match="0.png"): CropStore.from_annotations(a, 16, workers=1, progress=False)
    assert len(opened) < 40


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


# real photographs

@real
def test_photographs_go_through_every_path():
    a = load_lspet(REAL, "val")[:40]
    store = CropStore.from_annotations(a, 64, progress=False)
    plain = store.batch(range(40))
    for i in (0, 17, 39):
        assert (crop(read_image(a.paths[a.image[i]]), a.center[i], a.side[i], 64) - plain.images[i]).abs().max() <= 1 / 255 + 1e-6
    inside = ((store.joints >= -0.5) & (store.joints <= 63.5)).all(-1)
    assert inside[store.visible > 0].all()       # the square holds all labelled joints
    assert plain.images.std() > 0.1
    b = store.batch(range(40), torch.Generator().manual_seed(0))
    assert torch.isfinite(b.images).all() and torch.isfinite(b.joints).all()
