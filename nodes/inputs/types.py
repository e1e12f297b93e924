"""The pack's own socket types."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

CATEGORY = "model/erasure"
ErasedUNetType = io.Custom("ERASED_UNET")
ConceptSAEType = io.Custom("CONCEPT_SAE")
ConceptJudgeType = io.Custom("CONCEPT_JUDGE")
