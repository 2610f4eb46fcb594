"""The command line: `lungseg`, the same as `python -m lungseg_utils`.

Exit codes: 0 done; 1 a bad input or a failure, said as `error: FILE: cause. remedy.`; 2 wrong usage; 130 interrupted.
Everything heavy is imported where a command needs it, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from lungseg_utils import __version__, parameters
from lungseg_utils.runtime import LungsegError, file_error, is_out_of_memory, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, mode))
            os.set_inheritable(getattr(sys, name).fileno(), True)  # a notebook's kernel needs it
        with contextlib.suppress(
            AttributeError
        ):  # a file name may hold what the terminal cannot show
            getattr(sys, name).reconfigure(errors="backslashreplace")
    options = build_parser().parse_args(arguments)
    try:
        code = options.run(options) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of a pipe has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {describe(error, options.command)}", file=sys.stderr, flush=True)
        return 1


def describe(error: Exception, command: str) -> str:
    """Say any error as `FILE: cause. remedy.`; one that nobody foresaw names the command and how to see more."""
    if isinstance(error, LungsegError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return str(file_error(os.fsdecode(error.filename), error))
    cause = (
        "not enough memory"
        if is_out_of_memory(error)
        else f"{type(error).__name__}: {printable(error)}"
    )
    return f"lungseg {command}: {cause.rstrip('.')}. Run it again with --debug to see where."


def build_parser() -> argparse.ArgumentParser:
    """Give the parser of all commands."""
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show where an error arose"
    )
    parser = argparse.ArgumentParser(
        prog="lungseg",
        formatter_class=_Help,
        description=(
            "Segment lung tumours in chest CTs with a 3D SegUNet. For research and teaching; not a medical device."
        ),
        epilog="example: lungseg predict my_ct.nii.gz -o mask.nii.gz",
    )
    parser.add_argument("--version", action="version", version=f"lungseg {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error arose")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(run: Callable, description: str, example: str) -> argparse.ArgumentParser:
        name = run.__name__.strip("_")
        added = commands.add_parser(
            name,
            help=description,
            description=description[0].upper() + description[1:] + ".",
            epilog=f"example: lungseg {name} {example}",
            formatter_class=_Help,
            parents=[everywhere],
        )
        added.set_defaults(run=run)
        return added

    add = command(
        _phantom, "make a set of synthetic chest CTs", "data/synthetic --cases 20 --tier full"
    ).add_argument
    add("out", metavar="OUT", help="folder of the new set")
    for name in ("cases", "test_cases", "seed", "tier"):
        _add_parameter(add, name)

    add = command(
        _download, "download the Decathlon's Task06_Lung, about 8.5 GB", "data"
    ).add_argument
    add(
        "folder", metavar="DIR", nargs="?", default="data", help="folder that will hold the dataset"
    )
    add("--url", help="of another tar; or the path of one (default: Task06_Lung)")
    add("--md5", help="that the tar must have (default: Task06_Lung's)")

    add = command(_check, "report every fault of a dataset", "data/Task06_Lung --json").add_argument
    add("dataset", metavar="DATASET", help="folder in the Decathlon's layout")
    add("--json", action="store_true", help="report as JSON")

    add = command(
        _preprocess,
        "prepare a dataset's scans once, for training",
        "data/Task06_Lung -f params/msd.yaml",
    ).add_argument
    add("dataset", metavar="DATASET", help="folder in the Decathlon's layout")
    _add_settings(add)

    add = command(
        _train, "train a SegUNet", "data/Task06_Lung --run-dir runs/fold0 -f params/msd.yaml"
    ).add_argument
    add("dataset", metavar="DATASET", help="folder in the Decathlon's layout")
    add(
        "--run-dir",
        metavar="DIR",
        required=True,
        help="folder of the run: weights, history, settings",
    )
    _add_parameter(add, "epochs", given=False)
    _add_parameter(add, "fold", given=False)
    add("--resume", action="store_true", help="go on where the run in DIR was stopped")
    add(
        "--weights",
        metavar="FILE",
        help="start from these, to fine-tune them (default: random ones)",
    )
    _add_settings(add)

    add = command(
        _predict, "segment the tumours of scans", "my_ct.nii.gz -o mask.nii.gz"
    ).add_argument
    add(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="NIfTI file, folder of one DICOM series, or folder of NIfTI files",
    )
    add("-o", "--output", metavar="OUT", required=True, help="a file for one input, else a folder")
    add(
        "--checkpoint",
        metavar="FILE",
        action="append",
        help="weights of a run (default: those shipped); may be repeated: several are averaged",
    )
    _add_parameter(add, "device")
    add("--series", metavar="UID", help="which DICOM series to take where a folder holds several")
    add("--dicom-seg", action="store_true", help="write DICOM SEG objects too, for DICOM inputs")
    add("--probabilities", action="store_true", help="write the tumour probabilities too")
    add(
        "--json",
        metavar="FILE",
        help="write a JSON line for each scan: its tumours, seconds, versions",
    )

    add = command(
        _evaluate, "compare masks with labels", "predictions/ labels/ -o metrics.csv"
    ).add_argument
    add("predictions", metavar="PREDICTIONS", help="folder of masks")
    add("labels", metavar="LABELS", help="folder of labels of the same names")
    add(
        "-o",
        "--output",
        metavar="FILE",
        default="metrics.csv",
        help="table to write, with summary.json beside it",
    )

    add = command(
        _course, "run the seven notebooks without a screen", "-p epochs 30 -o build/course"
    ).add_argument
    add(
        "-o",
        "--output",
        metavar="DIR",
        default="build/course",
        help="folder for notebooks, figures and metrics",
    )
    _add_settings(add)
    return parser


class _Help(argparse.RawDescriptionHelpFormatter):
    """Show the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        has_default = not any(
            action.default is nothing for nothing in (None, False, argparse.SUPPRESS)
        )
        return f"{action.help} (default: %(default)s)" if has_default else action.help


def _add_parameter(add: Callable, name: str, given: bool = True) -> None:
    """Add an option for a parameter of the table; without `given` its default is left to the settings."""
    parameter = parameters.PARAMETERS[name]

    def parse(text: str) -> object:
        try:
            return parameters.coerce(name, text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    choices = "|".join(parameter.allowed) if parameter.kind is str else "N"
    default = "" if given else f" (default: the file's, or {parameter.default})"
    add(
        f"--{name.replace('_', '-')}",
        type=parse,
        metavar=choices,
        help=f"{parameter.meaning}{default}",
        default=parameter.default if given else None,
    )


def _add_settings(add: Callable) -> None:
    add(
        "-f",
        "--file",
        metavar="FILE",
        help="YAML file of parameters (default: as params/quick.yaml)",
    )
    add(
        "-p",
        "--parameter",
        nargs=2,
        metavar=("NAME", "VALUE"),
        action="append",
        help="one parameter; may be repeated",
    )


def _settings(options: argparse.Namespace) -> dict:
    """Give the parameters of the file, then those of -p, then those that are options of their own."""
    settings = parameters.read(Path(options.file)) if options.file is not None else {}
    settings |= parameters.check(dict(options.parameter or []))
    own = {name: getattr(options, name, None) for name in ("epochs", "fold")}
    return settings | {name: value for name, value in own.items() if value is not None}


# --- the commands ----------------------------------------------------------------------------------------------


def _phantom(options: argparse.Namespace) -> None:
    from lungseg_utils.phantom import write_dataset

    write_dataset(
        options.out,
        cases=options.cases,
        test_cases=options.test_cases,
        seed=options.seed,
        tier=options.tier,
    )
    print(f"{printable(options.out)}: {options.cases} training and {options.test_cases} test scans")


def _download(options: argparse.Namespace) -> None:
    from lungseg_utils.decathlon import TASK06_MD5, TASK06_URL, download

    if options.url and not options.md5:
        raise LungsegError(
            options.url, "nothing tells what this archive should be", "give its md5 with --md5"
        )
    print(
        printable(
            download(options.folder, url=options.url or TASK06_URL, md5=options.md5 or TASK06_MD5)
        )
    )


def _check(options: argparse.Namespace) -> int:
    from lungseg_utils.decathlon import check

    report = check(options.dataset)
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.text())
    return 1 if report.faults else 0


def _preprocess(options: argparse.Namespace) -> None:
    from lungseg_utils import decathlon
    from lungseg_utils.preprocess.cache import prepare_cases

    settings = parameters.defaults() | _settings(options)
    dataset = decathlon.load(options.dataset)
    cases = prepare_cases(
        dataset.training, spacing_mm=settings["spacing_mm"], workers=settings["workers"]
    )
    print(
        f"{printable(dataset.name)}: {len(cases)} scans prepared at {settings['spacing_mm']:g} mm"
    )


def _train(options: argparse.Namespace) -> None:
    from accelerate import PartialState

    from lungseg_utils import decathlon
    from lungseg_utils.training import train

    settings = parameters.defaults() | _settings(options)
    train(
        decathlon.load(options.dataset),
        options.run_dir,
        settings,
        resume=options.resume,
        weights=options.weights,
    )
    if PartialState().is_main_process:
        print(f"{printable(options.run_dir)}: best.safetensors, history.csv")


def _predict(options: argparse.Namespace) -> None:
    from lungseg_utils.prediction import predict_files

    if not options.checkpoint:
        print(
            "note: these are the shipped weights, trained on synthetic scans; not for clinical use",
            file=sys.stderr,
        )
    scans = predict_files(
        options.inputs,
        options.output,
        checkpoint=options.checkpoint,
        device=options.device,
        series=options.series,
        dicom_seg=options.dicom_seg,
        probabilities=options.probabilities,
        report=options.json,
    )
    for scan in scans:
        tumours = scan["tumours"]
        volume_ml = sum(tumour["volume_ml"] for tumour in tumours)
        count = f"{len(tumours)} tumour{'' if len(tumours) == 1 else 's'}"
        print(
            f"{printable(scan['name'])}: {count}, {volume_ml:.1f} mL, {scan['seconds']:.1f} s",
            flush=True,
        )


def _evaluate(options: argparse.Namespace) -> None:
    from lungseg_utils.evaluation import evaluate

    rows = evaluate(options.predictions, options.labels, options.output)
    found, true = (sum(row[name] for row in rows) for name in ("lesions_found", "lesions_true"))
    dice = sum(row["dice"] for row in rows) / len(rows)
    print(
        f"{len(rows)} scans: mean Dice {dice:.3f}, {found} of {true} lesions found, "
        f"{sum(row['false_positives'] for row in rows) / len(rows):.2f} false positives a scan"
    )
    print(printable(options.output))


def _course(options: argparse.Namespace) -> None:
    from lungseg_utils.course import run_course

    run_course(_settings(options), options.output)
