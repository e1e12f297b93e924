"""The robustness benchmark: its sentences, its table, and one small run in the real host."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from benchmarks import robustness
from benchmarks.instruments import runs


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


def test_a_gold_model_that_is_not_there_is_left_out_and_named(testbed, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(robustness, "load_playground", lambda: testbed)
    monkeypatch.setattr(
        robustness,
        "attacked",
        lambda _, name, *__: {"method": name, "target": "circle", "attacks": [attack("noise", 0, 0, True)]},
    )
    monkeypatch.setattr(sys, "argv", ["robustness", "--methods", "base", "gold", "--processes", "1"])
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


PROGRAM = """
import argparse
from benchmarks.instruments import runs
parser = argparse.ArgumentParser()
parser.add_argument("keys", nargs="*")
runs.add_arguments(parser)
runs.add_processes(parser, 2)
arguments = parser.parse_args()
def run(name):
    assert name != "bad"
    return {"is": f"{name} by {arguments.share}", "writes": arguments.write}
keys = [(name,) for name in arguments.keys]
print(len(list(runs.each(keys, arguments, run, runs.divided("program", keys, arguments)))))
"""


def test_runs_are_divided_between_processes_and_what_is_done_is_kept(monkeypatch, tmp_path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setattr(runs, "PACK", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(runs.__file__).parents[2]))
    rows = tmp_path / "rows.jsonl"
    arguments = argparse.Namespace(rows=rows, share="0/1", processes=2)

    def divided(*names: str) -> list[dict]:
        monkeypatch.setattr(sys, "argv", ["program", *names, "--write", "--rows", "elsewhere"])
        return runs.divided("program", [(name,) for name in names], arguments)

    with pytest.raises(SystemExit, match="a process failed"):
        divided("a", "b", "c", "bad")
    assert [row["key"] for row in map(json.loads, rows.read_text("utf-8").splitlines())] == [["a"], ["c"], ["b"]]
    found = divided("a", "b", "c", "d", "e")
    assert [(row["is"], row["writes"]) for row in found] == [("e by 0/2", False), ("d by 1/2", False)]
    assert divided("a", "b", "c", "d", "e", "f") == [], "one run is not divided"
    made = [row["is"] for row in runs.each([("a",), ("e",), ("f",)], arguments, lambda _: {"is": "made here"})]
    assert made == ["a by 0/2", "e by 0/2", "made here"]


def test_the_base_model_falls_to_a_small_run_whose_last_line_is_one_object(
    testbed, monkeypatch, capsys, tmp_path
) -> None:
    rows = tmp_path / "rows.jsonl"
    given = ["--methods", "base", "--attacks", "noise tries=1", "--n", "4", "--rows", str(rows)]
    monkeypatch.setattr(robustness, "load_playground", lambda: testbed)
    monkeypatch.setattr(sys, "argv", ["robustness", *given])
    robustness.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    (row,) = result["rows"]
    assert row["complete"] and row["attacks"][0]["shares"]["attack"]["per_cent"] >= 50
    kept = rows.read_text("utf-8")
    monkeypatch.setattr(robustness, "attacked", lambda *_: pytest.fail("a finished row was measured again"))
    robustness.main()
    assert rows.read_text("utf-8") == kept
