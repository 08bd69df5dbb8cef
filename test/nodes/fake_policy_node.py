"""
`policy_node` around a policy that is none: a process for the tests.

The tokens of an action are (first pixel's R, G, B; len(instruction); 3 zeros), so that a test can
see what was acted on; it moves R / 10 mm along x and turns FAKE_TURN rad about x. From the
environment: FAKE_ACT_S, seconds per action; FAKE_LOAD_S, seconds to load; FAKE_DECODER_S, seconds
to change the decoder; FAKE_MB, memory it takes; FAKE_CHUNK, steps of an action, all alike;
FAKE_LOG, a file that gets a line per call. The checkpoint must be a folder, or empty; `broken` is
a bug.
"""
import os
from pathlib import Path
import sys
import time
from types import SimpleNamespace

import numpy as np

from specvla_ros.data_sets import load_dataset
from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes.policy_node import node as policy_node
from specvla_ros.nodes.runtime import run


class FakePolicy:
    """Acts as the environment variables at the top of this file say."""


    chunk = execute_steps = int(os.environ.get('FAKE_CHUNK', '1'))

    def __init__(self, config):
        self.decoder_config = config
        self.weights = np.ones(int(os.environ.get('FAKE_MB', '0')) * 10**6, np.uint8)
        self.dataset = load_dataset('libero_object')

    def act(self, image, instruction, stamp=None, eef_position=None, limits=None,
            executed=None):
        with open(os.environ['FAKE_LOG'], 'a') as log:
            log.write(f'act {image[0, 0].tolist()} {instruction}\n')
        time.sleep(float(os.environ.get('FAKE_ACT_S', '0')))
        if len(instruction) > 1000:
            raise SpecVLAError('the instruction is too long')
        tokens = (*image[0, 0].tolist(), len(instruction), 0, 0, 0)
        si = np.zeros((1, 7), np.float32)
        si[0, 0] = image[0, 0, 0] * 1e-4
        si[0, 3] = float(os.environ.get('FAKE_TURN', '0'))
        si[0, 6] = image[0, 0, 1] > 0
        if image[0, 0, 2] == 13:
            si[0, 0] = np.nan
        trace = SimpleNamespace(
            target_passes=3, drafted=8, accepted=4, acceptance_lengths=[2, 4],
            sources=['target', 'eagle', 'target', 'eagle', 'eagle', 'eagle', 'target'],
            stage_ms={'preprocess': 1.0, 'vision': 2.0, 'prefill': 3.0, 'draft': 4.0,
                      'verify': 5.0},
            origins=['chosen', *['accepted'] * 6], bins_off=[0, 2, 0, 1, 0, 0, 0],
            si_off=[0.0, 1e-3, *[0.0] * 5], forbidden=0, decoder='', reason='', risk=0.25)
        if self.chunk > 1:
            tokens, si = tokens * self.chunk, si.repeat(self.chunk, axis=0)
            for name in ('sources', 'origins', 'bins_off', 'si_off'):
                setattr(trace, name, getattr(trace, name) * self.chunk)
        return SimpleNamespace(tokens=tokens, normalized=si / 2, si=si, trace=trace)

    def with_decoder(self, config):
        with open(os.environ['FAKE_LOG'], 'a') as log:
            log.write('load a decoder\n')
        time.sleep(float(os.environ.get('FAKE_DECODER_S', '0')))
        return FakePolicy(config)

    def reset(self):
        with open(os.environ['FAKE_LOG'], 'a') as log:
            log.write('reset\n')


def load(settings):
    time.sleep(float(os.environ.get('FAKE_LOAD_S', '0')))
    if settings.checkpoint == 'broken':
        raise RuntimeError('a bug')
    if not Path(settings.checkpoint or '.').is_dir():
        raise FileNotFoundError(f'{settings.checkpoint}: no such folder')
    return FakePolicy(settings.decoder_config)


if __name__ == '__main__':
    sys.exit(run(policy_node.NAME, lambda: policy_node.PolicyNode(load)))
