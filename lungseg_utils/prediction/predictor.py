"""A network made ready for many scans, and the whole way from a scan to its mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungseg_utils.acceleration import fold_batch_norms
from lungseg_utils.checkpoint import SHIPPED, load_networks
from lungseg_utils.components import drop_below_peak, drop_small
from lungseg_utils.prediction.windows import blending_weight, fit_window, window_positions
from lungseg_utils.preprocess import CLIP_HU, Prepared, normalise, prepare
from lungseg_utils.runtime import (
    LungsegError,
    is_out_of_memory,
    pick_device,
    pick_precision,
    warn,
)
from lungseg_utils.segunet import SegUNet
from lungseg_utils.volume import Volume

OVERLAP = 0.25  # of a window's side, where one window cannot hold the lungs
# The network's widest features in one window, in bytes; it needs about ten times that in all.
LARGEST_FEATURES = {"cpu": 2**27, "cuda": 2**29, "mps": 2**28}
SMALLEST_FEATURES = 2**23  # a GPU that cannot hold even these is of no help


@dataclass(frozen=True)
class Segmentation:
    """What a network finds in a scan.

    mask: uint8 (D, H, W) of 0 and 1, on the scan's own grid. probability: float32 on the working
    grid of `prepared`; `prepared.back(probability)` has it on the scan's.
    """

    mask: np.ndarray
    probability: Tensor
    prepared: Prepared


class Predictor:
    """A network made ready once: weights read, batch norms folded, device and precision chosen.

    Of several checkpoints, as of a cross-validation's folds, the probabilities are averaged.
    Without any, the shipped weights are used. `precision` overrides the fastest of the device.
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
        self.wanted_precision = precision
        self.precision = precision or pick_precision(self.device)
        if model is None:
            models, facts = load_networks(SHIPPED if checkpoint in (None, "") else checkpoint)
        else:
            models = [model]
        self.facts = facts or {}
        self.models = [self._ready(fold_batch_norms(one)) for one in models]
        self.min_peak = float(self.facts.get("min_peak", 0))
        self.test_time_mirroring = bool(self.facts.get("test_time_mirroring", False))
        self.width = max(len(next(one.parameters())) for one in models)  # at full resolution

    def _ready(self, model: SegUNet) -> SegUNet:
        model = model.to(self.device, self.precision)
        return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def segment(
        self, volume: Volume, *, threshold: float = 0.5, overlap: float = OVERLAP
    ) -> Segmentation:
        """Segment the lung tumours of `volume`: prepare, predict, and back to the scan's grid."""
        prepared = self.prepare(volume)
        probability = self.probabilities(prepared, overlap=overlap)
        return Segmentation(self.mask(prepared, probability, threshold), probability, prepared)

    def prepare(self, volume: Volume) -> Prepared:
        """Prepare `volume` on the device or, where its memory is full, on the CPU."""
        spacing_mm = self.facts["spacing_mm"]
        try:
            return prepare(volume, spacing_mm=spacing_mm, device=self.device)
        except RuntimeError as error:
            if self.device.type == "cpu" or not is_out_of_memory(error):
                raise
        torch.accelerator.empty_cache()
        warn(f"{volume.name}: out of GPU memory; prepared on the CPU")
        return prepare(volume, spacing_mm=spacing_mm)

    def probabilities(
        self,
        prepared: Prepared,
        *,
        window: Sequence[int] | None = None,
        overlap: float = OVERLAP,
        batch_size: int = 8,
    ) -> Tensor:
        """Return the tumour probability, float32 (D, H, W), on the working grid; 0 off the region.

        Without `window` the whole grid is one, as no seam is the best seam, or a few where memory
        forbids it. `batch_size` is the most windows at a time. Raises LungsegError where the
        weights compute no finite numbers.
        """
        hu = torch.from_numpy(np.array(prepared.hu))
        region = np.asarray(prepared.region)
        features = LARGEST_FEATURES[self.device.type]
        is_last_resort = False
        while True:
            try:
                image = hu.to(self.device)
                probability = self._blend(image, region, window, overlap, batch_size, features)
                _require_finite(probability, prepared.name)
                return probability
            except (RuntimeError, MemoryError) as error:
                if is_last_resort or not is_out_of_memory(error):
                    raise
            if self.device.type != "cpu":  # not above: the error would still hold the tensors
                torch.accelerator.empty_cache()
            if features > SMALLEST_FEATURES:
                features //= 8
                warn(f"{prepared.name}: out of memory; continuing with less at a time")
            else:
                warn(f"{prepared.name}: out of memory; continuing on the CPU")
                self._move_to_cpu()
                features = LARGEST_FEATURES["cpu"]
                is_last_resort = True

    def _move_to_cpu(self) -> None:
        self.device = torch.device("cpu")
        self.precision = self.wanted_precision or pick_precision(self.device)
        self.models = [self._ready(model) for model in self.models]

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
        """Predict the windows of `image` (D, H, W) that hold any of `region`, and blend them."""
        shape = image.shape
        # the voxels a side (d, h, w) that the networks pool into one
        pooling = np.lcm.reduce([np.prod(model.pools, axis=0) for model in self.models]).tolist()
        voxels = features / (self.width * self.precision.itemsize)
        if window is None:
            window = fit_window(shape, pooling, overlap, voxels)
        # One window takes a side as it is; several are whole poolings, and so is what they cover.
        whole = [-(-side // step) * step for side, step in zip(window, pooling)]
        window = [size if size <= side else side for size, side in zip(shape, whole)]
        pad = [0 if n == side else -n % step for n, side, step in zip(shape, window, pooling)]
        image = F.pad(image, (0, pad[2], 0, pad[1], 0, pad[0]), value=CLIP_HU[0])
        weight = blending_weight(window).to(self.device)
        total = torch.zeros(image.shape, device=self.device)
        weights = torch.zeros(image.shape, device=self.device)
        places = window_positions(region, image.shape, window, overlap, pooling)
        batch_size = max(1, min(batch_size, int(voxels // np.prod(window))))
        for first in range(0, len(places), batch_size):
            own = places[first : first + batch_size]
            batch = torch.stack([normalise(image[place].float()) for place in own])[:, None]
            batch = batch.to(self.precision).contiguous(memory_format=torch.channels_last_3d)
            for place, probability in zip(own, self._mean_probability(batch)):
                total[place] += probability * weight
                weights[place] += weight
        probability = total / weights.clamp_(min=1e-6)
        probability = probability[tuple(slice(0, size) for size in shape)]
        return probability * torch.from_numpy(np.array(region)).to(self.device)

    def _mean_probability(self, batch: Tensor) -> Tensor:
        """Return the mean over networks and mirrorings, (B, d, h, w), one network after another."""
        total = torch.zeros((len(batch), *batch.shape[2:]), device=batch.device)
        for model in self.models:
            total += model(batch).float().sigmoid_()[:, 0]
            if self.test_time_mirroring:  # left for right
                total += model(batch.flip(-1)).float().sigmoid_()[:, 0].flip(-1)
        return total.div_(len(self.models) * (2 if self.test_time_mirroring else 1))

    def mask(self, prepared: Prepared, probability: Tensor, threshold: float = 0.5) -> np.ndarray:
        """Return the mask of what reaches `threshold`: uint8 (D, H, W), on the scan's own grid.

        Tumours that nowhere reach the checkpoint's `min_peak` are left out, and small ones.
        """
        assert prepared.scan is not None, "a cached scan has no way back"
        if self.min_peak > threshold:
            certain = probability.cpu().numpy().copy()
            drop_below_peak(certain, threshold, self.min_peak)
            probability = torch.from_numpy(certain).to(probability.device)
        mask = prepared.back(probability, threshold)
        drop_small(mask, prepared.scan.spacing_mm)
        return mask


def _require_finite(probability: Tensor, name: str) -> None:
    if not torch.isfinite(probability).all():
        raise LungsegError(
            name,
            "the network computes values that are not finite: its weights are bad",
            "Use another checkpoint, or train it again",
        )


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

    Without `checkpoint` the shipped weights are used; "synthetic" are those of them that have seen
    no patient. Neither is for clinical use. The probabilities of several checkpoints are averaged;
    LungsegError where they were trained on other voxels. A scan that is too large for one window is
    cut into several, which share `overlap` of a side.
    """
    predictor = predictor or Predictor(checkpoint, device)
    return predictor.segment(volume, threshold=threshold, overlap=overlap).mask
