"""A clock for the stages of one tool on one scan, and where it is put in this project."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

SECONDS: dict[str, float] = defaultdict(float)
CLOCK: list[Callable[[], float]] = [time.perf_counter]


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the time that the block takes to `name`, by the clock in CLOCK."""
    started = CLOCK[0]()
    try:
        yield
    finally:
        SECONDS[name] += CLOCK[0]() - started


def time_calls(name: str, owner: object, attribute: str) -> None:
    """Replace a function of `owner` by one whose time is added to `name`."""
    function: Callable = getattr(owner, attribute)

    def timed(*arguments: object, **options: object) -> object:
        with stage(name):
            return function(*arguments, **options)

    setattr(owner, attribute, timed)


def time_prediction() -> None:
    """Put a clock on the stages of `lungseg predict`: hash, read, prepare, network, back, write."""
    from lungseg_utils.prediction import Predictor, reading, segmenting

    time_calls("hash", reading, "content_of")  # of a folder's scans alone, for their manifest
    time_calls("read", reading.volume, "read")
    time_calls("prepare", Predictor, "prepare")
    time_calls("network", Predictor, "probabilities")
    time_calls("back", Predictor, "mask")
    time_calls("back", segmenting, "measure_tumours")
    time_calls("write", segmenting, "write")
