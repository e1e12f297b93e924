"""The robustness benchmark: its sentences, its table, and one small run in the real host."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import robustness


def share(per_cent: float) -> dict:
    """A share as the JSON has it."""
    return {"per_cent": per_cent}


def attack(name: str, success: float, control: float, survives: bool, **settings: object) -> dict:
    """An attack's figures, as far as the table needs them."""
    shares = {"no attack": share(5.0), "attack": share(success), "control": share(control)}
    return {"attack": name, "settings": settings, "shares": shares, "survives": survives}


def test_the_sentences_have_a_gap_and_no_target() -> None:
    found = robustness.templates("circle", 0)
    assert len(found) == robustness.SENTENCES and all("{}" in one and "circle" not in one for one in found)
    assert all(one.count("{}") == 1 and "red" not in one for one in robustness.templates("red", 0))


def test_the_table_marks_what_falls_and_leaves_a_dash_where_nothing_was_run() -> None:
    rows = [
        {"method": "esd", "target": "circle", "attacks": [attack("noise", 90, 10, False), attack("p4d", 20, 15, True)]},
        {
            "method": "ap",
            "target": "circle",
            "attacks": [attack("noise", 12.5, 0, True, tries=8), attack("noise", 7, 0, True, tries=2)],
        },
    ]
    assert robustness.table(rows).splitlines() == [
        "| model | target | no attack | noise | p4d | noise tries=2 |",
        "|---|---|---|---|---|---|",
        "| esd | circle | 5 | **90** (10) | 20 (15) | - |",
        "| ap | circle | 5 | 12 (0) | - | 7 (0) |",
    ]


def test_a_gold_model_that_is_not_there_is_left_out_and_named(bed, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(robustness, "load_playground", lambda: bed)
    monkeypatch.setattr(
        robustness,
        "attacked",
        lambda _, name, *__: {"method": name, "target": "circle", "attacks": [attack("noise", 0, 0, True)]},
    )
    monkeypatch.setattr(sys, "argv", ["robustness", "--methods", "base", "gold"])
    for there in (False, True):
        path = tmp_path / f"{there}.safetensors"
        monkeypatch.setattr(robustness, "gold_checkpoint", lambda _, path=path: path)
        if there:
            path.touch()
        robustness.main()
        said = capsys.readouterr().out
        assert ("no gold row for 'circle'" in said) is not there
        names = [row["method"] for row in json.loads(said.splitlines()[-1])["rows"]]
        assert names == [robustness.BASE, robustness.GOLD][: 1 + there]


def test_the_base_model_falls_to_a_small_run_whose_last_line_is_one_object(bed, monkeypatch, capsys, tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    given = ["--methods", "base", "--attacks", "noise tries=1", "--n", "4", "--rows", str(rows)]
    monkeypatch.setattr(robustness, "load_playground", lambda: bed)
    monkeypatch.setattr(sys, "argv", ["robustness", *given])
    robustness.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = result["rows"]
    assert row["complete"] and row["attacks"][0]["shares"]["attack"]["per_cent"] >= 50
    kept = rows.read_text("utf-8")
    monkeypatch.setattr(robustness, "attacked", lambda *_: pytest.fail("a finished row was measured again"))
    robustness.main()
    assert rows.read_text("utf-8") == kept
