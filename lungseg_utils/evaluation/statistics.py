"""What many scans say together: means with bootstrap intervals, differences between methods."""

import math
from collections.abc import Sequence

import numpy as np

from lungseg_utils import runtime

RESAMPLES = 10_000


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the interval of the mean by the percentile bootstrap (Efron 1979).

    Cases are drawn 10,000 times, seeded. NaN is left out. Fewer than two values have no interval:
    (NaN, NaN).
    """
    defined = _finite(values)
    return _interval(defined, np.ones_like(defined), seed, confidence)


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, float]:
    """Compare two methods on the same cases: mean of a - b, its interval, and how many cases.

    Cases are drawn as pairs, so that what makes a case hard for both drops out; a pair with a NaN
    is left out.
    """
    if len(a) != len(b):
        raise runtime.LungsegError(
            "paired difference",
            f"{len(a)} values against {len(b)}",
            "Pass a value of both methods for each case",
        )
    difference = _finite(np.asarray(a, float) - np.asarray(b, float))
    low, high = bootstrap_interval(difference, seed=seed, confidence=confidence)
    return {"mean": _mean(difference), "low": low, "high": high, "cases": len(difference)}


def summarise(rows: list[dict], seed: int = 0) -> dict:
    """Summarise the rows of `evaluate`: means, medians and 95 % intervals; lesions; thirds by size.

    Intervals draw cases, never lesions: two tumours of one patient are not independent. A value
    that is not defined (NaN) is left out of its mean and counted under `undefined`. Thirds are
    cases by true tumour volume.
    """
    summary: dict = {"cases": len(rows), "confidence": 0.95, "resamples": RESAMPLES, "seed": seed}
    for name in ("dice", "nsd_2mm", "hd95_mm"):
        values = _column(rows, name)
        low, high = bootstrap_interval(values, seed=seed)
        defined = _finite(values)
        summary[name] = {
            "mean": _mean(defined),
            "median": float(np.median(defined)) if defined.size else math.nan,
            "low": low,
            "high": high,
            "undefined": len(values) - len(defined),
        }
    summary["lesion_recall"] = _recall(rows, seed)
    false_positives = _column(rows, "false_positives")
    summary["false_positives_per_scan"] = _ratio(false_positives, np.ones(len(rows)), seed)
    by_size = sorted(rows, key=lambda row: row["volume_ml_true"])
    thirds = [[by_size[i] for i in part] for part in np.array_split(np.arange(len(rows)), 3)]
    summary["by_size"] = {
        name: {
            "cases": len(third),
            "volume_ml": [third[0]["volume_ml_true"], third[-1]["volume_ml_true"]],
            "dice": _mean(_column(third, "dice")),
            "lesion_recall": _recall(third, seed)["value"],
        }
        for name, third in zip(("small", "middle", "large"), thirds)
        if third
    }
    return summary


def _recall(rows: list[dict], seed: int) -> dict[str, float]:
    return _ratio(_column(rows, "lesions_found"), _column(rows, "lesions_true"), seed)


def _column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, float)
    return array[np.isfinite(array)]


def _mean(values: np.ndarray) -> float:
    values = _finite(values)
    return float(values.mean()) if values.size else math.nan


def _interval(
    numerator: np.ndarray, denominator: np.ndarray, seed: int, confidence: float
) -> tuple[float, float]:
    """Return the interval of sum(numerator) / sum(denominator), cases drawn with replacement."""
    cases = len(numerator)
    if cases < 2:
        return math.nan, math.nan
    # how often each resample draws each case (RESAMPLES, cases): the bootstrap is two products
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(cases, np.full(cases, 1 / cases), size=RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        estimates = (drawn @ numerator) / (drawn @ denominator)
    estimates = _finite(estimates)  # a draw without any lesion has no recall
    if not estimates.size:
        return math.nan, math.nan
    low, high = np.percentile(estimates, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int) -> dict[str, float]:
    low, high = _interval(numerator, denominator, seed, 0.95)
    total = float(denominator.sum())
    return {
        "value": float(numerator.sum()) / total if total else math.nan,
        "low": low,
        "high": high,
    }
