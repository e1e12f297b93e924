"""What trained methods share: the targets' turns, and how large an edit may be."""

from __future__ import annotations

from collections import Counter

import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.report import Report
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from erasure_tests.training import running

THREE = parse_request("circle\nsquare => star\nring")


def test_targets_take_turns_sample_by_sample() -> None:
    run, seen = running(THREE), Counter()
    whose = {
        sample.numpy().tobytes(): target for target in THREE.targets for sample in run.pool.samples(target).conditional
    }
    for run.step in range(3):
        samples, desired = run.targets(4, 1.5)
        assert len(samples.sigma) == len(desired) == 4
        step = Counter(whose[sample.numpy().tobytes()] for sample in samples.conditional)
        assert len(step) == 3, "a step of four samples left one of the three targets out"
        seen += step
    assert seen == dict.fromkeys(THREE.targets, 4)


def test_each_targets_samples_come_with_its_own_desired_predictions() -> None:
    run = running(THREE)
    samples, desired = run.targets(6, 1.5)
    for pair in THREE.pairs:
        own = run.pool.samples(pair.target)
        anchor, neutral = (run.pool.anchor_predictions(pair.target, words) for words in (pair.anchor, ""))
        expected = anchor - 1.5 * (own.conditional - neutral)
        for sample, wanted in zip(samples.conditional, desired, strict=True):
            rows = [i for i, other in enumerate(own.conditional) if torch.equal(sample, other)]
            assert all(torch.allclose(expected[i], wanted, atol=1e-5) for i in rows)


def test_the_rank_counts_for_each_concept() -> None:
    for request in (parse_request("circle"), THREE):
        erased = make("esd", rank=2).erase(ToyDenoiser(), request, Report())
        ranks = {value.shape[0] for key, value in erased.tensors.items() if key.endswith("lora_down.weight")}
        assert ranks == {2 * len(request.pairs)}
