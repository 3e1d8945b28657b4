"""Why a network does not learn: what each of its layers does forward and back, what is wrong, and
what helps.
"""

from ._diagnose import diagnose, diagnose_layer
from ._fixes import Fix
from ._issues import Issue
from ._numbers import LayerReport
from ._report import Diagnosis

__all__ = ["Diagnosis", "Fix", "Issue", "LayerReport", "diagnose", "diagnose_layer"]
