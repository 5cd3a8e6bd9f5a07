"What the scripts beside this file share: downloads that resume, checks, unpacking, and a run that leaves nothing half-written."
# The standard library and tqdm do it. pooch, the well-kept package for downloads, begins a broken one again at the first byte, and
# 12.9 GB from a server that breaks off may then never arrive.
from __future__ import annotations

import argparse
import contextlib
import email.utils
import errno
import gzip
import hashlib
import http.client
import itertools
import json
import lzma
import os
import re
import shutil
import ssl
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

CHUNK = 1 << 18    # bytes that are read at a time
TIMEOUT = 60       # seconds without a byte after which a connection counts as broken
TRIES = 5          # attempts in a row that bring nothing new
LONGEST = 300      # seconds; a server that asks for a longer pause is left alone
RATIO = 100        # a member that grows more than this is a bomb: pictures grow by nothing, JSON tenfold
MAGIC = {".zip": (b"PK\x03\x04", b"PK\x05\x06"), ".gz": (b"\x1f\x8b",), ".h5": (b"\x89HDF\r\n\x1a\n",), ".mat": (b"MATLAB",),
         ".json": (b"{", b"[")}   # how such files begin


@dataclass(frozen=True)
class Remote:
    "A file on a data set's own site."
    name: str                  # what it is called here
    url: str                   # where it is
    page: str                  # where a person finds it, for those who download by hand
    size: int | None = None    # bytes; None where nobody has published them
    sha256: str | None = None  # None where nobody has published it
    md5: str | None = None     # a weaker sum, where it is the only one that is published


@dataclass(frozen=True)
class Part:
    "What a data set needs in one place: a folder of pictures, or one file of annotations."
    place: str                 # in OUT; with an ending it is a file, otherwise a folder
    remote: Remote             # what holds it
    files: str = ""            # their names in the archive, a regular expression; empty: the download itself is the file
    folder: str = ""           # the folder in the archive that holds them, a regular expression
    limit: int = 0             # bytes that they may have together; more is a bomb
    count: int | None = 1      # how many there have to be; None: not known
    sha256: str | None = None  # of a file out of an archive, where it is known
    unpacked: tuple[str, ...] = ()   # where --from FOLDER has them if they are unpacked already, as patterns
    copied: bool = False       # a small file that has to lie beside others: out of --from FOLDER it is copied, not used in place
    only: Callable[[dict[str, Path]], set[str]] | None = None   # the names that are needed, by the parts before it; None: all

    @property
    def is_file(self) -> bool: return bool(Path(self.place).suffix)


class DownloadError(Exception):
    "What went wrong and what to do about it, in one sentence."


class _Interrupted(Exception):
    "A download that may go on after a pause."
    def __init__(self, reason: str, pause: float | None = None):
        super().__init__(reason)
        self.pause = pause   # seconds that the server asks for


def readable(size: float) -> str:
    "12,900,000,000 as 12.9 GB."
    for unit in ("bytes", "kB", "MB"):
        if size < 999.5: return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def by_hand(remote: Remote) -> str:
    "What to do where downloading does not work."
    return f"download {remote.name} by hand from {remote.page}, then run again with --from FOLDER, the folder it lies in"


def write_text(file: Path, text: str) -> None:
    "All of it or nothing."
    new = file.with_name(file.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, file)


def write_json(file: Path, content: dict) -> None: write_text(file, json.dumps(content, indent=1) + "\n")


def read_json(file: Path) -> dict:
    "What `write_json` wrote; empty where there is nothing or something else."
    try: content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError): return {}
    return content if isinstance(content, dict) else {}


def need_space(
    folder: Path,  # on the disk in question
    size: float,   # bytes
    what: str,     # that will need them
) -> None:
    "An error before the disk is full, not when it is."
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DownloadError(f"{folder}: {what} needs {readable(size)} and {readable(free)} are free; make room, or give another --out")


# --- checking ------------------------------------------------------------------------------------------------------------------------

def recognise(
    name: str,      # of the file, whose ending says how it has to begin
    first: bytes,   # the first bytes
) -> str:
    "What is wrong with the beginning of a file; empty when it may be what its name says."
    if first.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")): return "a web page"
    magic = MAGIC.get(Path(name).suffix, (b"",))
    if any(first[:len(begin)] == begin[:len(first)] for begin in magic): return ""
    return f"something that begins with {first[:8]!r}"


def digests(
    file: Path,
    algorithms: tuple[str, ...],   # "sha256", "md5"
) -> list[str]:
    "Checksums of a file in one reading, with a bar where that takes a while."
    sums, size = [hashlib.new(name, usedforsecurity=False) for name in algorithms], file.stat().st_size
    quiet = True if size < 100_000_000 else None   # None: no bar where nobody watches
    with open(file, "rb") as content, tqdm(total=size, unit="B", unit_scale=True, desc=f"checking {file.name}", disable=quiet) as bar:
        while chunk := content.read(1 << 20):
            for one in sums: one.update(chunk)
            bar.update(len(chunk))
    return [one.hexdigest() for one in sums]


def verify(
    file: Path,
    remote: Remote,                # what it has to be
    recorded: dict | None = None,  # what checksums.json says of an earlier download
) -> dict:                         # name, url, size, sha256, and what it was checked by
    "The record of a file that is what it has to be; otherwise an error with what was expected and what was found."
    size = file.stat().st_size
    with open(file, "rb") as content: wrong = recognise(remote.name, content.read(16))
    if wrong: raise DownloadError(f"{file}: {wrong} instead of {remote.name}; {by_hand(remote)}")
    if remote.size not in (None, size):
        raise DownloadError(f"{file}: expected {remote.size:,} bytes, found {size:,}; {by_hand(remote)}")
    sha256, md5 = digests(file, ("sha256", "md5"))
    remedy = f"it is damaged, or the site has a new version; {by_hand(remote)}"
    if remote.sha256 and sha256 != remote.sha256:
        raise DownloadError(f"{file}: expected SHA-256 {remote.sha256}, found {sha256}; {remedy}")
    if remote.md5 and md5 != remote.md5: raise DownloadError(f"{file}: expected MD5 {remote.md5}, found {md5}; {remedy}")
    if recorded and recorded.get("url") == remote.url and recorded.get("sha256") != sha256:
        raise DownloadError(f"{file}: expected SHA-256 {recorded.get('sha256')} as in checksums.json, found {sha256}; if the site has "
                            "a new version, delete checksums.json and run again")
    if not remote.sha256 and not remote.md5: check_archive(file)
    by = "SHA-256 as published" if remote.sha256 else "MD5 as published" if remote.md5 else "length and the archive's own checksums"
    return {"name": remote.name, "url": remote.url, "size": size, "sha256": sha256, "checked_by": by}


def check_archive(archive: Path) -> None:
    "Every checksum that an archive carries itself, where nobody has published one of the whole."
    with damaged(archive):
        if archive.name.removesuffix(".partial").endswith(".zip"):
            with zipfile.ZipFile(archive) as content:
                for info in content.infolist(): _check_zipped(archive, info)   # first: a bomb is not unpacked to see whether it is intact
                bad = content.testzip()
            if bad: raise DownloadError(f"{archive}: {bad} is damaged in it; get the archive again")
        else:
            with gzip.open(archive) as content:
                while content.read(CHUNK): pass


# --- downloading ---------------------------------------------------------------------------------------------------------------------

def _have(partial: Path) -> int: return partial.stat().st_size if partial.exists() else 0


def _state_file(partial: Path) -> Path: return partial.with_name(partial.name + ".json")


def _forget(partial: Path) -> None:
    "Away with what is there, the bytes first: without them the rest says nothing."
    partial.unlink(missing_ok=True)
    _state_file(partial).unlink(missing_ok=True)


def _resumable(remote: Remote, partial: Path) -> dict:
    "What is known of the bytes that are there; empty, and no bytes left, where they are not the beginning of this file."
    state = read_json(_state_file(partial))
    same = all(state.get(key, "") == getattr(remote, key) for key in ("url", "size", "sha256"))
    total = state.get("total")
    if same and partial.exists() and (total is None or _have(partial) <= total): return state
    _forget(partial)
    return {}


def _retry_after(headers) -> float | None:
    "Seconds of pause that a server asks for, as a number or as a date."
    text = headers.get("Retry-After") or ""
    if text.strip().isdigit(): return float(text)
    try: return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError): return None


def _content_range(headers) -> tuple[int | None, int | None]:
    "The first byte and the total of an answer to a Range request, None where it does not say."
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", (headers.get("Content-Range") or "").strip())
    if not match: return None, None
    return int(match[1]) if match[1] else None, int(match[2]) if match[2] != "*" else None


def _request(remote: Remote, have: int, state: dict) -> urllib.request.Request:
    "For the whole file, or for what is missing if it has not changed since."
    headers = {"User-Agent": "msspose data scripts", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if unchanged := state.get("etag") or state.get("modified"): headers["If-Range"] = unchanged
    return urllib.request.Request(remote.url, headers=headers)


def _open(remote: Remote, have: int, state: dict):
    "The server's answer; None when it says that nothing is missing."
    try: return urllib.request.urlopen(_request(remote, have, state), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416: return None
            answer = " ".join(f"answers {error.code} {error.reason}".split())
            if error.code in (408, 425, 429) or error.code >= 500: raise _Interrupted(answer, _retry_after(error.headers)) from error
            raise DownloadError(f"{remote.url} {answer}; {by_hand(remote)}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(f"{remote.url}: the certificate is not valid ({error.reason.verify_message}); {by_hand(remote)}") from error
        raise _Interrupted(f"cannot be reached ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error: raise _Interrupted(f"gives no answer ({_reason(error)})") from error


def _reason(error: Exception) -> str: return " ".join(str(error).split()) or type(error).__name__


def _read(response) -> bytes:
    "Some more bytes; none at the end, be it the right one or not."
    try: return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error: raise _Interrupted(f"breaks off ({_reason(error)})") from error


def _begin(remote: Remote, response, partial: Path) -> tuple[bytes, int | None]:
    "The first bytes of a whole file, when they can be those of this one. Only then does what was there before give way."
    first, total = _read(response), response.headers.get("Content-Length", "")
    total = int(total) if total.isdigit() and not response.chunked else None
    if not first: raise _Interrupted("sends nothing")
    if wrong := recognise(remote.name, first):
        raise DownloadError(f"{remote.url} sends {wrong} instead of {remote.name}; {by_hand(remote)}")
    if None not in (remote.size, total) and remote.size != total:
        raise DownloadError(f"{remote.url}: expected {remote.size:,} bytes, the server announces {total:,}: it has another version, or it "
                            f"is mistaken; {by_hand(remote)}")
    _forget(partial)
    total, etag = remote.size if total is None else total, response.headers.get("ETag") or ""
    write_json(_state_file(partial), {
        "url": remote.url, "size": remote.size, "sha256": remote.sha256, "total": total,
        "etag": "" if etag.startswith("W/") else etag,   # a weak one does not promise the same bytes
        "modified": response.headers.get("Last-Modified") or ""})
    return first, total


def _continue(remote: Remote, response, partial: Path, have: int, state: dict) -> int | None:
    "The total of a file of which the rest is coming, when that is what is coming."
    start, total = _content_range(response.headers)
    known = state.get("total")
    if not have or start != have or (None not in (known, total) and known != total):
        _forget(partial)
        raise _Interrupted(f"was asked for the bytes from {have:,} on, and sends others")
    return known if total is None else total


def _attempt(remote: Remote, partial: Path, bar: tqdm) -> None:
    "One connection: it brings the file to its end, or raises."
    state = _resumable(remote, partial)
    have = _have(partial)
    if have and have == state.get("total"): return   # killed after the last byte
    response = _open(remote, have, state)
    if response is None:
        if have and state.get("total") in (None, have): return
        _forget(partial)
        raise _Interrupted("answers 416, as if it had no more bytes")
    with response:
        if response.status == 206: first, total = b"", _continue(remote, response, partial, have, state)
        else: (first, total), have = _begin(remote, response, partial), 0
        if total is not None: need_space(partial.parent, total - have, remote.name)
        bar.total, bar.n = total or remote.size, have
        with open(partial, "ab") as file:
            for chunk in itertools.chain([first], iter(lambda: _read(response), b"")):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    have = _have(partial)
    if total is not None and have < total: raise _Interrupted(f"breaks off after {have:,} of {total:,} bytes")
    if total is not None and have > total:
        _forget(partial)
        raise _Interrupted(f"announced {total:,} bytes and sends more")


def fetch(
    remote: Remote,
    folder: Path,                  # the file comes to lie in it
    recorded: dict | None = None,  # what checksums.json says of an earlier download
    wait: Callable[[float], None] = time.sleep,   # called with the seconds between two attempts
) -> dict:                         # the record of `verify`; the file is folder / remote.name
    "Download and verify. What an earlier run has left in NAME.partial is continued, when NAME.partial.json says what it is."
    folder.mkdir(parents=True, exist_ok=True)
    final, partial = folder / remote.name, folder / f"{remote.name}.partial"
    if final.exists():
        _forget(partial)   # killed after the last step but one
        try: return verify(final, remote, recorded)
        except DownloadError as error: raise DownloadError(f"{error}; or delete it and run again") from error
    failures, best = 0, _have(partial)
    with tqdm(total=remote.size, initial=best, unit="B", unit_scale=True, desc=remote.name, disable=None) as bar:
        while True:
            try: _attempt(remote, partial, bar)
            except _Interrupted as trouble:
                failures = 0 if _have(partial) > best else failures + 1
                best = max(best, _have(partial))
                _give_up(remote, trouble, failures, best)
                pause = min(60, 2.0 ** failures) if trouble.pause is None else trouble.pause
                bar.set_postfix_str(f"{trouble}, again in {pause:.0f} s")
                wait(pause)
            else: break
    try: record = verify(partial, remote, recorded)
    except DownloadError as error:
        _forget(partial)
        raise DownloadError(f"{error}; it was removed, the next run begins afresh") from error
    os.replace(partial, final)
    _forget(partial)
    return record


def _give_up(remote: Remote, trouble: _Interrupted, failures: int, have: int) -> None:
    "An error when another attempt is of no use now."
    later = f"run the same command again later{f', it goes on after {have:,} bytes' * (have > 0)}; or {by_hand(remote)}"
    if failures >= TRIES: raise DownloadError(f"{remote.url} {trouble}, {failures} times in a row; {later}") from trouble
    if (trouble.pause or 0) > LONGEST:
        raise DownloadError(f"{remote.url} {trouble} and asks for a pause of {trouble.pause:,.0f} seconds; {later}") from trouble


# --- unpacking -----------------------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def damaged(archive: Path) -> Iterator[None]:
    "What the libraries raise on a bad archive, in one sentence."
    try: yield
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError,
            ValueError) as error:
        raise DownloadError(f"{archive}: truncated or damaged ({_reason(error)}); get it again") from error


def unsafe(name: str) -> str:
    "Why a member of an archive must not be unpacked by its name; empty when it may."
    if not name or "\0" in name: return "no name that a file can have"
    if name.startswith("/"): return "an absolute path"
    if "\\" in name: return "a path with a backslash"
    if re.match(r"[A-Za-z]:", name): return "a path with a drive letter"
    if ".." in name.split("/"): return "a path out of the folder"
    return ""


def _refuse(archive: Path, name: str, why: str) -> None:
    raise DownloadError(f"{archive}: {name!r} in it is {why}; nothing was unpacked: this is not the data set, get the archive again")


def _check_zipped(archive: Path, info: zipfile.ZipInfo) -> None:
    if why := unsafe(info.orig_filename): _refuse(archive, info.orig_filename, why)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR): _refuse(archive, info.filename, "a link or a device")
    if info.flag_bits & 1: _refuse(archive, info.filename, "encrypted")
    if info.file_size > max(1_000_000, RATIO * info.compress_size): _refuse(archive, info.filename, f"a bomb of {readable(info.file_size)}")


def _check_tarred(archive: Path, member: tarfile.TarInfo) -> None:
    if why := unsafe(member.name): _refuse(archive, member.name, why)
    if not (member.isreg() or member.isdir()): _refuse(archive, member.name, "a link or a device")


def _wanted(part: Part, archive: Path, name: str, only: set[str] | None) -> str:
    "The name in the target folder; empty for a member that is not needed."
    match = re.fullmatch(rf"(?:\./)?(?:{part.folder})({part.files})", name)
    if not match or (only is not None and match[1] not in only): return ""
    if "/" in match[1] or match[1] in (".", "..", ""): _refuse(archive, name, "no plain file of the folder")
    return match[1]


def _write(archive: Path, source, file: Path, size: int) -> None:
    "A member, when it has the bytes it says and is the only one of its name."
    try: target = open(file, "xb")
    except FileExistsError: _refuse(archive, file.name, "there twice")
    with target:
        written = 0
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > size: _refuse(archive, file.name, "longer than it says")
            target.write(chunk)
    if written < size: raise EOFError(f"{file.name} has {written:,} of {size:,} bytes")


def _unzip(archive: Path, part: Part, folder: Path, only: set[str] | None) -> None:
    with zipfile.ZipFile(archive) as content:
        for info in content.infolist(): _check_zipped(archive, info)
        files = [(name, info) for info in content.infolist() if not info.is_dir() and (name := _wanted(part, archive, info.filename, only))]
        size = sum(info.file_size for _, info in files)
        if size > part.limit: _refuse(archive, part.place, f"a bomb of {readable(size)}")
        need_space(folder.parent, size, f"unpacking {archive.name}")
        for name, info in tqdm(files, desc=f"unpacking {archive.name}", unit=" files", disable=None):
            with content.open(info) as source: _write(archive, source, folder / name, info.file_size)


def _untar(archive: Path, part: Part, folder: Path, only: set[str] | None) -> None:
    size, unpacked = archive.stat().st_size, 0
    need_space(folder.parent, size, f"unpacking {archive.name}")   # pictures do not shrink: about as much as the archive
    with (open(archive, "rb") as raw, gzip.GzipFile(fileobj=raw) as stream, tarfile.open(fileobj=stream, mode="r|") as content,
          tqdm(total=size, desc=f"unpacking {archive.name}", unit="B", unit_scale=True, disable=None) as bar):
        for member in content:
            _check_tarred(archive, member)
            unpacked += member.size
            if unpacked > part.limit: _refuse(archive, part.place, f"a bomb of more than {readable(part.limit)}")
            if member.isreg() and (name := _wanted(part, archive, member.name, only)):
                _write(archive, content.extractfile(member), folder / name, member.size)
            bar.update(raw.tell() - bar.n)
        while rest := stream.read(CHUNK):   # to the end, where the checksum of the whole is
            unpacked += len(rest)
            if unpacked > part.limit: _refuse(archive, part.place, f"a bomb of more than {readable(part.limit)}")


def _aside(target: Path) -> Path: return target.with_name(target.name + ".unpacking")


def unpack(
    archive: Path,
    part: Part,                       # which files, how many, how large
    target: Path,                     # it is there when all is in it
    only: set[str] | None = None,     # the names that are needed; None: all
) -> None:
    "Some files of an archive, by way of a temporary folder beside the target that a killed run may leave and the next one removes."
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        with damaged(archive): (_unzip if archive.name.endswith(".zip") else _untar)(archive, part, aside, only)
        expected, found = part.count if only is None else len(only), len(os.listdir(aside))
        if not found or expected not in (None, found):
            wanted = "some" if expected is None else f"{expected:,}"
            raise DownloadError(f"{archive}: expected {wanted} files for {part.place}, found {found:,}; it is not {part.remote.name} as "
                                "published, get it again")
        if part.is_file: check_known(aside / target.name, part)
        os.replace(aside / target.name if part.is_file else aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def check_known(
    file: Path,
    part: Part,   # whose SHA-256 may be known
) -> str:         # its SHA-256
    "A file out of an archive as it was published."
    found = digests(file, ("sha256",))[0]
    if part.sha256 not in (None, found):
        raise DownloadError(f"{file}: expected SHA-256 {part.sha256}, found {found}; it is not that of {part.remote.name} as published, "
                            "get that again")
    return found


# --- where the parts come from -------------------------------------------------------------------------------------------------------

def _first(source: Path, patterns: tuple[str, ...], fits: Callable[[Path], bool]) -> Path | None:
    "The first path below a folder that fits one of some patterns; `.` is the folder itself."
    for pattern in patterns:
        for path in [source] if pattern == "." else sorted(source.glob(pattern)):
            if fits(path): return path
    return None


def _by_name(source: Path, name: str) -> Path | None:
    "A file in a folder, or up to two below it."
    return _first(source, (name, f"*/{name}", f"*/*/{name}"), Path.is_file)


def _unpacked(part: Part, source: Path) -> Path | None:
    "The part itself, where it is unpacked already."
    if part.is_file: return _by_name(source, Path(part.place).name)
    def fits(folder: Path) -> bool: return folder.is_dir() and any(re.fullmatch(part.files, name) for name in os.listdir(folder))
    return _first(source, part.unpacked, fits)


class Sources:
    "Where the parts of one run come from, each download fetched or looked for once, and what they are, for checksums.json and made.json."
    def __init__(self, out: Path, source: Path | None, wait: Callable[[float], None]):
        self.out, self.source, self.wait = out, source, wait
        self.records = read_json(out / "checksums.json")   # name -> record of a download
        self.origin: dict[str, dict] = {}                  # place -> what it was made from
        self.files: dict[str, Path] = {}                   # name -> verified download

    def download(self, remote: Remote, folder: Path) -> Path:
        "A verified download, or the same file in --from FOLDER."
        if remote.name not in self.files:
            known, path = self.records.get(remote.name), folder / remote.name
            if self.source and not path.exists():
                path = _by_name(self.source, remote.name)
                if path is None: raise DownloadError(f"{self.source}: no {remote.name} in it; {by_hand(remote)}; or leave --from out")
                record = verify(path, remote, known)
            else: record = fetch(remote, folder, known, self.wait)
            self.records[remote.name], self.files[remote.name] = record, path
            write_json(self.out / "checksums.json", dict(sorted(self.records.items())))
        return self.files[remote.name]

    def part(self, part: Part, found: dict[str, Path]) -> Path:
        "The folder or the file of a part: in OUT, or in place in --from FOLDER."
        target = self.out / part.place
        shutil.rmtree(_aside(target), ignore_errors=True)   # of a run that was killed
        there = target if part.files and target.exists() else self._as_it_is(part, target.parent)
        if there is None:
            unpack(self.download(part.remote, self.out / "downloads"), part, target, part.only(found) if part.only else None)
            there = target
        if part.is_file: check_known(there, part)
        if part.copied and there != target:
            copy(there, target)
            there = target
        in_place = {"in_place": str(there.resolve())}
        self.origin[part.place] = {"name": part.remote.name, "url": part.remote.url} if there == target else in_place
        return there

    def _as_it_is(self, part: Part, folder: Path) -> Path | None:
        "A part that needs no unpacking: the download itself, or what is unpacked in --from FOLDER."
        if not part.files: return self.download(part.remote, folder)
        return _unpacked(part, self.source) if self.source else None


def copy(file: Path, target: Path) -> None:
    "All of it or nothing."
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(target.name + ".new")
    shutil.copyfile(file, new)
    os.replace(new, target)


# --- a run ---------------------------------------------------------------------------------------------------------------------------

def parser(
    name: str,          # of the data set, and of the script
    description: str,
    example: str = "--accept",   # options of the example
) -> argparse.ArgumentParser:
    "The options that all scripts share."
    made = argparse.ArgumentParser(prog=f"{name}.py", description=description, epilog=f"Example: python data_scripts/{name}.py {example}")
    made.add_argument("--out", type=Path, default=Path("data", name), help="folder to make (default: %(default)s)")
    made.add_argument("--debug", action="store_true", help="show where an error came from")
    made.set_defaults(name=name, source=None, accept=False)
    return made


def add_sources(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    "The options of the scripts that download."
    made.add_argument("--from", dest="source", type=Path, metavar="FOLDER",
                      help="use the archives or unpacked files in FOLDER and download nothing; it is only read, pictures are used in place")
    made.add_argument("--accept", action="store_true", help="you have read the terms and accept them")
    return made


def agree(
    terms: str,       # in our words, with the address of the real ones
    accepted: bool,   # by --accept
) -> None:
    "Show the terms; go on only when somebody accepts them."
    print(terms.strip() + "\n")
    if accepted: return
    if not sys.stdin.isatty(): raise DownloadError("these terms have to be accepted: run again with --accept; nothing was downloaded")
    if input("Type yes to accept them: ").strip().lower() == "yes": return
    raise DownloadError("the terms were not accepted; nothing was downloaded")


def _check_folders(out: Path, source: Path | None, name: str) -> None:
    "OUT is new, or made by this script; FOLDER is there, and OUT is not in it."
    owner = out / ".data_script"
    if out.is_dir() and any(out.iterdir()) and not owner.is_file():
        raise DownloadError(f"{out}: not empty, and not made by {name}.py; give another --out")
    if owner.is_file() and (other := owner.read_text(encoding="utf-8").strip()) not in (name, ""):
        raise DownloadError(f"{out}: made by {other}.py; give another --out")
    if source is None: return
    if not source.is_dir(): raise DownloadError(f"{source}: no such folder; give --from the folder that holds the files")
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise DownloadError(f"{out}: lies in {source}, and --from never writes there; give another --out")


@contextlib.contextmanager
def _alone(out: Path, name: str) -> Iterator[None]:
    "One run at a time; the lock ends with the process, however that ends."
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".data_script", "a+", encoding="utf-8") as file:
        try: _lock(file)
        except (BlockingIOError, PermissionError) as error:
            raise DownloadError(f"{out}: another run is at work there; wait for it, or give another --out") from error
        if not file.tell(): file.write(f"{name}\n"); file.flush()
        yield


def _lock(file) -> None:
    if os.name == "nt":
        import msvcrt
        file.seek(0, os.SEEK_END)
        end = file.tell()
        file.seek(1 << 30)   # a byte beyond the text, which others may then read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(end)
    else:
        import fcntl
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_made(out: Path, options: dict) -> bool:
    "Whether all is there that made.json says. What is missing is made again; what was changed is not overwritten."
    made = read_json(out / "made.json")
    if not made: return False
    if made["options"] != options:
        raise DownloadError(f"{out}: made with {_words(made['options'])}, asked for {_words(options)}; give another --out, or delete it")
    for name, sha256 in made["files"].items():
        if (out / name).is_file() and digests(out / name, ("sha256",))[0] != sha256:
            raise DownloadError(f"{out / name}: changed since it was made; rename it to keep it, or delete it, and run again")
    for place, count in made["pictures"].items():
        folder = Path(os.path.normpath(out / place))
        there = len(os.listdir(folder)) if folder.is_dir() else 0
        if 0 < there < count: raise DownloadError(f"{folder}: {there:,} of {count:,} pictures are left; delete the folder and run again")
        if not there and out not in folder.parents:
            raise DownloadError(f"{folder}: the pictures of {out} are gone, which were used in place; bring them back, or delete {out}")
        if not there: return False
    return all((out / name).is_file() for name in made["files"])


def _words(options: dict) -> str: return ", ".join(f"{key}={value}" for key, value in options.items()) or "no options"


def _relative(folder: str, out: Path) -> str:
    "As seen from OUT, so that both may move together; on another drive the whole path."
    try: return Path(os.path.relpath(folder, out)).as_posix()
    except ValueError: return Path(folder).resolve().as_posix()


def _record(out: Path, options: dict, origin: dict, tables: dict, terms: str) -> None:
    "README.md for people, and made.json, written last: it says that all the rest is there."
    write_text(out / "README.md", "\n\n".join([f"# {out.name}", terms.strip(), *(str(t.describe()) for t in tables.values())]) + "\n")
    names = [f"{split}.json" for split in tables]
    folders = sorted({os.path.dirname(path) for table in tables.values() for path in table.paths})
    write_json(out / "made.json", {
        "options": options, "from": origin, "files": {name: digests(out / name, ("sha256",))[0] for name in names},
        "pictures": {_relative(folder, out): len(os.listdir(folder)) for folder in folders},
        "people": {split: len(table) for split, table in tables.items()}})


def _report(out: Path, tables: dict) -> None:
    "What was made, where, and what comes next."
    for split, table in tables.items():
        joints = int((table.visible > 0).sum())
        print(f"{split}.json: {len(table):,} people in {len(table.paths):,} pictures, {joints:,} joints of {table.skeleton.n_joints} kinds")
    downloads = sum(file.stat().st_size for file in out.glob("downloads/*"))
    print(f"made {out}, {readable(sum(file.stat().st_size for file in out.rglob('*') if file.is_file()))} on disk"
          + (f"; {readable(downloads)} of them in {out / 'downloads'}, which is no longer needed" if downloads else ""))
    store = Path("stores", out.name)
    print(f"next: msspose prepare {out} --size 256 --out {store}\n      msspose train --data {store} --out {Path('runs', out.name)}")


def sentence(error: Exception, out: Path) -> str:
    "An error in one line."
    numbers = {getattr(one, "errno", None) for one in (error, error.__cause__)}
    if numbers & {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}:
        return f"{out}: the disk is full; make room and run the same command again, a download goes on where it is"
    if isinstance(error, PermissionError): return f"{error.filename or out}: permission denied; give another --out"
    return _reason(error)


def run(
    arguments: argparse.Namespace,
    parts: tuple[Part, ...],
    convert: Callable[[dict[str, Path], argparse.Namespace], dict],   # the parts by place -> Annotations by split, which it has saved
    terms: str = "",
    options: tuple[str, ...] = (),              # names of arguments that change what is made
    wait: Callable[[float], None] = time.sleep,
) -> int:
    "Get the parts, convert them, say what was made. 0 done, 1 an error in one line, 130 stopped."
    arguments.out = Path(os.path.normpath(arguments.out))
    try: _run(arguments, parts, convert, terms, {name: getattr(arguments, name) for name in options}, wait)
    except KeyboardInterrupt:
        print(f"\n{arguments.out}: stopped; the same command again goes on from here", file=sys.stderr)
        return 130
    except (DownloadError, OSError, ValueError) as error:
        if arguments.debug: raise
        print(sentence(error, arguments.out), file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace, parts, convert, terms: str, options: dict, wait) -> None:
    out, source = arguments.out, arguments.source
    _check_folders(out, source, arguments.name)
    if _is_made(out, options):
        print(f"{out}: made already, nothing to do")
        return
    if terms: agree(terms, arguments.accept)
    with _alone(out, arguments.name):
        sources, found = Sources(out, source, wait), {}
        for part in parts: found[part.place] = sources.part(part, found)
        tables = convert(found, arguments)
        _record(out, options, sources.origin, tables, terms)
        _report(out, tables)


# --- what the readers of msspose give ------------------------------------------------------------------------------------------------

def save(
    tables: dict,   # split -> Annotations
    out: Path,      # each becomes SPLIT.json there
) -> dict:          # as they were saved
    "Each split as a file of its own, once all its pictures are there and can be read."
    from msspose.data import save_coco   # late: --help and a run with nothing to do need no torch
    tables = {split: measured(table) for split, table in tables.items()}
    for split, table in tables.items(): save_coco(table, out / f"{split}.json")
    return tables


def measured(table):
    "A table whose pictures are all there, with width and height of each."
    from PIL import Image
    there = {folder: set(os.listdir(folder)) for folder in {os.path.dirname(path) for path in table.paths}}
    absent = [path for path in table.paths if os.path.basename(path) not in there[os.path.dirname(path)]]
    if absent:
        folder, first = os.path.split(absent[0])
        raise DownloadError(f"{folder}: {len(absent):,} of {len(table.paths):,} pictures of {table.name} are missing, the first is "
                            f"{first}; complete the folder, or leave --from out")
    sizes = table.sizes.copy()
    for i in tqdm((sizes == 0).any(1).nonzero()[0], desc=f"measuring {table.name}", unit=" pictures", disable=None):
        try:
            with Image.open(table.paths[i]) as picture: sizes[i] = picture.size
        except (OSError, Image.DecompressionBombError) as error:
            raise DownloadError(f"{table.paths[i]}: not a picture that can be read; get it again") from error
    return replace(table, sizes=sizes)
