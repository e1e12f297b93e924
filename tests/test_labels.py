"""Which label a word means: the one that is the word before the first that lists it."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.evaluation.judges.judge import ConceptJudge, Factor
from concept_erasure.erasure_core.evaluation.judges.labels import says

IMAGENET = (
    "ruffed grouse, partridge, Bonasa umbellus",
    "partridge",
    "Cardigan, Cardigan Welsh corgi",
    "cardigan",
    "harmonica, mouth organ, harp, mouth harp",
    "harp",
    "Van_Gogh",
    "tench, Tinca tinca",
    "polish",
    "Polish",
)
"""Labels as classifiers of ImageNet's classes and of UnlearnCanvas' styles call them."""
FACTOR = Factor("kind", IMAGENET, lambda images: images)


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("cardigan", "cardigan"),
        ("harp", "harp"),
        ("partridge", "partridge"),
        ("Partridge ", "partridge"),
        ("mouth harp", "harmonica, mouth organ, harp, mouth harp"),
        ("cardigan welsh CORGI", "Cardigan, Cardigan Welsh corgi"),
        ("Polish", "Polish"),
        ("polish", "polish"),
        ("van gogh", "Van_Gogh"),
        ("tinca_tinca", "tench, Tinca tinca"),
        ("goldfish", None),
    ],
)
def test_a_word_means_the_label_that_is_it_before_the_first_that_lists_it(word, label) -> None:
    assert FACTOR.label_of(word) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("a photo of a partridge", "partridge"),
        ("two cardigans on a chair", "cardigan"),
        ("a Cardigan Welsh corgi", "Cardigan, Cardigan Welsh corgi"),
        ("harps", "harp"),
        ("shoe polish", "polish"),
        ("a Polish flag", "Polish"),
        ("A Dogs image in Van Gogh style.", "Van_Gogh"),
        ("a sharp picture", None),
    ],
)
def test_a_sentence_says_the_label_that_its_word_means(text, label) -> None:
    assert FACTOR.said_in(text) == label


def test_of_several_factors_the_one_that_has_the_word_itself_is_asked() -> None:
    clothes = Factor("clothes", ("cardigan", "hat"), torch.zeros_like)
    dogs = Factor("dogs", ("Cardigan, Cardigan Welsh corgi", "pug"), torch.zeros_like)
    judge = ConceptJudge("both", (dogs, clothes))
    assert judge.factor_of("cardigan") is clothes and judge.factor_of("pug") is dogs
    assert judge.factor_of("tree") is None


def test_a_label_that_stands_twice_counts_twice() -> None:
    cranes = Factor("kind", ("crane", "heron", "crane"), lambda pictures: torch.zeros(len(pictures), 3))
    judge = ConceptJudge("birds and machines", (cranes,))
    assert judge.confidence(torch.zeros(1, 2, 2, 3), "crane").item() == pytest.approx(2 / 3)


def test_names_are_found_as_whole_words_in_any_case_and_number() -> None:
    assert says("A Golf_Ball and", "golf ball") == "Golf Ball" and says("boxes", "box") == "box"
    assert says("a string", "ring") == says("anything", "") == says("circus", "circ") == ""
