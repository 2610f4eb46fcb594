"""From a scan to its tumour mask: windows over the lung region, blended, back on the scan's own grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg_utils.checkpoint import SHIPPED, load_networks
from lungseg_utils.components import drop_below_peak, drop_small
from lungseg_utils.prediction.windows import blending_weight, fit_window, window_positions
from lungseg_utils.preprocess import CLIP_HU, Prepared, normalise, prepare, resampled_slabs
from lungseg_utils.preprocess.oblique import put_back, straighten
from lungseg_utils.runtime import LungsegError, is_out_of_memory, pick_device, pick_precision, warn
from lungseg_utils.segunet import SegUNet, fold_batch_norms
from lungseg_utils.volume import Volume

OVERLAP = 0.25  # of a window's side, where one window cannot hold the lungs
# The network's widest features in one window, in bytes; it needs about ten times that in all.
LARGEST_FEATURES = {"cpu": 2**27, "cuda": 2**29, "mps": 2**28}
SMALLEST_FEATURES = 2**23  # a GPU that cannot hold even these is of no help


class Predictor:
    """A network made ready once for many scans: weights read, batch norms folded, device and precision chosen.

    Of several checkpoints, as of a cross-validation's folds, the probabilities are averaged.
    """

    def __init__(
        self,
        checkpoint: str | Path | Sequence[str | Path] | None = None,
        device: str = "auto",
        *,
        model: SegUNet | None = None,
        facts: dict | None = None,
        precision: torch.dtype | None = None,
    ):
        self.device = pick_device(device)
        self.wanted = precision  # on whatever device
        self.precision = precision or pick_precision(self.device)
        models = [model]
        if model is None:
            models, facts = load_networks(SHIPPED if checkpoint in (None, "") else checkpoint)
        self.facts = facts
        self.models = [
            fold_batch_norms(one).to(
                self.device, self.precision, memory_format=torch.channels_last_3d
            )
            for one in models
        ]
        self.min_peak = float((facts or {}).get("min_peak", 0))
        self.mirror = bool((facts or {}).get("mirror", False))
        self.width = max(
            len(next(one.parameters())) for one in self.models
        )  # channels at full resolution

    def prepare(self, volume: Volume) -> Prepared:
        """Prepare `volume` for this network: on its device, or on the CPU where that has no memory left."""
        try:
            return prepare(volume, spacing_mm=self.facts["spacing_mm"], device=self.device)
        except RuntimeError as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
        torch.accelerator.empty_cache()
        warn(f"{volume.name}: out of GPU memory; prepared on the CPU")
        return prepare(volume, spacing_mm=self.facts["spacing_mm"])

    def probabilities(
        self,
        prepared: Prepared,
        *,
        window: Sequence[int] | None = None,
        overlap: float = OVERLAP,
        batch_size: int = 8,
    ) -> Tensor:
        """Give the tumour probability, float32 (D, H, W), on the working grid of `prepared`; 0 where none was asked.

        Without `window` the whole grid is one, as no seam is the best seam, or a few where memory forbids it.
        `batch_size` is the most windows at a time; there are fewer where they are large. Raises LungsegError where
        the weights give no numbers.
        """
        hu, region = torch.from_numpy(np.array(prepared.hu)), np.asarray(prepared.region)
        features, on_last_resort = LARGEST_FEATURES[self.device.type], False
        while True:
            try:
                probability = self._blend(
                    hu.to(self.device), region, window, overlap, batch_size, features
                )
                if not torch.isfinite(probability).all():
                    raise LungsegError(
                        prepared.name,
                        "the network answers with what is no number: its weights are bad",
                        "give another checkpoint, or train it anew",
                    )
                return probability
            except (RuntimeError, MemoryError) as error:
                if on_last_resort or not is_out_of_memory(error):
                    raise
            if self.device.type != "cpu":  # not above: the error would still hold on to the tensors
                torch.accelerator.empty_cache()
            if features > SMALLEST_FEATURES:
                features //= 8
                warn(f"{prepared.name}: out of memory; going on with less at a time")
            else:
                warn(f"{prepared.name}: out of memory; going on with the CPU")
                self.device = torch.device("cpu")
                self.precision = self.wanted or pick_precision(self.device)
                self.models = [model.to(self.device, self.precision) for model in self.models]
                features, on_last_resort = LARGEST_FEATURES["cpu"], True

    @torch.inference_mode()
    def _blend(
        self,
        image: Tensor,
        region: np.ndarray,
        window: Sequence[int] | None,
        overlap: float,
        batch_size: int,
        features: int,
    ) -> Tensor:
        shape = image.shape
        multiple = [
            math.lcm(*(math.prod(pool[axis] for pool in model.pools) for model in self.models))
            for axis in range(3)
        ]
        voxels = features / (self.width * self.precision.itemsize)
        if window is None:
            window = fit_window(shape, multiple, overlap, voxels)
        # One window takes a side as it is; several are made of whole poolings, and so is what they cover.
        whole = [-(-w // m) * m for w, m in zip(window, multiple)]
        window = [n if n <= w else w for n, w in zip(shape, whole)]
        pad = [0 if n == w else -n % m for n, w, m in zip(shape, window, multiple)]
        image = F.pad(image, (0, pad[2], 0, pad[1], 0, pad[0]), value=CLIP_HU[0])
        weight = blending_weight(window).to(self.device)
        total = torch.zeros(image.shape, device=self.device)
        weights = torch.zeros(image.shape, device=self.device)
        windows = window_positions(region, image.shape, window, overlap, multiple)
        batch_size = max(1, min(batch_size, int(voxels // np.prod(window))))
        for first in range(0, len(windows), batch_size):
            cuts = windows[first : first + batch_size]
            batch = torch.stack([normalise(image[cut].float()) for cut in cuts])[
                :, None
            ]  # (B, 1, d, h, w)
            batch = batch.to(self.precision).contiguous(memory_format=torch.channels_last_3d)
            for cut, probability in zip(cuts, self._mean_probability(batch)):
                total[cut] += probability * weight
                weights[cut] += weight
        probability = (total / weights.clamp_(min=1e-6))[tuple(slice(0, n) for n in shape)]
        return probability * torch.from_numpy(np.array(region)).to(
            self.device
        )  # no lung tumour far from the lungs

    def _mean_probability(self, batch: Tensor) -> Tensor:
        """Ask one network after another, so that the features of one are gone before the next one's: (B, d, h, w).

        Where the checkpoint says so, each is asked about the mirrored windows too, left for right.
        """
        total = torch.zeros((len(batch), *batch.shape[2:]), device=batch.device)
        for model in self.models:
            total += model(batch).float().sigmoid_()[:, 0]
            if self.mirror:
                total += model(batch.flip(-1)).float().sigmoid_()[:, 0].flip(-1)
        return total.div_(len(self.models) * (1 + self.mirror))

    def mask(
        self, volume: Volume, prepared: Prepared, probability: Tensor, threshold: float = 0.5
    ) -> np.ndarray:
        """Bring `probability` back to the scan's grid and cut it at `threshold`: uint8 (D, H, W) as `volume.hu`.

        Tumours that nowhere reach the checkpoint's `min_peak`, where it has one, are left out.
        """
        if self.min_peak > threshold:
            sure = probability.cpu().numpy().copy()
            drop_below_peak(sure, threshold, self.min_peak)
            probability = torch.from_numpy(sure).to(probability.device)
        mask = np.zeros(volume.hu.shape, np.uint8)
        inside = mask[prepared.box]
        for planes, piece in resampled_slabs(probability, inside.shape):
            inside[planes] = (piece >= threshold).to(torch.uint8).cpu().numpy()
        drop_small(inside, volume.spacing_mm)
        return mask


def predict(
    volume: Volume,
    *,
    checkpoint: str | Path | Sequence[str | Path] | None = None,
    device: str = "auto",
    threshold: float = 0.5,
    overlap: float = OVERLAP,
    predictor: Predictor | None = None,
) -> np.ndarray:
    """Segment the lung tumours of `volume`: uint8 (D, H, W) of 0 and 1, as `volume.hu`.

    Without `checkpoint` the shipped weights are used: trained on synthetic scans, not for clinical use. The
    probabilities of several checkpoints are averaged; LungsegError where they were trained on other voxels. A scan that
    is too large for one window is cut into several, which share `overlap` of a side.
    """
    predictor = predictor or Predictor(checkpoint, device)
    upright = straighten(volume)
    prepared = predictor.prepare(upright)
    probability = predictor.probabilities(prepared, overlap=overlap)
    return put_back(predictor.mask(upright, prepared, probability, threshold), upright, volume)
