"""Labelled sequences, which all readers return: examples, batches, splits."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from .._checks import checked_shape
from ._accepted import (
    DataError,
    as_array,
    check_finite,
    check_labels,
    chosen_of_each,
)


class Example(NamedTuple):
    """One labelled sequence, or a batch of sequences, as NumPy arrays.

    Parameters
    ----------
    x : numpy.ndarray
        The inputs: ``(steps, channels...)`` for one sequence, and ``(steps, batch, channels...)``
        for a batch, the form of the inputs of a :class:`spikegrad.Network`.
    y : numpy.ndarray
        The label, an int32, or a target for each time step, ``(steps, outputs)``. A batch has
        labels ``(batch,)``, or targets ``(steps, batch, outputs)``.
    mask : numpy.ndarray or None
        The valid time steps, booleans of shape ``(steps,)``: True for data, and False for padding.
        A batch has ``(steps, batch)``. None if all sequences of the source have the same length.
    """

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray | None


def collate(examples: Sequence[Example]) -> Example:
    """Stack examples to a batch, with the time steps on the first axis, for data loaders of other
    libraries.

    Parameters
    ----------
    examples : sequence of Example
        Examples of one data set, which have equal shapes.

    Returns
    -------
    Example
        The batch. ``x`` has the shape ``(steps, batch, channels...)``, ``y`` has ``(batch,)`` or
        ``(steps, batch, outputs)``, and ``mask`` has ``(steps, batch)`` or is None.

    Notes
    -----
    By default, Grain and PyTorch put the examples on the first axis, which a network would take for
    time steps. So pass this function to them: ``grain.MapDataset.source(source).batch(32,
    batch_fn=collate)``, ``DataLoader(source, 32, collate_fn=collate)``.

    Examples
    --------
    >>> from spikegrad.data import collate, randman
    >>> source = randman(samples=3)
    >>> x, y, mask = collate([source[0], source[1]])
    >>> x.shape, y, mask
    ((100, 2, 20), array([0, 0], dtype=int32), None)
    """
    x, y, masks = zip(*examples, strict=True)
    # The network takes time steps on the first axis, so examples are stacked on the second.
    mask = None if masks[0] is None else np.stack(masks, 1)
    # A label has no time axis, targets have it first.
    axis = 1 if np.ndim(y[0]) > 0 else 0
    return Example(np.stack(x, 1), np.stack(y, axis), mask)


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
    count : int, optional
        The required number of labels. By default any.
    takes_targets : bool, optional
        If True, ``y`` may be targets ``(n, steps, outputs)``.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        y: npt.ArrayLike,
        class_names: Sequence[str] | None = None,
        count: int | None = None,
        takes_targets: bool = False,
    ) -> None:
        self.name = str(name)
        try:
            self.shape = checked_shape(f"{name}: shape", shape)
        except ValueError as error:
            raise DataError(str(error)) from None
        self.class_names: tuple[str, ...] = ()
        if takes_targets and np.ndim(y) == 3:
            self.y = as_array(self.name, "y", y).astype(np.float32)
            check_finite(self.name, "y", self.y)
            return
        self.y = check_labels(self.name, "y", y, count)
        greatest = int(self.y.max())
        if class_names is None:
            class_names = [str(label) for label in range(greatest + 1)]
        if greatest >= len(class_names):
            raise DataError(
                f"{name}: class_names must have a name for label {greatest}, "
                f"got {len(class_names)} names"
            )
        self.class_names = tuple(class_names)

    @property
    def classes(self) -> int:
        """Number of classes, 0 for targets."""
        # Not of the labels: a subset may lack a class, and fits the same network.
        return len(self.class_names)

    @property
    def outputs(self) -> int:
        """Number of outputs of a network: the classes, or the targets of a time step."""
        return self.classes or self.y.shape[-1]

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, indices: npt.ArrayLike) -> Self:
        """Select examples by index, or by a bool for each example.

        Classes, number of time steps and the use of masks stay, so all subsets fit one compiled
        function.

        Raises
        ------
        DataError
            If the selection is empty.
        """
        indices = np.atleast_1d(indices)
        # An empty list is an array of floats, which cannot be an index.
        chosen = np.arange(len(self))[indices] if indices.size else indices
        if not chosen.size:
            raise DataError(
                f"{self.name}: indices must select at least one example, got none"
            )
        return self._part(chosen)

    def _part(self, chosen: np.ndarray) -> Self:
        # A copy keeps everything but the values of each example, which a class selects.
        part = copy.copy(self)
        part.y = self.y[chosen]
        return part


Arrays: TypeAlias = Any
"""An array ``(n, steps, channels...)``, or a sequence of arrays, which may be read lazily."""
Source = TypeVar("Source", bound=Labelled)


class Sequences(Labelled):
    """A data set of labelled sequences, such as recordings, images or time series.

    ``len(source)`` is the number of examples, and ``source[i]`` returns an :class:`Example`. For
    batches, call :meth:`batches`. You can also pass a ``Sequences`` to Grain or to a ``DataLoader``
    of PyTorch, see :func:`collate`.

    Parameters
    ----------
    name : str
        The path of the data, or another name for messages.
    x : sequence of numpy.ndarray
        The sequences: an array ``(steps, channels...)`` for each example, or one array ``(examples,
        steps, channels...)``. All have one dtype.
    y : array_like
        The labels ``(examples,)``, integers from 0. Or targets ``(examples, steps, outputs)``,
        floats: the desired output of the network in each time step.
    lengths : array_like, optional
        Number of time steps of each example, ``(examples,)``. By default the lengths of ``x``.
        Values of ``x`` after these time steps are ignored.
    steps : int, optional
        Number of time steps of all examples after padding. Shorter sequences get zeros at the end.
        By default the largest of ``lengths``.
    masked : bool, optional
        If True, examples have masks. By default they have masks if any sequence is shorter than
        ``steps``.
    class_names : sequence of str, optional
        The names of the classes, in the order of the labels.

    Raises
    ------
    DataError
        If the labels are not integers from 0, one for each sequence, if the targets do not fit the
        sequences, or if a sequence is empty or longer than ``steps``.

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
        x: Arrays,
        y: npt.ArrayLike,
        *,
        lengths: npt.ArrayLike | None = None,
        steps: int | None = None,
        masked: bool | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        # Other sequences, such as Lazy ones, are read when an example is used.
        if isinstance(x, np.ndarray | list | tuple):
            x = _arrays(str(name), x)
        if len(x) == 0:
            raise DataError(f"{name}: x must hold at least one sequence, got none")
        shape = x[0].shape[1:]
        if not shape:
            raise DataError(
                f"{name}: a sequence must have shape (steps, channels...), got {x[0].shape}"
            )
        is_array = isinstance(x, np.ndarray)
        labels = np.shape(y)
        # As many labels as the second axis has entries, but not the first.
        if is_array and labels == x.shape[1:2] and labels != x.shape[:1]:
            raise DataError(
                f"{name}: x must have shape (n, steps, channels...) with {len(x)} labels, got "
                f"{x.shape} with {x.shape[1]} labels: time seems to be the first axis; save "
                "numpy.swapaxes(x, 0, 1)"
            )
        super().__init__(name, shape, y, class_names, len(x), takes_targets=True)
        self.x = x
        if lengths is None:
            lengths = [len(array) for array in x]
        self.lengths = as_array(self.name, "lengths", lengths, "ui", self.y.shape[:1])
        self.steps = int(self.lengths.max()) if steps is None else steps
        # ``steps`` may exceed the array, because padding fills the rest. A length may not.
        most = min(self.steps, x.shape[1]) if is_array else self.steps
        is_outside = (self.lengths < 1) | (self.lengths > most)
        for number in np.flatnonzero(is_outside):
            raise DataError(
                f"{name}: sequence {number} must have 1 to {most} steps, "
                f"got {self.lengths[number]}"
            )
        if not self.classes and self.y.shape[:2] != (len(x), self.steps):
            raise DataError(
                f"{name}: targets must have shape ({len(x)}, {self.steps}, outputs), got "
                f"{self.y.shape}"
            )
        has_shorter = bool((self.lengths != self.steps).any())
        # A subset without shorter sequences keeps masks, to fit the same compiled function.
        self.masked = has_shorter or bool(masked)

    def __repr__(self) -> str:
        shortest = self.lengths.min()
        steps = f"{self.steps}"
        if shortest != self.steps:
            steps = f"{shortest} to {self.lengths.max()}"
        return (
            f"<{self.name}: {len(self)} sequences, {steps} steps, channels {self.shape}, "
            f"{self.outputs} {'classes' if self.classes else 'targets a step'}>"
        )

    def sequence(self, index: int) -> np.ndarray:
        """Return one sequence without padding, ``(steps, channels...)``."""
        # The IndexError of a range ends loops over a source.
        position = range(len(self))[index]
        return self.x[position][: self.lengths[position]]

    def __getitem__(self, index: int) -> Example:
        """Return one :class:`Example`. Short sequences get zeros at the end, and a mask, so all
        have one shape.
        """
        x = self.sequence(index)
        mask = None
        if self.masked:
            mask = np.arange(self.steps) < len(x)
            # One shape for all, so a compiled function fits every example.
            missing = self.steps - len(x)
            padding = np.zeros((missing, *self.shape), x.dtype)
            x = np.concatenate([x, padding])
        return Example(x, self.y[index], mask)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Sequences:
        """Return the data set with a function applied to each sequence when it is read.

        Parameters
        ----------
        function : callable
            A function that takes a sequence ``(steps, channels...)`` without padding, and returns
            one with the same number of time steps.
        """
        # Lazy: the function runs when a sequence is read, and a worker process can pickle it.
        read = functools.partial(_mapped, self, function)
        return self._with(Lazy(len(self), read))

    def _part(self, chosen: np.ndarray) -> Self:
        part = super()._part(chosen)
        part.lengths = self.lengths[chosen]
        # Indices into the source, so a subset of a subset reads no sequence.
        read = functools.partial(_picked, self.x, chosen)
        part.x = Lazy(len(chosen), read)
        return part

    def _with(self, x: Arrays) -> Sequences:
        return Sequences(
            self.name,
            x,
            self.y,
            lengths=self.lengths,
            steps=self.steps,
            masked=self.masked,
            class_names=self.class_names,
        )

    def batches(self, size: int, seed: int | None = None) -> Batches:
        """Return batches with the time steps on the first axis, see :class:`Batches` for ``size``
        and ``seed``.
        """
        return Batches(self, size, seed)

    def padded(self) -> np.ndarray:
        """Return all sequences as one array ``(examples, steps, channels...)``.

        Shorter sequences get zeros at the end. Booleans and integers of at most 16 bits keep their
        dtype. Other numbers become float32.
        """
        shape = len(self), self.steps, *self.shape
        out = np.zeros(shape, self._padded_dtype())
        # Row by row, because each sequence may be read from a file.
        for number, row in enumerate(out):
            row[: self.lengths[number]] = self.sequence(number)
        return out

    def _padded_dtype(self) -> np.dtype:
        dtype = self.sequence(0).dtype
        # float32 has integers of 16 bits, but takes more memory and time to transfer.
        is_small = dtype.kind in "bui" and dtype.itemsize <= 2
        return dtype if is_small else np.dtype(np.float32)

    def in_memory(self) -> Sequences:
        """Return the data set with all sequences in memory, as one padded array, so batches are
        made faster.

        If this array would exceed 2 GB, return the data set unchanged.
        """
        values = len(self) * self.steps * math.prod(self.shape)
        size = values * self._padded_dtype().itemsize
        return self if size > LARGEST else self._with(self.padded())

    def as_batch(self) -> Example:
        """Return all examples as one batch, for example a test set."""
        # (steps, n, channels...), in the order of the sequences.
        return collate([self[i] for i in range(len(self))])


def _arrays(name: str, x: Arrays) -> Arrays:
    """Return arrays of numbers for JAX. Raise if dtypes or shapes of channels differ."""
    if isinstance(x, np.ndarray):
        x = as_array(name, "x", x)
        if x.ndim < 3:
            raise DataError(
                f"{name}: x must have shape (n, steps, channels...), got {x.shape}"
            )
        return x
    arrays = [as_array(name, "x", array) for array in x]
    # padded() has the dtype and the channels of the first for all.
    # The number of steps may differ: (steps, channels...).
    forms = {(str(array.dtype), array.shape[1:]) for array in arrays}
    if len(forms) > 1:
        raise DataError(
            f"{name}: sequences must have one dtype and one shape of channels, got {sorted(forms)}"
        )
    return arrays


LARGEST = 2 << 30
"""The largest number of bytes that ``in_memory`` reads at once."""


class Lazy:
    """Items that ``read(index)`` returns. ``read`` can be pickled, unlike a closure."""

    def __init__(self, count: int, read: Callable[[int], np.ndarray]) -> None:
        self.count = count
        self.read = read

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        return self.read(index)


def _picked(items: Arrays, chosen: np.ndarray, index: int) -> np.ndarray:
    return items[chosen[index]]


def _mapped(
    source: Sequences, function: Callable[[np.ndarray], np.ndarray], index: int
) -> np.ndarray:
    before = source.sequence(index)
    after = as_array("map", "the function", function(before))
    if len(after) != len(before):  # the mask would be wrong
        raise ValueError(
            f"map: the function must keep the number of steps, {len(before)}, got {len(after)}"
        )
    return after


class Batches:
    """Batches of labelled sequences, for training loops and :func:`spikegrad.training.fit`.

    ``batches(epoch)`` returns an iterator over the batches of an epoch. Epochs count from 0. The
    order of the examples depends only on ``seed`` and ``epoch``, so a resumed training gets equal
    batches. A loop ``for batch in batches`` uses the next epoch each time. Each batch is an
    :class:`Example` with the time steps on the first axis.

    Parameters
    ----------
    source : Sequences
        A :class:`Sequences`, or another object with ``len(source)`` and ``source[i]``, which
        returns an :class:`Example`.
    size : int
        Number of examples in a batch, at least 1 and at most ``len(source)``.
    seed : int, optional
        Seed of the random order, which is new in each epoch. Examples after the last full batch are
        then skipped in this epoch. By default, batches have the examples in the order of the
        source. They then contain all examples, and the last batch may be smaller.

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
        if not 1 <= size <= len(source):
            raise ValueError(
                f"Batches: size must be from 1 to {len(source)}, got {size}"
            )
        self.source = source
        self.size = size
        self.seed = seed
        self._epochs = itertools.count()  # of plain loops

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        full, remainder = divmod(len(self.source), self.size)
        # A smaller batch would be compiled again, but for evaluation all examples count.
        has_smaller = remainder > 0 and self.seed is None
        return full + 1 if has_smaller else full

    def __call__(self, epoch: int) -> Iterator[Example]:
        """Return an iterator over the batches of an epoch. Epochs count from 0."""
        order = np.arange(len(self.source))
        # A generator for each epoch, so a resumed run needs no state of earlier epochs.
        if self.seed is not None:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
        for i in range(len(self)):
            chosen = order[i * self.size : (i + 1) * self.size]
            # As int, because a source of the user may not accept integers of NumPy.
            yield collate([self.source[int(number)] for number in chosen])

    def __iter__(self) -> Iterator[Example]:
        return self(next(self._epochs))


@dataclasses.dataclass(frozen=True)
class Split:
    """A data set of two parts: training set and test set.

    Parameters
    ----------
    train, test : Sequences
        The two sets. In image data, an image is a sequence of one time step.
    test_from : str
        Origin of the test set, as text: it comes with the data, or was drawn from the examples.
    low, high : float
        For images: the smallest and the largest value of the training set, for :func:`scale`, which
        maps them to 0 and 1.
    mean, std : tuple of float
        For recordings of real numbers that are standardized: mean and standard deviation of each
        channel before. Empty for other data.
    """

    train: Sequences
    test: Sequences
    test_from: str
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, or of the channels of one time step."""
        return self.train.shape

    @property
    def classes(self) -> int:
        """Number of classes, 0 for targets."""
        return self.train.classes

    @property
    def outputs(self) -> int:
        """Number of outputs that a network needs: the number of classes, or the number of targets
        in a time step.
        """
        return self.train.outputs


def train_test_split(
    source: Source, share: float = 0.2, seed: int = 0
) -> tuple[Source, Source]:
    """Split a data set at random into a training set and a test set.

    Parameters
    ----------
    source : Sequences or Recordings
        The data set.
    share : float, default 0.2
        Fraction of the examples of each class in the test set, above 0 and below 1. Numbers of
        examples are rounded. Sequences with targets count as one class.
    seed : int, default 0
        Seed of the random choice. Equal seeds give equal sets.

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
    # The draw of images from a file, so equal seeds give equal test sets.
    y = source.y if source.classes else np.zeros(len(source), int)
    chosen = chosen_of_each(source.name, y, share, seed)
    return source.subset(~chosen), source.subset(chosen)


def standardize(train: Sequences, *others: Sequences) -> tuple[Sequences, ...]:
    """Shift and scale each channel of a data set to mean 0 and standard deviation 1, in float32.

    Parameters
    ----------
    train : Sequences
        The training set. Its means and standard deviations over all examples and time steps are
        used.
    *others : Sequences
        More data sets, such as a test set, which are shifted and scaled by the same numbers. A
        channel that is constant in ``train`` is not scaled.

    Returns
    -------
    tuple of Sequences
        ``train`` and ``others`` with the new values.

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
    mean, std = moments(train)
    return tuple(standardized(source, mean, std) for source in (train, *others))


def moments(train: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel over all time steps.

    Constant channels have deviation 1.
    """

    def sequences() -> Iterator[np.ndarray]:
        # One at a time, because the data may be larger than the memory.
        return map(train.sequence, range(len(train)))

    steps = train.lengths.sum()
    total = sum(x.sum(0, dtype=np.float64) for x in sequences())
    mean = total / steps
    # In two passes: the difference of squares would cancel for channels far from 0.
    squares = sum(((x - mean) ** 2).sum(0) for x in sequences())
    std = np.sqrt(squares / steps)
    if not np.isfinite(std).all():
        for i, x in enumerate(sequences()):
            check_finite(train.name, f"sequence {i}", x)
        raise DataError(f"{train.name}: values must have finite squares in float64")
    # The rounding of the mean gives a constant channel a deviation above 0.
    varies = std > 1e-12 * np.abs(mean)
    return mean, np.where(varies, std, 1)


def standardized(source: Sequences, mean: np.ndarray, std: np.ndarray) -> Sequences:
    """Scale sequences by the results of :func:`moments`, in float32."""
    return source.map(functools.partial(_scaled, mean=mean, std=std))


def _scaled(x: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    # In the float64 of the moments, so values are rounded once.
    return ((x - mean) / std).astype(np.float32)
