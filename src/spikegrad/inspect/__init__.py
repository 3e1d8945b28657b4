"""Things to look at: residuals of a backward pass, diagnoses of networks, and plots, which need the extra ``plot``."""

from ._residuals import residual_report

__all__ = ["residual_report"]
