"""The loop that fits methods and tasks alike. It knows neither."""

import copy
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fra.files import reading
from fra.system.printable import counted
from fra.system.stopping import KEPT, Hold, Stopped, held
from fra.training.checkpoint import LAST, Position, kept_threads, latest_state, save_checkpoint
from fra.training.journal import Journal, keep_rows_until
from fra.training.peers import as_lost
from fra.training.schedules import Schedule
from fra.training.threads import most_threads, threads_that_pay
from fra.training.trainable import Loss, Part, Progress, detached, together

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Fit:
    """Everything the loop needs besides model, optimiser and batches."""

    fabric: "Fabric"
    folder: Path
    identity: dict[str, Any]
    """What must be equal when a run is resumed."""
    schedule: Schedule
    learning_rate: float
    """Peak rate of every group of weights that has no `peak` of its own."""
    steps_per_epoch: int
    accumulate: int = 1
    """Batches per optimiser step."""
    seed: int = 0
    images_per_step: int = 1
    threads: int | None = None
    """On the CPU; None takes those that pay, or, resumed, as many as before, because bits depend on it."""
    unit: str = "pairs"
    log_every: int = 10
    measure_every: int = 1
    """Epochs from one call of `on_epoch` to the next; the last epoch is followed by one in any case."""
    checkpoint_seconds: float = 300.0
    quiet: bool = False

    @property
    def steps(self) -> int:
        return self.schedule.epochs * self.steps_per_epoch

    def measured(self, step: int) -> bool:
        """Whether `on_epoch` follows this step."""
        return step % (self.measure_every * self.steps_per_epoch) == 0 or step == self.steps

    def logged(self, step: int) -> bool:
        """Whether this step, of those from 1 on, has a row in log.csv."""
        return step % self.log_every == 0 or self.measured(step)

    def progress(self, step: int) -> Progress:
        return Progress(step, self.steps, step // self.steps_per_epoch, self.schedule.epochs)


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches_from: Callable[[int], Iterable[Any]],
    how: Fit,
    *,
    resume: bool = False,
    on_epoch: Callable[[int, int], list[str]] = lambda epoch, step: [],
) -> int:
    """Fit `model` (a Trainable) and return the number of steps done; state is in `folder`/last.ckpt.

    `batches_from(n)` yields the endless batches of this process from batch n on. `on_epoch(epoch, step)` measures
    and returns lines to show (not all are, when epochs are short); it runs on process 0, first for epoch 0 before
    training. With `resume` the run goes on from its checkpoint, bit for bit as if it had not stopped, or from the one
    before when that is damaged. Before, on a CPU, the first batch is tried with one, half and all threads. Raises
    ValueError when the loss is not finite or no checkpoint can be read, Stopped after a signal, and Lost without a
    process that it needs; both when the last whole step is saved, also in the middle of the next.
    """
    fabric, path = how.fabric, how.folder / LAST
    wrapped, stepper = fabric.setup(PartByPart(model), optimizer)
    step, whole, threads = 0, True, how.threads
    if resume:
        state, whole = latest_state(how.folder, identity=how.identity, tell=fabric.is_global_zero)
        if state is not None:
            with reading(path):
                step = state["step"]
                model.load_state_dict(state["model"])
                optimizer.load_state_dict(state["optimizer"])
                fabric.strategy.precision.load_state_dict(state["precision"])
                threads = threads or kept_threads(state)
    if fabric.is_global_zero:
        for name in ("log.csv", "health.csv", "validation.csv"):
            keep_rows_until(how.folder / name, step)

    measuring, saved = False, step
    between = BetweenSteps(model)

    def save() -> None:
        nonlocal whole, saved
        position = Position(step, how.identity)
        precision = fabric.strategy.precision.state_dict()
        save_checkpoint(
            how.folder, model=model, optimizer=optimizer, precision=precision, position=position, keep=whole
        )
        whole, saved = True, step

    def last_words() -> str:
        # An epoch whose measuring did not end is measured when its last steps are done again.
        if fabric.is_global_zero and step != saved and not measuring:
            between.restore()
            save()
        if not path.exists():
            return f"stopped before the first of {counted(how.steps, 'step')}; start again with --resume"
        holds = "is saved" if saved == step else f"is from step {saved}"
        return f"stopped at step {step} of {how.steps}; {path} {holds}, continue with --resume"

    def at_epoch(epoch: int) -> None:
        nonlocal measuring
        measuring = True
        if fabric.is_global_zero:
            journal.paused(lambda: journal.tell_epoch(on_epoch(epoch, step), last=step == how.steps))
            with hold.untorn():
                measuring = False
                journal.paused(save)
        fabric.barrier()
        measuring = False

    journal = Journal(
        how.folder / "log.csv",
        steps=how.steps,
        unit=how.unit,
        per_step=how.images_per_step,
        quiet=how.quiet or not fabric.is_global_zero,
    )
    with journal, held(last_words) as hold, _saved_when_stopped(fabric, hold):
        if step == 0:
            at_epoch(0)
        batches = iter(batches_from(step * how.accumulate)) if step < how.steps else iter(())
        if threads:
            torch.set_num_threads(threads)
        elif step < how.steps and fabric.world_size == 1 and fabric.device.type == "cpu":
            batches = _with_threads_that_pay(model, batches, how, how.progress(step), journal)
        saved_at = time.monotonic()
        while step < how.steps:
            progress = how.progress(step)
            model.train()
            rate = how.schedule.rate(how.learning_rate, step, how.steps_per_epoch)
            for group in optimizer.param_groups:
                peak = group.get("peak", how.learning_rate)
                frozen = step < group.get("frozen_epochs", 0) * how.steps_per_epoch
                group["lr"] = 0.0 if frozen else how.schedule.rate(peak, step, how.steps_per_epoch)
            terms, waited = _forward_and_backward(wrapped, batches, how, progress)
            with hold.untorn():
                stepper.step()
                stepper.zero_grad(set_to_none=True)
                model.after_step(progress)  # type: ignore[operator]
                between.remember()
                step += 1
                measuring = how.measured(step)
            journal.stepped(step, waited=waited)
            if fabric.is_global_zero and how.logged(step):
                journal.write(_row(model, progress, step, rate, terms))
            if measuring:
                at_epoch(step // how.steps_per_epoch)
                saved_at = time.monotonic()
            elif fabric.is_global_zero and time.monotonic() - saved_at > how.checkpoint_seconds:
                with hold.untorn():
                    journal.paused(save)
                saved_at = time.monotonic()
            if status := _of_anyone(fabric, hold.status):
                raise hold.stop(status)
    return step


class BetweenSteps:
    """A model's buffers as the last step left them. A forward pass moves them; without its step it is undone."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept = {name: buffer.clone() for name, buffer in model.named_buffers()}

    @torch.no_grad()
    def remember(self) -> None:
        for name, buffer in self._model.named_buffers():
            self._kept[name].copy_(buffer)

    @torch.no_grad()
    def restore(self) -> None:
        for name, buffer in self._model.named_buffers():
            buffer.copy_(self._kept[name])


@contextmanager
def _saved_when_stopped(fabric: "Fabric", hold: Hold) -> Iterator[None]:
    try:
        yield
    except Stopped as stopped:
        words = hold.say_last_words() or ""
        if str(stopped) != KEPT:  # a process is lost: that is said instead
            raise
        raise Stopped(words if fabric.is_global_zero else "", status=stopped.status) from None
    except RuntimeError as error:
        lost = as_lost(error)
        if lost is None:
            raise
        hold.say_last_words()
        raise lost from error


def _forward_and_backward(
    wrapped: Any, batches: Iterator[Any], how: Fit, progress: Progress
) -> tuple[dict[str, torch.Tensor], float]:
    """Gradients of one optimiser step; the mean terms of its batches, and the seconds waited for data."""
    collected: list[dict[str, torch.Tensor]] = []
    waited = 0.0
    for index in range(how.accumulate):
        before = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - before
        # After the batch has come: a loader that starts draws from torch's random state.
        torch.manual_seed(step_seed(how.seed, progress.step * how.accumulate + index, how.fabric.global_rank))
        last = index == how.accumulate - 1
        loss = forward_and_backward(how.fabric, wrapped, batch, progress, batches=how.accumulate, exchange=last)
        collected.append({"loss": loss.total, **loss.terms})
    terms = {name: torch.stack([each[name] for each in collected]).mean() for name in collected[0]}
    if terms["loss"].device.type == "cpu" or (progress.step + 1) % how.log_every == 0:  # no GPU sync on other steps
        _stop_unless_finite(terms, how, progress)
    return terms, waited


class PartByPart(nn.Module):
    """What Fabric wraps: processes exchange gradients of what goes through `forward`: one part of a loss at a time."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, part: Part) -> Loss:
        return part()


def forward_and_backward(
    fabric: "Fabric", wrapped: Any, batch: Any, progress: Progress, *, batches: int = 1, exchange: bool = True
) -> Loss:
    """Add to the weights their gradients of the loss over `batches`, part by part; the loss itself, detached.

    `wrapped` is a PartByPart that Fabric has set up. With `exchange` the last part's backward pass averages all
    gradients that have come together over the processes.
    """
    done = []
    with fabric.autocast():
        parts = wrapped.module.model.parts(batch, progress)
    for number, part in enumerate(parts, start=1):
        with fabric.no_backward_sync(wrapped, enabled=not exchange or number < len(parts)):
            with fabric.autocast():
                loss = wrapped(part)
            fabric.backward(loss.total / batches)
        done.append(detached(loss))
    return together(done)


def _with_threads_that_pay(
    model: nn.Module, batches: Iterator[Any], how: Fit, progress: Progress, journal: Journal
) -> Iterator[Any]:
    """The same batches, when the first has been tried on a copy of the model with one, half and all threads."""
    first = next(batches)
    trial = how.fabric.setup_module(PartByPart(copy.deepcopy(model).train()))

    def step() -> None:
        forward_and_backward(how.fabric, trial, first, progress)
        trial.zero_grad(set_to_none=True)

    used, most = threads_that_pay(step), most_threads()
    torch.set_num_threads(used)
    if used < most:
        journal.tell(f"computing with {used} of {counted(most, 'thread')}: more would not pay now (see --threads)")
    return itertools.chain([first], batches)


def _stop_unless_finite(terms: dict[str, torch.Tensor], how: Fit, progress: Progress) -> None:
    values = {name: float(term) for name, term in terms.items()}
    # fp16 skips steps with overflow by itself; a loss that is not finite is a fault in any precision.
    if not all(math.isfinite(value) for value in values.values()):
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        raise ValueError(
            f"the loss is not finite at step {progress.step} (epoch {progress.epoch}): {', '.join(broken)}; "
            "the last checkpoint is from before that. Lower the learning rate, lengthen the warm-up, or use "
            "--precision 32"
        )


def _row(
    model: nn.Module, progress: Progress, step: int, rate: float, terms: dict[str, torch.Tensor]
) -> dict[str, Any]:
    momentum = getattr(model, "teacher_momentum", lambda progress: None)(progress)
    row = dict(step=step, epoch=progress.epoch, **{name: float(term) for name, term in terms.items()})
    row["learning_rate"] = rate
    return row if momentum is None else row | dict(teacher_momentum=momentum)


def step_seed(seed: int, batch: int, rank: int) -> int:
    """The seed of everything random that happens to one batch (dropout): a function of these three alone."""
    digest = hashlib.blake2b(f"{seed}/{batch}/{rank}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _of_anyone(fabric: "Fabric", status: int) -> int:
    """The highest status of all processes: all of them get the same answer."""
    if fabric.world_size == 1:
        return status
    return int(torch.as_tensor(fabric.all_reduce(torch.tensor(status, device=fabric.device), reduce_op="max")))
