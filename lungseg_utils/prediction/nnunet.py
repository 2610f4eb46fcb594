"""What scans in the raw layout of nnU-Net are called, and which of them are segmented."""

import os
from collections.abc import Sequence
from pathlib import Path

from lungseg_utils import volume
from lungseg_utils.decathlon.nnunet import (
    FIRST,
    NIFTI,
    ONE_CT,
    SECOND,
    check_format,
    exists_beside,
    images,
    is_raw_layout,
)
from lungseg_utils.decathlon.source import read_json
from lungseg_utils.runtime import LungsegError, warn


def case_of(scan: str | Path) -> str:
    """Return the name of a scan: that of its file, of nnU-Net's CASE_0000.nii.gz just CASE.

    Where there is a CASE_0001 too, the numbers count scans, and stay.
    """
    name = volume.stem(scan)
    case = name.removesuffix(FIRST)
    return name if not case or exists_beside(Path(scan), case + SECOND) else case


def list_images(root: str, content: dict) -> list[str]:
    """Return the test scans of a dataset in nnU-Net's raw layout or, without any, the training's.

    Raises LungsegError for several channels, and for another file format than NIfTI.
    """
    json = Path(root, "dataset.json")
    channels = check_format(root, content)
    if channels and not any("CT" in str(channel).upper() for channel in channels):
        warn(f"{json}: the modality is {str(channels[0])[:60]}, not CT: values may not be HU")
    found = images(root, "Ts") or images(root, "Tr")
    if not found:
        ending = content.get("file_ending", NIFTI[-1])
        raise LungsegError(
            json, f"there is no {ending} file in imagesTs or imagesTr", "Restore the images"
        )
    return found


def refuse_channels(scans: Sequence[Path]) -> None:
    """Raise LungsegError where `scans` are the channels of cases, not a scan each."""
    scans = [scan.absolute() for scan in scans]
    for folder in {scan.parent for scan in scans if scan.parent.name in ("imagesTs", "imagesTr")}:
        json = folder.parent / "dataset.json"
        if json.is_file():
            content = read_json(json)
            if not is_raw_layout(os.fspath(folder.parent), content):
                continue
            check_format(folder.parent, content)
        names = {volume.stem(scan) for scan in scans if scan.parent == folder}
        cases = {name.removesuffix(FIRST) for name in names if name.endswith(FIRST)}
        several = sorted(case for case in cases if case + SECOND in names)
        if several:
            both = f"{several[0]}{FIRST} and {several[0]}{SECOND}"
            raise LungsegError(folder, f"{both} are two channels of one scan", ONE_CT)
