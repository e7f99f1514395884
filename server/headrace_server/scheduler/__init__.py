"""Scheduler: requests in, batches out, at the right moment."""
