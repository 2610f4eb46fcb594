"""The scans that predictions and preparations are timed on: a synthetic chest, and a real one."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from report import ROOT

from lungseg_utils import phantom, volume

SCRATCH = ROOT / "build" / "benchmark"
SYNTHETIC_LABEL = SCRATCH / "phantom_275_label.nii.gz"
SLICES = 275
HEIGHT_MM = 330.0
PIXEL_MM = 0.75


def real_scan() -> tuple[Path, Path] | None:
    """Return CT and outline of lung1-001, where LUNGSEG_REAL_CT names the folder of real scans."""
    if not os.environ.get("LUNGSEG_REAL_CT"):
        return None
    folder = Path(os.environ["LUNGSEG_REAL_CT"]) / "lung1-001"
    return folder / "ct.nii.gz", folder / "tumour.nii.gz"


def synthetic_scan(slices: int = SLICES) -> Path:
    """Write a synthetic chest of 512 × 512 × `slices`, once; always the same chest, 33 cm high."""
    path = SCRATCH / f"phantom_{slices}.nii.gz"
    if not path.is_file():
        # In a process of its own: those that are measured would inherit this one's peak memory.
        write = _write_chest if slices == SLICES else _write_other_slices
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
            apart.submit(write, path, slices).result()
    return path


def _write_chest(path: Path, slices: int) -> None:
    spacing_mm = (HEIGHT_MM / slices, PIXEL_MM, PIXEL_MM)
    chest = phantom.synthesise(4, spacing_mm=spacing_mm, shape=(slices, 512, 512))
    affine = _affine(slices)
    volume.write_nifti(SYNTHETIC_LABEL, chest.label, affine, orientation="LPS")
    volume.write_nifti(path, chest.hu, affine, orientation="LPS")


def _write_other_slices(path: Path, slices: int) -> None:
    """Write the same chest in thinner or thicker slices, interpolated."""
    scan = volume.read(synthetic_scan())
    last = SLICES - 1
    at = np.clip((np.arange(slices) + 0.5) * SLICES / slices - 0.5, 0, last)
    below = np.minimum(at.astype(int), last - 1)
    hu = np.empty((slices, 512, 512), np.int16)
    for k, (first, share) in enumerate(zip(below, at - below)):
        hu[k] = np.rint((1 - share) * scan.hu[first] + share * scan.hu[first + 1])
    volume.write_nifti(path, hu, _affine(slices), orientation="LPS")


def _affine(slices: int) -> np.ndarray:
    return volume.CANONICAL @ np.diag([HEIGHT_MM / slices, PIXEL_MM, PIXEL_MM, 1.0])
