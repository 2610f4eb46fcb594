"""From a scan to its tumour mask: windows over the lung region, blended, back on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg_utils.checkpoint import SHIPPED, load_weights
from lungseg_utils.preprocess import CLIP_HU, Prepared, normalise, prepare, resampled_slabs
from lungseg_utils.runtime import pick_device, pick_precision, warn
from lungseg_utils.segunet import SegUNet, fold_batch_norms
from lungseg_utils.volume import Volume

WINDOW = (96, 96, 96)
OVERLAP = 0.25  # of a window's side
SMALLEST_TUMOUR_MM3 = 50.0  # smaller components are noise at the working spacing


class Predictor:
    """A network made ready once for many scans: weights read, batch norms folded, device and precision chosen."""

    def __init__(self, checkpoint: str | Path | None = None, device: str = "auto", *, model: SegUNet | None = None,
                 facts: dict | None = None, precision: torch.dtype | None = None):
        self.device = pick_device(device)
        self.precision = precision or pick_precision(self.device)
        if model is None:
            model, facts = load_weights(checkpoint or SHIPPED)
        self.facts = facts
        self.model = fold_batch_norms(model).to(self.device, self.precision, memory_format=torch.channels_last_3d)

    def probabilities(self, prepared: Prepared, *, window: Sequence[int] = WINDOW, overlap: float = OVERLAP,
                      batch_size: int | None = None, region_only: bool = True) -> Tensor:
        """Give the tumour probability, float32 (D, H, W), on the working grid of `prepared`; 0 where none was asked."""
        image = torch.from_numpy(np.array(prepared.hu)).to(self.device)
        region = np.asarray(prepared.region) if region_only else np.ones_like(prepared.region)
        # The convolution library takes its fast path on a CPU only for batches of two or more.
        batch_size = batch_size or (2 if self.device.type == "cpu" else 8)
        while True:
            try:
                return self._blend(image, region, window, overlap, batch_size)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                if batch_size > 1:
                    batch_size //= 2
                    warn(f"{prepared.name}: out of GPU memory; going on with batches of {batch_size}")
                else:
                    warn(f"{prepared.name}: out of GPU memory; going on with the CPU")
                    self.device, self.precision = torch.device("cpu"), pick_precision(torch.device("cpu"))
                    self.model = self.model.to(self.device, self.precision)
                    image, batch_size = image.cpu(), 2

    @torch.inference_mode()
    def _blend(self, image: Tensor, region: np.ndarray, window: Sequence[int], overlap: float,
               batch_size: int) -> Tensor:
        shape = image.shape
        multiple = [int(np.prod([pool[axis] for pool in self.model.pools])) for axis in range(3)]
        # a window larger than the scan shrinks to it, up to a whole number of the deepest voxels
        window = [min(w, -(-n // m) * m) for w, n, m in zip(window, shape, multiple)]
        pad = [max(0, w - n) for w, n in zip(window, shape)]
        image = F.pad(image, (0, pad[2], 0, pad[1], 0, pad[0]), value=CLIP_HU[0])
        weight = blending_weight(window).to(self.device)
        total = torch.zeros(image.shape, device=self.device)
        weights = torch.zeros(image.shape, device=self.device)
        windows = window_positions(region, image.shape, window, overlap)
        for first in range(0, len(windows), batch_size):
            cuts = windows[first : first + batch_size]
            batch = torch.stack([normalise(image[cut].float()) for cut in cuts])[:, None]  # (B, 1, d, h, w)
            batch = batch.to(self.precision).contiguous(memory_format=torch.channels_last_3d)
            output = self.model(batch).float().sigmoid_()[:, 0]
            for cut, probability in zip(cuts, output):
                total[cut] += probability * weight
                weights[cut] += weight
        return (total / weights.clamp_(min=1e-6))[tuple(slice(0, n) for n in shape)]

    def mask(self, volume: Volume, prepared: Prepared, probability: Tensor, threshold: float = 0.5) -> np.ndarray:
        """Bring `probability` back to the scan's grid and cut it at `threshold`: uint8 (D, H, W) as `volume.hu`."""
        mask = np.zeros(volume.hu.shape, np.uint8)
        inside = mask[prepared.box]
        for planes, piece in resampled_slabs(probability, inside.shape):
            inside[planes] = (piece >= threshold).to(torch.uint8).cpu().numpy()
        drop_small(inside, volume.spacing_mm)
        return mask


def predict(
    volume: Volume,
    *,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    threshold: float = 0.5,
    predictor: Predictor | None = None,
) -> np.ndarray:
    """Segment the lung tumours of `volume`: uint8 (D, H, W) of 0 and 1, as `volume.hu`.

    Without `checkpoint` the shipped weights are used: trained on synthetic scans, not for clinical use.
    """
    predictor = predictor or Predictor(checkpoint, device)
    prepared = prepare(volume, spacing_mm=predictor.facts["spacing_mm"], device=predictor.device)
    return predictor.mask(volume, prepared, predictor.probabilities(prepared), threshold)


def window_positions(
    region: np.ndarray, shape: Sequence[int], window: Sequence[int], overlap: float
) -> list[tuple[slice, slice, slice]]:
    """Give the windows of a regular grid over `shape` whose own middle part holds any of `region`.

    The grid is spread evenly so that the last window ends at the border. Middle parts together cover everything.
    """
    starts = []
    for size, side in zip(shape, window):
        count = 1 + int(np.ceil((size - side) / (side * (1 - overlap)) - 1e-9)) if size > side else 1
        starts.append(np.round(np.linspace(0, size - side, count)).astype(int))
    # each window answers for the voxels up to half-way to its neighbours
    borders = [np.concatenate([[0], (s[1:] + s[:-1] + w) // 2, [n]]) for s, w, n in zip(starts, window, shape)]
    windows = []
    for i, d in enumerate(starts[0]):
        for j, h in enumerate(starts[1]):
            for k, w in enumerate(starts[2]):
                own = tuple(slice(b[n], b[n + 1]) for b, n in zip(borders, (i, j, k)))
                if region[own].any():
                    windows.append(tuple(slice(int(a), int(a) + n) for a, n in zip((d, h, w), window)))
    return windows


def blending_weight(window: Sequence[int]) -> Tensor:
    """Give the weight of each voxel of a window: a Gaussian, an eighth of the side wide, as nnU-Net's."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window]
    weight = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    return weight.clamp(min=1e-4)


def drop_small(mask: np.ndarray, spacing_mm: Sequence[float], smallest_mm3: float = SMALLEST_TUMOUR_MM3) -> None:
    """Remove components below `smallest_mm3` from `mask`, in place."""
    import cc3d

    if mask.any():
        parts = cc3d.connected_components(mask, connectivity=26)
        small = np.bincount(parts.ravel()) * float(np.prod(spacing_mm)) < smallest_mm3
        mask[small[parts]] = 0
