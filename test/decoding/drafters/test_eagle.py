"""The dynamic tree, against EAGLE-2 spelled out: no cache, no masks, one path at a time."""

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch

from specvla_ros.decoding.drafters import DraftContext, make_drafter, TreeBudget
from specvla_ros.decoding.drafters.eagle import likeliest
from specvla_ros.decoding.rules.strict import Strict
from specvla_ros.decoding.target import Target
from specvla_ros.decoding.tree import Accepted, TokenTree

budgets = st.builds(
    TreeBudget, top_k=st.integers(1, 4), depth=st.integers(1, 5), max_nodes=st.integers(2, 80),
    within=st.sampled_from([0, 0, 1, 9, 40, 10**9]),
)


def children(log_probs, budget):
    """Columns of the best children with their log-probabilities: one of each window."""
    width, first = 2 * budget.within + 1, int(log_probs.argmax()) - budget.within
    windows = {}
    for column, each in enumerate(log_probs.tolist()):
        windows.setdefault((column - first) // width, []).append((each, column))
    found = [(torch.tensor([each for each, _ in window]).logsumexp(0).item(), max(window)[1])
             for window in windows.values()]
    count = min(budget.top_k, -(-len(log_probs) // width))
    return [(column, score) for score, column in sorted(found, reverse=True)[:count]]


class Spelled:
    """EAGLE-2 for one prompt and the tokens known after it."""

    def __init__(self, model, head, prompt, tokens):
        self.model, self.head = model, head
        self.first_id = model.action_tokenizer.first_id
        inputs = torch.cat((prompt, self.embed(tokens)), dim=1)
        # The target's features of all but the last token, each with the next one's embedding.
        self.features, self.embeds = model(inputs)[:, :-1], inputs[:, 1:]

    def embed(self, tokens):
        return self.model.embed_tokens(torch.tensor([tokens]).long())

    def log_probs(self, path):
        """Log-probabilities after the known tokens and a path of drafts, by guessed features."""
        features = self.features
        embeds = torch.cat((self.embeds, self.embed(path)), dim=1)
        while True:
            length = features.shape[1]
            guessed = self.head(features, embeds[:, :length], torch.arange(length)[None])[:, -1:]
            if length == embeds.shape[1]:
                break
            features = torch.cat((features, guessed), dim=1)
        rows = self.model.lm_head.weight[self.first_id : self.first_id + 256]
        return (guessed[0, 0] @ rows.T).log_softmax(-1)

    def tree(self, budget, depth):
        """Paths of the tree's nodes, without the root's."""
        candidates, frontier = {}, {(): 0.0}
        for _ in range(depth):
            level = {}
            for path, score in frontier.items():
                for column, gain in children(self.log_probs(list(path)), budget):
                    level[(*path, self.first_id + column)] = score + gain
            candidates |= level
            best = sorted(level, key=level.get, reverse=True)[: budget.top_k]
            frontier = {path: level[path] for path in best}
        chosen = sorted(candidates, key=candidates.get, reverse=True)
        return set(chosen[: budget.max_nodes - 1])


def path_to(tree, node):
    """Nodes from the root's child down to a node."""
    return tree.ancestor_mask[node].nonzero().flatten().tolist()


def paths_of(tree):
    return {tuple(tree.tokens[path_to(tree, node)].tolist()) for node in range(len(tree))}


@given(
    seed=st.integers(0, 2**20),
    budget=budgets,
    accepted=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    kv_heads=st.sampled_from([2, 4]),
)
@settings(max_examples=25, deadline=None)
@torch.inference_mode()
def test_it_is_eagle_2_before_and_after_commits(seed, budget, accepted, kv_heads, lab):
    it = lab(seed % 4, 7, 2, kv_heads)
    drafter, target, tokens = it.eagle(seed, budget), Target(it.model), [70]
    prompt = target.embed(*it.prompt)
    target.prefill(prompt, TokenTree.empty())
    target.commit(Accepted((), (), 70))
    context = DraftContext(target, it.space, prompt, tokens)
    for count in accepted:
        tree = drafter.propose(context)
        depth = min(budget.depth, 14 - len(tokens) - 1)
        spelled = Spelled(it.model, drafter.head, prompt, tokens)
        assert paths_of(tree) == spelled.tree(budget, depth)
        assert set(tree.sources) == {'eagle'}
        # Accept part of a branch that is not the first one: its features replace the guesses.
        target.verify(tree)
        nodes = path_to(tree, len(tree) - 1)[:count]
        target.commit(Accepted(tuple(nodes), tuple(tree.tokens[nodes].tolist()), 99))
        tokens += [*tree.tokens[nodes].tolist(), 99]


def test_under_a_relaxed_rule_children_are_no_neighbours():
    """Eight neighbours of a smooth distribution are one guess to a rule of nine bins."""
    bins = torch.arange(256.0)
    log_probs = (-((bins - 100) / 20) ** 2 / 2).log_softmax(0).expand(2, -1)
    scores, columns = likeliest(log_probs, 8, within=0)
    assert sorted(columns[1].tolist()) == [*range(96, 104)] or sorted(
        columns[1].tolist()) == [*range(97, 105)]
    assert scores.exp().sum(1) == pytest.approx(0.16, abs=0.01)
    scores, columns = likeliest(log_probs, 8, within=9)
    assert columns[1].tolist()[:5] in ([100, 110, 90, 129, 71], [100, 90, 110, 71, 129])
    assert scores.exp().sum(1) == pytest.approx(1, abs=1e-3)


@given(st.integers(0, 2**20), st.integers(0, 130), st.integers(1, 9))
def test_windows_part_the_bins(seed, within, k):
    random = torch.Generator().manual_seed(seed)
    log_probs = (8 * torch.randn(3, 256, generator=random)).log_softmax(-1)
    k = min(k, -(-256 // (2 * within + 1)))
    scores, columns = likeliest(log_probs, k, within)
    assert (scores <= 0).all() and (scores.diff(dim=1) <= 0).all()
    assert ((columns >= 0) & (columns < 256)).all()
    first = log_probs.argmax(-1, keepdim=True) - within
    windows = torch.div(columns - first, 2 * within + 1, rounding_mode='floor')
    assert all(len(set(row)) == k for row in windows.tolist())
    assert (log_probs.gather(1, columns) <= scores + 1e-5).all()
    if k == -(-256 // (2 * within + 1)) == 1:
        assert columns.flatten().tolist() == log_probs.argmax(-1).tolist()


@given(budget=budgets, action_dim=st.integers(1, 8), seed=st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_it_keeps_to_its_budget_and_never_drafts_the_last_token(budget, action_dim, seed, lab):
    it = lab(0, action_dim, 1)
    drafter, trees = it.eagle(seed, budget), []
    propose = drafter.propose

    def watched(context):
        tree = propose(context)
        trees.append(tree)
        levels = min(budget.depth, action_dim - len(context.tokens) - 1)
        assert max(tree.depth.tolist(), default=0) <= levels
        if budget.top_k == 1:  # a chain, as long as the budget has it
            assert len(tree) == min(levels, budget.max_nodes - 1)
        else:
            assert len(tree) <= budget.max_nodes - 1
        return tree

    drafter.propose = watched
    _, trace = it.decode(drafter, Strict())
    assert len(trees) == trace.target_passes - 1
    assert trace.drafts[0] == (0, 0)  # no features yet, no guess


def test_a_perfect_drafter_needs_one_pass_after_the_prefill(lab):
    """An L-token action: 1 from the prefill, L - 2 drafts, 1 bonus."""
    it = lab(1, 7, 1)
    right = it.ar()

    class Perfect(type(it.guesser(0))):
        def guess(self, context):
            return TokenTree.empty()

        def propose(self, context):
            known = len(context.tokens)
            return TokenTree.chain(self.right[known : known + context.max_depth], 'perfect')

    tokens, trace = it.decode(Perfect(right, 0), Strict())
    assert tokens == right
    assert trace.drafts == [(0, 0), (5, 5)]
    assert trace.acceptance_lengths == [6]
    assert trace.sources == ['target', *['perfect'] * 5, 'target']


def test_guesses_in_the_prefill_can_spare_every_other_pass(lab):
    it = lab(1, 7, 1)
    guesser = it.guesser(0)
    guesser.guess = lambda context: TokenTree.chain(guesser.right[: context.max_depth], 'history')
    tokens, trace = it.decode(guesser, Strict())
    assert tokens == guesser.right
    assert (trace.target_passes, trace.acceptance_lengths) == (1, [])
    assert trace.sources == [*['history'] * 6, 'target']


def test_a_drafter_that_is_not_finite_is_an_error(lab):
    it = lab(0, 7, 1)
    drafter = it.eagle(0, TreeBudget(2, 3, 8))
    drafter.head.fc.bias.fill_(float('nan'))
    with pytest.raises(ValueError, match='drafter gave probabilities that are not finite'):
        it.decode(drafter, Strict())


@pytest.mark.parametrize(
    ('name', 'given', 'message'),
    [
        ('medusa', {}, r"drafter is 'medusa', must be one of \['eagle', 'glance', 'history'"),
        ('none', {'depth': 3}, 'drafter none has no setting depth; it has none'),
        ('eagle', {'width': 3}, 'drafter eagle has no setting width; it has top_k, depth, max_n'),
        ('eagle', {'top_k': 0}, 'top_k of the drafter eagle is 0, must be a whole number >= 1'),
        ('eagle', {'depth': 1.5}, 'depth of the drafter eagle is 1.5'),
        ('eagle', {'within': -1}, 'within of the drafter eagle is -1, must be .* >= 0'),
        ('eagle', {'max_nodes': 1}, 'max_nodes of the drafter eagle is 1, must be .* >= 2'),
    ],
)
def test_what_a_drafter_can_not_be(name, given, message):
    with pytest.raises(ValueError, match=message):
        make_drafter(name, given, {'eagle': lambda: pytest.fail('weights read for nothing')})
