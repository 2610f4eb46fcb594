"""The entries of a dataset.json -> cases; what is wrong or odd is noted on the way."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from lungseg_utils.decathlon.source import RESTORE
from lungseg_utils.runtime import LungsegError, printable
from lungseg_utils.volume import stem

COUNTS = {"training": "numTraining", "validation": "numValidation", "test": "numTest"}
USED = ("image", "label", "patient", "fold")  # keys of an entry
ENTRY = (
    'Write {"image": "./imagesTr/ID.nii.gz", "label": "./labelsTr/ID.nii.gz"}, '
    'or a bare path under "test"'
)


@dataclass(frozen=True)
class Case:
    """One scan: its id, its files, and whose it is.

    The id is the file name without .nii.gz (and nnU-Net's _0000), or the name of its folder.
    """

    id: str
    image: Path
    label: Path | None
    patient: str = ""  # "patient" of the entry, else the id: a case of Task06 is a patient
    fold: int | None = None  # "fold" of the entry: the fold whose validation it belongs to
    is_crop: bool = False  # the set holds pieces of chests: {"crops": true} in dataset.json


@dataclass
class EntryReader:
    """Turn the entries of the dataset.json in `root` into cases.

    `faults` and `warnings` hold what is wrong and what is odd, `named` the files of all cases.
    `channel` ends the images' names, though not the labels': nnU-Net's "_0000". `is_listed` is
    False where the entries are of files found in the folders, not of dataset.json.
    """

    root: Path
    warnings: list[str]
    channel: str = ""
    is_listed: bool = True
    faults: list[LungsegError] = field(default_factory=list)
    named: set[Path] = field(default_factory=set)

    def note(self, cause: str, remedy: str, subject: Path | None = None) -> None:
        """Add a fault of dataset.json, or of `subject`."""
        self.faults.append(
            LungsegError(subject or self.root / "dataset.json", printable(cause), remedy)
        )

    def warn(self, message: str) -> None:
        """Add a warning about dataset.json."""
        self.warnings.append(f"{self.root / 'dataset.json'}: {message}")

    def cases(self, content: dict, part: str) -> list[Case]:
        """Return the valid cases of `part`: "training", "validation" or "test"."""
        entries = content.get(part, [])
        if not isinstance(entries, list):
            self.note(f'"{part}" is a {type(entries).__name__}, not a list of cases', ENTRY)
            return []
        kept = [
            (self._place(part, number, entry), entry)
            for number, entry in enumerate(entries, 1)
            if not _is_apple_double(entry)
        ]
        if len(kept) < len(entries):
            self.warn(f"{len(entries) - len(kept)} {part} entries name macOS's ._ files: ignored")
        if part == "training" and not kept:
            self.note(
                '"training" names no case' if part in content else 'the key "training" is missing',
                RESTORE,
            )
        self._compare_count(content, part, {len(kept), len(entries)})
        unused = {key for _, entry in kept if isinstance(entry, dict) for key in entry} - {*USED}
        if unused:
            names = ", ".join(sorted(map(repr, unused))[:5])
            self.warn(printable(f"the {part} entries' {names} are not used"))
        cases = [self._case(where, entry, part) for where, entry in kept]
        return [case for case in cases if case]

    def _place(self, part: str, number: int, entry: object) -> str:
        """Return what an entry is called in messages."""
        if self.is_listed:
            return f"{part} entry {number}"
        image = entry.get("image") if isinstance(entry, dict) else entry
        return f"the {part} case {stem(str(image)).removesuffix(self.channel)}"

    def _compare_count(self, content: dict, part: str, counts: set[int]) -> None:
        key = COUNTS[part]
        validation = content.get("validation")
        if part == "training" and isinstance(validation, list):
            counts = counts | {count + len(validation) for count in counts}
        if key in content:
            stated = content[key]
            state = "listed" if self.is_listed else "there"
            is_number = isinstance(stated, (int, float)) and not isinstance(stated, bool)
            if not is_number or stated not in counts:
                self.note(
                    f'"{key}" is {str(stated)[:40]}, but {min(counts)} cases are {state}',
                    f"Set it to {min(counts)}, or restore the missing entries",
                )
        elif part == "training":
            self.warn(f'the key "{key}" is missing')

    def _case(self, where: str, entry: object, part: str) -> Case | None:
        fields = {"image": entry} if part == "test" and isinstance(entry, str) else entry
        if not isinstance(fields, dict):
            self.note(
                f"{where} is a {type(entry).__name__}, not an object with image and label", ENTRY
            )
            return None
        has_label = part != "test" or fields.get("label") is not None
        image = self._path(where, "image", fields.get("image"))
        label = self._path(where, "label", fields.get("label")) if has_label else None
        patient = self._patient(where, fields.get("patient"))
        fold = self._fold(where, fields.get("fold"))
        if image is None or patient is None or (has_label and label is None):
            return None
        name = stem(image).removesuffix(self.channel)
        hidden = self.root / "labelsTs" / (name + image.name[len(stem(image)) :])
        if part == "test" and label is None and hidden.is_file():
            label = hidden
            self.named.add(label)
        return Case(name, image, label, patient or name, fold)

    def _fold(self, where: str, stated: object) -> int | None:
        """Return the fold that an entry states, None where it states none."""
        if stated is None:
            return None
        if isinstance(stated, bool) or not re.fullmatch(r"\d{1,4}", str(stated), re.ASCII):
            self.note(
                f"{where} has {str(stated)[:60]!r} as its fold", "Write a whole number from 0 up"
            )
            return None
        return int(str(stated))

    def _patient(self, where: str, stated: object) -> str | None:
        """Return whose scan it is; "" where the entry does not state it, None for a fault."""
        if stated in (None, ""):
            return ""
        if (
            isinstance(stated, bool)
            or not isinstance(stated, (str, int, float))
            or stated != stated
        ):
            self.note(
                f"{where} has {str(stated)[:60]!r} as its patient", "Write a name or a number"
            )
            return None
        return str(stated)

    def _path(self, where: str, kind: str, text: object) -> Path | None:
        """Return the file inside the dataset that an entry names, None for a fault."""
        if isinstance(text, list) and len(text) > 1:
            self.note(
                f"{where} names {len(text)} files as its {kind}: several channels of one scan",
                "Name the CT alone: each scan has one channel",
            )
            return None
        if not isinstance(text, str) or not text.strip():
            what = f"{str(text)[:60]!r} as its {kind}, not a path"
            self.note(f"{where} has {f'no {kind}' if text is None else what}", ENTRY)
            return None
        clean = os.path.normpath(text.replace("\\", "/")).replace(os.sep, "/")
        is_absolute = clean.startswith("/") or re.match("[A-Za-z]:", clean)
        for is_bad, cause, remedy in (
            (is_absolute, "is an absolute path", "Write ./imagesTr/ID.nii.gz or the like"),
            (clean.split("/")[0] == "..", "leads outside the dataset", "Name files inside it"),
            (not is_nifti(clean), "is not called .nii or .nii.gz", "Convert it to NIfTI"),
        ):
            if is_bad:
                self.note(f"{where}: {text[:200]!r} {cause}", remedy)
                return None
        path = self.root / clean
        cause = _why_missing(path)
        if cause and kind == "image" and self.channel:  # version 1 lists CASE for CASE_0000
            numbered = path.with_name(f"{stem(path)}{self.channel}{path.name[len(stem(path)) :]}")
            if not _why_missing(numbered):
                path = numbered
                cause = ""
        if cause:
            named = f"named as {kind} by" if self.is_listed else f"the {kind} of"
            remedy = "correct the entry" if self.is_listed else "remove the case"
            self.note(f"{named} {where}, but {cause}", f"Restore the file or {remedy}", path)
            return None
        self.named.add(path)
        return path


def is_nifti(path: str) -> bool:
    """Return whether a file of that path would be NIfTI; macOS's `._` files are not."""
    name = path.rsplit("/", 1)[-1]
    return name.lower().endswith((".nii", ".nii.gz")) and not name.startswith("._")


def _is_apple_double(entry: object) -> bool:
    text = entry.get("image") if isinstance(entry, dict) else entry
    return isinstance(text, str) and text.replace("\\", "/").rsplit("/", 1)[-1].startswith("._")


def _why_missing(path: Path) -> str:
    """Return why there is no file at `path`, "" where there is one."""
    try:
        if path.is_file():
            return ""
        if path.is_dir():
            return "it is a folder"
        if path.is_symlink():
            return "it is a link that leads nowhere"
        if not path.parent.is_dir():
            return "its folder is missing"
        names = [other.name for other in path.parent.iterdir()]
    except (OSError, ValueError) as error:  # too long, a NUL, a lone surrogate, no permission
        return f"it cannot be looked up ({getattr(error, 'strerror', None) or error})"
    alike = next((name for name in names if name.casefold() == path.name.casefold()), None)
    return f"it is missing; there is {alike}, in other letter case" if alike else "it is missing"
