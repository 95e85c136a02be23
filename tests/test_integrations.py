"""Where users already are: Pillow, nginx, notebooks."""

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import car
from processes import start_car, wait_until

ROOT = Path(__file__).parent.parent


def test_pillow_restores_on_open(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small.png"
    car.downscale(photo, 4).save(small)
    example = runpy.run_path(str(ROOT / "examples" / "pillow_open.py"))
    monkeypatch.setattr(Image, "open", Image.open)  # the example replaces it; this puts it back
    example["register"]()
    with Image.open(small) as restored, Image.open(photo) as original:
        assert restored.size == (160, 192)
        np.testing.assert_array_equal(np.asarray(restored), np.asarray(car.upscale(small)))
        assert original.size == (160, 192)  # what is no small picture is opened as ever


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nginx_caches_small_pictures(photo: Path, tmp_path: Path) -> None:
    if shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin") is None:
        pytest.skip("nginx is not installed")
    pytest.importorskip("fastapi")
    (tmp_path / "photos").mkdir()
    shutil.copy(photo, tmp_path / "photos" / "a.png")
    port = free_port()
    with start_car("serve", tmp_path / "photos", "--port", 0) as service:
        inner = service.line().split()[-1]
        text = (ROOT / "docs" / "guides" / "nginx.conf").read_text()
        text = text.replace("http://127.0.0.1:8000", inner).replace("listen 8080", f"listen 127.0.0.1:{port}")
        text = text.replace("/var/cache/nginx/car", str(tmp_path / "cache"))
        paths = "".join(
            f"{name}_temp_path {tmp_path}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # as root, its workers would become another user, who may not write into this folder
        user = "user root;" * (os.geteuid() == 0)
        start = f"{user} daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}"
        whole = f"{start} http {{ access_log off; {paths}\n{text}\n}}"
        (tmp_path / "nginx.conf").write_text(whole)
        command = [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(tmp_path), "-c", "nginx.conf"]
        front = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            address = f"http://127.0.0.1:{port}"
            seen = []
            for _ in range(2):
                with urllib.request.urlopen(f"{address}/small/a.png?scale=4") as answer:
                    seen.append((answer.headers["X-Cache"], answer.read()))
                    tag, cached = answer.headers["ETag"], answer.headers["Cache-Control"]
            assert [state for state, _ in seen] == ["MISS", "HIT"]
            assert seen[0][1] == seen[1][1]
            assert cached == "public, max-age=3600"
            again = urllib.request.Request(f"{address}/small/a.png?scale=4", headers={"If-None-Match": tag})
            with pytest.raises(urllib.error.HTTPError, match="304"):
                urllib.request.urlopen(again)
            with urllib.request.urlopen(f"{address}/v1/upscale", data=seen[0][1]) as answer:
                (tmp_path / "large.png").write_bytes(answer.read())
            with Image.open(tmp_path / "large.png") as large:
                assert large.size == (160, 192)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"{address}/metrics")
        finally:
            front.terminate()
            front.wait()


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells run one after the other, as a kernel would run them; it holds no results of earlier runs."""
    notebook = json.loads((ROOT / "examples" / "tour.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    shutil.copy(ROOT / "examples" / "street.webp", tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"display": lambda *_: None, "__name__": "notebook"}
    for cell in cells:
        exec(compile("".join(cell["source"]), "tour.ipynb", "exec"), names)
    assert names["restored_psnr"] > names["bicubic_psnr"]  # type: ignore[operator]
    assert sys.modules["car"] is car
