"""The course as a whole: what a notebook needs and an earlier one would have left, and all seven in a row."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lungseg_utils import decathlon, parameters, phantom
from lungseg_utils.runtime import ROOT, LungsegError, home, require_writable, resolve, warn, writing

if TYPE_CHECKING:
    pass

NOTEBOOKS = ROOT / "notebooks"
PATHS = ("dataset_dir", "run_dir", "checkpoint", "ct_path")


def ensure_dataset(dataset_dir: str = "") -> decathlon.Dataset:
    """Load the set in `dataset_dir`; without one the synthetic quick set, which is made first where it is missing.

    A synthetic set that an earlier version of the generator made is made anew. Both are said, in one line.
    """
    if dataset_dir:
        return decathlon.load(resolve(dataset_dir, ""))
    folder = home() / "data" / "synthetic_quick"
    state = "found" if (folder / "dataset.json").is_file() else "made"
    try:
        _write_quick_set(folder)
    except LungsegError:
        if not phantom.is_of_another_version(folder, **_quick_set()):
            raise  # somebody else's files, or a disk that is full
        state = "of an earlier version replaced"
        phantom.remove_dataset(folder)
        _write_quick_set(folder)
    dataset = decathlon.load(folder)
    count = f"{len(dataset.training)} training and {len(dataset.test)} test scans"
    print(f"synthetic set {state} in {short(folder)}: {count}")
    return dataset


def _write_quick_set(folder: Path) -> None:
    """Write the synthetic quick set, or what is missing of it; quietly, for what is said must not name the machine."""
    with contextlib.redirect_stdout(None):
        phantom.write_dataset(folder, **_quick_set())


def _quick_set() -> dict:
    return {name: parameters.defaults()[name] for name in ("cases", "test_cases", "tier")}


def ensure_model(
    run_dir: str = "", dataset: decathlon.Dataset | None = None, settings: Mapping | None = None
) -> Path:
    """Give the run's best weights; without sound ones train a short run first, and say so in one line.

    `settings` are parameters (as of `parameters.validate`, see `vars`) that differ from the quick defaults.
    """
    from lungseg_utils import checkpoint

    folder = resolve(run_dir, "runs/quick")
    best = folder / "best.safetensors"
    if best.exists():
        try:
            checkpoint.load_weights(best)
            print(f"model found in {short(folder)}")
            return best
        except LungsegError as error:
            warn(f"{error} Training a new one")
    else:
        print(f"no model in {short(folder)} yet: training one (notebook 04 shows how)")
    from lungseg_utils.training import train

    train(dataset or ensure_dataset(), folder, parameters.defaults() | dict(settings or {}))
    return best


def parameters_of(notebook: Path) -> set[str]:
    """Give the parameters that a notebook takes: its own, and where it may train, all that training has."""
    import dataclasses

    import papermill

    from lungseg_utils.training import TrainingConfig

    own = set(papermill.inspect_notebook(str(notebook)))
    return (
        own | {field.name for field in dataclasses.fields(TrainingConfig)}
        if "epochs" in own
        else own
    )


def run_course(settings: Mapping | None = None, out: str | Path = "build/course") -> Path:
    """Execute the seven notebooks in order, headlessly, with one run folder for all; say where the results are.

    Leaves the executed notebooks, figures/, run/ (the model), metrics.csv and summary.json in `out`. An earlier
    course in the same place is replaced. Raises LungsegError naming the notebook and the cell that failed.
    """
    notebooks = sorted(NOTEBOOKS.glob("0[1-9]_*.ipynb"))
    if not notebooks:
        raise LungsegError(
            NOTEBOOKS,
            "the notebooks are not there",
            "run the course from a clone of the repository",
        )
    chosen, quick = parameters.check(settings or {}), parameters.defaults()
    taken = {notebook: parameters_of(notebook) & quick.keys() for notebook in notebooks}
    idle = [
        name for name in chosen.keys() - set().union(*taken.values()) if chosen[name] != quick[name]
    ]
    if idle:
        raise LungsegError(
            ", ".join(sorted(idle)),
            "no notebook takes it",
            "make a set with `lungseg phantom`, and give its folder as dataset_dir",
        )
    for name in ("dataset_dir", "checkpoint", "ct_path"):
        if chosen.get(name) and not resolve(chosen[name], "").exists():
            raise LungsegError(resolve(chosen[name], ""), "no such file or folder", f"mend {name}")
    out = require_writable(Path(os.path.expanduser(out)).resolve())
    chosen |= {name: str(resolve(chosen[name], "")) for name in PATHS if chosen.get(name)}
    _remove_earlier(out, notebooks)
    run_dir = Path(chosen.setdefault("run_dir", "") or out / "run")
    chosen["run_dir"] = str(run_dir)
    started = time.perf_counter()
    with _environment(LUNGSEG_FIGURES=str(out / "figures")):
        for notebook in notebooks:
            _run_notebook(
                notebook,
                out / notebook.name,
                {n: v for n, v in chosen.items() if n in taken[notebook]},
            )
    for name in ("metrics.csv", "summary.json"):
        if (run_dir / name).is_file():
            with writing(out / name) as partial:
                shutil.copyfile(run_dir / name, partial)
    print(f"the course took {(time.perf_counter() - started) / 60:.1f} minutes; its results:")
    for result in [
        out / "*.ipynb",
        out / "figures",
        out / "metrics.csv",
        out / "summary.json",
        run_dir,
    ]:
        if result.name == "*.ipynb" or result.exists():
            print(f"  {result}")
    return out


def _run_notebook(notebook: Path, executed: Path, chosen: Mapping) -> None:
    """Execute one notebook with `chosen` parameters."""
    import papermill

    started = time.perf_counter()
    for library in (
        "papermill",
        "asyncio",
    ):  # whose errors are raised too; logged, they bury what Ctrl-C says
        logging.getLogger(library).setLevel(logging.CRITICAL)
    print(f"{notebook.stem} …", end=" ", flush=True)
    try:
        papermill.execute_notebook(
            str(notebook),
            str(executed),
            dict(chosen),
            kernel_name="python3",
            progress_bar=sys.stderr.isatty(),
            cwd=str(executed.parent),
            extra_arguments=["--IPKernelApp.log_level=50"],
        )  # an error is in the notebook
    except papermill.PapermillExecutionError as error:
        print("failed", flush=True)
        raise LungsegError(
            notebook,
            f"cell {error.exec_count} failed with {error.ename}: {error.evalue}",
            f"see {executed}",
        ) from error
    print(f"{time.perf_counter() - started:.0f} s", flush=True)


def _remove_earlier(out: Path, notebooks: list[Path]) -> None:
    """Remove what an earlier course left in `out`, and set its model aside: nothing may be taken for this one's."""
    from lungseg_utils.training import set_aside

    if not any((out / notebook.name).exists() for notebook in notebooks):
        return  # there was none
    for name in [notebook.name for notebook in notebooks] + ["metrics.csv", "summary.json"]:
        (out / name).unlink(missing_ok=True)
    for figure in (out / "figures").glob("0[1-9]_*.png"):
        figure.unlink()
    if (out / "run").is_dir():
        set_aside(out / "run")


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables, which the kernels inherit, while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def short(path: Path) -> str:
    """Show a path under the home of the course without the machine's part of it; another one whole."""
    return path.relative_to(home()).as_posix() if path.is_relative_to(home()) else str(path)
