"""The Ray engine on a cluster of two nodes on this machine."""

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

import car
from car.batch import ray as ray_engine
from car.batch.local import run_here
from car.batch.plan import plan
from car.batch.ray import _groups, run_on_ray
from car.batch.run import run
from car.batch.worker import Worker
from processes import LIMIT
from test_bulk import DOWN, files, outcome, photos, steps

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    resources = {"num_cpus": 2, "object_store_memory": 2 * 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=resources | {"include_dashboard": False})
    cluster.add_node(**resources)
    yield cluster
    cluster.shutdown()


def test_two_nodes_lose_and_repeat_nothing_when_workers_are_killed(tmp_path, cluster):
    src = tmp_path / "src"
    photos(src, 140, side=80)
    (src / "bad.png").write_bytes(b"no")
    run(plan(str(src), str(tmp_path / "here"), DOWN), engine=partial(run_here, workers=1))
    todo = plan(str(src), str(tmp_path / "there"), DOWN)
    killed: list[int] = []

    def kill_workers():
        """Kill the first worker that is found at work, once some results are there."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and not killed:
            time.sleep(0.05)
            if len(files(tmp_path / "there", killed=True)) < 10:
                continue
            for process in psutil.process_iter(["cmdline"]):
                title = " ".join(process.info["cmdline"] or [])
                if "ray::_RayWorker" in title:
                    process.kill()
                    killed.append(process.pid)
                    return

    killer = threading.Thread(target=kill_workers)
    killer.start()
    summary, records = outcome(todo, partial(run_on_ray, address=cluster.address))
    killer.join()
    assert killed
    assert (summary.found, summary.done, summary.failed) == (141, 140, 1)
    assert "bad.png: not a picture of a known format" in summary.failures[0].error
    assert len({record.source for record in records}) == len(records) == 141
    assert files(tmp_path / "there", killed=True) == files(tmp_path / "here")
    items, unchanged, _ = steps(plan(str(src), str(tmp_path / "there"), DOWN))
    assert (len(items), len(unchanged)) == (1, 140)


def test_a_picture_that_kills_its_worker_fails_alone_and_paths_are_those_of_the_command(
    tmp_path, cluster, monkeypatch
):
    photos(tmp_path / "src", 3)
    shutil.copy(Path(car.__file__).parent / "weights/car_lite_x4.v1.safetensors", tmp_path / "m.safetensors")
    monkeypatch.chdir(tmp_path)

    class Dying(Worker):
        def __call__(self, item):
            return os._exit(1) if item.name == "b/photo1.png" else super().__call__(item)

    monkeypatch.setattr(ray_engine, "Worker", Dying)
    todo = plan("src", "there", replace(DOWN, model="m.safetensors"))
    records = list(run_on_ray(todo, steps(todo)[0], address=cluster.address))
    failed = [record for record in records if record.status == "failed"]
    assert [record.source for record in failed] == ["b/photo1.png"]
    assert failed[0].error == f"{tmp_path}/src/b/photo1.png: the process at work on it died 3 times"
    assert sorted(files(tmp_path / "there")) == ["a/photo0.x4.png", "a/photo2.x4.png"]


def test_groups_are_of_like_size(tmp_path):
    photos(tmp_path / "src", 150)
    todo = plan(str(tmp_path / "src"), str(tmp_path / "dst"), DOWN)
    items = steps(todo)[0]
    groups = [json.loads(group) for group in _groups(items)]
    assert [len(group) for group in groups] == [64, 64, 22]
    sizes = [item["entry"]["size"] for group in groups for item in group]
    assert sizes == sorted(sizes, reverse=True)
    assert {item["name"] for group in groups for item in group} == {item.name for item in items}
