"""Forms of data: the values that the command accepts as ``--data``.

The file of a reader adds its form to ``FORMS``, so no other list names the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from ._events import Recordings
from ._sequences import Sequences, train_test_split

CLASSES = {"readout": "mean"}
TARGETS = {"input_noise": 0.0}
SEQUENCES = CLASSES | TARGETS
EVENTS = SEQUENCES | {"steps": 100, "bin": 14.0, "pool": 1}
IMAGES = CLASSES | {"steps": 8, "encoding": "current", "shift": 0}
"""The options of sequences with targets and with labels, of events and of images."""

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
    options : dict
        The options of the command that only some data have, with their defaults for this data.
    """

    written: str
    about: str
    read: Read | None = None
    key: str = ""
    test_from: str = "a fifth of each class, drawn with seed {}"
    split: Callable[[Any, int], tuple[Any, Any]] = lambda source, seed: (
        train_test_split(source, 0.2, seed)
    )
    options: dict[str, Any] = dataclasses.field(default_factory=lambda: SEQUENCES)

    @property
    def name(self) -> str:
        """The text before a path, or the complete text."""
        return self.written.partition(":")[0]


FORMS: list[Form] = []
"""The values of ``--data``: those without a path first, files of the user last."""


def in_folder(reader: Callable[[Path], Recorded], train: str, test: str) -> Read:
    """Read training and test set by known names in a folder, or one set by its path."""

    def read(path: str, steps: int, seed: int) -> tuple[Recorded, Recorded | None]:
        folder = Path(path)
        if (folder / train).exists():
            # A published test set that is missing is an error of the reader.
            return reader(folder / train), reader(folder / test)
        return reader(folder), None

    return read
