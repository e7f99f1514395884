"""Transport: calls in, answers out. The only part of the daemon that knows gRPC."""
