"""The fast path agrees with a slow, plain one; one scan gives one mask, however it is stored."""

import struct

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers_cases import make_oblique, make_scan, resample_linearly
from pydicom import dcmread
from scipy import ndimage
from test_dicom import make_slice

from lungseg_utils import phantom, volume
from lungseg_utils.checkpoint import SHIPPED, load_weights
from lungseg_utils.prediction import Predictor, predict, predict_files
from lungseg_utils.prediction import predictor as predicting
from lungseg_utils.preprocess import normalise, prepare, resample
from lungseg_utils.preprocess.oblique import align, resample_back, tilt_degrees

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
    """Return the Dice of two masks; neither may be empty: there would be nothing to agree on."""
    one = np.asarray(one) > 0
    other = np.asarray(other) > 0
    assert one.sum() > 100 and other.sum() > 100
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


# --- fast and slow --------------------------------------------------------------------------------


def slow_mask(scan, side=160, checkpoint=SHIPPED) -> np.ndarray:
    """Segment plainly: float32, batch norms left alone, cubes over the whole box.

    Cubes overlap by half, blended by a Gaussian, where the box is larger than one; probabilities go
    back to the scan's grid in one piece.
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
    total = torch.zeros_like(image)
    weights = torch.zeros_like(image)

    @torch.no_grad()
    def seen(cube):
        return torch.sigmoid(model(cube[None, None]))[0, 0]

    for corner in np.stack(np.meshgrid(*starts), -1).reshape(-1, 3):
        place = tuple(slice(c, c + n) for c, n in zip(corner, sides))
        probability = seen(image[place])
        if facts.get("test_time_mirroring"):
            probability = (probability + seen(image[place].flip(2)).flip(2)) / 2
        total[place] += probability * bell
        weights[place] += bell
    probability = (total / weights)[tuple(slice(0, n) for n in ready.hu.shape)]
    probability = probability * torch.from_numpy(ready.region)
    parts, count = ndimage.label(probability >= 0.5, np.ones((3, 3, 3)))
    for number in range(1, count + 1):
        part = torch.from_numpy(parts == number)
        if probability[part].max() < facts.get("min_peak", 0):
            probability[part] = 0
    mask = np.zeros(scan.hu.shape, np.uint8)
    mask[ready.box] = resample(probability, mask[ready.box].shape) >= 0.5
    parts, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    too_small = np.bincount(parts.ravel()) * np.prod(scan.spacing_mm) < 50
    mask[too_small[parts]] = 0
    return mask


def test_what_the_slow_path_heeds_is_asked_for_by_the_shipped_weights():
    """Else it would not be compared."""
    _, facts = load_weights(SHIPPED)
    assert facts["test_time_mirroring"] and 0.5 < facts["min_peak"] < 1


@pytest.mark.parametrize("seed", [3, 7])
def test_the_fast_path_agrees_with_the_slow_one(seed, predictor):
    scan, _ = phantom.make_case(seed, tier="quick")
    assert agreement(predict(scan, predictor=predictor), slow_mask(scan)) >= 0.995


def test_the_fast_path_agrees_with_the_slow_one_on_a_real_scan(real_ct, predictor):
    scan = volume.read(real_ct / "lung1-001" / "ct.nii.gz")
    assert agreement(predict(scan, predictor=predictor), slow_mask(scan)) >= 0.995


def test_windows_for_want_of_memory_change_little(scan, predictor, monkeypatch):
    whole = predict(scan, predictor=predictor)
    of_a_voxel = predictor.width * predictor.precision.itemsize
    monkeypatch.setitem(predicting.LARGEST_FEATURES, "cpu", 96**3 * of_a_voxel)
    assert agreement(predict(scan, predictor=predictor), whole) >= 0.9


# --- one scan, stored in many ways ----------------------------------------------------------------


def store(path, scan, orientation, dtype, scaling):
    """Write a scan by nibabel along other axes and as other numbers.

    Slope and intercept go straight into the file.
    """
    slope, intercept = scaling or (0, 0)
    stored = (scan.hu.transpose(2, 1, 0).astype(np.float64) - intercept) / (slope or 1)
    stored = np.rint(stored) if np.dtype(dtype).kind in "iu" else stored
    image = nib.Nifti1Image(stored, scan.affine[:, [2, 1, 0, 3]])
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(orientation)
    )
    image = image.as_reoriented(turn)
    image_class, place, real = (nib.Nifti1Image, 112, "<2f")
    if orientation == "LIP":
        image_class, place, real = (nib.Nifti2Image, 176, "<2d")
    image = image_class(image.get_fdata().astype(dtype), image.affine, dtype=dtype)
    content = bytearray(image.to_bytes())
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
        assert np.allclose(again.affine, scan.affine, atol=1e-3)
        assert np.allclose(again.spacing_mm, scan.spacing_mm)
        volume.write_mask(tmp_path / "out.nii.gz", mask, again)
        assert nib.aff2axcodes(nib.load(tmp_path / "out.nii.gz").affine) == tuple(orientation)
        assert agreement(in_world(tmp_path / "out.nii.gz"), expected) >= 0.999, orientation


@pytest.mark.parametrize("seed", [3, 11])
def test_an_oblique_scan_gives_the_same_mask(seed, predictor):
    """Voxels of 1.5 mm: turning coarse ones would blur the tumour. Chests the network is sure of.

    Where it is not, the blur of resampling twice can tip a small component over the threshold.
    """
    scan = phantom.make_case(seed)[0]
    half = np.diag([0.5, 0.5, 0.5, 1.0])
    half[:3, 3] = -0.25
    shape = tuple(2 * n for n in scan.hu.shape)
    hu = np.rint(resample_linearly(scan.hu, np.eye(4), half, shape, -1024)).astype(np.int16)
    straight = make_scan(hu, [mm / 2 for mm in scan.spacing_mm])
    oblique = make_oblique(straight, 10)
    mask = predict(oblique, predictor=predictor)
    back = resample_linearly(mask, oblique.affine, straight.affine, shape) >= 0.5
    assert agreement(back, predict(straight, predictor=predictor)) >= 0.95


def test_a_mask_comes_back_from_the_patients_axes_where_it_was():
    oblique = make_oblique(phantom.make_case(3, tier="quick")[0], 12)
    aligned = align(oblique)
    assert tilt_degrees(oblique) == pytest.approx(13.4, abs=0.5) and tilt_degrees(aligned) == 0
    mask = np.zeros(oblique.hu.shape, np.uint8)
    mask[tuple(slice(n // 3, n // 2) for n in mask.shape)] = 1
    there = resample_linearly(mask, oblique.affine, aligned.affine, aligned.hu.shape) >= 0.5
    assert agreement(resample_back(there.astype(np.uint8), aligned, oblique), mask) > 0.97


# --- DICOM and NIfTI ------------------------------------------------------------------------------


def same_from_both(series, nifti, out):
    """Predict a series and its NIfTI twin: the two masks, and the SEG's frames as read and raw."""
    import highdicom

    list(predict_files([series], out / "dicom.nii.gz", device="cpu", dicom_seg=True))
    list(predict_files([nifti], out / "nifti.nii.gz", device="cpu"))
    one, other = (in_world(out / f"{name}.nii.gz") for name in ("dicom", "nifti"))
    segmentation = highdicom.seg.segread(out / "dicom.dcm")
    slices = [dcmread(path, stop_before_pixels=True) for path in series.iterdir()]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    uids = [one.SOPInstanceUID for one in slices]
    frames = segmentation.get_pixels_by_source_instance(uids, combine_segments=True)
    raw = dcmread(out / "dicom.dcm").pixel_array
    return one, other, frames, raw


def test_a_dicom_series_and_its_nifti_give_identical_masks_and_the_seg_reads_back(scan, tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    depth, *in_plane = scan.spacing_mm
    for k, plane in enumerate(scan.hu):
        corner = np.array([-5.0, -6.0, 7.0 + k * depth])
        one = make_slice(np.clip(plane, -1024, None), corner, number=k)
        one.PixelSpacing = [round(mm, 6) for mm in in_plane]
        one.SliceThickness = depth
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
    assert np.array_equal(one, other)
    assert np.array_equal(frames[:, ::-1, ::-1].transpose(2, 1, 0), one)
    assert raw.sum() == one.sum()
