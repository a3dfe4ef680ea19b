"""The report: one whole page at any time, whatever of the study is there."""

import base64
import dataclasses
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import genenet as gn
from genenet.dataset import Dataset
from genenet.ensemble import CurvePoint, Ensemble
from genenet.errors import InputError
from genenet.folder import read_json, write_json, write_text
from genenet.label_table import UNLABELLED
from genenet.network import save_network
from search.report import slices, write_report
from search.report.drawing import ScoreAxis
from search.report.html import element
from search.report.importance import MIN_TRIALS, SCORE, measure_importance
from search.report.results import Chosen, Finished, Results, read_results
from search.report.text import above_baseline, progress, summary
from search.space import Choice, Levels, Range, Space
from search.study import Study
from search.trial import Trial
from search.worker import work

N_TRIALS = 12
SAVED = 3  # the best so many, and the baseline, have a network
FAILING = 4

SPACE = Space(
    gn.EncoderDecoder(n_classes=3, n_scales=1, n_convs=1, window_size=32),
    {
        "n_scales": Range(1, 2),
        "n_features": Levels(Range(2, 6), Range(-1, 1)),
        "pooling": Choice("max", "strided"),
        "log10_learning_rate": Range(-3, -2),
    },
)
BASELINE = gn.UNet(n_classes=3, n_features=2, n_scales=1, window_size=44)


def data_settings(folder, ignore=None):
    rng = np.random.default_rng(0)
    labels = (np.indices((5, 64, 64)).sum(axis=0) // 20 % 3).astype(np.uint8)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "image.npy", (80 * labels + rng.integers(0, 40, labels.shape)).astype(np.uint8))
    return {
        "image": str(folder / "image.npy"),
        "labels": str(folder / "labels.npy"),
        "voxel_size_nm": [50, 10, 10],
        "classes": [{"value": i, "name": name} for i, name in enumerate(("cell", "<b>", "outside & more"))],
        "ignore": ignore,
        "training": {"z": [0, 3]},
        "validation": {"z": [3, 5]},
    }


def stub(study, trial, check):
    """As if the learning rate alone decided."""
    if trial.number == FAILING:
        raise InputError("the loss is <NaN> at step 3")
    score = 0.5 if trial.state.get("label") else 1.0 + trial.blueprint.log10_learning_rate / 10 + trial.number * 1e-4
    return {"adjusted_rand": score, "mean_iou": 0.5, "accuracy": 0.9, "mean_dice": 0.6, "steps": 7, "seconds": 30.5}


def create(folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    options = {"n_trials": N_TRIALS, "baseline": BASELINE, "steps": 7, **options}
    return Study.create(folder / "blood cells", SPACE, data=data_settings(folder), **options)


def save(study, trial):
    net, data = trial.blueprint, study.data
    scores = {"adjusted_rand": trial.state["adjusted_rand"]}
    model = net.build(seed=trial.number)
    save_network(trial.network_folder, model, net, data.normalization(), data.classes, scores, details={})


def choose(study, n_members):
    """As if the best two were better than any other number."""
    networks = study.networks()
    alone = [network.scores["adjusted_rand"] for network in networks]
    together = [alone[0], alone[0] + 0.05, *alone[2:]]
    curve = zip(networks, alone, together, strict=True)
    points = [CurvePoint(i, str(network.folder), a, t, 0.5, 0.9) for i, (network, a, t) in enumerate(curve, 1)]
    Ensemble(tuple(networks[:n_members]), False, tuple(points[:SAVED])).save(study.folder / "ensemble")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that is done: twelve networks, one failed, the best two an ensemble."""
    study = create(tmp_path_factory.mktemp("report"))
    work(study, stub)
    ranked = read_results(study).finished
    for network in [*ranked[:SAVED], ranked[-1]]:
        save(study, network.trial)
    unsaved = [network.trial for network in ranked if not network.trial.network_folder.exists()]
    for trial in unsaved:  # `Study.networks` wants all
        shutil.copytree(ranked[0].trial.network_folder, trial.network_folder)
        entry = read_json(trial.network_folder / "network.json")
        entry["scores"]["adjusted_rand"] = trial.state["adjusted_rand"]
        write_json(trial.network_folder / "network.json", entry)
    choose(study, 2)
    for trial in unsaved:
        shutil.rmtree(trial.network_folder)
    return study


@pytest.fixture(scope="module")
def page(finished):
    return write_report(finished).read_text(encoding="utf-8")


@pytest.fixture
def bare(finished, tmp_path):
    """The same without networks, so that the report is quick."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    for folder in (tmp_path / "copy" / "trials").glob("*/network"):
        shutil.rmtree(folder)
    return tmp_path / "copy"


class Reader(HTMLParser):
    """Checks that elements close in order; gathers addresses, table rows and text."""

    VOID = {"br", "img", "meta", "source"}

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.rows, self.ids, self.tags = [], [], [], [], set()
        self.feed(text)
        self.close()
        assert not self.open
        self.words = re.sub(r"\s+", " ", self.all_text)

    all_text = ""

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [given[name] for name in ("src", "href", "srcset", "data", "action") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" in self.open:
            return
        self.all_text += text
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += text


def ranking(reader):
    """Rows of the table of networks, without its header."""
    return [row for row in reader.rows if len(row) == 10 and row[0] != "net"]


# -- a finished study ---


def test_the_page_needs_no_other_file(page):
    reader = Reader(page)
    assert page.startswith("<!doctype html>")
    assert not re.search(r"https?://|@import|url\(", page)
    assert all(address.startswith(("data:image/", "#")) for address in reader.addresses)
    assert {address[1:] for address in reader.addresses if address[0] == "#"} <= set(reader.ids)
    assert "script" not in reader.tags and "link" not in reader.tags
    for address in reader.addresses:
        if address.startswith("data:image/svg"):
            picture = base64.b64decode(address.partition(",")[2]).decode()
            assert not re.search(r'(href|src)="https?:', picture)


def test_the_summary_names_ensemble_best_and_baseline(page, finished):
    best = read_results(finished).best.adjusted_rand
    said = f"The ensemble of the best 2 of {N_TRIALS} networks reaches an adjusted Rand score of {best + 0.05:.3f}; "
    said += f"the best single network {best:.3f}, the baseline at the same budget 0.500."
    assert said in Reader(page).words
    assert "All of the 11 other networks score above the baseline" in Reader(page).words


def test_the_table_is_sorted_and_ends_with_the_baseline(page, finished):
    rows = ranking(Reader(page))
    assert len(rows) == 11 and rows[-1][0] == "0 baseline"
    numbers = [int(re.match(r"\d+", row[0]).group()) for row in rows]
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert [row[0].endswith("●") for row in rows] == [True] * 2 + [False] * 9
    trials = {trial.number: trial for trial in finished.trials()}
    for number, row in zip(numbers, rows, strict=True):
        layers = trials[number].blueprint.layers_per_stack()
        assert row[4:6] == [",".join(map(str, part)) for part in layers]
    assert rows[-1][2:] == ["–", "437", "2", "2,2", "0.0010", "44", "7", "30 s"]
    assert "1 more network in leaderboard.csv" in Reader(page).words


def test_names_are_escaped(page):
    assert "<b>cell" not in page and "&lt;b&gt;" in page and "outside &amp; more" in page
    assert "the loss is &lt;NaN&gt; at step 3" in page
    assert element("p", "<i>", title='"<') == '<p title="&quot;&lt;">&lt;i&gt;</p>'


def test_scores_per_class_are_those_of_evaluate(page, finished):
    rows = {row[0]: row for row in Reader(page).rows if len(row) == 4}
    chosen = gn.evaluate(finished.folder / "ensemble", finished.data)
    baseline = gn.evaluate(finished.trials()[0].network_folder, finished.data)
    for index, name in enumerate(("cell", "<b>", "outside & more")):
        assert rows[name][2:] == [f"{found.iou[index]:.3f}" for found in (chosen, baseline)]
    assert rows["adjusted Rand score"][2:] == [
        f"{found.adjusted_rand:.3f}".replace("-", "−") for found in (chosen, baseline)
    ]
    assert page.count('tabindex="0"') == 2 * 6  # image, labels, two segmentations, their errors


def test_it_says_what_was_asked(page):
    words = Reader(page).words
    for said in (
        "12 networks drawn from the space, 7 steps of 4 windows each",
        "random, seed 0",
        "z 3 to 4",
        "50 × 10 × 10 nm (z, y, x)",
        "12 finished",
        "2 to 6",
        "−1 to +1",
        "max or strided",
    ):
        assert said in words


def test_the_same_study_gives_the_same_page(finished, page):
    clock = r"\d+ \w+ \d{4}, \d\d:\d\d"
    assert re.sub(clock, "", write_report(finished).read_text(encoding="utf-8")) == re.sub(clock, "", page)


# -- whatever is missing is a sentence ---


def test_networks_that_joined_again_count_again(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "again")
    folder = tmp_path / "again" / "ensemble"
    two = Ensemble.open(folder)
    points = [CurvePoint(n, two.curve[0].added, 0.5, 0.6 + n / 100, 0.5, 0.5, n / 1000) for n in (1, 2, 3, 4)]
    ranked = tuple((str(member.folder), member.scores["adjusted_rand"]) for member in reversed(two.members))
    dataclasses.replace(two, weights=(2.0, 1.0), curve=tuple(points), candidates=ranked).save(folder)
    chosen = read_results(Study.open(tmp_path / "again")).ensemble
    assert (chosen.n_joined, chosen.adjusted_rand, chosen.ambiguity) == (3, pytest.approx(0.63), pytest.approx(0.003))
    assert not chosen.of_the_best
    page = write_report(Study.open(tmp_path / "again")).read_text()
    assert "Together the 2 chosen networks score 0.020 more than the first of them alone." in page
    assert "Some joined again and count for more." in page and "The ensemble of 2 networks reaches" in page


def _drop_ensemble(folder):
    shutil.rmtree(folder / "ensemble")


def _drop_curve(folder):
    (folder / "ensemble" / "curve.csv").unlink()


def _break_ensemble(folder):
    write_text(folder / "ensemble" / "members.json", "{")


def _drop_label(folder):
    state = read_json(folder / "trials" / "0000" / "state.json")
    write_json(folder / "trials" / "0000" / "state.json", {**state, "label": ""})


def _drop_trials(folder):
    for path in (folder / "trials", folder / "ensemble"):
        shutil.rmtree(path)
    (folder / "optuna.journal").unlink()


def _break_journal(folder):
    write_text(folder / "optuna.journal", "nonsense\n")


def _break_blueprint(folder):
    state = read_json(folder / "trials" / "0002" / "state.json")
    state.pop("window", None)  # which is then read from the blueprint
    write_json(folder / "trials" / "0002" / "state.json", state)
    write_text(folder / "trials" / "0002" / "blueprint.json", "{")


def _interrupt(folder):
    for number, state in ((2, "running"), (3, "waiting")):
        write_json(folder / "trials" / f"{number:04d}" / "state.json", {"state": state, "time": 0})
        shutil.rmtree(folder / "trials" / f"{number:04d}" / "attempts", ignore_errors=True)
    attempt = folder / "trials" / "0002" / "attempts" / "0001.json"
    write_json(attempt, {"host": "elsewhere", "pid": 1})
    os.utime(attempt, (0, 0))


def _rank_anew(folder):
    state = read_json(folder / "trials" / "0007" / "state.json")
    write_json(folder / "trials" / "0007" / "state.json", {**state, "adjusted_rand": 0.99})


def _keep_one(folder):
    _drop_ensemble(folder)
    for path in sorted((folder / "trials").iterdir())[:-1]:
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (lambda folder: None, ["There is no trained network to segment slices with"]),
        (_drop_ensemble, ["No ensemble has been chosen yet; genenet ensemble", "The best of 12 networks reaches"]),
        (_drop_curve, ["The ensemble came without a curve; genenet ensemble"]),
        (_break_ensemble, ["No ensemble has been chosen yet"]),
        (_drop_label, ["There is no finished baseline to compare with"]),
        (_drop_trials, ["No network has been tried yet", "the first network has finished; genenet search run"]),
        (_break_journal, ["Which hyperparameters mattered cannot be said yet. It could not be estimated"]),
        (_break_blueprint, ["11 finished", "its files are damaged"]),
        (_interrupt, ["1 lost; 1 waiting", "The search is not finished: 2 networks are still to come"]),
        (_rank_anew, ["Networks have finished since this was chosen; genenet ensemble", "The ensemble of 2 networks"]),
        (_keep_one, ["The one network that has finished reaches"]),
    ],
)
def test_missing_parts_are_sentences(bare, change, sentences):
    change(bare)
    reader = Reader(write_report(Study.open(bare)).read_text(encoding="utf-8"))
    for sentence in sentences:
        assert sentence in reader.words
    assert "What was asked" in reader.words


def test_data_that_are_gone_cost_the_slices_only(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    text = (tmp_path / "copy" / "study.yaml").read_text(encoding="utf-8")
    write_text(tmp_path / "copy" / "study.yaml", text.replace("image.npy", "gone.npy"))
    words = Reader(write_report(Study.open(tmp_path / "copy")).read_text(encoding="utf-8")).words
    assert "Example slices could not be made" in words and "gone.npy" in words


def test_a_new_study_has_a_report(tmp_path):
    words = Reader(write_report(create(tmp_path)).read_text(encoding="utf-8")).words
    assert "No network has been tried yet" in words and "12 networks are still to come" in words


# -- sentences ---


def tried(number, score, label=""):
    trial = Trial(Path(f"trials/{number:04d}"))
    return Finished(trial, label, score, 0.5, 1000, (2,), (2, 2), 0.001, (64, 64), 10, 5.0, None, 1000.0, False)


def results(scores, members=0, curve=(), baseline=None):
    finished = [tried(i, score, "baseline" if i == baseline else "") for i, score in enumerate(scores)]
    chosen = Chosen(tuple(range(members)), False, tuple(curve), True) if members else None
    return Results(tuple(finished), {"done": len(scores)}, (), 0, chosen, "the original U-Net")


def test_sentences_by_hand():
    full = results([0.69, 0.68, *[0.66] * 13, 0.64], members=3, curve=(0.69, 0.70, 0.71), baseline=15)
    assert summary(full) == (
        "The ensemble of the best 3 of 16 networks reaches an adjusted Rand score of 0.710; "
        "the best single network 0.690, the original U-Net at the same budget 0.640."
    )
    assert above_baseline(full) == "All of the 15 other networks score above the original U-Net (0.640)."
    assert progress(full) == ""
    alone = results([0.7, 0.6, 0.5], members=1, curve=(0.7, 0.6, 0.5), baseline=1)
    assert summary(alone) == (
        "The best of 3 networks reaches an adjusted Rand score of 0.700, and no ensemble exceeds it; "
        "the original U-Net at the same budget 0.600."
    )
    assert above_baseline(alone) == "1 of the 2 other networks scores above the original U-Net (0.600)."
    first = results([0.7, 0.6], members=2, curve=(0.7, 0.72), baseline=0)
    assert summary(first).endswith("0.720; the best single network, the original U-Net, 0.700.")


def test_only_the_original_unet_is_called_so(tmp_path):
    study = create(tmp_path, baseline=True, n_trials=0)
    work(study, stub)
    assert read_results(study).baseline_name == "the original U-Net"
    assert "31.0M" in Reader(write_report(study).read_text(encoding="utf-8")).words


# -- what the charts rest on ---


def test_what_decides_is_the_most_important(finished):
    found = measure_importance(finished)
    names = list(found.shares)
    assert names[0] == "log10_learning_rate" and found.shares[names[0]] > 0.5
    assert "n_features (deeper levels)" in names and not any("@" in name for name in names)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert measure_importance(finished).shares == found.shares
    assert len(found.values) == 11 and SCORE in found.values  # without the baseline, which was not drawn


def test_few_networks_have_no_importance(tmp_path):
    study = create(tmp_path, n_trials=3)
    work(study, stub)
    assert measure_importance(study).missing.startswith(f"It takes at least {MIN_TRIALS} finished networks")


def test_outliers_do_not_squeeze_the_axis():
    scores = [0.70, 0.71, 0.72, 0.73, 0.74, 0.75, 0.76, 0.02, 0.0]
    assert ScoreAxis.of(scores) == ScoreAxis(0.76, 0.70)
    assert ScoreAxis.of(scores, baseline=0.02) == ScoreAxis(0.76, 0.02)
    assert ScoreAxis.of(scores[:7]) == ScoreAxis(0.76)
    assert ScoreAxis.of([0.5] * 9) == ScoreAxis(0.5)


# -- example slices ---


def test_a_crop_is_segmented_as_in_the_whole_slice(finished, monkeypatch):
    monkeypatch.setattr(slices, "CROP_SIDES", (32,))
    contenders = slices.choose_contenders(read_results(finished))
    assert [contender.name for contender in contenders] == ["ensemble of 2 networks", "baseline"]
    comparison = slices.compare(finished.data, contenders)
    (part,) = finished.data.validation
    for index, contender in enumerate(contenders):
        whole = slices.predict_part(Ensemble(contender.networks).predictor(), part)
        for example in comparison.examples:
            box = [slice(s.start - o, s.stop - o) for s, o in zip(example.part.box, part.start, strict=True)]
            np.testing.assert_array_equal(example.predictions[index], whole[tuple(box)][0])
            assert example.image.shape == (32, 32)


def test_crops_lie_where_labels_are(tmp_path):
    settings = data_settings(tmp_path, ignore=9)
    labels = np.load(settings["labels"])
    sparse = np.full_like(labels, 9)
    sparse[:3], sparse[4, 40:50, 6:20] = labels[:3], labels[4, 40:50, 6:20]
    np.save(settings["labels"], sparse)
    data = Dataset.open(settings)
    (crop,) = slices.choose_crops(data, 24, 4)
    assert crop.start[0] == 4
    assert (crop.read_labels((0, 0, 0), crop.shape) != UNLABELLED).sum() == 10 * 14
    assert [start % 4 for start in crop.start[1:]] == [0, 0]
    nothing = dataclasses.replace(data, validation=(dataclasses.replace(crop, box=(slice(3, 4), *crop.box[1:])),))
    with pytest.raises(InputError, match="no voxel of the validation part is labelled"):
        slices.choose_crops(nothing, 24, 4)


def test_without_a_baseline_the_middle_network_is_shown(finished):
    found = read_results(finished)
    ranked = [network for network in found.finished if (network.trial.network_folder / "network.json").exists()]
    without = dataclasses.replace(found, ensemble=None, finished=tuple(ranked[:SAVED]))
    names = [contender.name for contender in slices.choose_contenders(without)]
    assert names == [f"best network (net {ranked[0].number})", f"middle of the ranking (net {ranked[2].number})"]


def test_multiply_adds_by_hand():
    net = gn.EncoderDecoder(n_classes=2, n_scales=1, n_convs=1, n_features=4, padding="same", kernel_size=1)
    plan = net.plan_layers()
    # Per voxel: stack0 1->4 8, stack1 4->8 40 at a quarter, up 8->4 (2x2) 132, decode 8->4 36, head 4->2 10.
    assert json.dumps(plan.n_parameters) == str(8 + 40 + 132 + 36 + 10)
    assert slices.multiply_adds_per_voxel(plan, 32) == 8 + 40 / 4 + 132 + 36 + 10
