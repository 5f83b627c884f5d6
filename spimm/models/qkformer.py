"""QKFormer: hierarchical spiking transformer using Q-K attention. Zhou et al., NeurIPS 2024, arXiv:2403.16552.

T time, B batch, C channels, H W space, D width of the last stage.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from spimm.layers import (
    ATTENTIONS,
    PATCH_FORMS,
    SPEDS,
    qk_attention,
)
from spimm.models.hierarchy import HierarchicalModel, Stage
from spimm.models.registry import Variant, register_variants
from spimm.models.settings import TransformerConfig

PAPER = "Zhou et al., QKFormer: Hierarchical Spiking Transformer using Q-K Attention, NeurIPS 2024, arXiv:2403.16552"


@dataclass(frozen=True)
class QKFormerConfig(TransformerConfig):
    """Everything that tells one QKFormer from another. Stages have widths embed_dim / 2^k, the last one embed_dim."""

    embed_dim: int = 384
    depths: tuple[int, ...] = (1, 1, 2)
    attention: str | tuple[str, ...] = ("qkta", "qkta", "ssa")
    """One of qkta, qkca, ssa for each stage; a text names them with commas, or one for all stages."""
    patch_forms: str | tuple[str, ...] = ("cifar", "pool_last", "pool_last")
    """Names of layers.PATCH_FORMS, one a stage."""
    num_classes: int = 10
    deformed_shortcut: bool = True
    """The 1x1 shortcut of SPEDS; False is the ablation without it."""
    legacy: bool = False
    """SSA's projection neuron integrates over T*B, as the authors' code does: samples influence each other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        stages = len(self.depths)
        self.stage_kinds()
        if self.embed_dim < 1 or self.embed_dim % 2 ** (stages - 1):
            least = 2 ** (stages - 1)
            raise ValueError(f"embed_dim is {self.embed_dim}; {stages} stages need a positive multiple of {least}")
        if min(self.depths) < 0:
            raise ValueError(f"depths are {self.depths}; wanted 0 or more blocks in each stage")

    def stage_kinds(self) -> list[tuple[str, str]]:
        """Attention and patch form of each stage."""
        stages = len(self.depths)
        kinds = (
            self.per_stage("attention", stages, ATTENTIONS),
            self.per_stage("patch_forms", stages, tuple(PATCH_FORMS)),
        )
        return list(zip(*kinds, strict=True))


class Block(nn.Module):
    """Attention and MLP, each with its shortcut. x: [T, B, dim, H, W] -> same."""

    def __init__(self, kind: str, dim: int, config: QKFormerConfig, *, drop_path: float):
        super().__init__()
        attention = qk_attention(
            kind,
            dim,
            config.num_heads,
            neuron_fn=config.neuron_fn,
            attention_neuron_fn=config.attention_neuron_fn,
            ending=config.ending(),
            merge_scale=config.merge_scale,
            legacy=config.legacy,
        )
        self.attention = config.residual(attention, drop_path=drop_path)
        self.mlp = config.residual(config.mlp(dim), drop_path=drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attention(x))


class QKFormer(HierarchicalModel):
    """x: image [B, C, H, W] or sequence [B, T, C, H, W] -> logits [B, num_classes]. Nothing is kept between calls."""

    def __init__(self, config: QKFormerConfig):
        count = len(config.depths)
        widths = [config.embed_dim // 2 ** (count - 1 - i) for i in range(count)]
        kinds = config.stage_kinds()
        forms = [PATCH_FORMS[form] for _, form in kinds]
        stages, drops = [], config.drop_paths(config.depths)
        for i, in_chans in enumerate([config.in_chans, *widths[:-1]]):
            embed = SPEDS(
                in_chans,
                widths[i],
                forms[i],
                shortcut=config.shortcut,
                neuron_fn=config.neuron_fn,
                deformed_shortcut=config.deformed_shortcut,
            )
            blocks = [Block(kinds[i][0], widths[i], config, drop_path=drop) for drop in drops[i]]
            stages.append(Stage(embed, blocks, checkpoint=config.checkpoint))
        super().__init__(config, stages, widths, [form.stride for form in forms])
        self.config = config
        self.last_neuron = config.entry()


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


def _laptop(embed_dim: int, **changes: Any) -> QKFormerConfig:
    form = ("half", "pool_last", "pool_last")
    return replace(_BASE, embed_dim=embed_dim, num_heads=4, **{"patch_forms": form, **changes})


_DIGITS = {"patch_forms": _BASE.patch_forms, "depths": (1, 1, 1), "in_chans": 1}

VARIANTS = {
    "qkformer_10_384": Variant(_IMAGENET, 16_473_688, 224, "qkformer_imagenet_10_384", "ImageNet 78.80 % in the paper"),
    "qkformer_10_512": Variant(
        replace(_IMAGENET, embed_dim=512, num_heads=8),
        29_079_336,
        224,
        "qkformer_imagenet_10_512",
        "ImageNet 82.04 % in the paper",
    ),
    "qkformer_10_768": Variant(
        replace(_IMAGENET, embed_dim=768, num_heads=12),
        64_962_760,
        224,
        "qkformer_imagenet_10_768",
        "ImageNet 84.22 % in the paper",
    ),
    "qkformer_4_384_cifar": Variant(
        _BASE, 6_706_234, 32, "qkformer_cifar", "CIFAR-10 / 100 96.18 / 81.15 % in the paper"
    ),
    "qkformer_2_256_dvs": Variant(
        _DVS, 1_504_138, 128, "qkformer_cifar10_dvs", "CIFAR10-DVS / DVS128 Gesture 84.0 / 98.6 % in the paper"
    ),
    "qkformer_4_192_cifar": Variant(_laptop(192), 1_685_026, 32, None, "ours, for a laptop"),
    "qkformer_4_96_cifar": Variant(_laptop(96), 425_494, 32, "cifar10_jpeg", "ours, for a laptop"),
    "qkformer_4_96_mnist": Variant(_laptop(96, in_chans=1), 425_278, 28, "mnist", "ours, for a laptop"),
    "qkformer_2_128_nmnist": Variant(
        replace(_DVS, embed_dim=128, num_heads=8, num_steps=4),
        378_698,
        34,
        "nmnist_qkformer",
        "ours, for events on a laptop",
    ),
    "qkformer_3_64_digits": Variant(_laptop(64, **_DIGITS), 140_162, 8, "digits", "ours, for the quickstart"),
}


class Ablation(NamedTuple):
    """A row of the paper's ablation tables: options of a published size, and what is printed there."""

    options: dict[str, Any]
    top1: float
    """%"""
    millions: float | None = None
    """Parameters, where it prints them."""


CIFAR100_ABLATIONS = {
    "no_speds": Ablation({"deformed_shortcut": False}, 80.08),
    "qkca_ssa": Ablation({"attention": "qkca,qkca,ssa"}, 81.07, 6.74),
    "qkta_qkca": Ablation({"attention": "qkta,qkta,qkca"}, 81.04, 6.44),
    "ssa": Ablation({"attention": "ssa"}, 81.23, 6.79),
    "qkca": Ablation({"attention": "qkca"}, 81.00, 6.44),
    "qkta": Ablation({"attention": "qkta"}, 79.09, 6.44),
    "membrane": Ablation({"shortcut": "membrane"}, 81.18),
    "if": Ablation({"neuron": "if"}, 80.95),
    "plif": Ablation({"neuron": "plif"}, 81.12),
    "plif_attention": Ablation({"attention_neuron": "plif"}, 81.17),
    "t1": Ablation({"num_steps": 1}, 78.51),
    "t2": Ablation({"num_steps": 2}, 80.08),
    "t6": Ablation({"num_steps": 6}, 81.30),
}
"""Options of `qkformer_4_384_cifar`, on CIFAR-100. Where QKTA meets QKCA the last stage has QKCA, in the place of SSA;
`membrane` is our reading of the pre-activation shortcut."""

CIFAR10_DVS_ABLATIONS = {
    "no_speds": Ablation({"deformed_shortcut": False}, 83.40),
    "qkca_ssa": Ablation({"attention": "qkca,ssa"}, 84.30, 1.50),
    "qkta_qkca": Ablation({"attention": "qkta,qkca"}, 83.10, 1.44),
    "ssa": Ablation({"attention": "ssa"}, 84.10, 1.52),
    "qkca": Ablation({"attention": "qkca"}, 80.70, 1.44),
    "qkta": Ablation({"attention": "qkta"}, 80.70, 1.44),
}
"""Options of `qkformer_2_256_dvs`. The rows with Spikformer in either table have no model here."""


register_variants("qkformer", PAPER, QKFormer, VARIANTS)
