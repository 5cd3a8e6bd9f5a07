"Eq. 2: against loops, its identities, what it cannot see, its operations, and what it refuses."
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from remembered import as_remembered
from torch.utils._python_dispatch import TorchDispatchMode

from msspose.checks import EXERCISES, judge
from msspose.heatmaps import encode, pyramid
from msspose.skeleton import COCO, FLIC, LSP, MPII, standing
from msspose.structure import group_matrix, multiscale_structure_loss, structure_aware_loss
from msspose.supervision import MSSNet, multiscale_loss

quick = settings(max_examples=40, deadline=None)
COMBINE = ("sum", "max", "concat")


# --- a slow reference, written from the paper -----------------------------------------------------------------------------------------

def combination(maps: list[torch.Tensor], combine: str) -> torch.Tensor:
    if combine == "concat": return torch.cat(maps)
    total = maps[0]
    for one in maps[1:]: total = total + one if combine == "sum" else torch.where(one > total, one, total)
    return total


def eq2_slowly(pred, target, groups, alpha, combine, visible, mean=False):
    "Eq. 2 with its squares, person by person, joint by joint, member by member, in float64; who is not annotated takes part in nothing."
    total = torch.zeros((), dtype=torch.float64)
    for scales in pred:
        for P, G in zip(scales, target, strict=False):
            P, G, (B, N, h, w) = P.double(), G.double(), P.shape
            for b in range(B):
                value = torch.zeros((), dtype=torch.float64)
                for n in range(N):
                    if visible[b, n]: value = value + (P[b, n] - G[b, n]).square().sum() / N
                    members = [m for m in groups[n] if visible[b, m]]
                    if not members: continue
                    residual = combination([P[b, m] for m in members], combine) - combination([G[b, m] for m in members], combine)
                    value = value + alpha * residual.square().sum()
                total = total + (value / (h * w) if mean else value) / B
    return total


@st.composite
def cases(draw, joints=(1, 7)):
    "Stacks of pyramids of noise, targets with one scale too many at times, visibilities, groups."
    n, batch, n_stacks, n_scales = draw(st.integers(*joints)), draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    h, w = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    def maps(k): return torch.randn(batch, n, h * 2 ** (n_scales - k), w * 2 ** (n_scales - k), generator=generator)
    pred = [[maps(k) for k in range(n_scales)] for _ in range(n_stacks)]
    target = [maps(k) for k in range(n_scales + draw(st.integers(0, 1)))]
    visible = torch.randint(0, 3, (batch, n), generator=generator, dtype=torch.uint8)
    groups = tuple(tuple(draw(st.permutations(sorted({i, *draw(st.sets(st.integers(0, n - 1), max_size=4))})))) for i in range(n))
    return pred, target, groups, visible


def leaves(pred): return [[maps.clone().requires_grad_() for maps in scales] for scales in pred]
def gradients(pred): return [maps.grad for scales in pred for maps in scales]
def apart(got, expected): return float((got.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-12))


@quick
@given(cases(), st.floats(0, 2), st.sampled_from(COMBINE), st.booleans())
def test_against_loops_with_gradients(case, alpha, combine, mean):
    pred, target, groups, visible = case
    slow, fast = leaves(pred), leaves(pred)
    expected = eq2_slowly(slow, target, groups, alpha, combine, visible, mean)
    got = multiscale_structure_loss(fast, target, groups, alpha, combine, visible, "mean" if mean else "paper")
    assert got.dtype == torch.float32 and got.shape == ()
    assert math.isclose(got.item(), expected.item(), rel_tol=1e-6, abs_tol=1e-9)
    if not visible.any(): return
    expected.backward(); got.backward()
    for g, e in zip(gradients(fast), gradients(slow), strict=True): assert apart(g, e) < 1e-6


@quick
@given(cases(), st.sampled_from(COMBINE))
def test_default_alpha_is_one_over_the_joints_and_default_visible_is_all(case, combine):
    pred, target, groups, visible = case
    n, everybody = len(groups), torch.ones_like(visible)
    assert math.isclose(multiscale_structure_loss(pred, target, groups, combine=combine),
                        eq2_slowly(pred, target, groups, 1 / n, combine, everybody), rel_tol=1e-6)


@quick
@given(cases(), st.sampled_from(COMBINE))
def test_one_scale_is_the_same_function(case, combine):
    pred, target, groups, visible = case
    one = structure_aware_loss(pred[0][0], target[0], groups, 0.3, combine, visible)
    assert one == multiscale_structure_loss([[pred[0][0]]], target, groups, 0.3, combine, visible)
    parts = [structure_aware_loss(p, t, groups, 0.3, combine, visible) for scales in pred for p, t in zip(scales, target, strict=False)]
    assert math.isclose(sum(parts), multiscale_structure_loss(pred, target, groups, 0.3, combine, visible), rel_tol=1e-6, abs_tol=1e-9)


# --- identities -----------------------------------------------------------------------------------------------------------------------

@quick
@given(cases(), st.sampled_from(COMBINE), st.sampled_from(("paper", "mean")))
def test_alpha_0_is_eq_1(case, combine, reduction):
    pred, target, groups, visible = case
    first = multiscale_loss(pred, target, visible, reduction)
    assert multiscale_structure_loss(pred, target, groups, 0, combine, visible, reduction) == first
    nearly = multiscale_structure_loss(pred, target, groups, 1e-12, combine, visible, reduction)   # not by the shortcut
    assert math.isclose(nearly, first, rel_tol=1e-6, abs_tol=1e-9)


@quick
@given(cases(), st.floats(0.01, 2))
def test_concat_is_a_reweighting(case, alpha):
    pred, target, groups, visible = case
    n, got, expected = len(groups), leaves(pred), leaves(pred)
    weight = torch.tensor([1 / n + alpha * sum(m in group for group in groups) for m in range(n)]) * (visible > 0)
    pairs = [(p, t) for scales in expected for p, t in zip(scales, target, strict=False)]
    loss = sum((weight * (p - t).square().sum((-2, -1))).sum(-1).mean() for p, t in pairs)
    ours = multiscale_structure_loss(got, target, groups, alpha, "concat", visible)
    assert math.isclose(ours.item(), loss.item(), rel_tol=1e-6, abs_tol=1e-9)
    ours.backward(); loss.backward()
    for g, e in zip(gradients(got), gradients(expected), strict=True): assert apart(g, e) < 1e-6


@quick
@given(cases(), st.sampled_from(COMBINE), st.floats(0, 2))
def test_perfect_prediction_costs_0(case, combine, alpha):
    _, target, groups, visible = case
    pred = leaves([target, target])
    loss = multiscale_structure_loss(pred, target, groups, alpha, combine, visible)
    assert loss == 0
    loss.backward()
    assert all((g == 0).all() for g in gradients(pred))


@quick
@given(cases(), st.sampled_from(COMBINE), st.floats(0, 2))
def test_zeros_cost_the_energy_of_the_target(case, combine, alpha):
    _, target, groups, visible = case
    target = [maps.abs() for maps in target]              # the maximum of zeros and the maximum of the target are then both known
    energy, n = 0.0, len(groups)
    for maps in target:
        for b, seen in enumerate(visible > 0):
            there = maps[b] * seen[:, None, None]
            energy += float(there.square().sum()) / n / len(visible)
            for group in groups:
                members = there[list(group)]
                combined = members if combine == "concat" else members.sum(0) if combine == "sum" else members.amax(0)
                energy += alpha * float(combined.square().sum()) / len(visible)
    zeros = [[torch.zeros_like(maps) for maps in target]]
    assert math.isclose(multiscale_structure_loss(zeros, target, groups, alpha, combine, visible), energy, rel_tol=1e-5, abs_tol=1e-9)


def renamed(groups, order): return tuple(tuple(order[m] for m in groups[order[n]]) for n in range(len(groups)))


@pytest.mark.parametrize("skeleton", [MPII, LSP, FLIC, COCO], ids=lambda s: s.name)
@pytest.mark.parametrize("combine", COMBINE)
def test_flipping_pictures_and_joints_changes_nothing_with_groups_of_a_skeleton(skeleton, combine):
    "Its tables are their own mirror images."
    generator = torch.Generator().manual_seed(1)
    pred, target = torch.randn(2, 2, skeleton.n_joints, 6, 5, generator=generator)
    visible = torch.randint(0, 3, (2, skeleton.n_joints), generator=generator)
    flip = list(skeleton.flip)
    for groups in (skeleton.groups, skeleton.neighbourhoods):
        before = structure_aware_loss(pred, target, groups, 0.2, combine, visible)
        after = structure_aware_loss(pred[:, flip].flip(-1), target[:, flip].flip(-1), groups, 0.2, combine, visible[:, flip])
        assert math.isclose(before, after, rel_tol=1e-6)


@quick
@given(cases((2, 7)), st.sampled_from(COMBINE))
def test_flipping_pictures_joints_and_groups_together_changes_nothing(case, combine):
    pred, target, groups, visible = case
    order = [n ^ 1 if n ^ 1 < len(groups) else n for n in range(len(groups))]     # pairs 0-1, 2-3, ...; its own inverse
    def mirror(maps): return maps[:, order].flip(-1)
    before = multiscale_structure_loss(pred, target, groups, 0.2, combine, visible)
    after = multiscale_structure_loss([[mirror(m) for m in scales] for scales in pred], [mirror(m) for m in target],
                                      renamed(groups, order), 0.2, combine, visible[:, order])
    assert math.isclose(before, after, rel_tol=1e-6, abs_tol=1e-9)


# --- what it sees and what it does not ------------------------------------------------------------------------------------------------

def spots(size=32): return encode(torch.from_numpy(standing(MPII, size))[None], torch.ones(1, 16), size)


def second_term(pred, target, combine, groups=MPII.groups):
    return float(structure_aware_loss(pred, target, groups, 1.0, combine) - structure_aware_loss(pred, target, groups, 0.0))


@pytest.mark.parametrize("pair", [(0, 1), (4, 5)])
def test_ankle_and_knee_swapped_are_seen_by_concat_only(pair):
    "Every group of the paper that holds the ankle holds the knee, and the reverse."
    target, order = spots(), list(range(16))
    order[pair[0]], order[pair[1]] = pair[::-1]
    wrong = target[:, order]
    first = float(structure_aware_loss(wrong, target, MPII.groups, 0))
    assert first > 0.5
    assert abs(second_term(wrong, target, "sum")) < 1e-4 and abs(second_term(wrong, target, "max")) < 1e-4
    assert second_term(wrong, target, "concat") > 10 * first


@quick
@given(st.data())
def test_a_swap_inside_a_group_leaves_that_group_unmoved(data):
    target = torch.randn(1, 16, 5, 5, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 100))))
    n = data.draw(st.integers(0, 15))
    i, j = data.draw(st.permutations(MPII.groups[n]))[:2]
    order = list(range(16)); order[i], order[j] = j, i
    only = tuple(MPII.groups[n] if k == n else (k,) for k in range(16))           # no other group looks at two joints
    alone = tuple((k,) for k in range(16))
    for combine in ("sum", "max"):
        rest = second_term(target[:, order], target, "sum", alone)
        own = float((target[0, i] - target[0, j]).square().sum())
        mine = own if n in (i, j) else 0                                          # what group n, were it alone, would have said
        assert math.isclose(second_term(target[:, order], target, combine, only), rest - mine, rel_tol=1e-4, abs_tol=1e-3)


def test_agreeing_on_a_wrong_place_is_dearer_than_missing():
    target = spots()
    missing, agreeing = target.clone(), target.clone()
    missing[:, [14, 15]] = 0
    agreeing[:, [14, 15]] = target[:, 0:1]                                        # both at the ankle
    assert second_term(agreeing, target, "sum") > 2.5 * second_term(missing, target, "sum")
    assert math.isclose(second_term(agreeing, target, "concat"), 2 * second_term(missing, target, "concat"), rel_tol=0.05)


def test_gradient_flows_from_one_joint_to_those_that_share_a_group():
    target = spots()
    for table in (MPII.groups, MPII.neighbourhoods):
        for n in range(16):
            pred = target.clone(); pred[:, n] = 0; pred.requires_grad_()
            structure_aware_loss(pred, target, table).backward()
            pulled = (pred.grad.abs().amax((0, 2, 3)) > 0).nonzero().flatten().tolist()
            assert pulled == sorted({m for group in table if n in group for m in group})


@quick
@given(cases((2, 7)), st.sampled_from(COMBINE), st.integers(0, 10_000))
def test_a_joint_without_annotation_takes_part_in_nothing(case, combine, seed):
    pred, target, groups, visible = case
    visible[:, 0], visible[:, 1] = 0, 1
    first = leaves(pred)
    loss = multiscale_structure_loss(first, target, groups, 0.5, combine, visible)
    loss.backward()
    for g in gradients(first):
        assert (g[visible == 0] == 0).all(), "no gradient, and not a small one"
        assert (g[:, 1].abs().amax((-2, -1)) > 0).all(), "occluded is annotated"
    generator = torch.Generator().manual_seed(seed)
    def disturbed(maps): return torch.where((visible == 0)[..., None, None], torch.randn(maps.shape, generator=generator), maps)
    other = leaves([[disturbed(maps) for maps in scales] for scales in pred])
    again = multiscale_structure_loss(other, target, groups, 0.5, combine, visible)
    again.backward()
    assert math.isclose(loss.item(), again.item(), rel_tol=1e-6)
    for a, b in zip(gradients(first), gradients(other), strict=True): assert torch.equal(a, b)


def test_occluded_counts_like_visible():
    pred, target = torch.randn(2, 2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    for combine in COMBINE:
        values = {structure_aware_loss(pred, target, MPII.groups, combine=combine, visible=v).item()
                  for v in (torch.ones(2, 16), torch.full((2, 16), 2, dtype=torch.uint8), torch.ones(2, 16, dtype=torch.bool))}
        assert len(values) == 1
        assert structure_aware_loss(pred, target, MPII.groups, combine=combine, visible=torch.zeros(2, 16)) == 0


# --- layout, precision, autograd ------------------------------------------------------------------------------------------------------

def like_a_network(dtype=torch.float32, sizes=(16, 8, 4, 2), n_stacks=8, batch=2):
    generator = torch.Generator().manual_seed(0)
    pred = [[torch.randn(batch, 16, s, s, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
             for s in sizes] for _ in range(n_stacks)]
    return pred, [torch.rand(batch, 16, s, s, generator=generator) for s in sizes]


@pytest.mark.parametrize("combine", COMBINE)
def test_layout_changes_nothing_and_gradients_keep_it(combine):
    pred, target = like_a_network()
    plain = [[maps.detach().contiguous().requires_grad_() for maps in scales] for scales in pred]
    one, two = (multiscale_structure_loss(p, target, MPII.groups, combine=combine) for p in (pred, plain))
    assert math.isclose(one.item(), two.item(), rel_tol=1e-6)
    one.backward(); two.backward()
    for a, b in zip(gradients(pred), gradients(plain), strict=True): assert apart(a, b) < 1e-6
    if combine != "max": assert all(g.is_contiguous(memory_format=torch.channels_last) for g in gradients(pred))


@pytest.mark.parametrize("combine", COMBINE)
def test_half_precision_in_float32_out(combine):
    pred, target = like_a_network(torch.bfloat16)
    exact = [[maps.detach().float().requires_grad_() for maps in scales] for scales in pred]
    expected = multiscale_structure_loss(exact, target, MPII.groups, combine=combine)
    with torch.autocast("cpu", torch.bfloat16): inside = multiscale_structure_loss(pred, target, MPII.groups, combine=combine)
    outside = multiscale_structure_loss(pred, target, MPII.groups, combine=combine)
    assert inside.dtype == torch.float32 and inside == outside and math.isclose(outside.item(), expected.item(), rel_tol=1e-6)
    inside.backward(); expected.backward()
    for g, e in zip(gradients(pred), gradients(exact), strict=True):
        assert g.dtype == torch.bfloat16 and apart(g, e) < 4e-3


def test_of_a_real_network_under_autocast():
    model = MSSNet(n_stacks=2, width=8, depth=2, stride=2)
    target = pyramid(torch.rand(2, 16, 2) * 16, torch.ones(2, 16), 16, n_scales=2)
    with torch.autocast("cpu", torch.bfloat16): pred = model(torch.rand(2, 3, 32, 32))
    multiscale_structure_loss(pred, target, MPII.groups).backward()
    silent = [name for name, p in model.named_parameters() if "heads" in name and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert not silent


@pytest.mark.parametrize("combine", COMBINE)
def test_inputs_stay_as_they_are_and_targets_may_learn(combine):
    pred, target = torch.randn(2, 2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    for layout in (torch.contiguous_format, torch.channels_last):
        p, t = (m.clone(memory_format=layout).requires_grad_() for m in (pred, target))
        kept = p.detach().clone(), t.detach().clone()
        structure_aware_loss(p, t, MPII.groups, combine=combine).backward()
        assert torch.equal(p.detach(), kept[0]) and torch.equal(t.detach(), kept[1])
        if combine != "max": assert torch.allclose(t.grad, -p.grad)


def test_way_back_twice_is_twice():
    pred, target = (m.clone() for m in torch.randn(2, 2, 16, 4, 4, generator=torch.Generator().manual_seed(0)))
    pred.requires_grad_()
    loss = structure_aware_loss(pred, target, MPII.groups)
    loss.backward(retain_graph=True); once = pred.grad.clone()
    (3 * loss).backward()
    assert torch.allclose(pred.grad, 4 * once)


@pytest.mark.parametrize("combine", ["sum", "concat"])
def test_second_derivative(combine):
    "For a penalty on gradients, say: the way back that is written by hand can itself be differentiated."
    pred, target = (m.clone() for m in torch.randn(2, 2, 16, 3, 3, generator=torch.Generator().manual_seed(0)))
    results = []
    for loss in (lambda p: structure_aware_loss(p, target, MPII.groups, 0.3, combine) ** 2,
                 lambda p: eq2_slowly([[p]], [target], MPII.groups, 0.3, combine, torch.ones(2, 16)) ** 2):
        p = pred.clone().requires_grad_()
        gradient, = torch.autograd.grad(loss(p), p, create_graph=True)
        results.append(torch.autograd.grad(gradient.square().sum(), p)[0])
    assert apart(*results) < 1e-5


def test_no_gradient_wanted():
    pred, target = torch.rand(2, 2, 16, 4, 4)
    with torch.inference_mode(): inside = structure_aware_loss(pred, target, MPII.groups)
    assert inside == structure_aware_loss(pred, target, MPII.groups)


class Count(TorchDispatchMode):
    "What PyTorch dispatches, views included."
    def __init__(self): super().__init__(); self.operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_400_operations_for_8_stacks_and_4_scales(dtype):
    pred, target = like_a_network(dtype)
    visible, counts = torch.ones(2, 16, dtype=torch.uint8), []
    for groups in (MPII.groups, MPII.neighbourhoods):
        with Count() as count:   # to the predictions and no further: a network would take it from there
            torch.autograd.grad(multiscale_structure_loss(pred, target, groups, visible=visible), sum(pred, []))
        counts.append(count.operations)
    assert 64 < counts[0] < 400 and counts[0] == counts[1], "no loop over groups or members"


# --- the graph ------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("skeleton", [MPII, LSP, FLIC, COCO], ids=lambda s: s.name)
def test_matrix_of_every_skeleton(skeleton):
    for table in (skeleton.groups, skeleton.neighbourhoods):
        matrix = group_matrix(table, skeleton.n_joints)
        assert matrix.dtype == torch.float32 and matrix.shape == (skeleton.n_joints,) * 2
        assert [tuple(row.nonzero().flatten().tolist()) for row in matrix] == [tuple(sorted(group)) for group in table]
        assert (matrix.diag() == 1).all()
    assert torch.equal(matrix, matrix.T), "neighbours are neighbours both ways"


def test_blind_directions():
    assert torch.linalg.matrix_rank(group_matrix(MPII.groups, 16)) == 13
    assert torch.linalg.matrix_rank(group_matrix(MPII.neighbourhoods, 16)) == 16


def test_groups_may_be_lists():
    pred, target = torch.rand(2, 1, 16, 4, 4)
    assert structure_aware_loss(pred, target, list(map(list, MPII.groups))) == structure_aware_loss(pred, target, MPII.groups)


# --- bad input ------------------------------------------------------------------------------------------------------------------------

P, G = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
S = ((0, 1), (0, 1, 2), (1, 2))


def holed(value): m = P.clone(); m[1, 2, 0, 3] = value; return m


@pytest.mark.parametrize("arguments, words", [
    (dict(target=torch.zeros(2, 3, 8, 8)), r"\(2, 3, 4, 4\).*\(2, 3, 8, 8\).*agree"),
    (dict(target=torch.zeros(2, 4, 4, 4)), r"\(2, 3, 4, 4\).*\(2, 4, 4, 4\).*agree"),
    (dict(pred=P[0], target=G[0]), r"\(3, 4, 4\): expected \(B, N, h, w\); one person is heatmaps\[None\]"),
    (dict(target=G.bool()), "targets of type torch.bool: expected floating point.*float"),
    (dict(target=G.byte()), "targets of type torch.uint8: expected floating point"),
    (dict(pred=P.long()), "heatmaps of type torch.int64: expected floating point"),
    (dict(groups=S[:2]), "groups: 2 for 3 heatmaps.*skeleton"),
    (dict(groups=(*S, (0,))), "groups: 4 for 3 heatmaps"),
    (dict(groups=((0, 1), (1, 3), (2,))), r"group 1, \(1, 3\), names joint 3; joints count from 0 to 2"),
    (dict(groups=((0, -1), (1,), (2,))), r"group 0, \(0, -1\), names joint -1"),
    (dict(groups=((0,), (1, "2"), (2,))), "names joint 2"),
    (dict(groups=((0, 0), (1,), (2,))), r"group 0, \(0, 0\), names a joint twice"),
    (dict(groups=((0,), (0, 2), (2,))), r"group 1, \(0, 2\), does not hold its own joint 1; add it"),
    (dict(groups=((0,), (), (2,))), r"group 1, \(\), does not hold its own joint 1"),
    (dict(alpha=-0.1), "alpha=-0.1: a weight is 0 or more.*1 / 3"),
    (dict(alpha=float("nan")), "alpha=nan"), (dict(alpha=float("inf")), "alpha=inf"),
    (dict(combine="mean"), 'combine=\'mean\': has to be "sum", "max" or "concat"'),
    (dict(combine=None), "combine=None"),
    (dict(visible=torch.ones(2, 4)), r"visible of shape \(2, 4\): expected \(2, 3\)"),
    (dict(visible=torch.ones(3)), r"visible of shape \(3,\): expected \(2, 3\)"),
    (dict(reduction="sum"), "reduction='sum': has to be"),
    (dict(pred=holed(float("nan"))), "prediction, stack 0, scale 0: the map of joint 2 of person 1 holds NaN or infinity"),
    (dict(pred=holed(float("inf"))), "prediction.*joint 2 of person 1"),
    (dict(target=holed(float("nan"))), "target, scale 0: the map of joint 2 of person 1 holds NaN"),
])
@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("alpha", [None, 0])
def test_bad_input_gets_its_sentence(arguments, words, combine, alpha):
    "Also where alpha is 0 and the groups would not be looked at."
    given = {**dict(pred=P, target=G, groups=S, alpha=alpha, combine=combine), **arguments}
    with pytest.raises(ValueError, match=words): structure_aware_loss(**given)


@pytest.mark.parametrize("pred, target, words", [
    (P, [G], "expected a list over stacks of lists over scales"), ([P], [G], "expected a list over stacks of lists over scales"),
    ([], [G], "list over stacks"), ([[P]], G, "target: one tensor"),
    ([[]], [G], "stack 0 has 0 scales"), ([[P, P]], [G], "stack 0 has 2 scales, the target 1"),
    ([[P], [P[:1]]], [G], "stack 1, scale 0: heatmaps of shape"),
    ([[P, torch.zeros(2, 4, 2, 2)]], [G, torch.zeros(2, 4, 2, 2)], r"stack 0, scale 1: .*\(2, 4, 2, 2\), the first are \(2, 3, 4, 4\)"),
    ([[P, torch.zeros(2, 3, 2, 2, dtype=torch.int32)]], [G, torch.zeros(2, 3, 2, 2)], "stack 0, scale 1: heatmaps of type torch.int32"),
])
def test_bad_stacks_get_their_sentence(pred, target, words):
    with pytest.raises(ValueError, match=words): multiscale_structure_loss(pred, target, S)


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("alpha", [None, 0])
@pytest.mark.parametrize("spare", [torch.zeros(2, 4, 2, 2), torch.zeros(2, 3, 2, 2, dtype=torch.uint8), torch.zeros(3)],
                         ids=["other joints", "whole numbers", "no maps"])
def test_targets_of_scales_that_nobody_predicts_are_not_looked_at(combine, alpha, spare):
    pred, target = [[torch.ones(2, 3, 4, 4)]], [torch.zeros(2, 3, 4, 4)]
    expected = multiscale_structure_loss(pred, target, S, alpha, combine)
    assert multiscale_structure_loss(pred, [*target, spare], S, alpha, combine) == expected
    deeper = [*pred, [pred[0][0], spare]]   # one stack that predicts it is enough
    if spare.ndim == 4:
        with pytest.raises(ValueError, match="scale 1"): multiscale_structure_loss(deeper, [*target, spare], S, alpha, combine)


@pytest.mark.parametrize("combine", COMBINE)
def test_stacks_may_predict_different_numbers_of_scales(combine):
    "Each counts with what it predicts."
    dice = torch.Generator().manual_seed(0)
    few, many, target = ([torch.rand(2, 3, size, size, generator=dice) for size in sizes] for sizes in ((4,), (4, 2), (4, 2)))
    apart = sum(multiscale_structure_loss([scales], target, S, 0.3, combine) for scales in (few, many))
    assert torch.isclose(multiscale_structure_loss([few, many], target, S, 0.3, combine), apart, rtol=1e-5)


def test_nan_is_named_where_it_is():
    pred, target = like_a_network(n_stacks=2)
    pred[1][2].data[0, 5, 1, 1] = float("nan")
    with pytest.raises(ValueError, match="prediction, stack 1, scale 2: the map of joint 5 of person 0"):
        multiscale_structure_loss(pred, target, MPII.groups)


# --- the exercises of the chapter -----------------------------------------------------------------------------------------------------

def answer(residuals, groups, alpha, factor=2.0, form=lambda A: A.T @ A, first=1.0, share=True):
    A = torch.tensor([[float(m in group) for m in range(len(residuals))] for group in groups])
    return factor * (first * residuals / (len(residuals) if share else 1) + alpha * form(A) @ residuals)


@pytest.mark.parametrize("name, answer, right", [
    ("structure_gradient", answer, True),
    ("structure_gradient", lambda D, g, a: answer(D, g, a, factor=1.0), False),
    ("structure_gradient", lambda D, g, a: answer(D, g, a, form=lambda A: A @ A.T), False),
    ("structure_gradient", lambda D, g, a: answer(D, g, a, form=lambda A: A), False),
    ("structure_gradient", lambda D, g, a: answer(D, g, a, form=lambda A: (A.T @ A).diag().diag()), False),
    ("structure_gradient", lambda D, g, a: answer(D, g, a, first=0.0), False),
    ("structure_gradient", lambda D, g, a: answer(D, g, a, share=False), False),
    ("structure_gradient", lambda D, g, a: D.mul_(2), False),
    ("price_of_zeros", 3.25, True), ("price_of_zeros", 1 + 36 / 16, True), ("price_of_zeros", torch.tensor(3.27), True),
    ("price_of_zeros", 2.25, False), ("price_of_zeros", 2, False), ("price_of_zeros", 1, False), ("price_of_zeros", "3.25", False),
])
def test_exercises_tell_right_from_wrong(name, answer, right):
    verdict = judge(EXERCISES[name], answer)
    assert (verdict == "right") == right and (right or verdict.startswith("not yet"))


def test_losses_are_what_they_were():
    generator = torch.Generator().manual_seed(0)
    pred = [[torch.randn(2, 16, 8 >> k, 8 >> k, generator=generator, requires_grad=True) for k in range(2)] for _ in range(2)]
    target = [torch.randn(2, 16, 8 >> k, 8 >> k, generator=generator) for k in range(2)]
    visible = torch.randint(0, 3, (2, 16), generator=generator)
    for combine in ("concat", "sum", "max"):
        for reduction in ("paper", "mean"):
            loss = multiscale_structure_loss(pred, target, MPII.groups, visible=visible, combine=combine, reduction=reduction)
            as_remembered(f"{combine}, {reduction}", {"loss": loss.detach(), "gradient": torch.autograd.grad(loss, pred[0][0])[0]})
