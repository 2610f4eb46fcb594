"""Download Task06_Lung, or another Decathlon archive, so that every interruption can be resumed.

pooch, the usual choice, checks a hash and retries, but starts every time at byte 0 (no Range, no
If-Range), looks neither at free space nor at content type, and extracts with tarfile's extractall
into the final place. For 8.5 GB that is too little, and the standard library has all it takes.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from lungseg_utils.decathlon.archive import extract
from lungseg_utils.decathlon.dataset import load
from lungseg_utils.decathlon.fetch import ELSEWHERE, fetch, md5_of
from lungseg_utils.runtime import LungsegError, file_error, require_writable, warn

TASK06_URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task06_Lung.tar"
TASK06_MD5 = "8afd997733c7fc0432f71255ba4e52dc"
DELAYS_S = (1, 2, 4, 8, 16, 32)  # before each new try; any progress starts them again
TIMEOUT_S = 30  # without a byte
ORIGIN = ".origin.json"  # inside a dataset that was extracted here


def download(
    folder: str | Path,
    *,
    url: str = TASK06_URL,
    md5: str = TASK06_MD5,
    delays_s: Sequence[float] = DELAYS_S,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetch the tar at `url` into `folder`, check its md5, extract it; return the dataset's folder.

    What is there already is used: the dataset, the tar, a part of it. `url` may be the path of a
    tar on this machine. The dataset appears by one rename at the very end, whole, and a run that
    was killed anywhere is continued by the next. A second process waits for the first.
    """
    folder = Path(folder)
    md5 = md5.strip().lower()
    if not re.fullmatch("[0-9a-f]{32}", md5):
        raise LungsegError("md5", f"{md5!r} is not an md5 sum", "Give its 32 hexadecimal digits")
    local = _local_path(url)
    tar = local or folder / _file_name(url)
    target = folder / tar.name.removesuffix(".tar")
    stage = folder / f".{target.name}.extracting"
    if not _is_there(target, md5):
        require_writable(folder)
        with _lock(folder / f".{target.name}.lock"):
            if not _is_there(target, md5):
                if local or tar.exists():
                    _require_md5(tar, md5)
                else:
                    fetch(url, tar, md5, delays_s=delays_s, timeout_s=timeout_s)
                _unpack(tar, stage, target, {"url": url, "md5": md5})
    # What a run may have left that was killed at its very end.
    shutil.rmtree(stage, ignore_errors=True)
    if (folder / tar.name).exists():
        with suppress(OSError):
            (folder / f"{tar.name}.part.json").unlink(missing_ok=True)
    return target


def _local_path(url: str) -> Path | None:
    """Return the path of a tar on this machine; None for an http address, which must be valid."""
    shown = re.sub("(?<=://)[^/?#]*@", "…@", url)
    if shown != url:
        raise LungsegError(
            shown, "holds a user's name, which would be shown and written down", ELSEWHERE
        )
    try:
        address = urlsplit(url)
        is_valid = address.hostname and address.port != 0
    except ValueError as error:
        raise LungsegError(url, f"is not a valid address ({error})", "Fix it") from error
    if address.scheme in ("http", "https"):
        if not is_valid:
            raise LungsegError(
                url, "is not a valid address (it names no server, or port 0)", "Fix it"
            )
        return None
    other = "Give an https address, or the path of a tar"
    path = Path(os.path.expanduser(url))
    if len(address.scheme) > 1 and not Path(url).exists():  # one letter is a drive of Windows
        raise LungsegError(url, f"{address.scheme}: addresses are not fetched", other)
    if not path.is_file():
        raise LungsegError(path, "no such file", other)
    return path


def _file_name(url: str) -> str:
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    if not re.fullmatch(r"[\w][\w .-]*\.tar", name):
        raise LungsegError(
            url,
            "does not end in the name of a .tar file",
            "Give the address of a plain .tar archive",
        )
    return name


def _is_there(target: Path, md5: str) -> bool:
    """Return whether the dataset has been extracted; raise where something else has its place."""
    if not target.exists():
        return False
    if not (target / "dataset.json").is_file():
        raise LungsegError(
            target,
            "is in the way of the dataset of that name",
            "Move it away or choose another folder",
        )
    try:
        origin = json.loads((target / ORIGIN).read_text(encoding="utf-8"))["md5"]
    except (OSError, ValueError, KeyError, TypeError):
        warn(
            f"{target}: was there already, not extracted by this program: used unchecked; "
            "see `lungseg check`"
        )
        return True
    if origin != md5:
        raise LungsegError(
            target, f"comes from another archive (md5 {origin}, not {md5})", "Move it away first"
        )
    return True


def _lock(path: Path) -> AbstractContextManager:
    """Admit one process at a time. The system frees the lock of a process that was killed."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        warn(f"{path.parent}: another process is downloading to it: waiting for that")
        return lock.acquire()


def _unpack(tar: Path, stage: Path, target: Path, origin: dict[str, str]) -> None:
    """Extract into the hidden folder `stage` beside `target`, check what came, and rename it."""
    try:
        if stage.exists():
            shutil.rmtree(stage)  # of a run that was killed: the lock is ours
        found = extract(tar, stage)
        try:
            load(found)
        except LungsegError as fault:
            raise LungsegError(
                tar, f"holds no valid dataset: {fault.cause}", "Choose another archive"
            ) from fault
        (found / ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
        os.replace(found, target)
    except OSError as error:
        raise file_error(target, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _require_md5(path: Path, md5: str) -> None:
    found = md5_of(path)
    if found != md5:
        raise LungsegError(
            path,
            f"has md5 {found}, not {md5}: damaged, or another archive; it was left as it is",
            "Move or delete it to download it again, or name its own md5",
        )
