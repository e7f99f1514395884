"""Safety: which models may be loaded, judged by what lies in their directory before it is opened.

With `allow_pickle = false` a model is loaded only where it is data: see formats. What is judged is
the format, whichever adapter will load it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import LoadFailed
from .formats import ACCEPTED, why_no_data
from .inside import check_inside
from .listed import listed
from .mlmodel import Description


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator allows.

    Attributes:
        pickle: Whether a model may execute code while it loads.
        flavors: MLflow's flavor keys, "pyfunc" for python_function; empty for all.
        sources: Patterns of where models may come from; empty for anywhere.
    """

    pickle: bool = True
    flavors: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> "Rules":
        """Those that the daemon wrote."""
        said = json.loads(text)
        return cls(said["pickle"], tuple(said["flavors"]), tuple(said["sources"]))

    @property
    def allowed_sources(self) -> str:
        """What the setting holds, for a message."""
        return f"allow_sources has {listed(self.sources)}"

    @property
    def bound_places(self) -> bool:
        """Whether it matters where files really lie."""
        return bool(self.sources) or not self.pickle


def judge(rules: Rules, model: Description, directory: Path, source: str) -> None:
    """Hold *model*, whose files are in *directory* and came from *source*, against *rules*.

    Raises:
        LoadFailed: It may not be loaded; says what was refused and what would be accepted.
    """
    check_inside(model, directory, source)
    if rules.flavors:
        needed = _needed(model)
        refused = [flavor for flavor in needed if flavor not in rules.flavors]
        if refused:
            raise LoadFailed(
                f"{source} is refused: it needs {needed[refused[0]]}; allow_flavors has "
                f"{', '.join(rules.flavors)}"
            )
    if not rules.pickle and (why := why_no_data(model, directory)):
        raise LoadFailed(
            f"{source} is refused, since allow_pickle = false: {why}; accepted are {ACCEPTED}"
        )


def _needed(model: Description) -> dict[str, str]:
    """The flavors without which *model* does not load, each with what it is needed for."""
    needed = {model.flavor: f"the flavor {model.flavor}"}
    loader = model.pyfunc.get("loader_module")
    if loader is not None:
        parts = str(loader).split(".")
        flavor = parts[1] if parts[0] == "mlflow" and len(parts) > 1 else "pyfunc"
        needed.setdefault(flavor, f"{flavor}, for its loader_module {loader!r}")
    if model.has_code:
        needed.setdefault("pyfunc", "pyfunc, for the code that it ships")
    return needed
