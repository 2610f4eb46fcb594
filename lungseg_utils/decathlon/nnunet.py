"""The raw layout of nnU-Net: imagesTr/CASE_0000.nii.gz, the last number being the channel's.

Version 2 declares `channel_names` and `file_ending` in dataset.json and lists no case; version 1
lists cases without the channel's number, as the Decathlon does. labelsTr holds CASE.nii.gz.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lungseg_utils.decathlon.entries import is_nifti
from lungseg_utils.runtime import LungsegError, file_error
from lungseg_utils.volume import stem

NIFTI = (".nii", ".nii.gz")
FIRST = "_0000"  # channels
SECOND = "_0001"
ONE_CT = "Give the CT alone: each scan has one channel, called CASE_0000.nii.gz"


def is_raw_layout(root: str | Path, content: dict) -> bool:
    """Return whether a dataset with that dataset.json is in nnU-Net's raw layout."""
    entries = list(_listed_files(content))
    if not entries:
        names = [os.path.basename(path) for part in ("Ts", "Tr") for path in images(root, part)]
        has_channels = any(stem(name).endswith(FIRST) for name in names)
        return "channel_names" in content or "file_ending" in content or has_channels
    return any(_has_channel(Path(root), image, label) for image, label in entries)


def _listed_files(content: dict) -> Iterator[tuple[str, str]]:
    """Return image and label of each listed case, as far as they are paths."""
    for part in ("training", "test"):
        listed = content.get(part)
        for entry in listed if isinstance(listed, list) else []:
            fields = entry if isinstance(entry, dict) else {"image": entry}
            image = fields.get("image")
            label = fields.get("label")
            if isinstance(image, str) and "\0" not in image:
                yield image.replace("\\", "/"), label if isinstance(label, str) else ""


def _has_channel(root: Path, image: str, label: str) -> bool:
    """Return whether the file of a listed image has the number that its label lacks."""
    path = root / image
    name = stem(path)
    if name.endswith(FIRST):
        return bool(label) and stem(label) == name.removesuffix(FIRST)
    return not os.path.lexists(path) and exists_beside(path, name + FIRST)


def with_cases(root: Path, content: dict) -> dict:
    """Return `content` with the cases that version 2 finds in the folders under its two lists.

    Raises LungsegError for several channels, and for another file format than NIfTI.
    """
    check_format(root, content)
    if list(_listed_files(content)):
        return content
    named = content.get("dataset")
    if isinstance(named, dict) and named:
        return content | {"training": [_entry_of(files) for files in named.values()]}
    ending = str(content.get("file_ending", NIFTI[-1]))
    scans = [Path(path) for path in images(root, "Tr")]
    if not scans:
        raise LungsegError(
            root / "dataset.json", f"there is no {ending} file in imagesTr", "Restore the images"
        )
    tests = [Path(path) for path in images(root, "Ts")]
    _refuse_second(scans + tests)
    training = [
        {
            "image": f"imagesTr/{scan.name}",
            "label": f"labelsTr/{stem(scan).removesuffix(FIRST)}{scan.name[len(stem(scan)) :]}",
        }
        for scan in scans
    ]
    return content | {"training": training, "test": [f"imagesTs/{scan.name}" for scan in tests]}


def _entry_of(files: Any) -> Any:
    """Return the entry of a case in the list that version 2 may have under "dataset"."""
    if not isinstance(files, dict):
        return files
    scans = files.get("images")
    image = scans[0] if isinstance(scans, list) and len(scans) == 1 else scans
    return {"image": image, "label": files.get("label")}


def _refuse_second(scans: list[Path]) -> None:
    for scan in scans:
        case = stem(scan).removesuffix(FIRST)
        if case != stem(scan) and exists_beside(scan, case + SECOND):
            both = f"{case}{FIRST} and {case}{SECOND}"
            raise LungsegError(scan.parent, f"{both} are two channels of one scan", ONE_CT)


def check_format(root: str | Path, content: dict) -> list:
    """Return the names of the channels; raise LungsegError for several, and for another format."""
    json = Path(root, "dataset.json")
    ending = content.get("file_ending", NIFTI[-1])
    if ending not in NIFTI:
        raise LungsegError(
            json, f"its images are {str(ending)[:20]!r} files", "Convert them to .nii.gz"
        )
    declared = content.get("channel_names", content.get("modality", {}))
    channels = list(declared.values()) if isinstance(declared, dict) else [declared]
    if len(channels) > 1:
        names = ", ".join(str(channel)[:40] for channel in channels[:5])
        raise LungsegError(json, f"its scans have {len(channels)} channels ({names})", ONE_CT)
    return channels


def images(root: str | Path, part: str) -> list[str]:
    """Return the NIfTI files of imagesTr or imagesTs; `part` is "Tr" or "Ts"."""
    folder = os.path.join(root, f"images{part}")
    try:
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    except OSError as error:
        raise file_error(Path(folder), error) from error
    return [os.path.join(folder, name) for name in names if is_nifti(name) and name[0] != "."]


def exists_beside(path: Path, name: str) -> bool:
    """Return whether the NIfTI file `name` lies in the folder of `path`."""
    try:
        return any(path.with_name(name + ending).exists() for ending in NIFTI)
    except (OSError, ValueError):  # too long, a lone surrogate
        return False
