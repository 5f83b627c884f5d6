"""Loss and accuracy of a model over a data set."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from spimm.tasks import Classify
from spimm.train.broken import check_images
from spimm.train.distributed import Ranks


class Batches(Protocol):
    """What training and evaluation ask of a loader: (images [B, C, H, W], labels [B]) from any batch of an epoch on."""

    def __len__(self) -> int: ...

    def iterate(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` is a GPU if there is one, else the CPU. ValueError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def compute_in(precision: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 for `bf16`, nothing for `fp32`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Batches,
    task: Classify,
    *,
    precision: str = "fp32",
    device: str | torch.device = "auto",
    confusion: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """`top1`, `untied_top1` (ties counted wrong) and `top5` in percent, `loss` in nats per image, `images`.

    `confusion` adds the matrix of that name.

    The model is moved to `device`, run in eval mode, and left in the mode it was in. ranks: those whose loaders share
    the data set; the numbers are those of all of it, on every rank.
    """
    place = device if isinstance(device, torch.device) else pick_device(device)
    model.to(place)
    modes = {module: module.training for module in model.modules()}
    metric = task.metric(confusion=confusion)
    model.eval()
    try:
        for batch, (images, labels) in enumerate(loader.iterate(0)):
            if not len(labels):  # all images of the batch are corrupt and left out
                continue
            task.check_labels(labels)
            check_images(images, loader, 0, batch)
            with compute_in(precision, place):
                output = model(images.to(place, non_blocking=True))
            metric.update(output, labels.to(place, non_blocking=True))
    finally:
        for module, training in modes.items():
            module.training = training
    if ranks is not None:
        metric.combine(ranks.total)
    return metric.compute()
