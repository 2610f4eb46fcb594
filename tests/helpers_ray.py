"""Faults for the workers of a Ray cluster, asked for by a scan's name.

python -c 'import helpers_ray; helpers_ray.main()' ARGUMENTS…     `lungseg ARGUMENTS…` with them
"""

import errno
import os
import signal
import sys
import time

from lungseg_utils import cli
from lungseg_utils.prediction import files
from lungseg_utils.prediction.segmenting import ScanWork


class FaultyWork(ScanWork):
    """Work that takes its time and, where a scan's name asks for it, fails or ends its process."""

    def __call__(self, job):
        time.sleep(float(os.environ.get("SLOW_S", "0")))
        if "greedy" in job.scan.name:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory is full
        if "full" in job.scan.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(job.mask))
        return super().__call__(job)


def main():
    files.ScanWork = FaultyWork
    sys.exit(cli.main(sys.argv[1:]))
