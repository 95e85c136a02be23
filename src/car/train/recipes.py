"""How models are trained, as data: one dataclass of settings, and one committed recipe for each model."""

from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatch
from typing import Any, Literal, TypeVar

from car.errors import UsageError, did_you_mean
from car.families import architecture, model_names
from car.metrics import SHARES

_T = TypeVar("_T")


def _setting(default: _T, text: str, *flags: str) -> _T:
    """Return a dataclass field; its metadata holds the help and further names on the command line."""
    value: Any = field(default=default, metadata={"help": text, "flags": flags})
    return value


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Every setting is an option of ``car train``, with the help given here.

    One of `minutes`, `steps` and `epochs` sets the length; the learning rate schedule spans it.
    """

    model: str

    minutes: float = _setting(0.0, "Train for this many minutes in all, without start-up.")
    steps: int = _setting(0, "Train for this many steps.")
    epochs: int = _setting(0, "Train for this many passes over the images times --repeats.", "--end-epoch")

    crop: int = _setting(128, "Side of the square HR crops, in pixels.", "--resize")
    batch: int = _setting(8, "Crops in each step, over all processes.", "--train-batchsize")
    repeats: int = _setting(8, "Crops of each image in an epoch.", "--train-repeat-num")
    sampling: Literal["area", "image"] = _setting(
        "area", "Draw every region equally often (area), or take --repeats crops of each image (image)."
    )
    grey: float = _setting(0.0, "Share of the crops that are made grey, 0 to 1.")
    flat: float = _setting(
        0.0, "Share of the crops that have one or two colours only, as drawings do, 0 to 1."
    )
    jpeg: float = _setting(
        0.0, "Share of the crops that are first coded as JPEG with 4:2:0, as most photographs were, 0 to 1."
    )
    shrunk: float = _setting(
        0.0, "Share of the crops that come from the image shrunk by 1 to 2, which are sharper, 0 to 1."
    )
    emphasis: tuple[str, ...] = _setting(
        (), "PATTERN=FACTOR: draw images whose name matches so many times as often; repeatable."
    )
    orientations: Literal[4, 8] = _setting(8, "Flips only (4), or flips and quarter turns (8).")

    restoration: Literal["l1", "decibels"] = _setting(
        "l1", "Loss of the restored picture: mean absolute error, or the mean PSNR of the crops."
    )
    l1_share: float = _setting(
        0.0,
        "Share of the training that starts with l1, before --restoration; ignored with --init or --coded.",
    )
    luma_weight: float = _setting(0.5, "Share of luma in the loss of the restored picture, 0 to 1.")
    chroma_weight: float = _setting(
        0.0,
        "Share of chroma (Cb and Cr) in the same loss, half of it for small marks; RGB has the rest.",
    )
    fidelity_weight: float = _setting(
        0.05, "Weight of the difference between the small picture and the bicubic one (L1)."
    )
    gradient_weight: float = _setting(
        0.0, "The same for the gradients of the small picture (L1): keeps its PNG small."
    )
    rate_weight: float = _setting(
        0.0,
        "Weight of the bits that the small picture takes, as PNG or WebP, above the bicubic one (estimated).",
    )
    coded: bool = _setting(
        False,
        "Code the small picture as JPEG, WebP or AVIF of varying quality. Needs --restoration decibels; "
        "--rate-weight then weighs the logarithm of the bits, also in decibels.",
    )
    range_weight: float = _setting(1.0, "Weight of small picture values outside [0, 1].")
    first_weight: float = _setting(
        0.0,
        "Weight of the same losses for the small picture before its correction, on a third of the crops; "
        "needs a corrector. That is the small picture that --fast makes.",
    )
    tv_weight: float = _setting(
        0.0, "Weight of the total variation of the offsets (families car, car_small)."
    )
    offset_weight: float = _setting(0.0, "Weight of the length of the offsets (families car, car_small).")
    rounding: Literal["gated", "straight", "soft"] = _setting(
        "gated", "Gradient of rounding the small picture: passed inside [0, 1] only, everywhere, or soft."
    )

    optimizer: Literal["muon", "adam", "adamw"] = _setting(
        "muon", "Muon on inner convolutions and Adam on the rest, Adam, or AdamW."
    )
    lr: float = _setting(1e-3, "Peak learning rate of Adam.", "--base-lr")
    muon_lr: float = _setting(5e-3, "Peak learning rate of Muon.")
    downscaler_lr: float = _setting(1.0, "Factor for the learning rates of the downscaler.")
    corrector_lr: float = _setting(1.0, "Factor for the learning rates of the corrector, if there is one.")
    downscaler_delay: float = _setting(
        0.0, "Share of the training during which only the upscaler learns, at the start."
    )
    beta2: float = _setting(0.99, "Decay of Adam's second moment.")
    eps: float = _setting(1e-8, "Adam's epsilon.")
    weight_decay: float = _setting(0.0, "Decoupled weight decay (adamw, muon).")
    schedule: Literal["cosine", "onecycle", "fifths", "constant"] = _setting(
        "cosine", "Learning rate: warm-up and half a cosine, one cycle, the paper's five levels, or constant."
    )
    warmup: float = _setting(
        0.02, "Share of the training during which a cosine schedule rises, at the start."
    )
    clip: float = _setting(0.5, "Largest norm of the gradient; 0 for no limit.")
    ema: float = _setting(0.998, "Decay of the averaged weights in each step; 0 for no average.")

    precision: Literal["auto", "float32", "bf16", "fp16"] = _setting(
        "auto", "Arithmetic of the networks; auto is bf16 if the device is fast at it, else float32."
    )
    channels_last: bool = _setting(True, "Store activations with channels last.")
    compile: bool = _setting(False, "Compile the networks with torch.compile (needs a C++ compiler).")
    accumulate: int = _setting(1, "Split the crops of each step into this many parts, to save memory.")

    init: str = _setting(
        "", "Start from these weights, or deepen them: a model, a tag, a .safetensors file or a pair KGN,USN."
    )
    freeze: Literal["none", "downscaler", "upscaler"] = _setting("none", "Do not train this half.")
    kernel_start: Literal["published", "classical"] = _setting(
        "published", "Initial kernels of family car: from random weights, or a classical kernel."
    )

    eval_minutes: float = _setting(4.0, "Minutes of training between validations.")
    eval_epochs: int = _setting(0, "Epochs between validations, instead of minutes.", "--eval-proid")
    eval_crop: int = _setting(256, "Largest side of the centre crops for validation, in pixels.")
    eval_images: int = _setting(0, "Validate on this many images, evenly spread; 0 for all.")
    hold_out: tuple[str, ...] = _setting(
        (), "Pattern of image names to hold out, in addition to eight that are evenly spread; repeatable."
    )
    seed: int = _setting(0, "Seed of initial weights and crops.")

    def emphasis_of(self, name: str) -> float:
        """Return how many times as often the image called `name` is drawn, by the first pattern that fits.

        Raises:
            UsageError: an entry of `emphasis` is not PATTERN=FACTOR with a positive factor.
        """
        for entry in self.emphasis:
            pattern, equals, factor = entry.rpartition("=")
            try:
                value = float(factor)
            except ValueError:
                value = 0.0
            if not (equals and 0 < value <= _MOST):
                raise UsageError(f"emphasis = {entry!r}: must be PATTERN=FACTOR, the factor above 0")
            if fnmatch(name, pattern):
                return value
        return 1.0

    def validate(self) -> None:
        """Raise `UsageError` if a value makes no sense."""
        model = architecture(self.model)
        geometry = model.geometry
        least = max(8 * geometry.scale, geometry.min_size)
        shares = ("grey", "flat", "jpeg", "shrunk", "l1_share", "luma_weight")
        rules = {name: (0 <= getattr(self, name) <= 1, "0 to 1") for name in shares}
        rules |= {
            "minutes": (0 <= self.minutes <= _MOST, f"0 to {_MOST:.0g}"),
            "steps": (0 <= self.steps <= _MOST, f"0 to {_MOST:.0g}"),
            "epochs": (0 <= self.epochs <= _MOST, f"0 to {_MOST:.0g}"),
            "crop": (
                least <= self.crop <= 8192 and self.crop % geometry.multiple == 0,
                f"a multiple of {geometry.multiple} from {least} to 8192",
            ),
            "batch": (1 <= self.batch <= 65536, "1 to 65536"),
            "accumulate": (
                self.accumulate >= 1 and self.batch % max(self.accumulate, 1) == 0,
                f"a divisor of batch = {self.batch}",
            ),
            "repeats": (1 <= self.repeats <= _MOST, "at least 1"),
            "chroma_weight": (
                0 <= self.chroma_weight <= 1 - self.luma_weight + 1e-9,
                f"0 to 1 - luma_weight = {1 - self.luma_weight:g}",
            ),
            "lr": (0 < self.lr <= 10, "above 0 and at most 10"),
            "muon_lr": (0 < self.muon_lr <= 10, "above 0 and at most 10"),
            "downscaler_lr": (0 < self.downscaler_lr <= 1000, "above 0 and at most 1000"),
            "corrector_lr": (0 < self.corrector_lr <= 1000, "above 0 and at most 1000"),
            "beta2": (0 <= self.beta2 < 1, "0 to less than 1"),
            "eps": (0 < self.eps <= 1, "above 0 and at most 1"),
            "warmup": (0 <= self.warmup < 1, "0 to less than 1"),
            "downscaler_delay": (0 <= self.downscaler_delay < 1, "0 to less than 1"),
            "ema": (0 <= self.ema < 1, "0 to less than 1"),
            "eval_crop": (self.eval_crop >= least, f"at least {least}"),
            "eval_minutes": (0 < self.eval_minutes <= _MOST, "above 0"),
            "seed": (0 <= self.seed < 2**63, "0 or more"),
            "orientations": (self.orientations in (4, 8), "4 or 8"),
        }
        names = ("fidelity_weight", "gradient_weight", "rate_weight", "range_weight", "first_weight")
        names += ("tv_weight", "offset_weight", "weight_decay", "clip", "eval_epochs", "eval_images")
        rules |= {name: (0 <= getattr(self, name) <= _MOST, "0 or more") for name in names}
        for name, (good, rule) in rules.items():
            if not good:
                raise UsageError(f"{name} = {getattr(self, name)}: must be {rule} for {self.model}")
        self.emphasis_of("")
        if self.coded and self.restoration != "decibels":
            raise UsageError("--coded needs --restoration decibels")
        if self.first_weight and (self.coded or "depth_corrector" not in model.sizes):
            raise UsageError(f"first_weight: {self.model} has no corrector, or is trained --coded")
        if sum(budget > 0 for budget in (self.minutes, self.steps, self.epochs)) != 1:
            raise UsageError("give exactly one of minutes, steps and epochs")


_MOST = 1e9
BUDGETS = ("minutes", "steps", "epochs")

# the photograph of the demonstration must not be in the training data
DEMO = ("*b939ac34faa94b5d0e753d570edc7048*",)
"""Pattern of the photograph that the README shows; it is held out, so that no model has seen it."""

# Sun & Chen 2020, section IV-A, as the MindSpore port of CAR trains it; Adam's other values are its defaults
_PUBLISHED = Recipe(
    "car_x4",
    epochs=500,
    crop=192,
    batch=16,
    repeats=8,
    sampling="image",
    orientations=4,
    luma_weight=0.0,
    fidelity_weight=0.0,
    range_weight=0.0,
    tv_weight=0.005,
    offset_weight=0.001,
    rounding="straight",
    optimizer="adam",
    lr=1e-4,
    beta2=0.999,
    eps=1e-6,
    schedule="fifths",
    clip=0.0,
    ema=0.0,
    precision="float32",
    eval_epochs=1,
    eval_images=10,
)

_SMALL = Recipe(
    "car_small_x4",
    minutes=20,
    crop=128,
    tv_weight=0.005,
    offset_weight=0.001,
    fidelity_weight=0.0,
    kernel_start="classical",
    downscaler_lr=0.4,
    downscaler_delay=0.3,
    hold_out=DEMO,
)

_PLUS = Recipe(
    "car_plus_x4",
    minutes=190,
    crop=128,
    grey=0.05,
    shrunk=0.3,
    emphasis=("*structure512/*=2",),
    restoration="decibels",
    l1_share=0.7,
    luma_weight=SHARES.luma,
    chroma_weight=SHARES.chroma,
    fidelity_weight=0.02,
    rate_weight=0.0015,
    first_weight=0.25,
    ema=0.999,
    hold_out=DEMO,
)

_LITE = Recipe(
    "car_lite_x4",
    minutes=22,
    crop=128,
    grey=0.05,
    shrunk=0.3,
    restoration="decibels",
    luma_weight=0.75,
    fidelity_weight=0.02,
    ema=0.999,
    hold_out=DEMO,
)

_CODEC = Recipe(
    "car_codec_x4",
    minutes=60,
    crop=128,
    coded=True,
    restoration="decibels",
    luma_weight=0.85,
    fidelity_weight=0.04,
    rate_weight=1.0,
    lr=5e-4,
    muon_lr=2.5e-3,
    ema=0.999,
    init="car_codec_x4",
    hold_out=DEMO,
)

_ALL = (
    _PUBLISHED,
    replace(_PUBLISHED, model="car_x2", crop=96, batch=24),
    _SMALL,
    replace(_SMALL, model="car_small_x2", crop=80),
    _PLUS,
    replace(_PLUS, model="car_plus_x3", crop=96, l1_share=0.0, init="car_plus_x4"),
    replace(_PLUS, model="car_plus_x8", crop=256, l1_share=0.0, init="car_plus_x4"),
    replace(
        _PLUS,
        model="car_plus_x2",
        minutes=203,
        crop=96,
        jpeg=0.5,
        flat=0.03,
        luma_weight=0.45,
        chroma_weight=0.22,
        fidelity_weight=0.013,
        rate_weight=0.001,
        first_weight=0.2,
    ),
    replace(
        _PLUS,
        model="car_plus_large_x4",
        minutes=97,
        lr=6e-4,
        muon_lr=3e-3,
        l1_share=0.0,
        init="car_plus_large_x4",
        first_weight=0.0,
    ),
    _CODEC,
    replace(_CODEC, model="car_codec_x2", crop=96, init="car_plus_x2"),
    _LITE,
    replace(_LITE, model="car_lite_x2", crop=80, luma_weight=0.6),
)


# settings that apply only to downscalers with learned kernels and offsets
_SAMPLING_ONLY = {"tv_weight", "offset_weight", "kernel_start"}


def _resamples(model: str) -> bool:
    return "features" in architecture(model).sizes  # channels of the generator of kernels and offsets


def _control(recipe: Recipe) -> Recipe:
    """Return the recipe that trains the same upscaler as long on bicubic LR images."""
    family, scale = recipe.model.rsplit("_", 1)
    return replace(recipe, model=f"{family}_bicubic_{scale}", downscaler_delay=0.0)


_WITH_CONTROLS = [
    *_ALL,
    *(control for control in map(_control, _ALL) if control.model in model_names()),
]
RECIPES = {recipe.model: recipe for recipe in _WITH_CONTROLS}


def recipe_for(model: str, **changes: Any) -> Recipe:
    """Return the committed recipe of `model` with `changes`; changes that are None are ignored.

    A changed budget (minutes, steps or epochs) replaces the recipe's own.

    Raises:
        UsageError: there is no recipe for `model`, or a changed value is out of range.
    """
    if model not in RECIPES:
        raise UsageError(f"no training recipe for {model!r}{did_you_mean(model, RECIPES)}")
    given = {name: value for name, value in changes.items() if value is not None}
    idle = _SAMPLING_ONLY & given.keys() if not _resamples(model) else set[str]()
    if idle:
        raise UsageError(f"{', '.join(sorted(idle))}: {model} has no learned kernels and offsets")
    if any(name in given for name in BUDGETS):
        given = dict.fromkeys(BUDGETS, 0) | given
    recipe = replace(RECIPES[model], **given)
    recipe.validate()
    return recipe


def settings() -> dict[str, tuple[Any, str, tuple[str, ...]]]:
    """Return name -> (type annotation, help, further flags) for every setting except the model."""
    return {
        f.name: (f.type, f.metadata["help"], f.metadata["flags"]) for f in fields(Recipe) if f.name != "model"
    }
