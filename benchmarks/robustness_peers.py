"""Read files with other people's readers, each in a process that may die; for `robustness.py`.

    PYTHON robustness_peers.py READER < inputs.json > ends.json

READER is nibabel, SimpleITK, MONAI or nnU-Net; PYTHON may belong to an environment of its own, so
nothing of this project is imported. An input is a path or a pair of image and label (nnU-Net's
check takes pairs). The ends are "refused" (an error that names the file), "refused unclearly" (any
other error, a crash, no end), "warned" (read, with a warning or anything else printed) and
"silent"; beside each stands the number of voxels that were read.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable

MEMORY_BYTES = 4 << 30  # more than this is taken for a failure
PATIENCE_S = 60


def nibabel_reader() -> tuple[Callable, str]:
    import nibabel
    import numpy as np

    def read(path: str) -> np.ndarray:
        return np.asanyarray(nibabel.load(path).dataobj)

    return read, f"nibabel {nibabel.__version__}"


def simpleitk_reader() -> tuple[Callable, str]:
    import SimpleITK as sitk  # noqa: N813

    def read(path: str) -> object:
        names = path
        if os.path.isdir(path):
            names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(path)
        return sitk.GetArrayFromImage(sitk.ReadImage(names))

    return read, f"SimpleITK {sitk.Version.VersionString()}"


def monai_reader() -> tuple[Callable, str]:
    import monai
    from monai.data import load_decathlon_datalist
    from monai.transforms import LoadImage

    load = LoadImage(image_only=True)

    def read(path: str) -> object:
        description = os.path.join(path, "dataset.json")
        if os.path.basename(os.path.dirname(path)).endswith("_sets"):
            for case in load_decathlon_datalist(description, data_list_key="training"):
                load(case["image"]).sum()
                load(case["label"]).sum()
            return None
        image = load(path)
        image.sum()
        return image

    return read, f"MONAI {monai.__version__}, LoadImage"


def nnunet_reader() -> tuple[Callable, str]:
    from importlib.metadata import version

    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_labels
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    def verify(pair: list[str]) -> None:
        """Do with a case what `verify_dataset_integrity` does, with the reader that it picks."""
        image, label = pair
        if not (
            verify_labels(label, SimpleITKIO, [0, 1])
            and check_cases([image], label, 1, SimpleITKIO)
        ):
            # its own message, with the text above it, which names the file
            raise RuntimeError(f"Some images have errors. Please check text above: {pair}")

    return verify, f"nnU-Net {version('nnunetv2')}, integrity check"


READERS = {
    "nibabel": nibabel_reader,
    "SimpleITK": simpleitk_reader,
    "MONAI": monai_reader,
    "nnU-Net": nnunet_reader,
}


def end_of(read: Callable, item: str | list[str]) -> tuple[str, int]:
    """Read one input in a forked child; return how that ended, and how many voxels were read."""
    names = [os.path.basename(path) for path in ([item] if isinstance(item, str) else item)]
    receive, send = os.pipe()
    with tempfile.TemporaryFile() as printed:
        child = os.fork()
        if not child:
            attempt(read, item, names, send, printed.fileno())
        os.close(send)
        ready = select.select([receive], [], [], PATIENCE_S)[0]
        end = os.read(receive, 1000).decode() if ready else ""
        os.close(receive)
        if not ready:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        printed.seek(0)
        has_printed = bool(printed.read().strip())
    if end.startswith("read "):
        return "warned" if has_printed else "silent", int(end.removeprefix("read "))
    return end or "refused unclearly", 0


def attempt(
    read: Callable, item: str | list[str], names: list[str], send: int, printed: int
) -> None:
    """Read in the child: print to the file `printed`, write the end to the pipe `send`."""
    import resource

    os.dup2(printed, 1)
    os.dup2(printed, 2)
    end = "refused unclearly"
    try:
        with open("/proc/self/statm") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        voxels = math.prod(getattr(read(item), "shape", (0,)))
        sys.stdout.flush()
        end = f"read {voxels}"
    except Exception as error:
        if any(name in str(error) for name in names):
            end = "refused"
    finally:
        os.write(send, end.encode())
        os._exit(0)


def main() -> None:
    warnings.simplefilter("default")
    read, version = READERS[sys.argv[1]]()
    ends = [end_of(read, item) for item in json.load(sys.stdin)]
    print(json.dumps({"version": version, "ends": ends}))


if __name__ == "__main__":
    main()
