"""Layers' connections, and the graph of a network."""
