"""Checkpoints of the public codes: read and written exactly, and refused where they do not fit."""

import hashlib
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import car
from car import families
from car.errors import CarError, ImageError, UsageError, WeightsError
from car.files.atomic import atomic_write_all
from car.models import create
from car.models.published import published_pair
from car.weights import convert, mindspore
from car.weights.convert import pair_files, read_pair, weights_bytes
from car.weights.mindspore import ckpt_bytes, read_ckpt
from commandline import run_car
from published_numpy import Networks, resample

FIXTURE = Path(__file__).parent / "fixtures" / "mindspore"
TINY = {"features": 2, "up_features": 4, "up_blocks": 2}


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch):
    """Let the architecture of the fixtures be known as a model."""
    tiny = {
        f"car_tiny_x{s}": families.Architecture(
            f"car_tiny_x{s}", families.published_geometry(s, TINY["up_blocks"]), published_pair, TINY
        )
        for s in (2, 4)
    }
    monkeypatch.setattr(families, "_ARCHITECTURES", families._ARCHITECTURES | tiny)


@pytest.fixture
def tiny():
    torch.manual_seed(3)
    return create("car_tiny_x4").requires_grad_(False)


@pytest.fixture
def pair(tiny, tmp_path):
    for name, content in pair_files("car_tiny_x4", tiny, "pth").items():
        (tmp_path / name).write_bytes(content)
    return tmp_path / "kgn.pth", tmp_path / "usn.pth"


def equal(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_what_mindspore_wrote_arrives_exactly():
    read = read_pair(FIXTURE / "kgn.ckpt", FIXTURE / "usn.ckpt")
    values = np.load(FIXTURE / "values.npz")
    assert read.model == "car_tiny_x2"
    networks = {"kgn": read.rescaler.downscaler.kgn, "usn": read.rescaler.upscaler}
    for half, network in networks.items():
        state = network.state_dict()
        assert {f"{half}.{name}" for name in state} == {n for n in values.files if n.startswith(half)}
        for name, tensor in state.items():
            np.testing.assert_array_equal(tensor.numpy(), values[f"{half}.{name}"])


def test_what_mindspore_computes_is_what_we_compute():
    read = read_pair(FIXTURE / "kgn.ckpt", FIXTURE / "usn.ckpt")
    theirs = np.load(FIXTURE / "outputs.npz")
    with torch.inference_mode():
        ours = read.rescaler.downscaler.kernels_and_offsets(torch.from_numpy(theirs["hr"]))
        restored = read.rescaler.upscale(torch.from_numpy(theirs["lr"]))
    for name, tensor in zip(
        ("kernels", "offsets_h", "offsets_v", "restored"), (*ours, restored), strict=True
    ):
        np.testing.assert_allclose(tensor.numpy(), theirs[name], atol=1e-6, err_msg=name)


def test_optimiser_state_and_bookkeeping_are_dropped_and_named():
    dropped = read_pair(FIXTURE / "kgn.ckpt", FIXTURE / "usn.ckpt").dropped
    for name in (
        "moment1.ds_1.1.weight",
        "moment2.ds_8.downsample.1.bias",
        "epoch",
        "psnr",
        "note",
        "learning_rate",
    ):
        assert f"kgn.ckpt: {name}" in dropped
    assert not any(name.startswith("usn") for name in dropped)


@pytest.mark.parametrize("scale", [2, 4])
def test_networks_follow_the_published_description(scale):
    torch.manual_seed(scale)
    model = create(f"car_tiny_x{scale}").requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 4 and parameter.shape[-1] == 3:
            parameter.mul_(1.7)  # as large as to reach the bounds of the clamp, which default weights do not
    kgn, usn = model.downscaler.kgn.state_dict(), model.upscaler.state_dict()
    networks = Networks(kgn, usn, scale)
    hr = np.random.default_rng(scale).random((3, 16, 24))
    sampling = networks.kernels_and_offsets(hr)
    lr = resample(hr, *sampling, scale)
    tensor = torch.from_numpy(hr)[None].float()
    ours = [t[0].numpy() for t in model.downscaler.kernels_and_offsets(tensor)]
    for tensors in zip(ours, sampling, strict=True):
        np.testing.assert_allclose(*tensors, atol=1e-5)
    assert (sampling[0].min(axis=0) < 1e-5).any()  # the lower bound is reached
    np.testing.assert_allclose(model.downscale(tensor)[0].numpy(), lr, atol=1e-5)
    grid = np.round(np.clip(lr, 0, 1) * 255) / 255
    restored = model.upscale(torch.from_numpy(grid)[None].float())[0].numpy()
    np.testing.assert_allclose(restored, networks.upscale(grid), atol=1e-5)


@pytest.mark.parametrize("kind", ["ckpt", "pth"])
def test_there_and_back_changes_nothing(tiny, tmp_path, kind):
    for name, content in pair_files("car_tiny_x4", tiny, kind).items():
        (tmp_path / name).write_bytes(content)
    read = read_pair(tmp_path / f"kgn.{kind}", tmp_path / f"usn.{kind}")
    assert read.model == "car_tiny_x4"
    assert read.dropped == ()
    assert equal(read.rescaler, tiny)
    assert not read.rescaler.training
    assert not any(p.requires_grad for p in read.rescaler.parameters())


def test_pytorch_files_have_the_names_of_data_parallel(pair, tiny):
    wrapped = torch.nn.DataParallel(tiny.downscaler.kgn).state_dict()
    written = torch.load(pair[0], weights_only=True)
    assert list(written) == list(wrapped)


def save(content, path):
    torch.save(content, path)
    return path


def test_pytorch_state_dicts_of_all_kinds(tiny, pair, tmp_path):
    kgn, usn = tiny.downscaler.kgn.state_dict(), tiny.upscaler.state_dict()
    optimizer = torch.optim.Adam(tiny.upscaler.parameters())
    variants = {
        "plain": kgn,
        "compiled": {f"_orig_mod.{k}": v for k, v in kgn.items()},
        "double": {k: v.double() for k, v in kgn.items()},
        "part of a training": {
            "epoch": 3,
            "state_dict": {f"module.{k}": v for k, v in kgn.items()},
            "best": 30.1,
        },
        "both halves": {"kgn": kgn, "usn": usn, "optimizer": optimizer.state_dict()},
    }
    for name, content in variants.items():
        read = read_pair(save(content, tmp_path / "variant.pth"), pair[1])
        assert equal(read.rescaler, tiny), name
    both = tmp_path / "variant.pth"
    assert equal(read_pair(both, both).rescaler, tiny)
    torch.save(kgn, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert equal(read_pair(tmp_path / "old.pth", pair[1]).rescaler, tiny)
    halves = {k: v.half() for k, v in kgn.items()}
    read = read_pair(save(halves, tmp_path / "half.pth"), pair[1])
    assert all(
        torch.equal(v, halves[k].float()) for k, v in read.rescaler.downscaler.kgn.state_dict().items()
    )


def test_what_does_not_fit_is_named(tiny, pair, tmp_path):
    kgn, usn = tiny.downscaler.kgn.state_dict(), tiny.upscaler.state_dict()
    bad = tmp_path / "bad.pth"

    def refuses(content, message, half="kgn"):
        save(content, bad)
        files = (bad, pair[1]) if half == "kgn" else (pair[0], bad)
        with pytest.raises(WeightsError, match=message) as caught:
            read_pair(*files)
        assert "bad.pth" in str(caught.value)

    name = "res_4.2.transform.1.weight"
    refuses(
        {k: v for k, v in kgn.items() if k != name},
        rf"{name} of the kernel generator of car_tiny_x4 is missing",
    )
    refuses(
        kgn | {name: torch.zeros(4, 4, 3, 1)}, rf"{name} has shape \(4, 4, 3, 1\), .* needs \(4, 4, 3, 3\)"
    )
    refuses(
        kgn | {"res_4.5.transform.1.weight": torch.zeros(4, 4, 3, 3)},
        r"res_4.5.transform.1.weight is not a para",
    )
    refuses(kgn | {name: torch.full_like(kgn[name], torch.nan)}, f"{name} holds values that are not finite")
    refuses(
        kgn | {name: torch.zeros(4, 4, 3, 3, dtype=torch.int64)}, f"{name} .* not a floating-point tensor"
    )
    refuses(kgn | {name: torch.zeros(4, 4, 3, 3).to_sparse()}, f"{name} .* not a floating-point tensor")
    refuses(kgn | {name: "text"}, f"{name} .* not a floating-point tensor")
    refuses(usn, "it holds the upscaler; are the files swapped")
    refuses(kgn, "it holds the kernel generator; are the files swapped", "usn")
    refuses({"layer.weight": torch.zeros(2)}, r"no kernel generator .*ds_1\.1\.weight is missing")
    refuses({}, "is missing")
    refuses([1, 2], "holds a list, not a state dict")
    refuses(usn | {"body.2.body.0.weight": torch.zeros(4, 4, 3, 3)}, "body.2.body.0.weight is not a", "usn")
    refuses(
        {k: v for k, v in usn.items() if k != "body.1.body.0.bias"}, "body.1.body.0.bias of .* missing", "usn"
    )
    refuses(
        create("car_tiny_x2").upscaler.state_dict(), "for scale 4, .* for scale 2: they are not a pair", "usn"
    )
    refuses(
        kgn | {"kernels_weight.4.weight": torch.zeros(9, 8, 3, 3)},
        "shapes fit no kernel generator for scale 2 or 4",
    )
    wide = published_pair(4, features=3, up_features=4, up_blocks=2).downscaler.kgn.state_dict()
    refuses(wide, r"ds_1.1.weight has shape \(3, 3, 5, 5\), .* car_x4 needs \(64, 3, 5, 5\)")


@pytest.mark.filterwarnings("ignore::UserWarning:torch", "ignore:torch.quantize_per_tensor")
def test_odd_tensors_are_named(tiny, pair, tmp_path):
    kgn = tiny.downscaler.kgn.state_dict()
    name = "res_4.2.transform.1.weight"
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    quantized = torch.quantize_per_tensor(torch.ones(4, 4, 3, 3), 0.1, 0, torch.qint8)
    odd = {"meta": torch.ones(4, 4, 3, 3, device="meta"), "nested": nested, "quantized": quantized}
    odd["complex"] = torch.ones(4, 4, 3, 3, dtype=torch.complex64)
    for kind, tensor in odd.items():
        torch.save(kgn | {name: tensor}, tmp_path / "odd.pth")
        with pytest.raises(WeightsError, match=r"odd\.pth: "):
            read_pair(tmp_path / "odd.pth", pair[1])
        torch.save(kgn | {"foo": tensor}, tmp_path / "odd.pth")
        with pytest.raises(WeightsError, match=r"odd\.pth: ") as caught:
            read_pair(tmp_path / "odd.pth", pair[1])
        assert "\n" not in str(caught.value), kind


def test_which_of_several_networks_is_meant_must_be_said(tiny, pair, tmp_path):
    kgn, usn = tiny.downscaler.kgn.state_dict(), tiny.upscaler.state_dict()
    zeros = {k: torch.zeros_like(v) for k, v in kgn.items()}
    path = save({"ema": zeros, "model": {f"module.{k}": v for k, v in kgn.items()}}, tmp_path / "two.pth")
    with pytest.raises(WeightsError, match=r"more than one kernel generator \(ema, model\)"):
        read_pair(path, pair[1])
    flat = {f"kgn.{k}": v for k, v in kgn.items()} | {f"usn.{k}": v for k, v in usn.items()}
    assert equal(read_pair(save(flat, path), path).rescaler, tiny)


def test_archives_are_checked_before_they_are_read(pair, tmp_path, monkeypatch):
    content = bytearray(pair[0].read_bytes())
    with zipfile.ZipFile(pair[0]) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    content[largest.header_offset + 200] ^= 1
    bad = tmp_path / "bad.pth"
    bad.write_bytes(content)
    with pytest.raises(WeightsError, match=r"checksum of .* does not match"):
        read_pair(bad, pair[1])
    with zipfile.ZipFile(pair[0]) as old, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    with pytest.raises(WeightsError, match="records are compressed"):
        read_pair(bad, pair[1])
    shared = {str(i): 0 for i in range(2000)}
    for _ in range(3):
        shared = dict.fromkeys(map(str, range(2000)), shared)
    torch.save(shared, bad)
    with pytest.raises(WeightsError, match="more than 100,000 entries"):
        read_pair(bad, pair[1])


def test_many_bookkeeping_entries_are_dropped(tiny, tmp_path):
    files = pair_files("car_tiny_x4", tiny, "ckpt")
    files["kgn.ckpt"] += ckpt_bytes({f"a.b.c.number{i}": torch.zeros(()) for i in range(20_000)})
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert len(read_pair(tmp_path / "kgn.ckpt", tmp_path / "usn.ckpt").dropped) == 20_000


def test_unusable_files(pair, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"gone\.pth: no such file"):
        read_pair(tmp_path / "gone.pth", pair[1])
    with pytest.raises(UsageError, match="is a folder"):
        read_pair(tmp_path, pair[1])
    bad = tmp_path / "bad.ckpt"
    for content, message in (
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n\n <html>", "a web page"),
        (b"\xff" * 40, "not a readable MindSpore"),
        (bytes(range(192, 256)), "not a readable MindSpore"),
        (b"PK\x03\x04" + b"\0" * 50, "not a readable PyTorch"),
        (b"\x80\x02}q\0.", r"not a readable PyTorch|is missing"),
        (b"\0" * 8 + b"{}", "not a readable safetensors"),
    ):
        bad.write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            read_pair(bad, pair[1])
    monkeypatch.setattr(convert, "MAX_CHECKPOINT_BYTES", 100)
    with pytest.raises(WeightsError, match="exceed the limit of 100"):
        read_pair(*pair)


class Malice:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_nothing_in_a_checkpoint_is_executed(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save({"ds_1.1.weight": Malice()}, "bad.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match="it holds objects other than tensors"):
            read_pair(Path("bad.pth"), pair[1])
    assert not Path("executed").exists()


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
dtypes = st.sampled_from(sorted(mindspore._TYPES.values(), key=str))


@given(
    st.dictionaries(names, st.tuples(shapes, dtypes, st.integers(0, 9)), min_size=1, max_size=5),
    st.integers(1, 40),
)
def test_property_ckpt_round_trip(tmp_path_factory, contents, slice_bytes):
    tensors = {
        name: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
        for name, (shape, dtype, seed) in contents.items()
    }
    path = tmp_path_factory.mktemp("ckpt") / "any.ckpt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mindspore, "_SLICE_BYTES", 8 * slice_bytes)  # long tensors are cut into several entries
        path.write_bytes(ckpt_bytes(tensors))
    read = read_ckpt(path)
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        found = read[name]
        assert found is not None
        assert found.dtype == tensor.dtype
        assert torch.equal(found.reshape(tensor.shape), tensor)


SMALL = ckpt_bytes({"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)})


@settings(max_examples=5 * settings().max_examples)
@given(
    st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=4),
    st.integers(0, len(SMALL)),
)
@example([], len(SMALL) - 1)
@example([(1, 255)], len(SMALL))
def test_property_damaged_ckpt_is_refused_or_read(tmp_path, changes, length):
    content = bytearray(SMALL)
    for place, value in changes:
        content[place] = value
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(content[:length])
    try:
        read = read_ckpt(path)
    except WeightsError:
        return
    assert sum(t.numel() for t in read.values() if t is not None) <= len(SMALL)
    if length < len(SMALL):
        # cut off between two entries: the rest is whole
        assert {name: t for name, t in read.items() if not changes and t is not None}.keys() <= {
            "a.weight",
            "a.bias",
        }


def test_lies_of_a_ckpt_cost_no_memory_and_its_checksum_counts(tmp_path):
    def field(number, content):
        return mindspore._field(number, content)

    path = tmp_path / "lying.ckpt"
    huge = b"\x08" + mindspore._varint(1 << 40) + field(2, b"Float32") + field(3, b"\0" * 8)
    path.write_bytes(field(1, field(1, b"a") + field(2, huge)))
    with pytest.raises(WeightsError, match=r"a claims the shape .* but has 8 bytes"):
        read_ckpt(path)
    endless = b"\x08" + mindspore._varint(1 << 62) + b"\x08\x00" + field(2, b"Float32")
    path.write_bytes(field(1, field(1, b"a") + field(2, endless)))
    with pytest.raises(WeightsError, match=r"a claims the shape"):
        read_ckpt(path)
    path.write_bytes(mindspore._varint(1 << 3 | 2) + mindspore._varint(1 << 50) + b"abc")
    with pytest.raises(WeightsError, match="cut off"):
        read_ckpt(path)
    path.write_bytes(SMALL + SMALL)
    with pytest.raises(WeightsError, match=r"a\.weight occurs twice"):
        read_ckpt(path)
    good = (FIXTURE / "usn.ckpt").read_bytes()
    path.write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
    with pytest.raises(WeightsError, match="checksum does not match"):
        read_ckpt(path)


def test_pairs_are_loaded_wherever_models_are(pair, tiny, tmp_path, photo):
    by_tuple = car.load(pair)
    by_text = car.load(f"{pair[0]},{pair[1]}")
    own = tmp_path / "own.safetensors"
    own.write_bytes(weights_bytes("car_tiny_x4", tiny))
    converted = car.load(own)
    assert (
        by_tuple.sha256 == by_text.sha256 == converted.sha256 == hashlib.sha256(own.read_bytes()).hexdigest()
    )
    assert by_tuple.name == "car_tiny_x4"
    small = np.asarray(car.downscale(photo, model=pair))
    np.testing.assert_array_equal(small, np.asarray(car.downscale(photo, model=own)))
    with pytest.raises(UsageError, match="two files: kernel generator,upscaler"):
        car.load(pair[0])


def test_other_weights_than_a_picture_names_are_noticed(tmp_path, photo):
    for seed in (0, 1):
        torch.manual_seed(seed)
        content = weights_bytes("car_tiny_x4", create("car_tiny_x4").requires_grad_(False))
        (tmp_path / f"{seed}.safetensors").write_bytes(content)
    small = car.downscale(photo, model=tmp_path / "0.safetensors")
    small.save(tmp_path / "small.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        car.upscale(tmp_path / "small.png", model=tmp_path / "0.safetensors")
    with pytest.warns(UserWarning, match="made with other weights of car_tiny_x4"):
        car.upscale(tmp_path / "small.png", model=tmp_path / "1.safetensors")


def test_names_in_a_checkpoint_do_not_reach_the_terminal_as_commands(tmp_path):
    torch.manual_seed(0)
    files = pair_files("car_small_x2", create("car_small_x2").requires_grad_(False), "ckpt")
    files["kgn.ckpt"] += ckpt_bytes({"\x1b]0;owned\x07 \x1b[31m": torch.zeros(())})
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    done = run_car("convert", tmp_path / "kgn.ckpt", tmp_path / "usn.ckpt", "-o", tmp_path / "x.safetensors")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert r"\x1b]0;owned" in done.stdout.replace("\n", "")


def test_two_files_are_written_together_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "one").write_bytes(b"before")
    for blocked in ("two", "missing/two"):
        (tmp_path / "two").mkdir(exist_ok=True)
        with pytest.raises(ImageError):
            atomic_write_all({tmp_path / "one": b"after", tmp_path / blocked: b"after"})
        assert (tmp_path / "one").read_bytes() == b"before"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    (tmp_path / "two").rmdir()
    atomic_write_all({tmp_path / "one": b"after", tmp_path / "two": b"after"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == b"after"


def test_other_architectures_are_not_written(tmp_path):
    with pytest.raises(UsageError, match="car_plus_x4 does not have the published architecture"):
        pair_files("car_plus_x4", car.load("car_plus_x4").rescaler, "pth")


def test_command_line_converts_and_uses_pairs(tmp_path, photo):
    torch.manual_seed(0)
    model = create("car_small_x2").requires_grad_(False)
    own = tmp_path / "own.safetensors"
    own.write_bytes(weights_bytes("car_small_x2", model))
    for kind in ("ckpt", "pth"):
        done = run_car("convert", own, "-o", tmp_path / kind, "--to", kind)
        assert done.returncode == 0, done.stderr
        back = tmp_path / f"{kind}.safetensors"
        done = run_car(
            "convert", tmp_path / kind / f"kgn.{kind}", tmp_path / kind / f"usn.{kind}", "-o", back, "-q"
        )
        assert (done.returncode, done.stdout) == (0, "")
        assert back.read_bytes() == own.read_bytes()
    pair = ("--kgn", tmp_path / "ckpt" / "kgn.ckpt", "--usn", tmp_path / "pth" / "usn.pth")
    measured = run_car("evaluate", photo, "--scale", 2, *pair, "--json")
    assert measured.returncode == 0, measured.stderr
    same = run_car("evaluate", photo, "--model", own, "--json")
    assert '"car_small_x2"' in measured.stdout
    psnr = [line for line in measured.stdout.splitlines() if "psnr" in line]
    assert psnr == [line for line in same.stdout.splitlines() if "psnr" in line]
    for arguments, message, code in (
        (("--kgn", pair[1]), "--usn is missing", 2),
        ((*pair, "--model", own), "either --model or --kgn and --usn", 2),
        ((*pair, "--scale", 1), "the scale must be a number from", 2),
        (("--kgn", pair[3], "--usn", pair[1]), "are the files swapped", 1),
    ):
        done = run_car("evaluate", photo, *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1)
        assert message in done.stderr
    ckpt = tmp_path / "ckpt"
    done = run_car(
        "convert", tmp_path / "pth" / "kgn.pth", ckpt / "usn.ckpt", "-o", ckpt, "--to", "ckpt", "--overwrite"
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "source and target are the same file" in done.stderr
    for arguments, message, code in (
        ((own, "-o", tmp_path / "x.png"), "name a .safetensors file", 2),
        ((own, "-o", back), "exists; --overwrite", 1),
        (("car_plus_x2", "-o", tmp_path / "out", "--to", "pth"), "not have the published architecture", 2),
        (
            (own, own, own, "-o", tmp_path / "y.safetensors"),
            "a kernel generator and an upscaler, or one model",
            2,
        ),
    ):
        done = run_car("convert", *arguments)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert message in done.stderr


def test_training_starts_from_a_pair(pair, tmp_path, monkeypatch):
    from car.train.recipes import Recipe
    from car.train.run import Run

    monkeypatch.chdir(tmp_path)
    recipe = Recipe(
        "car_tiny_x4", steps=1, crop=32, batch=2, lr=1e-12, optimizer="adam", ema=0.0, init="kgn.pth,usn.pth"
    )
    path = Run(recipe, [Path(__file__).parent / "fixtures"], tmp_path / "run", device="cpu").train()
    for name, tensor in car.load(path).rescaler.state_dict().items():
        torch.testing.assert_close(tensor, car.load(pair).rescaler.state_dict()[name], atol=1e-6, rtol=0)


def test_a_damaged_torch_file_of_any_kind_is_one_error(pair, tiny, tmp_path):
    content = pair[1].read_bytes()
    rng = np.random.default_rng(0)
    messages: list[str] = []
    for _ in range(60):
        broken = bytearray(content)
        for place in rng.integers(0, len(broken), 3):
            broken[place] = rng.integers(0, 256)
        if rng.random() < 0.3:
            broken = broken[: rng.integers(1, len(broken))]
        path = tmp_path / "broken.pth"
        path.write_bytes(broken)
        try:
            read = read_pair(pair[0], path)
        except CarError as error:
            messages.append(str(error))
        else:  # the damage was to what no checksum covers, as names in the archive's directory
            assert equal(read.rescaler.upscaler, tiny.upscaler)
    assert len(messages) > 40
    assert all("broken.pth" in message and "\n" not in message for message in messages)
