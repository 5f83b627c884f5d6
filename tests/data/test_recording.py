import numpy as np
import pytest

from spimm.data import Recording


def recording(**changed) -> Recording:
    arrays = {"x": [0, 4, 2], "y": [1, 0, 3], "t": [5, 5, 9], "p": [0, 1, 1]}
    arrays = {name: np.asarray(values) for name, values in (arrays | changed).items()}
    return Recording(**arrays, height=4, width=5)


def test_integers_of_any_kind_become_those_of_a_recording():
    read = recording(p=np.array([False, True, True]), x=np.array([0, 4, 2], np.int8))
    assert [getattr(read, name).dtype for name in "xytp"] == [np.uint16, np.uint16, np.int64, np.uint8]
    assert (len(read), read.duration, read.p.tolist()) == (3, 4, [0, 1, 1])


def test_parts_are_taken_by_number_or_by_time():
    assert recording().take(np.array([True, False, True])).x.tolist() == [0, 2]
    assert recording().take(slice(1, None)).y.tolist() == [0, 3]
    assert recording().between(5, 9).x.tolist() == [0, 4]
    assert recording().between(6, 10).x.tolist() == [2]
    assert recording().between(10, 20).duration == len(recording().between(0, 5)) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x": [0, 5, 9]}, r"x must be in \[0, 5\) for a sensor of 4 x 5 \(H, W\), got 5 in event 1"),
        ({"y": [1, 0, -1]}, r"y must be in \[0, 4\) .* got -1 in event 2"),
        ({"p": [0, 2, 1]}, "p must be 0 or 1, got 2 in event 1"),
        ({"t": [5, 4, 9]}, "t must not fall, got 4 after 5 in event 1, 1 in all"),
        ({"t": np.array([5, 6, 2**63], np.uint64)}, r"t must be within 2\^53 of 0, got 9223372036854775808 in event 2"),
        ({"t": [5, 6, 2**53 + 1]}, r"t must be within 2\^53 of 0, got 9007199254740993 in event 2"),
        ({"t": [-(2**60), 6, 7]}, r"t must be within 2\^53 of 0, got -1152921504606846976 in event 0"),
        ({"p": np.array([0, 7, 1], np.uint8).view(bool)}, "p must be 0 or 1, got 7 in event 1"),
        ({"t": [5.0, 6.0, 7.0]}, r"t must be a list of integers, got float64 \[3\]"),
        ({"p": [1, 1]}, "must agree in length, got 3 x and 2 p"),
    ],
)
def test_events_that_cannot_be_are_refused_by_number(changed, message):
    with pytest.raises(ValueError, match=message):
        recording(**changed)


def test_a_sensor_without_pixels_is_refused():
    with pytest.raises(ValueError, match=r"width must lie in \[1, 65536\] pixels, got 0"):
        Recording(*[np.empty(0, int)] * 4, height=4, width=0)
