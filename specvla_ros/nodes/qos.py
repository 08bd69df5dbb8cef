"""Quality of service of our topics, in one place so that both ends agree."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

# Who listens to a sensor takes what comes and only the newest (REP-2003: sensor data).
SENSOR_SUBSCRIBER = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# A camera publisher offers more, so that both kinds of subscribers match.
CAMERA_PUBLISHER = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# Commands and reports: none lost, and room for a reader that is late by a few.
STREAM = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
# Only the last value counts.
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# The last value stays for whoever joins late.
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)


def camera_subscriber(reliability: str) -> QoSProfile:
    """Return `SENSOR_SUBSCRIBER` with the given reliability: best_effort or reliable."""
    return QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability.upper()])
