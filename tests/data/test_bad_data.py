"""Bad files and arguments for the readers: each gives the right result, or one clear line within two seconds."""

import contextlib
import io
import itertools
import os
import re
import signal
import socket
import struct
import warnings
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from recording_files import (
    DENSE,
    EVENT,
    IMAGES,
    SPARSE,
    camera_events,
    nmnist_bytes,
    packet,
    write_aedat,
    write_nmnist,
    write_shd,
    write_ts,
)

from spikegrad import data
from spikegrad.data import Binning, DataError, Events, Recordings, Sequences, _accepted

SCORED = {"x": IMAGES["x_test"], "y": IMAGES["y_test"]}
LIBRARY = Path(data.__file__).parent


class Hang(BaseException):
    pass


@contextlib.contextmanager
def at_most(seconds):
    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answer(function, *args, **kwargs):
    """The message of one clear line, or None if there is a result. Anything else is a failure."""
    with at_most(10), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            function(*args, **kwargs)
        except (ValueError, TypeError, IndexError) as error:
            message, trace = str(error), error.__traceback__
        else:
            return None
    while trace.tb_next:
        trace = trace.tb_next
    assert LIBRARY in Path(trace.tb_frame.f_code.co_filename).parents, f"not raised here: {message}"
    assert message.isprintable(), repr(message)
    assert len(message) <= 300, message
    assert re.match(r".+( |: )\S+", message)
    return message


def refused(function, *args, **kwargs):
    message = answer(function, *args, **kwargs)
    assert message, "accepted"
    return message


def consume(source):
    """Everything of a source."""
    if isinstance(source, Recordings):
        for index in range(len(source)):
            source[index]
        source = source.binned(Binning(4, 14_000))
    for _ in source.batches(min(3, len(source))):
        pass
    if source.sequence(0).dtype.kind == "f":
        data.standardize(source)


def scored(path):
    return data.load_for_prediction(path, seed=0, shape=(3,), classes=2, low=0.0, high=59.0)


def npz(folder, arrays, **changes):
    path = folder / "file.npz"
    np.savez(path, **{key: value for key, value in {**arrays, **changes}.items() if value is not None})
    return path


def nmnist(folder):
    write_nmnist(folder, [(3, "file", nmnist_bytes(camera_events(0, 50, 34, 315_000)))])
    return folder / "3" / "file.bin"


def array(folder, values=None):
    np.save(folder / "4.npy", np.array(camera_events(7, 60, 128, 6_000), float) if values is None else values)
    return folder / "4.npy"


READERS = {
    "load": (data.load, lambda folder: npz(folder, IMAGES)),
    "load_for_prediction": (scored, lambda folder: npz(folder, SCORED)),
    "read_npz": (lambda path: consume(data.read_npz(path)), lambda folder: npz(folder, DENSE)),
    "read_npz_events": (lambda path: consume(data.read_npz_events(path)), lambda folder: npz(folder, SPARSE)),
    "read_shd": (lambda path: consume(data.read_shd(path)), lambda folder: write_shd(folder / "file.h5")),
    "read_dvs_gesture": (
        lambda path: consume(data.read_dvs_gesture(path)),
        lambda folder: write_aedat(
            folder / "file.aedat", [packet([EVENT] * 5, capacity=7), packet([EVENT])], [(1, 0, 50), (3, 5, 11)]
        ),
    ),
    "read_ts": (lambda path: consume(data.read_ts(path)), lambda folder: write_ts(folder / "file.ts")),
    "read_nmnist": (lambda path: consume(data.read_nmnist(path.parent.parent)), nmnist),
    "read_dvs_gesture_arrays": (lambda path: consume(data.read_dvs_gesture_arrays(path.parent)), array),
}
readers = pytest.mark.parametrize("reader", READERS)


# Files


def no_file(path):
    """Put what is not a file of data in the place of one, by its name."""

    def linked(target):
        return lambda: path.symlink_to(target)

    def sparse():
        path.write_bytes(b"")
        os.truncate(path, 2**42)

    def bound():
        with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)

    yield "a pipe", lambda: os.mkfifo(path), "must be a regular file, got a device, a pipe or a socket"
    yield "a socket", bound, "must be a regular file, got a device"
    for device in ("zero", "null", "urandom", "full"):
        if os.path.exists(f"/dev/{device}"):
            yield device, linked(f"/dev/{device}"), "must be a regular file, got a device"
    yield "a folder", path.mkdir, "cannot be read: Is a directory"
    yield "a link to itself", linked(path), "cannot be read: Too many levels of symbolic links"
    yield "a link to nothing", linked(path.with_name("nothing")), "no such file"
    yield "nothing", lambda: None, r"no such file|no folders 0 to 9|no \.npy files"
    yield "four terabytes", sparse, "GB of memory|fit into memory|not a|truncated|cannot be read|damaged"
    yield "zeros", lambda: path.write_bytes(bytes(4999)), ""
    yield "noise", lambda: path.write_bytes(np.random.default_rng(0).bytes(4999)), ""


@readers
def test_readers_refuse_what_is_not_a_file(reader, tmp_path):
    read, write = READERS[reader]
    path = write(tmp_path)
    path.unlink()
    for name, make, message in no_file(path):
        make()
        assert re.search(message, refused(read, path)), name
        with contextlib.suppress(FileNotFoundError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize("name", ["file_labels.csv", "list.txt"])
def test_lists_of_gestures_are_files(name, tmp_path):
    read, write = READERS["read_dvs_gesture"]
    given = write(tmp_path)
    path = tmp_path / name
    for kind, make, message in no_file(path):
        path.unlink(missing_ok=True)
        make()
        assert re.search(message, refused(read, given if "csv" in name else path)), kind
        with contextlib.suppress(FileNotFoundError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for text in ("a\0.aedat", f"{'a' * 5000}.aedat", "\x1b[31m.aedat", "a.txt", "x.aedat\n" * 1000, "\0\1"):
        (tmp_path / "list.txt").write_text(text)
        refused(read, tmp_path / "list.txt")


@readers
def test_readers_refuse_what_is_not_a_path(reader):
    read = getattr(data, reader)
    more = () if reader != "load_for_prediction" else (0, (3,), 2, 0.0, 59.0)
    for path in (None, 3, 1.5, True, b"file.npz", [], {}, np.zeros(3), object()):
        assert "path must be a str or a path" in refused(read, path, *more)
    for path in ("a\0b", "a" * 5000, "a\nb", "a\x1b[31mb", "a\udcffb", "/etc/passwd/x"):
        for suffix in ("", ".npz", ".aedat"):
            refused(read, path + suffix, *more)


@readers
def test_damage_gives_a_result_or_one_line(reader, tmp_path):
    read, write = READERS[reader]
    path, rng = write(tmp_path), np.random.default_rng(5)
    content = path.read_bytes()
    whole = [content[: int(len(content) * part)] for part in (0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)]
    whole += [content[:-1], content[:1], content * 2, b"\xff\xfe" + content, content.replace(b"\n", b"\r\n")]
    for _ in range(25):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        whole.append(bytes(flipped))
    answers = []
    for damaged in whole:
        path.write_bytes(damaged)
        answers.append(answer(read, path))
    assert sum(map(bool, answers)) >= (1 if reader == "read_nmnist" else 4)


# Arrays


def counting(shape):
    return np.arange(np.prod(shape)).reshape(shape)


VALUES = {
    "longdouble": lambda s: counting(s).astype(np.longdouble),
    "beyond float64": lambda s: np.full(s, np.longdouble("1e4000")),
    "big-endian floats": lambda s: counting(s).astype(">f4"),
    "big-endian integers": lambda s: counting(s).astype(">i2"),
    "float16": lambda s: counting(s).astype(np.float16),
    "the greatest integers": lambda s: np.full(s, 2**64 - 1, np.uint64) - counting(s).astype(np.uint64),
    "the least integers": lambda s: counting(s) + np.iinfo(np.int64).min,
    "complex": lambda s: np.zeros(s, complex),
    "bool": lambda s: counting(s) % 2 == 1,
    "dates": lambda s: np.zeros(s, "M8[us]"),
    "durations": lambda s: np.zeros(s, "m8[us]"),
    "bytes": lambda s: np.full(s, b"a"),
    "text": lambda s: np.full(s, "ä"),
    "void": lambda s: np.zeros(s, "V8"),
    "records": lambda s: np.zeros(s, [("a", "f4"), ("b", "i4")]),
    "objects": lambda s: np.full(s, None, object),
    "nan": lambda s: np.full(s, np.nan),
    "inf": lambda s: np.where(counting(s) % 2 == 0, np.inf, 0.0),
    "as far apart as can be": lambda s: np.where(counting(s) % 2 == 0, 1.7e308, -1.7e308),
    "none": lambda s: np.zeros((0, *s[1:])),
    "one number": lambda s: np.float64(3),
    "more axes": lambda s: np.zeros((*s, 1, 1, 1, 1)),
    "one axis": lambda s: np.zeros(s[0]),
    "no features": lambda s: np.zeros((*s[:-1], 0)),
    "40 axes": lambda s: np.zeros((1,) * 40),
}
RIGHT = {"longdouble", "big-endian floats", "big-endian integers", "float16"}
KEYS = [
    ("load", IMAGES, "x_train"),
    ("load", IMAGES, "x_test"),
    ("load_for_prediction", SCORED, "x"),
    ("read_npz", DENSE, "x"),
    *(("read_npz_events", SPARSE, key) for key in ("times", "units", "shape", "offsets", "time_unit")),
]


@pytest.mark.parametrize(("reader", "arrays", "key"), KEYS, ids=[f"{r}-{k}" for r, _, k in KEYS])
def test_arrays_of_any_kind_give_a_result_or_one_line(reader, arrays, key, tmp_path):
    shape = np.shape(arrays[key]) or (1,)
    for name, values in VALUES.items():
        message = answer(READERS[reader][0], npz(tmp_path, arrays, **{key: values(shape)}))
        if key.startswith("x") and name in RIGHT:
            assert message is None, (name, message)
        elif key.startswith("x") and name not in ("bool", "the greatest integers", "the least integers", "more axes"):
            assert message or (name, reader) == ("40 axes", "read_npz"), name


def test_arrays_are_read_in_a_dtype_of_jax(tmp_path):
    """The bytes are the test's: any order, and 80 bits."""
    for dtype in ("<f2", ">f2", ">f4", ">f8", np.longdouble, ">i2", ">u4", "|i1"):
        values = np.arange(24).reshape(3, 4, 2).astype(dtype)
        path = npz(tmp_path, DENSE, x=values)
        found = data.read_npz(path)
        assert found.sequence(0).tolist() == np.arange(8).reshape(4, 2).tolist()
        assert jax.numpy.asarray(found[0].x).tolist()[0] == [0, 1]
        times = np.array([0, 1, 2, 3]).astype(dtype)
        assert data.read_npz_events(npz(tmp_path, SPARSE, times=times))[0].times.tolist() == [0, 1e6, 2e6]


LABELS = {
    "negative": [-1, 0],
    "floats": [0.0, 1.0],
    "bools": [False, True],
    "text": ["a", "b"],
    "beyond 32 bits": [0, 2**40],
    "the greatest integer": np.array([0, 2**64 - 1], np.uint64),
    "a million classes": [0, 1_000_000],
    "twenty million": [0, 20_000_000],
    "nan": [np.nan, 0],
    "complex": [1j, 0],
    "objects": np.array([None, 1]),
    "bytes": [b"0", b"1"],
    "dates": np.zeros(2, "M8[s]"),
    "one-hot": [[1, 0], [0, 1]],
    "a number": 0,
    "none": np.zeros(0, int),
}
LABELLED = [
    ("load", IMAGES, "y_train"),
    ("load", IMAGES, "y_test"),
    ("load_for_prediction", SCORED, "y"),
    ("read_npz", DENSE, "y"),
    ("read_npz_events", SPARSE, "y"),
]


@pytest.mark.parametrize(("reader", "arrays", "key"), LABELLED, ids=[f"{r}-{k}" for r, _, k in LABELLED])
def test_one_check_of_labels_serves_all_readers(reader, arrays, key, tmp_path):
    count = len(arrays[key])
    for name, labels in LABELS.items():
        labels = np.asarray(labels)
        many = np.resize(labels, (count, *labels.shape[1:])) if labels.ndim and labels.size else labels
        assert re.search(
            f"{key} (must|is an array of Python objects)",
            refused(READERS[reader][0], npz(tmp_path, arrays, **{key: many})),
        ), name
    good = np.arange(count) % 2
    for dtype in (np.uint8, np.int8, ">i4", np.uint64):
        assert answer(READERS[reader][0], npz(tmp_path, arrays, **{key: good.astype(dtype)})) is None


def test_events_of_any_kind_give_a_result_or_one_line(tmp_path):
    read = READERS["read_npz_events"][0]
    for change, message in (
        ({"times": np.array([-5, -1, 3, 4.0])}, None),
        ({"times": np.array([5, 1, 3, -4.0])}, None),
        ({"times": np.full(4, 1e308)}, "a time that is not finite"),
        ({"units": np.array([0, -1, 2, 3])}, "has unit -1, not within"),
        ({"units": np.array([2**64 - 1] * 4, np.uint64)}, "has unit 18446744073709551615, not within"),
        ({"shape": np.array([2**40])}, "GB of memory"),
        ({"shape": np.array([2**21] * 3)}, "GB of memory"),
        ({"shape": np.ones(10**6, int)}, "shape must be 1 or 3 integers"),
        ({"offsets": np.array([0, 3, 3, 2**64 - 1], np.uint64)}, "offsets must rise"),
        ({"time_unit": np.array("s" * 10**6)}, "time_unit must be one of"),
        ({"time_unit": np.array(["s", "ms"])}, "time_unit must be one of"),
        ({"time_unit": np.array(b"s")}, "time_unit must be one of"),
        ({"time_unit": "\x1b[31m\n"}, "time_unit must be one of"),
    ):
        found = answer(read, npz(tmp_path, SPARSE, **change))
        assert found is message is None or message in found


def member(header, body=bytes(10_000)):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def described(shape, dtype="<i8"):
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()


HEADERS = [
    *map(described, [(10**12,), (2**62, 2**62), (-20, -3), (-20, 3), (0, 2**70), "(20.0, 3)", "(True, 3)", "('a',)"]),
    *(described((20, 3), dtype) for dtype in ("|O", "zz", "O8", "<f3", "<M8[us]")),
    *(described((10**15,), dtype) for dtype in ("|S0", "|V0", "<U0")),
    described((1,), "<U536870911"),
    described((1,) * 64),
    described((1,) * 3000),
    b"(" * 9000,
    b"",
    b"\xff\xfe\n",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (" + b"9" * 6000 + b",)}\n",
    b"__import__('os').system('touch exploded')\n",
]


def test_headers_that_claim_what_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for header in HEADERS:
        for reader, arrays, key in (("load", IMAGES, "x_train"), ("read_npz", DENSE, "x")):
            path = npz(tmp_path, arrays, **{key: None})
            with zipfile.ZipFile(path, "a") as archive:
                archive.writestr(f"{key}.npy", member(header))
            refused(READERS[reader][0], path)
        (tmp_path / "4.npy").write_bytes(member(header))
        refused(READERS["read_dvs_gesture_arrays"][0], tmp_path / "4.npy")
    assert not Path("exploded").exists()


def test_archives_of_strange_members(tmp_path):
    stream = io.BytesIO()
    np.save(stream, DENSE["x"])
    good = stream.getvalue()
    path = tmp_path / "file.npz"
    for names in (
        [],
        [f"k{number}.npy" for number in range(20_000)],
        ["k" * 60_000 + ".npy"],
        ["a\n\x1b[31mb.npy"],
        [".npy"],
        ["../../x.npy"],
        ["x/"],
        ["x.npy", "x.npy"],
        ["x.npy", "readme.txt"],
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns of names that occur twice
            with zipfile.ZipFile(path, "w") as archive:
                for name in names:
                    archive.writestr(name, b"" if len(names) > 2 else good)
        for reader in ("load", "load_for_prediction", "read_npz", "read_npz_events"):
            refused(READERS[reader][0], path)


# HDF5


def test_hdf5_files_of_strange_content(tmp_path):
    h5py = pytest.importorskip("h5py")

    def replaced(key, *value, **how):
        def edit(file):
            del file[key]
            if value:
                file[key] = value[0]
            else:
                file.create_dataset(key, **how)

        return edit

    def rows(dtype, values):
        def edit(file):
            del file["spikes/times"]
            dataset = file.create_dataset("spikes/times", (6,), h5py.vlen_dtype(dtype))
            for number in range(6):
                dataset[number] = np.full(len(file["spikes/units"][number]), values)

        return edit

    def references(file):
        del file["extra/keys"]
        dataset = file.create_dataset("extra/keys", (3,), h5py.ref_dtype)
        for number in range(3):
            dataset[number] = file["labels"].ref

    def circle(file):
        del file["spikes"]
        file["spikes"], file["other"] = h5py.SoftLink("/other"), h5py.SoftLink("/spikes")

    def virtual(file):
        layout = h5py.VirtualLayout((6,), "i4")
        layout[:] = h5py.VirtualSource("other.h5", "labels", (6,))
        del file["labels"]
        file.create_virtual_dataset("labels", layout)  # zeros if the other file is missing

    numbers = itertools.count()
    huge, outside = {"chunks": (1024,)}, {"external": [("/dev/zero", 0, 24)]}
    text = h5py.string_dtype()
    for edit, message in (
        (replaced("labels", h5py.SoftLink("/labels")), "damaged"),
        (circle, "damaged"),
        (replaced("labels", h5py.ExternalLink("/dev/zero", "/labels")), "must be in the file, got a link"),
        (replaced("labels", shape=(6,), dtype="i4", **outside), "must be in the file, got a link"),
        (virtual, "must be in the file, got a link"),
        (references, "extra/keys must hold text, got object"),
        (replaced("extra/keys", shape=(3,), dtype=h5py.vlen_dtype(np.int32)), "extra/keys must hold text"),
        (replaced("labels", shape=(10**12,), dtype="i8", **huge), "labels must have 6 entries"),
        (replaced("extra/speaker", shape=(10**12,), dtype="i8", **huge), "extra/speaker must have 6 entries"),
        (replaced("extra/keys", shape=(10**11,), dtype="S100", **huge), "GB of memory"),
        (replaced("labels", h5py.Empty("i4")), "labels"),
        (replaced("labels", 3), "labels must hold integers"),
        (replaced("labels", np.zeros(6, [("a", "i4")])), "labels must hold integers"),
        (replaced("labels", [True] * 6), "labels must hold integers"),
        (replaced("spikes", 3), "no dataset 'spikes/times'"),
        (replaced("spikes/times", data=["a"] * 6, dtype=text), "must hold rows of floats"),
        (rows("f8", np.nan), "a time that is not finite"),
        (rows("f8", 1e303), "a time that is not finite"),
        (rows(np.longdouble, 0.5), None),
        (rows(">f4", -0.5), None),
        (replaced("extra/keys", data=["zéro", "one", "two"], dtype=text), None),
        (replaced("extra/keys", [b"\xff", b"\xff", b"a" * 5000]), None),
    ):
        path = write_shd(tmp_path / f"{next(numbers)}.h5")
        with h5py.File(path, "r+") as file:
            edit(file)
        found = answer(READERS["read_shd"][0], path)
        assert found is message is None or message in found
        if message is None:
            assert data.read_shd(path)[0].times.dtype == np.dtype(float)


# Cameras and text


def test_camera_files_of_strange_content(tmp_path):
    read, _ = READERS["read_dvs_gesture_arrays"]
    for bad in (
        [1.5, 1, 1, 5],
        [np.nan, 1, 1, 5],
        [1, np.inf, 1, 5],
        [1e300, 1, 1, 5],
        [1, 1, 1, np.inf],
        [1, 1, 1, 1e307],
    ):
        refused(read, array(tmp_path, np.array([bad])))
    for values in VALUES.values():
        answer(read, array(tmp_path, values((5, 4))))
    array(tmp_path)
    np.save(tmp_path / "٣.npy", np.zeros((5, 4)))
    assert "its name must be a label" in refused(read, tmp_path / "4.npy")
    path = READERS["read_dvs_gesture"][1](tmp_path)
    header = b"#!AER-DAT3.1\r\n#!END-HEADER\r\n"
    for fields in ({2: 0}, {2: 2**32 - 1, 5: 2**32 - 1}, {6: 2}, {2: 0, 5: 2**32 - 1}, {4: 2**32 - 1}, {7: 0}):
        values = [1, 1, 8, 4, 0, 1, 1, 1]
        for place, value in fields.items():
            values[place] = value
        path.write_bytes(header + struct.pack("<HHIIIIII", *values) + struct.pack("<II", 3 << 17 | 4 << 2 | 3, 10))
        answer(READERS["read_dvs_gesture"][0], path)
    for text in (b"\xff\x00" * 50, b"c,s,e\n1,0," + b"9" * 5000, b"c,s,e\n" + b"1" * 10**5, b"c,s,e\n1,0.5,10"):
        path.with_name("file_labels.csv").write_bytes(text)
        refused(READERS["read_dvs_gesture"][0], path)


def test_text_files_of_strange_content(tmp_path):
    path, start = tmp_path / "file.ts", "@classLabel true up down\n@data\n"
    for text, message in (
        (
            "@classLabel true " + " ".join(f"c{n}" for n in range(20_000)) + "\n@data\n1,2:x\n",
            "c9, ... (20,000 in all)",
        ),
        (f"@classLabel true {'a' * 10**5}\n@data\n1,2:x\n", "has class 'x'"),
        (start.replace("down", "up") + "1:up\n", "@classLabel must name each class once, got up, up"),
        (start + ":".join(["1"] * 5000 + ["1,2"]) + ":up\n", "1, 1, 1, ... (5,001 in all)"),
        (start + "x" * 50_000 + ":up\n", "invalid number"),
        (start + "1e39:up\n", "not finite"),
        (start + "-inf:up\n", "not finite"),
        (start + ":up\n", "invalid number"),
        (start + ":\n", "has class ''"),
        (start + "1:\x1b[31m\n", "has class '\\x1b[31m'"),
        ("x" * 10**6, "must be a comment or @key"),
        (f"@{'a' * 10**6}\n{start}1:up", None),
        (f"\ufeff{start}1:up\n", None),
        (start.replace("\n", "\r") + "1:up\r", None),
    ):
        path.write_text(text)
        found = answer(READERS["read_ts"][0], path)
        assert found is message is None or message in found


# Arguments

NOTHING = Events(np.zeros(0), np.zeros(0, int))


def recordings(**kwargs):
    return Recordings("r", (3,), [0, 1, 0, 1], lambda number: NOTHING, **{"speakers": [4, 4, 7, 7], **kwargs})


def sequences(x=None, y=(0, 1), **kwargs):
    return Sequences("s", np.zeros((2, 3, 1)) if x is None else x, y, **kwargs)


SMALL = {"classes": 2, "units": 2, "samples": 3}
INTEGERS = {
    **{
        f"randman {name}": lambda v, name=name: data.randman(**{**SMALL, name: v})
        for name in ("classes", "units", "samples", "dimensions", "steps")
    },
    "Binning steps": lambda v: Binning(steps=v)(NOTHING, (3,)),
    "Binning pool": lambda v: Binning(pool=-1 if type(v) is int else v),
    "constant_encoding": lambda v: data.constant_encoding([0.1], v),
    "rate_encoding": lambda v: data.rate_encoding([0.1], v, jax.random.key(0)),
    "latency_encoding": lambda v: data.latency_encoding([0.1], v),
    "Batches size": lambda v: sequences().batches(v),
    "Sequences steps": lambda v: sequences(steps=0 if v is None else v),
    "split_by_speaker count": lambda v: data.split_by_speaker(recordings(), v),
    "read_ts steps": lambda v: data.read_ts("/nowhere.ts", steps=0 if v is None else v),
}
SEEDS = {
    "load": lambda v: data.load("digits", v),
    "randman": lambda v: data.randman(**SMALL, seed=v),
    "train_test_split": lambda v: data.train_test_split(sequences(), 0.5, v),
    "split_by_speaker": lambda v: data.split_by_speaker(recordings(), 1, v),
    "Batches": lambda v: sequences().batches(1, -1 if v is None else v),
    "read_npz label": lambda v: data.read_npz("/nowhere.npz", label=-1 if v is None else v),
}
REALS = {
    "Binning step_us": lambda v: Binning(step_us=v),
    "delta_encoding": lambda v: data.delta_encoding([0.1, 0.7], v),
    "randman alpha": lambda v: data.randman(**SMALL, alpha=v),
    "randman fraction": lambda v: data.randman(**SMALL, fraction=v),
    "train_test_split share": lambda v: data.train_test_split(sequences(), v),
    "scale": lambda v: data.scale(np.arange(3), 0.0, v),
}
SOURCES = {
    "train_test_split": data.train_test_split,
    "split_by_speaker": data.split_by_speaker,
    "standardize": data.standardize,
    "collate": data.collate,
    "Batches": lambda v: list(data.Batches(v, 1)),
    "Sequences x": lambda v: sequences(x="" if v is None else v),
    "Sequences lengths": lambda v: sequences(lengths=-1 if v is None else v),
    "Sequences y": lambda v: sequences(y=v),
    "Sequences class_names": lambda v: sequences(class_names=3 if v is None else v),
    "Recordings shape": lambda v: Recordings("r", v, [0], print),
    "Recordings read": lambda v: Recordings("r", (3,), [0], v),
    "Recordings speakers": lambda v: recordings(speakers=3 if v is None else v),
    "Recordings numbers": lambda v: recordings(numbers=3 if v is None else v),
    "events": lambda v: Recordings("r", (3,), [0], lambda number: v)[0],
    "map": lambda v: sequences().map(lambda x: v)[0],
    "binned": lambda v: recordings().binned(3 if v is None else v),
    "rate_encoding key": lambda v: data.rate_encoding([0.1], 3, v),
    "load_packaged": data.load_packaged,
    "load_packaged part": lambda v: data.load_packaged("japanese_vowels", v),
    "subset": lambda v: sequences().subset([9] if v is None else v),
    "index": lambda v: sequences()[v],
}
NO_INTEGER = [None, "a", np.nan, np.inf, -1, 2.5, True, [1], 1j, 10**15, np.array([1, 2]), object(), b"1", {}]
NO_SEED = [None, "a", np.nan, -1, 2.5, True, [1], 1j, np.array([1, 2]), object(), {}]
NO_REAL = [None, "a", np.nan, np.inf, -1, 0, True, [1], 1j, 10**400, np.array([1, 2]), object(), b"1", {}]
NO_SOURCE = [None, "a" * 5000, np.nan, -9, 2.5, [1.5], 1j, 10**400, np.array([[0.5]]), object(), b"1", {1: 2}]


@pytest.mark.parametrize(
    ("functions", "values"),
    [(INTEGERS, NO_INTEGER), (SEEDS, NO_SEED), (REALS, NO_REAL), (SOURCES, NO_SOURCE)],
    ids=["integers", "seeds", "reals", "sources"],
)
def test_arguments_are_refused_in_one_line(functions, values):
    for name, function in functions.items():
        for value in values:
            assert answer(function, value), (name, value)


@pytest.mark.parametrize("name", ["constant", "rate", "latency", "delta"])
def test_codings_refuse_what_is_not_real(name):
    code = {
        "constant": lambda x: data.constant_encoding(x, 3),
        "rate": lambda x: data.rate_encoding(x, 3, jax.random.key(0)),
        "latency": lambda x: data.latency_encoding(x, 3),
        "delta": lambda x: data.delta_encoding(x, 0.5),
    }[name]
    bad = [
        "abc", ["a"], [[1], [1, 2]], None, object(), [1j], np.array([None]), np.zeros(2, "M8[s]"), b"a", {1},
        (i for i in range(2)), np.zeros(2, [("a", "f4")]), [10**30], np.array(["a"]), {"a": 1},
    ]  # fmt: skip
    for x in bad:
        assert "x must" in refused(code, x)
    if name != "constant":  # no spike stands for it
        assert "x must not be NaN" in refused(code, [0.5, np.nan])
    for x in ([0.25, 0.75], (0.25, jax.numpy.asarray(0.75))):
        right = np.asarray(code(np.array([0.25, 0.75], np.float32)))
        np.testing.assert_array_equal(code(x), right)
    for dtype in (np.longdouble, ">f4", np.float16):
        np.testing.assert_array_equal(code(np.array([0.25, 0.75], dtype)).astype(float), right.astype(float))
    assert answer(code, [True, False]) is answer(code, np.zeros((2, 0))) is None


def test_binning_takes_no_unit_for_another():
    """A unit beyond the shape would be counted in the next step."""
    for times, units in (
        ([0.0], [3]),
        ([0.0], [-1]),
        ([np.nan], [1]),
        ([0.0, 1.0], [1]),
        (["a"], [1]),
        ([0.0], [1.5]),
        ([1j], [1]),
    ):
        for pool in (1, 2):
            refused(Binning(3, 1000, pool=pool), Events(np.array(times), np.array(units)), (3,))
    for shape in ((), (0,), (-3,), (2**40,), (3.5,), "abc", None):
        refused(Binning(3, 1000), Events(np.array([0.0]), np.array([0])), shape)
    late = Binning(3, 1e-300)(Events(np.array([1e300, 0.0]), np.array([1, 1])), (3,))
    assert late[1] == 1
    assert Binning(3, 1000)(Events([0.0, 1500.0], [1, 2]), (3,))[0].tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_sequences_of_strange_arrays():
    for x in (
        [np.zeros((2, 1)), np.zeros((2, 3))],
        [np.zeros((2, 1)), np.zeros((2, 3, 1))],
        [np.zeros((2, 1), np.float32), np.zeros((2, 1), np.int32)],
        np.full((2, 3, 1), "a"),
        np.full((2, 3, 1), None),
        [[1.0], [2.0]],
    ):
        refused(sequences, x)
    assert sequences([[[1.0], [2.0]], [[3.0], [4.0]]]).as_batch().x[:, 1].tolist() == [[3.0], [4.0]]
    assert "masked must be True" in refused(sequences, [np.zeros((2, 1)), np.zeros((3, 1))], masked=False)
    assert "variance" in refused(data.standardize, sequences(np.full((2, 3, 1), np.nan)))
    assert "channels must have shape (1,)" in refused(data.standardize, sequences(), sequences(np.zeros((2, 3, 4))))
    far = sequences(np.full((2, 3, 1), 1e300))
    message = refused(data.standardize, sequences(), far)
    assert message == "s has values too far from the mean of the training data, up to 1e+300"
    examples = [sequences()[0], sequences(np.zeros((2, 5, 1)))[0]]
    assert "examples must have one shape" in refused(data.collate, examples)
    for mask in ([True, False, True], [[True, False]], ["a"]):
        refused(sequences().subset, mask)


def test_messages_are_one_line_of_300_characters():
    for text in ("a\nb\x1b[31m\udcff\0", "x" * 10**6, "é" * 400):
        message = str(DataError(text))
        assert message.isprintable()
        assert len(message) <= 300
        assert message[0] == text[0]
    assert str(DataError("a\nb")) == "a\\nb"
    assert _accepted.some(range(3)) == "0, 1, 2"
    assert _accepted.some(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (12 in all)"
    assert _accepted.some([]) == "none"


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "classes", "20,000 classes", "link"])
def test_train_gives_one_line_for_bad_data(kind, tmp_path, capsys):
    pytest.importorskip("click")
    from spikegrad.cli import main  # noqa: PLC0415

    path = tmp_path / "file.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "classes":
        npz(tmp_path, {"x": np.zeros((20, 3, 1), np.uint8), "y": np.resize([0, 999_999], 20)})
    elif kind == "20,000 classes":
        path = tmp_path / "file.ts"
        path.write_text("@classLabel true " + " ".join(map(str, range(20_000))) + "\n@data\n" + "1,2:7\n3,4:8\n" * 9)
    else:
        path.symlink_to(path if kind == "link" else kind)
    with at_most(10):
        ended = main(["train", "--data", f"ts:{path}" if path.suffix == ".ts" else str(path), "--epochs", "1"])
    assert ended != 0
    out, err = capsys.readouterr()
    (line,) = (out + err).strip().splitlines()
    assert len(line) < 400
    assert {"pipe": "regular file", "/dev/zero": "regular file", "link": "symbolic"}.get(kind, "classes") in line
