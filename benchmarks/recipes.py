"""Compare choices of the training recipe, one changed at a time: optimiser, loss, deep supervision, augmentation.

    python benchmarks/recipes.py [--steps 160] [--seeds 2] [--only NAME] [--runs N]

Network, settings, scans and scores are those of `ablation.py`; the recipe it starts from is its own: AdamW, Dice +
cross-entropy over the whole batch, a cosine. A choice and seed that the results hold already is not trained again.
Writes benchmarks/results/recipes.json and recipes.md.
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
    differences_of,
    earlier_runs,
    load_data,
    save,
    segunet,
    setting_of,
    train_and_score,
)

CHOICES: dict[str, dict] = {
    "as it is": {},
    "SGD, Nesterov 0.99, rate 0.01, power decay": {
        "optimiser": "sgd",
        "learning_rate": 1e-2,
        "schedule": "poly",
    },
    "learning rate 0.001": {"learning_rate": 1e-3},
    "overlap balanced by volume": {"loss": "dice_ce_balanced"},
    "Tversky loss": {"loss": "tversky"},
    "Dice + focal loss": {"loss": "focal"},
    "deep supervision": {"deep_supervision": True},
    "elastic deformation, 3 voxels": {"elastic_voxels": 3.0},
    "low resolution, 25 % of the patches": {"low_resolution": 0.25},
    "cut off, 15 % of the patches": {"field_of_view_crop": 0.15},
    "no augmentation": {"augment": False},
}


def table(runs: Sequence[dict]) -> str:
    """Write a row a choice: its scores, and its paired difference in Dice from the recipe as it is."""
    lines = [
        "| changed | seeds | seconds | " + " | ".join(MEASURES.values()) + " | Dice, difference |",
        "| --- " * (len(MEASURES) + 4) + "|",
    ]
    base = [run for run in runs if run["choice"] == "as it is"]
    for choice in CHOICES:
        found = [run for run in runs if run["choice"] == choice]
        if found:
            seconds = sum(run["seconds"] for run in found) / len(found)
            difference = (
                "" if choice == "as it is" or not base else differences_of(base, found, ["dice"])[0]
            )
            lines.append(
                f"| {choice} | {len(found)} | {seconds:.0f} | "
                + " | ".join(cells_of(found))
                + f" | {difference} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the arguments, train what is missing, write the table after every run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setting(parser, "recipes")
    parser.set_defaults(seeds=2)
    parser.add_argument("--only", choices=CHOICES, help="one of the choices")
    options = parser.parse_args()
    setting = setting_of(options)
    runs = earlier_runs(options.output, setting)
    done = {(run["choice"], run["seed"]) for run in runs}
    missing = [
        (choice, seed)
        for seed in range(options.seeds)
        for choice in CHOICES
        if options.only in (None, choice) and (choice, seed) not in done
    ][: options.runs]
    if missing:
        training, trials = load_data(options)
    for choice, seed in missing:
        config = dataclasses.replace(config_of(setting, seed), **CHOICES[choice])
        runs.append(
            {"choice": choice, "seed": seed}
            | train_and_score(lambda: segunet(setting["channels"]), training, trials, config)
        )
        save(options.output, "Choices of the training recipe", setting, runs, table(runs))
        print(f"{choice}, seed {seed}: Dice {column(runs[-1:], 'dice').mean():.3f}", flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
