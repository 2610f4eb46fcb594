"""A case to train on: its voxels on the device, and where patches of it may be centred."""

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lungseg_utils.components import list_components
from lungseg_utils.preprocess import Prepared
from lungseg_utils.runtime import LungsegError

MOST_CENTRES = 20_000


@dataclass(frozen=True)
class TrainingCase:
    """One case on the device, with the voxels that patches may be centred on.

    hu: (D, H, W) int16. label: (D, H, W) uint8. lesions: of each lesion its voxels (n, 3).
    elsewhere: voxels (n, 3) of the region. hard_examples: like lesions, of what a network has
    missed or wrongly marked. is_crop: a piece of a chest. set_number: which of several sets it is
    of.
    """

    name: str
    hu: Tensor
    label: Tensor
    lesions: list[Tensor]
    elsewhere: Tensor
    hard_examples: list[Tensor] = field(default_factory=list)
    is_crop: bool = False
    set_number: int = 0


def make_training_case(case: Prepared, device: torch.device | str = "cpu") -> TrainingCase:
    """Put a prepared case on `device` and list the centres for its patches; needs a label."""
    if case.label is None:
        raise LungsegError(case.name, "it has no label", "Train on labelled cases only")
    covered = float(np.asarray(case.label).mean())
    if covered > 0.5 and not case.is_crop:
        raise LungsegError(
            case.name,
            f"its label covers {covered:.0%} of the lungs' box: inverted, or no tumour",
            "Mark the tumour with 1 and everything else with 0",
        )
    lesions = list_components(case.label)
    whole = [lesion for lesion in lesions if len(lesion) > 2]  # resampling splits off crumbs
    return TrainingCase(
        name=case.name,
        hu=_as_tensor(case.hu).to(device),
        label=_as_tensor(case.label).to(device),
        lesions=[_thin_out(lesion) for lesion in whole or lesions],
        elsewhere=_thin_out(np.argwhere(np.asarray(case.region) > 0)),
        is_crop=case.is_crop,
    )


def _as_tensor(array: np.ndarray) -> Tensor:
    """Share the memory of `array`: what the cache maps stays on the disk until a patch needs it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot be written to: nobody does
        return torch.from_numpy(np.asarray(array))


def _thin_out(voxels: np.ndarray) -> Tensor:
    """Return about MOST_CENTRES of `voxels` (n, 3) at most, in memory of their own."""
    return torch.from_numpy(voxels[:: max(1, len(voxels) // MOST_CENTRES)].copy())
