"""The prompts of an evaluation, in groups, from templates or typed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..concepts import ARROW, arrow_parts, check_words
from .judges.labels import says

TARGET, SYNONYM, LOOK_ALIKE, RETAIN, EMPTY = "target", "synonym", "look-alike", "retain", "empty prompt"
GONE = (TARGET, SYNONYM)
"""Groups whose concept should be gone."""
KEPT = (LOOK_ALIKE, RETAIN)
"""Groups whose concept should still be there."""
GROUPS = (*GONE, *KEPT, EMPTY)
LONGEST = 2000
GAP = "{}"


@dataclass(frozen=True)
class Prompt:
    """A prompt, its group, and the concept that a picture of it shows by right ("" if nobody said).

    A prompt set may bring its own `seed`, `guidance_scale` and `size` (width, height); None takes those of the evaluation.
    `beside` is what else a picture of it shows by right, as the object beside the style.
    """

    text: str
    group: str
    concept: str = ""
    seed: int | None = None
    guidance_scale: float | None = None
    size: tuple[int, int] | None = None
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line that somebody wrote: a prompt or word, the concept behind an arrow ("" without one), and its number."""

    number: int
    text: str
    concept: str


def written(text: str, field: str) -> Iterator[Line]:
    """The lines `text` or `text => concept` of a field, without empty ones and comments (#).

    Raises ValueError, naming the field and the line, for a second arrow, a line without words or one that is too long.
    """
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        check_length(line, f"{field}, line {number}")
        parts = arrow_parts(line)
        if len(parts) > 2 or not all(parts):
            raise ValueError(
                f"{field}, line {number}: {line!r} is not understood; write a prompt, or 'prompt {ARROW} concept'"
            )
        try:
            check_words(parts[0])
        except ValueError as error:
            raise ValueError(f"{field}, line {number}: {error}") from error
        yield Line(number, parts[0], parts[1] if len(parts) == 2 else "")


def check_length(text: str, where: str = "") -> None:
    """Raise ValueError, beginning with `where`, if a prompt is longer than any text encoder reads: it was pasted by mistake."""
    before = f"{where}: " if where else ""
    if len(text) > LONGEST:
        raise ValueError(
            f"{before}the prompt {text[:40]!r}... has {len(text)} characters, at most {LONGEST} are taken; shorten it"
        )


def parse_templates(text: str) -> tuple[str, ...]:
    """The sentences of a field, one a line, each with `{}` for the concept. Raises ValueError for one without."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        check_length(line, f"templates, line {number}")
        if GAP not in line:
            raise ValueError(
                f"templates, line {number}: {line!r} has no {GAP} for the concept; write for example 'a {GAP}'"
            )
    if not lines:
        raise ValueError(f"templates is empty; write at least one sentence with {GAP} for the concept, as 'a {GAP}'")
    return tuple(lines)


def in_templates(words: Sequence[tuple[str, str]], templates: Sequence[str], group: str) -> list[Prompt]:
    """Each word (with the concept that it stands for) in each template."""
    return [Prompt(sentence.replace(GAP, word), group, concept) for word, concept in words for sentence in templates]


def prompt_groups(
    targets: Sequence[str],
    templates: Sequence[str],
    *,
    target_prompts: str = "",
    synonyms: str = "",
    look_alikes: str = "",
    retain_prompts: str = "",
    from_file: Sequence[Prompt] = (),
) -> list[Prompt]:
    """All prompts of an evaluation, in the order of `GROUPS`; the empty prompt ends it.

    The targets, the synonyms (`word`, or `word => target` if there are several targets) and the look-alikes are put into
    the templates; `target_prompts` and `retain_prompts` are whole prompts, with `=> concept` where the text does not say
    it. The target prompts of a file take the place of the targets in the templates.
    """
    words = [(line.text, line.concept or targets[0]) for line in written(synonyms, "synonyms")]
    for word, concept in words:
        if concept not in targets:
            raise ValueError(f"synonyms: {word!r} is to mean {concept!r}, which is no concept of this evaluation")
    alike = [(line.text, line.concept or line.text) for line in written(look_alikes, "look_alikes")]
    typed = [
        Prompt(line.text, TARGET, line.concept or named(line.text, targets))
        for line in written(target_prompts, "target_prompts")
    ]
    retained = [Prompt(line.text, RETAIN, line.concept) for line in written(retain_prompts, "retain_prompts")]

    # a file's target prompts say themselves how the concept is asked for
    asked = any(prompt.group in GONE for prompt in from_file)
    groups = [
        *([] if asked else in_templates([(target, target) for target in targets], templates, TARGET)),
        *from_file,
        *typed,
        *in_templates(words, templates, SYNONYM),
        *in_templates([pair for pair in alike if pair[0] not in targets], templates, LOOK_ALIKE),
        *retained,
        Prompt("", EMPTY),
    ]
    return list(dict.fromkeys(groups))


def named(text: str, targets: Sequence[str]) -> str:
    """The target that a prompt means: one that it says as whole words, else the first."""
    return next((target for target in targets if says(text, target)), targets[0])
