from pathlib import Path
import pickle
import subprocess
import sys

import pytest

from specvla_ros import data_sets
from specvla_ros.benchmark.checks import drafter_and_rule
from specvla_ros.components import Component
from specvla_ros.config_folder import config_folder
from specvla_ros.configuration import DecoderConfig, load_preset, preset_names
from specvla_ros.data_sets import load_dataset


@pytest.fixture
def preset(tmp_path):
    def write(text):
        path = tmp_path / 'mine.yaml'
        path.write_text(text)
        return path

    return write


def test_the_presets_are_those_of_the_design():
    assert {'ar', 'strict', 'relaxed'} <= set(preset_names())
    ar, strict, relaxed = (load_preset(name) for name in ('ar', 'strict', 'relaxed'))
    assert (ar.name, ar.drafter.name, ar.rule.name, ar.threshold) == ('ar', 'none', 'strict', 0)
    assert (strict.drafter.name, strict.rule.name, strict.threshold) == ('eagle', 'strict', 0)
    assert (relaxed.drafter, relaxed.rule.name) == (strict.drafter, 'bins')
    assert relaxed.threshold == 9


@pytest.mark.parametrize('name', ['confidence', 'dynamic', 'phase', 'sequence', 'tolerance'])
@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_a_rule_by_name_is_not_given_the_last_action_as_a_guess(name, device):
    # near contact it stays, and the arm goes straight on: docs/bench.md, task 1
    config = load_preset(name)
    assert (config.rule.name, config.drafter.name) == (name, 'glance+jacobi')
    # its guesses are the middle of what the rule accepts, not the likeliest bin
    assert config.drafter.settings_on(device)['glance']['within'] > 0


@pytest.mark.parametrize('name', preset_names())
@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_every_preset_can_be_made(name, device):
    from specvla_ros.decoding.drafters import make_drafter
    from specvla_ros.decoding.rules import make_rule

    class Head:
        """In place of weights."""

        fused = None

        def new_cache(self):
            return None

    class Memory:
        """In place of a database that is not there."""

        eef_positions = None

        def __len__(self):
            return 0

    config = load_preset(name)
    for member in config.members:
        make_rule(member.rule.name, member.rule.settings)
        make_drafter(member.drafter.name, member.drafter.settings_on(device),
                     {'eagle': Head, 'glance': Head, 'retrieval': Memory})


def test_a_preset_may_have_candidates(preset, tmp_path):
    (tmp_path / 'other.yaml').write_text('{drafter: {name: velocity}, rule: {name: strict}}')
    config = load_preset(preset('candidates: [history_relaxed, other.yaml]'))
    assert [it.name for it in config.members] == ['ar', 'history_relaxed', 'other']
    assert (config.drafter.name, config.rule.name, config.threshold) == ('auto', 'bins', 9)
    assert not config.is_strict
    assert config.member('other').drafter.name == 'velocity'
    assert config.member('') is config.member('mine') is config
    assert pickle.loads(pickle.dumps(config)) == config
    tight = config.with_rule(Component('bins', {'r': 2}))
    assert [(it.rule.name, it.threshold) for it in tight.members] == [
        ('strict', 0), ('bins', 2), ('strict', 0)]
    wary = load_preset(preset('{candidates: [history_relaxed], strict_above_risk: 0.3}'))
    assert [it.strict_above_risk for it in wary.members] == [0.3, 0.3]
    same = load_preset(preset('{candidates: [history_relaxed], rule: {name: bins, r: 2}}'))
    assert (same.threshold, same.members[1].threshold) == (2, 2)


def test_auto_may_only_choose_lossless_ones():
    auto, relaxed = load_preset('auto'), load_preset('auto_relaxed')
    assert auto.is_strict and auto.rule.name == 'strict' and auto.threshold == 0
    assert not relaxed.is_strict and relaxed.threshold == 9
    assert load_preset('ar').members == (load_preset('ar'),)


def test_actions_of_several_steps_may_have_other_candidates(preset):
    config = load_preset(preset(
        '{candidates: [history], chunk_candidates: [glance_jacobi_relaxed, jacobi]}'))
    assert (config.verification, config.is_strict) == ('relaxed', False)  # it may come to that
    assert [it.name for it in config.of_chunk(1).members] == ['ar', 'history']
    assert config.of_chunk(1) == config
    tight = config.with_rule(Component('bins', {'r': 2})).with_risk(0.4).of_chunk(8)
    assert [(it.name, it.threshold, it.strict_above_risk) for it in tight.members] == [
        ('ar', 0, 0.4), ('glance_jacobi_relaxed', 2, 0.4), ('jacobi', 0, 0.4)]
    assert tight.of_chunk(8) == tight and tight.rule == Component('bins', {'r': 2})
    assert load_preset(preset('candidates: [history]')).of_chunk(8).members[1].name == 'history'
    for name, rule in (('auto', 'strict'), ('auto_relaxed', 'bins')):
        made = load_preset(name).of_chunk(8)
        assert made.rule.name == rule and len(made.members) == 3


def test_thresholds_that_grow_by_step_are_not_lossless_at_r_0(preset):
    text = '{{drafter: {{name: jacobi}}, rule: {{name: bins, r: 0, per_step: {}}}}}'
    for per_step, verification in ((0, 'lossless'), (3, 'relaxed')):
        config = load_preset(preset(text.format(per_step)))
        assert (config.by_step, config.verification) == (per_step > 0, verification)
        assert drafter_and_rule(config) == f'jacobi + bins, r = 0, per_step = {per_step}'


@pytest.mark.parametrize(('text', 'problem'), [
    ('{candidates: [history], chunk_candidates: []}', r'chunk_candidates is \[\], must be a list'),
    ('{candidates: [history], chunk_candidates: [glance_jacobi_relaxed], lossless: true}',
     'lossless is true, but glance_jacobi_relaxed may say other tokens than ar'),
    ('{candidates: [history], chunk_candidates: [kerv]}', 'kerv leaves tokens unverified'),
    ('{candidates: [history, relaxed], lossless: true}',
     'lossless is true, but relaxed may say other tokens than ar'),
    ('{candidates: [history], rule: {name: strict}, lossless: 1}', 'lossless is 1, must be true'),
    ('{candidates: [history], strict_above_risk: 2}', 'strict_above_risk is 2, must be'),
    ('candidates: []', r'candidates is \[\], must be a list of presets'),
    ('candidates: history', "candidates is 'history', must be a list"),
    ('candidates: [history, history]', 'must name each preset once'),
    ('candidates: [nonsense]', "'nonsense', must be one of"),
    ('candidates: [auto]', 'the candidate auto has candidates itself'),
    ('candidates: [kerv]', 'the candidate kerv leaves tokens unverified'),
    ('candidates: [mine]', 'names itself as a candidate'),
    ('{candidates: [history], drafter: {name: none}}', r"unknown keys \['drafter'\]"),
])
def test_candidates_that_cannot_be_are_refused(preset, text, problem):
    with pytest.raises(ValueError, match=problem):
        load_preset(preset(text))


def test_a_preset_may_be_a_file_and_settings_may_be_a_devices(preset):
    config = load_preset(preset("""
        drafter: {name: eagle, top_k: 4, cpu: {depth: 3}, cuda: {depth: 5, top_k: 8}}
        rule: {name: bins, r: 5}
    """))
    assert (config.name, config.threshold) == ('mine', 5)
    assert config.drafter.settings_on('cpu') == {'top_k': 4, 'depth': 3}
    assert config.drafter.settings_on('cuda') == {'top_k': 8, 'depth': 5}
    assert config.drafter.settings_on('mps') == {'top_k': 4}
    assert pickle.loads(pickle.dumps(config)) == config  # workers get it by mail


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('drafter: {name: none}', r"missing keys \['rule'\], unknown keys \[\]"),
        ('{drafter: {name: none}, rule: {name: strict}, r: 9}', r"unknown keys \['r'\]"),
        ('{drafter: none, rule: {name: strict}}', "drafter is 'none', must be a mapping with a"),
        ('{drafter: {name: none, cpu: 3}, rule: {name: strict}}', 'drafter cpu is 3, must be a m'),
        ('{drafter: {name: none}, rule: {name: strict}, strict_above_risk: 1.5}',
         'mine.yaml: strict_above_risk is 1.5, must be a number from 0 to 1'),
        ('{drafter: {name: none}, rule: {name: strict}, strict_above_risk: yes}',
         'strict_above_risk is True, must be a number'),
        ('- drafter', 'holds list, must be a mapping'),
        ('', 'holds NoneType, must be a mapping'),
        ('{drafter: [', 'mine.yaml: not YAML'),
    ],
)
def test_a_preset_that_is_none_says_why(preset, text, message):
    with pytest.raises(ValueError, match=message) as error:
        load_preset(preset(text))
    assert '\n' not in str(error.value)


def test_an_unknown_preset_lists_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"decoder is 'fast', must be one of \['ar'.*\.yaml file"):
        load_preset('fast')
    with pytest.raises(FileNotFoundError, match=r'none\.yaml: no such file'):
        load_preset(tmp_path / 'none.yaml')


@pytest.mark.parametrize('key', ['libero_object', 'libero_10_no_noops', 'libero'])
def test_libero_s_actions_are_osc_pose_inputs(key):
    dataset = load_dataset(key)
    assert dataset.unnorm_key == key
    assert (dataset.translation_scale_m, dataset.rotation_scale_rad) == (0.05, 0.5)
    assert (dataset.gripper_closed, dataset.gripper_open) == (0.0, 1.0)
    assert (dataset.frame_id, dataset.period_s) == ('panda_link0', 0.05)
    assert dataset.mirror_image is True


DATASET = (config_folder() / 'unnorm' / 'libero.yaml').read_text()


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """Return a function that makes a configuration folder with these data sets."""
    def write(**files):
        (tmp_path / 'unnorm').mkdir()
        for name, text in files.items():
            (tmp_path / 'unnorm' / f'{name}.yaml').write_text(text)
        monkeypatch.setattr(data_sets, 'config_folder', lambda: tmp_path)

    return write


def test_a_file_named_like_the_key_comes_before_one_that_lists_it(datasets):
    own = DATASET.replace('libero_object', 'else').replace('0.05 ', '0.07 ')
    datasets(libero=DATASET, libero_object=own)
    assert load_dataset('libero_object').translation_scale_m == 0.07
    assert load_dataset('libero_goal').translation_scale_m == 0.05


def test_an_unknown_data_set_lists_those_there_are(datasets):
    datasets(libero=DATASET)
    message = "no configuration for the data set 'bridge_orig', there are .*libero_object.*; add"
    with pytest.raises(ValueError, match=message):
        load_dataset('bridge_orig')


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('period_s: 0.05', 'period_s: 0', 'period_s of libero is 0, must be positive'),
        ('period_s: 0.05', 'period_s: .inf', 'period_s of libero is inf'),
        ('period_s: 0.05', 'period_s: fast', "period_s of libero is 'fast'"),
        ('gripper_open: 1.0', 'gripper_open: yes', 'gripper_open of libero is True'),
        ('gripper_open: 1.0', 'gripper_open: 0.0', 'are both 0.0, must differ'),
        ('mirror_image: true', 'mirror_image: 1', 'mirror_image of libero is 1, must be true or'),
        ('rotation: rotation_vector', 'rotation: quaternion',
         "rotation of libero is 'quaternion', must be one of rotation_vector, euler_xyz"),
        ('frame_id: panda_link0', 'frame_id:', 'frame_id of libero is None'),
        ('crop_area: 0.9', 'crop_area: 1.5', 'image crop_area is 1.5, must be a share above 0'),
        ('crop_area: 0.9', "crop_area: '0.9'", "image crop_area is '0.9', must be a share"),
        ('crop_area: 0.9', 'crop_area: .nan', 'image crop_area is nan'),
        ('jpeg: true', 'jpeg: 1', 'image jpeg is 1, must be true or false'),
        ('jpeg: true', '', r"must be a mapping with exactly \['crop_area', 'jpeg'\]"),
        ('\nimage:', '\npicture:', r"missing keys \['image'\]"),
        ('keys:', 'keys: libero\nother:', r"unknown keys \['other'\]"),
        ('  - libero_goal\n', '  - 7\n', 'keys is .*, must be a list of names'),
        ('  - libero_goal\n', '  - {a: 1}\n', 'keys is .*, must be a list of names'),
        ('period_s: 0.05', 'period_s: 0.05\nperiod_s: 0.1', "key 'period_s' stands twice"),
        ('period_s: 0.05', 'period_s: ' + '9' * 400, 'period_s of libero is .*, must be positive'),
        ('frame_id: panda_link0', '', r"missing keys \['frame_id'\]"),
        ('frame_id: ', 'frame: x\nframe_id: ', r"unknown keys \['frame'\]"),
    ],
)
def test_a_data_set_s_values_are_checked(datasets, old, new, message):
    assert old in DATASET
    datasets(libero=DATASET.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_dataset('libero')


def test_the_source_root_s_files_come_first_and_installed_ones_are_found(tmp_path, monkeypatch):
    place = sys.modules['specvla_ros.config_folder']
    root = Path(place.__file__).resolve().parents[1]
    assert config_folder() == root / 'config'
    # As installed by pip: the package somewhere else, its files under the prefix.
    monkeypatch.setattr(place, '__file__', str(tmp_path / 'lib' / 'p' / 'c.py'))
    monkeypatch.setattr(sys, 'prefix', str(tmp_path))
    monkeypatch.setattr(place, '_ament_share', lambda: None)
    with pytest.raises(FileNotFoundError, match='no configuration folder; looked in .*share'):
        config_folder()
    installed = tmp_path / 'share' / 'specvla_ros' / 'config'
    (installed / 'decoders').mkdir(parents=True)
    assert config_folder() == installed


def test_reading_settings_loads_nothing_heavy():
    code = (
        'import sys; from specvla_ros.configuration import load_preset; load_preset("relaxed");'
        'print(sorted({"torch", "numpy", "transformers"} & set(sys.modules)))'
    )
    root = Path(data_sets.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == '[]'


def test_a_decoder_may_be_made_without_a_file():
    config = DecoderConfig('r3', Component('none'), Component('bins', {'r': 3}))
    assert config.threshold == 3
