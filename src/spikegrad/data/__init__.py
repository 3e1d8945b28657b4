"""Data for the command: what installed packages ship, and a user's own ``.npz``. Nothing is downloaded.

A file of one's own holds, under these keys and no others,

============  ==========================================================================================
``x_train``   ``(n, features)`` or images ``(n, height, width)`` or ``(n, height, width, channels)``,
              ints or floats, finite
``y_train``   ``(n,)``, integer labels 0, 1, ... classes - 1, each of which occurs
``x_test``    optional, ``(m, ...)``, shaped like ``x_train``: the examples to report on
``y_test``    its labels, ``(m,)``
============  ==========================================================================================

Without ``x_test`` and ``y_test`` a fifth of each class, drawn with the seed, is held out. Values are scaled by one
minimum and one maximum, those of all training values, to run from 0 to 1: bring features of different units to one
scale before. Integers of at most 16 bits are scaled on the device, so that they take no more memory than the file. The
arrays of a compressed file may take 8 GB at most, which is looked up before they are unpacked.
"""

from ._arrays import BUILT_IN, Data, DataError, load, load_for_prediction, scale
from ._encoders import constant_coding, delta_coding, latency_coding, rate_coding

__all__ = [
    "BUILT_IN",
    "Data",
    "DataError",
    "constant_coding",
    "delta_coding",
    "latency_coding",
    "load",
    "load_for_prediction",
    "rate_coding",
    "scale",
]
