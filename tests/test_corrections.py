"""Corrections: edits, ledgers, sessions, merging."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genenet as gn
from genenet.corrections import by_hand, overlay
from genenet.corrections.activity import work_by_slice
from genenet.corrections.changes import Change, decode, encode
from genenet.corrections.ledger import Ledger, read_ledger
from genenet.corrections.merge import Merged, write_merged
from genenet.corrections.overlay import Overlay
from genenet.corrections.replay import Replay
from genenet.corrections.session import Session
from genenet.corrections.simulate import Clock
from genenet.corrections.store import Corrections, folder_beside

SHAPE = 5, 40, 50


def segmentation(folder, shape=SHAPE, name="cells.ome.zarr"):
    """A file of class values 0 to 3."""
    labels = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)
    path = folder / name
    with gn.create_volume(path, shape, np.uint8, chunks=(2, 16, 16), voxel_size_nm=(50, 4, 4)) as out:
        out.write(tuple(slice(0, n) for n in shape), labels)
    return path, labels


def corrections(folder, **more):
    path, labels = segmentation(folder)
    return Corrections.create(folder_beside(path), segmentation=path, **more), labels


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_edits_survive_being_written(data):
    shape = tuple(data.draw(st.integers(1, 7)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = rng.random(shape) < data.draw(st.sampled_from([0.1, 0.5, 1.0]))
    values = rng.integers(0, data.draw(st.sampled_from([1, 2**40])), mask.sum())
    start = tuple(data.draw(st.integers(0, 9)) for _ in range(3))
    found = decode(json.loads(json.dumps(encode(Change(start, mask, values)))))
    assert found.start == start and (found.mask == mask).all() and (found.values == values).all()
    array = np.full((20, 20, 20), -1)
    found.put(array, (0, 0, 0))
    inside = array[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))]
    assert (inside[mask] == values).all() and (array != -1).sum() == mask.sum()
    cut = np.full((4, 4, 4), -1)
    found.put(cut, (3, 3, 3))
    np.testing.assert_array_equal(cut, array[3:7, 3:7, 3:7])


def test_damaged_edits_are_refused():
    entry = encode(Change((0, 0, 0), np.ones((1, 2, 2), bool), np.arange(4)))
    for broken in ({**entry, "values": "AAAA"}, {**entry, "mask": "?"}, {"start": [0, 0, 0]}):
        with pytest.raises(gn.InputError, match="an edit is damaged"):
            decode(broken)


KEYS = st.sampled_from(["int", "slice", "step", "fancy", "mixed", "dots"])


def draw_key(data, shape):
    def one(size, kind):
        if kind == "int":
            return data.draw(st.integers(-size, size - 1))
        if kind == "step":
            return slice(None, None, data.draw(st.sampled_from([-1, 2, -2])))
        a, b = sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size))))
        return slice(a, b)

    kind = data.draw(KEYS)
    if kind == "fancy":
        n = data.draw(st.integers(0, 9))
        rng = np.random.default_rng(n)
        return tuple(rng.integers(0, size, n) for size in shape)
    if kind == "dots":
        return (one(shape[0], "int"), ...)
    if kind == "mixed":
        return tuple(one(size, data.draw(st.sampled_from(["int", "slice", "step"]))) for size in shape)
    return tuple(one(size, kind) for size in shape)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_overlay_is_like_an_array_and_can_be_made_again(data):
    base = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.uint8)
    pieces, overlay.PIECE = overlay.PIECE, (2, 16, 16)
    try:
        replay = Replay(gn.open_volume(base), SHAPE, np.dtype(np.uint8))
        labels, expected = Overlay(replay, max_bytes=data.draw(st.sampled_from([600, 10**6]))), base.copy()
        total = 0
        for _ in range(data.draw(st.integers(1, 6))):
            key = draw_key(data, SHAPE)
            np.testing.assert_array_equal(labels[key], expected[key])
            value = data.draw(st.integers(0, 9))
            if data.draw(st.booleans()):
                labels[key] = value
                expected[key] = value
            if data.draw(st.booleans()):
                before = np.asarray(Replay.read(replay, tuple(slice(0, n) for n in SHAPE)))
                changes, old, new = labels.take_changes()
                replay.add(map(encode, changes))
                assert len(old) == len(new) == (before != expected).sum()
                np.testing.assert_array_equal(np.sort(new), np.sort(expected[before != expected]))
                total += len(new)
        replay.add(map(encode, labels.take_changes()[0]))
        np.testing.assert_array_equal(np.asarray(labels), expected)
        np.testing.assert_array_equal(replay.read((slice(1, 5), slice(3, 40), slice(0, 47))), expected[1:5, 3:40, :47])
        assert (replay.touched(tuple(slice(0, n) for n in SHAPE)) >= (base != expected)).all()
    finally:
        overlay.PIECE = pieces


def test_wrong_indices_are_refused():
    labels = Overlay(Replay(None, SHAPE, np.dtype(np.uint8)))
    assert (len(labels), labels.size, labels.nbytes, labels.ndim) == (5, 10_000, 10_000, 3)
    with pytest.raises(IndexError, match="3 axes, but got an index with 4"):
        labels[0, 0, 0, 0]
    with pytest.raises(IndexError, match=r"within \[0, 40\), but got 40 to 40"):
        labels[0, 40, 0]
    with pytest.raises(IndexError, match="masks are not taken"):
        labels[np.ones(5, bool)]


def test_what_is_looked_at_does_not_fill_the_memory():
    labels = Overlay(Replay(None, (64, 1024, 1024), np.dtype(np.uint8)), max_bytes=2**22)
    for z in range(64):
        labels[z]
    assert len(labels._pieces) * 2**19 <= 2**22


def test_a_ledger_keeps_what_was_written(tmp_path):
    path, clock = tmp_path / "anna.correct.jsonl", Clock(5.0)
    with Ledger.append(path, clock=clock, wall=lambda: 1.8e9) as ledger:
        ledger.write("open", person="anna", left_out=None)
        clock.seconds = 6.5
        ledger.write("slice", slice=12)
        with pytest.raises(gn.InputError, match="another program writes .*anna.correct.jsonl; close it"):
            Ledger.append(path)
        with pytest.raises(ValueError, match="an event is one of open, start"):
            ledger.write("blink")
    first, second = read_ledger(path)
    assert (first.kind, first.at, first.clock, first.fields) == ("open", 1.8e9, 5.0, {"person": "anna"})
    assert (second.clock, second.fields, second.session) == (6.5, {"slice": 12}, first.session)


def test_a_line_that_was_cut_off_is_left_out_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "a.correct.jsonl"
    for number in range(2):
        with Ledger.append(path) as ledger:
            ledger.write("open", person="a")
            ledger.write("slice", slice=number)
        path.write_bytes(path.read_bytes() + b'{"event": "stro')
    assert [event.kind for event in read_ledger(path)] == ["open", "slice"] * 2
    lines = path.read_bytes().split(b"\n")
    lines[0] = lines[0][:20]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(gn.InputError, match="line 1 of .* is damaged"):
        read_ledger(path)
    with pytest.raises(gn.InputError, match="there is no ledger"):
        read_ledger(tmp_path / "b.correct.jsonl")


def test_a_session_is_found_again_as_it_was(tmp_path):
    folder, labels = corrections(tmp_path)
    expected = labels.copy()
    session = Session(folder, "anna")
    session.go_to(2)
    session.labels[2, 5:9, 6:12] = 3
    expected[2, 5:9, 6:12] = 3
    n = session.keep()
    assert n == (labels[2, 5:9, 6:12] != 3).sum() and session.is_running
    session.labels[2, 5:7, 6:9] = labels[2, 5:7, 6:9]
    expected[2, 5:7, 6:9] = labels[2, 5:7, 6:9]
    session.keep("undo")
    session.note("  hard to see  ")
    session.mark(done=True)
    session.close()
    again = Session(folder, "anna")
    np.testing.assert_array_equal(np.asarray(again.labels), expected)
    assert again.done == {2}
    again.close()
    kinds = [event.kind for event in folder.events("anna")]
    assert kinds == ["open", "start", "stroke", "undo", "note", "done", "close", "open", "close"]
    stroke = folder.events("anna")[2].fields
    assert stroke["after"] == {"3": n} and sum(stroke["before"].values()) == n == stroke["voxels"]
    np.testing.assert_array_equal(
        gn.open_volume(folder.segmentation).read((slice(0, 5), slice(0, 40), slice(0, 50))), labels
    )


def _paint_until_killed(path, ready):
    session = Session(Corrections.open(path), "anna")
    for number in range(1000):
        session.labels[1, number % 40, number // 40] = 3
        session.keep()
        if number == 50:
            ready.set()
        time.sleep(0.002)


def test_a_kill_while_painting_costs_nothing_that_was_kept(tmp_path):
    folder, labels = corrections(tmp_path)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_paint_until_killed, args=(folder.folder, ready))
    process.start()
    assert ready.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    session = Session(folder, "anna")
    assert (session.labels[1, :, 0] == 3).all()
    n = (np.asarray(session.labels) != labels).sum()
    assert n == sum(event.fields["voxels"] for event in folder.events("anna") if event.kind == "stroke")
    session.close()


def test_one_person_opens_a_volume_once_and_two_people_do_not_clash(tmp_path):
    folder, labels = corrections(tmp_path)
    wall = Clock(1.8e9)
    anna, ben = (Session(folder, person, wall=wall) for person in ("anna", "ben"))
    with pytest.raises(gn.InputError, match="another program writes .*anna.correct.jsonl"):
        Session(folder, "anna")
    anna.labels[0, :10, :10] = 2
    anna.keep()
    wall.seconds += 1
    ben.labels[0, 5:15, :10] = 1
    ben.keep()
    ben.labels[3, 0, 0] = (labels[3, 0, 0] + 1) % 4
    ben.go_to(3)
    ben.mark(done=True)
    ben.mark(done=True, box=((4, 5), (0, 8), (0, 8)))
    ben.mark(done=False, box=((4, 5), (0, 8), (0, 8)))
    anna.close(), ben.close()
    merged = Merged(folder)
    expected = labels.copy()
    expected[0, :10, :10] = 2
    # Where he found a 1 already, he changed nothing.
    expected[0, 5:15, :10][labels[0, 5:15, :10] != 1] = 1
    expected[3, 0, 0] = (labels[3, 0, 0] + 1) % 4
    whole = tuple(slice(0, n) for n in SHAPE)
    np.testing.assert_array_equal(merged.read(whole), expected)
    np.testing.assert_array_equal(merged.changed(whole), expected != labels)
    known = merged.known(whole)
    assert known[3].all() and not known[4].any() and not known[1].any()
    conflicts = list(merged.conflicts())
    both = (labels[0, 5:10, :10] != 2) & (labels[0, 5:10, :10] != 1)
    assert sum(conflict.n_voxels for conflict in conflicts) == both.sum()
    assert {conflict.people for conflict in conflicts} == {("anna", "ben")}
    assert {conflict.values for conflict in conflicts} == {(2, 1)}
    trusted = Merged(folder, people=("ben", "anna")).read(whole)
    assert (trusted[0, :10, :10][labels[0, :10, :10] != 2] == 2).all()
    n = write_merged(merged, tmp_path / "merged.ome.zarr")
    assert n == (expected != labels).sum()
    np.testing.assert_array_equal(gn.open_volume(tmp_path / "merged.ome.zarr").read(whole), expected)
    with pytest.raises(gn.InputError, match="is the segmentation that is corrected, which stays as it is"):
        write_merged(merged, folder.segmentation, overwrite=True)
    with pytest.raises(gn.InputError, match="has no ledger of 'cara'; there are those of anna, ben"):
        Merged(folder, people=("cara",))
    with pytest.raises(gn.InputError, match="has no ledger of 'manual'; there is none"):
        Merged(folder, mode="manual")


def test_a_stroke_may_be_kept_in_parts(tmp_path):
    folder, labels = corrections(tmp_path)
    session = Session(folder, "anna")
    session.labels[0, 0, :5] = 9
    assert session.keep(partial=True) == 5 and session.keep(partial=True) == 0
    assert session.keep() == session.keep() == 0
    session.labels[0, 1, :5] = 9
    session.keep()
    session.close()
    strokes = [event.fields for event in folder.events("anna") if event.kind == "stroke"]
    assert [(entry["voxels"], "part" in entry) for entry in strokes] == [(5, True), (0, False), (5, False)]
    (work,) = work_by_slice("anna", "correct", folder.events("anna"))
    assert (work.n_strokes, work.n_voxels) == (2, 10)


def test_where_corrections_stand(tmp_path):
    path, labels = segmentation(tmp_path)
    assert folder_beside(path) == tmp_path / "cells.corrections"
    for name in ("a.h5:/some/labels", "b c.tif"):
        with gn.create_volume(tmp_path / name, SHAPE, np.uint8) as out:
            out.write(tuple(slice(0, n) for n in SHAPE), labels)
    assert folder_beside(f"{tmp_path}/a.h5:/some/labels") == tmp_path / "a-some-labels.corrections"
    for source in (f"{tmp_path}/a.h5:/some/labels", tmp_path / "b c.tif"):
        session = Session(Corrections.create(folder_beside(source), segmentation=source), "änne")
        session.labels[0, 0, 0] = 9
        session.close()
        assert Merged(session.corrections).read((slice(0, 1), slice(0, 1), slice(0, 1))) == 9
    with pytest.raises(gn.InputError, match="is a URL; say where corrections of it are kept"):
        folder_beside("https://example.org/cells.ome.zarr")


def test_labels_by_hand_begin_with_nothing(tmp_path):
    folder, _ = corrections(tmp_path)
    session = Session(folder, "anna", "manual")
    assert not np.asarray(session.labels).any()
    session.labels[1, 1, 1] = 2
    session.close()
    assert Merged(folder, mode="manual").read((slice(1, 2), slice(1, 2), slice(1, 2))) == 2


def test_a_folder_belongs_to_its_files(tmp_path):
    folder, _ = corrections(tmp_path)
    other, _ = segmentation(tmp_path, name="other.ome.zarr")
    assert Corrections.create(folder.folder, segmentation=folder.segmentation) == folder
    with pytest.raises(gn.InputError, match="holds corrections of another segmentation, .*cells.ome.zarr"):
        Corrections.create(folder.folder, segmentation=other)
    image = tmp_path / "image.npy"
    np.save(image, np.zeros((5, 40, 40), np.uint8))
    with pytest.raises(gn.InputError, match=r"image.npy has shape \(5, 40, 40\), but .* has \(5, 40, 50\)"):
        Corrections.create(folder.folder, image=image)
    with pytest.raises(gn.InputError, match="holds no corrections; `genenet correct`"):
        Corrections.open(tmp_path)
    with pytest.raises(gn.InputError, match="is there, but holds no corrections; choose another name"):
        Corrections.create(tmp_path, segmentation=other)
    for person in ("", "../anna", "a b", ".x"):
        with pytest.raises(gn.InputError, match="a person's name is made of letters"):
            folder.ledger_path(person)
    with pytest.raises(gn.InputError, match="`mode` is correct or manual, but got 'fast'"):
        folder.ledger_path("anna", "fast")
    (folder.folder / "corrections.json").write_text('{"corrections": 1}')
    with pytest.raises(gn.InputError, match="corrections.json is damaged"):
        Corrections.open(folder.folder)


def test_time_may_be_logged_by_hand(tmp_path):
    wall = Clock(1.8e9)
    by_hand.start(tmp_path / "log", "anna", "manual", 12, wall=wall)
    with pytest.raises(gn.InputError, match="the time of anna runs since .*, on slice 12; stop or pause it first"):
        by_hand.start(tmp_path / "log", "anna", "manual", 13, wall=wall)
    wall.seconds += 600
    assert by_hand.pause(tmp_path / "log", "anna", "manual", wall=wall) == (12, 600)
    wall.seconds += 5000
    with pytest.raises(gn.InputError, match="no time of anna runs in mode 'manual'; `genenet correct start` begins it"):
        by_hand.stop(tmp_path / "log", "anna", "manual", wall=wall)
    by_hand.start(tmp_path / "log", "anna", "manual", 12, wall=wall)
    by_hand.start(tmp_path / "log", "ben", "manual", 3, wall=wall)
    with pytest.raises(gn.InputError, match=r"running are anna \(manual\), ben \(manual\)"):
        by_hand.stop(tmp_path / "log", "anna", "correct", wall=wall)
    wall.seconds += 738
    assert by_hand.stop(tmp_path / "log", "anna", "manual", wall=wall) == (12, 738)
    with pytest.raises(gn.InputError, match="holds times only, no labels"):
        Session(Corrections.open(tmp_path / "log"), "anna")


def test_paths_may_be_written_in_several_ways(tmp_path, monkeypatch):
    folder, labels = corrections(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.ome.zarr").symlink_to(tmp_path / "cells.ome.zarr")
    monkeypatch.chdir(tmp_path / "sub")
    for other in ("../cells.ome.zarr", tmp_path / "link.ome.zarr"):
        assert Corrections.create(folder.folder, segmentation=other) == folder
        session = Session(folder, "anna")
        session.close()
        with pytest.raises(gn.InputError, match="is the segmentation that is corrected, which stays as it is"):
            write_merged(Merged(folder), other, overwrite=True)


def test_a_segmentation_that_was_made_anew_is_noticed(tmp_path):
    folder, _ = corrections(tmp_path)
    with gn.create_volume(folder.segmentation, (5, 40, 60), np.uint8, overwrite=True):
        pass
    with pytest.raises(gn.InputError, match="was made anew since .*, and corrections of it do not fit"):
        Session(folder, "anna")


def test_a_full_disk_loses_no_line(tmp_path, monkeypatch):
    folder, labels = corrections(tmp_path)
    session = Session(folder, "anna")
    stream = session._ledger._stream

    class Full:
        def write(self, text):
            return stream.write(text[:20])

        def __getattr__(self, name):
            return getattr(stream, name)

    session._ledger._stream = Full()
    session.labels[0, :5, :5] = 9
    with pytest.raises(OSError, match="No space left"):
        session.keep()
    session._ledger._stream = stream
    session.close()
    assert (Session(folder, "anna").labels[0, :5, :5] == 9).all()


def test_a_clock_that_is_set_back_changes_nothing(tmp_path):
    folder, _ = corrections(tmp_path)
    wall = Clock(1.8e9)
    session = Session(folder, "anna", wall=wall)
    for value in (8, 9):
        session.labels[0, 0, 0] = value
        session.keep()
        wall.seconds -= 100
    session.close()
    assert Merged(folder).read((slice(0, 1), slice(0, 1), slice(0, 1))) == 9


def test_what_was_taken_back_or_timed_elsewhere_is_not_vouched_for(tmp_path):
    folder, _ = corrections(tmp_path)
    session = Session(folder, "anna")
    session.mark(done=True, box=((0, 1), (0, 8), (0, 8)))
    session.mark(done=True)
    session.mark(done=False)
    session.close()
    by_hand.start(folder.folder, "anna", "correct", 2)
    by_hand.stop(folder.folder, "anna", "correct")
    assert not Merged(folder).known(tuple(slice(0, n) for n in SHAPE)).any()


def test_undoing_counts_on_the_slice_that_changes(tmp_path):
    folder, labels = corrections(tmp_path)
    session = Session(folder, "anna")
    session.labels[0, 0, :5] = 9
    session.keep()
    session.go_to(1)
    session.labels[0, 0, :5] = labels[0, 0, :5]
    session.keep("undo")
    session.close()
    first, *others = work_by_slice("anna", "correct", folder.events("anna"))
    assert (first.slice, first.n_strokes, first.n_voxels) == (0, 0, 0)
    assert all(work.n_strokes == 0 for work in others)
