"""`genenet correct`: people correct a segmentation, their time is logged, and networks learn from it."""

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from genenet.cli.options import AsJson, Overwrite, StudyFolder
from genenet.cli.output import progress, say, say_json, table
from genenet.wording import plural

# Where times are logged by hand unless said otherwise.
DEFAULT_FOLDER = Path("corrections")

# With more values, as of single objects, time by class is left to --json.
MOST_CLASSES = 12


class OpensByDefault(typer.core.TyperGroup):
    """`genenet correct IMAGE SEGMENTATION` means `genenet correct open IMAGE SEGMENTATION`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take what is no verb for the first argument of `open`."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["open", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=OpensByDefault,
    help="Correct a segmentation in napari, with its time logged: genenet correct IMAGE SEGMENTATION.",
    no_args_is_help=True,
)

Person = Annotated[str | None, typer.Option(help="Who works; your login name if left out.")]
Mode = Annotated[str, typer.Option(help="correct, or manual: segmenting by hand from nothing.")]
LogFolder = Annotated[Path, typer.Option(help="Where times are kept; made if it is not there.")]
Folders = Annotated[list[Path], typer.Argument(help="Folders of corrections.")]
Idle = Annotated[float, typer.Option(min=0.001, help="The longest break that counts, in seconds.")]


def _me(person: str | None) -> str:
    return person or getpass.getuser()


@app.command("open")
def open_viewer(
    image: Annotated[str, typer.Argument(help="The volume.")],
    segmentation: Annotated[str, typer.Argument(help="What is corrected; it is never changed.")],
    doubt: Annotated[str | None, typer.Option(help="Its entropy or disagreement, to go where it is doubtful.")] = None,
    person: Person = None,
    mode: Mode = "correct",
    folder: Annotated[
        Path | None, typer.Option(help="Where corrections are kept; SEGMENTATION.corrections if left out.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A data.yaml, for the names and colours of classes.")] = None,
) -> None:
    """Open napari on a volume and its segmentation, and log the work."""
    from genenet.corrections.store import Corrections, folder_beside
    from genenet.dataset import Dataset
    from genenet.errors import InputError

    classes = None if data is None else Dataset.open(data).classes
    kept = Corrections.create(
        folder or folder_beside(segmentation), image=image, segmentation=segmentation, doubt=doubt, classes=classes
    )
    try:
        from genenet.napari.panel import correct
    except ImportError as error:
        raise InputError(f"the viewer needs napari ({error}): pip install 'genenet[napari]'") from None
    correct(kept, _me(person), mode)
    say(f"corrections are kept in {kept.folder}")


@app.command()
def start(
    number: Annotated[int, typer.Option("--slice", min=0, help="Which slice, from 0.")],
    mode: Mode = "manual",
    person: Person = None,
    folder: LogFolder = DEFAULT_FOLDER,
) -> None:
    """Log by hand, while working in another program: time begins to run."""
    from genenet.corrections import by_hand

    by_hand.start(folder, _me(person), mode, number)
    say(f"the time of {_me(person)} runs on slice {number} ({mode}); `genenet correct pause` or `stop` ends it")


@app.command()
def pause(
    number: Annotated[int | None, typer.Option("--slice", min=0, help="The slice, to be sure.")] = None,
    mode: Mode = "manual",
    person: Person = None,
    folder: LogFolder = DEFAULT_FOLDER,
) -> None:
    """Log by hand: a break; `genenet correct start` goes on."""
    _end("pause", number, mode, person, folder)


@app.command()
def stop(
    number: Annotated[int | None, typer.Option("--slice", min=0, help="The slice, to be sure.")] = None,
    mode: Mode = "manual",
    person: Person = None,
    folder: LogFolder = DEFAULT_FOLDER,
) -> None:
    """Log by hand: the slice is done."""
    _end("stop", number, mode, person, folder)


def _end(kind: str, number: int | None, mode: str, person: str | None, folder: Path) -> None:
    from genenet.corrections import by_hand

    ended, seconds = getattr(by_hand, kind)(folder, _me(person), mode, number=number)
    say(f"slice {ended}: {seconds / 60:.1f} min{', done' if kind == 'stop' else ''}")


@app.command()
def summary(
    folders: Folders,
    idle: Idle = 60.0,
    csv: Annotated[Path | None, typer.Option(help="One row per person, mode and slice, to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture, .png or .pdf.")] = None,
    as_json: AsJson = False,
) -> None:
    """Minutes per slice by person, by hand and corrected, and what correcting saves."""
    import dataclasses

    from genenet.corrections import summary as times

    work = times.collect(folders, idle)
    if csv is not None:
        import pandas as pd

        pd.DataFrame(times.table(work)).to_csv(csv, index=False)
    if plot is not None:
        times.plot(work, plot)
    found, paces, done = times.speed_ups(work), times.paces(work), times.counted(work)
    if as_json:
        ups, ways = ([_without_nan(dataclasses.asdict(entry)) for entry in entries] for entries in (found, paces))
        say_json({"speed_up": ups, "pace": ways, "slices": times.table(work)})
        return
    left = len(work) - len(done)
    say(f"{plural(len(done), 'slice')} done{f', {left} not done and left out' if left else ''}\n")
    names = _class_names(folders)
    if paces:
        rows = [
            {
                **dataclasses.asdict(entry),
                "slices": entry.n_slices,
                "min/slice": entry.minutes,
                "voxels/min": entry.voxels_per_min,
                "next slice": None if entry.learning != entry.learning else f"{100 * (entry.learning - 1):+.0f} %",
                **{names.get(value, str(value)): minutes for value, minutes in entry.class_minutes.items()},
            }
            for entry in paces
        ]
        columns = {"person": "", "mode": "", "slices": "d", "min/slice": ".1f", "voxels/min": ".0f", "next slice": ""}
        values = sorted({value for entry in paces for value in entry.class_minutes})
        if values != [-1] and len(values) <= MOST_CLASSES:
            columns |= {names.get(value, str(value)): ".2f" for value in values}
        say(table(rows, columns))
    for entry in found:
        sure = "" if entry.low != entry.low else f", 95 % of resamples {entry.low:.2f}x to {entry.high:.2f}x"
        say(
            f"\n{entry.person}: {entry.manual_min:.1f} min by hand, {entry.corrected_min:.1f} min to correct: "
            f"{entry.ratio:.2f}x{sure}"
        )
    if not found:
        say("\nno speed-up: nobody has done slices both by hand (--mode manual) and by correcting")


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {name: None if value != value else value for name, value in row.items()}  # noqa: PLR0124


def _class_names(folders: list[Path]) -> dict[int, str]:
    from genenet.corrections.store import Corrections

    named = {entry.value: entry.name for folder in folders for entry in Corrections.open(folder).classes}
    return {**named, -1: "looking"}


@app.command()
def apply(
    folder: Annotated[Path, typer.Argument(help="A folder of corrections.")],
    output: Annotated[Path, typer.Argument(help="The corrected labels: .ome.zarr, .tif, .h5 or .npy, by suffix.")],
    person: Annotated[
        list[str] | None, typer.Option(help="Whose corrections, the most trusted last; everybody's if left out.")
    ] = None,
    mode: Mode = "correct",
    conflicts: Annotated[Path | None, typer.Option(help="Where people disagree, as CSV.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the corrected labels, and say where people disagree; the segmentation stays as it is."""
    from genenet.corrections.merge import Merged, write_merged
    from genenet.corrections.store import Corrections

    merged = Merged(Corrections.open(folder), people=person or (), mode=mode)
    with progress("writing", "voxel") as shown:
        n_changed = write_merged(merged, output, overwrite=overwrite, progress=shown)
    rows = [
        {
            "people": " and ".join(entry.people),
            "z": entry.box[0].start,
            "y": f"{entry.box[1].start}-{entry.box[1].stop - 1}",
            "x": f"{entry.box[2].start}-{entry.box[2].stop - 1}",
            "voxels": entry.n_voxels,
            "values": " and ".join(map(str, entry.values)),
        }
        for entry in merged.conflicts()
    ]
    if conflicts is not None:
        import pandas as pd

        pd.DataFrame(rows, columns=["people", "z", "y", "x", "voxels", "values"]).to_csv(conflicts, index=False)
    people = ", ".join(merged.people)
    say(
        f"{output}: {plural(n_changed, 'voxel')} of {plural(len(merged.people), 'person')} ({people})".replace(
            "persons", "people"
        )
    )
    if rows:
        trust = f"{person[-1]} is trusted" if person else "the later edit stands"
        say(f"{plural(len(rows), 'place')} where people disagree; {trust}\n")
        rows.sort(key=lambda row: -int(row["voxels"]))
        say(table(rows[:20], {"people": "", "z": "d", "y": "", "x": "", "voxels": "d", "values": ""}))


@app.command()
def effort(
    folders: Folders,
    study: Annotated[
        Path | None, typer.Option(help="Keep it in this study too: its leaderboard and searches use it from then on.")
    ] = None,
    idle: Idle = 60.0,
    as_json: AsJson = False,
) -> None:
    """Fit how long people take to correct: by area, errors and voxels; from slices that are marked as done."""
    import dataclasses

    from genenet.corrections.effort import EFFORT
    from genenet.corrections.errors import fit_effort
    from genenet.errors import InputError
    from search.goals import CORRECTION
    from search.study import Study

    opened = None if study is None else Study.open(study)
    if opened is not None and CORRECTION in opened.asked.objectives and opened.trials():
        raise InputError(f"{study} searches by these times already; other ones would not compare with its trials")
    found = fit_effort(folders, idle)
    for folder in folders:
        found.save(folder / EFFORT)
    if opened is not None:
        found.save(opened.folder / EFFORT)
        opened.write_leaderboard()
    if as_json:
        say_json(dataclasses.asdict(found))
        return
    say(
        f"{found.s_per_megavoxel:.0f} s to look at a million voxels, {found.s_per_error:.1f} s per error, "
        f"{found.s_per_kilovoxel:.1f} s per thousand voxels changed; from {plural(found.n_slices, 'slice')}, "
        f"half of them within {100 * (found.error or 0):.0f} %"
    )
    if opened is not None:
        say(f"wrote {opened.folder / EFFORT} and the leaderboard")


@app.command()
def learn(
    study: StudyFolder,
    folders: Folders,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps per member; a quarter of the study's.")
    ] = None,
    error_weight: Annotated[int, typer.Option(min=1, max=255, help="How many times a changed voxel counts.")] = 4,
    learning_rate: Annotated[
        float | None, typer.Option(help="A tenth of each network's first one if left out.")
    ] = None,
    max_members: Annotated[int, typer.Option(min=1, help="The largest ensemble tried.")] = 15,
    segment: Annotated[str | None, typer.Option(help="Segment this volume with the new ensemble.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where the segmentation goes.")] = None,
    entropy: Annotated[Path | None, typer.Option(help="Where its entropy goes, to correct what is doubtful.")] = None,
    idle: Idle = 60.0,
    as_json: AsJson = False,
) -> None:
    """Train the members of a study's ensemble further on corrections, and choose the ensemble again: one round."""
    import dataclasses

    from genenet.corrections.learn import learn as one_round
    from genenet.corrections.learn import rounds
    from genenet.corrections.store import Corrections
    from genenet.device import import_keras
    from genenet.ensemble import Ensemble
    from genenet.errors import InputError
    from genenet.evaluation import open_members
    from genenet.formats.place import check_free
    from genenet.volume import open_volume
    from search.study import Study

    if (segment is None) != (output is None):
        raise InputError("--segment names the next volume and --output its segmentation; give both or neither")
    if segment is None and entropy is not None:
        raise InputError("--entropy is written with a segmentation; name the volume by --segment")
    if segment is not None:
        open_volume(segment)
        for path in filter(None, (output, entropy)):
            check_free(path, overwrite=False)
    opened, members = Study.open(study), open_members(study)
    if members is None:
        raise InputError(f"{study} has no ensemble yet; `genenet ensemble {study}` chooses one")
    given = [Corrections.open(folder) for folder in folders]
    import_keras()
    n_steps = steps or max(opened.training.steps // 4, 1)
    training = dataclasses.replace(
        opened.training, steps=n_steps, seconds=None, stop_step=None, stop_below=None,
        validate_every=min(opened.training.validate_every, max(n_steps // 4, 1)),
    )  # fmt: skip
    with progress("training") as shown:
        done = one_round(
            opened.folder / "rounds", members, opened.settings["data"], given, training, error_weight=error_weight,
            learning_rate=learning_rate, max_members=max_members, idle_s=idle, seed=opened.asked.seed, progress=shown,
        )  # fmt: skip
    if segment is not None and output is not None:
        with progress("segmenting", "voxel") as shown:
            Ensemble.open(done.folder / "ensemble").segment(
                segment, output, extras={} if entropy is None else {"entropy": entropy}, progress=shown
            )
    over = [dataclasses.asdict(entry) for entry in rounds(opened.folder / "rounds")]
    if as_json:
        say_json(over)
        return
    columns = {"number": "d", "n_known": ",d", "n_changed": ",d", "n_training": ",d", "before": ".4f", "after": ".4f",
               "n_members": "d", "predicted_before": ".2f", "predicted_after": ".2f",
               "worked_min_per_megavoxel": ".2f", "worked_min": ".1f"}  # fmt: skip
    say(table(over, columns))
    say(f"\nthe ensemble is {done.folder / 'ensemble'}")
    if output is not None:
        say(f"wrote {output}")


@app.command()
def simulate(
    segmentation: Annotated[str, typer.Argument(help="What would be corrected.")],
    truth: Annotated[str, typer.Argument(help="What it should be, in the same values.")],
    doubt: Annotated[str, typer.Argument(help="Its entropy or disagreement.")],
    ignore: Annotated[int | None, typer.Option(help="The value of voxels whose class nobody knows.")] = None,
    size: Annotated[int, typer.Option(min=8, help="Side of a region, in voxels.")] = 64,
    share: Annotated[float, typer.Option(min=0, max=1, help="Of the wrong voxels, how many a person sees.")] = 1.0,
    smallest: Annotated[int, typer.Option(min=1, help="Connected errors of fewer voxels are left.")] = 1,
    study: Annotated[Path | None, typer.Option(help="Take the times that `effort` kept in this study.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture, .png or .pdf.")] = None,
    as_json: AsJson = False,
) -> None:
    """Plan: how the score would rise with the time spent, doubtful regions first, at random, or in order."""
    from genenet.corrections.effort import Effort
    from genenet.corrections.planning import compare_orders, plot_orders

    times = Effort() if study is None else Effort.of(study)
    with progress("correcting") as shown:
        found = compare_orders(
            segmentation,
            truth,
            doubt,
            ignore=ignore,
            size=(1, size, size),
            share=share,
            smallest=smallest,
            effort=times,
            progress=shown,
        )
    if plot is not None:
        plot_orders(found, plot)
    if as_json:
        say_json({name: [step._asdict() for step in steps] for name, steps in found.items()})
        return
    rows = []
    for part in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0):
        row: dict[str, Any] = {"area": f"{100 * part:.0f} %"}
        for name, steps in found.items():
            step = next(entry for entry in steps if entry.area >= part - 1e-9)
            row |= {name: step.adjusted_rand, f"min {name}": step.minutes}
        rows.append(row)
    say(table(rows, {"area": ""} | {key: ".4f" if "min" not in key else ".1f" for key in rows[0] if key != "area"}))


def register(parent: typer.Typer) -> None:
    """Add the verb."""
    parent.add_typer(app, name="correct")
