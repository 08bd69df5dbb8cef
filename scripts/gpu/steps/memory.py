"""
What is left of a policy's memory on the device after it is gone, and what making many costs.

Each line is read after `del`, a garbage collection and `empty_cache`: what is reserved then is
held by someone.
"""

import argparse
import gc
import resource
import time

from common import Report
import torch

from specvla_ros.policy import Policy


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--dtype', default='bfloat16')
    parser.add_argument('--times', type=int, default=12)
    parser.add_argument('--json', required=True)
    return parser.parse_args()


def used(device: torch.device) -> dict[str, float]:
    """Return MiB in use."""
    gc.collect()
    if device.type != 'cuda':
        return {'peak_rss': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return {'allocated': torch.cuda.memory_allocated() / 2**20,
            'reserved': torch.cuda.memory_reserved() / 2**20,
            'card': (total - free) / 2**20}


def main() -> None:
    """Make policies and let them go."""
    args = parse()
    device, report = torch.device(args.device), Report(args.json)
    if device.type == 'cuda':
        torch.ones(1, device=device)
    lines = [{'what': 'before', **used(device)}]

    def note(what: str) -> None:
        lines.append({'what': what, **used(device)})
        report['lines'] = lines
        print(lines[-1], flush=True)

    policy = Policy.load(decoder='ar', device=args.device, dtype=args.dtype)
    note('policy ar')
    for number in range(args.times):
        started = time.perf_counter()
        other = policy.with_decoder(('relaxed', 'glance_relaxed', 'hybrid')[number % 3])
        seconds = time.perf_counter() - started
        note(f'decoder {number} made in {seconds:.2f} s')
        del other
        note(f'decoder {number} gone')
    del policy
    note('all gone')
    if device.type == 'cuda':
        torch._C._cuda_clearCublasWorkspaces()
        note('without the workspaces of cuBLAS')


main()
