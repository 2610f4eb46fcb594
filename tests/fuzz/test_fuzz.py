"""A seeded thousand of mutants; `fuzz.py` makes as many as one likes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz.py")


@pytest.mark.skipif(sys.platform == "win32", reason="needs select on pipes and limits on memory")
def test_a_thousand_mutants_end_well_or_are_refused(tmp_path):
    out = tmp_path / "result.json"
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--mutants", "1000", "--seed", "1", "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    kinds = json.loads(out.read_text())["kinds"]
    assert len(kinds) == 9 and all(row["good"] and row["refused"] for row in kinds.values())


@pytest.mark.parametrize(("code", "fate"), [("os._exit(3)", "crash 3"), ("time.sleep(99)", "hang")])
def test_a_reader_that_dies_or_hangs_is_found(tmp_path, monkeypatch, code, fate):
    """The fuzzer itself is sound: it notices the ends that it is there for, and goes on."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import fuzz

    worker = tmp_path / "fuzz.py"
    worker.write_text(
        "import json, os, sys, time\n"
        "first = int(sys.argv[sys.argv.index('--first') + 1])\n"
        "def say(**fields): print(json.dumps(fields), flush=True)\n"
        "say(ready=True, peak=0)\n"
        "for number in range(first, 4):\n"
        "    say(number=number, kind='tar')\n"
        f"    if number == 2: {code}\n"
        "    say(end='good', peak=0)\n"
        "say(done=True)\n"
    )
    monkeypatch.setattr(fuzz, "HERE", tmp_path)
    monkeypatch.setattr(fuzz, "PATIENCE_S", 5)
    result = fuzz.fuzz(4, 0, 0, ["tar"])
    assert result["kinds"]["tar"] == {"good": 3, "refused": 0, "found": 1}
    assert len(result["found"]) == 1 and result["found"][0].startswith(f"tar-0-2: {fate}")
