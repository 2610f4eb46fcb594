"""Whole scans in training: what a network is worth on those set aside, and where it is wrong on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from lungseg_utils.components import drop_small, list_components
from lungseg_utils.patches import Source
from lungseg_utils.prediction import Predictor
from lungseg_utils.preprocess import Prepared
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training import distributed
from lungseg_utils.training.config import TrainingConfig

MIN_OVERLAP = 0.5  # a lesion of which less is marked is a mistake


def validate(model: SegUNet, cases: Sequence[Prepared], config: TrainingConfig) -> dict:
    """Give the mean Dice per case, the share of lesions found and false positives a scan, on whole lung boxes.

    The whole path of prediction on the working grid, not a "pseudo-Dice" over patches, which flatters.
    """
    from lungseg_utils.evaluation import dice, lesion_detection

    if not cases:
        return {}
    rows = []
    for case, mask in _predict_share(model, cases, config):
        truth = np.array(case.label)
        drop_small(truth, case.spacing_mm)  # crumbs that resampling has split off are no lesions
        rows.append(
            {"dice": dice(case.label, mask)} | lesion_detection(truth, mask, case.spacing_mm)
        )
    rows = distributed.gather(rows)
    found, true = (sum(row[name] for row in rows) for name in ("lesions_found", "lesions_true"))
    return {
        "validation_dice": float(np.mean([row["dice"] for row in rows])),
        "validation_recall": found / true if true else float("nan"),
        "validation_false_positives": sum(row["false_positives"] for row in rows) / len(rows),
    }


def add_hard_examples(
    sources: Sequence[Source], cases: Sequence[Prepared], model: SegUNet, config: TrainingConfig
) -> list[Source]:
    """Give `sources` with the mistakes that `model` makes on their `cases`.

    Patches drawn there are hard examples: Felzenszwalb et al. (2010) mine what was wrongly marked so; here what was
    missed counts as well.
    """
    share = [
        find_hard_examples(case.label, mask) for case, mask in _predict_share(model, cases, config)
    ]
    found: list = [None] * len(cases)
    everyone = distributed.gather([share])
    for rank, mistakes in enumerate(everyone):
        found[rank :: len(everyone)] = mistakes
    return [
        dataclasses.replace(source, hard_examples=[torch.from_numpy(voxels) for voxels in mistakes])
        for source, mistakes in zip(sources, found, strict=True)
    ]


def find_hard_examples(label: np.ndarray, marked: np.ndarray) -> list[np.ndarray]:
    """List the voxels (n, 3) of each lesion of `label` that `marked` covers less than half, and of each false mark."""

    def share(voxels: np.ndarray, mask: np.ndarray) -> float:
        return float((np.asarray(mask)[tuple(voxels.T)] > 0).mean())

    lesions = [voxels for voxels in list_components(label) if share(voxels, marked) < MIN_OVERLAP]
    return lesions + [voxels for voxels in list_components(marked) if not share(voxels, label)]


def _predict_share(
    model: SegUNet, cases: Sequence[Prepared], config: TrainingConfig
) -> Iterator[tuple[Prepared, np.ndarray]]:
    """Yield this process's share of `cases`, each with its mask (D, H, W) on the working grid."""
    device = next(model.parameters()).device
    predictor = Predictor(model=model, facts={"spacing_mm": config.spacing_mm}, device=str(device))
    for case in cases[distributed.rank() :: distributed.count()]:
        mask = (predictor.probabilities(case) >= 0.5).to(torch.uint8).cpu().numpy()
        drop_small(mask, case.spacing_mm)
        yield case, mask
