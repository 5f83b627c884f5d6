import struct
import sys

import numpy as np
import pytest

from spimm.data import EventFileError, Recording, read_recording
from spimm.data.formats import READERS

from . import naive, writers
from .writers import FORMATS, random_events, rows


def written(folder, name: str, data: bytes):
    path = folder / f"file{FORMATS[name][0]}"
    path.write_bytes(data)
    return path


def sample(name: str, **settings) -> Recording:
    height, width = FORMATS[name][2]
    return random_events(height=height, width=width, **settings)


def test_every_reader_has_a_writer_here():
    assert FORMATS.keys() == READERS.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_events_come_back_as_written_and_the_format_is_found_by_content(tmp_path, name):
    events = sample(name)
    path = written(tmp_path, name, FORMATS[name][1](events))
    found = [read_recording(path)]
    if name != "atis":  # nothing in the file tells it
        found.append(read_recording(path.rename(tmp_path / "file")))
    found.append(read_recording(path if path.exists() else tmp_path / "file", format=name))
    for read in found:
        assert rows(read) == rows(events)
        assert (read.height, read.width) == FORMATS[name][2]
        assert [getattr(read, field).dtype for field in "xytp"] == [np.uint16, np.uint16, np.int64, np.uint8]


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_without_events_gives_an_empty_recording(tmp_path, name):
    read = read_recording(written(tmp_path, name, FORMATS[name][1](sample(name, count=0))))
    assert (len(read), read.duration, (read.height, read.width)) == (0, 0, FORMATS[name][2])


@pytest.mark.parametrize("name", ["atis", "aedat2", "aedat3", "aedat4", "dat", "evt2", "evt3", "es"])
def test_writers_and_the_reading_by_the_book_agree(name):
    events = sample(name)
    assert getattr(naive, name)(FORMATS[name][1](events)) == rows(events)


def test_n_caltech101_is_known_by_events_beyond_the_sensor_of_n_mnist(tmp_path):
    events = random_events(height=180, width=240)
    read = read_recording(written(tmp_path, "atis", writers.atis(events)))
    assert (rows(read), read.height, read.width) == (rows(events), 180, 240)


def test_aedat_2_of_a_davis_leaves_out_frames_and_external_events(tmp_path):
    events = random_events(height=180, width=240)
    data = writers.aedat2(events, chip="eu.seebetter.ini.chips.davis.DAVIS240C")
    data += struct.pack(">II", 1 << 31 | 5 << 12, 400_000) + struct.pack(">II", 1 << 10, 400_000)
    read = read_recording(written(tmp_path, "aedat2", data))
    assert (rows(read), read.height, read.width) == (rows(events), 180, 240)


def test_aedat_2_of_a_dvs128_mirrors_x_turns_y_round_and_leaves_out_external_events(tmp_path):
    head = b"#!AER-DAT2.0\r\n# AEChip: DVS128\r\n"
    data = head + struct.pack(">IIIIII", 2 << 8 | 5 << 1, 10, 0x8000, 11, 127 << 8 | 1, 12)
    assert rows(read_recording(written(tmp_path, "aedat2", data))) == [(122, 125, 10, 1), (127, 0, 12, 0)]


def test_aedat_2_without_a_camera_is_of_cifar10_dvs_or_of_a_davis_when_the_sensor_is_stated(tmp_path):
    events = random_events(height=128, width=128)
    path = written(tmp_path, "aedat2", writers.aedat2(events, chip=None))
    assert rows(read_recording(path)) == rows(events)
    events = random_events(height=260, width=346)
    davis = writers.aedat2(events, chip="Davis346red").replace(b"# AEChip: Davis346red\r\n", b"")
    path.write_bytes(davis)
    assert rows(read_recording(path, sensor=(260, 346))) == rows(events)
    with pytest.raises(EventFileError, match=r"a DVS128's address has 16 bits, got 0x.*sensor="):
        read_recording(path)


def test_aedat_2_data_that_begin_like_a_header_line_are_data(tmp_path):
    address = int.from_bytes(b"# !\0") & 0x7FFFF3FF
    data = writers.aedat2(random_events(0), chip="DAVIS640") + struct.pack(">II", address, 7)
    assert len(read_recording(written(tmp_path, "aedat2", data), sensor=(512, 1024))) == 1


def test_aedat_3_leaves_out_invalid_events_and_other_packets_and_adds_overflows_to_the_time(tmp_path):
    kept = struct.pack("<Ii", 3 << 17 | 4 << 2 | 3, 9)
    packets = [
        writers.aedat3_packet(0, [bytes(8)] * 3),
        writers.aedat3_packet(1, [kept, struct.pack("<Ii", 3 << 17, 9)]),
        writers.aedat3_packet(2, [bytes(50)], source=7),
        writers.aedat3_packet(1, [kept], overflow=2),
    ]
    data = writers.aedat3(random_events(0)) + b"".join(packets)
    read = read_recording(written(tmp_path, "aedat3", data))
    assert rows(read) == [(3, 4, 9, 1), (3, 4, 9 + 2**32, 1)] == naive.aedat3(data)


@pytest.mark.parametrize("method", range(5))
def test_aedat_4_is_read_in_every_compression(tmp_path, method):
    if method:
        pytest.importorskip("lz4.frame" if method < 3 else "zstandard")
    events = sample("aedat4")
    assert rows(read_recording(written(tmp_path, "aedat4", writers.aedat4(events, method)))) == rows(events)


@pytest.mark.parametrize(("method", "package"), [(1, "lz4"), (3, "zstandard")])
def test_a_missing_package_for_the_compression_is_named_with_its_extra(tmp_path, monkeypatch, method, package):
    data = writers.aedat4(sample("aedat4"))
    position = 18 + int.from_bytes(data[18:22], "little") + 4
    assert data[position] == 0
    path = written(tmp_path, "aedat4", data[:position] + bytes([method]) + data[position + 1 :])
    monkeypatch.setitem(sys.modules, "lz4.frame" if package == "lz4" else package, None)
    with pytest.raises(ImportError, match=rf"needs {package}.*pip install 'spimm\[events\]'"):
        read_recording(path)


@pytest.mark.parametrize("name", ["aedat2", "dat"])
def test_time_goes_on_when_a_counter_of_32_bits_starts_again(tmp_path, name):
    base = sample(name)
    events = Recording(base.x, base.y, base.t + 2**32 - 100_000, base.p, base.height, base.width)
    read = read_recording(written(tmp_path, name, FORMATS[name][1](events)))
    assert events.t[0] < 2**32 < events.t[-1]
    assert read.t.tolist() == events.t.tolist()


@pytest.mark.parametrize(("name", "bits"), [("evt2", 34), ("evt3", 24)])
def test_time_goes_on_when_the_counter_of_a_raw_file_starts_again(tmp_path, name, bits):
    base = sample(name)
    events = Recording(base.x, base.y, base.t + 2**bits - 100_000, base.p, base.height, base.width)
    read = read_recording(written(tmp_path, name, FORMATS[name][1](events)))
    assert read.t.tolist() == events.t.tolist()


def test_a_dat_file_without_a_size_is_of_the_first_sensor(tmp_path):
    data = b"% Data file\n% Version 2\n" + bytes([0, 8]) + struct.pack("<II", 7, 303 | 239 << 14 | 1 << 28)
    read = read_recording(written(tmp_path, "dat", data))
    assert (rows(read), read.height, read.width) == ([(303, 239, 7, 1)], 240, 304)


def test_evt_2_takes_the_geometry_line_and_leaves_out_triggers_and_events_before_the_first_time(tmp_path):
    words = [1 << 28 | 5 << 11 | 6, 8 << 28 | 3, 10 << 28 | 77, 0 << 28 | 4 << 22 | 7 << 11 | 8, 14 << 28]
    data = b"% evt 2.0\n% geometry 640x480\n" + struct.pack("<5I", *words)
    read = read_recording(written(tmp_path, "evt2", data))
    assert (rows(read), read.height, read.width) == ([(7, 8, 3 * 64 + 4, 0)], 480, 640)


@pytest.mark.parametrize("seed", range(6))
def test_evt_3_with_words_of_every_kind_in_any_order_is_read_by_the_book(tmp_path, seed):
    random = np.random.default_rng(seed)
    kinds = random.choice(
        [0, 2, 3, 4, 5, 6, 7, 8, 10, 14], 3000, p=[0.1, 0.2, 0.1, 0.2, 0.15, 0.1, 0.03, 0.08, 0.02, 0.02]
    )
    words = kinds << 12 | random.integers(0, 4096, 3000)
    times, low, high = (kinds == 6) | (kinds == 8), 0, 4000
    for index in np.flatnonzero(times):  # time must not fall: it grows within a high time, and from one to the next
        if kinds[index] == 8:
            grows = int(random.integers(0, 2))
            high, low = high + grows, 0 if grows else low
            words[index] = 8 << 12 | high % 4096
        else:
            low = min(low + int(random.integers(0, 500)), 4095)
            words[index] = 6 << 12 | low
    data = writers.raw("3", 2048, 2100, words.astype("<u2").tobytes())
    expected = naive.evt3(data)
    assert len(expected) > 5000
    sensor = (2048, max(x for x, *_ in expected) + 1)
    assert rows(read_recording(written(tmp_path, "evt3", data), sensor=sensor)) == expected


@pytest.mark.parametrize("length", [1, 2, 5, 6, 24, 25, 26, 1000, 9999])
def test_es_of_any_bytes_is_read_by_the_book(tmp_path, length):
    random = np.random.default_rng(length)
    body = random.choice([0, 1, 7, 253, 254, 255], length).astype(np.uint8).tobytes() + b"\xff" * 5
    data = b"Event Stream" + struct.pack("<BBBBHH", 2, 0, 0, 1, 65535, 65535) + body
    while True:  # the last event must be whole
        try:
            expected = naive.es(data)
            break
        except struct.error:
            data += b"\xff"
    assert rows(read_recording(written(tmp_path, "es", data), sensor=(65536, 65536))) == expected


def test_st_mnist_counts_taxels_down_the_columns_and_turns_seconds_into_microseconds(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    train = np.zeros((101, 4))
    train[[3, 95, 0], [0, 2, 3]] = [1, -1, 1]
    train[100] = [0.1, 0.2, 0.3000004, 0.4]
    savemat(tmp_path / "a.mat", {"spiketrain": train}, do_compression=True)
    read = read_recording(tmp_path / "a.mat")
    assert (rows(read), read.height, read.width) == (
        [(0, 3, 100_000, 1), (9, 5, 300_000, 0), (0, 0, 400_000, 1)],
        10,
        10,
    )


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["four", "six", "lists"])
def test_mat_files_that_scipy_writes_are_read(tmp_path, kind, compressed):
    savemat = pytest.importorskip("scipy.io").savemat
    events = random_events(height=128, width=128)
    x, y, t, p = (getattr(events, name).astype(np.int64) for name in "xytp")
    nothing = np.zeros_like(x)
    contents = {  # dat2mat's matrices are of a camera on its side
        "four": {"note": "text", "td": np.stack([t, y, 127 - x, p], 1).astype(np.float32)},
        "six": {"CIN": np.stack([t, nothing, nothing, y, 127 - x, 2 * p - 1], 1)},
        "lists": {"x": x, "y": y.astype(np.uint8), "ts": t.astype(float), "pol": p > 0, "s": {"a": 1}},
    }
    savemat(tmp_path / "a.mat", contents[kind], do_compression=compressed)
    assert rows(read_recording(tmp_path / "a.mat", sensor=(128, 128))) == rows(events)
