"""What a folder of masks says of itself: its manifest, `--skip-done`, `status` and `--shard`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cases import ball, make_scan
from helpers_limits import full_disk
from helpers_outputs import content

from lungseg_utils import checkpoint, cli, volume
from lungseg_utils.prediction import ledger, manifest, predict_files, segmenting
from lungseg_utils.prediction.shards import (
    Shard,
    parse_shard,
    scheduler_shard,
    torchrun_process,
)
from lungseg_utils.runtime import LungsegError
from lungseg_utils.segunet import SegUNet

SHAPE = (12, 14, 16)
NAMES = ("b", "B", "a10", "a9")  # which sort otherwise by case and by number


def write_scan(path: Path, seed: int = 0) -> Path:
    hu = np.random.default_rng(seed).integers(-900, 200, SHAPE).astype(np.int16)
    hu[ball(SHAPE, (6, 7, 8), 4)] = 40
    volume.write_nifti(path, hu, make_scan(hu).affine)
    return path


def write_weights(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    checkpoint.save_weights(path, SegUNet(channels=(2, 4)), {"spacing_mm": 6.0})
    return path


@pytest.fixture
def scans(tmp_path) -> Path:
    """Scans, with the weights of a tiny network beside their folder."""
    write_weights(tmp_path / "tiny.safetensors")
    for seed, name in enumerate(NAMES):
        write_scan(tmp_path / "scans" / f"{name}.nii.gz", seed)
    return tmp_path / "scans"


def predict(scans: Path, *options, out="out") -> int:
    weights = scans.parent / "tiny.safetensors"
    inputs = [] if any(str(option).endswith(".nii.gz") for option in options) else [scans]
    arguments = [*inputs, "-o", scans.parent / out, "--device", "cpu", *options]
    if "--checkpoint" not in options:
        arguments += ["--checkpoint", weights]
    return cli.main(["predict", *map(str, arguments)])


def status(scans: Path, capsys, out="out") -> tuple[int, dict[str, list[str]]]:
    """Return the exit code of `lungseg status`, and the names by their state."""
    capsys.readouterr()
    code = cli.main(["status", str(scans.parent / out)])
    lines = capsys.readouterr().out.splitlines()
    counts = dict(line.split(": ") for line in lines[:4])
    names = {state: [] for state in counts}
    for line in lines[4:]:
        state, name = line.split(" ", 1)
        names[state].append(name.split(": ")[0])
    assert {state: str(len(found)) for state, found in names.items()} == counts
    return code, {state: found for state, found in names.items() if found}


def rows(scans: Path, name="manifest.jsonl", out="out") -> list[dict]:
    text = (scans.parent / out / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_each_scan_has_one_row_which_has_that_of_the_report(scans, capsys):
    assert predict(scans, "--json", scans.parent / "report.jsonl") == 0
    report = [json.loads(line) for line in (scans.parent / "report.jsonl").read_text().splitlines()]
    assert sorted(row["name"] for row in rows(scans)) == sorted(NAMES)
    by_name = {row["name"]: row for row in rows(scans)}
    for row in report:
        assert row.items() <= by_name[row["name"]].items()
    own = by_name["a9"]
    assert own["status"] == "done" and own["settings"] == {"threshold": 0.5, "series": None}
    assert own["host"] and len(own["content"]) == 32 and own["outputs"] == ["a9.nii.gz"]
    assert status(scans, capsys) == (0, {"done": sorted(NAMES)})


def test_a_run_again_does_only_the_rest_and_says_how_many_were_done(scans, capsys):
    predict(scans)
    before = content(scans.parent / "out")
    assert predict(scans, "--skip-done") == 0
    printed = capsys.readouterr()
    assert "note: 4 of 4 scans are done already" in printed.err
    assert content(scans.parent / "out") == before
    (scans.parent / "out" / "b.nii.gz").unlink()
    assert status(scans, capsys) == (1, {"done": ["B", "a10", "a9"], "missing": ["b"]})
    report = scans.parent / "report.jsonl"
    assert predict(scans, "--skip-done", "--json", report) == 0
    printed = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.out.splitlines()] == ["b"]
    assert len(report.read_text().splitlines()) == len(rows(scans)) == 4
    assert content(scans.parent / "out")["b.nii.gz"] == before["b.nii.gz"]


def test_a_changed_scan_other_weights_and_settings_are_stale(scans, capsys):
    predict(scans)
    path = scans / "a9.nii.gz"
    os.utime(path, (1, 1))  # another time, the same content
    assert status(scans, capsys)[0] == 0
    size, times = path.stat().st_size, path.stat()
    data = bytearray(path.read_bytes())
    data[4] ^= 1  # of the gzip header: the time
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == size and path.stat().st_mtime_ns == times.st_mtime_ns
    assert status(scans, capsys) == (1, {"done": ["B", "a10", "b"], "stale": ["a9"]})
    assert predict(scans, "--skip-done") == 0 and status(scans, capsys)[0] == 0
    other = write_weights(scans.parent / "other.safetensors", seed=1)
    for options in (["--threshold", "0.4"], ["--threshold", "0.4", "--checkpoint", other]):
        one = [scans / "a10.nii.gz", *options]
        assert predict(scans, "--skip-done", *one) == 0
        assert "note: 0 of 1 scans are done" in capsys.readouterr().err
        assert predict(scans, "--skip-done", *one) == 0
        assert "note: 1 of 1 scans are done" in capsys.readouterr().err
    assert status(scans, capsys)[0] == 0


def test_an_output_that_was_not_asked_for_before_is_missing(scans, capsys):
    predict(scans)
    assert predict(scans, "--skip-done", "--probabilities") == 0
    assert "note: 0 of 4 scans are done" in capsys.readouterr().err
    (scans.parent / "out" / "b_probability.nii.gz").unlink()
    assert status(scans, capsys)[1]["missing"] == ["b"]


def test_a_side_output_of_other_weights_is_missing(scans, capsys):
    """A probability map that has stayed beside the mask of a later run is none of that mask."""
    one, map_file = scans / "b.nii.gz", scans.parent / "out" / "b_probability.nii.gz"
    other = write_weights(scans.parent / "other.safetensors", seed=1)
    predict(scans, one, "--probabilities")
    before = map_file.read_bytes()
    predict(scans, one, "--checkpoint", other)
    for count, state in enumerate(("missing", "done")):
        again = ["--skip-done", "--probabilities", "--checkpoint", other]
        assert predict(scans, one, *again) == 0, state
        assert f"note: {count} of 1 scans are done" in capsys.readouterr().err
    assert map_file.read_bytes() != before
    assert status(scans, capsys) == (0, {"done": ["b"]})


@pytest.mark.fault("damaged manifest")
def test_a_scan_that_fails_has_a_row_that_says_why(scans, capsys):
    whole = (scans / "b.nii.gz").read_bytes()
    (scans / "b.nii.gz").write_bytes(whole[:200])
    assert predict(scans) == 1
    (failed,) = [row for row in rows(scans) if row["status"] == "failed"]
    assert failed["name"] == "b" and "b.nii.gz: " in failed["error"]
    assert status(scans, capsys) == (1, {"done": ["B", "a10", "a9"], "failed": ["b"]})
    assert predict(scans, "--skip-done") == 1
    (scans / "b.nii.gz").write_bytes(whole)
    assert predict(scans, "--skip-done") == 0 and status(scans, capsys)[0] == 0
    assert len(rows(scans)) == 4


def test_a_failed_scan_that_was_taken_away_is_planned_no_more(scans, capsys):
    (scans / "b.nii.gz").write_bytes(b"")
    assert predict(scans) == 1
    (scans / "b.nii.gz").unlink()
    assert predict(scans, "--skip-done") == 0
    assert status(scans, capsys) == (0, {"done": ["B", "a10", "a9"]})


def test_a_scan_that_was_moved_away_after_it_was_done_is_done(scans, capsys):
    predict(scans)
    scans.rename(scans.parent / "elsewhere")
    assert status(scans, capsys)[0] == 0
    assert predict(scans.parent / "elsewhere", "--skip-done") == 0
    assert "note: 4 of 4 scans are done" in capsys.readouterr().err


@pytest.mark.fault("damaged manifest")
def test_a_mask_without_a_row_is_done_again_and_no_cut_row_is_believed(scans, capsys):
    predict(scans)
    path = scans.parent / "out" / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + b"{}\n[1]\nnull\n" + lines[2] + lines[3][:50])
    missing = [json.loads(lines[3])["name"]]
    assert status(scans, capsys)[1]["missing"] == missing
    assert predict(scans, "--skip-done") == 0
    assert "note: 3 of 4 scans are done" in capsys.readouterr().err
    assert len(rows(scans)) == 4 and status(scans, capsys)[0] == 0


@pytest.mark.fault("full disk")
@pytest.mark.skipif(sys.platform == "win32", reason="needs the limits of POSIX")
def test_a_row_that_finds_no_room_is_written_at_the_end(scans, monkeypatch, capsys):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger.manifest, "add_row", fail)
    assert predict(scans) == 0 and len(rows(scans)) == 4
    monkeypatch.undo()
    with full_disk(10):
        assert predict(scans, out="other") == 1
    assert "no room to write it" in capsys.readouterr().err
    assert content(scans.parent / "other") == {}


def test_other_scans_may_follow_into_the_same_folder(scans, capsys):
    for name in NAMES:
        assert predict(scans, scans / f"{name}.nii.gz") == 0
    assert status(scans, capsys) == (0, {"done": sorted(NAMES)}) and len(rows(scans)) == 4


def test_a_scan_does_not_replace_the_mask_of_another_of_its_name(scans, capsys):
    """Unless it is a copy, or that mask is not wanted any more."""
    one, other, copy = (
        scans.parent / folder / "ct.nii.gz" for folder in ("first", "second", "third")
    )
    for path, seed in ((one, 0), (other, 1), (copy, 0)):
        write_scan(path, seed)
    assert predict(scans, one) == predict(scans, copy) == 0
    before = content(scans.parent / "out")
    for options in ([], ["--skip-done"], ["--shard", "1/1"]):
        assert predict(scans, other, *options) == 1
        assert f"ct.nii.gz: the mask of another scan, {copy}, and not" in capsys.readouterr().err
    assert content(scans.parent / "out") == before
    (scans.parent / "out" / "ct.nii.gz").unlink()
    assert predict(scans, other) == 0


@pytest.mark.fault("two processes at once")
def test_runs_at_once_into_one_folder_lose_no_row(scans, capsys):
    """Here one run lies within another: it begins after and ends before it."""
    weights = scans.parent / "tiny.safetensors"
    options = {"checkpoint": weights, "device": "cpu"}
    outer = predict_files([scans], scans.parent / "out", **options)
    next(outer)
    list(predict_files([scans / "a9.nii.gz"], scans.parent / "out", threshold=0.3, **options))
    assert len(list(outer)) == 3
    assert len(rows(scans)) == 4 and status(scans, capsys)[0] == 1  # the plan has the inner's 0.3
    assert predict(scans, "--skip-done") == 0 and status(scans, capsys)[0] == 0


def test_a_killed_run_leaves_rows_for_what_was_written(scans, monkeypatch, capsys):
    write = segmenting.write

    def stop(job, result, draw):
        write(job, result, draw)
        if job.scan.name == "a9":
            raise KeyboardInterrupt  # the mask is there, its row is not

    monkeypatch.setattr(segmenting, "write", stop)
    assert predict(scans) == 130
    monkeypatch.undo()
    assert (scans.parent / "out" / "a9.nii.gz").exists()
    assert "a9" in status(scans, capsys)[1]["missing"]
    assert predict(scans, "--skip-done") == 0 and status(scans, capsys)[0] == 0


def test_status_of_a_folder_without_a_manifest_is_an_error(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "none"):
        assert cli.main(["status", str(folder)]) == 1
        assert f"error: {folder}: no manifest" in capsys.readouterr().err


def test_one_file_has_no_manifest(scans):
    one = [scans / "b.nii.gz", "--json", scans.parent / "r.jsonl"]
    assert predict(scans, *one, out="mask.nii.gz") == 0
    assert not list(scans.parent.glob("manifest*"))
    assert predict(scans, *one, "--skip-done", out="mask.nii.gz") == 1


def test_a_report_takes_no_manifest_s_place(scans):
    for name in ("manifest.jsonl", "plan.jsonl", "manifest.1-of-2.jsonl"):
        assert predict(scans, "--json", scans.parent / "out" / name) == 1
    assert not (scans.parent / "out" / "b.nii.gz").exists()


def test_a_series_is_the_same_with_its_masks_beside_its_slices(tmp_path):
    from test_dicom import chest, write_series

    from lungseg_utils.prediction.sources import content_of, stamp_of

    write_series(tmp_path / "series", chest((4, 8, 8)))
    before = content_of(str(tmp_path / "series")), stamp_of(str(tmp_path / "series"))
    write_scan(tmp_path / "series" / "masks" / "mask.nii.gz")
    (tmp_path / "series" / "masks" / "manifest.jsonl").write_text("{}")
    assert before == (content_of(str(tmp_path / "series")), stamp_of(str(tmp_path / "series")))
    one = next((tmp_path / "series").glob("*.dcm"))
    one.rename(one.with_name("other.dcm"))
    assert before[0] != content_of(str(tmp_path / "series"))


# --- shards ---------------------------------------------------------------------------------------


def test_shards_do_each_scan_once_in_whatever_order_they_are_named(scans, capsys):
    files = [scans / f"{name}.nii.gz" for name in NAMES]
    done = []
    for number in (3, 1, 2):
        inputs = files if number == 1 else files[::-1]
        assert predict(scans, *inputs, "--shard", f"{number}/3") == 0
        own = [row["name"] for row in rows(scans, f"manifest.{number}-of-3.jsonl")]
        done += own
        code, found = status(scans, capsys)
        assert sorted(found["done"]) == sorted(done) and len(own) in (1, 2)
        assert (code, len(found.get("missing", []))) == (int(number != 2), 4 - len(done))
    assert sorted(done) == sorted(NAMES)
    before = content(scans.parent / "out")
    assert predict(scans, "--shard", "1/3") == 0  # once more: nothing to do
    assert predict(scans, "--shard", "1/2") == 0  # a smaller array finds what another has done
    assert [len(rows(scans, "manifest.1-of-2.jsonl")), status(scans, capsys)[0]] == [2, 0]
    after = content(scans.parent / "out")
    assert {name: after[name] for name in before} == before
    assert predict(scans, "--shard", "9/9") == 0  # more shards than scans: this one has none


def test_shards_that_share_a_report_leave_the_rows_of_all_in_it(scans):
    report = scans.parent / "report.jsonl"
    for number in (1, 2):
        assert predict(scans, "--shard", f"{number}/2", "--json", report) == 0
    names = [json.loads(line)["name"] for line in report.read_text().splitlines()]
    assert sorted(names) == sorted(NAMES)


def test_a_report_of_its_own_has_a_shard_s_rows_alone(scans):
    reports = [scans.parent / f"report{number}.jsonl" for number in (1, 2)]
    for number, report in enumerate(reports, start=1):
        assert predict(scans, "--shard", f"{number}/2", "--json", report) == 0
    lines = [line for report in reports for line in report.read_text().splitlines()]
    assert sorted(json.loads(line)["name"] for line in lines) == sorted(NAMES)


def test_a_stale_row_of_one_shard_gives_way_to_the_later_of_another(scans, capsys):
    assert predict(scans, "--shard", "1/1", "--threshold", "0.4") == 0
    assert predict(scans, "--skip-done") == 0
    assert status(scans, capsys)[0] == 0
    assert {row["threshold"] for row in rows(scans)} == {0.5}


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "x", "1-3", "-1/3", "1/3/5", ""])
def test_a_shard_that_is_none_is_wrong_usage(text, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["predict", "x.nii", "-o", str(tmp_path), f"--shard={text}"])
    assert ended.value.code == 2 and "--shard" in capsys.readouterr().err


def test_a_scheduler_s_variables_name_the_shard():
    def shard(**environment):
        found = scheduler_shard({name: str(value) for name, value in environment.items()})
        return found.number, found.count

    slurm = {"SLURM_ARRAY_TASK_COUNT": 3, "SLURM_ARRAY_TASK_MIN": 0}
    assert [shard(SLURM_ARRAY_TASK_ID=i, **slurm) for i in (0, 1, 2)] == [(1, 3), (2, 3), (3, 3)]
    stepped = {**slurm, "SLURM_ARRAY_TASK_MIN": 10, "SLURM_ARRAY_TASK_STEP": 5}
    assert [shard(SLURM_ARRAY_TASK_ID=i, **stepped)[0] for i in (10, 15, 20)] == [1, 2, 3]
    assert shard(SLURM_ARRAY_TASK_ID=2, SLURM_ARRAY_TASK_COUNT=3) == (2, 3)
    assert shard(JOB_COMPLETION_INDEX=0, JOB_COMPLETIONS=4) == (1, 4)
    assert parse_shard("2/3") == Shard(2, 3)
    assert torchrun_process({}) == torchrun_process({"WORLD_SIZE": "1"}) == Shard(1, 1)
    assert torchrun_process({"RANK": "1", "WORLD_SIZE": "2"}) == Shard(2, 2)
    for environment in (
        {},
        {"JOB_COMPLETION_INDEX": "1"},
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "many"},
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "0"},
    ):
        with pytest.raises(LungsegError, match="--shard auto: .*I/N"):
            scheduler_shard(environment)


@pytest.mark.parametrize(
    "tasks, first, last, step",
    [
        ((1, 3, 7), 1, 7, 1),
        ((1, 2, 4), 1, 4, 1),
        ((3, 5), 3, 5, 1),  # those of a larger array that failed
        ((10, 15, 17), 10, 17, 5),
    ],
)
def test_an_array_with_gaps_has_no_shards(tasks, first, last, step):
    """Two of its tasks would do the same shard, and none another."""
    names = ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP")
    array = dict(zip(names, map(str, (first, last, step))))
    array["SLURM_ARRAY_TASK_COUNT"] = str(len(tasks))
    for task in tasks:
        with pytest.raises(LungsegError, match="the array has gaps.*--array=1-N"):
            scheduler_shard({**array, "SLURM_ARRAY_TASK_ID": str(task)})


@pytest.mark.parametrize("last", [7, 9])
def test_an_array_of_steps_need_not_end_on_its_last_number(last):
    array = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "3"}
    array |= {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MAX": str(last)}
    for number, task in enumerate((1, 4, 7), 1):
        found = scheduler_shard({**array, "SLURM_ARRAY_TASK_ID": str(task)})
        assert found == Shard(number, 3)


def test_auto_takes_the_shard_of_the_scheduler(scans, monkeypatch, capsys):
    assert predict(scans, "--shard", "auto") == 1
    assert "--shard auto: JOB_COMPLETION_INDEX is not set" in capsys.readouterr().err
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("JOB_COMPLETIONS", "2")
    assert predict(scans, "--shard", "auto") == 0
    assert len(rows(scans, "manifest.2-of-2.jsonl")) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs gloo over POSIX")
def test_under_torchrun_each_scan_is_done_by_one_process(scans, capsys):
    out, report = scans.parent / "out", scans.parent / "report.jsonl"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "-m", "lungseg_utils", "predict", scans, "-o", out]
    command += ["--checkpoint", scans.parent / "tiny.safetensors", "--device", "cpu"]
    run = subprocess.run(
        [*map(str, command), "--json", str(report)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert sorted(line.split(":")[0] for line in run.stdout.splitlines()) == sorted(NAMES)
    assert len(rows(scans)) == len(report.read_text().splitlines()) == 4
    assert status(scans, capsys)[0] == 0


@pytest.mark.fault("damaged manifest")
def test_lines_of_elsewhere_are_no_rows(scans, capsys):
    out = scans.parent / "out"
    out.mkdir()
    junk = '{"mask": 5}\n{"mask": "x"}\n' + "[" * 10000 + "\n\xff"
    for name in ("plan.jsonl", "manifest.jsonl"):
        (out / name).write_text(junk)
    assert manifest.read_plan(out) == {}
    assert cli.main(["status", str(out)]) == 1
    assert predict(scans, "--skip-done") == 0 and status(scans, capsys)[0] == 0
    (out / "plan.jsonl").unlink()
    assert status(scans, capsys)[0] == 0  # the rows say what was planned
