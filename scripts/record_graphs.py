"""Record other libraries' networks with residuals, delays, loops and normalization.

``tests/network/test_graphs_of_other_libraries.py`` compares this library with the files. Run with the names of files:

    python scripts/record_graphs.py dcls sew_resnet ms_resnet spikformer norms nirtorch
    CHECKOUTS=folder python scripts/record_graphs.py delrec ms_resnet_authors mpbn
    python scripts/record_graphs.py jaxpike
    python scripts/record_graphs.py sparx
    python scripts/record_graphs.py nest

The first two lines need one environment with torch 2.13.0, spikingjelly 2.0.0, dcls 0.1.1, nir 1.0.8 and nirtorch 2.6.
The second line also needs a folder with checkouts of the authors' repositories: DelRec (e427881), MPBN (149379d) and
MS-ResNet (7c5f006). The third line needs jaxpike 0.1.4 (JAX 0.12.0), the fourth needs sparxml 0.1.1 (JAX 0.11.2),
the fifth needs nest-simulator 3.10.0.

A file has one record per case. Its fields are the inputs ``x``, the parameters, and the ``cotangent`` of the outputs.
For each run, ``run/out`` is the output, ``run/d_name`` the gradient of ``(cotangent * out).sum()``, and
``run/new_name`` a running statistic after the run. Inputs and parameters are numbers of 16 bits. Libraries
compute with them in 64 bits, except nirtorch and sparx, which compute in 32 bits.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "recorded" / "graphs"


def drawn(rng, kind, shape, scale=1.0):
    """Numbers of 16 bits: parameters of any kind, by the last part of their name."""
    draws = {
        "uniform": lambda: rng.uniform(0, scale, shape),
        "normal": lambda: rng.normal(0, scale, shape),
        "positive": lambda: rng.uniform(0.6, 1.4, shape),
        "spikes": lambda: rng.uniform(size=shape) < scale,
    }
    return np.asarray(draws[kind](), np.float16)


def exact(array):
    """The smallest type that has these numbers."""
    array = np.asarray(array)
    for dtype in (bool, np.int8, np.float16):
        if np.array_equal(array.astype(dtype).astype(array.dtype), array):
            return array.astype(dtype)
    return array.astype(np.float32)


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def tensor(array, dtype=None):
    import torch  # noqa: PLC0415

    return torch.tensor(np.asarray(array), dtype=dtype or torch.float64)


def draw_parameters(module, rng, scale, gain=1.0):
    """Draw parameters and running statistics. Return them by name. ``gain`` is that of normalization."""
    import torch  # noqa: PLC0415

    found = {}
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        kind = "positive" if value.ndim == 1 and not name.endswith(("bias", "mean")) else "normal"
        found[name] = drawn(rng, kind, value.shape, 0.3 if value.ndim == 1 else scale / np.sqrt(value[0].numel()))
        if name.endswith("weight") and value.ndim == 1:
            found[name] *= np.float16(gain)
        with torch.no_grad():
            value.copy_(torch.tensor(found[name]))
    return found


def torch_runs(module, x, rng, modes=("eval", "train"), scale=3.0, gain=1.0, given=None):
    """Record the module in both modes, with the same parameters and cotangent.

    In evaluation, only gradients of vectors are recorded, which keeps files small.
    """
    from spikingjelly.activation_based import functional  # noqa: PLC0415

    given = draw_parameters(module, rng, scale, gain) if given is None else given
    start = {name: value.clone() for name, value in module.state_dict().items()}
    found = {"x": x, **given}
    for mode in modes:
        module.load_state_dict(start)
        functional.reset_net(module)
        module.train(mode == "train").zero_grad()
        inputs = tensor(x).requires_grad_()
        out = module(inputs)
        if "cotangent" not in found:
            found["cotangent"] = drawn(rng, "normal", out.shape)
        (tensor(found["cotangent"]) * out).sum().backward()
        found[f"{mode}/out"] = out.detach().numpy()
        gradients = {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}
        if mode == "train":
            gradients["x"] = inputs.grad.numpy()
        found |= {f"{mode}/d_{name}": value for name, value in gradients.items() if mode == "train" or value.ndim == 1}
        for name, value in module.named_buffers():
            if mode == "train" and name in given:
                found[f"{mode}/new_{name}"] = value.numpy().copy()
        rate = found[f"{mode}/out"]
        print(f"  {mode}: values {rate.min():.2f} to {rate.max():.2f}, mean {rate.mean():.2f}")
    return found


def dcls():
    """Kernels with learned delays. The last case has an even length, with positions at the upper end."""
    from DCLS.construct.modules import Dcls1d  # noqa: PLC0415

    for case, length, version, width in (
        ("gauss", 7, "gauss", 1.0),
        ("max", 7, "max", 0.5),
        ("rounded", 7, "max", 0.0),
        ("even", 6, "max", 0.0),
    ):
        rng = np.random.default_rng(1)
        module = Dcls1d(4, 5, kernel_count=1, dilated_kernel_size=length, version=version).double()
        given = {"weight": drawn(rng, "normal", (5, 4, 1)), "bias": drawn(rng, "normal", 5)}
        position = rng.uniform(-(length // 2), length // 2, (1, 5, 4, 1)).astype(np.float16)
        if width == 0:
            position = position.round()
        if case == "even":
            position[0, :2] = length // 2  # as clamp_parameters() leaves them
        for name, value in (given | {"P": position, "SIG": np.full(position.shape, width)}).items():
            getattr(module, name).data = tensor(value)
        x = tensor(drawn(rng, "normal", (12, 3, 4))).requires_grad_()
        out = module(F_pad(x.permute(1, 2, 0), (length - 1, 0))).permute(2, 0, 1)
        cotangent = drawn(rng, "normal", out.shape)
        (tensor(cotangent) * out).sum().backward()
        found = {"x": x.detach().numpy(), "cotangent": cotangent, **given, "P": position, "SIG": np.float64(width)}
        found |= {"out": out.detach().numpy(), "d_x": x.grad.numpy()}
        found |= {f"d_{name}": getattr(module, name).grad.numpy() for name in ("weight", "bias", "P")}
        yield case, found


def F_pad(x, padding):  # noqa: N802
    import torch  # noqa: PLC0415

    return torch.nn.functional.pad(x, padding)


def sew_resnet():
    from spikingjelly.activation_based import functional, layer, neuron  # noqa: PLC0415
    from spikingjelly.activation_based.model.sew_resnet import BasicBlock, conv1x1  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    for case, outputs, stride in (("same", 8, 1), ("half", 16, 2)):
        rng, found = np.random.default_rng(2), {}
        x = drawn(rng, "spikes", (4, 2, 8, 8, 8), 0.4)
        for connect in ("ADD", "AND", "IAND"):
            shortcut = nn.Sequential(conv1x1(8, outputs, stride), layer.BatchNorm2d(outputs)) if stride > 1 else None
            block = BasicBlock(
                8, outputs, stride, shortcut, cnf=connect, spiking_neuron=neuron.IFNode, detach_reset=True
            )
            functional.set_step_mode(block, "m")
            one = torch_runs(block.double(), x, np.random.default_rng(4))
            found |= {f"{connect}/{name}" if "/" in name else name: value for name, value in one.items()}
        yield case, found


def ms_resnet():
    """Blocks of SpikingJelly: with its own surrogate, and with the authors' surrogate."""
    from spikingjelly.activation_based import layer, surrogate  # noqa: PLC0415
    from spikingjelly.activation_based.model.ms_resnet import _conv1x1, _MSBlock  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    for case, outputs, stride in (("same", 4, 1), ("half", 8, 2)):
        found = {}
        rng = np.random.default_rng(16)
        x = drawn(rng, "normal", (3, 2, 4, 6, 6))
        for alpha in (1.0, 2.0):
            shortcut = (
                nn.Sequential(_conv1x1(4, outputs, stride), layer.BatchNorm2d(outputs, step_mode="m"))
                if stride > 1
                else None
            )
            options = {"surrogate_function": surrogate.Rect(alpha=alpha)}
            block = _MSBlock(4, outputs, stride, shortcut, neuron_kwargs=options)
            one = torch_runs(block.double(), x, np.random.default_rng(6))
            found |= {f"alpha={alpha:.0f}/{name}" if "/" in name else name: value for name, value in one.items()}
        yield case, found


def checkout(path):
    """Import a file of an author's repository, which are no packages."""
    sys.modules.setdefault("IPython", types.SimpleNamespace(embed=None))  # imported for debugging
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(os.environ["CHECKOUTS"], path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ms_resnet_authors():
    import torch  # noqa: PLC0415

    authors = checkout("MS-ResNet/models/MS_ResNet.py")
    authors.time_window = 3
    torch.set_default_dtype(torch.float64)
    for case, outputs, stride in (("same", 4, 1), ("half", 8, 2)):
        rng = np.random.default_rng(8)
        block = authors.BasicBlock_18(4, outputs, stride).double()
        yield case, torch_runs(block, drawn(rng, "normal", (3, 2, 4, 6, 6)), rng)


def spikformer():
    """Blocks of Spikformer, and spike-driven attention. Tokens are a square of pixels."""
    from spikingjelly.activation_based.layer.attention import (  # noqa: PLC0415
        SpikeDrivenSelfAttention,
        SpikingSelfAttention,
    )
    from spikingjelly.activation_based.model.spikformer import SpikformerBlock  # noqa: PLC0415

    rng = np.random.default_rng(9)
    counts = drawn(rng, "spikes", (2, 2, 32, 4, 4), 0.4) + drawn(rng, "spikes", (2, 2, 32, 4, 4), 0.2)
    yield "block", torch_runs(SpikformerBlock(32, 2).double(), counts, rng, gain=2.5)
    yield "attention", torch_runs(SpikingSelfAttention(32, 2).double(), counts.reshape(2, 2, 32, 16), rng, gain=2.5)
    reals = drawn(rng, "normal", (2, 2, 32, 4, 4))
    yield "spike_driven", torch_runs(SpikeDrivenSelfAttention(32, 2).double(), reals, rng, gain=2.5)


def norms():
    """A weight, a normalization through time and neurons."""
    import torch  # noqa: PLC0415
    from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: PLC0415

    steps, channels = 4, 3
    for case, norm in (
        ("tdBN", layer.ThresholdDependentBatchNorm1d(0.7071, 0.5, channels)),
        ("TEBN", layer.TemporalEffectiveBatchNorm1d(steps, channels)),
        ("BNTT", layer.BatchNormThroughTime1d(steps, channels, step_mode="m")),
    ):
        rng = np.random.default_rng(10)
        cell = neuron.LIFNode(2.0, False, 0.5, 0.0, surrogate.ATan(2.0), step_mode="m")
        weight = layer.Linear(5, channels, bias=False, step_mode="m")
        module = torch.nn.Sequential(weight, norm, cell).double()
        initial = {name: p.detach().numpy().copy() for name, p in module.named_parameters() if name.startswith("1")}
        functional.reset_net(module)
        found = torch_runs(module, drawn(rng, "uniform", (steps, 6, 5), 2.0), rng)
        yield case, found | {f"initial_{name}": value for name, value in initial.items()}


def mpbn():
    """Neurons whose potential is normalized before the threshold, as their authors wrote them."""
    authors = checkout("MPBN/models/spike_layer.py")
    rng = np.random.default_rng(11)
    cell = authors.LIFAct(step=4, channel=4)
    cell.set_spike_state(True)
    yield "neurons", torch_runs(cell.double(), drawn(rng, "uniform", (4, 3, 4, 2, 2), 2.0), rng)


def delrec():
    """Recurrent connections with learned delays of the senders."""
    import torch  # noqa: PLC0415
    from spikingjelly.activation_based import neuron, surrogate  # noqa: PLC0415

    torch.set_default_dtype(torch.float64)
    authors = checkout("DelRec/src/recurrent_neurons.py")
    for case, width, delays in (
        ("whole", 0.0, [0, 1, 2, 4, 6]),
        ("real", 0.0, [0.25, 1, 2.5, 4, 6]),
        ("wide", 1.0, [0.25, 1, 2.5, 4, 6]),
    ):
        rng = np.random.default_rng(12)
        config = types.SimpleNamespace(
            step_mode="m",
            store_v_seq=False,
            tau=2.0,
            decay_input=False,
            v_reset=None,
            v_threshold=1.0,
            surrogate_function=surrogate.ATan(2.0),
            detach_reset=False,
            backend=None,
            sigma_init=width,
            recurrent_dropout_rate=0.0,
            use_sig_p=False,
            rec_delay_init_gain=1.0,
            init_rec_delay="zeros",
        )
        layer = authors.axonal_recdel(config, 5, lambda backend, **options: neuron.LIFNode(**options))
        given = {
            "recurrent_weights": drawn(rng, "normal", (5, 5), 0.8),
            "recurrent_delays": np.asarray(delays, np.float16),
        }
        for name, value in given.items():
            getattr(layer, name).data = tensor(value)
        x = drawn(rng, "uniform", (20, 3, 5), 1.4)
        yield case, torch_runs(layer, x, rng, ("train",), given=given) | {"width": width}


def nirtorch():
    """A loop and a residual sum of modules without state, by nirtorch; a queue, by SpikingJelly."""
    import nir  # noqa: PLC0415
    import nirtorch as library  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from spikingjelly.activation_based import layer  # noqa: PLC0415

    def linear(node):
        module = torch.nn.Linear(*node.weight.shape[::-1], bias=False)
        module.weight.data = tensor(node.weight, torch.float32)
        return module

    def run(nodes, edges, inputs):
        ends = {"input": nir.Input({"input": np.array([1])}), "output": nir.Output({"output": np.array([1])})}
        module = library.nir_to_torch(nir.NIRGraph(ends | nodes, edges), {nir.Linear: linear})
        outs, state = [], None
        for x in inputs:
            out, state = module(tensor([[x]], torch.float32), state)
            outs.append(out.item())
        return {"x": np.array(inputs), "out": np.array(outs)}

    one, half = nir.Linear(np.ones((1, 1))), nir.Linear(np.full((1, 1), 0.5))
    edges = [("input", "cell"), ("cell", "back"), ("back", "cell"), ("cell", "output")]
    for case, order in (("loop", 1), ("loop_listed_backwards", -1)):
        nodes = dict(list({"cell": one, "back": half}.items())[::order])
        yield case, run(nodes, edges[::order], [1.0, 0.0, 0.0, 2.0, 0.0])
    edges = [("input", "a"), ("a", "b"), ("a", "c"), ("b", "c"), ("c", "output")]
    double = nir.Linear(np.full((1, 1), 2.0))
    yield "residual", run({"a": one, "b": double, "c": one}, edges, [1.0, 0.0, 2.0])
    queue = layer.Delay(2, step_mode="m")
    x = tensor([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(5, 1, 1)
    yield "spikingjelly_delay", {"x": x.numpy(), "out": queue(x).numpy()}


# --- NEST ------------------------------------------------------------------------------------------------------------


def nest():
    """48 excitatory and 12 inhibitory neurons over 500 steps of 1 ms, with a delay of 1 to 3 ms for each synapse."""
    import nest as library  # noqa: PLC0415

    neurons, steps, rng = 60, 500, np.random.default_rng(17)
    sign = np.where(np.arange(neurons) < 48, 1, -4)[:, None]
    connected = rng.uniform(size=(neurons, neurons)) < 0.2
    weight = drawn(rng, "positive", (neurons, neurons)) * np.float16(0.08) * connected * sign.astype(np.float16)
    delay = rng.integers(1, 4, (neurons, neurons)).astype(np.int8)
    current = drawn(rng, "positive", neurons) * np.float16(1.2)  # where a potential without spikes goes
    library.verbosity = library.VerbosityLevel.ERROR
    library.resolution = 1.0
    rest = {"E_L": 0.0, "V_m": 0.0, "V_reset": 0.0, "V_th": 1.0, "t_ref": 0.0, "tau_m": 10.0, "C_m": 10.0}
    cells = library.Create("iaf_psc_delta", neurons, rest)
    cells.I_e = current.astype(float).tolist()
    for sender, receiver in zip(*np.nonzero(weight), strict=True):
        synapse = {"weight": float(weight[sender, receiver]), "delay": float(delay[sender, receiver])}
        library.Connect(cells[int(sender)], cells[int(receiver)], syn_spec=synapse)
    recorder = library.Create("spike_recorder")
    library.Connect(cells, recorder)
    library.Simulate(steps + 1.0)
    spikes = np.zeros((steps, neurons), bool)
    times, senders = (recorder.events[name] for name in ("times", "senders"))
    # the first step ends after 1 ms
    kept = times <= steps
    spikes[times[kept].astype(int) - 1, senders[kept] - cells[0].global_id] = True
    print(f"  {spikes.mean():.3f} spikes a step")
    yield "network", {"weight": weight, "delay": delay, "current": current, "out": spikes}


# --- JAX -------------------------------------------------------------------------------------------------------------


def jaxpike():
    """A recurrent network, and a residual sum of currents."""
    import equinox as eqx  # noqa: PLC0415
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import jaxpike as library  # noqa: PLC0415
    from jaxpike import LIF, Dense, Graph, LeakyIntegrator  # noqa: PLC0415

    jax.config.update("jax_enable_x64", True)
    library.neurons.STATE_DTYPE = jnp.float64

    def unroll(network, x):
        state = jax.tree.map(lambda a: a.astype(jnp.float64), network.init_state(x.shape[1:]))
        return library.unroll(network, x, state)[0]

    def dense(rng, inputs, outputs):
        made = Dense(inputs, outputs, key=jax.random.key(0))
        weight = jnp.asarray(drawn(rng, "normal", (outputs, inputs), inputs**-0.5), jnp.float64)
        bias = jnp.asarray(drawn(rng, "normal", outputs, 0.1), jnp.float64)
        return eqx.tree_at(lambda m: (m.weight, m.bias), made, (weight, bias))

    for case in ("recurrent", "skip"):
        rng = np.random.default_rng(13)
        neurons = LIF(tau=20.0, threshold=0.5)
        if case == "recurrent":
            nodes = {"w_in": dense(rng, 8, 16), "hidden": neurons, "w_rec": dense(rng, 16, 16)}
            nodes |= {"w_out": dense(rng, 16, 4), "out": LeakyIntegrator(tau=20.0)}
            edges = [("input", "w_in"), ("w_in", "hidden"), ("hidden", "w_rec"), ("w_rec", "hidden")]
            edges += [("hidden", "w_out"), ("w_out", "out")]
        else:
            nodes = {"stem": dense(rng, 8, 8), "n1": neurons, "branch": dense(rng, 8, 8)}
            nodes |= {"out": LeakyIntegrator(tau=20.0)}
            edges = [("input", "stem"), ("stem", "n1"), ("n1", "branch"), ("branch", "out"), ("n1", "out")]
        network = Graph(nodes, edges, "out")
        x = drawn(rng, "normal", (40, 3, 8), 4.0)
        out = unroll(network, jnp.asarray(x, jnp.float64))
        cotangent = drawn(rng, "normal", out.shape)

        def loss(network, x, cotangent=cotangent):
            return (jnp.asarray(cotangent, jnp.float64) * unroll(network, x)).sum()

        d_x = jax.grad(loss, 1)(network, jnp.asarray(x, jnp.float64))
        gradient = eqx.filter_grad(loss)(network, jnp.asarray(x, jnp.float64))
        found = {"x": x, "cotangent": cotangent, "out": out, "d_x": d_x}
        for name, node in nodes.items():
            if isinstance(node, Dense):
                found |= {f"{name}.weight": node.weight, f"{name}.bias": node.bias}
                slope = gradient.nodes[name]
                found |= {f"d_{name}.weight": slope.weight, f"d_{name}.bias": slope.bias}
        yield case, {name: np.asarray(value) for name, value in found.items()}


def sparx():
    """Delays of each synapse, in one call and in chunks of 1, 2, 9 and 5 steps."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    from sparx.nn import STATE, DelayedDense  # noqa: PLC0415

    for case, width in (("wide", 2.0), ("rounded", 0)):
        rng = np.random.default_rng(14)
        layer = DelayedDense(5, 6, precision=jax.lax.Precision.HIGHEST)
        given = {
            "kernel": drawn(rng, "normal", (4, 5)),
            "delay": drawn(rng, "uniform", (4, 5), 6.0),
            "bias": drawn(rng, "normal", 5),
        }
        params = {name: jnp.asarray(value, jnp.float32) for name, value in given.items()}
        x = drawn(rng, "normal", (17, 3, 4))
        cotangent = drawn(rng, "normal", (17, 3, 5))

        def loss(params, x, layer=layer, width=width, cotangent=cotangent):
            out = layer.apply({"params": params}, x, width)
            return (jnp.asarray(cotangent, jnp.float32) * out).sum(), out

        inputs = jnp.asarray(x, jnp.float32)
        (gradient, d_x), out = jax.grad(loss, (0, 1), has_aux=True)(params, inputs)
        chunks, carried = [], {}
        for part in jnp.split(inputs, [1, 3, 12]):
            y, carried = layer.apply({"params": params, **carried}, part, width, mutable=[STATE])
            chunks.append(y)
        found = {"x": x, "cotangent": cotangent, **given, "width": np.float64(width), "out": out, "d_x": d_x}
        found |= {"chunks": jnp.concatenate(chunks), **{f"d_{name}": value for name, value in gradient.items()}}
        yield case, {name: np.asarray(value) for name, value in found.items()}


FILES = {
    f.__name__: f
    for f in (
        dcls,
        sew_resnet,
        ms_resnet,
        ms_resnet_authors,
        spikformer,
        norms,
        mpbn,
        delrec,
        nirtorch,
        nest,
        jaxpike,
        sparx,
    )
}


def main(names):
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        print(name)
        found = {}
        for case, arrays in FILES[name]():
            print(f" {case}")
            arrays = {key: exact(array) for key, array in arrays.items()}
            record = np.zeros((), [(key, array.dtype, array.shape) for key, array in arrays.items()])
            for key, array in arrays.items():
                record[key] = array
            found[case] = record
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **found)
        print(f" {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:] or FILES)
