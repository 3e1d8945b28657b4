"""Forms of data: the values that the command accepts as ``--data``.

The file of a reader adds its form to ``FORMS``, so no other list names the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from ._accepted import DataError
from ._events import Recordings
from ._sequences import Sequences, train_test_split

Recorded: TypeAlias = Sequences | Recordings
Read: TypeAlias = Callable[[str, int, int], tuple[Recorded, Recorded | None]]
"""Training and published test set, given path, time steps and seed. The test set may be None."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A form of data.

    Parameters
    ----------
    written : str
        The value of ``--data``.
    about : str
        A description in one line.
    read : callable, optional
        Reader of recordings. A file of the user may lack labels, and has the label 0 then. None
        for images, because :func:`spikegrad.data.load` reads them.
    key : str
        For a ``.npz`` file of the user: the key that only this form has.
    test_from : str
        Description of the test set if none is published. ``split`` draws it from the data and the
        seed.
    steps : int, optional
        Default number of time steps, None if the data defines it.
    bin_ms : float, optional
        Default length of a time step of events, None for other data.
    pool, shift : int
        Default number of neighboring units in a channel, and of pixels of the random shift of
        training images.
    """

    written: str
    about: str
    read: Read | None = None
    key: str = ""
    test_from: str = "a fifth of each class, drawn with seed {}"
    split: Callable[[Any, int], tuple[Any, Any]] = lambda source, seed: (
        train_test_split(source, 0.2, seed)
    )
    # Options of the command overwrite these defaults.
    steps: int | None = None
    bin_ms: float | None = None
    pool: int = 1
    shift: int = 0

    @property
    def name(self) -> str:
        """The text before a path, or the complete text."""
        return self.written.partition(":")[0]


FORMS: list[Form] = []
"""The values of ``--data``: those without a path first, files of the user last."""


def in_folder(reader: Callable[[Path], Recorded], *names: tuple[str, str]) -> Read:
    """Read training and test set by known names in a folder, or one set by its path."""

    def read(path: str, steps: int, seed: int) -> tuple[Recorded, Recorded | None]:
        train, test = parts_of(path, *names)
        # A published test set that is missing is an error of the reader.
        return reader(train), None if test is None else reader(test)

    return read


def parts_of(path: str, *names: tuple[str, str]) -> tuple[Path, Path | None]:
    """Return the paths of the training and the test set.

    They have the known names in a folder. Otherwise they are ``path`` and None.
    """
    folder = Path(path)
    if not folder.exists():
        raise DataError(f"{path}: no such file or folder")
    for train, test in names:
        if (folder / train).exists():
            return folder / train, folder / test
    return folder, None
