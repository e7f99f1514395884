"""Asking: what the commands do that speak to a running daemon. Nothing here knows the daemon."""
