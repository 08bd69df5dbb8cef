"""How near guesses on held-out frames come to the right tokens: shares, and tables of them."""

from dataclasses import dataclass

from torch import Tensor

NEAR = 9  # bins; the paper's r for LIBERO Goal, Object and Spatial


@dataclass(frozen=True, slots=True)
class DepthAccuracy:
    """
    Share of guesses that are the target's token, and of those within `NEAR` bins of it.

    [depth - 1][token - 1] each, depth and token from 1 (token 0 is never drafted: the prefill
    says it); the guess of a token at a greater depth than its number doesn't exist and is 0.
    """

    exact: list[list[float]]
    near: list[list[float]]

    @classmethod
    def of(cls, off: Tensor) -> 'DepthAccuracy':
        """From distances int [N, A, A], -1 where there is no guess."""
        shares = [((off >= 0) & (off <= most)).float().mean(0).tolist() for most in (0, NEAR)]
        return cls(*shares)

    def by_depth(self, shares: list[list[float]]) -> list[float]:
        """Mean over the tokens, a depth each."""
        return [sum(row[depth:]) / len(row[depth:]) for depth, row in enumerate(shares)]

    def point(self) -> dict[str, list[float]]:
        """Shares by depth, for the learning curve."""
        return {'held_out_exact': self.by_depth(self.exact),
                'held_out_within_9': self.by_depth(self.near)}

    def lines(self, action_dim: int) -> list[str]:
        """Table for people: a line a depth, exact/near percent of each token."""
        tokens = token_names(action_dim, len(self.exact) + 1)[1:]
        lines = [f'held out, % exact/within {NEAR}' + ''.join(f'{name:>10}' for name in tokens)]
        for depth, (exact, near) in enumerate(zip(self.exact, self.near, strict=True)):
            cells = [f'{100 * a:.0f}/{100 * b:.0f}' if token >= depth else ''
                     for token, (a, b) in enumerate(zip(exact, near, strict=True))]
            lines.append(f'depth {depth + 1}'.ljust(len(lines[0]) - 10 * len(tokens))
                         + ''.join(f'{cell:>10}' for cell in cells))
        return lines


def token_names(action_dim: int, length: int) -> list[str]:
    """Names of an action's tokens."""
    names = ['x', 'y', 'z', 'roll', 'pitch', 'yaw', 'gripper'] if action_dim == 7 \
        else [str(number) for number in range(action_dim)]
    return [names[number % action_dim] for number in range(length)]


@dataclass(frozen=True, slots=True)
class TokenAccuracy:
    """Share of guesses at each of L tokens that are the target's, and within `NEAR` bins of it."""

    exact: list[float]
    near: list[float]

    @classmethod
    def of(cls, off: Tensor) -> 'TokenAccuracy':
        """From distances int [N, L]."""
        return cls(*((off <= most).float().mean(0).tolist() for most in (0, NEAR)))

    def point(self) -> dict[str, list[float]]:
        """Shares by token, for the learning curve."""
        return {'held_out_exact': self.exact, 'held_out_within_9': self.near}

    def lines(self, action_dim: int) -> list[str]:
        """Table for people: exact/near percent of each token."""
        title = f'held out, % exact/within {NEAR}'
        cells = [f'{100 * a:.0f}/{100 * b:.0f}'
                 for a, b in zip(self.exact, self.near, strict=True)]
        names = token_names(action_dim, len(cells))
        return [title + ''.join(f'{name:>10}' for name in names),
                ' ' * len(title) + ''.join(f'{cell:>10}' for cell in cells)]
