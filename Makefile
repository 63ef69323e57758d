# SPDX-License-Identifier: GPL-2.0-or-later
#
# Two commands do everything on a fresh Debian 12 as root:
#   make demo    make test

VERSION := $(shell sed -n 's/^version = //p' setup.cfg)
# Debian's own interpreter: production code runs with it and its packages.
PYTHON  := /usr/bin/python3
VENV    := build/venv
RUNS    ?= 5
MINUTES ?= 60
ROUNDS  ?= 200
# Which hypervisor the demo and the evaluation are for: xen, kvm.
VMM     ?= xen
MIGRATIONS ?= 20
HOURS   ?= 1
# Of guest, for the soak: pv, pvh.
KIND    ?= pvh
STOPS   ?= 50
# s of each storm in a guest.
STORM   ?= 60
CORRUPTIONS ?= 10000
XEN_CORRUPTIONS ?= 1000
FUZZ_RUNS ?= 10000000
# Clients that only read, beside the load of bench-load.
READERS ?= 0
DESTDIR ?=

PYLIB   := $(DESTDIR)/usr/lib/python3/dist-packages
SRC     := $(DESTDIR)/usr/src/vesper-$(VERSION)
AGENTS  := $(DESTDIR)/usr/lib/ocf/resource.d/vesper
# Where the library is made, beside its place.
NEW     := $(PYLIB)/.vesper-new

# What the labs, the tests and the module build need on this machine.  The
# cluster stack and Xen are not among it: they live in the labs' own images.
# libxenmisc4.17 has Xen's reader of xl.cfg, with which ours is compared.
DEBIAN_PACKAGES := \
	binutils btrfs-progs busybox-static cpio e2fsprogs gcc iproute2 kmod libc6-dev \
	libelf1 libxenmisc4.17 libxml2-utils locales lz4 make man-db mmdebstrap perl procps \
	python3-libvirt python3-lxml python3-psutil python3-pyxs python3-setuptools python3-venv \
	qemu-system-x86 qemu-utils systemd util-linux xfsprogs xz-utils zstd

.PHONY: help deps demo evaluate compare test test-quick test-debug test-kernels \
	test-kernel-variants lint fuzz chaos chaos-cluster failpoints \
	migrations soak stops storms hostile bench-cluster bench-kvm bench-liveness bench-load bench-monitor \
	bench-neighbour bench-probes bench-quiet bench-slowdown modules install install-files clean

help:
	@echo 'VESPER $(VERSION): fault events from inside virtual machines for Pacemaker'
	@echo
	@echo 'Try it:'
	@echo '  make demo            two hosts, two faults, stock agent and VESPER (VMM=xen or kvm)'
	@echo '  make evaluate        the whole evaluation (VMM=, RUNS=5 of each)'
	@echo '  make compare         the stock agent against ours on Xen, fault by fault'
	@echo
	@echo 'Install:'
	@echo '  make modules         build the guest modules for KDIR (default: the running kernel)'
	@echo '  make install         install on a host (DESTDIR=)'
	@echo
	@echo 'After each change:'
	@echo '  make lint            ruff, mypy --strict, import contracts, checkpatch, man pages'
	@echo '  make test-quick      the tests that need no lab (some boot a guest in QEMU)'
	@echo '  make test            lint and every test'
	@echo
	@echo 'After changes of guest modules:'
	@echo '  make test-kernels    boot each kernel that Debian has now with every probe (docs/kernels.md)'
	@echo '  make test-kernel-variants  kernels with one CPU and no Xen, and with kCFI (builds them)'
	@echo '  make test-debug      tests of the guest under lockdep and KASAN (builds a kernel; 30 minutes)'
	@echo '  make storms          a guest in storms of signals and OOM kills (STORM=60 s each)'
	@echo '  make hostile         guests corrupt all shared memory (CORRUPTIONS=10000 XEN_CORRUPTIONS=1000)'
	@echo
	@echo 'After changes of vesperd or the agents:'
	@echo '  make fuzz            random bytes into every reader of foreign data (FUZZ_RUNS=10000000)'
	@echo '  make failpoints      end vesperd and the agent at every await, rename and commit, in turn'
	@echo '  make chaos           kill vesperd at random; no fault may be lost or doubled (ROUNDS=500)'
	@echo '  make chaos-cluster   kill or cut off parts of clusters with fencing (ROUNDS=200)'
	@echo '  make migrations      live migrations under Pacemaker (MIGRATIONS=20)'
	@echo '  make soak            hours of benign events on Xen, with some faults (HOURS=1 KIND=pvh)'
	@echo '  make stops           stop faulty guests on busy hosts; none may fail (STOPS=50)'
	@echo
	@echo 'Measure:'
	@echo '  make bench-cluster   time from the event to the stop, against a bare waiting monitor'
	@echo '  make bench-probes    cost of a hit of each probe, against ftrace and bpftrace'
	@echo '  make bench-slowdown  a guest with every probe against one with none'
	@echo '  make bench-liveness  how soon hangs are found, and false alarms (ROUNDS=200)'
	@echo '  make bench-quiet     heavy normal use, which must raise no fault (MINUTES=60)'
	@echo '  make bench-load      one vesperd with 1000 guests: CPU, memory, delays (READERS=0)'
	@echo '  make bench-neighbour effect of a hostile guest on the events of a healthy one'
	@echo '  make bench-monitor   CPU time of watching a VM on Xen, stock agent against ours'
	@echo '  make bench-kvm       the link to a guest on QEMU: round trips, records per second'
	@echo
	@echo '  make clean           remove what was built here (the labs keep their images)'
	@echo
	@echo 'The labs: python3 -m lab --help'

# Install only what is missing, so that a second run needs no network.
deps:
	@missing=$$(for p in $(DEBIAN_PACKAGES); do \
		dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		echo "installing:" $$missing; \
		apt-get -q update && DEBIAN_FRONTEND=noninteractive \
			apt-get -q -y --no-install-recommends install $$missing; \
	fi

$(VENV)/ready: tests/requirements.txt
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(VENV)/bin/pip install -q --disable-pip-version-check -r $<
	touch $@

demo: deps
	$(PYTHON) -m lab.evaluation demo --vmm $(VMM)

evaluate: deps
	$(PYTHON) -m lab.evaluation evaluate --vmm $(VMM) --runs $(RUNS)

compare: deps
	$(PYTHON) -m lab.evaluation compare

test: deps lint
	$(VENV)/bin/python -m pytest --no-skips -n 2 --durations=20

test-quick: $(VENV)/ready
	$(VENV)/bin/python -m pytest -m 'not cluster and not xen and not kvm'

lint: deps $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo --cache-dir build/import-linter
	$(PYTHON) -m lab.images.checkpatch $$(find probe_modules *_transport tests bench -name build -prune -o \
		-name '*.[chS]' -print)
	@for page in docs/man/*; do \
		LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z $$page 2>&1 >/dev/null | \
			sed "s|^|$$page: |" | { ! grep .; } || exit 1; done

fuzz: $(VENV)/ready
	$(VENV)/bin/python -m tests.fuzz --runs $(FUZZ_RUNS)

chaos: ROUNDS := 500
chaos: $(VENV)/ready
	$(VENV)/bin/python -m tests.chaos --rounds $(ROUNDS)

failpoints: $(VENV)/ready
	$(VENV)/bin/python -m tests.failpoints

chaos-cluster: deps $(VENV)/ready
	$(VENV)/bin/python -m tests.chaos.cluster --rounds $(ROUNDS)

migrations: deps $(VENV)/ready
	VESPER_MIGRATIONS=$(MIGRATIONS) $(VENV)/bin/python -m pytest -s tests/kvm/test_migration.py \
		tests/xen/fault_in_migration.py

soak: ROUNDS = 0
soak: deps $(VENV)/ready
	$(VENV)/bin/python -m tests.xen.support.soak --hours $(HOURS) --rounds $(ROUNDS) --kind $(KIND)

stops: deps $(VENV)/ready
	VESPER_STOPS=$(STOPS) $(VENV)/bin/python -m pytest -s tests/xen/test_stops.py \
		tests/kvm/test_stops.py

storms: deps $(VENV)/ready
	VESPER_STORMS=$(STORM) $(VENV)/bin/python -m pytest -s tests/kernel/test_storms.py

hostile: deps $(VENV)/ready
	VESPER_CORRUPTIONS=$(CORRUPTIONS) $(VENV)/bin/python -m pytest -s tests/kernel/test_hostile_guest.py
	VESPER_CORRUPTIONS=$(XEN_CORRUPTIONS) $(VENV)/bin/python -m pytest -s tests/xen/hostile.py

test-kernels: deps $(VENV)/ready
	VESPER_KERNELS=all $(VENV)/bin/python -m pytest --no-skips -s --durations=0 tests/kernel/test_kernels.py

test-kernel-variants: deps $(VENV)/ready
	$(VENV)/bin/python -m pytest --no-skips -s --durations=0 tests/kernel/kernel_variants.py

# Not test_kernels.py, which is about other kernels.  Left out by name: KASAN makes another
# oops of a null pointer, and the kernel has virtio_net built in.
test-debug: deps $(VENV)/ready
	VESPER_KERNEL=debug $(VENV)/bin/python -m pytest tests/kernel --ignore tests/kernel/test_kernels.py \
		-k 'not (test_lockup_and_die_record or test_oopses_leave or test_net_link_records)'

bench-cluster: deps
	$(PYTHON) -m bench.cluster

bench-probes: deps
	$(PYTHON) -m bench.probes

bench-liveness: deps
	$(PYTHON) -m bench.liveness --rounds $(ROUNDS)

bench-monitor: deps
	$(PYTHON) -m bench.monitor

bench-slowdown: deps
	$(PYTHON) -m bench.slowdown

bench-quiet: deps
	$(PYTHON) -m bench.quiet --minutes $(MINUTES)

bench-kvm: deps
	$(PYTHON) -m bench.kvm

bench-load: deps
	$(PYTHON) -m bench.load --readers $(READERS)

bench-neighbour: deps
	$(PYTHON) -m bench.neighbour

modules:
	$(MAKE) -C probe_modules

install:
	umask 022 && $(MAKE) --no-print-directory install-files

# Agents and commands run meanwhile: the library is made beside its place, and each package is
# moved there as a whole.  The agents come last, and each file of theirs at once.  Entry points
# of another version must go: of two, Python takes those that it happens to find first.
install-files:
	install -d build  # setup.cfg has setuptools write there
	install -d $(PYLIB) $(DESTDIR)/usr/sbin $(SRC) $(AGENTS)
	rm -rf $(NEW)
	$(PYTHON) -c 'import setuptools; setuptools.setup()' -q build --build-base $(NEW)/build \
		install --root $(NEW) --install-layout=deb --no-compile \
		--single-version-externally-managed
	cd $(NEW)/usr/lib/python3/dist-packages && \
		stat -c '%s %n' vesper_monitor/*.py vesper_monitor/ocf/*.py vesper_monitor/ocf/*/*.py \
			vesper_monitor/util/*.py vesper_monitor/hypervisor/*.py vesper_monitor/rules/*.py \
			vesper_monitor/knowledge/*.py vesper_monitor/guest/__init__.py \
			vesper_monitor/guest/abi.py vesper_monitor/guest/abi_layout.py \
			vesper_monitor/guest/event.py vesper_monitor/guest/printable.py \
			vesper_monitor/guest/process_origin.py vesper_monitor/guest/relay/__init__.py \
			vesper_monitor/guest/record_layout.py \
			vesper_monitor/guest/record_types.py \
			>vesper_monitor/installed-sizes
	chmod -R u=rwX,go=rX $(NEW)  # setuptools keeps the modes of a checkout
	for new in $(NEW)/usr/lib/python3/dist-packages/*; do \
		place=$(PYLIB)/$${new##*/} && old=$(NEW)/old-$${new##*/} && \
		{ [ ! -e $$place ] || mv -T $$place $$old; } && mv -T $$new $$place || exit 1; done
	find $(PYLIB) -maxdepth 1 -name 'vesper-[0-9]*.egg-info' \
		! -name 'vesper-$(VERSION)[.-]*egg-info' -exec rm -r {} +
	rm -rf $(NEW)
	for file in fallback_call.py fallback_toolstacks.py fallback_actions.py XenVM LibvirtVM; do \
		install -m $$([ -x ocf/$$file ] && echo 755 || echo 644) ocf/$$file $(AGENTS)/.new && \
		mv $(AGENTS)/.new $(AGENTS)/$$file || exit 1; done
	install -m 755 vesper_monitor/bin/vesper vesper_monitor/bin/vesperd $(DESTDIR)/usr/sbin/
	install -m 755 kvm_transport/bin/vesper-ivshmem $(DESTDIR)/usr/sbin/
	install -D -m 644 vesper_monitor/vesperd.service $(DESTDIR)/lib/systemd/system/vesperd.service
	install -m 644 kvm_transport/vesper-ivshmem.service $(DESTDIR)/lib/systemd/system/
	install -D -m 644 ocf/libvirt.conf \
		$(DESTDIR)/lib/systemd/system/resource-agents-deps.target.d/vesper-libvirt.conf
	install -D -m 644 vesper_monitor/vesperd.toml $(DESTDIR)/usr/share/doc/vesper/vesperd.toml
	for page in $(wildcard docs/man/*.[1-8]); do \
		install -D -m 644 $$page $(DESTDIR)/usr/share/man/man$${page##*.}/$${page##*/}; done
	install -d -m 755 $(DESTDIR)/var/lib/vesper/probes $(DESTDIR)/usr/share/vesper \
		$(DESTDIR)/etc/vesper/knowledge.d
	ln -sfn /usr/lib/python3/dist-packages/vesper_monitor/knowledge \
		$(DESTDIR)/usr/share/vesper/knowledge
	cp -r --parents $$(git ls-files probe_modules *_transport/guest 2>/dev/null || \
		find probe_modules *_transport/guest -name build -prune -o -type f -print) $(SRC)/
	install -m 644 probe_modules/dkms.conf $(SRC)/dkms.conf
	chmod -R u=rwX,go=rX $(SRC)

clean:
	rm -rf build probe_modules/build
	find . -name __pycache__ -prune -exec rm -rf {} +
