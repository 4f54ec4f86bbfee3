"""Rules on when vCPUs run: waits, shares, pauses, migrations."""
