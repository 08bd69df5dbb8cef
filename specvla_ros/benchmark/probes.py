"""
What `specvla doctor` runs in processes of their own: a few lines each that do the thing itself.

They are texts because this process must survive them, and because nothing but `nodes/` imports
rclpy. The last line printed is the finding; an exception's last line is what is wrong.
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
RENDERER = """
import os
os.environ.setdefault('MUJOCO_GL', 'osmesa')  # as the simulator does
import mujoco
model = mujoco.MjModel.from_xml_string('''<mujoco><worldbody><light pos="0 0 3"/>
<geom type="sphere" size=".2" rgba="1 0 0 1"/><camera name="c" pos="0 -1 0" xyaxes="1 0 0 0 0 1"/>
</worldbody></mujoco>''')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 64, 64)
renderer.update_scene(data, camera='c')
pixel = renderer.render()[32, 32]
assert pixel[0] > 2 * pixel[1], f'a red ball came out as {pixel}'
print('MuJoCo', mujoco.__version__, 'with MUJOCO_GL=' + os.environ['MUJOCO_GL'], flush=True)
os._exit(0)  # EGL prints tracebacks when it is torn down
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
