"""
Tokens and times of the embedded model on the example bag, and whether they are the reference's.

Without --reference it writes one: on a CPU, in float32. All decoders get the settings a GPU has,
so a device changes rounding and nothing else. --frames also writes the bag's images, for
`specvla bench --frames`.
"""

import argparse
import dataclasses
import json
from pathlib import Path
import time

from common import Report
import numpy as np
import torch

from specvla_ros.bags.frames import FrameReader, only_camera
from specvla_ros.bags.reader import Bag
from specvla_ros.configuration import load_preset
from specvla_ros.policy import Policy

DECODERS = ('ar', 'strict', 'relaxed', 'glance', 'glance_relaxed', 'hybrid_relaxed')


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--bag', default='test/data/libero_object_2')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--dtypes', nargs='+', default=['float32'])
    parser.add_argument('--decoders', nargs='+', default=DECODERS)
    parser.add_argument('--most', type=int, default=1000)
    parser.add_argument('--reference', default='')
    parser.add_argument('--frames', default='')
    parser.add_argument('--json', required=True)
    return parser.parse_args()


def preset(name: str) -> object:
    """Return a preset whose settings are a GPU's on any device."""
    config = load_preset(name)
    drafter = config.drafter
    drafter = dataclasses.replace(drafter, settings=drafter.settings_on('cuda'), by_device={})
    return dataclasses.replace(config, drafter=drafter)


def main() -> None:
    """Act on every frame, decoder by decoder."""
    args = parse()
    report = Report(args.json)
    with Bag(Path(args.bag)) as bag:
        frames = list(FrameReader(bag, only_camera(bag), '/instruction', ''))[:args.most]
    if args.frames:
        np.savez(args.frames, images=np.stack([frame.image for frame in frames]),
                 instruction=frames[0].instruction)
    reference = json.loads(Path(args.reference).read_text()) if args.reference else None
    for dtype in args.dtypes:
        policy = None
        for name in args.decoders:
            started = time.perf_counter()
            if policy is None:
                policy = Policy.load(decoder=preset(name), device=args.device, dtype=dtype)
            actor = policy if name == args.decoders[0] else policy.with_decoder(preset(name))
            loaded = time.perf_counter() - started
            for frame in frames[:2]:
                actor.act(frame.image, frame.instruction)
            actor.reset()
            tokens, traces = [], []
            for frame in frames:
                action = actor.act(frame.image, frame.instruction, frame.stamp * 1e-9)
                tokens.append(list(map(int, action.tokens)))
                traces.append(action.trace)
            stages = {key: float(np.mean([trace.stage_ms[key] for trace in traces]))
                      for key in traces[0].stage_ms}
            row = {'stages_ms': stages,
                   'median_ms': float(np.median([trace.stage_ms['total'] for trace in traces])),
                   'passes': float(np.mean([trace.target_passes for trace in traces])),
                   'made_in_s': loaded}
            if reference is None:
                row['tokens'] = tokens
            else:
                row |= compared(tokens, reference['float32'][name]['tokens'])
            report.content.setdefault(dtype, {})[name] = row
            report.save()
            shown = {key: value for key, value in row.items() if key != 'tokens'}
            print(f'{args.device} {dtype} {name}: {shown}', flush=True)
    if args.device != 'cpu':
        report['pixels'] = pixels(frames, args.device)
        print(report.content['pixels'])
    if args.device.startswith('cuda'):
        report['memory_mib'] = {'allocated': torch.cuda.memory_allocated() / 2**20,
                                'reserved': torch.cuda.memory_reserved() / 2**20}


def pixels(frames: list, device: str) -> dict:
    """Hold the prepared images of a device against the CPU's: resize and crop may round apart."""
    from specvla_ros.benchmark.latency import projection
    from specvla_ros.openvla.image_transform import ImageTransform

    size = projection.read_shape('embedded').image_size
    here, there = ImageTransform(size), ImageTransform(size, device)
    off = torch.stack([(here.pixels(frame.image).int() - there.pixels(frame.image).cpu().int())
                       for frame in frames]).abs()
    return {'values': off.numel(), 'different': int((off > 0).sum()), 'farthest': int(off.max())}


def compared(tokens: list[list[int]], expected: list[list[int]]) -> dict:
    """Hold tokens against the reference's of the same frames."""
    equal = [a == b for a, b in zip(tokens, expected)]
    off = [max(abs(x - y) for x, y in zip(a, b)) for a, b in zip(tokens, expected)]
    return {'actions': len(equal), 'equal': sum(equal),
            'tokens_equal': sum(x == y for a, b in zip(tokens, expected) for x, y in zip(a, b)),
            'farthest_bins': max(off),
            'first_different': next((i for i, same in enumerate(equal) if not same), None)}


main()
