"""What is said where no browser can be driven, so that its tests are skipped with a reason."""

from __future__ import annotations

import pytest

from devtools.serving import browser


def test_what_is_missing_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CONCEPT_ERASURE_CHROMIUM", raising=False)
    assert browser.missing().startswith("node, npm, chromium not found; on Debian and Ubuntu: apt-get install")
    with pytest.raises(browser.BrowserError, match="chromium not found"):
        browser.driver()


def test_a_named_browser_is_taken(monkeypatch, tmp_path):
    for name in ("node", "npm"):
        (tmp_path / name).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CONCEPT_ERASURE_CHROMIUM", "/opt/some/browser")
    assert browser.missing() is None
