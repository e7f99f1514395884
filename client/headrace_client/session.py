"""Session: what a client knows of the models it asks, without the asking.

Shared by the synchronous and the asyncio client, which add only the sending.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from headrace.oip.open_inference_pb2 import ModelMetadataResponse, RepositoryModelLoadRequest

from .calls import Parameter, RequestEncoder, ResponseDecoder
from .inputs import Data, Form
from .timings import timings_in
from .types import ModelMetadata, Prediction, metadata_of

# Models and versions that are remembered; beyond it all are asked for anew.
_KEPT_MAX: Final = 256

# The form of a model that nothing is known of: it takes named arrays as they are.
AS_IS: Final = Form(ModelMetadata(name="", versions=(), platform="", inputs=(), outputs=()))


class Ask(NamedTuple):
    """What a caller wants predicted; see `Client.predict`."""

    model: str
    version: str
    data: Data
    outputs: Sequence[str] | None
    parameters: Mapping[str, Parameter] | None
    request_id: str
    priority: int | None = None
    timings: bool = False


class Session:
    """The forms of models, and the codec. Safe from any thread."""

    def __init__(self) -> None:
        self._encoder = RequestEncoder()
        self._decoder = ResponseDecoder()
        self._forms: dict[tuple[str, str], Form] = {}

    def form(self, model: str, version: str) -> Form | None:
        """The form of a model, where it is known."""
        return self._forms.get((model, version))

    def learn(self, model: str, version: str, answer: ModelMetadataResponse) -> Form:
        """Keep what the server answered about a model.

        Raises:
            InvalidResponse: It makes no sense.
        """
        form = Form(metadata_of(answer))
        if len(self._forms) >= _KEPT_MAX:
            self._forms.clear()
        self._forms[model, version] = form
        return form

    def forget(self, model: str, version: str) -> None:
        """Ask the server again before the next prediction."""
        self._forms.pop((model, version), None)

    def forget_all(self, model: str) -> None:
        """Ask the server again before the next prediction of any version of *model*."""
        for key in list(self._forms):
            if key[0] == model:
                self._forms.pop(key, None)

    def encode(self, ask: Ask, form: Form) -> bytes:
        """The request that *ask* makes of *form*.

        Raises:
            InputMismatch: The data does not fit.
            TypeError: Data or a parameter is of a type that cannot be sent.
        """
        parameters = ask.parameters
        if ask.priority is not None:
            parameters = {**(parameters or {}), "priority": ask.priority}
        return self._encoder.encode(
            ask.model,
            ask.version,
            form.fill(ask.data),
            outputs=ask.outputs,
            parameters=parameters,
            request_id=ask.request_id,
        )

    def decode(
        self,
        ask: Ask,
        form: Form,
        payload: bytes,
        trailing: Iterable[tuple[str, str | bytes]] | None = None,
    ) -> Prediction:
        """The prediction that answers the request of *ask* and *form*.

        *trailing* is the metadata that came behind the answer, for a caller who asked for timings.

        Raises:
            InvalidResponse: *payload* is no such message, or the timings make no sense.
        """
        prediction = self._decoder.decode(payload)
        prediction.timings = timings_in(trailing)
        versions = form.metadata.versions
        if versions and prediction.version and prediction.version not in versions:
            # Another version has taken over the name; its columns may stand in another order.
            self.forget(ask.model, ask.version)
        return prediction


def load_request(model: str, uri: str) -> RepositoryModelLoadRequest:
    """The request to load *model* from *uri*, or from where the server thinks best."""
    request = RepositoryModelLoadRequest(model_name=model)
    if uri:
        request.parameters["uri"].string_param = uri
    return request
