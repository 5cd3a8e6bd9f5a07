"MSR-net and the whole network: reduced to the hourglass, its loss against loops, stage 2, the options, and what is refused."
import copy
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from remembered import as_remembered

from msspose.checks import EXERCISES, judge
from msspose.heatmaps import pyramid, to_map
from msspose.hourglass import StackedHourglass, initialise
from msspose.people import People
from msspose.regression import LADDER, MSRNet, PoseNet
from msspose.skeleton import COCO, FLIC, LSP, MPII
from msspose.structure import multiscale_structure_loss
from msspose.supervision import MSSNet, multiscale_loss

quick = settings(max_examples=10, deadline=None)
SMALL = dict(n_stacks=2, width=8, depth=2, stride=2)
NEIGHBOURS = dataclasses.replace(MPII, groups=MPII.neighbourhoods)
PAIR = dataclasses.replace(MPII, groups=tuple((n,) for n in range(16)))     # groups of one


def count(model) -> int: return sum(p.numel() for p in model.parameters())
def same_state(a: dict, b: dict) -> bool: return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)
def network(skeleton=MPII, **changes) -> PoseNet: return PoseNet(skeleton, **(SMALL | changes))
def pictures(n=2, size=32, seed=0): return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def loud(model):
    "Weights with which every path carries something."
    initialise(model, seed=3, quiet=1)
    return model.eval()


def people(n=3, size=32, skeleton=MPII, seed=0):
    "joints in pixels of the image, and which are annotated."
    generator = torch.Generator().manual_seed(seed)
    joints = torch.rand(n, skeleton.n_joints, 2, generator=generator, dtype=torch.float64) * size
    return joints, torch.randint(0, 3, (n, skeleton.n_joints), generator=generator, dtype=torch.uint8)


# --- down the ladder, to the hourglass --------------------------------------------------------------------------------------------

@quick
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from([2, 4]), st.integers(0, 5), st.booleans())
def test_without_switches_it_is_the_hourglass_weight_for_weight(n_stacks, depth, stride, seed, structure):
    model = PoseNet(MPII, n_stacks, 8, depth, stride, multi_scale=False, regression=False, structure=structure, seed=seed)
    hourglass = StackedHourglass(n_stacks, 16, 8, depth, stride, seed)
    prefix = "mss.hourglasses."
    assert all(name.startswith(prefix) for name in model.state_dict())
    assert same_state({name.removeprefix(prefix): value for name, value in model.state_dict().items()}, hourglass.state_dict())
    images = pictures(size=2 * stride * 2 ** depth, seed=seed)
    for mode in (False, True):                           # evaluation, and training with the statistics of the batch
        outputs, plain = model.train(mode)(images), hourglass.train(mode)(images)
        assert [len(scales) for scales in outputs] == [1] * n_stacks
        assert all(torch.equal(ours[0], theirs[0]) for ours, theirs in zip(outputs, plain, strict=True))


@quick
@given(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 3))
def test_switches_add_and_change_nothing_of_what_is_there(multi_scale, structure, regression, seed):
    model, images = network(multi_scale=multi_scale, structure=structure, regression=regression, seed=seed).eval(), pictures(seed=seed)
    outputs, hourglass = model(images), StackedHourglass(2, 16, 8, 2, 2, seed).eval()
    assert same_state(model.mss.hourglasses.state_dict(), hourglass.state_dict())
    assert all(torch.equal(ours[0], theirs[0]) for ours, theirs in zip(outputs[:2], hourglass(images), strict=True))
    expected = [(2, 16, 16 >> k, 16 >> k) for k in range(2 if multi_scale else 1)]
    assert [[tuple(level.shape) for level in scales] for scales in outputs] == [expected] * (3 if regression else 2)


def test_training_without_switches_is_training_the_hourglass():
    images, (joints, visible) = pictures(4), people(4)
    model, hourglass = network(multi_scale=False, regression=False, structure=False), StackedHourglass(2, 16, 8, 2, 2)
    for net in (model, hourglass):
        optimiser = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
        for _ in range(3):
            outputs = net(images)
            loss = multiscale_loss(outputs, pyramid(to_map(joints, 2), visible, 16, n_scales=1), visible) if net is hourglass else \
                net.loss(outputs, joints, visible)
            optimiser.zero_grad(); loss.backward(); optimiser.step()
    assert all(torch.equal(p, q) for p, q in zip(model.state_dict().values(), hourglass.state_dict().values(), strict=True))


def test_the_ladder_switches_on_one_component_after_the_other():
    rungs = list(LADDER.values())
    assert list(LADDER) == ["hourglass", "supervision", "regression", "structure", "masking"]
    switched = [[name for name in rung if rung[name] != before[name]] for before, rung in zip(rungs, rungs[1:], strict=False)]
    assert not any(rungs[0].values()) and all(rungs[-1].values())
    assert switched == [["multi_scale"], ["regression"], ["structure"], ["masking"]]
    assert {name for rung in rungs for name in rung} - {"masking"} <= set(network().settings)


def test_full_size():
    "The eight stacks of the paper, counted without memory for them."
    model = PoseNet(n_stacks=8)
    assert (count(model.mss), count(model)) == (25_693_312, 28_986_822)


# --- shapes and skeletons ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("skeleton", [MPII, LSP, FLIC, COCO, NEIGHBOURS], ids=lambda s: s.name)
@pytest.mark.parametrize("options", [{}, dict(all_stacks=True, correct=True), dict(see_image=False, regression_width=12)], ids=str)
def test_any_skeleton(skeleton, options):
    model, (joints, visible) = network(skeleton, **options), people(skeleton=skeleton)
    outputs, n = model(pictures(3)), skeleton.n_joints
    assert [[tuple(level.shape) for level in scales] for scales in outputs] == [[(3, n, 16, 16), (3, n, 8, 8)]] * 3
    loss = model.loss(outputs, joints, visible)
    loss.backward()
    assert loss.ndim == 0 and loss.dtype == torch.float32 and loss > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@quick
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.booleans(), st.booleans(), st.data())
def test_msrnet_by_itself(depth, reads, n_joints, image, add, data):
    n_scales = data.draw(st.integers(1, depth))
    stacks = [[torch.rand(2, n_joints, 16 >> k, 24 >> k) for k in range(n_scales)] for _ in range(3)]
    model = MSRNet(n_joints, 8, depth, n_scales, reads, image, add).eval()
    answer = model(torch.rand(2, 3, 64, 96), stacks)
    assert [a.shape for a in answer] == [level.shape for level in stacks[-1]]
    assert model.enter.conv1.in_channels == reads * n_scales * n_joints + 3 * image


def test_groups_come_from_the_skeleton():
    joints, visible = people()
    outputs = loud(network())(pictures(3))
    losses = [network(skeleton).loss(outputs, joints, visible) for skeleton in (MPII, NEIGHBOURS, PAIR)]
    targets = pyramid(to_map(joints, 2), visible, 16, n_scales=2)
    for skeleton, loss in zip((MPII, NEIGHBOURS, PAIR), losses, strict=True):
        assert loss == multiscale_structure_loss(outputs, targets, skeleton.groups, visible=visible)
    assert len({float(loss.detach()) for loss in losses}) == 3
    assert torch.isclose(losses[2], 2 * multiscale_loss(outputs, targets, visible))      # each joint alone, twice


# --- what MSR-net sees and says ---------------------------------------------------------------------------------------------------

def gather_slowly(images, stacks, reads, image) -> np.ndarray:
    "Pixel by pixel: every map enlarged by repetition, then the centred image averaged over the pixels of a cell."
    B, _, h, w = stacks[-1][0].shape
    channels = [maps[:, n] for scales in stacks[len(stacks) - reads:] for maps in scales for n in range(maps.shape[1])]
    seen = np.zeros((B, len(channels) + 3 * image, h, w))
    step = images.shape[-1] // w
    for b, y, x in np.ndindex(B, h, w):
        for c, maps in enumerate(channels): seen[b, c, y, x] = maps[b, y * maps.shape[1] // h, x * maps.shape[2] // w]
        cell = images[b, :, y * step:(y + 1) * step, x * step:(x + 1) * step]
        if image: seen[b, -3:, y, x] = 4 * (cell.double().mean((1, 2)).numpy() - 0.5)
    return seen


@pytest.mark.parametrize("reads, image", [(1, True), (2, True), (3, False)])
def test_what_it_reads(reads, image):
    stacks = [[torch.rand(2, 3, 8 >> k, 12 >> k) for k in range(3)] for _ in range(3)]
    images, model = torch.rand(2, 3, 32, 48), MSRNet(3, 8, 3, 3, reads, image)
    seen = model.gather(images, stacks)
    assert seen.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(seen, gather_slowly(images, stacks, reads, image), atol=1e-6)


def test_options_change_the_number_of_inputs_and_nothing_else():
    plain = {name: p.shape for name, p in network().named_parameters()}
    for options, channels in ((dict(all_stacks=True), 2 * 2 * 16 + 3), (dict(see_image=False), 2 * 16),
                              (dict(all_stacks=True, see_image=False), 2 * 2 * 16), (dict(correct=True), 2 * 16 + 3)):
        model = network(**options)
        other = {name: p.shape for name, p in model.named_parameters()}
        assert list(other) == list(plain)
        changed = {name for name in plain if plain[name] != other[name]}
        assert model.msr.enter.norm1.num_features == channels
        assert changed == (set() if "correct" in options else {f"msr.enter.{name}" for name in
                           ("norm1.weight", "norm1.bias", "conv1.weight", "skip.weight")})


@pytest.mark.parametrize("options, image, first, second", [
    ({}, True, False, True), (dict(all_stacks=True), True, True, True), (dict(see_image=False), False, False, True),
    (dict(see_image=False, all_stacks=True), False, True, True)], ids=str)
def test_the_answer_depends_on_what_it_reads(options, image, first, second):
    model, images = loud(network(**options)), pictures()
    stacks = model.mss(images)
    answer = model.msr(images, stacks)[0]
    def moved(images, stacks): return not torch.allclose(model.msr(images, stacks)[0], answer, atol=1e-6)
    assert moved(pictures(seed=1), stacks) == image
    for i, matters in enumerate((first, second)):
        for k in range(2):
            other = [list(scales) for scales in stacks]
            other[i][k] = other[i][k] + torch.rand(other[i][k].shape)
            assert moved(images, other) == matters, f"stack {i}, scale {k}"


def test_one_joint_moves_the_others():
    "What a joint's own convolutions cannot do: a second peak in one map changes the answer for all joints."
    model, images = loud(network(n_stacks=1)), pictures()
    stacks = model.mss(images)
    other = [[level.clone() for level in stacks[0]]]
    other[0][0][:, 3, 5, 5] += 5
    difference = (model.msr(images, other)[0] - model.msr(images, stacks)[0]).abs().amax((0, 2, 3))
    assert (difference > 1e-3).all()


def test_a_correction_starts_at_what_it_corrects():
    images = pictures(4)
    for model in (network(correct=True), network(correct=True, all_stacks=True)):
        *_, last, answer = model(images)
        assert all((a - b).abs().max() < 0.2 and (a - b).square().mean() < 2e-3 for a, b in zip(answer, last, strict=True))
        for head in model.msr.heads: head.weight.data.zero_()
        *_, last, answer = model.eval()(images)
        assert all(torch.equal(a, b) for a, b in zip(answer, last, strict=True))
    assert same_state(network(correct=True).state_dict(), network().state_dict())


def test_everything_stays_in_channels_last():
    model, strangers = network(width=16), []
    for name, module in model.msr.named_modules():
        def look(module, inputs, output, name=name):
            if isinstance(output, torch.Tensor) and not output.is_contiguous(memory_format=torch.channels_last): strangers.append(name)
        module.register_forward_hook(look)
    assert pictures().is_contiguous()
    model(pictures())
    assert not strangers
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.ndim == 4)


def test_bf16_autocast():
    model, images, (joints, visible) = loud(network()).train(), pictures(4), people(4)
    exact = model.loss(model(images), joints, visible)
    with torch.autocast("cpu", torch.bfloat16): outputs = model(images)
    loss = model.loss(outputs, joints, visible)
    assert outputs[-1][0].dtype == torch.bfloat16 and loss.dtype == torch.float32 and abs(loss / exact - 1) < 0.1
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.msr.parameters())


# --- the loss ---------------------------------------------------------------------------------------------------------------------

def loss_slowly(outputs, joints, visible, stride, groups, alpha, sigma, mean) -> tuple[float, list]:
    "Equation 2 with squares at every scale of every output, from the joints on: loops in double precision; and its gradient."
    total, gradients = 0.0, []
    B, N, size, _ = outputs[0][0].shape
    finest = np.zeros((B, N, size, size))
    for b, n, y, x in np.ndindex(finest.shape):
        if visible[b, n] == 0: continue
        jx, jy = (float(v) for v in (joints[b, n] + 0.5) / stride - 0.5)
        finest[b, n, y, x] = np.exp(-((x - jx) ** 2 + (y - jy) ** 2) / (2 * sigma ** 2))
    for scales in outputs:
        gradients.append([])
        for k, level in enumerate(scales):
            predicted, gradient = level.detach().double().numpy(), np.zeros(level.shape)
            for b, y, x in np.ndindex(B, size >> k, size >> k):
                cell = finest[b, :, y << k:(y + 1) << k, x << k:(x + 1) << k].max((1, 2))
                residual = [(predicted[b, n, y, x] - cell[n]) * bool(visible[b, n] > 0) for n in range(N)]
                share = 1 / B / ((size >> k) ** 2 if mean else 1)
                for n in range(N):
                    together = sum(residual[m] for m in groups[n])
                    total += share * (residual[n] ** 2 / N + alpha * together ** 2)
                    gradient[b, n, y, x] += share * 2 * residual[n] / N
                    for m in groups[n]: gradient[b, m, y, x] += share * 2 * alpha * together * bool(visible[b, m] > 0)
            gradients[-1].append(gradient)
    return total, gradients


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10 ** 6), st.integers(1, 3), st.integers(1, 2), st.sampled_from([None, 0.0, 0.3]), st.sampled_from([0.7, 1.0, 2.0]),
       st.booleans(), st.booleans(), st.sampled_from([2, 4]), st.booleans())
def test_loss_is_the_equation_over_all_outputs_and_scales(seed, n_outputs, B, alpha, sigma, mean, structure, stride, table):
    skeleton = NEIGHBOURS if table else MPII
    model = network(skeleton, stride=stride, structure=structure, regression=False)
    joints, visible = people(B, 8 * stride, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    outputs = [[torch.randn(B, 16, 8 >> k, 8 >> k, generator=generator, dtype=torch.float64).requires_grad_() for k in range(2)]
               for _ in range(n_outputs)]
    loss = model.loss(outputs, joints, visible, sigma, alpha=alpha, reduction="mean" if mean else "paper")
    loss.backward()
    weight = (1 / 16 if alpha is None else alpha) if structure else 0
    total, gradients = loss_slowly(outputs, joints, visible, stride, skeleton.groups, weight, sigma, mean)
    assert loss.item() == pytest.approx(total, rel=1e-6, abs=1e-6)
    for scales, slow in zip(outputs, gradients, strict=True):
        for level, expected in zip(scales, slow, strict=True): assert np.allclose(level.grad, expected, rtol=1e-6, atol=1e-6)


@quick
@given(st.integers(0, 1000), st.sampled_from(["max", "render", "avg"]), st.sampled_from(["sum", "max", "concat"]),
       st.sampled_from(["paper", "mean"]))
def test_loss_is_that_of_chapters_04_and_05(seed, how, combine, reduction):
    joints, visible = people(seed=seed)
    outputs = loud(network(seed=seed))(pictures(3, seed=seed))
    targets = pyramid(to_map(joints, 2), visible, 16, 1.5, how, 2)
    first, second = (network(structure=structure) for structure in (False, True))
    options = dict(sigma=1.5, how=how, reduction=reduction)
    eq1 = multiscale_loss(outputs, targets, visible, reduction)
    assert first.loss(outputs, joints, visible, **options) == eq1
    assert first.loss(outputs, joints, visible, alpha=9.0, combine=combine, **options) == eq1
    assert second.loss(outputs, joints, visible, alpha=0.0, combine=combine, **options) == eq1
    assert second.loss(outputs, joints, visible, alpha=0.2, combine=combine, **options) == \
        multiscale_structure_loss(outputs, targets, MPII.groups, 0.2, combine, visible, reduction)


def test_a_perfect_answer_costs_nothing_and_zeros_cost_the_energy():
    joints, visible = people()
    targets = pyramid(to_map(joints, 2), visible, 16, n_scales=2)
    for structure in (False, True): assert network(structure=structure).loss([targets] * 3, joints, visible) == 0
    zeros = [torch.zeros_like(level) for level in targets]
    energy = sum(float(level.square().sum()) for level in targets) / 3 / 16
    assert network(structure=False).loss([zeros] * 3, joints, visible).item() == pytest.approx(3 * energy, rel=1e-6)


@quick
@given(st.integers(0, 1000), st.sampled_from(["sum", "max", "concat"]), st.booleans())
def test_a_mirror_changes_nothing(seed, combine, structure):
    "Pictures, joints and the names of left and right turned over together."
    flip, (joints, visible), model = list(MPII.flip), people(seed=seed), network(structure=structure)
    mirrored = joints[:, flip].clone()
    mirrored[..., 0] = 31 - mirrored[..., 0]
    outputs = loud(network())(pictures(3, seed=seed))
    turned = [[level.flip(-1)[:, flip] for level in scales] for scales in outputs]
    losses = model.loss(outputs, joints, visible, combine=combine), model.loss(turned, mirrored, visible[:, flip], combine=combine)
    assert torch.isclose(*losses, rtol=1e-5)


@quick
@given(st.integers(0, 1000), st.sampled_from(["sum", "max", "concat"]))
def test_the_order_of_joints_changes_nothing(seed, combine):
    "Joints, their maps and their groups under other numbers."
    order = np.random.default_rng(seed).permutation(16)
    place = {int(old): new for new, old in enumerate(order)}
    other = copy.copy(MPII)
    object.__setattr__(other, "groups", tuple(tuple(place[m] for m in MPII.groups[old]) for old in order))
    (joints, visible), outputs = people(seed=seed), loud(network())(pictures(3, seed=seed))
    renamed = [[level[:, order] for level in scales] for scales in outputs]
    model, again = network(), network()
    again.skeleton = other
    same = again.loss(renamed, joints[:, order], visible[:, order], combine=combine)
    assert torch.isclose(model.loss(outputs, joints, visible, combine=combine), same, rtol=1e-5)


def test_a_joint_without_annotation_has_no_gradient_and_an_occluded_one_has():
    model, joints = network(), people()[0]
    visible = torch.tensor([0, 1] + [2] * 14).expand(3, 16)
    outputs = [[level.detach().requires_grad_() for level in scales] for scales in loud(network())(pictures(3))]
    model.loss(outputs, joints, visible).backward()
    for level in (level for scales in outputs for level in scales):
        assert not level.grad[:, 0].any() and level.grad[:, 1].abs().sum() > 0
    nobody = torch.zeros(3, 16, dtype=torch.uint8)
    for structure in (False, True): assert network(structure=structure).loss(outputs, joints, nobody) == 0


# --- stages -----------------------------------------------------------------------------------------------------------------------

def last_loss(model, images, joints, visible): return model.loss(model(images)[-1:], joints, visible)


def test_the_loss_of_msr_net_reaches_mss_net_unless_that_is_fixed():
    model, images, (joints, visible) = network(), pictures(4), people(4)
    last_loss(model, images, joints, visible).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in model.mss.named_parameters()
               if name.endswith("weight") and not name.startswith("heads.0") and "stacks.0.head" not in name)
    model.zero_grad()
    last_loss(model.fix_mss(), images, joints, visible).backward()
    assert all(p.grad is None and not p.requires_grad for p in model.mss.parameters())
    assert all(p.grad is not None for p in model.msr.parameters())


def test_a_fixed_mss_net_does_not_drift():
    model, images, (joints, visible) = network().train(), pictures(4), people(4)
    before = copy.deepcopy(model.mss.state_dict())
    optimiser = torch.optim.AdamW(model.fix_mss().parameters(), lr=1e-2)
    optimiser.zero_grad(); last_loss(model, images, joints, visible).backward(); optimiser.step()
    assert same_state(before, model.mss.state_dict())
    moved = copy.deepcopy(model.msr.state_dict())
    model.fix_mss(False)(images)                                    # let it go: its statistics follow the batch again
    drifted = [name for name, value in model.mss.state_dict().items() if not torch.equal(value, before[name])]
    assert drifted and all("running" in name or "num_batches" in name for name in drifted)
    assert not same_state(moved, model.msr.state_dict())            # MSR-net was in training mode all along


def test_modes_of_a_fixed_network():
    model = network()
    for fixed in (True, False):
        assert model.fix_mss(fixed) is model and model.mss_is_fixed is fixed
        for mode in (True, False):
            assert model.train(mode) is model
            assert model.training is mode and model.msr.training is mode
            assert {m.training for m in model.mss.modules()} == {mode and not fixed}
        assert model.eval() is model and not model.training
        assert all(p.requires_grad is not fixed for p in model.mss.parameters())
        assert all(p.requires_grad for p in model.msr.parameters())
    assert not model.eval().fix_mss().training, "fixing does not switch to training mode"


def test_what_a_fixed_network_says_is_the_same_in_both_modes():
    model, images = loud(network()).fix_mss(), pictures(4)
    *stacks, trained = model.train()(images)
    *others, evaluated = model.eval()(images)
    assert all(torch.equal(a, b) for x, y in zip(stacks, others, strict=True) for a, b in zip(x, y, strict=True))
    assert not torch.equal(trained[0], evaluated[0])


def test_stages_one_to_three_learn():
    source = People("plain")
    batches = [source.batch(range(8 * i, 8 * i + 8)) for i in range(6)]
    model = PoseNet(MPII, n_stacks=1, width=16, depth=3, stride=4)
    def stage(network, parameters, part, epochs):
        optimiser, curve = torch.optim.AdamW(parameters, lr=6e-3), []
        for batch in epochs * batches:
            loss = model.loss(network(batch.images)[part], batch.joints, batch.visible)
            optimiser.zero_grad(); loss.backward(); optimiser.step()
            curve.append(float(loss.detach()))
        return np.mean(curve[-6:]) / np.mean(curve[:6])
    first = stage(model.mss, model.mss.parameters(), slice(None), 4)
    second = stage(model.fix_mss(), model.msr.parameters(), slice(-1, None), 4)
    third = stage(model.fix_mss(False), model.parameters(), slice(None), 3)
    assert first < 0.97 and second < 0.97 and third < 1


# --- settings and weights ---------------------------------------------------------------------------------------------------------

def test_a_seed_means_the_same_weights():
    a, b, c = (network(seed=seed).state_dict() for seed in (5, 5, 6))
    assert same_state(a, b)
    for part in ("mss.", "msr."): assert not same_state(*({n: v for n, v in s.items() if n.startswith(part)} for s in (a, c)))
    assert not torch.equal(a["msr.hourglass.bottom.conv2.weight"], a["mss.hourglasses.stacks.0.hourglass.bottom.conv2.weight"])


@pytest.mark.parametrize("options", [{}, dict(multi_scale=False, structure=False, regression=False), dict(see_image=False),
                                     dict(all_stacks=True, correct=True, seed=4, regression_width=12)], ids=str)
def test_settings_make_the_same_network_again(options):
    model = network(**options)
    assert set(SMALL | options) <= set(model.settings) and "skeleton" not in model.settings
    again = PoseNet(MPII, **json.loads(json.dumps(model.settings)))
    assert again.settings == model.settings and same_state(again.state_dict(), model.state_dict())
    assert again.structure == model.structure and again.n_scales == model.n_scales


def test_state_survives_a_file():
    model, again = loud(network()), network(seed=9).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file); file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for x, y in zip(model(pictures()), again(pictures()), strict=True) for a, b in zip(x, y, strict=True))


def test_every_parameter_has_a_gradient_from_the_first_step():
    model, (joints, visible) = PoseNet(n_stacks=2, width=16, depth=3).eval(), people(size=64)
    model.loss(model(pictures(3, 64)), joints, visible).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]


def test_it_begins_at_an_answer_of_zeros():
    model, (joints, visible) = PoseNet(n_stacks=1, width=32, depth=3), people(size=64)
    outputs = model(pictures(3, 64))
    zeros = [[torch.zeros_like(level) for level in scales] for scales in outputs]
    assert abs(model.loss(outputs, joints, visible) / model.loss(zeros, joints, visible) - 1) < 0.05


# --- bad input --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make, words", [
    (lambda: MSRNet(n_scales=5), "n_scales=5: an hourglass of depth 4 has 1 to 4 sizes"),
    (lambda: MSRNet(n_scales=0), "n_scales=0"),
    (lambda: MSRNet(n_stacks=0), "n_stacks=0: it reads the heatmaps of at least one stack"),
    (lambda: network(n_stacks=0), "n_stacks=0: has to be at least 1"),
    (lambda: network(width=30), "width=30: has to be a multiple of 4"),
    (lambda: network(stride=3), "stride=3: has to be 4"),
    (lambda: network(depth=0), "depth=0"),
    (lambda: network(regression=False).fix_mss(), "fix_mss: without MSR-net nothing would be left to train; pass regression=True"),
])
def test_wrong_networks_are_refused(make, words):
    with pytest.raises(ValueError, match=words): make()


@pytest.mark.parametrize("images, error, words", [
    (torch.zeros(1, 3, 36, 32), ValueError, "images of 36x32 pixels.*multiples of 8.*32x32 would do"),
    (torch.zeros(3, 32, 32), ValueError, r"expected \(batch, 3, height, width\)"),
    (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, r"pass images / 255"),
])
def test_wrong_images_are_refused(images, error, words):
    with pytest.raises(error, match=words): network()(images)


def test_wrong_losses_are_refused():
    model, (joints, visible) = network(), people()
    outputs = [[level.detach() for level in scales] for scales in model(pictures(3))]
    broken = copy.deepcopy(outputs)
    broken[2][1][0, 4, 0, 0] = float("nan")
    lost = joints.clone()
    lost[1, 2] = float("nan")
    for change, words in ((dict(alpha=-1.0), "alpha=-1.0: a weight is 0 or more"), (dict(combine="product"), "combine='product'"),
                          (dict(how="min"), "how: 'min'"), (dict(sigma=0.0), "sigma: 0.0"), (dict(reduction="sum"), "reduction='sum'"),
                          (dict(outputs=broken), "prediction, stack 2, scale 1: the map of joint 4 of person 0 holds NaN"),
                          (dict(joints=joints[:2]), "expected"), (dict(joints=joints[:, :14]), "expected"),
                          (dict(joints=lost, visible=torch.full((3, 16), 2)), "joint 2 of person 1 is .*set its visible to 0")):
        with pytest.raises(ValueError, match=words): model.loss(**(dict(outputs=outputs, joints=joints, visible=visible) | change))


def test_more_stacks_to_read_than_there_are():
    "MSR-net by itself, made for three stacks and given two."
    model, stacks = MSRNet(4, 8, 2, 2, n_stacks=3), MSSNet(2, 4, 8, 2, 2).eval()(pictures())
    with pytest.raises(ValueError, match="reads the heatmaps of 3 stacks; it got 2"): model(pictures(), stacks)


# --- the exercises of the chapter -------------------------------------------------------------------------------------------------

def belief(places, heights, neighbour, length, spread, log=True, power=2, half=0.5, sign=-1, weight=1.0):
    distance = (places - neighbour).norm(dim=-1)
    fit = half * (distance - length).abs() ** power / spread ** power
    return int((weight * (heights.log() if log else heights) + sign * fit).argmax())


@pytest.mark.parametrize("name, answer, right", [
    ("choose", belief, True),
    ("choose", lambda places, heights, *rest: int(heights.argmax()), False),
    ("choose", lambda *given: belief(*given, weight=0), False),
    ("choose", lambda *given: belief(*given, log=False), False),
    ("choose", lambda *given: belief(*given, half=1), False),
    ("choose", lambda *given: belief(*given, power=1), False),
    ("choose", lambda *given: belief(*given, sign=1), False),
    ("choose", lambda places, heights, neighbour, length, spread: belief(places, heights, neighbour, 0, spread), False),
    ("choose", lambda places, heights, neighbour, length, spread: belief(places, heights, neighbour, length, spread ** 0.5), False),
    ("choose", lambda places, heights, neighbour, length, spread: belief(places.abs(), heights, neighbour * 0, length, spread), False),
    ("channels_read", 515, True), ("channels_read", 512, False), ("channels_read", 67, False), ("channels_read", 131, False),
    ("channels_read", "515", False),
])
def test_exercises_tell_right_from_wrong(name, answer, right):
    verdict = judge(EXERCISES[name], answer)
    assert (verdict == "right") == right and (right or verdict.startswith("not yet"))


@pytest.mark.parametrize("end_to_end", [True, False])
def test_the_gradient_of_the_second_network_reaches_the_first_only_end_to_end(end_to_end):
    network = PoseNet(n_stacks=1, width=8, depth=2, end_to_end=end_to_end)
    outputs = network(torch.rand(2, 3, 32, 32))
    network.loss(outputs[-1:], torch.rand(2, 16, 2) * 32, torch.full((2, 16), 2)).backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in network.mss.parameters()) is end_to_end
    assert all(p.grad is not None for p in network.msr.parameters())


def test_answers_and_losses_are_what_they_were():
    people = People("standard", "val").batch(range(3))
    for name, switches in LADDER.items():
        options = {key: value for key, value in switches.items() if key != "masking"}
        model = PoseNet(MPII, n_stacks=2, width=8, depth=2, **options)
        with torch.no_grad(): outputs, loss = model(people.images), model.loss(model(people.images), people.joints, people.visible)
        as_remembered(name, {"answers": outputs, "loss": loss})
