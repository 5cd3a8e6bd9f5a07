"What is taken for the same output, and what is not."
import base64
import io

import numpy as np
import pytest
from PIL import Image
from stored import WIDGET, differences, same_line


@pytest.mark.parametrize("stored, fresh, same", [
    ("PCKh 57.3 of 2,958", "PCKh 57.3 of 2,958", True), ("PCKh 57.3", "PCKh  57.4", True), ("PCKh 57.3", "PCKh 59.3", False),
    ("2,958 people", "2,959 people", True), ("2,958 people", "3,100 people", False), ("3 of 4", "4 of 4", True),
    ("3 of 40", "7 of 40", False),
    ("loss 1.0e-5", "loss 1.01e-5", True), ("loss 1.0e-5", "loss 9.0e-5", False),
    ("-0.5 points", "0.5 points", False),
    ("it took 12 ms", "it took 30 ms", True), ("it took 12 ms", "it took 30 s", False), ("about 12 of them", "about 30 of them", True),
    ("450 people/s", "90 people/s", True), ("0.3 GB of 24.2 GB", "0.3 GB of 8.0 GB", True), ("12 people", "30 people", False),
    ("better on elbow", "better on wrist", False), ("right", "", False)])
def test_lines(stored, fresh, same):
    assert same_line(stored, fresh) == same


def picture(values: np.ndarray, kind: str = "png", frames: int = 1) -> str:
    film = [Image.fromarray((values + 20 * k).astype(np.uint8)) for k in range(frames)]
    film[0].save(file := io.BytesIO(), kind, **({"save_all": True, "append_images": film[1:]} if frames > 1 else {}))
    return base64.b64encode(file.getvalue()).decode()


def cell(*outputs, source="f()") -> dict: return {"cell_type": "code", "source": [source], "outputs": list(outputs)}
def printed(text): return {"output_type": "stream", "name": "stdout", "text": [text]}
def data(**content): return {"output_type": "display_data", "data": {kind.replace("_", "/"): value for kind, value in content.items()}}


grey = np.full((60, 80, 3), 120.0)
speckled = np.clip(grey + np.random.default_rng(0).normal(0, 3, grey.shape), 0, 255)
half_black = np.where(np.arange(80)[:, None] < 40, 0, grey)
A, NEAR, FAR = (data(image_png=picture(values)) for values in (grey, speckled, half_black))
FILM, LONGER = (data(text_html=f'<img alt="a person" src="data:image/gif;base64,{picture(grey, "gif", n)}">') for n in (2, 3))


@pytest.mark.parametrize("stored, fresh, words", [
    (cell(printed("a")), cell(printed("a")), ""), (cell(printed("a")), cell(printed("b")), "on the page: 'a'; when run: 'b'"),
    (cell(printed("a")), cell(), "shows"), (cell(printed("a")), cell(printed("a\nb")), "1 lines on the page, 2 when run"),
    (cell(printed("a"), A), cell(A, printed("a")), ""), (cell(printed("a\n"), printed("b")), cell(printed("a\nb")), ""),
    (cell(A), cell(NEAR), ""), (cell(A), cell(FAR), "of 255 away"), (cell(A), cell(data(image_png=picture(grey[::2, ::2]))), ""),
    (cell(FILM), cell(FILM), ""), (cell(FILM), cell(LONGER), "of 2 frames on the page, of 3"),
    (cell(data(text_markdown="| 1 |")), cell(data(text_markdown="| 2 |")), ""),
    (cell(data(text_markdown="| 1 |")), cell(data(text_plain="| 1 |")), "shows"),
    (cell(printed("1"), source="#| measured: true\nf()"), cell(printed("9")), ""),
    (cell(printed("1"), source="#| measured: true"), cell(A), "shows"),
    (cell(A, printed("a")), cell({"output_type": "display_data", "data": {WIDGET: {"model_id": "1"}}}, printed("a")), ""),
    (cell(A), cell({"output_type": "stream", "name": "stderr", "text": "no"}), "shows")])
def test_cells(stored, fresh, words):
    found = differences(stored, fresh)
    assert bool(found) == bool(words) and words in " ".join(found)
