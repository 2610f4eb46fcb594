"""Load a dataset in Decathlon layout: every entry of dataset.json checked, every fault told at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lungseg_utils import runtime
from lungseg_utils.decathlon.source import FOLDERS, RESTORE, find_root, read_json
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume import stem

SHOWN_FAULTS = 20
ENTRY = 'write {"image": "./imagesTr/ID.nii.gz", "label": "./labelsTr/ID.nii.gz"}, or a bare path under "test"'


@dataclass(frozen=True)
class Case:
    """One scan: its id (the file name without .nii.gz), its image, its label if there is one, and whose it is."""

    id: str
    image: Path
    label: Path | None
    patient: str = ""  # "patient" of the entry, else the id: a case of Task06 is a patient


@dataclass(frozen=True)
class Dataset:
    """A set in Decathlon layout; the cases are sorted by id."""

    root: Path
    name: str
    training: tuple[Case, ...]
    test: tuple[Case, ...]


class DatasetError(LungsegError):
    """All that is wrong with a dataset, in one error: `faults` holds one LungsegError for each."""

    def __init__(self, subject: object, faults: Iterable[LungsegError]):
        self.faults = list(faults)
        lines = [f"\n  {fault}" for fault in self.faults[:SHOWN_FAULTS]]
        if len(self.faults) > SHOWN_FAULTS:
            lines.append(
                f"\n  and {len(self.faults) - SHOWN_FAULTS} more; `lungseg check` lists them all"
            )
        super().__init__(
            subject, f"{len(self.faults)} faults:{''.join(lines)}", "mend them and try again"
        )
        self.args = (
            "".join([f"{self.subject}: {len(self.faults)} faults:", *lines, f"\n{self.remedy}."]),
        )  # a list

    def __reduce__(self):
        return type(self), (self.subject, self.faults)


def load(dataset_dir: str | Path) -> Dataset:
    """Read the dataset in `dataset_dir`; what is odd but legal is said as a warning.

    A folder one level too high or too low is put right, and said. No voxel is read here: `check` does that.
    Raises LungsegError for one fault, DatasetError for several: all are found at once.
    """
    dataset, faults, warnings = inspect(dataset_dir)
    for message in warnings:
        runtime.warn(message)
    if faults:
        raise faults[0] if len(faults) == 1 else DatasetError(dataset.root, faults)
    return dataset


def inspect(dataset_dir: str | Path) -> tuple[Dataset | None, list[LungsegError], list[str]]:
    """Give the sound cases of a dataset, its faults and its oddities; None if dataset.json cannot be read."""
    warnings: list[str] = []
    try:
        root = find_root(Path(dataset_dir), warnings)
        content = read_json(root / "dataset.json")
    except LungsegError as fault:
        return None, [fault], warnings
    reader = _Reader(root, warnings)
    training, test = reader.cases(content, "training"), reader.cases(content, "test")
    reader.find_repeats(training, test)
    reader.find_extra_files()
    reader.compare_purpose(content)
    name = content.get("name")
    name = runtime.printable(name) if name and isinstance(name, str) else root.resolve().name
    return Dataset(root, name, _by_id(training), _by_id(test)), reader.faults, warnings


def is_nifti(name: str) -> bool:
    """Tell if a file of that name would be NIfTI; macOS's `._` files are not."""
    return name.lower().endswith((".nii", ".nii.gz")) and not name.startswith("._")


class _Reader:
    """Turns entries into cases and collects what is wrong on the way."""

    def __init__(self, root: Path, warnings: list[str]):
        self.root, self.json, self.warnings = root, root / "dataset.json", warnings
        self.faults: list[LungsegError] = []
        self.named: set[Path] = set()

    def fault(self, cause: str, remedy: str, subject: Path | None = None) -> None:
        self.faults.append(LungsegError(subject or self.json, runtime.printable(cause), remedy))

    def cases(self, content: dict, part: str) -> list[Case]:
        entries = content.get(part, [])
        if not isinstance(entries, list):
            self.fault(f'"{part}" is a {type(entries).__name__}, not a list of cases', ENTRY)
            return []
        kept = [
            (f"{part} entry {i}", entry)
            for i, entry in enumerate(entries, 1)
            if not _is_apple_double(entry)
        ]
        if len(kept) < len(entries):
            ignored = len(entries) - len(kept)
            self.warnings.append(
                f"{self.json}: {ignored} {part} entries name macOS's ._ files: ignored"
            )
        if part == "training" and not kept:
            self.fault(
                '"training" names no case' if part in content else 'the key "training" is missing',
                RESTORE,
            )
        self.compare_count(
            content, {"training": "numTraining", "test": "numTest"}[part], {len(kept), len(entries)}
        )
        return [case for where, entry in kept if (case := self.case(where, entry, part))]

    def compare_count(self, content: dict, key: str, counts: set[int]) -> None:
        if key not in content:
            if key == "numTraining":
                self.warnings.append(f'{self.json}: the key "{key}" is missing')
            return
        said = content[key]
        if isinstance(said, bool) or not isinstance(said, (int, float)) or said not in counts:
            self.fault(
                f'"{key}" is {str(said)[:40]}, but {min(counts)} cases are listed',
                f"set it to {min(counts)}, or restore the missing entries",
            )

    def case(self, where: str, entry: object, part: str) -> Case | None:
        fields = {"image": entry} if part == "test" and isinstance(entry, str) else entry
        if not isinstance(fields, dict):
            self.fault(
                f"{where} is a {type(entry).__name__}, not an object with image and label", ENTRY
            )
            return None
        kinds = ["image"] + ["label"] * (part == "training" or fields.get("label") is not None)
        paths = {kind: self.path(where, kind, fields.get(kind)) for kind in kinds}
        patient = self.patient(where, fields.get("patient"))
        if patient is None or None in paths.values():
            return None
        image, label = paths["image"], paths.get("label")
        if part == "test" and label is None and (self.root / "labelsTs" / image.name).is_file():
            label = self.root / "labelsTs" / image.name
            self.named.add(label)
        return Case(stem(image), image, label, patient or stem(image))

    def patient(self, where: str, said: object) -> str | None:
        """Give whose scan an entry says it is; "" where it says nothing."""
        if said in (None, ""):
            return ""
        if isinstance(said, bool) or not isinstance(said, (str, int, float)) or said != said:
            return self.fault(
                f"{where} has {str(said)[:60]!r} as its patient", "write a name or a number"
            )
        return str(said)

    def path(self, where: str, kind: str, text: object) -> Path | None:
        if not isinstance(text, str) or not text.strip():
            what = (
                f"has no {kind}"
                if text is None
                else f"has {str(text)[:60]!r} as its {kind}, not a path"
            )
            return self.fault(f"{where} {what}", ENTRY)
        clean = os.path.normpath(text.replace("\\", "/")).replace(os.sep, "/")
        if clean.startswith("/") or re.match("[A-Za-z]:", clean):
            return self.fault(
                f"{where}: {text[:200]!r} is an absolute path",
                "write ./imagesTr/ID.nii.gz or the like",
            )
        if clean.split("/")[0] == "..":
            return self.fault(
                f"{where}: {text[:200]!r} leads outside the dataset", "name files inside it"
            )
        if not is_nifti(clean.rsplit("/", 1)[-1]):
            return self.fault(
                f"{where}: {text[:200]!r} is not called .nii or .nii.gz", "convert it to NIfTI"
            )
        path = self.root / clean
        try:
            cause = None if path.is_file() else _why_missing(path)
        except (
            OSError,
            ValueError,
        ) as error:  # a name too long, a NUL in it, a lone surrogate, no permission
            cause = f"it cannot be looked up ({getattr(error, 'strerror', None) or error})"
        if cause:
            return self.fault(
                f"named as {kind} by {where}, but {cause}",
                "restore the file or mend the entry",
                path,
            )
        self.named.add(path)
        return path

    def find_repeats(self, training: list[Case], test: list[Case]) -> None:
        """Find cases named twice and labels swapped; a case or patient in both lists flatters every score."""
        ids = {case.id for case in training}
        seen: dict[tuple, tuple[str, Case]] = {}
        for part, case in [("training", case) for case in training] + [
            ("test", case) for case in test
        ]:
            if case.label and stem(case.label) in ids - {case.id}:
                self.fault(
                    f"{case.id} is paired with the label of {stem(case.label)}",
                    "pair it with its own label",
                )
            files = [("image", case.image)] + [("label", case.label)] * (case.label is not None)
            keys = [
                ("id", case.id.casefold()),
                *((kind, _identity(path)) for kind, path in files),
                ("patient", case.patient),
            ]
            met = [(key[0], *seen.setdefault(key, (part, case))) for key in keys]
            for kind, earlier_part, earlier in [
                m for m in met if m[2] is not case and m[:2] != ("patient", part)
            ][:1]:
                if kind == "patient":
                    what = f"the test case {case.id} is of the same patient as the training case {earlier.id}: a leak"
                elif earlier_part != part:
                    what = f"the training case {earlier.id} is in the test list too, as {case.id}: a leak"
                elif kind == "id":
                    what = f"the {part} case {case.id} is named twice"
                else:
                    what = f"the {part} cases {earlier.id} and {case.id} share one {kind} file"
                self.fault(what, "keep each scan once, and each patient in one of the two lists")

    def find_extra_files(self) -> None:
        for folder in sorted(
            {path.parent for path in self.named} | {self.root / name for name in FOLDERS}
        ):
            try:
                extra = sorted(
                    path.name
                    for path in folder.iterdir()
                    if is_nifti(path.name) and path not in self.named
                )
            except OSError:
                continue  # no such folder: what should be in it is a fault already
            if extra:
                more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
                self.warnings.append(
                    f"{folder}: {len(extra)} files that no sound entry names are ignored: "
                    f"{', '.join(extra[:3])}{more}"
                )

    def compare_purpose(self, content: dict) -> None:
        """Say where the set is not what this package is for: one class, in CT."""
        modality, labels = (
            content.get("modality", content.get("channel_names")),
            content.get("labels"),
        )
        if modality is None:
            self.warnings.append(f'{self.json}: the key "modality" is missing: taken for CT')
        elif not re.search(r"\bCT\b", str(modality), re.IGNORECASE):
            self.warnings.append(
                f"{self.json}: the modality is {str(modality)[:60]}, not CT: values may not be HU"
            )
        if labels is None:
            self.warnings.append(
                f'{self.json}: the key "labels" is missing: taken for 0 background, 1 tumour'
            )
        elif not isinstance(labels, dict):
            self.fault(
                f'"labels" is a {type(labels).__name__}', 'write {"0": "background", "1": "cancer"}'
            )
        elif len(labels) != 2:
            self.warnings.append(
                f"{self.json}: {len(labels)} classes are declared, not two (0 background, 1 tumour)"
            )


def _by_id(cases: list[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.id))


def _is_apple_double(entry: object) -> bool:
    text = entry.get("image") if isinstance(entry, dict) else entry
    return isinstance(text, str) and text.replace("\\", "/").rsplit("/", 1)[-1].startswith("._")


def _identity(path: Path) -> tuple[int, int]:
    """Give what all names of one file share, be they links or not."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _why_missing(path: Path) -> str:
    if path.is_dir():
        return "it is a folder"
    if path.is_symlink():
        return "it is a link that leads nowhere"
    if not path.parent.is_dir():
        return "its folder is missing"
    same = [
        other.name
        for other in path.parent.iterdir()
        if other.name.casefold() == path.name.casefold()
    ]
    return f"it is missing; there is {same[0]}, in other letter case" if same else "it is missing"
