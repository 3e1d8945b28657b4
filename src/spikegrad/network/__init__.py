"""Initial weights, learned delays, widths of surrogates and the activity of layers. The classes to
build a network, such as ``Network`` and ``Layer``, are in :mod:`spikegrad`.

>>> import jax, jax.numpy as jnp
>>> from spikegrad import LIF, Layer, Network
>>> from spikegrad.network import draw_weights
>>> inputs = jax.random.bernoulli(jax.random.key(0), 0.1, (50, 8, 20))
>>> network = Network([Layer(jnp.zeros((20, 30)), LIF(0.9))])
>>> network = draw_weights(network, jax.random.key(1), inputs)
>>> bool(network(inputs)[1].mean() > 0)  # the neurons spike
True
"""

from ._layer import Layer, is_unchanged as is_unchanged
from ._network import Network
from .engine._modes import MODES, Backward
from .graph._connections import (
    Delayed,
    Edge as Edge,
    Join,
    Name as Name,
    Weight as Weight,
    Window,
    function_of as function_of,
    inner_of as inner_of,
    matrix_of as matrix_of,
    weights_of as weights_of,
    with_inner as with_inner,
)
from .graph._delays import (
    DelayKernel,
    is_kernel as is_kernel,
    map_kernels as map_kernels,
    rounded_delays,
)
from .graph._graph import LayerFields as LayerFields, with_weights as with_weights
from .graph._hidden_arrays import (
    HiddenArray as HiddenArray,
    NetworkCall as NetworkCall,
    hidden_arrays as hidden_arrays,
    report_call as report_call,
    watch_calls as watch_calls,
)
from .graph._normalization import fold_normalization
from .start._draw_weights import draw_weights
from .start._initial import fluctuation_driven
from .start._widths import match_widths
from .step._arguments import named_inputs as named_inputs  # for the library itself
from .step._masks import Masks as Masks, tree_where as tree_where
from .step._nodes import nodes_of as nodes_of
from .step._observe import Activity
from .step._past import lagged_sequence as lagged_sequence
from .step._states import (
    as_entries as as_entries,
    as_states_and_pasts as as_states_and_pasts,
)
from .step._step import (
    CellSteps as CellSteps,
    activity_names as activity_names,
    graph_step as graph_step,
)

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
