"""What `eval` and `analyze` work on: the model and data of a training run, or a model by name."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from spimm.data import ImageData, Loader, load_data
from spimm.models import load_weights, model_card
from spimm.train import Recipe, build_loader, build_model, load_run


@dataclass(frozen=True)
class Subject:
    """A model in eval mode, the recipe it belongs to, and its data."""

    model: nn.Module
    recipe: Recipe
    data: ImageData

    def test_loader(self) -> Loader:
        """Test images in order, normalised as in training."""
        return build_loader(self.recipe, self.data, train=False)


def load_subject(
    run: Path | None,
    *,
    model: str | None,
    weights: Path | None,
    data: str | None,
    data_dir: Path | None,
    which: str,
    batch_size: int,
    num_steps: int | None,
) -> Subject:
    """The run's model and data, or the named model with `weights` (random without) on `data`.

    Raises ValueError unless exactly one of run and model is given.
    """
    if (run is None) == (model is None):
        raise ValueError("give either the folder of a training run or --model NAME")
    options = {} if num_steps is None else {"num_steps": num_steps}
    if run is not None:
        recipe, network = load_run(run, which=which, model_options=options)
        recipe = replace(recipe, data=data or recipe.data, batch_size=batch_size)
        images = load_data(recipe.data, data_dir=data_dir, image_size=recipe.image_size)
    else:
        assert model is not None
        card = model_card(model)
        spec = data or "digits"
        images = load_data(spec, data_dir=data_dir, image_size=card.input_size[-1])
        recipe = Recipe(model=model, data=spec, model_options=options, batch_size=batch_size)
        network = build_model(recipe, images)
        if weights is not None:
            load_weights(network, weights)
    return Subject(network.eval(), recipe, images)
