"""How patches are varied: turned and scaled, and seen as by another scanner."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg_utils.preprocess.resample import axis_weights

AIR_HU = -1024.0


@dataclass(frozen=True)
class Augmentation:
    """How far patches are varied; all zero leaves them as they are."""

    mirror: float = (
        0.5  # probability; left and right only: nobody lies with the head where the feet are
    )
    rotate_degrees: float = 20.0
    scale: float = 0.2  # relative
    gain: float = 0.08  # relative, of HU + 1000
    offset_hu: float = 30.0
    noise_hu: float = 40.0
    blur: float = 0.25  # probability of a softer kernel or thicker slices
    sharpen: float = 0.15  # probability of a sharper kernel
    elastic_voxels: float = (
        0.0  # largest shift of an elastic deformation, its waves a quarter of the patch long
    )
    low_resolution: float = (
        0.0  # probability of being seen as through voxels 1.2 to 2.5 times as large
    )
    field_of_view_crop: float = (
        0.0  # probability of air beyond a box round the lesions, as in a scan cut to a part
    )


USUAL_AUGMENTATION = Augmentation()
NO_AUGMENTATION = Augmentation(0, 0, 0, 0, 0, 0, 0, 0)
Chance = Iterator[float]  # random numbers in [0, 1)


def random_matrix(augmentation: Augmentation, chance: Chance) -> np.ndarray:
    """Draw the (3, 3) that takes offsets in a patch to offsets in the scan: mirrored, scaled and turned."""
    sides = [1.0, 1.0, -1.0 if next(chance) < augmentation.mirror else 1.0]
    matrix = np.diag([side / (1 + augmentation.scale * (2 * next(chance) - 1)) for side in sides])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        angle = math.radians(augmentation.rotate_degrees) * (2 * next(chance) - 1)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def vary_intensity(hu: Tensor, augmentation: Augmentation, chance: Chance) -> Tensor:
    """Vary HU (B, d, h, w) as scanners do: gain and offset, softer or sharper kernel, thicker slices, then noise."""
    count = len(hu)
    gain = _column([1 + augmentation.gain * (2 * next(chance) - 1) for _ in range(count)], hu)
    offset = _column([augmentation.offset_hu * (2 * next(chance) - 1) for _ in range(count)], hu)
    hu = (hu + 1000) * gain + (offset - 1000)
    chosen, sigmas, shares = [], [], []  # what is left of a patch, the rest is its smoothed copy
    for number in range(count):
        kind = next(chance)
        if kind < augmentation.blur:
            axes = [0, 1, 2] if next(chance) < 0.5 else [int(3 * next(chance))]
            sigma, share = 0.4 + 0.8 * next(chance), 0.0
        elif kind < augmentation.blur + augmentation.sharpen:
            axes, sigma, share = [0, 1, 2], 0.8, 1.3 + 0.7 * next(chance)
        else:
            continue
        chosen.append(number)
        sigmas.append([sigma if axis in axes else 0.0 for axis in range(3)])
        shares.append(share)
    if chosen:
        share = _column(shares, hu)
        hu[chosen] = share * hu[chosen] + (1 - share) * _smooth(hu[chosen], sigmas)
    for number in range(count):
        if augmentation.low_resolution and next(chance) < augmentation.low_resolution:
            hu[number] = _coarsen(hu[number], [1.2 + 1.3 * next(chance) for _ in range(3)])
    if augmentation.noise_hu:
        sd = _column([augmentation.noise_hu * next(chance) ** 2 for _ in range(count)], hu)
        own = torch.Generator(hu.device).manual_seed(int(2**53 * next(chance)))
        hu = hu + sd * torch.randn(hu.shape, device=hu.device, generator=own)
    return hu


def crop_field_of_view(hu: Tensor, label: Tensor, chance: Chance) -> Tensor:
    """Fill (B, d, h, w) with air, or lung, beyond a random box that holds all that is marked in `label`."""

    def draws() -> Tensor:
        return _column([next(chance) for _ in range(len(hu))], hu)

    is_marked = label.amax((1, 2, 3), keepdim=True) > 0
    most = torch.where(
        is_marked, draws(), 1.0
    )  # of the room beside the lesions: some boxes are tight
    inside = torch.ones((), dtype=torch.bool, device=hu.device)
    for axis in (1, 2, 3):
        others = [other for other in (1, 2, 3) if other != axis]
        size, marked = (
            hu.shape[axis],
            label.amax(others, keepdim=True),
        )  # argmax gives the first of equals
        anywhere = (size * draws()).floor()
        first = torch.where(is_marked, marked.argmax(axis, keepdim=True), anywhere)
        last = torch.where(
            is_marked, size - 1 - marked.flip(axis).argmax(axis, keepdim=True), anywhere
        )
        before, behind = most * draws() * first, most * draws() * (size - 1 - last)
        at = torch.arange(size, device=hu.device).view(
            [-1 if other == axis else 1 for other in range(4)]
        )
        inside = inside & (at >= (first - before).floor()) & (at < (last + 1 + behind).ceil())
    return torch.where(inside, hu, AIR_HU + 224 * draws())


def _coarsen(hu: Tensor, factors: Sequence[float]) -> Tensor:
    """See (d, h, w) as through voxels `factors` (3,) times as large: averaged, then interpolated back."""
    for axis, (side, factor) in enumerate(zip(hu.shape, factors)):
        coarse = max(1, round(side / factor))
        there_and_back = axis_weights(coarse, side) @ axis_weights(side, coarse)
        hu = torch.tensordot(to_device(there_and_back, hu.device), hu, ([1], [axis])).movedim(
            0, axis
        )
    return hu


def _smooth(hu: Tensor, sigmas: Sequence[Sequence[float]]) -> Tensor:
    """Smooth (B, d, h, w), each with Gaussians of its own `sigmas` (3,), in voxels along the axes; 0 for none."""
    sigma = np.maximum(np.array(sigmas), 1e-3)[:, :, None]  # (B, 3, 1)
    kernels = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    kernels = (kernels / kernels.sum(2, keepdims=True)).astype(np.float32)
    for axis in range(3):
        shape, padding = [1, 1, 1], [0] * 6
        shape[axis], padding[4 - 2 * axis], padding[5 - 2 * axis] = 7, 3, 3
        kernel = to_device(torch.from_numpy(kernels[:, axis]), hu.device)
        hu = F.conv3d(
            F.pad(hu[None], padding, mode="replicate"), kernel.view(-1, 1, *shape), groups=len(hu)
        )[0]
    return hu


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Put a number a patch on the device of `like`, as (B, 1, 1, 1)."""
    return to_device(torch.tensor(values, dtype=like.dtype), like.device).view(-1, 1, 1, 1)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Put a small tensor on `device` without waiting, where that is safe: Apple's may read it when it is gone."""
    return values.to(device, non_blocking=device.type == "cuda")
