"""Notices a collapse while training runs and says what it is and what to do."""

import math
from collections import deque

PATIENCE = 3  # lines of metrics in a row
MIN_IMAGES = 3000  # an untrained generator draws one image too


class CollapseWatch:
    """Looks at each line of metrics; warns once for each kind of collapse, again only after a recovery.

    tanh: the generator ends in one, which dfgan's may.
    """

    def __init__(self, tanh: bool = False) -> None:
        self.tanh = tanh
        self.recent: deque[dict[str, float]] = deque(maxlen=PATIENCE)
        self.warned: set[str] = set()

    def look(self, metrics: dict[str, float]) -> list[str]:
        """Lines for the user, mostly none. metrics: with images_seen, saturated, diversity and the three logits."""
        self.recent.append(metrics)
        if len(self.recent) < PATIENCE or metrics["images_seen"] < MIN_IMAGES:
            return []
        signs = {
            "blank": (
                self.tanh and all(m.get("saturated", 0) > 0.25 and m.get("diversity", 1) < 0.05 for m in self.recent),
                "collapse: the images are one flat, saturated colour for every prompt. A tanh output does this on "
                'images with a white background: train anew with output = "linear" in [model.generator]',
            ),
            "same": (
                all(m.get("diversity", 1) < 0.05 for m in self.recent),
                "collapse: the images hardly differ between prompts (diversity below 0.05 of the data's). Begin again "
                "from an older snapshot (--begin-with RUN@N), with a lower --lr-g or another --penalty",
            ),
            "ignores text": (
                metrics["images_seen"] > 10 * MIN_IMAGES
                and all(m.get("logits_real", 1) - m.get("logits_mismatch", -math.inf) < 0.02 for m in self.recent),
                "the discriminator does not tell right captions from wrong ones (real minus mismatch logit near 0): "
                "prompts will not be followed. Are the captions specific to their images?",
            ),
        }
        if signs["blank"][0]:
            signs.pop("same")  # one warning for one collapse
        lines = [line for sign, (seen, line) in signs.items() if seen and sign not in self.warned]
        self.warned = {sign for sign, (seen, _) in signs.items() if seen}
        return lines
