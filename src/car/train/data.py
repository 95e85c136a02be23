"""Training images: decoded once into a memory-mapped file, from which random crops are taken."""

import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from car.errors import ImageError, TrainingError, UsageError, did_you_mean
from car.files.atomic import atomic_write
from car.files.places import Passed, counted, open_source
from car.pictures.formats import INPUT_SUFFIXES
from car.pictures.read import read
from car.train.recipes import Recipe


class TrainingSet(NamedTuple):
    """A usual training set: its folders, and what they hold."""

    training: str
    validation: str
    counts: tuple[int, int]
    size: tuple[int, int]  # height and width of most images


TRAINING_SETS = {
    "DIV2KHR": TrainingSet("DIV2K/DIV2K_train_HR", "DIV2K/DIV2K_valid_HR", (800, 100), (1356, 2040))
}
"""The usual training sets by name."""


def find_training_set(image_path: Path, name: str, valid: Path | None) -> tuple[list[Path], Path]:
    """Return the folders to train on, and the folder to validate on: `valid` if given.

    All others are below `image_path`.

    Raises:
        UsageError: the name is unknown or a folder does not exist.
    """
    training, validation = (image_path / place for place in _training_set(name)[:2])
    folders = (training, valid or validation)
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder} does not exist; {name} must be below {image_path}")
    return [training], folders[1]


def _training_set(name: str) -> TrainingSet:
    if name not in TRAINING_SETS:
        raise UsageError(f"no training set is called {name!r}{did_you_mean(name, TRAINING_SETS)}")
    return TRAINING_SETS[name]


OnProgress = Callable[[int, int], None]
OnSkip = Callable[[str], None]


def ignore(*_: Any) -> None:
    """Do nothing: for callers that need no progress and no notes."""


class _File(NamedTuple):
    path: Path
    name: str  # below its folder
    size: int
    changed: int  # nanoseconds


_PIXELS, _INDEX = "pixels.u8", "index.json"
_SAMPLED = 16  # images that are decoded for a trial


@dataclass(frozen=True)
class ImageStore:
    """Decoded RGB images, each ``[H, W, 3]`` uint8, backed by one memory-mapped file."""

    names: tuple[str, ...]
    images: tuple[NDArray[np.uint8], ...]

    def subset(self, keep: Callable[[str], bool]) -> "ImageStore":
        """Return a view of the images whose names `keep` accepts."""
        chosen = [i for i, name in enumerate(self.names) if keep(name)]
        return ImageStore(tuple(self.names[i] for i in chosen), tuple(self.images[i] for i in chosen))


_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_QUALITIES = 85, 98  # of the JPEG files that cameras and web sites make


class Crops:
    """Random crops of a store, as a recipe asks for them.

    They depend only on the recipe's seed and the step, so any process can make any part of any batch.

    Args:
        store: images, none smaller than the recipe's `crop` on either side.
        recipe: used are its settings from `crop` to `orientations`, and its seed.
    """

    def __init__(self, store: ImageStore, recipe: Recipe) -> None:
        self.store, self.recipe = store, recipe
        areas = np.array(
            [
                recipe.emphasis_of(name) * image.shape[0] * image.shape[1]
                for name, image in zip(store.names, store.images, strict=True)
            ],
            dtype=np.float64,
        )
        self._cumulative = np.cumsum(areas) / areas.sum()
        self.epoch_steps = max(1, len(store.images) * recipe.repeats // recipe.batch)

    def get(self, step: int, first: int = 0, count: int | None = None) -> torch.Tensor:
        """Return `count` crops of the batch of `step`, from `first`, as ``[count, 3, crop, crop]`` uint8."""
        recipe, size = self.recipe, self.recipe.crop
        rng = np.random.default_rng([recipe.seed, step])
        if recipe.sampling == "area":
            indices = np.searchsorted(self._cumulative, rng.random(recipe.batch), side="right")
        else:
            indices = self._of_epoch(*divmod(step, self.epoch_steps))
        places = rng.random((recipe.batch, 2))
        turns, mirrors = rng.integers(4, size=recipe.batch), rng.integers(2, size=recipe.batch)
        if recipe.orientations == 4:
            turns = turns // 2 * 2
        grey = rng.random(recipe.batch) < recipe.grey
        factors = np.where(rng.random(recipe.batch) < recipe.shrunk, 1 + rng.random(recipe.batch), 1.0)
        as_jpeg = rng.random(recipe.batch) < recipe.jpeg
        qualities = rng.integers(*_QUALITIES, endpoint=True, size=recipe.batch)
        corners = rng.integers(8, size=(recipe.batch, 2))
        flat = rng.random(recipe.batch) < recipe.flat
        colours = rng.integers(256, size=(recipe.batch, 2, 3))
        edges = np.maximum(rng.integers(-size, size, size=(recipe.batch, 2)), 0)
        chosen = range(recipe.batch)[first : None if count is None else first + count]
        patches = np.empty((len(chosen), size, size, 3), dtype=np.uint8)
        for row, i in enumerate(chosen):
            image = self.store.images[indices[i]]
            side = min(round(size * factors[i]), *image.shape[:2])
            top, left = (int(places[i, d] * (image.shape[d] - side + 1)) for d in (0, 1))
            patch = image[top : top + side, left : left + side]
            if side > size:
                patch = np.asarray(Image.fromarray(patch).resize((size, size), Image.Resampling.LANCZOS))
            if as_jpeg[i]:
                patch = _after_jpeg(patch, int(qualities[i]), *map(int, corners[i]))
            patch = np.rot90(patch, k=int(turns[i]))
            patches[row] = patch[:, ::-1] if mirrors[i] else patch
            if grey[i]:
                patches[row] = np.rint(patches[row] @ _GREY)[..., None]
            if flat[i]:
                top, left = edges[i]
                patches[row] = colours[i, 0]
                patches[row, top:, left:] = colours[i, 1]
        return torch.from_numpy(patches).permute(0, 3, 1, 2)

    def _of_epoch(self, epoch: int, step: int) -> NDArray[np.int64]:
        recipe, images = self.recipe, len(self.store.images)
        # a different random stream from that of the steps, whose seeds have two numbers
        order = np.random.default_rng([recipe.seed, epoch, 1]).permutation(images * recipe.repeats)
        start = step * recipe.batch
        return np.take(order, range(start, start + recipe.batch), mode="wrap") % images


def _after_jpeg(patch: NDArray[np.uint8], quality: int, top: int, left: int) -> NDArray[np.uint8]:
    """Return ``[h, w, 3]`` after JPEG coding with 4:2:0.

    The first block of 8x8 pixels begins `top` rows and `left` columns before the patch.
    """
    file = io.BytesIO()
    before = np.pad(patch, ((top, 0), (left, 0), (0, 0)), mode="reflect")
    Image.fromarray(before).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    with Image.open(file) as image:
        return np.asarray(image)[top:, left:]


class Prefetcher:
    """Makes batches ahead of time on threads, so that training does not wait for them.

    Args:
        make: step -> batch; called from threads.
        workers: number of threads, and of batches ready in advance; 0 makes each batch on request.
    """

    def __init__(self, make: Callable[[int], torch.Tensor], workers: int) -> None:
        self._make, self._workers = make, workers
        self._pool = ThreadPoolExecutor(workers, "crops") if workers else None
        self._ready: dict[int, Future[torch.Tensor]] = {}

    def get(self, step: int) -> torch.Tensor:
        """Return the batch of `step`, and start the next ones."""
        if self._pool is None:
            return self._make(step)
        ready = self._ready.pop(step, None) or self._pool.submit(self._make, step)
        self._ready = {
            ahead: self._ready.get(ahead) or self._pool.submit(self._make, ahead)
            for ahead in range(step + 1, step + 1 + self._workers)
        }
        return ready.result()

    def close(self) -> None:
        """Stop the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)


def load_store(
    folders: Sequence[Path],
    cache: Path,
    *,
    min_size: int,
    workers: int = 1,
    leave_out: Sequence[Path] = (),
    on_progress: OnProgress = ignore,
    on_skip: OnSkip = ignore,
) -> ImageStore:
    """Decode every image below `folders` into `cache`, or open the cache if the folders are unchanged.

    Args:
        folders: searched recursively for image files.
        cache: folder for the decoded pixels (3 bytes a pixel); created if missing.
        min_size: images smaller than this on either side are skipped.
        workers: number of decoding threads.
        leave_out: folders that are not searched, such as that of the run.
        on_progress: called with (images done, total images) while decoding.
        on_skip: called with one line for each skipped image.

    Raises:
        TrainingError: a folder is missing, no usable image is found, or the cache cannot be written.
    """
    files = _files_below(folders, leave_out, on_skip)
    try:
        entries = _kept(cache, files)
        if entries is None:
            cache.mkdir(parents=True, exist_ok=True)
            entries = _decode(files, cache / _PIXELS, workers, on_progress, on_skip)
            index = {"listing": _listing(files), "entries": entries}
            atomic_write(cache / _INDEX, json.dumps(index).encode())
    except OSError as error:
        raise TrainingError(f"cannot write the picture cache in {cache}: {error.strerror}") from error
    flat = np.memmap(cache / _PIXELS, dtype=np.uint8, mode="r") if entries else np.empty(0, np.uint8)
    ends = itertools.accumulate(height * width * 3 for _, height, width in entries)
    decoded = (
        (name, flat[end - height * width * 3 : end].reshape(height, width, 3))
        for (name, height, width), end in zip(entries, ends, strict=True)
    )
    return _usable(decoded, min_size, on_skip)


def sampled_store(
    folders: Sequence[Path], *, min_size: int, leave_out: Sequence[Path] = (), on_skip: OnSkip = ignore
) -> ImageStore:
    """Return a store for trials: a few images are decoded, and stand for those between them.

    Args:
        folders: see `load_store`, as the other arguments.
        min_size: images smaller than this on either side are skipped, with those that they stand for.
        leave_out: folders that are not searched.
        on_skip: called with one line for each skipped image.

    Raises:
        TrainingError: a folder is missing, or no usable image is found.
    """
    files = _files_below(folders, leave_out, on_skip)
    group = -(-len(files) // _SAMPLED)

    def decoded() -> Iterator[tuple[str, NDArray[np.uint8]]]:
        for first in range(0, len(files), group):
            pixels = _decoded(files[first])
            if isinstance(pixels, str):
                on_skip(pixels)
            else:
                yield from ((file.name, pixels) for file in files[first : first + group])

    return _usable(decoded(), min_size, on_skip)


def imagined_stores(name: str) -> tuple[ImageStore, ImageStore]:
    """Return stores of as many noisy images as a usual training set has, to train and to validate on.

    Raises:
        UsageError: the name is unknown.
    """
    known = _training_set(name)
    noise = np.random.default_rng(0).integers(0, 256, (*known.size, 3), dtype=np.uint8)
    training, validation = (
        ImageStore(tuple(f"{n:04}.png" for n in range(1, count + 1)), (noise,) * count)
        for count in known.counts
    )
    return training, validation


def _files_below(folders: Sequence[Path], leave_out: Sequence[Path], on_skip: OnSkip) -> list[_File]:
    outside = {folder.resolve() for folder in leave_out}
    files = [found for folder in folders for found in _image_files(folder, outside, on_skip)]
    if not files:
        raise TrainingError(f"no pictures found below {', '.join(str(f) for f in folders)}")
    return files


def _usable(decoded: Iterable[tuple[str, NDArray[np.uint8]]], min_size: int, on_skip: OnSkip) -> ImageStore:
    """Return a store of the images that are large enough."""
    images: list[tuple[str, NDArray[np.uint8]]] = []
    for name, pixels in decoded:
        if min(pixels.shape[:2]) >= min_size:
            images.append((name, pixels))
        else:
            height, width = pixels.shape[:2]
            on_skip(f"{name}: {width}x{height} is smaller than the crop of {min_size}")
    if not images:
        raise TrainingError(f"no picture is at least {min_size} pixels on each side")
    names, pixels = zip(*images, strict=True)
    return ImageStore(names, pixels)


def _listing(files: Sequence[_File]) -> list[list[Any]]:
    return [[str(file.path), file.size, file.changed] for file in files]


def _kept(cache: Path, files: Sequence[_File]) -> list[tuple[str, int, int]] | None:
    """Return (name, height, width) of the images in the cache; None if it was made from other files."""
    try:
        index: dict[str, Any] = json.loads((cache / _INDEX).read_text())
        size = sum(height * width * 3 for _, height, width in index["entries"])
        fresh = index["listing"] == _listing(files) and size == (cache / _PIXELS).stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return index["entries"] if fresh else None


def split_held_out(
    store: ImageStore, patterns: Sequence[str], count: int = 8
) -> tuple[ImageStore, ImageStore]:
    """Split into (training, validation): hold out matches of `patterns`, and `count` others, spread evenly.

    Patterns are shell-style and match the path below its folder (``*/IMG_0*``). If fewer than 32 images are
    left, only a quarter of them is held out. With fewer than two images, both parts are the whole store.

    Raises:
        TrainingError: the patterns leave nothing to train on.
    """
    if len(store.names) < 2:
        return store, store
    named = {name for name in store.names if any(fnmatch(name, pattern) for pattern in patterns)}
    if len(named) == len(store.names):
        raise TrainingError(
            f"all {len(named)} pictures are held out ({', '.join(patterns)}): none is left to train on"
        )
    rest = [name for name in store.names if name not in named]
    count = min(count, len(rest) // 4)
    held = named | {rest[i * len(rest) // count] for i in range(count)}
    if not held:
        return store, store.subset(lambda name: name == store.names[0])
    return store.subset(lambda name: name not in held), store.subset(lambda name: name in held)


def _image_files(folder: Path, outside: set[Path], on_skip: OnSkip) -> Iterator[_File]:
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder of pictures")
    root, passed = folder.resolve(), Passed()
    own = tuple(path.relative_to(root).as_posix() for path in outside if path.is_relative_to(root))
    source = replace(open_source(str(folder), INPUT_SUFFIXES), without=own)
    for name, _ in source.pictures(passed):
        try:
            status = (folder / name).stat()
        except OSError as error:  # noqa: PERF203 - it has just been removed
            on_skip(f"{folder / name}: cannot be read ({error.strerror})")
        else:
            yield _File(folder / name, name, status.st_size, status.st_mtime_ns)
    for line in (*passed.problems, *([f"{folder}: {counted(passed.left_out)}"] if passed.left_out else ())):
        on_skip(line)


def _decode(
    files: Sequence[_File], target: Path, workers: int, on_progress: OnProgress, on_skip: OnSkip
) -> list[tuple[str, int, int]]:
    entries: list[tuple[str, int, int]] = []

    def decode_all(out: BinaryIO) -> None:
        threads = max(1, workers)
        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, len(files), 2 * threads):  # a few at a time, because they wait in memory
                group = files[first : first + 2 * threads]
                for done, (file, pixels) in enumerate(zip(group, pool.map(_decoded, group), strict=True), 1):
                    if isinstance(pixels, str):
                        on_skip(pixels)
                    else:
                        out.write(pixels.data)
                        entries.append((file.name, pixels.shape[0], pixels.shape[1]))
                    on_progress(first + done, len(files))

    atomic_write(target, decode_all)
    return entries


def _decoded(file: _File) -> NDArray[np.uint8] | str:
    """Return the pixels of an image, or why it cannot be read."""
    try:
        pixels = read(file.path).pixels
    except ImageError as error:
        return str(error)
    if pixels.dtype != np.uint8:
        pixels = np.round(pixels / 257)
    return np.ascontiguousarray(pixels, dtype=np.uint8)
