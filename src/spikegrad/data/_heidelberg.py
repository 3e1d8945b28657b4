"""The Heidelberg spike sets, SHD and SSC: spoken digits and commands as the spikes of 700 cochlear units."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._accepted import DataError, check_labels, check_memory, path_of
from ._events import Events, Recordings, split_by_speaker
from ._forms import Form, Read, in_folder
from ._reading import file_size, reading

UNITS = 700
MICROSECONDS = 1e6  # in a second, the unit of the files


def read_shd(path: str | os.PathLike) -> Recordings:
    """Read an HDF5 file of SHD or SSC [1]_, such as ``shd_train.h5``.

    It reads ``spikes/times`` (of variable length, in float16, seconds), ``spikes/units`` (0 to 699), ``labels`` and, if
    they exist, ``extra/speaker`` and ``extra/keys``.

    Parameters
    ----------
    path : str or path-like
        The published file, after decompression with gzip.

    Returns
    -------
    Recordings
        Units of shape ``(700,)``, with ``speakers`` if the file has them. Events are read from the file one recording
        at a time.

    Raises
    ------
    DataError
        If h5py is not installed, or the file is not of this form.

    Notes
    -----
    float16 resolves 0.5 ms from half a second on and 1 ms from one second on, and ends at 65,504: such a time must not
    be multiplied by a million. SHD lacks a validation split, and its test has two speakers that the training data does
    not have: see :func:`split_by_speaker`.

    References
    ----------
    .. [1] B. Cramer, Y. Stradmann, J. Schemmel and F. Zenke, "The Heidelberg spiking data sets for the systematic
       evaluation of spiking neural networks", IEEE Transactions on Neural Networks and Learning Systems 33, 2744
       (2022).
    """
    name = path_of("read_shd", path)
    file = _File(name)
    with file.checked():
        count = len(file.rows("spikes/times", "f"))
        if len(file.rows("spikes/units", "ui")) != count:
            raise DataError(f"{name}: spikes/units must have a row for each of the {count} spikes/times")
        y = file.array("labels", "integers", count)
        if y is None:
            raise DataError(f"{name}: no dataset 'labels'")
        speakers, keys = file.array("extra/speaker", "integers", count), file.array("extra/keys", "text")
    names = None if keys is None else [key.decode("utf-8", "replace") for key in keys]
    return Recordings(name, (UNITS,), check_labels(name, "labels", y), file, speakers=speakers, class_names=names)


class _File:
    """Events by the number of the recording. Each process opens the file for itself: HDF5 does not survive a fork."""

    def __init__(self, path: str) -> None:
        self.path, self._content, self._process = path, None, None

    def __reduce__(self) -> tuple:
        return _File, (self.path,)

    def __call__(self, number: int) -> Events:
        with self.checked():
            times = self.rows("spikes/times", "f")[number]
            units = self.rows("spikes/units", "ui")[number]
        if len(times) != len(units):
            raise DataError(f"{self.path}: recording {number} has {len(times)} times and {len(units)} units")
        with np.errstate(over="ignore"):  # Recordings reports times that are not finite
            times = times.astype(np.float64) * MICROSECONDS  # float64 first: float16 would overflow
        return Events(times, units)

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Convert errors of HDF5 to a DataError that names the file."""
        try:
            with reading(self.path):
                yield
        except DataError:
            raise
        except Exception as error:  # each part of the HDF5 library fails in its own way
            raise DataError(f"{self.path}: damaged: {error}") from None

    def rows(self, key: str, kinds: str) -> Any:
        """Return a dataset of rows of any length."""
        dataset = self._dataset(key)
        if dataset is None:
            raise DataError(f"{self.path}: no dataset {key!r}")
        base = self._h5py().check_vlen_dtype(dataset.dtype)
        if base is None or np.dtype(base).kind not in kinds or dataset.ndim != 1:
            wanted = "floats" if kinds == "f" else "integers"
            raise DataError(f"{self.path}: {key} must hold rows of {wanted}, got {base or dataset.dtype}")
        return dataset

    def array(self, key: str, wanted: str, count: int | None = None) -> np.ndarray | None:
        """Return a dataset of one axis, or None. ``count`` is its length, which is arbitrary in a damaged file."""
        dataset = self._dataset(key)
        if dataset is None:
            return None
        is_text = self._h5py().check_string_dtype(dataset.dtype) is not None
        if (not is_text if wanted == "text" else dataset.dtype.kind not in "ui") or dataset.ndim != 1:
            raise DataError(f"{self.path}: {key} must hold {wanted}, got {dataset.dtype} of shape {dataset.shape}")
        if count is not None and len(dataset) != count:
            raise DataError(f"{self.path}: {key} must have {count} entries, as spikes/times has, got {len(dataset)}")
        check_memory(f"{self.path}: {key}", dataset.nbytes)
        return dataset[...]

    def _dataset(self, key: str) -> Any:
        h5py = self._h5py()
        if self._process != os.getpid():
            file_size(Path(self.path))
            self._content, self._process = h5py.File(self.path, "r"), os.getpid()
        found: Any = self._content
        for name in key.split("/"):
            if not isinstance(found, h5py.Group):
                return None
            is_link = isinstance(found.get(name, getlink=True), h5py.ExternalLink)
            found = None if is_link else found.get(name)
            if is_link or (isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)):
                raise DataError(f"{self.path}: {key} must be in the file, got a link to another file")
        return found if isinstance(found, h5py.Dataset) else None

    def _h5py(self) -> Any:
        try:
            import h5py  # noqa: PLC0415
        except ModuleNotFoundError:
            raise DataError(
                f"{self.path}: needs h5py, which is not installed: pip install '.[hdf5]' in a clone of spikegrad"
            ) from None
        except Exception as error:  # not of the file, but of a broken installation
            raise DataError(
                f"{self.path}: needs h5py, which cannot be imported ({error}): pip install --force-reinstall h5py"
            ) from None
        return h5py


def _published(name: str) -> Read:
    def reader(path: Path) -> Recordings:
        if path.is_dir():
            raise DataError(f"{path}: no {name}_train.h5 in this folder")
        return read_shd(path)

    return in_folder(reader, (f"{name}_train.h5", f"{name}_test.h5"))


FORMS = (
    Form(
        "shd:PATH",
        "shd_train.h5, or the folder with shd_test.h5",
        _published("shd"),
        test_from="all of two speakers, drawn with seed {}",
        split=lambda source, seed: split_by_speaker(source, 2, seed),
        steps=100,
        bin_ms=14,
    ),
    Form("ssc:PATH", "ssc_train.h5, or the folder with ssc_test.h5", _published("ssc"), steps=100, bin_ms=14),
)
