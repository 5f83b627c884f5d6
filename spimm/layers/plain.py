"""nn.Conv2d whose weights lie channels-last in memory, as all of ours do, and may be pruned all the same."""

from torch import nn


class Conv2d(nn.Conv2d):
    """nn.Conv2d that torch.nn.utils.prune takes in any memory order.

    Pruning flattens a weight by a view. The weight that it takes over, as `weight_orig`, becomes contiguous: results
    are the same, and `model.to(memory_format=torch.channels_last)` after the pruning brings the speed back.
    `prune.global_unstructured` needs contiguous weights before: `model.to(memory_format=torch.contiguous_format)`.
    """

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        if name.endswith("_orig") and param is not None:
            param.data = param.data.contiguous()
        super().register_parameter(name, param)
