"""
Where the time of each kind of pass goes: kernels, gaps between them, and the floor of its bytes.

The passes are those of the project, run as it runs them. Of each: `host_ms`, from the call until
the device is done; `graph_ms`, replays of its graphs alone; from the profiler `kernels`, their
summed time `kernel_ms`, and `gap_ms` between them; `floor_ms`, its bytes or operations at the
measured ceilings. Then matrix products and attention of a layer by themselves, by rows.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from common import host_ms, Report, timed_ms, wait
import torch
from torch.nn import functional
from torch.nn.attention import sdpa_kernel, SDPBackend
from torch.profiler import profile, ProfilerActivity

from specvla_ros.benchmark.latency import projection, roofline
from specvla_ros.benchmark.latency.cost import PassWork, total, Work
from specvla_ros.benchmark.latency.random_weights import random_checkpoint
from specvla_ros.benchmark.observations import MADE_UP_INSTRUCTION
from specvla_ros.decoding.acceptance import Acceptance
from specvla_ros.decoding.drafters import DraftContext, EagleDrafter, TreeBudget
from specvla_ros.decoding.rules.bins import Bins
from specvla_ros.decoding.target import Target
from specvla_ros.decoding.tree import Accepted, TokenTree
from specvla_ros.situation import UNKNOWN

NODES = (0, 7, 8, 16, 49, 55)  # 55: what a chunk of 8 steps leaves to guess


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--shape', default='7b')
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--dtype', default='bfloat16')
    parser.add_argument('--quantization', default='none')
    parser.add_argument('--passes-only', action='store_true')
    parser.add_argument('--json', required=True)
    parser.add_argument('--traces', default='', help='folder for Chrome traces')
    return parser.parse_args()


class Recorder(dict):
    """The graphs of a runner, and which of them were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list = []

    def get(self, key: Any, default: Any = None) -> Any:
        """Look one up and remember it."""
        self.asked.append(key)
        return super().get(key, default)


class Bench:
    """A random model, its ceilings, and a report."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, self.dtype = torch.device(args.device), getattr(torch, args.dtype)
        self.report, self.traces = Report(args.json), args.traces
        self.cuda = self.device.type == 'cuda'
        self.checkpoint = random_checkpoint(
            projection.read_shape(args.shape), projection.read_acceptance('libero_goal'),
            MADE_UP_INSTRUCTION, self.device, self.dtype, args.quantization, 0)
        self.model = self.checkpoint.model
        self.target = Target(self.model)
        self.graphs = Recorder()
        if self.cuda:
            self.target.runner._captured = self.graphs
        self.cost = PassWork(self.model, self.model.action_tokenizer.n_bins)
        self.ceilings = roofline.measure(self.device, self.dtype, self.cost.weight_bytes)
        self.report['ceilings'] = {'bytes_per_s': self.ceilings.bandwidth,
                                   'flops_per_s': self.ceilings.rate}
        self.report['passes'], self.passes = {}, {}

    def measure(self, name: str, run: Callable[[], Any], work: Any = None) -> None:
        """Time a pass, profile it, and write that down."""
        run()
        wait(self.device)
        self.graphs.asked.clear()
        run()
        wait(self.device)
        mine = [self.graphs[key] for key in self.graphs.asked]
        row: dict[str, Any] = {'host_ms': host_ms(run, self.device)}
        if mine:
            row['graphs'] = len(mine)
            row['graph_ms'] = timed_ms(lambda: [it.replay() for it in mine], self.device)
        if work is not None:
            row['floor_ms'] = self.ceilings.floor_ms([work])
            row['mb'], row['gflop'] = work.n_bytes / 1e6, work.flops / 1e9
        row |= self._profiled(name, run)
        self.passes[name] = row
        self.report['passes'] = self.passes
        shown = ', '.join(f'{key} {value:.3f}' if isinstance(value, float) else f'{key} {value}'
                          for key, value in row.items() if key not in ('top', 'names'))
        print(f'{name}: {shown}', flush=True)
        for line in row['top']:
            print('    ', line, flush=True)

    def _profiled(self, name: str, run: Callable[[], Any]) -> dict[str, Any]:
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        run()
        wait(self.device)
        with profile(activities=kinds) as seen:
            run()
            wait(self.device)
        if self.traces and name in ('single token', 'verify 49 nodes', 'draft of 4 levels'):
            seen.export_chrome_trace(
                str(Path(self.traces) / f'trace_{name.replace(" ", "_")}.json.gz'))
        return kernels(seen, self.cuda)


def kernels(seen: Any, cuda: bool) -> dict[str, Any]:
    """Count kernels, sum their times, and find the time in which none ran."""
    wanted = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    spans, times, counts = [], Counter(), Counter()
    for event in seen.events():
        if event.device_type != wanted or (not cuda and event.cpu_parent is not None):
            continue
        start, end = event.time_range.start, event.time_range.end
        spans.append((start, end))
        times[event.name] += end - start
        counts[event.name] += 1
    spans.sort()
    busy, last = 0.0, float('-inf')
    for start, end in spans:
        busy += max(0.0, end - max(start, last))
        last = max(last, end)
    whole = last - spans[0][0] if spans else 0.0
    top = [f'{us:9.1f} us {counts[name]:5d} x {name[:110]}' for name, us in times.most_common(14)]
    return {'kernels': len(spans), 'kernel_ms': sum(times.values()) / 1e3, 'busy_ms': busy / 1e3,
            'gap_ms': (whole - busy) / 1e3, 'top': top}


def tree_of(nodes: int, device: torch.device) -> TokenTree:
    """Return a tree of a path of five and twigs at the root."""
    depth = min(5, nodes)
    parents = [*range(-1, depth - 1), *[-1] * (nodes - depth)]
    return TokenTree.of([300 + node for node in range(nodes)], parents, 'x').to(device)


def draft(target: Target, drafter: EagleDrafter, context: DraftContext, committed: Any, start: int
          ) -> TokenTree:
    """Propose a tree behind a commit, as often as one likes."""
    target._committed[:] = [committed]
    drafter._cache.length = start
    return drafter.propose(context)


def passes(bench: Bench) -> None:
    """Measure vision, prefill, single token, verifications, acceptance and drafts."""
    target, device, model = bench.target, bench.device, bench.model
    space, first = bench.checkpoint.space, model.action_tokenizer.first_id
    ids = bench.checkpoint.prompt_ids(MADE_UP_INSTRUCTION)
    size = model.config.image_size
    pixels = torch.randn(1, 6, size, size, device=device)
    prompt = target.embed(ids, pixels)
    rows = prompt.shape[1]
    target.prefill(prompt, tree_of(49, device))  # the cache grows now, not in between
    bench.report['prompt_rows'], bench.report['capacity'] = rows, target.cache.capacity
    empty, cost = TokenTree.empty(), bench.cost
    bench.measure('vision', lambda: target.embed(ids, pixels), cost.vision())
    bench.measure('prefill, no features', lambda: target.prefill(prompt, empty, False),
                  cost.language(rows, 0, 1))
    bench.measure('prefill', lambda: target.prefill(prompt, empty), cost.language(rows, 0, 1))
    chunk = TokenTree.chain([300 + node for node in range(NODES[-1])], 'x').to(device)
    bench.measure('prefill, 55 guesses', lambda: target.prefill(prompt, chunk, False),
                  cost.language(rows + len(chunk), 0, 1 + len(chunk)))
    target.prefill(prompt, empty)
    target.commit(Accepted((), (), first))
    for nodes in NODES:
        tree = tree_of(nodes, device)
        name = f'verify {nodes} nodes' if nodes else 'single token'
        bench.measure(name, lambda tree=tree: target.verify(tree),
                      cost.language(1 + nodes, rows, 1 + nodes))
    tree = tree_of(49, device)
    verified = target.verify(tree)
    acceptance = Acceptance(Bins(9), None, space, target)
    terms = acceptance.terms(UNKNOWN)
    bench.measure('accept of 49 nodes',
                  lambda: acceptance.accept(tree, verified, [first], terms))
    eagle = bench.checkpoint._head
    head = [*eagle.parameters()]
    once = Work(sum(it.numel() * it.element_size() for it in head),
                16.0 * sum(it.numel() for it in head))
    for depth in (4, 5):
        drafter = EagleDrafter(eagle, TreeBudget(8, depth, 50))
        context = DraftContext(target, space, prompt, [first])

        target.prefill(prompt, empty)
        target.commit(Accepted((), (), first))
        bench.measure(f'draft of {depth} levels behind a prefill',
                      partial(draft, target, drafter, context, target._committed[-1], 0),
                      total([once] * depth))
        target.verify(tree)
        target.commit(Accepted((0, 1), (first, first + 1), first + 2))
        bench.measure(f'draft of {depth} levels',
                      partial(draft, target, drafter, context, target._committed[-1],
                              drafter._cache.length),
                      total([once] * depth))


def products(bench: Bench) -> None:
    """Time the four products of all layers by themselves, by rows."""
    layers, found = bench.model.fused_llama._layers._layers, {}
    for rows in (1, 8, 9, 16, 17, 33, 50, 56, 64, 65, 128, 288, 320):
        row = {}
        for name in ('qkv', 'out', 'gate_up', 'down'):
            weights = [getattr(layer, name)._weight for layer in layers]
            x = torch.randn(rows, weights[0].shape[1], device=bench.device).to(bench.dtype)
            total = torch.zeros(rows, weights[0].shape[0], device=bench.device).to(bench.dtype)

            def run(x: Any = x, total: Any = total, weights: Any = weights, name: str = name
                    ) -> None:
                for weight in weights:
                    if name in ('out', 'down'):
                        total.addmm_(x, weight.t(), beta=0.5)
                    else:
                        functional.linear(x, weight)

            ms = timed_ms(run, bench.device, graph=bench.cuda, seconds=0.1)
            n_bytes = sum(w.numel() * w.element_size() for w in weights)
            row[name] = {'ms': ms, 'tb_per_s': n_bytes / ms / 1e9}
        row['ms'] = sum(it['ms'] for it in row.values())
        found[rows] = row
        bench.report['products_all_layers'] = found
        print(f'products of all layers, {rows} rows: {row["ms"]:.3f} ms  ' + '  '.join(
            f'{name} {it["tb_per_s"]:.2f} TB/s' for name, it in row.items() if name != 'ms'),
            flush=True)


def attention(bench: Bench) -> None:
    """Time attention over all layers by backend and rows, and name what torch takes itself."""
    storage, found = bench.target.cache.storage, {}
    heads, dim = storage.shape[3], storage.shape[5]
    keys = bench.target.cache.capacity
    storage.normal_()
    kinds = {'own choice': None, 'cudnn': SDPBackend.CUDNN_ATTENTION,
             'efficient': SDPBackend.EFFICIENT_ATTENTION, 'math': SDPBackend.MATH}
    for rows in (1, 9, 17, 65, 320):
        query = torch.randn(1, heads, rows, dim, device=bench.device).to(bench.dtype)
        mask = torch.zeros(1, 1, rows, keys, device=bench.device, dtype=bench.dtype)
        mask[..., keys - 130:] = float('-inf')
        row: dict[str, Any] = {}

        def run(query: Any = query, mask: Any = mask) -> Any:
            for layer in storage.unbind(0):
                out = functional.scaled_dot_product_attention(query, layer[0], layer[1], mask)
            return out

        for name, backend in kinds.items():
            try:
                if backend is None:
                    row[name] = timed_ms(run, bench.device, graph=bench.cuda, seconds=0.1)
                    with profile(activities=[ProfilerActivity.CUDA if bench.cuda
                                             else ProfilerActivity.CPU]) as seen:
                        run()
                        wait(bench.device)
                    row['kernel'] = kernels(seen, bench.cuda)['top'][:2]
                else:
                    with sdpa_kernel(backend):
                        row[name] = timed_ms(run, bench.device, graph=bench.cuda, seconds=0.1)
            except Exception as error:
                row[name] = f'{type(error).__name__}: {str(error).splitlines()[0][:120]}'
        found[rows] = row
        bench.report['attention_all_layers_ms'] = found
        print(f'attention of all layers, {rows} rows, {keys} keys: {row}', flush=True)


def main() -> None:
    """Measure, writing each finding at once."""
    args = parse()
    bench = Bench(args)
    with torch.inference_mode():
        passes(bench)
        if not args.passes_only:
            products(bench)
            attention(bench)
    if bench.cuda:
        bench.report['memory'] = {
            'allocated_mib': torch.cuda.memory_allocated() / 2**20,
            'reserved_mib': torch.cuda.memory_reserved() / 2**20,
            'peak_mib': torch.cuda.max_memory_allocated() / 2**20,
            'graphs': getattr(bench.target.runner, 'captures', 0)}
        print(bench.report.content['memory'])


main()
