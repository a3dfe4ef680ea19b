"""Scores of objects against hand-worked numbers, against the definitions written out, and against other programs."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from genenet import instance_metrics
from genenet.errors import InputError
from genenet.instance_metrics import F1_THRESHOLDS

# Object 1 lost a pixel of 4 to object 2; object 3 was missed; 9 was made up.
LABELS = np.array([[1, 1, 2, 2], [1, 1, 2, 0], [0, 0, 0, 3], [0, 0, 3, 3]], np.uint8)
INSTANCES = np.array([[4, 4, 7, 7], [4, 7, 7, 7], [9, 0, 0, 0], [9, 0, 0, 0]], np.uint16)


def two_images(largest=4):
    def pair(shape):
        image = hnp.arrays(np.int64, shape, elements=st.integers(0, largest))
        return st.tuples(image, image)

    return hnp.array_shapes(min_dims=1, max_dims=3, max_side=6).flatmap(pair)


def nuclei(n, size, seed):
    """Discs that touch, and the same moved a little, a fifth of them gone."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros((size, size), np.int64)
    seeds.flat[rng.choice(size * size, n, replace=False)] = 1 + np.arange(n)
    distances, nearest = scipy.ndimage.distance_transform_edt(seeds == 0, return_indices=True)
    labels = np.where(distances < 6, seeds[tuple(nearest)], 0)
    kept = np.where(rng.random(n + 1) < 0.8, np.arange(n + 1), 0)
    return labels, kept[np.roll(labels, (1, 2), (0, 1))]


def by_definition(labels, instances):
    """All scores, from masks of all objects; ids that rise, as here, settle ties."""
    masks = [[image == number for number in np.unique(image) if number] for image in (labels, instances)]
    shared = np.array([[(one & other).sum() for other in masks[1]] for one in masks[0]], float)
    joint = np.array([[(one | other).sum() for other in masks[1]] for one in masks[0]], float)
    shared, joint = (table.reshape(len(masks[0]), len(masks[1])) for table in (shared, joint))
    iou = shared / np.maximum(joint, 1)
    sizes = [np.array([mask.sum() for mask in side], float) for side in masks]
    n = len(masks[0]) + len(masks[1])
    if not n:
        return dict.fromkeys(("aji", "aji_one_to_one", "pq", "sq", "dq", "ensemble_dice", "foreground_dice"), math.nan)

    def aji(chosen):
        chosen = [(row, column) for row, column in chosen if shared[row, column]]
        alone = [set(range(len(side))) - {pair[axis] for pair in chosen} for axis, side in enumerate(masks)]
        whole = sum(joint[pair] for pair in chosen) + sum(sizes[axis][list(alone[axis])].sum() for axis in (0, 1))
        return sum(shared[pair] for pair in chosen) / whole

    matched = iou[iou > 0.5]
    sq = matched.mean() if matched.size else 0
    overlapping = shared > 0
    total = (sizes[0][:, None] + sizes[1])[overlapping].sum()
    foreground = (labels > 0).sum() + (instances > 0).sum()
    return {
        "aji": aji([(row, iou[row].argmax()) for row in range(len(iou)) if iou.size]),
        "aji_one_to_one": aji(zip(*linear_sum_assignment(-iou), strict=True)),
        "pq": sq * 2 * matched.size / n,
        "sq": sq,
        "dq": 2 * matched.size / n,
        "ensemble_dice": 2 * shared.sum() / total if total else 0,
        "foreground_dice": 2 * ((labels > 0) & (instances > 0)).sum() / foreground,
    }


def flat(scores):
    """Numbers of an `InstanceScores`, one after the other."""
    values = dataclasses.asdict(scores)
    return [*values.pop("f1").values(), *values.values()]


def test_overlaps_are_counted():
    counted = instance_metrics.overlaps(LABELS, INSTANCES)
    np.testing.assert_array_equal(counted.label_ids, [1, 2, 3])
    np.testing.assert_array_equal(counted.label_sizes, [4, 3, 3])
    np.testing.assert_array_equal(counted.instance_ids, [4, 7, 9])
    np.testing.assert_array_equal(counted.instance_sizes, [3, 5, 2])
    np.testing.assert_array_equal(counted.pairs, [[0, 0], [0, 1], [1, 1]])
    np.testing.assert_array_equal(counted.pair_sizes, [3, 1, 3])
    # 3 / (4 + 3 - 3), 1 / (4 + 5 - 1), 3 / (3 + 5 - 3)
    np.testing.assert_array_equal(counted.iou, [3 / 4, 1 / 8, 3 / 5])


def test_hand_worked_scores():
    result = instance_metrics.instance_scores(LABELS, INSTANCES)
    # Shared 3 + 3; unions 4 + 5, the missed object 3, the one made up 2.
    assert result.aggregated_jaccard == result.aggregated_jaccard_one_to_one == 6 / 14
    assert result.sq == pytest.approx((3 / 4 + 3 / 5) / 2)
    assert result.dq == pytest.approx(2 * 2 / 6)  # 2 found, of 3 and of 3
    assert result.pq == pytest.approx((3 / 4 + 3 / 5) / 2 * 2 / 3)
    assert result.ensemble_dice == 2 * (3 + 1 + 3) / ((4 + 3) + (4 + 5) + (3 + 5))
    assert result.foreground_dice == 2 * 7 / (10 + 10)
    # Of 3/4 and 3/5 both are above 0.5, and the first alone above 0.6 and 0.7.
    assert result.f1 == pytest.approx({0.5: 2 / 3, 0.6: 1 / 3, 0.7: 1 / 3, 0.8: 0, 0.9: 0})
    panoptic = instance_metrics.panoptic_quality(LABELS, INSTANCES)
    assert (panoptic.n_true_positives, panoptic.n_false_positives, panoptic.n_false_negatives) == (2, 1, 1)
    panoptic = instance_metrics.panoptic_quality(LABELS, np.where(INSTANCES == 9, 0, INSTANCES))
    assert (panoptic.n_true_positives, panoptic.n_false_positives, panoptic.n_false_negatives) == (2, 0, 1)


def test_a_predicted_object_may_serve_several_labels_or_one():
    labels, instances = np.array([1, 1, 1, 1, 2, 2, 0, 0]), np.array([1, 1, 1, 1, 1, 1, 0, 3])
    # 1 and 2 both take the object of 6: (4 + 2) / (6 + 6 + 1). One to one, 2 is missed: 4 / (6 + 2 + 1).
    assert instance_metrics.aggregated_jaccard_index(labels, instances) == 6 / 13
    assert instance_metrics.aggregated_jaccard_index(labels, instances, one_to_one=True) == 4 / 9


def test_one_to_one_takes_the_largest_sum_not_the_largest_pair():
    labels = np.array([1] * 3 + [2] * 3 + [0])
    instances = np.array([5] * 2 + [6] * 3 + [0] * 2)
    # Pairs: 1-5 shares 2 of 3, 1-6 shares 1 of 5, 2-6 shares 2 of 4; 2/3 + 2/4 is the most: (2 + 2) / (3 + 4).
    assert instance_metrics.aggregated_jaccard_index(labels, instances, one_to_one=True) == 4 / 7
    labels, instances = np.array([1, 1, 1, 2, 2, 2]), np.array([5, 6, 6, 6, 6, 0])
    # Pairs: 1-5 is 1/3, 1-6 is 2/5, 2-6 is 2/5. Each label takes 6: (2 + 2) / (5 + 5 + 1). One to one 1/3 + 2/5 is
    # more than 2/5 alone, so 1 takes 5: (1 + 2) / (3 + 5).
    assert instance_metrics.aggregated_jaccard_index(labels, instances) == 4 / 11
    assert instance_metrics.aggregated_jaccard_index(labels, instances, one_to_one=True) == 3 / 8


def test_a_tie_goes_to_the_smallest_number():
    # 1-3 and 1-8 are both 2/5, 2-8 is 1/3. With 3 for 1 all are used: (2 + 1) / (5 + 3).
    labels, instances = np.array([1, 1, 1, 1, 2, 0]), np.array([3, 3, 8, 8, 8, 3])
    assert instance_metrics.aggregated_jaccard_index(labels, instances) == 3 / 8
    # With 3 and 8 exchanged, both labels take 3 and the three pixels of 8 are left over: (2 + 1) / (5 + 3 + 3).
    assert instance_metrics.aggregated_jaccard_index(labels, np.where(instances, 11 - instances, 0)) == 3 / 11


def test_half_is_not_more_than_half():
    labels, instances = np.array([1, 1, 2, 2]), np.array([1, 0, 2, 2])  # 1/2 and 2/2
    panoptic = instance_metrics.panoptic_quality(labels, instances)
    assert (panoptic.n_true_positives, panoptic.sq, panoptic.dq) == (1, 1, 0.5)


def test_a_higher_threshold_finds_fewer():
    panoptic = instance_metrics.panoptic_quality(LABELS, INSTANCES, iou_threshold=0.7)
    # 3/4 alone: 1 of 3 and of 3.
    assert (panoptic.pq, panoptic.sq, panoptic.dq) == (pytest.approx(0.75 / 3), 0.75, pytest.approx(1 / 3))
    assert instance_metrics.f1_at(LABELS, INSTANCES, [0.55, 0.7]) == pytest.approx({0.55: 2 / 3, 0.7: 1 / 3})


def test_an_object_over_everything():
    labels = np.arange(1, 101).reshape(10, 10)
    result = instance_metrics.instance_scores(labels, np.ones_like(labels))
    # A hundred times 1 pixel of 100; one to one, once, and 99 are missed. DICE2: 2 * 100 / (100 * 101).
    assert result.aggregated_jaccard == 100 / (100 * 100)
    assert result.aggregated_jaccard_one_to_one == 1 / (100 + 99)
    assert (result.pq, result.sq, result.dq, result.foreground_dice) == (0, 0, 0, 1)
    assert result.ensemble_dice == 200 / 10100


def test_objects_that_touch_stay_apart():
    labels, merged = np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])
    result = instance_metrics.instance_scores(labels, merged)
    assert (result.aggregated_jaccard, result.pq, result.foreground_dice) == (4 / 8, 0, 1)


def test_an_object_that_overlaps_nothing_does_not_count_in_ensemble_dice():
    assert instance_metrics.ensemble_dice(np.array([1, 1, 0, 2]), np.array([1, 1, 3, 0])) == 1


@pytest.mark.parametrize("shape", [(0,), (3, 4), (0, 5)])
def test_without_any_object_there_is_no_score(shape):
    empty = np.zeros(shape, np.int32)
    assert all(math.isnan(value) for value in flat(instance_metrics.instance_scores(empty, empty)))
    panoptic = instance_metrics.panoptic_quality(empty, empty)
    assert (panoptic.n_true_positives, panoptic.n_false_positives, panoptic.n_false_negatives) == (0, 0, 0)


def test_objects_on_one_side_only_score_nothing():
    for images in [
        (LABELS, np.zeros_like(LABELS)),
        (np.zeros_like(LABELS), LABELS),
        (LABELS, LABELS * 0 + (LABELS < 1)),
    ]:
        assert set(flat(instance_metrics.instance_scores(*images))) == {0}


@given(two_images())
def test_scores_equal_their_definitions(images):
    result, expected = instance_metrics.instance_scores(*images), by_definition(*images)
    assert result.aggregated_jaccard == pytest.approx(expected["aji"], nan_ok=True)
    for name in ("pq", "sq", "dq", "ensemble_dice", "foreground_dice"):
        assert getattr(result, name) == pytest.approx(expected[name], nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_scores_of_nuclei_equal_their_definitions(seed):
    images = nuclei(40, 90, seed)
    result, expected = instance_metrics.instance_scores(*images), by_definition(*images)
    assert 0 < result.pq < 1
    assert result.aggregated_jaccard == pytest.approx(expected["aji"])
    assert result.aggregated_jaccard_one_to_one == pytest.approx(expected["aji_one_to_one"])
    assert result.ensemble_dice == pytest.approx(expected["ensemble_dice"])


@given(two_images())
def test_one_to_one_reaches_the_largest_sum(images):
    counted = instance_metrics.overlaps(*images)
    chosen = instance_metrics._one_to_one_pairs(counted)
    table = np.zeros((counted.label_ids.size, counted.instance_ids.size))
    table[tuple(counted.pairs.T)] = counted.iou
    assert counted.iou[chosen].sum() == pytest.approx(table[linear_sum_assignment(table, maximize=True)].sum())
    for side in counted.pairs[chosen].T:
        assert np.unique(side).size == side.size


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_equals_torchmetrics(seed):
    detection = pytest.importorskip("torchmetrics.detection")
    torch = pytest.importorskip("torch")
    labels, instances = nuclei(60, 120, seed)
    background, nucleus = 0, 1  # background is a class of its own there: void would be left out of unions
    metric = detection.PanopticQuality({nucleus}, {background}, return_sq_and_rq=True, return_per_class=True)
    images = [torch.from_numpy(np.stack([image > 0, image], axis=-1)[None]) for image in (instances, labels)]
    result = instance_metrics.instance_scores(labels, instances)
    # In single precision, there.
    assert [result.pq, result.sq, result.dq] == pytest.approx(metric(*images)[0].tolist(), abs=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_scores_equal_those_of_an_independent_program(seed):
    """Where every object shares most voxels with the one of the largest IoU: there voxels decide, not the IoU."""
    others = pytest.importorskip("cellseg_metrics", reason="pip install cellseg-metrics")
    labels, instances = nuclei(60, 120, seed)
    counted = instance_metrics.overlaps(labels, instances)
    shared, iou = (np.zeros((counted.label_ids.size, counted.instance_ids.size)) for _ in range(2))
    shared[tuple(counted.pairs.T)], iou[tuple(counted.pairs.T)] = counted.pair_sizes, counted.iou
    np.testing.assert_array_equal(shared.argmax(1), iou.argmax(1))
    result = instance_metrics.instance_scores(labels, instances)
    assert result.aggregated_jaccard == pytest.approx(others.aggregated_jaccard_index(labels, instances))
    assert result.ensemble_dice == pytest.approx(others.dice2(labels, instances))
    assert [result.pq, result.sq, result.dq] == pytest.approx(list(others.panoptic_quality(labels, instances).values()))
    for threshold, f1 in instance_metrics.f1_at(labels, instances, [0.5, 0.55, 0.6]).items():
        assert f1 == pytest.approx(others.panoptic_quality(labels, instances, threshold)["dq"])


@given(two_images())
def test_scores_are_from_0_to_1_or_nan_together(images):
    values = flat(instance_metrics.instance_scores(*images))
    assert all(0 <= value <= 1 for value in values) or all(math.isnan(value) for value in values)


@given(two_images())
def test_a_perfect_prediction_scores_1(images):
    values = flat(instance_metrics.instance_scores(images[0], images[0]))
    assert set(values) == {1} if images[0].any() else all(math.isnan(value) for value in values)


@given(two_images(), st.sampled_from([0.5, 0.6, 0.75, 0.9]))
def test_panoptic_quality_is_a_product(images, threshold):
    panoptic = instance_metrics.panoptic_quality(*images, iou_threshold=threshold)
    assert panoptic.pq == pytest.approx(panoptic.sq * panoptic.dq, nan_ok=True)
    assert panoptic.dq == pytest.approx(instance_metrics.f1_at(*images, [threshold])[threshold], nan_ok=True)


@given(two_images(), st.lists(st.integers(1, 2**62), min_size=8, max_size=8, unique=True))
def test_gaps_between_numbers_change_nothing(images, numbers):
    numbers = np.array([0, *sorted(numbers)])
    renumbered = numbers[images[0]], numbers[4 * (images[1] > 0) + images[1]]
    expected = flat(instance_metrics.instance_scores(*images))
    assert flat(instance_metrics.instance_scores(*renumbered)) == pytest.approx(expected, nan_ok=True)


@given(two_images(), st.tuples(*[st.permutations(range(1, 5))] * 2))
def test_order_of_numbers_changes_nothing_that_has_no_ties(images, orders):
    renumbered = [np.array([0, *order])[image] for order, image in zip(orders, images, strict=True)]
    before, after = (instance_metrics.instance_scores(*each) for each in (images, renumbered))
    for name in ("pq", "sq", "dq", "ensemble_dice", "foreground_dice", "f1"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), nan_ok=True)


def test_order_of_numbers_changes_nothing_for_nuclei():
    rng = np.random.default_rng(0)
    images = nuclei(100, 150, seed=0)
    renumbered = [np.concatenate([[0], 1 + rng.permutation(100)])[image] for image in images]
    expected = flat(instance_metrics.instance_scores(*images))
    assert flat(instance_metrics.instance_scores(*renumbered)) == pytest.approx(expected)


@given(two_images())
def test_labels_and_prediction_are_alike_but_for_aji(images):
    one, other = instance_metrics.instance_scores(*images), instance_metrics.instance_scores(*images[::-1])
    for name in ("pq", "sq", "dq", "ensemble_dice", "foreground_dice", "f1"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), nan_ok=True)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i4"])
def test_any_integers_in_any_order_are_taken(kind):
    expected = instance_metrics.instance_scores(LABELS, INSTANCES)
    assert instance_metrics.instance_scores(LABELS.astype(kind), INSTANCES.astype(kind)) == expected
    assert instance_metrics.instance_scores(LABELS.T.astype(kind), INSTANCES.copy().T) == expected
    assert (
        instance_metrics.instance_scores(LABELS[None, ..., None], INSTANCES[None, ..., None].astype(kind)) == expected
    )


def test_numbers_of_64_bits_stay_apart():
    largest = np.iinfo(np.uint64).max
    labels = np.array([largest, largest, largest - 1, 0], np.uint64)  # equal once they are floats
    assert set(flat(instance_metrics.instance_scores(labels, np.array([1, 1, 2, 0])))) == {1}
    np.testing.assert_array_equal(instance_metrics.overlaps(labels, labels).label_ids, [largest - 1, largest])


def test_each_score_alone_equals_all_together():
    result = instance_metrics.instance_scores(LABELS, INSTANCES)
    assert instance_metrics.aggregated_jaccard_index(LABELS, INSTANCES) == result.aggregated_jaccard
    one_to_one = instance_metrics.aggregated_jaccard_index(LABELS, INSTANCES, one_to_one=True)
    assert one_to_one == result.aggregated_jaccard_one_to_one
    assert instance_metrics.panoptic_quality(LABELS, INSTANCES).pq == result.pq
    assert instance_metrics.ensemble_dice(LABELS, INSTANCES) == result.ensemble_dice
    assert instance_metrics.foreground_dice(LABELS, INSTANCES) == result.foreground_dice
    assert instance_metrics.f1_at(LABELS, INSTANCES) == result.f1
    assert tuple(result.f1) == F1_THRESHOLDS


@given(st.lists(two_images(), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_order_of_images_does_not_matter(images, random):
    scores = [instance_metrics.instance_scores(*pair) for pair in images]
    expected = flat(instance_metrics.mean_scores(scores))
    random.shuffle(scores)
    np.testing.assert_array_equal(flat(instance_metrics.mean_scores(scores)), expected)


def test_means_weigh_images_alike_and_skip_those_without_objects():
    empty = np.zeros((2, 2), int)
    images = [(LABELS, LABELS), (LABELS, INSTANCES), (empty, empty), (empty, empty + 1)]
    result = instance_metrics.mean_scores(instance_metrics.instance_scores(*pair) for pair in images)
    assert result.aggregated_jaccard == pytest.approx((1 + 6 / 14 + 0) / 3)
    assert result.pq == pytest.approx((1 + 0.675 * 2 / 3 + 0) / 3)
    assert result.sq == pytest.approx((1 + 0.675 + 0) / 3)
    assert result.f1[0.7] == pytest.approx((1 + 1 / 3 + 0) / 3)
    nothing = instance_metrics.mean_scores([instance_metrics.instance_scores(empty, empty)])
    assert all(math.isnan(value) for value in flat(nothing))


@pytest.mark.parametrize(
    "score",
    [
        instance_metrics.overlaps,
        instance_metrics.aggregated_jaccard_index,
        instance_metrics.panoptic_quality,
        instance_metrics.f1_at,
        instance_metrics.ensemble_dice,
        instance_metrics.foreground_dice,
        instance_metrics.instance_scores,
    ],
    ids=lambda f: f.__name__,
)
def test_wrong_images_are_refused(score):
    with pytest.raises(InputError, match=r"same shape, but got \(4, 4\) and \(2, 4\); give both for the same pixels"):
        score(LABELS, INSTANCES[:2])
    with pytest.raises(
        InputError, match=r"instances must be integers, one number for each object, but got float64; `sc"
    ):
        score(LABELS, INSTANCES / 2)
    with pytest.raises(
        InputError, match="labels must be integers, one number for each object, but got bool; `scipy.nd"
    ):
        score(LABELS > 0, INSTANCES)
    with pytest.raises(InputError, match="labels must be 0 for background or above, but got -1; set such pixels to 0"):
        score(np.where(LABELS == 3, -1, LABELS.astype(int)), INSTANCES)


@pytest.mark.parametrize("threshold", [0.4, 1, -1, math.nan])
def test_thresholds_where_objects_could_match_twice_are_refused(threshold):
    message = f"must be from 0.5 to below 1, but got {threshold}; below 0.5 an object could match several"
    with pytest.raises(InputError, match=message):
        instance_metrics.panoptic_quality(LABELS, INSTANCES, iou_threshold=threshold)
    with pytest.raises(InputError, match=message):
        instance_metrics.f1_at(LABELS, INSTANCES, [0.5, threshold])


def test_a_mean_over_no_images_is_refused():
    with pytest.raises(InputError, match="at least one image, but got none; score some with `instance_scores`"):
        instance_metrics.mean_scores([])
