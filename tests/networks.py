"""Calls of networks that several tests make."""

import dataclasses

from spikegrad import Backward


def observed(network, *args, **options):
    """The states after the last step, and outputs and states before the spike of each node, by name and by place."""
    states, activity = network.observe(*args, **options)
    outs = {name: node.output for name, node in activity.items()}
    before = {name: node.pre_spike for name, node in activity.items() if node.pre_spike is not None}
    return states, type(activity)(outs), type(activity)(before)


def named(states):
    """The states of a list of layers."""
    return None if states is None else {str(n): state for n, state in enumerate(states)}


def backward_of(options):
    """The backward pass that the options of a call ask for."""
    backward = options.get("backward", "exact")
    return Backward(backward) if isinstance(backward, str) else backward


def truncated_options(options, truncate):
    """The options of a call with a window of truncated backpropagation."""
    return {**options, "backward": dataclasses.replace(backward_of(options), truncate=truncate)}
