"""The stores of the compose file without a container engine: their commands, volumes, secrets and names, in namespaces.

Each service has a loopback address in a network of their own, a root of this machine's programs and nothing else, and
its volume at /data. Knows the compose file and Linux; knows nothing of keys.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.deployment.manifests import DOCKER, MAKE_SECRETS, compose

PATH = f"{os.defpath}:/usr/sbin:/sbin"
ADDRESSES = {
    "redis": "127.0.0.2",
    "redis-replica": "127.0.0.3",
    **{f"sentinel-{number}": f"127.0.0.1{number}" for number in (1, 2, 3)},
}
NETWORK = """
mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up
mount --bind "$FOLDER/hosts" /etc/hosts
echo ready
exec sleep infinity
"""
SERVICE = """
mount -t tmpfs tmpfs "$ROOT" && cd "$ROOT"
mkdir -p usr proc dev etc/sdb-redis run/secrets data tmp
ln -s usr/bin usr/lib usr/sbin .
[ ! -e /lib64 ] || ln -s usr/lib64 .
mount --rbind /usr usr
mount --rbind /proc proc
mount --rbind /dev dev
mount --bind "$SCRIPTS" etc/sdb-redis
cp /etc/hosts etc/hosts
cp "$SECRETS"/* run/secrets
mount --bind "$VOLUME" data
exec chroot . setpriv --reuid 999 --regid 999 --clear-groups --no-new-privs "$@"
"""


class Stage:
    """A network that holds the services; what is killed or stopped in it is of no other process."""

    def __init__(self, folder: Path, network: int) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._enter = ["nsenter", "--target", str(network), "--net", "--mount", "--pid"]

    def start(self, name: str) -> None:
        """What the compose file runs as this service, at its address."""
        volume = self._folder / "volumes" / name
        volume.mkdir(parents=True, exist_ok=True)
        os.chown(volume, 999, 999)
        command = [*compose()["services"][name]["command"], f"bind {ADDRESSES[name]}"]
        paths = {"ROOT": self._folder / "root", "SCRIPTS": DOCKER / "redis", "SECRETS": self.secrets, "VOLUME": volume}
        with (self._folder / f"{name}.log").open("ab") as log:
            service = subprocess.Popen(  # noqa: S603
                [*self._enter, "unshare", "--mount", "sh", "-euc", SERVICE, "sh", *command],
                env={"PATH": PATH} | {variable: str(path) for variable, path in paths.items()},
                stdout=log,
                stderr=log,
            )
        self._started.append(service)

    def ended(self) -> None:
        """Return when all that was started has ended; who ends the network ends all of it."""
        for service in self._started:
            service.wait()

    @property
    def secrets(self) -> Path:
        """The folder that docker/make-secrets has made."""
        return self._folder / "secrets"

    def run(self, *command: str, **variables: str) -> str:
        """What a program in that network prints; empty if it fails."""
        environment = {"PATH": PATH, **variables}
        done = subprocess.run([*self._enter, *command], env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        return done.stdout if done.returncode == 0 else ""

    def ask(self, name: str, *question: str) -> str:
        """What a store, or a Sentinel, answers."""
        if name.startswith("sentinel"):
            return self.run("redis-cli", "-h", name, "-p", "26379", *question)
        password = (self.secrets / "redis_password").read_text().strip()
        return self.run("redis-cli", "-h", name, *question, REDISCLI_AUTH=password)

    def kill(self, name: str) -> None:
        """As the kernel, or a power cut, would."""
        found = dict(line.split(":", 1) for line in self.ask(name, "INFO", "server").splitlines() if ":" in line)
        self.run("sh", "-c", f"kill -KILL {int(found['process_id'])}")


@contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """An empty stage with secrets for the profile `ha`.

    Raises:
        PermissionError: this user, or this machine, may have no namespaces.
    """
    subprocess.run([MAKE_SECRETS, folder / "secrets", "ha"], check=True)  # noqa: S603
    (folder / "root").mkdir()
    (folder / "hosts").write_text("".join(f"{address} {name}\n" for name, address in ADDRESSES.items()))
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", NETWORK]
    environment = {"PATH": PATH, "FOLDER": str(folder)}
    holder = subprocess.Popen(unshare, env=environment, stdout=subprocess.PIPE)  # noqa: S603
    with holder, ExitStack() as stack:
        stack.callback(holder.kill)
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise PermissionError("no namespaces of our own")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        running = Stage(folder, int(children[0]))
        stack.callback(running.ended)
        stack.callback(holder.kill)
        yield running
