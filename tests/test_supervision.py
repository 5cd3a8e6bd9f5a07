"MSS-net and equation 1 at every scale: the hourglass inside, the loss against loops, identities, and what is refused."
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msspose.checks import EXERCISES, judge
from msspose.heatmaps import pyramid, to_map
from msspose.hourglass import StackedHourglass, heatmap_loss, initialise
from msspose.people import People
from msspose.skeleton import MPII
from msspose.supervision import MSSNet, multiscale_loss, scale_pairs

quick = settings(max_examples=15, deadline=None)


def count(model) -> int: return sum(p.numel() for p in model.parameters())


# --- the network ------------------------------------------------------------------------------------------------------------------

@quick
@given(st.integers(1, 3), st.integers(1, 17), st.integers(1, 4), st.sampled_from([2, 4]), st.data())
def test_shapes_of_any_network(n_stacks, n_joints, depth, stride, data):
    n_scales = data.draw(st.one_of(st.none(), st.integers(1, depth)))
    model = MSSNet(n_stacks, n_joints, 8, depth, stride, n_scales).eval()
    height, width = 2 * stride * 2 ** depth, stride * 2 ** depth
    outputs = model(torch.rand(2, 3, height, width))
    expected = [(2, n_joints, height // stride >> k, width // stride >> k) for k in range(n_scales or depth)]
    assert [[tuple(level.shape) for level in scales] for scales in outputs] == [expected] * n_stacks


def test_the_paper_has_four_scales_and_little_more_than_the_original():
    with torch.device("meta"): heads = [torch.nn.Conv2d(256, 16, 1) for _ in range(8 * 3)]
    model = MSSNet()
    assert count(model) == 25_594_624 + sum(map(count, heads)) == 25_693_312
    assert count(model) / 25_594_624 < 1.01
    assert [len(heads) for heads in model.heads] == [3] * 8


def same_state(a: dict, b: dict) -> bool: return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@quick
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([2, 4]), st.integers(0, 5), st.data())
def test_the_hourglass_inside_is_that_of_chapter_03_with_any_number_of_scales(n_stacks, depth, stride, seed, data):
    n_scales = data.draw(st.one_of(st.none(), st.integers(1, depth)))
    model = MSSNet(n_stacks, 5, 8, depth, stride, n_scales, seed).eval()
    hourglass = StackedHourglass(n_stacks, 5, 8, depth, stride, seed).eval()
    assert same_state(model.hourglasses.state_dict(), hourglass.state_dict())
    images = torch.rand(2, 3, stride * 2 ** depth, stride * 2 ** depth, generator=torch.Generator().manual_seed(seed))
    assert all(torch.equal(ours[0], theirs[0]) for ours, theirs in zip(model(images), hourglass(images), strict=True))


def test_with_one_scale_it_is_the_hourglass_weight_for_weight():
    model, hourglass = MSSNet(2, 16, 16, 3, 2, n_scales=1), StackedHourglass(2, 16, 16, 3, 2)
    prefix = "hourglasses."
    assert same_state({name.removeprefix(prefix): value for name, value in model.state_dict().items()}, hourglass.state_dict())
    assert all(name.startswith(prefix) for name in model.state_dict())
    images, target = torch.rand(2, 3, 32, 32), [torch.rand(2, 16, 16, 16)]
    loss, other = multiscale_loss(model(images), target), sum(heatmap_loss(scales[0], target[0]) for scales in hourglass(images))
    loss.backward(); other.backward()
    assert torch.equal(loss, other)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), hourglass.parameters(), strict=True))


def test_heads_read_the_merged_sums_and_nothing_else():
    "Row 8: each coarse map is one 1x1 convolution of the sum of its step; the heads change nothing that follows."
    model = MSSNet(2, 4, 8, 3, 2).eval()
    initialise(model, seed=3, quiet=1)
    images = torch.rand(2, 3, 32, 32)
    outputs, results = model(images), model.hourglasses.forward_stacks(images)
    for scales, (merged, heatmaps), heads in zip(outputs, results, model.heads, strict=True):
        assert torch.equal(scales[0], heatmaps)
        for level, features, head in zip(scales[1:], merged[1:], heads, strict=True):
            slowly = torch.einsum("oi,bihw->bohw", head.weight[:, :, 0, 0], features) + head.bias[:, None, None]
            assert torch.allclose(level, slowly, rtol=1e-4, atol=1e-4)
    before = [scales[0].clone() for scales in outputs]
    for head in (head for heads in model.heads for head in heads): head.weight.data.fill_(9)
    assert all(torch.equal(a, scales[0]) for a, scales in zip(before, model(images), strict=True))


def test_heads_start_quiet_and_differ():
    model = MSSNet(2, 16, 64, 4, 2)
    heads = [head for heads in model.heads for head in heads]
    for head in heads:
        assert abs(head.weight.std().item() * 64 ** 0.5 / 0.01 - 1) < 0.15 and not head.bias.any()
    assert len({head.weight.flatten()[0].item() for head in heads}) == len(heads)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.ndim == 4)


def test_a_seed_means_the_same_weights():
    a, b, c = (MSSNet(1, 4, 8, 2, 2, seed=seed) for seed in (5, 5, 6))
    assert same_state(a.state_dict(), b.state_dict()) and not same_state(a.state_dict(), c.state_dict())
    assert not torch.equal(a.heads[0][0].weight, c.heads[0][0].weight)
    initialise(c, seed=5)
    assert same_state(a.state_dict(), c.state_dict())


def test_every_parameter_has_a_gradient_from_the_first_step():
    model = MSSNet(2, 16, 16, 3, 4).eval()
    target = [torch.rand(2, 16, 16 >> k, 16 >> k) for k in range(3)]
    multiscale_loss(model(torch.rand(2, 3, 64, 64)), target).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]


def test_every_scale_teaches_the_layers_below_it_alone():
    "The coarsest loss has no gradient at the blocks that come after its step."
    model = MSSNet(1, 4, 8, 3, 2).eval()
    scales = model(torch.rand(1, 3, 32, 32))[0]
    for k in range(3):
        model.zero_grad()
        scales[k].square().sum().backward(retain_graph=True)
        reached = [block.conv1.weight.grad is not None for block in model.hourglasses.stacks[0].hourglass.up]
        assert reached == [level >= k for level in range(3)]


def test_state_survives_a_file():
    model, again = MSSNet(2, 4, 8, 2, 2).eval(), MSSNet(2, 4, 8, 2, 2, seed=9).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file); file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    image = torch.rand(1, 3, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(model(image)[1], again(image)[1], strict=True))


def test_it_learns_at_every_scale():
    people = People("plain")
    batches = [people.batch(range(8 * i, 8 * i + 8)) for i in range(12)]
    model, curve = MSSNet(1, 16, 16, 4, 2), []
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for batch in 2 * batches:
        target = pyramid(to_map(batch.joints, 2), batch.visible, size=32)
        outputs = model(batch.images)
        optimiser.zero_grad(); multiscale_loss(outputs, target, batch.visible).backward(); optimiser.step()
        curve.append([(heatmap_loss(p, t) / heatmap_loss(0 * t, t)).item() for p, t in scale_pairs(outputs, target)])
    curve = np.array(curve)
    assert (curve[-5:].mean(0) < 0.99).all() and (curve[-5:].mean(0) < curve[:3].mean(0)).all()


# --- the loss ---------------------------------------------------------------------------------------------------------------------

def loss_slowly(pred, target, visible, mean=False) -> float:
    "Equation 1, squared, at every scale of every stack, pixel by pixel in double precision."
    total = 0.0
    for scales in pred:
        for k, level in enumerate(scales):
            B, N, h, w = level.shape
            for b in range(B):
                for n in range(N):
                    if visible is not None and visible[b, n] == 0: continue
                    for y in range(h):
                        for x in range(w):
                            difference = float(level[b, n, y, x]) - float(target[k][b, n, y, x])
                            total += difference ** 2 / N / B / (h * w if mean else 1)
    return total


def random_maps(seed: int, n_stacks: int, n_scales: int, B: int, N: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    def maps(): return [torch.randn(B, N, 6 - k, 4 - k, generator=generator, dtype=dtype) for k in range(n_scales)]
    return [maps() for _ in range(n_stacks)], maps(), torch.randint(0, 3, (B, N), generator=generator, dtype=torch.uint8)


networks = given(st.integers(0, 10 ** 6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans(),
                 st.booleans())


@quick
@networks
def test_loss_is_the_equation(seed, n_stacks, n_scales, B, N, mean, weighted):
    pred, target, visible = random_maps(seed, n_stacks, n_scales, B, N)
    visible = visible if weighted else None
    got = multiscale_loss(pred, target, visible, "mean" if mean else "paper")
    assert got.dtype == torch.float32 and got.ndim == 0
    assert float(got) == pytest.approx(loss_slowly(pred, target, visible, mean), rel=1e-6, abs=1e-6)


@quick
@networks
def test_gradient_is_that_of_the_equation(seed, n_stacks, n_scales, B, N, mean, weighted):
    "d/dP of the squares is 2 (P - G), over N and B, and over the pixels for the mean."
    pred, target, visible = random_maps(seed, n_stacks, n_scales, B, N)
    visible = visible if weighted else None
    for level in (level for scales in pred for level in scales): level.requires_grad_()
    multiscale_loss(pred, target, visible, "mean" if mean else "paper").backward()
    for scales in pred:
        for k, level in enumerate(scales):
            for b, n, y, x in np.ndindex(*level.shape):
                weight = 1 if visible is None else int(visible[b, n] > 0)
                slope = 2 * weight * (level[b, n, y, x].item() - target[k][b, n, y, x].item()) / N / B
                if mean: slope /= level[0, 0].numel()
                assert level.grad[b, n, y, x].item() == pytest.approx(slope, rel=1e-6, abs=1e-6)


@quick
@given(st.integers(0, 1000), st.integers(1, 3), st.sampled_from(["max", "avg", "render"]))
def test_zeros_cost_the_energy_and_a_perfect_answer_nothing(seed, n_stacks, how):
    joints = torch.rand(2, 16, 2, generator=torch.Generator().manual_seed(seed)) * 31
    target = pyramid(joints, torch.full((2, 16), 2), size=32, how=how)
    zeros = [torch.zeros_like(level) for level in target]
    energy = sum(level.double().square().sum().item() / 32 for level in target)
    assert multiscale_loss([zeros] * n_stacks, target).item() == pytest.approx(n_stacks * energy, rel=1e-5)
    assert multiscale_loss([target] * n_stacks, target) == 0


@quick
@given(st.integers(0, 1000), st.sampled_from(["paper", "mean"]))
def test_a_mirror_changes_nothing(seed, reduction):
    "Pictures, joints and the names of left and right turned over together: same pyramids turned over, same loss."
    generator = torch.Generator().manual_seed(seed)
    joints, visible = torch.rand(2, 16, 2, generator=generator) * 31, torch.randint(0, 3, (2, 16), generator=generator)
    flip, mirrored = list(MPII.flip), joints.clone()
    mirrored[..., 0] = 31 - joints[..., 0]
    target, turned = pyramid(joints, visible, size=32), pyramid(mirrored[:, flip], visible[:, flip], size=32)
    pred = [[torch.rand(level.shape, generator=generator) for level in target]]
    other = [[level.flip(-1)[:, flip] for level in pred[0]]]
    assert all(torch.allclose(a.flip(-1)[:, flip], b, atol=1e-6) for a, b in zip(target, turned, strict=True))
    losses = multiscale_loss(pred, target, visible, reduction), multiscale_loss(other, turned, visible[:, flip], reduction)
    assert torch.isclose(*losses, rtol=1e-5)


def test_what_is_not_annotated_has_no_gradient_and_what_is_occluded_has():
    pred, target, _ = random_maps(0, 2, 3, 2, 3)
    visible = torch.tensor([[0, 1, 2], [2, 0, 1]], dtype=torch.uint8)
    for level in (level for scales in pred for level in scales): level.requires_grad_()
    multiscale_loss(pred, target, visible).backward()
    for level in (level for scales in pred for level in scales): assert torch.equal(level.grad.abs().amax((2, 3)) > 0, visible > 0)
    assert torch.equal(multiscale_loss(pred, target), multiscale_loss(pred, target, torch.ones(2, 3)))
    assert multiscale_loss(pred, target, torch.zeros(2, 3)) == 0


def test_scales_and_stacks_add_up_with_equal_weights():
    pred, target, visible = random_maps(1, 3, 3, 2, 4, torch.float32)
    each = [heatmap_loss(level, target[k], visible) for scales in pred for k, level in enumerate(scales)]
    assert torch.isclose(multiscale_loss(pred, target, visible), sum(each))
    assert multiscale_loss([scales[:1] for scales in pred], target, visible) == sum(each[::3])     # coarser targets are not looked at


def test_sum_and_mean_differ_by_the_pixels_of_each_scale():
    target = [torch.zeros(1, 1, size, size) for size in (64, 32, 16, 8)]
    pred = [[torch.rand(level.shape, requires_grad=True) for level in target]]
    grads = {reduction: torch.autograd.grad(multiscale_loss(pred, target, reduction=reduction), pred[0]) for reduction in ("paper", "mean")}
    for level, by_sum, by_mean in zip(target, grads["paper"], grads["mean"], strict=True):
        assert torch.allclose(by_sum, by_mean * level.numel())


def test_loss_of_bf16_maps_is_computed_in_float32():
    pred, target, _ = random_maps(2, 2, 2, 2, 3, torch.bfloat16)
    exact = multiscale_loss([[level.double() for level in scales] for scales in pred], [level.double() for level in target])
    loss = multiscale_loss(pred, target)
    assert loss.dtype == torch.float32 and torch.isclose(loss, exact, rtol=1e-5)


# --- bad input --------------------------------------------------------------------------------------------------------------------

maps = [torch.zeros(2, 3, size, size) for size in (8, 4, 2)]


def with_nan(k: int, b: int, n: int, value=math.nan, joints=1) -> list[torch.Tensor]:
    broken = [level.clone() for level in maps]
    broken[k][b, n + 1 - joints:n + 1, 1, 0] = value
    return broken


@pytest.mark.parametrize("arguments, words", [
    (([maps], maps[0]), "target: one tensor; expected a list over scales"),
    ((maps, maps), r"pred: expected a list over stacks of lists over scales.*\[scales\]"),
    ((maps[0], maps), "pred: expected a list over stacks"),
    (([], maps), "pred: expected a list over stacks"),
    (([maps, maps], maps[:2]), "stack 0 has 3 scales, the target 2; pass n_scales=3 to heatmaps.pyramid"),
    (([maps, []], maps), "stack 1 has 0 scales, the target 3"),
    (([maps, [maps[0], maps[0]]], maps), r"stack 1, scale 1: heatmaps of shape \(2, 3, 8, 8\), targets of shape \(2, 3, 4, 4\)"),
    (([maps], maps, torch.ones(2, 4)), r"visible of shape \(2, 4\): expected \(2, 3\)"),
    (([maps], maps, None, "sum"), "reduction='sum': has to be"),
    (([maps, with_nan(2, 1, 0)], maps), "prediction, stack 1, scale 2: the map of joint 0 of person 1 holds NaN or infinity; the network"),
    (([with_nan(0, 0, 2, math.inf)], maps), "prediction, stack 0, scale 0: the map of joint 2 of person 0.*lower the learning rate"),
    (([maps], with_nan(1, 1, 2)), "target, scale 1: the map of joint 2 of person 1 holds NaN.*look for NaN in the joints"),
    (([[level * 0 + 1e30 for level in maps]], maps), "the loss is inf though all maps are finite.*lower the learning rate"),
    (([[level[:0] for level in maps]], [level[:0] for level in maps]), "a batch of nobody"),
    (([[maps[0][:0]]], [maps[0][:0]]), "a batch of nobody"),
    (([with_nan(0, 0, 2), maps], maps), "of joint 2 of person 0 holds NaN or infinity; the network"),
    (([with_nan(0, 0, 2, joints=2)], maps), "of joint 1 of person 0 holds NaN or infinity, as does 1 other of that scale; the network"),
    (([with_nan(0, 1, 2, joints=3)], maps), "of joint 0 of person 1 holds NaN or infinity, as do 2 others of that scale; the network"),
])
def test_wrong_losses_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words): multiscale_loss(*arguments)


def test_nobody_looks_at_the_maps_while_all_is_well(monkeypatch):
    "The search for NaN costs nothing: one number is looked at, the loss."
    looked = []
    isfinite = torch.Tensor.isfinite
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda tensor: looked.append(tensor.numel()) or isfinite(tensor))
    multiscale_loss([maps, maps], maps)
    assert looked == [1]


def test_on_other_devices_nan_shows_in_the_loss():
    pred = [[level.to("meta") for level in maps]]
    assert multiscale_loss(pred, [level.to("meta") for level in maps]).device.type == "meta"      # nothing was asked of it


@pytest.mark.parametrize("wrong, words", [
    (dict(n_scales=0), "n_scales=0: with depth=2 there are 2 steps up; pass 1 to 2"), (dict(n_scales=3), "n_scales=3: with depth=2"),
    (dict(depth=0), "depth=0: has to be at least 1"), (dict(width=30), "width=30"), (dict(stride=8), "stride=8"),
])
def test_wrong_networks_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words): MSSNet(**{**dict(n_stacks=1, width=8, depth=2), **wrong})


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match="images of 30x32 pixels.*multiples of 8"): MSSNet(1, 4, 8, 2, 2)(torch.zeros(1, 3, 30, 32))


# --- the exercises of the chapter -------------------------------------------------------------------------------------------------

def search(scales, order=-1, inside=True, swap=False, step=2):
    "The search down a pyramid, and what can go wrong with it."
    levels = scales[::order]
    y, x = divmod(int(levels[0].argmax()), levels[0].shape[1])
    for level in levels[1:]:
        window = level[step * y:step * y + 2, step * x:step * x + 2] if inside else level
        dy, dx = divmod(int(window.argmax()), window.shape[1])
        x, y = (step * x + dx, step * y + dy) if inside else (dx, dy)
    return (y, x) if swap else (x, y)


def ones_first(scales):
    "Takes the best cell so far to be at least 0: fails below zero."
    *finer, coarsest = scales
    best, place = 0.0, (0, 0)
    for y, x in np.ndindex(*coarsest.shape):
        if coarsest[y, x] > best: best, place = float(coarsest[y, x]), (x, y)
    x, y = place
    for level in reversed(finer):
        dy, dx = divmod(int(level[2 * y:2 * y + 2, 2 * x:2 * x + 2].argmax()), 2)
        x, y = 2 * x + dx, 2 * y + dy
    return x, y


@pytest.mark.parametrize("name, answer, right", [
    ("descend", search, True),
    ("descend", lambda scales: tuple(map(torch.tensor, search(scales))), True),
    ("descend", lambda scales: search(scales, swap=True), False),
    ("descend", lambda scales: search(scales, inside=False), False),
    ("descend", lambda scales: search(scales[:1]), False),
    ("descend", lambda scales: search(scales, order=1), False),
    ("descend", lambda scales: search(scales, step=1), False),
    ("descend", ones_first, False),
    ("peak_of_average", 0.0245, True), ("peak_of_average", 0.025, True), ("peak_of_average", 2 * math.pi / 64, False),
    ("peak_of_average", 2 * math.pi / 16, False), ("peak_of_average", 1 / 256, False), ("peak_of_average", "0.0245", False),
])
def test_exercises_tell_right_from_wrong(name, answer, right):
    verdict = judge(EXERCISES[name], answer)
    assert (verdict == "right") == right and (right or verdict.startswith("not yet"))
