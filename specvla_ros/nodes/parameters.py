"""Node parameters as a table: name, default, unit, range and one sentence each."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from specvla_ros.errors import SpecVLAError
from specvla_ros.nodes import parameter_files

# Declared by rclpy itself.
_BUILT_IN = ('use_sim_time', 'start_type_description_service')


@dataclass(frozen=True, slots=True)
class Parameter:
    """
    One parameter of a node.

    default: its type is the parameter's type. low, high: closed range, both or neither.
    choices: the only values allowed. changeable: may be set while the node runs. reloadable: may
    be set while a lifecycle node is unconfigured, and holds from the next configuration on.
    any_type: a YAML int, list or string may stand there; the node parses it.
    """

    name: str
    default: Any
    description: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    changeable: bool = False
    reloadable: bool = False
    any_type: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """Return what `ros2 param describe` shows, and what rclpy enforces."""
        unit = f' [{self.unit}]' if self.unit else ''
        descriptor = ParameterDescriptor(
            description=self.description + unit,
            read_only=not (self.changeable or self.reloadable), dynamic_typing=self.any_type)
        constraints = [f'one of {", ".join(self.choices)}'] if self.choices else []
        if self.reloadable:
            constraints.append('may be changed while the node is unconfigured')
        descriptor.additional_constraints = '; '.join(constraints)
        if self.low is not None and isinstance(self.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(self.low), to_value=float(self.high))]
        elif self.low is not None:
            descriptor.integer_range = [
                IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        return descriptor

    def check(self, value: Any) -> None:
        """Raise a SpecVLAError if `value` is none of the choices."""
        if self.choices and value not in self.choices:
            raise SpecVLAError(
                f'parameter {self.name} is {value!r}; allowed: {", ".join(self.choices)}')


def declare(node: Node, parameters: Iterable[Parameter]) -> dict[str, Any]:
    """
    Declare every parameter and return the values given at the start (file, command line).

    An override of an unknown parameter is most often a misspelt name: a warning names it.

    :raises SpecVLAError: a value of the wrong type, out of range or none of the choices; a
        parameter file that names the node without its namespace
    """
    parameter_files.check(node)
    parameters = tuple(parameters)
    values = {}
    for parameter in parameters:
        try:
            values[parameter.name] = node.declare_parameter(
                parameter.name, parameter.default, parameter.descriptor()).value
        except InvalidParameterTypeException as error:
            raise SpecVLAError(
                f'parameter {parameter.name} must be {_type_name(parameter.default)}, '
                f'like {parameter.default!r}: {error}') from error
        except InvalidParameterValueException as error:
            raise SpecVLAError(
                f'parameter {parameter.name} is {node._parameter_overrides[parameter.name].value}'
                f'; allowed: {parameter.low} to {parameter.high} {parameter.unit}'.rstrip()
            ) from error
        parameter.check(values[parameter.name])
    known = {*(parameter.name for parameter in parameters), *_BUILT_IN}
    for name in sorted(set(node._parameter_overrides) - known):
        if not name.startswith('qos_overrides.'):
            node.get_logger().warning(f'there is no parameter {name!r}: it has no effect')
    return values


def _type_name(value: Any) -> str:
    names = {bool: 'true or false', int: 'a whole number', float: 'a number with a point',
             str: 'a string'}
    return names.get(type(value), 'a list')
