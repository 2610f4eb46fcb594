"""Small things to test with: a scan, a prepared case with one tumour, settings that train in a blink."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lungseg_utils.preprocess import Prepared
from lungseg_utils.training import TrainingConfig
from lungseg_utils.volume import CANONICAL, Volume
from lungseg_utils.volume.grid import grid_along

TINY = TrainingConfig(
    epochs=4,
    steps_per_epoch=2,
    batch_size=2,
    patch_size=(8, 8, 8),
    warmup_steps=3,
    channels=(2, 4),
    schedule="constant",
)


def ball(shape, centre, radius) -> np.ndarray:
    """Give a bool array (D, H, W) that is True within `radius` voxels of `centre`."""
    return (
        sum((axis - c) ** 2 for axis, c in zip(np.ogrid[tuple(map(slice, shape))], centre))
        <= radius**2
    )


def make_scan(hu: np.ndarray, spacing_mm=(3.0, 3.0, 3.0), name="scan") -> Volume:
    """Give `hu` (D, H, W) as the reader would."""
    affine = CANONICAL @ np.diag([*spacing_mm, 1.0])
    return Volume(
        hu,
        tuple(spacing_mm),
        affine,
        name,
        Path(f"{name}.nii.gz"),
        grid_along("LPS", hu.shape, affine),
    )


def make_prepared(seed=0, shape=(12, 14, 13), name=None) -> Prepared:
    """Give a noisy case with a tumour in its middle, or nearly so."""
    rng = np.random.default_rng(seed)
    label = ball(shape, [n / 2 + rng.uniform(-1, 1) for n in shape], min(shape) / 4)
    hu = np.where(label, 40, -850) + rng.normal(0, 30, shape)
    return Prepared(
        name=name or f"case_{seed}",
        hu=hu.astype(np.int16),
        region=np.ones(shape, np.uint8),
        lungs=(~label).astype(np.uint8),
        label=label.astype(np.uint8),
        box=tuple(slice(0, n) for n in shape),
        spacing_mm=(3.0, 3.0, 3.0),
    )
