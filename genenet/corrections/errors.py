"""What there is to correct: errors as people see them, in labels, in networks' answers, and in what was corrected."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage

from genenet.averaging import MeanPredictor, predict_part
from genenet.corrections.activity import IDLE_S, work_by_slice
from genenet.corrections.effort import Effort
from genenet.corrections.ledger import sessions_by_hand
from genenet.corrections.store import Corrections
from genenet.dataset import Part
from genenet.label_table import UNLABELLED
from genenet.volume import open_volume


def count_errors(labels: np.ndarray, truth: np.ndarray, known: np.ndarray | None = None) -> tuple[int, int]:
    """Connected regions of wrong voxels, slice by slice as people see them, and wrong voxels.

    Args:
        labels: `(z, y, x)` or `(y, x)`.
        truth: The same shape.
        known: Where the truth is known; everywhere if left out.

    >>> count_errors(np.array([[1, 1, 0, 1]]), np.array([[0, 0, 0, 0]]))
    (2, 3)
    """
    wrong = labels != truth if known is None else (labels != truth) & known
    slices = wrong if wrong.ndim == 3 else wrong[None]
    return sum(scipy.ndimage.label(entry)[1] for entry in slices), int(np.count_nonzero(wrong))


def count_network_errors(predictor: MeanPredictor, parts: Sequence[Part]) -> tuple[int, int, int]:
    """What a person would find to correct in annotated parts: what `Effort.seconds` takes.

    Returns:
        Voxels whose class is known, connected regions of wrong ones, and wrong ones.
    """
    n_known = n_errors = n_wrong = 0
    for part in parts:
        height, width = part.shape[1:]
        for depth, answers in itertools.groupby(predict_part(predictor, part), key=lambda pair: pair[0][0]):
            slab = np.empty((depth.stop - depth.start, height, width), np.uint8)
            for box, answer in answers:
                slab[:, box[1], box[2]] = answer.argmax(-1)
            labels = part.read_labels((depth.start, 0, 0), slab.shape)
            known = labels != UNLABELLED
            errors, wrong = count_errors(slab, labels, known)
            n_known, n_errors, n_wrong = n_known + int(known.sum()), n_errors + errors, n_wrong + wrong
    return n_known, n_errors, n_wrong


def corrected_slices(
    corrections: Corrections, idle_s: float = IDLE_S
) -> Iterator[tuple[tuple[float, float, float, float], str, int]]:
    """Of every slice that somebody corrected and marked as done: what `Effort.fit` takes, the person, the slice."""
    if corrections.shape is None or corrections.segmentation is None:
        return
    base = open_volume(corrections.segmentation)
    _, height, width = corrections.shape
    for person, mode, _ in corrections.ledgers("correct"):
        events = corrections.events(person, mode)
        replay = corrections.replay(events)
        by_hand = sessions_by_hand(events)
        events = [event for event in events if event.session not in by_hand]  # what was done elsewhere is not known
        for work in work_by_slice(person, mode, events, idle_s):
            if work.is_done and work.seconds > 0:
                box = slice(work.slice, work.slice + 1), slice(0, height), slice(0, width)
                errors, changed = count_errors(base.read(box), replay.read(box))
                yield (height * width, errors, changed, work.seconds), person, work.slice


def fit_effort(folders: Sequence[Path | str], idle_s: float = IDLE_S) -> Effort:
    """Fit to all that is corrected and marked as done in some folders.

    Raises:
        InputError: That is too little.
    """
    rows = [row for folder in folders for row, _, _ in corrected_slices(Corrections.open(folder), idle_s)]
    return Effort.fit(rows)
