"""Sets in the layouts of other tools: nnU-Net's, MONAI's lists, one folder a patient."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lungseg_utils import decathlon, parameters, phantom
from lungseg_utils.preprocess.cache import prepare_cases
from lungseg_utils.runtime import LungsegError
from lungseg_utils.training import TrainingConfig, crossvalidate, fit

COMMON = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "cancer"}}
SECOND = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "cancer": 1},
    "file_ending": ".nii.gz",
}
CASES = [f"lung_{number:03d}" for number in range(1, 5)]
TEST = "lung_005"
TINY = TrainingConfig(
    epochs=2, steps_per_epoch=1, batch_size=1, patch_size=(16, 16, 16), channels=(2, 4)
)


def write_json(root: Path, **content) -> Path:
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def copy_files(source: Path, root: Path, image: str, label: str, test: str) -> Path:
    """Copy the set in `source`; `image`, `label` and `test` are patterns of the new paths."""
    files = {f"imagesTr/{case}": image.format(case) for case in CASES}
    files |= {f"labelsTr/{case}": label.format(case) for case in CASES}
    for old, new in {**files, f"imagesTs/{TEST}": test.format(TEST)}.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / f"{old}.nii.gz", root / f"{new}.nii.gz")
    return root


def entries(image: str, label: str, **more) -> list[dict]:
    pairs = [(image.format(case), label.format(case)) for case in CASES]
    return [{"image": f"{one}.nii.gz", "label": f"{two}.nii.gz", **more} for one, two in pairs]


def copy_as_decathlon(source, root):
    return Path(shutil.copytree(source, root))


def copy_as_nnunet(source, root):
    copy_files(source, root, "imagesTr/{}_0000", "labelsTr/{}", "imagesTs/{}_0000")
    return write_json(root, numTraining=4, **SECOND)


def copy_as_nnunet_1(source, root):
    copy_as_nnunet(source, root)
    shutil.copyfile(source / "dataset.json", root / "dataset.json")
    return root


def copy_as_monai_list(source, root):
    copy_files(source, root, "imagesTr/{}", "labelsTr/{}", "imagesTs/{}")
    training = entries("./imagesTr/{}", "./labelsTr/{}")
    testing = [{"image": f"./imagesTs/{TEST}.nii.gz"}]
    return write_json(root, numTraining=4, training=training, testing=testing, **COMMON)


def copy_as_patient_folders(source, root):
    paths = ("{}/ct", "{}/tumour")
    copy_files(source, root, *paths, "{}/ct")
    test = [f"{TEST}/ct.nii.gz"]
    return write_json(root, numTraining=4, training=entries(*paths), test=test, **COMMON)


COPIES = [copy_as_nnunet, copy_as_nnunet_1, copy_as_monai_list, copy_as_patient_folders]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return phantom.write_dataset(tmp_path_factory.mktemp("sets") / "set", cases=4, test_cases=1)


def outcome(root: Path, folder: Path) -> tuple[decathlon.Dataset, list, list]:
    """Return a set, its prepared scans and the history of a tiny training on it."""
    dataset = decathlon.load(root)
    training, validation = decathlon.split(dataset)
    options = {"spacing_mm": 6.0, "folder": folder / "cache"}
    prepared = [prepare_cases(part, **options) for part in (training, validation)]
    history = fit(*prepared, run_dir=folder / "run", config=TINY, device="cpu")
    untimed = [{k: v for k, v in row.items() if "second" not in k} for row in history]
    return dataset, prepared[0] + prepared[1], untimed


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    return outcome(source, tmp_path_factory.mktemp("expected"))


@pytest.mark.fault("sets of other tools, refused for a false cause")
@pytest.mark.parametrize("copy", COPIES, ids=lambda copy: copy.__name__)
def test_a_copy_in_another_layout_is_prepared_and_trained_alike(
    copy, source, expected, tmp_path, capsys
):
    dataset, prepared, history = outcome(copy(source, tmp_path / "copy"), tmp_path)
    assert "warning" not in capsys.readouterr().err
    assert [case.id for case in dataset.training] == CASES
    assert [case.patient for case in dataset.training] == CASES
    assert [case.id for case in dataset.test] == [TEST]
    for one, other in zip(prepared, expected[1], strict=True):
        assert (one.name, one.box, one.spacing_mm) == (other.name, other.box, other.spacing_mm)
        for array in ("hu", "region", "lungs", "label"):
            assert np.array_equal(getattr(one, array), getattr(other, array))
    assert history == expected[2]


@pytest.mark.fault("sets of other tools, refused for a false cause")
def test_copies_have_the_same_scores(source, tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path))
    settings = parameters.defaults() | {
        "spacing_mm": 8.0,
        "patch_size": [16, 16, 16],
        "channels": [2, 4],
        "steps_per_epoch": 1,
        "epochs": 1,
        "device": "cpu",
    }
    scores = []
    for copy in (copy_as_decathlon, *COPIES):
        root = copy(source, tmp_path / copy.__name__)
        rows = crossvalidate(decathlon.load(root), tmp_path / f"run_{copy.__name__}", settings)
        assert [row["case"] for row in rows] == CASES
        scores.append(repr(rows))
    assert len(set(scores)) == 1


# --- nnU-Net --------------------------------------------------------------------------------------


def make_empty(root: Path, *names: str) -> Path:
    """Write files that `load` finds, but does not read."""
    for name in names:
        path = root / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


NNUNET = ("imagesTr/a_000_0000", "imagesTr/a_001_0000", "labelsTr/a_000", "labelsTr/a_001")


def fault_of(root: Path) -> str:
    with pytest.raises(LungsegError) as caught:
        decathlon.load(root)
    return str(caught.value)


def test_hidden_labels_of_nnunet_s_test_scans_are_found(tmp_path):
    make_empty(tmp_path, *NNUNET, "imagesTs/b_0000", "labelsTs/b")
    dataset = decathlon.load(write_json(tmp_path, numTraining=2, **SECOND))
    assert [(case.id, case.label.name) for case in dataset.test] == [("b", "b.nii.gz")]


def test_cases_may_be_named_under_the_key_dataset(tmp_path):
    make_empty(tmp_path, *NNUNET)
    named = {"images": ["imagesTr/a_001_0000.nii.gz"], "label": "labelsTr/a_001.nii.gz"}
    write_json(tmp_path, numTraining=1, dataset={"a_001": named}, **SECOND)
    assert [case.id for case in decathlon.load(tmp_path).training] == ["a_001"]


@pytest.mark.fault("sets of other tools, refused for a false cause")
@pytest.mark.parametrize(
    ("content", "extra", "cause"),
    [
        ({"channel_names": {"0": "CT", "1": "PET"}}, (), r"2 channels (CT, PET)"),
        ({}, ("imagesTr/a_000_0001",), "a_000_0000 and a_000_0001 are two channels of one scan"),
        ({"file_ending": ".nrrd"}, (), "its images are '.nrrd' files"),
        ({"numTraining": 5}, (), '"numTraining" is 5, but 2 cases are there'),
        ({}, ("imagesTr/c_0000",), "the label of the training case c, but it is missing"),
    ],
)
def test_what_is_wrong_with_an_nnunet_set_has_its_true_cause(tmp_path, content, extra, cause):
    make_empty(tmp_path, *NNUNET, *extra)
    write_json(tmp_path, **({"numTraining": 2 + len(extra)} | SECOND | content))
    assert cause in fault_of(tmp_path)
    assert "archive" not in fault_of(tmp_path)


# --- folders of patients --------------------------------------------------------------------------


def load_images(root: Path, *images: str) -> decathlon.Dataset:
    labels = [f"{image.rsplit('/', 1)[0]}/mask_of_{image.rsplit('/', 1)[1]}" for image in images]
    make_empty(root, *images, *labels)
    pairs = zip(images, labels, strict=True)
    listed = [{"image": f"{one}.nii.gz", "label": f"{two}.nii.gz"} for one, two in pairs]
    return decathlon.load(write_json(root, training=listed, numTraining=len(images), **COMMON))


@pytest.mark.fault("sets of other tools, refused for a false cause")
@pytest.mark.parametrize(
    ("images", "ids", "patients"),
    [
        (("p1/ct", "p2/ct"), ["p1", "p2"], ["p1", "p2"]),
        (("p1/day1/ct", "p2/day1/ct"), ["p1_day1", "p2_day1"], ["p1_day1", "p2_day1"]),
        (("p1/a", "p1/b", "p2/a"), ["p1_a", "p1_b", "p2_a"], ["p1", "p1", "p2"]),
        (("p1/x", "p2/y"), ["x", "y"], ["x", "y"]),
    ],
)
def test_cases_are_named_by_what_tells_them_apart(tmp_path, images, ids, patients, capsys):
    dataset = load_images(tmp_path, *images)
    is_deep = "day1" in images[0]
    assert ('need the same "patient"' in capsys.readouterr().err) == is_deep
    assert [case.id for case in dataset.training] == ids
    assert [case.patient for case in dataset.training] == patients


def test_a_label_in_the_folder_of_another_patient_is_a_fault(tmp_path):
    load_images(tmp_path, "p1/ct", "p2/ct")
    content = json.loads((tmp_path / "dataset.json").read_text())
    first, second = content["training"]
    first["label"], second["label"] = second["label"], first["label"]
    assert "p1 is paired with the label of p2" in fault_of(write_json(tmp_path, **content))


# --- MONAI's lists --------------------------------------------------------------------------------


def listed(root: Path, **more) -> Path:
    """Write four cases, `more` keys for each from a list, or for the set."""
    make_empty(root, *(f"{kind}/c{n}" for kind in ("imagesTr", "labelsTr") for n in range(4)))
    training = [
        {"image": f"imagesTr/c{n}.nii.gz", "label": f"labelsTr/c{n}.nii.gz"} for n in range(4)
    ]
    for key in more.keys() & {"fold", "patient", "weight"}:
        for entry, value in zip(training, more.pop(key), strict=True):
            entry |= {} if value is None else {key: value}
    count = more.pop("validation", 0)
    more |= {"validation": training[4 - count :]} if count else {}
    return write_json(root, numTraining=4, training=training[: 4 - count], **COMMON, **more)


def validated(dataset: decathlon.Dataset, fold: int) -> list[str]:
    return [case.id for case in decathlon.split(dataset, fold)[1]]


@pytest.mark.fault("keys of other tools' lists")
def test_the_set_s_own_folds_are_used(tmp_path):
    dataset = decathlon.load(listed(tmp_path, fold=[1, 2, 2, None]))
    assert decathlon.list_folds(dataset) == [1, 2]
    assert [validated(dataset, fold) for fold in (1, 2)] == [["c0"], ["c1", "c2"]]
    with pytest.raises(LungsegError, match="0 is none of the set's own: 1, 2"):
        decathlon.split(dataset, 0)


@pytest.mark.fault("keys of other tools' lists")
def test_the_validation_list_is_validated_on(tmp_path, capsys):
    dataset = decathlon.load(listed(tmp_path, validation=1, fold=[0, 0, 1, 1]))
    assert validated(dataset, 0) == ["c3"] and len(dataset.training) == 4
    assert '"fold" is not used: the list "validation" is' in capsys.readouterr().err
    with pytest.raises(LungsegError, match="one fold: nothing to cross-validate"):
        crossvalidate(dataset, tmp_path / "run", parameters.defaults())


@pytest.mark.fault("keys of other tools' lists")
@pytest.mark.parametrize("fold", ["x", -1, 0.5, True, [0]])
def test_a_fold_that_is_no_number_is_a_fault(tmp_path, fold):
    assert "as its fold" in fault_of(listed(tmp_path, fold=[0, fold, 1, 1]))


def test_folds_that_leave_nothing_to_train_on_are_refused(tmp_path):
    with pytest.raises(LungsegError, match="all its cases are of fold 0"):
        decathlon.split(decathlon.load(listed(tmp_path, fold=[0, 0, 0, 0])), 0)


@pytest.mark.fault("keys of other tools' lists")
def test_a_patient_in_two_folds_or_lists_is_a_leak(tmp_path):
    patients = ["p", "q", "r", "p"]
    error = fault_of(listed(tmp_path / "a", fold=[0, 0, 1, 1], patient=patients))
    assert "c3 is of the same patient as the training case c0, of fold 0: a leak" in error
    error = fault_of(listed(tmp_path / "b", validation=1, patient=patients))
    assert "the validation case c3 is of the same patient as the training case c0: a leak" in error


@pytest.mark.fault("keys of other tools' lists")
def test_keys_and_lists_without_use_are_reported(tmp_path, capsys):
    decathlon.load(listed(tmp_path, weight=[1, 1, 2, None], val=[{"image": "x.nii.gz"}]))
    said = capsys.readouterr().err
    assert "the training entries' 'weight' are not used" in said
    assert "the list 'val' is not used" in said


@pytest.mark.fault("keys of other tools' lists")
def test_two_test_lists_are_a_fault(tmp_path):
    make_empty(tmp_path, "imagesTs/a", "imagesTs/b")
    root = listed(tmp_path, test=["imagesTs/a.nii.gz"], testing=["imagesTs/b.nii.gz"])
    assert '"test" and "testing" both list cases' in fault_of(root)


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.fault("number for a path")
@pytest.mark.parametrize("name", ["dataset_dir", "run_dir", "checkpoint", "ct_path"])
@pytest.mark.parametrize("value", [7, 1.0])
def test_a_number_is_no_path(name, value):
    with pytest.raises(LungsegError, match="a path as text, not a number"):
        parameters.check({name: value})
    assert parameters.check({name: "007"}) == {name: "007"}


def test_every_seed_of_the_table_makes_a_set_of_its_own(tmp_path):
    first = None
    for seed in (5001, 2**32 - 1):
        root = phantom.write_dataset(tmp_path / str(seed), cases=1, test_cases=0, seed=seed)
        scan = (root / "imagesTr" / "lung_001.nii.gz").read_bytes()
        assert scan != first
        first = scan
    with pytest.raises(LungsegError, match="seed"):
        phantom.write_dataset(tmp_path / "more", cases=1, seed=2**32)
