"""Loops over time: one with a custom backward pass, and JAX's scan."""
