import sys,time
from pathlib import Path
from lab import images
from lab.images import debian_guest
from tests.guest.build import build
from tests.guest.machine import machine
from tests.guest.debian import INIT
import tempfile
k=images.kernel()
files=build(k)
d=Path(tempfile.mkdtemp())
gf=[p for p in files if p.suffix!='.ko' or p.stem in {"vesper","vsp_ram"}]
try:
  with machine(k,gf,d,memory=512<<20,modules=debian_guest.BOOT_MODULES,frontend="vsp_ram",init=INIT,
    cmdline="rw", qemu=["-drive",f"file={debian_guest.disk()},format=raw,snapshot=on,if=none,id=disk","-device","virtio-blk-pci,drive=disk",
    "-chardev",f"socket,id=login,path={d/'login'},server=on,wait=off","-serial","chardev:login"]) as m:
    m.tell("mkdir -p /run/systemd/system/httpd.service.d; printf '[Service]\\nExecStop=/bin/sleep 25\\n' >/run/systemd/system/httpd.service.d/x.conf; systemctl daemon-reload; systemd-run -p DefaultDependencies=no sh -c 'while :; do sleep 3; echo; echo UP $(cut -d\" \" -f1 /proc/uptime): $(ps -eo pid,comm,ppid --ppid 2 -N | tr \"\\n\" \" \") ; done >/dev/console'; sleep 4; echo done1")
    m.wait_said("done1",60)
    m.tell("systemctl poweroff")
    m.process.wait(90)
    print(m.console[-9000:])
except AssertionError as e:
    print(str(e)[-6000:])
