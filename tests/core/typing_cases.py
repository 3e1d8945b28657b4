"""What a type checker must accept and refuse. Read by ``test_typing.py``, never run.

A line that must be refused ends with the rule that refuses it.
"""
# pyright: standard

from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np

import spikegrad
from spikegrad import LIF, Sigmoid, SquarewaveFourierSeries, Surrogate, parameter
from spikegrad.surrogates import functional, sigmoid


class Cauchy(Surrogate):
    gamma: float = parameter(default=1.0, above=0)
    height: float = parameter(default=2.0)

    def surrogate_grad(self, x: jax.Array) -> jax.Array:
        return self.height / (1 + (x / self.gamma) ** 2)


class Doubled(Sigmoid):
    def surrogate_grad(self, x: jax.Array) -> jax.Array:
        return 2 * super().surrogate_grad(x)


cauchy = functional(Cauchy)


def accepted(x: jax.Array) -> None:
    assert_type(Sigmoid(2.0), Sigmoid)
    assert_type(Sigmoid(alpha=2)(x), jax.Array)
    assert_type(Sigmoid().surrogate_grad(0.3), jax.Array)
    assert_type(Sigmoid().surrogate_fun(x), jax.Array)
    assert_type(Sigmoid()(np.ones(3)), jax.Array)
    Sigmoid(jnp.ones(3))
    SquarewaveFourierSeries(n=3, t_period=jnp.ones(3))

    assert_type(sigmoid(0.3, 2.0), jax.Array)
    assert_type(cauchy(x, 1.0, height=3.0), jax.Array)

    assert_type(Cauchy(), Cauchy)
    assert_type(Cauchy(1.0, height=2.0).gamma, float)
    Doubled(alpha=2.0)
    jax.grad(Cauchy())(0.3)

    assert_type(spikegrad.get("sigmoid", alpha=2.0), Surrogate)
    assert_type(spikegrad.names(), list[str])
    assert_type(spikegrad.learnable(Sigmoid()), Surrogate)
    assert_type(spikegrad.spike(x, 1.0), jax.Array)

    cell = LIF(
        decay=0.5, threshold=jnp.ones(3), surrogate=Cauchy(), reset="value", detach_reset=True
    )
    LIF(surrogate=jnp.tanh)
    assert_type(spikegrad.unroll(cell, x)[1], jax.Array)
    spikegrad.unroll(lambda v, current: (v + current, v), x)


def refused(x: jax.Array) -> None:
    Sigmoid(beta=2.0)  # reportCallIssue
    Sigmoid("2")  # reportArgumentType
    SquarewaveFourierSeries(n=2.5)  # reportArgumentType
    Sigmoid()("x")  # reportArgumentType
    Sigmoid().slope(x)  # reportAttributeAccessIssue

    sigmoid(x, beta=2.0)  # reportCallIssue
    sigmoid()  # reportCallIssue
    cauchy(x, gamma="a")  # reportArgumentType
    functional(LIF)  # reportArgumentType

    Cauchy(gama=1.0)  # reportCallIssue
    Cauchy(gamma="1")  # reportArgumentType
    Doubled(beta=1.0)  # reportCallIssue

    spikegrad.get(3)  # reportArgumentType
    spikegrad.learnable(jnp.tanh)  # reportArgumentType
    spikegrad.spike(x)  # reportCallIssue
    print(spikegrad.nothing)  # reportAttributeAccessIssue

    LIF(tau=0.5)  # reportCallIssue
    LIF(surrogate="sigmoid")  # reportArgumentType
    spikegrad.unroll(Sigmoid(), x)  # reportArgumentType
    spikegrad.unroll(LIF())  # reportCallIssue
