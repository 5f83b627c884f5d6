"""What spikes of one layer do to the potentials of the next: two products with the same weights, taken at once."""

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.door import check_dtype, check_tensors
from spimm.kernels.psp import cpu, reference


def psp_conv2d(spikes: Tensor, weight: Tensor, *, padding: int = 0, backend: str = "auto") -> Tensor:
    """Potential where the window starts, and its slope from there on. [2, N, C, H, W] -> [2, N, C', H', W'].

    spikes: what is left of the window when a neuron fires, and whether it fires (see `rel_psp`); the second has no
    gradient. weight: [C', C, k, k]; zeros around the map are neurons that stay silent. With one plane, [1, ...], it is
    a convolution. Under autocast it computes in autocast's dtype. Raises ValueError for shapes that do not fit.
    """
    check_tensors({"spikes": spikes, "weight": weight})
    fits = spikes.dim() == 5 and len(spikes) in (1, 2) and weight.dim() == 4 and spikes.shape[2] == weight.shape[1]
    if not fits or weight.shape[2] != weight.shape[3]:
        raise _misfit(spikes, weight, "[2, N, C, H, W] and [C', C, k, k]")
    return dispatch.call("psp_conv2d", backend, *_autocast(spikes, weight), padding)


def psp_linear(spikes: Tensor, weight: Tensor, *, backend: str = "auto") -> Tensor:
    """As psp_conv2d for a fully connected layer. spikes: [2, N, F] or [1, N, F], weight: [F', F] -> [2, N, F']."""
    check_tensors({"spikes": spikes, "weight": weight})
    if spikes.dim() != 3 or len(spikes) not in (1, 2) or weight.dim() != 2 or spikes.shape[2] != weight.shape[1]:
        raise _misfit(spikes, weight, "[2, N, F] and [F', F]")
    return dispatch.call("psp_linear", backend, *_autocast(spikes, weight))


def _misfit(spikes: Tensor, weight: Tensor, wanted: str) -> ValueError:
    return ValueError(f"spikes have shape {tuple(spikes.shape)} and weight {tuple(weight.shape)}; wanted {wanted}")


def _autocast(spikes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    kind = spikes.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        check_dtype("spikes", spikes, weight=weight)
        return spikes, weight
    dtype = torch.get_autocast_dtype(kind)
    return spikes.to(dtype), weight.to(dtype)


dispatch.register("psp_conv2d", "cpu", cpu.psp_conv2d, cpu.unsupported)
dispatch.register("psp_conv2d", "reference", reference.psp_conv2d, lambda *_: None)
dispatch.register("psp_linear", "cpu", cpu.psp_linear, cpu.unsupported)
dispatch.register("psp_linear", "reference", reference.psp_linear, lambda *_: None)
