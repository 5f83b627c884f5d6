"""What becomes of images and recordings that cannot be read."""

from typing import Literal

Corrupt = Literal["refuse", "skip"]
"""refuse: an error that names the first one. skip: they are left out, counted and named."""
