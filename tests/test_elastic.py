"""Under torchrun: any number of processes trains alike, and who dies is no loss."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers_cases import TINY, make_prepared
from helpers_sets import LEARN, LEARNS, write_balls
from torch.distributed import HashStore

from lungseg_utils import checkpoint, cli
from lungseg_utils.training import fit
from lungseg_utils.training.rendezvous import agree_on_prefix

EPOCHS, STEPS = 8, int(LEARNS["steps_per_epoch"])
PATIENCE_S = 900  # with what hangs, of whatever reason
TESTS = Path(__file__).parent
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with a `set` that is soon learned."""
    root = tmp_path_factory.mktemp("elastic")
    write_balls(root / "set")
    return root


def arguments_of(folder: Path, name: str) -> list[str]:
    run = ["--run-dir", str(folder / name), "--epochs", str(EPOCHS)]
    return ["train", str(folder / "set"), *run, *LEARN]


def torchrun(folder: Path, name: str, *options: str, **environment: str) -> subprocess.Popen:
    """Begin a training in the run folder `name`, on this machine's loopback."""
    paths = [str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--local-addr", "127.0.0.1"]
    script = str(TESTS / "helpers_elastic.py")
    process = subprocess.Popen(
        [*launcher, *options, script, *arguments_of(folder, name)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "LUNGSEG_HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": LOOPBACK,
            **environment,
        },
    )
    watch = threading.Timer(PATIENCE_S, kill_group, [process])
    watch.daemon = True
    watch.start()
    return process


def kill_group(process: subprocess.Popen) -> None:
    """Kill a training that has not ended, and all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def finish(*processes: subprocess.Popen) -> str:
    """Wait for the end of a training; return what it has said on standard error."""
    said = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return "\n".join(said)


def curve_of(run_dir: Path) -> list[list[float]]:
    """Return loss and validation Dice after each epoch."""
    with open(run_dir / "history.csv", newline="") as file:
        return [[float(row["loss"]), float(row["validation_dice"])] for row in csv.DictReader(file)]


def digest_of(run_dir: Path) -> str:
    return checkpoint.load_weights(run_dir / "best.safetensors")[1]["digest"]


@pytest.fixture(scope="module")
def two(folder) -> Path:
    """Return the run of two processes that nobody has disturbed."""
    finish(torchrun(folder, "two", "--nproc-per-node", "2"))
    return folder / "two"


@pytest.fixture
def noise(folder, monkeypatch) -> np.ndarray:
    """Return the curves of one process with three seeds: (seeds, epochs, 2)."""
    monkeypatch.setenv("LUNGSEG_HOME", str(folder))
    for seed in range(3):
        assert cli.main([*arguments_of(folder, f"seed{seed}"), "-p", "seed", str(seed)]) == 0
    return np.array([curve_of(folder / f"seed{seed}") for seed in range(3)])


def test_any_number_of_processes_and_nodes_has_the_curve_of_one(folder, two, noise):
    finish(torchrun(folder, "four", "--nproc-per-node", "4"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = f"127.0.0.1:{free.getsockname()[1]}"
    nodes = ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting]
    finish(*[torchrun(folder, "nodes", *nodes, "--rdzv-id", "nodes") for _node in range(2)])
    assert digest_of(folder / "nodes") == digest_of(two)  # a node is no more than its processes
    middle, spread = noise.mean(0), np.ptp(noise, 0).max(0)
    for name in ("two", "four"):
        away = np.abs(np.array(curve_of(folder / name)) - middle).max(0)
        assert (away < 2 * spread).all(), (name, away, spread)


def test_who_is_killed_in_an_epoch_is_started_again_and_the_run_ends_as_it_should(folder, two):
    kills = f"0:1:{2 * STEPS + 3} 1:0:{5 * STEPS + 5}"  # in the third epoch, then in the sixth
    restarts = ("--nproc-per-node", "2", "--max-restarts", "3")
    said = finish(torchrun(folder, "killed", *restarts, KILLS=kills))
    assert said.count("exitcode: -9") == said.count("started again by torchrun") == 2
    assert curve_of(folder / "killed") == curve_of(two)
    assert digest_of(folder / "killed") == digest_of(two)
    assert not list((folder / "killed").glob("earlier-*"))


def test_another_number_of_processes_goes_on_and_what_changes_is_named(
    folder, two, monkeypatch, capsys
):
    monkeypatch.setenv("LUNGSEG_HOME", str(folder))
    shutil.copytree(two, folder / "other")
    more = ["train", "--run-dir", str(folder / "other"), "--resume"]
    assert cli.main([*more, "--epochs", str(EPOCHS)]) == 0
    assert "note" not in capsys.readouterr().err  # nothing is left to do
    assert cli.main([*more, "--epochs", str(EPOCHS + 1)]) == 0
    note = capsys.readouterr().err
    assert f"2 processes until epoch {EPOCHS}, 1 from here on. The same: weights, " in note
    assert "of 4 patches at a time instead of 2" in note
    assert curve_of(folder / "other")[:-1] == curve_of(two)


def test_who_is_started_again_meets_nobody_of_an_earlier_start():
    store = HashStore()
    store.set("token/1", "of one who died before anybody answered")
    agreed = []
    for world_size in (3, 2, 4):  # as nodes come and go
        with ThreadPoolExecutor(world_size) as processes:
            args = [store] * world_size, range(world_size), [world_size] * world_size
            found = set(processes.map(agree_on_prefix, *args))
        assert len(found) == 1
        agreed += found
    assert len(set(agreed)) == 3


@pytest.mark.parametrize(("launch", "counted"), [("a", "0"), ("a", "1"), ("none", "1")])
def test_a_restart_goes_on_and_another_start_begins_again(tmp_path, monkeypatch, launch, counted):
    cases = [make_prepared(seed) for seed in range(3)]

    def start(launch, count):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        fit(cases[:2], cases[2:], run_dir=tmp_path, config=TINY, device="cpu")
        return len(list(tmp_path.glob("earlier-*")))

    assert start(launch, "0") == 0
    assert start(launch, counted) == 0
    assert start("b", counted) == 1
    assert start("none", "0") == 2
