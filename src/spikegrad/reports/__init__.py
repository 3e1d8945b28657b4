"""Reports: residuals of a backward pass, costs, diagnoses of networks, and plots, which need the
extra ``plot``.
"""

from ._connections import NotLinearError as NotLinearError  # for the library itself
from ._connections import check_linear as check_linear
from ._costs import cost_report
from ._energy import EnergyPrices
from ._neurobench import NeuroBenchReport, neurobench
from ._residuals import residual_report

__all__ = [
    "EnergyPrices",
    "NeuroBenchReport",
    "cost_report",
    "neurobench",
    "residual_report",
]
