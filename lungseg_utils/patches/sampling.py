"""Patches for training: where they are drawn, and how they are varied, a whole batch at a time on the device."""

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
    AIR_HU,
    USUAL_AUGMENTATION,
    Augmentation,
    Chance,
    crop_field_of_view,
    random_matrix,
    to_device,
    vary_intensity,
)
from lungseg_utils.preprocess import Prepared
from lungseg_utils.runtime import LungsegError, warn

WARP_POINTS = 5  # a side, of the coarse grid of random shifts


@dataclass(frozen=True)
class Source:
    """One case on the device, with the voxels that patches may be centred on."""

    name: str
    hu: Tensor  # (D, H, W) int16
    label: Tensor  # (D, H, W) uint8
    lesions: list[Tensor]  # of each lesion: voxels (n, 3)
    elsewhere: Tensor  # voxels (n, 3) of the region
    hard_examples: list[Tensor] = field(
        default_factory=list
    )  # as lesions: what a network has missed or wrongly marked


def make_source(
    case: Prepared, device: torch.device | str = "cpu", most_centres: int = 20_000
) -> Source:
    """Put a prepared case on `device` and list the centres for its patches; needs a label."""
    if case.label is None:
        raise LungsegError(case.name, "it has no label", "train on labelled cases only")
    covered = float(np.asarray(case.label).mean())
    if covered > 0.5:
        raise LungsegError(
            case.name,
            f"its label covers {covered:.0%} of the lungs' box: inverted, or no tumour",
            "mark the tumour with 1 and everything else with 0",
        )
    if not covered:
        warn(f"{case.name}: its label is empty: no tumour is marked")
    lesions = list_components(case.label)
    lesions = [
        lesion for lesion in lesions if len(lesion) > 2
    ] or lesions  # no crumbs that resampling has split off
    elsewhere = np.argwhere(np.asarray(case.region) > 0)
    return Source(
        name=case.name,
        hu=_as_tensor(case.hu).to(device),
        label=_as_tensor(case.label).to(device),
        lesions=[_thin_out(lesion, most_centres) for lesion in lesions],
        elsewhere=_thin_out(elsewhere, most_centres),
    )


def _as_tensor(array: np.ndarray) -> Tensor:
    """Share the memory of `array`: what the cache maps stays on the disk until a patch asks for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot be written to: nobody does
        return torch.from_numpy(np.asarray(array))


def _thin_out(voxels: np.ndarray, most: int) -> Tensor:
    """Give at most about `most` of `voxels` (n, 3), in memory of their own."""
    return torch.from_numpy(voxels[:: max(1, len(voxels) // most)].copy())


def draw_batch(
    sources: Sequence[Source],
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

    A share `foreground_share` of the batch is centred in a lesion: first a case is drawn, then a lesion of it, then a voxel
    of that, so that a nodule is seen as often as a tumour beside it a thousand times its volume. A share `hard_example_share` is
    centred in what the sources list as such, where they do. The rest is centred anywhere in the region. With `part`,
    only the patches of these numbers are drawn: the share of one of several processes.
    """
    chance, marked = _chance(generator), [source for source in sources if source.lesions]
    hard = [source for source in sources if source.hard_examples]
    drawn, centres = [], []
    for number in range(batch_size) if part is None else part:
        source = _choose(sources, chance)
        # The shares are kept in every batch; what is left of them is drawn.
        place = number + next(chance) - foreground_share * batch_size
        regions: Sequence[Tensor] = []
        if marked and place < 0:
            source = source if source.lesions else _choose(marked, chance)
            regions = source.lesions
        elif hard and 0 <= place < hard_example_share * batch_size:
            source = _choose(hard, chance)
            regions = source.hard_examples
        centre = _choose(_choose(regions, chance) if regions else source.elsewhere, chance).numpy()
        drawn.append(source)
        centres.append(
            centre + np.array([0.5 * side * (next(chance) - 0.5) for side in patch_size])
        )
    matrices = warps = None
    if augmentation.mirror or augmentation.rotate_degrees or augmentation.scale:
        matrices = [random_matrix(augmentation, chance) for _ in drawn]
    if augmentation.elastic_voxels:
        warps = 2 * torch.rand([len(drawn), 3, *[WARP_POINTS] * 3], generator=generator) - 1
        warps *= augmentation.elastic_voxels
    hu, label = cut_patches(drawn, centres, patch_size, matrices, warps)
    hu = vary_intensity(hu, augmentation, chance)
    chosen = [
        number for number in range(len(drawn)) if next(chance) < augmentation.field_of_view_crop
    ]
    if chosen:
        hu[chosen] = crop_field_of_view(hu[chosen], label[chosen], chance)
    return hu[:, None], label[:, None], [source.name for source in drawn]


def cut_patches(
    sources: Sequence[Source],
    centres: Sequence[np.ndarray],
    patch_size: Sequence[int],
    matrices: Sequence[np.ndarray] | None = None,
    warps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cut HU and labels (B, d, h, w), a patch round each of `centres` (voxel); air outside.

    Without `matrices` they are plain crops. With them, each (3, 3), one trilinear resampling of the whole batch does
    flips, rotation and scale, and the elastic deformation too: `warps` (B, 3, n, n, n) are shifts in voxels on a
    coarse grid over the patch.
    """
    size, count, device = np.array(patch_size), len(sources), sources[0].hu.device
    cuts, offsets = [], []
    for number, (source, centre) in enumerate(zip(sources, centres)):
        extent, matrix = (
            np.array(source.hu.shape),
            np.eye(3) if matrices is None else matrices[number],
        )
        # Patches stay inside the scan where it is large enough: air beside the box is no anatomy.
        low, high = (size - 1) / 2, extent - 1 - (size - 1) / 2
        centre = np.where(high > low, np.clip(centre, low, np.maximum(low, high)), (extent - 1) / 2)
        if matrices is None:
            centre = np.floor(centre - low + 0.5) + low  # whole voxels
        reach = np.ceil(np.abs(matrix) @ (size / 2)) + 1  # half the box that the turned patch needs
        if warps is not None:
            reach = reach + math.ceil(float(warps[number].abs().max()))
        start = np.clip(np.floor(centre - reach), 0, extent - 1).astype(int)
        stop = np.clip(np.ceil(centre + reach) + 1, start + 1, extent).astype(int)
        cuts.append(tuple(slice(a, b) for a, b in zip(start.tolist(), stop.tolist())))
        offsets.append(centre - start + 0.5)
    box = np.max([[cut.stop - cut.start for cut in each] for each in cuts], axis=0)
    both = torch.zeros((count, 2, *box.tolist()), device=device)
    both[:, 0] = AIR_HU
    for patch, source, cut in zip(both, sources, cuts):
        inside = tuple(slice(side.stop - side.start) for side in cut)
        patch[0][inside], patch[1][inside] = source.hu[cut], source.label[cut]
    both[:, 0] -= AIR_HU  # beyond its input grid_sample takes zero

    # it wants coordinates in [-1, 1], the last axis first
    linear = np.stack([np.eye(3)] * count if matrices is None else matrices) * (size / box[:, None])
    theta = np.concatenate([linear, (2 * np.array(offsets) / box - 1)[:, :, None]], 2)
    theta = np.concatenate([theta[:, ::-1, 2::-1], theta[:, ::-1, 3:]], 2).astype(np.float32)
    grid = F.affine_grid(to_device(torch.from_numpy(theta), device), [count, 1, *patch_size], False)
    if warps is not None:
        shifts = to_device(
            (warps * torch.from_numpy(2 / box).float()[:, None, None, None]).flip(1), device
        )
        grid = grid + F.interpolate(
            shifts, list(patch_size), mode="trilinear", align_corners=True
        ).movedim(1, -1)
    both = F.grid_sample(both, grid, mode="bilinear", align_corners=False)
    return both[:, 0] + AIR_HU, (both[:, 1] >= 0.5).to(torch.uint8)


def _chance(generator: torch.Generator) -> Chance:
    """Yield random numbers in [0, 1), drawn many at a time: one at a time they would take longer than the patch."""
    while True:
        yield from torch.rand(256, generator=generator).tolist()


def _choose(items: Sequence, chance: Chance):
    return items[int(len(items) * next(chance))]
