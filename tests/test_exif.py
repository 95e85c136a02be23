"""What results carry on of EXIF."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import car
from car.codec.options import Options
from car.pictures.read import decode
from car.pictures.write import encode
from commandline import run_car

MAKE, COPYRIGHT, ORIENTATION, SOFTWARE, EXIF, GPS = 0x010F, 0x8298, 0x0112, 0x0131, 0x8769, 0x8825
RATING, PERCENT = 0x4746, 0x4749
TAKEN, LENS, EXPOSURE, NOTE, SPACE, SERIAL = 0x9003, 0xA434, 0x829A, 0x927C, 0xA001, 0xA431
PLACE = {1: "N", 2: (48.0, 8.0, 14.0), 3: "E", 4: (11.0, 34.0, 31.0)}


def photo(kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif.update({MAKE: "Maker", COPYRIGHT: "A. Nobody", ORIENTATION: 6, SOFTWARE: "secret tool"})
    exif.update({RATING: 4, PERCENT: 75})
    exif[EXIF] = {
        TAKEN: "2026:11:28 09:00:00",
        LENS: "50mm",
        EXPOSURE: 0.005,
        NOTE: b"n",
        SPACE: 2,
        SERIAL: "S1",
    }
    exif[GPS] = PLACE
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, exif=exif.tobytes())
    return file.getvalue()


def tags(content: bytes) -> Image.Exif:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.getexif()


@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("format", ["jpg", "png", "webp", "tiff", "avif"])
def test_what_is_carried_from_format_to_format(source: str, format: str) -> None:
    content = photo(source)
    for how in ("none", "keep", "all"):
        options = Options(exif=how)  # type: ignore[arg-type]
        small = car.downscale(content, 2, format=format, options=options)  # type: ignore[call-overload]
        assert decode(small, "small").info is not None
        large = car.upscale(small, format=format, options=options)  # type: ignore[call-overload]
        for made in (small, large):
            found = tags(made)
            camera, place = found.get_ifd(EXIF), found.get_ifd(GPS)
            assert ORIENTATION not in found or found[ORIENTATION] == 1
            assert SPACE not in camera
            assert NOTE not in camera
            assert (found.get(MAKE), found.get(COPYRIGHT)) == (
                (None, None) if how == "none" else ("Maker", "A. Nobody")
            )
            assert camera.get(TAKEN) == (None if how == "none" else "2026:11:28 09:00:00")
            assert camera.get(LENS) == (None if how == "none" else "50mm")
            assert (camera.get(EXPOSURE) == pytest.approx(0.005)) == (how != "none")
            assert (found.get(SOFTWARE) == "secret tool") == (camera.get(SERIAL) == "S1") == (how == "all")
            assert dict(place) == (PLACE if how == "all" else {})
            assert (found.get(RATING), found.get(PERCENT)) == ((4, 75) if how == "all" else (None, None))
            assert (b"secret" in made) == (how == "all")
        with Image.open(io.BytesIO(large)) as image:
            assert image.size == (64, 96)  # turned upright once


def test_deep_pictures_and_formats_without_exif() -> None:
    picture = decode(photo(), "photo")
    codec = car.open("car_plus_x2", options=Options(exif="keep"))
    small, info = codec.shrink(picture)
    deep = type(small)(
        small.pixels.astype(np.uint16) * 257, None, False, None, None, (), carried=small.carried
    )
    for name in ("a.png", "a.tif"):
        content, _ = encode(deep, name, info=info)
        assert tags(content)[MAKE] == "Maker"
        assert decode(content, name).pixels.dtype == np.uint16
    assert any("cannot carry EXIF" in note for note in encode(small, "a.bmp", info=info)[1])


def test_damaged_exif_is_left_out() -> None:
    content = photo()
    at = content.find(b"Exif\0\0")
    broken = content[: at + 10] + b"\xff" * 40 + content[at + 50 :]
    small = car.downscale(broken, 2, format="jpg", options=Options(exif="all"))
    assert GPS not in tags(small)


def test_pil_images_carry_it(tmp_path: Path) -> None:
    with Image.open(io.BytesIO(photo())) as image:
        small = car.downscale(image, 2, options=Options(exif="keep"))
    for name in ("a.jpg", "a.png", "a.webp", "a.tif", "a.avif"):
        small.save(tmp_path / name)
        found = tags((tmp_path / name).read_bytes())
        assert (found[MAKE], found.get_ifd(EXIF)[LENS]) == ("Maker", "50mm")
        assert GPS not in found


def test_the_commands(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(photo())
    for command in (("downscale", tmp_path / "in", "-o"), ("bulk", "downscale", tmp_path / "in")):
        for how in ("none", "keep", "all"):
            out = tmp_path / f"{command[0]}-{how}"
            done = run_car(*command, out, "-s", 2, "--exif", how)
            assert done.returncode == 0, done.stderr
            (file,) = (path for path in out.rglob("*.png") if path.is_file())
            assert (MAKE in tags(file.read_bytes())) == (how != "none")
            assert (GPS in tags(file.read_bytes())) == (how == "all")
    done = run_car("downscale", tmp_path / "in/a.jpg", "--exif", "some")
    assert done.returncode == 2
