"""The fast path agrees with a slow, plain one; and one scan gives one mask, however it is stored."""

import struct
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers_cases import make_scan
from pydicom import dcmread
from scipy import ndimage
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation
from test_dicom import make_slice

from lungseg_utils import phantom, prediction, volume
from lungseg_utils.checkpoint import SHIPPED, load_weights
from lungseg_utils.prediction import Predictor, drop_small, predict, predict_files
from lungseg_utils.preprocess import normalise, prepare, resample
from lungseg_utils.preprocess.oblique import put_back, straighten, tilt_degrees
from lungseg_utils.volume.grid import grid_along

# orientation, stored type, slope and intercept (None: values as they are)
STORES = [
    ("RAS", "int16", None),
    ("LPS", "float32", None),
    ("LAS", "uint16", (1, -1024)),
    ("RPI", "int32", None),
    ("SAL", "float64", None),
    ("PSR", "int16", (0.5, -1024)),
    ("IRP", "uint16", (0.25, -1100)),
    ("ASL", "uint32", (1, -1024)),
    ("LIP", "int64", None),
    ("AIR", "int32", (0.1, 0)),
    ("SRA", "float32", (2.0, -1024)),
    ("PLI", "int16", (1, 0)),
]


@pytest.fixture(scope="module")
def scan():
    return phantom.make_case(3, tier="quick")[0]


@pytest.fixture(scope="module")
def predictor():
    return Predictor(device="cpu")


def agreement(one, other) -> float:
    """Give the Dice of two masks; neither may be empty, or there would be nothing to agree on."""
    one, other = np.asarray(one) > 0, np.asarray(other) > 0
    assert one.sum() > 100 and other.sum() > 100
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


# --- fast and slow ---------------------------------------------------------------------------------------------


def slow_mask(scan, side=160, checkpoint=SHIPPED) -> np.ndarray:
    """Segment plainly: fp32, batch norms left alone, cube after cube over the whole box, blended by a Gaussian.

    Cubes overlap by half where the box is larger than one; probabilities go back to the scan's grid in one piece.
    """
    model, facts = load_weights(checkpoint)
    ready = prepare(scan, spacing_mm=facts["spacing_mm"])
    image = normalise(torch.from_numpy(ready.hu).float())
    sides = [min(side, n) for n in image.shape]
    starts = [[0] if n <= side else [*range(0, n - side // 2, side // 2)] for n in image.shape]
    more = [starts[a][-1] + sides[a] - image.shape[a] for a in range(3)]
    image = F.pad(image, (0, more[2], 0, more[1], 0, more[0]), value=-1.0)
    bells = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in sides]
    bell = (bells[0][:, None, None] * bells[1][:, None] * bells[2]).clamp(min=1e-4)
    total, weights = torch.zeros_like(image), torch.zeros_like(image)
    for corner in np.stack(np.meshgrid(*starts), -1).reshape(-1, 3):
        cube = tuple(slice(c, c + n) for c, n in zip(corner, sides))
        with torch.no_grad():
            seen = torch.sigmoid(model(image[cube][None, None]))[0, 0]
            if facts.get("mirror"):
                seen = (
                    seen + torch.sigmoid(model(image[cube].flip(2)[None, None]))[0, 0].flip(2)
                ) / 2
        total[cube] += seen * bell
        weights[cube] += bell
    probability = (total / weights)[tuple(slice(0, n) for n in ready.hu.shape)] * torch.from_numpy(
        ready.region
    )
    parts, count = ndimage.label(probability >= 0.5, np.ones((3, 3, 3)))
    for number in range(1, count + 1):
        part = torch.from_numpy(parts == number)
        if probability[part].max() < facts.get("min_peak", 0):
            probability[part] = 0
    mask = np.zeros(scan.hu.shape, np.uint8)
    size = mask[ready.box].shape
    mask[ready.box] = resample(probability, size) >= 0.5
    drop_small(mask, scan.spacing_mm)
    return mask


@pytest.mark.parametrize("seed", [3, 7])
def test_the_fast_path_agrees_with_the_slow_one(seed, predictor):
    scan, _ = phantom.make_case(seed, tier="quick")
    assert agreement(predict(scan, predictor=predictor), slow_mask(scan)) >= 0.995


def test_the_fast_path_agrees_with_the_slow_one_on_a_real_scan(real_ct, predictor):
    scan = volume.read(real_ct / "lung1-001" / "ct.nii.gz")
    assert agreement(predict(scan, predictor=predictor), slow_mask(scan)) >= 0.995


def test_windows_for_want_of_memory_change_little(scan, predictor, monkeypatch):
    whole = predict(scan, predictor=predictor)
    monkeypatch.setitem(
        prediction.LARGEST_FEATURES, "cpu", 96**3 * predictor.width * predictor.precision.itemsize
    )
    assert agreement(predict(scan, predictor=predictor), whole) >= 0.9


# --- one scan, stored in many ways -----------------------------------------------------------------------------


def store(path, scan, orientation, dtype, scaling):
    """Write a scan by nibabel along other axes and as other numbers; slope and intercept go straight into the file."""
    slope, intercept = scaling or (0, 0)
    stored = (scan.hu.transpose(2, 1, 0).astype(np.float64) - intercept) / (slope or 1)
    stored = np.rint(stored) if np.dtype(dtype).kind in "iu" else stored
    image = nib.Nifti1Image(stored, scan.affine[:, [2, 1, 0, 3]])
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(orientation)
    )
    image = image.as_reoriented(turn)
    kind, place, real = (
        (nib.Nifti2Image, 176, "<2d") if orientation == "LIP" else (nib.Nifti1Image, 112, "<2f")
    )
    content = bytearray(kind(image.get_fdata().astype(dtype), image.affine, dtype=dtype).to_bytes())
    struct.pack_into(real, content, place, slope, intercept)
    path.write_bytes(content)


def in_world(path) -> np.ndarray:
    return np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)


def test_one_scan_stored_in_twelve_ways_gives_one_mask_in_the_world(scan, predictor, tmp_path):
    """What the network gets is the same to the voxel, so that one prediction stands for all."""
    mask = predict(scan, predictor=predictor)
    volume.write_mask(tmp_path / "mask.nii.gz", mask, scan)
    expected = in_world(tmp_path / "mask.nii.gz")
    for orientation, dtype, scaling in STORES:
        store(tmp_path / "ct.nii", scan, orientation, dtype, scaling)
        again = volume.read(tmp_path / "ct.nii")
        assert np.array_equal(again.hu, scan.hu) and again.hu.dtype == np.int16, orientation
        assert np.allclose(again.affine, scan.affine, atol=1e-3) and np.allclose(
            again.spacing_mm, scan.spacing_mm
        )
        volume.write_mask(tmp_path / "out.nii.gz", mask, again)
        assert nib.aff2axcodes(nib.load(tmp_path / "out.nii.gz").affine) == tuple(orientation)
        assert agreement(in_world(tmp_path / "out.nii.gz"), expected) >= 0.999, orientation


def resampled(array, source, target, shape, outside) -> np.ndarray:
    matrix = np.linalg.inv(source) @ target
    return affine_transform(
        array.astype(np.float32), matrix[:3, :3], matrix[:3, 3], shape, order=1, cval=outside
    )


def scan_on(hu, spacing_mm, affine):
    return replace(
        make_scan(hu, spacing_mm), affine=affine, grid=grid_along("LPS", hu.shape, affine)
    )


def leaning(scan, degrees):
    """Store a scan on a grid that is turned about two of the patient's axes."""
    turn, middle = np.eye(4), np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zx", [degrees, degrees / 2], degrees=True).as_matrix()
    middle[:3, 3] = (scan.affine @ [*((np.array(scan.hu.shape) - 1) / 2), 1])[:3]
    affine = middle @ turn @ np.linalg.inv(middle) @ scan.affine
    hu = np.rint(resampled(scan.hu, scan.affine, affine, scan.hu.shape, -1024)).astype(np.int16)
    return scan_on(hu, scan.spacing_mm, affine)


@pytest.mark.parametrize("seed", [3, 11])
def test_an_oblique_scan_gives_the_same_mask(seed, predictor):
    """Voxels of 1.5 mm, as turning coarse ones would blur the tumour itself; chests in which the network is sure.

    Where it is not, the blur of resampling twice can tip a small component over the threshold.
    """
    scan = phantom.make_case(seed)[0]
    half = np.diag([0.5, 0.5, 0.5, 1.0])
    half[:3, 3] = -0.25
    shape = tuple(2 * n for n in scan.hu.shape)
    hu = np.rint(resampled(scan.hu, np.eye(4), half, shape, -1024)).astype(np.int16)
    straight = scan_on(hu, tuple(mm / 2 for mm in scan.spacing_mm), scan.affine @ half)
    oblique = leaning(straight, 10)
    mask = predict(oblique, predictor=predictor)
    back = resampled(mask, oblique.affine, straight.affine, shape, 0) >= 0.5
    assert agreement(back, predict(straight, predictor=predictor)) >= 0.95


def test_a_scan_that_hardly_leans_is_left_as_it_is_and_others_come_back_where_they_were():
    scan = phantom.make_case(3, tier="quick")[0]
    assert straighten(scan) is scan and straighten(slightly := leaning(scan, 1.5)) is slightly
    oblique = leaning(scan, 12)
    upright = straighten(oblique)
    assert tilt_degrees(oblique) == pytest.approx(13.4, abs=0.5) and tilt_degrees(upright) == 0
    box = tuple(slice(n // 3, n // 2) for n in oblique.hu.shape)
    mask = np.zeros(oblique.hu.shape, np.uint8)
    mask[box] = 1
    there = resampled(mask, oblique.affine, upright.affine, upright.hu.shape, 0) >= 0.5
    assert agreement(put_back(there.astype(np.uint8), upright, oblique), mask) > 0.97


# --- DICOM and NIfTI -------------------------------------------------------------------------------------------


def same_from_both(series, nifti, out):
    """Predict a series and its NIfTI twin; give the two masks and the SEG read by highdicom, with its raw frames."""
    import highdicom

    list(predict_files([series], out / "dicom.nii.gz", device="cpu", dicom_seg=True))
    list(predict_files([nifti], out / "nifti.nii.gz", device="cpu"))
    one, other = (in_world(out / f"{name}.nii.gz") for name in ("dicom", "nifti"))
    segmentation = highdicom.seg.segread(out / "dicom.dcm")
    files = sorted(
        (dcmread(p, stop_before_pixels=True) for p in series.iterdir()),
        key=lambda d: float(d.ImagePositionPatient[2]),
    )
    frames = segmentation.get_pixels_by_source_instance(
        [d.SOPInstanceUID for d in files], combine_segments=True
    )
    raw = dcmread(out / "dicom.dcm").pixel_array
    return one, other, frames, raw


def test_a_dicom_series_and_its_nifti_give_identical_masks_and_the_seg_reads_back(scan, tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    depth, rows = scan.spacing_mm[0], scan.spacing_mm[1:]
    for k, plane in enumerate(scan.hu):
        one = make_slice(
            np.clip(plane, -1024, None), np.array([-5.0, -6.0, 7.0 + k * depth]), number=k
        )
        one.PixelSpacing, one.SliceThickness = [round(mm, 6) for mm in rows], depth
        one.save_as(series / f"{(k * 37) % 997:03d}.dcm")
    read = volume.read(series)
    volume.write_nifti(tmp_path / "ct.nii.gz", read.hu, read.affine, orientation="RAS")
    assert np.array_equal(read.hu, np.clip(scan.hu, -1024, None))
    one, other, frames, raw = same_from_both(series, tmp_path / "ct.nii.gz", tmp_path)
    assert one.sum() > 100 and np.array_equal(one, other)
    assert np.array_equal(frames[:, ::-1, ::-1].transpose(2, 1, 0), one)  # LPS, slices upwards
    assert raw.sum() == one.sum()


def test_the_real_series_and_its_nifti_by_another_reader_give_identical_masks(real_ct, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    series = real_ct / "lungdx-a0002-dicom" / "b40f"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    sitk.WriteImage(reader.Execute(), str(tmp_path / "ct.nii.gz"))
    one, other, frames, raw = same_from_both(series, tmp_path / "ct.nii.gz", tmp_path)
    assert np.array_equal(one, other) and np.array_equal(
        frames[:, ::-1, ::-1].transpose(2, 1, 0), one
    )
    assert raw.sum() == one.sum()
