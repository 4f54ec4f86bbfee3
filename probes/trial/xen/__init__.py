"""A domain as the target of a trial, through the libraries of Xen."""
