"""`fra export` for programs without fra: ONNX, torch's exported programs, and folders that timm reads.

Each file is read back and compared before it is put in its place.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fra.files import atomic, claim_folder, one_writer
from fra.runtime import Runtime
from fra.system.printable import printable
from fra.system.text import install, python_text
from fra.weights.portable_model import Outputs, Pixels, Portable, parity, portable
from fra.weights.portable_timm import write_timm
from fra.weights.source import EncoderSource

Writer = Callable[[Any, Path, str], tuple[Path, dict[str, Any]]]


@one_writer
def export_portable(
    run: str | Path, out: Path, kind: str, *, pixels: Pixels | None = None, runtime: Runtime = Runtime()
) -> Path:
    """Write an encoder, with its regions where it has them, in the format `kind` (onnx, torch or timm) into `out`.

    `run` is a run folder of `fra pretrain` or the name of bundled weights; with `pixels` the file takes pictures of
    any size. Beside the file are `metadata.json`, `example.py`, and `parity.json`: the greatest differences from torch,
    sizes and the time for one image. Raises ValueError when `run` is neither, the format cannot hold the network,
    or what was written computes something else.
    """
    model = portable(run, pixels)
    return write_portable(model, out, EncoderSource.parse(run).label, WRITERS[kind], kind=kind, runtime=runtime)


def write_portable(model: Portable, out: Path, name: str, writer: Writer, *, kind: str, runtime: Runtime) -> Path:
    """What `export_portable` does with the network called `name`; for a function under `one_writer`."""
    out = Path(out)
    claim_folder(out, command="export", resume=runtime.resume)
    (out / "parity.json").unlink(missing_ok=True)  # written last: it is of the file beside it
    path, facts = writer(model, out, name)
    texts = {"metadata.json": json.dumps(model.all_notes(name), indent=2) + "\n"}
    if kind in EXAMPLES:
        texts["example.py"] = EXAMPLES[kind](model, name)
    texts["parity.json"] = json.dumps({"format": kind, "file": path.name} | facts, indent=2) + "\n"
    for file, text in texts.items():
        with atomic(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    if not runtime.quiet:
        worst = ", ".join(f"{what} {value:.1e}" for what, value in facts["max_difference"].items())
        print(f"verified: largest difference from PyTorch: {worst}")
        print(f"wrote {printable(path)} (outputs: {', '.join(facts['outputs'])})")
        if kind in EXAMPLES:
            print(f"how to use it without fra: {printable(out / 'example.py')}")
        if facts.get("python"):
            print("\n".join(["in Python:", *(f"  {line}" for line in facts["python"])]))
    return path


def write_onnx(model: Portable, out: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """NAME.onnx, for any batch size."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch needs it)
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed: {install('export')}") from error
    path = out / f"{name}.onnx"
    with atomic(path) as temporary:
        with _silent():
            program = torch.onnx.export(
                model,
                (model.samples()[0],),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=list(model.outputs),
                dynamic_shapes=(model.open_axes,),
            )
        assert program is not None
        content = program.model_proto
        for key, value in _texts(model, name).items():
            content.metadata_props.append(onnx.StringStringEntryProto(key=key, value=value))
        temporary.write_bytes(content.SerializeToString())
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])

        def copy(batch: Tensor) -> Outputs:
            return tuple(map(torch.from_numpy, session.run(None, {"images": batch.numpy()})))

        facts = parity(model, copy, path=temporary)
    return path, facts | {"opset": max(entry.version for entry in content.opset_import)}


def write_torch(model: Portable, out: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """NAME.pt2, an exported program: `torch.export.load(FILE).module()(images)`, for any batch size."""
    path = out / f"{name}.pt2"
    axes = {axis: torch.export.Dim(word) for axis, word in model.open_axes.items()}
    with atomic(path) as temporary, _silent():
        program = torch.export.export(model, (model.samples()[0],), dynamic_shapes=(axes,), strict=False)
        torch.export.save(program, temporary, extra_files=_texts(model, name))
        copy = torch.export.load(temporary).module()
        facts = parity(model, copy, path=temporary)
    return path, facts


WRITERS: Mapping[str, Writer] = {"onnx": write_onnx, "torch": write_torch, "timm": write_timm}


def onnx_example(model: Portable, name: str) -> str:
    """A program that answers for one picture, as short as it can be."""
    return _example(
        model,
        name,
        "onnxruntime",
        f"session = onnxruntime.InferenceSession(here / {python_text(f'{name}.onnx')})",
        'values = session.run(None, {"images": images})[0]',
        'session.get_modelmeta().custom_metadata_map["names"]',
    )


def torch_example(model: Portable, name: str) -> str:
    """The same for an exported program."""
    return _example(
        model,
        name,
        "torch",
        f"network = torch.export.load(here / {python_text(f'{name}.pt2')}).module()",
        "values = network(torch.from_numpy(images))[0].detach().numpy()",
        None,
    )


EXAMPLES: Mapping[str, Callable[[Portable, str], str]] = {"onnx": onnx_example, "torch": torch_example}


def _example(model: Portable, name: str, package: str, load: str, ask: str, names: str | None) -> str:
    side = (model.image_size, model.image_size)
    images = {
        "uint8": ["images = np.array(picture)[None]"],
        "float": ["images = np.array(picture, np.float32)[None] / 255"],
    }
    sized = {"middle": f"ImageOps.fit(picture, {side}, 2)", "whole": f"picture.resize({side}, 2)"}[model.fit]
    inputs = [
        f"small = {sized}  # bilinear",
        "images = np.array(small, np.float32).transpose(2, 0, 1)[None] / 255",
    ]
    read = names or '(here / "metadata.json").read_text()'
    lines = [
        f"# {model.outputs[0]} of a face crop: python example.py FACE.jpg (needs {package}, numpy, pillow)",
        *("import json", "import sys", "from pathlib import Path", "import numpy as np", f"import {package}"),
        *("from PIL import Image, ImageOps", "", "here = Path(__file__).parent"),
        load,
        'picture = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")',
        *(images[model.pixels] if model.pixels else inputs),
        ask,
    ]
    return "\n".join([*lines, *model.shown(f"json.loads({read})" + ("" if names else '["names"]'))]) + "\n"


def _texts(model: Portable, name: str) -> dict[str, str]:
    """What the file says of itself, as JSON."""
    return {key: json.dumps(value) for key, value in model.all_notes(name).items()}


@contextmanager
def _silent() -> Iterator[None]:
    """Without the remarks of torch's exporter about its own insides."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
