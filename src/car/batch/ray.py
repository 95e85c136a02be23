"""The engine for many machines. Ray runs workers, which load the model once and process groups of images."""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from car.batch.plan import Plan
from car.batch.records import Record
from car.batch.work import Item, Work
from car.batch.worker import Worker
from car.errors import StorageError, UsageError, needs
from car.files.storage import Place
from car.weights import absolute_name

_GROUP_BYTES = 32 * 2**20  # of files in a group, so that groups take about equally long
_GROUP_IMAGES = 64
_AHEAD = 4096  # images that are sorted by size and grouped at once
_TRIES = 3  # for an image whose worker dies; Ray itself would retry for ever
_IN_HAND = 2  # groups that a worker holds: one in work, one waiting
_LOOK = 10.0  # seconds between checks for room for more workers

Make = Callable[[], Worker]


def run_on_ray(
    todo: Plan, items: Iterable[Item], *, address: str | None = None, workers: int = 0, threads: int = 1
) -> Iterator[Record]:
    """Work on a Ray cluster, or on a local one that this function starts.

    Ray restarts a worker that dies, and gives it the same group again. Results are written whole or not at
    all, and a result that is already there is not written again, so nothing is lost. An image at which three
    workers died counts as failed. Items are taken when workers have room for them. Machines that join the
    cluster get workers too.

    Args:
        todo: the plan. Every machine must reach its source and target by the same names.
        items: the items of the plan.
        address: address of the cluster, such as ``ray://head:10001`` or ``auto``; None starts one here.
        workers: the largest number of workers; 0 for as many as the cluster has room for.
        threads: CPU threads of a worker.

    Raises:
        UsageError: Ray is not installed, or the cluster cannot be reached.
        StorageError: nothing can be written to the target.
    """
    groups = _groups(items)
    first = next(groups, None)
    if first is None:
        return
    try:
        # Ray reports its usage by default
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError as error:
        raise needs("--engine ray needs ray", "ray") from error
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
            )
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster at {address or 'this machine'} ({error})") from error
    # workers have other working folders, so paths must be absolute
    model = None if todo.work.model is None else absolute_name(todo.work.model)
    work = replace(todo.work, model=model, options=replace(todo.work.options, threads=threads))
    places = (todo.source.place.absolute, Place(todo.target).absolute)
    pool = _Pool(partial(Worker, *places, work, todo.digest), work, workers, threads)
    try:
        yield from pool.run(first, groups)
    finally:
        pool.close()
        if started:
            ray.shutdown()


class _Pool:
    """The workers of a run."""

    def __init__(self, make: Make, work: Work, most: int, threads: int) -> None:
        import ray

        self._most, self._threads = most, threads
        gpus = 1 if work.options.device.startswith("cuda") else 0
        tries: Any = ray.remote(_Tries)
        self._tries = tries.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
        actor: Any = ray.remote(_RayWorker)
        lasting = actor.options(num_cpus=threads, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)
        self._start = partial(lasting.remote, make, self._tries)
        self._starting: dict[Any, Any] = {}  # promise -> worker
        self._load: dict[Any, int] = {}  # worker -> groups in hand
        self._looked = 0.0

    def run(self, first: str, groups: Iterator[str]) -> Iterator[Record]:
        import ray

        waiting: str | None = first
        in_hand: dict[Any, Any] = {}  # promise -> worker
        while waiting is not None or in_hand:
            self._grow()
            for worker in sorted(self._load, key=self._load.__getitem__):
                while waiting is not None and self._load[worker] < _IN_HAND:
                    in_hand[worker.work.remote(waiting)] = worker
                    self._load[worker] += 1
                    waiting = next(groups, None)
            if waiting is None:
                self._let_go()
            done, _ = ray.wait([*in_hand, *self._starting], timeout=_LOOK)
            for promise in done:
                if promise in self._starting:
                    self._load[self._starting.pop(promise)] = 0
                    continue
                self._load[in_hand.pop(promise)] -= 1
                yield from _records(str(ray.get(promise)))

    def _grow(self) -> None:
        """Start workers if the cluster has room for more. It may have grown."""
        import ray

        if time.monotonic() - self._looked < _LOOK and (self._load or self._starting):
            return
        self._looked = time.monotonic()
        room = max(1, int(ray.cluster_resources().get("CPU", 1)) // self._threads)
        for _ in range(min(self._most or room, room) - len(self._load) - len(self._starting)):
            worker = self._start()
            self._starting[worker.ready.remote()] = worker

    def _let_go(self) -> None:
        """End idle workers: one that died may be waiting for room to restart."""
        import ray

        for worker in [worker for worker, load in self._load.items() if not load]:
            del self._load[worker]
            ray.kill(worker)
        while self._starting:
            ray.kill(self._starting.popitem()[1])

    def close(self) -> None:
        """End all workers."""
        import ray

        for worker in (*self._load, *self._starting.values(), self._tries):
            ray.kill(worker)


def _records(text: str) -> Iterator[Record]:
    for values in json.loads(text):
        if "fatal" in values:
            raise StorageError(values["fatal"], fatal=True)
        record = Record.from_dict(values)
        assert record is not None
        yield record


def _groups(items: Iterable[Item]) -> Iterator[str]:
    """Yield groups of images of similar size, which take about equally long, as JSON."""
    left = iter(items)
    while some := list(islice(left, _AHEAD)):
        group: list[Item] = []
        for item in sorted(some, key=lambda item: (-item.entry.size, item.name)):
            group.append(item)
            if sum(item.entry.size for item in group) >= _GROUP_BYTES or len(group) >= _GROUP_IMAGES:
                yield _json(group)
                group = []
        if group:
            yield _json(group)


def _json(group: list[Item]) -> str:
    return json.dumps([item.to_dict() for item in group])


class _Tries:
    """An actor that counts how often work on an image was begun and not ended, because its worker died."""

    def __init__(self) -> None:
        self._begun = Counter[str]()

    def begin(self, name: str) -> int:
        self._begun[name] += 1
        return self._begun[name]

    def end(self, name: str) -> None:
        del self._begun[name]


class _RayWorker:
    """An actor that works on groups. It loads the model with the first image."""

    def __init__(self, make: Make, tries: Any) -> None:
        self._worker = make()
        self._tries = tries

    def ready(self) -> None:
        """Return, which shows that the actor has started."""

    def work(self, group: str) -> str:
        """Work on a group; return its records as JSON, with "fatal" in the last if nothing can be written."""
        records: list[Any] = []
        for values in json.loads(group):
            try:
                records.append(self._record_of(Item.from_dict(values)).to_dict())
            except StorageError as error:  # noqa: PERF203
                records.append({"fatal": str(error)})
                break
        return json.dumps(records, allow_nan=False)

    def _record_of(self, item: Item) -> Record:
        import ray

        begun: Any = ray.get(self._tries.begin.remote(item.name))
        if begun > _TRIES:
            text = f"{self._worker.source.path_of(item.name)}: the process at work on it died {_TRIES} times"
            return self._worker.failure(item, text)
        record = self._worker(item)
        self._tries.end.remote(item.name)
        return record
