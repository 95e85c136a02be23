"""Options of commands, made from the fields of dataclasses such as `car.codec.options.Options`."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_origin, get_type_hints

import typer

from car.cli.common import Threads, chosen_bytes, chosen_memory
from car.codec.options import Options
from car.devices import set_cpu_threads


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of the dataclasses that it takes.

    A field is declared like a parameter of a command, or has help and limits as metadata
    (`car.codec.options.setting`). Other fields keep their defaults.

    Args:
        names: the fields of `Options` that are options. ``threads`` is the global option, which may then
            follow the command too.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        added: list[inspect.Parameter] = []
        groups: dict[str, Any] = {}
        own_threads = "threads" in names
        of_group: dict[str, list[str]] = {}
        for p in inspect.signature(command).parameters.values():
            own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY)]
            if is_dataclass(p.annotation):
                groups[p.name] = p.annotation
                own = list(_options(p.annotation, names))
                of_group[p.name] = [option.name for option in own]
            added += own
        if own_threads:
            keyword = inspect.Parameter.KEYWORD_ONLY
            added.append(inspect.Parameter("threads", keyword, default=None, annotation=Threads))

        @functools.wraps(command)
        def run(**values: Any) -> None:
            if own_threads and (threads := values.pop("threads")):
                set_cpu_threads(threads)
            for group, kind in groups.items():
                values[group] = kind(**_chosen(kind, {name: values.pop(name) for name in of_group[group]}))
            command(**values)

        run.__signature__ = inspect.Signature(added)  # type: ignore[attr-defined]
        return run

    return decorate


def _options(kind: Any, names: tuple[str, ...]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        about, hint = field.metadata, hints[field.name]
        named = field.name in names and field.name != "threads"
        if named if kind is Options else about or get_origin(hint) is Annotated:
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            if "size" in about:
                hint, default = str | None, about["size"]
            if about:
                flags = about.get("flags", (f"--{field.name.replace('_', '-')}",))
                limits: dict[str, Any] = {name: about.get(name) for name in ("min", "max")}
                hint = Annotated[hint, typer.Option(*flags, help=about["help"], **limits)]
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
            )


def _chosen(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the fields; turn sizes in bytes, which are given as text, into numbers."""
    for field in fields(kind):
        text = values.get(field.name)
        if "size" in field.metadata and text is not None:
            values[field.name] = chosen_bytes(f"--{field.name.replace('_', '-')}", text)
    if kind is Options and "memory" in values:
        values["memory"] = chosen_memory(values["memory"])
    return values
