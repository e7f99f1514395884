"""Budget: whether what is to be loaded fits the memory of a device. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """The memory of one device that models may have.

    Attributes:
        device: Its name, as in cuda:0.
        total_bytes: All its memory.
        fraction: Which part of that may be used.
        used_bytes: What all processes have now.
        promised_bytes: What is used once all models of ours have what they need: some are being
            loaded, or in a worker that is being replaced.
    """

    device: str
    total_bytes: int
    fraction: float
    used_bytes: int
    promised_bytes: int = 0

    @property
    def granted_bytes(self) -> int:
        """What may be used in all."""
        return int(self.total_bytes * self.fraction)

    @property
    def left_bytes(self) -> int:
        """What may be used still."""
        return max(self.granted_bytes - max(self.used_bytes, self.promised_bytes), 0)

    def refusal(self, each_bytes: int, instances: int = 1) -> str:
        """Why so many instances with a need of *each_bytes* do not fit; empty where they do."""
        if each_bytes * instances <= self.left_bytes:
            return ""
        who = "it needs" if instances == 1 else f"{instances} instances need"
        needed, left = _readable(each_bytes * instances), _readable(self.left_bytes)
        granted, total = _readable(self.granted_bytes), _readable(self.total_bytes)
        return (
            f"{self.device} has too little memory: {who} {needed}, and {left} are free of the "
            f"{granted} that memory_fraction = {self.fraction:g} grants of its {total}"
        )


def _readable(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 2**30:.2f} GiB" if count >= 1 << 30 else f"{count / 2**20:.1f} MiB"
