"""SpikeAtConv (Liao et al., Front. Neurosci. 2025)."""

from spimm.models.resnet import TABLES
from spimm.reproduce.counts import parameters
from spimm.reproduce.rows import Row, Setup

# change of the run on small data that stands for it, or would, top-1 and top-5, whether there is such a run
_TABLE3 = {
    "sl": (("model_options.spk=sl",), 74.91, 91.94, True),
    "rl": (("model_options.spk=rl",), 78.35, 93.73, False),
    "hsl": (("model_options.spk=hsl",), 78.44, 93.75, False),
    "dcl": (("model_options.spk=dcl",), 77.66, 93.83, False),
    "mbpl-bdsa": (("model_options.attention=bdsa",), 77.63, 93.63, True),
}


def _cifar100(name: str) -> Row:
    row = TABLES[name]
    options = tuple(f"model_options.{key}={value}" for key, value in row.options.items())
    return Row(
        f"spikeatconv/cifar100/{name.replace('_', '-')}",
        ", ".join(f"{key}={value}" for key, value in row.options.items()),
        f"Table {'1 and 2' if name == 'mbpl4_t2' else row.table}",
        {"top1": row.top1},
        full=Setup(f"cifar100_{name}"),
        scaled=Setup("spk_tables", options),
        needs="a GPU",
    )


def _size(name: str, steps: int, top1: float, top5: float, params: float, energy: float) -> Row:
    suffix = {"base": "" if steps == 1 else "_t2"}.get(name, f"_{name}")
    return Row(
        f"spikeatconv/imagenet/{name}-t{steps}",
        f"MBPL, SISA, T = {steps}; the size nearest to the printed parameters",
        f"{'Table 3 and ' if (name, steps) == ('base', 1) else ''}ImageNet table",
        {"top1": top1, "top5": top5, "energy": energy, "params": params},
        full=Setup(f"spikeatconv_imagenet{suffix}"),
        scaled=Setup("spikeatconv_cifar10_jpeg") if (name, steps) == ("base", 1) else None,
        counts={"params": parameters(f"spikeatconv_{name}_table")},
        needs="several GPUs; the strengths of mixup, cutmix and erasing are not published",
    )


ROWS = (
    *(_cifar100(name) for name in TABLES),
    _size("base", 1, 80.53, 94.17, 53.4, 14.2),
    _size("base", 2, 80.70, 94.89, 53.4, 28.2),
    _size("tiny", 1, 76.58, 92.74, 14.6, 3.8),
    _size("large", 1, 81.23, 95.41, 116.1, 32.0),
    *(
        Row(
            f"spikeatconv/imagenet/base-{name}",
            "T = 1",
            "Table 3",
            {"top1": top1, "top5": top5},
            full=Setup(f"spikeatconv_imagenet_{name.removeprefix('mbpl-')}"),
            scaled=Setup("spikeatconv_cifar10_jpeg", changes) if small else None,
            needs="several GPUs",
        )
        for name, (changes, top1, top5, small) in _TABLE3.items()
    ),
    Row(
        "spikeatconv/imagenet/base-ann",
        "spike-free",
        "Table 3",
        {"top1": 81.13, "top5": 94.30},
        full=Setup("spikeatconv_imagenet_ann"),
        scaled=Setup("spikeatconv_cifar10_jpeg", ("model_options.spk=gelu",)),
        needs="several GPUs",
    ),
)
