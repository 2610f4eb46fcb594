"""Bad images and labels: each fault of a NIfTI file is refused, or corrected and reported."""

import gzip
import struct
import sys
import threading

import nibabel as nib
import numpy as np
import pytest
from test_volume import affine, chest, same_place, save

from lungseg_utils import volume
from lungseg_utils.runtime import LungsegError


@pytest.fixture
def scan_path(tmp_path):
    return save(tmp_path / "scan.nii")


def refuse(path, pattern, read=volume.read, **options):
    """Expect an error that names the file and matches `pattern`, from a file left as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(LungsegError, match=pattern) as caught:
        read(path, **options)
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).endswith(".")
    assert before is None or path.read_bytes() == before


def patched(path, offset, fmt, *values):
    """Overwrite header fields of a little-endian NIfTI-1 file."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<" + fmt, data, offset, *values)
    path.write_bytes(data)
    return path


def zipped(path, data):
    path.write_bytes(data)
    return path


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    resource = pytest.importorskip("resource", reason="Windows has none")
    # macOS counts in bytes, Linux in units of 1,024.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.fault("truncated file or header")
@pytest.mark.parametrize("keep", [1, 3, 100, 350, 360, 771])
def test_truncated(scan_path, keep):
    scan_path.write_bytes(scan_path.read_bytes()[:keep])
    refuse(scan_path, "truncated|not a NIfTI")
    if keep > 352:
        refuse(scan_path, f"truncated: expected 772 bytes, got {keep}. Copy or download it again")


@pytest.mark.fault("truncated file or header")
@pytest.mark.parametrize("cut", [9, 4, 1])
def test_truncated_gzip(tmp_path, scan_path, cut):
    data = gzip.compress(scan_path.read_bytes())
    refuse(zipped(tmp_path / "a.nii.gz", data[:-cut]), "truncated: expected 772 bytes")
    refuse(zipped(tmp_path / "a.nii.gz", data[: len(data) // 2]), "truncated")
    refuse(zipped(tmp_path / "a.nii.gz", data[:12]), "truncated")


@pytest.mark.fault("damaged gzip stream")
@pytest.mark.parametrize("where", [-8, -5, -3, -200])
def test_bit_flip_in_gzip(tmp_path, scan_path, where):
    data = bytearray(gzip.compress(scan_path.read_bytes()))
    data[where] ^= 4
    refuse(zipped(tmp_path / "a.nii.gz", data), "damaged|truncated")


@pytest.mark.fault("junk after the gzip stream")
def test_junk_after_gzip(tmp_path, scan_path, capsys):
    path = zipped(tmp_path / "a.nii.gz", gzip.compress(scan_path.read_bytes()) + b"junk")
    assert np.array_equal(volume.read(path).hu, chest())
    assert "bytes after the last voxel are ignored" in capsys.readouterr().err


def test_gzip_members_in_a_row_are_one_file(tmp_path, scan_path):
    data = scan_path.read_bytes()
    path = zipped(
        tmp_path / "a.nii.gz", gzip.compress(data[:400]) + gzip.compress(data[400:]) + bytes(512)
    )
    assert np.array_equal(volume.read(path).hu, chest())


@pytest.mark.fault("empty file")
def test_empty(tmp_path):
    refuse(zipped(tmp_path / "a.nii.gz", b""), "empty")
    refuse(zipped(tmp_path / "b.nii.gz", gzip.compress(b"")), "truncated|not a NIfTI")


@pytest.mark.fault("web page, picture or text named .nii")
@pytest.mark.parametrize(
    "content, looks",
    [
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "PNG"),
        (b"404 not found\n" * 50, "text"),
        (bytes(1000), "zeros"),
        (bytes(128) + b"DICM" + bytes(600), "DICOM"),
    ],
)
def test_something_else_named_nii(tmp_path, content, looks):
    refuse(zipped(tmp_path / "a.nii", content), f"not a NIfTI file: it looks like .*{looks}")
    refuse(zipped(tmp_path / "b.nii.gz", content), looks)


@pytest.mark.fault("gzip where the name says plain, and the reverse; gzipped twice")
def test_read_by_content_whatever_the_name(tmp_path, scan_path, capsys):
    plain = scan_path.read_bytes()
    for name, data in (("a.nii.gz", plain), ("b.nii", gzip.compress(plain))):
        assert np.array_equal(volume.read(zipped(tmp_path / name, data)).hu, chest())
        assert name in capsys.readouterr().err
    refuse(
        zipped(tmp_path / "c.nii.gz", gzip.compress(gzip.compress(plain))),
        "gzipped twice. Run gunzip",
    )


@pytest.mark.fault("wrong magic")
def test_wrong_magic(scan_path):
    refuse(patched(scan_path, 344, "4s", b"xyz\0"), "not a NIfTI file: wrong magic")


@pytest.mark.fault(".hdr/.img pair; upper-case suffix")
def test_pairs_are_refused_and_upper_case_is_read(tmp_path, scan_path):
    (tmp_path / "A.NII.GZ").write_bytes(gzip.compress(scan_path.read_bytes()))
    assert volume.read(tmp_path / "A.NII.GZ").name == "A"
    nib.save(nib.Nifti1Pair(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "pair.hdr")
    refuse(tmp_path / "pair.hdr", "half of a .hdr/.img pair. Convert")
    (tmp_path / "pair.nii").write_bytes((tmp_path / "pair.hdr").read_bytes() + bytes(4))
    refuse(tmp_path / "pair.nii", "half of a .hdr/.img pair. Convert")


@pytest.mark.fault("missing path, folder, empty folder")
def test_missing_or_empty_folder(tmp_path):
    refuse(tmp_path / "none.nii.gz", "no such file")
    refuse(tmp_path, "no DICOM file in this folder")
    refuse(tmp_path, "a folder, where a NIfTI file is needed", read=volume.read_label)


@pytest.mark.fault("blanks, accents and other signs in paths")
@pytest.mark.fault("hostile file names")
@pytest.mark.parametrize(
    "name",
    [
        "Lunge über 50 %.nii.gz",
        "o'neill scan.nii.gz",
        "肺.nii.gz",
        "<img src=x onerror=alert(1)>.nii.gz",
        "$(touch x).nii.gz",
    ],
)
def test_odd_names_work(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan = volume.read(save(tmp_path / name))
    volume.write_mask(tmp_path / "out" / name, scan.hu > 0, scan)
    assert (
        volume.read_label(tmp_path / "out" / name, like=scan).any()
        and not (tmp_path / "x").exists()
    )


@pytest.mark.fault("hostile file names")
def test_a_newline_in_a_name_stays_on_one_line(tmp_path):
    with pytest.raises(LungsegError) as caught:
        volume.read(tmp_path / "a\nerror: b.nii")
    assert "\n" not in str(caught.value)


@pytest.mark.fault("dots in the stem")
def test_dots_in_the_stem_stay():
    assert volume.stem("p.1.nii.gz") != volume.stem("p.2.nii.gz")


@pytest.mark.fault("links: sound, dangling, in a circle")
def test_links(tmp_path, scan_path):
    (tmp_path / "link.nii").symlink_to(scan_path)
    (tmp_path / "dangling.nii").symlink_to(tmp_path / "gone.nii")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    assert np.array_equal(volume.read(tmp_path / "link.nii").hu, chest())
    refuse(tmp_path / "dangling.nii", "a link to a file that is not there")
    refuse(tmp_path / "loop.nii", "(?i)symbolic links|leads back")


@pytest.mark.fault("the patient's data in a header or extension")
def test_nothing_of_the_patient_is_copied(tmp_path, scan_path, capsys):
    image = nib.load(scan_path)
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE 1950"))
    nib.save(image, tmp_path / "phi.nii")
    scan = volume.read(tmp_path / "phi.nii")
    volume.write_mask(tmp_path / "mask.nii", scan.hu > 0, scan)
    assert b"DOE" not in (tmp_path / "mask.nii").read_bytes()
    assert capsys.readouterr().err == "" and "DOE" not in repr(scan.grid)


@pytest.mark.fault("extension past its end")
def test_extension_past_its_end(tmp_path, scan_path, capsys):
    data = bytearray(scan_path.read_bytes())
    data[348:352] = b"\1\0\0\0"
    extension = struct.pack("<ii", 10**6, 4) + b"text".ljust(24)
    path = zipped(tmp_path / "a.nii", bytes(data[:352]) + extension + bytes(data[352:]))
    assert np.array_equal(volume.read(patched(path, 108, "f", 352 + 32)).hu, chest())
    assert "extension runs past" in capsys.readouterr().err
    refuse(patched(path, 108, "f", 1e9), "impossible start of the voxels")
    refuse(patched(path, 108, "f", float("nan")), "impossible start of the voxels")


# --- the shape and the type -----------------------------------------------------------------------


@pytest.mark.fault("absurd size in the header")
@pytest.mark.parametrize(
    "shape, code, bits",
    [((30000, 30000, 30000), 4, 16), ((4096, 4096, 4096), 64, 64), ((20000, 20000, 1), 64, 64)],
)
def test_absurd_size_is_refused_from_the_header(scan_path, shape, code, bits):
    before = peak_bytes()
    refuse(
        patched(patched(scan_path, 40, "4h", 3, *shape), 70, "2h", code, bits), "implausibly large"
    )
    assert peak_bytes() - before < 50_000_000


@pytest.mark.fault("absurd size in the header")
def test_a_large_claim_in_a_small_file(tmp_path, scan_path):
    refuse(
        patched(scan_path, 40, "4h", 3, 512, 512, 300),
        "truncated: expected 157,286,752 bytes, got 772",
    )
    path = zipped(tmp_path / "a.nii.gz", gzip.compress(scan_path.read_bytes()))
    refuse(path, "truncated: expected 157,286,752 bytes, got .* compressed")


@pytest.mark.fault("gzip stream longer than the header says")
def test_a_stream_longer_than_the_header_says(tmp_path, scan_path):
    bomb = gzip.compress(scan_path.read_bytes() + bytes(200 << 20), 1)
    before = peak_bytes()
    refuse(zipped(tmp_path / "a.nii.gz", bomb), "goes on after its last voxel")
    assert peak_bytes() - before < 50_000_000


@pytest.mark.fault("impossible shape")
@pytest.mark.parametrize(
    "dims", [(3, 0, 6, 5), (3, -7, 6, 5), (9, 7, 6, 5), (0, 7, 6, 5), (-1, 7, 6, 5)]
)
def test_impossible_shape(scan_path, dims):
    refuse(patched(scan_path, 40, "4h", *dims), "impossible shape")


@pytest.mark.fault("two dimensions")
def test_two_dimensions(scan_path):
    refuse(patched(scan_path, 40, "4h", 2, 42, 5, 1), "2-D .* a 3-D volume is needed")


@pytest.mark.fault("one volume in four dimensions")
def test_one_volume_in_four_dimensions_is_squeezed(tmp_path, scan_path):
    scan = volume.read(patched(scan_path, 40, "5h", 4, 7, 6, 5, 1))
    volume.write_mask(tmp_path / "mask.nii", scan.hu > 0, scan)
    assert np.array_equal(scan.hu, chest()) and nib.load(tmp_path / "mask.nii").shape == (7, 6, 5)


@pytest.mark.fault("many volumes")
@pytest.mark.parametrize("dims", [(4, 7, 6, 1, 5, 1), (5, 7, 2, 3, 1, 5)])
def test_many_volumes(scan_path, dims):
    refuse(patched(scan_path, 40, "6h", *dims), "5 volumes in one file")


@pytest.mark.fault("tiny scans")
@pytest.mark.parametrize("shape", [(1, 40, 30), (4, 8, 8), (3, 70, 5), (2, 2, 1)])
def test_small_scans_keep_their_shape(tmp_path, shape):
    scan = volume.read(save(tmp_path / "a.nii", chest(shape), orientation="RAS"))
    volume.write_mask(tmp_path / "mask.nii", scan.hu > 0, scan)
    assert scan.hu.shape == shape and nib.load(tmp_path / "mask.nii").shape == shape[::-1]


@pytest.mark.fault("thick slices")
def test_thick_slices(tmp_path):
    matrix = affine((10, 0.6, 0.6))
    scan = volume.read(save(tmp_path / "a.nii", matrix=matrix))
    assert scan.spacing_mm == pytest.approx((10, 0.6, 0.6)) and same_place(scan.affine, matrix)


@pytest.mark.fault("RGB, complex and unknown types")
@pytest.mark.parametrize(
    "code, bits", [(128, 24), (32, 64), (1792, 128), (2304, 32), (1536, 128), (999, 16), (0, 0)]
)
def test_not_one_number_a_voxel(scan_path, code, bits):
    refuse(
        patched(scan_path, 70, "2h", code, bits),
        rf"voxels are .* \(datatype {code}\), one number each is needed",
    )


@pytest.mark.fault("bitpix against datatype")
def test_bitpix_contradicts_datatype(scan_path, capsys):
    assert np.array_equal(volume.read(patched(scan_path, 72, "h", 32)).hu, chest())
    assert "bitpix is 32" in capsys.readouterr().err


@pytest.mark.fault("slope zero or NaN")
@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_slope_zero_or_nan_is_no_scaling(scan_path, slope):
    assert np.array_equal(volume.read(patched(scan_path, 112, "2f", slope, slope)).hu, chest())


@pytest.mark.fault("infinite slope")
@pytest.mark.parametrize("slope, inter", [(np.inf, 0), (-np.inf, 0), (1, np.inf)])
def test_infinite_slope(scan_path, slope, inter):
    refuse(patched(scan_path, 112, "2f", slope, inter), "infinite scaling")


# --- the affine -----------------------------------------------------------------------------------


@pytest.mark.fault("qform or sform alone")
@pytest.mark.parametrize("sform, qform", [(0, 1), (1, 0)])
def test_one_form_is_enough(tmp_path, sform, qform, capsys):
    scan = volume.read(
        save(tmp_path / "a.nii", sform=sform, qform=qform, matrix=affine(tilt_deg=12))
    )
    assert np.array_equal(scan.hu, chest()) and same_place(scan.affine, affine(tilt_deg=12))
    assert capsys.readouterr().err == ""


@pytest.mark.fault("neither qform nor sform")
def test_no_form_is_reported(tmp_path, capsys):
    assert volume.read(save(tmp_path / "a.nii", sform=0, qform=0)).hu.shape == (5, 6, 7)
    assert "orientation unknown (sform and qform codes are 0)" in capsys.readouterr().err


@pytest.mark.fault("qform against sform")
def test_forms_that_disagree(tmp_path, capsys):
    image = nib.load(save(tmp_path / "a.nii"))
    for change, warning in (
        (np.diag([-1, 1, 1, 1]), "sform and qform disagree"),
        (np.eye(4) + 1e-4 * np.eye(4, k=3), ""),
    ):
        image.set_qform(change @ image.get_sform(), 1)
        nib.save(image, tmp_path / "b.nii")
        assert same_place(volume.read(tmp_path / "b.nii").affine, affine())
        stderr = capsys.readouterr().err
        assert warning in stderr if warning else stderr == ""


@pytest.mark.fault("oblique and sheared grids")
@pytest.mark.parametrize("tilt", [7, 12, 45])
def test_oblique_is_kept(tmp_path, tilt):
    matrix = affine(tilt_deg=tilt)
    scan = volume.read(save(tmp_path / "a.nii", matrix=matrix))
    assert sorted(scan.spacing_mm) == pytest.approx([0.7, 0.8, 3.0])
    if tilt < 45:  # at 45 degrees two axes are as near, and either may come first
        assert np.array_equal(scan.hu, chest()) and same_place(scan.affine, matrix)
    volume.write_mask(tmp_path / "mask.nii", scan.hu > 0, scan)
    assert np.array_equal(volume.read_label(tmp_path / "mask.nii", like=scan), scan.hu > 0)
    assert (
        np.abs(nib.load(tmp_path / "mask.nii").affine - nib.load(tmp_path / "a.nii").affine).max()
        == 0
    )


@pytest.mark.fault("oblique and sheared grids")
def test_sheared_is_refused(tmp_path):
    image = nib.load(save(tmp_path / "a.nii", qform=0))
    sheared = image.affine.copy()
    sheared[1, 2] += 0.5
    image.set_sform(sheared, 1)
    nib.save(image, tmp_path / "b.nii")
    refuse(tmp_path / "b.nii", "sheared")


@pytest.mark.fault("singular, zero or NaN affine")
@pytest.mark.parametrize(
    "rows, cause",
    [
        ([0.0] * 12, "singular"),
        ([np.nan] * 12, "NaN"),
        ([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0], "singular"),
    ],
)
def test_useless_affine(scan_path, rows, cause):
    refuse(patched(scan_path, 280, "12f", *rows), cause)


@pytest.mark.fault("voxel size zero, negative, NaN or lying")
@pytest.mark.parametrize("size", [0.0, -0.8, np.nan, np.inf])
def test_bad_pixdim_without_sform(tmp_path, size):
    path = patched(save(tmp_path / "a.nii", sform=0), 80, "f", size)
    refuse(path, "qform is no grid|singular|NaN|implausible")


@pytest.mark.fault("voxel size zero, negative, NaN or lying")
def test_wrong_pixdim_is_reported(tmp_path, capsys):
    for qform in (0, 1):
        path = patched(save(tmp_path / "a.nii", qform=qform), 80, "f", 5.0)
        assert volume.read(path).spacing_mm == pytest.approx((3.0, 0.8, 0.7))
        assert "disagree" in capsys.readouterr().err


@pytest.mark.fault("micrometres, metres, unknown units")
@pytest.mark.parametrize("unit, factor", [(3, 1000), (1, 0.001), (0, 1), (2, 1)])
def test_units(tmp_path, unit, factor):
    matrix = np.diag([factor] * 3 + [1]) @ affine()
    path = patched(save(tmp_path / "a.nii", matrix=matrix), 123, "B", unit)
    scan = volume.read(path)
    assert scan.spacing_mm == pytest.approx((3.0, 0.8, 0.7)) and same_place(scan.affine, affine())
    volume.write_mask(tmp_path / "mask.nii", scan.hu > 0, scan)
    assert np.array_equal(nib.load(tmp_path / "mask.nii").affine, nib.load(path).affine)
    refuse(patched(path, 123, "B", 5), "unknown unit")


@pytest.mark.fault("voxels of 100 m or 1 µm")
@pytest.mark.parametrize("factor", [1e5, 1e-3])
def test_voxels_of_100_m_or_1_um(tmp_path, factor):
    refuse(save(tmp_path / "a.nii", matrix=affine((factor, factor, factor))), "implausible voxels")


@pytest.mark.fault("origin metres away")
def test_far_origin(tmp_path):
    scan = volume.read(save(tmp_path / "a.nii", matrix=affine(origin=(9000, 9000, 9000))))
    assert np.array_equal(scan.hu, chest()) and scan.spacing_mm == pytest.approx((3.0, 0.8, 0.7))


# --- the values -----------------------------------------------------------------------------------


@pytest.mark.fault("NaN, infinite and huge voxels")
def test_nan_infinity_and_1e300(tmp_path, capsys):
    hu = chest().astype(float)
    hu[0, 0, :4] = np.nan, np.inf, -np.inf, 1e300
    read = volume.read(save(tmp_path / "a.nii", hu, dtype="f8")).hu
    assert read[0, 0, :4].tolist() == [-1024, -1024, -1024, 32767] and np.array_equal(
        read[1:], chest()[1:]
    )
    stderr = capsys.readouterr().err
    assert "3 of 210 voxels are NaN or infinite" in stderr and "1 voxels beyond" in stderr
    refuse(save(tmp_path / "b.nii", np.full((5, 6, 7), np.nan), dtype="f4"), "every voxel is NaN")


@pytest.mark.fault("constant, air alone, no lungs")
def test_constant_is_refused_and_air_is_reported(tmp_path, capsys):
    refuse(save(tmp_path / "a.nii", np.zeros((5, 6, 7), np.int16)), "constant")
    air = np.random.default_rng(0).integers(-1010, -990, (5, 6, 7)).astype(np.int16)
    assert volume.read(save(tmp_path / "b.nii", air)).hu.max() < -900
    assert "no patient in this scan" in capsys.readouterr().err


@pytest.mark.fault("values that are not HU")
@pytest.mark.parametrize(
    "make",
    [
        lambda hu: (hu + 1000) / 1100,
        lambda hu: (hu + 500) / 300,
        lambda hu: np.clip((hu + 1000) / 5, 0, 255),
        lambda hu: (hu + 950) * 0.7 + 5,
        lambda hu: -hu,
        lambda hu: hu.max() + 400.0 - hu,
    ],
    ids=["0..1", "z-score", "0..255", "MR", "inverted", "inverted, positive"],
)
def test_not_hounsfield_units(tmp_path, make):
    refuse(
        save(tmp_path / "a.nii", make(chest().astype(float)), dtype="f4"),
        "not HU.*Hounsfield units",
    )


@pytest.mark.fault("the offset of -1024 missing")
def test_offset_missing(tmp_path):
    refuse(save(tmp_path / "a.nii", chest() + 1024), "not HU.*offset of -1024 may be missing")
    padded = chest((8, 8, 8)) + 1024
    padded[0] = -2000
    refuse(save(tmp_path / "a.nii", padded), "not HU.*offset of -1024 missing")


@pytest.mark.fault("metal and padding")
def test_metal_and_padding_are_read_as_they_are(tmp_path, capsys):
    hu = chest()
    hu[0, 0, :3] = 30000, -3024, -32768
    assert (
        np.array_equal(volume.read(save(tmp_path / "a.nii", hu)).hu, hu)
        and capsys.readouterr().err == ""
    )


# --- labels ---------------------------------------------------------------------------------------


def tumour() -> np.ndarray:
    label = np.zeros((5, 6, 7), np.uint8)
    label[1:3, 2:4, 3:6] = 1
    return label


@pytest.mark.fault("values of labels")
@pytest.mark.parametrize(
    "values, shown",
    [
        ([255], "255"),
        ([1, 2], "2"),
        ([-1], "-1"),
        ([0.5], "0.5"),
        ([np.nan], "nan"),
        ([3, 4, 5, 6, 7, 8], "3, 4, 5, 6, 7, …"),
        ([0.9998], "0.9998"),
        ([1.00011, np.inf], "1.00011, inf"),
        ([2e-4], "0.0002"),
    ],
)
def test_wrong_label_values(tmp_path, scan_path, values, shown):
    label = tumour().astype(np.float32)
    label.flat[: len(values)] = values
    refuse(
        save(tmp_path / "label.nii", label, dtype="f4"),
        f"not a label of 0 and 1: it holds {shown}",
        read=volume.read_label,
        like=volume.read(scan_path),
    )
    refuse(scan_path, "not a label", read=volume.read_label)  # a CT


@pytest.mark.fault("labels in other types and slopes")
@pytest.mark.parametrize(
    "dtype, slope, inter", [("i8", None, 0), ("f8", None, 0), ("u1", 1 / 255, 0), ("i2", 0.1, -3)]
)
def test_zero_and_one_in_any_guise(tmp_path, dtype, slope, inter):
    path = save(tmp_path / "label.nii", tumour(), dtype=dtype, slope=slope, inter=inter)
    assert (
        np.array_equal(volume.read_label(path), tumour())
        and volume.read_label(path).dtype == np.uint8
    )


def test_what_is_0_or_1_but_for_rounding_is_read_as_such(tmp_path):
    label = tumour().astype(np.float32)
    label[label == 1] = 1 - 6e-8
    label[0, 0, :3] = 3e-8, -5e-5, 5e-5
    assert np.array_equal(
        volume.read_label(save(tmp_path / "label.nii", label, dtype="f4")), tumour()
    )


@pytest.mark.fault("label of another shape")
def test_label_of_another_shape(tmp_path, scan_path):
    options = {"read": volume.read_label, "like": volume.read(scan_path)}
    refuse(
        save(tmp_path / "a.nii", tumour()[1:]),
        "its shape differs from that of scan.nii: 4x6x7 against 5x6x7",
        **options,
    )
    refuse(save(tmp_path / "b.nii", tumour().transpose(0, 2, 1)), "shape differs", **options)


@pytest.mark.fault("label in another place")
def test_label_elsewhere(tmp_path, scan_path):
    scan = volume.read(scan_path)
    for name, change in (
        ("voxel", np.eye(4) + 0.7 * np.eye(4, k=3)),
        ("flip", np.diag([-1, 1, 1, 1])),
    ):
        path = save(tmp_path / f"{name}.nii", tumour(), change @ affine())
        refuse(
            path,
            "its affine puts it up to .* mm away from scan.nii",
            read=volume.read_label,
            like=scan,
        )
    lost = save(tmp_path / "lost.nii", tumour(), sform=0, qform=0)
    refuse(lost, "its affine puts it", read=volume.read_label, like=scan)
    rounded = save(tmp_path / "rounded.nii", tumour(), affine(origin=(20.0001, -30, 40)))
    assert np.array_equal(volume.read_label(rounded, like=scan), tumour())


@pytest.mark.fault("label along other axes")
@pytest.mark.parametrize("tilt", [0, 12, 44.9, 45])
@pytest.mark.parametrize("orientation", ["RAS", "ASL", "PIR"])
def test_label_stored_along_other_axes(tmp_path, orientation, tilt):
    scan = volume.read(save(tmp_path / "scan.nii", matrix=affine(tilt_deg=tilt)))
    turned = volume.read_label(save(tmp_path / "a.nii", tumour(), affine(tilt_deg=tilt)), like=scan)
    path = save(tmp_path / "label.nii", tumour(), affine(tilt_deg=tilt), orientation=orientation)
    assert np.array_equal(volume.read_label(path, like=scan), turned)
    assert turned.sum() == tumour().sum()


def test_two_threads_may_read_at_once(tmp_path, scan_path):
    read = []
    threads = [
        threading.Thread(target=lambda: read.append(volume.read(scan_path).hu)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 4 and all(np.array_equal(hu, chest()) for hu in read)
