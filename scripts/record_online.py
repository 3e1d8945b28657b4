"""Record the gradients of other libraries' online rules, and the spikes of SpikingJelly's parallel neurons.

``tests/training/test_online_of_other_libraries.py`` compares ``Online`` with these files, and
``tests/network/test_parallel_neurons.py`` compares ``examples/parallel_neurons.py``. Run with the names of
installed libraries:

    python scripts/record_online.py spikingjelly sparx braintrace

Recorded with spikingjelly 2.0.0 (PyTorch 2.15.0), sparxml 0.1.1 and braintrace 0.2.8 (JAX 0.11.2), in float64 on a CPU.
An entry is named ``case/array``: inputs and targets of each step, weights, and gradients ``d_<weight>`` of the sum over
steps of half the squared errors.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "recorded" / "online"
STEPS, BATCH, INPUTS, HIDDEN, OUTPUTS = 16, 2, 4, 6, 3
DECAY, READOUT, THRESHOLD = 0.75, 0.5, 0.6


def draw(seed, **shapes):
    """Inputs, targets and weights of the named shapes."""
    r = np.random.default_rng(seed)
    arrays = {"inputs": r.random((STEPS, BATCH, INPUTS)) < 0.4, "targets": r.normal(size=(STEPS, BATCH, OUTPUTS))}
    arrays |= {name: r.normal(0.2, 0.6, shape) for name, shape in shapes.items()}
    return {name: array.astype(np.float64) for name, array in arrays.items()}


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def spikingjelly():
    import torch  # noqa: PLC0415
    from spikingjelly.activation_based import layer, neuron, surrogate  # noqa: PLC0415
    from spikingjelly.activation_based.learning import online_learning  # noqa: PLC0415

    torch.set_default_dtype(torch.float64)
    options = {
        "tau": 1 / (1 - DECAY),
        "decay_input": False,
        "v_threshold": THRESHOLD,
        "v_reset": None,
        "surrogate_function": surrogate.Sigmoid(4.0),
    }
    shapes = {"first": (INPUTS, HIDDEN), "second": (HIDDEN, OUTPUTS)}
    biases = {"first_bias": (HIDDEN,), "second_bias": (OUTPUTS,)}

    def trained(case, node, arrays, traces=False):
        linears = []
        for name, shape in shapes.items():
            linear = torch.nn.Linear(*shape, bias=f"{name}_bias" in arrays)
            linear.weight.data = torch.tensor(arrays[name].T.copy())
            if linear.bias is not None:
                linear.bias.data = torch.tensor(arrays[f"{name}_bias"])
            linears.append(linear)
        first, second = linears
        container = layer.OTTTSequential if node is neuron.OTTTLIFNode else torch.nn.Sequential
        net = container(first, node(**options), second, node(**options))
        trace = torch.zeros(BATCH, INPUTS)

        def model(x):
            nonlocal trace
            trace = neuron.OTTTLIFNode.track_trace(x, trace, options["tau"])
            return net([x, trace] if traces else x)

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.net = net

            def forward(self, x):
                return model(x)

        x, y = (torch.tensor(arrays[name]).transpose(0, 1) for name in ("inputs", "targets"))
        _, spikes = online_learning.ottt_online_training(
            Model(), torch.optim.SGD(net.parameters(), 0.0), x, y, lambda a, b: 0.5 * ((a - b) ** 2).sum(), False
        )
        gradients = {f"d_{name}": linear.weight.grad.T for name, linear in zip(shapes, linears, strict=True)}
        for name, linear in zip(shapes, linears, strict=True):
            if linear.bias is not None:
                gradients[f"d_{name}_bias"] = linear.bias.grad
        found = {name: gradient.numpy() for name, gradient in gradients.items()}
        return {case: arrays | found | {"outputs": spikes.transpose(0, 1).numpy()}}

    yield trained("sltt", neuron.SLTTLIFNode, draw(0, **shapes, **biases))
    yield trained("ottt", neuron.OTTTLIFNode, draw(1, **shapes), traces=True)
    yield trained("ottt_plain", neuron.OTTTLIFNode, draw(2, **shapes, **biases))

    r = np.random.default_rng(3)
    x = r.normal(0.3, 1, (STEPS, BATCH, INPUTS))
    neurons = {
        "psn": neuron.PSN(STEPS, surrogate.ATan(2.0)),
        "masked": neuron.MaskedPSN(5, STEPS, 1.0, surrogate.ATan(2.0), "m"),
        "sliding": neuron.SlidingPSN(5, True, surrogate.ATan(2.0), "m"),
    }
    for case, cell in neurons.items():
        cell.weight.data = torch.tensor(r.normal(0.2, 0.5, cell.weight.shape))
        cell.bias.data = torch.tensor(r.normal(-0.6, 0.2, cell.bias.shape))
        inputs = torch.tensor(x, requires_grad=True)
        spikes, cotangent = cell(inputs), r.normal(size=x.shape)
        (spikes * torch.tensor(cotangent)).sum().backward()
        arrays = {"inputs": x, "cotangent": cotangent, "spikes": spikes.detach().numpy()}
        arrays |= {"weight": cell.weight.detach().numpy(), "bias": cell.bias.detach().numpy()}
        arrays |= {"d_inputs": inputs.grad.numpy()}
        arrays |= {"d_weight": cell.weight.grad.numpy(), "d_bias": cell.bias.grad.numpy()}
        yield {case: arrays}


# --- JAX -------------------------------------------------------------------------------------------------------------


def sparx():
    import jax.numpy as jnp  # noqa: PLC0415
    from sparx import dynamics  # noqa: PLC0415
    from sparx.learn import online  # noqa: PLC0415

    def loss(outputs, targets):
        return 0.5 * ((outputs - targets) ** 2).sum()

    tau = -1 / np.log(READOUT)
    shapes = {"below": (INPUTS, HIDDEN), "among": (HIDDEN, HIDDEN), "out": (HIDDEN, OUTPUTS), "bias": (OUTPUTS,)}
    cells = {
        "eprop_lif": dynamics.LIFCell(DECAY, THRESHOLD),
        "eprop_detached": dynamics.LIFCell(DECAY, THRESHOLD, detach_reset=True),
        "eprop_alif": dynamics.ALIFCell(DECAY, 0.9, 0.3, THRESHOLD),
        "eprop_feedback": dynamics.LIFCell(DECAY, THRESHOLD),
    }
    for seed, (case, cell) in enumerate(cells.items()):
        arrays = draw(seed, **shapes, feedback=(HIDDEN, OUTPUTS))
        if case != "eprop_feedback":
            del arrays["feedback"]
        now = {name: jnp.asarray(array) for name, array in arrays.items()}
        parameters = online.EPropParams(*(now[name] for name in shapes))
        value, gradients = online.eprop(
            cell, parameters, now["inputs"], now["targets"], loss, tau=tau, feedback=now.get("feedback")
        )
        found = {f"d_{name}": np.asarray(g) for name, g in zip(shapes, gradients, strict=True)}
        yield {case: arrays | found | {"loss": np.asarray(value)}}

    shapes = {"first": (INPUTS, HIDDEN), "second": (HIDDEN, HIDDEN), "out": (HIDDEN, OUTPUTS)}
    arrays = draw(9, **shapes)
    now = {name: jnp.asarray(array) for name, array in arrays.items()}
    layers = [online.OTTTLayer(now[name], jnp.zeros(shapes[name][1])) for name in shapes]
    cell = dynamics.LIFCell(DECAY, THRESHOLD, detach_reset=True)
    tau = -1 / np.log(DECAY)
    value, gradients = online.ottt([cell, cell], layers, now["inputs"], now["targets"], loss, tau=tau)
    found = {f"d_{name}": np.asarray(g.weight) for name, g in zip(shapes, gradients, strict=True)}
    yield {"ottt": arrays | found | {"loss": np.asarray(value)}}


def braintrace():
    import brainstate  # noqa: PLC0415
    import braintrace  # noqa: PLC0415
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    @jax.custom_jvp
    def spike(x):
        return (x >= 0).astype(x.dtype)

    @spike.defjvp
    def _(primals, tangents):
        s = jax.nn.sigmoid(4 * primals[0])
        return spike(primals[0]), 4 * s * (1 - s) * tangents[0]

    arrays = draw(0, below=(INPUTS, HIDDEN), out=(HIDDEN, OUTPUTS))
    now = {name: jnp.asarray(array) for name, array in arrays.items()}

    class Model(brainstate.nn.Module):
        def __init__(self):
            super().__init__()
            self.below = brainstate.ParamState(now["below"])
            self.out = brainstate.ParamState(now["out"])
            self.potential = brainstate.HiddenState(jnp.zeros((BATCH, HIDDEN)))

        def init_state(self, *args, **kwargs):
            self.potential.value = jnp.zeros((BATCH, HIDDEN))

        def update(self, x):
            u = DECAY * self.potential.value + braintrace.matmul(x, self.below.value)
            s = spike(u - THRESHOLD)
            self.potential.value = u - THRESHOLD * s
            return spike(u - THRESHOLD) @ self.out.value

    for case, rule in {"d_rtrl": braintrace.D_RTRL, "eprop": braintrace.EProp}.items():
        model = Model()
        learner = braintrace.compile(model, rule, now["inputs"][0])

        def loss(x, y, learner=learner):
            return 0.5 * ((learner(x) - y) ** 2).sum()

        gradients, losses = learner.etrace_grad(
            now["inputs"], now["targets"], step_fn=loss, reduction="sum", return_value=True
        )
        found = {f"d_{key[-1]}": np.asarray(g) for key, g in gradients.items()}
        yield {case: arrays | found | {"loss": np.asarray(losses).sum()}}


def main(names):
    if {"sparx", "braintrace"} & {*names}:
        import jax  # noqa: PLC0415

        jax.config.update("jax_enable_x64", True)
    for name in names:
        found = {}
        for case in {"spikingjelly": spikingjelly, "sparx": sparx, "braintrace": braintrace}[name]():
            found |= {f"{key}/{n}": array for key, arrays in case.items() for n, array in arrays.items()}
        path = FOLDER / f"{name}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, **found)
        print(f"{name}: {path.stat().st_size:,} bytes, {sorted({key.partition('/')[0] for key in found})}")


if __name__ == "__main__":
    main(sys.argv[1:])
