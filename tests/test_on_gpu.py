"""What runs on a GPU that is lent for minutes, rehearsed on a CPU with tiny numbers."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers_recipes import load_recipe
from helpers_sets import write_crops

from lungseg_utils import checkpoint, decathlon, parameters
from lungseg_utils.runtime import ROOT, pick_precision
from lungseg_utils.training import train

TINY = """
device: cpu
workers: 1
spacing_mm: 6.0
patch_size: [8, 8, 8]
channels: [2, 4]
epochs: 2
steps_per_epoch: 1
batch_size: 1
"""
LEFT = {"best.safetensors", "last.safetensors", "history.csv", "config.json", "environment.json"}

needs_linux = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("timeout")), reason="there is no bash with timeout"
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path / "home"))


@pytest.fixture
def tiny(tmp_path):
    """Return a file of parameters that make the smallest training."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def bash(script, *arguments, **environment):
    """Run a script of the repository with this Python, unless another one is named."""
    return subprocess.run(
        ["bash", str(ROOT / script), *map(str, arguments)],
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"} | environment,
        text=True,
        capture_output=True,
        timeout=600,
    )


@needs_linux
def test_one_call_makes_sets_trains_on_all_and_brings_weights_and_history(tmp_path, tiny):
    out = tmp_path / "out"
    numbers = {"CORES": "2", "CASES": "2", "TIER": "quick", "PHANTOMS_S": "0"}
    numbers |= {"BUDGET_S": "500", "PARAMS": str(tiny), "WEIGHTS": "", "FIRST_SEED": "7"}
    ended = bash("recipes/on_gpu.sh", out, **numbers)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in out.iterdir()} == LEFT
    recipe = json.loads((out / "config.json").read_text())["recipe"]
    assert [name.rsplit("_", 1)[1] for name in recipe["datasets"]] == ["10000", "10001"]
    assert len((out / "history.csv").read_text().splitlines()) == 1 + 2  # its heading, two epochs
    model, facts = checkpoint.load_weights(out / "last.safetensors")
    assert (model.channels, facts["spacing_mm"]) == ((2, 4), 6.0)


@needs_linux
def test_a_budget_that_the_sets_use_up_is_an_error(tmp_path):
    nothing = {"PYTHON": "true", "CORES": "1", "BUDGET_S": "5"}
    ended = bash("recipes/on_gpu.sh", tmp_path / "out", **nothing)
    assert ended.returncode == 1
    assert "no time is left to train. Raise BUDGET_S" in ended.stderr


def test_as_many_epochs_are_trained_as_fit_into_the_time():
    epochs = load_recipe("train_for").epochs_that_fit
    assert epochs(left_s=100, before_s=15, epoch_s=8) == 10
    assert epochs(left_s=1, before_s=15, epoch_s=8) == 1


def test_a_training_that_is_stopped_leaves_small_files_of_its_weights(tmp_path, tiny, monkeypatch):
    def train_and_stop(datasets, run_dir, settings, **options):
        train(datasets, run_dir, settings, **options)
        raise KeyboardInterrupt

    train_for = load_recipe("train_for")
    monkeypatch.setattr(train_for, "measure", lambda *_: (0.0, 1.0))
    monkeypatch.setattr(train_for, "train", train_and_stop)
    own = write_crops(tmp_path / "own")
    run_dir = tmp_path / "run"
    train_for.main(["600", str(own), "--run-dir", str(run_dir), "-f", str(tiny)])
    whole, _ = checkpoint.load_weights(run_dir / "last.pt")
    half, _ = checkpoint.load_weights(run_dir / "last.safetensors")
    for exact, rounded in zip(whole.state_dict().values(), half.state_dict().values()):
        wanted = exact.half() if exact.ndim > 1 else exact
        assert rounded.equal(wanted.to(rounded.dtype))


def test_an_epoch_is_measured_apart_from_what_precedes_it(tmp_path, tiny):
    settings = parameters.defaults() | parameters.read(tiny)
    dataset = decathlon.load(write_crops(tmp_path / "own"))
    before_s, epoch_s = load_recipe("train_for").measure([dataset], settings, None)
    assert before_s >= 0 < epoch_s
    assert not (tmp_path / "home" / "runs").exists()


# --- what is measured -----------------------------------------------------------------------------


@needs_linux
def test_each_part_of_the_benchmarks_is_the_command_of_a_script(tmp_path):
    ended = bash("benchmarks/on_gpu.sh", tmp_path, PYTHON="echo", PEERS="peers")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "on_gpu.txt").read_text() == ended.stdout
    headings, commands = ended.stdout.splitlines()[::2], ended.stdout.splitlines()[1::2]
    parts = [line.split()[1].rstrip(",") for line in headings]
    assert parts == ["gpu", "memory", "train", "course", "predict", "monai", "nnunet"]
    scripts = [command.split()[0] for command in commands]
    assert all((ROOT / script).is_file() for script in scripts if script != "-m")


@needs_linux
def test_a_part_for_which_no_time_is_left_is_left_out_and_an_unknown_one_refused(tmp_path):
    ended = bash("benchmarks/on_gpu.sh", tmp_path, "memory", PYTHON="echo", BUDGET_S="0")
    assert ended.stdout == "== memory, 0 s left\n"
    assert bash("benchmarks/on_gpu.sh", tmp_path, "speed", PYTHON="echo").returncode == 2


@pytest.mark.skipif(
    pick_precision(torch.device("cpu")) == torch.float32,
    reason="this processor emulates bfloat16, a hundred times slower",
)
def test_precisions_are_compared_and_a_training_comes_out_the_same_twice(
    tmp_path, monkeypatch, capsys
):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("patch_size: [16, 16, 16]\nchannels: [2, 4]\nbatch_size: 1\n")
    pytest.importorskip("resource")  # by which memory.py asks a Unix for it
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    numbers = "--cases 1 --tier quick --steps 1 --device cpu"
    files = ["--recipe", str(recipe), "--output", str(tmp_path / "found")]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *numbers.split(), *files])
    gpu.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["masks"][0]["Dice between them"] > 0.95
    assert [row["precision"] for row in found["trainings"]] == ["float32", *["bfloat16"] * 3]
    assert found["trainings"][0]["the same twice"]
    assert "| deterministic algorithms | bfloat16 |" in (tmp_path / "found.md").read_text()
