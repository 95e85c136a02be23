"""Galleries: what the command writes, and the site in a real browser."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import car
from browser import Site
from car.errors import UsageError
from car.gallery import plan_gallery
from car.pictures.info import read_header
from car.scaling import Wanted
from commandline import run_car
from processes import start_car, wait_until

HOSTILE = '"><img src=x onerror=alert(1)> & 100% #1?.png'


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return run_car("gallery", *arguments)


def made(*arguments: object) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def photographs(tmp_path: Path, photo: Path) -> Path:
    folder = tmp_path / "Three & more"
    (folder / "deeper").mkdir(parents=True)
    image = Image.open(photo).convert("RGB")
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    image.resize((240, 200)).save(folder / "a.jpg", exif=exif, quality=95)
    image.rotate(90, expand=True).resize((150, 170)).save(folder / "deeper" / "b.png")
    image.resize((201, 103)).save(folder / HOSTILE)
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_site_and_numbers(photographs: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    result = made(photographs, "-o", site, "--title", "<b>Mine</b>")
    assert result["made"] == 3
    assert result["site_bytes"] == sum(
        (site / name).stat().st_size for name in files(site) - {"gallery.json"}
    )
    assert result["source_bytes"] == sum(path.stat().st_size for path in photographs.rglob("*.*"))
    page = (site / "index.html").read_text()
    assert "<b>" not in page
    assert "onerror=alert(1)>" not in page
    assert page.count("<li ") == 3
    for name in re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page):
        assert "://" not in name
    # small pictures restore by themselves, and say nothing of the camera
    small = site / "pictures" / "a.x4.png"
    assert car.upscale(small).size == (240, 200)
    assert b"SecretCamera" not in small.read_bytes()
    listed = {picture["file"]: picture for picture in result["pictures"]}
    assert listed["pictures/a.x4.png"]["small_bytes"] == small.stat().st_size


def test_only_what_changed_is_done_again(photographs: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    made(photographs, "-o", site)
    before = {name: (site / name).stat().st_mtime_ns for name in files(site) if name.endswith(".x4.png")}
    (site / "CNAME").write_text("example.org")
    (photographs / HOSTILE).unlink()
    Image.new("RGB", (64, 64), "red").save(photographs / "deeper" / "b.png")
    result = made(photographs, "-o", site)
    assert result["made"] == 1
    after = {name: (site / name).stat().st_mtime_ns for name in files(site) if name.endswith(".x4.png")}
    assert after.keys() == {"pictures/a.x4.png", "pictures/deeper/b.x4.png"}
    assert after["pictures/a.x4.png"] == before["pictures/a.x4.png"]
    assert (site / "CNAME").read_text() == "example.org"
    assert made(photographs, "-o", site)["made"] == 0
    assert made(photographs, "-o", site, "--scale", 2)["made"] == 2
    assert not [name for name in files(site) if ".x4." in name]
    assert len([name for name in files(site) if name.endswith(".safetensors")]) == 1
    # a small picture that was lost or damaged is made again
    (site / "pictures" / "a.x2.png").write_bytes(b"")
    assert made(photographs, "-o", site, "--scale", 2)["made"] == 1


def test_a_run_that_was_killed_is_completed(photographs: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    image = Image.effect_noise((200, 200), 80).convert("RGB")
    for number in range(12):
        image.save(photographs / f"more {number}.png", compress_level=1)
    for _ in range(2):
        for path in site.glob("pictures/*.png"):
            path.unlink()
        with start_car("gallery", photographs, "-o", site) as process:
            wait_until(lambda: len(list(site.glob("pictures/*.png"))) >= 3, process)
            process.kill()
        assert not (site / "index.html").exists()
    result = made(photographs, "-o", site)
    assert len(result["pictures"]) == 15
    assert (site / "index.html").exists()


def test_what_can_no_longer_be_read_stays_as_it_was(photographs: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    made(photographs, "-o", site)
    small = (site / "pictures" / "a.x4.png").read_bytes()
    (photographs / "a.jpg").write_bytes(b"")
    done = run(photographs, "-o", site, "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)["pictures"]) == 3
    assert (site / "pictures" / "a.x4.png").read_bytes() == small
    page = (site / "index.html").read_text()
    for path in photographs.rglob("*.*"):
        path.write_bytes(b"")
    shutil.rmtree(site / "pictures")
    done = run(photographs, "-o", site)
    assert done.returncode == 1
    assert "nothing to show" in done.stderr
    assert (site / "index.html").read_text() == page


def test_a_link_out_of_the_site_is_not_followed(photographs: Path, tmp_path: Path) -> None:
    site, outside = tmp_path / "site", tmp_path / "outside"
    made(photographs, "-o", site)
    shutil.rmtree(site / "pictures")
    outside.mkdir()
    (site / "pictures").symlink_to(outside)
    done = run(photographs, "-o", site)
    assert done.returncode == 1
    assert "leads out of the site" in done.stderr
    assert not list(outside.iterdir())


def test_lighter_formats(photographs: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    first = made(photographs, "-o", site)
    lighter = made(photographs, "-o", site, "--format", "avif", "--quality", 50)
    assert lighter["site_bytes"] < first["site_bytes"]
    files = sorted(path.name for path in (site / "pictures").rglob("*.*"))
    assert len(files) == len(lighter["pictures"]) == 3
    assert all(name.endswith(".x4.avif") for name in files)
    infos = [read_header(site / picture["file"]).info for picture in lighter["pictures"]]
    assert {info.model for info in infos if info} == {"car_codec_x4"}
    assert made(photographs, "-o", site, "--format", "avif", "--quality", 50)["made"] == 0
    assert made(photographs, "-o", site, "--format", "avif", "--quality", 60)["made"] == 3


def test_names_that_look_like_places_to_fill_in(photographs: Path, tmp_path: Path) -> None:
    (photographs / "a.jpg").rename(photographs / "{{title}}.jpg")
    made(photographs, "-o", tmp_path / "site", "--title", "A {{weight}} B")
    page = (tmp_path / "site" / "index.html").read_text()
    assert "A {{weight}} B</h1>" in page
    assert "{{title}}.jpg" in page


def test_nothing_of_others_is_touched(photographs: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("mine")
    refused = run(photographs, "-o", site)
    assert refused.returncode == 2
    assert "not a gallery; --overwrite" in refused.stderr
    assert files(site) == {"index.html"}
    shutil.rmtree(site)
    made(photographs, "-o", site)
    Image.new("RGB", (64, 64)).save(photographs / "c.png")
    (site / "pictures" / "c.x4.png").write_text("mine")
    done = run(photographs, "-o", site)
    assert done.returncode == 1
    assert "not made by this gallery" in done.stderr
    assert (site / "pictures" / "c.x4.png").read_text() == "mine"
    # a manifest that lies leads nowhere
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    about = json.loads((site / "gallery.json").read_text())
    about["files"].append("../outside.txt")
    (site / "gallery.json").write_text(json.dumps(about))
    run(photographs, "-o", site, "--overwrite")
    assert outside.read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["index.html", "pictures/a.x4.png", "viewer/car-image.js", "site.css", "gallery.json"]
)
def test_no_gallery_replaces_what_lies_in_a_folder_of_others(
    photographs: Path, tmp_path: Path, name: str
) -> None:
    site = tmp_path / "site"
    (site / name).parent.mkdir(parents=True)
    (site / name).write_text("mine")
    refused = run(photographs, "-o", site, "--scale", "4", "--overwrite")
    assert refused.returncode == 2
    assert f"{name} exists and was not made by a gallery" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert files(site) == {name}
    assert (site / name).read_text() == "mine"
    # what is in nobody's way stays, and the gallery may be brought up to date
    (site / name).rename(site / "CNAME")
    assert made(photographs, "-o", site, "--overwrite")["made"] == 3
    assert made(photographs, "-o", site, "--overwrite")["made"] == 0
    assert (site / "CNAME").read_text() == "mine"


def test_no_gallery_replaces_what_was_put_among_its_pictures(photographs: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    made(photographs, "-o", site)
    Image.new("RGB", (64, 64)).save(photographs / "c.png")
    (site / "pictures" / "c.x4.png").write_text("mine")
    done = run(photographs, "-o", site, "--overwrite")
    assert done.returncode == 1
    assert "not made by this gallery" in done.stderr
    assert (site / "pictures" / "c.x4.png").read_text() == "mine"


def test_names_that_are_no_text_and_a_site_among_its_sources(photographs: Path) -> None:
    odd = os.fsdecode(b"odd \xff\n name.png")
    Image.new("RGB", (40, 40)).save(photographs / "plain.png")
    (photographs / "plain.png").rename(photographs / odd)
    for turn in range(2):
        result = made(photographs, "-o", photographs / "site")
        assert len(result["pictures"]) == 4
        assert result["made"] == (0 if turn else 4)
    page = (photographs / "site" / "index.html").read_text()
    assert 'href="pictures/odd%20%FF%0A%20name.x4.png"' in page


def test_galleries_among_the_photographs_are_none(photographs: Path, tmp_path: Path) -> None:
    made(photographs, "-o", photographs / "site")
    sources = {"a.jpg", "deeper/b.png", HOSTILE}
    done = run(photographs, "-o", tmp_path / "other", "--json")
    assert done.returncode == 0
    assert {picture["source"] for picture in json.loads(done.stdout)["pictures"]} == sources
    # likewise where a pattern finds them
    todo = plan_gallery(f"{photographs}/**/*.[jp]*g", tmp_path / "third", Wanted(4))
    assert {job.source.relative_to(photographs).as_posix() for job in todo.jobs} == sources
    with pytest.raises(UsageError, match=r"no pictures to shrink here; .* 3 small pictures"):
        plan_gallery(str(photographs / "site"), tmp_path / "third", Wanted(4))


def test_a_single_picture_is_counted_as_one(photographs: Path, tmp_path: Path) -> None:
    done = run(photographs / "a.jpg", "-o", tmp_path / "site")
    assert "site: 1 picture, 1 of them new" in done.stdout


def test_a_bad_picture_does_not_stop_the_others(photographs: Path, tmp_path: Path) -> None:
    (photographs / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    done = run(photographs, "-o", tmp_path / "site", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert len(result["pictures"]) == 3
    assert len(result["failures"]) == 1
    assert "broken.png" in result["failures"][0]
    assert len(done.stderr.splitlines()) == 1


def test_bad_requests(photographs: Path, tmp_path: Path) -> None:
    cases = {
        (tmp_path / "none", "-o", tmp_path / "s"): "no such file or folder",
        (photographs, "-o", photographs / "a.jpg", "--overwrite"): "a.jpg is a file; a site needs a folder",
        (photographs, "-o", "/proc/site"): "/proc/site/gallery.json: cannot be written",
        (photographs, "-o", tmp_path / "s", "--scale", 17): "the scale must be a number from",
        (photographs, "-o", tmp_path / "s", "--quality", 50): "--quality needs --format jpg, webp or avif",
    }
    for arguments, message in cases.items():
        done = run(*arguments)
        assert done.returncode in (1, 2), done.stderr
        assert message in done.stderr
        assert len(set(done.stderr.splitlines())) <= 4


def test_in_a_browser(browser: Any, site: Site, photographs: Path, tmp_path: Path) -> None:
    made(photographs, "-o", tmp_path / "site")
    site.add_folder(tmp_path / "site")
    # the server is asked for names as they are written in addresses
    site.files |= {quote(name): content for name, content in site.files.items()}
    context = browser.new_context(viewport={"width": 390, "height": 780}, device_scale_factor=2)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    others: list[str] = []
    page.on(
        "request", lambda r: None if r.url.startswith((site.url, "blob:", "data:")) else others.append(r.url)
    )
    page.goto(f"{site.url}/")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator("#plain").is_hidden()
    links = page.locator(".wall a")
    assert links.count() == 3
    for number in range(3):
        links.nth(number).focus()
        page.keyboard.press("Enter")
        shown = page.locator("#stage car-image[data-state='restored']")
        shown.wait_for()
        file = page.evaluate("document.querySelector('#stage car-image').src")
        text = page.evaluate(
            """async () => {
                const blob = await document.querySelector("#stage car-image").toBlob();
                const bytes = new Uint8Array(await blob.arrayBuffer());
                return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
            }"""
        )
        got = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)
        small = site.files[file.removeprefix(site.url)]
        assert isinstance(small, bytes)
        (tmp_path / "small.png").write_bytes(small)
        assert np.abs(got - np.asarray(car.upscale(tmp_path / "small.png"))).max() <= 1
        page.keyboard.press("Escape")
        page.locator("#view").wait_for(state="hidden")
        page.wait_for_url(lambda url: "#" not in url)
        assert links.nth(number).evaluate("(link) => link === document.activeElement")
    links.nth(0).click()
    first = page.url
    assert "#" in first
    page.locator("#view").wait_for(state="visible")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("#(?!" + re.escape(first.split("#")[1]) + ")"))
    assert page.locator("#view").is_visible()
    page.go_back()
    page.locator("#view").wait_for(state="hidden")
    page.goto(first)
    page.locator("#view").wait_for(state="visible")
    page.get_by_role("button", name="Close").click()
    page.locator("#view").wait_for(state="hidden")
    # closing is a way back, not a way on; and Escape closes wherever the focus is
    page.goto("about:blank")
    page.goto(f"{site.url}/")
    links.nth(1).click()
    page.locator("#stage car-image[data-state='restored'] .frame").focus()
    page.keyboard.press("Escape")
    page.locator("#view").wait_for(state="hidden")
    page.wait_for_url(lambda url: "#" not in url)
    page.go_back()
    page.wait_for_url("about:blank")
    assert (problems, others) == ([], [])
    context.close()


def test_keys_go_on_working_wherever_the_focus_is(
    browser: Any, site: Site, photographs: Path, tmp_path: Path
) -> None:
    made(photographs, "-o", tmp_path / "site")
    site.add_folder(tmp_path / "site")
    site.files |= {quote(name): content for name, content in site.files.items()}
    page = browser.new_context(viewport={"width": 900, "height": 700}).new_page()
    page.goto(f"{site.url}/")
    page.locator(".wall a").nth(0).click()

    def next_by_key() -> None:
        before = page.url
        page.keyboard.press("ArrowRight")
        page.wait_for_url(lambda url: url != before)
        page.locator("#stage car-image[data-state='restored']").wait_for()

    stage = page.locator("#stage .stage")
    page.locator("#stage car-image[data-state='restored']").wait_for()
    for place in ("#stage .frame", "#caption", "#next"):  # on the picture, on nothing, on a button
        page.locator(place).click()
        page.locator("#stage car-image[data-state='restored']").wait_for()
        for _ in range(4):
            next_by_key()
        page.keyboard.press("+")
        assert "scale(1.5)" in stage.get_attribute("style")
        before, address = stage.get_attribute("style"), page.url
        page.keyboard.press("ArrowRight")
        assert stage.get_attribute("style") != before
        assert page.url == address
        page.keyboard.press("0")
        assert "scale" not in stage.get_attribute("style")
        page.keyboard.press("c")
        assert page.locator("#stage .slider").is_visible()
        page.keyboard.press("c")
        assert page.locator("#stage .slider").is_hidden()
    page.context.close()


def test_no_key_is_lost_before_the_address_is_followed(
    browser: Any, site: Site, photographs: Path, tmp_path: Path
) -> None:
    made(photographs, "-o", tmp_path / "site")
    site.add_folder(tmp_path / "site")
    site.files |= {quote(name): content for name, content in site.files.items()}
    page = browser.new_context(viewport={"width": 900, "height": 700}).new_page()
    page.goto(f"{site.url}/")
    page.locator(".wall a").nth(0).click()
    page.locator("#view").wait_for(state="visible")
    # both before the browser comes to anything else
    third = page.evaluate(
        """() => {
            const how = { key: "ArrowRight", bubbles: true, cancelable: true };
            for (let n = 0; n < 2; n++) document.body.dispatchEvent(new KeyboardEvent("keydown", how));
            return document.querySelectorAll(".wall a")[2].href;
        }"""
    )
    picture = page.locator("#stage car-image")
    assert picture.evaluate("(image) => image.src") == third
    page.evaluate("document.querySelector('#stage car-image').dataset.same = '1'")
    page.locator("#stage car-image[data-state='restored']").wait_for()
    assert picture.get_attribute("data-same") == "1", "the event that came later began anew"
    page.context.close()


def test_by_touch(browser: Any, site: Site, photographs: Path, tmp_path: Path) -> None:
    made(photographs, "-o", tmp_path / "site")
    site.add_folder(tmp_path / "site")
    site.files |= {quote(name): content for name, content in site.files.items()}
    context = browser.new_context(viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(f"{site.url}/")
    page.locator(".wall a").nth(0).click()
    page.locator("#stage car-image[data-state='restored']").wait_for()
    devices = context.new_cdp_session(page)

    def drag(x: float, y: float, by: int) -> None:
        def touch(kind: str, *points: dict[str, float]) -> None:
            devices.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

        touch("touchStart", {"x": x, "y": y})
        for step in range(1, 6):
            touch("touchMove", {"x": x + by * step / 5, "y": y})
        touch("touchEnd")

    # there is no hovering, so it is to be seen at once
    compare = page.locator("#stage .compare")
    page.wait_for_function("(e) => getComputedStyle(e).opacity === '1'", arg=compare.element_handle())
    compare.tap()
    slider = page.locator("#stage .slider")
    box, address = slider.bounding_box(), page.url
    drag(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, -130)
    assert int(slider.input_value()) < 30
    page.wait_for_timeout(300)
    assert page.url == address
    drag(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - 80, -130)
    page.wait_for_url(lambda url: url != address)
    context.close()


def test_without_scripts_there_are_still_pictures(
    browser: Any, site: Site, photographs: Path, tmp_path: Path
) -> None:
    made(photographs, "-o", tmp_path / "site")
    site.add_folder(tmp_path / "site")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}/")
    assert page.locator(".wall img").count() == 3
    assert page.locator("#plain").is_visible()
    context.close()


def test_shown_on_this_computer(photographs: Path, tmp_path: Path) -> None:
    with start_car("gallery", photographs, "-o", tmp_path / "site", "--serve", "--port", 0) as process:
        process.line()
        address = process.line().split()[-1]
        with urllib.request.urlopen(f"{address}/viewer/car-image.js") as answer:
            assert answer.headers["Content-Type"] == "text/javascript"
        process.send_signal(2)
        assert process.wait() == 0
