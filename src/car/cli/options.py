"""The settings of a codec as options of commands, made from `car.codec.options.Options`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from car.cli.common import chosen_device, chosen_memory
from car.codec.options import Options


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, which takes ``options``, an option for each of these settings.

    Args:
        names: fields of `Options`; and ``device_id``, the MindSpore code's number of the device.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in names}
            if "memory" in chosen:
                chosen["memory"] = chosen_memory(chosen["memory"])
            if "device_id" in chosen:
                chosen["device"] = chosen_device(chosen["device"], chosen.pop("device_id"))
            command(**values, options=Options(**chosen))

        own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
        run.__signature__ = inspect.Signature([*own, *map(_parameter, names)])  # type: ignore[attr-defined]
        return run

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    kind: Any = int | None
    default: Any = None
    about: Mapping[str, Any]
    if name == "device_id":
        about = {"help": "Number of the device; or say --device cuda:1.", "min": 0}
    else:
        field = next(field for field in fields(Options) if field.name == name)
        kind = str | None if name == "memory" else get_type_hints(Options)[name]
        default, about = field.default, field.metadata
    flags = [f"--{name.replace('_', '-')}", *(["--device-target"] if name == "device" else [])]
    option: Any = typer.Option(*flags, help=about["help"], min=about.get("min"), max=about.get("max"))
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )
