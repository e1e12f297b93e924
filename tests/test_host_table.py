"""The table of what is reached of ComfyUI's private parts is true, and what no other test notices is noticed here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from erasure_tests.families import small_model

from devtools.hosting.inprocess import load_comfy

ROOT = Path(__file__).parent.parent
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "host.md").read_text(encoding="utf-8").splitlines()
    if "`tests/" in line
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_row_names_code_and_a_test_that_exist(row: list[str]) -> None:
    reached, where, _why, test = row
    code = (ROOT / where.strip("`")).read_text(encoding="utf-8")
    names = [name for name in re.findall(r"`([\w.]+)`", reached) if name != "conds"]
    missing = [name for name in names if name.removesuffix("_function").removeprefix("sampler_") not in code]
    assert not missing, f"{where} no longer reaches {missing}"
    path, name = test.strip("`").split("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_our_folders_list_safetensors_only(monkeypatch, tmp_path: Path) -> None:
    load_comfy()
    import folder_paths
    from concept_erasure.nodes import host

    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    for name in ("edit.safetensors", "edit.ckpt", "edit.txt"):
        (tmp_path / name).write_bytes(b"")
    host.register_folder("erasure_test_kind", str(tmp_path))
    assert host.file_names("erasure_test_kind") == ["edit.safetensors"]


@pytest.mark.usefixtures("as_a_node_runs")
def test_a_clone_that_was_loaded_meanwhile_is_noticed() -> None:
    load_comfy()
    import torch
    from concept_erasure.nodes import host

    testbed = small_model("SD1.5")
    other = testbed.model.clone()
    weight = "diffusion_model.out.2.weight"
    other.add_patches({weight: (torch.ones_like(testbed.model.model.state_dict()[weight]),)})
    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        text, latents, sigma = denoiser.encode(["circle"]), denoiser.empty_latents(1), denoiser.sigmas(2)[:1]
        assert denoiser.predict(latents, sigma, text).isfinite().all()
        host.use(other)
        with pytest.raises(RuntimeError, match="another clone of this MODEL was loaded"):
            denoiser.predict(latents, sigma, text)
