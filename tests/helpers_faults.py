"""A catalogue of bad and good inputs, made as files, and what the package does with each.

The tests try all of them, and `benchmarks/robustness.py` counts what becomes of them.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

from helpers_bad_bodies import bad_bodies, chest, good_bodies, misplaced_labels, spaced, stored
from helpers_bad_files import bad_images, bad_labels, ct, good_images, good_labels
from helpers_bad_folders import Input, bad_archives, bad_checkpoints, bad_series, bad_sets
from helpers_bodies import SPACING_MM
from helpers_unusual import good_series, good_sets, odd_series

from lungseg_utils import checkpoint, volume
from lungseg_utils.decathlon import check
from lungseg_utils.decathlon.archive import extract
from lungseg_utils.decathlon.fingerprint import Task, examine
from lungseg_utils.preprocess import prepare
from lungseg_utils.runtime import LungsegError, printable


def all_bad_series(folder: Path) -> Iterator[Input]:
    yield from bad_series(folder)
    yield from odd_series(folder)


FILES = {
    "bad_images": bad_images,
    "good_images": good_images,
    "bad_bodies": bad_bodies,
    "good_bodies": good_bodies,
    "bad_labels": bad_labels,
    "good_labels": good_labels,
}
FOLDERS = {
    "bad_series": all_bad_series,
    "good_series": good_series,
    "bad_sets": bad_sets,
    "good_sets": good_sets,
    "bad_checkpoints": bad_checkpoints,
    "bad_archives": bad_archives,
}


def write_all(folder: Path, kind: str) -> list[Input]:
    """Write the inputs of a kind into `folder` and list them; a label comes with its scan."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind in FOLDERS:
        return list(FOLDERS[kind](folder))
    listed = []
    for name, content in FILES[kind]():
        (folder / name).write_bytes(content)
        listed.append(Input(name, folder / name))
    if "labels" in kind:
        scan = folder.parent / "the scan.nii"
        scan.write_bytes(ct())
        listed = [Input(one.name, (scan, one.path)) for one in listed]
    if kind == "bad_labels":
        body = folder.parent / "the chest.nii"
        body.write_bytes(stored(chest(), spaced(*SPACING_MM)))
        for name, content in misplaced_labels():
            (folder / name).write_bytes(content)
            listed.append(Input(name, (body, folder / name)))
    return listed


def read_by_kind(one: Input, scratch: Path) -> object:
    """Read an input as the package reads what is of its kind."""
    if isinstance(one.path, tuple):
        return examine(Task("case", "training", *one.path))
    if one.path.parent.name.endswith("sets"):
        return check(one.path)
    if one.path.parent.name.endswith("bodies"):
        return prepare(volume.read(one.path))
    if one.path.suffix in (".safetensors", ".pt"):
        return checkpoint.load_weights(one.path)
    if one.path.suffix == ".tar":
        return extract(one.path, scratch / "out")
    return volume.read(one.path)


def judge(one: Input, scratch: Path) -> str:
    """Return what became of an input: "refused", "warned", "silent", or a description.

    A refusal or warning has to name the file; a refusal also needs a cause and a remedy.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            result = read_by_kind(one, scratch)
    except LungsegError as error:
        faults, messages = [error], [str(error)]
    except Exception as error:
        return f"refused unclearly: {type(error).__name__}: {error}"
    else:
        faults = getattr(result, "faults", [])
        warnings = [*getattr(result, "warnings", []), *printed.getvalue().splitlines()]
        messages = [str(fault) for fault in faults] or warnings
    finally:
        shutil.rmtree(scratch / "out", ignore_errors=True)
    if one.voxels and not faults and result.hu.size != one.voxels:
        return f"read in part: {result.hu.size} of {one.voxels} voxels"
    paths = one.path if isinstance(one.path, tuple) else (one.path,)
    names = {name for path in paths for name in (str(path), printable(path))}
    names |= {f"{volume.stem(path)}: " for path in paths}  # of a scan that was read
    is_clear = all(any(name in message for name in names) for message in messages)
    if not is_clear or not all(fault.cause and fault.remedy for fault in faults):
        return f"refused unclearly: {messages}"
    return "refused" if faults else "warned" if messages else "silent"
