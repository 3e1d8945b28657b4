"""What the command says of why a network does not learn."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import images
from conftest import few

pytest.importorskip("click")
pytest.importorskip("optax")


from spikegrad.cli import diagnosis, main, networks, tables, tasks
from spikegrad.data import Sequences

pytestmark = pytest.mark.ci

QUICK = ["--data", "digits", "--epochs", "1", "--hidden", "16,12", "--steps", "4", "--no-baseline"]


@pytest.mark.every
def test_train_reports_issues_of_a_run_that_does_not_learn(tmp_path, capsys):
    run, numbers, picture = (
        str(tmp_path / name) for name in ("run", "numbers.json", "picture.png")
    )
    assert main(["train", *QUICK, "--lr", "50", "--output", run]) == 0
    printed = capsys.readouterr()
    said = "at the start, overshoots: the first update is"
    assert f"no learning in epoch 1: {said}" in printed.err
    assert "multiply the learning rate" not in printed.out + printed.err
    assert f"warning: {said}" in printed.out
    assert f"For more checks, run spikegrad diagnose {run} --initial" in printed.out

    assert main(["diagnose", run, "--initial", "-o", numbers]) == 0
    printed = capsys.readouterr().out
    assert "weights at the start, 128 examples of digits" in printed
    assert "overshoots: " in printed
    found = json.loads((tmp_path / "numbers.json").read_text())
    assert [layer["neurons"] for layer in found["layers"].values()] == [16, 12, 10]
    assert found["outcome"]["learned"] < 0.5

    assert main(["diagnose", run, "-o", picture]) == 0
    assert "weights as trained, 128 examples of digits" in capsys.readouterr().out
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["diagnose", str(tmp_path)]) == 2
    assert "run.json" in capsys.readouterr().err


@pytest.mark.every
def test_too_little_training_is_no_fault(tmp_path, capsys):
    assert main(["train", *QUICK, "--lr", "6e-5", "--output", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr()
    assert "is close to guessing one of 10 classes" in printed.out
    assert f"warning: {diagnosis.SOUND}" in printed.out


@pytest.mark.slow
def test_fixes_are_those_of_the_command(monkeypatch):
    """A rate is the option to pass, and only values of a file, which the command does not
    standardize, can change.
    """
    rng = np.random.default_rng(0)
    y = np.arange(40) % 3
    table = rng.normal(size=(40, 1, 6)).astype(np.float32) * np.float32([1, 1, 1, 1, 1, 1e-5])
    counts = rng.poisson(300, (40, 7, 6)).astype(np.uint16)

    def issues(x, name="mine.npz", lr=0.002):
        encoding = "current" if x.shape[1] == 1 else "none"
        network = networks.SpikingNetwork(
            (6, 9, 3), networks.CELLS["lif"][0](0.8), 7, encoding, readout="last"
        )
        params = network.init(jax.random.key(3))
        found = diagnosis.examine(network, params, Sequences(name, x, y), lr).issues
        return {issue.kind: str(issue).partition("\n")[2].strip() for issue in found}

    assert (
        issues(table)["unscaled"]
        == "save each channel of the data with mean 0 and standard deviation 1"
    )
    assert issues(counts)["unscaled"] == issues(table)["unscaled"]
    assert "unscaled" not in issues(table, "digits")  # of a package
    assert "unscaled" not in issues(counts.astype(np.float32))  # standardized by the command
    fix = issues(table, lr=100.0)["overshoots"]
    option, rate = fix.rsplit(maxsplit=1)
    assert option == "use --lr"
    # An update of Adam is the rate, and the weights are about 1 / sqrt(inputs).
    assert 1e-4 < float(rate) < 0.1


@pytest.mark.parametrize(
    ("classes", "guessed", "learnt"), [(2, 0.6, 0.65), (10, 0.15, 0.25), (35, 0.08, 0.1)]
)
def test_accuracy_above_guessing_counts_as_learning(classes, guessed, learnt):
    assert guessed < tables.learnt(classes) < learnt


def beside(threshold):
    """The threshold and the next numbers on both sides of it."""
    return np.nextafter(threshold, 0), threshold, np.nextafter(threshold, 1)


def test_watch_reports_the_first_epoch_without_learning_once(capsys, monkeypatch):
    examined, least = [], tables.learnt(10)
    below, at, _ = beside(least)

    def examine(network, params, source, lr=None):
        examined.append(params)
        return SimpleNamespace(issues=[] if params == "start" else ["one reason", "another"])

    def watched(*course, quiet=False):
        """The printed lines after updates of (epoch, epoch_ended, accuracy)."""
        network = SimpleNamespace(task=tasks.Classes())
        monkeypatch.setattr(tables.NOTES, "quiet", quiet)
        watch = diagnosis.Watch(network, "start", SimpleNamespace(train=None, classes=10), 0.1)
        for epoch, ended, accuracy in course:
            state = SimpleNamespace(trainable=epoch)
            metrics = {"accuracy": np.float64(accuracy)}
            now = SimpleNamespace(
                epoch=epoch, epoch_ended=ended, epoch_metrics=metrics, state=state
            )
            assert watch(now) is None  # training goes on
        return capsys.readouterr().err.splitlines()

    monkeypatch.setattr(diagnosis, "examine", examine)
    course = [
        (1, False, 0.0),
        (1, True, at),
        (2, True, 1.0),
        (3, False, below),
        (3, True, below),
        (4, True, 0.0),
    ]
    reasons = [
        "diagnosing",
        *(f"no learning in epoch 3: {reason}" for reason in ("one reason", "another")),
    ]
    assert watched(*course) == reasons
    assert examined == ["start", 3]
    assert watched(*course[:3]) == watched(*course, quiet=True) == []
    assert examined == ["start", 3]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", few(["current", "rate", "latency", "none"], "none"))
def test_the_layers_are_those_that_are_trained(encoding):
    """Of every encoding the logits, and so the loss, are those of the network itself."""
    rng = np.random.default_rng(0)
    network = networks.SpikingNetwork(
        (6, 9, 3), networks.CELLS["lif"][0](0.8), 7, encoding, readout="last"
    )
    params = network.init(jax.random.key(3))
    x = rng.uniform(size=(5, 7, 6) if encoding == "none" else (5, 1, 6)).astype(np.float32)
    lengths = np.array([7, 2, 5, 1, 7]) if encoding == "none" else None
    labels = rng.integers(3, size=5)
    given = Sequences("some", x, labels, lengths=lengths, steps=x.shape[1])
    batch = given.as_batch()
    expected = jax.jit(lambda x: network(params, x, jax.random.key(0), batch.mask)[0])(
        jnp.asarray(batch.x)
    )
    found = diagnosis.examine(network, params, given, 0.1)
    np.testing.assert_allclose(found.loss, tasks.cross_entropy(expected, labels).mean(), rtol=1e-5)


def test_a_run_does_not_wait_for_trainings_of_the_diagnosis(monkeypatch):
    network = networks.SpikingNetwork(
        (6, 9, 3), networks.CELLS["lif"][0](0.8), 7, "current", readout="last"
    )
    params = network.init(jax.random.key(3))
    given = images(
        np.random.default_rng(0).uniform(size=(5, 6)).astype(np.float32), np.arange(5) % 3
    )
    told = []

    def diagnose(*args, optimizer, train, **options):
        told.append((optimizer is not None, train))
        return dataclasses.make_dataclass("Diagnosis", ["issues"])([])

    monkeypatch.setattr(diagnosis, "diagnose", diagnose)
    split = SimpleNamespace(train=given)
    assert diagnosis.Watch(network, params, split, 0.1).issues(params) == []
    assert told == [(True, False), (True, False)]
