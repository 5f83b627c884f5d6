"""Damage to files: to their bytes, to values in JSON, to the members of zip archives; and what a reader may do then."""

import io
import json
import math
import resource
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PEAK = 2**28
"""Bytes that Python and numpy may take for one file of a few kB."""
RESIDENT = 2**30
"""Bytes that the process may grow by over all files: what libraries take by themselves."""
SECONDS = 10.0
"""Of the processor, for one file of a few kB on a slow machine."""


class Target(NamedTuple):
    """A kind of file: a good one, how to damage it, how to read it, and the errors that are documented."""

    name: str
    ending: str
    content: bytes
    damage: Callable[[bytes, np.random.Generator], bytes]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]


NUMBERS = (0, 1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 8)


def of_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """Cut, changed in some bytes or one 32-bit number, most often near the start, or with a piece lost or doubled."""
    content = np.frombuffer(data, np.uint8).copy()
    reach = max(min(int(random.choice([64, 512, len(data)])), len(data)), 1)
    at, kind, length = int(random.integers(0, reach)), int(random.integers(0, 5)), int(random.integers(1, 64))
    if kind == 0:
        return data[:at]
    if kind == 1:
        where = random.integers(0, reach, int(random.integers(1, 9)))
        content[where % max(len(content), 1)] = random.integers(0, 256, len(where))
        return content.tobytes()
    if kind == 2:
        return data[:at] + int(random.choice(NUMBERS)).to_bytes(4, "little") + data[at + 4 :]
    return data[:at] + (data[at + length :] if kind == 3 else data[at : at + length] * 2 + data[at + length :])


def of_zip(data: bytes, random: np.random.Generator) -> bytes:
    """One member damaged, lost, renamed or grown to zeros, and the archive whole around it; or the archive's bytes."""
    if random.integers(0, 4) == 0:
        return of_bytes(data, random)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(member, archive.read(member)) for member in archive.infolist()]
    chosen, kind, file = int(random.integers(0, len(members))), int(random.integers(0, 5)), io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index, (member, content) in enumerate(members):
            name, method = member.filename, member.compress_type
            if index == chosen and kind == 0:
                continue
            if index == chosen and kind == 1:
                name = name[: int(random.integers(0, len(name)))] or "x"
            elif index == chosen and kind == 2:
                content, method = content[:128] + bytes(2**22), zipfile.ZIP_DEFLATED
            elif index == chosen:
                content = of_bytes(content, random)
            archive.writestr(name, content, method)
    return file.getvalue()


STRANGE = (
    None, True, -1, 0, 1, 2**63, 10**400, 1e308, math.nan, math.inf, "", "\0", "../..", "x" * 5000, "\ud800", [], {},
    [[]], [None], {"": None}, [0] * 200,
)  # fmt: skip


def of_json(data: bytes, random: np.random.Generator) -> bytes:
    """One value of a strange kind, a key lost or added, deep nesting; or the text's bytes."""
    if random.integers(0, 3) == 0:
        return of_bytes(data, random)
    if random.integers(0, 20) == 0:
        return b"[" * 10**5
    value = json.loads(data)
    holder: Any = value
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        if not len(keys):
            break
        key = keys[int(random.integers(0, len(keys)))]
        if isinstance(holder[key], dict | list) and len(holder[key]) and random.integers(0, 3):
            holder = holder[key]
            continue
        if isinstance(holder, dict) and random.integers(0, 4) == 0:
            holder.pop(key)
        else:
            holder[key] = STRANGE[int(random.integers(0, len(STRANGE)))]
        break
    return json.dumps(value).encode("utf-8", "surrogatepass")


def check(targets: Sequence[Target], variants: int, folder: Path, seed: int) -> None:
    """Damages the targets in turn. Asserts that each file is read or refused, in bounded memory and time."""
    random, read = np.random.default_rng(seed), dict.fromkeys((target.name for target in targets), 0)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    for index in range(variants):
        target = targets[index % len(targets)]
        path = folder / f"{index}{target.ending}"
        content = target.damage(target.content, random)
        path.write_bytes(content)
        what = f"variant {index} of seed {seed}, {target.name}: {content[:200]!r}"
        tracemalloc.reset_peak()
        begun = time.process_time()
        try:
            target.read(path)
            read[target.name] += 1
        except target.errors as error:
            told = str(error)
            assert len(told) < 2000 + 4 * len(str(path)), (what, told)
            assert len(told.splitlines()) <= 3, (what, told)
            assert "more memory than there is" not in told, (what, told)
        except BaseException as error:
            error.add_note(what)
            raise
        assert time.process_time() - begun < SECONDS, what
        assert tracemalloc.get_traced_memory()[1] < PEAK, what
        path.unlink()
    tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < RESIDENT // 1024
    # Damage that is refused every time, or never, would test little.
    assert 0 < sum(read.values()) < variants, read
