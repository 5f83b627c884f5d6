import io

import numpy as np
import pytest
from PIL import Image

from spimm.data import load_data
from spimm.data.packed import decode_jpegs


def pack(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    streams = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=75)
        streams.append(buffer.getvalue())
    offsets = np.cumsum([0] + [len(stream) for stream in streams])
    return np.frombuffer(b"".join(streams), dtype=np.uint8), offsets


def jpeg_arrays(held_out: str = "test", **changes) -> dict[str, np.ndarray]:
    random, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 6), (held_out, 4)):
        arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"] = pack(random.integers(0, 256, (count, 8, 9, 3), np.uint8))
        arrays[f"{part}_labels"] = np.arange(count, dtype=np.uint8) % 2
    return arrays | changes


def plain_arrays(**changes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    arrays = {
        "x_train": random.integers(0, 256, (6, 5, 4), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": random.integers(0, 256, (3, 5, 4), dtype=np.uint8),
        "y_test": np.array([2, 1, 0]),
    }
    return arrays | changes


def load(folder, arrays: dict[str, np.ndarray], **settings):
    np.savez(folder / "set.npz", **arrays)
    return load_data("npz:set.npz", data_dir=folder, **settings)


def test_plain_arrays_come_back_as_they_were_stored(tmp_path):
    arrays = plain_arrays()
    data = load(tmp_path, arrays)
    assert np.array_equal(data.train.images[..., 0].numpy(), arrays["x_train"])
    assert data.test.labels.tolist() == [2, 1, 0]
    assert (data.in_chans, data.image_size, data.class_names) == (1, (5, 4), ("0", "1", "2"))
    np.testing.assert_allclose(data.mean, arrays["x_train"].mean() / 255)
    np.testing.assert_allclose(data.std, arrays["x_train"].std() / 255)


def test_colour_arrays_and_class_names_are_taken(tmp_path):
    colour = {key: np.repeat(plain_arrays()[key][..., None], 3, axis=3) for key in ("x_train", "x_test")}
    data = load(tmp_path, plain_arrays(**colour, classes=np.array(["cat", "dog", "cow"])))
    assert (data.in_chans, data.class_names) == (3, ("cat", "dog", "cow"))


def test_images_are_resized_when_asked(tmp_path):
    assert load(tmp_path, plain_arrays(), image_size=16).train.images.shape == (6, 16, 16, 1)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_jpeg_images_equal_what_pillow_decodes(tmp_path, held_out):
    arrays = jpeg_arrays(held_out, names=np.array(["cat", "dog"]))
    data = load(tmp_path, arrays)
    for part, split in (("train", data.train), (held_out, data.test)):
        stream, offsets = arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"]
        for index in range(len(split)):
            encoded = io.BytesIO(stream[offsets[index] : offsets[index + 1]].tobytes())
            assert np.array_equal(split.images[index].numpy(), np.asarray(Image.open(encoded).convert("RGB")))
        assert split.labels.tolist() == arrays[f"{part}_labels"].tolist()
    assert data.class_names == ("cat", "dog")
    assert "lossy JPEG" in data.note
    assert held_out in data.note


def test_a_corrupt_jpeg_is_named_by_part_and_index(tmp_path):
    arrays = jpeg_arrays()
    stream = arrays["test_jpeg"].copy()
    stream[arrays["test_offsets"][2] : arrays["test_offsets"][3]] = 0
    with pytest.raises(ValueError, match=r"set\.npz, test: image 2 is not a readable JPEG"):
        load(tmp_path, arrays | {"test_jpeg": stream})


def test_a_truncated_jpeg_is_named_by_index():
    stream, offsets = pack(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="image 1 is not a readable JPEG"):
        decode_jpegs(stream, np.array([0, offsets[1], offsets[2] - 100]))


def test_jpegs_of_different_sizes_are_refused():
    small, large = (pack(np.zeros((1, size, size, 3), np.uint8))[0] for size in (8, 16))
    with pytest.raises(ValueError, match=r"image 1 is \(16, 16\) \(H, W\), wanted \(8, 8\)"):
        decode_jpegs(np.concatenate([small, large]), np.cumsum([0, len(small), len(large)]))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (np.array([0, 10, 5]), "offsets must grow"),
        (np.array([0, 10, 5], np.uint64), "offsets must grow"),
        (np.array([0, 10_000]), "offsets must grow"),
        (np.array([-1, 10]), "offsets must grow"),
        (np.array([0]), "offsets must be integers"),
        (np.array([0.0, 10.0]), "offsets must be integers"),
    ],
)
def test_offsets_that_cannot_be_are_refused(offsets, message):
    with pytest.raises(ValueError, match=message):
        decode_jpegs(np.zeros(100, np.uint8), offsets)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (plain_arrays(x_train=np.zeros((6, 5, 4), np.float32)), r"train: images must be uint8 .* got float32"),
        (plain_arrays(x_test=np.zeros((3, 20), np.uint8)), r"test: images must be uint8 .* got uint8 \[3, 20\]"),
        (plain_arrays(y_train=np.zeros(5, int)), "train: images and labels must agree in length, got 6 and 5"),
        (plain_arrays(y_test=np.array([0, -1, 0])), "test: labels must not be negative, got -1"),
        (plain_arrays(y_test=np.array([0, 3, 0])), r"test labels must lie in \[0, 3\) for 3 classes, got 3"),
        (plain_arrays(classes=np.array(["a", "b"])), r"train labels must lie in \[0, 2\) for 2 classes, got 2"),
        (plain_arrays(x_train=np.zeros((0, 5, 4), np.uint8), y_train=np.zeros(0, int)), "at least one image"),
        (plain_arrays(x_train=np.zeros((6, 5, 4), np.uint8)), "std must be positive"),
        (plain_arrays(y_train=np.array(["a"] * 6, object)), "not a readable .npz archive of plain arrays"),
        (jpeg_arrays(train_labels=np.zeros(5, int)), "agree in length, got 6 and 5"),
        (jpeg_arrays(train_jpeg=np.zeros(9, np.float32)), r"a JPEG stream must be uint8"),
    ],
)
def test_wrong_content_is_refused_with_what_was_seen(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, arrays)


@pytest.mark.parametrize("missing", ["x_test", "y_train"])
def test_missing_arrays_are_reported_with_those_seen_and_wanted(tmp_path, missing):
    arrays = plain_arrays()
    del arrays[missing]
    with pytest.raises(ValueError, match=r"holds the arrays \['x_.*wanted x_train, y_train, x_test, y_test; or train"):
        load(tmp_path, arrays)


def test_a_missing_or_unreadable_file_is_reported_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        load_data("npz:nothing.npz", data_dir=tmp_path)
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(ValueError, match=r"text\.npz is not a readable \.npz"):
        load_data("npz:text.npz", data_dir=tmp_path)
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(ValueError, match="not a zip file"):
        load_data("npz:single.npy", data_dir=tmp_path)
