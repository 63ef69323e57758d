# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a real virtual TPM outlives stops and starts, here and on the other host."""

from __future__ import annotations

import base64

from lab.kvm import KvmHost, KvmLab
from tests.kvm.support.vm1 import CONFIG, agent

TPM = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
#: libvirt's folder of a domain's state, and a file of ours in it.
FOLDER = "/var/lib/libvirt/swtpm/76657370-6572-4000-8000-000000000001/tpm2"
MARK = f"{FOLDER}/mark"
STATE = f"{FOLDER}/tpm2-00.permall"


def has_mark(host: KvmHost) -> bool:
    return host.run_command(f"[ -e {MARK} ] && [ -s {STATE} ]").rc == 0


def test_the_state_of_a_vtpm_stays(cleaned: KvmLab) -> None:
    lab = cleaned
    for host in lab.hosts:
        host.put_file(CONFIG, lab.domain_xml(devices=TPM).encode())
    host, standby = lab.hosts
    # As virt-manager leaves it: stock's and libvirt's own way to lose it is undefine.
    host.run_command(f"virsh define {CONFIG}", check=True)
    try:
        assert agent(host, "start", timeout=90).rc == 0
        host.run_command(f"touch {MARK}", check=True)
        for _ in range(2):
            assert agent(host, "stop", force_stop="true").rc == 0
            assert has_mark(host)
            assert agent(host, "start", timeout=90).rc == 0
            assert has_mark(host)
        # It fails over, and its storage with it.
        host.run_command("virsh destroy vm1", check=True)
        assert agent(host, "monitor").rc == 7
        assert agent(host, "stop").rc == 0
        assert has_mark(host)
        packed = host.run_command(f"tar -cz -C / {FOLDER[1:]} | base64 -w 0", check=True).output
        standby.run_command("tar -xz -C /", stdin=base64.b64decode(packed), check=True)
        assert agent(standby, "start", timeout=90).rc == 0
        assert has_mark(standby)
        assert agent(standby, "stop", force_stop="true").rc == 0
        assert has_mark(standby)
    finally:
        for each in lab.hosts:
            each.run_command("virsh destroy vm1; virsh undefine vm1 --keep-tpm")
            each.run_command(f"rm -rf {FOLDER}")
