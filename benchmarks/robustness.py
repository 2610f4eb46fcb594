"""Count what becomes of bad and good inputs, here and with other readers, and what the checks cost.

    python benchmarks/robustness.py [--nnunet PYTHON] [--scan FILE] [--only inputs|cost|places|faults ...]

Writes its tables between the marks of docs/robustness.md; the text round them is written by hand. The inputs are those
of tests/helpers_faults.py. `--nnunet` names the Python of an environment with nnunetv2 in it, `--scan` a whole CT.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
PAGE = ROOT / "docs" / "robustness.md"
ENDS = ("refused clearly", "said", "refused unclearly", "silent")
KINDS = {
    "images": "images",
    "labels": "labels with their scan",
    "series": "DICOM series",
    "sets": "sets",
    "checkpoints": "checkpoints",
    "archives": "archives",
}
PEERS = {
    "nibabel": ["images"],
    "SimpleITK": ["images", "series"],
    "MONAI": ["images", "series"],
    "nnU-Net": ["images", "labels"],
}
DEFENCES = {  # what it defends from: where it is done, nowhere else
    "truncation, damage, bombs in gzip streams": [
        "volume/stream.py:Stream.__init__",
        "volume/stream.py:Stream.fill",
        "volume/stream.py:Stream.finish",
        "volume/stream.py:Stream._inflate",
    ],
    "what is no NIfTI, or half of one": ["volume/header.py:_version", "volume/stream.py:describe"],
    "impossible and absurd shapes": ["volume/header.py:_shape"],
    "voxel types, scaling": ["volume/header.py:_dtype", "volume/header.py:_scaling"],
    "header extensions": ["volume/header.py:_offset"],
    "sform, qform, units": ["volume/header.py:_grid", "volume/header.py:_qform"],
    "singular, sheared, implausible grids": ["volume/grid.py:check_affine"],
    "values that are not HU": [
        "volume/intensity.py:check_hounsfield",
        "volume/intensity.py:HounsfieldWriter.finish",
    ],
    "labels of other values or elsewhere": [
        "volume/nifti.py:read_binary",
        "volume/nifti.py:_check_same_grid",
    ],
    "the patient's data": ["volume/nifti.py:_new_header", "volume/dicom_files.py:read_file"],
    "DICOM: damage, junk, series": [
        "volume/dicom_files.py:_File.read",
        "volume/dicom_files.py:_header",
        "volume/dicom_files.py:choose",
    ],
    "DICOM: stacks with gaps, tilt, mixed slices": [
        "volume/dicom.py:_slice",
        "volume/dicom.py:_sorted",
        "volume/dicom.py:_affine",
    ],
    "DICOM: codecs, cut pixels": ["volume/dicom.py:_pixels"],
    "dataset.json": ["decathlon/source.py:read_json", "decathlon/source.py:find_root"],
    "entries, leaks, paths out of the set": [
        "decathlon/dataset.py:_Reader.path",
        "decathlon/dataset.py:_Reader.case",
        "decathlon/dataset.py:_Reader.find_repeats",
        "decathlon/dataset.py:_Reader.compare_count",
        "decathlon/dataset.py:_Reader.find_extra_files",
    ],
    "empty, inverted, tiny labels": [
        "decathlon/fingerprint.py:_describe_label",
        "decathlon/check.py:_compare",
    ],
    "worker processes that die": ["decathlon/fingerprint.py:_in_processes"],
    "downloads": [
        "decathlon/fetch.py:_Part.proceed",
        "decathlon/fetch.py:_Part._receive",
        "decathlon/fetch.py:_HttpOnly.redirect_request",
        "decathlon/download.py:_lock",
    ],
    "archives": ["decathlon/archive.py:judge", "decathlon/archive.py:_inside"],
    "checkpoints": [
        "checkpoint.py:_read",
        "checkpoint.py:_unzip_state",
        "checkpoint.py:_parse_weights",
        "checkpoint.py:_check_fit",
    ],
    "damaged and stale caches": ["preprocess/cache.py:load"],
    "half-written files, full disks": ["runtime.py:writing", "runtime.py:file_error"],
    "folders that cannot be written": ["runtime.py:require_writable"],
    "parameters": ["parameters.py:check", "parameters.py:_one"],
    "other settings on resume, damaged states": ["training/run_folder.py:restore"],
    "loss that is no number": ["training/__init__.py:train_one_epoch"],
    "too little GPU memory": ["prediction/__init__.py:Predictor.probabilities"],
    "outputs that collide or overwrite": ["prediction/files.py:plan"],
    "control characters in messages": ["runtime.py:printable"],
}


def inputs_table(nnunet: str | None) -> str:
    """Read every input of the catalogue with everybody; give a table of counts, and one of every bad image."""
    from helpers_faults import judge, write_all

    from lungseg_utils import __version__

    rows, by_input = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        bad = {kind: write_all(scratch / f"bad_{kind}", f"bad_{kind}") for kind in KINDS}
        good = {
            kind: write_all(scratch / f"good_{kind}", f"good_{kind}")
            for kind in ("images", "labels")
        }
        sound = write_all(scratch / "pairs", "good_labels")[0].path[
            1
        ]  # beside every image, for nnU-Net
        for kind, listed in bad.items():
            ends = [
                {"refused": "refused clearly"}.get(end := judge(one, scratch), end)
                for one in listed
            ]
            ends = [
                "refused unclearly" if end.startswith("refused unclearly") else end for end in ends
            ]
            handled = [judge(one, scratch) in ("silent", "said") for one in good.get(kind, [])]
            rows.append(["this package " + __version__, KINDS[kind], ends, handled])
            by_input |= {
                (one.row, one.name): [end]
                for one, end in zip(listed, ends, strict=True)
                if kind == "images"
            }
        for peer, kinds in PEERS.items():
            python = nnunet if peer == "nnU-Net" else sys.executable
            for kind in kinds:
                if not python:
                    rows.append([peer, KINDS[kind], None, None])
                    continue
                fine = good.get(kind, [])
                listed = [one.path for one in bad[kind] + fine]
                if (
                    peer == "nnU-Net" and kind == "images"
                ):  # it asks for a label; the good images lie in other places
                    listed, fine = [(one.path, sound) for one in bad[kind]], []
                version, ends = ask_peer(python, peer, listed)
                count = len(bad[kind])
                rows.append(
                    [
                        version,
                        KINDS[kind],
                        ends[:count],
                        [not e.startswith("refused") for e in ends[count:]],
                    ]
                )
            if kinds and rows[-len(kinds)][2]:
                for cells, end in zip(by_input.values(), rows[-len(kinds)][2], strict=True):
                    cells.append(end)
    lines = [
        "| reader | bad inputs | tried | "
        + " | ".join(ENDS).replace("silent", "accepted in silence")
        + " | good ones handled |",
        "| --- | --- |" + " ---: |" * 6,
    ]
    for reader, kind, ends, handled in rows:
        if ends is None:
            lines.append(f"| {reader} | {kind} | not run | | | | | |")
            continue
        counts = [str(ends.count(end)) for end in ENDS]
        done = f"{sum(handled)} of {len(handled)}" if handled else ""
        lines.append(" | ".join([f"| {reader}", kind, str(len(ends)), *counts, f"{done} |"]))
    asked = ["this package", *PEERS][: len(next(iter(by_input.values())))]
    lines += [
        "",
        "What becomes of every bad image:",
        "",
        f"| fault | image | {' | '.join(asked)} |",
        "| ---: | --- |" + " --- |" * len(asked),
    ]
    short = {
        "refused clearly": "refused",
        "refused unclearly": "refused, unclear",
        "silent": "**accepted in silence**",
    }
    lines += [
        f"| {row} | {name} | " + " | ".join(short.get(end, end) for end in cells) + " |"
        for (row, name), cells in by_input.items()
    ]
    return "\n".join(lines)


def ask_peer(python: str, peer: str, listed: list) -> tuple[str, list[str]]:
    inputs = json.dumps(
        [str(one) if isinstance(one, Path) else [str(path) for path in one] for one in listed]
    )
    script = Path(__file__).with_name("robustness_peers.py")
    answer = subprocess.run(
        [python, str(script), peer],
        input=inputs,
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "nnUNet_raw": "x",
            "nnUNet_results": "x",
            "nnUNet_preprocessed": "x",
        },
    )
    told = json.loads(answer.stdout.splitlines()[-1])
    return told["version"], told["ends"]


def cost_table(scan: Path, rounds: int = 5) -> str:
    """Time `check` of a scan against bare reads, and give what the checks add to a prediction; processor seconds."""
    import nibabel
    import numpy as np
    import torch

    from lungseg_utils import volume
    from lungseg_utils.decathlon.fingerprint import Task, examine
    from lungseg_utils.prediction import Predictor, predict
    from lungseg_utils.volume import intensity

    torch.set_num_threads(1)

    def unchecked():
        """Read as `volume.read` does, without a look at the values; the checksum of the stream cannot be left out."""
        with unittest.mock.patch.object(
            intensity.HounsfieldWriter, "finish", lambda writer: writer.hu
        ):
            return volume.read(scan).hu

    ways = {
        "nibabel, bare: `np.asanyarray(nibabel.load(path).dataobj)`": lambda: np.asanyarray(
            nibabel.load(scan).dataobj
        ),
        "this reader, its look at the values taken out": unchecked,
        "`volume.read`": lambda: volume.read(scan).hu,
        "`check` of the scan: that, and its fingerprint": lambda: examine(
            Task("x", "test", scan, None)
        ),
    }
    took = {name: min(seconds_of(way) for _ in range(rounds)) for name, way in ways.items()}
    bare, plain, checked, _ = took.values()
    predictor = Predictor(device="cpu")
    whole = min(
        seconds_of(lambda: predict(volume.read(scan), predictor=predictor)) for _ in range(2)
    )
    size = f"{'×'.join(map(str, volume.read_header(scan).shape))} voxels, {scan.stat().st_size / 1e6:.0f} MB"
    lines = [
        f"A CT of {size}; processor seconds, the least of {rounds} rounds, one thread.",
        "",
        "| way | seconds | against nibabel | against this reader without checks |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {seconds:.2f} | {seconds / bare:.2f} | {seconds / plain:.2f} |"
        for name, seconds in took.items()
    ]
    more = max(0.0, checked - plain)
    return "\n".join(
        [
            *lines,
            "",
            f"`predict` of that scan takes {whole:.2f} s, reading included; the look at its "
            f"values takes {f'{more:.2f}' if more >= 0.01 else 'less than 0.01'} s, {more / whole:.1%}.",
        ]
    )


def seconds_of(way: Callable) -> float:
    started = time.process_time()
    way()
    return time.process_time() - started


def places_table() -> str:
    """List the place of each defence, with its lines."""
    package, lines, total = (
        ROOT / "lungseg_utils",
        ["| against | place | lines |", "| --- | --- | ---: |"],
        0,
    )
    for what, places in DEFENCES.items():
        counts = [lines_of(package, place) for place in places]
        total += sum(counts)
        lines.append(f"| {what} | {', '.join(f'`{place}`' for place in places)} | {sum(counts)} |")
    code = sum(len(path.read_text("utf-8").splitlines()) for path in package.rglob("*.py"))
    return "\n".join(
        [
            *lines,
            "",
            f"Together {total} lines of the package's {code:,} ({total / code:.0%}). Counted are "
            "whole functions, with their docstrings and the work that they do beside their checks.",
        ]
    )


def lines_of(package: Path, place: str) -> int:
    file, _, name = place.partition(":")
    tree = ast.parse((package / file).read_text("utf-8"))
    for part in name.split("."):
        tree = next(
            node for node in ast.iter_child_nodes(tree) if getattr(node, "name", None) == part
        )
    return tree.end_lineno - min([tree.lineno, *(node.lineno for node in tree.decorator_list)]) + 1


def faults_table() -> str:
    """List the ninety faults with their tests."""
    from test_faults_covered import FAULTS, named_tests

    lines = ["| fault | what | tests |", "| ---: | --- | --- |"]
    for number, names in named_tests().items():
        shown = ", ".join(f"`{name.split('.test_fault_')[1]}`" for name in dict.fromkeys(names))
        lines.append(f"| {number} | {FAULTS[number - 1]} | {shown} |")
    return "\n".join(lines)


def put(name: str, table: str) -> None:
    """Replace what stands between the marks of `name` in the page."""
    begin, end = f"<!-- {name}: made by benchmarks/robustness.py -->\n", f"<!-- end of {name} -->"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(
        before + begin + "\n" + table + "\n\n" + end + rest.partition(end)[2], encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nnunet", metavar="PYTHON")
    parser.add_argument("--scan", metavar="FILE", type=Path)
    parser.add_argument("--only", nargs="+", choices=("inputs", "cost", "places", "faults"))
    options = parser.parse_args()
    wanted = options.only or ["inputs", "places", "faults"] + ["cost"] * bool(options.scan)
    makers = {
        "inputs": lambda: inputs_table(options.nnunet),
        "cost": lambda: cost_table(options.scan),
        "places": places_table,
        "faults": faults_table,
    }
    for name in wanted:
        put(name, makers[name]())


if __name__ == "__main__":
    main()
