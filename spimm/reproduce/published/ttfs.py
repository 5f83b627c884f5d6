"""DTA-TTFS (Wei et al., ICCV 2023)."""

from spimm.analyze import PUBLISHED_CODINGS
from spimm.reproduce.counts import chip_energy, coding_energies, saved_energy
from spimm.reproduce.rows import Row, Setup

_VGG11, _VGG16 = (Setup(f"ttfs_{network}_cifar10_jpeg") for network in ("vgg11", "vgg16"))


def _table1(data: str, network: str, top1: float, sparsity: float, full: Setup, scaled: Setup | None = None) -> Row:
    figures = {"top1": top1, "sparsity": sparsity}
    needs = "a GPU" if data == "mnist" else "a GPU, and the ReLU1 twin trained before"
    return Row(f"ttfs/{data}/{network}", "T = 1", "Table 1", figures, full=full, scaled=scaled, needs=needs)


ROWS = (
    _table1("mnist", "cnn", 99.4, 0.3913, Setup("ttfs_mnist_paper"), Setup("ttfs_mnist")),
    _table1("cifar10", "vgg11", 91.17, 0.4387, Setup("ttfs_vgg11_cifar10"), _VGG11),
    _table1("cifar10", "vgg16", 93.05, 0.2561, Setup("ttfs_vgg16_cifar10"), _VGG16),
    _table1("cifar100", "vgg16", 69.66, 0.2845, Setup("ttfs_vgg16_cifar100")),
    Row(
        "ttfs/cifar10/no-threshold",
        "without the dynamic firing threshold",
        "Fig. 6",
        {"top1": 10.0},
        needs="the trained network of the paper, run by deploy.run_causal",
    ),
    Row(
        "ttfs/chip/4-bit",
        "4-bit weights; energy from 71 thousand spikes and 454 thousand hops (in print millions, 5963.5 µJ)",
        "Eq. 12, Fig. 8",
        {"top1": 90.67, "frame_energy": 50.36, "compared_energy": 163.65, "saved": 69.2, "gained": 7.26},
        counts={"frame_energy": chip_energy(71e3, 454e3), "saved": saved_energy(71e3, 454e3, 163.65)},
        needs="a network trained on CIFAR-10 with weight_bits=4; which one is not printed",
    ),
    *(
        Row(
            f"ttfs/coding/{row.cost.name.lower()}",
            f"from the printed {row.cost.steps:g} steps and {row.cost.spikes / 1e6:g} M spikes",
            "Table 2, Eq. 11",
            {"truenorth": row.truenorth, "spinnaker": row.spinnaker},
            counts=coding_energies(row.cost.name),
        )
        for row in PUBLISHED_CODINGS
    ),
)
