"""One tool on one scan, in a process of its own: what `predict.py` and `preprocess.py` time.

    python benchmarks/workers.py TOOL SCAN OUT [--label FILE] [--device cpu] [--windows N]
        [--mirroring]

Prints a line of JSON: seconds by stage and, for nnU-Net, how many windows it needs and how many
were run. Each tool is used as its own documentation uses it; what is timed is its own code. Heavy
imports stand in functions, so that this runs in the peers' environment as well, which has no
lungseg_utils but finds it on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

import worker_monai
import worker_nnunet
from stages import SECONDS, stage, time_prediction


def predict(request: argparse.Namespace) -> dict:
    """Run `lungseg predict SCAN -o OUT`, with a clock on each of its stages."""
    from lungseg_utils import cli

    time_prediction()
    command = ["predict", str(request.scan), "-o", str(request.out), "--device", request.device]
    with contextlib.redirect_stdout(sys.stderr):
        code = cli.main(command)
    assert code == 0, code
    SECONDS["preprocess"] += SECONDS.pop("prepare")
    SECONDS["write"] += SECONDS.pop("back")
    return {}


def preprocess(request: argparse.Namespace) -> dict:
    """Prepare one case through the cache, as `lungseg preprocess` does."""
    from lungseg_utils.decathlon import Case
    from lungseg_utils.preprocess.cache import prepare_cases

    case = Case("lung_001", request.scan, request.label)
    with stage("preprocess"):
        ready = prepare_cases([case], spacing_mm=2.5, folder=request.out, workers=1)[0]
    return {"shape": ready.hu.shape}


TOOLS = {
    "ours-predict": predict,
    "ours-preprocess": preprocess,
    "monai-predict": worker_monai.predict,
    "monai-preprocess": worker_monai.preprocess,
    "nnunet-predict": worker_nnunet.predict,
    "nnunet-preprocess": worker_nnunet.preprocess,
}


def main() -> None:
    """Run one tool and print its stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("scan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--label", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--windows", type=int, default=0, help="of nnU-Net's to run (default all)")
    parser.add_argument(
        "--mirroring", action="store_true", help="nnU-Net's test-time mirroring, eight passes"
    )
    request = parser.parse_args()
    facts = TOOLS[request.tool](request)
    print(json.dumps({"seconds": SECONDS} | facts))


if __name__ == "__main__":
    main()
