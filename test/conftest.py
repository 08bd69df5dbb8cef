"""What all tests share: ROS 2 kept apart from other machines, field checks on, modest threads."""
import os

from hypothesis import settings

# A domain per run, so that two runs on one machine don't meet. Above 101, DDS ports may collide
# with those the kernel hands out.
os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 101 + 1))
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
# Without these checks, an array of a wrong length is serialised beyond its end.
os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')
os.environ.setdefault('MUJOCO_GL', 'osmesa')
os.environ.setdefault('OMP_NUM_THREADS', '1')  # threads that share a core spin

# Shared cores make single examples slow now and then; that is no failure.
settings.register_profile('specvla', deadline=None, derandomize=bool(os.environ.get('CI')))
settings.load_profile('specvla')
