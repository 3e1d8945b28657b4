"""Random changes of events and of batches of sequences, to train with more examples.

Functions of events run on the host, ``function(rng, events, shape)``, see
:meth:`Recordings.augmented`. Functions of batches run in ``jax.jit``, ``function(key, x)``, and
each example has its own changes. Masked steps of zeros stay zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ._events import Events

KINDS = "none", "time", "area", "random"
"""The choices of EventDrop, each with equal probability."""
SHARES = tuple(n / 10 for n in range(1, 10))
"""The dropped share of the time, or of all events, as in the authors' code."""
AREA_SHARES = tuple(n / 20 for n in range(1, 6))
"""The share of height and width of a dropped area, as in the authors' code."""


def jitter_times(
    rng: np.random.Generator,
    events: Events,
    shape: tuple[int, ...],
    *,
    deviation_us: float,
) -> Events:
    """Add a random number to the time of each event of a recording, for data augmentation.

    The numbers are normally distributed with mean 0. Times are clipped to the range from 0 to the
    last time of the recording. So the number of events and the length do not change. Pass it to
    :meth:`Recordings.augmented`, with ``functools.partial`` to set ``deviation_us``.

    Parameters
    ----------
    rng : numpy.random.Generator
        Random generator of NumPy.
    events : Events
        The events of one recording.
    shape : tuple of int
        Shape of the units, such as ``(700,)``.
    deviation_us : float
        Standard deviation of the numbers in microseconds.

    Returns
    -------
    Events
        The changed events, in the order of ``events``, so times need not ascend.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.data import Events, jitter_times
    >>> rng = np.random.default_rng(0)
    >>> events = Events(np.full(3, 50.0), np.arange(3))
    >>> jitter_times(rng, events, (3,), deviation_us=10.0).times.round()
    array([50., 49., 50.])
    """
    noise = rng.normal(0, deviation_us, events.times.shape)
    # Without events, there is no last time.
    last = np.max(events.times, initial=0)
    times = np.clip(events.times + noise, 0, last)
    return events._replace(times=times)


def stretch_times(
    rng: np.random.Generator,
    events: Events,
    shape: tuple[int, ...],
    *,
    low: float = 0.8,
    high: float = 1.25,
) -> Events:
    """Multiply all times of a recording by one random number, for data augmentation.

    Pass it to :meth:`Recordings.augmented`.

    Parameters
    ----------
    rng, events, shape
        Random generator of NumPy, events of one recording, and shape of its units.
    low, high : float
        The number is random between these bounds.

    Returns
    -------
    Events
    """
    return events._replace(times=events.times * rng.uniform(low, high))


def flip_events(
    rng: np.random.Generator, events: Events, shape: tuple[int, ...]
) -> Events:
    """Mirror a recording left to right, with probability 1/2, for data augmentation.

    The label does not change. So use it only if the classes do not depend on left and right. Pass
    it to :meth:`Recordings.augmented`.

    Parameters
    ----------
    rng, events, shape
        Random generator of NumPy, events of one recording, and shape of its units. The second axis
        of the shape is the width, or the only axis if it has one.

    Returns
    -------
    Events
    """
    if rng.random() < 0.5:
        return events
    # The units of a cochlea have one axis, and those of a camera have (height, width, polarities).
    places = _places(events, shape)
    width = min(1, len(shape) - 1)
    places[width] = shape[width] - 1 - places[width]
    return events._replace(units=_units(places, shape))


def shift_events(
    rng: np.random.Generator, events: Events, shape: tuple[int, ...], *, most: int
) -> Events:
    """Shift all events of a recording in space by a random number of pixels, for data augmentation.

    Events that leave the sensor are dropped. Pass it to :meth:`Recordings.augmented`, with
    ``functools.partial`` to set ``most``.

    Parameters
    ----------
    rng, events, shape
        Random generator of NumPy, events of one recording, and shape of its units. The first two
        axes of the shape are height and width.
    most : int
        Largest shift. The shift along each axis is a random integer from ``-most`` to ``most``.

    Returns
    -------
    Events
    """
    places = _places(events, shape)  # (axes, events)
    inside = np.ones(len(events.times), bool)
    # Space only: a shift of the polarity would make another event.
    for axis, size in enumerate(shape[:2]):
        places[axis] += rng.integers(-most, most + 1)
        inside &= (places[axis] >= 0) & (places[axis] < size)
    units = _units(places[:, inside], shape)
    return Events(events.times[inside], units)


def drop_events(
    rng: np.random.Generator,
    events: Events,
    shape: tuple[int, ...],
    *,
    kinds: Sequence[str] = KINDS,
) -> Events:
    """Drop some events of a recording at random, as in the method EventDrop [1]_, for data
    augmentation.

    It drops the events of a time window, of an area, or random events, or nothing. Pass it to
    :meth:`Recordings.augmented`.

    Parameters
    ----------
    rng, events, shape
        Random generator of NumPy, events of one recording, and shape of its units. The first two
        axes of the shape are height and width.
    kinds : sequence of {"none", "time", "area", "random"}
        The kinds of changes. One of them is drawn for each recording.

    Returns
    -------
    Events

    Notes
    -----
    The fraction of the time, or of the events, that is dropped is random: 0.1, 0.2, ... or 0.9, as
    in the authors' code. The height and the width of an area are fractions 0.05, 0.1, ... or 0.25
    of the picture. A time window starts anywhere, so it may reach beyond the end. The center of an
    area is anywhere. If no event would be left, all events stay. The authors' code drops all rows
    and all columns of an area. This function drops only the area, as the paper says.

    References
    ----------
    .. [1] F. Gu, W. Sng, X. Hu and F. Yu, "EventDrop: Data augmentation for event-based learning",
       IJCAI (2021).
    """
    kind = rng.choice(_checked("drop_events", kinds))
    dropped = np.zeros(len(events.times), bool)
    if kind == "time":
        length = np.max(events.times, initial=0)
        start = rng.random() * length
        end = start + rng.choice(SHARES) * length
        dropped = (events.times >= start) & (events.times < end)
    elif kind == "area":
        share = rng.choice(AREA_SHARES)
        # An event is within the area if it is within both spans.
        dropped = np.ones(len(events.times), bool)
        places = _places(events, shape)
        for size, place in zip(shape[:2], places, strict=False):
            length = share * size
            center = rng.random() * size
            start = max(0, center - length / 2)
            dropped &= (place >= start) & (place < start + length)
    elif kind == "random":
        count = int(rng.choice(SHARES) * len(dropped))
        order = rng.permutation(len(dropped))
        dropped[order[:count]] = True
    if dropped.all():
        return events
    return Events(events.times[~dropped], events.units[~dropped])


def _places(events: Events, shape: tuple[int, ...]) -> np.ndarray:
    """Return the position of each event along each axis, ``(axes, events)``."""
    # (axes of the shape, events), because a unit is the flat number of a place on the sensor.
    return np.stack(np.unravel_index(events.units, shape))


def _units(places: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.ravel_multi_index(tuple(places), shape))


def _checked(owner: str, kinds: Sequence[str]) -> list[str]:
    if not kinds or not {*kinds} <= {*KINDS}:
        raise ValueError(f"{owner}: kinds must be among {KINDS}, got {kinds}")
    return [*kinds]


def flip_batch(key: jax.Array, x: jax.Array) -> jax.Array:
    """Mirror each example of a batch left to right, with probability 1/2, as in the method NDA
    [1]_.

    Labels do not change. So use it only if the classes do not depend on left and right.

    Parameters
    ----------
    key : array of jax.random.key
        Random key.
    x : array
        A batch ``(steps, batch, height, width, ...)``, or ``(steps, batch, channels)``.

    Returns
    -------
    jax.Array
        The changed batch, in the shape and dtype of ``x``.

    References
    ----------
    .. [1] Y. Li, Y. Kim, H. Park, T. Geller and P. Panda, "Neuromorphic data augmentation for
       training spiking neural networks", ECCV (2022).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from spikegrad.data import flip_batch
    >>> x = jnp.arange(3)[None, None]  # steps, batch, channels
    >>> flip_batch(jax.random.key(3), x)[0, 0].tolist()
    [2, 1, 0]
    """

    def flip(key: jax.Array, x: jax.Array) -> jax.Array:
        width = _space(x)[-1]
        is_flipped = jax.random.bernoulli(key)
        return jnp.where(is_flipped, jnp.flip(x, width), x)

    return _each(key, jnp.asarray(x), flip)


def shift_batch(
    key: jax.Array, x: jax.Array, *, most: int, circular: bool = False
) -> jax.Array:
    """Shift each example of a batch in space by a random number of pixels, for data augmentation.

    Parameters
    ----------
    key, x
        The random key, and a batch ``(steps, batch, height, width, ...)`` or ``(steps, batch,
        channels)``.
    most : int
        Largest shift. The shift along each axis of space is a random integer from ``-most`` to
        ``most``.
    circular : bool, default False
        If False, zeros enter at the side that becomes free. If True, the values that leave the
        other side enter there, as in the rolling of the method NDA.

    Returns
    -------
    jax.Array
        The changed batch, in the shape and dtype of ``x``.
    """

    def shift(key: jax.Array, x: jax.Array) -> jax.Array:
        axes = _space(x)
        # One shift for each axis of space.
        shifts = jax.random.randint(key, (len(axes),), -most, most + 1)
        for axis, by in zip(axes, shifts, strict=True):
            x = jnp.roll(x, by, axis)
            # The positions before the shift, as far as they were within the sensor.
            before = jnp.arange(x.shape[axis]) - by
            entered = (before < 0) | (before >= x.shape[axis])
            if not circular:
                x = _zeroed(x, _along(axis, entered, x.ndim))
        return x

    return _each(key, jnp.asarray(x), shift)


def drop_batch(
    key: jax.Array,
    x: jax.Array,
    mask: jax.Array | None = None,
    *,
    kinds: Sequence[str] = KINDS,
) -> jax.Array:
    """Drop some counts of each example of a batch at random, as in the method EventDrop, for data
    augmentation.

    For each example, it drops the counts of a time window, of an area, or random events, or
    nothing. :func:`drop_events` has the sizes.

    Parameters
    ----------
    key, x
        The random key, and a batch ``(steps, batch, height, width, ...)`` or ``(steps, batch,
        channels)`` of counts or booleans.
    mask : array of bool, optional
        The valid time steps, ``(steps, batch)``. The length of the time window is a fraction of
        these.
    kinds : sequence of {"none", "time", "area", "random"}
        The kinds of changes. One of them is drawn for each example. With ``("area",)``, each
        example loses an area, as in the cutout of the method NDA.

    Returns
    -------
    jax.Array
        The changed batch, in the shape and dtype of ``x``. ``"random"`` drops each event of a count
        independently.
    """
    kinds = _checked("drop_batch", kinds)
    x = jnp.asarray(x)
    # (batch,): the valid steps of each example, because padding has no events to drop.
    lengths = jnp.full(x.shape[1], len(x)) if mask is None else mask.sum(0)
    lengths = lengths.astype(float)
    changes = [_CHANGES[name] for name in kinds]

    def drop(key: jax.Array, x: jax.Array, length: jax.Array) -> jax.Array:
        kind_key, key = jax.random.split(key)
        kind = jax.random.randint(kind_key, (), 0, len(kinds))
        changed = jax.lax.switch(kind, changes, key, x, length)
        # An example without any event would be a label without an input.
        return jnp.where(changed.any(), changed, x)

    return _each(key, x, drop, lengths)


def _drop_time(key: jax.Array, x: jax.Array, length: jax.Array) -> jax.Array:
    # A span from any valid step on. One that starts late ends with the example, so it is shorter.
    start_key, share_key = jax.random.split(key)
    start = jax.random.uniform(start_key) * length
    share = jax.random.choice(share_key, jnp.asarray(SHARES))
    end = start + share * length
    return _zeroed(x, _window(x, 0, start, end))


def _drop_area(key: jax.Array, x: jax.Array, length: jax.Array) -> jax.Array:
    axes = _space(x)
    share_key, *start_keys = jax.random.split(key, 1 + len(axes))
    share = jax.random.choice(share_key, jnp.asarray(AREA_SHARES))
    # (1, height, 1), then (1, height, width): the windows of both axes overlap in a rectangle.
    inside = jnp.ones((1,) * x.ndim, bool)
    for start_key, axis in zip(start_keys, axes, strict=True):
        size = x.shape[axis]
        # The center is within the image, so at least a quarter of the area is too.
        center = jax.random.uniform(start_key) * size
        start = jnp.maximum(0, center - share * size / 2)
        end = start + share * size
        inside &= _window(x, axis, start, end)
    return _zeroed(x, inside)


def _drop_random(key: jax.Array, x: jax.Array, length: jax.Array) -> jax.Array:
    share_key, key = jax.random.split(key)
    share = jax.random.choice(share_key, jnp.asarray(SHARES))
    counts = x.astype(jnp.int32)
    most = counts.max()

    def has_more(state: tuple) -> jax.Array:
        n, _ = state
        return n < most

    # One draw for the first event of all counts, one for the second, and so on. It is much faster
    # than jax.random.binomial, because counts are small.
    def add_kept(state: tuple) -> tuple:
        n, total = state
        draw_key = jax.random.fold_in(key, n)
        kept = jax.random.bernoulli(draw_key, 1 - share, x.shape)
        # A count of c has the events 0 to c - 1.
        is_event = n < counts
        return n + 1, total + (kept & is_event).astype(jnp.int32)

    start = 0, jnp.zeros_like(counts)
    _, total = jax.lax.while_loop(has_more, add_kept, start)
    return total.astype(x.dtype)


_CHANGES = {
    "none": lambda key, x, length: x,
    "time": _drop_time,
    "area": _drop_area,
    "random": _drop_random,
}
"""The choices of EventDrop, as functions of a key, an example and its number of valid steps."""


def _each(
    key: jax.Array, x: jax.Array, function: Callable, *others: jax.Array
) -> jax.Array:
    """Apply ``function(key, x)`` to each example ``(steps, ...)`` of a batch, with its own key."""
    keys = jax.random.split(key, x.shape[1])
    # The examples are the second axis of a batch (steps, batch, ...).
    axes = (0, 1, *[0] * len(others))
    return jax.vmap(function, axes, 1)(keys, x, *others)


def _space(x: jax.Array) -> tuple[int, ...]:
    """Return the axes of space of an example.

    It is ``(steps, height, width, ...)`` or ``(steps, channels)``.
    """
    return (1, 2) if x.ndim > 2 else (1,)


def _window(x: jax.Array, axis: int, start: jax.Array, end: jax.Array) -> jax.Array:
    """Return True for the positions of an axis from ``start`` to ``end``."""
    places = jnp.arange(x.shape[axis], dtype=start.dtype)
    inside = (places >= start) & (places < end)
    return _along(axis, inside, x.ndim)


def _along(axis: int, values: jax.Array, ndim: int) -> jax.Array:
    """Return values with an axis of length 1 for each other axis."""
    others = [n for n in range(ndim) if n != axis]
    return jnp.expand_dims(values, others)


def _zeroed(x: jax.Array, where: jax.Array) -> jax.Array:
    return jnp.where(where, jnp.zeros_like(x), x)
