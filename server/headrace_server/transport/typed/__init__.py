"""Typed: a service of its own for each model, live, beside the tensor protocol on the same port."""
