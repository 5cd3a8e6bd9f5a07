"Heatmaps: properties, edge cases, bad input, and the numbers of decisions.md rows 10 and 25."
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from remembered import as_remembered

from msspose.checks import EXERCISES, judge
from msspose.heatmaps import decode, encode, pyramid, to_image, to_map

HOWS = ("argmax", "quarter", "subpixel")


def slow_encode(joints, visible, size, sigma):
    "The equation of section 3.1, pixel by pixel."
    maps = np.zeros((*visible.shape, size, size))
    for b, n in np.argwhere(visible.numpy() > 0):
        for y in range(size):
            for x in range(size):
                squared = (x - joints[b, n, 0].item()) ** 2 + (y - joints[b, n, 1].item()) ** 2
                maps[b, n, y, x] = math.exp(-squared / (2 * sigma ** 2))
    return torch.from_numpy(maps)


def slow_decode(map_, how):
    "One map (h, w), written from the description. Ties: leftmost, then topmost."
    h, w = map_.shape
    values = map_.tolist()
    x, y = max(((x, y) for x in range(w) for y in range(h)), key=lambda p: (values[p[1]][p[0]], -p[0], -p[1]))
    place = [float(x), float(y)]
    if how == "quarter":
        if 0 < x < w - 1: place[0] += 0.25 * np.sign(values[y][x + 1] - values[y][x - 1])
        if 0 < y < h - 1: place[1] += 0.25 * np.sign(values[y + 1][x] - values[y - 1][x])
    return place


def random_joints(seed, people=2, joints=5, low=-0.5, high=63.5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(people, joints, 2, generator=generator, dtype=dtype) * (high - low) + low


def seen(joints): return torch.full(joints.shape[:2], 2, dtype=torch.uint8)


# encode ---------------------------------------------------------------------------------------------------------------------------

@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10 ** 6), size=st.integers(1, 12), sigma=st.floats(0.3, 4))
def test_encode_is_the_equation(seed, size, sigma):
    joints = random_joints(seed, 1, 3, -8, size + 8)
    visible = torch.randint(0, 3, (1, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    assert torch.allclose(encode(joints, visible, size, sigma).double(), slow_encode(joints, visible, size, sigma), atol=1e-6)


def test_rows_are_y():
    maps = encode(torch.tensor([[[5.0, 2.0]]]), torch.ones(1, 1), 8)
    assert maps[0, 0, 2, 5] == 1 and maps.sum() == pytest.approx(2 * math.pi, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10 ** 6), dx=st.integers(-9, 9), dy=st.integers(-9, 9))
def test_shifting_a_joint_shifts_its_map(seed, dx, dy):
    joints = random_joints(seed, 1, 4, 20, 43)
    moved = encode(joints + torch.tensor([dx, dy]), seen(joints))
    assert torch.allclose(moved, encode(joints, seen(joints)).roll((dy, dx), (2, 3)), atol=1e-5)


@pytest.mark.parametrize("place", [math.nan, math.inf, -1e30, 0.0])
def test_not_annotated_joints_leave_an_empty_map_whatever_their_coordinates(place):
    joints = torch.tensor([[[place, 5.0], [5.0, 5.0]]], requires_grad=True)
    maps = encode(joints, torch.tensor([[0, 1]], dtype=torch.uint8), 10)
    assert maps[0, 0].abs().sum() == 0 and maps[0, 1, 5, 5] == 1
    maps.square().sum().backward()
    assert joints.grad[0, 0].tolist() == [0, 0] and joints.grad.isfinite().all()


def test_joints_outside_leave_their_tail_or_nothing():
    joints = torch.tensor([[[-1.0, 4.0], [-100.0, 4.0], [9e9, -9e9], [8.0, 8.0]]])
    maps = encode(joints, seen(joints), 8)
    assert maps[0, 0].max().item() == pytest.approx(math.exp(-0.5)) and maps[0, 1:3].abs().sum() == 0
    assert maps.isfinite().all() and maps[0, 3, 7, 7].item() == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("visible", [torch.tensor([[1, 0]]), torch.tensor([[True, False]]), torch.tensor([[0.5, 0.0]])])
def test_visible_may_be_of_any_type(visible):
    assert encode(torch.zeros(1, 2, 2), visible, 4).amax((2, 3)).tolist() == [[1, 0]]


def test_whole_number_joints_and_empty_batches():
    assert encode(torch.tensor([[[3, 1]]]), torch.ones(1, 1), 4)[0, 0, 1, 3] == 1
    assert encode(torch.zeros(0, 16, 2), torch.zeros(0, 16)).shape == (0, 16, 64, 64)
    assert [p.shape for p in decode(torch.zeros(0, 16, 8, 8))] == [(0, 16, 2), (0, 16)]
    assert encode(torch.zeros(2, 0, 2), torch.zeros(2, 0), 4).shape == (2, 0, 4, 4)


def test_no_slow_numbers():
    "No value between 0 and the smallest normal float: underflow is what makes the plain equation slow."
    maps = encode(random_joints(0, 4, 16), torch.ones(4, 16))
    assert maps[maps > 0].min() >= torch.finfo(torch.float32).tiny and (maps == 0).float().mean() > 0.8


def test_encode_is_differentiable_in_the_joints():
    joints = random_joints(3, 1, 3, 1, 6, torch.double).requires_grad_()
    assert torch.autograd.gradcheck(lambda j: encode(j, torch.tensor([[1, 2, 0]]), 8), joints)


@pytest.mark.parametrize("call, words", [
    (lambda: encode(torch.zeros(16, 2), torch.ones(16)), "expected (B, N, 2), got (16, 2)"),
    (lambda: encode(torch.zeros(1, 16, 3), torch.ones(1, 16)), "got (1, 16, 3)"),
    (lambda: encode(torch.zeros(1, 16, 2), torch.ones(1, 14)), "expected (1, 16)"),
    (lambda: encode(torch.zeros(1, 1, 2), torch.ones(1, 1), sigma=0), "sigma: 0"),
    (lambda: encode(torch.zeros(1, 1, 2), torch.ones(1, 1), size=0), "size: 0"),
    (lambda: encode(torch.full((2, 3, 2), math.nan), torch.tensor([[0, 0, 0], [0, 0, 1]])), "joint 2 of person 1"),
    (lambda: encode(torch.full((1, 1, 2), math.inf), torch.ones(1, 1)), "joint 0 of person 0"),
    (lambda: pyramid(torch.zeros(1, 1, 2), torch.ones(1, 1), size=60), "multiple of 8"),
    (lambda: pyramid(torch.zeros(1, 1, 2), torch.ones(1, 1), n_scales=0), "n_scales: 0"),
    (lambda: pyramid(torch.zeros(1, 1, 2), torch.ones(1, 1), how="mean"), "max, render or avg"),
    (lambda: decode(torch.zeros(1, 1, 4, 4), how="nearest"), "argmax, quarter or subpixel"),
    (lambda: decode(torch.zeros(1, 4, 4)), "heatmaps[None]"),
    (lambda: decode(torch.zeros(1, 1, 4, 4, dtype=torch.uint8)), "heatmaps.float()"),
    (lambda: decode(torch.zeros(1, 1, 0, 4)), "without pixels"),
])
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError) as error: call()
    assert words in str(error.value)


# decode ---------------------------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10 ** 6), h=st.integers(1, 7), w=st.integers(1, 7), levels=st.sampled_from([2, 3, 1000]))
def test_decode_is_the_description(seed, h, w, levels):
    "Few levels make plateaus and ties, small maps make borders."
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-levels, levels, (2, 3, h, w), generator=generator).float()
    for how in ("argmax", "quarter"):
        joints, peaks = decode(maps, how)
        assert torch.equal(peaks, maps.amax((2, 3)))
        assert joints.tolist() == [[slow_decode(maps[b, n], how) for n in range(3)] for b in range(2)]
    joints, _ = decode(maps, "subpixel")
    assert joints.isfinite().all() and (joints - decode(maps, "argmax")[0]).abs().max() <= 0.5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10 ** 6), sigma=st.floats(0.6, 3), height=st.floats(1e-3, 1e3))
def test_round_trip_of_joints_away_from_the_border(seed, sigma, height):
    joints = random_joints(seed, 2, 8, 0.5, 62.5)
    maps = height * encode(joints, seen(joints), sigma=sigma)
    error = {how: (decode(maps, how)[0] - joints).abs().max().item() for how in HOWS}
    assert error["argmax"] <= 0.5 + 1e-4 and error["quarter"] <= 0.25 + 1e-3 and error["subpixel"] < 2e-3


def test_measured_error_of_each_decoding():
    "Mean distance to the centre of a unit square, half of it for quarter; nothing for subpixel."
    joints = random_joints(1, 200, 16, 0.5, 62.5)
    maps = encode(joints, seen(joints))
    mean = {how: (decode(maps, how)[0] - joints).norm(dim=-1).mean().item() for how in HOWS}
    assert mean["argmax"] == pytest.approx(0.3826, abs=0.005) and mean["quarter"] == pytest.approx(0.1913, abs=0.003)
    assert mean["subpixel"] < 1e-4


@pytest.mark.parametrize("angle", [0.3, 0.8, 2.0])
def test_subpixel_is_exact_for_oblique_blobs_and_beats_the_axes_by_themselves(angle):
    joints = random_joints(5, 20, 16, 4, 59)
    dx, dy = (torch.arange(64) - joints[..., 0, None])[..., None, :], (torch.arange(64) - joints[..., 1, None])[..., None]
    u, v = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    maps = torch.exp(-(u / 1.6) ** 2 / 2 - v ** 2 / 2)
    error = {how: (decode(maps, how)[0] - joints).norm(dim=-1).mean().item() for how in HOWS}
    assert error["subpixel"] < 0.02 < 0.2 < error["quarter"] < error["argmax"]


def test_peaks_at_the_border_are_not_corrected_outward():
    joints = torch.tensor([[[0.0, 5.3], [9.0, 0.0], [-0.4, 9.4], [4.2, 9.3]]])
    maps = encode(joints, seen(joints), 10)
    assert decode(maps, "quarter")[0][0].tolist() == [[0, 5.25], [9, 0], [0, 9], [4.25, 9]]
    found = decode(maps, "subpixel")[0][0]
    assert torch.allclose(found, torch.tensor([[0, 5.3], [9, 0], [0, 9], [4.2, 9]]), atol=1e-4)


def test_maps_without_a_peak():
    maps = torch.stack([torch.zeros(5, 6), torch.full((5, 6), 0.7), torch.full((5, 6), -3.0)])[None]
    for how in HOWS:
        joints, peaks = decode(maps, how)
        assert joints.abs().sum() == 0 and torch.allclose(peaks, torch.tensor([[0, 0.7, -3]]))


def test_a_joint_that_is_not_annotated_comes_back_without_a_peak():
    joints = random_joints(0)
    _, peaks = decode(encode(joints, torch.zeros(2, 5)), "subpixel")
    assert peaks.abs().sum() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("how", HOWS)
def test_one_broken_pixel_is_an_error_that_names_its_map(how, bad):
    maps = encode(random_joints(0, 3, 4), torch.ones(3, 4))
    maps[2, 1, 60, 3] = bad
    with pytest.raises(ValueError, match="joint 1 of person 2"): decode(maps, how)
    maps[:] = -math.inf
    with pytest.raises(ValueError, match="11 others of 12"): decode(maps, how)


@pytest.mark.parametrize("how", HOWS)
def test_memory_layout_does_not_matter(how):
    maps = encode(random_joints(4), torch.ones(2, 5)) + 0.1 * torch.rand(2, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    variants = [maps.contiguous(memory_format=torch.channels_last), maps.repeat_interleave(2, 3)[..., ::2],
                torch.cat([maps, maps], 1)[:, :5], maps.transpose(2, 3).contiguous().transpose(2, 3)]
    for variant in variants:
        for got, expected in zip(decode(variant, how), decode(maps, how), strict=True): assert torch.equal(got, expected)
    one = maps[:, :1]
    assert torch.equal(decode(one.contiguous(memory_format=torch.channels_last), how)[0], decode(maps, how)[0][:, :1])


@pytest.mark.parametrize("dtype, result", [(torch.float16, torch.float32), (torch.bfloat16, torch.float32),
                                           (torch.float32, torch.float32), (torch.float64, torch.float64)])
def test_precision(dtype, result):
    joints, peaks = decode(encode(random_joints(2, high=60, low=2), torch.ones(2, 5)).to(dtype), "subpixel")
    assert joints.dtype == peaks.dtype == result
    assert (joints - random_joints(2, high=60, low=2)).abs().max() < (0.1 if dtype.itemsize == 2 else 1e-4)


def test_maps_need_not_be_square():
    maps = torch.zeros(1, 1, 4, 9); maps[0, 0, 1, 7] = 1; maps[0, 0, 1, 8] = 0.5
    assert decode(maps)[0].tolist() == [[[7.25, 1]]]


def test_what_can_be_differentiated():
    maps = encode(random_joints(6, 1, 3, 1, 6, torch.double), torch.ones(1, 3), 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: decode(m, "subpixel"), maps)
    noisy = torch.rand(1, 4, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.double).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: decode(m, "subpixel"), noisy)      # borders, saddles and clamped steps included
    for how in ("argmax", "quarter"):
        joints, peaks = decode(maps, how)
        assert not joints.requires_grad
        (grad,) = torch.autograd.grad(peaks.sum(), maps)
        assert grad.sum() == 3 and ((grad == 0) | (grad == 1)).all()


def test_gradients_are_finite_where_there_is_no_peak():
    maps = torch.zeros(1, 3, 6, 6); maps[0, 1] = 1; maps[0, 2] = -1
    maps.requires_grad_()
    decode(maps, "subpixel")[0].sum().backward()
    assert maps.grad.isfinite().all()


# pyramid --------------------------------------------------------------------------------------------------------------------------

@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10 ** 6), n_scales=st.integers(1, 5), factor=st.integers(1, 3), sigma=st.floats(0.5, 3))
def test_pyramids_are_the_pooled_maps(seed, n_scales, factor, sigma):
    size = factor * 2 ** (n_scales - 1)
    joints = random_joints(seed, 2, 3, -3, size + 3)
    visible = torch.randint(0, 3, (2, 3), generator=torch.Generator().manual_seed(seed))
    fine = encode(joints, visible, size, sigma)
    for how, pool in (("max", F.max_pool2d), ("avg", F.avg_pool2d)):
        levels = pyramid(joints, visible, size, sigma, how, n_scales)
        assert len(levels) == n_scales and torch.equal(levels[0], fine)
        for k, level in enumerate(levels):
            assert torch.equal(level, pool(fine, 2 ** k)) if how == "max" else torch.allclose(level, pool(fine, 2 ** k), atol=1e-6)
    for k, level in enumerate(pyramid(joints, visible, size, sigma, "render", n_scales)):
        assert torch.allclose(level, encode(to_map(joints, 2 ** k), visible, size // 2 ** k, sigma), atol=1e-4)


def test_row_10_what_is_left_at_an_eighth():
    joints = random_joints(2, 64, 16, 0.5, 62.5)
    left = {}
    for how in ("max", "avg", "render"):
        levels = pyramid(joints, seen(joints), how=how)
        left[how] = levels[3].amax((2, 3)).mean().item(), (levels[3].square().sum() / levels[0].square().sum()).item()
    assert left["avg"] == (pytest.approx(0.08, abs=0.005), pytest.approx(0.002, abs=0.0005))
    assert left["max"] == (pytest.approx(0.92, abs=0.02), pytest.approx(0.33, abs=0.03))
    assert left["render"] == (pytest.approx(0.92, abs=0.02), pytest.approx(0.9, abs=0.05))


@pytest.mark.parametrize("how", ["max", "avg", "render"])
def test_pyramids_are_differentiable_in_the_joints(how):
    joints = random_joints(8, 1, 2, 1, 6, torch.double).requires_grad_()
    assert torch.autograd.gradcheck(lambda j: pyramid(j, torch.ones(1, 2), 8, how=how, n_scales=3), joints)


# coordinates ----------------------------------------------------------------------------------------------------------------------

@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10 ** 6), s=st.floats(0.5, 20), t=st.floats(0.5, 20))
def test_strides_compose_and_invert(seed, s, t):
    joints = random_joints(seed, dtype=torch.double)
    assert torch.allclose(to_map(to_image(joints, s), s), joints)
    assert torch.allclose(to_image(to_image(joints, s), t), to_image(joints, s * t))
    assert np.allclose(to_image(joints.numpy(), s), to_image(joints, s).numpy())


def test_a_pixel_of_the_map_is_the_mean_of_its_pixels_of_the_image():
    pixels = torch.arange(256.0)
    assert torch.equal(pixels.reshape(64, 4).mean(1), to_image(torch.arange(64.0), 4))


# real annotations -----------------------------------------------------------------------------------------------------------------

def test_row_25_on_the_mpii_validation_annotations():
    import h5py
    path = DATA / "mpii_val" / "valid.h5"
    if not path.exists(): pytest.skip(f"no MPII annotations: {path.name} is not in the folder that MSSPOSE_DATA names")
    with h5py.File(path) as file:
        part, center, scale, head = (torch.from_numpy(file[name][:]) for name in ("part", "center", "scale", "normalize"))
    annotated = (part != 0).any(-1)
    counted = annotated.clone(); counted[:, 6:8] = False                                    # the official 14 joints
    corner, stride = (center - 100 * scale[:, None])[:, None], (200 * scale / 64)[:, None, None]   # the square in the photograph
    in_map = (part - corner) / stride - 0.5
    maps = encode((in_map + 1e-4).float(), annotated)   # clicks are whole pixels, 0.7 % lie between two: rounded up, as in the table

    def score(found): return 100 * ((found - part).norm(dim=-1) <= 0.1 * head[:, None])[counted].double().mean().item()
    found = {how: decode(maps, how)[0] for how in HOWS}
    assert score(corner + found["argmax"] * stride) == pytest.approx(32.3, abs=0.05)
    assert score(corner + (found["argmax"] + 0.5) * stride) == pytest.approx(97.6, abs=0.05)
    assert score(corner + (found["quarter"] + 0.5) * stride) == pytest.approx(99.6, abs=0.1)   # 99.53: no correction at the border of a map
    assert score(corner + (found["subpixel"] + 0.5) * stride) == pytest.approx(99.6, abs=0.1)
    outside = ((in_map < -0.5) | (in_map >= 63.5)).any(-1)
    assert 100 * outside[counted].double().mean().item() == pytest.approx(0.5, abs=0.05)    # why it is not 100


# exercises ------------------------------------------------------------------------------------------------------------------------

def soft_argmax(heatmaps, beta, over=(2, 3), order=(0, 1), scale=True):
    "The solution, and with other arguments the usual mistakes."
    weights = torch.exp(beta * (heatmaps - heatmaps.amax((2, 3), keepdim=True)) * (1 if scale else 1 / beta))
    weights = weights / weights.sum(over, keepdim=True)
    x = (weights.sum(2) * torch.arange(heatmaps.shape[3])).sum(-1)
    y = (weights.sum(3) * torch.arange(heatmaps.shape[2])).sum(-1)
    return torch.stack([(x, y)[k] for k in order], -1)


@pytest.mark.parametrize("name, answer, right", [
    ("heatmap_size", 32, True), ("heatmap_size", 32.17, True),
    ("heatmap_size", 69, False), ("heatmap_size", 98, False), ("heatmap_size", "32", False),
    ("soft_argmax", soft_argmax, True),
    ("soft_argmax", lambda maps, beta: soft_argmax(maps, beta, order=(1, 0)), False),
    ("soft_argmax", lambda maps, beta: soft_argmax(maps, beta, over=(3,)), False),
    ("soft_argmax", lambda maps, beta: soft_argmax(maps, beta, scale=False), False),
    ("soft_argmax", lambda maps, beta: decode(maps, "subpixel")[0], False),
    ("soft_argmax", lambda maps, beta: soft_argmax(maps, beta) + 0.5, False),
    ("soft_argmax", lambda maps, beta: (torch.exp(beta * maps) / torch.exp(beta * maps).sum((2, 3), keepdim=True)).sum((2, 3)), False),
])
def test_exercises_tell_wrong_from_right(name, answer, right):
    verdict = judge(EXERCISES[name], answer)
    assert verdict == "right" if right else verdict.startswith("not yet")


def test_maps_and_joints_are_what_they_were():
    generator = torch.Generator().manual_seed(0)
    joints, visible = 16 * torch.rand(3, 5, 2, generator=generator), torch.randint(0, 3, (3, 5), generator=generator)
    maps = encode(joints, visible, 16, 1.5)
    as_remembered("maps", maps)
    as_remembered("pyramid", {how: pyramid(joints, visible, 16, how=how) for how in ("max", "avg", "render")})
    noisy = maps + 0.3 * torch.rand(maps.shape, generator=generator)
    as_remembered("joints", {how: decode(noisy, how) for how in ("argmax", "quarter", "subpixel")})
