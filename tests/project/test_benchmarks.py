"""Benchmarks run, on as little as they take: what they use of the library is there."""

import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.ci

BENCHMARKS = ROOT / "benchmarks"
# with what must be printed; other tests import the benchmarks of tasks and of random graphs
RUNS = {
    "bptt.py --sizes 8x6 --batch 4 --rounds 1": "recompute",
    "elementwise.py --only arctan,shifted --elements 1024 --rounds 1": "shifted(sigmoid, 0.5)",
    "few_bits.py --only digits --seeds 1 --bits 2": "learned",
    "ports.py --only sew --epochs 1 --examples 50 --bits 8": "sew      0     8",
    "random_image_networks.py --count 1 --draws 1 --modes exact": "exact   1       1         1",
    "random_integers.py --count 1 --modes exact": "xylo",
    "training.py --worker --epochs 2": "ReLU, an update",
}


@pytest.mark.every
@pytest.mark.parametrize("command", RUNS)
def test_it_runs(command):
    script, *options = command.split()
    call = [sys.executable, str(BENCHMARKS / script), *options]
    made = subprocess.run(call, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert RUNS[command] in made.stdout
