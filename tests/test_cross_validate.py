"""`recipes/cross_validate.py`: every case is scored by its own label, whatever the files are called."""

import numpy as np
import pytest
from test_shipped_recipe import benchmark

from lungseg_utils import volume
from lungseg_utils.decathlon import Case
from lungseg_utils.evaluation import evaluate
from lungseg_utils.runtime import LungsegError

LABEL = np.zeros((8, 8, 8), np.uint8)
LABEL[2:6, 2:6, 2:6] = 1


def put(path, array):
    volume.write_nifti(path, array, np.diag([2.0, 2, 2, 1]))
    return path


def test_a_case_is_scored_by_its_own_label_wherever_it_lies(tmp_path):
    image = tmp_path / "imagesTr" / "lung_001_0000.nii.gz"
    cases = [
        Case("lung_001_0000", image, put(tmp_path / "drawn" / "lung_001.nii", LABEL)),
        Case("lung_002", image, put(tmp_path / "labelsTr" / "lung_002.nii.gz", LABEL)),
    ]
    put(tmp_path / "labelsTr" / "lung_003.nii.gz", LABEL)  # of no case
    for case in cases:
        put(
            tmp_path / "masks" / f"{case.id}.nii.gz",
            np.roll(LABEL, 1, 0) if case is cases[0] else LABEL,
        )
    labels = {case.id: case.label for case in cases}
    rows = evaluate(tmp_path / "masks", labels, tmp_path / "masks" / "metrics.csv")
    assert [(row["case"], row["dice"]) for row in rows] == [
        ("lung_001_0000", 0.75),
        ("lung_002", 1),
    ]
    assert (tmp_path / "masks" / "metrics.csv").is_file() and (
        tmp_path / "masks" / "summary.json"
    ).is_file()
    with pytest.raises(
        LungsegError, match="no label for lung_002. give each scan one mask .* and to the labels"
    ):
        evaluate(tmp_path / "masks", {cases[0].id: cases[0].label}, tmp_path / "metrics.csv")


def test_masks_of_other_scans_are_refused_before_the_training(tmp_path):
    check, case = (
        benchmark("cross_validate").require_no_others,
        Case("lung_001", tmp_path, tmp_path),
    )
    check(tmp_path / "masks", [case])
    put(tmp_path / "masks" / "lung_001.nii.gz", LABEL)
    check(tmp_path / "masks", [case])
    put(tmp_path / "masks" / "lung_009.nii.gz", LABEL)
    with pytest.raises(LungsegError, match="masks of other scans .lung_009."):
        check(tmp_path / "masks", [case])
