"""Networks that are broken on purpose: an issue names the layer, and the repair makes the network
learn.
"""

import importlib
import json
import sys

import pytest
from conftest import ROOT

# JAX as users have it: optax promotes.
pytestmark = [pytest.mark.usefixtures("default_promotion"), pytest.mark.ci]
OPTIMISED = True  # here the most is to run and not to compile
RESULTS = json.loads((ROOT / "benchmarks" / "results" / "diagnose.json").read_text())["rows"]
FAULTS = [(row["network"], row["fault"]) for row in RESULTS if row["fault"]]
HEALTHY = [row["network"] for row in RESULTS if not row["fault"]]
INCURABLE = "inputs zero", "loss not a number"


@pytest.fixture(scope="module")
def benchmark():
    """The networks, and the script that makes the table of the page."""
    pytest.importorskip("optax")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("_broken"), importlib.import_module("diagnose")
    sys.path.remove(str(ROOT / "benchmarks"))


def some(cases, step):
    """One case in so many, because each trains several networks. The benchmark has all of them."""
    return [pytest.param(case, marks=pytest.mark.every) for case in cases[1::step]]


@pytest.mark.parametrize("case", some(FAULTS, 14), ids=str)
def test_repair_makes_the_network_learn(case, benchmark):
    broken, script = benchmark
    [fault] = [fault for fault in broken.FAULTS if (fault.of, fault.name) == case]
    row = script.row(fault, 0, broken.accuracy(broken.healthy(fault.of)))
    assert row["place"], row["issue"]
    assert not row["harmed"], row
    assert row["learns"] or fault.name in INCURABLE, row


@pytest.mark.parametrize("name", some(HEALTHY, 14))
def test_healthy_network_gets_no_alarm(name, benchmark):
    broken, script = benchmark
    assert script.diagnosis_of(broken.healthy(name)).issues == ()


def test_committed_results_cover_the_networks_and_meet_the_targets(benchmark):
    broken, _ = benchmark
    assert [(fault.of, fault.name) for fault in broken.FAULTS] == FAULTS
    assert [*broken.NETWORKS, *broken.VARIANTS] == HEALTHY
    faulty = [row for row in RESULTS if row["fault"]]
    curable = [row for row in faulty if row["fault"] not in INCURABLE]
    assert len(curable) >= 30
    assert sum(row["place"] for row in faulty) >= 0.95 * len(faulty)
    assert sum(row["learns"] for row in curable) >= 0.9 * len(curable)
    assert not [row for row in faulty if row["harmed"]]
    assert not [row for row in RESULTS if not row["fault"] and row["issue"]]


def test_readme_has_the_numbers_of_the_results():
    faulty = [row for row in RESULTS if row["fault"]]
    learns = [row["learns"] for row in faulty if row["fault"] not in INCURABLE]
    text = " ".join((ROOT / "README.md").read_text().split())
    assert len(faulty) - len(learns) == 2
    assert (
        f"list of {len(faulty)} deliberately broken networks, its first or second issue names the "
        f"layer in {sum(row['place'] for row in faulty)}. Two of the {len(faulty)} cannot be "
        f"repaired by a change of the network. Of the other {len(learns)}, {sum(learns)} learn "
        "with its fix."
    ) in text
