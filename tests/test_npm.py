"""The npm package, as its users get it: packed, installed into an empty project, and run in a browser."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import car
from browser import FirefoxPage, Site
from processes import LIMIT

ROOT = Path(__file__).parent.parent
MODULES = ROOT / "web" / "node_modules"
if not (MODULES / "vite").exists() or shutil.which("npm") is None:
    pytest.skip("Vite is not installed: npm ci in web/", allow_module_level=True)
pytestmark = pytest.mark.xdist_group("launch")

REACT = """
import "car-image/react";
import type { CarImage } from "car-image";
import { createRoot } from "react-dom/client";

const page = <main><car-image src="/small.png" alt="a photograph" restore="now" compare="" /></main>;
createRoot(document.querySelector("#app")!).render(page);
const element: CarImage | null = document.querySelector("car-image");
element?.addEventListener("car-state", (event) => console.log(event.detail.state.toUpperCase()));
element?.restore();
"""
PAGE = '<!doctype html><meta charset="utf-8"><body style="width: 900px"><div id="app"></div>'
SETTLED = "['restored', 'failed'].includes(document.querySelector('car-image')?.state)"
SHOWN = "(i => [i.state, i.info?.size, i.shadowRoot.querySelector('.note').textContent])"
RESTORED = ["restored", [160, 192], ""]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return Path(run(sys.executable, ROOT / "web" / "pack.py", folder, cwd=ROOT).strip())


@pytest.fixture
def project(tarball: Path, tmp_path: Path, photo: Path) -> Path:
    """An empty project with the package, and a small picture of 48 x 40 pixels."""
    (tmp_path / "package.json").write_text('{"name": "page", "private": true, "type": "module"}')
    run("npm", "install", "--offline", "--no-audit", "--no-fund", "--silent", tarball, cwd=tmp_path)
    (tmp_path / "public").mkdir()
    car.downscale(photo, 4).save(tmp_path / "public" / "small.png")
    for name in ("vite", "react", "react-dom", "scheduler", "@types", "csstype"):
        (tmp_path / "node_modules" / name).symlink_to(MODULES / name)
    return tmp_path


@contextmanager
def served(folder: Path) -> Generator[Site, None, None]:
    site = Site()
    site.add_folder(folder)
    try:
        yield site
    finally:
        site.close()


def assert_it_restores(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.wait_for_function(SETTLED)
    assert page.evaluate(f"{SHOWN}(document.querySelector('car-image'))") == RESTORED
    assert not problems
    context.close()


def test_it_has_what_it_declares(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
        about = json.loads(archive.extractfile("package/package.json").read())  # type: ignore[union-attr]
        described = json.loads(archive.extractfile("package/custom-elements.json").read())  # type: ignore[union-attr]
    entries = (entry if isinstance(entry, dict) else {"": entry} for entry in about["exports"].values())
    exported = {path for entry in entries for path in entry.values()}
    assert {name.removeprefix("./") for name in exported} <= names
    assert about["version"].replace("-rc.", "rc") == car.__version__
    assert {"car-image.js", "network.wasm", "worker.js", "LICENSE", "README.md"} <= names
    element = described["modules"][0]["declarations"][0]
    table = (ROOT / "docs" / "viewer.md").read_text().partition("| attribute |")[2].partition("\n\n")[0]
    documented = {
        name
        for cell in re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", cell)
    }
    assert {attribute["name"] for attribute in element["attributes"]} == documented


def write_plain_page(project: Path) -> None:
    """A page that loads the package as it is, without a build step."""
    page = '<script type="module" src="/node_modules/car-image/index.js"></script>'
    element = '<car-image src="/public/small.png" alt="a photograph" restore="now"></car-image>'
    (project / "index.html").write_text(PAGE + page + element)
    for name in ("vite", "react", "react-dom", "scheduler", "@types", "csstype"):
        (project / "node_modules" / name).unlink()


def test_plainly(browser: Any, project: Path) -> None:
    write_plain_page(project)
    with served(project) as site:
        assert_it_restores(browser, site.url + "/")


def test_firefox_restores(firefox_page: FirefoxPage, project: Path) -> None:
    write_plain_page(project)
    with served(project) as site:
        firefox_page.goto(site.url + "/")
        firefox_page.wait_for_function(SETTLED)
        assert firefox_page.evaluate(f"{SHOWN}(document.querySelector('car-image'))") == RESTORED
        assert not firefox_page.problems


def test_through_vite(browser: Any, project: Path) -> None:
    element = '<car-image src="/small.png" alt="a photograph" restore="now" device="cpu"></car-image>'
    script = '<script type="module">import "car-image";</script>'
    (project / "index.html").write_text(PAGE + script + element)
    run("node", "node_modules/vite/bin/vite.js", "build", "--logLevel", "warn", cwd=project)
    with served(project / "dist") as site:
        assert_it_restores(browser, site.url + "/")
        weights = [path for path in site.asked if path.endswith(".safetensors")]
    assert len(weights) == 1


def test_in_a_react_page_with_types(browser: Any, project: Path) -> None:
    (project / "page.tsx").write_text(REACT)
    options = [
        "--noEmit",
        "--strict",
        "--jsx",
        "react-jsx",
        "--module",
        "esnext",
        "--moduleResolution",
        "bundler",
    ]
    checked = ["--target", "es2022", "--lib", "es2023,dom,dom.iterable", "--types", "react", "page.tsx"]
    root = "export function createRoot(element: Element): { render(page: unknown): void };"
    (project / "react-dom.d.ts").write_text(f'declare module "react-dom/client" {{ {root} }}')
    run(MODULES / ".bin" / "tsc", *options, *checked, "react-dom.d.ts", cwd=project)
    (project / "index.html").write_text(PAGE + '<script type="module" src="/page.tsx"></script>')
    run("node", "node_modules/vite/bin/vite.js", "build", "--logLevel", "warn", cwd=project)
    with served(project / "dist") as site:
        assert_it_restores(browser, site.url + "/")
