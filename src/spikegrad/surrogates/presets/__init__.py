"""Other libraries' surrogates under the names, parameters and defaults that they have there.

One module a library, one function a name, and what it returns is a composition of this library's curves: print it, and
it says what the other one's is. :data:`ABSENT` lists the names that have no counterpart, and why.

>>> from spikegrad.surrogates.presets import snntorch
>>> snntorch.fast_sigmoid(slope=25)
excluding(InvSquareGrad(alpha=25.0))
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from ..._surrogate import Surrogate

_BY_NAME = {
    found.name: importlib.import_module(f"{__name__}.{found.name}")
    for found in pkgutil.iter_modules(__path__)
    if not found.name.startswith("_")
}

PRESETS: dict[str, Callable[..., Surrogate]] = {
    f"{library}.{name}": getattr(module, name) for library, module in _BY_NAME.items() for name in module.__all__
}
"""Every preset by its name, ``"library.name"``."""

ABSENT: dict[str, str] = {
    f"{library}.{name}": why
    for library, module in _BY_NAME.items()
    for name, why in getattr(module, "ABSENT", {}).items()
}
"""Names of these libraries that have no counterpart here, each with the reason."""
