"""Compare whole predictions, file to file: this project, MONAI's pipeline and nnU-Net v2, on the same CTs.

    make peers                                    # nnU-Net and MONAI in an environment of their own, build/peers
    [LUNGSEG_REAL_CT=DIR] python benchmarks/predict.py [--peers PYTHON] [--windows 1] [--growth] [--scan FILE]

Every tool runs in a process of its own, on as many threads; its wall time, start-up included, and its peak memory
are taken from outside. MONAI runs this project's network and weights through its own transforms,
`sliding_window_inference` at half overlap and its own inversion. nnU-Net runs its plan for Task06_Lung with random
weights; on a CPU only `--windows` of its windows are run and the rest is extrapolated by its own window count, and
mirroring counts as eight passes a window. The scans: a synthetic chest of 512x512x275, and lung1-001 where
LUNGSEG_REAL_CT names its folder. `--growth` adds 100 to 1000 slices of that same synthetic chest, 33 cm in all.
Writes benchmarks/results/predict.json, predict.md and figures/benchmark_predict.png.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from report import RESULTS, write_results

from lungseg_utils import phantom, plotting, runtime, volume

HERE = Path(__file__).parent
SCRATCH = runtime.ROOT / "build" / "benchmark"
STAGES = ("start", "read", "preprocess", "network", "write")
TOOLS = {
    "ours": "this project",
    "monai": "MONAI",
    "nnunet": "nnU-Net v2",
    "nnunet mirrored": "nnU-Net v2, mirrored",
}
MIRRORED_PASSES = 8  # of 3D: every combination of the three axes
SLICES = (100, 275, 500, 1000)
HEIGHT_MM = 330.0


def synthetic_scan(slices: int = 275) -> Path:
    """Write a synthetic chest of 512 x 512 x `slices`, once; the same chest in thinner or thicker slices."""
    path = SCRATCH / f"phantom_{slices}.nii.gz"
    if (
        not path.is_file()
    ):  # in a process of its own: those that are measured would inherit this one's peak memory
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
            apart.submit(_write_synthetic_scan, path, slices).result()
    return path


def _write_synthetic_scan(path: Path, slices: int) -> None:
    if slices != 275:
        scan = volume.read(synthetic_scan())
        at = np.clip((np.arange(slices) + 0.5) * 275 / slices - 0.5, 0, 274)
        below = np.minimum(at.astype(int), 273)
        hu = np.empty((slices, 512, 512), np.int16)
        for k, (first, share) in enumerate(zip(below, at - below)):
            hu[k] = np.rint((1 - share) * scan.hu[first] + share * scan.hu[first + 1])
    else:
        chest = phantom.synthesise(
            4, spacing_mm=(HEIGHT_MM / 275, 0.75, 0.75), shape=(275, 512, 512)
        )
        hu = chest.hu
        volume.write_nifti(
            SCRATCH / "phantom_275_label.nii.gz", chest.label, _affine(275), orientation="LPS"
        )
    volume.write_nifti(path, hu, _affine(slices), orientation="LPS")


def _affine(slices: int) -> np.ndarray:
    return volume.CANONICAL @ np.diag([HEIGHT_MM / slices, 0.75, 0.75, 1.0])


def run(python: str, tool: str, *arguments: object) -> dict:
    """Run one worker; give its stages in seconds, its wall time and its peak memory in GB."""
    command = [python, str(HERE / "workers.py"), tool, *map(str, arguments)]
    path = os.pathsep.join([str(runtime.ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "nnUNet_def_n_proc": "2",
        "PYTHONWARNINGS": "ignore",
    }
    environment |= {
        name: str(SCRATCH) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    }
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)  # this child's own peak, and nobody else's
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    facts = json.loads(output.splitlines()[-1])
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    facts["seconds"]["start"] = max(0.0, wall - sum(facts["seconds"].values()))
    return facts | {"wall": wall, "peak_gb": kilobytes * 1024 / 1e9}


def compare(name: str, scan: Path, peers: str, device: str, windows: int) -> list[dict]:
    """Run every tool on one scan; give a row each."""
    slices = volume.read_header(scan).shape[0]
    rows = []
    for tool in TOOLS:
        if tool.endswith("mirrored"):
            row = (
                mirrored(rows[-1])
                if windows
                else run(
                    peers,
                    "nnunet-predict",
                    scan,
                    SCRATCH / "nnunet.nii.gz",
                    "--device",
                    device,
                    "--mirroring",
                )
            )
        elif tool == "nnunet":
            row = extrapolated(
                run(
                    peers,
                    "nnunet-predict",
                    scan,
                    SCRATCH / "nnunet.nii.gz",
                    "--device",
                    device,
                    "--windows",
                    windows,
                )
            )
        else:
            row = run(
                sys.executable if tool == "ours" else peers,
                f"{tool}-predict",
                scan,
                SCRATCH / f"{tool}.nii.gz",
                "--device",
                device,
            )
        row |= {"scan": name, "tool": tool, "slices": slices, "total": sum(row["seconds"].values())}
        row["slices_per_second"] = slices / row["total"]
        print(
            f"{name}, {TOOLS[tool]}: {row['total']:.1f} s, {row['peak_gb']:.2f} GB, "
            + ", ".join(f"{s} {row['seconds'].get(s, 0):.1f}" for s in STAGES),
            flush=True,
        )
        rows.append(row)
    return rows


def extrapolated(row: dict) -> dict:
    """Count the windows that were not run."""
    seconds = row["seconds"] | {
        "network": row["seconds"]["network"] * row["windows_needed"] / row["windows_run"]
    }
    return row | {"seconds": seconds, "extrapolated": row["windows_run"] < row["windows_needed"]}


def mirrored(row: dict) -> dict:
    """Count eight passes for each of nnU-Net's windows instead of one."""
    seconds = row["seconds"] | {"network": row["seconds"]["network"] * MIRRORED_PASSES}
    return row | {"seconds": seconds, "extrapolated": True}


def grow(device: str) -> list[dict]:
    """Run this project on ever more slices of the same chest."""
    rows = []
    for slices in SLICES:
        row = run(
            sys.executable,
            "ours-predict",
            synthetic_scan(slices),
            SCRATCH / "ours.nii.gz",
            "--device",
            device,
        )
        rows.append(row | {"slices": slices, "total": row["wall"]})
        print(f"{slices} slices: {row['wall']:.1f} s, {row['peak_gb']:.2f} GB", flush=True)
    return rows


def tables(found: dict) -> str:
    """Give the tables in Markdown."""
    lines = [
        f"Measured by `benchmarks/predict.py` on {found['machine']}.",
        "",
        "| scan | tool | "
        + " | ".join(f"{s} (s)" for s in STAGES)
        + " | total (s) | slices/s | peak (GB) "
        "| times this project |",
        "| --- " * (len(STAGES) + 6) + "|",
    ]
    fastest = {row["scan"]: row["total"] for row in found["rows"] if row["tool"] == "ours"}
    for row in found["rows"]:
        star = "\\*" if row.get("extrapolated") else ""
        lines.append(
            f"| {row['scan']} | {TOOLS[row['tool']]} | "
            + " | ".join(
                f"{row['seconds'].get(s, 0):,.1f}{star if s == 'network' else ''}" for s in STAGES
            )
            + f" | {row['total']:,.1f}{star} | {row['slices_per_second']:.3g} | {row['peak_gb']:.2f} "
            f"| {row['total'] / fastest[row['scan']]:,.3g} |"
        )
    sampled = [row for row in found["rows"] if row["tool"] == "nnunet" and row.get("extrapolated")]
    if sampled:
        lines += [
            "",
            "\\* extrapolated: "
            + "; ".join(
                f"{row['windows_run']} of nnU-Net's {row['windows_needed']} windows run on {row['scan']}"
                for row in sampled
            )
            + ". Mirroring counts as eight passes.",
        ]
    if found.get("growth"):
        lines += [
            "",
            "| slices of 512x512 | seconds, file to file | slices/s | peak (GB) |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row['slices']} | {row['total']:.1f} | {row['slices'] / row['total']:.0f} "
            f"| {row['peak_gb']:.2f} |"
            for row in found["growth"]
        ]
    return "\n".join(lines) + "\n"


def draw(found: dict) -> None:
    """Draw stages as stacked bars where they can be seen, totals on a logarithmic axis, growth beside them."""
    import matplotlib.pyplot as plt

    plotting.use_style()
    panels = 3 if found.get("growth") else 2
    figure, axes = plt.subplots(1, panels, figsize=(5 * panels, 3.6), layout="constrained")
    scans = list(dict.fromkeys(row["scan"] for row in found["rows"]))
    colours = dict(zip(STAGES, ("#999999", "#56B4E9", "#0072B2", "#E69F00", "#009E73")))
    hatches = dict(zip(STAGES, ("", "//", "..", "", "xx")))
    bars = [row for tool in ("monai", "ours") for row in found["rows"] if row["tool"] == tool]
    for place, row in enumerate(bars):
        left = 0.0
        for name in STAGES:
            seconds = row["seconds"].get(name, 0)
            axes[0].barh(
                place,
                seconds,
                left=left,
                color=colours[name],
                hatch=hatches[name],
                edgecolor="white",
                label=name if place == 0 else None,
            )
            left += seconds
    axes[0].set_yticks(range(len(bars)), [f"{TOOLS[row['tool']]}\n{row['scan']}" for row in bars])
    axes[0].set(xlabel="seconds, file to file", title="Where the time goes")
    axes[0].legend(fontsize=8)
    thickness = 0.8 / len(scans)
    for number, scan in enumerate(scans):
        rows = [row for row in found["rows"] if row["scan"] == scan]
        at = np.arange(len(rows))[::-1] - number * thickness
        axes[1].barh(
            at,
            [row["total"] for row in rows],
            thickness * 0.9,
            label=scan,
            color=("#0072B2", "#E69F00")[number % 2],
            hatch=("", "//")[number % 2],
            edgecolor="white",
        )
        for place, row in zip(at, rows):
            star = "*" if row.get("extrapolated") else ""
            axes[1].text(
                row["total"] * 1.15, place, f"{row['total']:,.0f} s{star}", va="center", fontsize=8
            )
    axes[1].set_yticks(np.arange(len(TOOLS))[::-1] - 0.4 + thickness / 2, TOOLS.values())
    axes[1].set(
        xscale="log",
        xlabel="seconds, file to file (logarithmic; * extrapolated)",
        title="All of it",
    )
    axes[1].set_xlim(right=axes[1].get_xlim()[1] * 6)
    axes[1].legend(fontsize=8, loc="upper right")
    if found.get("growth"):
        slices = [row["slices"] for row in found["growth"]]
        axes[2].plot(
            slices,
            [row["total"] for row in found["growth"]],
            "o-",
            color="#0072B2",
            label="seconds",
        )
        axes[2].plot(
            slices,
            [row["peak_gb"] for row in found["growth"]],
            "s--",
            color="#D55E00",
            label="peak memory, GB",
        )
        axes[2].set(xlabel="slices of 512 x 512", ylim=(0, None), title="Growth, this project")
        axes[2].legend(fontsize=8)
    with runtime.writing(runtime.ROOT / "figures" / "benchmark_predict.png") as partial:
        figure.savefig(partial, dpi=110, format="png")


def machine(device: str) -> str:
    """Name what was measured on."""
    import torch

    wide = (
        "AVX-512 bf16"
        if torch.cpu._is_avx512_bf16_supported()
        else torch.backends.cpu.get_cpu_capability()
    )
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"{torch.get_num_threads()} threads of a CPU ({wide})"
    )
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write tables and figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers",
        default=str(runtime.ROOT / "build" / "peers" / "bin" / "python"),
        help="Python of the environment with nnU-Net and MONAI (default: that of `make peers`)",
    )
    parser.add_argument(
        "--windows", type=int, help="of nnU-Net's to run; 0 is all (default: 1 on a CPU, else 0)"
    )
    parser.add_argument(
        "--scan", type=Path, action="append", help="a CT instead of the two usual ones"
    )
    parser.add_argument("--growth", action="store_true", help="measure 100 to 1000 slices too")
    parser.add_argument(
        "--only-growth",
        action="store_true",
        help="measure these alone, keep the rest of the results",
    )
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing: tables and figure of what is there"
    )
    options = parser.parse_args(arguments)
    kept = RESULTS / "predict.json"
    if options.redraw:
        return write(json.loads(kept.read_text()))
    device = str(runtime.pick_device())
    windows = options.windows if options.windows is not None else int(device == "cpu")
    scans = {volume.stem(path): path for path in options.scan or []}
    if not scans:
        scans["phantom, 275 slices"] = synthetic_scan()
        if os.environ.get("LUNGSEG_REAL_CT"):
            scans["lung1-001"] = Path(os.environ["LUNGSEG_REAL_CT"]) / "lung1-001" / "ct.nii.gz"
    found = json.loads(kept.read_text()) if options.only_growth and kept.is_file() else {"rows": []}
    found["machine"] = machine(device)
    if not options.only_growth:
        found["rows"] = [
            row
            for name, scan in scans.items()
            for row in compare(name, scan, options.peers, device, windows)
        ]
    if options.growth or options.only_growth:
        found["growth"] = grow(device)
    write(found)


def write(found: dict) -> None:
    """Write the measurements, their tables and the figure."""
    draw(found)
    write_results(RESULTS / "predict", found, tables(found))


if __name__ == "__main__":
    main()
