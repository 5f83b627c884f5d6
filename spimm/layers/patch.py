"""SPEDS: spiking patch embedding with deformed shortcut. Zhou et al. 2024 (QKFormer), section 3.5.

Y = F(X) + LIF(BN(Conv1x1(X))), F a chain of 3x3 conv units, pools between norm and neuron.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from spimm.layers.conv import ConvNormNeuron
from spimm.layers.shortcut import NeuronFn, Shortcut, ending


@dataclass(frozen=True)
class PatchForm:
    """A chain of 3x3 units: stage width over unit width, whether each pools, and the unit where the shortcut starts."""

    divisors: tuple[int, ...]
    pools: tuple[bool, ...]
    tap: int

    @property
    def stride(self) -> int:
        """Reduction of height and width over the whole embedding."""
        return 2 ** sum(self.pools)

    @property
    def shortcut_stride(self) -> int:
        return 2 ** sum(self.pools[self.tap :])


PATCH_FORMS: dict[str, PatchForm] = {
    "imagenet": PatchForm((2, 1, 1), (True, True, False), tap=1),
    "cifar": PatchForm((2, 1), (False, False), tap=1),
    "half": PatchForm((2, 1), (False, True), tap=1),  # ours: between the two, for 28x28 images on a laptop
    "dvs": PatchForm((8, 4, 2, 1), (False, True, True, True), tap=2),
    "pool_first": PatchForm((1, 1), (True, False), tap=0),  # ImageNet stages 2 and 3
    "pool_last": PatchForm((1, 1), (False, True), tap=0),  # CIFAR and DVS stages
}


class SPEDS(nn.Module):
    """Patch embedding. x: [T, B, C, H, W], or [1, ...] with `num_steps`, -> [T, B, dim, H / stride, W / stride].

    With the spike-add shortcut the output is {0, 1, 2}, with `vanilla` spikes; with `membrane` it is real, and an
    embedding whose shortcut starts at its input (`tap` 0) fires first. `deformed_shortcut=False` leaves F(X) alone (the
    SPS of Spikformer).
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        form: PatchForm,
        *,
        shortcut: Shortcut,
        neuron_fn: NeuronFn,
        deformed_shortcut: bool = True,
    ):
        super().__init__()
        if dim % max(form.divisors):
            raise ValueError(f"embedding width is {dim}; this form needs a multiple of {max(form.divisors)}")
        widths = [in_chans, *(dim // divisor for divisor in form.divisors)]
        last = len(form.pools) - 1
        self.entry = neuron_fn() if shortcut == "membrane" and form.tap == 0 else None
        self.units = nn.ModuleList(
            ConvNormNeuron(
                widths[i],
                widths[i + 1],
                3,
                pool=pool,
                neuron=ending(shortcut, neuron_fn).neuron if i == last else neuron_fn(),
            )
            for i, pool in enumerate(form.pools)
        )
        self.tap = form.tap
        self.shortcut = (
            ConvNormNeuron(
                widths[form.tap], dim, 1, stride=form.shortcut_stride, **ending(shortcut, neuron_fn)._asdict()
            )
            if deformed_shortcut
            else None
        )

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        if self.entry is not None:
            x, num_steps = self.entry(x, num_steps), None
        tapped, tapped_steps = x, num_steps
        for index, unit in enumerate(self.units):
            if index == self.tap:
                tapped, tapped_steps = x, num_steps
            x, num_steps = unit(x, num_steps), None
        return x if self.shortcut is None else self.shortcut(tapped, tapped_steps, added=x)
