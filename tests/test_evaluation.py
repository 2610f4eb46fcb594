"""Metrics against a pencil, MONAI and the obvious; then the table, the summary, the intervals."""

import csv
import json
import math

import numpy as np
import pytest

from lungseg_utils import evaluation, volume
from lungseg_utils.runtime import LungsegError

SPACING_MM = (2.5, 0.8, 0.7)
EMPTY = np.zeros((8, 8, 8), bool)


def box(*slices, shape=(8, 8, 8)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*s) for s in slices)] = True
    return mask


def ball(centre, radius_mm, shape=(24, 40, 44), spacing_mm=SPACING_MM):
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    squared = sum(
        ((axis - c) * s) ** 2 for axis, c, s in zip(axes, centre, spacing_mm, strict=True)
    )
    return squared <= radius_mm**2


# --- by hand -------------------------------------------------------------------------------------


def test_dice_of_two_bars_that_share_two_voxels():
    a, b = box((0, 1), (0, 1), (0, 4)), box((0, 1), (0, 1), (2, 6))
    assert evaluation.dice(a, b) == 2 * 2 / (4 + 4)


def test_surface_dice_of_a_shifted_plate():
    """Two plates of 4 × 4 voxels, 3 mm apart: no border within 2 mm, every one within 3 mm."""
    a, b = box((2, 3), (2, 6), (2, 6)), box((3, 4), (2, 6), (2, 6))
    assert evaluation.surface_dice(a, b, (3, 1, 1), tolerance_mm=2) == 0
    assert evaluation.surface_dice(a, b, (3, 1, 1), tolerance_mm=3) == 1
    assert evaluation.hd95(a, b, (3, 1, 1)) == 3


def test_a_distance_equal_to_the_tolerance_is_within_it_whatever_the_rounding():
    a, b = box((0, 1), (0, 1), (1, 2)), box((0, 1), (0, 1), (6, 7))
    assert evaluation.surface_dice(a, b, (1, 1, 0.4), tolerance_mm=2.0) == 1


def test_hd95_takes_the_worse_direction():
    """One voxel against itself and a far one: 0 mm from its border, up to 5 mm from theirs."""
    a = box((0, 1), (0, 1), (0, 1))
    b = a | box((0, 1), (0, 1), (5, 6))
    assert evaluation.hd95(a, b, (1, 1, 1)) == pytest.approx(0.95 * 5)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (EMPTY, EMPTY, (1.0, 1.0, 0.0)),
        (box((0, 2), (0, 2), (0, 2)), EMPTY, (0.0, 0.0, math.nan)),
        (EMPTY, box((0, 2), (0, 2), (0, 2)), (0.0, 0.0, math.nan)),
    ],
)
def test_empty_masks_have_stated_results(truth, prediction, expected):
    row = evaluation.case_metrics(truth, prediction, (5, 5, 5))
    assert (row["dice"], row["nsd_2mm"], row["hd95_mm"]) == pytest.approx(expected, nan_ok=True)
    assert row["lesions_true"] == int(truth.any())
    assert row["lesions_found"] == 0
    assert row["false_positives"] == int(prediction.any())
    assert row["volume_ml_pred"] == prediction.sum() * 0.125


# --- against MONAI -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("truth", "prediction"),
    [
        (ball((12, 20, 20), 9), ball((11, 22, 21), 8)),
        (ball((12, 20, 20), 9), ball((12, 20, 20), 9) | ball((4, 6, 36), 4)),  # a false positive
        (ball((0, 0, 10), 9), ball((1, 3, 12), 7)),  # cut by the edge of the scan
        (
            np.random.default_rng(0).random((12, 13, 14)) < 0.3,
            np.random.default_rng(1).random((12, 13, 14)) < 0.3,
        ),
    ],
)
def test_metrics_equal_monai(truth, prediction):
    import torch
    from monai.metrics import DiceMetric, compute_hausdorff_distance, compute_surface_dice

    y, y_pred = (torch.from_numpy(mask)[None, None].float() for mask in (truth, prediction))
    row = evaluation.case_metrics(truth, prediction, SPACING_MM)
    assert row["dice"] == pytest.approx(DiceMetric()(y_pred, y).item(), abs=1e-6)
    assert row["nsd_2mm"] == pytest.approx(
        compute_surface_dice(y_pred, y, [2.0], include_background=True, spacing=SPACING_MM).item(),
        abs=1e-4,
    )
    assert row["hd95_mm"] == pytest.approx(
        compute_hausdorff_distance(
            y_pred, y, include_background=True, percentile=95, spacing=SPACING_MM
        ).item(),
        abs=1e-4,
    )


# --- lesions -------------------------------------------------------------------------------------


def test_lesions_touch_by_corners():
    mask = box((0, 2), (0, 2), (0, 2)) | box((2, 4), (2, 4), (2, 4))
    assert len(evaluation.lesion_detection(mask, mask, (1, 1, 1))["found"]) == 1


def test_a_lesion_is_found_from_a_tenth_of_its_volume_on():
    truth = box((0, 1), (0, 4), (0, 5))  # 20 voxels
    one, two = box((0, 1), (0, 1), (0, 1)), box((0, 1), (0, 1), (0, 2))
    assert not evaluation.lesion_detection(truth, one, (5, 5, 5))["found"][0]
    assert evaluation.lesion_detection(truth, two, (5, 5, 5))["found"][0]


def test_one_prediction_may_find_two_lesions():
    truth = box((0, 2), (0, 2), (0, 2)) | box((0, 2), (0, 2), (6, 8))
    detection = evaluation.lesion_detection(truth, box((0, 2), (0, 2), (0, 8)), (5, 5, 5))
    assert detection["found"].tolist() == [True, True]
    assert detection["volume_ml"].tolist() == [1.0, 1.0]
    assert detection["false_positives"] == 0


def test_a_false_positive_touches_no_lesion_and_has_100_mm3():
    truth = box((0, 2), (0, 2), (0, 2))
    alarm = box((5, 6), (5, 6), (4, 8))  # 4 voxels
    for spacing_mm, expected in (((1, 5, 5), 1), ((1, 5, 4.9), 0)):  # 100 and 98 mm³
        detection = evaluation.lesion_detection(truth, truth | alarm, spacing_mm)
        assert detection["false_positives"] == expected


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(LungsegError, match=r"\(8, 8, 8\).*\(8, 8, 7\)"):
        evaluation.case_metrics(EMPTY, EMPTY[..., :7], (1, 1, 1))


# --- intervals -----------------------------------------------------------------------------------


def test_bootstrap_interval_is_seeded_and_near_the_normal_one():
    values = np.random.default_rng(0).normal(0.7, 0.1, 100)
    low, high = evaluation.bootstrap_interval(values)
    half = 1.96 * values.std() / 10
    assert (low, high) == evaluation.bootstrap_interval([*values, math.nan])
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.002)
    assert evaluation.bootstrap_interval(values, confidence=0.5)[0] > low


def test_fewer_than_two_values_have_no_interval():
    assert all(math.isnan(end) for end in evaluation.bootstrap_interval([0.5]))


def test_a_paired_difference_sees_what_is_common_to_all_pairs():
    hard = np.random.default_rng(0).random(20)
    difference = evaluation.paired_difference(hard + 0.1, hard)
    assert (difference["mean"], difference["low"], difference["high"]) == pytest.approx(
        (0.1, 0.1, 0.1)
    )
    assert evaluation.paired_difference([1, math.nan, 3], [0, 0, 0])["cases"] == 2


def row(case, volume_ml, dice, found, hd95_mm=2.0):
    return {
        "case": case,
        "dice": dice,
        "nsd_2mm": dice,
        "hd95_mm": hd95_mm,
        "lesions_true": 2,
        "lesions_found": found,
        "false_positives": 1,
        "volume_ml_true": volume_ml,
        "volume_ml_pred": volume_ml,
    }


def test_summary_counts_undefined_values_and_splits_by_size():
    rows = [row("c", 30, 0.9, 2), row("a", 1, 0.0, 0, math.nan), row("b", 5, 0.6, 2)]
    summary = evaluation.summarise(rows)
    assert summary["dice"]["mean"] == pytest.approx(0.5)
    assert summary["dice"]["low"] <= 0.5 <= summary["dice"]["high"]
    assert (summary["hd95_mm"]["mean"], summary["hd95_mm"]["undefined"]) == (2.0, 1)
    assert summary["lesion_recall"]["value"] == pytest.approx(4 / 6)
    assert summary["false_positives_per_scan"]["value"] == 1
    by_size = summary["by_size"]
    assert [by_size[third]["dice"] for third in ("small", "middle", "large")] == [0.0, 0.6, 0.9]


# --- folders -------------------------------------------------------------------------------------


AFFINE = np.array([[0, 0, -0.7, 0], [0, -0.8, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1.0]])


def write(path, mask, *, affine=AFFINE, orientation="LPS"):
    path.parent.mkdir(exist_ok=True)
    volume.write_nifti(path, mask.astype(np.uint8), affine, orientation=orientation)


def test_evaluate_writes_a_row_a_case_and_a_summary(tmp_path):
    truth, prediction = ball((12, 20, 20), 9), ball((11, 22, 21), 8)
    for case in ("lung_002", "lung_001"):
        write(tmp_path / "labels" / f"{case}.nii.gz", truth)
    # stored the other way round
    write(tmp_path / "masks" / "lung_001.nii.gz", prediction, orientation="RAS")
    write(tmp_path / "masks" / "lung_002.nii", np.zeros_like(truth))
    (tmp_path / "labels" / "._lung_001.nii.gz").write_bytes(b"macOS")

    rows = evaluation.evaluate(
        tmp_path / "masks", tmp_path / "labels", tmp_path / "out" / "metrics.csv"
    )

    assert rows[0] == pytest.approx(
        {"case": "lung_001", **evaluation.case_metrics(truth, prediction, SPACING_MM)}
    )
    with open(tmp_path / "out" / "metrics.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == [
        "case",
        "dice",
        "nsd_2mm",
        "hd95_mm",
        "lesions_true",
        "lesions_found",
        "false_positives",
        "volume_ml_true",
        "volume_ml_pred",
    ]
    assert [line["case"] for line in table] == ["lung_001", "lung_002"]
    assert table[1]["hd95_mm"] == "nan"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    hd95 = summary["hd95_mm"]
    assert (summary["cases"], hd95["undefined"], hd95["low"]) == (2, 1, None)


def test_every_file_without_a_partner_is_named_at_once(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / "labels" / f"{name}.nii.gz", EMPTY)
    for name in ("b", "c", "d"):
        write(tmp_path / "masks" / f"{name}.nii.gz", EMPTY)
    with pytest.raises(LungsegError, match="no prediction for a; no label for c, d"):
        evaluation.evaluate(tmp_path / "masks", tmp_path / "labels", tmp_path / "metrics.csv")
    assert not (tmp_path / "metrics.csv").exists()


def test_a_prediction_on_another_grid_is_refused(tmp_path):
    write(tmp_path / "labels" / "a.nii.gz", EMPTY)
    moved = AFFINE.copy()
    moved[2, 3] += 2.5
    write(tmp_path / "masks" / "a.nii.gz", EMPTY, affine=moved)
    with pytest.raises(LungsegError, match="a.nii.gz"):
        evaluation.evaluate(tmp_path / "masks", tmp_path / "labels", tmp_path / "metrics.csv")


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_masks_is_named(tmp_path, folder):
    with pytest.raises(LungsegError, match="holds the masks"):
        evaluation.evaluate(tmp_path / folder, tmp_path / folder, tmp_path / "metrics.csv")
