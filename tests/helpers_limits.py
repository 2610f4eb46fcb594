"""Limits to test under, until the block ends: full disk, few open files, no permission to write."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def _limit(kind: str, most: int) -> Iterator[None]:
    import resource

    before = resource.getrlimit(getattr(resource, kind))
    resource.setrlimit(getattr(resource, kind), (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(getattr(resource, kind), before)


def full_disk(room: int = 0):
    """No file may grow beyond `room` bytes: to a program that writes it, this is a full disk."""
    return _limit("RLIMIT_FSIZE", room)


def open_files(more: int):
    """Only `more` files than now may be open at a time."""
    gc.collect()  # which may close what earlier tests have left open, and so make room later
    free = (number for number in itertools.count() if not _is_open(number))
    return _limit("RLIMIT_NOFILE", next(itertools.islice(free, more, None)))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def read_only_folder() -> Iterator[Path]:
    """Yield an empty folder that cannot be written.

    A superuser, whom no permission stops, is the user "nobody" meanwhile.
    """
    outer = Path(tempfile.mkdtemp()).resolve()  # pytest's own folders are closed to others
    folder = outer / "read only"
    folder.mkdir()
    outer.chmod(0o755)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(65534)
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(outer)
