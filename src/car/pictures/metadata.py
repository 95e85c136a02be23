"""The metadata of a small picture: JSON in PNG text, JPEG comments and EXIF; an XMP packet in TIFF."""

import json
import re
from dataclasses import asdict, dataclass
from typing import NoReturn
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from car.errors import ImageError

MAX_METADATA_BYTES = 65_536
"""Longer metadata is not looked at."""

_COMMENT = b"car:"
_XMP_NAMESPACE = "urn:content-adaptive-resampler:1"


@dataclass(frozen=True)
class LRInfo:
    """What a small picture's file says about itself.

    Attributes:
        model: name of the model that made it.
        weights: leading hexadecimal digits (at least 8) of the SHA-256 of its weights, empty if unknown.
        scale: HR pixels per LR pixel along each axis.
        size: (width, height) of the original.
        grey: the original was grey, and so will be what is restored.
    """

    model: str
    weights: str
    scale: int
    size: tuple[int, int]
    grey: bool = False

    def __post_init__(self) -> None:
        numbers = (self.scale, *self.size)
        good = (
            re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", self.model)
            and re.fullmatch(r"([0-9a-f]{8,64})?", self.weights)
            and len(self.size) == 2
            and all(type(n) is int for n in numbers)
            and 1 <= self.scale <= 64
            and all(1 <= n < 2**31 for n in self.size)
            and type(self.grey) is bool
        )
        if not good:
            said = ", ".join(f"{name} = {value!r}" for name, value in asdict(self).items())
            raise ImageError(f"the metadata of the small picture is damaged: {said[:200]}")

    def to_json(self) -> str:
        """Return the text that PNG files carry."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "LRInfo":
        """Parse what `to_json` gave.

        Raises:
            ImageError: the text is anything else.
        """
        try:
            values = json.loads(_limited(text))
            size = tuple(values["size"])
            return cls(values["model"], values["weights"], values["scale"], size, values.get("grey", False))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ImageError("the metadata of the small picture is damaged") from error

    def to_comment(self) -> bytes:
        """Return the comment that JPEG files carry, and the EXIF of WebP and AVIF as description.

        It is a list of the values in their order, a seventh of an XMP packet's bytes, which count in small
        files.
        """
        values = [self.model, self.weights, self.scale, *self.size, *([True] if self.grey else [])]
        return _COMMENT + json.dumps(values, separators=(",", ":")).encode()

    @classmethod
    def from_comment(cls, comment: bytes) -> "LRInfo | None":
        """Parse what `to_comment` gives, or gave in older versions; None where it is another comment.

        Raises:
            ImageError: it is damaged.
        """
        text = comment.removeprefix(_COMMENT).decode("utf-8", "replace")
        if comment.startswith(_COMMENT + b"{"):  # files of older versions
            return cls.from_json(text)
        if not comment.startswith(_COMMENT + b'["'):
            return None
        try:
            model, weights, scale, width, height, *grey = json.loads(_limited(text))
            return cls(model, weights, scale, (width, height), *grey)
        except (ValueError, TypeError, RecursionError) as error:
            raise ImageError("the metadata of the small picture is damaged") from error

    def to_xmp(self) -> bytes:
        """Return the XMP packet that TIFF files carry; WebP and AVIF of older versions have it too."""
        values = {"model": self.model, "weights": self.weights, "scale": self.scale}
        values |= {"width": self.size[0], "height": self.size[1], "grey": str(self.grey).lower()}
        attributes = " ".join(f"car:{name}={quoteattr(str(value))}" for name, value in values.items())
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
            f'xmlns:car="{_XMP_NAMESPACE}" {attributes}/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
        ).encode()

    @classmethod
    def from_xmp(cls, packet: bytes) -> "LRInfo | None":
        """Find what `to_xmp` wrote, or others wrote anew; None where the packet has nothing of the kind.

        Raises:
            ImageError: there is, but damaged.
        """
        if len(packet) > MAX_METADATA_BYTES or _XMP_NAMESPACE.encode() not in packet:
            return None
        try:
            values = _xmp_values(packet)
            if not values:
                return None
            size = (_number(values["width"]), _number(values["height"]))
            grey = {"true": True, "false": False}[values.get("grey", "false").lower()]
            return cls(values["model"], values["weights"], _number(values["scale"]), size, grey)
        except (KeyError, ValueError, expat.ExpatError) as error:
            raise ImageError("the metadata of the small picture is damaged") from error


def _limited(text: str) -> str:
    if len(text) > MAX_METADATA_BYTES:
        raise ImageError("the metadata of the small picture is too long")
    return text


def _number(text: str) -> int:
    # int() takes signs, underscores, the digits of any script, and digits without end
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise ValueError(text)
    return int(text)


def _xmp_values(packet: bytes) -> dict[str, str]:
    """Return the properties in our namespace, which may be attributes or elements, whatever their prefix.

    Raises:
        ValueError: a property is said twice and differently, or the packet defines entities.
        expat.ExpatError: the packet is no XML.
    """
    ours = _XMP_NAMESPACE + " "
    values: dict[str, str] = {}
    text: list[str] = []  # since the start of the innermost of our elements

    def keep(name: str, value: str) -> None:
        if (
            name.startswith(ours)
            and values.setdefault(name.removeprefix(ours), value.strip()) != value.strip()
        ):
            raise ValueError(name)

    def start(name: str, attributes: dict[str, str]) -> None:
        if name.startswith(ours):
            text.clear()
        for key, value in attributes.items():
            keep(key, value)

    def end(name: str) -> None:
        if name.startswith(ours):
            keep(name, "".join(text))
            text.clear()

    def doctype(*_: object) -> NoReturn:
        raise ValueError("a packet has no document type")  # without one, no entity can be defined

    # XMP in files is UTF-8; said here, a declaration in the packet cannot choose another decoder
    parser = expat.ParserCreate("utf-8", " ")
    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text.append
    parser.Parse(packet.rstrip(b"\0"), True)  # some writers pad with zeros
    return values
