"Generated people: the same for everybody, bodies that are bodies, dials that do what they say, a renderer that agrees with its definition."
import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from remembered import as_remembered

from msspose import people
from msspose.people import ELLIPSOIDS, LANDMARKS, LIMITS, POSTURES, SETS, SPLITS, Dice, Parts, People, rasterize, surface
from msspose.skeleton import MPII

DEVICES = [name for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())) if there]
joint = MPII.index


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def crowds(): return list(scenes("crowd", "test"))


@pytest.fixture(scope="module")
def bodies():
    dice = Dice(torch.arange(2000), 5)
    pose, shape = people.sample_pose(dice), people.sample_shape(dice)
    return pose, shape, *people.kinematics(pose, shape)


def scenes(name="plain", split="val", count=None, step=200, **options):
    "The scenes of a split, and how many pictures each has."
    made = People(name, split, **options)
    for first in range(0, count or len(made), step):
        seeds = made.seeds(range(first, min(first + step, count or len(made))))
        yield made.scene(seeds), len(seeds)


def pick(batch, b): return [getattr(batch, name)[b] for name in ("images", "joints", "visible", "reference")]


# the same people

@settings(max_examples=8)
@given(st.lists(st.integers(0, 999), min_size=1, max_size=5), st.sampled_from(sorted(SETS)), st.randoms())
def test_a_person_does_not_depend_on_the_batch_or_its_order(indices, name, random):
    made, mixed = People(name, "val", size=32), random.sample(indices, len(indices))
    batch, other = made.batch(indices), made.batch(torch.tensor(mixed))
    for place, i in enumerate(indices):
        for a, b in zip(pick(batch, place), pick(other, mixed.index(i)), strict=True): torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_more_pictures_than_are_painted_at_a_time():
    many, one = (People("standard", "val", size=128).batch(indices) for indices in (range(9), [8]))   # four at a time at this size
    for a, b in zip(pick(many, 8), pick(one, 0), strict=True): torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_sets_share_their_people_when_the_dials_are_off():
    batches = [People(name, "val", size=32, dials=(0, 0, 0)).batch([3, 5]) for name in SETS]
    for batch in batches[1:]: assert torch.equal(batch.images, batches[0].images) and torch.equal(batch.joints, batches[0].joints)


def test_splits_do_not_share_people():
    joints = [People("plain", split).batch(range(20)).joints for split in SPLITS]
    for a, b in itertools.combinations(joints, 2): assert (a[:, None] - b[None]).abs().amax((2, 3)).min() > 0.5
    assert (joints[0][:, None] - joints[0][None]).abs().amax((2, 3)).fill_diagonal_(9).min() > 0.5


def test_sizes_of_the_splits():
    assert len(People(split="val")) == 1000 and len(People(split="test")) == 2000
    with pytest.raises(TypeError, match="no end"): len(People(split="train"))
    assert len(People(split="train").batch([0, 10**9])) == 2


def test_whole_split_is_what_the_batches_say():
    made = People("standard", "val")
    batch = made.batch([0, 99, 100, 999])
    assert made.joints.shape == (1000, 16, 2) and made.visible.shape == (1000, 16) and made.reference.shape == (1000,)
    assert torch.equal(made.joints[[0, 99, 100, 999]], batch.joints) and torch.equal(made.visible[[0, 99, 100, 999]], batch.visible)
    assert torch.equal(made.reference[[0, 99, 100, 999]], batch.reference)


def test_form_of_a_batch():
    batch = People("crowd", "val", size=48).batch(range(12))
    B, K = 12, batch.others.shape[1]
    shapes = dict(images=(B, 3, 48, 48), joints=(B, 16, 2), visible=(B, 16), reference=(B,),
                  others=(B, K, 16, 2), others_visible=(B, K, 16), boxes=(B, 1 + K, 4))
    for name, shape in shapes.items(): assert getattr(batch, name).shape == shape, name
    assert batch.images.dtype == batch.joints.dtype == torch.float32 and batch.visible.dtype == batch.others_visible.dtype == torch.uint8
    assert batch.images.min() >= 0 and batch.images.max() <= 1 and batch.images.flatten(1).std(1).min() > 0.02
    assert set(batch.visible.unique().tolist()) <= {1, 2}
    nobody = ~batch.boxes[:, 1:].any(-1)
    assert nobody.any() and torch.equal(nobody, (batch.others_visible == 0).all(-1)) and not batch.others[nobody].any()
    assert len(batch) == B and batch.to("cpu").joints is batch.joints


# throwing dice

def test_dice_are_even_and_independent():
    throws = Dice(torch.arange(4000)).uniform(n=300)
    assert throws.min() >= 0 and throws.max() < 1 and abs(throws.mean() - 0.5) < 0.002 and abs(throws.var() - 1 / 12) < 0.001
    another = Dice(torch.arange(4000), 1).uniform(n=8)
    for a, b in (throws[:, :2].T, (throws[:-1, 0], throws[1:, 0]), (throws[:, 0], throws[:, 256]), (throws[:, 7], another[:, 7])):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.06
    normal = Dice(torch.arange(4000)).normal(2, 3, 50)
    assert abs(normal.mean() - 2) < 0.03 and abs(normal.std() - 3) < 0.03
    chosen = Dice(torch.arange(9000)).choice([1, 0, 3]).bincount(minlength=3) / 9000
    torch.testing.assert_close(chosen, torch.tensor([0.25, 0, 0.75]), atol=0.02, rtol=0)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=4), st.permutations([5, 9, -3, 2**40]))
def test_dice_throw_the_same_whoever_else_is_there(counts, seeds):
    alone, together = Dice(torch.tensor([9])), Dice(torch.tensor(seeds))
    for n in counts: assert torch.equal(alone.uniform(n=n)[0], together.uniform(n=n)[seeds.index(9)])


def test_scramble_is_a_bijection_known_from_elsewhere():
    assert people.scramble(torch.arange(100_000)).unique().numel() == 100_000

    def splitmix(x):   # the finaliser, with Python's integers
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)): x = ((x ^ x >> shift) * factor) % 2**64
        return x ^ x >> 31
    values = [0, 1, 12345, 2**62 + 7, -1, -2**63]
    assert [v % 2**64 for v in people.scramble(torch.tensor(values)).tolist()] == [splitmix(v % 2**64) for v in values]


# bodies

def test_angles_stay_within_limits(bodies):
    pose = bodies[0]
    for name, (low, high) in LIMITS.items():
        mine = [angle for key, angle in pose.items() if key.removeprefix("left_").removeprefix("right_") == name]
        assert mine and all(a.min() >= low and a.max() <= high for a in mine), name
    assert set(pose["posture"].tolist()) == set(range(len(POSTURES)))


def test_bones_are_as_long_as_the_shape_says(bodies):
    pose, shape, point, frame = bodies
    bones = ("upper_arm", "shoulder", "elbow"), ("forearm", "elbow", "wrist"), ("thigh", "hip", "knee"), ("shin", "knee", "ankle")
    for side, (bone, start, end) in itertools.product(("left", "right"), bones):
        torch.testing.assert_close((point[f"{side}_{start}"] - point[f"{side}_{end}"]).norm(dim=1), shape[bone], atol=1e-5, rtol=0)
    for turned in frame.values():
        torch.testing.assert_close(turned @ turned.transpose(1, 2), torch.eye(3).expand_as(turned), atol=1e-5, rtol=0)
    assert (point["pelvis"] == 0).all()


def test_pelvis_and_thorax_lie_between_hips_and_shoulders(bodies):
    point = bodies[2]
    for middle, part in (("pelvis", "hip"), ("thorax", "shoulder")):
        assert ((point[f"left_{part}"] + point[f"right_{part}"]) / 2 - point[middle]).norm(dim=1).max() < 0.03


def test_a_knee_bends_backward_and_an_elbow_forward():
    zero = {name: torch.zeros(1) for name in people.sample_pose(Dice(torch.arange(1)))}
    shape, z = people.sample_shape(Dice(torch.arange(1))), 2    # z grows away from the camera, which this person faces
    bent = people.kinematics(zero | {name: torch.tensor([90.0]) for name in ("left_knee", "right_elbow", "right_hip_flex")}, shape)[0]
    assert bent["left_ankle"][0, z] > 0.2 and bent["right_wrist"][0, z] < -0.1 and bent["right_knee"][0, z] < -0.2
    assert bent["left_toe"][0, 1] < bent["left_heel"][0, 1] + 0.2 and bent["right_toe"][0, z] < bent["right_heel"][0, z]
    assert bent["head_top"][0, 1] < bent["thorax"][0, 1] < 0 < bent["left_knee"][0, 1]


def test_left_is_on_the_right_of_the_picture_from_the_front_only():
    made = People("plain", "test")
    own = Dice(people.scramble(made.seeds(range(2000))), 5)      # as the module throws them
    pose = people.sample_pose(own)
    upright = (pose["roll"].abs() < 45) & (pose["bend"] < 60)
    front, back = upright & (pose["yaw"].abs() < 40), upright & ((pose["yaw"] % 360 - 180).abs() < 40)
    assert front.sum() > 400 and back.sum() > 100
    across = lambda part: made.joints[:, joint(f"left_{part}"), 0] - made.joints[:, joint(f"right_{part}"), 0]
    assert (across("hip")[front] > 0).all() and (across("hip")[back] < 0).all()
    assert (across("shoulder")[front] > 0).float().mean() > 0.97 and (across("shoulder")[back] < 0).float().mean() > 0.97


def test_a_face_is_seen_from_the_front_and_hair_from_behind():
    zero = {name: torch.zeros(2) for name in people.sample_pose(Dice(torch.arange(2)))} | {"yaw": torch.tensor([0.0, 180.0])}
    names = [row[0] for row in ELLIPSOIDS]
    ids = flat(zero, {})[1]
    for y, front in enumerate((True, False)):
        seen = {names[k - len(people.CAPSULES)] for k in ids[y].unique().tolist() if k >= len(people.CAPSULES)}
        assert {"left_pupil", "right_pupil", "nose", "mouth"} & seen == ({"left_pupil", "right_pupil", "nose", "mouth"} if front else set())
        of_head = lambda name: (ids[y] == len(people.CAPSULES) + names.index(name)).sum()     # noqa: B023
        assert (of_head("face") > of_head("hair")) == front


def flat(pose, clothes, size=256):
    "These poses, upright in the middle, painted with the number of the nearest part; -1 where there is none."
    n = len(pose["yaw"])
    dice = Dice(torch.zeros(n, dtype=torch.int64))
    shape, clothes = people.sample_shape(dice), people.sample_clothes(dice) | {"hair": torch.zeros(n, dtype=torch.int64)} | clothes
    point, frame = people.kinematics(pose, shape)
    for s in ("left", "right"): point[f"{s}_sleeve"], point[f"{s}_hem"] = point[f"{s}_elbow"], point[f"{s}_knee"]
    xyz, magnify = people.project(point, torch.full((n,), 8.0))
    zoom = torch.full((n,), size * 0.8)
    xyz = xyz * zoom[:, None, None] + torch.tensor([size / 2, size / 2, 0])
    parts = people.body_parts(xyz, magnify, frame, shape, clothes, zoom, torch.arange(n))
    ids = numbers(parts, n, size)
    return parts, torch.where(ids < 0, -1, ids % len(people.CAPSULES + ELLIPSOIDS))


def numbers(parts, pictures, size):
    "Which part is nearest at each pixel, found by painting every part in a flat colour of its own that says its number; -1: none."
    table = parts.table.clone()
    table[-4:] = 0
    number = torch.arange(table.shape[1])
    table[17:20] = torch.stack([number // 4096 % 64, number // 64 % 64, number % 64]) / 64
    light = torch.tensor([0.0, 0, -1, 1.25]).expand(pictures, 4)     # as much light everywhere; what is left of shading is undone below
    black = torch.full((pictures, 3, size, size), -1.0)
    original = people.shade

    def unshaded(table, which, *rest): return table[17:20].index_select(1, which)
    people.shade = unshaded
    try: image = rasterize(Parts(table, parts.picture, parts.person, parts.owner), black, light)
    finally: people.shade = original
    digits = (image * 64).permute(1, 0, 2, 3)
    whole = ((digits - digits.round()).abs() < 1e-3).all(0) & (image >= 0).all(1)     # soft edges mix two numbers: they count as none
    digits = digits.round().long()
    return torch.where(whole, (digits[0] * 64 + digits[1]) * 64 + digits[2], -1)


# what is seen

def test_joints_of_plain_people_are_in_the_picture():
    boxes, joints = (torch.cat(values) for values in zip(*((s.boxes, s.joints[..., :2]) for s, _ in scenes("plain", "test")), strict=True))
    assert len(joints) == 2000 and (joints >= 0).all() and (joints <= 63).all()
    assert (joints >= boxes[:, None, :2]).all() and (joints <= boxes[:, None, 2:]).all()
    assert (boxes >= -0.5).all() and (boxes <= 63.5).all()


def test_visible_is_what_the_pixels_say():
    "A joint under the part of somebody else, or of a limb it does not belong to, clearly nearer, is hidden; one under its own part seldom."
    size, agree, hidden_agree = 192, [], []
    for name in ("occlusion", "crowd"):
        (scene, n), = scenes(name, count=16, size=size)
        ids = numbers(scene.parts, n, size)
        at = scene.joints[..., :2].round().long()
        inside = ((at >= 0) & (at < size)).all(-1)
        at = at.clamp(0, size - 1)
        top = ids[scene.picture[:, None], at[..., 1], at[..., 0]]
        sure = inside & (top >= 0)
        owns = (scene.parts.owner[top] >> torch.arange(16)) & 1 > 0
        own = owns & (scene.parts.person[top] == torch.arange(len(top))[:, None])
        zoom = scene.head_size / 0.11                       # about a stature in pixels
        depth = surface(scene.parts.table, top.clamp(min=0).flatten(), *scene.joints[..., :2].reshape(-1, 2).unbind(1))[1].view_as(top)
        nearer = scene.joints[..., 2] - depth
        agree.append((scene.visible == 2)[sure & own])
        hidden_agree.append((scene.visible == 1)[sure & ~own & (nearer > 0.2 * zoom[:, None])])
    agree, hidden = torch.cat(agree).float(), torch.cat(hidden_agree).float()
    assert len(agree) > 400 and agree.mean() > 0.95
    assert len(hidden) > 100 and hidden.mean() > 0.98


def slow(parts, background, light):
    "The definition, a pixel and a part at a time, in double precision."
    image, table = background.double().clone(), dict(zip(people.COLUMNS, parts.table.double().tolist(), strict=True))
    for b, y, x in itertools.product(range(len(image)), range(image.shape[2]), range(image.shape[3])):
        solid, soft = [], []
        for m in (parts.picture == b).nonzero()[:, 0].tolist():
            p = {name: row[m] for name, row in table.items()}
            axis2 = p["dx"]**2 + p["dy"]**2
            t = min(max(((x - p["x"]) * p["dx"] + (y - p["y"]) * p["dy"]) / axis2, 0), 1) if axis2 > 1e-6 else 0
            qx, qy, grow = x - p["x"] - t * p["dx"], y - p["y"] - t * p["dy"], 1 + p["taper"] * t
            u, v = (p["w00"] * qx + p["w01"] * qy) / grow, (p["w10"] * qx + p["w11"] * qy) / grow
            if p["square"]: u, v = (u, 0) if abs(u) >= abs(v) else (0, v)
            height, w = 1 - u * u - v * v, math.sqrt(max(0, 1 - u * u - v * v))
            gx, gy = (p["w00"] * u + p["w10"] * v) / grow, (p["w01"] * u + p["w11"] * v) / grow
            cover = height / max(2 * math.hypot(gx, gy), 1e-6) + 0.5
            if cover <= 0: continue
            thick = p["thick"] * grow
            z = p["z"] + t * p["dz"] + p["kx"] * qx + p["ky"] * qy - thick * w
            bulge = 0 if p["square"] else thick
            normal = torch.tensor([bulge * gx + p["kx"] * w, bulge * gy + p["ky"] * w, -w - p["square"]], dtype=torch.float64)
            facing = max(0, float(normal @ light[b, :3].double() / normal.norm())) if normal.norm() > 1e-4 else 0
            ambient = float(light[b, 3])
            bright = (ambient + (1.25 - ambient) * facing) * (0.72 + 0.28 * w)
            stripe = min(max(math.sin(p["wave_x"] * x + p["wave_y"] * y + p["phase"]) * 4 + 0.5, 0), 1) * p["contrast"]
            colour = [min(max((p[c] * (1 - stripe) + p[c + "2"] * stripe) * bright, 0), 1) for c in "rgb"]
            (solid if cover >= 1 else soft).append((int(z * 64), m, cover, torch.tensor(colour, dtype=torch.float64)))
        if solid: image[b, :, y, x] = min(solid)[3]
        soft = [s for s in soft if not solid or s[:2] < min(solid)[:2]]
        if soft: image[b, :, y, x] = torch.lerp(image[b, :, y, x], min(soft)[3], min(soft)[2])
    return image.float()


def test_renderer_agrees_with_its_definition():
    size, made = 18, People("standard", "val", size=18)
    scene = made.scene(made.seeds([0, 6, 9]))
    light = F.normalize(torch.tensor([[0.5, -0.6, -0.7], [-0.3, -0.5, -0.8], [0.1, -0.2, -0.9]]), dim=1)
    light = torch.cat([light, torch.full((3, 1), 0.6)], 1)
    background = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    given = background.clone()
    fast, reference = rasterize(scene.parts, background, light), slow(scene.parts, background, light)
    assert torch.equal(background, given) and torch.equal(rasterize(scene.parts.of_pictures(1, 2), background[1:2], light[1:2]), fast[1:2])
    assert torch.equal(background, given)                                      # also where there is only one picture
    difference = (fast - reference).abs().amax(1)
    assert (fast - background).abs().amax(1).gt(0.01).float().mean() > 0.3     # there is something to see
    assert (difference > 2e-3).float().mean() < 0.01                           # a depth that rounds the other way


def test_part_of_the_picture_outside_what_a_part_touches_stays_as_it_was():
    made = People("plain", "val", size=32)
    scene, background = made.scene(made.seeds([1])), torch.rand(1, 3, 32, 32)
    ids = torch.arange(scene.parts.table.shape[1]).repeat_interleave(32 * 32)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    height, _, _, slope = surface(scene.parts.table, ids, x.flatten().repeat(len(ids) // 1024), y.flatten().repeat(len(ids) // 1024))
    touched = ((height / slope.clamp(min=1e-6) + 0.5) > 0).view(-1, 32, 32).any(0)
    painted = (rasterize(scene.parts, background, torch.tensor([[0.0, 0, -1, 0.6]])) != background).any(1)[0]
    assert not (painted & ~touched).any() and (painted[touched]).float().mean() > 0.99       # no pixel is forgotten either


def test_ellipsoids_are_where_a_line_of_sight_meets_the_quadric():
    dice = Dice(torch.arange(30), 5)
    pose, shape, clothes = people.sample_pose(dice), people.sample_shape(dice), people.sample_clothes(dice)
    point, frame = people.kinematics(pose, shape)
    for s in ("left", "right"): point[f"{s}_sleeve"], point[f"{s}_hem"] = point[f"{s}_elbow"], point[f"{s}_knee"]
    xyz, magnify = people.project(point, torch.full((30,), 4.0))
    zoom = torch.full((30,), 200.0)
    rows = people.ellipsoid_rows(xyz * 200, magnify, frame, shape, clothes["hair"], zoom)
    table = torch.cat([torch.stack(rows), torch.zeros(10, *rows[0].shape)])
    k = [row[0] for row in ELLIPSOIDS].index("face")
    half = torch.tensor(ELLIPSOIDS[k][4]) * (shape["head"] * magnify[:, LANDMARKS.index("head")] * zoom)[:, None]
    axes = frame["head"].double()
    Q = axes @ torch.diag_embed(half.double() ** -2) @ axes.transpose(1, 2)
    for dx, dy in ((0, 0), (3, -2), (-4, 5), (0, 7)):
        along = torch.tensor([float(dx), float(dy), 0.0], dtype=torch.float64)
        a, b, c = Q[:, 2, 2], 2 * (Q @ along)[:, 2], along @ Q @ along - 1
        z = (-b - (b * b - 4 * a * c).sqrt()) / (2 * a)                                  # the nearer of the two
        height, depth, normal, _ = surface(table[:, :, k], torch.arange(30), table[0, :, k] + dx, table[1, :, k] + dy)
        hit = torch.stack([torch.full_like(z, dx), torch.full_like(z, dy), z], 1)
        assert (height > 0).all()
        torch.testing.assert_close((depth - table[2, :, k]).double(), z, atol=0.02, rtol=0)
        facing, gradient = torch.stack(normal, 1).double(), (Q @ hit[..., None])[..., 0]
        torch.testing.assert_close(F.normalize(facing, dim=1), F.normalize(gradient, dim=1), atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["plain", "standard"])
def test_a_picture_twice_as_large_shows_the_same(name):
    small, large = (People(name, "val", size=size).batch(range(16)) for size in (64, 128))
    torch.testing.assert_close((large.joints + 0.5) / 2 - 0.5, small.joints, atol=1e-3, rtol=0)
    torch.testing.assert_close(large.reference / 2, small.reference, atol=1e-3, rtol=0)
    assert (large.visible != small.visible).float().mean() < 0.01
    difference = (F.avg_pool2d(large.images, 2) - small.images).abs().mean(1)
    assert difference.mean() < 0.015 and (difference > 0.25).float().mean() < 0.005
    shifted = (F.avg_pool2d(large.images, 2)[..., 1:] - small.images[..., :-1]).abs().mean()
    assert shifted > 1.5 * difference.mean()                   # half a pixel of shift would have been seen


def test_head_size_is_that_of_the_head_box():
    "0.6 of the diagonal of the box around the head, measured in painted pixels."
    zero = {name: torch.zeros(1) for name in people.sample_pose(Dice(torch.arange(1)))}
    parts, ids = flat(zero, {"hair": torch.full((1,), 4)}, size=512)
    first = len(people.CAPSULES)
    of_face = ("face", "skull", "nose", "mouth", "eye", "pupil", "brow")
    of_head = torch.tensor([first + k for k, row in enumerate(ELLIPSOIDS) if row[0].split("_")[-1] in of_face])
    y, x = torch.nonzero(torch.isin(ids[0], of_head)).unbind(1)
    box = math.hypot(x.max() - x.min() + 1, y.max() - y.min() + 1)
    shape = people.sample_shape(Dice(torch.zeros(1, dtype=torch.int64)))
    head = people.head_sizes(shape, torch.ones(1, len(LANDMARKS))) * 512 * 0.8
    assert float(head) == pytest.approx(0.6 * box, rel=0.06)
    made = People("plain", "val")
    neck_to_top = (made.joints[:, joint("head_top")] - made.joints[:, joint("upper_neck")]).norm(dim=1)
    assert (neck_to_top / made.reference).max() < 1.6 and (neck_to_top / made.reference).median() > 1.1


# the dials

@pytest.mark.parametrize("dial", [0.0, 0.3, 1.0])
def test_dial_scale(dial):
    factors, moved = [], []
    for (wrong, _), (right, _) in zip(scenes("plain", dials=(dial, 0, 0)), scenes("plain"), strict=True):
        sides = [(scene.boxes[:, 2:] - scene.boxes[:, :2]).amax(1) for scene in (right, wrong)]
        factors.append(sides[0] / sides[1])                                                         # of the square, not of the person
        middle = (wrong.boxes[:, :2] + wrong.boxes[:, 2:]) / 2 - 31.5
        moved.append(middle.norm(dim=1) / 64 * factors[-1])                                         # in sides of the right square
    factors, moved = torch.cat(factors), torch.cat(moved)
    assert (factors - 1).abs().max() <= 0.5 * dial + 1e-3 and moved.max() <= 0.15 * dial + 1e-3
    if dial: assert factors.min() < 1 - 0.48 * dial and factors.max() > 1 + 0.48 * dial and moved.max() > 0.14 * dial
    assert abs(factors.mean() - 1) < 0.03


@pytest.mark.parametrize("dial", [0.0, 0.4, 1.0])
def test_dial_occlusion(dial):
    counts = []
    for scene, n in scenes("plain", dials=(0, dial, 0)):
        parts = scene.parts
        things = ((parts.person < 0) & (parts.table[2] < -3 * scene.head_size.min()) & (parts.table[0] > -1e4)).nonzero()[:, 0]
        at = scene.joints[parts.picture[things]]                                                    # (T, 16, 3)
        height, depth, _, _ = surface(parts.table, things.repeat_interleave(16), *at[..., :2].reshape(-1, 2).unbind(1))
        covered = (height > 0).view(-1, 16) & (depth.view(-1, 16) < at[..., 2])
        assert covered.any(1).all()                                                                 # each covers at least one
        assert (scene.visible[parts.picture[things]] == 1)[covered].all()
        counts.append(torch.bincount(parts.picture[things], minlength=n))
    counts = torch.cat(counts)
    assert abs((counts > 0).float().mean() - dial) < 0.05 and (dial != 1 or (counts > 0).all()) and (dial or not counts.any())
    if dial: assert set(counts[counts > 0].tolist()) == {1, 2, 3} and abs(counts[counts > 0].float().mean() - 2) < 0.15


def test_dial_crowd(crowds):
    others = torch.cat([torch.bincount(s.picture, minlength=n) - 1 for s, n in crowds])
    assert len(others) == 2000 and abs(others.float().mean() - 2) < 0.1
    for scene, n in crowds:
        other = scene.number > 0
        mine, theirs = scene.boxes[:n][scene.picture[other]], scene.boxes[other]
        common = (torch.minimum(mine[:, 2:], theirs[:, 2:]) - torch.maximum(mine[:, :2], theirs[:, :2])).clamp(min=0)
        assert (common.prod(1) / (mine[:, 2:] - mine[:, :2]).prod(1)).min() >= 0.25
    front = torch.cat([s.joints[s.number > 0][:, joint("pelvis"), 2] < 0 for s, _ in crowds]).float().mean()
    assert 0.45 < front < 0.55


def test_everybodys_box_holds_their_joints(crowds):
    for scene, _ in crowds:
        xy = scene.joints[..., :2]
        assert (xy >= scene.boxes[:, None, :2]).all() and (xy <= scene.boxes[:, None, 2:]).all()


@pytest.mark.parametrize("dial", [0.0, 0.25])
def test_dial_crowd_turned_down(dial):
    others = torch.cat([torch.bincount(s.picture, minlength=n) - 1 for s, n in scenes("plain", dials=(0, 0, dial))])
    assert abs(others.float().mean() - 2 * dial) < 0.1 and (dial or not others.any())


def test_dials_leave_the_person_alone():
    (plain, n), (occlusion, _), (crowd, _) = (next(scenes(name)) for name in ("plain", "occlusion", "crowd"))
    assert torch.equal(plain.joints, crowd.joints[:n]) and torch.equal(plain.joints, occlusion.joints)
    assert (crowd.visible[:n] <= plain.visible).all() and (occlusion.visible <= plain.visible).all()
    hidden = [(scene.visible[:n] == 1).float().mean() for scene in (plain, occlusion, crowd)]
    assert hidden[1] > hidden[0] + 0.1 and hidden[2] > hidden[0] + 0.05


def test_outside_is_not_visible():
    made = People("scale", "val")
    outside = ((made.joints < -0.5) | (made.joints >= 63.5)).any(-1)
    assert outside.any() and (made.visible[outside] == 1).all()


# bad input

@pytest.mark.parametrize("options, says", [
    (dict(name="hard"), "no set of people is called 'hard'.*standard"), (dict(split="valid"), "no split is called 'valid'.*val"),
    (dict(size=8), "size=8.*16"), (dict(dials=(0, 0, 1.5)), "dials=.*from 0 to 1"), (dict(dials=(0, -1, 0)), "from 0 to 1"),
    (dict(dials=(0, 1)), "dials=.*three numbers"), (dict(dials=(float("nan"), 0, 0)), "from 0 to 1")])
def test_bad_options(options, says):
    with pytest.raises(ValueError, match=says): People(**options)


@pytest.mark.parametrize("indices, error, says", [
    ([], ValueError, "at least one"), (range(0), ValueError, "at least one"), ([[1, 2]], ValueError, "shape"), (7, ValueError, "shape"),
    ([1000], IndexError, "0 to 999"), ([3, -1], IndexError, "people -1 to 3 of val")])
def test_bad_indices(indices, error, says):
    with pytest.raises(error, match=says): People("plain", "val").batch(indices)


# other devices

@pytest.mark.skipif(not DEVICES, reason="neither CUDA nor Metal is here")
@pytest.mark.parametrize("device", DEVICES or ["none"])
def test_the_same_people_on_every_device(device):
    for name in ("plain", "standard"):
        here, there = People(name, "val").batch(range(40)), People(name, "val", device=device).batch(range(40)).to("cpu")
        torch.testing.assert_close(there.joints, here.joints, atol=1e-2, rtol=0)
        torch.testing.assert_close(there.reference, here.reference, atol=1e-2, rtol=0)
        assert (there.visible != here.visible).float().mean() < 0.005
        assert ((there.images - here.images).abs() > 0.02).float().mean() < 0.005


def test_light_falls_from_above_in_front_and_leaves_shade(monkeypatch):
    "y points down, z away from the camera; of a surface without light half to three quarters are still seen."
    lights = []
    monkeypatch.setattr(people, "rasterize", lambda parts, background, light: lights.append(light) or background)
    People("plain", "val", size=16).batch(range(500))
    direction, ambient = torch.cat(lights).split((3, 1), 1)
    assert torch.allclose(direction.norm(dim=1), torch.ones(500)) and (direction[:, 1:] < 0).all() and direction[:, 0].mean().abs() < 0.1
    assert 0.5 <= ambient.min() < 0.52 and 0.73 < ambient.max() <= 0.75


def test_clutter_is_behind_everybody(monkeypatch):
    "Where it is or is not changes nobody's visibility."
    expected, clutter = People("standard", "val").batch(range(200)), people.clutter

    def elsewhere(*args):
        parts = clutter(*args)
        return replace(parts, table=torch.cat([torch.full_like(parts.table[:1], people.AWAY), parts.table[1:]]))

    monkeypatch.setattr(people, "clutter", elsewhere)
    found = People("standard", "val").batch(range(200))
    assert torch.equal(found.visible, expected.visible) and torch.equal(found.others_visible, expected.others_visible)
    assert not torch.equal(found.images, expected.images)


# --- the same people for ever -----------------------------------------------------------------------------------------------------

def test_people_are_who_they_were():
    "What was measured on the people of val and test counts only as long as they stay the same."
    dice = Dice(torch.arange(300))
    as_remembered("bodies", {"pose": people.sample_pose(dice), "shape": people.sample_shape(dice), "clothes": people.sample_clothes(dice)})


@pytest.mark.parametrize("name", people.SETS)
def test_pictures_show_what_they_showed(name):
    made = People(name, "test", 32)
    scene, batch = made.scene(made.seeds(range(200))), made.batch(range(24))
    as_remembered(f"scenes of {name}", vars(scene) | {"parts": dict(enumerate(scene.parts.table)), "owner": scene.parts.owner})
    as_remembered(f"pictures of {name}", batch)


def test_dials_and_margin_show_what_they_showed():
    as_remembered("three times the square", People("plain", "val", 48, dials=(1, 1, 1), margin=3).batch(range(8)))
