"""Which scans of a run one job of an array does, or one process of `torchrun`."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lungseg_utils.prediction.plan import Job
from lungseg_utils.runtime import LungsegError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The `number`th of `count` equal parts of a run, from 1."""

    number: int
    count: int

    def __post_init__(self):
        if not 1 <= self.number <= self.count:
            raise ValueError(f"{self.number}/{self.count}: no part from 1 to {self.count}")

    def of(self, jobs: Sequence[Job]) -> list[Job]:
        """Return this shard's jobs: the same on every machine, however it lists the scans."""
        return self.part_of(sorted(jobs, key=lambda job: os.fspath(job.mask)))

    def part_of(self, items: Sequence[Item]) -> list[Item]:
        """Return every nth of `items`, from this shard's own on."""
        return list(items[self.number - 1 :: self.count])


def parse_shard(text: str) -> Shard:
    """Return the shard that "2/3" names; ValueError for any other text."""
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip(), re.ASCII)
    if not match:
        raise ValueError(f"{text!r} is not I/N, as 2/3 is, nor auto")
    return Shard(int(match[1]), int(match[2]))


def scheduler_shard(environment: Mapping[str, str] = os.environ) -> Shard:
    """Return the shard of this task of a SLURM array, or this pod of an indexed Kubernetes Job."""
    if "SLURM_ARRAY_TASK_ID" in environment:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
        first = environment.get("SLURM_ARRAY_TASK_MIN", "1")  # an array may begin anywhere
        step = environment.get("SLURM_ARRAY_TASK_STEP", "1")
        last = environment.get("SLURM_ARRAY_TASK_MAX")
    else:
        names, first, step, last = ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"), "0", "1", None
    try:
        index, count = (int(environment[name]) for name in names)
        part, beside = divmod(index - int(first), int(step))
        parts = (int(last) - int(first)) // int(step) + 1 if last else count
        if parts == count and not beside:
            return Shard(part + 1, count)
    except KeyError as missing:
        raise LungsegError(
            "--shard auto",
            f"{missing.args[0]} is not set",
            "Name the shard as I/N, or run it in a SLURM array or an indexed Kubernetes Job",
        ) from None
    except (ValueError, ZeroDivisionError):
        values = ", ".join(f"{name}={environment[name]}" for name in names)
        raise LungsegError("--shard auto", f"no shard: {values}", "Name it as I/N") from None
    raise LungsegError(
        "--shard auto",
        f"the array has gaps: {count} tasks from {first} to {last}, steps of {step}",
        "Submit it as --array=1-N, or name the shard as I/N",
    )


def torchrun_process(environment: Mapping[str, str] = os.environ) -> Shard:
    """Return this process among those that `torchrun` has started; alone: 1 of 1."""
    rank, world_size = (int(environment.get(name, 0)) for name in ("RANK", "WORLD_SIZE"))
    return Shard(rank + 1, world_size) if world_size > 1 else Shard(1, 1)
