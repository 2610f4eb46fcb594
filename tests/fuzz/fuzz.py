"""Read mutants of good files, one after another, in a process that may die.

    python tests/fuzz/fuzz.py --mutants 100000 --seed 0

Each must end well or in LungsegError. A mutant that crashes the reader, hangs it, takes more than
2 GB of memory or ends in any other error is kept in build/fuzz, named by its kind, seed and number,
and the script ends with 1. `--first` starts at a later number, so that a long run may be made in
pieces.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mutants

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MEMORY_BYTES = 2 << 30  # above what Python and the libraries take
PATIENCE_S = 20  # for one mutant; they take some milliseconds
KINDS = ("nifti", "gzip", "label", "dicom", "json", "weights", "state", "cache", "tar")


def work(seed: int, first: int, stop: int, kinds: list[str]) -> None:
    """Read the mutants `first` to `stop`, and write a line of JSON before and after each."""
    import resource

    sys.path[:0] = [str(HERE), str(HERE.parent), str(ROOT)]
    import mutants

    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        os.chdir(folder)
        files = mutants.Folder(Path(folder))
        for kind in kinds:  # what is not spoilt is read well; everything is imported now
            for number, good in enumerate(files.good[kind]):
                files.read(kind, good, number)
        send({"ready": True, "peak": peak()})
        statm = Path("/proc/self/statm")
        if statm.exists():
            limit = int(statm.read_text().split()[0]) * resource.getpagesize() + MEMORY_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in range(first, stop):
            kind = kinds[number % len(kinds)]
            random = Random(f"{seed} {number}")
            content = files.mutant(kind, random)
            send({"number": number, "kind": kind})
            Path(folder, "current").write_bytes(content)
            end = end_of(files, kind, content, random.randrange(3))
            if end not in ("good", "refused"):
                keep(seed, number, kind, content)
            send({"end": end, "peak": peak()})
    send({"done": True})


def end_of(files: mutants.Folder, kind: str, content: bytes, number: int) -> str:
    """Read one mutant and return how that ended: "good", "refused", or what went wrong."""
    import mutants

    from lungseg_utils.runtime import LungsegError

    try:
        files.read(kind, content, number)
        return "good"
    except LungsegError as error:
        if mutants.is_out_of_memory(error):
            return f"not enough memory: {error}"
        if "\n" in str(error) and not hasattr(error, "faults"):
            return f"a message of several lines: {error}"
        return "refused"
    except Exception as error:
        last_calls = traceback.format_tb(error.__traceback__)[-3:]
        return f"{type(error).__name__}: {error}\n{''.join(last_calls)}"


def send(fields: dict) -> None:
    """Write a line of JSON to the process that watches this one."""
    sys.__stdout__.write(json.dumps(fields) + "\n")
    sys.__stdout__.flush()


def peak() -> int:
    """Return the most memory that this process has had, in bytes."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep(seed: int, number: int, kind: str, content: bytes) -> None:
    folder = ROOT / "build" / "fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{kind}-{seed}-{number}").write_bytes(content)


class Worker:
    """A process that reads mutants; it may be killed."""

    def __init__(self, seed: int, first: int, stop: int, kinds: list[str]):
        numbers = f"--seed {seed} --first {first} --mutants {stop - first}".split()
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fuzz.py"), "--worker", *numbers, "--kinds", *kinds],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.buffer = b""

    def line(self, patience_s: float) -> dict | None:
        """Return the next line of the process; None after its end, {"hang": …} after a silence."""
        until = time.monotonic() + patience_s
        while b"\n" not in self.buffer:
            left = max(0.0, until - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                return {"hang": patience_s}
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                return None
            self.buffer += piece
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def end(self, line: dict | None) -> str:
        """Kill the process and return how it ended, given its last line."""
        if line is not None:
            self.process.kill()
        printed = self.process.communicate()[1].decode(errors="replace")[-500:]
        if line is not None:
            return f"hang of {PATIENCE_S} s"
        return f"crash {self.process.returncode}: {printed}"


def fuzz(mutants: int, seed: int, first: int, kinds: list[str]) -> dict:
    """Read the mutants, restart the process where it fails, and return what became of them."""
    stop, next_number = first + mutants, first
    ends: collections.Counter = collections.Counter()
    found = []
    started, growth = time.monotonic(), 0
    while next_number < stop:
        worker = Worker(seed, next_number, stop, kinds)
        ready = worker.line(300)
        if not ready or "ready" not in ready:
            raise SystemExit(f"the worker did not start: {worker.end(ready)}")
        current = None
        while (line := worker.line(PATIENCE_S)) and not {"done", "hang"} & line.keys():
            if "number" in line:
                current = line
                continue
            end = line["end"]
            growth = max(growth, line["peak"] - ready["peak"])
            if end not in ("good", "refused"):
                found.append(f"{current['kind']}-{seed}-{current['number']}: {end}")
                end = "found"
            ends[current["kind"], end] += 1
            next_number = current["number"] + 1
        fate = worker.end(line)
        if line and "done" in line:
            break
        number = next_number if current is None else current["number"]
        found.append(f"{kinds[number % len(kinds)]}-{seed}-{number}: {fate}")
        ends[kinds[number % len(kinds)], "found"] += 1
        next_number = number + 1
    rows = {kind: {end: ends[kind, end] for end in ("good", "refused", "found")} for kind in kinds}
    return {
        "seed": seed,
        "first": first,
        "mutants": mutants,
        "seconds": round(time.monotonic() - started, 1),
        "memory_mb": round(growth / 1e6, 1),
        "kinds": rows,
        "found": found,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.seed, options.first, options.first + options.mutants, options.kinds)
        return 0
    result = fuzz(options.mutants, options.seed, options.first, options.kinds)
    for kind, row in result["kinds"].items():
        print(f"{kind:8}" + "".join(f"{count:8} {end}" for end, count in row.items()))
    cost = f"{result['seconds']:g} s, {result['memory_mb']:g} MB more memory at most"
    print(f"{options.mutants} mutants in {cost}")
    sys.stdout.reconfigure(errors="backslashreplace")  # messages may quote hostile input
    print(*result["found"], sep="\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if result["found"] else 0


if __name__ == "__main__":
    sys.exit(main())
