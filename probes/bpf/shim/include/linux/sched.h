/* Intentionally empty: see linux/kconfig.h. */
