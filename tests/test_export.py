"ONNX: the same answers, for any number of squares, with the mirror inside or not."
import json
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from msspose.crops import CropStore
from msspose.data import load_lspet
from msspose.export import CropsToJoints, compare_onnx, export_onnx, ties
from msspose.inference import PoseEstimator, Square
from msspose.data import square_of
from msspose.people import People
from msspose.regression import PoseNet
from msspose.skeleton import LSP


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "With the mirror inside, as it is exported by default."
    estimator = PoseEstimator.from_pretrained("people")
    return estimator, export_onnx(estimator, tmp_path_factory.mktemp("onnx") / "people.onnx")


def session_of(file): return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def test_onnxruntime_answers_as_pytorch_does_for_any_number(exported):
    estimator, file = exported
    images = People("standard", "test").batch(range(33)).images
    difference = compare_onnx(estimator, file, images)
    assert difference["joints"] < 1e-3 and difference["confidence"] < 1e-4 and difference["count"] == 33 * 16 and difference["ties"] <= 3
    session, network = session_of(file), CropsToJoints(estimator)
    for count in (1, 2, 3, 17):
        joints, confidence = session.run(None, {"images": images[:count].numpy()})
        with torch.no_grad(): expected, peaks = network(images[:count])
        assert joints.shape == (count, 16, 2) and confidence.shape == (count, 16)
        apart = np.abs(joints - expected.numpy()).max(-1)[~ties(network.heatmaps(images[:count]).detach())]
        assert apart.max() < 1e-3


def test_the_file_is_whole_and_says_what_it_is(exported):
    estimator, file = exported
    onnx.checker.check_model(onnx.load(file))
    session = session_of(file)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["joints"]) == list(estimator.skeleton.joints) and (about["size"], about["flip"]) == ("64", "True")
    (image,), outputs = session.get_inputs(), session.get_outputs()
    assert image.name == "images" and image.shape[1:] == [3, 64, 64] and isinstance(image.shape[0], str)
    assert [output.name for output in outputs] == ["joints", "confidence"]
    assert file.stat().st_size < 4_000_000 and [path.name for path in file.parent.iterdir()] == ["people.onnx"]    # weights once, inside


def test_what_is_exported_is_what_the_estimator_says(exported):
    estimator, _ = exported
    pictures = (People("plain", "test", size=160).batch([1, 2]).images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    box = (16, 16, 128, 128)
    center, side = square_of(np.array(box))
    crops = torch.stack([Square(picture, center, side).cut(64) for picture in pictures])
    with torch.no_grad(): joints, peaks = CropsToJoints(estimator)(crops)
    for k, (pose,) in enumerate(estimator(list(pictures), [[box]] * 2)):
        back = center - side / 2 + (joints[k].numpy() + 0.5) * side / 64                  # as the page says
        np.testing.assert_allclose(pose.joints, back, atol=1e-2)
        np.testing.assert_allclose(pose.confidence, peaks[k], atol=1e-3)


def test_real_crops_give_the_same_joints(exported, real_data):
    estimator, file = exported
    store = CropStore.from_annotations(load_lspet(real_data / "lspet", "val")[range(24)], 64, progress=False)
    difference = compare_onnx(estimator, file, store.batch(range(24)).images)
    assert difference["joints"] < 1e-3 and difference["ties"] <= 3


def test_a_difference_is_seen(exported):
    "The comparison is with another network, then with the mirror left out."
    estimator, file = exported
    images = People("standard", "test").batch(range(8)).images
    other = PoseEstimator(PoseNet(n_stacks=1, width=8, depth=2), estimator.skeleton, 64)
    assert compare_onnx(other, file, images)["confidence"] > 0.1
    assert compare_onnx(estimator, file, images, flip=False)["joints"] > 1e-2


def test_another_skeleton_and_size_without_the_mirror_and_without_a_word(tmp_path, capfd):
    torch.manual_seed(0)
    network = PoseNet(LSP, n_stacks=1, width=8, depth=2, regression=False)
    for p in network.parameters(): torch.nn.init.normal_(p, std=0.3)
    estimator = PoseEstimator(network, LSP, 96)
    file = export_onnx(estimator, tmp_path / "a.onnx", flip=False)
    assert capfd.readouterr() == ("", "")
    difference = compare_onnx(estimator, file, torch.rand(5, 3, 96, 96), flip=False)
    assert difference["joints"] < 1e-3 and difference["count"] == 5 * 14
    about = session_of(file).get_modelmeta().custom_metadata_map
    assert json.loads(about["joints"]) == list(LSP.joints) and (about["size"], about["flip"]) == ("96", "False")


def test_a_tie_is_two_equal_places_far_apart():
    maps = torch.zeros(1, 4, 8, 8)
    maps[0, :, 2, 2] = 1
    maps[0, 1, 2, 3] = 1                       # beside it: the sub-pixel step says the same of both
    maps[0, 2, 6, 6] = 1
    maps[0, 3, 6, 6] = 1 - 1e-3
    assert ties(maps).tolist() == [[False, False, True, False]]


@pytest.mark.parametrize("name", ["people.pt", "people", "people.onnx.zip"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="ends in .onnx"): export_onnx(PoseEstimator.from_pretrained("people"), tmp_path / name)


def test_what_is_missing_is_named_with_the_remedy(tmp_path, monkeypatch):
    import importlib.util
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == "onnxscript" else real(name, *args))
    with pytest.raises(ValueError, match=r"pip install msspose\[onnx\] \(onnxscript missing\)"):
        export_onnx(PoseEstimator.from_pretrained("people"), tmp_path / "a.onnx")


def test_where_there_can_be_no_file_is_said_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: pytest.fail("exported"))
    people = PoseEstimator.from_pretrained("people")
    with pytest.raises(OSError, match="cannot be written"): export_onnx(people, tmp_path / "file" / "a.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_is_full_leaves_no_half_file(tmp_path, monkeypatch):
    def save(aside):
        aside.write_bytes(b"half of")
        raise OSError(28, "No space left on device")
    program = SimpleNamespace(model=SimpleNamespace(metadata_props={}), save=save)
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kwargs: program)
    people = PoseEstimator.from_pretrained("people")
    with pytest.raises(OSError, match="a.onnx: cannot be written .No space"): export_onnx(people, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
