"""A type checker sees parameters and results, and refuses what would raise."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

CASES = Path(__file__).with_name("typing_cases.py")


def checker():
    beside = Path(sys.executable).with_name("basedpyright")
    return str(beside) if beside.exists() else shutil.which("basedpyright")


@pytest.mark.slow
@pytest.mark.skipif(checker() is None, reason="basedpyright is not installed")
def test_planted_errors_are_found_and_no_others(tmp_path):
    # The settings of the project leave the file out.
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"include": [str(CASES)], "extraPaths": [str(ROOT / "src")]}))
    options = ["--outputjson", "--pythonpath", sys.executable, "--project", str(settings)]
    command = [str(checker()), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = sorted(
        (report["range"]["start"]["line"] + 1, report.get("rule"))
        for report in json.loads(done.stdout)["generalDiagnostics"]
        if report["severity"] == "error"
    )
    lines = CASES.read_text().splitlines()
    planted = [
        (n, m[1]) for n, line in enumerate(lines, 1) if (m := re.search(r"  # (report\w+)$", line))
    ]
    assert len(planted) > 15
    assert found == planted
