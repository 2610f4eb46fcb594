"""A discrete-event simulation of scans that pass stages of few seats, on few cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import simpy

SLICE_S = 0.02  # of a core's time, until another may have it


@dataclass(frozen=True)
class Step:
    """What a seat does of a scan: seconds for each kind of scan, on each of `threads` cores."""

    seconds: Sequence[float]
    threads: int = 1


@dataclass(frozen=True)
class Stage:
    """A stage of a scan's way: what is done there, step by step, and for how many at a time."""

    name: str
    steps: Sequence[Step]
    seats: int = 1


@dataclass
class Flow:
    """What a simulation has seen: when scans were finished, and how long each was on its way."""

    finished: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    busy: dict[str, float] = field(default_factory=dict)  # seconds of all seats of a stage

    @property
    def rate(self) -> float:
        """Return the scans a second between the first finished and the last."""
        return (len(self.finished) - 1) / (self.finished[-1] - self.finished[0])


@dataclass
class Cores:
    """The cores of a machine, each `slowdown` times as slow when another is busy too."""

    count: int
    slowdown: float = 1.0


def simulate(
    stages: Sequence[Stage],
    queues: Sequence[deque[int]],
    *,
    in_hand: int,
    cores: Cores | None = None,
) -> Flow:
    """Simulate a crew for each of `queues`, with at most `in_hand` scans on their way in each.

    A queue holds the kinds of the scans to come; crews that share it are given the same one.
    Without `cores` every seat has a core of its own.
    """
    environment = simpy.Environment()
    machine = simpy.Resource(environment, cores.count) if cores else None
    flow = Flow(busy=dict.fromkeys((stage.name for stage in stages), 0.0))

    def use_core(seconds: float) -> Generator:
        if machine is None or cores is None:
            yield environment.timeout(seconds)
            return
        while seconds > 1e-9:
            step = min(SLICE_S, seconds)
            with machine.request() as core:
                yield core
                others = machine.count > 1
                yield environment.timeout(step * (cores.slowdown if others else 1))
            seconds -= step

    def carry(queue: deque[int], seats: dict[str, simpy.Resource]) -> Generator:
        while queue:
            kind, begun = queue.popleft(), environment.now
            for stage in stages:
                with seats[stage.name].request() as seat:
                    yield seat
                    sat_down = environment.now
                    for step in stage.steps:
                        cores_used = [use_core(step.seconds[kind]) for _ in range(step.threads)]
                        yield environment.all_of([environment.process(one) for one in cores_used])
                    flow.busy[stage.name] += environment.now - sat_down
            flow.finished.append(environment.now)
            flow.times.append(environment.now - begun)

    for queue in queues:
        seats = {stage.name: simpy.Resource(environment, stage.seats) for stage in stages}
        for _ in range(in_hand):
            environment.process(carry(queue, seats))
    environment.run()
    return flow
