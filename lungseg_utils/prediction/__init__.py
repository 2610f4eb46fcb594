"""From a scan to its tumour mask: windows over the lung region, blended, back on the scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg_utils.checkpoint import SHIPPED, load_weights
from lungseg_utils.prediction.tumours import drop_small, measure_tumours
from lungseg_utils.prediction.windows import blending_weight, window_positions
from lungseg_utils.preprocess import CLIP_HU, Prepared, normalise, prepare, resampled_slabs
from lungseg_utils.runtime import pick_device, pick_precision, warn
from lungseg_utils.segunet import SegUNet, fold_batch_norms
from lungseg_utils.volume import Volume

__all__ = ["OVERLAP", "Predictor", "WINDOW", "drop_small", "measure_tumours", "predict", "predict_files"]

WINDOW = (96, 96, 96)
OVERLAP = 0.25  # of a window's side


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
        on_last_resort = False
        while True:
            try:
                return self._blend(image, region, window, overlap, batch_size)
            except torch.OutOfMemoryError:
                if on_last_resort:
                    raise
            torch.cuda.empty_cache()  # not above: the error would still hold on to the tensors
            if batch_size > 1:
                batch_size //= 2
                warn(f"{prepared.name}: out of GPU memory; going on with batches of {batch_size}")
            else:
                warn(f"{prepared.name}: out of GPU memory; going on with the CPU")
                self.device, self.precision = torch.device("cpu"), pick_precision(torch.device("cpu"))
                self.model = self.model.to(self.device, self.precision)
                image, batch_size, on_last_resort = image.cpu(), 2, True

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
        probability = (total / weights.clamp_(min=1e-6))[tuple(slice(0, n) for n in shape)]
        return probability * torch.from_numpy(np.array(region)).to(self.device)  # no lung tumour far from the lungs

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


def predict_files(inputs, output, **options):
    """Segment scans from file to file; see `files.predict_files`."""
    from lungseg_utils.prediction.files import predict_files

    return predict_files(inputs, output, **options)
