"""Benchmarks run, on as little as they take: what they use of the library is there."""

import subprocess
import sys

import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
RUNS = {  # with what must be printed
    "accuracy.py --only circle --dtype float16": "Circle",
    "binary_adding.py --only BRF* --samples 50 --held-out 20 --epochs 1 --seeds 1": "BRF",
    "bptt.py --sizes 8x6 --batch 4 --rounds 1": "recompute",
    "cells.py --rounds 1 --neurons 4 --steps 5": "TCLIF",
    "cue_accumulation.py --delay 150 --updates 2 --seeds 1 --held-out 8": "50 LIF, 50 adaptive",
    "distributed.py --worker 1 0 0": "all-reduce",
    "eager.py --only arctan,circle --rounds 1": "circle",
    "elementwise.py --only arctan,shifted --elements 1024 --rounds 1": "shifted(sigmoid, 0.5)",
    "eprop.py --updates 1 --trained 1 --seeds 1 --sizes 6x12 --batch 2 --rounds 1": "crossover, steps",
    "gpu.py --small": "multi_gaussian_grad",
    "graphs.py --neurons 6 --steps 12 --batch 4 --rounds 1": "sew, images",
    "importing.py --rounds 1": "spikegrad",
    "random_graphs.py --count 1": "all",
    "random_integers.py --count 1 --modes exact": "xylo",
    "training.py --worker --epochs 2": "ReLU, an update",
    "yin_yang.py --seeds 1 --epochs 1": "spiking, 120 hidden",
}


@pytest.mark.every
@pytest.mark.parametrize("command", RUNS)
def test_it_runs(command):
    script, *options = command.split()
    call = [sys.executable, str(BENCHMARKS / script), *options]
    made = subprocess.run(call, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert RUNS[command] in made.stdout
