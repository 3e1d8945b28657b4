"""Several processes on this machine, as on several: the same numbers, the same steps, and a clear
end.

This file is also the program of each of the processes.
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from spikegrad import LIF, Backward, Layer, LeakyReadout, Network, _consensus
from spikegrad.cli import processes as cli_processes
from spikegrad.training import (
    Checkpoints,
    ShuffledBatches,
    State,
    _sharding,
    _update,
    distributed,
    fit,
    with_device_data,
)

pytestmark = pytest.mark.ci

NEW = hasattr(jax, "set_mesh")
LIMIT = 100  # seconds after which nothing is waited for
OPTIMIZER = optax.sgd(
    0.1, momentum=0.9
)  # Adam makes of a gradient that is rounding alone a full step
ROWS = ShuffledBatches(np.arange(24, dtype=np.int32), 8, seed=0)  # three batches an epoch


def loss(weights, batch, key):
    x, y = batch
    noisy = jnp.broadcast_to(x, (4, *x.shape)) + 0.1 * jax.random.normal(key, (4, *x.shape))
    layers = [Layer(weights["hidden"], LIF()), Layer(weights["out"], LeakyReadout())]
    # One chunk, because XLA adds the gradients of the devices once in each chunk.
    scores = Network(layers)(noisy, backward=Backward(chunk=4))[1].mean(0)
    right = (scores.argmax(-1) == y).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean(), {
        "accuracy": right.mean(),
        "right": right,
    }


def mean_loss(weights, batch, key):
    value, metrics = loss(weights, batch, key)
    return value, {"accuracy": metrics["accuracy"]}


def examples():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 1.5, (24, 6)).astype(np.float32), (np.arange(24) % 4).astype(np.int32)


def weights():
    rng = np.random.default_rng(1)
    shapes = {"hidden": (6, 8), "out": (8, 4)}
    return {
        name: jnp.asarray(rng.normal(0, 0.6, shape), jnp.float32) for name, shape in shapes.items()
    }


def mesh(devices):
    return Mesh(jax.devices()[:devices], ("batch",))


def start():
    return State.create(weights(), OPTIMIZER, jax.random.key(0))


def train(state, over, steps, callbacks=(), updates_per_call=1, of=loss):
    return fit(
        with_device_data(of, examples()),
        state,
        ROWS,
        optimizer=OPTIMIZER,
        steps=steps,
        epochs=100,
        callbacks=callbacks,
        updates_per_call=updates_per_call,
        batch_sharding=NamedSharding(over, P("batch")),
    )


def parts(state):
    """The numbers of a state, of which another process may have a part."""

    def whole(leaf):
        mine = leaf.is_fully_addressable or leaf.is_fully_replicated
        return np.asarray(leaf if mine else multihost_utils.process_allgather(leaf, tiled=True))

    return [whole(leaf) for leaf in jax.tree.leaves((state.trainable, state.optimizer_state))]


def quick(batches, callbacks):
    """The smallest training that all processes take part in."""
    return fit(
        lambda w, batch, key: ((w - batch).mean(), {}),
        jnp.zeros(()),
        batches,
        optimizer=optax.sgd(0.1),
        key=jax.random.key(0),
        callbacks=callbacks,
        batch_sharding=NamedSharding(mesh(2), P("batch")),
    )


def endless():
    while True:
        yield np.zeros(2, np.float32)


def work(folder, port, process):
    """What each of two processes does."""
    found = {}

    with distributed(f"localhost:{port}", 2, process):
        # one of them wants to stop; each has a folder of its own, as on machines that share no disk
        checkpoints = Checkpoints(folder / f"own-{process}", minutes=0)
        state = train(
            start(), mesh(2), 9, [checkpoints, lambda now: process == 1 and now.step == 5], 2
        )
        np.savez(folder / f"replicated-{process}.npz", *parts(state))
        found["stopped"] = state.step
        again = checkpoints.restore(start())
        found["read"] = [again.step, again.epoch, same(parts(again), parts(state))]

        def terminate(now):
            if process == 1 and now.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return multihost_utils.reached_preemption_sync_point(now.step)

        found["terminated"] = quick(endless(), [terminate]).step
        found["messages"] = []
        for attempt in (different_numbers, different_starts, spread_over_nothing):
            try:
                attempt(process)
            except ValueError as error:
                found["messages"].append(str(error))
        (folder / f"found-{process}.json").write_text(json.dumps(found))
        quick(endless(), [])  # until one is killed


def same(first, second):
    return all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(first, second, strict=True)
    )


def different_numbers(process):
    quick([np.zeros(2)] * (3 + process), [])


def different_starts(process):
    state = State.create({"w": jnp.full(2, float(process))}, OPTIMIZER, jax.random.key(0))
    fit(loss, state, ROWS, optimizer=OPTIMIZER, batch_sharding=NamedSharding(mesh(2), P("batch")))


def spread_over_nothing(process):
    fit(loss, start(), ROWS, optimizer=OPTIMIZER)


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    sys.exit()


def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def environment(devices=1):
    inherited = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return inherited | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + f" --xla_force_host_platform_device_count={devices}",  # the last counts
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": str(
            int(jax.config.read("jax_disable_most_optimizations"))
        ),
    }


class Processes:
    """Programs that are started together, of which none outlives the test."""

    def __init__(self, calls, folder):
        self.files = [
            [folder / f"{name}-{i}" for name in ("stdout", "stderr")] for i in range(len(calls))
        ]
        self.all = []
        for i, call in enumerate(calls):
            out, err = (path.open("wb") for path in self.files[i])
            with out, err:
                self.all.append(subprocess.Popen(call, stdout=out, stderr=err, env=environment()))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.all:
            process.kill()
            process.wait()

    def until(self, condition):
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end, self.outputs()
            assert all(process.poll() is None for process in self.all), "\n".join(
                text for pair in self.outputs() for text in pair
            )
            time.sleep(0.05)

    def outputs(self):
        return [[path.read_text() for path in pair] for pair in self.files]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes that have done their work, go on with the last of it, and are to be ended."""
    folder = tmp_path_factory.mktemp("pair")
    calls = [
        [sys.executable, __file__, str(folder), str(number), str(i)]
        for number in [port()]
        for i in range(2)
    ]
    with Processes(calls, folder) as processes:
        processes.until(lambda: all((folder / f"found-{i}.json").exists() for i in range(2)))
        time.sleep(0.1)  # for the last of the bytes
        yield (
            processes,
            folder,
            [json.loads((folder / f"found-{i}.json").read_text()) for i in range(2)],
        )


def arrays(path):
    with np.load(path) as file:
        return [file[name] for name in file.files]


@pytest.mark.every
def test_two_processes_have_the_bits_of_one_with_two_devices(pair):
    _, folder, found = pair
    alone = train(start(), mesh(2), 5, (), 2)
    for i in range(2):
        assert found[i]["stopped"] == 5  # where one of them wished it
        assert same(arrays(folder / f"replicated-{i}.npz"), parts(alone))


@pytest.mark.every
def test_checkpoints_are_written_by_one_and_read_by_all(pair):
    _, folder, found = pair
    assert sorted(path.name for path in (folder / "own-0").iterdir()) == [
        "step-000000003.npz",
        "step-000000005.npz",
    ]
    assert not (folder / "own-1").exists()
    assert found[0]["read"] == found[1]["read"] == [5, 1, True]


@pytest.mark.every
def test_sigterm_of_one_stops_all_at_the_same_step(pair):
    *_, found = pair
    assert found[0]["terminated"] == found[1]["terminated"] >= 3


@pytest.mark.every
def test_processes_that_would_hang_raise(pair):
    *_, found = pair
    for i in range(2):
        numbers, starts, nothing = found[i]["messages"]
        assert re.fullmatch(
            r"fit: processes have different numbers of batches after update 3: \[0 1\]", numbers
        )
        assert starts.startswith("fit: trainable/w differs between processes. Start all processes")
        assert "batch_sharding is missing, but training has 2 processes" in nothing


@pytest.mark.every
def test_a_killed_process_ends_the_other(pair):
    """The last of this pair."""
    processes, *_ = pair
    processes.all[0].kill()  # the coordinator, over which JAX aborts
    assert processes.all[1].wait(60) not in (0, None)


def test_processes_stop_and_save_if_any_of_them_must(monkeypatch):
    """Each process gets the signal of any process, and saves if any process must."""
    other = 0
    for module in (_consensus, cli_processes):
        monkeypatch.setattr(
            module, "gathered", lambda *values: np.array([values, [other] * len(values)])
        )
    for mine, other in itertools.product([False, True], repeat=2):
        assert _consensus.agreed(mine) is (mine or other)
    for other in (0, signal.SIGINT):
        with cli_processes.deferred() as stop:
            assert stop() == other
            signal.raise_signal(
                signal.SIGTERM
            )  # a process in the background of a shell ignores SIGINT
            assert stop() == signal.SIGTERM


def test_replicated_names_arrays_that_differ_between_processes(monkeypatch):
    mesh = Mesh(jax.devices()[:2], ("batch",))

    def tree(**change):
        plain = {
            "weight": jnp.arange(6.0).reshape(2, 3),
            "steps": jnp.arange(3),
            "key": jax.random.key(0),
        }
        return {"layers": [plain | change], "name": "net"}

    def in_both(first, second):
        """The second process compares its arrays with the hashes that the first process sent."""
        hashes = []
        monkeypatch.setattr(
            _sharding,
            "gathered",
            lambda *values: hashes.append(values) or np.array([values, values]),
        )
        _sharding.replicated(first, mesh, "start")
        monkeypatch.setattr(
            _sharding, "gathered", lambda *values: np.array([hashes.pop(0), values])
        )
        return _sharding.replicated(second, mesh, "start")

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    spread = in_both(tree(), tree())["layers"][0]
    assert spread["weight"].sharding.device_set == set(jax.devices()[:2])
    assert np.array_equal(spread["weight"], tree()["layers"][0]["weight"])
    assert (jax.random.key_data(spread["key"]) == jax.random.key_data(jax.random.key(0))).all()
    weight = tree()["layers"][0]["weight"]
    for name, value in (
        ("weight", weight.at[1, 2].set(5.0000005)),
        ("weight", weight.astype(jnp.float16)),
        ("key", jax.random.key(1)),
    ):
        for pair in ((tree(), tree(**{name: value})), (tree(**{name: value}), tree())):
            with pytest.raises(
                ValueError, match=f"fit: start/layers/0/{name} differs between processes. Start all"
            ):
                in_both(*pair)


COLLECTIVE = re.compile(r" = .* ([a-z]+-[a-z-]+?)(?:-start)?\(")
COLLECTIVES = {
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
    "collective-broadcast",
}


@pytest.mark.slow
@pytest.mark.skipif(not NEW, reason="XLA spreads small arrays where it need not")
@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.every), 3])
def test_an_update_has_one_all_reduce_and_no_other_collective(monkeypatch, size):
    texts, jit = [], jax.jit

    def recorded(function, **options):
        jitted = jit(function, **options)

        def run(*args):
            program = jitted.lower(*args).compile()
            texts.append(program.as_text())
            return program(*args)

        run.lower = jitted.lower
        return run if function.__name__ in ("single", "loop") else jitted

    monkeypatch.setattr(_update.jax, "jit", recorded)
    train(start(), mesh(4), size, (), size, of=mean_loss)
    (text,) = texts
    found = [match[1] for match in COLLECTIVE.finditer(text) if match[1] in COLLECTIVES]
    assert found == ["all-reduce"]


def command(folder, number, i, *more):
    call = [sys.executable, "-m", "spikegrad.cli", "train", "--distributed"]
    call += [
        "--coordinator-address",
        f"localhost:{number}",
        "--num-processes",
        "2",
        "--process-id",
        str(i),
    ]
    return [*call, *(more or ("-o", str(folder / "run"), *OPTIONS))]


OPTIONS = [
    "--data",
    "digits",
    "--hidden",
    "8",
    "--steps",
    "2",
    "--batch",
    "128",
    "--no-baseline",
    "--epochs",
    "15",
]


@pytest.mark.every
def test_the_command_in_two_processes_is_stopped_and_resumed(tmp_path):
    """Of two processes one gets SIGTERM, both stop; gone on with, the result is that of one
    process.
    """
    run, number = tmp_path / "run", port()
    with Processes([command(tmp_path, number, i) for i in range(2)], tmp_path) as processes:
        processes.until(
            lambda: (
                (run / "metrics.jsonl").exists()
                and (run / "metrics.jsonl").read_text().count("\n") > 1
            )
        )
        processes.all[1].send_signal(signal.SIGTERM)
        assert [process.wait(LIMIT) for process in processes.all] == [143, 143], processes.outputs()
        (out, _), quiet = processes.outputs()
        assert "interrupted: results so far are saved" in out
        assert "interrupted" not in "".join(quiet)
    number = port()
    calls = [command(tmp_path, number, i, "--resume", str(run), "--quiet") for i in range(2)]
    with Processes(calls, tmp_path) as processes:
        assert [process.wait(LIMIT) for process in processes.all] == [0, 0], processes.outputs()
    alone = [
        *command(tmp_path, port(), 0, "-o", str(tmp_path / "alone"), *OPTIONS),
        "--num-processes",
        "1",
    ]
    subprocess.run(alone, env=environment(2), check=True, capture_output=True, timeout=LIMIT)
    assert same(arrays(run / "parameters.npz"), arrays(tmp_path / "alone" / "parameters.npz"))
    assert json.loads((run / "run.json").read_text())["machine"]["processes"] == 2


FAILING = """
import sys, time
from spikegrad.training import distributed

with distributed(sys.argv[1], 2, int(sys.argv[2])):
    time.sleep(2 * int(sys.argv[2]))
    raise RuntimeError(f"from process {sys.argv[2]}")
"""


@pytest.mark.every
def test_failing_process_waits_for_the_error_of_its_peer(tmp_path):
    address = f"localhost:{port()}"
    with Processes(
        [[sys.executable, "-c", FAILING, address, str(i)] for i in range(2)], tmp_path
    ) as processes:
        assert [process.wait(LIMIT) for process in processes.all] == [1, 1], processes.outputs()
        for i, (_, err) in enumerate(processes.outputs()):
            assert err.endswith(f"RuntimeError: from process {i}\n")
