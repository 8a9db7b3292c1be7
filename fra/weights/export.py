"""`fra export`: a run's weights in the form that another program reads, and how well the copy agrees."""

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fra.files import atomic, claim_folder, one_writer
from fra.models.region_head import RegionModel
from fra.runtime import Runtime
from fra.training.checkpoint import load_checkpoint
from fra.weights import released_fra
from fra.weights.foreign import OURS, import_region_model
from fra.weights.layouts import VGGFACE2, foreign_config, infer_architecture
from fra.weights.load import read_weights, rebuild_region_model
from fra.weights.rebuild import below


@one_writer
def export_official(run: Path, out: Path, *, runtime: Runtime = Runtime()) -> Path:
    """Write a finished or interrupted run of FRA as a checkpoint of the released FRA, and `parity.json`, into `out`.

    The file has the six entries of the released layout. What that layout cannot say (a finer last map, other image
    statistics or sizes, another start of the decoder) stands in a seventh, `fra`, only if there is such a thing.
    The file is read back before it is put in its place. Raises ValueError when `run` is no run of FRA.
    """
    run, out = Path(run), Path(out)
    saved, metadata = _whole_run(run)
    state: dict[str, Tensor] = saved["model"]
    model = rebuild_region_model(below("online.", state), metadata, run).eval()
    head = model.head.config
    entries = released_fra.to_official(state, head)
    epoch = saved["step"] // max(1, saved["identity"]["faces"] // saved["identity"]["batch_size"])
    content = released_fra.checkpoint(entries, epoch=epoch, arch=model.encoder.config.name)
    unsaid = _unsaid(model)
    if unsaid:
        content[OURS] = json.loads(json.dumps({"encoder": asdict(model.encoder.config), "regions": asdict(head)}))
    claim_folder(out, command="export", resume=runtime.resume)
    (out / "parity.json").unlink(missing_ok=True)  # written last: it is of the file beside it
    path = out / f"{run.resolve().name}.pth.tar"
    with atomic(path) as temporary:
        with open(temporary, "wb") as stream:  # given a path, torch writes its name into the archive
            torch.save(content, stream)
        copy = import_region_model(temporary).model
        parity = _parity(model, copy)
        if max(parity["max_difference"].values()) > 0:
            raise ValueError(
                f"the exported copy of {run} computes something else (difference "
                f"{parity['max_difference']}); nothing was written"
            )
    parity |= dict(format="official", file=path.name, bytes=path.stat().st_size, entries=len(entries), unsaid=unsaid)
    with atomic(out / "parity.json") as temporary:
        temporary.write_text(json.dumps(parity, indent=2) + "\n")
    if not runtime.quiet:
        print(
            f"{len(entries)} entries in the released FRA layout, epoch {epoch}; verified: largest difference from fra 0"
        )
        if unsaid:
            print(
                f"WARNING: the released code ignores its {', '.join(unsaid)} (fra reads them from the entry '{OURS}')"
            )
        print(f"wrote {path}")
    return path


def _whole_run(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last checkpoint of a run of FRA and the description beside it."""
    for name in ("model.safetensors", "last.ckpt"):
        if not (run / name).is_file():
            raise ValueError(f"{run} has no {name}: give a run folder of `fra pretrain` with at least one checkpoint")
    _, metadata = read_weights(run / "model.safetensors")
    if metadata.get("method") != "fra":
        raise ValueError(
            f"{run} was trained with {metadata.get('method', 'no method')}, and the released layout is FRA's:"
            " give a run of method fra"
        )
    return load_checkpoint(run / "last.ckpt", identity=None), metadata


def _unsaid(model: RegionModel) -> list[str]:
    """What the released layout's tensors do not tell, where it is not what every reader takes for granted."""
    encoder, head = model.encoder.config, model.head.config
    backbone = model.encoder.backbone.state_dict()
    taken = foreign_config(infer_architecture(backbone), VGGFACE2)
    assumed = released_fra.inferred(head)
    # Dropout and first weights matter to training alone.
    decoder = replace(head.decoder, dropout=assumed.decoder.dropout, mask_mlp=assumed.decoder.mask_mlp)
    pairs = {
        **{name: (getattr(encoder, name), value) for name, value in asdict(taken).items()},
        "heatmap scale": (head.scale, assumed.scale),
        "decoder": (decoder, assumed.decoder),
    }
    return [name.replace("_", " ") for name, (true, said) in pairs.items() if true != said]


@torch.inference_mode()
def _parity(model: RegionModel, copy: RegionModel) -> dict[str, Any]:
    """Greatest differences between a model and its copy on two random images, and the copy's time for one."""
    side = model.encoder.config.image_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    pairs = {
        "features": (model.encoder(images), copy.encoder(images)),
        "heatmaps": (model(images).heatmaps, copy(images).heatmaps),
    }
    before = time.perf_counter()
    copy(images[:1])
    seconds = time.perf_counter() - before
    return dict(
        max_difference={name: float((ours - theirs).abs().max()) for name, (ours, theirs) in pairs.items()},
        sizes={"images": list(images.shape)} | {name: list(ours.shape) for name, (ours, _) in pairs.items()},
        latency_ms=round(1000 * seconds, 2),
    )
