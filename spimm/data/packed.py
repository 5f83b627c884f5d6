"""Data sets in one .npz file: plain uint8 arrays, or concatenated JPEG streams with offsets.

Plain: x_train, y_train, x_test, y_test. JPEG, for each part (train, and test or val): `part_jpeg` uint8 [bytes],
`part_offsets` integers [N + 1], `part_labels` integers [N]; image k is jpeg[offsets[k] : offsets[k + 1]]. Either may
hold the class names as `classes` or `names`.
"""

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from spimm.data import arrays as plain
from spimm.data.corrupt import Corrupt
from spimm.data.dataset import ImageData, in_memory
from spimm.data.decode import CorruptImage, open_rgb
from spimm.data.split import ImageSplit
from spimm.reading import UnreadableFile, require_regular, short

PLAIN = ("x_train", "y_train", "x_test", "y_test")
# Of a stream of JPEG files: corrupt images that are left out even if they are most of all; bytes of the images, so many
# and so many more for each byte of the stream.
_FEW, _PIXELS, _GROWTH = 1000, 2**28, 256
_MOST_CLASSES = 2**17
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
        raise ValueError(f"{path} holds the arrays {_some(arrays)}, wanted {WANTED}")
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
            if len(bad) > _FEW and 2 * len(bad) > index:
                raise
            continue
        if index == len(bad):  # the first that can be decoded
            _check_size(len(bounds) - 1, image.shape, len(stream))
            images = np.empty((len(bounds) - 1, *image.shape), dtype=np.uint8)
        if image.shape != images.shape[1:]:
            wanted = f"{images.shape[1:3]} as image {next(k for k in range(index) if k not in bad)}"
            raise ValueError(f"image {index} is {image.shape[:2]} (H, W), wanted {wanted}")
        images[index - len(bad)] = image
    return images[: len(bounds) - 1 - len(bad)], bad


def _check_size(count: int, shape: tuple[int, ...], size: int) -> None:
    """ValueError for images of far more bytes than JPEG files of `size` bytes may mean."""
    needed, most = count * math.prod(shape), _PIXELS + _GROWTH * size
    if needed > most:
        seen = f"{count} images of {shape[0]} x {shape[1]} (H, W)"
        raise ValueError(f"images must take at most {most} bytes, got {seen} from {size} bytes of JPEG")


def _decode(stream: np.ndarray, bounds: np.ndarray, index: int) -> np.ndarray:
    encoded = io.BytesIO(stream[bounds[index] : bounds[index + 1]].tobytes())
    try:
        return np.asarray(open_rgb(encoded, formats=("JPEG",)))
    except ValueError as error:
        raise CorruptImage(f"image {index} is not a readable JPEG: {error}; corrupt=skip leaves such out") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the .npz file at `path`. FileNotFoundError for no file, ValueError for a damaged one."""
    try:
        require_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except UnreadableFile as error:
        raise ValueError(str(error)) from error
    try:
        with path.open("rb") as file:
            return plain.read_arrays(file, limit=plain.largest(path.stat().st_size))[0]
    except (*plain.DAMAGED, MemoryError) as error:
        raise ValueError(f"{path} is not a readable .npz archive of plain arrays: {short(str(error))}") from error


def _jpeg_keys(part: str) -> set[str]:
    return {f"{part}_jpeg", f"{part}_offsets", f"{part}_labels"}


def _jpeg_split(path: Path, part: str, arrays: dict[str, np.ndarray], corrupt: Corrupt) -> tuple[ImageSplit, list[int]]:
    try:
        images, bad = _decode_all(arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"], corrupt)
    except ValueError as error:
        raise ValueError(f"{path}, {part}: {error}") from error
    labels = arrays[f"{part}_labels"]
    if labels.ndim != 1:
        raise ValueError(f"{path}, {part}: labels must be integers [N], got {labels.dtype} {list(labels.shape)}")
    if len(labels) != len(images) + len(bad):
        raise ValueError(f"{path}, {part}: images and labels must agree in length, got {len(images)} and {len(labels)}")
    return _split(path, part, images, np.delete(labels, bad)), bad


def _split(path: Path, part: str, images: np.ndarray, labels: np.ndarray) -> ImageSplit:
    try:
        return ImageSplit.from_arrays(images, labels)
    except ValueError as error:
        raise ValueError(f"{path}, {part}: {error}") from error


def stored_classes(arrays: dict[str, np.ndarray]) -> tuple[str, ...] | None:
    """The class names that a file holds as `classes` or `names`, if it holds them. ValueError for other than names."""
    for key in ("classes", "names"):
        if key in arrays:
            if arrays[key].size > _MOST_CLASSES:
                raise ValueError(f"{key} must be at most {_MOST_CLASSES} names, got {arrays[key].size}")
            return tuple(arrays[key].astype(str).ravel().tolist())
    return None


def _some(arrays: dict[str, np.ndarray]) -> list[str]:
    return [name[:40] for name in sorted(arrays)[:20]]
