"""Weights are fetched whole and checked, or not at all, from a server that behaves badly in many ways."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import car
import car.weights.pull as pull_module
from car import families
from car.errors import UsageError, WeightsError
from car.models import create
from car.models.published import published_pair
from car.weights import find
from car.weights.convert import pair_files, weights_bytes
from car.weights.pull import OFFICIAL, Limits, pull
from car.weights.store import cache_folder, pulled, pulled_models
from commandline import run_car

QUICK = Limits(attempts=4, pause=0.01, timeout=2)


class Server(ThreadingHTTPServer):
    """Serves `files`; `behaviour[path]` lists what to do at each request, the last entry at all others."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.behaviour: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None, str]] = []

    def url(self, name, content=None, *behaviour):
        path = f"/{name}"
        if content is not None:
            self.files[path] = content
        self.behaviour[path] = list(behaviour) or ["good"]
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        server: Server = self.server
        todo = server.behaviour.get(self.path, ["404"])
        how = todo.pop(0) if len(todo) > 1 else todo[0]
        server.requests.append((self.path, self.headers.get("Range"), how))
        self.close_connection = True
        if how.isdecimal():
            self.send_error(int(how))
            return
        if how.startswith("to "):
            self.send_response(302)
            self.send_header("Location", how[3:])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = server.files[self.path]
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start, status = 0, 200
        wanted = self.headers.get("Range")
        ranges = "no ranges" not in how
        if wanted and ranges and self.headers.get("If-Range") == etag:
            start, status = int(wanted[6:-1]), 206
            if start >= len(content):
                self.send_error(416)
                return
        body = content[start:]
        length = len(body)
        if "claims more" in how:
            length += 1000
        if "claims less" in how:
            length -= 10
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if "html" in how else "application/octet-stream")
        if "no length" not in how:
            self.send_header("Content-Length", str(length))
        if ranges:
            self.send_header("ETag", etag)
        if status == 206:
            wrong = 1 if "wrong range" in how else 0
            self.send_header("Content-Range", f"bytes {start + wrong}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        try:
            if "cut" in how:
                self.wfile.write(body[: len(body) // 3])
            elif "stall" in how:
                self.wfile.write(body[: len(body) // 3])
                self.wfile.flush()
                time.sleep(3)
            elif "slow" in how:
                for place in range(0, len(body), len(body) // 5 + 1):
                    self.wfile.write(body[place : place + len(body) // 5 + 1])
                    self.wfile.flush()
                    time.sleep(0.1)
            else:
                self.wfile.write(body)
        except ConnectionError:
            pass


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache folder of its own, no proxy, and a small published architecture."""
    monkeypatch.setenv("CAR_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    sizes = {"features": 2, "up_features": 4, "up_blocks": 2}
    tiny = {
        f"car_tiny_x{s}": families.Architecture(
            f"car_tiny_x{s}", families.published_geometry(s, 2), published_pair, sizes
        )
        for s in (2, 4)
    }
    monkeypatch.setattr(families, "_ARCHITECTURES", families._ARCHITECTURES | tiny)
    return tmp_path


def tiny(scale=4, seed=0):
    torch.manual_seed(seed)
    return create(f"car_tiny_x{scale}").requires_grad_(False)


@pytest.fixture(scope="module")
def own():
    torch.manual_seed(0)
    return weights_bytes("car_plus_x4", create("car_plus_x4"))


def left_behind():
    return sorted(path.name for path in (cache_folder() / "downloads").glob("*") if path.suffix != ".lock")


def test_a_pair_is_fetched_converted_kept_and_used(server, photo, place):
    model = tiny()
    files = pair_files("car_tiny_x4", model, "ckpt")
    sources = [server.url(name, content) for name, content in files.items()]
    seen = []
    record = pull(sources, "mine", limits=QUICK, on_bytes=lambda *news: seen.append(news))
    assert (record.name, record.model) == ("mine", "car_tiny_x4")
    assert [s.sha256 for s in record.sources] == [hashlib.sha256(c).hexdigest() for c in files.values()]
    assert [s.bytes for s in record.sources] == [len(c) for c in files.values()]
    assert record.path.read_bytes() == weights_bytes("car_tiny_x4", model)
    assert seen[-1] == (sources[1], len(files["usn.ckpt"]), len(files["usn.ckpt"]))
    loaded = car.load("mine")
    assert (loaded.name, loaded.tag, loaded.sha256) == ("car_tiny_x4", "mine", record.sha256)
    assert find("car_tiny_x4", record.sha256[:16]) == "mine"
    small = car.downscale(photo, model="mine")
    small.save(place / "small.png")
    assert car.upscale(place / "small.png").size == (160, 192)
    assert pulled_models() == (record,)
    assert all(name.endswith(".sha256") for name in left_behind())
    requests = len(server.requests)
    assert pull(sources, "mine", limits=QUICK) == record  # there already
    assert len(server.requests) == requests
    with pytest.raises(UsageError, match="mine exists already"):
        pull(sources[::-1], "mine", limits=QUICK)


@pytest.mark.parametrize(
    "behaviour",
    [
        ("slow",),
        ("no length",),
        ("cut", "good"),
        ("cut", "cut", "cut", "good"),
        ("cut no ranges", "good"),
        ("cut", "wrong range", "good"),
        ("stall", "good"),
        ("503", "429", "good"),
        ("claims more", "claims more", "good"),
        ("cut", "no ranges"),
    ],
)
def test_what_goes_wrong_for_a_while(server, own, behaviour):
    record = pull([server.url("w.safetensors", own, *behaviour)], "mine", limits=QUICK)
    assert record.path.read_bytes() == own
    assert car.load("mine").name == "car_plus_x4"


def test_a_download_goes_on_where_it_stopped(server, own):
    url = server.url("w.safetensors", own, "cut")
    with pytest.raises(
        WeightsError, match=r"connection ended after .* the same command continues from there"
    ):
        pull([url], "mine", limits=Limits(attempts=1))
    assert pulled_models() == ()
    server.behaviour["/w.safetensors"] = ["good"]
    pull([url], "mine", limits=QUICK)
    assert server.requests[-1][1] == f"bytes={len(own) // 3}-"
    assert pulled("mine").path.read_bytes() == own


def test_parts_of_two_files_are_never_joined(server, own):
    torch.manual_seed(1)
    other = weights_bytes("car_plus_x4", create("car_plus_x4"))
    url = server.url("w.safetensors", own, "cut")
    with pytest.raises(WeightsError):
        pull([url], "mine", limits=Limits(attempts=1))
    pull([server.url("w.safetensors", other)], "mine", limits=QUICK)
    assert pulled("mine").path.read_bytes() == other


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("html", "sent a web page"),
        ("404", "HTTP 404"),
        ("403", "HTTP 403"),
        ("503", "HTTP 503"),
        ("cut", "connection ended"),
        ("stall no ranges", "timed out"),
        ("claims less", "not a readable safetensors file"),
        ("to file:///etc/passwd", "cannot be fetched"),
    ],
)
def test_what_goes_wrong_for_good(server, own, behaviour, message):
    with pytest.raises(WeightsError, match=message) as caught:
        pull(
            [server.url("w.safetensors", own, behaviour)],
            "mine",
            limits=Limits(attempts=2, pause=0, timeout=1),
        )
    assert "\n" not in str(caught.value)
    assert pulled_models() == ()
    with pytest.raises(UsageError, match="no model is called 'mine'"):
        car.load("mine")


def test_a_web_page_under_another_type_is_recognised(server):
    url = server.url("kgn.ckpt", b"<!doctype html><p>sign in</p>")
    with pytest.raises(WeightsError, match="a web page, not a checkpoint"):
        pull([url, url], "mine", limits=QUICK)


def test_size_limit_holds_whether_the_server_says_the_size_or_not(server, own):
    for behaviour in ("good", "no length"):
        with pytest.raises(WeightsError, match="exceed the limit of 1,000"):
            pull([server.url("w.safetensors", own, behaviour)], limits=Limits(bytes=1000))
    assert sum(p.stat().st_size for p in (cache_folder() / "downloads").iterdir()) < 2 << 20


def test_the_first_digest_holds(server, own, tmp_path):
    torch.manual_seed(1)
    other = weights_bytes("car_plus_x4", create("car_plus_x4"))
    url = server.url("w.safetensors", own)
    pull([url], "mine", limits=QUICK)
    server.files["/w.safetensors"] = other
    with pytest.raises(WeightsError, match=r"is not .*, as in the first download; --force accepts"):
        pull([url], "again", limits=QUICK)
    assert pulled("mine").path.read_bytes() == own
    assert pulled("again") is None
    pull([url], "mine", force=True, limits=QUICK)
    assert pulled("mine").path.read_bytes() == other
    with pytest.raises(WeightsError, match="as requested"):
        pull([url], "third", sha256=["0" * 64], limits=QUICK)
    digest = hashlib.sha256(other).hexdigest()
    assert pull([url], "third", sha256=[digest.upper()], limits=QUICK).sha256 == digest
    file = tmp_path / "own.safetensors"
    file.write_bytes(own)
    with pytest.raises(WeightsError, match="as requested"):
        pull([str(file)], "fourth", sha256=["0" * 64])
    assert file.exists()


def test_digests_hold_for_what_is_there_already(place, own):
    file = place / "own.safetensors"
    file.write_bytes(own)
    digest = hashlib.sha256(own).hexdigest()
    record = pull([str(file)], "mine", sha256=[digest])
    assert pull([str(file)], "mine", sha256=[digest]) == record
    with pytest.raises(WeightsError, match="exists already, with another SHA-256"):
        pull([str(file)], "mine", sha256=["0" * 64])


def test_a_file_that_changed_is_pulled_anew(place, own):
    file = place / "own.safetensors"
    file.write_bytes(own)
    pull([str(file)], "mine")
    torch.manual_seed(1)
    other = weights_bytes("car_plus_x4", create("car_plus_x4"))
    file.write_bytes(other)
    assert pull([str(file)], "mine").path.read_bytes() == other


def test_a_name_taken_from_the_content_replaces_nothing_else(place):
    for seed in (0, 1):
        (place / f"{seed}.safetensors").write_bytes(weights_bytes("car_tiny_x4", tiny(seed=seed)))
    first = pull([str(place / "0.safetensors")])
    assert first.name == "car_tiny_x4"
    with pytest.raises(UsageError, match="car_tiny_x4 exists already"):
        pull([str(place / "1.safetensors")])
    assert pulled("car_tiny_x4") == first


def test_rubbish_is_not_remembered(server, own):
    url = server.url("w.safetensors", b"<html>sign in</html>")
    with pytest.raises(WeightsError, match=r"w\.safetensors: not a readable safetensors"):
        pull([url], "mine", limits=QUICK)
    assert left_behind() == []
    server.files["/w.safetensors"] = own
    assert pull([url], "mine", limits=QUICK).path.read_bytes() == own
    (record,) = (cache_folder() / "downloads").glob("*.sha256")
    record.write_text("")
    assert pull([url], "again", limits=QUICK).name == "again"


def test_addresses_beyond_ascii(server, own):
    url = server.url("w%C3%BC.safetensors", own).replace("%C3%BC", "ü")
    assert pull([url], "mine", limits=QUICK).path.read_bytes() == own


def test_files_are_pulled_too_and_stay(place, own):
    file = place / "own.safetensors"
    file.write_bytes(own)
    record = pull([str(file)], "mine")
    assert record.sources[0].address == str(file)
    assert record.path.read_bytes() == file.read_bytes() == own


def test_requests_that_make_no_sense(place, own):
    file = place / "own.safetensors"
    file.write_bytes(own)
    for sources, name, message in (
        (["nowhere"], None, "no such file, URL or published model"),
        (["car_x3"], None, "did you mean 'car_x"),
        ([str(file)], "../up", "cannot name a model"),
        ([str(file)], "", "cannot name a model"),
        ([str(file)], ".hidden", "cannot name a model"),
        ([str(file)], "car_plus_x4", "ships with the package"),
        ([str(file)], None, "ships with the package"),
        ([str(file)], "mine.pth", "looks like a file name"),
        ([str(file)], "car_x2", "car_x2 is the name of another architecture, not of car_plus_x4"),
        ([str(place)], "mine", "not a regular file"),
        (["ftp://127.0.0.1/x"], "mine", "not an http or https address"),
        (["http://[::1"], "mine", "not an http or https address"),
        (["http://127.0.0.1:ab/x"], "mine", "not an http or https address"),
        (["http:///x"], "mine", "not an http or https address"),
        (["http://127.0.0.1/a b"], "mine", "not an http or https address"),
        (["http://127.0.0.1/kgn.ckpt"], "mine", "a published model consists of two files"),
        ([str(file)] * 3, "mine", "give one model, or a kernel generator and an upscaler"),
    ):
        with pytest.raises(UsageError, match=message):
            pull(sources, name)
    with pytest.raises(UsageError, match="'zz' is not a SHA-256"):
        pull([str(file)], "mine", sha256=["zz"])
    with pytest.raises(UsageError, match="once for each of the"):
        pull([str(file)], "mine", sha256=["0", "1"])
    assert not (place / "up.json").exists()


def test_published_names_are_put_right(server, monkeypatch):
    # the table in circulation swaps the addresses of the two scales
    assert OFFICIAL[4] == tuple(
        f"https://download.mindspore.cn/vision/car/4x/{h}.ckpt" for h in ("kgn", "usn")
    )
    files = pair_files("car_tiny_x2", tiny(2), "ckpt")
    local = tuple(server.url(name, content) for name, content in files.items())
    monkeypatch.setitem(OFFICIAL, 4, local)
    with pytest.raises(WeightsError, match="holds weights of car_tiny_x2, not of car_x4"):
        pull(["car_x4"], limits=QUICK)
    with pytest.raises(WeightsError, match="`car pull car_x4` fetches"):
        car.load("car_x4")


def test_damage_in_the_cache_is_noticed(place, own):
    file = place / "own.safetensors"
    file.write_bytes(own)
    record = pull([str(file)], "mine")
    record.path.write_bytes(own[:-1] + bytes([own[-1] ^ 1]))
    with pytest.raises(WeightsError, match=rf"is damaged .*`car pull --name mine {file}` repairs"):
        car.load("mine")
    assert pull([str(file)], "mine").path.read_bytes() == own
    record.path.unlink()
    with pytest.raises(WeightsError, match="is gone"):
        car.load("mine")
    pull([str(file)], "mine")
    whole = json.loads(record.path.with_suffix(".json").read_text())
    for change in ({"sha256": 5}, {"sha256": ""}, {"sources": []}, {"name": "../up"}, {"model": None}):
        record.path.with_suffix(".json").write_text(json.dumps(whole | change))
        with pytest.raises(WeightsError, match="pull mine again"):
            car.load("mine")
        assert pulled_models() == ()
    record.path.with_suffix(".json").write_text("[" * 100_000)
    assert pulled_models() == ()
    record.path.with_suffix(".json").write_text('{"name": 3}')
    with pytest.raises(WeightsError, match="pull mine again"):
        car.load("mine")
    assert pulled_models() == ()


def test_a_cache_that_cannot_be_written_is_one_error(server, own, place, monkeypatch):
    (place / "file").write_text("")
    monkeypatch.setenv("CAR_CACHE", str(place / "file"))
    with pytest.raises(WeightsError, match="cannot be written"):
        pull([server.url("w.safetensors", own)], "mine", limits=QUICK)
    assert pulled_models() == ()


@pytest.mark.parametrize("slow", ["server", "conversion"])
def test_two_pulls_at_once_do_not_disturb_each_other(server, own, monkeypatch, slow):
    url = server.url("w.safetensors", own, "slow" if slow == "server" else "good")
    convert = pull_module._content
    if slow == "conversion":
        monkeypatch.setattr(pull_module, "_content", lambda paths: time.sleep(0.3) or convert(paths))
    errors = []

    def work(name):
        try:
            pull([url], name, limits=QUICK)
        except WeightsError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"m{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [record.path.read_bytes() == own for record in pulled_models()] == [True] * 3


def test_command_line(server, own):
    url = server.url("w.safetensors", own, "cut", "good")

    done = run_car("pull", url, "--name", "mine", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["sha256"] == hashlib.sha256(own).hexdigest()
    assert Path(record["path"]).read_bytes() == own
    assert "mine (pulled)" in run_car("models").stdout
    done = run_car("pull", server.url("gone", None, "404"), "--name", "other")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "HTTP 404" in done.stderr
    assert run_car("pull", "car_x5").returncode == 2
