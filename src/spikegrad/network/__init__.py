"""Layers of neurons over time, and what the backward pass keeps of them."""

from ._arguments import named_inputs as named_inputs  # for the library itself
from ._connections import Delayed, Join, Window
from ._connections import Edge as Edge
from ._connections import matrix_of as matrix_of
from ._delays import DelayKernel, rounded_delays
from ._draw_weights import draw_weights
from ._hidden_arrays import HiddenArray as HiddenArray
from ._hidden_arrays import NetworkCall as NetworkCall
from ._hidden_arrays import hidden_arrays as hidden_arrays
from ._hidden_arrays import report_call as report_call
from ._hidden_arrays import watch_calls as watch_calls
from ._initial import fluctuation_driven
from ._layer import Layer
from ._masks import Masks as Masks
from ._masks import tree_where as tree_where
from ._modes import MODES, Backward
from ._network import Network
from ._nodes import nodes_of as nodes_of
from ._normalization import fold_normalization
from ._observe import Activity
from ._states import as_entries as as_entries
from ._states import as_parts as as_parts
from ._step import CellSteps as CellSteps
from ._step import graph_step as graph_step
from ._step import parts_of as parts_of
from ._widths import match_widths

__all__ = [
    "MODES",
    "Activity",
    "Backward",
    "DelayKernel",
    "Delayed",
    "Join",
    "Layer",
    "Network",
    "Window",
    "draw_weights",
    "fluctuation_driven",
    "fold_normalization",
    "match_widths",
    "rounded_delays",
]
