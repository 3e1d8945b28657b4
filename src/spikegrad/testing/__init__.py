"""Checks of surrogates and cells, with the properties that the library tests on its own classes.
Use them in a test of your classes.

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
