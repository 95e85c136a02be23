"""The work on one image: it is read, shrunk or restored, and its result is written whole or not at all."""

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np

from car.batch.plan import failure
from car.batch.records import LEFT_OUT, Record
from car.batch.work import Item, Work
from car.codec.choose import codec_for_original, codec_for_picture
from car.codec.codec import Codec
from car.codec.large import (
    Done,
    gigabytes,
    in_no_strips,
    memory_of,
    restore_file,
    restored_memory,
    shrink_file,
    why_whole,
)
from car.errors import CarError, ImageError, StorageError, told
from car.files.atomic import MAX_FILE_BYTES, file_digest
from car.files.scratch import Scratch
from car.files.storage import Place
from car.measure.evaluate import round_trip_of
from car.metrics import psnr
from car.pictures.formats import check_room
from car.pictures.info import read_header
from car.pictures.picture import Picture, check_size
from car.pictures.read import decode
from car.pictures.write import encode
from car.scaling import Size
from car.weights import list_models

_TILE = 256  # LR pixels a side; smaller than usual because several images are in work, and as fast
_CONTENT = 6  # a larger part of the memory than one in so many is not taken for the content of a file
_MEASURING = 45  # additional bytes per pixel if results are measured


class Worker:
    """Works on items, one for each call. Several threads may call it.

    Args:
        source: where the images are.
        target: where the results go.
        work: what to do with each image.
        digest: a hash of everything that determines the results.
    """

    def __init__(self, source: str, target: str, work: Work, digest: str) -> None:
        self.source, self.target, self.work, self.digest = Place(source), Place(target), work, digest
        self._room = Room(work.memory)

    def __call__(self, item: Item) -> Record:
        """Work on an item. If that fails, the record says why.

        Raises:
            StorageError: nothing can be written to the target.
        """
        begin = time.perf_counter()
        record = self.failure(item, "")
        try:
            with contextlib.ExitStack() as stack:
                content = self._content(item, stack)
                record = replace(record, source_bytes=_size(content), source_sha256=_digest(content))
                record = self._worked(item, record, content, stack)
        except StorageError as error:
            if error.fatal:
                raise
            record = replace(record, error=told(error, self._path(item)))
        except (CarError, OSError, MemoryError) as error:
            record = replace(record, error=told(error, self._path(item)))
        except Exception as error:  # one image must not end the others
            record = replace(record, error=f"internal error: {type(error).__name__}: {error}")
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return replace(record, seconds=round(time.perf_counter() - begin, 4), finished=now)

    def failure(self, item: Item, error: str) -> Record:
        """Return the record of an item that was not worked on."""
        return failure(item.name, item.entry, self.digest, error)

    def _path(self, item: Item) -> str:
        return self.source.path_of(item.name)

    def _content(self, item: Item, stack: contextlib.ExitStack) -> bytes | Path:
        """Return the content of an item's file, or its path if it is too large for memory."""
        if item.entry.size > min(self.work.memory // _CONTENT, MAX_FILE_BYTES):
            return stack.enter_context(self.source.local(item.name))
        return self.source.read(item.name)

    def _worked(
        self, item: Item, record: Record, content: bytes | Path, stack: contextlib.ExitStack
    ) -> Record:
        known, path, work = item.known, self._path(item), self.work
        same = known is not None and known.source_sha256 == record.source_sha256
        if known and same and known.settings == self.digest and self._still_there(item, known):
            return replace(known, status="unchanged", stamp=item.entry.stamp)
        header = read_header(content, path)
        if kind := work.left_out(header):
            return replace(record, status=LEFT_OUT, error=kind)
        check_size(*header.size, path, work.options.max_pixels)
        need = self._need(*header.size, header.pixel_bytes)
        if need > work.memory:
            record = replace(record, source_size=header.size)
            return self._shrunk_in_strips(item, record, content, need, stack)
        if isinstance(content, Path):
            content = content.read_bytes()
        if work.kind == "upscale":  # the restored picture takes most of the memory
            made = header.info.scale if header.info else max(m.scale for m in list_models())
            need = int(need * (work.wanted.scale or made) ** 2)
        with self._room.taken(need):
            picture = decode(content, path, max_pixels=work.options.max_pixels)
            del content
            record = replace(record, source_size=(picture.width, picture.height))
            codec = self._codec(header.size, picture)
            record = replace(record, model=codec.loaded.name, weights=codec.loaded.short_hash)
            if work.kind == "evaluate":
                return self._measured(picture, codec, record)
            make = self._shrunk if work.kind == "downscale" else self._restored
            return self._kept(item, *make(picture, item, record, codec, stack))

    def _need(self, width: int, height: int, a_pixel: int) -> int:
        """Return roughly how many bytes of memory a whole picture in work takes."""
        return memory_of(width, height, a_pixel) + width * height * (_MEASURING if self.work.measures else 0)

    def _too_large(self, item: Item, size: tuple[int, int], need: int, advice: str) -> ImageError:
        return ImageError(
            f"{self._path(item)}: {size[0]}x{size[1]} pixels take about {gigabytes(need)}, over "
            f"{gigabytes(self.work.memory)}; {advice}"
        )

    def _still_there(self, item: Item, known: Record) -> bool:
        """Whether the recorded result is there; with `verify`, also whether its content is as recorded."""
        if not item.target:
            return True
        if item.there != known.target_bytes or known.target != item.target:
            return False
        if not self.work.verify:
            return True
        return hashlib.sha256(self.target.read(item.target)).hexdigest() == known.target_sha256

    def _shrunk(
        self, picture: Picture, item: Item, record: Record, codec: Codec, _: contextlib.ExitStack
    ) -> tuple[Record, bytes]:
        small, info = codec.shrink(picture)
        encoded, notes = encode(small, item.target, info=info, quality=self.work.quality)
        record = replace(record, target_size=(small.width, small.height), notes=picture.notes + notes)
        if self.work.psnr:
            # measured from the file, because the coding may be lossy
            restored = codec.restore(replace(decode(encoded, item.target), info=info))
            record = replace(record, psnr=_luma_psnr(restored, picture, math.ceil(codec.scale)))
        return record, encoded

    def _restored(
        self, picture: Picture, item: Item, record: Record, codec: Codec, stack: contextlib.ExitStack
    ) -> tuple[Record, bytes | Path]:
        size, _ = codec.restored_size(picture)
        if size[0] * size[1] > self.work.options.max_pixels:
            raise ImageError(
                f"{self._path(item)}: restores to {size[0] * size[1]} pixels, over the limit "
                f"of {self.work.options.max_pixels}; raise it with --max-pixels"
            )
        check_room(Path(item.target), *size)
        need = restored_memory(picture, *size)
        if need > self.work.memory:
            if advice := in_no_strips(codec, picture, self.work.format, "give --format tiff"):
                raise self._too_large(item, size, need, advice)
            made = _scratch(stack, self.work.format)
            done = restore_file(codec, picture, made, memory=0)
            return replace(record, target_size=size, notes=picture.notes + done.notes), made
        large = codec.restore(picture)
        encoded, notes = encode(large, item.target, quality=self.work.quality)
        return replace(record, target_size=size, notes=picture.notes + large.notes + notes), encoded

    def _shrunk_in_strips(
        self, item: Item, record: Record, content: bytes | Path, need: int, stack: contextlib.ExitStack
    ) -> Record:
        """Shrink a picture that is too large for memory.

        Raises:
            ImageError: it cannot be read in strips, or the settings do not work in strips.
        """
        work, size = self.work, record.source_size
        if work.kind != "downscale" or work.measures or work.options.effort:
            raise self._too_large(item, size, need, "raise --memory")
        if isinstance(content, bytes):
            path = _scratch(stack, "source")
            path.write_bytes(content)
        else:
            path = content
        try:
            if why := why_whole(path):
                raise self._too_large(item, size, need, f"not read in strips, because {why}: raise --memory")
            made, codec = _scratch(stack, work.format), self._codec(size)
            with self._room.taken(need):
                done: Done = shrink_file(
                    codec, path, made, memory=0, max_pixels=work.options.max_pixels, quality=work.quality
                )
        except ImageError as error:
            raise ImageError(str(error).replace(str(path), self._path(item))) from error
        record = replace(record, model=codec.loaded.name, weights=codec.loaded.short_hash)
        return self._kept(item, replace(record, target_size=done.target_size, notes=done.notes), made)

    def _measured(self, picture: Picture, codec: Codec, record: Record) -> Record:
        quality = round_trip_of(codec, picture, record.source, perceptual=False).record.model
        return replace(
            record,
            status="done",
            psnr=_finite(quality.psnr),
            ssim=quality.ssim,
            lr_psnr=_finite(quality.lr_psnr),
        )

    def _kept(self, item: Item, record: Record, made: bytes | Path) -> Record:
        """Write the result, unless it is already there. A file that this program did not make stays."""
        record = replace(
            record,
            status="done",
            target=item.target,
            target_bytes=_size(made),
            target_sha256=_digest(made),
        )
        if not self.work.overwrite:
            size, known = self.target.size_of(item.target), item.known
            if size is not None:
                # a file of another size cannot be the same; it may be huge, so it is not read
                like = size in (record.target_bytes, known.target_bytes if known else -1)
                digest = ""
                if like:
                    with self.target.local(item.target) as there:
                        digest = _digest(there)
                if digest == record.target_sha256:
                    return record  # made by a run that ended before recording it, or by a concurrent run
                if known is None or digest != known.target_sha256 or known.settings != self.digest:
                    raise ImageError(
                        f"{self.target.path_of(item.target)} exists and differs; --overwrite replaces it"
                    )
        self.target.write(item.target, made)
        return record

    def _codec(self, size: Size, picture: Picture | None = None) -> Codec:
        """Return the codec for a picture of this size (width, height), which may be read already."""
        work = self.work
        options = replace(work.options, coding=work.coding)
        if picture is not None and work.kind == "upscale":
            codec = codec_for_picture(picture, model=work.model, scale=work.wanted.scale, options=options)
        else:
            codec = codec_for_original(size, work.wanted, work.model, options)
        return codec if options.tile else codec.with_tile(_TILE)


class Room:
    """Admits images while their bytes together stay below a limit. One above the limit is admitted alone."""

    def __init__(self, size: int) -> None:
        self._limit, self._used = size, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Generator[None, None, None]:
        """Wait until `size` more bytes fit, and hold them inside the block."""
        share = min(size, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._used + share <= self._limit)
            self._used += share
        try:
            yield
        finally:
            with self._changed:
                self._used -= share
                self._changed.notify_all()


def _scratch(stack: contextlib.ExitStack, suffix: str) -> Path:
    """Return a path for a temporary file, which closing `stack` removes."""
    return Path(stack.enter_context(Scratch()), f"picture.{suffix}")


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _digest(content: bytes | Path) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_digest(content)


def _luma_psnr(restored: Picture, original: Picture, scale: int) -> float | None:
    if min(original.width, original.height) <= 2 * scale:
        return None
    pair = (
        p.pixels if p.pixels.dtype == np.uint8 else p.pixels / np.float32(65535) for p in (restored, original)
    )
    return _finite(psnr(*pair, border=scale))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
