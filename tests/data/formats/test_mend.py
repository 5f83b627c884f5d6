"""Events that cannot be as they are: refused with the way out, sorted or left out, and counted."""

import logging
import struct

import numpy as np
import pytest

from spimm.data import EventFileError, load_data, read_packed, read_recording
from spimm.data.mend import Lists, Mending
from spimm.train import Recipe
from spimm.train.run import build_data

from . import writers
from .writers import FORMATS, random_events, rows

WORDS = [(5, 0), (9, 1), (7, 2), (9, 3), (5, 400), (11, 500)]
"""t and x: two events back in time, two outside a sensor of 240 x 304."""


def dat(path) -> None:
    data = writers.dat(random_events(0, 240, 304)) + b"".join(struct.pack("<II", t, x) for t, x in WORDS)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("settings", "x", "told"),
    [
        (
            {"out_of_order": "sort", "out_of_bounds": "drop"},
            [0, 2, 1, 3],
            "1 event back in time sorted by time, 2 eve",
        ),
        ({"out_of_order": "drop", "out_of_bounds": "drop"}, [0, 1, 3], "1 event back in time left out, 2 events outs"),
        ({"out_of_order": "drop", "sensor": (240, 600)}, [0, 1, 3, 500], "2 events back in time left out"),
        ({"out_of_order": "sort", "sensor": (240, 600)}, [0, 400, 2, 1, 3, 500], "2 events back in time sorted"),
    ],
)
def test_a_file_with_wrong_events_is_read_without_them_and_they_are_counted(tmp_path, caplog, settings, x, told):
    dat(tmp_path / "a.dat")
    with caplog.at_level(logging.WARNING, "spimm.data"):
        assert read_recording(tmp_path / "a.dat", **settings).x.tolist() == x
    assert told in caplog.text


def test_the_error_names_the_settings_that_read_the_file(tmp_path):
    dat(tmp_path / "a.dat")
    with pytest.raises(EventFileError, match=r"x must be in .*; out_of_bounds=drop leaves out such events"):
        read_recording(tmp_path / "a.dat")
    with pytest.raises(EventFileError, match="t must not fall, got 7 after 9 in event 2, 1 in all; out_of_order=sort"):
        read_recording(tmp_path / "a.dat", out_of_bounds="drop")


@pytest.mark.parametrize("name", FORMATS)
def test_whole_recordings_are_left_alone_and_nothing_is_said(tmp_path, caplog, name):
    ending, write, (height, width) = FORMATS[name]
    events = random_events(50, height, width)
    (tmp_path / f"a{ending}").write_bytes(write(events))
    settings = {"out_of_order": "drop", "out_of_bounds": "drop"}
    assert rows(read_recording(tmp_path / f"a{ending}", **settings)) == rows(events)
    assert not caplog.text


def test_recordings_one_after_another_are_mended_each_by_itself():
    random = np.random.default_rng(0)
    t, offsets = random.integers(0, 50, 90), np.array([0, 30, 31, 90])
    lists = Lists(np.arange(90), np.zeros(90, int), t, np.zeros(90, int), offsets)
    sort, _ = Mending("sort")(lists, 1, 90)
    drop, dropped = Mending("drop", "drop")(lists, 1, 80)
    for first, last in ((0, 30), (30, 31), (31, 90)):
        order = np.argsort(t[first:last], kind="stable")
        assert sort.x[first:last].tolist() == (first + order).tolist()
    kept = [
        k for first, last in ((0, 30), (30, 31), (31, 80)) for k in range(first, last) if t[k] >= max(t[first : k + 1])
    ]
    assert drop.x.tolist() == kept
    assert drop.offsets.tolist() == [0, sum(k < 30 for k in kept), sum(k < 31 for k in kept), len(kept)]
    assert dropped == (80 - len(kept), 10)


def own(root) -> None:
    for part in ("train", "val"):
        (root / part / "cat").mkdir(parents=True)
        (root / part / "cat" / "good.dat").write_bytes(writers.dat(random_events(60, 240, 304)))
        dat(root / part / "cat" / "bad.dat")


def test_a_data_set_counts_what_was_mended_once_from_the_files_and_from_the_cache(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SPIMM_CACHE", str(tmp_path / "cache"))
    own(tmp_path / "own")
    with pytest.raises(ValueError, match=r"bad\.dat: x must be in .*; out_of_bounds=drop leaves out such events"):
        load_data(f"recordings:{tmp_path / 'own'}", frames=1)
    recipe = Recipe(
        name="own",
        model="qkformer_3_64_digits",
        data=f"recordings:{tmp_path / 'own'}",
        frames=1,
        out_of_order="sort",
        out_of_bounds="drop",
    )
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "spimm.data"):
            data = build_data(Recipe.from_json(recipe.to_json()))
        told = "2 events back in time sorted by time, 4 events outside the sensor left out, in 2 files"
        assert data.note.endswith(told)
        assert [record.getMessage().endswith(told) for record in caplog.records] == [True]
        assert int(data.test[0][0].sum()) == 4
    dropped = load_data(f"recordings:{tmp_path / 'own'}", frames=1, out_of_order="drop", out_of_bounds="drop")
    assert int(dropped.test[0][0].sum()) == 3


def test_recordings_in_one_file_are_mended_too(tmp_path, caplog):
    one = {"x": [0, 9, 1, 1], "y": [0, 0, 1, 1], "t": [3, 4, 1, 5], "p": [1, 1, 0, 0], "offsets": [0, 4], "labels": [0]}
    arrays = {f"{part}_{key}": np.array(value) for part in ("train", "test") for key, value in one.items()}
    np.savez(tmp_path / "events.npz", **arrays, sensor_hw=np.array([4, 5]))
    spec = f"events:{tmp_path / 'events.npz'}"
    with pytest.raises(ValueError, match=r"t must be not less .*; out_of_order=sort sorts such events"):
        load_data(spec, frames=1)
    with pytest.raises(ValueError, match=r"x must be in \[0, 5\).*; out_of_bounds=drop leaves out such events"):
        load_data(spec, frames=1, out_of_order="drop")
    data = load_data(spec, frames=1, out_of_order="drop", out_of_bounds="drop")
    assert data.note.endswith("; 2 events back in time left out, 2 events outside the sensor left out")
    assert int(data.train[0][0].sum()) == 2
    (recording,), _ = read_packed(tmp_path / "events.npz", part="train", out_of_order="sort", out_of_bounds="drop")
    assert (recording.t.tolist(), "1 event back in time sorted" in caplog.text) == ([1, 3, 5], True)


@pytest.mark.parametrize("spec", ["digits", "digits-dvs"])
def test_sets_without_files_of_events_refuse_the_settings(spec):
    with pytest.raises(ValueError, match=f"out_of_order and out_of_bounds are for files of events.* for {spec}"):
        load_data(spec, out_of_order="sort", frames=None if spec == "digits" else 2)
    with pytest.raises(ValueError, match=f"stream is for recordings:PATH, got 1 for {spec}"):
        load_data(spec, stream=1, frames=None if spec == "digits" else 2)


def two_cameras(path) -> None:
    """Source 1 is a DVS128, source 2 a DAVIS346 with an event that a DVS128 cannot have."""
    data = writers.aedat3(random_events(5, 128, 128)).replace(
        b"#Source 1: DVS128\r\n", b"#Source 1: DVS128\r\n#Source 2: DAVIS346\r\n"
    )
    path.write_bytes(data + writers.aedat3_packet(1, [struct.pack("<Ii", 300 << 17 | 200 << 2 | 3, 9)], source=2))


def test_of_two_cameras_in_an_aedat_3_file_one_is_chosen_with_its_own_sensor(tmp_path):
    two_cameras(tmp_path / "a.aedat")
    with pytest.raises(EventFileError, match=r"holds events of the streams \[1, 2\], choose one: stream=1"):
        read_recording(tmp_path / "a.aedat")
    first, second = (read_recording(tmp_path / "a.aedat", stream=number) for number in (1, 2))
    assert (len(first), first.height, first.width) == (5, 128, 128)
    assert (rows(second), second.height, second.width) == ([(300, 200, 9, 1)], 260, 346)
    with pytest.raises(EventFileError, match=r"expected events of the stream 3, got those of \[1, 2\]"):
        read_recording(tmp_path / "a.aedat", stream=3)


def test_the_only_camera_of_an_aedat_3_file_has_the_sensor_of_its_own_line(tmp_path):
    two_cameras(tmp_path / "a.aedat")
    data = (tmp_path / "a.aedat").read_bytes()
    start = data.index(b"#!END-HEADER\r\n") + len(b"#!END-HEADER\r\n")
    (tmp_path / "a.aedat").write_bytes(data[:start] + data[-36:])
    assert read_recording(tmp_path / "a.aedat").width == 346


def test_of_two_streams_in_an_aedat_4_file_one_is_chosen(tmp_path):
    events = random_events(70, 260, 346)
    data = writers.aedat4(events, streams=("EVTS", "EVTS")).replace(b"IMUS", b"EVTS")
    (tmp_path / "a.aedat4").write_bytes(data)
    with pytest.raises(EventFileError, match=r"holds events of the streams \[0, 1\], choose one: stream=0"):
        read_recording(tmp_path / "a.aedat4")
    assert rows(read_recording(tmp_path / "a.aedat4", stream=1)) == rows(events)
    with pytest.raises(EventFileError, match="is of the format es, which has no streams; got stream=1"):
        (tmp_path / "a.es").write_bytes(writers.es(random_events(5, 100, 300)))
        read_recording(tmp_path / "a.es", stream=1)


def test_the_stream_reaches_a_data_set_of_own_recordings(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIMM_CACHE", str(tmp_path / "cache"))
    for part in ("train", "val"):
        (tmp_path / "own" / part / "cat").mkdir(parents=True)
        two_cameras(tmp_path / "own" / part / "cat" / "a.aedat")
    spec = f"recordings:{tmp_path / 'own'}"
    sizes = [load_data(spec, frames=1, stream=stream).image_size for stream in (1, 2)]
    assert sizes == [(128, 128), (260, 346)]
