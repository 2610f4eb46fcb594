"""Kill -9 at random moments of caching, training and prediction, or two at once: the same end.

`LUNGSEG_KILLS=50 pytest tests/test_kills.py` kills 50 times each, not twice; download and
extraction are killed in `test_download.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_training import same_run

FOLDER_KILLS = 10
KILLS = int(os.environ.get("LUNGSEG_KILLS", "2"))


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file but TensorBoard's, which not every machine has."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {name: content for name, content in found.items() if "tensorboard" not in name}


def same_files(one: Path, other: Path) -> bool:
    return files(one) == files(other)


def same_masks(one: Path, other: Path) -> bool:
    def content(folder):
        found = files(folder)
        tables = ("report.jsonl", "manifest.jsonl")
        rows = [json.loads(line) for name in tables for line in found.pop(name).splitlines()]
        for row in rows:
            del row["seconds"]
            row.pop("finished", None)
        return found, rows

    return content(one) == content(other)


def run_script(name: str, folder: Path, kills: int) -> Path:
    """Run a script of this folder that kills; return `folder`, which it has filled."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name(name)), str(folder), str(kills)],
        text=True,
        capture_output=True,
        timeout=600 + 120 * kills,  # on a busy machine
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of `helpers_kills.py`: undisturbed runs, and those killed and finished later."""
    return run_script("helpers_kills.py", tmp_path_factory.mktemp("kills"), KILLS)


@pytest.mark.fault("kill -9")
@pytest.mark.parametrize(
    ("job", "same", "count"),
    [("caching", same_files, 3), ("training", same_run, 8), ("prediction", same_masks, 9)],
)
def test_killed_at_any_moment_the_next_run_finishes_the_work(killed, job, same, count):
    undisturbed = killed / job / "undisturbed"
    assert len(files(undisturbed)) == count
    for number in range(KILLS):
        folder = killed / job / str(number)
        assert same(folder, undisturbed), f"kill {number}"
        assert not list(folder.rglob(".partial*"))
    assert len(json.loads((killed / "kills.json").read_text())[job]["killed_at_s"]) == KILLS


@pytest.mark.fault("two processes at once")
@pytest.mark.parametrize(("job", "same"), [("caching", same_files), ("prediction", same_masks)])
def test_two_processes_at_once_are_both_right(killed, job, same):
    assert same(killed / job / "race", killed / job / "undisturbed")


@pytest.mark.fault("kill -9")
def test_a_folder_whose_runs_are_killed_ten_times_ends_as_undisturbed(tmp_path):
    """Each run does only the rest: what had a row stays the same file until the end."""
    run_script("helpers_folder_kills.py", tmp_path, FOLDER_KILLS)
    assert same_masks(tmp_path / "killed", tmp_path / "undisturbed")
    assert len((tmp_path / "killed" / "manifest.jsonl").read_text().splitlines()) == 24
    assert not list(tmp_path.rglob(".partial*"))
    *kills, end = json.loads((tmp_path / "kills.json").read_text())
    counts = [len(kill["done"]) for kill in kills]
    assert len(end["done"]) == 24 and len(kills) == FOLDER_KILLS
    assert counts == sorted(counts) and 0 < counts[-1] < 24
    for kill in kills:
        assert kill["done"].items() <= end["done"].items()  # lists of JSON: inode and time
