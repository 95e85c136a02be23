"""Small files that keep to a size or a quality: downscale with --max-bytes and the like."""

import re
from dataclasses import asdict, replace
from glob import escape
from pathlib import Path
from typing import Any

from car.batch.names import Job, Naming, check_target, means_folder, plan
from car.cli.common import Showing, Shrunk, stderr
from car.cli.jobs import piped, run_jobs
from car.codec.large import gigabytes, memory_of
from car.codec.options import Options
from car.errors import ImageError, UsageError
from car.files.atomic import atomic_write
from car.measure.budget import Goal, SmallFile, shrink_to
from car.measure.evaluate import finite
from car.measure.trips import FORMATS, SmallFormat, Trial
from car.pictures.formats import format_of
from car.pictures.info import read_header

_SUFFIXES: dict[str, SmallFormat] = {format_of(f"x.{format}"): format for format in FORMATS}
_COPIES = 4  # of what plain shrinking needs: pictures of several scales, and what is restored from them


def shrink_to_goal(
    inputs: list[str],
    output: str | None,
    goal: Goal,
    *,
    chosen: Shrunk,
    format: str | None,
    quality: int | None,
    exclude: list[str],
    keep_extension: bool,
    overwrite: bool,
    showing: Showing,
    options: Options,
) -> None:
    """Shrink each picture to the best file that keeps to `goal`."""
    _check_options(chosen, quality, options)
    unnamed = output is None or output == "-" or means_folder(output)
    named = None if unnamed else output
    formats: tuple[SmallFormat, ...] = FORMATS
    if format is not None or named is not None:
        kind = format_of(named or f"x.{format}")
        if kind not in _SUFFIXES:
            wanted = Path(named).suffix if named else format
            raise UsageError(f"to keep to a size or a quality, write {', '.join(FORMATS)}, not {wanted}")
        formats = (_SUFFIXES[kind],)

    naming = Naming(f".{formats[0]}", add=".x", keeps=keep_extension)
    with piped(inputs, output, naming.suffix, showing) as pipe:
        todo = plan(pipe.inputs, pipe.output, naming, exclude)
        tells = showing.text and not todo.many

        def tell(trial: Trial) -> None:
            if tells:
                measure = "psnr_rgb" if goal.min_psnr is not None else "ssimulacra2"
                stderr.print(f"{trial.setting}: {trial.bytes:,} bytes, {trial.score.told(measure)}")

        def shrink(job: Job) -> dict[str, Any]:
            named_file = named is not None or pipe.to_output
            if named_file:
                check_target(job, overwrite)
            elif todo.many and not overwrite and (earlier := _made_of(job, naming)):
                return {"target": str(earlier), "skipped": "exists"}
            _check_memory(job.source, options.memory or 0)
            small = shrink_to(
                job.source,
                **asdict(goal),
                formats=formats,
                scale=chosen.scale,
                options=options,
                on_trial=tell,
            )
            if not named_file:
                named_so = replace(naming, suffix=small.suffix, add=f".x{small.made.setting.scale:g}")
                job = replace(job, target=job.target.with_name(named_so(job.source.name)))
                check_target(job, overwrite)
            atomic_write(job.target, small.data)
            return _described(job, small)

        run_jobs("shrinking", todo, shrink, pipe, overwrite=overwrite)


def _check_options(chosen: Shrunk, quality: int | None, options: Options) -> None:
    size = f"--{chosen.wanted.label.rstrip('.0123456789')}"
    for option, value in (
        ("--model", chosen.name),
        ("--quality", quality),
        ("--effort", options.effort),
        (size, chosen.wanted.by_size),
    ):
        if value:
            raise UsageError(f"{option} does not go with --max-bytes, --min-psnr and --min-ssimulacra2")


def _made_of(job: Job, naming: Naming) -> Path | None:
    """Return a small file of the same picture that an earlier run has made; None if there is none."""
    stem = naming.stem(job.source.name)
    ending = re.compile(rf"\.x[0-9.]+\.({'|'.join(FORMATS)})")
    found = job.target.parent.glob(f"{escape(stem)}.x*")
    return next((path for path in sorted(found) if ending.fullmatch(path.name[len(stem) :])), None)


def _check_memory(source: Path, memory: int) -> None:
    header = read_header(source)
    need = _COPIES * memory_of(*header.size, header.pixel_bytes)
    if need > memory:
        raise ImageError(
            f"{source}: to keep to a size or a quality takes about {gigabytes(need)}, over "
            f"{gigabytes(memory)}; raise --memory, or give --scale and --quality instead"
        )


def _described(job: Job, small: SmallFile) -> dict[str, Any]:
    header = read_header(job.target)
    assert header.info is not None
    made = small.made
    return finite(
        {
            "target": str(job.target),
            "source_size": list(header.info.size),
            "target_size": list(header.size),
            "source_bytes": job.source.stat().st_size,
            "target_bytes": made.bytes,
            "model": made.model,
            "scale": made.setting.scale,
            "quality": made.setting.quality,
            **asdict(made.score),
            "decided_by": small.measure,
            "tried": [_row(trial) for trial in small.tried],
            "full_size": None if small.full_size is None else _row(small.full_size),
            "chosen": small.why,
            "notes": [*small.notes, *([small.advice] if small.advice else [])],
        }
    )


def _row(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial.setting), "bytes": trial.bytes, **asdict(trial.score)}
