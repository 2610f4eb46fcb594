"""Simulate many scans on their way through readers, devices and writers, and draw the outcome.

    python benchmarks/simulate_cohort.py [--times benchmarks/results/scale.json]

A discrete-event simulation with the times that `scale.py` has measured. Each scan takes a seat at
one stage after another, waits where none is free, and where cores are few shares them with others,
a slice of time each. It is checked against the real runs of `scale.py`, which it knows nothing of.
Then: a million scans, and how many an hour pass with more readers, devices and writers. Writes the
tables between the marks of docs/scale.md, and figures/scale.png.
"""

from __future__ import annotations

import json
import random
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from report import RESULTS, make_parser
from scale_report import ACTORS, ONE, SHARDS, STAGES
from simulate_report import SPEED, WRITERS, Curves, draw, write_page
from simulation import Cores, Flow, Stage, Step, simulate

IN_PROCESS = 3  # scans on their way at a time: one is read, one segmented, one written
IN_ACTOR = 2  # `lungseg_utils.on_ray.IN_HAND`
SPEEDS = [2.0**power for power in range(9)]
DEVICES = [2**power for power in range(7)]
SEGMENTING = ("prepare", "network", "back")  # one scan at a time, in every door


# --- the doors that scale.py has timed ------------------------------------------------------------


def total(rows: Sequence[dict[str, float]], *stages: str) -> list[float]:
    """Return the seconds of some stages together, for each kind of scan."""
    return [sum(row[stage] for stage in stages) for row in rows]


def slowdown_of(found: dict) -> float:
    """Return how many times as long a scan takes beside another on the next core."""
    alone, beside = (sum(total(found[way], *STAGES)) for way in ("alone", "beside"))
    return max(1.0, beside / alone)


def simulate_door(door: str, found: dict) -> Flow:
    """Simulate what `scale.py` has timed: the same scans in the same order on the same cores."""
    cores = Cores(found["cores"], slowdown_of(found))
    kinds = [number % len(found["scans"]) for number in range(found["count"])]
    is_ray, is_one = "--ray" in door, door == ONE
    seats = IN_ACTOR if is_ray else 1
    rows = found["threads" if is_one else "alone"]
    network = Step(total(rows, "network"))
    if is_one:  # its threads slow each other down already
        network = Step([each / cores.slowdown for each in network.seconds], cores.count)
    steps = (Step(total(rows, "prepare")), network, Step(total(rows, "back")))
    stages = [
        Stage("read", [Step(total(rows, "hash", "read"))], seats),
        Stage("segment", steps),
        Stage("write", [Step(total(rows, "write"))], seats),
    ]
    queues = [deque(kinds)]
    if door == SHARDS:
        queues = [deque(kinds[first::2]) for first in range(2)]
    elif is_ray:
        kinds.sort(key=lambda kind: found["scans"][kind]["bytes"], reverse=True)
        queues = [deque(kinds)] * next(count for count, name in ACTORS.items() if name == door)
    return simulate(stages, queues, in_hand=IN_ACTOR if is_ray else IN_PROCESS, cores=cores)


def check_doors(found: dict) -> list[dict]:
    """Return each door's rate, measured and simulated."""
    return [
        {"door": row["door"], "measured": row["rate"], "simulated": rate}
        for row in found.get("doors", ())
        for rate in [simulate_door(row["door"], found).rate]
    ]


# --- a cohort -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fleet:
    """How many of each there are, and how many times as fast as a core a device is."""

    readers: int
    devices: int
    writers: int
    speed: float
    plain: bool = False  # whether the scans are plain files


def reading(found: dict, *, plain: bool) -> list[float]:
    """Return the seconds in which a reader hashes and reads each kind of scan."""
    seconds = []
    for row, scan in zip(found["alone"], found["scans"]):
        hashing, rest = row["hash"], row["read"]
        if plain:
            hashing *= scan["plain_bytes"] / scan["bytes"]
            rest -= scan["read"] - scan["read_plain"]
        seconds.append(hashing + rest)
    return seconds


def simulate_fleet(found: dict, fleet: Fleet) -> float:
    """Return how many scans a second pass through `fleet`, of a random order of kinds."""
    rows = found["alone"]
    segment = [each / fleet.speed for each in total(rows, *SEGMENTING)]
    stages = [
        Stage("read", [Step(reading(found, plain=fleet.plain))], fleet.readers),
        Stage("segment", [Step(segment)], fleet.devices),
        Stage("write", [Step(total(rows, "write"))], fleet.writers),
    ]
    in_hand = fleet.readers + 2 * fleet.devices + fleet.writers
    queue = deque(random.Random(0).choices(range(len(rows)), k=1000 + 10 * in_hand))
    return simulate(stages, [queue], in_hand=in_hand).rate


def means_of(found: dict) -> dict[str, float]:
    """Return the means of a scan: seconds of each stage, slices and bytes."""
    means = {stage: statistics.mean(total(found["alone"], stage)) for stage in STAGES}
    for name in ("slices", "bytes", "plain_bytes"):
        means[name] = statistics.mean(scan[name] for scan in found["scans"])
    for name, plain in (("gzip", False), ("plain", True)):
        means[name] = statistics.mean(reading(found, plain=plain))
    return means


def curves(found: dict) -> tuple[Curves, Curves]:
    """Return scans a second against a device's speed, and against the number of devices."""

    def rates(fleets: Sequence[Fleet], of: str) -> list[tuple[float, float]]:
        return [(getattr(fleet, of), simulate_fleet(found, fleet)) for fleet in fleets]

    by_speed = {}
    for readers, plain in ((1, False), (4, False), (16, False), (1, True)):
        fleets = [Fleet(readers, 1, readers, speed, plain) for speed in SPEEDS]
        label = f"{readers} reader{'s' if readers > 1 else ''}, {'plain' if plain else 'gzip'}"
        by_speed[label] = rates(fleets, "speed")
    by_devices = {}
    for readers in (8, 32, 128):
        fleets = [Fleet(readers, devices, WRITERS, SPEED) for devices in DEVICES]
        by_devices[f"{readers} readers"] = rates(fleets, "devices")
    return by_speed, by_devices


def main() -> None:
    """Simulate, and write the tables and the figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--times", type=Path, default=RESULTS / "scale.json")
    found = json.loads(parser.parse_args().times.read_text(encoding="utf-8"))
    doors = check_doors(found)
    write_page(found, doors, means_of(found))
    draw(doors, *curves(found))


if __name__ == "__main__":
    main()
