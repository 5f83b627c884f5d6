"""What `eval`, `analyze` and `quickstart` work on: the model and data of a training run, or a model by name."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import nn

from spimm.data import ImageData, Loader, known_classes, takes_frames
from spimm.deploy import Merge, MergeCost, Sizes, fold, merge_costs, quantise, quantised_sizes
from spimm.layers import Per
from spimm.models import load_weights, model_card
from spimm.models.pretrained import shipped_weights
from spimm.train import Recipe, build_data, build_loader, build_model, load_run, match_classes, run_classes
from spimm.train.overrides import read_options
from spimm.train.place import in_place
from spimm.weights import say_untrained


@dataclass(frozen=True)
class Subject:
    """A model in eval mode, the recipe it belongs to, and its data."""

    model: nn.Module
    recipe: Recipe
    data: ImageData
    class_names: tuple[str, ...] | None = None
    """Of the data that the model was trained on, by number; None where they are not known."""
    merge_costs: tuple[MergeCost, ...] = ()
    """Of the rows of convolutions that were folded."""
    sizes: Sizes | None = None
    """With --bits: bytes before quantising and after."""

    def matched(self) -> "Subject":
        """With labels by the numbers of the model's classes. ValueError for classes that the model does not know."""
        return self if self.class_names is None else replace(self, data=match_classes(self.data, self.class_names))

    def test_loader(self) -> Loader:
        """Test images in order, normalised as in training."""
        return build_loader(self.recipe, self.data, train=False)


@dataclass(frozen=True)
class SubjectOptions:
    """A run's folder, or --model, with --pretrained, --weights or neither."""

    run: Annotated[Path | None, tyro.conf.Positional] = None
    """folder that 'spimm train' wrote"""
    model: str | None = None
    """a model by name, in place of a run; random weights unless --pretrained or --weights"""
    pretrained: bool = False
    """the weights that ship for --model"""
    weights: Path | None = None
    """safetensors file for --model"""
    data: str | None = None
    """data set; by default the run's, that of the shipped weights, or digits"""
    data_dir: Path | None = None
    """folder with the data sets; that in which the run found its data, or the environment variable SPIMM_DATA"""
    download: bool = False
    """let torchvision fetch a data set that is missing from the data folder"""
    which: Literal["best", "last"] = "best"
    """the run's best or last checkpoint"""
    num_steps: int | None = None
    """time steps, and frames of events, if not those of training"""
    image_size: int | None = None
    """side of the images in pixels, if not that of training or of the model's card"""
    crop_fraction: float | None = None
    """share of the shorter side of image files that is kept, if not that of training"""
    options: tuple[str, ...] = ()
    """other options of the model than those of training, such as readout=time"""
    fold: bool = False
    """fold batch norms into convolutions first, for bf16 with weights in bf16"""
    merge: Merge = "cheaper"
    """with --fold: rows of convolutions (RepConv, SepConv) made one dense convolution, split, or what is cheaper"""
    bits: int | None = None
    """quantise the weights of convolutions and linear layers, 2 to 8 bits; after --fold"""
    per: Per = "layer"
    """with --bits: what shares a scale, a layer or each of its output channels"""

    def load(self, batch_size: int, *, precision: str | None = "fp32") -> Subject:
        """The model, folded and quantised if asked, and its data. precision: None takes that of the run's training.

        Raises ValueError unless one of run and model is given.
        """
        if (self.run is None) == (self.model is None):
            raise ValueError("give either the folder of a training run or --model NAME")
        if self.run is not None and (self.pretrained or self.weights):
            raise ValueError(f"--pretrained and --weights are for --model, got one of them for the run {self.run}")
        if self.pretrained and self.weights:
            raise ValueError(f"give either --pretrained or --weights, got both, --weights {self.weights}")
        options: dict[str, Any] = {} if self.num_steps is None else {"num_steps": self.num_steps}
        options |= read_options(self.options)
        subject = self._named(self.model, options) if self.model is not None else self._trained(options)
        say_untrained(subject.model, subject.recipe.model)
        precision = precision or (subject.recipe.precision if self.run is not None else "fp32")
        costs = merge_costs(subject.model) if self.fold else []
        if self.fold:
            folded = fold(subject.model, dtype=torch.bfloat16 if precision == "bf16" else None, merge=self.merge)
            subject = replace(subject, model=folded)
        if self.bits is not None:
            sizes = quantised_sizes(subject.model, self.bits, self.per)
            subject = replace(subject, model=quantise(subject.model, self.bits, self.per), sizes=sizes)
        recipe = replace(subject.recipe, batch_size=batch_size, precision=precision)
        return replace(subject, recipe=recipe, merge_costs=tuple(costs))

    def _trained(self, options: dict[str, Any]) -> Subject:
        assert self.run is not None
        recipe, network = load_run(self.run, which=self.which, model_options=options)
        recipe = replace(recipe, data=self.data or recipe.data, **self._view(recipe))
        found, place = in_place(recipe, self.run, self.data_dir) if self.data is None else (recipe, self.data_dir)
        images = build_data(found, data_dir=place, download=self.download)
        return Subject(network.eval(), recipe, images, run_classes(self.run))

    def _view(self, recipe: Recipe) -> dict[str, Any]:
        """How large the images are and what is kept of them."""
        return {
            "image_size": recipe.image_size if self.image_size is None else self.image_size,
            "crop_fraction": recipe.crop_fraction if self.crop_fraction is None else self.crop_fraction,
        }

    def _named(self, name: str, options: dict[str, Any]) -> Subject:
        card = model_card(name)
        data = self.data or (shipped_weights(name).data if self.pretrained else "digits")
        shape: dict[str, Any] = {"image_size": card.input_size[-1]}
        if takes_frames(data):
            shape = {"frames": self.num_steps or card.num_steps}
        recipe = Recipe(model=name, data=data, model_options=options, **shape)
        recipe = replace(recipe, **self._view(recipe))
        images = build_data(recipe, data_dir=self.data_dir, download=self.download)
        network = build_model(recipe, images, pretrained=self.pretrained)
        if self.weights is not None:
            load_weights(network, self.weights)
        return Subject(
            network.eval(), recipe, images, known_classes(shipped_weights(name).data) if self.pretrained else None
        )
