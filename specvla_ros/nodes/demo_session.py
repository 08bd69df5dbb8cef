"""Play LIBERO episodes through real nodes, and keep what happened: the engine of `specvla demo`.

`python -m specvla_ros.nodes.demo_session --spec spec.json --out FOLDER` starts `policy_node` and
`libero_bridge_node` as two processes of their own, plays every (task, initial state) once per
decoder in lockstep, and records each step from the topics. It draws nothing: tables, plots and
video are made by `benchmark/demo.py` from the events and files below. (`benchmark/` may not import
rclpy, hence the process boundary.)

Specification, one JSON object; everything but `decoders` has the default shown:
    {"checkpoint": null,            # folder; null = the embedded default
     "drafter": null,               # folder; null = <checkpoint>/drafter
     "unnorm_key": null,            # null = the checkpoint's only key
     "device": "auto", "dtype": null,
     "decoders": ["ar", "strict", "relaxed"],   # preset names or files, one round each
     "suite": "libero_object",
     "episodes": [[task, state], ...],          # in place of this: "tasks": [0], "states": [0]
     "max_steps": 0,                # 0 = the suite's own limit
     "resolution": 256,             # pixels, square
     "action_timeout_s": 60.0,      # no action within this: the episode counts as crashed
     "start_timeout_s": 300.0,      # both nodes must be up within this
     "threads": 0,                  # torch threads of the policy process; 0 = torch's own choice
     "domain_id": null}             # null = the first free ROS domain

Play order: grouped by task (making another simulator scene costs seconds), then by state, then the
decoders in the order given; so decoders alternate, and share the machine's mood.

Events, one JSON object a line on stdout (nothing else goes there), flushed:
    {"event": "ready", "domain_id", "pids": {"policy", "bridge"}, "logs": {"policy", "bridge"}}
    {"event": "episode_start", "index", "total", "decoder", "suite", "task", "state", "instruction",
              "max_steps"}
    {"event": "step", "index", "step", "passes", "accepted", "drafted", "ms_total", "ros_ms"}
    {"event": "episode_end", "index", "decoder", "suite", "task", "state", "success", "crashed",
              "message", "steps", "npz"}                # npz: path, null when there was no step
    {"event": "done", "episodes", "successes", "crashes"}
    {"event": "error", "message"}                       # the last line; the exit code is not 0

Exit code: 0 when the list was played through (failed and crashed episodes included), 2 on bad
input (specification, checkpoint, suite; one clear message in the `error` event), 1 when a process
died or never came up, 130 on Ctrl-C or SIGTERM. Children are gone in every case.

FOLDER/episodes/<decoder>_<task>_<state>.npz, written whole or not at all; T = steps taken. Load
with `numpy.load(path, allow_pickle=True)`:
    frames             object [T]        JPEG bytes (RGB, upright, as published on `image`)
    tokens             int64 [T, L]      action tokens
    action_si          float32 [T, 7]    m, rotation vector in rad, gripper (1 = open)
    normalized         float32 [T, N]    as in ActionDelta
    target_passes      int64 [T]         the prefill counted
    drafted, accepted  int64 [T]         draft tokens
    image_stamp        int64 [T]         ns, the stamp of the image acted on
    ros_latency_ms     float64 [T]       image stamped -> action received by this process
    ros_overhead_ms    float64 [T]       the same, minus the policy's own total time
    sources            str (JSON)        [T][L] where each token came from ('target', 'eagle', ...)
    acceptance_lengths str (JSON)        [T][passes after the prefill], bonus included
    stage_ms           str (JSON)        [T] {stage name: ms}
    success, crashed   bool
    decoder, suite, instruction, message str;  task, state, max_steps int
FOLDER/logs/policy.log and bridge.log hold what the two nodes wrote.
"""
