"""A tiny data set and network on which a whole training run takes a fraction of a second."""

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spimm.data import Augment, ImageData, ImageSplit
from spimm.train import Recipe


class TinyNet(nn.Module):
    """Convolution, batch norm, dropout and a linear head, always with the same first weights.

    At its training step `fail_at` it passes its logits through `fail`.
    """

    def __init__(
        self, num_classes: int = 3, *, fail_at: int = -1, fail: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.head = nn.Linear(6, num_classes)
        self.training_steps = 0
        self._fail_at, self._fail = fail_at, fail

    def layer_depths(self) -> dict[str, int]:
        return {name: int(name.startswith("head")) for name, _ in self.named_parameters()}

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv(images))).mean((2, 3))
        logits = self.head(nn.functional.dropout(hidden, 0.2, self.training))
        self.training_steps += self.training
        if self._fail is not None and self.training and self.training_steps == self._fail_at:
            return self._fail(logits)
        return logits


def signal_at(step: int, number: int) -> TinyNet:
    """A network that sends this process a signal in the middle of its training step `step`."""

    def send(logits: Tensor) -> Tensor:
        os.kill(os.getpid(), number)
        return logits

    return TinyNet(fail_at=step, fail=send)


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


@pytest.fixture(scope="session")
def data() -> ImageData:
    """40 training and 21 test images, 1x6x6, three classes of different brightness."""
    random = np.random.default_rng(0)

    def split(size: int) -> ImageSplit:
        labels = np.arange(size) % 3
        images = random.integers(0, 120, (size, 6, 6)) + 40 * labels[:, None, None]
        return ImageSplit.from_arrays(images.astype(np.uint8), labels)

    names = ("dark", "grey", "bright")
    return ImageData("shades", split(40), split(21), class_names=names, mean=(0.4,), std=(0.2,), note="made here")


@pytest.fixture
def recipe() -> Recipe:
    """Three epochs of five steps."""
    return Recipe(
        model="tiny",
        data="shades",
        augment=Augment(pad=1, flip=True),
        epochs=3,
        batch_size=8,
        lr=1e-2,
        warmup_epochs=1,
        clip_norm=1.0,
        log_every=1,
        tensorboard=False,
        device="cpu",
    )
