"""Write the cases of a folder as a set in Decathlon layout; dataset.json last, then checked."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from lungseg_utils import volume
from lungseg_utils.decathlon.check import check
from lungseg_utils.decathlon.dataset import raise_faults
from lungseg_utils.decathlon.importing.layouts import find_cases
from lungseg_utils.decathlon.importing.outlines import Case
from lungseg_utils.runtime import LungsegError, printable, progress, require_writable, warn, writing


@dataclass(frozen=True)
class Imported:
    """A case of the new set: its name, its ROIs with names of their own, and their volume.

    `volume_ml` is None where it has no mask.
    """

    name: str
    part: str
    rois: tuple[str, ...]
    volume_ml: float | None


def import_set(
    source: str | Path, out: str | Path, rois: Sequence[str] = (), *, crops: bool = False
) -> list[Imported]:
    """Write the outlined scans in `source` as a set in the new or empty folder `out`.

    `rois` are names or patterns of the regions to take, together. Voxels and affine stay as they
    are. `crops` says that the scans are pieces of chests. Raises LungsegError for one fault,
    DatasetError for several; `out` is then as it was.
    """
    source = Path(source)
    out = Path(out)
    _refuse_filled(out)
    found = find_cases(source, rois)
    cases = [replace(case, is_crop=crops or case.is_crop) for case in found]
    _refuse_repeats(source, cases)
    with _undone_on_failure(out):
        for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            if folder.endswith("Tr") or any(folder.endswith(case.part) for case in cases):
                require_writable(out / folder)
        imported = _write_cases(source, out, cases)
        with writing(out / "dataset.json") as partial:
            content = describe(source.resolve().name, cases)
            partial.write_text(json.dumps(content, indent=2) + "\n")
        report = check(out)
        for message in report.warnings:
            warn(message)
        raise_faults(source, report.faults)
    return imported


def _refuse_filled(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise LungsegError(out, "is a file, not a folder", "Choose another folder")
    there = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if there:
        half = "" if "dataset.json" in there else ", perhaps of an import that was interrupted"
        raise LungsegError(
            out,
            f"is not empty: {', '.join(there[:5])}{half}",
            "Choose another folder, or remove this one",
        )


def _refuse_repeats(source: Path, cases: Sequence[Case]) -> None:
    counts = Counter(_file_of(case).casefold() for case in cases)
    faults = [
        LungsegError(case.scan, f"another case would be called {case.name!r} too", "Rename one")
        for case in cases
        if counts[_file_of(case).casefold()] > 1
    ]
    raise_faults(source, faults)


@contextmanager
def _undone_on_failure(out: Path) -> Iterator[None]:
    """Remove what was written to the empty `out` where the import fails or is interrupted."""
    was_there = out.exists()
    try:
        yield
    except BaseException:
        (out / "dataset.json").unlink(missing_ok=True)
        for folder in out.glob("*"):
            shutil.rmtree(folder, ignore_errors=True)
        if not was_there:
            with suppress(OSError):
                out.rmdir()
        raise


def _write_cases(source: Path, out: Path, cases: Sequence[Case]) -> list[Imported]:
    """Read and write each case; after a fault the rest is read for a report of all, not written."""
    imported = []
    faults: list[LungsegError] = []
    for case in progress(cases, "importing", total=len(cases)):
        try:
            scan = volume.read(case.scan, series=case.series or None)
            drawn = (outline.read(scan) for outline in case.outlines)
            mask = reduce(np.bitwise_or, drawn) if case.outlines else None
        except LungsegError as fault:
            faults.append(fault)
            continue
        if faults:
            continue
        volume.write_scan(out / f"images{case.part}" / _file_of(case), scan)
        millilitres = None
        if mask is not None:
            volume.write_mask(out / f"labels{case.part}" / _file_of(case), mask, scan)
            millilitres = int(mask.sum(dtype=np.int64)) * float(np.prod(scan.spacing_mm)) / 1000
        rois = tuple(one.name for one in case.outlines if one.name != case.name)
        imported.append(Imported(case.name, case.part, rois, millilitres))
    raise_faults(source, faults)
    return imported


def _file_of(case: Case) -> str:
    """Return the file name of a case; a backslash would be read as a folder's end."""
    return f"{case.name.replace(chr(92), '_')}.nii.gz"


def describe(name: str, cases: Sequence[Case]) -> dict[str, Any]:
    """Return the content of the dataset.json of `cases`."""
    training: list[dict[str, Any]] = [
        {kind: f"./{kind}sTr/{_file_of(case)}" for kind in ("image", "label")}
        | ({"patient": case.patient} if case.patient else {})
        | ({} if case.fold is None else {"fold": case.fold})
        for case in cases
        if case.part == "Tr"
    ]
    test = [f"./imagesTs/{_file_of(case)}" for case in cases if case.part == "Ts"]
    crops = {"crops": True} if any(case.is_crop for case in cases) else {}
    return {
        "name": printable(name),
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "tumour"},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "test": test,
        **crops,
    }
