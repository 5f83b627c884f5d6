"""Surrogate gradients: what stands in for the derivative of the firing step s = [u >= 0], u = h - threshold.

Each surrogate is a smooth `primitive(u)` that rises from 0 to 1 (up to its stated height) and its `derivative(u)`.
`shape` and `parameters` tell compiled kernels the same derivative: the numbers are those of csrc/kernels.h.
"""

import difflib
import math
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Surrogate(Protocol):
    """What kernels need of a surrogate; implementations are the frozen dataclasses below."""

    shape: ClassVar[int]

    @property
    def parameters(self) -> tuple[float, float]: ...

    def primitive(self, u: Tensor) -> Tensor: ...

    def derivative(self, u: Tensor) -> Tensor: ...


def _require_positive(surrogate: object) -> None:
    for field in fields(surrogate):  # type: ignore[arg-type]
        value = getattr(surrogate, field.name)
        if not value > 0:
            raise ValueError(f"{type(surrogate).__name__}.{field.name} is {value}; a positive number is needed")


@dataclass(frozen=True)
class Sigmoid:
    """sigmoid(alpha u); derivative alpha s (1 - s), peak alpha / 4. SpikingJelly's default, used by QKFormer."""

    alpha: float = 4.0
    shape: ClassVar[int] = 0
    __post_init__ = _require_positive

    @property
    def parameters(self) -> tuple[float, float]:
        return self.alpha, 0.0

    def primitive(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.alpha * u)

    def derivative(self, u: Tensor) -> Tensor:
        s = torch.sigmoid(self.alpha * u)
        return self.alpha * s * (1 - s)


@dataclass(frozen=True)
class ATan:
    """1/2 + arctan(pi/2 alpha u) / pi; derivative alpha/2 / (1 + (pi/2 alpha u)^2). Fang et al. 2021 (PLIF), eq. 13."""

    alpha: float = 2.0
    shape: ClassVar[int] = 1
    __post_init__ = _require_positive

    @property
    def parameters(self) -> tuple[float, float]:
        return self.alpha, 0.0

    def primitive(self, u: Tensor) -> Tensor:
        return 0.5 + torch.atan(math.pi / 2 * self.alpha * u) / math.pi

    def derivative(self, u: Tensor) -> Tensor:
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * u) ** 2)


@dataclass(frozen=True)
class Rectangular:
    """clamp(u / width + 1/2, 0, 1); derivative 1/width where |u| < width/2. Wu et al. 2018 (STBP), eq. 24."""

    width: float = 1.0
    shape: ClassVar[int] = 2
    __post_init__ = _require_positive

    @property
    def parameters(self) -> tuple[float, float]:
        return 1 / self.width, self.width / 2

    def primitive(self, u: Tensor) -> Tensor:
        return (u / self.width + 0.5).clamp(0, 1)

    def derivative(self, u: Tensor) -> Tensor:
        return (u.abs() < self.width / 2).to(u.dtype) / self.width


def _triangle_primitive(u: Tensor, height: float, half_width: float) -> Tensor:
    w = (u / half_width).clamp(-1, 1)
    return height * half_width * (0.5 + w - w * w.abs() / 2)


@dataclass(frozen=True)
class Triangular:
    """derivative gamma max(0, 1 - |u|), of area gamma. Bellec et al. 2018 (LSNN): gamma is the dampening factor."""

    gamma: float = 0.3
    shape: ClassVar[int] = 3
    __post_init__ = _require_positive

    @property
    def parameters(self) -> tuple[float, float]:
        return self.gamma, 1.0

    def primitive(self, u: Tensor) -> Tensor:
        return _triangle_primitive(u, self.gamma, 1.0)

    def derivative(self, u: Tensor) -> Tensor:
        return self.gamma * (1 - u.abs()).clamp(min=0)


@dataclass(frozen=True)
class PiecewiseQuadratic:
    """derivative max(0, alpha - alpha^2 |u|), of area 1. Esser et al. 2016, Bohte 2011."""

    alpha: float = 1.0
    shape: ClassVar[int] = 3
    __post_init__ = _require_positive

    @property
    def parameters(self) -> tuple[float, float]:
        return self.alpha, 1 / self.alpha

    def primitive(self, u: Tensor) -> Tensor:
        return _triangle_primitive(u, self.alpha, 1 / self.alpha)

    def derivative(self, u: Tensor) -> Tensor:
        return (self.alpha - self.alpha**2 * u.abs()).clamp(min=0)


@dataclass(frozen=True)
class FastSigmoid:
    """u / (1 + alpha |u|); derivative 1 / (1 + alpha |u|)^2. Zenke and Ganguli 2018 (SuperSpike), eq. 3."""

    alpha: float = 10.0
    shape: ClassVar[int] = 4
    __post_init__ = _require_positive

    @property
    def parameters(self) -> tuple[float, float]:
        return self.alpha, 0.0

    def primitive(self, u: Tensor) -> Tensor:
        return u / (1 + self.alpha * u.abs())

    def derivative(self, u: Tensor) -> Tensor:
        return 1 / (1 + self.alpha * u.abs()) ** 2


@dataclass(frozen=True)
class Gaussian:
    """Distribution function of N(0, sigma^2); derivative its density. Yin et al. 2021, eq. 5 without the side lobes."""

    sigma: float = 0.4
    shape: ClassVar[int] = 5
    __post_init__ = _require_positive

    @property
    def parameters(self) -> tuple[float, float]:
        return self.sigma, 0.0

    def primitive(self, u: Tensor) -> Tensor:
        return 0.5 * (1 + torch.erf(u / (self.sigma * math.sqrt(2))))

    def derivative(self, u: Tensor) -> Tensor:
        return torch.exp(-0.5 * (u / self.sigma) ** 2) / (self.sigma * math.sqrt(2 * math.pi))


SURROGATES: dict[str, type] = {
    "sigmoid": Sigmoid,
    "atan": ATan,
    "rectangular": Rectangular,
    "triangular": Triangular,
    "piecewise_quadratic": PiecewiseQuadratic,
    "fast_sigmoid": FastSigmoid,
    "gaussian": Gaussian,
}


def create_surrogate(name: str, **parameters: float) -> Surrogate:
    """The surrogate of that name. Raises ValueError with the nearest names for an unknown one."""
    if name not in SURROGATES:
        near = difflib.get_close_matches(name, SURROGATES) or sorted(SURROGATES)
        raise ValueError(f"unknown surrogate {name!r}; did you mean {', '.join(near)}?")
    return SURROGATES[name](**parameters)


@dataclass(frozen=True)
class _Triangle:
    """A triangle of any height and half-width."""

    height: float
    half_width: float
    shape: ClassVar[int] = 3

    @property
    def parameters(self) -> tuple[float, float]:
        return self.height, self.half_width

    def primitive(self, u: Tensor) -> Tensor:
        return _triangle_primitive(u, self.height, self.half_width)

    def derivative(self, u: Tensor) -> Tensor:
        return (self.height - u.abs() * (self.height / self.half_width)).clamp(min=0)


def of_code(shape: int, a: float, b: float) -> Surrogate:
    """The surrogate that compiled kernels know by this shape and these parameters."""
    if shape == Rectangular.shape:
        return Rectangular(2 * b)
    if shape == _Triangle.shape:
        return _Triangle(a, b)
    return next(kind for kind in SURROGATES.values() if kind.shape == shape)(a)


class _Spike(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, surrogate: Surrogate) -> Tensor:
        return (u >= 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        u, ctx.surrogate = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(u), None

    @staticmethod
    def jvp(ctx, tangent, _):
        (u,) = ctx.saved_tensors
        return tangent * ctx.surrogate.derivative(u)


def spike(u: Tensor, surrogate: Surrogate) -> Tensor:
    """[u >= 0] in the dtype of u (0 fires), with the surrogate's derivative as gradient. u: any shape -> same."""
    return _Spike.apply(u, surrogate)
