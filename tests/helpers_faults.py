"""A catalogue of bad and good inputs, made as files: what the tests try, and what `benchmarks/robustness.py` counts."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from test_checkpoint import (
    DAMAGES,
    FACTS,
    Builds,
    Opens,
    Runs,
    bare,
    by_torch,
    injected,
    old_style,
    state_of,
    tiny,
)
from test_dicom import CORONAL, change, write_series
from test_dicom import chest as series_of
from test_download import HOSTILE, make_tar, toy_members
from test_volume import affine, chest, save

from lungseg_utils import checkpoint, volume
from lungseg_utils.decathlon import check
from lungseg_utils.decathlon.archive import extract
from lungseg_utils.decathlon.fingerprint import Task, examine
from lungseg_utils.runtime import LungsegError, printable


class Input(NamedTuple):
    """A file, a folder or a pair (image, label) to read; `row` is its number in the table of faults, 0 if good."""

    row: int
    name: str
    path: Path | tuple[Path, Path]


SHAPE = (8, 9, 10)


def ct(dtype="i2", hu=None, **options) -> bytes:
    """Give the bytes of a sound little CT as plain NIfTI."""
    with tempfile.TemporaryDirectory() as folder:
        return save(
            Path(folder, "a.nii"), chest(SHAPE) if hu is None else hu, dtype=dtype, **options
        ).read_bytes()


def patched(offset: int, fmt: str, *values, **options) -> bytes:
    data = bytearray(ct(**options))
    struct.pack_into("<" + fmt, data, offset, *values)
    return bytes(data)


def flipped(data: bytes, place: int) -> bytes:
    data = bytearray(data)
    data[place] ^= 4
    return bytes(data)


def disagreeing() -> bytes:
    image = nib.Nifti1Image.from_bytes(ct())
    image.set_qform(np.diag([-1, 1, 1, 1]) @ image.get_sform(), 1)
    return image.to_bytes()


def sheared() -> np.ndarray:
    matrix = affine()
    matrix[1, 0] += 1.5
    return matrix


def spotted(*values) -> np.ndarray:
    hu = chest(SHAPE).astype(float)
    hu[0, 0, : len(values)] = values
    return hu


def bad_images() -> Iterator[tuple[int, str, bytes]]:
    """Give row, file name and content; what cannot be read as a CT in Hounsfield units, or only with a warning."""
    plain = ct()
    packed, hu = gzip.compress(plain, mtime=0), chest(SHAPE).astype(float)
    yield 1, "truncated.nii", plain[: len(plain) // 2]
    yield 1, "truncated in the header.nii", plain[:200]
    yield 1, "truncated.nii.gz", packed[: len(packed) // 2]
    yield 1, "checksum cut off.nii.gz", packed[:-8]
    yield 2, "checksum wrong.nii.gz", flipped(packed, -6)
    yield 2, "bit flip in the middle.nii.gz", flipped(packed, len(packed) // 2)
    yield 4, "empty.nii", b""
    yield 4, "empty.nii.gz", gzip.compress(b"")
    yield 5, "web page.nii.gz", b"<!DOCTYPE html><html>404</html>"
    yield 5, "picture.nii", b"\x89PNG\r\n\x1a\n" + bytes(500)
    yield 5, "text.nii", b"404 not found\n" * 50
    yield 6, "gzipped twice.nii.gz", gzip.compress(packed)
    yield 7, "wrong magic.nii", patched(344, "4s", b"xyz\0")
    yield 8, "half of a pair.hdr", patched(344, "4s", b"ni1\0")
    yield 14, "extension past its end.nii", _with_extension(plain)
    yield 15, "30000 voxels a side.nii", patched(40, "4h", 3, 30000, 30000, 30000)
    yield 15, "4096 voxels a side, float64.nii", patched(40, "4h", 3, 4096, 4096, 4096, dtype="f8")
    yield 15, "claims 150 MB.nii.gz", gzip.compress(patched(40, "4h", 3, 512, 512, 300))
    yield 16, "goes on for 50 MB.nii.gz", gzip.compress(plain + bytes(50 << 20), 1)
    yield 17, "a side of 0.nii", patched(40, "4h", 3, 0, 9, 8)
    yield 17, "a side of -7.nii", patched(40, "4h", 3, -7, 9, 8)
    yield 17, "9 dimensions.nii", patched(40, "4h", 9, 10, 9, 8)
    yield 18, "2-D.nii", patched(40, "4h", 2, 90, 8, 1)
    yield 20, "4-D, 8 volumes.nii", patched(40, "5h", 4, 10, 9, 1, 8)
    yield 20, "5-D.nii", patched(40, "6h", 5, 10, 3, 3, 1, 8)
    yield 23, "RGB.nii", patched(70, "2h", 128, 24, dtype="i4")
    yield 23, "complex.nii", patched(70, "2h", 32, 64, dtype="f8")
    yield 23, "unknown type.nii", patched(70, "2h", 999, 16)
    yield 24, "bitpix contradicts.nii", patched(72, "h", 32)
    yield 27, "slope infinite.nii", patched(112, "2f", np.inf, 0)
    yield 30, "no orientation.nii", ct(sform=0, qform=0)
    yield 31, "sform and qform flipped.nii", disagreeing()
    yield 32, "sheared.nii", ct(matrix=sheared(), qform=0)
    yield 33, "affine of zeros.nii", patched(280, "12f", *[0.0] * 12)
    yield 33, "affine of NaN.nii", patched(280, "12f", *[np.nan] * 12)
    yield 33, "affine singular.nii", patched(280, "12f", 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0)
    yield 34, "voxel size 0.nii", patched(80, "f", 0.0, sform=0)
    yield 34, "voxel size lying.nii", patched(80, "f", 5.0, qform=0)
    yield 35, "unknown unit.nii", patched(123, "B", 5)
    yield 36, "voxels of 100 m.nii", ct(matrix=affine((1e5, 1e5, 1e5)))
    yield 36, "voxels of 1 micrometre.nii", ct(matrix=affine((1e-3, 1e-3, 1e-3)))
    yield 38, "some NaN.nii", ct(hu=spotted(np.nan, np.inf), dtype="f4")
    yield 38, "1e300.nii", ct(hu=spotted(1e300), dtype="f8")
    yield 38, "all NaN.nii", ct(hu=hu * np.nan, dtype="f4")
    yield 39, "constant.nii", ct(hu=np.zeros(SHAPE))
    yield 39, "air alone.nii", ct(hu=np.random.default_rng(0).integers(-1010, -990, SHAPE))
    yield 40, "0 to 1.nii", ct(hu=(hu + 1000) / 1100, dtype="f4")
    yield 40, "0 to 255.nii", ct(hu=np.clip((hu + 1000) / 5, 0, 255), dtype="u1")
    yield 40, "MR.nii", ct(hu=(hu + 950) * 0.7 + 5)
    yield 40, "inverted.nii", ct(hu=-hu)
    yield 41, "offset missing.nii", ct(hu=hu + 1024)


def good_images() -> Iterator[tuple[int, str, bytes]]:
    """Give sound scans in odd guises; all hold the same HU in the same place."""
    for name, options in {
        "RAS": {"orientation": "RAS"},
        "PSR": {"orientation": "PSR"},
        "float64": {"dtype": "f8"},
        "int32": {"dtype": "i4"},
        "uint16 with an offset": {"dtype": "u2", "slope": 1.0, "inter": -1024.0},
        "big-endian": {"order": ">"},
        "NIfTI-2": {"nifti": 2},
        "qform alone": {"sform": 0},
        "sform alone": {"qform": 0},
        "oblique": {"matrix": affine(tilt_deg=12)},
        "thick slices": {"matrix": affine((10, 0.6, 0.6))},
        "far origin": {"matrix": affine(origin=(9000, 9000, 9000))},
    }.items():
        yield 0, f"{name}.nii", ct(**options)
    yield 0, "o'neill 50 % über 肺.v1.2.nii.gz", gzip.compress(ct())
    yield 0, "4-D, one volume.nii", patched(40, "5h", 4, 10, 9, 8, 1)
    yield 0, "slope 0.nii", patched(112, "2f", 0, 0)
    yield 0, "slope NaN.nii", patched(112, "2f", np.nan, np.nan)
    yield 0, "gzipped but named plain.nii", gzip.compress(ct())
    yield 0, "two gzip members.nii.gz", gzip.compress(ct()[:400]) + gzip.compress(ct()[400:])
    yield 0, "junk after the end.nii.gz", gzip.compress(ct()) + b"junk"


def _with_extension(plain: bytes) -> bytes:
    data = bytearray(plain)
    data[348:352] = b"\1\0\0\0"
    struct.pack_into("<f", data, 108, 352 + 32)
    return bytes(data[:352]) + struct.pack("<ii", 10**6, 4) + b"text".ljust(24) + bytes(data[352:])


def tumour(shape=SHAPE) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[2:4, 3:5, 4:7] = 1
    return label


def bad_labels() -> Iterator[tuple[int, str, bytes]]:
    """Give labels that do not belong to the sound scan, or hold other values than 0 and 1."""
    mark = tumour()

    def shifted(change):
        return ct(hu=mark, dtype="u1", matrix=change @ affine())

    yield 52, "255.nii", ct(hu=mark * 255, dtype="u1")
    yield 52, "another class.nii", ct(hu=mark + 1, dtype="u1")
    yield 52, "minus 1.nii", ct(hu=-mark.astype(int))
    yield 52, "fractional.nii", ct(hu=mark * 0.5, dtype="f4")
    yield 52, "NaN.nii", ct(hu=np.where(mark, np.nan, 0), dtype="f4")
    yield 52, "a CT.nii", ct()
    yield 54, "a slice less.nii", ct(hu=mark[1:], dtype="u1")
    yield 54, "transposed.nii", ct(hu=mark.transpose(0, 2, 1), dtype="u1")
    yield 55, "a voxel off.nii", shifted(np.eye(4) + 0.7 * np.eye(4, k=3))
    yield 55, "flipped.nii", shifted(np.diag([-1, 1, 1, 1]))
    yield 55, "header lost.nii", ct(hu=mark, dtype="u1", sform=0, qform=0)
    yield 57, "empty.nii", ct(hu=mark * 0, dtype="u1")
    yield 57, "inverted.nii", ct(hu=1 - mark, dtype="u1")


def good_labels() -> Iterator[tuple[int, str, bytes]]:
    yield 0, "int64.nii", ct(hu=tumour(), dtype="i8")
    yield 0, "by a slope.nii", ct(hu=tumour(), dtype="u1", slope=1 / 255)
    yield 0, "stored along other axes.nii", ct(hu=tumour(), dtype="u1", orientation="RAS")
    yield (
        0,
        "origin rounded.nii",
        ct(hu=tumour(), dtype="u1", matrix=affine(origin=(20.0001, -30, 40))),
    )


def bad_series(folder: Path) -> Iterator[Input]:
    """Make DICOM series of six slices, each series with one fault."""

    def series(row, name, spoil=lambda paths: None, hu=None, **options):
        paths = write_series(folder / name, hu, **options)
        spoil(paths)
        return Input(row, name, folder / name)

    def cut(path, keep):
        path.write_bytes(path.read_bytes()[:keep])

    def copy(path, **tags):
        shutil.copy(path, path.with_name("copy.dcm"))
        change(path.with_name("copy.dcm"), **tags)

    yield series(59, "slice missing", lambda paths: paths[3].unlink())
    yield series(59, "slice twice", lambda paths: copy(paths[2]))
    yield series(59, "slice twice, unlike", lambda paths: copy(paths[2], PixelData=bytes(160)))
    yield series(59, "slice cut", lambda paths: cut(paths[2], -100))
    yield series(59, "slice without pixels", lambda paths: cut(paths[2], 700))
    yield series(59, "slice empty", lambda paths: cut(paths[2], 0))
    yield series(60, "MR", kind="MR")
    yield series(60, "gantry tilt", step=(0, 0.6, 3.0))
    yield series(60, "no rescale", lambda paths: change(paths[0], RescaleSlope=None))
    yield series(
        60, "pixels of another size", lambda paths: change(paths[4], PixelSpacing=[0.9, 0.9])
    )
    yield series(
        60,
        "slice of another plane",
        lambda paths: change(paths[4], ImageOrientationPatient=list(CORONAL)),
    )
    yield series(60, "no position", lambda paths: change(paths[4], ImagePositionPatient=None))
    yield series(60, "values from 0", hu=series_of() + 1024)
    write_series(folder / "two series", series="1")
    write_series(folder / "two series", series="2")
    yield Input(60, "two series", folder / "two series")
    (folder / "no DICOM").mkdir()
    (folder / "no DICOM" / "readme.txt").write_text("hello")
    yield Input(9, "no DICOM", folder / "no DICOM")


def bad_sets(folder: Path) -> Iterator[Input]:
    """Make copies of a sound set of three cases, each with one fault."""
    content = make_set(folder / "good")
    first, second, third = content["training"]

    def changed(row, name, change):
        root = folder / name
        shutil.copytree(folder / "good", root)
        spoilt = change(root)
        if spoilt is not None:
            (root / "dataset.json").write_bytes(
                spoilt if isinstance(spoilt, bytes) else json.dumps(spoilt).encode()
            )
        return Input(row, name, root)

    yield changed(43, "no dataset.json", lambda root: (root / "dataset.json").unlink())
    for name, data in {
        "empty": b"",
        "malformed": b'{"training": [}',
        "cut": b'{"training": [{"image": "a',
        "a list": b"[]",
        "nested deep": b"[" * 100_000,
    }.items():
        yield changed(43, f"dataset.json {name}", lambda _, data=data: data)
    for row, name, keys in (
        (44, "training missing", {"training": None}),
        (44, "entry of another form", {"training": ["a.nii.gz"]}),
        (44, "count wrong", {"numTraining": 9}),
        (44, "count NaN", {"numTraining": float("nan")}),
        (47, "path outside", {"training": [first, second, {**third, "image": "../x.nii.gz"}]}),
        (
            47,
            "path absolute",
            {"training": [first, second, {**third, "label": "/etc/hostname.nii"}]},
        ),
        (48, "case twice", {"training": [first, second, third, third], "numTraining": 4}),
        (48, "training scan in test", {"test": [first["image"]]}),
        (
            48,
            "labels swapped",
            {
                "training": [
                    {**first, "label": second["label"]},
                    {**second, "label": first["label"]},
                    third,
                ]
            },
        ),
        (
            49,
            "image missing",
            {"training": [first, second, {**third, "image": "./imagesTr/none.nii.gz"}]},
        ),
        (51, "no training case", {"training": [], "numTraining": 0}),
    ):
        yield changed(row, name, lambda _, keys=keys: content | keys)
    label = "labelsTr/toy_0.nii.gz"
    yield changed(49, "label missing", lambda root: (root / label).unlink())
    yield changed(
        49,
        "extra file",
        lambda root: shutil.copy(root / label, root / "imagesTr" / "toy_9.nii.gz") and None,
    )
    yield changed(
        48,
        "one scan under two names",
        lambda root: (
            shutil.copy(root / "imagesTr/toy_0.nii.gz", root / "imagesTr/toy_1.nii.gz") and None
        ),
    )


def make_set(root: Path) -> dict:
    """Write a sound set of three cases and give the content of its dataset.json."""
    names = [f"toy_{number}" for number in range(3)]
    for number, name in enumerate(names):
        for part, array, dtype in (
            ("imagesTr", chest(SHAPE) + 3 * number, "i2"),
            ("labelsTr", tumour(), "u1"),
        ):
            (root / part).mkdir(parents=True, exist_ok=True)
            (root / part / f"{name}.nii.gz").write_bytes(gzip.compress(ct(hu=array, dtype=dtype)))
    content = {
        "name": "Toy",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cancer"},
        "numTraining": 3,
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names
        ],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return content


def bad_checkpoints(folder: Path) -> Iterator[Input]:
    """Make damaged, hostile and foreign checkpoints; a hostile one makes the file `canary` if it is ever run."""
    good, state = folder / "good.safetensors", io.BytesIO()
    checkpoint.save_weights(good, tiny(), FACTS)
    torch.save(state_of(tiny()), state)
    for suffix, content in ((".safetensors", good.read_bytes()), (".pt", state.getvalue())):
        for name, (damage, _) in DAMAGES.items():
            if (suffix, name) != (".pt", "surplus"):  # a zip archive may be followed by anything
                path = folder / f"{name}{suffix}"
                path.write_bytes(damage(content))
                yield Input(62, path.name, path)
        path = folder / f"bit flip{suffix}"
        weight = tiny().state_dict()["encoder.0.0.weight"].numpy().tobytes()
        path.write_bytes(flipped(content, content.index(weight) + 5))
        yield Input(62, path.name, path)
    for write in (bare, by_torch, injected, old_style):
        for payload in (Opens, Runs, Builds):
            path = folder / f"malicious, {write.__name__}, {payload.__name__}.pt"
            write(path, payload(folder / "canary"))
            yield Input(63, path.name, path)
    for name, content in {
        "another program": {"conv": torch.zeros(3)},
        "a list": [1],
        "numpy": {"a": np.float64(1)},
        "NaN": state_of(tiny()) | {"ema": {"head.bias": torch.tensor([float("nan")])}},
    }.items():
        torch.save(content, folder / f"{name}.pt")
        yield Input(64, f"{name}.pt", folder / f"{name}.pt")


def bad_archives(folder: Path) -> Iterator[Input]:
    whole = make_tar(*toy_members(500))
    contents = {name: make_tar(*toy_members(500), member) for name, member in HOSTILE.items()}
    cuts = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "web page": b"<html>Please sign in</html>",
        "zeros": bytes(10240),
        "no dataset": make_tar(*toy_members(500)[2:]),
    }
    for row, files in ((66, contents), (67, cuts)):
        for name, content in files.items():
            path = folder / f"{name}.tar"
            path.write_bytes(content)
            yield Input(row, name, path)


def write_all(folder: Path, kind: str) -> list[Input]:
    """Write the inputs of a kind ("bad_images", "good_labels" …) into `folder` and list them; labels come in pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    make = globals()[kind]
    if kind in ("bad_series", "bad_sets", "bad_checkpoints", "bad_archives"):
        return list(make(folder))
    listed = []
    for row, name, content in make():
        (folder / name).write_bytes(content)
        listed.append(Input(row, name, folder / name))
    if "labels" in kind:
        (folder.parent / "the scan.nii").write_bytes(ct())
        listed = [one._replace(path=(folder.parent / "the scan.nii", one.path)) for one in listed]
    return listed


def judge(one: Input, scratch: Path) -> str:
    """Read an input as the package does: "refused", "said", "silent", or what else came of it."""
    if isinstance(one.path, tuple):
        path, read = one.path[1], lambda path: examine(Task("case", "training", *one.path))
    elif one.path.is_dir():
        path, read = one.path, volume.read if one.path.parent.name == "bad_series" else check
    elif one.path.suffix in (".safetensors", ".pt"):
        path, read = one.path, checkpoint.load_weights
    elif one.path.suffix == ".tar":
        path, read = one.path, lambda path: extract(path, scratch / "out")
    else:
        path, read = one.path, volume.read
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            result = read(path)
        faults, warnings = getattr(result, "faults", []), getattr(result, "warnings", [])
        told = [str(fault) for fault in faults] or [*warnings, *said.getvalue().splitlines()]
    except LungsegError as error:
        faults, told = [error], [str(error)]
    except Exception as error:
        return f"refused unclearly: {type(error).__name__}: {error}"
    finally:
        shutil.rmtree(scratch / "out", ignore_errors=True)
    names = {str(path), printable(path), *map(str, one.path if isinstance(one.path, tuple) else [])}
    clear = all(any(name in text for name in names) for text in told) and all(
        f.cause and f.remedy for f in faults
    )
    if told and not clear:
        return f"refused unclearly: {told}"
    return "refused" if faults else "said" if told else "silent"
