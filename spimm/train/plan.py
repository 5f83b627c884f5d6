"""What a run will take, in numbers: steps, images, hours, memory. Arithmetic on a recipe and on what was measured.

Legend: sizes in bytes, times in seconds unless the name says otherwise.
"""

from dataclasses import dataclass
from typing import NamedTuple

from spimm.train.config import Recipe

FLOAT = 4
MOMENTS = {"adamw": 2, "adam": 2, "lamb": 2, "sgd": 1}
"""Running moments that an optimiser keeps of each weight."""


class DataSize(NamedTuple):
    """Images or recordings of a data set, its classes, and the shape of one as it comes."""

    train: int
    test: int
    classes: int
    in_chans: int
    size: tuple[int, int]
    held_out: int = 0
    """Training images that choose the best epoch, which are not among those of train."""

    def hold_out(self, share: float) -> "DataSize":
        """As it is with `share` of the training images held out."""
        kept = int(self.train * (1 - share))
        return self._replace(train=kept, held_out=self.train - kept)


KNOWN = {
    "digits": DataSize(1437, 360, 10, 1, (8, 8)),
    "mnist": DataSize(60_000, 10_000, 10, 1, (28, 28)),
    "cifar10": DataSize(50_000, 10_000, 10, 3, (32, 32)),
    "cifar100": DataSize(50_000, 10_000, 100, 3, (32, 32)),
    "imagefolder": DataSize(1_281_167, 50_000, 1000, 3, (224, 224)),
    "n-mnist": DataSize(60_000, 10_000, 10, 2, (34, 34)),
    "n-caltech101": DataSize(7_838, 871, 101, 2, (180, 240)),
    "cifar10-dvs": DataSize(9_000, 1_000, 10, 2, (128, 128)),
    "dvs-gesture": DataSize(1_176, 288, 11, 2, (128, 128)),
    "har-dvs": DataSize(64_588, 32_294, 300, 2, (260, 346)),
}
"""Published sizes of data sets, for a plan where their files are not at hand; `imagefolder` stands for ImageNet."""


@dataclass(frozen=True)
class Probe:
    """One training step, measured: images in it, seconds, bytes at its peak with all that stays between steps, or None,
    and seconds in which as many images are evaluated.
    """

    images: int
    seconds: float
    peak: int | None
    eval_seconds: float


class Memory(NamedTuple):
    """Bytes of a training step as a line: what every step takes, and what each image adds."""

    fixed: float
    per_image: float

    def at(self, images: int) -> int:
        """Bytes of a step of so many images."""
        return round(self.fixed + self.per_image * images)

    def most_images(self, capacity: int) -> int:
        """The largest batch that fits into `capacity` bytes; 0 if none does."""
        return max(0, int((capacity - self.fixed) // self.per_image))


def memory_line(small: Probe, large: Probe) -> Memory | None:
    """Through two measured peaks; None where a peak is not known. ValueError for two steps of as many images."""
    if small.peak is None or large.peak is None:
        return None
    if small.images >= large.images:
        raise ValueError(f"the second step must have more images than the first, got {small.images}, {large.images}")
    per_image = max(0.0, (large.peak - small.peak) / (large.images - small.images))
    return Memory(max(0.0, large.peak - per_image * large.images), per_image)


def resting_bytes(parameters: int, recipe: Recipe) -> int:
    """What stays between steps: weights, the optimiser's moments and averaged weights, all in fp32."""
    copies = 1 + MOMENTS[recipe.optimizer] + (recipe.ema_decay > 0)
    return copies * FLOAT * parameters


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Whole batches; batch_size: images a step, on all processes together. ValueError where there is none."""
    if batch_size < 1 or images < batch_size:
        raise ValueError(f"an epoch must have a whole batch, got {images} images and batches of {batch_size}")
    return images // batch_size


def images_seen(recipe: Recipe, images: int) -> int:
    """Images that a whole run trains on, each epoch's incomplete batch left out."""
    return recipe.total_epochs * steps_per_epoch(images, recipe.batch_size) * recipe.batch_size


def evaluations(recipe: Recipe) -> int:
    """Times that a run goes through the test images and held-out ones, twice each with averaged weights."""
    times = recipe.total_epochs // recipe.eval_every + (recipe.total_epochs % recipe.eval_every > 0)
    return times * (2 if recipe.ema_decay else 1)


def hours(images: float, images_per_second: float, *, processes: int = 1, efficiency: float = 1.0) -> float:
    """Hours for so many images on processes that are each so fast; efficiency: share of that speed that is left when
    they work together. ValueError unless all are positive.
    """
    wrong = min(images_per_second, processes, efficiency) <= 0 or images < 0
    if wrong or efficiency > 1:
        seen = f"{images} images, {images_per_second} images/s, {processes} processes, efficiency {efficiency}"
        raise ValueError(f"wanted positive numbers and an efficiency of at most 1, got {seen}")
    return images / (images_per_second * processes * efficiency) / 3600


@dataclass(frozen=True)
class Plan:
    """A run before it starts. Speeds and bytes are of one process; the batch is shared by `processes` of them."""

    recipe: Recipe
    data: DataSize
    parameters: int
    probe: Probe
    memory: Memory | None
    processes: int = 1
    efficiency: float = 1.0

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.data.train, self.recipe.batch_size)

    @property
    def steps(self) -> int:
        return self.recipe.total_epochs * self.steps_per_epoch

    @property
    def images(self) -> int:
        """Trained on in all."""
        return images_seen(self.recipe, self.data.train)

    @property
    def images_per_second(self) -> float:
        return self.probe.images / self.probe.seconds

    @property
    def train_hours(self) -> float:
        return hours(self.images, self.images_per_second, processes=self.processes, efficiency=self.efficiency)

    @property
    def eval_hours(self) -> float:
        """Of the evaluations, each on all processes."""
        speed = self.probe.images / self.probe.eval_seconds
        images = evaluations(self.recipe) * (self.data.test + self.data.held_out)
        return hours(images, speed, processes=self.processes, efficiency=self.efficiency)

    @property
    def hours(self) -> float:
        return self.train_hours + self.eval_hours

    @property
    def process_images(self) -> int:
        """Images that a process computes at once."""
        return -(-self.recipe.batch_size // (self.processes * self.recipe.accumulate))

    @property
    def bytes(self) -> int | None:
        """Of a step on one process at its peak, with all that stays between steps; None where no peak was measured."""
        return None if self.memory is None else self.memory.at(self.process_images)

    @property
    def loading_rate(self) -> float:
        """Images a second that have to be read and augmented to keep all processes at work."""
        return self.images_per_second * self.processes * self.efficiency
