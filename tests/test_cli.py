"""The command line: what its commands print, and where, and with which exit code they end."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from lungseg_utils import cli, parameters, phantom, volume
from lungseg_utils.cli import completion, data, options
from lungseg_utils.runtime import LungsegError

COMMANDS = [
    "phantom",
    "import",
    "download",
    "check",
    "preprocess",
    "train",
    "predict",
    "status",
    "evaluate",
    "course",
]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """A synthetic set of two training scans and one test scan."""
    return phantom.write_dataset(tmp_path_factory.mktemp("cli") / "set", cases=2, test_cases=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a tiny network that was never trained."""
    import torch

    from lungseg_utils import checkpoint
    from lungseg_utils.segunet import SegUNet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoint.save_weights(path, SegUNet(channels=(2, 4)), {"spacing_mm": 6.0})
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_defaults_and_one_example(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert text.count("example: lungseg " + command) == 1
    assert "(default: " in text or command in ("check", "status")


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = f"""
import sys
from lungseg_utils import cli
try:
    cli.main({arguments})
except SystemExit as ended:
    assert not ended.code
heavy = {{"torch", "monai", "matplotlib", "scipy", "pydicom", "highdicom", "papermill", "yaml"}}
assert not (heavy | {{"shtab"}}) & set(sys.modules), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["predict", "x.nii"],
        ["predict", "x.nii", "-o", "y.nii", "--device", "tpu"],
        ["train", "set", "--run-dir", "run", "--epochs", "-1"],
        ["train", "--run-dir", "run"],
        ["train", "--run-dir", "run", "--resume", "--weights", "x.safetensors"],
        ["phantom", "out", "--cases", "fifty"],
    ],
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2 and "usage: lungseg" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "{}/none"],
        ["preprocess", "{}/none"],
        ["train", "{}/none", "--run-dir", "{}/run"],
        ["evaluate", "{}/none", "{}/none"],
        ["course", "-f", "{}/none"],
        ["predict", "{}/none", "-o", "{}/out.nii.gz"],
        ["download", "{}", "--url", "{}/none.tar", "--md5", "0" * 32],
    ],
)
def test_a_missing_input_is_named_without_a_traceback(arguments, tmp_path, capsys):
    assert cli.main([text.format(tmp_path) for text in arguments]) == 1
    printed = capsys.readouterr()
    assert "none" in printed.err + printed.out and "Traceback" not in printed.err
    assert (
        printed.err.startswith(("error: ", "note: ")) or arguments[0] == "check"
    )  # whose report is its output


@pytest.mark.parametrize("command", ["check", "preprocess", "train", "crossvalidate"])
def test_every_command_on_a_dataset_names_all_layouts_that_are_read(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert options.DATASET in " ".join(capsys.readouterr().out.split())


def test_debug_shows_where_an_error_arose(tmp_path, capsys):
    for arguments in (
        ["--debug", "preprocess", str(tmp_path)],
        ["preprocess", str(tmp_path), "--debug"],
    ):
        assert cli.main(arguments) == 1
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (
            LungsegError("x.nii", "truncated", "copy it again"),
            1,
            "error: x.nii: truncated. Copy it again.\n",
        ),
        (
            ValueError("what"),
            1,
            "error: lungseg check: ValueError: what. Run it again with --debug to see where.\n",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "a.nii"),
            1,
            "error: a.nii: no such file or directory. Check the path and its permissions.\n",
        ),
        (
            MemoryError(),
            1,
            "error: lungseg check: not enough memory. Run it again with --debug to see where.\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_every_end_has_its_code_and_one_line(error, code, printed, monkeypatch, capsys):
    def check(_options):
        raise error

    monkeypatch.setattr(data, "check", check)
    assert cli.main(["check", "set"]) == code
    assert capsys.readouterr().err == printed


def test_a_pipe_that_closes_early_is_no_traceback(lungseg, tmp_path):
    run = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from lungseg_utils import cli; sys.stdin.read(); "
            "sys.exit(cli.main(['check', '.']))",
        ],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    run.stdout.close()
    run.stdin.close()
    assert b"Traceback" not in run.stderr.read() and run.wait() == 1


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_costs_no_work(stream, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, stream, None)  # as Python does for `>&-`
    assert cli.main(["phantom", str(tmp_path / "set"), "--cases", "2", "--test-cases", "0"]) == 0
    assert cli.main(["check", str(tmp_path / "none")]) == 1
    assert (tmp_path / "set" / "dataset.json").is_file()


def test_phantom_makes_a_set_that_check_finds_sound(lungseg, tmp_path):
    made = lungseg("phantom", "my set", "--cases", 2, "--test-cases", 1)
    assert made.returncode == 0 and made.stdout == "my set: 2 training and 1 test scans\n", (
        made.stderr
    )
    report = lungseg("check", "my set", "--json")
    assert report.returncode == 0 and json.loads(report.stdout)["faults"] == []


def test_check_ends_with_1_and_names_the_fault(synthetic, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(synthetic, broken)
    (broken / "imagesTr" / "lung_001.nii.gz").write_bytes(b"")
    assert cli.main(["check", str(broken)]) == 1
    assert "lung_001.nii.gz" in capsys.readouterr().out


def test_train_preprocess_and_evaluate_work_together(synthetic, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LUNGSEG_HOME", str(tmp_path))
    small = {"spacing_mm": 8, "patch_size": 16, "channels": "[2, 4]", "steps_per_epoch": 1}
    settings = [word for name in small for word in ("-p", name, str(small[name]))]
    settings += ["-p", "foreground", "0.5"]  # a name of earlier versions
    run_dir = tmp_path / "runs" / "a b"
    train = ["train", str(synthetic), "--run-dir", str(run_dir), *settings]
    assert cli.main(["preprocess", str(synthetic), "-p", "spacing_mm", "8"]) == 0
    assert cli.main([*train, "--epochs", "1"]) == 0
    assert cli.main([*train, "--epochs", "2", "--resume"]) == 0
    assert json.loads((run_dir / "config.json").read_text())["foreground_share"] == 0.5
    assert len((run_dir / "history.csv").read_text().splitlines()) == 3
    labels = str(synthetic / "labelsTs")
    assert cli.main(["evaluate", labels, labels, "-o", str(tmp_path / "metrics.csv")]) == 0
    assert "1 scans: mean Dice 1.000" in capsys.readouterr().out
    assert (tmp_path / "summary.json").is_file()


@pytest.mark.parametrize("option", ["-f", "--weights"])
def test_an_empty_name_is_not_taken_for_no_file(synthetic, tmp_path, monkeypatch, capsys, option):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", str(synthetic), "--run-dir", "run", option, ""]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: .: is a directory. Give the path of a ")
    assert not list(tmp_path.glob("run/*"))


def test_predict_writes_a_line_a_scan_and_a_mask_on_its_grid(synthetic, weights, tmp_path, capsys):
    out = tmp_path / "masks"
    report = tmp_path / "report.jsonl"
    options = ["--checkpoint", str(weights), "--device", "cpu", "--json", str(report)]
    assert cli.main(["predict", str(synthetic / "imagesTr"), "-o", str(out), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["lung_001", "lung_002"]
    assert all("tumour" in line and " mL, " in line and line.endswith(" s") for line in lines)
    assert len(report.read_text().splitlines()) == 2
    for path in sorted(out.glob("*.nii.gz")):
        mask = volume.read_header(path)
        scan = volume.read_header(synthetic / "imagesTr" / path.name)
        assert mask.grid.canonical_affine == pytest.approx(scan.grid.canonical_affine, abs=1e-6)


def test_predict_averages_several_checkpoints(synthetic, weights, tmp_path, capsys):
    reports = []
    for number, files in enumerate(([weights], [weights, weights])):
        reports.append(tmp_path / f"{number}.jsonl")
        options = [*(f"--checkpoint={file}" for file in files), "--json", str(reports[-1])]
        inputs = [str(synthetic / "imagesTs"), "-o", str(tmp_path / str(number))]
        assert cli.main(["predict", *options, "--device", "cpu", *inputs]) == 0
    one, two = (json.loads(path.read_text()) for path in reports)
    assert (
        two["tumours"] == one["tumours"] and two["weights"] == f"{one['weights']}+{one['weights']}"
    )
    assert "shipped" not in capsys.readouterr().err


def test_predict_takes_the_test_scans_of_a_dataset_and_its_help_names_it(
    synthetic, weights, tmp_path, capsys
):
    options = ["-o", str(tmp_path / "out"), "--checkpoint", str(weights), "--device", "cpu"]
    assert cli.main(["predict", str(synthetic), *options]) == 0
    assert [path.name for path in (tmp_path / "out").glob("*.gz")] == ["lung_003.nii.gz"]
    with pytest.raises(SystemExit):
        cli.main(["predict", "--help"])
    assert "dataset" in capsys.readouterr().out


def test_an_option_of_a_parameter_has_its_default_and_meaning_of_the_table(capsys):
    with pytest.raises(SystemExit):
        cli.main(["phantom", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ("cases", "test_cases", "seed", "tier"):
        parameter = parameters.PARAMETERS[name]
        assert f"{parameter.meaning} (default: {parameter.default})" in text


def test_the_shipped_weights_come_with_a_note(synthetic, tmp_path, capsys):
    assert cli.main(["predict", str(synthetic / "imagesTs"), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().err
    assert "synthetic scans and 79 real tumours; not for clinical use" in printed
    words = ["predict", str(synthetic / "imagesTs"), "-o", str(tmp_path / "out")]
    assert cli.main([*words, "--checkpoint", "synthetic"]) == 0
    assert "synthetic scans only; not for clinical use" in capsys.readouterr().err


def test_makefile_and_readme_name_only_commands_that_exist():
    texts = [
        path.read_text(encoding="utf-8")
        for path in (ROOT / "Makefile", ROOT / "README.md")
        if path.is_file()
    ]
    assert {
        name for text in texts for name in re.findall(r"(?:^|`)\s*lungseg ([a-z]+)", text, re.M)
    } <= set(COMMANDS)


# --- completion in a shell ------------------------------------------------------------------------

COMPLETE = """source ./completion
COMP_WORDS=(lungseg "$@"); COMP_CWORD=$#
_shtab_lungseg
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pre"], {"predict", "preprocess"}),
        (["predict", "--prob"], {"--probabilities"}),
        (["predict", "x.nii", "--device", "c"], {"cpu", "cuda"}),
        (["phantom", "--tier", ""], {"quick", "medium", "full"}),
        (["predict", "sc"], {"scan.nii.gz", "scans"}),
        (["check", "sc"], {"scans"}),
    ],
)
def test_bash_completes_commands_options_choices_files_and_folders(
    words, expected, tmp_path, capsys
):
    (tmp_path / "scan.nii.gz").touch()
    (tmp_path / "scans").mkdir()
    with pytest.raises(SystemExit) as ended:
        cli.main(["--print-completion", "bash"])
    assert ended.value.code == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    run = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(run.stdout.split()) == expected, run.stderr


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_their_scripts(shell, capsys):
    with pytest.raises(SystemExit):
        cli.main(["--print-completion", shell])
    script = capsys.readouterr().out
    assert all(word in script for word in ("lungseg", "crossvalidate", "dicom-seg"))


def test_every_option_that_takes_a_path_completes_paths():
    commands = cli.build_parser()._subparsers._group_actions[0].choices
    metavars = {
        action.metavar
        for command in commands.values()
        for action in command._actions
        if isinstance(action.metavar, str) and not completion.CHOICES.fullmatch(action.metavar)
    }
    paths = {*completion.FOLDERS, *completion.FILES_AND_FOLDERS}
    assert metavars - paths <= {"N", "UID", "T", "I/N|auto", "NAME"}  # and no path
