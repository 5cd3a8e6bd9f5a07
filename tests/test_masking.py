"Keypoint masking against a slow version written from the text, its properties, its borders, and what it refuses."
import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from remembered import as_remembered

from msspose.checks import EXERCISES, judge
from msspose.masking import OUTCOMES, Masked, free_background, mask_keypoints, opacity, paste, patch_corner, pick
from msspose.people import People
from msspose.skeleton import MPII

quick = settings(max_examples=40, deadline=None)


def seeded(seed: int) -> torch.Generator: return torch.Generator().manual_seed(seed)


def made_up(seed: int, b: int = 3, n: int = 5, k: int = 2, size: tuple[int, int] = (24, 30), head: tuple[float, float] = (3, 7)) -> dict:
    "Pictures whose pixels are all different; joints in eighths of a pixel, some outside, some not annotated and then anywhere or NaN."
    g = seeded(seed)
    wide = torch.tensor([size[1], size[0]])
    def points(*shape): return (torch.rand(*shape, 2, generator=g) * (wide + 4) * 8).floor() / 8 - 2.5
    images = torch.randperm(b * 3 * math.prod(size), generator=g).view(b, 3, *size) / (b * 3 * math.prod(size))
    joints, others = points(b, n), points(b, k, n)
    visible, others_visible = (torch.randint(0, 3, shape, generator=g).to(torch.uint8) for shape in ((b, n), (b, k, n)))
    joints[visible == 0] = math.nan
    others[others_visible == 0] = math.nan
    head_size = torch.rand(b, generator=g) * (head[1] - head[0]) + head[0]
    return dict(images=images, joints=joints, visible=visible, head_size=head_size, others=others, others_visible=others_visible)


# --- the slow version: one picture after the other, one pixel after the other -----------------------------------------------------

def slowly(images, joints, visible, head_size, others, others_visible, seed, probability=0.5, hide=0.5, onto="background", count=(1, 2),
           side=(0.5, 1.0), soft=0.0, clearance=1.0, reach=3.0):
    "Section 3.4 with rows 20 and 21, as sentences. The dice are the same: for each picture masked, kind, number, order, sides, places."
    (b, n, _), (height, width) = joints.shape, images.shape[-2:]
    step = math.ceil(max(height, width) / 64)
    dice = torch.rand(b, 3 + n + 2 * count[1], generator=seeded(seed))
    result, labels, outcomes = images.clone(), visible.clone(), torch.zeros(b, count[1], dtype=torch.int64)
    for i in range(b):
        masked, hides, number, *rest = dice[i].tolist()
        order, sides, places = rest[:n], dice[i, 3 + n:3 + n + count[1]], rest[n + count[1]:]
        if not masked < probability: continue
        crowd = [joints[i, j].tolist() for j in range(n) if visible[i, j] > 0]
        crowd += [others[i, k, j].tolist() for k in range(others.shape[1]) for j in range(others.shape[2]) if others_visible[i, k, j] > 0]
        def is_seen(j, i=i):
            x, y = joints[i, j].tolist()
            return visible[i, j] == 2 and -0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5
        seen = [j for j in range(n) if is_seen(j)]
        turn = sorted(seen, key=lambda j, order=order: order[j])
        for k in range(count[0] + math.floor(number * (count[1] - count[0] + 1))):
            if k >= len(turn): outcomes[i, k] = OUTCOMES.index("no joint"); continue
            s = max(1, round(float((side[0] + (side[1] - side[0]) * sides[k]) * head_size[i])))
            x, y = joints[i, turn[k]].tolist()
            around = math.floor(x - (s - 1) / 2 + 0.5), math.floor(y - (s - 1) / 2 + 0.5)
            if hides < hide or onto == "background":
                free = []
                for v in range(0, height, step):
                    for u in range(0, width, step):
                        mx, my = u + (s - 1) / 2, v + (s - 1) / 2
                        if u + s > width or v + s > height: continue
                        if any(max(abs(mx - px), abs(my - py)) - s / 2 < clearance * s for px, py in crowd): continue
                        if not hides < hide and max(abs(mx - x), abs(my - y)) > reach * head_size[i]: continue
                        free.append((u, v))
                if not free: outcomes[i, k] = OUTCOMES.index("no background"); continue
            else:
                free = [(math.floor(px - (s - 1) / 2 + 0.5), math.floor(py - (s - 1) / 2 + 0.5))
                        for px, py in (joints[i, j].tolist() for j in seen) if max(abs(px - x), abs(py - y)) >= s]
                if not free: outcomes[i, k] = OUTCOMES.index("no keypoint"); continue
            there = free[int(torch.tensor(places[k]) * len(free))]
            source, target = (there, around) if hides < hide else (around, there)
            outcomes[i, k] = OUTCOMES.index("pasted")
            shown = {}
            for v in range(s):
                for u in range(s):
                    inside = all(0 <= c[0] + u < width and 0 <= c[1] + v < height for c in (source, target))
                    rim = min(u, v, s - 1 - u, s - 1 - v) + 0.5
                    share = 1 if soft == 0 else min(1, rim / (soft * s))
                    if not inside: continue
                    new, old = images[i, :, source[1] + v, source[0] + u], result[i, :, target[1] + v, target[0] + u]
                    result[i, :, target[1] + v, target[0] + u] = share * new + (1 - share) * old
                    shown[target[0] + u, target[1] + v] = share
            for j in seen:
                if shown.get(tuple(math.floor(c + 0.5) for c in joints[i, j].tolist()), 0) >= 0.5: labels[i, j] = 1
    return result, labels, outcomes


@quick
@given(st.integers(0, 10**6), st.sampled_from(["background", "keypoint"]), st.sampled_from([(1, 1), (1, 2), (2, 4)]),
       st.sampled_from([0.0, 0.25, 0.5]), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1.0, 3.0, math.inf]),
       st.integers(1, 6), st.integers(0, 2), st.sampled_from([(24, 30), (17, 16), (70, 40)]))
def test_agrees_with_the_slow_version(seed, onto, count, soft, clearance, reach, n, k, size):
    given_ = made_up(seed, n=n, k=k, size=size)
    options = dict(onto=onto, count=count, soft=soft, clearance=clearance, reach=reach, probability=0.9)
    masked = mask_keypoints(**given_, generator=seeded(seed), **options)
    images, visible, outcomes = slowly(**given_, seed=seed, **options)
    assert torch.equal(masked.outcome, outcomes)
    assert torch.equal(masked.visible, visible)
    assert torch.allclose(masked.images, images, atol=1e-6)


def test_all_outcomes_occur_in_that_comparison():
    "Otherwise it would compare little."
    found = set()
    for seed in range(60):
        for onto in ("background", "keypoint"):
            masked = mask_keypoints(**made_up(seed), generator=seeded(seed), onto=onto, count=(1, 4))
            found |= {OUTCOMES[code] for code in masked.outcome.flatten().tolist()}
    assert found == set(OUTCOMES)


# --- properties -------------------------------------------------------------------------------------------------------------------

def patches(masked: Masked):
    "Picture, slot, side, source and target corner of each patch that was pasted."
    for b, p in (masked.outcome == 1).nonzero().tolist():
        yield b, p, int(masked.side[b, p]), masked.source[b, p].tolist(), masked.target[b, p].tolist()


@quick
@given(st.integers(0, 10**6), st.sampled_from(["background", "keypoint"]), st.sampled_from([0.0, 0.3]))
def test_only_pixels_under_patches_change_and_they_come_from_the_source(seed, onto, soft):
    given_ = made_up(seed, size=(40, 36))
    masked = mask_keypoints(**given_, generator=seeded(seed), onto=onto, soft=soft, count=(1, 1), probability=1)
    images, (height, width) = given_["images"], given_["images"].shape[-2:]
    outside = torch.ones(len(images), height, width, dtype=torch.bool)
    for b, _, s, (u, v), (x, y) in patches(masked):
        low, high = [max(0, -x, -u), max(0, -y, -v)], [min(s, width - x, width - u), min(s, height - y, height - v)]
        outside[b, y + low[1]:y + high[1], x + low[0]:x + high[0]] = False
        if soft == 0:
            pasted = masked.images[b, :, y + low[1]:y + high[1], x + low[0]:x + high[0]]
            assert torch.equal(pasted, images[b, :, v + low[1]:v + high[1], u + low[0]:u + high[0]])
    outside = outside[:, None].expand_as(images)
    assert torch.equal(masked.images[outside], images[outside])


@quick
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 2.0]), st.floats(0.5, 4))
def test_background_keeps_its_distance_from_everybody_and_a_copy_stays_nearby(seed, clearance, reach):
    given_ = made_up(seed, size=(64, 64))
    masked = mask_keypoints(**given_, generator=seeded(seed), clearance=clearance, reach=reach, probability=1)
    for b, p, s, source, target in patches(masked):
        u, v = source if masked.kind[b] == 1 else target
        assert 0 <= u <= 64 - s and 0 <= v <= 64 - s
        everybody = torch.cat([given_["joints"][b][given_["visible"][b] > 0], given_["others"][b][given_["others_visible"][b] > 0]])
        low, high = torch.tensor([u, v]) - 0.5, torch.tensor([u + s, v + s]) - 0.5
        gap = torch.maximum(low - everybody, everybody - high).amax(-1)
        assert (gap >= clearance * s).all()
        if masked.kind[b] == 2:
            middle = torch.tensor([u, v]) + (s - 1) / 2
            assert (middle - given_["joints"][b, masked.joint[b, p]]).abs().max() <= reach * given_["head_size"][b] * (1 + 1e-6)


@quick
@given(st.integers(0, 10**6), st.sampled_from(["background", "keypoint"]), st.sampled_from([0.0, 0.25, 0.5]), st.integers(1, 5))
def test_what_is_meant_is_covered_and_counts_add_up(seed, onto, soft, most):
    given_ = made_up(seed, b=8)
    masked = mask_keypoints(**given_, generator=seeded(seed), onto=onto, soft=soft, count=(1, most))
    counts, pasted = masked.counts, masked.outcome == 1
    for b, p, *_ in patches(masked):
        assert given_["visible"][b, masked.joint[b, p]] == 2
        if masked.kind[b] == 1: assert masked.visible[b, masked.joint[b, p]] == 1, "a hidden joint is always covered, however soft the edge"
    assert counts["pictures"] == 8
    assert counts["hidden"] + counts["copied"] == int(pasted.any(1).sum())
    assert counts["patches"] + sum(counts[name] for name in OUTCOMES[2:]) == int((masked.outcome > 0).sum())
    assert counts["covered"] == int((masked.visible != given_["visible"]).sum()) == int(masked.covered.sum())
    assert (given_["visible"][masked.covered] == 2).all() and (masked.visible[masked.covered] == 1).all()
    if onto == "background": assert not masked.covered[masked.kind == 2].any(), "a copy on the background covers nothing"
    asked = (masked.outcome > 0).sum(1)
    assert ((asked == 0) == (masked.kind == 0)).all() and (asked <= most).all()
    for b in range(8):
        used = masked.joint[b, pasted[b]].tolist()
        assert len(set(used)) == len(used), "no joint twice"


@quick
@given(st.integers(0, 10**6), st.integers(1, 7), st.booleans())
def test_a_picture_does_not_depend_on_who_else_is_in_the_batch(seed, first, others):
    given_ = made_up(seed, b=8)
    if not others: given_["others"] = given_["others_visible"] = None
    whole = mask_keypoints(**given_, generator=seeded(seed))
    part = mask_keypoints(**{name: value if value is None else value[:first] for name, value in given_.items()}, generator=seeded(seed))
    for field in dataclasses.fields(Masked): assert torch.equal(getattr(part, field.name), getattr(whole, field.name)[:first])


@quick
@given(st.integers(0, 10**6), st.integers(1, 7))
def test_the_rest_of_a_batch_is_masked_as_in_the_whole_one(seed, skip):
    given_ = made_up(seed, b=8)
    whole, rest = mask_keypoints(**given_, generator=seeded(seed)), {name: value[skip:] for name, value in given_.items()}
    later = mask_keypoints(**rest, generator=seeded(seed), skip=skip)
    for field in dataclasses.fields(Masked): assert torch.equal(getattr(later, field.name), getattr(whole, field.name)[skip:]), field.name


def test_input_stays_as_it_is_and_a_seed_decides():
    given_ = made_up(3, b=8)
    kept = {name: value.clone() for name, value in given_.items()}
    first, again, other = (mask_keypoints(**given_, generator=seeded(seed), probability=1) for seed in (1, 1, 2))
    assert all(torch.equal(given_[name].nan_to_num(9), kept[name].nan_to_num(9)) for name in kept)
    assert torch.equal(first.images, again.images) and not torch.equal(first.images, other.images)
    assert first.images.data_ptr() != given_["images"].data_ptr()
    torch.manual_seed(5); a = mask_keypoints(**given_, probability=1)
    torch.manual_seed(5); b = mask_keypoints(**given_, probability=1)
    assert torch.equal(a.images, b.images)
    with pytest.raises(dataclasses.FrozenInstanceError): first.kind = None


def test_probability_0_and_1():
    given_ = made_up(0, b=40)
    never = mask_keypoints(**given_, generator=seeded(0), probability=0)
    assert torch.equal(never.images, given_["images"]) and torch.equal(never.visible, given_["visible"])
    assert not any(value for name, value in never.counts.items() if name != "pictures") and not never.kind.any()
    always = mask_keypoints(**given_, generator=seeded(0), probability=1)
    assert (always.kind > 0).all() and (always.outcome[:, 0] > 0).all()
    assert (mask_keypoints(**given_, generator=seeded(0), probability=1, hide=1).kind == 1).all()
    assert (mask_keypoints(**given_, generator=seeded(0), probability=1, hide=0).kind == 2).all()


def test_nobody_visible():
    given_ = made_up(0, b=6) | dict(visible=torch.ones(6, 5, dtype=torch.uint8))
    given_["joints"] = given_["joints"].nan_to_num(0)
    masked = mask_keypoints(**given_, generator=seeded(0), probability=1)
    assert torch.equal(masked.images, given_["images"]) and torch.equal(masked.visible, given_["visible"])
    assert masked.counts["no joint"] == int((masked.outcome > 0).sum()) > 0


def test_no_background_is_counted():
    given_ = made_up(0, b=20, size=(12, 12), head=(11, 12))
    given_["joints"][:, 0], given_["visible"][:, 0] = 5.5, 2
    masked = mask_keypoints(**given_, generator=seeded(0), probability=1)
    assert torch.equal(masked.images, given_["images"]) and masked.counts["patches"] == 0 and masked.counts["no background"] >= 20


def test_frequencies():
    "The rows of the table of decisions, within four standard errors."
    batch = People("plain", split="val", size=32).batch(range(1000))
    masked = mask_keypoints(batch.images, batch.joints, batch.visible, batch.reference, generator=seeded(0))
    asked = (masked.outcome > 0).sum(1)
    def about(share, expected, n): return abs(float(share) - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    chosen = masked.kind > 0
    assert about(chosen.float().mean(), 0.5, 1000)
    assert about((masked.kind[chosen] == 1).float().mean(), 0.5, int(chosen.sum()))
    assert about((asked[chosen] == 2).float().mean(), 0.5, int(chosen.sum()))
    large = made_up(1, b=1000, n=2, size=(2, 2), head=(2, 2)) | dict(head_size=torch.full((1000,), 2.0))
    sides = mask_keypoints(**large, generator=seeded(0), side=(0.01, 1)).side.float()
    assert about((sides == 1).float().mean(), 0.745, 2000) and set(sides.unique().tolist()) == {1, 2}
    chosen_joints = torch.bincount(masked.joint[masked.outcome == 1], minlength=16) / batch.visible.eq(2).sum(0)
    assert chosen_joints.max() / chosen_joints.min() < 2.5


def test_sides_are_uniform_between_half_a_head_and_a_head():
    given_ = made_up(0, b=4000, n=1, k=0, size=(3, 100), head=(100, 100))
    given_["images"], given_["head_size"] = torch.zeros(4000, 3, 3, 100), torch.full((4000,), 3.0)
    masked = mask_keypoints(**given_, generator=seeded(0), side=(1 / 3, 1.0))
    shares = torch.bincount(masked.side.flatten(), minlength=4)[1:] / masked.side.numel()
    assert torch.allclose(shares, torch.tensor([0.25, 0.5, 0.25]), atol=0.03)


# --- borders and kinds of pictures ------------------------------------------------------------------------------------------------

def test_a_patch_over_a_joint_at_the_border_is_cut_off():
    images = torch.arange(2 * 3 * 20 * 20.0).view(2, 3, 20, 20)
    joints = torch.tensor([[[0.0, 0.0]], [[19.0, 19.4]]])
    masked = mask_keypoints(images, joints, torch.full((2, 1), 2), torch.full((2,), 5.0), generator=seeded(0), probability=1, hide=1,
                            count=(1, 1), side=(1, 1))
    assert masked.target[:, 0].tolist() == [[-2, -2], [17, 17]] and (masked.visible == 1).all()
    changed = (masked.images != images).all(1)
    assert changed[0, :3, :3].all() and changed[0].sum() == 9 and changed[1, 17:, 17:].all() and changed[1].sum() == 9
    (u, v), (x, y) = masked.source[:, 0].tolist()
    assert torch.equal(masked.images[0, :, :3, :3], images[0, :, v + 2:v + 5, u + 2:u + 5])
    assert torch.equal(masked.images[1, :, 17:, 17:], images[1, :, y:y + 3, x:x + 3])


def test_a_copy_of_a_joint_at_the_border_is_cut_off_too():
    images = torch.arange(3 * 20 * 20.0).view(1, 3, 20, 20)
    masked = mask_keypoints(images, torch.tensor([[[0.0, 3.0]]]), torch.full((1, 1), 2), torch.full((1,), 4.0), generator=seeded(0),
                            probability=1, hide=0, count=(1, 1), side=(1, 1), reach=math.inf)
    (x, y), changed = masked.target[0, 0].tolist(), (masked.images != images).all(1)[0]
    assert masked.source[0, 0].tolist() == [-1, 2]
    assert changed.sum() == 12 and changed[y:y + 4, x + 1:x + 4].all()
    assert torch.equal(masked.images[0, :, y:y + 4, x + 1:x + 4], images[0, :, 2:6, 0:3])


@pytest.mark.parametrize("x, y", [(-0.6, 5), (5, -0.6), (19.5, 5), (5, 19.5), (1e9, 5), (5, -math.inf)])
def test_a_visible_joint_outside_of_the_picture_is_none(x, y):
    masked = mask_keypoints(torch.rand(1, 3, 20, 20), torch.tensor([[[x, y]]]), torch.full((1, 1), 2), torch.full((1,), 4.0),
                            generator=seeded(0), probability=1)
    assert set(masked.outcome[masked.outcome > 0].tolist()) == {OUTCOMES.index("no joint")} and (masked.visible == 2).all()


@pytest.mark.parametrize("soft, expected", [(0.0, [1, 1, 2]), (0.25, [1, 1, 2]), (0.5, [1, 2, 2])])
def test_a_second_joint_under_the_patch_is_covered_too(soft, expected):
    "A patch of 7 around pixel 10: its rim, at 13, is opaque, by 0.29 or by 0.14; joint 1, two pixels from the rim, by 1, 0.86 or 0.43."
    joints = torch.tensor([[[10.0, 10.0], [11.0, 12.4], [14.0, 10.0]]])
    for seed in range(40):
        masked = mask_keypoints(torch.rand(1, 3, 60, 60), joints, torch.tensor([[2, 2, 2]]), torch.full((1,), 7.0), generator=seeded(seed),
                                probability=1, hide=1, count=(1, 1), side=(1, 1), soft=soft)
        if masked.joint[0, 0] == 0: assert masked.visible.tolist() == [expected]


def test_a_copy_onto_a_keypoint_covers_it_and_leaves_the_original_in_sight():
    joints = torch.tensor([[[10.0, 10.0], [11.0, 11.0], [30.0, 30.0]]])
    for seed in range(20):
        masked = mask_keypoints(torch.rand(1, 3, 40, 40), joints, torch.tensor([[2, 2, 2]]), torch.full((1,), 6.0), generator=seeded(seed),
                                probability=1, hide=0, onto="keypoint", count=(1, 1), side=(1, 1))
        assert masked.visible.tolist() == ([[1, 1, 2]] if masked.joint[0, 0] == 2 else [[2, 2, 1]])


@pytest.mark.parametrize("soft", [0.0, 0.3])
def test_bytes_give_the_same_as_numbers(soft):
    given_ = made_up(7, b=16)
    given_["images"] = (given_["images"] * 255).to(torch.uint8)
    as_bytes = mask_keypoints(**given_, generator=seeded(0), soft=soft, probability=1)
    given_["images"] = given_["images"].float()
    as_numbers = mask_keypoints(**given_, generator=seeded(0), soft=soft, probability=1)
    assert as_bytes.images.dtype == torch.uint8 and as_bytes.visible.dtype == torch.uint8
    assert (as_bytes.images.float() - as_numbers.images).abs().max() <= (0 if soft == 0 else 1)   # rounded after each of two patches
    assert as_bytes.counts["patches"] > 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype):
    given_ = made_up(7, b=6)
    given_["images"] = given_["images"].to(dtype)
    masked = mask_keypoints(**given_, generator=seeded(0), probability=1)
    assert masked.images.dtype == dtype
    for b, p, s, (u, v), (x, y) in patches(masked):
        if p == masked.outcome.shape[1] - 1 and min(u, v, x, y) >= 0 and max(u, x) + s <= 30 and max(v, y) + s <= 24:
            assert torch.equal(masked.images[b, :, y:y + s, x:x + s], given_["images"][b, :, v:v + s, u:u + s])


def test_memory_layout_is_kept():
    given_ = made_up(7, b=6)
    plain = mask_keypoints(**given_, generator=seeded(0))
    given_["images"] = given_["images"].contiguous(memory_format=torch.channels_last)
    last = mask_keypoints(**given_, generator=seeded(0))
    assert last.images.is_contiguous(memory_format=torch.channels_last) and torch.equal(last.images, plain.images)


def test_others_without_their_visibility_are_all_there():
    batch = People("crowd", split="val", size=48).batch(range(30))
    far = batch.others.masked_fill((batch.others_visible == 0)[..., None], -1000)
    args = batch.images, batch.joints, batch.visible, batch.reference
    one = mask_keypoints(*args, batch.others, seeded(0), batch.others_visible, probability=1)
    assert torch.equal(one.images, mask_keypoints(*args, far, seeded(0), probability=1).images)
    assert not torch.equal(one.images, mask_keypoints(*args, None, seeded(0), probability=1).images)
    nobody = batch.others[:, :0]
    assert torch.equal(mask_keypoints(*args, nobody, seeded(0)).images, mask_keypoints(*args, None, seeded(0)).images)


def test_a_patch_as_large_as_the_picture_is_allowed():
    masked = mask_keypoints(torch.rand(1, 3, 8, 8), torch.tensor([[[3.0, 3.0]]]), torch.full((1, 1), 2), torch.full((1,), 8.0),
                            generator=seeded(0), probability=1, side=(1, 1))
    assert masked.counts["no background"] == 1


# --- the parts --------------------------------------------------------------------------------------------------------------------

@quick
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_pick_takes_an_allowed_one(seed, n):
    g = seeded(seed)
    allowed = torch.rand(50, n, generator=g) < 0.3
    for chance in (torch.rand(50, generator=g), torch.zeros(50), torch.full((50,), 1 - 2 ** -24)):
        index, found = pick(allowed, chance)
        assert torch.equal(found, allowed.any(1)) and allowed[torch.arange(50), index][found].all() and (index < n).all()


@quick
@given(st.integers(1, 30), st.floats(-5, 40, width=32), st.floats(-5, 40, width=32))
def test_patch_lies_around_its_joint(side, x, y):
    corner = patch_corner(torch.tensor([x, y]), torch.tensor(side))
    pixel = (torch.tensor([x, y]) + 0.5).floor()
    assert (corner <= pixel).all() and (pixel < corner + side).all()
    assert ((corner + (side - 1) / 2 - torch.tensor([x, y])).abs() <= 0.5 + 1e-4).all()


@quick
@given(st.integers(1, 12), st.integers(-6, 20), st.integers(-6, 20), st.sampled_from([0.0, 0.1, 0.25, 0.5]))
def test_opacity(side, source, target, soft):
    shown = opacity(torch.arange(20)[None], torch.tensor([source]), torch.tensor([target]), torch.tensor([side]), 20, soft)[0]
    for pixel, share in enumerate(shown.tolist()):
        inward = pixel - target
        wanted = 0 <= inward < side and 0 <= source + inward < 20
        depth = min(inward, side - 1 - inward) + 0.5
        assert share == pytest.approx(wanted * (min(1, depth / (soft * side)) if soft else 1))


def test_paste_leaves_unwanted_pictures_alone_and_the_source_too():
    images = torch.rand(2, 3, 9, 9, generator=seeded(0))
    picture, kept = images.clone(), images.clone()
    source, target = torch.zeros(2, 2).long(), torch.full((2, 2), 5)
    paste(picture, images, source, target, torch.tensor([3, 3]), torch.tensor([True, False]), window=3)
    assert torch.equal(picture[1], images[1]) and torch.equal(images, kept)
    assert torch.equal(picture[0, :, 5:8, 5:8], images[0, :, 0:3, 0:3])


def test_free_background_of_an_empty_picture_is_where_it_fits():
    free = free_background(torch.full((1, 1, 2), math.inf), torch.tensor([[5]]), (12, 9))
    assert free.shape == (1, 1, 12, 9) and free[0, 0, :8, :5].all() and free.sum() == 40


# --- bad input --------------------------------------------------------------------------------------------------------------------

GOOD = dict(images=torch.rand(2, 3, 32, 32), joints=torch.full((2, 4, 2), 9.0), visible=torch.full((2, 4), 2, dtype=torch.uint8),
            head_size=torch.tensor([5.0, 6.0]))
NAN = GOOD["joints"].clone(); NAN[1, 2, 0] = math.nan


@pytest.mark.parametrize("changes, words", [
    (dict(head_size=torch.tensor([5.0, 33.0])), r"head_size: picture 1 has 33 pixels.*may have 33, more than the picture, 32x32"),
    (dict(side=(0.5, 6)), r"head_size: picture 1 has 6 pixels, and with side=\(0.5, 6\).*36.*smaller side"),
    (dict(head_size=torch.tensor([5.0, math.inf])), "head_size: picture 1 has inf"),
    (dict(head_size=torch.tensor([0.0, 5.0])), "head_size: picture 0 has 0 pixels; a head size is a positive number"),
    (dict(head_size=torch.tensor([5.0, -1.0])), "head_size: picture 1 has -1 pixels"),
    (dict(head_size=torch.tensor([5.0, math.nan])), "head_size: picture 1 has nan pixels"),
    (dict(head_size=torch.tensor(5.0)), r"head_size: expected \(2,\), one length per picture, got \(\)"),
    (dict(joints=NAN), r"joints: joint 2 in picture 1 is \[nan, 9.0\] but annotated; set its visible to 0"),
    (dict(others=NAN[:, None]), r"joints: a joint of somebody else in picture 1 is \[nan, 9.0\] but annotated"),
    (dict(images=GOOD["images"][0]), r"images: expected \(B, 3, H, W\), got \(3, 32, 32\); one picture is images\[None\]"),
    (dict(images=GOOD["images"].permute(0, 2, 3, 1)), r"images: expected \(B, 3, H, W\), got \(2, 32, 32, 3\)"),
    (dict(images=GOOD["images"][:0]), r"images: expected \(B, 3, H, W\), got \(0, 3, 32, 32\)"),
    (dict(images=GOOD["images"].long()), "images: expected floating point or uint8, got torch.int64"),
    (dict(joints=GOOD["joints"][:1]), r"joints: expected \(2, N, 2\) for 2 pictures, got \(1, 4, 2\)"),
    (dict(joints=GOOD["joints"][:, :0]), r"joints: expected \(2, N, 2\) for 2 pictures, got \(2, 0, 2\)"),
    (dict(joints=torch.zeros(2, 4, 3)), r"joints: expected \(2, N, 2\) for 2 pictures, got \(2, 4, 3\)"),
    (dict(visible=GOOD["visible"][:, :3]), r"visible: expected \(2, 4\) as joints has it, got \(2, 3\)"),
    (dict(visible=GOOD["visible"] > 0), "visible: got bool; pass 0 for not annotated"),
    (dict(others=GOOD["joints"]), r"others: expected \(2, K, N, 2\) for 2 pictures, got \(2, 4, 2\)"),
    (dict(others=GOOD["joints"][:, None], others_visible=GOOD["visible"]), r"others_visible: expected \(2, 1, 4\) as others has it"),
    (dict(others_visible=GOOD["visible"][:, None]), "others_visible: given without others"),
    (dict(probability=1.2), "probability: 1.2; a probability lies between 0 and 1"),
    (dict(probability=math.nan), "probability: nan"),
    (dict(hide=-0.1), "hide: -0.1; a probability lies between 0 and 1"),
    (dict(onto="backgrund"), "onto: 'backgrund'; choose background or keypoint"),
    (dict(count=(0, 2)), r"count: \(0, 2\); pass the least and the largest"), (dict(count=(2, 1)), r"count: \(2, 1\)"),
    (dict(count=(1, 1.5)), r"count: \(1, 1.5\)"), (dict(count=(1, 2, 3)), r"count: \(1, 2, 3\)"),
    (dict(side=(0, 1)), r"side: \(0, 1\); pass the shortest and the longest side in head sizes"),
    (dict(side=(1, 0.5)), r"side: \(1, 0.5\)"),
    (dict(soft=0.6), "soft: 0.6; an edge takes from 0 to 0.5"), (dict(soft=-0.1), "soft: -0.1"),
    (dict(clearance=-1), "clearance: -1; pass how many sides"), (dict(reach=0), "reach: 0; a distance is positive"),
])
def test_bad_input_gets_its_sentence(changes, words):
    with pytest.raises(ValueError, match=words): mask_keypoints(**(GOOD | changes))


def test_what_is_not_annotated_may_be_anything():
    visible = GOOD["visible"].clone(); visible[1, 2] = 0
    others = torch.full((2, 3, 4, 2), math.nan)
    options = dict(generator=seeded(0), probability=1)
    masked = mask_keypoints(**(GOOD | dict(joints=NAN, visible=visible)), others=others, others_visible=torch.zeros(2, 3, 4), **options)
    assert masked.images.isfinite().all() and masked.visible[1, 2] == 0
    for joints in (GOOD["joints"].long(), GOOD["joints"].double(), GOOD["joints"].half()):
        mask_keypoints(**(GOOD | dict(joints=joints, head_size=GOOD["head_size"].double())), generator=seeded(0))


# --- another device ---------------------------------------------------------------------------------------------------------------

@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("onto", ["background", "keypoint"])
def test_a_gpu_does_the_same(onto):
    given_ = made_up(5, b=16)
    on_gpu = {name: value.cuda() for name, value in given_.items()}
    here = mask_keypoints(**given_, generator=seeded(0), onto=onto)
    there = mask_keypoints(**on_gpu, generator=seeded(0), onto=onto)
    for field in dataclasses.fields(Masked): assert torch.allclose(getattr(here, field.name), getattr(there, field.name).cpu())
    mask_keypoints(**on_gpu, generator=torch.Generator("cuda").manual_seed(0), onto=onto)


# --- exercises --------------------------------------------------------------------------------------------------------------------

def along(joints, visible, limbs, n, known=lambda a, b: (a > 0) & (b > 0), share=None):
    first, second = torch.tensor(limbs).T
    share = torch.linspace(0, 1, n) if share is None else share(n)
    points = torch.lerp(joints[:, first, None], joints[:, second, None], share[:, None])
    return points, known(visible[:, first], visible[:, second])[..., None].expand(-1, -1, n).to(torch.uint8)


def test_exercise_along_limbs_tells_right_from_wrong():
    exercise = EXERCISES["along_limbs"]
    assert judge(exercise, along) == "right"
    wrong = [lambda *a: along(*a, known=lambda a, b: (a > 0) | (b > 0)), lambda *a: along(*a, known=lambda a, b: (a == 2) & (b == 2)),
             lambda *a: along(*a, share=lambda n: torch.arange(n) / n),
             lambda *a: along(*a, share=lambda n: torch.arange(1, n + 1) / (n + 1)),
             lambda *a: tuple(t.transpose(1, 2) for t in along(*a)),
             lambda *a: along(*a)[0], lambda *a: (along(*a)[0], along(*a)[1].bool())]
    for answer in wrong: assert judge(exercise, answer).startswith("not yet"), answer


@pytest.mark.parametrize("answer, verdict", [(82, "right"), (81.8, "right"), (86, "not yet"), (92, "not yet"), (18, "not yet"),
                                             (0.82, "not yet"), (None, "not started")])
def test_exercise_free_share(answer, verdict): assert judge(EXERCISES["free_share"], answer).startswith(verdict)


def test_points_along_limbs_keep_patches_off_limbs():
    batch = People("plain", split="val").batch(range(60))
    points, known = along(batch.joints, batch.visible, MPII.limbs, 20)
    masked = mask_keypoints(batch.images, batch.joints, batch.visible, batch.reference, points, seeded(0), known, probability=1, hide=1)
    flat = points.flatten(1, 2)
    for b, _, s, source, _ in patches(masked):
        inside = ((flat[b] >= torch.tensor(source) - 0.5) & (flat[b] < torch.tensor(source) + s - 0.5)).all(-1)
        assert not inside.any()


@pytest.mark.parametrize("onto", ["background", "keypoint"])
def test_masked_pictures_are_what_they_were(onto):
    for name, options in (("paper", {}), ("soft", dict(soft=0.25, count=(1, 3), side=(0.3, 0.9), clearance=0.5, reach=5.0))):
        masked = mask_keypoints(**made_up(7, 12, 9, 2, (40, 60)), generator=seeded(2), probability=0.9, onto=onto, **options)
        as_remembered(f"{name}, {onto}", vars(masked) | masked.counts)
