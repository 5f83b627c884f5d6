"""Compiles what the Triton ops launch for a GPU that need not be there, and prints the name of each kernel.

Run by test_triton.py in a process of its own, without the interpreter: that accepts texts that the compiler does not.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from spimm.kernels import Dynamics
from spimm.kernels.cpu import NeuronCode
from spimm.kernels.lif import triton as lif
from spimm.kernels.multi_lif import triton as multi_lif
from spimm.kernels.norm_lif import triton as norm_lif
from spimm.kernels.norm_pool_lif import triton as norm_pool_lif
from spimm.kernels.qk_mask import triton as qk_mask
from spimm.kernels.qk_mask.cpu import OF_CHANNELS
from spimm.kernels.rel_psp import triton as rel_psp

TARGET = GPUTarget("cuda", 90, 32)
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float64: "*fp64", torch.uint8: "*u8"}
CODE = NeuronCode.of(Dynamics(v_reset=None, detach_reset=False))
COEFFICIENTS = torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64)
CHANNELS, EPS = 48, 1e-5


def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **constants: Any) -> None:
    """In place of a launch. Arguments are specialised as a launch does it: on None, on 1 and on multiples of 16."""
    signature, values, attributes = {}, {}, {}
    for index, (parameter, value) in enumerate(zip(self.params, (*args, *constants.values()), strict=True)):
        is_tensor, is_int = isinstance(value, Tensor), isinstance(value, int)
        free = parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (is_int and value == 1 and not free):
            signature[parameter.name], values[(index,)] = "constexpr", value
            continue
        signature[parameter.name] = TYPES[value.dtype] if is_tensor else "i32" if is_int else "fp32"
        if is_tensor or (is_int and value % 16 == 0 and not free):
            attributes[(index,)] = [["tt.divisibility", 16]]
    triton.compile(ASTSource(self, signature, values, attributes), target=TARGET)
    print(self.fn.__name__)


def steps(num_steps: int, channels: int = CHANNELS, size: int = 8) -> Tensor:
    """[T, B, C, H, W] in channels-last memory."""
    return torch.zeros(num_steps, 2, size, size, channels, dtype=torch.bfloat16).movedim(-1, 2)


def launch_everything() -> None:
    x, row = steps(2), torch.ones(CHANNELS)
    for keep_v in (True, False):
        lif.lif(x, x[0], COEFFICIENTS, 2, keep_v, *CODE)
    lif.lif_backward(x, x[0], x, x[0], COEFFICIENTS, True, *CODE)
    lif.lif_backward(steps(17), None, steps(17), None, COEFFICIENTS, False, *CODE)  # more steps than are unrolled

    norm_lif.norm_lif(x, row, row, None, None, x, x, COEFFICIENTS, 2, EPS, *CODE)
    norm_lif.norm_lif_membrane(x[:1], row, row, row, row, x, COEFFICIENTS, 2, EPS, *CODE)
    norm = (row, row, row, row)
    norm_lif.norm_lif_backward(x, None, x, *norm, x, None, True, COEFFICIENTS, True, True, EPS, *CODE)
    norm_lif.norm_lif_backward(x, x, x[:1], *norm, None, x, True, COEFFICIENTS, False, False, EPS, *CODE)

    norm_pool_lif.norm_pool_lif(x, row, row, None, None, COEFFICIENTS, 2, EPS, *CODE)
    norm_pool_lif.norm_pool_lif_backward(steps(2, size=4), x, *norm, COEFFICIENTS, True, True, EPS, *CODE)

    qk = steps(2, 2 * CHANNELS)
    for num_heads in (OF_CHANNELS, 3):
        _, _, sums = qk_mask.qk_mask(qk, COEFFICIENTS, num_heads, *CODE)
        qk_mask.qk_mask_backward(x, qk, sums, COEFFICIENTS, num_heads, True, *CODE)

    two = torch.tensor([0.5, 0.5, 1.0, 2.0], dtype=torch.float64)
    multi_lif.multi_lif(x, two, 2, False, *CODE)
    multi_lif.multi_lif_backward(x, x, two, 2, False, False, *CODE)
    multi_lif.multi_lif(steps(17), two, 17, True, *CODE)
    multi_lif.multi_lif_backward(steps(17, 2 * CHANNELS), steps(1), two, 17, True, True, *CODE)

    for pool, clip in ((1, 11.0), (2, float("inf"))):
        rel_psp.rel_psp(x, 1.0, pool, True, clip)
        rel_psp.rel_psp_backward(steps(2, size=8 // pool)[0], x, 1.0, pool, False, clip)


if __name__ == "__main__":
    JITFunction.run = compile_only
    launch_everything()
