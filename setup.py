"""
Build the messages with CMake and pack them with the Python files: `pip install .`.

CMakeLists.txt says what is installed, here as on a robot (colcon); this file runs it into a stage
folder and hands the result to setuptools. With SPECVLA_DEVELOP=1 in the environment, only the
messages are packed, with a .pth file that puts this folder on the path: what `pip install -e .`
would be, if it could build messages.
"""
import os
from pathlib import Path
import shutil
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

NAME = 'specvla_ros'
ROOT = Path(__file__).resolve().parent
DEVELOP = os.environ.get('SPECVLA_DEVELOP') == '1'

# Before site-packages, so that the source comes before the installed messages; after Python's own
# library, whose names (`test`) this folder must not hide. A .pth file may be read twice.
PTH = (f'import sys; root = {str(ROOT)!r}; root in sys.path or sys.path.insert(next((i for i, p in'
       ' enumerate(sys.path) if p.endswith("-packages")), len(sys.path)), root)\n')


class BinaryDistribution(Distribution):
    """A wheel for this Python and platform: the messages are compiled."""

    def has_ext_modules(self) -> bool:
        return True


class BuildWithMessages(build_py):
    """Run CMake, then take over what it installs."""

    def run(self) -> None:
        stage = self.stage()
        site = next(iter([*stage.glob('lib/python*/site-packages'),
                          *stage.glob('local/lib/python*/dist-packages')]))
        built = Path(self.build_lib)
        shutil.rmtree(built, ignore_errors=True)  # a file deleted in the source must not survive
        shutil.copytree(site / NAME, built / NAME,
                        ignore=shutil.ignore_patterns('__pycache__', '*.c'))
        if DEVELOP:
            (built / f'{NAME}_source.pth').write_text(PTH)

        data: dict[str, list[str]] = {}
        for path in sorted(stage.rglob('*')):
            folder = path.relative_to(stage).parent
            if path.is_file() and folder.parts[:1] in [('lib',), ('share',)] \
                    and site not in path.parents:
                data.setdefault(str(folder), []).append(os.path.relpath(path, ROOT))
        self.distribution.data_files = sorted(data.items())

    def stage(self) -> Path:
        """Build and install into an empty folder, and return it."""
        import ament_index_python  # here: `setup.py --version` has to work without ROS

        environment = dict(os.environ)
        if 'AMENT_PREFIX_PATH' not in environment:
            # the wheels: <prefix>/lib/pythonX.Y/site-packages/ament_index_python/__init__.py
            prefix = str(Path(ament_index_python.__file__).parents[4])
            environment |= {'AMENT_PREFIX_PATH': prefix, 'CMAKE_PREFIX_PATH': prefix}
        work, stage = ROOT / 'build' / 'messages', ROOT / 'build' / 'stage'
        for folder in (work, stage):
            shutil.rmtree(folder, ignore_errors=True)
        for command in (
            ['cmake', '-S', ROOT, '-B', work, '-DBUILD_TESTING=OFF',
             '-DCMAKE_BUILD_TYPE=Release', f'-DCMAKE_INSTALL_PREFIX={stage}',
             f'-DSPECVLA_INSTALL_PYTHON={"OFF" if DEVELOP else "ON"}',
             f'-DPython3_EXECUTABLE={sys.executable}'],
            ['cmake', '--build', work, '--parallel', str(os.cpu_count() or 1)],
            ['cmake', '--install', work],
        ):
            subprocess.run(command, check=True, env=environment)
        return stage


setup(distclass=BinaryDistribution, cmdclass={'build_py': BuildWithMessages}, zip_safe=False)
