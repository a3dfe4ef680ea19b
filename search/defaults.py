"""A space to begin with: what worked on EM volumes within minutes to hours of training."""

from genenet.genes import EncoderDecoder
from search.space import Choice, Levels, Range, Space


def default_space(n_classes: int, n_channels: int = 1, *, window_size: int = 192) -> Space:
    """Encoder-decoder networks around 2 to 4 scales, from tens of thousands to some ten million parameters.

    Args:
        n_classes: Of the data.
        n_channels: Of the images.
        window_size: The middle of the range of windows, in voxels.
    """
    base = EncoderDecoder(n_classes, n_channels, window_size=window_size)
    return Space(
        base,
        {
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
        },
    )
