"""Colours of files to sRGB: by their ICC profile, or by what their format says without one."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image, ImageCms

from car.errors import ImageError
from car.pictures.depth import Pixels, eight_bit

Convert = Callable[[Pixels], Pixels]
"""Samples ``[n, W, C]``, uint8 or uint16, to grey ``[n, W, 1]`` or RGB; each pixel on its own."""

_SPACES = {"GRAY": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
_BLOCK = 2**20  # pixels that are converted at once: what is between takes several times their memory
_EXACT = 0x100  # for lcms: no tables, which are far off in the darkest levels
_D65 = (0.3127, 0.329)
_SRGB = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# ITU-T H.273, colour primaries: a name, x and y of red, green and blue, and of white where it is not D65
_PRIMARIES: dict[int, tuple[str, tuple[float, ...], tuple[float, float]]] = {
    1: ("sRGB", _SRGB, _D65),
    4: ("BT.470 M", (0.67, 0.33, 0.21, 0.71, 0.14, 0.08), (0.31, 0.316)),
    5: ("BT.601, 625 lines", (0.64, 0.33, 0.29, 0.6, 0.15, 0.06), _D65),
    6: ("BT.601, 525 lines", (0.63, 0.34, 0.31, 0.595, 0.155, 0.07), _D65),
    7: ("BT.601, 525 lines", (0.63, 0.34, 0.31, 0.595, 0.155, 0.07), _D65),
    8: ("film", (0.681, 0.319, 0.243, 0.692, 0.145, 0.049), (0.31, 0.316)),
    9: ("BT.2020", (0.708, 0.292, 0.17, 0.797, 0.131, 0.046), _D65),
    11: ("DCI P3", (0.68, 0.32, 0.265, 0.69, 0.15, 0.06), (0.314, 0.351)),
    12: ("Display P3", (0.68, 0.32, 0.265, 0.69, 0.15, 0.06), _D65),
    22: ("EBU Tech 3213", (0.63, 0.34, 0.295, 0.605, 0.155, 0.077), _D65),
}
# transfer characteristics; those of video cameras (1, 6, 14, 15) are shown with about the curve of sRGB
_CURVES: dict[int, float | None] = {
    1: None,
    2: None,
    6: None,
    13: None,
    14: None,
    15: None,
    4: 2.2,
    5: 2.8,
    8: 1.0,
}
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class Calibration:
    """RGB that no ICC profile describes.

    Attributes:
        name: for messages.
        primaries: CIE x and y of red, green and blue.
        white: CIE x and y.
        gamma: the exponent that leads from levels to light; None for the curve of sRGB.
    """

    name: str
    primaries: tuple[float, ...] = _SRGB
    white: tuple[float, float] = _D65
    gamma: float | None = None

    @property
    def usual(self) -> bool:
        """Whether it is sRGB, as nearly as files say so: 1/2.2 stands for its curve."""
        near = np.abs(np.subtract((*self.primaries, *self.white), (*_SRGB, *_D65))).max() < 0.002
        return bool(near) and (self.gamma is None or abs(self.gamma - 2.2) < 0.03)

    def profile(self) -> bytes:
        """Return an ICC profile of it."""
        light = np.linspace(0, 1, 4096)
        if self.gamma is None:
            light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
        else:
            light = light**self.gamma
        points = [(*self.primaries[n : n + 2], 1.0) for n in (0, 2, 4)]
        return imagecodecs.cms_profile(
            "rgb",
            whitepoint=[*self.white, 1.0],
            primaries=[value for point in points for value in point],
            transferfunction=light.astype(np.float32),
        )


ADOBE_RGB = Calibration("Adobe RGB", (0.64, 0.33, 0.21, 0.71, 0.15, 0.06), _D65, 563 / 256)


def coded_calibration(primaries: int, transfer: int) -> Calibration | None:
    """Return what two numbers of ITU-T H.273 mean, as in cICP of PNG and nclx of AVIF; None for sRGB.

    Raises:
        ImageError: they stand for high dynamic range, or are unknown.
    """
    if transfer in _HDR:
        raise ImageError(
            f"its colours are of high dynamic range ({_HDR[transfer]}), which is not supported: "
            "convert it to sRGB with a program that maps tones"
        )
    if primaries == 2:  # unspecified
        primaries = 1
    if primaries not in _PRIMARIES or transfer not in _CURVES:
        raise ImageError(
            f"its colour space (H.273: {primaries}, {transfer}) is not supported: convert it to sRGB"
        )
    name, points, white = _PRIMARIES[primaries]
    gamma = _CURVES[transfer]
    calibration = Calibration(name if gamma is None else f"{name} of gamma {gamma:g}", points, white, gamma)
    return None if calibration.usual and gamma is None else calibration


def converter(
    kind: str, icc: Any, calibration: Calibration | None, notes: list[str]
) -> tuple[Convert, bytes | None]:
    """Return what makes grey or RGB of samples, and the profile that the result has; None stands for sRGB.

    Grey, CMYK and Lab become sRGB; RGB with a good profile keeps it.

    Args:
        kind: ``GRAY``, ``RGB``, ``CMYK``, ``LAB``, ``YCbCr`` or ``HSV``.
        icc: the profile in the file, if any.
        calibration: what the format says without a profile, which a profile overrules.
        notes: what the user should know is added.
    """
    profile = checked_profile(icc, _SPACES.get(kind, "RGB"), notes)
    if kind == "RGB" and profile is not None:
        return _same, profile
    if kind in ("RGB", "GRAY"):
        if profile is None and (calibration is None or calibration.usual):
            return _same, None
        what = "grey with a colour profile" if profile else _name(kind, calibration)
        notes.append(f"{what} converted to sRGB")
        try:
            if kind == "RGB":
                assert calibration is not None
                return _of_rgb(calibration.profile()), None
            return _of_grey(profile or _grey_of(calibration)), None
        except (imagecodecs.CmsError, ValueError):
            notes[-1] = "its colour profile is damaged and was not used"
            return _same, None
    notes.append(f"{kind} converted to sRGB")
    return _of_pillow(kind, profile, notes), None


def _name(kind: str, calibration: Calibration | None) -> str:
    assert calibration is not None
    return (
        f"grey of gamma {calibration.gamma:.3g}" if kind == "GRAY" and calibration.gamma else calibration.name
    )


def checked_profile(icc: Any, expected: str, notes: list[str]) -> bytes | None:
    """Return an ICC profile if it is one for the colour space `expected`; else None, with a note."""
    if not isinstance(icc, bytes) or not icc:
        return None
    try:
        opened: Any = ImageCms.getOpenProfile(io.BytesIO(icc))
        space = opened.profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError, TypeError):
        space = None
    if space != expected:
        notes.append("its colour profile is damaged or does not belong to it and was dropped")
        return None
    return icc


def _same(samples: Pixels) -> Pixels:
    return samples


def _blocks(samples: Pixels, convert: Convert) -> Pixels:
    """Convert ``[H, W, C]`` in blocks of rows."""
    rows = max(1, _BLOCK // samples.shape[1])
    return np.concatenate([convert(samples[top : top + rows]) for top in range(0, len(samples), rows)])


def _of_rgb(profile: bytes) -> Convert:
    target = imagecodecs.cms_profile("srgb")

    def convert(samples: Pixels) -> Pixels:
        # with 8 bit, the library takes a way that is a level off
        deep = samples.astype(np.uint16) * np.uint16(257) if samples.dtype == np.uint8 else samples
        deep = imagecodecs.cms_transform(
            np.ascontiguousarray(deep), profile, target, colorspace="rgb", outcolorspace="rgb", flags=_EXACT
        ).reshape(samples.shape)
        return eight_bit(deep) if samples.dtype == np.uint8 else deep

    return lambda samples: _blocks(samples, convert)


def _grey_of(calibration: Calibration | None) -> bytes:
    """Return a grey profile with the curve of `calibration`."""
    assert calibration is not None
    return imagecodecs.cms_profile("gray", whitepoint=[*_D65, 1.0], gamma=calibration.gamma or 2.2)


def _of_grey(profile: bytes) -> Convert:
    levels = np.arange(65536, dtype=np.uint16)[None]
    deep = imagecodecs.cms_transform(
        levels, profile, imagecodecs.cms_profile("srgb"), colorspace="gray", outcolorspace="rgb", flags=_EXACT
    ).reshape(65536, 3)[:, 1]
    table = {2: deep, 1: eight_bit(deep[::257])}
    return lambda samples: table[samples.dtype.itemsize][samples]


def _of_pillow(kind: str, profile: bytes | None, notes: list[str]) -> Convert:
    """Convert 8 bit; deeper is reduced to it, which is said when it first happens."""
    transform: Any = None
    try:
        source: Any = (
            ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if profile is not None
            else ImageCms.createProfile("LAB")
            if kind == "LAB"
            else None
        )
        if source is not None:
            transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), kind, "RGB")
    except (ImageCms.PyCMSError, OSError):
        notes.append("its colour profile is damaged and was not used")

    def convert(samples: Pixels) -> Pixels:
        image = Image.frombytes(kind, (samples.shape[1], len(samples)), eight_bit(samples).tobytes())
        done: Any = image.convert("RGB") if transform is None else ImageCms.applyTransform(image, transform)
        return np.asarray(done)

    return lambda samples: _blocks(samples, convert)
