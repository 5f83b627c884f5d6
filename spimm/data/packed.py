"""Data sets in one .npz file: plain uint8 arrays, or concatenated JPEG streams with offsets.

Plain: x_train, y_train, x_test, y_test. JPEG, for each part (train, and test or val): `part_jpeg` uint8 [bytes],
`part_offsets` integers [N + 1], `part_labels` integers [N]; image k is jpeg[offsets[k] : offsets[k + 1]]. Either may
hold the class names as `classes` or `names`.
"""

import io
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from spimm.data.corrupt import Corrupt
from spimm.data.dataset import ImageData, in_memory
from spimm.data.files import CorruptImage
from spimm.data.split import ImageSplit

PLAIN = ("x_train", "y_train", "x_test", "y_test")
WANTED = (
    "x_train, y_train, x_test, y_test; or train_jpeg, train_offsets, train_labels and the same three for test or val"
)


def load_npz(
    path: Path,
    *,
    name: str,
    image_size: int | None = None,
    class_names: tuple[str, ...] | None = None,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    corrupt: Corrupt = "refuse",
) -> ImageData:
    """The data set in the .npz file at `path`, decoded into memory. Settings as in `in_memory`.

    corrupt: what becomes of JPEG images that cannot be decoded; those left out are named in `ImageData.left_out`.

    Raises FileNotFoundError for no file and ValueError for missing arrays or wrong content, naming the array.
    """
    arrays = read_arrays(path)
    held_out = next((part for part in ("test", "val") if _jpeg_keys(part) <= arrays.keys()), None)
    left_out: tuple[str, ...] = ()
    if arrays.keys() >= set(PLAIN):
        note = f"plain arrays of {path.name}, its own split"
        splits = [_split(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")]
    elif held_out is not None and _jpeg_keys("train") <= arrays.keys():
        note = f"lossy JPEG images of {path.name}: say so beside any number; test = its {held_out} part"
        parts = [_jpeg_split(path, part, arrays, corrupt) for part in ("train", held_out)]
        splits = [split for split, _ in parts]
        bad_ones = zip(("train", held_out), (bad for _, bad in parts), strict=True)
        left_out = tuple(f"{part} {index}" for part, bad in bad_ones for index in bad)
    else:
        raise ValueError(f"{path} holds the arrays {sorted(arrays)}, wanted {WANTED}")
    names = class_names or stored_classes(arrays)
    train, test = splits
    data = in_memory(name, train, test, note=note, class_names=names, statistics=statistics, image_size=image_size)
    return replace(data, left_out=left_out)


def decode_jpegs(stream: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """RGB images uint8 [N, H, W, 3] from concatenated JPEG files: uint8 [bytes], offsets [N + 1].

    Raises ValueError naming the index of an image that is corrupt or differs in size from the first.
    """
    return _decode_all(stream, offsets, "refuse")[0]


def _decode_all(stream: np.ndarray, offsets: np.ndarray, corrupt: Corrupt) -> tuple[np.ndarray, list[int]]:
    """The images that can be decoded, and the indices of those that cannot under corrupt="skip"."""
    if stream.dtype != np.uint8 or stream.ndim != 1:
        raise ValueError(f"a JPEG stream must be uint8 [bytes], got {stream.dtype} {list(stream.shape)}")
    if not np.issubdtype(offsets.dtype, np.integer) or offsets.ndim != 1 or len(offsets) < 2:
        raise ValueError(f"offsets must be integers [N + 1], N > 0, got {offsets.dtype} {list(offsets.shape)}")
    bounds = offsets.astype(np.int64)
    if bounds[0] < 0 or bounds[-1] > len(stream) or bool((np.diff(bounds) < 0).any()):
        seen = f"{bounds[0]} to {bounds[-1]}"
        raise ValueError(f"offsets must grow from 0 to at most {len(stream)} (bytes in the stream), got {seen}")
    images, bad = np.empty((0, 0, 0, 0), dtype=np.uint8), []
    for index in range(len(bounds) - 1):
        try:
            image = _decode(stream, bounds, index)
        except CorruptImage:
            if corrupt == "refuse":
                raise
            bad.append(index)
            continue
        if index == len(bad):  # the first that can be decoded
            images = np.empty((len(bounds) - 1, *image.shape), dtype=np.uint8)
        if image.shape != images.shape[1:]:
            wanted = f"{images.shape[1:3]} as image {next(k for k in range(index) if k not in bad)}"
            raise ValueError(f"image {index} is {image.shape[:2]} (H, W), wanted {wanted}")
        images[index - len(bad)] = image
    return images[: len(bounds) - 1 - len(bad)], bad


def _decode(stream: np.ndarray, bounds: np.ndarray, index: int) -> np.ndarray:
    encoded = io.BytesIO(stream[bounds[index] : bounds[index + 1]].tobytes())
    try:
        return np.asarray(Image.open(encoded, formats=("JPEG",)).convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptImage(f"image {index} is not a readable JPEG: {error}; corrupt=skip leaves such out") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the .npz file at `path`. FileNotFoundError for no file, ValueError for a damaged one."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            return {key: archive[key] for key in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a readable .npz archive of plain arrays: {error}") from error


def _jpeg_keys(part: str) -> set[str]:
    return {f"{part}_jpeg", f"{part}_offsets", f"{part}_labels"}


def _jpeg_split(path: Path, part: str, arrays: dict[str, np.ndarray], corrupt: Corrupt) -> tuple[ImageSplit, list[int]]:
    try:
        images, bad = _decode_all(arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"], corrupt)
    except ValueError as error:
        raise ValueError(f"{path}, {part}: {error}") from error
    labels = arrays[f"{part}_labels"]
    if len(labels) != len(images) + len(bad):
        raise ValueError(f"{path}, {part}: images and labels must agree in length, got {len(images)} and {len(labels)}")
    return _split(path, part, images, np.delete(labels, bad)), bad


def _split(path: Path, part: str, images: np.ndarray, labels: np.ndarray) -> ImageSplit:
    try:
        return ImageSplit.from_arrays(images, labels)
    except ValueError as error:
        raise ValueError(f"{path}, {part}: {error}") from error


def stored_classes(arrays: dict[str, np.ndarray]) -> tuple[str, ...] | None:
    """The class names that a file holds as `classes` or `names`, if it holds them."""
    for key in ("classes", "names"):
        if key in arrays:
            return tuple(arrays[key].astype(str).ravel().tolist())
    return None
