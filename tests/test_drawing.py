"Figures: what is drawn where, in which colour, and what is refused."
import ast
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from PIL import Image
from remembered import as_remembered

from msspose import drawing
from msspose.drawing import CENTRE, LEFT, RIGHT, SERIES, Animation, curves, draw_pose, figure_frame, gif, overlay, paint_pose
from msspose.drawing import show_heatmaps, show_people, show_poses, style
from msspose.skeleton import COCO, FLIC, LSP, MPII, standing

GREY = np.full((64, 64, 3), 128, np.uint8)


@pytest.fixture(autouse=True)
def clean():
    "No figure is left open, no setting is left changed."
    plt.switch_backend("agg")
    with plt.rc_context(): yield
    assert not plt.get_fignums(), "a function left a figure open: a notebook would show it twice"
    plt.close("all")


@pytest.fixture
def ax(clean):
    figure, ax = plt.subplots(figsize=(4, 4), dpi=50)
    yield ax
    plt.close(figure)


def drawn(ax):
    "Limbs as (points, colour) and joints as (x, y, face, edge) of one pose."
    lines = [(line.get_xydata(), line) for line in ax.lines]
    limbs = [(xy, to_hex(line.get_color())) for xy, line in lines if len(xy) == 2]
    joints = [(*xy[0], to_hex(line.get_markerfacecolor()), to_hex(line.get_markeredgecolor())) for xy, line in lines if len(xy) == 1]
    return limbs, joints


def rgb(colour): return np.array([int(colour[k:k + 2], 16) for k in (1, 3, 5)])


# --- draw_pose --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("skeleton", (MPII, LSP, FLIC, COCO), ids=lambda s: s.name)
def test_every_limb_and_joint_is_drawn_in_the_colour_of_its_side(skeleton, ax):
    places = standing(skeleton)
    assert draw_pose(ax, places, None, skeleton) is ax
    limbs, joints = drawn(ax)
    wanted = {"left": LEFT, "right": RIGHT, "centre": CENTRE}
    assert [j[2] for j in joints] == [wanted[side] for side in skeleton.sides]
    assert np.allclose([j[:2] for j in joints], places)
    for (i, j), (xy, colour) in zip(skeleton.limbs, limbs, strict=True):
        assert np.allclose(xy, places[[i, j]])
        sides = {skeleton.sides[i], skeleton.sides[j]} - {"centre"}
        assert colour == (wanted[sides.pop()] if len(sides) == 1 else CENTRE)


def test_occluded_is_hollow_and_not_annotated_is_absent(ax):
    visible = np.full(16, 2)
    wrist, ankle = MPII.index("left_wrist"), MPII.index("left_ankle")
    visible[wrist], visible[ankle] = 1, 0
    draw_pose(ax, standing(), visible)
    limbs, joints = drawn(ax)
    assert len(joints) == 15 and len(limbs) == 14
    hollow = [j for j in joints if j[2] == "#ffffff"]
    assert len(hollow) == 1 and np.allclose(hollow[0][:2], standing()[wrist]) and hollow[0][3] == LEFT
    assert not any(np.allclose(j[:2], standing()[ankle]) for j in joints)


def test_what_is_not_a_number_is_absent(ax):
    places = standing()
    places[3] = np.nan
    assert len(drawn(draw_pose(ax, places))[1]) == 15


def test_names_stand_beside_the_joints_that_are_there(ax):
    visible = np.full(16, 2)
    visible[0] = 0
    draw_pose(ax, standing(), visible, names=True)
    assert {t.get_text() for t in ax.texts} == {name.replace("_", " ") for name in MPII.joints[1:]}


@pytest.mark.parametrize("joints, visible, skeleton, message", [
    (np.zeros((14, 2)), None, MPII, r"expected \(16, 2\) for mpii, got \(14, 2\)"), (np.zeros((1, 16, 2)), None, MPII, "pass one person"),
    (np.zeros((14, 2)), np.zeros(16), LSP, r"visible: expected \(14,\), got \(16,\)")])
def test_poses_that_do_not_fit_are_refused(joints, visible, skeleton, message, ax):
    with pytest.raises(ValueError, match=message): draw_pose(ax, joints, visible, skeleton)
    with pytest.raises(ValueError, match=message): paint_pose(GREY, joints, visible, skeleton)


# --- grids ------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("count, cols, grid", [(1, 8, (1, 1)), (8, 8, (1, 8)), (9, 4, (3, 4)), (3, 1, (3, 1))])
def test_a_grid_has_as_many_columns_as_asked_and_rows_as_needed(count, cols, grid):
    figure = show_people(np.zeros((count, 3, 8, 8)), cols=cols)
    assert figure.axes[0].get_gridspec().get_geometry() == grid
    assert sum(bool(ax.images) for ax in figure.axes) == count


@pytest.mark.parametrize("images", [
    torch.rand(2, 3, 12, 20), torch.rand(2, 3, 12, 20, dtype=torch.bfloat16), torch.rand(2, 3, 12, 20, requires_grad=True),
    np.zeros((2, 12, 20, 3), np.uint8), np.zeros((2, 3, 12, 20), np.uint8), np.ones((2, 12, 20, 3))], ids=range(6))
def test_pictures_come_in_any_order_of_axes(images):
    figure = show_people(images)
    assert all(ax.images[0].get_array().shape == (12, 20, 3) for ax in figure.axes)
    assert 0 <= figure.axes[0].images[0].get_array().min() <= figure.axes[0].images[0].get_array().max() <= 1


def test_bytes_are_scaled_and_floats_are_clipped():
    assert show_people(GREY[None]).axes[0].images[0].get_array().max() == np.float32(128 / 255)
    shown = show_people(torch.linspace(-1, 2, 3 * 64).reshape(1, 3, 8, 8)).axes[0].images[0].get_array()
    assert (shown.min(), shown.max()) == (0, 1)


def test_a_pixel_centre_is_at_a_whole_number():
    figure = show_people(np.zeros((1, 3, 12, 20)))
    assert figure.axes[0].get_xlim() == (-0.5, 19.5) and figure.axes[0].get_ylim() == (11.5, -0.5)
    assert tuple(figure.axes[0].images[0].get_extent()) == (-0.5, 19.5, 11.5, -0.5)


def test_predictions_are_in_colour_and_the_truth_is_in_rings_where_annotated():
    truth, visible = standing(MPII, 32)[None], np.full((1, 16), 2)
    visible[0, :3] = 0
    figure = show_people(np.zeros((1, 3, 32, 32)), truth, visible, predicted=truth + 2)
    limbs, joints = drawn(figure.axes[0])
    rings = [j for j in joints if j[3] == "#ffffff"]
    assert len(rings) == 13 and len(joints) == 29
    assert np.allclose([r[:2] for r in rings], truth[0, 3:])
    errors = [xy for xy, colour in limbs if colour == "#ffffff"]
    assert np.allclose(errors, np.stack([truth[0, 3:] + 2, truth[0, 3:]], 1))


@pytest.mark.parametrize("name", ("joints", "visible", "predicted", "titles"))
def test_one_for_each_picture(name):
    with pytest.raises(ValueError, match=f"{name}: expected one for each of 2 images, got 1"):
        show_people(np.zeros((2, 3, 8, 8)), **{name: ["one"] if name == "titles" else np.zeros((1, 16, 2))})


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (8, 8), (2, 4, 8, 8)])
def test_pictures_that_are_none_are_refused(shape):
    with pytest.raises(ValueError, match="images: expected"): show_people(np.zeros(shape))


def test_poses_share_one_scale_and_may_have_their_own_skeletons():
    four = (MPII, LSP, FLIC, COCO)
    figure = show_poses([standing(s) for s in four], skeleton=four, titles=[s.name for s in four])
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes}) == 1
    assert [ax.get_title() for ax in figure.axes] == [s.name for s in four] and figure.axes[0].yaxis_inverted()
    with pytest.raises(ValueError, match="skeleton: expected one for each of 1 poses, got 4"): show_poses([standing()], skeleton=four)
    show_poses([standing()], [np.zeros(16)])        # nobody there is no error


# --- heatmaps ---------------------------------------------------------------------------------------------------------------------

def test_heatmaps_share_one_scale_and_say_their_peak():
    maps = np.zeros((3, 8, 8))
    maps[0, 1, 2], maps[1, 3, 3] = 0.5, 2
    figure = show_heatmaps(maps, names=["left_wrist", "b", "c"])
    panels = figure.axes[:3]
    assert {ax.images[0].get_clim() for ax in panels} == {(0, 2)}
    assert [ax.get_title() for ax in panels] == ["left wrist 0.50", "b 2.00", "c 0.00"]


def test_a_picture_behind_heatmaps_covers_the_same_field():
    figure = show_heatmaps(torch.rand(2, 16, 16), torch.rand(3, 64, 64))
    assert len({tuple(image.get_extent()) for image in figure.axes[0].images}) == 1 and len(figure.axes[0].images) == 2


def test_heatmaps_of_nothing_and_of_many_are_told_apart():
    show_heatmaps(np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match="pass the maps of one person"): show_heatmaps(np.zeros((1, 2, 8, 8)))
    with pytest.raises(ValueError, match="names: expected 2, got 1"): show_heatmaps(np.zeros((2, 8, 8)), names=["a"])


@pytest.mark.parametrize("name, colour", [("left_wrist", LEFT), ("right_knee", RIGHT), ("pelvis", CENTRE)])
def test_an_overlay_glows_in_the_colour_of_the_side_where_the_map_is_high(name, colour):
    maps = np.zeros((2, 16, 16, 16), np.float32)
    maps[1, MPII.index(name), 1, 14] = 1
    lit = overlay(torch.full((2, 3, 64, 64), 0.5), maps)
    assert lit.shape == (2, 64, 64, 3) and lit.dtype == np.float32 and np.ptp(lit[0]) < 1e-6
    y, x = np.unravel_index(np.abs(lit[1] - lit[1, 0, 0]).sum(-1).argmax(), (64, 64))
    assert abs(x - ((14 + 0.5) * 4 - 0.5)) <= 0.5 and abs(y - ((1 + 0.5) * 4 - 0.5)) <= 0.5      # image = (map + 0.5) * s - 0.5
    hue = lit[1, y, x] - lit[1, 0, 0]
    assert np.argmax(hue) == np.argmax(rgb(colour)) and np.argmin(hue) == np.argmin(rgb(colour))


def test_an_overlay_refuses_maps_of_others():
    with pytest.raises(ValueError, match=r"expected \(2, 16, h, w\), got \(1, 16, 8, 8\)"):
        overlay(np.zeros((2, 3, 8, 8)), np.zeros((1, 16, 8, 8)))


# --- curves -----------------------------------------------------------------------------------------------------------------------

def test_curves_are_named_at_their_ends_in_their_colours_and_apart():
    x = np.arange(5)
    figure = curves({"a": (x, x), "b": (x, x + 0.01), "c": (x, torch.zeros(5))}, "step", "loss", "Two touch")
    ax, = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left") or ax.get_title()) == ("step", "loss", "Two touch")
    assert {t.get_text(): t.get_color() for t in ax.texts} == dict(zip("abc", SERIES[:3], strict=True))
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.texts]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


@pytest.mark.parametrize("series", [{}, {"a": ([], [])}, {"a": ([1], [np.nan]), "b": ([1], [2])}, {"one": ([1, 2], [3, 4])}], ids=range(4))
def test_curves_of_little_or_nothing(series):
    figure_frame(curves(series, "x", "y", "t"))


def test_many_curves_repeat_colours_with_another_stroke():
    ax, = curves({str(k): ([0, 1], [k, k]) for k in range(len(SERIES) + 1)}, "x", "y", "t").axes
    first, last = ax.lines[0], ax.lines[-1]
    assert first.get_color() == last.get_color() and first.get_linestyle() != last.get_linestyle()


# --- files ------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, colour", [("left_elbow", LEFT), ("right_knee", RIGHT), ("upper_neck", CENTRE)])
def test_a_painted_joint_has_the_colour_of_its_side_at_its_pixel(name, colour):
    image = np.full((200, 200, 3), 128, np.uint8)
    places = np.round(standing(MPII, 200))
    painted = paint_pose(image, places, width=6)
    x, y = places[MPII.index(name)].astype(int)
    assert np.abs(painted[y, x] - rgb(colour)).max() <= 3
    assert (image == 128).all() and painted.dtype == np.uint8
    changed = np.argwhere((painted != image).any(-1))[:, ::-1]
    along = np.linspace(places[[i for i, _ in MPII.limbs]], places[[j for _, j in MPII.limbs]], 60).reshape(-1, 2)
    assert np.linalg.norm(changed[:, None] - along, axis=-1).min(1).max() < 7.5              # nothing is painted far from a limb


def test_painted_occluded_joints_are_white_inside_and_absent_ones_leave_the_picture_alone():
    visible = np.zeros(16, int)
    visible[MPII.index("left_wrist")] = 1
    image = np.full((200, 200, 3), 128, np.uint8)
    places = np.round(standing(MPII, 200))
    painted = paint_pose(image, places, visible, width=6)
    x, y = places[MPII.index("left_wrist")].astype(int)
    assert (painted[y, x] == 255).all()
    changed = np.argwhere((painted != image).any(-1))[:, ::-1]
    assert np.linalg.norm(changed - (x, y), axis=1).max() < 8 and np.array_equal((x, y) - changed.min(0), changed.max(0) - (x, y))
    assert np.array_equal(paint_pose(image, places, np.zeros(16)), image)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3), st.sampled_from((MPII, COCO)))
def test_painting_never_fails_wherever_the_person_is(seed, spread, skeleton):
    rng = np.random.default_rng(seed)
    joints = rng.normal(32, 64 * spread, (skeleton.n_joints, 2))
    visible = rng.integers(0, 3, skeleton.n_joints)
    painted = paint_pose(GREY, joints, visible, skeleton)
    inside = ((joints >= 0) & (joints <= 63)).all(1) & (visible > 0)
    assert painted.shape == GREY.shape
    if inside.any(): assert not np.array_equal(painted, GREY)
    if not visible.any(): assert np.array_equal(painted, GREY)


@pytest.mark.parametrize("picture, person", [(64, 50), (250, 200), (1000, 900), (2000, 1800), (2000, 100), (2000, 40)])
def test_painted_lines_are_in_proportion_and_can_be_seen_in_a_small_view(picture, person):
    image = np.full((picture, picture, 3), 128, np.uint8)
    joints = standing(MPII, person) + (picture - person) // 2
    changed = (paint_pose(image, joints) != image).any(-1)
    length = sum(np.linalg.norm(joints[i] - joints[j]) for i, j in MPII.limbs)
    width = changed.sum() / length                                           # outline included
    assert width >= 1 and person / 70 < width < person / 7
    if person > 10 * picture / 700: assert width > picture / 700             # a pixel and more where the picture is shown 700 pixels large


def test_painting_part_of_a_person_equals_painting_on_a_larger_picture():
    "The window of the picture that is touched is an economy, not a decision."
    large = np.full((160, 160, 3), 90, np.uint8)
    joints = standing(MPII, 150) + 5
    whole = paint_pose(large, joints, width=4)
    part = paint_pose(large[40:120, 30:130], joints - (30, 40), width=4)
    apart = np.abs(whole[40:120, 30:130].astype(int) - part)
    assert apart.max() <= 24 and apart.mean() < 0.05      # the edges of strokes are rounded elsewhere


@pytest.mark.parametrize("image", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)],
                         ids=("float", "grey", "chw"))
def test_only_pictures_are_painted_on(image):
    with pytest.raises(ValueError, match=r"image: expected \(H, W, 3\) uint8"): paint_pose(image, standing())


def test_a_gif_keeps_frames_time_and_nearly_colours(tmp_path):
    frames = np.zeros((3, 20, 30, 3), np.uint8)
    for k, colour in enumerate((LEFT, RIGHT, CENTRE)): frames[k] = rgb(colour)
    data = gif(frames, fps=5, path=tmp_path / "a.gif")
    assert (tmp_path / "a.gif").read_bytes() == data
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.n_frames, image.size, image.info["duration"], image.info["loop"]) == ("GIF", 3, (30, 20), 200, 0)
        for k in range(3):
            image.seek(k)
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frames[k]).max() < 12


def test_what_stands_still_in_a_gif_does_not_flicker():
    "With a palette per frame it would."
    frames = np.zeros((4, 32, 64, 3), np.uint8)
    frames[:, :, :32] = np.random.default_rng(0).integers(0, 256, (32, 32, 3))
    for k in range(4): frames[k, :, 32:] = np.random.default_rng(k + 1).integers(0, 256, (32, 32, 3))
    with Image.open(io.BytesIO(gif(frames))) as image:
        shown = []
        for k in range(4): image.seek(k); shown.append(np.asarray(image.convert("RGB"))[:, :32])
    assert all(np.array_equal(shown[0], other) for other in shown[1:])


def test_a_gif_of_floats_is_that_of_bytes():
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert gif(frames / 255) == gif(frames) == gif(torch.from_numpy(frames))


@pytest.mark.parametrize("frames, fps, message", [
    (np.zeros((8, 8, 3)), 8, "frames: expected"), (np.zeros((0, 8, 8, 3)), 8, "frames: expected"),
    (np.zeros((1, 8, 8, 3)), 0, "fps: 0; frames per second have to be positive")], ids=range(3))
def test_a_gif_of_nothing_is_refused(frames, fps, message):
    with pytest.raises(ValueError, match=message): gif(frames, fps)


def test_an_animation_is_html_with_its_text_for_those_who_do_not_see_it():
    shown = Animation(np.zeros((2, 8, 9, 3)), 'dots "shrink" <fast>')
    html = shown._repr_html_()
    assert html.startswith('<img src="data:image/gif;base64,R0lGOD')
    assert 'alt="dots &quot;shrink&quot; &lt;fast&gt;"' in html and 'width="9"' in html
    assert "0x" not in repr(shown)


def test_a_figure_becomes_a_frame():
    frame = figure_frame(curves({"a": ([0, 1], [0, 1])}, "x", "y", "t", size=(2, 1)))
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and abs(frame.shape[1] / frame.shape[0] - 2) < 0.02


def test_style_is_a_matter_of_settings_only():
    before = plt.rcParams["axes.spines.top"]
    with plt.rc_context():
        style()
        assert plt.rcParams["axes.spines.top"] is False
        assert [c["color"] for c in plt.rcParams["axes.prop_cycle"]] == list(SERIES)
    assert plt.rcParams["axes.spines.top"] is before
    assert len({LEFT, RIGHT, CENTRE, *SERIES}) == len(SERIES)


def test_drawing_knows_only_the_skeleton():
    "Anyone may import it, so it may import nobody."
    tree = ast.parse(Path(drawing.__file__).read_text(encoding="utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = {node.module for node in froms if node.level or (node.module or "").startswith("msspose")}
    assert {name.removeprefix("msspose.") for name in ours} == {"skeleton"}


# --- all together -----------------------------------------------------------------------------------------------------------------

SEEN = np.arange(16) % 3                                              # absent, occluded, visible
COARSE = torch.linspace(0, 1, 2 * 3 * 48 * 40).reshape(2, 3, 48, 40)   # two pictures
MAPS = torch.exp(-((torch.arange(16.0)[:, None, None] - torch.arange(24.0)[:, None]) ** 2 + (torch.arange(20.0) - 9) ** 2) / 8)
POSES = np.stack([standing(MPII, 40), standing(MPII, 36) + 3])

FIGURES = {
    "people": lambda: show_people(COARSE),
    "people with poses": lambda: show_people(COARSE, POSES, np.stack([SEEN, SEEN[::-1]]), titles=["one", "two"], cols=1, size=2),
    "people with predictions": lambda: show_people(COARSE, POSES, np.stack([SEEN, SEEN[::-1]]), predicted=POSES + 3),
    "poses": lambda: show_poses(list(POSES), [SEEN, SEEN[::-1]], titles=["one", "two"]),
    "poses with names": lambda: show_poses([standing(MPII), 2 * standing(COCO)[:, ::-1]], skeleton=[MPII, COCO], names=True),
    "poses, nobody": lambda: show_poses([standing()], [np.zeros(16)]),
    "heatmaps": lambda: show_heatmaps(3 * MAPS),
    "heatmaps before a picture": lambda: show_heatmaps(MAPS, COARSE[0], MPII.joints, cols=4, size=2),
    "curves": lambda: curves({"a": ([0, 1, 2], [3, 1, 2]), "b": ([0, 4], [2, 2.01])}, "step", "loss", "Two end together", (5, 3)),
    "one curve": lambda: curves({"a": (np.arange(30), np.arange(30) ** 2)}, "step", "loss", "It rises"),
    "ten curves": lambda: curves({str(k): ([0, 1], [k, k]) for k in range(10)}, "step", "loss", "Many"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_what_it_was(name):
    with plt.rc_context({"figure.dpi": 80}): as_remembered(name, FIGURES[name]())


def test_a_pose_is_drawn_as_it_was(ax):
    draw_pose(ax, standing(MPII, 100), SEEN, width=5, alpha=0.7, names=True)
    as_remembered("a pose", ax.figure)


def test_pictures_are_what_they_were():
    grey, people = np.full((96, 80, 3), 128, np.uint8), standing(MPII, 90)
    large = np.full((900, 700, 3), 128, np.uint8)
    as_remembered("painted", {
        "all": paint_pose(grey, people), "some": paint_pose(grey, people, SEEN), "wide": paint_pose(grey, people, SEEN, width=9),
        "small person": paint_pose(large, people + 300), "half outside": paint_pose(grey, people - 50, 2 - SEEN, width=3)})
    as_remembered("overlay", {"one": overlay(COARSE[:1], MAPS[None]), "low": overlay(COARSE[:1], MAPS[None] / 2, top=0.5),
                              "of others": overlay((255 * COARSE).byte(), torch.stack([MAPS[:14], 2 * MAPS[2:]]), LSP)})
    frames = np.stack([paint_pose(grey, people + 2 * k) for k in range(3)])
    with Image.open(io.BytesIO(gif(frames))) as film: as_remembered("film", [film.seek(k) or film.convert("RGB") for k in range(3)])
    as_remembered("a figure as pixels", figure_frame(curves({"a": ([0, 1], [0, 1])}, "x", "y", "t")).shape)


def test_the_style_is_what_it_was():
    with plt.rc_context():
        before = dict(plt.rcParams)
        style()
        as_remembered("style", {name: str(value) for name, value in plt.rcParams.items() if str(value) != str(before[name])})
