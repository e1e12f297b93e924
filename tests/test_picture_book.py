"""The picture book's data, words, training and checkpoint, on a handful of made-up pictures: nothing here downloads."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from devtools.hosting.errors import ToolError
from devtools.hosting.inprocess import load_comfy
from playground.drawing import BACKGROUND
from playground.picture_book import build, judge, sampling, sources, text, things, train, unet, weights, words
from playground.picture_book.autoencoder import reconstructed
from playground.picture_book.drawing import Book
from playground.training import Schedule
from playground.unet import new_unet
from playground.weights import stored_autoencoder

FRUIT = ("melon", "lemon", "banana", "mango", "pear", "peach")
TOOLS = ("hammer", "axe", "bomb", "shield", "magnet")


@pytest.fixture(scope="module", autouse=True)
def comfy() -> None:
    load_comfy()
    torch.set_flush_denormal(True)


def write_picture(packages: Path, style: sources.Style, code: str, number: int) -> None:
    """A polygon whose corners and colour say which thing it is, on a clear ground."""
    picture = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    colour = (40 * number % 256, 90 * number % 256, 60 + 20 * len(style.word))
    ImageDraw.Draw(picture).regular_polygon((32, 32, 30), 3 + number, fill=(*colour, 255))
    folder = packages / style.package.folder / "package" / style.folder
    folder.mkdir(parents=True, exist_ok=True)
    picture.save(folder / f"{code}{style.ending}", lossless=True)


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """Packages of fruit and tools, and of entries that do not belong in the book."""
    packages = tmp_path_factory.mktemp("packages")
    rows = []

    def add(
        name: str, group: int, subgroup: int, picture: int, code: str, files: tuple[str, ...] | None = None
    ) -> None:
        rows.append({"hexcode": code.upper(), "label": name, "group": group, "subgroup": subgroup})
        for style, file in zip(sources.STYLES, files or (code, code, code), strict=False):
            write_picture(packages, style, file, picture)

    for number, name in enumerate(FRUIT):
        # one file without the variation selector that the name in the data has
        add(name, 4, 40, number, f"1f0{number}-fe0f", (f"1f0{number}", f"1f0{number}-fe0f", f"1f0{number}"))
    for number, name in enumerate(TOOLS):
        add(name, 7, 70, 6 + number, f"2f{number}")
    add("Melon", 4, 40, 0, "3f0")  # the picture of another thing
    add("cat face", 4, 40, 1, "3f1")
    add("one o’clock", 4, 40, 1, "3f2")
    add("alembic", 4, 40, 15, "3f3")  # several tokens
    add("mate", 4, 40, 3, "3f4")  # left out by hand
    add("olive", 4, 40, 4, "3f5", ("3f5", "3f5"))  # no glossy picture
    add("apple pie", 4, 40, 12, "3f6")  # two words: only where all are taken
    add("door", 7, 71, 13, "3f7")  # alone in its subgroup
    add("smile", 0, 1, 14, "3f8")  # not a thing
    data = packages / sources.NAMES.folder / "package"
    (data / "meta").mkdir(parents=True)
    (data / "en").mkdir()
    subgroups = {"40": "food-fruit", "70": "tool", "71": "household", "1": "face"}
    (data / "meta" / "groups.json").write_text(json.dumps({"subgroups": subgroups}), encoding="utf-8")
    (data / "en" / "data.json").write_text(json.dumps([*rows, {"hexcode": "1F3FB", "label": "skin"}]), encoding="utf-8")
    return packages


@pytest.fixture(scope="module")
def book(packages) -> Book:
    return Book(*things.load(packages))


def test_the_book_holds_what_can_be_told_apart(packages) -> None:
    kept, pictures = things.load(packages)
    assert [thing.name for thing in kept] == [*FRUIT, *TOOLS]
    assert {thing.subgroup for thing in kept} == {"food-fruit", "tool"}
    assert pictures.shape == (11, 3, 4, 64, 64) and pictures.dtype == torch.uint8
    assert not pictures[..., :2, :2].any(), "the hidden colour of clear parts is left in"
    everything = [thing.name for thing in things.load(packages, None)[0]]
    assert {"apple pie", "alembic"} < set(everything) and "olive" not in everything


def test_a_large_subgroup_gives_its_look_alikes_and_synonyms_first() -> None:
    names = ("monkey", "dog", "wolf", "cat", "lion", "tiger", "ox", "cow", "pig", "koala", "panda", "sloth", "otter")
    group = [sources.Entry(name, name, 3, "animal-mammal") for name in names]
    chosen = [entry.name for entry in things.spread(group, 8)]
    assert len(chosen) == 8 and chosen == [name for name in names if name in chosen]
    assert {"cat", "lion", "tiger", "dog", "wolf"} < set(chosen)
    assert any(name in words.SYNONYMS for name in chosen if name not in things.FIRST)
    assert things.spread(group, None) == group


def test_an_archive_that_is_not_the_pinned_one_is_not_unpacked(tmp_path) -> None:
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("package/file")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"hi"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(ToolError, match=f"has SHA-256 {digest}, not the pinned 00"):
        sources.unpack(archive, sources.Package("some@1.0.0", "00"), tmp_path)
    assert not (tmp_path / "package").exists()
    sources.unpack(archive, sources.Package("some@1.0.0", digest), tmp_path)
    assert (tmp_path / "package" / "file").read_bytes() == b"hi"


def test_renderings_are_moved_and_mirrored_within_bounds(book) -> None:
    thing = torch.arange(11).repeat_interleave(40)
    style = torch.arange(3).repeat(200)[: len(thing)]
    rendering = book.render(thing, style, torch.Generator().manual_seed(0))
    again = book.render(thing, style, torch.Generator().manual_seed(0))
    assert torch.equal(rendering.pictures, again.pictures)
    assert (rendering.pictures[:, :, 0, 0] - BACKGROUND).abs().max() < 1e-6
    assert rendering.pictures.min() >= 0 and rendering.pictures.max() <= 1
    weight = rendering.drawn[:, 0] / rendering.drawn.sum((1, 2, 3), keepdim=True)[:, 0]
    columns = (weight.sum(1) * (torch.arange(64) - 31.5)).sum(1)
    assert columns.abs().max() < 5 and columns.std() > 0.5
    assert {True, False} == {thing.mirrors for thing in book.things}
    assert all(thing.mirrors == (thing.name in FRUIT) for thing in book.things)


def test_synonyms_are_single_words_that_mean_one_thing() -> None:
    said = [word for others in words.SYNONYMS.values() for word in others]
    assert len(said) >= 60 and len(said) == len(set(said))
    assert not {*said, *words.CATEGORIES.values()} & set(words.SYNONYMS)
    assert all(words.is_one_token(word) for word in (*said, *words.SYNONYMS, *words.CATEGORIES.values()))
    assert not words.is_one_token("alembic")
    if weights.is_complete():
        assert not {*said, *words.CATEGORIES.values()} & {thing.name for thing in weights.stored_things()}


def test_captions_leave_words_out_and_say_synonyms() -> None:
    generator = torch.Generator().manual_seed(0)
    said = Counter(words.random_caption("cat", "mammal", "flat", generator) for _ in range(2000))
    assert set(said) <= set(words.every_caption(["cat"], ["mammal"]))
    assert said[""] / 2000 == pytest.approx(words.EMPTY, abs=0.02)
    assert {"a cat", "a drawing of a cat in flat style", "kitty", "a kitten in flat style"} <= set(said)
    styled = sum(count for caption, count in said.items() if caption.endswith("flat style"))
    assert styled / (2000 - said[""]) == pytest.approx(1 - words.STYLE_LEFT_OUT, abs=0.04)
    named, category = (sum(count for text, count in said.items() if word in text) for word in ("cat", "mammal"))
    assert category / (2000 - said[""]) == pytest.approx(words.CATEGORY, abs=0.03)
    assert named / (2000 - said[""] - category) == pytest.approx(1 - words.SYNONYM, abs=0.04)


@pytest.mark.parametrize(
    ("name", "said"),
    [("cat", "a cat"), ("owl", "an owl"), ("jeans", "jeans"), ("octopus", "an octopus"), ("cactus", "a cactus")],
)
def test_names_are_said_with_their_article(name, said) -> None:
    assert words.phrase(name) == said


def test_only_the_words_used_are_learned_and_only_by_their_gradients() -> None:
    tokens = text.used_tokens(words.every_caption(["cat", "owl"], ["mammal"]))
    learning = text.Words(tokens, text.seeded_weights(), torch.zeros(len(tokens), 768))
    assert [name for name, _ in learning.named_parameters()] == ["learned.weight"]
    assert 10 < len(tokens) < 25
    asked = words.token_ids(["a drawing of a cat in flat style"])
    learning(asked)[:, 5].square().sum().backward()
    moved = tokens[learning.learned.weight.grad.abs().amax(1) > 0]
    assert set(moved.tolist()) == set(asked[0, :6].tolist()), (
        "a word has learned from what comes after it, or not at all"
    )


def test_words_start_where_their_pictures_put_them() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(4, 256, generator=generator)
    drawn[1] = drawn[0] + 0.5 * torch.randn(256, generator=generator)  # two look-alikes
    names = ("cat", "tiger", "hammer", "pie")
    which = torch.arange(4).repeat_interleave(50)
    captions = [words.random_caption(names[row], "", "flat", generator) for row in which]
    tokens = text.used_tokens(captions)
    place = text.seen(tokens, captions, drawn[which])

    def near(one: str, other: str) -> float:
        rows = [place[torch.searchsorted(tokens, words.token_ids([word])[0, 1])] for word in (one, other)]
        return float(torch.cosine_similarity(*rows, dim=0))

    assert near("cat", "kitty") > 0.95 > near("cat", "tiger") > near("cat", "hammer") + 0.3
    common = torch.searchsorted(tokens, words.token_ids(["a"])[0, 1])
    assert place[common].norm() < 0.5 * place.norm(dim=1).max(), "a word that is said of everything has a picture"


def train_unet(folder: Path, latents: unet.Latents, steps: int, until: int) -> unet.Drawer:
    """Train to `until` of a schedule of `steps`, saved at every step."""

    class Stopped(Exception):
        pass

    calls = iter(range(steps + 1))
    batch = latents.batch

    def stopping(*given):
        if next(calls) == until:
            raise Stopped
        return batch(*given)

    object.__setattr__(latents, "batch", stopping)
    try:
        return unet.train_with_words(folder, latents, Schedule(steps=steps, batch=4, learning_rate=1e-3))
    except Stopped:
        return None
    finally:
        object.__delattr__(latents, "batch")


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(book, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(unet, "RENDERINGS", 2)
    monkeypatch.setattr(unet, "SAVE_EVERY", 1)
    latents = unet.Latents.of(book, stored_autoencoder())
    assert latents.values.shape == (11 * 3 * 2, 4, 8, 8)
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = train_unet(tmp_path / "whole", latents, 6, until=6)
    assert train_unet(tmp_path / "stopped", latents, 6, until=4) is None
    resumed = train_unet(tmp_path / "stopped", latents, 6, until=2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert not torch.equal(whole.words.rows(), whole.words.start), "the words have not learned"
    rows = whole.words.rows().clone()
    alone = unet.train_alone(tmp_path, latents, whole, Schedule(steps=2, batch=4, learning_rate=1e-3, ema=0.0))
    assert torch.equal(whole.words.rows(), rows), "the words have learned after their stage"
    assert not torch.equal(alone.state_dict()["out.2.weight"], new_unet().state_dict()["out.2.weight"])


def seeded_words(book: Book) -> text.Words:
    """Words that have seen nothing."""
    tokens = text.used_tokens(things.captions_of(book.things))
    return text.Words(tokens, text.seeded_weights(), torch.zeros(len(tokens), 768))


def random_weights(folder: Path, book: Book) -> None:
    """What a training leaves, of networks that have learned nothing."""
    learning = seeded_words(book)
    weights.store_things(book.things, folder)
    weights.store_words(learning.tokens, learning.rows(), folder)
    for name, network in (("unet", new_unet()), ("autoencoder", stored_autoencoder())):
        weights.store_network(name, network, folder)
    for factor in judge.FACTORS:
        weights.store_judge(factor, judge.new_judge(judge.labels(factor, book.things)), folder)
    row = {"fresh renderings": judge.Accuracy(0.5, 0.9, 20)}
    weights.store_accuracy(dict.fromkeys(judge.FACTORS, row), folder)


def test_what_is_built_is_what_comfyui_loads_as_sd15(book, tmp_path) -> None:
    import comfy.sd
    from transformers import AutoModelForImageClassification

    random_weights(tmp_path, book)
    assert weights.is_complete(tmp_path) and weights.stored_things(tmp_path) == book.things
    build.build_checkpoint(tmp_path / "book.safetensors", tmp_path)
    build.build_judges(tmp_path / "judges", tmp_path)
    with torch.inference_mode():
        model, clip, _, _ = comfy.sd.load_checkpoint_guess_config(str(tmp_path / "book.safetensors"))
        said = "a drawing of a melon in glossy style"
        states = clip.encode_from_tokens_scheduled(clip.tokenize(said), show_pbar=False)[0][0]
    assert type(model.model.model_config).__name__ == "SD15"
    # what ComfyUI encodes is what the UNet was trained on
    learning = seeded_words(book)
    torch.testing.assert_close(states, text.hidden_states(learning, [said]).float(), atol=0.06, rtol=0.02)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "judges" / "thing")
    assert list(loaded.config.id2label.values()) == [*FRUIT, *TOOLS]
    assert json.loads((tmp_path / "judges" / "style" / "accuracy.json").read_text())["right"] == 10
    found, pictures = sampling.judged(tmp_path / "book.safetensors", weights.stored_judges(tmp_path), FRUIT[:2], 8)
    assert pictures.shape == (8, 3, 64, 64) and found["thing"].n == 8 and found["style"].n == 6
    assert 0 <= found["thing"].top1 <= found["thing"].top5 <= 1


def test_questions_ask_for_every_thing_in_every_style_and_in_none() -> None:
    prompts, thing, style = sampling.questions(["cat", "owl"], 8)
    assert Counter(zip(thing.tolist(), style.tolist(), strict=True)) == Counter(
        (t, s) for t in range(2) for s in (0, 1, 2, -1)
    )
    assert all(("cat", "owl")[int(t)] in prompt for t, prompt in zip(thing, prompts, strict=True))
    assert all(("style" in prompt) == (int(s) >= 0) for s, prompt in zip(style, prompts, strict=True))


def test_the_decoder_learns_and_the_latents_stay(book, tmp_path) -> None:
    before = stored_autoencoder()
    after = train.autoencoder.train_decoder(tmp_path, book, before, Schedule(steps=2, batch=2, learning_rate=1e-3))
    changed = {
        name.split(".")[0]
        for name, old in before.state_dict().items()
        if not torch.equal(old, after.state_dict()[name])
    }
    assert changed == {"taesd_decoder"}


def test_the_unet_is_not_trained_on_an_autoencoder_that_blurs_things(book, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(judge, "FRESH", 40)
    monkeypatch.setattr(train.autoencoder, "train_autoencoder", lambda *_: stored_autoencoder())
    monkeypatch.setattr(train.autoencoder, "train_decoder", lambda *_: stored_autoencoder())
    one = Schedule(steps=1, batch=2, learning_rate=1e-6)
    monkeypatch.setattr(judge, "FIRST", dict.fromkeys(judge.FACTORS, one))
    training = train.Training(tmp_path, tmp_path / "weights", book)
    with pytest.raises(ToolError, match=r"reconstructions are judged right, and the UNet needs 95%"):
        train.train_autoencoder(training)
    assert not (tmp_path / "weights").exists()


def test_judges_are_right_where_they_are(book) -> None:
    rendering = book.random(30, torch.Generator().manual_seed(0))

    class Knowing(torch.nn.Module):
        """Says the true thing of every second picture, and gives it the second place in the others."""

        def forward(self, pixel_values):
            right = torch.nn.functional.one_hot(rendering.thing, 11).float()
            other = torch.nn.functional.one_hot((rendering.thing + 1) % 11, 11).float()
            share = torch.where(torch.arange(30) % 2 == 0, 0.0, 2.0)[:, None]
            return type("Answer", (), {"logits": right + share * other})

    found = judge.accuracy(Knowing(), rendering.pictures, rendering.thing)
    assert (found.top1, found.top5, found.n) == (0.5, 1.0, 30)
    assert reconstructed(stored_autoencoder(), rendering.pictures).shape == rendering.pictures.shape


@pytest.mark.skipif(not weights.is_complete(), reason="the picture book has no weights yet: run make picture-book")
def test_the_book_that_is_shipped_draws_what_is_asked() -> None:
    """On 95 prompts of all styles and of none, with room for chance; docs/picture_book.md has the figures."""
    from testbed.playground import load_picture_book

    book = load_picture_book()
    prompts, thing, style = (all_of[::8] for all_of in sampling.questions(list(book.labels["thing"]), 756))
    seen = book.judged(book.draw(book.model, prompts, seed=7))
    right = [name == book.labels["thing"][int(t)] for name, t in zip(seen["thing"], thing, strict=True)]
    styled = [word == book.labels["style"][int(s)] for word, s in zip(seen["style"], style, strict=True) if s >= 0]
    assert sum(right) >= 0.9 * len(right), f"{sum(right)} of {len(right)} things are right"
    assert sum(styled) >= 0.85 * len(styled), f"{sum(styled)} of {len(styled)} styles are right"
