"""What keeps files safe: whole writes, folders with one writer, and files of ours that are checked when they are read.

Every file that fra reads again carries a checksum (CRC-32): JSON under the key `crc32`, a row of a table in its last
column, a line of a journal behind a tab, text in a comment at its end, safetensors in their metadata; .npz and
checkpoints are .zip archives, which have one for each member. Files without one (of earlier versions, made by hand)
are read unchecked. What goes wrong while such a file is read becomes a DamagedFile: one line with its name and the way
out.
"""

import errno
import functools
import hashlib
import io
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, ParamSpec, TypeVar

from fra.system.cells import read_cells, write_cells
from fra.system.lock import disk_time, is_claim, only_writer
from fra.system.printable import counted

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MARK = ".fra-run"
LOCK = ".fra-lock"
TEMPORARY = ".fra-tmp-"
EARLIER = re.compile(r"\..*-[a-z0-9_]{8}(\.[^.]*)?")
"""Names of temporary files until version 0.1."""
SUM = "crc32"
"""The checksum's name in JSON, tables and metadata."""
FORGOTTEN = 3600
"""Seconds after which a temporary file of another machine is a leftover."""
RESTORE = "restore it from a backup, or start again with another --out"

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


# --- whole writes


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it only when the block ends well.

    A reader therefore sees the old file or the new one, never a part, also after `kill -9` or on a full disk.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but a file of that name is written there: move the folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=temporary_prefix(), suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def temporary_prefix() -> str:
    """How the name of a file or folder begins that this process leaves only when it is killed."""
    return f"{TEMPORARY}{_place()}-{os.getpid()}-"


@functools.cache
def _place() -> str:
    """Where the numbers of processes mean something: this kernel and, in a container, this space of processes."""
    known = [socket.gethostname()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        known.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.blake2b("/".join(known).encode(), digest_size=4).hexdigest()


def remove_leftovers(folder: Path, *, alone: bool) -> None:
    """Remove temporary files that killed processes left in `folder`.

    `alone`: nobody else writes there, so all of them go, below it too (but not in other runs' folders). Otherwise only
    those whose process is gone, or of another machine and old.
    """
    pending = [folder]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(TEMPORARY) or (alone and EARLIER.fullmatch(entry.name)):
                    if alone or _is_forgotten(entry):
                        _remove(Path(entry.path))
                elif alone and entry.is_dir(follow_symlinks=False) and not os.path.exists(f"{entry.path}/{MARK}"):
                    pending.append(Path(entry.path))


def _is_forgotten(entry: "os.DirEntry[str]") -> bool:
    place, _, rest = entry.name.removeprefix(TEMPORARY).partition("-")
    process = rest.partition("-")[0]
    if place != _place() or not process.isdigit():
        # Not by our clock, which may be an hour off.
        return disk_time(Path(entry.path).parent) - entry.stat(follow_symlinks=False).st_mtime > FORGOTTEN
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


# --- folders with one writer

_held: ContextVar[ExitStack | None] = ContextVar("held", default=None)


def one_writer(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """For functions that claim what they write (`claim_folder`, `claim_file`): it is theirs alone until they end."""

    @functools.wraps(command)
    def alone(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
        with ExitStack() as held:
            token = _held.set(held)
            try:
                return command(*arguments, **named)
            finally:
                _held.reset(token)

    return alone


def claim_folder(out: Path | str, *, command: str, resume: bool, shared: bool = False) -> bool:
    """Create `out` for `command` and mark it as ours; True when an existing run is continued.

    Until the `one_writer` around it ends, no other process can claim it, unless it is `shared`. Temporary files that a
    killed run left are removed, and the whole folder when the command is refused (ValueError, OSError) before it has
    written anything else. Raises InUse when another process has it, and ValueError when the folder holds what is
    not ours, another command's run, or a run of the same command while `resume` is False: nothing is ever overwritten
    by accident.
    """
    out = Path(out)
    _is_run(out, command)
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as here:
        held = _held.get() or here
        if new:
            held.callback(_remove_if_empty, out)
        if not shared:
            held.enter_context(only_writer(out, LOCK, out))
        continued = _is_run(out, command)
        if continued and not resume:
            raise ValueError(f"{out} already holds a run of `fra {command}`: add --resume, or choose another --out")
        remove_leftovers(out, alone=not shared)
        if not continued:
            write_json(out / MARK, {"command": command})
            held.push(functools.partial(_unmark_if_refused, out))
        return continued


def _unmark_if_refused(out: Path, kind: type[BaseException] | None, *_: object) -> None:
    if kind is not None and issubclass(kind, (ValueError, OSError)):
        with suppress(OSError):
            if all(entry.name == MARK or _is_nothing(entry.name) for entry in out.iterdir()):
                (out / MARK).unlink(missing_ok=True)


def _remove_if_empty(out: Path) -> None:
    with suppress(OSError):
        out.rmdir()


def numbered(out: Path, *, latest: bool = False, ending: str = "") -> Path:
    """The first of `out`, `out-2`, `out-3` ... at which nothing is; or the `latest` at which something is, if any.

    `ending` follows the number.
    """
    place, number, last = out.with_name(out.name + ending), 1, None
    while os.path.lexists(place):
        number += 1
        last, place = place, out.with_name(f"{out.name}-{number}{ending}")
    return last if latest and last else place


def claim_file(path: Path | str) -> None:
    """No other process can claim `path`, a file or folder that is made whole, until the `one_writer` around it ends.

    Temporary files that killed processes left beside it are removed.
    """
    path, held = Path(path), _held.get()
    assert held is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    held.enter_context(only_writer(path.parent, f".{path.name}{LOCK}", path))
    remove_leftovers(path.parent, alone=False)


def _is_run(out: Path, command: str) -> bool:
    """Whether `out` holds a run of `command`; ValueError when it holds anything else."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: give a folder for --out")
    mark = out / MARK
    if os.path.lexists(mark):
        try:
            owner = read_json(mark)["command"]
        except (ValueError, KeyError) as error:
            raise ValueError(f"{mark} does not say which command made {out}: choose another --out") from error
        if owner != command:
            raise ValueError(f"{out} belongs to `fra {owner}`, not to `fra {command}`: choose another --out")
        return True
    # A mark that a killed process was writing is no content, nor is its claim.
    if out.is_dir() and not all(_is_nothing(entry.name) for entry in out.iterdir()):
        if mark.exists():  # another process has made it in this moment
            return _is_run(out, command)
        raise ValueError(f"{out} is not empty and was not made by fra (it has no {MARK}): choose another --out")
    return False


def _is_nothing(name: str) -> bool:
    return name.startswith((TEMPORARY, f".{MARK}", ".now-")) or is_claim(name, LOCK)


# --- files of ours, checked when they are read


class DamagedFile(ValueError):
    """A file of ours that is not as it was written; `what` is wrong with it, without the way out."""

    def __init__(self, what: str, mend: str = "") -> None:
        super().__init__(f"{what}: {mend}" if mend else what)
        self.what = what


@contextmanager
def reading(path: Path | str, mend: str = RESTORE) -> Iterator[None]:
    """Whatever goes wrong in the block, which reads `path` and takes from it what it needs, is a DamagedFile.

    `mend` says what a person can do.
    """
    try:
        yield
    except DamagedFile as error:  # of a block that knew less of the way out, or as much
        raise (error if mend == RESTORE else DamagedFile(error.what, mend)) from error.__cause__
    except MemoryError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are libraries
        raise DamagedFile(f"{path} {_what_is_wrong(error)}", mend) from error


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    if isinstance(error, KeyError):
        return f"is damaged (it has no {error.args[0]})"
    words = " ".join(str(error).split())
    return f"is damaged ({words if 0 < len(words) <= 100 else type(error).__name__})"


def checksum(content: bytes | memoryview, start: int = 0) -> str:
    """CRC-32 as eight hexadecimal digits; `start` is that of what comes before, as a number."""
    return f"{zlib.crc32(content, start):08x}"


def _compare(written: str, found: str) -> None:
    if written != found:
        raise ValueError("its checksum does not match")


def write_json(path: Path | str, content: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Write an object with its checksum, whole or not at all."""
    plain = json.loads(json.dumps(content))
    with atomic(path) as temporary:
        temporary.write_text(json.dumps({**plain, SUM: _json_sum(plain)}, indent=indent) + "\n")


def read_json(path: Path | str, mend: str = RESTORE) -> dict[str, Any]:
    """The object that `write_json` wrote, without the checksum. Raises DamagedFile."""
    with reading(path, mend):
        content = json.loads(Path(path).read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        written = content.pop(SUM, None)
        if written is not None:
            _compare(written, _json_sum(content))
        return content


def _json_sum(content: Mapping[str, Any]) -> str:
    return checksum(json.dumps(content, sort_keys=True).encode())


COMMENTS = {".md": ("<!-- ", " -->")}
"""How a comment begins and ends by a file's ending, where it is not `# `."""


def write_text(path: Path | str, text: str) -> None:
    """Write text with its checksum in a comment at its end, whole or not at all."""
    before, after = COMMENTS.get(Path(path).suffix, ("# ", ""))
    content = text.encode("utf-8", "surrogateescape")
    with atomic(path) as temporary:
        temporary.write_bytes(content + f"{before}{SUM} {checksum(content)}{after}\n".encode())


def read_text(path: Path | str, mend: str = RESTORE) -> str:
    """What `write_text` wrote, without the checksum. Raises DamagedFile."""
    before, after = COMMENTS.get(Path(path).suffix, ("# ", ""))
    with reading(path, mend):
        content = Path(path).read_bytes()
        text, found, last = content.rpartition(f"{before}{SUM} ".encode())
        if found:
            _compare(last.decode().strip().removesuffix(after), checksum(text))
            content = text
        return content.decode("utf-8", "surrogateescape")


def sealed(line: str) -> str:
    """A line of a journal with its checksum behind a tab; the line has no tab."""
    return f"{line}\t{checksum(line.encode())}"


def unsealed(line: str) -> str:
    """Undo `sealed`; a line without a checksum stays as it is. ValueError when they do not fit."""
    content, tab, written = line.partition("\t")
    if tab:
        _compare(written, checksum(content.encode()))
    return content


def write_tensors(path: Path | str, tensors: Mapping[str, "Tensor"], notes: Mapping[str, str]) -> None:
    """Write a safetensors file with metadata and its checksum (over both), whole or not at all."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = memoryview(save(plain, dict(notes) | {SUM: json.dumps(_tensor_sum(plain, notes))}))
    # The library orders the metadata at random; the same tensors shall give the same bytes.
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:end]))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-len(described) % 8)
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        stream.writelines((len(described).to_bytes(8, "little"), described, content[end:]))


def read_tensors(path: Path | str, mend: str = RESTORE) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Tensors and metadata of a safetensors file, without the checksum. Raises DamagedFile."""
    from safetensors.torch import load

    with reading(path, mend):
        content = Path(path).read_bytes()
        # Not by get_tensor: that of safetensors 0.8 leaks two numbers for each tensor. The order here is random.
        tensors = dict(sorted(load(content).items()))
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        notes = dict(header.get("__metadata__") or {})
        written = notes.pop(SUM, None)
        if written is not None:
            _compare(json.loads(written), _tensor_sum(tensors, notes))
        return tensors, notes


def _tensor_sum(tensors: Mapping[str, "Tensor"], notes: Mapping[str, str]) -> str:
    import torch

    described = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in sorted(tensors)]
    value = zlib.crc32(json.dumps([described, sorted(notes.items())]).encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def check_archive(path: Path | str) -> None:
    """Compare every member of a .zip (.npz, a checkpoint of torch) with its checksum. ValueError when one differs."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of its part {damaged} does not match")


def read_arrays(path: Path | str, mend: str = RESTORE) -> dict[str, "np.ndarray"]:
    """The arrays of an .npz file. Raises DamagedFile."""
    import numpy as np

    with reading(path, mend):
        check_archive(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


# --- tables


def shortened(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table with its floats as text of six digits."""
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}


def write_rows(path: Path | str, rows: Sequence[dict[str, Any]], *, checked: bool = False) -> None:
    """Write a CSV table whole; columns in the order in which they first appear in the rows.

    `checked`: with a checksum for each row in a last column, for tables that fra reads again.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic(path) as temporary, _table(temporary, "w") as stream:
        write_cells(stream, [[*columns, SUM] if checked else columns])
        write_cells(stream, (_cells(columns, row, checked) for row in rows))


def append_rows(path: Path | str, rows: Sequence[dict[str, Any]]) -> None:
    """Append rows with checksums to a CSV table, which is created with the first row's columns."""
    path = Path(path)
    columns, checked = list(rows[0]), True
    fresh = not path.exists()
    if not fresh:
        with reading(path, REMOVE_TABLE), _table(path, "r") as stream:
            columns = next(read_cells(stream))
            checked = columns[-1] == SUM
            columns = columns[:-1] if checked else columns
    written = io.StringIO()
    write_cells(written, [[*columns, SUM]] if fresh else [])
    write_cells(written, (_cells(columns, row, checked) for row in rows))
    with _table(path, "a") as stream:
        stream.write(written.getvalue())


REMOVE_TABLE = "restore it from a backup, or remove it: only its rows are lost"


def read_rows(path: Path | str, mend: str = REMOVE_TABLE) -> list[dict[str, str]]:
    """All rows of a CSV table, values as text, without checksums. Raises DamagedFile.

    Of a table that was appended to when the process was killed, a last line that is not whole is dropped.
    """
    with reading(path, mend):
        with _table(path, "r") as stream:
            text = stream.read()
        reader = read_cells(io.StringIO(text, newline=""))
        columns = next(reader, [])
        cells = list(reader)
        checked = columns[-1:] == [SUM]
        if cells and not text.endswith("\n") and _is_cut(cells[-1], len(columns), checked):
            del cells[-1]
        names = columns[:-1] if checked else columns
        rows = []
        for number, found in enumerate(filter(None, cells), 1):
            if len(found) != len(columns):
                raise ValueError(f"row {number} has {counted(len(found), 'cell')}, not {len(columns)}")
            if checked and found[-1] != _row_sum(names, found[:-1]):
                raise ValueError(f"the checksum of row {number} does not match")
            rows.append(dict(zip(names, found, strict=False)))
        return rows


def _is_cut(row: Sequence[str], columns: int, checked: bool) -> bool:
    """Whether a last row without its end of line is a part of one, and not one whose last byte is another."""
    return len(row) < columns or (checked and len(row) == columns and len(row[-1]) <= len(checksum(b"")))


def _cells(columns: Sequence[str], row: Mapping[str, Any], checked: bool) -> list[str]:
    if unknown := row.keys() - set(columns):
        raise ValueError(f"the table has no column {', '.join(sorted(unknown))}")
    cells = ["" if row.get(name) is None else str(row[name]) for name in columns]
    return [*cells, _row_sum(columns, cells)] if checked else cells


def _row_sum(columns: Sequence[str], cells: Sequence[str]) -> str:
    return checksum("\0".join([*columns, *cells]).encode("utf-8", "surrogateescape"))


def _table(path: Path | str, mode: Literal["r", "a", "w"]) -> io.TextIOWrapper:
    return open(path, mode, newline="", encoding="utf-8", errors="surrogateescape")  # names of files need not be UTF-8


# --- files of others


def open_regular(path: Path | str) -> BinaryIO:
    """Open a file to be read, as `regular_descriptor` does."""
    return open(regular_descriptor(path), "rb")


def regular_descriptor(path: Path | str) -> int:
    """The descriptor of a file that is opened to be read, and nothing but a file.

    OSError "not a regular file" for a folder, named pipe, socket or device, or a link to one: those are read for ever,
    or wait for ever for somebody who writes.
    """
    _require_regular(os.stat(path).st_mode, path)  # before opening: to open a device may already do something
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(os.fstat(handle).st_mode, path)  # and after: it may have been replaced in between
    except OSError:
        os.close(handle)
        raise
    return handle


def _require_regular(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"))
        kind = next((name for is_kind, name in kinds if is_kind(mode)), "device")
        raise OSError(errno.EINVAL, f"not a regular file but a {kind}", str(path))
