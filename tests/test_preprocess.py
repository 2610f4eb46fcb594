"""From a scan to the working grid and back: the right voxels, all of the tumour, a sound cache."""

import dataclasses
import json
import os
import pickle
import sys
import time
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers_cases import ball, make_oblique, make_scan, resample_linearly
from scipy.spatial.transform import Rotation

from lungseg_utils import phantom, runtime, volume
from lungseg_utils.decathlon import Case
from lungseg_utils.preprocess import (
    CLIP_HU,
    cache,
    find_lungs,
    normalise,
    prepare,
    resample,
    resampled_slabs,
)
from lungseg_utils.preprocess.oblique import align, resample_back, tilt_degrees
from lungseg_utils.runtime import LungsegError, writing

SEEDS = range(5)


@pytest.fixture(scope="module", params=SEEDS)
def chest(request):
    return phantom.make_case(request.param, tier="quick")


def random_volume(shape, seed=0):
    return np.random.default_rng(seed).normal(0, 300, shape).astype(np.float32)


def lungs_alone(shape=(40, 60, 80), spacing_mm=(4.0, 4.0, 4.0), dtype=np.int16):
    """A block of water with two lungs of air in it."""
    hu = np.full(shape, -1000)
    hu[:, 8:52, 6:74] = 20
    for centre in (22, 58):
        hu[ball(shape, (20, 30, centre), 12)] = -850
    return make_scan(hu.astype(dtype), spacing_mm)


# --- resampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"), [((5, 6, 7), (10, 9, 7)), ((1, 4, 3), (3, 8, 12)), ((4, 4, 4), (4, 4, 4))]
)
def test_upsampling_is_trilinear_interpolation(shape, size):
    array = random_volume(shape)
    expected = F.interpolate(
        torch.from_numpy(array)[None, None], size, mode="trilinear", align_corners=False
    )[0, 0]
    assert torch.allclose(resample(array, size), expected, atol=1e-2)


@pytest.mark.parametrize("size", [(10, 12, 7), (5, 4, 3), (20, 8, 14), (1, 1, 1), (3, 30, 14)])
def test_a_constant_stays_constant(size):
    assert torch.allclose(
        resample(np.full((20, 24, 14), -700, np.int16), size), torch.tensor(-700.0), atol=1e-2
    )


def test_downsampling_averages():
    """White noise loses its variance with the voxels that are averaged: nothing is folded in."""
    noise = random_volume((48, 48, 48))
    small = resample(noise, (12, 12, 12))
    assert abs(float(small.mean()) - noise.mean()) < 2
    assert float(small.std()) < noise.std() / 4
    assert (
        F.interpolate(torch.from_numpy(noise)[None, None], (12, 12, 12), mode="trilinear").std()
        > noise.std() / 4
    )


def test_a_small_nodule_keeps_its_volume():
    nodule = ball((60, 60, 60), (30.3, 29.1, 31.7), 5).astype(np.uint8)
    for size in ((30, 30, 30), (20, 24, 40)):
        share = resample(nodule, size)
        assert float(share.sum()) * 60**3 / np.prod(size) == pytest.approx(nodule.sum(), rel=0.02)
    assert float((resample(nodule, (30, 30, 30)) >= 0.5).sum()) * 8 == pytest.approx(
        nodule.sum(), rel=0.15
    )


@pytest.mark.parametrize("size", [(40, 13, 9), (7, 21, 30), (1, 5, 5), (20, 13, 9)])
def test_piece_by_piece_is_the_same(size):
    array = torch.from_numpy(random_volume((20, 12, 11)))
    pieces = list(resampled_slabs(array, size))
    assert [cut.start for cut, _ in pieces] == list(range(0, size[0], 16))
    assert torch.allclose(
        torch.cat([piece for _, piece in pieces]), resample(array, size), atol=1e-2
    )


# --- the lungs ------------------------------------------------------------------------------------


def test_the_lungs_box_and_region_hold_all_of_the_tumour(chest):
    scan, label = chest
    found = find_lungs(scan)
    assert found.found and label[found.box].sum() == label.sum()
    assert np.prod([cut.stop - cut.start for cut in found.box]) < 0.6 * label.size
    region = found.on_grid(found.region, label[found.box].shape)
    assert region[label[found.box] > 0].mean() > 0.97


def test_the_lungs_of_a_cropped_scan_are_found():
    scan, label = phantom.make_case(1, tier="quick")
    whole = find_lungs(scan).box
    middle = (whole[0].start + whole[0].stop) // 2
    cut = slice(middle - 8, middle + 8)  # no apices, no diaphragm
    found = find_lungs(make_scan(scan.hu[cut], scan.spacing_mm))
    assert found.found and found.box[0] == slice(0, 16)
    assert label[cut][found.box].sum() == label[cut].sum()


@pytest.mark.parametrize(
    "slope", [0.0, 0.1, -0.2], ids=["blank slices", "a wedge", "a steep wedge"]
)
def test_padding_that_opens_the_airways_to_the_air_outside_hides_no_lungs(slope):
    """As resampling and registration leave it: a scan that was turned has empty corners."""
    scan = phantom.make_case(3, tier="quick")[0]
    d, h, _ = np.ogrid[tuple(map(slice, scan.hu.shape))]
    is_padding = d + slope * (h - scan.hu.shape[1] / 2) > len(scan.hu) - 4
    padded = np.where(is_padding, -1024, scan.hu).astype(np.int16)
    found = find_lungs(make_scan(padded, scan.spacing_mm))
    whole = find_lungs(scan)
    assert found.found
    assert found.lungs.sum() > 0.9 * whole.lungs.sum()
    assert all(
        abs(a.start - b.start) <= 6 and abs(a.stop - b.stop) <= 6
        for a, b in zip(found.box, whole.box)
    )


@pytest.mark.parametrize("radius", [5, 8], ids=["33 mL", "as much as a small lung"])
def test_what_lies_nearer_to_gas_in_the_stomach_than_to_the_lungs_is_left_out(radius):
    scan = lungs_alone((60, 60, 80))
    scan.hu[:] = np.roll(scan.hu, 20, axis=0)  # room for an abdomen
    for left in (14, 60):  # beside which both lungs reach down
        scan.hu[4:40, 25:35, left : left + 6] = -850
    stomach = ball(scan.hu.shape, (14, 30, 40), radius)
    scan.hu[stomach] = -1000
    found = find_lungs(scan)
    assert found.found and not (found.lungs & stomach).any() and not (found.region & stomach).any()
    assert found.region[found.lungs].all()


def test_a_cavity_low_in_a_lung_is_no_stomach():
    scan = lungs_alone((60, 60, 80))
    tumour = ball(scan.hu.shape, (14, 30, 22), 6)
    cavity = ball(scan.hu.shape, (14, 30, 22), 4)
    scan.hu[tumour] = 30
    scan.hu[cavity] = -1000
    found = find_lungs(scan)
    assert cavity.sum() * 0.064 > 10 and not (found.lungs & cavity).any()
    assert found.region[tumour].all()


@pytest.mark.parametrize("padding", [0, 1])
def test_a_lung_that_a_narrow_field_of_view_cuts_is_found(padding):
    scan = lungs_alone()
    tumour = ball(scan.hu.shape, (20, 30, 20), 4)
    scan.hu[tumour] = 30
    scan.hu[..., 17 : 17 + padding] = -1000  # as a round field of view leaves it
    found = find_lungs(make_scan(scan.hu[..., 17:].copy(), scan.spacing_mm))
    assert found.found and found.box[2].start <= padding
    assert found.region[..., padding:][tumour[..., 17 + padding :]].all()
    assert found.lungs[20, 30, 5:16].sum() > 5
    assert not found.lungs[:, :8].any()  # no air before the chest


def test_a_piece_of_a_chest_that_is_cut_in_front_too_is_searched_whole(capsys):
    scan = lungs_alone()
    assert not find_lungs(make_scan(scan.hu[:, 20:40, 20:40].copy(), scan.spacing_mm)).found
    assert "the whole scan is searched" in capsys.readouterr().err


def test_the_foam_of_a_table_is_no_lung():
    scan = lungs_alone()
    scan.hu[:, 54:59] = -900  # from side to side of the scan
    scan.hu[:, 53] = 100
    assert not find_lungs(scan).lungs[:, 53:].any()


def test_one_filled_lung_is_still_inside():
    scan = lungs_alone()
    scan.hu[:, :, 40:][scan.hu[:, :, 40:] == -850] = 30  # the left lung is all fluid
    found = find_lungs(scan)
    assert found.found and found.box[2].stop >= 58 + 12


@pytest.mark.fault("constant, air alone, no lungs")
@pytest.mark.parametrize("hu", [-1000, 40, 0], ids=["air", "tissue", "water"])
def test_no_lungs_is_reported_and_the_whole_scan_is_searched(capsys, hu):
    found = find_lungs(make_scan(np.full((10, 12, 14), hu, np.int16)))
    assert not found.found and found.region.all()
    assert found.box == (slice(0, 10), slice(0, 12), slice(0, 14))
    assert "warning: scan: no lungs found; the whole scan is searched" in capsys.readouterr().err


def test_lungs_in_nothing_denser_than_fat_are_no_lungs(capsys):
    scan = lungs_alone()
    scan.hu[scan.hu == 20] = -300
    assert not find_lungs(scan).found
    assert "no lungs found" in capsys.readouterr().err


@pytest.mark.fault("tiny scans")
@pytest.mark.parametrize("shape", [(1, 60, 80), (1, 1, 1), (8, 8, 4), (5, 70, 3)])
def test_tiny_scans_are_prepared(shape):
    ready = prepare(make_scan(np.full(shape, -300, np.int16), (5.0, 1.0, 1.0)))
    assert ready.hu.shape == ready.region.shape == ready.lungs.shape and ready.region.all()


# --- prepare --------------------------------------------------------------------------------------


def test_the_grid_fills_the_box_exactly(chest):
    scan, label = chest
    ready = prepare(scan, label=label, spacing_mm=4.0)
    extent_mm = [(cut.stop - cut.start) * mm for cut, mm in zip(ready.box, scan.spacing_mm)]
    assert [n * mm for n, mm in zip(ready.hu.shape, ready.spacing_mm)] == pytest.approx(extent_mm)
    assert ready.spacing_mm == pytest.approx((4, 4, 4), rel=0.03)
    assert ready.hu.dtype == np.int16
    assert ready.hu.min() >= CLIP_HU[0] and ready.hu.max() <= CLIP_HU[1]
    assert ready.hu.shape == ready.label.shape == ready.region.shape == ready.lungs.shape


def test_scan_and_label_stay_together():
    """In a scan that is dense exactly where the label is 1, it still is on the working grid."""
    scan = lungs_alone()
    label = ball(scan.hu.shape, (20, 30, 22), 5)
    scan.hu[label] = 100
    ready = prepare(scan, label=label.astype(np.uint8), spacing_mm=6.0)
    centre = np.argwhere(ready.label).mean(0)
    near = ball(ready.hu.shape, centre, 6)  # within the lung
    is_dense = ready.hu[near] >= -375  # half-way between -850 and 100
    assert np.array_equal(is_dense, ready.label[near] == 1)
    place = [
        side.start + (c + 0.5) * mm / 4.0 - 0.5
        for side, c, mm in zip(ready.box, centre, ready.spacing_mm)
    ]
    assert place == pytest.approx([20, 30, 22], abs=0.3)


def test_the_same_scan_in_floats_is_prepared_alike():
    one, other = (prepare(lungs_alone(dtype=dtype)) for dtype in (np.int16, np.float32))
    assert np.array_equal(one.hu, other.hu)


def test_what_is_marked_outside_the_lungs_box_is_reported(capsys):
    scan = lungs_alone()
    label = ball(scan.hu.shape, (20, 30, 22), 4).astype(np.uint8)
    prepare(scan, label=label, spacing_mm=6.0)
    assert capsys.readouterr().err == ""
    label[:2, :, :2] = 1
    prepare(scan, label=label, spacing_mm=6.0)
    assert (
        "warning: scan: 48% of its label lies outside the lungs' box and is left out"
        in capsys.readouterr().err
    )


@pytest.mark.fault("voxel size zero, negative, NaN or lying")
@pytest.mark.parametrize("spacing_mm", [(70, 4, 4), (4, 20, 4), (4, 4, 15)])
def test_a_scan_larger_than_any_patient_is_refused_before_the_work(spacing_mm):
    with pytest.raises(LungsegError, match="mm large, which no CT is"):
        prepare(lungs_alone(spacing_mm=spacing_mm))


@pytest.mark.fault("tiny scans")
@pytest.mark.parametrize("shape", [(40, 60, 1), (1, 60, 1), (40, 1, 80), (40, 60, 3)])
def test_a_single_sagittal_slice_is_prepared(shape):
    scan = make_scan(np.resize(lungs_alone().hu[20], shape), (5.0, 5.0, 5.0))
    assert prepare(scan, spacing_mm=5.0).hu.shape == shape


def test_a_label_of_another_shape_is_refused():
    with pytest.raises(LungsegError, match="scan: its label has the shape"):
        prepare(lungs_alone(), label=np.zeros((3, 4, 5), np.uint8))


def test_metal_and_padding_are_clipped():
    hu = torch.tensor([-32768.0, -1024, -312, 400, 30000])
    assert normalise(hu).tolist() == [-1, -1, 0, 1, 1]


# --- and back -------------------------------------------------------------------------------------


def one_piece(ready, array) -> np.ndarray:
    """Bring `array` back in steps, each of them whole: box, resampling, the scan's own axes."""
    full = np.zeros(ready.aligned.hu.shape, np.float32)
    full[ready.box] = resample(np.ascontiguousarray(array), full[ready.box].shape)
    return full


@pytest.mark.parametrize("spacing_mm", [3.0, 6.0], ids=["finer", "coarser"])
def test_a_mask_and_a_map_come_back_to_the_scan_as_by_one_whole_resampling(spacing_mm):
    scan = lungs_alone(spacing_mm=(5.0, 4.0, 4.0))
    label = ball(scan.hu.shape, (20, 30, 22), 5).astype(np.uint8)
    ready = prepare(scan, label=label, spacing_mm=spacing_mm)
    probability = np.random.default_rng(0).random(ready.hu.shape, np.float32)
    expected = one_piece(ready, probability)
    back = ready.back(probability)
    assert back.dtype == np.float32 and back.shape == scan.hu.shape
    assert np.allclose(back, expected, atol=1e-5)
    outside = np.ones(scan.hu.shape, bool)
    outside[ready.box] = False
    assert outside.any() and not back[outside].any()
    mask = ready.back(torch.from_numpy(probability), threshold=0.6)
    clear = np.abs(expected - 0.6) > 1e-4
    assert mask.dtype == np.uint8 and np.array_equal(mask[clear], expected[clear] >= 0.6)
    assert np.array_equal(ready.back(ready.label), ready.back(ready.label.astype(np.float32), 0.5))
    assert np.array_equal(ready.back(ready.label > 0), ready.back(ready.label))
    overlap = 2 * (ready.back(ready.label) & label).sum()
    assert overlap > 0.9 * (ready.back(ready.label).sum() + label.sum())


def test_an_oblique_scan_is_prepared_along_the_patients_axes_and_comes_back():
    straight = lungs_alone(spacing_mm=(5.0, 4.0, 4.0))
    tumour = ball(straight.hu.shape, (20, 30, 22), 5)
    straight.hu[tumour] = 100
    scan = make_oblique(straight, 12)
    target = (straight.affine, scan.affine, scan.hu.shape)
    label = (resample_linearly(tumour, *target) >= 0.5).astype(np.uint8)
    ready = prepare(scan, label=label, spacing_mm=4.0)
    assert ready.scan is scan and tilt_degrees(ready.aligned) == 0 < 2 < tilt_degrees(scan)
    assert np.mean(ready.hu[ready.label == 1] > -375) > 0.97  # dense in an aerated lung
    back = ready.back(ready.label)
    assert back.shape == scan.hu.shape and back.dtype == np.uint8
    assert 2 * (back & label).sum() > 0.9 * (back.sum() + label.sum())
    share = one_piece(ready, ready.label)
    expected = resample_back((share >= 0.5).astype(np.uint8), ready.aligned, scan)
    assert np.mean(back != expected) < 1e-4  # halves alone may fall to either side
    float_map = ready.back(ready.label.astype(np.float32))
    assert np.allclose(float_map, resample_back(share, ready.aligned, scan), atol=1e-3)


def test_a_scan_that_is_hardly_oblique_is_left_as_it_is():
    scan = lungs_alone()
    slightly = make_oblique(scan, 1.5)
    assert align(scan) is scan and align(slightly) is slightly
    ready = prepare(slightly)
    assert ready.aligned is ready.scan is slightly


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def case(tmp_path):
    scan = lungs_alone()
    label = ball(scan.hu.shape, (20, 30, 22), 5).astype(np.uint8)
    volume.write_nifti(tmp_path / "lung_001.nii.gz", scan.hu, scan.affine)
    volume.write_nifti(tmp_path / "label.nii.gz", label, scan.affine)
    return Case("lung_001", tmp_path / "lung_001.nii.gz", tmp_path / "label.nii.gz")


def cached(case, tmp_path, **options):
    return cache.prepare_cases([case], folder=tmp_path / "cache", workers=1, **options)[0]


def cache_file(tmp_path):
    (path,) = tmp_path.glob("cache/*/*.safetensors")
    return path


def same(one, other) -> bool:
    arrays = ("hu", "region", "lungs", "label")
    if not all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays):
        return False
    return all(getattr(one, name) == getattr(other, name) for name in ("name", "box", "spacing_mm"))


def test_the_cache_holds_what_prepare_returns_and_is_read_the_second_time(
    case, tmp_path, monkeypatch
):
    scan = volume.read(case.image)
    expected = prepare(scan, label=volume.read_label(case.label, like=scan))
    assert same(cached(case, tmp_path), expected)
    monkeypatch.setattr(cache, "prepare", None)  # not called again
    again = cached(case, tmp_path)
    assert same(again, expected) and isinstance(again.hu, np.memmap)
    with pytest.raises(AssertionError, match="a cached scan has no way back"):
        again.back(again.hu)


def test_a_case_without_a_label_is_cached_too(case, tmp_path):
    assert cached(Case("lung_001", case.image, None), tmp_path).label is None


def test_any_object_that_names_its_files_is_cached(case, tmp_path):
    as_named = types.SimpleNamespace(id="lung_001", image=case.image, label=case.label)
    assert same(cached(as_named, tmp_path), cached(case, tmp_path))


@pytest.mark.fault("stale cache")
def test_other_parameters_have_another_place(case, tmp_path):
    assert cached(case, tmp_path).hu.shape != cached(case, tmp_path, spacing_mm=5.0).hu.shape
    assert len(list(tmp_path.glob("cache/*"))) == 2


@pytest.mark.fault("stale cache")
@pytest.mark.parametrize("which", ["image", "label"])
def test_a_changed_input_is_prepared_again_and_reported(case, tmp_path, capsys, which):
    before = cached(case, tmp_path)
    path = getattr(case, which)
    scan = lungs_alone()
    changed = scan.hu + 7
    if which == "label":
        changed = ball(scan.hu.shape, (20, 30, 58), 4).astype(np.uint8)
    volume.write_nifti(path, changed, scan.affine)
    after = cached(case, tmp_path)
    warning = "warning: lung_001: the scan or its label has changed; prepared again"
    assert warning in capsys.readouterr().err
    assert np.array_equal(before.hu, after.hu) == (which == "label")
    assert np.array_equal(before.label, after.label) == (which == "image")
    assert cache_file(tmp_path)  # the only one: the stale file is gone


def test_sets_with_cases_of_the_same_name_do_not_disturb_each_other(case, tmp_path, capsys):
    cached(case, tmp_path)
    scan = volume.read(case.image)
    elsewhere = tmp_path / "another set" / case.image.name
    elsewhere.parent.mkdir()
    volume.write_nifti(elsewhere, scan.hu + 7, scan.affine)
    cached(Case(case.id, elsewhere, case.label), tmp_path)
    assert len(list(tmp_path.glob("cache/*/*.safetensors"))) == 2 and capsys.readouterr().err == ""


def test_sets_that_share_a_scan_but_not_its_label_do_not_disturb_each_other(case, tmp_path, capsys):
    label = volume.read_label(case.label)
    volume.write_nifti(tmp_path / "other label.nii.gz", 0 * label, lungs_alone().affine)
    other = Case(case.id, case.image, tmp_path / "other label.nii.gz")
    for one in (case, other, case, other):
        assert cached(one, tmp_path).label.any() == (one is case)
    assert len(list(tmp_path.glob("cache/*/*.safetensors"))) == 2 and capsys.readouterr().err == ""


def test_an_oblique_scan_is_cached_along_the_patients_axes_with_its_label(case, tmp_path):
    scan = lungs_alone(spacing_mm=(5.0, 4.0, 4.0))
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("zx", [12, 8], degrees=True).as_matrix()
    label = ball(scan.hu.shape, (20, 30, 22), 5)
    scan.hu[label] = 100
    volume.write_nifti(case.image, scan.hu, turn @ scan.affine)
    volume.write_nifti(case.label, label.astype(np.uint8), turn @ scan.affine)
    ready = cached(case, tmp_path, spacing_mm=4.0)
    aligned = align(volume.read(case.image))
    assert same(dataclasses.replace(ready, label=None), prepare(aligned, spacing_mm=4.0))
    volume_mm3 = ready.label.sum() * np.prod(ready.spacing_mm)
    assert volume_mm3 == pytest.approx(label.sum() * 80, rel=0.03)
    assert np.mean(ready.hu[ready.label == 1] > -375) > 0.97  # dense in an aerated lung
    assert cached(Case(case.id, case.image, None), tmp_path, spacing_mm=4.0).label is None


def test_many_changed_scans_are_reported_in_one_line(case, tmp_path, capsys):
    cases = [Case(f"case_{number}", case.image, None) for number in range(5)]
    cache.prepare_cases(cases, folder=tmp_path / "cache")
    scan = volume.read(case.image)
    volume.write_nifti(case.image, scan.hu + 7, scan.affine)
    cache.prepare_cases(cases, folder=tmp_path / "cache")
    assert capsys.readouterr().err.splitlines() == [
        "warning: case_0, case_1, case_2 …: the scan or its label has changed; prepared again"
    ]


def object_array(path):
    """Return a .npy file of Python objects, which opens a file when it is unpickled."""

    class Canary:
        def __reduce__(self):
            return open, (str(path.parent / "canary"), "w")

    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00\x76\x00" + header + pickle.dumps(Canary())


def absurd(_path):
    tensor = {"dtype": "I16", "shape": [10**6] * 3, "data_offsets": [0, 2 * 10**18]}
    header = json.dumps({"hu": tensor}).encode()
    return len(header).to_bytes(8, "little") + header


def nested(_path):
    header = b'{"__metadata__":' + b"[" * 100_000
    return len(header).to_bytes(8, "little") + header


DAMAGES = {
    "empty": lambda path: b"",
    "cut": lambda path: path.read_bytes()[:-100],
    "cut in the header": lambda path: path.read_bytes()[:20],
    "zeros": lambda path: bytes(path.stat().st_size),
    "html": lambda path: b"<html>" * 1000,
    "object npy": object_array,
    "absurd header": absurd,
    "nested": nested,
}


@pytest.mark.fault("damaged or malicious cache")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no file that is mapped")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again_and_reported(case, tmp_path, capsys, damage):
    expected = cached(case, tmp_path)
    path = cache_file(tmp_path)
    content = DAMAGES[damage](path)
    path.unlink()  # the arrays above stay mapped to the old file
    path.write_bytes(content)
    assert same(cached(case, tmp_path), expected)
    assert f"warning: {path}: damaged; prepared again" in capsys.readouterr().err
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no canary, no partial file


@pytest.mark.fault("kill -9")
@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows removes no file that is mapped, and has no probe"
)
def test_what_a_killed_run_left_behind_is_ignored_and_removed(case, tmp_path):
    expected = cached(case, tmp_path)
    path = cache_file(tmp_path)
    whole = path.read_bytes()
    path.unlink()
    leftover = path.with_name(f".partial-999999999-{path.name}")
    leftover.write_bytes(whole[: len(whole) // 2])
    assert same(cached(case, tmp_path), expected) and not leftover.exists()


def test_a_file_that_another_machine_is_writing_is_left_to_it_for_a_day(tmp_path):
    path = tmp_path / "shared.txt"
    theirs = tmp_path / f".partial-{2**22 + 1}.0badcafe-shared.txt"  # a process unknown here
    theirs.write_text("half")
    for hours, remains in ((0, True), (23, True), (25, False)):
        os.utime(theirs, (time.time() - 3600 * hours,) * 2)
        with writing(path) as partial:
            partial.write_text("whole")
        assert theirs.exists() == remains and path.read_text() == "whole"


@pytest.mark.skipif(sys.platform == "win32", reason="has no probe, and short paths")
@pytest.mark.parametrize("name", ["a" * 248 + ".nii.gz", "a" + "[肺]" * 50 + ".txt"])
def test_a_name_of_255_bytes_is_written_and_only_its_own_left_over_partial_files_are_removed(
    tmp_path, name
):
    path = tmp_path / name
    other = tmp_path / ("b" + name[1:])
    for target in (other, path):
        with writing(target) as partial:
            assert partial.suffix == path.suffix and len(os.fsencode(partial.name)) <= 255
            partial.write_text("whole")
            of_a_dead_process = partial.name.replace(str(os.getpid()), "999999999", 1)
            partial.with_name(of_a_dead_process).write_text("half")
    assert len(list(tmp_path.glob(".partial-*"))) == 2
    with writing(path) as partial:
        partial.write_text("again")
    assert len(list(tmp_path.glob(".partial-*"))) == 1
    assert path.read_text() == "again" and other.read_text() == "whole"


def test_on_windows_no_process_is_probed_and_age_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime.sys, "platform", "win32")
    monkeypatch.setattr(runtime.os, "kill", lambda *_: pytest.fail("there, 0 is a Ctrl-C"))
    ours = tmp_path / f".partial-999999999.{runtime._machine()}-mask.txt"
    ours.write_text("half")
    for hours, remains in ((0, True), (25, False)):
        os.utime(ours, (time.time() - 3600 * hours,) * 2)
        with writing(tmp_path / "mask.txt") as partial:
            partial.write_text("whole")
        assert ours.exists() == remains
