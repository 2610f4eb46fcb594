"""Small good files of every kind that the package reads, mutants of them, and their readers.

A mutant is made from a kind, a seed and a number alone, so that any of them can be made again.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors import torch as safetensors
from spoil import spoil, spoil_tar, spoil_tree, spoil_zip
from test_dicom import make_slice
from test_download import JSON, make_tar, toy_members

from lungseg_utils import checkpoint, decathlon, volume
from lungseg_utils.decathlon.archive import extract
from lungseg_utils.preprocess import Prepared, cache
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet
from lungseg_utils.volume import CANONICAL


class Folder:
    """The good files, made once under `root`, and the ways to spoil and to read them."""

    def __init__(self, root: Path):
        self.root = root
        self.nowhere = io.StringIO()
        self.good: dict[str, list[bytes]] = {}
        hu = np.random.default_rng(0).integers(-900, 300, (8, 8, 8)).astype(np.int16)
        label = (hu > 100).astype(np.uint8)
        self._make_images(hu, label)
        self._make_series(hu)
        self._make_sets()
        self._make_weights()
        box = (slice(0, 8), slice(0, 8), slice(0, 8))
        cache.save(root / "c", Prepared("c", hu, label, label, label, box, (3.0, 2.0, 2.0)))
        self.good["cache"] = [(root / "c").read_bytes()]

    def _make_images(self, hu: np.ndarray, label: np.ndarray) -> None:
        affine = CANONICAL @ np.diag([3.0, 2.0, 2.0, 1.0])
        for name, array, dtype in (
            ("ct", hu, None),
            ("ct_f4", hu, "f4"),
            ("label", label, None),
            ("wide", hu, "i4"),
        ):
            volume.write_nifti(self.root / f"{name}.nii", array, affine, dtype=dtype)
        self.scan = volume.read(self.root / "ct.nii")
        plain = [(self.root / f"{name}.nii").read_bytes() for name in ("ct", "ct_f4", "wide")]
        self.good["nifti"] = plain
        self.good["gzip"] = [gzip.compress(data, mtime=0) for data in plain]
        self.good["label"] = [(self.root / "label.nii").read_bytes()]

    def _make_series(self, hu: np.ndarray) -> None:
        folder = self.root / "series"
        folder.mkdir()
        for number, plane in enumerate(hu[:3]):
            one = make_slice(plane, (-5.0, -6.0, 3.0 * number), number=number)
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
            one.save_as(folder / f"{number}.dcm")
        self.good["dicom"] = [(folder / f"{number}.dcm").read_bytes() for number in range(3)]

    def _make_sets(self) -> None:
        for folder in ("imagesTr", "labelsTr"):
            (self.root / "toy" / folder).mkdir(parents=True)
            for name in ("toy_0", "toy_1"):
                (self.root / "toy" / folder / f"{name}.nii.gz").touch()
        self.good["json"] = [json.dumps(JSON).encode()]
        gnu = make_tar(*toy_members(700), form=tarfile.GNU_FORMAT)
        self.good["tar"] = [make_tar(*toy_members(100)), gnu]

    def _make_weights(self) -> None:
        torch.manual_seed(0)
        model = SegUNet(channels=(2, 3))
        self.tensors = model.state_dict()
        self.described = json.dumps({"network": model.config(), "facts": {"spacing_mm": 3.0}})
        self.good["weights"] = [self.save_weights(self.described)]
        self.good["state"] = [self.save_state(self.described)]

    def save_weights(self, described: str) -> bytes:
        digest = checkpoint._digest(self.tensors, described)
        return safetensors.save(self.tensors, {"lungseg": described, "digest": digest})

    def save_state(self, described: str) -> bytes:
        file = io.BytesIO()
        torch.save({"ema": self.tensors, "described": described, "epoch": 3}, file)
        return file.getvalue()

    def mutant(self, kind: str, random: Random) -> bytes:
        """Spoil a good file: its raw bytes, or what lies under checksums, then corrected."""
        good = random.choice(self.good[kind])
        deeper = random.random() < 0.5
        if kind in ("nifti", "label") and deeper:
            return spoil(random, good, end=352)
        if kind == "gzip" and deeper:
            end = random.choice((352, 2000))
            return gzip.compress(spoil(random, random.choice(self.good["nifti"]), end=end), mtime=0)
        if kind == "json" and deeper:
            return json.dumps(spoil_tree(random, json.loads(good))).encode("utf-8", "surrogatepass")
        if kind in ("weights", "state") and random.random() < 0.3:
            write = self.save_weights if kind == "weights" else self.save_state
            return write(json.dumps(spoil_tree(random, json.loads(self.described))))
        if kind in ("weights", "cache") and deeper:
            size = 8 + int.from_bytes(good[:8], "little")
            header = json.dumps(spoil_tree(random, json.loads(good[8:size]))).encode()
            return len(header).to_bytes(8, "little") + header + good[size:]
        if kind == "state" and deeper:
            return spoil_zip(random, good)
        if kind == "tar" and deeper:
            return spoil_tar(random, good)
        return spoil(random, good)

    def read(self, kind: str, content: bytes, number: int) -> None:
        """Read a mutant (of DICOM slice `number`): a sound result or LungsegError is right."""
        names = {"gzip": "m.nii.gz", "weights": "m.safetensors", "state": "m.pt"}
        path = self.root / names.get(kind, "m.nii")
        if kind == "dicom":
            path = self.root / "series" / f"{number}.dcm"
            before = path.read_bytes()
        elif kind == "json":
            path = self.root / "toy" / "dataset.json"
        path.write_bytes(content)
        self.nowhere.truncate(self.nowhere.seek(0))
        try:
            with contextlib.redirect_stderr(self.nowhere), np.errstate(all="ignore"):
                getattr(self, f"_{kind}")(path)
        finally:
            if kind == "dicom":
                path.write_bytes(before)

    def _nifti(self, path: Path) -> None:
        scan = volume.read(path)
        assert scan.hu.ndim == 3 and scan.hu.dtype in (np.int16, np.float32)
        assert np.isfinite(scan.hu).all()
        assert np.isfinite(scan.affine).all() and all(0.01 < step < 100 for step in scan.spacing_mm)
        volume.write_mask(self.root / "mask.nii", scan.hu > 0, scan)
        assert np.array_equal(volume.read_label(self.root / "mask.nii", like=scan), scan.hu > 0)

    _gzip = _nifti

    def _label(self, path: Path) -> None:
        label = volume.read_label(path, like=self.scan)
        assert label.shape == self.scan.hu.shape and label.dtype == np.uint8 and label.max() <= 1

    def _dicom(self, path: Path) -> None:
        scan = volume.read(path.parent)
        assert np.isfinite(scan.hu).all() and np.isfinite(scan.affine).all()
        assert len(scan.slices) == len(scan.hu)

    def _json(self, path: Path) -> None:
        dataset = decathlon.load(path.parent)
        cases = dataset.training + dataset.test
        files = [file for case in cases for file in (case.image, case.label) if file]
        assert files and all(path.parent.resolve() in file.resolve().parents for file in files)

    def _weights(self, path: Path) -> None:
        model, facts = checkpoint.load_weights(path)
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
        assert facts["spacing_mm"] > 0

    def _state(self, path: Path) -> None:
        checkpoint.load_state(path)
        self._weights(path)

    def _cache(self, path: Path) -> None:
        prepared = cache.load(path)
        if prepared is None:
            raise LungsegError(path, "damaged", "It is made again")
        assert prepared.hu.ndim == 3
        assert np.isfinite([prepared.hu.sum(), *prepared.spacing_mm]).all()

    def _tar(self, path: Path) -> None:
        folder = self.root / "out" / "stage"
        folder.parent.mkdir(exist_ok=True)
        before = set(self.root.iterdir())
        try:
            decathlon.load(extract(path, folder))
            assert not any(file.is_symlink() for file in folder.rglob("*"))
        finally:
            assert set(self.root.iterdir()) == before and set(folder.parent.iterdir()) <= {folder}
            shutil.rmtree(folder, ignore_errors=True)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, is a lack of memory."""
    while error is not None:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
