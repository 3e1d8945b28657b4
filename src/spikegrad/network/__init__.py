"""Layers of neurons over time, and what the backward pass keeps of them."""

from ._layers import Layer, Network

__all__ = ["Layer", "Network"]
