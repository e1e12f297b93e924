"""Files of tensors: written in one step, checked when read."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows, where an open file can be neither renamed nor removed by another process
    fcntl = None

ADVICE = {
    errno.ENOSPC: "Free some space or choose another folder",
    errno.ENAMETOOLONG: "Give a shorter file name",
    errno.EACCES: "Allow writing to the folder or choose another",
}
_PART = re.compile(r"\..+\.[0-9a-f]+\.part")
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EINVAL}


def write_whole(path: Path, blob: bytes) -> None:
    """Write the file beside its final name, then rename it: a full disk or a crash leaves what was at `path` before.

    Raises OSError, naming the path and what to do, if it cannot be written.
    """
    with _named_errors(path, len(blob)), _written(path, blob) as part:
        os.replace(part, path)


def write_new(paths: Iterable[Path], blob: bytes) -> Path:
    """Write the file under the first of `paths` that no file has; the path taken. Processes that save into one folder
    at once get different names: the name is claimed in one step, by a file that is already whole.

    What a killed process left in the folder is removed first. Raises OSError as `write_whole` does.
    """
    for path in paths:
        remove_left_parts(path.parent)
        with _named_errors(path, len(blob)), _written(path, blob) as part:
            if _claimed(part, path):
                return path
    raise ValueError("there is no name left to save under")


def remove_left_parts(folder: Path) -> None:
    """Remove the part files of processes that were killed while they wrote; those being written now stay."""
    for part in [entry for entry in _listed(folder) if _PART.fullmatch(entry.name)]:
        with suppress(OSError):  # gone by now, or (on Windows) being written
            with open(part.path, "rb+") as file:
                locked = _lock(file)
            if locked:
                os.unlink(part.path)


def _listed(folder: Path) -> list[os.DirEntry]:
    with suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _lock(file: BinaryIO) -> bool:
    """Hold the file until it is closed or its process ends; False if another process holds it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _opened_part(path: Path) -> tuple[Path, BinaryIO]:
    """A new file of an own name beside `path`, locked against `remove_left_parts`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        file = open(part, "xb")  # noqa: SIM115 (the caller closes it)
        if not _lock(file) or part.exists():
            return part, file  # a folder that knows no locks is not cleaned either
        file.close()  # taken for one that was left, in the moment before it was locked


@contextmanager
def _written(path: Path, blob: bytes) -> Iterator[Path]:
    """Inside, `blob` is whole in a file of an own name beside `path`; afterwards that name is gone, whatever happens."""
    part, file = _opened_part(path)
    try:
        with file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # the lock is held until the file has its name
                yield part
        if fcntl is None:
            yield part
    finally:
        file.close()
        with suppress(OSError):
            part.unlink()


def _claimed(part: Path, path: Path) -> bool:
    """Give a whole file its name; False if a file has it."""
    try:
        if os.name == "nt":
            os.rename(part, path)
        else:
            os.link(part, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _claimed_without_links(part, path)
    return True


def _claimed_without_links(part: Path, path: Path) -> bool:
    """`_claimed` on a disk without hard links, where an empty file holds the name for a moment."""
    try:
        with open(path, "xb"):
            os.replace(part, path)
    except FileExistsError:
        return False
    return True


@contextmanager
def _named_errors(path: Path, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "Choose another folder")
        raise OSError(
            error.errno,
            f"could not save {path} ({size / 1e6:.1f} MB needed): {error.strerror or error}. "
            f"{advice}; nothing was overwritten",
        ) from error


def packed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a `.safetensors` file. Each tensor is copied: the format has no tensors that share memory."""
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return save(whole, metadata=None if metadata is None else dict(metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a `.safetensors` file. Raises ValueError, naming the file, if it is not a complete one."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle is no dict)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete .safetensors file ({error}); save or download it again") from error


def file_head(path: Path, most: int) -> bytes:
    """The names, types and metadata at the beginning of a `.safetensors` file as they are written there, in JSON; no more
    than `most` bytes of it. Raises OSError if the file cannot be read."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(min(length, most))


def check_version(fields: Mapping[str, Any], known: int) -> None:
    """Raise ValueError if metadata is of a later format version than `known`, KeyError if it names none."""
    version = fields["format_version"]
    if type(version) is not int or version < 1:
        raise ValueError(f"its format_version is {version!r}, and should be a number from 1")
    if version > known:
        raise ValueError(f"it has format version {version}, this pack reads up to {known}; update the pack")


def check_type(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise ValueError, naming the field of the metadata, if its value is of another type; True is no number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"its {name} is {str(value)[:60]!r}, and should be {expected}")
