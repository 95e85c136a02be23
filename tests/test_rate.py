"""Rate and distortion beside codecs."""

import csv
import io
import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from car.codec.choose import open_codec
from car.codec.codec import Codec
from car.measure.rate import (
    FEW,
    QUALITIES,
    bd_rate,
    curves,
    gain_at_equal_bytes,
    hull,
    installed_coders,
    point_count,
    points,
    settings_of,
)
from car.measure.rate_report import summary_of, tables
from car.pictures.formats import coding_options
from car.pictures.read import from_pil
from commandline import run_car

DENSE = settings_of(("JPEG",), dense=True)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    with Image.open(Path(__file__).parents[1] / "examples/street.webp") as image:
        image.convert("RGB").crop((200, 200, 392, 392)).save(path)
    return path


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_car("rate", *arguments)


def test_points_are_those_of_the_files(photo: Path) -> None:
    picture = from_pil(Image.open(photo))
    found = list(points(picture, "street", [], [], qualities=DENSE))
    assert len(found) == point_count(0, 0, 0, DENSE) == 2 * len(QUALITIES["JPEG"])
    for one in found:
        buffer = io.BytesIO()
        subsampling = "4:2:0" if one.point.quality < 90 else "4:4:4"
        image = Image.fromarray(picture.pixels)
        how = {"quality": one.point.quality}
        if one.point.method == "tuned":
            how = {"qtables": coding_options("JPEG", one.point.quality, restored=True)["qtables"]}
        image.save(buffer, "JPEG", subsampling=subsampling, optimize=True, **how)
        assert one.point.bytes == buffer.tell()
        assert one.point.bpp == 8 * buffer.tell() / 192**2
        back = np.asarray(Image.open(buffer)).astype(float)
        mse = np.square(back - picture.pixels).mean()
        assert one.point.psnr_rgb == pytest.approx(10 * math.log10(255**2 / mse))
        assert 0 < one.point.ms_ssim <= 1
    for curve, name in zip(curves(one.point for one in found), ("JPEG", "JPEG, our settings"), strict=True):
        assert curve.bpp == tuple(sorted(curve.bpp))
        assert curve.name == name


def test_each_model_shrinks_a_picture_once(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = open_codec("car_codec_x2")
    picture = from_pil(Image.open(photo))
    qualities = {"JPEG": (20, 60), "WEBP": (30,)}
    apart = [
        one.point.bytes
        for coder, row in qualities.items()
        for quality in row
        for one in points(picture, "a", [codec], [], qualities={coder: (quality,)})
        if one.point.method == codec.loaded.name
    ]
    made: list[str] = []
    shrink = Codec.shrink

    def counted(self: Codec, picture: Any) -> Any:
        made.append(self.loaded.name)
        return shrink(self, picture)

    monkeypatch.setattr(Codec, "shrink", counted)
    found = [one.point for one in points(picture, "a", [codec], [codec], qualities=qualities)]
    assert len(found) == point_count(1, 1, 1, qualities)
    assert made == [codec.loaded.name] * 2  # for lossy and for lossless files
    ours = [p.bytes for p in found if p.method == codec.loaded.name and p.quality]
    assert ours == apart
    assert settings_of(("AVIF",)).items() <= FEW.items()
    assert all(set(FEW[coder]) <= set(QUALITIES[coder]) for coder in QUALITIES)


def test_half_the_bytes_are_minus_fifty_per_cent() -> None:
    anchor = [(0.1 * 2**n, 25.0 + 3 * n + 0.1 * n**2) for n in range(6)]
    half = [(rate / 2, quality) for rate, quality in anchor]
    assert bd_rate(half, anchor) == pytest.approx(-50)
    assert bd_rate(anchor, half) == pytest.approx(100)
    assert math.isnan(bd_rate(anchor[:3], anchor))
    assert math.isnan(bd_rate([(r, q + 90) for r, q in anchor], anchor))


def test_gains_are_read_off_in_log_rate(photo: Path) -> None:
    found = [one.point for one in points(from_pil(Image.open(photo)), "a", [], [], qualities=DENSE)]
    curve, _ = curves(found)
    assert gain_at_equal_bytes(curve, curve) == pytest.approx([0] * len(curve.bpp), abs=1e-9)
    rates = list(curve.bpp)
    between = (rates[3] * rates[4]) ** 0.5
    middle: Any = type(curve)(
        "x", 2, "JPEG", (1,), (between,), ((curve.psnr[3] + curve.psnr[4]) / 2 + 1,), *[(0.0,)] * 5
    )
    assert gain_at_equal_bytes(middle, curve) == pytest.approx([1.0])
    # no file of the coder is as small as these: what it gains on the smallest is the least it can gain
    for psnr, least in ((curve.psnr[0] + 2, 2.0), (curve.psnr[0] - 2, math.nan)):
        smaller = replace(middle, bpp=(rates[0] / 2,), psnr=(psnr,))
        assert gain_at_equal_bytes(smaller, curve) == pytest.approx([least], nan_ok=True)
        (row,) = summary_of([curve, smaller])["differences"]
        assert row["gain_at_least"] == [1]
        assert (f"at least {least:+.2f}" in tables(summary_of([curve, smaller]))) == (least > 0)
    assert hull([curve, middle])[0] == (rates[0], curve.psnr[0])
    assert (between, middle.psnr[0]) in hull([curve, middle])


def test_the_command_and_its_page(photo: Path, tmp_path: Path, browser: Any) -> None:
    out = tmp_path / "rate"
    done = run(photo, "--scale", 2, "--coder", "JPEG", "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = list(csv.DictReader((out / "points.csv").open()))
    assert len(rows) == point_count(1, 1, 1, settings_of(("JPEG",)))
    # the model's files carry the metadata, and bits count them
    ours = [row for row in rows if row["method"] == "car_codec_x2"]
    assert all(float(row["bpp"]) == 8 * int(row["bytes"]) / 192**2 for row in ours)
    assert {row["name"] for row in result["differences"]} == {
        "JPEG, our settings",
        "bicubic 2x + JPEG",
        "car_codec_x2 + JPEG",
    }
    assert "| car_codec_x2 + JPEG | 50 |" in (out / "tables.md").read_text()
    context = browser.new_context(offline=True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((out / "index.html").as_uri())
    look = page.locator(".look").first
    look.wait_for()
    shown = [look.locator(f".pair .{side}").get_attribute("alt") or "" for side in ("left", "right")]
    assert [name.split(": ")[0] for name in shown] == ["JPEG", "car_codec_x2 2x + JPEG"]
    page.locator(".look select").first.select_option(index=0)
    assert page.locator(".look .left").first.get_attribute("alt") == "original"
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert problems == []
    context.close()
    again = run(photo, "-o", out)
    assert again.returncode == 1
    assert "--overwrite" in again.stderr


def test_one_bad_image_does_not_end_the_work(photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    Image.open(photo).convert("L").crop((0, 0, 80, 72)).save(folder / "grey.png")
    (folder / "broken.png").write_bytes(b"no picture")
    done = run(folder, "--scale", 4, "--coder", "jpg", "-o", tmp_path / "out")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "broken.png" in line
    rows = list(csv.DictReader((tmp_path / "out" / "points.csv").open()))
    assert {row["image"] for row in rows} == {"grey.png"}
    assert {row["ms_ssim"] for row in rows} == {"nan"}  # too small for five scales
    assert "nan" not in (tmp_path / "out/index.html").read_text().split("All curves")[1].split("</table>")[0]


def test_weights_of_one_model_have_a_curve_each(photo: Path) -> None:
    first = open_codec("car_codec_x2")
    second = Codec(replace(first.loaded, sha256="1" * 64, tag="car_codec_x2.v99"))
    own = Codec(replace(first.loaded, tag=None))
    other = Codec(replace(first.loaded, sha256="0" * 64, tag=None))
    picture = from_pil(Image.open(photo))

    def methods(*coded: Codec) -> dict[str, float]:
        found = curves(one.point for one in points(picture, "a", coded, [], qualities={"JPEG": (50,)}))
        return {c.method: c.psnr[0] for c in found if c.scale == 2 and c.method != "bicubic"}

    (alone,) = methods(second).values()
    found = methods(first, second)
    assert found == {first.loaded.tag: alone, "car_codec_x2.v99": alone}
    assert list(methods(own, other)) == [
        f"car_codec_x2 ({own.loaded.short_hash})",
        f"car_codec_x2 ({'0' * 16})",
    ]
    assert list(methods(own, first)) == ["car_codec_x2"]  # the same weights


def test_images_of_one_name_are_told_apart(photo: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.open(photo).crop((0, 0, 64, 64)).save(tmp_path / name / "1.png")
    out = tmp_path / "out"
    done = run(
        tmp_path / "a", tmp_path / "b", "--scale", 4, "--coder", "JPEG", "-o", out, "--looks", 0, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 2
    rows = csv.DictReader((out / "points.csv").open())
    assert {row["image"] for row in rows} == {str(tmp_path / name / "1.png") for name in ("a", "b")}


@pytest.mark.parametrize(("scale", "quality"), [(2, 50), (4, 75)])
def test_small_jpegs_restore_better_than_large_ones_of_the_same_bytes(
    photo: Path, scale: int, quality: int
) -> None:
    picture = from_pil(Image.open(photo))
    direct, _ = curves(one.point for one in points(picture, "a", [], [], qualities=DENSE))
    codec = open_codec(f"car_codec_x{scale}")
    found = points(picture, "a", [codec], [], qualities={"JPEG": (quality,)})
    _, _, bicubic, ours = curves(one.point for one in found)
    assert (bicubic.method, ours.method) == ("bicubic", codec.loaded.name)
    (gain,) = gain_at_equal_bytes(ours, direct)
    assert gain > 1.3  # of this crop 2.4 at 2x, 2.1 at 4x
    assert ours.psnr[0] > bicubic.psnr[0] + 1
    assert ours.bpp[0] < bicubic.bpp[0]


def test_jpeg_xl_goes_the_way_of_the_other_coders(photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl")
    done = run(photo, "--scale", 4, "--coder", "JXL", "--looks", 0, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    found = {curve["name"]: curve for curve in json.loads(done.stdout)["curves"]}
    direct, ours = found["JXL"], found["car_codec_x4 + JXL"]
    assert sorted(direct["qualities"]) == list(FEW["JXL"])
    assert direct["psnr"] == sorted(direct["psnr"])
    assert ours["bpp"][0] < direct["bpp"][0] / 2
    assert max(ours["psnr"]) > max(found["bicubic 4x + JXL"]["psnr"])


def test_what_cannot_be_measured(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "small.png")
    done = run(tmp_path / "small.png", "--coder", "JPEG", "-o", tmp_path / "out/deep")
    assert done.returncode == 2
    assert "too small to be measured" in done.stderr
    assert not (tmp_path / "out").exists()
    if "JXL" not in installed_coders():
        done = run(tmp_path / "small.png", "--coder", "jxl", "-o", tmp_path / "out")
        assert done.returncode == 2
        assert "pip install pillow-jxl-plugin" in done.stderr
    done = run(tmp_path / "small.png", "--coder", "HEIC", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "unknown coder HEIC" in done.stderr
    done = run()
    assert done.returncode == 2
