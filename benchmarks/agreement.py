"""Gradients of one network under the conventions of several libraries, against each other and against true gradients.

Weights and inputs are drawn, several times; every mean is over these draws, and every error that of the mean. Cosines
and ratios of norms are those of the gradient of each layer's weights.

- *surrogates*: spikes are the same, slopes those of other libraries at their defaults; gradients go through the reset
  or not. Against ``Sigmoid(4)``.
- *pairs*: the same, each against each other, in the first layer.
- *neurons*: other resets, gains and thresholds, and whole neurons of six libraries. Most of these have other spikes.
- *drawn*: small networks whose spikes are drawn (escape noise). All patterns of spikes are added up, so that the
  gradient of the mean loss is exact; what is compared with it is the mean of the surrogate gradients.
- *smoothed*: larger networks, and the gradient of the loss averaged over noise in the weights, by antithetic pairs. Two
  halves of them are independent, so that their inner product has the squared norm without the estimate's own noise.

    python benchmarks/agreement.py --json FILE

It takes about ten minutes on two cores; nothing is timed.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _measure import arguments, chosen, report
from not_a_gradient import drawn_network, mean_loss

import spikegrad
from spikegrad import (
    LIF,
    Arctan,
    InvSquareGrad,
    Layer,
    LeakyReadout,
    Network,
    PiecewiseQuadratic,
    Sigmoid,
    Surrogate,
    get,
    measure,
    rescaled,
    soft,
    strict,
)
from spikegrad._spike_types import Strict
from spikegrad._surrogate import curve_of, spike_types
from spikegrad.surrogates.presets import PRESETS

PAGE = Path(__file__).parents[1] / "docs" / "from-other-libraries.md"
DECAY, OUTPUTS = 0.9, 10
LAYOUTS = ((1, 100), (3, 10), (3, 100), (3, 1000), (6, 100))  # depth, steps
SURROGATES = (  # by the name and the defaults that they have there
    "spikingjelly.Sigmoid",
    "snntorch.atan",
    "braintools.ReluGrad",
    "sinabs.SingleExponential",
    "norse.super",
    "spyx.superspike",
    "stork.SuperSpike",
    "norse.super_git",
    "snnax.superspike_surrogate",
    "rockpool.StepPWL(max_spikes_per_dt=1)",
    "snntorch.straight_through_estimator",
    "lava_dl.cuba(threshold=1)",
    "mlx_snn.fast_sigmoid_surrogate",
    "snntorch.sigmoid",
)
REFERENCE = Sigmoid(4.0)
Spiking = Callable[[jax.Array, jax.Array], jax.Array]  # spikes of a layer, of its weights and inputs


# --- networks --------------------------------------------------------------------------------------------------------


def neurons(cell: LIF) -> Spiking:
    return lambda w, x: Network([Layer(w, cell)])(x)[1]


def readout(last: jax.Array, x: jax.Array) -> jax.Array:
    return Network([Layer(last, LeakyReadout(DECAY))])(x)[1].mean(0)


def loss(weights: list, x: jax.Array, labels: jax.Array, layer: Spiking) -> tuple[jax.Array, list]:
    """Cross-entropy of the readout's mean; and the spikes of every layer."""
    spikes = []
    for w in weights[:-1]:
        x = layer(w, x)
        spikes.append(x)
    scores = jax.nn.log_softmax(readout(weights[-1], x))
    return -jnp.take_along_axis(scores, labels[:, None], axis=1).mean(), spikes


def draw(key: jax.Array, depth: int, steps: int, size: int = 64, batch: int = 32) -> tuple[list, jax.Array, jax.Array]:
    """Weights, inputs and labels: random rates for each class; potentials, without resets, vary by a threshold.

    That spread is reached by the rate at which the inputs of a layer fire (Rossbroich, Gygax, Zenke 2022).
    """
    *keys, of_labels, of_rates, of_inputs = jax.random.split(key, depth + 4)
    labels = jax.random.randint(of_labels, (batch,), 0, OUTPUTS)
    rates = 0.2 * jax.random.uniform(of_rates, (OUTPUTS, size))
    inputs = jax.random.bernoulli(of_inputs, rates[labels], (steps, batch, size)).astype(jnp.float32)
    weights, x = [], inputs
    for n, k in enumerate(keys):
        out = OUTPUTS if n == depth else size
        weights.append(jax.random.normal(k, (size, out)) * jnp.sqrt((1 - DECAY**2) / (size * x.mean())))
        if n < depth:
            x = neurons(LIF(DECAY))(weights[-1], x)
    return weights, inputs, labels


def drawn(draws: int, depth: int, steps: int, **sizes: int) -> Any:
    keys = jax.random.split(jax.random.key(depth * 10_000 + steps), draws)
    return jax.jit(jax.vmap(functools.partial(draw, depth=depth, steps=steps, **sizes)))(keys)


def gradients(data: Any, layer: Spiking) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Gradients of each hidden layer, ``(draws, weights)``, and the spikes."""
    found, spikes = jax.jit(jax.vmap(jax.grad(functools.partial(loss, layer=layer), has_aux=True)))(*data)
    return [flat(g) for g in found[:-1]], [np.asarray(s, bool) for s in spikes]


def flat(x: jax.Array) -> np.ndarray:
    return np.asarray(x, np.float64).reshape(len(x), -1)


# --- measures --------------------------------------------------------------------------------------------------------


def compared(got: list[np.ndarray], reference: list[np.ndarray]) -> dict[str, list]:
    """Cosine and ratio of norms, of each layer; None where a draw has no gradient."""
    with np.errstate(invalid="ignore", divide="ignore"):
        sizes = [(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)) for a, b in zip(got, reference, strict=True)]
        cosines = [(a * b).sum(1) / (m * n) for a, b, (m, n) in zip(got, reference, sizes, strict=True)]
        return summary(cosines, [m / n for m, n in sizes])


def summary(cosines: list[np.ndarray], ratios: list[np.ndarray]) -> dict[str, list]:
    """Means with their errors; of ratios, of their logarithms."""
    logs = [np.log(ratio) for ratio in ratios]
    return {
        "cosine": [rounded(c.mean()) for c in cosines],
        "error": [rounded(standard_error(c)) for c in cosines],
        "ratio": [0.0 if np.isneginf(log).all() else rounded(np.exp(log.mean())) for log in logs],
        "ratio_error": [rounded(standard_error(log)) for log in logs],
    }


def standard_error(x: np.ndarray) -> float:
    return x.std(ddof=1) / np.sqrt(len(x))


def rounded(x: float) -> float | None:
    return float(f"{x:.4g}") if np.isfinite(x) else None


# --- conventions -----------------------------------------------------------------------------------------------------


def with_numbers(curve: Surrogate) -> Surrogate:
    """A curve that is learnt has arrays in place of its numbers."""
    return jax.tree.map(float, curve)


def alike(name: str) -> list[str]:
    """What else has this curve by default, and one spike a step."""
    mine = with_numbers(curve_of(name, get(name)))
    others = {
        other: make()
        for other, make in PRESETS.items()
        if all(p.default is not p.empty for p in inspect.signature(make).parameters.values())
    }
    return [
        other
        for other, made in others.items()
        if other != name
        and with_numbers(curve_of(other, made)) == mine
        and all(isinstance(kind, Strict) for kind in spike_types(made))
    ]


def surrogates(draws: int) -> Iterator[dict[str, Any]]:
    for depth, steps in LAYOUTS:
        data = drawn(draws, depth, steps)
        for detached in (False, True) if (depth, steps) in ((3, 100), (6, 100)) else (False,):
            base, spikes = gradients(data, neurons(LIF(DECAY, surrogate=REFERENCE, detach_reset=detached)))
            every = {}
            for name in SURROGATES:
                found, own = gradients(data, neurons(LIF(DECAY, surrogate=get(name), detach_reset=detached)))
                every[name] = found[:1]
                row = {"part": "surrogates", "depth": depth, "steps": steps, "detached": detached, "name": name}
                row |= {"curve": repr(curve_of(name, get(name))), "alike": alike(name)} if depth == 1 else {}
                yield row | {"common": common(own, spikes)[-1]} | compared(found, base)
            if (depth, steps) == (3, 100):
                for name, found in every.items():
                    cosines = [compared(found, other)["cosine"][0] for other in every.values()]
                    yield {"part": "pairs", "detached": detached, "name": name, "cosine": cosines}


def common(spikes: list[np.ndarray], theirs: list[np.ndarray]) -> list[float]:
    """The share of spikes that both have, of each layer."""
    return [float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1)) for a, b in zip(spikes, theirs, strict=True)]


def cell_of_the_page(library: str, name: str, **parameters: Any) -> LIF:
    """A neuron of the page on other libraries, which tests compare with those libraries."""
    _, section = re.split(rf"^## {library}$", PAGE.read_text(), flags=re.MULTILINE)
    blocks = re.findall(r"^```py\n(.*?)^```$", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    space = {**vars(spikegrad), **vars(spikegrad.neurons), **vars(spikegrad.surrogates), "jnp": jnp, **parameters}
    for statement in ast.parse("\n".join(blocks)).body:
        with contextlib.suppress(NameError):  # it reads a parameter of another neuron
            exec(compile(ast.Module([statement], []), str(PAGE), "exec"), space)
    return space[name]


def conventions() -> Iterator[tuple[str, str, Spiking]]:
    """What differs, the name, and the layer; each against a plain ``LIF``."""
    gain = 1 - DECAY
    yield "spikes are the same", "reset detached", neurons(LIF(DECAY, detach_reset=True))
    yield "spikes are the same", "fires above the threshold alone", neurons(LIF(DECAY, surrogate=strict(REFERENCE)))
    yield "the reset", "a step late", neurons(LIF(DECAY, delay_reset=True))
    yield "the reset", "to zero", neurons(LIF(DECAY, reset="value"))
    yield "the reset", "none", neurons(LIF(DECAY, reset="none"))
    yield "the gain, weights as they are", "1 - decay", neurons(LIF(DECAY, norm_input=True))
    yield "the gain, weights divided by it", "1 - decay", scaled(neurons(LIF(DECAY, norm_input=True)), 1 / gain)
    whole = {
        "snnTorch Leaky": ("snnTorch", "leaky_subtract", {"beta": DECAY, "threshold": 1.0}, 1),
        "spyx LIF": ("spyx", "lif", {"beta": DECAY, "threshold": 1.0}, 1),
        "jaxpike LIF": ("jaxpike and sparx", "jaxpike_lif", {"log_tau": jnp.log(-1 / jnp.log(DECAY))}, gain),
        "norse LIFBoxCell": ("norse", "lif_box", {"tau_mem_inv": 1000 * gain, "v_th": 1.0}, gain),
        "sinabs LIF": ("sinabs", "lif", {"alpha_mem": DECAY}, gain),
        "SpikingJelly LIFNode": ("SpikingJelly", "lif", {"tau": 1 / gain}, gain),
    }
    for name, (library, cell, parameters, of_input) in whole.items():
        layer = neurons(cell_of_the_page(library, cell, **parameters))
        yield "a whole neuron", name, scaled(late(layer) if library == "spyx" else layer, 1 / of_input)


def late(layer: Spiking) -> Spiking:
    """The layer, whose spikes come one step later, as the page says of spyx."""
    return lambda w, x: jnp.pad(layer(w, x)[:-1], ((1, 0), (0, 0), (0, 0)))


def scaled(layer: Spiking, factor: float) -> Spiking:
    return lambda w, x: layer(factor * w, x)


def other_neurons(draws: int) -> Iterator[dict[str, Any]]:
    for depth, steps in LAYOUTS:
        data = drawn(draws, depth, steps)
        base = gradients(data, neurons(LIF(DECAY)))
        cases = [(*case, data, base) for case in conventions()]
        coarse = [jnp.round(4 * w) / 4 for w in data[0]], *data[1:]
        base = gradients(coarse, neurons(LIF(1.0)))
        above = neurons(LIF(1.0, surrogate=strict(REFERENCE)))
        cases.append(("weights in quarters, no leak", "fires above the threshold alone", above, coarse, base))
        for differs, name, layer, given, (expected, theirs) in cases:
            found, spikes = gradients(given, layer)
            row = {"part": "neurons", "depth": depth, "steps": steps, "differs": differs, "name": name}
            row |= {"rate": [rounded(s.mean()) for s in spikes], "common": [rounded(c) for c in common(spikes, theirs)]}
            yield row | compared(found, expected)


# --- against true gradients ------------------------------------------------------------------------------------------

SHAPES = {
    "logistic": Sigmoid(),
    "arctan": Arctan(),
    "triangle": PiecewiseQuadratic(),
    "inverse square": InvSquareGrad(),
}
WIDTHS = 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2  # half-widths, in thresholds


def of_area_one(shape: Surrogate, width: jax.Array) -> Surrogate:
    found = measure(shape)
    return rescaled(shape, half_width=width, peak=found.peak * found.half_width / (found.area * width))


def of_height_one(shape: Surrogate, width: jax.Array) -> Surrogate:
    return rescaled(shape, half_width=width, peak=1.0)


NORMALISED = {"area 1": of_area_one, "height 1": of_height_one}


def by_width(gradient: Callable, data: Any, make: Callable, shape: Surrogate, detached: bool) -> list[list[np.ndarray]]:
    """``gradient(data, cell)`` for every width: ``(draws, weights)`` of each hidden layer."""

    def of(width, data):
        return gradient(data, LIF(DECAY, surrogate=make(shape, width), detach_reset=detached))

    found = jax.jit(jax.vmap(of, (0, None)))(jnp.array(WIDTHS), data)
    return [[flat(g[n]) for g in found] for n in range(len(WIDTHS))]


def series(rows: list[dict[str, list]]) -> dict[str, list]:
    """Those of the first and the last hidden layer, for every width."""
    keys = [(layer, n, key) for layer, n in (("first", 0), ("last", -1)) for key in ("cosine", "error", "ratio")]
    return {f"{layer}_{key}": [row[key][n] for row in rows] for layer, n, key in keys}


def drawn_spikes(draws: int) -> Iterator[dict[str, Any]]:
    """Noise as wide as the default slope, and as the published one."""
    for depth, steps in ((1, 2), (1, 6), (2, 2), (3, 2)):
        make = functools.partial(drawn_network, depth=depth, steps=steps, examples=8)
        data = jax.vmap(make)(jax.random.split(jax.random.key(10 * depth + steps), 4 * draws))
        for noise in (Sigmoid(4.0), Sigmoid(10.0)):

            def gradient(data, cell, true=False, noise=noise):
                surrogate = None if true else cell.surrogate

                def of_one(weights, x, label):
                    def cross_entropy(out):
                        return -jax.nn.log_softmax(out)[label]

                    return mean_loss(weights, x, cross_entropy, cell, noise, surrogate)

                def total(weights, inputs, labels):
                    return jax.vmap(of_one, (None, 0, 0))(weights, inputs, labels).mean()

                return jax.vmap(jax.grad(total))(*data)[:-1]

            exact = [flat(g) for g in jax.jit(functools.partial(gradient, cell=LIF(DECAY), true=True))(data)]
            row = {"part": "drawn", "depth": depth, "steps": steps, "noise": rounded(measure(noise).half_width)}
            for shape, curve in SHAPES.items() if (depth, steps) in ((1, 2), (2, 2)) else [("logistic", Sigmoid())]:
                for detached in (False, True):
                    found = by_width(gradient, data, of_area_one, curve, detached)
                    yield row | {"shape": shape, "detached": detached} | series([compared(g, exact) for g in found])


def smoothed_gradient(
    data: Any, key: jax.Array, layer: Spiking, spread: float, pairs: int, at_once: int = 64
) -> list[list[jax.Array]]:
    """Two estimates of the gradient of the loss averaged over noise in the weights, ``spread`` of their deviation."""
    weights, inputs, labels = data
    sizes = [spread * w.std() for w in weights]

    def of_pair(key):
        keys = jax.random.split(key, len(weights))
        noise = [jax.random.normal(k, w.shape) for k, w in zip(keys, weights, strict=True)]
        ends = [
            loss([w + sign * s * e for w, s, e in zip(weights, sizes, noise, strict=True)], inputs, labels, layer)[0]
            for sign in (1, -1)
        ]
        return [(ends[0] - ends[1]) / (2 * s) * e for s, e in zip(sizes, noise, strict=True)]

    def add(sums, keys):
        return jax.tree.map(lambda total, new: total + new.sum(0), sums, jax.vmap(of_pair)(keys)), None

    def half(key):
        keys = jax.random.split(key, (pairs // (2 * at_once), at_once))
        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, weights), keys)
        return [2 * g / pairs for g in total]

    return [half(k) for k in jax.random.split(key, 2)]


def against_estimates(
    found: list[np.ndarray], halves: list[list[np.ndarray]], scales: list[np.ndarray]
) -> dict[str, list]:
    """Cosine and ratio without the noise of the estimates.

    The squared norm of a true gradient is a noisy number, and may not even be positive: its mean over the draws is
    taken, in units of ``scales``, norms to which it is in about the same proportion in every draw. Errors are those of
    the jackknife.
    """
    rows: dict[str, list] = {"cosine": [], "error": [], "ratio": []}
    for got, a, b, scale in zip(found, *halves, scales, strict=True):
        size = np.linalg.norm(got, axis=1)
        along = (got * (a + b)).sum(1) / (2 * size * scale)
        squared = (a * b).sum(1) / scale**2

        def cosine(kept, along=along, squared=squared):
            return along[kept].mean() / np.sqrt(squared[kept].mean())

        draws = np.arange(len(got))
        without = np.array([cosine(draws != n) for n in draws])
        rows["cosine"].append(rounded(cosine(draws)))
        rows["error"].append(rounded(np.sqrt((len(draws) - 1) * without.var())))
        rows["ratio"].append(rounded(np.exp(np.log(size / scale).mean()) / np.sqrt(squared.mean())))
    return rows


def smoothed(draws: int, pairs: int = 2048) -> Iterator[dict[str, Any]]:
    for depth in (1, 3, 6):
        data = drawn(draws, depth, 50, size=32, batch=16)

        def gradient(data, cell):
            return jax.vmap(jax.grad(functools.partial(loss, layer=neurons(cell)), has_aux=True))(*data)[0][:-1]

        def plain(cell, data=data):
            return [flat(g) for g in jax.jit(functools.partial(gradient, cell=cell))(data)]

        def estimates(cell, spread, data=data, depth=depth):
            each = functools.partial(smoothed_gradient, layer=neurons(cell), spread=spread, pairs=pairs)
            keys = jax.random.split(jax.random.key(depth), draws)
            halves = jax.jit(lambda *of_draws: jax.lax.map(lambda one: each(*one), of_draws))(data, keys)
            return [[flat(g) for g in half[:-1]] for half in halves]

        scales = [np.linalg.norm(g, axis=1) for g in plain(LIF(DECAY, surrogate=REFERENCE))]
        series_of = [("logistic", "area 1"), ("logistic", "height 1")]
        series_of += [(shape, "area 1") for shape in SHAPES if depth == 3 and shape != "logistic"]
        of_widths = [
            (
                {"shape": shape, "normalised": name, "detached": detached},
                by_width(gradient, data, NORMALISED[name], SHAPES[shape], detached),
            )
            for shape, name in series_of
            for detached in (False, True)
        ]
        of_names = [
            ({"name": name, "detached": d}, plain(LIF(DECAY, surrogate=get(name), detach_reset=d)))
            for name in (SURROGATES if depth == 3 else ())
            for d in (False, True)
        ]
        for spread in (0.05, 0.2):
            halves = estimates(LIF(DECAY), spread)
            row = {"part": "smoothed", "depth": depth, "noise": spread}
            for setting, found in of_widths:
                yield row | setting | series([against_estimates(g, halves, scales) for g in found])
            for setting, found in of_names:
                yield row | setting | against_estimates(found, halves, scales)
        smooth = LIF(DECAY, surrogate=soft(REFERENCE))  # whose gradient is known: a check of the estimates
        exact = plain(smooth)
        row = {"part": "smoothed", "depth": depth, "noise": 0.05, "name": "soft"}
        scales = [np.linalg.norm(g, axis=1) for g in exact]
        yield row | against_estimates(exact, estimates(smooth, 0.05), scales)


PARTS = {"surrogates": surrogates, "neurons": other_neurons, "drawn": drawn_spikes, "smoothed": smoothed}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--draws", type=int, default=8, help="of weights and inputs")
    parser.add_argument("--only", metavar="PARTS", help=f"of {', '.join(PARTS)}, with commas between")
    options = parser.parse_args()
    report([row for part in chosen(PARTS, options.only) for row in PARTS[part](options.draws)], options.json)


if __name__ == "__main__":
    main()
