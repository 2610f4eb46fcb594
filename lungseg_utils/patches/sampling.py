"""Where patches are drawn, and how they are cut: a whole batch at a time, on the device."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg_utils.components import list_components
from lungseg_utils.patches.augmentation import (
    USUAL_AUGMENTATION,
    Augmentation,
    crop_field_of_view,
    random_matrix,
    to_device,
    vary_intensity,
)
from lungseg_utils.patches.rng import Rng
from lungseg_utils.preprocess import Prepared
from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.volume import PADDING_HU

WARP_POINTS = 5  # a side, of the coarse grid of random shifts
MOST_CENTRES = 20_000


@dataclass(frozen=True)
class TrainingCase:
    """One case on the device, with the voxels that patches may be centred on.

    hu: (D, H, W) int16. label: (D, H, W) uint8. lesions: of each lesion its voxels (n, 3).
    elsewhere: voxels (n, 3) of the region. hard_examples: like lesions, of what a network has
    missed or wrongly marked.
    """

    name: str
    hu: Tensor
    label: Tensor
    lesions: list[Tensor]
    elsewhere: Tensor
    hard_examples: list[Tensor] = field(default_factory=list)


def make_training_case(case: Prepared, device: torch.device | str = "cpu") -> TrainingCase:
    """Put a prepared case on `device` and list the centres for its patches; needs a label."""
    if case.label is None:
        raise LungsegError(case.name, "it has no label", "Train on labelled cases only")
    covered = float(np.asarray(case.label).mean())
    if covered > 0.5:
        raise LungsegError(
            case.name,
            f"its label covers {covered:.0%} of the lungs' box: inverted, or no tumour",
            "Mark the tumour with 1 and everything else with 0",
        )
    if not covered:
        warn(f"{case.name}: its label is empty: no tumour is marked")
    lesions = list_components(case.label)
    whole = [lesion for lesion in lesions if len(lesion) > 2]  # resampling splits off crumbs
    return TrainingCase(
        name=case.name,
        hu=_as_tensor(case.hu).to(device),
        label=_as_tensor(case.label).to(device),
        lesions=[_thin_out(lesion) for lesion in whole or lesions],
        elsewhere=_thin_out(np.argwhere(np.asarray(case.region) > 0)),
    )


def _as_tensor(array: np.ndarray) -> Tensor:
    """Share the memory of `array`: what the cache maps stays on the disk until a patch needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot be written to: nobody does
        return torch.from_numpy(np.asarray(array))


def _thin_out(voxels: np.ndarray) -> Tensor:
    """Return about MOST_CENTRES of `voxels` (n, 3) at most, in memory of their own."""
    return torch.from_numpy(voxels[:: max(1, len(voxels) // MOST_CENTRES)].copy())


def draw_batch(
    cases: Sequence[TrainingCase],
    *,
    batch_size: int,
    patch_size: Sequence[int],
    generator: torch.Generator,
    part: Sequence[int] | None = None,
    foreground_share: float = 0.67,
    hard_example_share: float = 0.0,
    augmentation: Augmentation = USUAL_AUGMENTATION,
) -> tuple[Tensor, Tensor, list[str]]:
    """Draw HU (B, 1, d, h, w), labels (B, 1, d, h, w) and the names of the cases they come from.

    `foreground_share` of the batch is centred in a lesion: first a case is drawn, then a lesion of
    it, then a voxel of that, so that a nodule is seen as often as a tumour beside it a thousand
    times its volume. `hard_example_share` is centred in the cases' hard examples, where they have
    any. The rest is centred anywhere in the region. With `part`, only the patches of these numbers
    are drawn: the share of one of several processes.
    """
    rng = Rng(generator)
    numbers = range(batch_size) if part is None else part
    counts = (foreground_share * batch_size, hard_example_share * batch_size)
    drawn, centres = _draw_centres(cases, numbers, counts, patch_size, rng)
    matrices = None
    if augmentation.mirror or augmentation.rotate_degrees or augmentation.scale:
        matrices = [random_matrix(augmentation, rng) for _ in drawn]
    warps = None
    if augmentation.elastic_voxels:
        shifts = torch.rand([len(drawn), 3, *[WARP_POINTS] * 3], generator=generator)
        warps = (2 * shifts - 1) * augmentation.elastic_voxels
    hu, label = cut_patches(drawn, centres, patch_size, matrices, warps)
    hu = vary_intensity(hu, augmentation, rng)
    chance = augmentation.field_of_view_crop
    cropped = [number for number in range(len(drawn)) if rng.random() < chance]
    if cropped:
        hu[cropped] = crop_field_of_view(hu[cropped], label[cropped], rng)
    return hu[:, None], label[:, None], [case.name for case in drawn]


def _draw_centres(
    cases: Sequence[TrainingCase],
    numbers: Sequence[int],
    counts: tuple[float, float],
    patch_size: Sequence[int],
    rng: Rng,
) -> tuple[list[TrainingCase], list[np.ndarray]]:
    """Draw a case and a centre (voxel) for each patch of these numbers.

    `counts` is how many patches of a batch are centred in lesions and how many in hard examples;
    what a whole number leaves of them is drawn.
    """
    with_lesions = [case for case in cases if case.lesions]
    with_hard_examples = [case for case in cases if case.hard_examples]
    drawn = []
    centres = []
    for number in numbers:
        case = rng.choice(cases)
        voxels = case.elsewhere
        place = number + rng.random() - counts[0]
        if with_lesions and place < 0:
            case = case if case.lesions else rng.choice(with_lesions)
            voxels = rng.choice(case.lesions)
        elif with_hard_examples and 0 <= place < counts[1]:
            case = rng.choice(with_hard_examples)
            voxels = rng.choice(case.hard_examples)
        centre: np.ndarray = rng.choice(voxels).numpy()  # type: ignore[arg-type]
        shift = np.array([side * rng.symmetric(0.25) for side in patch_size])
        drawn.append(case)
        centres.append(centre + shift)
    return drawn, centres


def cut_patches(
    cases: Sequence[TrainingCase],
    centres: Sequence[np.ndarray],
    patch_size: Sequence[int],
    matrices: Sequence[np.ndarray] | None = None,
    warps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cut HU and labels (B, d, h, w), a patch round each of `centres` (voxel); air outside.

    Without `matrices` they are plain crops. With them, each (3, 3), one trilinear resampling of the
    whole batch does flips, rotation and scale, and the elastic deformation too: `warps`
    (B, 3, n, n, n) are shifts in voxels on a coarse grid over the patch.
    """
    size = np.array(patch_size)
    low = (size - 1) / 2  # of a patch that begins with the scan
    turns = np.stack([np.eye(3)] * len(cases) if matrices is None else matrices)
    boxes = []
    offsets = []
    for number, (case, wanted) in enumerate(zip(cases, centres)):
        extent = np.array(case.hu.shape)
        # patches stay inside the scan where it is large enough: air beside the box is no anatomy
        high = extent - 1 - low
        nearest = np.clip(wanted, low, np.maximum(low, high))
        centre: np.ndarray = np.where(high > low, nearest, (extent - 1) / 2)
        if matrices is None:
            centre = np.floor(centre - low + 0.5) + low  # whole voxels
        reach = np.ceil(np.abs(turns[number]) @ (size / 2)) + 1  # half the box of the turned patch
        if warps is not None:
            reach = reach + math.ceil(float(warps[number].abs().max()))
        start = np.clip(np.floor(centre - reach), 0, extent - 1).astype(int)
        stop = np.clip(np.ceil(centre + reach) + 1, start + 1, extent).astype(int)
        boxes.append(tuple(slice(*ends) for ends in zip(start.tolist(), stop.tolist())))
        offsets.append(centre - start + 0.5)
    both = _stack(cases, boxes)
    box = np.array(both.shape[2:])
    grid = _sampling_grid(turns, np.array(offsets), size, box, both.device)
    if warps is not None:
        grid = grid + _warp_grid(warps, size, box, both.device)
    both = F.grid_sample(both, grid, mode="bilinear", align_corners=False)
    return both[:, 0] + PADDING_HU, (both[:, 1] >= 0.5).to(torch.uint8)


def _stack(cases: Sequence[TrainingCase], boxes: Sequence[tuple[slice, ...]]) -> Tensor:
    """Return HU above air and labels (B, 2, d, h, w) of a box of each case, 0 beyond it."""
    sides = [[side.stop - side.start for side in box] for box in boxes]
    both = torch.zeros((len(cases), 2, *np.max(sides, axis=0).tolist()), device=cases[0].hu.device)
    both[:, 0] = PADDING_HU
    for pair, case, box, shape in zip(both, cases, boxes, sides):
        inside = tuple(slice(side) for side in shape)
        pair[0][inside] = case.hu[box]
        pair[1][inside] = case.label[box]
    both[:, 0] -= PADDING_HU
    return both


def _sampling_grid(
    turns: np.ndarray,
    offsets: np.ndarray,
    size: np.ndarray,
    box: np.ndarray,
    device: torch.device,
) -> Tensor:
    """Return the grid (B, d, h, w, 3) of patches of `size`, turned, round `offsets` in `box`."""
    # grid_sample wants coordinates in [-1, 1], the last axis first
    linear = turns * (size / box[:, None])
    theta = np.concatenate([linear, (2 * offsets / box - 1)[:, :, None]], 2)
    theta = np.concatenate([theta[:, ::-1, 2::-1], theta[:, ::-1, 3:]], 2).astype(np.float32)
    shape = [len(turns), 1, *size.tolist()]
    return F.affine_grid(to_device(torch.from_numpy(theta), device), shape, align_corners=False)


def _warp_grid(warps: Tensor, size: np.ndarray, box: np.ndarray, device: torch.device) -> Tensor:
    """Return what the shifts `warps` (B, 3, n, n, n), in voxels, add to the sampling grid."""
    scale = torch.from_numpy(2 / box).float()[:, None, None, None]
    shifts = to_device((warps * scale).flip(1), device)
    shifts = F.interpolate(shifts, size.tolist(), mode="trilinear", align_corners=True)
    return shifts.movedim(1, -1)
