"""Placeholder."""


def canonical(fun):
    return fun


def has_convolution(closed):
    return "conv_general_dilated" in str(closed)
