"""
Guesses of several drafters as one tree, within a budget of nodes, the likeliest first.

What guesses have in common at the start is one node; what differs branches off. How likely a
guess is to be right is measured (``branch_rates``): the chance of a node is the product of the
rates along its branch, and that is what it is expected to gain, in tokens. The branch that is
expected to gain most is taken first, then the one that adds most to it, and so on. Branches are
always taken whole. Single nodes by probability would gain more in this sum, but `jacobi` uses what
the target says behind rejected nodes, and short branches leave it fewer answers (measured: 2.59
passes against 2.52 without any budget, at as many nodes).

A drafter on a GPU leaves its tokens there, and the host does not wait: such a guess shares nothing
with others, and is chosen by its shape alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from specvla_ros.decoding.tree import all_finite, TokenTree
from specvla_ros.errors import shown, SpecVLAError

from .branch_rates import Branch, BranchRates
from .side_by_side import structure_on

_MOST_NODES = 512  # a pass of more costs more than it can gain


class MergedGuesses:
    """
    Merges the trees of several drafters into one.

    With a limit on its nodes it also measures how often each branch was right, and keeps the best.
    nodes: the limit, without the root; None = as many as there are guesses. rates: what was
    measured; None until the first merge.
    """

    def __init__(self, nodes: int | None = None) -> None:
        if nodes is not None and (type(nodes) is not int or not 1 <= nodes <= _MOST_NODES):
            raise SpecVLAError(f'nodes of a relay of drafters is {shown(nodes)}, must be a whole '
                               f'number from 1 to {_MOST_NODES}: the most nodes of the prefill')
        self.nodes = nodes
        self.rates: BranchRates | None = None
        self._trees: list[TokenTree] = []

    def merge(self, trees: Sequence[TokenTree], length: int) -> TokenTree:
        """Return one tree of guesses at an action of ``length`` tokens."""
        trees = [tree for tree in trees if len(tree)]
        if self.nodes is None and (
                len(trees) < 2 or all(tree.tokens.device.type == 'cpu' for tree in trees)):
            return TokenTree.merge(trees)
        if self.rates is None:
            self.rates = BranchRates(length)
        self._trees = trees if self.nodes is not None else []
        candidates = _Candidates()
        for tree in trees:
            candidates.add(tree, self.rates)
        return candidates.tree(self.nodes) if trees else TokenTree.empty()

    def judge(self, tokens: Sequence[int], judged: int) -> None:
        """
        Count which guesses of the last merge were right, those left out for the budget as well.

        tokens: the action; judged: tokens that the prefill accepted, and its bonus. Guesses on a
        device are copied from it: the action is over, so it has nothing else to do.
        """
        if self.rates is None:
            return
        self.rates.fade()
        for tree in self._trees:
            drafts = tree.tokens.tolist()
            for branch, nodes in _branches(tree):
                self.rates.record(branch, [drafts[node] for node in nodes], tokens, judged)
        self._trees = []

    def forget(self) -> None:
        """Forget what was measured: an episode gives the same actions whatever came before it."""
        self._trees = []
        if self.rates is not None:
            self.rates.forget()


class _Candidates:
    """All guesses, merged by what they share at the start; of each node its likeliest branch."""

    def __init__(self) -> None:
        self._trees: list[TokenTree] = []
        self._places: list[tuple[int, int]] = []  # tree and node it was first seen at
        self._parents: list[int] = []
        self._rates: list[float] = []
        self._child: dict[tuple, int] = {}
        self._guesses: list[list[int]] = []  # nodes of each branch, from the root's child on

    def add(self, tree: TokenTree, rates: BranchRates) -> None:
        """Take in a drafter's guesses."""
        number = len(self._trees)
        self._trees.append(tree)
        on_host = tree.tokens.device.type == 'cpu'
        names = tree.tokens.tolist() if on_host else [(number, node) for node in range(len(tree))]
        for branch, nodes in _branches(tree):
            place, guess = -1, []
            for rate, node in zip(rates.rates(branch), nodes, strict=False):
                key = (place, names[node])
                place = self._child.setdefault(key, len(self._places))
                if place == len(self._places):
                    self._places.append((number, node))
                    self._parents.append(key[0])
                    self._rates.append(rate)
                elif rate > self._rates[place]:
                    self._rates[place] = rate
                guess.append(place)
            self._guesses.append(guess)

    def tree(self, most: int | None) -> TokenTree:
        """Return the tree of the likeliest nodes."""
        if most is None or len(self._places) <= most:
            kept: Sequence[int] = range(len(self._places))
        else:
            kept = self._likeliest(most)
        place = {-1: -1} | {node: index for index, node in enumerate(kept)}
        parents = [place[self._parents[node]] for node in kept]
        places = [self._places[node] for node in kept]
        sources = tuple(self._trees[tree].sources[node] for tree, node in places)
        finite = all_finite(self._trees)
        device = next((it.tokens.device for it in self._trees if it.tokens.device.type != 'cpu'),
                      None)
        if device is None:
            drafts = [tree.tokens.tolist() for tree in self._trees]
            return replace(TokenTree.of(
                [drafts[tree][node] for tree, node in places], parents, sources), finite=finite)
        starts = [0]
        for tree in self._trees:
            starts.append(starts[-1] + len(tree))
        tokens = torch.cat([it.tokens.to(device, non_blocking=True) for it in self._trees])
        layout = tuple(parents)
        chosen = [starts[tree] + node for tree, node in places]
        if chosen != list(range(len(tokens))):
            tokens = tokens.index_select(
                0, torch.tensor(chosen).to(device, non_blocking=True))
        return TokenTree(tokens, *structure_on(layout, device), sources, finite, layout)

    def _likeliest(self, most: int) -> list[int]:
        """
        ``most`` nodes, branch by branch: always the branch that is expected to gain most beyond
        what is taken; of equal ones the first. Parents stand before their children.
        """
        chances: list[float] = []
        for rate, parent in zip(self._rates, self._parents, strict=True):
            chances.append(rate * (chances[parent] if parent >= 0 else 1.0))
        kept: dict[int, None] = {}
        left = list(self._guesses)
        while left and len(kept) < most:
            gains = [sum(chances[it] for it in guess if it not in kept) for guess in left]
            best = left.pop(max(range(len(left)), key=gains.__getitem__))
            for node in best:
                if len(kept) < most:
                    kept[node] = None
        return list(kept)


def _branches(tree: TokenTree) -> Iterator[tuple[Branch, list[int]]]:
    """Each guess of a tree: whose and which one it is, and its nodes from the root's child on."""
    parents = tree.parents_on_host()
    inner, ranks = set(parents), dict.fromkeys(tree.sources, 0)
    for leaf in range(len(parents)):
        if leaf in inner:
            continue
        source, nodes, node = tree.sources[leaf], [], leaf
        while node >= 0:
            nodes.append(node)
            node = parents[node]
        yield Branch(source, ranks[source]), nodes[::-1]
        ranks[source] += 1
