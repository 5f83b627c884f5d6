"""A backbone's stage outputs as a list of maps, for necks and heads that know nothing of time."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn


class Backbone(Protocol):
    """What FeatureList needs of a model."""

    feature_info: list[dict[str, int | str]]

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, *, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]: ...


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


def marked(output: Tensor, x: Tensor, batch_dim: int = 0) -> Tensor:
    """`output`, NaN for the samples of x, [B, ...], that hold a NaN or an infinity, which no threshold lets through."""
    x = x.detach()
    mark = (x - x).sum(tuple(range(1, x.dim())))  # 0, or NaN
    return output + mark.to(output.dtype).view(-1, *[1] * (output.dim() - batch_dim - 1))


class FeatureList(nn.Module):
    """Mean over time of each chosen stage. x: [B, C, H, W] or [B, T, C, H, W] -> list of [B, C_i, H_i, W_i].

    `per_step` leaves the steps apart: [T, B, C_i, H_i, W_i], T = 1 if all that is in front is the same at every step.

    Maps of a sample with a NaN or an infinity are NaN.
    `feature_info` has one dict a map: num_chs, reduction (input size over map size), module.
    """

    def __init__(self, model: Backbone, indices: Sequence[int] | int | None = None, *, per_step: bool = False):
        super().__init__()
        self.per_step = per_step
        self.model = model
        self.indices = pick_stages(indices, len(model.feature_info))
        self.feature_info = [model.feature_info[index] for index in self.indices]

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.model.forward_intermediates(x, self.indices, intermediates_only=True)
        assert isinstance(maps, list)
        if self.per_step:
            return [marked(features, x, batch_dim=1) for features in maps]
        return [marked(features.mean(0), x) for features in maps]
