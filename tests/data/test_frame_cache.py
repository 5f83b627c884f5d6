import logging
import multiprocessing
import os

import numpy as np
import pytest
import torch

from spimm.data import frame_cache
from spimm.data.frame_cache import FrameWriter, cache_folder, cached_frames

SHAPE = (3, 2, 4, 2)


def sequences(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


class Builder:
    """Counts how often a part is built."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self, writer: FrameWriter) -> None:
        self.built += 1
        frames = sequences(5)
        writer.add(frames[:2], [4, 3])
        writer.skip("c.bin: torn")
        writer.add(frames[2:], [2, 1, 0])


def load(path, builder):
    return cached_frames(
        path, lambda: SHAPE, {"train": builder, "test": lambda writer: writer.add(sequences(1, 1), [7])}
    )


def test_frames_are_built_once_and_mapped_afterwards(tmp_path):
    builder = Builder()
    for _ in range(2):
        frames = load(tmp_path / "set.frames", builder)
        assert np.array_equal(frames["train"].images.numpy(), sequences(5))
        assert np.array_equal(frames["test"].images.numpy(), sequences(1, 1))
        assert frames["train"].labels.tolist() == [4, 3, 2, 1, 0]
        assert frames["train"].skipped == ("c.bin: torn",)
    assert builder.built == 1
    assert os.listdir(tmp_path) == ["set.frames"]


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_file_is_built_again_with_a_message(tmp_path, size, caplog):
    builder, path = Builder(), tmp_path / "set.frames"
    load(path, builder)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with caplog.at_level(logging.WARNING, "spimm.data"):
        load(path, builder)
    assert builder.built == 2
    assert "set.frames is damaged" in caplog.text
    assert path.read_bytes() == whole


def test_every_changed_byte_is_found(tmp_path):
    builder, path = Builder(), tmp_path / "set.frames"
    load(path, builder)
    whole = path.read_bytes()
    places = range(0, len(whole), 11)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        load(path, builder)
        assert path.read_bytes() == whole
    assert builder.built == 1 + len(places)


def test_of_a_large_file_a_part_of_the_blocks_is_checked(tmp_path, monkeypatch):
    builder, path = Builder(), tmp_path / "set.frames"
    load(path, builder)
    summed = []
    real = frame_cache.zlib.crc32
    monkeypatch.setattr(frame_cache.zlib, "crc32", lambda data: summed.append(len(data)) or real(data))
    monkeypatch.setattr(frame_cache, "CHECKED_BYTES", 100)
    load(path, builder)
    assert summed[1:] == [2 * 48, 48]  # after the description the first and the last of three blocks
    assert builder.built == 1


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def torn(writer: FrameWriter) -> None:
        writer.add(sequences(1), [0])
        raise ValueError("a.bin: torn")

    with pytest.raises(ValueError, match=r"a\.bin: torn"):
        load(tmp_path / "set.frames", torn)
    assert os.listdir(tmp_path) == []


def _slow(path, barrier, results):
    def build(writer: FrameWriter) -> None:
        barrier.wait(20)
        writer.add(sequences(40), [0] * 40)

    frames = cached_frames(path, lambda: SHAPE, {"train": build})
    results.put(bool(np.array_equal(frames["train"].images.numpy(), sequences(40))))


def test_two_builders_at_once_do_no_harm(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    builders = [context.Process(target=_slow, args=(tmp_path / "set.frames", barrier, results)) for _ in range(2)]
    for builder in builders:
        builder.start()
    assert [results.get(timeout=30) for _ in builders] == [True, True]
    for builder in builders:
        builder.join()
    assert os.listdir(tmp_path) == ["set.frames"]


def test_frames_in_use_survive_that_the_file_is_built_again(tmp_path):
    path = tmp_path / "set.frames"
    frames = load(path, Builder())
    path.unlink()
    load(path, lambda writer: writer.add(sequences(5, 9), [0] * 5))
    assert torch.equal(frames["train"].images, torch.from_numpy(sequences(5)))


def test_the_folder_is_chosen_by_argument_then_environment_then_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPIMM_CACHE", str(tmp_path / "one"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    assert cache_folder(tmp_path / "three") == tmp_path / "three"
    assert cache_folder() == tmp_path / "one"
    monkeypatch.delenv("SPIMM_CACHE")
    assert cache_folder() == tmp_path / "two" / "spimm"
