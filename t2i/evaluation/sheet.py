"""A sheet beside the scores: prompts with their best and worst samples, ranked by R-precision's matcher or CLIP."""

from typing import TYPE_CHECKING

import numpy as np

from t2i.evaluation.report import Report
from t2i.evaluation.sampler import CaptionSampler
from t2i.grids import table_grid

if TYPE_CHECKING:
    from PIL.Image import Image

    from t2i.evaluation.protocol import Evaluator

PROMPTS = 4  # of the best prompts, and as many of the worst
TRIES = 16  # images of each prompt, with the seeds 0, 1, ...
SHOWN = 3  # of the best of these images, and as many of the worst


def best_and_worst(evaluator: "Evaluator", sampler: CaptionSampler, report: Report) -> "Image | None":
    """A labelled grid, RGB: a row a prompt with its real image, its best and its worst samples.

    The upper rows are the prompts with the largest margins in `report`, the lower rows those with the smallest.
    Within a row the margins rank the images of seeds 0 to 15. None where no retrieval metric was computed.
    """
    usable = [(name, found) for name, found in evaluator.retrievals.items() if found.has_distractors]
    if report.margins is None or not usable:
        return None
    (name, retrieval), data = usable[0], evaluator.data
    order = np.argsort(-report.margins, kind="stable")
    _, first = np.unique(evaluator.caption_ids[order], return_index=True)
    order = order[np.sort(first)]  # each caption once
    count = min(PROMPTS, len(order) // 2)
    if count == 0:  # one caption only
        return None
    rows, labels = [], []
    for place, sample in enumerate([*order[:count], *order[len(order) - count :]]):
        captions = sampler.captions(data, np.full(TRIES, evaluator.caption_ids[sample]))
        images = sampler.draw(captions, range(TRIES))
        margins = retrieval.margins(evaluator.networks[name](images), np.full(TRIES, sample))
        ranked = images[np.argsort(-margins, kind="stable")]
        real = data.rgb([int(evaluator.images[sample])])
        rows.append([*real, *ranked[:SHOWN], *ranked[-SHOWN:]])
        labels.append(f"{'+' if place < count else '-'} {data.caption(int(evaluator.caption_ids[sample]))}")
    columns = ["real", *(["best"] * SHOWN), *(["worst"] * SHOWN)]
    title = f"+ best prompts, - worst prompts; best and worst of {TRIES} seeds, ranked by {retrieval.name}"
    return table_grid(rows, labels, columns, title)
