"""Train for a given time: as many epochs as fit into it, and no more than the parameter `epochs`.

    python recipes/train_for.py SECONDS DATASET [DATASET …] --run-dir DIR -f params/gpu.yaml
        [-p NAME VALUE]… [--weights FILE]

For a machine at hand for minutes. Two epochs are trained and thrown away, to know how long one
takes, so that the schedule of the learning rate comes to its end. Beside the files of a run, DIR
has last.safetensors, the running mean of the weights after the last epoch; its kernels, and those
of best.safetensors, are in half precision, so that the files are small. SIGTERM or Ctrl-C ends the
training after the last whole epoch, and leaves the same files.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lungseg_utils import checkpoint, decathlon, parameters
from lungseg_utils.cli.options import add_datasets, add_settings, read_settings
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.training import train

MARGIN = 0.95  # of the time, as no two epochs take the same
FILES = {"best.safetensors": "best.safetensors", "last.pt": "last.safetensors"}


def measure(
    datasets: Sequence[decathlon.Dataset], settings: dict, weights: str | None
) -> tuple[float, float]:
    """Return the seconds until the first epoch begins, and those of an epoch, validation included.

    The first epoch warms up, and the second is measured.
    """
    short = settings | {"epochs": 2, "validate_every": 1}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train(datasets, folder, short, weights=weights)
        whole_s = time.perf_counter() - started
        first, second = (Path(folder, name).stat().st_mtime for name in ("previous.pt", "last.pt"))
    epoch_s = second - first
    return max(0.0, whole_s - 2 * epoch_s), epoch_s


def epochs_that_fit(left_s: float, before_s: float, epoch_s: float) -> int:
    """Return how many epochs of `epoch_s` fit into `left_s`, after `before_s` and with a margin."""
    return max(1, int((left_s * MARGIN - before_s) / epoch_s))


def save_halves(run_dir: Path) -> None:
    """Write the best and the last weights of a run with kernels in half precision."""
    for source, name in FILES.items():
        if (run_dir / source).is_file():
            model, facts = checkpoint.load_weights(run_dir / source)
            del facts["digest"]
            checkpoint.save_weights(run_dir / name, model, facts, half=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the arguments, prepare, measure, train."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", type=float)
    add_datasets(parser.add_argument, "+", "several train together, the first has the fold")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--weights", help="start from these (default: random ones)")
    add_settings(parser.add_argument)
    options = parser.parse_args(arguments)
    settings = parameters.defaults() | read_settings(options)
    datasets = [decathlon.load(folder) for folder in options.datasets]
    for dataset in datasets:
        prepare_cases(
            dataset.training, spacing_mm=settings["spacing_mm"], workers=settings["workers"]
        )
    before_s, epoch_s = measure(datasets, settings, options.weights)
    left_s = options.seconds - (time.monotonic() - started)
    settings["epochs"] = min(settings["epochs"], epochs_that_fit(left_s, before_s, epoch_s))
    print(f"{settings['epochs']} epochs of {epoch_s:.1f} s, {left_s:.0f} s left", flush=True)
    try:
        train(datasets, options.run_dir, settings, weights=options.weights)
    except KeyboardInterrupt:
        print("stopped")
    save_halves(options.run_dir)


if __name__ == "__main__":
    main()
