"""
Settings of decoders, from preset files.

The files stand in ``config/`` of the source root, or, installed, in the package's share folder.
Nothing here knows what the settings do: a ``registry`` turns names into objects, where those live.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
import re
from typing import Any

from specvla_ros.components import CompletionConfig, Component, read_completion, read_component
from specvla_ros.config_folder import config_folder
from specvla_ros.errors import shown, SpecVLAError
from specvla_ros.typed_files import check_keys, is_number, naming, read_yaml

AUTO = 'auto'  # drafter of a preset that has candidates
BASELINE = 'ar'  # plain autoregression: what others are held against
LOSSLESS, RELAXED, UNVERIFIED = VERIFICATIONS = ('lossless', 'relaxed', 'unverified')

# Every table, message and plot names the decoder: a reader must not take tokens the target never
# saw for tokens that it has verified.
_UNVERIFIED_SUFFIX = f' ({UNVERIFIED})'
# A decoder's name stands in tables, legends and file names: square brackets, $ and the like mean
# something else there.
_NAME = re.compile(r'[^\W_][\w .()+-]*')


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """
    A decoder: drafter + acceptance rule, and the name reports give it.

    strict_above_risk: after an action whose risk was more, the next one is exact; 1 = never.
    completion: tokens that the target never sees; None = there are none.
    candidates: decoders of which each action gets the cheapest, `ar` among them. Then the drafter
    is called `auto`, and the rule is that of the candidates that are not strict. () = no choice.
    chunk_candidates: those in their place for actions of several control steps; () = the same.
    calibrated: hashes of the weights that a promise was measured on, see ``calibrated``; empty =
        nothing was promised.
    """

    name: str
    drafter: Component
    rule: Component
    strict_above_risk: float = 1.0
    completion: CompletionConfig | None = None
    candidates: tuple[DecoderConfig, ...] = ()
    chunk_candidates: tuple[DecoderConfig, ...] = ()
    calibrated: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        risk, hashes = self.strict_above_risk, self.calibrated
        if not (is_number(risk) and 0 <= risk <= 1):
            raise SpecVLAError(f'strict_above_risk is {shown(risk)}, must be a number from 0 to 1')
        if not isinstance(hashes, Mapping) or hashes and 'target' not in hashes or not all(
                isinstance(value, str) for value in (*hashes, *hashes.values())):
            raise SpecVLAError(f'calibrated is {shown(hashes)}, must be a mapping of names to '
                               'texts, target among them')

    @property
    def members(self) -> tuple[DecoderConfig, ...]:
        """The candidates, or itself where there are none: decoders of one drafter each."""
        return self.candidates or (self,)

    @property
    def all_members(self) -> tuple[DecoderConfig, ...]:
        """Candidates for one control step and for several: the chunk is not known yet."""
        return *self.members, *self.chunk_candidates

    def of_chunk(self, chunk: int) -> DecoderConfig:
        """Return it for actions of so many control steps: with the candidates for these."""
        if chunk == 1 or not self.chunk_candidates:
            return self
        return replace(self, candidates=self.chunk_candidates, chunk_candidates=(),
                       rule=_rule_of(self.chunk_candidates))

    def member(self, name: str) -> DecoderConfig:
        """Return the candidate of this name; itself where there is none."""
        return next((it for it in self.candidates if it.name == name), self)

    def with_rule(self, rule: Component) -> DecoderConfig:
        """Return it under another rule; of candidates those that are strict stay so."""
        made = self._with_each(lambda it: it if it.is_strict else it.with_rule(rule))
        return replace(made, rule=rule, calibrated={})  # a promise held for the old thresholds

    def with_risk(self, strict_above_risk: float) -> DecoderConfig:
        """Return it with another ``strict_above_risk``, its candidates' too."""
        made = self._with_each(lambda it: it.with_risk(strict_above_risk))
        return replace(made, strict_above_risk=strict_above_risk)

    def _with_each(self, change: Callable[[DecoderConfig], DecoderConfig]) -> DecoderConfig:
        """Return it with each of its candidates changed, those for chunks too."""
        return replace(self, candidates=tuple(map(change, self.candidates)),
                       chunk_candidates=tuple(map(change, self.chunk_candidates)))

    @property
    def is_strict(self) -> bool:
        """Whether only the target's own tokens may stay."""
        return all(it.rule.name == 'strict' and it.completion is None for it in self.all_members)

    @property
    def verification(self) -> str:
        """
        What the target has to do with its tokens, the weakest that may happen.

        'lossless': each is the target's own choice, as under `ar`. 'relaxed': it may be near that
        choice, as far as the rule lets it. 'unverified': the target may never have seen it.
        """
        if any(it.completion is not None for it in self.all_members):
            return UNVERIFIED
        return LOSSLESS if all(it._is_exact for it in self.all_members) else RELAXED

    @property
    def _is_exact(self) -> bool:
        """Whether its rule lets no draft be off; r bounds every rule that doesn't grow by step."""
        return self.is_strict or self.rule.settings.get('r') == 0 and not self.by_step

    @property
    def by_step(self) -> bool:
        """Whether steps that the next action says again may be further off than the others."""
        return any(it.rule.settings.get('per_step') for it in self.all_members)

    @property
    def file_name(self) -> str:
        """The name without blanks and brackets, as a part of a file's name."""
        return re.sub(r'[^\w.+-]+', '-', self.name).strip('-')

    @property
    def threshold(self) -> int:
        """Bins a draft may be away from the target's own token; 0 is strict."""
        reach = self.rule.settings.get('r', 0)
        return reach if isinstance(reach, int) else 0  # what is none, the rule refuses


def preset_names() -> list[str]:
    """Names of the decoder presets there are."""
    return sorted(path.stem for path in (config_folder() / 'decoders').glob('*.yaml'))


def decoder_name(path: Path) -> str:
    """
    Return the name that a preset's file gives its decoder; what it promises says its content.

    :raises SpecVLAError: it would be something else than a name where it is shown
    """
    name = path.stem.removesuffix(_UNVERIFIED_SUFFIX)
    if not _NAME.fullmatch(name):
        raise SpecVLAError(
            f'{path}: the decoder would be called {shown(name)}, as its file; rename the file: a '
            'letter or digit first, then letters, digits, blanks and . _ - + ( ) only')
    return name


def load_preset(preset: str | Path) -> DecoderConfig:
    """
    Read a decoder preset by name ('ar', 'strict', 'relaxed') or from a YAML file of that form.

    A name may be as tables have it, `kerv (unverified)`. Raises SpecVLAError for a name there is
    no preset of, or a file that isn't of the form or can't give a decoder its name.
    """
    path = Path(preset)
    if path.suffix not in ('.yaml', '.yml'):
        name = str(preset).removesuffix(_UNVERIFIED_SUFFIX)
        path = config_folder() / 'decoders' / f'{name}.yaml'
        if name not in preset_names():
            raise SpecVLAError(
                f'decoder is {str(preset)!r}, must be one of {preset_names()} or the path of a '
                '.yaml file'
            )
    content = read_yaml(path)
    name = decoder_name(path)
    if 'candidates' in content:
        return _auto(path, content)
    parts = ('drafter', 'rule')
    check_keys(path, content, required=set(parts),
               optional={'strict_above_risk', 'completion', 'calibrated'})
    made = {part: read_component(path, part, content.pop(part)) for part in parts}
    completion = content.pop('completion', None)
    with naming(path):
        if completion is None:
            return DecoderConfig(name, made['drafter'], made['rule'], **content)
        return DecoderConfig(name + _UNVERIFIED_SUFFIX, made['drafter'], made['rule'], **content,
                             completion=read_completion(path, completion))


def _auto(path: Path, content: dict[str, Any]) -> DecoderConfig:
    """Read a preset that has candidates; `ar` is one of them, named or not."""
    check_keys(path, content, required={'candidates'},
               optional={'chunk_candidates', 'lossless', 'rule', 'strict_above_risk'})
    lossless = content.get('lossless', False)
    if not isinstance(lossless, bool):
        raise SpecVLAError(f'{path}: lossless is {shown(lossless)}, must be true or false')
    candidates = _candidates(path, 'candidates', content['candidates'])
    for_chunks = () if 'chunk_candidates' not in content else _candidates(
        path, 'chunk_candidates', content['chunk_candidates'])
    made = DecoderConfig(decoder_name(path), Component(AUTO), _rule_of(candidates),
                         candidates=candidates, chunk_candidates=for_chunks)
    if 'strict_above_risk' in content:
        with naming(path):
            made = made.with_risk(content['strict_above_risk'])
    if 'rule' in content:
        made = made.with_rule(read_component(path, 'rule', content['rule']))
    relaxed = [it.name for it in made.all_members if not it.is_strict]
    if lossless and relaxed:
        raise SpecVLAError(f'{path}: lossless is true, but {", ".join(relaxed)} may say other '
                           'tokens than ar; leave them out, or set it to false')
    return made


def _candidates(path: Path, key: str, names: object) -> tuple[DecoderConfig, ...]:
    """Read a list of candidates; `ar` is added where it isn't one."""
    if not isinstance(names, list) or not names or not all(isinstance(it, str) for it in names):
        raise SpecVLAError(f'{path}: {key} is {shown(names)}, must be a list of presets')
    if len(set(names)) < len(names):
        raise SpecVLAError(f'{path}: {key} is {shown(names)}, must name each preset once')
    names = names if BASELINE in names else [BASELINE, *names]
    return tuple(_candidate(path, name) for name in names)


def _rule_of(candidates: tuple[DecoderConfig, ...]) -> Component:
    """Return the rule of the candidates that are not strict."""
    return next((it.rule for it in candidates if not it.is_strict), Component('strict'))


def _candidate(path: Path, name: str) -> DecoderConfig:
    """Read a candidate: a preset, or a file beside the one that names it."""
    if name == path.stem:
        raise SpecVLAError(f'{path}: names itself as a candidate; name other presets')
    is_file = Path(name).suffix in ('.yaml', '.yml')
    config = load_preset(path.parent / name if is_file else name)
    if config.candidates:
        raise SpecVLAError(f'{path}: the candidate {name} has candidates itself; name those')
    if config.completion is not None:
        raise SpecVLAError(f'{path}: the candidate {name} leaves tokens unverified; name presets '
                           'without a completion')
    return config
