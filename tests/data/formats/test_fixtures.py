"""Files of real cameras, in the folder event_fixtures of SPIMM_DATA, against a reading by the book."""

import os
from pathlib import Path

import numpy as np
import pytest

from spimm.data import read_packed, read_recording

from . import naive
from .writers import rows

DATA = Path(os.environ.get("SPIMM_DATA", "/nowhere"))
FOLDER = DATA / "event_fixtures"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="SPIMM_DATA names no folder with event_fixtures")

# Events, sensor (H, W), microseconds from the first to the last event.
FILES = {
    "aermanager_data_sample.aedat4": (naive.aedat4, 323963, (240, 320), 1459962),
    "aermanager_test.aedat4": (naive.aedat4, 111954, (240, 320), 589917),
    "hummus_00002.es": (naive.es, 5028, (34, 34), 304404),
    "tonic_sample_aedat_header.aedat": (naive.aedat2, 0, (260, 346), 0),
    "tonic_sample_ncars.dat": (naive.dat, 2009, (240, 304), 99952),
    "tonic_sample_nmnist.bin": (naive.atis, 4325, (34, 34), 310521),
}


def test_every_fixture_is_tested():
    assert {path.name for path in FOLDER.iterdir()} == {*FILES, "tonic_sample_stmnist.mat"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_camera_is_read_by_the_book(name):
    by_the_book, events, sensor, duration = FILES[name]
    if name.endswith("4"):
        pytest.importorskip("lz4.frame")
    recording = read_recording(FOLDER / name)
    assert (len(recording), (recording.height, recording.width), recording.duration) == (events, sensor, duration)
    assert rows(recording) == by_the_book((FOLDER / name).read_bytes())


def test_the_recording_of_a_tactile_skin_is_read_as_scipy_reads_it():
    loadmat = pytest.importorskip("scipy.io").loadmat
    train = loadmat(FOLDER / "tonic_sample_stmnist.mat")["spiketrain"]
    recording = read_recording(FOLDER / "tonic_sample_stmnist.mat")
    assert (len(recording), recording.height, recording.width, recording.duration) == (2346, 10, 10, 699119)
    expected = []
    for event in range(train.shape[1]):
        (taxel,) = np.flatnonzero(train[:-1, event])
        expected.append((taxel // 10, taxel % 10, round(train[-1, event] * 1e6), int(train[taxel, event] > 0)))
    assert rows(recording) == expected


def test_packed_recordings_of_a_camera_are_read():
    recordings, labels = read_packed(DATA / "dvsgesture10.npz")
    assert labels is not None and len(recordings) == len(labels) == 10
    assert sum(map(len, recordings)) == 1206710
    assert {(recording.height, recording.width) for recording in recordings} == {(128, 128)}
    assert all(1_000_000 < recording.duration < 2_000_000 for recording in recordings)
