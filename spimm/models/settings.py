"""What the configurations of all families share: the neuron, its shortcut, memory."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from torch import nn

from spimm.kernels import Memory
from spimm.layers import (
    THRESHOLDS,
    Ending,
    Residual,
    Shortcut,
    SpikingMLP,
    check_drop_path,
    check_shortcut,
    check_spk,
    create_spk,
    ending,
    entry,
)
from spimm.models.option_types import check_types
from spimm.neurons import Neuron, create_neuron
from spimm.surrogate import Surrogate, create_surrogate

MOST_STEPS = 2**16
"""Time steps of a still image, at most."""


def check_global_pool(global_pool: str, num_classes: int) -> None:
    """Raises ValueError unless the pooling is known and there is no classifier on a map that is not pooled."""
    if global_pool not in ("avg", ""):
        raise ValueError(f"global_pool is {global_pool!r}; expected 'avg', or '' for 0 classes")
    if num_classes and not global_pool:
        raise ValueError(f"global_pool is '' for {num_classes} classes; a classifier needs 'avg'")


@dataclass(frozen=True)
class ImageConfig:
    """Settings of every model; a family adds its own and may change the defaults."""

    num_classes: int = 1000
    num_steps: int = 4
    in_chans: int = 3
    global_pool: str = "avg"
    """How the last map becomes what the classifier takes; "", for 0 classes, leaves the map, its mean over time."""
    drop_rate: float = 0.0
    """Share of the classifier's input that is dropped in training."""

    def __post_init__(self) -> None:
        self.check_at_least_one("num_steps", "in_chans")
        if self.num_steps > MOST_STEPS:
            raise ValueError(f"num_steps is {self.num_steps}; expected at most {MOST_STEPS:,}")
        check_global_pool(self.global_pool, self.num_classes)
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate is {self.drop_rate}; expected a probability from 0 to below 1")

    def check_at_least_one(self, *labels: str) -> None:
        """Raises ValueError, naming the setting, unless each of them is 1 or more."""
        for label in labels:
            if getattr(self, label) < 1:
                raise ValueError(f"{label} is {getattr(self, label)}; wanted at least 1")


@dataclass(frozen=True)
class ModelConfig(ImageConfig):
    """Settings of every model whose neurons run over time steps."""

    neuron: str = "lif"
    tau: float = 2.0
    """Time constant of LIF and PLIF (start value); not used by IF."""
    decay_input: bool = True
    """LIF and PLIF take in x / tau; False: x as it is. Not used by IF."""
    surrogate: str | Surrogate = "sigmoid"
    detach_reset: bool = True
    memory: Memory = "full"
    """How convolutions keep their inputs for the backward pass: "full", or "packed" in 1 to 8 bits a value."""
    checkpoint: bool = False
    """Embeddings and blocks keep only their inputs and compute the rest again in the backward pass."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; it grows linearly from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_drop_path(self.drop_path)

    def drop_paths(self, depths: Sequence[int]) -> list[list[float]]:
        """Stochastic depth of each block of each stage, linear from 0 in the first to `drop_path` in the last."""
        last = max(sum(depths) - 1, 1)
        starts = [sum(depths[:i]) for i in range(len(depths))]
        return [
            [self.drop_path * (start + j) / last for j in range(depth)]
            for start, depth in zip(starts, depths, strict=True)
        ]

    def check_stages(self, **least: int) -> None:
        """Raises ValueError unless each setting has as many entries as `widths`, none below the number given."""
        stages = len(self.widths)  # type: ignore[attr-defined]
        for label, lowest in least.items():
            values = getattr(self, label)
            if len(values) != stages:
                raise ValueError(f"{label} are {values}; wanted one for each of {stages} stages")
            if min(values, default=lowest - 1) < lowest:
                raise ValueError(f"{label} are {values}; wanted {lowest} or more in each stage")

    def per_stage(self, label: str, stages: int, known: tuple[str, ...]) -> tuple[str, ...]:
        """One name a stage from a setting: a tuple, or a text, `a` for all stages or `a,b,c`.

        Raises ValueError for an unknown name or another number of names.
        """
        names = getattr(self, label)
        if isinstance(names, str):
            names = tuple(names.split(","))
            names = names * stages if len(names) == 1 else names
        if len(names) != stages:
            raise ValueError(f"{label} has {len(names)} entries for {stages} stages: {names}")
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known) or known
                raise ValueError(f"unknown {label} {name!r}; did you mean {', '.join(near)}?")
        return names

    def neuron_fn(
        self,
        kind: str | None = None,
        *,
        threshold: float = 1.0,
        tau: float | None = None,
        learn_threshold: bool = False,
    ) -> Neuron:
        """A new neuron with these settings."""
        kind = kind or self.neuron
        surrogate = create_surrogate(self.surrogate) if isinstance(self.surrogate, str) else self.surrogate
        leak: dict[str, Any] = (
            {} if kind == "if" else {"tau": self.tau if tau is None else tau, "decay_input": self.decay_input}
        )
        return create_neuron(
            kind,
            threshold=threshold,
            learn_threshold=learn_threshold,
            surrogate=surrogate,
            detach_reset=self.detach_reset,
            **leak,
        )


@dataclass(frozen=True)
class TransformerConfig(ModelConfig):
    """Settings of the models with spiking attention and residual branches around single neurons."""

    num_heads: int = 8
    mlp_ratio: float = 4.0
    attention_neuron: str | None = None
    """Neuron of the attention cores; None: the same as elsewhere."""
    shortcut: Shortcut = "spike_add"
    merge_scale: bool = False
    """The scale 0.125 of spiking attention merged into its threshold: equal spikes, no multiplication."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shortcut(self.shortcut)
        if self.drop_path and self.shortcut == "vanilla":
            raise ValueError(f"drop_path is {self.drop_path}; it needs the shortcut membrane or spike_add, not vanilla")
        self.check_at_least_one("num_heads")
        if not self.mlp_ratio > 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; wanted more than 0")

    def attention_neuron_fn(self, **settings: Any) -> Neuron:
        """A new neuron of an attention core."""
        return self.neuron_fn(self.attention_neuron, **settings)

    def entry(self) -> nn.Module:
        """What stands in front of a branch."""
        return entry(self.shortcut, self.neuron_fn)

    def ending(self) -> Ending:
        """How a branch ends."""
        return ending(self.shortcut, self.neuron_fn)

    def residual(self, branch: nn.Module, *, drop_path: float = 0.0) -> Residual:
        """The branch with its shortcut."""
        return Residual(branch, shortcut=self.shortcut, neuron_fn=self.neuron_fn, drop_path=drop_path)

    def mlp(self, dim: int, **settings: Any) -> SpikingMLP:
        """The branch that mixes channels."""
        return SpikingMLP(dim, int(dim * self.mlp_ratio), neuron=self.neuron_fn(), ending=self.ending(), **settings)


@dataclass(frozen=True)
class SPKConfig(ModelConfig):
    """Settings of the models whose activations are SPK blocks (SpikeAtConv's), or in their place relu or gelu."""

    num_steps: int = 1
    surrogate: str | Surrogate = "atan"
    spk: str = "mbpl"
    """sl, rl, mbpl, hsl or dcl; relu and gelu make the spike-free counterpart."""
    thresholds: str | float | tuple[float, ...] | None = None
    """Of the block's neurons; a text names them with commas. None: the paper's, see layers.THRESHOLDS."""
    taus: str | tuple[float, ...] | None = None
    """Of HSL's two halves, written as the thresholds; None: `tau` for both."""
    form: str | None = None
    """How the block's description is read, see layers.FORMS; None: the reading recommended for the model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_spk(self.spk, self.form)
        if self.taus is not None and self.neuron == "if":
            raise ValueError(f"taus are {self.taus!r}; the neuron if has no time constant")
        self.spk_fn(2)

    def spk_fn(self, channels: int, *, form: str | None = None, gain: float = 1.0) -> nn.Module:
        """A new SPK block with these settings; with `gain` it fires on its input times that, by smaller thresholds."""
        return create_spk(
            self.spk,
            channels,
            neuron_fn=self.neuron_fn,
            thresholds=self.spk_thresholds(gain),
            taus=self._numbers("taus"),
            form=form or self.form,
        )

    def spk_thresholds(self, gain: float = 1.0) -> tuple[float, ...] | None:
        """Thresholds of the block's neurons, over `gain`; None for what has none."""
        given = self._numbers("thresholds")
        thresholds = THRESHOLDS.get(self.spk) if given is None else given
        return None if thresholds is None else tuple(threshold / gain for threshold in thresholds)

    def _numbers(self, label: str) -> tuple[float, ...] | None:
        value = getattr(self, label)
        if isinstance(value, int | float):
            return (float(value),)
        try:
            return tuple(map(float, value.split(","))) if isinstance(value, str) else value
        except ValueError:
            raise ValueError(f"{label} is {value!r}; wanted numbers with commas between them") from None


class UnknownOption(ValueError, TypeError):
    """A model has no option of that name; a TypeError as well, as timm's models raise."""


ConfigT = TypeVar("ConfigT", bound=ImageConfig)


def changed(config: ConfigT, family: str, options: dict[str, Any]) -> ConfigT:
    """`config` with `options` put in; a text stands for whole numbers with commas where the setting has several.

    Raises UnknownOption, a ValueError, and ValueError for a value of another type.
    """
    known = [field.name for field in fields(config)]
    for option in options:
        if option not in known:
            raise UnknownOption(f"{family} has no option {option!r}; its options are {', '.join(known)}")
    chosen = {label: _several(config, label, value) for label, value in options.items()}
    check_types(type(config), chosen)
    return replace(config, **chosen)


def _several(config: ImageConfig, label: str, value: Any) -> Any:
    numbers = getattr(config, label)
    if not isinstance(value, str) or not isinstance(numbers, tuple) or not all(isinstance(n, int) for n in numbers):
        return value
    try:
        return tuple(map(int, value.split(",")))
    except ValueError:
        raise ValueError(f"{label} is {value!r}; wanted whole numbers with commas between them") from None
