"""Where a policy comes from: one description for node, commands and sessions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from specvla_ros.configuration import DecoderConfig
from specvla_ros.embedded import checkpoint_folder, found_elsewhere
from specvla_ros.typed_files import value_of

# Fields by the names that flags, parameters of `policy_node` and session files give them.
_NAMES = {
    'checkpoint': 'checkpoint', 'drafter': 'drafters', 'unnorm_key': 'unnorm_key',
    'device': 'device', 'dtype': 'dtype', 'quantization': 'quantization', 'chunk': 'chunk',
}
_AUTO = 'auto'  # the parameter for what suits the device: ROS knows no None
_AS_TRAINED = 0  # the parameter for the chunk that the checkpoint says


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySource:
    """
    Which weights act, where, and how they are decoded; ``Policy.of`` loads it.

    checkpoint: folder, or name of an embedded one; None = the default one. drafters: folder of
    the drafters' weights; None = the checkpoint's own (see ``drafter_folders``). unnorm_key: data
    set whose statistics hold; None = the checkpoint's only one. device: 'auto', 'cpu', 'cuda',
    'cuda:N'. dtype: 'float32', 'bfloat16', 'float16'; None = what suits the device.
    quantization: 'none', 'int8', 'int4'. chunk: control steps per action; None = as the
    checkpoint says. decoder: preset name, path of a preset, or its content.
    """

    checkpoint: Path | None = None
    drafters: Path | None = None
    unnorm_key: str | None = None
    device: str = 'auto'
    dtype: str | None = None
    quantization: str = 'none'
    chunk: int | None = None
    decoder: str | Path | DecoderConfig = 'auto_relaxed'

    @classmethod
    def take(cls, content: dict[str, Any]) -> PolicySource:
        """
        Take a source out of such entries as ``parameters`` gives; '' and None = default.

        Raises SpecVLAError naming the entry for a value of another type.
        """
        hints = get_type_hints(cls)
        given = {name: content.pop(name) for name in _NAMES if name in content}
        if given.get('dtype') == _AUTO:
            del given['dtype']
        if given.get('chunk') == _AS_TRAINED:
            del given['chunk']
        return cls(**{
            _NAMES[name]: value_of(hints[_NAMES[name]], value, name)
            for name, value in given.items() if value is not None and value != ''})

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of `policy_node`, but for its decoder; folders are absolute."""
        values = {name: getattr(self, field) for name, field in _NAMES.items()}
        if self.checkpoint is not None:
            values['checkpoint'] = checkpoint_folder(self.checkpoint)
        values = {name: '' if value is None else value for name, value in values.items()}
        folders = {name: str(value.resolve()) for name, value in values.items()
                   if isinstance(value, Path)}
        return {**values, **folders, 'dtype': self.dtype or _AUTO,
                'chunk': self.chunk or _AS_TRAINED}

    def absolute(self) -> PolicySource:
        """Return it with absolute folders, for processes in another working directory."""
        return replace(
            self, checkpoint=found_elsewhere(self.checkpoint),
            drafters=None if self.drafters is None else Path(self.drafters).resolve())

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says of it, besides hashes and decoders."""
        folders = ('checkpoint', 'drafter')
        return {name: getattr(self, field) for name, field in _NAMES.items()
                if name not in folders}

    @staticmethod
    def names() -> set[str]:
        """Names of the entries that ``take`` knows."""
        return set(_NAMES)
