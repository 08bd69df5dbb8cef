"""The video: its clock, its pictures, and what is left when it cannot be written."""

import dataclasses
import os
from pathlib import Path
import shutil
import subprocess

import numpy as np
import pytest

from specvla_ros.benchmark.episodes import overlay, video
from specvla_ros.benchmark.episodes.overlay import (
    canvas_size,
    draw_column,
    Moment,
    tokens_per_pass,
)
from specvla_ros.benchmark.episodes.video import (
    moment_at,
    Scene,
    scene_pictures,
    slowdown,
    write_video,
)


@pytest.fixture
def scene(make):
    films = (make.film('ar', n=4), make.film('relaxed', n=6, lengths=(4, 2), ms=75.0))
    return Scene('pick up the milk', 'libero_object', 0, 3, films)


def test_tokens_of_a_pass_are_those_of_the_prefill_and_of_each_after_it(make):
    assert tokens_per_pass(make.action((4, 2))) == [1, 4, 2]
    assert tokens_per_pass(make.action()) == [1] * 7


@pytest.mark.parametrize('clock, index, ended', [
    (0.0, 0, False), (0.099, 0, False), (0.101, 1, False), (0.399, 3, False), (0.401, 3, True)])
def test_a_column_shows_the_action_its_decoder_is_at(make, clock, index, ended):
    moment = moment_at(make.film(n=4, ms=100.0), clock, pass_by_pass=False)
    assert (moment.index, moment.ended) == (index, ended)


@pytest.mark.parametrize('ms, passes', [(0, 0), (54, 0), (55, 1), (78, 2), (99, 2)])
def test_slow_motion_counts_the_passes_that_are_done(make, ms, passes):
    # 55 ms until the prefill is done, then two passes of 22.5 ms.
    film = make.film(n=1, lengths=(4, 2), ms=100.0)
    assert moment_at(film, ms / 1000, pass_by_pass=True).passes == passes


def test_decoders_faster_than_the_video_are_slowed_down(make):
    assert slowdown([make.film(ms=100.0)]) == 1
    assert slowdown([make.film(ms=100.0), make.film(ms=60.0)]) == 1
    assert slowdown([make.film(ms=10.0 + 55)]) == 1
    assert slowdown([make.film(ms=100.0), make.film(ms=12.5)]) == 4


def test_all_pictures_have_the_size_that_was_announced(scene):
    pictures = list(scene_pictures(scene))
    assert len(pictures) == video.count_pictures(scene)
    assert {picture.size for picture in pictures} == {canvas_size(2)}
    assert all(side % 2 == 0 for side in canvas_size(2))


def count(picture, colour):
    wanted = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)])
    return int((np.asarray(picture) == wanted).all(-1).sum())


def test_accepted_drafts_are_green_and_appear_with_their_pass(make):
    film = make.film(n=2, lengths=(4, 2))
    start, first, whole = (draw_column(film, Moment(0, passes, False)) for passes in (1, 2, 3))
    assert count(start, overlay.DRAFT) == 0 < count(first, overlay.DRAFT)
    # Three drafts in the first pass, four in both.
    assert count(whole, overlay.DRAFT) == pytest.approx(
        count(first, overlay.DRAFT) * 4 / 3, rel=0.05)


@pytest.mark.parametrize('outcome, colour', [
    ({'success': True}, overlay.SOLVED), ({'success': False}, overlay.UNSOLVED),
    ({'success': False, 'crash': 'RuntimeError'}, overlay.CRASHED)])
def test_the_outcome_shows_when_the_episode_has_ended(make, outcome, colour):
    film = make.film(n=2, **outcome)
    going, ended = (draw_column(film, Moment(1, 7, ended)) for ended in (False, True))
    assert count(ended, colour) > count(going, colour) + 5000


def test_a_chunk_of_actions_fits(make):
    action, film = make.action(), make.film(n=1)
    sources = (('eagle',) * 13 + ('target',)) * 5
    record = overlay.ActionRecord(tuple(range(70)), 5, 0, 0, (14,) * 4, sources, action.stage_ms)
    film = overlay.EpisodeFilm('chunks', 'm', film.frames, [[5] * 70], [record], True, None, 280)
    assert draw_column(film, Moment(0, 5, False)).size[0] == overlay.COLUMN_WIDTH


def test_a_folder_that_cannot_be_or_a_failing_ffmpeg_is_one_line_and_leaves_nothing(
        scene, tmp_path, monkeypatch):
    (tmp_path / 'no').write_text('a file')
    with pytest.raises(ValueError, match='cannot write .*demo.mp4') as error:
        write_video(tmp_path / 'no' / 'demo.mp4', [scene])
    assert '\n' not in str(error.value)
    fake = tmp_path / 'ffmpeg'
    fake.write_text('#!/bin/sh\nhead -c 1000 >/dev/null\nfor last; do :; done\n'
                    'echo half > "$last"\necho "x: No space left on device" >&2\nexit 0\n')
    fake.chmod(0o755)
    monkeypatch.setattr(video, 'ffmpeg', lambda: str(fake))
    with pytest.raises(ValueError, match='cannot write .*demo.mp4: .*No space left') as error:
        write_video(tmp_path / 'demo.mp4', [scene])
    assert '\n' not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ffmpeg', 'no']


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which('mount'), reason='mounting needs root')
def test_a_really_full_disk_leaves_nothing_that_looks_whole(scene, tmp_path):
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=32k', 'tmpfs', disk])
    if mounted.returncode:
        pytest.skip('mounting is not allowed here')
    try:
        with pytest.raises(ValueError, match='cannot write .*No space left on device'):
            write_video(disk / 'demo.mp4', [scene])
        assert list(Path(disk).iterdir()) == []
    finally:
        subprocess.run(['umount', disk], check=True)


def test_a_video_that_was_there_survives_a_failure(scene, tmp_path, monkeypatch):
    path = tmp_path / 'demo.mp4'
    path.write_bytes(b'earlier')
    monkeypatch.setattr(video, 'ffmpeg', lambda: '/bin/false')
    with pytest.raises(ValueError, match='cannot write'):
        write_video(path, [scene])
    assert path.read_bytes() == b'earlier'


def chunk_film(make, executed=(4, 4, 2)):
    """Actions of 8 control steps, of which so many were executed."""
    lengths = (7,) * 7 + (6,)  # and one by the prefill
    actions = [dataclasses.replace(make.action(lengths), steps=steps) for steps in executed]
    film = make.film(n=len(executed))
    return dataclasses.replace(film, actions=actions, bins=[[127] * 28] * len(executed))


def test_a_film_of_chunks_counts_the_control_steps_that_were_executed(make):
    film = chunk_film(make)
    assert [film.steps_until(index) for index in range(3)] == [4, 8, 10]
    assert [make.film().steps_until(index) for index in range(3)] == [1, 2, 3]
    texts = []
    draw = overlay.ImageDraw.ImageDraw.text

    def text(pen, at, said, *more, **options):
        texts.append(said)
        return draw(pen, at, said, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlay.ImageDraw.ImageDraw, 'text', text)
        draw_column(film, Moment(2, 9, ended=True))
    assert '2 of 8 control steps executed' in texts
    assert '10' in texts and 'solved: 10 steps in 3 actions, 0.3 s' in texts


def test_steps_that_the_next_action_said_again_are_drawn_small(make):
    """So the more are executed, the more of the picture has the colour of a token."""
    counts = []
    for executed in (2, 4, 8):
        picture = np.array(draw_column(chunk_film(make, (executed,)), Moment(0, 9, ended=False)))
        chips = picture[overlay.TITLE_HEIGHT + overlay.COLUMN_WIDTH:][:overlay.CHIPS_HEIGHT]
        colours = [tuple(int(it[i:i + 2], 16) for i in (1, 3, 5))
                   for it in (overlay.TARGET, overlay.DRAFT)]
        counts.append(sum(int((chips == colour).all(-1).sum()) for colour in colours))
    assert counts[0] < counts[1] < counts[2] < 3 * counts[0]
