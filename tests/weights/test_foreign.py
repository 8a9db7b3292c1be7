"""Foreign weights: dictionaries built to the documented layouts, read to the last bit or refused with one line.

B images, K facial regions, h x w positions. The layouts are written out here a second time, from the specification.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from official_names import official_name
from safetensors.torch import save_file
from torch import Tensor

import fra
from fra import cli
from fra.models.encoder import SMALL_RESNETS, Encoder, EncoderConfig
from fra.models.mask_decoder import DecoderConfig
from fra.pretrain.fra import FRA, FRAConfig
from fra.pretrain.method import HeadConfig
from fra.weights.foreign import ImportReport, import_encoder, import_region_model
from fra.weights.layouts import ARCHITECTURES, backbone_shapes, infer_architecture, timm_config
from fra.weights.load import load_encoder, load_region_model
from fra.weights.released_fra import method_names, to_official
from fra.weights.source import EncoderSource

State = dict[str, Tensor]
K, HIDDEN, OUT, WIDTH = 4, 24, 16, 20

VGGFACE2 = (0.5231, 0.4044, 0.3489), (0.2536, 0.2194, 0.2070)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SWAV = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)


def filled(shapes: dict[str, tuple[int, ...]]) -> State:
    """Random tensors that let images through: matrices by Kaiming's rule, norms about 1, counters of 7."""
    state: State = {}
    for name, shape in shapes.items():
        state[name] = torch.randn(shape) * (0.1 if len(shape) < 2 else (2 / math.prod(shape[1:])) ** 0.5)
        if name.endswith("weight") and len(shape) == 1:
            state[name] += 1
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.5
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
    return state


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal but for the order of sums: memory formats differ."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.detach().abs().max()))


def torchvision_resnet(name: str = "resnet18") -> torch.nn.Module:
    """torchvision's own network with batch norms that are not at their start."""
    network = torchvision.models.get_model(name, weights=None)
    network.load_state_dict(filled({key: tuple(value.shape) for key, value in network.state_dict().items()}))
    return network.eval()


def backbone_of(network: torch.nn.Module) -> State:
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}


def pooled(network: torch.nn.Module, images: Tensor, normalisation: tuple[Any, Any]) -> Tensor:
    """What torchvision's network gives before its classifier."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in normalisation)
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        return network((images - mean) / std)


def head(channels: int, hidden: int = HIDDEN, out: int = OUT) -> dict[str, tuple[int, ...]]:
    """Spec, section 10: `mlp.0.weight`, the batch norm `mlp.1`, `mlp.3.weight`; the weights are those of Conv1d."""
    norm = {f"mlp.1.{part}": (hidden,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {
        "mlp.0.weight": (hidden, channels, 1),
        **norm,
        "mlp.1.num_batches_tracked": (),
        "mlp.3.weight": (out, hidden, 1),
    }


def neck(channels: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Spec, section 10, neck keys."""
    shapes: dict[str, tuple[int, ...]] = {"proto": (K, OUT)}
    for projector in ("proj", "proj_pixel", "proj_obj"):
        shapes |= {f"{projector}.{name}": shape for name, shape in head(channels).items()}
    for layer in range(layers):
        inside = f"proj_attn.transformer.decoder.layers.{layer}"
        for attention in ("self_attn", "multihead_attn"):
            shapes[f"{inside}.{attention}.in_proj_weight"] = (3 * OUT, OUT)
            shapes[f"{inside}.{attention}.in_proj_bias"] = (3 * OUT,)
            shapes[f"{inside}.{attention}.out_proj.weight"] = (OUT, OUT)
            shapes[f"{inside}.{attention}.out_proj.bias"] = (OUT,)
        shapes |= {f"{inside}.linear1.weight": (WIDTH, OUT), f"{inside}.linear1.bias": (WIDTH,)}
        shapes |= {f"{inside}.linear2.weight": (OUT, WIDTH), f"{inside}.linear2.bias": (OUT,)}
        shapes |= {f"{inside}.norm{i}.{part}": (OUT,) for i in (1, 2, 3) for part in ("weight", "bias")}
    shapes |= {f"proj_attn.transformer.decoder.norm.{part}": (OUT,) for part in ("weight", "bias")}
    shapes["proj_attn.query_embed.weight"] = (K, OUT)
    shapes |= {"proj_attn.input_proj.weight": (OUT, channels, 1, 1), "proj_attn.input_proj.bias": (OUT,)}
    for index in range(3):
        shapes[f"proj_attn.mask_embed.layers.{index}.weight"] = (OUT, OUT)
        shapes[f"proj_attn.mask_embed.layers.{index}.bias"] = (OUT,)
    return shapes


def below(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def released_fra(backbone: State, *, layers: int = 2, module: bool = True) -> dict[str, Any]:
    """A checkpoint of the released FRA (spec fra.md, section 10) around a backbone."""
    channels = backbone["layer4.0.downsample.0.weight"].shape[0]
    state = below("online_net.backbone.", backbone) | below("encoder_q.", backbone)
    state |= below("target_net.backbone.", {name: torch.zeros_like(tensor) for name, tensor in backbone.items()})
    state |= below("online_net.neck.", filled(neck(channels, layers)))
    state |= below("target_net.neck.", filled(neck(channels, layers)))
    state |= below("predictor.", filled(head(OUT))) | below("predictor_obj.", filled(head(OUT)))
    state["center"] = torch.zeros(1, K)
    state = below("module.", state) if module else state
    return dict(epoch=50, arch="resnet18", state_dict=state, best_acc1=torch.tensor(0.0), optimizer={}, scaler=None)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision_resnet()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64)


def saved(tmp_path: Path, content: Any, name: str = "weights.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


# What is read


@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_released_fra_gives_its_online_backbone_and_its_regions(
    network: torch.nn.Module, images: Tensor, tmp_path: Path, layers: int, module: bool
) -> None:
    content = released_fra(backbone_of(network), layers=layers, module=module)
    found = import_region_model(saved(tmp_path, content))
    theirs = {name.removeprefix("module."): tensor for name, tensor in content["state_dict"].items()}

    decoder = found.model.head.config.decoder
    assert (decoder.layers, decoder.width, found.model.regions) == (layers, WIDTH, K)
    assert (decoder.content, decoder.heads, found.model.head.config.scale) == ("zeros", 8, 1.0)
    # ResNet-18 has 122 entries with fc's two. Region head: proto 1, pixel 7; decoder 18 a layer, and 2 + 1 + 2 + 6.
    assert found.report.read == {"backbone": 120, "region head": 1 + 7 + 18 * layers + 11}

    # Section 2: features are the mean of the map; f = W3 relu(BN(W0 x)); M = softmax over K of cos(proto, f) + 1e-7.
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in VGGFACE2)
    maps = found.model.encoder.backbone.forward_features((images - mean) / std)
    assert_close(found.model.encoder(images), pooled(network, images, VGGFACE2))
    pixel = {name: theirs[f"online_net.neck.proj_pixel.mlp.{name}"] for name in ("0.weight", "3.weight")}
    norm = [
        theirs[f"online_net.neck.proj_pixel.mlp.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    ]
    pixels = F.conv1d(F.relu(F.batch_norm(F.conv1d(maps.flatten(2), pixel["0.weight"]), *norm)), pixel["3.weight"])
    cosines = F.cosine_similarity(theirs["online_net.neck.proto"][None, :, :, None], pixels[:, None], dim=2)
    assert_close(found.model(images).heatmaps.flatten(2), cosines.softmax(1) + 1e-7)


def test_a_real_sized_file_has_the_documented_counts_and_the_report_accounts_for_every_entry(tmp_path: Path) -> None:
    content = released_fra(backbone_of(torchvision_resnet("resnet50")))
    names = [name.removeprefix("module.") for name in content["state_dict"]]
    assert len(names) == 1107
    for prefix, count in {"online_net.backbone": 318, "online_net.neck": 69, "predictor.": 7, "encoder_q": 318}.items():
        assert sum(name.startswith(prefix) for name in names) == count
    report = import_encoder(saved(tmp_path, content)).report
    assert report == ImportReport(
        file="weights.pth",
        entry="state_dict",
        layout="released FRA",
        network="resnet50",
        normalisation="VGGFace2",
        read={"backbone": 318},
        counters=0,
        skipped={
            "center": 1,
            "encoder_q": 318,
            "online_net.neck": 69,
            "predictor": 7,
            "predictor_obj": 7,
            "target_net.backbone": 318,
            "target_net.neck": 69,
        },
    )
    assert "318 backbone tensors read" in str(report)
    assert "789 entries skipped: center 1, encoder_q 318" in str(report)  # 1107 - 318


def moco(state: State) -> dict[str, Any]:
    queue = {"queue": torch.zeros(4, 8), "queue_ptr": torch.zeros(1)}
    head = {"fc.0.weight": torch.zeros(8, 512), "fc.2.bias": torch.zeros(8)}
    state = below("encoder_q.", state | head) | below("encoder_k.", state | head) | queue
    return dict(epoch=3, arch="resnet18", state_dict=below("module.", state), optimizer={})


def lewel(state: State) -> dict[str, Any]:
    heads = filled(head(512))
    state = below("online_net.backbone.", state) | below("online_net.neck.proj.", heads) | below("predictor.", heads)
    return dict(state_dict=below("module.", state))


def swav(state: State) -> dict[str, Any]:
    extra = {"projection_head.0.weight": torch.zeros(8, 512), "prototypes.weight": torch.zeros(9, 8)}
    return dict(epoch=1, state_dict=below("module.", state | extra), optimizer={}, amp=None)


def dino(state: State) -> dict[str, Any]:
    teacher = below("module.backbone.", state) | {"module.head.mlp.0.weight": torch.zeros(1)}
    return dict(student=below("backbone.", {name: torch.zeros_like(t) for name, t in state.items()}), teacher=teacher)


CLASSIFIER = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
FILES: dict[str, tuple[Callable[[State], dict[str, Any]], tuple[Any, Any], dict[str, int]]] = {
    "LEWEL": (lewel, IMAGENET, {"online_net.neck": 7, "predictor": 7}),
    "Bulat et al.": (lambda state: below("module.base_net.", state), SWAV, {}),
    "MoCo v1 or v2": (moco, IMAGENET, {"encoder_k": 122, "encoder_q.fc": 2, "queue": 1, "queue_ptr": 1}),
    "MoCo v3": (
        lambda state: dict(state_dict=below("module.base_encoder.", state) | below("module.momentum_encoder.", state)),
        IMAGENET,
        {"momentum_encoder": 120},
    ),
    "SimSiam": (lambda state: dict(state_dict=below("module.encoder.", state)), IMAGENET, {}),
    "DINO, VICReg or Barlow Twins": (dino, IMAGENET, {"head": 1}),
    "SwAV": (swav, SWAV, {"projection_head": 1, "prototypes": 1}),
    "torchvision or timm": (lambda state: state | CLASSIFIER, IMAGENET, {"fc": 2}),
}


@pytest.mark.parametrize("layout", FILES)
def test_every_layout_gives_torchvisions_features_under_its_own_normalisation(
    network: torch.nn.Module, images: Tensor, tmp_path: Path, layout: str
) -> None:
    build, normalisation, skipped = FILES[layout]
    found = import_encoder(saved(tmp_path, build(backbone_of(network))))
    assert found.report.layout == layout
    assert found.report.read == {"backbone": 120}
    assert found.report.skipped == skipped
    assert not found.model.training
    assert found.model.image_size == 224
    assert (found.model.config.mean, found.model.config.std) == normalisation
    with torch.inference_mode():
        features = found.model(images)
    assert_close(features, pooled(network, images, normalisation))
    other = SWAV if normalisation == IMAGENET else IMAGENET  # .228 and .229 differ by half a percent
    assert (features - pooled(network, images, other)).abs().max() > 1e-3 * features.abs().max()


def test_the_table_and_these_tests_know_the_same_layouts() -> None:
    from fra.weights.layouts import LAYOUTS

    assert {layout.name for layout in LAYOUTS} == {"released FRA", *FILES}


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in SMALL_RESNETS])
def test_torchvisions_networks_are_recognised_by_their_tensors(name: str) -> None:
    with torch.device("meta"):
        state = backbone_of(torchvision.models.get_model(name, weights=None))
    assert infer_architecture(state) == name


def test_our_small_networks_are_recognised_too() -> None:
    for name in SMALL_RESNETS:
        assert infer_architecture({key: torch.empty(shape) for key, shape in backbone_shapes(name).items()}) == name


def test_safetensors_and_half_precision_are_read(network: torch.nn.Module, tmp_path: Path) -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in backbone_of(network).items()}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    found = load_encoder(tmp_path / "model.safetensors", quiet=True).backbone.state_dict()
    assert found["conv1.weight"].dtype == torch.float32
    assert torch.equal(found["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"].float())


def test_counters_that_old_files_lack_start_at_zero_and_change_nothing(
    network: torch.nn.Module, images: Tensor, tmp_path: Path
) -> None:
    state = {name: t for name, t in backbone_of(network).items() if not name.endswith("num_batches_tracked")}
    assert len(state) == 100  # 120 - 20 batch norms
    found = import_encoder(saved(tmp_path, state))
    assert found.report.counters == 20
    assert "20 unused batch-norm counters set to 0" in str(found.report)
    assert found.model.backbone.bn1.num_batches_tracked == 0
    with torch.inference_mode():
        assert_close(found.model(images), pooled(network, images, IMAGENET))


def test_another_network_of_timm_is_read_from_a_local_file(images: Tensor, tmp_path: Path) -> None:
    network = timm.create_model("resnet18d", pretrained=False).eval()  # its stem differs from torchvision's
    path = saved(tmp_path, dict(state_dict=below("module.backbone.", network.state_dict())))
    with pytest.raises(ValueError, match="timm:NAME=FILE"):
        load_encoder(path)
    encoder = load_encoder(f"timm:resnet18d={path}", quiet=True)
    assert encoder.config.name == "resnet18d"
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    with torch.inference_mode():
        assert_close(encoder(images), network.forward_features((images - mean) / std).mean((2, 3)))


def test_networks_without_a_map_and_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gives neither a map of features nor a grid of tokens"):
        load_encoder("random:xcit_nano_12_p8_224")
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="weights contain NaN or inf"):
        load_encoder(saved(tmp_path, state), quiet=True)


def test_a_named_network_of_timm_brings_its_own_statistics_and_size(tmp_path: Path) -> None:
    own = timm.get_pretrained_cfg("test_resnet")
    config = timm_config("test_resnet")
    assert config.mean == own.mean == (0.5, 0.5, 0.5)
    assert config.image_size == own.input_size[-1] == 160
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    assert load_encoder(f"timm:test_resnet={saved(tmp_path, state)}", quiet=True).config == config


def test_loading_says_one_line_on_stderr_unless_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, swav(small_state()))
    fra.load_encoder(path)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [str(import_encoder(path).report)]
    fra.load_encoder(path, quiet=True)
    assert capsys.readouterr() == ("", "")


# What is refused


def small_state() -> State:
    return filled({name: tuple(shape) for name, shape in backbone_shapes("resnet10_quarter").items()})


def test_a_file_that_lacks_any_tensor_is_refused_by_name_whichever_it_is(tmp_path: Path) -> None:
    state = below("module.base_net.", small_state())
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    assert len(names) == 78 - 13  # 13 batch norms
    for name in names:
        path = saved(tmp_path, {key: tensor for key, tensor in state.items() if key != name})
        with pytest.raises(ValueError, match="nothing was loaded") as refusal:
            load_encoder(path)
        assert name.removeprefix("module.") in str(refusal.value)


def test_tensors_of_another_shape_or_of_a_further_stage_are_refused_by_name(tmp_path: Path) -> None:
    state = small_state()
    wrong = saved(tmp_path, state | {"layer2.0.bn1.bias": torch.zeros(33)})
    with pytest.raises(ValueError, match=r"1 tensor of another shape \(layer2.0.bn1.bias \(33,\) instead of \(32,\)\)"):
        load_encoder(wrong)
    more = saved(tmp_path, state | {"layer5.0.conv1.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"1 tensor unknown \(layer5.0.conv1.weight\)"):
        load_encoder(more)


def test_regions_are_refused_when_a_tensor_is_missing_or_the_method_has_none(
    tmp_path: Path,
) -> None:
    for name in ("proto", "proj_attn.transformer.decoder.layers.1.norm3.bias", "proj_attn.query_embed.weight"):
        content = released_fra(small_state())
        del content["state_dict"][f"module.online_net.neck.{name}"]
        with pytest.raises(ValueError, match=f"online_net.neck.{name}"):
            load_region_model(saved(tmp_path, content))
    with pytest.raises(ValueError, match="LEWEL layout.*has no facial regions|has no facial regions.*LEWEL layout"):
        load_region_model(saved(tmp_path, lewel(small_state())))


def test_an_unknown_layout_lists_what_was_found_and_what_is_known(tmp_path: Path) -> None:
    path = saved(
        tmp_path, {"trunk.blocks.0.w": torch.zeros(1), "trunk.blocks.1.w": torch.zeros(1), "top.w": torch.ones(1)}
    )
    with pytest.raises(ValueError, match="has an unknown layout") as refusal:
        load_encoder(path)
    assert "its 3 tensors: trunk 2, top 1" in str(refusal.value)
    assert "Bulat et al." in str(refusal.value)


def test_a_pickled_object_is_never_built(tmp_path: Path) -> None:
    path = saved(tmp_path, dict(state_dict=small_state(), args=argparse.Namespace(lr=1)))
    with pytest.raises(ValueError, match="argparse.Namespace") as refusal:
        load_encoder(path)
    assert "weights_only=False" not in str(refusal.value)
    assert "\n" not in str(refusal.value)

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    with pytest.raises(ValueError, match="pickled object"):
        load_encoder(saved(tmp_path, dict(state_dict=small_state(), trap=Trap())))
    assert not (tmp_path / "sprung").exists()


def test_files_without_a_dictionary_of_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains a list"):
        load_encoder(saved(tmp_path, [torch.zeros(1)]))
    with pytest.raises(ValueError, match="has no tensors.* it has epoch, args"):
        load_encoder(saved(tmp_path, dict(epoch=1, args={})))
    state = small_state()
    with pytest.raises(ValueError, match="conv1.weight twice"):
        load_encoder(saved(tmp_path, state | {"module.conv1.weight": state["conv1.weight"]}))
    with pytest.raises(ValueError, match="no such file or folder"):
        load_encoder(tmp_path / "nowhere.pth")
    for name in ("resnet5O", "resnet10_half"):  # timm does not know ours
        with pytest.raises(ValueError, match="timm has no network named"):
            load_encoder(f"timm:{name}={saved(tmp_path, state)}")
        with pytest.raises(ValueError, match="timm has no network named"):
            load_encoder(f"timm:{name}")


def test_weights_never_depend_on_the_random_state(tmp_path: Path) -> None:
    path = saved(tmp_path, small_state())
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(load_encoder(path, quiet=True).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# The released layout, written


def small_fra(layers: int = 2, **options: Any) -> FRA:
    config = FRAConfig(
        regions=K,
        head=HeadConfig(hidden=HIDDEN, out=OUT),
        decoder=DecoderConfig(layers=layers, width=WIDTH, **options),
    )
    method = FRA(config, Encoder(EncoderConfig(name="resnet10_quarter")))
    method.load_state_dict(filled({name: tuple(tensor.shape) for name, tensor in method.state_dict().items()}))
    method.teacher.network.region_head.updates.zero_()  # as training leaves it
    return method


@pytest.mark.parametrize("layers", [1, 2])
def test_our_fra_written_in_the_released_layout_has_its_names_shapes_and_values(layers: int) -> None:
    method = small_fra(layers)
    head = method.online.region_head.config
    written = to_official(method.state_dict(), head)
    expected = released_fra(small_state(), layers=layers)["state_dict"]
    assert {name: t.shape for name, t in written.items()} == {name: t.shape for name, t in expected.items()}
    alias = {name.removeprefix("module.encoder_q."): t for name, t in written.items() if ".encoder_q." in name}
    for name, tensor in method.online.encoder.backbone.state_dict().items():
        assert torch.equal(alias[name], tensor)
        assert torch.equal(written[f"module.online_net.backbone.{name}"], tensor)
    assert torch.equal(written["module.target_net.neck.proto"], method.online.region_head.prototypes)
    assert torch.equal(written["module.center"], torch.zeros(1, K))


def test_the_name_table_agrees_with_the_golden_tests_which_found_the_released_losses() -> None:
    method = small_fra(2)
    table = method_names(2)
    ours = [name for name, _ in method.online.named_parameters() if not name.startswith("encoder.")]
    assert len(ours) == 69 - 1 - 3 * 3  # without proto, and three buffers of each of three batch norms
    for name in ours:
        assert table[f"online.{name}"] == f"online_net.neck.{official_name(name)}"
        assert table[f"teacher.network.{name}"] == f"target_net.neck.{official_name(name)}"
    assert table["face_predictor.last.weight"] == "predictor.mlp.3.weight"
    assert table["region_predictor.norm.bias"] == "predictor_obj.mlp.1.bias"
    assert len(set(table.values())) == len(table) == 2 * 69 + 2 * 7


def test_real_sized_export_has_the_documented_counts() -> None:
    for layers, entries, parameters in [(2, 1107, 53_887_552), (1, 1107 - 2 * 18, 53_887_552 - 659_456)]:
        with torch.device("meta"):
            method = FRA(FRAConfig(decoder=DecoderConfig(layers=layers)), Encoder(EncoderConfig()))
        state = method.state_dict() | {"teacher.network.region_head.updates": torch.ones(())}
        written = to_official(state, method.online.region_head.config)
        assert len(written) == entries
        neck = [name for name in written if name.startswith("module.online_net.neck.")]
        assert len(neck) == {2: 69, 1: 51}[layers]
        learned = [name for name in written if name.startswith("module.online_net.") and not name.endswith("proto")]
        numbers = sum(written[name].numel() for name in learned if "running" not in name and "num_b" not in name)
        assert numbers == parameters


def test_a_state_that_is_not_all_of_an_fra_is_not_written() -> None:
    method = small_fra()
    state, head = dict(method.state_dict()), method.online.region_head.config
    with pytest.raises(ValueError, match="no place for online.surprise"):
        to_official(state | {"online.surprise": torch.zeros(1)}, head)
    del state["face_predictor.last.weight"]
    with pytest.raises(ValueError, match="1 tensor missing"):
        to_official(state, head)


# The command line

SETTINGS = ["method.head={hidden: 32, out: 16}", "method.decoder.width=16", "schedule.epochs=1", "batch_size=16"]
SETTINGS += ["schedule.warmup_epochs=0.5", "health_faces=8", "encoder.image_size=32", "views.size=32"]


def pretrained(recipe: str, faces: Path, out: Path, *settings: str) -> Path:
    words = [word for setting in settings for word in ("--set", setting)]
    command = ["pretrain", recipe, "--faces", str(faces), "--out", str(out), "--workers", "0", "--quiet", *words]
    assert cli.main([*command, "--device", "cpu", "--precision", "32"]) == 0
    return out


@pytest.fixture(scope="module")
def run(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return pretrained("smoke/resnet10_half.fra", drawn_faces, tmp_path_factory.mktemp("runs") / "tiny.fra", *SETTINGS)


def test_export_then_import_is_equal_to_the_last_bit(run: Path, tmp_path: Path, images: Tensor) -> None:
    out = tmp_path / "exported"
    assert cli.main(["export", str(run), "--format", "official", "--out", str(out), "--quiet"]) == 0
    path = out / "tiny.fra.pth.tar"
    content = torch.load(path, weights_only=True)
    assert (content["epoch"], content["arch"]) == (1, "resnet10_half")
    assert set(content) == {"epoch", "arch", "state_dict", "best_acc1", "optimizer", "scaler", "fra"}
    ours, theirs = load_region_model(run), load_region_model(path, quiet=True)
    assert ours.encoder.config == theirs.encoder.config
    assert torch.equal(ours.encoder(images), theirs.encoder(images))
    assert torch.equal(ours(images).heatmaps, theirs(images).heatmaps)
    assert torch.equal(load_encoder(run)(images), load_encoder(path, quiet=True)(images))
    parity = json.loads((out / "parity.json").read_text())
    assert parity["max_difference"] == {"features": 0.0, "heatmaps": 0.0}
    assert parity["sizes"]["heatmaps"] == [2, 8, 2, 2]
    assert parity["bytes"] == path.stat().st_size
    assert parity["entries"] == len(content["state_dict"])
    assert parity["unsaid"] == ["last stride", "image size", "decoder"]


def test_a_run_that_the_layout_can_say_exports_exactly_its_six_entries(run: Path, tmp_path: Path) -> None:
    import shutil

    from fra.pretrain.run import export

    method, folder = small_fra(), tmp_path / "run"
    folder.mkdir()
    shutil.copy(run / "last.ckpt", folder)
    saved_run = torch.load(folder / "last.ckpt", weights_only=True) | {"model": method.state_dict()}
    torch.save(saved_run, folder / "last.ckpt")
    export(method, folder, {"method": "fra"})
    # The checkpoint counts, not the weights of the epoch before it.
    with torch.no_grad():
        method.online.region_head.prototypes += 1
    torch.save(saved_run | {"model": method.state_dict()}, folder / "last.ckpt")
    assert cli.main(["export", str(folder), "--format", "official", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    content = torch.load(tmp_path / "out" / "run.pth.tar", weights_only=True)
    assert set(content) == {"epoch", "arch", "state_dict", "best_acc1", "optimizer", "scaler"}
    found = load_region_model(tmp_path / "out" / "run.pth.tar", quiet=True)
    assert torch.equal(found.head.prototypes, method.online.region_head.prototypes)
    assert found.head.config.decoder == DecoderConfig(layers=2, width=WIDTH)
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["unsaid"] == []


def failure(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert cli.main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_only_runs_of_fra_are_exported_as_official(
    run: Path, drawn_faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [setting for setting in SETTINGS if "decoder" not in setting]
    byol = pretrained("smoke/resnet10_half.byol", drawn_faces, tmp_path / "byol", *settings)
    capsys.readouterr()
    out = tmp_path / "out"
    line = failure(capsys, "export", byol, "--format", "official", "--out", out)
    assert "was trained with byol, and the released layout is FRA's" in line
    assert "has no model.safetensors" in failure(capsys, "export", drawn_faces, "--format", "official", "--out", out)
    assert not out.exists()
    line = failure(capsys, "regions", run / "last.ckpt", "--faces", drawn_faces, "--out", out)
    assert "has no facial regions" in line
    with pytest.raises(ValueError, match="is a training checkpoint of `fra pretrain`: give the run folder"):
        load_encoder(run / "last.ckpt")


def test_regions_and_transfer_take_a_released_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, released_fra(small_state()), "released.pth.tar")
    faces, found, judged = tmp_path / "faces", tmp_path / "found", tmp_path / "judged"
    assert cli.main(["data", "synthetic", "--out", str(faces), "--count", "20", "--size", "48", "--quiet"]) == 0
    images = ["--faces", str(faces / "images")]
    assert cli.main(["regions", str(path), *images, "--out", str(found), "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "20 faces, 4 regions" in said.out
    assert said.err.count("\n") == 1
    assert "released FRA checkpoint of resnet10_quarter" in said.err
    monkeypatch.chdir(tmp_path)
    command = ["transfer", "smoke/synthetic_expression", "--encoder", path.name, "--data", str(faces)]
    assert cli.main([*command, "--out", str(judged), "--device", "cpu", "--set", "image_size=48", "--quiet"]) == 0
    assert json.loads((judged / "results.json").read_text())["encoder"] == "released"
    monkeypatch.chdir(tmp_path.parent)
    assert "expression" in fra.load_task_model(judged).predict(torch.zeros(3, 48, 48))
    assert "released" not in capsys.readouterr().err


# Names


def test_sources_have_short_names_and_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "resnet50.fra").mkdir()
    (tmp_path / "resnet50.fra" / "encoder.safetensors").touch()
    (tmp_path / "swav.pth.tar").touch()
    monkeypatch.chdir(tmp_path)
    here = tmp_path.resolve()
    for text, label, everywhere in [
        ("random", "random", "random"),
        ("random:resnet50", "random", "random:resnet50"),
        ("random:laptop", "random", "random:laptop"),
        ("random:resnet50.fra", "random", f"random:{here}/resnet50.fra"),
        ("random_faces", "random_faces", f"{here}/random_faces"),
        ("timm:resnet50", "timm:resnet50", "timm:resnet50"),
        ("timm:resnet50d=swav.pth.tar", "swav", f"timm:resnet50d={here}/swav.pth.tar"),
        ("laptop", "laptop", "laptop"),
        ("resnet50.fra", "resnet50.fra", f"{here}/resnet50.fra"),
        ("resnet50.fra/encoder.safetensors", "resnet50.fra", f"{here}/resnet50.fra/encoder.safetensors"),
        ("swav.pth.tar", "swav", f"{here}/swav.pth.tar"),
    ]:
        source = EncoderSource.parse(text)
        assert (source.label, str(source)) == (label, everywhere)
        assert str(EncoderSource.parse(str(source))) == everywhere


# --- EfficientNet-PyTorch


def efficientnet_pytorch(network: str) -> tuple[torch.nn.Module, State]:
    """A network of timm, and its tensors as EfficientNet-PyTorch names them: blocks in one row, norms from 0."""
    model = timm.create_model(network)
    model.load_state_dict(filled({key: tuple(value.shape) for key, value in model.state_dict().items()}))
    rows = [f"blocks.{stage}.{block}" for stage, blocks in enumerate(model.blocks) for block in range(len(blocks))]
    state: State = {}
    for name, tensor in model.state_dict().items():
        row = next((row for row in rows if name.startswith(row + ".")), None)
        if row is None:
            ends = {
                "conv_stem": "_conv_stem",
                "bn1": "_bn0",
                "conv_head": "_conv_head",
                "bn2": "_bn1",
                "classifier": "_fc",
            }
            first, _, rest = name.partition(".")
            state[f"{ends[first]}.{rest}"] = tensor
            continue
        part, rest = name.removeprefix(row + ".").split(".", 1)
        expands = any(other.startswith(row + ".conv_pwl") for other in model.state_dict())
        convolutions = (
            ["_expand_conv", "_depthwise_conv", "_project_conv"] if expands else ["_depthwise_conv", "_project_conv"]
        )
        kinds = ["conv_pw", "conv_dw", "conv_pwl"] if expands else ["conv_dw", "conv_pw"]
        theirs = dict(zip(kinds, convolutions, strict=True))
        norm = int(part[2:]) - (1 if expands else 0) if part.startswith("bn") else 0
        state[f"_blocks.{rows.index(row)}.{theirs.get(part, f'_bn{norm}')}.{rest}"] = tensor
    return model.eval(), state


@pytest.mark.parametrize("network", ["tf_efficientnet_lite0", "tf_efficientnet_lite1"])
def test_efficientnet_pytorch_is_read_in_order(network: str, tmp_path: Path) -> None:
    model, state = efficientnet_pytorch(network)
    assert len(state) == len(model.state_dict())
    torch.save(state, tmp_path / "lite.pth")
    found = import_encoder(tmp_path / "lite.pth", network=network)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model.forward_features((images - 127 / 255) / (128 / 255)).mean((2, 3))
        assert_close(found.model(images), expected)
    assert found.report.layout == "EfficientNet-PyTorch"
    assert found.report.normalisation == "EfficientNet-Lite"
    assert found.report.skipped == {"classifier": 2}


def test_efficientnet_pytorch_of_another_size_or_cut_is_refused(tmp_path: Path) -> None:
    _, state = efficientnet_pytorch("tf_efficientnet_lite0")
    for number, broken in enumerate((dict(list(state.items())[:-2]), {**state, "_bn0.weight": torch.ones(5)})):
        torch.save(broken, tmp_path / f"{number}.pth")
        with pytest.raises(ValueError, match="does not hold tf_efficientnet_lite0"):
            import_encoder(tmp_path / f"{number}.pth", network="tf_efficientnet_lite0")
    torch.save(state, tmp_path / "whole.pth")
    with pytest.raises(ValueError, match="does not hold tf_efficientnet_lite1"):
        import_encoder(tmp_path / "whole.pth", network="tf_efficientnet_lite1")
