"""QKFormer: hierarchical spiking transformer using Q-K attention. Zhou et al., NeurIPS 2024, arXiv:2403.16552.

T time, B batch, C channels, H W space, D width of the last stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spimm.kernels import Memory
from spimm.layers import (
    PATCH_FORMS,
    SPEDS,
    Residual,
    Shortcut,
    SpikingMLP,
    as_sequence,
    check_shortcut,
    checkpointed,
    entry,
    exit_neuron,
    qk_attention,
    set_memory,
)
from spimm.models.features import FeatureList, pick_stages
from spimm.models.registry import ModelCard, register_model
from spimm.neurons import Neuron, create_neuron
from spimm.surrogate import Surrogate, create_surrogate

PAPER = "Zhou et al., QKFormer: Hierarchical Spiking Transformer using Q-K Attention, NeurIPS 2024, arXiv:2403.16552"


@dataclass(frozen=True)
class QKFormerConfig:
    """Everything that tells one QKFormer from another. Stages have widths embed_dim / 2^k, the last one embed_dim."""

    embed_dim: int = 384
    depths: tuple[int, ...] = (1, 1, 2)
    num_heads: int = 8
    mlp_ratio: float = 4.0
    attention: str | tuple[str, ...] = ("qkta", "qkta", "ssa")
    """One of qkta, qkca, ssa for each stage; a text names them with commas, or one for all stages."""
    patch_forms: tuple[str, ...] = ("cifar", "pool_last", "pool_last")
    """Names of layers.PATCH_FORMS, one a stage."""
    num_classes: int = 10
    num_steps: int = 4
    in_chans: int = 3
    neuron: str = "lif"
    attention_neuron: str | None = None
    """Neuron of the attention cores; None: the same as elsewhere."""
    tau: float = 2.0
    """Time constant of LIF and PLIF (start value); not used by IF."""
    surrogate: str | Surrogate = "sigmoid"
    detach_reset: bool = True
    shortcut: Shortcut = "spike_add"
    deformed_shortcut: bool = True
    """The 1x1 shortcut of SPEDS; False is the ablation without it."""
    merge_scale: bool = False
    """SSA's scale 0.125 merged into its threshold: equal spikes, no multiplication."""
    legacy: bool = False
    """SSA's projection neuron integrates over T*B, as the authors' code does: samples influence each other."""
    memory: Memory = "full"
    """How convolutions keep their inputs for the backward pass: "full", or "packed" in 1 to 8 bits a value."""
    checkpoint: bool = False
    """Embeddings and blocks keep their inputs alone and compute the rest again in the backward pass."""

    def __post_init__(self) -> None:
        check_shortcut(self.shortcut)
        stages = len(self.depths)
        if isinstance(self.attention, str):
            kinds = tuple(self.attention.split(","))
            object.__setattr__(self, "attention", kinds * stages if len(kinds) == 1 else kinds)
        for label, values in (("attention", self.attention), ("patch_forms", self.patch_forms)):
            if len(values) != stages:
                raise ValueError(f"{label} has {len(values)} entries for {stages} stages: {values}")
        for form in self.patch_forms:
            if form not in PATCH_FORMS:
                raise ValueError(f"unknown patch form {form!r}; wanted one of {', '.join(PATCH_FORMS)}")
        if self.embed_dim % 2 ** (stages - 1):
            raise ValueError(f"embed_dim is {self.embed_dim}; {stages} stages need a multiple of {2 ** (stages - 1)}")
        for label in ("embed_dim", "num_heads", "num_steps", "in_chans"):
            if getattr(self, label) < 1:
                raise ValueError(f"{label} is {getattr(self, label)}; wanted at least 1")
        if min(self.depths) < 0:
            raise ValueError(f"depths are {self.depths}; wanted 0 or more blocks in each stage")
        if not self.mlp_ratio > 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}; wanted more than 0")

    def neuron_fn(self, kind: str | None = None, *, threshold: float = 1.0) -> Neuron:
        """A new neuron with these settings."""
        kind = kind or self.neuron
        surrogate = create_surrogate(self.surrogate) if isinstance(self.surrogate, str) else self.surrogate
        leak = {} if kind == "if" else {"tau": self.tau}
        return create_neuron(kind, threshold=threshold, surrogate=surrogate, detach_reset=self.detach_reset, **leak)


class Block(nn.Module):
    """Attention and MLP, each with its shortcut. x: [T, B, dim, H, W] -> same."""

    def __init__(self, kind: str, dim: int, config: QKFormerConfig):
        super().__init__()
        neuron_fn, shortcut = config.neuron_fn, config.shortcut
        attention = qk_attention(
            kind,
            dim,
            config.num_heads,
            neuron_fn=neuron_fn,
            attention_neuron_fn=partial(neuron_fn, config.attention_neuron),
            last_neuron=exit_neuron(shortcut, neuron_fn),
            merge_scale=config.merge_scale,
            legacy=config.legacy,
        )
        hidden, last_neuron = int(dim * config.mlp_ratio), exit_neuron(shortcut, neuron_fn)
        mlp = SpikingMLP(dim, hidden, neuron=neuron_fn(), last_neuron=last_neuron)
        self.attention = Residual(attention, shortcut=shortcut, neuron_fn=neuron_fn)
        self.mlp = Residual(mlp, shortcut=shortcut, neuron_fn=neuron_fn)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attention(x))


class Stage(nn.Module):
    """Patch embedding and blocks of one resolution. x: [T, B, C, H, W] -> [T, B, dim, H / stride, W / stride]."""

    def __init__(self, index: int, in_chans: int, dim: int, config: QKFormerConfig):
        super().__init__()
        self.embed = SPEDS(
            in_chans,
            dim,
            PATCH_FORMS[config.patch_forms[index]],
            shortcut=config.shortcut,
            neuron_fn=config.neuron_fn,
            deformed_shortcut=config.deformed_shortcut,
        )
        self.blocks = nn.Sequential(*(Block(config.attention[index], dim, config) for _ in range(config.depths[index])))
        self.checkpoint = config.checkpoint

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        call = checkpointed if self.checkpoint else _call
        x = call(self.embed, x, num_steps)
        for block in self.blocks:
            x = call(block, x)
        return x


def _call(module: nn.Module, *inputs: Any) -> Tensor:
    return module(*inputs)


class QKFormer(nn.Module):
    """x: image [B, C, H, W] or sequence [B, T, C, H, W] -> logits [B, num_classes]. Nothing is kept between calls."""

    def __init__(self, config: QKFormerConfig):
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.num_features = config.embed_dim
        stages = len(config.depths)
        widths = [config.in_chans, *(config.embed_dim // 2 ** (stages - 1 - i) for i in range(stages))]
        self.stages = nn.ModuleList(Stage(i, widths[i], widths[i + 1], config) for i in range(stages))
        self.feature_info: list[dict[str, int | str]] = []
        self.reduction = 1
        for i, form in enumerate(config.patch_forms):
            self.reduction *= PATCH_FORMS[form].stride
            self.feature_info.append({"num_chs": widths[i + 1], "reduction": self.reduction, "module": f"stages.{i}"})
        self.last_neuron = entry(config.shortcut, config.neuron_fn)
        self.head: nn.Module
        self.reset_classifier(config.num_classes)
        set_memory(self, config.memory)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int] | int | None = None, *, intermediates_only: bool = False
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Outputs of the chosen stages (all, the last n, or by number), each [T, B, C_i, H_i, W_i].

        Returns (features, maps), or maps alone; later stages than the last one asked for are not run then.
        """
        wanted = pick_stages(indices, len(self.stages))
        steps, num_steps = as_sequence(x, self.config.num_steps, self.config.in_chans)
        if min(steps.shape[-2:]) < self.reduction:
            raise ValueError(
                f"input is {tuple(steps.shape[-2:])} pixels; the patch grid needs at least {self.reduction}"
            )
        x = steps
        maps: dict[int, Tensor] = {}
        for index, stage in enumerate(self.stages):
            if intermediates_only and index > max(wanted, default=-1):
                break
            x = maps[index] = stage(x, num_steps if index == 0 else None)
        chosen = [maps[index] for index in wanted]
        return chosen if intermediates_only else (self.last_neuron(x), chosen)

    def forward_features(self, x: Tensor) -> Tensor:
        """Last feature map: [T, B, D, H', W'], integers with the spike-add shortcut, spikes with `membrane`."""
        return self.forward_intermediates(x, [])[0]  # type: ignore[return-value]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """[T, B, D, H', W'] -> logits [B, num_classes]: mean over space and time, then linear."""
        dtype = torch.promote_types(features.dtype, torch.float32)
        tokens = features.movedim(2, -1).flatten(2, 3)  # their gradient then has the memory order of the features
        pooled = tokens.mean(2, dtype=dtype).mean(0)
        if pre_logits or isinstance(self.head, nn.Identity):
            return pooled
        return self.head(pooled.to(next(self.head.parameters()).dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the classifier by a new one; 0 classes leave the pooled features [B, D]."""
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            like = next(self.stages.parameters())
            self.head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def get_classifier(self) -> nn.Module:
        """The classifier, or an identity."""
        return self.head

    def features_only(self, indices: Sequence[int] | int | None = None) -> FeatureList:
        """This model as a backbone: a list of maps [B, C_i, H_i, W_i], the mean over time."""
        self.reset_classifier(0)
        return FeatureList(self, indices)


_BASE = QKFormerConfig()
_IMAGENET = replace(
    _BASE, depths=(1, 2, 7), patch_forms=("imagenet", "pool_first", "pool_first"), num_classes=1000, num_heads=6
)
_DVS = replace(
    _BASE,
    embed_dim=256,
    depths=(1, 1),
    num_heads=16,
    mlp_ratio=1.0,
    attention=("qkta", "ssa"),
    patch_forms=("dvs", "pool_last"),
    num_steps=16,
    in_chans=2,
)


class Variant(NamedTuple):
    """One name: its configuration, parameters, side of its images in pixels, recipe, note."""

    config: QKFormerConfig
    params: int
    size: int
    recipe: str | None
    note: str


def _laptop(embed_dim: int, **changes: Any) -> QKFormerConfig:
    form = ("half", "pool_last", "pool_last")
    return replace(_BASE, embed_dim=embed_dim, num_heads=4, **{"patch_forms": form, **changes})


_DIGITS = {"patch_forms": _BASE.patch_forms, "depths": (1, 1, 1), "in_chans": 1}

VARIANTS = {
    "qkformer_10_384": Variant(_IMAGENET, 16_473_688, 224, None, "ImageNet 78.80 % in the paper"),
    "qkformer_10_512": Variant(
        replace(_IMAGENET, embed_dim=512, num_heads=8), 29_079_336, 224, None, "ImageNet 82.04 % in the paper"
    ),
    "qkformer_10_768": Variant(
        replace(_IMAGENET, embed_dim=768, num_heads=12), 64_962_760, 224, None, "ImageNet 84.22 % in the paper"
    ),
    "qkformer_4_384_cifar": Variant(
        _BASE, 6_706_234, 32, "qkformer_cifar", "CIFAR-10 / 100 96.18 / 81.15 % in the paper"
    ),
    "qkformer_2_256_dvs": Variant(
        _DVS, 1_504_138, 128, None, "CIFAR10-DVS / DVS128 Gesture 84.0 / 98.6 % in the paper"
    ),
    "qkformer_4_192_cifar": Variant(_laptop(192), 1_685_026, 32, None, "ours, for a laptop"),
    "qkformer_4_96_cifar": Variant(_laptop(96), 425_494, 32, "cifar10_jpeg", "ours, for a laptop"),
    "qkformer_4_96_mnist": Variant(_laptop(96, in_chans=1), 425_278, 28, "mnist", "ours, for a laptop"),
    "qkformer_3_64_digits": Variant(_laptop(64, **_DIGITS), 140_162, 8, "digits", "ours, for the quickstart"),
}


def build_qkformer(config: QKFormerConfig, **options: Any) -> QKFormer:
    """A QKFormer whose configuration is `config` with `options` put in. Raises ValueError for an unknown option."""
    known = [field.name for field in fields(QKFormerConfig)]
    for option in options:
        if option not in known:
            raise ValueError(f"QKFormer has no option {option!r}; its options are {', '.join(known)}")
    return QKFormer(replace(config, **options))


for _name, _variant in VARIANTS.items():
    register_model(
        ModelCard(
            name=_name,
            family="qkformer",
            paper=PAPER,
            params=_variant.params,
            input_size=(_variant.config.in_chans, _variant.size, _variant.size),
            num_classes=_variant.config.num_classes,
            num_steps=_variant.config.num_steps,
            recipe=_variant.recipe,
            events=_variant.config.in_chans == 2,
            note=_variant.note,
        ),
        partial(build_qkformer, _variant.config),
    )
