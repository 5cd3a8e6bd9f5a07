"What reading MPII costs at its real size: a file of the official structure with 25,000 pictures and a JSON of 25,204 people, made here."
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from mpii_file import made_people, write_release

READ = """
import resource, sys, time
from msspose.data import load_mpii
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
table = load_mpii(sys.argv[1])
took, most = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{len(table):,} of {len(table.crowd):,} people, {took:.1f} s, at most {most / 1e6:.2f} GB resident ({before / 1e6:.2f} before)")
"""


def record(p: dict) -> dict:
    "One person of the public JSON, with one other."
    points = [[*xy, float(seen)] for xy, seen in zip(p["xy"].tolist(), p["seen"], strict=True)]
    other = [[x + 50, y, seen] for x, y, seen in points]
    return {"isValidation": 0.0, "img_paths": f"{p['picture']:09d}.jpg", "img_width": 1280.0, "img_height": 720.0,
            "objpos": list(p["objpos"]), "joint_self": points, "scale_provided": p["scale"], "joint_others": other, "numOtherPeople": 1.0,
            "annolist_index": p["picture"] + 1.0, "people_index": p["person"] + 1.0}


def main():
    with tempfile.TemporaryDirectory() as folder:
        official, listed = Path(folder, "mpii_human_pose_v1_u12_1.mat"), Path(folder, "mpii_annotations.json")
        write_release(official, 25_000)
        listed.write_text(json.dumps([record(p) for p in made_people(20_000)[:25_204]]))
        for file in (official, listed):
            said = subprocess.run([sys.executable, "-c", READ, str(file)], capture_output=True, text=True, check=True).stdout
            print(f"{file.name}, {file.stat().st_size / 1e6:.1f} MB: {said}", end="")


if __name__ == "__main__": main()
