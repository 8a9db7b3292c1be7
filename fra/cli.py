"""The command line: `fra COMMAND`. Heavy imports happen inside the commands, so that --help answers at once."""

import argparse
import errno
import io
import os
import re
import select
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fra import __version__
from fra.faces import MARGIN
from fra.files import numbered
from fra.recipe import Range
from fra.reproduce import NAMES
from fra.runtime import Runtime, add_flags, number
from fra.shipped import KINDS, shipped_recipes
from fra.system.printable import counted, did_you_mean, printable, without_secrets
from fra.system.processes import Lost, end_children
from fra.system.stopping import KEPT, Stopped, heard, interrupted, leave, settle
from fra.weights.bundled import ENCODER, REGIONS, TASK, shipped_names

if TYPE_CHECKING:
    from fra.data.own import CutPhotos
    from fra.pools.remote import Remote

Arguments = argparse.Namespace
NO_ROOM = ("out of memory", "can't allocate memory", "No space left")
"""What torch says when memory is full: of a GPU, of the machine, shared between processes."""
READER_GONE = 128 + 13
"""The exit status of programs that SIGPIPE ends, which Python turns into an error."""
CLUSTER_HELP = "work on a Ray cluster (HOST:6379, ray://HOST:10001, auto or local)"
DATASET_HELP = "the dataset of a transfer recipe, such as rafdb; labels of your own are folder, table or points"
TASK_HELP = "a run folder of `fra transfer`, or a bundled task (`fra recipes`); repeatable"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0 when it did its work, 2 for bad input, 1 when a process that it needs is lost.

    A signal gives 128 and its number: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, 138 for SIGUSR1 (on Linux).
    """
    debug = False
    _prepare_output()
    with heard(for_good=arguments is None):
        try:
            parser = _parser()
            if "_ARGCOMPLETE" in os.environ:  # the shell asks what may follow; this answers and exits
                import argcomplete

                argcomplete.autocomplete(parser)
            options, unknown = parser.parse_known_args(arguments)
            if unknown:
                _refuse_unknown(options.parser, unknown)
            debug = options.debug
            _require_working_directory()
            status = int(options.run(options) or 0)
            sys.stdout.flush()
            if arguments is None and interrupted():  # which is how a page ends
                leave(status)
            return settle(status)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                return settle(READER_GONE)
            status = _status(error)
            settle(status or 1)
            if not status or (debug and isinstance(error, Exception)):
                raise
            if text := _one_line(error):
                with suppress(OSError):  # the terminal may be what has gone
                    print(f"fra: {printable(text)}", file=sys.stderr)
            if arguments is None and isinstance(error, Stopped | Lost):
                leave(status)
            end_children()
            return status


def _nobody_reads() -> bool:
    """Whether what reads our output, such as `head`, has ended; from then on it is written nowhere."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # a test or a notebook holds it in memory
        return False
    poll = select.poll()
    poll.register(output, 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return gone


def _prepare_output() -> None:
    """Nothing that is printed fails for its characters, and libraries say nothing of odd metadata in photos."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore", module="PIL")


def _status(error: BaseException) -> int:
    """The exit status for an error that users get to see as one line; 0 for a fault of ours."""
    if isinstance(error, KeyboardInterrupt):
        return error.status if isinstance(error, Stopped) else 130
    if isinstance(error, Lost):
        return 1
    if isinstance(error, ValueError | OSError | MemoryError):
        return 2
    return 2 if isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_ROOM) else 0


def _require_working_directory() -> None:
    """ValueError when somebody has removed it: every relative path would be a riddle."""
    try:
        os.getcwd()
    except OSError as error:
        raise ValueError("the working directory no longer exists: change to another") from error


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        hint = " (free some space, then continue with --resume)" if error.errno == errno.ENOSPC else ""
        return f"{error.strerror}{where}{hint}"
    text = without_secrets(re.sub(r"\s*\n\s*", " ", str(error)).strip())  # other blanks may be parts of names
    if isinstance(error, KeyboardInterrupt):
        return text if isinstance(error, Stopped) else text or KEPT
    if isinstance(error, MemoryError):
        return "memory is full: use fewer --workers or a smaller batch_size, then continue with --resume"
    if isinstance(error, RuntimeError) and not isinstance(error, Lost):
        return f"{text}: lower batch_size or raise accumulate with --set"
    return text


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of all flags before it."""

    def error(self, message: str) -> NoReturn:
        """Raises ValueError, which `main` prints."""
        flag = message.removeprefix("argument ").replace(": is ", " is ", 1)
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", flag):
            near = did_you_mean(choice[1], re.findall("'([^']*)'", choice[2]))
            flag = flag.replace(" (choose from", f"{near} (choose from", 1)
        raise ValueError(f"{flag} (see `{self.prog} --help`)")


class _Completion(argparse.Action):
    """Prints the script and exits, as --version does."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Arguments, values: Any, option: Any = None) -> None:
        import argcomplete

        print(argcomplete.shellcode(["fra"], shell=values))
        parser.exit()


def _refuse_unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> NoReturn:
    """ValueError for arguments that the chosen command does not take, with flags of nearly that name."""
    flags = [flag for action in parser._actions for flag in action.option_strings]
    first = words[0].partition("=")[0]
    near = did_you_mean(first, flags) if first.startswith("-") else ""
    parser.error(f"unrecognized arguments: {' '.join(words)}{near}")


def _completed(argument: argparse.Action, names: Callable[[], Iterable[str]]) -> None:
    """Let the shell offer these names as well as files."""

    def complete(prefix: str, **_: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        return [*(name for name in names() if name.startswith(prefix)), *FilesCompleter()(prefix)]

    argument.completer = complete  # type: ignore[attr-defined]


def _recipe_names(kind: str) -> Callable[[], Iterable[str]]:
    return lambda: shipped_recipes(kind)


def _weights(file: str) -> Callable[[], Iterable[str]]:
    """The names of bundled weights that have this file."""
    return lambda: shipped_names(file)


def _datasets() -> set[str]:
    """The names in DATASETS, which to import takes seconds, from those of the recipes."""
    return {name.partition("/")[2].partition(".")[0].partition("_")[0] for name in shipped_recipes("transfer")}


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="fra",
        description="Train a self-supervised face encoder on photographs, and evaluate and use it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fra {__version__}")
    parser.add_argument(
        "--completion", action=_Completion, choices=("bash", "zsh", "fish"), help="print this shell's completion script"
    )
    parser.set_defaults(run=lambda options: parser.print_help(), debug=False, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    for add in (
        _add_crop,
        _add_pretrain,
        _add_transfer,
        _add_compare,
        _add_regions,
        _add_predict,
        _add_embed,
        _add_data,
        _add_reproduce,
        _add_cluster,
        _add_report,
        _add_export,
        _add_recipes,
        _add_doctor,
        _add_demo,
        _add_app,
    ):
        add(commands)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help: str,
    run: Callable[[Arguments], int | None],
    *,
    common: str = "",
    without_out: bool = False,
) -> argparse.ArgumentParser:
    """A subcommand with those of the common flags that it takes: out, detector, some of Runtime's, seed, set.

    `without_out`: it writes nothing unless `--out` is given.
    """
    # Abbreviated, --seed would be --seeds where there is only that one.
    told = help[0].upper() + help[1:] + ("" if help.endswith("?") else ".")
    parser = commands.add_parser(name, help=help, description=told, allow_abbrev=False)
    parser.set_defaults(run=run, parser=parser)
    flags = common.split()
    if "out" in flags:
        usual = "nothing is written without it" if without_out else "default: runs/NAME, numbered when taken"
        parser.add_argument("--out", type=_here, metavar="DIR", help=f"output folder ({usual}); nothing is overwritten")
        add_flags(parser, "resume")
    if "detector" in flags:
        parser.add_argument(
            "--detector",
            default="retinaface",
            help="retinaface, yunet, or none if photos are already crops (default: retinaface)",
        )
        parser.add_argument(
            "--detail",
            choices=("auto", "whole", "tiles"),
            default="auto",
            help="look for small faces in parts of large photos: tiles always, auto unless the whole photo shows only "
            "large faces (default: auto)",
        )
    add_flags(parser, *(flag for flag in ("device", "precision", "workers", "threads") if flag in flags))
    if "seed" in flags:
        parser.add_argument("--seed", type=number(int, Range(0, 2**63 - 1)), default=None, metavar="N")
    if "set" in flags:
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe's setting (repeatable)"
        )
        parser.add_argument("--print_config", action="store_true", help="print the resolved recipe and stop")
    add_flags(parser, "quiet")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _typed(parser: argparse.ArgumentParser, flag: str, read: Callable[[str], Any]) -> None:
    """Let a flag that is there already be read in another way."""
    next(action for action in parser._actions if flag in action.option_strings).type = read


def _out_of(options: Arguments, *names: object) -> Path:
    """`--out`; without it a new folder in runs/ called by `names`, or with `--resume` the latest one of that name."""
    if options.out is not None:
        return Path(options.out)
    name = ".".join(re.sub(r"[^\w.+-]+", "_", str(name)) for name in names)
    out = numbered(Path("runs") / name, latest=options.resume)
    if not options.quiet:
        print(f"output folder: {printable(out)}")
    return out


def _here(text: str) -> Path:
    """A path of this machine."""
    from fra.pools.remote import is_remote, only_shards

    if is_remote(text):
        raise argparse.ArgumentTypeError(f"is {only_shards(text)}")
    return Path(text)


def _anywhere(text: str) -> "Path | Remote":
    """A path, or an address such as s3://bucket/faces."""
    from fra.pools.remote import Remote, is_remote

    return Remote(text) if is_remote(text) else Path(text)


def _size(text: str) -> int:
    from fra.pools.cache import size_of

    try:
        return size_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is {error}") from None


def _kept_here(options: Arguments) -> "Path | Remote":
    """`--faces`, with the cache that shards from there are kept in."""
    from fra.pools.cache import USUAL, Cache
    from fra.pools.remote import Remote

    faces: Path | Remote = options.faces
    if options.cache is None:
        if options.cache_size is not None:
            raise ValueError("--cache-size needs --cache DIR")
        return faces
    url = faces.url if isinstance(faces, Remote) else f"file://{faces.absolute()}"  # a disk of the network, say
    return Remote(url, Cache(options.cache, USUAL if options.cache_size is None else options.cache_size))


def _warn_of_photos(options: Arguments) -> None:
    """Say so when what is given as face crops are photos; it is no error, because nobody knows what others need."""
    if options.quiet or not isinstance(options.faces, Path):
        return
    from fra.crop.whole import photos_among

    if told := photos_among(options.faces):
        print(f"fra: {told}", file=sys.stderr)


_count, _share = number(int, Range(1)), number(float, Range(0, 1, above=True))


def _add_crop(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "crop", "crop the faces in photographs", _crop, common="out detector workers seed")
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a folder tree, or a .txt list of photos")
    parser.add_argument(
        "--choose", default="random", choices=("random", "largest", "all"), help="which face of each photo"
    )
    parser.add_argument("--size", type=number(int, Range(1, 4096)), default=128, help="side of the crops in pixels")
    parser.add_argument(
        "--margin",
        type=number(float, Range(0, 10)),
        default=MARGIN,
        help="margin added to the face box, as a share of its longer side",
    )
    parser.add_argument("--align", default="none", choices=("none", "five-point"))
    parser.add_argument(
        "--min-score", type=_share, default=0.6, help="ignore detections with a lower score (default: 0.6)"
    )
    parser.add_argument(
        "--shards",
        action="store_true",
        help="pack the crops into WebDataset .tar files; --out may then be in an object store (s3://BUCKET/NAME)",
    )
    parser.add_argument("--shard-faces", type=_count, default=10_000, metavar="N", help="faces in each .tar")
    parser.add_argument("--cluster", metavar="ADDRESS", help=CLUSTER_HELP)
    _typed(parser, "--out", _anywhere)


def _crop(options: Arguments) -> None:
    from fra.crop.cut import CropSettings
    from fra.crop.run import crop

    settings = CropSettings(
        detector=options.detector,
        choose=options.choose,
        size=options.size,
        margin=options.margin,
        align=options.align,
        min_score=options.min_score,
        detail=options.detail,
        seed=options.seed or 0,
        shards=options.shards,
        shard_faces=options.shard_faces,
    )
    if isinstance(options.out, Path | None):
        options.out = _out_of(options, "crops", options.photos.resolve().stem)
    crop(options.photos, options.out, settings, cluster=options.cluster, runtime=Runtime.of(options))


def _add_pretrain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "pretrain",
        "train an encoder on unlabelled face crops",
        _pretrain,
        common="out device precision workers threads seed set",
    )
    recipe = parser.add_argument("recipe", metavar="RECIPE", help="a name from `fra recipes`, or a YAML file")
    _completed(recipe, _recipe_names("pretrain"))
    parser.add_argument(
        "--faces",
        type=_anywhere,
        metavar="DIR",
        help="crops: an output of `fra crop`, a folder tree, .tar shards, or a .txt list of images or shards; shards "
        "may be elsewhere (s3://, gs://, https://)",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep shards from elsewhere in this folder, as many as have room"
    )
    parser.add_argument(
        "--cache-size", type=_size, metavar="SIZE", help="most bytes of all files in --cache (default: 50G)"
    )
    add_flags(parser, "devices", "nodes", "views_on")
    parser.add_argument(
        "--checkpoint-minutes",
        type=number(float, Range(0)),
        default=5,
        metavar="M",
        help="minutes between checkpoints, besides one per epoch",
    )
    start = parser.add_argument(
        "--from",
        dest="start",
        metavar="WHAT",
        help="weights to start from, as for --encoder of `fra transfer` (default: random weights)",
    )
    _completed(start, _weights(ENCODER))
    parser.add_argument(
        "--from-heads", action="store_true", help="with --from RUN: take the run's heads too, not its backbone alone"
    )
    parser.add_argument("--plan", action="store_true", help="dry run: estimate time and memory, train nothing")
    parser.add_argument(
        "--compile", action="store_true", help="fuse the encoder's layers with torch.compile (for GPUs)"
    )
    parser.add_argument(
        "--labelled",
        type=Path,
        metavar="DIR",
        help="labelled faces in one folder per class, for the health monitor only",
    )
    parser.add_argument(
        "--pairs", type=Path, metavar="DIR", help="face pairs in LFW's layout, for the health monitor only"
    )


def _pretrain(options: Arguments) -> None:
    from fra.pretrain.run import LabelledSets, faces_of, load_pretrain_recipe, plan, pretrain
    from fra.pretrain.small_pools import adapted
    from fra.pretrain.start import start_from
    from fra.recipe import recipe_text
    from fra.training.peers import is_first

    overrides = options.set + ([f"seed={options.seed}"] if options.seed is not None else [])
    recipe = load_pretrain_recipe(options.recipe, overrides)
    if options.print_config:
        print(recipe_text(recipe), end="")
        return
    if options.faces is None:
        raise ValueError(
            "--faces is missing: give a folder of face crops, made by `fra crop PHOTOS --out DIR` or "
            "`fra data synthetic --out DIR --count 2000`"
        )
    options.faces = _kept_here(options)
    if options.from_heads and not options.start:
        raise ValueError("--from-heads needs --from RUN")
    start = None
    if options.start:
        start = start_from(options.start, with_heads=options.from_heads, quiet=options.quiet)
    runtime = Runtime.of(options)
    first = is_first()
    if first:
        _warn_of_photos(options)
    recipe, told = adapted(
        recipe,
        len(faces_of(recipe, options.faces)),
        name=options.recipe,
        given=[override.partition("=")[0] for override in options.set],
        processes=runtime.processes,
        started=start is not None,
    )
    if first and not options.quiet:
        print("".join(f"{line}\n" for line in told), end="", flush=True)
    if options.plan:
        plan(recipe, options.faces, start=start, runtime=runtime)
        return
    pretrain(
        recipe,
        options.faces,
        _out_of(options, re.sub(r"\.ya?ml$", "", Path(options.recipe).name)),
        start=start,
        monitored=LabelledSets(labelled=options.labelled, pairs=options.pairs),
        checkpoint_minutes=options.checkpoint_minutes,
        compiled=options.compile,
        runtime=runtime,
    )


def _add_transfer(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "transfer",
        "evaluate an encoder on a labelled dataset",
        _transfer,
        common="out device precision workers threads seed set",
    )
    recipe = parser.add_argument("recipe", metavar="RECIPE", help="a name from `fra recipes`, or a YAML file")
    _completed(recipe, _recipe_names("transfer"))
    encoder = parser.add_argument(
        "--encoder",
        metavar="WHAT",
        help="run folder, file of weights, bundled weights (`fra recipes`), random, random:NAME, timm:NAME "
        "or timm:NAME=FILE",
    )
    _completed(encoder, _weights(ENCODER))
    parser.add_argument("--data", type=Path, metavar="DIR", help="the dataset as downloaded")
    parser.add_argument(
        "--fraction",
        type=_share,
        default=None,
        metavar="F",
        help="share of the training images to use, in (0, 1]",
    )
    parser.add_argument(
        "--seeds", type=_count, default=1, metavar="N", help="repeat with N seeds, starting at --seed (default 0)"
    )
    parser.add_argument(
        "--protocol",
        choices=("linear", "finetune", "eac", "star", "fabrec"),
        default=None,
        help="use the recipe of the same scale and dataset for this protocol",
    )
    parser.add_argument(
        "--crop-with",
        metavar="DETECTOR",
        help="labels of your own on photos: first cut the largest face of each, by retinaface or yunet, into OUT.crops",
    )
    parser.add_argument(
        "--no-control", action="store_true", help="do not repeat it with random weights to see what pre-training adds"
    )
    add_flags(parser, "devices", "nodes")


def _transfer(options: Arguments) -> None:
    from fra.recipe import recipe_text
    from fra.transfer.control import transfer_with_control
    from fra.transfer.recipes import load_transfer_recipe
    from fra.transfer.run import transfer
    from fra.weights.source import EncoderSource

    recipe = load_transfer_recipe(options.recipe, options.set, protocol=options.protocol)
    if options.print_config:
        print(recipe_text(recipe), end="")
        return
    for name in ("encoder", "data"):
        if getattr(options, name) is None:
            raise ValueError(f"--{name} is missing: see `fra transfer --help`")
    out = _out_of(options, recipe.name, EncoderSource.parse(options.encoder).label)
    evaluate = transfer if options.no_control else transfer_with_control
    evaluate(
        recipe,
        encoder=options.encoder,
        data=_cut(options, recipe.dataset, out) if options.crop_with else options.data,
        out=out,
        fraction=options.fraction,
        seeds=options.seeds,
        first_seed=options.seed or 0,
        runtime=Runtime.of(options),
    )


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "compare",
        "compare encoders by number of labels: does pre-training pay?",
        _compare,
        common="device precision workers threads",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a labelled dataset, your own included")
    encoders = parser.add_argument(
        "--encoders",
        nargs="+",
        required=True,
        metavar="WHAT",
        help="as for --encoder of `fra transfer`; `random` gets the network of the first other one",
    )
    _completed(encoders, _weights(ENCODER))
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="what the encoders are called, in order")
    parser.add_argument(
        "--labels", default="20,100,500,all", metavar="N,N,all", help="numbers of labels (default: 20,100,500,all)"
    )
    parser.add_argument(
        "--protocols", default="linear", metavar="P,P", help="linear, finetune, eac, star, fabrec (default: linear)"
    )
    parser.add_argument("--seeds", type=_count, default=3, metavar="N", help="draws of labels (default: 3)")
    dataset = parser.add_argument(
        "--dataset", metavar="NAME", help="what --data holds, such as rafdb, fairface_age or a recipe (default: found)"
    )
    _completed(dataset, _datasets)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipes' settings (repeatable)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="runs and results; resumed if it exists (default: runs/compare.DATA)"
    )
    parser.add_argument("--plan", action="store_true", help="dry run: list the runs and estimate their time")
    parser.add_argument("--resume", action="store_true", help="accepted and not needed: it always resumes")
    parser.add_argument("--no-wait", action="store_true", help="exit once only other processes' runs remain")


def _compare(options: Arguments) -> None:
    from fra.transfer.comparison.asked import Asked
    from fra.transfer.comparison.run import compare, plan

    asked = Asked(
        encoders=tuple(options.encoders),
        names=tuple(options.names),
        labels=options.labels,
        protocols=options.protocols,
        seeds=options.seeds,
        dataset=options.dataset,
        overrides=tuple(options.set),
    )
    out = options.out or Path("runs") / f"compare.{options.data.resolve().name}"
    if options.plan:
        plan(options.data, asked, out, runtime=Runtime.of(options))
        return
    compare(options.data, asked, out, wait=not options.no_wait, runtime=Runtime.of(options))


def _cut(options: Arguments, dataset: str, out: Path) -> "CutPhotos":
    """Cut the photos of one's own labels as `fra crop` would; done again it only looks at what it has."""
    from fra.crop.cut import CropSettings
    from fra.crop.run import crop
    from fra.data.datasets import DATASETS
    from fra.data.own import CutPhotos

    runtime = Runtime.of(options)
    if not DATASETS[dataset].own:
        raise ValueError(f"--crop-with is for labels of your own: {dataset} has crops or boxes")
    if runtime.processes > 1:
        raise ValueError("--crop-with works on one device: cut the photos by `fra crop` first")
    crops = out.with_name(f"{out.name}.crops")
    settings = CropSettings(detector=options.crop_with, choose="largest")
    crop(options.data, crops, settings, runtime=runtime.continuing(crops))
    return CutPhotos(options.data, crops)


def _add_regions(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "regions",
        "draw or score the facial regions that a model has learned",
        _regions,
        common="out detector device threads",
    )
    model = parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run folder of `fra pretrain`, its model.safetensors, bundled weights (`fra recipes`), or a "
        "checkpoint of the released FRA",
    )
    _completed(model, _weights(REGIONS))
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--faces", type=_anywhere, metavar="FILE_OR_DIR", help="faces, or a video clip, to draw the regions of"
    )
    what.add_argument(
        "--score",
        type=Path,
        metavar="DIR",
        help="score the regions instead, on faces with landmarks in the layout of 300-W or of `fra data synthetic`",
    )
    parser.add_argument("--top", type=_count, default=3, help="number of heatmaps, highest variance first")
    parser.add_argument("--per-image", action="store_true", help="rank the heatmaps for each face separately")
    _add_every(parser)
    parser.add_argument(
        "--region",
        type=_count,
        metavar="K",
        help="in a clip, show the heatmap of region K over the faces (default: the strongest region per pixel)",
    )


def _regions(options: Arguments) -> None:
    from fra.faces.clip import is_clip

    if isinstance(options.faces, Path) and is_clip(options.faces):
        _regions_of_clip(options)
        return
    _refuse_given(options, "for video clips only: faces are taken as they are", "every", "region", "detector", "detail")
    out = _out_of(options, "score" if options.score else "regions", Path(options.model).resolve().name)
    if options.score is not None:
        from fra.regions.score import write_score

        write_score(options.model, options.score, out, runtime=Runtime.of(options))
        return
    from fra.regions.run import draw_regions

    _warn_of_photos(options)
    draw_regions(
        options.model,
        options.faces,
        out,
        top=options.top,
        per_image=options.per_image,
        runtime=Runtime.of(options),
    )


def _regions_of_clip(options: Arguments) -> None:
    from fra.predict.region_clip import Finding, regions_of_clip

    _refuse_given(options, "for face crops, not for a video clip (which takes --region K)", "top", "per_image")
    regions_of_clip(
        options.model,
        options.faces,
        _out_of(options, "regions", Path(options.model).resolve().name, options.faces.stem),
        region=options.region,
        finding=Finding(options.detector, detail=options.detail, every=options.every),
        runtime=Runtime.of(options),
    )


def _refuse_given(options: Arguments, why: str, *names: str) -> None:
    """ValueError when one of these flags is not at its default; `why` says what they are for."""
    given = [name for name in names if getattr(options, name) != options.parser.get_default(name)]
    if given:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{flags} {'is' if len(given) == 1 else 'are'} {why}")


def _add_every(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--every",
        type=number(int, Range(1)),
        default=1,
        metavar="N",
        help="in a clip, detect faces in every N-th frame only (default: 1)",
    )


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "predict",
        "find the faces in photos and run trained tasks on them",
        _predict,
        common="out detector device threads",
        without_out=True,
    )
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="photos, folders of photos, .txt lists; or one clip")
    task = parser.add_argument("--task", action="append", required=True, metavar="RUN", help=TASK_HELP)
    _completed(task, _weights(TASK))
    parser.add_argument(
        "--min-score", type=_share, default=0.6, help="ignore detections with a lower score (default: 0.6)"
    )
    parser.add_argument("--cluster", metavar="ADDRESS", help=CLUSTER_HELP)
    _add_every(parser)
    parser.add_argument("--smooth", action="store_true", help="in a clip, take the jitter out of landmarks")


def _predict(options: Arguments) -> None:
    from fra.faces.clip import is_clip

    if any(map(is_clip, options.photos)):
        _predict_clip(options)
        return
    from fra.predict.predictor import predict

    _refuse_given(options, "for video clips only, not for photos", "every", "smooth")
    predict(
        options.photos,
        options.task,
        options.out,
        detector=options.detector,
        min_score=options.min_score,
        detail=options.detail,
        cluster=options.cluster,
        runtime=Runtime.of(options),
    )


def _predict_clip(options: Arguments) -> None:
    from fra.predict.video import Following, predict_clip

    if len(options.photos) > 1:
        raise ValueError("a video clip is analysed by itself: give one clip and nothing else")
    if options.cluster:
        raise ValueError("the frames of a clip are followed one after another: leave out --cluster")
    path = Path(options.photos[0])
    predict_clip(
        path,
        options.task,
        _out_of(options, "predict", path.stem),
        following=Following(options.every, options.smooth),
        detector=options.detector,
        min_score=options.min_score,
        detail=options.detail,
        runtime=Runtime.of(options),
    )


def _add_embed(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "embed",
        "write the features of all faces in photos, and find faces that look alike",
        _embed,
        common="out detector device threads",
    )
    parser.epilog = "Features show which faces look alike in a picture. They are not made to identify people."
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="a folder tree, or a .txt list of photos")
    encoder = parser.add_argument(
        "--encoder",
        default="laptop",
        metavar="WHAT",
        help="a bundled encoder (`fra recipes`), a run folder, a checkpoint or timm:NAME=FILE (default: laptop)",
    )
    _completed(encoder, _weights(ENCODER))
    parser.add_argument(
        "--min-score", type=_share, default=0.6, help="ignore detections with a lower score (default: 0.6)"
    )
    parser.add_argument(
        "--neighbours", type=Path, metavar="PHOTO", help="list and show the faces nearest to each face in this photo"
    )
    parser.add_argument(
        "--clusters", action="store_true", help="group faces that look alike (HDBSCAN; needs scikit-learn)"
    )
    parser.add_argument(
        "--min-faces",
        type=number(int, Range(2)),
        default=5,
        metavar="N",
        help="faces in the smallest cluster (default: 5)",
    )
    parser.add_argument(
        "--duplicates-above",
        type=_share,
        default=0.998,
        metavar="COSINE",
        help="list a face as a near-duplicate from this cosine on (default: 0.998)",
    )
    parser.add_argument("--cluster", metavar="ADDRESS", help=CLUSTER_HELP)


def _embed(options: Arguments) -> None:
    from fra.embed.run import EmbedSettings, embed

    settings = EmbedSettings(
        detector=options.detector,
        min_score=options.min_score,
        detail=options.detail,
        neighbours=options.neighbours,
        clusters=options.clusters,
        min_faces=options.min_faces,
        duplicates_above=options.duplicates_above,
    )
    out = _out_of(options, "features", options.photos.resolve().stem)
    embed(options.photos, out, options.encoder, settings, cluster=options.cluster, runtime=Runtime.of(options))


def _add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "data",
        help="datasets: layouts, check of a download, drawn faces",
        description="Datasets: layouts, check of a download, drawn faces.",
    )
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    synthetic = _command(
        kinds, "synthetic", "draw faces with labels, points and region masks", _synthetic, common="out workers seed"
    )
    synthetic.add_argument("--count", type=_count, required=True, metavar="N")
    synthetic.add_argument("--size", type=number(int, Range(8, 4096)), default=128, help="side of the images in pixels")
    layout = _command(kinds, "layout", "show the folder tree in which a dataset is read", _layout)
    name = layout.add_argument("name", metavar="NAME", help=DATASET_HELP)
    _completed(name, _datasets)
    check = _command(kinds, "check", "look for faults in a dataset: labels, splits, files", _check, common="workers")
    name = check.add_argument("name", metavar="NAME", help=DATASET_HELP)
    _completed(name, _datasets)
    check.add_argument("folder", type=Path, metavar="DIR", help="its folder")
    check.add_argument("--all", action="store_true", help="list all affected files, not only the first few")


def _synthetic(options: Arguments) -> None:
    from fra.data.datasets.synthetic import write

    out = _out_of(options, "drawn")
    write(out, options.count, size=options.size, seed=options.seed or 0, runtime=Runtime.of(options))
    if not options.quiet:
        print(f"{counted(options.count, 'drawn face')} in {printable(out)}; pre-train on {printable(out / 'images')}")


def _layout(options: Arguments) -> None:
    from fra.data.datasets import layout_of

    print(layout_of(options.name).strip())


def _check(options: Arguments) -> int:
    """1 when anything is wrong."""
    from fra.data.check import check, print_verdict

    faces, faults = check(options.name, options.folder, runtime=Runtime.of(options))
    print_verdict(options.name, options.folder, faces, faults, all=options.all)
    return 1 if faults else 0


def _add_reproduce(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "reproduce",
        "reproduce the tables and the figure of the paper's supplement",
        _reproduce,
        common="device precision workers threads",
    )
    names = (*NAMES, "all")
    parser.add_argument("names", nargs="+", choices=names, metavar="TABLE", help=f"{', '.join(names)}; several at once")
    parser.add_argument(
        "--scale",
        required=True,
        choices=("smoke", "laptop", "paper"),
        help="drawn faces in minutes, smaller real datasets in hours, or the paper's own setting",
    )
    parser.add_argument("--faces", type=Path, metavar="DIR", help="face crops to pre-train on, as for `fra pretrain`")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="a folder of datasets as downloaded: rafdb, celeba, ..."
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="runs and tables; resumed if it exists (default: runs/reproduce.SCALE)"
    )
    parser.add_argument("--seeds", type=_count, metavar="N", help="seeds per task (default: the scale's)")
    parser.add_argument("--plan", action="store_true", help="dry run: list the runs and estimate their time and memory")
    parser.add_argument("--resume", action="store_true", help="accepted and not needed: it always resumes")
    parser.add_argument("--no-wait", action="store_true", help="exit once only other processes' runs remain")


def _reproduce(options: Arguments) -> None:
    from fra.reproduce.run import plan, reproduce

    names = NAMES if "all" in options.names else options.names
    given = dict(
        scale=options.scale,
        out=options.out or Path("runs") / f"reproduce.{options.scale}",
        faces=options.faces,
        data=options.data,
        seeds=options.seeds,
        runtime=Runtime.of(options),
    )
    if options.plan:
        plan(names, **given)
        return
    reproduce(names, **given, wait=not options.no_wait)


def _add_cluster(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    told = "write a job file that runs a command on a cluster"
    parser = commands.add_parser("cluster", help=told, description=told[0].upper() + told[1:] + ".")
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    for kind, help in (
        ("slurm", "write a job file for SLURM's sbatch"),
        ("torchrun", "write a job file for machines without a batch system"),
    ):
        one = _command(kinds, kind, help, _cluster)
        one.set_defaults(kind=kind)
        one.add_argument("--nodes", type=_count, metavar="N", help="number of machines (default: 1)")
        one.add_argument(
            "--gpus", type=number(int, Range(0, 1024)), metavar="N", help="GPUs per machine, or 0 (default: 1)"
        )
        one.add_argument("--cpus", type=_count, default=16, metavar="N", help="cores per process (default: 16)")
        if kind == "slurm":
            one.add_argument("--time", default="24:00:00", metavar="TIME", help="time limit (default: 24:00:00)")
            one.add_argument("--partition", default="", metavar="NAME")
            one.add_argument("--account", default="", metavar="NAME")
        one.add_argument(
            "--job", type=Path, metavar="FILE", help="the file to write (default: fra-COMMAND.sh, numbered)"
        )
        one.add_argument("--print", action="store_true", help="print the job file instead of writing it")
        one.add_argument("first", metavar="COMMAND", help="pretrain, transfer, crop, embed or reproduce; or a recipe")
        one.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="what follows it, as without a cluster")


def _cluster(options: Arguments) -> None:
    from fra.jobs.write import Machines, how_to_start, job_text, without_ours, write_job

    words = _job_words(options)
    asked, unknown = _parser().parse_known_args(words)
    if unknown:
        _refuse_unknown(asked.parser, unknown)
    given = {"nodes": options.nodes or getattr(asked, "nodes", 1), "gpus": options.gpus}
    if options.gpus is None:
        given["gpus"] = getattr(asked, "devices", 1)
    if options.kind == "slurm":
        given |= {name: getattr(options, name) for name in ("time", "partition", "account")}
    machines = Machines(cpus=options.cpus, **given)
    _require_job(asked, words[0], machines.nodes * machines.processes)
    words = without_ours(words)
    if any(without_secrets(word) != word for word in words):
        raise ValueError("the job file would show the password or signature of an address: use the environment's")
    if options.print:
        print(job_text(options.kind, words, machines, file=str(options.job or "FILE")), end="")
        return
    path = write_job(options.kind, words, machines, file=options.job)
    if not options.quiet:
        print(f"wrote {printable(path)}; start it with: {how_to_start(options.kind, path, machines)}")


def _job_words(options: Arguments) -> list[str]:
    """The command that is to become a job; its name may be missing before a recipe. ValueError for any other."""
    from fra.jobs.write import COMMANDS

    words = [options.first, *options.rest]
    if words[0] not in COMMANDS:
        kind = next((kind for kind in KINDS if words[0] in shipped_recipes(kind)), None)
        if kind is None:
            near = did_you_mean(words[0], [*COMMANDS, *(name for kind in KINDS for name in shipped_recipes(kind))])
            raise ValueError(
                f"'{words[0]}' cannot be a job{near}: give {', '.join(COMMANDS[:-1])} or {COMMANDS[-1]}, or a recipe's "
                "name, and what follows it"
            )
        words.insert(0, kind)
    return words


def _require_job(asked: Arguments, name: str, processes: int) -> None:
    """ValueError for what would only fail hours later, when the job's turn has come."""
    if asked.out is None:
        raise ValueError("--out is missing: a job needs it, so that it continues there when it starts again")
    if getattr(asked, "plan", False) or getattr(asked, "print_config", False):
        raise ValueError("a job runs the command: leave out --plan and --print_config")
    if name == "pretrain":
        from fra.pretrain.run import load_pretrain_recipe, require_shares

        if asked.faces is None:
            raise ValueError("--faces is missing: give a folder of face crops")
        require_shares(load_pretrain_recipe(asked.recipe, asked.set), processes)
    elif name == "transfer":
        from fra.transfer.recipes import load_transfer_recipe

        load_transfer_recipe(asked.recipe, asked.set)


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "report", "write one HTML report about runs", _report)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument(
        "--out", type=Path, metavar="FILE_OR_DIR", help="the page (default: report.html, numbered when taken)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier report")


def _report(options: Arguments) -> None:
    from fra.report.run import write_report

    usual = Path("report.html") if options.overwrite else numbered(Path("report"), ending=".html")
    page = write_report(options.runs, options.out or usual, overwrite=options.overwrite)
    if not options.quiet:
        print(f"wrote {printable(page)}")


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "export", "export a run's weights for other programs", _export, common="out")
    source = parser.add_argument(
        "source",
        metavar="RUN",
        help="a run of `fra pretrain` or `fra transfer`, or bundled weights (`fra recipes`)",
    )
    _completed(source, shipped_names)
    parser.add_argument(
        "--format",
        required=True,
        choices=("onnx", "torch", "timm", "official"),
        help="ONNX; a PyTorch exported program (.pt2); for encoders also a folder for timm, or a checkpoint of the "
        "released FRA",
    )
    parser.add_argument(
        "--with-preprocessing",
        dest="pixels",
        nargs="?",
        const="uint8",
        choices=("uint8", "float"),
        help="take pictures (N, H, W, 3) of any size, uint8 or floats in [0, 1], instead of resized ones (default with "
        "it: uint8)",
    )


def _export(options: Arguments) -> None:
    from fra.weights.load import holds_task

    if options.format in ("timm", "official") and options.pixels:
        raise ValueError(f"--with-preprocessing is for --format onnx and torch, not for {options.format}")
    out = _out_of(options, options.format, Path(options.source).resolve().name)
    if holds_task(options.source):
        from fra.predict.portable_task import export_task

        export_task(options.source, out, options.format, pixels=options.pixels, runtime=Runtime.of(options))
        return
    if options.format == "official":
        from fra.weights.export import export_official

        export_official(Path(options.source), out, runtime=Runtime.of(options))
        return
    from fra.weights.portable import export_portable

    export_portable(options.source, out, options.format, pixels=options.pixels, runtime=Runtime.of(options))


def _add_recipes(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(commands, "recipes", "list the bundled recipes and weights, or print a recipe", _recipes)
    words = parser.add_argument(
        "words", nargs="*", metavar="WORD", help="describe those that contain these words; a recipe's name prints it"
    )
    _completed(words, lambda: [name for kind in KINDS for name in shipped_recipes(kind)])


def _recipes(options: Arguments) -> None:
    """On a terminal an overview that fits it; into a pipe or file one recipe a line."""
    from fra.catalogue import describe, show_overview

    if not options.words and sys.stdout.isatty():
        show_overview()
        return
    for line in describe(options.words):
        print(line)


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    _command(commands, "doctor", "show versions, devices, extras and what would stop a run on this machine", _doctor)


def _doctor(options: Arguments) -> int:
    """1 when something would stop a run."""
    from fra.doctor import examine, show

    return show(examine())


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "demo",
        "run everything once in a few minutes, on drawn faces or your photographs",
        _demo,
        common="workers threads",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="accepted and not needed: it always resumes")
    parser.add_argument(
        "--photos", type=Path, default=None, metavar="DIR", help="a folder of photographs to use instead of drawn faces"
    )


def _demo(options: Arguments) -> None:
    from fra.demo import demo

    demo(options.out, photos=options.photos, runtime=Runtime.of(options))


def _add_app(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = _command(
        commands,
        "app",
        "a local page: drop a photo, see its faces, regions and predictions",
        _app,
        common="detector device threads",
    )
    model = parser.add_argument(
        "--model",
        metavar="RUN",
        help="the model whose regions are shown, as for `fra regions` (default: bundled weights)",
    )
    _completed(model, _weights(REGIONS))
    task = parser.add_argument("--task", action="append", default=[], metavar="RUN", help=TASK_HELP)
    _completed(task, _weights(TASK))
    parser.add_argument(
        "--port",
        type=number(int, Range(0, 65535)),
        default=7860,
        metavar="N",
        help="port of the page; 0 for any free port",
    )


def _app(options: Arguments) -> None:
    from fra.app.serve import app

    app(
        options.model,
        options.task,
        detector=options.detector,
        detail=options.detail,
        port=options.port,
        runtime=Runtime.of(options),
    )


if __name__ == "__main__":
    sys.exit(main())
