"""Tiny image files, written anew for every test that asks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes `count` random 12x10 images per class under ROOT/part/class and returns ROOT."""

    def write(parts: tuple[str, ...] = ("train", "val"), classes: tuple[str, ...] = ("cat", "dog"), count=3) -> Path:
        random = np.random.default_rng(0)
        for part in parts:
            for name in classes:
                folder = tmp_path / "images" / part / name
                folder.mkdir(parents=True)
                for index in range(count):
                    pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{index}.png")
        return tmp_path / "images"

    return write
