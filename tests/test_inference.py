"From a box to a pose: geometry and equivalences."
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from msspose.crops import crop
from msspose.hourglass import StackedHourglass
from msspose.data import square_of
from msspose.inference import Pose, PoseEstimator
from msspose.people import People
from msspose.skeleton import LSP, MPII


@pytest.fixture(scope="module")
def estimator():
    "A network whose heatmaps are not all the same: its head is not the small one of the initialisation."
    model = StackedHourglass(1, 16, width=16, depth=3)
    with torch.no_grad(): model.stacks[0].head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return PoseEstimator(model, MPII, 64)


@given(st.floats(-500, 500), st.floats(-500, 500), st.floats(1, 500), st.floats(1, 500))
def test_the_square_has_the_middle_of_the_box_and_contains_it(left, top, width, height):
    (x, y), side = square_of((left, top, width, height))
    assert x == pytest.approx(left + (width - 1) / 2) and y == pytest.approx(top + (height - 1) / 2)
    assert side == pytest.approx(1.25 * max(width, height))


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 5, -1), (0, 0, float("nan"), 5), (float("inf"), 0, 5, 5)])
def test_a_box_without_area_is_refused(box):
    with pytest.raises(ValueError, match="positive width and height"): square_of(box)


def picture_of(indices, size=96):
    images = People("plain", "val", size=size).batch(indices).images
    return (torch.cat(list(images), -1).permute(1, 2, 0) * 255).round().byte().numpy()


def test_joints_are_where_the_heatmap_of_the_crop_says(estimator):
    image, box = picture_of([1, 2]), (100.0, 4.0, 80.0, 90.0)
    pose, = estimator(image, [box], flip=False)
    center, side = square_of(box)
    with torch.no_grad(): heatmaps = estimator.model(crop(image, center, side, 64)[None])[-1][0][0]
    for n in range(16):
        peak = int(heatmaps[n].argmax())
        cell = np.array([peak % 16, peak // 16])
        expected = center - np.array([side, side]) / 2 + (cell + 0.5) * side / 16      # the middle of that cell in the photograph
        assert np.abs(pose.joints[n] - expected).max() <= side / 16 / 2 + 1e-3
        assert pose.confidence[n] == pytest.approx(heatmaps[n].max().item(), rel=1e-4)


def test_boxes_in_one_call_are_as_one_by_one(estimator):
    image, boxes = picture_of([1, 2, 3]), [(0, 0, 90, 90), (100, 5, 60, 80)]
    for together, box in zip(estimator(image, boxes), boxes, strict=True):
        alone, = estimator(image, [box])
        np.testing.assert_allclose(together.joints, alone.joints, atol=1e-3)


def test_without_a_box_the_whole_picture_is_one_person(estimator):
    image = picture_of([5])
    np.testing.assert_allclose(estimator(image)[0].joints, estimator(image, [(0, 0, 96, 96)])[0].joints)
    assert estimator(image, []) == []


def test_a_pose_names_its_joints():
    pose = Pose(np.zeros((14, 2)), np.ones(14), LSP, (0, 0, 1, 1))
    assert pose.to_dict()["joints"]["head_top"] == [0.0, 0.0, 1.0]
