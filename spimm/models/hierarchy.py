"""What hierarchical models share: stages in a row, each a patch embedding and blocks, and a head on the last map.

T time, B batch, C channels, H W space, D width of the last stage.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.functional import dropout

from spimm.layers import as_sequence, checkpointed, set_memory
from spimm.models.image_model import ImageModel, Maps
from spimm.models.settings import ModelConfig


class Stage(nn.Module):
    """Patch embedding and blocks of one resolution. x: [T, B, C, H, W] -> [T, B, dim, H / stride, W / stride].

    Without an embedding the first block changes resolution and width.
    """

    def __init__(self, embed: nn.Module | None, blocks: Sequence[nn.Module], *, checkpoint: bool):
        super().__init__()
        self.embed = embed
        self.blocks = nn.Sequential(*blocks)
        self.checkpoint = checkpoint

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        call = checkpointed if self.checkpoint else _call
        x = x if self.embed is None else call(self.embed, x, num_steps)
        for block in self.blocks:
            x = call(block, x)
        return x


def _call(module: nn.Module, *inputs: Any) -> Tensor:
    return module(*inputs)


class HierarchicalModel(ImageModel):
    """Stages in a row. A family gives them, with their widths and strides, says what happens behind the last one
    (`last_neuron`), and may have another head (`run_head`).
    """

    last_neuron: nn.Module

    def __init__(self, config: ModelConfig, stages: Sequence[Stage], widths: Sequence[int], strides: Sequence[int]):
        super().__init__(config)
        self.num_features = widths[-1]
        self.stages = nn.ModuleList(stages)
        self.reduction = 1
        for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            self.reduction *= stride
            self.feature_info.append({"num_chs": width, "reduction": self.reduction, "module": f"stages.{i}"})
        self.last_neuron = nn.Identity()
        self.reset_classifier(config.num_classes)
        set_memory(self, config.memory)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run_stages(self, x: Tensor, last: int | None = None) -> tuple[Tensor, Maps]:
        """As ImageModel's; features: the last map, [T, B, D, H', W']."""
        x, num_steps = _sequence(x, self.num_steps, self.in_chans, self.reduction)
        maps: Maps = {}
        for index, stage in enumerate(self.stages[: None if last is None else last + 1]):
            x = maps[index] = stage(x, num_steps if index == 0 else None)
        return (x if last is not None else self.last_neuron(x)), maps

    def layers(self) -> list[nn.Module]:
        """Each patch embedding and each block."""
        stages: list[Any] = list(self.stages)
        return [part for stage in stages for part in (stage.embed, *stage.blocks) if part is not None]

    def run_head(self, features: Tensor, pre_logits: bool = False) -> Any:
        """[T, B, D, H', W'] -> logits [B, num_classes]: mean over space and time, then linear.

        `pre_logits`, or no classifier: the mean, [B, D].
        """
        mean = pooled(features).mean(0)
        if pre_logits or isinstance(self.head, nn.Identity):
            return mean
        return self.head(dropout(mean.to(next(self.head.parameters()).dtype), self.drop_rate, self.training))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training keeps only the inputs of embeddings and blocks and computes the rest again."""
        stages: list[Any] = list(self.stages)
        for stage in stages:
            stage.checkpoint = enable

    def _remove_head(self) -> None:
        self.last_neuron = nn.Identity()
        self.reduction = self.feature_info[-1]["reduction"]

    def _classifier(self, num_classes: int) -> nn.Module:
        if not num_classes:
            return nn.Identity()
        like = next(self.stages.parameters())
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head


@torch.fx.wrap
def _sequence(x: Tensor, num_steps: int, in_chans: int, reduction: int) -> tuple[Tensor, int]:
    """`as_sequence` of images that are large enough for the last map."""
    x, num_steps = as_sequence(x, num_steps, in_chans)
    if min(x.shape[-2:]) < reduction:
        raise ValueError(f"input is {tuple(x.shape[-2:])} pixels; the patch grid needs at least {reduction}")
    return x, num_steps


@torch.fx.wrap
def pooled(features: Tensor) -> Tensor:
    """Mean over space at each step, in float32 or wider. [T, B, D, H, W] -> [T, B, D]."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    tokens = features.movedim(2, -1).flatten(2, 3)  # their gradient then has the memory order of the features
    return tokens.mean(2, dtype=dtype)
