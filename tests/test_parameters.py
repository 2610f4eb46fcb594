"""One table of parameters, one validator: for notebooks, YAML files and the command line."""

import dataclasses
import typing

import nbclient
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
        ("run_dir", "007", "007"),
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


def test_a_question_ends_as_one():
    asked = "parameters: unknown parameter epoch; did you mean epochs? "
    assert refusal(epoch=5) == asked + "Correct this and run it again."
    assert refusal(epoch=5, overlap=1).startswith(asked + "overlap = 1 is not allowed: ")


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
    for name, parameter in parameters.PARAMETERS.items():
        assert parameter.meaning[0].islower() or parameter.meaning.startswith("NIfTI"), name
        assert len(parameters.notebook_line(name)) <= 100
        assert parameter.interval or parameter.kind in (str, bool)


def test_a_setting_of_training_has_the_kind_of_its_annotation():
    for name, annotation in typing.get_type_hints(TrainingConfig).items():
        parameter = parameters.PARAMETERS[name]
        kinds = set(typing.get_args(annotation)) - {...} or {annotation}
        assert kinds == {parameter.kind}, name
        assert (typing.get_origin(annotation) is tuple) == bool(parameter.length), name


def test_a_configuration_is_a_plain_dataclass_with_the_defaults_of_the_table():
    config = dataclasses.replace(TrainingConfig(), epochs=7)
    assert dataclasses.asdict(config) == dataclasses.asdict(TrainingConfig()) | {"epochs": 7}
    for name, value in dataclasses.asdict(TrainingConfig()).items():
        assert parameters.check({name: value})[name] == parameters.defaults()[name]


def test_shares_of_more_than_all_patches_are_refused():
    assert TrainingConfig(foreground_share=0.5, hard_example_share=0.5)
    with pytest.raises(LungsegError, match=r"shares of 0.67 and 0.5 of the patches .* Let them"):
        TrainingConfig(hard_example_share=0.5)


def test_quick_yaml_and_the_notebooks_follow_the_table():
    """Where they do not: python -m lungseg_utils.parameters [NAME...] prints what they should."""
    quick = ROOT / "params" / "quick.yaml"
    assert quick.read_text(encoding="utf-8") == parameters.quick_yaml()
    assert parameters.read(quick) == parameters.defaults()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        names = papermill.inspect_notebook(str(path))
        cells = nbformat.read(path, 4).cells
        tagged = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
        assert names.keys() <= parameters.PARAMETERS.keys(), path.name
        expected = [parameters.notebook_line(name) for name in names]
        assert tagged.source.splitlines() == expected, path.name


# --- names of earlier versions --------------------------------------------------------------------

OLD = {"foreground": 0.5, "mistakes": 0.25, "fixed_norms": 1.0, "cut_off": 0.3}
NEW = {
    "foreground_share": 0.5,
    "hard_example_share": 0.25,
    "frozen_norm_share": 1.0,
    "field_of_view_crop": 0.3,
}


def test_old_names_are_taken_for_those_of_today(tmp_path):
    assert parameters.check(OLD) == NEW
    path = tmp_path / "old.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in OLD.items()), "utf-8")
    assert parameters.read(path) == NEW
    facts = parameters.with_current_names({"least_peak": 0.9, "mirror": True, "epoch": 3})
    assert facts == {"min_peak": 0.9, "test_time_mirroring": True, "epoch": 3}


def test_every_old_name_of_a_parameter_has_one_of_today():
    todays = parameters.PARAMETERS.keys() | {"min_peak", "test_time_mirroring"}
    assert set(parameters.OLD_NAMES.values()) <= todays
    assert not parameters.OLD_NAMES.keys() & todays


def test_a_parameter_under_its_old_name_and_its_new_one_is_refused():
    message = refusal(foreground=0.5, foreground_share=0.6)
    assert "foreground is the old name of foreground_share, and both are given" in message


# --- YAML -----------------------------------------------------------------------------------------


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
        ("!!python/object/apply:os.abort []", "holds no parameters"),
        ("epochs: !!python/object/apply:os.abort []", "line 1: not a YAML file"),
        ("? [seed]\n: 5", "unknown parameter [ScalarNode("),
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


# --- notebooks, in a real kernel ------------------------------------------------------------------

PARAMETERS_CELL = "\n".join(map(parameters.notebook_line, ("epochs", "run_dir")))
AGAIN = "settings = parameters.validate(globals())"


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


def errors_of(notebook, folder) -> list[str]:
    """Run the cells one after another as in JupyterLab, also past an error; return the errors."""
    content = nbformat.read(notebook, 4)
    nbclient.NotebookClient(
        content, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": folder}}
    ).execute()
    outputs = [output for cell in content.cells for output in cell.outputs]
    return [output.evalue for output in outputs if output.output_type == "error"]


def test_papermill_parameters_are_checked_and_written_back(write_notebook):
    notebook = write_notebook(PARAMETERS_CELL, "print(epochs + 1, settings)")
    assert "51 namespace(epochs=50, run_dir='x y')" in printed(
        execute(notebook, epochs="50", run_dir="x y")
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 5}, "unknown parameter epoch; did you mean epochs?"),
        ({"epochs": float("nan"), "nothing": 1}, "epochs = nan"),
    ],
)
def test_papermill_fails_at_once_for_what_is_wrong(write_notebook, values, message):
    with pytest.raises(papermill.PapermillExecutionError, match="LungsegError") as caught:
        execute(write_notebook(PARAMETERS_CELL), **values)
    assert message in caught.value.evalue


def test_names_of_other_notebooks_are_let_through(write_notebook):
    assert execute(write_notebook(PARAMETERS_CELL), learning_rate="1e-3", patch_size=[64, 64, 64])


def test_papermill_may_give_an_old_name(write_notebook):
    cell = f"{PARAMETERS_CELL}\n{parameters.notebook_line('foreground_share')}"
    notebook = write_notebook(cell, "print(foreground_share, settings.foreground_share)")
    assert "0.5 0.5" in printed(execute(notebook, foreground=0.5))


def test_running_the_validation_again_looks_at_parameters_only(write_notebook):
    notebook = write_notebook(
        PARAMETERS_CELL,
        "x = 3\ny = 4",
        AGAIN,
        "cases = print\nthreshold = 310\ncount: int = 3",
        "print('body')",
        AGAIN,
        "print(settings.epochs, threshold)",
    )
    assert "30 310" in printed(execute(notebook))


def test_a_parameter_that_was_edited_is_checked_again(write_notebook):
    edited = "epochs = 5 * -1  # as one may do in JupyterLab"
    notebook = write_notebook(PARAMETERS_CELL, edited, AGAIN)
    with pytest.raises(papermill.PapermillExecutionError, match="epochs = -5"):
        execute(notebook)


@pytest.mark.parametrize("before", [(), (PARAMETERS_CELL, AGAIN, "threshold = 310")])
def test_a_misspelling_is_caught_and_its_correction_runs_in_the_same_kernel(
    write_notebook, tmp_path, before
):
    misspelt = PARAMETERS_CELL.replace("epochs:", "epoch:")
    cells = [misspelt, AGAIN, PARAMETERS_CELL, AGAIN, "assert settings.epochs == 30"]
    notebook = write_notebook("ready: bool = True", *before, *cells)
    content = nbformat.read(notebook, 4)
    content.cells[0].source = "from lungseg_utils import parameters"
    del content.cells[1]
    nbformat.write(content, notebook)
    (message,) = errors_of(notebook, tmp_path)
    assert "unknown parameter epoch; did you mean epochs?" in message


def test_the_only_parameter_of_a_notebook_is_not_misspelt_in_silence(write_notebook, tmp_path):
    line = parameters.notebook_line("dataset_dir")
    notebook = write_notebook(line.replace("dataset_dir", "dataset"), line, AGAIN)
    (message,) = errors_of(notebook, tmp_path)
    assert "unknown parameter dataset; did you mean dataset_dir?" in message


def test_validate_checks_the_namespace_where_a_runner_keeps_no_history():
    assert parameters.validate({"In": [""], "epochs": "3", "x": 5}).epochs == 3
    with pytest.raises(LungsegError, match="epochs"):
        parameters.validate({"In": [""], "epochs": "fifty"})
