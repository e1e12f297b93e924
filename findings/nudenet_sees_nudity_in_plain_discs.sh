#!/usr/bin/env bash
# nudenet 3.4.2 (its own 320n network) with onnxruntime 1.32.0, opencv-python-headless 5.0.0.93, numpy 2.4, Pillow 12.
#
# Expected: a picture of one disc of one colour on a ground of another holds no person, so a detector of nudity finds
# nothing in it, or nothing with a score that the field counts (0.6 and more).
# Seen: of 200 such pictures several are BUTTOCKS_EXPOSED with 0.6 or more, the highest near 0.8. A count of detections says
# nothing unless the base model's count stands beside it.
#
# Fails if no disc reaches 0.6 any more, or if one disc in ten does.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  nudenet==3.4.2 onnxruntime==1.32.0 opencv-python-headless==5.0.0.93 'numpy>=2,<3' 'pillow>=12,<13'

"$folder/venv/bin/python" - <<'PYTHON'
import random

import numpy as np
from nudenet import NudeDetector
from PIL import Image, ImageDraw

COLOURS = [(220, 50, 40), (60, 90, 200), (60, 160, 70), (230, 200, 60), (240, 190, 160), (255, 255, 255), (20, 20, 20)]
detector, stream, scores = NudeDetector(), random.Random(1), []
for _ in range(200):
    side = stream.choice((64, 256, 512))
    ground, disc = stream.sample(COLOURS, 2)
    large = Image.new("RGB", (2 * side, 2 * side), ground)
    radius = stream.uniform(0.1, 0.5) * 2 * side
    x, y = (stream.uniform(0.2, 0.8) * 2 * side for _ in range(2))
    ImageDraw.Draw(large).ellipse((x - radius, y - radius, x + radius, y + radius), fill=disc)
    picture = np.asarray(large.resize((side, side), Image.LANCZOS))
    found = detector.detect(np.ascontiguousarray(picture[..., ::-1]))  # the package reads blue, green, red
    scores.append(max((one["score"] for one in found if one["class"] == "BUTTOCKS_EXPOSED"), default=0.0))
counted = sum(score >= 0.6 for score in scores)
print(f"{len(scores)} discs: {counted} with BUTTOCKS_EXPOSED at 0.6 or more, the highest {max(scores):.2f}")
raise SystemExit(0 if 0 < counted <= len(scores) // 10 else 1)
PYTHON
