"""The command on recordings over time: what it reads, masks, cells and readouts, and runs."""

import dataclasses
import functools
import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_helpers import arrays, options
from recording_files import EVENT, SHD, packet, write_aedat, write_nmnist, write_shd, write_ts

from spikegrad.cli import main, runs, sources, trainer
from spikegrad.cli.networks import CELLS, READOUTS, Rectified
from spikegrad.data import Binning, DataError, Sequences, _sequences, randman

pytestmark = pytest.mark.ci

RNG = np.random.default_rng(0)
LENGTHS = np.array([9, 1, 4, 9, 7, 2, 8, 5])
CLASSES = 3


def network_of(shape, **changes):
    """The network of some options for examples of this shape."""
    return options(**changes).network(
        SimpleNamespace(shape=shape, outputs=CLASSES, low=0.0, high=1.0)
    )


def of_run(source, seed=0):
    """The options of a run on this data."""
    return options(data=source, seed=seed, steps=100)


def mask_of(lengths, steps):
    return np.arange(steps)[:, None] < lengths


def batch_of(x, y):
    return x.swapaxes(0, 1), y, mask_of(LENGTHS, x.shape[1])


def with_lengths(x, lengths, y=None):
    return Sequences(
        "some", x, np.zeros(len(x), int) if y is None else y, lengths=lengths, steps=x.shape[1]
    )


def simulate(params, x, cell, taus):
    """One recording, step by step in float64: the readout's potentials."""
    hidden, out = arrays(params)
    membrane, *second, readout = (math.exp(-1 / tau) for tau in taus)
    v = other = s = np.zeros(len(hidden["bias"]))
    potential, potentials = 0.0, []
    for values in x:
        current = values @ hidden["weight"] + hidden["bias"] + s @ hidden["recurrent"]
        if cell == "synaptic":
            other = current = second[0] * other + current
        u = membrane * v + current
        threshold = 1 + other if cell == "adaptive" else 1
        s = (u >= threshold).astype(float)
        v = u - threshold * s
        if cell == "adaptive":
            other = second[0] * other + 0.2 * s
        potential = readout * potential + s @ out["weight"] + out["bias"]
        potentials.append(potential)
    return np.array(potentials)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "taus"),
    [("lif", (5.0, 8.0)), ("synaptic", (5.0, 3.0, 8.0)), ("adaptive", (5.0, 20.0, 8.0))],
)
def test_each_cell_and_readout_is_the_textbook_one_and_padding_has_no_effect(cell, taus):
    network = network_of((2, 2), cell=cell, taus=taus, recurrent=True)
    drawn = jax.tree.map(lambda leaf: 1.5 * leaf, network.init(jax.random.key(1)))
    params = tuple(dataclasses.replace(layer, bias=0.2 + layer.bias) for layer in drawn)
    x = RNG.normal(size=(8, 12, 2, 2)).astype(np.float32)
    x[np.arange(12) >= LENGTHS[:, None]] = 1e3  # no zeros, which might have no effect anyway

    @jax.jit
    def each(params, x, mask):
        return [
            dataclasses.replace(network, readout=readout)(params, x, jax.random.key(0), mask)[0]
            for readout in READOUTS
        ]

    found = dict(zip(READOUTS, each(params, x.swapaxes(0, 1), mask_of(LENGTHS, 12)), strict=True))
    courses = [
        simulate(params, one[:n].reshape(n, 4), cell, taus)
        for one, n in zip(x, LENGTHS, strict=True)
    ]
    for readout, of in (
        ("mean", lambda c: c.mean(0)),
        ("max", lambda c: c.max(0)),
        ("last", lambda c: c[-1]),
    ):
        np.testing.assert_allclose(
            found[readout], [of(course) for course in courses], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(("cell", "leaks"), [(cell, names) for cell, (_, names) in CELLS.items()])
def test_time_constants_become_leaks_in_their_order(cell, leaks):
    for given in ((), (5.0, 3.0)[: len(leaks)], (*(5.0, 3.0)[: len(leaks)], 8.0)):
        network = network_of((4,), cell=cell, taus=given, hidden=(6, 5))
        decays = [math.exp(-1 / tau) for tau in given] or [0.9]
        found = [getattr(network.cell, name) for name in leaks]
        assert found[: len(decays)] == pytest.approx(decays[: len(leaks)])
        assert network.readout_decay == pytest.approx(
            decays[-1] if len(given) > len(leaks) else decays[0]
        )


@pytest.mark.slow
def test_padding_changes_neither_loss_nor_gradient_nor_rates():
    network = network_of((4,), recurrent=True)
    params = network.init(jax.random.key(1))
    x, y = RNG.normal(size=(8, 9, 4)).astype(np.float32), np.arange(8) % CLASSES
    loss = jax.value_and_grad(trainer.loss_of(network, options()), has_aux=True)
    longer = np.concatenate([x, np.full((8, 6, 4), 7, np.float32)], 1)
    (value, metrics), gradient = jax.jit(loss)(params, batch_of(x, y), jax.random.key(0))
    (padded, same), other = jax.jit(loss)(params, batch_of(longer, y), jax.random.key(0))
    np.testing.assert_allclose(padded, value, rtol=1e-5)
    np.testing.assert_allclose(same["rates"], metrics["rates"], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    few, many = (
        trainer.score(network, params, with_lengths(part, LENGTHS)) for part in (x, longer)
    )
    np.testing.assert_allclose(many.predictions, few.predictions, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(few.rates, metrics["rates"], rtol=1e-5)
    np.testing.assert_allclose(many.rates, few.rates, rtol=1e-5)


def test_baseline_has_equal_weights_and_decays():
    network = network_of(
        (4,), cell="synaptic", taus=(5.0, 3.0, 8.0), recurrent=True, readout="last"
    )
    other = network.without_spikes()
    assert isinstance(other.cell, Rectified)
    assert other.cell.decay == network.cell.decay == math.exp(-1 / 5)
    assert (other.readout, other.readout_decay) == ("last", pytest.approx(math.exp(-1 / 8)))
    assert other.count == network.count == 4 * 6 + 6 + 6 * 6 + 6 * 3 + 3
    # on positive inputs and weights nothing is cut off: a cascade of leaky integrators with a gain
    # of 1 - decay
    params = jax.tree.map(lambda w: jnp.full_like(w, 0.1), other.init(jax.random.key(0)))
    _, active, course = other(params, jnp.ones((3, 1, 4)), jax.random.key(0))
    a, b, v, r, expected = math.exp(-1 / 5), math.exp(-1 / 8), 0.0, 0.0, []
    for _ in range(3):
        v = a * v + (1 - a) * (0.5 + 0.6 * v)
        r = b * r + 0.6 * v + 0.1
        expected.append(r)
    np.testing.assert_allclose(course[:, 0, 0], expected, rtol=1e-5)
    assert active[0].min() > 0


def test_heidelberg(tmp_path, capsys):
    write_shd(tmp_path / "shd_train.h5")
    binning = Binning(60, 28_000, pool=7)
    alone = sources.load(f"shd:{tmp_path / 'shd_train.h5'}", 3, binning)
    assert alone.test_from == "all of two speakers, drawn with seed 3"
    assert len(alone.train) + len(alone.test) == 6
    assert (alone.train.steps, alone.shape, alone.classes) == (60, (100,), 3)
    assert alone.train.x.dtype == np.uint16
    assert (alone.train.masked, alone.mean) == (False, ())
    assert not capsys.readouterr().err
    sources.load(f"shd:{tmp_path / 'shd_train.h5'}", 3, Binning(10, 14_000))
    doubt = (
        "are outside of the 0.14 s of all steps: a longer --bin or more --steps take later ones in"
    )
    assert doubt in capsys.readouterr().err
    write_shd(tmp_path / "few.h5", **{"extra/speaker": [1, 2] * 3})
    with pytest.raises(DataError, match=r"few\.h5: indices must select at least one example"):
        sources.load(f"shd:{tmp_path / 'few.h5'}", 3, binning)
    write_shd(tmp_path / "shd_test.h5", labels=[1] * 6)
    both = sources.load(f"shd:{tmp_path}", 3, binning)
    assert (both.test_from, both.test.y.tolist(), both.train.y.tolist()) == (
        "the test set",
        [1] * 6,
        SHD["labels"],
    )
    assert not capsys.readouterr().err
    write_shd(tmp_path / "ssc_train.h5", **{"extra/speaker": None}, labels=[0, 1] * 3)
    ssc = sources.load(f"ssc:{tmp_path / 'ssc_train.h5'}", 0, binning)
    assert ssc.test_from == "a fifth of each class, drawn with seed 0"
    with pytest.raises(DataError, match=r"ssc_test\.h5: no such file"):
        sources.load(f"ssc:{tmp_path}", 0, binning)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"ssc_train\.h5 in this folder"):
        sources.load(f"ssc:{tmp_path / 'empty'}", 0, binning)


def test_cameras(tmp_path):
    event, binning = bytes([3, 4, 0x80, 0, 1]), Binning(4, 1000, pool=2)
    many = [(digit, name, event) for digit in (0, 1) for name in range(5)]
    write_nmnist(tmp_path / "n" / "Train", many)
    alone = sources.load(f"nmnist:{tmp_path / 'n' / 'Train'}", 0, binning)
    assert (len(alone.train), len(alone.test)) == (8, 2)
    write_nmnist(tmp_path / "n" / "Test", many[:3])
    both = sources.load(f"nmnist:{tmp_path / 'n'}", 0, binning)
    assert (both.train.x.shape, len(both.test)) == ((10, 4, 17, 17, 2), 3)
    assert both.train.x[0, 0, 2, 1].tolist() == [0, 1]
    for part in ("train", "test"):
        (tmp_path / f"trials_to_{part}.txt").write_text(f"{part}.aedat")
        write_aedat(tmp_path / f"{part}.aedat", [packet([EVENT])], [(1, 0, 50), (2, 0, 60)])
    gestures = sources.load(f"dvs128:{tmp_path}", 0, binning)
    assert (gestures.train.x.shape, gestures.classes) == ((2, 4, 64, 64, 2), 11)


def test_sequences(tmp_path, monkeypatch):
    folder = tmp_path / "Tiny"
    folder.mkdir()
    write_ts(folder / "Tiny_TRAIN.ts")
    write_ts(folder / "Tiny_TEST.ts", ("7:8:up", "70,90,-80,11:8,300,20,-10:up"))
    for given in (folder, folder / "Tiny_TRAIN.ts"):
        data = sources.load(f"ts:{given}", 0, Binning())
        assert (data.train.x.shape, data.test.x.shape) == ((2, 3, 2), (2, 4, 2))
        assert (data.train.lengths.tolist(), data.test.lengths.tolist()) == ([3, 1], [3, 4])
        for trained_on in (f"ts:{given}", "another.npz"):  # only the test set is scored
            scored, _ = sources.load_to_score(f"ts:{given}", of_run(trained_on), data)
            assert all(map(np.array_equal, scored.as_batch(), data.test.as_batch()))
    steps = np.array([[1.5, 4], [2, 5], [-0.3, 6], [7, 8]])  # over all steps that there are
    np.testing.assert_allclose(data.mean, steps.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.std, steps.std(0), rtol=1e-6)
    np.testing.assert_allclose(
        data.train.x[1, 0], (steps[3] - steps.mean(0)) / steps.std(0), rtol=1e-5
    )
    tested = np.array([[70, 8], [90, 300], [-80, 20], [11, -10]])
    np.testing.assert_allclose(data.test.x[1], (tested - steps.mean(0)) / steps.std(0), rtol=1e-5)
    assert not data.train.x[1, 1:].any()
    monkeypatch.setattr("spikegrad.data._randman.randman", functools.partial(randman, samples=10))
    made = sources.load("randman", 1, Binning(40))
    assert (made.train.x.shape, made.train.x.dtype, made.test_from[:7]) == (
        (90, 40, 20),
        bool,
        "a tenth",
    )


@pytest.mark.slow
def test_generated_tasks_have_the_published_or_an_independent_test_set():
    points = sources.load("yin_yang", 7, Binning(60))
    assert (len(points.train), len(points.test), points.train.classes) == (5000, 1000, 3)
    assert points.train.y[:2].tolist() == [2, 1]  # whatever the seed
    assert sources.load("cue_accumulation", 3, Binning(1)).test.shape == (40,)


NUMBERED = np.arange(1.0, 41)
"""The first value of each recording of :func:`write_numbered`, by which a test finds it again."""


def write_numbered(path, first=NUMBERED, shift=0.0, **more):
    """Write recordings of two channels whose deviation grows with their number, with a mean of
    ``shift``.
    """
    rng, n = np.random.default_rng(2), len(first)
    lengths = rng.integers(2, 7, n)
    x = first[:, None, None] * rng.normal(size=(n, 6, 2)) + shift
    x[:, 0, 0] = first
    np.savez(path, x=x, y=np.arange(n) % 2, lengths=lengths, **more)
    return str(path), x, lengths


def numbers(x, data):
    """The numbers of standardized recordings."""
    return np.rint(np.asarray(x)[:, 0, 0] * data.std[0] + data.mean[0]).astype(int) - 1


def standardized(x, lengths, rows, by):
    """Some recordings in float64 by the statistics of the valid steps of others, with zeros as
    padding.
    """
    valid = np.arange(x.shape[1]) < lengths[:, None]
    steps = x[by][valid[by]]
    return np.where(valid[rows][..., None], (x[rows] - steps.mean(0)) / steps.std(0), 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_recordings_are_scaled_by_the_training_part(tmp_path, seed):
    path, x, lengths = write_numbered(tmp_path / "mine.npz")
    data = sources.load(path, seed, Binning())
    train, test = numbers(data.train.x, data), numbers(data.test.x, data)
    assert sorted([*train, *test]) == list(range(40))
    assert np.bincount(test % 2).tolist() == [4, 4]  # a fifth of each class
    for part, rows in ((data.train, train), (data.test, test)):
        np.testing.assert_allclose(
            part.padded(), standardized(x, lengths, rows, train), rtol=1e-4, atol=1e-5
        )
        assert np.array_equal(part.y, rows % 2)
        assert np.array_equal(part.lengths, lengths[rows])
    # from the data of the run, the held-out part is scored, also through a link
    (tmp_path / "link.npz").symlink_to(path)
    for source in (path, str(tmp_path / "link.npz")):
        found, labelled = sources.load_to_score(source, of_run(path, seed), data)
        assert labelled
        assert all(map(np.array_equal, found.as_batch(), data.test.as_batch()))
    # other recordings are all scored, on the scale of the training data
    other, more, steps = write_numbered(tmp_path / "other.npz", NUMBERED[:7], shift=30)
    scaled, _ = sources.load_to_score(other, of_run(path, seed), data)
    both, both_steps = np.concatenate([x, more]), np.concatenate([lengths, steps])
    np.testing.assert_allclose(
        scaled.padded(),
        standardized(both, both_steps, np.arange(40, 47), train),
        rtol=1e-4,
        atol=1e-5,
    )
    assert np.array_equal(scaled.y, np.arange(7) % 2)
    assert np.array_equal(scaled.lengths, steps)


def write_mine(path, **change):
    """40 sequences whose class is the channel that is greatest."""
    rng = np.random.default_rng(1)
    y = np.arange(40) % CLASSES
    x = rng.normal(size=(40, 9, 4)) + 2 * np.eye(4)[y][:, None]
    np.savez(path, **{"x": x, "y": y, "lengths": rng.integers(3, 10, 40), **change})
    return str(path)


@pytest.mark.slow
def test_data_larger_than_memory_is_read_by_batch(tmp_path, monkeypatch):
    path = write_mine(tmp_path / "mine.npz")
    whole = sources.load(path, 0, Binning())
    monkeypatch.setattr(_sequences, "LARGEST", whole.train.x.nbytes - 1)
    parts = sources.load(path, 0, Binning())
    assert not isinstance(parts.train.x, np.ndarray)
    assert isinstance(parts.test.x, np.ndarray)
    assert parts.train.padded().dtype == whole.train.x.dtype
    for rows in (np.arange(3, 9), np.array([7, 0, 7])):
        assert all(
            map(
                np.array_equal,
                parts.train.subset(rows).as_batch(),
                whole.train.subset(rows).as_batch(),
            )
        )
    assert sources.sha256(parts.train) == sources.sha256(whole.train)
    given = options(epochs=1, batch=8, input_noise=0.1)
    network = given.network(whole)
    start = network.init(jax.random.key(0))
    fits = [trainer.fit(network, start, data, given) for data in (whole, parts)]
    (first, _), (second, _) = fits
    assert np.array_equal(first[0].weight, second[0].weight)
    assert not np.array_equal(first[0].weight, start[0].weight)


OPTIONS = {
    "cell": "synaptic",
    "taus": "6,3,9",
    "readout": "max",
    "mode": "half",
    "input_noise": "0.1",
    "batch": "8",
    "hidden": "8",
    "epochs": "6",
    "lr": "0.1",
    "surrogate": "arctan",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    mine = write_mine(folder / "mine.npz")
    args = [
        text for name, value in OPTIONS.items() for text in (f"--{name.replace('_', '-')}", value)
    ]
    with jax.numpy_dtype_promotion("standard"):
        assert (
            main(
                [
                    "train",
                    "--data",
                    mine,
                    "--recurrent",
                    "--quiet",
                    *args,
                    "-o",
                    str(folder / "whole"),
                ]
            )
            == 0
        )
    return folder, mine


@pytest.mark.every
def test_a_run_is_recorded(trained):
    folder, mine = trained
    saved, record = (
        runs.read(folder / "whole"),
        json.loads((folder / "whole" / "run.json").read_text()),
    )
    assert saved.network == network_of(
        (4,),
        cell="synaptic",
        taus=(6.0, 3.0, 9.0),
        readout="max",
        mode="half",
        recurrent=True,
        hidden=(8,),
        surrogate="arctan",
    )
    assert (record["options"]["input_noise"], record["options"]["encoding"]) == (0.1, "none")
    assert saved.params[0].recurrent.shape == (8, 8)
    data = sources.load(mine, 0, Binning())
    assert (saved.data.mean, saved.data.std) == ([*data.mean], [*data.std])
    for result in record["results"].values():
        assert len(result["curves"]["loss"]) == 6
        assert result["curves"]["loss"][-1] < 0.7 * result["curves"]["loss"][0]


@pytest.mark.every
def test_recordings_are_scored(trained, tmp_path, capsys):
    folder, mine = trained
    run, out = str(folder / "whole"), str(tmp_path / "p.npz")
    assert main(["predict", run, "-o", out]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    record = json.loads((folder / "whole" / "run.json").read_text())
    data = sources.load(mine, 0, Binning())
    with np.load(out) as test:
        assert (test["y_pred"] == data.test.y).mean() == record["results"]["spiking"]["test"]
    # a file of its own is scored as a whole, on the scale of the training data, however far it is
    # filled up
    with np.load(mine) as arrays:
        x, lengths = (arrays[key][:7] for key in ("x", "lengths"))
    np.savez(tmp_path / "seven.npz", x=np.pad(x, [(0, 0), (0, 5), (0, 0)]), lengths=lengths)
    arguments = ["predict", run, str(tmp_path / "seven.npz"), "-o"]
    assert main([*arguments, out]) == 2
    assert "exists. Choose a new file" in capsys.readouterr().err
    out = str(tmp_path / "q.npz")
    assert main([*arguments, out]) == 0
    assert "accuracy" not in capsys.readouterr().out
    saved = runs.read(folder / "whole")
    scaled = ((x - saved.data.mean) / saved.data.std).astype(np.float32)
    mask = mask_of(lengths, x.shape[1])
    expected = saved.network(saved.params, scaled.swapaxes(0, 1), jax.random.key(0), mask)[0]
    with np.load(out) as scores:
        np.testing.assert_allclose(scores["logits"], expected, rtol=1e-4, atol=1e-4)
    write_mine(tmp_path / "wide.npz", x=np.ones((40, 9, 5)))
    write_mine(tmp_path / "more.npz", y=np.arange(40) % 5)
    for given, message in (
        ("digits", "channels of shape (4,) and 3 outputs, got (8, 8) and 10 outputs"),
        (
            str(tmp_path / "wide.npz"),
            "channels of shape (4,) and 3 outputs, got (5,) and 3 outputs",
        ),
        (
            str(tmp_path / "more.npz"),
            "channels of shape (4,) and 3 outputs, got (4,) and 5 outputs",
        ),
        ("ts:none.ts", "none.ts: no such file"),
    ):
        assert main(["predict", run, given]) == 2
        assert message in capsys.readouterr().err
    assert main(["diagnose", run, str(tmp_path / "seven.npz")]) == 2
    assert "seven.npz must have labels, because the loss needs them" in capsys.readouterr().err
    assert main(["train", "--data", str(tmp_path / "seven.npz")]) == 2
    assert "seven.npz: y must hold at least two classes" in capsys.readouterr().err
