"""Show what more training buys: accuracy against steps, and against the number of synthetic CTs.

    python benchmarks/curves.py [--steps 160] [--seeds 2] [--runs N]

One training a seed is scored at 1/8, 1/4, 1/2 and all of its steps; others see 2, 4, 8 … of the training CTs for the
same number of steps. Settings, scans and scores are those of `ablation.py`; a run that the results hold already is not
trained again. Writes benchmarks/results/curves.json and curves.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from ablation import (
    MEASURES,
    add_setting,
    cells_of,
    column,
    config_of,
    earlier_runs,
    load_data,
    save,
    score,
    segunet,
    setting_of,
)

from lungseg_utils import runtime
from lungseg_utils.patches import make_training_case
from lungseg_utils.training import make_loss, start_run, train_one_epoch

PARTS = 8  # a training is scored after 1, 2, 4 and 8 eighths of its steps


def train_in_parts(training, trials, setting: dict, seed: int) -> list[dict]:
    """Train one SegUNet, its learning rate constant; give its result, with all CTs also those on the way there."""
    config = dataclasses.replace(
        config_of(setting, seed),
        schedule="constant",
        epochs=PARTS,
        steps_per_epoch=setting["steps"] // PARTS,
    )
    device = runtime.pick_device()
    runtime.seed_everything(seed)
    run = start_run(config, device, segunet(setting["channels"]))
    sources, loss_function, found = (
        [make_training_case(case, device) for case in training],
        make_loss(),
        [],
    )
    for part in range(1, PARTS + 1):
        run.history.append(train_one_epoch(run, sources, loss_function, config))
        if part == PARTS or (part in (1, 2, 4) and len(training) == setting["cases"]):
            found.append(
                {
                    "steps": part * config.steps_per_epoch,
                    "cases": len(training),
                    "seed": seed,
                    "loss": run.history[-1]["loss"],
                    "rows": score(run.ema, trials, config),
                }
            )
    return found


def table(runs: Sequence[dict]) -> str:
    lines = [
        "| CTs | steps | seeds | " + " | ".join(MEASURES.values()) + " |",
        "| --- " * (len(MEASURES) + 3) + "|",
    ]
    for cases, steps in sorted({(run["cases"], run["steps"]) for run in runs}):
        found = [run for run in runs if (run["cases"], run["steps"]) == (cases, steps)]
        lines.append(f"| {cases} | {steps} | {len(found)} | " + " | ".join(cells_of(found)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the arguments, train what is missing, write the table after every run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setting(parser, "curves")
    parser.set_defaults(seeds=2)
    options = parser.parse_args()
    setting = setting_of(options)
    runs = earlier_runs(options.output, setting)
    counts = [count for count in (2**power for power in range(1, 12)) if count < options.cases] + [
        options.cases
    ]
    done = {(run["cases"], run["seed"]) for run in runs}
    missing = [
        (count, seed)
        for seed in range(options.seeds)
        for count in reversed(counts)
        if (count, seed) not in done
    ][: options.runs]
    if missing:
        training, trials = load_data(options)
    for count, seed in missing:
        runs += train_in_parts(training[:count], trials, setting, seed)
        save(
            options.output,
            "Accuracy against training steps and synthetic CTs",
            setting,
            runs,
            table(runs),
        )
        print(f"{count} CTs, seed {seed}: Dice {column(runs[-1:], 'dice').mean():.3f}", flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
