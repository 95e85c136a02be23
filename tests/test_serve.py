"""The HTTP service as a process, over real connections."""

import gzip
import io
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import car
from car.pictures.formats import PNG_SIGNATURE, png_chunk
from car.pictures.info import read_header
from car.weights import load, manifest
from commandline import run_car
from processes import LIMIT, Process, start_car, wait_until

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")


@contextmanager
def serving(*arguments: object, cache: Path) -> Generator[tuple[str, Process], None, None]:
    # a pipe that nobody reads holds little, so no line for each request by default
    with start_car(
        "serve", "--no-access-log", *arguments, "--port", 0, env={"CAR_CACHE": str(cache)}
    ) as process:
        line = process.line()
        assert line.startswith("listening on "), process.stderr.read()
        yield line.split()[-1], process


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Path) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "deeper").mkdir()
    image = Image.open(photo).convert("RGB")
    image.save(folder / "a photo #1?.jpg", quality=95)
    image.rotate(90, expand=True).save(folder / "deeper" / "b.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"no text, this name")
    (folder / "notes.txt").write_text("private")
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    image.save(secret)
    (folder / "out.png").symlink_to(secret)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    cache = tmp_path_factory.mktemp("cache")
    limits = ("--max-bytes", "2MB", "--max-pixels", 4_000_000, "--upload-timeout", 4, "--timeout", LIMIT)
    with serving(folder, *limits, cache=cache) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(service: str) -> Generator[Any, None, None]:
    with httpx.Client(base_url=service, timeout=LIMIT) as client:
        yield client


def pixels(content: bytes) -> "np.ndarray[Any, Any]":
    return np.asarray(Image.open(io.BytesIO(content)))


def one_line(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    (message,) = answer.json().values()
    assert answer.json().keys() == {"error"}
    assert "\n" not in message
    assert "Traceback" not in message
    assert str(Path.cwd()) not in message
    return message


# --- what it does ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 4])
def test_there_and_back(client: Any, photo: Path, tmp_path: Path, scale: int) -> None:
    answer = client.post(f"/v1/downscale?scale={scale}", content=photo.read_bytes())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    small = tmp_path / "small.png"
    small.write_bytes(answer.content)
    info = read_header(small).info
    assert info is not None
    assert (info.model, info.size) == (f"car_plus_x{scale}", Image.open(photo).size)
    want = np.asarray(car.downscale(photo, scale))
    assert np.abs(pixels(answer.content).astype(int) - want).max() <= 1
    back = client.post("/v1/upscale", content=answer.content)
    assert back.status_code == 200
    assert np.abs(pixels(back.content).astype(int) - np.asarray(car.upscale(small))).max() <= 1
    jpeg = client.post("/v1/upscale?format=jpg&quality=90", content=answer.content)
    assert jpeg.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(jpeg.content)).format == "JPEG"


def test_what_is_measured(client: Any, photo: Path) -> None:
    answer = client.post("/v1/compare", content=photo.read_bytes()).json()
    assert (answer["width"], answer["height"]) == Image.open(photo).size
    assert answer["bytes"] == photo.stat().st_size
    small = client.post("/v1/downscale", content=photo.read_bytes())
    assert answer["small_bytes"] == len(small.content)
    assert answer["restored"]["psnr"] > answer["bicubic"]["psnr"] + 1


def test_models(client: Any) -> None:
    listed = {model["name"]: model for model in client.get("/v1/models").json()}
    assert listed["car_plus_x4"]["scale"] == 4
    tag = listed["car_plus_x2"]["weights"][-1]
    assert load(tag).tag == tag


def test_folder_cache_and_etag(client: Any, folder: Path) -> None:
    assert client.get("/v1/pictures").json() == [
        "a photo #1?.jpg",
        "broken.png",
        "deeper/b.png",
    ]
    address = "/small/a%20photo%20%231%3F.jpg"
    first = client.get(address)
    assert first.status_code == 200
    want = np.asarray(car.downscale(folder / "a photo #1?.jpg", 4))
    assert np.abs(pixels(first.content).astype(int) - want).max() <= 1
    tag = first.headers["etag"]
    again = client.get(address, headers={"If-None-Match": f'"other", {tag}'})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head(address)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(first.content)
    assert "car_cache_hits 1.0" in client.get("/metrics").text
    assert client.get(f"{address}?scale=2").headers["etag"] != tag
    assert client.get("/small/deeper/b.png?format=webp").headers["content-type"] == "image/webp"
    picture = Image.open(folder / "a photo #1?.jpg").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture.save(folder / "a photo #1?.jpg", quality=95)
    changed = client.get(address, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.content != first.content


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "avif", "tiff"])
def test_what_is_kept_of_exif(client: Any, folder: Path, photo: Path, format: str) -> None:
    exif = Image.Exif()
    exif.update({0x010F: "Maker", 0x0131: "a tool"})
    exif[0x8825] = {1: "N", 2: (48.0, 8.0, 14.0)}
    file = io.BytesIO()
    with Image.open(photo) as image:
        image.convert("RGB").save(file, "JPEG", exif=exif.tobytes())

    def kept(content: bytes) -> tuple[bool, bool, bool]:
        found = Image.open(io.BytesIO(content)).getexif()
        return found.get(0x010F) == "Maker", found.get(0x0131) == "a tool", 2 in found.get_ifd(0x8825)

    tags: set[str] = set()
    name = f"{format}-exif.jpg"
    (folder / name).write_bytes(file.getvalue())
    try:
        for how, expected in {
            "": (False, False, False),
            "&exif=none": (False, False, False),
            "&exif=keep": (True, False, False),
            "&exif=all": (True, True, True),
        }.items():
            small = client.post(f"/v1/downscale?format={format}{how}", content=file.getvalue())
            assert kept(small.content) == expected
            assert (
                kept(client.post(f"/v1/upscale?format={format}{how}", content=small.content).content)
                == expected
            )
            for _ in range(2):  # the second time, it is from the cache
                answer = client.get(f"/small/{name}?format={format}{how}")
                assert kept(answer.content) == expected
            tags.add(answer.headers["etag"])
    finally:
        (folder / name).unlink()
    assert len(tags) == 3
    assert "exif" in one_line(client.post("/v1/downscale?exif=some", content=file.getvalue()), 422)
    described = client.get("/openapi.json").json()["paths"]
    for path, method in (("/v1/downscale", "post"), ("/v1/upscale", "post"), ("/small/{name}", "get")):
        (about,) = (one for one in described[path][method]["parameters"] if one["name"] == "exif")
        assert about["schema"]["enum"] == ["none", "keep", "all"]


def test_every_listed_picture_can_be_had(client: Any, folder: Path) -> None:
    deep = "/".join(["d" * 200] * 6)
    names = [
        "two\nlines.png",
        "a%2Fb.png",
        "c+d&e=f.png",
        "grüße 山.png",
        " .png",
        "ünd\u0301.png",
        f"{deep}/x.png",
    ]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((folder / "deeper" / "b.png").read_bytes())
    try:
        listed = client.get("/v1/pictures").json()
        answers = {name: client.get(f"/small/{quote(name)}").status_code for name in listed}
    finally:  # other tests use the folder
        for name in names:
            (folder / name).unlink()
        shutil.rmtree(folder / deep.partition("/")[0])
    assert set(names) < set(listed)
    assert answers == {name: 422 if name == "broken.png" else 200 for name in listed}


def test_pages_and_viewer(client: Any) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/viewer/car-image.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/viewer/network.wasm").headers["content-type"] == "application/wasm"
    weights = client.get(f"/viewer/models/{load('car_plus_x4').short_hash}.safetensors")
    assert weights.status_code == 200
    assert "immutable" in weights.headers["cache-control"]
    one_line(client.get("/viewer/models/0000.safetensors"), 404)
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz", timeout=LIMIT).status_code == 200
    client.post("/v1/downscale", content=b"junk")
    assert 'car_requests_total{route="/v1/downscale",status="422"}' in client.get("/metrics").text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_what_watches_may_ask_for_headers_alone(client: Any, path: str) -> None:
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    own = ("date", "content-length")  # metrics count these requests too
    for name in get.headers.keys() - own:
        assert head.headers[name] == get.headers[name]
    assert get.headers.keys() == head.headers.keys()
    if path != "/metrics":
        assert head.headers["content-length"] == get.headers["content-length"]


# --- what it refuses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "deeper/../a.png",
        "out.png",
        "notes.txt",
        "deeper",
        "a%00.png",
        "none.png",
        "\udcff.png".encode("utf-8", "surrogateescape").hex(),
    ],
)
def test_no_way_out_of_the_folder(client: Any, name: str) -> None:
    one_line(client.get(f"/small/{name}"), 404)


def test_broken_and_foreign_bodies(client: Any, photo: Path) -> None:
    content = photo.read_bytes()
    for body in (b"", b"hello", content[: len(content) // 3], b"\x89PNG\r\n\x1a\n" + bytes(50)):
        one_line(client.post("/v1/downscale", content=body), 422)
        one_line(client.post("/v1/upscale", content=body), 422)
        one_line(client.post("/v1/compare", content=body), 422)
    assert "name a model or a scale" in one_line(client.post("/v1/upscale", content=content), 422)
    assert "not a form" in one_line(client.post("/v1/downscale", files={"file": content}), 415)
    one_line(client.get("/small/broken.png"), 422)
    one_line(client.get("/nowhere"), 404)
    one_line(client.get("/v1/downscale"), 405)


def test_models_are_names_and_never_files(client: Any, photo: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(Path(car.__file__).parent.joinpath("weights", manifest()[0].file).read_bytes())
    for name in (str(own), "own.safetensors", "kgn.ckpt,usn.ckpt", "car_small_x4", "nonsense"):
        message = one_line(client.post("/v1/downscale", params={"model": name[:64]}, content=b"x"), 422)
        assert "no model is called" in message
    small = client.post("/v1/downscale", content=photo.read_bytes()).content
    hash_ = load("car_plus_x4").short_hash.encode()
    image = Image.open(io.BytesIO(small))
    text = image.info["car"].replace("car_plus_x4", "own.safetensors").replace(hash_.decode(), "")
    lying, about = io.BytesIO(), PngImagePlugin.PngInfo()
    about.add_text("car", text)
    image.save(lying, "PNG", pnginfo=about)
    message = one_line(client.post("/v1/upscale", content=lying.getvalue()), 422)
    assert "of own.safetensors, which this version does not ship" in message
    assert "--model" not in message  # which a service does not have
    for query in ("scale=17", "scale=1&model=car_plus_x4", "scale=nan", "scale=2&size=9", "size=0"):
        one_line(client.post(f"/v1/downscale?{query}", content=small), 422)
    one_line(client.post("/v1/downscale?effort=10", content=small), 422)


def test_fast(client: Any, photo: Path) -> None:
    fast, corrected = (
        client.post(f"/v1/downscale?model=car_plus_x4&fast={fast}", content=photo.read_bytes()).content
        for fast in ("true", "false")
    )
    expected = car.downscale(photo, model="car_plus_x4", options=car.Options(device="cpu", fast=True))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(fast))), np.asarray(expected))
    assert fast != corrected


def test_what_a_small_picture_says_is_not_contradicted(client: Any, photo: Path) -> None:
    small = client.post("/v1/downscale?scale=4", content=photo.read_bytes()).content
    for query in ("scale=2", "model=car_plus_x2", "model=car_codec_x2"):
        message = one_line(client.post(f"/v1/upscale?{query}", content=small), 422)
        assert message == "the picture was made at scale 4, not 2"
    plain = client.post("/v1/upscale", content=small)
    for query in ("scale=4", "model=car_plus_x4", "scale=4&model=car_plus_x4"):
        assert client.post(f"/v1/upscale?{query}", content=small).content == plain.content
    other = client.post("/v1/upscale?model=car_codec_x4", content=small)
    assert pixels(other.content).shape == pixels(plain.content).shape
    assert "restored by car_codec_x4" in other.headers["car-notes"]


@pytest.mark.parametrize("format", ["jpg", "webp", "avif", "tiff"])
def test_small_files_are_those_of_the_command(
    client: Any, folder: Path, photo: Path, tmp_path: Path, format: str
) -> None:
    quality = None if format == "tiff" else 60
    query = f"format={format}" + (f"&quality={quality}" if quality else "")
    answer = client.post(f"/v1/downscale?{query}", content=photo.read_bytes())
    assert answer.headers["content-type"] == f"image/{format.replace('jpg', 'jpeg')}"
    target = tmp_path / f"small.{format}"
    more = ("--quality", quality) if quality else ()
    assert run_car("downscale", photo, "-o", target, *more).returncode == 0
    info = read_header(answer.content).info
    assert info == read_header(target).info
    assert info is not None
    assert info.model == ("car_codec_x4" if quality else "car_plus_x4")
    assert abs(len(answer.content) / target.stat().st_size - 1) < 0.01  # other threads, other last bits
    kept = client.get(f"/small/deeper/b.png?{query}")
    assert kept.headers["content-type"] == answer.headers["content-type"]
    assert client.get(f"/small/deeper/b.png?{query}").content == kept.content
    if quality:
        finer = client.get(f"/small/deeper/b.png?format={format}&quality=85")
        assert finer.headers["etag"] != kept.headers["etag"]
        assert len(finer.content) > len(kept.content)


def test_a_quality_needs_a_format_that_has_one(client: Any, photo: Path) -> None:
    small = client.post("/v1/downscale", content=photo.read_bytes()).content
    for query in ("format=png&quality=5", "quality=5", "format=tiff&quality=90"):
        for answer in (
            client.post(f"/v1/upscale?{query}", content=small),
            client.post(f"/v1/downscale?{query}", content=photo.read_bytes()),
            client.get(f"/small/deeper/b.png?{query}"),
        ):
            assert "quality needs the format jpg, webp or avif" in one_line(answer, 422)
    low, high = (
        client.post(f"/v1/upscale?format=jpg&quality={quality}", content=small) for quality in (20, 90)
    )
    assert len(low.content) < len(high.content) / 2


def test_each_request_is_a_line_of_the_access_log(photo: Path, tmp_path: Path) -> None:
    line = re.compile(
        r"127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "
        r'"(.*) HTTP/1\.1" (\d+) (\d+) (\d+\.\d{3})'
    )
    for switch in ("--access-log", "--no-access-log"):
        with serving(switch, cache=tmp_path) as (url, process):
            small = httpx.post(f"{url}/v1/downscale?scale=4", content=photo.read_bytes(), timeout=LIMIT)
            httpx.get(f"{url}/nothing%0Ahere%22?%22", timeout=LIMIT)
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT)
            logged = process.stderr.read().splitlines()
        if switch == "--no-access-log":
            assert logged == []
            continue
        first, second = (line.fullmatch(entry) for entry in logged)
        assert first is not None
        assert second is not None
        assert first.groups()[:3] == ("POST /v1/downscale?scale=4", "200", str(len(small.content)))
        assert second.groups()[:2] == ("GET /nothing%0Ahere%22?%22", "404")


def test_any_scale_and_size_is_that_of_the_library(client: Any, photo: Path) -> None:
    for query, values in (
        ("scale=2.5", {"scale": 2.5}),
        ("size=64", {"size": 64}),
        ("width=100", {"width": 100}),
    ):
        answer = client.post(f"/v1/downscale?{query}", content=photo.read_bytes())
        assert np.array_equal(pixels(answer.content), np.asarray(car.downscale(photo, **values)))
        restored = client.post("/v1/upscale", content=answer.content)
        assert pixels(restored.content).shape == (192, 160, 3)
    assert client.post("/v1/compare?size=64", content=photo.read_bytes()).json()["scale"] == 3
    too_small = one_line(client.post("/v1/downscale?size=191", content=photo.read_bytes()), 422)
    assert "at most 128x154 is possible" in too_small


def test_a_scale_alone_enlarges_a_thumbnail_as_such(client: Any, photo: Path) -> None:
    small = Image.open(photo).resize((40, 48))
    for kind in ("JPEG", "PNG"):
        content = io.BytesIO()
        small.save(content, kind)
        answer = client.post("/v1/upscale?scale=2", content=content.getvalue())
        assert answer.status_code == 200
        assert "enlarged as an ordinary thumbnail" in answer.headers["car-notes"]
        content.seek(0)
        with pytest.warns(UserWarning, match="ordinary thumbnail"):
            expected = np.asarray(car.upscale(Image.open(content), scale=2)).astype(int)
        assert np.abs(pixels(answer.content) - expected).max() <= 1


@pytest.mark.parametrize("change", [("160,192", "-5,10"), (",4,", ',"4",'), ("]", "")])
def test_damaged_metadata_is_said_to_be(client: Any, photo: Path, change: tuple[str, str]) -> None:
    small = Image.open(io.BytesIO(client.post("/v1/downscale", content=photo.read_bytes()).content))
    damaged, about = io.BytesIO(), PngImagePlugin.PngInfo()
    assert change[0] in small.info["car"]
    about.add_text("car", small.info["car"].replace(*change))
    small.save(damaged, "PNG", pnginfo=about)
    message = one_line(client.post("/v1/upscale", content=damaged.getvalue()), 422)
    assert "the metadata of the small picture is damaged" in message
    assert message.endswith("; name a model or a scale")
    assert client.post("/v1/upscale?scale=4", content=damaged.getvalue()).status_code == 200


def test_sizes(client: Any, service: str) -> None:
    one_line(client.post("/v1/downscale", content=bytes(2_000_001)), 413)

    def pieces() -> Generator[bytes, None, None]:
        for _ in range(100):
            yield bytes(100_000)

    one_line(httpx.post(f"{service}/v1/downscale", content=pieces(), timeout=LIMIT), 413)
    big = io.BytesIO()
    Image.new("RGB", (2100, 2000)).save(big, "PNG")
    message = one_line(client.post("/v1/downscale", content=big.getvalue()), 413)
    assert message == "2100 x 2000 pixels exceed the limit of 4000000"
    small = io.BytesIO()
    Image.new("RGB", (600, 600)).save(small, "PNG")
    one_line(client.post("/v1/upscale?scale=4", content=small.getvalue()), 413)


def raw(url: str, request: bytes, then: Callable[[socket.socket], None] | None = None) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT) as connection:
        connection.sendall(request)
        if then:
            then(connection)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_lying_and_slow_clients(service: str) -> None:
    start = b"POST /v1/downscale HTTP/1.1\r\nHost: x\r\nContent-Length: "
    assert b" 413 " in raw(service, start + b"99999999999\r\n\r\n")
    assert b" 400 " in raw(service, start + b"-5\r\n\r\n")
    assert b" 408 " in raw(service, start + b"1000\r\n\r\nonly a little")


def coloured(number: int) -> bytes:
    """Return a picture that no other number has, and whose small picture tells which it was."""
    file = io.BytesIO()
    colour = (number % 8 * 32 + 16, number // 8 % 8 * 32 + 16, number // 64 % 8 * 32 + 16)
    Image.new("RGB", (32, 32), colour).save(file, "PNG")
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG_SIGNATURE + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")


Odd = tuple[str, str, dict[str, str], bytes]
"""Method, path, headers and body of a request."""
WORK = ("/v1/downscale", "/v1/upscale", "/v1/compare")


def odd_requests() -> dict[str, list[Odd]]:
    """Return requests that make no sense, by kinds."""
    picture = coloured(1)

    def post(*queries: str, body: bytes = picture, to: tuple[str, ...] = WORK[:1]) -> list[Odd]:
        return [("POST", path + query, {}, body) for path in to for query in queries]

    def typed(*kinds: str) -> list[Odd]:
        return [("POST", WORK[0], {"Content-Type": kind}, b"--x\r\n\r\nx\r\n--x--") for kind in kinds]

    def packed(*kinds: str) -> list[Odd]:
        return [("POST", WORK[0], {"Content-Encoding": kind}, gzip.compress(picture)) for kind in kinds]

    numbers = "nan", "inf", "-inf", "-4", "0", "1", "16.5", "1e400", "four", "4,0", "0x4", "", "%00", "4%0A4"
    sizes = "0", "-1", "1.5", "nan", "9" * 40, "1e3x", "%F0%9F%98%80"
    models = "", "x" * 65, "..%2F..%2Fetc%2Fpasswd", "car_plus_x4%00", "car_plus_x9", "%FF%FE", "CAR_PLUS_X4"
    names = (
        "",
        "%2e%2e%2fsecret.png",
        "a%0Ab.png",
        "%FF.png",
        "x" * 4000 + ".png",
        "x" * 5000,
        "C:%5Ca.png",
    )
    return {
        "scales": post(*(f"?scale={n}" for n in numbers), to=WORK),
        "sizes": post(*(f"?{of}={n}" for of in ("size", "width", "height", "megapixels") for n in sizes[:5])),
        "odd sizes": post(*(f"?size={n}" for n in sizes)),
        "models": post(*(f"?model={name}" for name in models), to=WORK),
        "options": post(
            *(
                "?format=gif",
                "?format=PNG",
                "?format=",
                "?quality=0",
                "?quality=101",
                "?quality=9.5&format=jpg",
            ),
            *(
                "?quality=50",
                "?quality=50&format=bmp",
                "?effort=-1",
                "?effort=10",
                "?effort=x",
                "?fast=maybe",
            ),
            *(
                "?exif=some",
                "?fromat=webp",
                "?scale=4&scale=2",
                "?scale=4&size=9",
                "?Scale=4",
                "?=4",
                "?%00=1",
            ),
        ),
        "bodies": post("", body=b"", to=WORK)
        + post("", body=bytes(1000), to=WORK)
        + post("", body=picture[: len(picture) // 2], to=WORK)
        + post("", body=b"<svg xmlns='http://www.w3.org/2000/svg'/>", to=WORK)
        + post("", body=b"GIF89a" + b"\xff" * 300, to=WORK)
        + post("", body=b"II*\0" + b"\xff" * 300, to=WORK),
        "huge sizes": [
            *post("", body=png_of(2**31 - 1, 2**31 - 1), to=WORK),
            *post("", body=png_of(0, 5), to=WORK),
            *post("", body=png_of(1, 2**31 - 1), to=WORK),
        ],
        "content types": typed("multipart/form-data; boundary=x", "Multipart/Mixed", "multipart/"),
        "encodings": packed("gzip", "br", "x, y, z"),
        "methods": [
            (method, path, {}, b"")
            for method in ("PUT", "DELETE", "PATCH", "TRACE", "BREW", "GET")
            for path in (*WORK, "/healthz", "/small/a.png", "/", "/metrics")
            if method != "GET" or path in WORK
        ],
        "paths": [
            ("GET", path, {}, b"")
            for path in (
                "/nowhere",
                "/v1",
                "/V1/downscale",
                "/v1/downscale/..",
                "/viewer/..%2f..%2fapp.py",
                "/viewer/models/%00",
                "/static/..%2fapp.py",
                "/static/",
                "/v1/models?x=1",
                "/v1/pictures?limit=-1",
            )
        ],
        "names": [("GET", f"/small/{name}", {}, b"") for name in names],
    }


@pytest.mark.parametrize("kind", odd_requests())
def test_odd_requests_are_refused_in_a_line(client: Any, photo: Path, kind: str) -> None:
    wrong = []
    for method, path, headers, body in odd_requests()[kind]:
        answer = client.request(method, path, headers=headers, content=body)
        try:
            assert 400 <= answer.status_code < 500
            assert len(one_line(answer, answer.status_code)) > 5
        except (AssertionError, ValueError) as error:
            wrong.append(f"{method} {path[:80]} {body[:20]!r}: {answer.status_code}, {error}")
    assert wrong == []
    assert client.post("/v1/downscale?scale=4", content=coloured(1)).status_code == 200


@pytest.mark.parametrize(
    "lines",
    [
        ["GET /"],
        ["\0\1\2\3"],
        ["POST /v1/downscale HTTP/1.1", "Content-Length: 1" + "0" * 5000],
        ["POST /v1/downscale HTTP/1.1", "Content-Length: 5", "Content-Length: 6"],
        ["POST /v1/downscale HTTP/1.1", "Content-Length: five"],
        ["POST /v1/downscale HTTP/1.1", "Transfer-Encoding: chunked", "", "zz", "hello"],
        ["GET /healthz HTTP/1.1", "A header without a colon"],
        ["GET /healthz HTTP/1.1", "Name with spaces: x"],
        ["GET /" + "a" * 100_000 + " HTTP/1.1"],
    ],
    ids=lambda lines: " | ".join(lines)[:60],
)
def test_broken_http_is_refused(client: Any, service: str, lines: list[str]) -> None:
    answer = raw(service, "\r\n".join([*lines[:1], "Host: x", *lines[1:], "", ""]).encode())
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:200]
    assert client.get("/healthz").status_code == 200


def test_each_operation_has_a_name_of_its_own(client: Any) -> None:
    from car.serve.app import create_app
    from car.serve.settings import Settings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        described = create_app(Settings()).openapi()
    assert described["paths"] == client.get("/openapi.json").json()["paths"]
    names = [o["operationId"] for methods in described["paths"].values() for o in methods.values()]
    assert {"get", "head"} <= described["paths"]["/small/{name}"].keys()
    assert len(names) == len(set(names))


def test_what_is_described_is_what_happens(service: str) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    command = [str(Path(sys.executable).parent / "st"), "run", f"{service}/openapi.json"]
    command += ["--max-examples", "3", "--seed", "1", "--phases", "examples,coverage,fuzzing"]
    command += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"]
    command[-1] += "response_schema_conformance"
    del schemathesis
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout[-4000:]


# --- under load ------------------------------------------------------------------------------------------


def test_hundreds_of_mixed_requests(service: str, folder: Path) -> None:
    def ask(number: int) -> str | None:
        client = clients[number % 8]
        kind = number % 10
        if kind == 0:
            return None if client.get("/healthz").status_code == 200 else "health"
        if kind == 1:
            return None if client.post("/v1/downscale", content=b"junk").status_code == 422 else "junk"
        if kind == 2:
            return None if client.get("/small/deeper/b.png").status_code == 200 else "folder"
        for _ in range(100):
            answer = client.post("/v1/downscale?scale=4", content=coloured(number))
            if answer.status_code != 503:
                break
            time.sleep(0.05)
        if answer.status_code != 200:
            return f"{number}: {answer.status_code}"
        got = pixels(answer.content)
        want = pixels(coloured(number))[:8, :8]
        near = got.shape == (8, 8, 3) and np.abs(got.astype(int) - want)[2:6, 2:6].max() <= 12
        return None if near else f"{number}: another's picture"

    clients = [httpx.Client(base_url=service, timeout=LIMIT) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        problems = [p for p in threads.map(ask, range(200)) if p]
    for client in clients:
        client.close()
    assert problems == []


@pytest.fixture(scope="module")
def content(photo: Path) -> bytes:
    """A picture that takes two seconds at effort 2, and many more at effort 9."""
    file = io.BytesIO()
    Image.open(photo).convert("RGB").resize((320, 320)).save(file, "PNG")
    return file.getvalue()


def test_more_than_may_wait_is_turned_away(content: bytes, tmp_path: Path) -> None:
    with serving("--concurrency", 1, "--queue", 1, "--timeout", LIMIT, cache=tmp_path) as (url, _):
        with ThreadPoolExecutor(6) as threads:
            post = lambda _: httpx.post(f"{url}/v1/downscale?effort=2", content=content, timeout=LIMIT)  # noqa: E731
            answers = list(threads.map(post, range(6)))
        by_status = sorted(answer.status_code for answer in answers)
        assert by_status.count(200) >= 2
        assert by_status.count(503) >= 2
        assert set(by_status) == {200, 503}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert int(refused.headers["retry-after"]) > 0
        one_line(refused, 503)
        assert httpx.post(f"{url}/v1/downscale", content=content, timeout=LIMIT).status_code == 200


def test_what_takes_too_long_is_given_up_and_still_counted(content: bytes, tmp_path: Path) -> None:
    with serving("--timeout", 0.3, "--concurrency", 1, "--queue", 0, cache=tmp_path) as (url, _):
        one_line(httpx.post(f"{url}/v1/downscale?effort=4", content=content, timeout=LIMIT), 503)
        # its thread is still at it
        one_line(httpx.post(f"{url}/v1/downscale", content=content, timeout=LIMIT), 503)
        # what is no work on a picture does not wait for it
        assert httpx.get(f"{url}/v1/pictures", timeout=LIMIT).json() == []
        weights = f"{url}/viewer/models/{load('car_plus_x4').short_hash}.safetensors"
        assert httpx.get(weights, timeout=LIMIT).status_code == 200
        assert httpx.head(f"{url}/readyz", timeout=LIMIT).status_code == 503
        assert httpx.get(f"{url}/readyz", timeout=LIMIT).status_code == 503
        assert httpx.get(f"{url}/healthz", timeout=LIMIT).status_code == 200
        assert "car_work_in_hand 1.0" in httpx.get(f"{url}/metrics", timeout=LIMIT).text
        with httpx.Client(timeout=LIMIT) as client:
            wait_until(lambda: client.get(f"{url}/readyz").status_code == 200)


def test_stopping_finishes_what_is_in_hand(content: bytes, tmp_path: Path) -> None:
    with serving("--concurrency", 1, "--timeout", LIMIT, cache=tmp_path) as (url, process):
        answers: list[Any] = []
        asking = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{url}/v1/downscale?effort=2", content=content, timeout=LIMIT)
            )
        )
        asking.start()
        work_in_hand(url)
        process.send_signal(signal.SIGTERM)
        asking.join(LIMIT)
        assert answers[0].status_code == 200
        assert process.wait() == 0
        assert process.stderr.read() == ""


def work_in_hand(url: str) -> None:
    """Wait until there is some."""
    with httpx.Client(timeout=LIMIT) as client:
        wait_until(lambda: "car_work_in_hand 1.0" in client.get(f"{url}/metrics").text)


@pytest.mark.parametrize("why", ["it took too long", "the client left"])
def test_stopping_does_not_wait_for_what_nobody_waits_for(content: bytes, tmp_path: Path, why: str) -> None:
    limit = 0.3 if why == "it took too long" else LIMIT
    with serving("--concurrency", 1, "--timeout", limit, cache=tmp_path) as (url, process):
        address = f"{url}/v1/downscale?effort=9"
        if why == "it took too long":
            one_line(httpx.post(address, content=content, timeout=LIMIT), 503)
        else:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(address, content=content, timeout=httpx.Timeout(LIMIT, read=2))
        work_in_hand(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(content: bytes, tmp_path: Path, number: int) -> None:
    with serving("--concurrency", 1, "--timeout", LIMIT, cache=tmp_path) as (url, process):

        def ask() -> None:
            with pytest.raises(httpx.HTTPError):
                httpx.post(f"{url}/v1/downscale?effort=9", content=content, timeout=LIMIT)

        asking = threading.Thread(target=ask)
        asking.start()
        work_in_hand(url)
        process.send_signal(number)
        with pytest.raises(TimeoutError):
            process.wait(2)  # it goes on for who waits
        process.send_signal(number)
        assert process.wait() == 130
        asking.join(LIMIT)


def test_bad_requests_of_the_command(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        cases = {
            (tmp_path / "none",): "no such folder",
            ("--port", taken.getsockname()[1]): "cannot listen",
            ("--host", "no.such.host.invalid"): "cannot listen",
            ("--max-bytes", "lots"): "--max-bytes needs a size",
            ("--scale", 17): "the scale must be a number from",
        }
        for arguments, message in cases.items():
            done = run_car("serve", *arguments)
            assert done.returncode == 2, done.stderr
            assert message in done.stderr
            assert len(done.stderr.splitlines()) == 1


def test_front_page(browser: Any, service: str, photo: Path) -> None:
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.goto(service)
    page.set_input_files("#file", str(photo))
    page.locator("#stage car-image[data-state='restored']").wait_for()
    page.wait_for_selector("#numbers div:nth-child(4)")
    numbers = page.locator("#numbers").inner_text()
    assert "160 × 192" in numbers or "192 × 160" in numbers
    assert numbers.count("dB") == 2
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the restored picture").click()
    assert Image.open(download.value.path()).size == Image.open(photo).size
    page.get_by_role("spinbutton", name="Longer side in pixels").fill("64")
    page.keyboard.press("Tab")
    page.locator("#numbers", has_text="54 × 64").wait_for()
    assert page.locator("#small").get_attribute("download") == f"{photo.stem}.size64.png"
    page.locator("#pictures car-image[alt='deeper/b.png']").click()
    page.locator("#pictures car-image[alt='deeper/b.png'][data-state='restored']").wait_for()
    # neither is the page as long as a long picture, nor does a small one take no bytes
    long = io.BytesIO()
    Image.new("RGB", (3, 500), "red").save(long, "PNG")
    page.set_input_files("#file", {"name": "long.png", "mimeType": "image/png", "buffer": long.getvalue()})
    page.locator("#stage car-image[alt='long.png, restored']").wait_for()
    page.locator("#stage .small").evaluate("(image) => image.decode()")
    assert page.evaluate("document.documentElement.scrollHeight") < 3 * 900
    numbers = page.locator("#numbers").inner_text()
    assert f"{len(long.getvalue())} bytes" in numbers
    page.set_input_files("#file", {"name": "junk.png", "mimeType": "image/png", "buffer": b"junk"})
    page.locator("#message", has_text="not a picture").wait_for()
    assert [p for p in problems if "422" not in p] == []
    context.close()
