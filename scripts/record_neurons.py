"""Record what other libraries' neurons do: spikes, and gradients by backpropagation through time.

``tests/neurons/test_other_libraries.py`` holds the cells of ``docs/from-other-libraries.md`` against these files.
Run with the names of libraries that are installed, each in an environment of its own if need be:

    python scripts/record_neurons.py snntorch spikingjelly norse sinabs
    python scripts/record_neurons.py spyx jaxpike

Recorded with snntorch 1.0.0, spikingjelly 2.0.0, norse 1.1.0 and sinabs 3.1.3 (PyTorch 2.13.0), and with spyx 1.0.0 and
jaxpike 0.1.4 (JAX 0.12.0), in float64 on a CPU, and written in float32.

Of each case a file holds a record: the arrays of which the library computes (``inputs``, ``weight``, ``recurrent``
if there are such connections, and numbers that are parameters), the ``spikes``, and of the loss
``(cotangent * spikes).sum()`` the gradients ``d_<name>`` of arrays and of the parameters that the library trains.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

STEPS, BATCH, INPUTS, NEURONS = 24, 2, 4, 6
FOLDER = Path(__file__).resolve().parent.parent / "tests" / "recorded"


def draw(case, spikes_of, recurrent):
    """Inputs, weights and the cotangent of the spikes; weights so large that neurons fire in a part of the steps."""
    for scale in 0.1 * 1.2 ** np.arange(30):
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
        if spikes.mean() > 0.15:
            return arrays
    raise ValueError(f"{case}: silent")


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_case(case, make, *, trained=(), recurrent=False, **parameters):
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

    drawn = draw(case, spikes_of, recurrent)
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

    yield torch_case("lif", lif(), tau=2.0)
    yield torch_case("lif_no_decay_input", lif(decay_input=False), tau=3.0, v_threshold=0.8, v_reset=-0.25)
    yield torch_case("lif_soft_detached", soft, tau=2.5, v_threshold=0.8)
    yield torch_case("plif", parametric, trained=("w",), w=-0.7)
    yield torch_case("if", lambda v_threshold: neuron.IFNode(v_threshold, step_mode="m"), v_threshold=1.0)


def norse():
    import torch  # noqa: PLC0415
    from norse.torch.functional import lif, lif_box, lif_refrac, reset  # noqa: PLC0415

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

    yield torch_case("lif", feed_forward, tau_syn_inv=200.0, tau_mem_inv=100.0, v_th=0.5, v_reset=-0.1)
    yield torch_case("lif_recurrent", recurrent, recurrent=True, tau_syn_inv=200.0, tau_mem_inv=100.0, v_th=0.5)
    yield torch_case("lif_box", box, tau_mem_inv=250.0, v_th=0.5)
    yield torch_case("lif_refractory", refractory, tau_syn_inv=200.0, tau_mem_inv=100.0, rho_reset=3.0)


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


# --- JAX -------------------------------------------------------------------------------------------------------------


def jax_case(case, make, *, trained=(), recurrent=False, **parameters):
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

    drawn = draw(case, spikes_of, recurrent)
    values = {n: jnp.asarray(a) for n, a in drawn.items() if n != "cotangent"}
    values |= {n: jnp.float64(parameters[n]) for n in trained}
    spikes, back = jax.vjp(run, values)
    (gradients,) = back(jnp.asarray(drawn["cotangent"], spikes.dtype))
    return record(case, drawn, parameters, np.asarray(spikes), {n: np.asarray(g) for n, g in gradients.items()})


def spyx():
    import spyx.nn  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

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

    yield jax_case("if", make(spyx.nn.IF), threshold=1.0)
    yield jax_case("lif", make(spyx.nn.LIF), trained=("beta",), beta=0.85, threshold=0.8)
    yield jax_case("rlif", make(spyx.nn.RLIF), trained=("beta",), recurrent=True, beta=0.85, threshold=0.8)
    yield jax_case("cubalif", make(spyx.nn.CuBaLIF), trained=("alpha", "beta"), alpha=0.6, beta=0.8, threshold=1.2)
    yield jax_case("alif", make(spyx.nn.ALIF), trained=("beta", "gamma"), beta=0.85, gamma=0.9, threshold=0.8)


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


LIBRARIES = {f.__name__: f for f in (snntorch, spikingjelly, norse, sinabs, spyx, jaxpike)}


def main(names):
    if {"spyx", "jaxpike"} & {*names}:
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
