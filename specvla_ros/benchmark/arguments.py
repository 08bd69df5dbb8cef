"""Arguments that all commands with a policy have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from specvla_ros.benchmark import checks
from specvla_ros.configuration import DecoderConfig
from specvla_ros.policy_source import PolicySource


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyArgs:
    """Which weights act, and where."""

    checkpoint: Path | None = None
    """Folder of an OpenVLA checkpoint, or the name of an embedded one. Default: libero_object."""
    drafter: Path | None = None
    """Folder of the drafters' weights. Default: `drafters` inside the checkpoint."""
    unnorm_key: str | None = None
    """Data set whose statistics turn tokens into motion. Default: the suite's own, where LIBERO is
    played (libero_object or libero_object_no_noops, and so on); else the checkpoint's only one."""
    device: str = 'auto'
    """Device of the model: auto, cpu, cuda, cuda:1 …"""
    dtype: str | None = None
    """Floating-point type of the model, e.g. float32 or bfloat16. Default: the device's."""
    quantization: Literal['none', 'int8', 'int4'] = 'none'
    """Of the Llama's weights, by torchao: for small GPUs. int4 computes in bfloat16."""
    chunk: int | None = None
    """Control steps of an action, 1 to 64. Default: what the checkpoint says, else 1."""

    def source(self, decoder: str | DecoderConfig) -> PolicySource:
        """
        Describe the policy under a decoder.

        :raises SpecVLAError: a chunk that can't be
        """
        checks.check_chunk(self.chunk)
        return PolicySource(
            checkpoint=self.checkpoint, drafters=self.drafter, unnorm_key=self.unnorm_key,
            device=self.device, dtype=self.dtype, quantization=self.quantization,
            chunk=self.chunk, decoder=decoder)
