"""Measure what many scans cost: the stages of one, and how many a minute pass each door.

    python benchmarks/scale.py [--slices 100 275 500] [--scans 12] [--device cpu] [--stages-only]
        [--output benchmarks/results/scale]

The scans are one synthetic chest of 512 × 512, in slices of several thicknesses, and in the disk's
cache. Stages: one scan after another, in a process of one thread, alone and beside another such
process, and in one of as many threads as cores. Doors: the same scans by `lungseg predict` as one
process, as two shards at once, and by Ray with one and two actors; the rate is taken between the
first and the last mask, so that it holds no start. The rest: what Ray takes for an item that does
nothing, and what plan and manifest take for a scan. The machine should have nothing else to do: its
load is written down. Writes OUTPUT.json and OUTPUT.md; `simulate_cohort.py` reads the former.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from processes import describe_machine
from report import RESULTS, make_parser, write_results
from scale_overheads import measure_manifest, measure_ray, seconds_of
from scale_report import ACTORS, ONE, SHARDS, STAGES, tables
from scans import SCRATCH, synthetic_scan
from stages import CLOCK, SECONDS, time_prediction

from lungseg_utils import runtime, volume


def apart(work: Callable, *arguments: object, threads: int | None = 1) -> Future:
    """Begin `work` in a process of its own, of so many threads; None: as many as cores."""
    before = os.environ.pop("OMP_NUM_THREADS", None)
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        coming = pool.submit(work, *arguments)
        pool.shutdown(wait=False)
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
    return coming


def measure_stages(scans: Sequence[Path], device: str) -> list[dict[str, float]]:
    """Return the seconds of each stage of each scan; the first one is done once more before.

    Of one thread on a CPU they are the core's, in which no other program has a share.
    """
    import torch

    from lungseg_utils.prediction import predict_files

    time_prediction()
    if device == "cpu" and torch.get_num_threads() == 1:
        CLOCK[0] = time.process_time
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for scan in (scans[0], *scans):
            SECONDS.clear()
            list(predict_files([scan], folder, device=device))
            found.append({name: round(SECONDS[name], 4) for name in STAGES})
    return found[1:]


def measure_sizes(scans: Sequence[Path]) -> list[dict]:
    """Return each scan's bytes, and what its file takes to read, gzipped and plain."""
    rows = []
    for path in scans:
        scan = volume.read(path)
        plain = path.with_name("plain.nii")
        volume.write_nifti(plain, scan.hu, scan.affine)
        row = {"slices": scan.hu.shape[0], "bytes": path.stat().st_size}
        row["plain_bytes"] = plain.stat().st_size
        for name, file in (("read", path), ("read_plain", plain)):
            row[name] = round(
                min(seconds_of(lambda file=file: volume.read(file)) for _ in range(2)), 4
            )
        plain.unlink()
        rows.append(row)
    return rows


def predict(scans: Path, out: Path, *options: str, **environment: str) -> subprocess.Popen:
    """Begin `lungseg predict`."""
    command = [sys.executable, "-m", "lungseg_utils", "predict", scans, "-o", out, *options]
    path = os.pathsep.join([str(runtime.ROOT), os.environ.get("PYTHONPATH", "")])
    inherited = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [str(part) for part in command],
        env={**inherited, "PYTHONPATH": path, **environment},
        stdout=subprocess.DEVNULL,
    )


def pass_door(door: str, scans: Path, device: str) -> dict | None:
    """Predict a folder through one door; return its times, by those of the masks' files.

    None where it fails, as where Ray does not start on a busy machine.
    """
    runs: list[tuple[list[str], dict[str, str]]] = [([], {})]
    if door == SHARDS:
        runs = [(["--shard", f"{one}/2"], {"OMP_NUM_THREADS": "1"}) for one in (1, 2)]
    for count, name in ACTORS.items():
        if door == name:
            runs = [(["--ray"], {"RAY_OVERRIDE_RESOURCES": f'{{"CPU": {count}}}'})]
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        options = ["--device", device]
        running = [
            predict(scans, Path(folder), *more, *options, **environment)
            for more, environment in runs
        ]
        if sum(process.wait() for process in running):
            print(f"{door}: failed", flush=True)
            return None
        wall = time.time() - began
        masks = sorted(Path(folder).glob("*.nii.gz"))
        written = sorted(mask.stat().st_mtime for mask in masks)
        checksum = zlib.crc32(b"".join(mask.read_bytes() for mask in masks))
    row = {"door": door, "wall": wall, "first": written[0] - began, "checksum": checksum}
    row["rate"] = (len(written) - 1) / (written[-1] - written[0])
    print(f"{door}: {60 * row['rate']:.1f} scans a minute, {wall:.0f} s in all", flush=True)
    return row


def fill(folder: Path, files: Sequence[Path], count: int) -> Path:
    """Make a folder of `count` scans, which are links to `files` in turn."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(count):
        os.link(files[number % len(files)], folder / f"scan_{number:03d}.nii.gz")
    return folder


def measure(options: argparse.Namespace) -> dict:
    """Measure everything that was asked for."""
    found: dict = {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    files = [synthetic_scan(slices) for slices in options.slices]
    found |= {"machine": describe_machine(options.device), "count": options.scans}
    found["scans"] = apart(measure_sizes, files).result()
    found["alone"] = apart(measure_stages, files, options.device).result()
    if options.stages_only:
        return found
    both = [apart(measure_stages, files, options.device) for _ in range(2)]
    beside = [one.result() for one in both]
    found["beside"] = [
        {name: statistics.mean(row[name] for row in rows) for name in STAGES}
        for rows in zip(*beside)
    ]
    found["threads"] = apart(measure_stages, files, options.device, threads=None).result()
    found["manifest"] = measure_manifest()
    scans = fill(SCRATCH / "scale", files, options.scans)
    doors = [ONE, SHARDS]
    if importlib.util.find_spec("ray"):
        doors += ACTORS.values()
        found["ray"] = apart(measure_ray).result()
    rows = [pass_door(door, scans, options.device) for door in doors]
    found["doors"] = [row for row in rows if row]
    return found


def read_options() -> argparse.Namespace:
    """Read the arguments."""
    parser = make_parser(__doc__)
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 275, 500])
    parser.add_argument("--scans", type=int, default=12, help="of the folder (default 12)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--stages-only", action="store_true", help="alone, as on a GPU")
    parser.add_argument("--output", type=Path, default=RESULTS / "scale")
    return parser.parse_args()


def main() -> None:
    """Measure, and write the tables."""
    options = read_options()
    found = measure(options)
    write_results(options.output, found, tables(found))


if __name__ == "__main__":
    main()
