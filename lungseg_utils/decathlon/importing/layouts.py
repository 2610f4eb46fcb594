"""Which layout a folder of outlined scans has, and the cases in it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lungseg_utils.decathlon import dataset as datasets
from lungseg_utils.decathlon.entries import is_nifti
from lungseg_utils.decathlon.importing.outlines import Case, Outline, of_label, select
from lungseg_utils.decathlon.importing.pairing import cases_of, warn_of_repeats
from lungseg_utils.decathlon.importing.patients import patients_in
from lungseg_utils.decathlon.nnunet import FIRST, SECOND, exists_beside
from lungseg_utils.decathlon.source import read_json
from lungseg_utils.runtime import LungsegError, file_error, warn
from lungseg_utils.volume import stem

SCANS = ("images", "imagesTr")  # folders of NIfTI pairs
MASKS = ("labels", "masks", "labelsTr")
LAYOUTS = (
    "Give a folder with images/ and labels/, with a folder for each patient, or a dataset in the "
    "Decathlon's or nnU-Net's layout"
)


def find_cases(source: str | Path, wanted: Sequence[str] = ()) -> list[Case]:
    """Return the cases in `source`, each with its scan and the ROIs of the `wanted` names.

    Raises LungsegError for one fault, DatasetError for several: what has no mask or no scan, what
    is not clear. Voxels are read only where they tell a mask from a scan.
    """
    source = Path(source)
    if not source.is_dir():
        cause = "is a file, not a folder" if source.exists() else "no such folder"
        raise LungsegError(source, cause, LAYOUTS)
    try:
        names = os.listdir(source)
        has_json = "dataset.json" in names or any(source.glob("*/dataset.json"))
        folders = [name for name in names if (source / name).is_dir()]
        if has_json:
            return _of_dataset(source, wanted)
        if any(name in SCANS for name in folders):
            return _of_pairs(source, folders, wanted)
        return _of_patients(source, wanted)
    except OSError as error:
        raise file_error(error.filename or source, error) from error


def _of_patients(source: Path, wanted: Sequence[str]) -> list[Case]:
    cases = []
    faults = []
    folders = patients_in(source)
    for folder in folders:
        try:
            cases += cases_of(folder, wanted)
        except LungsegError as fault:
            faults.append(fault)
    datasets.raise_faults(source, faults)
    warn_of_repeats(source, folders)
    return cases


def _of_dataset(source: Path, wanted: Sequence[str]) -> list[Case]:
    found = datasets.load(source)
    classes = _classes_of(read_json(found.root / "dataset.json"))
    cases = []
    for part, listed in (("Tr", found.training), ("Ts", found.test)):
        for case in listed:
            outlines = _outlines_of(case.label, classes, wanted) if case.label else ()
            patient = "" if case.patient == case.id else case.patient
            stated = (patient, case.fold, case.is_crop)
            cases.append(Case(case.id, case.image, tuple(outlines), "", part, *stated))
    return cases


def _classes_of(content: dict) -> dict[str, list[int]]:
    """Return the values of each class but the background, as either tool declares them."""
    labels = content.get("labels")
    classes = {}
    for key, value in (labels if isinstance(labels, dict) else {}).items():
        name, numbers = (value, key) if str(key).isdecimal() else (key, value)
        numbers = numbers if isinstance(numbers, list) else [numbers]
        if all(str(number).isdecimal() for number in numbers) and str(name) != "ignore":
            classes[str(name)] = [int(number) for number in numbers]
    return {name: numbers for name, numbers in classes.items() if numbers != [0]}


def _outlines_of(
    label: Path, classes: dict[str, list[int]], wanted: Sequence[str]
) -> list[Outline]:
    if len(classes) > 1:
        outlines = [of_label(label, name, values) for name, values in classes.items()]
    else:
        name, values = next(iter(classes.items()), (stem(label), []))
        outlines = [of_label(label, name, values if values != [1] else ())]
    return select(label, outlines, wanted)


def _of_pairs(source: Path, folders: Iterable[str], wanted: Sequence[str]) -> list[Case]:
    """Return the scans of images/ with the masks of their names; those of imagesTs have none."""
    images, labels = (_the_one(source, folders, names) for names in (SCANS, MASKS))
    if wanted:
        raise LungsegError(
            "--roi", f"the masks in {labels} hold one ROI each, without a name", "Leave it out"
        )
    masks = _by_name(labels)
    scans = _by_name(images, masks)
    faults = [
        LungsegError(
            path,
            f"has no mask of its name in {labels.name}",
            "Add it; a scan without a mask belongs in imagesTs",
        )
        for name, path in scans.items()
        if name not in masks
    ]
    faults += [
        LungsegError(path, f"has no scan of its name in {images.name}", "Add it, or take this away")
        for name, path in masks.items()
        if name not in scans
    ]
    if not scans:
        faults = [LungsegError(images, "holds no NIfTI file", LAYOUTS)]
    datasets.raise_faults(source, faults)
    cases = [Case(name, path, (of_label(masks[name], name),)) for name, path in scans.items()]
    if "imagesTs" in folders:
        known = _by_name(source / "labelsTs") if "labelsTs" in folders else {}
        tests = _by_name(source / "imagesTs", known)
        for name, path in tests.items():
            outlines = (of_label(known[name], name),) if name in known else ()
            cases.append(Case(name, path, outlines, part="Ts"))
    return cases


def _the_one(source: Path, folders: Iterable[str], names: tuple[str, ...]) -> Path:
    found = [name for name in names if name in folders]
    if len(found) != 1:
        there = f"{' and '.join(found)} both" if found else f"no {' or '.join(names)}"
        raise LungsegError(source, f"has {there}", "Keep scans in images, their masks in labels")
    return source / found[0]


def _by_name(folder: Path, masks: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Return the NIfTI files in `folder` by their case.

    Scans come with their `masks`; one without a mask of its whole name is nnU-Net's CASE_0000.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not is_nifti(path.name) or path.is_dir():
            warn(f"{path}: is no NIfTI file; it is left out")
            continue
        name = stem(path)
        case = name.removesuffix(FIRST)
        is_whole = masks is None or name in masks
        if not is_whole and case and not exists_beside(path, case + SECOND):
            name = case
        if name in found:
            raise LungsegError(path, f"is called as {found[name].name} is", "Keep one of the two")
        found[name] = path
    return found
