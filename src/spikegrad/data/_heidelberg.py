"""The Heidelberg spike sets, SHD and SSC: spoken digits and commands as the spikes of 700 cochlear units."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ._events import Events, Recordings
from ._npz import DataError
from ._reading import reading
from ._sequences import check_labels

UNITS = 700
MICROSECONDS = 1e6  # in a second, the unit of the files


def read_shd(path: str | os.PathLike) -> Recordings:
    """Recordings of an HDF5 file of SHD or SSC [1]_, such as ``shd_train.h5``.

    Read are ``spikes/times`` (of variable length, in float16, seconds), ``spikes/units`` (0 to 699), ``labels`` and,
    where they exist, ``extra/speaker`` and ``extra/keys``.

    Parameters
    ----------
    path : str or path-like
        The file, as it was published but for its compression by gzip.

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
    be multiplied by a million. SHD has no validation split, and its test has two speakers that the training data does
    not have: see :func:`hold_out_speakers`.

    References
    ----------
    .. [1] B. Cramer, Y. Stradmann, J. Schemmel and F. Zenke, "The Heidelberg spiking data sets for the systematic
       evaluation of spiking neural networks", IEEE Transactions on Neural Networks and Learning Systems 33, 2744
       (2022).
    """
    file = _File(str(path))
    times, units = file.rows("spikes/times", "f"), file.rows("spikes/units", "ui")
    y = file.array("labels", "ui")
    if y is None:
        raise DataError(f"{path}: no dataset 'labels'")
    y = check_labels(str(path), "labels", y)
    if not len(times) == len(units) == len(y):
        raise DataError(f"{path}: {len(times)} spikes/times, {len(units)} spikes/units and {len(y)} labels")
    speakers, keys = file.array("extra/speaker", "ui"), file.array("extra/keys", "SO")
    if speakers is not None and speakers.shape != y.shape:
        raise DataError(f"{path}: extra/speaker has {len(speakers)} entries for {len(y)} labels")
    names = None if keys is None else [key.decode("utf-8", "replace") for key in keys]
    return Recordings(str(path), (UNITS,), y, file, speakers=speakers, class_names=names)


class _File:
    """Events by the number of the recording. Each process opens the file for itself: HDF5 does not survive a fork."""

    def __init__(self, path: str) -> None:
        self.path, self._content, self._process = path, None, None

    def __reduce__(self) -> tuple:
        return _File, (self.path,)

    def __call__(self, number: int) -> Events:
        with reading(self.path):
            times = self.rows("spikes/times", "f")[number]
            units = self.rows("spikes/units", "ui")[number]
        if len(times) != len(units):
            raise DataError(f"{self.path}: recording {number} has {len(times)} times and {len(units)} units")
        # float64 first: float16 would overflow
        return Events(times.astype(np.float64) * MICROSECONDS, units.astype(np.int64))

    def rows(self, key: str, kinds: str) -> Any:
        """A dataset of rows of any length."""
        dataset = self._dataset(key)
        base = None if dataset is None else self._h5py().check_vlen_dtype(dataset.dtype)
        if dataset is None:
            raise DataError(f"{self.path}: no dataset {key!r}")
        if base is None or np.dtype(base).kind not in kinds or dataset.ndim != 1:
            wanted = "floats" if kinds == "f" else "integers"
            raise DataError(f"{self.path}: {key} must hold rows of {wanted}, got {base or dataset.dtype}")
        return dataset

    def array(self, key: str, kinds: str) -> np.ndarray | None:
        """A dataset of one axis, or None."""
        dataset = self._dataset(key)
        if dataset is None:
            return None
        if dataset.dtype.kind not in kinds or dataset.ndim != 1:
            wanted = "integers" if kinds == "ui" else "text"
            raise DataError(f"{self.path}: {key} must hold {wanted}, got {dataset.dtype} of shape {dataset.shape}")
        with reading(self.path):
            return dataset[...]

    def _dataset(self, key: str) -> Any:
        h5py = self._h5py()
        if self._process != os.getpid():
            with reading(self.path):
                self._content, self._process = h5py.File(self.path, "r"), os.getpid()
        with reading(self.path):
            found = self._content.get(key)  # pyright: ignore[reportOptionalMemberAccess]
        return found if isinstance(found, h5py.Dataset) else None

    def _h5py(self) -> Any:
        try:
            import h5py  # noqa: PLC0415
        except ModuleNotFoundError:
            raise DataError(
                f"{self.path}: needs h5py, which is not installed: pip install '.[hdf5]' in a clone of spikegrad"
            ) from None
        return h5py
