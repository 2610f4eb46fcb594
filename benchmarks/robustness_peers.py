"""Read files with other people's readers, each in a process that may die; for `robustness.py`.

    PYTHON robustness_peers.py READER < inputs.json > ends.json

READER is nibabel, SimpleITK, MONAI or nnU-Net; PYTHON may belong to an environment of its own, so nothing of this
project is imported. An input is a path or a pair of image and label (nnU-Net's check takes pairs). The ends are
"refused clearly" (an error that names the file), "refused unclearly" (any other error, a crash, no end), "said" (read,
with a warning or anything else printed) and "silent".
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import tempfile
import warnings

MEMORY_BYTES = 4 << 30  # more than this is taken for a failure
PATIENCE_S = 60


def reader(name: str):
    """Give (a function that reads an input, versions)."""
    if name == "nibabel":
        import nibabel
        import numpy as np

        return lambda path: np.asanyarray(
            nibabel.load(path).dataobj
        ), f"nibabel {nibabel.__version__}"
    if name == "SimpleITK":
        import SimpleITK as sitk

        def read(path):
            names = (
                sitk.ImageSeriesReader.GetGDCMSeriesFileNames(path) if os.path.isdir(path) else path
            )
            return sitk.GetArrayFromImage(sitk.ReadImage(names))

        return read, f"SimpleITK {sitk.Version.VersionString()}"
    if name == "MONAI":
        import monai
        from monai.transforms import LoadImage

        load = LoadImage(image_only=True)
        return lambda path: load(path).sum(), f"MONAI {monai.__version__}, LoadImage"
    from importlib.metadata import version

    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_labels
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    def verify(pair):
        """Do with a case what `verify_dataset_integrity` does with each of a set, with the reader that it picks."""
        if not (
            verify_labels(pair[1], SimpleITKIO, [0, 1])
            and check_cases([pair[0]], pair[1], 1, SimpleITKIO)
        ):
            raise RuntimeError(
                f"Some images have errors. Please check text above: {pair}"
            )  # which names the file

    return verify, f"nnU-Net {version('nnunetv2')}, integrity check"


def end_of(read, item) -> str:
    """Read one input in a forked child and tell how that ended."""
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
        said = printed.read().strip()
    return (
        end
        if end.startswith("refused")
        else "refused unclearly"
        if end != "read"
        else "said"
        if said
        else "silent"
    )


def attempt(read, item, names: list[str], send: int, printed: int) -> None:
    import resource

    os.dup2(printed, 1)
    os.dup2(printed, 2)
    end = "refused unclearly"
    try:
        with open("/proc/self/statm") as file:
            most = int(file.read().split()[0]) * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        read(item)
        sys.stdout.flush()
        end = "read"
    except Exception as error:
        end = (
            "refused clearly" if any(name in str(error) for name in names) else "refused unclearly"
        )
    finally:
        os.write(send, end.encode())
        os._exit(0)


def main() -> None:
    warnings.simplefilter("default")
    read, version = reader(sys.argv[1])
    print(
        json.dumps(
            {"version": version, "ends": [end_of(read, item) for item in json.load(sys.stdin)]}
        )
    )


if __name__ == "__main__":
    main()
