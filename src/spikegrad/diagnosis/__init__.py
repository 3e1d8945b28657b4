"""Diagnosis of networks that do not learn."""

from ._diagnose import diagnose
from .measures import LayerReport
from .report import Diagnosis, Issue

__all__ = ["Diagnosis", "Issue", "LayerReport", "diagnose"]
