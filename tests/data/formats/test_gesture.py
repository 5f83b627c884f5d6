import pytest

from spimm.data import EventFileError, read_gesture_labels, read_recording

from . import writers

HEADER = "class,startTime_usec,endTime_usec\n"


def test_gestures_are_windows_of_the_recording_with_classes_from_0(tmp_path):
    (tmp_path / "user01_led_labels.csv").write_text(f"{HEADER}1,80048239,85092709\n11,89431170,95231007\n")
    windows = read_gesture_labels(tmp_path / "user01_led_labels.csv")
    assert windows == [(0, 80048239, 85092709), (10, 89431170, 95231007)]


def test_a_window_cuts_its_events_out_of_the_recording(tmp_path):
    path = tmp_path / "user01_led.aedat"
    path.write_bytes(writers.aedat3(writers.random_events(height=128, width=128)))
    (tmp_path / "labels.csv").write_text(f"{HEADER}2,100000,150000\n")
    recording = read_recording(path)
    ((label, start, stop),) = read_gesture_labels(tmp_path / "labels.csv")
    expected = [row for row in writers.rows(recording) if 100_000 <= row[2] < 150_000]
    assert (label, writers.rows(recording.between(start, stop))) == (1, expected)
    assert 0 < len(expected) < len(recording)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected the columns class, startTime_usec, endTime_usec, got \[\]"),
        ("1,2,3\n", "expected the columns"),
        (f"{HEADER}1,2\n", r"line 2 must hold three numbers, got \['1', '2'\]"),
        (f"{HEADER}1,2,3\n1,-2,3\n", "line 3 must hold three numbers"),
        (f"{HEADER}12,2,3\n", "line 2 must hold a class of 1 to 11"),
        (f"{HEADER}1,3,3\n", "line 2 must hold .* start < end"),
        ("classé", "expected ascii text, got another byte at 5"),
    ],
)
def test_labels_that_cannot_be_are_refused_by_line(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(EventFileError, match=message):
        read_gesture_labels(tmp_path / "labels.csv")
