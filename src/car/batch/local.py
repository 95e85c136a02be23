"""The engine of one machine: several images at a time on threads."""

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import islice

from car.batch.plan import Plan
from car.batch.records import Record
from car.batch.work import Item
from car.batch.worker import Worker
from car.devices import cpu_threads


def run_here(todo: Plan, items: Iterable[Item], *, workers: int = 0) -> Iterator[Record]:
    """Work on this machine, several images at a time: while one is decoded, another is in the network.

    Args:
        todo: the plan.
        items: of it.
        workers: images at a time; 0 for one a core. The networks' threads are shared out among them.
    """
    count = workers or cpu_threads()
    threads = todo.work.options.threads or max(1, cpu_threads() // count)
    work = replace(todo.work, options=replace(todo.work.options, threads=threads))
    worker = Worker(todo.source.place.url, todo.target, work, todo.digest)
    pool = ThreadPoolExecutor(count, "images")
    waiting: set[Future[Record]] = set()
    queue = iter(items)
    try:
        while True:
            # a few in advance, so that no worker waits; not all, as they may be a million
            waiting |= {pool.submit(worker, item) for item in islice(queue, 2 * count - len(waiting))}
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
