"""Whether a scan's file or folder still holds what was segmented."""

import hashlib
import os
from collections.abc import Iterator

from lungseg_utils.prediction.patients import files_below

RESULTS = (".nii", ".nii.gz", ".png", ".json", ".jsonl")  # which may lie among a series' slices
CHUNK = 1 << 20


def stamp_of(source: str) -> str:
    """Return a hash of names, sizes and times: while it is the same, so is the content.

    Raises OSError where `source` is not there.
    """
    lines = []
    for name, path in _files_of(source):
        found = os.stat(path)
        # a program may set the time of the last change back, but not that of the inode's
        lines.append(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\n")
    return hashlib.blake2b("".join(lines).encode(*UTF8), digest_size=8).hexdigest()


def content_of(source: str) -> str:
    """Return a hash of the content of a file, or of the names and contents of a folder's files.

    Raises OSError where `source` is not there.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, path in _files_of(source):
        digest.update(f"{name}\0{os.path.getsize(path)}\n".encode(*UTF8))
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


UTF8 = ("utf-8", "surrogateescape")  # any name that the disk may hold


def size_of(source: str) -> int:
    """Return the bytes of a scan's files; 0 where it is not there."""
    try:
        return sum(os.path.getsize(path) for _, path in _files_of(source))
    except OSError:
        return 0


def _files_of(source: str) -> Iterator[tuple[str, str]]:
    """Yield each file of a scan: its name below `source` and its path.

    Raises OSError for what is no file either, such as a named pipe, which would never end.
    """
    if not os.path.isdir(source):
        if not os.path.isfile(source):
            raise FileNotFoundError(f"{source}: no regular file")
        yield "", source
        return
    for path in files_below(source):
        if not path.lower().endswith(RESULTS):
            yield os.path.relpath(path, source), path
