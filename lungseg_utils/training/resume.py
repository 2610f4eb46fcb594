"""To continue a run where its folder left it."""

import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate.utils import gather_object

from lungseg_utils import checkpoint, parameters
from lungseg_utils.parameters import TrainingConfig
from lungseg_utils.runtime import LungsegError, warn
from lungseg_utils.segunet import SegUNet
from lungseg_utils.training.run import Run, read_start
from lungseg_utils.training.run_folder import facts_of

STATES = ("last.pt", "previous.pt")


class OtherSettingsError(LungsegError):
    """A run in the folder that was made with other settings than those to go on with."""


def read_start_of(
    run_dir: Path, weights: str | Path, config: TrainingConfig, resume: bool | str
) -> tuple[SegUNet | None, dict]:
    """Return the weights to start from and their facts.

    Of a run to resume their file may be gone: its state holds the network, and config.json the
    facts. Only hard examples are found with the first weights again.
    """
    path = checkpoint.find(weights)
    has_state = any((run_dir / name).exists() for name in STATES)
    if resume is True and has_state and not path.exists() and not config.hard_example_share:
        with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
            noted = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
            if noted["recipe"]["weights"] == str(path.resolve()):
                return None, {**noted["prediction"], "digest": noted["started_from"]}
    return read_start(weights, config)


def restore_if_same(run: Run, run_dir: Path) -> None:
    """Restore as `restore` does where the folder holds a run of the same settings.

    In what another one differs is printed.
    """
    if not any((run_dir / name).exists() for name in STATES):
        return
    try:
        restore(run, run_dir)
    except OtherSettingsError as problem:
        if run.accelerator.is_main_process:
            print(f"starting again: {problem.cause}")


def has_begun(run: Run, run_dir: Path) -> bool:
    """Return whether the `torchrun` of these processes has begun the run in `run_dir` already.

    Then one has died, or a node has come or gone, and it has started all of them again. Nodes count
    their restarts apart, and none counts those for a node, so the id of the launch decides. A
    static rendezvous has no id of its own, but there a restart is always counted.
    """
    launch = run.settings["launch"]
    if launch is None:
        return False
    begun = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        begun = json.loads((run_dir / "config.json").read_text(encoding="utf-8")).get("launch")
    is_counted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    has = any(gather_object([begun == launch and (is_counted or launch != "none")]))
    if has and run.accelerator.is_main_process:
        how = "started again by torchrun; it goes on after the last whole epoch"
        print(f"note: {run_dir}: {how}", file=sys.stderr, flush=True)
    return has


def restore(run: Run, run_dir: Path) -> None:
    """Bring `run` to where the folder's last whole epoch left it.

    Where last.pt is damaged, to the epoch before, with a warning; it is then renamed, as the next
    one would move it over the only good state. Best weights that are missing or damaged are
    replaced. Raises LungsegError when the settings differ
    in anything but the number of epochs (and in that too where the schedule depends on it) and of
    processes, when a case has other voxels now, or when both states are damaged.
    """
    candidates = [path for name in STATES if (path := run_dir / name).exists()]
    if not candidates:
        warn(f"{run_dir}: no earlier run to resume; starting from the beginning")
        return
    path, state = _load_one_of(candidates)
    try:
        before = json.loads(state["settings"])
        differences = _differences(before, run.settings)
        if differences:
            raise OtherSettingsError(
                path,
                f"the run was made with other settings: {'; '.join(differences)}",
                "Resume with the same ones or choose another run folder",
            )
        _fill(run, state, path)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise LungsegError(
            path, "not the state of a training run", "Choose another run folder"
        ) from error
    if run.accelerator.is_main_process:
        if path != candidates[0]:
            os.replace(candidates[0], run_dir / "last.damaged.pt")
            warn(f"{candidates[0]}: kept as last.damaged.pt")
        _restore_best(run, run_dir)
        _compare_processes(run, before.get("processes", 1), run_dir)


def _load_one_of(candidates: list[Path]) -> tuple[Path, dict]:
    """Return the first state that can be read, with its path."""
    for path in candidates[:-1]:
        try:
            return path, checkpoint.load_state(path)
        except LungsegError as error:
            warn(f"{error} Falling back to {candidates[-1].name}.")
    return candidates[-1], checkpoint.load_state(candidates[-1])


def _fill(run: Run, state: dict, path: Path) -> None:
    """Put the state of the folder into `run`."""
    checkpoint.fill(run.model, state["model"], path)
    checkpoint.fill(run.ema, state["ema"], path)
    checkpoint.fill(run.heads, state.get("heads", {}), path)
    run.optimiser.load_state_dict(state["optimiser"])
    run.generator.set_state(state["generator"])
    torch.set_rng_state(state["torch"])
    run.history[:] = state["history"]
    run.best_dice = float(state["best_dice"])


def _restore_best(run: Run, run_dir: Path) -> None:
    """Write the running mean for best weights that cannot be read; a better epoch may follow."""
    best = run_dir / "best.safetensors"
    try:
        checkpoint.load_weights(best)
    except LungsegError as error:
        warn(
            f"{best}: {error.cause}: replaced by the weights of epoch {run.epoch}, "
            "which may be worse"
        )
        run.best_dice = run.history[-1].get("validation_dice", -1.0)
        checkpoint.save_weights(best, run.ema, facts_of(run))


def _compare_processes(run: Run, before: int, run_dir: Path) -> None:
    """Print what stays and what changes where other than `before` processes go on."""
    now = run.accelerator.num_processes
    if now == before or run.epoch >= run.settings["epochs"]:
        return
    shares = [run.settings["batch_size"] // count for count in (before, now)]
    print(
        f"note: {run_dir}: {before} processes until epoch {run.epoch}, {now} from here on. "
        "The same: weights, optimiser, learning rate, batch size. Not the same: the patches drawn, "
        f"and batch-norm statistics, of {shares[1]} patches at a time instead of {shares[0]}; "
        "so the numbers will differ",
        file=sys.stderr,
        flush=True,
    )


def _differences(before: dict, now: dict) -> list[str]:
    """Describe in what a run to be resumed differs.

    What its version did not know yet had the default.
    """
    defaults = asdict(TrainingConfig()) | {"started_from": None}
    earlier = _as_json(defaults) | parameters.with_current_names(before)
    wanted = _as_json(now)
    free = {"contents", "launch", "prediction", "processes", "recipe"}
    if wanted["schedule"] == "constant" and not wanted["frozen_norm_share"]:
        free.add("epochs")  # nothing depends on the last epoch
    differences = [
        f"{name} was {earlier.get(name)} and is now {value}"
        for name, value in wanted.items()
        if name not in free and earlier.get(name) != value
    ]
    changed = _changed_cases(earlier, wanted)
    if changed and not differences:
        differences.append(f"the scan or label of {', '.join(changed)} is another one now")
    return differences


def _changed_cases(earlier: dict, wanted: dict) -> list[str]:
    names = wanted["training_cases"] + wanted["validation_cases"]
    contents = zip(names, earlier.get("contents", ()), wanted["contents"])
    return [name for name, before, now in contents if before != now]


def _as_json(settings: dict) -> dict:
    """Return `settings` as a file has them: lists for tuples."""
    return json.loads(json.dumps(settings))
