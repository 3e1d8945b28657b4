"""Other libraries' surrogates by their names against what these libraries computed themselves.

``tests/recorded/surrogates/`` holds values and slopes, made by ``scripts/record_surrogates.py``.
"""

import inspect
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

import spikegrad
from spikegrad import get, keep_slope, learnable, multi_spike, soft, strict
from spikegrad.surrogates import presets
from spikegrad.surrogates.presets import ABSENT, PRESETS

FILES = sorted((ROOT / "tests" / "recorded" / "surrogates").glob("*.npz"))
LIBRARIES = {name.partition(".")[0] for name in PRESETS}
NAMESPACE = {**vars(spikegrad), **vars(spikegrad.surrogates)}


def recorded():
    found = {}
    for path in FILES:
        with np.load(path) as file:
            for spec, value, slope in zip(
                file["specs"], file["values"], file["slopes"], strict=True
            ):
                found[f"{path.stem}.{spec}"] = file["x"], value, slope
    return found


def signatures():
    found = {}
    for path in FILES:
        with np.load(path) as file:
            found |= {
                f"{path.stem}.{s.partition('(')[0]}": s[s.index("(") :]
                for s in file["signatures"].tolist()
            }
    return found


def parts(spec):
    """The name of a spec, its arguments and those by keyword."""
    return spec.partition("(")[0], *eval(
        "(lambda *args, **kwargs: (args, kwargs))" + spec[spec.index("(") :]
    )


RECORDED = recorded()
SIGNATURES = signatures()
X = next(iter(RECORDED.values()))[0]

BY_DEFAULT = {parts(spec)[0]: get(spec) for spec in reversed(RECORDED)}

# Where a preset differs from its library, as its docstring says: the distance of two edges, or the
# points.
EDGES = {
    "braincog.BackEIGateGrad": lambda: 0.5,
    "braincog.GateGrad": lambda alpha=2.0: 1 / alpha,
    "jaxpike.Boxcar": lambda width=1.0: width / 2,
    "snnax.piecewise_surrogate": lambda beta=0.5: beta,
    "sparx.Rectangle": lambda width=1.0: width / 2,
    "spikingjelly.PiecewiseLeakyReLU": lambda w=1.0, c=0.01: w,
    "spikingjelly.Rect": lambda alpha=1.0: 0.5 / alpha,
    "spyx.boxcar": lambda width=2.0, height=0.5: width / 2,
}
SLOPE_DIFFERS = {
    "braincog.ReLUGrad": lambda **_: X == 0,
    "braincog.RoundGrad": lambda: (X == -0.5) | (X == 4.5),
    "braincog.STDPGrad": lambda: X == 0,
    "snntorch.SFS": lambda slope=25, **more: more.get("B", 1) == X,
    "snntorch.heaviside": lambda: X == 0,
    "snntorch.sigmoid": lambda slope=25: slope * X < -709,
    "spyx.custom": lambda: np.abs(X) > 64,
    "stork.MultiSpike": lambda beta=100, maxspk=10: maxspk - 0.5 < X,
}
VALUE_DIFFERS = {
    "braincog.RoundGrad": lambda: np.isin(X, range(5)),
    "lava_dl.cuba": lambda **_: (X > 0) & (X < 0.01 / 4096),
    "stork.MultiSpike": lambda beta=100, maxspk=10: np.isin(X, range(0, maxspk, 2)),
}


def known(table, spec):
    name, _, kwargs = parts(spec)
    spiking = kwargs.pop("spiking", True)
    edge = EDGES[name](**kwargs) if table is SLOPE_DIFFERS and name in EDGES and spiking else np.nan
    return table[name](**kwargs) if name in table else np.abs(X) == edge


def within_a_cell(spec):
    """The surrogate, and under a threshold that is not 1 as a cell of this threshold has it."""
    surrogate, threshold = get(spec), parts(spec)[2].get("threshold", 1.0)
    bind = getattr(surrogate, "in_units_of", None)
    return bind(threshold, jnp.asarray(X)) if bind and spec.startswith("rockpool") else surrogate


@pytest.fixture(scope="module")
def computed():
    """Values and slopes of all of them, in one program."""
    surrogates, key = {spec: within_a_cell(spec) for spec in RECORDED}, jax.random.key(0)

    @jax.jit
    def run(x):
        return {
            spec: jax.jvp(lambda x: s(x, key=key), (x,), (jnp.ones_like(x),))  # noqa: B023
            for spec, s in surrogates.items()
        }

    return jax.device_get(run(jnp.asarray(X)))


def test_every_preset_was_recorded():
    assert {parts(spec)[0] for spec in RECORDED} == set(PRESETS)
    assert {path.stem for path in FILES} == LIBRARIES


def disagreeing(got, want, compared, differs, tolerance):
    """The points that agree and should differ, or differ and should agree."""
    equal = np.abs(got - want) <= tolerance
    return X[np.where(differs, equal, compared & ~equal)]


@pytest.mark.slow
def test_slopes(computed):
    for spec, (_, _, want) in RECORDED.items():
        name, _, kwargs = parts(spec)
        differs = known(SLOPE_DIFFERS, spec)
        compared = np.ones_like(X, bool)
        if name == "spikingjelly.PoissonPass" and not kwargs:
            compared = (X >= 0) & (X <= 1)
        if "exponential" in spec:  # which it follows up to ten times its width
            compared = 10 * kwargs["delta_u"] >= X
        peak = np.max(np.abs(want[compared & ~differs]))
        tolerance = (
            1.1e-5 if spec == "spikingjelly.S2NN(spiking=False)" else 1e-6
        )  # there a logarithm's offset is felt
        assert not disagreeing(computed[spec][1], want, compared, differs, tolerance * peak).size, (
            spec
        )


def test_values(computed):
    for spec, (_, want, _) in RECORDED.items():
        compared = np.isfinite(want)
        if "stochastic" in repr(get(spec)):  # where it is certain
            probability = np.asarray(get(spec).surrogate.surrogate_fun(X))
            compared &= (probability <= 1e-9) | (probability >= 1)
        differs, tolerance = known(VALUE_DIFFERS, spec), 1e-6 * np.maximum(1, np.abs(want))
        assert not disagreeing(computed[spec][0], want, compared, differs, tolerance).size, spec


def test_where_a_preset_differs_its_docstring_says_so():
    for name in {*EDGES, *SLOPE_DIFFERS, *VALUE_DIFFERS}:
        library = name.partition(".")[0].replace("_", "-")
        assert re.search(rf"\b{library}\b|beyond", inspect.getdoc(PRESETS[name]), re.IGNORECASE), (
            name
        )


OWN = {"spike_threshold", "surrogate_grad_fn"}  # what these libraries give in the call
NOT_THERE = {"braincog.RoundGrad", "spyx.custom"}  # the one takes any keyword, the other functions


@pytest.mark.parametrize("library", sorted({name.partition(".")[0] for name in SIGNATURES}))
def test_parameters_and_defaults_are_those_of_the_library(library):
    for name, there in SIGNATURES.items():
        if name.startswith(library + ".") and name not in NOT_THERE:
            here = inspect.signature(PRESETS[name]).parameters.values()
            given = {p.name: p.default for p in here if p.name not in OWN}
            want = dict(re.findall(r"(\w+)(?:=([^,)]+))?", there))
            assert list(given) == list(want), name
            assert all(
                v is inspect.Parameter.empty or v == eval(want[k]) for k, v in given.items()
            ), name


def test_repr_of_a_preset_evaluates_to_it():
    for spec in RECORDED:
        surrogate = get(spec)
        assert eval(repr(surrogate), dict(NAMESPACE)) == surrogate == get(repr(surrogate)), spec
        assert pickle.loads(pickle.dumps(surrogate)) == surrogate


def test_by_name_and_as_a_function():
    assert repr(get("snntorch.fast_sigmoid(slope=25)")) == "strict(InvSquareGrad(alpha=25.0))"
    assert get("snntorch.fast_sigmoid(slope=25)") == presets.snntorch.fast_sigmoid(slope=25)
    assert get("snntorch.fast_sigmoid", slope=5) == presets.snntorch.fast_sigmoid(5)
    assert get("norse.super(alpha=100)") == get("norse.super(alpha=3)") != get("norse.super_git")
    assert get("0.5 * sparx.ATan") == 0.5 * presets.sparx.ATan()


def test_libraries_that_fire_above_the_threshold_are_strict():
    firing = {name for name, surrogate in BY_DEFAULT.items() if "strict" in repr(surrogate)}
    always = {"snntorch", "norse", "spyx", "jaxpike"}
    assert {name for name in PRESETS if name.partition(".")[0] in always} <= firing
    assert {name.partition(".")[0] for name in firing} == always | {"stork", "braincog", "lava_dl"}


REFUSED = {
    "snntorch.fast_sigmod": "unknown surrogate 'snntorch.fast_sigmod', did you mean "
    "'snntorch.fast_sigmoid'?",
    "norse.sigmoid": "known are norse.circ, norse.heavi_erfc, norse.super",
    "norsk.super": "did you mean 'norse.super'?",
    "spikegrad.Sigmoid(2)": "unknown surrogate 'spikegrad.Sigmoid', known are braincog",
    "os.system": "known are braincog, braintools",
    "snntorch.LSO()": "no counterpart of 'snntorch.LSO' here: it raises a TypeError in snnTorch",
    "a.b.c": "malformed",
    "spyx.tanh(k=0)": "Sigmoid: alpha must be > 0, got 0.0",
    "sparx.Triangle(width=0)": "ReluGrad: alpha must be finite, got inf",
    "stork.CustomSpike('sigmoid', 'exponential')": "got 'sigmoid' with 'exponential'",
    "stork.CustomSpike(surrogate_type='Multilayer')": "must be one of SuperSpike, sigmoid, "
    "exponential",
    "snntorch.atan(k=2)": "snntorch.atan: got an unexpected keyword argument 'k', its parameters "
    "are alp",
}


@pytest.mark.parametrize("spec", REFUSED)
def test_errors(spec):
    with pytest.raises((TypeError, ValueError), match=re.escape(REFUSED[spec])):
        get(spec)


def test_each_absent_name_has_its_reason():
    assert not set(ABSENT) & set(PRESETS)
    for name in ABSENT:
        with pytest.raises(ValueError, match=re.escape(f"no counterpart of '{name}' here")):
            get(name)


def test_traced_parameters():
    @jax.jit
    def slope(k):
        return jax.grad(presets.snntorch.SFS(k, k / 8))(2.0), jax.grad(presets.norse.tanh(k))(0.5)

    sfs, tanh = slope(jnp.float32(2.0))
    np.testing.assert_allclose(sfs, 1 / 25, rtol=1e-5)
    np.testing.assert_allclose(tanh, 1 - np.tanh(1) ** 2, rtol=1e-5)


def test_excluding():
    fire = strict(spikegrad.Sigmoid(4.0))
    expected = [0, 0, 0, 1, 1, np.nan]
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        out = jax.jit(fire)(
            np.array([-1.0, -0.0, 0.0, jnp.finfo(dtype).tiny, np.inf, np.nan], dtype)
        )
        np.testing.assert_array_equal(np.asarray(out, np.float32), np.float32(expected))
        assert out.dtype == dtype
    assert jax.jit(lambda x: [jax.grad(each)(x) for each in (fire, fire.surrogate)])(0.0) == [1, 1]
    assert learnable(keep_slope(fire, "bfloat16")) == strict(
        keep_slope(learnable(fire.surrogate), "bfloat16")
    )
    assert repr(learnable(fire)) == "learnable(strict(Sigmoid(alpha=4.0)))"
    with pytest.raises(TypeError, match="already has a spike type"):
        soft(fire)


@pytest.mark.slow
def test_a_network_that_excludes_the_threshold_is_the_same_in_every_mode():
    # the potentials of a step: at the threshold, a little above, where 8 bits hold zero, and far
    # from it
    inputs = jnp.broadcast_to(jnp.float32([0.25, 0.2501, 4.0, -4.0]), (6, 2, 4))

    def run(mode, surrogate):
        network = spikegrad.Network(
            [spikegrad.Layer(np.eye(4), spikegrad.LIF(0.5, 0.25, surrogate, "value"))]
        )
        return jax.value_and_grad(lambda inputs: network(inputs, backward=mode)[1].sum())(inputs)

    surrogate = strict(spikegrad.Sigmoid(4.0))
    modes, plain = ("exact", "half", "8-bit"), surrogate.surrogate
    (exact, gradient), *others, (of_plain, _) = jax.jit(
        lambda: [*(run(mode, surrogate) for mode in modes), run("exact", plain)]
    )()
    assert exact < of_plain
    for spikes, coarse in others:
        assert spikes == exact
        np.testing.assert_allclose(coarse, gradient, atol=0.05 * np.abs(gradient).max())


def test_the_slope_of_the_first_level_is_the_curve():
    fire = multi_spike(spikegrad.SlayerGrad(1.0), 3, slopes="first")
    x = jnp.array([-0.5, 0.5, 1.5, 7.0])
    np.testing.assert_array_equal(fire(x), [0, 1, 2, 3])
    np.testing.assert_allclose(jax.vmap(jax.grad(fire))(x), np.exp(-np.abs(x)), rtol=1e-6)
    np.testing.assert_allclose(fire.surrogate_fun(x), fire.surrogate.surrogate_fun(x))
