"""The expected calibration error with an interval, and how much of it is noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recmtl.evaluate.binary import CALIBRATION_BINS, SortedScores
from recmtl.evaluate.confidence import check_level
from recmtl.evaluate.measures.multiclass import top_class
from recmtl.evaluate.scores import Floats, Scores

SIMULATIONS, SEED = 4000, 0  # of gaps: their noise, the same for all scores
HALVINGS = 20  # of the range in which an end of an interval is searched
CLEAR = 2.0  # standard deviations of a gap that is not taken as 0


@dataclass(frozen=True)
class CalibrationError:
    """An expected calibration error (ECE).

    Args:
        ece: The weighted mean over 15 bins of |mean prediction − mean label|, as the metric `ece`.
        noise: What it would be on average if the predictions were right: chance makes the gap of no bin 0.
        low: The lower end of the interval of the true error, from which the noise is taken out.
        high: The upper end.
        level: The confidence level.
    """

    ece: float
    noise: float
    low: float
    high: float
    level: float = 0.95


def calibration_error(scores: Scores, level: float = 0.95, bins: int = CALIBRATION_BINS) -> CalibrationError | None:
    r"""Return the expected calibration error of probabilities, with an interval that does not take noise for error.

    The gaps $g_b$ of the bins are normal around the true gaps $\gamma_b$, with the covariance $\Sigma$ of their means
    over rows or, with groups, over groups. So $\sum_b w_b |g_b|$ lies above the true error $\theta = \sum_b w_b
    |\gamma_b|$ by the noise, and a bootstrap, which adds noise to noise, above both. Instead tests are inverted: the
    interval has each $\theta$ under which the error that was found is neither among the lowest nor among the highest
    2.5 % of errors. Noise adds least to gaps that are alike, so the upper end takes all $|\gamma_b|$ as equal. It adds
    most where many are 0, so the lower end takes as 0 all gaps but those of at least two standard deviations.

    Of a multi-class task it is the error of the highest probability of each row, by `top_class`.

    Args:
        scores: The rows of a binary or a multi-class task, with probabilities.
        level: The confidence level.
        bins: The number of bins.

    Returns:
        ``None`` without rows.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    check_level(level)
    if not len(scores):
        return None
    weight, gaps, covariance = gap_moments(top_class(scores) if scores.task.has_classes else scores, bins)
    found, variance = float(weight @ np.abs(gaps)), np.diag(covariance)
    values, vectors = np.linalg.eigh(covariance)
    draws = np.random.default_rng(SEED).normal(size=(SIMULATIONS, len(gaps)))
    noise = draws @ (vectors * np.sqrt(np.maximum(values, 0))).T  # [simulations, bins]
    clear = np.abs(gaps) / np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    kept = clear >= min(CLEAR, clear.max())
    tail = (1 - level) / 2
    low = _crossing(weight, noise, np.where(kept, gaps, 0.0), found, tail)
    high = _crossing(weight, noise, np.ones(len(gaps)), found, 1 - tail)
    return CalibrationError(found, float((np.abs(noise) @ weight).mean()), low, high, level)


def _crossing(weight: Floats, noise: Floats, shape: Floats, found: float, share: float) -> float:
    """Return the true error from which on at least this share of drawn errors is at least the one found.

    Args:
        weight: The weights of the bins ``[bins]``.
        noise: Draws of the noise of their gaps ``[draws, bins]``.
        shape: What the true gaps are multiples of ``[bins]``.
        found: The error that was found.
        share: The share.
    """
    unit = float(weight @ np.abs(shape))

    def enough(error: float) -> bool:
        drawn = np.abs(error / unit * shape + noise) @ weight
        return bool((drawn >= found).mean() >= share)

    if unit == 0 or enough(0.0):
        return 0.0
    low, high = 0.0, found
    while not enough(high):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def gap_moments(scores: Scores, bins: int = CALIBRATION_BINS) -> tuple[Floats, Floats, npt.NDArray[np.float64]]:
    """Return the weight of each bin, its gap (mean prediction − mean label), and the covariance of the gaps.

    A variance is at least that of labels drawn by the predictions: in bins without a positive, labels do not vary.

    Shape:
        - output: ``[bins]``, ``[bins]``, ``[bins, bins]``, without empty bins; the weights sum to 1
    """
    rows = SortedScores(scores)
    histogram = rows.histogram()
    codes = np.empty(len(scores), np.int64)  # the bin of each row
    codes[rows.order] = np.repeat(histogram.bins(bins), rows.sizes())
    _, codes = np.unique(codes, return_inverse=True)
    weight = np.ones(len(scores)) if scores.weight is None else scores.weight
    total = np.bincount(codes, weight)  # [bins]
    gaps = np.bincount(codes, weight * (scores.predictions - scores.labels)) / total
    residual = weight * (scores.predictions - scores.labels - gaps[codes]) / total[codes]
    clusters, count = scores.clusters
    by_cluster = sparse.csr_matrix((residual, (clusters, codes)), (count, len(total)))
    covariance = (by_cluster.T @ by_cluster).toarray()
    drawn = weight**2 * scores.predictions * (1 - scores.predictions)
    floor = np.bincount(codes, drawn) / total**2
    covariance[np.diag_indices_from(covariance)] = np.maximum(np.diag(covariance), floor)
    return total / total.sum(), gaps, covariance
