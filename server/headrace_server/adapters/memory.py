"""Memory: whether what a framework raised means that it ran out of memory.

Told by the names of exceptions and by their texts, for no framework must be imported to ask, and
any model may call any framework.
"""

# Those of torch and of tensorflow.
_NAMES = frozenset({"OutOfMemoryError", "ResourceExhaustedError"})
# What allocators say whose exceptions have no type of their own: torch's on the CPU, CUDA's by way
# of libraries, onnxruntime's arena, and C++ itself.
_TEXTS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Failed to allocate memory for requested buffer",
    "RESOURCE_EXHAUSTED: Out of memory",
    "std::bad_alloc",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether *error* means that the device or the host had too little memory for the batch."""
    if isinstance(error, MemoryError) or any(
        kind.__name__ in _NAMES for kind in type(error).__mro__
    ):
        return True
    text = _text(error)
    return any(said in text for said in _TEXTS)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a model's exception may raise even here.
        return ""
