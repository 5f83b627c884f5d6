"""RandAugment in timm's notation and with timm's operations, drawn for each image from torch's generator.

Cubuk et al. 2020; what the parts of a policy such as `rand-m9-mstd0.5-inc1` mean: `timm.data.rand_augment_transform`.
"""

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# timm's limit of a translation, as a share of the shorter side
TRANSLATION = 0.45
_PART = re.compile(r"-(m\d+|n[1-9]\d*|p(0?\.\d+|1(\.0)?)|mstd(\d+(\.\d+)?)|mmax[1-9]\d*|inc[01]|t[a-z3]+)")
_SETS = ("tweights", "t3a", "t3aw")


def check_policy(policy: str) -> None:
    """Raises ValueError for a text that is not `rand`, then parts such as -m9 (magnitude), -n2, -mstd0.5, -inc1."""
    parts = [found[1] for found in _PART.finditer(policy)]
    known = all(part in _SETS for part in parts if part.startswith("t"))
    if policy != "-".join(["rand", *parts]) or not known:
        raise ValueError(f"rand_augment must be None or a policy of timm such as rand-m9-mstd0.5-inc1, got {policy!r}")


def rand_augment(images: Tensor, generator: torch.Generator, policy: str, *, fill: tuple[int, ...]) -> Tensor:
    """RandAugment by that policy, bicubic, `fill` (a level for each channel) outside. uint8 [B, 1 or 3, H, W] -> same.

    Raises ValueError for images that are not uint8.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"rand_augment wants uint8 images, got {images.dtype}")
    change = _transform(policy, min(images.shape[-2:]), fill)
    seeds = torch.randint(2**31, (len(images),), generator=generator, device=images.device).tolist()
    pixels_BHWC = images.permute(0, 2, 3, 1).cpu().numpy()
    changed = np.empty(pixels_BHWC.shape, dtype=np.uint8)
    with _kept_generators():
        for row, (pixels, seed) in enumerate(zip(pixels_BHWC, seeds, strict=True)):
            random.seed(seed)
            np.random.seed(seed)
            image = Image.fromarray(pixels[..., 0] if len(fill) == 1 else pixels)
            changed[row] = np.asarray(change(image)).reshape(pixels.shape)
    return torch.from_numpy(changed).to(images.device).permute(0, 3, 1, 2)


@cache
def _transform(policy: str, side: int, fill: tuple[int, ...]) -> Callable[[Image.Image], Image.Image]:
    from timm.data.auto_augment import rand_augment_transform

    colour: Any = fill[0] if len(fill) == 1 else fill
    hparams = {
        "translate_const": int(side * TRANSLATION),
        "img_mean": colour,
        "interpolation": Image.Resampling.BICUBIC,
    }
    return rand_augment_transform(policy, hparams)


@contextmanager
def _kept_generators() -> Iterator[None]:
    """Python's and numpy's global generators, from which timm draws, are afterwards as before."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
