"""Compare SegUNet with its parents and its peers, each with as many parameters, on several seeds.

    python benchmarks/ablation.py [--steps 160] [--seeds 3] [--only NAME] [--runs N]
        [--peers FOLDER]

Same phantoms, same loop, same steps. The networks are those of `networks.py`; `--peers` may name
the site-packages folder that holds dynamic-network-architectures. A network and seed that the
results hold already is not trained again (`--runs 1` makes one). Writes
benchmarks/results/ablation.json (every case of every run) and ablation.md (the tables).
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

import experiment
from experiment import MEASURES
from networks import NETWORKS, match_widths
from report import make_parser, markdown_table

TITLE = "SegUNet, its parents and its peers"


def table(runs: Sequence[dict]) -> str:
    """Return two tables: the networks, and SegUNet's paired differences from each."""
    by_name = {name: [run for run in runs if run["network"] == name] for name in NETWORKS}
    by_name = {name: found for name, found in by_name.items() if found}
    rows = []
    for name, found in by_name.items():
        widths = "-".join(map(str, found[0]["widths"]))
        parameters = f"{found[0]['parameters']:,}"
        rows.append([name, parameters, widths, len(found), *experiment.cells_of(found)])
    heading = ["network", "parameters", "widths", "seeds", *MEASURES.values()]
    text = markdown_table(heading, rows)
    segunet = by_name.pop("SegUNet", None)
    differences = []
    for name, found in by_name.items() if segunet else []:
        cells = [experiment.difference_of(found, segunet, measure) for measure in MEASURES]
        differences.append([name, *cells])
    return (
        f"{text}\n\nSegUNet minus the other, case by case (mean and 95 % interval of the paired "
        f"bootstrap):\n\n{markdown_table(['against', *MEASURES.values()], differences)}"
    )


def main() -> None:
    """Read the arguments, train what is missing, and write the tables after every run."""
    parser = make_parser(__doc__)
    experiment.add_setting(parser, "ablation")
    parser.add_argument("--only", choices=NETWORKS, help="one of the networks")
    parser.add_argument(
        "--peers", help="site-packages folder that holds dynamic_network_architectures"
    )
    options = parser.parse_args()
    if options.peers:
        sys.path.append(options.peers)  # last: everything else comes from here
    setting = experiment.setting_of(options)
    runs = experiment.earlier_runs(options.output, setting)
    done = {(run["network"], run["seed"]) for run in runs}
    names = [options.only] if options.only else list(NETWORKS)
    wanted = [(name, seed) for seed in range(options.seeds) for name in names]
    missing = [pair for pair in wanted if pair not in done][: options.runs]
    if missing:
        training, trials = experiment.load_data(options)
    for name, seed in missing:
        widths = match_widths(name, options.channels)
        build = functools.partial(NETWORKS[name], widths)
        config = experiment.config_of(setting, seed)
        found = experiment.train_and_score(build, training, trials, config)
        runs.append({"network": name, "seed": seed, "widths": widths} | found)
        experiment.save(options.output, TITLE, setting, runs, table(runs))
        dice = experiment.column(runs[-1:], "dice").mean()
        print(f"{name}, seed {seed}: {found['seconds']:.0f} s, Dice {dice:.3f}", flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
