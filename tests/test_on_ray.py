"""Work on a Ray cluster: each scan once, whatever dies; the same masks as of one process."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from helpers_outputs import content
from helpers_sets import LEARN, write_balls
from test_manifest import write_scan, write_weights

from lungseg_utils import cli
from lungseg_utils.decathlon import Case
from lungseg_utils.on_ray import ATTEMPTS, IN_HAND, Crew, WorkerDiedError
from lungseg_utils.prediction.manifest import states
from lungseg_utils.preprocess import cache
from lungseg_utils.runtime import LungsegError

# --- who does what, by a Ray of which all that is unforeseeable is at random ----------------------


class RayError(Exception):
    """As `ray.exceptions.RayError`."""


class Method:
    """What is called by `.remote()`."""

    def __init__(self, call):
        self.remote = call


class Actor:
    """A worker that may die at any call; `starts` is whether it can begin at all."""

    def __init__(self, ray, starts):
        self.ray = ray
        self.dead = False
        self.begin = Method(lambda: ray.call(self, None, starts))
        self.do = Method(lambda item: ray.call(self, item, True))


class UnforeseeableRay:
    """Ends its calls in any order; workers die by "greedy" items, and at times for no reason."""

    exceptions = type("exceptions", (), {"RayError": RayError})

    def __init__(self, seed, deaths=0.0):
        self.rng = random.Random(seed)
        self.deaths = deaths
        self.calls = {}
        self.done = Counter()
        self.most_in_hand = 0

    def call(self, actor, item, starts):
        reference = object()
        self.calls[reference] = (actor, item, starts)
        in_hand = Counter(owner for owner, task, _ in self.calls.values() if task is not None)
        self.most_in_hand = max(self.most_in_hand, in_hand[actor])
        return reference

    def wait(self, references, timeout):
        return self.rng.sample(references, self.rng.randint(1, len(references))), []

    def get(self, reference):
        actor, item, starts = self.calls.pop(reference)
        beside = [task for owner, task, _ in self.calls.values() if owner is actor]
        dies = "greedy" in [item, *beside] or self.rng.random() < self.deaths
        if actor.dead or (item is not None and dies):
            actor.dead = True
            raise RayError
        if item is None:
            return None if starts else OSError("no weights here")
        self.done[item] += 1
        return ValueError("damaged") if item == "damaged" else f"row of {item}"

    def kill(self, actor):
        actor.dead = True


def carry_out(ray, items, count=3, starts=lambda: True, is_heavy=False):
    crew = Crew(ray, lambda: Actor(ray, starts()), items, is_heavy)
    return [(item, outcome) for item, outcome in crew.results(count)]


def carry_out_here(items, work):
    for item in items:
        try:
            yield item, work(item)
        except LungsegError as error:
            yield item, error


@pytest.mark.parametrize("seed", range(20))
def test_each_item_comes_once_and_one_that_kills_takes_no_other_with_it(seed):
    items = [*range(24), "damaged", "greedy"]
    random.Random(seed).shuffle(items)
    ray = UnforeseeableRay(seed)
    found = carry_out(ray, items, count=1 + seed % 4)
    assert Counter(item for item, _ in found) == Counter(items)
    outcomes = dict(found)
    assert isinstance(outcomes.pop("greedy"), WorkerDiedError)
    assert isinstance(outcomes.pop("damaged"), ValueError) and ray.done["damaged"] == ATTEMPTS
    assert outcomes == {item: f"row of {item}" for item in range(24)}
    assert ray.most_in_hand <= IN_HAND


@pytest.mark.parametrize("seed", range(10))
def test_workers_that_die_for_no_reason_are_replaced(seed):
    found = carry_out(UnforeseeableRay(seed, deaths=0.2), list(range(40)))
    assert Counter(item for item, _ in found) == Counter(range(40))
    lost = [outcome for _, outcome in found if isinstance(outcome, WorkerDiedError)]
    assert len(lost) < 10  # three deaths in a row are 0.8 %, and some more beside another


def test_the_end_comes_also_where_no_worker_starts():
    found = carry_out(UnforeseeableRay(0), [1, 2, 3], starts=lambda: False)
    assert [(item, str(error)) for item, error in found] == [
        (i, "no weights here") for i in (1, 2, 3)
    ]


def test_two_items_go_to_two_workers():
    ray = UnforeseeableRay(0)
    carry_out(ray, [1, 2], count=2)
    assert ray.most_in_hand == 1


def test_a_heavy_item_has_its_worker_to_itself():
    ray = UnforeseeableRay(0)
    found = carry_out(ray, [*range(9), "damaged"], is_heavy=True)
    assert Counter(item for item, _ in found) == Counter([*range(9), "damaged"])
    assert ray.most_in_hand == 1


def test_without_the_extra_the_error_names_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    weights = write_weights(tmp_path / "tiny.safetensors")
    scan = write_scan(tmp_path / "a.nii.gz")
    options = ["--ray", "--checkpoint", str(weights)]
    assert cli.main(["predict", str(scan), "-o", str(tmp_path / "out"), *options]) == 1
    assert "error: --ray: Ray is not installed. Install it: pip install" in capsys.readouterr().err


# --- a real one -----------------------------------------------------------------------------------

TESTS = Path(__file__).parent
NAMES = [f"scan_{number:02d}" for number in range(24)]
PATIENCE_S = 400  # with one that hangs, of whatever reason
STARTS = 3  # Ray gives up a start after 30 s, which a busy machine may take


os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keep to 127.0.0.1, where asked


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """24 scans, and `expected`, the masks of them that one process makes."""
    pytest.importorskip("ray", reason="needs the extra: pip install 'lungseg[ray]'")
    folder = tmp_path_factory.mktemp("ray")
    write_weights(folder / "tiny.safetensors")
    for seed, name in enumerate(NAMES):
        write_scan(folder / "scans" / f"{name}.nii.gz", seed)
    assert run(folder, "expected", ray=False).wait() == 0
    return folder / "scans"


def run(folder, out, *options, ray=True, **environment) -> subprocess.Popen:
    """Begin `lungseg predict` with the faults of `helpers_ray.py`."""
    arguments = ["scans", "-o", out, "--checkpoint", "tiny.safetensors", "--device", "cpu"]
    command = [sys.executable, "-c", "import helpers_ray; helpers_ray.main()", "predict"]
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [*command, *arguments, *(["--ray"] if ray else []), *options],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "HOME": str(folder / "home"),
            **environment,
        },
    )
    watch = threading.Timer(PATIENCE_S, process.kill)
    watch.daemon = True
    watch.start()
    return process


def masks(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if name.endswith(".nii.gz")}


def names_by_state(folder: Path) -> dict[str, list[str]]:
    return {state: [row["name"] for row in rows] for state, rows in states(folder).items() if rows}


def workers_of(root: int) -> list:
    """Return the processes below `root` that are workers of ours."""
    import psutil

    below = psutil.Process(root).children(recursive=True)
    return [process for process in below if "Worker" in "".join(process.cmdline())]


def agent_ports() -> dict[str, int]:
    """Return free ports for a node: where it has to find some itself it gives up after 15 s."""
    names = (
        "metrics_agent_port",
        "metrics_export_port",
        "dashboard_agent_listen_port",
        "runtime_env_agent_port",
    )
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
    ports = {name: one.getsockname()[1] for name, one in sockets.items()}
    for one in sockets.values():
        one.close()
    return ports


def start_cluster():
    """Start two nodes, at the third attempt at the latest: Ray gives each 30 s, load or no load."""
    from ray.cluster_utils import Cluster  # which reads the environment

    options = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    head = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    for attempt in range(3):
        whole = Cluster()
        try:
            whole.add_node(**options, **head, **agent_ports())
            whole.add_node(**options, **agent_ports())
            return whole
        except Exception:
            whole.shutdown()
            if attempt == 2:
                raise


@pytest.fixture(scope="module")
def cluster(scans):
    """A cluster of two nodes on this machine, loopback only; without a password of HOME's."""
    before = dict(os.environ)
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "120",  # on a busy machine
        "PYTHONPATH": os.pathsep.join(paths),
        "SLOW_S": "0.3",
    }
    whole = start_cluster()
    yield whole
    whole.shutdown()
    os.environ.clear()
    os.environ.update(before)


def test_folds_on_ray_are_scored_as_by_one_process(cluster, tmp_path):
    root = write_balls(tmp_path / "set")
    options = [*LEARN, "-p", "epochs", "4"]
    environment = {"LUNGSEG_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment |= {"RAY_ADDRESS": cluster.address, "RAY_AUTH_MODE": "disabled"}

    def crossvalidate(name, *more) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "lungseg_utils", "crossvalidate", str(root)]
        return subprocess.run(
            [*command, "--run-dir", str(tmp_path / name), *options, *more],
            text=True,
            capture_output=True,
            timeout=PATIENCE_S,
            env=os.environ | environment,
        )

    assert crossvalidate("here").returncode == 0
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "fold1").touch()  # where its folder should be
    failed = crossvalidate("ray", "--ray")
    assert failed.returncode == 1 and "1 of 2 folds failed: fold 1: " in failed.stderr
    finished = tmp_path / "ray" / "fold0" / "last.pt"
    written = finished.stat().st_mtime_ns
    (tmp_path / "ray" / "fold1").unlink()
    whole = crossvalidate("ray", "--ray")
    assert whole.returncode == 0, whole.stderr
    assert "fold 1: ball_" in whole.stdout and "fold 0: ball_" not in whole.stdout
    assert finished.stat().st_mtime_ns == written
    for name in ("metrics.csv", "summary.json"):
        assert (tmp_path / "ray" / name).read_text() == (tmp_path / "here" / name).read_text()


@pytest.mark.fault("dying workers and nodes")
def test_a_worker_and_a_node_die_and_nothing_is_lost_or_done_twice(scans, cluster):
    folder = scans.parent
    for name, scan in (("greedy", 3), ("full", 4), ("damaged", 5)):
        data = (scans / f"{NAMES[scan]}.nii.gz").read_bytes()
        (scans / f"{name}.nii.gz").write_bytes(data[:100] if name == "damaged" else data)
    try:
        running = run(folder, "out", RAY_ADDRESS=cluster.address, RAY_AUTH_MODE="disabled")
        printed = [running.stdout.readline() for _ in range(5)]
        node = cluster.list_all_nodes()[-1]
        raylet = node.all_processes["raylet"][0].process.pid
        for process in workers_of(raylet):
            process.kill()
        printed += [running.stdout.readline() for _ in range(5)]
        cluster.remove_node(node, allow_graceful=False)
        rest, errors = running.communicate(timeout=300)
    finally:
        for name in ("greedy", "full", "damaged"):
            (scans / f"{name}.nii.gz").unlink()
    assert running.returncode == 1, errors
    lines = [line.split(":")[0] for line in [*printed, *rest.splitlines()]]
    assert sorted(line for line in lines if line.startswith("scan_")) == NAMES  # Ray speaks too
    assert "greedy.nii.gz: each process that segmented it died" in errors
    assert "full.nii.gz: no room to write it" in errors and "damaged.nii.gz" in errors
    assert "Traceback" not in errors
    assert masks(folder / "out") == masks(folder / "expected")
    found = names_by_state(folder / "out")
    assert found == {"done": NAMES, "failed": ["damaged", "full", "greedy"]}
    rows = (folder / "out" / "manifest.jsonl").read_text().splitlines()
    assert len(rows) == len(NAMES) + 3
    assert not list((folder / "out").glob(".partial*"))


def test_the_cache_of_a_dataset_is_filled_by_workers_too(tmp_path, monkeypatch):
    """Each file of it is the one that a single process writes; one failure stops no other."""
    monkeypatch.setattr(cache, "work_on_ray", lambda items, begin: carry_out_here(items, begin()))
    cases = [
        Case(f"c{seed}", write_scan(tmp_path / f"c{seed}.nii.gz", seed), None) for seed in range(3)
    ]
    for folder, on_ray in (("one", False), ("ray", True)):
        prepared = cache.prepare_cases(cases, spacing_mm=6, folder=tmp_path / folder, ray=on_ray)
        assert [one.name for one in prepared] == ["c0", "c1", "c2"]
    assert content(tmp_path / "one") == content(tmp_path / "ray")
    cases[1].image.write_bytes(b"")
    with pytest.raises(LungsegError, match="1 of 3 scans: c1: .*empty"):
        cache.prepare_cases(cases, spacing_mm=6, folder=tmp_path / "other", ray=True)
    assert len(content(tmp_path / "other")) == 2


@pytest.mark.fault("dying workers and nodes")
def test_killed_as_a_whole_the_next_run_does_the_rest_and_leaves_nothing_behind(scans):
    import psutil

    folder = scans.parent
    (folder / "home").mkdir(exist_ok=True)
    for _ in range(STARTS):
        running = run(folder, "killed", SLOW_S="0.3")
        if running.stdout.readline():
            break
    left_behind = psutil.Process(running.pid).children(recursive=True)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    before = (folder / "killed" / "manifest.jsonl").read_text().splitlines()
    done = {row["name"] for row in map(json.loads, before)}
    assert 1 <= len(done) < len(NAMES)
    for _ in range(STARTS):
        running = run(folder, "killed")
        printed = running.stdout.readline()
        below = psutil.Process(running.pid).children(recursive=True) if printed else []
        rest, errors = running.communicate(timeout=300)
        if "Ray does not start" not in errors:
            break
    assert running.returncode == 0, errors
    assert f"note: {len(done)} of 24 scans are done already" in errors
    lines = [printed, *rest.splitlines()]
    assert sorted(line.split(":")[0] for line in lines) == sorted(set(NAMES) - done)
    assert masks(folder / "killed") == masks(folder / "expected")
    assert names_by_state(folder / "killed") == {"done": NAMES}
    assert below and psutil.wait_procs(below, timeout=60)[1] == []
    # the next run need not wait for the killed one's: Ray takes 60 s to miss its own head
    assert psutil.wait_procs(left_behind, timeout=180)[1] == []
    assert list((folder / "home").rglob("*")) == []
