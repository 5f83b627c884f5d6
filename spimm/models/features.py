"""A backbone's stage outputs as a list of maps, for necks and heads that know nothing of time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch.fx
from torch import Tensor, nn


class FeatureInfo(list[dict[str, Any]]):
    """One dict for each map: num_chs, reduction (input size over map size), module, index (the number of its stage).

    Questions are those of timm's class of that name: `channels()`, `reduction()`, `module_name()`, `get(key)`,
    `get_dicts()`, of all maps or of those at the positions `idx`, one number or several.
    """

    @property
    def out_indices(self) -> tuple[int, ...]:
        """Numbers of the stages whose maps these are."""
        return tuple(info["index"] for info in self)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """The values under `key`; of one position the value itself."""
        if isinstance(idx, int):
            return self[idx][key]
        return [info[key] for info in self._at(idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """The dicts, or what they have under `keys`; of one position the dict itself."""
        found = [{key: info[key] for key in keys or info} for info in self._at([idx] if isinstance(idx, int) else idx)]
        return found[0] if isinstance(idx, int) else found

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of the maps."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Input size over map size."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Names of the modules that make the maps."""
        return self.get("module", idx)

    def _at(self, positions: Sequence[int] | None) -> list[dict[str, Any]]:
        return list(self) if positions is None else [self[position] for position in positions]


class Backbone(Protocol):
    """What FeatureList needs of a model."""

    feature_info: list[dict[str, Any]]
    pretrained_cfg: Mapping[str, Any]

    @property
    def forward_intermediates(self) -> Callable[..., Any]: ...

    def prune_intermediate_layers(self, indices: Sequence[int] | int | None = None) -> list[int]: ...

    def set_grad_checkpointing(self, enable: bool = True) -> None: ...


def pick_stages(indices: Sequence[int] | int | None, num_stages: int) -> list[int]:
    """Stage numbers from a selection: None for all, n for the last n, or numbers (negative from the end)."""
    if indices is None:
        return list(range(num_stages))
    if isinstance(indices, int):
        if not 1 <= indices <= num_stages:
            raise ValueError(f"asked for the last {indices} stages; the model has {num_stages}")
        return list(range(num_stages - indices, num_stages))
    for index in indices:
        if not -num_stages <= index < num_stages:
            raise ValueError(f"stage {index} does not exist; the model has stages 0 to {num_stages - 1}")
    return [index % num_stages for index in indices]


@torch.fx.wrap
def marked(output: Tensor, x: Tensor, batch_dim: int = 0) -> Tensor:
    """`output`, NaN for the samples of x, [B, ...], that hold a NaN or an infinity, which no threshold lets through."""
    x = x.detach()
    mark = (x - x).sum(tuple(range(1, x.dim())))  # 0, or NaN
    return output + mark.to(output.dtype).view(-1, *[1] * (output.dim() - batch_dim - 1))


class FeatureList(nn.Module):
    """Mean over time of each chosen stage. x: [B, C, H, W] or [B, T, C, H, W] -> list of [B, C_i, H_i, W_i].

    `per_step` leaves the steps apart: [T, B, C_i, H_i, W_i], T = 1 if all that is before the map is the same at every
    step. The model keeps only what these maps need: later stages, neurons and heads are removed from it.

    Maps of a sample with a NaN or an infinity are NaN. `feature_info` describes the maps, see FeatureInfo.
    """

    def __init__(self, model: Backbone, indices: Sequence[int] | int | None = None, *, per_step: bool = False):
        super().__init__()
        self.per_step = per_step
        self.indices = model.prune_intermediate_layers(indices)
        self.model = model
        self.feature_info = FeatureInfo({**model.feature_info[index], "index": index} for index in self.indices)

    @property
    def pretrained_cfg(self) -> Mapping[str, Any]:
        """The model's, see ImageModel."""
        return self.model.pretrained_cfg

    @property
    def default_cfg(self) -> Mapping[str, Any]:
        """timm's other name of it."""
        return self.pretrained_cfg

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As the model's."""
        self.model.set_grad_checkpointing(enable)

    def forward(self, x: Tensor) -> list[Tensor]:
        output_fmt = "TNCHW" if self.per_step else "NCHW"
        maps = self.model.forward_intermediates(x, self.indices, output_fmt=output_fmt, intermediates_only=True)
        return [marked(features, x, batch_dim=int(self.per_step)) for features in maps]
