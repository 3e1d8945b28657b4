"""The Heidelberg spike sets, SHD and SSC: spoken words as the spikes of 700 cochlear units."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .._checks import needed
from ._accepted import DataError
from ._events import Events, Recordings, split_by_speaker
from ._forms import EVENTS, FORMS, Form, in_folder
from ._reading import reading

UNITS = 700
MICROSECONDS = 1e6  # in a second, the unit of the files


def read_shd(path: str | os.PathLike) -> Recordings:
    """Read the data sets SHD and SSC [1]_: spoken digits or commands as spikes of an artificial
    cochlea.

    It reads ``spikes/times`` (of variable length, in float16, seconds), ``spikes/units`` (0 to
    699), ``labels`` and, if they exist, ``extra/speaker`` and ``extra/keys``.

    Pass a published HDF5 file, such as ``shd_train.h5``.

    Parameters
    ----------
    path : str or path-like
        The published file, decompressed with gzip.

    Returns
    -------
    Recordings
        Recordings with units (channels of the cochlea) of shape ``(700,)``, and with ``speakers``
        if the file has them. Events are read from the file when a recording is needed.

    Raises
    ------
    DataError
        If the file has another form.
    ModuleNotFoundError
        If h5py is not installed.

    Notes
    -----
    The times in the file are seconds in float16. This dtype has steps of 0.5 ms above half a
    second, and of 1 ms above one second. Its largest number is 65,504, so the times are converted
    to float64 before they become microseconds.

    SHD has no validation set. Its test set has two speakers that the training set does not have. To
    split a similar validation set off the training set, use :func:`split_by_speaker`.

    References
    ----------
    .. [1] B. Cramer, Y. Stradmann, J. Schemmel and F. Zenke, "The Heidelberg spiking data sets for
       the systematic evaluation of spiking neural networks", IEEE Transactions on Neural Networks
       and Learning Systems 33, 2744 (2022).
    """
    if os.path.isdir(path):
        raise DataError(
            f"{path}: no shd_train.h5 or ssc_train.h5 in this folder; gunzip unpacks .h5.gz files"
        )
    file = _File(os.fspath(path))
    with reading(path):
        content = file.content()
        # Only the labels are read here, because the events of SSC take gigabytes.
        y = content["labels"][...]
        # SSC has no speakers.
        speakers = content["extra/speaker"][...] if "extra/speaker" in content else None
        # h5py returns bytes for text.
        names = [key.decode() for key in content.get("extra/keys", ())] or None
    return Recordings(
        file.path, (UNITS,), y, file, speakers=speakers, class_names=names
    )


class _File:
    """Events by the number of the recording."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._content = None
        self._process = None

    # An open file cannot be pickled, its path can.
    def __reduce__(self) -> tuple:
        return _File, (self.path,)

    def __call__(self, number: int) -> Events:
        with reading(self.path):
            content = self.content()
            times = content["spikes/times"][number]
            units = content["spikes/units"][number]
        # float64 first: the times are float16, which ends at 65,504.
        return Events(times.astype(np.float64) * MICROSECONDS, units)

    def content(self) -> Any:
        """Return the open file. Each process opens its own, as HDF5 does not survive a fork."""
        if self._process != os.getpid():
            with needed("read_shd", "h5py", "hdf5"):
                import h5py  # noqa: PLC0415  (from an extra)
            self._content = h5py.File(self.path, "r")
            self._process = os.getpid()
        return self._content


FORMS += [
    Form(
        "shd:PATH",
        "shd_train.h5, or the folder with shd_test.h5",
        in_folder(read_shd, "shd_train.h5", "shd_test.h5"),
        # A random fraction would have the speakers of the training set, and be too easy.
        test_from="all of two speakers, drawn with seed {}",
        split=lambda source, seed: split_by_speaker(source, 2, seed),
        options=EVENTS,
    ),
    Form(
        "ssc:PATH",
        "ssc_train.h5, or the folder with ssc_test.h5",
        in_folder(read_shd, "ssc_train.h5", "ssc_test.h5"),
        options=EVENTS,
    ),
]
