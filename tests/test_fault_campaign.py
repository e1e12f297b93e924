"""A campaign of injected faults, one a test: whatever goes wrong, and whenever, the base model is bit for bit what it was,
nothing half-written is left, and the next run gives the same edit.

Every method runs on the toy. `TRIALS` counts the trials, so that a campaign that shrinks is seen.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.denoiser import Conditioning, check_text
from concept_erasure.erasure_core.erased_unet import ErasedUNet, load_erased_unet, save_as_new, save_erased_unet
from concept_erasure.erasure_core.files import packed, write_new
from concept_erasure.erasure_core.method import check_layers, check_parts, methods
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.text import vocabulary
from erasure_tests.small import make
from erasure_tests.toy import ToyBlock, ToyDenoiser
from torch import Tensor, nn

REQUEST = parse_request("circle\nsquare => ring", "triangle")
SHARES = (0.0, 0.4, 0.9)
METHODS = list(methods())
SAVES = ("write", "fsync", "interrupt")
KILLED = ("write", "fsync", "link", "unlink")
TRUNCATED = (0, 7, 200, -1, -500)
DAMAGES = (
    "no parts",
    "half the parts",
    "other names",
    "one dimension more",
    "another concept",
    "float8",
    "nan",
    "metadata",
)


class Cancelled(BaseException):
    """As ComfyUI's own, no Exception."""


class Faulty(ToyDenoiser):
    """The toy with a second block, which does something else at its n-th call."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.network["second"] = ToyBlock().requires_grad_(False)
        self.predictions = self.texts = 0
        self.predicted: Callable[[int, Tensor], Tensor] = lambda _n, out: out
        self.encoded: Callable[[int, Tensor], Tensor] = lambda _n, out: out

    def predict(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Denoiser`."""
        self.predictions += 1
        predicted = super().predict(latents, sigma, conditioning)
        return self.predicted(self.predictions, predicted + self.network["second"](predicted, conditioning.tokens))

    def layers(self, group: str) -> dict[str, nn.Module]:
        """See `Denoiser`."""
        first = super().layers(group)
        own = [name.removeprefix("block.") for name in first if name.startswith("block.")]
        return first | {f"second.{name}": self.network["second"].get_submodule(name) for name in own}

    def blocks(self, kind: str) -> dict[str, nn.Module]:
        """See `Denoiser`."""
        more = {"second": self.network["second"]} if kind in ("transformer", "checkpointed") else {}
        return super().blocks(kind) | more

    def encode(self, prompts: list[str]) -> Conditioning:
        """See `Denoiser`."""
        self.texts += 1
        states = self.encoded(self.texts, super().encode(prompts).tokens)
        for prompt, row in zip(prompts, states, strict=True):
            check_text(prompt, row)
        return Conditioning({"c_crossattn": states})


class BackwardFault(torch.autograd.Function):
    """The identity, whose gradient is what a function makes of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


@pytest.fixture(autouse=True)
def few_words_everywhere(monkeypatch, tmp_path_factory) -> None:
    """A few words are enough."""
    folder = tmp_path_factory.mktemp("words")
    for name in vocabulary.VOCABULARIES:
        (folder / f"{name}.txt").write_text("disc\nred\ntree\noval\nblue\nhouse\n", encoding="utf-8")
    monkeypatch.setattr(vocabulary, "_FOLDER", folder)


def erased_with(name: str, denoiser: Faulty, report: Report | None = None) -> ErasedUNet:
    """Two concepts erased."""
    return make(name, steps=3, sampling_steps=3).erase(denoiser, REQUEST, report or Report())


@functools.cache
def reference(name: str) -> tuple[ErasedUNet, int, int, int]:
    """What the method makes, and how often it asks the network, the text encoder, and whether it is to go on."""
    denoiser, asked = Faulty(), []
    report = Report(check=lambda *_: asked.append(1), on_progress=lambda *_: asked.append(1))
    return erased_with(name, denoiser, report), denoiser.predictions, denoiser.texts, len(asked)


def all_tensors(erased: ErasedUNet) -> dict[str, Tensor]:
    """The tensors of an edit and of its key."""
    return dict(erased.tensors) | {
        f"key {name}": value for name, value in (erased.key.tensors if erased.key else {}).items()
    }


def same(one: ErasedUNet, other: ErasedUNet) -> bool:
    """True if two edits are equal bit for bit."""
    left, right = all_tensors(one), all_tensors(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def unharmed(name: str, denoiser: Faulty) -> None:
    """The network is bit for bit a new one, nothing hangs on it, and the next run on it gives the reference."""
    fresh = Faulty().state()
    assert all(torch.equal(fresh[key], value) for key, value in denoiser.state().items())
    for module in denoiser.network.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    denoiser.predicted = denoiser.encoded = lambda _n, out: out
    assert same(erased_with(name, denoiser), reference(name)[0])


def place(count: int, share: float) -> int:
    """The call, from 1, at a share of them."""
    return 1 + int(share * (count - 1))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", METHODS)
def test_cancelled_in_every_phase(name: str, share: float) -> None:
    denoiser, left = Faulty(), iter(range(place(reference(name)[3], share) - 1))

    def ask(*_: object) -> None:
        if next(left, None) is None:
            raise Cancelled

    with pytest.raises(Cancelled):
        erased_with(name, denoiser, Report(check=ask, on_progress=ask))
    unharmed(name, denoiser)


def no_memory(_gradient: Tensor | None = None) -> Tensor:
    """What torch does on a CPU without memory."""
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


def given_up(name: str, denoiser: Faulty, errors: tuple[type[BaseException], ...]) -> bool:
    """Whether the run stops with such an error; if it does not, it must not have seen the fault."""
    try:
        erased = erased_with(name, denoiser)
    except errors:
        return True
    assert same(erased, reference(name)[0]), "the run went on as if nothing had happened, with another edit"
    return False


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", METHODS)
def test_out_of_memory_in_the_forward_pass(name: str, share: float) -> None:
    denoiser, at = Faulty(), place(reference(name)[1], share)
    denoiser.predicted = lambda n, out: no_memory() if n >= at else out
    assert given_up(name, denoiser, (RuntimeError,)) == (reference(name)[1] > 0)
    unharmed(name, denoiser)


@pytest.mark.parametrize("fault", ["no memory", "nan", "inf"])
@pytest.mark.parametrize("name", METHODS)
def test_a_backward_pass_that_fails(name: str, fault: str) -> None:
    denoiser, backward = Faulty(), []
    break_it = {"no memory": no_memory, "nan": lambda g: g * float("nan"), "inf": lambda g: g + float("inf")}[fault]

    def gradient(given: Tensor) -> Tensor:
        backward.append(1)
        return break_it(given) if len(backward) >= (1 if fault == "no memory" else 2) else given

    denoiser.predicted = lambda _n, out: BackwardFault.apply(out, gradient) if out.requires_grad else out
    failed = given_up(name, denoiser, (RuntimeError,) if fault == "no memory" else (FloatingPointError,))
    assert failed == (len(backward) >= (1 if fault == "no memory" else 2))
    unharmed(name, denoiser)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", METHODS)
def test_a_prediction_that_is_not_finite(name: str, share: float, value: float) -> None:
    denoiser, at = Faulty(), place(reference(name)[1], share)
    denoiser.predicted = lambda n, out: out + value if n == at else out
    given_up(name, denoiser, (FloatingPointError,))
    unharmed(name, denoiser)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", METHODS)
def test_text_states_that_are_not_finite(name: str, share: float) -> None:
    denoiser, at = Faulty(), place(reference(name)[2], share)
    denoiser.encoded = lambda n, out: out * float("nan") if n == at else out
    assert given_up(name, denoiser, (FloatingPointError,))
    unharmed(name, denoiser)


def edits(name: str) -> Iterator[ErasedUNet]:
    """The edit and its key, if there is one."""
    erased = reference(name)[0]
    yield erased
    if erased.key is not None:
        yield erased.key


def numbered(folder: Path) -> Iterator[Path]:
    """Names to save under."""
    return (folder / f"edit_{number}.safetensors" for number in range(1, 10_000))


@pytest.mark.parametrize("fault", SAVES)
@pytest.mark.parametrize("name", METHODS)
def test_a_save_that_fails_leaves_nothing_and_can_be_repeated(
    name: str, fault: str, tmp_path: Path, monkeypatch
) -> None:
    from concept_erasure.erasure_core import files

    for edit in edits(name):
        first = save_as_new(edit, numbered(tmp_path))
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}

        def fails(*_: object) -> None:
            raise KeyboardInterrupt if fault == "interrupt" else OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(files if fault == "write" else os, "_claimed" if fault == "write" else "fsync", fails)
            with pytest.raises((OSError, KeyboardInterrupt)) as caught:
                save_as_new(edit, numbered(tmp_path))
        assert fault == "interrupt" or "Free some space" in str(caught.value)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        again = save_as_new(edit, numbered(tmp_path))
        assert again != first and again.read_bytes() == first.read_bytes()
        assert same(load_erased_unet(again), load_erased_unet(first))


SAVER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import conftest
from concept_erasure.erasure_core import files
folder, at, first, saves = Path({folder!r}), {at!r}, {first}, {saves}

class Killing:
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def write(self, blob):
        self.file.write(blob[: len(blob) // 2]); self.file.flush(); os.kill(os.getpid(), signal.SIGKILL)
    def __getattr__(self, name): return getattr(self.file, name)

def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if at == "write":
    opened = files._opened_part
    files._opened_part = lambda path: (lambda part, file: (part, Killing(file)))(*opened(path))
if at in ("fsync", "link"):
    setattr(os, at, die)
if at == "unlink":
    Path.unlink = die
names = lambda: (folder / f"edit_{{number}}.bin" for number in range(first, 10_000))
for number in range(saves):
    print(files.write_new(names(), (f"{{os.getpid()}} {{number}} " * 5000).encode()).name, flush=True)
"""


def saver(folder: Path, at: str = "", first: int = 1, saves: int = 1) -> subprocess.Popen:
    """A process of its own that saves into the folder, and is killed at a point."""
    program = SAVER.format(tests=str(Path(__file__).parent), folder=str(folder), at=at, first=first, saves=saves)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
@pytest.mark.parametrize("at", KILLED)
def test_killed_while_saving_and_saved_again(at: str, tmp_path: Path) -> None:
    whole = b"what was there"
    (tmp_path / "edit_1.bin").write_bytes(whole)
    process = saver(tmp_path, at, first=2)
    process.communicate()
    assert process.returncode == -9
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert names == ({"edit_1.bin", "edit_2.bin"} if at == "unlink" else {"edit_1.bin"})
    assert (tmp_path / "edit_1.bin").read_bytes() == whole
    write_new((tmp_path / f"other_{number}.bin" for number in (1, 2)), b"the next save")
    assert {path.name for path in tmp_path.iterdir()} == names | {"other_1.bin"}, "a part file stays"


@pytest.mark.parametrize("links", [True, False])
def test_two_processes_save_under_one_prefix_and_lose_nothing(links: bool, tmp_path: Path, monkeypatch) -> None:
    from concept_erasure.erasure_core import files

    if not links:  # this process alone: the two threads meet at the same names

        def no_links(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, "no hard links here")

        monkeypatch.setattr(os, "link", no_links)
        blobs = [f"{number} ".encode() * 2000 for number in range(40)]
        threads = [
            threading.Thread(target=lambda part=part: [files.write_new(numbered(tmp_path), blob) for blob in part])
            for part in (blobs[:20], blobs[20:])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == sorted(blobs)
        return
    processes = [saver(tmp_path, saves=40) for _ in range(2)]
    names = [name for process in processes for name in process.communicate()[0].split()]
    assert len(names) == len(set(names)) == 80 == len(list(tmp_path.iterdir()))
    texts = {path.read_text() for path in tmp_path.iterdir()}
    assert len(texts) == 80 and all(text == text[: len(text) // 5000] * 5000 for text in texts)


@pytest.mark.parametrize("name", METHODS)
def test_two_runs_at_once_are_those_of_each_alone(name: str) -> None:
    made: list[ErasedUNet] = []
    reference(name)
    toys = [Faulty(), Faulty()]  # made here: a toy's own weights are drawn from the global random numbers
    threads = [threading.Thread(target=lambda toy=toy: made.append(erased_with(name, toy))) for toy in toys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2 and all(same(one, reference(name)[0]) for one in made)


@pytest.mark.parametrize("cut", TRUNCATED)
@pytest.mark.parametrize("name", METHODS)
def test_a_file_that_is_cut_off_is_named(name: str, cut: int, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    save_erased_unet(reference(name)[0], path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"edit\.safetensors is not a complete"):
        load_erased_unet(path)


def damaged(erased: ErasedUNet, how: str) -> dict[str, Tensor]:
    """The tensors of an edit after something happened to them."""
    tensors = dict(erased.tensors)
    first = min(tensors)
    value = tensors[first]
    if how == "no parts":
        return {"erasure.99999999.gate.states": torch.ones(1)}
    if how == "half the parts":
        return {name: tensors[name] for name in sorted(tensors)[: max(1, len(tensors) // 2) - (len(tensors) > 2)]}
    if how == "other names":
        return {f"{name}.of_another_program": value for name, value in tensors.items()}
    if how == "one dimension more":
        return {name: value[None, None, None] for name, value in tensors.items()}
    if how == "another concept":
        return tensors | {f"erasure.99999999.{name}": value for name, value in tensors.items()}
    if how == "float8":
        return tensors | {first: value.to(torch.float8_e4m3fn)}
    return tensors | {first: value * float("nan")} if how == "nan" else tensors


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [name for name in METHODS if methods()[name].parts])
def test_a_damaged_file_of_an_acting_edit_is_named(name: str, how: str, tmp_path: Path) -> None:
    erased = list(edits(name))[-1]
    path, tensors = tmp_path / "edit.safetensors", damaged(erased, how)
    save_erased_unet(erased, path)
    if how == "half the parts" and name == "kpop":
        pytest.skip("a key for fewer layers is a key")
    targets = [["circle"]] if how == "metadata" else [["circle", ""], ["square", "ring"]]
    metadata = json.dumps(dict(vars(erased.provenance)) | {"targets": targets})
    path.write_bytes(packed(tensors, {"erasure": metadata}))
    with pytest.raises(ValueError, match=r"edit\.safetensors|no whole edit|does not have"):
        read = load_erased_unet(path)
        check_parts(read)
        check_layers(read, Faulty().modules())


TRIALS = len(METHODS) * (3 * len(SHARES) + 2 * len(SHARES) + 3 + len(SAVES) + 1 + len(TRUNCATED)) + 4 * len(DAMAGES)


def test_the_campaign_has_at_least_200_trials() -> None:
    print(f"{TRIALS} trials")
    assert TRIALS >= 200
