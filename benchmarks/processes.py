"""Start one worker as a process of its own; take its time and its peak memory from outside."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from scans import SCRATCH

from lungseg_utils import runtime

TOOLS = {
    "ours": "this project",
    "monai": "MONAI",
    "nnunet": "nnU-Net v2",
    "nnunet mirrored": "nnU-Net v2, mirrored",
}


def run_worker(python: str, tool: str, *arguments: object) -> dict:
    """Run one worker; return its stages in seconds, its wall time and its peak memory in GB.

    The package that it imports is the one that this process has imported.
    """
    worker = Path(__file__).with_name("workers.py")
    command = [python, str(worker), tool, *map(str, arguments)]
    path = os.pathsep.join([str(runtime.ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    environment["nnUNet_def_n_proc"] = "2"
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        environment[name] = str(SCRATCH)
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # this child's own peak, and nobody else's
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    facts = json.loads(output.splitlines()[-1])
    facts["seconds"]["start"] = max(0.0, wall - sum(facts["seconds"].values()))
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return facts | {"wall": wall, "peak_gb": peak_bytes / 1e9}


def describe_machine(device: str) -> str:
    """Return what was measured on."""
    import torch

    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        instructions = torch.backends.cpu.get_cpu_capability()
        if torch.cpu._is_avx512_bf16_supported():
            instructions = "AVX-512 bf16"
        name = f"{torch.get_num_threads()} threads of a CPU ({instructions})"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"
