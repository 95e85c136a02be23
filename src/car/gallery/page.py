"""The page of a gallery, from its template."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from rich.filesize import decimal

STATIC = ("gallery.css", "gallery.js")
"""Files that lie beside the page, as they are."""


@dataclass(frozen=True)
class PagePicture:
    """What the page shows of a picture; texts are plain, addresses are quoted.

    Attributes:
        anchor: its name in addresses.
        address: of the small picture.
        caption: empty for none.
        alt: what stands for the picture where it cannot be seen.
        size: (width, height) of the small picture.
        full_size: (width, height) of the photograph.
        facts: size and bytes, for the reader.
        original: address of the photograph; empty for none.
        comparable: the page may show the original beside what is restored.
    """

    anchor: str
    address: str
    caption: str
    alt: str
    size: tuple[int, int]
    full_size: tuple[int, int]
    facts: str
    original: str = ""
    comparable: bool = False

    @property
    def shape(self) -> str:
        """The class that says how wide the picture is for its height."""
        return f"r{self._permille}"

    @property
    def rule(self) -> str:
        """What `shape` means."""
        return f".{self.shape}{{--r:{self._permille / 1000:g}}}"

    @property
    def _permille(self) -> int:
        return max(1, round(1000 * self.size[0] / self.size[1]))


def static_files() -> dict[str, bytes]:
    """Return the files beside the page by name."""
    folder = resources.files("car.gallery") / "static"
    return {name: (folder / name).read_bytes() for name in STATIC}


def render(
    title: str, description: str, pictures: Sequence[PagePicture], *, other_bytes: int, original_bytes: int
) -> bytes:
    """Return the page.

    Args:
        title: plain text.
        description: plain text, or empty.
        pictures: in the order in which they are shown.
        other_bytes: of all files that a visitor fetches beside the page itself.
        original_bytes: of the photographs.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("car.gallery", "static"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("index.html.j2")
    versions = {name: hashlib.sha256(content).hexdigest()[:8] for name, content in static_files().items()}
    # rules and not style attributes, so that the policy can name them by their hash and allow no others
    shapes = "".join(sorted({picture.rule for picture in pictures}))
    digest = base64.b64encode(hashlib.sha256(shapes.encode()).digest()).decode()
    page, before = b"", -1
    # the page says how heavy it is, itself included: again until saying so no longer changes it
    for _ in range(8):
        if len(page) == before:
            break
        before = len(page)
        text = template.render(
            title=title,
            description=description,
            pictures=pictures,
            policy=_policy(digest),
            shapes=Markup(shapes),  # noqa: S704 - made of numbers above
            css=versions["gallery.css"],
            js=versions["gallery.js"],
            weight=weight(len(pictures), other_bytes + before, original_bytes),
        )
        page = text.encode()
    return page


def weight(count: int, site_bytes: int, original_bytes: int) -> str:
    """Say how heavy the site is against the photographs."""
    photographs = "1 photograph" if count == 1 else f"{count:,} photographs"
    return (
        f"{photographs}: {decimal(site_bytes)} with all that restores them, instead of "
        f"{decimal(original_bytes)} of original files"
    )


def facts(full_size: tuple[int, int], small_bytes: int, source_bytes: int) -> str:
    """Say how large a picture is and what it weighs."""
    width, height = full_size
    return f"{width} × {height} · {decimal(small_bytes)} instead of {decimal(source_bytes)}"


def _policy(style_digest: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self' 'wasm-unsafe-eval'",
            "worker-src 'self'",
            "img-src 'self' blob: data:",
            f"style-src 'self' 'sha256-{style_digest}'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
