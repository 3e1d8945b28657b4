"""Surrogates: the curve, and the one function that fires it under the settings of the gradient
rule.

A curve is the two formulas of a class, ``surrogate_fun`` and ``surrogate_grad``. :func:`_fire`
turns them into a spike. The settings (:func:`learnable`, :func:`keep_slope` and the spike types of
``_spike_types.py``) are fields of one object around a curve instead of nested wrappers, so their
order and repetition cannot matter.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from ._checks import (
    brief,
    broadcast_checked,
    compute_dtype,
    hint_of_name,
    real_array,
)
from ._compat import shard_as, spread_as, zeros_like
from ._rule import _spike, derivative, spike
from ._spike_base import SpikeType, UnitStep
from ._struct import Real, Struct, as_arrays, expression_of, is_pure, lifted, parameter


class Surrogate(Struct):
    r"""Base class of surrogates: a spike in the forward pass, and a smooth slope instead of its
    derivative in the backward pass.

    Call an instance, such as ``Sigmoid(4.0)``, on ``x``, the potential minus the threshold. It
    returns the spike: 1 for ``x >= 0`` and 0 otherwise. Its derivative is ``surrogate_grad(x)``,
    the *slope*.

    For a custom surrogate, subclass it and define ``surrogate_grad(self, x)``, the slope, or
    ``surrogate_fun(self, x)``, the *smooth step*, whose derivative is the slope. You may define
    both. :func:`spikegrad.testing.check_surrogate` checks a custom surrogate.

    Annotate the parameters of the subclass (see :func:`parameter`), and do not define ``__init__``.
    The subclass then is a frozen dataclass and a pytree, which compares by its values. A parameter
    that is a Python number is a constant. A JAX array can be traced and trained. A subclass with
    its own ``__init__`` is a mutable object without these features.

    Notes
    -----
    Both methods must compute each element of ``x`` separately. They get ``x`` as a floating-point
    array of at least 32 bits, and array parameters in the dtype of ``x``. So half precision is
    computed in float32, and the result is rounded at the end. A NaN in ``x`` gives NaN.

    With ``class Mine(Surrogate, pure=True)`` you state that the methods depend only on their fields
    and arguments. Calls outside ``jit`` are then compiled and faster. A subclass of ``Mine`` must
    state it again.

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

    _formula: ClassVar[str] = ""
    """The slope in one line for ``spikegrad list``, because -OO removes docstrings."""

    # NumPy then calls __rmul__ for the product of an array and a surrogate.
    __array_ufunc__ = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("surrogate_fun", "surrogate_grad"):
            # Only methods of this class: inherited ones are wrapped already.
            if name in vars(cls):
                setattr(cls, name, _elementwise(vars(cls)[name]))

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self._objects:
            if isinstance(value := getattr(self, name), _Configured):
                raise TypeError(
                    f"{type(self).__name__}: {name} must be a curve without settings, got "
                    f"{brief(value)}. Apply "
                    "the settings to the composition"
                )

    def surrogate_fun(self, x: Any) -> jax.Array:
        """Return the smooth step, a function whose derivative is the slope :meth:`surrogate_grad`.

        Parameters
        ----------
        x : array_like
            The potential minus the threshold.

        Returns
        -------
        jax.Array
            The values, in the shape and dtype of ``x``.

        Raises
        ------
        NotImplementedError
            If the class does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no surrogate_fun")

    def surrogate_grad(self, x: Any) -> jax.Array:
        """Return the slope, which the backward pass uses instead of the derivative of the spike.

        Parameters
        ----------
        x : array_like
            The potential minus the threshold.

        Returns
        -------
        jax.Array
            The values, in the shape and dtype of ``x``.

        Raises
        ------
        NotImplementedError
            If the class defines neither this method nor ``surrogate_fun``.
        """
        if type(self).surrogate_fun is Surrogate.surrogate_fun:
            raise NotImplementedError(
                f"{type(self).__name__} must define surrogate_grad or surrogate_fun"
            )
        x = real_array(x, type(self).__name__)
        slope = derivative(self.surrogate_fun, x)
        return jnp.where(jnp.isnan(x), x, slope)  # a formula may turn NaN into a number

    def _without_smooth_step(self) -> str:
        """Name the class without a smooth step: this class or one of its parts.

        Empty if all have a smooth step.
        """
        is_missing = type(self).surrogate_fun is Surrogate.surrogate_fun
        return type(self).__name__ if is_missing else ""

    def _landmarks(self) -> np.ndarray:
        """Return ascending points for a first measurement of a curve of any scale."""
        inner = [
            value
            for name in self._objects
            if isinstance(value := getattr(self, name), Surrogate)
        ]
        if inner:
            landmarks = [surrogate._landmarks() for surrogate in inner]
            return np.unique(np.concatenate(landmarks))
        of_any_scale = np.geomspace(1e-9, 1e9, 289)
        of_usual_scale = np.linspace(0, 10, 401)
        half = np.concatenate([of_any_scale, of_usual_scale])
        return np.unique(np.concatenate([-half, half]))

    def __call__(self, x: ArrayLike, *, key: ArrayLike | None = None) -> jax.Array:
        """Return the spikes: 1 for ``x >= 0``, 0 for ``x < 0`` and NaN for NaN, unless a spike type
        changes the output.

        Parameters
        ----------
        x : array_like
            The potential minus the threshold, of any shape. Integers and booleans become the
            default float.
        key : array of jax.random.key, optional
            Random key for :func:`spikegrad.stochastic` spikes: one key, or an array of keys for the
            first axes of ``x``. Other spike types ignore it.

        Returns
        -------
        jax.Array
            The spikes, in the shape and dtype of ``x``.

        Raises
        ------
        TypeError
            If ``x`` is not real, if ``key`` is not a key, or if stochastic spikes have no key.
        ValueError
            If an array parameter does not broadcast to ``x``.
        """
        curve, learn, _, forward = settings_of(self)
        x = real_array(x, type(curve).__name__)
        is_known = not isinstance(x, Tracer)
        if forward.is_step and is_known and not learn:
            # A constant x does not need a slope.
            # Raises if a parameter does not broadcast.
            curve._broadcast_to(x.dtype, x.shape)
            # The second argument is the slope, which only a derivative reads. x takes its place.
            return _spike(x, x)
        # Another spike type must not recompile for a key.
        draws = forward.draws and key is not None
        used_key = as_key("stochastic", key) if draws else None
        return _run(_fire, self, x, used_key)

    def __mul__(self, factor: Real) -> Surrogate:
        """Multiply the slope by a number or an array."""
        return composed("*", lambda curve: Scaled(factor, curve), self)

    __rmul__ = __mul__

    def __add__(self, other: Surrogate) -> Surrogate:
        """Add two slopes."""
        return composed("+", Sum, self, other)


def _fire(
    surrogate: Surrogate, x: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Apply the rule: return the forward output with the derivatives that the settings require."""
    curve, learn, slope_dtype, forward = settings_of(surrogate)
    out = _with_slope(curve, x, slope_dtype, forward, key)
    # Each parameter adds a zero with its own derivative. The rule thus has one tangent for each,
    # and JAX drops the ones that nobody differentiates.
    zeros = [
        _zero_with_gradient(value.astype(x.dtype), slope)
        for value, slope in forward.own_slopes(curve, x)
    ]
    if learn:
        zeros += _zeros_for_parameters(curve, x, forward)
    return functools.reduce(jnp.add, zeros, out)


def _with_slope(
    curve: Surrogate,
    x: jax.Array,
    slope_dtype: str | None,
    forward: SpikeType,
    key: jax.Array | None,
) -> jax.Array:
    """Return the forward output with the slope as its derivative in ``x``."""
    dtype = compute_dtype(x.dtype)
    # The slope is an ordinary value of the trace, so a derivative of the derivative reaches x.
    if slope_dtype is not None and jnp.dtype(slope_dtype).itemsize < x.dtype.itemsize:
        out = spike(x, forward.slope(curve, x).astype(slope_dtype))
    elif dtype == x.dtype:
        out = spike(x, forward.slope(curve, x))
    else:
        # In half precision slope and cotangent are multiplied in float32, so the gradient is
        # rounded once. The residual is x in 16 bits. The backward pass computes the slope from it.
        def half_spike(x: jax.Array) -> jax.Array:
            slope = forward.slope(curve, x.astype(dtype))
            return _spike(x, slope)

        out = jax.checkpoint(half_spike, prevent_cse=False)(x)
    if forward.is_step:
        return out
    value = jax.lax.stop_gradient(forward.value(curve, x, key))
    # A spike minus itself is exactly zero, or NaN for NaN, and carries the derivative.
    zero = out - jax.lax.stop_gradient(out)
    return value + zero


def _zero_with_gradient(value: jax.Array, slope: jax.Array) -> jax.Array:
    """Return zero with the derivative ``slope`` in ``value``: a spike of ``value`` minus itself."""
    # Under vmap the slope may be batched and the value not. JAX cannot differentiate such a call of
    # a custom_jvp. This select returns the value, also if it is infinite or NaN, and gives it the
    # batch axes of the slope.
    nowhere = shard_as(jnp.zeros(slope.shape, bool), slope)
    constant = jax.lax.stop_gradient(slope)
    value = jnp.where(nowhere, constant.astype(value.dtype), value)
    fired = spike(value, slope)
    return fired - jax.lax.stop_gradient(fired)


def _zeros_for_parameters(
    curve: Surrogate, x: jax.Array, forward: SpikeType
) -> Iterator[jax.Array]:
    """Yield a zero for each parameter of the curve, with the derivative of the smooth step in this
    parameter.
    """
    owner = type(curve).__name__
    paths, tree = jax.tree_util.tree_flatten_with_path(curve)
    leaves = [leaf for _, leaf in paths]
    for i, (path, leaf) in enumerate(paths):

        def smooth_step(value, i=i):
            changed = tree.unflatten([*leaves[:i], value, *leaves[i + 1 :]])
            return forward.smooth_step(changed, x)

        name = jax.tree_util.keystr(path)[1:]
        value = real_array(leaf, owner, name)
        # Broadcast before the derivative: JAX then sums the gradient over the broadcast axes.
        # One zero per parameter, so each derivative is one elementwise formula and no Jacobian.
        value = broadcast_checked(value, value.dtype, x.shape, owner, name)
        value = spread_as(value, x)
        slope = finite(derivative(smooth_step, value))
        # Far from the threshold a smooth step is flat. Its derivative is 0 there, but the formula
        # may be infinity times 0.
        wide = x.astype(compute_dtype(x.dtype))
        # The largest number with a finite square. Beyond it, formulas with x * x may give infinity
        # times 0.
        largest = float(jnp.finfo(wide.dtype).max) ** 0.5
        is_near = abs(wide) <= largest  # False for NaN
        is_right = is_near | ~jnp.isnan(slope)
        slope = jnp.where(is_right, slope, jnp.zeros_like(slope))
        yield _zero_with_gradient(value.astype(x.dtype), slope)


def _run(
    method: Callable, surrogate: Surrogate, *arrays: jax.Array | None
) -> jax.Array:
    if is_pure(surrogate):
        return _compiled(method, lifted(surrogate), *arrays)
    return method(surrogate, *arrays)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _compiled(method, surrogate, *arrays):
    """Run one compiled call. Parameters are its arguments, so another value does not recompile."""
    return method(surrogate, *arrays)


def _elementwise(formula: Callable) -> Callable:
    """Wrap a formula: check ``x``, compute in at least float32, return the shape and dtype of
    ``x``.
    """

    def evaluate(self, x):
        dtype = compute_dtype(x.dtype)
        owner = type(self).__name__
        result = f"{formula.__name__}(x)"
        curve = self._broadcast_to(dtype, x.shape)
        # Finite inputs keep formulas free of guards: infinity times 0 would be NaN in a tail.
        y = formula(curve, finite(x.astype(dtype)))
        y = real_array(y, owner, result)
        # The one rounding to half precision. A constant formula returns a scalar.
        y = broadcast_checked(y, x.dtype, x.shape, owner, result)
        return jnp.where(jnp.isnan(x), x, y)

    @functools.wraps(formula)
    def method(self, x):
        owner = type(settings_of(self).curve).__name__
        return _run(evaluate, self, real_array(x, owner))

    return method


def finite(x: jax.Array) -> jax.Array:
    """Replace infinities by the largest number, so formulas need no guards."""
    largest = jnp.finfo(x.dtype).max
    return jnp.where(x > largest, largest, jnp.where(x < -largest, -largest, x))


FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn")


class _Configured(Surrogate, pure=True):
    """A curve with settings of the gradient rule."""

    surrogate: Surrogate = parameter(kind=Surrogate)
    learn: bool = parameter(default=False)
    slope_dtype: str | None = parameter(default=None, choices=(None, *FLOATS))
    forward: SpikeType = parameter(default=UnitStep(), kind=SpikeType)

    def __post_init__(self) -> None:
        super().__post_init__()
        # Constants of a tree get no gradient, so numbers become leaves.
        if self.learn:
            object.__setattr__(self, "surrogate", as_arrays(self.surrogate))

    def surrogate_fun(self, x):
        return self.forward.smooth_step(self.surrogate, x)

    def surrogate_grad(self, x):
        return self.forward.slope(self.surrogate, x)

    def _without_smooth_step(self) -> str:
        return self.surrogate._without_smooth_step()

    def in_units_of(self, threshold: Real, x: jax.Array) -> _Configured:
        forward = self.forward.in_units_of(threshold, x)
        if forward is self.forward:
            return self
        return dataclasses.replace(self, forward=forward)

    def __repr__(self) -> str:
        curve = self.surrogate
        if self.learn:
            curve = jax.tree.map(_number_of, curve)
        text = self.forward.expression(repr(curve))
        if self.slope_dtype is not None:
            text = f"keep_slope({text}, {self.slope_dtype!r})"
        return f"learnable({text})" if self.learn else text


def _number_of(leaf: object) -> object:
    """Return the number that ``learnable`` turned into this array, if it is one number of the
    default dtype.
    """
    if isinstance(leaf, Tracer) or not isinstance(leaf, jax.Array):
        return leaf
    if leaf.shape or leaf.dtype != jnp.result_type(float):
        return leaf
    # The shortest decimal that rounds to this array.
    return float(str(np.asarray(leaf)))


class Settings(NamedTuple):
    """The curve of a surrogate and the settings of its gradient rule."""

    curve: Surrogate
    learn: bool = False
    slope_dtype: str | None = None
    forward: SpikeType = UnitStep()


def settings_of(surrogate: Surrogate) -> Settings:
    if isinstance(surrogate, _Configured):
        return Settings(
            surrogate.surrogate,
            surrogate.learn,
            surrogate.slope_dtype,
            surrogate.forward,
        )
    return Settings(surrogate)


def curve_of(owner: str, surrogate: object) -> Surrogate:
    """Return the curve of a surrogate. Raise if settings cannot apply to it."""
    if not isinstance(surrogate, Surrogate):
        raise TypeError(
            f"{owner}: surrogate must be a Surrogate, got {brief(surrogate)}"
            + hint_of_name(surrogate)
        )
    if type(surrogate).__call__ is not Surrogate.__call__:
        raise TypeError(
            f"{owner}: {type(surrogate).__name__} must not override __call__, which would ignore "
            "settings"
        )
    return settings_of(surrogate).curve


def with_curve(surrogate: Surrogate, curve: Surrogate) -> Surrogate:
    """Return ``curve`` with the settings of ``surrogate``."""
    if isinstance(surrogate, _Configured):
        return dataclasses.replace(surrogate, surrogate=curve)
    return curve


def configured(surrogate: Surrogate, **settings: Any) -> Surrogate:
    """Return the surrogate with further settings, all in one object."""
    return _Configured(*settings_of(surrogate)._replace(**settings))


def with_spike_type(surrogate: Any, kind: SpikeType) -> Surrogate:
    """Set the spike type of a surrogate. Raise if it has another one already."""
    owner = kind._public_name()
    curve = curve_of(owner, surrogate)
    before = settings_of(surrogate).forward
    if not before.is_step and before != kind:
        raise TypeError(
            f"{owner}: surrogate already has a spike type, got {brief(surrogate)}. Use one spike "
            "type"
        )
    if kind.needs_smooth_step and (lacking := curve._without_smooth_step()):
        raise TypeError(
            f"{owner}: {lacking} must define surrogate_fun, because the output is computed from it"
        )
    return configured(surrogate, forward=kind)


# --- sums and multiples, which the operators of the class make ------------------------------------


class _SmoothStep(NamedTuple):
    """A smooth step at ``x``, ``varying + constant``, and its value ``middle`` at the threshold.

    The slope determines a smooth step up to a constant. A composition keeps the value that its
    parts have at their threshold, usually 1/2. The constants are added up separately and added to
    ``varying`` last. If they cancel, as in ``0.3 * s + 0.7 * t``, small tails stay accurate.
    """

    varying: jax.Array
    constant: ArrayLike
    middle: jax.Array

    def scaled(self, factor: Real) -> _SmoothStep:
        # factor * (p - middle) + middle, with p = varying + constant: a multiple about the value
        # at the threshold.
        varying = factor * self.varying
        constant = factor * self.constant + (1 - factor) * self.middle
        return _SmoothStep(varying, constant, self.middle)


def _inner(curve: Surrogate, name: str, x: jax.Array) -> jax.Array:
    """Evaluate a curve within a curve.

    A pure inner formula runs unwrapped, because the outer wrapper serves both.
    """
    method = getattr(type(curve), name)
    formula = getattr(method, "__wrapped__", None)
    if formula is None or not is_pure(curve):
        return getattr(curve, name)(x)
    curve = curve._broadcast_to(x.dtype, x.shape)
    return jnp.asarray(formula(curve, x), x.dtype)


def slope_of(curve: Surrogate, x: jax.Array) -> jax.Array:
    return _inner(curve, "surrogate_grad", x)


def smooth_step_of(curve: Surrogate, x: jax.Array) -> _SmoothStep:
    if isinstance(curve, Composition):
        curve = curve._broadcast_to(x.dtype, x.shape)
        return curve._smooth_step(x)
    # A curve with a custom __init__ is a leaf and may contain arrays.
    has_numbers_only = all(
        not isinstance(leaf, Struct) and jnp.ndim(leaf) == 0
        for leaf in jax.tree.leaves(curve)
    )
    # One point is enough for numbers. Arrays have a value at the threshold for each entry of x.
    threshold = jnp.zeros((), x.dtype) if has_numbers_only else zeros_like(x)
    varying = _inner(curve, "surrogate_fun", x)
    middle = curve.surrogate_fun(threshold)
    return _SmoothStep(varying, 0.0, middle)


class Composition(Surrogate):
    """A curve composed of curves."""

    @classmethod
    def _public_name(cls):
        return cls.__name__.lower()  # the public function that makes it

    def _smooth_step(self, x: jax.Array) -> _SmoothStep:
        raise NotImplementedError

    def _broadcast_to(
        self, dtype: DTypeLike, shape: tuple[int, ...], target: str = "x"
    ) -> Self:
        for name in self._objects:
            # Raises if a parameter does not broadcast.
            getattr(self, name)._broadcast_to(dtype, shape, target)
        return super()._broadcast_to(dtype, shape, target)

    def _without_smooth_step(self):
        for name in self._objects:
            if lacking := getattr(self, name)._without_smooth_step():
                return lacking
        return ""

    def surrogate_fun(self, x):
        varying, constant, _ = self._smooth_step(x)
        return varying + constant

    def __repr__(self) -> str:
        arguments = ", ".join(map(expression_of, self._values().values()))
        return f"{self._public_name()}({arguments})"


class Scaled(Composition, pure=True):
    """A multiple of a curve."""

    factor: Real = parameter()
    surrogate: Surrogate = parameter(kind=Surrogate)

    @classmethod
    def _public_name(cls):
        return "*"

    def _smooth_step(self, x):
        return smooth_step_of(self.surrogate, x).scaled(self.factor)

    def surrogate_grad(self, x):
        return self.factor * slope_of(self.surrogate, x)

    def __repr__(self) -> str:
        curve = _bracketed(self.surrogate, Scaled, Sum)
        return f"{expression_of(self.factor)} * {curve}"


class Sum(Composition, pure=True):
    """A sum of two curves."""

    first: Surrogate = parameter(kind=Surrogate)
    second: Surrogate = parameter(kind=Surrogate)

    @classmethod
    def _public_name(cls):
        return "+"

    def _smooth_step(self, x):
        a = smooth_step_of(self.first, x)
        b = smooth_step_of(self.second, x)
        middle = jnp.maximum(a.middle, b.middle)  # 1/2 if either curve has it
        constant = a.constant + b.constant
        # So that the sum of both curves has the value ``middle`` at the threshold.
        constant = constant + (middle - a.middle - b.middle)
        return _SmoothStep(a.varying + b.varying, constant, middle)

    def surrogate_grad(self, x):
        return slope_of(self.first, x) + slope_of(self.second, x)

    def __repr__(self) -> str:
        return f"{self.first!r} + {_bracketed(self.second, Sum)}"


def _bracketed(curve: Surrogate, *kinds: type) -> str:
    return f"({curve!r})" if isinstance(curve, kinds) else repr(curve)


def composed(
    owner: str, build: Callable[..., Surrogate], *surrogates: Surrogate
) -> Surrogate:
    """Build a curve from the curves of surrogates, and give it their settings, which must be
    equal."""
    curves = [curve_of(owner, surrogate) for surrogate in surrogates]
    composition = build(*curves)
    # With the curve replaced, two surrogates are equal if and only if their settings are.
    first, *others = (with_curve(surrogate, composition) for surrogate in surrogates)
    if any(other != first for other in others):
        names = " and ".join(map(repr, surrogates))
        raise TypeError(
            f"{owner}: {names} have different settings. Apply the settings to the composition"
        )
    return first


# --- used by cells and networks -------------------------------------------------------------------


def spike_types(tree: object) -> list[SpikeType]:
    """List the spike types of the surrogates in a pytree, such as a cell, except for the step."""

    def is_configured(value: object) -> bool:
        return isinstance(value, _Configured)

    leaves = jax.tree.leaves(tree, is_leaf=is_configured)
    kinds = [settings_of(leaf).forward for leaf in leaves]
    return [kind for kind in kinds if not kind.is_step]


def fold_in(key: jax.Array, data: ArrayLike) -> jax.Array:
    """Apply ``jax.random.fold_in`` to each key of an array."""
    fold: Callable = functools.partial(jax.random.fold_in, data=data)
    # ``fold_in`` takes one key, so one vmap for each axis of the keys.
    for _ in key.shape:
        fold = jax.vmap(fold)
    return fold(key)


def as_key(owner: str, key: Any) -> jax.Array:
    """Return typed keys. Legacy keys of two uint32 numbers are converted."""
    is_array = isinstance(key, jax.Array)
    if is_array and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    # The form of ``jax.random.PRNGKey``, two numbers on the last axis.
    is_uint32 = getattr(key, "dtype", None) == jnp.uint32
    if is_uint32 and key.shape[-1:] == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")
    hint = f". Pass jax.random.key({key})" if isinstance(key, int) else ""
    raise TypeError(
        f"{owner}: key must be one of jax.random.key, got {brief(key)}{hint}"
    )


def in_units_of(surrogate: Callable, threshold: Real, x: jax.Array) -> Callable:
    """Return the surrogate of a cell with this threshold.

    Spike types scale their thresholds by it.
    """
    bind = getattr(surrogate, "in_units_of", None)
    return surrogate if bind is None else bind(threshold, x)
