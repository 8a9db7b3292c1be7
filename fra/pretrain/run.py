"""`fra pretrain`: face crops to an encoder.

recipe -> pool and views -> method -> training loop -> a run folder that explains itself.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fra import __version__
from fra.faces.image import write_image
from fra.faces.pictures import contact_sheet
from fra.files import (
    REMOVE_TABLE,
    append_rows,
    atomic,
    claim_folder,
    one_writer,
    read_rows,
    read_text,
    reading,
    shortened,
    write_json,
    write_text,
)
from fra.models.encoder import Encoder, EncoderConfig, in_timms_layout
from fra.pools.listing import closing_line
from fra.pools.remote import Remote
from fra.pools.unlabelled import FirstImages, Pool, open_pool
from fra.pretrain.byol import BYOL, BYOLConfig
from fra.pretrain.fabrec import FabRec, FabRecConfig
from fra.pretrain.fra import FRA, FRAConfig
from fra.pretrain.health import COMMON_COLUMNS, HealthMonitor, read_labelled, read_pairs
from fra.pretrain.lewel import LEWEL, LEWELConfig
from fra.pretrain.loader import EpochBatches, FaceLoader, default_workers, inputs_of
from fra.pretrain.method import FramedViews, Method
from fra.pretrain.plan import Plan, make_plan, multiply_adds_per_pair
from fra.pretrain.start import Start, StartConfig, adapted, hold_still, keep_start, kept_start, take_heads
from fra.pretrain.swav import SwAV, SwAVConfig
from fra.pretrain.views import ViewMaker, ViewsConfig
from fra.pretrain.views_on_device import device_should_finish
from fra.recipe import LATER, Count, Seed, Settings, load_recipe, plain, recipe_hash, recipe_text
from fra.runtime import Runtime
from fra.system.printable import counted, printable
from fra.system.text import command
from fra.training.batch_norm import require_enough_images, synchronise
from fra.training.checkpoint import checkpoints, written_identity
from fra.training.devices import begin, choose_precision, make_fabric
from fra.training.journal import tell_lost_rows
from fra.training.loop import Fit, fit
from fra.training.optimizers import OptimizerConfig, build_optimizer
from fra.training.peers import launch, with_peers
from fra.training.schedules import ScheduleConfig
from fra.weights.card import write_card
from fra.weights.load import encoder_metadata, save_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

METHODS: dict[str, tuple[type[Any], type[Method]]] = {
    "byol": (BYOLConfig, BYOL),
    "swav": (SwAVConfig, SwAV),
    "lewel": (LEWELConfig, LEWEL),
    "fra": (FRAConfig, FRA),
    "fabrec": (FabRecConfig, FabRec),
}
"""A method's settings and its module, which also says what its columns of health.csv mean."""
CONFIGS = {name: config for name, (config, _) in METHODS.items()}
SNAPSHOT_FACES = 8
MOST_MEASURED = 300
"""How often health is measured in a run: few faces make many epochs, each shorter than the measuring."""


@dataclass(frozen=True)
class PretrainRecipe(Settings):
    """Everything that decides what is learned; where and on what stands in flags."""

    encoder: EncoderConfig
    method: Any
    """One of the configs in METHODS, chosen by its `name`."""
    views: ViewsConfig = field(default_factory=ViewsConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    batch_size: Count = 1024
    """Faces per optimiser step, over all processes and accumulated batches (supplement 5.2: 1024)."""
    accumulate: Count = 1
    """Passes per optimiser step; batch norm then sees batch_size / accumulate faces at a time."""
    seed: Seed = 0
    max_faces: Count | None = None
    """Use only so many faces, the first ones (ours, for trying things out); without it all."""
    health_faces: Count = 256
    """Fixed faces on which health is measured after every epoch."""
    start: StartConfig = field(default_factory=StartConfig, metadata=LATER)
    """What is frozen when training starts from weights (`--from`)."""


@dataclass(frozen=True)
class LabelledSets:
    """What the health monitor alone sees; it never teaches."""

    labelled: Path | None = None
    """Faces in one folder per class."""
    pairs: Path | None = None
    """Face pairs in LFW's layout."""

    def read(self, size: int) -> dict[str, Any]:
        """As HealthMonitor takes them, `size` pixels a side. Raises ValueError for what cannot be read."""
        return dict(
            labelled=read_labelled(self.labelled, size) if self.labelled else None,
            pairs=read_pairs(self.pairs, size) if self.pairs else None,
        )


def load_pretrain_recipe(name: str, overrides: list[str]) -> PretrainRecipe:
    """A recipe by name or path, with "key=value" overrides. ValueError with one line for anything wrong."""
    return load_recipe(name, "pretrain", PretrainRecipe, overrides, variants={"method": CONFIGS})


def build_method(recipe: PretrainRecipe, start: Start | None = None) -> Method:
    """The method with its first weights: a function of the recipe's seed, the backbone's those of `start`.

    ValueError for views it has no use for.
    """
    _, kind = METHODS[recipe.method.name]
    views, small = len(recipe.views.sizes), recipe.views.small
    if views - small < kind.large_views or (views > kind.large_views and not kind.multi_crop):
        large = {1: "one large view", 2: "two large views"}[kind.large_views]
        wanted = f"at least {large}" if kind.multi_crop else f"{large} and no others"
        given = f"blur and solarize have {counted(views, 'number')} and small is {small}"
        raise ValueError(f"views: {recipe.method.name} needs {wanted}, but {given}")
    begun = None if start is None else start.read()  # builds a network of random weights, so before the seed
    torch.manual_seed(recipe.seed)
    encoder = Encoder(recipe.encoder)
    if begun is not None:
        encoder.backbone.load_state_dict(in_timms_layout(begun.backbone.state_dict(), encoder.backbone))
    method = kind(recipe.method, encoder)
    if start is not None and start.with_heads:
        take_heads(method, start)
    return method


def compile_encoders(method: Method) -> None:
    """Let torch.compile make the encoders' maps, in place; the names of weights stay."""
    for encoder in (method.encoder, method.teacher_encoder()):
        if encoder is not None:
            encoder.backbone.forward_features = torch.compile(encoder.backbone.forward_features)


def faces_of(recipe: PretrainRecipe, faces: Path | Remote) -> Pool:
    """The faces that the recipe uses of those in a folder, list or shards. ValueError when there are none."""
    pool = open_pool(faces)
    pool.first_readable(str(faces))
    return pool if recipe.max_faces is None else FirstImages(pool, recipe.max_faces)


def plan(
    recipe: PretrainRecipe, faces: Path | Remote, *, start: Start | None = None, runtime: Runtime = Runtime()
) -> Plan:
    """Print what the run would take on this machine, and return it; nothing is trained or written."""
    recipe = _warm(recipe, start)
    device, pool = begin(runtime), faces_of(recipe, faces)
    order = _batches(recipe, len(pool), world=runtime.processes)
    method = build_method(recipe, start).to(device)
    hold_still(method, recipe.start)
    rates = rates_of(recipe)
    _require_enough_images(recipe, method, world=runtime.processes)
    steps = recipe.schedule.epochs * order.steps_per_epoch
    found = make_plan(
        method, sizes=recipe.views.sizes, batch=order.batch_size, steps=steps, pairs=steps * recipe.batch_size
    )
    print(
        f"{recipe.method.name} with {recipe.encoder.name}, {counted(len(pool), 'face')}: "
        f"{length(recipe, order.steps_per_epoch)}"
    )
    for line in [*found.lines(), *rates]:
        print("  " + line)
    return found


def rates_of(recipe: PretrainRecipe) -> list[str]:
    """The peak learning rates, and what is frozen, in lines for `--plan`."""
    optimizer, start = recipe.optimizer, recipe.start
    peaks = {"backbone": optimizer.backbone_rate, "heads": 1.0, "predictors": optimizer.predictor_rate}
    if optimizer.discriminator_rate != 1:
        peaks["discriminator"] = optimizer.discriminator_rate
    rates = ", ".join(f"{part} {optimizer.learning_rate * factor:g}" for part, factor in peaks.items())
    frozen = [
        counted(start.frozen_stages, "stage") if start.frozen_stages else "",
        f"the backbone for {start.frozen_epochs:g} epochs" if start.frozen_epochs else "",
        "the backbone's batch-norm statistics" if start.frozen_statistics else "",
    ]
    if optimizer.layer_decay != 1:
        rates += f"; each of the backbone's layers {optimizer.layer_decay:g} of the one above"
    lines = [f"learning rate  {rates} ({optimizer.name}, at the peak)"]
    return lines + ([f"frozen         {', '.join(filter(None, frozen))}"] if any(frozen) else [])


def _warm(recipe: PretrainRecipe, start: Start | None) -> PretrainRecipe:
    """The recipe for weights to start from, if any: with their colour normalisation."""
    return recipe if start is None else replace(recipe, encoder=adapted(recipe.encoder, start))


def length(recipe: PretrainRecipe, steps_per_epoch: int) -> str:
    """How long a run is, in words."""
    epochs, steps = counted(recipe.schedule.epochs, "epoch"), counted(steps_per_epoch, "step")
    return f"{epochs}, {steps} each, batch {recipe.batch_size}"


@with_peers()
@one_writer
def pretrain(
    recipe: PretrainRecipe,
    faces: Path | Remote,
    out: Path,
    *,
    start: Start | None = None,
    monitored: LabelledSets = LabelledSets(),
    checkpoint_minutes: float = 5.0,
    compiled: bool = False,
    runtime: Runtime = Runtime(),
) -> Path:
    """Train as the recipe says and leave a run folder in `out`, which is returned.

    The backbone's first weights are those of `start` (`start_from`), or random. A resumed run goes on bit for bit, from
    the start that it had. `compiled` lets torch.compile fuse the encoders' layers: the same mathematics rounded in
    another order, and a minute or more to start; for GPUs. Raises ValueError for bad input with the way out.
    """
    start = start or (kept_start(out) if runtime.resume else None)
    recipe = _warm(recipe, start)
    pool = faces_of(recipe, faces)
    device, precision, resume, quiet = begin(runtime), runtime.precision, runtime.resume, runtime.quiet
    written = (written_identity(out) if resume else None) or {}
    if precision == "auto":
        precision = written.get("precision", precision)
    precision = choose_precision(device, precision, processes=runtime.processes)
    fabric = make_fabric(replace(runtime, precision=precision))
    method = build_method(recipe, None if resume and checkpoints(out) else start)
    # Before the processes meet: a loss that process 0 computed alone would wait for the others for ever.
    work = multiply_adds_per_pair(method, sizes=recipe.views.sizes)
    launch(fabric)
    steps_per_epoch = _batches(recipe, len(pool), world=fabric.world_size).steps_per_epoch
    _require_enough_images(recipe, method, world=fabric.world_size)
    side_sets = monitored.read(recipe.encoder.image_size)
    _claim(fabric, out, resume)
    if fabric.is_global_zero and not (out / "recipe.yaml").exists():
        if start is not None:
            keep_start(start, out)
        write_text(out / "recipe.yaml", recipe_text(recipe))

    if fabric.world_size > 1:
        method = synchronise(method, device=fabric.device.type)
    if compiled:
        compile_encoders(method)
    hold_still(method, recipe.start)
    optimizer = build_optimizer(recipe.optimizer, method, frozen_epochs=recipe.start.frozen_epochs)
    workers = runtime.workers
    if workers is None:
        workers = default_workers(on_gpu=fabric.device.type == "cuda", processes=runtime.devices)
    on_device = _device_finishes(recipe, pool, replace(runtime, workers=workers), fabric, written, work)
    loaders: list[FaceLoader] = []
    how = Fit(
        fabric=fabric,
        folder=out,
        identity=_identity(recipe, pool, precision)
        | ({"compiled": True} if compiled else {})
        | ({"views_on": "device"} if on_device else {})
        | ({} if start is None else {"start": start.fingerprint, "start heads": start.with_heads}),
        schedule=recipe.schedule,
        learning_rate=recipe.optimizer.learning_rate,
        steps_per_epoch=steps_per_epoch,
        accumulate=recipe.accumulate,
        seed=recipe.seed,
        images_per_step=recipe.batch_size,
        log_every=max(1, min(10, steps_per_epoch // 4)),
        measure_every=math.ceil(recipe.schedule.epochs / MOST_MEASURED),
        checkpoint_seconds=60 * checkpoint_minutes,
        threads=runtime.threads or (torch.get_num_threads() if compiled else None),  # a compiled network has no copy
        quiet=quiet,
    )

    def views_from(first: int) -> Iterator[list[Tensor] | FramedViews]:
        order = _batches(recipe, len(pool), world=fabric.world_size, rank=fabric.global_rank, first_batch=first)
        maker = ViewMaker(recipe.views, seed=recipe.seed)
        loader = FaceLoader(pool, maker, order, workers=workers, with_frames=method.wants_frames, crops_only=on_device)
        loaders.append(loader)
        for loaded in loader:
            views = loaded.views_on(fabric.device)
            frames = [frame.to(fabric.device, non_blocking=True) for frame in loaded.frames]
            yield FramedViews(views, frames) if frames else views

    if not fabric.is_global_zero:
        fit(method, optimizer, views_from, how, resume=resume)
        fabric.barrier()
        return out
    if not quiet:
        print(
            f"{recipe.method.name} with {recipe.encoder.name} at {recipe.views.size} px, {counted(len(pool), 'face')}:"
            f" {length(recipe, steps_per_epoch)}, on {fabric.world_size} x {fabric.device.type} in {precision}"
        )
        if beside := pool.account.parts():
            print("; ".join(beside))
    if (told := pool.begin_to_keep()) and not quiet:
        print(told)
    metadata = run_metadata(recipe, pool, start)
    watch = Watch(recipe, pool, out, fabric, loaders, side_sets, metadata)
    steps = fit(
        method,
        optimizer,
        views_from,
        how,
        resume=resume,
        on_epoch=lambda epoch, step: watch.epoch(method, epoch, step),
    )
    _finish(recipe, pool, method, out, metadata, steps=steps, work=work)
    every = range(steps + 1)
    tell_lost_rows(out / "log.csv", [step for step in every[1:] if how.logged(step)])
    tell_lost_rows(out / "health.csv", [step for step in every if how.measured(step)])
    if not quiet:
        print(faces_line(pool, out))
        print(f"wrote {printable(out / 'encoder.safetensors')}; next: {next_steps(method, faces, out)}")
    fabric.barrier()
    return out


TRIED = 32
"""Faces whose views are made to measure how long that takes."""


def _device_finishes(
    recipe: PretrainRecipe, pool: Pool, runtime: Runtime, fabric: "Fabric", written: dict[str, Any], work: float
) -> bool:
    """Whether the device finishes the views, the same for all processes; auto keeps to what a resumed run was `written`
    with, and else measures where there is a GPU."""
    asked = written.get("views_on", "cpu") if written and runtime.views_on == "auto" else runtime.views_on
    if asked != "auto" or fabric.device.type != "cuda":
        return asked == "device"
    images = [pool.read(index)[0] for index in range(min(TRIED, len(pool)))] if fabric.is_global_zero else []
    maker, workers = ViewMaker(recipe.views, seed=recipe.seed), runtime.workers or 0
    return bool(
        fabric.broadcast(
            fabric.is_global_zero
            and device_should_finish(maker, images, device=fabric.device, cores=workers, work=work)
        )
    )


def next_steps(method: Method, faces: Path | Remote, out: Path) -> str:
    """What can be looked at after a run, as commands."""
    report = command("fra", "report", out)
    if method.region_model() is None:
        return report
    drawn = out.with_name(out.name + ".regions")
    return f"{command('fra', 'regions', out, '--faces', faces, '--out', drawn)} or {report}"


def _claim(fabric: "Fabric", out: Path, resume: bool) -> None:
    """Process 0 takes the folder; when it cannot, all processes stop."""
    problem = None
    if fabric.is_global_zero:
        try:
            claim_folder(out, command="pretrain", resume=resume)
        except (ValueError, OSError) as error:
            problem = error
    problem = fabric.broadcast(problem)
    if problem is not None:
        raise problem


def _batches(recipe: PretrainRecipe, count: int, *, world: int, rank: int = 0, first_batch: int = 0) -> EpochBatches:
    """The order in which this process sees the faces. ValueError when the batch cannot be divided among all."""
    require_shares(recipe, world)
    return EpochBatches(
        count,
        batch_size=recipe.batch_size // (world * recipe.accumulate),
        seed=recipe.seed,
        first_batch=first_batch,
        rank=rank,
        world=world,
        accumulate=recipe.accumulate,
    )


def require_shares(recipe: PretrainRecipe, world: int) -> None:
    """ValueError when a step's faces cannot be divided evenly among so many processes."""
    if recipe.batch_size % (world * recipe.accumulate):
        raise ValueError(
            f"batch_size {recipe.batch_size} cannot be divided among {counted(world, 'process', 'processes')} x"
            f" {counted(recipe.accumulate, 'pass', 'passes')}: use a multiple"
        )


def _require_enough_images(recipe: PretrainRecipe, method: Method, *, world: int) -> None:
    """ValueError when batch norm would see single images; several processes put theirs together."""
    require_enough_images(
        method,
        batch_size=recipe.batch_size,
        processes=world,
        passes=recipe.accumulate,
        synchronised=world > 1,
    )


def _identity(recipe: PretrainRecipe, pool: Pool, precision: str) -> dict[str, Any]:
    """What must not change on resume, under dotted names that an error message can show."""

    def flat(value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {name: value}
        return {key: v for inner in value for key, v in flat(value[inner], f"{name}.{inner}".lstrip(".")).items()}

    return flat(plain(recipe), "") | {"faces": len(pool), "precision": precision}


def watched_faces(recipe: PretrainRecipe, pool: Pool) -> Int[Tensor, "N"]:
    """Positions of the faces on which health is measured: evenly spread, first and last included."""
    return torch.from_numpy(np.linspace(0, len(pool) - 1, min(recipe.health_faces, len(pool))).astype(np.int64))


def shown(watched: Tensor) -> Tensor:
    """Those of the watched faces, or of what belongs to them, that snapshots and pictures show."""
    return watched[:: max(1, len(watched) // SNAPSHOT_FACES)][:SNAPSHOT_FACES]


class Watch:
    """What happens between epochs on process 0: health, snapshots of the regions, the encoder so far."""

    def __init__(
        self,
        recipe: PretrainRecipe,
        pool: Pool,
        out: Path,
        fabric: "Fabric",
        loaders: list[FaceLoader],
        side_sets: dict[str, Any],
        metadata: dict[str, Any],
    ) -> None:
        self.out = out
        self.loaders = loaders
        self.metadata = metadata
        chosen = watched_faces(recipe, pool)
        some = shown(chosen)
        unseen = not (out / "snapshots" / "faces.npz").exists()
        kept: list[Tensor] = []

        def images() -> Iterator[Tensor]:
            for index in chosen.tolist():
                image, _ = pool.read(index)
                if unseen and index in some:
                    kept.append(image)
                yield image

        self.faces = inputs_of(images(), size=recipe.encoder.image_size).to(fabric.device)
        self.monitor = HealthMonitor(self.faces, **side_sets)
        if unseen:
            self._show_views(recipe, kept, some)

    def _show_views(self, recipe: PretrainRecipe, images: list[Tensor], some: Int[Tensor, "N"]) -> None:
        views = ViewMaker(recipe.views, seed=recipe.seed).make(images, some, epoch=0)
        sheet = [face for view in views for face in view]
        write_image(self.out / "pictures" / "views.jpg", contact_sheet(sheet, len(some)))
        with atomic(self.out / "snapshots" / "faces.npz") as temporary:
            np.savez_compressed(temporary, images=(shown(self.faces) * 255).byte().cpu().numpy())

    def epoch(self, method: Method, epoch: int, step: int) -> list[str]:
        """Measure, append to health.csv, keep snapshots and weights; lines to show."""
        table = self.out / "health.csv"
        with reading(table, REMOVE_TABLE):
            ranks = [float(row["effective_rank"]) for row in read_rows(table)] if table.exists() else []
        measured, regions = self.monitor.measure(method, epoch, earlier_ranks=ranks)
        row = dict(epoch=epoch, step=step) | measured
        append_rows(table, [shortened(row)])
        if regions is not None:
            with atomic(self.out / "snapshots" / f"epoch_{epoch:04d}.npz") as temporary:
                np.savez_compressed(temporary, heatmaps=shown(regions.heatmaps).half().cpu().numpy())
        self._keep_pictures(method, epoch)
        self._list_unreadable()
        export(method, self.out, self.metadata | {"epoch": epoch})
        columns = (*COMMON_COLUMNS, *method.health_columns)
        numbers = "  ".join(f"{column.name} {row[column.name]:.3g}" for column in columns if column.name in row)
        return [f"epoch {epoch}: {numbers}"] + ([f"[yellow]warning: {row['warning']}"] if row["warning"] else [])

    @torch.no_grad()
    def _keep_pictures(self, method: Method, epoch: int) -> None:
        """What the method has to show of an epoch, in rows under the faces of the snapshots."""
        was_training, faces = method.training, shown(self.faces)
        for name, images in method.eval().own_pictures(faces).items():
            write_image(self.out / "pictures" / f"{name}_{epoch:04d}.jpg", contact_sheet(images, len(faces)))
        method.train(was_training)

    def _list_unreadable(self) -> None:
        """Add the images met so far that could not be read; a resumed run keeps what was listed before."""
        met = {printable(path) for loader in self.loaders for path in loader.unreadable.values()}
        known = set(unreadable_faces(self.out))
        if met - known:
            write_text(self.out / "unreadable.txt", "".join(f"{path}\n" for path in sorted(met | known)))


def run_metadata(recipe: PretrainRecipe, pool: Pool, start: Start | None = None) -> dict[str, Any]:
    """What the weights say about themselves."""
    begun = {} if start is None else {"start": start.record()}
    return begun | dict(
        method=recipe.method.name,
        recipe=plain(recipe),
        recipe_hash=recipe_hash(recipe),
        faces=len(pool),
        crop=pool.crop_settings,
        library=f"fra {__version__}",
    )


def export(method: Method, out: Path, metadata: dict[str, Any]) -> None:
    """Write encoder.safetensors (plain backbone keys) and model.safetensors (the whole online network)."""
    metadata = encoder_metadata(method.encoder) | metadata
    save_weights(out / "encoder.safetensors", method.encoder.backbone, metadata)
    model = method.region_model()
    regions = {} if model is None else {"regions": asdict(model.head.config)}
    save_weights(out / "model.safetensors", method.online, metadata | regions)


def unreadable_faces(out: Path) -> list[str]:
    """The images that a run could not read so far."""
    table = out / "unreadable.txt"
    return (
        read_text(table, "remove it: its list of unreadable images is then lost").splitlines() if table.exists() else []
    )


def faces_line(pool: Pool, out: Path) -> str:
    """The closing line: what became of all that was given."""
    unreadable = len(unreadable_faces(out))
    beyond = len(pool.pool) - len(pool) if isinstance(pool, FirstImages) else 0
    skipped = {"unreadable, see unreadable.txt": unreadable, "beyond max_faces": beyond}
    return closing_line(pool.account, used=len(pool) - unreadable, skipped=skipped, noun="face")


def _finish(
    recipe: PretrainRecipe, pool: Pool, method: Method, out: Path, metadata: dict[str, Any], *, steps: int, work: float
) -> None:
    """Write the weights, summary.json and the card; the time is that of all sittings, from log.csv.

    `work` is in multiply-adds. The last epoch has written the weights already; here they are mended when a finished run
    goes on, whatever became of their files since.
    """
    export(method, out, metadata | {"epoch": recipe.schedule.epochs})
    table = out / "log.csv"
    with reading(table, REMOVE_TABLE):
        log = read_rows(table) if table.exists() else []
        done = [0, *(int(row["step"]) for row in log)]
        rates = [float(row["pairs_per_second"]) for row in log]
    pairs = [(now - before) * recipe.batch_size for before, now in pairwise(done)]
    seconds = sum(count / max(rate, 1e-9) for count, rate in zip(pairs, rates, strict=True))
    summary = dict(
        method=recipe.method.name,
        encoder=recipe.encoder.name,
        image_size=recipe.encoder.image_size,
        parameters=sum(weight.numel() for weight in method.parameters() if weight.requires_grad),
        multiply_adds_per_pair=work,
        faces=len(pool),
        epochs=recipe.schedule.epochs,
        steps=steps,
        seconds=round(seconds, 1),
        pairs_per_second=round(sum(pairs) / max(seconds, 1e-9), 2),
        unreadable=unreadable_faces(out),
        not_faces=pool.account.record(),
    )
    write_json(out / "summary.json", summary, indent=2)
    write_card(out, summary, metadata)
