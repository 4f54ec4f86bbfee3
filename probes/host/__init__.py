"""What dom0 knows of its Xen host, what a recorder changes there, and how that is taken back."""
