"""Files that SpikingJelly's loaders read, by which published accuracies were made, give the same events here."""

import struct
from pathlib import Path

import numpy as np
import pytest

from spimm.data import Recording, load_data, read_recording

from . import writers
from .writers import random_events

pytestmark = pytest.mark.peers


def addresses(count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """u32 addresses of a DVS128 and times."""
    random = np.random.default_rng(seed)
    return random.integers(0, 2**15, count), np.sort(random.integers(0, 10**6, count))


def aedat2(path: Path, header: bytes = b"# a comment\r\n") -> Path:
    words = np.stack(addresses(), axis=1).astype(">u4").tobytes()
    path.write_bytes(b"#!AER-DAT2.0\r\n" + header + words)
    return path


def equal(ours: Recording, theirs: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(getattr(ours, name), np.asarray(theirs[name]).astype(np.int64)) for name in "xytp")


def test_cifar10_dvs_has_the_columns_and_rows_of_spikingjelly(tmp_path):
    peer = pytest.importorskip("spikingjelly.datasets.cifar10_dvs")
    path = aedat2(tmp_path / "a.aedat")
    assert equal(read_recording(path), peer._load_origin_data(path))


def test_cifar10_dvs_is_upright_whatever_camera_the_header_names(tmp_path):
    peer = pytest.importorskip("spikingjelly.datasets.cifar10_dvs")
    path = aedat2(tmp_path / "a.aedat", b"# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n")
    theirs = peer._load_origin_data(path)
    assert equal(read_recording(path, format="cifar10-dvs"), theirs)
    assert not equal(read_recording(path), theirs)  # a DVS128 that nobody laid on its side


def test_cifar10_dvs_by_dat2mat_is_as_its_aedat_files(tmp_path):
    peer = pytest.importorskip("spikingjelly.datasets.cifar10_dvs")
    savemat = pytest.importorskip("scipy.io").savemat
    theirs = peer._load_origin_data(aedat2(tmp_path / "a.aedat"))
    address, t = addresses()
    x, y, p = 127 - (address >> 1 & 127), address >> 8 & 127, 1 - (address & 1)  # SpikingJelly's note on dat2mat
    nothing = np.zeros_like(x)
    for columns in ([t, x, y, p], [t, nothing, nothing - 1, x, y, 2 * p - 1]):
        savemat(tmp_path / "a.mat", {"out1": np.stack(columns, axis=1).astype(float)})
        assert equal(read_recording(tmp_path / "a.mat"), theirs)


def test_the_data_set_cifar10_dvs_frames_what_spikingjelly_reads_in_each_of_its_formats(tmp_path, monkeypatch):
    peer = pytest.importorskip("spikingjelly.datasets.cifar10_dvs")
    monkeypatch.setenv("SPIMM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cifar10-dvs" / "cat"
    folder.mkdir(parents=True)
    chip = aedat2(folder / "0.aedat", b"# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n")
    theirs = peer._load_origin_data(aedat2(folder / "1.aedat"))
    peer._read_aedat_save_to_np(chip, folder / "2.npz")
    expected = Recording(*(np.asarray(theirs[name]).astype(np.int64) for name in "xytp"), height=128, width=128)
    (folder / "3.mat").write_bytes(writers.mat(expected))
    data = load_data("cifar10-dvs", data_dir=tmp_path, frames=1, train_fraction=0.7)
    counts = np.zeros((1, 2, 128, 128), np.uint8)
    np.add.at(counts, (0, expected.p, expected.y, expected.x), 1)
    assert (len(data.train), len(data.test)) == (3, 1)
    for frames in (*(data.train[index][0] for index in range(3)), data.test[0][0]):
        assert np.array_equal(frames.numpy(), counts)


def test_n_mnist_and_n_caltech101_are_as_spikingjelly_reads_them(tmp_path):
    utils = pytest.importorskip("spikingjelly.datasets.utils")
    for height, width in ((34, 34), (180, 240)):
        (tmp_path / "a.bin").write_bytes(writers.atis(random_events(300, height, width, span=8000)))
        assert equal(read_recording(tmp_path / "a.bin"), utils.load_ATIS_bin(tmp_path / "a.bin"))


def test_dvs128_gesture_is_as_spikingjelly_reads_it(tmp_path):
    utils = pytest.importorskip("spikingjelly.datasets.utils")
    events = [struct.pack("<Ii", 3 << 17 | 4 << 2 | 3, 9)]
    data = writers.aedat3(random_events(300, 128, 128)) + writers.aedat3_packet(1, events, overflow=1)
    (tmp_path / "a.aedat").write_bytes(data)
    assert equal(read_recording(tmp_path / "a.aedat"), utils.load_aedat_v3(tmp_path / "a.aedat"))
