"""The benchmark of agreement between gradients: consistent results, and what its page says."""

import json

import numpy as np
import pytest
from conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "agreement.json"


@pytest.fixture(scope="module")
def published():
    return json.loads(RESULTS.read_text())["rows"]


def only(rows, **wanted):
    (row,) = (row for row in rows if all(row.get(key) == value for key, value in wanted.items()))
    return row


def test_what_is_published_is_consistent(published):
    """What must be equal is, and the estimates find the gradient that is known."""
    for row in published:
        if row["part"] == "surrogates":
            assert row["common"] > 0.9999
            if row["name"] == "spikingjelly.Sigmoid":
                assert set(row["cosine"]) == set(row["ratio"]) == {1}
        if row.get("name") == "fires above the threshold alone" and "same" in row["differs"]:
            assert set(row["cosine"]) == set(row["ratio"]) == {1}
        if row.get("differs") == "the gain, weights divided by it":
            assert min(row["cosine"]) > 0.9999
        if row.get("name") == "soft":
            assert 0.905 < min(row["cosine"]) <= max(row["cosine"]) < 1.085
            assert 0.895 < min(row["ratio"]) <= max(row["ratio"]) < 1.085


def test_what_the_page_says_of_conventions(published):
    of = [row for row in published if row["part"] == "surrogates"]
    three = [row for row in of if (row["depth"], row["steps"], row["detached"]) == (3, 100, False)][
        1:
    ]
    assert (sum(row["cosine"][0] >= 0.845 for row in three), len(three)) == (8, 13)
    assert min(row["ratio"][0] for row in three) == pytest.approx(4e-7, rel=0.1)
    assert max(row["ratio"][0] for row in three) == pytest.approx(8e3, rel=0.1)
    neurons = [row for row in published if row["part"] == "neurons" and row["steps"] == 100]
    for depth, ratio in ((1, 4.1), (3, 76), (6, 6000)):
        assert only(neurons, name="reset detached", depth=depth)["ratio"][0] == pytest.approx(
            ratio, rel=0.02
        )
    late = only(neurons, name="a step late", depth=3)
    assert [late["common"][2], late["cosine"][2]] == pytest.approx([0.34, 0.99], abs=0.006)


def test_what_the_page_says_of_true_gradients(published):
    of = [row for row in published if row["part"] == "smoothed" and "shape" in row]
    good = slice(2, 4)  # half-widths of 0.2 and 0.4
    for depth, low, high, off in (
        (1, 0.9, 1.005, 0.05),
        (3, 0.9, 1.005, 0.05),
        (6, 0.62, 0.855, 0.275),
    ):
        rows = [
            row
            for row in of
            if row["depth"] == depth
            and row["shape"] == "logistic"
            and row["normalised"] == "area 1"
        ]
        for row in rows:
            cosines, ratios = row["first_cosine"][good], row["first_ratio"][good]
            assert low <= min(cosines) <= max(cosines) <= high
            assert all(abs(r - 1) < off for r in ratios) or row["detached"]
            assert np.argmax(row["first_cosine"]) in (2, 3, 4)  # it falls on both sides
    widest = only(of, depth=3, noise=0.2, shape="logistic", normalised="area 1", detached=False)
    assert widest["first_cosine"][-1] == pytest.approx(0.61, abs=0.006)
    high = only(of, depth=3, noise=0.2, shape="logistic", normalised="height 1", detached=False)
    assert high["first_ratio"] == sorted(high["first_ratio"])
    drawn = [row for row in published if row["part"] == "drawn" and row["shape"] == "logistic"]
    for row in drawn:
        best = np.argmax(row["first_cosine"])
        assert best in ((1, 2) if row["noise"] < 0.2 else (3,)) or row["depth"] > 1
