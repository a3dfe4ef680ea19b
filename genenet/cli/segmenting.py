"""`genenet segment`: networks over volumes of any size."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genenet.cli.options import AsJson, DryRun, Overwrite
from genenet.cli.output import progress, say, say_json, table
from genenet.wording import plural

if TYPE_CHECKING:
    from genenet.ensemble import Ensemble
    from genenet.views import Look
    from genenet.volume import Volume

_MAPS = "Maps written beside the classes"
_MEMBERS = "How networks are run"
_FORMATS = {"views": "d", "read/written": ".2f", "GiB": ".2f"}
_MACHINES = "On several processes or machines"
_OBJECTS = "Objects one by one"


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(segment)


def segment(
    what: Annotated[Path, typer.Argument(help="The folder of a network, an ensemble or a study.")],
    image: Annotated[str, typer.Argument(help="The volume.")],
    output: Annotated[Path, typer.Argument(help=".ome.zarr, .tif, .h5 or .npy, by suffix.")],
    probabilities: Annotated[
        Path | None, typer.Option(help="Class probabilities, to this file.", rich_help_panel=_MAPS)
    ] = None,
    entropy: Annotated[
        Path | None, typer.Option(help="How unsure the networks are, 0 to 1.", rich_help_panel=_MAPS)
    ] = None,
    disagreement: Annotated[
        Path | None, typer.Option(help="How much the members differ, 0 to 1.", rich_help_panel=_MAPS)
    ] = None,
    margin: Annotated[
        Path | None, typer.Option(help="How far the most probable class is ahead, 0 to 1.", rich_help_panel=_MAPS)
    ] = None,
    distances: Annotated[
        Path | None,
        typer.Option(help="Distances to borders, of networks with a distance head.", rich_help_panel=_MAPS),
    ] = None,
    instances: Annotated[
        bool,
        typer.Option(
            "--instances",
            help="Number the objects, nuclei for instance, by networks of `genenet instances train`; of a folder of "
            "images too, into a folder.",
            rich_help_panel=_OBJECTS,
        ),
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option("--table", help="A row per object, as CSV.", rich_help_panel=_OBJECTS),
    ] = None,
    outlines: Annotated[
        Path | None, typer.Option(help="Outlines for QuPath, as .geojson.", rich_help_panel=_OBJECTS)
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="The outlines over the image, as .png.", rich_help_panel=_OBJECTS)
    ] = None,
    maps_dtype: Annotated[
        str, typer.Option(help="float16, or uint8 with 255 for 1.", rich_help_panel=_MAPS)
    ] = "float16",
    precision: Annotated[
        str, typer.Option(help="auto, float32, bfloat16 or float16; for OpenVINO also int8.", rich_help_panel=_MEMBERS)
    ] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="keras, openvino or onnx; auto for the fastest here that gives what Keras gives.",
            rich_help_panel=_MEMBERS,
        ),
    ] = "keras",
    tta: Annotated[
        str, typer.Option(help="Test-time augmentation: none, flips or rotations.", rich_help_panel=_MEMBERS)
    ] = "none",
    axes: Annotated[
        str | None,
        typer.Option(help="Across which axes 2-D networks slice: z, or zyx for all three.", rich_help_panel=_MEMBERS),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            help="Blend windows of the training size that overlap by this share, instead of reading whole contexts.",
            rich_help_panel=_MEMBERS,
        ),
    ] = None,
    block: Annotated[
        float | None, typer.Option(help="The largest block, in megavoxels.", rich_help_panel=_MEMBERS)
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="What a process may take for a block: 2G. Half of what is there, 2G at most, if left out.",
            rich_help_panel=_MEMBERS,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="local; slurm, pbs, sge or lsf for jobs; or the address of a Dask scheduler, tcp://host:8786.",
            rich_help_panel=_MACHINES,
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; of jobs, the most at once.", rich_help_panel=_MACHINES)
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(help="A YAML file of the site's settings for jobs.", rich_help_panel=_MACHINES)
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Where jobs run.", rich_help_panel=_MACHINES)] = None,
    account: Annotated[str | None, typer.Option(help="Who pays.", rich_help_panel=_MACHINES)] = None,
    time: Annotated[
        str | None, typer.Option(help="How long a job may run: 24h, 90m.", rich_help_panel=_MACHINES)
    ] = None,
    mem: Annotated[str | None, typer.Option(help="Memory of a job: 32G.", rich_help_panel=_MACHINES)] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores of a job.", rich_help_panel=_MACHINES)] = None,
    gpus: Annotated[str | None, typer.Option(help="GPUs of a job: 1, or a100:1.", rich_help_panel=_MACHINES)] = None,
    ome_zarr: Annotated[str, typer.Option(help="Version of an OME-Zarr that is written: 0.5 or 0.4.")] = "0.5",
    pyramid: Annotated[bool, typer.Option(help="Coarser levels for viewers, in an OME-Zarr.")] = True,
    overwrite: Overwrite = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew where a run was stopped.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Segment a volume of any size; started again after a kill, it does only what is missing."""
    from genenet.cli.jobs import jobs_for
    from genenet.clusters import Cluster
    from genenet.errors import InputError
    from genenet.evaluation import open_members
    from genenet.memory import parse_bytes
    from genenet.views import Look
    from genenet.volume import open_volume

    try:
        memory_bytes = None if memory is None else parse_bytes(memory)
    except ValueError as error:
        raise InputError(f"--memory: {error}") from None
    members = open_members(what)
    if members is None:
        raise InputError(f"{what} is not the folder of a network, an ensemble or a study")
    if axes is not None:
        members = dataclasses.replace(members, axes=(axes,) * len(members.members))
    look = Look(tta, overlap)
    limits: dict[str, Any] = {"memory_bytes": memory_bytes}
    if block is not None:
        limits["max_voxels"] = int(block * 2**20)
    site = {
        "partition": partition, "account": account, "time": time, "memory": mem, "cpus": cpus, "gpus": gpus
    }  # fmt: skip
    jobs = jobs_for(cluster, profile, site, output)
    machines: dict[str, Any] = {"cluster": cluster, "n_workers": workers, "jobs": jobs}
    how: dict[str, Any] = {"precision": precision, "engine": engine, "look": look, "overwrite": overwrite}
    if instances:
        beside = (probabilities, "probabilities"), (entropy, "entropy"), (disagreement, "disagreement")
        for path, name in (*beside, (margin, "margin"), (distances, "distances")):
            if path is not None:
                raise InputError(f"--{name} is a map beside classes; with --instances objects are written")
        unusable = ("ome-zarr", ome_zarr != "0.5"), ("no-pyramid", not pyramid), ("maps-dtype", maps_dtype != "float16")
        if wrong := [name for name, is_set in unusable if is_set]:
            raise InputError(f"--{wrong[0]} is about classes and maps; leave it out with --instances")
        more = {"table": csv, "outlines": outlines, "overlay": overlay}
        limits |= {**machines, "restart": restart}
        _find_objects(members, what, image, output, more, how, limits, dry_run=dry_run, as_json=as_json)
        return
    if wrong := [option for option, path in (("table", csv), ("outlines", outlines), ("overlay", overlay)) if path]:
        raise InputError(f"--{wrong[0]} is about objects; ask for them by --instances")
    volume = open_volume(image)
    asked = {"probabilities": probabilities, "entropy": entropy, "disagreement": disagreement, "margin": margin}
    asked["distances"] = distances
    extras = {name: path for name, path in asked.items() if path is not None}
    if dry_run:
        with contextlib.ExitStack() as stack:
            if cluster is not None:
                limits["free_bytes"] = stack.enter_context(Cluster(cluster, workers, jobs)).free_bytes
            _preview(
                members, volume, {"classes": output, **extras}, maps_dtype, ome_zarr, look, limits,
                several=cluster is not None, overwrite=overwrite, as_json=as_json,
            )  # fmt: skip
        return
    with progress("segmenting", unit="voxel") as shown:
        done = members.segment(
            volume,
            output,
            extras=extras,
            extras_dtype=maps_dtype,
            ome_version=ome_zarr,
            pyramid=pyramid,
            restart=restart,
            progress=shown,
            **how,
            **machines,
            **limits,
        )
    if as_json:
        say_json({**vars(done), "voxels_per_s": done.voxels_per_s})
        return
    for entry, share in zip(members.classes, done.fractions, strict=True):
        say(f"{entry.name:24} {share:.2%}")
    kept = f"; {done.n_kept} blocks were there" if done.n_kept else ""
    engines = ", ".join(dict.fromkeys(done.engines))
    say(
        f"wrote {output}: {done.n_voxels:,} voxels in {done.seconds:.1f} s ({done.voxels_per_s / 1e6:.2f} million/s), "
        f"by {engines}; {done.peak_bytes / 2**30:.1f} GiB at most{kept}"
    )


def _find_objects(
    members: "Ensemble",
    what: Path,
    image: str,
    output: Path,
    more: dict[str, Any],
    how: dict[str, Any],
    limits: dict[str, Any],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Number the objects of an image, or of all images in a folder where the output has no suffix."""
    from genenet.errors import InputError
    from genenet.folder import split_suffix
    from genenet.formats import place
    from genenet.instance_segmentation import check_branches, read_merging
    from genenet.segment_instances import check_outputs, images_in, segment_folder, segment_instances

    check_branches(members)
    is_folder = Path(image).is_dir() and split_suffix(output.name)[1] not in place.FORMATS
    is_folder = is_folder and place.find(image).format == "slices"
    merging, written = read_merging(what), [output, *(path for path in more.values() if path is not None)]
    if is_folder and (wrong := [name for name, path in more.items() if path is not None]):
        raise InputError(f"--{wrong[0]} names one file, but {image} is a folder, of which all images get all of these")
    unusable = {"cluster": limits["cluster"], "workers": limits["n_workers"], "block": limits.get("max_voxels")}
    unusable["restart"] = limits["restart"] or None
    if is_folder and (wrong := [name for name, value in unusable.items() if value is not None]):
        raise InputError(
            f"--{wrong[0]} is for one large image; a folder of images is worked on here, one after the other"
        )
    if dry_run:
        images = images_in(Path(image)) if is_folder else [image]
        if not is_folder:
            check_outputs(written, overwrite=how["overwrite"])
        say(f"would find objects in {plural(len(images), 'image')} and write {', '.join(map(str, written))}")
        return
    with progress("segmenting", unit="" if is_folder else "pixel") as shown:
        if is_folder:
            memory = limits["memory_bytes"]
            done = segment_folder(
                members, images_in(Path(image)), output, merging=merging, memory_bytes=memory, progress=shown, **how
            )
        else:
            done = segment_instances(members, image, output, merging=merging, progress=shown, **more, **how, **limits)
    files = list(map(str, written))
    if as_json:
        say_json({"objects": len(done.objects), "images": done.n_images, "seconds": done.seconds, "written": files})
        return
    many = f" in {plural(done.n_images, 'image')}" if is_folder else ""
    say(f"{plural(len(done.objects), 'object')}{many}; wrote {', '.join(files)} in {done.seconds:.1f} s")


def _preview(
    members: "Ensemble",
    volume: "Volume",
    outputs: Mapping[str, Path],
    maps_dtype: str,
    ome_version: str,
    look: "Look",
    limits: Mapping[str, Any],
    *,
    several: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Say in which blocks a volume would be segmented, and what every member would read for one."""
    from genenet.formats import place
    from genenet.segment import check_segmentation, choose_block, maps_for
    from genenet.tiling import n_blocks

    geometry, files = members.geometry(look), list(outputs.values())
    maps = maps_for(geometry, members.classes, [name for name in outputs if name != "classes"], maps_dtype)
    check_segmentation(geometry, volume, list(map(str, files)), maps, ome_version, several=several)
    for file in files:
        place.check_free(file, overwrite=overwrite)
    core = choose_block(geometry, volume, **limits)
    rows = []
    for member, network in zip(geometry.members, members.members, strict=True):
        reach = member.reach(core)
        rows.append(
            {
                "network": str(network.folder),
                "stride": _by(member.stride),
                "views": len(member.views),
                "reads": _by(reach.input),
                "window": _by(member.call_shape(core)[1:]),
                "read/written": math.prod(reach.input) / math.prod(core),
                "GiB": member.bytes_for(core) / 2**30,
            }
        )
    blocks, total = n_blocks(volume.shape[:3], core), geometry.bytes_for(core)
    if as_json:
        say_json({"block": core, "n_blocks": blocks, "bytes": total, "members": rows})
        return
    replaced = ", which is replaced" if overwrite and files[0].exists() else ""
    say(f"would segment {volume.name} {_by(volume.shape)} into {', '.join(map(str, files))}{replaced}")
    say(f"{plural(blocks, 'block')} of {_by(core)}, about {total / 2**30:.2f} GiB each\n")
    say(table(rows, {name: _FORMATS.get(name, "") for name in rows[0]}))


def _by(sides: Any) -> str:
    return "x".join(map(str, sides))
