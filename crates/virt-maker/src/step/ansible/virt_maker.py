"""Connection plugin of virt-maker: what a module does, an engine does to the guest that it has open."""

import json
import os
import socket
import struct

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: virt_maker
short_description: a guest that virt-maker has open
description: Runs commands and copies files through the virt-maker that started Ansible.
author: virt-maker
options: {}
"""


class Connection(ConnectionBase):
    transport = "virt_maker"
    has_pipelining = True

    def _connect(self):
        self._connected = True
        return self

    def close(self):
        self._connected = False

    def _ask(self, data=b"", **question):
        """One question a connection: a length and JSON, then bytes; the answer has the same form."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(os.environ["VIRT_MAKER_SOCKET"])
            head = json.dumps(dict(question, bytes=len(data))).encode()
            stream.sendall(struct.pack("<I", len(head)) + head + data)
            with stream.makefile("rb") as answers:
                (length,) = struct.unpack("<I", answers.read(4))
                answer = json.loads(answers.read(length))
                data = answers.read(answer["bytes"])
        if "error" in answer:
            raise AnsibleConnectionFailure(answer["error"])
        return answer, data

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        answer, data = self._ask(in_data or b"", op="run", command=cmd)
        return answer["status"], data[: answer["out"]], data[answer["out"] :]

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        with open(in_path, "rb") as source:
            self._ask(source.read(), op="put", path=out_path)

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        _, data = self._ask(op="get", path=in_path)
        with open(out_path, "wb") as target:
            target.write(data)
