"""Let `PIL.Image.open` restore small pictures, in programs that know nothing of `car`.

    from pillow_open import register

    register()
    Image.open("photo.x4.png").size  # that of the original

Pictures without the metadata of a small picture are opened as ever. Restoring takes about half a second for a
megapixel, so use this in viewers and scripts, not in a server that opens pictures of strangers.
"""

import contextlib
from pathlib import Path
from typing import Any

from PIL import Image

import car
from car.pictures.info import read_header


def register() -> None:
    """Replace `Image.open`."""
    plain = Image.open

    def restoring_open(fp: Any, *arguments: Any, **options: Any) -> Image.Image:
        info = None
        if isinstance(fp, (str, Path)):
            with contextlib.suppress(car.CarError):  # Pillow may read what `car` does not
                info = read_header(Path(fp)).info
        return plain(fp, *arguments, **options) if info is None else car.upscale(fp)

    Image.open = restoring_open
