"""A synthetic data set on disk in the Medical Segmentation Decathlon's layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lungseg_utils import volume
from lungseg_utils.memory import keep_freed_memory
from lungseg_utils.phantom.chest import check_options, make_case
from lungseg_utils.runtime import LungsegError, progress, require_writable, writing

ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "LPI")  # how scanners and tools store the same chest
SEEDS_PER_SET = 10_000  # set `seed` owns the case seeds from seed * SEEDS_PER_SET on
FIRST_TEST_SEED = SEEDS_PER_SET // 2  # tests come from the upper half
LARGEST_SEED = 2**32 - 1  # of a set, as of every other seed; those of its cases are larger
RECIPE_VERSION = 16  # to be raised when the same seed makes other voxels

Recipe = dict[str, Any]  # the content of phantom.json
Job = tuple[int, Path, Path]  # seed, image, label


def write_dataset(
    out: str | Path,
    *,
    cases: int = 12,
    test_cases: int = 4,
    seed: int = 0,
    tier: str = "quick",
    tumours: int | None = None,
) -> Path:
    """Write a set of `cases` labelled and `test_cases` test scans to `out` and return it.

    Every chest has as many `tumours` (default: drawn, one to four); without any, labels are empty.
    Test labels lie hidden in labelsTs, which dataset.json does not list. A complete set of the same
    parameters is left as it is; one that was interrupted is finished; another one in the same place
    raises LungsegError.
    """
    out = Path(out)
    for name, value, low, high in (
        ("cases", cases, 1, FIRST_TEST_SEED),
        ("test_cases", test_cases, 0, FIRST_TEST_SEED),
        ("seed", seed, 0, LARGEST_SEED),
    ):
        _check_range(name, value, low, high)
    check_options(tier, tumours)
    recipe = {
        "generator": "lungseg_utils.phantom",
        "version": RECIPE_VERSION,
        "cases": int(cases),
        "test_cases": int(test_cases),
        "seed": int(seed),
        "tier": tier,
        "tumours": None if tumours is None else int(tumours),
    }
    jobs = _jobs(out, recipe)
    if _is_begun(out, recipe):
        jobs = [job for job in jobs if not (job[1].is_file() and job[2].is_file())]
        if not jobs and (out / "dataset.json").is_file():
            print(f"{out}: the synthetic set is complete; nothing to do")
            return out
    for folder in ("", "imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        require_writable(out / folder)
    _write_json(out / "phantom.json", recipe)
    keep_freed_memory()
    for case_seed, image, label in progress(jobs, f"making {len(jobs)} synthetic CTs"):
        scan, truth = make_case(case_seed, tier=tier, tumours=tumours)
        orientation = ORIENTATIONS[case_seed % len(ORIENTATIONS)]
        volume.write_nifti(image, scan.hu, scan.affine, orientation=orientation)
        volume.write_nifti(label, truth, scan.affine, orientation=orientation)
    _write_json(out / "dataset.json", _description(recipe))
    return out


def _check_range(name: str, value: Any, low: int, high: int) -> None:
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_whole or not low <= value <= high:
        remedy = f"Use a whole number from {low} to {high}"
        raise LungsegError(name, f"{value!r} is out of range", remedy)


def _names(recipe: Recipe) -> tuple[list[str], list[str]]:
    """Return the names of the training and of the test cases."""
    names = [f"lung_{k:03d}" for k in range(1, recipe["cases"] + recipe["test_cases"] + 1)]
    return names[: recipe["cases"]], names[recipe["cases"] :]


def _jobs(out: Path, recipe: Recipe) -> list[Job]:
    training, test = _names(recipe)
    first = recipe["seed"] * SEEDS_PER_SET
    return [
        (seed, out / f"images{part}/{name}.nii.gz", out / f"labels{part}/{name}.nii.gz")
        for part, names, start in (("Tr", training, first), ("Ts", test, first + FIRST_TEST_SEED))
        for seed, name in enumerate(names, start)
    ]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with writing(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def _is_begun(out: Path, recipe: Recipe) -> bool:
    """Check whether `out` holds (part of) the set of this recipe; raise if it holds another set."""
    try:
        found = json.loads((out / "phantom.json").read_text())
    except FileNotFoundError:
        folders = [out / "imagesTr", out / "labelsTr"]
        is_filled = any(folder.is_dir() and any(folder.iterdir()) for folder in folders)
        if is_filled or (out / "dataset.json").exists():
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
    """Check whether `out` holds the set of these `parameters`, made by another version."""
    try:
        found = json.loads((out / "phantom.json").read_text())
        is_same_set = all(found[name] == value for name, value in parameters.items())
        return is_same_set and found["version"] != RECIPE_VERSION
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_dataset(out: Path) -> None:
    """Remove the synthetic set in `out`, and nothing else that lies there."""
    recipe = json.loads((out / "phantom.json").read_text())
    files = [path for _, *pair in _jobs(out, recipe) for path in pair]
    for path in (*files, out / "dataset.json", out / "phantom.json"):
        path.unlink(missing_ok=True)


def _description(recipe: Recipe) -> dict[str, Any]:
    """Return the content of dataset.json, key for key as Task06_Lung spells it (`relase`)."""
    training, test = _names(recipe)
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
