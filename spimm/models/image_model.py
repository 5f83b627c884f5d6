"""What every model is: stages whose maps are described, a classifier that can be replaced, and the names that timm has
for these things, so that its scripts and its test of models work on ours.

T time, B batch, C channels, H W space, P planes (of spike times), D width of the last stage.
"""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch.fx
from torch import Tensor, nn

from spimm.kernels.cpu import channels_last
from spimm.models.features import FeatureList, marked, pick_stages
from spimm.models.settings import ImageConfig, check_global_pool
from spimm.weights import mark_untrained

Maps = dict[int, Tensor]
torch.fx.wrap("marked")


class ImageModel(nn.Module, abc.ABC):
    """x: image [B, C, H, W] or sequence [B, T, C, H, W] -> logits [B, num_classes]. Nothing is kept between calls.

    The logits of a sample with a NaN or an infinity are NaN.

    A family makes the maps of its stages, described in `feature_info`, and the head behind the last one.

    With `global_pool` "" a model without classifier returns the last map, its mean over time [B, D, H, W].
    `drop_rate`: share of the classifier's input that is dropped in training.
    `batch_first`: `forward_features` returns and `forward_head` takes [B, D, H, W, T], without the last axis for
    one step; maps are means over time. This is the form that timm's tools expect; nothing else changes.
    """

    head: nn.Module
    num_features: int
    """Channels of the last map."""
    stages: nn.ModuleList
    planes: int | None = None
    """Of maps of spike times; None for maps without such an axis."""

    def __init__(self, config: ImageConfig):
        super().__init__()
        self.num_classes = config.num_classes
        self.num_steps, self.in_chans = config.num_steps, config.in_chans
        self.global_pool, self.drop_rate = config.global_pool, config.drop_rate
        self.batch_first = False
        self.image_size: int | None = getattr(config, "image_size", None)
        self.feature_info: list[dict[str, Any]] = []
        self.pretrained_cfg: Mapping[str, Any] = {}
        self.untrained = "weights"  # see weights.untrained
        self.register_load_state_dict_post_hook(_loaded)

    @abc.abstractmethod
    def run_stages(self, x: Tensor, last: int | None = None) -> tuple[Tensor, Maps]:
        """Features [T, B, (P,) D, H, W] for the head, and the map of each stage [T, B, C_i, H_i, W_i] by its number.

        With `last` no stage after that one runs, and the features are its map.
        """

    @abc.abstractmethod
    def run_head(self, features: Tensor, pre_logits: bool = False) -> Any:
        """Features -> logits [B, num_classes]; `pre_logits`, or no classifier: what the classifier takes."""

    @abc.abstractmethod
    def _classifier(self, num_classes: int) -> nn.Module:
        """A new classifier; an identity for 0 classes."""

    @abc.abstractmethod
    def layers(self) -> list[nn.Module]:
        """The layers in the order of the data, as coarse as the family sees them, without what is behind the last."""

    @abc.abstractmethod
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether training keeps only the inputs of the parts of stages and computes the rest again."""

    @abc.abstractmethod
    def _remove_head(self) -> None:
        """Removes all that is behind the last stage."""

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Names of the modules that depend on the number of classes."""
        return ("head",)

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier takes."""
        return self.num_features

    @property
    def default_cfg(self) -> Mapping[str, Any]:
        """timm's other name of `pretrained_cfg`: how images have to look, see models/data_config.py."""
        return self.pretrained_cfg

    def forward(self, x: Tensor) -> Any:
        output = self._head(self.run_stages(x)[0])
        if isinstance(output, tuple):
            return tuple(marked(logits, x) for logits in output)
        return marked(output, x)

    def forward_features(self, x: Tensor) -> Tensor:
        """What the head takes, [T, B, (P,) D, H, W]; for `batch_first` see the class."""
        features = self.run_stages(x)[0]
        return self._batch_first(features) if self.batch_first else features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Any:
        """What `forward_features` returned -> logits [B, num_classes]; `pre_logits`: what the classifier takes."""
        return self._head(self._time_first(features) if self.batch_first else features, pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Sequence[int] | int | None = None,
        *,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str | None = None,
        intermediates_only: bool = False,
    ) -> Any:
        """Maps of the chosen stages (all, the last n, or by number). Returns (features, maps), or only maps.

        output_fmt: TNCHW, each map [T, B, C_i, H_i, W_i], the default; or NCHW, the mean over time [B, C_i, H_i, W_i],
        the default of `batch_first`. With `intermediates_only` no stage after the last one asked for runs. ValueError
        for other formats and for `norm`: maps here have no norm of their own.
        """
        if norm:
            raise ValueError(
                f"norm is {norm}; the maps of {type(self).__name__} have no norm behind them, expected False"
            )
        form = output_fmt or ("NCHW" if self.batch_first else "TNCHW")
        if form not in ("NCHW", "TNCHW"):
            raise ValueError(f"output_fmt is {output_fmt!r}; expected NCHW or TNCHW")
        chosen = pick_stages(indices, len(self.feature_info))
        if intermediates_only and not chosen:
            return []
        last = max(chosen) if intermediates_only or (stop_early and chosen) else None
        features, maps = self.run_stages(x, None if last == len(self.feature_info) - 1 else last)
        found = [maps[index] if form == "TNCHW" else channels_last(maps[index].mean(0), 1) for index in chosen]
        if intermediates_only:
            return found
        return (self._batch_first(features) if self.batch_first else features), found

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by a new one; 0 classes leave what it takes, or with global_pool "" the last map.

        None keeps the pooling; a classifier after none brings back the mean, which it needs.
        """
        pool = self.global_pool or ("avg" if num_classes else "") if global_pool is None else global_pool
        check_global_pool(pool, num_classes)
        self.num_classes, self.global_pool = num_classes, pool
        self.head = self._classifier(num_classes).train(self.training)
        self.untrained = self.untrained or ("classifier" if num_classes else "")

    def get_classifier(self) -> nn.Module:
        """The classifier, or an identity."""
        return self.head

    def prune_intermediate_layers(
        self, indices: Sequence[int] | int | None = None, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what the maps of the chosen stages do not need: later stages, and neurons and heads after the last.

        Returns the numbers of the stages. `prune_norm` is timm's; there is no norm after the stages. With prune_head
        False the head stays, which needs the last stage: else ValueError.
        """
        chosen = pick_stages(indices, len(self.feature_info))
        if not chosen:
            raise ValueError(f"stages are {indices}; expected at least one, such as out_indices=(-1,)")
        if prune_head:
            self._keep_stages(max(chosen) + 1)
        elif max(chosen) + 1 < len(self.feature_info):
            raise ValueError(f"prune_head is False for stages {chosen}; the head takes the map of the last stage")
        return chosen

    def features_only(self, indices: Sequence[int] | int | None = None, *, per_step: bool = False) -> FeatureList:
        """This model as a backbone: a list of maps, the mean over time or `per_step` (see FeatureList)."""
        return FeatureList(self, indices, per_step=per_step)

    def layer_depths(self) -> dict[str, int]:
        """Depth of every parameter by its name: 0 in the first of `layers`, one more in each, most in the head."""
        layers = self.layers()
        depths = {id(weight): depth for depth, layer in enumerate(layers) for weight in layer.parameters()}
        return {name: depths.get(id(weight), len(layers)) for name, weight in self.named_parameters()}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """From a parameter's name to its layer, for timm's layer-wise learning rates; `coarse`: to its stage."""
        if not coarse:
            return self.layer_depths().__getitem__
        stages = len(self.stages)
        return lambda name: int(name.split(".")[1]) if name.startswith("stages.") else stages

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that modules exempt from weight decay."""
        own: Iterable[tuple[str, Any]] = ((name, module) for name, module in self.named_modules() if name)
        declared = ((name, getattr(module, "no_weight_decay", None)) for name, module in own)
        return {f"{prefix}.{name}" for prefix, declare in declared if declare is not None for name in declare()}

    def _keep_stages(self, count: int) -> None:
        self.stages = nn.ModuleList(self.stages[:count])
        del self.feature_info[count:]
        self.num_features = self.feature_info[-1]["num_chs"]
        self._remove_head()
        self.reset_classifier(0)

    def _head(self, features: Tensor, pre_logits: bool = False) -> Any:
        if self.global_pool or pre_logits:
            return self.run_head(features, pre_logits)
        return (features if self.planes is None else features[:, :, 0]).mean(0)

    def _batch_first(self, features: Tensor) -> Tensor:
        """[T, B, (P,) D, H, W] -> [B, D, H, W, T P], or [B, D, H, W]."""
        planes = features.unsqueeze(2) if self.planes is None else features
        moved = planes.permute(1, 3, 4, 5, 0, 2).flatten(4)
        return moved.squeeze(-1) if moved.shape[-1] == 1 else moved

    def _time_first(self, features: Tensor) -> Tensor:
        """The inverse of `_batch_first`."""
        moved = features.unsqueeze(-1) if features.dim() == 4 else features
        planes = moved.unflatten(-1, (-1, self.planes or 1)).permute(4, 0, 5, 1, 2, 3)
        return planes.squeeze(2) if self.planes is None else planes


def _loaded(model: nn.Module, keys: Any) -> None:
    """After `load_state_dict`: the model has loaded weights if none are missing."""
    if not keys.missing_keys:
        mark_untrained(model, "")
