"""Surrogates of other libraries, with their original names, parameters and defaults.

Each library has a module, and each name has a function. It returns a composition of this library's
curves. Print it to see the definition of the original surrogate. :data:`ABSENT` lists the names
without a counterpart, with the reasons.

>>> from spikegrad.surrogates.presets import snntorch
>>> snntorch.fast_sigmoid(slope=25)
strict(InvSquareGrad(alpha=25.0))
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from ..._functional import functions_of
from ..._surrogate import Surrogate

_BY_NAME = {
    module_info.name: importlib.import_module(f"{__name__}.{module_info.name}")
    for module_info in pkgutil.iter_modules(__path__)
    if not module_info.name.startswith("_")
}


PRESETS: dict[str, Callable[..., Surrogate]] = {
    f"{library}.{name}": getattr(module, name)
    for library, module in _BY_NAME.items()
    # Classes are re-exported.
    for name in sorted(getattr(module, "__all__", functions_of(module)))
}
"""Every preset by its name, ``"library.name"``."""

ABSENT: dict[str, str] = {
    f"{library}.{name}": why
    for library, module in _BY_NAME.items()
    for name, why in getattr(module, "ABSENT", {}).items()
}
"""Names of these libraries without a counterpart here, each with the reason."""
