"""Where a corrected mask goes: never over the scan, nor over the mask of another one."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from lungseg_utils.runtime import LungsegError, printable, require_writable, resolve, writing
from lungseg_utils.volume import Volume


def default_targets(folder: str | Path, scan: Volume) -> list[Path]:
    """Return the files of a scan's corrected mask in `folder`; of a DICOM series also a SEG's.

    A scan keeps its name there. Where another scan has it, that of its own folder goes before it.
    """
    folder = require_writable(resolve(folder, "runs/corrected"))
    digest = hashlib.blake2b(scan.hu.ravel().data, digest_size=16).hexdigest()
    endings = (".nii.gz", ".dcm") if scan.slices else (".nii.gz",)
    source = scan.source.absolute()
    names = [f"{scan.name}_corrected", f"{source.parent.name}_{scan.name}_corrected"]
    for name in names:
        note = folder / f"{name}.txt"  # says whose the mask is, as scans may share a grid
        if not any(os.path.lexists(folder / (name + end)) for end in (".txt", ".nii.gz", ".dcm")):
            with writing(note) as partial:
                partial.write_text(f"{printable(source)}\nvoxels {digest}\n", encoding="utf-8")
        elif not note.is_file() or digest not in note.read_text("utf-8", errors="replace"):
            continue
        return [folder / f"{name}{ending}" for ending in endings]
    raise LungsegError(
        folder / f"{names[-1]}{endings[0]}",
        "the mask of another scan of this name is there",
        "Name the file: session.save(path)",
    )


def refuse_the_scan(targets: Sequence[Path], scan: Volume) -> None:
    """Raise LungsegError where one of `targets` is the scan's own file, or one of its slices."""
    files = {os.path.realpath(file) for file in (scan.source, *scan.slices)}
    for target in targets:
        if os.path.realpath(target) in files:
            raise LungsegError(target, "it would overwrite the scan", "Choose another name")
