"""GPUs as the daemon knows them: which there are, and what the driver says of them, by NVML.

No framework is asked: the daemon imports none, and a CUDA context of its own would cost memory.
"""
