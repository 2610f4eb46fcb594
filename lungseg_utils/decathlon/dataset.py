"""Load a dataset in Decathlon layout; every fault of its dataset.json is reported at once."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lungseg_utils.decathlon import nnunet
from lungseg_utils.decathlon.entries import COUNTS, Case, EntryReader, is_nifti
from lungseg_utils.decathlon.naming import names_by_folder
from lungseg_utils.decathlon.source import FOLDERS, find_root, read_json
from lungseg_utils.runtime import LungsegError, printable, warn
from lungseg_utils.volume import stem

SHOWN_FAULTS = 20


@dataclass(frozen=True)
class Dataset:
    """A set in Decathlon layout; the cases are sorted by id.

    `training` holds all cases to train and validate on; `folds.split` tells them apart. A set may
    say that it is meant to have no tumour, as synthetic ones do.
    """

    root: Path
    name: str
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    is_tumour_free: bool = False


class DatasetError(LungsegError):
    """All that is wrong with a dataset, in one error: `faults` holds one LungsegError for each."""

    def __init__(self, subject: object, faults: Sequence[LungsegError]):
        self.faults = list(faults)
        lines = [f"\n  {fault}" for fault in self.faults[:SHOWN_FAULTS]]
        if len(faults) > SHOWN_FAULTS:
            lines.append(
                f"\n  and {len(faults) - SHOWN_FAULTS} more; `lungseg check` lists them all"
            )
        listed = "".join([f"{len(faults)} faults:", *lines])
        super().__init__(subject, listed, "Fix them and try again")
        self.args = (f"{self.subject}: {listed}\n{self.remedy}.",)  # a list, a fault a line

    def __reduce__(self) -> tuple:
        return type(self), (self.subject, self.faults)


def load(dataset_dir: str | Path) -> Dataset:
    """Read the dataset in `dataset_dir`; what is odd but legal is a warning.

    A folder one level too high or too low is corrected, with a warning. No voxel is read here:
    `check` does that. Raises LungsegError for one fault, DatasetError for several.
    """
    dataset, faults, warnings = inspect(dataset_dir)
    for message in warnings:
        warn(message)
    raise_faults(dataset.root, faults)
    return dataset


def raise_faults(subject: object, faults: Sequence[LungsegError]) -> None:
    """Raise one fault as it is, several as a DatasetError."""
    if faults:
        raise faults[0] if len(faults) == 1 else DatasetError(subject, faults)


def inspect(dataset_dir: str | Path) -> tuple[Dataset, list[LungsegError], list[str]]:
    """Return the valid cases of a dataset, its faults and its warnings.

    A dataset.json that cannot be read is one fault, and a set without cases.
    """
    root = Path(dataset_dir)
    warnings: list[str] = []
    try:
        found = find_root(root, warnings)
        content = read_json(found / "dataset.json")
        is_nnunet = nnunet.is_raw_layout(found, content)
        listed = nnunet.with_cases(found, content) if is_nnunet else content
    except LungsegError as fault:
        return Dataset(root, root.name, (), ()), [fault], warnings
    channel = nnunet.FIRST if is_nnunet else ""
    reader = EntryReader(found, warnings, channel, is_listed=listed is content)
    lists = _read_lists(reader, _with_test_list(reader, listed))
    _find_repeats(reader, lists)
    if _holds_crops(reader, content):
        for part, cases in lists.items():
            lists[part] = [replace(case, is_crop=True) for case in cases]
    training = lists["training"] + lists["validation"]
    _find_extra_files(reader)
    _compare_purpose(reader, content)
    name = content.get("name")
    name = printable(name) if name and isinstance(name, str) else found.resolve().name
    synthetic = content.get("synthetic")
    is_tumour_free = isinstance(synthetic, dict) and synthetic.get("tumours") == 0
    dataset = Dataset(found, name, _by_id(training), _by_id(lists["test"]), is_tumour_free)
    return dataset, reader.faults, warnings


def _holds_crops(reader: EntryReader, content: dict) -> bool:
    """Return whether the scans are said to be pieces of chests: {"crops": true}."""
    stated = content.get("crops", False)
    if not isinstance(stated, bool):
        reader.note(f'"crops" is {str(stated)[:40]!r}', "Write true or false")
    return stated is True


def _with_test_list(reader: EntryReader, content: dict) -> dict:
    """Return `content` with the test list that MONAI calls "testing"; report lists of no use."""
    testing = content.get("testing")
    if testing and content.get("test") and testing != content["test"]:
        reader.note('"test" and "testing" both list cases', "Keep one of the two")
    if testing is not None and not content.get("test"):
        content = content | {"test": testing}
    for key, value in content.items():
        is_list = isinstance(value, list) and any(isinstance(one, dict) for one in value)
        if is_list and key not in (*COUNTS, "testing"):
            reader.warn(f"the list {key[:60]!r} is not used: only {', '.join(COUNTS)} are")
    return content


def _read_lists(reader: EntryReader, content: dict) -> dict[str, list[Case]]:
    """Return the cases of each list; validation cases are of fold 0, MONAI's own otherwise."""
    lists = {part: reader.cases(content, part) for part in COUNTS}
    if lists["validation"]:
        if any(case.fold is not None for case in lists["training"]):
            reader.warn('"fold" is not used: the list "validation" is')
        lists["training"] = [replace(case, fold=None) for case in lists["training"]]
        lists["validation"] = [replace(case, fold=0) for case in lists["validation"]]
    renamed = names_by_folder(reader.root, [case for cases in lists.values() for case in cases])
    if any(one.id == one.patient != one.image.parent.name for one in renamed.values()):
        first = next(iter(renamed.values()))
        reader.warn(
            f"cases are named by their folders, as {first.id}; scans of one patient need the same "
            '"patient", or training sees who is validated on'
        )
    return {
        part: [replace(renamed.get(case.image, case), fold=case.fold) for case in cases]
        for part, cases in lists.items()
    }


def _by_id(cases: list[Case]) -> tuple[Case, ...]:
    return tuple(sorted(cases, key=lambda case: case.id))


def _find_repeats(reader: EntryReader, lists: dict[str, list[Case]]) -> None:
    """Find cases named twice and labels swapped; one in two lists flatters every score."""
    parts = [(part, case) for part, cases in lists.items() for case in cases]
    owners = {case.id: case.id for part, case in parts if part != "test"}
    crowded = Counter(case.image.parent for _, case in parts)
    owners |= {
        f"{case.image.parent}/": case.id for _, case in parts if crowded[case.image.parent] == 1
    }
    seen: dict[tuple[str, object], tuple[str, Case]] = {}
    for part, case in parts:
        keys = [stem(case.label), f"{case.label.parent}/"] if case.label else []
        other = next((owners[key] for key in keys if owners.get(key, case.id) != case.id), None)
        if other:
            reader.note(
                f"{case.id} is paired with the label of {other}", "Pair it with its own label"
            )
        met = [
            (kind, *seen.setdefault((kind, key), (part, case)))
            for kind, key in _keys_of(case).items()
        ]
        repeats = [
            _describe_repeat(kind, earlier_part, earlier, part, case)
            for kind, earlier_part, earlier in met
            if earlier is not case
            and (kind != "patient" or earlier_part != part or earlier.fold != case.fold)
        ]
        if repeats:
            reader.note(repeats[0], "Keep each scan once, and each patient in one of the two lists")


def _keys_of(case: Case) -> dict[str, object]:
    """Return what no two cases may share; a file is its inode, whatever links to it."""
    files = {"image": case.image, "label": case.label}
    statuses = {kind: path.stat() for kind, path in files.items() if path}
    inodes = {kind: (status.st_dev, status.st_ino) for kind, status in statuses.items()}
    return {"id": case.id.casefold(), **inodes, "patient": case.patient}


def _describe_repeat(kind: str, earlier_part: str, earlier: Case, part: str, case: Case) -> str:
    if kind == "patient":
        fold = f", of fold {earlier.fold}" if earlier_part == part else ""
        return (
            f"the {part} case {case.id} is of the same patient as the {earlier_part} case "
            f"{earlier.id}{fold}: a leak"
        )
    if earlier_part != part:
        return (
            f"the {earlier_part} case {earlier.id} is in the {part} list too, as {case.id}: a leak"
        )
    if kind == "id":
        return f"the {part} case {case.id} is named twice"
    return f"the {part} cases {earlier.id} and {case.id} share one {kind} file"


def _find_extra_files(reader: EntryReader) -> None:
    folders = {path.parent for path in reader.named} | {reader.root / name for name in FOLDERS}
    for folder in sorted(folders):
        try:
            paths = set(folder.iterdir()) - reader.named
        except OSError:
            continue  # no such folder: what should be in it is a fault already
        extra = sorted(path.name for path in paths if is_nifti(path.name))
        if extra:
            more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
            reader.warnings.append(
                f"{folder}: {len(extra)} files that no valid entry names are ignored: "
                f"{', '.join(extra[:3])}{more}"
            )


def _compare_purpose(reader: EntryReader, content: dict) -> None:
    """Warn where the set is not what this package is for: one class, in CT."""
    modality = content.get("modality", content.get("channel_names"))
    labels = content.get("labels")
    if modality is None:
        reader.warn('the key "modality" is missing: taken for CT')
    elif not re.search(r"\bCT\b", str(modality), re.IGNORECASE):
        reader.warn(f"the modality is {str(modality)[:60]}, not CT: values may not be HU")
    if labels is None:
        reader.warn('the key "labels" is missing: taken for 0 background, 1 tumour')
    elif not isinstance(labels, dict):
        reader.note(
            f'"labels" is a {type(labels).__name__}', 'Write {"0": "background", "1": "cancer"}'
        )
    elif len(labels) != 2:
        reader.warn(f"{len(labels)} classes are declared, not two (0 background, 1 tumour)")
