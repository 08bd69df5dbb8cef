"""
The checks that `specvla doctor` runs in processes of their own: a few lines of Python each.

They are texts because this process must survive them, and because nothing but `nodes/` imports
rclpy. The last line printed is the finding; the last line of an exception names the fault.
"""

TORCH = """
import torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
if gpus:
    x = torch.ones(64, 64, device='cuda')
    assert float((x @ x).sum()) == 64.0 ** 3, 'the GPU computes wrongly'
print(torch.__version__, '|', ', '.join(gpus))
"""
TRANSFORMERS = """
import transformers
from specvla_ros.openvla.libraries import check_transformers
check_transformers()
print(transformers.__version__)
"""
# What is printed first is what is left to say where the next lines crash the process. A second
# OpenCV is found by its files, as pip doesn't know of apt's; two wheels (opencv-python and
# opencv-python-headless, say) overwrite each other's files.
OPENCV = """
import sys
from importlib import metadata
from pathlib import Path
import numpy
copies = [found for folder in dict.fromkeys(sys.path) for found in Path(folder or '.').glob('cv2*')
          if found.suffix == '.so' or (found / '__init__.py').is_file()]
assert copies, 'OpenCV (the Python module cv2) is not installed'
with_numpy = f'numpy {numpy.__version__} in {Path(numpy.__file__).parent.parent}'
print(f'the process crashes in OpenCV, {copies[0]}, with {with_numpy}', flush=True)
try:
    import cv2
except Exception as error:
    sys.exit(f'OpenCV, {copies[0]}, was built for another numpy than {with_numpy}: '
             + ' '.join(str(error).split()))
mosaic = numpy.zeros((8, 8), numpy.uint8)
mosaic[::2, ::2] = 200
rgb = cv2.cvtColor(mosaic, cv2.COLOR_BayerBG2RGB)
assert rgb[4, 4].tolist() == [200, 0, 0], f'a red light came out as {rgb[4, 4]}'
assert (cv2.imdecode(cv2.imencode('.png', rgb)[1], cv2.IMREAD_COLOR) == rgb).all(), 'wrong PNG'
wheels = {f'{wheel.name} {wheel.version}' for wheel in metadata.distributions()
          if (wheel.name or '').lower().replace('_', '-').startswith('opencv-')}
print(cv2.__version__, 'with', with_numpy, '|', ', '.join(map(str, copies)), '|',
      ', '.join(sorted(wheels)) or 'no wheel')
"""
CV_BRIDGE = """
import importlib.util, sys
import numpy
from types import SimpleNamespace
found = (f'{importlib.util.find_spec("cv_bridge").origin}, with numpy {numpy.__version__} in '
         f'{numpy.__file__}')
print('the process crashes in cv_bridge,', found, flush=True)
try:
    from cv_bridge import CvBridge
    image = SimpleNamespace(height=4, width=4, encoding='bayer_rggb8', is_bigendian=0, step=4,
                            data=bytes(16))
    CvBridge().imgmsg_to_cv2(image, 'rgb8')
except Exception as error:
    sys.exit(f'cv_bridge, {found}, does not work: ' + ' '.join(str(error).split()))
print(found)
"""
ROS = """
import rclpy
from importlib import metadata
try:
    print(metadata.version('ros-jazzy-rclpy'), 'from wheels')
except metadata.PackageNotFoundError:
    import os
    print(os.environ.get('ROS_DISTRO', 'unknown'), 'from the system')
"""
MESSAGES = """
from rclpy.serialization import deserialize_message, serialize_message
from specvla_ros.msg import ActionDelta, DecodeReport, EpisodeStatus
for kind in (ActionDelta, DecodeReport, EpisodeStatus):
    assert deserialize_message(serialize_message(kind()), kind) == kind()
print('ActionDelta, DecodeReport, EpisodeStatus')
"""
# Two processes, as in the demo: discovery and transport within one process prove nothing.
DDS = """
import os, subprocess, sys, time
import rclpy
from std_msgs.msg import String
if len(sys.argv) > 1:
    rclpy.init()
    node = rclpy.create_node('specvla_doctor_talker')
    publisher = node.create_publisher(String, 'specvla_doctor', 1)
    while True:
        publisher.publish(String(data=sys.argv[1]))
        time.sleep(0.05)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
word = str(os.getpid())
talker = subprocess.Popen([sys.executable, __file__, word])
try:
    rclpy.init()
    node = rclpy.create_node('specvla_doctor_listener')
    heard = []
    node.create_subscription(String, 'specvla_doctor', lambda m: heard.append(m.data), 1)
    start = time.monotonic()
    while word not in heard and time.monotonic() - start < 20:
        rclpy.spin_once(node, timeout_sec=0.1)
    seconds = time.monotonic() - start
    node.destroy_node()
    rclpy.shutdown()
finally:
    talker.kill()
    talker.wait()
assert word in heard, 'no message arrived from another process within 20 s'
print(f'a message from another process after {seconds:.1f} s')
"""
QUANTIZATION = """
import torch
from specvla_ros.openvla.quantization import check_quantization, quantize
def found(device, kind):
    layer = torch.nn.Sequential(torch.nn.Linear(1024, 64, bias=False)).to(torch.bfloat16)
    x = torch.randn(3, 1024, dtype=torch.bfloat16, device=device)
    try:
        check_quantization(kind, device, None)
        exact = layer.to(device)(x)
        quantize(layer, kind, device)
    except ValueError as error:
        return str(error)
    off = float((layer(x) - exact).norm() / exact.norm())
    assert off < 0.2, f'{kind} on {device} computes wrongly: off by {100 * off:.0f} %'
    return f'{kind} on {device}, off by {100 * off:.1f} % on random weights'
check_quantization('int8', torch.device('cpu'), None)
from importlib import metadata
with torch.inference_mode():
    devices = ['cpu', *(f'cuda:{i}' for i in range(torch.cuda.device_count()))]
    lines = [found(torch.device(d), kind) for d in devices for kind in ('int8', 'int4')]
print('; '.join([f'torchao {metadata.version("torchao")}', *lines]))
"""
POLICY = """
import sys
from specvla_ros.policy import Policy
checkpoint, drafter, decoder = (text or None for text in sys.argv[1:4])
policy = Policy.load(checkpoint, decoder=decoder, drafter=drafter)
import numpy as np
action = policy.act(np.zeros((256, 256, 3), np.uint8), 'take action')  # words of every prompt
print(f'{len(action.tokens)} tokens in {action.trace.target_passes} passes')
"""
