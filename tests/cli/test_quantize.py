"""The command ``quantize``: files of the integers of a run, and what it refuses."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from spikegrad.cli import figure, quantizing
from spikegrad.cli.commands import command
from spikegrad.integers import load

pytestmark = pytest.mark.slow


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_quantize(tmp_path, monkeypatch):
    monkeypatch.setattr(figure, "run_figure", lambda *_: Figure())  # which takes a second
    folder = tmp_path / "run"
    small = (
        "--data digits --hidden 8 --steps 4 --epochs 1 --encoding rate --reset value "
        "--no-baseline --quiet"
    )
    result = run("train", *small.split(), "--target", "loihi", "--bits", 6, "-o", folder)
    assert result.exit_code == 0, result.output
    assert "in real numbers" in result.output
    assert "trained on for 1 epochs" in result.output
    result = run("quantize", folder, "--target", "fixed", "--bits", 4, "--quiet")
    assert result.exit_code == 0, result.output
    assert "trained on" not in result.output
    assert "largest input" in result.output  # of the report on the program in C
    assert load(folder / "fixed-4" / "network.json").layers[0].weight.high == 7
    network = load(folder / "loihi-6" / "network.json")
    weights = network.layers[0].weight
    assert weights.integers.shape == (64, 8)
    assert (weights.integers % 8 == 0).all()  # the steps of 6 bits
    assert (folder / "loihi-6" / "network.c").exists()
    with np.load(folder / "parameters.npz") as file:
        start = file["weight_0"]
    assert np.corrcoef(start.ravel(), weights.integers.ravel())[0, 1] > 0.9

    def interrupted(*_):
        raise KeyboardInterrupt

    def beyond(*_):
        raise OverflowError("replay: layer '1', step 3: use a smaller scale")

    # A run that ends early leaves no folder, which would refuse the next one.
    for name, change, words in (
        ("to_c", interrupted, ""),
        ("replay", beyond, "layer '1', step 3: use a smaller scale, or fewer --bits"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(quantizing, name, change)
            result = run("quantize", folder, "--target", "fixed", "--bits", 5, "--quiet")
            assert result.exit_code == 1
            assert words in str(result.exception)
            assert not (folder / "fixed-5").exists()

    def refused(target):
        return str(run("quantize", folder, "--target", target, "--bits", 6).exception)

    assert "exists. Choose a new output folder" in refused("loihi")
    record = json.loads((folder / "run.json").read_text())
    record["options"]["encoding"] = "current"
    (folder / "run.json").write_text(json.dumps(record))
    assert "--encoding rate or latency" in refused("fixed")
    # Before any training.
    result = run("train", *small.split()[:-4], "--target", "loihi", "-o", tmp_path / "other")
    assert "it needs reset='value'" in str(result.exception)
    assert not (tmp_path / "other" / "parameters.npz").exists()
    # A resumed run reads its target here.
    assert json.loads((tmp_path / "other" / "run.json").read_text())["target"] == "loihi"
