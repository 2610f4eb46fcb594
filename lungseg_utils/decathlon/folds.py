"""Split a dataset for cross-validation by patient: its own folds, nnU-Net's or seeded ones."""

import random

from lungseg_utils.decathlon.dataset import Case, Dataset
from lungseg_utils.runtime import LungsegError

# The validation cases of nnU-Net's five folds (MONAI uses the same), so that scores can be compared
# with theirs.
TASK06_FOLDS = tuple(
    tuple(f"lung_{number}" for number in numbers.split())
    for numbers in (
        "006 010 033 034 041 042 046 048 059 065 066 070 079",
        "004 015 022 031 036 038 053 062 064 069 071 075 081",
        "001 005 009 026 037 044 047 049 074 078 080 083 086",
        "014 016 018 020 023 027 028 029 043 057 058 084",
        "003 025 045 051 054 055 061 073 092 093 095 096",
    )
)


def split(
    dataset: Dataset, fold: int = 0, seed: int = 0, folds: int = 5
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Return the training and the validation cases of fold `fold`.

    A set that states its own folds, or its validation cases (as fold 0), is split by them; cases
    without a fold are always trained on.
    Task06's 63 cases are split in five as nnU-Net does, whatever the seed. Any other set is
    shuffled by `seed` and dealt into `folds` parts of whole patients (as many parts as patients
    where those are fewer). Raises LungsegError for a fold out of range and for a set of one
    patient, which cannot be split.
    """
    for name, value, lowest in (("folds", folds, 2), ("fold", fold, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise LungsegError(
                name,
                f"{value!r} is not a whole number from {lowest} up",
                f"Use {lowest} or more",
            )
    if own_folds(dataset):
        return _split_by_own_folds(dataset, fold)
    patients = sorted({case.patient or case.id for case in dataset.training})
    if len(patients) < 2:
        raise LungsegError(
            dataset.root,
            f"{len(patients)} patients with a label cannot be split into training and validation",
            "Add cases of at least one more patient",
        )
    parts: tuple[tuple[str, ...], ...] = TASK06_FOLDS
    if folds != 5 or set(patients) != {case for part in TASK06_FOLDS for case in part}:
        random.Random(seed).shuffle(patients)
        count = min(folds, len(patients))
        parts = tuple(tuple(patients[start::count]) for start in range(count))
    if fold >= len(parts):
        raise LungsegError(
            "fold",
            f"{fold} is out of range for {len(parts)} folds of {len(patients)} patients",
            f"Choose one of 0 to {len(parts) - 1}",
        )
    validation = set(parts[fold])
    inside = tuple(case for case in dataset.training if (case.patient or case.id) in validation)
    return tuple(case for case in dataset.training if case not in inside), inside


def own_folds(dataset: Dataset) -> list[int]:
    """Return the numbers of the folds that the set itself states; none for most sets."""
    return sorted({case.fold for case in dataset.training if case.fold is not None})


def list_folds(dataset: Dataset, folds: int = 5) -> list[int]:
    """Return the numbers of all folds: the set's own, else as many as `split` makes of `folds`."""
    patients = {case.patient or case.id for case in dataset.training}
    return own_folds(dataset) or list(range(min(folds, len(patients))))


def _split_by_own_folds(dataset: Dataset, fold: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    inside = tuple(case for case in dataset.training if case.fold == fold)
    outside = tuple(case for case in dataset.training if case.fold != fold)
    if not inside:
        numbers = ", ".join(map(str, own_folds(dataset)))
        raise LungsegError(
            "fold",
            f"{fold} is none of the set's own: {numbers} (of dataset.json)",
            "Choose one of them",
        )
    if not outside:
        raise LungsegError(
            dataset.root,
            f"all its cases are of fold {fold}: none is left to train on",
            "State other folds in dataset.json, or none",
        )
    return outside, inside
