"""The loops over time: one with a backward pass of its own, and JAX's scan."""
