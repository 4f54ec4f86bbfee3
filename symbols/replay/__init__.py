"""Sites as loops that can be timed, proven to access only private memory."""
