"""One table of parameters, one validator: for notebooks, YAML files and the command line."""

import dataclasses

import nbformat
import papermill
import pytest
from conftest import ROOT

from lungseg_utils import parameters
from lungseg_utils.runtime import LungsegError
from lungseg_utils.training import TrainingConfig


def refusal(**values) -> str:
    with pytest.raises(LungsegError) as caught:
        parameters.check(values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
        ("epochs", 0),
        ("epochs", "fifty"),
        ("epochs", 1e9),
        ("epochs", float("nan")),
        ("epochs", 2.5),
        ("epochs", True),
        ("epochs", None),
        ("epochs", [5]),
        ("learning_rate", "fast"),
        ("learning_rate", 0),
        ("learning_rate", float("inf")),
        ("patch_size", (0, 64, 64)),
        ("patch_size", [60, 64, 64]),
        ("patch_size", [64, 64]),
        ("patch_size", "[64, 64"),
        ("overlap", 1.0),
        ("overlap", 0.9),
        ("overlap", -0.1),
        ("threshold", 7),
        ("threshold", 0),
        ("device", "tpu"),
        ("tier", "cuda:1"),
        ("workers", -3),
        ("augment", "perhaps"),
        ("channels", [16]),
        ("dataset_dir", ["a"]),
        ("ct_path", "a\0b"),
        ("seed", 10**400),
        ("spacing_mm", ""),
    ],
)
def test_a_value_out_of_range_is_refused_with_name_value_and_range(name, value):
    message = refusal(**{name: value})
    assert f"{name} = {repr(value)[:60]}" in message
    assert str(parameters.PARAMETERS[name]) in message


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", "50", 50),
        ("epochs", 50.0, 50),
        ("learning_rate", "1e-3", 0.001),
        ("overlap", 0, 0.0),
        ("patch_size", 96, [96, 96, 96]),
        ("patch_size", "96", [96, 96, 96]),
        ("patch_size", "[64, 64, 96]", [64, 64, 96]),
        ("channels", (8, 16), [8, 16]),
        ("augment", "False", False),
        ("run_dir", 2024, "2024"),
        ("dataset_dir", None, ""),
        ("device", "cuda:1", "cuda:1"),
    ],
)
def test_a_sound_value_is_brought_to_its_kind(name, value, expected):
    checked = parameters.check({name: value})[name]
    assert checked == expected and type(checked) is type(expected)


def test_several_problems_are_named_in_one_error():
    message = refusal(epochs=-1, overlap=1.0, epoch=5)
    assert all(
        text in message for text in ("epochs = -1", "overlap = 1.0", "unknown parameter epoch;")
    )


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("epoch", "epochs"),
        ("num_workers", "workers"),
        ("lr", "learning_rate"),
        ("patch", "patch_size"),
        ("dataset", "dataset_dir"),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(wrong, right):
    assert f"unknown parameter {wrong}; did you mean {right}" in refusal(**{wrong: 1})


def test_the_table_is_sound():
    assert parameters.check(parameters.defaults()) == parameters.defaults()
    assert all(
        row.meaning and row.unit and "=" not in row.meaning
        for row in parameters.PARAMETERS.values()
    )


def test_the_defaults_are_those_of_training():
    config, defaults = dataclasses.asdict(TrainingConfig()), parameters.defaults()
    assert {
        name: list(value) if isinstance(value, tuple) else value for name, value in config.items()
    } == {name: defaults[name] for name in config}


# --- YAML ------------------------------------------------------------------------------------------------------


def test_quick_yaml_equals_the_defaults():
    assert parameters.read(ROOT / "params" / "quick.yaml") == parameters.defaults()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda path: path.name
)
def test_every_parameter_file_is_sound(path):
    assert parameters.read(path)


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("epochs: [", "line 1: not a YAML file"),
        ("- 5", "holds no parameters"),
        ("", "holds no parameters"),
        ("epoch: 5", "did you mean epochs"),
        ("epochs: -1", "epochs = -1"),
        ("!!python/object/apply:os.abort []", "not a YAML file"),
        ("[" * 100_000, "not a YAML file"),
        (BOMB, "line 2: an alias"),
        ("channels: &c [8, 16]\npatch_size: *c", "line 2: an alias"),
        ("epochs: 5\n<<: {epochs: 6}", "line 2: a merge key"),
        ("epochs: 5\nseed: 1\nepochs: 6", "line 3: epochs occurs twice"),
        ("seed: 1\nepochs: 2020-13-45", "line 2: cannot be read: month must be in 1..12"),
        *(
            (f"epochs: {value}", "line 1: cannot be read: ")
            for value in ("9" * 5000, "!!bool x", "!!timestamp x", "!!int ''", "1:" * 1000 + "0.5")
        ),
    ],
    ids=lambda text: text[:30],
)
def test_a_bad_file_is_refused_by_name(tmp_path, content, cause):
    path = tmp_path / "bad.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LungsegError, match="bad.yaml") as caught:
        parameters.read(path)
    assert cause in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(LungsegError, match="none.yaml"):
        parameters.read(tmp_path / "none.yaml")


def test_a_number_that_yaml_takes_for_a_text_is_a_number(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("learning_rate: 1e-3\n", encoding="utf-8")
    assert parameters.read(path) == {"learning_rate": 0.001}


# --- notebooks, in a real kernel -------------------------------------------------------------------------------

PARAMETERS_CELL = 'epochs: int = 5  # epochs; of training\nrun_dir: str = ""  # path; of the run'


def execute(notebook, **values):
    return papermill.execute_notebook(
        str(notebook), str(notebook.with_name("out.ipynb")), values, progress_bar=False
    )


def printed(executed: nbformat.NotebookNode) -> str:
    return "".join(
        output.text
        for cell in executed.cells
        for output in cell.outputs
        if output.output_type == "stream"
    )


def test_papermill_parameters_are_checked_and_written_back(write_notebook):
    notebook = write_notebook(PARAMETERS_CELL, "print(epochs + 1, settings)")
    assert "51 namespace(epochs=50, run_dir='x y')" in printed(
        execute(notebook, epochs="50", run_dir="x y")
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 5}, "unknown parameter epoch; did you mean epochs"),
        ({"epochs": float("nan"), "nothing": 1}, "epochs = nan"),
    ],
)
def test_papermill_fails_at_once_for_what_is_wrong(write_notebook, values, message):
    with pytest.raises(papermill.PapermillExecutionError, match="LungsegError") as caught:
        execute(write_notebook(PARAMETERS_CELL), **values)
    assert message in caught.value.evalue


def test_names_of_other_notebooks_are_let_through(write_notebook):
    assert execute(write_notebook(PARAMETERS_CELL), learning_rate="1e-3", patch_size=[64, 64, 64])


def test_running_the_validation_again_looks_at_parameters_only(write_notebook):
    again = "parameters.validate(globals())"
    notebook = write_notebook(
        PARAMETERS_CELL,
        "x = 3\ny = 4",
        again,
        "cases = print\nthreshold = 310",
        "print('body')",
        again,
        "print(settings.epochs, threshold)",
    )
    assert "5 310" in printed(execute(notebook))


def test_a_parameter_that_was_edited_is_checked_again(write_notebook):
    edited = "epochs = 5 * -1  # as one may do in JupyterLab"
    notebook = write_notebook(PARAMETERS_CELL, edited, "parameters.validate(globals())")
    with pytest.raises(papermill.PapermillExecutionError, match="epochs = -5"):
        execute(notebook)


def test_validate_checks_the_namespace_where_a_runner_keeps_no_history():
    assert parameters.validate({"In": [""], "epochs": "3"}).epochs == 3
    with pytest.raises(LungsegError, match="epochs"):
        parameters.validate({"In": [""], "epochs": "fifty"})
