"""Training images: decoded once into a memory-mapped file, random crops from there."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from car.errors import ImageError, TrainingError
from car.images import atomic_write, is_supported_input, read


@dataclass(frozen=True)
class ImageStore:
    """Decoded RGB images, each ``[H, W, 3]`` uint8, backed by one memory-mapped file."""

    names: tuple[str, ...]
    images: tuple[NDArray[np.uint8], ...]

    def subset(self, keep: Callable[[str], bool]) -> "ImageStore":
        """Return a view of the images whose name `keep` accepts."""
        chosen = [i for i, name in enumerate(self.names) if keep(name)]
        return ImageStore(tuple(self.names[i] for i in chosen), tuple(self.images[i] for i in chosen))

    def sample(self, rng: np.random.Generator, batch: int, crop: int) -> torch.Tensor:
        """Return random crops ``[batch, 3, crop, crop]``, uint8, in one of the eight orientations each.

        Images are drawn in proportion to their area, so that every region is as likely as any other.
        """
        areas = np.array([image.shape[0] * image.shape[1] for image in self.images], dtype=np.float64)
        patches = np.empty((batch, crop, crop, 3), dtype=np.uint8)
        for i, index in enumerate(rng.choice(len(self.images), size=batch, p=areas / areas.sum())):
            image = self.images[index]
            top = rng.integers(image.shape[0] - crop + 1)
            left = rng.integers(image.shape[1] - crop + 1)
            patch = np.rot90(image[top : top + crop, left : left + crop], k=int(rng.integers(4)))
            patches[i] = patch[:, ::-1] if rng.integers(2) else patch
        return torch.from_numpy(patches).permute(0, 3, 1, 2)


def load_store(
    folders: Sequence[Path],
    cache: Path,
    *,
    min_size: int,
    on_progress: Callable[[int, int], None] | None = None,
    on_skip: Callable[[str], None] | None = None,
) -> ImageStore:
    """Decode every image below `folders` into `cache`, or open what is there if the folders are unchanged.

    Args:
        folders: searched recursively for image files.
        cache: folder for the decoded pixels (3 bytes a pixel), made where missing.
        min_size: images smaller than this on either side are skipped.
        on_progress: called with (images done, images in all) while decoding.
        on_skip: called with one line for each image that was left out.

    Raises:
        TrainingError: a folder is missing, no usable image is found or the cache cannot be written.
    """
    files = [(path, name) for folder in folders for path, name in _image_files(folder)]
    if not files:
        raise TrainingError(f"no images found below {', '.join(str(f) for f in folders)}")
    listing = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path, _ in files]
    pixels_path, index_path = cache / "pixels.u8", cache / "index.json"
    try:
        index: dict[str, Any] = json.loads(index_path.read_text())
        fresh = index["listing"] == listing
    except (OSError, ValueError, KeyError):
        index, fresh = {}, False
    if not fresh:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            entries = _decode(files, pixels_path, on_progress, on_skip)
            index = {"listing": listing, "entries": entries}
            index_path.write_text(json.dumps(index))
        except OSError as error:
            raise TrainingError(f"cannot write the image cache in {cache}: {error.strerror}") from error
    flat = np.memmap(pixels_path, dtype=np.uint8, mode="r") if index["entries"] else np.empty(0, np.uint8)
    names: list[str] = []
    images: list[NDArray[np.uint8]] = []
    offset = 0
    for name, height, width in index["entries"]:
        end = offset + height * width * 3
        if min(height, width) >= min_size:
            names.append(name)
            images.append(flat[offset:end].reshape(height, width, 3))
        elif on_skip:
            on_skip(f"{name}: {width}x{height} is smaller than the crop of {min_size}")
        offset = end
    if not images:
        raise TrainingError(f"no image is at least {min_size} pixels on each side")
    return ImageStore(tuple(names), tuple(images))


def split_held_out(
    store: ImageStore, patterns: Sequence[str], count: int = 8
) -> tuple[ImageStore, ImageStore]:
    """Split into (training, validation): what matches `patterns`, and `count` more spread over the rest.

    Patterns are shell-style and match the path below its folder (``*/IMG_0*``). At least one image is
    left for training; with fewer than two images both parts are the whole.
    """
    if len(store.names) < 2:
        return store, store
    named = {name for name in store.names if any(fnmatch(name, pattern) for pattern in patterns)}
    rest = [name for name in store.names if name not in named]
    count = min(count, len(rest) // 4)
    held = named | {rest[i * len(rest) // count] for i in range(count)}
    if not held or len(held) == len(store.names):
        return store, store.subset(lambda name: name == store.names[0])
    return store.subset(lambda name: name not in held), store.subset(lambda name: name in held)


def _image_files(folder: Path) -> list[tuple[Path, str]]:
    if not folder.is_dir():
        raise TrainingError(f"{folder} is not a folder of images")
    found = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
    return [
        (path, path.relative_to(folder).as_posix())
        for path in sorted(found)
        if is_supported_input(path) and not path.name.startswith(".")
    ]


def _decode(
    files: Sequence[tuple[Path, str]],
    target: Path,
    on_progress: Callable[[int, int], None] | None,
    on_skip: Callable[[str], None] | None,
) -> list[tuple[str, int, int]]:
    entries: list[tuple[str, int, int]] = []

    def decode_all(out: BinaryIO) -> None:
        for done, (path, name) in enumerate(files, start=1):
            try:
                pixels = read(path).pixels
                if pixels.dtype != np.uint8:
                    pixels = np.round(pixels / 257).astype(np.uint8)
                out.write(np.ascontiguousarray(pixels).tobytes())
                entries.append((name, pixels.shape[0], pixels.shape[1]))
            except ImageError as error:
                if on_skip:
                    on_skip(str(error))
            if on_progress:
                on_progress(done, len(files))

    atomic_write(target, decode_all)
    return entries
