"The scripts that download: against a server that misbehaves in every way, killed at every step, with archives that attack."
import contextlib
import errno
import gzip
import hashlib
import importlib.util
import io
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "data_scripts"
NAMES = ("mpii", "flic", "lsp", "lspet", "coco", "people")


def script(name: str):
    "A script as a module, with its folder on the path as Python has it when it is run."
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location(f"data_scripts_{name}", SCRIPTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally: sys.path.remove(str(SCRIPTS))
    return module


scripts = {name: script(name) for name in NAMES}
download = sys.modules["download"]
DownloadError, Part, Remote, fetch, unpack = (getattr(download, name) for name in ("DownloadError", "Part", "Remote", "fetch", "unpack"))
kills = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
forks = pytest.mark.skipif(sys.platform != "linux", reason="kills forks of a process with threads, which is safe on Linux only")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    "The server is on this machine, whatever the environment says about proxies."
    for name in ("no_proxy", "NO_PROXY"): monkeypatch.setenv(name, "127.0.0.1")


# --- a server with moods -------------------------------------------------------------------------------------------------------------

class Site:
    "A server on this machine. Each request to a path takes the next of its moods, the last for ever; all requests are recorded."
    def __init__(self):
        self.bodies, self.moods, self.requests, self.etag, self.victim = {}, {}, [], '"v1"', None
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args): pass
            def do_GET(self):
                site.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                moods = site.moods.get(self.path, [whole])
                mood = moods.pop(0) if len(moods) > 1 else moods[0]
                with contextlib.suppress(BrokenPipeError, ConnectionResetError): mood(self, site.bodies.get(self.path, b""), site)
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def remote(self, name: str, body: bytes, *moods, known=True, **more) -> "Remote":
        self.bodies[f"/{name}"], self.moods[f"/{name}"] = body, list(moods) or [whole]
        sums = {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()} if known else {}
        return Remote(**{"name": name, "url": f"{self.url}/{name}", "page": "http://example.org/page", **sums, **more})

    def ranges(self, path: str) -> list: return [headers.get("range") for asked, headers in self.requests if asked == path]


@pytest.fixture
def site():
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def head(h, code, length=None, **headers):
    h.send_response(code)
    for name, value in headers.items(): h.send_header(name.replace("_", "-"), value)
    if length is not None: h.send_header("Content-Length", str(length))
    h.end_headers()


def asked_for(h, body, site):
    "The first byte of the answer: what Range says, if nothing has changed since."
    match = re.fullmatch(r"bytes=(\d+)-", h.headers.get("Range") or "")
    return int(match[1]) if match and h.headers.get("If-Range") in (None, site.etag) else 0


def begin(h, body, site):
    start = asked_for(h, body, site)
    if start and start >= len(body): head(h, 416, 0, Content_Range=f"bytes */{len(body)}"); return b""
    extra = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
    head(h, 206 if start else 200, len(body) - start, ETag=site.etag, **extra)
    return body[start:]


def whole(h, body, site): h.wfile.write(begin(h, body, site))
def breaks_after(n): return lambda h, body, site: h.wfile.write(begin(h, body, site)[:n])
def status(code, **headers): return lambda h, body, site: head(h, code, 0, **headers)
def drops(h, body, site): h.connection.close()
def garbage(h, body, site): h.wfile.write(b"\x00\xff\x13 this is no HTTP \r\n\r\n" * 3)
def page(h, body, site): h.wfile.write((head(h, 200, None, Content_Type="text/html"), b"\n <!DOCTYPE html><html>please sign in</html>")[1])
def no_length(h, body, site): head(h, 200); h.wfile.write(body)


def ignores_range(h, body, site): head(h, 200, len(body), ETag=site.etag); h.wfile.write(body)
def ignores_range_and_breaks(n):
    return lambda h, body, site: (head(h, 200, len(body), ETag=site.etag), h.wfile.write(body[:n]))


def announces(n, code=200, sent=None, **headers):
    "A length that is not that of the file, or other bytes."
    return lambda h, body, site: (head(h, code, n, **headers), h.wfile.write(body if sent is None else sent))


def chunked(cut=None, **headers):
    def mood(h, body, site):
        head(h, 200, Transfer_Encoding="chunked", **headers)
        for i in range(0, len(body), 1000):
            if cut is not None and i >= cut: return
            h.wfile.write(b"%x\r\n%s\r\n" % (len(body[i:i + 1000]), body[i:i + 1000]))
        h.wfile.write(b"0\r\n\r\n")
    return lambda h, body, site: (setattr(h, "protocol_version", "HTTP/1.1"), mood(h, body, site))


BODY = np.random.default_rng(0).bytes(50_000)


class Waits(list):
    "Stands for time.sleep, and keeps what it was asked for."
    __call__ = list.append


def tree(folder: Path) -> dict:
    "Every file below a folder and what is in it; folders too."
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def one_line(error) -> str:
    text = str(error.value if hasattr(error, "value") else error)
    assert text and "\n" not in text and "Traceback" not in text
    return text


# --- downloading ---------------------------------------------------------------------------------------------------------------------

def test_a_file_arrives_and_is_recorded(site, tmp_path):
    record = fetch(site.remote("a.bin", BODY), tmp_path)
    assert tree(tmp_path) == {"a.bin": BODY}
    assert record == {"name": "a.bin", "url": f"{site.url}/a.bin", "size": 50_000, "sha256": hashlib.sha256(BODY).hexdigest(),
                      "checked_by": "SHA-256 as published"}
    fetch(site.remote("a.bin", BODY), tmp_path)
    assert len(site.requests) == 1   # the second time it is only checked


def test_a_broken_download_goes_on_where_it_was(site, tmp_path):
    waits = Waits()
    fetch(site.remote("a.bin", BODY, breaks_after(20_000), breaks_after(7), whole), tmp_path, wait=waits)
    assert tree(tmp_path) == {"a.bin": BODY} and waits == [1, 1]
    assert site.ranges("/a.bin") == [None, "bytes=20000-", "bytes=20007-"]
    assert [headers.get("if-range") for _, headers in site.requests] == [None, '"v1"', '"v1"']
    assert {headers["accept-encoding"] for _, headers in site.requests} == {"identity"}


def test_headway_resets_the_count_of_failures(site, tmp_path):
    waits, steps = Waits(), [mood for _ in range(8) for mood in (drops, status(503), breaks_after(5000))]
    fetch(site.remote("a.bin", BODY, *steps, whole), tmp_path, wait=waits)
    assert len(steps) > download.TRIES and tree(tmp_path) == {"a.bin": BODY}
    assert waits == [2, 4, 1] * 8


@pytest.mark.parametrize("mood, says", [
    (status(503), "answers 503 Service Unavailable"), (status(500), "answers 500"), (status(429), "answers 429"),
    (drops, "gives no answer"), (garbage, "gives no answer"), (announces(50_000, sent=b""), "sends nothing"),
    (announces(60_000), "breaks off after 50,000 of 60,000 bytes")])
def test_without_headway_it_gives_up_and_says_so(site, tmp_path, mood, says):
    waits, remote = Waits(), site.remote("a.bin", BODY, mood, size=None)
    with pytest.raises(DownloadError) as e: fetch(remote, tmp_path, wait=waits)
    remedy = r"run the same command again later(, it goes on after 50,000 bytes)?; or download .* from http://example.org/page, then"
    assert re.search(rf"{says}.*, 5 times in a row; {remedy}", one_line(e))
    assert waits[-4:] == [2, 4, 8, 16] and not (tmp_path / "a.bin").exists()


def test_the_next_run_goes_on_after_a_failed_one(site, tmp_path):
    remote = site.remote("a.bin", BODY, breaks_after(30_000), status(503))
    with pytest.raises(DownloadError, match="goes on after 30,000 bytes"): fetch(remote, tmp_path, wait=Waits())
    assert (tmp_path / "a.bin.partial").read_bytes() == BODY[:30_000]
    site.moods["/a.bin"] = [whole]
    fetch(remote, tmp_path)
    assert tree(tmp_path) == {"a.bin": BODY} and site.ranges("/a.bin")[-1] == "bytes=30000-"


def test_a_pause_that_is_asked_for_is_kept_within_reason(site, tmp_path):
    waits, asked = Waits(), [("503", "7"), ("429", "Wed, 21 Oct 2015 07:28:00 GMT"), ("503", "soon")]
    fetch(site.remote("a.bin", BODY, *(status(int(code), Retry_After=when) for code, when in asked), whole), tmp_path, wait=waits)
    assert waits == [7, 0, 8]
    for name, later in (("b.bin", "90000"), ("c.bin", "Fri, 01 Jan 2900 00:00:00 GMT")):
        with pytest.raises(DownloadError, match="asks for a pause of [0-9,]+ seconds; run the same command again later"):
            fetch(site.remote(name, BODY, status(503, Retry_After=later)), tmp_path, wait=Waits())
        assert len(site.ranges(f"/{name}")) == 1


@pytest.mark.parametrize("code", [404, 403, 410, 401])
def test_what_is_not_there_is_said_at_once(site, tmp_path, code):
    with pytest.raises(DownloadError) as e: fetch(site.remote("a.bin", BODY, status(code)), tmp_path, wait=Waits())
    by_hand = "download a.bin by hand from http://example.org/page, then run again with --from FOLDER"
    assert re.match(rf"{site.url}/a.bin answers {code} .*; {by_hand}", one_line(e))
    assert len(site.requests) == 1 and tree(tmp_path) == {}


def test_a_server_that_ignores_range_sends_all_of_it_again(site, tmp_path):
    fetch(site.remote("a.bin", BODY, breaks_after(20_000), ignores_range), tmp_path, wait=Waits())
    assert site.ranges("/a.bin") == [None, "bytes=20000-"] and tree(tmp_path) == {"a.bin": BODY}


def test_a_file_that_changed_in_between_begins_again(site, tmp_path):
    new = BODY[::-1]
    remote = site.remote("a.bin", BODY, breaks_after(20_000), known=False)
    def changed(h, body, site):
        site.etag, site.bodies["/a.bin"] = '"v2"', new
        whole(h, new, site)
    site.moods["/a.bin"].append(changed)
    fetch(replace(remote, sha256=hashlib.sha256(new).hexdigest()), tmp_path, wait=Waits())
    assert tree(tmp_path) == {"a.bin": new} and site.requests[1][1]["if-range"] == '"v1"'


def test_a_weak_tag_promises_nothing(site, tmp_path):
    site.etag = 'W/"v1"'
    fetch(site.remote("a.bin", BODY, breaks_after(20_000), whole), tmp_path, wait=Waits())
    assert "if-range" not in site.requests[1][1] and tree(tmp_path) == {"a.bin": BODY}


def with_partial(folder, remote, body, **state):
    "What a killed run leaves."
    known = {"url": remote.url, "size": remote.size, "sha256": remote.sha256, "total": None, "etag": "", "modified": ""}
    (folder / "a.bin.partial").write_bytes(body)
    (folder / "a.bin.partial.json").write_text(json.dumps({**known, **state}))


def test_416_when_nothing_is_missing_is_the_end(site, tmp_path):
    remote = site.remote("a.bin", BODY, size=None)
    with_partial(tmp_path, remote, BODY)
    fetch(remote, tmp_path, wait=Waits())
    assert site.ranges("/a.bin") == ["bytes=50000-"] and tree(tmp_path) == {"a.bin": BODY}


def test_416_when_something_is_missing_begins_again(site, tmp_path):
    remote = site.remote("a.bin", BODY, status(416), whole)
    with_partial(tmp_path, remote, BODY[:9], total=50_000)
    fetch(remote, tmp_path, wait=Waits())
    assert site.ranges("/a.bin") == ["bytes=9-", None] and tree(tmp_path) == {"a.bin": BODY}


def test_nothing_is_asked_for_when_all_has_come(site, tmp_path):
    remote = site.remote("a.bin", BODY)
    with_partial(tmp_path, remote, BODY, total=50_000)
    fetch(remote, tmp_path)
    assert site.requests == [] and tree(tmp_path) == {"a.bin": BODY}


@pytest.mark.parametrize("answer", ["bytes 5-49999/50000", "bytes 9-59999/60000", "bytes */50000", "lines 9-", None])
def test_other_bytes_than_asked_for_are_not_taken(site, tmp_path, answer):
    remote = site.remote("a.bin", BODY, announces(5, 206, b"wrong", **({"Content_Range": answer} if answer else {})), whole)
    with_partial(tmp_path, remote, BODY[:9], total=50_000)
    fetch(remote, tmp_path, wait=Waits())
    assert tree(tmp_path) == {"a.bin": BODY} and site.ranges("/a.bin") == ["bytes=9-", None]


def test_more_bytes_than_announced_are_not_taken(site, tmp_path):
    remote = site.remote("a.bin", BODY, announces(50_000, 206, Content_Range="bytes 9-49999/50000"), whole)
    with_partial(tmp_path, remote, BODY[:9], total=50_000)
    fetch(remote, tmp_path, wait=Waits())
    assert tree(tmp_path) == {"a.bin": BODY} and site.ranges("/a.bin") == ["bytes=9-", None]


@pytest.mark.parametrize("state", [{"url": "http://example.org/a.bin"}, {"sha256": "0" * 64}, {"size": 7}, {"total": 3}, None, "nonsense"])
def test_the_beginning_of_another_file_is_not_continued(site, tmp_path, state):
    remote = site.remote("a.bin", BODY)
    with_partial(tmp_path, remote, b"other", **(state if isinstance(state, dict) else {}))
    if state is None: (tmp_path / "a.bin.partial.json").unlink()
    if state == "nonsense": (tmp_path / "a.bin.partial.json").write_text("{")
    fetch(remote, tmp_path)
    assert site.ranges("/a.bin") == [None] and tree(tmp_path) == {"a.bin": BODY}


def test_a_web_page_is_no_archive_and_does_not_spoil_what_is_there(site, tmp_path):
    remote = site.remote("a.zip", zipped({"a": BODY}), breaks_after(20_000), page)
    with pytest.raises(DownloadError, match="sends a web page instead of a.zip; download a.zip by hand from http://example.org/page") as e:
        fetch(remote, tmp_path, wait=Waits())
    one_line(e)
    assert (tmp_path / "a.zip.partial").stat().st_size == 20_000
    site.moods["/a.zip"] = [whole]
    fetch(remote, tmp_path)
    assert site.ranges("/a.zip")[-1] == "bytes=20000-"


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.h5", "a.mat", "a.json"])
def test_garbage_is_seen_at_its_first_bytes(site, tmp_path, name):
    with pytest.raises(DownloadError, match=f"sends something that begins with b'.*' instead of {name}; download"):
        fetch(site.remote(name, b"\x07" + BODY, known=False), tmp_path)
    assert tree(tmp_path) == {}


def test_a_wrong_checksum_is_told_and_the_next_run_begins_afresh(site, tmp_path):
    remote, wrong = site.remote("a.bin", BODY), BODY[:-1] + b"?"
    site.bodies["/a.bin"] = wrong
    with pytest.raises(DownloadError) as e: fetch(remote, tmp_path)
    found = hashlib.sha256(wrong).hexdigest()
    assert re.search(rf"expected SHA-256 {remote.sha256}, found {found}; .*removed, the next run begins afresh", one_line(e))
    assert tree(tmp_path) == {}
    site.bodies["/a.bin"] = BODY
    fetch(remote, tmp_path)
    assert tree(tmp_path) == {"a.bin": BODY} and site.ranges("/a.bin") == [None, None]


def test_a_published_md5_is_checked_too(site, tmp_path):
    remote = site.remote("a.bin", BODY, known=False, md5=hashlib.md5(BODY).hexdigest())
    assert fetch(remote, tmp_path)["checked_by"] == "MD5 as published"
    with pytest.raises(DownloadError, match=f"expected MD5 {'0' * 32}, found {remote.md5}"):
        fetch(replace(remote, md5="0" * 32, name="b.bin"), tmp_path)


def test_a_file_that_was_downloaded_before_has_to_be_the_same_again(site, tmp_path):
    remote = site.remote("a.zip", zipped({"a": BODY}), known=False)
    record = fetch(remote, tmp_path)
    (tmp_path / "a.zip").unlink()
    site.bodies["/a.zip"] = zipped({"a": BODY[1:]})
    with pytest.raises(DownloadError, match=rf"expected SHA-256 {record['sha256']} as in checksums.json, found .*delete checksums.json"):
        fetch(remote, tmp_path, record)


@pytest.mark.parametrize("announced", [49_999, 50_001, 7])
def test_a_wrong_length_is_told_before_anything_is_written(site, tmp_path, announced):
    with pytest.raises(DownloadError, match=rf"expected 50,000 bytes, the server announces {announced:,}: "):
        fetch(site.remote("a.bin", BODY, announces(announced)), tmp_path)
    assert tree(tmp_path) == {}


def test_a_length_that_is_too_short_shows_in_the_archive(site, tmp_path):
    body = zipped({"a": BODY})
    with pytest.raises(DownloadError, match=r"truncated or damaged \(File is not a zip file\)"):
        fetch(site.remote("a.zip", body, announces(len(body) - 100), known=False), tmp_path)
    with pytest.raises(DownloadError, match="truncated or damaged"):
        fetch(site.remote("a.tar.gz", tarred({"a": BODY})[:-20], no_length, known=False), tmp_path)
    assert tree(tmp_path) == {}


def test_a_wrong_byte_shows_in_the_archive(site, tmp_path):
    body = bytearray(zipped({"a": BODY}))
    body[20_000] ^= 1
    with pytest.raises(DownloadError, match="a is damaged in it; get the archive again; it was removed"):
        fetch(site.remote("a.zip", bytes(body), known=False), tmp_path)
    body = bytearray(tarred({"a": BODY}))
    body[-6] ^= 1   # of the checksum of the whole
    with pytest.raises(DownloadError, match=r"truncated or damaged \(CRC check failed"):
        fetch(site.remote("a.tar.gz", bytes(body), known=False), tmp_path)
    assert tree(tmp_path) == {}


def test_without_a_length_the_end_is_believed_when_the_checksum_agrees(site, tmp_path):
    waits = Waits()
    fetch(site.remote("a.bin", BODY, chunked(Content_Length="7")), tmp_path, wait=waits)   # chunks are what counts
    fetch(site.remote("b.bin", BODY, chunked(cut=10_000), chunked()), tmp_path, wait=waits)
    fetch(site.remote("c.bin", BODY, lambda h, body, site: (head(h, 200), h.wfile.write(body[:700])), whole), tmp_path, wait=waits)
    assert tree(tmp_path) == {"a.bin": BODY, "b.bin": BODY, "c.bin": BODY} and waits == [1, 1]


def test_redirections_are_followed_and_ranges_with_them(site, tmp_path):
    site.remote("b.bin", BODY, breaks_after(20_000), whole)
    fetch(site.remote("a.bin", BODY, status(302, Location="/b.bin")), tmp_path, wait=Waits())
    assert site.ranges("/b.bin") == [None, "bytes=20000-"] and tree(tmp_path) == {"a.bin": BODY}
    for name, target in (("c.bin", "/c.bin"), ("d.bin", "file:///etc/hostname"), ("e.bin", "ftp2://x/y")):
        with pytest.raises(DownloadError, match="answers 302 .*; download .* by hand") as e:
            fetch(site.remote(name, BODY, status(302, Location=target)), tmp_path)
        one_line(e)


def test_a_server_that_is_away_or_falls_silent_is_tried_again(site, tmp_path, monkeypatch):
    silent = threading.Event()
    def stalls(h, body, site): begin(h, body, site); h.wfile.write(body[:9]); h.wfile.flush(); silent.wait(20)
    remote = site.remote("a.bin", BODY, stalls, whole)
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    def patient(seconds): download.TIMEOUT = 60   # so that only the first connection can be too slow
    fetch(remote, tmp_path, wait=patient)
    silent.set()
    assert len(site.requests) == 2 and tree(tmp_path) == {"a.bin": BODY}
    with pytest.raises(DownloadError, match=r"cannot be reached \([^<]*refused[^)]*\), 5 times in a row; run the same command again"):
        fetch(replace(remote, name="b.bin", url="http://127.0.0.1:1/b.bin"), tmp_path, wait=Waits())


def test_a_certificate_that_is_not_valid_is_no_passing_fault(tmp_path, monkeypatch, site):
    import ssl
    broken = ssl.SSLCertVerificationError("certificate verify failed")
    broken.verify_message = "self-signed certificate"
    def refuse(*args, **kwargs): raise urllib.error.URLError(broken)
    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
    with pytest.raises(DownloadError, match=r"the certificate is not valid \(self-signed certificate\); download a.bin by hand"):
        fetch(site.remote("a.bin", BODY), tmp_path, wait=Waits())


MOODS = st.one_of(st.integers(1, 60_000).map(breaks_after), st.integers(1, 49_999).map(ignores_range_and_breaks), st.sampled_from(
    [drops, garbage, status(503), status(503, Retry_After="1"), status(416), ignores_range, chunked(cut=3000), no_length]))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MOODS, max_size=9), st.booleans())
def test_whatever_happens_on_the_way_the_file_is_the_file(site, tmp_path_factory, moods, known):
    folder, body = tmp_path_factory.mktemp("x"), BODY if known else zipped({"a": BODY})
    remote = site.remote("a.bin" if known else "a.zip", body, *moods, whole, known=known)
    for _ in range(12):   # runs: one may give up, or find a truncated archive, but none may believe a wrong one
        with contextlib.suppress(DownloadError): fetch(remote, folder, wait=Waits())
        if (folder / remote.name).exists(): break
    assert tree(folder) == {remote.name: body}


# --- the disk ------------------------------------------------------------------------------------------------------------------------

def test_a_disk_without_room_is_seen_before_it_is_full(site, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=40_000))
    with pytest.raises(DownloadError, match=r"a.bin needs 50 kB and 40 kB are free; make room, or give another --out") as e:
        fetch(site.remote("a.bin", BODY), tmp_path)
    one_line(e)
    archive = tmp_path / "x.zip"
    archive.write_bytes(zipped({"a.jpg": BODY}))
    with pytest.raises(DownloadError, match=r"unpacking x.zip needs 50 kB and 40 kB are free"):
        unpack(archive, pictures(), tmp_path / "images")
    assert not (tmp_path / "images").exists() and not (tmp_path / "images.unpacking").exists()


class Full(io.FileIO):
    "A file on a disk that has room for 20,000 bytes."
    def write(self, data):
        if self.tell() + len(data) > 20_000:
            super().write(data[:20_000 - self.tell()])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def full_disk(monkeypatch, *names):
    def opened(path, mode="r", **more): return Full(path, mode.replace("b", "")) if Path(path).name in names else open(path, mode, **more)
    monkeypatch.setattr(download, "open", opened, raising=False)


def test_a_disk_that_fills_up_keeps_what_has_come(site, tmp_path, monkeypatch):
    remote = site.remote("a.bin", BODY)
    with monkeypatch.context() as patch:
        full_disk(patch, "a.bin.partial")
        with pytest.raises(OSError) as e: fetch(remote, tmp_path)
    assert download.sentence(e.value, Path("data/x")) == (
        "data/x: the disk is full; make room and run the same command again, a download goes on where it is")
    assert (tmp_path / "a.bin.partial").read_bytes() == BODY[:20_000]
    fetch(remote, tmp_path)
    assert site.ranges("/a.bin") == [None, "bytes=20000-"] and tree(tmp_path) == {"a.bin": BODY}


def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(tmp_path, monkeypatch):
    archive = tmp_path / "x.zip"
    archive.write_bytes(zipped({"a.jpg": b"1", "b.jpg": BODY}))
    with monkeypatch.context() as patch:
        full_disk(patch, "b.jpg")
        with pytest.raises(OSError, match="No space left"): unpack(archive, pictures(), tmp_path / "images")
    assert list(tree(tmp_path)) == ["x.zip"]
    written(tmp_path, {"images.unpacking/half.jpg": b"of a run that was killed"})
    unpack(archive, pictures(), tmp_path / "images")
    assert tree(tmp_path / "images") == {"a.jpg": b"1", "b.jpg": BODY}


# --- unpacking -----------------------------------------------------------------------------------------------------------------------

def zipped(files: dict, method=zipfile.ZIP_STORED, change=lambda info: None) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as content:
        for name, body in files.items():
            info = zipfile.ZipInfo(name)
            info.filename, info.compress_type = name, method   # ZipInfo would mend some names
            change(info)
            content.writestr(info, body)
    return made.getvalue()


def tarred(files: dict, change=lambda member: None) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as content:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            change(member)
            content.addfile(member, io.BytesIO(body))
    return made.getvalue()


PACKERS = {"x.zip": zipped, "x.tar.gz": tarred}
both = pytest.mark.parametrize("name", PACKERS)


def pictures(files=r"[^/]*\.jpg", **more) -> "Part":
    return Part(**{"place": "images", "remote": Remote("x", "http://example.org/x", "http://example.org"), "files": files,
                   "folder": "(?:.*/)?", "limit": 1_000_000, "count": None, **more})


def refused(tmp_path, name, body, says, part=None):
    "Unpacking it is an error in one sentence that leaves nothing, inside or outside of the folder."
    archive = tmp_path / "in" / "deep" / name
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(body)
    before = tree(tmp_path)
    with pytest.raises(DownloadError, match=says) as e: unpack(archive, part or pictures(), archive.with_name("images"))
    assert tree(tmp_path) == before and one_line(e).startswith(str(archive))


@both
def test_the_files_that_are_needed_come_out(tmp_path, name):
    files = {"set/images/a.jpg": BODY, "./images/b.jpg": b"2", "images/notes.txt": b"3", "joints.mat": b"4", "other/c.jpg": b"5"}
    (tmp_path / name).write_bytes(PACKERS[name](files))
    unpack(tmp_path / name, pictures(folder="(?:set/)?images/"), tmp_path / "x" / "images")
    assert tree(tmp_path / "x") == {"images": None, "images/a.jpg": BODY, "images/b.jpg": b"2"}
    unpack(tmp_path / name, pictures(), tmp_path / "y", only={"c.jpg"})
    assert tree(tmp_path / "y") == {"c.jpg": b"5"}
    unpack(tmp_path / name, pictures(r"joints\.mat", place="joints.mat", count=1), tmp_path / "z" / "joints.mat")
    assert tree(tmp_path / "z") == {"joints.mat": b"4"}


@both
@pytest.mark.parametrize("evil, why", [
    ("../evil.jpg", "a path out of the folder"), ("images/../../evil.jpg", "a path out of the folder"), ("/evil.jpg", "an absolute path"),
    ("..", "a path out of the folder"), ("C:evil.jpg", "a path with a drive letter"), ("c:/evil.jpg", "a path with a drive letter"),
    ("..\\evil.jpg", "a path with a backslash"), ("images\\evil.jpg", "a path with a backslash")])
@pytest.mark.parametrize("first", [True, False])
def test_names_that_lead_out_are_refused(tmp_path, name, evil, why, first):
    files = {evil: b"evil", "a.jpg": b"good"} if first else {"a.jpg": b"good", evil: b"evil"}
    refused(tmp_path, name, PACKERS[name](files), f"{re.escape(repr(evil))} in it is {why}; nothing was unpacked")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    def change(member):
        if member.name == "b.jpg": member.type, member.linkname, member.size = kind, "../../evil", 0
    refused(tmp_path, "x.tar.gz", tarred({"a.jpg": b"1", "b.jpg": b""}, change), "'b.jpg' in it is a link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, kind):
    def change(info): info.external_attr = (kind | 0o777) << 16
    refused(tmp_path, "x.zip", zipped({"a.jpg": b"../../evil"}, change=change), "'a.jpg' in it is a link or a device")


def test_bombs_are_refused(tmp_path):
    zeros = bytes(3_000_000)
    refused(tmp_path, "x.zip", zipped({"a.jpg": b"1", "b.jpg": zeros}, zipfile.ZIP_DEFLATED), "'b.jpg' in it is a bomb of 3 MB")
    refused(tmp_path, "x.zip", zipped({"a.jpg": bytes(600_000), "b.jpg": bytes(600_000)}), "'images' in it is a bomb of 1.2 MB")
    refused(tmp_path, "x.tar.gz", tarred({"a.jpg": b"1", "b.jpg": zeros}), "'images' in it is a bomb of more than 1 MB")
    refused(tmp_path, "x.tar.gz", tarred({"a.jpg": b"1", "unneeded": zeros}), "'images' in it is a bomb of more than 1 MB")
    padded = gzip.compress(gzip.decompress(tarred({"a.jpg": b"1"})) + zeros)
    refused(tmp_path, "x.tar.gz", padded, "'images' in it is a bomb of more than 1 MB")


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    body = bytearray(zipped({"a.jpg": BODY}, zipfile.ZIP_DEFLATED))
    for start in (body.index(b"PK\x03\x04") + 22, body.index(b"PK\x01\x02") + 24): body[start:start + 4] = (1000).to_bytes(4, "little")
    refused(tmp_path, "x.zip", bytes(body), "truncated or damaged")
    class More(io.BytesIO):
        def read(self, n=-1): return b"x" * 500
    with pytest.raises(DownloadError, match="'a' in it is longer than it says"):
        download._write(Path("x.zip"), More(), tmp_path / "a", 1000)
    with pytest.raises(EOFError, match="b has 9 of 1,000 bytes"):
        download._write(Path("x.zip"), io.BytesIO(b"nine byte"), tmp_path / "b", 1000)


@both
def test_a_name_that_is_there_twice_is_refused(tmp_path, name):
    refused(tmp_path, name, PACKERS[name]({"one/a.jpg": b"1", "two/a.jpg": b"2"}), "'a.jpg' in it is there twice")


def test_encrypted_members_are_refused(tmp_path):
    body = bytearray(zipped({"a.jpg": b"1"}))
    for start in (body.index(b"PK\x03\x04") + 6, body.index(b"PK\x01\x02") + 8): body[start] |= 1
    refused(tmp_path, "x.zip", bytes(body), "'a.jpg' in it is encrypted")


@both
def test_a_pattern_that_is_too_generous_makes_no_folders(tmp_path, name):
    refused(tmp_path, name, PACKERS[name]({"a/b.jpg": b"1"}), "'a/b.jpg' in it is no plain file of the folder", pictures(".*", folder=""))


@both
def test_another_number_of_files_is_refused(tmp_path, name):
    body = PACKERS[name]({"a.jpg": b"1", "b.jpg": b"2"})
    refused(tmp_path, name, body, "expected 3 files for images, found 2; it is not x as published", pictures(count=3))
    refused(tmp_path, name, body, "expected some files for images, found 0", pictures("z"))


def test_a_file_with_a_known_checksum_has_to_have_it(tmp_path):
    part = pictures(r"joints\.mat", place="joints.mat", count=1, sha256="0" * 64)
    (tmp_path / "x.zip").write_bytes(zipped({"joints.mat": b"4"}))
    with pytest.raises(DownloadError, match=f"joints.mat: expected SHA-256 {'0' * 64}, found {hashlib.sha256(b'4').hexdigest()}"):
        unpack(tmp_path / "x.zip", part, tmp_path / "out" / "joints.mat")
    assert tree(tmp_path / "out") == {}


@both
def test_an_archive_that_is_cut_off_or_bent_leaves_nothing(tmp_path, name):
    body, files = PACKERS[name]({"a.jpg": BODY, "b.jpg": BODY[:999]}), {"a.jpg": BODY, "b.jpg": BODY[:999]}
    for cut in (0, 3, 100, 20_000, len(body) // 2, len(body) - 600, len(body) - 9, len(body) - 1):
        refused(tmp_path, name, body[:cut], "truncated or damaged|expected some files")
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(body), 60):   # one wrong byte: an error, or a byte that says nothing
        bent = bytearray(body)
        bent[place] ^= 1 << rng.integers(0, 8)
        (tmp_path / name).write_bytes(bent)
        try: unpack(tmp_path / name, pictures(), tmp_path / "images")
        except DownloadError: assert not (tmp_path / "images").exists() and not (tmp_path / "images.unpacking").exists()
        else:
            read = tree(tmp_path / "images")
            assert set(read.values()) <= set(files.values())
            download.shutil.rmtree(tmp_path / "images")


STEPS = ["..", ".", "", "a", "images", "C:", "~", "b.jpg", "\\", "..\\c", "/", "a\0b", "x" * 300, "con", "é"]
PATHS = st.lists(st.sampled_from(STEPS) | st.text(max_size=6), min_size=1, max_size=5).map("/".join)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PATHS, min_size=1, max_size=4, unique=True), st.sampled_from(sorted(PACKERS)), st.sampled_from([".*", "[^/]*", r".*\.jpg"]))
@example(["../../evil"], "x.zip", ".*")
@example(["a/.."], "x.tar.gz", ".*")
def test_nothing_ever_lands_outside(tmp_path_factory, names, name, pattern):
    folder = tmp_path_factory.mktemp("u")
    (folder / "in").mkdir()
    try: (folder / "in" / name).write_bytes(PACKERS[name]({n: b"x" for n in names}))
    except (UnicodeEncodeError, ValueError): return   # names that no archive can hold
    before = tree(folder)
    try: unpack(folder / "in" / name, pictures(pattern), folder / "in" / "images")
    except (DownloadError, OSError): assert tree(folder) == before
    else:
        new = tree(folder).keys() - before.keys()
        assert all(re.fullmatch(r"in/images(/[^/]+)?", path, re.DOTALL) for path in new) and len(new) > 1


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def half(self, text, **more):
        self.write_bytes(text[:5].encode())
        raise OSError(errno.ENOSPC, "No space left on device")
    file = tmp_path / "a.json"
    download.write_json(file, {"a": 1})
    with monkeypatch.context() as patch:
        patch.setattr(download.Path, "write_text", half)
        with pytest.raises(OSError): download.write_json(file, {"b": 2})
        patch.setattr(download.shutil, "copyfile", lambda source, target: half(target, "half of it"))
        with pytest.raises(OSError): download.copy(file, tmp_path / "copy.json")
    assert download.read_json(file) == {"a": 1} and not (tmp_path / "copy.json").exists()


# --- killed --------------------------------------------------------------------------------------------------------------------------

@kills
def test_killed_at_random_bytes_the_download_is_what_an_undisturbed_one_gives(site, tmp_path):
    rng, body = np.random.default_rng(5), np.random.default_rng(6).bytes(3_000_000)
    remote = site.remote("a.bin", body)
    def kills_the_client(h, body, site):
        rest, sent, fatal, partial = begin(h, body, site), 0, int(rng.integers(1, 500_000)), tmp_path / "a.bin.partial"
        while sent < fatal: sent += h.wfile.write(rest[sent:sent + 16_384])
        enough = len(body) - len(rest) + (fatal - 30_000) * (len(site.requests) % 3 > 0)   # at once, or when most is on the disk
        while not partial.exists() or partial.stat().st_size < enough: time.sleep(0.001)
        site.victim.kill()
    site.moods["/a.bin"] = [kills_the_client] * 6 + [whole]
    code = (f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from download import *\n"
            f"fetch({remote!r}, Path({str(tmp_path)!r}))")
    for run in range(7):
        ready = threading.Event()
        moods = site.moods["/a.bin"]
        moods[0] = lambda *args, mood=moods[0], ready=ready: (ready.wait(60), mood(*args))   # not before the process is known
        site.victim = subprocess.Popen([sys.executable, "-c", code])
        ready.set()
        assert site.victim.wait(60) == (0 if run == 6 else -signal.SIGKILL)
        if run < 6: assert not (tmp_path / "a.bin").exists()
    assert tree(tmp_path) == {"a.bin": body}
    begun = [int(asked[6:-1]) for asked in site.ranges("/a.bin") if asked]
    assert len(begun) >= 4 and begun == sorted(begun) and begun[-1] > 500_000   # it went on, and never back


def in_a_fork(work, kill_at: int, folder: Path) -> bool:
    "Whether the work was killed at its n-th step that concerns the folder: a file is opened, renamed, removed, a folder made."
    child = os.fork()
    if child == 0:
        steps = itertools.count(1)
        def hook(event, args):
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir") and str(folder) in str(args[0]):
                if next(steps) == kill_at: os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        try: os._exit(work())
        finally: os._exit(99)
    _, ended = os.waitpid(child, 0)
    assert os.WIFSIGNALED(ended) or os.WEXITSTATUS(ended) == 0, "the undisturbed work failed"
    return os.WIFSIGNALED(ended)


@forks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")   # the server's threads stay behind, and that is right
def test_killed_at_every_step_a_run_ends_as_an_undisturbed_one(site, tmp_path, capsys):
    parts = local(site, scripts["mpii"].PARTS, mpii_archives())
    def run(folder): return scripts["mpii"].main(["--out", str(folder / "mpii"), "--accept"], parts)
    assert run(tmp_path / "whole") == 0
    expected = tree(tmp_path / "whole")
    for step in itertools.count(1):
        folder = tmp_path / f"{step}"
        killed = in_a_fork(lambda folder=folder: run(folder), step, folder)
        left = tree(folder) if folder.exists() else {}
        if "mpii/made.json" in left: assert left == expected
        for name in ("train.json", "val.json", "annotations/mpii_annotations.json", "downloads/mpii_human_pose_v1.tar.gz"):
            assert left.get(f"mpii/{name}", expected[f"mpii/{name}"]) == expected[f"mpii/{name}"]   # whole, or not there
        if "mpii/images" in left: assert {n for n in left if "/images/" in n} == {n for n in expected if "/images/" in n}
        if killed and step % 3 == 0: in_a_fork(lambda folder=folder: run(folder), 7, folder)   # and once more
        assert run(folder) == 0 and tree(folder) == expected, f"step {step}"
        if not killed: break
    assert step > 50
    capsys.readouterr()


# --- data sets of a few people -------------------------------------------------------------------------------------------------------

def jpeg(width=40, height=30) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 150)).save(made, "jpeg")
    return made.getvalue()


def mat(**variables) -> bytes:
    made = io.BytesIO()
    scipy.io.savemat(made, variables)
    return made.getvalue()


def records(rows: list[dict]) -> np.ndarray:
    "Dictionaries as MATLAB's struct array."
    made = np.zeros((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        for name, value in row.items(): made[0, i][name] = value
    return made


def mpii_archives() -> dict:
    "Four pictures with a person each, of which one validates, as the three downloads of MPII."
    rng, names = np.random.default_rng(0), [f"{i:09d}.jpg" for i in range(1, 5)]
    pictures = []
    for name in names:
        joints = enumerate(rng.uniform(5, 30, (16, 2)).tolist())
        points = [{"id": float(j), "x": x, "y": y, "is_visible": float(j % 2)} for j, (x, y) in joints]
        rect = {"x1": 5.0, "y1": 5.0, "x2": 9.0, "y2": 9.0, "scale": 0.2, "objpos": records([{"x": 20.0, "y": 15.0}]),
                "annopoints": records([{"point": records(points)}])}
        pictures.append({"image": records([{"name": name}]), "annorect": records([rect])})
    alone = np.empty((4, 1), object)
    for i in range(4): alone[i, 0] = np.array([[1.0]])
    release = records([{"annolist": records(pictures), "img_train": np.ones((1, 4)), "single_person": alone}])
    listed = [{"annolist_index": i + 1.0, "people_index": 1.0, "isValidation": float(i == 3)} for i in range(4)]
    return {"mpii_human_pose_v1_u12_2.zip": zipped({"mpii_human_pose_v1_u12_2/mpii_human_pose_v1_u12_1.mat": mat(RELEASE=release),
                                                    "mpii_human_pose_v1_u12_2/README.md": b"words"}),
            "mpii_annotations.json": json.dumps(listed).encode(),
            "mpii_human_pose_v1.tar.gz": tarred({f"./images/{name}": jpeg() for name in names})}


def lsp_archives(name: str) -> dict:
    "2,000 pictures, each the same."
    table = np.random.default_rng(0).uniform(3, 28, (3, 14, 2000)).round(2)
    table[2] = np.random.default_rng(1).integers(0, 2, (14, 2000))
    files = {"README.txt": b"words", "joints.mat": mat(joints=table)}
    return {f"{name}.zip": zipped(files | {f"images/im{i:04d}.jpg": PICTURE for i in range(1, 2001)})}


def flic_archives(ending="_personcentric") -> dict:
    "Three frames to train and two to validate."
    others = {"FLIC/examples.mat": b"", "__MACOSX/FLIC/images/._film-0.jpg": b"?"}
    made = {"FLIC.zip": zipped({f"FLIC/images/film-{i}.jpg": PICTURE for i in range(5)} | others)}
    for name, first, count in (("train", 0, 3), ("valid", 3, 2)):
        part = np.random.default_rng(first).uniform(3, 28, (count, 11, 2))
        file = io.BytesIO()
        with h5py.File(file, "w") as content:
            content["part"], content["center"], content["scale"] = part, np.full((count, 2), 15.0), np.full(count, 0.2)
            content["visible"], content["normalize"] = np.ones((count, 11)), np.linalg.norm(part[:, 3] - part[:, 6], axis=1)
            content["imgname"] = np.array([f"film-{i}.jpg".encode() for i in range(first, first + count)])
        made[f"{name}{ending}.h5"] = file.getvalue()
    return made


def coco_archives() -> dict:
    "Two splits of three pictures: with a person, with a person without joints, with nobody."
    made, files = {}, {}
    sided = [f"{side}_{name}" for name in "eye ear shoulder elbow wrist hip knee ankle".split() for side in ("left", "right")]
    category = {"id": 1, "name": "person", "keypoints": ["nose", *sided], "skeleton": [[1, 2]]}
    for split, first in (("train", 1), ("val", 11)):
        images = [{"id": first + i, "file_name": f"{first + i:012d}.jpg", "width": 40, "height": 30} for i in range(3)]
        people = [{"id": first + i, "image_id": first + i, "category_id": 1, "iscrowd": 0, "bbox": [2, 2, 20, 20], "area": 400,
                   "keypoints": [5, 6, 2 * (i == 0)] * 17, "num_keypoints": 17 * (i == 0)} for i in range(2)]
        content = {"images": images, "annotations": people, "categories": [category]}
        files[f"annotations/person_keypoints_{split}2017.json"] = json.dumps(content).encode()
        made[f"{split}2017.zip"] = zipped({f"{split}2017/{picture['file_name']}": PICTURE for picture in images})
    return made | {"annotations_trainval2017.zip": zipped(files)}


PICTURE = jpeg()


def local(site, parts, bodies: dict):
    "The table of a script with the server of the test in place of the data set's."
    if isinstance(parts, dict): return {key: local(site, own, bodies) for key, own in parts.items()}
    def remote(known): return site.remote(known.name, bodies[known.name], known=bool(known.sha256), page=known.page,
                                          md5=known.md5 and hashlib.md5(bodies[known.name]).hexdigest())
    return tuple(replace(part, remote=remote(part.remote)) for part in parts if part.remote.name in bodies)


def call(name, capsys, *argv, **more) -> tuple[int, str, str]:
    "Exit code, output and error of a script."
    code = scripts[name].main([str(a) for a in argv], **more)
    return code, *capsys.readouterr()


def read(out: Path, split: str) -> dict: return json.loads((out / f"{split}.json").read_bytes())


def check_made(out: Path, output: str, people: dict):
    "As many people, every picture there, the report and the next command."
    for split, count in people.items():
        content = read(out, split)
        assert sum(person["subject"] for person in content["annotations"]) == count
        assert all((out / picture["file_name"]).is_file() and picture["width"] > 0 for picture in content["images"])
        assert re.search(rf"^{split}.json: {count:,} people in [0-9,]+ pictures, [0-9,]+ joints of \d+ kinds$", output, re.MULTILINE)
    assert re.search(rf"^made {re.escape(str(out))}, [0-9.,]+ [kM]B on disk", output, re.MULTILINE)
    assert f"next: msspose prepare {out} --size 256 --out" in output and "msspose train --data" in output
    assert f"# {out.name}" in (out / "README.md").read_text()
    assert not [n for n in tree(out) if n.endswith((".partial", ".partial.json", ".new", ".unpacking"))]


def test_mpii(site, tmp_path, capsys):
    out, parts = tmp_path / "mpii", local(site, scripts["mpii"].PARTS, mpii_archives())
    code, output, error = call("mpii", capsys, "--out", out, "--accept", parts=parts)
    assert (code, error) == (0, "") and "Commercial use" in output
    check_made(out, output, {"train": 3, "val": 1})
    assert read(out, "val")["images"][0]["file_name"] == "images/000000004.jpg"
    assert {name: record["checked_by"] for name, record in json.loads((out / "checksums.json").read_text()).items()} == {
        "mpii_human_pose_v1_u12_2.zip": "length and the archive's own checksums", "mpii_annotations.json": "SHA-256 as published",
        "mpii_human_pose_v1.tar.gz": "MD5 as published"}


def test_the_second_run_does_nothing_and_asks_nobody(site, tmp_path, capsys):
    out, parts = tmp_path / "mpii", local(site, scripts["mpii"].PARTS, mpii_archives())
    assert call("mpii", capsys, "--out", out, "--accept", parts=parts)[0] == 0
    before, asked = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*") if p.is_file()}, len(site.requests)
    assert call("mpii", capsys, "--out", out, parts=parts) == (0, f"{out}: made already, nothing to do\n", "")   # nor are terms to accept
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*") if p.is_file()} and len(site.requests) == asked == 3


@pytest.mark.parametrize("small", [False, True])
def test_lsp(site, tmp_path, capsys, small):
    name = "lsp_dataset" if small else "lsp_dataset_original"
    out, parts = tmp_path / "lsp", local(site, scripts["lsp"].PARTS, lsp_archives(name))
    code, output, error = call("lsp", capsys, "--out", out, "--accept", *["--small"] * small, parts=parts)
    assert (code, error) == (0, "")
    check_made(out, output, {"train": 1000, "val": 1000})
    assert [asked for asked, _ in site.requests] == [f"/{name}.zip"]
    other = call("lsp", capsys, "--out", out, "--accept", *["--small"] * (not small), parts=parts)
    assert other == (1, "", f"{out}: made with small={small}, asked for small={not small}; give another --out, or delete it\n")


@pytest.mark.parametrize("sides", ["person", "observer"])
def test_flic(site, tmp_path, capsys, sides):
    out, parts = tmp_path / "flic", local(site, scripts["flic"].PARTS, flic_archives("_personcentric" if sides == "person" else ""))
    code, output, error = call("flic", capsys, "--out", out, "--accept", "--sides", sides, parts=parts)
    assert (code, error) == (0, "")
    check_made(out, output, {"train": 3, "val": 2})
    assert len(os.listdir(out / "images")) == 5


def test_coco(site, tmp_path, capsys):
    out, parts = tmp_path / "coco", local(site, scripts["coco"].PARTS, coco_archives())
    code, output, error = call("coco", capsys, "--out", out, "--accept", parts=parts)
    assert (code, error) == (0, "")
    check_made(out, output, {"train": 1, "val": 1})
    assert [n for n in tree(out) if n.endswith(".jpg")] == [   # none without people who have joints
        "images/train2017/000000000001.jpg", "images/val2017/000000000011.jpg"]
    code, output, error = call("coco", capsys, "--out", tmp_path / "val", "--accept", "--splits", "val", parts=parts)
    check_made(tmp_path / "val", output, {"val": 1})
    assert [asked for asked, _ in site.requests].count("/train2017.zip") == 1


def lspet_folder(folder: Path) -> Path:
    "The unpacked data set, its pictures all the same."
    table = np.random.default_rng(0).uniform(3, 28, (14, 3, 10000)).round(2)
    table[:, 2] = 1
    (folder / "images").mkdir(parents=True)
    (folder / "joints.mat").write_bytes(mat(joints=table))
    for i in range(1, 9501): (folder / "images" / f"im{i:05d}.jpg").write_bytes(PICTURE)
    return folder


def test_lspet_from_an_unpacked_folder_that_is_only_read(tmp_path, capsys):
    given_folder, out = lspet_folder(tmp_path / "given"), tmp_path / "out" / "lspet"
    before = {p: p.stat().st_mtime_ns for p in [given_folder, *given_folder.rglob("*")]}
    images, joints = scripts["lspet"].PARTS
    wrong = call("lspet", capsys, "--from", given_folder, "--out", out, "--accept")
    assert wrong[0] == 1 and re.match(rf".*joints.mat: expected SHA-256 {joints.sha256}, found [0-9a-f]{{64}}; it is not", wrong[2])
    parts = (images, replace(joints, sha256=hashlib.sha256((given_folder / "joints.mat").read_bytes()).hexdigest()))
    code, output, error = call("lspet", capsys, "--from", given_folder, "--out", out, "--accept", parts=parts)
    assert (code, error) == (0, "")
    check_made(out, output, {"train": 9000, "val": 500})
    assert read(out, "val")["images"][0]["file_name"] == "../../given/images/im09001.jpg"
    assert set(tree(out)) == {".data_script", "README.md", "made.json", "train.json", "val.json"}   # nothing was copied
    assert before == {p: p.stat().st_mtime_ns for p in [given_folder, *given_folder.rglob("*")]}
    assert call("lspet", capsys, "--out", out, parts=parts)[1] == f"{out}: made already, nothing to do\n"
    (given_folder / "images" / "im09500.jpg").unlink()
    assert "9,499 of 9,500 pictures are left" in call("lspet", capsys, "--out", out, parts=parts)[2]
    made = (out / "made.json").read_bytes()
    (out / "made.json").unlink()
    missing = call("lspet", capsys, "--from", given_folder, "--out", out, "--accept", parts=parts)
    assert missing[0] == 1 and "1 of 500 pictures of lspet val are missing, the first is im09500.jpg; complete the folder" in missing[2]
    (out / "made.json").write_bytes(made)
    download.shutil.rmtree(given_folder)
    gone = call("lspet", capsys, "--out", out, "--accept", parts=parts)
    assert gone[0] == 1 and f"images: the pictures of {out} are gone, which were used in place; bring them back, or delete {out}" in gone[2]


def test_people(tmp_path, capsys):
    out = tmp_path / "people"
    argv = ["--out", out, "--dataset", "crowd", "--count", 3, "--val-count", 2, "--size", 64]
    code, output, error = call("people", capsys, *argv)
    assert (code, error) == (0, "")
    check_made(out, output, {"train": 3, "val": 2})
    assert call("people", capsys, *argv)[1] == f"{out}: made already, nothing to do\n"
    assert "made with dataset=crowd, count=3, val_count=2, size=64, asked for" in call("people", capsys, "--out", out)[2]


# --- from a folder -------------------------------------------------------------------------------------------------------------------

def written(folder: Path, files: dict) -> Path:
    for name, body in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(body)
    return folder


@pytest.mark.parametrize("places", ["{}", "some/{}", "old/downloads/{}"])
def test_archives_in_a_folder_are_used_and_nobody_is_asked(site, tmp_path, capsys, places):
    bodies, out = mpii_archives(), tmp_path / "mpii"
    given_folder = written(tmp_path / "given", {places.format(name): body for name, body in bodies.items()})
    before, parts = tree(given_folder), local(site, scripts["mpii"].PARTS, bodies)
    code, output, error = call("mpii", capsys, "--from", given_folder, "--out", out, "--accept", parts=parts)
    assert (code, error, site.requests) == (0, "", [])
    check_made(out, output, {"train": 3, "val": 1})
    assert tree(given_folder) == before and not (out / "downloads").exists()


def test_unpacked_files_in_a_folder_are_used_in_place_or_copied_where_they_have_to_lie_together(site, tmp_path, capsys):
    bodies, given_folder, out = mpii_archives(), tmp_path / "given", tmp_path / "mpii"
    written(given_folder, {"mpii_annotations.json": bodies["mpii_annotations.json"]})
    with zipfile.ZipFile(io.BytesIO(bodies["mpii_human_pose_v1_u12_2.zip"])) as content: content.extractall(given_folder)
    with tarfile.open(fileobj=io.BytesIO(bodies["mpii_human_pose_v1.tar.gz"])) as content:
        for member in content: written(given_folder, {member.name: content.extractfile(member).read()})
    before, parts = tree(given_folder), local(site, scripts["mpii"].PARTS, bodies)
    code, output, error = call("mpii", capsys, "--from", given_folder, "--out", out, "--accept", parts=parts)
    assert (code, error, site.requests) == (0, "", [])
    check_made(out, output, {"train": 3, "val": 1})
    assert read(out, "val")["images"][0]["file_name"] == "../given/images/000000004.jpg"
    assert sorted(os.listdir(out / "annotations")) == ["mpii_annotations.json", "mpii_human_pose_v1_u12_1.mat"]
    assert tree(given_folder) == before


def test_a_folder_that_lacks_or_spoils_something_is_told(site, tmp_path, capsys):
    bodies, out = mpii_archives(), tmp_path / "mpii"
    parts = local(site, scripts["mpii"].PARTS, bodies)
    given_folder = written(tmp_path / "given", {name: body for name, body in bodies.items() if name != "mpii_annotations.json"})
    def told(): return call("mpii", capsys, "--from", given_folder, "--out", out, "--accept", parts=parts)
    code, _, error = told()
    assert code == 1 and re.match(r".*given: no mpii_annotations.json in it; download .* by hand from .*; or leave --from out\n$", error)
    written(given_folder, {"mpii_annotations.json": b"[" + b" " * (len(bodies["mpii_annotations.json"]) - 1)})
    assert re.search(r"mpii_annotations.json: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}", told()[2])
    written(given_folder, {"mpii_annotations.json": b"<html>sorry</html>"})
    assert "a web page instead of mpii_annotations.json" in told()[2]
    written(given_folder, bodies | {"mpii_human_pose_v1.tar.gz": bodies["mpii_human_pose_v1.tar.gz"][:-30]})
    assert re.search(r"mpii_human_pose_v1.tar.gz: expected MD5", told()[2])
    assert site.requests == [] and not (out / "images").exists() and not (out / "made.json").exists()
    written(given_folder, bodies)
    assert told()[0] == 0


@pytest.mark.parametrize("out", ["given", "given/out", "given/a/b"])
def test_the_folder_is_never_written_into(tmp_path, capsys, out):
    given_folder = written(tmp_path / "given", {"a": b""})
    code, _, error = call("lspet", capsys, "--from", given_folder, "--out", tmp_path / out, "--accept")
    assert code == 1 and ("lies in" in error or "not empty" in error) and tree(given_folder) == {"a": b""}
    nowhere = call("lspet", capsys, "--from", tmp_path / "x", "--out", tmp_path / "y", "--accept")
    assert nowhere[0] == 1 and "no such folder; give --from the folder" in nowhere[2]


# --- a run ---------------------------------------------------------------------------------------------------------------------------

class Terminal(io.StringIO):
    def isatty(self): return True


@pytest.mark.parametrize("name", [name for name in NAMES if name != "people"])
def test_terms_are_shown_and_have_to_be_accepted(tmp_path, capsys, monkeypatch, name):
    out = tmp_path / "out"
    code, output, error = call(name, capsys, "--out", out)
    assert code == 1 and error == "these terms have to be accepted: run again with --accept; nothing was downloaded\n"
    assert re.search(r"The data set's own words: https?://\S+\n", output) and not out.exists()
    monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
    code, output, error = call(name, capsys, "--out", out)
    assert (code, error) == (1, "the terms were not accepted; nothing was downloaded\n") and "Type yes" in output and not out.exists()


def test_yes_at_a_terminal_accepts_them(site, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    code, output, error = call("mpii", capsys, "--out", tmp_path / "mpii", parts=local(site, scripts["mpii"].PARTS, mpii_archives()))
    assert (code, error) == (0, "")


def test_what_goes_wrong_is_one_line_and_code_1_and_can_be_mended(site, tmp_path, capsys, monkeypatch):
    out, parts = tmp_path / "mpii", local(site, scripts["mpii"].PARTS, mpii_archives())
    def told(*more): return call("mpii", capsys, "--out", out, "--accept", *more, parts=parts, wait=Waits())
    for mood, says in ((status(404), "answers 404"), (status(503), "answers 503 .* 5 times in a row"), (page, "sends a web page"),
                       (drops, "gives no answer")):
        site.moods["/mpii_human_pose_v1.tar.gz"] = [mood]
        code, output, error = told()
        assert code == 1 and re.search(says, error) and error.count("\n") == 1 and "Traceback" not in error + output
        assert not (out / "images").exists() and not (out / "made.json").exists()
        with pytest.raises(DownloadError): told("--debug")
    site.moods["/mpii_human_pose_v1.tar.gz"] = [whole]
    with monkeypatch.context() as patch:
        full_disk(patch, "mpii_human_pose_v1.tar.gz.partial")
        patch.setattr(Full, "write", lambda self, data: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        assert told()[::2] == (1, f"{out}: the disk is full; make room and run the same command again, a download goes on where it is\n")
    assert told()[0] == 0


def test_a_full_disk_while_converting_is_told_and_leaves_no_half_file(site, tmp_path, capsys, monkeypatch):
    import msspose.data
    out, parts = tmp_path / "mpii", local(site, scripts["mpii"].PARTS, mpii_archives())
    dumps = json.dumps
    def full(content): raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(msspose.data.json, "dumps", lambda content, **more: full(content) if "images" in content else dumps(content, **more))
        code, _, error = call("mpii", capsys, "--out", out, "--accept", parts=parts)
    assert (code, error) == (1, f"{out}: the disk is full; make room and run the same command again, a download goes on where it is\n")
    assert not [n for n in tree(out) if n.startswith(("train.json", "val.json", "made.json"))]
    assert call("mpii", capsys, "--out", out, "--accept", parts=parts)[0] == 0


def test_a_picture_that_is_none_is_named(site, tmp_path, capsys):
    bodies, out = mpii_archives(), tmp_path / "mpii"
    bodies["mpii_human_pose_v1.tar.gz"] = tarred({f"images/{i:09d}.jpg": PICTURE if i != 3 else b"<html>" for i in range(1, 5)})
    code, _, error = call("mpii", capsys, "--out", out, "--accept", parts=local(site, scripts["mpii"].PARTS, bodies))
    assert (code, error) == (1, f"{out / 'images' / '000000003.jpg'}: not a picture that can be read; get it again\n")
    assert not (out / "train.json").exists()


def test_what_may_not_be_written_is_named():
    error = PermissionError(errno.EACCES, "Permission denied", "data/x")
    assert download.sentence(error, Path("out")) == "data/x: permission denied; give another --out"


def test_an_archive_that_attacks_stops_the_run(site, tmp_path, capsys):
    bodies, out = mpii_archives(), tmp_path / "deep" / "mpii"
    bodies["mpii_human_pose_v1.tar.gz"] = tarred({"images/000000001.jpg": PICTURE, "../../evil": b"evil"})
    code, _, error = call("mpii", capsys, "--out", out, "--accept", parts=local(site, scripts["mpii"].PARTS, bodies))
    assert code == 1 and "'../../evil' in it is a path out of the folder; nothing was unpacked" in error
    assert os.listdir(tmp_path) == ["deep"] and os.listdir(tmp_path / "deep") == ["mpii"] and not [n for n in tree(out) if "images" in n]
    bodies = mpii_archives() | {"mpii_human_pose_v1_u12_2.zip": zipped({"../evil": b"evil"})}
    code, _, error = call("mpii", capsys, "--out", tmp_path / "b", "--accept", parts=local(site, scripts["mpii"].PARTS, bodies))
    assert code == 1 and "'../evil' in it is a path out of the folder" in error
    assert set(tree(tmp_path / "b")) == {".data_script", "downloads"} and not (tmp_path / "evil").exists()


def test_stopped_by_the_user_it_says_how_to_go_on(site, tmp_path, capsys):
    def stop(seconds): raise KeyboardInterrupt
    out, parts = tmp_path / "mpii", local(site, scripts["mpii"].PARTS, mpii_archives())
    site.moods["/mpii_human_pose_v1.tar.gz"] = [breaks_after(300), whole]
    code, _, error = call("mpii", capsys, "--out", out, "--accept", parts=parts, wait=stop)
    assert (code, error) == (130, f"\n{out}: stopped; the same command again goes on from here\n")
    assert call("mpii", capsys, "--out", out, "--accept", parts=parts)[0] == 0
    assert site.ranges("/mpii_human_pose_v1.tar.gz") == [None, "bytes=300-"]


def test_what_is_missing_is_made_again_and_what_was_changed_is_kept(site, tmp_path, capsys):
    out, parts = tmp_path / "mpii", local(site, scripts["mpii"].PARTS, mpii_archives())
    def again(): return call("mpii", capsys, "--out", out, "--accept", parts=parts)
    written(out, {".data_script": b""})   # killed between making and writing it
    assert again()[0] == 0
    made, asked = tree(out), len(site.requests)
    assert made[".data_script"] == b"mpii\n"
    for name in ("train.json", "made.json", "annotations/mpii_human_pose_v1_u12_1.mat", "README.md"):
        (out / name).unlink()
        if name not in ("train.json", "made.json"): (out / "made.json").unlink()
        assert again()[0] == 0 and tree(out) == made
    assert len(site.requests) == asked   # the downloads are still there
    (out / "val.json").write_text("mine")
    assert again() == (1, "", f"{out / 'val.json'}: changed since it was made; rename it to keep it, or delete it, and run again\n")
    (out / "val.json").unlink()
    assert again()[0] == 0 and tree(out) == made
    (out / "images" / "000000001.jpg").unlink()
    assert again() == (1, "", f"{out / 'images'}: 3 of 4 pictures are left; delete the folder and run again\n")
    download.shutil.rmtree(out / "images")
    assert again()[0] == 0 and tree(out) == made
    (out / "downloads" / "mpii_human_pose_v1.tar.gz").write_bytes(b"\x1f\x8b")
    (out / "made.json").unlink()
    download.shutil.rmtree(out / "images")
    assert re.search("tar.gz: expected MD5 .*; or delete it and run again", again()[2])


def test_a_folder_of_somebody_else_is_left_alone(site, tmp_path, capsys):
    mine = written(tmp_path / "mine", {"thesis.txt": b"years"})
    assert call("mpii", capsys, "--out", mine, "--accept")[::2] == (1, f"{mine}: not empty, and not made by mpii.py; give another --out\n")
    assert tree(mine) == {"thesis.txt": b"years"}
    other = written(tmp_path / "other", {".data_script": b"lsp\n"})
    assert call("mpii", capsys, "--out", other, "--accept")[::2] == (1, f"{other}: made by lsp.py; give another --out\n")


def test_two_runs_at_once_do_not_disturb_each_other(site, tmp_path, capsys):
    out, parts = tmp_path / "mpii", local(site, scripts["mpii"].PARTS, mpii_archives())
    with download._alone(out, "mpii"):
        code, _, error = call("mpii", capsys, "--out", out, "--accept", parts=parts)
        assert (code, error) == (1, f"{out}: another run is at work there; wait for it, or give another --out\n") and site.requests == []
    assert call("mpii", capsys, "--out", out, "--accept", parts=parts)[0] == 0


def test_progress_shows_where_somebody_watches(site, tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    fetch(site.remote("a.zip", zipped({"a.jpg": BODY}), breaks_after(20_000), whole), tmp_path, wait=Waits())
    unpack(tmp_path / "a.zip", pictures(), tmp_path / "images")
    assert "a.zip: " in screen.getvalue() and "50.1k/50.1k" in screen.getvalue() and "again in 1 s" in screen.getvalue()
    assert "unpacking a.zip: 100%" in screen.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_help_has_an_example_and_wrong_arguments_are_code_2(capsys, name):
    with pytest.raises(SystemExit) as e: scripts[name].main(["--help"])
    text = capsys.readouterr().out
    assert e.value.code == 0 and f"Example: python data_scripts/{name}.py " in text and "--out" in text
    options = re.search(rf"{name}.py (.*)", text.split("Example: ")[1])[1].split()
    with pytest.raises(SystemExit) as e: scripts[name].main([*options, "--help"])   # the example is one
    assert e.value.code == 0
    with pytest.raises(SystemExit) as e: scripts[name].main(["--no-such-option"])
    assert e.value.code == 2


def test_as_a_user_runs_it(tmp_path):
    "From another folder, without torch for what needs none."
    done = subprocess.run([sys.executable, SCRIPTS / "lsp.py"], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--accept" in done.stderr and os.listdir(tmp_path) == []
    code = (f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import {', '.join(NAMES)}\n"
            "print(sorted({'torch', 'numpy', 'msspose'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- the tables ----------------------------------------------------------------------------------------------------------------------

def tables() -> list:
    "Every part of every script."
    found = []
    for name in NAMES:
        parts = getattr(scripts[name], "PARTS", ())
        for own in (parts.values() if isinstance(parts, dict) else [parts]): found += own
    return found


def test_the_tables_are_complete():
    assert len(tables()) == 2 + 4 + 3 + 6 + 4
    for part in tables():
        remote = part.remote
        assert re.fullmatch(r"https?://\S+", remote.url) and re.fullmatch(r"https?://\S+", remote.page)
        for sha256 in (remote.sha256, part.sha256): assert sha256 is None or re.fullmatch(r"[0-9a-f]{64}", sha256)
        assert remote.md5 is None or re.fullmatch(r"[0-9a-f]{32}", remote.md5)
        assert part.files == "" or part.limit > 0
        assert (remote.size is None) == (remote.sha256 is None)   # where one is published, so is the other


def test_the_known_checksums_are_those_of_the_published_files(real_data):
    "Files that are the published ones, byte for byte; of the JSON its packed form."
    sums = {Path(part.place).name: part.sha256 or part.remote.sha256 for part in tables() if part.is_file}
    for name in ("lspet/joints.mat", *(f"flic/{split}{ending}.h5" for split in ("train", "valid") for ending in ("", "_personcentric"))):
        known = scripts["lspet"].PARTS[1].sha256 if name.endswith(".mat") else sums[Path(name).name]
        assert hashlib.sha256((real_data / name).read_bytes()).hexdigest() == known, name
    body = gzip.decompress((real_data / "mpii_val" / "mpii_annotations.json.gz").read_bytes())
    split = scripts["mpii"].SPLIT
    assert (len(body), hashlib.sha256(body).hexdigest()) == (split.size, split.sha256)


def test_the_table_of_the_readme_names_every_script():
    text = (SCRIPTS / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}.py`" in text for name in NAMES)
