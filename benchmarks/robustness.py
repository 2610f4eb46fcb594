"""Count what becomes of bad and good inputs, here and with other readers, and what checks cost.

    python benchmarks/robustness.py [--nnunet PYTHON] [--scan FILE] [--only inputs|cost|faults ...]

Writes its tables between the marks of benchmarks/results/robustness.md; the text round them is
written by hand. The inputs are those of tests/helpers_faults.py. `--nnunet` names the Python of an
environment with nnunetv2 in it, `--scan` a whole CT.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from helpers_bad_folders import Input

from report import put

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
PAGE = ROOT / "benchmarks" / "results" / "robustness.md"
ENDS = {
    "refused": "refused clearly",
    "warned": "read with a warning",
    "refused unclearly": "refused unclearly",
    "silent": "accepted silently",
}
KINDS = {
    "images": "images",
    "bodies": "whole chests",
    "labels": "labels with their scan",
    "series": "DICOM series",
    "sets": "sets",
    "checkpoints": "checkpoints",
    "archives": "archives",
}
GOOD = ("images", "bodies", "labels", "series", "sets")
PEERS = {
    "nibabel": ["images", "bodies"],
    "SimpleITK": ["images", "bodies", "series"],
    "MONAI": ["images", "bodies", "series", "sets"],
    "nnU-Net": ["images", "bodies", "labels"],
}


class Row(NamedTuple):
    """What became of the inputs of one kind with one reader; without any it was not run."""

    reader: str
    kind: str
    ends: list[str]  # of the bad inputs
    handled: list[bool]  # of the good ones

    def shown(self) -> str:
        """Return the row of the table of counts."""
        start = f"| {self.reader} | {KINDS[self.kind]} |"
        if not self.ends:
            return f"{start} not run | | | | | |"
        counts = [str(self.ends.count(end)) for end in ENDS]
        good = f"{sum(self.handled)} of {len(self.handled)}" if self.handled else ""
        return f"{start} {len(self.ends)} | {' | '.join(counts)} | {good} |"


def inputs_table(nnunet: str | None) -> str:
    """Read every input with every reader; return a table of counts, and of all bad images."""
    from helpers_faults import write_all

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        bad = {kind: write_all(scratch / f"bad_{kind}", f"bad_{kind}") for kind in KINDS}
        good = {kind: write_all(scratch / f"good_{kind}", f"good_{kind}") for kind in GOOD}
        rows = [judge_here(kind, bad[kind], good.get(kind, []), scratch) for kind in KINDS]
        for peer, kinds in PEERS.items():
            for kind in kinds:
                inputs = (bad[kind], good.get(kind, []))
                if peer == "nnU-Net" and kind != "labels":
                    inputs = ([with_label(one, good["labels"][0].path[1]) for one in bad[kind]], [])
                python = nnunet if peer == "nnU-Net" else sys.executable
                rows.append(ask_peer(python, peer, kind, *inputs))
    lines = [
        f"| reader | bad inputs | tried | {' | '.join(ENDS.values())} | good ones handled |",
        "| --- | --- |" + " ---: |" * (len(ENDS) + 2),
        *(row.shown() for row in rows),
    ]
    for kind in ("images", "bodies", "series"):
        names = [one.name for one in bad[kind]]
        lines += ["", f"What becomes of every bad input, {KINDS[kind]}:", ""]
        lines += ends_table(names, [row for row in rows if row.kind == kind and row.ends])
    return "\n".join(lines)


def ends_table(names: list[str], rows: list[Row]) -> list[str]:
    """Return the lines of a table of what became of each input with each reader."""
    short = ENDS | {"refused": "refused", "silent": "**accepted silently**"}
    lines = [
        f"| input | {' | '.join(row.reader for row in rows)} |",
        "| --- |" + " --- |" * len(rows),
    ]
    for name, ends in zip(names, zip(*(row.ends for row in rows))):
        lines.append(f"| {name} | {' | '.join(short[end] for end in ends)} |")
    return lines


def with_label(one: Input, sound: Path) -> Input:
    """Pair an image with a label, as nnU-Net asks: a `sound` one, or an empty one on its grid."""
    import nibabel
    import numpy as np

    label = sound
    if one.path.parent.name == "bad_bodies":
        body = nibabel.load(one.path)
        label = one.path.parent.with_name("labels") / one.name
        label.parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.zeros(body.shape, np.uint8), body.affine), label)
    return one._replace(path=(one.path, label))


def judge_here(kind: str, bad: list, good: list, scratch: Path) -> Row:
    """Read the inputs of a kind with this package."""
    from helpers_faults import judge

    from lungseg_utils import __version__

    ends = [judge(one, scratch).partition(":")[0] for one in bad]
    handled = [judge(one, scratch) in ("silent", "warned") for one in good]
    return Row(f"this package {__version__}", kind, ends, handled)


def ask_peer(python: str | None, peer: str, kind: str, bad: list, good: list) -> Row:
    """Read the inputs of a kind with another reader, in the Python that it is installed in."""
    if not python:
        return Row(peer, kind, [], [])
    folders = dict.fromkeys(("nnUNet_raw", "nnUNet_results", "nnUNet_preprocessed"), "unused")
    answer = subprocess.run(
        [python, str(Path(__file__).with_name("robustness_peers.py")), peer],
        input=json.dumps([one.path for one in [*bad, *good]], default=str),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **folders, "OMP_NUM_THREADS": "1"},
    )
    answered = json.loads(answer.stdout.splitlines()[-1])
    ends = [end for end, _ in answered["ends"]]
    handled = [
        not end.startswith("refused") and one.voxels in (0, voxels)
        for one, (end, voxels) in zip(good, answered["ends"][len(bad) :], strict=True)
    ]
    return Row(answered["version"], kind, ends[: len(bad)], handled)


def cost_table(scan: Path, rounds: int = 5) -> str:
    """Time the reading of a scan, its `check` and its prediction in processor seconds."""
    import nibabel
    import numpy as np
    import torch

    from lungseg_utils import volume
    from lungseg_utils.decathlon.fingerprint import Task, examine
    from lungseg_utils.prediction import Predictor, predict
    from lungseg_utils.volume import intensity

    torch.set_num_threads(1)

    def read_unchecked() -> np.ndarray:
        """Read without a look at the values; the checksum of the stream cannot be left out."""
        unchecked = unittest.mock.patch.object(
            intensity.HounsfieldWriter, "finish", lambda writer: writer.hu
        )
        with unchecked:
            return volume.read(scan).hu

    def read_bare() -> np.ndarray:
        return np.asanyarray(nibabel.load(scan).dataobj)

    ways = {
        "nibabel, bare: `np.asanyarray(nibabel.load(path).dataobj)`": read_bare,
        "this reader, its look at the values taken out": read_unchecked,
        "`volume.read`": lambda: volume.read(scan).hu,
        "`check` of the scan: that, and its fingerprint": lambda: examine(
            Task("x", "test", scan, None)
        ),
    }
    took = {name: min(seconds_of(way) for _ in range(rounds)) for name, way in ways.items()}
    bare, unchecked, checked, _ = took.values()
    predictor = Predictor(device="cpu")
    whole = min(
        seconds_of(lambda: predict(volume.read(scan), predictor=predictor)) for _ in range(2)
    )
    header = volume.read_header(scan)
    size = f"{'×'.join(map(str, header.shape))} voxels, {scan.stat().st_size / 1e6:.0f} MB"
    more = max(0.0, checked - unchecked)
    look = f"{more:.2f} s" if more >= 0.01 else "less than 0.01 s"
    return "\n".join(
        [
            f"A CT of {size}; processor seconds, the least of {rounds} rounds, one thread.",
            "",
            "| way | seconds | against nibabel | against this reader without checks |",
            "| --- | ---: | ---: | ---: |",
            *(
                f"| {name} | {seconds:.2f} | {seconds / bare:.2f} | {seconds / unchecked:.2f} |"
                for name, seconds in took.items()
            ),
            "",
            f"`predict` of that scan takes {whole:.2f} s, reading included; the look at its values "
            f"takes {look}, {more / whole:.1%}.",
        ]
    )


def seconds_of(way: Callable) -> float:
    started = time.process_time()
    way()
    return time.process_time() - started


def faults_table() -> str:
    """List every fault with the tests that bear its mark."""
    from test_faults_covered import marked_tests

    lines = ["| fault | tests |", "| --- | --- |"]
    for fault, tests in marked_tests().items():
        lines.append(f"| {fault} | {', '.join(f'`{name}`' for name in tests)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nnunet", metavar="PYTHON")
    parser.add_argument("--scan", metavar="FILE", type=Path)
    parser.add_argument("--only", nargs="+", choices=("inputs", "cost", "faults"))
    options = parser.parse_args()
    makers = {"inputs": lambda: inputs_table(options.nnunet), "faults": faults_table}
    if options.scan:
        makers["cost"] = lambda: cost_table(options.scan)
    for name in options.only or makers:
        put(PAGE, name, "benchmarks/robustness.py", makers[name]())


if __name__ == "__main__":
    main()
