"""The cases of event data: recordings that split without a rest, files that go, and sides that must agree."""

import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest

from spimm.bench import Mismatch, Options, events, find_case, run_case
from spimm.bench.event_streams import WRITERS, like_recording
from spimm.bench.peers import NumpyEvents
from spimm.data import read_recording

ALONE = Options(peers=False, quick=True)


@pytest.mark.parametrize("kind", events.KINDS.values(), ids=events.KINDS)
def test_recordings_split_into_frames_of_equal_time_and_count_without_a_rest(kind: events._Kind) -> None:
    one = like_recording(kind.events, kind.duration, kind.side, 0)
    assert (len(one), one.duration, int(one.t[0])) == (kind.events, kind.duration, 0)
    assert kind.events % events.FRAMES == kind.duration % events.FRAMES == events.QUICK_EVENTS % events.FRAMES == 0
    for short in (one, like_recording(events.QUICK_EVENTS, kind.duration, kind.side, 1)):
        assert np.histogram(short.t, events.FRAMES)[0].min() > 0


@pytest.mark.parametrize("form", WRITERS)
def test_written_events_are_read_by_us_and_by_plain_numpy(form: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.bin" if form == "atis" else "a.aedat")
    one = like_recording(5000, 300_000, 34 if form == "atis" else 128, 3)
    WRITERS[form](path, one)
    ours, plain = read_recording(path, sensor=(one.height, one.width)), NumpyEvents().readers[form](path)
    for name in "xytp":
        assert np.array_equal(getattr(ours, name), getattr(one, name))
        assert np.array_equal(plain[name], getattr(one, name))


@pytest.mark.parametrize("case", ["event_reading", "event_framing"])
def test_without_the_library_ours_is_compared_with_plain_numpy(case: str) -> None:
    record = run_case(case, ALONE)
    assert {side.split()[0] for side in record.sides} == {"spimm", "numpy"}
    assert record.unit == "ns/event"


def test_a_reader_that_gives_other_events_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = events.read_recording
    monkeypatch.setattr(events, "read_recording", lambda path, sensor: right(path, sensor=sensor).take(slice(1, None)))
    with pytest.raises(Mismatch, match="spimm n-mnist: x is not what was written"):
        run_case("event_reading", ALONE)


def test_frames_that_differ_in_one_count_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = NumpyEvents.frame

    def one_more(self, *arguments):
        counts = right(self, *arguments)
        counts[0, 0, 0, 0] += 1
        return counts

    monkeypatch.setattr(NumpyEvents, "frame", one_more)
    with pytest.raises(Mismatch, match="frames of numpy n-mnist time are not those of spimm"):
        run_case("event_framing", ALONE)


def test_files_of_a_case_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plan = find_case("event_reading").prepare(ALONE)
    plan.check()
    assert len(list(tmp_path.glob("*/*"))) == 6
    del plan
    gc.collect()
    assert list(tmp_path.iterdir()) == []
