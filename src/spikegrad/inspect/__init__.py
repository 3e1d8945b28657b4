"""Things to look at: residuals of a backward pass, and plots (``spikegrad.inspect.plot``, with the extra ``plot``)."""

from ._residuals import residual_report

__all__ = ["residual_report"]
