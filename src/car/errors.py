"""The exception tree: each failure that a user can cause is a `CarError` with a one-line message."""

import contextlib
import operator
from collections.abc import Generator, Iterable
from typing import Any


class CarError(Exception):
    """Base of all errors raised on purpose. The message names fault, file or option, and remedy.

    Attributes:
        fatal: no other file can be written either, for example because the disk is full.
    """

    fatal = False


class UsageError(CarError):
    """The request makes no sense (unknown model, impossible option). Nothing was attempted."""


class ImageError(CarError):
    """An image file cannot be read, understood or written."""


class WriteError(ImageError):
    """A file cannot be written, for a reason that the system gives."""

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class StorageError(CarError):
    """A folder or bucket cannot be listed, read or written."""

    def __init__(self, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class WeightsError(CarError):
    """Weights are missing, damaged or do not belong to the model they were given for."""


class TrainingError(CarError):
    """Training cannot start or continue (no usable images, divergence, unwritable folder)."""


def needs(what: str, extra: str) -> UsageError:
    """Return the error that says how to install `extra`, one of the package's, which `what` needs."""
    return UsageError(f'{what}: pip install "content-adaptive-resampler[{extra}]"')


def whole_number(value: Any, name: str) -> int:
    """Return an integer of any type, such as one of NumPy, as an `int`.

    Raises:
        UsageError: it is no integer; the message calls it `name`.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise UsageError(f"{name} must be a whole number, got {value!r}")


@contextlib.contextmanager
def system_errors(what: str, kind: type[CarError] = ImageError) -> Generator[None, None, None]:
    """Turn an error of the system into one of `kind`: `what` could not be done, and the reason."""
    try:
        yield
    except OSError as error:
        raise kind(f"{what} ({reason(error)})") from error


def reading_errors(name: str) -> contextlib.AbstractContextManager[None]:
    """Turn whatever goes wrong while a picture is read into an `ImageError` of one line."""
    return one_line_errors(name, "cannot be read", "it is damaged, or of a kind that is not supported")


@contextlib.contextmanager
def one_line_errors(name: str, what: str, because: str = "") -> Generator[None, None, None]:
    """Turn whatever a coder or the system raises into an `ImageError` of one line.

    Args:
        name: of the file.
        what: what could not be done with it.
        because: what it means if the coder failed, and not the system.
    """
    # decoders meet damaged files with almost any exception
    try:
        yield
    except ImageError as error:
        if str(error).startswith(name):
            raise
        raise ImageError(f"{name}: {error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory") from error
    except Exception as error:
        # `compression` is what tifffile uses of Python 3.14; else it names the package in a text
        missing = getattr(error, "name", "") in ("imagecodecs", "compression")
        if missing or "'imagecodecs' package" in str(error):
            raise ImageError(str(needs(f"{name}: its format needs more decoders", "formats"))) from error
        what += f": {because}" if because and not getattr(error, "strerror", None) else ""
        raise ImageError(f"{name}: {what} ({reason(error)[:200]})") from error


def reason(error: BaseException) -> str:
    """Say in one line why an error of the system, or one of ours, happened."""
    if isinstance(error, MemoryError):
        return "not enough memory; a smaller --tile needs less"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split())


def told(error: BaseException, name: str, *others: str) -> str:
    """Say in one line what went wrong with the file `name`, which is named once.

    It is not named where the text names one of `others`, such as the file that could not be written.
    """
    text = reason(error)
    return text if any(file in text for file in (name, *others)) else f"{name}: {text}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, or the list of them if none is near."""
    import difflib

    options = sorted(known)
    close = difflib.get_close_matches(name, options, cutoff=0.6)
    if close:
        # exchanged letters are likelier than others: car_plus_4x means car_plus_x4, not car_plus_x8
        nearest = min(close, key=lambda one: (sorted(one) != sorted(name), close.index(one)))
        return f"; did you mean {nearest!r}?"
    return f"; known: {', '.join(options)}" if options else ""
