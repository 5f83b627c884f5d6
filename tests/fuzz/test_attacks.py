"""Small files that are made to take a machine's memory, time or attention: each is refused with the documented error.

What would take minutes or gigabytes without a bound has no clock here: it would stop the whole run.
"""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from spimm.data import EventFileError, load_data, read_gesture_labels, read_packed, read_recording
from spimm.data.event_sets import dvs_gesture
from spimm.data.har_dvs import load_har_dvs
from spimm.models.torch_files import read_torch_file

from ..data.formats import writers
from ..data.formats.writers import FORMATS, random_events
from .damage import PEAK


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < PEAK


def npy(kind: str, shape: str, content: bytes = b"") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def special(folder: Path) -> list[Path]:
    os.mkfifo(folder / "pipe.npz")
    (folder / "folder.npz").mkdir()
    return [folder / "pipe.npz", folder / "folder.npz", Path("/dev/zero")]


@pytest.mark.parametrize("index", range(3))
def test_only_regular_files_are_read(tmp_path, index):
    path = special(tmp_path)[index]
    kind = ("a pipe", "a folder", "a device")[index]
    for read in (read_recording, read_packed, read_gesture_labels):
        with pytest.raises(EventFileError, match=f"expected a regular file, got {kind}"):
            read(path)
    for read in (lambda: load_data(f"npz:{path}"), lambda: load_data(f"events:{path}", frames=1)):
        with pytest.raises(ValueError, match=f"expected a regular file, got {kind}"):
            read()
    with pytest.raises(ValueError, match=f"expected a regular file, got {kind}"):
        read_torch_file(path)


def test_a_file_that_states_terabytes_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "a.bin").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(EventFileError, match="expected a file of at most 2147483648 bytes, got 4398046511104"):
        read_recording(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("ending", "beginning"),
    [
        (".raw", b"% evt 3.0\n% format EVT3;"),
        (".raw", b"% geometry "),
        (".dat", b"% Version 2\n% Height "),
        (".aedat", b"#!AER-DAT2.0\r\n# AEChip: "),
        (".aedat", b"#!AER-DAT3.1\r\n#Source "),
    ],
)
@pytest.mark.parametrize("letter", [b"a", b"1", b" ", b";", b"="])
def test_a_header_of_one_letter_takes_no_longer_than_its_length(tmp_path, ending, beginning, letter):
    path = tmp_path / f"a{ending}"
    path.write_bytes(beginning + letter * 500_000 + b"\n" + b"% end\n#!END-HEADER\r\n")
    try:
        read_recording(path, sensor=(10, 10))
    except EventFileError as error:
        assert len(str(error)) < 1000


def test_a_header_without_end_is_refused(tmp_path):
    (tmp_path / "a.dat").write_bytes((b"% " + b"a" * 2000 + b"\n") * 1000)
    with pytest.raises(EventFileError, match="expected a header of at most 1048576 bytes"):
        read_recording(tmp_path / "a.dat")


def mat(element: bytes) -> bytes:
    packed = zlib.compress(element)
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    return head + struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize(
    "element",
    [
        struct.pack("<II", 14, 2**24) + bytes(2**24),  # millions of empty elements
        writers.mat_element(  # millions of sides
            14, writers.mat_element(6, struct.pack("<II", 6, 0)) + writers.mat_element(5, b"\x02\0\0\0" * 2**22)
        ),
        struct.pack("<II", 14, 2**31 - 8),
    ],
)
def test_a_small_mat_file_stays_small(tmp_path, element):
    (tmp_path / "a.mat").write_bytes(mat(element))
    assert (tmp_path / "a.mat").stat().st_size < 2**16
    with pytest.raises(EventFileError, match="expected"):
        read_recording(tmp_path / "a.mat")


def test_compressed_parts_of_a_mat_file_share_one_bound(tmp_path, monkeypatch):
    one = mat(struct.pack("<II", 1, 2**20) + bytes(2**20))
    data = one + one[128:] * 40
    monkeypatch.setattr("spimm.data.formats.source.largest", lambda size: 2 * (2**20 + 8))
    (tmp_path / "a.mat").write_bytes(data)
    with pytest.raises(EventFileError, match="decompresses to more than"):
        read_recording(tmp_path / "a.mat")


def test_arrays_of_an_npz_file_grow_no_further_than_the_file_may(tmp_path):
    zeros, one = npy("|u1", f"{2**26},", bytes(2**26)), npy("|u1", "1,", b"\0")
    path = npz(tmp_path / "a.npz", x=zeros, y=one, t=one, p=one)
    assert path.stat().st_size < 2**17
    for read in (read_recording, read_packed):
        with pytest.raises(EventFileError, match="more than it can hold"):
            read(path)
    for spec, settings in ((f"npz:{path}", {}), (f"events:{path}", {"frames": 1})):
        with pytest.raises(ValueError, match="more than it can hold"):
            load_data(spec, **settings)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("|u1", f"{10**15},"),
        ("<U0", f"{10**15},"),
        ("<b8", "3,"),
        ("<u1", "-1,"),
        ("<u8", "9" * 400 + ","),
        ("O", "1,"),
        ("[('a', '<i4')]", "1,"),
        ("<i8", ", ".join(["1"] * 60)),
    ],
)
def test_what_the_head_of_an_array_may_not_state_is_refused(tmp_path, kind, shape):
    path = npz(tmp_path / "a.npz", **dict.fromkeys("xytp", npy(kind, shape, bytes(24))))
    with pytest.raises(EventFileError, match=r"expected a readable \.npz of plain arrays"):
        read_recording(path)
    with pytest.raises(ValueError, match=r"is not a readable \.npz"):
        load_data(f"npz:{path}")


def test_millions_of_empty_recordings_are_refused(tmp_path):
    one, offsets = npy("|u1", "1,", b"\0"), npy("|u1", f"{2**24},", bytes(2**24))
    path = npz(tmp_path / "a.npz", x=one, y=one, t=one, p=one, offsets=offsets)
    with pytest.raises(EventFileError, match="expected offsets of 1 to "):
        read_packed(path)


def test_a_truth_value_that_is_no_bit_is_no_polarity(tmp_path):
    zero = npy("|u1", "1,", b"\0")
    path = npz(tmp_path / "a.npz", x=zero, y=zero, t=zero, p=npy("|b1", "1,", b"\xff"))
    with pytest.raises(EventFileError, match="p must be 0 or 1, got 255 in event 0"):
        read_recording(path, sensor=(2, 2))


def test_frames_of_a_sensor_that_a_small_file_states_are_bounded(tmp_path):
    events = {name: np.zeros(1, int) for name in "xytp"} | {"offsets": np.array([0, 1]), "labels": np.array([0])}
    arrays = {f"{part}_{key}": values for part in ("train", "test") for key, values in events.items()}
    for size in ([65536, 65536], [2**40, 2]):
        np.savez(tmp_path / "a.npz", **arrays, sensor_hw=np.array(size))
        with pytest.raises(ValueError, match=r"frames must take at most|of 1 to 65536 pixels"):
            load_data(f"events:{tmp_path / 'a.npz'}", frames=4)
    for part in ("train", "val"):
        (tmp_path / "own" / part / "a").mkdir(parents=True)
        head = b"Event Stream" + struct.pack("<BBBBHH", 2, 0, 0, 1, 65535, 65535)
        (tmp_path / "own" / part / "a" / "a.es").write_bytes(head + struct.pack("<BHH", 2, 1, 1))
    with pytest.raises(ValueError, match="frames must take at most 1073741824 bytes"):
        load_data(f"recordings:{tmp_path / 'own'}", frames=4, cache_dir=tmp_path / "cache")
    data = load_data(f"recordings:{tmp_path / 'own'}", frames=4, sensor_size=8, cache_dir=tmp_path / "cache")
    assert data.image_size == (8, 8)


def test_a_data_set_of_images_that_are_nearly_all_corrupt_is_refused_soon(tmp_path, monkeypatch):
    monkeypatch.setattr("spimm.data.packed._FEW", 20)
    stream, offsets = npy("|u1", f"{2**22},", bytes(2**22)), np.arange(2**20, dtype=np.uint32)
    members = {"jpeg": stream, "offsets": npy("<u4", f"{2**20},", offsets.tobytes()), "labels": npy("|u1", "1,", b"\0")}
    path = npz(
        tmp_path / "a.npz", **{f"{part}_{key}": value for part in ("train", "test") for key, value in members.items()}
    )
    with pytest.raises(ValueError, match="image 20 is not a readable JPEG"):
        load_data(f"npz:{path}", corrupt="skip")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a\0b"])
def test_lists_of_files_lead_nowhere_else(tmp_path, name):
    for part in ("train", "test"):
        (tmp_path / f"trials_to_{part}.txt").write_text(f"{name}\n")
        (tmp_path / f"{part}_label.txt").write_text(f"{name} 1 1\n")
    for read in (lambda: dvs_gesture(tmp_path), lambda: load_har_dvs(tmp_path, name="har-dvs", frames=1)):
        with pytest.raises(ValueError, match="expected names of files below it in its lists"):
            read()


def test_a_list_that_is_no_text_is_named(tmp_path):
    (tmp_path / "trials_to_train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"trials_to_train\.txt: expected ascii text"):
        dvs_gesture(tmp_path)


def test_a_cell_of_labels_beyond_the_limit_of_csv_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("class,startTime_usec,endTime_usec\n" + "1" * 200_000 + ",2,3\n")
    with pytest.raises(EventFileError, match="expected comma-separated numbers"):
        read_gesture_labels(tmp_path / "a.csv")


@pytest.mark.parametrize("name", FORMATS)
def test_times_beyond_all_clocks_are_refused(tmp_path, name):
    """Those of 64 bits could overflow where frames are made."""
    if name in ("aedat4", "npz"):
        ending, write, (height, width) = FORMATS[name]
        events = random_events(3, height, width)
        object.__setattr__(events, "t", np.array([-(2**62), 0, 2**62]))
        (tmp_path / f"a{ending}").write_bytes(write(events))
        with pytest.raises(EventFileError, match=r"t must be within 2\^53 of 0, got -4611686018427387904 in event 0"):
            read_recording(tmp_path / f"a{ending}")


def torch_file(path: Path, pickled: bytes, storage: bytes = b"", method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (("data.pkl", pickled), ("version", b"3\n"), ("data/0", storage)):
            archive.writestr(f"a/{name}", content)
    return path


def test_a_tensor_that_states_more_numbers_than_its_file_holds_is_not_read_beyond_it(tmp_path):
    file = io.BytesIO()
    torch.save({"weight": torch.arange(4.0)}, file)
    with zipfile.ZipFile(file) as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))
    sizes = pickled.replace(b"K\x04", b"\x8a\x05\0\0\0\0\x40")  # 4 -> 2^38, of the storage and of the shape
    assert sizes != pickled
    path = torch_file(tmp_path / "a.pth", sizes, bytes(16))
    with pytest.raises(ValueError, match=r"a\.pth is no whole checkpoint"):
        read_torch_file(path)


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02\x8d" + struct.pack("<Q", 2**40) + b".",  # a text of a terabyte
        b"\x80\x02X" + struct.pack("<I", 2**31 - 1) + b".",
        b"\x80\x02\x95" + struct.pack("<Q", 2**62) + b"}.",
        b"\x80\x02" + b"(" * 2**23 + b".",
        b"\x80\x02.",
        b"\x80\x02h\x07.",
        b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.",
        pickle.dumps({1: "no text"}, 2),
        pickle.dumps([1, 2], 2),
    ],
    ids=["text8", "text4", "frame", "marks", "empty", "memo", "code", "key", "list"],
)
def test_a_pickle_that_is_no_dict_of_tensors_is_refused(tmp_path, pickled):
    with pytest.raises(ValueError, match=r"a\.pth"):
        read_torch_file(torch_file(tmp_path / "a.pth", pickled))


def test_a_compressed_torch_file_is_refused_and_so_is_one_of_old_times(tmp_path):
    pickled = pickle.dumps({"a": 1}, 2)
    assert read_torch_file(torch_file(tmp_path / "a.pth", pickled)) == {"a": 1}
    with pytest.raises(ValueError, match="it is compressed, as torch writes none"):
        read_torch_file(torch_file(tmp_path / "a.pth", pickled, bytes(2**20), zipfile.ZIP_DEFLATED))
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"expected torch's zip format.*save it again"):
        read_torch_file(tmp_path / "old.pth")


def test_a_torch_file_that_is_one_of_several_disks_is_refused(tmp_path):
    path = torch_file(tmp_path / "a.pth", pickle.dumps({"a": 1}, 2))
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 1, 0, 2)
    path.write_bytes(path.read_bytes()[:-22] + locator + path.read_bytes()[-22:])
    with pytest.raises(ValueError, match=r"a\.pth is no whole checkpoint"):
        read_torch_file(path)


def test_tensors_that_repeat_one_number_are_not_taken_for_all_of_them(tmp_path):
    torch.save({"model": {"a": torch.zeros(1).expand(2**40)}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="'a' is not a plain tensor with all of its 1099511627776 numbers"):
        read_torch_file(tmp_path / "a.pth")
