"Films and GIFs: every frame in, every frame out, upright, in constant memory; the same people steadier."
import builtins
import struct
import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from remembered import as_remembered

from msspose.inference import Pose, PoseEstimator
from msspose.skeleton import MPII
from msspose.video import Smoother, Video, pairs, video_poses, write_video

ENDINGS = (".gif", ".mp4", ".mov", ".mkv")


def clip(count=12, width=64, height=48):
    "Frames that tell which they are: a bar grows from the left, the top is red."
    frames = np.zeros((count, height, width, 3), np.uint8)
    for k, frame in enumerate(frames):
        frame[:, :(k + 1) * width // (count + 1)] = 255
        frame[:height // 4] = (200, 0, 0)
    return frames


def written(file, frames, fps=25.0):
    with write_video(file, fps) as add:
        for frame in frames: add(frame)
    return file


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [(64, 48), (63, 47)], ids=["even", "odd"])
def test_what_is_written_is_read_again(tmp_path, ending, size):
    frames = clip(12, *size)
    video = Video.open(written(tmp_path / f"a{ending}", frames, 20))
    again = list(video.frames())
    assert (len(again), round(video.fps), video.turns) == (12, 20, 0) and video.count in (0, 12)
    if ending == ".gif": assert video.fps == 20      # pauses are whole hundredths of a second
    for frame, other in zip(frames, again, strict=True):
        assert other.dtype == np.uint8 and all(0 <= b - a <= 1 for a, b in zip(frame.shape, other.shape, strict=True))
        assert np.abs(frame.astype(int) - other[:frame.shape[0], :frame.shape[1]]).mean() < 12
    assert [path.name for path in tmp_path.iterdir()] == [f"a{ending}"]


def test_a_gif_has_its_own_colours_in_every_frame_and_plays_for_ever(tmp_path):
    rng = np.random.default_rng(0)
    frames = [np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(5)]
    file = written(tmp_path / "a.gif", frames, 12.5)
    for frame, other in zip(frames, Video.open(file).frames(), strict=True): assert np.abs(frame.astype(int) - other).max() <= 40
    with Image.open(file) as image:
        assert image.info["loop"] == 0 and image.info["duration"] == 80 and image.n_frames == 5
        for k in range(5):
            image.seek(k)
            assert np.abs(np.array(image.convert("RGB")).astype(int) - frames[k]).max() <= 40


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_any_frame_survives_a_gif(width, height, seed):
    import tempfile
    from pathlib import Path

    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    flat = np.full((height, width, 3), seed % 256, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        first, second = Video.open(written(Path(folder) / "a.gif", [frame, flat])).frames()
    assert first.shape == frame.shape and np.abs(second.astype(int) - flat).max() <= 16
    assert np.abs(first.astype(int) - frame).mean() <= 32


def test_a_film_that_lies_on_its_side_is_turned(tmp_path):
    "A telephone writes a matrix into the track header, and frames as they came."
    frames = clip()
    content = bytearray(written(tmp_path / "a.mp4", frames).read_bytes())
    at = content.find(b"tkhd") + 8 + 36                                                  # version 0: 36 bytes of times, ids, layers
    for matrix, turn in (((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1), ((1, 0, 0, 1), 0)):
        a, b, c, d = matrix
        content[at:at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
        (tmp_path / "turned.mp4").write_bytes(content)
        found = next(Video.open(tmp_path / "turned.mp4").frames())
        expected = np.rot90(frames[0], turn)
        assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 12 and found.flags.c_contiguous


def test_what_is_no_film_is_refused(tmp_path):
    whole = written(tmp_path / "a.mp4", clip(60, 128, 96)).read_bytes()
    (tmp_path / "text.mp4").write_text("a letter")
    (tmp_path / "text.gif").write_text("a letter")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(whole[:300])
    for name, said in (("text.mp4", "no film"), ("text.gif", "no film"), ("empty.mp4", "no film"), ("cut.mp4", "no film"),
                       ("none.mp4", "no such film")):
        with pytest.raises(ValueError) as error: Video.open(tmp_path / name)
        assert said in str(error.value) and name in str(error.value) and "\n" not in str(error.value)


def test_a_gif_that_is_cut_off_says_after_which_frame(tmp_path):
    rng = np.random.default_rng(0)
    content = written(tmp_path / "a.gif", rng.integers(0, 256, (9, 40, 40, 3), dtype=np.uint8)).read_bytes()
    (tmp_path / "cut.gif").write_bytes(content[:len(content) * 2 // 3])
    read = []
    try:
        for frame in Video.open(tmp_path / "cut.gif").frames(): read.append(frame)
    except ValueError as error: assert f"damaged after frame {len(read)}" in str(error)
    assert 4 <= len(read) <= 6


@pytest.mark.parametrize("name, said", [("a.wmv", "ends in .gif, .mp4"), ("a", "ends in .gif"), ("a.png", "ends in .gif")])
def test_other_endings_are_not_written(tmp_path, name, said):
    with pytest.raises(ValueError, match=said), write_video(tmp_path / name, 25): pass


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_film_is_complete_or_not_there(tmp_path, ending):
    with pytest.raises(ValueError, match="no frames"), write_video(tmp_path / f"a{ending}", 25): pass
    with pytest.raises(RuntimeError), write_video(tmp_path / f"a{ending}", 25) as add:
        add(clip()[0])
        raise RuntimeError("the network has gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"), write_video(tmp_path / "file" / f"a{ending}", 25) as add: add(clip()[0])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_pyav_films_are_refused_with_the_remedy_and_gifs_are_not(tmp_path, monkeypatch):
    film, moving = written(tmp_path / "a.mp4", clip()), written(tmp_path / "a.gif", clip())
    real = builtins.__import__
    def without(name, *args, **kwargs):
        if name.split(".")[0] == "av": raise ImportError("No module named 'av'")
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, "__import__", without)
    for name in [name for name in sys.modules if name.split(".")[0] == "av" or name == "imageio.plugins.pyav"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=r"pip install msspose\[video\]"): Video.open(film)
    with pytest.raises(ValueError, match=r"pip install msspose\[video\]"), write_video(tmp_path / "b.mp4", 25) as add: add(clip()[0])
    assert len(list(Video.open(moving).frames())) == 12


# --- constant memory -------------------------------------------------------------------------------------------------------------------

MEASURE = """
import gc, sys
import numpy as np, psutil, torch
from msspose.inference import PoseEstimator, draw_poses
from msspose.regression import PoseNet
from msspose.skeleton import MPII
from msspose.video import Video, video_poses, write_video

torch.set_num_threads(1)
source, target = sys.argv[1:]
small = PoseNet(n_stacks=1, width=8, depth=2, regression=False)      # its answers are no matter here
estimator, video, used = PoseEstimator(small, MPII, 32), Video.open(source), []
with write_video(target, video.fps) as add:
    for frame, poses in video_poses(estimator, video, smooth=True, batch_size=8):
        add(draw_poses(frame, poses))
        used.append(psutil.Process().memory_info().rss)
middle, end = max(used[60:120]), max(used[-60:])
print(len(used), (end - middle) / 1e6, len(used) * frame.nbytes / 1e6)
"""


@pytest.mark.parametrize("source, target", [(".gif", ".mp4"), (".mp4", ".gif")])     # either is read, and either is written
def test_memory_does_not_grow_over_300_frames(tmp_path, source, target):
    "A fresh process; 300 frames of 320 x 240 are 69 MB. Holding them would show from the second hundred to the third."
    frame = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    frame = np.array(Image.fromarray(frame).resize((320, 240)))
    written(tmp_path / f"in{source}", (np.roll(frame, 3 * k, 1) for k in range(300)))
    files = tmp_path / f"in{source}", tmp_path / f"out{target}"
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, grown, all_frames = map(float, done.stdout.split())
    assert count == 300 and all_frames > 65
    assert grown < 12, f"memory grew by {grown:.0f} MB from frame 120 to 300, whose frames are {all_frames * 0.6:.0f} MB"


# --- the same people -------------------------------------------------------------------------------------------------------------------

def pose(x, y=0.0, confidence=1.0, box=(0, 0, 80, 80)):
    return Pose(np.full((16, 2), (x, y), np.float32), np.full(16, confidence, np.float32), MPII, box)


@given(st.floats(0.01, 1), st.floats(5, 120))
def test_somebody_who_stands_still_stays_and_a_step_is_followed_in_time(tau, fps):
    smoother = Smoother(fps, tau)
    for _ in range(5): assert smoother([pose(10)])[0].joints[0, 0] == 10
    frames = int(np.ceil(tau * fps))
    for _ in range(frames): after, = smoother([pose(20)])
    assert after.joints[0, 0] == pytest.approx(20 - 10 * np.exp(-frames / fps / tau), abs=1e-3)      # whatever the frame rate
    assert 10 + 10 * (1 - np.exp(-1)) - 1e-3 <= after.joints[0, 0] <= 20


def test_joints_that_are_not_sure_are_followed_less_and_other_fields_stay():
    sure, unsure = Smoother(25), Smoother(25)
    sure([pose(0)]), unsure([pose(0)])
    far, near = sure([pose(10)])[0], unsure([pose(10, confidence=0.2)])[0]
    assert near.joints[0, 0] == pytest.approx(far.joints[0, 0] * 0.2 / 0.7)
    assert (near.confidence == np.float32(0.2)).all() and near.box == (0, 0, 80, 80)


def test_everybody_is_followed_on_their_own_whatever_the_order():
    smoother = Smoother(25, tau=0.1)
    left, right = dict(box=(0, 0, 50, 90)), dict(box=(60, 0, 50, 90))
    smoother([pose(20, **left), pose(80, **right)])
    second, first = smoother([pose(84, **right), pose(24, **left)])
    assert 20 < first.joints[0, 0] < 24 and 80 < second.joints[0, 0] < 84
    newcomer, *_ = smoother([pose(200, box=(180, 0, 50, 90)), pose(84, **right)])
    assert newcomer.joints[0, 0] == 200


def test_who_has_been_away_comes_back_as_somebody_new():
    smoother = Smoother(10, tau=10.0, patience=0.5)
    smoother([pose(0)])
    for _ in range(4): assert smoother([]) == []
    assert smoother([pose(50)])[0].joints[0, 0] < 50                                     # after half a second: the same person, slowly
    for _ in range(6): smoother([])
    assert smoother([pose(50)])[0].joints[0, 0] == 50                                    # after more: somebody new
    with pytest.raises(ValueError, match="positive"): Smoother(0)
    with pytest.raises(ValueError, match="positive"): Smoother(25, tau=0)


boxes = st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 60)] * 2), max_size=6)


@given(boxes, boxes)
def test_pairs_are_one_to_one_and_overlap(first, second):
    found = pairs(first, second)
    assert len(set(found.values())) == len(found)
    for i, j in found.items():
        (a, b, w, h), (c, d, u, v) = first[i], second[j]
        both = max(0, min(a + w, c + u) - max(a, c)) * max(0, min(b + h, d + v) - max(b, d))
        assert both / (w * h + u * v - both) > 0.2
    assert set(pairs(first, first)) == set(range(len(first)))


def test_video_poses_are_those_of_the_frames(tmp_path):
    estimator, video = PoseEstimator.from_pretrained("people"), Video.open(written(tmp_path / "a.gif", clip(7)))
    around = [[(0, 0, 40, 40)], [], None, [(5, 5, 30, 30), (20, 0, 40, 40)], None, None, []]
    found = list(video_poses(estimator, video, around, batch_size=3))
    assert [len(poses) for _, poses in found] == [1, 0, 1, 2, 1, 1, 0]
    for (frame, poses), read, some in zip(found, video.frames(), around, strict=True):
        np.testing.assert_array_equal(frame, read)
        for one, other in zip(poses, estimator(read, some), strict=True): np.testing.assert_allclose(one.joints, other.joints, atol=1e-3)
    steady = [poses for _, poses in video_poses(estimator, video, around, smooth=True)]
    smoother = Smoother(video.fps)
    for poses, (_, raw) in zip(steady, found, strict=True):
        for one, other in zip(poses, smoother(raw), strict=True): np.testing.assert_allclose(one.joints, other.joints, atol=1e-3)


def test_imageio_reads_what_is_written(tmp_path):
    for ending in (".gif", ".mp4"): assert iio.imread(written(tmp_path / f"a{ending}", clip())).shape[:3] == (12, 48, 64)


def test_people_are_followed_as_they_were():
    smoother, dice = Smoother(25), np.random.default_rng(0)
    frames = [[pose(10 + 3 * k + dice.normal(), confidence=dice.random()), pose(90 - 2 * k, box=(60, 0, 50, 90))][:2 - (k == 4)]
              for k in range(9)]
    as_remembered("followed", [[one.joints[:2] for one in smoother(poses)] for poses in frames])
