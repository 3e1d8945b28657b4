"""Arrays that functions of a network hide from the optimizer: named once, and only if nobody said
that it is meant.
"""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.lax import stop_gradient

from spikegrad import LIF, Delayed, Join, Layer, Network, Window
from spikegrad.network import hidden_arrays
from spikegrad.training import combine, fit, partition
from spikegrad.training._watch import NetworkWatch

X = jnp.ones((2, 3, 5))  # steps, examples, inputs
KEY = jax.random.key(0)
SQUARE, GAIN, FILTER = jnp.ones((4, 4)), jnp.ones((1, 4)), np.ones((1, 4), np.float32)


def product(w, x):
    return x @ w


def of_the_module(x):
    return x @ SQUARE


def network(**changed):
    """Every place for a function, with an array in each, and with the shapes of all arrays."""
    linear = eqx.nn.Linear(5, 4, key=KEY)
    layers = {
        "vmap": Layer(
            jax.vmap(linear), LIF(0.9), recurrent=Delayed(jax.jit(lambda s: s * GAIN), 2)
        ),
        "partial": Layer(functools.partial(jnp.dot, b=SQUARE), LIF(0.9)),
        "join": Join(lambda a, b: a + b * GAIN, of=("vmap", "partial")),
        "time": Join(
            lambda a, mask: a - a.mean(0, keepdims=True) * GAIN[None], of=("join",), over_time=True
        ),
        "several": Layer(
            {"time": of_the_module, "partial": Window(lambda x: x[0] * FILTER, 2)}, LIF(0.9)
        ),
        "leaf": Layer(jax.tree_util.Partial(product, SQUARE), LIF(0.9)),
        "module": Layer(eqx.filter_vmap(eqx.nn.Linear(4, 4, key=KEY)), LIF(0.9)),
        "meant": Layer(lambda x: x @ stop_gradient(SQUARE) * jnp.array(0.5), LIF(0.9)),
        "numbers": Layer(
            lambda x: jnp.array([[1.0, 2.0, 0.5, 0.1]]) * x * np.array([[2, 1, 3, 1]], "f4"), LIF()
        ),
        "out": Layer(jnp.ones((4, 2)), LIF(0.9)),
    }
    return Network(layers | changed)


HIDDEN = [
    ("vmap", "weight", (4, 5)),
    ("vmap", "weight", (4,)),
    ("vmap", "recurrent", (1, 4)),
    ("partial", "weight", (4, 4)),
    ("join", "function", (1, 4)),
    ("time", "function", (1, 4)),
    ("several", "weight['time']", (4, 4)),
    ("several", "weight['partial']", (1, 4)),
]


@pytest.mark.slow
def test_every_array_that_is_no_leaf_is_found():
    mask = np.ones((2, 3), bool)
    found = hidden_arrays(network(), X, mask=mask)
    assert sorted((array.node, array.label, array.shape) for array in found) == sorted(HIDDEN)
    assert [array.node for array in found] == sorted(
        (array.node for array in found), key=[*network().layers].index
    )
    with pytest.warns(
        UserWarning, match=r"\[4, 4\] in weight of 'partial' and 4 more. To train them"
    ):
        NetworkWatch({str(array): array for array in found}).warn(stacklevel=1)
    assert hidden_arrays(Network([Layer(SQUARE, LIF(0.9))]), jnp.ones((2, 3, 4))) == []


def train(trainable, call, epochs=1):
    """Train, and return the texts of the warnings."""

    def loss(trainable, batch, key):
        return (call(trainable)(batch, mask=np.ones((2, 3), bool))[1] ** 2).mean(), {}

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(
            loss,
            trainable,
            [X] * 2,
            optimizer=optax.sgd(0.1),
            key=KEY,
            epochs=epochs,
            updates_per_call=epochs,
        )
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.slow
def test_fit_warns_once_of_hidden_arrays():
    module = eqx.nn.MLP(5, 4, 4, 2, key=KEY)  # three matrices and biases
    whole = Network([Layer(jax.vmap(module), LIF(0.9)), Layer(SQUARE, LIF(0.9))])
    (text,) = train(whole, lambda network: network, epochs=2)
    assert text.startswith(
        "fit: functions hold arrays that are not trained: [4, 5] in weight of '0', [4] in weight "
        "of '0', "
        "[4, 4] in weight of '0'. To train them, pass jax.tree_util.Partial(function, array)"
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:partition")
def test_fit_is_silent_about_what_is_meant():
    """One loss of several networks, whose sum no warning follows."""
    first = jnp.ones((5, 4))
    reported = Network(
        [Layer(functools.partial(jnp.dot, b=first), LIF(0.9)), Layer(SQUARE, LIF(0.9))]
    )
    leaves = Network(
        [Layer(jax.tree_util.Partial(product, first), LIF(0.9)), Layer(SQUARE, LIF(0.9))]
    )
    made = Network([Layer(lambda x: x @ jnp.ones((5, 4)), LIF(0.9)), Layer(SQUARE, LIF(0.9))])
    pretrained = Network([Layer(lambda x: x @ first, LIF(0.9)), Layer(SQUARE, LIF(0.9))])
    trained, static = partition(reported)  # which warns
    readout, of_leaves = partition(leaves, lambda path, leaf: "layers/1" in path)
    trainable = {
        "reported": trained,
        "leaves": readout,
        "made": made,
        "first": first,
        "scale": jnp.ones(()),
    }

    def call(trainable):
        networks = [
            combine(trainable["reported"], static),
            combine(
                trainable["leaves"], of_leaves
            ),  # an array that is left out of the trainable ones
            trainable["made"],  # equations make its array
            Network(
                [Layer(lambda x: x @ trainable["first"], LIF(0.9)), trainable["made"].layers[1]]
            ),
            pretrained,
        ]
        return lambda x, mask: (
            None,
            trainable["scale"] * sum(network(x)[1] for network in networks),
        )

    assert train(trainable, call) == []


def test_partition_finds_global_arrays():
    shapes = {"weights": SQUARE}

    def helper(x):
        return of_the_module(x)

    for function in (
        of_the_module,
        helper,
        lambda x: x @ shapes["weights"],
        lambda x: [of_the_module(v) for v in x],
    ):
        with pytest.warns(
            UserWarning, match=r"partition: the function at 0 holds arrays .*stop_gradient\(array\)"
        ):
            partition([function])
    partition(
        [lambda x: x @ stop_gradient(SQUARE), lambda x: x.GAIN, jax.nn.gelu, optax.losses.log_cosh]
    )
