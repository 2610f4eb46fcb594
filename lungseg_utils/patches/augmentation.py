"""How patches are varied: turned and scaled, and seen as by another scanner."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg_utils.patches.rng import Rng
from lungseg_utils.preprocess.resample import axis_weights
from lungseg_utils.volume import PADDING_HU

UNKNOWN = 255  # the label of voxels that nobody has seen: no loss counts there


@dataclass(frozen=True)
class Augmentation:
    """How far patches are varied; all zero leaves them as they are.

    mirror: probability; left and right only, as nobody lies with the head where the feet are.
    rotate_degrees, scale (relative), gain (relative, of HU + 1000), offset_hu: the largest.
    noise_hu: the largest standard deviation. blur: probability of a softer kernel or thicker
    slices. sharpen: probability of a sharper kernel. elastic_voxels: largest shift of an elastic
    deformation, its waves a quarter of the patch long. low_resolution: probability of being seen
    as through voxels 1.2 to 2.5 times as large. field_of_view_crop: probability of air beyond a
    box round the lesions, as in a scan cut to a part. cube: probability that no more is
    known of a whole scan than of the crops beside it.
    """

    mirror: float = 0.5
    rotate_degrees: float = 20.0
    scale: float = 0.2
    gain: float = 0.08
    offset_hu: float = 30.0
    noise_hu: float = 40.0
    blur: float = 0.25
    sharpen: float = 0.15
    elastic_voxels: float = 0.0
    low_resolution: float = 0.0
    field_of_view_crop: float = 0.0
    cube: float = 0.0


USUAL_AUGMENTATION = Augmentation()
NO_AUGMENTATION = Augmentation(0, 0, 0, 0, 0, 0, 0, 0)


def random_matrix(augmentation: Augmentation, rng: Rng) -> np.ndarray:
    """Draw the (3, 3) that takes offsets in a patch to offsets in the scan.

    It mirrors, scales and rotates.
    """
    sides = [1.0, 1.0, -1.0 if rng.random() < augmentation.mirror else 1.0]
    matrix = np.diag([side / (1 + rng.symmetric(augmentation.scale)) for side in sides])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        angle = rng.symmetric(math.radians(augmentation.rotate_degrees))
        rotation = np.eye(3)
        rotation[a, a] = rotation[b, b] = math.cos(angle)
        rotation[a, b] = -math.sin(angle)
        rotation[b, a] = math.sin(angle)
        matrix = rotation @ matrix
    return matrix


def vary_intensity(hu: Tensor, augmentation: Augmentation, rng: Rng) -> Tensor:
    """Vary HU (B, d, h, w) as scanners do.

    Gain and offset, then a softer or sharper kernel, then thicker slices, then noise.
    """
    count = len(hu)
    gain = _column([1 + rng.symmetric(augmentation.gain) for _ in range(count)], hu)
    offset = _column([rng.symmetric(augmentation.offset_hu) for _ in range(count)], hu)
    hu = (hu + 1000) * gain + (offset - 1000)
    hu = _vary_kernel(hu, augmentation, rng)
    if augmentation.low_resolution:
        for number in range(count):
            if rng.random() < augmentation.low_resolution:
                hu[number] = _coarsen(hu[number], [1.2 + 1.3 * rng.random() for _ in range(3)])
    if augmentation.noise_hu:
        sd = _column([augmentation.noise_hu * rng.random() ** 2 for _ in range(count)], hu)
        own = torch.Generator(hu.device).manual_seed(int(2**53 * rng.random()))
        hu = hu + sd * torch.randn(hu.shape, device=hu.device, generator=own)
    return hu


def _vary_kernel(hu: Tensor, augmentation: Augmentation, rng: Rng) -> Tensor:
    """Blur some of the patches (B, d, h, w), along one axis or all, and sharpen others."""
    varied = []  # number, sigmas, and share of the patch itself; the rest is its smoothed copy
    for number in range(len(hu)):
        draw = rng.random()
        if draw < augmentation.blur:
            axes = [0, 1, 2] if rng.random() < 0.5 else [int(3 * rng.random())]
            sigma = 0.4 + 0.8 * rng.random()
            share = 0.0
        elif draw < augmentation.blur + augmentation.sharpen:
            axes = [0, 1, 2]
            sigma = 0.8
            share = 1.3 + 0.7 * rng.random()
        else:
            continue
        varied.append((number, [sigma if axis in axes else 0.0 for axis in range(3)], share))
    if varied:
        chosen, sigmas, shares = map(list, zip(*varied))
        share_of_each = _column(shares, hu)
        smoothed = _smooth(hu[chosen], sigmas)
        hu[chosen] = share_of_each * hu[chosen] + (1 - share_of_each) * smoothed
    return hu


def crop_field_of_view(hu: Tensor, label: Tensor, rng: Rng) -> Tensor:
    """Fill (B, d, h, w) with air, or lung, beyond a random box that holds all of `label`."""

    def draws() -> Tensor:
        return _column([rng.random() for _ in range(len(hu))], hu)

    is_marked = label.amax((1, 2, 3), keepdim=True) > 0
    most = torch.where(is_marked, draws(), 1.0)  # of the room beside the lesions: some are tight
    inside = torch.ones((), dtype=torch.bool, device=hu.device)
    for axis in (1, 2, 3):
        size = hu.shape[axis]
        others = [other for other in (1, 2, 3) if other != axis]
        marked = label.amax(others, keepdim=True)
        anywhere = (size * draws()).floor()
        from_start = marked.argmax(axis, keepdim=True)  # argmax returns the first of equals
        from_end = marked.flip(axis).argmax(axis, keepdim=True)
        first = torch.where(is_marked, from_start, anywhere)
        last = torch.where(is_marked, size - 1 - from_end, anywhere)
        before = most * draws() * first
        behind = most * draws() * (size - 1 - last)
        shape = [-1 if other == axis else 1 for other in range(4)]
        place = torch.arange(size, device=hu.device).view(shape)
        starts = place >= (first - before).floor()
        ends = place < (last + 1 + behind).ceil()
        inside = inside & starts & ends
    return torch.where(inside, hu, PADDING_HU + 224 * draws())


def cut_to_cubes(label: Tensor, shape: Sequence[int], rng: Rng) -> Tensor:
    """Return `label` (B, d, h, w), UNKNOWN beyond a box of `shape` (d, h, w) somewhere in each.

    The middle of the box lies up to a quarter of the patch from its own, as that of a real crop.
    """
    label = label.clone()
    for own in label:
        is_inside = torch.zeros(own.shape, dtype=torch.bool, device=own.device)
        starts = [
            round((size - side) / 2 + rng.symmetric(0.25 * size))
            for size, side in zip(own.shape, shape)
        ]
        ends = zip(starts, shape)
        is_inside[tuple(slice(max(0, start), max(0, start + side)) for start, side in ends)] = True
        own[~is_inside] = UNKNOWN
    return label


def fill_unknown(hu: Tensor, label: Tensor, rng: Rng) -> Tensor:
    """Fill HU (B, d, h, w) with air, or lung, where `label` is UNKNOWN."""
    filling = _column([PADDING_HU + 224 * rng.random() for _ in range(len(hu))], hu)
    return torch.where(label == UNKNOWN, filling, hu)


def _coarsen(hu: Tensor, factors: Sequence[float]) -> Tensor:
    """Average (d, h, w) over voxels `factors` (3,) times as large, and interpolate back."""
    for axis, (side, factor) in enumerate(zip(hu.shape, factors)):
        coarse = max(1, round(side / factor))
        there_and_back = axis_weights(coarse, side) @ axis_weights(side, coarse)
        weights = to_device(there_and_back, hu.device)
        hu = torch.tensordot(weights, hu, ([1], [axis])).movedim(0, axis)
    return hu


def _smooth(hu: Tensor, sigmas: Sequence[Sequence[float]]) -> Tensor:
    """Smooth each of (B, d, h, w) with a Gaussian of its own `sigmas` (3,), in voxels; 0: none."""
    sigma = np.maximum(np.array(sigmas), 1e-3)[:, :, None]  # (B, 3, 1)
    kernels = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    kernels = (kernels / kernels.sum(2, keepdims=True)).astype(np.float32)
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 7
        padding = [0] * 6  # (W, W, H, H, D, D)
        padding[4 - 2 * axis] = padding[5 - 2 * axis] = 3
        kernel = to_device(torch.from_numpy(kernels[:, axis]), hu.device)
        padded = F.pad(hu[None], padding, mode="replicate")
        hu = F.conv3d(padded, kernel.view(-1, 1, *shape), groups=len(hu))[0]
    return hu


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Put a number a patch on the device of `like`, as (B, 1, 1, 1)."""
    return to_device(torch.tensor(values, dtype=like.dtype), like.device).view(-1, 1, 1, 1)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Put a small tensor on `device`; on a GPU of NVIDIA's without waiting, which is safe there."""
    return values.to(device, non_blocking=device.type == "cuda")
