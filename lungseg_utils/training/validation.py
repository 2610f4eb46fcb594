"""Whole scans in training: how good a network is on those set aside, and where it is wrong."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import PartialState

from lungseg_utils.components import drop_small, list_components
from lungseg_utils.evaluation import dice, lesion_detection
from lungseg_utils.parameters import TrainingConfig
from lungseg_utils.patches import TrainingCase
from lungseg_utils.prediction import Predictor
from lungseg_utils.preprocess import Prepared
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training.distributed import gather_shares
from lungseg_utils.training.watching import count_off

MIN_OVERLAP = 0.5  # a lesion of which less is marked is a hard example


def validate(model: SegUNet, cases: Sequence[Prepared], config: TrainingConfig) -> dict:
    """Return mean Dice per case, share of lesions found, false positives a scan, on whole boxes.

    The whole way of prediction on the working grid, not a "pseudo-Dice" over patches, which
    flatters. Several processes share the cases; all return what one alone would.
    """
    if not cases:
        return {}
    rows = []
    for case, mask in _predict_share(model, cases, config, "validating: scans"):
        truth = np.array(case.label)
        drop_small(truth, case.spacing_mm)  # crumbs that resampling has split off are no lesions
        row = {"dice": dice(np.asarray(case.label), mask)}
        rows.append(row | lesion_detection(truth, mask, case.spacing_mm))
    rows = gather_shares(rows)
    found = sum(row["lesions_found"] for row in rows)
    true = sum(row["lesions_true"] for row in rows)
    return {
        "validation_dice": float(np.mean([row["dice"] for row in rows])),
        "validation_recall": found / true if true else float("nan"),
        "validation_false_positives": sum(row["false_positives"] for row in rows) / len(rows),
    }


def add_hard_examples(
    cases: Sequence[TrainingCase],
    prepared: Sequence[Prepared],
    model: SegUNet,
    config: TrainingConfig,
) -> list[TrainingCase]:
    """Return `cases` with what `model` misses or wrongly marks on them as their hard examples.

    Felzenszwalb et al. (2010) mine what was wrongly marked so; here what was missed counts as well.
    """
    predicted = _predict_share(model, prepared, config, "searching hard examples: scans")
    own = [find_hard_examples(np.asarray(case.label), mask) for case, mask in predicted]
    return [
        dataclasses.replace(case, hard_examples=[torch.from_numpy(voxels) for voxels in examples])
        for case, examples in zip(cases, gather_shares(own), strict=True)
    ]


def find_hard_examples(label: np.ndarray, marked: np.ndarray) -> list[np.ndarray]:
    """Return the voxels (n, 3) of each lesion marked less than half, and of each false positive."""

    def share(voxels: np.ndarray, mask: np.ndarray) -> float:
        return float((mask[tuple(voxels.T)] > 0).mean())

    missed = [lesion for lesion in list_components(label) if share(lesion, marked) < MIN_OVERLAP]
    false_marks = [mark for mark in list_components(marked) if not share(mark, label)]
    return missed + false_marks


def _predict_share(
    model: SegUNet, cases: Sequence[Prepared], config: TrainingConfig, description: str
) -> Iterator[tuple[Prepared, np.ndarray]]:
    """Yield this process's share of `cases`, each with its mask (D, H, W) on the working grid."""
    device = next(model.parameters()).device
    predictor = Predictor(model=model, facts={"spacing_mm": config.spacing_mm}, device=str(device))
    state = PartialState()
    share = cases[state.process_index :: state.num_processes]
    for case in count_off(share, description, len(share)):
        mask = (predictor.probabilities(case) >= 0.5).to(torch.uint8).cpu().numpy()
        drop_small(mask, case.spacing_mm)
        yield case, mask
