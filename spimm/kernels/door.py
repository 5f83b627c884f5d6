"""The one door from Python to the compiled kernels: no address of a tensor is taken anywhere else.

Kernels see addresses and sizes. What they take for granted is checked twice: the arguments of an op when it is called,
with the names that its caller knows, and the layout of every tensor when its address is taken, whoever asks for it.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

NOTHING = 0  # the address of a tensor that is not there


def check_tensors(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> None:
    """Raises TypeError for what is no tensor, ValueError for a tensor on another device than the first.

    Those in `optional` may be None.
    """
    first, *_ = required.values()
    for arguments in (required, optional or {}):
        for name, tensor in arguments.items():
            if tensor is None and arguments is not required:
                continue
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} is of type {type(tensor).__name__}; expected a tensor")
            if tensor.device != first.device:
                raise ValueError(f"{name} is on {tensor.device}; expected {first.device}, where the input is")


def check_dtype(of: str, x: Tensor, **others: Tensor | None) -> None:
    """Raises ValueError for a tensor that has not the dtype of x, which its caller knows as `of`."""
    for name, tensor in others.items():
        if tensor is not None and tensor.dtype is not x.dtype:
            raise ValueError(f"{name} has dtype {_plain(tensor.dtype)}; expected {_plain(x.dtype)}, the dtype of {of}")


def check_shape(name: str, tensor: Tensor | None, expected: Sequence[int]) -> None:
    """Raises ValueError for a tensor of another shape."""
    if tensor is not None and tensor.shape != tuple(expected):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(expected)}")


class Layout(NamedTuple):
    """What a kernel takes for granted of a tensor: dtype, shape, and the strides that these mean in memory."""

    dtype: torch.dtype
    shape: torch.Size
    strides: tuple[int, ...]

    @classmethod
    def of(cls, dtype: torch.dtype, shape: Sequence[int], last: int = -1) -> "Layout":
        """Dense, the dimension `last` fastest in memory and the others in their order.

        Raises ValueError for a shape without elements: kernels need one, and the reference serves the others.
        """
        return _layout(dtype, torch.Size(shape), last)

    @classmethod
    def like(cls, x: Tensor, last: int = -1) -> "Layout":
        """As `of`, with dtype and shape of x."""
        return _layout(x.dtype, x.shape, last)

    def address(self, name: str, tensor: Tensor | None) -> int:
        """Where the values begin; 0 for None. Raises ValueError for a tensor that is not laid out so in this memory."""
        if tensor is None:
            return NOTHING
        if (
            tensor.stride() != self.strides
            or tensor.shape != self.shape
            or tensor.dtype is not self.dtype
            or not tensor.is_cpu
        ):
            self._check(name, tensor)
        return tensor.data_ptr()

    def _check(self, name: str, tensor: Tensor) -> None:
        seen = f"{tuple(tensor.shape)}, {_plain(tensor.dtype)}, on {tensor.device}"
        expected = f"expected {tuple(self.shape)}, {_plain(self.dtype)}, on cpu"
        if not tensor.is_cpu or tensor.dtype is not self.dtype or tensor.shape != self.shape:
            raise ValueError(f"{name} is {seen}; {expected}")
        dims = zip(tensor.stride(), self.strides, self.shape, strict=True)
        if any(stride != wanted and size > 1 for stride, wanted, size in dims):
            has = f"{name} of shape {tuple(tensor.shape)} has strides {tensor.stride()}"
            raise ValueError(f"{has}; expected {self.strides}")


@functools.lru_cache(maxsize=4096)
def _layout(dtype: torch.dtype, shape: torch.Size, last: int) -> Layout:
    if 0 in shape:
        raise ValueError(f"a tensor of shape {tuple(shape)} is empty; expected at least one element")
    dims = list(range(len(shape)))
    if dims:
        dims.append(dims.pop(last))
    strides, step = [0] * len(shape), 1
    for dim in reversed(dims):
        strides[dim], step = step, step * shape[dim]
    return Layout(dtype, shape, tuple(strides))


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
