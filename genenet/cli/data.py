"""`genenet data`: look at volumes, convert them, make them, fetch them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from genenet.cli.options import AsJson, DryRun, Overwrite
from genenet.cli.output import progress, say, say_json
from genenet.wording import plural

app = typer.Typer(
    help="Look at volumes, convert them, make a synthetic one, download a public one.", no_args_is_help=True
)

VoxelSize = Annotated[
    tuple[float, float, float] | None, typer.Option("--voxel-size", help="z y x in nanometres.", metavar="Z Y X")
]


@app.command()
def info(
    path: Annotated[
        str, typer.Argument(help="TIFF, folder of slices, file.h5:/path, Zarr, OME-Zarr, .npy or data.yaml.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what is in a file: shape, type, voxel size, range, label values."""
    from genenet.convert import describe
    from genenet.errors import InputError
    from genenet.volume import open_volume

    if path.endswith((".yaml", ".yml")):
        _dataset_info(path, as_json)
        return
    for mark, verb in (("study.yaml", "search status"), ("blueprint.json", "tree"), ("data.yaml", "data info")):
        if (Path(path) / mark).exists():
            inside = str(Path(path) / mark) if verb == "data info" else path
            raise InputError(f"{path} is no volume: it holds a {mark}; `genenet {verb} {inside}` says what that is")
    found = describe(open_volume(path))
    if as_json:
        say_json(found)
        return
    for key, value in _as_lines(found).items():
        say(f"{key:15} {value}")


def _as_lines(found: dict[str, Any]) -> dict[str, str]:
    """What `describe` found, for people."""
    size, depth = found["voxel_size_nm"], found["shape"][0]
    read = found["n_slices_read"]
    lines = {
        "name": found["name"],
        "shape": " x ".join(f"{n:,}" for n in found["shape"])
        + (" (z, y, x)" if len(found["shape"]) == 3 else " (z, y, x, channels)"),
        "type": found["dtype"],
        "voxel size": f"{' x '.join(f'{s:g}' for s in size)} nm (z, y, x)" if size else "unknown",
        "values": "none but NaN"
        if found["min"] is None
        else f"{found['min']:g} to {found['max']:g}, mean {found['mean']:.4g}",
    }
    if found["n_nan"]:
        lines["NaN"] = plural(found["n_nan"], "voxel")
    if found["counts"]:
        total = sum(found["counts"].values())
        lines["shares"] = ", ".join(f"{value}: {count / total:.2%}" for value, count in found["counts"].items())
    if read < depth:
        lines["looked at"] = f"{plural(read, 'slice')} of {depth:,}"
    return lines


def _dataset_info(path: str, as_json: bool) -> None:
    from genenet.dataset import Dataset

    data = Dataset.open(path)
    total = sum(data.counts)
    validated = sum(part.count(data.n_classes) for part in data.validation)
    rows = [
        {"value": entry.value, "name": entry.name, "voxels": count, "share": count / total, "validation": int(other)}
        for entry, count, other in zip(data.classes, data.counts, validated, strict=True)  # type: ignore[arg-type]
    ]
    parts = {
        which: [{"image": part.image.name, "shape": part.shape, "start": part.start} for part in getattr(data, which)]
        for which in ("training", "validation")
    }
    if as_json:
        say_json({"classes": rows, "voxel_size_nm": data.voxel_size_nm, **parts})
        return
    size = data.voxel_size_nm
    say(
        f"voxel size      {f'{size} nm (z, y, x)' if size else 'unknown; `voxel_size_nm: [z, y, x]` in the file tells'}"
    )
    for which, found in parts.items():
        for part in found:
            say(f"{which:15} {part['shape']} voxels from {part['start']} of {part['image']}")
    for row in rows:
        shares = f"{row['voxels']:,} training voxels, {row['share']:.2%}, {row['validation']:,} for validation"
        say(f"class {row['value']:<9} {row['name']}: {shares}")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Anything `data info` reads.")],
    target: Annotated[str, typer.Argument(help=".ome.zarr, .tif, .h5:/path or .npy, by suffix.")],
    voxel_size: VoxelSize = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Copy a volume into another format, piece by piece."""
    from genenet.convert import convert as copy
    from genenet.formats import place
    from genenet.volume import open_volume

    if dry_run:
        volume = open_volume(source)
        place.check_free(target, overwrite=overwrite)
        replaced = ", which is replaced" if place.target(target).path.exists() else ""
        say(f"would copy {source} {volume.shape} {volume.dtype} to {target}{replaced}")
        return
    with progress("converting") as shown:
        copy(source, target, voxel_size_nm=voxel_size, overwrite=overwrite, progress=shown)
    say(f"wrote {target}")


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="Where image, labels and data.yaml go.")],
    shape: Annotated[tuple[int, int, int], typer.Option(help="Voxels z y x.", metavar="Z Y X")] = (50, 800, 800),
    tissue: Annotated[
        bool, typer.Option("--tissue", help="Stained sections with numbered nuclei instead: Z images of Y X pixels.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same volume.")] = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Make a synthetic platelet-like volume, or stained sections, with labels and a data.yaml."""
    from genenet.phantom_files import write_phantom
    from genenet.phantom_tissue import write_tissue

    if dry_run:
        replaced = ", in place of those there" if overwrite and folder.exists() else ""
        say(f"would write image, labels and data.yaml of {shape} voxels into {folder}{replaced}")
        return
    if tissue:
        path = write_tissue(folder, shape[1:], n_images=shape[0], seed=seed, overwrite=overwrite)
    else:
        path = write_phantom(folder, shape, seed=seed, overwrite=overwrite)
    say(f"wrote {path}")


@app.command()
def fetch(
    what: Annotated[str, typer.Argument(help="A name that `genenet data fetch list` shows, or a URL.")],
    folder: Annotated[Path, typer.Argument(help="Where it goes.")] = Path(),
    md5: Annotated[str | None, typer.Option(help="The file's checksum; needed for a URL.")] = None,
) -> None:
    """Download a public volume and check it."""
    from genenet.errors import InputError
    from genenet.fetch import DATASETS, is_archive
    from genenet.fetch import fetch as download

    if what == "list":
        for name, entry in DATASETS.items():
            say(f"{name:12} {entry.description}")
        return
    url, checksum = (DATASETS[what].url, DATASETS[what].md5) if what in DATASETS else (what, md5)
    if "://" not in url:
        raise InputError(f"there is no data set {what!r}; known are {', '.join(DATASETS)}, or give a URL")
    if checksum is None:
        raise InputError("a URL needs --md5, so that a damaged download is noticed")
    with progress("downloading") as shown:
        path = download(url, folder, md5=checksum, progress=shown, unpack=is_archive(url))
    say(f"wrote {path}")
