"What all tests share: one thread, no window, examples without a clock, and the folder of real photographs."
import gc
import os
import sys
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")   # threads that spin while they wait are slow on a busy machine
os.environ.setdefault("MPLBACKEND", "agg")

os.environ["MSSPOSE_STORES"] = tempfile.mkdtemp(prefix="msspose-")   # what a test makes of photographs is not kept in the home folder
os.environ["MSSPOSE_PROGRESS"] = os.path.join(os.environ["MSSPOSE_STORES"], "progress.txt")   # nor is what it solves

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.pop("MSSPOSE_DATA", "") or ROOT.parent / "shared" / "data")   # of the tests: commands are tried without it

try:
    import hypothesis
except ImportError:
    pass   # those who run one file without the extra dev
else:
    hypothesis.settings.register_profile("msspose", deadline=None, print_blob=True)   # no test depends on wall-clock time
    hypothesis.settings.load_profile("msspose")


frozen = [0]   # how many modules there were at the last look


def pytest_runtest_setup(item):
    "A training collects garbage three times. Modules are none: they are not looked through for it, a fifth of what such a test took."
    if len(sys.modules) > frozen[0] + 50:
        gc.collect()
        gc.freeze()
        frozen[0] = len(sys.modules)


PLACES = {}   # where the tests of this session write: messages are kept without it


@pytest.fixture(scope="session", autouse=True)
def place(tmp_path_factory): PLACES["session"] = tmp_path_factory.getbasetemp()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    "What the package's errors say stays what it is. Left out: values that are made up anew, and real data, which are not ours to keep."
    title, names = pyfuncitem.path.stem.removeprefix("test_"), pyfuncitem.function.__code__.co_names
    left_out = getattr(pyfuncitem.obj, "is_hypothesis_test", False) or "real_data" in pyfuncitem.fixturenames
    if left_out or not (ROOT / "msspose" / f"{title}.py").exists() or not {"raises", "error_of"} & {*names}: return (yield)
    from remembered import messages_remembered   # here: not every test needs what it imports

    with messages_remembered(f"{title}_messages", pyfuncitem.name): return (yield)


@pytest.fixture(scope="session")
def root() -> Path:
    "The folder of the checkout."
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    "The folder of real photographs and annotations; without it the test is skipped."
    if not DATA.is_dir(): pytest.skip(f"no real photographs: MSSPOSE_DATA or {DATA.name}/ beside the checkout would name their folder")
    return DATA
