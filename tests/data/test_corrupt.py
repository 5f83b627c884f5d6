"""Images that cannot be read: refused by name, or left out and counted."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spimm.data import Augment, Corrupt, Loader, load_data
from spimm.data.files import ImageFiles
from spimm.data.split import ImageSplit

SIZE = 8


def encoded(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE, 3), value, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of six training and three test images, each image of a grey of its own."""
    for part, count in (("train", 6), ("val", 3)):
        for label, name in enumerate("ab"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(encoded(100 * label + 10 * index + 5))
    return tmp_path


def spoil(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:40])
    return str(path)


def loader(root: Path, *, train: bool, corrupt: Corrupt = "skip", batch_size: int = 4, num_workers: int = 0) -> Loader:
    data = load_data(f"folder:{root}", image_size=SIZE, corrupt=corrupt)
    return Loader(
        data.train if train else data.test,
        batch_size,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        augment=Augment() if train else None,
        shuffle=train,
        drop_last=train,
        num_workers=num_workers,
    )


def greys(batches: Loader, epoch: int = 0) -> list[list[tuple[int, int]]]:
    """(grey, label) of every image of each batch."""
    return [
        [(round(255 * float(image.mean())), int(label)) for image, label in zip(images, labels, strict=True)]
        for images, labels in batches.iterate(epoch)
    ]


def test_a_corrupt_file_is_refused_by_name_with_the_setting_that_leaves_it_out(root: Path) -> None:
    name = spoil(root / "train" / "a" / "2.png")
    with pytest.raises(ValueError, match=rf"{name} cannot be decoded as an image: .*corrupt=skip leaves such out"):
        list(loader(root, train=True, corrupt="refuse"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_in_training_the_next_image_of_the_class_stands_in_and_the_file_is_named(root: Path, num_workers: int) -> None:
    sound = greys(loader(root, train=True))
    names = [spoil(root / "train" / "a" / "2.png"), spoil(root / "train" / "b" / "5.png")]
    batches = loader(root, train=True, num_workers=num_workers)
    instead = {(25, 0): (35, 0), (155, 1): (105, 1)}
    assert greys(batches) == [[instead.get(image, image) for image in batch] for batch in sound]
    assert batches.split.corrupt == names
    assert greys(batches, epoch=1) == greys(loader(root, train=True), epoch=1)


def test_in_evaluation_corrupt_files_are_left_out(root: Path) -> None:
    sound = [image for batch in greys(loader(root, train=False)) for image in batch]
    names = [spoil(root / "val" / "a" / "1.png"), spoil(root / "val" / "b" / "0.png")]
    batches = loader(root, train=False)
    assert [len(batch) for batch in greys(batches)] == [2, 2]
    assert [image for batch in greys(batches) for image in batch] == [sound[k] for k in (0, 2, 4, 5)]
    assert batches.split.corrupt == names


def test_a_whole_class_of_corrupt_files_is_refused(root: Path) -> None:
    for path in (root / "train" / "b").iterdir():
        spoil(path)
    with pytest.raises(ValueError, match=r"train/b/\d\.png cannot be decoded"):
        greys(loader(root, train=True))


def test_a_file_that_is_gone_is_no_corrupt_file(root: Path) -> None:
    batches = loader(root, train=True)
    (root / "train" / "a" / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a/2\.png"):
        greys(batches)


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 0], [0], [1, 1], [2, 0, 1]])
def test_the_stand_ins_of_a_class_go_round_it(labels: list[int]) -> None:
    split = ImageSplit(ImageFiles(tuple(map(str, labels)), SIZE), torch.tensor(labels))
    for start, label in enumerate(labels):
        seen, index = set(), start
        while index not in seen:
            seen.add(index)
            index = int(split._next_of_class[index])
        assert index == start
        assert seen == {other for other, theirs in enumerate(labels) if theirs == label}


@pytest.mark.filterwarnings("ignore")  # of PIL, of odd sizes and EXIF data
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_no_damage_gets_past_as_another_error(kind: str, tmp_path: Path) -> None:
    chance, file = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(chance.integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(file, kind)
    whole = file.getvalue()
    path = tmp_path / "image"
    files = ImageFiles((str(path),), SIZE)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in chance.integers(0, len(whole), 8):
            damaged[place] = chance.integers(0, 256)
        path.write_bytes(damaged[: chance.integers(0, len(whole) + 1)])
        try:
            files.read([0])
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be decoded as an image")
            refused += 1
    assert refused > 20


def jpegs(values: list[int]) -> tuple[np.ndarray, np.ndarray]:
    streams = []
    for value in values:
        file = io.BytesIO()
        Image.fromarray(np.full((SIZE, SIZE, 3), value, dtype=np.uint8)).save(file, "JPEG", quality=95)
        streams.append(np.frombuffer(file.getvalue(), dtype=np.uint8))
    return np.concatenate(streams), np.cumsum([0, *map(len, streams)])


@pytest.mark.parametrize("bad", [[0], [1], [0, 1, 3], [4]])
def test_corrupt_images_of_an_archive_are_in_no_split_and_named(bad: list[int], tmp_path: Path) -> None:
    stream, offsets = jpegs([40, 80, 120, 160, 200])
    for index in bad:
        stream[offsets[index] : offsets[index] + 20] = 0
    sound, sound_offsets = jpegs([30, 60])
    labels, few = np.array([0, 1, 0, 1, 0]), np.array([0, 1])
    path = tmp_path / "set.npz"
    parts = {"train_jpeg": stream, "train_offsets": offsets, "train_labels": labels}
    np.savez(path, **parts, test_jpeg=sound, test_offsets=sound_offsets, test_labels=few, classes=["a", "b"])
    with pytest.raises(ValueError, match=rf"train: image {bad[0]} is not a readable JPEG.*corrupt=skip"):
        load_data(f"npz:{path}")
    data = load_data(f"npz:{path}", corrupt="skip")
    kept = [index for index in range(5) if index not in bad]
    assert data.left_out == tuple(f"train {index}" for index in bad)
    assert data.train.labels.tolist() == labels[kept].tolist()
    assert isinstance(data.train.images, torch.Tensor)
    means = data.train.images.float().mean((1, 2, 3))
    torch.testing.assert_close(means, torch.tensor([40.0 * (index + 1) for index in kept]), atol=2, rtol=0)


def test_an_archive_of_corrupt_images_alone_is_refused(tmp_path: Path) -> None:
    stream, offsets = jpegs([40, 80])
    labels, path = np.array([0, 1]), tmp_path / "set.npz"
    parts = {"train_jpeg": np.zeros_like(stream), "train_offsets": offsets, "train_labels": labels}
    np.savez(path, **parts, test_jpeg=stream, test_offsets=offsets, test_labels=labels)
    with pytest.raises(ValueError, match=r"train: .*(image|pixel)"):
        load_data(f"npz:{path}", corrupt="skip")


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="corrupt must be refuse or skip, got 'ignore'"):
        ImageFiles(("a.png",), SIZE, corrupt="ignore")  # type: ignore[arg-type]
