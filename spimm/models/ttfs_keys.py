"""Key map of DTA-TTFS's published networks, the directly trained ones and the ANN twins, which share their keys.

Facts about the format: convolutions, their neurons and pools are numbered in one row `conv.{i}`, with weights
`conv.{i}.cnn.weight`; fully connected layers and their neurons in another, `fc.{i}.linear.weight`.
"""

from collections.abc import Mapping

from torch import Tensor

from spimm.models.ttfs import TTFSNet


def key_map(model: TTFSNet) -> dict[str, list[str]]:
    """Our key -> the authors' key, in a list."""
    keys: dict[str, list[str]] = {}
    number = 0
    for i, stage in enumerate(model.stages):
        for name, module in stage.named_children():  # type: ignore[union-attr]
            weight = next((key for key, _ in module.named_parameters()), None)
            if weight is None:
                continue  # an input code
            keys[f"stages.{i}.{name}.{weight}"] = [f"conv.{number}.cnn.weight"]
            number += 3 if module.pool > 1 else 2  # type: ignore[operator]
    layers = [f"hidden.{i}.product.weight" for i in range(len(model.hidden))]
    for i, key in enumerate([*layers, "head.weight"] if model.num_classes else layers):
        keys[key] = [f"fc.{2 * i}.linear.weight"]
    return keys


def num_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """Rows of the last fully connected layer."""
    numbers = [int(key.split(".")[1]) for key in tensors if key.startswith("fc.")]
    return len(tensors[f"fc.{max(numbers)}.linear.weight"]) if numbers else None
