"""The house itself: packages, arrows, imports, texts.  What is built of many hands keeps its shape here."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
MAPPED = {"agents": "wcsim.agents", "configs": "wcsim.configs", "envs": "wcsim.envs"}

FLOOR = {"types", "errors", "spans", "config", "actions", "spec", "estimate", "cameras", "registry", "messages",
         "strict_yaml"}
ENGINE = FLOOR | {"backbones", "world", "cache", "metrics", "timing", "runs", "report"}
FAMILIES = {path.name for path in (ROOT / "wcsim/backbones").iterdir() if (path / "__init__.py").exists()}
MAY_IMPORT = {
    "floor": FLOOR,
    "backbones": FLOOR,
    "world": FLOOR | {"backbones"},
    "cosmos2": FLOOR | {"backbones", "world"},
    "cosmos3": FLOOR | {"backbones", "world"},
    "cache": FLOOR | {"world"},
    "metrics": FLOOR,
    "timing": FLOOR,
    "runs": FLOOR | {"world", "metrics"},
    "report": ENGINE,
    "data": FLOOR | {"runs"},
    "envs": ENGINE | {"cosmos2", "cosmos3", "data"},
    "agents": ENGINE,
    "rollout": ENGINE | {"data", "envs", "agents"},
    "experiments": ENGINE | {"data", "envs", "agents", "rollout", "cosmos2", "cosmos3"},
    "train": ENGINE | {"data", "envs", "cosmos2", "progress"},
    "serve": ENGINE | {"data", "envs", "agents", "rollout", "experiments"},
    "cli": ENGINE | {"envs", "agents", "experiments", "cli_bench", "cli_data", "cli_serve", "cli_train",
                     "progress", "terminal"},
    "cli_data": ENGINE | {"data", "progress", "terminal"},
    "cli_bench": ENGINE | {"assets", "envs", "agents", "experiments", "progress", "terminal"},
    "cli_serve": ENGINE | {"envs", "serve", "terminal"},
    "cli_train": ENGINE | {"train", "progress", "terminal"},
    "progress": set(),
    "terminal": {"errors", "registry", "runs"},
}
"""Room to rooms it may import besides itself.  A room is a folder, or a module that stands alone; a family of
backbones is one of its own, so that the engine names none."""

LIGHT = ("wcsim", "wcsim.envs", "wcsim.agents", "wcsim.configs", "wcsim.cli", "wcsim.actions", "wcsim.errors")
MAX_LINES = 300
LONGER: set[str] = set()
"""Files that may be longer, each with its reason beside it."""


def committed() -> list[Path]:
    """Files that git tracks or would take."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True,
                            check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def sources(*folders: str) -> list[Path]:
    """Python files below the folders."""
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found, f"no sources in {folders}"
    return found


PACKAGED = sources("wcsim", *MAPPED)
EVERY = sources("wcsim", *MAPPED, "examples", "scripts", "tests", ".ci")


def module_name(path: Path) -> str:
    """The name under which a packaged file is imported."""
    top, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([MAPPED.get(top, top), *rest]).removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, whatever the condition; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_package_list_is_the_tree() -> None:
    packages = {module_name(path) for path in PACKAGED if path.name == "__init__.py"}
    folders = {module_name(path.parent / "__init__.py") for path in PACKAGED}
    assert set(SETUPTOOLS["packages"]) == packages == folders
    assert len(SETUPTOOLS["packages"]) == len(packages)
    assert SETUPTOOLS["package-dir"] == {"wcsim": "wcsim"} | {name: folder for folder, name in MAPPED.items()}


def test_every_data_file_is_packaged() -> None:
    packed = {path for package, globs in SETUPTOOLS["package-data"].items() for pattern in globs
              for path in folder_of(package).glob(pattern)}
    data = {path for path in committed() if path.relative_to(ROOT).parts[0] in {"wcsim", *MAPPED}
            and path.suffix != ".py"}
    assert data - packed == set()


def folder_of(package: str) -> Path:
    """Where a package lies in the checkout."""
    folder = next((folder for folder, name in MAPPED.items() if name == package), package.replace(".", "/"))
    return ROOT / folder


def room_of(module: str) -> str:
    """`wcsim.runs.run` is in the room `track`, `wcsim.backbones.cosmos2.tiny` in `cosmos2`."""
    _, room, *rest = module.split(".")
    return rest[0] if room == "backbones" and rest and rest[0] in FAMILIES else room


@pytest.mark.parametrize("path", [path for path in PACKAGED if module_name(path) != "wcsim"],
                         ids=lambda path: module_name(path))
def test_arrows(path: Path) -> None:
    room = room_of(module_name(path))
    rooms = {room_of(name) for name in imported(path) if name.startswith("wcsim.")}
    allowed = MAY_IMPORT.get("floor" if room in FLOOR else room, set())
    assert rooms - allowed - {room} == set()


def test_no_circle_of_imports() -> None:
    """Between any modules, whatever the condition of an import."""
    names = {module_name(path): path for path in PACKAGED if path.name != "__init__.py"}
    graph = {name: {module for found in imported(path) for module in (found, found.rpartition(".")[0])
                    if module in names and module != name} for name, path in names.items()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_the_arrows_know_every_room() -> None:
    rooms = {room_of(module_name(path)) for path in PACKAGED if module_name(path) != "wcsim"}
    assert rooms - FLOOR - {"assets", "configs"} == set(MAY_IMPORT) - {"floor"}
    assert rooms >= FLOOR


THEIRS = {"controlnet_block_every_n", "macro_block_size", "spatial_attention_block_skip_range"}
"""Parameters of diffusers and imageio that only look like a block on a table."""


def test_the_engine_knows_no_robot() -> None:
    """What a task is about stands in `envs`, `agents` and the shipped worlds alone."""
    named = {f"{path.relative_to(ROOT)}: {word}" for path in sources("wcsim") if "assets" not in path.parts
             for word in re.findall(r"\w*(?:pusht|block_|agent_px)\w*", path.read_text("utf-8"), re.IGNORECASE)
             if word not in THEIRS}
    assert named == set()


@pytest.mark.parametrize("name", [*MAPPED, "torchvision"])
def test_nobody_imports(name: str) -> None:
    """`envs` and `agents` are other people's packages; torchvision beside a CPU torch breaks diffusers."""
    assert [str(path) for path in EVERY if any(part.split(".")[0] == name for part in imported(path))] == []


def test_what_is_imported_is_declared() -> None:
    project = PROJECT["project"]
    runtime = {distribution(line) for line in project["dependencies"]}
    serving = runtime | {distribution(line) for line in project["optional-dependencies"]["serve"]}
    tools = runtime | {distribution(line) for line in project["optional-dependencies"]["dev"]}
    owners = packages_distributions()
    plugin = {"lerobot", "lerobot_env_wcsim"}  # LeRobot's, which declares its own dependencies
    local = {"wcsim"} | plugin | {path.stem for path in sources("examples", "scripts", "tests")}
    missing = set()
    for path in EVERY:
        for top in {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names) - local:
            packaged = serving if path.is_relative_to(ROOT / "wcsim/serve") else runtime
            if not {distribution(owner) for owner in owners[top]} & (packaged if path in PACKAGED else tools):
                missing.add(f"{path.relative_to(ROOT)}: {top}")
    assert missing == set()


def distribution(requirement: str) -> str:
    """The normalised name at the start of a requirement."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def pinned(constraints: str) -> set[str]:
    """The distributions that a file in constraints/ pins, each to one release."""
    pins = [line for line in (ROOT / "constraints" / constraints).read_text("utf-8").splitlines() if line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins), "a path, a tag or a range"
    return {distribution(pin) for pin in pins}


def test_the_versions_of_development_and_documentation_are_pinned() -> None:
    project = PROJECT["project"]
    extras = {name: {distribution(line) for line in lines} for name, lines in project["optional-dependencies"].items()}
    assert {distribution(line) for line in project["dependencies"]} | extras["dev"] <= pinned("py311-cpu.txt")
    assert extras["docs"] <= pinned("docs.txt")


def test_every_page_is_in_the_navigation() -> None:
    """A link or an anchor that leads nowhere is found where the site is built: `make docs`."""
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8"))) == pages


def test_the_user_pages_name_files_that_exist() -> None:
    """History pages keep the names of their time; files that a guide asks for are the reader's own."""
    own = {"configs/train_mine.yaml", "configs/cache_repeat.yaml", "configs/cache_NAME.yaml"}
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"),
             *(ROOT / "docs/how-to").glob("*.md")]
    path = re.compile(r"\b(?:configs|examples|scripts|tests)/[\w/]+\.(?:py|yaml)")
    named = {name for page in pages for name in path.findall(page.read_text("utf-8"))}
    assert {name for name in named - own if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_what_a_front_page_links_to_exists(name: str) -> None:
    """The pages of the site are checked where it is built."""
    linked = re.findall(r"\]\((?!https?:)([\w/.-]+)", (ROOT / name).read_text("utf-8"))
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_importing_stays_light(tmp_path: Path) -> None:
    """From another folder, so that only the installed names are found; these take seconds and are not always needed."""
    code = f"""
import importlib, sys
for module in {LIGHT!r}:
    importlib.import_module(module)
    for heavy in ("torch", "scipy", "skimage", "mujoco"):
        if heavy in sys.modules:
            sys.exit(f"importing {{module}} imports {{heavy}}")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", EVERY, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_source_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.isascii()
    assert len(text.splitlines()) <= MAX_LINES or str(path.relative_to(ROOT)) in LONGER
    if path.name.startswith("test_"):
        return
    said = ast.get_docstring(ast.parse(text)) or ""
    assert len(said.split()) >= 4, "the module's docstring says nothing"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*")), ids=lambda path: path.name)
def test_a_configuration_parses(path: Path) -> None:
    if path.suffix == ".yaml":
        text = path.read_text("utf-8")
        assert text.isascii()
        assert isinstance(yaml.safe_load(text), dict)
    else:
        assert path.name in {"__init__.py", "__pycache__"}


def test_no_file_names_a_machine() -> None:
    """Absolute paths of somebody's home or workplace, in whatever is committed, binary files included."""
    place = re.compile(rb"(?<![\w.~-])/(?:home|root|work|Users|tmp)/[\w.-]")
    assert [str(path.relative_to(ROOT)) for path in committed() if place.search(path.read_bytes())] == []


def test_the_map_names_what_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    tests = "".join(path.read_text("utf-8") for path in sources("tests"))
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests] == []
    assert [name for name in re.findall(r"`(\w+/[\w./]+\.\w+)`", text) if not (ROOT / name).exists()] == []
    rooms = text.split("```")[1]
    assert [name for name in re.findall(r"\b(\w+\.py)\b", rooms) if not list((ROOT / "wcsim").rglob(name))] == []


def test_the_lower_versions_are_the_lowest_that_are_allowed() -> None:
    """But torch, whose older releases have no CPU build on PyPI."""
    pins = dict(line.split("==") for line in (ROOT / "constraints/lower.txt").read_text("utf-8").splitlines()
                if line[0] != "#")
    low = {distribution(line): line.partition(">=")[2].partition(",")[0] for line in PROJECT["project"]["dependencies"]}
    assert set(pins) == set(low)
    assert {name for name, pin in pins.items() if not f"{pin}.0".startswith(f"{low[name]}.")} == {"torch"}
