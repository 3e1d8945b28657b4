"""Surrogates by name: the whole catalogue, and nothing that is not a name and numbers."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import assert_raises

import spikegrad
from spikegrad import Arctan, Sigmoid, get, names, rescaled, shifted, stretched, truncated

public_classes = {
    name: value
    for name in spikegrad.surrogates.__all__
    if inspect.isclass(value := getattr(spikegrad.surrogates, name))
    and issubclass(value, spikegrad.Surrogate)
    and value is not spikegrad.Surrogate
}


def test_names_are_the_public_classes():
    assert names() == sorted(names())
    assert sorted(name.replace("_", "") for name in names()) == sorted(
        name.lower() for name in public_classes
    )
    assert {type(get(name)) for name in names()} == set(public_classes.values())


@pytest.mark.parametrize("name", names())
def test_get_accepts_every_spelling_of_a_name(name):
    surrogate = get(name)
    cls = type(surrogate)
    assert surrogate == cls() == get(cls.__name__) == get(f"{name}()") == get(f"  {name} ( ) \n")
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(cls).parameters.values()
    }
    parameters = {
        key: value + 1 if isinstance(value, int) else value + 0.625
        for key, value in defaults.items()
    }
    other = cls(**parameters)
    assert get(repr(surrogate)) == surrogate
    assert get(repr(other)) == other != surrogate
    assert get(name, **parameters) == other
    assert get(f"{name}({', '.join(f'{k}={v}' for k, v in parameters.items())})") == other
    assert get(f"{name}({', '.join(map(str, parameters.values()))})") == other


def test_numbers_in_pythons_notation():
    assert (
        get("arctan(2)")
        == get("arctan(2.)")
        == get("arctan(+2e0)")
        == get("arctan(alpha=0x2)")
        == Arctan(2.0)
    )
    assert get("leaky_relu(-0.5, beta=1e-3)") == spikegrad.LeakyRelu(-0.5, 0.001)
    assert get("squarewave_fourier_series(n=3)") == spikegrad.SquarewaveFourierSeries(n=3)


def test_compositions():
    s, t = Sigmoid(), Arctan(2.0)
    for surrogate in (
        0.3 * s,
        -0.5 * s + 0.25 * t,
        2 * (s + t),
        shifted(s, -0.5),
        stretched(truncated(s + t, 2.0), 0.5),
        rescaled(shifted(t, 0.5), 1.0, 0.25),
        spikegrad.learnable(spikegrad.keep_slope(spikegrad.multi_spike(s, 2), "bfloat16")),
    ):
        assert get(repr(surrogate)) == surrogate
    assert get("0.3 * sigmoid + shifted(arctan(2), center=0.5)") == 0.3 * s + shifted(t, 0.5)
    assert get("rescaled(sigmoid, peak=1, half_width=0.3)") == rescaled(s, peak=1, half_width=0.3)


def test_a_shape_of_a_chosen_peak_and_half_width():
    assert get("arctan(peak=1, half_width=0.3)") == rescaled(Arctan(), peak=1, half_width=0.3)
    by_keyword = get("arctan", alpha=2, half_width=0.3)
    assert get("arctan(2, half_width=0.3)") == by_keyword == rescaled(Arctan(2.0), half_width=0.3)
    assert get("relu_grad(width=0.5)") == spikegrad.ReluGrad(width=0.5)  # its own
    assert get("relu_grad(peak=0.5)") == rescaled(spikegrad.ReluGrad(), peak=0.5)
    assert get("relu_grad(width=2, half_width=0.3)") == rescaled(
        spikegrad.ReluGrad(width=2), half_width=0.3
    )


def test_parameters_by_keyword_may_be_anything_the_class_takes():
    per_neuron = jnp.array([1.0, 2.0])
    assert get("sigmoid", alpha=per_neuron) == Sigmoid(per_neuron)
    np.testing.assert_allclose(
        jax.jit(lambda a: get("sigmoid", alpha=a).surrogate_grad(0.0))(8.0), 2.0
    )
    assert get("GaussianGrad", sigma=0.2) == spikegrad.GaussianGrad(sigma=0.2)


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("arctang", "arctan"),
        ("Sigmoyd(alpha=2)", "sigmoid"),
        ("softsign", "soft_sign"),
        ("S2N", "s2nn"),
    ],
)
def test_unknown_but_near(spec, near):
    name = spec.partition("(")[0]
    with pytest.raises(ValueError, match=f"^unknown surrogate '{name}', did you mean '{near}'\\?$"):
        get(spec)


def logistic(x):
    return 1 / (1 + np.exp(-x))


# what libraries and papers give, at k = 3, w = 0.5, h = 0.75
ELSEWHERE = {
    "fast_sigmoid FastSigmoid SuperSpike superspike super_spike": [
        lambda x: 1 / (1 + 3 * abs(x)) ** 2
    ],
    "triangular Triangle esser bellec e_prop": [lambda x: 0.75 * np.maximum(0, 1 - abs(x) / 0.5)],
    "boxcar rectangle Rect box": [lambda x: np.where(abs(x) <= 0.5, 1.0, 0.0)],
    "exponential slayer SingleExponential": [
        lambda x: np.exp(-3 * abs(x)),
        lambda x: 1.5 * np.exp(-3 * abs(x)),
    ],
    "ATan atan cauchy": [lambda x: 1.5 / (1 + (np.pi / 2 * 3 * x) ** 2)],
    "straight_through_estimator STE": [np.ones_like],
    "heaviside": [lambda x: np.where(x < 0, 0.0, 1.0)],
    "heavi_erfc": [lambda x: 2 / np.sqrt(np.pi) * np.exp(-((3 * x) ** 2))],
    "logistic": [lambda x: 3 * logistic(3 * x) * logistic(-3 * x)],
    "tanh": [lambda x: (1 - np.tanh(3 * x) ** 2) * 3 / 2],  # which is sigmoid(...) times 2/k
}


@pytest.mark.parametrize("aliases", ELSEWHERE)
def test_names_of_other_libraries_lead_to_the_slope_they_stand_for(aliases):
    x = np.linspace(-2, 2, 81)
    for alias in aliases.split():
        with pytest.raises(ValueError, match=f"^unknown surrogate '{alias}': the slope ") as error:
            get(f"{alias}(alpha=2)")
        calls = re.findall(r"[a-z_]+\([a-z]+=[^()]*\)", str(error.value))
        for call, slope in zip(calls, ELSEWHERE[aliases], strict=True):
            name, arguments = call[:-1].split("(")
            values = dict(argument.split("=") for argument in arguments.split(", "))
            known = {"k": 3, "w": 0.5, "h": 0.75}
            surrogate = get(name, **{key: eval(value, known) for key, value in values.items()})
            np.testing.assert_allclose(surrogate.surrogate_grad(x), slope(x), rtol=1e-5, atol=1e-7)


def test_defaults_in_hints_are_those_of_presets():
    """``k = 25 in snnTorch``: a surrogate of snnTorch has this default."""
    defaults = {}
    for name, make in spikegrad.surrogates.presets.PRESETS.items():
        numbers = {p.default for p in inspect.signature(make).parameters.values()}
        defaults.setdefault(name.partition(".")[0], set()).update(numbers)
    for alias in ("fast_sigmoid", "atan", "heavi_erfc", "logistic"):
        with pytest.raises(ValueError, match="the slope ") as error:
            get(alias)
        stated = re.findall(r"(\d+) in ([\w ]+)", str(error.value).partition(", with k = ")[2])
        assert stated
        for value, libraries in stated:
            assert all(
                int(value) in defaults[library] for library in libraries.lower().split(" and ")
            ), alias


@pytest.mark.parametrize("spec", ["zzz", "Surrogate", "LIF", "learnable", "os"])
def test_unknown_and_far(spec):
    known = f", known are {', '.join(names())}"
    with pytest.raises(
        ValueError, match=f"^unknown surrogate '{spec}'({known}|, did you mean .*)$"
    ):
        get(spec)


MALFORMED = """
sigmoid( | sigmoid(alpha=) | sigmoid(2)(3) | sigmoid; arctan | 1.5 | 'sigmoid' | lambda: 1
sigmoid(*[1]) | 2 * 3 | sigmoid + 1 | sigmoid - arctan | shifted(2, sigmoid)
sigmoid(alpha=pi) | __import__('os').system('echo')
"""
MALFORMED = [
    "",
    *(spec.strip() for line in MALFORMED.split("\n")[1:-1] for spec in line.split(" | ")),
]


@pytest.mark.parametrize("spec", MALFORMED, ids=lambda s: s[:40])
def test_malformed(spec):
    shown = re.escape(repr(spec))
    with pytest.raises(
        ValueError,
        match=rf"^malformed surrogate {shown}: write a name, or name\(parameter=number, ",
    ):
        get(spec)


def test_a_spec_runs_nothing(tmp_path):
    witness = tmp_path / "witness"
    touch = f"open({str(witness)!r}, 'w')"
    for spec in (touch, f"sigmoid({touch})", f"sigmoid(alpha={touch})", f"exec({touch!r})"):
        with pytest.raises(ValueError, match=r"malformed surrogate|unknown surrogate"):
            get(spec)
    assert not witness.exists()


REFUSED = {
    "TypeError: unexpected keyword argument 'beta', its parameters are alpha": lambda: get(
        "sigmoid(beta=1)"
    ),
    "TypeError: Sigmoid: got an unexpected keyword argument 'beta'": lambda: get("sigmoid", beta=1),
    "TypeError: too many positional arguments, its parameters are alpha, width": lambda: get(
        "relu_grad(1, 2, 3)"
    ),
    "TypeError: multiple values for argument 'alpha', its parameters are alpha": lambda: get(
        "sigmoid(1, alpha=2)"
    ),
    "ValueError: malformed surrogate 'sigmoid(1)': write": lambda: get("sigmoid(1)", alpha=2),
    "ValueError: or pass a name and keywords": lambda: get("sigmoid(alpha=1)", alpha=2),
    "TypeError: Sigmoid: alpha must be a real number or array, got 'a'": lambda: get(
        "sigmoid('a')"
    ),
    "TypeError: Sigmoid: alpha must be a real number or array, got True": lambda: get(
        "sigmoid(True)"
    ),
    "TypeError: Sigmoid: alpha must be a real number or array, got [1, 2]": lambda: get(
        "sigmoid([1, 2])"
    ),
    "TypeError: n must be an integer, got 2.5": lambda: get("squarewave_fourier_series(n=2.5)"),
    "ValueError: Sigmoid: alpha must be > 0, got -1.0": lambda: get("sigmoid(-1)"),
    "ValueError: Sigmoid: alpha must be finite, got inf": lambda: get("sigmoid(alpha=1e999)"),
    "ValueError: n must be >= 1, got 0": lambda: get("squarewave_fourier_series(0)"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_parameters(message):
    assert_raises(REFUSED[message], message)
