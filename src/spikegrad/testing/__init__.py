"""Checks for your surrogates and cells, to call in your tests. They check the properties that the
surrogates and cells of the library have.

>>> from spikegrad import Sigmoid
>>> from spikegrad.testing import check_surrogate
>>> check_surrogate(Sigmoid(4.0)).passed
True
"""

from ._cells import check_cell
from ._report import CheckFailedError, CheckReport, CheckResult
from ._surrogates import check_surrogate

__all__ = [
    "CheckFailedError",
    "CheckReport",
    "CheckResult",
    "check_cell",
    "check_surrogate",
]
