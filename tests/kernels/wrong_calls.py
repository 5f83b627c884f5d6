"""Random calls of every op with odd or wrong arguments. A program, since what it looks for may end the process.

    python wrong_calls.py SEED NUMBER

Each call must equal the reference, forward and every gradient, or raise ValueError, TypeError or RuntimeError. Prints
the calls that do neither; the exit status is their number, up to 100.
"""

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spimm import kernels
from spimm.kernels import Dynamics, use_backend

DOCUMENTED = (ValueError, TypeError, RuntimeError)
TOLERANCE = {torch.float32: 2e-4, torch.float64: 2e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}
Arguments = dict[str, Any]


class Op(NamedTuple):
    """A call that is right, made anew from random numbers: tensors and settings by name."""

    run: Callable[..., Any]
    arguments: Callable[[random.Random], Arguments]


def real(*shape: int) -> Tensor:
    """Multiples of 1/8: bfloat16 holds them, and sums of a few are exact."""
    return torch.randint(-16, 17, shape) / 8


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape) < 0.15).float()


def last(x: Tensor, dim: int) -> Tensor:
    """The same values, this dimension last in memory."""
    return x.movedim(dim, -1).contiguous().movedim(-1, dim)


def neuron(rng: random.Random) -> Dynamics:
    """Potentials do not come near its threshold by chance."""
    return Dynamics(0.5, 0.5, 0.871, rng.choice([0.0, None]), rng.choice([True, False]))


def norm(rng: random.Random, channels: int) -> Arguments:
    given = rng.random() < 0.7
    numbers = {"weight": real(channels), "bias": real(channels)}
    return numbers | ({"mean": real(channels), "variance": real(channels).abs() + 0.37} if given else {})


def norm_call(rng: random.Random, *, maps: bool = False) -> Arguments:
    steps, channels = rng.choice([1, 3]), rng.choice([1, 5, 16, 33])
    shape = (steps, 2, channels, 4, 3)
    extra = {} if maps else {"residual": real(*shape)} if rng.random() < 0.5 else {}
    return {"x": last(real(*shape), 2), "dynamics": neuron(rng), **norm(rng, channels), **extra}


def norm_lif_call(rng: random.Random) -> Arguments:
    arguments = norm_call(rng)
    chosen = rng.choice(["nothing", "added", "thresholds"])
    if chosen == "added":
        arguments["added"] = real(*arguments["x"].shape)
    return arguments | ({"thresholds": [0.31, 0.871, 1.23]} if chosen == "thresholds" else {})


def conv(rng: random.Random) -> Arguments:
    kernel, channels, outputs = rng.choice([1, 3, 5]), rng.choice([1, 7, 32]), rng.choice([1, 5, 40])
    arguments = {"weight": real(outputs, channels, kernel, kernel), "padding": kernel // 2}
    return arguments | ({"bias": real(outputs)} if rng.random() < 0.7 else {})


def conv_call(rng: random.Random) -> Arguments:
    arguments = conv(rng)
    x = last(spikes(2, arguments["weight"].shape[1], 6, 5), 1)
    return {"x": x, **arguments, "stride": 1, "memory": rng.choice(["full", "packed"])}


def conv_lif_call(rng: random.Random) -> Arguments:
    arguments = conv(rng)
    outputs, channels = arguments["weight"].shape[:2]
    added = {"added": real(2, 2, outputs, 5, 4)} if rng.random() < 0.5 else {}
    bias = {"bias": None} | arguments
    return {"x": last(spikes(2, 2, channels, 5, 4), 2), "dynamics": neuron(rng), **bias, **added}


def psp_call(rng: random.Random) -> Arguments:
    channels = rng.choice([1, 8, 20])
    return {"spikes": last(spikes(2, 2, channels, 6, 5), 2), "weight": real(4, channels, 3, 3), "padding": 1}


def group_call(rng: random.Random) -> Arguments:
    shared, heads = rng.choice([True, False]), rng.choice([1, 2])
    members = torch.randperm(12).view(3, 4)
    qkv = last(real(1, 2, heads * 5 * (1 if shared else 3), 4, 3), 2)
    return {"qkv": qkv, "bias": real(heads, 4, 4), "members": members, "shared": shared}


def depthwise_call(rng: random.Random) -> Arguments:
    branches, multiplier, channels = rng.choice([1, 3]), rng.choice([1, 2]), rng.choice([1, 6, 17])
    x = last(spikes(2, branches * channels, 6, 5), 1)
    weight = real(branches * multiplier * channels, 1, 3, 3)
    return {"x": x, "weight": weight, "bias": real(multiplier * channels), "stride": 1, "branches": branches}


def multi_call(rng: random.Random) -> Arguments:
    thresholds = torch.tensor([0.31, 0.871, 1.23])
    x, combine = last(real(2, 2, rng.choice([1, 5, 16]), 4, 3), 2), rng.choice(["sum", "concat"])
    return {"x": x, "dynamics": neuron(rng), "thresholds": thresholds, "combine": combine}


def lif_call(rng: random.Random) -> Arguments:
    shape = (rng.choice([1, 4]), 2, 5, 4, 3)
    return {"x": real(*shape), "dynamics": neuron(rng)} | ({"v": real(*shape[1:])} if rng.random() < 0.5 else {})


OPS = {
    "lif": Op(kernels.lif, lif_call),
    "multi_lif": Op(kernels.multi_lif, multi_call),
    "norm_lif": Op(kernels.norm_lif, norm_lif_call),
    "norm_lif_membrane": Op(kernels.norm_lif_membrane, norm_call),
    "norm_pool_lif": Op(kernels.norm_pool_lif, lambda rng: norm_call(rng, maps=True)),
    "spike_conv2d": Op(kernels.spike_conv2d, conv_call),
    "spike_conv2d_lif": Op(kernels.spike_conv2d_lif, conv_lif_call),
    "psp_conv2d": Op(kernels.psp_conv2d, psp_call),
    "psp_linear": Op(kernels.psp_linear, lambda _: {"spikes": spikes(2, 3, 7), "weight": real(4, 7)}),
    "rel_psp": Op(kernels.rel_psp, lambda rng: {"drive": last(real(2, 2, 5, 6, 4), 2), "pool": rng.choice([1, 2])}),
    "token_mask": Op(
        kernels.token_mask, lambda rng: {"qk": last(spikes(2, 2, 24, 4, 3), 2), "dynamics": neuron(rng), "num_heads": 3}
    ),
    "channel_mask": Op(
        kernels.channel_mask, lambda rng: {"qk": last(spikes(2, 2, 10, 4, 3), 2), "dynamics": neuron(rng)}
    ),
    "spike_attention": Op(
        kernels.spike_attention, lambda _: {"qkv": last(spikes(2, 2, 24, 4, 3), 2), "num_heads": 2, "scale": 0.25}
    ),
    "group_attention": Op(kernels.group_attention, group_call),
    "depthwise_conv2d": Op(kernels.depthwise_conv2d, depthwise_call),
}


def strided(x: Tensor) -> Tensor:
    """The same values, NaN or garbage between them."""
    wide = x.new_full((*x.shape, 2), 77)
    wide[..., 0] = x
    return wide[..., 0]


def expanded(x: Tensor, dim: int) -> Tensor:
    return x.narrow(dim, 0, 1).expand_as(x)


def of_another_size(x: Tensor, dim: int, size: int) -> Tensor:
    return x.new_ones([size if d == dim else length for d, length in enumerate(x.shape)])


def one_replaced(x: Tensor, value: float) -> Tensor:
    """The same values but for the first."""
    x = x.clone()
    x[(slice(0, 1),) * x.dim()] = value
    return x


def odd(x: Tensor, rng: random.Random) -> Tensor | None:
    """A tensor in the place of x: valid but laid out otherwise, or wrong."""
    dim = rng.randrange(max(1, x.dim()))
    layouts = [strided, lambda x: last(x, rng.randrange(x.dim())), torch.Tensor.contiguous]
    layouts += [lambda x: expanded(x, dim)] if x.numel() else []
    wrong: list[Callable[[Tensor], Tensor | None]] = [
        lambda x: x.to(rng.choice([torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool])),
        lambda x: of_another_size(x, dim, x.shape[dim] + 1),
        lambda x: of_another_size(x, dim, max(0, x.shape[dim] - 1)),
        lambda x: of_another_size(x, dim, 0),
        lambda x: x.unsqueeze(dim),
        lambda x: x.flatten(),
        lambda x: x.select(dim, 0) if x.shape[dim] else x,
        lambda x: x.transpose(dim, rng.randrange(x.dim())),
        lambda x: x.to("meta"),
        lambda _: None,
        lambda x: one_replaced(x, torch.nan) if x.is_floating_point() else x + 10**8,
    ]
    return rng.choice(layouts if rng.random() < 0.5 else wrong)(x) if x.dim() else None


def mutate(arguments: Arguments, rng: random.Random) -> str:
    """Changes one argument in place; returns what was done."""
    name = rng.choice([name for name, value in arguments.items() if not isinstance(value, Dynamics)])
    value = arguments[name]
    if isinstance(value, Tensor):
        arguments[name] = odd(value, rng)
    elif isinstance(value, (bool, str, list)) or value is None:
        arguments[name] = rng.choice([None, [], "other"])
    else:
        arguments[name] = rng.choice([-1, 0, 2, 3, 7, 0.5, None])
    now = arguments[name]
    return f"{name}={describe(now)}"


def describe(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{tuple(value.shape)} {value.dtype} {value.device} strides {value.stride()}"


def outcome(op: Op, arguments: Arguments, backend: str) -> list[Tensor] | Exception:
    """Outputs and gradients of everything that can have one, or the documented error."""
    leaves = {}
    for name, value in arguments.items():
        statistics = name in ("mean", "variance") or op.run is kernels.spike_conv2d_lif  # without gradients
        if isinstance(value, Tensor) and value.is_floating_point() and not statistics:
            leaves[name] = value.detach().requires_grad_()
    try:
        with use_backend(backend):
            found = op.run(**(arguments | leaves))
            outputs = [found] if isinstance(found, Tensor) else list(found)
            torch.manual_seed(1)
            sums = [(y * torch.rand(y.shape).to(y)).sum() for y in outputs if y.requires_grad]
            if sums and not outputs[0].is_meta:
                loss = torch.stack([s.double() for s in sums]).sum()
                grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
                outputs += [
                    torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves.values(), strict=True)
                ]
    except DOCUMENTED as error:
        return error
    return outputs


def agree(found: Tensor, truth: Tensor) -> bool:
    if found.shape != truth.shape or found.dtype != truth.dtype or found.device != truth.device:
        return False
    if found.is_meta or found.numel() == 0:
        return True
    tolerance = TOLERANCE.get(found.dtype, 0) * max(1.0, float(truth.double().nan_to_num(0, 0, 0).abs().max()))
    return torch.allclose(found.double(), truth.double(), 0, tolerance, equal_nan=True)


def wrong(seed: int, number: int) -> Iterator[str]:
    """Sentences about the calls that neither agree nor raise as documented."""
    for index in range(number):
        rng = random.Random(f"{seed} {index}")
        torch.manual_seed(seed * 1_000_003 + index)
        name = rng.choice(list(OPS))
        arguments = OPS[name].arguments(rng)
        changed = "; ".join(mutate(arguments, rng) for _ in range(rng.choice([1, 1, 2])))
        what = f"{index}: {name}({changed})"
        print(what, file=sys.stderr, flush=True)  # the last line names the call that ended the process
        try:
            found, truth = (outcome(OPS[name], arguments, backend) for backend in ("auto", "reference"))
        except Exception as error:
            yield f"{what} raised {type(error).__name__}: {error}"
            continue
        if isinstance(found, Exception):
            if len(str(found).splitlines()) > 3 and isinstance(found, ValueError):
                yield f"{what} raised an error of many lines: {found}"
        elif isinstance(truth, Exception):
            yield f"{what} returned where the reference raised {truth}"
        elif len(found) != len(truth) or not all(map(agree, found, truth)):
            yield f"{what} differs from the reference: {list(map(agree, found, truth))}"


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)  # uninitialised memory is NaN
    torch.set_num_threads(2)
    failures = list(wrong(int(sys.argv[1]), int(sys.argv[2])))
    print(*failures, sep="\n")
    sys.exit(min(100, len(failures)))
