"""Frozen encoders of other people, each as a network from faces in [0, 1] to features that `fra transfer` can judge.

B images of S x S pixels, C features. A face comes as the dataset frames it, resized to the network's own input: no
encoder, ours included, aligns it first.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.peers.dlib import read_dlib
from benchmarks.peers.faceapi import Recognition
from benchmarks.peers.pins import pinned
from benchmarks.peers.tfjs import Graph
from fra.files import atomic, read_arrays
from fra.weights.load import load_encoder


class GraphEncoder(nn.Module):
    """One node of a TensorFlow.js graph, for images scaled to `low` .. `high`."""

    def __init__(self, graph: Graph, output: str, *, image_size: int, low: float, high: float) -> None:
        super().__init__()
        self.graph, self.output, self.image_size = graph, output, image_size
        self.low, self.high = low, high

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
        pixels = (self.low + (self.high - self.low) * images).permute(0, 2, 3, 1)
        # A few at a time stay in the processor's cache: twice as fast as 32.
        return torch.cat([self.graph(part, self.output).flatten(1) for part in pixels.split(4)])


def imagenet(archives: Path, *, image_size: int) -> nn.Module:
    """EfficientNet-Lite0 as trained on ImageNet; `image_size` is the side of its input, made for 224."""
    encoder = load_encoder(f"timm:tf_efficientnet_lite0={pinned('imagenet', archives)}", quiet=True)
    encoder.image_size = image_size
    return encoder


def faceapi(archives: Path) -> nn.Module:
    """face-api's recognition network, 128 numbers: dlib's with weights of 8 bits."""
    return Recognition.read(pinned("faceapi_recognition_manifest", archives), pinned("faceapi_recognition", archives))


def faceres(archives: Path) -> nn.Module:
    """HSE-FaceRes, the 1,024 numbers before its heads for age and gender; it takes grey values from 0 to 255."""
    graph = Graph(pinned("faceres_graph", archives), pinned("faceres", archives))
    return GraphEncoder(graph, "global_pooling/Mean", image_size=224, low=0, high=255)


def mobilefacenet(archives: Path) -> nn.Module:
    """MobileFaceNet's embedding; it takes grey values from -1 to 1."""
    graph = Graph(pinned("mobilefacenet_graph", archives), pinned("mobilefacenet", archives))
    return GraphEncoder(graph, "embeddings", image_size=112, low=-1, high=1)


def ours(name: str, archives: Path) -> nn.Module:
    """A bundled encoder, or `random`."""
    return load_encoder(name, quiet=True)


@dataclass(frozen=True)
class Peer:
    """An encoder that is measured."""

    build: Callable[[Path], nn.Module]
    """Given the folder of npm's archives."""
    image_size: int
    """Side of its input in pixels."""
    own_size: bool = True
    """That holds for every dataset; ours take a recipe's size first."""


OURS = ("laptop", "laptop_byol", "laptop_swav", "laptop_lewel", "laptop_fine", "random")
PEERS: dict[str, Peer] = {
    "imagenet": Peer(partial(imagenet, image_size=112), 112),
    "imagenet_224": Peer(partial(imagenet, image_size=224), 224),
    "dlib": Peer(lambda archives: read_dlib(pinned("dlib_recognition", archives)), 150),
    "faceapi": Peer(faceapi, 150),
    "faceres": Peer(faceres, 224),
    "mobilefacenet": Peer(mobilefacenet, 112),
    **{name: Peer(partial(ours, name), 64, own_size=False) for name in OURS},
}


class Remembered(nn.Module):
    """An encoder whose features are kept in a folder, so that no image goes through it twice, in any run.

    An image is known by its pixels; `folder` belongs to one encoder.
    """

    EVERY = 512
    """New images after which a file is written: what is lost when the run is killed."""

    def __init__(self, build: Callable[[], nn.Module], folder: Path, *, name: str, image_size: int) -> None:
        """`build` is called when the first image comes that is not known."""
        super().__init__()
        self.build, self.folder, self.image_size = build, folder, image_size
        self.config = name  # `encoder_fingerprint` sees no weights here
        self.known: dict[bytes, Tensor] = {}
        self.new: list[bytes] = []
        self.network: nn.Module | None = None
        for file in sorted(folder.glob("*.npz")):
            kept = read_arrays(file)
            self.known |= zip(map(bytes, kept["keys"]), torch.from_numpy(kept["features"]), strict=True)

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B C"]:
        keys = [hashlib.blake2b(pixels.tobytes(), digest_size=16).digest() for pixels in images.contiguous().numpy()]
        missing = {key: place for place, key in enumerate(keys) if key not in self.known}
        if missing:
            if self.network is None:
                self.network = self.build().eval()
            found = self.network(images[list(missing.values())]).detach().float()
            self.known |= zip(missing, found, strict=True)
            self.new += missing
            if len(self.new) >= self.EVERY:
                self.save()
        return torch.stack([self.known[key] for key in keys])

    def save(self) -> None:
        """Write what is not yet in a file."""
        if self.new:
            number = len(list(self.folder.glob("*.npz")))
            keys = np.array([list(key) for key in self.new], np.uint8)
            with atomic(self.folder / f"{number:05d}.npz") as temporary:
                np.savez(temporary, keys=keys, features=torch.stack([self.known[key] for key in self.new]).numpy())
            self.new = []
