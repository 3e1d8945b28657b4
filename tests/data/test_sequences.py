"""Labelled sequences: examples, batches, splits, scales, and arrays in memory."""

import pickle

import numpy as np
import pytest

from spikegrad.data import Sequences, collate, standardize, train_test_split

LENGTHS = [3, 5, 1, 4, 2, 5, 3]


@pytest.fixture
def ragged():
    rng = np.random.default_rng(0)
    return Sequences(
        "ragged",
        [rng.normal(size=(n, 2)).astype(np.float32) for n in LENGTHS],
        [0, 1, 2, 0, 1, 2, 0],
    )


def test_sequence_is_padded_and_masked(ragged):
    assert [len(ragged), ragged.steps, ragged.shape, ragged.classes] == [7, 5, (2,), 3]
    assert repr(ragged) == "<ragged: 7 sequences, 1 to 5 steps, channels (2,), 3 classes>"
    for index, (x, y, mask) in enumerate(ragged):  # ends by itself
        assert x.shape == (5, 2)
        assert (
            x[: LENGTHS[index]].tolist()
            == ragged.x[index].tolist()
            == ragged.sequence(index).tolist()
        )
        assert not x[LENGTHS[index] :].any()
        assert mask.tolist() == [step < LENGTHS[index] for step in range(5)]
        assert (y, y.dtype) == (ragged.y[index], np.int32)
    assert index == 6
    assert ragged[-1].x.tolist() == ragged[6].x.tolist()
    with pytest.raises(IndexError):
        ragged[7]


def test_a_subset_fits_the_compiled_function_of_the_whole(ragged):
    part = ragged.subset([5, 1])
    assert part.y.tolist() == [2, 1]
    assert part[0].mask.tolist() == [True] * 5  # all are of full length, and still there are masks
    assert (part.classes, part.steps) == (3, 5)
    one = ragged.subset(ragged.lengths == 1)
    assert one[0].x.shape == (5, 2)
    assert ragged.subset([4, 2]).subset([1])[0].x.tolist() == ragged[2].x.tolist()


def test_a_batch_has_time_first(ragged):
    x, y, mask = collate([ragged[3], ragged[0]])
    assert (x.shape, y.tolist(), mask.shape) == ((5, 2, 2), [0, 0], (5, 2))
    assert x[:, 1].tolist() == ragged[0].x.tolist()
    assert mask[:, 1].tolist() == ragged[0].mask.tolist()
    whole = ragged.as_batch()
    assert (whole.x.shape, whole.mask.sum(0).tolist()) == ((5, 7, 2), LENGTHS)
    assert collate([Sequences("equal", np.zeros((2, 3, 1)), [0, 1])[0]]).mask is None


def test_batches_follow_seed_and_epoch():
    source = Sequences("numbers", np.arange(10).reshape(10, 1, 1), np.arange(10))
    batches = source.batches(3, seed=5)
    epochs = [[batch.y.tolist() for batch in batches] for _ in range(3)]
    for epoch in epochs:
        assert [len(y) for y in epoch] == [3] * len(batches) == [3] * 3
        assert len({label for y in epoch for label in y}) == 9
    assert len({str(epoch) for epoch in epochs}) == 3
    assert {label for epoch in epochs for y in epoch for label in y} == set(
        range(10)
    )  # none is always left out
    for batch in batches:
        assert batch.x.ravel().tolist() == batch.y.tolist()
    assert [batch.y.tolist() for batch in source.batches(3, seed=5)(2)] == epochs[
        2
    ]  # whatever was gone over before
    assert [batch.y.tolist() for batch in source.batches(3, seed=6)] != epochs[0]
    in_order = source.batches(4)
    for _ in range(2):
        assert [batch.y.tolist() for batch in in_order] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(in_order) == 3
    assert [len(list(source.batches(size))) for size in (1, 10)] == [10, 1]


def test_a_share_of_each_class_is_held_out():
    y = np.repeat([0, 1, 2], [10, 20, 5])
    source = Sequences("numbers", np.arange(35).reshape(35, 1, 1), y)
    rest, test = train_test_split(source, 0.2, seed=1)
    assert np.bincount(test.y).tolist() == [2, 4, 1]
    numbers = [int(part.sequence(i)[0, 0]) for part in (rest, test) for i in range(len(part))]
    assert sorted(numbers) == list(range(35))
    assert [y[number] for number in numbers] == [*rest.y, *test.y]
    other = train_test_split(source, 0.2, seed=2)[1]
    assert other.as_batch().x.tolist() != test.as_batch().x.tolist()


def test_channels_are_standardised_over_the_steps_that_there_are(ragged):
    shifted = ragged.map(lambda x: x * [2.0, 0.0] + [1e4, 3.0])
    train, test = standardize(shifted, ragged)
    steps = np.concatenate([train.sequence(i) for i in range(7)])
    assert steps.dtype == np.float32
    np.testing.assert_allclose(steps.mean(0), [0, 0], atol=1e-6)
    np.testing.assert_allclose(steps.std(0), [1, 0], atol=1e-6)  # a constant channel is not divided
    assert not train[2].x[1:].any()  # what is filled up stays 0
    raw = np.concatenate([ragged.sequence(i) for i in range(7)]).astype(np.float64)
    np.testing.assert_allclose(
        test.sequence(0)[:, 0],
        (ragged.sequence(0)[:, 0] - 1e4 - 2 * raw[:, 0].mean()) / (2 * raw[:, 0].std()),
        rtol=1e-6,
    )


def test_a_constant_channel_is_not_divided_by_the_rounding_of_its_mean():
    dead = Sequences("dead", np.full((10, 7, 1), 0.1), [0, 1] * 5)
    other = Sequences("other", np.full((1, 7, 1), 0.2), [0])
    train, test = standardize(dead, other)
    np.testing.assert_allclose(train[0].x, 0, atol=1e-15)
    np.testing.assert_allclose(test[0].x, 0.1, rtol=1e-6)


def test_grain_takes_a_source_as_it_is(ragged):
    grain = pytest.importorskip("grain", exc_type=ImportError)
    loader = (
        grain.MapDataset.source(ragged)
        .shuffle(seed=3)
        .batch(3, drop_remainder=True, batch_fn=collate)
    )
    seen = []
    for x, y, mask in loader.to_iter_dataset():
        assert (x.shape, mask.shape) == ((5, 3, 2), (5, 3))
        for i in range(3):
            index = next(j for j in range(7) if np.array_equal(ragged[j].x, x[:, i]))
            assert y[i] == ragged.y[index]
            assert mask[:, i].sum() == LENGTHS[index]
            seen.append(index)
    assert len(set(seen)) == 6
    x, *_ = grain.MapDataset.source(ragged).batch(3)[0]  # by default the batch comes first
    assert x.shape == (3, 5, 2)


def test_sources_travel_to_other_processes(ragged):
    copy = pickle.loads(pickle.dumps(standardize(ragged.subset([1, 2]))[0]))
    assert copy[0].x.shape == (5, 2)


def test_padded_sequences_are_one_array_with_zeros_beyond_each_length():
    x = np.arange(1.0, 25).reshape(3, 4, 2)  # nothing is 0, what is beyond the lengths neither
    source = Sequences("three", x, [0, 1, 0], lengths=[4, 1, 2])
    expected = np.where((np.arange(4) < source.lengths[:, None])[..., None], x, 0).astype(
        np.float32
    )
    read = source.map(lambda one: one)  # a sequence at a time
    for given in (source, read, source.in_memory(), read.in_memory()):
        assert given.padded().dtype == np.float32
        assert np.array_equal(given.padded(), expected)
    assert isinstance(read.in_memory().x, np.ndarray)
    assert read.in_memory().masked


@pytest.mark.parametrize(
    ("dtype", "padded"),
    [("bool", "bool"), ("uint16", "uint16"), ("int32", "float32"), ("float64", "float32")],
)
def test_small_integers_stay_what_they_are(dtype, padded):
    source = Sequences("four", np.ones((4, 3, 2), dtype), [0, 1, 0, 1])
    assert source.padded().dtype == source.in_memory().padded().dtype == padded


def test_sequences_that_would_fill_the_memory_are_read_one_by_one(monkeypatch):
    source = Sequences("four", np.ones((4, 3, 2), np.float32), [0, 1, 0, 1]).map(np.sqrt)
    monkeypatch.setattr("spikegrad.data._sequences.LARGEST", 4 * 3 * 2 * 4 - 1)
    assert source.in_memory() is source
    monkeypatch.setattr("spikegrad.data._sequences.LARGEST", 4 * 3 * 2 * 4)
    assert isinstance(source.in_memory().x, np.ndarray)
