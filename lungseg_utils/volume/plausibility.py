"""Whether a scan's voxel sizes and axes can be true: what the body in it shows of them."""

from dataclasses import dataclass

import numpy as np

from lungseg_utils.components import FACE_NEIGHBOURS, bounding_box, label_components
from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume.scan import Volume

SAMPLE_MM = 5.0
BODY_ABOVE_HU = -200
BONE_ABOVE_HU = 200
BODY_WIDTH_MM = (80.0, 700.0)  # from a newborn to the bore of a scanner
CROP_MM = 150.0  # smaller scans are pieces, whose size shows nothing
NOT_CUT = 0.1  # of the largest cross-section: so much of the body may a side of the scan cut
SPINE_IN_FRONT = 0.35  # below this share of bone behind; 0.5 with a heart full of contrast
SCAN_PIXELS = 100  # a side; less is a piece
MATRIX = 512  # pixels of a scanner, none of which has a field of view of exactly 512 mm
IDENTITY = (
    "the header's voxel sizes are all exactly 1 mm: the geometry was lost, probably by saving the "
    "array with an identity affine"
)
RESTORE = "Save it with the affine of the scan that it was read from, or convert that again"


@dataclass(frozen=True)
class Body:
    """The largest thing as dense as a body in a scan; shares are of its largest cross-section.

    extent_mm (D, H, W). cut: how much of it the scan's first and last plane along D, H and W cut,
    (3, 2). ends: how much its own first and last planes hold. bone_behind: the share of bone near
    its middle line that lies in its rear third, of that in the rear and the front third.
    """

    extent_mm: np.ndarray
    cut: np.ndarray
    ends: np.ndarray
    bone_behind: float


def check_geometry(volume: Volume) -> None:
    """Warn where voxel sizes or axes are probably not the patient's; refuse what cannot be.

    A scan is refused whose body runs from left to right, or from front to back. Pieces of a chest
    and slabs show less, and are let through.
    """
    body = find_body(volume)
    if body is None:
        return
    if direction := _long_axis(body):
        cause = f"the body in it runs from {direction}, not from foot to head"
        raise LungsegError(volume.source, f"{cause}: {likely_cause(volume)}", RESTORE)
    if doubt := _doubt(volume, body):
        warn(f"{volume.source}: {doubt}. {RESTORE}")


def likely_cause(volume: Volume) -> str:
    """Return why sizes or axes of `volume` are wrong, as far as its header shows it."""
    if has_unit_voxels(volume):
        return IDENTITY
    written = " x ".join(f"{side:.4g}" for side in volume.spacing_mm)
    return f"the header's voxels ({written} mm, D x H x W) or axes are not those of the scan"


def has_unit_voxels(volume: Volume) -> bool:
    """Return whether all voxel sizes are exactly 1 mm, as no scanner has them."""
    return bool(np.allclose(volume.spacing_mm, 1, rtol=0, atol=1e-4))


def find_body(volume: Volume) -> Body | None:
    """Return the body in `volume`, seen every 5 mm; None where nothing is as dense."""
    step = [max(1, int(SAMPLE_MM / side)) for side in volume.spacing_mm]
    hu = volume.hu[tuple(slice(None, None, stride) for stride in step)]
    dense = hu > BODY_ABOVE_HU
    if not dense.any():
        return None
    parts = label_components(dense, neighbours=FACE_NEIGHBOURS)
    body = parts == np.bincount(parts[dense]).argmax()
    box = bounding_box(body)
    cut = []
    ends = []
    for axis, side in enumerate(box):
        areas = np.moveaxis(body, axis, 0).mean(axis=(1, 2))
        areas /= areas.max()
        cut.append([areas[0], areas[-1]])
        own = areas[side]
        ends.append([own[:2].mean(), own[-2:].mean()])
    return Body(
        extent_mm=np.multiply(body[box].shape, step) * volume.spacing_mm,
        cut=np.array(cut),
        ends=np.array(ends),
        bone_behind=_bone_behind(hu[box] > BONE_ABOVE_HU),
    )


def _bone_behind(bone: np.ndarray) -> float:
    """Return the share of bone behind, of that in the front and the rear third; 1 without any."""
    _, depth, width = bone.shape
    middle = bone[:, :, int(0.38 * width) : int(0.62 * width)]
    front = np.count_nonzero(middle[:, : depth // 3])
    behind = np.count_nonzero(middle[:, depth - depth // 3 :])
    return behind / (front + behind) if front else 1.0


def _long_axis(body: Body) -> str:
    """Return between which sides the body runs, if not between foot and head; else "".

    A scan cuts the body below and above, and shows its rounded sides elsewhere.
    """
    for axis, name in ((2, "left to right"), (1, "front to back")):
        is_long = body.cut[axis].min() > max(0.3, 2 * body.ends[0].max())
        if is_long and body.extent_mm[0] > CROP_MM and body.extent_mm[axis] > 30:
            return name
    return ""


def _doubt(volume: Volume, body: Body) -> str:
    """Return what is odd about sizes and axes; "" if nothing is."""
    _, depth_mm, width_mm = body.extent_mm
    size = f"the body in it is {width_mm:.0f} mm wide and {depth_mm:.0f} mm deep"
    if _is_identity(volume, body):
        return f"{size}: {IDENTITY}; volumes, diameters and sides are doubtful"
    in_front, beside = body.cut[1].max(), body.cut[2].max()
    if max(in_front, beside) <= NOT_CUT:
        is_scan = min(volume.hu.shape[1:]) >= SCAN_PIXELS
        if is_scan and not BODY_WIDTH_MM[0] <= width_mm <= BODY_WIDTH_MM[1]:
            return f"{size}: {likely_cause(volume)}"
        if depth_mm > max(1.1 * width_mm, CROP_MM):
            return f"{size}: it is turned, or left to right and front to back are exchanged"
    if in_front <= NOT_CUT and width_mm > CROP_MM and body.bone_behind < SPINE_IN_FRONT:
        return "the spine lies in front: front and back are exchanged, or the scan is turned"
    return ""


def _is_identity(volume: Volume, body: Body) -> bool:
    """Return whether the affine is that of an array without geometry, and the scan not a piece."""
    if not has_unit_voxels(volume):
        return False
    shape = np.array(volume.grid.shape)
    origin = np.abs(volume.grid.affine[:3, 3])
    is_unplaced = origin.max() < 1e-3 or np.abs(origin - (shape - 1) / 2).max() <= 1
    is_piece = shape.max() < CROP_MM and np.sort(body.cut.max(axis=1))[1] > 0.3  # on two axes
    return bool((is_unplaced or (shape == MATRIX).sum() >= 2) and not is_piece)
