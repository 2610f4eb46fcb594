"""Compare choices of the training recipe, one changed at a time.

    python benchmarks/recipes.py [--steps 160] [--seeds 2] [--only NAME] [--runs N]

Optimiser, loss, deep supervision, augmentation. Network, setting, scans and scores are those of
`experiment.py`; the recipe that each choice changes is AdamW, Dice + cross-entropy over the whole
batch, a cosine. A choice and seed that the results hold already is not trained again. Writes
benchmarks/results/recipes.json and recipes.md.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import experiment
from experiment import MEASURES
from networks import segunet
from report import make_parser, markdown_table

TITLE = "Choices of the training recipe"
BASE = "as it is"
SGD = {"optimiser": "sgd", "learning_rate": 1e-2, "schedule": "poly"}
CHOICES: dict[str, dict] = {
    BASE: {},
    "SGD, Nesterov 0.99, rate 0.01, power decay": SGD,
    "learning rate 0.001": {"learning_rate": 1e-3},
    "overlap balanced by volume": {"loss": "dice_ce_balanced"},
    "Tversky loss": {"loss": "tversky"},
    "Dice + focal loss": {"loss": "focal"},
    "deep supervision": {"deep_supervision": True},
    "elastic deformation, 3 voxels": {"elastic_voxels": 3.0},
    "low resolution, 25 % of the patches": {"low_resolution": 0.25},
    "cut off, 15 % of the patches": {"field_of_view_crop": 0.15},  # as the results call it
    "no augmentation": {"augment": False},
}


def table(runs: Sequence[dict]) -> str:
    """Return a row a choice: its scores, and its paired difference in Dice from the recipe."""
    by_choice = {choice: [run for run in runs if run["choice"] == choice] for choice in CHOICES}
    rows = []
    for choice, found in by_choice.items():
        if found:
            seconds = sum(run["seconds"] for run in found) / len(found)
            difference = ""
            if choice != BASE and by_choice[BASE]:
                difference = experiment.difference_of(by_choice[BASE], found, "dice")
            cells = experiment.cells_of(found)
            rows.append([choice, len(found), f"{seconds:.0f}", *cells, difference])
    heading = ["changed", "seeds", "seconds", *MEASURES.values(), "Dice, difference"]
    return markdown_table(heading, rows)


def main() -> None:
    """Read the arguments, train what is missing, write the table after every run."""
    parser = make_parser(__doc__)
    experiment.add_setting(parser, "recipes")
    parser.set_defaults(seeds=2)
    parser.add_argument("--only", choices=CHOICES, help="one of the choices")
    options = parser.parse_args()
    setting = experiment.setting_of(options)
    runs = experiment.earlier_runs(options.output, setting)
    done = {(run["choice"], run["seed"]) for run in runs}
    choices = [options.only] if options.only else list(CHOICES)
    wanted = [(choice, seed) for seed in range(options.seeds) for choice in choices]
    missing = [pair for pair in wanted if pair not in done][: options.runs]
    if missing:
        training, trials = experiment.load_data(options)
    build = functools.partial(segunet, setting["channels"])
    for choice, seed in missing:
        config = dataclasses.replace(experiment.config_of(setting, seed), **CHOICES[choice])
        found = experiment.train_and_score(build, training, trials, config)
        runs.append({"choice": choice, "seed": seed} | found)
        experiment.save(options.output, TITLE, setting, runs, table(runs))
        dice = experiment.column(runs[-1:], "dice").mean()
        print(f"{choice}, seed {seed}: Dice {dice:.3f}", flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
