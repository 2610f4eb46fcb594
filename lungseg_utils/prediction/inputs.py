"""What may be segmented: files, folders, patients' folders, datasets, archives and patterns."""

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lungseg_utils import decathlon, volume
from lungseg_utils.decathlon.source import read_json
from lungseg_utils.prediction import nnunet
from lungseg_utils.prediction.patients import has_more_slices, is_nifti, patients_in
from lungseg_utils.prediction.rows import results_in
from lungseg_utils.runtime import LungsegError


@dataclass(frozen=True)
class Scan:
    """One scan: its name, and the path of its file, folder or archive, as the user wrote it.

    `fault` is why it cannot be read, where that is known beforehand.
    """

    name: str
    source: str
    fault: LungsegError | None = None

    @property
    def path(self) -> Path:
        """Return where it is read from."""
        return Path(self.source)

    @property
    def is_zip(self) -> bool:
        """Return whether it has to be extracted first."""
        return self.source.lower().endswith(".zip") and not os.path.isdir(self.source)

    @property
    def is_dicom(self) -> bool:
        """Return whether it is a DICOM series."""
        return self.is_zip or os.path.isdir(self.source)


def list_scans(inputs: Sequence[str | Path | Scan]) -> list[Scan]:
    """Return the scans of all `inputs`, some of which may be patterns; a Scan keeps its name."""
    scans = [given for given in inputs if isinstance(given, Scan)]
    paths = [path for given in inputs if not isinstance(given, Scan) for path in expand(given)]
    scans += _name_by_folder([scan for path in paths for scan in find_scans(path)], paths)
    nnunet.refuse_channels([scan.path for scan in scans])
    return scans


def expand(path: str | Path) -> list[str]:
    """Return what a pattern such as "scans/*.nii.gz" matches, sorted; a plain path as it is."""
    text = os.fspath(path)
    if os.path.lexists(text) or not glob.has_magic(text):
        return [text]
    found = sorted(glob.glob(text, recursive=True))
    if not found:
        raise LungsegError(
            text, "this pattern matches no file or folder", "Check it, and where it starts from"
        )
    return found


def find_scans(path: str | Path) -> list[Scan]:
    """Return the scans of `path`: itself, or those of a folder or of a dataset (its test scans).

    A folder holds NIfTI files, patients' folders or, where it has neither, one DICOM series.
    """
    source = os.fspath(path)
    if not os.path.isdir(source):
        is_zip = source.lower().endswith(".zip")
        return [Scan(Path(source).stem if is_zip else nnunet.case_of(source), source)]
    if os.path.isfile(os.path.join(source, "dataset.json")):
        return _scans_of_dataset(source)
    results = results_in(source)
    names = sorted({*os.listdir(source)} - results)
    if not names:
        raise LungsegError(
            source,
            "holds results of predictions only" if results else "the folder is empty",
            "Give a scan, a folder of scans or of one DICOM series",
        )
    found = [os.path.join(source, name) for name in names if is_nifti(name)]
    if found and has_more_slices(source, len(found)):  # a SEG beside each is ours
        raise LungsegError(
            source,
            f"holds DICOM slices and NIfTI files too ({os.path.basename(found[0])})",
            "Give a folder of one kind, or the files",
        )
    if found:
        return [Scan(nnunet.case_of(file), file) for file in found]
    own_name = os.path.basename(os.path.abspath(source))
    patients = patients_in(source) or {own_name: source}
    return [
        Scan(name, os.path.join(source, name), fault=found)
        if isinstance(found, LungsegError)
        else Scan(name, found)
        for name, found in patients.items()
    ]


def _scans_of_dataset(root: str) -> list[Scan]:
    content = read_json(Path(root, "dataset.json"))
    if nnunet.is_raw_layout(root, content):
        return [Scan(nnunet.case_of(file), file) for file in nnunet.list_images(root, content)]
    dataset = decathlon.load(root)
    return [
        Scan(
            nnunet.case_of(case.image) if case.id == volume.stem(case.image) else case.id,
            os.fspath(case.image),
        )
        for case in dataset.test or dataset.training
    ]


def _name_by_folder(scans: list[Scan], paths: Sequence[str]) -> list[Scan]:
    """Return `scans` with names that repeat, as of "patients/*/ct.nii.gz", from their folders.

    They stay as they are where that tells them no better; a series below `paths` has the name of
    its patient's folder already.
    """
    places = {scan.path.absolute(): scan.name for scan in scans}
    counts = Counter(places.values())
    named = [
        replace(scan, name=scan.path.absolute().parent.name)
        if counts[scan.name] > 1 and (scan.source in paths or not scan.is_dicom)
        else scan
        for scan in scans
    ]
    return named if len({scan.name for scan in named}) == len(places) else scans
