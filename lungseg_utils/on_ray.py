"""Work shared by workers on a Ray cluster: each item once, whatever dies meanwhile.

Ray places the workers, on its nodes' GPUs or cores, and notices which have died. What it does not
know is here: the order, how many items a worker has in hand, and that one which may have killed its
worker is tried again alone, so that it takes no other with it.

Ray is an extra (`pip install lungseg[ray]`) and is imported only where it is used.
"""

import contextlib
import logging
import os
import platform
import secrets
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lungseg_utils.runtime import LungsegError

ATTEMPTS = 3  # at an item, and at starting a worker
IN_HAND = 2  # items of a worker: one is read or written while another is computed
GPU_SHARE = 0.5  # of a worker: one alone does not fill a GPU, as it reads and writes too
PATIENCE_S = 600  # until a first worker starts, as while a cluster grows
OBJECT_STORE = 100 * 2**20  # bytes: rows are small, and scans never go through it

Work = Callable[[Any], Any]  # of an item


class WorkerDiedError(Exception):
    """The process that worked on an item died, each time that it was tried."""


@contextlib.contextmanager
def ray_cluster() -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster at $RAY_ADDRESS.

    Without that variable it is one of this machine, which only this process may use, and which is
    gone at the end with all its files.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # on a busy machine
    try:
        import ray
    except ImportError:
        raise LungsegError(
            "--ray", "Ray is not installed", "Install it: pip install 'lungseg[ray]'"
        ) from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.ExitStack() as stack:
        if not address:
            quiet |= _own_cluster(stack)
        stack.callback(ray.shutdown)
        try:
            ray.init(address or "local", **quiet)
        except Exception as error:  # of any class
            raise LungsegError(
                f"RAY_ADDRESS={address}" if address else "--ray",
                f"Ray does not start ({error})",
                "Check the cluster with `ray status`, or work without --ray",
            ) from error
        yield ray


def _own_cluster(stack: contextlib.ExitStack) -> dict:
    """Return how a cluster of this machine is started; its files and its password end with it."""
    for name in {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} - os.environ.keys():
        stack.callback(os.environ.pop, name, None)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray makes one in HOME
    short = "/tmp" if os.path.isdir("/tmp") else None  # a socket's path has 107 bytes at most
    folder = tempfile.TemporaryDirectory(prefix="ray-", dir=short, ignore_cleanup_errors=True)
    return {
        "_temp_dir": stack.enter_context(folder),
        "_node_ip_address": "127.0.0.1",
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
    }


def work_on_ray(
    items: Sequence[Any], make_work: Callable[[], Work], device: str = "cpu", is_heavy: bool = False
) -> Iterator[tuple[Any, Any]]:
    """Yield each of `items`, begun in their order, with what a worker returned for it.

    `make_work` is called once in each worker. The workers share GPUs, with "auto" if the cluster
    has some; a heavy item has a worker, and its GPU, to itself. An item that fails thrice comes
    with its last Exception.
    """
    if not items:
        return
    with ray_cluster() as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if device != "cpu" else 0
        if device not in ("auto", "cpu") and not gpus:
            raise LungsegError(
                "device", "the Ray cluster has no GPU", "Use --device cpu or add nodes with GPUs"
            )
        gpu_share = 1 if is_heavy else GPU_SHARE
        count = int(gpus / gpu_share) if gpus else int(resources.get("CPU", 1))
        share = {"num_cpus": 1, "num_gpus": gpu_share if gpus else 0, "max_concurrency": IN_HAND}
        start = partial(ray.remote(**share)(Worker).remote, make_work, os.getcwd())
        yield from Crew(ray, start, items, is_heavy).results(count)


class Worker:
    """An actor; Ray calls it from several threads at a time."""

    def __init__(self, make_work: Callable[[], Work], folder: str):
        self.error: Exception | None = None
        try:
            os.chdir(folder)  # where relative paths begin
            self.work = make_work()
        except OSError:
            self.error = LungsegError(
                folder, f"not there on {platform.node()}", "Start from a folder that all nodes have"
            )
        except Exception as error:
            self.error = error

    def begin(self) -> Exception | None:
        """Return why it cannot work, if so."""
        return self.error

    def do(self, item: Any) -> Any:
        """Return what the work makes of `item`, or why it failed."""
        try:
            return self.work(item)
        except Exception as error:
            return error


@dataclass
class Task:
    """An item, how often it has failed, and whether a worker takes no other beside it."""

    item: Any
    attempts: int = 0
    is_alone: bool = False


@dataclass(eq=False)
class Member:
    """A worker's actor, and the tasks that it has in hand, by Ray's references to their results."""

    actor: Any
    is_ready: bool = False
    tasks: dict[Any, Task] = field(default_factory=dict)

    def has_room(self, most: int) -> bool:
        """Return whether it may take a task when it has fewer than `most`."""
        is_alone = any(task.is_alone for task in self.tasks.values())
        return self.is_ready and not is_alone and len(self.tasks) < most


class Crew:
    """Workers that are replaced as they die, and what they still have to do."""

    def __init__(self, ray: Any, start: Callable[[], Any], items: Sequence, is_heavy: bool = False):
        self.ray = ray
        self.start = start
        self.waiting = deque(Task(item, is_alone=is_heavy) for item in items)
        self.suspects: deque[Task] = deque()
        self.members: list[Member] = []
        self.owners: dict[Any, Member] = {}  # of the references that are waited for
        self.failed_starts = 0
        self.start_error: Exception = WorkerDiedError()

    def results(self, count: int) -> Iterator[tuple[Any, Any]]:
        """Yield each item with its result, or with an Exception, by `count` workers."""
        for _ in range(min(count, len(self.waiting))):
            self.hire()
        while self.waiting or self.suspects or any(member.tasks for member in self.members):
            self.hand_out()
            found = self.owners and self.ray.wait(list(self.owners), timeout=PATIENCE_S)[0]
            if not found and not any(member.is_ready for member in self.members):
                break
            for reference in found:
                if reference in self.owners:  # not that of a worker that has just died
                    yield from self.receive(reference)
        for task in (*self.waiting, *self.suspects):
            yield task.item, self.start_error

    def hire(self) -> None:
        """Start a worker."""
        member = Member(self.start())
        self.members.append(member)
        self.owners[member.actor.begin.remote()] = member

    def hand_out(self) -> None:
        """Hand tasks to those who have room: a suspect one to whom has no other."""
        for most in range(1, IN_HAND + 1):
            for member in self.members:
                if member.has_room(1) and self.suspects:
                    self.give(member, self.suspects.popleft())
                # the last few are left to whoever is free first
                is_last = most > 1 and len(self.waiting) < len(self.members)
                if member.has_room(most) and self.waiting and not self.suspects and not is_last:
                    self.give(member, self.waiting.popleft())

    def give(self, member: Member, task: Task) -> None:
        """Have a worker begin a task."""
        reference = member.actor.do.remote(task.item)
        member.tasks[reference] = task
        self.owners[reference] = member

    def receive(self, reference: Any) -> Iterator[tuple[Any, Any]]:
        """Take a result, or note a death; yield the item where it is over."""
        member = self.owners.pop(reference)
        task = member.tasks.pop(reference, None)  # None: the worker has started
        try:
            outcome = self.ray.get(reference)
        except self.ray.exceptions.RayError:
            yield from self.replace(member, task)
            return
        if task is None and outcome is None:
            member.is_ready = True
            self.failed_starts = 0
        elif task is None:
            self.start_error = outcome
            yield from self.replace(member, task)
        elif isinstance(outcome, Exception):
            yield from self.again(task, outcome, self.waiting)
        else:
            yield task.item, outcome

    def replace(self, member: Member, task: Task | None) -> Iterator[tuple[Any, Any]]:
        """Start a worker for one that died; try again what that had in hand."""
        self.members.remove(member)
        self.ray.kill(member.actor)
        self.owners = {one: other for one, other in self.owners.items() if other is not member}
        self.failed_starts += not member.is_ready
        if self.failed_starts < ATTEMPTS:
            self.hire()
        for lost in ([task] if task else []) + list(member.tasks.values()):
            lost.is_alone = True  # it may have killed its worker
            yield from self.again(lost, WorkerDiedError(), self.suspects)

    def again(self, task: Task, error: Exception, queue: deque[Task]) -> Iterator[tuple[Any, Any]]:
        """Put a task that failed in `queue`; yield it the third time."""
        task.attempts += 1
        if task.attempts < ATTEMPTS:
            queue.append(task)
        else:
            yield task.item, error
