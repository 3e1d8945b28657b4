"""Labelled sequences, which all readers return: examples, batches, splits."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from .._checks import brief
from .._system import available_memory
from ._accepted import (
    DataError,
    as_array,
    check_labels,
    check_memory,
    chosen_of_each,
    integer,
    positive,
    shape_of,
)


class Example(NamedTuple):
    """One labelled sequence, or a batch of sequences from :func:`collate`.

    Parameters
    ----------
    x : numpy.ndarray
        ``(steps, channels...)``. A batch is ``(steps, batch, channels...)``, as :class:`spikegrad.Network` takes it.
    y : numpy.ndarray
        Label, an int32. A batch has ``(batch,)``.
    mask : numpy.ndarray or None
        ``(steps,)``, bool: True for valid time steps, False for padding. A batch has ``(steps, batch)``. None if all
        sequences of the source are equally long.
    """

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray | None


def collate(examples: Sequence[Example]) -> Example:
    """Stack examples to a batch, time first.

    Parameters
    ----------
    examples : sequence of Example
        Examples of one source, which have equal shapes.

    Returns
    -------
    Example
        ``x`` of shape ``(steps, batch, channels...)``, ``y`` ``(batch,)``, ``mask`` ``(steps, batch)`` or None.

    Notes
    -----
    By default Grain and PyTorch put the batch axis first. Pass this function instead:
    ``grain.MapDataset.source(source).batch(32, batch_fn=collate)``, ``DataLoader(source, 32, collate_fn=collate)``.

    Examples
    --------
    >>> from spikegrad.data import collate, randman
    >>> source = randman(samples=3)
    >>> x, y, mask = collate([source[0], source[1]])
    >>> x.shape, y, mask
    ((100, 2, 20), array([0, 0], dtype=int32), None)
    """
    try:
        examples = list(examples)
        x, y, masks = zip(*examples, strict=True)
        shapes = {(np.shape(one), np.shape(label), mask is None or np.shape(mask)) for one, label, mask in examples}
    except (TypeError, ValueError):
        raise TypeError(f"collate: examples must be a sequence of Example, got {brief(examples)}") from None
    if len(shapes) > 1 or not np.shape(x[0]):
        raise ValueError(
            f"collate: examples must have one shape, got shapes of x, y and mask {brief(sorted(shapes, key=str))}"
        )
    return Example(np.stack(x, 1), np.stack(y), None if masks[0] is None else np.stack(masks, 1))


class Labelled:
    """Labelled data, the base of :class:`Sequences` and :class:`Recordings`.

    Parameters
    ----------
    name : str
        A path or another name.
    shape : tuple of int
        Shape of the channels of one time step.
    y : array_like
        ``(n,)``, integers from 0.
    class_names : sequence of str, optional
        Names in the order of the labels. By default the labels.
    """

    def __init__(self, name: str, shape: Sequence[int], y: Any, class_names: Sequence[str] | None = None) -> None:
        self.name = str(name)
        self.shape = shape_of(self.name, shape)
        self.y = check_labels(self.name, "y", y)
        if class_names is None:
            class_names = list(map(str, range(int(self.y.max()) + 1)))
        elif not isinstance(class_names, (list, tuple)) or not all(isinstance(one, str) for one in class_names):
            raise TypeError(f"{self.name}: class_names must be a list of str, got {brief(class_names)}")
        self.class_names = tuple(class_names)
        if self.y.max() >= len(self.class_names):
            raise DataError(
                f"{self.name}: class_names must have a name for label {self.y.max()}, got {len(self.class_names)} names"
            )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.y)

    def _position(self, index: Any) -> int:
        """Return the index counted from 0. Raise IndexError, which ends loops, if it is out of range."""
        try:
            return range(len(self))[operator.index(index)]
        except TypeError:
            raise TypeError(
                f"{type(self).__name__}: index must be an integer, got {brief(index)}; see subset"
            ) from None
        except IndexError:
            raise IndexError(f"{type(self).__name__}: index must be below {len(self)}, got {brief(index)}") from None

    def subset(self, indices: Any) -> Self:
        """Select examples by index, or by a bool for each example.

        Classes, number of time steps and the use of masks stay, so all subsets fit one compiled function.

        Raises
        ------
        DataError
            If the selection is empty.
        """
        indices = as_array(
            self.name, "indices", indices if np.size(indices) else [False] * len(self), "bui", "integers or bools"
        )
        try:
            chosen = np.atleast_1d(np.arange(len(self))[indices])
        except IndexError:
            raise IndexError(
                f"{self.name}: indices must be numbers below {len(self)}, or a bool for each example"
            ) from None
        if not chosen.size:
            raise DataError(f"{self.name}: indices must select at least one example, got none")
        return self._part(chosen)

    def _part(self, chosen: np.ndarray) -> Self:
        raise NotImplementedError


Source = TypeVar("Source", bound=Labelled)


class Sequences(Labelled):
    """Labelled sequences of arrays.

    It has ``len(source)`` and ``source[i]``, so you can pass it to Grain or to a PyTorch ``DataLoader``.

    Parameters
    ----------
    name : str
        A path or another name.
    x : sequence of numpy.ndarray
        An array ``(its steps, channels...)`` for each example, all of one dtype, or an array
        ``(n, steps, channels...)``.
    y : array_like
        ``(n,)``, integers from 0.
    lengths : array_like, optional
        ``(n,)``, number of time steps of each example. By default the lengths of ``x``. Later values are ignored.
    steps : int, optional
        Number of time steps. Shorter sequences are zero-padded to it. By default the largest of ``lengths``.
    masked : bool, optional
        If True, examples have masks. By default they have masks if any sequence is shorter than ``steps``.
    class_names : sequence of str, optional
        Names in the order of the labels.

    Raises
    ------
    DataError
        If the labels are not integers from 0, one for each sequence, or if a sequence is empty or longer than
        ``steps``.

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
        if not _is_sequence(x):
            raise TypeError(f"{name}: x must be a sequence of arrays, got {brief(x)}")
        if isinstance(x, (np.ndarray, list, tuple)):
            x = _checked_arrays(str(name), x)
        if not len(x):
            raise DataError(f"{name}: x must have at least one sequence, got none")
        shape = x.shape[2:] if hasattr(x, "shape") else x[0].shape[1:]
        if not shape:
            raise DataError(f"{name}: a sequence must have shape (steps, channels...), got {x[0].shape}")
        super().__init__(name, shape, y, class_names)
        self.x = x
        lengths_given = lengths is not None
        self.lengths = as_array(self.name, "lengths", lengths if lengths_given else list(map(len, x)), "ui", "integers")
        if self.lengths.ndim != 1 or not len(x) == len(self.y) == len(self.lengths):
            raise DataError(f"{name}: {len(x)} sequences, {len(self.lengths)} lengths and {len(self.y)} labels")
        self.steps = int(self.lengths.max() if steps is None else integer(self.name, "steps", steps, 1))
        check_memory(f"{self.name}: an example of {self.steps:,} steps", self.steps * math.prod(self.shape))
        wrong = np.flatnonzero((self.lengths < 1) | (self.lengths > self.steps))
        if wrong.size:
            raise DataError(
                f"{name}: sequence {wrong[0]} must have 1 to {self.steps} steps, got {self.lengths[wrong[0]]}"
            )
        if lengths_given and isinstance(x, (np.ndarray, list, tuple)):  # other sequences are read lazily
            there = np.asarray([len(one) for one in x])
            for number in np.flatnonzero(self.lengths > there)[:1]:
                raise DataError(
                    f"{name}: sequence {number} must have {self.lengths[number]} steps, got {there[number]}"
                )
        shorter = bool((self.lengths != self.steps).any())
        if masked is not None and shorter and not masked:
            raise DataError(f"{self.name}: masked must be True for sequences shorter than {self.steps} steps")
        self.masked = shorter if masked is None else bool(masked)
        is_whole = isinstance(x, np.ndarray) and x.shape[1] == self.steps and x.dtype == self._padded_dtype()
        self._is_padded = is_whole and not shorter

    def __repr__(self) -> str:
        shortest = self.lengths.min()
        steps = f"{self.steps} steps" if shortest == self.steps else f"{shortest} to {self.lengths.max()} steps"
        return f"<{self.name}: {len(self)} sequences, {steps}, channels {self.shape}, {self.classes} classes>"

    def sequence(self, index: int) -> np.ndarray:
        """Return one sequence without padding, ``(its steps, channels...)``."""
        position = self._position(index)
        return self.x[position][: self.lengths[position]]

    def __getitem__(self, index: int) -> Example:
        """Return one example. Shorter sequences are zero-padded and masked, so all examples have one shape."""
        position = self._position(index)
        x, mask = self.sequence(position), None
        if self.masked:
            mask = np.arange(self.steps) < len(x)
            x = np.concatenate([x, np.zeros((self.steps - len(x), *self.shape), x.dtype)])
        return Example(x, self.y[position], mask)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Sequences:
        """Apply a function to each sequence when it is read.

        Parameters
        ----------
        function : callable
            Takes and returns ``(steps, channels...)``, and keeps the number of time steps. It gets no padding.
        """
        return self._with(Lazy(len(self), _mapped, self, function), np.arange(len(self)))

    def _part(self, chosen: np.ndarray) -> Sequences:
        return self._with(Lazy(len(chosen), _picked, self.x, chosen), chosen)

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
        """Return batches, time first: see :class:`Batches`."""
        return Batches(self, size, seed)

    def padded(self, rows: Any = slice(None)) -> np.ndarray:
        """Return sequences as one array ``(n, steps, channels...)``, the examples first.

        Shorter sequences are zero-padded. Bools and integers of at most 16 bits keep their dtype, other numbers become
        float32.

        Parameters
        ----------
        rows : slice or array of int, default all
            The sequences, in this order. A source in memory returns all sequences without a copy.
        """
        if self._is_padded:
            return self.x[rows]
        numbers = np.arange(len(self))[rows]
        out = np.zeros((len(numbers), self.steps, *self.shape), self._padded_dtype())
        for row, number in zip(out, numbers, strict=True):
            sequence = self.sequence(number)
            row[: len(sequence)] = sequence
        return out

    def _padded_dtype(self) -> np.dtype:
        found = self.sequence(0).dtype
        return found if found.kind in "bui" and found.itemsize <= 2 else np.dtype(np.float32)

    def in_memory(self) -> Sequences:
        """Return the sequences in one padded array, or ``self`` if it exceeds a quarter of the free memory.

        A device may need as much memory again.
        """
        free = available_memory()
        size = len(self) * self.steps * math.prod(self.shape) * self._padded_dtype().itemsize
        if free is not None and size > free / 4:
            return self
        found = self._with(self.padded(), np.arange(len(self)))
        found._is_padded = True
        return found

    def as_batch(self) -> Example:
        """Return all examples as one batch, for example for ``jax.device_put`` if the memory of the device suffices."""
        return collate([self[i] for i in range(len(self))])


def _is_sequence(x: Any) -> bool:
    """Return True if items of ``x`` have indices."""
    return hasattr(x, "__len__") and hasattr(x, "__getitem__") and not isinstance(x, (str, bytes, dict))


def _checked_arrays(name: str, x: Any) -> Any:
    """Return arrays of numbers for JAX. Raise if dtypes or shapes of channels differ."""
    if isinstance(x, np.ndarray):
        return as_array(name, "x", x, "buif", "numbers")
    arrays = [as_array(name, "x", one, "buif", "numbers") for one in x]
    for number, one in enumerate(arrays):
        if one.ndim < 2:
            raise DataError(f"{name}: a sequence must have shape (steps, channels...), got {one.shape}")
        if (one.dtype, one.shape[1:]) != (arrays[0].dtype, arrays[0].shape[1:]):
            raise DataError(
                f"{name}: sequences must have one dtype and one shape of channels, got {one.dtype} of {one.shape[1:]} "
                f"in number {number}, and {arrays[0].dtype} of {arrays[0].shape[1:]} in the first"
            )
    return arrays


class Lazy:
    """Items that ``read(*bound, index)`` returns. They can be pickled, unlike a closure."""

    shape: tuple[int, ...]
    """Set if it is known without reading an item."""

    def __init__(self, count: int, read: Callable[..., Any], *bound: Any) -> None:
        self.count, self.read, self.bound = count, read, bound

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.read(*self.bound, index)


def _picked(items: Any, chosen: np.ndarray, index: int) -> Any:
    return items[chosen[index]]


def _mapped(source: Sequences, function: Callable[[np.ndarray], np.ndarray], index: int) -> np.ndarray:
    before = source.sequence(index)
    after = as_array("map", "the function", function(before), "buif", "numbers")
    if after.ndim < 2:
        raise ValueError(f"map: the function must return (steps, channels...), got shape {after.shape}")
    if len(after) != len(before):
        raise ValueError(f"map: the function must keep the number of steps, {len(before)}, got {len(after)}")
    return after


class Batches:
    """Batches of a source, by epoch.

    ``batches(epoch)`` returns the batches of an epoch, from 0. Their order depends only on ``seed`` and ``epoch``, so
    training can be resumed. Each plain loop over ``batches`` is the next epoch.

    Parameters
    ----------
    source : Sequences
        Or any object with ``len(source)`` and ``source[i]``, an :class:`Example`.
    size : int
        Number of examples in a batch, 1 to ``len(source)``.
    seed : int, optional
        Draws another order for each epoch. Examples after the last full batch are skipped in this epoch. By default
        batches are in the order of the source, contain all examples, and the last batch may be smaller.

    Examples
    --------
    >>> from spikegrad.data import randman
    >>> batches = randman(classes=2, samples=5).batches(4, seed=0)
    >>> first = [batch.y.tolist() for batch in batches]
    >>> second = [batch.y.tolist() for batch in batches]
    >>> first != second, len(batches)
    (True, 2)
    >>> [batch.y.tolist() for batch in batches(1)] == second
    True
    """

    def __init__(self, source: Any, size: int, seed: int | None = None) -> None:
        if not _is_sequence(source):
            raise TypeError(f"Batches: source must be Sequences, got {brief(source)}")
        integer("Batches", "size", size, 1, len(source))
        if seed is not None:
            integer("Batches", "seed", seed)
        self.source, self.size, self.seed = source, size, seed
        self._epochs = itertools.count()

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        full, rest = divmod(len(self.source), self.size)
        return full + (rest > 0 and self.seed is None)

    def __call__(self, epoch: int) -> Iterator[Example]:
        """Iterate over the batches of an epoch."""
        order = np.arange(len(self.source))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        return (self._batch(order[i * self.size : (i + 1) * self.size]) for i in range(len(self)))

    def __iter__(self) -> Iterator[Example]:
        return self(next(self._epochs))

    def _batch(self, chosen: np.ndarray) -> Example:
        return collate([self.source[int(i)] for i in chosen])


@dataclasses.dataclass(frozen=True)
class Split:
    """Training and test set, and the scale of their values.

    Parameters
    ----------
    train, test : Sequences
        An image is a sequence of one time step.
    test_from : str
        Origin of the test set.
    low, high : float
        For images: the smallest and largest value of the training set. :func:`scale` maps them to 0 and 1.
    mean, std : tuple of float
        For real-valued recordings: mean and standard deviation of each channel before standardization. Empty for other
        data.
    doubts : tuple of str
        Possible problems of the data, one line each.
    """

    train: Sequences
    test: Sequences
    test_from: str
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, or of the channels of a time step."""
        return self.train.shape

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.train.classes


def train_test_split(source: Source, share: float = 0.2, seed: int = 0) -> tuple[Source, Source]:
    """Split examples into a training and a test set.

    Parameters
    ----------
    source : Sequences or Recordings
        The examples.
    share : float, default 0.2
        Fraction of each class in the test set, above 0 and below 1, rounded to whole examples.
    seed : int, default 0
        Draws the test set.

    Returns
    -------
    train, test : Sequences or Recordings
        Both have the type of ``source``.

    Raises
    ------
    DataError
        If the training or the test set would be empty.

    Examples
    --------
    >>> from spikegrad.data import train_test_split, randman
    >>> rest, test = train_test_split(randman(samples=10), 0.1)
    >>> train, validation = train_test_split(rest, 1 / 9)
    >>> len(train), len(validation), len(test)
    (80, 10, 10)
    """
    if not isinstance(source, Labelled):
        raise TypeError(f"train_test_split: source must be Sequences or Recordings, got {brief(source)}")
    if positive("train_test_split", "share", share) >= 1:
        raise ValueError(f"train_test_split: share must be above 0 and below 1, got {share!r}")
    integer("train_test_split", "seed", seed)
    chosen = chosen_of_each(source.y, share, seed)
    if chosen.all() or not chosen.any():
        raise DataError(f"{source.name}: too few examples for a test set of {share:g} of each class")
    return source.subset(~chosen), source.subset(chosen)


def standardize(train: Sequences, *others: Sequences) -> tuple[Sequences, ...]:
    """Scale each channel to mean 0 and standard deviation 1 over all time steps of the training set, in float32.

    Parameters
    ----------
    train : Sequences
        The training set, which determines means and standard deviations.
    *others : Sequences
        More sequences, scaled with these values. A channel that is constant in ``train`` is not divided.

    Returns
    -------
    tuple of Sequences
        The scaled ``train`` and ``others``.

    Examples
    --------
    >>> import numpy as np
    >>> from spikegrad.data import Sequences, standardize
    >>> train = Sequences("train", np.array([[[1.0], [3.0]]]), [0])
    >>> test = Sequences("test", np.array([[[5.0]]]), [0])
    >>> train, test = standardize(train, test)
    >>> train[0].x.tolist(), test[0].x.tolist()
    ([[-1.0], [1.0]], [[3.0]])
    """
    for source in (train, *others):
        if not isinstance(source, Sequences):
            raise TypeError(f"standardize: each argument must be Sequences, got {brief(source)}")
        if source.shape != train.shape:
            raise DataError(
                f"{source.name}: channels must have shape {train.shape}, as in {train.name}, got {source.shape}"
            )
    mean, std = moments(train)
    return tuple(standardized(source, mean, std) for source in (train, *others))


def moments(train: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel over all time steps. Constant channels have deviation 1."""
    steps, each = int(train.lengths.sum()), range(len(train))
    with np.errstate(over="ignore", invalid="ignore"):  # checked at the end
        mean = sum((train.sequence(i).sum(0, dtype=np.float64) for i in each), np.zeros(train.shape)) / steps
        # two passes: the difference of squares would cancel for channels far from 0
        squares = sum((((train.sequence(i) - mean) ** 2).sum(0) for i in each), np.zeros(train.shape))
        std = np.sqrt(squares / steps)
    if not np.isfinite(std).all():
        raise DataError(f"{train.name}: the variance of each channel must be finite; divide the values by their size")
    first = train.sequence(0)[0]
    varies = np.any([(train.sequence(i) != first).any(0) for i in each], 0)  # the mean may be rounded
    return mean, np.where(varies & (std > 0), std, 1)


def standardized(source: Sequences, mean: np.ndarray, std: np.ndarray) -> Sequences:
    """Scale sequences by the results of :func:`moments`, in float32."""
    return source.map(functools.partial(_scaled, name=source.name, mean=mean, std=std))


def _scaled(x: np.ndarray, name: str, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        scaled = ((x - mean) / std).astype(np.float32)
    if np.isinf(scaled).any():
        raise DataError(f"{name} has values too far from the mean of the training data, up to {np.abs(x).max():g}")
    return scaled
