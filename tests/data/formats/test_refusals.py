import pickle
import struct

import numpy as np
import pytest

from spimm.data import EventFileError, read_packed, read_recording
from spimm.data.formats.source import Source

from . import writers
from .writers import FORMATS, random_events, rows

CUT = ["atis", "aedat2", "aedat3", "aedat4", "dat", "es"]


def small(name: str) -> bytes:
    _, write, (height, width) = FORMATS[name]
    return write(random_events(100, height, width, span=5000))


def read(folder, name: str, data: bytes, **settings):
    path = folder / f"file{FORMATS[name][0]}"
    path.write_bytes(data)
    return read_recording(path, **settings)


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_ends_within_an_event_is_refused_with_the_whole_events_or_read_up_to_them(tmp_path, name):
    data = small(name)
    if name == "aedat4":
        data = data[: -len(b"the table of packets") - 700]  # within the last packet of events, of 64 and 36
    data = data[:-2]
    whole = 64 if name == "aedat4" else 99
    with pytest.raises(EventFileError, match=rf"file\.\w+, byte \d+: .*cut after {whole} whole records") as caught:
        read(tmp_path, name, data)
    assert 0 < caught.value.offset < len(data)
    kept = read(tmp_path, name, data, truncated="keep")
    full = read(tmp_path, name, small(name))
    assert rows(kept) == rows(full)[:whole]


@pytest.mark.parametrize("name", ["evt2", "evt3"])
def test_a_raw_file_that_ends_within_a_word_is_refused_or_read_up_to_it(tmp_path, name):
    data = small(name)[:-1]
    with pytest.raises(EventFileError, match=r"expected \d bytes for a record, got [13]: cut"):
        read(tmp_path, name, data)
    assert len(read(tmp_path, name, data, truncated="keep")) == 99


@pytest.mark.parametrize("name", ["mat", "npz"])
def test_a_cut_archive_is_refused_however_cut_files_are_to_be_read(tmp_path, name):
    with pytest.raises(EventFileError, match=r"expected a (whole MATLAB file|readable \.npz)"):
        read(tmp_path, name, small(name)[:-40], truncated="keep")


def test_times_that_fall_are_refused_or_sorted_with_the_order_of_equal_times_kept(tmp_path):
    words = [(5, 0), (9, 1), (7, 2), (9, 3), (5, 4)]
    data = small("dat")[: -8 * 100] + b"".join(struct.pack("<II", t, x) for t, x in words)
    with pytest.raises(EventFileError, match=r"t must not fall, got 7 after 9 in event 2, 2 in all.*out_of_order=sort"):
        read(tmp_path, "dat", data)
    assert read(tmp_path, "dat", data, out_of_order="sort").x.tolist() == [0, 4, 2, 1, 3]


def test_events_outside_the_sensor_are_refused_by_number(tmp_path):
    data = small("es")[:20] + struct.pack("<BHHBHH", 2, 1, 1, 2, 300, 1)
    with pytest.raises(EventFileError, match=r"file\.es: x must be in \[0, 300\) .* got 300 in event 1"):
        read(tmp_path, "es", data)
    assert read(tmp_path, "es", data, sensor=(100, 301)).width == 301


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("aedat2", b"retina.DVS128", b"retina.Tmpdiff", "AEChip must be one of dvs128, .* got '.*Tmpdiff'"),
        ("aedat3", b"DAT3.1", b"DAT3.0", "expected AEDAT 3.1, got #!AER-DAT3.0"),
        ("aedat3", b"#!END-HEADER\r\n", b"", "expected the header's last line #!END-HEADER"),
        ("aedat3", b"Format: RAW", b"Format: PNG", "expected packets in the format RAW, got PNG"),
        (
            "aedat3",
            b"Source 1: DVS128",
            b"Source 1: eDVS",
            r"does not state its sensor, expected sensor=\(height, width\)",
        ),
        ("aedat3", struct.pack("<HHI", 1, 1, 8), struct.pack("<HHI", 1, 1, 9), "polarity events of 8 bytes, got 9"),
        ("aedat4", b"</dv>", b"</dw>", "expected a header with the streams in XML"),
        ("aedat4", b"<dv v", b"<!--v", "XML with declarations"),
        ("aedat4", b">IMUS<", b">EVTS<", r"holds events of the streams \[0, 1\], choose one: stream=0"),
        ("aedat4", b"EVTS\x06", b"EVTX\x06", "expected a flat buffer EVTS, got b'EVTX'"),
        ("aedat4", b"IOHE", b"IOHF", "expected a flat buffer IOHE"),
        ("dat", b"Version 2", b"Version 1", "expected a .dat file of Version 2, got 1"),
        ("dat", b"\n\x0c\x08", b"\n\x0e\x08", r"expected events of type 0 or 12 and 8 bytes, got .* \(14, 8\)"),
        ("dat", b"Height 240", b"Height 2x0", "expected a sensor's size in pixels, got height '2x0' and width '304'"),
        ("dat", b"Height 240", b"Height 000", r"height must lie in \[1, 65536\] pixels, got 0"),
        ("evt2", b"EVT2", b"EVT9", "expected EVT 2.0 or 3.0, got EVT 9.0"),
        ("evt3", b"EVT3", b"EVT21", "expected EVT 2.0 or 3.0, got EVT 2.1"),
        ("es", b"Stream\x02", b"Stream\x03", r"expected version 2 and DVS events \(1\), got .* \(3, 0, 0, 1\)"),
        (
            "mat",
            struct.pack("<II", 100, 4),
            struct.pack("<II", 100, 3),
            r"an array \[100, 3\] of 8-byte numbers in 3200 bytes",
        ),
        ("mat", b"IM", b"XY", "expected IM or MI, the order of bytes, got b'XY'"),
    ],
)
def test_what_a_format_does_not_allow_is_named(tmp_path, name, old, new, message):
    data = small(name)
    if name == "mat":
        data = writers.mat(random_events(100, 128, 128), compressed=False)
    assert old in data
    data = data.replace(old, new, 1)
    with pytest.raises(EventFileError, match=message):
        read(tmp_path, name, data)


def test_a_file_that_no_reader_knows_is_refused(tmp_path):
    path = tmp_path / "events.xyz"
    path.write_bytes(b"something else")
    with pytest.raises(EventFileError, match=r"expected the content of atis, aedat2, .*\.bin"):
        read_recording(path)
    with pytest.raises(FileNotFoundError):
        read_recording(tmp_path / "absent.bin")


@pytest.mark.parametrize(
    "setting", [{"format": "png"}, {"truncated": "yes"}, {"out_of_order": "keep"}, {"out_of_bounds": "sort"}]
)
def test_options_that_do_not_exist_are_refused(tmp_path, setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"{name} must be one of"):
        read(tmp_path, "atis", small("atis"), **setting)


def test_events_of_two_cameras_in_one_file_are_refused(tmp_path):
    data = small("aedat3") + writers.aedat3_packet(1, [struct.pack("<II", 1, 400_000)], source=2)
    with pytest.raises(EventFileError, match=r"holds events of the streams \[1, 2\], choose one: stream=1"):
        read(tmp_path, "aedat3", data)


@pytest.mark.parametrize("method", [1, 3])
def test_a_packet_that_grows_beyond_all_measure_is_refused_without_being_made(tmp_path, method):
    pytest.importorskip("lz4.frame" if method == 1 else "zstandard")
    data = writers.aedat4(random_events(0), method)
    bomb = writers.compress(bytes(2**27), method)
    end = data.index(b"the table of packets")
    position = 18 + int.from_bytes(data[18:22], "little") + 12
    table = struct.pack("<q", end + 8 + len(bomb))
    data = data[:position] + table + data[position + 8 : end] + struct.pack("<ii", 0, len(bomb)) + bomb
    limit = 2**25 + 64 * len(data)
    if limit < 2**27:
        with pytest.raises(EventFileError, match=rf"decompresses to more than the {limit} bytes"):
            read(tmp_path, "aedat4", data)
    else:  # LZ4 shrinks zeros by 255 at most
        with pytest.raises(EventFileError, match="expected a flat buffer"):
            read(tmp_path, "aedat4", data)


def test_mat_and_npz_files_that_grow_beyond_their_measure_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Source, "largest", 2**12)
    data = writers.mat(random_events(200))
    with pytest.raises(EventFileError, match="decompresses to more than 4096 bytes"):
        read(tmp_path, "mat", data)
    with pytest.raises(EventFileError, match=r"t\.npy states 8000 bytes, more than it can hold"):
        read(tmp_path, "npz", writers.npz(random_events(1000)))


def test_packed_recordings_are_read_by_part_and_one_alone_is_not_taken_for_all(tmp_path):
    first, second = random_events(40, seed=1), random_events(60, seed=2)
    arrays = {f"train_{name}": np.concatenate([getattr(first, name), getattr(second, name)]) for name in "xytp"} | {
        "train_offsets": np.array([0, 40, 100]),
        "train_labels": np.array([7, 3]),
        "sensor_hw": np.array([34, 34]),
    }
    path = tmp_path / "events.npz"
    np.savez(path, **arrays)
    recordings, labels = read_packed(path, part="train")
    assert [rows(recording) for recording in recordings] == [rows(first), rows(second)]
    assert labels is not None and labels.tolist() == [7, 3]
    with pytest.raises(EventFileError, match=r"expected the arrays test_x, .* got .*'train_x'"):
        read_packed(path, part="test")
    np.savez(path, **{name.removeprefix("train_"): values for name, values in arrays.items()})
    assert len(read_packed(path)[0]) == 2
    with pytest.raises(EventFileError, match="expected one recording, got 2, which read_packed reads"):
        read_recording(path)
    np.savez(path, **arrays | {"train_offsets": np.array([0, 101, 100])})
    with pytest.raises(EventFileError, match="expected offsets that rise from 0"):
        read_packed(path, part="train")


def test_the_error_reaches_another_process_whole(tmp_path):
    error = EventFileError(tmp_path, 7, "expected more")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.offset) == (f"{tmp_path}, byte 7: expected more", 7)
