"""Tasks of the command: a class for each example, or values at each time step.

A task computes the predictions of a network, their loss and their metric. A metric is a fraction:
an accuracy, or an error that is 0 for right predictions.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import numpy as np
import optax
from rich.table import Table

from .._files import Record
from ..data import Split
from ..losses import reduce_time, smape
from . import tables

EACH = "each"
"""The readout of values: a potential for each time step."""

LEARNED = 0.75
"""A network has learned if its error is below this part of the error of the mean value."""

cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class Classes:
    """A class for each example. Predictions are logits, ``(n, classes)``."""

    metric = title = "accuracy"
    """The name of the metric in records, and in tables and figures."""
    heading = "test, 95 % interval"
    """The heading of the metric in the table of results."""
    loss_title = "cross-entropy, nats"
    axis = 0
    """The axis of the examples, in predictions and in ``y``."""

    def predictions(
        self, potentials: jax.Array, readout: str, mask: jax.Array | None
    ) -> jax.Array:
        """Return the predictions from potentials of the readout, ``(steps, n, outputs)``."""
        # Padding takes no part in a mean, a maximum or a last value.
        return reduce_time(potentials, readout, mask)

    def loss(self, predictions: Any, y: Any, mask: Any) -> jax.Array:
        """Return the mean loss of a batch."""
        return cross_entropy(predictions, y).mean()

    def score(self, predictions: Any, y: Any, mask: Any) -> Any:
        """Return the metric of a batch."""
        return (predictions.argmax(-1) == y).mean()

    def failure(self, metric: float, split: Split) -> str:
        """Return a message for a metric close to guessing, or an empty text."""
        if metric >= tables.learnt(split.classes):
            return ""
        return f"{metric:.1%} is close to guessing one of {split.classes} classes"

    def with_interval(self, metric: float, n: int) -> str:
        """Format the metric of n examples, with an interval if it is known."""
        return tables.accuracy(metric, n)

    def about_interval(self, n: int) -> str:
        """Return the end of a caption."""
        return f"; interval: by Wilson, for {n:,} examples"

    def report(
        self, scores: Any, y: np.ndarray | None, outputs: int, title: str
    ) -> Table | str:
        """Return the results of ``predict``. ``y`` is None for a file without labels."""
        return tables.by_class(scores.predictions.argmax(1), y, outputs, title)

    def arrays(self, predictions: np.ndarray) -> Record:
        """Return the arrays of a file of predictions, the examples first."""
        # The dtype of the labels of a data set.
        classes = predictions.argmax(1).astype(np.int32)
        return {"y_pred": classes, "logits": predictions}


class Values:
    """Values at each time step, ``(steps, n, outputs)``. ``Classes`` describes the methods."""

    metric = "smape"
    title = "sMAPE"
    heading = "test, sMAPE"
    loss_title = "mean squared error"
    axis = 1

    def predictions(
        self, potentials: jax.Array, readout: str, mask: jax.Array | None
    ) -> jax.Array:
        # A value for each time step needs no reduction over time.
        return potentials

    def loss(self, predictions: Any, y: Any, mask: Any) -> jax.Array:
        # The mean over the valid steps of each example first, so long examples do not count more.
        return reduce_time((predictions - y) ** 2, "mean", mask).mean()

    def score(self, predictions: Any, y: Any, mask: Any) -> Any:
        # (steps, n), as a fraction of 1 and not in percent
        errors = jax.vmap(jax.vmap(smape))(predictions, y) / 100
        return reduce_time(errors, "mean", mask).mean()

    def failure(self, metric: float, split: Split) -> str:
        y = split.train.y
        # A network that ignores its inputs predicts the mean of the targets.
        mean = np.broadcast_to(y.mean((0, 1)), y.shape)
        # sMAPE is in percent, and a metric is a fraction.
        guess = float(smape(mean, y)) / 100
        if metric < LEARNED * guess:
            return ""
        return (
            f"sMAPE {metric:.1%} is close to {guess:.1%}, the sMAPE of the mean value"
        )

    def with_interval(self, metric: float, n: int) -> str:
        return f"{metric:.1%}"

    def about_interval(self, n: int) -> str:
        return ""

    def report(
        self, scores: Any, y: np.ndarray | None, outputs: int, title: str
    ) -> Table | str:
        return f"{title}\nsMAPE: {scores.metric:.1%}"

    def arrays(self, predictions: np.ndarray) -> Record:
        # (steps, n, outputs) -> (n, steps, outputs), as files of labels have it.
        return {"y_pred": predictions.swapaxes(0, 1)}


Task: TypeAlias = Classes | Values


def task_of(readout: str) -> Task:
    """Return the task of a readout."""
    return Values() if readout == EACH else Classes()
