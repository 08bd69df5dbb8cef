"""The stand-in for CUDA graphs: it computes as the function does, refuses what a GPU refuses."""

import pytest
import torch

from specvla_ros.graphs import Padded


class Module:
    """Something with memory of its own, and a Python value that a graph bakes in."""

    def __init__(self):
        self.total, self.factor = torch.zeros(4), 2

    def add(self, rows, at):
        scaled = rows * self.factor
        self.total.index_copy_(0, at.reshape(1), scaled[2:3])
        return scaled + scaled.roll(1), self.total.sum()

    def asks_for_a_value(self, rows, at):
        return rows[int(at)] + 1

    def asks_for_a_list(self, rows, at):
        return rows * len(rows.tolist())

    def decides_by_a_value(self, rows, at):
        return rows + 1 if at > 0 else rows

    def has_a_shape_that_depends_on_values(self, rows, at):
        return rows[rows > 0]

    def brings_a_constant_from_the_host(self, rows, at):
        return rows + torch.tensor([1.0, 2, 3, 4])


def test_a_replay_computes_anew_and_writes_where_the_function_wrote(lab):
    module, runner, expected = Module(), lab.runners['graphs'](), torch.zeros(4)
    for at in (1, 3):
        rows = torch.arange(4.0) + at
        both, total = runner.run(module.add, rows, at)
        torch.testing.assert_close(both, 2 * (rows + rows.roll(1)))
        expected[at] = 2 * rows[2]
        torch.testing.assert_close(module.total, expected)
        torch.testing.assert_close(total, expected.sum())
    assert runner.captures == 1


def test_a_replay_runs_no_python_of_the_function(lab):
    module, runner = Module(), lab.runners['graphs']()
    rows = torch.ones(4)
    before = runner.run(module.add, rows, 0)[0].clone()
    module.factor = 100
    assert torch.equal(runner.run(module.add, rows, 0)[0], before)


def test_outputs_are_padded_stay_in_place_and_are_lost_to_the_next_graph(lab):
    module, runner = Module(), lab.runners['graphs']()
    first, _ = runner.run(module.add, Padded(torch.ones(5)), 0)
    assert first.shape == (8,)  # the next size
    assert runner.run(module.add, Padded(torch.ones(6)), 0)[0] is first
    runner.run(module.add, torch.ones(4), 0)
    assert first.isnan().all()


@pytest.mark.parametrize('forbidden', [
    'asks_for_a_value', 'asks_for_a_list', 'decides_by_a_value',
    'has_a_shape_that_depends_on_values', 'brings_a_constant_from_the_host'])
def test_what_no_graph_can_hold_is_refused(forbidden, lab):
    with pytest.raises(AssertionError, match='in a graph'):
        lab.runners['graphs']().run(getattr(Module(), forbidden), torch.ones(4), 1)
