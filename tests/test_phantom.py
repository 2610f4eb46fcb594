"""The synthetic chest CT: reproducible, calibrated on real chests, written as a Decathlon set."""

import hashlib
import json

import numpy as np
import pytest
from helpers_phantom import along, cube

from lungseg_utils import volume
from lungseg_utils.phantom import (
    is_of_another_version,
    make_case,
    remove_dataset,
    scanner,
    synthesise,
    tumours,
    write_dataset,
)
from lungseg_utils.phantom.calibration import REAL, measure_lungs, measure_nodules
from lungseg_utils.phantom.fields import Canvas
from lungseg_utils.runtime import LungsegError


@pytest.fixture(scope="module")
def chests():
    return [synthesise(seed, spacing_mm=(3.0, 2.5, 2.5)) for seed in range(900, 912)]


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("phantom") / "set", cases=2, test_cases=1, seed=3)


def _hashes(folder):
    return {
        p.relative_to(folder): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


# --- one case -------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_voxels_and_another_seed_others():
    first, again, other = (make_case(seed) for seed in (5, 5, 6))
    assert np.array_equal(first[0].hu, again[0].hu) and np.array_equal(first[1], again[1])
    assert first[0].hu.shape != other[0].hu.shape or not np.array_equal(first[0].hu, other[0].hu)


def test_a_quick_case_is_a_whole_chest_of_int16_with_a_tumour_that_3_mm_voxels_show():
    scan, label = make_case(7)
    assert isinstance(scan, volume.Volume) and scan.hu.dtype == np.int16 and label.dtype == np.uint8
    assert label.shape == scan.hu.shape and set(np.unique(label)) == {0, 1}
    assert all(2.5 <= step <= 3.3 for step in scan.spacing_mm)
    assert label.sum() * np.prod(scan.spacing_mm) > 500  # mm³
    assert np.allclose(np.linalg.norm(scan.affine[:3, :3], axis=0), scan.spacing_mm)


def test_an_unknown_tier_is_refused():
    with pytest.raises(LungsegError, match="tier.*quick, medium, full"):
        make_case(0, tier="huge")


def test_slices_much_thicker_than_wide_are_painted_in_thinner_ones(monkeypatch):
    """Else a vessel of 4 mm, thin beside the slice, would be drawn one voxel of 0.7 mm wide."""
    seen = []
    monkeypatch.setattr(
        scanner, "average_slices", lambda hu, slabs: seen.append(slabs) or hu[::slabs]
    )
    for spacing_mm in ((2.0, 2.0, 2.0), (3.0, 1.0, 1.0), (5.0, 2.0, 2.0)):
        synthesise(3, spacing_mm=spacing_mm, shape=(12, 40, 40))
    assert seen[::2] == [1, 2, 2]


def test_the_table_lies_behind_the_patient_and_never_on_him():
    grid = cube(100, 4.0)
    skin = along(grid, 1) - 40  # the patient is where it is negative
    for seed in range(4):
        canvas = Canvas(grid, grid, -1000.0)
        canvas.paint(skin, 40.0)
        before = canvas.hu.copy()
        scanner.paint_table(np.random.default_rng(seed), canvas, skin)
        assert (canvas.hu[before > -800] == before[before > -800]).all()
        changed = np.unique(np.nonzero(canvas.hu != before)[1])
        assert len(changed) and grid.axis(1)[changed].min() > 36


# --- calibration ----------------------------------------------------------------------------------


def test_lungs_are_as_large_and_as_dark_as_real_ones(chests):
    rows = [measure_lungs(chest) for chest in chests]
    low, high = REAL["lung volume (L)"]
    assert low - 1 <= np.median([row["lung volume (L)"] for row in rows]) <= high + 1
    medians = np.median([row["lung HU"] for row in rows], axis=0)
    deep, shallow = REAL["lung HU, deep inspiration"], REAL["lung HU, shallow inspiration"]
    for low, median, high in zip(deep, medians, shallow, strict=True):
        assert low - 30 <= median <= high + 30


def test_vessels_fill_as_much_of_the_lungs_as_in_real_chests(chests):
    low, high = REAL["lung above -500 HU (%)"]
    shares = [measure_lungs(chest)["lung above -500 HU (%)"] for chest in chests]
    assert low <= np.median(shares) <= high


def test_tumours_have_the_core_and_the_border_of_real_ones(chests):
    rows = [row for chest in chests for row in measure_nodules(chest)]
    for name in ("nodule core (HU)", "inside border (HU)", "outside border (HU)"):
        median = np.median([row[name] for row in rows])
        assert REAL[name][0] - 100 <= median <= REAL[name][-1] + 100, name


def test_every_chest_has_a_labelled_tumour_of_a_known_site(chests):
    for chest in chests:
        assert chest.lesions and chest.label.any()
        assert {lesion.site for lesion in chest.lesions} <= set(tumours.SITES)


# --- data set -------------------------------------------------------------------------------------


def test_the_set_has_the_decathlons_layout_with_hidden_test_labels(small_set):
    description = json.loads((small_set / "dataset.json").read_text())
    assert description["numTraining"] == 2 and description["numTest"] == 1
    assert description["test"] == ["./imagesTs/lung_003.nii.gz"]
    assert (small_set / "labelsTs" / "lung_003.nii.gz").is_file()
    for pair in description["training"]:
        scan = volume.read(small_set / pair["image"])
        label = volume.read_label(small_set / pair["label"], like=scan)
        assert label.any() and scan.hu.dtype == np.int16


def test_affines_and_orientations_vary(small_set):
    one, other = (volume.read(small_set / f"imagesTr/lung_00{k}.nii.gz").grid for k in (1, 2))
    assert one.flips != other.flips
    assert not np.allclose(one.affine[:3, 3], other.affine[:3, 3])


def test_a_complete_set_is_left_and_an_interrupted_one_is_finished(small_set, capsys):
    before = _hashes(small_set)
    write_dataset(small_set, cases=2, test_cases=1, seed=3)
    assert "complete" in capsys.readouterr().out and _hashes(small_set) == before
    (small_set / "labelsTr" / "lung_002.nii.gz").unlink()
    (small_set / "dataset.json").unlink()
    write_dataset(small_set, cases=2, test_cases=1, seed=3)
    assert _hashes(small_set) == before


def test_another_set_in_the_same_place_is_not_overwritten(small_set):
    before = _hashes(small_set)
    with pytest.raises(LungsegError, match="other parameters.*seed"):
        write_dataset(small_set, cases=2, test_cases=1, seed=4)
    assert _hashes(small_set) == before


def test_a_set_of_another_version_is_known_and_removed_without_what_else_lies_there(tmp_path):
    out = write_dataset(tmp_path / "set", cases=1, test_cases=1)
    assert not is_of_another_version(out, cases=1)
    recipe = json.loads((out / "phantom.json").read_text())
    (out / "phantom.json").write_text(json.dumps({**recipe, "version": 0}))
    assert is_of_another_version(out, cases=1) and not is_of_another_version(out, cases=2)
    (out / "imagesTr" / "notes.txt").write_text("mine")
    remove_dataset(out)
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["notes.txt"]


@pytest.mark.parametrize(
    "wrong", [{"cases": 0}, {"cases": "3"}, {"test_cases": -1}, {"seed": 1.5}, {"tier": "x"}]
)
def test_parameters_out_of_range_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(LungsegError, match=next(iter(wrong))):
        write_dataset(tmp_path / "set", **wrong)
    assert not (tmp_path / "set").exists()
