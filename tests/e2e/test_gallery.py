"""docs/gallery.md does what it says: its models are logged, served by one daemon, and called."""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from headrace_server.adapters import adapter_of
from serving import Daemon

# The first test waits for all models to be logged and loaded.
pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(400)]

PAGE = (Path(__file__).parents[2] / "docs" / "gallery.md").read_text()
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LOG_S_MAX = 240
# Packages are inferred by loading each model once more, which takes seconds; where no time is left
# for that, MLflow notes down the flavor's usual ones.
QUICKLY = {
    "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "0",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Section:
    """What stands under the name of one flavor."""

    flavor: str
    log: str
    serve: str
    call: str


def _read_page() -> tuple[str, str, list[Section]]:
    """The beginning of those who log and of those who call, and the flavors."""
    beginning, *rest = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    (_, log), (_, call) = BLOCK.findall(beginning)
    sections = []
    for text in rest:
        blocks = BLOCK.findall(text)
        assert [kind for kind, _ in blocks] == ["python", "sh", "python"], text
        sections.append(Section(text.split("\n")[0], *(block for _, block in blocks)))
    return log, call, sections


LOG, CALL, SECTIONS = _read_page()
# The module of a flavor that is not called as the flavor is.
MODULES = {"pytorch": "torch", "onnx": "onnxruntime", "pyfunc": "mlflow"}
HERE = [one for one in SECTIONS if find_spec(MODULES.get(one.flavor, one.flavor))]


def _write_tiny_bert(folder: Path) -> None:
    """A model of text that answers at random, and its tokenizer."""
    import transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "day"]
    tokenizer = transformers.BertTokenizer(
        vocab={word: index for index, word in enumerate(words)}, model_max_length=32
    )
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(name="address", scope="module")
def _address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon with the models of all sections, started in the directory where they were logged."""
    folder = tmp_path_factory.mktemp("gallery")
    if find_spec("transformers"):
        _write_tiny_bert(folder / "tiny-bert")
    script = "\n".join([LOG, *(section.log for section in HERE)])
    environment = {key: value for key, value in os.environ.items() if key[:7] != "MLFLOW_"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**environment, **QUICKLY},
        timeout=LOG_S_MAX,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = [section.serve.split("/")[-2] for section in HERE]
    # What trials find is tested elsewhere; here each would take seconds.
    untried = [word for name in names for word in ("--set", f"{name}.trial=false")]
    uris = [section.serve.split()[-1] for section in HERE]
    with pytest.MonkeyPatch.context() as patch:
        # What MLflow was told by other tests of this process.
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        daemon = Daemon(*uris, *untried, cwd=folder, cache=tmp_path_factory.mktemp("cache"))
    try:
        assert not daemon.wait("ready")["failed"], "\n".join(daemon.lines)
        yield daemon.address
    finally:
        daemon.stop()


@pytest.mark.parametrize("section", HERE, ids=[section.flavor for section in HERE])
def test_the_call_prints_what_the_page_says(section: Section, address: str) -> None:
    printed = io.StringIO()
    script = CALL.replace("127.0.0.1:8001", address) + section.call

    with contextlib.redirect_stdout(printed):
        exec(compile(script, section.flavor, "exec"), {})  # noqa: S102 - our own page.

    assert printed.getvalue().split("\n")[:-1] == re.findall(
        r"^print.*  # (.*)$", section.call, re.MULTILINE
    )


@pytest.mark.parametrize("section", SECTIONS, ids=[section.flavor for section in SECTIONS])
def test_every_section_serves_the_model_that_it_logs(section: Section) -> None:
    (name,) = re.findall(r'registered_model_name="(.*?)"', section.log)

    assert section.serve == f"headrace serve models:/{name}/1\n"
    assert f"mlflow.{section.flavor}.log_model" in section.log


def test_every_flavor_with_an_adapter_has_a_section() -> None:
    import headrace_server.adapters as package

    files = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    flavors = {
        name for name in files if hasattr(import_module(f"{package.__name__}.{name}"), "ADAPTER")
    }

    assert flavors <= {section.flavor for section in SECTIONS}
    assert all(adapter_of(section.flavor) for section in SECTIONS)
