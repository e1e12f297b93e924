"""What the registry publishes: the archive, unpacked into a fresh ComfyUI, is all that a user needs and nothing else."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools import archive
from devtools.hosting import comfyui
from devtools.hosting.errors import ToolError
from devtools.serving import server

ROOT = comfyui.PACK
NOT_FOR_USERS = ("tests", "benchmarks", "devtools", "playground", "testbed", "docs", "findings", ".github", ".ci")
FLAGGED = r"""(?x) \bimport_module\b | \bspec_from_file_location\b | \b__import__\b | \bsubprocess\b | \bos\.system\b
    | \bexec\( | (?<![.\w])eval\( | \bpickle\b | \bctypes\b"""
"""What the registry's scanner has flagged packs for; a flagged version cannot be installed."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The archive, built by the registry's tool and unpacked."""
    folder = tmp_path_factory.mktemp("archive")
    try:
        with zipfile.ZipFile(archive.build(folder / "node.zip")) as packed:
            packed.extractall(folder / "pack")
    except ToolError as error:
        if (ROOT / ".git").exists():
            raise
        pytest.skip(f"the archive is built of what git tracks, and this is no checkout: {error}")
    return folder / "pack"


@pytest.fixture(scope="module")
def published(unpacked: Path, tmp_path_factory) -> Iterator[server.Server]:
    """A ComfyUI with nothing but the unpacked archive, in a fresh base folder."""
    base = tmp_path_factory.mktemp("published")
    with server.running_server(comfyui.ensure(), base, pack=unpacked) as running:
        yield running


def fetched(running: server.Server, path: str) -> bytes:
    """What the server answers. Raises HTTPError, as for a page that is not there."""
    with urllib.request.urlopen(running.url + urllib.parse.quote(path), timeout=60) as answer:
        return answer.read()


def test_the_archive_has_what_users_need_and_nothing_of_what_only_developers_do(unpacked: Path) -> None:
    tops = {path.name for path in unpacked.iterdir()}
    assert {"__init__.py", "nodes", "erasure_core", "web", "locales", "workflows", "pyproject.toml"} <= tops
    assert not tops & set(NOT_FOR_USERS)
    for folder in ("web", "locales", "workflows", "subgraphs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                assert (unpacked / path.relative_to(ROOT)).is_file(), f"{path.relative_to(ROOT)} is not in the archive"
    weights = [path for path in unpacked.rglob("*") if path.suffix in {".safetensors", ".pt", ".ckpt", ".bin"}]
    assert weights == []


def test_the_patterns_of_the_ignore_file_match_one_place_each() -> None:
    """`docs/` without a slash before it took the help pages in `web/docs/` along."""
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    assert all(line.startswith(("/", "#")) for line in lines if line)


def test_the_published_code_has_nothing_that_the_registry_flags(unpacked: Path) -> None:
    for path in unpacked.rglob("*.py"):
        found = re.findall(FLAGGED, path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(unpacked)}: {found}"


def test_every_node_of_the_archive_is_loaded_and_has_its_help(published: server.Server, unpacked: Path) -> None:
    ours = {name for name, entry in server.object_info(published).items() if _is_ours(entry)}
    assert {path.parent.name for path in unpacked.glob("web/docs/*/en.md")} == ours
    for node in ours:
        for page in (f"{node}/en.md", f"{node}.md"):
            text = fetched(published, f"/extensions/{server.PACK_NAME}/docs/{page}").decode("utf-8")
            assert text.startswith("# ")
            for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text):
                assert fetched(published, f"/extensions/{server.PACK_NAME}/docs/{picture}")
    with pytest.raises(urllib.error.HTTPError):  # the control: what is not there is not served
        fetched(published, f"/extensions/{server.PACK_NAME}/docs/NoSuchNode.md")


def _is_ours(entry: dict) -> bool:
    return entry["python_module"] == f"custom_nodes.{server.PACK_NAME}"


def test_the_host_serves_every_language_and_template_of_the_archive(published: server.Server, unpacked: Path) -> None:
    texts = json.loads(fetched(published, "/i18n"))
    for language in (path.name for path in (unpacked / "locales").iterdir()):
        assert "ErasureEraseConcept" in texts[language]["nodeDefs"]
    listed = json.loads(fetched(published, "/workflow_templates"))[server.PACK_NAME]
    assert set(listed) == {path.stem for path in (unpacked / "workflows").glob("*.json")}
    for name in listed:
        place = f"/api/workflow_templates/{server.PACK_NAME}/{name}"
        assert json.loads(fetched(published, f"{place}.json"))["nodes"]
        assert fetched(published, f"{place}.jpg").startswith(b"\xff\xd8")


def test_the_changes_of_a_version_are_its_section_of_the_changelog(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n', encoding="utf-8")
    log = "# Changelog\n\n## [Unreleased]\n\nlater\n\n## [1.2.0] - 2026-01-02\n\n### Added\n\n- this\n\n## [1.1.0]\n\nbefore\n"
    (tmp_path / "CHANGELOG.md").write_text(log, encoding="utf-8")
    assert archive.changes(tmp_path) == "### Added\n\n- this\n"
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n- later\n", encoding="utf-8")
    with pytest.raises(ToolError, match=r"1\.2\.0"):
        archive.changes(tmp_path)


def test_the_registrys_fields_are_ones_that_it_reads() -> None:
    """comfy-cli drops all accelerators when it does not know one of them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    known = {f"GPU :: {name}" for name in ("NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal")}
    assert set(re.findall(r'"Environment :: (.+)"', text)) == known
    for field in ("Icon", "Banner"):
        (place,) = re.findall(
            rf'^{field} = "https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/(.+)"$', text, re.MULTILINE
        )
        assert (ROOT / place).is_file(), f"{field}: there is no {place}"
