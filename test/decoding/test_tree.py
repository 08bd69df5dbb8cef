from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from specvla_ros.decoding.tree import TokenTree

paths = st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=6)


def prefixes(paths):
    """Every distinct non-empty prefix, in the order it is met."""
    return list(dict.fromkeys(tuple(p[: n + 1]) for p in paths for n in range(len(p))))


def path_to(tree, node):
    """Walk up from a node: nodes from the root's child down to it."""
    return [*(path_to(tree, int(tree.parents[node])) if tree.parents[node] >= 0 else []), node]


@given(paths)
def test_paths_share_their_common_beginnings(paths):
    tree = TokenTree.from_paths(paths, source='eagle')
    nodes = [tuple(tree.tokens[path_to(tree, node)].tolist()) for node in range(len(tree))]
    assert nodes == prefixes(paths)
    assert tree.depth.tolist() == [len(node) for node in nodes]
    assert tree.sources == ('eagle',) * len(nodes)


@given(paths)
def test_a_node_attends_to_its_ancestors_and_itself_only(paths):
    tree = TokenTree.from_paths(paths)
    for node in range(len(tree)):
        assert np.flatnonzero(tree.ancestor_mask[node]).tolist() == path_to(tree, node)


def test_the_empty_tree_and_a_chain():
    assert len(TokenTree.empty()) == 0
    assert TokenTree.empty().ancestor_mask.shape == (0, 0)
    chain = TokenTree.chain([5, 6, 7])
    assert chain.parents.tolist() == [-1, 0, 1]
    assert (chain.ancestor_mask.numpy() == np.tri(3, dtype=bool)).all()


@pytest.mark.parametrize('parents', [[0], [-2], [-1, 1], [-1, 5]])
def test_a_parent_after_its_child_is_refused(parents):
    with pytest.raises(ValueError, match=f'node {len(parents) - 1} is {parents[-1]}, must be -1'):
        TokenTree.of([1] * len(parents), parents, 'draft')


def test_as_many_parents_as_tokens():
    with pytest.raises(ValueError, match='2 tokens, 1 parents'):
        TokenTree.of([1, 2], [-1], 'draft')
