"""A patient reduced to what the painting of one thing asks for."""

from types import SimpleNamespace

import numpy as np

from lungseg_utils.phantom.anatomy import Anatomy
from lungseg_utils.phantom.fields import Canvas, VoxelGrid
from lungseg_utils.phantom.trees import Trees

NO_SEGMENTS = np.empty((0, 8))
NO_TREES = Trees(NO_SEGMENTS, NO_SEGMENTS, NO_SEGMENTS)
PLAIN = SimpleNamespace(
    blood_hu={"aorta": 40.0, "right_heart": 300.0}, tissue_hu={"lymph_node": 40.0}
)


def cube(half_mm: float, step_mm: float) -> VoxelGrid:
    """Return a grid round (0, 0, 0)."""
    return VoxelGrid((-half_mm,) * 3, (step_mm,) * 3, (int(2 * half_mm / step_mm) + 1,) * 3)


def filled(grid: VoxelGrid, value: float) -> np.ndarray:
    return np.full(grid.shape, value, np.float32)


def along(grid: VoxelGrid, axis: int) -> np.ndarray:
    """Return the coordinate of each voxel along one axis."""
    return np.broadcast_to(grid.mesh()[axis], grid.shape).astype(np.float32)


def patient(grid: VoxelGrid, lung: np.ndarray | None = None, **shapes: np.ndarray) -> Anatomy:
    """Return the anatomy of a patient who is all lung, unless other shapes are given."""
    lung = filled(grid, -90.0) if lung is None else lung
    usual = {
        "skin": lung,
        "muscle": lung,
        "chest_wall": filled(grid, -90.0),
        "above_diaphragm": filled(grid, 90.0),
        "organs": {},
        "hila": np.zeros((2, 3)),
        "lungs": (lung, lung),
        "in_view": np.ones(grid.shape, bool),
    }
    return Anatomy(person=PLAIN, frame=SimpleNamespace(grid=grid), **{**usual, **shapes})


def lung_canvas(grid: VoxelGrid) -> Canvas:
    return Canvas(grid, grid, -860.0)
