"""The report on models: its numbers are those of `car evaluate`, and its page works offline in a browser."""

import json
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from car.cli import common
from car.measure.model_report import crops, error_map, published
from car.measure.rate_report import body
from commandline import run_car


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_car("report", *arguments)


@pytest.fixture
def folder(photo: Path, tmp_path: Path) -> Path:
    made = tmp_path / "photographs"
    made.mkdir()
    with Image.open(photo) as image:
        for number, left in enumerate((0, 40, 80)):
            image.convert("RGB").crop((left, 0, left + 96, 104)).save(made / f"p{number}.png")
    return made


def test_the_page_tells_what_evaluate_measures(folder: Path, tmp_path: Path, browser: Any) -> None:
    out = tmp_path / "report.html"
    models = ("car_plus_x4", "car_codec_x4", "car_plus_x2")
    done = run(*models, "-i", folder, "-o", out, "--curves", 1, "--looks", 1)
    assert done.returncode == 0, done.stderr
    evaluated = run_car("evaluate", folder, "-m", "car_plus_x4", "--json")
    mean = json.loads(evaluated.stdout)["mean"]["model"]
    page = browser.new_context(offline=True).new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(out.as_uri())
    row = page.locator("tr.bold", has_text="car_plus_x4").first
    assert f"{mean['psnr']:.2f} / {mean['ssim']:.4f}" in row.inner_text()

    colour = page.locator("table", has_text="CIEDE2000").locator("tr", has_text="car_plus_x4")
    assert f"{mean['ciede2000']:.2f}" in colour.first.inner_text()

    each = page.locator("table.sortable").last
    heads = each.locator("thead th")
    assert each.locator("tbody tr").count() == 9
    column = heads.all_inner_texts().index("PSNR")
    heads.nth(column).locator("button").click()
    values = [float(v) for v in each.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()]
    assert values == sorted(values)
    heads.nth(column).locator("button").click()
    values = [float(v) for v in each.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert heads.nth(column).get_attribute("aria-sort") == "descending"

    choices = page.locator(".look select").first.locator("option").all_inner_texts()
    assert any(choice.startswith("error of car_plus_x4") for choice in choices)
    assert page.locator(".look").count() == 2  # a scale each
    assert page.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert page.locator("img.plot").count() == 1
    assert problems == []
    page.context.close()
    again = run("car_plus_x4", "-i", folder, "-o", out)
    assert again.returncode == 1
    assert "exists" in again.stderr


def test_published_rows_stand_beside_known_sets(photo: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "Set5").mkdir(parents=True)
    with Image.open(photo) as image:
        image.convert("RGB").crop((0, 0, 64, 64)).save(data / "Set5" / "one.png")
    (data / "Set5" / "broken.png").write_bytes(b"none")
    out = tmp_path / "r.html"
    done = run("car_plus_x2", "--img-dir", data, "-o", out, "--curves", 0, "--looks", 0)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "broken.png" in line
    text = out.read_text()
    assert "as published" in text
    for known in published(2):
        # those that tell of other sets alone are left out
        assert (f"<td>{known['system']}</td>" in text) == ("Set5" in known)
        if "Set5" in known:
            assert f"{known['Set5']['psnr']:.2f} / {known['Set5']['ssim']:.4f}" in text
    assert "Set14" not in text


def test_a_part_of_a_set_stands_beside_no_published_row(photo: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "Set5").mkdir(parents=True)
    with Image.open(photo) as image:
        for n in range(3):
            image.convert("RGB").crop((n, 0, n + 64, 64)).save(data / "Set5" / f"{n}.png")
    out = tmp_path / "r.html"
    fast = ("--curves", 0, "--looks", 0)
    done = run("car_plus_x2", "--img-dir", data, "-o", out, *fast, "--most", 2)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    assert "2 of 3 pictures" in text
    assert "1.png</td>" in text
    assert "2.png</td>" not in text
    assert "published" not in text
    for known in published(2):
        assert f"<td>{known['system']}</td>" not in text


def test_the_time_that_is_left_is_told_after_the_first_round_trip(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(common._Lines, "__call__", lambda _, what, done, parts: told.append((done, parts)))
    done = run("car_codec_x4", "car_plus_x2", "-i", folder, "-o", tmp_path / "r.html", "--curves", 1)
    assert done.returncode == 0, done.stderr
    total = told[0][1]
    assert told[0][0] == 0
    assert {parts for _, parts in told} == {total}
    steps = [after - before for (before, _), (after, _) in pairwise(told)]
    assert len(set(steps[:6])) == 1  # equal images, by each of the models
    assert min(steps) > 0
    assert told[-1][0] == total  # the curves are part of it


def test_no_row_without_values() -> None:
    rows = [{"name": name, "bd_rate": {"JPEG": rate}} for name, rate in (("a", -3.0), ("b", None))]
    page = "".join(body({"differences": rows, "curves": []}, (), ()))
    assert "<td>a</td>" in page
    assert "<td>b</td>" not in page
    assert "A cell is empty" not in page
    assert "Bits for the same" not in "".join(body({"differences": rows[1:], "curves": []}, (), ()))


def test_what_cannot_be_reported(folder: Path, tmp_path: Path) -> None:
    for message, arguments in {
        ".html file": ("-i", folder, "-o", tmp_path / "x.pdf"),
        "no test set is in": ("--img-dir", tmp_path, "-o", tmp_path / "x.html"),
        "no such file": ("-i", tmp_path / "none", "-o", tmp_path / "x.html"),
        "did you mean": ("car_plus_x44", "-i", folder, "-o", tmp_path / "x.html"),
    }.items():
        done = run(*arguments)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert message in line
        assert not list(tmp_path.glob("x.*"))


def test_error_maps_are_black_where_luma_is_exact() -> None:
    hr = np.full((4, 4, 3), 100, np.uint8)
    other = hr.copy()
    other[0, 0] = 255
    other[1, 1] = 104
    shown = error_map(other, hr)
    assert shown[2, 2].tolist() == [0, 0, 0]
    assert shown[0, 0].tolist() == [255, 255, 255]
    red, green, blue = shown[1, 1].tolist()
    assert red > 0
    assert green == blue == 0


def test_crops_hold_every_model(photo: Path) -> None:
    from car.codec.choose import open_codec
    from car.measure.evaluate import round_trip

    trips = [(name, round_trip(open_codec(name), photo)) for name in ("car_plus_x4", "car_codec_x4")]
    found = crops("a", trips)
    labels = [label for label, _ in found.crops]
    assert labels[0] == "original"
    assert len({pixels.shape for _, pixels in found.crops}) == 1
    assert sum("car_codec_x4" in label for label in labels) == 2
