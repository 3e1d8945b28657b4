"""Checkpoints: the same bits as training that never stopped, files that are whole, and what does
not fit is said.
"""

import dataclasses
import errno
import json
import os
import random
import runpy
import signal
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import ROOT
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from spikegrad.training import (
    CheckpointError,
    Checkpoints,
    ShuffledBatches,
    State,
    _checkpoint,
    fit,
)

pytestmark = pytest.mark.ci

ROWS = ShuffledBatches(np.arange(20, dtype=np.float32), 4, seed=0)
OPTIMIZER = optax.chain(
    optax.add_noise(0.01, 0.5, 0), optax.adam(0.1)
)  # it keeps a key and moments


def start(key=None):
    params = {"layers": [(jnp.zeros(3), jnp.ones((), jnp.bfloat16))], "scale": jnp.ones((2, 2))}
    return State.create(params, OPTIMIZER, jax.random.key(0) if key is None else key)


def loss(params, batch, key):
    (weight, bias), scale = params["layers"][0], params["scale"]
    noisy = (
        batch[:, None] * weight[None] + bias.astype(jnp.float32) + jax.random.normal(key, (4, 3))
    )
    return ((noisy - 1) ** 2).mean() + (scale**2).sum(), {"mean": noisy.mean()}


def train(state, epochs=2, callbacks=()):
    return fit(
        loss,
        state,
        ROWS,
        optimizer=OPTIMIZER,
        epochs=epochs,
        updates_per_call=2,
        callbacks=callbacks,
    )


def same(first, second):
    def equal(a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        return a.dtype == b.dtype and np.array_equal(a, b)

    device = ("trainable", "optimizer_state", "key")
    return all(
        jax.tree.structure(getattr(first, part)) == jax.tree.structure(getattr(second, part))
        and jax.tree.all(jax.tree.map(equal, getattr(first, part), getattr(second, part)))
        for part in device
    )


@pytest.fixture(scope="module")
def whole():
    reports = []
    return train(start(), callbacks=[reports.append]), reports


@pytest.mark.slow
def test_a_state_comes_back_bit_for_bit(whole, tmp_path):
    final, reports = whole
    for report in (reports[2], reports[3]):  # at the end of an epoch, and within one
        checkpoints = Checkpoints(tmp_path, extra={"curve": [0.1, report.metrics["loss"]]})
        checkpoints.save(report.state)
        extra = {"curve": [0.3], "older": 1}
        read = Checkpoints(tmp_path, extra=extra)
        state = read.restore(start())
        assert same(state, report.state)
        for field in ("step", "epoch", "batches", "seconds", "sums"):
            assert getattr(state, field) == getattr(report.state, field)
        assert read.extra is extra
        assert extra == {"curve": [0.1, report.metrics["loss"]]}
        again = []
        rest = train(state, callbacks=[again.append])
        assert same(rest, final)
        assert again[-1].epoch_metrics == reports[-1].epoch_metrics
    assert Checkpoints(tmp_path / "none").restore(state) is state


def test_nothing_is_pickled_and_names_are_those_of_the_tree(whole, tmp_path):
    Checkpoints(tmp_path).save(whole[0])
    with np.load(tmp_path / "step-000000010.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert arrays["trainable/scale"].tolist() == whole[0].trainable["scale"].tolist()
    assert arrays["trainable/layers/0/1"].dtype == np.uint16  # bfloat16 as its bits
    assert json.loads(str(arrays["about"]))["progress"]["step"] == 10


@pytest.mark.slow
def test_when_and_how_many(tmp_path, monkeypatch):
    ticks = iter(range(10**6))
    clock = SimpleNamespace(
        monotonic=lambda: 30.0 * next(ticks)
    )  # half a minute passes at each look
    monkeypatch.setattr(_checkpoint, "time", clock)
    saved = []

    class Noted(Checkpoints):
        def save(self, state):
            saved.append(state.step)
            super().save(state)

    train(start(), callbacks=[Noted(tmp_path / "a")])
    assert saved == [5, 10]  # the ends of epochs; at the end nothing is saved twice
    saved.clear()
    train(start(), callbacks=[Noted(tmp_path / "b", minutes=1.0, keep=3)])
    assert saved == [4, 7, 10]
    assert [path.name for path in Checkpoints(tmp_path / "b").all()] == [
        f"step-{s:09}.npz" for s in saved
    ]
    saved.clear()
    train(start(), callbacks=[Noted(tmp_path / "c", minutes=0.0), lambda report: report.step == 7])
    assert saved == [2, 4, 5, 7]
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "step-000000005.npz",
        "step-000000007.npz",
    }


@pytest.mark.parametrize("keep", [0, -1, 1.5])
def test_a_folder_keeps_at_least_one_checkpoint(tmp_path, keep):
    with pytest.raises((TypeError, ValueError), match="Checkpoints: keep must be"):
        Checkpoints(tmp_path, keep=keep)


def test_the_state_of_a_loop_of_ones_own_comes_back(tmp_path):
    """Adam's moments and its counter, an integer, without ``fit``."""
    adam, parameters = optax.adam(0.1), {"w": jnp.ones(3)}
    with jax.numpy_dtype_promotion("standard"):
        moments = adam.update(parameters, adam.init(parameters))[1]
    step = State.create((parameters, moments), optax.identity(), jax.random.key(0))
    Checkpoints(tmp_path).save(step)
    at_rest = State.create((parameters, adam.init(parameters)), optax.identity(), jax.random.key(0))
    restored = Checkpoints(tmp_path).restore(at_rest)
    assert restored.trainable[1][0].count == 1
    assert same(restored, step)


def test_checkpoints_are_ordered_by_step(whole, tmp_path):
    """Names are padded to nine digits, and steps may have ten."""
    steps = [20, 999_999_998, 1_000_000_000, 2**32 - 2, 5]
    for step in steps:
        (tmp_path / f"step-{step:09}.npz").touch()
    for other in (
        ".step-000000030.npz.0123abcd.part",
        "step-000000040",
        "step-.npz",
        "best-000000050.npz",
    ):
        (tmp_path / other).touch()
    checkpoints = Checkpoints(tmp_path, keep=3)
    assert [path.name for path in checkpoints.all()] == [
        f"step-{step:09}.npz" for step in sorted(steps)
    ]
    checkpoints.save(dataclasses.replace(whole[0], step=2**32 - 1))
    kept = (1_000_000_000, 2**32 - 2, 2**32 - 1)
    assert [path.name for path in checkpoints.all()] == [f"step-{step}.npz" for step in kept]
    assert Checkpoints(tmp_path).restore(start()).step == 2**32 - 1


def test_a_full_disk_leaves_the_checkpoint_before(whole, tmp_path, monkeypatch):
    state, reports = whole
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(reports[0].state)
    (tmp_path / ".step-000000002.npz.0123abcd.part").write_bytes(b"what a kill left")

    def full(*arrays, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint.np, "savez", full)
        with pytest.raises(OSError, match=r"No space left on device"):
            checkpoints.save(state)
    assert same(Checkpoints(tmp_path).restore(start()), reports[0].state)
    checkpoints.save(state)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-000000002.npz",
        "step-000000010.npz",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda about: about["types"].pop("trainable/scale"),
            "must be float32 .*, got nothing. Resume with",
        ),
        (lambda about: about["types"].update(more="bool"), "more must be absent, got bool"),
        (
            lambda about: about["types"].update(key="key<rbg> of shape ()"),
            r"key must be key<fry> of .* got key<rbg>",
        ),
        (lambda about: about.update(format=1), "must be in format 3, got 1"),
    ],
)
def test_checkpoint_of_other_arrays_is_rejected(whole, tmp_path, change, message):
    Checkpoints(tmp_path).save(whole[0])
    path = tmp_path / "step-000000010.npz"
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"]))
    change(about)
    np.savez(path, **arrays | {"about": np.asarray(json.dumps(about))})
    with pytest.raises(CheckpointError, match=rf"step-000000010.npz:? .*{message}"):
        Checkpoints(tmp_path).restore(start())


@pytest.mark.parametrize("scale", [jnp.ones(4), jnp.ones((2, 2), jnp.bfloat16)])
def test_checkpoint_of_another_network_is_rejected(whole, tmp_path, scale):
    Checkpoints(tmp_path).save(whole[0])
    other = State.create(start().trainable | {"scale": scale}, OPTIMIZER, jax.random.key(0))
    message = rf"/scale must be {scale.dtype} of shape .*, got float32 of shape \(2, 2\)"
    with pytest.raises(CheckpointError, match=message):
        Checkpoints(tmp_path).restore(other)


def test_checkpoint_of_another_seed_need_not_be_removed(whole, tmp_path):
    """All checkpoints have this seed, and a training without them would begin again."""
    checkpoints = Checkpoints(tmp_path)
    for report in whole[1][-2:]:
        checkpoints.save(report.state)
    with pytest.raises(CheckpointError, match=r"with another seed$"):
        checkpoints.restore(start(jax.random.key(1)))


def test_damaged_checkpoint_names_the_one_before(whole, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for report in whole[1][-2:]:
        checkpoints.save(report.state)
    newest = checkpoints.all()[-1]
    content = newest.read_bytes()
    for damaged in (b"", content[:-100], b"not a file of NumPy"):
        newest.write_bytes(damaged)
        with pytest.raises(
            CheckpointError,
            match=rf"{newest.name} is not a .*. Remove it to resume from the previous",
        ):
            checkpoints.restore(start())
    newest.unlink()
    assert same(train(checkpoints.restore(start())), whole[0])


def two_devices():
    return jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])


def test_recipe_with_orbax_restores_sharded_arrays(tmp_path, monkeypatch):
    pytest.importorskip("orbax.checkpoint")
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(ROOT / "examples" / "orbax_checkpoints.py"))
    sgd = optax.sgd(0.1, momentum=0.9)

    def go_on(state, epochs, callbacks=()):
        def toward(params, batch, key):
            return ((params["w"] - batch) ** 2).mean(), {}

        return fit(toward, state, [0.0, 1.0], optimizer=sgd, epochs=epochs, callbacks=callbacks)

    cut = NamedSharding(two_devices(), PartitionSpec("data"))
    begin = State.create({"w": jax.device_put(jnp.arange(4.0), cut)}, sgd, jax.random.key(0))
    go_on(begin, 2, [names["save"]])
    state = names["restore"](begin)
    assert (state.step, state.epoch, state.trainable["w"].sharding) == (4, 2, cut)
    assert same(go_on(state, 3), go_on(begin, 3))


def test_raw_keys_and_sharded_arrays(tmp_path):
    sharding = NamedSharding(two_devices(), PartitionSpec(None, "data"))
    state = start(jax.random.PRNGKey(3))
    sharded = dataclasses.replace(
        state,
        trainable=state.trainable | {"scale": jax.device_put(state.trainable["scale"], sharding)},
    )
    Checkpoints(tmp_path).save(sharded)
    read = Checkpoints(tmp_path).restore(sharded)
    assert read.trainable["scale"].sharding == sharding
    assert same(read, sharded)


KILLS = 6
RUN = [
    "--data",
    "digits",
    "--hidden",
    "32,16",
    "--steps",
    "4",
    "--batch",
    "8",
    "--quiet",
    "--checkpoint",
    "0",
]


def command(*arguments):
    return [sys.executable, "-m", "spikegrad.cli", *map(str, arguments)]


def go_on_with(folder, arguments, *options):
    """The command that goes on with a run, or that starts it if no run was begun before a kill."""
    begun = (folder / "run.json").exists()
    return command(
        "train",
        *(["--resume", folder] if begun else [*arguments, "-o", folder]),
        "--quiet",
        *options,
    )


def killed_at_random(folder, arguments, moments, rng):
    """A run that is killed again and again, and gone on with, until it has ended. How often it was
    killed.

    The last kill may fall between the end of the run and that of its process: nothing is left to go
    on with then.
    """
    kills, begun = 0, folder / "run.json"
    while kills < moments and not (
        begun.exists() and json.loads(begun.read_text()).get("finished")
    ):
        call = go_on_with(folder, arguments, "--checkpoint", "0")
        process = subprocess.Popen(
            call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        wait = rng.uniform(0.5, 1.0) if kills % 4 == 3 else rng.uniform(2.0, 6.0)
        try:
            _, errors = process.communicate(timeout=wait)
            assert process.returncode == 0, errors
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
    return kills


def results(folder):
    with np.load(folder / "parameters.npz") as file:
        arrays = dict(file)
    record = json.loads((folder / "run.json").read_text())
    curves = {name: record["results"][name]["curves"] for name in ("spiking", "ReLU")}
    return arrays, curves, record


@pytest.mark.every
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kills_at_random_moments_change_nothing(tmp_path):
    arguments = [*RUN, "--epochs", "40", "--encoding", "rate", "--shift", "1"]
    subprocess.run(
        command("train", *arguments, "-o", tmp_path / "whole"), check=True, capture_output=True
    )
    expected, curves, _ = results(tmp_path / "whole")
    rng, kills, attempt = random.Random(0), 0, 0
    while kills < KILLS:
        folder = tmp_path / f"killed-{attempt}"
        kills += killed_at_random(folder, arguments, KILLS - kills, rng)
        done = subprocess.run(
            go_on_with(folder, arguments), check=False, capture_output=True, text=True
        )
        assert done.returncode == 0 or "is already finished" in done.stderr, done.stderr
        arrays, found, record = results(folder)
        assert record["finished"]
        assert found == curves
        assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
        assert done.returncode or not (folder / "checkpoints").exists()
        steps = [
            json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        assert len(steps) == len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
        attempt += 1
    assert kills == KILLS


def test_checkpoints_of_another_training_stay(whole, tmp_path):
    train(start(), epochs=4, callbacks=[Checkpoints(tmp_path)])
    before = [path.name for path in Checkpoints(tmp_path).all()]
    with pytest.raises(
        CheckpointError, match=r"step-000000020\.npz is of a later step than 2. Resume from it"
    ):
        train(start(), epochs=1, callbacks=[Checkpoints(tmp_path)])
    assert [path.name for path in Checkpoints(tmp_path).all()] == before
