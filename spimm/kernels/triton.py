"""What the Triton ops share on the host: when they can serve, when they are imported, and how they run without a GPU.

An op has one name, one schema and one autograd formula on all devices: those of its cpu.py. Here it gets its CUDA
implementation, `spimm/kernels/<folder>/triton.py`, which is imported when it is first called.
"""

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from spimm.kernels.dynamics import Dynamics

STORAGE = (torch.float32, torch.bfloat16, torch.float16)
NUM_SHAPES = 6  # of spimm/kernels/device.py

_problem = None if importlib.util.find_spec("triton") else "Triton is not installed; torch for CUDA comes with it"
_library = torch.library.Library("spimm", "FRAGMENT")
_implementations: dict[str, Callable[..., Any]] = {}
_interpreting = False


def implement(folder: str, *ops: str) -> None:
    """Gives ops of ours their CUDA implementations: functions of the same names in `spimm.kernels.<folder>.triton`."""
    for op in ops:

        def run(*arguments: Any, op: str = op) -> Any:
            module = importlib.import_module(f"spimm.kernels.{folder}.triton")
            first = next(argument for argument in arguments if isinstance(argument, Tensor))
            with torch.cuda.device_of(first):  # Triton launches on the current device
                return getattr(module, op)(*arguments)

        _library.impl(op, run, "CUDA")
        _implementations[op] = run


def unsupported(x: Tensor, *settings: object, **_: object) -> str | None:
    """Why the Triton ops cannot serve a call, or None."""
    if x.device.type != "cuda" and not (_interpreting and x.device.type == "cpu"):
        return f"it needs CUDA tensors, x is on {x.device}"
    if x.dtype not in STORAGE:
        return f"it stores float32, bfloat16 or float16, x is {str(x.dtype).removeprefix('torch.')}"
    for setting in settings:
        if isinstance(setting, Dynamics) and not 0 <= setting.surrogate.shape < NUM_SHAPES:
            return f"it does not know the shape {setting.surrogate.shape} of {setting.surrogate}"
    return _problem


class _Interpreted(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        run = _implementations.get(func._opname) if func.namespace == "spimm" else None
        return run(*args) if run else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def interpreted() -> Iterator[None]:
    """Within the context `backend="triton"` serves CPU tensors too, in Triton's interpreter: slow, for tests.

    Holds for forward and backward passes that run inside, of all our ops that have kernels: keep other backends out.
    Raises RuntimeError unless TRITON_INTERPRET=1 was in the environment when the kernels were imported.
    """
    global _interpreting
    device = importlib.import_module("spimm.kernels.device")
    if not hasattr(device.charge, "rewrite"):
        raise RuntimeError("Triton's interpreter is off; set TRITON_INTERPRET=1 before the kernels are first used")
    before, _interpreting = _interpreting, True
    try:
        with _Interpreted():
            yield
    finally:
        _interpreting = before
