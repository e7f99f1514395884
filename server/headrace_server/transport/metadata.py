"""Metadata: what the server says of a model before anyone asks it for an answer."""

from headrace.metadata import tell_signature
from headrace.oip.open_inference_pb2 import ModelMetadataResponse

from ..repository.model import ModelVersion


def metadata_of(model: ModelVersion) -> ModelMetadataResponse:
    """Inputs, outputs and parameters of *model*; none where it has no signature."""
    response = ModelMetadataResponse(
        name=model.name,
        versions=[model.version],
        platform=f"mlflow_{model.flavor}",
        batching=model.batching.verdict,
        batching_reason=model.batching.why,
    )
    if model.signature is not None:
        tell_signature(response, model.signature)
        response.field_numbers = model.fields.to_text()
    return response
