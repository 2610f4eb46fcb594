"""A synthetic data set on disk in the Medical Segmentation Decathlon's layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lungseg_utils.memory import keep_freed_memory
from lungseg_utils.phantom.chest import TIERS, make_case
from lungseg_utils.runtime import LungsegError, progress, require_writable, writing

ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "LPI")  # how scanners and tools store the same chest
SEEDS_PER_SET = 10_000  # set `seed` owns the case seeds from seed * SEEDS_PER_SET on; tests come from its upper half
RECIPE_VERSION = 14  # to be raised when the same seed gives other voxels


def write_dataset(
    out: str | Path, *, cases: int = 12, test_cases: int = 4, seed: int = 0, tier: str = "quick"
) -> Path:
    """Write a set of `cases` labelled and `test_cases` test scans to `out` and return it.

    Test labels lie hidden in labelsTs, which dataset.json does not list. A complete set of the same parameters is
    left as it is; one that was interrupted is finished; another one in the same place raises LungsegError.
    """
    out = Path(out)
    for name, value, low in (("cases", cases, 1), ("test_cases", test_cases, 0), ("seed", seed, 0)):
        if (
            not isinstance(value, (int, np.integer))
            or isinstance(value, bool)
            or not low <= value <= SEEDS_PER_SET // 2
        ):
            raise LungsegError(
                name,
                f"{value!r} is out of range",
                f"Use a whole number from {low} to {SEEDS_PER_SET // 2}",
            )
    if tier not in TIERS:
        raise LungsegError("tier", f"unknown tier {tier!r}", f"Use one of {', '.join(TIERS)}")
    recipe = {
        "generator": "lungseg_utils.phantom",
        "version": RECIPE_VERSION,
        "cases": int(cases),
        "test_cases": int(test_cases),
        "seed": int(seed),
        "tier": tier,
    }
    ids = [f"lung_{number:03d}" for number in range(1, cases + test_cases + 1)]
    jobs = [(name, seed * SEEDS_PER_SET + k, "Tr") for k, name in enumerate(ids[:cases])]
    jobs += [
        (name, seed * SEEDS_PER_SET + SEEDS_PER_SET // 2 + k, "Ts")
        for k, name in enumerate(ids[cases:])
    ]
    if _is_begun(out, recipe):
        jobs = [job for job in jobs if not all(path.is_file() for path in _files(out, job))]
        if not jobs and (out / "dataset.json").is_file():
            print(f"{out}: the synthetic set is complete; nothing to do")
            return out
    require_writable(out)
    for folder in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        require_writable(out / folder)
    with writing(out / "phantom.json") as partial:
        partial.write_text(json.dumps(recipe, indent=2) + "\n")
    keep_freed_memory()
    for job in progress(jobs, f"making {len(jobs)} synthetic CTs"):
        _write_case(out, job, tier)
    with writing(out / "dataset.json") as partial:
        partial.write_text(
            json.dumps(_description(recipe, ids[:cases], ids[cases:]), indent=2) + "\n"
        )
    return out


def _is_begun(out: Path, recipe: dict) -> bool:
    """See whether `out` holds (part of) the set of this recipe; raise where it holds something else."""
    try:
        found = json.loads((out / "phantom.json").read_text())
    except FileNotFoundError:
        if (out / "dataset.json").exists() or any(
            (out / f).is_dir() and any((out / f).iterdir()) for f in ("imagesTr", "labelsTr")
        ):
            raise LungsegError(out, "another data set is there", "Choose another folder") from None
        return False
    except (OSError, ValueError) as error:
        raise LungsegError(
            out / "phantom.json",
            f"cannot be read ({error})",
            "Remove this folder or choose another",
        ) from error
    if found != recipe:
        differ = [k for k in recipe if not isinstance(found, dict) or found.get(k) != recipe[k]]
        raise LungsegError(
            out,
            f"a synthetic set with other parameters is there ({', '.join(differ)} differ)",
            "Choose another folder, or remove it",
        )
    return True


def is_of_another_version(out: Path, **parameters: object) -> bool:
    """Tell whether `out` holds a set of these `parameters` that another version of the generator made."""
    try:
        found = json.loads((out / "phantom.json").read_text())
        return found["version"] != RECIPE_VERSION and all(
            found[name] == value for name, value in parameters.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_dataset(out: Path) -> None:
    """Remove the synthetic set in `out`, and nothing else that lies there."""
    recipe = json.loads((out / "phantom.json").read_text())
    for number in range(1, recipe["cases"] + recipe["test_cases"] + 1):
        for part in ("Tr", "Ts"):
            for path in _files(out, (f"lung_{number:03d}", 0, part)):
                path.unlink(missing_ok=True)
    for name in ("dataset.json", "phantom.json"):
        (out / name).unlink(missing_ok=True)


def _files(out: Path, job: tuple[str, int, str]) -> tuple[Path, Path]:
    name, _, part = job
    return out / f"images{part}" / f"{name}.nii.gz", out / f"labels{part}" / f"{name}.nii.gz"


def _write_case(out: Path, job: tuple[str, int, str], tier: str) -> None:
    from lungseg_utils import volume

    image, label = _files(out, job)
    scan, truth = make_case(job[1], tier=tier)
    orientation = ORIENTATIONS[job[1] % len(ORIENTATIONS)]
    volume.write_nifti(image, scan.hu, scan.affine, orientation=orientation)
    volume.write_nifti(label, truth, scan.affine, orientation=orientation)


def _description(recipe: dict, training: list[str], test: list[str]) -> dict:
    """Give the content of dataset.json, key for key as Task06_Lung has it (its `relase` is so spelt)."""
    return {
        "name": "SyntheticLung",
        "description": "Synthetic chest CTs with lung tumours; no patient is in them",
        "reference": "lungseg_utils.phantom",
        "licence": "MIT",
        "relase": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cancer"},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in training
        ],
        "test": [f"./imagesTs/{n}.nii.gz" for n in test],
        "synthetic": recipe,
    }
