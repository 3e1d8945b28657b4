"""Networks that are broken on purpose: the verdict names fault and layer, and its remedy makes the network learn."""

import importlib
import json
import sys
from pathlib import Path

import jax
import pytest
from conftest import few

from spikegrad import diagnose

OPTIMISED = True  # here the most is to run and not to compile
ROOT = Path(__file__).parents[1]
ARCHITECTURES = "feedforward", "recurrent"
PAIRS = [
    (what, architecture)
    for what in (
        "threshold x 20",
        "weights x 100",
        "compact slope far away",
        "asymptotic slope, beta 100",
        "decay 0.5, long lags",
        "learning rate x 1000",
    )
    for architecture in ARCHITECTURES
]


@pytest.fixture(scope="module")
def benchmark():
    """The networks, and the script that makes the table of the page."""
    pytest.importorskip("optax")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("_broken"), importlib.import_module("diagnose")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(autouse=True)
def default_promotion():
    """JAX as users have it: optax promotes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("pair", few(PAIRS), ids="-".join)
def test_the_remedy_makes_the_network_learn(pair, benchmark):
    _, script = benchmark
    row = script.row(*pair, seed=0)
    assert row["found"], row["verdict"]
    assert row["healthy"] == ""
    assert row["accuracy, broken"] < row["accuracy, healthy"] - 0.15
    assert row["accuracy, remedied"] > row["accuracy, healthy"] - 0.1


def test_the_verdict_names_what_explodes(benchmark):
    broken, _ = benchmark
    case = broken.broken("asymptotic slope, beta 100", "recurrent")
    [verdict] = diagnose(case.network, case.task.inputs, case.task.loss).verdicts
    assert (verdict.fault, verdict.index) == (case.fault, case.index)
    assert "height=1" in verdict.remedy.text


def test_the_table_of_the_page_has_every_verdict_right(benchmark):
    rows = json.loads((ROOT / "benchmarks" / "results" / "diagnose.json").read_text())["rows"]
    assert [(row["broken"], row["architecture"]) for row in rows] == PAIRS
    assert [*benchmark[0].BROKEN] == [what for what, _ in PAIRS[:: len(ARCHITECTURES)]]
    for row in rows:
        assert row["found"] == row["seeds"] >= 3
        assert row["false alarms"] == 0
        assert row["remedied"] > row["healthy"] - 0.05 > row["as it was"] + 0.1
