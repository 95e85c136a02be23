"""What pages say works: code blocks run, commands have the options that pages name, links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browser import Site

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# their blocks of Python and of shell commands run, from top to bottom
RUN = ["README.md", *(f"docs/{name}.md" for name in ("index", "start", "usage", "viewer", "budget"))]
RUN += [f"docs/guides/{path.name}" for path in (ROOT / "docs" / "guides").glob("*.md")]
# these install packages, need a network, train, or serve until they are stopped; other tests try them
LONG = re.compile(
    r"car (train|serve|rate|report|evaluate (Set5/|--img)|pull)|--serve|s3://|--effort|--kgn|--max-bytes|--min-|advise|export"
)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language that are meant to run."""
    parts = re.findall(
        r"((?:<!-- not run:[^\n]*-->\n)?)^```(\w+)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [text for mark, found, text in parts if found == language and not mark]


def commands(page: Path) -> list[str]:
    """All lines of code that call `car`, fenced or indented, without their comments."""
    code = re.findall(r"^(?: {4}(?:\$ )?|)(car [a-z].*)$", page.read_text(), re.MULTILINE)
    inline = re.findall(r"`(car [a-z]+ [^`]*)`", page.read_text())
    return [re.split(r"\s+#|; |\(", line)[0] for line in (*code, *inline)]  # what follows is prose


@pytest.fixture(scope="module")
def group() -> Any:
    import importlib

    import typer

    from car.cli.commands import COMMANDS
    from car.cli.common import app

    for module, _ in COMMANDS.values():
        importlib.import_module(f"car.cli.{module}")
    return typer.main.get_command(app)


def unknown(group: Any, line: str) -> list[str]:
    """The options of a command line that its command does not have."""
    words = shlex.split(line)[1:]
    command = group
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return [] if command is not group else [f"no command {words[:1]}"]
        command = command.commands[words.pop(0)]
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    given = {word.partition("=")[0].replace("_", "-") for word in words if re.match(r"--?[a-zA-Z]", word)}
    return sorted(given - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_that_pages_name(group: Any, page: Path) -> None:
    wrong = {line: found for line in commands(page) if "…" not in line and (found := unknown(group, line))}
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_say_in_words_where_they_lead(page: Path) -> None:
    assert not re.findall(r"\[[\w./-]+\.md\]\([^)]+\)", page.read_text())


def test_wrong_options_would_be_found(group: Any) -> None:
    assert unknown(group, "car downscale a.jpg --scael 4") == ["--scael"]
    assert unknown(group, "car downscael a.jpg")
    assert not unknown(group, "car bulk downscale a b --scale=4")


@pytest.fixture
def desk(tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages work on."""
    with Image.open(photo) as picture:
        rgb = picture.convert("RGB")
        rgb.save(tmp_path / "photo.jpg", quality=95)
        (tmp_path / "photos" / "holidays").mkdir(parents=True)
        rgb.save(tmp_path / "photos" / "a.jpg", quality=95)
        rgb.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photos" / "holidays" / "b.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CAR_THREADS", "1")
    return tmp_path


def test_every_block_runs_or_says_why_not() -> None:
    elsewhere = [page for page in PAGES if page.relative_to(ROOT).as_posix() not in RUN]
    assert not [page for page in elsewhere if blocks(page, "sh") or blocks(page, "python")]


@pytest.mark.parametrize("name", [name for name in RUN if blocks(ROOT / name, "sh")])
def test_shell_blocks_run(name: str, desk: Path) -> None:
    programs = desk / "programs"
    programs.mkdir()
    (programs / "car").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m car "$@"\n')
    (programs / "car").chmod(0o755)
    lines = [
        line
        for block in blocks(ROOT / name, "sh")
        for line in block.splitlines()
        if line.startswith("car ") and not LONG.search(line)
    ]
    assert lines or name == "docs/guides/web.md"
    script = "\n".join(["set -e", f'PATH="{programs}:$PATH"', *lines])
    done = subprocess.run([shutil.which("bash") or "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, (lines, done.stderr)


@pytest.mark.parametrize("name", [name for name in RUN if blocks(ROOT / name, "python")])
def test_python_blocks_run(name: str, desk: Path) -> None:
    """All blocks of a page are one program."""
    import car

    car.downscale(desk / "photo.jpg", 4).save(desk / "photo.x4.png")
    exec(compile("\n".join(blocks(ROOT / name, "python")), name, "exec"), {"__name__": "page"})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site. Links, anchors and names of the library that lead nowhere are warnings, and end the build."""
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("docs") / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.xdist_group("launch")
def test_the_site_has_all_pages_and_needs_no_other_host(built: Path) -> None:
    pages = {path.relative_to(built).as_posix() for path in built.rglob("*.html")}
    assert {"index.html", "reference/cli/index.html", "reference/http/index.html"} <= pages
    assert "--min-ssimulacra2" in (built / "reference/cli/index.html").read_text()
    assert "/v1/downscale" in (built / "reference/http/index.html").read_text()
    home = (built / "index.html").read_text()
    for address in re.findall(r'(?:src|href)="((?:demo|viewer)/[^"]+)"', home):
        assert (built / address).is_file()
    elsewhere = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]+"', home)
    assert not elsewhere  # pages load nothing from other hosts


@pytest.mark.xdist_group("launch")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
def test_axe_finds_no_fault_of_access(browser: Any, site: Site, built: Path, width: int, scheme: str) -> None:
    """Contrast, names of controls, landmarks, heads of tables and the like, on one page of each kind."""
    axe = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe is not installed: npm ci in web/")
    site.add_folder(built)
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    found: list[str] = []
    for path in ("index", "start/index", "devices/index", "guides/researcher/index"):
        page.goto(f"{site.url}/{path}.html", wait_until="domcontentloaded")
        page.wait_for_function("document.body.dataset.mdColorScheme && self.document$")
        assert (page.evaluate("document.body.dataset.mdColorScheme") == "slate") == (scheme == "dark")
        page.evaluate(axe.read_text())
        faults = page.evaluate("axe.run({ resultTypes: ['violations'] }).then((result) => result.violations)")
        found += [f"{path}: {one['id']}: {node['html']}" for one in faults for node in one["nodes"]]
    context.close()
    assert not found


def test_every_extra_for_users_is_in_the_table() -> None:
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]\n")[2]
    extras = set(re.findall(r"^(\w+) = ", section.partition("\n[")[0], re.M))
    table = (ROOT / "docs/usage.md").read_text().partition("\n## Extras\n")[2].partition("\n## ")[0]
    named = {row.split("|")[-2].strip(" `") for row in table.splitlines() if row.startswith("| ")}
    assert named - {"extra"} == extras - {"dev", "docs"}
