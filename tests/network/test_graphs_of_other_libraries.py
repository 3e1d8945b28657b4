"""Residual blocks, delays, loops and normalization, compared with the libraries that have them.

``scripts/record_graphs.py`` recorded outputs, gradients and running statistics in
``tests/recorded/graphs/``.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, few

import spikegrad
from spikegrad import (
    LIF,
    Arctan,
    Delayed,
    Join,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    Window,
    get,
    strict,
)
from spikegrad.network import DelayKernel, rounded_delays
from spikegrad.neurons import MPBN

pytestmark = [pytest.mark.usefixtures("like_a_user"), pytest.mark.slow]
MODES = ("eval", "train")
CURRENT = LeakyReadout(0.0)  # passes its current on


@pytest.fixture
def like_a_user(monkeypatch):
    """Import examples, with the promotion rules that JAX has by default."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def same(current):
    return current


class Recorded:
    """A case of a file."""

    def __init__(self, file, case):
        with np.load(ROOT / "tests" / "recorded" / "graphs" / f"{file}.npz") as cases:
            self.record = cases[case]

    def __getitem__(self, name):
        return np.asarray(self.record[name], float)

    def without(self, name, found):
        """Leave out a gradient that is 0 in both libraries."""
        assert not np.any(found[name])
        assert not np.any(self[name])
        self.record = self.record[[other for other in self.record.dtype.names if other != name]]

    def norm(self, name, statistics=("running_mean", "running_var")):
        """Scale, offset, mean and variance of a normalization."""
        return [self[f"{name}.{part}"] for part in ("weight", "bias", *statistics)]

    def check(self, found, run=None, tolerance=1e-6):
        """Compare all results of a run. Spikes must be equal, others may differ by a part of the
        largest number.
        """
        names = [
            name
            for name in self.record.dtype.names
            if name.startswith(f"{run}/" if run else ("out", "d_"))
        ]
        largest = max(np.abs(self[name]).max() for name in names if "d_" in name)
        for name in names:
            got, expected = np.asarray(found[name.split("/")[-1]]), self[name]
            assert got.shape == expected.shape, name
            if self.record[name].dtype.kind != "f":
                np.testing.assert_array_equal(got, expected, err_msg=name)
            assert np.abs(expected).max() > 0, name
            bound = tolerance * max(np.abs(expected).max(), 1e-3 * largest)
            assert np.abs(got - expected).max() <= bound, (
                name,
                np.abs(got - expected).max(),
                bound,
            )


def differentiate(recorded, run, given):
    """Call ``run(given)``, which returns outputs and more. Return both with the gradient of the
    recorded loss.
    """

    def loss(given):
        out, more = run(given)
        return (recorded["cotangent"] * out).sum(), (out, more)

    gradient, (out, more) = jax.jit(jax.grad(loss, has_aux=True))(given)
    return out, gradient, more


def blended(old, new, count=None):
    """Update running statistics as torch does, with the unbiased variance of ``count`` numbers."""
    return 0.9 * old + 0.1 * new * (count / (count - 1) if count else 1)


@pytest.mark.parametrize("case", few(["gauss", "max", "rounded"], "gauss"))
def test_kernels_of_dcls(x64, case):
    recorded = Recorded("dcls", case)
    kernel = "triangular" if case == "max" else "gaussian"
    more = 0.27 if case == "gauss" else 0.0
    given = {name: recorded[name] for name in ("weight", "bias", "P", "x")}

    def run(given):
        # an array (inputs, neurons) from the positions of dcls
        delay = jnp.maximum(6 - (given["P"][0, :, :, 0].T + 3), 0)
        delays = DelayKernel(given["weight"][:, :, 0].T, delay, 7, recorded["SIG"] + more, kernel)
        network = Network({"out": Layer(Window(delays), CURRENT, bias=given["bias"])})
        return (rounded_delays(network) if case == "rounded" else network)(given["x"])[::-1]

    out, gradient, _ = differentiate(recorded, run, given)
    found = {"out": out} | {f"d_{name}": value for name, value in gradient.items()}
    if case == "rounded":
        recorded.without("d_P", found)
    recorded.check(found)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["wide", "rounded"])
def test_delays_of_sparx(x64, case):
    recorded = Recorded("sparx", case)
    given = {name: recorded[name] for name in ("kernel", "delay", "bias", "x")}

    def network(given):
        kernel = DelayKernel(given["kernel"], given["delay"], 7, recorded["width"])
        return Network({"out": Layer(Window(kernel), CURRENT, bias=given["bias"])})

    out, gradient, _ = differentiate(
        recorded, lambda given: network(given)(given["x"])[::-1], given
    )
    found = {"out": out} | {f"d_{name}": value for name, value in gradient.items()}
    if case == "rounded":
        recorded.without("d_delay", found)
    recorded.check(found, tolerance=4e-6)
    states, chunks = None, []
    for x in np.split(recorded["x"], [1, 3, 12]):
        states, y = network(given)(x, states)
        chunks.append(y)
    np.testing.assert_allclose(np.concatenate(chunks), recorded["chunks"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", few(["whole", "real", "wide"], "wide"))
def test_recurrent_delays_of_delrec(x64, case):
    """Each sender has a delay. The kernel is ``(1 + width - |lag - (1 + d)|)+ / (1 + width)^2``,
    for lags from 1.
    """
    recorded = Recorded("delrec", case)
    given = {name: recorded[name] for name in ("recurrent_weights", "recurrent_delays", "x")}

    def run(given):
        away = jnp.arange(1, 10)[:, None] - (1 + given["recurrent_delays"])
        # at 0, torch has a derivative of 0 for the absolute value, and of 1 for clamp
        height = 1 + recorded["width"] - away * jax.lax.stop_gradient(jnp.sign(away))
        spread = jnp.where(height >= 0, height, 0) / (1 + recorded["width"]) ** 2
        recurrent = Window(spread[:, :, None] * given["recurrent_weights"].T, delay=1)
        return Network([Layer(jnp.eye(5), LIF(0.5, surrogate=Arctan(2.0)), recurrent)])(given["x"])[
            ::-1
        ]

    out, gradient, _ = differentiate(recorded, run, given)
    recorded.check({"out": out} | {f"d_{name}": value for name, value in gradient.items()}, "train")


LOOP = {"cell": Layer({"input": np.eye(1), "cell": Delayed(np.full((1, 1), 0.5), 1)}, CURRENT)}
OF_NIRTORCH = {
    "loop": LOOP,
    "loop_listed_backwards": LOOP,
    "residual": {"b": Join(lambda a: 2 * a, "input"), "c": Join(jnp.add, ("input", "b"))},
    "spikingjelly_delay": {"out": Layer(Delayed(np.eye(1), 2), CURRENT)},
}


@pytest.mark.parametrize("case", OF_NIRTORCH)
def test_graphs_in_nirtorch_and_a_queue_of_spikingjelly(x64, case):
    """A loop takes one step, in any order of nodes and edges. NIR does not say which edge of a loop
    has the delay.
    """
    recorded = Recorded("nirtorch", case)
    out = Network(OF_NIRTORCH[case])(recorded["x"].reshape(-1, 1, 1))[1]
    np.testing.assert_array_equal(out.ravel(), recorded["out"].ravel())


@pytest.mark.slow
def test_graphs_of_jaxpike(x64):
    """A cycle reads the last output of the node before it. Here it is a join, with zeros for its
    past at the start.

    jaxpike takes the edge that closes a cycle from the order of the list of edges. This library
    asks for a delay.
    """
    recorded = Recorded("jaxpike", "recurrent")
    given = {
        name: (recorded[f"{name}.weight"], recorded[f"{name}.bias"])
        for name in ("w_in", "w_rec", "w_out")
    }
    given["x"] = recorded["x"]
    options = {"decay": spikegrad.decay_from_tau(20.0), "norm_input": True}
    hidden = LIF(threshold=0.5, surrogate=strict(spikegrad.InvSquareGrad(25.0)), **options)
    readout = LeakyReadout(**options)

    def run(given):
        def dense(name):
            return lambda x: x @ given[name][0].T + given[name][1]

        layers = {
            "hidden": Layer({"input": dense("w_in"), "w_rec": Delayed(same, 1)}, hidden),
            "w_rec": Join(dense("w_rec"), "hidden"),
            "out": Layer(dense("w_out"), readout, of="hidden"),
        }
        return Network(layers)(given["x"])[::-1]

    out, gradient, _ = differentiate(recorded, run, given)
    found = {"out": out, "d_x": gradient.pop("x")}
    for name, (weight, bias) in gradient.items():
        found |= {f"d_{name}.weight": weight, f"d_{name}.bias": bias}
    recorded.check(found)


def test_loops_with_delays_of_nest(x64):
    """Two populations of neurons, all of which are connected with delays of 1 to 3 steps, have the
    spikes of NEST.
    """
    recorded = Recorded("nest", "network")
    decay = np.exp(-0.1)
    delayed = np.stack([recorded["weight"] * (recorded["delay"] == d) for d in (1, 2, 3)])
    parts = {"excitatory": slice(48), "inhibitory": slice(48, None)}
    layers = {}
    for name, receivers in parts.items():
        weights = {
            sender: Window(delayed[:, senders, receivers], delay=1)
            for sender, senders in parts.items()
        }
        constant = (1 - decay) * recorded["current"][receivers]
        layers[name] = Layer(
            {"input": lambda x, c=constant: x * c, **weights}, LIF(decay, reset="value")
        )
    out = jax.jit(lambda: Network(layers, outputs=tuple(parts))(np.ones((500, 1, 1)))[1])()
    out = np.concatenate([out[name][:, 0] for name in parts], 1)
    assert 0.03 < out.mean() < 0.3
    np.testing.assert_array_equal(out, recorded["out"])


def check_block(recorded, run, layers, parts, mode):
    """Compare a block called "block", of ``layers(params, running)``. Its parts have a convolution
    and a norm each.
    """
    params, running = {}, {}
    for part, (conv, norm) in parts.items():
        scale, offset, *moments = recorded.norm(norm)
        params[part] = {
            "kernel": recorded[f"{conv}.weight"].transpose(2, 3, 1, 0),
            "scale": scale,
            "offset": offset,
        }
        running[f"block.{part}"] = tuple(moments)

    def outputs(given):
        states, out = Network(layers(given["params"], running if mode == "eval" else None))(
            given["x"]
        )
        return jnp.moveaxis(out, -1, 2), states

    given = {"params": params, "x": jnp.moveaxis(recorded["x"], 2, -1)}
    out, gradient, states = differentiate(recorded, outputs, given)
    found = {"out": out, "d_x": jnp.moveaxis(gradient["x"], -1, 2)}
    for part, (conv, norm) in parts.items():
        of_part, name = gradient["params"][part], f"block.{part}"
        found[f"d_{conv}.weight"] = of_part["kernel"].transpose(3, 2, 0, 1)
        found |= {f"d_{norm}.weight": of_part["scale"], f"d_{norm}.bias": of_part["offset"]}
        if mode == "train":  # statistics of the batch are states of joins over time
            found[f"new_{norm}.running_mean"] = blended(running[name][0], states[name][0])
            found[f"new_{norm}.running_var"] = blended(
                running[name][1], states[name][1], out[:, :, 0].size
            )
    recorded.check(found, run)


@pytest.mark.parametrize("mode", few(MODES, "train"))
@pytest.mark.parametrize("case", few(["same", "half"], "half"))
@pytest.mark.parametrize("connect", few(["ADD", "AND", "IAND"], "IAND"))
def test_blocks_of_sew_resnet(x64, case, connect, mode):
    example = importlib.import_module("sew_resnet")
    parts = {part: (part, part.replace("conv", "bn")) for part in ("conv1", "conv2")}
    if case == "half":
        parts["shortcut"] = ("downsample.0", "downsample.1")

    def layers(params, running):
        return example.sew_block(
            "block", "input", params, running, connect=connect, stride=1 + (case == "half")
        )

    check_block(Recorded("sew_resnet", case), f"{connect}/{mode}", layers, parts, mode)


MS_BLOCKS = {
    # SpikingJelly's block has a surrogate of twice the height and half the width. Its neurons fire
    # at the threshold, those of the authors fire above it.
    "authors": ("ms_resnet_authors", "", strict(get("spikingjelly.Rect"))),
    "spikingjelly": ("ms_resnet", "alpha=2/", get("spikingjelly.Rect(alpha=2)")),
    "spikingjelly, surrogate of the authors": ("ms_resnet", "alpha=1/", get("spikingjelly.Rect")),
}


@pytest.mark.parametrize("mode", few(MODES, "eval"))
@pytest.mark.parametrize("case", few(["same", "half"], "half"))
@pytest.mark.parametrize("source", few(MS_BLOCKS, "authors"))
def test_blocks_of_ms_resnet(x64, monkeypatch, source, case, mode):
    example = importlib.import_module("ms_resnet")
    file, run, surrogate = MS_BLOCKS[source]
    monkeypatch.setattr(
        example, "NEURONS", LIF(0.25, 0.5, surrogate, reset="value", detach_reset=True)
    )
    if source == "authors":
        conv, norm, shortcut = (
            "residual_function.{}",
            "residual_function.{}.bn",
            ("shortcut.0", "shortcut.1.bn"),
        )
        parts = {
            "conv1": (conv.format(1), norm.format(2)),
            "conv2": (conv.format(4), norm.format(5)),
        }
    else:
        parts, shortcut = (
            {"conv1": ("conv1", "bn1"), "conv2": ("conv2", "bn2")},
            ("downsample.0", "downsample.1"),
        )
    if case == "half":
        parts["shortcut"] = shortcut

    def layers(params, running):
        return example.ms_block("block", "input", params, running, stride=1 + (case == "half"))

    check_block(Recorded(file, case), run + mode, layers, parts, mode)


def load(module, recorded, linear, norm, part=slice(None)):
    """Put recorded arrays into a linear layer with normalization of Flax."""
    nnx = importlib.import_module("flax.nnx")
    module.linear.kernel = nnx.Param(jnp.asarray(recorded[f"{linear}.weight"][part, :, 0].T))
    scale, offset, mean, var = (jnp.asarray(array[part]) for array in recorded.norm(norm))
    module.norm.scale, module.norm.bias = nnx.Param(scale), nnx.Param(offset)
    module.norm.mean, module.norm.var = nnx.BatchStat(mean), nnx.BatchStat(var)


@pytest.mark.slow
@pytest.mark.parametrize("mode", few(MODES, "train"))
@pytest.mark.parametrize("case", few(["block", "attention"], "attention"))
def test_blocks_of_spikformer(x64, case, mode):
    """Patches are another matter: SpikingJelly 2.0.0 pools them before the neurons, the authors
    after the neurons.
    """
    nnx = pytest.importorskip("flax.nnx")
    example = importlib.import_module("spikformer")
    recorded = Recorded("spikformer", case)
    prefix = "attn." if case == "block" else ""
    where = {
        part: (f"{prefix}qkv_conv_bn.0", f"{prefix}qkv_conv_bn.1", slice(32 * n, 32 * n + 32))
        for n, part in enumerate("qkv")
    }
    where["project"] = f"{prefix}proj_conv_bn.0", f"{prefix}proj_conv_bn.1", slice(None)
    if case == "block":
        where |= {
            part: (f"mlp.{fc}.0", f"mlp.{fc}.1", slice(None))
            for part, fc in (("up", "fc1"), ("down", "fc2"))
        }
    block = example.SpikformerBlock(32, 2, nnx.Rngs(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(block, nnx.Param))) == 12864
    for part, place in where.items():
        load(getattr(block, part), recorded, *place)
    block.set_attributes(use_running_average=mode == "eval")
    graph, params, rest = nnx.split(block, nnx.Param, ...)

    def run(given):
        block = nnx.merge(graph, given["params"], rest)
        layers = (
            block.layers("block", "input") if case == "block" else block.attention("block", "input")
        )
        states, out = Network(layers, outputs="block" if case == "block" else "block.project")(
            given["x"]
        )
        return out.swapaxes(2, 3).reshape(recorded["x"].shape), states

    tokens = recorded["x"].reshape(2, 2, 32, 16).swapaxes(2, 3)
    out, gradient, states = differentiate(recorded, run, {"params": params, "x": tokens})
    found, pieces = (
        {"out": out, "d_x": gradient["x"].swapaxes(2, 3).reshape(recorded["x"].shape)},
        {},
    )
    gradient = nnx.to_pure_dict(gradient["params"])
    for part, (linear, norm, _) in where.items():
        of_part = gradient[part]
        new = {f"d_{linear}.weight": of_part["linear"]["kernel"].T[:, :, None]}
        new |= {
            f"d_{norm}.weight": of_part["norm"]["scale"],
            f"d_{norm}.bias": of_part["norm"]["bias"],
        }
        if mode == "train":  # Flax keeps the biased variance of 2 steps, 2 examples and 16 tokens
            state = nnx.to_pure_dict(states[f"block.{part}.norm"])["norm"]
            old = getattr(block, part).norm.var[...]
            new[f"new_{norm}.running_mean"] = state["mean"]
            new[f"new_{norm}.running_var"] = 0.9 * old + (state["var"] - 0.9 * old) * 64 / 63
        for name, value in new.items():
            pieces.setdefault(name, []).append(value)
    recorded.check(found | {name: jnp.concatenate(values) for name, values in pieces.items()}, mode)


def normalized(y, norm, axes=None):
    """Normalize by recorded running statistics, or over axes. Return the mean and variance too."""
    scale, offset, *moments = norm
    mean, var = (y.mean(axes, keepdims=True), y.var(axes, keepdims=True)) if axes else moments
    return (y - mean) / jnp.sqrt(var + 1e-5) * scale + offset, (mean, var)


def td_bn(recorded, given, mode):
    """Of threshold-dependent normalization, only the initial scale is special."""
    norm = given["1.weight"], given["1.bias"], recorded["1.running_mean"], recorded["1.running_var"]
    return lambda x: normalized(x @ given["0.weight"].T, norm, (0, 1) if mode == "train" else None)


def te_bn(recorded, given, mode):
    def function(x):
        y, moments = td_bn(recorded, given, mode)(x)
        return y * given["1.scale"][:, None, None], moments

    return function


def bntt(recorded, given, mode):
    """Each step has statistics and scales of its own, and there is no offset."""

    def function(x):
        names = [f"1.bn_list.{t}" for t in range(4)]
        scale = jnp.stack([given[f"{name}.weight"] for name in names])[:, None]
        moments = [
            np.stack([recorded[f"{n}.running_{part}"] for n in names])[:, None]
            for part in ("mean", "var")
        ]
        return normalized(
            x @ given["0.weight"].T, (scale, 0.0, *moments), (1,) if mode == "train" else None
        )

    return function


@pytest.mark.parametrize("mode", few(MODES, "train"))
@pytest.mark.parametrize("case", few(["tdBN", "TEBN", "BNTT"], "TEBN", "BNTT"))
def test_norms_through_time(x64, case, mode):
    recorded = Recorded("norms", case)
    norm = {"tdBN": td_bn, "TEBN": te_bn, "BNTT": bntt}[case]
    given = {
        name: recorded[name]
        for name in recorded.record.dtype.names
        if name.endswith(("weight", "bias", "scale"))
    }
    given = {name: value for name, value in given.items() if name[0] in "01"} | {"x": recorded["x"]}

    def run(given):
        layers = {
            "norm": Join(norm(recorded, given, mode), "input", over_time=True),
            "spikes": Layer(same, LIF(0.5, 0.5, Arctan(2.0), reset="value")),
        }
        states, out = Network(layers)(given["x"])
        return out, states

    out, gradient, states = differentiate(recorded, run, given)
    found = {"out": out} | {f"d_{name}": value for name, value in gradient.items()}
    if mode == "train":
        mean, var = states["norm"]
        names = [f"1.bn_list.{t}" for t in range(4)] if case == "BNTT" else ["1"]
        for t, name in enumerate(names):
            count = 6 if case == "BNTT" else 24
            found[f"new_{name}.running_mean"] = blended(
                recorded[f"{name}.running_mean"], mean[t, 0]
            )
            found[f"new_{name}.running_var"] = blended(
                recorded[f"{name}.running_var"], var[t, 0], count
            )
    recorded.check(found, mode)
    if case == "tdBN":  # a scale of alpha times the threshold
        np.testing.assert_allclose(recorded["initial_1.weight"], 0.7071 * 0.5, rtol=1e-6)


# The primal tanh(3 x) / (2 tanh(1.5)), cut off at the potentials 0 and 1.
TANH = strict(float(1 / np.tanh(1.5)) * spikegrad.truncated(Sigmoid(6.0), 0.5))


@pytest.mark.parametrize("mode", few(MODES, "train"))
def test_normalized_potentials(x64, mode):
    """SpikingJelly 2.0.0 resets the normalized potential instead, and ignores scales below 0 when
    it folds them.
    """
    recorded = Recorded("mpbn", "neurons")
    old = {part: recorded[f"bn.running_{part}"] for part in ("mean", "var")}
    moments = {part: value[:, None, None] for part, value in old.items()} if mode == "eval" else {}
    given = {name: recorded[name] for name in ("bn.weight", "bn.bias", "x")}

    def run(given):
        gain, bias = (given[f"bn.{name}"][:, None, None] for name in ("weight", "bias"))
        cell = MPBN(surrogate=TANH, gain=gain, bias=bias, axis=1, **moments)
        layer = Network([Layer(same, cell)]).observe(given["x"])[1][0]
        return layer.output, (layer.pre_spike,)

    out, gradient, (before,) = differentiate(recorded, run, given)
    found = {"out": out} | {f"d_{name}": value for name, value in gradient.items()}
    mean, var = old["mean"], old["var"]
    for u in before:  # one running mean for all steps, updated at each step
        mean, var = blended(mean, u.mean((0, 2, 3))), blended(var, u.var((0, 2, 3)), u[:, 0].size)
    recorded.check(found | {"new_bn.running_mean": mean, "new_bn.running_var": var}, mode)
