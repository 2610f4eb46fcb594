"""Datasets in Decathlon layout: what is read, what is refused, how they are split."""

import codecs
import json
import os
import pickle
import random
import sys
from itertools import chain

import pytest

from lungseg_utils.decathlon import Case, Dataset, DatasetError, load, split
from lungseg_utils.decathlon.folds import TASK06_FOLDS
from lungseg_utils.runtime import LungsegError


@pytest.fixture
def toy(tmp_path):
    """Return (root, content of dataset.json, a function that saves it) of a set.

    It has 6 training and 2 test cases and the real set's quirks: `./` prefixes, a shuffled list,
    macOS's `._` files. The files hold no voxels.
    """
    root = tmp_path / "Task99_Toy"
    training = [f"toy_{i:03}" for i in (3, 0, 5, 1, 4, 2)]
    for folder, names in {
        "imagesTr": training,
        "labelsTr": training,
        "imagesTs": ["toy_006", "toy_007"],
    }.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / f"{name}.nii.gz").write_bytes(name.encode())
            (root / folder / f"._{name}.nii.gz").write_bytes(b"mac")
        (root / folder / ".DS_Store").touch()
    content = {
        "name": "Toy",
        "relase": "1.0",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cancer"},
        "numTraining": 6,
        "numTest": 2,
        "test": ["./imagesTs/toy_007.nii.gz", "./imagesTs/toy_006.nii.gz"],
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in training
        ],
    }

    def save(changed=content):
        data = changed if isinstance(changed, bytes) else json.dumps(changed, indent=1).encode()
        (root / "dataset.json").write_bytes(data)
        return root

    save()
    return root, content, save


def faults_of(root):
    with pytest.raises(LungsegError) as caught:
        load(root)
    return caught.value


def test_cases_are_sorted_and_named_after_their_files(toy, capsys):
    dataset = load(toy[0])
    assert dataset.name == "Toy" and [case.id for case in dataset.training] == [
        f"toy_{i:03}" for i in range(6)
    ]
    assert dataset.training[3].image == toy[0] / "imagesTr" / "toy_003.nii.gz"
    assert dataset.training[3].label == toy[0] / "labelsTr" / "toy_003.nii.gz"
    assert [(case.id, case.label) for case in dataset.test] == [
        ("toy_006", None),
        ("toy_007", None),
    ]
    assert (
        capsys.readouterr().err == ""
    )  # a sound set, `._` files and all, is loaded without a word


def test_hidden_test_labels_are_found(toy):
    (toy[0] / "labelsTs").mkdir()
    (toy[0] / "labelsTs" / "toy_007.nii.gz").touch()
    assert [case.label and case.label.parent.name for case in load(toy[0]).test] == [
        None,
        "labelsTs",
    ]


@pytest.mark.fault("paths with ./, none, backslashes")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.removeprefix("./"),
        lambda path: path.replace("/", "\\"),
        lambda path: "imagesTr/../" + path,
    ],
)
def test_paths_are_read_however_they_are_written(toy, write):
    _, content, save = toy
    content["training"] = [
        {kind: write(path) for kind, path in entry.items()} for entry in content["training"]
    ]
    assert len(load(save()).training) == 6


@pytest.mark.fault("wrong level of folder; no training case; one case")
def test_a_set_without_test_cases_is_fine(toy):
    _, content, save = toy
    del content["test"], content["numTest"]
    assert load(save()).test == ()


# --- dataset.json ---------------------------------------------------------------------------------


@pytest.mark.fault("dataset.json missing or malformed")
@pytest.mark.parametrize(
    "encode", [lambda text: codecs.BOM_UTF8 + text.encode(), lambda text: text.encode("utf-16")]
)
def test_a_byte_order_mark_is_read(toy, encode):
    _, content, save = toy
    assert len(load(save(encode(json.dumps(content)))).training) == 6


@pytest.mark.fault("dataset.json missing or malformed")
@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "line 1: is empty"),
        (b" \n", "line 1: is empty"),
        (b"[]", "holds a list"),
        (b"null", "holds a NoneType"),
        (b'{"training": [\n{"image": }\n]}', "line 2: malformed"),
        (b'{\n"training": [\n{"image": "a', "line 3: malformed"),
        (b'{"name":\n"\xff"}', "line 2: is not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"training": ' + b'{"a":' * 100_000, "nested too deep"),
        (b'{"numTraining": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b'{"training": [], "training": []}', "'training' occurs twice"),
        (b"\0\0\0\0", "line 1: is empty"),
        (b"<html>", "line 1: malformed"),
    ],
)
def test_a_broken_json_is_an_error_with_its_line(toy, data, cause):
    root, _, save = toy
    error = faults_of(save(data))
    assert error.subject == str(root / "dataset.json") and cause in error.cause and error.remedy


@pytest.mark.fault("dataset.json missing or malformed")
def test_an_absurdly_long_json_is_not_read(toy):
    with open(toy[0] / "dataset.json", "r+b") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    assert "too many" in str(faults_of(toy[0]))


@pytest.mark.fault("keys, entries and counts of dataset.json")
@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        ("training", None, "is a NoneType, not a list"),
        ("training", {}, "is a dict"),
        ("training", [], "names no case"),
        ("training", ["./imagesTr/toy_000.nii.gz"], "training entry 1 is a str"),
        ("training", [{"image": "./imagesTr/toy_000.nii.gz"}], "training entry 1 has no label"),
        (
            "training",
            [{"image": ["a.nii"], "label": 3}],
            "training entry 1 has \"['a.nii']\" as its image, not a path",
        ),
        ("test", "abc", '"test" is a str'),
        ("test", [3], "test entry 1 is a int"),
        ("numTraining", 130, '"numTraining" is 130, but 6 cases are listed'),
        ("numTraining", "six", "is six"),
        ("numTraining", float("nan"), "is nan"),
        ("numTraining", True, "is True"),
        ("numTest", 0, '"numTest" is 0'),
        ("labels", ["background"], '"labels" is a list'),
    ],
)
def test_an_entry_of_the_wrong_form_is_named(toy, key, value, cause):
    _, content, save = toy
    assert cause in str(faults_of(save(content | {key: value})))


@pytest.mark.fault("keys, entries and counts of dataset.json")
def test_a_missing_key_is_named(toy):
    _, content, save = toy
    del content["training"]
    assert 'the key "training" is missing' in str(faults_of(save()))


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"numTraining": None}, "numTraining"),
        ({"modality": None}, "modality"),
        ({"labels": None}, "labels"),
        ({"modality": {"0": "MRI"}}, "not CT"),
        ({"labels": {"0": "a", "1": "b", "2": "c"}}, "3 classes"),
    ],
)
def test_what_is_odd_but_legal_is_reported(toy, change, warning, capsys):
    root, content, save = toy
    save({key: value for key, value in (content | change).items() if value is not None})
    assert len(load(root).training) == 6
    assert warning in capsys.readouterr().err


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.fault("paths out of the dataset")
@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("../secret.nii.gz", "leads outside the dataset"),
        ("..\\secret.nii.gz", "leads outside the dataset"),
        ("./imagesTr/../../secret.nii.gz", "leads outside the dataset"),
        ("/etc/secret.nii.gz", "is an absolute path"),
        ("C:\\secret.nii.gz", "is an absolute path"),
        ("\\\\server\\secret.nii.gz", "is an absolute path"),
    ],
)
def test_a_path_out_of_the_dataset_is_refused(toy, path, cause):
    root, content, save = toy
    (root.parent / "secret.nii.gz").touch()
    content["training"][0]["image"] = path
    assert cause in str(faults_of(save()))


def test_an_absolute_path_into_the_dataset_is_called_what_it_is(toy):
    root, content, save = toy
    content["training"][0]["image"] = str(root / "imagesTr" / "toy_003.nii.gz")
    assert "is an absolute path. Write ./imagesTr/" in str(faults_of(save()))


@pytest.mark.fault("missing and extra files")
@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("./imagesTr/toy_999.nii.gz", "is missing"),
        pytest.param(
            "./imagesTr/Toy_003.nii.gz",
            "toy_003.nii.gz, in other letter case",
            marks=pytest.mark.skipif(
                sys.platform != "linux", reason="the file system may not tell case"
            ),
        ),
        ("./nowhere/toy_003.nii.gz", "folder is missing"),
        ("./imagesTr/toy_003.png", "not called .nii"),
        ("./imagesTr/toy_003.nii.gz/x.nii", "folder is missing"),
        ("./imagesTr/a\0.nii", ""),
        ("./imagesTr/\ud800.nii", ""),
        ("./imagesTr/" + "a" * 5000 + ".nii", ""),
    ],
)
@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_missing_file_is_named(toy, path, cause, kind):
    _, content, save = toy
    path = path.replace("imagesTr", "labelsTr") if kind == "label" else path
    content["training"][0][kind] = path
    error = str(faults_of(save()))
    assert cause in error and "training entry 1" in error


@pytest.mark.skipif(sys.platform == "win32", reason="links need privileges there")
def test_links_are_followed_and_dead_ones_named(toy):
    root, _, _ = toy
    image = root / "imagesTr" / "toy_003.nii.gz"
    image.rename(root.parent / "stored.nii.gz")
    image.symlink_to(root.parent / "stored.nii.gz")
    assert len(load(root).training) == 6
    (root.parent / "stored.nii.gz").unlink()
    assert "a link that leads nowhere" in str(faults_of(root))
    image.unlink()
    image.symlink_to(image)
    assert "a link that leads nowhere" in str(faults_of(root))


@pytest.mark.fault("macOS's ._ files")
def test_listed_apple_double_files_are_not_counted(toy, capsys):
    _, content, save = toy
    content["training"].append(
        {"image": "./imagesTr/._toy_000.nii.gz", "label": "./labelsTr/._toy_000.nii.gz"}
    )
    content["test"].append("./imagesTs/._toy_006.nii.gz")
    dataset = load(save())
    assert (
        len(dataset.training) == 6
        and len(dataset.test) == 2
        and "._ files: ignored" in capsys.readouterr().err
    )


@pytest.mark.fault("missing and extra files")
def test_extra_files_are_reported(toy, capsys):
    (toy[0] / "imagesTr" / "toy_100.nii.gz").touch()
    (toy[0] / "labelsTs").mkdir()
    (toy[0] / "labelsTs" / "toy_008.nii").touch()
    assert len(load(toy[0]).training) == 6
    stderr = capsys.readouterr().err
    assert "imagesTr: 1 files" in stderr and "toy_100.nii.gz" in stderr and "toy_008.nii" in stderr


@pytest.mark.fault("one case twice; a training scan among the test scans")
def test_a_training_image_among_the_test_cases_is_a_leak(toy):
    root, content, save = toy
    assert "toy_000 is in the test list too" in str(
        faults_of(save(content | {"test": ["./imagesTr/toy_000.nii.gz"], "numTest": 1}))
    )
    os.link(root / "imagesTr" / "toy_001.nii.gz", root / "imagesTs" / "other_name.nii.gz")
    assert "a leak" in str(
        faults_of(save(content | {"test": ["./imagesTs/other_name.nii.gz"], "numTest": 1}))
    )


def test_a_patient_in_both_lists_is_a_leak(toy):
    _, content, save = toy
    for entry in content["training"][:2]:
        entry["patient"] = "p1"  # in one list as often as there are scans
    tests = [{"image": path, "patient": "p1"} for path in content["test"]]
    assert len(load(save()).training) == 6
    error = faults_of(save(content | {"test": tests}))
    assert [fault.cause for fault in error.faults] == [
        f"the test case {case} is of the same patient as the training case toy_003: a leak"
        for case in ("toy_007", "toy_006")
    ]


@pytest.mark.fault("one case twice; a training scan among the test scans")
def test_repeated_and_swapped_cases_are_faults(toy):
    _, content, save = toy
    first, second, *rest = content["training"]
    assert "toy_003 is named twice" in str(
        faults_of(save(content | {"training": [first, first, *rest]}))
    )
    swapped = [{**first, "label": second["label"]}, {**second, "label": first["label"]}, *rest]
    assert "toy_003 is paired with the label of toy_000" in str(
        faults_of(save(content | {"training": swapped}))
    )


@pytest.mark.fault("several faults at once")
def test_all_faults_come_in_one_error(toy):
    root, content, save = toy
    content["training"][0]["image"] = "../x.nii.gz"
    content["training"][1] = 7
    (root / "labelsTr" / "toy_005.nii.gz").unlink()
    (root / "imagesTs" / "toy_006.nii.gz").unlink()
    content["numTraining"] = 63
    error = faults_of(save())
    assert isinstance(error, DatasetError) and len(error.faults) == 5
    assert all(fault.subject in str(error) and fault.cause in str(error) for fault in error.faults)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.fault("wrong level of folder; no training case; one case")
def test_the_wrong_level_is_corrected_and_reported(toy, capsys):
    for folder in (toy[0].parent, toy[0] / "imagesTr"):
        assert load(folder).root.resolve() == toy[0].resolve()
        assert "has no dataset.json; using" in capsys.readouterr().err
    assert load(toy[0] / "dataset.json").root == toy[0]


def test_a_folder_that_is_no_dataset_is_reported(toy):
    parent = toy[0].parent
    (parent / "empty").mkdir()
    assert "has no dataset.json" in str(faults_of(parent / "empty"))
    assert "no such folder" in str(faults_of(parent / "missing"))
    (parent / "file").touch()
    assert "is a file, not a folder" in str(faults_of(parent / "file"))
    (parent / "second").mkdir()
    (parent / "second" / "dataset.json").touch()
    assert "holds 2 datasets (Task99_Toy, second)" in str(faults_of(parent))


def test_names_with_blanks_accents_and_control_characters_work(toy):
    root, content, save = toy
    name = "schön 100% 'a'" + ("" if sys.platform == "win32" else " \n<img src=x>") + ".v1.2"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder / f"{name}.nii.gz").touch()
    entry = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
    dataset = load(save(content | {"training": [*content["training"], entry], "numTraining": 7}))
    assert name in [case.id for case in dataset.training]


# --- folds ----------------------------------------------------------------------------------------


def dataset_of(ids, tmp_path, patients=None):
    patients = patients or ids
    return Dataset(
        tmp_path,
        "x",
        tuple(Case(i, tmp_path / i, tmp_path / i, p) for i, p in zip(ids, patients, strict=True)),
        (),
    )


def test_task06_is_split_as_nnunet_does(tmp_path):
    ids = sorted(case for part in TASK06_FOLDS for case in part)
    assert len(set(ids)) == 63 and [len(part) for part in TASK06_FOLDS] == [13, 13, 13, 12, 12]
    for fold in range(5):
        training, validation = split(dataset_of(ids, tmp_path), fold, seed=fold)
        assert tuple(case.id for case in validation) == TASK06_FOLDS[fold]
        assert sorted(case.id for case in training + validation) == ids


def test_other_sets_are_shuffled_by_the_seed_and_dealt_out(tmp_path):
    ids = [f"case_{i}" for i in range(13)]
    folds = [
        [case.id for case in split(dataset_of(ids, tmp_path), fold, seed=1)[1]] for fold in range(5)
    ]
    assert sorted(chain(*folds)) == sorted(ids) and {len(fold) for fold in folds} == {2, 3}
    shuffled = dataset_of(random.Random(0).sample(ids, 13), tmp_path)
    assert set(folds[0]) == {
        case.id for case in split(shuffled, 0, seed=1)[1]
    }  # the order of the list is no matter
    assert folds[0] != [case.id for case in split(dataset_of(ids, tmp_path), 0, seed=2)[1]]


def test_scans_of_one_patient_stay_together(toy):
    _, content, save = toy
    for i, entry in enumerate(content["training"]):
        entry["patient"] = f"p{i // 2}"
    dataset = load(save())
    for fold in range(3):
        training, validation = split(dataset, fold, folds=3)
        assert len(validation) == 2 and not {c.patient for c in training} & {
            c.patient for c in validation
        }


def test_a_patient_may_be_a_number_and_0_is_one(toy):
    _, content, save = toy
    for entry, patient in zip(content["training"], (0, 0, "0", 1, None, "")):
        entry["patient"] = patient
    assert [case.patient for case in load(save()).training] == [
        "0",
        "1",
        "toy_002",
        "0",
        "toy_004",
        "0",
    ]


@pytest.mark.parametrize("patient", [True, [], ["p1"], {}, float("nan")])
def test_a_patient_that_is_neither_a_name_nor_a_number_is_a_fault(toy, patient):
    _, content, save = toy
    content["training"][1]["patient"] = patient
    assert "training entry 2 has" in (error := str(faults_of(save()))) and "as its patient" in error


@pytest.mark.fault("wrong level of folder; no training case; one case")
def test_fewer_cases_than_folds_are_left_out_one_by_one(tmp_path):
    three = dataset_of(["a", "b", "c"], tmp_path)
    assert [len(split(three, fold)[1]) for fold in range(3)] == [1, 1, 1]
    with pytest.raises(LungsegError, match="out of range for 3 folds"):
        split(three, 3)
    with pytest.raises(LungsegError, match="cannot be split"):
        split(dataset_of(["a"], tmp_path))


@pytest.mark.parametrize(
    "arguments",
    [
        {"fold": -1},
        {"fold": 5},
        {"fold": 0.5},
        {"fold": True},
        {"fold": "0"},
        {"folds": 1},
        {"folds": 0},
    ],
)
def test_a_fold_out_of_range_is_refused(tmp_path, arguments):
    with pytest.raises(LungsegError, match="fold"):
        split(dataset_of([f"c{i}" for i in range(10)], tmp_path), **arguments)
