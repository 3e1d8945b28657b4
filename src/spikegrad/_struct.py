"""Frozen records that are pytrees: what a surrogate and a neuron have in common.

A subclass that only annotates its fields becomes a frozen dataclass and a pytree: number fields are leaves, fields
that must be Python values at trace time are static. A subclass with a hand-written ``__init__`` is left alone: a plain
mutable object, compared by identity, opaque to JAX.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._checks import brief, broadcast_checked

Real: TypeAlias = float | jax.Array
"""A parameter: a number (a constant) or an array (a value to trace, batch, shard or train). NumPy's serve as well."""

T = TypeVar("T")
R = TypeVar("R", bound="Struct")


@dataclasses.dataclass(frozen=True)
class _Domain:
    """What a field may hold. ``check`` returns the value as it is stored, or raises."""

    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    integer: bool = False
    choices: Sequence[Any] | None = None
    kind: Any = None

    @property
    def static(self) -> bool:
        return self.integer or self.choices is not None

    @property
    def number(self) -> bool:
        return not self.static and self.kind is None

    def check(self, owner: str, name: str, value: Any) -> Any:
        def refuse(expected: str) -> None:
            raise_as = ValueError if isinstance(value, (numbers.Real, str, np.ndarray)) else TypeError
            raise raise_as(f"{owner}: {name} must be {expected}, got {brief(value)}")

        if self.choices is not None:
            if not any(value is choice or (isinstance(value, str) and value == choice) for choice in self.choices):
                refuse("one of " + ", ".join(map(repr, self.choices)))
            return value
        if self.kind is not None:
            if isinstance(value, type):  # a class can be called, and would pass for a function
                cls = value.__name__
                raise TypeError(f"{owner}: {name} must be an instance, got the class {cls}: write {cls}()")
            if not isinstance(value, self.kind):
                raise TypeError(f"{owner}: {name} must be a {self.kind.__name__}, got {brief(value)}")
            return value
        if self.integer:
            if not isinstance(value, numbers.Integral) or isinstance(value, bool):
                raise TypeError(f"{owner}: {name} must be an integer, got {brief(value)}")
            value = int(value)
        else:
            value = _real(owner, name, value)
        if isinstance(value, (int, float, np.ndarray)):  # a jax.Array may be traced, and reading it would wait for it
            for bound, holds, sign in (
                (self.above, np.greater, ">"),
                (self.at_least, np.greater_equal, ">="),
                (self.at_most, np.less_equal, "<="),
            ):
                if bound is not None and not np.all(holds(value, bound)):
                    refuse(f"{sign} {bound}")
            if not np.all(np.isfinite(value)):
                refuse("finite")
        return value


def _real(owner: str, name: str, value: Any) -> Any:
    """A number as a Python float, an array as it is (a NumPy array as a read-only copy)."""
    if not isinstance(value, jax.Array) and hasattr(value, "__jax_array__"):
        value = value.__jax_array__()
    if isinstance(value, (bool, np.bool_)):
        pass
    elif isinstance(value, numbers.Real) or (
        isinstance(value, np.generic) and jnp.issubdtype(value.dtype, jnp.floating)
    ):
        try:
            return float(value)
        except OverflowError:
            return math.inf  # refused as not finite, with the other infinities
    elif isinstance(value, np.ndarray) and jnp.issubdtype(value.dtype, jnp.integer):
        return _read_only(value.astype(float))  # as a number would be: JAX would cut it to 32 bits
    elif isinstance(value, np.ndarray) and jnp.issubdtype(value.dtype, jnp.floating):
        return _read_only(value.copy())
    elif isinstance(value, jax.Array) and (
        jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
    ):
        return value
    what = f"an array of {value.dtype}" if isinstance(value, (np.ndarray, jax.Array)) else brief(value)
    raise TypeError(f"{owner}: {name} must be a real number or array, got {what}")


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def parameter(
    *,
    default: Any = dataclasses.MISSING,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    integer: bool = False,
    choices: Sequence[Any] | None = None,
    kind: Any = None,
) -> Any:
    """Declare a field of a surrogate or a neuron, with its default and its domain.

    Parameters
    ----------
    default
        The value when none is given; without it the field is required.
    above, at_least, at_most : float, optional
        Bounds: greater than, at least, at most. Python and NumPy numbers are checked when the object is built, JAX
        arrays never (they may be traced). A number must always be finite.
    integer : bool
        An integer that must be known when JAX traces, such as a number of terms: static, so another value recompiles.
    choices : sequence, optional
        The values allowed; static as well.
    kind : type, optional
        The field holds an object of this type, not a number.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad import Surrogate, parameter
    >>> class Cauchy(Surrogate):
    ...     gamma: float = parameter(default=1.0, above=0)
    ...
    ...     def surrogate_grad(self, x):
    ...         return 1 / (1 + (x / self.gamma) ** 2)
    >>> Cauchy(gamma=0.5)
    Cauchy(gamma=0.5)
    >>> Cauchy(gamma=-1)
    Traceback (most recent call last):
    ...
    ValueError: Cauchy: gamma must be > 0, got -1.0
    """
    domain = _Domain(above, at_least, at_most, integer, choices, kind)
    return dataclasses.field(default=default, metadata={"domain": domain})


def domain(field: dataclasses.Field) -> _Domain:
    return field.metadata.get("domain", _Domain())


def _by_value(value: Any) -> Any:
    """A key that hashes and compares as the value of a field does."""
    if isinstance(value, Tracer):
        return "traced", id(value)  # JAX hashes what it is given to jit, scan or checkpoint, also within another trace
    if isinstance(value, (np.ndarray, jax.Array)):
        array = np.asarray(value)
        return array.shape, array.dtype.name, array.tobytes()
    return value


def _shown(value: Any) -> str:
    """``repr``, which for a small array is an expression that makes it again."""
    if isinstance(value, (np.ndarray, jax.Array)) and not isinstance(value, Tracer):
        if value.size <= 32:
            made_by = "np" if isinstance(value, np.ndarray) else "jnp"  # jnp would round a float64 to float32
            return f"{made_by}.array({np.asarray(value).tolist()}, dtype='{value.dtype.name}')"
        return f"<{value.dtype.name}{list(value.shape)}>"
    return repr(value)


@dataclass_transform(field_specifiers=(parameter,))  # not frozen_default: a class with its own __init__ sets attributes
class Struct:
    """Base of everything here that has parameters. See the module's text for its two forms."""

    _frozen: ClassVar[bool] = True
    _domains: ClassVar[Mapping[str, _Domain]] = {}
    _numbers: ClassVar[tuple[str, ...]] = ()
    _objects: ClassVar[tuple[str, ...]] = ()
    _stated_pure: ClassVar[bool] = False
    _hints: ClassVar[MappingProxyType[str, str]] = MappingProxyType({})
    """What to give instead of a parameter that other libraries have."""

    if not TYPE_CHECKING:  # a checker reads the parameters off __init__

        def __new__(cls, *args, **kwargs):
            del args
            for name in kwargs if cls._frozen else ():
                if name in cls._hints and name not in cls._domains:
                    raise TypeError(f"{cls.__name__}: no parameter {name}; give {cls._hints[name]}")
            return super().__new__(cls)

    def __init_subclass__(cls, *, pure: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._stated_pure = pure  # stated by each class for itself: the methods of a subclass are its own
        # dataclass() has not run on cls yet, so an __init__ in its own namespace is the author's
        nearest = next(c for c in cls.__mro__ if "__init__" in vars(c))
        cls._frozen = nearest is object or (nearest is not cls and getattr(nearest, "_frozen", False))
        if cls._frozen:
            dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
            cls._domains = {f.name: domain(f) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
            cls._numbers = tuple(name for name, d in cls._domains.items() if d.number)
            cls._objects = tuple(name for name, d in cls._domains.items() if d.kind is not None)
            static = [name for name, d in cls._domains.items() if d.static]
            _register(cls, [name for name in cls._domains if name not in static], static)
        elif pure:
            raise TypeError(f"{cls.__name__}: pure=True needs parameters declared by annotations, not an own __init__")
        else:  # undo what a frozen ancestor hands down
            cls._domains, cls._numbers, cls._objects = {}, (), ()
            for name in ("__setattr__", "__delattr__"):
                if name not in vars(cls):
                    setattr(cls, name, getattr(object, name))

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name, domain in self._domains.items():
            object.__setattr__(self, name, domain.check(owner, name, getattr(self, name)))

    def __repr__(self) -> str:
        values = self._values() if self._frozen else vars(self)
        return f"{type(self).__name__}({', '.join(f'{k}={_shown(v)}' for k, v in values.items())})"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not self._frozen or type(self) is not type(other):
            return NotImplemented
        return self._key() == other._key()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self), self._key())) if self._frozen else object.__hash__(self)

    def _fitted(self: R, dtype: Any, shape: tuple[int, ...], of: str = "x") -> R:
        """The same record with its array parameters in this dtype, of this rank, broadcasting to this shape."""
        arrays = [name for name in self._numbers if type(getattr(self, name)) is not float]
        if not arrays:
            return self
        values = self._values()
        for name in arrays:
            values[name] = broadcast_checked(jnp.asarray(values[name]), dtype, shape, type(self).__name__, name, of)
        return new_unchecked(type(self), values)

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._domains}

    def _key(self) -> tuple:
        return tuple(map(_by_value, self._values().values()))


def is_pure(value: Any) -> bool:
    """Whether the methods of a class depend on nothing but fields and arguments, as its author says by ``pure=True``.

    Asked of an object, the objects in its fields must be pure as well. What is not may read anything, a global or a
    file, and is never answered from a cache.
    """
    if isinstance(value, type):
        return issubclass(value, Struct) and value._stated_pure
    if not isinstance(value, Struct):
        return False
    return value._stated_pure and all(is_pure(getattr(value, name)) for name in value._objects)


def _register(cls: type, names: Sequence[str], static: Sequence[str]) -> None:
    keys = [jax.tree_util.GetAttrKey(name) for name in names]

    def flatten(record):
        return [getattr(record, name) for name in names], tuple(getattr(record, name) for name in static)

    def flatten_with_keys(record):
        leaves, values = flatten(record)
        return list(zip(keys, leaves, strict=True)), values

    def unflatten(values, leaves):  # no __init__: leaves may be tracers, masks, None or axis numbers
        return new_unchecked(cls, {**dict(zip(names, leaves, strict=True)), **dict(zip(static, values, strict=True))})

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


def new_unchecked(cls: type[T], values: dict[str, Any]) -> T:
    """An instance with these field values, none of them checked."""
    record = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(record, name, value)
    return record
