"""Labelled sequences, which every reader gives: one example, a batch, all batches of a pass."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from ._arrays import chosen_of_each
from ._npz import DataError


class Example(NamedTuple):
    """One labelled sequence; with a batch axis, as :func:`collate` puts it there, a batch of them.

    Parameters
    ----------
    x : numpy.ndarray
        ``(steps, channels...)``; of a batch ``(steps, batch, channels...)``, as :class:`spikegrad.Network` takes it.
    y : numpy.ndarray
        Label, an int32; of a batch ``(batch,)``.
    mask : numpy.ndarray or None
        ``(steps,)``, bool: True for the steps that the sequence has, False for what it was filled up with; of a batch
        ``(steps, batch)``. None if all sequences of the source are equally long.
    """

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray | None


def collate(examples: Sequence[Example]) -> Example:
    """A batch of examples, time first.

    Parameters
    ----------
    examples : sequence of Example
        Examples of one source, so that they have one shape.

    Returns
    -------
    Example
        ``x`` of shape ``(steps, batch, channels...)``, ``y`` ``(batch,)``, ``mask`` ``(steps, batch)`` or None.

    Notes
    -----
    What Grain and PyTorch stack by default has the batch first. Give them this function instead:
    ``grain.MapDataset.source(source).batch(32, batch_fn=collate)``, ``DataLoader(source, 32, collate_fn=collate)``.

    Examples
    --------
    >>> from spikegrad.data import collate, randman
    >>> source = randman(samples=3)
    >>> x, y, mask = collate([source[0], source[1]])
    >>> x.shape, y, mask
    ((100, 2, 20), array([0, 0], dtype=int32), None)
    """
    x, y, masks = zip(*examples, strict=True)
    return Example(np.stack(x, 1), np.stack(y), None if masks[0] is None else np.stack(masks, 1))


class Labelled:
    """What has labels: the part that :class:`Sequences` and :class:`Recordings` share.

    Parameters
    ----------
    name : str
        A path, or what it is called.
    shape : tuple of int
        Shape of the channels of one step.
    y : array_like
        ``(n,)``, integers from 0.
    class_names : sequence of str, optional
        In the order of the labels. By default the labels themselves.
    """

    def __init__(self, name: str, shape: Sequence[int], y: Any, class_names: Sequence[str] | None = None) -> None:
        self.name = str(name)
        self.shape = tuple(int(size) for size in shape)
        self.y = check_labels(self.name, "y", np.asarray(y))
        self.class_names = tuple(map(str, range(int(self.y.max()) + 1)) if class_names is None else class_names)
        if self.y.max() >= len(self.class_names):
            raise DataError(f"{self.name}: label {self.y.max()} has no name among the {len(self.class_names)}")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.y)

    def _position(self, index: Any) -> int:
        """The index, counted from 0; the error that ends a loop over a sequence if there is no such."""
        position = range(len(self))[index]
        if not isinstance(position, int):
            raise TypeError(f"{type(self).__name__}: index must be an integer, got {index!r}; see subset")
        return position

    def subset(self, indices: Any) -> Self:
        """Some of them: by numbers, or by a bool for each.

        What is said of the whole (classes, steps, whether there are masks) remains, so that all subsets fit one
        compiled function.

        Raises
        ------
        DataError
            If there are none.
        """
        indices = np.asarray(indices)
        chosen = np.arange(len(self))[indices if indices.size else slice(0)]
        if not chosen.size:
            raise DataError(f"{self.name}: a subset of none")
        return self._part(chosen)

    def _part(self, chosen: np.ndarray) -> Self:
        raise NotImplementedError


Source = TypeVar("Source", bound=Labelled)


class Sequences(Labelled):
    """Labelled sequences of arrays, a step after the other.

    Grain, a PyTorch ``DataLoader`` and :meth:`batches` take it as it is: it has ``len(source)`` and ``source[i]``.

    Parameters
    ----------
    name : str
        A path, or what it is called.
    x : sequence of numpy.ndarray
        ``(its steps, channels...)`` for each example, all of one dtype. An array ``(n, steps, channels...)`` serves.
    y : array_like
        ``(n,)``, integers from 0.
    lengths : array_like, optional
        ``(n,)``, number of steps of each example. By default the lengths of ``x``; what is beyond is not looked at.
    steps : int, optional
        Steps that shorter sequences are filled up to, with zeros. By default the longest of ``lengths``.
    masked : bool, optional
        Whether examples have masks. By default if any of them is shorter than ``steps``.
    class_names : sequence of str, optional
        In the order of the labels.

    Raises
    ------
    DataError
        If the labels are no integers from 0, or are not as many, or a sequence is longer than ``steps`` or has none.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.data import Sequences
    >>> source = Sequences("two", [np.ones((3, 2)), np.ones((1, 2))], [0, 1])
    >>> x, y, mask = source[1]
    >>> x.shape, mask
    ((3, 2), array([ True, False, False]))
    >>> x, y, mask = next(iter(source.batches(2)))  # time first
    >>> x.shape, y, mask.shape
    ((3, 2, 2), array([0, 1], dtype=int32), (3, 2))
    """

    def __init__(
        self,
        name: str,
        x: Any,
        y: Any,
        *,
        lengths: Any = None,
        steps: int | None = None,
        masked: bool | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if not len(x):
            raise DataError(f"{name}: no sequences")
        shape = x.shape[2:] if hasattr(x, "shape") else x[0].shape[1:]
        if not shape:
            raise DataError(f"{name}: a sequence must have shape (steps, channels...), got {x[0].shape}")
        super().__init__(name, shape, y, class_names)
        self.x = x
        self.lengths = np.asarray([len(one) for one in x] if lengths is None else lengths)
        if not len(x) == len(self.y) == len(self.lengths):
            raise DataError(f"{name}: {len(x)} sequences, {len(self.lengths)} lengths and {len(self.y)} labels")
        self.steps = int(self.lengths.max() if steps is None else steps)
        wrong = np.flatnonzero((self.lengths < 1) | (self.lengths > self.steps))
        if wrong.size:
            raise DataError(f"{name}: sequence {wrong[0]} has {self.lengths[wrong[0]]} steps, not 1 to {self.steps}")
        if lengths is not None and isinstance(x, (np.ndarray, list, tuple)):  # others are read when they are asked for
            there = np.asarray([len(one) for one in x])
            for number in np.flatnonzero(self.lengths > there)[:1]:
                raise DataError(f"{name}: sequence {number} has {there[number]} steps, and not {self.lengths[number]}")
        self.masked = bool((self.lengths != self.steps).any()) if masked is None else masked

    def __repr__(self) -> str:
        shortest = self.lengths.min()
        steps = f"{self.steps} steps" if shortest == self.steps else f"{shortest} to {self.lengths.max()} steps"
        return f"<{self.name}: {len(self)} sequences, {steps}, channels {self.shape}, {self.classes} classes>"

    def sequence(self, index: int) -> np.ndarray:
        """One sequence as it is, ``(its steps, channels...)``, not filled up."""
        position = self._position(index)
        return self.x[position][: self.lengths[position]]

    def __getitem__(self, index: int) -> Example:
        """One example, of the same shape for every index: shorter sequences are filled up with zeros, and masked."""
        position = self._position(index)
        x, mask = self.sequence(position), None
        if self.masked:
            mask = np.arange(self.steps) < len(x)
            x = np.concatenate([x, np.zeros((self.steps - len(x), *self.shape), x.dtype)])
        return Example(x, self.y[position], mask)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Sequences:
        """Each sequence through a function, when it is read.

        Parameters
        ----------
        function : callable
            Takes and returns ``(steps, channels...)``, of any length, which stays what it is. It is not given what
            sequences are filled up with.
        """
        return self._with(_Mapped(self, function), np.arange(len(self)))

    def _part(self, chosen: np.ndarray) -> Sequences:
        return self._with(_Picked(self.x, chosen), chosen)

    def _with(self, x: Any, chosen: np.ndarray) -> Sequences:
        return Sequences(
            self.name,
            x,
            self.y[chosen],
            lengths=self.lengths[chosen],
            steps=self.steps,
            masked=self.masked,
            class_names=self.class_names,
        )

    def batches(self, size: int, seed: int | None = None) -> Batches:
        """Batches, time first, epoch by epoch: see :class:`Batches`."""
        return Batches(self, size, seed)

    def stacked(self) -> Example:
        """All examples as one batch, for data that fits the memory of the device: ``jax.device_put`` does the rest."""
        return collate([self[i] for i in range(len(self))])


class _Picked:
    """Some items of a sequence, read when they are asked for."""

    def __init__(self, items: Any, chosen: np.ndarray) -> None:
        self.items, self.chosen = items, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Any:
        return self.items[self.chosen[index]]


class _Mapped:
    """Sequences through a function, when they are asked for."""

    def __init__(self, source: Sequences, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.source, self.function = source, function

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> np.ndarray:
        before = self.source.sequence(index)
        after = np.asarray(self.function(before))
        if len(after) != len(before):
            raise ValueError(f"map: the function made {len(after)} steps of {len(before)}; the length must stay")
        return after


class Batches:
    """Batches of a source, epoch by epoch.

    ``batches(epoch)`` are those of an epoch, from 0: the order depends on ``seed`` and ``epoch`` alone, so that
    training can be resumed. A plain loop over ``batches`` is the next epoch each time.

    Parameters
    ----------
    source : Sequences
        Or anything with ``len(source)`` and ``source[i]``, an :class:`Example`.
    size : int
        Examples of a batch, 1 to ``len(source)``.
    seed : int, optional
        Draws the order, another one in each epoch. What is left after the last full batch is left out of that epoch.
        By default the order is that of the source, nothing is left out, and the last batch may be smaller.

    Examples
    --------
    >>> from spikegrad.data import randman
    >>> batches = randman(classes=2, samples=5).batches(4, seed=0)
    >>> first, second = [batch.y.tolist() for batch in batches], [batch.y.tolist() for batch in batches]
    >>> first != second, len(batches)
    (True, 2)
    >>> [batch.y.tolist() for batch in batches(1)] == second
    True
    """

    def __init__(self, source: Any, size: int, seed: int | None = None) -> None:
        if not 1 <= size <= len(source):
            raise ValueError(f"Batches: size must be 1 to {len(source)}, the number of examples, got {size!r}")
        self.source, self.size, self.seed = source, size, seed
        self._epochs = itertools.count()

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        full, rest = divmod(len(self.source), self.size)
        return full + (rest > 0 and self.seed is None)

    def __call__(self, epoch: int) -> Iterator[Example]:
        """The batches of an epoch."""
        order = np.arange(len(self.source))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        return (self._batch(order[i * self.size : (i + 1) * self.size]) for i in range(len(self)))

    def __iter__(self) -> Iterator[Example]:
        return self(next(self._epochs))

    def _batch(self, chosen: np.ndarray) -> Example:
        return collate([self.source[int(i)] for i in chosen])


def hold_out(source: Source, share: float = 0.2, seed: int = 0) -> tuple[Source, Source]:
    """A share of the examples of each class, drawn with the seed, apart from the rest.

    Parameters
    ----------
    source : Sequences or Recordings
        What is taken apart.
    share : float, default 0.2
        Share of each class, above 0 and below 1, rounded to whole examples.
    seed : int, default 0
        Draws the examples.

    Returns
    -------
    rest, held_out : Sequences or Recordings
        Of the type of ``source``: the other examples, and those that were drawn.

    Raises
    ------
    DataError
        If one of them would be empty.

    Examples
    --------
    >>> from spikegrad.data import hold_out, randman
    >>> rest, test = hold_out(randman(samples=10), 0.1)
    >>> train, validation = hold_out(rest, 1 / 9)
    >>> len(train), len(validation), len(test)
    (80, 10, 10)
    """
    if not 0 < share < 1:
        raise ValueError(f"hold_out: share must be above 0 and below 1, got {share!r}")
    chosen = chosen_of_each(source.y, share, seed)
    if chosen.all() or not chosen.any():
        raise DataError(f"{source.name}: too few examples to hold out {share:g} of each class")
    return source.subset(~chosen), source.subset(chosen)


def standardize(train: Sequences, *others: Sequences) -> tuple[Sequences, ...]:
    """Each channel with mean 0 and standard deviation 1 over all steps of the training sequences, in float32.

    Parameters
    ----------
    train : Sequences
        Its means and deviations are those that are used.
    *others : Sequences
        Brought to the same scale. A channel that is constant in ``train`` is not divided.

    Returns
    -------
    tuple of Sequences
        As many as were given.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.data import Sequences, standardize
    >>> train, test = Sequences("train", np.array([[[1.0], [3.0]]]), [0]), Sequences("test", np.array([[[5.0]]]), [0])
    >>> train, test = standardize(train, test)
    >>> train[0].x.tolist(), test[0].x.tolist()
    ([[-1.0], [1.0]], [[3.0]])
    """
    mean, deviation = moments(train)
    return tuple(standardized(source, mean, deviation) for source in (train, *others))


def moments(train: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`standardize` subtracts from each channel, and what it divides it by."""
    steps = int(train.lengths.sum())
    mean = sum((train.sequence(i).sum(0, dtype=np.float64) for i in range(len(train))), np.zeros(train.shape)) / steps
    # two passes: the difference of squares would cancel for channels far from 0
    variance = sum((((train.sequence(i) - mean) ** 2).sum(0) for i in range(len(train))), np.zeros(train.shape)) / steps
    deviation = np.sqrt(variance)
    first = train.sequence(0)[0]
    varies = np.any([(train.sequence(i) != first).any(0) for i in range(len(train))], 0)  # the mean may be rounded
    return mean, np.where(varies & (deviation > 0), deviation, 1)


def standardized(source: Sequences, mean: np.ndarray, deviation: np.ndarray) -> Sequences:
    """Sequences on the scale of :func:`moments`, in float32."""
    return source.map(functools.partial(_scaled, mean=mean, deviation=deviation))


def _scaled(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return ((x - mean) / deviation).astype(np.float32)


_CLASSES = 1_000_000
"""More of them than anyone has: each label up to the greatest is a class, with a name and a readout of its own."""


def check_labels(name: str, key: str, y: np.ndarray) -> np.ndarray:
    """The labels in int32, or an error."""
    if y.dtype.kind not in "ui" or y.ndim != 1 or not y.size:
        raise DataError(f"{name}: {key} must hold one integer for each example, got {y.dtype} of shape {y.shape}")
    if y.min() < 0 or y.max() > 2**31 - 1:
        raise DataError(f"{name}: {key} must hold labels from 0, got {y.min()} to {y.max()}")
    if y.max() >= _CLASSES:
        raise DataError(f"{name}: {key} must hold labels below {_CLASSES:,}, got {y.max()}")
    return y.astype(np.int32)
