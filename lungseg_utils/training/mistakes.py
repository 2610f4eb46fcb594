"""Hard examples: where a network is wrong on the scans that it trains on, so that patches can be drawn there.

Felzenszwalb et al. (2010) mine hard negatives so; here what was missed counts as well as what was wrongly marked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lungseg_utils.patches import Source
from lungseg_utils.prediction import Predictor
from lungseg_utils.preprocess import Prepared
from lungseg_utils.runtime import progress
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import processes
from lungseg_utils.training.settings import TrainingConfig

LEAST_OVERLAP = 0.5  # a lesion that is covered by less is a mistake
FEWEST_VOXELS = 5  # a component of fewer that is wrongly marked is none


def add_mistakes(sources: Sequence[Source], cases: Sequence[Prepared], model: SegUNet, config: TrainingConfig
                 ) -> list[Source]:
    """Give `sources` with the mistakes that `model` makes on their `cases`; several processes share the work."""
    device = next(model.parameters()).device
    predictor = Predictor(model=model, facts={"spacing_mm": config.spacing_mm}, device=str(device))
    numbers = range(processes.rank(), len(cases), processes.count())
    found = []
    for number in progress(numbers, "looking for mistakes"):
        marked = (predictor.probabilities(cases[number]) >= 0.5).cpu().numpy()
        found.append((number, find_mistakes(np.array(cases[number].label), marked)))
    found = dict(processes.gather(found))
    return [dataclasses.replace(source, mistakes=[torch.from_numpy(voxels) for voxels in found[number]])
            for number, source in enumerate(sources)]


def find_mistakes(label: np.ndarray, marked: np.ndarray) -> list[np.ndarray]:
    """List the voxels (n, 3) of each lesion of `label` that `marked` misses by half, and of each mark on no lesion."""
    lesions = [voxels for voxels, share in _components(label, marked) if share < LEAST_OVERLAP]
    marks = [voxels for voxels, share in _components(marked, label) if not share and len(voxels) >= FEWEST_VOXELS]
    return lesions + marks


def _components(mask: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Yield the voxels (n, 3) of each component of `mask`, and the share of them that is in `other`."""
    import cc3d

    parts, count = cc3d.connected_components(np.asarray(mask, np.uint8), connectivity=26, return_N=True)
    boxes = cc3d.statistics(parts)["bounding_boxes"]
    for number in range(1, count + 1):
        voxels = np.argwhere(parts[boxes[number]] == number) + [side.start for side in boxes[number]]
        yield voxels, float((np.asarray(other)[tuple(voxels.T)] > 0).mean())
