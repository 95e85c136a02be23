"""Images through a model: resample, pad, tile, round, restore the exact size.

Pixels are rounded here and only here.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car.codec.engine import Engine, Tile, open_engine
from car.codec.kinds import File, apply
from car.codec.options import Options
from car.codec.origin import ThumbnailEngine
from car.codec.tiling import TINY, Axis, split
from car.codec.tiling import Tile as Region
from car.codec.turns import BACK, found_turn, swapped
from car.codec.watching import told
from car.errors import UsageError
from car.families import architecture, model_names
from car.pictures.alpha import without_hidden
from car.pictures.exif import kept
from car.pictures.metadata import LRInfo
from car.pictures.picture import Picture
from car.pictures.resize import bicubic_resize
from car.pictures.rows import RowBuffer, Rows, resampled
from car.scaling import Scale, Size, chosen_size, exact_scale, fits, full_size, small_size
from car.weights import LoadedModel, default_model

if TYPE_CHECKING:
    import torch

_BETWEEN = np.uint16  # what a model sees and gives if pictures are resampled: rounding costs nothing there
_TEXTURED = 32  # levels between the darkest and the brightest pixel
_CORRECTED_TILE = 256  # LR pixels; tiles of 512 take twice the memory, for a tenth less time

ImageLike = TypeVar("ImageLike", Image.Image, "NDArray[Any]", "torch.Tensor")
"""What is shrunk and restored to its own kind."""


class Codec:
    """One model with its settings; it shrinks and restores pictures.

    `car.open` returns a codec. It may be used for many pictures, and from several threads. It works at the
    scale of its model, or at any other scale (see `at`): then pictures are resampled before the model shrinks
    them, and after it restored them.

    Args:
        loaded: the model with its weights; it is not changed.
        options: the settings.

    Raises:
        UsageError: the device or the backend cannot be used.

    >>> import car, numpy as np
    >>> codec = car.open("car_plus_x4")
    >>> codec.upscale(codec.downscale(np.zeros((64, 96, 3), np.uint8))).shape
    (64, 96, 3)
    """

    def __init__(self, loaded: LoadedModel, options: Options = Options()) -> None:
        coding = options.coding.of(loaded.name) if options.coding else None
        self.loaded = loaded.uncorrected() if options.fast else loaded
        self.options = replace(options, coding=coding)
        self.tile = options.tile_for(self.loaded.architecture)
        self.engine: Engine = open_engine(self.loaded, options)
        self.note = ""
        """What the user is told of the choice of this codec; in place of notes on the model."""
        self.scale: Scale = self.native
        """Original pixels for each small pixel along each axis."""

    def _like(self) -> "Codec":
        """Return a codec that shares everything with this one; copies would open another engine."""
        other = object.__new__(Codec)
        other.__dict__.update(self.__dict__)
        return other

    def at(self, scale: Scale) -> "Codec":
        """Return the same codec at another scale, 1.25 to 16; both share the networks.

        Raises:
            UsageError: the scale is impossible.

        >>> import car
        >>> car.open("car_plus_x2").at(2.5).scale
        2.5
        """
        if scale == self.scale:
            return self
        other = self._like()
        other.scale = self.native if scale == self.native else exact_scale(scale)
        return other

    def of(self, picture: Picture) -> "Codec":
        """Return the same codec at the scale in the metadata of a small picture, if it has metadata.

        Raises:
            UsageError: a model of another scale made the picture.
        """
        info = picture.info
        if info is None:
            return self
        if info.model in model_names() and architecture(info.model).scale != self.native:
            if architecture(info.model).scale == info.scale:
                check_scale(picture, self.native)
            raise UsageError(
                f"the picture was made by {info.model}, which {self.loaded.name} cannot replace, "
                "because their scales differ"
            )
        return self.at(info.scale)

    def with_note(self, note: str) -> "Codec":
        """Return the same codec with a note on why it was chosen; both share the networks."""
        other = self._like()
        other.note = note
        return other

    def for_thumbnails(self, note: str) -> "Codec":
        """Return a codec with the same networks, and a note, that enlarges ordinary thumbnails."""
        other = self.with_note(note)
        other.engine = ThumbnailEngine(self.engine, self.native)
        return other

    def with_tile(self, most: int) -> "Codec":
        """Return the same codec with tiles of at most `most` LR pixels a side; both share the networks."""
        other = self._like()
        other.tile = min(self.tile, most)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a codec be copied, and sent to another process, which opens its own engine."""
        thumbnails = isinstance(self.engine, ThumbnailEngine)
        return _reopened, (self.loaded, self.options, self.scale, self.tile, self.note, thumbnails)

    @property
    def device(self) -> str:
        """The device on which the networks run, as PyTorch names it."""
        return self.engine.device

    @overload
    def downscale(self, image: File) -> Image.Image: ...
    @overload
    def downscale(self, image: ImageLike) -> ImageLike: ...
    def downscale(self, image: Any) -> Any:
        """Shrink one image; see `car.downscale`."""
        return apply(image, self.shrink, self.options.max_pixels)

    @overload
    def upscale(self, image: File, size: tuple[int, int] | None = None) -> Image.Image: ...
    @overload
    def upscale(self, image: ImageLike, size: tuple[int, int] | None = None) -> ImageLike: ...
    def upscale(self, image: Any, size: tuple[int, int] | None = None) -> Any:
        """Restore one image with this model, whatever model its metadata names; see `car.upscale`."""
        return apply(image, lambda picture: (self.restore(picture, size), None), self.options.max_pixels)

    @property
    def native(self) -> int:
        """The scale of the model."""
        return self.loaded.geometry.scale

    @property
    def _lossless(self) -> bool:
        return self.loaded.architecture.made_for == "lossless"

    def shrink(self, picture: Picture) -> tuple[Picture, LRInfo]:
        """Return the LR picture, ``ceil(size / scale)``, of the same depth, with its metadata.

        If the model does not accept the size, the last row and column are repeated beyond the edge. Alpha
        is shrunk separately (bicubic). Colours under alpha 0 are first replaced by those around them. The LR
        of a grey picture is RGB: its colours, a few levels from grey, carry detail worth several dB. The
        metadata says that the restored picture must be grey.
        """
        width, height = small_size((picture.width, picture.height), self.scale)
        small = replace(
            picture,
            pixels=self.downscale_pixels(without_hidden(picture.pixels, picture.alpha, weighted=True)),
            grey=False,
            alpha=None if picture.alpha is None else _resize_alpha(picture.alpha, (height, width)),
            info=None,
            notes=(),
            turned=1,
            exif=b"",
            carried=kept(picture.exif, self.options.exif),
        )
        return small, self.info(picture.width, picture.height, grey=picture.grey)

    def info(self, width: int, height: int, *, grey: bool = False) -> LRInfo:
        """Return the metadata of an LR picture made from `width` x `height` pixels."""
        return LRInfo(self.loaded.name, self.loaded.short_hash, self.scale, (width, height), grey)

    def restore(self, picture: Picture, size: tuple[int, int] | None = None) -> Picture:
        """Return the HR picture of `size` (width, height), by default that in the metadata, else s times.

        If a small picture was turned after it was made, it is restored upright, and the result is turned,
        because the networks are not symmetric. A turn is found from EXIF, from sides that are exchanged
        against the metadata, or from the pixels of a few pieces.

        Raises:
            UsageError: an LR picture of this size cannot restore to `size` at this scale, or the metadata has
                another scale.
        """
        codec = self.of(picture)
        (width, height), notes = codec.restored_size(picture, size)
        turned, said = codec._turn(picture)
        notes += (said,) if said else ()
        if turned == 1:
            return codec._restored(picture, (width, height), notes)
        as_made = picture.turn(BACK[turned])
        large = codec._restored(as_made, (height, width) if turned >= 5 else (width, height), notes)
        return large.turn(turned)

    def _restored(self, picture: Picture, size: tuple[int, int], notes: tuple[str, ...]) -> Picture:
        width, height = size
        grey = picture.grey or (picture.info is not None and picture.info.grey)
        shown = without_hidden(picture.pixels, picture.alpha, weighted=False)
        pixels = self.upscale_pixels(shown, size)
        alpha = None
        if picture.alpha is not None:
            # at the model's own scale, what fills up the last cells is cut off
            whole = size
            if self.scale == self.native:
                whole = full_size((picture.width, picture.height), self.scale)
            alpha = _resize_alpha(picture.alpha, (whole[1], whole[0]))[:height, :width]
        return replace(
            picture,
            pixels=np.ascontiguousarray(as_grey(pixels) if grey else pixels),
            grey=grey,
            alpha=None if alpha is None else np.ascontiguousarray(alpha),
            info=None,
            notes=notes,
            exif=b"",
            carried=kept(picture.exif, self.options.exif),
        )

    def restored_size(
        self, picture: Picture, size: tuple[int, int] | None = None
    ) -> tuple[tuple[int, int], tuple[str, ...]]:
        """Return the (width, height) to which `restore` brings `picture`, and notes for the user.

        Raises:
            UsageError: see `restore`.
        """
        s = self.of(picture).scale
        notes: tuple[str, ...] = ()
        here = (picture.width, picture.height)
        full = full_size(here, s)
        if self.note:
            notes = (self.note,)
        elif picture.info is not None and picture.info.model != self.loaded.name:
            notes = (f"made by {picture.info.model}, but restored by {self.loaded.name}",)
        elif picture.info is not None and not self.loaded.sha256.startswith(picture.info.weights):
            notes = (f"made with other weights of {self.loaded.name} than it is restored with, as asked for",)
        elif picture.info is not None and picture.lossy and not picture.fine and self._lossless:
            notes = (
                f"the file is lossy, which {self.loaded.name} is not made for: "
                f"{default_model(s, coded=True)} may restore it better",
            )
        if _lost_colours(picture):
            notes += ("the small picture has lost its colours, which carry detail; it is restored in grey",)
        if size is None:
            size = full
            if picture.info is not None:
                other_way = swapped(picture.info.size)
                if picture.turned < 5 and fits(picture.info.size, here, s):
                    size = picture.info.size
                elif fits(other_way, here, s):
                    size = other_way
                    if picture.turned < 5:
                        notes += ("the picture was turned after it was made",)
                        if other_way != full and (picture.lossy or not self._lossless):
                            # what a lossy coder leaves does not tell which way: which side was filled up?
                            size = full
                            notes += (f"its size is {full[0]}x{full[1]}, as it is not known what to cut off",)
                else:
                    notes += (
                        f"the picture was cropped or resized after it was made: restored to {s} times "
                        f"its present size ({full[0]}x{full[1]}) instead of "
                        f"{picture.info.size[0]}x{picture.info.size[1]}",
                    )
        else:
            size = chosen_size(size)
            if not fits(size, here, s):
                raise UsageError(
                    f"a picture of {picture.width}x{picture.height} restores to {full[0]}x{full[1]} "
                    f"or up to {math.ceil(s) - 1} pixels less, not to {size[0]}x{size[1]}"
                )
        return size, notes

    def turned(self, picture: Picture) -> int:
        """Return the EXIF orientation that leads from how the small picture was made to how it is now."""
        return self._turn(picture)[0]

    def _turn(self, picture: Picture) -> tuple[int, str]:
        """Return what `turned` does, and a note."""
        made_here = picture.info is not None and picture.info.model == self.loaded.name
        native = self.at(self.native)
        return found_turn(
            picture,
            lambda made: native._plainly_shrunk(native.upscale_pixels(made)),
            by_pixels=made_here and not picture.lossy and self.loaded.architecture.made_for == "lossless",
        )

    def downscale_pixels(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Shrink RGB ``[H, W, 3]``, uint8 or uint16, to ``[ceil(H/s), ceil(W/s), 3]`` of the same dtype."""
        small = self._plainly_shrunk(pixels)
        if not self.options.effort or min(small.shape[:2]) < TINY:  # effort does not continue edges
            return small
        from car.codec.torch_engine import TorchEngine

        assert isinstance(self.engine, TorchEngine)
        if self.scale != self.native:
            height, width = small.shape[0] * self.native, small.shape[1] * self.native
            fitted = np.empty((height, width, 3), pixels.dtype)
            _fill(fitted, _resized(_rows_of(pixels), pixels.shape[:2], (height, width), pixels.dtype))
            pixels = fitted
        return self.engine.refine(small, pixels, self.options.effort, self.options.coding)

    def _plainly_shrunk(self, pixels: NDArray[Any]) -> NDArray[Any]:
        height, width = pixels.shape[:2]
        columns, rows = small_size((width, height), self.scale)
        small = np.empty((rows, columns, 3), pixels.dtype)
        _fill(small, self.downscale_strips(_rows_of(pixels), height, width))
        return small

    def upscale_pixels(self, pixels: NDArray[Any], size: Size | None = None) -> NDArray[Any]:
        """Restore RGB ``[h, w, 3]``, uint8 or uint16, to `size` (width, height), of the same dtype.

        Without a size, it is the largest one that this scale allows, such as ``[s*h, s*w, 3]``.
        """
        height, width = pixels.shape[:2]
        columns, rows = size or full_size((width, height), self.scale)
        large = np.empty((rows, columns, 3), pixels.dtype)
        _fill(large, self.upscale_strips(_rows_of(pixels), height, width, (columns, rows)))
        return large

    def downscale_strips(self, rows: Rows, height: int, width: int) -> Iterator[NDArray[Any]]:
        """Yield the LR of a picture of `height` x `width`, strip by strip from the top, without effort.

        Args:
            rows: called with (top, bottom), returns those rows as RGB ``[bottom - top, width, 3]``, uint8 or
                uint16. Neither grows smaller from call to call.
            height: of the picture.
            width: of the picture.
        """
        s, g = self.native, self.loaded.geometry
        dtype = None
        if self.scale != s:
            dtype = rows(0, 1).dtype
            small = small_size((width, height), self.scale)
            fitted = (small[1] * s, small[0] * s)
            rows = RowBuffer(_resized(rows, (height, width), fitted, _BETWEEN))
            height, width = fitted
        down, across = (
            Axis.of(n, max(g.min_size, -(-n // g.multiple) * g.multiple), s) for n in (height, width)
        )
        # the pass back of a corrector takes several times the memory of restoring
        corrects = self.loaded.architecture.uncorrected is not None
        tile = min(self.tile, _CORRECTED_TILE) if corrects else self.tile
        tiles = list(split(down.padded, across.padded, tile * s, g.halo_down, g.multiple))
        run = told("shrinking", len(tiles), self.engine.downscale)
        return _strips(rows, (down, across), tiles, run, (1, s), dtype)

    def upscale_strips(
        self, rows: Rows, height: int, width: int, size: Size | None = None
    ) -> Iterator[NDArray[Any]]:
        """Yield the picture restored from an LR of `height` x `width`, strip by strip.

        Args:
            rows: as for `downscale_strips`.
            height: of the LR.
            width: of the LR.
            size: (width, height) of the result. At the model's own scale it is not needed: what is beyond it
                comes too.
        """
        s, g = self.native, self.loaded.geometry
        down, across = (Axis.of(n, n, 1) for n in (height, width))
        tiles = list(split(down.padded, across.padded, self.tile, g.halo_up))
        run = told("restoring", len(tiles), self.engine.upscale)
        if self.scale == s:
            return _strips(rows, (down, across), tiles, run, (s, 1))
        dtype = rows(0, 1).dtype
        columns, lines = size or full_size((width, height), self.scale)
        strips = _strips(rows, (down, across), tiles, run, (s, 1), _BETWEEN)
        return _resized(RowBuffer(strips), (height * s, width * s), (lines, columns), dtype, back=True)


def _reopened(
    loaded: LoadedModel, options: Options, scale: Scale, tile: int, note: str, thumbnails: bool
) -> Codec:
    codec = Codec(loaded, options).at(scale).with_tile(tile)
    return codec.for_thumbnails(note) if thumbnails else codec.with_note(note)


def _rows_of(pixels: NDArray[Any]) -> Rows:
    return lambda top, bottom: pixels[top:bottom]


def _resized(
    rows: Rows, size: tuple[int, int], target: tuple[int, int], dtype: Any, *, back: bool = False
) -> Iterator[NDArray[Any]]:
    """Yield a picture of `size` (height, width) at the size `target`, in blocks of rows of this dtype."""
    for block in resampled(rows, size, target, back=back):
        yield _rounded(block, np.dtype(dtype))


def _strips(
    rows: Rows,
    axes: tuple[Axis, Axis],
    tiles: Iterable[Region],
    run: Callable[[Tile], Tile],
    ratio: tuple[int, int],
    dtype: Any = None,
) -> Iterator[NDArray[Any]]:
    """Yield the results of `run` on a picture, strip by strip; they are larger by `ratio`, a fraction.

    The results have the dtype of the picture, or `dtype`.
    """
    down, across = axes
    numerator, denominator = ratio
    for (top, bottom), row in groupby(tiles, lambda tile: (tile.core.top, tile.core.bottom)):
        kept = down.kept(top, bottom, *ratio)
        if kept.start == kept.stop:
            continue  # nothing but what fills up
        row_of_tiles = list(row)
        window = row_of_tiles[0].window
        lines = down.places(window.top, window.bottom)
        first, last = int(lines.min()), int(lines.max())
        source = rows(first, last + 1)
        strip = np.empty(
            ((bottom - top) * numerator // denominator, across.padded * numerator // denominator, 3),
            dtype or source.dtype,
        )
        for tile in row_of_tiles:
            columns = across.places(tile.window.left, tile.window.right)
            result = run(_tile(source[(lines - first)[:, None], columns]))
            core = tile.core_scaled(numerator, denominator)
            inside = tile.core_in_window(numerator, denominator).slices
            strip[:, core.left : core.right] = _rounded(result[inside], strip.dtype)
        yield strip[kept, across.kept(0, across.padded, *ratio)]


def _fill(whole: NDArray[Any], strips: Iterable[NDArray[Any]]) -> None:
    top = 0
    for strip in strips:
        whole[top : top + len(strip)] = strip[: len(whole) - top, : whole.shape[1]]
        top += len(strip)


def _tile(pixels: NDArray[Any]) -> Tile:
    return np.divide(pixels, np.iinfo(pixels.dtype).max, dtype=np.float32)


def _rounded(values: Tile, dtype: "np.dtype[Any]") -> NDArray[Any]:
    levels = np.float32(np.iinfo(dtype).max)
    scaled = values * levels
    return np.rint(np.clip(scaled, 0, levels, out=scaled), out=scaled).astype(dtype)


def _resize_alpha(alpha: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    return _rounded(bicubic_resize(_tile(alpha), size), alpha.dtype)


def check_scale(picture: Picture, scale: Scale) -> None:
    """Raise `UsageError` if the metadata of `picture` has another scale."""
    scale = exact_scale(scale)
    if picture.info is not None and picture.info.scale != scale:
        raise UsageError(f"the picture was made at scale {picture.info.scale}, not {scale}")


def _lost_colours(picture: Picture) -> bool:
    """Return whether a small picture is grey that was in colour when it was made."""
    info = picture.info
    if info is None or not picture.grey:
        return False
    if not info.grey:
        return True
    # that of a grey picture has colours too, unless it is flat, or all colours have one kernel, or a lossy
    # coder dropped them
    known = info.model in model_names() and not architecture(info.model).kernels
    textured = min(picture.pixels.shape[:2]) >= TINY and bool(np.ptp(picture.pixels) > _TEXTURED)
    return known and textured and not picture.lossy and picture.pixels.dtype == np.uint8


_GREY = (19595, 38470, 7471)  # luma of ITU-R BT.601, in parts of 65536


def as_grey(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return RGB ``[H, W, 3]``, uint8 or uint16, with every channel the luma of the three.

    Training, effort and the tables weigh luma most. Integer arithmetic gives the same levels in the viewer.
    """
    luma = np.full(pixels.shape[:2], 32768, np.uint32)
    for channel, weight in enumerate(_GREY):
        luma += np.multiply(pixels[:, :, channel], weight, dtype=np.uint32)
    return np.repeat((luma >> 16).astype(pixels.dtype)[:, :, None], 3, axis=2)
