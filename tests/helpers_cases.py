"""Small things to test with: a scan, a case with one tumour, settings that train in a blink."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

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
    """Return a bool array (D, H, W) that is True within `radius` voxels of `centre`."""
    axes = np.ogrid[tuple(slice(side) for side in shape)]
    return sum((axis - c) ** 2 for axis, c in zip(axes, centre)) <= radius**2


def make_scan(hu: np.ndarray, spacing_mm=(3.0, 3.0, 3.0), name="scan") -> Volume:
    """Return `hu` (D, H, W) as the reader would."""
    affine = CANONICAL @ np.diag([*spacing_mm, 1.0])
    grid = grid_along("LPS", hu.shape, affine)
    return Volume(hu, tuple(spacing_mm), affine, name, Path(f"{name}.nii.gz"), grid)


def resample_linearly(array, source, target, shape, outside=0.0) -> np.ndarray:
    """Resample `array` from the affine `source` to `target` by scipy, as float32."""
    matrix = np.linalg.inv(source) @ target
    offset = matrix[:3, 3]
    values = array.astype(np.float32)
    return affine_transform(values, matrix[:3, :3], offset, shape, order=1, cval=outside)


def make_oblique(scan: Volume, degrees: float) -> Volume:
    """Return `scan` on a grid that is turned by `degrees` and by half of that, about two axes."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zx", [degrees, degrees / 2], degrees=True).as_matrix()
    shape = scan.hu.shape
    middle = np.eye(4)
    middle[:3, 3] = (scan.affine @ [*((np.array(shape) - 1) / 2), 1])[:3]
    affine = middle @ turn @ np.linalg.inv(middle) @ scan.affine
    hu = np.rint(resample_linearly(scan.hu, scan.affine, affine, shape, -1024)).astype(np.int16)
    return replace(scan, hu=hu, affine=affine, grid=grid_along("LPS", shape, affine))


def make_prepared(seed=0, shape=(12, 14, 13), name=None) -> Prepared:
    """Return a noisy case with a tumour in its middle, or nearly so."""
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
