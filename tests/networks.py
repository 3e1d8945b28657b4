"""Calls of networks that several tests make."""

import dataclasses

from spikegrad import Backward


def observed(network, *args, **options):
    """The states after the last step, and of each node the outputs and the states before the spike, by name and place."""
    states, activity = network.observe(*args, **options)
    outs = {name: node.output for name, node in activity.items()}
    before = {name: node.pre_spike for name, node in activity.items() if node.pre_spike is not None}
    return states, type(activity)(outs), type(activity)(before)


def truncated_options(options, truncate):
    """The options of a call with a window of truncated backpropagation."""
    backward = options.get("backward", "exact")
    backward = Backward(backward) if isinstance(backward, str) else backward
    return {**options, "backward": dataclasses.replace(backward, truncate=truncate)}
