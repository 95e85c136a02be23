"""Strips from files and into files give what whole pictures give."""

import io
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import car
from car.codec.codec import Codec
from car.codec.large import memory_at_hand, memory_of, restore_file, shrink_file
from car.codec.options import Options
from car.codec.watching import watched
from car.errors import ImageError, UsageError
from car.families import architecture
from car.pictures.alpha import without_hidden
from car.pictures.info import read_header
from car.pictures.picture import Picture
from car.pictures.read import decode, read
from car.pictures.rows import RowBuffer
from car.pictures.strips import open_strips
from test_images import claiming_tiff

ALWAYS, NEVER = 0, 10**12  # bytes of memory with which everything goes in strips, or nothing does


@pytest.fixture(scope="module")
def codec():
    return Codec(car.load("car_plus_x4"), Options(device="cpu", tile=32))


def scene(height, width, dtype=np.uint8):
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 7 + y / 23), np.cos(y / 5), np.sin((x + y) / 11)], axis=2)
    noise = np.random.default_rng(0).normal(scale=0.1, size=(height, width, 3))
    return np.round((waves + noise + 2) / 4 * 255).clip(0, 255).astype(dtype) * (
        257 if dtype == np.uint16 else 1
    )


LAYOUTS = {
    "strips": {"rowsperstrip": 17, "compression": "zlib"},
    "tiles": {"tile": (64, 48), "compression": "lzw", "predictor": True},
    "plain": {"rowsperstrip": 40},
    "bigtiff": {"rowsperstrip": 64, "bigtiff": True},
    "big endian": {"rowsperstrip": 32, "byteorder": ">"},
}


# three rows of tiles and two columns
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [*((layout, np.uint8) for layout in LAYOUTS), ("tiles", np.uint16), ("big endian", np.uint16)],
)
def test_tiff_in_strips_is_what_the_whole_is(tmp_path, codec, layout, dtype):
    source = tmp_path / "large.tif"
    tifffile.imwrite(source, scene(275, 141, dtype), photometric="rgb", **LAYOUTS[layout])
    shrink_file(codec, source, tmp_path / "whole.png", memory=NEVER)
    done = shrink_file(codec, source, tmp_path / "strips.png", memory=ALWAYS)
    whole, strips = read(tmp_path / "whole.png"), read(tmp_path / "strips.png")
    assert not done.notes
    assert (done.source_size, done.target_size) == ((141, 275), (36, 69))
    assert strips.info == whole.info
    assert strips.pixels.dtype == dtype
    assert np.array_equal(strips.pixels, whole.pixels)

    restore_file(codec, strips, tmp_path / "whole.tif", memory=NEVER)
    restore_file(codec, strips, tmp_path / "strips.tif", memory=ALWAYS)
    whole, strips = tifffile.imread(tmp_path / "whole.tif"), tifffile.imread(tmp_path / "strips.tif")
    assert strips.shape == (275, 141, 3)
    assert strips.dtype == dtype
    assert np.array_equal(strips, whole)


@pytest.mark.parametrize("scale", [4, 3.3])
def test_work_in_strips_is_told(tmp_path, codec, scale):
    seen = []
    tifffile.imwrite(tmp_path / "a.tif", scene(300, 290), photometric="rgb", rowsperstrip=16)
    with watched(lambda what, done, parts: seen.append((what, done, parts))):
        shrink_file(codec.at(scale), tmp_path / "a.tif", tmp_path / "small.png", memory=ALWAYS)
        small = read(tmp_path / "small.png")
        restore_file(codec.at(scale), small, tmp_path / "b.tif", memory=ALWAYS)
    for what in ("shrinking", "restoring"):
        told = [(done, parts) for it, done, parts in seen if it == what]
        most = max(parts for _, parts in told)  # the search for how it was turned restores pieces
        assert most > 3
        assert [done for done, parts in told if parts == most] == list(range(most + 1))


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_grey_strips(tmp_path, codec, photometric):
    source = tmp_path / "grey.tif"
    tifffile.imwrite(source, scene(203, 131)[:, :, 0], photometric=photometric, rowsperstrip=20)
    shrink_file(codec, source, tmp_path / "whole.png", memory=NEVER)
    shrink_file(codec, source, tmp_path / "strips.png", memory=ALWAYS)
    small = read(tmp_path / "strips.png")
    assert np.array_equal(small.pixels, read(tmp_path / "whole.png").pixels)
    assert small.info is not None
    assert small.info.grey
    restore_file(codec, small, tmp_path / "restored.tif", memory=ALWAYS)
    restored = read(tmp_path / "restored.tif")
    assert restored.grey
    assert np.array_equal(restored.pixels, codec.restore(small).pixels)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_other_formats_by_pyvips(tmp_path, codec, suffix):
    pytest.importorskip("pyvips")
    source = tmp_path / f"large.{suffix}"
    Image.fromarray(scene(275, 141)).save(source, quality=95)
    shrink_file(codec, source, tmp_path / "whole.png", memory=NEVER)
    done = shrink_file(codec, source, tmp_path / "strips.png", memory=ALWAYS)
    assert not done.notes
    whole, strips = (read(tmp_path / f"{name}.png").pixels.astype(int) for name in ("whole", "strips"))
    # the decoders may differ by a rounding where colours are interpolated
    assert np.abs(whole - strips).max() <= (0 if suffix == "png" else 2)


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_damaged_jpeg_is_judged_in_strips_as_in_one_piece(tmp_path, mode, how):
    pytest.importorskip("pyvips")
    file = io.BytesIO()
    Image.fromarray(scene(240, 200)).convert(mode).save(file, "JPEG", quality=90, **how)
    good = file.getvalue()
    middle = good.find(b"\xff\xda") + 200
    path = tmp_path / "a.jpg"
    for content in (
        good,
        good + bytes(100),
        good[:-2],
        good[:-1],
        good[: len(good) // 2],
        good[:middle] + bytes(40) + good[middle + 40 :],
        good[:-200] + bytes(100) + good[-100:],
    ):
        path.write_bytes(content)
        whole, strips = read_both_ways(path)
        if isinstance(whole, str):
            assert strips == whole
        else:
            assert set(strips.notes) == set(whole.notes)
            assert np.abs(strips.pixels.astype(int) - whole.pixels).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_file_that_was_written_anew_is_read_anew(tmp_path, suffix):
    pytest.importorskip("pyvips")
    path = tmp_path / f"a.{suffix}"
    for seed in range(2):
        Image.fromarray(np.roll(scene(96, 80), 40 * seed, axis=1)).save(path)
        whole, strips = read_both_ways(path)
        assert np.abs(strips.pixels.astype(int) - whole.pixels).max() <= 2


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("how", [{}, {"subsampling": "4:4:4"}, {"quality": 30}])
def test_avif_in_strips_has_the_pixels_of_the_whole(tmp_path, mode, how):
    pytest.importorskip("pyvips")
    colours = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    Image.fromarray(colours).resize((88, 300)).convert(mode).save(tmp_path / "a.avif", **how)
    whole, strips = read_both_ways(tmp_path / "a.avif")
    assert np.array_equal(strips.pixels, whole.pixels)
    assert strips.notes == whole.notes


def read_both_ways(path):
    """Return the picture read whole and in strips, each as `Picture` or the message of the error."""

    def in_strips(path):
        with open_strips(path) as strips:
            pixels = np.concatenate(list(strips.blocks))
            return Picture(pixels, None, strips.grey, None, None, tuple(strips.samples.notes))

    found = []
    for way in (read, in_strips):
        try:
            found.append(way(path))
        except ImageError as error:  # noqa: PERF203
            found.append(str(error))
    return found


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("alpha.tif", {"extrasamples": ["unassalpha"]}, "it has transparency"),
        ("turned.tif", {"extratags": [(274, 3, 1, 6, True)]}, "it is stored turned"),
        ("apart.tif", {"planarconfig": "separate"}, "its colours are stored apart"),
    ],
)
def test_what_cannot_come_in_strips_is_refused_beyond_the_memory(tmp_path, codec, name, options, reason):
    array = scene(64, 48)
    if "extrasamples" in options:
        array = np.dstack([array, np.full((64, 48), 200, np.uint8)])
    if options.get("planarconfig") == "separate":
        array = np.moveaxis(array, 2, 0)
    tifffile.imwrite(tmp_path / name, array, photometric="rgb", rowsperstrip=8, **options)
    size = "64x48" if name == "turned.tif" else "48x64"  # upright
    with pytest.raises(
        ImageError, match=rf"{name}: {size} pixels take about .*, because {reason}: raise --memory"
    ):
        shrink_file(codec, tmp_path / name, tmp_path / "small.png", memory=ALWAYS)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    shrink_file(codec, tmp_path / name, tmp_path / "small.png", memory=NEVER)
    assert read(tmp_path / "small.png").info is not None


def test_a_damaged_strip_leaves_nothing(tmp_path, codec):
    source = tmp_path / "large.tif"
    tifffile.imwrite(source, scene(275, 141), photometric="rgb", rowsperstrip=16, compression="zlib")
    content = bytearray(source.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    source.write_bytes(content)
    with pytest.raises(ImageError, match=r"large\.tif: cannot be read"):
        shrink_file(codec, source, tmp_path / "small.png", memory=ALWAYS)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("kind", ["turned by 180", "turned by 90", "transparent"])
def test_what_cannot_be_restored_in_strips_is_refused_beyond_the_memory(tmp_path, codec, kind):
    made, info = codec.shrink(Picture(scene(160, 120), None, False, None, None, ()))
    orientation = {"turned by 180": 3, "turned by 90": 6}.get(kind, 1)
    small = replace(made.turn(orientation), info=info, turned=orientation)
    if kind == "transparent":
        small = replace(small, alpha=np.full(small.pixels.shape[:2], 200, np.uint8))
    why = "has transparency" if kind == "transparent" else "was turned"
    with pytest.raises(
        ImageError, match=rf"large\.tif: .* raise --memory, as it {why} and cannot be restored"
    ):
        restore_file(codec, small, tmp_path / "large.tif", memory=ALWAYS)
    assert not list(tmp_path.iterdir())
    restore_file(codec, small, tmp_path / "large.tif", memory=NEVER)
    whole = codec.restore(replace(made, info=info)).turn(orientation)
    np.testing.assert_array_equal(read(tmp_path / "large.tif").pixels, whole.pixels)


def test_effort_does_not_exceed_the_memory_silently(tmp_path):
    pytest.importorskip("torch")
    tifffile.imwrite(tmp_path / "large.tif", scene(160, 120), photometric="rgb", rowsperstrip=8)
    codec = car.open("car_plus_x4", options=car.Options(effort=1))
    with pytest.raises(ImageError, match=r"because --effort needs the whole picture: raise --memory"):
        shrink_file(codec, tmp_path / "large.tif", tmp_path / "small.png", memory=ALWAYS)


def test_what_a_picture_takes_while_it_is_read_stays_below_what_is_reckoned():
    """Of NumPy's arrays alone; what decoders of other libraries take comes in addition."""
    height, width = 1200, 1000
    rng = np.random.default_rng(0)
    alpha = rng.integers(0, 2, (height, width, 1), np.uint8) * np.uint8(255)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    for array in (rgb, np.dstack([rgb, alpha]), rgb * np.uint16(257), (rgb / 255).astype(np.float32)):
        buffer = io.BytesIO()
        extra = ["unassalpha"] if array.shape[2] == 4 else None
        tifffile.imwrite(buffer, array, photometric="rgb", extrasamples=extra)
        content = buffer.getvalue()
        reckoned = memory_of(width, height, read_header(content).pixel_bytes)
        tracemalloc.start()
        picture = decode(content, "a.tif")
        without_hidden(picture.pixels, picture.alpha, weighted=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < reckoned


def test_a_failing_restoration_leaves_nothing(tmp_path, codec, monkeypatch):
    small = Picture(scene(160, 40), None, False, None, None, ())
    upscale, calls = codec.engine.upscale, []

    def fail_later(lr):
        calls.append(lr)
        if len(calls) > 2:
            raise RuntimeError("out of luck")
        return upscale(lr)

    monkeypatch.setattr(codec.engine, "upscale", fail_later)
    with pytest.raises(ImageError, match=r"large\.tif: cannot be written \(out of luck\)"):
        restore_file(codec, small, tmp_path / "large.tif", memory=ALWAYS)
    assert list(tmp_path.iterdir()) == []


def test_only_tiff_is_written_in_strips(tmp_path, codec):
    small = Picture(scene(90, 40), None, False, None, None, ())
    with pytest.raises(ImageError, match=r"160x360 pixels take about .* restore to a \.tif file"):
        restore_file(codec, small, tmp_path / "large.png", memory=ALWAYS)


def test_a_format_that_has_no_room_is_refused_before_the_work(tmp_path, codec, monkeypatch):
    monkeypatch.setattr(Codec, "downscale_strips", None)
    monkeypatch.setattr(Codec, "upscale_strips", None)
    Image.new("RGB", (65540, 3)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="WEBP holds at most 16383 pixels a side, not 16385x1"):
        shrink_file(codec, tmp_path / "a.png", tmp_path / "a.webp", memory=NEVER)
    small = Picture(np.zeros((2, 4096, 3), np.uint8), None, False, None, None, ())
    with pytest.raises(ImageError, match="WEBP holds at most 16383 pixels a side, not 16384x8"):
        restore_file(codec, small, tmp_path / "a.webp", memory=NEVER)


def test_existing_files_are_kept(tmp_path, codec):
    small = Picture(scene(90, 40), None, False, None, None, ())
    (tmp_path / "large.tif").write_bytes(b"mine")
    with pytest.raises(ImageError, match="exists"):
        restore_file(codec, small, tmp_path / "large.tif", memory=ALWAYS, overwrite=False)
    assert (tmp_path / "large.tif").read_bytes() == b"mine"


def test_too_many_pixels_are_refused_before_they_are_read(tmp_path, codec):
    source = tmp_path / "bomb.tif"
    tifffile.imwrite(source, shape=(60_000, 60_000, 3), dtype=np.uint8, photometric="rgb", rowsperstrip=16)
    with source.open("r+b") as file:  # only the header's claim matters
        file.truncate(1_000_000)
    with pytest.raises(ImageError, match="60000 x 60000 pixels is over the limit"):
        shrink_file(codec, source, tmp_path / "small.png", memory=ALWAYS)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 20)), min_size=1, max_size=8),
)
def test_row_buffer_gives_any_window_that_moves_down(blocks, moves):
    whole = np.arange(sum(blocks))[:, None, None] * np.ones((1, 2, 3), int)
    edges = np.cumsum([0, *blocks])
    rows = RowBuffer(whole[a:b] for a, b in pairwise(edges))
    top = bottom = 0
    for step, length in moves:
        top, bottom = min(top + step, len(whole) - 1), max(bottom, min(top + step + length, len(whole)))
        bottom = max(bottom, top + 1)
        assert np.array_equal(rows(top, bottom), whole[top:bottom])
    with pytest.raises(ImageError, match="ends before"):
        rows(top, len(whole) + 1)


def test_tiles_follow_the_memory():
    model = architecture("car_plus_x4")
    sides = [Options(memory=4 * memory).tile_for(model) for memory in (10**7, 10**8, 2 * 10**8, 10**10)]
    assert sides == sorted(sides)
    assert sides[0] == 64
    assert sides[-1] == 512
    assert 64 < Options(memory=4 * 10**8).tile_for(architecture("car_plus_x2")) < 512
    assert Options(tile=100, memory=1).tile_for(model) == 100


def test_memory_at_hand_is_some_of_what_the_machine_has():
    assert 64 * 2**20 <= memory_at_hand() < 2**45
    with pytest.raises(UsageError):
        Codec(car.load("car_plus_x4"), Options(device="cpu", tile=0))


def test_a_tile_far_larger_than_its_picture_is_not_read_in_strips_either(codec, tmp_path):
    for side, path in ((65536, tmp_path / "huge.tif"), (512, tmp_path / "usual.tif")):
        path.write_bytes(claiming_tiff((100, 100), 1, 16, tile=(side, side)))
    with pytest.raises(ImageError, match=r"huge\.tif: tiles of 65536 x 65536 are too large"):
        shrink_file(codec, tmp_path / "huge.tif", tmp_path / "small.png", memory=ALWAYS)
    assert shrink_file(codec, tmp_path / "usual.tif", tmp_path / "small.png", memory=ALWAYS).target_size == (
        25,
        25,
    )
