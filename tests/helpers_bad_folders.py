"""Bad series, sets, checkpoints and archives, made in a folder: the rest of the catalogue."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from helpers_bad_files import SHAPE, ct, flipped, tumour
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
from test_volume import chest

from lungseg_utils import checkpoint


class Input(NamedTuple):
    """A file, a folder or a pair (image, label) to read; it is to have so many `voxels`, if any."""

    name: str
    path: Path | tuple[Path, Path]
    voxels: int = 0


def bad_series(folder: Path) -> Iterator[Input]:
    """Make DICOM series of six slices, each series with one fault."""

    def series(name, spoil=lambda paths: None, hu=None, **options):
        paths = write_series(folder / name, hu, **options)
        spoil(paths)
        return Input(name, folder / name)

    def cut(path, keep):
        path.write_bytes(path.read_bytes()[:keep])

    def copy(path, **tags):
        shutil.copy(path, path.with_name("copy.dcm"))
        change(path.with_name("copy.dcm"), **tags)

    yield series("slice missing", lambda paths: paths[3].unlink())
    yield series("slice twice", lambda paths: copy(paths[2]))
    yield series("slice twice, unlike", lambda paths: copy(paths[2], PixelData=bytes(160)))
    yield series("slice cut", lambda paths: cut(paths[2], -100))
    yield series("slice without pixels", lambda paths: cut(paths[2], 700))
    yield series("slice empty", lambda paths: cut(paths[2], 0))
    yield series("MR", kind="MR")
    yield series("gantry tilt", step=(0, 0.6, 3.0))
    yield series("no rescale", lambda paths: change(paths[0], RescaleSlope=None))
    yield series("pixels of another size", lambda paths: change(paths[4], PixelSpacing=[0.9, 0.9]))
    yield series(
        "slice of another plane",
        lambda paths: change(paths[4], ImageOrientationPatient=list(CORONAL)),
    )
    yield series("no position", lambda paths: change(paths[4], ImagePositionPatient=None))
    yield series("values from 0", hu=series_of() + 1024)
    write_series(folder / "two series", series="1")
    write_series(folder / "two series", series="2")
    yield Input("two series", folder / "two series")
    (folder / "no DICOM").mkdir()
    (folder / "no DICOM" / "readme.txt").write_text("hello")
    yield Input("no DICOM", folder / "no DICOM")


def bad_sets(folder: Path) -> Iterator[Input]:
    """Make copies of a sound set of three cases, each with one fault."""
    content = make_set(folder / "good")
    first, second, third = content["training"]

    def changed(name, change):
        """Copy the sound set and change it: `change` takes its folder."""
        shutil.copytree(folder / "good", folder / name)
        change(folder / name)
        return Input(name, folder / name)

    def described(name, data):
        """Copy the sound set, with `data` for its dataset.json."""
        return changed(name, lambda root: (root / "dataset.json").write_bytes(data))

    yield changed("no dataset.json", lambda root: (root / "dataset.json").unlink())
    for name, data in {
        "empty": b"",
        "malformed": b'{"training": [}',
        "cut": b'{"training": [{"image": "a',
        "a list": b"[]",
        "nested deep": b"[" * 100_000,
    }.items():
        yield described(f"dataset.json {name}", data)
    swapped = [{**first, "label": second["label"]}, {**second, "label": first["label"]}, third]
    for name, keys in {
        "training missing": {"training": None},
        "entry of another form": {"training": ["a.nii.gz"]},
        "count wrong": {"numTraining": 9},
        "count NaN": {"numTraining": float("nan")},
        "path outside": {"training": [first, second, {**third, "image": "../x.nii.gz"}]},
        "path absolute": {"training": [first, second, {**third, "label": "/etc/hostname.nii"}]},
        "case twice": {"training": [first, second, third, third], "numTraining": 4},
        "training scan in test": {"test": [first["image"]]},
        "labels swapped": {"training": swapped},
        "image missing": {"training": [first, second, {**third, "image": "imagesTr/none.nii.gz"}]},
        "no training case": {"training": [], "numTraining": 0},
    }.items():
        yield described(name, json.dumps(content | keys).encode())
    image, label = "imagesTr/toy_0.nii.gz", "labelsTr/toy_0.nii.gz"
    yield changed("label missing", lambda root: (root / label).unlink())
    for name, source, copy in (
        ("extra file", label, "imagesTr/toy_9.nii.gz"),
        ("one scan under two names", image, "imagesTr/toy_1.nii.gz"),
    ):
        yield changed(
            name, lambda root, source=source, copy=copy: shutil.copy(root / source, root / copy)
        )


def make_set(root: Path) -> dict:
    """Write a sound set of three cases and return the content of its dataset.json."""
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
    """Make damaged, hostile and foreign checkpoints; what a hostile one runs makes `canary`."""
    good, state = folder / "good.safetensors", io.BytesIO()
    checkpoint.save_weights(good, tiny(), FACTS)
    torch.save(state_of(tiny()), state)
    for suffix, content in ((".safetensors", good.read_bytes()), (".pt", state.getvalue())):
        for name, (damage, _) in DAMAGES.items():
            if (suffix, name) != (".pt", "surplus"):  # a zip archive may be followed by anything
                path = folder / f"{name}{suffix}"
                path.write_bytes(damage(content))
                yield Input(path.name, path)
        path = folder / f"bit flip{suffix}"
        weight = tiny().state_dict()["encoder.0.0.weight"].numpy().tobytes()
        path.write_bytes(flipped(content, content.index(weight) + 5))
        yield Input(path.name, path)
    for write in (bare, by_torch, injected, old_style):
        for payload in (Opens, Runs, Builds):
            path = folder / f"malicious, {write.__name__}, {payload.__name__}.pt"
            write(path, payload(folder / "canary"))
            yield Input(path.name, path)
    for name, content in {
        "another program": {"conv": torch.zeros(3)},
        "a list": [1],
        "numpy": {"a": np.float64(1)},
        "NaN": state_of(tiny()) | {"ema": {"head.bias": torch.tensor([float("nan")])}},
    }.items():
        torch.save(content, folder / f"{name}.pt")
        yield Input(f"{name}.pt", folder / f"{name}.pt")


def bad_archives(folder: Path) -> Iterator[Input]:
    """Make archives with a hostile member, and cut or foreign ones."""
    whole = make_tar(*toy_members(500))
    contents = {name: make_tar(*toy_members(500), member) for name, member in HOSTILE.items()}
    cuts = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "web page": b"<html>Please sign in</html>",
        "zeros": bytes(10240),
        "no dataset": make_tar(*toy_members(500)[2:]),
    }
    for name, content in (contents | cuts).items():
        path = folder / f"{name}.tar"
        path.write_bytes(content)
        yield Input(name, path)
