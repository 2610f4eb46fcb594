"""The air inside the body: what no side of the scan reaches, or a narrow field of view opens."""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.components import FACE_NEIGHBOURS, label_components
from lungseg_utils.preprocess.lungs.masks import between_ends, core, grow

AIR_BELOW_HU = -400  # between lung (about -850) and soft tissue (about 40)
CUT_LUNG_FROM_HU = -960  # the air round a patient has -1000


@dataclass(frozen=True)
class Air:
    """The air of a coarse scan, in the slices that hold a patient.

    outside: what of it reaches a side. opened: what of that is as dense as lung, with `trunk` in
    front of it and behind.
    """

    air: np.ndarray
    outside: np.ndarray
    dense: np.ndarray
    opened: np.ndarray
    trunk: np.ndarray


def find_air(coarse: np.ndarray, body: np.ndarray) -> Air:
    """Find the air of a coarse scan, with `trunk` the largest part of `body`: not the table."""
    parts = label_components(body, neighbours=FACE_NEIGHBOURS)
    trunk = parts == np.bincount(parts[body], minlength=2).argmax()
    air = (coarse < AIR_BELOW_HU) & inhabited_slices(body)[:, None, None]
    outside = _outside(air)
    dense = outside & (coarse > CUT_LUNG_FROM_HU)
    return Air(air, outside, dense, dense & between_ends(trunk, 1), trunk)


def enclosed_air(found: Air) -> np.ndarray:
    """Mark all air that no side of the scan reaches, and lungs that the field of view cuts."""
    return found.air & ~found.outside | _cut_lungs(found)


def enclosed_air_by_slice(found: Air) -> np.ndarray:
    """Mark the air of each slice that no side of that slice reaches.

    An airway that is cut obliquely joins the lungs to the air outside, but not in every slice.
    """
    return found.air & ~np.stack([_outside(plane) for plane in found.air])


def leaked_air(found: Air) -> np.ndarray:
    """Mark what is as dense as lung, between parts of the trunk, and yet reaches the outside.

    Thin rims of skin and folds are left out. A piece of a chest has none that could be told apart.
    """
    if is_cut_in_front(found.trunk):
        return np.zeros(found.air.shape, bool)
    leaked = found.opened | found.dense & between_ends(found.trunk, 2)
    return leaked & grow(core(leaked), np.ones(3))


def inhabited_slices(body: np.ndarray) -> np.ndarray:
    """Return which slices (D) hold a patient.

    Others, as padding at the ends, would join the airways to the air outside.
    """
    share = body.mean(axis=(1, 2))
    return share >= 0.05 * np.median(share[share > 0] if share.any() else 0)


def is_cut_in_front(trunk: np.ndarray) -> bool:
    """Return whether a scan cuts the trunk in front or behind: it is a piece of a chest."""
    return bool(trunk[:, [0, -1]].mean() > 0.02)


def _outside(air: np.ndarray) -> np.ndarray:
    """Mark the air of a volume or slice that reaches one of its sides; top and bottom are none."""
    parts = label_components(air, neighbours=FACE_NEIGHBOURS if air.ndim == 3 else 4)
    sides = (parts[..., 0, :], parts[..., -1, :], parts[..., 0], parts[..., -1])
    outside = np.unique(np.concatenate([side.ravel() for side in sides]))
    return np.isin(parts, outside[outside > 0])


def _cut_lungs(found: Air) -> np.ndarray:
    """Keep the part of a lung that a narrow field of view has opened to the outside, left or right.

    Nothing is kept of a piece of a chest, which is better searched whole.
    """
    if is_cut_in_front(found.trunk):
        return np.zeros(found.air.shape, bool)
    parts = label_components(found.opened, neighbours=FACE_NEIGHBOURS)
    at_side = np.unique(np.concatenate([parts[..., :2], parts[..., -2:]], axis=-1))
    return np.isin(parts, at_side[at_side > 0])
