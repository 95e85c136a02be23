"""What the documentation site shows besides docs/: generated reference pages, the viewer, pages of the root.

MkDocs calls these functions (`hooks` in mkdocs.yml). The pages in docs/ also have to read well as plain
files, so links that lead out of docs/ are changed here and not there.
"""

import importlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
FROM_ROOT = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security_policy.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    made: dict[str, str | bytes] = {"reference/cli.md": command_line(), "reference/http.md": http()}
    for name, target in FROM_ROOT.items():
        made[target] = (ROOT / name).read_text()
    made |= demonstration()
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that lead out of docs/ into links to the repository, or into plain text without one."""
    source = page.file.src_uri
    from_root = source in FROM_ROOT.values()
    folder = Path("." if from_root else "docs") / Path(source).parent

    def changed(match: re.Match[str]) -> str:
        text, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        path, _, anchor = target.partition("#")
        name = os.path.normpath(folder / path).replace(os.sep, "/")
        if name in FROM_ROOT:
            return f"[{text}]({up(source)}{FROM_ROOT[name]}{'#' * bool(anchor)}{anchor})"
        if from_root and name.startswith("docs/"):
            return f"[{text}]({name.removeprefix('docs/')}{'#' * bool(anchor)}{anchor})"
        if name.startswith("docs/"):
            return match[0]
        return f"[{text}]({config.repo_url}/blob/main/{name})" if config.repo_url else text

    return LINK.sub(changed, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Mend what screen readers stumble over: a nameless dialog of the theme, and empty heads of columns."""
    named = output.replace('role="dialog">', 'role="dialog" aria-label="Search">')
    return re.sub(r"<th([^>]*)></th>", r"<td\1></td>", named)


def up(source: str) -> str:
    """Return the way from a page to the folder of all pages."""
    return "../" * source.count("/")


def demonstration() -> dict[str, bytes]:
    """Return the viewer, the weights of the picture on the home page, and this picture, original included."""
    from PIL import Image

    import car
    from car.pictures.info import read_header
    from car.viewer import assets, shipped_web_models

    files = {f"viewer/{name}": content for name, content in assets().items() if not name.endswith(".ts")}
    with Image.open(ROOT / "examples" / "street.webp") as street, tempfile.TemporaryDirectory() as folder:
        part = street.convert("RGB").crop((700, 150, 1660, 790))
        small = car.downscale(part, scale=4)
        small.save(Path(folder) / "small.png")
        part.resize(small.size, Image.Resampling.BICUBIC).save(Path(folder) / "thumbnail.png")
        part.save(Path(folder) / "original.webp", quality=92)
        for path in Path(folder).iterdir():
            files[f"demo/{path.name}"] = path.read_bytes()
        weights = read_header(Path(folder) / "small.png").info
    assert weights is not None
    files[f"viewer/models/{weights.weights}.safetensors"] = shipped_web_models()[weights.weights]
    return files


# --- reference ---------------------------------------------------------------------------------------------


def command_line() -> str:
    """Return the page of all commands, from their own help."""
    import typer

    import car.cli.main  # noqa: F401 - registers the options that all commands share
    from car.cli.commands import COMMANDS
    from car.cli.common import app

    for module, _help in COMMANDS.values():
        importlib.import_module(f"car.cli.{module}")
    group: Any = typer.main.get_command(app)
    lines = [
        "# Command line",
        "",
        "This page is generated from the help of the commands; `car COMMAND --help` prints the same. "
        "[Using car](../usage.md) describes what the commands have in common: files, folders, exit codes.",
        "",
        *options(group),
    ]
    for name, command in commands(group, "car"):
        lines += [
            f"## {name}",
            "",
            *described(command.help or ""),
            "",
            *usage(name, command),
            *options(command),
        ]
    return "\n".join(lines)


def commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Go through all commands, those of groups after their group."""
    for name, command in group.commands.items():
        yield f"{prefix} {name}", command
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix} {name}")


def described(text: str) -> list[str]:
    """Return help as Markdown: blocks of code get their language."""
    fenced = re.sub(r"```\n(.*?)```", r"```sh\n\1```", text, flags=re.DOTALL)
    return fenced.replace("\f", "").splitlines()


def usage(name: str, command: Any) -> list[str]:
    """Return the line that shows arguments and options."""
    if hasattr(command, "commands"):
        return []
    names = [
        f"{param.name.upper()}{'...' if param.nargs == -1 else ''}"
        for param in command.params
        if type(param).__name__.endswith("Argument")
    ]
    return ["```text", " ".join([name, *names, "[OPTIONS]"]), "```", ""]


def options(command: Any) -> list[str]:
    """Return the table of arguments and options."""
    rows = []
    for param in command.params:
        if getattr(param, "hidden", False) or param.name == "help":
            continue
        argument = type(param).__name__.endswith("Argument")
        names = [param.name.upper()] if argument else [*param.opts, *param.secondary_opts]
        kind = "" if argument or getattr(param, "is_flag", False) else value(param)
        default = (
            "" if param.default in (None, False, (), []) or callable(param.default) else f"`{param.default}`"
        )
        text = (getattr(param, "help", None) or "").replace("|", "\\|").replace("\n", " ")
        rows.append(f"| {', '.join(f'`{name}`' for name in names)} {kind} | {text} | {default} |")
    if not rows:
        return []
    return ["| option | meaning | default |", "|---|---|---|", *rows, ""]


def value(param: Any) -> str:
    """Return what kind of value an option takes."""
    choices = getattr(param.type, "choices", None)
    if choices:
        return "\\|".join(str(choice) for choice in choices)
    return {"INT": "N", "FLOAT": "X"}.get(
        str(param.type), "N" if "IntRange" in str(param.type) else ""
    ).strip()


def http() -> str:
    """Return the page of all routes, from the OpenAPI description of the service."""
    from car.serve.app import create_app
    from car.serve.settings import Settings

    api = create_app(Settings()).openapi()
    lines = [
        "# HTTP",
        "",
        "This page is generated from the OpenAPI description, which the service has at `/openapi.json`. "
        "[HTTP service](../serve.md) describes limits, caching and security.",
        "",
    ]
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            lines += [
                f"## {method.upper()} {path}",
                "",
                route.get("description") or route.get("summary", ""),
                "",
            ]
            rows = [parameter(one) for one in route.get("parameters", [])]
            if rows:
                lines += ["| parameter | in | values | meaning |", "|---|---|---|---|", *rows, ""]
            lines += ["| status | answer |", "|---|---|"]
            for status, answer in route["responses"].items():
                kinds = ", ".join(f"`{kind}`" for kind in answer.get("content", {}))
                lines.append(f"| {status} | {answer.get('description', '')} {kinds} |")
            lines.append("")
    return "\n".join(lines)


def parameter(one: dict[str, Any]) -> str:
    """Return a row about a parameter of a route."""
    kinds = one["schema"].get("anyOf", [one["schema"]])
    values = " or ".join(schema(kind) for kind in kinds if kind.get("type") != "null")
    default = one["schema"].get("default")
    text = one.get("description", one["schema"].get("description", "")).replace("|", "\\|")
    values += f"; default: {default}" if default is not None else ""
    return f"| `{one['name']}` | {one['in']} | {values} | {text} |"


def schema(kind: dict[str, Any]) -> str:
    """Return the values of a parameter in words."""
    if "enum" in kind:
        return ", ".join(f"`{choice}`" for choice in kind["enum"])
    if "const" in kind:
        return f"`{kind['const']}`"
    low, high = kind.get("minimum"), kind.get("maximum")
    span = f", {low} to {high}" if high is not None else f", at least {low}" if low is not None else ""
    return kind.get("type", "text") + span
