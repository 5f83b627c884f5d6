"""A recipe: everything that decides a training run, as one frozen dataclass."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from spimm.data import CROP_FRACTION, Augment, Bins, Corrupt, Framing, Interpolation, Representation
from spimm.data.mend import Bounds, Mending, Order
from spimm.layers import BITS, Per
from spimm.models.option_types import check_types
from spimm.tasks.distill import Target
from spimm.train.typed import LARGEST, from_json

OptionValue = bool | int | float | str
SET_ELSEWHERE = {
    "num_classes": "the data sets it",
    "in_chans": "the data sets it",
    "pretrained": "init_from=FILE starts from weights",
    "weights": "init_from=FILE starts from weights",
    "features_only": "a network is trained with its classifier",
    "out_indices": "a network is trained with its classifier",
    "per_step": "a network is trained with its classifier",
    "name": "model=NAME names the model",
}
"""Arguments of `create_model` that are no options of a recipe, and what is in their place."""
MOST_WORKERS = 256
"""Processes that load images, at most."""


@dataclass(frozen=True)
class Recipe:
    """One training run. Two runs of the same recipe, device and thread count give the same weights, bit for bit.

    Learning rates are those of a step, whatever the batch size; every field is checked on construction (ValueError).
    """

    model: str
    """name of a registered model"""
    data: str
    """data set: a name such as digits or mnist, or a path"""
    name: str = "custom"
    """name of the recipe"""
    model_options: Mapping[str, OptionValue] = field(default_factory=dict)
    """options of the model, such as num_steps or neuron (model_options.num_steps=4)"""
    init_from: str | None = None
    """run folder (its best weights), checkpoint folder or .safetensors file whose weights training starts from"""
    image_size: int | None = None
    """side in pixels to which images are resized; None keeps the data set's own size"""
    interpolation: Interpolation = "bilinear"
    """bilinear or bicubic, for image files whose size is changed"""
    crop_fraction: float = CROP_FRACTION
    """share of the shorter side of image files that evaluation keeps; usually 1 above 224 pixels"""
    frames: int | None = None
    """frames into which events are binned, and the model's time steps; None for images"""
    bins: Bins = "time"
    """frames of equal duration (time), of equally many events (count), or of bin_size (duration, events)"""
    bin_size: int | None = None
    """microseconds (bins=duration) or events (bins=events) of a frame; a recording is cut, or filled up, to frames"""
    representation: Representation = "counts"
    """what frames hold of events: their counts, a voxel grid, or a time surface"""
    merge_polarity: bool = False
    """one channel for events of both polarities"""
    sensor_size: int | None = None
    """side in pixels of the square to which events are moved; None keeps the sensor's size"""
    sensor: tuple[int, int] | None = None
    """height and width in pixels of the camera of recordings:PATH, where its files do not state them"""
    stream: int | None = None
    """camera of recordings:PATH whose AEDAT 3.1 or AEDAT 4 files hold several: the number of its source or stream"""
    out_of_order: Order = "refuse"
    """what becomes of events earlier than one before them: an error (refuse), sorted by time (sort), left out (drop)"""
    out_of_bounds: Bounds = "refuse"
    """what becomes of events outside the sensor: an error (refuse), or they are left out (drop)"""
    split_seed: int | None = None
    """seed of val_share, and of the split of a data set that is published without one; None is 0, or the authors'"""
    val_share: float = 0.0
    """share of the training images, of each class, that is held out to choose the best epoch (0: the last epoch
    counts, test images never choose); of a folder that is not split, the share that becomes its test images (0 is 0.1
    there)"""
    fold: int | None = None
    """train and test on this fold, from 0, of all images; None keeps the data set's own split"""
    folds: int = 5
    """number of folds"""
    corrupt: Corrupt = "refuse"
    """what becomes of images and recordings that cannot be read: an error (refuse), or they are left out (skip)"""
    augment: Augment = field(default_factory=Augment)
    """augmentation of the training images"""
    repeats: int = 1
    """times that an image comes within a batch, augmented anew; an epoch has as many images as ever, fewer different"""
    epochs: int = 10
    """epochs of warm-up and schedule together"""
    cooldown_epochs: int = 0
    """epochs at min_lr after the cosine"""
    batch_size: int = 64
    """images a step, on all ranks together; the last, incomplete batch of a training epoch is left out"""
    accumulate: int = 1
    """pieces in which a rank computes its share of a step, one after the other, the gradients being added up"""
    batch_parts: int = 1
    """equal parts of a batch, at most: each is augmented and mixed on its own; as many as ranks spare them each other's
    images (see `parts`)"""
    optimizer: Literal["adamw", "adam", "lamb", "sgd"] = "adamw"
    """optimiser; LAMB's trust ratio is at most 1, SGD is without Nesterov's step"""
    lr: float = 1e-3
    """highest learning rate"""
    schedule: Literal["cosine", "milestones"] = "cosine"
    """how the learning rate falls after the warm-up: along a cosine, or by a factor at each milestone"""
    milestones: tuple[int, ...] = ()
    """epochs, counted from 0 and with those of the warm-up, from which on the learning rate is lower"""
    milestone_factor: float = 0.1
    """what the learning rate is multiplied by at each milestone"""
    min_lr: float = 1e-5
    """learning rate at the end of the cosine"""
    warmup_epochs: int = 0
    """epochs of linear warm-up"""
    warmup_lr: float = 1e-5
    """learning rate at the first step of the warm-up"""
    weight_decay: float = 0.05
    """decay of matrices and kernels; biases, norms and neuron parameters have none; adam and sgd add it to gradients"""
    layer_decay: float = 1.0
    """factor of the learning rate from each layer to the one before it, the head having all of it; 1 is off"""
    betas: tuple[float, float] = (0.9, 0.999)
    """decay of the running moments of adamw, adam and lamb"""
    momentum: float = 0.9
    """momentum of sgd"""
    mean_share: float = 1.0
    """share that is kept of what a step adds to all weights of a neuron alike; less of it keeps neurons from dying"""
    label_smoothing: float = 0.0
    """share of the target spread over all classes"""
    mixup: float = 0.0
    """blend two images, their shares from Beta(mixup, mixup); 0 is off; with cutmix too, each batch draws one"""
    cutmix: float = 0.0
    """paste a rectangle of one image into another, its share from Beta(cutmix, cutmix); 0 is off"""
    mix_probability: float = 1.0
    """share of the batches that mixup and cutmix mix"""
    mix_epochs: int | None = None
    """epochs with mixup and cutmix, from the first; None is all of them"""
    teacher: str | None = None
    """name of a timm model that the model learns from as well as from the labels; it sees the same batches"""
    teacher_weights: str | None = None
    """.safetensors file of the teacher in timm's format; None downloads timm's pretrained weights"""
    distillation: Target = "hard"
    """learn the teacher's class (hard) or its probabilities (soft)"""
    distill_alpha: float = 0.5
    """share of the teacher in the loss; the labels have the rest"""
    distill_temperature: float = 1.0
    """temperature of the probabilities in soft distillation"""
    clip_norm: float = 0.0
    """largest gradient norm; 0 is off"""
    spike_guard: float = 0.0
    """steps whose loss or gradient norm is so many times its recent median, or not finite, are not taken; 0 is off"""
    rate_weight: float = 0.0
    """price, added to the loss, of firing rates above rate_upper or below rate_lower; 0 is off"""
    rate_upper: float = 0.1
    """spikes per neuron and step beyond which a layer's mean costs"""
    rate_lower: float = 0.0
    """spikes per neuron and step below which a channel costs"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """compute type under autocast; weights and sums stay fp32"""
    weight_bits: int | None = None
    """bits of the weights of convolutions and linear layers, 2 to 8, straight-through in training; None is off"""
    weight_bits_per: Per = "layer"
    """what shares a scale of quantised weights: a layer, or each of its output channels"""
    ema_decay: float = 0.0
    """decay of the average of the weights, warmed up from 0; 0 is off"""
    seed: int = 0
    """seed of the weights, the order of the images and their augmentation"""
    checkpoint_every: int = 0
    """steps between checkpoints within an epoch; 0 writes one an epoch"""
    eval_every: int = 1
    """epochs between evaluations; the last epoch always has one"""
    log_every: int = 10
    """steps between lines of the log"""
    num_workers: int = 0
    """processes that prepare batches; 0 prepares them in the main one"""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """what ranks share of a step: the batch (ddp), or weights, gradients and optimiser as well (fsdp)"""
    sync_norm: bool = False
    """batch norm by the statistics of all ranks' images, not of each rank's"""
    rank_timeout: int = 600
    """seconds that a rank waits for the others before it ends with an error"""
    tensorboard: bool = True
    """also write TensorBoard files"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU where there is one"""

    def __post_init__(self) -> None:
        check_types(Recipe, {"model_options": self.model_options, "betas": self.betas, "milestones": self.milestones})
        object.__setattr__(self, "model_options", dict(self.model_options))
        for name in SET_ELSEWHERE.keys() & self.model_options.keys():
            seen = f"model_options.{name}={self.model_options[name]}"
            raise ValueError(f"{seen} is no option of a model in training: {SET_ELSEWHERE[name]}; leave it out")
        for name in ("betas", "milestones"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "sensor", _as_tuple(self.sensor))
        check_types(Recipe, {item.name: getattr(self, item.name) for item in fields(self)})
        for name in ("model", "data", "name", "device"):
            _require(bool(getattr(self, name)), name, getattr(self, name), "a text that is not empty")
        counts = ("epochs", "batch_size", "repeats", "eval_every", "log_every")
        for name in (*counts, "accumulate", "batch_parts", "rank_timeout"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for item in fields(self):
            value = getattr(self, item.name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            _require(not whole or abs(value) < LARGEST, item.name, value, "an integer of 64 bits")
        _require(self.num_workers <= MOST_WORKERS, "num_workers", self.num_workers, f"at most {MOST_WORKERS}")
        for name in ("cooldown_epochs", "warmup_epochs", "checkpoint_every", "num_workers", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("weight_decay", "clip_norm", "min_lr", "warmup_lr", "mixup", "cutmix"):
            value = getattr(self, name)
            _require(0.0 <= value < math.inf, name, value, "0 or more and finite")
        for name in ("label_smoothing", "ema_decay", "momentum", "val_share"):
            _require(0.0 <= getattr(self, name) < 1.0, name, getattr(self, name), "in [0, 1)")
        for name in ("layer_decay", "mix_probability", "crop_fraction"):
            _require(0.0 < getattr(self, name) <= 1.0, name, getattr(self, name), "in (0, 1]")
        _require(0.0 <= self.mean_share <= 1.0, "mean_share", self.mean_share, "in [0, 1]")
        _require(len(self.betas) == 2, "betas", self.betas, "two numbers")
        _require(all(0.0 <= beta < 1.0 for beta in self.betas), "betas", self.betas, "in [0, 1)")
        _require(0.0 < self.lr < math.inf, "lr", self.lr, "more than 0 and finite")
        _require(self.warmup_lr <= self.lr, "warmup_lr", self.warmup_lr, f"at most lr={self.lr}")
        fits = self.warmup_epochs <= self.epochs
        _require(fits, "warmup_epochs", self.warmup_epochs, f"at most epochs={self.epochs}")
        _require(self.image_size is None or self.image_size >= 1, "image_size", self.image_size, "None or at least 1")
        _require(self.frames is None or self.frames >= 1, "frames", self.frames, "None or at least 1")
        known = self.interpolation in ("bilinear", "bicubic")
        _require(known, "interpolation", self.interpolation, "bilinear or bicubic")
        framing = (self.bins, self.bin_size, self.representation, self.merge_polarity, self.sensor_size)
        Framing(self.frames or 1, *framing)  # has the checks
        sides = self.sensor is None or (len(self.sensor) == 2 and min(self.sensor) >= 1)
        _require(sides, "sensor", self.sensor, "None or height and width in pixels")
        _require(self.stream is None or self.stream >= 0, "stream", self.stream, "None, or 0 or more")
        Mending(self.out_of_order, self.out_of_bounds)  # has the checks
        _require(self.split_seed is None or self.split_seed >= 0, "split_seed", self.split_seed, "None, or 0 or more")
        _require(self.folds >= 2, "folds", self.folds, "at least 2")
        in_folds = self.fold is None or 0 <= self.fold < self.folds
        _require(in_folds, "fold", self.fold, f"None or in [0, {self.folds}) for folds={self.folds}")
        steps = self.model_options.get("num_steps", self.frames)
        _require(self.frames in (None, steps), "frames", self.frames, f"the model_options.num_steps={steps}")
        _require(self.mix_epochs is None or self.mix_epochs >= 1, "mix_epochs", self.mix_epochs, "None or at least 1")
        _require(self.corrupt in get_args(Corrupt), "corrupt", self.corrupt, "refuse or skip")
        self._check_firing()
        self._check_ranks()
        kinds = ("adamw", "adam", "lamb", "sgd")
        _require(self.optimizer in kinds, "optimizer", self.optimizer, "adamw, adam, lamb or sgd")
        self._check_schedule()
        self._check_teaching()
        _require(self.precision in ("fp32", "bf16"), "precision", self.precision, "fp32 or bf16")
        few = self.weight_bits is None or self.weight_bits in BITS
        _require(few, "weight_bits", self.weight_bits, f"None or {BITS.start} to {BITS.stop - 1}")
        known = self.weight_bits_per in ("layer", "channel")
        _require(known, "weight_bits_per", self.weight_bits_per, "layer or channel")

    def _check_schedule(self) -> None:
        _require(self.schedule in ("cosine", "milestones"), "schedule", self.schedule, "cosine or milestones")
        _require(0.0 < self.milestone_factor < 1.0, "milestone_factor", self.milestone_factor, "in (0, 1)")
        if self.schedule == "cosine":
            _require(self.min_lr <= self.lr, "min_lr", self.min_lr, f"at most lr={self.lr}")
            _require(not self.milestones, "milestones", self.milestones, "empty with schedule=cosine")
            return
        first = max(1, self.warmup_epochs)
        rising = sorted({epoch for epoch in self.milestones if epoch >= first})
        fits = bool(rising) and list(self.milestones) == rising
        _require(fits, "milestones", self.milestones, f"rising epochs from {first} on with schedule=milestones")
        _require(self.cooldown_epochs == 0, "cooldown_epochs", self.cooldown_epochs, "0 with schedule=milestones")

    def _check_teaching(self) -> None:
        for name in ("init_from", "teacher", "teacher_weights"):
            _require(getattr(self, name) != "", name, "", "None or a text that is not empty")
        pointless = self.teacher is None and self.teacher_weights is not None
        _require(not pointless, "teacher_weights", self.teacher_weights, "None without a teacher")
        _require(self.distillation in ("hard", "soft"), "distillation", self.distillation, "hard or soft")
        _require(0.0 <= self.distill_alpha <= 1.0, "distill_alpha", self.distill_alpha, "in [0, 1]")
        warm = 0.0 < self.distill_temperature < math.inf
        _require(warm, "distill_temperature", self.distill_temperature, "more than 0 and finite")

    def _check_firing(self) -> None:
        guarded = self.spike_guard == 0 or 1.0 < self.spike_guard < math.inf
        _require(guarded, "spike_guard", self.spike_guard, "0 (off), or more than 1 and finite")
        _require(0.0 <= self.rate_weight < math.inf, "rate_weight", self.rate_weight, "0 or more and finite")
        _require(0.0 <= self.rate_upper <= 1.0, "rate_upper", self.rate_upper, "in [0, 1]")
        below = 0.0 <= self.rate_lower <= self.rate_upper
        _require(below, "rate_lower", self.rate_lower, f"in [0, rate_upper={self.rate_upper}]")

    def _check_ranks(self) -> None:
        divides = self.batch_size % self.accumulate == 0
        _require(divides, "accumulate", self.accumulate, f"a divisor of batch_size={self.batch_size}")
        _require(self.parallel in ("ddp", "fsdp"), "parallel", self.parallel, "ddp or fsdp")
        whole = self.parallel == "ddp" or self.weight_bits is None
        _require(whole, "weight_bits", self.weight_bits, "None with parallel=fsdp")

    @property
    def parts(self) -> int:
        """Parts of a batch: the greatest common divisor of batch_parts and batch_size."""
        return math.gcd(self.batch_parts, self.batch_size)

    @property
    def idle(self) -> list[str]:
        """Settings that are not their defaults and do nothing beside the others: `NAME=VALUE, which needs ...`."""
        mixes, erases, taught = bool(self.mixup or self.cutmix), bool(self.augment.erase), self.teacher is not None
        needs: dict[str, tuple[bool, str]] = {
            **dict.fromkeys(("distillation", "distill_alpha", "distill_temperature"), (taught, "a teacher")),
            "momentum": (self.optimizer == "sgd", "optimizer=sgd"),
            "betas": (self.optimizer != "sgd", "another optimizer than sgd"),
            **dict.fromkeys(("mix_epochs", "mix_probability"), (mixes, "mixup or cutmix")),
            **dict.fromkeys(("rate_upper", "rate_lower"), (self.rate_weight > 0, "rate_weight")),
            "weight_bits_per": (self.weight_bits is not None, "weight_bits"),
            "folds": (self.fold is not None, "a fold"),
            "milestone_factor": (self.schedule == "milestones", "schedule=milestones"),
            "batch_parts": (self.parts > 1, f"a divisor in common with batch_size={self.batch_size}"),
        }
        idle = [(item, self, "", *needs[item.name]) for item in fields(self) if item.name in needs]
        idle += [
            (item, self.augment, "augment.", erases, "augment.erase")
            for item in fields(self.augment)
            if item.name in ("erase_mode", "erase_count")
        ]
        return [
            f"{prefix}{item.name}={getattr(owner, item.name)}, which needs {need}"
            for item, owner, prefix, acts, need in idle
            if not acts and getattr(owner, item.name) != item.default
        ]

    @property
    def total_epochs(self) -> int:
        """Epochs with the cool-down."""
        return self.epochs + self.cooldown_epochs

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; `from_json` gives an equal recipe back."""
        values = asdict(self)
        values |= {"betas": list(self.betas), "milestones": list(self.milestones)}
        values["sensor"] = None if self.sensor is None else list(self.sensor)
        return values

    @classmethod
    def from_json(cls, values: Any) -> "Recipe":
        """The recipe that `to_json` wrote. ValueError for a field this version does not know, and for a value of
        another type than its field's.
        """
        augment = values.get("augment") if isinstance(values, dict) else None
        if isinstance(augment, dict) and isinstance(augment.get("auto_augment"), bool):  # from when it was on or off
            values = {**values, "augment": {**augment, "auto_augment": "imagenet" if augment["auto_augment"] else None}}
        return from_json(cls, values, "recipe")


def _require(condition: bool, name: str, value: object, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
