"""Jobs on a Ray cluster: one actor per worker, which keeps its worlds between jobs.

Ray places the actors, finds lost ones, and asks its autoscaler for machines; who plays which job is decided here, one
job at a time per worker.  Easy to get wrong: a job may have run although its worker is lost, so it can run twice; what
it gives is the same, and whoever records it drops the second copy by its key.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from socket import create_connection
from time import monotonic
from typing import Any, TypeVar

from wcsim.errors import ConfigError
from wcsim.experiments.parcels import Parcel, pack, unpack
from wcsim.experiments.work import NOTHING, TRIES, Done, Failed, Job, Needs, failed, perform, tell

Result = TypeVar("Result")

MOVES = 20
"""How often a job is begun where its machine is lost, which is seldom the job's fault."""
POLL_S = 2.0
"""Seconds after which the cluster is asked whether it has grown."""
PATIENCE_S = 60.0
"""Seconds without any worker after which a line says what is waited for."""
REACH_S = 10.0
"""Seconds in which something must answer at the address of a cluster."""


class Worker:
    """What runs in an actor.  paths: where the driver finds modules, as far as they are here too."""

    def __init__(self, parcels: Sequence[Parcel], environment: Mapping[str, str], paths: Sequence[str]) -> None:
        os.environ.update(environment)
        sys.path += [path for path in paths if path not in sys.path and os.path.exists(path)]
        ray = import_module("ray")
        for parcel in parcels:
            unpack(parcel, ray.get)
        self._node: str = ray.get_runtime_context().get_node_id()

    def node(self) -> str:
        """Which machine it is on, by Ray's name."""
        return self._node

    def perform(self, function: Callable[[Any], Any], job: Any) -> Done[Any, Any]:
        """See `wcsim.experiments.work.perform`."""
        return perform(function, job)


class Ray:
    """Workers on the cluster at `address`, or on this machine where that is None.

    workers: how many; None is as many as there is room for, however that changes.  gpus: what each has, instead of what
    its jobs say.  A job whose worker dies is begun
    again on another, up to `TRIES` times, and up to `MOVES` times where the whole machine is lost.  So is one that
    fails, but for wcsim's own errors.  ConfigError where Ray is not installed.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, gpus: float | None = None) -> None:
        if find_spec("ray") is None:
            raise ConfigError("--executor ray needs Ray, which is not installed: pip install 'wcsim[ray]'")
        self.address, self.workers, self.gpus = address, workers, gpus

    def run(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], needs: Needs = NOTHING
    ) -> Iterator[Done[Job, Result]]:
        """As they end."""
        if not jobs:
            return
        needs = needs.sharing(self.gpus)
        ray, began = connect(self.address, self.workers, needs)
        crew = None
        try:
            crew = Crew(ray, needs, self.workers)
            yield from _play(ray, crew, function, jobs)
        finally:
            if crew is not None:
                crew.dismiss()
            if began:
                ray.shutdown()


def connect(address: str | None, workers: int | None, needs: Needs) -> tuple[Any, bool]:
    """Ray, connected, and whether this call did that.  Without an address it starts on this machine, and listens to
    nobody else; what it tells its makers of its use is off, unless the environment says otherwise."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_module("ray")
    if ray.is_initialized():
        return ray, False
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        cpus = None if workers is None else max(1, round(workers * needs.cpus))
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        return ray, True
    check_reachable(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no Ray cluster at {address}: {str(error).partition(chr(10))[0]}") from error
    return ray, True


def check_reachable(address: str) -> None:
    """Raise ConfigError unless something listens at `HOST:PORT` or `ray://HOST:PORT`; Ray itself asks for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal() or not host:
        return
    try:
        create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster at {address}: {error}") from error


def _play(
    ray: Any, crew: Crew, function: Callable[[Job], Result], jobs: Sequence[Job]
) -> Iterator[Done[Job, Result]]:
    """Every job once, by its place in `jobs`."""
    waiting, running = deque(range(len(jobs))), dict[Any, tuple[Member, int]]()
    tried, moved = Counter[int](), Counter[int]()
    sent = ray.put(function)
    while waiting or running:
        crew.hire(len(waiting) + len(running))
        while waiting and (member := crew.free()) is not None:
            number = waiting.popleft()
            running[member.actor.perform.remote(sent, jobs[number])] = (member, number)
        ready, _ = ray.wait([*running, *crew.joining], num_returns=1, timeout=POLL_S)
        for reference in ready:
            if reference in crew.joining:
                crew.welcome(reference)
                continue
            member, number = running.pop(reference)
            done = crew.collect(reference, member, jobs[number])
            if done is None:
                moved[number] += 1
                if moved[number] < MOVES:
                    waiting.appendleft(number)
                    continue
                done = Done(jobs[number], Failed(f"its machine was lost, {MOVES} times"), member.name)
            elif isinstance(done.result, Failed) and not done.result.final:
                tried[number] += 1
                if tried[number] < TRIES:
                    waiting.append(number)
                    continue
            yield done


class Member:
    """A worker that has joined.  node: its machine."""

    def __init__(self, actor: Any, node: str) -> None:
        self.actor, self.node = actor, node

    @property
    def name(self) -> str:
        """As lines and logs have it."""
        return f"node {self.node[:8]}"


class Crew:
    """The workers of one run: hired, joined, free, lost.

    limit: how many at most; None is what the cluster has room for.
    """

    def __init__(self, ray: Any, needs: Needs, limit: int | None) -> None:
        self._ray, self._needs, self._limit = ray, needs, limit
        self._errors = ray.exceptions
        asked = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "memory": needs.memory or None}
        self._class = ray.remote(**asked, max_restarts=0)(Worker)
        self._parcels = [pack(name, ray.put) for name in needs.worlds]
        self._environment = {name: value for name, value in os.environ.items() if name.startswith("WCSIM_")}
        self.joining: dict[Any, Any] = {}
        self._free: list[Member] = []
        self._members: set[Member] = set()
        self._refused, self._since, self._told = 0, monotonic(), False

    def hire(self, jobs: int) -> None:
        """Ask for workers, up to one per job; says so where none has come for long."""
        want = min(jobs, self._limit or room(self._ray.cluster_resources(), self._needs))
        while len(self._members) + len(self.joining) < want:
            actor = self._class.remote(self._parcels, self._environment, [os.path.abspath(path) for path in sys.path])
            self.joining[actor.node.remote()] = actor
        if not self._members and not self._told and monotonic() - self._since > PATIENCE_S:
            self._told = True
            have = {name: value for name, value in self._ray.cluster_resources().items() if ":" not in name}
            tell(f"no worker yet: each needs {self._needs.cpus:g} CPUs and {self._needs.gpus:g} GPUs; the cluster "
                 f"has {have}")

    def free(self) -> Member | None:
        """A worker without a job, which is then no longer free."""
        return self._free.pop() if self._free else None

    def welcome(self, reference: Any) -> None:
        """A worker has joined, or could not.  ConfigError where that happens `TRIES` times before one could."""
        actor = self.joining.pop(reference)
        try:
            member = Member(actor, self._ray.get(reference))
        except self._errors.RayError as error:
            self._refused += not self._members
            if self._refused >= TRIES and not self._lost_machine(error):
                raise ConfigError(f"no worker can begin: {last_line(error)}") from error
            return
        self._refused, self._told, self._since = 0, False, monotonic()
        self._members.add(member)
        self._free.append(member)

    def collect(self, reference: Any, member: Member, job: Any) -> Done[Any, Any] | None:
        """What came of a job; None where its machine was lost.  A worker that lives is free again."""
        try:
            done: Done[Any, Any] = self._ray.get(reference)
        except self._errors.RayTaskError as error:  # what it gave cannot be sent
            self._free.append(member)
            return Done(job, failed(error), member.name)
        except self._errors.RayError as error:
            self._members.discard(member)
            self._ray.kill(member.actor)
            if self._lost_machine(error, member.node):
                return None
            return Done(job, Failed(f"its worker died: {last_line(error)}"), member.name)
        self._free.append(member)
        return done

    def dismiss(self) -> None:
        """End all workers."""
        for actor in [*self.joining.values(), *(member.actor for member in self._members)]:
            self._ray.kill(actor)

    def _lost_machine(self, error: Exception, node: str = "") -> bool:
        """Whether a worker was lost with its machine."""
        dead = {one["NodeID"] for one in self._ray.nodes() if not one["Alive"]}
        return node in dead or getattr(error, "preempted", False) or "node has died" in str(error)


def room(resources: Mapping[str, float], needs: Needs) -> int:
    """Workers for which a cluster has room, at least one: it may grow."""
    wanted = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": float(needs.memory)}
    return max(1, min(int(resources.get(name, 0.0) / amount) for name, amount in wanted.items() if amount))


def last_line(error: Exception) -> str:
    """The last line of an error that says anything."""
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:300]
