"""Tiles cover the image once and see as far as they must."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car.codec.tiling import TINY, Axis, split

sizes = st.integers(1, 60)


@given(sizes, sizes, st.integers(1, 40), st.integers(0, 20), st.sampled_from([1, 2, 4, 8]))
def test_cores_cover_once_and_windows_reach_the_halo(
    height: int, width: int, tile: int, halo: int, align: int
) -> None:
    height, width = height * align, width * align
    covered = np.zeros((height, width), int)
    for t in split(height, width, tile, halo, align):
        covered[t.core.slices] += 1
        for low, high, core_low, core_high, length in (
            (t.window.top, t.window.bottom, t.core.top, t.core.bottom, height),
            (t.window.left, t.window.right, t.core.left, t.core.right, width),
        ):
            assert 0 <= low <= max(0, core_low - halo)
            assert min(length, core_high + halo) <= high <= length
            assert low % align == core_low % align == core_high % align == high % align == 0
    assert (covered == 1).all()


@given(sizes, sizes, st.integers(1, 40), st.integers(0, 20), st.sampled_from([1, 2, 4]))
def test_joining_gives_the_whole(height: int, width: int, tile: int, halo: int, scale: int) -> None:
    image = np.arange(height * width).reshape(height, width)
    expected = image.repeat(scale, 0).repeat(scale, 1)
    joined = np.full_like(expected, -1)
    for t in split(height, width, tile, halo):
        enlarged = image[t.window.slices].repeat(scale, 0).repeat(scale, 1)
        joined[t.core_scaled(scale, 1).slices] = enlarged[t.core_in_window(scale, 1).slices]
    assert (joined == expected).all()


def test_small_images_are_one_tile() -> None:
    (only,) = split(100, 80, tile=512, halo=20)
    assert only.core == only.window


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 40))
def test_only_tiny_axes_are_continued_on_both_sides_and_what_is_kept_is_the_image(
    length: int, cell: int, tile: int
) -> None:
    cells = -(-length // cell)
    axis = Axis.of(length, cells * cell, cell)
    assert (axis.before > 0) == (cells < TINY)
    seen = np.concatenate(
        [
            axis.places(top, min(top + tile * cell, axis.padded))[axis.kept(top, top + tile * cell, 1, 1)]
            for top in range(0, axis.padded, tile * cell)
        ]
    )
    assert (seen == np.minimum(np.arange(cells * cell), length - 1)).all()
    around = axis.places(0, axis.padded)
    assert around[0] == 0
    assert around[-1] == length - 1
    # LR pixels that continue an LR picture are those that the continued cells make
    small = Axis.of(cells, cells, 1)
    assert (around[::cell] // cell == small.places(0, small.padded)).all()


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        list(split(12, 8, tile=8, halo=0, align=8))
    with pytest.raises(ValueError, match="positive"):
        list(split(0, 8, tile=8, halo=0))
    with pytest.raises(ValueError, match="tile must be positive"):
        list(split(8, 8, tile=0, halo=0))
