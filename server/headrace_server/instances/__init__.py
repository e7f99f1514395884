"""Instances: worker processes, and the model instances that run in them."""
