"""Layers of neurons over time, and what the backward pass keeps of them."""

from ._layer import Layer
from ._network import Network

__all__ = ["Layer", "Network"]
