"""What a run leaves for its readers: where it ran, JSON files, curves (PNG and TensorBoard)."""

import json
import platform
import time
from pathlib import Path

import torch

from lungseg_utils import __version__
from lungseg_utils.runtime import writing


def describe_environment(device: torch.device) -> dict:
    """Return the versions and the machine that a run depends on; no names, no paths."""
    is_cuda = device.type == "cuda"
    return {
        "lungseg_utils": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "threads": torch.get_num_threads(),
    }


def write_json(path: Path, content: dict) -> None:
    """Write `content` as indented JSON."""
    with writing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def draw_history(history: list[dict], path: Path, least_age_s: float = 0.0) -> None:
    """Draw the curves so far in the look of the course, unless the picture is younger than that."""
    if path.exists() and time.time() - path.stat().st_mtime < least_age_s:
        return
    import matplotlib

    from lungseg_utils.plotting import plot_history, use_style
    from lungseg_utils.plotting.style import png

    with matplotlib.rc_context():
        use_style()
        picture = png(plot_history(history), dpi=80)
    with writing(path) as partial:
        partial.write_bytes(picture)


def add_to_tensorboard(row: dict, run_dir: Path) -> None:
    """Write an epoch's row for TensorBoard, where that is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    with SummaryWriter(run_dir / "tensorboard") as writer:
        for name, value in row.items():
            writer.add_scalar(name, value, row["epoch"])
