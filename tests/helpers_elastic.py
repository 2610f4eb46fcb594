"""A training some of whose processes are killed, as torchrun starts it.

    torchrun … tests/helpers_elastic.py ARGUMENTS…     `lungseg ARGUMENTS…` with these deaths

$KILLS names them: "0:1:20 1:0:36" is process 1 at step 20 of the first start, and process 0 at step
36 of the second.
"""

import os
import signal
import sys

from lungseg_utils import cli
from lungseg_utils.training import loop

KILLS = {tuple(map(int, death.split(":"))) for death in os.environ.get("KILLS", "").split()}
check = loop.stop_if_diverged


def die_or_check(step, *arguments):
    """Kill this process if it is its turn; `step` is counted from the run's first, from 0."""
    start, rank = (int(os.environ[name]) for name in ("TORCHELASTIC_RESTART_COUNT", "RANK"))
    if (start, rank, step) in KILLS:
        os.kill(os.getpid(), signal.SIGKILL)
    check(step, *arguments)


if __name__ == "__main__":
    loop.stop_if_diverged = die_or_check
    sys.exit(cli.main(sys.argv[1:]))
