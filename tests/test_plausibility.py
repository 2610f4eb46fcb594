"""Geometry that is visibly lost is refused or reported; children, pieces and slabs are not."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
from helpers_bodies import SPACING_MM, make_body, make_chest, scan_of
from helpers_cases import make_oblique

from lungseg_utils import phantom, volume
from lungseg_utils.preprocess import prepare
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.plausibility import check_geometry

LOST = "the header's voxel sizes are all exactly 1 mm: the geometry was lost"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def outcome(scan, capsys) -> str:
    """Return what preparing `scan` reports, warnings or a refusal."""
    try:
        prepare(scan)
    except LungsegError as error:
        return capsys.readouterr().err + f"refused: {error}"
    return capsys.readouterr().err


def through_a_file(folder, hu, affine):
    """Save a (D, H, W) array as tools do that know no geometry, and read it again."""
    image = nibabel.Nifti1Image(np.rint(hu).astype(np.int16).transpose(2, 1, 0), affine)
    nibabel.save(image, folder / "ct.nii.gz")
    return volume.read(folder / "ct.nii.gz")


@pytest.fixture
def chest():
    return make_chest()


# --- voxels of exactly 1 mm -----------------------------------------------------------------------


@pytest.mark.fault("geometry that is visibly lost")
@pytest.mark.parametrize("affine", [np.eye(4), LPS, None], ids=["identity", "LPS", "none"])
@pytest.mark.parametrize("factor", [1, 3], ids=["coarse", "fine"])
def test_an_identity_affine_is_reported_with_the_file_and_a_remedy(
    tmp_path, capsys, chest, affine, factor
):
    fine = chest.repeat(factor, axis=1).repeat(factor, axis=2)
    said = outcome(through_a_file(tmp_path, fine, affine), capsys)
    assert LOST in said and "probably by saving the array with an identity affine" in said
    assert str(tmp_path / "ct.nii.gz") in said and "Save it with the affine of the scan" in said


@pytest.mark.fault("geometry that is visibly lost")
def test_lungs_that_are_far_too_flat_for_voxels_of_1_mm_are_refused(tmp_path, chest):
    fine = chest.repeat(4, axis=1).repeat(4, axis=2)  # 1 x 1 mm, but slices 4 mm apart
    affine = LPS.copy()
    affine[:3, 3] = 123, 45, -67
    with pytest.raises(LungsegError, match=f"lungs of .* mm high: {LOST}"):
        prepare(through_a_file(tmp_path, fine, affine))


def test_a_body_without_lungs_is_reported_too(tmp_path, capsys):
    assert LOST in outcome(through_a_file(tmp_path, make_body(), np.eye(4)), capsys)


def test_a_scan_that_truly_has_voxels_of_1_mm_is_not_doubted(tmp_path, capsys, chest):
    fine = chest.repeat(4, axis=0).repeat(4, axis=1).repeat(4, axis=2)
    affine = LPS.copy()
    affine[:3, 3] = 200, 150, -340
    assert outcome(through_a_file(tmp_path, fine, affine), capsys) == ""


def test_a_cube_round_a_tumour_without_an_origin_is_not_doubted(tmp_path, capsys, chest):
    fine = chest.repeat(4, axis=0).repeat(4, axis=1).repeat(4, axis=2)
    cube = fine[70:162, 40:132, 60:152]
    said = outcome(through_a_file(tmp_path, cube, LPS), capsys)
    assert said == "warning: ct: no lungs found; the whole scan is searched\n"


# --- axes -----------------------------------------------------------------------------------------


@pytest.mark.fault("geometry that is visibly lost")
@pytest.mark.parametrize(
    ("axes", "direction"),
    [((2, 1, 0), "left to right"), ((1, 0, 2), "front to back"), ((1, 2, 0), "left to right")],
    ids=["zyx", "zxy", "yzx"],
)
@pytest.mark.parametrize("unit", [True, False])
def test_arrays_in_another_order_are_refused(tmp_path, chest, axes, direction, unit):
    hu = chest.repeat(4, axis=1).repeat(4, axis=2) if unit else chest
    affine = LPS if unit else np.diag([*SPACING_MM, 1])
    with pytest.raises(LungsegError, match=f"runs from {direction}, not from foot to head: ") as e:
        prepare(through_a_file(tmp_path, hu.transpose(axes), affine))
    assert (LOST in str(e.value)) == unit


@pytest.mark.fault("geometry that is visibly lost")
def test_a_body_that_is_turned_in_its_slices_is_reported(capsys, chest):
    assert "it is turned" in outcome(scan_of(np.rot90(chest, axes=(1, 2))), capsys)


@pytest.mark.fault("geometry that is visibly lost")
def test_a_spine_in_front_is_reported(capsys, chest):
    assert "the spine lies in front" in outcome(scan_of(chest[:, ::-1]), capsys)


@pytest.mark.fault("geometry that is visibly lost")
@pytest.mark.parametrize("seed", range(3))
def test_phantoms_that_are_flipped_are_reported(capsys, seed):
    scan, _ = phantom.make_case(seed, tier="quick")
    assert outcome(scan, capsys) == ""
    back_to_front = outcome(replace(scan, hu=scan.hu[:, ::-1].copy()), capsys)
    assert "the spine lies in front" in back_to_front
    upside_down = outcome(replace(scan, hu=scan.hu[::-1].copy()), capsys)
    assert "upside down: the slices are in reverse order" in upside_down


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.fault("geometry that is visibly lost")
@pytest.mark.parametrize("depth_mm", [1.0, 9.0])
def test_a_wrong_slice_spacing_is_reported(capsys, depth_mm):
    scan, _ = phantom.make_case(1, tier="quick")
    wrong = scan_of(scan.hu, (depth_mm, *scan.spacing_mm[1:]))
    said = outcome(wrong, capsys)
    assert f"the header's voxels ({depth_mm:g} x" in said


def test_lungs_flatter_than_any_are_refused():
    scan, _ = phantom.make_case(1, tier="quick")
    with pytest.raises(LungsegError, match="lungs of .* mm high: the header's voxels"):
        prepare(scan_of(scan.hu, (0.6, *scan.spacing_mm[1:])))


def test_a_body_of_five_centimetres_is_reported(capsys):
    scan, _ = phantom.make_case(1, tier="quick")
    assert "mm wide and" in outcome(scan_of(scan.hu, (0.3, 0.3, 0.3)), capsys)


@pytest.mark.fault("geometry that is visibly lost")
@pytest.mark.parametrize("share", [0.35, 0.6, 1.2], ids=["newborn", "child", "tall adult"])
def test_people_of_every_size_are_let_through(capsys, share):
    scan, _ = phantom.make_case(2, tier="quick")
    spacing_mm = tuple(share * side for side in scan.spacing_mm)
    assert outcome(scan_of(scan.hu, spacing_mm), capsys) == ""


@pytest.mark.fault("geometry that is visibly lost")
@pytest.mark.parametrize(
    "part",
    [
        np.s_[28:32],
        np.s_[20:40, :, 20:60],
        np.s_[20:40, 20:60, 10:40],
        np.s_[:, 34:42, 25:36],
        np.s_[:, :, 40:60],
        np.s_[:, :, 50:51],
        np.s_[:, 30:45],
    ],
    ids=["slab", "half", "piece", "column", "sagittal slab", "sagittal slice", "coronal slab"],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_pieces_and_slabs_are_never_refused(capsys, chest, part, padding):
    hu = np.pad(chest[part], padding, constant_values=-1000)
    assert "refused" not in outcome(scan_of(hu), capsys)


def test_an_oblique_scan_is_not_doubted(capsys):
    scan, _ = phantom.make_case(0, tier="quick")
    assert outcome(make_oblique(scan, 14), capsys) == ""


def test_a_scan_of_nothing_dense_passes(capsys):
    check_geometry(scan_of(np.full((8, 9, 10), -1000.0)))
    assert capsys.readouterr().err == ""


# --- real scans -----------------------------------------------------------------------------------

REAL = (
    "lung1-001",
    "ibsi-pat3",
    "lidc-0001-slab",
    "pyrad-lung1",
    "flt-breast-001-b",
    "ts-abdomen",
    "uiip-001",
    "uiip-002",
)


@pytest.mark.parametrize("name", REAL)
def test_real_scans_are_not_doubted_but_without_their_affine_they_are(
    real_ct, tmp_path, capsys, name
):
    scan = volume.read(real_ct / name / "ct.nii.gz")
    said = outcome(scan, capsys)
    assert "header" not in said and "spine" not in said and "upside" not in said
    lost = through_a_file(tmp_path, scan.hu, np.eye(4))
    if name != "ibsi-pat3":  # a piece, which no size gives away
        assert LOST in outcome(lost, capsys)


@pytest.mark.parametrize("name", ["lung1-001", "flt-breast-001-b", "ts-abdomen", "uiip-001"])
def test_real_arrays_in_z_y_x_are_reported(real_ct, tmp_path, capsys, name):
    scan = volume.read(real_ct / name / "ct.nii.gz")
    turned = scan.hu.transpose(2, 1, 0)
    assert LOST in outcome(through_a_file(tmp_path, turned, np.eye(4)), capsys)
    spacing_mm = np.diag([*scan.spacing_mm, 1])
    assert "refused" in outcome(through_a_file(tmp_path, turned, spacing_mm), capsys)


def test_crops_round_real_tumours_are_not_doubted(real_ct, capsys):
    crops = [*sorted((real_ct / "nsclc-train" / "images").glob("*.nii.gz"))[::8]]
    crops += sorted((real_ct / "lidc-nodules" / "images").glob("*.nii.gz"))[::20]
    for crop in crops:
        said = outcome(volume.read(crop), capsys)
        assert "header" not in said and "spine" not in said, crop
