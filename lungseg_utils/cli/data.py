"""The commands that make, import, fetch, check and prepare datasets."""

import argparse
import json

from lungseg_utils import parameters
from lungseg_utils.cli.options import (
    Commands,
    add_command,
    add_dataset,
    add_parameter,
    add_settings,
    read_settings,
)
from lungseg_utils.runtime import LungsegError, printable

SYNTHETIC = ("cases", "test_cases", "seed", "tier")


def add_commands(commands: Commands) -> None:
    """Add `phantom`, `import`, `download`, `check` and `preprocess`."""
    add = add_command(commands, phantom, "data/synthetic --cases 20 --tier full")
    add("out", metavar="OUT", help="folder of the new set")
    for name in SYNTHETIC:
        add_parameter(add, name)
    add(
        "--tumours",
        type=int,
        choices=range(10),
        metavar="N",
        help="tumours in each chest, 0 to 9; 0: empty labels (default: drawn, one to four)",
    )

    add = add_command(commands, import_, "my_patients data/my_set --roi 'GTV*'")
    add(
        "source",
        metavar="SOURCE",
        help="folder with images/ and labels/ (or masks/) of the same names; with a folder for "
        "each patient: NIfTI, or DICOM with RTSTRUCT or SEG; or dataset in the Decathlon's or "
        "nnU-Net's layout",
    )
    add("out", metavar="OUT", help="folder of the new set; new or empty")
    add(
        "--roi",
        metavar="NAME",
        action="append",
        help="which ROI is the tumour (default: the only one); may be a pattern such as 'GTV*', "
        "and repeated: several are taken together",
    )
    add(
        "--crops",
        action="store_true",
        help="the scans are pieces of chests, as cubes round tumours: no lungs are searched for, "
        "and nothing is taken as known beyond them",
    )

    add = add_command(commands, download, "data")
    add(
        "folder",
        metavar="DIR",
        nargs="?",
        default="data",
        help="folder that will hold the dataset",
    )
    add("--url", help="address, or path, of another tar (default: Task06_Lung's)")
    add("--md5", help="checksum that the tar must have (default: Task06_Lung's)")

    add = add_command(commands, check, "data/Task06_Lung --json")
    add_dataset(add)
    add("--json", action="store_true", help="report as JSON")

    add = add_command(commands, preprocess, "data/Task06_Lung -f params/msd.yaml")
    add_dataset(add)
    add("--ray", action="store_true", help="prepare by the workers of a Ray cluster, as in predict")
    add_settings(add)


def phantom(options: argparse.Namespace) -> None:
    """Make a set of synthetic chest CTs."""
    from lungseg_utils.phantom import write_dataset

    chosen = {name: getattr(options, name) for name in (*SYNTHETIC, "tumours")}
    write_dataset(options.out, **chosen)
    print(f"{printable(options.out)}: {options.cases} training and {options.test_cases} test scans")


def import_(options: argparse.Namespace) -> None:
    """Import outlined scans of your own: NIfTI, nnU-Net's layout, DICOM with RTSTRUCT or SEG."""
    from lungseg_utils import decathlon

    imported = decathlon.import_set(
        options.source, options.out, options.roi or (), crops=options.crops
    )
    for case in imported:
        drawn = "no mask, for testing"
        if case.volume_ml is not None:
            drawn = f"{', '.join([*case.rois, ''])}{case.volume_ml:.1f} mL"
        print(f"{printable(case.name)}: {printable(drawn)}")
    tests = sum(case.part == "Ts" for case in imported)
    print(f"{printable(options.out)}: {len(imported) - tests} training and {tests} test scans")


def download(options: argparse.Namespace) -> None:
    """Download the Decathlon's Task06_Lung, about 8.5 GB."""
    from lungseg_utils import decathlon

    if options.url and not options.md5:
        raise LungsegError(
            options.url, "no checksum to compare this archive with", "give its md5 with --md5"
        )
    folder = decathlon.download(
        options.folder,
        url=options.url or decathlon.TASK06_URL,
        md5=options.md5 or decathlon.TASK06_MD5,
    )
    print(printable(folder))


def check(options: argparse.Namespace) -> int:
    """Report every fault of a dataset."""
    from lungseg_utils import decathlon

    report = decathlon.check(options.dataset)
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.text())
    return 1 if report.faults else 0


def preprocess(options: argparse.Namespace) -> None:
    """Prepare a dataset's scans once, for training."""
    from lungseg_utils import decathlon
    from lungseg_utils.preprocess.cache import prepare_cases

    settings = parameters.defaults() | read_settings(options)
    dataset = decathlon.load(options.dataset)
    spacing_mm = settings["spacing_mm"]
    cases = prepare_cases(
        dataset.training, spacing_mm=spacing_mm, workers=settings["workers"], ray=options.ray
    )
    print(f"{printable(dataset.name)}: {len(cases)} scans prepared at {spacing_mm:g} mm")
