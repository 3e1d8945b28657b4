"""Diagnosis of networks that do not learn."""

from ._diagnose import diagnose
from .measures import LayerReport
from .moves import Move
from .report import Diagnosis, Issue
from .trial import Outcome

__all__ = ["Diagnosis", "Issue", "LayerReport", "Move", "Outcome", "diagnose"]
