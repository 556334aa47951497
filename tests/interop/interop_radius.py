"""A RADIUS server, Debian's freeradius, and what its own client says of it."""

from __future__ import annotations

import hmac
import re
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from string import Template
from typing import Final

import interop_servers
from interop_servers import Server

SECRET: Final = "shared, and kept"
PASSWORDS: Final = {
    "alice": "wonderland",
    "bob": "the builder, of sixteen and some more letters",
    "élodie": "mot de passe: ça va",
    "old": "fogey",
}

_CONFIGURATION = Template("""
raddbdir = $directory
logdir = $directory
run_dir = $directory
db_dir = $directory
pidfile = $directory/pid
# An answer is forgotten at once, and a Reject is not held back.
cleanup_delay = 0
security {
  reject_delay = 0
}
client loopback {
  ipaddr = $host
  secret = "$secret"
  require_message_authenticator = yes
}
modules {
  pap {
  }
  files {
    usersfile = $directory/users
  }
}
server default {
  listen {
    type = auth
    ipaddr = $host
    port = $port
  }
  authorize {
    files
    pap
  }
  authenticate {
    Auth-Type PAP {
      pap
    }
  }
  post-auth {
    # As old servers are: they don't sign.
    if (&User-Name != "old") {
      update reply {
        Message-Authenticator := 0x00
      }
    }
    Post-Auth-Type REJECT {
      update reply {
        Message-Authenticator := 0x00
      }
    }
  }
}
""")


def freeradius(directory: Path, host: str = "127.0.0.1") -> AbstractContextManager[Server]:
    """freeradius that knows a few users and nothing else, with a configuration of its own."""

    def command(port: int, token: str) -> list[str]:
        users = [f'{token} Auth-Type := Accept\n\tReply-Message := "{token}"']
        users += [
            f'{user} Cleartext-Password := "{password}"\n\tReply-Message := "hello, {user}"'
            for user, password in PASSWORDS.items()
        ]
        (directory / "users").write_text("\n".join(users) + "\n", encoding="utf-8")
        text = _CONFIGURATION.substitute(directory=directory, host=host, port=port, secret=SECRET)
        path = interop_servers._write(directory / "radiusd.conf", text)
        return [interop_servers.program("freeradius"), "-f", "-l", "stdout", "-d", str(directory), "-n", path.stem]

    def question(token: str) -> bytes:
        """An Access-Request for who needs no password."""
        name = b"\1" + bytes((2 + len(token),)) + token.encode()
        head = b"\1\0" + (38 + len(name)).to_bytes(2, "big") + token.encode() + b"\x50\x12"
        return head + hmac.digest(SECRET.encode(), head + bytes(16) + name, "md5") + name

    def is_answer(data: bytes, token: str) -> bool:
        return data[0] == 2 and token.encode() in data

    return interop_servers.serving("freeradius", directory, host, 0, interop_servers.Kind(command, question, is_answer))


def told(server: Server, user: str, password: str) -> tuple[str, str]:
    """What freeradius's own client is answered: the kind of packet, and the Reply-Message."""
    done = subprocess.run(
        [interop_servers.program("radclient"), "-x", "-r", "3", "-t", "3", server.at, "auth", SECRET],
        input=f'User-Name="{user}",User-Password="{password}",Message-Authenticator=0x00\n',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    kind = re.search(r"^Received (\S+) Id ", done.stdout, re.MULTILINE)
    message = re.search(r'^\tReply-Message = "(.*)"$', done.stdout, re.MULTILINE)
    assert kind is not None, done
    return kind[1], message[1] if message else ""
