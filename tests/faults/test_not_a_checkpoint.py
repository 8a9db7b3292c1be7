"""Files that are given for weights and are something else are told what they are; other entries are listed."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from fra import cli
from fra.models.encoder import Encoder, EncoderConfig
from fra.weights.foreign import AVERAGES, HOLDERS, import_encoder
from fra.weights.load import load_encoder, load_region_model

State = dict[str, torch.Tensor]
ENDINGS = [".pth", ".safetensors", ".pth.tar", ".bin"]


@pytest.fixture(scope="module")
def state() -> State:
    """A small network's tensors by torchvision's names."""
    torch.manual_seed(1)
    network = Encoder(EncoderConfig(name="resnet10_quarter")).backbone
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def saved(content: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return stream.getvalue()


def tarred(*names: str, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return stream.getvalue()


def torchscript() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


def exported() -> bytes:
    stream = io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), stream)
    return stream.getvalue()


def onnx_network(**about: str) -> bytes:
    helper = pytest.importorskip("onnx.helper")
    graph = helper.make_graph([], "empty", [], [])
    return helper.make_model(graph, **about).SerializeToString()


def array(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    if arrays:
        np.savez(stream, **arrays)
    else:
        np.save(stream, np.zeros(3))
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 102530333\n"
INDEX = json.dumps(
    {"metadata": {"total_size": 3}, "weight_map": {"a": "model-00002-of-00002.safetensors", "b": "model-1.safetensors"}}
)
PAGES = [b"<!DOCTYPE html><html>Sign in", b"\n\n <html><head>", b'<?xml version="1.0"?><Error>NoSuchKey</Error>',
         b"\xef\xbb\xbf<HTML>"]  # fmt: skip
OTHERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "torchscript": (torchscript, "is a TorchScript archive, not a file of weights: save"),
    "exported program": (exported, "is an exported PyTorch program (.pt2)"),
    "tar": (lambda: tarred("readme.txt", "w/NAME.pth"), "is a tar archive with w/NAME.pth inside"),
    "tar.gz": (lambda: tarred("a.txt", "NAME.pth", mode="w:gz"), "is a compressed tar archive with NAME.pth inside"),
    "empty tar": (lambda: tarred("a").replace(b"a", b"a")[:512], "is a tar archive"),
    "old torch tar": (
        lambda: tarred("sys_info", "pickle", "storages", "tensors"),
        "is a checkpoint from before PyTorch 0.1.10",
    ),
    "zip": (lambda: zipped(a__NAME_dot_pth=b"", a__readme=b""), "is a zip archive with a/NAME.pth inside"),
    "zip without weights": (lambda: zipped(a=b"", b=b"", c=b"", d=b""), "with a, b, c, ... inside"),
    "cut zip": (lambda: saved({"a": torch.zeros(9)})[:-40], "is the beginning of a checkpoint or zip archive"),
    "npz": (lambda: array(a=np.zeros(2)), "is an archive of NumPy arrays (.npz)"),
    "npy": (array, "is a NumPy array"),
    "gz": (lambda: gzip.compress(saved({})), "is a gzip file, not a file of weights: unpack it (gunzip)"),
    "bz2": (lambda: bz2.compress(b"x"), "is a bzip2 archive"),
    "xz": (lambda: lzma.compress(b"x"), "is an xz archive"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c\0\4", "is a 7-Zip archive"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "lfs": (lambda: LFS, "is a Git LFS pointer, not a file of weights: run `git lfs pull`"),
    **{f"page {number}": (lambda page=page: page, "is a web page") for number, page in enumerate(PAGES)},
    "index": (
        INDEX.encode,
        "is an index of weights in 2 parts (model-00002-of-00002.safetensors, ",
    ),
    "json": (lambda: b'{"error": "rate limit"}', """is text that begins '{"error": "rate limit"}'"""),
    "text": (lambda: b"these are no\tweights\n", "is text that begins 'these are no\\tweights'"),
    "empty": (lambda: b"", "is empty, not a file of weights"),
    "onnx": (onnx_network, "is an ONNX network"),
    "onnx of torch": (lambda: onnx_network(producer_name="pytorch"), "is an ONNX network"),
    "jpeg": (lambda: b"\xff\xd8\xff\xe0" + bytes(20), "is a JPEG image"),
}


@pytest.mark.parametrize(("make", "message"), OTHERS.values(), ids=OTHERS.keys())
def test_what_is_no_checkpoint_is_told_what_it_is(
    make: Callable[[], bytes], message: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    content = make()
    recwarn.clear()
    for ending in ENDINGS:
        path = tmp_path / f"w{ending}"
        path.write_bytes(content)
        for load in (load_encoder, load_region_model):
            with pytest.raises(ValueError, match="^[^\\n]+$") as caught:
                load(path)
            assert f"{path} {message}" in str(caught.value) or message in str(caught.value)
            assert str(path) in str(caught.value)
    assert not recwarn.list


def test_the_command_says_it_in_one_line_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "jit.pt"
    path.write_bytes(torchscript())
    command = ["transfer", "smoke/rafdb.linear", "--encoder", path, "--data", tmp_path, "--out", tmp_path / "out"]
    assert cli.main([str(word) for word in command]) == 2
    found = capfd.readouterr()
    assert found.out == ""
    assert found.err.startswith(f"fra: {path} is a TorchScript archive")
    assert len(found.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"\x00\x01\x02\x03" * 50, b"\x80\x02}q\x00.", b"\x80\x04N.", b"\xf0" * 9])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_what_cannot_be_recognised_is_still_one_line(content: bytes, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"w\{ending} (is not a|holds)"):
        load_encoder(path)


@pytest.mark.parametrize("part", [1, 2, 5, 9])
def test_a_safetensors_file_that_was_cut_off_is_named(part: int, state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    whole = save(state)
    path.write_bytes(whole[: len(whole) * part // 10])
    with pytest.raises(ValueError, match=r"w\.safetensors is not a readable safetensors file"):
        load_encoder(path)


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pth")
    for path in (tmp_path / "w.pth", Path("/dev/zero")):
        with pytest.raises(ValueError, match="is not a regular file"):
            load_encoder(path)


def test_the_content_counts_and_not_the_ending(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.pth", {"format": "pt"})
    torch.save(state, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        found = load_encoder(tmp_path / name, quiet=True).backbone.state_dict()
        assert torch.equal(found["conv1.weight"], state["conv1.weight"])


def other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize("average", ["model_ema", "ema_state_dict", "state_dict_ema", "teacher", "my_average"])
def test_entries_that_were_passed_over_are_listed(average: str, state: State, tmp_path: Path) -> None:
    content = {"state_dict": state, average: other(state), "optimizer": OPTIMIZER, "epoch": 3}
    torch.save(content, tmp_path / "w.pth")
    found = import_encoder(tmp_path / "w.pth")
    assert found.report.entry == "state_dict"
    assert found.report.passed_over == {average: len(state)}
    assert f"also in the file, not read: {average} ({len(state)} tensor" in str(found.report)
    assert torch.equal(found.model.backbone.state_dict()["conv1.weight"], state["conv1.weight"])


def test_nothing_is_listed_where_there_is_nothing_else(state: State, tmp_path: Path) -> None:
    torch.save({"state_dict": state, "optimizer": OPTIMIZER, "args": {"lr": 0.1}}, tmp_path / "w.pth")
    assert "not read" not in str(import_encoder(tmp_path / "w.pth").report)


def test_of_student_and_teacher_the_teacher_is_read_and_the_student_listed(state: State, tmp_path: Path) -> None:
    torch.save({"student": other(state), "teacher": state}, tmp_path / "w.pth")
    report = import_encoder(tmp_path / "w.pth").report
    assert (report.entry, report.passed_over) == ("teacher", {"student": len(state)})


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("inside", [None, "state_dict", "module"])
def test_the_usual_averages_are_read_when_they_are_alone(
    average: str, inside: str | None, state: State, tmp_path: Path
) -> None:
    torch.save({average: {inside: state, "decay": 0.99} if inside else state, "epoch": 3}, tmp_path / "w.pth")
    found = import_encoder(tmp_path / "w.pth")
    assert found.report.entry == (f"{average}.{inside}" if inside else average)
    assert torch.equal(found.model.backbone.state_dict()["conv1.weight"], state["conv1.weight"])


def test_tensors_at_the_top_come_before_an_average(state: State, tmp_path: Path) -> None:
    torch.save(state | {"ema": other(state)}, tmp_path / "w.pth")
    report = import_encoder(tmp_path / "w.pth").report
    assert (report.entry, report.passed_over) == ("", {"ema": len(state)})


def test_an_entry_of_another_name_is_named(state: State, tmp_path: Path) -> None:
    torch.save({"net": state, "epoch": 3}, tmp_path / "w.pth")
    has = rf"it has net \({len(state)} tensors\), epoch"
    with pytest.raises(ValueError, match=f"nor under {', '.join(HOLDERS)}; {has}"):
        load_encoder(tmp_path / "w.pth")
