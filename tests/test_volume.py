"""The NIfTI reader and writer: good scans come in whole and go out on their own grid."""

import os
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungseg_utils import volume
from lungseg_utils.runtime import LungsegError
from lungseg_utils.volume.grid import CANONICAL, grid_along

REAL_CT = os.environ.get("LUNGSEG_REAL_CT")
ORIENTATIONS = [
    "".join(code) for axes in permutations(["RL", "AP", "SI"]) for code in product(*axes)
]
CODES = {
    "u1": 2,
    "i1": 256,
    "i2": 4,
    "u2": 512,
    "i4": 8,
    "u4": 768,
    "i8": 1024,
    "u8": 1280,
    "f4": 16,
    "f8": 64,
}


def chest(shape=(5, 6, 7)) -> np.ndarray:
    """Make a small (D, H, W) array that passes for a CT, no two voxels of a line alike."""
    hu = np.random.default_rng(0).integers(-100, 100, shape).astype(np.int16)
    hu[:, : shape[1] // 2] -= 850
    return hu


def affine(spacing_mm=(3.0, 0.8, 0.7), origin=(20.0, -30.0, 40.0), tilt_deg=0.0) -> np.ndarray:
    """Return (d, h, w) -> RAS mm, turned by `tilt_deg` about two axes."""
    a, turn = np.radians(tilt_deg), np.eye(4)
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_z = [[np.cos(a / 2), -np.sin(a / 2), 0], [np.sin(a / 2), np.cos(a / 2), 0], [0, 0, 1]]
    turn[:3, :3] = np.array(about_x) @ np.array(about_z)
    full = turn @ CANONICAL @ np.diag([*spacing_mm, 1])
    full[:3, 3] = origin
    return full


def save(
    path,
    hu=None,
    matrix=None,
    *,
    orientation="LPS",
    dtype="i2",
    slope=None,
    inter=0.0,
    nifti=1,
    order="<",
    sform=1,
    qform=1,
):
    """Write `hu` (D, H, W) with nibabel, independently of the writer under test."""
    hu, matrix = chest() if hu is None else hu, affine() if matrix is None else matrix
    grid = grid_along(orientation, hu.shape, matrix)
    stored = grid.on_disk(hu).transpose(2, 1, 0)
    if slope is not None:
        stored = np.rint((stored.astype(float) - inter) / slope)
    image_class = nib.Nifti1Image if nifti == 1 else nib.Nifti2Image
    header = image_class.header_class(endianness=order)
    header.set_data_dtype(np.dtype(dtype))
    image = image_class(stored.astype(dtype), None, header)
    image.header.set_xyzt_units("mm")
    image.set_qform(grid.affine, qform)
    image.set_sform(grid.affine, sform)
    image.header.set_slope_inter(slope, inter if slope is not None else None)
    nib.save(image, path)
    return path


def same_place(one: np.ndarray, other: np.ndarray) -> bool:
    return np.allclose(one, other, atol=1e-3)


@pytest.mark.fault("48 orientations")
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_gives_the_same_hu_at_the_same_place(tmp_path, orientation):
    scan = volume.read(save(tmp_path / "a.nii.gz", orientation=orientation))
    assert np.array_equal(scan.hu, chest()) and same_place(scan.affine, affine())
    assert scan.spacing_mm == pytest.approx((3.0, 0.8, 0.7)) and scan.hu.dtype == np.int16


@pytest.mark.fault("voxel types, slopes, byte orders, NIfTI-2")
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.sampled_from(["i2", "i4", "i8", "f4", "f8", "u2"]),
    st.sampled_from("<>"),
    st.sampled_from([None, 1.0, 0.5, 2.0]),
    st.sampled_from([1, 2]),
)
def test_dtype_slope_byte_order_and_version_leave_the_hu_alone(
    orientation, dtype, order, slope, nifti
):
    import tempfile

    hu = chest() // 2 * 2
    inter = -1024.0 if slope or dtype == "u2" else 0.0
    slope = 1.0 if dtype == "u2" and slope is None else slope
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nii")
        save(
            path,
            hu,
            orientation=orientation,
            dtype=dtype,
            slope=slope,
            inter=inter,
            order=order,
            nifti=nifti,
        )
        scan = volume.read(path)
        assert np.array_equal(scan.hu, hu) and scan.hu.dtype == np.int16
        volume.write_mask(Path(folder, "mask.nii.gz"), hu > 0, scan)
        stored, mask = nib.load(path), nib.load(Path(folder, "mask.nii.gz"))
        assert np.array_equal(np.asanyarray(mask.dataobj), stored.get_fdata() > 0)
        assert mask.header.sizeof_hdr == stored.header.sizeof_hdr


@pytest.mark.parametrize("sform, qform", [(1, 1), (2, 4), (1, 0), (0, 1), (0, 0)])
@pytest.mark.parametrize("orientation", ["LPS", "SAR"])
def test_a_mask_has_the_scan_s_shape_affine_and_codes(tmp_path, orientation, sform, qform, capsys):
    path = save(
        tmp_path / "a.nii.gz",
        matrix=affine(tilt_deg=9),
        orientation=orientation,
        sform=sform,
        qform=qform,
    )
    scan = volume.read(path)
    volume.write_mask(tmp_path / "mask.nii.gz", scan.hu > 0, scan)
    image, mask = nib.load(path), nib.load(tmp_path / "mask.nii.gz")
    assert mask.shape == image.shape and mask.get_data_dtype() == np.uint8
    assert np.abs(mask.affine - image.affine).max() <= 1e-6
    for key in ("sform_code", "qform_code", "srow_x", "quatern_b", "pixdim", "xyzt_units"):
        assert np.array_equal(mask.header[key], image.header[key]), key
    assert np.array_equal(np.asanyarray(mask.dataobj), np.asanyarray(image.dataobj) > 0)
    assert np.array_equal(volume.read_label(tmp_path / "mask.nii.gz", like=scan), scan.hu > 0)


def test_writing_is_deterministic_and_keeps_every_value(tmp_path):
    probability = np.random.default_rng(1).random((5, 6, 7), np.float32)
    scan = volume.read(save(tmp_path / "a.nii.gz", orientation="AIL"))
    for name in ("one.nii.gz", "two.nii.gz"):
        volume.write_map(tmp_path / name, probability, scan)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()
    stored = np.asanyarray(nib.load(tmp_path / "one.nii.gz").dataobj)
    assert np.array_equal(scan.grid.on_disk(probability).transpose(2, 1, 0), stored)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAI", "SPL"])
def test_write_nifti_stores_along_the_orientation_that_is_asked_for(tmp_path, orientation):
    volume.write_nifti(tmp_path / "a.nii.gz", chest(), affine(tilt_deg=5), orientation=orientation)
    assert "".join(nib.aff2axcodes(nib.load(tmp_path / "a.nii.gz").affine)) == orientation
    scan = volume.read(tmp_path / "a.nii.gz")
    assert np.array_equal(scan.hu, chest()) and same_place(scan.affine, affine(tilt_deg=5))


def test_values_that_are_no_integers_are_kept_as_float32(tmp_path):
    scan = volume.read(save(tmp_path / "a.nii", chest() + np.float32(0.25), dtype="f4"))
    assert scan.hu.dtype == np.float32 and np.array_equal(scan.hu, chest() + np.float32(0.25))


def test_a_header_is_read_without_the_voxels(tmp_path):
    path = save(tmp_path / "a.nii", orientation="SAR")
    path.write_bytes(path.read_bytes()[:352] + bytes(5 * 6 * 7 * 2))
    header = volume.read_header(path)
    assert header.shape == (5, 6, 7) and header.spacing_mm == pytest.approx((3.0, 0.8, 0.7))
    assert header.dtype == np.dtype("i2")


def test_stem_drops_only_the_nifti_suffix():
    assert [volume.stem(p) for p in ("x/a.b.nii.gz", "a.1.nii", "A.NII.GZ", "a.gz")] == [
        "a.b",
        "a.1",
        "A",
        "a.gz",
    ]


def test_writing_refuses_other_names_and_shapes(tmp_path):
    scan = volume.read(save(tmp_path / "a.nii"))
    with pytest.raises(LungsegError, match="must be named"):
        volume.write_mask(tmp_path / "mask.png", scan.hu > 0, scan)
    with pytest.raises(ValueError, match="does not fit"):
        volume.write_mask(tmp_path / "mask.nii", scan.hu[1:] > 0, scan)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii"]


@pytest.mark.skipif(not REAL_CT, reason="LUNGSEG_REAL_CT names no folder of real CTs")
def test_real_scans_read_in_silence_and_as_nibabel_reads_them(capsys):
    files = [
        *Path(REAL_CT).glob("*/ct.nii.gz"),
        *Path(REAL_CT).glob("lidc-nodules/images/*.nii.gz"),
    ]
    assert files
    for path in files:
        scan, image = volume.read(path), nib.as_closest_canonical(nib.load(path))
        assert np.array_equal(
            scan.hu, np.asanyarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]
        ), path
    assert capsys.readouterr().err == ""
