/* Nothing of it is needed: see linux/kconfig.h. */
