"""`genenet components`: the objects in a segmentation."""

from pathlib import Path
from typing import Annotated

import typer

from genenet.cli.options import AsJson, Overwrite
from genenet.cli.output import progress, say, say_json, table


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(components)


def components(
    segmentation: Annotated[str, typer.Argument(help="Class values, as `genenet segment` writes them.")],
    output: Annotated[Path, typer.Argument(help="Numbers of objects: .ome.zarr, .tif, .h5 or .npy, by suffix.")],
    csv: Annotated[Path | None, typer.Option("--table", help="A row per object, as CSV.")] = None,
    values: Annotated[str | None, typer.Option(help="Class values, as in 1,3; all but 0 if left out.")] = None,
    min_voxels: Annotated[int, typer.Option(min=1, help="Leave out objects with fewer voxels.")] = 1,
    connectivity: Annotated[
        int, typer.Option(min=1, max=3, help="1: voxels of an object share faces; 2: or edges; 3: or corners.")
    ] = 1,
    cleaned: Annotated[Path | None, typer.Option(help="The segmentation again, without the objects left out.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Number the objects in a segmentation of any size, and measure them."""
    from genenet.components import classes_of, find_components, write_table
    from genenet.errors import InputError
    from genenet.volume import open_volume

    volume = open_volume(segmentation)
    if csv is not None and csv.exists() and not overwrite:
        raise InputError(f"{csv} exists; choose another name, or ask to overwrite it (--overwrite)")
    classes = classes_of(volume)
    if values is not None:
        known = {str(entry.value): entry for entry in classes}
        asked = [value.strip() for value in values.split(",")]
        missing = [value for value in asked if value not in known]
        if missing:
            raise InputError(f"--values: {volume.name} has the classes {', '.join(known)}, but not {missing[0]}")
        classes = tuple(known[value] for value in asked)
    with progress("components", unit="voxel") as shown:
        found = find_components(
            volume,
            output,
            classes=classes,
            min_voxels=min_voxels,
            connectivity=connectivity,
            cleaned=cleaned,
            overwrite=overwrite,
            progress=shown,
        )
    if csv is not None:
        write_table(found, csv)
    rows = [
        {
            "value": entry.value,
            "class": entry.name,
            "objects": len(own := found[found["value"] == entry.value]),
            "voxels": int(own["voxels"].sum()),
            "median voxels": float(own["voxels"].median()) if len(own) else None,
            "largest": int(own["voxels"].max()) if len(own) else None,
        }
        for entry in classes
    ]
    if as_json:
        say_json({"output": output, "classes": rows})
        return
    say(table(rows, {"value": "d", "class": "", "objects": "d", "voxels": "d", "median voxels": ".0f", "largest": "d"}))
    say(f"wrote {output}" + ("" if csv is None else f" and {csv}"))
