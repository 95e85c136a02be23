"""The viewer in a real browser: what it paints is compared with what Python restores."""

import base64
import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from safetensors.torch import load as load_tensors

import car
from browser import FirefoxPage, Site
from car.codec.choose import open_codec
from car.errors import UsageError
from car.models import create
from car.pictures.metadata import LRInfo
from car.viewer import assets, shipped_web_models, web_model
from car.weights import load
from car.weights.convert import weights_bytes
from commandline import run_car
from processes import LIMIT

WEB = Path(__file__).parent.parent / "web"

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>viewer</title>
<link rel="icon" href="data:,">
<style>body {{ margin: 0 }} car-image {{ width: 480px }}</style>
<script type="module" src="/viewer/car-image.js"></script>{body}"""


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    return {f"/viewer/models/{name}.safetensors": content for name, content in shipped_web_models().items()}


@pytest.fixture
def viewer(site: Site, models: dict[str, bytes]) -> Site:
    site.files |= {f"/viewer/{name}": content for name, content in assets().items()} | models
    return site


@pytest.fixture
def page(browser: Any) -> Any:
    context = browser.new_context(viewport={"width": 900, "height": 700})
    page = context.new_page()
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    yield page
    context.close()


def show(page: Any, site: Site, body: str) -> None:
    site.files["/"] = PAGE.format(body=body).encode()
    page.goto(site.url + "/")


def settled(page: Any, number: int = 0) -> str:
    """Wait until a picture is restored or failed; return which."""
    element = f"document.querySelectorAll('car-image')[{number}]"
    page.wait_for_function(f"['restored', 'failed'].includes({element}.state)")
    return page.evaluate(f"{element}.state")


def first_progress(page: Any) -> None:
    page.evaluate(
        """new Promise((done) => {
            document.querySelector("car-image").addEventListener("car-progress", done, { once: true });
        }).then(() => true)"""
    )


def painted(page: Any, number: int = 0) -> "np.ndarray[Any, Any]":
    """Return what the canvases hold, RGBA."""
    text = page.evaluate(
        """async (number) => {
            const blob = await document.querySelectorAll("car-image")[number].toBlob();
            const reader = new FileReader();
            return new Promise((done) => {
                reader.onload = () => done(reader.result.split(",")[1]);
                reader.readAsDataURL(blob);
            });
        }""",
        number,
    )
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"))


def note(page: Any) -> str:
    return page.evaluate("document.querySelector('car-image').shadowRoot.querySelector('.note').innerText")


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def picture(photo: Path, width: int = 160, height: int = 128) -> Image.Image:
    return Image.open(photo).convert("RGB").resize((width, height), Image.Resampling.LANCZOS)


def assert_one_level(got: "np.ndarray[Any, Any]", want: "np.ndarray[Any, Any]", share: float = 0.01) -> None:
    assert got.shape == want.shape
    levels = np.bincount(np.abs(got.astype(int) - want).ravel(), minlength=2)
    # weights of 16 bits move a few values over a rounding boundary
    assert len(levels) == 2, levels
    assert levels[1] < share * levels.sum(), levels


# --- weights ---------------------------------------------------------------------------------------------


def test_web_models_are_the_upscalers_in_half_precision() -> None:
    for name, limit in (("car_plus_x4", 1.5e6), ("car_plus_x2", 1.5e6)):
        loaded = load(name)
        content = web_model(loaded)
        assert len(content) < limit
        assert web_model(open_codec(name).loaded) == content
        upscaler = loaded.rescaler.upscaler.state_dict()
        tensors = load_tensors(content)
        assert tensors.keys() == upscaler.keys()
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, upscaler[key].half(), rtol=0, atol=0)


def test_a_model_that_the_viewer_does_not_know_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    file.write_bytes(weights_bytes("car_small_x4", create("car_small_x4")))
    with pytest.raises(UsageError, match="does not work in a browser"):
        web_model(load(file))


def test_the_compiled_kernels_are_what_the_source_gives() -> None:
    pytest.importorskip("ziglang", reason="pip install ziglang==0.13.0")
    subprocess.run([sys.executable, WEB / "build.py", "--check"], check=True, timeout=LIMIT)


def test_the_modules_have_sound_types() -> None:
    compiler = WEB / "node_modules" / ".bin" / "tsc"
    if not compiler.exists():
        pytest.skip("TypeScript is not installed: npm ci in web/")
    result = subprocess.run([compiler, "--project", WEB], capture_output=True, text=True, timeout=LIMIT)
    assert result.returncode == 0, result.stdout


# --- pixels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pixels_are_those_of_python(page: Any, viewer: Site, photo: Path, scale: int) -> None:
    # 537 pixels are more than one tile, with a first one inside, and no multiple
    small = car.downscale(picture(photo, 537, 277), scale)
    viewer.files["/small.png"] = png(small)
    show(page, viewer, '<car-image src="small.png" alt="a photograph" restore="now" style="width: 800px">')
    assert settled(page) == "restored"
    assert_one_level(painted(page)[..., :3], np.asarray(car.upscale(small)))
    assert (painted(page)[..., 3] == 255).all()
    assert page.problems == []
    info = page.evaluate("document.querySelector('car-image').info")
    assert (info["model"], info["scale"], info["size"]) == (f"car_plus_x{scale}", scale, [537, 277])


@pytest.mark.parametrize("scale", [1.5, 2.6, 5])
def test_other_scales_are_close_to_python(page: Any, viewer: Site, photo: Path, scale: float) -> None:
    small = car.downscale(picture(photo, 397, 211), scale)
    viewer.files["/small.png"] = png(small)
    show(page, viewer, '<car-image src="small.png" alt="a photograph" restore="now" style="width: 800px">')
    assert settled(page) == "restored"
    got, want = painted(page)[..., :3].astype(int), np.asarray(car.upscale(small)).astype(int)
    assert got.shape == want.shape
    # the tiles are resampled after they were rounded
    away = np.abs(got - want)
    assert (away > 1).mean() < 0.02, np.bincount(away.ravel())
    assert away.max() <= 4
    assert page.problems == []


def test_other_kinds_of_picture(page: Any, viewer: Site, photo: Path) -> None:
    colour = picture(photo)
    grey = colour.convert("L")
    tiny = colour.resize((7, 5))
    fading = colour.copy()
    fading.putalpha(Image.linear_gradient("L").resize(colour.size))
    wanted = []
    for number, (image, options) in enumerate(
        [
            (grey, {}),
            (tiny, {}),
            (fading, {}),
            (colour, {"format": "WEBP", "lossless": True}),
            (colour, {"format": "PNG", "compress_level": 9}),
        ]
    ):
        small = car.downscale(image, 4)
        viewer.files[f"/{number}"] = png(small, **options)
        wanted.append(np.asarray(car.upscale(small).convert("RGBA")))
    show(page, viewer, "".join(f'<car-image src="{n}" restore="now"></car-image>' for n in range(5)))
    for number, want in enumerate(wanted):
        page.evaluate(f"document.querySelectorAll('car-image')[{number}].scrollIntoView()")
        assert settled(page, number) == "restored", note(page)
        got = painted(page, number)
        if number == 2:
            # the canvas multiplies colours by their opacity and divides again, in Firefox less exactly
            opaque = want[..., 3] > 128
            assert np.abs(got.astype(int) - want)[opaque].max() <= 3
            assert_one_level(got[..., 3], want[..., 3])
        else:
            assert_one_level(got, want)
    assert page.problems == []


def test_tiny_pictures_are_those_of_python(page: Any, viewer: Site, photo: Path) -> None:
    sizes = [(1, 1), (5, 3), (8, 8), (16, 4), (3, 40), (150, 9), (17, 16)]
    wanted = []
    for number, (width, height) in enumerate(sizes):
        image = picture(photo, width, height)
        if number % 2:  # opacity is not continued
            image.putalpha(
                Image.linear_gradient("L").resize(image.size).point(lambda level: 128 + level // 2)
            )
        small = car.downscale(image, 4)
        viewer.files[f"/{number}.png"] = png(small)
        wanted.append(np.asarray(car.upscale(small).convert("RGBA")))
    count = len(sizes)
    show(page, viewer, "".join(f'<car-image src="{n}.png" restore="now"></car-image>' for n in range(count)))
    for number, want in enumerate(wanted):
        page.evaluate(f"document.querySelectorAll('car-image')[{number}].scrollIntoView()")
        assert settled(page, number) == "restored", note(page)
        got = painted(page, number)
        assert got.shape == want.shape
        # colours under half of the opacity come back from a canvas with half of the levels
        assert np.abs(got.astype(int) - want).max() <= (2 if number % 2 else 1), sizes[number]
    assert page.problems == []


def test_lossy_small_pictures(page: Any, viewer: Site, photo: Path, tmp_path: Path) -> None:
    """The browser decodes them, with a rounding of its own, which restoring magnifies a little."""
    names = ("a.jpg", "a.webp", "a.avif")
    wanted = []
    for name in names:
        small = car.downscale(picture(photo), model="car_codec_x4")
        small.save(tmp_path / name, quality=60, **({"lossless": False} if name == "a.webp" else {}))
        viewer.files[f"/{name}"] = (tmp_path / name).read_bytes()
        wanted.append(np.asarray(car.upscale(tmp_path / name)).astype(int))
    show(page, viewer, "".join(f'<car-image src="{name}" restore="now"></car-image>' for name in names))
    for number, want in enumerate(wanted):
        page.evaluate(f"document.querySelectorAll('car-image')[{number}].scrollIntoView()")
        assert settled(page, number) == "restored", note(page)
        difference = np.abs(painted(page, number)[..., :3] - want)
        assert (difference <= 3).mean() > 0.99, names[number]
    assert page.problems == []


IN_FIREFOX = {
    "2x": partial(test_pixels_are_those_of_python, scale=2),
    "4x": partial(test_pixels_are_those_of_python, scale=4),
    "2.6x": partial(test_other_scales_are_close_to_python, scale=2.6),
    "kinds": test_other_kinds_of_picture,
    "tiny": test_tiny_pictures_are_those_of_python,
}


@pytest.mark.xdist_group("launch")
@pytest.mark.parametrize("check", IN_FIREFOX.values(), ids=IN_FIREFOX)
def test_firefox_paints_the_same(
    firefox_page: FirefoxPage, viewer: Site, photo: Path, check: Callable[..., None]
) -> None:
    check(firefox_page, viewer, photo)


def test_sixteen_bits_are_read_as_eight(page: Any, viewer: Site, photo: Path, tmp_path: Path) -> None:
    deep = np.asarray(picture(photo)).astype(np.uint16) * 257
    small = car.downscale(deep, 4)
    source, target = tmp_path / "deep.png", tmp_path / "deep.x4.png"
    source.write_bytes(imagecodecs.png_encode(deep))
    assert run_car("downscale", source, "-o", target, "-s", 4).returncode == 0
    viewer.files["/deep.png"] = target.read_bytes()
    show(page, viewer, '<car-image src="deep.png" restore="now"></car-image>')
    assert settled(page) == "restored"
    want = np.round(car.upscale(np.round(small / 257).astype(np.uint8), 4).astype(float))
    assert_one_level(painted(page)[..., :3], want.astype(int))


def test_a_profile_is_heeded(page: Any, viewer: Site, photo: Path) -> None:
    # with red and blue exchanged, to be seen by any means
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    at = {name: profile.index(name) for name in (b"rXYZ", b"bXYZ")}
    swapped = bytearray(profile)
    swapped[at[b"rXYZ"] : at[b"rXYZ"] + 4], swapped[at[b"bXYZ"] : at[b"bXYZ"] + 4] = b"bXYZ", b"rXYZ"
    image = picture(photo)
    image.info["icc_profile"] = bytes(swapped)
    small = car.downscale(image, 4)
    viewer.files["/small.png"] = png(small, icc_profile=bytes(swapped))
    viewer.files["/large.png"] = png(car.upscale(small), icc_profile=bytes(swapped))
    show(page, viewer, '<car-image src="small.png" restore="now"></car-image><img src="large.png">')
    assert settled(page) == "restored"
    reference = page.evaluate(
        """() => {
            const image = document.querySelector("body > img");
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
        }"""
    )
    got = painted(page)
    want = np.array(reference).reshape(got.shape)
    assert np.abs(got.astype(int) - want).max() <= 3
    plain = np.asarray(car.upscale(small))
    assert np.abs(got[..., :3].astype(int) - plain).mean() > 5  # else the profile did nothing


@pytest.mark.parametrize("scale", [3, 4])
def test_a_gpu_gives_the_same(launch: Callable[..., Any], viewer: Site, photo: Path, scale: int) -> None:
    small = car.downscale(picture(photo, 200, 150), scale)
    viewer.files["/small.png"] = png(small)
    flags = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
    browser = launch(*flags, "--use-vulkan=swiftshader")
    try:
        page = browser.new_page()
        page.set_default_timeout(1000 * LIMIT)
        show(page, viewer, '<car-image src="small.png" device="gpu" restore="now"></car-image>')
        if not page.evaluate("(async () => Boolean(await navigator.gpu?.requestAdapter()))()"):
            pytest.skip("this browser has no WebGPU, not even emulated")
        assert settled(page) == "restored", note(page)
        assert_one_level(painted(page)[..., :3], np.asarray(car.upscale(small)))
    finally:
        browser.close()


def test_a_gpu_that_does_not_work_is_left_for_the_cpu(page: Any, viewer: Site, photo: Path) -> None:
    small = car.downscale(picture(photo), 4)
    viewer.files["/small.png"] = png(small)
    # the page is told of a GPU, of which its workers know nothing
    page.add_init_script(
        "Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => ({ info: {} }) } });"
        "const post = Worker.prototype.postMessage; window.onGpu = [];"
        "Worker.prototype.postMessage = function (message, ...rest) {"
        "  if (message.kind === 'network') window.onGpu.push(message.gpu);"
        "  return post.call(this, message, ...rest);"
        "};"
    )
    show(page, viewer, '<car-image src="small.png" restore="now"></car-image>')
    assert settled(page) == "restored", note(page)
    assert_one_level(painted(page)[..., :3], np.asarray(car.upscale(small)))
    told = page.evaluate("onGpu")
    assert told[0] is True
    assert told[1:]
    assert not any(told[1:])


# --- when it restores ------------------------------------------------------------------------------------


def test_only_what_is_enlarged_and_in_view_is_restored(page: Any, viewer: Site, photo: Path) -> None:
    viewer.files["/small.png"] = png(car.downscale(picture(photo, 320, 240), 4))
    show(
        page,
        viewer,
        '<car-image src="small.png" style="width: 80px"></car-image>'
        '<car-image src="small.png"></car-image>'
        '<div style="height: 3000px"></div><car-image src="small.png"></car-image>',
    )
    assert settled(page, 1) == "restored"
    states = page.evaluate("[...document.querySelectorAll('car-image')].map((e) => e.state)")
    assert states == ["preview", "restored", "preview"]
    page.evaluate("document.querySelectorAll('car-image')[2].scrollIntoView()")
    assert settled(page, 2) == "restored"
    page.evaluate("document.querySelectorAll('car-image')[0].style.width = '400px'")
    page.evaluate("scrollTo(0, 0)")
    assert settled(page, 0) == "restored"


def test_click_restores_and_leaving_stops(page: Any, viewer: Site, photo: Path) -> None:
    viewer.files["/small.png"] = png(car.downscale(picture(photo, 1600, 1100), 4))
    show(page, viewer, '<car-image src="small.png" restore="click"></car-image>')
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('car-image').state") == "preview"
    assert "/viewer/worker.js" not in viewer.asked
    page.locator("car-image").click()
    first_progress(page)
    page.evaluate("document.body.style.paddingTop = '3000px'")
    count = "document.querySelector('car-image').shadowRoot.querySelectorAll('canvas').length"
    assert page.evaluate(count) >= 1
    progress: list[int] = []
    page.expose_function("note_progress", lambda n: progress.append(n))
    element = "document.querySelector('car-image')"
    page.evaluate(f"{element}.addEventListener('car-progress', (e) => note_progress(e.detail.done))")
    noted = -1
    while noted < len(progress):  # tiles in hand are finished, no others begun
        noted = len(progress)
        page.wait_for_timeout(1500)
    assert page.evaluate(f"{element}.state") == "restoring"
    page.evaluate("document.body.style.paddingTop = '0'")
    assert settled(page) == "restored"


def test_a_change_of_source_leaves_nothing_behind(page: Any, viewer: Site, photo: Path) -> None:
    first, second = picture(photo, 1200, 900), picture(photo, 320, 256).rotate(180)
    viewer.files["/first.png"] = png(car.downscale(first, 4))
    small = car.downscale(second, 4)
    viewer.files["/second.png"] = png(small)
    show(page, viewer, '<car-image src="first.png" restore="now"></car-image>')
    first_progress(page)
    page.evaluate("document.querySelector('car-image').src = 'second.png'")
    page.evaluate("document.querySelector('car-image').restore()")
    page.wait_for_function("document.querySelector('car-image').info?.size[0] === 320")
    assert settled(page) == "restored"
    assert_one_level(painted(page)[..., :3], np.asarray(car.upscale(small)))


def test_restore_now_holds_for_later_sources_and_when_it_is_said_later(
    page: Any, viewer: Site, photo: Path
) -> None:
    for name, width in (("first", 160), ("second", 128)):
        viewer.files[f"/{name}.png"] = png(car.downscale(picture(photo, width), 4))
    # no wider than the small picture, so that size alone asks for nothing
    show(page, viewer, '<car-image src="first.png" restore="now" style="width: 30px"></car-image>')
    assert settled(page) == "restored"
    # states are collected, because between two looks at the page the picture may leave and reach a state
    page.evaluate(
        """() => {
            const image = document.querySelector("car-image");
            window.states = [];
            image.addEventListener("car-state", (event) => window.states.push(event.detail.state));
            image.src = "second.png";
        }"""
    )
    page.wait_for_function("['restored', 'failed'].includes(window.states.at(-1))")
    assert settled(page) == "restored"
    assert painted(page).shape[:2] == (128, 128)
    show(page, viewer, '<car-image src="first.png" restore="none" style="width: 30px"></car-image>')
    page.wait_for_function("document.querySelector('car-image').state === 'preview'")
    page.evaluate("document.querySelector('car-image').setAttribute('restore', 'now')")
    assert settled(page) == "restored"


def test_ten_pictures(page: Any, viewer: Site, photo: Path) -> None:
    wanted = []
    for number in range(10):
        image = picture(photo, 100 + 8 * number, 80).rotate(90 * number, expand=True)
        small = car.downscale(image, 4 if number % 2 else 2)
        viewer.files[f"/{number}.png"] = png(small)
        wanted.append(np.asarray(car.upscale(small)))
    style = "car-image { width: 300px; display: inline-block }"
    images = "".join(f'<car-image src="{n}.png" restore="now"></car-image>' for n in range(10))
    show(page, viewer, f"<style>{style}</style>{images}")
    for number, want in enumerate(wanted):
        page.evaluate(f"document.querySelectorAll('car-image')[{number}].scrollIntoView()")
        assert settled(page, number) == "restored"
        assert_one_level(painted(page, number)[..., :3], want)
    assert sum(path.endswith(".safetensors") for path in viewer.asked) == 2  # each network once


def test_of_a_huge_picture_only_what_is_in_view(page: Any, viewer: Site) -> None:
    y, x = np.mgrid[:2200, :3000]
    waves = np.stack([np.sin(x / 9 + c) * np.cos(y / (7 + c)) * 90 + 128 for c in range(3)], axis=2)
    small = Image.fromarray(waves.astype(np.uint8))
    template = car.downscale(Image.new("RGB", (8, 8)), 4)
    info = LRInfo.from_text(Image.open(io.BytesIO(png(template))).text["car"])
    assert info is not None
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text("car", replace(info, size=(12000, 8800), grey=False).to_text())
    viewer.files["/huge.png"] = png(small, pnginfo=about)
    page.set_viewport_size({"width": 400, "height": 300})
    show(page, viewer, '<car-image src="huge.png" style="width: 12000px" restore="visible"></car-image>')
    assert settled(page) == "restored"
    held = """[...document.querySelector('car-image').shadowRoot.querySelectorAll('canvas')]
        .reduce((sum, c) => sum + c.width * c.height, 0)"""
    assert 0 < page.evaluate(held) < 30e6
    page.evaluate("scrollTo(6000, 5000)")
    page.wait_for_function("document.querySelector('car-image').state === 'restoring'")
    assert settled(page) == "restored"
    assert 0 < page.evaluate(held) < 30e6
    with pytest.raises(Exception, match="not fully restored"):
        painted(page)
    # a canvas in the middle of what is in view has the values of Python
    region = small.crop((1500 - 64, 1250 - 64, 1500 + 128, 1250 + 128))
    want = np.asarray(car.upscale(region, 4, model="car_plus_x4"))[256:512, 256:512]
    got = page.evaluate(
        """([x, y]) => {
            const box = document.querySelector("car-image").getBoundingClientRect();
            for (const canvas of document.querySelector("car-image").shadowRoot.querySelectorAll("canvas")) {
                const at = canvas.getBoundingClientRect();
                const [left, top] = [x - (at.left - box.left), y - (at.top - box.top)];
                if (left >= 0 && top >= 0 && left + 256 <= at.width && top + 256 <= at.height)
                    return Array.from(
                        canvas.getContext("2d")
                            .getImageData(Math.round(left), Math.round(top), 256, 256).data
                    );
            }
        }""",
        [6000, 5000],
    )
    assert_one_level(np.array(got).reshape(256, 256, 4)[..., :3], want)


# --- by hand ---------------------------------------------------------------------------------------------


def test_keyboard_and_names(page: Any, viewer: Site, photo: Path) -> None:
    viewer.files["/small.png"] = png(car.downscale(picture(photo), 4))
    show(page, viewer, '<car-image src="small.png" alt="two boats" restore="click"></car-image>')
    page.wait_for_function("document.querySelector('car-image')?.state === 'preview'")
    page.keyboard.press("Tab")
    active = "document.activeElement.shadowRoot.activeElement"
    assert page.evaluate(f"{active}.getAttribute('aria-label')") == "two boats"
    assert page.locator("img[alt='two boats']").count() == 1
    page.keyboard.press("Enter")
    assert settled(page) == "restored"
    assert page.get_by_role("status").inner_text() == "Restored to 160 by 128 pixels"
    assert page.get_by_role("button", name="Restore full detail").count() == 0
    stage = page.locator("car-image .stage")
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert "scale(2.25)" in stage.get_attribute("style")
    before = stage.get_attribute("style")
    page.keyboard.press("ArrowRight")
    assert stage.get_attribute("style") != before
    page.keyboard.press("Escape")
    assert "scale" not in stage.get_attribute("style")
    page.keyboard.press("c")
    slider = page.get_by_role("slider", name="Compare the small picture with the restored one")
    assert slider.is_visible()
    slider.focus()
    clip = page.locator("car-image .layer").evaluate("(e) => e.style.clipPath")
    page.keyboard.press("ArrowRight")
    assert page.locator("car-image .layer").evaluate("(e) => e.style.clipPath") != clip
    page.keyboard.press("End")
    assert slider.input_value() == "100"
    assert page.problems == []


def test_slider_shows_both_sides(page: Any, viewer: Site, photo: Path) -> None:
    image = picture(photo, 480, 384)
    viewer.files["/small.png"] = png(car.downscale(image, 4))
    viewer.files["/original.png"] = png(Image.new("RGB", image.size, (255, 0, 0)))
    body = '<car-image src="small.png" original="original.png" compare restore="now"></car-image>'
    show(page, viewer, body)
    assert settled(page) == "restored"
    page.wait_for_function("document.querySelector('car-image').originalImage.complete")
    page.locator("car-image .slider").fill("75")
    shot = np.asarray(Image.open(io.BytesIO(page.locator("car-image").screenshot())).convert("RGB")).astype(
        int
    )
    red = (shot[60, :, 0] > 240) & (shot[60, :, 1] < 20)
    assert red[20:330].all()
    assert not red[370:].any()
    box = page.locator("car-image .slider").bounding_box()
    middle = (box["x"] + 18 + 0.75 * (box["width"] - 36), box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 200, middle[1], steps=5)
    page.mouse.up()
    assert int(page.locator("car-image .slider").input_value()) < 40


def test_an_original_that_cannot_be_shown_is_not_compared_with(page: Any, viewer: Site, photo: Path) -> None:
    image = picture(photo, 480, 384)
    viewer.files["/small.png"] = png(car.downscale(image, 4))
    viewer.files["/original.tif"] = png(image, format="TIFF")
    viewer.files["/original.png"] = png(image)
    body = '<car-image src="small.png" original="original.tif" compare restore="now"></car-image>'
    show(page, viewer, body)
    assert settled(page) == "restored"
    page.locator("car-image .note", has_text="The original cannot be shown").wait_for()
    label = page.locator("car-image .label.before")
    assert label.inner_text() == "Small"
    assert page.get_by_role("slider", name="Compare the small picture with the restored one").is_visible()
    clip = page.locator("car-image .layer").evaluate("(e) => e.style.clipPath")
    assert clip.startswith("inset(0")
    assert float(clip.split()[-1].removesuffix("px)")) > 200  # left of it the small picture is seen
    page.evaluate("document.querySelector('car-image').setAttribute('original', 'original.png')")
    page.locator("car-image .label.before", has_text="Original").wait_for()
    assert page.locator("car-image .note").is_hidden()


def test_zoom_restores_what_was_a_thumbnail(page: Any, viewer: Site, photo: Path) -> None:
    # wide enough that its buttons do not cover its middle
    viewer.files["/small.png"] = png(car.downscale(picture(photo, 640, 480), 4))
    show(page, viewer, '<car-image src="small.png" style="width: 160px"></car-image>')
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('car-image').state") == "preview"
    page.locator("car-image").dblclick()
    assert settled(page) == "restored"
    assert "scale(4)" in page.locator("car-image .stage").get_attribute("style")


# --- what goes wrong -------------------------------------------------------------------------------------


def small_file(photo: Path) -> bytes:
    return png(car.downscale(picture(photo), 4))


def failing(page: Any, site: Site, content: bytes | None) -> str:
    site.files.pop("/bad.png", None)
    if content is not None:
        site.files["/bad.png"] = content
    show(page, site, '<car-image src="bad.png" restore="now" alt="x"></car-image>')
    assert settled(page) == "failed"
    assert page.problems == []
    # both what the browser shows and what is restored are fetched, in no order
    page.wait_for_function("document.querySelector('car-image').small.complete")
    page.wait_for_function(
        """() => {
            const image = document.querySelector("car-image");
            const kind = image.small.naturalWidth > 0 ? "Not restored, only enlarged: " : "Cannot be shown: ";
            return image.note.textContent.startsWith(kind);
        }"""
    )
    return note(page)


def test_broken_files_are_said_to_be(page: Any, viewer: Site, photo: Path) -> None:
    good = small_file(photo)
    assert "has no metadata" in failing(page, viewer, png(picture(photo)))
    assert failing(page, viewer, None).startswith("Cannot be shown: the picture cannot be")
    assert "end of the file is missing" in failing(page, viewer, good[: len(good) // 2])
    middle = good.index(b"IDAT") + 300
    failing(page, viewer, good[:middle] + bytes(200) + good[middle + 200 :])
    lying = good.replace(b",4,", b",0,", 1)  # the scale; the chunk's checksum no longer fits
    assert lying != good
    assert "metadata is damaged" in failing(page, viewer, lying)
    failing(page, viewer, good.replace(b"car:[", b"car:{", 1))
    assert failing(page, viewer, b"").startswith("Cannot be shown: ")


def test_missing_wrong_and_damaged_weights(page: Any, viewer: Site, photo: Path) -> None:
    content = small_file(photo)
    own, other = (load(f"car_plus_x{s}").short_hash for s in (4, 2))
    address = f"/viewer/models/{own}.safetensors"
    right = viewer.files.pop(address)
    assert "does not have the weights" in failing(page, viewer, content)
    viewer.files[address] = viewer.files[f"/viewer/models/{other}.safetensors"]
    assert "not those that made the picture" in failing(page, viewer, content)
    assert isinstance(right, bytes)
    viewer.files[address] = right[:-100] + bytes(100)
    assert "damaged" in failing(page, viewer, content)
    viewer.files[address] = right[:1000]
    assert "damaged" in failing(page, viewer, content)
    viewer.files[address] = right
    page.get_by_role("button", name="Restore full detail").click()
    assert settled(page) == "restored"


def test_weights_are_kept_for_when_there_is_no_network(page: Any, viewer: Site, photo: Path) -> None:
    viewer.files["/small.png"] = small_file(photo)
    show(page, viewer, '<car-image src="small.png" restore="now"></car-image>')
    assert settled(page) == "restored"
    asked = sum(path.endswith(".safetensors") for path in viewer.asked)
    page.reload()
    assert settled(page) == "restored"
    assert sum(path.endswith(".safetensors") for path in viewer.asked) == asked == 1
    page.evaluate(
        "document.querySelector('car-image').src = URL.createObjectURL(new Blob([new Uint8Array(9)]))"
    )
    page.context.set_offline(True)
    page.evaluate("document.querySelector('car-image').src = 'other.png'")
    page.evaluate("document.querySelector('car-image').restore()")
    assert settled(page) == "failed"


def test_a_metadata_hash_of_other_weights_asks_for_no_strange_path(
    page: Any, viewer: Site, photo: Path
) -> None:
    good = small_file(photo)
    own = load("car_plus_x4").short_hash.encode()
    bad = good.replace(own, b"../../../../../x")
    # the checksum of the text chunk is no longer right, which browsers do not mind
    failing(page, viewer, bad)
    assert not [path for path in viewer.asked if path.endswith(".safetensors")]
