"""The cache of encoded text: exact, whole or absent, bounded, and never another text encoder's."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core import files
from torch import Tensor

from devtools.hosting.inprocess import load_comfy
from testbed.playground import Playground

load_comfy()

from concept_erasure.nodes.host import tensor_cache  # noqa: E402
from concept_erasure.nodes.host.tensor_cache import TensorCache  # noqa: E402

ONE = {"states": torch.randn(1, 77, 8, generator=torch.Generator().manual_seed(0)), "pooled": torch.ones(1, 8).half()}


def put_at(folder: Path, key: str, age: float) -> int:
    """Store under a key as a file of that age, by an object of its own; its size."""
    before = set(folder.glob("*"))
    TensorCache(folder).put(key, ONE)
    (path,) = set(folder.glob("*")) - before
    os.utime(path, (1e9 - age, 1e9 - age))
    return path.stat().st_size


def test_what_is_read_is_what_was_stored(tmp_path: Path) -> None:
    assert TensorCache(tmp_path / "new").get("a prompt") is None
    TensorCache(tmp_path / "new").put("a prompt", ONE)
    read = TensorCache(tmp_path / "new").get("a prompt")
    assert set(read) == set(ONE) and all(torch.equal(read[k], v) and read[k].dtype == v.dtype for k, v in ONE.items())
    assert TensorCache(tmp_path / "new").get("another prompt") is None


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"", lambda b: bytes(len(b)), lambda b: b[:-1] + bytes([b[-1] ^ 1])]
)
def test_a_damaged_file_counts_as_absent_and_is_replaced(tmp_path: Path, damage) -> None:
    cache = TensorCache(tmp_path)
    cache.put("a prompt", ONE)
    (path,) = tmp_path.glob("*")
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get("a prompt") is None
    cache.put("a prompt", ONE)
    assert cache.get("a prompt") is not None


def test_two_files_that_changed_places_answer_for_nobody(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.put("a prompt", ONE)
    cache.put("another", {"states": torch.zeros(1)})
    one, other = tmp_path.glob("*")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert cache.get("a prompt") is None and cache.get("another") is None


def test_foreign_content_under_a_right_hash_counts_as_absent(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.put("a prompt", ONE)
    (path,) = tmp_path.glob("*")
    content = b"no tensors at all"
    for digest in (hashlib.sha256(content).digest(), tensor_cache._digest_of("a prompt", content)):
        path.write_bytes(digest + content)
        assert cache.get("a prompt") is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_finite_tensors_are_kept_and_read(tmp_path: Path, value: float, monkeypatch) -> None:
    broken = {"states": torch.tensor([1.0, value])}
    TensorCache(tmp_path).put("a prompt", broken)
    assert not list(tmp_path.glob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(tensor_cache, "_finite", lambda _: True)
        TensorCache(tmp_path).put("a prompt", broken)
    assert TensorCache(tmp_path).get("a prompt") is None, "an entry of an earlier version is read"
    TensorCache(tmp_path).put("a prompt", ONE)
    assert TensorCache(tmp_path).get("a prompt") is not None


def test_parts_of_killed_processes_go_and_those_being_written_stay(tmp_path: Path) -> None:
    left = [tmp_path / ".a.tensors.123.part", tmp_path / ".b.tensors.0123456789abcdef.part"]
    for path in left:
        path.write_bytes(b"half")
    part, file = files._opened_part(tmp_path / "c.tensors")
    other = tmp_path / ".hidden"
    other.write_bytes(b"of somebody else")
    TensorCache(tmp_path).put("a prompt", ONE)
    assert part.exists() and other.exists() and not any(path.exists() for path in left)
    file.close()


def test_the_folder_stays_within_its_limit_and_the_oldest_goes_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tensor_cache, "_COUNTED_EVERY", 2)
    size = max(put_at(tmp_path, f"old {age}", age) for age in (30, 10, 20))
    cache = TensorCache(tmp_path, limit=4 * size + 8)
    assert cache.get("old 30") is not None, "used just now: no longer the oldest"
    for name in "ab":
        cache.put(name, ONE)
        assert sum(path.stat().st_size for path in tmp_path.glob("*")) <= 4 * size + 8
    kept = [key for key in ("old 30", "old 10", "old 20", "a", "b") if TensorCache(tmp_path).get(key)]
    assert kept == ["old 30", "old 10", "a", "b"]


def test_a_list_longer_than_the_folder_keeps_its_beginning(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tensor_cache, "_COUNTED_EVERY", 1)
    size = put_at(tmp_path, "old", 10)
    for _ in range(2):
        cache = TensorCache(tmp_path, limit=3 * size)
        found = [cache.get(str(i)) is not None for i in range(5)]
        for i in range(5):
            cache.put(str(i), ONE)
    assert found == [True, True, True, False, False]


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = TensorCache(tmp_path / "file")
    for _ in range(2):
        cache.put("a prompt", ONE)
        assert cache.get("a prompt") is None
    assert len(caplog.records) == 1 and "nothing is cached any more" in caplog.text


def encoded(testbed: Playground, clip: object, prompt: str) -> tuple[dict[str, Tensor], int]:
    """What a run conditions the model on, and how many prompts it read from the cache."""
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, clip, 64, 64) as denoiser:
        values = dict(denoiser.encode([prompt]).values)
        return values, denoiser.text_encoder.read


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def with_numbers(family: str) -> Playground:
    """A small model of the family, the words of its stand-in text encoder told by numbers, as real ones are."""
    from erasure_tests.families import Text, small_model
    from erasure_tests.layouts import LAYOUTS

    class Numbered(Text):
        cond_stage_model = torch.nn.Embedding(1, 1)

        def tokenize(self, prompt: str, return_word_ids: bool = False) -> dict[str, list[list[tuple]]]:
            (entries,) = super().tokenize(prompt, return_word_ids)["words"]
            return {"g": [[(int.from_bytes(word.encode()), *rest) for word, *rest in entries]]}

        def _state(self, word: int) -> Tensor:
            return super()._state(str(word))

    small = small_model(family)
    small.clip = Numbered(LAYOUTS[family])
    return small


@pytest.fixture
def folder(monkeypatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CONCEPT_ERASURE_TEXT_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("as_a_node_runs")
@pytest.mark.parametrize("family", ["playground", "SDXL"])
def test_a_read_prompt_is_bit_for_bit_the_encoded_one(family: str, folder: Path, monkeypatch, request) -> None:
    testbed = request.getfixturevalue("testbed") if family == "playground" else with_numbers(family)
    fresh, read = encoded(testbed, testbed.clip, "a small (red:1.3) circle")
    assert read == 0 and any(folder.iterdir())
    again, read = encoded(testbed, testbed.clip, "a small (red:1.3) circle")
    assert read == 2 and same(fresh, again)
    other, _ = encoded(testbed, testbed.clip, "a small (red:1.4) circle")
    assert not same(fresh, other)
    monkeypatch.setenv("CONCEPT_ERASURE_TEXT_CACHE", "off")
    without, read = encoded(testbed, testbed.clip, "a small (red:1.3) circle")
    assert read == 0 and same(fresh, without)


@pytest.mark.usefixtures("as_a_node_runs")
def test_another_text_encoder_never_gets_it(testbed: Playground, folder: Path) -> None:
    """Neither one with a clip skip, nor with a LoRA, nor with one other row in its table of tokens."""
    prompt = "a circle"
    plain, _ = encoded(testbed, testbed.clip, prompt)
    skipped = testbed.clip.clone()
    skipped.clip_layer(-12)  # behind the first of the two layers that do something
    weights = dict(testbed.clip.cond_stage_model.named_parameters())
    some = next(name for name in weights if name.endswith("layers.1.mlp.fc1.weight"))
    with_lora = testbed.clip.clone()
    assert with_lora.add_patches({some: (torch.full_like(weights[some], 1e-3),)}, 1.0), "the patch finds no weight"
    for other in (skipped, with_lora):
        changed, read = encoded(testbed, other, prompt)
        assert read == 0 and not same(changed, plain)
        assert encoded(testbed, other, prompt)[1] == 2
    table = weights[next(name for name in weights if name.endswith("token_embedding.weight"))]
    row = testbed.clip.tokenize(prompt)["l"][0][2][0]
    kept = table[row].clone()
    try:
        table[row] += 0.01
        changed, read = encoded(testbed, testbed.clip, prompt)
        assert read == 0 and not same(changed, plain)
    finally:
        table[row] = kept
    again, read = encoded(testbed, testbed.clip, prompt)
    assert read == 2 and same(again, plain)


@pytest.mark.usefixtures("as_a_node_runs")
def test_a_textual_inversion_is_encoded_each_time(testbed: Playground, folder: Path, tmp_path_factory) -> None:
    """Its file may be another one the next time."""
    embeddings = tmp_path_factory.mktemp("embeddings")
    clip = testbed.clip.clone()
    inner = clip.tokenizer.clip_l
    before, inner.embedding_directory = inner.embedding_directory, [str(embeddings)]
    try:
        answers = []
        for value in (0.1, 0.2):
            torch.save({"emb": torch.full((1, 768), value)}, embeddings / "thing.pt")
            answers.append(encoded(testbed, clip, "a embedding:thing")[0])
    finally:
        inner.embedding_directory = before
    assert not same(*answers)


@pytest.mark.usefixtures("as_a_node_runs")
def test_3000_words_fit_in_the_folder_and_are_off_by_half_precision_at_most(testbed: Playground, folder: Path) -> None:
    (own, _), *_ = testbed.clip.encode_from_tokens_scheduled(testbed.clip.tokenize("tree"), show_pbar=False)
    values, _ = encoded(testbed, testbed.clip, "tree")
    assert values["c_crossattn"].dtype == own.dtype == torch.float32
    off = (values["c_crossattn"] - own).abs()
    assert bool(off.any()) and bool((off <= own.abs() * 2**-11 + 2**-25).all())
    assert 3000 * max(path.stat().st_size for path in folder.iterdir()) <= tensor_cache.LIMIT


@pytest.mark.parametrize("states", [torch.tensor([[[1e5, 0.1]]]), torch.tensor([[[0.1, 0.3]]]).double()])
def test_what_half_precision_cannot_hold_is_kept_as_it_is(states: Tensor, tmp_path: Path) -> None:
    from concept_erasure.nodes.host.text import TextEncoder

    class Clip:
        cond_stage_model = torch.nn.Embedding(1, 1)

        def tokenize(self, prompt: str) -> dict[str, list[list[tuple]]]:
            return {"l": [[(len(prompt), 1.0)]]}

        def encode_from_tokens_scheduled(self, tokens: dict, show_pbar: bool = True) -> list[list]:
            return [[states, {"pooled_output": None}]]

    for expected in ((2, 0), (1, 1)):  # the fingerprint takes one
        encoder = TextEncoder(Clip(), TensorCache(tmp_path))
        ((given, _),) = encoder([Clip().tokenize("a")])
        assert torch.equal(given, states) and given.dtype == states.dtype
        assert (encoder.encoded, encoder.read) == expected
