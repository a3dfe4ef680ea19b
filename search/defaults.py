"""A space to begin with: what worked on EM volumes within minutes to hours of training."""

from collections.abc import Sequence

from genenet.errors import InputError
from genenet.genes import ROOTS
from search.space import Choice, Levels, Range, Space


def default_space(
    n_classes: int,
    n_channels: int = 1,
    *,
    window_size: int = 192,
    preset: str = "EncoderDecoder",
    voxel_size_nm: Sequence[float] | None = None,
) -> Space:
    """Networks of a kind, for an encoder-decoder from tens of thousands to some ten million parameters.

    Args:
        n_classes: Of the data.
        n_channels: Of the images.
        window_size: The middle of the range of windows, in voxels.
        preset: The kind of network to search around.
        voxel_size_nm: `(z, y, x)`; 3-D networks pool along z where voxels have become as wide as deep.

    Raises:
        InputError: There is no such preset.
    """
    if preset not in ROOTS:
        raise InputError(f"a preset is one of {', '.join(ROOTS)}, but got {preset!r}")
    base = ROOTS[preset](n_classes, n_channels, window_size=window_size)
    if voxel_size_nm is not None:
        base.set(anisotropy=min(max(voxel_size_nm[0] / max(voxel_size_nm[1:]), 0.1), 100.0))
    ranges: dict[str, Range | Choice | Levels] = {
        "n_scales": Range(2, 4),
        "n_features": Levels(Range(8, 32), Range(-4, 4), Range(-4, 4)),
        "n_convs": Levels(Range(1, 3), Range(0, 1), Range(-1, 1)),
        "kernel_size": Levels(Range(3, 3), None, Range(0, 2)),
        "pooling": Choice("max", "strided"),
        "upsampling": Choice("transposed", "resize"),
        "activation": Choice("relu", "elu", "leaky_relu"),
        "normalization": Choice("none", "batch"),
        "log10_learning_rate": Range(-3.2, -2.2),
        "log10_l2_kernel": Range(-14, -5),
        "window_size": Range(max(32, window_size * 2 // 3), window_size * 4 // 3),
    }
    known = base.vocabulary.keys() - set(base.fixed)
    return Space(base, {name: entry for name, entry in ranges.items() if name in known})
