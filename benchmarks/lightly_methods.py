"""What a user would pick instead: BYOL and SwAV put together from `lightly`, and the usual PIL pipeline of views."""

import copy
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import torch
import torchvision
import torchvision.transforms as old_transforms
from lightly.loss import NegativeCosineSimilarity, SwaVLoss
from lightly.models.modules import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.utils import deactivate_requires_grad, update_momentum
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn


def _backbone(name: str) -> tuple[nn.Module, int]:
    network: Any = getattr(torchvision.models, name)()
    return nn.Sequential(*list(network.children())[:-1]), network.fc.in_features


class LightlyBYOL(nn.Module):
    """As its documentation shows, with heads as wide as ours."""

    def __init__(self, name: str, *, hidden: int, out: int) -> None:
        super().__init__()
        self.backbone, channels = _backbone(name)
        self.projection_head = BYOLProjectionHead(channels, hidden, out)
        self.prediction_head = BYOLPredictionHead(out, hidden, out)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.06)

    def loss(self, views: list[Tensor]) -> Tensor:
        update_momentum(self.backbone, self.backbone_momentum, m=0.99)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.99)
        predictions, targets = [], []
        for view in views:
            predictions.append(self.prediction_head(self.projection_head(self.backbone(view).flatten(1))))
            with torch.no_grad():
                targets.append(self.projection_head_momentum(self.backbone_momentum(view).flatten(1)).detach())
        first = self.criterion(predictions[0], targets[1])
        return 0.5 * (first + self.criterion(predictions[1], targets[0]))


class LightlySwAV(nn.Module):
    """As its documentation shows, with two views and heads as wide as ours."""

    def __init__(self, name: str, *, hidden: int, out: int, prototypes: int) -> None:
        super().__init__()
        self.backbone, channels = _backbone(name)
        self.projection_head = SwaVProjectionHead(channels, hidden, out)
        self.prototypes = SwaVPrototypes(out, n_prototypes=prototypes)
        self.criterion = SwaVLoss()
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.001)

    def loss(self, views: list[Tensor]) -> Tensor:
        self.prototypes.normalize()
        scores = []
        for view in views:
            embedding = self.projection_head(self.backbone(view).flatten(1))
            scores.append(self.prototypes(nn.functional.normalize(embedding, dim=1, p=2)))
        return self.criterion(scores, [])


def pil_views(size: int) -> Callable[[Sequence[bytes]], list[Tensor]]:
    """From JPEGs' bytes to batches of FRA's two views by Pillow and torchvision, image by image (spec fra.md, 8)."""

    def one(blur: float, solarize: float) -> old_transforms.Compose:
        def maybe_blur(image: Image.Image) -> Image.Image:
            sigma = 0.1 + 1.9 * torch.rand(()).item()
            return image.filter(ImageFilter.GaussianBlur(sigma)) if torch.rand(()).item() < blur else image

        def maybe_solarize(image: Image.Image) -> Image.Image:
            return ImageOps.solarize(image) if torch.rand(()).item() < solarize else image

        return old_transforms.Compose(
            [
                old_transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
                old_transforms.RandomHorizontalFlip(),
                old_transforms.RandomApply([old_transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                old_transforms.RandomGrayscale(p=0.2),
                maybe_blur,
                maybe_solarize,
                old_transforms.ToTensor(),
                old_transforms.Normalize((0.5231, 0.4044, 0.3489), (0.2536, 0.2194, 0.2070)),
            ]
        )

    pipelines = [one(1.0, 0.0), one(0.1, 0.2)]

    def make(jpegs: Sequence[bytes]) -> list[Tensor]:
        images = [Image.open(BytesIO(jpeg)).convert("RGB") for jpeg in jpegs]
        return [torch.stack([pipeline(image) for image in images]) for pipeline in pipelines]

    return make
