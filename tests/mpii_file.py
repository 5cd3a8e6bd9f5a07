"Files of the structure of MPII's official annotations, as the data set's page describes it, in all the ways that MATLAB writes a thing."
from pathlib import Path

import numpy as np
import scipy.io

NOTHING = np.zeros((0, 0))


def struct(**fields) -> np.ndarray:
    "A 1 x 1 struct."
    record = np.empty((1, 1), [(name, object) for name in fields])
    record[0, 0] = tuple(fields.values())
    return record


def rect(person: dict | None = None) -> np.ndarray:
    "One person; without one, a square and a head and no joints, as in test pictures."
    if person is None: return struct(x1=1.0, y1=1.0, x2=9.0, y2=9.0, scale=1.0, objpos=struct(x=5.0, y=5.0))
    fields = [(name, object) for name in ("x", "y", "id", "is_visible")]
    joints = [j for j in range(16) if person["annotated"][j]]
    points = np.empty((1, len(joints)), fields)
    for k, j in enumerate(joints): points[0, k] = *person["xy"][j], j, person["written"][j]
    x, y = person["objpos"]
    box = dict(x1=0.0, y1=0.0, x2=person["head"] / 0.6, y2=0.0)
    return struct(**box, annopoints=struct(point=points) if person["posed"] else NOTHING, scale=person["scale"], objpos=struct(x=x, y=y))


def release(images: list, rects: list, training: list, alone: list) -> np.ndarray:
    "RELEASE."
    annolist, single = np.empty((1, len(images)), [("image", object), ("annorect", object)]), np.empty((len(alone), 1), object)
    for i, (image, people) in enumerate(zip(images, rects, strict=True)):
        annolist[0, i] = image, np.concatenate(people, 1) if people else NOTHING
    for i, who in enumerate(alone): single[i, 0] = np.array(who)[:, None] if len(who) else NOTHING
    return struct(annolist=annolist, img_train=np.array([training], np.uint8), version=12, single_person=single)


def made_people(pictures: int, seed: int = 0) -> list[dict]:
    "Everybody, as the file will say it: 1-based, raw scale."
    rng, people = np.random.default_rng(seed), []
    for picture in range(pictures):
        count, train = int(rng.choice([0, 1, 1, 1, 2, 2, 3, 5], p=[0.05, 0.15, 0.15, 0.15, 0.15, 0.15, 0.1, 0.1])), picture % 4 > 0
        for person in range(count):
            scale, middle = round(rng.uniform(1, 4), 3), rng.uniform((200, 200), (900, 500)).round()
            seen, annotated = rng.random(16) < 0.75, rng.random(16) < 0.92
            annotated[8:10], seen[8:10] = True, True
            xy = (middle + rng.normal(0, 44 * scale, (16, 2))).round(3)
            yes, no = ([1, "1", 1.0, NOTHING], [0, "0", 0.0])                          # nothing written counts as visible
            written = [(yes if s else no)[int(rng.integers(4 if s else 3))] for s in seen]
            posed = train and (picture == 1 or rng.random() < 0.9)
            people.append(dict(picture=picture, person=person, train=train, posed=posed, single=count < 3, scale=scale,
                               objpos=tuple(middle), xy=xy, seen=seen, annotated=annotated, written=written,
                               head=0.75 * float(np.linalg.norm(xy[8] - xy[9]))))
    return people


def write_release(file: Path, pictures: int, seed: int = 0) -> list[dict]:
    "The file, and who is in it."
    people = made_people(pictures, seed)
    by_picture = [[p for p in people if p["picture"] == i] for i in range(pictures)]
    content = release([struct(name=f"{i:09d}.jpg") for i in range(pictures)], [[rect(p) for p in some] for some in by_picture],
                      [i % 4 > 0 for i in range(pictures)], [[p["person"] + 1 for p in some if p["single"]] for some in by_picture])
    scipy.io.savemat(file, {"RELEASE": content}, do_compression=True)
    return people
