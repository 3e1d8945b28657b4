"""Quotients of parameters."""

import math
from typing import Any


def ratio(a: Any, b: Any) -> Any:
    """Return ``a / b``, or infinity if ``b`` is the number 0.

    The curve then raises and names its parameter.
    """
    return math.inf if isinstance(b, (int, float)) and b == 0 else a / b
