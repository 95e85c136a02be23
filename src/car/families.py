"""All models as data: names, sizes, geometry and traits. `car.models` builds networks from this data.

A model is one entry here. A model that runs without PyTorch also has a pair of graphs, which
``tools/make_graphs.py`` writes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from car.errors import UsageError, did_you_mean

MadeFor = Literal["lossless", "lossy"]


@dataclass(frozen=True)
class Geometry:
    """What other code must know about a model, as data.

    Attributes:
        scale: HR pixels per LR pixel along each axis.
        multiple: HR height and width must be multiples of this.
        min_size: smallest HR height and width the networks accept, a multiple of `multiple`.
        halo_down: HR pixels on each side that an LR pixel's value depends on (receptive field), at least;
            with a corrector, by more than rounding.
        halo_up: LR pixels on each side that a restored pixel's value depends on, at least.
    """

    scale: int
    multiple: int
    min_size: int
    halo_down: int
    halo_up: int


@dataclass(frozen=True)
class Architecture:
    """One model, without its weights.

    Attributes:
        name: ``family_xS``.
        geometry: sizes and receptive fields.
        network: the function that builds the pair of networks, or its name as ``module:function``. It takes
            the scale and `sizes` as keywords.
        sizes: channels, blocks and the like.
        values: float32 values per LR pixel that two layers of the networks hold at once, at most.
        made_for: the kind of small files for which the model was trained.
        purpose: what it is for, in a few words.
        viewer: whether the viewer in browsers can restore its small pictures.
        kernels: whether each LR pixel is a weighted mean of HR pixels, so that kernels can be inspected.
        needs_torch: whether it runs only on PyTorch.
        control: whether it is only a control for comparisons; lists of models leave it out.
        uncorrected: the same model without its corrector, if it has one.
    """

    name: str
    geometry: Geometry
    network: str | Callable[..., Any]
    sizes: Mapping[str, int] = field(default_factory=dict[str, int], hash=False)
    values: int = 0
    made_for: MadeFor = "lossless"
    purpose: str = ""
    viewer: bool = False
    kernels: bool = False
    needs_torch: bool = True
    control: bool = False
    uncorrected: "Architecture | None" = None

    @property
    def family(self) -> str:
        """The name without the scale."""
        return self.name.rpartition("_x")[0]

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel along each axis."""
        return self.geometry.scale

    @property
    def shape(self) -> str:
        """The name of the graph that shrinks: network and sizes, which several models may share.

        The upscaler has no corrector, so its graph has the name of the shape of `uncorrected`.
        """
        network = self.network if isinstance(self.network, str) else self.network.__name__
        return "-".join([network.rpartition(":")[2], str(self.scale), *map(str, self.sizes.values())])


def register(architecture: Architecture) -> None:
    """Add a model.

    Raises:
        ValueError: the name is taken.
    """
    if architecture.name in _ARCHITECTURES:
        raise ValueError(f"model {architecture.name!r} is already registered")
    _ARCHITECTURES[architecture.name] = architecture


def model_names(*, controls: bool = True) -> tuple[str, ...]:
    """Return the names of all known models, sorted, with or without the controls."""
    return tuple(sorted(name for name, known in _ARCHITECTURES.items() if controls or not known.control))


def architecture(name: str) -> Architecture:
    """Return the model called `name`.

    Raises:
        UsageError: no model has this name; the message suggests the nearest name.
    """
    if name not in _ARCHITECTURES:
        raise UsageError(f"no model is called {name!r}{did_you_mean(name, _ARCHITECTURES)}")
    return _ARCHITECTURES[name]


def made_for(name: str) -> MadeFor | None:
    """Return the kind of files for which the model `name` was made; None if the name is unknown."""
    known = _ARCHITECTURES.get(name)
    return known.made_for if known else None


def compact_geometry(scale: int, depth_down: int, depth_up: int, passes: int = 0) -> Geometry:
    """Return the geometry of compact networks: numbers of residual blocks, and of passes of a corrector."""
    # each 3x3 convolution of a trunk extends its view by one pixel: two in each block, one before, one after;
    # bicubic looks 2 LR pixels beyond the cell, which is no more
    down = 2 * depth_down + 2
    if passes:
        # in theory each pass sees through the upscaler and back; in practice no further than this, which
        # docs/research/closed_loop.md measures
        down = max(down, 16 + 8 * passes)
    return Geometry(
        scale=scale,
        multiple=scale,
        min_size=scale,
        halo_down=scale * down,
        halo_up=2 * depth_up + 2,
    )


def published_geometry(scale: int, up_blocks: int) -> Geometry:
    """Return the geometry of the published networks, given the residual blocks of the upscaler."""
    blocks = 5
    # In HR pixels: the 5x5 convolution, two convolutions in each block at 1/4, three at 1/8, the blur of
    # enlarging across an 8-pixel cell, three convolutions at LR. Then the reach of the resampling itself:
    # k//2 taps, one unit of offset, and the bilinear neighbour.
    reach = 2 + 4 * 2 * blocks + 8 * 3 + 8 + 3 * scale + (3 * scale + 1) // 2 + scale + 1
    return Geometry(
        scale=scale,
        multiple=8,
        min_size=16,
        halo_down=-(-reach // 8) * 8,
        # head, two in each block, end of the body, one for each doubling, and the last one
        halo_up=1 + 2 * up_blocks + 1 + scale.bit_length(),
    )


def _bicubic_geometry(geometry: Geometry) -> Geometry:
    """Return the geometry of a pair that shrinks bicubically and has the upscaler of `geometry`."""
    s = geometry.scale
    return Geometry(scale=s, multiple=s, min_size=s, halo_down=2 * s, halo_up=geometry.halo_up)


def _compact(
    network: str,
    name: str,
    scale: int,
    down: int,
    up: int,
    corrector: tuple[int, int] | None = None,
    **traits: Any,
) -> Architecture:
    plain = Architecture(
        f"{name}_x{scale}",
        compact_geometry(scale, down, up),
        f"car.models.compact:{network}",
        {"width": 48, "depth_down": down, "depth_up": up},
        # what a layer takes and gives: two maps of features, or HR pixels and a map; and as much again
        values=2 * (48 + max(48, 3 * scale**2)),
        viewer=True,
        needs_torch=False,
        **traits,
    )
    if corrector is None:
        return plain
    depth, passes = corrector  # blocks, and how often it runs
    return replace(
        plain,
        geometry=compact_geometry(scale, down, up, passes),
        sizes={**plain.sizes, "depth_corrector": depth, "passes": passes},
        # the pass back also needs what each block of the upscaler let through, and errors of HR pixels
        values=100 * up + 18 * scale**2,
        uncorrected=plain,
    )


def _published(name: str, scale: int, values: int, **sizes: int) -> Architecture:
    geometry = published_geometry(scale, sizes["up_blocks"])
    network = "car.models.published:published_pair"
    return Architecture(f"{name}_x{scale}", geometry, network, sizes, values, kernels=True)


def _control(name: str, network: str, model: Architecture) -> Architecture:
    geometry = _bicubic_geometry(model.geometry)
    sizes = {key: size for key, size in model.sizes.items() if key not in ("depth_down", "features")}
    return Architecture(f"{name}_x{model.scale}", geometry, network, sizes, model.values, control=True)


_PURPOSES = {
    "car": "the published architecture (of the paper)",
    "car_codec": "default for JPEG, AVIF and lossy WebP",
    "car_lite": "small pictures with true colours",
    "car_plus": "default",
    "car_plus_x8": "to be trained: it has no weights yet",
    "car_plus_large": "better on luma, worse in colours",
    "car_small": "that of the paper, made smaller",
}


def _architectures() -> dict[str, Architecture]:
    # a quarter of the kernel generator's channels, an EDSR of 8 blocks of 48: trains within an hour
    small = [
        _published("car_small", 2, 768, features=16, up_features=48, up_blocks=8),
        _published("car_small", 4, 3072, features=16, up_features=48, up_blocks=8),
    ]
    lite = [
        _compact("lite", "car_lite", 2, 3, 6, kernels=True),
        _compact("lite", "car_lite", 4, 3, 9, kernels=True),
    ]
    every = [
        _compact("plus", "car_plus", 2, 6, 6, corrector=(6, 1)),
        _compact("plus", "car_plus", 3, 10, 14, corrector=(6, 1)),
        _compact("plus", "car_plus", 4, 10, 14, corrector=(6, 2)),
        _compact("plus", "car_plus", 8, 10, 14, corrector=(6, 2)),
        _compact("plus", "car_plus_large", 4, 10, 14),
        _compact("plus", "car_codec", 2, 6, 6, made_for="lossy"),
        _compact("plus", "car_codec", 4, 6, 12, made_for="lossy"),
        *lite,
        _published("car", 2, 4096, features=64, up_features=256, up_blocks=32),
        _published("car", 4, 16384, features=64, up_features=256, up_blocks=32),
        *small,
        *(_control("car_lite_bicubic", "car.models.compact:bicubic_pair", model) for model in lite),
        *(_control("car_small_bicubic", "car.models.published:bicubic_pair", model) for model in small),
    ]
    return {
        one.name: replace(one, purpose=_PURPOSES.get(one.name, _PURPOSES.get(one.family, "")))
        for one in every
    }


_ARCHITECTURES = _architectures()
