"""Reports: residuals of a backward pass, costs, diagnoses of networks, and plots, which need the
extra ``plot``.
"""

from ._costs import cost_report
from ._energy import EnergyPrices
from ._residuals import residual_report

__all__ = ["EnergyPrices", "cost_report", "residual_report"]
