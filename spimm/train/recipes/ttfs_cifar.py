"""DTA-TTFS on CIFAR as published (Wei et al. 2023): a row of Table 1, one recipe for each.

The spike times of a VGG trained directly, from the weights of its ReLU1 twin: `{name}_ann` must have run before, or
`init_from=` names another start. Published: 300 epochs, Adam from 1e-4, times 0.4 at epochs 50, 150 and 240, batch 256,
crops with grey of 128 around, flips, AutoAugment, Cutout, derivatives clipped at 1e5. Ours: images normalised by this
package's deviations (0.2470, 0.2435, 0.2616), a random order of the training images, all test images.
`optimizer=adamw` is that of the authors' code, model_options.clip=11 that of their form by activations.

Command: SPIMM_DATA=FOLDER spimm train {name}
"""

from spimm.train.config import Recipe
from spimm.train.cost import estimate
from spimm.train.recipes.ttfs_cifar_ann import AUGMENT, ROWS

TOP1_AND_SPARSITY = dict(zip(ROWS, ((91.17, 0.4387), (93.05, 0.2561), (69.66, 0.2845)), strict=True))
RECIPES = {
    f"ttfs_{network}_{data}": Recipe(
        name=f"ttfs_{network}_{data}",
        model=f"ttfs_{network}",
        model_options={"clip": 1e5},
        data=data,
        init_from=f"runs/ttfs_{network}_{data}_ann",
        augment=AUGMENT,
        epochs=300,
        batch_size=256,
        optimizer="adam",
        lr=1e-4,
        schedule="milestones",
        milestones=(50, 150, 240),
        milestone_factor=0.4,
        weight_decay=0.0,
    )
    for network, data in ROWS
}
NOTES = {
    f"ttfs_{network}_{data}": f"Cost: {estimate(RECIPES[f'ttfs_{network}_{data}'])}\n"
    f"Expected: published {top1} % top-1 with {sparsity} spikes a neuron; not run with this recipe\n"
    "Source: Wei et al. 2023, Table 1"
    for (network, data), (top1, sparsity) in TOP1_AND_SPARSITY.items()
}
