"""Corrected masks as a set to train on: the loop from the reader back to the network."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lungseg_utils import decathlon
from lungseg_utils.decathlon.source import read_json
from lungseg_utils.runtime import LungsegError, require_writable, writing
from lungseg_utils.viewer.session import Session
from lungseg_utils.volume import Volume, nifti, read, write_mask

NAME = "Corrected by hand"  # of the sets that may be extended


def corrected_set(folder: str | Path, sessions: Sequence[Session]) -> decathlon.Dataset:
    """Write the scans and corrected masks of `sessions` as a set in Decathlon layout; return it.

    Cases are called as their scans. A set that lies in `folder` is extended, and a case corrected
    again has its mask replaced. Raises LungsegError where another scan of that name is there.
    """
    folder = Path(folder)
    described = folder / "dataset.json"
    if described.exists() and read_json(described).get("name") != NAME:
        raise LungsegError(folder, "a set of another origin is there", "Choose another folder")
    for part in ("imagesTr", "labelsTr"):
        require_writable(folder / part)
    for session in sessions:
        scan = session.scan
        image = folder / "imagesTr" / f"{scan.name}.nii.gz"
        _require_same_scan(image, scan)
        nifti.write(image, scan.hu, scan.grid)
        write_mask(folder / "labelsTr" / image.name, session.mask, scan)
    images, labels = (
        {path.name for path in (folder / part).glob("[!.]*.nii.gz")}  # hidden: half-written
        for part in ("imagesTr", "labelsTr")
    )
    names = sorted(images & labels)
    content = {
        "name": NAME,
        "description": "Lung tumours as a reader corrected them",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cancer"},
        "numTraining": len(names),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names
        ],
        "test": [],
    }
    with writing(described) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return decathlon.load(folder)


def _require_same_scan(image: Path, scan: Volume) -> None:
    if image.is_file() and not np.array_equal(read(image).hu, scan.hu):
        raise LungsegError(
            image,
            "another scan of this name is in the set",
            "Choose another folder, or rename the scan's file",
        )
