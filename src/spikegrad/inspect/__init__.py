"""What one looks at: what a backward pass keeps, and plots (``spikegrad.inspect.plot``, with the extra ``plot``)."""

from ._residuals import residual_report

__all__ = ["residual_report"]
