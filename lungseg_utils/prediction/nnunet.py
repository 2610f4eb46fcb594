"""The raw layout of nnU-Net: imagesTs/CASE_0000.nii.gz, the last number being the channel's.

Version 2 declares `channel_names` and `file_ending` in dataset.json and lists no case; version 1
lists cases without the channel's number, as the Decathlon does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lungseg_utils import volume
from lungseg_utils.decathlon.source import read_json
from lungseg_utils.prediction.patients import NIFTI, is_nifti
from lungseg_utils.runtime import LungsegError, warn

FIRST, SECOND = "_0000", "_0001"  # channels
IMAGES = ("imagesTs", "imagesTr")  # the test scans first
ONE_CT = "Give the CT alone: each scan has one channel, called CASE_0000.nii.gz"


def case_of(scan: str | Path) -> str:
    """Return the name of a scan: that of its file, of nnU-Net's CASE_0000.nii.gz just CASE.

    Where there is a CASE_0001 too, the numbers count scans, and stay.
    """
    name = volume.stem(scan)
    case = name.removesuffix(FIRST)
    return name if not case or _exists(Path(scan), case + SECOND) else case


def is_raw_layout(root: str, content: dict) -> bool:
    """Return whether a dataset with that dataset.json is in nnU-Net's raw layout."""
    lists = [content.get(part) for part in ("training", "test")]
    firsts = [entries[0] for entries in lists if isinstance(entries, list) and entries]
    if not firsts:
        has_channels = any(volume.stem(image).endswith(FIRST) for image in _images(root))
        return "channel_names" in content or "file_ending" in content or has_channels
    paths = [entry.get("image") if isinstance(entry, dict) else entry for entry in firsts]
    images = [Path(root, path) for path in paths if isinstance(path, str) and "\0" not in path]
    return any(
        not image.exists() and _exists(image, volume.stem(image) + FIRST) for image in images
    )


def list_images(root: str, content: dict) -> list[str]:
    """Return the test scans of a dataset in nnU-Net's raw layout or, without any, the training's.

    Raises LungsegError for several channels, and for another file format than NIfTI.
    """
    json = Path(root, "dataset.json")
    ending = content.get("file_ending", NIFTI[-1])
    if ending not in NIFTI:
        raise LungsegError(
            json, f"its images are {str(ending)[:20]!r} files", "Convert them to .nii.gz"
        )
    channels = _channels(json, content)
    if channels and not any("CT" in str(channel).upper() for channel in channels):
        warn(f"{json}: the modality is {str(channels[0])[:60]}, not CT: values may not be HU")
    images = _images(root)
    if not images:
        raise LungsegError(
            json, f"there is no {ending} file in imagesTs or imagesTr", "Restore the images"
        )
    return images


def refuse_channels(scans: Sequence[Path]) -> None:
    """Raise LungsegError where `scans` are the channels of cases, not a scan each."""
    scans = [scan.absolute() for scan in scans]
    for folder in {scan.parent for scan in scans if scan.parent.name in IMAGES}:
        json = folder.parent / "dataset.json"
        if json.is_file():
            content = read_json(json)
            if not is_raw_layout(os.fspath(folder.parent), content):
                continue
            _channels(json, content)
        names = {volume.stem(scan) for scan in scans if scan.parent == folder}
        cases = {name.removesuffix(FIRST) for name in names if name.endswith(FIRST)}
        several = sorted(case for case in cases if case + SECOND in names)
        if several:
            both = f"{several[0]}{FIRST} and {several[0]}{SECOND}"
            raise LungsegError(folder, f"{both} are two channels of one scan", ONE_CT)


def _channels(json: Path, content: dict) -> list:
    """Return the names of the channels; raise LungsegError where there are several."""
    declared = content.get("channel_names", content.get("modality", {}))
    channels = list(declared.values()) if isinstance(declared, dict) else [declared]
    if len(channels) > 1:
        names = ", ".join(str(channel)[:40] for channel in channels[:5])
        raise LungsegError(json, f"its scans have {len(channels)} channels ({names})", ONE_CT)
    return channels


def _images(root: str) -> list[str]:
    """Return the NIfTI files of imagesTs, else of imagesTr."""
    for name in IMAGES:
        folder = os.path.join(root, name)
        files = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        if found := [os.path.join(folder, file) for file in files if is_nifti(file)]:
            return found
    return []


def _exists(beside: Path, name: str) -> bool:
    return any(beside.with_name(name + ending).exists() for ending in NIFTI)
