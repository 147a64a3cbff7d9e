"""A picture to look at beside the scores: prompts with their best and worst samples, by the judge."""

from typing import TYPE_CHECKING

import numpy as np

from t2i.evaluation.report import Report
from t2i.evaluation.sampler import CaptionSampler
from t2i.grids import table_grid

if TYPE_CHECKING:
    from PIL.Image import Image

    from t2i.evaluation.protocol import Evaluator

PROMPTS = 4  # that went best, and as many that went worst
TRIES = 16  # pictures drawn of each, with the seeds 0, 1, ...
SHOWN = 3  # of these the best, and as many of the worst


def best_and_worst(evaluator: "Evaluator", sampler: CaptionSampler, report: Report) -> "Image | None":
    """A labelled grid, RGB: a row a prompt with its real picture, its best and its worst samples.

    The upper rows are the prompts whose sample the judge knew best in `report`, the lower ones those it knew worst.
    Within a row the judge orders the pictures of seeds 0 to 15. None where no judge scored.
    """
    judged = [(name, judge) for name, judge in evaluator.judges.items() if judge.asks]
    if report.margins is None or not judged:
        return None
    (name, judge), data = judged[0], evaluator.data
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
        margins = judge.margins(evaluator.networks[name](images), np.full(TRIES, sample))
        ranked = images[np.argsort(-margins, kind="stable")]
        real = data.images([int(evaluator.pictures[sample])])
        rows.append([*real, *ranked[:SHOWN], *ranked[-SHOWN:]])
        labels.append(f"{'+' if place < count else '-'} {data.caption(int(evaluator.caption_ids[sample]))}")
    columns = ["real", *(["best"] * SHOWN), *(["worst"] * SHOWN)]
    title = f"+ prompts drawn best, - drawn worst; best and worst of {TRIES} seeds, by the judge of {judge.name}"
    return table_grid(rows, labels, columns, title)
