"""The progress of a run on its node: the bar, and a line of text with the time left."""

from __future__ import annotations

from PIL import Image

from ...erasure_core.report import Progress, Work
from .. import host

UNITS = 1000
"""Of the bar, so that it moves in parts of a per mille."""


class NodeProgress(Progress):
    """`Progress` of the work that a node has to do, shown on the node of that id."""

    def __init__(self, node_id: str | None, work: Work | None = None) -> None:
        self._bar = host.ProgressBar(UNITS, node_id=node_id)
        super().__init__(work, show=self._moved, say=lambda text: host.send_text(text, node_id))

    def _moved(self, share: float) -> None:
        self._bar.update_absolute(round(UNITS * share), UNITS)

    def check(self, doing: str = "", **done: float) -> None:
        """The run's `report.Check`, which also counts the work done. Raises `host.Cancelled` if the user cancelled."""
        host.check_cancelled()
        self(doing, **done)

    def picture(self, image: Image.Image | None) -> None:
        """Show a picture on the node."""
        if image is not None:
            self._bar.update_absolute(round(UNITS * self.share), UNITS, ("JPEG", image, 512))
