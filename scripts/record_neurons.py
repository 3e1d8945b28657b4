"""Record what other libraries' neurons do: spikes, and gradients by backpropagation through time.

``tests/neurons/test_other_libraries.py`` holds the cells of ``docs/from-other-libraries.md`` against these files.
Run with the names of libraries that are installed, each in an environment of its own if need be:

    python scripts/record_neurons.py snntorch spikingjelly norse sinabs
    CHECKOUTS=folder python scripts/record_neurons.py seadlif sparch brf tclif
    python scripts/record_neurons.py spyx jaxpike
    python scripts/record_neurons.py sparx

Recorded with snntorch 1.0.0, spikingjelly 2.0.0, norse 1.1.0 and sinabs 3.1.3 (PyTorch 2.13.0), with spyx 1.0.0 and
jaxpike 0.1.4 (JAX 0.12.0), and with sparxml 0.1.1 (JAX 0.11.2), in float64 on a CPU, and written in float32. The second
line needs omegaconf and a folder with checkouts of the authors' repositories: SE-adlif (e980397), sparch (f875625),
brf-neurons (5d45b0e) and TC-LIF (1d24704).

Of each case a file holds a record: the arrays of which the library computes (``inputs``, ``weight``, ``recurrent``
if there are such connections, and numbers that are parameters), the ``spikes``, and of the loss
``(cotangent * spikes).sum()`` the gradients ``d_<name>`` of arrays and of the parameters that the library trains.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import unittest.mock
from pathlib import Path

import numpy as np

STEPS, BATCH, INPUTS, NEURONS = 24, 2, 4, 6
FOLDER = Path(__file__).resolve().parent.parent / "tests" / "recorded"


def draw(case, spikes_of, recurrent, least=0.15):
    """Inputs, weights and the cotangent of the spikes; weights so large that neurons fire in a part of the steps."""
    for scale in 0.1 * 1.2 ** np.arange(40):
        rng = np.random.default_rng(sum(case.encode()))
        arrays = {
            "inputs": rng.uniform(0, 1, (STEPS, BATCH, INPUTS)),
            "weight": rng.normal(scale / 3, scale, (INPUTS, NEURONS)),
            "cotangent": rng.normal(size=(STEPS, BATCH, NEURONS)),
        }
        if recurrent:
            arrays["recurrent"] = rng.normal(0, scale / 2, (NEURONS, NEURONS)) * (1 - np.eye(NEURONS))
        arrays = {name: array.astype(np.float16).astype(np.float64) for name, array in arrays.items()}
        spikes = spikes_of(*(arrays[name] for name in ("inputs", "weight", "recurrent") if name in arrays))
        if spikes.mean() > least:
            return arrays
    raise ValueError(f"{case}: silent")


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_case(case, make, *, trained=(), recurrent=False, least=0.15, **parameters):
    """``make(**parameters)`` gives ``run(currents)``, or with recurrent weights ``run(inputs, weight, recurrent)``."""
    import torch  # noqa: PLC0415

    torch.set_default_dtype(torch.float64)

    def run(numbers, inputs, weight, *more):
        of = make(**numbers)
        return of(inputs, weight, *more) if recurrent else of(inputs @ weight)

    def spikes_of(*arrays):
        with torch.no_grad():
            numbers = {n: torch.tensor(p) if n in trained else p for n, p in parameters.items()}
            return run(numbers, *map(torch.tensor, arrays)).numpy()

    drawn = draw(case, spikes_of, recurrent, least)
    given = {n: torch.tensor(a, requires_grad=True) for n, a in drawn.items() if n != "cotangent"}
    numbers = {n: torch.tensor(p, requires_grad=True) if n in trained else p for n, p in parameters.items()}
    spikes = run(numbers, *given.values())
    (torch.tensor(drawn["cotangent"]) * spikes).sum().backward()
    gradients = {n: a.grad.numpy() for n, a in {**given, **{n: numbers[n] for n in trained}}.items()}
    return record(case, drawn, parameters, spikes.detach().numpy(), gradients)


def record(case, drawn, parameters, spikes, gradients):
    assert set(np.unique(spikes)) == {0, 1}, np.unique(spikes)
    rate = spikes.mean()
    print(f"{case:32} {rate:.2f} spikes a step, {np.sum(spikes.any(0))} of {spikes[0].size} neurons fire")
    assert rate < 0.6
    numbers = {n: np.float64(p) for n, p in parameters.items()}
    found = {n: a.astype(np.float16) for n, a in drawn.items()}  # which are no more than that
    found |= numbers | {"spikes": spikes.astype(bool)}
    found |= {f"d_{n}": g.astype(np.float32) for n, g in gradients.items()}
    assert all(np.any(g) for n, g in found.items() if n.startswith("d_")), case
    packed = np.zeros((), [(n, np.asarray(a).dtype, np.shape(a)) for n, a in found.items()])
    for name, array in found.items():
        packed[name] = array
    return {case: packed}


def over_time(step, state=None):
    """``step(current, state)`` gives spikes and a new state."""
    import torch  # noqa: PLC0415

    def run(currents):
        now, spikes = state, []
        for current in currents:
            s, now = step(current, now)
            spikes.append(s)
        return torch.stack(spikes)

    return run


def snntorch():
    import snntorch as snn  # noqa: PLC0415
    import torch  # noqa: PLC0415

    def leaky(reset, *, delay=True):
        def make(beta, threshold):
            cell = snn.Leaky(0.5, reset_mechanism=reset, reset_delay=delay, learn_beta=True, learn_threshold=True)
            del cell.beta, cell.threshold
            cell.beta, cell.threshold = beta, threshold

            def step(current, mem):
                return cell(current, torch.zeros_like(current) if mem is None else mem)

            return over_time(step)

        return make

    def synaptic(reset):
        def make(alpha, beta, threshold):
            cell = snn.Synaptic(
                0.5, 0.5, reset_mechanism=reset, learn_alpha=True, learn_beta=True, learn_threshold=True
            )
            del cell.alpha, cell.beta, cell.threshold
            cell.alpha, cell.beta, cell.threshold = alpha, beta, threshold

            def step(current, state):
                syn, mem = (torch.zeros_like(current), torch.zeros_like(current)) if state is None else state
                spikes, *state = cell(current, syn, mem)
                return spikes, state

            return over_time(step)

        return make

    both, three = ("beta", "threshold"), ("alpha", "beta", "threshold")
    for reset in ("subtract", "zero", "none"):
        yield torch_case(f"leaky_{reset}", leaky(reset), trained=both, beta=0.85, threshold=0.8)
    yield torch_case("leaky_at_once", leaky("subtract", delay=False), trained=both, beta=0.85, threshold=0.8)
    for reset in ("subtract", "zero"):
        parameters = {"alpha": 0.6, "beta": 0.8, "threshold": 1.2}
        yield torch_case(f"synaptic_{reset}", synaptic(reset), trained=three, **parameters)


def spikingjelly():
    from spikingjelly.activation_based import neuron  # noqa: PLC0415

    def lif(**options):
        return lambda tau, v_threshold=1.0, v_reset=0.0: neuron.LIFNode(
            tau=tau, v_threshold=v_threshold, v_reset=v_reset, step_mode="m", **options
        )

    def soft(tau, v_threshold):
        return neuron.LIFNode(tau=tau, v_threshold=v_threshold, v_reset=None, detach_reset=True, step_mode="m")

    def parametric(w):
        node = neuron.ParametricLIFNode(step_mode="m")
        node.w = None
        del node.w
        node.w = w
        return node

    def node(cls, **options):
        return lambda **parameters: cls(**parameters, step_mode="m", **options)

    def cuba(**parameters):
        cell = neuron.CUBALIFNode(**parameters)
        cell.step_mode = "m"
        return cell

    yield torch_case("lif", lif(), tau=2.0)
    yield torch_case("lif_no_decay_input", lif(decay_input=False), tau=3.0, v_threshold=0.8, v_reset=-0.25)
    yield torch_case("lif_soft_detached", soft, tau=2.5, v_threshold=0.8)
    yield torch_case("plif", parametric, trained=("w",), w=-0.7)
    yield torch_case("if", node(neuron.IFNode), v_threshold=1.0)
    yield torch_case("cuba", cuba, c_decay=0.5, v_decay=0.75, v_threshold=0.5)
    yield torch_case("clif", node(neuron.ComplementaryLIFNode), tau=2.0, v_threshold=1.0)
    values = {"tau": 2.0, "v_threshold": 1.0, "v_rest": 0.0, "v_reset": -0.1}
    yield torch_case("qif", node(neuron.QIFNode), v_c=0.8, a0=1.0, **values)
    yield torch_case("eif", node(neuron.EIFNode), delta_T=1.0, theta_rh=0.8, **values)
    values = {"tau": 2.0, "v_threshold": 1.0, "v_rest": -0.1, "v_reset": 0.0}
    yield torch_case("izhikevich", node(neuron.IzhikevichNode), v_c=0.8, a0=1.0, tau_w=4.0, a=0.1, b=0.2, **values)


def norse():
    import torch  # noqa: PLC0415
    from norse.torch.functional import (  # noqa: PLC0415
        izhikevich,
        lif,
        lif_adex,
        lif_box,
        lif_ex,
        lif_refrac,
        lsnn,
        reset,
    )

    def feed_forward(tau_syn_inv, tau_mem_inv, v_th, v_reset):
        p = lif.LIFParameters(*map(torch.tensor, (tau_syn_inv, tau_mem_inv, 0.0, v_th, v_reset)))

        def step(current, state):
            zeros = torch.zeros_like(current)
            return lif.lif_feed_forward_step(current, state or lif.LIFFeedForwardState(zeros, zeros), p)

        return over_time(step)

    def recurrent(tau_syn_inv, tau_mem_inv, v_th):
        p = lif.LIFParameters(*map(torch.tensor, (tau_syn_inv, tau_mem_inv, 0.0, v_th)))

        def run(inputs, weight, recurrent):
            zeros = torch.zeros(BATCH, NEURONS)

            def step(x, state):
                return lif.lif_step(x, state or lif.LIFState(zeros, zeros, zeros), weight.T, recurrent.T, p)

            return over_time(step)(inputs)

        return run

    def box(tau_mem_inv, v_th):
        p = lif_box.LIFBoxParameters(
            torch.tensor(tau_mem_inv), v_th=torch.tensor(v_th), reset_method=reset.reset_subtract
        )

        def step(current, state):
            return lif_box.lif_box_feed_forward_step(
                current, state or lif_box.LIFBoxFeedForwardState(torch.zeros_like(current)), p
            )

        return over_time(step)

    def refractory(tau_syn_inv, tau_mem_inv, rho_reset):
        p = lif_refrac.LIFRefracParameters(
            lif.LIFParameters(torch.tensor(tau_syn_inv), torch.tensor(tau_mem_inv)), torch.tensor(rho_reset)
        )

        def step(current, state):
            zeros = torch.zeros_like(current)
            state = state or lif_refrac.LIFRefracFeedForwardState(lif.LIFFeedForwardState(zeros, zeros), zeros)
            return lif_refrac.lif_refrac_feed_forward_step(current, state, p)

        return over_time(step)

    def exponential(step, state, parameters):
        def make(**values):
            p = parameters(**{name: torch.tensor(value) for name, value in values.items()})
            zeros = torch.zeros(BATCH, NEURONS)
            return over_time(lambda current, now: step(current, now, p), state(*(zeros for _ in state._fields)))

        return make

    def quadratic(v, **values):
        p = izhikevich.IzhikevichParameters(**values)
        v = torch.full((BATCH, NEURONS), v)
        start = izhikevich.IzhikevichState(v, p.b * v)
        return over_time(lambda current, now: izhikevich.izhikevich_feed_forward_step(current, now, p), start)

    def adaptive(*, recurrent=False, **values):
        p = lsnn.LSNNParameters(**{name: torch.tensor(value) for name, value in values.items()})
        zeros = torch.zeros(BATCH, NEURONS)
        if not recurrent:
            start = lsnn.LSNNFeedForwardState(zeros, zeros, zeros + p.v_th)
            return over_time(lambda current, now: lsnn.lsnn_feed_forward_step(current, now, p), start)

        def run(inputs, weight, recurrent):
            start = lsnn.LSNNState(zeros, zeros, zeros, zeros + p.v_th)
            return over_time(lambda x, now: lsnn.lsnn_step(x, now, weight.T, recurrent.T, p), start)(inputs)

        return run

    yield torch_case("lif", feed_forward, tau_syn_inv=200.0, tau_mem_inv=100.0, v_th=0.5, v_reset=-0.1)
    yield torch_case("lif_recurrent", recurrent, recurrent=True, tau_syn_inv=200.0, tau_mem_inv=100.0, v_th=0.5)
    yield torch_case("lif_box", box, tau_mem_inv=250.0, v_th=0.5)
    yield torch_case("lif_refractory", refractory, tau_syn_inv=200.0, tau_mem_inv=100.0, rho_reset=3.0)
    times = {"tau_syn_inv": 200.0, "tau_mem_inv": 100.0}
    make = exponential(lif_ex.lif_ex_feed_forward_step, lif_ex.LIFExFeedForwardState, lif_ex.LIFExParameters)
    yield torch_case("lif_ex", make, **times, delta_T=0.5, v_th=1.0, v_reset=-0.1)
    make = exponential(
        lif_adex.lif_adex_feed_forward_step, lif_adex.LIFAdExFeedForwardState, lif_adex.LIFAdExParameters
    )
    values = {"tau_ada_inv": 20.0, "adaptation_current": 4.0, "adaptation_spike": 0.02, "delta_T": 0.5}
    yield torch_case("lif_adex", make, **times, **values, v_th=1.0, v_reset=-0.1)
    values = {"a": 0.02, "b": 0.2, "c": -65.0, "d": 6.0, "tau_inv": 250.0}
    yield torch_case("izhikevich", quadratic, least=0.05, v=-70.0, **values)
    values = {"tau_adapt_inv": 20.0, "v_th": 0.4, "beta": 0.6}
    yield torch_case("lsnn", adaptive, **times, **values)
    adaptive_recurrent = functools.partial(adaptive, recurrent=True)
    yield torch_case("lsnn_recurrent", adaptive_recurrent, recurrent=True, **times, **values)


def sinabs():
    import torch  # noqa: PLC0415
    from sinabs import activation, layers  # noqa: PLC0415

    def make(layer, **options):
        def of(**parameters):
            cell = layer(spike_fn=activation.SingleSpike, **parameters, **options)
            return lambda currents: cell(currents.swapaxes(0, 1)).swapaxes(0, 1)

        return of

    def trained(**parameters):  # the decays themselves
        values = {f"tau{name.removeprefix('alpha')}": -1 / torch.log(a).item() for name, a in parameters.items()}
        cell = layers.LIF(spike_fn=activation.SingleSpike, train_alphas=True, **values)
        for name, a in parameters.items():
            setattr(cell, name, None)
            delattr(cell, name)
            setattr(cell, name, a)
        return lambda currents: cell(currents.swapaxes(0, 1)).swapaxes(0, 1)

    yield torch_case("lif", trained, trained=("alpha_mem",), alpha_mem=0.8)
    yield torch_case("lif_synapse", trained, trained=("alpha_mem", "alpha_syn"), alpha_mem=0.8, alpha_syn=0.6)
    to_zero = make(layers.LIF, reset_fn=activation.MembraneReset(), norm_input=False)
    yield torch_case("lif_reset", to_zero, tau_mem=6.0)
    yield torch_case("iaf", make(layers.IAF))
    yield torch_case("alif", make(layers.ALIF), tau_mem=6.0, tau_adapt=12.0, adapt_scale=1.5)


def checkout(folder, module):
    """Import a module of an author's repository."""
    path = str(Path(os.environ["CHECKOUTS"], folder))
    sys.path.insert(0, path)
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(path)


def give(module, **values):
    """Put tensors, which are no parameters, in place of parameters."""
    for name, value in values.items():
        delattr(module, name)
        setattr(module, name, value)


def seadlif():
    import torch  # noqa: PLC0415
    from omegaconf import DictConfig  # noqa: PLC0415

    alif = checkout("SE-adlif", "models.alif")

    def make(layer):
        def of(tau_u, tau_w, a, b, q):
            ranges = {"tau_u_range": [0.0, 1.0], "tau_w_range": [0.0, 1.0]}  # so that the weight is the time constant
            options = {"input_size": NEURONS, "n_neurons": NEURONS, "q": q, "use_recurrent": False}
            cell = layer(DictConfig(ranges | options))
            give(cell, weight=torch.eye(NEURONS), a=a, b=b)
            give(cell.tau_u_trainer, weight=tau_u)
            give(cell.tau_w_trainer, weight=tau_w)
            return over_time(cell, (torch.zeros(BATCH, NEURONS),) * 3)

        return of

    values = {"tau_u": 10.0, "tau_w": 100.0, "a": 0.5, "b": 1.0}
    yield torch_case("se", make(alif.SEAdLIF), trained=tuple(values), **values, q=120.0)
    yield torch_case("ef", make(alif.EFAdLIF), trained=tuple(values), **values, q=65.0)


def sparch():
    """Cells that start from zeros instead of random numbers, with spikes of 64 bits."""
    import torch  # noqa: PLC0415

    snns = checkout("sparch", "sparch.models.snns")

    def run(method, currents):
        patch = unittest.mock.patch
        with patch("torch.rand", torch.zeros), patch("torch.Tensor.float", torch.Tensor.double):
            return method(currents.swapaxes(0, 1)).swapaxes(0, 1)

    def adlif(**values):
        cell = snns.adLIFLayer(NEURONS, NEURONS, BATCH, normalization="none")
        give(cell, **values)
        return lambda currents: run(cell._adlif_cell, currents)

    def radlif(**values):
        cell = snns.RadLIFLayer(NEURONS, NEURONS, BATCH, normalization="none")
        give(cell, **values)

        def recurrent_run(inputs, weight, recurrent):
            give(cell.V, weight=recurrent)
            return run(cell._radlif_cell, inputs @ weight)

        return recurrent_run

    values = {"alpha": 0.9, "beta": 0.98, "a": 0.04, "b": 1.5}
    yield torch_case("adlif", adlif, trained=tuple(values), **values)
    yield torch_case("radlif", radlif, trained=tuple(values), recurrent=True, **values)


def brf():
    import torch  # noqa: PLC0415

    modules = checkout("brf-neurons", "snn.modules")

    def make(layer, states):
        def of(omega, b_offset):
            cell = layer(NEURONS, NEURONS)
            cell.linear = torch.nn.Identity()
            give(cell, omega=omega, b_offset=b_offset)

            def step(current, state):
                state = cell(current, state)
                return state[0], state

            return over_time(step, (torch.zeros(BATCH, NEURONS),) * states)

        return of

    both = ("omega", "b_offset")
    yield torch_case("rf", make(modules.RFCell, 3), trained=both, omega=20.0, b_offset=2.5)
    yield torch_case("brf", make(modules.BRFCell, 4), trained=both, omega=20.0, b_offset=1.0)
    yield torch_case("hrf", make(modules.HRFCell, 4), trained=both, omega=20.0, b_offset=1.0)


def tclif():
    import torch  # noqa: PLC0415

    node = checkout("TC-LIF/MNIST", "spiking_neuron.TCLIF").TCLIFNode
    triangle = checkout("TC-LIF/MNIST", "surrogate").Triangle

    def make(c1, c2, v_threshold, gamma):
        cell = node(v_threshold, surrogate_function=triangle.apply, gamma=gamma)
        give(cell, decay_factor=torch.stack([c1, c2])[None])
        return over_time(lambda current, _: (cell(current), None))

    yield torch_case("node", make, trained=("c1", "c2"), c1=0.4, c2=-0.4, v_threshold=1.0, gamma=0.5)


# --- JAX -------------------------------------------------------------------------------------------------------------


def jax_case(case, make, *, trained=(), recurrent=False, least=0.15, **parameters):
    """As :func:`torch_case`, with ``make(**parameters)`` a function of currents and recurrent weights."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    def run(values):
        given = {name: values.get(name, number) for name, number in parameters.items()}
        more = {"recurrent": values["recurrent"]} if recurrent else {}
        return make(**given)(values["inputs"] @ values["weight"], **more)

    def spikes_of(*arrays):
        numbers = {n: jnp.float64(parameters[n]) for n in trained}
        return run({**dict(zip(("inputs", "weight", "recurrent"), arrays, strict=False)), **numbers})

    drawn = draw(case, spikes_of, recurrent, least)
    values = {n: jnp.asarray(a) for n, a in drawn.items() if n != "cotangent"}
    values |= {n: jnp.float64(parameters[n]) for n in trained}
    spikes, back = jax.vjp(run, values)
    (gradients,) = back(jnp.asarray(drawn["cotangent"], spikes.dtype))
    return record(case, drawn, parameters, np.asarray(spikes), {n: np.asarray(g) for n, g in gradients.items()})


def spyx():
    import spyx.nn  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415
    from spyx.experimental import ResonateFire  # noqa: PLC0415

    def make(layer):
        def of(**parameters):
            cell = layer((NEURONS,), rngs=nnx.Rngs(0), **{n: 0.5 for n in parameters if n != "threshold"})
            for name, value in parameters.items():
                if name == "threshold":
                    cell.threshold = value
                else:
                    setattr(cell, name, nnx.Param(value))

            def run(currents, recurrent=None):
                if recurrent is not None:
                    cell.recurrent_w = nnx.Param(recurrent)
                return spyx.nn.run(cell, currents)[0]

            return run

        return of

    def resonate(decay, omega, threshold):
        cell = ResonateFire((NEURONS,), decay, omega, threshold, rngs=nnx.Rngs(0))
        return lambda currents: spyx.nn.run(cell, currents)[0]

    yield jax_case("if", make(spyx.nn.IF), threshold=1.0)
    yield jax_case("lif", make(spyx.nn.LIF), trained=("beta",), beta=0.85, threshold=0.8)
    yield jax_case("rlif", make(spyx.nn.RLIF), trained=("beta",), recurrent=True, beta=0.85, threshold=0.8)
    values = {"alpha": 0.6, "beta": 0.8, "threshold": 1.2}
    yield jax_case("cubalif", make(spyx.nn.CuBaLIF), trained=("alpha", "beta"), **values)
    yield jax_case("rcubalif", make(spyx.nn.RCuBaLIF), trained=("alpha", "beta"), recurrent=True, **values)
    yield jax_case("alif", make(spyx.nn.ALIF), trained=("beta", "gamma"), beta=0.85, gamma=0.9, threshold=0.8)
    yield jax_case("psu_lif", make(spyx.nn.PSU_LIF), trained=("beta",), beta=0.85, threshold=0.8)
    yield jax_case("resonate_fire", resonate, decay=0.1, omega=0.6, threshold=1.0)


def jaxpike():
    import equinox as eqx  # noqa: PLC0415
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    import jaxpike  # noqa: PLC0415

    jaxpike.neurons.STATE_DTYPE = jnp.float64

    def make(neuron, **options):
        def of(log_tau, **parameters):
            cell = eqx.tree_at(lambda n: n.log_tau, neuron(20.0, **parameters, **options), jnp.asarray(log_tau))

            def run(currents):
                def step(v, x):
                    return cell(v, x)

                return jax.lax.scan(step, cell.init_state(currents.shape[1:]), currents)[1]

            return run

        return of

    log_tau = float(np.log(6.0))
    yield jax_case("lif", make(jaxpike.neurons.LIF), trained=("log_tau",), log_tau=log_tau)
    yield jax_case(
        "lif_zero", make(jaxpike.neurons.LIF, reset="zero"), trained=("log_tau",), log_tau=log_tau, threshold=0.8
    )
    yield jax_case("alif", make(jaxpike.neurons.ALIF), trained=("log_tau",), log_tau=log_tau, tau_a=15.0, beta=0.5)


def sparx():
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415
    from sparx import dynamics  # noqa: PLC0415
    from sparx.dynamics import SynapticInput  # noqa: PLC0415

    def make(model, drive="jump", **options):
        def of(**parameters):
            cell = model(**parameters, **options)

            def run(currents):
                def step(state, x):
                    state, output = cell.step(state, SynapticInput(**{drive: x}), 1.0)
                    return state, output.value

                return jax.lax.scan(step, cell.init_state(currents.shape[1:], jnp.float64), currents)[1]

            return run

        return of

    def synaptic(decay, synapse_decay, threshold):
        membrane = dynamics.LIFCell(decay, threshold)
        return make(lambda: dynamics.Serial(dynamics.LICell(synapse_decay), membrane))()

    lif, both = dynamics.LIFCell, ("decay", "threshold")
    yield jax_case("lif", make(lif), trained=both, decay=0.85, threshold=0.8)
    yield jax_case("lif_zero", make(lif, reset="zero", detach_reset=True), trained=both, decay=0.85, threshold=0.8)
    values = {"decay": 0.85, "synapse_decay": 0.6, "threshold": 1.2}
    yield jax_case("synaptic", synaptic, trained=tuple(values), **values)
    values = {"decay": 0.85, "adapt_decay": 0.95, "beta": 0.3}
    yield jax_case("alif", make(dynamics.ALIFCell), trained=tuple(values), **values, threshold=0.8)
    values = {"a": 0.02, "b": 0.2, "c": -65.0, "d": 8.0}
    for scheme in ("published", "euler", "semi_implicit"):
        izhikevich = make(dynamics.Izhikevich, "current", scheme=scheme)
        yield jax_case(f"izhikevich_{scheme}", izhikevich, trained=tuple(values), least=0.05, **values)


LIBRARIES = {
    f.__name__: f for f in (snntorch, spikingjelly, norse, sinabs, seadlif, sparch, brf, tclif, spyx, jaxpike, sparx)
}


def main(names):
    if {"spyx", "jaxpike", "sparx"} & {*names}:
        import jax  # noqa: PLC0415

        jax.config.update("jax_enable_x64", True)
    for name in names:
        print(name)
        cases = {}
        for case in LIBRARIES[name]():
            cases |= case
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **cases)
        print(f"{path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:] or LIBRARIES)
