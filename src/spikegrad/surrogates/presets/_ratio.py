"""A quotient of parameters."""

import math
from typing import Any


def ratio(a: Any, b: Any) -> Any:
    """``a / b``, and infinity where ``b`` is the number 0, which the curve it is for refuses by name."""
    return math.inf if isinstance(b, (int, float)) and b == 0 else a / b
