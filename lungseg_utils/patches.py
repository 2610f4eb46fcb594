"""Patches for training: where they are drawn, and how they are varied, in one resampling on the device."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg_utils.prediction.tumours import list_components
from lungseg_utils.preprocess import Prepared
from lungseg_utils.runtime import LungsegError, warn

AIR_HU = -1024.0


@dataclass(frozen=True)
class Augmentation:
    """How far patches are varied; all zero leaves them as they are."""

    mirror: float = 0.5  # probability; left and right only: nobody lies with the head where the feet are
    rotate_degrees: float = 20.0
    scale: float = 0.2  # relative
    gain: float = 0.08  # relative, of HU + 1000
    offset_hu: float = 30.0
    noise_hu: float = 40.0
    blur: float = 0.25  # probability of a softer kernel or thicker slices
    sharpen: float = 0.15  # probability of a sharper kernel
    elastic_voxels: float = 0.0  # largest shift of an elastic deformation, its waves a quarter of the patch long
    low_resolution: float = 0.0  # probability of being seen as through voxels 1.2 to 2.5 times as large
    cut_off: float = 0.0  # probability of air beyond a box round the lesions, as in a scan cut to a part


NO_AUGMENTATION = Augmentation(0, 0, 0, 0, 0, 0, 0, 0)
WARP_POINTS = 5  # a side, of the coarse grid of random shifts


@dataclass(frozen=True)
class Source:
    """One case on the device, with the voxels that patches may be centred on."""

    name: str
    hu: Tensor  # (D, H, W) int16
    label: Tensor  # (D, H, W) uint8
    lesions: list[Tensor]  # of each lesion: voxels (n, 3)
    elsewhere: Tensor  # voxels (n, 3) of the region
    mistakes: list[Tensor] = field(default_factory=list)  # as lesions: what a network has missed or wrongly marked


def make_source(case: Prepared, device: torch.device | str = "cpu", most_centres: int = 20_000) -> Source:
    """Put a prepared case on `device` and list the centres for its patches; needs a label."""
    if case.label is None:
        raise LungsegError(case.name, "it has no label", "train on labelled cases only")
    covered = float(np.asarray(case.label).mean())
    if covered > 0.5:
        raise LungsegError(case.name, f"its label covers {covered:.0%} of the lungs' box: inverted, or no tumour",
                           "mark the tumour with 1 and everything else with 0")
    if not covered:
        warn(f"{case.name}: its label is empty: no tumour is marked")
    lesions = list_components(case.label)
    lesions = [lesion for lesion in lesions if len(lesion) > 2] or lesions  # no crumbs that resampling has split off
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
    foreground: float = 0.67,
    mistakes: float = 0.0,
    augmentation: Augmentation = Augmentation(),
) -> tuple[Tensor, Tensor, list[str]]:
    """Draw HU (B, 1, d, h, w), labels (B, 1, d, h, w) and the names of the cases they come from.

    A share `foreground` of the batch is centred in a lesion: first a lesion is drawn, then a voxel of it, so that
    a nodule is seen as often as a tumour a thousand times its volume. A share `mistakes` is centred in what the
    sources list as such, where they do. The rest is centred anywhere in the region.
    """
    images, labels, names = [], [], []
    hard = [source for source in sources if source.mistakes]
    for number in range(batch_size):
        source = sources[_integer(len(sources), generator)]
        # The shares are kept in every batch; what is left of them is drawn.
        place = number + _uniform(generator) - foreground * batch_size
        regions = source.lesions if place < 0 else []
        if hard and 0 <= place < mistakes * batch_size:
            source = hard[_integer(len(hard), generator)]
            regions = source.mistakes
        centres = regions[_integer(len(regions), generator)] if regions else source.elsewhere
        centre = centres[_integer(len(centres), generator)].float()
        jitter = (torch.rand(3, generator=generator) - 0.5) * torch.tensor(patch_size) * 0.5
        matrix = _random_matrix(augmentation, generator)
        hu, label = cut_patch(source, centre + jitter, patch_size, matrix, _random_warp(augmentation, generator))
        hu = vary_intensity(hu, augmentation, generator)
        if augmentation.cut_off and _uniform(generator) < augmentation.cut_off:
            hu = _cut_off(hu, label, generator)
        images.append(hu)
        labels.append(label)
        names.append(source.name)
    return torch.stack(images)[:, None], torch.stack(labels)[:, None], names


def cut_patch(
    source: Source, centre: Tensor, patch_size: Sequence[int], matrix: Tensor | None = None, warp: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cut HU and label (d, h, w) round `centre` (voxel), turned and scaled by `matrix` (3, 3); air outside.

    Without `matrix` the patch is a plain crop. With it, one trilinear resampling does flips, rotation and scale,
    and the elastic deformation too: `warp` (3, n, n, n) are shifts in voxels on a coarse grid over the patch.
    """
    size = torch.tensor(patch_size)
    extent = torch.tensor(source.hu.shape)
    # Patches stay inside the scan where it is large enough: air beside the box is no anatomy.
    low, high = (size - 1) / 2, extent - 1 - (size - 1) / 2
    centre = torch.where(high > low, torch.minimum(torch.maximum(centre, low), high), (extent - 1) / 2)
    if matrix is None:
        matrix = torch.eye(3)
        centre = torch.floor(centre - low + 0.5) + low  # whole voxels
    reach = (matrix.abs() @ (size / 2.0)).ceil() + 1  # half the box that the turned patch needs
    if warp is not None:
        reach = reach + warp.abs().max().ceil()
    start = torch.clamp((centre - reach).floor(), min=0).long()
    stop = torch.minimum((centre + reach).ceil().long() + 1, extent)
    cut = tuple(slice(int(a), int(b)) for a, b in zip(start, torch.maximum(stop, start + 1)))
    device = source.hu.device
    hu, label = source.hu[cut].float() - AIR_HU, source.label[cut].float()

    # grid_sample wants coordinates in [-1, 1], the last axis first
    box = torch.tensor(hu.shape, dtype=torch.float32)
    to_unit = 2.0 / box
    theta = torch.cat([to_unit[:, None] * matrix * (size / 2.0), ((centre - start + 0.5) * to_unit - 1)[:, None]], 1)
    theta = torch.cat([theta[:, :3].flip(0).flip(1), theta[:, 3:].flip(0)], 1).to(device, non_blocking=True)
    grid = F.affine_grid(theta[None], [1, 1, *patch_size], align_corners=False)
    if warp is not None:
        shifts = (warp * to_unit[:, None, None, None]).flip(0)[None].to(device, non_blocking=True)
        grid = grid + F.interpolate(shifts, list(patch_size), mode="trilinear", align_corners=True).movedim(1, -1)
    both = F.grid_sample(torch.stack([hu, label])[None], grid, mode="bilinear", align_corners=False)[0]
    return both[0] + AIR_HU, (both[1] >= 0.5).to(torch.uint8)


def vary_intensity(hu: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Vary HU as scanners do: gain and offset, softer or sharper kernel, thicker slices, then noise."""
    gain = 1 + augmentation.gain * (2 * _uniform(generator) - 1)
    offset = augmentation.offset_hu * (2 * _uniform(generator) - 1)
    hu = (hu + 1000) * gain - 1000 + offset
    kind = _uniform(generator)
    if kind < augmentation.blur:
        axes = [2, 3, 4] if _uniform(generator) < 0.5 else [2 + _integer(3, generator)]
        hu = _smooth(hu, axes, 0.4 + 0.8 * _uniform(generator))
    elif kind < augmentation.blur + augmentation.sharpen:
        hu = hu + (0.3 + 0.7 * _uniform(generator)) * (hu - _smooth(hu, [2, 3, 4], 0.8))
    if augmentation.low_resolution and _uniform(generator) < augmentation.low_resolution:
        hu = _coarsen(hu, 1.2 + 1.3 * torch.rand(3, generator=generator))
    if augmentation.noise_hu:
        sd = augmentation.noise_hu * _uniform(generator) ** 2
        seed = int(torch.randint(2**62, (), generator=generator))
        noise = torch.randn(hu.shape, device=hu.device, generator=torch.Generator(hu.device).manual_seed(seed))
        hu = hu + sd * noise
    return hu


def _cut_off(hu: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
    """Fill (d, h, w) with air, or lung, beyond a random box that holds all that is marked in `label`."""
    inside = torch.zeros(hu.shape, dtype=torch.bool, device=hu.device)
    most = _uniform(generator) if label.any() else 1.0  # of the room beside the lesions: some boxes are tight
    box = []
    for axis, size in enumerate(hu.shape):
        marked = label.movedim(axis, 0).flatten(1).any(1).nonzero().flatten().tolist() or [_integer(size, generator)]
        before, behind = most * _uniform(generator) * marked[0], most * _uniform(generator) * (size - 1 - marked[-1])
        box.append(slice(int(marked[0] - before), math.ceil(marked[-1] + 1 + behind)))
    inside[tuple(box)] = True
    return torch.where(inside, hu, AIR_HU + 224 * _uniform(generator))


def _coarsen(hu: Tensor, factors: Tensor) -> Tensor:
    """See (d, h, w) as through voxels `factors` (3,) times as large: averaged, then interpolated back."""
    coarse = [max(1, round(side / factor)) for side, factor in zip(hu.shape, factors.tolist())]
    small = F.interpolate(hu[None, None], coarse, mode="area")
    return F.interpolate(small, hu.shape, mode="trilinear", align_corners=False)[0, 0]


def _smooth(hu: Tensor, axes: list[int], sigma: float) -> Tensor:
    """Smooth (d, h, w) along `axes` (2, 3, 4 of the batched tensor) with a Gaussian of `sigma` voxels."""
    offsets = torch.arange(-3, 4, device=hu.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    hu = hu[None, None]
    for axis in axes:
        shape = [1, 1, 1, 1, 1]
        shape[axis] = 7
        padding = [0, 0, 0, 0, 0, 0]
        padding[2 * (4 - axis)] = padding[2 * (4 - axis) + 1] = 3
        hu = F.conv3d(F.pad(hu, padding, mode="replicate"), kernel.view(shape))
    return hu[0, 0]


def _random_matrix(augmentation: Augmentation, generator: torch.Generator) -> Tensor | None:
    if not (augmentation.mirror or augmentation.rotate_degrees or augmentation.scale):
        return None
    signs = torch.tensor([1.0, 1.0, -1.0 if _uniform(generator) < augmentation.mirror else 1.0])
    scale = 1 + augmentation.scale * (2 * torch.rand(3, generator=generator) - 1)
    angles = math.radians(augmentation.rotate_degrees) * (2 * torch.rand(3, generator=generator) - 1)
    matrix = torch.diag(signs / scale)
    for (a, b), angle in zip(((0, 1), (0, 2), (1, 2)), angles.tolist()):
        turn = torch.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def _random_warp(augmentation: Augmentation, generator: torch.Generator) -> Tensor | None:
    if not augmentation.elastic_voxels:
        return None
    return augmentation.elastic_voxels * (2 * torch.rand([3] + [WARP_POINTS] * 3, generator=generator) - 1)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
