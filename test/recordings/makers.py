"""Small recordings of each format, made for the tests as their own writers lay them out."""

from fractions import Fraction
import json

import numpy as np

MODULES = "is read with it: pip install 'specvla_ros[recordings]'"
CAMERA = 'observation.images.front'


def pictures(count, first=0, height=32, width=48):
    """Smooth pictures, each of another brightness: frame n is about 8 · (first + n) + 20."""
    waves = 4 * np.sin(np.linspace(0, 6, height * width * 3)).reshape(height, width, 3)
    return [(20 + 8 * (first + n) + waves).astype(np.uint8) for n in range(count)]


def numbers(count, size, first=0):
    return (np.arange(count * size, dtype=np.float32).reshape(count, size) / 7 + first).astype(
        np.float32)


def write_video(path, images, fps, codec='libx264'):
    import av
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.options = 'yuv420p', {'g': '4', 'crf': '8'}
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
        container.mux(stream.encode())


def write_parquet(path, columns):
    import pyarrow
    from pyarrow import parquet
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)


class LeRobotMaker:
    """
    A data set of some episodes, each (task, images, actions, states); fps 10.

    version: v2.1 or v3.0; video: in files of their own, else in the rows, as PNG.
    """

    FPS = 10

    def __init__(self, root, version, episodes, video=True):
        self.root, self.version, self.episodes, self.video = root, version, episodes, video
        self.tasks = list(dict.fromkeys(task for task, *_ in episodes))
        (root / 'meta').mkdir(parents=True)
        rows = [self._rows(number) for number in range(len(episodes))]
        (self._write_v2 if version == 'v2.1' else self._write_v3)(rows)
        height, width = episodes[0][1][0].shape[:2]
        self.info = {
            'codebase_version': version, 'fps': self.FPS, 'robot_type': 'panda',
            'total_episodes': len(episodes), 'total_frames': sum(len(r['index']) for r in rows),
            'chunks_size': 1000,
            'data_path': 'data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet'
            if version == 'v2.1' else 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet',
            'video_path':
            'videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4'
            if version == 'v2.1' else
            'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4',
            'features': {
                CAMERA: {'dtype': 'video' if video else 'image', 'shape': [height, width, 3],
                         'names': ['height', 'width', 'channels']},
                'observation.state': {'dtype': 'float32', 'shape': [6]},
                'action': {'dtype': 'float32', 'shape': [7]}}}
        self.save_info()

    def save_info(self):
        (self.root / 'meta' / 'info.json').write_text(json.dumps(self.info))

    def _rows(self, number):
        task, images, actions, states = self.episodes[number]
        count, before = len(images), sum(len(e[1]) for e in self.episodes[:number])
        rows = {'action': list(actions), 'observation.state': list(states),
                'timestamp': (np.arange(count) / self.FPS).astype(np.float32),
                'frame_index': np.arange(count), 'episode_index': np.full(count, number),
                'index': before + np.arange(count),
                'task_index': np.full(count, self.tasks.index(task))}
        if not self.video:
            rows[CAMERA] = [{'bytes': png(image), 'path': f'{n}.png'}
                            for n, image in enumerate(images)]
        return rows

    def _write_v2(self, all_rows):
        for number, (rows, (_, images, *_)) in enumerate(zip(all_rows, self.episodes)):
            name = f'episode_{number:06d}'
            write_parquet(self.root / 'data' / 'chunk-000' / f'{name}.parquet', rows)
            if self.video:
                write_video(self.root / 'videos' / 'chunk-000' / CAMERA / f'{name}.mp4', images,
                            self.FPS)
        meta = self.root / 'meta'
        (meta / 'tasks.jsonl').write_text('\n'.join(
            json.dumps({'task_index': n, 'task': task}) for n, task in enumerate(self.tasks)))
        (meta / 'episodes.jsonl').write_text('\n'.join(
            json.dumps({'episode_index': n, 'tasks': [task], 'length': len(images)})
            for n, (task, images, *_) in enumerate(self.episodes)))

    def _write_v3(self, all_rows):
        """All rows in one file, all videos but the last episode's in one."""
        joined = {name: sum((list(rows[name]) for rows in all_rows), [])
                  for name in all_rows[0]}
        write_parquet(self.root / 'data' / 'chunk-000' / 'file-000.parquet', joined)
        meta, files = [], [[], []]
        for number, (task, images, *_) in enumerate(self.episodes):
            file = int(number == len(self.episodes) - 1)
            begins = len(files[file]) / self.FPS
            files[file] += images
            meta.append({
                'episode_index': number, 'tasks': [task], 'length': len(images),
                'data/chunk_index': 0, 'data/file_index': 0,
                f'videos/{CAMERA}/chunk_index': 0, f'videos/{CAMERA}/file_index': file,
                f'videos/{CAMERA}/from_timestamp': begins,
                f'videos/{CAMERA}/to_timestamp': len(files[file]) / self.FPS,
                'stats/action/mean': [0.0] * 7})
        if self.video:
            for number, images in enumerate(files):
                write_video(self.root / 'videos' / CAMERA / 'chunk-000' / f'file-{number:03d}.mp4',
                            images, self.FPS)
        write_parquet(self.root / 'meta' / 'episodes' / 'chunk-000' / 'file-000.parquet',
                      {name: [row[name] for row in meta] for name in meta[0]})
        write_parquet(self.root / 'meta' / 'tasks.parquet',
                      {'task_index': list(range(len(self.tasks))),
                       '__index_level_0__': self.tasks})


def png(image):
    import cv2
    return cv2.imencode('.png', image[..., ::-1])[1].tobytes()


def write_demonstrations(path, episodes, attributes=None, wrist=True):
    """
    An HDF5 file as LIBERO's: images upside down, a picture after its action.

    episodes: (images top row first, actions) each; attributes: of the group data.
    """
    import h5py
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, 'w') as file:
        data = file.create_group('data')
        for name, value in (attributes or {}).items():
            data.attrs[name] = value
        for number, (images, actions) in enumerate(episodes):
            demo = data.create_group(f'demo_{number}')
            demo['actions'] = np.asarray(actions, np.float64)
            demo.attrs['num_samples'] = len(demo['actions'])
            obs = demo.create_group('obs')
            turned = np.stack(images)[:, ::-1]
            obs['agentview_rgb'] = turned
            if wrist:
                obs['eye_in_hand_rgb'] = turned // 2
            obs['ee_pos'] = np.full((len(images), 3), number, np.float64)
            obs['ee_ori'] = np.full((len(images), 3), number + 0.5, np.float64)
    return path


def original_attributes(instruction='pick up the milk', convention='opengl'):
    return {'problem_info': json.dumps({'language_instruction': instruction}),
            'macros_image_convention': convention, 'env_args': '{}'}
