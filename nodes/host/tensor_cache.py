"""Tensors kept in a folder between runs: whole, finite or absent, never too much, and never worth an error."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ...erasure_core.files import packed, remove_left_parts, write_whole

LIMIT = 400_000_000
_DIGEST = hashlib.sha256().digest_size
_COUNTED_EVERY = 16


class TensorCache:
    """Named tensors by key, each key in a file of its own that begins with a hash of the key and the rest of it.

    A damaged file, one that was stored under another key, and one with NaN or infinity in it count as absent; tensors with
    such values are not stored. Several processes may use one folder: files appear in one step. All files together
    take at most `limit` bytes; what was not used for longest goes first, but nothing that this object has read or
    written itself: once that alone fills the folder nothing more is stored, or a list longer than the folder would push
    out its own beginning each time it is gone through. A folder that cannot be written is logged once and then left alone.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder, self._limit = folder, limit
        self._used: set[str] = set()
        self._room = 0
        self._uncounted = 0
        self._writable = True

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.tensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors stored under `key`, bit for bit, or None."""
        path = self._path(key)
        try:
            blob = path.read_bytes()
            digest, content = blob[:_DIGEST], blob[_DIGEST:]
            if _digest_of(key, content) != digest:
                return None
            found = load(content)
            os.utime(path)
        except (OSError, SafetensorError):  # never stored, dropped by another process just now, or made by hand
            return None
        if not _finite(found):
            return None
        self._used.add(path.name)
        return found

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store `tensors`, unless they are not finite, there is no room that may be freed or the folder cannot be
        written."""
        if not self._writable or not _finite(tensors):
            return
        content = packed(tensors)
        blob = _digest_of(key, content) + content
        path = self._path(key)
        try:
            if not self._make_room(len(blob)):
                return
            write_whole(path, blob)
        except OSError as error:
            self._writable = False
            logging.warning("Concept Erasure: nothing is cached any more in this run: %s", error)
            return
        self._used.add(path.name)

    def _make_room(self, size: int) -> bool:
        """Drop old files until `size` more bytes fit; False if they cannot be made to. Looks at the folder now and then,
        for other processes write to it too."""
        if self._room < size or self._uncounted == _COUNTED_EVERY:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_left_parts(self._folder)
            files = [(entry.name, entry.stat()) for entry in _entries(self._folder)]
            room = self._limit - sum(stat.st_size for _, stat in files)
            for name, stat in sorted(files, key=lambda file: file[1].st_mtime):
                if room >= size * _COUNTED_EVERY or name in self._used:
                    continue
                with suppress(OSError):  # another process dropped it, or (on Windows) is reading it
                    (self._folder / name).unlink()
                    room += stat.st_size
            self._room, self._uncounted = room, 0
        if self._room < size:
            return False
        self._room -= size
        self._uncounted += 1
        return True


def _digest_of(key: str, content: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + content).digest()


def _finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in tensors.values())


def _entries(folder: Path) -> list[os.DirEntry]:
    """The files of a folder that are still there when they are looked at."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file() and entry.stat():
                    found.append(entry)
    return found
