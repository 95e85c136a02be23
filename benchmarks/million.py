"""What planning a run over a million pictures takes, and going on with it: memory and time of the driver.

The pictures are entries that a file system makes up as it is asked for them, in folders of a thousand, and
the engine only says that each is done: what is measured is the listing, the joining with records of earlier
runs, and the manifest. Each run is a process of its own. The first finds nothing done. The second goes on
when all but one in a thousand is.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

import common

PAGE = "scale.md"

FOLDER = 1000  # pictures
SOURCE_BYTES, TARGET_BYTES = 4_000_000, 100_000
SMALLER = 10  # the run that shows whether memory grows has so many times fewer pictures


class Made(AbstractFileSystem):
    """Folders of made-up pictures: ``made://COUNT/photos`` has so many, ``.../small`` the results."""

    protocol = "made"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("made://").strip("/")

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[dict[str, Any]]:
        count, kind, *below = self._strip_protocol(path).split("/")
        top = f"{count}/{kind}"
        if not below:
            folders = range(int(count) // FOLDER)
            return [{"name": f"{top}/{n:07d}", "type": "directory", "size": 0} for n in folders]
        size, ending = (SOURCE_BYTES, "jpg") if kind == "photos" else (TARGET_BYTES, "x4.png")
        numbers = range(FOLDER) if kind == "photos" else range(FOLDER - 1)
        return [
            {"name": f"{top}/{below[0]}/{n:04d}.{ending}", "type": "file", "size": size, "ETag": "e"}
            for n in numbers
        ]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        raise FileNotFoundError(path)


class Results(Made):
    """The place of the results: pictures are made up, the manifest lies on the disk."""

    protocol = "results"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("results://").strip("/")

    def _on_disk(self, path: str) -> Path:
        return Path(DISK, *self._strip_protocol(path).split("/")[2:])

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[dict[str, Any]]:
        if "_manifest" not in path:
            return super().ls(path, detail, **options)
        files = self._on_disk(path).glob("*")
        top = self._strip_protocol(path)
        return [{"name": f"{top}/{f.name}", "type": "file", "size": f.stat().st_size} for f in files]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return self._on_disk(path).open(mode)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._on_disk(path).mkdir(parents=True, exist_ok=exist_ok)

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self._on_disk(path).write_bytes(value)

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        shutil.copyfile(lpath, self._on_disk(rpath))

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        self._on_disk(path1).rename(self._on_disk(path2))

    def exists(self, path: str, **_: Any) -> bool:
        return self._on_disk(path).exists()

    def rm_file(self, path: str) -> None:
        self._on_disk(path).unlink()


DISK = ""


def one_run(count: int) -> None:
    """Do one run as `car bulk downscale` does, and print what it took."""
    from car.batch.plan import Plan, plan
    from car.batch.records import Record
    from car.batch.run import run
    from car.batch.work import Item, Work
    from car.scaling import Wanted

    fsspec.register_implementation("made", Made)
    fsspec.register_implementation("results", Results)

    def engine(todo: Plan, items: Iterable[Item]) -> Iterator[Record]:
        digest = "0123456789abcdef" * 4
        like = Record(
            "", "done", SOURCE_BYTES, "", digest, (4000, 3000), "", TARGET_BYTES, digest, (1000, 750)
        )
        like = replace(like, model="car_plus_x4", weights=digest[:16], settings=todo.digest, seconds=1.2345)
        for item in items:
            yield replace(like, source=item.name, target=item.target, stamp=item.entry.stamp)

    begin, cpu = time.perf_counter(), time.process_time()
    work = Work("downscale", Wanted(4))
    summary = run(plan(f"made://{count}/photos", f"results://{count}/small", work), engine=engine)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": cpu,
                "peak": peak,
                "done": summary.done,
                "unchanged": summary.unchanged,
            }
        )
    )


def measured(count: int) -> dict[str, Any]:
    """Run over `count` pictures, and again."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as disk:
        for name, done in (("first run", count), ("going on", count // FOLDER)):
            line = [sys.executable, __file__, str(count), disk]
            row = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
            if row["done"] != done or row["unchanged"] != count - done:
                raise SystemExit(f"{name} of {count}: {row}")
            rows[name] = row
            print(
                count,
                name,
                f"{row['seconds']:.1f} s, {row['cpu']:.1f} of a core, {row['peak'] / 1e6:.0f} MB",
                flush=True,
            )
    return rows


def table(results: dict[str, Any]) -> str:
    lines = [
        "One run each.",
        "",
        "| pictures | first run, s | of a core, s | memory, MB | going on, s | of a core, s | memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for count, rows in results["rows"].items():
        cells = (f"{r['seconds']:.1f} | {r['cpu']:.1f} | {r['peak'] / 1e6:.0f}" for r in rows.values())
        lines.append(f"| {int(count):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=1_000_000)


def measure(options: argparse.Namespace) -> common.Results:
    counts = (options.count // SMALLER, options.count)
    return {"rows": {str(count): measured(count) for count in counts}}


if __name__ == "__main__":
    DISK = sys.argv[2]
    one_run(int(sys.argv[1]))
