"""Generated messages of the Open Inference Protocol, and its service under the standard's paths."""
