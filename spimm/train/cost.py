"""What recipes that have not been run would cost: images, and hours by the speed of single steps."""

from spimm.train.config import Recipe
from spimm.train.plan import KNOWN, hours, images_seen

MACHINE = "one core of an AMD EPYC with AVX-512"
SPEEDS: dict[str, float] = {
    "cifar100_ann": 19,
    "cifar100_dcl_t2": 8.3,
    "cifar100_hsl_t2": 22,
    "cifar100_mbpl2_t1": 45,
    "cifar100_mbpl3_t1": 42,
    "cifar100_mbpl4_t1": 30,
    "cifar100_mbpl4_t1_1246": 43,
    "cifar100_mbpl4_t2": 15,
    "cifar100_mbpl4_t2_sigmoid": 15,
    "cifar100_mbpl4_t4": 10,
    "cifar100_mbpl8_t2": 18,
    "cifar100_rl_t1": 44,
    "cifar100_sl_t1_atan": 33,
    "cifar100_sl_t1_sigmoid": 43,
    "cifar100_sl_t1_tau4_sigmoid": 47,
    "cifar100_sl_t4_sigmoid": 19,
    "cifar100_sl_t8_sigmoid": 8.9,
    "metaspikeformer_har_dvs": 0.59,
    "metaspikeformer_imagenet": 5.5,
    "metaspikeformer_imagenet_31m": 3.3,
    "metaspikeformer_imagenet_31m_t4": 1,
    "metaspikeformer_imagenet_55m": 2,
    "metaspikeformer_imagenet_55m_distilled": 1.3,
    "metaspikeformer_imagenet_55m_distilled_t4": 0.46,
    "metaspikeformer_imagenet_55m_t4": 0.6,
    "metaspikeformer_imagenet_channel_mlp": 4,
    "metaspikeformer_imagenet_linear_proj": 3.2,
    "metaspikeformer_imagenet_linear_qkv": 3,
    "metaspikeformer_imagenet_no_pyramid": 3.1,
    "metaspikeformer_imagenet_no_sep_conv": 3,
    "metaspikeformer_imagenet_sdsa1": 3.1,
    "metaspikeformer_imagenet_sdsa2": 3.4,
    "metaspikeformer_imagenet_sdsa4": 2.8,
    "metaspikeformer_imagenet_spike_add": 3,
    "metaspikeformer_imagenet_stage1_2c": 3,
    "metaspikeformer_imagenet_t4": 2,
    "metaspikeformer_imagenet_transformer": 3.6,
    "metaspikeformer_imagenet_vanilla": 2.8,
    "qkformer_cifar": 8.1,
    "qkformer_cifar100": 9.5,
    "qkformer_cifar100_if": 8.6,
    "qkformer_cifar100_membrane": 8.6,
    "qkformer_cifar100_no_speds": 8.7,
    "qkformer_cifar100_plif": 8.4,
    "qkformer_cifar100_plif_attention": 11,
    "qkformer_cifar100_qkca": 9.6,
    "qkformer_cifar100_qkca_ssa": 9.1,
    "qkformer_cifar100_qkta": 11,
    "qkformer_cifar100_qkta_qkca": 11,
    "qkformer_cifar100_ssa": 9.2,
    "qkformer_cifar100_t1": 23,
    "qkformer_cifar100_t2": 17,
    "qkformer_cifar100_t6": 6.9,
    "qkformer_cifar10_dvs": 5.7,
    "qkformer_cifar10_dvs_no_speds": 6.9,
    "qkformer_cifar10_dvs_qkca": 6.4,
    "qkformer_cifar10_dvs_qkca_ssa": 6.3,
    "qkformer_cifar10_dvs_qkta": 5.5,
    "qkformer_cifar10_dvs_qkta_qkca": 5.8,
    "qkformer_cifar10_dvs_ssa": 5.7,
    "qkformer_cifar10_dvs_t10": 8.8,
    "qkformer_dvs_gesture": 5.8,
    "qkformer_dvs_gesture_t10": 8.9,
    "qkformer_imagenet_10_384": 2.1,
    "qkformer_imagenet_10_512": 1.3,
    "qkformer_imagenet_10_768": 0.65,
    "qkformer_imagenet_10_768_384px": 0.19,
    "qkformer_imagenet_10_768_t1": 2.2,
    "spikeatconv_imagenet": 1.7,
    "spikeatconv_imagenet_ann": 1.8,
    "spikeatconv_imagenet_bdsa": 2,
    "spikeatconv_imagenet_dcl": 1.6,
    "spikeatconv_imagenet_hsl": 1.4,
    "spikeatconv_imagenet_large": 0.9,
    "spikeatconv_imagenet_rl": 2.7,
    "spikeatconv_imagenet_sl": 2.6,
    "spikeatconv_imagenet_t2": 1,
    "spikeatconv_imagenet_tiny": 4.3,
    "ttfs_vgg11_cifar10": 34,
    "ttfs_vgg11_cifar10_ann": 33,
    "ttfs_vgg16_cifar10": 19,
    "ttfs_vgg16_cifar100": 22,
    "ttfs_vgg16_cifar100_ann": 30,
    "ttfs_vgg16_cifar10_ann": 24,
}
"""Recipe -> images a second of processor time on `MACHINE`: a step of 4 or 8 images, as `spimm train RECIPE --dry-run`
takes it, beside other work. Good for an order of magnitude, not for comparisons."""


def estimate(recipe: Recipe) -> str:
    """A line that says what is known of the cost of a recipe for a published data set."""
    images = images_seen(recipe, KNOWN[recipe.data].train)
    text = f"not run; {recipe.total_epochs} epochs, {images / 1e6:,.1f} million images"
    if recipe.name not in SPEEDS:
        return f"{text}, speed not measured"
    needed = float(f"{hours(images, SPEEDS[recipe.name]):.2g}")  # two digits: more would promise too much
    return f"{text}, by the plan about {needed:,.0f} hours on {MACHINE}"
