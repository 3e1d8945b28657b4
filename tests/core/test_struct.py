"""Frozen records: values that print, compare, copy, travel and pass through JAX as what
they are.
"""

import copy
import dataclasses
import inspect
import pickle
import pydoc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import with_arrays

import spikegrad
from spikegrad import (
    LIF,
    AdaptiveLIF,
    GaussianGrad,
    Layer,
    LeakyReadout,
    Network,
    Sigmoid,
    SquarewaveFourierSeries,
    Surrogate,
    SynapticLIF,
    bounded,
    learnable,
    multi_spike,
    parameter,
    stretched,
)
from spikegrad._struct import Struct
from spikegrad.neurons import Refractory

pytestmark = pytest.mark.oldest

NAMES = {**vars(spikegrad), **vars(spikegrad.surrogates), "jnp": jnp, "np": np}


class Cauchy(Surrogate):
    gamma: float = parameter(default=1.0, above=0)
    height: float = parameter(default=1.0)

    def surrogate_grad(self, x):
        return self.height / (1 + (x / self.gamma) ** 2)


def arrays_of(record):
    return jax.tree.map(lambda leaf: jnp.full(3, leaf), with_arrays(record))


defaults = [spikegrad.get(name) for name in spikegrad.names()]
records = [
    *defaults,
    *map(arrays_of, defaults),
    Cauchy(gamma=0.5),
    Sigmoid(np.array([1.0, 2.0])),  # float64, also where JAX has float32
    Sigmoid(jnp.array([1.0, 2.5], jnp.bfloat16)),
    Sigmoid(jnp.array(2.0)),
    learnable(GaussianGrad(sigma=0.3)),
    learnable(stretched(Sigmoid(0.1), jnp.array([0.5, 0.7]))),
    LIF(),
    LIF(decay=jnp.array([0.5, 0.9]), surrogate=Cauchy(2.0), reset="value", detach_reset=True),
    LeakyReadout(0.5),
]
every_record = pytest.mark.parametrize("record", records, ids=repr)


@every_record
def test_repr_evaluates_back(record):
    again = eval(repr(record), {**NAMES, "Cauchy": Cauchy})
    assert again == record
    assert type(again) is type(record)


def test_repr_of_what_no_expression_makes():
    assert repr(Sigmoid(jnp.ones((10, 10)))) == "Sigmoid(alpha=<float32[10, 10]>)"
    shown = []
    jax.jit(lambda a: (shown.append(repr(Sigmoid(a))), a)[1])(1.0)
    assert "Trace" in shown[0]


@every_record
def test_a_copy_is_equal(record):
    for through in (
        copy.copy,
        copy.deepcopy,
        dataclasses.replace,
        lambda r: pickle.loads(pickle.dumps(r)),
        lambda r: jax.tree.map(lambda a: a, r),
    ):
        again = through(record)
        assert again == record
        assert hash(again) == hash(record)
        assert not again != record  # noqa: SIM202


@every_record
def test_a_record_is_frozen(record):
    name = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot assign to field '{name}'"):
        setattr(record, name, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot delete field '{name}'"):
        delattr(record, name)


def test_an_array_given_is_not_an_array_shared():
    mine = np.array([1.0, 2.0])
    fire = Sigmoid(mine)
    before = hash(fire)
    mine[0] = 5.0
    assert hash(fire) == before
    assert fire.alpha.tolist() == [1.0, 2.0]
    assert not fire.alpha.flags.writeable


def test_arrays_are_leaves_and_numbers_are_constants():
    assert jax.tree.leaves(GaussianGrad(0.3, 0.7)) == []
    assert jax.tree.leaves(LIF(0.5, 2, Sigmoid(np.float32(3)))) == []
    sigma = jnp.array(0.3)
    assert jax.tree.leaves(GaussianGrad(sigma, 0.7)) == [sigma]
    assert jax.tree.leaves(LIF(0.5, surrogate=GaussianGrad(sigma))) == [sigma]
    one, other = jax.tree.structure(LIF(0.5)), jax.tree.structure(LIF(0.6))
    assert one != other
    assert one == jax.tree.structure(LIF(0.5))
    assert jax.tree.structure(LIF(reset="value")) != jax.tree.structure(LIF(reset="none"))


class Odd(Surrogate):
    anything: object = parameter(kind=object)

    def surrogate_grad(self, x):
        return jnp.ones_like(x)


def test_constants_of_equal_value_and_other_type_differ():
    structures = {jax.tree.structure(Odd(value)) for value in (1, 1.0, True, np.float32(1))}
    assert len(structures) == 4


def test_learnable_makes_arrays_of_all_numbers_and_prints_numbers():
    fire = learnable(0.1 * stretched(Sigmoid(0.3), 2.0))
    assert [leaf.dtype.name for leaf in jax.tree.leaves(fire)] == ["float32"] * 3
    assert repr(fire) == "learnable(0.1 * stretched(Sigmoid(alpha=0.3), 2.0))"


@pytest.mark.slow
def test_an_optimizer_moves_arrays_and_no_constants():
    cells = (
        LIF(0.9, threshold=jnp.array(1.0), surrogate=Sigmoid(4.0)),
        AdaptiveLIF(bounded(0.8), adaptation=0.3, surrogate=learnable(GaussianGrad(0.4, 0.7))),
        Refractory(SynapticLIF(0.9, surrogate=stretched(multi_spike(Sigmoid(3.0), 2), 1.5)), 2),
        LeakyReadout(0.95),
    )
    rng = np.random.default_rng(0)
    network = Network(
        [Layer(jnp.asarray(rng.normal(size=(4, 4)), jnp.float32), cell, bias=0.5) for cell in cells]
    )
    spikes = np.float32(rng.random((12, 3, 4)) < 0.5)
    before, optimizer = repr(network), optax.adamw(0.1, weight_decay=0.1)

    def update(carried, _):
        network, state = carried
        gradient = jax.grad(lambda network: (network(spikes)[1] ** 2).mean())(network)
        updates, state = optimizer.update(gradient, state, network)
        return (optax.apply_updates(network, updates), state), None

    run = jax.jit(
        lambda network: jax.lax.scan(update, (network, optimizer.init(network)), length=2)[0][0]
    )
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        trained = run(network)
    assert jax.tree.structure(trained) == jax.tree.structure(network)
    assert all(layer.bias == 0.5 and type(layer.bias) is float for layer in trained.layers.values())
    first, second, third, readout = (layer.cell for layer in trained.layers.values())
    assert dataclasses.replace(first, threshold=cells[0].threshold) == cells[0]
    assert first.threshold != 1.0
    assert second.decay.value != cells[1].decay.value
    assert (second.adaptation, second.adaptation_decay) == (0.3, 0.99)
    assert second.surrogate.surrogate.sigma != cells[1].surrogate.surrogate.sigma
    assert (third, readout) == cells[2:]
    assert repr(network) == before


@pytest.mark.parametrize(
    "record", [with_arrays(Sigmoid()), LIF(jnp.array(0.5)), learnable(Sigmoid())], ids=repr
)
def test_rebuilding_a_tree_checks_nothing(record):
    for leaf in (None, True, 2.0, "label", jax.ShapeDtypeStruct((2,), jnp.float32)):
        rebuilt = jax.tree.map(lambda _, leaf=leaf: leaf, record)
        assert type(rebuilt) is type(record)
        assert repr(rebuilt).startswith(repr(record).partition("(")[0])
        for again in (rebuilt, copy.deepcopy(rebuilt), pickle.loads(pickle.dumps(rebuilt))):
            assert jax.tree.leaves(again, is_leaf=lambda v: v is None) == [leaf] * len(
                jax.tree.leaves(record)
            )
        if leaf is not None:
            assert jax.tree.structure(rebuilt) == jax.tree.structure(record)
    assert (
        jax.tree.leaves(
            dataclasses.replace(jax.tree.map(lambda _: 2.0, LIF(jnp.array(0.5))), decay=0.5)
        )
        == []
    )


def test_jit_argument_recompiles_for_a_number_and_not_for_an_array():
    traced = []

    @jax.jit
    def slope(surrogate):
        traced.append(surrogate)
        return surrogate.surrogate_grad(0.0)

    for make, traces in ((lambda a: Sigmoid(jnp.array(a)), 1), (Sigmoid, 3)):
        traced.clear()
        for alpha in (1.0, 2.0, 3.0, 3.0):
            assert slope(make(alpha)) == alpha / 4
        assert len(traced) == traces
    for terms in (2, 3):  # their number is static
        slope(with_arrays(SquarewaveFourierSeries(terms)))
    assert len(traced) == 5


def test_traced_values_are_the_same_only_as_themselves():
    def compare(a, b):
        assert Sigmoid(a) == Sigmoid(a)
        assert Sigmoid(a) != Sigmoid(b)
        return a

    jax.jit(compare)(1.0, 1.0)


def test_signature_has_the_parameters_and_their_defaults():
    """They are those of the constructor, on each Python, and an instance has the signature of its
    call.
    """
    shown = {
        name: parameter.default for name, parameter in inspect.signature(LIF).parameters.items()
    }
    assert shown == {
        "decay": 0.9,
        "threshold": 1.0,
        "surrogate": Sigmoid(4.0),
        "reset": "subtract",
        "detach_reset": False,
        "reset_value": 0.0,
        "delay_reset": False,
        "norm_input": False,
    }
    assert str(inspect.signature(Cauchy)) == "(gamma: float = 1.0, height: float = 1.0)"
    assert (
        "class Cauchy(spikegrad._surrogate.Surrogate)\n |  Cauchy(gamma: float = 1.0,"
        in pydoc.plain(pydoc.render_doc(Cauchy))
    )
    assert list(inspect.signature(Sigmoid()).parameters) == ["x", "key"]
    for module in (spikegrad, spikegrad.neurons, spikegrad.network, spikegrad.surrogates):
        for cls in (getattr(module, name) for name in module.__all__):
            if inspect.isclass(cls) and issubclass(cls, Struct) and dataclasses.is_dataclass(cls):
                fields = sorted(dataclasses.fields(cls), key=lambda field: field.kw_only)
                assert list(inspect.signature(cls).parameters) == [field.name for field in fields]


def test_signature_of_a_constructor_of_its_own():
    class Scaled(Surrogate):
        def __init__(self, scale, *, offset=0.0):
            self.scale, self.offset = scale, offset

        def surrogate_grad(self, x):
            return x

    assert str(inspect.signature(Scaled)) == "(scale, *, offset=0.0)"
