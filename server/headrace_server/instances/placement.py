"""Placement: which device each instance of a model goes to."""


def placed(devices: str, instances: int) -> tuple[str, ...]:
    """The device of each instance: *instances* on each of *devices*, which commas separate.

    They take turns, so that the first ones stand alone on their devices. "cuda" is the first GPU.
    """
    names = ["cuda:0" if name == "cuda" else name for name in devices.split(",")]
    return tuple(names) * instances
