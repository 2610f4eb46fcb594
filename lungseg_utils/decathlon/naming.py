"""Name the cases of a set that keeps a folder for each patient, all files of one name."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lungseg_utils.decathlon.entries import Case
from lungseg_utils.decathlon.source import FOLDERS


def names_by_folder(root: Path, cases: Sequence[Case]) -> dict[Path, Case]:
    """Return each image's case, named by its folder, where file names are not unique.

    The result is empty where they are unique, where images lie in imagesTr or imagesTs, and
    where folders do not tell the cases apart either.
    """
    by_image = {case.image: case for case in cases}
    stems = [case.id for case in by_image.values()]
    if _are_unique(stems) or any(image.parent.name in FOLDERS for image in by_image):
        return {}
    folders = [image.parent.relative_to(root).parts for image in by_image]
    for names, patients in _candidates(folders, stems):
        if all(names) and _are_unique(names):
            return {
                image: replace(case, id=name, patient=_stated_patient(case) or patient)
                for (image, case), name, patient in zip(by_image.items(), names, patients)
            }
    return {}


def _candidates(
    folders: list[tuple[str, ...]], stems: list[str]
) -> Iterator[tuple[list[str], list[str]]]:
    """Return names, and whose the scans are, from the shortest: PATIENT, GROUP_PATIENT, …"""
    depths = range(1, 1 + max(map(len, folders)))
    for depth in depths:
        names = ["_".join(parts[-depth:]) for parts in folders]
        yield names, names
    for depth in depths:
        owners = ["_".join(parts[-depth:]) for parts in folders]
        yield [f"{owner}_{name}" for owner, name in zip(owners, stems, strict=True)], owners


def _are_unique(names: list[str]) -> bool:
    return len({name.casefold() for name in names}) == len(names)


def _stated_patient(case: Case) -> str:
    return "" if case.patient == case.id else case.patient
