"""From ledgers to minutes: breaks, speed-ups, models of time, regions, the simulated corrector."""

import numpy as np
import pytest
from test_corrections import SHAPE, corrections

import genenet as gn
from genenet.corrections import by_hand
from genenet.corrections.activity import timed, work_by_slice
from genenet.corrections.effort import Effort
from genenet.corrections.errors import count_errors, fit_effort
from genenet.corrections.regions import Regions, error_chance
from genenet.corrections.session import Session
from genenet.corrections.simulate import Clock, Corrector
from genenet.corrections.store import Corrections
from genenet.corrections.summary import collect, paces, plot, speed_ups, table

# Minutes per slice of the paper's two annotators, by hand and correcting (docs/facts.md, G29).
PAPER = {"annotator1": (22.3, 10.9, 2.05), "annotator2": (18.6, 7.9, 2.35)}


def test_breaks_are_cut_and_time_goes_to_its_slice(tmp_path):
    folder, labels = corrections(tmp_path)
    clock = Clock(100.0)
    session = Session(folder, "anna", clock=clock, wall=lambda: 1.8e9 + clock())

    def wait(seconds):
        clock.seconds += seconds

    wait(40)  # time does not run before `start`
    session.start()
    wait(10)
    session.labels[0, :4, :4] = (labels[0, :4, :4] + 1) % 4
    session.keep()
    wait(20)
    session.go_to(3)
    wait(500)  # somebody left: 60 s at most
    session.moved()
    wait(5)
    session.focus(gained=False)
    wait(50)
    session.focus(gained=True)
    wait(7)
    session.pause()
    wait(1000)
    session.start()
    wait(3)
    session.mark(done=True)
    session.close()
    first, second = work_by_slice("anna", "correct", folder.events("anna"))
    assert (first.slice, first.seconds, first.n_strokes, first.n_voxels, first.is_done) == (0, 30, 1, 16, False)
    assert (second.slice, second.seconds, second.is_done) == (3, 60 + 5 + 7 + 3, True)
    assert sum(first.class_seconds.values()) == 10
    longer = work_by_slice("anna", "correct", folder.events("anna"), idle_s=600)
    assert longer[1].seconds == 500 + 5 + 7 + 3
    assert sum(seconds for _, seconds, _ in timed(folder.events("anna"))) == 30 + 75


def test_a_session_that_was_killed_counts_to_its_last_event(tmp_path):
    folder, _ = corrections(tmp_path)
    for _ in range(2):
        clock = Clock(5.0)  # a machine that was started again
        session = Session(folder, "anna", clock=clock, wall=lambda clock=clock: 1.8e9 + clock())
        session.start()
        clock.seconds += 12
        session.mark(done=True)
        session._ledger.close()
    (work,) = work_by_slice("anna", "correct", folder.events("anna"))
    assert work.seconds == 24


def log_paper(folder, spread=0.0, n_slices=6):
    wall = Clock(1.8e9)
    rng = np.random.default_rng(0)
    for person, (manual, corrected, _) in PAPER.items():
        for mode, minutes in (("manual", manual), ("correct", corrected)):
            factors = np.exp(spread * rng.normal(size=n_slices))
            for number, factor in enumerate(factors / factors.mean()):
                by_hand.start(folder, person, mode, number, wall=wall)
                wall.seconds += 60 * minutes * factor
                by_hand.stop(folder, person, mode, wall=wall)


def test_the_papers_times_give_its_speed_ups(tmp_path):
    log_paper(tmp_path / "log", spread=0.3)
    work = collect([tmp_path / "log"])
    found = {entry.person: entry for entry in speed_ups(work)}
    for person, (manual, corrected, ratio) in PAPER.items():
        entry = found[person]
        assert (entry.manual_min, entry.corrected_min) == pytest.approx((manual, corrected))
        assert round(entry.ratio, 2) == ratio and entry.low < ratio < entry.high
    assert found["all"].ratio == pytest.approx((22.3 / 10.9 * 18.6 / 7.9) ** 0.5)
    assert found["annotator1"].low < found["all"].low < found["all"].ratio < found["all"].high
    assert speed_ups(work) == speed_ups(work) != speed_ups(work, seed=1)
    rows = table(work)
    assert len(rows) == 24 and rows[0] == {
        "person": "annotator1", "mode": "correct", "slice": 0, "minutes": rows[0]["minutes"], "done": True,
        "strokes": 0, "voxels": 0,
    }  # fmt: skip
    plot(work, tmp_path / "minutes.png")
    assert (tmp_path / "minutes.png").stat().st_size > 5000


def test_one_slice_gives_no_interval_and_unfinished_ones_do_not_count(tmp_path):
    log_paper(tmp_path / "log", n_slices=1)
    wall = Clock(1.9e9)
    by_hand.start(tmp_path / "log", "annotator1", "manual", 7, wall=wall)
    wall.seconds += 9000
    by_hand.pause(tmp_path / "log", "annotator1", "manual", wall=wall)
    found = speed_ups(collect([tmp_path / "log"]))
    assert round(found[0].ratio, 2) == 2.05 and np.isnan(found[0].low) and found[0].n_manual == 1
    with pytest.raises(gn.InputError, match="the longest break that counts must be above 0 s, but got 0"):
        collect([tmp_path / "log"], idle_s=0)
    assert speed_ups([]) == [] and paces([]) == []


def test_learning_and_pace(tmp_path):
    wall = Clock(1.8e9)
    for number in range(5):
        by_hand.start(tmp_path / "log", "anna", "manual", number, wall=wall)
        wall.seconds += 100 * 0.9**number
        by_hand.stop(tmp_path / "log", "anna", "manual", wall=wall)
    (pace,) = paces(collect([tmp_path / "log"]))
    assert pace.learning == pytest.approx(0.9) and pace.n_slices == 5 and pace.voxels_per_min == 0
    assert pace.class_minutes == {-1: pytest.approx(pace.minutes)}


def test_effort_is_fitted_to_ledgers(tmp_path):
    folder, labels = corrections(tmp_path)
    rng = np.random.default_rng(3)
    truth = labels.copy()
    for z in range(5):
        for _ in range(3 + 4 * z):
            y, x, n = rng.integers(0, 34), rng.integers(0, 44), rng.integers(1, 6)
            truth[z, y : y + n, x : x + n] = rng.integers(0, 4)
    true = Effort(2000.0, 3.0, 40.0)
    corrector = Corrector(folder, gn.open_volume(truth), effort=true)
    corrector.work([(slice(z, z + 1), slice(0, 40), slice(0, 50)) for z in range(5)])
    corrector.finish_slices(range(5))
    corrector.close()
    np.testing.assert_array_equal(
        folder.replay(folder.events("simulated")).read(tuple(slice(0, n) for n in SHAPE)), truth
    )
    found = fit_effort([folder.folder])
    assert found.n_slices == 5 and found.error < 0.01
    assert found.seconds(10**6, 100, 10**4) == pytest.approx(true.seconds(10**6, 100, 10**4), rel=0.05)
    found.save(tmp_path / "effort.json")
    assert Effort.open(tmp_path / "effort.json") == found
    (tmp_path / "effort.json").write_text('{"speed": 3}')
    with pytest.raises(gn.InputError, match="effort.json is damaged"):
        Effort.open(tmp_path / "effort.json")
    with pytest.raises(gn.InputError, match="needs 4 slices that are corrected and marked as done, but there are 0"):
        fit_effort([Corrections.create(tmp_path / "none").folder])


def test_errors_are_counted_as_people_see_them():
    labels, truth = np.zeros((2, 5, 5), int), np.zeros((2, 5, 5), int)
    truth[:, 1:3, 1:3] = 1
    truth[0, 4, 4] = 2
    assert count_errors(labels, truth) == (3, 9)
    known = np.ones((2, 5, 5), bool)
    known[1] = False
    assert count_errors(labels, truth, known) == (2, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_regions_are_ranked_by_the_errors_expected(dtype):
    doubt = np.zeros((5, 40, 50), np.float32)
    doubt[1, 30:36, 20:30] = 0.9
    doubt[3, 2, 2] = 1.0
    doubt[4] = 0.02
    stored = np.rint(255 * doubt).astype(np.uint8) if dtype == np.uint8 else doubt.astype(dtype)
    regions = Regions.measure(gn.open_volume(stored), size=(1, 16, 16))
    assert regions.wrong.shape == (5, 3, 4)
    assert regions.wrong.sum() == pytest.approx(error_chance(stored).sum(), rel=1e-6)
    best = regions.next()
    assert best == regions.order()[0] == (1, 2, 1)
    regions.finish(regions.box(best))
    assert regions.next() in {(1, 1, 1), (1, 2, 1)} and regions.order()[0] == regions.next() != best
    regions.finish((slice(1, 2), slice(0, 40), slice(0, 50)))
    assert regions.finished.sum() == 12 and regions.next()[0] != 1
    regions.finish((slice(1, 2), slice(0, 40), slice(0, 50)), done=False)
    regions.finish((slice(0, 5), slice(0, 40), slice(0, 50)))
    assert regions.next() is None and regions.order() == []
    assert len(regions.all_boxes()) == 60


def test_maps_that_are_none_of_doubt_are_refused():
    for wrong in (np.zeros((2, 8, 8), np.int32), np.zeros((2, 8, 8, 3), np.float32)):
        with pytest.raises(gn.InputError, match=r"but a map of doubt is \(z, y, x\)"):
            Regions.measure(gn.open_volume(wrong))


def test_a_corrector_who_overlooks_half(tmp_path):
    folder, labels = corrections(tmp_path)
    there = np.indices(SHAPE)[1:] % 6 < 4
    truth = gn.open_volume(np.where(there.all(0), (labels + 1) % 4, labels))  # 42 or so errors of 16 voxels per slice
    with pytest.raises(gn.InputError, match="the share of errors that are mended is 0 to 1, but got 2"):
        Corrector(folder, truth, share=2)
    with pytest.raises(gn.InputError, match="but the segmentation has"):
        Corrector(folder, gn.open_volume(labels[:2]))
    corrector = Corrector(folder, truth, share=0.5)
    boxes = [(slice(z, z + 1), slice(0, 40), slice(0, 50)) for z in range(5)]
    steps = corrector.work(boxes, max_voxels=3000)
    assert len(steps) == 2 and all(0.25 < step.n_changed / (28 * 34) < 0.75 for step in steps)
    assert corrector.seconds == pytest.approx(sum(step.seconds for step in steps))
    corrector.close()
    done = [event for event in folder.events("simulated") if event.kind == "done"]
    assert [event.fields["box"][0] for event in done] == [[0, 1], [1, 2]]


def test_a_corrector_who_leaves_specks(tmp_path):
    folder, labels = corrections(tmp_path)
    truth = labels.copy()
    truth[0, 2:7, 2:7] = labels[0, 2:7, 2:7] + 10
    truth[0, 20, 20:23] += 10
    corrector = Corrector(folder, gn.open_volume(truth), smallest=4)
    step = corrector.correct((slice(0, 1), slice(0, 40), slice(0, 50)))
    corrector.close()
    assert step.n_changed == 25
