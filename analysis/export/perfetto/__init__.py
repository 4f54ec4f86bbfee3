"""Perfetto's trace format: protobuf messages that its UI and its SQL engine read."""
