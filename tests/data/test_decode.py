"""Every kind of image file becomes the same 8-bit RGB picture, upright."""

import contextlib
import io
import logging
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, features

from spimm.data import load_data
from spimm.data.decode import CorruptImage, _formats, decode, suffixes, tell_of_frames
from spimm.data.files import ImageFiles

GREY = np.linspace(0, 255, 12 * 16).round().reshape(12, 16).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)
WIDE = GREY.astype(np.uint16) * 257


def png(samples: np.ndarray) -> bytes:
    """A PNG of 16 bits from uint16 [H, W, C], which PIL writes for grey alone."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, channels = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(samples: np.ndarray) -> bytes:
    """A plain RGB TIFF of 16 bits from uint16 [H, W, 3]."""
    data = samples.astype("<u2").tobytes()
    height, width, _ = samples.shape
    entries = 9
    bits = 8 + 2 + 12 * entries + 4
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, bits + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data))]
    directory = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, entries) + directory + struct.pack("<I", 0)
    return head + struct.pack("<3H", 16, 16, 16) + data


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(content: bytes, path: Path) -> np.ndarray:
    path.write_bytes(content)
    return np.asarray(decode(path)).astype(int)


grey, colour = Image.fromarray(GREY), Image.fromarray(COLOUR)
GREY_KINDS = {
    "8.png": stored(grey, "PNG"),
    "16.png": stored(Image.fromarray(WIDE), "PNG"),
    "16.tif": stored(Image.fromarray(WIDE), "TIFF"),
    "16.jp2": stored(Image.fromarray(WIDE), "JPEG2000", irreversible=False),
    "16.pgm": b"P5 16 12 65535\n" + WIDE.astype(">u2").tobytes(),
    "10.pgm": b"P5 16 12 1023\n" + np.rint(GREY * (1023 / 255)).astype(">u2").tobytes(),
    "float.tif": stored(Image.fromarray((GREY / 255).astype(np.float32)), "TIFF"),
    "whole.tif": stored(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
    "32.tif": stored(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
    "float.pfm": stored(Image.fromarray((GREY / 255).astype(np.float32)), "PPM"),
    "alpha 16.png": png(np.stack([WIDE, np.full_like(WIDE, 65535)], axis=-1)),
    "palette.gif": stored(grey.convert("P"), "GIF"),
}
COLOUR_KINDS = {
    "8.bmp": stored(colour, "BMP"),
    "8.webp": stored(colour, "WEBP", lossless=True),
    "16.png": png(COLOUR.astype(np.uint16) * 257),
    "alpha 16.png": png(np.concatenate([COLOUR.astype(np.uint16) * 257, np.full((12, 16, 1), 65535, np.uint16)], 2)),
    "16.tif": tiff(COLOUR.astype(np.uint16) * 257),
    "16.ppm": b"P6 16 12 65535\n" + (COLOUR.astype(np.uint16) * 257).astype(">u2").tobytes(),
    "cmyk.tif": stored(
        Image.merge("CMYK", [*colour.point(lambda v: 255 - v).split(), Image.new("L", (16, 12))]), "TIFF"
    ),
    "opaque.png": stored(colour.convert("RGBA"), "PNG"),
}


@pytest.mark.parametrize("name", GREY_KINDS)
def test_grey_of_any_depth_becomes_the_same_8_bits(name: str, tmp_path: Path) -> None:
    seen = read(GREY_KINDS[name], tmp_path / name)
    assert np.abs(seen - GREY[..., None]).max() <= (1 if "10" in name else 0)


@pytest.mark.parametrize("name", COLOUR_KINDS)
def test_colour_of_any_depth_becomes_the_same_8_bits(name: str, tmp_path: Path) -> None:
    assert np.array_equal(read(COLOUR_KINDS[name], tmp_path / name), COLOUR)


def test_black_and_white_become_0_and_255(tmp_path: Path) -> None:
    seen = read(stored(Image.fromarray(GREY > 99), "PNG"), tmp_path / "one.png")
    assert np.array_equal(seen, np.where(GREY > 99, 255, 0)[..., None].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        (np.array([[0.0, 300.0]], np.float32), "0 to 300"),
        (np.array([[-1.0, 1.0]], np.float32), "-1 to 1"),
        (np.array([[0.5, 7.0]], np.float32), "0.5 to 7"),
        (np.array([[0.5, np.nan]], np.float32), "nan to nan"),
        (np.array([[0.5, np.inf]], np.float32), "0.5 to inf"),
        (np.array([[0, 4095]], np.int32), "0 to 4095"),
        (np.array([[-5, 100]], np.int32), "-5 to 100"),
    ],
)
def test_numbers_of_no_known_scale_are_refused_with_their_range(values: np.ndarray, seen: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    with pytest.raises(ValueError, match=rf"a\.tif cannot be decoded as an image: its values go from {seen}, expected"):
        decode(path)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "key"])
def test_what_is_transparent_is_white_whatever_its_colour(kind: str, tmp_path: Path) -> None:
    clear = GREY < 60  # black where it is clear
    options: dict[str, object] = {}
    if kind in ("RGBA", "LA"):
        image = Image.merge(
            kind, [*[grey] * (len(kind) - 1), Image.fromarray(np.where(clear, 0, 255).astype(np.uint8))]
        )
    else:
        image = Image.fromarray(np.where(clear, 0, GREY))
        options["transparency"] = bytes([0] + [255] * 255) if kind == "palette" else 0
        if kind == "palette":
            image = Image.frombytes("P", image.size, image.tobytes())
            image.putpalette([level for level in range(256) for _ in range(3)])
    seen = read(stored(image, "PNG", **options), tmp_path / "a.png")
    assert np.array_equal(seen, np.where(clear, 255, GREY)[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_that_a_camera_notes_is_applied(orientation: int, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = stored(colour, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    assert (expected.shape == COLOUR.shape) == (orientation < 5)
    assert np.array_equal(read(content, tmp_path / "a"), expected)


def test_16_bit_images_and_jpegs_in_archives_are_turned_upright_as_well(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = read(stored(Image.fromarray(WIDE), "PNG", exif=exif), tmp_path / "wide.png")
    assert np.array_equal(wide[..., 0], np.rot90(GREY, -1))
    stream = np.frombuffer(stored(Image.fromarray(GREY), "JPEG", exif=exif, quality=95), np.uint8)
    part = {"jpeg": stream, "offsets": np.array([0, len(stream)]), "labels": np.array([0])}
    arrays = {f"{name}_{key}": value for name in ("train", "test") for key, value in part.items()}
    np.savez(tmp_path / "set.npz", **arrays)
    image, _ = load_data(f"npz:{tmp_path / 'set.npz'}").train[0]
    assert np.abs(image[0].numpy().astype(int) - np.rot90(GREY, -1)).max() < 25


def test_damaged_exif_data_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    content = stored(colour, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(read(content, tmp_path / "a.png"), COLOUR)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_read_and_that_is_said_once(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Image.fromarray(255 - COLOUR)
    options = {"lossless": True} if kind == "WEBP" else {}
    content = stored(
        colour.quantize(256) if kind == "GIF" else colour, kind, save_all=True, append_images=[other], **options
    )
    paths = (str(tmp_path / "a"), str(tmp_path / "b"))
    for path in paths:
        Path(path).write_bytes(content)
    tell_of_frames.cache_clear()
    with caplog.at_level(logging.WARNING):
        images = ImageFiles(paths, 12, crop_fraction=1.0).read([0, 1, 0])
    assert torch.equal(images[0], images[1])
    assert np.abs(np.asarray(decode(paths[0])).astype(int) - COLOUR).max() < 30
    assert [record.getMessage() for record in caplog.records if paths[0] in record.getMessage()] == [
        f"{paths[0]} has several frames: of such images the first frame is read"
    ]
    assert not any(paths[1] in record.getMessage() for record in caplog.records)


def test_no_other_program_is_started_for_a_file_and_its_suffix_does_not_decide(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(tmp_path / "a.png")
    assert not {"EPS", "WMF", "PDF"} & set(_formats())
    assert np.array_equal(read(stored(colour, "BMP"), tmp_path / "a.jpg"), COLOUR)


def test_suffixes_name_what_can_be_read() -> None:
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in _formats()}
    assert set(suffixes()) - {".jpe", ".pfm", ".apng"} <= known


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_whatever_byte_of_a_file_is_wrong_the_error_is_that_of_a_corrupt_image(tmp_path: Path) -> None:
    content = stored(colour, "AVIF")
    for place in range(len(content)):
        path = tmp_path / "a.avif"
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        with contextlib.suppress(CorruptImage), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decode(path)


def tiff_of(values: np.ndarray, *, bits: int, kind: int = 1, photometric: int = 1) -> bytes:
    """A grey TIFF of one strip. kind: 1 unsigned, 2 signed, 3 floats. photometric: 0 where 0 is white."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2)
        packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
        pixels = packed.astype(np.uint8).tobytes()
    else:
        pixels = values.tobytes()
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, height), (279, 4, len(pixels)), (339, 3, kind)]
    start = 8 + len(pixels) + len(pixels) % 2
    entries = b"".join(struct.pack("<HHII", tag, type_, 1, value) for tag, type_, value in tags)
    head = struct.pack("<2sHI", b"II", 42, start) + pixels + bytes(len(pixels) % 2)
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff_of(np.array([[0, 4095], [2048, 16]]), bits=12), [[0, 255], [128, 1]]),
        (tiff_of(np.array([[0, 65535], [257, 514]], "<u2"), bits=16, photometric=0), [[255, 0], [254, 253]]),
        (tiff_of(np.array([[0, 255], [1, 2]], "u1"), bits=8, photometric=0), [[255, 0], [254, 253]]),
    ],
)
def test_what_a_tiff_says_of_its_numbers_is_heard(content: bytes, expected: list[list[int]], tmp_path: Path) -> None:
    assert read(content, tmp_path / "a.tif")[..., 0].tolist() == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff_of(np.array([[0, 200], [1, 2]], "u1"), bits=8, kind=2), "signed bytes"),
        (tiff_of(np.array([[0, 1], [0.5, 0.25]], "<f4"), bits=32, kind=3, photometric=0), "white as 0"),
    ],
)
def test_numbers_of_another_kind_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptImage, match=message):
        read(content, tmp_path / "a.tif")


def test_a_transparent_grey_of_16_bits_is_white(tmp_path: Path) -> None:
    content = png(WIDE[..., None])
    at = content.index(b"IDAT") - 4
    data = b"tRNS" + struct.pack(">H", int(WIDE[3, 4]))
    chunk = struct.pack(">I", 2) + data + struct.pack(">I", zlib.crc32(data))
    seen = read(content[:at] + chunk + content[at:], tmp_path / "a.png")[..., 0]
    assert (seen == np.where(WIDE[3, 4] == WIDE, 255, (WIDE.astype(int) + 128) // 257)).all()
