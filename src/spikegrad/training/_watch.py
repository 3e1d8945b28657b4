"""The networks that a loss calls, and the arrays that their functions hide."""

from __future__ import annotations

import dataclasses
import warnings
from contextlib import AbstractContextManager

import jax
from jax.core import Tracer

from .._pytree import FIX_OF_HIDDEN
from ..network import HiddenArray, NetworkCall, hidden_arrays, watch_calls
from ._partition import reported

_SHOWN = 4  # hidden arrays in a warning, because a deep network may have hundreds


@dataclasses.dataclass
class NetworkWatch:
    """Collect the arrays that functions of trained networks hide from the optimizer."""

    hidden: dict[str, HiddenArray] = dataclasses.field(default_factory=dict)
    """By their text, because JAX may trace a loss several times."""

    def watching(self) -> AbstractContextManager[None]:
        """Return a context in which each call of a network is noted."""
        return watch_calls(self._note)

    def _note(self, call: NetworkCall) -> None:
        """Note the hidden arrays of a network that the loss has called."""
        arrays = hidden_arrays(call.network, call.inputs, key=call.key, mask=call.mask)
        # JAX traces a loss with tracers in place of its trained arrays. A network without a tracer
        # is a constant of the loss, such as a pretrained one, and hides nothing.
        leaves = jax.tree.leaves(call.network)
        is_trained = any(isinstance(leaf, Tracer) for leaf in leaves)
        if not (is_trained or any(array.is_traced for array in arrays)):
            return
        for array in arrays:
            if not array.is_traced and array.function not in reported:
                self.hidden[str(array)] = array

    def warn(self, stacklevel: int) -> None:
        """Warn once of all arrays that were noted."""
        texts = [*self.hidden]
        self.hidden.clear()
        if not texts:
            return
        text = ", ".join(texts[:_SHOWN])
        if len(texts) > _SHOWN:
            text += f" and {len(texts) - _SHOWN} more"
        warnings.warn(
            f"fit: functions hold arrays that are not trained: {text}. {FIX_OF_HIDDEN}",
            stacklevel=stacklevel + 1,
        )
