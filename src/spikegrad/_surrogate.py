"""What a surrogate is: parameters, a slope, a smooth primal, and the call that puts them on the step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from ._checks import broadcast_checked, compute_dtype, real_array
from ._spike import _spike, spike
from ._struct import Struct, parameter


class Surrogate(Struct):
    r"""A spike with a surrogate gradient: the step forward, a smooth slope backward.

    Subclass it and define ``surrogate_grad(self, x)``, the slope, or ``surrogate_fun(self, x)``, the smooth primal
    whose derivative is the slope, or both. Called on ``x``, the membrane potential minus the threshold, an instance
    returns 1 where ``x >= 0`` and 0 elsewhere, and its derivative is ``surrogate_grad(x)``.

    A subclass that annotates its parameters and writes no ``__init__`` becomes a frozen dataclass and a pytree:
    compared, hashed and printed by value, its numbers leaves that can be traced, batched, sharded or trained.
    A subclass with its own ``__init__`` stays a plain mutable object.

    Notes
    -----
    Both methods are elementwise formulas. They are handed ``x`` as a floating-point array of at least 32 bits (half
    precision is computed in float32 and rounded once at the end) and array parameters in the same dtype; what they
    return is brought to the shape and dtype of the caller's ``x``, and a NaN in ``x`` stays NaN.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import Surrogate, parameter
    >>> class Cauchy(Surrogate):
    ...     gamma: float = parameter(default=1.0, above=0)
    ...
    ...     def surrogate_grad(self, x):
    ...         return 1 / (1 + (x / self.gamma) ** 2)
    >>> fire = Cauchy(gamma=2.0)
    >>> fire(jnp.array([-1.0, 0.5])).tolist()
    [0.0, 1.0]
    >>> float(jax.grad(fire)(-2.0))
    0.5
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("surrogate_fun", "surrogate_grad"):
            if name in vars(cls):
                setattr(cls, name, _elementwise(vars(cls)[name]))

    def surrogate_fun(self, x: Any) -> jax.Array:
        """The smooth primal, whose derivative is :meth:`surrogate_grad`.

        Parameters
        ----------
        x : array_like
            Membrane potential minus threshold.

        Returns
        -------
        jax.Array
            In the shape and dtype of ``x``.

        Raises
        ------
        NotImplementedError
            If the class defines none.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no surrogate_fun")

    def surrogate_grad(self, x: Any) -> jax.Array:
        """The slope that stands in for the derivative of the step.

        Parameters
        ----------
        x : array_like
            Membrane potential minus threshold.

        Returns
        -------
        jax.Array
            In the shape and dtype of ``x``.

        Raises
        ------
        NotImplementedError
            If the class defines neither this method nor ``surrogate_fun``.
        """
        if type(self).surrogate_fun is Surrogate.surrogate_fun:
            raise NotImplementedError(f"{type(self).__name__} defines neither surrogate_grad nor surrogate_fun")
        x = real_array(x, type(self).__name__)
        slope = jax.jvp(self.surrogate_fun, (x,), (jnp.ones_like(x),))[1]
        return jnp.where(jnp.isnan(x), x, slope)

    def __call__(self, x: ArrayLike) -> jax.Array:
        """Fire: 1 where ``x >= 0``, 0 elsewhere, NaN where ``x`` is NaN.

        Parameters
        ----------
        x : array_like
            Membrane potential minus threshold, any shape. Ints and bools become the default float.

        Returns
        -------
        jax.Array
            In the shape and dtype of ``x``.

        Raises
        ------
        TypeError
            If ``x`` is not real.
        ValueError
            If an array parameter does not broadcast to ``x``.
        """
        x = real_array(x, type(self).__name__)
        if isinstance(x, Tracer):
            return _run(type(self)._fire, self, x)
        self._fitted(x.dtype, x.shape)  # raises where a parameter does not broadcast
        return _spike(x, x)  # a known x has no derivative to carry, so that the slope is not even computed

    def _fire(self, x: jax.Array) -> jax.Array:
        dtype = compute_dtype(x.dtype)
        if dtype == x.dtype:
            return spike(x, self.surrogate_grad(x))
        # In half precision the slope meets the cotangent in float32, so that the gradient is rounded once; what is
        # kept for the backward pass is then x, in its own 16 bits, of which the slope is computed there.
        return jax.checkpoint(lambda x: _spike(x, self.surrogate_grad(x.astype(dtype))), prevent_cse=False)(x)


def _run(method: Callable, surrogate: Surrogate, x: jax.Array) -> jax.Array:
    return _compiled(method, surrogate, x) if surrogate._pure else method(surrogate, x)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _compiled(method, surrogate, x):
    """One compiled call; parameters are arguments of it, so that changing them compiles nothing."""
    return method(surrogate, x)


def _elementwise(formula: Callable) -> Callable:
    """Give a formula the contract of the class: checked input, float32 inside, the shape and dtype of ``x`` outside."""

    def evaluate(self, x):
        dtype = compute_dtype(x.dtype)
        owner, result = type(self).__name__, f"{formula.__name__}(x)"
        y = real_array(formula(self._fitted(dtype, x.shape), _finite(x.astype(dtype))), owner, result)
        y = broadcast_checked(y, x.dtype, x.shape, owner, result)
        return jnp.where(jnp.isnan(x), x, y)

    @functools.wraps(formula)
    def method(self, x):
        return _run(evaluate, self, real_array(x, type(self).__name__))

    return method


def _finite(x: jax.Array) -> jax.Array:
    """``x`` with the largest number for infinity, which formulas would have to guard against one by one."""
    largest = jnp.finfo(x.dtype).max
    return jnp.where(x > largest, largest, jnp.where(x < -largest, -largest, x))


def learnable(surrogate: Surrogate) -> Surrogate:
    r"""The same spike, whose parameters get a gradient.

    The step does not depend on the parameters, so a surrogate gives them none. With ``learnable``, the derivative in a
    parameter is that of the smooth primal, as if it were the output:

    .. math:: \frac{\mathrm{d}\,s}{\mathrm{d}\alpha} = \frac{\partial}{\partial\alpha}\,\mathrm{surrogate\_fun}(x).

    The output, the derivative in ``x`` and the derivative of that in a parameter are the same with and without it.

    Parameters
    ----------
    surrogate : Surrogate
        One declared by annotations, which defines ``surrogate_fun``.

    Returns
    -------
    Surrogate
        A surrogate that holds ``surrogate``; the gradient of a function of it has the same structure.

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, has a hand-written ``__init__``, so that JAX sees no parameters in it, or
        defines no ``surrogate_fun``.

    References
    ----------
    Fang et al. 2021, "Incorporating learnable membrane time constant to enhance learning of spiking neural networks",
    ICCV; Wang et al. 2023, "Adaptive smoothing gradient learning for spiking neural networks", ICML.

    Examples
    --------
    >>> import jax
    >>> from spikegrad import Sigmoid, learnable
    >>> loss = lambda surrogate: surrogate(0.3)
    >>> print(f"{jax.grad(loss)(Sigmoid(4.0)).alpha:.4f}")
    0.0000
    >>> print(f"{jax.grad(loss)(learnable(Sigmoid(4.0))).surrogate.alpha:.4f}")
    0.0534
    """
    if not isinstance(surrogate, Surrogate):
        raise TypeError(f"learnable: surrogate must be a Surrogate, got {surrogate!r}")
    if not surrogate._frozen:
        raise TypeError(
            f"learnable: {type(surrogate).__name__} has its own __init__, so that JAX sees no parameters in it; "
            "declare them by annotations"
        )
    if type(surrogate).surrogate_fun is Surrogate.surrogate_fun:
        raise TypeError(
            f"learnable: {type(surrogate).__name__} defines no surrogate_fun, of which the derivative would be"
        )
    return _Learnable(surrogate)


class _Wrapper(Surrogate):
    """Another surrogate's curves, on another spike."""

    surrogate: Surrogate = parameter(kind=Surrogate)

    def surrogate_fun(self, x):
        return self.surrogate.surrogate_fun(x)

    def surrogate_grad(self, x):
        return self.surrogate.surrogate_grad(x)


class _Learnable(_Wrapper):
    def __repr__(self) -> str:
        return f"learnable({self.surrogate!r})"

    def __call__(self, x):  # a known x does have a derivative here, in the parameters
        return _run(type(self)._fire, self, real_array(x, repr(self)))

    def _fire(self, x):
        out = self.surrogate(x)
        leaves, tree = jax.tree.flatten(self.surrogate)
        for i, leaf in enumerate(leaves):

            def primal(value, i=i):
                return tree.unflatten([*leaves[:i], value, *leaves[i + 1 :]]).surrogate_fun(x)

            name = jax.tree_util.keystr(jax.tree_util.tree_flatten_with_path(self.surrogate)[0][i][0])[1:]
            value = real_array(leaf, repr(self), name)
            value = jnp.broadcast_to(broadcast_checked(value, value.dtype, x.shape, repr(self), name), x.shape)
            slope = jax.jvp(primal, (value,), (jnp.ones_like(value),))[1]
            # a spike "of the parameter" has the derivative that is wanted; less its own value, it adds exactly nothing
            lever = spike(value.astype(x.dtype), slope)
            out = out + (lever - jax.lax.stop_gradient(lever))
        return out


def keep_slope(surrogate: Surrogate, dtype: Any) -> Surrogate:
    r"""The same spike, whose slope is kept for the backward pass in fewer bits.

    Of every call under differentiation, JAX keeps one array in the dtype of ``x``: the slope, or in half precision
    ``x`` itself. Here the slope is rounded to ``dtype`` and kept so: half the memory of float32 in bfloat16, a quarter
    in an 8-bit float. Spikes are the same; the gradient has the rounding error of ``dtype``.

    Parameters
    ----------
    surrogate : Surrogate
        Any.
    dtype : dtype
        ``bfloat16`` (relative error of the slope up to 2**-8), ``float16``, ``float8_e5m2`` (2**-3, slopes from 2**-16)
        or ``float8_e4m3fn`` (2**-4, slopes from 2**-9 to 448, NaN above). One that is not narrower than ``x`` changes
        nothing.

    Returns
    -------
    Surrogate

    Raises
    ------
    TypeError
        If ``surrogate`` is no surrogate, or ``dtype`` none of these.

    Notes
    -----
    Derivatives of the second order differentiate the slope before it is rounded, and round the result in turn.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad import Sigmoid, keep_slope
    >>> fire = keep_slope(Sigmoid(4.0), jnp.bfloat16)
    >>> exact, kept = jax.grad(Sigmoid(4.0))(0.3), jax.grad(fire)(0.3)
    >>> kept.dtype.name, bool(abs(kept - exact) < 2**-8 * exact)
    ('float32', True)
    """
    if not isinstance(surrogate, Surrogate):
        raise TypeError(f"keep_slope: surrogate must be a Surrogate, got {surrogate!r}")
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = None
    if name not in _FLOATS:
        raise TypeError(f"keep_slope: dtype must be one of {', '.join(_FLOATS)}, got {name or repr(dtype)}")
    return _KeptSlope(surrogate, name)


_FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn")


class _KeptSlope(_Wrapper):
    dtype: str = parameter(choices=_FLOATS)

    def __repr__(self) -> str:
        return f"keep_slope({self.surrogate!r}, {self.dtype!r})"

    def _fire(self, x):
        if jnp.dtype(self.dtype).itemsize >= x.dtype.itemsize:
            return self.surrogate._fire(x)
        return spike(x, self.surrogate_grad(x).astype(self.dtype))
