"The hourglass: its size, its shapes, its start, its gradients, and what it refuses."
import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from msspose.checks import EXERCISES, judge
from msspose.heatmaps import encode, to_map
from msspose.hourglass import QUIET, Hourglass, Residual, Stack, StackedHourglass, Stem, heatmap_loss, initialise
from msspose.people import People

quick = settings(max_examples=15, deadline=None)


def count(model: nn.Module) -> int: return sum(p.numel() for p in model.parameters())


def loud(model: nn.Module) -> nn.Module:
    "Weights with which every path carries something."
    initialise(model, seed=3, quiet=1)
    return model.eval()


# --- the original network ---------------------------------------------------------------------------------------------------------

def test_the_original_has_25_594_624_parameters():
    with torch.device("meta"): layers = [Stem(256), *(Stack(16, 256, 4, last=i == 7) for i in range(8))]
    assert sum(map(count, layers)) == 25_594_624


def test_the_default_is_the_original():
    model = StackedHourglass()
    assert count(model) == 25_594_624
    assert len(model.stacks) == 8 and model.multiple == 64
    assert not any(name.startswith("stacks.7.feed") for name, _ in model.named_parameters())


def expected_count(n_stacks: int, n_joints: int, width: int, depth: int) -> int:
    "From the description, layer by layer."
    def conv(inputs, outputs, kernel=1): return outputs * (inputs * kernel ** 2 + 1)
    def norm(channels): return 2 * channels
    def residual(inputs, outputs):
        half = outputs // 2
        across = 0 if inputs == outputs else conv(inputs, outputs)
        return norm(inputs) + conv(inputs, half) + norm(half) + conv(half, half, 3) + norm(half) + conv(half, outputs) + across
    w = width
    stem = conv(3, w // 4, 7) + norm(w // 4) + residual(w // 4, w // 2) + residual(w // 2, w) + residual(w, w)
    stack = (3 * depth + 2) * residual(w, w) + conv(w, w) + norm(w) + conv(w, n_joints)
    return stem + n_stacks * stack + (n_stacks - 1) * (conv(w, w) + conv(n_joints, w))


@quick
@given(st.integers(1, 3), st.integers(1, 17), st.sampled_from([4, 8, 20]), st.integers(1, 4), st.sampled_from([2, 4]))
def test_parameters_of_any_network(n_stacks, n_joints, width, depth, stride):
    assert count(StackedHourglass(n_stacks, n_joints, width, depth, stride)) == expected_count(n_stacks, n_joints, width, depth)


# --- shapes -----------------------------------------------------------------------------------------------------------------------

@quick
@given(st.integers(1, 3), st.integers(1, 17), st.integers(1, 3), st.sampled_from([2, 4]), st.integers(1, 3), st.integers(1, 3))
def test_output_is_a_list_over_stacks_of_lists_over_scales(n_stacks, n_joints, depth, stride, rows, cols):
    model = StackedHourglass(n_stacks, n_joints, 8, depth, stride).eval()
    height, width = rows * model.multiple, cols * model.multiple
    outputs = model(torch.rand(2, 3, height, width))
    assert [[tuple(h.shape) for h in scales] for scales in outputs] == [[(2, n_joints, height // stride, width // stride)]] * n_stacks


@quick
@given(st.integers(1, 4), st.integers(1, 3))
def test_merged_sums_run_from_fine_to_coarse(depth, n_stacks):
    model = StackedHourglass(n_stacks, 5, 8, depth, 2).eval()
    side = model.multiple // 2
    results = model.forward_stacks(torch.rand(1, 3, 2 * side, 2 * side))
    assert len(results) == n_stacks
    for merged, heatmaps in results:
        assert [tuple(f.shape) for f in merged] == [(1, 8, side >> level, side >> level) for level in range(depth)]
        assert heatmaps.shape == (1, 5, side, side)


def hourglass_slowly(model: Hourglass, x: torch.Tensor, level: int = 0) -> torch.Tensor:
    "Recursively, as Newell and others describe it, with loops for pooling and enlarging."
    if level == len(model.across): return model.bottom(x)
    small = torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    below = model.up[level](hourglass_slowly(model, model.down[level](small), level + 1))
    return model.across[level](x) + below.repeat_interleave(2, -1).repeat_interleave(2, -2)


@quick
@given(st.integers(1, 4), st.integers(0, 100))
def test_hourglass_against_the_recursive_definition(depth, seed):
    model = loud(Hourglass(depth, 8))
    x = torch.randn(2, 8, 2 ** depth, 2 ** (depth + 1), generator=torch.Generator().manual_seed(seed))
    merged = model(x)
    for level in range(depth):       # the sums inside are those of the smaller hourglasses inside
        inside = x
        for down in model.down[:level]: inside = down(F.max_pool2d(inside, 2))
        assert torch.allclose(merged[level], hourglass_slowly(model, inside, level), rtol=1e-4, atol=1e-4)


def residual_slowly(block: Residual, x: np.ndarray) -> np.ndarray:
    "The block on (C, H, W) with loops over pixels, in evaluation mode."
    def act(norm, x):
        mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
        scale, shift = norm.weight.detach().numpy() / np.sqrt(var + norm.eps), norm.bias.detach().numpy()
        return np.maximum((x - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None], 0)

    def conv(layer, x):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        r = weight.shape[-1] // 2
        padded = np.pad(x, ((0, 0), (r, r), (r, r)))
        out = np.zeros((len(weight), *x.shape[1:]))
        for y, x_ in np.ndindex(*x.shape[1:]):
            out[:, y, x_] = np.einsum("ocij,cij->o", weight, padded[:, y:y + 2 * r + 1, x_:x_ + 2 * r + 1]) + bias
        return out

    branch = conv(block.conv3, act(block.norm3, conv(block.conv2, act(block.norm2, conv(block.conv1, act(block.norm1, x))))))
    return (x if isinstance(block.skip, nn.Identity) else conv(block.skip, x)) + branch


@pytest.mark.parametrize("outputs", [6, 10])
def test_residual_against_loops(outputs):
    block = loud(Residual(6, outputs))
    with torch.no_grad():
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                for t in (module.weight, module.bias, module.running_mean): t.normal_(generator=torch.Generator().manual_seed(1))
                module.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    x = torch.randn(1, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    assert np.allclose(block(x)[0].detach(), residual_slowly(block, x[0].numpy()), atol=1e-5)
    assert torch.equal(x, kept), "the ReLUs work in place, but not on the input"


def test_feed_back_reaches_the_next_stack():
    "features and heatmaps, each by itself, change what the second stack says; the last stack changes nothing before it."
    model, image = loud(StackedHourglass(2, 4, 8, 1, 2)), torch.rand(1, 3, 8, 8)
    first, second = (scales[0] for scales in model(image))
    for name in ("feed_features", "feed_heatmaps"):
        cut = copy.deepcopy(model)
        getattr(cut.stacks[0], name).weight.data.zero_()
        outputs = cut(image)
        assert torch.equal(outputs[0][0], first) and not torch.allclose(outputs[1][0], second)
    for name in ("feed_features", "feed_heatmaps"): getattr(model.stacks[0], name).weight.data.zero_()
    alone = model.stacks[1](model.stem(4 * image - 2))[2]            # what is fed back is added to what the first stack saw
    assert torch.allclose(model(image)[1][0], alone, atol=1e-5)


def test_images_are_centred_inside():
    "A grey of one half, without biases, is an answer of zeros: no edge is made at the border of the picture."
    model = loud(StackedHourglass(1, 3, 8, 1, 2))
    assert model(torch.full((1, 3, 16, 16), 0.5))[0][0].abs().max() == 0
    assert model(torch.full((1, 3, 16, 16), 0.4))[0][0].abs().max() > 0


# --- memory layout and precision --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size, stride", [(64, 4), (32, 2)])
def test_everything_stays_in_channels_last(size, stride):
    "From a plain NCHW image on, every map on the way, that of 1x1 included."
    model, strangers = StackedHourglass(2, 16, 16, 4, stride), []

    def look(name):   # a forward hook that remembers whose output is laid out otherwise
        def hook(module, inputs, output):
            if isinstance(output, torch.Tensor) and not output.is_contiguous(memory_format=torch.channels_last): strangers.append(name)
        return hook
    for name, module in model.named_modules(): module.register_forward_hook(look(name))
    model.stem.register_forward_pre_hook(lambda module, inputs: look("image")(module, None, inputs[0]))
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.ndim == 4)
    image = torch.rand(2, 3, size, size)
    assert image.is_contiguous()
    heatmaps = model(image)[-1][0]
    assert heatmaps.is_contiguous(memory_format=torch.channels_last) and not strangers


def test_layout_does_not_change_the_numbers():
    model, images = loud(StackedHourglass(2, 16, 16, 2, 4)), torch.rand(2, 3, 32, 32)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    assert torch.allclose(model(images)[1][0], plain(images)[1][0], rtol=1e-3, atol=1e-4)
    assert torch.equal(model(images)[1][0], model(images.contiguous(memory_format=torch.channels_last))[1][0])


def test_bf16_autocast():
    model = loud(StackedHourglass(2, 16, 16, 2, 4)).train()
    images, target = torch.rand(4, 3, 32, 32), torch.rand(4, 16, 8, 8)
    exact = heatmap_loss(model(images)[1][0], target)
    with torch.autocast("cpu", torch.bfloat16): heatmaps = model(images)[1][0]
    loss = heatmap_loss(heatmaps, target)
    assert heatmaps.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert abs(loss / exact - 1) < 0.1
    loss.backward()
    used = [p for name, p in model.named_parameters() if not name.startswith("stacks.0.head")]
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in used)


# --- weights ----------------------------------------------------------------------------------------------------------------------

def test_every_parameter_has_a_gradient_from_the_first_step():
    model = StackedHourglass(3, 16, 16, 3, 4).eval()
    sum(heatmap_loss(scales[0], torch.rand(2, 16, 16, 16)) for scales in model(torch.rand(2, 3, 64, 64))).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert not silent


def test_the_same_seed_gives_the_same_weights_and_leaves_other_random_numbers_alone():
    a, b, c = (StackedHourglass(2, 4, 8, 1, 2, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)
    model = StackedHourglass(2, 4, 8, 1, 2)
    for p in model.parameters(): p.data.fill_(7)
    model(torch.rand(2, 3, 8, 8))                                    # also the running statistics are spoilt
    state = torch.get_rng_state()
    initialise(model, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a[k], v) for k, v in model.state_dict().items())


def test_spread_of_the_weights():
    model = StackedHourglass(2, 16, 64, 2, 4)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d): continue
        relative = module.weight.std().item() * module.weight[0].numel() ** 0.5
        wanted = 0.01 if name.split(".")[-1] in ("conv3", "head", "feed_features", "feed_heatmaps") else 1
        assert abs(relative / wanted - 1) < 0.15, name
        assert not module.bias.any()
    quiet = {part for name, _ in model.named_modules() for part in name.split(".")} & QUIET
    assert quiet == QUIET - {"heads"}                                # what chapter 04 will call its heads


@pytest.fixture(scope="module")
def batches():
    people = People("plain", size=64)
    return [people.batch(range(8 * i, 8 * i + 8)) for i in range(16)]


def losses(model, batches, lr=4e-3):
    "Per step, the mean loss of the stacks relative to that of an answer of zeros."
    optimiser, result = torch.optim.AdamW(model.parameters(), lr=lr), []
    for batch in batches:
        target = encode(to_map(batch.joints, 4), batch.visible, 16)
        per_stack = [heatmap_loss(scales[0], target, batch.visible) for scales in model(batch.images)]
        optimiser.zero_grad(); sum(per_stack).backward(); optimiser.step()
        result.append(sum(per_stack).item() / len(per_stack) / float(heatmap_loss(torch.zeros_like(target), target)))
    return np.array(result)


def test_the_first_loss_is_that_of_an_answer_of_zeros_for_the_original_too(batches):
    batch = batches[0]
    target = encode(to_map(batch.joints[:2], 4), batch.visible[:2], 16)
    zero = heatmap_loss(torch.zeros_like(target), target)
    with torch.no_grad(): outputs = StackedHourglass(8, depth=2)(batch.images[:2])
    assert all(abs(heatmap_loss(scales[0], target) / zero - 1) < 0.05 for scales in outputs)


def test_it_learns_from_the_first_steps_and_carelessness_does_not(batches):
    with_care = losses(StackedHourglass(2, 16, 16, 2, 4), batches)
    careless = StackedHourglass(2, 16, 16, 2, 4)
    torch.manual_seed(0)
    for module in careless.modules():
        if isinstance(module, nn.Conv2d): module.reset_parameters()
    without = losses(careless, batches)
    assert abs(with_care[0] - 1) < 0.05 and with_care[-5:].mean() < 0.95
    assert without[0] > 2 and without[-5:].mean() > 1


def test_state_survives_a_file():
    model = StackedHourglass(2, 4, 8, 2, 2).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file); file.seek(0)
    again = StackedHourglass(2, 4, 8, 2, 2, seed=9).eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(model(image)[1][0], again(image)[1][0])


# --- bad input --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape, words", [
    ((1, 3, 100, 64), "images of 100x64 pixels.*multiples of 64.*128x64 would do"),
    ((1, 3, 64, 300), "images of 64x300 pixels.*multiples of 64.*64x320 would do"),
    ((1, 3, 10, 10), "images of 10x10 pixels.*64x64 would do"),
    ((1, 3, 0, 64), "images of 0x64 pixels.*64x64 would do"),
    ((3, 64, 64), r"\(3, 64, 64\).*expected \(batch, 3, height, width\)"),
    ((1, 1, 64, 64), r"\(1, 1, 64, 64\).*expected \(batch, 3, height, width\)"),
    ((1, 64, 64, 3), r"\(1, 64, 64, 3\).*expected \(batch, 3, height, width\)"),
])
def test_wrong_images_are_refused(shape, words):
    with pytest.raises(ValueError, match=words): StackedHourglass(1, width=8, depth=4, stride=4)(torch.zeros(shape))


@quick
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 4), st.sampled_from([2, 4]))
def test_the_size_that_is_named_would_do(height, width, depth, stride):
    from msspose.hourglass import check_images

    multiple = stride * 2 ** depth
    try: check_images(torch.zeros(1, 3, height, width), multiple)
    except ValueError as error:
        named = str(error).split("; ")[1].split(" ")[0].split("x")
        assert height % multiple or width % multiple
        check_images(torch.zeros(1, 3, *map(int, named)), multiple)
    else: assert height % multiple == width % multiple == 0


def test_bytes_are_refused():
    with pytest.raises(TypeError, match=r"uint8: expected floats in \[0, 1\]; pass images / 255"):
        StackedHourglass(1, width=8, depth=1)(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


@pytest.mark.parametrize("wrong, words", [
    (dict(n_stacks=0), "n_stacks=0: has to be at least 1"), (dict(n_joints=0), "n_joints=0"), (dict(depth=0), "depth=0"),
    (dict(width=-4), "width=-4"), (dict(width=30), "width=30: has to be a multiple of 4; 32 would do"),
    (dict(stride=8), "stride=8: has to be 4, as in the original, or 2"),
])
def test_wrong_networks_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words): StackedHourglass(**{**dict(n_stacks=1, width=8, depth=1), **wrong})


# --- the loss ---------------------------------------------------------------------------------------------------------------------

def loss_slowly(pred, target, visible, mean=False) -> float:
    "Equation 1, squared, with loops; joints that are not annotated weigh nothing."
    B, N, h, w = pred.shape
    total = 0.0
    for b in range(B):
        for n in range(N):
            if visible[b, n] == 0: continue
            square = sum((float(pred[b, n, y, x]) - float(target[b, n, y, x])) ** 2 for y in range(h) for x in range(w))
            total += (square / (h * w) if mean else square) / N
    return total / B


@quick
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000), st.booleans())
def test_loss_against_loops(B, N, h, w, seed, mean):
    generator = torch.Generator().manual_seed(seed)
    pred, target = torch.randn(2, B, N, h, w, generator=generator)
    visible = torch.randint(0, 3, (B, N), generator=generator, dtype=torch.uint8)
    got = heatmap_loss(pred, target, visible, reduction="mean" if mean else "paper")
    assert np.isclose(float(got), loss_slowly(pred, target, visible, mean), rtol=1e-4, atol=1e-6)


def test_loss_ignores_what_is_not_annotated_and_counts_what_is_occluded():
    pred, target = torch.rand(2, 3, 4, 4).requires_grad_(), torch.rand(2, 3, 4, 4)
    visible = torch.tensor([[0, 1, 2], [2, 0, 1]], dtype=torch.uint8)
    heatmap_loss(pred, target, visible).backward()
    assert torch.equal(pred.grad.abs().amax((2, 3)) > 0, visible > 0)
    assert torch.equal(heatmap_loss(pred, target), heatmap_loss(pred, target, torch.ones(2, 3)))
    assert heatmap_loss(pred, target, torch.zeros(2, 3)) == 0


def test_loss_is_computed_in_float32():
    "In bf16 the sum over 64x64 pixels would stop growing: it has three digits."
    pred, target = torch.rand(2, 2, 1, 64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = heatmap_loss(pred, target)
    assert loss.dtype == torch.float32
    assert np.isclose(loss.item(), (pred.double() - target.double()).square().sum((-2, -1)).mean().item(), rtol=1e-5)


@pytest.mark.parametrize("arguments, words", [
    ((torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8)), r"\(1, 2, 4, 4\), targets of shape \(1, 2, 8, 8\)"),
    ((torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), torch.zeros(1, 3)), r"visible of shape \(1, 3\): expected \(1, 2\)"),
    ((torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4), None, "sum"), "reduction='sum': has to be"),
])
def test_wrong_losses_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words): heatmap_loss(*arguments)


# --- the exercises of the chapter -------------------------------------------------------------------------------------------------

def field(layers, order="field first", start=1, add=lambda kernel: kernel - 1):
    seen, distance = start, 1
    for kernel, stride in layers:
        if order == "distance first": distance *= stride
        seen += add(kernel) * distance
        if order == "field first": distance *= stride
    return seen


@pytest.mark.parametrize("name, answer, right", [
    ("receptive_field", field, True),
    ("receptive_field", lambda layers: field(layers, "distance first"), False),
    ("receptive_field", lambda layers: field(layers, "never"), False),
    ("receptive_field", lambda layers: field(layers, start=0), False),
    ("receptive_field", lambda layers: field(layers, add=lambda kernel: kernel), False),
    ("receptive_field", lambda layers: field(layers, add=lambda kernel: 2 * (kernel // 2)), False),
    ("cost_of_zeros", 12.57, True), ("cost_of_zeros", 12.5, True), ("cost_of_zeros", 6.28, False), ("cost_of_zeros", 3.14, False),
    ("cost_of_zeros", "12.57", False),
])
def test_exercises_tell_right_from_wrong(name, answer, right):
    verdict = judge(EXERCISES[name], answer)
    assert (verdict == "right") == right and (right or verdict.startswith("not yet"))
