"""Data sets, batches, and encodings of numbers as spikes. Batches have the time steps on the first
axis and the examples on the second.

>>> import jax
>>> from spikegrad.data import randman, rate_encoding
>>> data = randman(classes=3, samples=10, steps=50)
>>> batch = next(iter(data.batches(8, seed=0)))
>>> batch.x.shape, batch.y.shape
((50, 8, 20), (8,))
>>> rate_encoding([0.1, 0.9], 50, jax.random.key(0)).shape
(50, 2)

Functions that read data do not download them. To load your images with
:func:`~spikegrad.data.load`, write a ``.npz`` file with these arrays and no others:

============  ======================================================================
array         contents
============  ======================================================================
``x_train``   ``(n, features)`` or images ``(n, height, width)`` or
              ``(n, height, width, channels)``, ints or floats, finite
``y_train``   ``(n,)``, integer labels 0, 1, ... classes - 1
``x_test``    optional, ``(m, ...)``, shaped like ``x_train``: the test set
``y_test``    its labels, ``(m,)``
============  ======================================================================

Without ``x_test`` and ``y_test``, the test set is a random fifth of each class. Values are scaled
to the range from 0 to 1 by the minimum and the maximum of all training values. So scale features
with different units before. Integers of at most 16 bits keep their dtype, which saves memory, and
:func:`~spikegrad.data.scale` scales them on the device.
"""

from ._accepted import DataError
from ._augment import (
    drop_batch,
    drop_events,
    flip_batch,
    flip_events,
    jitter_times,
    shift_batch,
    shift_events,
    stretch_times,
)
from ._cameras import read_dvs_gesture, read_nmnist
from ._encoders import (
    constant_encoding,
    delta_encoding,
    latency_encoding,
    rate_encoding,
)
from ._events import Binned, Binning, Events, Recordings, split_by_speaker
from ._forms import FORMS, Form as Form
from ._heidelberg import read_shd
from ._images import BUILT_IN, images_to_score as images_to_score, load, scale
from ._mackey_glass import mackey_glass
from ._npz import keys_of as keys_of
from ._npz_sequences import read_npz, read_npz_events
from ._pairs import read_pairs
from ._randman import randman
from ._sequences import (
    Batches,
    Example,
    Sequences,
    Split,
    collate,
    moments as moments,
    standardize,
    standardized as standardized,
    train_test_split,
)
from ._tasks import binary_adding, cue_accumulation, yin_yang
from ._text import PACKAGED, load_packaged, read_ts
from ._windows import series_windows

__all__ = [
    "BUILT_IN",
    "PACKAGED",
    "Batches",
    "Binned",
    "Binning",
    "DataError",
    "Events",
    "Example",
    "Recordings",
    "Sequences",
    "Split",
    "binary_adding",
    "collate",
    "constant_encoding",
    "cue_accumulation",
    "delta_encoding",
    "drop_batch",
    "drop_events",
    "flip_batch",
    "flip_events",
    "jitter_times",
    "latency_encoding",
    "load",
    "load_packaged",
    "mackey_glass",
    "randman",
    "rate_encoding",
    "read_dvs_gesture",
    "read_nmnist",
    "read_npz",
    "read_npz_events",
    "read_pairs",
    "read_shd",
    "read_ts",
    "scale",
    "series_windows",
    "shift_batch",
    "shift_events",
    "split_by_speaker",
    "standardize",
    "stretch_times",
    "train_test_split",
    "yin_yang",
]

# The order of the help: data without a path first, files of the user last.
FORMS.sort(key=lambda form: (bool(form.key), ":" in form.written))
