"""The contract: datatypes, tensors and signatures, shared by server, workers and client.

Importing this package needs numpy alone; only headrace.oip needs protobuf.
"""
