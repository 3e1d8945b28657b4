"""The numbers that the command prints, writes and draws, against NumPy and the saved parameters."""

import contextlib
import io
import json
import re

import jax
import numpy as np
import pytest
from cli_helpers import arrays

from spikegrad import data
from spikegrad.cli import figure, main, tables, trainer

OPTIONS = {
    "epochs": 3,
    "batch": 16,
    "hidden": (4, 3),
    "steps": 3,
    "lr": 0.2,
    "taus": -1 / np.log(0.8),
    "seed": 3,
}
ARGS = [
    text
    for name, value in OPTIONS.items()
    for text in (f"--{name}", re.sub(r"[() ]", "", str(value)))
]  # hidden as 4,3


def forward(layers, x, steps=OPTIONS["steps"], decay=0.8, alpha=4.0):
    """The spiking network in float64: potentials of the readout, and spikes and slopes of each
    hidden layer.
    """
    layers = [
        {name: np.asarray(value, np.float64) for name, value in layer.items()} for layer in layers
    ]
    potentials = [np.zeros((len(x), len(layer["bias"]))) for layer in layers]
    readout, spikes, slopes = [], [[] for _ in layers[:-1]], [[] for _ in layers[:-1]]
    for _ in range(steps):
        out = np.asarray(x, np.float64)
        for k, layer in enumerate(layers):
            potentials[k] = decay * potentials[k] + out @ layer["weight"] + layer["bias"]
            if k < len(layers) - 1:
                share = 1 / (1 + np.exp(-alpha * (potentials[k] - 1)))
                slopes[k].append(alpha * share * (1 - share))
                out = (potentials[k] >= 1).astype(float)
                potentials[k] = potentials[k] - out
                spikes[k].append(out)
        readout.append(potentials[-1])
    return np.array(readout), [np.array(layer) for layer in spikes], slopes


def relu_forward(layers, x):
    y, active = np.asarray(x, np.float64), []
    for k, layer in enumerate(layers):
        y = y @ np.asarray(layer["weight"], np.float64) + np.asarray(layer["bias"], np.float64)
        if k < len(layers) - 1:
            active.append((y > 0)[None].astype(float))
            y = np.maximum(y, 0)
    return y[None], active


RUN = {"spiking": forward, "ReLU": relu_forward}


def cross_entropy(logits, y):
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y]).mean())


def scores(name, layers, x, y):
    """Loss, accuracy, firing rates and silent shares."""
    readout, spikes, *_ = RUN[name](layers, x)
    logits = readout.mean(0)
    rates = [float(layer.mean()) for layer in spikes]
    silent = [float((layer.sum((0, 1)) == 0).mean()) for layer in spikes]
    return cross_entropy(logits, y), float((logits.argmax(1) == y).mean()), rates, silent


class Run:
    """A run of the command in one process, with the parameters before each update."""

    def __init__(self, folder, source, monkeypatch):
        self.folder, self.before, self.figures = folder, {"spiking": [], "ReLU": []}, []
        fit, draw = trainer.fit, figure.run_figure
        update = trainer.training.fit

        def plain(layers):
            """In the dtype of the layers."""
            return [
                {name: np.asarray(getattr(layer, name)) for name in ("weight", "bias")}
                for layer in layers
            ]

        def noting(network, params, **settings):
            def spy(loss, state, batches, *, callbacks, **options):
                self.before[network.name].append(plain(state.trainable))

                def note(now):
                    self.before[network.name].append(plain(now.state.trainable))

                return update(loss, state, batches, callbacks=[*callbacks, note], **options)

            monkeypatch.setattr(trainer.training, "fit", spy)
            return fit(network, params, **settings)

        def drawing(*args):
            self.figures.append(draw(*args))
            return self.figures[-1]

        monkeypatch.setattr(trainer, "_WORK", 1.0)  # one update in each call
        monkeypatch.setattr(trainer, "fit", noting)
        monkeypatch.setattr(figure, "run_figure", drawing)
        self.out = captured(["train", "--data", str(source), *ARGS, "--quiet", "-o", str(folder)])
        monkeypatch.undo()
        self.record = json.loads((folder / "run.json").read_text())
        self.lines = [
            json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        self.data = data.load(str(source), OPTIONS["seed"])
        self.x, self.x_test = of_unit_range(self.data)
        with np.load(folder / "parameters.npz") as saved:
            self.layers = [
                {"weight": saved[f"weight_{i}"], "bias": saved[f"bias_{i}"]} for i in range(3)
            ]


def of_unit_range(split):
    """Training and test examples from 0 to 1."""
    train, test = split.train.x[:, 0], split.test.x[:, 0]
    low, high = train.min(), train.max()
    return ((part - low) / (high - low) for part in (train, test))


def captured(args, code=0):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(args) == code
    return out.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Examples whose labels are partly drawn, so that training and held-out accuracy differ."""
    rng = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("data") / "few.npz"
    y = np.arange(90) % 3
    x = (
        rng.uniform(size=(90, 5))
        + 2 * np.eye(3, 5)[np.where(rng.uniform(size=90) < 0.3, rng.integers(0, 3, 90), y)]
    )
    np.savez(path, x_train=x.astype(np.float32), y_train=y)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, source):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Run(tmp_path_factory.mktemp("run") / "few", source, monkeypatch)


def cells(text, first):
    """The cells of the table row with this first cell."""
    rows = [re.split(" {2,}", line.strip()) for line in text.splitlines()]
    (row,) = [row[1:] for row in rows if row[0] == first]
    return row


def with_interval(share, n):
    from scipy import stats  # noqa: PLC0415 (half a second, which each worker would pay)

    low, high = stats.binomtest(round(share * n), n).proportion_ci(method="wilson")
    return f"{share:.1%} ({100 * low:.1f}-{100 * high:.1f})"


@pytest.mark.parametrize(("right", "n"), [(0, 36), (36, 36), (35, 36), (500, 1000), (1, 1)])
def test_accuracy_has_an_interval_even_if_all_or_none_are_right(right, n):
    assert tables.accuracy(right / n, n) == with_interval(right / n, n)


@pytest.mark.slow
def test_saved_parameters_are_those_after_the_last_update(run):
    assert len(run.before["spiking"]) == 3 * (72 // 16) + 1
    for layer, last in zip(run.layers, run.before["spiking"][-1], strict=True):
        assert all(np.array_equal(layer[name], last[name]) for name in ("weight", "bias"))


def gradients(layers, x, y, steps=OPTIONS["steps"], decay=0.8):
    """Backpropagation through time in float64, with the derivative of a sigmoid for that of the
    spikes.
    """
    readout, spikes, slopes = forward(layers, x, steps, decay)
    inputs = [np.broadcast_to(x, (steps, *x.shape)), *spikes]
    logits = readout.mean(0)
    share = np.exp(logits - logits.max(1, keepdims=True))
    error = (share / share.sum(1, keepdims=True) - np.eye(share.shape[1])[y]) / len(y) / steps
    layers = [
        {name: np.asarray(value, np.float64) for name, value in layer.items()} for layer in layers
    ]
    found = [{name: np.zeros_like(value) for name, value in layer.items()} for layer in layers]
    later = [
        np.zeros((len(x), len(layer["bias"]))) for layer in layers
    ]  # in each potential after its reset
    for t in reversed(range(steps)):
        through = error + later[-1]
        for k in reversed(range(len(layers))):
            if k < len(layers) - 1:  # a spike reaches the next layer and lowers the potential
                through = later[k] + slopes[k][t] * (through @ layers[k + 1]["weight"].T - later[k])
            found[k]["weight"] += inputs[k][t].T @ through
            found[k]["bias"] += through.sum(0)
            later[k] = decay * through
    return found


def test_updates_are_adam_on_the_numpy_gradient(run):
    size, per_epoch = OPTIONS["batch"], 72 // 16
    layers = run.before["spiking"]
    mean = square = jax.tree.map(np.zeros_like, layers[0])
    for i in range(3 * per_epoch):
        epoch, batch = divmod(i, per_epoch)
        order = np.random.default_rng((OPTIONS["seed"], epoch)).permutation(72)
        rows = order[batch * size : (batch + 1) * size]
        gradient = gradients(layers[i], run.x[rows], run.data.train.y[rows])
        mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mean, gradient)
        square = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g**2, square, gradient)
        lr = OPTIONS["lr"] * (1 + np.cos(np.pi * i / (3 * per_epoch))) / 2
        unbiased, spread = 1 - 0.9 ** (i + 1), 1 - 0.999 ** (i + 1)
        for old, new, m, s in zip(
            *map(jax.tree.leaves, (layers[i], layers[i + 1], mean, square)), strict=True
        ):
            np.testing.assert_allclose(
                new - old, -lr * m / unbiased / (np.sqrt(s / spread) + 1e-8), rtol=1e-3, atol=1e-5
            )
    assert all(layer["weight"].any() for layer in gradient)


@pytest.mark.parametrize("name", RUN)
def test_metrics_are_those_of_each_batch_before_its_update(run, name):
    lines = [line for line in run.lines if line["network"] == name]
    size, per_epoch = OPTIONS["batch"], 72 // 16
    assert [line["step"] for line in lines] == list(range(1, 3 * per_epoch + 1))
    for line, layers in zip(lines, run.before[name], strict=False):
        epoch, batch = divmod(line["step"] - 1, per_epoch)
        order = np.random.default_rng((OPTIONS["seed"], epoch)).permutation(72)
        rows = order[batch * size : (batch + 1) * size]
        loss, accuracy, rates, _ = scores(name, layers, run.x[rows], run.data.train.y[rows])
        assert line["epoch"] == epoch + 1
        assert line["loss"] == pytest.approx(loss, rel=1e-4)
        assert line["accuracy"] == pytest.approx(accuracy)
        assert line["rates"] == pytest.approx(rates)
        share = (line["step"] - 1) / (3 * per_epoch)
        assert line["learning_rate"] == pytest.approx(
            OPTIONS["lr"] * (1 + np.cos(np.pi * share)) / 2, rel=1e-5
        )
        assert ("epoch_ended" in line) == ("test" in line) == (batch == per_epoch - 1)


@pytest.mark.parametrize("name", RUN)
def test_results_are_recomputed_from_parameters(run, name):
    found, lines = (
        run.record["results"][name],
        [line for line in run.lines if line["network"] == name],
    )
    per_epoch = 72 // 16
    for epoch in range(3):
        mine = lines[epoch * per_epoch : (epoch + 1) * per_epoch]
        for curve in ("loss", "accuracy", "rates"):
            expected = np.mean([line[curve] for line in mine], 0)
            np.testing.assert_allclose(found["curves"][curve][epoch], expected, rtol=1e-5)
        layers = run.before[name][(epoch + 1) * per_epoch]
        test = scores(name, layers, run.x_test, run.data.test.y)[1]
        assert found["curves"]["test"][epoch] == test == mine[-1]["test"]
    _, accuracy, rates, silent = scores(name, run.before[name][-1], run.x_test, run.data.test.y)
    assert found["test"] == accuracy
    assert found["rates"] == pytest.approx(rates)
    assert found["silent"] == pytest.approx(silent)
    assert (found["accuracy"], found["loss"]) == (
        found["curves"]["accuracy"][-1],
        found["curves"]["loss"][-1],
    )
    assert abs(found["accuracy"] - accuracy) > 0.001  # or a table could mix them up
    assert (run.record["finished"], run.record["interrupted"], found["epochs"]) == (True, False, 3)


def test_printed_tables_have_the_results(run):
    for name in RUN:
        test = scores(name, run.before[name][-1], run.x_test, run.data.test.y)[1]
        training = np.mean([line["accuracy"] for line in run.lines if line["network"] == name][-4:])
        seconds = run.record["results"][name]["seconds"]
        parameters = sum(n * m + m for n, m in ((5, 4), (4, 3), (3, 3)))
        assert cells(run.out, name) == [
            with_interval(test, 18), f"{training:.1%}", "3", f"{seconds:.1f} s",
        ]  # fmt: skip
        assert f"{parameters} parameters" in re.sub(r"\s+", " ", run.out)
    _, _, rates, silent = scores("spiking", run.layers, run.x_test, run.data.test.y)
    for i, (rate, never) in enumerate(zip(rates, silent, strict=True)):
        assert cells(run.out, str(i + 1)) == [
            str(OPTIONS["hidden"][i]),
            f"{rate:.3f}",
            f"{never:.1%}",
        ]
    assert "72 training examples, 18 test examples" in re.sub(r"\s+", " ", run.out)


def test_figure_shows_the_results(run):
    (drawn,) = run.figures
    axes = {panel.get_title(): panel for panel in drawn.axes}
    for name in RUN:
        curves = run.record["results"][name]["curves"]
        for panel, label, values in (
            ("loss", name, curves["loss"]),
            ("accuracy", f"{name}, test", np.multiply(100, curves["test"])),
            ("accuracy", f"{name}, training", np.multiply(100, curves["accuracy"])),
        ):
            (line,) = [line for line in axes[panel].get_lines() if line.get_label() == label]
            assert line.get_xdata().tolist() == [1, 2, 3]
            np.testing.assert_allclose(line.get_ydata(), values)
    readout, spikes, _ = forward(run.layers, run.x_test[9:10])  # the example in the middle
    panels = {panel.get_title(loc="left"): panel for panel in drawn.axes}
    for k, (start, layer) in enumerate(zip(("layer 1", "layer 2"), spikes, strict=True)):
        (panel,) = [panel for title, panel in panels.items() if title.startswith(start)]
        found = sorted(tuple(ends.mean(0).round(6)) for ends in panel.collections[0].get_segments())
        assert found == sorted(zip(*np.nonzero(layer[:, 0]), strict=True)), k
    lines = panels[f"readout, test example 9 with label {run.data.test.y[9]}"].get_lines()
    np.testing.assert_allclose(
        [line.get_ydata() for line in lines], readout[:, 0].T, rtol=1e-4, atol=1e-5
    )
    assert (
        f"{scores('spiking', run.layers, run.x_test, run.data.test.y)[1]:.1%}"
        in drawn.get_suptitle()
    )


@pytest.mark.parametrize("named", [False, True])
def test_predict_scores_the_held_out_examples(run, source, tmp_path, named):
    out = captured(
        ["predict", str(run.folder), *([str(source)] * named), "-o", str(tmp_path / "p.npz")]
    )
    logits = forward(run.layers, run.x_test)[0].mean(0)
    with np.load(tmp_path / "p.npz") as predicted:
        np.testing.assert_allclose(predicted["logits"], logits, rtol=1e-4, atol=1e-4)
        assert np.array_equal(predicted["y_pred"], logits.argmax(1))
    y, answers = run.data.test.y, logits.argmax(1)
    for label in range(3):
        mine = answers[y == label]
        share, given = (
            with_interval((mine == label).mean(), len(mine)),
            int((answers == label).sum()),
        )
        assert cells(out, str(label)) == [f"{len(mine)}", share, f"{given}"]
    right = int((answers == y).sum())
    assert cells(out, "all") == ["18", with_interval(right / 18, 18), "18"]


@pytest.mark.slow
def test_predict_scales_integers_like_the_training_data(run, source, tmp_path):
    with np.load(source) as arrays:
        raw = arrays["x_train"]
    low, high = (run.record["data"][name] for name in ("low", "high"))
    assert (run.x.min(), run.x.max()) == (0, 1)
    restored = run.x * (high - low) + low
    assert all(np.isclose(raw, row, atol=1e-5).all(1).any() for row in restored)
    x = np.random.default_rng(5).integers(0, 4, (30, 5)).astype(np.uint8)
    np.savez(tmp_path / "mine.npz", x=x)
    out = captured(
        ["predict", str(run.folder), str(tmp_path / "mine.npz"), "-o", str(tmp_path / "p.npz")]
    )
    assert "answers" in out
    assert "accuracy" not in out
    with np.load(tmp_path / "p.npz") as predicted:
        logits = forward(run.layers, (x - low) / (high - low))[0].mean(0)
        np.testing.assert_allclose(predicted["logits"], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_sweep_chooses_by_validation_and_reports_the_held_out_examples(
    source, tmp_path, monkeypatch
):
    found, score = [], trainer.score

    def spy(network, params, source):
        found.append((arrays(params), source.padded()[:, 0]))
        return score(network, params, source)

    monkeypatch.setattr(trainer, "score", spy)
    folder = tmp_path / "sweep"
    args = [
        *ARGS[: ARGS.index("--lr")],
        *ARGS[ARGS.index("--lr") + 2 :],
        "--lr",
        "0.02,0.2",
        "--seeds",
        "2",
    ]
    out = captured(
        [
            "sweep",
            "--data",
            str(source),
            *args,
            "--surrogate",
            "sigmoid",
            "--jobs",
            "1",
            "--quiet",
            "-o",
            str(folder),
        ]
    )
    results = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert [(r["lr"], r["seed"]) for r in results] == [(0.02, 3), (0.2, 3), (0.02, 4), (0.2, 4)]
    loaded = data.load(str(source), OPTIONS["seed"])
    train, test = loaded.train.x[:, 0], loaded.test.x[:, 0]
    low, high = train.min(), train.max()
    for result, (layers, chosen_by), (again, told) in zip(
        results, found[::2], found[1::2], strict=True
    ):
        assert all(
            np.array_equal(a["weight"], b["weight"]) for a, b in zip(layers, again, strict=True)
        )
        assert np.array_equal(told, test)
        rows = [
            np.flatnonzero((train == x).all(1)).item() for x in chosen_by
        ]  # of the training examples
        x = (train[rows] - low) / (high - low)
        assert result["validation"] == scores("spiking", layers, x, loaded.train.y[rows])[1]
        _, accuracy, _, silent = scores(
            "spiking", layers, (test - low) / (high - low), loaded.test.y
        )
        assert result["test"] == accuracy
        assert result["silent"] == pytest.approx(silent)
        assert result["step"] == OPTIONS["epochs"] * ((72 - len(rows)) // OPTIONS["batch"])
    means = {
        lr: [np.mean([r[k] for r in results if r["lr"] == lr]) for k in ("validation", "test")]
        for lr in (0.02, 0.2)
    }
    spreads = {
        lr: [
            np.std([r[k] for r in results if r["lr"] == lr], ddof=1) for k in ("validation", "test")
        ]
        for lr in means
    }
    best = max(means, key=lambda lr: means[lr][0])
    record = json.loads((folder / "sweep.json").read_text())["results"]
    assert record["best"]["setting"]["lr"] == best
    for row in record["settings"]:
        lr = row["setting"]["lr"]
        for i, name in enumerate(("validation", "test")):
            assert row[name] == pytest.approx([means[lr][i], spreads[lr][i]])
    shown = [f"{100 * m:.1f} ± {s:.1%}" for m, s in zip(means[best], spreads[best], strict=True)]
    assert re.search(rf"^sigmoid +{best:g} +{re.escape(shown[0])} ", out, re.MULTILINE)
    guessed = means[best][0] < 3 ** (-2 / 3)
    line = (
        "no setting learned"
        if guessed
        else f"lr {best:g}, with {shown[1]} of the test set, runs: 2"
    )
    assert line in re.sub(r"\s+", " ", out)
