"""The region score: what heatmaps are worth, as numbers (docs/explain/region_score.md).

N faces, K regions, h x w positions of a heatmap, T the side of a true map of regions. Landmarks are read off the
heatmaps themselves; what is about decisions (who owns a position, how surely) off `heatmaps.assignment`, the heatmaps
at the temperature at which pre-training decides. Both at their own size.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fra.files import claim_folder, one_writer, write_json
from fra.models.region_head import assignment, owners, region_shares
from fra.models.ridge import FOLDS, cross_validated, deviations, ridge
from fra.models.similarity import mean_entropy, mean_pairwise_cosine
from fra.regions.heatmaps import assignments, middles, outputs, positions
from fra.regions.matching import agreement, best_partners, part_ious
from fra.regions.parts import score_parts
from fra.regions.truth import PARTS, ScoredFaces, read_scored_faces
from fra.runtime import Runtime
from fra.system.printable import printable
from fra.tasks.metrics import inter_ocular_error
from fra.training.devices import begin
from fra.weights.load import load_region_model


@one_writer
def write_score(model: str, folder: Path, out: Path, *, runtime: Runtime = Runtime()) -> dict[str, Any]:
    """Write `score.json` of a region model, measured on the faces of `folder` (see `read_scored_faces`).

    Raises ValueError for a model without regions, or a folder without landmarks.
    """
    region_model = load_region_model(model, quiet=runtime.quiet).to(begin(runtime))
    faces = read_scored_faces(folder, size=region_model.encoder.image_size, quiet=runtime.quiet)
    out = Path(out)
    claim_folder(out, command="regions", resume=runtime.resume)
    found = score_regions(region_model, faces)
    write_json(out / "score.json", found, indent=2)
    if not runtime.quiet:
        print(f"{describe(found)}\nscore.json in {printable(out)}")
    return found


def score_regions(model: nn.Module, faces: ScoredFaces) -> dict[str, Any]:
    """The numbers of `score.json` on the test faces; whatever is fitted or matched is fitted on the training faces.

    `model` gives a RegionOutput for images in [0, 1] of the faces' size, on its own device.
    landmark_nme: 68 landmarks from the K centroids by `read_landmarks`; landmark_nme_moments: from `half_moments`;
    mean_face_nme: the mean train face instead. All inter-ocular, percent.
    usage: share of the positions that each region wins. entropy: mean of a position's assignment, nats.
    mask_cosine: mean cosine of two mask embeddings, as in health.csv.
    flip_consistency: `agreement` of the regions of a face with those of its mirror image, mirrored back.
    part_iou and further ones: `score_parts`, where the faces have cuts.
    iou, iou_of: on drawn faces only, `part_ious` and their mean, percent.
    """
    heatmaps, maps, mirrored, embeddings = _look(model, faces)
    train, test = faces.train, faces.test
    truth = faces.points[test]
    places, moments = centroids(heatmaps), half_moments(heatmaps, train)
    by_places, by_moments = (read_landmarks(found, faces.points, train)[test] for found in (places, moments))
    mean_face = faces.points[train].mean(0).expand(len(test), -1, -1)
    strongest, others = owners(maps), owners(mirrored)
    partner = best_partners(strongest[train], others[train], count=maps.shape[1])
    found = {
        "landmark_nme": float(inter_ocular_error(by_places, truth).mean()),
        "landmark_nme_moments": float(inter_ocular_error(by_moments, truth).mean()),
        "mean_face_nme": float(inter_ocular_error(mean_face, truth).mean()),
        "usage": region_shares(maps[test]).tolist(),
        "entropy": mean_entropy(maps[test], dim=1),
        "mask_cosine": float(mean_pairwise_cosine(embeddings)),
        "flip_consistency": agreement(strongest[test], partner[others[test]], count=maps.shape[1]),
    }
    if faces.parts is not None:
        ious = part_ious(maps, faces.parts, list(PARTS), train=train, test=test)
        found |= {"iou": sum(ious.values()) / len(ious), "iou_of": ious}
    if faces.cuts is not None:
        found |= score_parts(model, faces, faces.cuts, maps)
    return found


def describe(found: dict[str, Any]) -> str:
    """The few lines a person reads after the command."""
    undecided = float(torch.tensor(float(len(found["usage"]))).log())
    lines = [
        f"68 landmarks from centroids   NME {found['landmark_nme']:.2f} %, from moments of halves "
        f"{found['landmark_nme_moments']:.2f} % (mean face {found['mean_face_nme']:.2f} %)",
        "share of pixels per region    " + "  ".join(f"{share:.0%}" for share in found["usage"]),
        f"assignment entropy per pixel  {found['entropy']:.3f} (undecided: {undecided:.3f})",
        f"cosine of mask embeddings     {found['mask_cosine']:.3f} (1 = all identical)",
        f"flip consistency              {found['flip_consistency']:.3f} (1 = mirrored faces get mirrored "
        "regions, 0 = chance)",
    ]
    if "part_iou" in found:
        lines += _describe_parts(found)
    if "iou" in found:
        parts = "  ".join(f"{name} {iou:.0f}" for name, iou in found["iou_of"].items())
        lines.append(f"IoU with the true regions     {found['iou']:.1f} %   ({parts})")
    return "\n".join(lines)


def _describe_parts(found: dict[str, Any]) -> list[str]:
    def row(numbers: dict[str, float], digits: int = 0) -> str:
        return "  ".join(f"{name} {value:.{digits}f}" for name, value in numbers.items())

    return [
        f"IoU with parts of the face    {found['part_iou']:.1f} %   ({row(found['part_iou_of'])})",
        f"pointing at a part, %         {row(found['pointing'])}",
        f"  best place of the picture   {row(found['pointing_constant'])}",
        f"NMI, ARI at five landmarks    {found['nmi']:.1f}, {found['ari']:.1f} %   (68 in five groups:"
        f" {found['nmi_68']:.1f}, {found['ari_68']:.1f} %)",
        f"stability (1 = unmoved)       {row(found['stability'], 2)}",
    ]


@torch.inference_mode()
def _look(
    model: nn.Module, faces: ScoredFaces
) -> tuple[Float[Tensor, "N K h w"], Float[Tensor, "N K h w"], Float[Tensor, "N K h w"], Float[Tensor, "K D"]]:
    """The faces' heatmaps and assignments, the mirror images' assignments mirrored back, and the mask embeddings."""
    soft, plain = [], []
    for output in outputs(model, faces.images):
        soft.append(output.heatmaps.float().cpu())
        plain.append(assignment(output.scores).cpu())
    mirrored = assignments(model, faces.images.flip(-1)).flip(-1)
    return torch.cat(soft), torch.cat(plain), mirrored, output.embeddings.float().cpu()


def centroids(maps: Float[Tensor, "N K h w"]) -> Float[Tensor, "N K 2"]:
    """The mean place (x, y) of each map, its positions weighted by it, in [-1, 1] from edge to edge of the image.

    Of the map at its own size: a position stands for the middle of its share of the image, and upsampling would only
    move weight around the same means. Soft heatmaps pull all centroids to the middle, which a regression undoes; read
    off sharper maps landmarks came out the same or worse (docs/dev/log.md).
    """
    height, width = maps.shape[2:]
    rows, columns = (middles(length, maps.dtype) for length in (height, width))
    total = maps.sum((2, 3)).clamp(min=1e-30)
    return torch.stack([maps.sum(2) @ columns, maps.sum(3) @ rows], -1) / total[..., None]


def half_moments(maps: Float[Tensor, "N K h w"], train: Int[Tensor, "n"]) -> Float[Tensor, "N K M"]:
    """Of each half of each map about the face's own axis: centroid (x, y) and second moments (xx, xy, yy); M = 10.

    The centroid of a region of both eyes lies between them and says little; those of its halves lie on the eyes.
    """
    height, width = maps.shape[2:]
    places = positions(height, width)
    middle, axis = face_axes(centroids(maps), train)
    right = (places - middle[:, None]) @ torch.stack([axis[:, 1], -axis[:, 0]], -1)[..., None]
    side = (right[..., 0] * max(height, width) / 2 + 0.5).clamp(0, 1)  # positions on the axis belong to both halves
    found = []
    for share in (side, 1 - side):
        weights = maps.flatten(2) * share[:, None]
        total = weights.sum(2, keepdim=True).clamp(min=1e-30)
        centroid = weights @ places / total
        away = places - centroid[:, :, None]
        second = torch.stack([away[..., 0] ** 2, away[..., 0] * away[..., 1], away[..., 1] ** 2], -1)
        found += [centroid, (weights[..., None] * second).sum(2) / total]
    return torch.cat(found, -1)


def face_axes(
    places: Float[Tensor, "N K 2"], train: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N 2"]]:
    """A point of each face's axis of symmetry and its downward direction, from the centroids of its regions.

    Those of symmetric regions lie on it. Their scatter is averaged with its mean over the `train` faces, so that a few
    centroids that hardly differ turn no axis far, and of its two directions the one nearer to upright is taken.
    """
    middle = places.mean(1)
    away = places - middle[:, None]
    scatter = away.transpose(1, 2) @ away / places.shape[1]
    _, vectors = torch.linalg.eigh(scatter + scatter[train].mean(0))
    steepest = vectors[:, 1].abs().argmax(1)
    axis = vectors[torch.arange(len(vectors)), :, steepest]
    return middle, axis * torch.where(axis[:, 1:] < 0, -1.0, 1.0)


def read_landmarks(
    features: Float[Tensor, "N K M"], points: Float[Tensor, "N 68 2"], train: Int[Tensor, "n"]
) -> Float[Tensor, "N 68 2"]:
    """Landmarks of all faces, by ridge regression from the M numbers of each region, fitted on the `train` faces.

    The protocol of unsupervised landmark discovery (Thewlis et al., ICCV 2017): linear, from coordinates alone. They
    are standardised; the bias is not penalised; the penalty is the one of `ridge.PENALTIES` with the least squared
    error in five-fold cross-validation inside `train` (ours). Every fifth face is in the same fold.
    """
    features, targets = features.flatten(1).double(), points.flatten(1).double()
    features = (features - features[train].mean(0)) / deviations(features[train])
    errors = cross_validated(features[train], targets[train], torch.arange(len(train)) % FOLDS)
    weight, bias = ridge(features[train], targets[train])[int(errors.argmin())]
    return (features @ weight + bias).view_as(points).to(points.dtype)
