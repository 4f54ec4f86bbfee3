# The Xen lab: tests/lab/README.md.  Everything else is in ./run.
# FULL=1 uses the image with Debian's userland, bcc and kernel headers.
LAB = PYTHONPATH=tests python3 -m lab
SIZE = $(if $(FULL),full)

.PHONY: lab-needs lab-image lab lab-quick lab-shell lab-run lab-repeat accuracy-delivery nightly soak ends zipapp lock lock-tools mutants mutants-page

# What checks need: the environment of ./run with xenalyze, a compiler and QEMU, and apt's package lists.
lab-needs:
	@XTRACE_REQUIRE_PEERS=1 ./run test --version >/dev/null
	@apt-cache show xen-hypervisor-4.17-amd64 >/dev/null 2>&1 || apt-get -qq update

# The full image contains the wheel, which is installed with the environment's pip.
lab-image lab-shell lab-run: $(if $(FULL),lab-needs)

lab-image:
	@$(LAB) image $(SIZE)

# make lab [SCENARIOS="dom0 pv"]
lab: lab-needs
	@$(LAB) run $(SCENARIOS)

# The reliable part, for each change: the image, one run, its checks.
lab-quick: lab-needs
	@$(LAB) quick

lab-shell:
	@$(LAB) shell $(SIZE)

# make lab-run CMD='xl info'
lab-run:
	@$(LAB) command $(SIZE) '$(subst ','\'',$(value CMD))'

# make lab-repeat [TIMES=20] [SCENARIOS=quick]
lab-repeat: lab-needs
	@$(LAB) repeat $(or $(TIMES),20) $(or $(SCENARIOS),quick)

# docs/accuracy-delivery.md: what is inferred, held against a Xen that records event delivery; 5 minutes
EVENTS = own-lfence own-none pv pvh sched-null smp lost
accuracy-delivery: lab-needs
	@$(LAB) run-only $(EVENTS:%=events-%)
	@PYTHONPATH=tests .venv/bin/python -m lab.accuracy --write \
		$(foreach name,$(EVENTS:%=events-%),$${XTRACE_LAB_RESULTS:-build/lab}/$(name)/$(name).bin)

# What takes too long for each change: every test, including those marked nightly, more damaged traces and images,
# all scenarios.  Timeouts are raised, so that they catch a hang and not a long fuzzing run.
nightly: lab-needs
	XTRACE_REQUIRE_PEERS=1 XTRACE_FUZZ_CASES=$(or $(XTRACE_FUZZ_CASES),200000) \
	XTRACE_INTACT_CASES=$(or $(XTRACE_INTACT_CASES),1000000) \
	XTRACE_PROOF_CASES=$(or $(XTRACE_PROOF_CASES),7000) \
	XTRACE_FUZZ_IMAGES=$(or $(XTRACE_FUZZ_IMAGES),5000) \
	XTRACE_FUZZ_FORMS=$(or $(XTRACE_FUZZ_FORMS),200000) XTRACE_FUZZ_SEQUENCES=$(or $(XTRACE_FUZZ_SEQUENCES),200000) \
	./run test -n auto --maxprocesses 8 --dist worksteal -m 'nightly or not nightly' \
		-o timeout=7200 -o faulthandler_timeout=8000
	@$(LAB) run
	@$(MAKE) --no-print-directory soak SECONDS=$(or $(SECONDS),3600)

# make soak [SECONDS=3600] [KINDS=traces,live]: damage inputs of every kind; goes on where it was stopped.  docs/reliability.md
soak:
	@./run test --version >/dev/null
	@PYTHONPATH=tests .venv/bin/python -m soak --seconds $(or $(SECONDS),3600) $(if $(KINDS),--kinds $(KINDS))

# make ends [KILLS=1000] [DISKS=200]: end real recordings badly, as root; goes on where it was stopped.  docs/reliability.md
ends:
	@XTRACE_REQUIRE_PEERS=1 ./run test --version >/dev/null
	@PYTHONPATH=tests .venv/bin/python -m soak.ends kill $(or $(KILLS),1000)
	@PYTHONPATH=tests .venv/bin/python -m soak.ends disk $(or $(DISKS),200)
	@PYTHONPATH=tests .venv/bin/python -m soak.ends page

# build/xtrace.pyz: a single file that records on a dom0.
zipapp:
	@.venv/bin/python tools/zipapp.py

lock-tools:
	@./run test --version >/dev/null
	@.venv/bin/python -m pip install --quiet --require-hashes --no-build-isolation --requirement tools/lock/tools.txt

# make lock [NEWEST=1]: renew tools/lock/*.txt after a change of pyproject.toml, or with the newest versions.
lock: lock-tools
	@.venv/bin/python tools/lock/renew.py $(if $(NEWEST),--newest)

# make mutants [MODULES="symbols/sites/verdict.py"] [AGAIN=1]: takes hours, resumes where it stopped.  docs/mutants.md
mutants: lock-tools
	@PYTHONPATH=tools .venv/bin/python -m mutants $(if $(AGAIN),--again) $(MODULES)

mutants-page:
	@PYTHONPATH=tools .venv/bin/python -m mutants --page
