"""A surrogate: its curves, and the one hook that fires it under the settings of the rule.

Curves are the two formulas of a class, ``surrogate_fun`` and ``surrogate_grad``. :func:`_fire` makes a spike of them.
Settings (:func:`learnable`, :func:`keep_slope`, and the spike types of ``_spike_types.py``) are fields of one object
around a curve, not layers around each other, so that setting one twice is setting it once, and their order cannot
matter.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from ._checks import brief, broadcast_checked, compute_dtype, real_array
from ._compat import spread_as, zeros_like
from ._spike import _spike, spike
from ._spike_type import SpikeType, Step
from ._struct import Real, Struct, as_arrays, is_pure, lifted, parameter, shown

T = TypeVar("T")


class Surrogate(Struct):
    r"""A spike with a surrogate gradient: the step forward, a smooth slope backward.

    Subclass it and define ``surrogate_grad(self, x)``, the slope, or ``surrogate_fun(self, x)``, the smooth primal
    whose derivative is the slope, or both. Called on ``x``, the membrane potential minus the threshold, an instance
    returns 1 where ``x >= 0`` and 0 elsewhere, and its derivative is ``surrogate_grad(x)``.

    A subclass that annotates its parameters and writes no ``__init__`` becomes a frozen dataclass and a pytree:
    compared, hashed and printed by value. A parameter that is an array can be traced, batched, sharded and trained. A
    Python number is a constant.
    A subclass with its own ``__init__`` stays a plain mutable object.

    Notes
    -----
    Both methods are elementwise formulas. They are handed ``x`` as a floating-point array of at least 32 bits (half
    precision is computed in float32 and rounded once at the end) and array parameters in the same dtype; what they
    return is brought to the shape and dtype of the caller's ``x``, and a NaN in ``x`` stays NaN.

    ``class Mine(Surrogate, pure=True)`` promises that the methods depend on nothing but their fields and arguments.
    They then run as one compiled call outside ``jit`` too. A subclass states it again.

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

    _formula: ClassVar[str] = ""  # the slope in one line, as the command lists it: docstrings are gone under -OO

    __array_ufunc__ = None  # NumPy leaves the product of an array and a surrogate to the surrogate

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("surrogate_fun", "surrogate_grad"):
            if name in vars(cls):
                setattr(cls, name, _elementwise(vars(cls)[name]))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self._objects:
            if isinstance(value := getattr(self, name), _Configured):
                raise TypeError(
                    f"{type(self).__name__}: {name} must be a curve, got {brief(value)}, whose settings would be lost: "
                    "set them around the whole"
                )

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

    def _without_primal(self) -> str:
        """The class that defines no primal, itself or one that its primal is made of; else nothing."""
        return type(self).__name__ if type(self).surrogate_fun is Surrogate.surrogate_fun else ""

    def _landmarks(self) -> np.ndarray:
        """Points, ascending, at which to begin to look at a curve of any scale."""
        inner = [value for name in self._objects if isinstance(value := getattr(self, name), Surrogate)]
        if inner:
            return np.unique(np.concatenate([surrogate._landmarks() for surrogate in inner]))
        half = np.concatenate([np.geomspace(1e-9, 1e9, 289), np.linspace(0, 10, 401)])
        return np.unique(np.concatenate([-half, half]))

    def __call__(self, x: ArrayLike, *, key: Any = None) -> jax.Array:
        """Fire: 1 where ``x >= 0``, 0 elsewhere, NaN where ``x`` is NaN. Another kind of spike says what comes out.

        Parameters
        ----------
        x : array_like
            Membrane potential minus threshold, any shape. Ints and bools become the default float.
        key : array of jax.random.key, optional
            Draws :func:`spikegrad.stochastic` spikes: one key, or an array of keys in the shape of leading axes of
            ``x``, which draws for each entry as if alone. Other spike types ignore it.

        Returns
        -------
        jax.Array
            In the shape and dtype of ``x``.

        Raises
        ------
        TypeError
            If ``x`` is not real, and if a key is missing or is none.
        ValueError
            If an array parameter does not broadcast to ``x``.
        """
        surrogate = self if key is None else with_key(self, key)
        curve, learn, _, forward = settings_of(surrogate)
        x = real_array(x, type(curve).__name__)
        if learn or isinstance(x, Tracer):
            return _run(_fire, surrogate, x)
        # a known x has no derivative to carry, so that the slope is not even computed
        curve._broadcast_to(x.dtype, x.shape)  # raises where a parameter does not broadcast
        if forward.is_step:
            return _spike(x, x)
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(forward))
        return _run(_fire if traced else _value, surrogate, x)

    def __mul__(self, factor: Real) -> Surrogate:
        """The slope times a number or an array."""
        return composed("*", lambda curve: Scaled(factor, curve), self)

    __rmul__ = __mul__

    def __add__(self, other: Surrogate) -> Surrogate:
        """The sum of two slopes."""
        return composed("+", Sum, self, other)


def _fire(surrogate: Surrogate, x: jax.Array) -> jax.Array:
    """The rule: what comes out of ``x``, and the derivatives that the settings ask for."""
    curve, learn, slope_dtype, forward = settings_of(surrogate)
    out = _with_slope(curve, x, slope_dtype, forward)
    zeros = [_zero_with_gradient(value.astype(x.dtype), slope) for value, slope in forward.own_slopes(curve, x)]
    if learn:
        zeros += _zeros_for_parameters(curve, x, forward)
    return functools.reduce(jnp.add, zeros, out)


def _value(surrogate: Surrogate, x: jax.Array) -> jax.Array:
    """What comes out, without derivatives."""
    curve, _, _, forward = settings_of(surrogate)
    return jnp.where(jnp.isnan(x), x, forward.value(curve, x))


def _with_slope(curve: Surrogate, x: jax.Array, slope_dtype: str | None, forward: SpikeType) -> jax.Array:
    """What the forward says, with its slope for the derivative in ``x``."""
    dtype = compute_dtype(x.dtype)
    if slope_dtype is not None and jnp.dtype(slope_dtype).itemsize < x.dtype.itemsize:
        out = spike(x, forward.slope(curve, x).astype(slope_dtype))
    elif dtype == x.dtype:
        out = spike(x, forward.slope(curve, x))
    else:
        # In half precision the slope meets the cotangent in float32, so that the gradient is rounded once. The residual
        # is x, in its own 16 bits, and the backward pass computes the slope from it.
        out = jax.checkpoint(lambda x: _spike(x, forward.slope(curve, x.astype(dtype))), prevent_cse=False)(x)
    if forward.is_step:
        return out
    # the spike minus itself is exactly zero, and NaN for NaN
    return jax.lax.stop_gradient(forward.value(curve, x)) + (out - jax.lax.stop_gradient(out))


def _zero_with_gradient(value: jax.Array, slope: jax.Array) -> jax.Array:
    """Zero, whose derivative in ``value`` is ``slope``: a spike of it, minus that spike."""
    fired = spike(value, slope)
    return fired - jax.lax.stop_gradient(fired)


def _zeros_for_parameters(curve: Surrogate, x: jax.Array, forward: SpikeType) -> Iterator[jax.Array]:
    """For each parameter of the curve a zero, whose derivative in it is that of the smooth primal."""
    owner = type(curve).__name__
    paths, tree = jax.tree_util.tree_flatten_with_path(curve)
    leaves = [leaf for _, leaf in paths]
    for i, (path, leaf) in enumerate(paths):

        def primal(value, i=i):
            return forward.primal(tree.unflatten([*leaves[:i], value, *leaves[i + 1 :]]), x)

        name = jax.tree_util.keystr(path)[1:]
        value = real_array(leaf, owner, name)
        value = spread_as(broadcast_checked(value, value.dtype, x.shape, owner, name), x)
        slope = finite(jax.jvp(primal, (value,), (jnp.ones_like(value),))[1])
        # a primal that levels off has the derivative 0 far out, where its formula may be infinity times 0
        wide = x.astype(compute_dtype(x.dtype))
        near = abs(wide) <= float(jnp.finfo(wide.dtype).max) ** 0.5  # which NaN is not either
        slope = jnp.where(near | ~jnp.isnan(slope), slope, jnp.zeros_like(slope))
        yield _zero_with_gradient(value.astype(x.dtype), slope)


def _run(method: Callable, surrogate: Surrogate, x: jax.Array) -> jax.Array:
    return _compiled(method, lifted(surrogate), x) if is_pure(surrogate) else method(surrogate, x)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _compiled(method, surrogate, x):
    """One compiled call. Parameters are arguments of it, so another value does not recompile."""
    return method(surrogate, x)


def _elementwise(formula: Callable) -> Callable:
    """Give a formula the contract of the class: checked input, float32 inside, the shape and dtype of ``x`` outside."""

    def evaluate(self, x):
        dtype = compute_dtype(x.dtype)
        owner, result = type(self).__name__, f"{formula.__name__}(x)"
        y = real_array(formula(self._broadcast_to(dtype, x.shape), finite(x.astype(dtype))), owner, result)
        y = broadcast_checked(y, x.dtype, x.shape, owner, result)
        return jnp.where(jnp.isnan(x), x, y)

    @functools.wraps(formula)
    def method(self, x):
        return _run(evaluate, self, real_array(x, type(settings_of(self).curve).__name__))

    return method


def finite(x: jax.Array) -> jax.Array:
    """``x`` with the largest number for infinity, so that no formula has to guard against it."""
    largest = jnp.finfo(x.dtype).max
    return jnp.where(x > largest, largest, jnp.where(x < -largest, -largest, x))


FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn")


class _Configured(Surrogate, pure=True):
    """A curve, and the settings of the rule that differ from the default."""

    surrogate: Surrogate = parameter(kind=Surrogate)
    learn: bool = parameter(default=False, choices=(False, True))
    slope_dtype: str | None = parameter(default=None, choices=(None, *FLOATS))
    forward: SpikeType = parameter(default=Step(), kind=SpikeType)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn:
            object.__setattr__(self, "surrogate", as_arrays(self.surrogate))

    def surrogate_fun(self, x):
        return self.forward.primal(self.surrogate, x)

    def surrogate_grad(self, x):
        return self.forward.slope(self.surrogate, x)

    def _without_primal(self) -> str:
        return self.surrogate._without_primal()

    def in_units_of(self, threshold: Any, x: jax.Array) -> _Configured:
        forward = self.forward.in_units_of(threshold, x)
        return self if forward is self.forward else dataclasses.replace(self, forward=forward)

    def __repr__(self) -> str:
        curve = jax.tree.map(_number_of, self.surrogate) if self.learn else self.surrogate
        shown = self.forward.expression(repr(curve))
        if self.slope_dtype is not None:
            shown = f"keep_slope({shown}, {self.slope_dtype!r})"
        return f"learnable({shown})" if self.learn else shown


def _number_of(leaf: Any) -> Any:
    """The number of which ``learnable`` makes this array, if it is one number of the default dtype."""
    if (
        isinstance(leaf, Tracer)
        or not isinstance(leaf, jax.Array)
        or leaf.shape
        or leaf.dtype != jnp.result_type(float)
    ):
        return leaf
    return float(str(np.asarray(leaf)))  # the shortest decimals that are this array again


class Settings(NamedTuple):
    """The curve of a surrogate, and the settings of its rule."""

    curve: Surrogate
    learn: bool = False
    slope_dtype: str | None = None
    forward: SpikeType = Step()


def settings_of(surrogate: Surrogate) -> Settings:
    if isinstance(surrogate, _Configured):
        return Settings(surrogate.surrogate, surrogate.learn, surrogate.slope_dtype, surrogate.forward)
    return Settings(surrogate)


def curve_of(owner: str, surrogate: Any) -> Surrogate:
    """The curve of a surrogate that was given, or an error if settings cannot apply to it."""
    if not isinstance(surrogate, Surrogate):
        raise TypeError(f"{owner}: surrogate must be a Surrogate, got {brief(surrogate)}")
    if type(surrogate).__call__ is not Surrogate.__call__:
        raise TypeError(
            f"{owner}: {type(surrogate).__name__} has its own __call__, which no setting of the rule reaches"
        )
    return settings_of(surrogate).curve


def with_curve(surrogate: Surrogate, curve: Surrogate) -> Surrogate:
    """Another curve under the settings of a surrogate."""
    return dataclasses.replace(surrogate, surrogate=curve) if isinstance(surrogate, _Configured) else curve


def configured(surrogate: Surrogate, **settings: Any) -> Surrogate:
    """The same curve with further settings: one object for all, so that their order cannot matter."""
    if isinstance(surrogate, _Configured):
        return dataclasses.replace(surrogate, **settings)
    return _Configured(surrogate, **settings)


def with_spike_type(surrogate: Any, kind: SpikeType) -> Surrogate:
    """The same surrogate with another spike type, or an error if it has one already."""
    owner, curve = kind._public_name(), curve_of(kind._public_name(), surrogate)
    before = settings_of(surrogate).forward
    if not before.is_step and before != kind:
        raise TypeError(f"{owner}: {brief(surrogate)} has a kind of spike already, and cannot have another as well")
    if kind.needs_primal and (lacking := curve._without_primal()):
        raise TypeError(f"{owner}: {lacking} defines no surrogate_fun, of which the output is made")
    return configured(surrogate, forward=kind)


# --- sums and multiples, which the operators of the class make -------------------------------------------------------


class _Primal(NamedTuple):
    """A primal at x: ``varying + constant``, and its value at the threshold of the curve.

    A primal is determined up to a constant, and a composition keeps that of what it is made of: its value where that
    has its threshold, 1/2 mostly. All constants of a composition are collected before they meet what varies: where they
    cancel, as in ``0.3 * s + 0.7 * t``, a small tail stays as accurate as it was.
    """

    varying: Any
    constant: Any
    middle: Any

    def scaled(self, factor: Real) -> _Primal:
        return _Primal(factor * self.varying, factor * self.constant + (1 - factor) * self.middle, self.middle)


def _inner(curve: Surrogate, name: str, x: jax.Array) -> jax.Array:
    """A curve within another one, whose formula keeps the contract of both where that of the inner one is known."""
    formula = getattr(getattr(type(curve), name), "__wrapped__", None)
    if formula is None or not is_pure(curve):
        return getattr(curve, name)(x)
    return jnp.asarray(formula(curve._broadcast_to(x.dtype, x.shape), x), x.dtype)


def slope_of(curve: Surrogate, x: jax.Array) -> jax.Array:
    return _inner(curve, "surrogate_grad", x)


def primal_of(curve: Surrogate, x: jax.Array) -> _Primal:
    if isinstance(curve, Composition):
        return curve._broadcast_to(x.dtype, x.shape)._primal(x)
    # a curve with its own __init__ is a leaf itself, and may hold arrays
    numbers = all(not isinstance(leaf, Struct) and jnp.ndim(leaf) == 0 for leaf in jax.tree.leaves(curve))
    threshold = jnp.zeros((), x.dtype) if numbers else zeros_like(x)
    return _Primal(_inner(curve, "surrogate_fun", x), 0.0, curve.surrogate_fun(threshold))


class Composition(Surrogate):
    """A curve made of curves."""

    @classmethod
    def _public_name(cls):
        return cls.__name__.lower()  # the public function that makes it

    def _primal(self, x: jax.Array) -> _Primal:
        raise NotImplementedError

    def _broadcast_to(self, dtype, shape, of="x"):
        for name in self._objects:
            getattr(self, name)._broadcast_to(dtype, shape, of)  # raises where a parameter does not broadcast
        return super()._broadcast_to(dtype, shape, of)

    def _without_primal(self):
        return next(filter(None, (getattr(self, name)._without_primal() for name in self._objects)), "")

    def surrogate_fun(self, x):
        varying, constant, _ = self._primal(x)
        return varying + constant


class Scaled(Composition, pure=True):
    factor: Real = parameter()
    surrogate: Surrogate = parameter(kind=Surrogate)

    @classmethod
    def _public_name(cls):
        return "*"

    def _primal(self, x):
        return primal_of(self.surrogate, x).scaled(self.factor)

    def surrogate_grad(self, x):
        return self.factor * slope_of(self.surrogate, x)

    def __repr__(self) -> str:
        return f"{shown(self.factor)} * {_bracketed(self.surrogate, Scaled, Sum)}"


class Sum(Composition, pure=True):
    first: Surrogate = parameter(kind=Surrogate)
    second: Surrogate = parameter(kind=Surrogate)

    @classmethod
    def _public_name(cls):
        return "+"

    def _primal(self, x):
        a, b = primal_of(self.first, x), primal_of(self.second, x)
        middle = jnp.maximum(a.middle, b.middle)  # 1/2 where either has it
        constant = a.constant + b.constant + (middle - a.middle - b.middle)
        return _Primal(a.varying + b.varying, constant, middle)

    def surrogate_grad(self, x):
        return slope_of(self.first, x) + slope_of(self.second, x)

    def __repr__(self) -> str:
        return f"{self.first!r} + {_bracketed(self.second, Sum)}"


def _bracketed(curve: Surrogate, *kinds: type) -> str:
    return f"({curve!r})" if isinstance(curve, kinds) else repr(curve)


def composed(owner: str, build: Callable[..., Surrogate], *surrogates: Surrogate) -> Surrogate:
    """What is built of the curves, under the settings of the rule that the surrogates have."""
    whole = build(*(curve_of(owner, surrogate) for surrogate in surrogates))
    first, *others = (with_curve(surrogate, whole) for surrogate in surrogates)
    if any(other != first for other in others):
        given = " and ".join(map(repr, surrogates))
        raise TypeError(f"{owner}: {given} have different settings: set them around the whole")
    return first


# --- what cells and networks ask for ---------------------------------------------------------------------------------


def spike_types(tree: Any) -> list[SpikeType]:
    """The spike types of the surrogates in a pytree, such as a cell; those that are just the step left out."""
    leaves = jax.tree.leaves(tree, is_leaf=_is_configured)
    return [leaf.forward for leaf in leaves if _is_configured(leaf) and not leaf.forward.is_step]


def with_key(tree: T, key: Any) -> T:
    """The tree, whose surrogates draw with this key where they are stochastic; if several are, each on its own."""
    count = itertools.count()

    def leaf(surrogate):
        if not (_is_configured(surrogate) and surrogate.forward.draws):
            return surrogate
        own = key if (n := next(count)) == 0 else fold_in(key, n)
        return dataclasses.replace(surrogate, forward=dataclasses.replace(surrogate.forward, key=own))

    key = as_key("stochastic", key)
    return jax.tree.map(leaf, tree, is_leaf=_is_configured)


def fold_in(key: jax.Array, data: Any) -> jax.Array:
    """``jax.random.fold_in`` of each of several keys."""
    fold: Callable = functools.partial(jax.random.fold_in, data=data)
    for _ in key.shape:
        fold = jax.vmap(fold)
    return fold(key)


def as_key(owner: str, key: Any) -> jax.Array:
    """Keys of JAX's new type, or of the two numbers that keys once were."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if getattr(key, "dtype", None) == jnp.uint32 and key.shape[-1:] == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    raise TypeError(f"{owner}: key must be one of jax.random.key, got {brief(key)}")


def _is_configured(value: Any) -> bool:
    return isinstance(value, _Configured)


def in_units_of(surrogate: Callable, threshold: Any, x: jax.Array) -> Callable:
    """The surrogate of a cell of this threshold: other kinds of spike than the step come at multiples of it."""
    bind = getattr(surrogate, "in_units_of", None)
    return surrogate if bind is None else bind(threshold, x)
