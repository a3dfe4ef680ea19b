"""The hyperparameters of encoder-decoder networks.

Bounds are wide: they keep out nonsense, a search space narrows them. The names and what they change are those of
Guay et al. 2018, section 2.2, and of the original code (docs/facts.md).
"""

from genenet.hyperparameters import Categorical, Integer, Real

ACTIVATIONS = ("relu", "relu6", "crelu", "elu", "softplus", "tanh", "sigmoid", "leaky_relu", "identity")

# A log10 penalty below this means no penalty (the original code's rule).
NO_PENALTY_BELOW = -10.0

N_SCALES = Integer(
    name="n_scales", default=4, low=1, high=8, unit="scales", meaning="how often the encoder halves the resolution"
)
N_CONVS = Integer(name="n_convs", default=2, low=1, high=16, unit="layers", meaning="convolutions per stack")
N_FEATURES = Integer(
    name="n_features",
    default=64,
    low=1,
    high=1024,
    unit="features",
    meaning="features per convolution at the finest scale, or those of a ResNet's stem; doubled at every scale below",
)
LOG2_WIDTH = Real(
    name="log2_width",
    default=0.0,
    low=-8.0,
    high=4.0,
    meaning="log2 of a factor on the features; -1 halves them, whatever n_features is",
)
KERNEL_SIZE = Integer(
    name="kernel_size", default=3, low=1, high=15, odd=True, unit="voxels", meaning="side of the convolution kernels"
)
DILATION = Integer(name="dilation", default=1, low=1, high=32, unit="voxels", meaning="spacing of the kernel's taps")
PADDING = Categorical(
    name="padding",
    default="valid",
    options=("valid", "same"),
    meaning="valid: no padding, the output is smaller; same: zeros around, the output is as large",
)
POOLING = Categorical(
    name="pooling", default="max", options=("max", "strided"), meaning="2x2 maximum, or 2x2 convolution of stride 2"
)
UPSAMPLING = Categorical(
    name="upsampling",
    default="transposed",
    options=("transposed", "resize"),
    meaning="2x2 transposed convolution, or repetition of voxels and a convolution",
)
ACTIVATION = Categorical(
    name="activation", default="relu", options=ACTIVATIONS, meaning="what follows each convolution; crelu doubles"
)
NORMALIZATION = Categorical(
    name="normalization",
    default="none",
    options=("none", "batch", "group"),
    meaning="between convolution and activation",
)
DROPOUT = Real(name="dropout", default=0.0, low=0.0, high=0.9, meaning="share of activations dropped in training")

SPATIAL_MODE = Categorical(
    name="spatial_mode",
    default="2d",
    options=("2d", "planar", "3d"),
    meaning="k x k kernels; 1 x k x k kernels on 3-D windows; k x k x k kernels. 2-D windows only if all genes are 2d",
)
CONVOLUTION = Categorical(
    name="convolution",
    default="full",
    options=("full", "separable"),
    meaning="every kernel sees all channels; or a kernel per channel and a 1x1 convolution (Chollet 2017)",
)
SQUEEZE_EXCITATION = Categorical(
    name="squeeze_excitation",
    default="off",
    options=("off", "on"),
    meaning="weigh channels by their means over the window (Hu et al. 2018)",
)
SHORTCUT = Categorical(
    name="shortcut",
    default="none",
    options=("none", "residual", "dense"),
    meaning="within a stack: add its input to its output (He et al. 2016); or every layer reads all before",
)
MERGE = Categorical(
    name="merge",
    default="concatenate",
    options=("none", "concatenate", "sum", "gate"),
    meaning="how an edge joins the others: not at all, side by side, added, or weighed by attention and side by side",
)
REACH = Integer(
    name="reach",
    default=1,
    low=1,
    high=64,
    unit="layers",
    meaning="how many convolutions of its path back an edge reads",
)
N_LINKS = Integer(
    name="n_links",
    default=0,
    low=0,
    high=8,
    unit="edges",
    meaning="further edges from earlier convolutions of the path",
)
SUPERVISION = Real(
    name="supervision",
    default=0.0,
    low=0.0,
    high=10.0,
    meaning="weight of the loss of a stack's own class scores, in training only (Lee et al. 2015); 0 is none",
)
DISTANCE_WEIGHT = Real(
    name="distance_weight",
    default=0.0,
    low=0.0,
    high=100.0,
    meaning="weight of the loss of a second head that gives distance maps; 0 is none",
)
ENCODER_DEPTH = Categorical(
    name="encoder_depth",
    default="34",
    options=("18", "34", "50"),
    meaning="layers of a ResNet with its classifier (He et al. 2016, table 1); 50 has bottlenecks",
)
TARGET = Categorical(
    name="target",
    default="classes",
    options=("classes", "distance"),
    meaning="what the first head gives: class probabilities, or distances to the border of the object",
)
BRANCHES = Categorical(
    name="branches",
    default="shared",
    options=("shared", "decoders", "separate"),
    meaning="what a second head shares with the first: all before the heads; the encoder; nothing",
)
N_BRANCHES = Integer(
    name="n_branches", default=3, low=1, high=6, unit="branches", meaning="parallel stacks of a pyramid"
)
AUXILIARY_WEIGHT = Real(
    name="auxiliary_weight",
    default=0.33,
    low=0.0,
    high=10.0,
    meaning="weight of the loss of the 2-D prediction of a hybrid network",
)
CONTEXT_SCALE = Integer(
    name="context_scale",
    default=0,
    low=0,
    high=5,
    unit="scales",
    meaning="how often the resolution of the context input is halved; 0 is no context input",
)
CONTEXT_MARGIN = Integer(
    name="context_margin",
    default=32,
    low=0,
    high=1024,
    unit="voxels",
    meaning="how far the context input reaches beyond the rest of the window on each side",
)

ANISOTROPY = Real(name="anisotropy", default=1.0, low=0.1, high=100.0, meaning="the depth of a voxel over its side")
POOL_Z = Categorical(
    name="pool_z",
    default="auto",
    options=("never", "auto", "always"),
    meaning="whether pooling halves z too; auto: from the scale on at which voxels are as wide as deep",
)
WINDOW_DEPTH = Integer(
    name="window_depth", default=1, low=1, high=1024, unit="voxels", meaning="depth of the windows of 3-D networks"
)
LOG10_LEARNING_RATE = Real(
    name="log10_learning_rate", default=-3.0, low=-7.0, high=0.0, meaning="log10 of Adam's first learning rate"
)
WINDOW_SIZE = Integer(
    name="window_size", default=572, low=8, high=8192, unit="voxels", meaning="side of the windows read in training"
)


def _penalty(name: str, what: str) -> Real:
    return Real(
        name=name, default=-12.0, low=-20.0, high=0.0, meaning=f"log10 of the penalty on {what}; below -10 is none"
    )


LOG10_L1_KERNEL = _penalty("log10_l1_kernel", "the absolute values of kernels and biases")
LOG10_L2_KERNEL = _penalty("log10_l2_kernel", "the squares of kernels and biases")
LOG10_L1_ACTIVATION = _penalty("log10_l1_activation", "the absolute values of activations")
LOG10_L2_ACTIVATION = _penalty("log10_l2_activation", "the squares of activations")

KERNEL_PENALTIES = (LOG10_L1_KERNEL, LOG10_L2_KERNEL)
ACTIVATION_PENALTIES = (LOG10_L1_ACTIVATION, LOG10_L2_ACTIVATION)


def penalty(log10: float) -> float:
    """The factor of a penalty: 10 to the power, or 0 below -10.

    >>> penalty(-12.0), penalty(-3.0)
    (0.0, 0.001)
    """
    return 0.0 if log10 < NO_PENALTY_BELOW else 10.0**log10
