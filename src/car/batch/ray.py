"""The engine for many machines: Ray Data hands out groups of images, each worker loads the model once."""

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

from car.batch.local import Item, Plan, Work
from car.batch.records import Record
from car.codec.options import Options
from car.errors import StorageError, UsageError
from car.files.places import Entry, Place
from car.weights import absolute_name

_GROUP_BYTES = 32 * 2**20  # of files that are handed out at once, so that groups take about as long
_GROUP_IMAGES = 64
_TRIES = 3  # of an image whose worker dies; Ray itself would go on for ever


def run_on_ray(
    todo: Plan, items: Iterable[Item], *, address: str | None = None, workers: int = 0, threads: int = 1
) -> Iterator[Record]:
    """Work on a Ray cluster, or on a local one that is started for the purpose.

    Ray Data restarts workers that die and hands their images out again; as targets are written all or nothing
    and compared with what is there, that loses and repeats nothing; an image at which three workers died has
    failed. It holds back reading while results wait,
    and grows and shrinks the number of workers within the cluster, which may grow itself.

    Args:
        todo: the plan; every machine must reach its source and target by the same names.
        items: of it.
        address: of the cluster, as ``ray://head:10001`` or ``auto``; None starts one here.
        workers: at most so many; 0 for as many as the cluster has room for.
        threads: CPU threads of a worker.

    Raises:
        UsageError: Ray is not installed or the cluster cannot be reached.
        StorageError: the target cannot be written to at all.
    """
    groups = list(_groups(items))
    if not groups:
        return
    try:
        # what Ray tells about itself by default
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError("the engine ray needs: pip install 'content-adaptive-resampler[ray]'") from error
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
            )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster at {address or 'this machine'} ({error})") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    gpus = 1 if todo.work.options.device.startswith("cuda") else 0
    # workers have working folders of their own
    source, target = Place(todo.source).absolute, Place(todo.target).absolute
    work = replace(todo.work, model=None if todo.work.model is None else absolute_name(todo.work.model))
    try:
        most = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        actor: Any = ray.remote(_Tries)
        tries = actor.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        results = ray.data.from_items(
            [{"group": json.dumps(group)} for group in groups], override_num_blocks=len(groups)
        ).map_batches(
            _RayWorker,
            fn_constructor_args=(source, target, asdict(work), todo.digest, threads, tries),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(most, len(groups))),
            num_cpus=threads,
            num_gpus=gpus,
        )
        for row in results.iter_rows():
            for values in json.loads(row["records"]):
                if "fatal" in values:
                    raise StorageError(values["fatal"], fatal=True)
                record = Record.from_dict(values)
                assert record is not None
                yield record
    finally:
        if started:
            ray.shutdown()


def _groups(items: Iterable[Item]) -> Iterator[list[dict[str, Any]]]:
    """Put images of like size together, as many as make a group of about the same work."""
    group: list[dict[str, Any]] = []
    size = 0
    for item in sorted(items, key=lambda item: (-item.entry.size, item.name)):
        group.append(asdict(item))
        size += item.entry.size
        if size >= _GROUP_BYTES or len(group) >= _GROUP_IMAGES:
            yield group
            group, size = [], 0
    if group:
        yield group


class _Tries:
    """An actor: how often work on each image was begun that has not ended, as the worker died."""

    def __init__(self) -> None:
        self._begun = Counter[str]()

    def begin(self, name: str) -> int:
        self._begun[name] += 1
        return self._begun[name]

    def end(self, name: str) -> None:
        del self._begun[name]


class _RayWorker:
    """An actor: the model is loaded when it starts."""

    def __init__(
        self, source: str, target: str, work: dict[str, Any], digest: str, threads: int, tries: Any
    ) -> None:
        options = Options(**(work.pop("options") | {"threads": threads}))
        self._worker = Plan(source, target, Work(**work, options=options), digest, (), (), ()).worker()
        self._tries = tries

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        out: list[str] = []
        for text in batch["group"]:
            records: list[Any] = []
            for values in json.loads(text):
                known = values["known"] and Record.from_dict(values["known"])
                there = values["there"] and Entry(**values["there"])
                item = Item(values["name"], Entry(**values["entry"]), values["target"], there, known)
                try:
                    records.append(asdict(self._record_of(item)))
                except StorageError as error:
                    records.append({"fatal": str(error)})
                    break
            out.append(json.dumps(records, allow_nan=False))
        return {"records": out}

    def _record_of(self, item: Item) -> Record:
        import ray

        begun: Any = ray.get(self._tries.begin.remote(item.name))
        if begun > _TRIES:
            text = f"{self._worker.source.path_of(item.name)}: the process at work on it died {_TRIES} times"
            return self._worker.failure(item, text)
        record = self._worker(item)
        self._tries.end.remote(item.name)
        return record
