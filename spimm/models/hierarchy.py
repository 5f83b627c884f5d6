"""What hierarchical models share: stages in a row, their maps, and a head that can be replaced.

T time, B batch, C channels, H W space, D width of the last stage.
"""

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spimm.layers import as_sequence, checkpointed, set_memory
from spimm.models.features import FeatureList, marked, pick_stages
from spimm.models.settings import ImageConfig, ModelConfig


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


class ImageModel(nn.Module, abc.ABC):
    """x: image [B, C, H, W] or sequence [B, T, C, H, W] -> logits [B, num_classes]. Nothing is kept between calls.

    The logits of a sample with a NaN or an infinity are NaN.

    A family gives the maps of its stages, told of in `feature_info`, and the head behind the last one.
    """

    head: nn.Module
    num_features: int

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.num_classes = config.num_classes
        self.num_steps, self.in_chans = config.num_steps, config.in_chans
        self.feature_info: list[dict[str, int | str]] = []

    @abc.abstractmethod
    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, *, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of the chosen stages (all, the last n, or by number), each [T, B, C_i, H_i, W_i].

        Returns (features, maps), or maps alone; later stages than the last one asked for are not run then.
        """

    @abc.abstractmethod
    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Any:
        """Features -> logits [B, num_classes]; `pre_logits`, or no classifier: what the classifier takes, [B, D]."""

    @abc.abstractmethod
    def _classifier(self, num_classes: int) -> nn.Module:
        """A new classifier; an identity for 0 classes."""

    @abc.abstractmethod
    def layers(self) -> list[nn.Module]:
        """The layers in the order of the data, as coarse as the family sees them, without what is behind the last."""

    def layer_depths(self) -> dict[str, int]:
        """Depth of every parameter by its name: 0 in the first of `layers`, one more in each, most in the head."""
        layers = self.layers()
        depths = {id(weight): depth for depth, layer in enumerate(layers) for weight in layer.parameters()}
        return {name: depths.get(id(weight), len(layers)) for name, weight in self.named_parameters()}

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head takes, [T, B, ...]."""
        return self.forward_intermediates(x, [])[0]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Any:
        output = self.forward_head(self.forward_features(x))
        if isinstance(output, tuple):
            return tuple(marked(logits, x) for logits in output)
        return marked(output, x)

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the classifier by a new one; 0 classes leave the pooled features [B, D]."""
        self.num_classes = num_classes
        self.head = self._classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """The classifier, or an identity."""
        return self.head

    def features_only(self, indices: Sequence[int] | int | None = None, *, per_step: bool = False) -> FeatureList:
        """This model as a backbone: a list of maps, the mean over time or `per_step` (see FeatureList)."""
        self.reset_classifier(0)
        return FeatureList(self, indices, per_step=per_step)


class HierarchicalModel(ImageModel):
    """Stages in a row. A family gives them, with their widths and strides, says what happens behind the last one
    (`last_neuron`), and may have another head (`forward_head`).
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

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, *, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """As ImageModel's; features: the last map, [T, B, D, H', W']."""
        wanted = pick_stages(indices, len(self.stages))
        steps, num_steps = as_sequence(x, self.num_steps, self.in_chans)
        if min(steps.shape[-2:]) < self.reduction:
            raise ValueError(
                f"input is {tuple(steps.shape[-2:])} pixels; the patch grid needs at least {self.reduction}"
            )
        x = steps
        maps: dict[int, Tensor] = {}
        for index, stage in enumerate(self.stages):
            if intermediates_only and index > max(wanted, default=-1):
                break
            x = maps[index] = stage(x, num_steps if index == 0 else None)
        chosen = [maps[index] for index in wanted]
        return chosen if intermediates_only else (self.last_neuron(x), chosen)

    def layers(self) -> list[nn.Module]:
        """Each patch embedding and each block."""
        stages: list[Any] = list(self.stages)
        return [part for stage in stages for part in (stage.embed, *stage.blocks) if part is not None]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Any:
        """[T, B, D, H', W'] -> logits [B, num_classes]: mean over space and time, then linear.

        `pre_logits`, or no classifier: the mean, [B, D].
        """
        mean = pooled(features).mean(0)
        if pre_logits or isinstance(self.head, nn.Identity):
            return mean
        return self.head(mean.to(next(self.head.parameters()).dtype))

    def _classifier(self, num_classes: int) -> nn.Module:
        if not num_classes:
            return nn.Identity()
        like = next(self.stages.parameters())
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head


def pooled(features: Tensor) -> Tensor:
    """Mean over space at each step, in float32 or wider. [T, B, D, H, W] -> [T, B, D]."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    tokens = features.movedim(2, -1).flatten(2, 3)  # their gradient then has the memory order of the features
    return tokens.mean(2, dtype=dtype)
