"""Round trips of one picture at many settings: its files, and how well they restore.

A setting of scale 1 is the picture itself in a file, as any program saves it. The others are small pictures.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.codec.coding import coding_of
from car.codec.options import Options
from car.measure.goal import Measure
from car.measure.ssimulacra2 import ssimulacra2
from car.metrics import psnr
from car.pictures.depth import eight_bit
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture
from car.pictures.read import decode
from car.pictures.write import encode

SmallFormat = Literal["avif", "webp", "jpg", "png"]
FORMATS: tuple[SmallFormat, ...] = get_args(SmallFormat)
"""The formats of small files that are compared. The first ones usually keep most in the same bytes."""

SCALES: tuple[float, ...] = (1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16)
"""The scales that are compared."""

LADDERS: dict[SmallFormat, tuple[int | None, ...]] = {
    # between those of the two models, files are as large as better ones of the next model
    "avif": (*range(1, 88), *range(90, 101)),
    "webp": (*range(1, 101), None),
    "jpg": (*range(1, 90), *range(95, 101)),
    "png": (None,),
}
"""The qualities of each format that are of use, from small to large files; None is lossless."""

_NAMES = {"ssimulacra2": "SSIMULACRA2 {:.1f}", "psnr_rgb": "{:.2f} dB over RGB"}
_LEAST_SCORED = 8  # pixels a side that SSIMULACRA2 needs
_WHOLE = 2**21  # pixels; larger pictures are judged by pieces of them
_PIECE = 384
_HEADERS = 400  # bytes of a file that do not grow with the picture, roughly
_MIDDLE = 50  # quality at which sizes of pieces are compared with that of the whole
_NEAR = 0.98  # share of a budget at which it counts as used
_STEP = 0.03  # by which the logarithm of the bytes grows from one quality to the next, roughly
_FIRST = 40  # quality that is tried first if nothing is known
_GROWTH = 1.2  # power of the scale with which small files shrink at one quality, roughly
_GREY = np.float32(128)  # on which transparent pictures are compared


@dataclass(frozen=True)
class Setting:
    """How a file is made of a picture.

    Attributes:
        scale: of the small picture; 1 for the picture itself.
        format: suffix of the file, without its dot.
        quality: 1 to 100; None is lossless.
    """

    scale: float
    format: SmallFormat
    quality: int | None

    def __str__(self) -> str:
        size = "full size" if self.scale == 1 else f"{self.scale:g}x"
        how = "lossless" if self.quality is None else f"quality {self.quality}"
        return f"{size}, {self.format}, {how}"


@dataclass(frozen=True)
class Score:
    """How near a restored picture is to the original; transparent pictures are compared on grey.

    Attributes:
        psnr: on luma, dB; infinite if there is no difference.
        psnr_rgb: likewise, over RGB.
        ssimulacra2: 100 for no difference; NaN under 8 pixels a side.
    """

    psnr: float
    psnr_rgb: float
    ssimulacra2: float

    def told(self, measure: Measure) -> str:
        """Return the value of `measure` as text."""
        return _NAMES[measure].format(getattr(self, measure))


@dataclass(frozen=True)
class Trial:
    """A file that was made and restored.

    Attributes:
        setting: how it was made.
        model: the model that made it; empty at full size.
        bytes: the size of the whole file, metadata included.
        score: how well it restores.
    """

    setting: Setting
    model: str
    bytes: int
    score: Score


class Trips:
    """The files of one picture, and what comes back from them. Each is made once.

    A picture of more than two megapixels is judged by four pieces of it, each of which is shrunk, coded and
    restored. Sizes of its files are estimated from those of the pieces, because shrinking all of it at every
    scale would take minutes. `calibrate` makes one file of the whole, which corrects the estimates. The
    methods whose names end in ``whole``, and `file`, are exact.

    Args:
        picture: the original.
        options: the settings of the codecs, without a coding.
        on_trial: called after each round trip.
    """

    def __init__(
        self, picture: Picture, options: Options, on_trial: Callable[[Trial], None] = lambda _: None
    ) -> None:
        self.picture = picture
        self.trials: dict[Setting, Trial] = {}
        self._judged: dict[Setting, Trial] = {}  # by the whole of a picture that has pieces
        self._options = options
        self._on_trial = on_trial
        self._files: dict[Setting, bytes] = {}
        self._codecs: dict[tuple[float, bool], Codec] = {}
        self._small: dict[tuple[str, float, int], tuple[Picture, LRInfo]] = {}
        self._parts: dict[Setting, tuple[bytes, ...]] = {}  # the files of the pieces

    @cached_property
    def measure(self) -> Measure:
        """The measure by which files are compared, unless the user names another."""
        return "ssimulacra2" if min(self.picture.pixels.shape[:2]) >= _LEAST_SCORED else "psnr_rgb"

    @cached_property
    def _pieces(self) -> tuple[Picture, ...]:
        """The picture, or four pieces of it."""
        whole, size = self.picture, (self.picture.height, self.picture.width)
        if size[0] * size[1] <= _WHOLE:
            return (whole,)
        down, across = (sorted({(n - min(n, _PIECE)) * part // 4 for part in (1, 3)}) for n in size)
        return tuple(
            replace(
                whole,
                pixels=np.ascontiguousarray(whole.pixels[y : y + _PIECE, x : x + _PIECE]),
                alpha=None
                if whole.alpha is None
                else np.ascontiguousarray(whole.alpha[y : y + _PIECE, x : x + _PIECE]),
            )
            for y in down
            for x in across
        )

    @property
    def whole(self) -> bool:
        """Whether the whole picture is judged."""
        return self._pieces[0] is self.picture

    def formats(self, wanted: tuple[SmallFormat, ...]) -> tuple[SmallFormat, ...]:
        """Return those of `wanted` that can hold the picture; all if none can, so that writing says why."""
        alpha = self.picture.alpha
        opaque = alpha is None or bool(alpha.min() == np.iinfo(alpha.dtype).max)
        return tuple(f for f in FORMATS if f in wanted and (opaque or f != "jpg")) or wanted

    def file(self, setting: Setting) -> bytes:
        """Return the file of the whole picture."""
        if setting not in self._files:
            self._files[setting] = self._encoded(setting, self.picture)
        return self._files[setting]

    def size(self, setting: Setting) -> int:
        """Return the bytes of the file of the whole picture; an estimate if only pieces are judged."""
        if self.whole:
            return self.size_of_whole(setting)
        return round(self._of_pieces(setting) * self._share(setting))

    def size_of_whole(self, setting: Setting) -> int:
        """Return the bytes of the file of the whole picture."""
        return len(self.file(setting))

    def calibrate(self, scale: float, format: SmallFormat) -> None:
        """Make one file of the whole picture, so that sizes of others are estimated well."""
        ladder = LADDERS[format]
        setting = Setting(scale, format, ladder[min(_MIDDLE, len(ladder) - 1)])
        if not self.whole:
            self.file(setting)

    def _files_of_pieces(self, setting: Setting) -> tuple[bytes, ...]:
        """Return the files of the pieces, or that of the whole picture if there are none."""
        if self.whole:
            return (self.file(setting),)
        if setting not in self._parts:
            self._parts[setting] = tuple(self._encoded(setting, piece) for piece in self._pieces)
        return self._parts[setting]

    def _of_pieces(self, setting: Setting) -> float:
        """Return the bytes of the whole picture if it is like its pieces."""
        size = sum(map(len, self._files_of_pieces(setting)))
        content = max(size - _HEADERS * len(self._pieces), 1)
        pixels = sum(piece.width * piece.height for piece in self._pieces)
        return _HEADERS + content * self.picture.width * self.picture.height / pixels

    def _share(self, setting: Setting) -> float:
        """Return by how much an estimate from pieces is wrong, as the most similar whole file tells."""

        def unlike(known: Setting) -> tuple[bool, bool, float, int]:
            return (
                (known.quality is None) != (setting.quality is None),
                known.format != setting.format,
                abs(math.log(known.scale / setting.scale)),
                abs((known.quality or 0) - (setting.quality or 0)),
            )

        known = min(self._files, key=unlike, default=None)
        return 1.0 if known is None else len(self._files[known]) / self._of_pieces(known)

    def smallest(self, scale: float, format: SmallFormat) -> Setting:
        """Return the setting of the smallest file."""
        return Setting(scale, format, LADDERS[format][0])

    def may_have(self, setting: Setting, budget: int) -> bool:
        """Return whether the file of `setting` may have at most `budget` bytes, as its pieces tell."""
        return self.whole or all(len(one) <= budget for one in self._files_of_pieces(setting))

    def fit(self, scale: float, format: SmallFormat, budget: int) -> Setting | None:
        """Return the setting of the best file of at most `budget` bytes; None if all are larger."""
        return self._fitted(scale, format, budget, self._likely(scale, format, budget), self.size)

    def _likely(self, scale: float, format: SmallFormat, budget: int) -> int:
        """Return the place on the ladder whose file probably has `budget` bytes, as similar ones tell."""
        known = [s for s in self.trials if s.format == format and s.quality is not None and s.scale != 1]
        if self.whole or scale == 1 or not known:
            return _FIRST
        like = min(known, key=lambda s: abs(math.log(s.scale / scale)))
        grown = math.log(self.size(like)) + _GROWTH * math.log(like.scale / scale)
        return max(0, LADDERS[format].index(like.quality) + round((math.log(budget) - grown) / _STEP))

    def fit_whole(self, like: Setting, budget: int) -> Setting | None:
        """Return what `fit` does for the scale and format of `like`, by files of the whole picture.

        Args:
            like: what `fit` has found; its quality is tried first.
            budget: in bytes.
        """
        ladder = LADDERS[like.format]
        first = ladder.index(like.quality)
        return self._fitted(like.scale, like.format, budget, first, self.size_of_whole)

    def _fitted(
        self,
        scale: float,
        format: SmallFormat,
        budget: int,
        first: int,
        size_of: Callable[[Setting], int],
    ) -> Setting | None:
        ladder = LADDERS[format]
        known: dict[int, float] = {}
        low, high, at, best = 0, len(ladder) - 1, min(first, len(ladder) - 1), None
        goal = math.log(budget * (1 + _NEAR) / 2)
        while low <= high:
            setting = Setting(scale, format, ladder[at])
            size = size_of(setting)
            known[at] = math.log(size)
            if size <= budget:
                best, low = setting, at + 1
                if size >= _NEAR * budget:
                    break
            else:
                high = at - 1
            at = max(low, min(high, crossing(known, goal, _STEP)))
        return best

    def judge(self, setting: Setting) -> Trial:
        """Return how well the file of `setting` restores."""
        if setting not in self.trials:
            score = self._twin(setting) or self._score(setting, self._files_of_pieces(setting), self._pieces)
            trial = Trial(setting, self._model(setting), self.size(setting), score)
            self.trials[setting] = trial
            self._on_trial(trial)
        return self.trials[setting]

    def judge_whole(self, setting: Setting) -> Trial:
        """Return how well the file of `setting` restores, judged by the whole of a picture of any size."""
        if self.whole:
            return self.judge(setting)
        if setting not in self._judged:
            file = self.file(setting)
            score = self._score(setting, (file,), (self.picture,))
            self._judged[setting] = Trial(setting, self._model(setting), len(file), score)
        return self._judged[setting]

    def _twin(self, setting: Setting) -> Score | None:
        """Return the score of another lossless file of the same pixels, if there is one."""
        if setting.quality is not None or self.picture.pixels.dtype != np.uint8:
            return None
        same = (s for s in self.trials if (s.scale, s.quality) == (setting.scale, None))
        return next((self.trials[s].score for s in same), None)

    def _codec(self, setting: Setting) -> Codec:
        coding = coding_of(f"x.{setting.format}", setting.quality)
        coded = coding is not None and not coding.fine
        key = setting.scale, coded
        if key not in self._codecs:
            # one codec for all qualities: they matter to effort alone
            some = replace(self._options, coding=coding_of("x.jpg", None) if coded else None)
            self._codecs[key] = open_codec(None, setting.scale, some)
        return self._codecs[key]

    def _model(self, setting: Setting) -> str:
        return "" if setting.scale == 1 else self._codec(setting).loaded.name

    def _encoded(self, setting: Setting, piece: Picture) -> bytes:
        name, info = f"picture.{setting.format}", None
        if setting.scale != 1:
            codec = self._codec(setting)
            key = codec.loaded.name, setting.scale, id(piece)
            if key not in self._small:
                self._small[key] = codec.shrink(piece)
            piece, info = self._small[key]
        return encode(piece, name, info=info, quality=setting.quality)[0]

    def _score(self, setting: Setting, files: tuple[bytes, ...], pieces: tuple[Picture, ...]) -> Score:
        pairs = [
            (_seen(self._back(setting, file)), _seen(piece))
            for file, piece in zip(files, pieces, strict=True)
        ]
        restored, original = (np.concatenate(one) for one in zip(*pairs, strict=True))
        scored = min(original.shape[:2]) >= _LEAST_SCORED
        return Score(
            psnr(restored, original),
            psnr(restored, original, on="rgb"),
            math.fsum(ssimulacra2(*pair) for pair in pairs) / len(pairs) if scored else math.nan,
        )

    def _back(self, setting: Setting, file: bytes) -> Picture:
        decoded = decode(file, f"picture.{setting.format}", max_pixels=self._options.max_pixels)
        return decoded if setting.scale == 1 else self._codec(setting).restore(decoded)


def crossing(known: dict[int, float], goal: float, step: float) -> int:
    """Return where values along a ladder probably reach `goal`, given some of them.

    Args:
        known: values by place, at least one; they grow with the place, if not always.
        goal: the value.
        step: by how much values grow from one place to the next, roughly.
    """
    under = max((at for at, value in known.items() if value <= goal), default=None)
    over = min((at for at, value in known.items() if value > goal), default=None)
    if under is None or over is None:
        nearest = min(known, key=lambda at: abs(known[at] - goal))
        away = (goal - known[nearest]) / step
        return nearest + (max(1, math.floor(away)) if away > 0 else min(-1, math.floor(away)))
    share = (goal - known[under]) / (known[over] - known[under])
    return under + max(1, math.floor(share * (over - under))) if over > under else under + 1


def _seen(picture: Picture) -> NDArray[np.uint8]:
    """Return RGB ``[H, W, 3]`` in uint8, on grey where it is transparent."""
    pixels = eight_bit(picture.pixels)
    if picture.alpha is None:
        return pixels
    alpha = picture.alpha[:, :, None] / np.float32(np.iinfo(picture.alpha.dtype).max)
    return np.rint(pixels * alpha + _GREY * (1 - alpha)).astype(np.uint8)
