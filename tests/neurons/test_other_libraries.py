"""The cells of the page on migration against what these libraries computed themselves.

``scripts/record_neurons.py`` recorded their spikes and gradients in ``tests/recorded/``. SpyTorch,
stork, snnax and the ALIF of Yin et al. are compared with a loop in the order of their code.
"""

import ast
import contextlib
import dataclasses
import re
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, few

import spikegrad
from spikegrad import Delayed, Layer, Network, neurons, surrogates

pytestmark = [pytest.mark.ci, pytest.mark.slow]

PAGE = ROOT / "docs" / "from-other-libraries.md"
PAPERS = {"seadlif", "sparch", "brf", "tclif"}
SPIKES_ONLY = {"norse_lif_refractory", "norse_lsnn_recurrent", "sinabs_alif"}


def recorded():
    found = {}
    for path in sorted((ROOT / "tests" / "recorded").glob("*.npz")):
        with np.load(path) as file:
            for case in file.files:
                found[f"{path.stem}_{case}"] = {
                    name: file[case][name] for name in file[case].dtype.names
                }
    return found


RECORDED = recorded()
SECTIONS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
NAMES = {
    **vars(spikegrad),
    **vars(neurons),
    **vars(surrogates),
    "jax": jax,
    "jnp": jnp,
    "dataclasses": dataclasses,
}
NAMES |= runpy.run_path(str(ROOT / "examples" / "other_resets.py"))


def statements(section):
    """The cells of a section, one statement each."""
    return ast.parse(
        "\n".join(re.findall(r"^```py\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    ).body


def assigned(section):
    return {
        node.id
        for node in ast.walk(ast.Module(statements(section), []))
        if isinstance(node, ast.Name)
    }


def place_of(case):
    """The section of a case and the name of its cell there, without the name of the library if the
    title has it.
    """
    library, _, rest = case.partition("_")
    for section in SECTIONS:
        names = assigned(section)
        if library in section.partition("\n")[0].lower() and {rest, f"{rest}_"} & names:
            return section, rest if rest in names else f"{rest}_"
        if case in names:
            return section, case
    raise AssertionError(f"the page has no cell for {case}")


LATE = {"spytorch": 2, "stork": 3, "norse_lsnn": 1, "spyx": 1}  # time steps, as the text says
IN_TIME = {"spyx_psu_lif", "spyx_resonate_fire"}


def spikes_of(case, weight, inputs, recurrent=None, **given):
    """Spikes of one layer with the cell of the page, ``(steps, batch, neurons)``."""
    late = (
        0 if case in IN_TIME else next((n for name, n in LATE.items() if case.startswith(name)), 0)
    )
    if case.startswith("sparx_izhikevich_"):
        case, given["order"] = (
            "sparx_izhikevich",
            case.removeprefix("sparx_izhikevich_").replace("_", "-"),
        )
    section, name = place_of(case)
    space = {**NAMES, **given, "weight": weight}
    for statement in statements(section):
        with contextlib.suppress(NameError):  # it reads a parameter of another neuron
            exec(compile(ast.Module([statement], []), str(PAGE), "exec"), space)
    if recurrent is not None and case == "sparch_radlif":
        recurrent = recurrent * (1 - jnp.eye(len(recurrent)))
    if recurrent is not None and late and not case.startswith("spyx"):
        recurrent = Delayed(recurrent, {1: 2}.get(late, 3))
    network = Network([Layer(space.get(f"{name}_weight", weight), space[name], recurrent)])
    state, out = network.initial_state(inputs[0])["0"]
    if (
        start := space.get(f"{name}_start")
    ) is not None:  # a number, or one for each array of the state
        state = jax.tree.map(jnp.full_like, state, start)
    spikes = network(inputs, {"0": (state, out)})[1]
    return jnp.concatenate([jnp.zeros_like(spikes[:late]), spikes[: len(spikes) - late]])


def compute(case):
    """Spikes, and the gradients that were recorded."""
    arrays = {
        n: a.astype(np.float64)
        for n, a in RECORDED[case].items()
        if a.ndim and n != "spikes" and n[:2] != "d_"
    }
    numbers = {n: float(a) for n, a in RECORDED[case].items() if not a.ndim and n[:2] != "d_"}
    cotangent = arrays.pop("cotangent")
    values = {
        n: jnp.asarray({**arrays, **numbers}[n])
        for n in [*arrays, *numbers]
        if f"d_{n}" in RECORDED[case]
    }

    def loss(values):
        given = {**arrays, **numbers, **values}
        data = [given.pop(name) for name in ("weight", "inputs", "recurrent") if name in given]
        spikes = spikes_of(case, *data, **given)
        return (cotangent * spikes).sum(), spikes

    gradients, spikes = jax.jit(jax.grad(loss, has_aux=True))(values)
    return np.asarray(spikes), gradients


def test_every_cell_of_the_page_is_compared():
    libraries = {case.partition("_")[0] for case in RECORDED}
    assert libraries == {
        "snntorch",
        "spikingjelly",
        "norse",
        "sinabs",
        "spyx",
        "jaxpike",
        "sparx",
        *PAPERS,
    }
    cases = {
        re.sub("(sparx_izhikevich).*", r"\1", case.partition(",")[0])
        for case in (*RECORDED, *LOOPS)
    }
    compared = {place_of(case) for case in cases}
    for section in SECTIONS:
        for statement in statements(section):
            if not isinstance(statement, ast.Assign):
                continue
            made = {
                getattr(node.func, "id", "")
                for node in ast.walk(statement.value)
                if isinstance(node, ast.Call)
            }
            classes = {
                *neurons.__all__,
                "LIF",
                "SynapticLIF",
                "AdaptiveLIF",
                "DetachedReset",
                "RaisedReset",
            }
            if made & (classes - {"decay_from_tau"}):
                assert {(section, target.id) for target in statement.targets} <= compared


def test_weights_from_pytorch_are_its_loop():
    """A Conv2d and a Linear after a Flatten, on an image with channels first."""
    space = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if "def from_torch" in block:
            exec(block, space)
    rng = np.random.default_rng(0)
    shapes = {
        "conv.weight": (4, 2, 3, 3),
        "conv.bias": (4,),
        "fc.weight": (5, 4 * 6 * 4),
        "fc.bias": (5,),
    }
    state = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    image = rng.normal(size=(2, 8, 6)).astype("f4")
    maps = np.zeros((4, 6, 4), np.float32) + state["conv.bias"][:, None, None]
    for i, j in np.ndindex(6, 4):
        maps[:, i, j] += (state["conv.weight"] * image[None, :, i : i + 3, j : j + 3]).sum(
            (1, 2, 3)
        )
    kernel, bias = space["from_torch"](state, "conv")
    layout = ("NHWC", "HWIO", "NHWC")
    here = image.transpose(1, 2, 0)[None]
    here = jax.lax.conv_general_dilated(here, kernel, (1, 1), "VALID", dimension_numbers=layout)
    here = here + bias.reshape(1, 1, 1, -1)
    np.testing.assert_allclose(here[0].transpose(2, 0, 1), maps, rtol=1e-4, atol=1e-5)
    weight, bias = space["from_torch"](state, "fc", here.shape[1:])
    outputs = here.reshape(1, -1) @ weight + bias[None]
    np.testing.assert_allclose(
        outputs[0], state["fc.weight"] @ maps.ravel() + state["fc.bias"], rtol=1e-4, atol=1e-5
    )


def test_model_of_snntorch_is_its_loop():
    """``Leaky`` subtracts the threshold one step after the spike, and fires only above it."""
    rng = np.random.default_rng(0)
    inputs = (rng.random((25, 4, 20)) < 0.3).astype(np.float32)
    arrays = [
        rng.normal(0, 0.5, shape).astype(np.float32) for shape in ((30, 20), (30,), (10, 30), (10,))
    ]
    expected = inputs
    for w, b in zip(arrays[::2], arrays[1::2], strict=True):
        potential, found = np.zeros((4, len(b)), np.float32), []
        for x in expected:
            potential = np.float32(0.9) * potential + (x @ w.T + b) - (potential > 1)
            found.append((potential > 1).astype(np.float32))
        expected = np.stack(found)
    space = {}
    exec(re.search(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1], space)
    spikes = space["model"](*map(jnp.asarray, arrays))(jnp.asarray(inputs))[1]
    assert 0.05 < expected.mean() < 0.6
    np.testing.assert_array_equal(spikes, expected)


BY_DEFAULT = SPIKES_ONLY | {
    "snntorch_leaky_subtract",
    "spikingjelly_plif",
    "norse_lif_recurrent",
    "spyx_alif",
    "jaxpike_lif",
    "spikingjelly_izhikevich",
    "sparx_alif",
    "seadlif_ef",
    "tclif_node",
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if case in BY_DEFAULT else pytest.mark.every)
        for case in RECORDED
    ],
)
def test_spikes_and_gradients_are_those_of_the_library(x64, case):
    spikes, gradients = compute(case)
    np.testing.assert_array_equal(spikes, RECORDED[case]["spikes"])
    agree = True
    for name, got in gradients.items():
        expected = RECORDED[case][f"d_{name}"]
        agree &= bool(np.abs(np.asarray(got) - expected).max() <= 1e-5 * np.abs(expected).max())
    assert agree != (case in SPIKES_ONLY)


def superspike(steepness):
    return lambda x: 1 / (1 + steepness * jnp.abs(x)) ** 2


def spytorch_step(p, state, current, fire, stop):
    """SpyTorch's tutorials 1 to 4: the spike of the old potential, which reads the old synaptic
    current.
    """
    mem, syn = state
    out = fire(mem - 1.0, superspike(100.0))
    rst = stop(out)
    return ((p["beta"] * mem + syn) * (1.0 - rst), p["alpha"] * syn + current), out


def stork_step(p, state, current, fire, stop):
    """stork's ``LIFGroup.forward``."""
    mem, syn = state
    out = fire(mem - 1.0, superspike(20.0))
    rst = out if p["diff_reset"] else stop(out)
    new_syn = p["alpha"] * syn + current
    return ((p["beta"] * mem + (1.0 - p["beta"]) * syn) * (1.0 - rst), new_syn), out


def snnax_step(p, state, current, fire, stop):
    """snnax's ``LIF``, with ``stop_reset_grad=True``."""
    mem_pot, syn_curr, spike_output = state
    reset_pot = (mem_pot - p["reset_val"]) * spike_output
    mem_pot = mem_pot - stop(reset_pot)
    alpha, beta = p["decay_constants"]
    mem_pot = alpha * mem_pot + (1.0 - alpha) * syn_curr
    syn_curr = beta * syn_curr + (1.0 - beta) * current
    spike_output = fire(mem_pot - p["threshold"], lambda x: 1 / (10.0 * jnp.abs(x) + 1.0))
    return (mem_pot, syn_curr, spike_output), spike_output


def multi_gaussian(x):
    def gaussian(x, mu, sigma):
        return jnp.exp(-((x - mu) ** 2) / (2 * sigma**2)) / jnp.sqrt(2 * jnp.pi) / sigma

    return 0.5 * (
        1.15 * gaussian(x, 0.0, 0.5) - 0.15 * gaussian(x, 0.5, 3.0) - 0.15 * gaussian(x, -0.5, 3.0)
    )


def yin_step(p, state, current, fire, stop):
    """``mem_update_adp`` of Yin et al. 2021."""
    del stop
    mem, spike, b = state
    alpha, ro = np.exp(-1.0 / p["tau_m"]), np.exp(-1.0 / p["tau_adp"])
    b = ro * b + (1 - ro) * spike
    threshold = p["b_j0"] + p["beta"] * b
    mem = mem * alpha + (1 - alpha) * current - threshold * spike
    spike = fire(mem - threshold, multi_gaussian)
    return (mem, spike, b), spike


SNNAX = {"decay_constants": (0.9, 0.8), "threshold": 0.7, "reset_val": 0.2}
YIN = {"tau_m": 5.0, "tau_adp": 8.0, "beta": 1.8, "b_j0": 0.1}
TIMES = {"tau_mem": 0.01, "tau_syn": 0.005, "time_step": 0.001}
DECAYS = {"alpha": np.exp(-0.001 / 0.005), "beta": np.exp(-0.001 / 0.01)}


def stork(**reset):
    return stork_step, DECAYS | reset, TIMES | reset, (0.0, 0.0), 1, 2.0


# the step, its parameters and those of the page, the state at the start, steps of a connection,
# weights
LOOPS = {
    "spytorch": (spytorch_step, DECAYS, TIMES, (0.0, 0.0), 0, 0.3),
    "spytorch, recurrent": (spytorch_step, DECAYS, TIMES, (0.0, 0.0), 0, 0.3),
    "stork_lif": stork(diff_reset=False),
    "stork_lif, diff_reset": stork(diff_reset=True),
    "stork_lif, recurrent": stork(diff_reset=False),
    "snnax_lif": (snnax_step, SNNAX, SNNAX, (0.0, 0.0, 0.0), 0, 3.0),
    "yin_alif, recurrent": (yin_step, YIN, YIN, (0.0, 0.0, YIN["b_j0"]), 0, 3.0),
}


def scan(step, carry, xs):
    """``jax.lax.scan`` in NumPy."""
    outs = []
    for x in xs:
        carry, out = step(carry, x)
        outs.append(out)
    return carry, np.stack(outs)


def loop_of(name, xp, scan, fire, stop):
    """All steps of the source, with NumPy or JAX. Neither the loop nor the spike is the
    library's.
    """
    step, p, _, start, connection, _ = LOOPS[name]

    def run(weight, inputs, recurrent=None):
        currents = (
            xp.concatenate([inputs[:connection] * 0, inputs[: len(inputs) - connection]]) @ weight
        )
        zeros = xp.zeros(currents.shape[1:])

        def one(carry, current):
            state, out = carry
            if recurrent is not None:
                current = current + out @ recurrent
            state, out = step(p, state, current, fire, stop)
            return (state, out), out

        return scan(one, (tuple(zeros + value for value in start), zeros), currents)[1]

    return run


def straight_through(x, slope):
    """A step with a slope: the slope times a difference that is 0."""
    return (x > 0).astype(x.dtype) + jax.lax.stop_gradient(slope(x)) * (
        x - jax.lax.stop_gradient(x)
    )


@pytest.mark.parametrize(
    "name", few(LOOPS, "spytorch", "stork_lif, recurrent", "snnax_lif", "yin_alif, recurrent")
)
def test_spikes_and_gradients_are_those_of_the_code(x64, name):
    *_, given, _, _, scale = LOOPS[name]
    rng = np.random.default_rng(sum(name.encode()))
    weight, inputs = rng.normal(scale / 3, scale, (4, 6)), rng.uniform(0, 1, (24, 2, 4))
    data = [weight, inputs]
    if "recurrent" in name:
        data.append(rng.normal(0, scale / 2, (6, 6)) * (1 - np.eye(6)))
    expected = loop_of(name, np, scan, lambda x, _: (x > 0).astype(float), lambda x: x)(*data)
    assert 0.1 < expected.mean() < 0.6

    cotangent = jnp.asarray(rng.normal(size=expected.shape))
    data = [jnp.asarray(array) for array in data]
    loop = loop_of(name, jnp, jax.lax.scan, straight_through, jax.lax.stop_gradient)

    @jax.jit
    def both(*data):
        spikes, back = jax.vjp(
            lambda *data: spikes_of(name.partition(",")[0], *data, **given), *data
        )
        return spikes, back(cotangent), jax.vjp(loop, *data)[1](cotangent)

    spikes, gradients, wanted = jax.device_get(both(*data))
    np.testing.assert_array_equal(spikes, expected)
    assert (
        max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(gradients, wanted, strict=True))
        < 1e-9
    )
