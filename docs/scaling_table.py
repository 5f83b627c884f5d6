"""Prints the plan of scaling.md: `python docs/scaling_table.py`. Seconds."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from spimm.models import create_model
from spimm.train import load_recipe
from spimm.train.plan import KNOWN, Memory, hours, images_seen

ACHIEVED = 60e12
"""Operations a second of a GPU in training; assumed."""
EFFICIENCY = {8: 0.95, 64: 0.8}
"""Share of that speed that is left when so many GPUs work together; assumed."""
PER_MACHINE = 8
"""GPUs."""
LOADED = 230
"""Images a second that one core decodes, crops and augments; measured."""


MEMORY = {
    "qkformer_imagenet_10_384": Memory(0.15, 0.2445),
    "qkformer_imagenet_10_768": Memory(0.84, 0.4576),
    "metaspikeformer_imagenet_55m": Memory(0.88, 0.1537),
}
"""GiB of a step and of each image in it, in bf16, as `spimm train RECIPE --dry-run` measured them on a core."""


@torch.no_grad()
def gmacs(model: nn.Module) -> float:
    """Multiply-accumulates, in 1e9, that convolutions and linear layers need for a 224-pixel image if all is dense."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.Linear):
            total += output.numel() * module.weight[0].numel()

    for module in model.modules():
        module.register_forward_hook(count)
    model.eval()(torch.zeros(1, 3, 224, 224))
    return total / 1e9


def rows() -> Iterator[str]:
    yield "| recipe | GMAC | GPUs | batch | a GPU | steps | images/s | hours | GiB a GPU | loading cores a machine |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name, memory in MEMORY.items():
        recipe, data = load_recipe(name), KNOWN["imagefolder"]
        work = gmacs(create_model(recipe.model, **recipe.model_options))
        images = images_seen(recipe, data.train)
        for gpus, efficiency in EFFICIENCY.items():
            share = recipe.batch_size / gpus
            speed = ACHIEVED / (3 * 2 * work * 1e9)
            together = speed * gpus * efficiency
            taken = hours(images, speed, processes=gpus, efficiency=efficiency)
            cores = math.ceil(together * PER_MACHINE / gpus / LOADED)
            yield (
                f"| `{name}` | {work:.1f} | {gpus} | {recipe.batch_size} | {share:g} | "
                f"{images // recipe.batch_size:,} | {together:,.0f} | {taken:.2g} | "
                f"{memory.fixed + memory.per_image * share:.1f} | {cores} |"
            )


if __name__ == "__main__":
    print("\n".join(rows()))
