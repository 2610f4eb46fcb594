"""Run the notebooks, and make what each of them needs of the earlier ones."""

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from accelerate.utils import patch_environment

from lungseg_utils import checkpoint, decathlon, parameters, phantom
from lungseg_utils.clock import clock
from lungseg_utils.lessons import NOTEBOOKS, list_notebooks
from lungseg_utils.preprocess import Prepared, prepare
from lungseg_utils.runtime import (
    LungsegError,
    home,
    require_writable,
    resolve,
    warn,
    writing,
)
from lungseg_utils.training import Stopped, TrainingConfig, set_aside, train
from lungseg_utils.training.run_folder import epochs_done

INPUTS = ("dataset_dir", "checkpoint", "ct_path")
TABLES = ("metrics.csv", "summary.json")
VALIDATION_SEEDS = range(4000, 4009)  # of cases that the quick set does not hold


def ensure_dataset(dataset_dir: str = "") -> decathlon.Dataset:
    """Load the set in `dataset_dir`; without one the synthetic quick set, made if it is missing.

    A synthetic set that an earlier version of the generator made is made again. Either is
    reported, in one line.
    """
    if dataset_dir:
        return decathlon.load(resolve(dataset_dir, ""))
    folder = home() / "data" / "synthetic_quick"
    state = "found" if (folder / "dataset.json").is_file() else "made"
    quick = {name: parameters.defaults()[name] for name in ("cases", "test_cases", "tier")}
    with contextlib.redirect_stdout(None):  # what is printed there names the machine
        try:
            phantom.write_dataset(folder, **quick)
        except LungsegError:
            if not phantom.is_of_another_version(folder, **quick):
                raise  # somebody else's files, or a disk that is full
            state = "of an earlier version replaced"
            phantom.remove_dataset(folder)
            phantom.write_dataset(folder, **quick)
    dataset = decathlon.load(folder)
    count = f"{len(dataset.training)} training and {len(dataset.test)} test scans"
    print(f"synthetic set {state} in {short(folder)}: {count}")
    return dataset


def ensure_model(
    run_dir: str = "", dataset: decathlon.Dataset | None = None, settings: Mapping | None = None
) -> Path:
    """Return the run's best weights; without sound ones train a short run first and report it.

    `settings` are parameters that differ from the quick defaults, such as
    `vars(parameters.validate(globals()))`.
    """
    folder = resolve(run_dir, "runs/quick")
    best = folder / "best.safetensors"
    if best.exists():
        try:
            checkpoint.load_weights(best)
            print(f"model found in {short(folder)}{_unfinished(folder)}")
            return best
        except LungsegError as error:
            warn(f"{error} Training a new one")
    else:
        print(f"no model in {short(folder)} yet: training one (notebook 04 shows how)")
    values = parameters.defaults() | dict(settings or {})
    also = more_to_validate(values["dataset_dir"], values["spacing_mm"])
    try:
        train(dataset or ensure_dataset(), folder, values, validate_also=also)
    except Stopped:
        act = "run the cell again"
        if best.exists():
            act = "notebook 04 goes on with it, and this cell, run again, takes it as it is"
        raise Stopped(f"Training stopped: {act}.") from None
    return best


def _unfinished(folder: Path) -> str:
    """Return what to say of a run that was stopped before its last epoch; "" of a whole one."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        epochs = json.loads((folder / "config.json").read_text(encoding="utf-8"))["epochs"]
        done = epochs_done(folder)
        if 0 < done < epochs:  # 0: a copy without its history, or weights to start from
            return f", stopped after {done} of {epochs} epochs: notebook 04 goes on with it"
    return ""


def more_to_validate(dataset_dir: str, spacing_mm: float) -> list[Prepared]:
    """Return more synthetic scans, prepared, to validate a training on the synthetic quick set.

    Its fold has three, which say little. None for another set.
    """
    if dataset_dir:
        return []
    scans = [phantom.make_case(seed) for seed in VALIDATION_SEEDS]
    return [prepare(scan, label=label, spacing_mm=spacing_mm) for scan, label in scans]


def parameters_of(notebook: Path) -> set[str]:
    """Return the parameters that a notebook takes: its own, and all of training if it may train."""
    import papermill

    own = set(papermill.inspect_notebook(str(notebook)))
    if "epochs" in own:
        own |= {field.name for field in dataclasses.fields(TrainingConfig)}
    return own & parameters.PARAMETERS.keys()


def run_course(settings: Mapping | None = None, out: str | Path = "build/course") -> Path:
    """Run all notebooks in a row, with one run folder for all; print where the results are.

    Leaves the executed notebooks, figures/, run/ (the model), metrics.csv and summary.json in
    `out`. An earlier course in the same place is replaced. Raises LungsegError naming the notebook
    and the cell that failed.
    """
    taken = {path: parameters_of(path) for path in list_notebooks(NOTEBOOKS)}
    chosen = _check_settings(settings or {}, set().union(*taken.values()))
    out = require_writable(Path(os.path.expanduser(out)).resolve())
    _remove_earlier(out, list(taken))
    run_dir = resolve(chosen.get("run_dir", ""), str(out / "run"))
    chosen["run_dir"] = str(run_dir)
    started = time.perf_counter()
    with patch_environment(LUNGSEG_FIGURES=out / "figures"):  # which the kernels inherit
        for number, (notebook, names) in enumerate(taken.items(), 1):
            values = {name: chosen[name] for name in chosen.keys() & names}
            place = f"{number} of {len(taken)}"
            _run_notebook(notebook, out / notebook.name, values, place)
    for name in TABLES:
        if (run_dir / name).is_file():
            with writing(out / name) as partial:
                shutil.copyfile(run_dir / name, partial)
    print(f"the course took {(time.perf_counter() - started) / 60:.1f} minutes; its results:")
    print(f"  {out / '*.ipynb'}")
    for result in (out / "figures", *(out / name for name in TABLES), run_dir):
        if result.exists():
            print(f"  {result}")
    return out


def _check_settings(settings: Mapping, taken: set[str]) -> dict:
    """Return `settings` checked, with whole paths; refuse one that no notebook takes."""
    chosen = parameters.check(settings)
    quick = parameters.defaults()
    idle = [name for name in chosen.keys() - taken if chosen[name] != quick[name]]
    if idle:
        raise LungsegError(
            ", ".join(sorted(idle)),
            "no notebook takes it",
            "make a set with `lungseg phantom`, and give its folder as dataset_dir",
        )
    for name in INPUTS:
        if chosen.get(name):
            path = resolve(chosen[name], "")
            if not path.exists():
                raise LungsegError(path, "no such file or folder", f"correct {name}")
            chosen[name] = str(path)
    return chosen


def _run_notebook(notebook: Path, executed: Path, chosen: Mapping, place: str) -> None:
    """Execute one notebook with `chosen` parameters; `place` is its number of how many."""
    import papermill

    started = time.perf_counter()
    for library in ("papermill", "asyncio"):
        # their errors are raised too; logged, they bury what Ctrl-C prints
        logging.getLogger(library).setLevel(logging.CRITICAL)
    name = f"{notebook.stem} … "
    now, later = ("", name) if sys.stderr.isatty() else (name, "")  # the clock has the line
    print(now, end="", flush=True)
    try:
        with clock(f"{place}: {notebook.stem}"):
            papermill.execute_notebook(
                str(notebook),
                str(executed),
                dict(chosen),
                kernel_name="python3",
                progress_bar=False,
                cwd=str(executed.parent),
                extra_arguments=["--IPKernelApp.log_level=50"],  # an error is in the notebook
            )
    except papermill.PapermillExecutionError as error:
        print(f"{later}failed", flush=True)
        raise LungsegError(
            notebook,
            f"cell {error.exec_count} failed with {error.ename}: {error.evalue}",
            f"see {executed}",
        ) from error
    print(f"{later}{time.perf_counter() - started:.0f} s", flush=True)


def _remove_earlier(out: Path, notebooks: list[Path]) -> None:
    """Remove what an earlier course left in `out` and set its model aside: none is mixed up.

    Where no notebook of the course is there, nothing is the course's, and all stays.
    """
    if not any((out / notebook.name).exists() for notebook in notebooks):
        return
    left = [out / notebook.name for notebook in notebooks] + [out / name for name in TABLES]
    for path in (*left, *(out / "figures").glob("0[1-9]_*.png")):
        path.unlink(missing_ok=True)
    if (out / "run").is_dir():
        set_aside(out / "run")


def short(path: Path) -> str:
    """Return a path under the home of the course without the machine's part; another one whole."""
    return path.relative_to(home()).as_posix() if path.is_relative_to(home()) else str(path)
