"""Ceph's radosgw on this machine: it checks signatures, rights, conditions and session tokens.

A whole cluster of one monitor, one store in memory and one gateway, from Debian's packages. Everything
listens on 127.0.0.1 and is gone when the tests are.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from started import Started

from prefect_nanobanana.sandbox.s3 import free_port

PACKAGES = "ceph-mon ceph-osd ceph-common radosgw"
START_SECONDS = 60.0
MISSING = [tool for tool in ("ceph-mon", "ceph-osd", "ceph", "radosgw") if shutil.which(tool) is None]

CONFIG = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
ms bind msgr2 = false
ms bind ipv4 = true
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = {memory_bytes}
mon allow pool size one = true
mon data = {home}/mon
osd data = {home}/osd
run dir = {home}
admin socket = {home}/$name.sock
log file = {home}/$name.log
mon cluster log file = {home}/cluster.log
[client.rgw.tests]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {home}/rgw
rgw enable apis = s3, sts
rgw s3 auth use sts = true
rgw sts key = 0123456789abcdef
rgw sts min session duration = 1
"""


class RadosGateway(Started):
    """A cluster of one. Use it as a context manager.

    Args:
        home: A folder of its own.
        memory_bytes: How much it can hold.
    """

    def __init__(self, home: Path, memory_bytes: int = 1024**3) -> None:
        super().__init__()
        self._home = home
        self._memory_bytes = memory_bytes
        self._mon_port, self.port = free_port(), free_port()
        self._config = home / "ceph.conf"

    @property
    def endpoint_url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def user(self, name: str, *caps: str) -> tuple[str, str]:
        """Make a user; returns its access key and its secret key."""
        secret = uuid.uuid4().hex
        command = ["user", "create", f"--uid={name}", f"--display-name={name}"]
        self._admin(*command, f"--access-key={name}", f"--secret-key={secret}", *caps)
        return name, secret

    def role(self, name: str, user: str) -> str:
        """Make a role that a user may assume, and that may do everything; returns its address."""
        trusting = _policy(["sts:AssumeRole"], Principal={"AWS": [f"arn:aws:iam:::user/{user}"]})
        allowing = _policy(["s3:*"], Resource="arn:aws:s3:::*")
        role = f"--role-name={name}"
        self._run("radosgw-admin", "role", "create", role, f"--assume-role-policy-doc={trusting}")
        policy = ["--policy-name=all", f"--policy-doc={allowing}"]
        self._run("radosgw-admin", "role-policy", "put", role, *policy)
        return f"arn:aws:iam:::role/{name}"

    def forget_deleted(self) -> None:
        """Free the memory of deleted objects, which is otherwise done after hours."""
        self._run("radosgw-admin", "gc", "process", "--include-all")

    def _start(self, stack: ExitStack) -> None:
        home = self._home
        for folder in ("mon", "osd", "rgw"):
            (home / folder).mkdir(parents=True)
        fsid = str(uuid.uuid4())
        values = {"fsid": fsid, "home": home, "port": self.port, "mon_port": self._mon_port}
        values["memory_bytes"] = self._memory_bytes
        self._config.write_text(CONFIG.format(**values))
        where = f"[v1:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", where, str(home / "monmap"))
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(home / "monmap"))
        self._spawn(stack, "ceph-mon", "-f", "-i", "a", "--public-addr", f"127.0.0.1:{self._mon_port}")
        osd = str(uuid.uuid4())
        self._when_ready("osd", "new", osd)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        store = self._spawn(stack, "ceph-osd", "-f", "-i", "0")
        self._spawn(stack, "radosgw", "-f", "-n", "client.rgw.tests")
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                httpx.get(self.endpoint_url, timeout=5, trust_env=False)
                return
            except httpx.HTTPError:
                if store.poll() is not None:
                    # It sometimes speaks to the monitor before it knows the cluster ("wrong fsid").
                    store = self._spawn(stack, "ceph-osd", "-f", "-i", "0")
                if time.monotonic() > end:
                    raise RuntimeError(f"radosgw did not start: {self._logs()}") from None
                time.sleep(0.2)

    def _spawn(self, stack: ExitStack, *command: str) -> subprocess.Popen[bytes]:
        with (self._home / "processes.log").open("a") as log:
            process = subprocess.Popen(
                [command[0], "-c", str(self._config), *command[1:]], stdout=log, stderr=log
            )
        stack.callback(process.wait, 20)
        stack.callback(process.kill)
        return process

    def _run(self, tool: str, *arguments: str) -> str:
        command = [tool, *(() if tool == "monmaptool" else ("-c", str(self._config))), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS)
        if done.returncode:
            raise RuntimeError(f"{tool} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def _when_ready(self, *arguments: str) -> None:
        """Tell the monitor something; on a busy machine it answers before it is ready (EPERM)."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                self._run("ceph", "--connect-timeout", "60", *arguments)
                return
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)

    def _admin(self, *arguments: str) -> dict[str, Any]:
        return dict(json.loads(self._run("radosgw-admin", *arguments)))

    def _logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in self._home.glob("*.log"))


def _policy(actions: list[str], **more: Any) -> str:
    statement = {"Effect": "Allow", "Action": actions, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
