"""Show what more training buys: accuracy against steps, and against the number of synthetic CTs.

    python benchmarks/curves.py [--steps 160] [--seeds 2] [--runs N]

One training a seed is scored at 1/8, 1/4, 1/2 and all of its steps; others see 2, 4, 8 … of the
training CTs for the same number of steps. Setting, scans and scores are those of `experiment.py`; a
run that the results hold already is not made again. Writes benchmarks/results/curves.json and
curves.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import experiment
from experiment import MEASURES, Trial
from networks import segunet
from report import make_parser, markdown_table

from lungseg_utils import runtime
from lungseg_utils.patches import make_training_case
from lungseg_utils.preprocess import Prepared
from lungseg_utils.training import make_loss, start_run, train_one_epoch

TITLE = "Accuracy against training steps and synthetic CTs"
PARTS = 8  # a training is scored after 1, 2, 4 and 8 eighths of its steps


def train_in_parts(
    training: Sequence[Prepared], trials: Sequence[Trial], setting: dict, seed: int
) -> list[dict]:
    """Train a SegUNet at a constant rate; return its scores, with all CTs also on the way."""
    config = dataclasses.replace(
        experiment.config_of(setting, seed),
        schedule="constant",
        epochs=PARTS,
        steps_per_epoch=setting["steps"] // PARTS,
    )
    runtime.seed_everything(seed)
    run = start_run(config, model=segunet(setting["channels"]))
    cases = [make_training_case(case, run.device) for case in training]
    loss_function = make_loss()
    scored = (1, 2, 4, PARTS) if len(training) == setting["cases"] else (PARTS,)
    found = []
    for part in range(1, PARTS + 1):
        run.history.append(train_one_epoch(run, cases, loss_function, config))
        if part in scored:
            found.append(
                {
                    "steps": part * config.steps_per_epoch,
                    "cases": len(training),
                    "seed": seed,
                    "loss": run.history[-1]["loss"],
                    "rows": experiment.score(run.ema, trials, config),
                }
            )
    return found


def table(runs: Sequence[dict]) -> str:
    """Return a row for each number of CTs and of steps."""
    rows = []
    for cases, steps in sorted({(run["cases"], run["steps"]) for run in runs}):
        found = [run for run in runs if (run["cases"], run["steps"]) == (cases, steps)]
        rows.append([cases, steps, len(found), *experiment.cells_of(found)])
    return markdown_table(["CTs", "steps", "seeds", *MEASURES.values()], rows)


def counts_up_to(cases: int) -> list[int]:
    """Return all CTs, then the powers of two below, from the largest."""
    powers = [2**power for power in range(1, cases.bit_length())]
    return [cases, *(count for count in reversed(powers) if count < cases)]


def main() -> None:
    """Read the arguments, train what is missing, write the table after every run."""
    parser = make_parser(__doc__)
    experiment.add_setting(parser, "curves")
    parser.set_defaults(seeds=2)
    options = parser.parse_args()
    setting = experiment.setting_of(options)
    runs = experiment.earlier_runs(options.output, setting)
    done = {(run["cases"], run["seed"]) for run in runs}
    counts = counts_up_to(options.cases)
    wanted = [(count, seed) for seed in range(options.seeds) for count in counts]
    missing = [pair for pair in wanted if pair not in done][: options.runs]
    if missing:
        training, trials = experiment.load_data(options)
    for count, seed in missing:
        runs += train_in_parts(training[:count], trials, setting, seed)
        experiment.save(options.output, TITLE, setting, runs, table(runs))
        dice = experiment.column(runs[-1:], "dice").mean()
        print(f"{count} CTs, seed {seed}: Dice {dice:.3f}", flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
