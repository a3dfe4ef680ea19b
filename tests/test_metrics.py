"""Scores against hand-worked numbers, and against scikit-learn's on anything hypothesis thinks of."""

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genenet import metrics
from genenet.errors import InputError

LABELS = np.array([[0, 0, 0, 0], [1, 1, 1, 2]], np.uint8)
PREDICTION = np.array([[0, 0, 0, 1], [1, 1, 0, 2]], np.uint8)
TABLE = [[3, 1, 0], [1, 2, 0], [0, 0, 1]]  # rows are labels


def two_volumes(largest):
    def pair(shape):
        volume = hnp.arrays(np.int64, shape, elements=st.integers(0, largest))
        return st.tuples(volume, volume)

    return hnp.array_shapes(min_dims=1, max_dims=3, max_side=6).flatmap(pair)


def test_contingency_counts_pairs():
    table = metrics.contingency(LABELS, PREDICTION, 3)
    assert table.dtype == np.int64
    np.testing.assert_array_equal(table, TABLE)


def test_hand_worked_scores():
    result = metrics.scores(metrics.contingency(LABELS, PREDICTION, 3))
    assert result.accuracy == 6 / 8
    # Intersection over union: 3 / (4 + 4 - 3), 2 / (3 + 3 - 2), 1 / 1. Dice: 2 * 3 / 8, 2 * 2 / 6, 2 * 1 / 2.
    assert result.iou == (3 / 5, 2 / 4, 1)
    assert result.mean_iou == pytest.approx((0.6 + 0.5 + 1) / 3)
    assert result.dice == (6 / 8, 4 / 6, 1)
    assert result.mean_dice == pytest.approx((3 / 4 + 2 / 3 + 1) / 3)
    np.testing.assert_array_equal(result.confusion, TABLE)


def test_hand_worked_adjusted_rand():
    # Ordered pairs of four voxels: 12. Together in both: 2 * 1 = 2; in the labels: 2 + 2 = 4; in the prediction: 2.
    # By chance 4 * 2 / 12 = 2/3, at most (4 + 2) / 2 = 3: (2 - 2/3) / (3 - 2/3) = 4/7.
    assert metrics.adjusted_rand_score(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx(
        4 / 7, abs=1e-15
    )
    assert metrics.adjusted_rand_from_contingency(np.array([[2, 0, 0], [0, 1, 1]])) == pytest.approx(4 / 7, abs=1e-15)


@given(st.sampled_from([1, 6, 15, 300, 10**9]).flatmap(two_volumes))
def test_adjusted_rand_equals_scikit_learn(volumes):
    expected = sklearn.metrics.adjusted_rand_score(*(volume.ravel() for volume in volumes))
    assert metrics.adjusted_rand_score(*volumes) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "prediction"),
    [
        ([], []),
        ([0], [5]),
        ([0, 0, 0], [0, 0, 0]),
        ([0, 0, 0], [0, 1, 2]),
        ([0, 1, 2], [0, 0, 0]),
        ([0, 1, 2], [2, 0, 1]),
        ([0, 0, 1], [0, 1, 2]),
        ([0, 0, 1, 1], [0, 1, 0, 1]),
        ([-3, -3, 7], [1, 1, -1]),
    ],
)
def test_degenerate_partitions_equal_scikit_learn(labels, prediction):
    labels, prediction = np.array(labels, int), np.array(prediction, int)
    expected = sklearn.metrics.adjusted_rand_score(labels, prediction)
    assert metrics.adjusted_rand_score(labels, prediction) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_classes", [2, 7, 15, 16, 300])
def test_many_voxels_equal_scikit_learn(n_classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(n_classes, size=(3, 257, 401))  # more than two chunks, and odd
    prediction = np.where(rng.random(labels.shape) < 0.3, rng.integers(n_classes, size=labels.shape), labels)
    expected = sklearn.metrics.adjusted_rand_score(labels.ravel(), prediction.ravel())
    table = sklearn.metrics.confusion_matrix(labels.ravel(), prediction.ravel(), labels=range(n_classes))
    for kind in (np.uint16, np.int32, np.int64, np.uint64):
        assert metrics.adjusted_rand_score(labels.astype(kind), prediction) == pytest.approx(expected, abs=1e-12)
        np.testing.assert_array_equal(metrics.contingency(labels, prediction.astype(kind), n_classes), table)


def test_instances_with_large_names_equal_scikit_learn():
    rng = np.random.default_rng(0)
    names = rng.integers(2**40, size=500)
    labels, prediction = names[rng.integers(500, size=(2, 5000))]
    expected = sklearn.metrics.adjusted_rand_score(labels, prediction)
    assert metrics.adjusted_rand_score(labels, prediction) == pytest.approx(expected, abs=1e-12)


@given(two_volumes(4))
def test_class_scores_equal_scikit_learn(volumes):
    labels, prediction = (volume.ravel() for volume in volumes)
    assert metrics.accuracy(*volumes) == pytest.approx(sklearn.metrics.accuracy_score(labels, prediction))
    assert metrics.mean_iou(*volumes) == pytest.approx(
        sklearn.metrics.jaccard_score(labels, prediction, average="macro")
    )
    assert metrics.dice(*volumes) == pytest.approx(sklearn.metrics.f1_score(labels, prediction, average="macro"))


@given(two_volumes(3), st.integers(0, 6))
def test_tables_of_blocks_add_up(volumes, seam):
    labels, prediction = volumes
    blocks = [(labels[:seam], prediction[:seam]), (labels[seam:], prediction[seam:])]
    total = sum(metrics.contingency(*block, 4) for block in blocks)
    np.testing.assert_array_equal(total, metrics.contingency(labels, prediction, 4))


@pytest.mark.parametrize(("kind", "ignore"), [(np.uint8, 255), (np.int8, -1), (np.int32, -1), (np.uint16, 2)])
def test_ignored_voxels_do_not_count(kind, ignore):
    labels = np.array([0, 0, 1, 1, ignore, ignore]).astype(kind)
    prediction = np.array([0, 1, 1, 1, 0, 200], np.uint8)  # what is predicted where nobody knows does not matter
    np.testing.assert_array_equal(metrics.contingency(labels, prediction, 2, ignore), [[1, 1], [0, 2]])
    assert metrics.accuracy(labels, prediction, ignore=ignore) == 3 / 4
    assert metrics.mean_iou(labels, prediction, 2, ignore) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.dice(labels, prediction, 2, ignore) == pytest.approx((2 / 3 + 4 / 5) / 2)
    expected = sklearn.metrics.adjusted_rand_score(labels[:4], prediction[:4])
    assert metrics.adjusted_rand_score(labels, prediction, ignore=ignore) == pytest.approx(expected, abs=1e-12)


def test_a_class_that_stands_nowhere_has_no_score():
    result = metrics.scores(metrics.contingency(LABELS, PREDICTION, 4))
    assert math.isnan(result.iou[3])
    assert math.isnan(result.dice[3])
    assert result.mean_iou == pytest.approx((0.6 + 0.5 + 1) / 3)


def test_a_class_only_in_the_prediction_counts_as_missed():
    assert metrics.mean_iou(np.array([0, 0]), np.array([0, 1])) == pytest.approx((1 / 2 + 0) / 2)


def test_no_voxels_at_all():
    result = metrics.scores(metrics.contingency(np.zeros((0, 3), int), np.zeros((0, 3), int), 2))
    assert result.adjusted_rand == 1.0
    assert all(math.isnan(value) for value in (result.accuracy, result.mean_iou, result.mean_dice, *result.iou))


def test_masks_and_strided_views_are_taken():
    labels = np.random.default_rng(0).integers(3, size=(6, 8, 4), dtype=np.uint8)
    assert metrics.adjusted_rand_score(labels.T[::2], labels.T[::2].copy()) == 1.0
    np.testing.assert_array_equal(metrics.contingency(labels > 0, labels > 1, 2).sum(), labels.size)


def test_the_score_is_exact_where_floats_are_not():
    # 2**40 voxels: the pairs no longer fit 64-bit integers.
    table = np.array([[2**39, 1], [0, 2**39]])
    assert 0.999999 < metrics.adjusted_rand_from_contingency(table) < 1
    assert metrics.adjusted_rand_from_contingency(np.full((2, 2), 2**40)) == pytest.approx(-1 / 2**42, rel=1e-6)


@pytest.mark.parametrize(
    "score", [metrics.adjusted_rand_score, metrics.mean_iou, metrics.dice, metrics.accuracy], ids=lambda f: f.__name__
)
def test_wrong_volumes_are_refused(score):
    with pytest.raises(InputError, match=r"same shape, but got \(2, 4\) and \(4, 2\)"):
        score(LABELS, PREDICTION.T)
    with pytest.raises(InputError, match="prediction must be integers, but got float64; probabilities need an argmax"):
        score(LABELS, PREDICTION / 2)


@pytest.mark.parametrize(
    ("labels", "prediction", "n_classes", "message"),
    [
        ([0, 3], [0, 1], 3, r"labels must lie in 0\.\.2 for n_classes=3, but got values from 0 to 3; raise"),
        ([0, -1], [0, 1], 3, r"labels must lie in 0\.\.2 for n_classes=3, but got values from -1 to 0"),
        ([0, 1], [0, 9], 3, r"prediction must lie in 0\.\.2 for n_classes=3, but got values from 0 to 9"),
        ([0, 1], [0, 1], 0, "`n_classes` must be from 1 to 4096, but got n_classes=0"),
        ([0, 1], [0, 1], 10**6, "`n_classes` must be from 1 to 4096, but got n_classes=1000000"),
    ],
)
def test_values_outside_the_classes_are_refused(labels, prediction, n_classes, message):
    with pytest.raises(InputError, match=message):
        metrics.contingency(np.array(labels), np.array(prediction), n_classes)


@pytest.mark.parametrize("table", [np.ones(3, int), np.eye(2), np.array([[1, -1]])])
def test_what_is_no_table_of_counts_is_refused(table):
    with pytest.raises(InputError, match="must have two axes of counts of at least 0, but got"):
        metrics.adjusted_rand_from_contingency(table)


def test_only_square_tables_have_class_scores():
    with pytest.raises(InputError, match=r"must be square, row = label, column = prediction, but got \(2, 3\)"):
        metrics.scores(np.ones((2, 3), int))
