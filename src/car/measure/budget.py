"""The best small file of at most so many bytes, and the smallest one that restores well enough."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from car.codec.kinds import as_picture
from car.codec.options import Options
from car.errors import ImageError, UsageError
from car.files.atomic import atomic_write
from car.measure.goal import Goal, Measure
from car.measure.trips import (
    FORMATS,
    LADDERS,
    SCALES,
    Setting,
    SmallFormat,
    Trial,
    Trips,
    crossing,
)

MOST_TRIPS = 8
"""Round trips of small pictures after which a search settles for what it has found.

A goal of quality may take up to `_MORE` beyond them, so that it is met.
"""

_MORE = 4
# bits for a pixel of the small file where formats do best, roughly: the scale that is tried first
_BITS: dict[SmallFormat, float] = {"avif": 0.9, "webp": 1.0, "jpg": 1.1, "png": 11.0}
_MIDDLE = 60  # the quality that is tried first where a quality is the goal
_SLOPES: dict[Measure, float] = {"ssimulacra2": 0.8, "psnr_rgb": 0.08}  # by one step of quality, roughly
_PATIENCE = 3  # round trips at one scale before the search no longer trusts that values grow evenly
_HOPELESS = 60  # steps of quality that no quality makes up for; a smaller scale is tried at once


@dataclass(frozen=True)
class SmallFile:
    """A small file that keeps to a goal.

    Attributes:
        data: the content of the file, metadata included.
        made: how it was made, its size, and how well the whole picture is restored from it.
        measure: what decided: ``ssimulacra2`` or ``psnr_rgb``.
        tried: the round trips of the search, in their order; `Trips` says what they are judged by.
        full_size: a file of the picture itself that is at most as large, or within the budget, and better;
            None if no format that was allowed has one.
        notes: notes for the user on reading and writing.
    """

    data: bytes
    made: Trial
    measure: Measure
    tried: tuple[Trial, ...]
    full_size: Trial | None
    notes: tuple[str, ...]

    @property
    def suffix(self) -> str:
        """The suffix of the file, such as ``.avif``."""
        return f".{self.made.setting.format}"

    @property
    def why(self) -> str:
        """What was chosen and why, in one line."""
        others = [t for t in self.tried if t.setting != self.made.setting]
        return (
            f"{self.made.setting} ({self.made.model}): {self.made.bytes:,} bytes, restores with "
            f"{self.made.score.told(self.measure)}; the best of {len(others) + 1} that were tried"
        )

    @property
    def advice(self) -> str:
        """What to use instead, if a file of the picture at full size is smaller and better; or empty."""
        if self.full_size is None:
            return ""
        how, size = self.full_size.setting, f"{self.full_size.bytes:,} bytes"
        if how.quality is None:
            return f"the picture itself as lossless {how.format} has {size} and loses nothing"
        told = self.full_size.score.told(self.measure)
        return f"the picture itself as {how.format} of quality {how.quality} has {size} and is better: {told}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all; an existing one is replaced.

        Raises:
            ImageError: the name has the suffix of another format, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower().replace(".jpeg", ".jpg") != self.suffix:
            raise ImageError(f"{path}: the file is {self.suffix}, name it so")
        atomic_write(path, self.data)


def shrink_to(
    image: Any,
    *,
    max_bytes: int | None = None,
    min_psnr: float | None = None,
    min_ssimulacra2: float | None = None,
    formats: Sequence[SmallFormat] = FORMATS,
    scale: float | None = None,
    options: Options = Options(),
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> SmallFile:
    """Return the best small file of at most `max_bytes`, or the smallest one that restores well enough.

    It searches for the scale, the format and the quality by shrinking and restoring the picture up to about
    eight times. SSIMULACRA2 decides which restored picture is best, or PSNR over RGB if the picture has fewer
    than 8 pixels a side. Give exactly one of the first three settings.

    Args:
        image: a path, a PIL image or an array, as for `car.downscale`.
        max_bytes: the size of the file at most, metadata included.
        min_psnr: the PSNR over RGB of the restored picture at least, in dB.
        min_ssimulacra2: the SSIMULACRA2 of the restored picture at least, up to 100.
        formats: those that are allowed.
        scale: the only scale that is allowed.
        options: the settings, without effort.
        on_trial: called after each round trip.

    Raises:
        UsageError: the settings contradict each other or are impossible.
        ImageError: the file cannot be read, or no small file keeps to the goal; the message says what is
            reachable.
        WeightsError: the weights cannot be loaded.

    >>> import numpy as np
    >>> small = shrink_to(np.zeros((64, 96, 3), np.uint8), max_bytes=500, formats=["png"])
    >>> len(small.data) <= 500, small.suffix
    (True, '.png')
    """
    goal = Goal(max_bytes, min_psnr, min_ssimulacra2)
    if not goal.given:
        raise UsageError("give max_bytes, min_psnr or min_ssimulacra2")
    if options.effort or options.coding is not None:
        raise UsageError("a search for a size or a quality takes no effort and no coding")
    unknown = [format for format in formats if format not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"formats must be some of {', '.join(FORMATS)}, got {', '.join(unknown) or 'none'}")
    picture = as_picture(image, options.max_pixels)
    trips = Trips(picture, options, on_trial)
    search = _Search(trips, trips.formats(tuple(formats)), goal, SCALES if scale is None else (scale,))
    made = search.run()
    notes = picture.notes
    if picture.pixels.itemsize > 1 and made.setting.format != "png":
        notes += (f"{made.setting.format} holds 8 bit: the small picture was rounded from 16 bit",)
    tried = tuple(trial for trial in trips.trials.values() if trial.setting.scale != 1)
    full_size = search.full_size(goal.max_bytes or made.bytes, made)
    return SmallFile(trips.file(made.setting), made, search.measure, tried, full_size, notes)


class _Search:
    """A search for one picture."""

    def __init__(
        self, trips: Trips, formats: tuple[SmallFormat, ...], goal: Goal, scales: tuple[float, ...]
    ) -> None:
        self._trips, self._formats, self._goal, self._scales = trips, formats, goal, scales
        self.measure: Measure = "psnr_rgb" if goal.min_psnr is not None else trips.measure
        self._slope = _SLOPES[self.measure]
        self._gap = 0.0  # by how much the whole picture restores better than its pieces

    def run(self) -> Trial:
        """Return the file that keeps to the goal, judged by the whole picture."""
        if self._goal.max_bytes is not None:
            return self._trips.judge_whole(self._best(self._goal.max_bytes))
        if self._goal.least(self.measure) is None:
            raise ImageError("the picture has fewer than 8 pixels a side, too few for SSIMULACRA2")
        return self._smallest()

    def full_size(self, budget: int, made: Trial) -> Trial | None:
        """Return a file of the picture itself of at most `budget` bytes that is better than `made`."""
        lossless = [Setting(1, f, None) for f in self._formats if None in LADDERS[f]]
        small = [s for s in lossless if self._trips.may_have(s, budget) and self._trips.size(s) <= budget]
        if small:
            return self._trips.judge(min(small, key=self._trips.size))
        setting = self._trips.fit(1, self._formats[0], budget)
        if setting is None or self._value(self._trips.judge(setting)) <= self._value(
            self._trips.judge(made.setting)
        ):
            return None
        setting = self._trips.fit_whole(setting, budget)
        full = None if setting is None else self._trips.judge_whole(setting)
        return full if full is not None and self._value(full) > self._value(made) else None

    def _value(self, trial: Trial) -> float:
        return getattr(trial.score, self.measure)

    def _has_trips(self, most: int = MOST_TRIPS) -> bool:
        return sum(setting.scale != 1 for setting in self._trips.trials) < most

    def _fitted(self, at: int, format: SmallFormat, budget: int) -> Trial | None:
        """Return the best file of this scale and format within the budget; None if there is none."""
        setting = self._trips.fit(self._scales[at], format, budget)
        return None if setting is None else self._trips.judge(setting)

    # --- the best file of at most so many bytes

    def _best(self, budget: int) -> Setting:
        best: Trial | None = None
        for format in self._formats:
            if best is None:
                best = self._climbed(format, budget)
            elif self._has_trips():
                other = self._fitted(self._scales.index(best.setting.scale), format, budget)
                best = best if other is None else max(best, other, key=self._value)
        # sizes may have been estimated: smaller pictures follow until a file of the whole one fits
        first = len(self._scales) - 1 if best is None else self._scales.index(best.setting.scale)
        for scale in self._scales[first:]:
            for format in self._formats if best is None else (best.setting.format,):
                like = self._trips.smallest(scale, format)
                like = best.setting if best is not None and scale == best.setting.scale else like
                if fitted := self._trips.fit_whole(like, budget):
                    return fitted
        least = min(
            (self._trips.smallest(self._scales[-1], format) for format in self._formats),
            key=self._trips.size_of_whole,
        )
        raise ImageError(
            f"no small file has at most {budget:,} bytes; the smallest has "
            f"{self._trips.size_of_whole(least):,} ({least})"
        )

    def _climbed(self, format: SmallFormat, budget: int) -> Trial | None:
        """Return the best file in one format: from a likely scale on, neighbours are tried while they win."""
        pixels = self._trips.picture.width * self._trips.picture.height
        likely = math.sqrt(_BITS[format] * pixels / (8 * budget))
        at = min(range(len(self._scales)), key=lambda n: abs(math.log(self._scales[n] / likely)))
        self._trips.calibrate(self._scales[at], format)
        best = self._fitted(at, format, budget)
        while best is None and at + 1 < len(self._scales):
            at += 1
            best = self._fitted(at, format, budget)
        if best is None:
            return None
        quality = best.setting.quality
        first = 1 if quality is not None and quality < _MIDDLE else -1
        for step in (first, -first):
            start = at
            while 0 <= at + step < len(self._scales) and self._has_trips():
                other = self._fitted(at + step, format, budget)
                if other is None or self._value(other) <= self._value(best):
                    break
                best, at = other, at + step
            if at != start:
                break
        return best

    # --- the smallest file that restores well enough

    def _smallest(self) -> Trial:
        format = self._formats[0]
        at, made = self._begun(format)
        made = self._reached(at, format, made)
        if made is None:
            at, made = self._in_other_ways()
        for step in (1, -1):
            start = at
            while 0 <= at + step < len(self._scales) and self._has_trips():
                other = self._fitted(at + step, made.setting.format, made.bytes - 1)
                if other is None or not self._enough(other):
                    break
                made, at = other, at + step
            if at != start:
                break
        for format in self._formats:
            if format != made.setting.format and self._has_trips():
                other = self._fitted(at, format, made.bytes - 1)
                made = other if other is not None and self._enough(other) else made
        made = self._reached(at, made.setting.format, made) or made
        if self._trips.whole:
            return made
        whole = self._trips.judge_whole(made.setting)
        self._gap = self._value(whole) - self._value(made)
        format, ladder = made.setting.format, LADDERS[made.setting.format]
        known = (
            t
            for t in self._trips.trials.values()
            if (t.setting.scale, t.setting.format) == (self._scales[at], format)
        )
        enough = min(filter(self._enough, known), key=lambda t: ladder.index(t.setting.quality), default=None)
        return self._verified(self._reached(at, format, enough) or made)

    def _begun(self, format: SmallFormat) -> tuple[int, Trial | None]:
        """Return the place of the largest scale that is good enough at a middle quality, and that file.

        At a larger scale, only the highest qualities can be good enough, and there the model limits what more
        bytes bring. If no scale is good enough, return the first place, and None.
        """
        ladder = LADDERS[format]
        quality = ladder[min(_MIDDLE, len(ladder) - 1)]
        low, high, found = 0, len(self._scales) - 1, None
        at = self._nearest(2)
        while low <= high:
            trial = self._trips.judge(Setting(self._scales[at], format, quality))
            if self._enough(trial):
                found, low = trial, at + 1
            else:
                high = at - 1
            at = (low + high) // 2
        return (0, None) if found is None else (self._scales.index(found.setting.scale), found)

    def _in_other_ways(self) -> tuple[int, Trial]:
        """Return a file that is good enough although the first format is not, and the place of its scale."""
        places = sorted({0, self._nearest(2)})
        for at in places:
            for format in self._formats:
                if LADDERS[format][-1] is None:
                    trial = self._trips.judge(Setting(self._scales[at], format, None))
                    if self._enough(trial):
                        return at, trial
        for at in places:
            for format in self._formats:
                if made := self._reached(at, format):
                    return at, made
        raise self._unreachable()

    def _nearest(self, scale: float) -> int:
        return min(range(len(self._scales)), key=lambda n: abs(self._scales[n] - scale))

    @property
    def _least(self) -> float:
        """The value that pieces, or a picture without pieces, must have."""
        return self._least_of_whole - self._gap

    @property
    def _least_of_whole(self) -> float:
        least = self._goal.least(self.measure)
        assert least is not None
        return least

    def _enough(self, trial: Trial) -> bool:
        return self._value(trial) >= self._least

    def _reached(self, at: int, format: SmallFormat, made: Trial | None = None) -> Trial | None:
        """Return a file of this scale and format that is just good enough; None if there is none.

        Args:
            at: the place of the scale.
            format: of the file.
            made: such a file, if one is known; a smaller one is looked for.
        """
        ladder, known = LADDERS[format], self._known(at, format)
        low = max((n + 1 for n, value in known.items() if value < self._least), default=0)
        high = min((n - 1 for n, value in known.items() if value >= self._least), default=len(ladder) - 1)
        place = crossing(known, self._least, self._rise(known)) if known else _MIDDLE
        while low <= high and self._has_trips(MOST_TRIPS + _MORE):
            place = max(low, min(high, place))
            trial = self._trips.judge(Setting(self._scales[at], format, ladder[place]))
            known[place] = self._value(trial)
            missing = self._least - known[place]
            if missing > _HOPELESS * self._slope and made is None and ladder[-1] is not None:
                return None
            if missing <= 0:
                made, high = trial, place - 1
                if missing > -self._slope:
                    break
            else:
                low = place + 1
            place = crossing(known, self._least, self._rise(known))
            if made and low and len(known) > _PATIENCE:
                # values that jump, as where another model begins, would let it creep from one end
                place = max(low + (high - low) // 3, min(high - (high - low) // 3, place))
        return made

    def _known(self, at: int, format: SmallFormat) -> dict[int, float]:
        """Return the values that are known for this scale and format, by their place on the ladder."""
        ladder = LADDERS[format]
        return {
            ladder.index(trial.setting.quality): self._value(trial)
            for trial in self._trips.trials.values()
            if (trial.setting.scale, trial.setting.format) == (self._scales[at], format)
        }

    def _rise(self, known: dict[int, float]) -> float:
        """Return by how much the value grows from one quality to the next, above the best ones of `known`.

        At high qualities the model limits it, so it grows more slowly than at low ones.
        """
        if len(known) < 2:
            return self._slope
        below, top = sorted(known)[-2:]
        return max(self._slope / 4, min(self._slope, (known[top] - known[below]) / (top - below)))

    def _verified(self, made: Trial) -> Trial:
        """Return `made`, or a file of higher quality if the whole picture restores worse than its pieces."""
        at, format = self._scales.index(made.setting.scale), made.setting.format
        ladder = LADDERS[format]
        while self._value(whole := self._trips.judge_whole(made.setting)) < self._least_of_whole:
            missing = self._least_of_whole - self._value(whole)
            place = ladder.index(made.setting.quality)
            if place == len(ladder) - 1:
                raise self._unreachable()
            more = math.ceil(missing / self._rise(self._known(at, format)))
            quality = ladder[min(place + more, len(ladder) - 1)]
            made = replace(made, setting=replace(made.setting, quality=quality))
        return whole

    def _unreachable(self) -> ImageError:
        best = max(self._trips.trials.values(), key=self._value)
        wanted = replace(best.score, **{self.measure: self._least_of_whole}).told(self.measure)
        return ImageError(
            f"no small file restores with {wanted}; the best that was found has "
            f"{best.score.told(self.measure)} in {best.bytes:,} bytes "
            f"({best.setting}); car advise compares files at full size"
        )
