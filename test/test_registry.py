"""Classes by name: what can't be registered says why."""

from dataclasses import dataclass

import pytest

from specvla_ros.registry import Registry


@dataclass(frozen=True)
class Settings:
    r: int = 1


@dataclass(frozen=True)
class Others:
    r: int = 1


class Plain:
    pass


@pytest.fixture
def registry():
    made = Registry('thing', 'specvla_ros.bags')  # any package
    made.register('one')(Settings)
    return made


def test_a_name_makes_settings(registry):
    assert registry.make('one', {'r': 3}) == Settings(3)
    assert list(registry) == ['one'] and len(registry) == 1 and registry['one'] is Settings
    registry.register('one')(Settings)  # a module that is imported again


@pytest.mark.parametrize(('name', 'settings', 'message'), [
    ('one', Others, r'thing one is .*Settings already; give .*Others another name'),
    ('two', Plain, r'thing two: .*Plain is no dataclass'),
    ('a+b', Others, r"thing 'a\+b' of .*Others: a name has letters, digits and _ only"),
])
def test_what_can_not_be_registered_says_why(registry, name, settings, message):
    with pytest.raises(ValueError, match=message):
        registry.register(name)(settings)
