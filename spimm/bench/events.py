"""Cases of event data: files read, and events made into frames, by ours, by SpikingJelly and by plain numpy.

Checked to give the same events and the same frames. A sample is nanoseconds an event: 1000 over it are millions of
events a second.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spimm.bench.agreement import Mismatch
from spimm.bench.event_streams import WRITERS, like_recording
from spimm.bench.peers import NumpyEvents, PeerEvents, SpikingJellyEvents
from spimm.bench.peers.events import Arrays, Split
from spimm.bench.registry import Options, Plan, Ratio, register_case
from spimm.bench.timing import stopwatch
from spimm.data import Framing, Recording, read_recording
from spimm.data.frames import Stream
from spimm.data.recording import FIELDS

GOAL = 5.0
FRAMES = 16
QUICK_EVENTS = 100 * FRAMES
SPLITS: tuple[Split, ...] = ("time", "count")


@dataclass(frozen=True)
class _Kind:
    """Recordings like those of a data set. Events and microseconds are multiples of FRAMES: no split leaves a rest."""

    form: str
    events: int
    duration: int
    side: int
    recordings: int

    def made(self, quick: bool) -> list[Recording]:
        events, count = (QUICK_EVENTS, 2) if quick else (self.events, self.recordings)
        return [like_recording(events, self.duration, self.side, seed) for seed in range(count)]


KINDS = {
    "n-mnist": _Kind("atis", 4160, 307_200, 34, 100),
    "cifar10-dvs": _Kind("aedat2", 200_000, 1_280_000, 128, 4),
    "dvs-gesture": _Kind("aedat3", 400_000, 6_400_000, 128, 1),
}


class _Files:
    """The recordings of all kinds in files of a temporary folder, which goes with this object."""

    def __init__(self, made: Mapping[str, Sequence[Recording]]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="spimm-bench-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.paths: dict[str, list[Path]] = {}
        for name, recordings in made.items():
            suffix = ".bin" if KINDS[name].form == "atis" else ".aedat"
            self.paths[name] = [folder / f"{name}{index}{suffix}" for index in range(len(recordings))]
            for path, one in zip(self.paths[name], recordings, strict=True):
                WRITERS[KINDS[name].form](path, one)

    def read(self, name: str, reader: Callable[[Path], object]) -> list[Any]:
        return [reader(path) for path in self.paths[name]]


@register_case("event_reading", "files of N-MNIST (.bin), CIFAR10-DVS (AEDAT 2) and DVS128 Gesture (AEDAT 3.1) read")
def event_reading(options: Options) -> Plan:
    """Goal: 5 times SpikingJelly's speed for AEDAT 3.1, which it reads event by event.

    Ours compares every event with the sensor and the order of time; the others check nothing.
    """
    made, peers = _made(options), _peers(options)
    files = _Files(made)
    readers = {
        name: {"spimm": partial(read_recording, sensor=(kind.side, kind.side))}
        | {library: peer.readers[kind.form] for library, peer in peers.items()}
        for name, kind in KINDS.items()
    }

    def check() -> dict[str, float]:
        for name, ways in readers.items():
            for library, reader in ways.items():
                for found, expected in zip(files.read(name, reader), made[name], strict=True):
                    _compare_events(f"{library} {name}", found, expected)
        return {"events that differ": 0.0}

    sides = {
        f"{library} {name}": _sampled(partial(files.read, name, reader), made[name])
        for name, ways in readers.items()
        for library, reader in ways.items()
    }
    goals = {"spikingjelly dvs-gesture": GOAL}
    return _plan(options, made, check, sides, list(KINDS), goals)


@register_case("event_framing", f"recordings made into {FRAMES} frames of counts, of equal time and of equal count")
def event_framing(options: Options) -> Plan:
    """Goal: 5 times SpikingJelly's speed for frames of equal time, and for both kinds of short recordings.

    Ours gives bytes, the others 64-bit floats. Events are in memory, in the types that the readers give: ours checked
    recordings, for the others SpikingJelly's 32 bits for N-MNIST and 64 for DVS128 Gesture.
    """
    made, peers = _made(options), _peers(options)
    del made["cifar10-dvs"]  # as dvs-gesture
    names: dict[str, tuple[str, Split]] = {f"{name} {split}": (name, split) for name in made for split in SPLITS}
    events = {name: [_arrays(one, KINDS[name].form) for one in recordings] for name, recordings in made.items()}

    def ours(name: str, split: Split) -> np.ndarray:
        return Framing(FRAMES, split).together(Stream.of(made[name]))

    def theirs(peer: PeerEvents, name: str, split: Split) -> list[np.ndarray]:
        side = KINDS[name].side
        return [peer.frame(one, split, FRAMES, side, side) for one in events[name]]

    def check() -> dict[str, float]:
        for what, (name, split) in names.items():
            expected = ours(name, split).transpose(0, 3, 4, 1, 2)  # [N, T, C, H, W]
            for library, peer in peers.items():
                if not np.array_equal(np.stack(theirs(peer, name, split)), expected):
                    raise Mismatch(f"frames of {library} {what} are not those of spimm")
        return {"counts that differ": 0.0}

    sides = {}
    for what, (name, split) in names.items():
        sides[f"spimm {what}"] = _sampled(partial(ours, name, split), made[name])
        for library, peer in peers.items():
            sides[f"{library} {what}"] = _sampled(partial(theirs, peer, name, split), made[name])
    goals = {f"spikingjelly {what}": GOAL for what in names if what != "dvs-gesture count"}
    return _plan(options, made, check, sides, list(names), goals)


def _made(options: Options) -> dict[str, list[Recording]]:
    return {name: kind.made(options.quick) for name, kind in KINDS.items()}


def _peers(options: Options) -> dict[str, PeerEvents]:
    peers: dict[str, PeerEvents] = {"numpy": NumpyEvents()}
    return peers | ({"spikingjelly": SpikingJellyEvents()} if options.peers else {})


def _arrays(one: Recording, form: str) -> Arrays:
    """In the type that SpikingJelly's reader of that format gives."""
    return {name: getattr(one, name).astype(np.uint32 if form == "atis" else np.int64) for name in FIELDS}


def _compare_events(side: str, found: Recording | Arrays, expected: Recording) -> None:
    for name in FIELDS:
        values = found[name] if isinstance(found, dict) else getattr(found, name)
        if not np.array_equal(values, getattr(expected, name)):
            raise Mismatch(f"{side}: {name} is not what was written")


def _sampled(run: Callable[[], object], recordings: Sequence[Recording]) -> Callable[[], float]:
    milliseconds, events = stopwatch(run), sum(map(len, recordings))
    return lambda: milliseconds() * 1e6 / events


def _plan(
    options: Options,
    made: Mapping[str, Sequence[Recording]],
    check: Callable[[], Mapping[str, float]],
    sides: Mapping[str, Callable[[], float]],
    names: Sequence[str],
    goals: Mapping[str, float],
) -> Plan:
    slower = [f"{library} {name}" for library in ("numpy", "spikingjelly") for name in names]
    return Plan(
        setting={
            name: f"{len(found)} recordings of {len(found[0])} events, {found[0].height} x {found[0].width}"
            for name, found in made.items()
        },
        check=check,
        sides=sides,
        ratios=[Ratio(side, f"spimm {side.partition(' ')[2]}", goals.get(side)) for side in slower if side in sides],
        unit="ns/event",
        repeats=1 if options.quick else 15,
    )
