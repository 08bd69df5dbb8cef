"""
OpenVLA policies for ROS 2 with speculative decoding.

The messages (`specvla_ros.msg`) are generated at build time and live in the installed package.
`extend_path` joins the two, so that a run from the source root finds them as well.
"""
from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = '0.1.0'
