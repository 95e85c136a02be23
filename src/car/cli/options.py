"""Options of commands, made from the fields of dataclasses, as `car.codec.options.Options`."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from car.cli.common import chosen_device, chosen_memory
from car.codec.options import Options


def with_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of the dataclasses that it takes.

    Of `Options`, which it takes as ``options``, only the fields named here are options. The fields of other
    dataclasses are declared like parameters of a command.

    Args:
        names: fields of `Options`; and ``device_id``, the MindSpore code's number of the device.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command).parameters.values()
        groups: dict[str, Any] = {p.name: p.annotation for p in own if is_dataclass(p.annotation)}
        groups.pop("options", None)

        @functools.wraps(command)
        def run(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in names}
            if "memory" in chosen:
                chosen["memory"] = chosen_memory(chosen["memory"])
            if "device_id" in chosen:
                chosen["device"] = chosen_device(chosen["device"], chosen.pop("device_id"))
            for name, kind in groups.items():
                values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            command(**values, **({"options": Options(**chosen)} if names else {}))

        added: list[inspect.Parameter] = []
        for p in own:
            if p.name in groups:
                added += map(functools.partial(_declared, groups[p.name]), fields(groups[p.name]))
            elif p.name != "options":
                added.append(p.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        run.__signature__ = inspect.Signature([*added, *map(_parameter, names)])  # type: ignore[attr-defined]
        return run

    return decorate


def _declared(kind: Any, field: Field[Any]) -> inspect.Parameter:
    hint = get_type_hints(kind, include_extras=True)[field.name]
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


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
