"""`recipes/cross_validate.py`: each scan by a network that has not seen it, scored by its label."""

import csv
import json

import numpy as np
import pytest
import torch
from helpers_cases import ball, make_scan
from helpers_recipes import load_recipe

from lungseg_utils import decathlon, volume
from lungseg_utils.decathlon import Case
from lungseg_utils.evaluation import evaluate
from lungseg_utils.runtime import LungsegError

cross_validate = load_recipe("cross_validate")
LABEL = np.zeros((8, 8, 8), np.uint8)
LABEL[2:6, 2:6, 2:6] = 1
PARAMETERS = """
epochs: 1
steps_per_epoch: 1
patch_size: [8, 8, 8]
spacing_mm: 6
channels: [2, 4]
device: cpu
"""


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
    masks = tmp_path / "masks"
    put(masks / "lung_001_0000.nii.gz", np.roll(LABEL, 1, 0))
    put(masks / "lung_002.nii.gz", LABEL)
    labels = {case.id: case.label for case in cases}
    rows = evaluate(masks, labels, masks / "metrics.csv")
    scores = [(row["case"], row["dice"]) for row in rows]
    assert scores == [("lung_001_0000", 0.75), ("lung_002", 1)]
    assert (masks / "metrics.csv").is_file() and (masks / "summary.json").is_file()
    with pytest.raises(
        LungsegError, match="no label for lung_002. Give each scan one mask .* and to the labels"
    ):
        evaluate(masks, {cases[0].id: cases[0].label}, tmp_path / "metrics.csv")


def test_masks_of_other_scans_are_refused_before_the_training(tmp_path):
    masks = tmp_path / "masks"
    cases = [Case("lung_001", tmp_path, tmp_path)]
    cross_validate.require_no_others(masks, cases)
    put(masks / "lung_001.nii.gz", LABEL)
    cross_validate.require_no_others(masks, cases)
    put(masks / "lung_009.nii.gz", LABEL)
    with pytest.raises(LungsegError, match="masks of other scans .lung_009."):
        cross_validate.require_no_others(masks, cases)


@pytest.fixture
def dataset(tmp_path):
    """A set of two patients, a scan each."""
    root = tmp_path / "Toy"
    names = ["toy_0", "toy_1"]
    for seed, name in enumerate(names):
        hu = np.random.default_rng(seed).integers(-900, 200, (20, 22, 24)).astype(np.int16)
        label = ball(hu.shape, (10, 11, 12), 4).astype(np.uint8)
        affine = make_scan(hu).affine
        volume.write_nifti(root / "imagesTr" / f"{name}.nii.gz", hu, affine)
        volume.write_nifti(root / "labelsTr" / f"{name}.nii.gz", label, affine)
    folders = {"image": "imagesTr", "label": "labelsTr"}
    content = {
        "name": "Toy",
        "modality": {"0": "CT"},
        "numTraining": 2,
        "labels": {"0": "background", "1": "cancer"},
        "training": [
            {key: f"{folder}/{name}.nii.gz" for key, folder in folders.items()} for name in names
        ],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_each_scan_is_segmented_by_the_fold_that_has_not_seen_it(
    dataset, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path))
    (tmp_path / "tiny.yaml").write_text(PARAMETERS)
    command = [str(dataset), "-f", str(tmp_path / "tiny.yaml"), "--runs", str(tmp_path / "fold")]
    cross_validate.main(command)
    printed = capsys.readouterr().out
    masks = tmp_path / "fold_masks"
    assert len(list(masks.glob("*.nii.gz"))) == 2
    with open(masks / "metrics.csv", newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["toy_0", "toy_1"]
    for fold in (0, 1):
        settings = json.loads((tmp_path / f"fold{fold}" / "config.json").read_text())
        _, unseen = decathlon.split(decathlon.load(dataset), fold=fold, seed=0)
        assert settings["validation_cases"] == [case.id for case in unseen]
        assert f"fold {fold}: {unseen[0].id}, " in printed
    weights = {path: path.read_bytes() for path in tmp_path.glob("fold?/last.pt")}
    monkeypatch.setattr(torch.optim.AdamW, "step", None)  # finished folds are not trained again
    cross_validate.main(command)
    assert len(weights) == 2 and all(path.read_bytes() == old for path, old in weights.items())
