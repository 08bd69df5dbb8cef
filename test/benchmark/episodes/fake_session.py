"""Stands in for `nodes/sessions/demo.py`: same events and files, no ROS, no simulator."""

import argparse
import io
import json
from pathlib import Path
import sys
import time

import numpy as np
from PIL import Image

LENGTHS = {'ar': [1] * 6, 'auto': [2, 2, 2], 'auto_relaxed': [4, 2]}


def say(**event):
    print(json.dumps(event), flush=True)


def frame(step):
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 20 * step, np.uint8)).save(buffer, 'JPEG')
    return buffer.getvalue()


def write_episode(path, spec, decoder, task, state, steps=4):
    lengths = LENGTHS[decoder]
    sources = ['target'] + sum([['eagle'] * (n - 1) + ['target'] for n in lengths], [])
    frames = np.empty(steps, object)
    frames[:] = [frame(step) for step in range(steps)]
    ms = 40.0 + 10 * len(lengths)
    stages = {'vision': 10.0, 'prefill': 30.0, 'verify': 10.0 * len(lengths), 'total': ms}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path, frames=frames, tokens=np.tile(np.arange(300, 307), (steps, 1)),
        action_si=np.zeros((steps, 7), np.float32), normalized=np.zeros((steps, 7), np.float32),
        target_passes=np.full(steps, 1 + len(lengths)), drafted=np.full(steps, 5),
        accepted=np.full(steps, sum(lengths) - len(lengths)), image_stamp=np.arange(steps),
        ros_latency_ms=np.full(steps, ms + 2.0), ros_overhead_ms=np.full(steps, 2.0),
        sources=json.dumps([sources] * steps),
        acceptance_lengths=json.dumps([sorted(lengths)] * steps),
        stage_ms=json.dumps([stages] * steps), success=True, crashed=False, decoder=decoder,
        suite=spec['suite'], instruction='pick up the milk', message='', task=task, state=state,
        max_steps=280)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--fail', default='')
    parser.add_argument('--spec', type=Path)
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()
    spec = json.loads(args.spec.read_text())
    if args.fail == 'input':
        say(event='error', message='weights: lm_head.weight is missing')
        sys.exit(2)
    say(event='ready', domain_id=5, pids={'policy': 1, 'bridge': 2}, logs={})
    if args.fail == 'node':
        say(event='error', message='policy_node died with SIGSEGV')
        sys.exit(1)
    if args.fail == 'hang':
        time.sleep(60)
    if args.fail == 'interrupt':
        sys.exit(130)
    places = [(task, state, decoder) for task in spec['tasks'] for state in spec['states']
              for decoder in spec['decoders']]
    for index, (task, state, decoder) in enumerate(places):
        about = {'index': index, 'decoder': decoder, 'suite': spec['suite'], 'task': task,
                 'state': state}
        say(event='episode_start', total=len(places), instruction='pick up the milk',
            max_steps=280, **about)
        if args.fail == 'crash' and decoder == 'auto':
            say(event='episode_end', success=False, crashed=True, message='no action within 60 s',
                steps=0, npz=None, **about)
            continue
        path = args.out / 'episodes' / f'{decoder}_{task}_{state}.npz'
        write_episode(path, spec, decoder, task, state)
        for step in range(4):
            say(event='step', index=index, step=step, passes=3, accepted=2, drafted=5,
                ms_total=60.0, ros_ms=2.0)
        say(event='episode_end', success=True, crashed=False, message='', steps=4,
            npz=str(path), **about)
    say(event='done', episodes=len(places), successes=len(places), crashes=0)


if __name__ == '__main__':
    main()
