"""The entry point that ComfyUI asks for the nodes."""

from __future__ import annotations

from pathlib import Path

from comfy_api.v0_0_2 import ComfyExtension, io

from . import host
from .adversarial import FindAdversarialConcept
from .erase import EraseConcept
from .erased_unet import FOLDER_KIND, ApplyErasedUNet, LoadErasedUNet, SaveErasedUNet
from .evaluate import EvaluateErasure
from .judge import FOLDER_KIND as JUDGE_FOLDER_KIND
from .judge import LoadConceptJudge
from .red_team import RedTeamConcept
from .red_team_summary import RedTeamSummary
from .sae import FOLDER_KIND as SAE_FOLDER_KIND
from .sae import LoadConceptSAE, TrainConceptSAE


class ConceptErasure(ComfyExtension):
    """The Concept Erasure pack."""

    async def on_load(self) -> None:
        """Make ComfyUI list files with parts that act at inference, which no stock loader may half-apply."""
        output = Path(host.output_folder())
        host.register_folder(FOLDER_KIND, str(host.models_folder() / FOLDER_KIND), str(output / FOLDER_KIND))
        host.register_folder(SAE_FOLDER_KIND, str(host.models_folder() / SAE_FOLDER_KIND))
        host.register_folder(JUDGE_FOLDER_KIND, str(host.models_folder() / JUDGE_FOLDER_KIND))
        if Path(__file__).with_name("playground.py").is_file():  # in a clone; the archive has no weights to build from
            from . import playground

            playground.build_if_missing()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Every node of the pack."""
        return [
            EraseConcept,
            FindAdversarialConcept,
            ApplyErasedUNet,
            LoadErasedUNet,
            SaveErasedUNet,
            TrainConceptSAE,
            LoadConceptSAE,
            LoadConceptJudge,
            EvaluateErasure,
            RedTeamConcept,
            RedTeamSummary,
        ]
