"""Conversion of colours to sRGB, by the ICC profile of the file or by other data of its format."""

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from car.errors import ImageError
from car.pictures.depth import Pixels, eight_bit

Convert = Callable[[Pixels], Pixels]
"""Samples ``[n, W, C]``, uint8 or uint16, to grey ``[n, W, 1]`` or RGB; each pixel on its own."""

_SPACES = {"GRAY": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}
_BLOCK = 2**20  # pixels that are converted at once: intermediate values take several times their memory
_D50 = (0.3457, 0.3585)
# Bradford: from XYZ to the responses of the eye's cones, in which one white is turned into another
_CONES = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D65 = (0.3127, 0.329)
_SRGB = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# ITU-T H.273, colour primaries: a name, x and y of red, green and blue, and x and y of white
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
    """An RGB colour space described without an ICC profile.

    Attributes:
        name: for messages.
        primaries: CIE x and y of red, green and blue.
        white: CIE x and y.
        gamma: exponent from levels to light; None for the curve of sRGB.
    """

    name: str
    primaries: tuple[float, ...] = _SRGB
    white: tuple[float, float] = _D65
    gamma: float | None = None

    @property
    def usual(self) -> bool:
        """Whether it is sRGB; files often give 1/2.2 for its curve."""
        near = np.abs(np.subtract((*self.primaries, *self.white), (*_SRGB, *_D65))).max() < 0.002
        return bool(near) and (self.gamma is None or abs(self.gamma - 2.2) < 0.03)

    def light(self) -> Pixels:
        """Return the light, 0 to 1, of each of 65536 levels."""
        levels = np.linspace(0, 1, 65536)
        if self.gamma is not None:
            return levels**self.gamma
        return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)

    def matrix(self) -> Pixels:
        """Return the matrix ``[3, 3]`` from light in this space to XYZ; white becomes D50."""
        red, green, blue, white = (
            _xyz(*point)
            for point in (*zip(self.primaries[::2], self.primaries[1::2], strict=True), self.white)
        )
        colours = np.stack([red, green, blue], axis=1)
        adapted = np.diag((_CONES @ _xyz(*_D50)) / (_CONES @ white))
        return np.linalg.inv(_CONES) @ adapted @ _CONES @ (colours * np.linalg.solve(colours, white))


def _xyz(x: float, y: float) -> Pixels:
    return np.array([x / y, 1, (1 - x - y) / y])


ADOBE_RGB = Calibration("Adobe RGB", (0.64, 0.33, 0.21, 0.71, 0.15, 0.06), _D65, 563 / 256)


def coded_calibration(primaries: int, transfer: int) -> Calibration | None:
    """Return the colour space of two numbers of ITU-T H.273 (cICP of PNG, nclx of AVIF); None for sRGB.

    Raises:
        ImageError: the numbers mean high dynamic range, or are unknown.
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
    """Return a function from samples to grey or RGB, and the profile of its result; None means sRGB.

    Grey, CMYK and Lab become sRGB; RGB with a good profile keeps it.

    Args:
        kind: ``GRAY``, ``RGB``, ``CMYK``, ``LAB``, ``YCbCr`` or ``HSV``.
        icc: the profile in the file, if any.
        calibration: colour space that the format names; a profile takes precedence.
        notes: list to which notes for the user are added.
    """
    profile = checked_profile(icc, _SPACES.get(kind, "RGB"), notes)
    if kind == "RGB" and profile is not None:
        return _same, profile
    if kind in ("RGB", "GRAY"):
        if profile is None and (calibration is None or calibration.usual):
            return _same, None
        what = "grey with a colour profile" if profile else _name(kind, calibration)
        notes.append(f"{what} converted to sRGB")
        from PIL.ImageCms import PyCMSError

        try:
            if kind == "RGB":
                assert calibration is not None
                return _of_rgb(calibration), None
            if profile is not None:
                return _of_grey(_grey_levels(profile)), None
            light = Calibration("grey", gamma=(calibration and calibration.gamma) or 2.2).light()
            return _of_grey(_srgb_levels(light)), None
        except (OSError, ValueError, PyCMSError):
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
    from PIL import ImageCms  # takes a while to import

    try:
        opened: Any = ImageCms.getOpenProfile(io.BytesIO(icc))
        space = opened.profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError, TypeError):
        space = None
    if space != expected:
        notes.append("its colour profile is damaged or does not fit its colours, and was dropped")
        return None
    return icc


def _same(samples: Pixels) -> Pixels:
    return samples


def _blocks(samples: Pixels, convert: Convert) -> Pixels:
    """Convert ``[H, W, C]`` in blocks of rows."""
    rows = max(1, _BLOCK // samples.shape[1])
    return np.concatenate([convert(samples[top : top + rows]) for top in range(0, len(samples), rows)])


def _srgb_levels(light: Pixels) -> Pixels:
    """Return light as levels of sRGB, uint16."""
    light = np.clip(light, 0, 1)
    levels = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(levels * 65535).astype(np.uint16)


def _of_rgb(calibration: Calibration) -> Convert:
    light = calibration.light().astype(np.float32)
    matrix = (np.linalg.inv(Calibration("sRGB").matrix()) @ calibration.matrix()).T.astype(np.float32)

    def convert(samples: Pixels) -> Pixels:
        deep = samples.astype(np.uint16) * np.uint16(257) if samples.dtype == np.uint8 else samples
        levels = _srgb_levels(light[deep] @ matrix)
        return eight_bit(levels) if samples.dtype == np.uint8 else levels

    return lambda samples: _blocks(samples, convert)


def _of_grey(deep: Pixels) -> Convert:
    """Return a function that looks up 8-bit and 16-bit grey in a table of 65536 levels."""
    table = {2: deep, 1: eight_bit(deep[::257])}
    return lambda samples: table[samples.dtype.itemsize][samples]


def _grey_levels(profile: bytes) -> Pixels:
    """Return the level of sRGB that each of 65536 levels of a grey profile stands for."""
    from PIL import ImageCms

    source, target = (ImageCms.ImageCmsProfile(io.BytesIO(data)) for data in (profile, _srgb_grey()))
    exact = ImageCms.Flags.NOOPTIMIZE  # no tables, because they are far off in the darkest levels
    transform: Any = ImageCms.buildTransform(source, target, "I;16", "I;16", flags=exact)
    levels = np.arange(65536, dtype="<u2")
    image = Image.frombytes("I;16", (len(levels), 1), levels.tobytes())
    done: Any = ImageCms.applyTransform(image, transform)
    return np.frombuffer(done.tobytes(), "<u2").astype(np.uint16)


def _srgb_grey() -> bytes:
    """Return an ICC profile (ISO 15076-1) of grey with the curve of sRGB; Pillow has one for RGB only."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    d50 = fixed(0.9642, 1, 0.8249)
    white = b"XYZ " + bytes(4) + d50
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0)
    curve += fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    start = 128 + 4 + 2 * 12
    table = struct.pack(">I4sII", 2, b"wtpt", start, len(white))
    table += struct.pack(">4sII", b"kTRC", start + len(white), len(curve))
    header = (
        struct.pack(">I4xI", start + len(white) + len(curve), 0x04300000)
        + b"mntrGRAYXYZ "
        + bytes(12)
        + b"acsp"
    )
    return header.ljust(68, b"\0") + d50 + bytes(128 - 80) + table + white + curve


def _of_pillow(kind: str, profile: bytes | None, notes: list[str]) -> Convert:
    """Convert 8-bit samples; deeper samples are first reduced to 8 bits, with a note."""
    from PIL import ImageCms

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
