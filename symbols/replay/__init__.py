"""Sites as loops that can be timed, proven to touch nothing but their own memory."""
