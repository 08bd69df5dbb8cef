"""Episodes on disk: the same when read back, and whole after any interruption."""

import pytest

from specvla_ros.benchmark.records import EpisodeLog, EpisodeRecord
from specvla_ros.errors import SpecVLAError


def test_an_episode_is_the_same_when_read_back(make):
    episode = make.episode('relaxed', 3, 4, False, 'RuntimeError: "x"', [
        make.action((2, 4), deviation=make.deviation(3, 0.25, 0.5)), make.action((6,))])
    assert EpisodeRecord.from_json(episode.to_json()) == episode


def test_changed_tokens_are_noticed(make):
    line = make.episode().to_json().replace('31800', '31801')
    with pytest.raises(ValueError, match='does not match'):
        EpisodeRecord.from_json(line)


def test_log_continues_after_a_line_that_was_cut_off(make, tmp_path):
    path = tmp_path / 'episodes.jsonl'
    log = EpisodeLog(path)
    log.append(make.episode(state=0))
    log.append(make.episode(state=1))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])  # as a power cut leaves it

    log = EpisodeLog(path)
    assert [episode.state for episode in log.episodes] == [0]
    log.append(make.episode(state=1))
    assert path.read_bytes() == whole


def test_a_full_disk_leaves_the_log_as_it_was(make, tmp_path, monkeypatch):
    path = tmp_path / 'episodes.jsonl'
    log = EpisodeLog(path)
    log.append(make.episode(state=0))
    before = path.read_bytes()
    monkeypatch.setattr('os.fsync', lambda fd: (_ for _ in ()).throw(OSError(28, 'No space')))
    with pytest.raises(OSError, match='No space'):
        log.append(make.episode(state=1))
    assert path.read_bytes() == before and len(log.episodes) == 1


def test_a_damaged_line_in_the_middle_is_named(make, tmp_path):
    path = tmp_path / 'episodes.jsonl'
    path.write_text('{"suite": 1}\n' + make.episode().to_json() + '\n')
    with pytest.raises(SpecVLAError, match='line 1'):
        EpisodeLog(path)
