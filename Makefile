# The Xen lab: tests/lab/README.md.  All else is ./run.
# FULL=1 is for the image with Debian's userland, bcc and kernel headers.
LAB = PYTHONPATH=tests python3 -m lab
SIZE = $(if $(FULL),full)

.PHONY: lab-image lab lab-quick lab-shell lab-run lab-repeat

lab-image:
	@$(LAB) image $(SIZE)

# make lab [SCENARIOS="dom0 pv"]
lab:
	@$(LAB) run $(SCENARIOS)

lab-quick:
	@$(LAB) quick

lab-shell:
	@$(LAB) shell $(SIZE)

# make lab-run CMD='xl info'
lab-run:
	@$(LAB) command $(SIZE) '$(subst ','\'',$(value CMD))'

# make lab-repeat [TIMES=20] [SCENARIOS=quick]
lab-repeat:
	@$(LAB) repeat $(or $(TIMES),20) $(or $(SCENARIOS),quick)
