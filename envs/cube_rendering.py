"""Pictures of a MuJoCo model without a display: EGL, else OSMesa of the system, else the wheel `lavavu-osmesa`.

The three draw the same bytes.  Easy to get wrong: `prepare` comes before MuJoCo is first imported; a context belongs to
the thread that made it, so every thread has a renderer of its own; and MuJoCo's default shadow map costs twice as much
as all else.

Shapes: H W of the picture.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import os
import sys
import threading
from contextlib import suppress
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wcsim.errors import ConfigError

SUPERSAMPLING = 2
SHADOW_MAP = 512
"""Texels of a side; MuJoCo's 4096 cost 172 ms a picture on a CPU, these 50."""
MAX_GEOMS = 2000

NO_GL = ("pictures of the arm need OpenGL without a display, and none was found: install EGL (Debian: libegl1 and "
         "libgl1-mesa-dri) or OSMesa (Debian: libosmesa6), or `pip install lavavu-osmesa pyopengl`")

_local = threading.local()


def has_egl() -> bool:
    """Whether the system's EGL opens a device without a display."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        query = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p),
                                 ctypes.POINTER(ctypes.c_int))
        egl.eglGetProcAddress.restype = ctypes.c_void_p
        address = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
        if not address:
            return False
        count = ctypes.c_int(0)
        return bool(query(address)(0, None, ctypes.byref(count))) and count.value > 0
    except (OSError, AttributeError):
        return False


def load_wheel() -> bool:
    """Hand OSMesa out of the wheel `lavavu-osmesa` to PyOpenGL; whether it is installed.

    PyOpenGL finds libraries by the system's names alone, so its loader is replaced by one that knows this file.
    """
    wheel, loader = find_spec("lavavu"), find_spec("OpenGL")
    if wheel is None or loader is None or not wheel.submodule_search_locations:
        return False
    folder = Path(wheel.submodule_search_locations[0]).with_name("lavavu_osmesa.libs")
    found = sorted(folder.glob("libOSMesa*"))
    if not found:
        return False
    waiting = sorted(folder.glob("*.so*"))
    for _ in range(len(waiting)):  # they need each other, in an order that nobody says
        for library in tuple(waiting):
            with suppress(OSError):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
                waiting.remove(library)
    os.environ["PYOPENGL_PLATFORM"] = "osmesa"
    name = "OpenGL.platform.ctypesloader"
    source = Path(*loader.submodule_search_locations or ()) / "platform" / "ctypesloader.py"
    spec = spec_from_file_location(name, source)
    if spec is None or spec.loader is None:
        return False
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    usual = module.loadLibrary

    def load(kind: Any, name: str, mode: int = ctypes.RTLD_GLOBAL) -> Any:
        return ctypes.CDLL(str(found[0]), mode=mode) if name == "OSMesa" else usual(kind, name, mode)

    module.loadLibrary = load  # type: ignore[attr-defined]  # a module
    sys.modules[name] = module
    return True


@cache
def prepare() -> str | None:
    """Choose `egl` or `osmesa` for this process, and tell MuJoCo, which decides when it is first imported; None where
    there is neither.  What MUJOCO_GL says already is kept."""
    os.environ.setdefault("LP_NUM_THREADS", "0")
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    if wanted in ("", "egl") and has_egl():
        found = "egl"
    elif wanted in ("", "osmesa") and (ctypes.util.find_library("OSMesa") or load_wheel()):
        found = "osmesa"
    else:
        return None
    os.environ["MUJOCO_GL"] = found
    return found


def context_class() -> Any:
    """MuJoCo's class of a GL context.  ConfigError where the machine has none."""
    kind = prepare()
    if kind is None:
        raise ConfigError(NO_GL)
    try:
        return importlib.import_module(f"mujoco.{kind}").GLContext
    except (ImportError, OSError, AttributeError) as error:
        raise ConfigError(f"{NO_GL} ({kind}: {error})") from error


def needed(module: str) -> Any:
    """A module of the extra `arm`; ConfigError where that is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"the simulator of task 'cube' needs MuJoCo and OGBench: pip install 'wcsim[arm]' "
                          f"({error}); a world of it needs neither with the task's option starts: shipped"
                          ) from error


def simulator() -> Any:
    """MuJoCo, told how it may draw."""
    prepare()
    return needed("mujoco")


class Renderer:
    """Draws one camera of one model, on the thread that made it.  size: side of the square picture in pixels."""

    def __init__(self, model: Any, camera: str, size: int) -> None:
        mujoco = simulator()
        self._mujoco, self._model, self._size = mujoco, model, size
        side = size * SUPERSAMPLING
        model.vis.quality.shadowsize, model.vis.quality.offsamples = SHADOW_MAP, 0
        model.vis.global_.offwidth = model.vis.global_.offheight = side
        try:
            self._gl = context_class()(side, side)
        except ConfigError:
            raise
        except Exception as error:  # whatever a driver raises
            raise ConfigError(f"{NO_GL} ({error})") from error
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(camera).id
        self._option, self._rectangle = mujoco.MjvOption(), mujoco.MjrRect(0, 0, side, side)
        self._screen = np.zeros((side, side, 3), dtype=np.uint8)

    def draw(self, data: Any) -> np.ndarray:
        """The picture `[H, W, 3]` uint8 of a state of the model, or of another one built from the same description."""
        mujoco = self._mujoco
        self._gl.make_current()
        mujoco.mjv_updateScene(self._model, data, self._option, mujoco.MjvPerturb(), self._camera,
                               mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(self._screen, None, self._rectangle, self._context)
        upright = np.ascontiguousarray(self._screen[::-1])
        picture: np.ndarray = cv2.resize(upright, (self._size, self._size), interpolation=cv2.INTER_AREA)
        return picture


def renderer(model: Any, camera: str, size: int) -> Renderer:
    """This thread's renderer, made from the first model that asks."""
    known: dict[tuple[str, int], Renderer] = _local.__dict__.setdefault("known", {})
    if (camera, size) not in known:
        known[camera, size] = Renderer(model, camera, size)
    return known[camera, size]
