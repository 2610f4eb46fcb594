"""Fetch one large file over HTTP, resumed by Range and If-Range, until its md5 is right."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lungseg_utils import __version__, runtime
from lungseg_utils.runtime import LungsegError

CHUNK = 1 << 18  # bytes
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
ELSEWHERE = "fetch the file by other means and name it instead of the address"


class _Interrupted(Exception):
    """The transfer broke off in a way that another try may mend."""


def fetch(url: str, path: Path, md5: str, *, delays_s: Sequence[float], timeout_s: float) -> None:
    """Bring the file at `url` to `path`, which appears only when its md5 is right.

    Until then the bytes are in `path`.part, and `path`.part.json tells which version of the file they belong to:
    a later run goes on from there. `delays_s` are the pauses before each new try; progress starts them anew.
    """
    part = _Part(url, path, md5, timeout_s)
    furthest = tries = 0
    while True:
        try:
            is_whole = part.proceed()
            found = md5_of(part.path)
            if found == md5:
                return part.finish(path)
            if is_whole:
                part.drop()
                if not part.resumed:
                    raise LungsegError(
                        url,
                        f"the file there has md5 {found}, not {md5}: damaged, or another version",
                        "try again, or name the right md5",
                    )
                part.resumed = False
                raise _Interrupted("the parts do not make up the right md5: starting anew")
            raise _Interrupted(f"ended after {part.size():,} bytes, and the md5 is not right yet")
        except _Interrupted as error:
            if part.size() > furthest:
                furthest, tries = part.size(), 0
            if tries >= len(delays_s):
                kept = (
                    f": {part.size() / 1e6:,.1f} MB are kept in {part.path}" if part.size() else ""
                )
                raise LungsegError(
                    url,
                    f"{error} (after {tries + 1} tries without progress)",
                    f"run it again later{kept}",
                ) from error
            runtime.warn(f"{url}: {error}; trying again in {delays_s[tries]:g} s")
            time.sleep(delays_s[tries])
            tries += 1


def forget(path: Path) -> None:
    """Remove the note that belongs to a part of `path`, where the whole file is there."""
    if path.exists():
        with contextlib.suppress(OSError):
            path.with_name(path.name + ".part.json").unlink(missing_ok=True)


class _Part:
    """The bytes that have come so far, and the version of the remote file that they belong to."""

    def __init__(self, url: str, path: Path, md5: str, timeout_s: float):
        self.url, self.md5, self.timeout_s, self.resumed = url, md5, timeout_s, False
        self.path, self.note = (
            path.with_name(path.name + ".part"),
            path.with_name(path.name + ".part.json"),
        )

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def version(self) -> dict:
        """Give validator and length of the remote file as noted, {} where the bytes cannot be continued."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            fits = (
                note["url"] == self.url
                and note["md5"] == self.md5
                and isinstance(note["validator"], str)
            )
            return (
                note
                if fits and (note["length"] is None or 0 < self.size() <= note["length"])
                else {}
            )
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
        """Ask for what is still missing and append it; tell if that is known to be the whole file."""
        version = self.version()
        start = self.size() if version else 0
        self.resumed = self.resumed or start > 0  # then a wrong md5 may be the fault of older bytes
        if start and start == version["length"]:
            return True
        headers = {"User-Agent": f"lungseg/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-", "If-Range": version["validator"]}
        try:
            with _opener().open(
                urllib.request.Request(self.url, headers=headers), timeout=self.timeout_s
            ) as answer:
                return self._receive(answer, start, version)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error, start)
        except (http.client.InvalidURL, ValueError) as error:
            raise LungsegError(self.url, f"is not a sound address ({error})", "mend it") from error
        except (urllib.error.URLError, http.client.HTTPException) as error:
            raise _Interrupted(
                f"no connection ({getattr(error, 'reason', None) or error!r})"
            ) from error
        except OSError as error:  # a time-out or reset before the headers; those of the disk are LungsegErrors already
            raise _Interrupted(
                f"the connection failed ({error or type(error).__name__})"
            ) from error

    def _refused(self, error: urllib.error.HTTPError, start: int) -> bool:
        if error.code == 416 and start:
            if error.headers.get("Content-Range", "").replace(" ", "") == f"bytes*/{start}":
                return True  # nothing is missing
            self.drop()
            raise _Interrupted("the server cannot resume at that place")
        if error.code in TRANSIENT:
            raise _Interrupted(f"the server answers {error.code} {error.reason}")
        if 300 <= error.code < 400:
            raise LungsegError(
                self.url, "the server redirects in a circle, or to what is not http", ELSEWHERE
            )
        cause = f"the server answers {error.code} {error.reason}"
        raise LungsegError(self.url, cause, f"check the address, or {ELSEWHERE}")

    def _receive(self, answer: http.client.HTTPResponse, start: int, version: dict) -> bool:
        tag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified")
        validator = (
            tag if tag.startswith('"') else date
        )  # a weak tag (W/"…") may not be used with If-Range
        if answer.status == 206:
            span = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip()
            )
            length = int(span[2]) if span and span[2] != "*" else version.get("length")
            is_same = (
                span and int(span[1]) == start and validator in (None, version.get("validator"))
            )
            if not start or not is_same or length != (version["length"] or length):
                self.drop()
                raise _Interrupted(
                    "the server answers with a part of another version: starting anew"
                )
            note = version | {"length": length}
        elif answer.status == 200:
            if start:
                runtime.warn(f"{self.url}: has changed or cannot be resumed: starting anew")
            start, self.resumed = 0, False
            stated = answer.headers.get("Content-Length", "")
            length = int(stated) if stated.isdecimal() else None
            note = {"url": self.url, "md5": self.md5, "validator": validator, "length": length}
        else:
            raise LungsegError(
                self.url, f"the server answers {answer.status} without the file", ELSEWHERE
            )
        first = self._read(answer)
        if not start and (
            "html" in answer.headers.get_content_type() or first.lstrip()[:1] == b"<"
        ):
            raise LungsegError(
                self.url,
                "the server sent a web page, not the file: a sign-in page perhaps",
                ELSEWHERE,
            )
        self._require_space(length, start)
        self._append(answer, first, start, note, is_news=note != version)
        if length is not None and self.size() < length:
            raise _Interrupted(f"was cut after {self.size():,} of {length:,} bytes")
        return length is not None

    def _append(
        self, answer: http.client.HTTPResponse, chunk: bytes, start: int, note: dict, is_news: bool
    ) -> None:
        try:
            with (
                open(self.path, "ab" if start else "wb") as file,
                progress_bar(f"downloading {self.path.stem}", note["length"], start) as bar,
            ):
                if is_news:  # after the old bytes are gone, before the first new one comes
                    self.note.write_text(json.dumps(note), encoding="utf-8")
                while chunk:
                    file.write(chunk)
                    bar.update(len(chunk))
                    chunk = self._read(answer)
        except OSError as error:
            raise runtime.file_error(self.path, error) from error

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read1(
                CHUNK
            )  # never waits for a full chunk, so a cut loses nothing that came
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(
                f"the connection broke off ({error or type(error).__name__})"
            ) from error

    def _require_space(self, length: int | None, start: int) -> None:
        needed, free = 2 * (length or 0) - start, shutil.disk_usage(self.path.parent).free
        if needed > free:
            cause = f"{needed / 1e6:,.0f} MB are needed for archive and dataset, {free / 1e6:,.0f} MB are free"
            raise LungsegError(self.path.parent, cause, "free some space or choose another folder")


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, answer, code, message, headers, address):
        old, new = urlsplit(request.full_url).scheme, urlsplit(address).scheme
        if new not in ("http", "https") or (old, new) == ("https", "http"):
            raise urllib.error.HTTPError(
                address, code, "redirect to an unsafe address", headers, answer
            )
        return super().redirect_request(request, answer, code, message, headers, address)


def _opener() -> urllib.request.OpenerDirector:
    """Build an opener that knows http and https only: no file:, ftp: or data: address, not even by redirect."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        _HttpOnly,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def md5_of(path: Path) -> str:
    """Give the md5 of a file as 32 hexadecimal digits."""
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
        raise runtime.file_error(path, error) from error
    return digest.hexdigest()


def progress_bar(description: str, total: int | None, initial: int = 0):
    """Give a bar that counts bytes, shown on a terminal only."""
    from tqdm import tqdm

    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=not sys.stderr.isatty(),
    )
