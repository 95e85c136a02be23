"""A web site of small pictures that are restored in the visitor's browser; see docs/viewer.md."""

import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from car._version import __version__
from car.batch.names import Job, Naming, Plan, plan
from car.codec.codec import Codec
from car.errors import CarError, ImageError, UsageError, one_line_errors, system_errors, told
from car.files.atomic import atomic_write
from car.pictures.read import decode
from car.pictures.write import encode
from car.scaling import Wanted
from car.viewer import assets, web_model

MANIFEST = "gallery.json"
"""Lists the files of the site and the settings. Only files in this list are ever replaced or removed."""


@dataclass(frozen=True)
class Shown:
    """One picture of a gallery.

    Attributes:
        source: path below the folder of photographs.
        file: path of the small picture below the site.
        sha256: digest of the photograph's file.
        width: width of the photograph in pixels; `height` likewise.
        small_width: width of the small picture; `small_height` likewise.
        bytes: size of the photograph's file.
        small_bytes: size of the small picture's file.
    """

    source: str
    file: str
    sha256: str
    width: int
    height: int
    small_width: int
    small_height: int
    bytes: int
    small_bytes: int


@dataclass(frozen=True)
class Built:
    """The result of `build`: all pictures of the site, how many are new, and a line for each failure."""

    pictures: tuple[Shown, ...]
    made: int
    failures: tuple[str, ...]
    site_bytes: int

    @property
    def source_bytes(self) -> int:
        """Size in bytes of all photographs on the site."""
        return sum(picture.bytes for picture in self.pictures)


def plan_gallery(
    folder: str,
    site: Path,
    wanted: Wanted,
    suffix: str = ".png",
    exclude: Sequence[str] = (),
    *,
    keep_extension: bool = False,
) -> Plan:
    """Plan which photographs become which small pictures, in files that end with `suffix`.

    Photographs that are too small for what is wanted are left out. Small pictures, such as those of other
    galleries, are not photographs. Neither is what `exclude` leaves out (see `car.files.places.Source`). With
    `keep_extension`, names keep the suffixes of the photographs, so that ``a.jpg`` and ``a.png`` go together.

    Raises:
        UsageError: there are no photographs.
    """
    todo = plan(
        [folder],
        f"{site / 'pictures'}{os.sep}",
        Naming(suffix, add=f".{wanted.label}", keeps=keep_extension),
        exclude,
        wanted=wanted,
    )
    inside = site.resolve()
    jobs = tuple(job for job in todo.jobs if not job.source.resolve().is_relative_to(inside))
    if not jobs:
        raise UsageError(f"{folder}: no photographs, only files of a gallery")
    return replace(todo, jobs=jobs)


def build(
    todo: Plan,
    site: Path,
    codec: Codec,
    *,
    title: str,
    description: str = "",
    quality: int | None = None,
    overwrite: bool = False,
    on_picture: Callable[[], None] = lambda: None,
) -> Built:
    """Write the site, or bring it up to date: only photographs that changed are shrunk again.

    Files are written whole or not at all. The manifest lists first what will be made, and the page is written
    last. So an interrupted run leaves the old site, and the next run completes the new one. A photograph that
    can no longer be read keeps its old small picture.

    Args:
        todo: what `plan_gallery` returned.
        site: folder; created if missing.
        codec: codec of a model whose upscaler the viewer supports. It makes all pictures, so that visitors
            load only one network.
        title: title of the page.
        description: a line below the title.
        quality: see `car.pictures.write.write`.
        overwrite: allow writing into a folder that is not a gallery; its files are kept.
        on_picture: called after each picture.

    Raises:
        UsageError: the viewer does not support the model, or the folder holds other files.
        ImageError: a file cannot be written, or there is nothing to show.
    """
    files = _site_files(codec)
    before = _manifest_of(site, overwrite)
    made_by = {"model": codec.loaded.name, "weights": codec.loaded.sha256}
    how = {name: getattr(codec.options, name) for name in ("effort", "fast")}
    settings: dict[str, Any] = made_by | how | {"wanted": todo.wanted.label, "quality": quality}
    about: dict[str, Any] = {"made_by": f"car {__version__}", "title": title, **settings}
    old = _Old(site, before, same=all(before.get(key) == value for key, value in settings.items()))
    targets = [_below(job.target, site) for job in todo.jobs]
    always = {*files, "index.html", *([] if before else [MANIFEST])}
    _check_free(site, *sorted(always - old.files), *([] if before else targets))
    free = {name for name in targets if name in old.files or not _is_there(site / name)}
    planned = {*old.files, *always, MANIFEST, *free}
    # if this run is interrupted, the next one knows what it may replace, and the old pictures stay on the
    # site
    _write(site, {MANIFEST: _json(about | {"pictures": []} | before | {"files": sorted(planned)})})
    root = Path(os.path.commonpath([job.source.parent for job in todo.jobs])) if todo.jobs else Path()
    shown: list[Shown] = []
    failures = list(todo.problems)
    made = 0
    for job, file in zip(todo.jobs, targets, strict=True):
        source = _below(job.source, root)
        known = old.picture(source, file)
        try:
            if file not in free:
                raise ImageError(f"{job.target} exists and was not made by this gallery")
            found = _shrunk(site, job, source, file, known, codec, todo.wanted, quality)
            made += found is not known
            known = found
        except (CarError, OSError, MemoryError) as error:
            if isinstance(error, CarError) and error.fatal:
                raise
            failures.append(told(error, str(job.source), str(site / file)))
        finally:
            on_picture()
        if known is not None:
            shown.append(known)
    if failures and not shown:
        raise ImageError(f"{site}: there is nothing to show; {failures[0]}")
    site_bytes = sum(map(len, files.values())) + sum(picture.small_bytes for picture in shown)
    files["index.html"] = _page(title, description, shown, site_bytes).encode()
    listed = {*files, MANIFEST, *(picture.file for picture in shown)}
    _write(site, files)
    old.remove_all_but(listed)
    about |= {"pictures": [asdict(picture) for picture in shown], "files": sorted(listed)}
    _write(site, {MANIFEST: _json(about)})
    return Built(tuple(shown), made, tuple(failures), site_bytes + len(files["index.html"]))


def _check_free(site: Path, *names: str) -> None:
    for name in names:
        if _is_there(site / name):
            raise UsageError(f"{site / name} exists and was not made by a gallery; move it away")


def _shrunk(
    site: Path,
    job: Job,
    source: str,
    file: str,
    known: Shown | None,
    codec: Codec,
    wanted: Wanted,
    quality: int | None,
) -> Shown:
    """Make the small picture of a photograph, unless `known` is of the same one."""
    content = job.source.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if known is not None and known.sha256 == digest:
        return known
    picture = decode(content, str(job.source), max_pixels=codec.options.max_pixels)
    scale = wanted.scale_of((picture.width, picture.height))
    small, info = codec.at(scale or codec.scale).shrink(picture)
    encoded, _ = encode(small, job.target.name, info=info, quality=quality)
    _write(site, {file: encoded})
    sizes = (picture.width, picture.height, small.width, small.height, len(content), len(encoded))
    return Shown(source, file, digest, *sizes)


class _Old:
    """What an earlier run left on the site; `same`: by the same settings."""

    def __init__(self, site: Path, manifest: dict[str, Any], *, same: bool) -> None:
        self._site, self._same = site, same
        self.files = set(manifest.get("files", ()))
        self._pictures = {entry["source"]: Shown(**entry) for entry in manifest.get("pictures", ())}

    def picture(self, source: str, file: str) -> Shown | None:
        """Return what is known of the small picture of `source` that is in `file` still; else None."""
        known = self._pictures.get(source) if self._same else None
        there = known is not None and known.file == file and _size(self._site / file) == known.small_bytes
        return known if there else None

    def remove_all_but(self, listed: set[str]) -> None:
        """Remove the files that are on the site no longer."""
        with one_line_errors(str(self._site), "cannot be brought up to date"):
            sizes = {picture.file: picture.small_bytes for picture in self._pictures.values()}
            for name in self.files - listed:
                # a picture that was changed belongs to somebody else
                if sizes.get(name, _size(self._site / name)) == _size(self._site / name):
                    _remove(self._site, name)


def _manifest_of(site: Path, overwrite: bool) -> dict[str, Any]:
    """Return the manifest of a site, empty where there is none.

    Raises:
        UsageError: the folder holds other files.
    """
    before = _manifest(site)
    if site.exists() and not site.is_dir():
        raise UsageError(f"{site} is a file; a site needs a folder")
    if before is None and site.exists() and any(site.iterdir()) and not overwrite:
        raise UsageError(f"{site} exists and is not a gallery; --overwrite writes a gallery into it")
    return before or {}


def _json(about: dict[str, Any]) -> bytes:
    return (json.dumps(about, indent=1) + "\n").encode()


def _write(site: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        target = site / name
        with one_line_errors(str(target), "cannot be written"):
            if not target.resolve().is_relative_to(site.resolve()):
                raise ImageError(f"{target} leads out of the site")
            with system_errors(f"{target}: cannot be written"):
                target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, content)


def _site_files(codec: Codec) -> dict[str, bytes]:
    """Return all files of a site but its page, manifest and pictures."""
    weights = web_model(codec.loaded)
    files = {f"viewer/{name}": content for name, content in assets().items() if not name.endswith(".ts")}
    files[f"viewer/models/{codec.loaded.short_hash}.safetensors"] = weights
    own = resources.files("car.gallery").joinpath("static").iterdir()
    return files | {file.name: file.read_bytes() for file in own}


def _manifest(site: Path) -> dict[str, Any] | None:
    try:
        about = json.loads((site / MANIFEST).read_text(encoding="utf-8"))
        names = [*about["files"], *(entry["file"] for entry in about["pictures"])]
        for entry in about["pictures"]:
            Shown(**entry)
        ours = about["made_by"].startswith("car ")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    # others may have written to it
    good = ours and all(isinstance(name, str) and _is_inside(name) for name in names)
    return about if good else None


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _remove(site: Path, name: str) -> None:
    (site / name).unlink(missing_ok=True)
    for folder in (site / name).parents:
        if folder == site or any(folder.iterdir()):
            return
        folder.rmdir()


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)  # a link that leads nowhere also belongs to somebody else


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def megabytes(count: int) -> str:
    """Return a number of bytes as text with a unit."""
    if count < 1000:
        return f"{count} bytes"
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def _page(title: str, description: str, shown: Iterable[Shown], site_bytes: int) -> str:
    template = resources.files("car.gallery").joinpath("page.html").read_text(encoding="utf-8")
    pictures = list(shown)
    total = sum(picture.bytes for picture in pictures)
    weight = (
        f"{len(pictures)} photograph{'s' * (len(pictures) != 1)}: the site has {megabytes(site_bytes)}, "
        f"the originals have {megabytes(total)}"
    )
    figures = "\n".join(_figure(picture) for picture in pictures)
    values = {"title": title, "description": description, "weight": weight}
    filled = {name: html.escape(value.encode(errors="replace").decode()) for name, value in values.items()}
    filled["pictures"] = figures
    # all at once, because inserted text may look like a placeholder
    return re.sub(r"\{\{(\w+)\}\}", lambda place: filled[place[1]], template)


def _figure(picture: Shown) -> str:
    # file names need not be valid text
    name = html.escape(PurePosixPath(picture.source).name.encode(errors="replace").decode())
    file = html.escape(quote(os.fsencode(picture.file)))
    ratio = picture.width / picture.height
    facts = f"{picture.width} × {picture.height}, {megabytes(picture.small_bytes)}"
    return (
        f'<li style="--ratio: {ratio:.4f}"><a href="{file}" data-width="{picture.width}" '
        f'data-height="{picture.height}"><img src="{file}" width="{picture.small_width}" '
        f'height="{picture.small_height}" alt="{name}" loading="lazy" decoding="async"></a>'
        f"<p>{name}<span>{facts} instead of {megabytes(picture.bytes)}</span></p></li>"
    )
