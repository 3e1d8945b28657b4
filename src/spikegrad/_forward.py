"""What comes out of a spike: the step, or another kind.

A forward has a value, a primal and a slope, made of those of a curve. The rule in ``_surrogate.py`` takes the value for
the output, the slope for the derivative in ``x``, and under ``learnable`` the derivative of the primal for those in the
parameters. So each kind is its formulas and nothing else.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ._checks import broadcast_checked, compute_dtype
from ._compat import match_varying_axes, shard_as, spread_as, zeros_like
from ._struct import Real, Struct, parameter, shown

Curve = Any
"""What has ``surrogate_fun`` and ``surrogate_grad``."""


class Forward(Struct):
    """A kind of spike; by itself the step."""

    @classmethod
    def _called(cls) -> str:
        return cls.__name__.lower()  # the public function that makes it

    @property
    def is_step(self) -> bool:
        return False

    @property
    def beyond_sign(self) -> bool:
        """Whether it takes more than the sign of ``x`` to tell which of a few values comes out."""
        return False

    def expression(self, curve: str) -> str:
        """The expression that makes it, around that of a curve."""
        raise NotImplementedError

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        """What comes out of ``x``, in its dtype. NaN need not be thought of."""
        raise NotImplementedError

    def primal(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_fun(x)

    def slope(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_grad(x)

    def own_slopes(self, curve: Curve, x: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
        """Parameters of the kind itself, in the shape of ``x``, each with the derivative in it."""
        del curve, x
        yield from ()

    def in_units_of(self, threshold: Any, x: jax.Array) -> Forward:
        """The same within a cell of this threshold, which broadcasts to ``x``."""
        del threshold, x
        return self


class Step(Forward, pure=True):
    @property
    def is_step(self) -> bool:
        return True

    def expression(self, curve: str) -> str:
        return curve

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        return (x >= 0).astype(x.dtype)


class Excluding(Forward, pure=True):
    @property
    def beyond_sign(self) -> bool:
        return True  # what is kept of a small positive number may be zero

    def expression(self, curve: str) -> str:
        return f"excluding({curve})"

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        return (x > 0).astype(x.dtype)


class Soft(Forward, pure=True):
    def expression(self, curve: str) -> str:
        return f"soft({curve})"

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_fun(x)


class Stochastic(Forward, pure=True):
    """The key is None, which is no leaf, until a spike is to be drawn."""

    key: Any = parameter(default=None, kind=object)

    @property
    def beyond_sign(self) -> bool:
        return True

    def expression(self, curve: str) -> str:
        return f"stochastic({curve})"

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        if self.key is None:
            raise TypeError(
                "stochastic: a spike is drawn, which takes a key: fire(x, key=key), cell(v, current, key=key), "
                "network(inputs, key=key); a cell of your own has the surrogate in one of its fields"
            )
        # in float32 at least: in half precision the probability would be rounded, and their mean be off
        probability = curve.surrogate_fun(x.astype(compute_dtype(x.dtype)))
        return (_uniform(self.key, probability) < probability).astype(x.dtype)


def _uniform(key: Any, like: jax.Array) -> jax.Array:
    """Numbers from 0 to 1, 1 excluded: of one key, or of one for each entry of the leading axes."""
    if like.shape[: key.ndim] != key.shape:
        raise ValueError(f"stochastic: keys of shape {key.shape} are not the leading axes of x of shape {like.shape}")
    draw = functools.partial(jax.random.uniform, shape=like.shape[key.ndim :], dtype=like.dtype)
    for _ in key.shape:
        draw = jax.vmap(draw)
    return shard_as(draw(key), like)


class Levels(Forward, pure=True):
    n: int = parameter(integer=True, at_least=1)
    threshold: Real = parameter(default=1.0, above=0)
    slopes: str = parameter(default="sum", choices=("sum", "nearest", "first"))

    @property
    def beyond_sign(self) -> bool:
        return self.n > 1

    def expression(self, curve: str) -> str:
        more = f", {shown(self.threshold)}" if not _is_one(self.threshold) or self.slopes != "sum" else ""
        return f"levels({curve}, {self.n}{more}{', ' + repr(self.slopes) if self.slopes != 'sum' else ''})"

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        most = 2 ** (jnp.finfo(x.dtype).nmant + 1)
        if self.n > most:
            raise ValueError(f"levels: n must be <= {most}, up to which {x.dtype} counts, got {self.n}")
        wide = x.astype(compute_dtype(x.dtype))
        theta = self._distance(wide)
        count = jnp.clip(jnp.floor(wide / theta) + 1, 0, self.n)
        # A compiler may divide in another way, so that the quotient decides nothing: the multiples themselves do.
        more = (count < self.n) & (wide >= count * theta)
        less = (count > 0) & (wide < (count - 1) * theta)
        return (count + more.astype(wide.dtype) - less.astype(wide.dtype)).astype(x.dtype)

    def primal(self, curve: Curve, x: jax.Array) -> jax.Array:
        theta = self._distance(x)
        if self.slopes == "sum":
            return _total(lambda k: curve.surrogate_fun(x - k * theta), range(self.n), x)
        if self.slopes == "first":
            return curve.surrogate_fun(x)
        k, half = self._nearest(x, theta), spread_as(theta / 2, x)
        rise = curve.surrogate_fun(half) - curve.surrogate_fun(-half)  # from one level to the next
        return curve.surrogate_fun(x - k * theta) + k * rise

    def slope(self, curve: Curve, x: jax.Array) -> jax.Array:
        theta = self._distance(x)
        if self.slopes == "sum":
            return _total(lambda k: curve.surrogate_grad(x - k * theta), range(self.n), x)
        if self.slopes == "first":
            return curve.surrogate_grad(x)
        return curve.surrogate_grad(x - self._nearest(x, theta) * theta)

    def own_slopes(self, curve: Curve, x: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
        theta = self._distance(x)
        if self.n == 1 or self.slopes == "first":  # at x = 0 alone, wherever the others are
            return
        if self.slopes == "sum":
            moved = _total(lambda k: -k * curve.surrogate_grad(x - k * theta), range(1, self.n), x)
        else:
            k = self._nearest(x, theta)
            moved = -k * curve.surrogate_grad(x - k * theta)
        yield spread_as(_unit(self, x), x), moved

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slopes == "sum" and self.n > _MOST_SLOPES:
            raise ValueError(
                f"levels: n must be <= {_MOST_SLOPES:,} with slopes='sum', which evaluates n slopes, got {self.n}; "
                "pass slopes='nearest' or slopes='first'"
            )

    def _distance(self, x):
        """The distance between thresholds. XLA flushes numbers below the least normal one to 0, and x/0 is NaN."""
        theta, tiny = _unit(self, x), jnp.finfo(x.dtype).tiny
        return jnp.where(jnp.abs(theta) < tiny, jnp.asarray(tiny, x.dtype), theta)

    def _nearest(self, x, theta):
        """Which multiple of the threshold is the nearest that counts; a constant for the derivative."""
        return jax.lax.stop_gradient(jnp.clip(jnp.floor(x / theta + 0.5), 0, self.n - 1))

    def in_units_of(self, threshold: Any, x: jax.Array) -> Forward:
        return Levels(self.n, _times(self, threshold, x), self.slopes)


class Signed(Forward, pure=True):
    threshold: Real = parameter(default=1.0, above=0)

    @property
    def beyond_sign(self) -> bool:
        return True

    def expression(self, curve: str) -> str:
        return f"signed({curve}{'' if _is_one(self.threshold) else ', ' + shown(self.threshold)})"

    def value(self, curve: Curve, x: jax.Array) -> jax.Array:
        return (x >= 0).astype(x.dtype) - (self._mirrored(x) >= 0).astype(x.dtype)

    def primal(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_fun(x) - curve.surrogate_fun(self._mirrored(x))

    def slope(self, curve: Curve, x: jax.Array) -> jax.Array:
        return curve.surrogate_grad(x) + curve.surrogate_grad(self._mirrored(x))

    def own_slopes(self, curve: Curve, x: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
        yield spread_as(_unit(self, x), x), 2 * curve.surrogate_grad(self._mirrored(x))

    def _mirrored(self, x):
        """``x`` of the opposite potential."""
        return -x - 2 * _unit(self, x)

    def in_units_of(self, threshold: Any, x: jax.Array) -> Forward:
        return Signed(_times(self, threshold, x))


def _unit(forward: Levels | Signed, x: jax.Array) -> jax.Array:
    return broadcast_checked(jnp.asarray(forward.threshold), x.dtype, x.shape, forward._called(), "threshold")


def _times(forward: Levels | Signed, threshold: Any, x: jax.Array) -> Any:
    return threshold if _is_one(forward.threshold) else _unit(forward, x) * threshold


_MOST_SLOPES = 1 << 16
_UNROLLED = 16


def _total(term: Callable[[Any], jax.Array], numbers: range, like: jax.Array) -> jax.Array:
    """Sum ``term(k)``, in a loop for many terms, because unrolled terms take long to compile."""
    if len(numbers) <= _UNROLLED:
        return functools.reduce(operator.add, map(term, numbers))
    ks = jnp.arange(numbers.start, numbers.stop).astype(like.dtype)
    first = match_varying_axes(zeros_like(like), like=like)
    return jax.lax.scan(lambda total, k: (total + term(k), None), first, ks)[0]


def _is_one(threshold: Any) -> bool:
    return isinstance(threshold, float) and threshold == 1
