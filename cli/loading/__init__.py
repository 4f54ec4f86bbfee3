"""Read traces in child processes while this one gets ready to show them."""
