"""Callbacks that write metrics to files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from .._checks import needed
from .._files import Record
from .._pytree import jsonable, name_of
from ._json_lines import append, merged, plain, resumed
from ._state import Report, State


class JsonLines:
    """Callback of :func:`fit` that writes metrics to a file, one line of JSON after each call of
    the compiled program.

    A line has the number of updates (``step``), ``epoch``, ``seconds``, the loss and all metrics.
    The metrics are means over the updates of the call. Arrays and tuples become lists, and NaN and
    infinity become null. At the end of an epoch, ``epoch_ended`` is true. To see the file grow, use
    ``tail -f``. To read it, use ``pandas.read_json(path, lines=True)``.

    Parameters
    ----------
    path : path
        The file to write. With several processes, process 0 writes it.
    more : callable, optional
        A function ``more(report)`` that gets the :class:`Report` and returns a dict of more values
        for the line, such as the learning rate. The default function, a ``lambda`` in the
        signature, returns an empty dict.
    resume : bool, default False
        If True, continue an existing file. Lines of updates that training repeats are removed. If
        several trainings share the file, only lines with the values of ``of`` are removed.
    of : dict, optional
        Constants at the start of each line, such as ``{"network": "small"}`` if several trainings
        share the file. By default none.

    Raises
    ------
    FileExistsError
        At the first call, if the file exists and ``resume`` is False.
    ValueError
        At the first call, if a metric has the name of another entry, such as ``step``.

    Examples
    --------
    >>> import tempfile, pathlib, jax, jax.numpy as jnp, optax
    >>> from spikegrad.training import JsonLines, fit
    >>> path = pathlib.Path(tempfile.mkdtemp(), "metrics.jsonl")
    >>> state = fit(
    ...     lambda w, batch, key: (w**2, {}),
    ...     jnp.array(1.0),
    ...     [0, 0],
    ...     optimizer=optax.sgd(0.25),
    ...     key=jax.random.key(0),
    ...     callbacks=[JsonLines(path)],
    ... )
    >>> print(path.read_text())
    {"step": 1, "epoch": 1, "seconds": ..., "loss": 1.0}
    {"step": 2, "epoch": 1, "seconds": ..., "loss": 0.25, "epoch_ended": true}
    <BLANKLINE>
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        more: Callable[[Report], Record] = lambda report: {},
        resume: bool = False,
        of: Record | None = None,
    ) -> None:
        self.path = Path(path)
        self.more = more
        self.resume = resume
        self.of = of or {}
        self._is_begun = False

    def __call__(self, report: Report) -> None:
        """Write a line for this report."""
        about = {
            "step": report.step,
            "epoch": report.epoch,
            "seconds": round(report.seconds, 3),
        }
        ended = {"epoch_ended": True} if report.epoch_ended else {}
        metrics = plain(report.metrics)
        parts = self.of, about, metrics, ended, self.more(report)
        line = merged("JsonLines", *parts)
        # After ``merged``, so that all processes raise for a wrong name.
        if jax.process_index() != 0:
            return
        # At the first report and not before, because only then the first step is known.
        if not self._is_begun:
            before = report.step - report.updates
            resumed(
                self.path,
                "JsonLines",
                self.resume,
                lambda row: self._stays(row, before),
            )
            self._is_begun = True
        append(self.path, json.dumps(jsonable(line)))

    def _stays(self, row: Record, before: int) -> bool:
        """Return False for the lines of this training that it will write again."""
        is_of_this = all(row.get(name) == value for name, value in self.of.items())
        return not is_of_this or row.get("step", 0) <= before


class TensorBoard:
    """Callback of :func:`fit` that writes metrics for TensorBoard, one point after each call of the
    compiled program.

    It needs the package tensorboardX.

    Parameters
    ----------
    folder : path
        Folder of the files, which is created if it does not exist. With several processes, process
        0 writes them.
    more : callable, optional
        A function ``more(report)`` that gets the :class:`Report` and returns a dict of more values,
        such as the learning rate. The default function, a ``lambda`` in the signature, returns an
        empty dict.

    Raises
    ------
    ModuleNotFoundError
        If tensorboardX is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        more: Callable[[Report], Record] = lambda report: {},
    ) -> None:
        with needed("TensorBoard", "tensorboardX", "tensorboard"):
            from tensorboardX import SummaryWriter  # noqa: PLC0415
        self.more = more
        self._writer = None
        if jax.process_index() == 0:
            self._writer = SummaryWriter(os.fspath(folder))

    def __call__(self, report: Report) -> None:
        """Write a point for each number of each metric. The numbers of an array have names such as
        ``rates/0``.
        """
        values = merged("TensorBoard", report.metrics, self.more(report))
        if self._writer is None:
            return
        for path, value in jax.tree_util.tree_leaves_with_path(values):
            for place, number in np.ndenumerate(np.asarray(value)):
                name = "/".join([name_of(path), *map(str, place)])
                self._writer.add_scalar(name, float(number), report.step)
        self._writer.flush()

    def end(self, state: State) -> None:
        """Close the file."""
        del state
        if self._writer is not None:
            self._writer.close()
