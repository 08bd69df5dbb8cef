"""Quality of service of our topics, in one place so that both ends agree."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

# A subscriber of a sensor takes only the newest message, and may lose some (REP-2003).
SENSOR_SUBSCRIBER = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# A camera publisher offers more, so that both kinds of subscribers match.
CAMERA_PUBLISHER = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# Commands and reports: none lost, and room for a reader that is late by a few.
STREAM = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# The last value stays for subscribers that join late.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)

# Three ways to hear every publisher of a message that must not be missed: see
# Topics.subscribe_to_all. A button may be let go at once: depth 1 would keep `false` alone.
COMMAND = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
COMMAND_BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
COMMAND_LATCHED = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL)


def camera_subscriber(reliability: str) -> QoSProfile:
    """Return `SENSOR_SUBSCRIBER` with the given reliability: best_effort or reliable."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability.upper()])
