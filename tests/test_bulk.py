"""Folders and buckets: what is done, what is left, what goes wrong."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import car
from car.batch.local import run_here
from car.batch.names import find_images
from car.batch.plan import Unchanged, plan
from car.batch.records import (
    MANIFEST,
    Export,
    ManifestWriter,
    Record,
    check_manifest_name,
    check_no_other_file,
    record_lines,
    record_of,
)
from car.batch.run import Told, run
from car.batch.work import Item, Work
from car.batch.worker import Room, Worker
from car.codec.codec import Codec
from car.codec.options import Options
from car.errors import ImageError, StorageError, UsageError
from car.files import storage
from car.files.atomic import TEMPORARY
from car.files.places import Passed
from car.files.scratch import Scratch, remove_abandoned
from car.files.storage import Place, check_name
from car.pictures.picture import Picture
from car.pictures.read import read
from car.pictures.write import write
from car.scaling import Wanted
from commandline import run_car
from processes import LIMIT, start_car, wait_until

OPTIONS = Options(device="cpu", tile=64, memory=2 * 10**9)
DOWN = Work("downscale", Wanted(4), options=OPTIONS)


def photos(folder, count=4, side=48):
    """Write pictures of noise in a small tree."""
    names = []
    for n in range(count):
        name = f"{'ab'[n % 2]}/photo{n}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(n).integers(0, 255, (side, side + n, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
        names.append(name)
    return names


def go(source, target, work=DOWN):
    return run(plan(str(source), str(target), work), engine=run_here)


def outcome(todo, engine=run_here):
    """Return the summary of a run and the records of all images."""
    records = []
    told = Told(records.append, lambda line: records.append(replace(record_of(line), status="unchanged")))
    return run(todo, engine=engine, told=told), records


def recorded(place):
    return [record for record in map(record_of, record_lines(place)) if record]


def steps(todo):
    """Return what is to be worked on, the records of the rest, and what the listing left out."""
    passed = Passed()
    found = list(todo.steps(passed))
    items = [step for step in found if isinstance(step, Item)]
    return items, [step for step in found if isinstance(step, Unchanged)], dict(passed.left_out)


def export(records, path):
    writer = Export(path)
    for record in records:
        writer.add(record)
    writer.write()


def files(folder, killed=False):
    """Return name -> content of what is there, but for what a program was writing when it was `killed`."""
    found = (path for path in Path(folder).rglob("*") if path.is_file() and MANIFEST not in path.parts)
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if not (killed and TEMPORARY.fullmatch(path.name))
    }


def test_a_tree_is_shrunk_and_restored_as_by_hand(tmp_path):
    names = photos(tmp_path / "src")
    summary = go(tmp_path / "src", tmp_path / "small")
    assert (summary.found, summary.done, summary.failed) == (4, 4, 0)
    codec = Codec(car.load("car_plus_x4"), Options(device="cpu", tile=64))
    for name in names:
        small, info = codec.shrink(read(tmp_path / "src" / name))
        write(tmp_path / "by_hand.png", small, info=info)
        made = tmp_path / "small" / name.replace(".png", ".x4.png")
        assert made.read_bytes() == (tmp_path / "by_hand.png").read_bytes()
    assert len(files(tmp_path / "small")) == 4

    summary = go(tmp_path / "small", tmp_path / "large", Work("upscale", options=OPTIONS))
    assert (summary.done, summary.failed) == (4, 0)
    for name in names:
        restored, original = read(tmp_path / "large" / name), read(tmp_path / "src" / name)
        assert restored.pixels.shape == original.pixels.shape


def test_onnxruntime_restores_a_folder_as_one_picture(tmp_path):
    pytest.importorskip("onnxruntime")
    names = photos(tmp_path / "src", 3)
    go(tmp_path / "src", tmp_path / "small")
    work = Work("upscale", options=replace(OPTIONS, backend="onnxruntime"))
    assert go(tmp_path / "small", tmp_path / "large", work).done == 3
    codec = Codec(car.load("car_plus_x4"), Options(device="cpu", tile=64, backend="onnxruntime"))
    for name in names:
        alone = codec.restore(read(tmp_path / "small" / name.replace(".png", ".x4.png")))
        together = read(tmp_path / "large" / name)
        assert np.array_equal(alone.pixels, together.pixels)


def test_records_say_what_happened(tmp_path):
    photos(tmp_path / "src", 2)
    todo = plan(str(tmp_path / "src"), str(tmp_path / "dst"), replace(DOWN, psnr=True))
    _, records = outcome(todo)
    kept = recorded(Place(str(tmp_path / "dst")))
    assert sorted(records, key=lambda r: r.source) == sorted(kept, key=lambda r: r.source)
    (record,) = (record for record in kept if record.source == "b/photo1.png")
    assert record.status == "done"
    assert (record.source_size, record.target_size) == ((49, 48), (13, 12))
    assert record.target == "b/photo1.x4.png"
    assert record.target_bytes == (tmp_path / "dst" / record.target).stat().st_size
    assert record.model == "car_plus_x4"
    assert record.psnr is not None
    assert 5 < record.psnr < 40
    for suffix in ("jsonl", "parquet"):
        out = tmp_path / f"all.{suffix}"
        if suffix == "parquet":
            parquet = pytest.importorskip("pyarrow.parquet")
        export(records, out)
        rows = (
            [json.loads(line) for line in out.read_text().splitlines()]
            if suffix == "jsonl"
            else parquet.read_table(out).to_pylist()
        )
        assert {row["source"]: row["target_sha256"] for row in rows} == {
            r.source: r.target_sha256 for r in records
        }


def test_evaluate_measures_as_the_command_does(tmp_path, photo):
    from car.measure.evaluate import round_trip

    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "photo.png").write_bytes(photo.read_bytes())
    work = Work("evaluate", Wanted(4), options=OPTIONS)
    _, (record,) = outcome(plan(str(tmp_path / "src"), str(tmp_path / "dst"), work))
    quality = round_trip(Codec(car.load("car_plus_x4"), Options(device="cpu", tile=64)), photo).record.model
    assert (record.psnr, record.ssim, record.lr_psnr) == (quality.psnr, quality.ssim, quality.lr_psnr)
    assert files(tmp_path / "dst") == {}
    assert go(tmp_path / "src", tmp_path / "dst", work).unchanged == 1


def test_what_is_done_is_left_out_by_content(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    names = photos(src)
    go(src, dst)
    before = {name: (dst / name).stat().st_mtime_ns for name in files(dst)}

    summary = go(src, dst)
    assert (summary.done, summary.unchanged, summary.source_bytes) == (0, 4, 0)  # not even read

    os.utime(src / names[0])  # another time, the same content
    (src / names[1]).write_bytes((src / names[2]).read_bytes())  # another content
    (dst / "a/photo2.x4.png").unlink()
    summary = go(src, dst)
    assert (summary.done, summary.unchanged) == (2, 2)
    changed = {name for name in files(dst) if (dst / name).stat().st_mtime_ns != before[name]}
    assert changed == {"b/photo1.x4.png", "a/photo2.x4.png"}
    assert (dst / "b/photo1.x4.png").read_bytes() == (dst / "a/photo2.x4.png").read_bytes()


def test_verify_finds_a_result_that_was_damaged_without_changing_its_size(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 2)
    go(src, dst)
    good = (dst / "a/photo0.x4.png").read_bytes()
    (dst / "a/photo0.x4.png").write_bytes(good[:-20] + bytes(20))
    assert go(src, dst).unchanged == 2
    summary = go(src, dst, replace(DOWN, verify=True))
    assert (summary.unchanged, summary.failed) == (1, 1)
    assert "exists and differs; --overwrite replaces it" in summary.failures[0].error
    assert go(src, dst, replace(DOWN, verify=True, overwrite=True)).failed == 0
    assert (dst / "a/photo0.x4.png").read_bytes() == good


def test_other_settings_do_not_replace_without_being_asked(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 2)
    go(src, dst)
    before = files(dst)
    other = replace(DOWN, options=replace(OPTIONS, effort=1))
    summary = go(src, dst, other)
    assert summary.failed == 2
    assert files(dst) == before
    assert go(src, dst, replace(other, overwrite=True)).done == 2
    assert files(dst) != before


def test_images_of_another_source_are_not_earlier_ones(tmp_path):
    for n, name in enumerate(("cam1", "cam2")):
        photos(tmp_path / name, 1, side=48 + n)
    assert go(tmp_path / "cam1", tmp_path / "dst").done == 1
    before = files(tmp_path / "dst")
    summary = go(tmp_path / "cam2", tmp_path / "dst")
    assert (summary.done, summary.failed) == (0, 1)
    assert "cam2/a/photo0.png: " in summary.failures[0].error
    assert "exists and differs" in summary.failures[0].error
    assert files(tmp_path / "dst") == before
    # written another way it is the same source
    assert go(f"{tmp_path}/cam2/../cam1", tmp_path / "dst").unchanged == 1


def test_a_source_that_was_broken_for_a_while_is_done_again(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    (name,) = photos(src, 1)
    good = (src / name).read_bytes()
    assert go(src, dst).done == 1
    (src / name).write_bytes(good[:100])
    assert go(src, dst).failed == 1
    Image.new("RGB", (64, 48), "red").save(src / name)
    assert go(src, dst).done == 1


def test_a_new_image_does_not_take_the_place_of_a_finished_one(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    (src / "a").mkdir(parents=True)
    (src / "a/photo0.jpg").write_bytes(b"broken")  # that it failed before gives it no right
    assert go(src, dst).failed == 1
    (src / "a/photo0.jpg").unlink()
    photos(src, 1)
    go(src, dst)
    before = files(dst)
    Image.new("RGB", (64, 48), "red").save(src / "a/photo0.jpg")
    summary = go(src, dst)
    assert (summary.unchanged, summary.failed) == (1, 1)
    assert (
        "photo0.jpg: its result would be a/photo0.x4.png, as that of a/photo0.png"
        in summary.failures[0].error
    )
    assert go(src, dst, replace(DOWN, overwrite=True)).failed == 1
    assert files(dst) == before


def test_a_folder_that_cannot_be_read_is_not_left_out_in_silence(tmp_path, monkeypatch):
    photos(tmp_path / "src", 2)
    scandir = os.scandir

    def refuse(path):
        if not isinstance(path, int) and Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    summary = go(tmp_path / "src", tmp_path / "dst")
    assert (summary.done, summary.complete) == (1, False)
    told = [f"{tmp_path}/src/b: cannot be read (Permission denied)"]
    assert summary.problems == told
    images = find_images([str(tmp_path / "src")])
    assert (list(images.names.values()), list(images.problems)) == (["a/photo0.png"], told)
    for name in ("src", "src/b"):
        monkeypatch.setattr(os, "scandir", lambda path: refuse(Path(path, "b")))
        with pytest.raises(StorageError, match=f"{name}: cannot be listed"):
            find_images([str(tmp_path / name)])


def test_what_others_put_there_stays(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 2)
    (dst / "a").mkdir(parents=True)
    (dst / "a/photo0.x4.png").write_bytes(b"mine")
    summary = go(src, dst)
    assert (summary.done, summary.failed) == (1, 1)
    assert (dst / "a/photo0.x4.png").read_bytes() == b"mine"


def test_what_is_no_file_of_the_target_is_neither_read_nor_replaced(tmp_path):
    photos(tmp_path / "src", 1)
    (tmp_path / "dst/a").mkdir(parents=True)
    there, outside = tmp_path / "dst/a/photo0.x4.png", tmp_path / "outside.png"
    outside.write_bytes(b"mine")

    def through(path):
        there.symlink_to(path)

    def fails(message):
        for work in (DOWN, replace(DOWN, overwrite=True)):
            (failure,) = go(tmp_path / "src", tmp_path / "dst", work).failures
            assert f"photo0.x4.png: cannot be {'written' if work.overwrite else 'read'} (" in failure.error
            assert failure.error.count(message) == 1
        assert outside.read_bytes() == b"mine"

    through(outside)
    fails(f"a link leads to {outside}, out of {tmp_path / 'dst'}")
    there.unlink()
    through(tmp_path / "none.png")
    fails(f"a link leads to {tmp_path / 'none.png'}, out of {tmp_path / 'dst'}")
    there.unlink()
    os.mkfifo(there)
    fails("not a regular file")
    there.unlink()
    there.mkdir()
    fails("not a regular file")
    there.rmdir()
    # nobody sees in a link where the file would appear
    through(tmp_path / "dst/none.png")
    (failure,) = go(tmp_path / "src", tmp_path / "dst").failures
    assert failure.error.count("photo0.x4.png: cannot be written (a link is there that leads nowhere)") == 1
    assert there.is_symlink()
    there.unlink()
    # within the target it is as any program would write
    (tmp_path / "dst/real.png").write_bytes(b"old")
    through(tmp_path / "dst/real.png")
    assert go(tmp_path / "src", tmp_path / "dst", replace(DOWN, overwrite=True)).done == 1
    assert there.is_symlink()
    assert Image.open(tmp_path / "dst/real.png").size == (12, 12)


def test_a_file_of_another_size_is_not_read_to_see_that_it_is_another(tmp_path, monkeypatch):
    photos(tmp_path / "src", 1)
    (tmp_path / "dst/a").mkdir(parents=True)
    with (tmp_path / "dst/a/photo0.x4.png").open("wb") as file:
        file.truncate(10**11)  # takes no room
    read_names, real = [], Place.read
    monkeypatch.setattr(Place, "read", lambda self, name: (read_names.append(name), real(self, name))[1])
    (failure,) = go(tmp_path / "src", tmp_path / "dst").failures
    assert "exists and differs" in failure.error
    assert set(read_names) == {"a/photo0.png"}


def test_a_link_to_a_folder_does_not_lead_results_out_of_the_target(tmp_path):
    photos(tmp_path / "src", 2)
    outside = tmp_path / "outside"
    (tmp_path / "dst").mkdir()
    outside.mkdir()
    (tmp_path / "dst/a").symlink_to(outside)
    summary = go(tmp_path / "src", tmp_path / "dst", replace(DOWN, overwrite=True))
    assert [failure.source for failure in summary.failures] == ["a/photo0.png"]
    assert (
        f"a link leads to {outside / 'photo0.x4.png'}, out of {tmp_path / 'dst'}" in summary.failures[0].error
    )
    assert summary.done == 1
    assert not list(outside.iterdir())
    # the target itself may be a link, and one inside may lead elsewhere inside
    (tmp_path / "dst/a").unlink()
    (tmp_path / "dst/a").symlink_to(tmp_path / "dst/b")
    (tmp_path / "link").symlink_to(tmp_path / "dst")
    assert go(tmp_path / "src", tmp_path / "link", replace(DOWN, overwrite=True)).failed == 0


def test_a_run_that_ended_before_its_manifest_is_taken_over(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src)
    go(src, dst)
    before = {name: (dst / name).stat().st_mtime_ns for name in files(dst)}
    for part in (dst / MANIFEST).iterdir():
        part.unlink()
    assert go(src, dst).done == 4
    assert {name: (dst / name).stat().st_mtime_ns for name in files(dst)} == before
    assert go(src, dst).unchanged == 4


def test_bad_images_are_tried_twice_and_listed(tmp_path, monkeypatch):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 2)
    (src / "a/bad.png").write_bytes(b"not a picture")
    tries = []
    content = Worker._content
    monkeypatch.setattr(Worker, "_content", lambda *args: (tries.append(args[1].name), content(*args))[1])
    summary = go(src, dst)
    assert (summary.done, summary.failed) == (2, 1)
    assert tries.count("a/bad.png") == 2
    assert tries.count("a/photo0.png") == 1
    assert "bad.png: not a picture of a known format" in summary.failures[0].error
    kept = {record.source: record.status for record in recorded(Place(str(dst)))}
    assert kept["a/bad.png"] == "failed"


def test_an_image_that_fails_once_is_done_the_second_time(tmp_path, monkeypatch):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 3)
    reads, real = [], Place.read

    def flaky(self, name):
        reads.append(name)
        if name == "b/photo1.png" and reads.count(name) == 1:
            raise StorageError("the line was cut")
        return real(self, name)

    monkeypatch.setattr(Place, "read", flaky)
    summary = go(src, dst)
    assert (summary.done, summary.failed) == (3, 0)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_stops_the_run_and_the_next_one_completes(tmp_path, monkeypatch, code):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 6)
    real, written = storage.atomic_write, []

    def full(path, content):
        if MANIFEST not in str(path):
            written.append(path)
            if len(written) > 2:
                raise OSError(code, os.strerror(code))
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "atomic_write", full)
        summary = go(src, dst)
    assert os.strerror(code) in summary.stopped
    # the second may still have been in the hands of the other worker
    assert summary.done in (1, 2)
    summary = go(src, dst)
    assert (summary.done + summary.unchanged, summary.failed, summary.stopped) == (6, 0, "")
    assert len(files(dst)) == 6


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB, where the tests may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(tmp_path, tiny_disk):
    src = tmp_path / "src"
    photos(src, 20, side=160)  # about 4 KB each when shrunk
    summary = go(src, tiny_disk)
    assert "No space left on device" in summary.stopped
    assert 0 < summary.done < 20
    for name, content in files(tiny_disk).items():
        assert content.endswith(b"IEND\xaeB`\x82"), name
    subprocess.run(["mount", "-o", "remount,size=1m", str(tiny_disk)], check=True)
    assert go(src, tiny_disk).failed == 0
    assert len(files(tiny_disk)) == 20
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(StorageError, match="no permission to write here"):
        go(src, tiny_disk)


def test_a_source_that_disappears_is_an_error_of_that_image(tmp_path):
    photos(tmp_path / "src")
    todo = plan(str(tmp_path / "src"), str(tmp_path / "dst"), DOWN)

    def engine(todo, items):
        items = list(items)
        (tmp_path / "src/a/photo0.png").unlink(missing_ok=True)
        return run_here(todo, items)

    summary = run(todo, engine=engine)
    assert (summary.done, summary.failed) == (3, 1)
    assert "photo0.png: cannot be read (No such file or directory)" in summary.failures[0].error


def test_results_below_or_beside_the_sources_are_no_sources(tmp_path):
    for src, dst in ((tmp_path / "one", tmp_path / "one"), (tmp_path / "two", tmp_path / "two/small")):
        photos(src, 2)
        assert go(src, dst).done == 2
        again = go(src, dst)
        assert (again.found, again.done, again.failed) == (2, 0, 0)
        assert len(files(src)) == 4


@pytest.mark.parametrize("recorded", [True, False])
def test_restoring_beside_the_small_pictures_goes_on(tmp_path, recorded):
    names = photos(tmp_path / "src", 3)
    go(tmp_path / "src", tmp_path / "both")
    work = Work("upscale", options=OPTIONS)
    assert go(tmp_path / "both", tmp_path / "both", work).done == 3
    restored = [f"{name.removesuffix('.png')}.restored.png" for name in names]
    (tmp_path / "both" / restored[2]).unlink()
    before = files(tmp_path / "both")
    if not recorded:  # killed before the manifest was written
        shutil.rmtree(tmp_path / "both" / MANIFEST)
    again = go(tmp_path / "both", tmp_path / "both", work)
    assert (again.found, again.failed) == (3, 0)
    assert again.unchanged == (2 if recorded else 0)
    assert before.items() < files(tmp_path / "both").items()
    shapes = [read(tmp_path / name).pixels.shape for name in (f"both/{restored[2]}", f"src/{names[2]}")]
    assert shapes[0] == shapes[1]


def test_a_small_picture_in_its_own_folder_is_not_overwritten(tmp_path):
    photos(tmp_path, 2, side=12)  # that have no ".x4" in their names
    for format in ("png", "webp"):
        before = files(tmp_path)
        work = Work("upscale", Wanted(4), format=format, overwrite=True, options=OPTIONS)
        for found in ((2, 2), (2, 0)):
            summary = go(tmp_path, tmp_path, work)
            assert (summary.found, summary.done + summary.unchanged, summary.failed) == (2, 2, 0), found
        assert before.items() <= files(tmp_path).items()
    assert (tmp_path / "a/photo0.restored.png").exists()


def test_in_place_nothing_but_results_of_runs_there_is_replaced(tmp_path):
    photos(tmp_path, 2)
    assert go(tmp_path, tmp_path).done == 2
    before = files(tmp_path)
    work = Work("upscale", overwrite=True, options=OPTIONS)
    Image.new("RGB", (4, 4)).save(tmp_path / "a/photo0.restored.png")
    before = files(tmp_path)
    summary = go(tmp_path, tmp_path, work)
    assert (summary.done, summary.failed) == (1, 1)
    assert "would replace a/photo0.restored.png, which no run in this place" in summary.failures[0].error
    assert before.items() <= files(tmp_path).items()
    again = go(tmp_path, tmp_path, replace(DOWN, overwrite=True))
    assert (again.unchanged, again.failed) == (2, 0)  # its own results it may


def test_pictures_too_small_for_a_size_are_left_out(tmp_path):
    (tmp_path / "src").mkdir()
    for name, size in (("large", (100, 60)), ("small", (50, 60))):
        Image.new("RGB", size, "teal").save(tmp_path / "src" / f"{name}.png")
    summary = go(tmp_path / "src", tmp_path / "dst", replace(DOWN, wanted=Wanted(size=50)))
    assert (summary.done, summary.failed) == (1, 0)
    assert summary.left_out == {"pictures too small to shrink so": 1}
    assert Image.open(tmp_path / "dst" / "large.size50.png").size == (50, 30)
    summary = go(tmp_path / "dst", tmp_path / "back", Work("upscale", options=OPTIONS))
    assert Image.open(tmp_path / "back" / "large.png").size == (100, 60)


def test_two_scales_into_one_target_are_both_remembered(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 2)
    half = replace(DOWN, wanted=Wanted(2))
    for target in (dst, src):  # in place the results of one are no sources of the other
        assert [go(src, target, work).done for work in (DOWN, half)] == [2, 2]
        for work in (DOWN, half):
            again = go(src, target, work)
            assert (again.found, again.unchanged, again.source_bytes) == (2, 2, 0)
    # what was shrunk in place is there to be restored in place
    names = [name for name in files(src) if ".x4." in name]
    (src / "a/photo0.png").unlink()
    todo = plan(str(src / "*/*.x4.png"), str(src), Work("upscale", options=OPTIONS))
    assert [item.name for item in steps(todo)[0]] == sorted(names)
    # without their sources beside them they are small pictures still
    assert go(dst, dst).left_out == {"small pictures": 4}


def test_a_folder_is_shrunk_and_restored_in_place_as_by_hand(tmp_path):
    """Small and restored pictures are no photographs, and photographs no small pictures."""
    hand, bulk = tmp_path / "hand", tmp_path / "bulk"
    names = photos(hand, 2)
    assert run_car("downscale", hand, "-s", 4).returncode == 0
    assert run_car("upscale", hand).returncode == 0
    shutil.copy(hand / names[0], hand / "a/alone.restored.png")  # that is, of nothing here
    shutil.copytree(hand, bulk)
    for scale, done in ((None, 2), (4, 3)):  # by a scale, also what has no small picture beside it
        summary = go(bulk, tmp_path / f"out{scale}", Work("upscale", Wanted(scale), options=OPTIONS))
        assert (summary.done, summary.failed) == (done, 0)
        assert summary.left_out == {"pictures without metadata of car": 7 - done}
    assert run_car("downscale", hand, "-s", 2).returncode == 0
    summary = go(bulk, bulk, replace(DOWN, wanted=Wanted(2)))
    assert (summary.done, summary.failed) == (3, 0)
    assert summary.left_out == {"small pictures": 2, "restored pictures": 2}
    assert files(bulk).keys() == files(hand).keys()


def test_results_that_would_have_one_name_are_refused(tmp_path):
    photos(tmp_path / "src", 1)
    Image.new("RGB", (40, 40)).save(tmp_path / "src/a/photo0.jpg")
    summary = go(tmp_path / "src", tmp_path / "dst")
    assert (summary.done, summary.failed) == (1, 1)
    assert "its result would be a/photo0.x4.png, as that of a/photo0.jpg" in summary.failures[0].error


def test_temporary_files_that_cannot_be_written_are_one_line(tmp_path):
    src = tmp_path / "src"
    photos(src, 1)
    # no file may have more than 4 KB, as on a full disk
    limited = "import resource, runpy, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    limited += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); runpy.run_module('car', run_name='__main__')"
    line = [
        sys.executable,
        "-c",
        limited,
        "bulk",
        "downscale",
        str(src),
        str(tmp_path / "dst"),
        "--scale",
        "4",
    ]
    result = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert "temporary files cannot be written (" in result.stderr
    assert not list(tmp_path.glob("dst/*.png"))


def test_pictures_of_kinds_that_are_not_read_are_recorded(tmp_path):
    src, dst, report = tmp_path / "src", tmp_path / "dst", tmp_path / "report.jsonl"
    photos(src, 2)
    for name in ("a/IMG_1.CR2", "logo.svg", "notes.txt", "a/IMG_1.xmp", ".hidden.nef"):
        (src / name).write_bytes(b"x")
    left = {"a/IMG_1.CR2": ".cr2 is not read", "logo.svg": ".svg is not read"}
    for done, unchanged in ((2, 0), (0, 2)):
        result = run_car("bulk", "downscale", src, dst, "--scale", "4", "--manifest", report, "--json")
        assert result.returncode == 0
        summary = json.loads(result.stdout)
        assert (summary["done"], summary["unchanged"], summary["found"]) == (done, unchanged, 2)
        assert summary["left_out"] == {".cr2": 1, ".svg": 1, ".txt": 1, ".xmp": 1}
        told = [json.loads(line) for line in report.read_text().splitlines()]
        assert {r["source"]: r["error"] for r in told if r["status"] == "left out"} == left
        assert len(told) == 4
    assert {r.source: r.error for r in recorded(Place(str(dst))) if r.status == "left out"} == left


def test_what_a_listing_passes_over_is_counted(tmp_path):
    src = tmp_path / "src"
    photos(src, 2)
    for name in (".hidden.png", "a/._photo0.png", ".DS_Store"):
        (src / name).write_bytes(b"hidden")
    photos(src / ".trash", 1)
    for link in ("back", "a/up"):
        (src / link).symlink_to(src)
    for name in ("dead.png", "dead.txt"):
        (src / name).symlink_to(src / "nothing")
    os.mkfifo(src / "a/pipe.png")
    (src / "small").mkdir()
    (src / "small/.old.png").write_bytes(b"hidden")
    expected = {"hidden files": 2, "hidden folders": 1, "links to folders": 2}
    expected |= {"links that lead nowhere": 1, "pipes, sockets and devices": 1}
    for target in ("small", ".small"):  # below the source, itself hidden or not
        summary = go(src, src / target)
        assert (summary.found, summary.done, summary.failed) == (2, 2, 0)
        assert summary.left_out == expected
        (src / "small/.old.png").unlink(missing_ok=True)
        shutil.rmtree(src / "small", ignore_errors=True)
    shutil.rmtree(src / ".small")
    # of what is passed over, a glob tells what it asked for
    for pattern, left_out in (
        ("*.png", {"hidden files": 1, "links that lead nowhere": 1}),
        (
            "*/*.png",
            {"hidden files": 1, "hidden folders": 1, "links to folders": 1, "pipes, sockets and devices": 1},
        ),
        ("b/*/*.png", {}),
        ("a/**/*.png", {"hidden files": 1, "links to folders": 1, "pipes, sockets and devices": 1}),
        ("**", expected),
    ):
        (src / "one.png").write_bytes((src / "a/photo0.png").read_bytes())
        (src / "b/c").mkdir(exist_ok=True)
        (src / "b/c/one.png").write_bytes((src / "a/photo0.png").read_bytes())
        assert steps(plan(f"{src}/{pattern}", str(tmp_path / "dst"), DOWN))[2] == left_out
    with pytest.raises(UsageError, match=r"no pictures here; left out: 1 hidden file$"):
        plan(f"{src}/.hid*.png", str(tmp_path / "dst"), DOWN)


def test_names_that_lead_elsewhere_are_refused(tmp_path):
    import fsspec
    from fsspec.implementations.memory import MemoryFile

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    content = (Path(__file__).parent / "fixtures" / "photo.png").read_bytes()
    for name in ("good.png", "../evil.png", "x/../../evil.png"):
        memory.store[f"/src/{name}"] = MemoryFile(memory, f"/src/{name}", content)
    summary = go("memory://src", tmp_path / "dst")
    assert summary.done == 1
    assert set(files(tmp_path)) == {"dst/good.x4.png"}


@pytest.mark.parametrize("key", ["", "modificationTime", "modify", "last_modified"])
def test_a_file_system_that_tells_no_time_has_its_files_read(tmp_path, monkeypatch, key):
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    memory = fsspec.filesystem("memory")
    memory.store.clear()
    content = [(Path(__file__).parent / "fixtures" / "photo.png").read_bytes() for _ in range(2)]
    content[1] = content[1][:-12] + content[1][-12:].lower()  # of the same size
    now = [1]

    def ls(self, path, **_):
        about = {"size": len(self.cat_file("/src/photo.png"))} | ({key: now[0]} if key else {})
        return [{"name": "/src/photo.png", "type": "file"} | about]

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    memory.pipe_file("/src/photo.png", content[0])
    assert go("memory://src", tmp_path / "dst").done == 1
    again = go("memory://src", tmp_path / "dst")
    assert (again.unchanged, again.source_bytes) == (1, 0 if key else len(content[0]))
    now[0] += 1
    memory.pipe_file("/src/photo.png", content[1])
    assert go("memory://src", tmp_path / "dst").done == 1


@given(st.text(alphabet=st.sampled_from("ab./\\\0é "), max_size=12))
def test_a_checked_name_stays_below_its_folder(name):
    root = "/somewhere/target"
    try:
        check_name(name)
    except StorageError:
        return
    joined = os.path.normpath(f"{root}/{name}")
    assert joined.startswith(root + "/")


def test_lies_in_a_manifest_do_no_harm(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 2)
    go(src, dst)
    honest = next((dst / MANIFEST).iterdir())
    line = json.loads(honest.read_text().splitlines()[0])
    lies = [
        line | {"target": "../../escaped.png"},
        line | {"target_bytes": "many", "stamp": line["stamp"]},
        line | {"source_size": None},
        line | {"settings": ["x"] * 5, "known": 1},
        [1, 2, 3],
        "text",
        {"source": 7},
        {"source": line["source"]},
        line | {"psnr": float("nan")},
        line | {"source_size": ["x", {}]},
        line | {"seconds": "abc"},
        line | {"notes": [{}]},
        line | {"seconds": 10**400},
        line | {"psnr": -(10**400)},
        line | {"target_bytes": 2**63},
        line | {"source_size": [10**30, 1]},
    ]
    for n, lie in enumerate(lies):
        later = dst / MANIFEST / f"9999-{n}.jsonl"
        later.write_text(json.dumps(lie) + "\n{broken\n")
        summary, records = outcome(plan(str(src), str(dst), DOWN))
        assert (summary.failed, summary.found) == (0, 2), lie
        for suffix in ("jsonl", "parquet"):
            export(records, tmp_path / f"all.{suffix}")
            (tmp_path / f"all.{suffix}").unlink()
        later.unlink()
    assert set(files(tmp_path)) == {*(f"src/{n}" for n in files(src)), *(f"dst/{n}" for n in files(dst))}


def test_images_in_work_stay_within_the_room():
    room, lock, inside, most = Room(100), threading.Lock(), 0, 0

    def work(pixels):
        nonlocal inside, most
        with room.taken(pixels):
            share = min(pixels, 100)
            with lock:
                inside += share
                most = max(most, inside)
            time.sleep(0.001)
            with lock:
                inside -= share

    threads = [threading.Thread(target=work, args=(n,)) for n in (30, 80, 500, 20, 60, 99, 1, 40) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)
    assert 60 < most <= 100


def test_a_picture_over_the_whole_memory_goes_in_strips_or_is_an_error_that_says_why(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    wide = np.random.default_rng(0).integers(0, 255, (80, 400, 3), dtype=np.uint8)  # 32,000 pixels
    Image.fromarray(wide).save(src / "eight.png")
    deep = Picture(wide.astype(np.uint16) * 257, None, False, None, None, ())
    write(src / "alpha.png", replace(deep, alpha=deep.pixels[:, :, 0]))
    tifffile.imwrite(src / "scan.tif", deep.pixels, photometric="rgb", rowsperstrip=8)
    tight = replace(DOWN, options=replace(OPTIONS, memory=10**6))  # 31 bytes a pixel
    summary = go(src, tmp_path / "small", tight)
    assert (summary.done, [record.source for record in summary.failures]) == (2, ["alpha.png"])
    (record,) = summary.failures
    assert (
        "400x80 pixels take about 0.0 GB of memory, over 0.0 GB of memory; not read in strips, because "
        in record.error
    )
    assert go(src / "scan.tif", tmp_path / "whole").done == 1
    # strips give what whole pictures give
    assert files(tmp_path / "whole")["scan.x4.png"] == files(tmp_path / "small")["scan.x4.png"]

    up = replace(tight, kind="upscale")
    summary = go(tmp_path / "small/scan.x4.png", tmp_path / "large", up)
    assert "give --format tiff, which is written in strips, or raise --memory" in summary.failures[0].error
    assert go(tmp_path / "small/scan.x4.png", tmp_path / "large", replace(up, format="tiff")).done == 1
    assert read(tmp_path / "large/scan.tiff").pixels.shape == (80, 400, 3)
    for work in (replace(tight, psnr=True), replace(tight, kind="evaluate")):
        summary = go(src / "eight.png", tmp_path / "other", work)
        assert (summary.done, summary.failed) == (0, 1)
        assert summary.failures[0].error.endswith("; raise --memory")
        assert go(src / "eight.png", tmp_path / "other", replace(work, options=OPTIONS)).done == 1


def test_requests_that_make_no_sense(tmp_path):
    photos(tmp_path / "src", 1)
    for source, target, work, match in (
        (tmp_path / "none", tmp_path / "dst", DOWN, "no such file or folder"),
        (tmp_path / "src/*.gif", tmp_path / "dst", DOWN, "no pictures here"),
        ("nowhere://x", tmp_path / "dst", DOWN, "this kind of URL is unknown"),
        (
            tmp_path / "src",
            tmp_path / "dst",
            replace(DOWN, wanted=Wanted(size=1), model="nothing"),
            "nothing",
        ),
    ):
        with pytest.raises(UsageError, match=match):
            plan(str(source), str(target), work)
    assert not (tmp_path / "dst").exists()
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"file: cannot make this folder \(File exists\)"):
        go(tmp_path / "src", tmp_path / "file")
    for name in ("m.xlsx", "missing/m.jsonl", "src"):
        with pytest.raises(UsageError, match=name):
            check_manifest_name(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_only_a_manifest_of_an_earlier_run_is_replaced(tmp_path, suffix):
    if suffix == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet")
    path = tmp_path / f"m.{suffix}"
    for records in ([], [Record("a.png", "done")], [Record("a.png", "done"), Record("b.png", "failed")]):
        check_no_other_file(path)
        export(records, path)
    check_no_other_file(path)
    ours = path.read_bytes()
    row = {"source": "a.png", "status": "done"}
    if suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "other")
        others = [(tmp_path / "other").read_bytes()]
    else:
        others = [b"[]", json.dumps(row).encode(), ours + json.dumps(row).encode()]
    for other in (*others, b"mine", b"\xff\0", ours[:-20]):
        path.write_bytes(other)
        with pytest.raises(UsageError, match=f"m.{suffix} exists and is not a manifest; .*--overwrite"):
            check_no_other_file(path)
    path.unlink()
    for make in (os.mkfifo, lambda path: path.symlink_to("nowhere")):
        make(path)
        with pytest.raises(UsageError, match="exists and is not a manifest"):
            check_no_other_file(path)
        path.unlink()


def test_the_command_replaces_no_other_file_by_its_manifest(tmp_path):
    photos(tmp_path / "src", 1)
    path = tmp_path / "m.jsonl"
    path.write_text("mine")
    asked = ("bulk", "downscale", tmp_path / "src", tmp_path / "dst", "--scale", 4, "--manifest", path)
    done = run_car(*asked)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert path.read_text() == "mine"
    assert not (tmp_path / "dst").exists()
    for options in (("--overwrite",), ()):
        assert run_car(*asked, *options).returncode == 0
        assert json.loads(path.read_text())["source"] == "a/photo0.png"


def test_the_summary_is_told_before_an_export_that_fails(tmp_path, monkeypatch, capsys):
    from car.cli import bulk as cli_bulk
    from car.cli.common import Showing

    class Full(Export):
        def write(self):
            raise ImageError("m.jsonl: cannot be written (No space left on device)")

    photos(tmp_path / "src", 1)
    (tmp_path / "src/bad.png").write_bytes(b"bad")
    monkeypatch.setattr(cli_bulk, "Export", Full)
    for as_json in (False, True):
        how, showing = cli_bulk.How(manifest=tmp_path / "m.jsonl"), Showing(as_json=as_json)
        with pytest.raises(ImageError):
            cli_bulk._run(str(tmp_path / "src"), str(tmp_path / "dst"), DOWN, how, showing)
        out, err = capsys.readouterr()
        assert (json.loads(out)["failed"] == 1) if as_json else "1 failed" in out
        assert "bad.png: not a picture" in err


# --- as a process ----------------------------------------------------------------------------------------


def test_killed_at_any_moment_the_next_run_completes(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 24, side=112)
    for least in (1, 8):  # the second kill comes where the first one's results are taken over
        process = start_car("bulk", "downscale", src, dst, "--scale", 4, "--device", "cpu")
        wait_until(lambda least=least: len(files(dst, killed=True)) >= least, process)
        process.kill()
        process.wait()
    for name, content in files(dst, killed=True).items():
        assert content.endswith(b"IEND\xaeB`\x82"), name
    done = run_car("bulk", "downscale", src, dst, "--scale", 4, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["failed"], summary["done"] + summary["unchanged"]) == (0, 24)
    assert sum(name.endswith(".x4.png") for name in files(dst)) == 24


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_temporary_folders_stay(tmp_path, number):
    src, dst, scratch = tmp_path / "src", tmp_path / "dst", tmp_path / "scratch"
    photos(src, 24, side=112)
    scratch.mkdir()
    others = scratch / "car-of-another-program"
    others.mkdir()
    asked = ("bulk", "downscale", src, dst, "--scale", 4, "--device", "cpu")
    process = start_car(*asked, env={"TMPDIR": str(scratch)})
    wait_until(lambda: files(dst, killed=True), process)
    process.send_signal(number)
    _, err = process.communicate()
    if number == signal.SIGKILL:
        assert len(list(scratch.iterdir())) > 1
        alive = start_car(*asked, env={"TMPDIR": str(scratch)})
        assert alive.communicate()[1] == ""
    else:
        assert (process.returncode, err.strip()) == (130, "car: interrupted")
    assert list(scratch.iterdir()) == [others]


def test_folders_of_programs_that_live_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Scratch() as folder, Scratch() as gone:
        (Path(folder) / "picture").write_bytes(b"half")
        remove_abandoned()
        assert (Path(folder) / "picture").exists()
        linked = tmp_path / "car-link"
        linked.symlink_to(gone)
    assert not Path(folder).exists()
    remove_abandoned()
    assert [path.name for path in tmp_path.iterdir()] == ["car-link"]


def test_two_runs_at_once_agree(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 12)
    both = [start_car("bulk", "downscale", src, dst, "--scale", 4, "--device", "cpu") for _ in range(2)]
    for process in both:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert len(files(dst)) == 12
    assert go(src, dst, replace(DOWN, options=replace(OPTIONS, tile=None))).failed == 0


def test_what_killed_programs_left_is_removed_when_it_is_old(tmp_path):
    photos(tmp_path / "src", 1)
    (tmp_path / "dst/a").mkdir(parents=True)
    old, new, other = (
        tmp_path / "dst/a" / name
        for name in (".photo0.x4.png.0123456789ab.tmp~", ".photo0.x4.png.ba9876543210.tmp~", ".mine.tmp~")
    )
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (time.time() - 7200,) * 2)
    go(tmp_path / "src", tmp_path / "dst")
    assert [path.exists() for path in (old, new, other)] == [False, True, True]


def test_interrupted_runs_say_so_and_go_on(tmp_path):
    src, dst = tmp_path / "src", tmp_path / "dst"
    photos(src, 30, side=112)
    process = start_car("bulk", "downscale", src, dst, "--scale", 4, "--device", "cpu")
    wait_until(lambda: files(dst, killed=True), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err.strip()) == (130, "car: interrupted")
    assert go(src, dst, replace(DOWN, options=replace(OPTIONS, tile=None))).failed == 0
    assert len(files(dst)) == 30


def test_the_command_tells_what_failed(tmp_path):
    src = tmp_path / "src"
    photos(src, 2)
    (src / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    (src / ".hidden.jpg").write_bytes(b"\xff\xd8\xff")
    asked = ("bulk", "downscale", src, tmp_path / "dst", "--scale", 4, "--manifest")
    done = run_car(*asked, tmp_path / "m.jsonl")
    out, err = done.stdout, done.stderr
    assert done.returncode == 1
    assert out.startswith("2 done, 0 unchanged, 1 failed")
    assert "\nleft out: 1 hidden file\n" in out
    assert "hidden" not in err
    assert "bad.jpg: a JPEG that is damaged or ends too soon" in err
    assert "1 of 3 pictures failed; the others are done" in err
    assert len((tmp_path / "m.jsonl").read_text().splitlines()) == 3
    assert run_car(*asked, "m.xlsx").returncode == 2


# --- a bucket --------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch):
    """An S3 server on this machine."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    import s3fs

    for name, value in (
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    fs.mkdir("photos")
    yield fs
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_buckets(tmp_path, bucket):
    names = photos(tmp_path / "src")
    for name in names:
        bucket.put_file(str(tmp_path / "src" / name), f"photos/in/{name}")
    bucket.pipe_file("photos/in/bad.webp", b"RIFF")
    summary = go("s3://photos/in", "s3://photos/out")
    assert (summary.done, summary.failed) == (4, 1)
    go(tmp_path / "src", tmp_path / "here")
    assert {
        name.removeprefix("photos/out/"): bucket.cat_file(name)
        for name in bucket.find("photos/out")
        if MANIFEST not in name
    } == files(tmp_path / "here")

    summary = go("s3://photos/in", "s3://photos/out")
    assert (summary.done, summary.unchanged, summary.failed) == (0, 4, 1)
    bucket.pipe_file(f"photos/in/{names[0]}", (tmp_path / "src" / names[1]).read_bytes())
    summary = go("s3://photos/in/a", "s3://photos/part")
    assert summary.done == 2
    summary = go("s3://photos/in", "s3://photos/out")
    assert (summary.done, summary.unchanged) == (1, 3)
    summary = go("s3://photos/out/*/photo1*.png", tmp_path / "large", Work("upscale", options=OPTIONS))
    assert (summary.found, summary.done) == (1, 1)
    with pytest.raises(StorageError, match="s3://missing-bucket: cannot be listed"):
        plan("s3://missing-bucket", str(tmp_path / "x"), DOWN)


def test_a_long_manifest_stays_in_files_of_bounded_size_and_is_read_whatever_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr("car.batch.records._FLUSH", (0.0, 0.0))
    monkeypatch.setattr("car.batch.records._JOINED_BYTES", 5000)
    monkeypatch.setattr(storage, "MAX_FILE_BYTES", 1000)
    for url in (str(tmp_path / "dst"), "memory://dst"):
        place = Place(url)
        writer = ManifestWriter(place)
        names = [f"{n}.png" for n in range(40)]
        for name in names:
            writer.add(Record(name, "done"))
        writer.close()
        sizes = [found.entry.size for found in place.walk()]
        assert 2 <= len(sizes) < 10
        assert 1000 < max(sizes) <= 5000
        assert [record.source for record in recorded(place)] == names
        place.write(
            f"{MANIFEST}/long.jsonl", b"x" * 3 * 2**20 + b'\n{"source": "late.png", "status": "done"}'
        )
        assert "late.png" in [record.source for record in recorded(place)]
        Place("memory://dst").remove(f"{MANIFEST}/long.jsonl")


def test_a_bucket_that_may_not_be_written_stops_the_run(tmp_path, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(self, path, value, **_):
        raise PermissionError("Access Denied")

    photos(tmp_path / "src", 6)
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    todo = plan(str(tmp_path / "src"), "memory://denied", DOWN)
    summary, records = outcome(todo, partial(run_here, workers=1))
    assert "cannot be written (Access Denied)" in summary.stopped
    assert (summary.done, records) == (0, [])


def test_records_survive_their_own_json():
    record = Record("ä/\udcff.png", "done", 3, target_size=(4, 5), notes=("one",))
    from dataclasses import asdict

    assert Record.from_dict(json.loads(json.dumps(asdict(record)))) == record
