"""MNIST's and Fashion-MNIST's published files, packed or not, where people keep them."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from spimm.data import load_data
from spimm.data.idx import FIRST_LABELS


def write(folder: Path, *, packed: bool = True, labels: bytes = bytes(range(5))) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    random, written = np.random.default_rng(0), {}
    for part, count in (("train", len(labels)), ("t10k", 3)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", np.frombuffer(labels[:count], np.uint8))):
            content = struct.pack(f">{values.ndim + 1}I", 0x800 + values.ndim, *values.shape) + values.tobytes()
            name = f"{part}-{kind}-ubyte"
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)
        written[part] = images
    return written


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("spec", "place"),
    [
        *(("mnist", place) for place in ("MNIST/raw", "MNIST", "mnist", "raw", ".")),
        *(("fashion-mnist", place) for place in ("FashionMNIST/raw", "fashion-mnist", ".")),
    ],
)
def test_the_four_files_are_read(spec: str, place: str, packed: bool, tmp_path: Path) -> None:
    images = write(tmp_path / place, packed=packed)
    data = load_data(spec, data_dir=tmp_path)
    assert np.array_equal(data.train.images[..., 0].numpy(), images["train"])
    assert np.array_equal(data.test.images[..., 0].numpy(), images["t10k"])
    assert (data.test.labels.tolist(), data.num_classes) == ([0, 1, 2], 10)
    assert data.class_names[9] == ("9" if spec == "mnist" else "Ankle boot")


@pytest.mark.parametrize("packed", [True, False])
def test_files_of_the_other_set_are_not_taken_for_those_asked_for(packed: bool, tmp_path: Path) -> None:
    write(tmp_path, packed=packed, labels=FIRST_LABELS["fashion-mnist"])
    assert len(load_data("fashion-mnist", data_dir=tmp_path).train) == 10
    with pytest.raises(FileNotFoundError, match="does not hold mnist"):
        load_data("mnist", data_dir=tmp_path)


@pytest.mark.skipif("SPIMM_DATA" not in os.environ, reason="SPIMM_DATA names no folder of real data")
def test_the_first_labels_are_those_of_mnist() -> None:
    assert bytes(load_data("mnist").train.labels[:10].tolist()) == FIRST_LABELS["mnist"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:40], "no whole IDX file"),
        (
            lambda content: gzip.compress(gzip.decompress(content)[:-1]),
            "expected 3920 bytes after the header, got 3919",
        ),
        (lambda content: gzip.compress(gzip.decompress(content) + b"x"), "got more"),
        (lambda content: gzip.compress(b"\0\0\x08\x01" + bytes(12)), "its header is 0x801"),
        (lambda content: gzip.compress(struct.pack(">4I", 0x803, 2**31, 2**31, 2**31)), "its header is 0x803 of sizes"),
        (lambda content: b"", "no whole IDX file"),
    ],
)
def test_a_damaged_file_is_named(damage, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte\.gz .*{message}|{message}"):
        load_data("mnist", data_dir=tmp_path)


def test_three_of_the_four_files_are_not_enough(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"mnist\.npz or as the published \.gz files"):
        load_data("mnist", data_dir=tmp_path)
