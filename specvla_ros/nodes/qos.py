"""Quality of service of our topics, in one place so that both ends agree."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

# Who listens to a sensor takes what comes and only the newest (REP-2003: sensor data).
SENSOR_SUBSCRIBER = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# A camera publisher offers more, so that both kinds of subscribers match.
CAMERA_PUBLISHER = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# Commands and reports: none lost, and room for a reader that is late by a few.
STREAM = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# The last value stays for whoever joins late.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)

# Three ways to hear what must not be missed, from whomever: see Topics.subscribe_to_all. With room
# for a button that is let go at once: depth 1 would keep `false` alone.
COMMAND = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
COMMAND_BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
COMMAND_LATCHED = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)


def camera_subscriber(reliability: str) -> QoSProfile:
    """Return `SENSOR_SUBSCRIBER` with the given reliability: best_effort or reliable."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability.upper()])
