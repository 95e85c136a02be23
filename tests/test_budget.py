"""Small files that keep to a size or a quality, and advice on which file to make."""

import io
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import car
from car.codec.codec import Codec
from car.codec.kinds import as_picture
from car.codec.options import Options
from car.errors import ImageError, UsageError
from car.measure import trips as round_trips
from car.measure.advice import Offer, verdict
from car.measure.ssimulacra2 import ssimulacra2
from car.measure.trips import FORMATS, LADDERS, SCALES, Setting, Trips, crossing
from car.metrics import psnr
from commandline import run_car

CHOSEN = {
    *("source", "target", "source_size", "target_size", "source_bytes", "target_bytes", "model", "seconds"),
    *("scale", "quality", "psnr", "psnr_rgb", "ssimulacra2", "decided_by", "tried", "full_size", "chosen"),
    "notes",
}


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_car("downscale", *arguments)


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def restored(small: car.SmallFile) -> np.ndarray:
    return np.asarray(car.upscale(small.data).convert("RGB"))


@pytest.fixture
def drawing() -> np.ndarray:
    """Thin lines and text, which a small picture cannot keep, and which compress without loss."""
    image = Image.new("RGB", (160, 128), "white")
    draw = ImageDraw.Draw(image)
    for n in range(0, 128, 9):
        draw.line((0, n, 160, 128 - n), fill="black")
    draw.text((20, 50), "a drawing, not a photograph", fill="navy")
    return np.asarray(image)


@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    budget=st.integers(1, 1500),
    formats=st.lists(st.sampled_from(FORMATS), min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 9),
)
def test_a_file_is_never_over_its_budget(
    width: int, height: int, budget: int, formats: list[Any], seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    smallest = min(
        Trips(as_picture(pixels), Options()).size(Setting(scale, format, LADDERS[format][0]))
        for scale in SCALES
        for format in formats
    )
    if smallest > budget:
        with pytest.raises(
            ImageError, match=f"no small file has at most {budget:,} bytes; the smallest has "
        ):
            car.shrink_to(pixels, max_bytes=budget, formats=formats)
        return
    small = car.shrink_to(pixels, max_bytes=budget, formats=formats)
    assert len(small.data) == small.made.bytes <= budget
    assert small.suffix[1:] in formats
    assert restored(small).shape == pixels.shape


def test_the_best_file_that_fits(photo: Path) -> None:
    budget = 2500
    told: list[Any] = []
    small = car.shrink_to(photo, max_bytes=budget, on_trial=told.append)
    assert 0.92 * budget <= len(small.data) <= budget
    assert small.made.score.ssimulacra2 == max(trial.score.ssimulacra2 for trial in small.tried)
    assert len({trial.setting.scale for trial in small.tried}) > 1
    assert len({trial.setting.format for trial in small.tried}) == 3
    assert len(small.tried) <= 8
    assert [trial for trial in told if trial.setting.scale != 1] == list(small.tried)
    # what it says is what a user measures
    original = pixels_of(photo)
    assert small.made.score.ssimulacra2 == pytest.approx(ssimulacra2(restored(small), original))
    assert small.made.score.psnr_rgb == pytest.approx(psnr(restored(small), original, on="rgb"))
    assert small.made.model in small.why
    assert f"{len(small.data):,} bytes" in small.why


def test_more_bytes_restore_better(photo: Path) -> None:
    found = [car.shrink_to(photo, max_bytes=size, formats=["jpg"]) for size in (800, 1600, 3200)]
    scores = [small.made.score.ssimulacra2 for small in found]
    assert scores == sorted(set(scores))
    assert {small.suffix for small in found} == {".jpg"}


@pytest.mark.parametrize("goal", [{"min_psnr": 26.0}, {"min_ssimulacra2": 45.0}])
def test_the_smallest_file_that_restores_so_well(photo: Path, goal: dict[str, float]) -> None:
    small = car.shrink_to(photo, **goal)
    ((name, least),) = goal.items()
    back, original = restored(small), pixels_of(photo)
    value = psnr(back, original, on="rgb") if name == "min_psnr" else ssimulacra2(back, original)
    assert value >= least
    assert small.measure == ("psnr_rgb" if name == "min_psnr" else "ssimulacra2")
    reached = [trial.bytes for trial in small.tried if getattr(trial.score, small.measure) >= least]
    assert small.made.bytes == min(reached)
    ladder, made = LADDERS[small.made.setting.format], small.made.setting
    place = ladder.index(made.quality)
    assert place, "a file that is larger than needed would be no test"
    lower = Trips(as_picture(photo), Options()).judge(Setting(made.scale, made.format, ladder[place - 3]))
    assert getattr(lower.score, small.measure) < least


@pytest.mark.parametrize("goal", [30.0, 32.0, 34.0])
def test_no_fixed_scale_reaches_a_quality_in_much_fewer_bytes(photo: Path, goal: float) -> None:
    trips = Trips(as_picture(photo), Options())
    found = car.shrink_to(photo, min_psnr=goal, formats=["jpg"])
    for scale in (1.25, 2):
        fixed = (trips.judge(Setting(scale, "jpg", quality)) for quality in LADDERS["jpg"][59::6])
        enough = [trial.bytes for trial in fixed if trial.score.psnr_rgb >= goal]
        assert len(found.data) <= 1.05 * min(enough, default=math.inf)


def test_what_cannot_be_reached_is_said(photo: Path) -> None:
    with pytest.raises(ImageError, match=r"restores with SSIMULACRA2 99\.0; the best .* lossless\)"):
        car.shrink_to(photo, min_ssimulacra2=99)
    with pytest.raises(ImageError, match=r"restores with 70\.00 dB over RGB; the best"):
        car.shrink_to(photo, min_psnr=70, formats=["jpg"])


@pytest.mark.parametrize("format", ["webp", "jpg"])
def test_the_highest_quality_that_fits_is_found(photo: Path, format: Any) -> None:
    trips = Trips(as_picture(photo), Options())
    sizes = {quality: trips.size(Setting(2, format, quality)) for quality in LADDERS[format]}
    for budget in (300, 1000, 2000, 4000, 30_000):
        fitting = [size for size in sizes.values() if size <= budget]
        found = trips.fit(2, format, budget)
        if not fitting:
            assert found is None
            continue
        assert found is not None
        assert 0.95 * max(fitting) <= sizes[found.quality] <= budget


def test_where_values_cross() -> None:
    assert crossing({10: 1.0, 20: 2.0}, 1.5, 0.1) == 15
    assert crossing({10: 1.0}, 1.5, 0.1) == 15
    assert crossing({10: 1.0}, 0.5, 0.1) == 5
    assert crossing({10: 1.0}, 1.01, 0.1) == 11, "it moves on"
    assert crossing({20: 1.0, 10: 2.0}, 1.5, 0.1) == 21, "where values fall, the search goes up"


def test_pictures_of_all_kinds(photo: Path) -> None:
    rgb = pixels_of(photo)[:64, :80]
    mask = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (64, 1))
    deep = (rgb.astype(np.uint16) * 257)[:, :, 0]
    see_through = car.shrink_to(np.dstack([rgb, mask]), max_bytes=2500)
    assert see_through.suffix != ".jpg"
    assert car.upscale(Image.open(io.BytesIO(see_through.data))).mode == "RGBA"
    with pytest.raises(ImageError, match="JPEG cannot keep the transparency"):
        car.shrink_to(np.dstack([rgb, mask]), max_bytes=2500, formats=["jpg"])
    grey = car.shrink_to(rgb[:, :, 0], max_bytes=1500)
    assert (restored(grey) == restored(grey)[:, :, :1]).all()
    (note,) = car.shrink_to(deep, max_bytes=1500, formats=["avif"]).notes
    assert "rounded from 16 bit" in note
    one = car.shrink_to(rgb[:1, :1], max_bytes=500)
    assert one.measure == "psnr_rgb"
    assert math.isnan(one.made.score.ssimulacra2)
    with pytest.raises(ImageError, match="too few for SSIMULACRA2"):
        car.shrink_to(rgb[:1, :1], min_ssimulacra2=50)


def test_with_bytes_to_spare_the_picture_itself_is_advised(photo: Path) -> None:
    small = car.shrink_to(photo, max_bytes=10**9)
    assert small.made.setting.quality is None
    assert small.made.setting.scale == min(SCALES)
    assert small.full_size is not None
    assert small.full_size.score.psnr_rgb == math.inf
    assert "lossless webp" in small.advice
    assert "loses nothing" in small.advice


def test_a_drawing_is_better_left_alone(drawing: np.ndarray) -> None:
    with pytest.raises(ImageError, match="car advise compares files at full size"):
        car.shrink_to(drawing, min_ssimulacra2=60)
    small = car.shrink_to(drawing, max_bytes=6000)
    assert small.full_size is not None
    assert small.full_size.bytes <= 6000
    assert small.full_size.score.ssimulacra2 > small.made.score.ssimulacra2
    offers = car.advise(drawing, scales=[2])
    assert "loses nothing" in verdict(offers)
    small_ones = [offer for offer in offers if offer.scale == 2 and offer.quality is None]
    assert not any(offer.front for offer in small_ones)


def test_large_pictures_are_judged_by_pieces(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trips, "_WHOLE", 1000)
    monkeypatch.setattr(round_trips, "_PIECE", 64)
    trips = Trips(as_picture(photo), Options())
    assert not trips.whole
    setting = Setting(2, "avif", 60)
    of_pieces, of_all = trips.judge(setting).score, trips.judge_whole(setting).score
    assert of_pieces != of_all
    assert of_pieces.psnr == pytest.approx(of_all.psnr, abs=3)
    for goal in ({"max_bytes": 2500}, {"min_psnr": 27.0}, {"min_ssimulacra2": 40.0}):
        small = car.shrink_to(photo, **goal)  # type: ignore[arg-type]
        back, original = restored(small), pixels_of(photo)
        assert len(small.data) <= goal.get("max_bytes", math.inf)
        assert psnr(back, original, on="rgb") >= goal.get("min_psnr", 0)
        assert ssimulacra2(back, original) >= goal.get("min_ssimulacra2", -math.inf)
        assert small.made.score.psnr_rgb == pytest.approx(psnr(back, original, on="rgb"))


def test_a_large_picture_is_shrunk_as_a_whole_at_few_scales(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_trips, "_WHOLE", 1000)
    monkeypatch.setattr(round_trips, "_PIECE", 64)
    sides: list[tuple[int, int]] = []
    shrink = Codec.shrink
    monkeypatch.setattr(
        Codec, "shrink", lambda self, picture: sides.append(picture.pixels.shape[:2]) or shrink(self, picture)
    )
    small = car.shrink_to(photo, max_bytes=2000, formats=["webp"])
    whole = as_picture(photo).pixels.shape[:2]
    assert sides.count(whole) <= 2
    assert sides.count((64, 64)) >= 8
    assert 0.92 * 2000 <= len(small.data) == small.made.bytes <= 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give max_bytes, min_psnr or min_ssimulacra2"),
        ({"max_bytes": 10, "min_psnr": 3}, "give one of"),
        ({"max_bytes": 0}, "at least 1"),
        ({"min_psnr": math.nan}, "above 0 dB"),
        ({"min_ssimulacra2": 101}, "at most 100"),
        ({"max_bytes": 10, "formats": []}, "got none"),
        ({"max_bytes": 10, "formats": ["tiff"]}, "got tiff"),
        ({"max_bytes": 10, "options": Options(effort=1)}, "effort"),
    ],
)
def test_what_makes_no_sense_is_refused(photo: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        car.shrink_to(photo, **arguments)


def test_files_are_saved_under_a_name_of_their_format(photo: Path, tmp_path: Path) -> None:
    small = car.shrink_to(photo, max_bytes=1500, formats=["jpg"])
    small.save(tmp_path / "a.jpeg")
    assert (tmp_path / "a.jpeg").read_bytes() == small.data
    with pytest.raises(ImageError, match=r"the file is \.jpg"):
        small.save(tmp_path / "a.png")


# --- the commands


def test_the_command_says_what_it_chose(photo: Path, tmp_path: Path) -> None:
    source = tmp_path / "p.png"
    source.write_bytes(photo.read_bytes())
    done = run(source, "--max-bytes", "2.5kB")
    assert done.returncode == 0, done.stderr
    (target,) = tmp_path.glob("p.x*")
    assert 0.92 * 2500 <= target.stat().st_size <= 2500
    assert f"-> {target}" in done.stdout
    assert "\nchosen: " in done.stdout
    tried = [line for line in done.stderr.splitlines() if "bytes, SSIMULACRA2" in line]
    assert len(tried) >= 4
    assert run_car("upscale", target, "-o", tmp_path / "back.png").returncode == 0
    with Image.open(tmp_path / "back.png") as back, Image.open(photo) as original:
        assert back.size == original.size
    assert "exists; --overwrite" in run(source, "--max-bytes", "2.5kB").stderr
    quiet = run(source, "--max-bytes", "2.5kB", "--overwrite", "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_the_suffix_leaves_one_format_and_json_tells_all(photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "s.jpeg"
    done = run(photo, "-o", target, "--min-psnr", "25", "--scale", "2", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert set(result) == CHOSEN
    assert result["psnr_rgb"] >= 25
    assert result["decided_by"] == "psnr_rgb"
    assert result["target_bytes"] == target.stat().st_size
    assert result["scale"] == 2
    assert {row["format"] for row in result["tried"]} == {"jpg"}
    assert set(result["tried"][0]) == {
        *("scale", "format", "quality", "bytes", "psnr", "psnr_rgb", "ssimulacra2")
    }
    assert target.read_bytes().startswith(b"\xff\xd8")


def test_a_folder_is_shrunk_once(photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        Image.open(photo).crop((0, 0, 64, 48)).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes(b"nothing")
    first = run(folder, "-o", tmp_path / "out", "--max-bytes", 900, "--json")
    assert first.returncode == 1
    results = json.loads(first.stdout)["results"]
    assert len(results) == 2
    assert all(Path(result["target"]).stat().st_size <= 900 for result in results)
    assert len(json.loads(first.stdout)["failures"]) == 1
    second = json.loads(run(folder, "-o", tmp_path / "out", "--max-bytes", 900, "--json").stdout)
    assert [result.get("skipped") for result in second["results"]] == ["exists", "exists"]


def test_nothing_is_written_where_nothing_fits(photo: Path, tmp_path: Path) -> None:
    done = run(photo, "-o", tmp_path / "s.webp", "--max-bytes", "50")
    assert done.returncode == 1
    line = done.stderr.strip()
    assert line.startswith(f"car: {photo}: no small file has at most 50 bytes; the smallest has ")
    assert len(line.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-bytes", "1kB", "--min-psnr", "30"), "give one of"),
        (("--max-bytes", "lots"), "--max-bytes needs a size"),
        (("--max-bytes", "1kB", "--quality", "50"), "--quality does not go with"),
        (("--max-bytes", "1kB", "--model", "car_plus_x2"), "--model does not go with"),
        (("--max-bytes", "1kB", "--effort", "1"), "--effort does not go with"),
        (("--max-bytes", "1kB", "-o", "a.tif"), "write avif, webp, jpg, png, not .tif"),
        (("--max-bytes", "1kB", "--format", "bmp"), "write avif, webp, jpg, png, not bmp"),
    ],
)
def test_options_that_contradict_each_other(photo: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(photo, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_advice_as_table_and_json(photo: Path) -> None:
    done = run_car("advise", photo, "--scale", "2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {"source", "offers", "verdict"}
    offers = [Offer(**{**row, "psnr": row["psnr"] or math.inf}) for row in told["offers"]]
    assert {offer.scale for offer in offers} == {1, 2}
    assert {offer.format for offer in offers} == set(FORMATS)
    front = sorted((o for o in offers if o.front), key=lambda offer: offer.bytes)
    scores = [offer.ssimulacra2 for offer in front]
    assert scores == sorted(set(scores)), "on the front, more bytes are better"
    for other in offers:
        if not other.front:
            assert any(o.bytes <= other.bytes and o.ssimulacra2 >= other.ssimulacra2 for o in front)
    plain = run_car("advise", photo, "--scale", "2")
    assert plain.returncode == 0
    assert plain.stdout.count("lossless") == 4
    assert told["verdict"] in " ".join(plain.stdout.split())
    missing = run_car("advise", "nothing.png")
    assert (missing.returncode, missing.stderr) == (1, "car: nothing.png: no such file\n")
