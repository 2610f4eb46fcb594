"""Fetch one large file over HTTP, resumed by Range and If-Range, until its md5 is right."""

import hashlib
import json
import os
import re
import shutil
import sys
import time
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lungseg_utils import __version__
from lungseg_utils.decathlon.transport import TransferError, open_url, read_chunk
from lungseg_utils.runtime import LungsegError, file_error, warn

Note = dict[str, Any]  # url, md5, validator and length of the version that a part belongs to
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
ELSEWHERE = "Fetch the file by other means and name it instead of the address"


def fetch(url: str, path: Path, md5: str, *, delays_s: Sequence[float], timeout_s: float) -> None:
    """Fetch the file at `url` to `path`, which appears only when its md5 is right.

    Until then the bytes are in `path`.part, and `path`.part.json notes which version of the file
    they belong to: a later run goes on from there. `delays_s` are the pauses before each new try;
    progress starts them again.
    """
    part = _Part(url, path.with_name(path.name + ".part"), md5, timeout_s)
    furthest = tries = 0
    while True:
        try:
            is_whole = part.proceed()
            found = md5_of(part.path)
            if found == md5:
                return part.finish(path)
            if not is_whole:
                raise TransferError(
                    f"ended after {part.size():,} bytes, and the md5 is not right yet"
                )
            part.drop()
            if not part.resumed:
                raise LungsegError(
                    url,
                    f"the file there has md5 {found}, not {md5}: damaged, or another version",
                    "Try again, or name the right md5",
                )
            part.resumed = False
            raise TransferError("the parts do not make up the right md5: starting again")
        except TransferError as error:
            if part.size() > furthest:
                furthest, tries = part.size(), 0
            if tries >= len(delays_s):
                kept = f": {part.size() / 1e6:,.1f} MB are kept in {part.path}"
                raise LungsegError(
                    url,
                    f"{error} (after {tries + 1} tries without progress)",
                    "Run it again later" + (kept if part.size() else ""),
                ) from error
            warn(f"{url}: {error}; trying again in {delays_s[tries]:g} s")
            time.sleep(delays_s[tries])
            tries += 1


@dataclass
class _Part:
    """The bytes that have come so far, and the version of the remote file that they belong to."""

    url: str
    path: Path
    md5: str
    timeout_s: float
    resumed: bool = False  # then a wrong md5 may be the fault of older bytes

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> Note:
        """Return the noted validator and length, {} where the bytes cannot be continued."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            is_ours = note["url"] == self.url and note["md5"] == self.md5
            is_possible = note["length"] is None or 0 < self.size() <= note["length"]
            return note if is_ours and is_possible and isinstance(note["validator"], str) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def drop(self) -> None:
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def finish(self, path: Path) -> None:
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, path)
        self.note.unlink(missing_ok=True)

    def proceed(self) -> bool:
        """Ask for what is missing and append it; return whether the file is known to be whole."""
        version = self.version()
        start = self.size() if version else 0
        self.resumed = self.resumed or start > 0
        if start and start == version["length"]:
            return True
        headers = {"User-Agent": f"lungseg/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": version["validator"]}
        try:
            with open_url(self.url, headers, self.timeout_s) as answer:
                return self._receive(answer, start, version)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error, start)
        except (InvalidURL, ValueError) as error:
            raise LungsegError(self.url, f"is not a valid address ({error})", "Fix it") from error
        except (urllib.error.URLError, HTTPException) as error:
            raise TransferError(
                f"no connection ({getattr(error, 'reason', repr(error))})"
            ) from error
        except OSError as error:  # a time-out or reset; those of the disk are LungsegErrors already
            raise TransferError(
                f"the connection failed ({error or type(error).__name__})"
            ) from error

    def _refused(self, error: urllib.error.HTTPError, start: int) -> bool:
        """Return True where nothing is missing; raise what another status means."""
        if error.code == 416 and start:
            if error.headers.get("Content-Range", "").replace(" ", "") == f"bytes*/{start}":
                return True
            self.drop()
            raise TransferError("the server cannot resume at that place")
        cause = f"the server answers {error.code} {error.reason}"
        if error.code in TRANSIENT:
            raise TransferError(cause)
        if 300 <= error.code < 400:
            raise LungsegError(
                self.url, "the server redirects in a circle, or to what is not http", ELSEWHERE
            )
        raise LungsegError(self.url, cause, f"Check the address, or {ELSEWHERE.lower()}")

    def _receive(self, answer: HTTPResponse, start: int, version: Note) -> bool:
        headers = answer.headers
        tag = headers.get("ETag", "")
        # A weak tag (W/"…") may not be used with If-Range.
        validator = tag if tag.startswith('"') else headers.get("Last-Modified")
        if answer.status == 206:
            span = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip()
            )
            length = int(span[2]) if span and span[2] != "*" else version.get("length")
            is_same = validator in (None, version.get("validator"))
            is_rest = start and span and int(span[1]) == start and is_same
            if not is_rest or length != (version["length"] or length):
                self.drop()
                raise TransferError(
                    "the server answers with a part of another version: starting again"
                )
            note = version | {"length": length}
        elif answer.status == 200:
            if start:
                warn(f"{self.url}: has changed or cannot be resumed: starting again")
            start = 0
            self.resumed = False
            stated = headers.get("Content-Length", "")
            length = int(stated) if stated.isdecimal() else None
            note = {"url": self.url, "md5": self.md5, "validator": validator, "length": length}
        else:
            raise LungsegError(
                self.url, f"the server answers {answer.status} without the file", ELSEWHERE
            )
        first = read_chunk(answer)
        if not start and ("html" in headers.get_content_type() or first.lstrip()[:1] == b"<"):
            cause = "the server sent a web page, not the file: a sign-in page perhaps"
            raise LungsegError(self.url, cause, ELSEWHERE)
        self._require_space(length, start)
        self._append(answer, first, start, note)
        if length is not None and self.size() < length:
            raise TransferError(f"was cut after {self.size():,} of {length:,} bytes")
        return length is not None

    def _require_space(self, length: int | None, start: int) -> None:
        needed, free = 2 * (length or 0) - start, shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise LungsegError(
                self.path.parent,
                f"{needed / 1e6:,.0f} MB are needed for archive and dataset, "
                f"{free / 1e6:,.0f} MB are free",
                "Free some space or choose another folder",
            )

    def _append(self, answer: HTTPResponse, chunk: bytes, start: int, note: Note) -> None:
        try:
            with (
                open(self.path, "ab" if start else "wb") as file,
                progress_bar(f"downloading {self.path.stem}", note["length"], start) as bar,
            ):
                if (
                    note != self.version()
                ):  # after the old bytes are gone, before the first new one comes
                    self.note.write_text(json.dumps(note), encoding="utf-8")
                while chunk:
                    file.write(chunk)
                    bar.update(len(chunk))
                    chunk = read_chunk(answer)
        except OSError as error:
            raise file_error(self.path, error) from error


def md5_of(path: Path) -> str:
    """Return the md5 of a file as 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with (
            open(path, "rb") as file,
            progress_bar(f"checking {path.name}", path.stat().st_size) as bar,
        ):
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                bar.update(len(chunk))
    except OSError as error:
        raise file_error(path, error) from error
    return digest.hexdigest()


def progress_bar(description: str, total: int | None, initial: int = 0) -> tqdm:
    """Return a bar that counts bytes, shown on a terminal only."""
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=not sys.stderr.isatty(),
    )
