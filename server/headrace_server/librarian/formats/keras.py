"""Keras: a .keras file names the classes and functions that its model is built of.

They must be Keras' own layers and what these are set up with. Layers that run code, open files or
hold models of other libraries are not among them. What HDF5 may say of other files is looked at in
the worker, where it is read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..mlmodel import Description
from .common import Refused, check_choice, check_entry, members, named, read_table, words

_ENTRY: Final = ("keras_version", "keras_backend", "data", "code", "save_exported_model")
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"
_ASSET: Final = re.compile(r"assets/([\w-][\w.-]*/)*vocabulary\.txt", re.ASCII)

_LAYERS: Final = words(
    """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D
    Add AdditiveAttention AlphaDropout Attention AugMix AutoContrast Average
    AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization Bidirectional
    CategoryEncoding CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose
    Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D Cropping3D
    CutMix Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout EinsumDense ELU
    Embedding Equalization Flatten GRU GRUCell GaussianDropout GaussianNoise
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupedQueryAttention
    HashedCrossing Hashing Identity InputLayer IntegerLookup LSTM LSTMCell
    LayerNormalization LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum
    MelSpectrogram Minimum MixUp MultiHeadAttention Multiply Normalization PReLU Permute
    RMSNormalization RNN RandAugment RandomBrightness RandomColorDegeneration
    RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing
    RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective
    RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
    RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing
    STFTSpectrogram SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax
    Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization
    StackedRNNCells StringLookup Subtract TextVectorization TimeDistributed
    UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D
    ZeroPadding3D
    """
)
_INITIALIZERS: Final = words(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer
    LecunNormal LecunUniform Ones Orthogonal OrthogonalInitializer RandomNormal
    RandomUniform STFT TruncatedNormal VarianceScaling Zeros
    """
)
_REGULARIZERS: Final = frozenset({"L1", "L2", "L1L2", "OrthogonalRegularizer"})
_CONSTRAINTS: Final = frozenset({"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"})
_ACTIVATIONS: Final = words(
    """
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh
    leaky_relu linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink
    softmax softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh
    tanh_shrink threshold
    """
)
_MODELS: Final = frozenset({"Sequential", "Functional", "Model"})
_CLASSES: Final[Mapping[str, frozenset[str]]] = {
    "keras": _MODELS | {"DTypePolicy", "FloatDTypePolicy"},
    "keras.models": _MODELS,
    "keras.src.models.functional": frozenset({"Functional"}),
    "keras.src.models.sequential": frozenset({"Sequential"}),
    "keras.dtype_policies": frozenset({"DTypePolicy", "FloatDTypePolicy"}),
    "keras.layers": _LAYERS,
    "keras.src.ops.core": frozenset(
        {"Cast", "Shape", "Slice", "SliceUpdate", "StopGradient", "Unstack"}
    ),
    "keras.initializers": _INITIALIZERS,
    "keras.regularizers": _REGULARIZERS,
    "keras.constraints": _CONSTRAINTS,
    "keras.random": frozenset({"SeedGenerator"}),
    "keras.src.random.seed_generator": frozenset({"SeedGenerator"}),
}
# Operations on tensors, by which layers were joined.
_OPERATIONS: Final = re.compile(r"keras\.src\.ops\.(numpy|nn|math|linalg|image)")
_OPERATION: Final = re.compile(r"[A-Z][A-Za-z0-9]*")
_OF_FUNCTIONS: Final = ("builtins", "keras.activations")
# Values that are written with a class of their own; none of these is looked up.
_VALUES: Final = frozenset(
    {"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__"}
)
# Where a text would be the name of a file.
_LISTED: Final = ("vocabulary", "idf_weights")


def check_keras(model: Description, directory: Path) -> None:
    """Refuse other formats than .keras, and models of more than Keras' own layers."""
    check_entry(model.config, _ENTRY)
    backend = model.config.get("keras_backend")
    check_choice(backend, (None, "torch", "tensorflow", "jax"), "its keras_backend")
    data = named(model.config, "data", directory)
    file = data / "model.keras"
    if model.config.get("save_exported_model") or not file.is_file():
        raise Refused("its keras model is not a .keras file")
    module = data / "keras_module.txt"
    if module.exists() and module.read_bytes().strip() != b"keras":
        raise Refused("keras_module.txt names another module than keras")
    for path in data.rglob("*"):
        if path.name not in ("model.keras", "keras_module.txt"):
            raise Refused(f"it holds {path.name!r} beside its .keras file")
    names = set()
    for archive, info in members(file, repr(file.name)):
        names.add(info.filename)
        if info.filename == _CONFIG:
            table = read_table(archive.read(info), info.filename)
            # How it was trained is not looked at by who loads it to be asked.
            _check({**table, "compile_config": None})
        elif info.filename not in ("metadata.json", _WEIGHTS) and not _ASSET.fullmatch(
            info.filename
        ):
            raise Refused(
                f"its .keras file holds {info.filename!r}, which is not known to be inert"
            )
    if not {_CONFIG, _WEIGHTS} <= names:
        raise Refused(f"its .keras file lacks {_CONFIG!r} or {_WEIGHTS!r}")


def _check(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, Mapping):
        if "class_name" in value:
            _check_class(value)
        for key, item in value.items():
            if key in _LISTED and not isinstance(item, list | None):
                raise Refused(f"{key!r} in {_CONFIG!r} names a file")
            if key == "compile_config" and item is not None:
                raise Refused(f"{key!r} of a model within the model is not known to be inert")
            _check(item)


def _check_class(told: Mapping[str, Any]) -> None:
    name, module = told.get("class_name"), told.get("module")
    registered = told.get("registered_name")
    if isinstance(name, str) and name in _VALUES:
        return
    if not isinstance(name, str) or not isinstance(module, str):
        is_known = False
    elif name == "function":
        name = str(told.get("config"))
        is_known = module in _OF_FUNCTIONS and name in _ACTIVATIONS
        is_known &= registered in (None, "function", name)
    else:
        is_operation = _OPERATIONS.fullmatch(module) and _OPERATION.fullmatch(name)
        is_known = bool(is_operation) or name in _CLASSES.get(module, ())
        is_known &= registered in (None, name)
    if not is_known:
        raise Refused(f"'{module}.{name}' in {_CONFIG!r} is not known to be inert")
